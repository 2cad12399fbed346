"""What a fine-tuning on own scans starts from; all contact of this room with the study lies here.

`l3muscle.segmenter.model_file.publish_model`, which reads a finished run, is the one exception.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from l3muscle.errors import L3MuscleError
from l3muscle.experiment import learn_source
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.pretext.pretrained import load_published
from l3muscle.profile import Profile
from l3muscle.runtime import begin_training
from l3muscle.segmenter.model_file import SHIPPED, load_model
from l3muscle.study import Study, StudyError, StudyResults

BEST, PHANTOM = "best", "phantom"
DEFAULT_SOURCE = "segmentation"  # the paper's best
# Weights that outline muscle already are changed little: this part of a profile's fine-tuning rate, and of its steps.
ADAPTING_RATE, ADAPTING_STEPS = 0.1, 0.25


class InitialisationError(L3MuscleError):
    """An initialisation that is unknown or cannot be had here."""


@dataclass(frozen=True)
class Initialisation:
    """What a fine-tuning starts from.

    Attributes
    ----------
    source : str
        Name of a source task, `"phantom"`, or `"model"`.
    description : str
        Where the weights come from, as a sentence's end.
    weights : dict of str to Tensor or None
        None for random initialisation.
    profile : Profile
        With the network and the image settings that the weights belong to.
    """

    source: str
    description: str
    weights: dict[str, Tensor] | None
    profile: Profile


def choose_initialisation(
    profile: Profile, start_from: str, *, runs: Path, slices: int, say: Callable[[str], None] = print
) -> Initialisation:
    """Find or learn the weights that a fine-tuning starts from.

    Parameters
    ----------
    profile : Profile
    start_from : str
        `"phantom"`: the network for real scans that comes with this package. `"best"`: the source task with the
        highest mean Dice in the finished run of this profile, at the training-set size nearest to `slices`; without a
        run, segmentation. Or the name of a source task. Or the path of a model file, which brings its network and
        image settings, as that for real scans does; both outline muscle already, and are trained more gently.
    runs : Path
        Where runs lie, and where a source task that is learned here is kept for the next time.
    slices : int
        Training slices.
    say : callable
        Takes one line of text.

    Raises
    ------
    InitialisationError
        If it is unknown, or needs a run which is not there.
    """
    if start_from == PHANTOM or start_from.endswith(".safetensors"):
        source, path = (PHANTOM, SHIPPED) if start_from == PHANTOM else ("model", Path(start_from))
        model = load_model(path)
        words = f"a model trained on slices of kind '{model.about.get('cohort', 'unknown')}'"
        gentle = {
            "learning_rate_fine_tune": ADAPTING_RATE * profile.training.learning_rate_fine_tune,
            "max_steps": ceil(ADAPTING_STEPS * profile.training.max_steps),
        }
        training = profile.training.model_copy(update=gentle)
        settings = profile.model_copy(update={"network": model.settings, "image": model.image, "training": training})
        return Initialisation(source, words, dict(model.members[0].state_dict()), settings)
    if start_from not in (BEST, *SOURCE_TASKS):
        raise InitialisationError(
            f"nothing to start from is called {start_from!r}; choose phantom, best, {', '.join(SOURCE_TASKS)}, "
            "or a model (.safetensors)"
        )
    try:
        results = StudyResults(runs / profile.name)
        results = results if results.profile.network == profile.network else None
    except StudyError:
        results = None
    source, words = _best_source(results, slices) if start_from == BEST else (start_from, "as asked")
    if source == "random":
        return Initialisation(source, words, None, profile)
    weights, kind = _source_weights(profile, source, results, runs, say)
    return Initialisation(source, f"{kind}, {words}", weights, profile)


def _best_source(results: StudyResults | None, slices: int) -> tuple[str, str]:
    if results is None or not results.records:
        return DEFAULT_SOURCE, "no finished run tells which is best here; the paper's was segmentation"
    scores = results.scores()
    size = min(scores["n_train"].unique(), key=lambda n: (abs(n - slices), n))
    means = scores[scores["n_train"] == size].groupby("source_task")["dice"].mean()
    words = f"best in the run {results.profile.name!r} at n = {size}, mean Dice {means.max():.3f}"
    return str(means.idxmax()), words


def _source_weights(
    profile: Profile, source: str, results: StudyResults | None, runs: Path, say: Callable[[str], None]
) -> tuple[dict[str, Tensor], str]:
    """Weights of a source task and of which kind they are: those of the run, or learned now where that needs none."""
    if results is not None and (record := results.source_record(source)) is not None:
        return results.store.weights("sources", results.plan["sources"][source]), record["kind"]
    if SOURCE_TASKS[source].uses_cohort:
        raise InitialisationError(
            f"{source} is learned from a study's slices, and {runs / profile.name} holds no such weights"
        )
    study = Study(profile, runs=runs)
    published = profile.published_weights(source)
    if not study.has_source(source) and published is not None:
        study.store_source(source, load_published(profile, source))
    elif not study.has_source(source):
        say(f"learning the source task {source} first; it is kept in {study.folder} for the next time")
        device = begin_training(profile)
        checkpoint = study.checkpoint(study.source_key(source))
        network, task, fitted = learn_source(profile, source, torch.empty(0), device, checkpoint)
        study.store_source(source, fitted.weights, fitted=fitted, task=task, network=network)
    return study.source_weights(source), published or "procedural"
