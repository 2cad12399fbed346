"""Own scans: train a segmenter on a few outlined slices, apply it, and say which outlines to review first."""
