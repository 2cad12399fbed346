"""The study in four pictures, for the front page: a slice, what is learned first, the few outlines, the test."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from l3muscle.book.predictions import one_model_a_cell
from l3muscle.cohort import Cohort
from l3muscle.figures import Panel, picture
from l3muscle.pretext.fractals import draw_fractals, draw_systems
from l3muscle.pretext.scenes import draw_scenes
from l3muscle.study import StudyResults

STEPS = ("slices", "source-tasks", "few-outlines", "test")
SHAPE = (96, 128)  # of generated images, pixels
FEW = 4  # slices that stand for a training set


def _panel(cohort: Cohort, patient: str, masks: Mapping[str, np.ndarray] | None = None) -> Panel:
    """A patient's slice with the expert's outline and others."""
    place = cohort.index(patient)
    across, down = cohort.spacing[place, 1], cohort.spacing[place, 0]
    return Panel(cohort.images[place], float(down / across), {"expert": cohort.masks[place], **(masks or {})})


def _grey(image: np.ndarray) -> Panel:
    """An image in [0, 1] in place of a slice."""
    return Panel(image * 400.0 - 150.0)


def _learned_first(results: StudyResults) -> list[Panel]:
    """An example of each source task that this run can show; of published weights there is none."""
    panels = []
    settings, generator = results.profile.sources, torch.Generator().manual_seed(3)
    if results.source_kind("classification") == "procedural":
        maps, chances = draw_systems(1, generator=generator)
        points = settings.procedural_classification.points
        panels.append(_grey(draw_fractals(maps, chances, SHAPE, points=points, generator=generator)[0, 0].numpy()))
    if results.source_kind("segmentation") == "procedural":
        own = settings.procedural_segmentation
        images, _ = draw_scenes(
            1, SHAPE, classes=own.classes, shapes_per_scene=own.shapes_per_scene, generator=generator
        )
        panels.append(_grey(images[0, 0].numpy()))
    given = results.source_examples("reconstruction")
    if given is not None:
        panels.append(_grey(given["output"][0]))
    given = results.source_examples("jigsaw")
    if given is not None:
        tiles = given["tiles"][0]
        rows = [np.concatenate(list(tiles[row : row + 3]), axis=1) for row in range(0, len(tiles), 3)]
        panels.append(_grey(np.concatenate(rows)))
    return panels


def step_pictures(results: StudyResults) -> dict[str, Figure]:
    """A small picture for each of the study's four steps, by the names in `STEPS`.

    Parameters
    ----------
    results : StudyResults
        With at least one finished experiment.
    """
    cohort, splits = results.cohort(), results.splits()
    trained = splits.training_ids(0, 0, min(FEW, len(splits.orders[0][0])))
    experiment = max(one_model_a_cell(results), key=lambda one: one.n_train)
    scores = results.scores()
    own = scores[(scores[list(vars(experiment))] == list(vars(experiment).values())).all(axis=1)]
    ranked = own.sort_values("dice").reset_index(drop=True)
    patient = ranked.loc[len(ranked) // 2, "patient_id"]
    mask = results.predictions(experiment)[splits.test_ids.index(patient)]
    others = {**cohort.observers.get(patient, {}), **({"prediction": mask} if mask.any() else {})}
    panels = (
        [_panel(cohort, splits.folds[0][0])],
        _learned_first(results) or [Panel(cohort.images[0])],
        [_panel(cohort, one) for one in trained],
        [_panel(cohort, patient, others)],
    )
    return {name: picture(part) for name, part in zip(STEPS, panels, strict=True)}
