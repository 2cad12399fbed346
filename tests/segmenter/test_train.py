"""From outlined slices to an ensemble, and what its held-out scores say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from tiny_study import train_all

from l3muscle.errors import L3MuscleError
from l3muscle.segmenter import estimate
from l3muscle.segmenter.cross_validation import curve_sizes, make_folds
from l3muscle.segmenter.initialisation import choose_initialisation
from l3muscle.segmenter.model_file import SHIPPED, ModelFileError, load_model, publish_model
from l3muscle.segmenter.train import TrainedSegmenter, open_trained, scores_of, train_segmenter
from l3muscle.study import Study, open_results


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_slices_of_one_patient_never_straddle_folds(patients, folds):
    many = [replace(patient, patient_id=f"P{k // 2}") for k, patient in enumerate(patients)]
    parts = make_folds(many, folds)
    assert sorted(index for part in parts for index in part) == list(range(len(many)))
    people = [{many[index].patient_id for index in part} for part in parts]
    assert sum(map(len, people)) == 3 and len(parts) == min(folds, 3)


def test_every_slice_is_held_out_once_and_the_members_are_the_ensemble(trained, seven):
    held_out = trained.held_out
    assert sorted(held_out["slice"]) == sorted(patient.name for patient in seven)
    assert held_out.groupby("patient_id")["fold"].nunique().max() == 1
    assert held_out["agreement"].between(0, 1).all()
    assert len(load_model(trained.path).members) == 3
    sizes = trained.scores["n_train"].unique()
    assert len(sizes) >= 2 and all((trained.scores["n_train"] == size).sum() == len(seven) for size in sizes)


def test_the_card_says_what_it_must_and_names_nobody(trained, seven):
    card = trained.card
    assert {"preprocessing", "training_data", "licence", "error_estimate", "intended_use", "not_for"} <= card.keys()
    assert card["training_data"]["slices"] == 7 and card["training_data"]["patients"] == 6
    assert card["training"]["start"] == "random" and "provenance" in card
    text = json.dumps(card) + trained.path.read_bytes()[:20_000].decode("latin-1")
    assert not any(patient.name in text or f'"{patient.patient_id}"' in text for patient in seven)
    assert load_model(trained.path).about["card"] == card
    assert (trained.path.parent / "held-out-01.png").is_file()


def test_a_second_training_is_not_made_again_but_one_with_another_seed_is(trained, seven, tiny):
    said, out = [], trained.path.parent
    options = {"start_from": "random", "folds": 3, "kind": "phantom", "say": said.append}
    again = train_segmenter(seven, out, tiny, **options, on_model=lambda *_: pytest.fail("trained again"))
    assert "up to date" in said[-1]
    pd.testing.assert_frame_equal(again.scores, trained.scores)

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train_segmenter(seven, out, tiny, **options, seed=1, on_model=stop)
    assert open_trained(out).card == trained.card


def test_the_outcome_does_not_depend_on_the_number_of_workers(trained, seven, tiny, tmp_path):
    reports = []
    other = train_segmenter(
        seven, tmp_path, tiny, start_from="random", folds=3, kind="phantom", workers=2, say=quiet,
        on_model=lambda *counts: reports.append(counts),
    )  # fmt: skip
    pd.testing.assert_frame_equal(other.scores, trained.scores)
    one, two = (load_model(model.path).members[2].state_dict() for model in (other, trained))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert reports == [(k, len(reports)) for k in range(1, len(reports) + 1)]


def test_initialisations(tiny, runs, finished, trained, tmp_path):
    best = choose_initialisation(tiny, "best", runs=runs, slices=4, say=quiet)
    assert best.source in ("random", "segmentation") and "best in the run" in best.description
    learned = choose_initialisation(tiny, "segmentation", runs=tmp_path, slices=4, say=quiet)
    assert learned.description.startswith("procedural") and (tmp_path / tiny.name / "sources").is_dir()
    from_model = choose_initialisation(tiny, str(trained.path), runs=tmp_path, slices=4, say=quiet)
    assert from_model.profile.image == tiny.image and from_model.weights
    gentle, usual = from_model.profile.training, learned.profile.training
    assert gentle.learning_rate_fine_tune == pytest.approx(usual.learning_rate_fine_tune / 10)
    assert gentle.max_steps == 2 and usual.max_steps == 6  # a quarter, rounded up
    for wrong, words in (("segmentatoin", "nothing to start from"), ("jigsaw", "learned from a study's slices")):
        with pytest.raises(L3MuscleError, match=words):
            choose_initialisation(tiny, wrong, runs=tmp_path, slices=4, say=quiet)


def test_of_several_initialisations_the_better_one_makes_the_model(seven, tiny, trained, tmp_path):
    starts = ["random", str(trained.path)]
    options = {"folds": 3, "full_curve": False, "say": quiet}
    phantoms = {**options, "kind": "phantom"}
    alone = {
        start: train_segmenter(seven, tmp_path / f"{k}", tiny, start_from=start, **phantoms)
        for k, start in enumerate(starts)
    }
    both = train_segmenter(seven, tmp_path / "both", tiny, start_from=starts, kind="own", **options)
    dice = {start: model.held_out.groupby("patient_id")["dice"].mean() for start, model in alone.items()}
    best, other = sorted(starts, key=lambda start: -alone[start].held_out["dice"].mean())
    pd.testing.assert_frame_equal(both.scores, alone[best].scores)
    gain = stats.ttest_rel(dice[best], dice[other]).confidence_interval()
    expected = [(dice[best] - dice[other]).mean(), *gain]
    assert both.card["compared_with"][0]["gain"] == pytest.approx(expected, abs=1e-5)
    assert any(f"instead of {both.card['compared_with'][0]['start']}" in line for line in both.lines())
    untrained = scores_of(load_model(SHIPPED), seven).groupby("patient_id")["dice"].mean()
    assert both.card["untrained"]["gain"][0] == pytest.approx((dice[best] - untrained).mean(), abs=1e-5)
    assert any("untrained on yours" in line for line in both.lines()) and not alone[best].card["untrained"]


def test_a_run_publishes_its_best_model_of_the_largest_size(finished, runs):
    results = open_results("smoke", runs)
    model = load_model(publish_model(finished))
    largest = [record for experiment, record in results.records.items() if experiment.n_train == 4]
    assert model.about["validation_loss"] == min(record["best_validation_loss"] for record in largest)
    assert model.about["experiment"]["n_train"] == 4 and model.about["cohort"] == "phantom"


def test_kept_models_of_one_configuration_are_published_as_an_ensemble(tiny, tmp_path):
    grid = tiny.grid.model_copy(update={"source_tasks": ("random",), "sizes": (2, 4), "folds": 2})
    study = Study(tiny.model_copy(update={"grid": grid, "keep_weights": "all"}), runs=tmp_path)
    train_all(study)
    model = load_model(publish_model(study))
    kept = [study.store.weights("models", key) for one, key in study.keys.items() if one.n_train == 4]
    assert len(model.members) == len(kept) == 2
    for member, weights in zip(model.members, kept, strict=True):
        for name, value in member.state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-5)
    test = [study.cohort.index(patient_id) for patient_id in study.splits.test_ids]
    agreements = [model.outline([(study.cohort.images[k], study.cohort.spacing[k])])[0].agreement for k in test]
    assert model.calibration.slices == len(test) and model.calibration.agreement == min(agreements)


def test_a_model_file_that_changed_by_a_bit_is_refused(trained, tmp_path):
    content = bytearray(trained.path.read_bytes())
    content[-100] ^= 4
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match="does not match its checksum"):
        load_model(tmp_path / "bad.safetensors")


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(L3MuscleError, match="no trained segmenter"):
        open_trained(tmp_path)


def test_curve_sizes_lie_below_the_largest():
    for largest in range(2, 200):
        sizes = curve_sizes(largest)
        assert sizes == sorted(set(sizes)) and sizes[0] > 0 and sizes[-1] < largest
    assert curve_sizes(8) == [4, 6]


def curve_scores(error, count: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    patient = rng.normal(0, 0.01, count)
    rows = [
        {"patient_id": str(k), "n_train": n, "dice": 1 - error(n) + patient[k] + rng.normal(0, 0.002)}
        for k in range(count)
        for n in (4, 6, 8)
    ]
    return pd.DataFrame(rows)


def test_a_power_law_is_forecast_and_a_flat_curve_promises_nothing():
    falling, flat = curve_scores(lambda n: 0.4 * n**-0.8), curve_scores(lambda n: 0.1)
    ahead = estimate.learning_curve(falling).iloc[-1]
    assert ahead.n_train == 16 and ahead.kind == "forecast"
    assert ahead.low < 1 - 0.4 * 16**-0.8 < ahead.high and ahead["mean"] == pytest.approx(0.956, abs=0.01)
    assert "more annotation may help" in estimate.would_more_help(falling)
    assert "no gain can be told from chance" in estimate.would_more_help(flat)


def test_intervals_count_patients_and_not_slices():
    scores = pd.DataFrame({"patient_id": ["a", "b", "c", "d"] * 5, "slice": range(20)})
    for measure in estimate.COMPARED:
        scores[measure] = np.tile([0.7, 0.8, 0.9, 0.8], 5)
    row = estimate.error_table(scores).iloc[0]
    assert (row.patients, row.slices) == (4, 20)
    assert row.high - row["mean"] == pytest.approx(3.182 * np.std([0.7, 0.8, 0.9, 0.8], ddof=1) / 2, rel=1e-3)
    assert estimate.paired_gain(scores, scores.assign(dice=scores["dice"] + 1)) == pytest.approx((1, 1, 1))


def test_one_patient_gives_no_interval_and_nobody_reads_nan():
    scores = pd.DataFrame({"patient_id": ["a"] * 3, "member": True, "n_train": 3})
    for measure in estimate.COMPARED:
        scores[measure] = [0.7, 0.8, 0.9]
    card = {"training_data": {"slices": 3, "patients": 1}, "error_estimate": {"warning": ""}}
    card |= {"training": {"start": "phantom"}, "compared_with": [{"start": "random", "gain": [0.1, None, None]}]}
    card["untrained"] = {"dice": 0.85, "gain": [-0.05, None, None]}
    first, dice, *_ = lines = TrainedSegmenter(Path("model.safetensors"), card, scores).lines()
    assert first == "held out once each: 3 slices of 1 patient"
    assert "started from phantom instead of random: Dice +0.100 (no interval)" in lines
    assert dice == "Dice similarity coefficient: 0.800 (no interval; worst 0.700)" and "nan" not in " ".join(lines)
