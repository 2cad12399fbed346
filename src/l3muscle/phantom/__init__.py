"""The phantom: bodies drawn from published anatomy, scanned and outlined by simulated observers, written as DICOM."""
