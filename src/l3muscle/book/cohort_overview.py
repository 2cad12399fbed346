"""What a cohort holds, shown before anything is trained on it: counts, measures, pictures, refusals."""

from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from l3muscle import figures
from l3muscle.cohort import Cohort, CohortReport
from l3muscle.cohort.splits import Splits
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.metrics import muscle_area, muscle_density, remove_bone
from l3muscle.profile import load_profile

SHEET = 24  # patients a contact sheet


class OverviewError(L3MuscleError):
    """An overview that cannot be written."""


def measure_patients(cohort: Cohort) -> pd.DataFrame:
    """Muscle area and density of every patient by the expert's outline.

    Returns
    -------
    DataFrame
        One row a patient: patient_id, rows, columns (pixels of the slice's own), row_spacing_mm, column_spacing_mm,
        sma_cm2, smd_hu (after bone removal, Section 2.3), observers (how many outlined the slice).
    """
    shapes = cohort.shapes or [cohort.images.shape[1:]] * len(cohort)
    patients = zip(cohort.patient_ids, cohort.images, cohort.masks, cohort.spacing, shapes, strict=True)
    return pd.DataFrame(
        [
            {
                "patient_id": patient_id,
                "rows": shape[0],
                "columns": shape[1],
                "row_spacing_mm": float(spacing[0]),
                "column_spacing_mm": float(spacing[1]),
                "sma_cm2": muscle_area(mask, tuple(spacing)),
                "smd_hu": muscle_density(remove_bone(mask, hu, tuple(spacing)), hu),
                "observers": len(cohort.observers.get(patient_id, {})),
            }
            for patient_id, hu, mask, spacing, shape in patients
        ]
    )


def reference_values() -> pd.DataFrame:
    """Published values to hold a cohort against: measure (`sma_cm2` or `smd_hu`), sex, kind, value, source, population.

    Both sources are of healthy kidney donors and candidates; the paper's patients, and the phantom that stands in for
    them, have cancer and are older, so that more than a few of them should lie below.
    """
    with (resources.files("l3muscle") / "data" / "reference_values.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def split_table(splits: Splits) -> pd.DataFrame:
    """Who is held out, validates and trains, in each fold and subset.

    Returns
    -------
    DataFrame
        fold, subset, patient_id, role (`"test"`, `"validation"`, `"training"`), order (of a training patient: a
        training set of n holds those of order 1 to n; missing for the others).
    """
    rows = []
    for fold, orders in enumerate(splits.orders):
        for subset, order in enumerate(orders):
            rows += [(fold, subset, patient, "test", pd.NA) for patient in splits.test_ids]
            rows += [(fold, subset, patient, "validation", pd.NA) for patient in splits.folds[fold]]
            rows += [(fold, subset, patient, "training", k) for k, patient in enumerate(order, start=1)]
    return pd.DataFrame(rows, columns=["fold", "subset", "patient_id", "role", "order"]).astype({"order": "Int64"})


def summarise(measures: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of a table: what is measured, median, and range over the patients.

    Parameters
    ----------
    measures : DataFrame
        From `measure_patients`.
    """
    names = {
        "row_spacing_mm": ("row spacing, mm", ".2f"),
        "column_spacing_mm": ("column spacing, mm", ".2f"),
        "sma_cm2": ("muscle area, cm²", ".1f"),
        "smd_hu": ("muscle density, HU", ".1f"),
    }

    def row(name: str, median: object, least: str = "", most: str = "") -> dict[str, str]:
        return {"of the cohort": name, "median": str(median), "from": least, "to": most}

    measured = [
        row(name, *(format(value, digits) for value in (values.median(), values.min(), values.max())))
        for values, (name, digits) in ((measures[column], about) for column, about in names.items())
    ]
    sizes = measures[["rows", "columns"]].drop_duplicates().sort_values(["rows", "columns"])
    least, most = (f"{size['rows']} x {size['columns']}" for size in (sizes.iloc[0], sizes.iloc[-1]))
    pixels = row("pixels", least) if len(sizes) == 1 else row("pixels", f"{len(sizes)} sizes", least, most)
    observed = int((measures["observers"] > 0).sum())
    return [row("patients", len(measures)), pixels, *measured, row("patients with observers", observed)]


def write_overview(report: CohortReport, out: Path) -> pd.DataFrame:
    """Write what a cohort holds into a folder: tables, refusals, Hounsfield units, every slice with its outline.

    Parameters
    ----------
    report : CohortReport
        From `l3muscle.cohort.check_folder`.
    out : Path
        Gets `patients.csv`, `refused.txt`, `hounsfield_units.png` and `slices-01.png` ...

    Returns
    -------
    DataFrame
        As `measure_patients`.

    Raises
    ------
    CohortError
        If nothing can be used.
    OverviewError
        If `out` cannot be written.
    """
    cohort = report.cohort(usable_only=True)
    measures = measure_patients(cohort)
    image = load_profile("paper").image
    window = image.window_hu, image.level_hu

    def save(figure: Figure, name: str) -> None:
        figure.savefig(out / name, dpi=150, metadata={"Software": None})

    try:
        out.mkdir(parents=True, exist_ok=True)
        measures.to_csv(out / "patients.csv", index=False, float_format="%.3f")
        (out / "refused.txt").write_text("".join(f"{line}\n" for line in report.lines()), encoding="utf-8")
        save(figures.hu_histogram(figures.hu_shares(cohort.images, cohort.masks)), "hounsfield_units.png")
        for number, start in enumerate(range(0, len(cohort), SHEET), start=1):
            here = np.s_[start : start + SHEET]
            sheet = figures.contact_sheet(
                cohort.images[here], [{"expert": mask} for mask in cohort.masks[here]], window=window
            )
            save(sheet, f"slices-{number:02d}.png")
    except OSError as error:
        raise OverviewError(f"cannot write to {out}: {reason_of(error)}") from None
    return measures
