"""The paper's network at its resolution, on a processor: `pytest -m slow`, some minutes and 5 GiB of memory."""

import os

import numpy as np
import pytest
from tiny_study import train_all

from l3muscle.pretext import SOURCE_TASKS
from l3muscle.profile import load_profile
from l3muscle.study import Study

STEPS = {"steps": 2, "validate_every": 2, "batch_size": 1}


@pytest.mark.slow
def test_every_task_of_the_paper_profiles_takes_steps_at_full_size(tmp_path):
    profile = load_profile(
        "paper-offline",
        cohort={"patients": 5, "test_patients": 1},
        training={"max_steps": 2, "validate_every": 2, "batch_size": 1},
        sources={
            "classification": {**STEPS, "validation_images": 2},
            "segmentation": {**STEPS, "validation_scenes": 1},
            "jigsaw": {**STEPS, "validation_puzzles": 1},
            "reconstruction": STEPS,
        },
        threads_per_worker=os.cpu_count() or 1,
        grid={"sizes": [2], "folds": 2, "subsets": 1, "repeats": 1},
    )
    network, shape = profile.network, profile.image.shape
    assert (network.backbone, network.width, network.output_stride, shape) == ("resnet101", 64, 8, (512, 512))
    study = Study(profile, runs=tmp_path)
    study.make_phantom(workers=os.cpu_count() or 1)  # whose slices the keys depend on
    study.keys = {model: key for model, key in study.keys.items() if model.fold == 0}
    train_all(study)
    results = study.results()
    assert {model.source_task for model in results.records} == set(SOURCE_TASKS)
    assert all(
        record["steps"] == 2 and np.isfinite(record["best_validation_loss"]) for record in results.records.values()
    )
    assert results.scores()["dice"].between(0, 1).all()
