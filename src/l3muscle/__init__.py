"""L3 Muscle: an executable edition of McSweeney et al. 2022, and the segmenter that its finding makes possible."""

__version__ = "0.2.0"
