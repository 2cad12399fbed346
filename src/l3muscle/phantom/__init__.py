"""The phantom: bodies drawn from published anatomy, scanned and outlined by simulated observers, written as DICOM."""

PHANTOM_VERSION = 2  # goes up when the same seed no longer gives the same images or outlines
