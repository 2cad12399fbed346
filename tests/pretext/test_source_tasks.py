"""All source tasks in one tiny study, and what each depends on."""

import numpy as np
import pytest
import torch
from tiny_study import TINY, train_all

from l3muscle.experiment import build_network
from l3muscle.models import build_fcn, transfer_weights
from l3muscle.preprocess import to_network_input
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.pretext.reconstruction import Reconstruction
from l3muscle.profile import load_profile
from l3muscle.study import Study
from l3muscle.training import Loop, fit

LEARNED = [task for task in SOURCE_TASKS if task != "random"]
BRIEF = {"steps": 4, "validate_every": 2}
ALL = {
    **TINY,
    "sources": {
        **TINY["sources"],
        "classification": {**BRIEF, "batch_size": 4, "classes": 8, "points": 2000, "validation_images": 8},
        "jigsaw": {**BRIEF, "batch_size": 2, "validation_puzzles": 1},
        "reconstruction": {**BRIEF, "batch_size": 2},
    },
    "grid": {"source_tasks": ["random", *LEARNED], "sizes": [2], "folds": 2, "subsets": 1, "repeats": 1},
}


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory) -> Study:
    runs = tmp_path_factory.mktemp("all")
    study = Study(load_profile("smoke", **ALL), runs=runs, cohort_folder=finished.cohort_folder)
    train_all(study)
    return study


def test_the_profiles_cover_all_source_tasks():
    assert all(set(load_profile(name).grid.source_tasks) == set(SOURCE_TASKS) for name in ("smoke", "laptop", "paper"))


def test_every_source_task_leaves_weights_a_curve_and_its_transfer(trained):
    results = trained.results()
    assert len(results.records) == 10
    assert [results.source_kind(task) for task in LEARNED] == ["procedural", "procedural", "cohort", "cohort"]
    for task in LEARNED:
        curve, record = results.source_curve(task), results.source_record(task)
        assert curve["step"].tolist() == [2, 4] and np.isfinite(curve[["train_loss", "validation_loss"]]).all(axis=None)
        moved = record["transfer"]["moved"]
        assert {"backbone.conv1.weight", "backbone.bn1.running_mean", "backbone.bn1.num_batches_tracked"} <= set(moved)
        assert {"classifier.4.weight", "classifier.4.bias"} <= set(record["transfer"]["left_random"])
        target = build_network(trained.profile)
        weights = trained.source_weights(task)
        transfer_weights(weights, target)
        [first] = [value for name, value in weights.items() if name.endswith("conv1.weight") and "layer" not in name]
        assert torch.equal(target.backbone.conv1.weight, first)
    assert results.source_record("random") is None and results.source_curve("random") is None
    for task, chance in (("classification", 1 / 8), ("jigsaw", 1 / 50)):
        record, curve = results.source_record(task), results.source_curve(task)
        best = curve.loc[curve["step"] == record["best_step"], "validation_accuracy"].item()
        assert record["chance"] == chance and record["validation_accuracy"] == best and 0 <= best <= 1


def test_tasks_on_the_cohorts_slices_learn_from_all_but_the_test_patients(trained):
    learned, (test_images, _) = trained.prepared.source_images, trained.prepared.select(trained.splits.test_ids)
    assert len(learned) == len(trained.cohort) - len(test_images) == 10
    assert not any(torch.equal(one, other) for one in learned for other in test_images)
    for task in ("jigsaw", "reconstruction"):
        _, made = SOURCE_TASKS[task].build(trained.profile, learned, seed=0, device="cpu")
        assert len(made.training_images) + len(made.validation_images) == 10


def test_examples_are_kept_for_the_pictures(trained):
    results = trained.results()
    pictures, puzzles = results.source_examples("reconstruction"), results.source_examples("jigsaw")
    assert pictures["input"].shape == pictures["output"].shape and pictures["input"].shape[1:] == (32, 40)
    assert puzzles["tiles"].shape[1] == 9 and sorted(puzzles["permutation"][0].tolist()) == list(range(9))
    assert results.source_examples("segmentation") is None


def test_identity_depends_on_what_decides_the_weights_and_on_nothing_else(trained):
    base = {task: trained.source_key(task) for task in LEARNED}

    def changed(**overrides) -> set[str]:
        study = Study(load_profile("smoke", **{**ALL, **overrides}), cohort_folder=trained.cohort_folder)
        return {task for task in LEARNED if study.source_key(task) != base[task]}

    assert changed() == changed(**{"training.max_steps": 7}) == changed(**{"grid.sizes": [2, 3]}) == set()
    assert changed(**{"sources.jigsaw.steps": 5}) == {"jigsaw"}
    assert changed(**{"sources.classification.classes": 9}) == {"classification"}
    assert changed(**{"sources.seed": 1}) == changed(**{"network.width": 4}) == set(LEARNED)
    assert changed(**{"augmentation.rotation_degrees": 10.0}) == {"jigsaw", "reconstruction"}
    # Other patients held out for testing: only what learned from the cohort changes.
    other = Study(trained.profile, cohort_folder=trained.cohort_folder)
    other.splits = type(trained.splits)(trained.splits.test_ids[:-1], trained.splits.folds, trained.splits.orders)
    assert {task for task in LEARNED if other.source_key(task) != base[task]} == {"jigsaw", "reconstruction"}


def test_an_autoencoder_learns_to_give_slices_back():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    centres = torch.linspace(-0.5, 0.5, 10)
    images = torch.stack([(torch.hypot(y, x - c) < 0.5).float() for c in centres])[:, None]
    paper = load_profile("paper")
    settings = paper.sources.reconstruction.model_copy(update={"batch_size": 4, "validation_share": 0.2})
    still = paper.augmentation.model_copy(
        update={"rotation_probability": 0.0, "scale_probability": 0.0, "elastic_probability": 0.0}
    )
    task = Reconstruction(images, settings, still, seed=0)
    torch.manual_seed(0)
    network = build_fcn("resnet10", width=8, output_stride=4, out_channels=3)
    loop = Loop(learning_rate=1e-2, max_steps=80, validate_every=40, patience=9, min_improvement=0.0)
    outcome = fit(network, task, loop, generator=torch.Generator().manual_seed(0))
    network.load_state_dict(outcome.weights)
    # Giving back the mean of each channel would leave the variance.
    inputs, target = next(task.validation_batches())
    assert torch.equal(inputs, target) and torch.equal(inputs, to_network_input(task.validation_images))
    assert outcome.curve[-1].validation_loss < 0.3 * target.var((0, 2, 3)).mean()
    examples = task.examples(network, "cpu", 2)
    assert np.abs(examples["input"] - examples["output"]).mean() < 0.2
    assert examples["input"].max() == 1 and examples["input"].min() == 0
