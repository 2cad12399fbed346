"""What a cohort holds, before anything is trained on it."""

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from l3muscle import figures
from l3muscle.book.overview import OverviewError, measure_patients, summarise, write_overview
from l3muscle.book.reference_values import POPULATIONS, reference_values, shares_below
from l3muscle.book.theme import DARK
from l3muscle.cohort import Cohort, CohortError, CohortReport, check_folder
from l3muscle.cohort.splits import make_splits
from l3muscle.metrics import muscle_area
from l3muscle.phantom.patients import write_phantom


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> CohortReport:
    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    write_phantom(folder, patients=5, test_patients=2, size=96)
    (folder / "scribble.dcm").write_bytes(b"no image")
    return check_folder(folder)


def test_overview_holds_every_patient_and_every_refusal(report, tmp_path):
    measures = write_overview(report, tmp_path / "out")
    written = pd.read_csv(tmp_path / "out" / "patients.csv")
    assert written.patient_id.tolist() == [patient.patient_id for patient in report.usable]
    first = report.usable[0]
    assert written.sma_cm2[0] == pytest.approx(muscle_area(first.expert, first.spacing), abs=1e-3)
    assert written.observers.tolist() == [0, 0, 0, 4, 5] or sum(written.observers > 0) == 2
    assert "scribble.dcm" in (tmp_path / "out" / "refused.txt").read_text()
    for name in ("hounsfield_units.png", "slices-01.png"):
        assert np.asarray(Image.open(tmp_path / "out" / name).convert("L")).std() > 5
    text = " ".join(" ".join(row.values()) for row in summarise(measures))
    assert "patients 5" in text and "96 x 96" in text and "patients with observers 2" in text


def test_refusals_of_an_overview_are_sentences(report, tmp_path):
    with pytest.raises(CohortError, match="nothing in"):
        write_overview(CohortReport(tmp_path), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(OverviewError, match="cannot write to"):
        write_overview(report, tmp_path / "file")


def test_histogram_bands_follow_the_images(report):
    cohort = report.cohort(usable_only=True)
    lifted = cohort.images + 50
    figure = figures.hu_histogram({"a": (cohort.images, cohort.masks), "b": (lifted, cohort.masks)})
    low, high = (line.get_xydata() for line in figure.axes[1].lines)
    assert high[np.argmax(high[:, 1]), 0] - low[np.argmax(low[:, 1]), 0] == pytest.approx(50, abs=10)
    assert measure_patients(cohort).smd_hu.notna().all()


def test_split_map_shows_smaller_sets_inside_larger_ones():
    ids = tuple(f"P{index:02d}" for index in range(30))
    nothing = np.zeros((30, 2, 2))
    seen = {patient: {"observer 01": nothing[0] > 0} for patient in ids[24:]}
    cohort = Cohort(nothing.astype(np.int16), nothing > 0, np.ones((30, 2)), ids, seen)
    sizes = (3, 6, 12)
    splits = make_splits(cohort, sizes=sizes, folds=3, subsets=2, seed=0, test_patients=6)
    figure = figures.split_map(splits, sizes)
    (axes, *_) = figure.axes
    swatches = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in figure.legends[0].legend_handles]
    assert not set(swatches) & set(DARK), "a dark copy would change the legend and not the pixels"
    grid = axes.collections[0].get_array().reshape(6, 30)
    assert (grid[:, 24:] == 5).all()
    for row, (fold, subset) in enumerate((f, s) for f in range(3) for s in range(2)):
        assert np.count_nonzero(grid[row] == 4) == len(splits.folds[fold])
        for level, size in enumerate(sizes, start=1):
            assert np.count_nonzero((grid[row] >= 1) & (grid[row] <= level)) == size
        columns = [patient for fold_ids in splits.folds for patient in fold_ids]
        assert {columns[c] for c in np.flatnonzero(grid[row] == 1)} == set(splits.training_ids(fold, subset, 3))


def test_reference_values_name_their_source_and_count_below():
    table = reference_values()
    assert set(table.source) == set(POPULATIONS)
    assert set(table.measure) == {"sma_cm2", "smd_hu"} and set(table.sex) == {"men", "women"}
    measures = pd.DataFrame({"sex": ["men"] * 4, "sma_cm2": [100, 135, 140, 150], "smd_hu": [10, 30, 40, 50]})
    shares = shares_below(measures).set_index(["measure", "sex", "source"]).share_below
    assert shares["sma_cm2", "men", "vanderwerf2018"] == 0.25
    assert shares["sma_cm2", "men", "derstine2018"] == 0.75
    assert np.isnan(shares["sma_cm2", "women", "derstine2018"])
    assert len(figures.against_reference(measures).axes) == 2
