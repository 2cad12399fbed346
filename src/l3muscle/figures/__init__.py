"""One function a figure: tables or images in, a matplotlib figure out, drawn with seaborn where it reaches."""

from l3muscle.figures.agreement import (
    bland_altman,
    distance_definitions,
    distance_readings,
    observer_agreement,
    p_value_matrices,
)
from l3muscle.figures.cohorts import against_reference, hu_histogram, hu_shares, split_map
from l3muscle.figures.curves import accuracy_curve, held_out_curve, learning_curve, source_curve, training_curves
from l3muscle.figures.images import (
    bone_removal,
    contact_sheet,
    error_maps,
    image_grid,
    outlines,
    puzzles,
    training_batch,
)
from l3muscle.figures.style import TASK_STYLE, BookFigure, new_figure, show_as_svg, style, svg_text
