"""All five source tasks in one tiny study, and what each depends on."""

import numpy as np
import pytest
import torch
from conftest import TINY

from l3muscle.models import build_fcn, transfer_weights
from l3muscle.preprocess import to_network_input
from l3muscle.pretext.reconstruction import Reconstruction
from l3muscle.profile import AugmentationSettings, UnlabelledSettings, load_profile
from l3muscle.runner import run_study
from l3muscle.study import Study, open_results, train_source
from l3muscle.training import Loop, fit

LEARNED = ["classification", "segmentation", "jigsaw", "reconstruction"]
BRIEF = {"steps": 4, "validate_every": 2}
FIVE = {
    **TINY,
    "sources": {
        **TINY["sources"],
        "procedural_classification": {**BRIEF, "batch_size": 4, "classes": 8, "points": 2000, "validation_images": 8},
        "jigsaw": {**BRIEF, "batch_size": 2, "validation_puzzles": 1},
        "reconstruction": {**BRIEF, "batch_size": 2},
    },
    "grid": {"source_tasks": ["random", *LEARNED], "sizes": [2], "folds": 2, "subsets": 1, "repeats": 1},
}


@pytest.fixture(scope="module")
def five(finished, tmp_path_factory) -> Study:
    study = Study(
        load_profile("smoke", **FIVE), runs=tmp_path_factory.mktemp("five"), cohort_folder=finished.cohort_folder
    )
    assert run_study(study, say=lambda line: None).complete
    return study


def test_smoke_covers_all_five():
    assert set(load_profile("smoke").grid.source_tasks) == {"random", *LEARNED}


def test_every_source_task_leaves_weights_a_curve_and_its_transfer(five):
    results = open_results("smoke", five.folder.parent)
    assert len(results.records) == 10
    assert [results.source_kind(task) for task in LEARNED] == ["procedural", "procedural", "cohort", "cohort"]
    for task in LEARNED:
        curve, record = results.source_curve(task), results.source_record(task)
        assert curve["step"].tolist() == [2, 4] and np.isfinite(curve[["train_loss", "validation_loss"]]).all(axis=None)
        moved = record["transfer"]["moved"]
        assert {"backbone.conv1.weight", "backbone.bn1.running_mean", "backbone.bn1.num_batches_tracked"} <= set(moved)
        assert {"classifier.4.weight", "classifier.4.bias"} <= set(record["transfer"]["left_random"])
    assert results.source_record("random") is None and results.source_curve("random") is None
    for task, chance in (("classification", 1 / 8), ("jigsaw", 1 / 50)):
        record, curve = results.source_record(task), results.source_curve(task)
        assert record["chance"] == chance
        best = curve.loc[curve["step"] == record["best_step"], "validation_accuracy"].item()
        assert record["validation_accuracy"] == best and 0 <= best <= 1


def test_what_a_source_task_learned_reaches_the_target_network(five):
    target = build_fcn("resnet10", width=8, output_stride=4)
    for task in LEARNED:
        weights = five.store.weights("sources", five.source_key(task))
        transfer_weights(weights, target)
        name = "conv1.weight" if "conv1.weight" in weights else "backbone.conv1.weight"
        assert torch.equal(target.backbone.conv1.weight, weights[name])


def test_tasks_on_the_cohorts_slices_learn_from_all_but_the_test_patients(five):
    results = open_results("smoke", five.folder.parent)
    for task in ("jigsaw", "reconstruction"):
        patients = results.source_record(task)["patients"]
        assert patients["training"] + patients["validation"] == len(five.cohort) - len(five.splits.test_ids) == 10
    assert not set(five.prepared.source_ids) & set(five.splits.test_ids)


def test_examples_are_kept_for_the_pictures(five):
    results = open_results("smoke", five.folder.parent)
    pictures, puzzles = results.source_examples("reconstruction"), results.source_examples("jigsaw")
    assert pictures["input"].shape == pictures["output"].shape and pictures["input"].shape[1:] == (32, 40)
    assert puzzles["tiles"].shape[1] == 9 and sorted(puzzles["permutation"][0].tolist()) == list(range(9))
    assert results.source_examples("segmentation") is None


def test_a_source_task_repeats_bit_for_bit(five):
    for task in LEARNED:
        again = train_source(five.profile, task, five.prepared).weights["weights"]
        before = five.store.weights("sources", five.source_key(task))
        assert all(torch.equal(again[name], before[name]) for name in before), task


def test_identity_depends_on_what_decides_the_weights_and_on_nothing_else(five):
    def keys(study: Study) -> dict[str, str]:
        return {task: study.source_key(task) for task in LEARNED}

    def changed(**overrides) -> set[str]:
        study = Study(
            load_profile("smoke", **{**FIVE, **overrides}), runs=five.folder.parent, cohort_folder=five.cohort_folder
        )
        return {task for task, key in keys(study).items() if key != base[task]}

    base = keys(five)
    assert changed() == set()
    assert changed(**{"sources.jigsaw.steps": 5}) == {"jigsaw"}
    assert changed(**{"sources.procedural_classification.classes": 9}) == {"classification"}
    assert changed(**{"sources.seed": 1}) == set(LEARNED)
    assert changed(**{"augmentation.rotation_degrees": 10}) == {"jigsaw", "reconstruction"}
    assert changed(**{"training.max_steps": 7}) == set()
    # Other patients held out for testing, or other images: only what learned from the cohort changes.
    other = Study(five.profile, runs=five.folder.parent, cohort_folder=five.cohort_folder)
    other.splits = five.splits.__class__(five.splits.test_ids[:-1], five.splits.folds, five.splits.orders)
    assert {task for task, key in keys(other).items() if key != base[task]} == {"jigsaw", "reconstruction"}


def test_an_autoencoder_learns_to_give_slices_back():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    centres = torch.linspace(-0.5, 0.5, 10)
    images = torch.stack([(torch.hypot(y, x - c) < 0.5).float() for c in centres])[:, None]
    settings = UnlabelledSettings(batch_size=4, validation_share=0.2)
    still = AugmentationSettings(rotation_probability=0, scale_probability=0, elastic_probability=0)
    task = Reconstruction(images, settings, still, seed=0)
    torch.manual_seed(0)
    network = build_fcn("resnet10", width=8, output_stride=4, out_channels=3)
    loop = Loop(learning_rate=1e-2, max_steps=80, validate_every=40, patience=9)
    outcome = fit(network, task, loop, generator=torch.Generator().manual_seed(0))
    network.load_state_dict(outcome.weights)
    # Giving back the mean of each channel would leave the variance.
    inputs, target = next(task.validation_batches())
    assert torch.equal(inputs, target) and torch.equal(inputs, to_network_input(task.slices.validation))
    assert outcome.curve[-1].validation_loss < 0.3 * target.var((0, 2, 3)).mean()
    examples = task.examples(network, "cpu", 2)
    assert np.abs(examples["input"] - examples["output"]).mean() < 0.2
    assert examples["input"].max() == 1 and examples["input"].min() == 0
