"""Source tasks: what a network learned before it saw muscle (Section 2.2). `SOURCE_TASKS` is the one list of them.

A further source task is a module like `l3muscle.pretext.jigsaw` (its settings, `Task` and `build`), a row here, and
its numbers in `profiles/paper.yml`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from l3muscle.pretext import fractals, jigsaw, reconstruction, scenes
from l3muscle.settings import SourceTrainingSettings, UnlabelledSettings


@dataclass(frozen=True)
class SourceTask:
    """One source task.

    Attributes
    ----------
    label : str
        As pages print it.
    colour, marker : str
        In every figure; Okabe and Ito's colours keep apart for every kind of colour vision.
    settings : type or None
        Of its section in a profile's `sources`; None where nothing is learned.
    build : callable or None
        `build(profile, images, seed=..., device=...)` gives the untrained network and its `Task`; `images`
        (N, 1, H, W) are the cohort's slices that are not held out for testing.
    uses_cohort : bool
        Whether it learns from those slices, without their outlines.
    """

    label: str
    colour: str
    marker: str
    settings: type[SourceTrainingSettings] | None = None
    build: Callable | None = None
    uses_cohort: bool = False


SOURCE_TASKS = {
    "random": SourceTask("random initialisation", "#5b6068", "o"),
    "classification": SourceTask(
        "classification", "#e69f00", "s", settings=fractals.ClassificationSettings, build=fractals.build
    ),
    "segmentation": SourceTask(
        "segmentation", "#0072b2", "D", settings=scenes.SegmentationSettings, build=scenes.build
    ),
    "jigsaw": SourceTask(
        "jigsaw", "#009e73", "^", settings=jigsaw.JigsawSettings, build=jigsaw.build, uses_cohort=True
    ),
    "reconstruction": SourceTask(
        "reconstruction", "#cc79a7", "v", settings=UnlabelledSettings, build=reconstruction.build, uses_cohort=True
    ),
}
