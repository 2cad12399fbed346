"""One function a figure: tables or images in, a matplotlib figure out.

Figures are made without pyplot, so that they leave no state behind and can be drawn in any thread. They are drawn on a
light ground; for a dark page `l3muscle.theme` exchanges their colours.
"""

from l3muscle.figures.agreement import (
    bland_altman,
    distance_definitions,
    distance_readings,
    observer_agreement,
    p_value_matrices,
)
from l3muscle.figures.cohorts import against_reference, hu_histogram, hu_shares, split_map
from l3muscle.figures.curves import accuracy_curve, learning_curve, source_curve, training_curves
from l3muscle.figures.images import (
    bone_removal,
    contact_sheet,
    error_maps,
    image_grid,
    outlines,
    puzzles,
    reconstructions,
)
from l3muscle.figures.look import FAINT, INK, METRIC_LABELS, OUTLINE_COLOURS, PAGE_WIDTH_IN, PAPER, TASK_STYLE, not_run

__all__ = [
    "FAINT",
    "INK",
    "METRIC_LABELS",
    "OUTLINE_COLOURS",
    "PAGE_WIDTH_IN",
    "PAPER",
    "TASK_STYLE",
    "accuracy_curve",
    "against_reference",
    "bland_altman",
    "bone_removal",
    "contact_sheet",
    "distance_definitions",
    "distance_readings",
    "error_maps",
    "hu_histogram",
    "hu_shares",
    "image_grid",
    "learning_curve",
    "not_run",
    "observer_agreement",
    "outlines",
    "p_value_matrices",
    "puzzles",
    "reconstructions",
    "source_curve",
    "split_map",
    "training_curves",
]
