"""What a run will cost on this machine, before it starts: up to twenty steps of each training, timed and multiplied."""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from l3muscle import runtime
from l3muscle.experiment import SegmentationTask, build_network, choose, experiments, source_loop, target_loop
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.study import Study
from l3muscle.training import Loop, Task, Training

STEPS = 20
ENOUGH_S = 10.0  # of steps of one training
NOTEBOOK_S = 10.0  # to start a kernel, open the study and draw a page's figures
PREDICTION_BYTES = 4_000  # of one test slice of 512 x 512, as compressed bits
FILE_BYTES = 20_000  # of a model's other files


def _seconds(network: torch.nn.Module, task: Task, loop: Loop) -> float:
    """Time that a whole training of `loop` takes."""
    # Compiling takes longer than all the steps that are timed.
    training = Training(network, task, replace(loop, compiled=False), torch.Generator().manual_seed(0))
    taken: list[float] = []
    # The first step allocates; where it is a long one, it is all that is taken.
    while len(taken) < STEPS and sum(taken) < ENOUGH_S:
        started = time.perf_counter()
        training.take_step()
        training.losses[-1].item()  # waits for a GPU to finish the step
        taken.append(time.perf_counter() - started)
    step = min(taken[1:] or taken)
    batches = sum(1 for _ in task.validation_batches())
    return loop.max_steps * step + loop.max_steps / loop.validate_every * batches * step


def forecast(study: Study, *, workers: int, only: Mapping[str, Collection[Any]]) -> Iterator[str]:
    """Say, line by line, how many models a run has to train and what it will take, without touching the run.

    Parameters
    ----------
    study : Study
    workers : int
    only : mapping
        As in `l3muscle.runner.run_study`.
    """
    profile, grid = study.profile, study.profile.grid
    chosen = choose(experiments(profile), only)
    notebooks = {one.configuration for one in chosen}
    tasks = {task for task, _ in notebooks if task != "random" and profile.published_weights(task) is None}
    yield f"{len(chosen)} models in {len(notebooks)} notebooks, {len(tasks)} source tasks to learn; timing a few steps"
    device = runtime.begin_training(profile)
    images = torch.rand(2 * max(grid.folds, profile.training.batch_size), 1, *profile.image.shape)
    rest = profile.cohort.patients - profile.cohort.test_patients
    validation = images[:1].expand(max(1, rest // grid.folds), -1, -1, -1)
    target = SegmentationTask(*(part.to(device) for part in (images, images, validation, validation)), profile)
    one = _seconds(build_network(profile), target, target_loop(profile, device, fine_tuned=False))
    at_most = "at most " if profile.training.schedule == "constant" else ""
    yield f"one model: {at_most}{_text(one)} on {device}"
    total = len(chosen) * one + len(notebooks) * NOTEBOOK_S
    for task in sorted(tasks):
        network, source = SOURCE_TASKS[task].build(profile, images, seed=0, device=device)
        seconds = _seconds(network, source, source_loop(profile, task, device))
        yield f"source task {task}: {at_most}{_text(seconds)}"
        total += seconds + NOTEBOOK_S
    weights = sum(value.numel() * value.element_size() for value in build_network(profile).state_dict().values())
    models_kept = {"none": 0, "representative": len(notebooks), "all": len(chosen)}[profile.keep_weights]
    disk = len(chosen) * (profile.cohort.test_patients * PREDICTION_BYTES + FILE_BYTES)
    disk += (models_kept + len(tasks)) * weights
    yield f"in all {at_most}{_text(total / workers)} with {workers} workers, and {disk / 1e9:.1f} GB on the disk"


def _text(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.0f} h"
    )
