"""What a cohort holds, before anything is trained on it."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from l3muscle.book.cohort_overview import (
    OverviewError,
    measure_patients,
    reference_values,
    split_table,
    summarise,
    write_overview,
)
from l3muscle.cohort import CohortError, CohortReport, Patient, check_folder
from l3muscle.cohort.splits import Splits
from l3muscle.metrics import muscle_area
from l3muscle.phantom.patients import write_phantom


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> CohortReport:
    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    write_phantom(folder, patients=5, test_patients=2, size=96)
    (folder / "scribble.dcm").write_bytes(b"no image")
    return check_folder(folder)


def test_an_overview_holds_every_patient_and_every_refusal(report, tmp_path):
    measures = write_overview(report, tmp_path / "out")
    written = pd.read_csv(tmp_path / "out" / "patients.csv")
    assert written.patient_id.tolist() == [patient.patient_id for patient in report.usable]
    first = report.usable[0]
    assert written.sma_cm2[0] == pytest.approx(muscle_area(first.expert, first.spacing), abs=1e-3)
    assert sum(written.observers > 0) == 2 and written.smd_hu.between(-20, 80).all()
    assert "scribble.dcm" in (tmp_path / "out" / "refused.txt").read_text()
    for name in ("hounsfield_units.png", "slices-01.png"):
        assert np.asarray(Image.open(tmp_path / "out" / name).convert("L")).std() > 5
    text = " ".join(" ".join(row.values()) for row in summarise(measures))
    assert "patients 5" in text and "96 x 96" in text and "patients with observers 2" in text


def test_slices_of_several_sizes_have_their_own(tmp_path):
    shapes = [(24, 16), (20, 30)]
    patients = [
        Patient(name, name, np.full(shape, 50, np.int16), (1.0, 1.0), np.arange(shape[1]) < np.full((shape[0], 1), 8))
        for name, shape in zip("AB", shapes, strict=True)
    ]
    measures = measure_patients(CohortReport(tmp_path, patients).cohort())
    assert list(zip(measures["rows"], measures["columns"], strict=True)) == shapes
    pixels = next(row for row in summarise(measures) if row["of the cohort"] == "pixels")
    assert (pixels["median"], pixels["from"], pixels["to"]) == ("2 sizes", "20 x 30", "24 x 16")


def test_refusals_of_an_overview_are_sentences(report, tmp_path):
    with pytest.raises(CohortError, match="nothing in"):
        write_overview(CohortReport(tmp_path), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(OverviewError, match="cannot write to"):
        write_overview(report, tmp_path / "file")


def test_a_table_of_splits_names_everybody_once_a_fold():
    table = split_table(Splits(("T",), (("A",), ("B", "C")), ((("C", "B"),), (("A",),))))
    first = table[table.fold == 0].set_index("patient_id")
    assert first["role"].to_dict() == {"T": "test", "A": "validation", "C": "training", "B": "training"}
    assert first.loc["B", "order"] == 2 and pd.isna(first.loc["A", "order"])


def test_published_values_are_of_two_measures_and_two_sexes():
    counts = reference_values().groupby(["measure", "sex", "population"]).size()
    assert len(counts) == 8 and (counts == 1).all()
