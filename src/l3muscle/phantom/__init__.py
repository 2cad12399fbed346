"""The phantom: bodies drawn from published anatomy, scanned and outlined by simulated observers, written as DICOM."""

# Part of a phantom's identity: raise it when a change of code changes what is drawn.
PHANTOM_VERSION = 1
