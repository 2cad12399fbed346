"""From a few outlined slices of one's own to a segmenter: checks, cross-validated fine-tuning, an ensemble."""
