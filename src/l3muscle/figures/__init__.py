"""One function a figure: tables or images in, a matplotlib figure out.

Figures are made without pyplot, so that they leave no state behind and can be drawn in any thread. They are drawn on a
light ground; for a dark page `l3muscle.book.theme` exchanges their colours. Each is drawn for the width of a page and,
when a notebook shows it, once more for a narrow screen (`l3muscle.figures.look.PageFigure`).
"""

from l3muscle.figures.agreement import (
    bland_altman,
    distance_definitions,
    distance_readings,
    observer_agreement,
    p_value_matrices,
)
from l3muscle.figures.benchmarks import accuracy_at_budget, contrast_curves, forecast_and_measured, ratio_chart, stars
from l3muscle.figures.cohorts import against_reference, hu_histogram, hu_shares, split_map
from l3muscle.figures.curves import accuracy_curve, learning_curve, source_curve, training_curves
from l3muscle.figures.images import (
    Panel,
    bone_removal,
    contact_sheet,
    error_maps,
    image_grid,
    outlines,
    picture,
    puzzles,
    reconstructions,
    training_so_far,
)
from l3muscle.figures.look import (
    FAINT,
    INK,
    METRIC_LABELS,
    NARROW_DRAWING,
    OUTLINE_COLOURS,
    PAPER,
    SAID,
    TASK_STYLE,
    PageFigure,
    in_two_widths,
    new_figure,
    not_run,
    page_width,
    style,
    svg_text,
)

__all__ = [
    "FAINT",
    "INK",
    "METRIC_LABELS",
    "NARROW_DRAWING",
    "OUTLINE_COLOURS",
    "PAPER",
    "SAID",
    "TASK_STYLE",
    "PageFigure",
    "Panel",
    "accuracy_at_budget",
    "accuracy_curve",
    "against_reference",
    "bland_altman",
    "bone_removal",
    "contact_sheet",
    "contrast_curves",
    "distance_definitions",
    "distance_readings",
    "error_maps",
    "forecast_and_measured",
    "hu_histogram",
    "hu_shares",
    "image_grid",
    "in_two_widths",
    "learning_curve",
    "new_figure",
    "not_run",
    "observer_agreement",
    "outlines",
    "p_value_matrices",
    "page_width",
    "picture",
    "puzzles",
    "ratio_chart",
    "reconstructions",
    "source_curve",
    "split_map",
    "stars",
    "style",
    "svg_text",
    "training_curves",
    "training_so_far",
]
