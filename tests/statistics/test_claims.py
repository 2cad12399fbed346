"""The ledger: every verdict can come out each way, and follows the tables it is given."""

import numpy as np
import pandas as pd
import pytest

from l3muscle.statistics.claims import ALPHA, CLAIMS, TASKS, VERDICTS, Compared, Evidence, all_of, decide, ledger

IMAGES = 15
SIZES = (5, 10, 25, 50, 75, 100, 125)
EXPERT = {"smd": np.linspace(20, 45, IMAGES), "sma": np.linspace(100, 180, IMAGES)}


def _rows(rng, task_dice: float, distance: float, density: float, area: float, scatter: float, **keys) -> pd.DataFrame:
    noise = rng.normal(0, 1, (4, IMAGES))
    density, area = density + 20 * scatter * noise[2], area + 40 * scatter * noise[3]
    return pd.DataFrame(
        {
            **keys,
            "patient_id": [f"p{i}" for i in range(IMAGES)],
            "dice": task_dice + scatter * noise[0],
            "rms_dta_cm": distance + 2 * scatter * noise[1],
            "smd_difference_hu": density,
            "sma_difference_cm2": area,
            "smd_hu": EXPERT["smd"] + density,
            "sma_cm2": EXPERT["sma"] + area,
            "failure": "",
        }
    )


def observers(rng, shift: float = 0.0) -> pd.DataFrame:
    parts = []
    for observer in range(5):
        means = 0.901 + shift, 0.318 + 2 * shift, -6.0 + 100 * shift, -5.1 + 200 * shift
        parts.append(_rows(rng, *means, 0.004, observer=f"o{observer}"))
    return pd.concat(parts, ignore_index=True)


# Mean Dice and RMS-DTA of each start at each size: the paper's findings, and their opposite.
AS_PAPER = {
    "segmentation": ((0.901, 0.55), (0.905, 0.312), *[(0.94, 0.316)] * 5),
    "classification": ((0.83, 0.80), (0.901, 0.325), *[(0.94, 0.316)] * 5),
    "jigsaw": ((0.83, 0.80), (0.901, 0.325), *[(0.94, 0.316)] * 5),
    "reconstruction": ((0.72, 1.0), (0.83, 0.8), (0.90, 0.322), *[(0.94, 0.322)] * 4),
    "random": ((0.60, 1.7), (0.80, 0.9), (0.88, 0.324), (0.94, 0.324), (0.94, 0.324), *[(0.94, 0.32)] * 2),
}


def as_paper(rng) -> pd.DataFrame:
    parts = []
    for task, cells in AS_PAPER.items():
        for n_train, (dice, distance) in zip(SIZES, cells, strict=True):
            far = task == "random" and n_train == 5
            wide = 0.012 if n_train == 5 else 0.005 if n_train == 10 else 0.004
            for fold in range(4):
                error = (-47.0, -9.0) if far else (8 / n_train, -8 / n_train)
                keys = {"source_task": task, "n_train": n_train, "fold": fold, "subset": 0, "repeat": 0}
                parts.append(_rows(rng, dice, distance, *error, wide, **keys))
    return pd.concat(parts, ignore_index=True)


def reversed_findings(rng) -> pd.DataFrame:
    """Segmentation last instead of first, worse with more slices, ending far from the expert and from one another."""
    parts = []
    for place, task in enumerate(("random", "reconstruction", "classification", "jigsaw", "segmentation")):
        for step, n_train in enumerate(SIZES):
            dice = 0.93 - 0.01 * place - (0.03 + 0.005 * place) * step
            distance = 0.3 if step == 0 else 0.2 + 0.15 * place + 0.3 * step
            if n_train == 10 and place < 2:
                dice = 0.995
            for fold in range(4):
                errors = (10.0 * (step + 1) * (task != "random" or step > 0), 20.0 * (step + 1))
                keys = {"source_task": task, "n_train": n_train, "fold": fold, "subset": 0, "repeat": 0}
                parts.append(_rows(rng, dice, distance, *errors, 0.004 + 0.004 * step, **keys))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def paper_like() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return ledger(Evidence(as_paper(rng), observers(rng))).set_index("claim")


@pytest.fixture(scope="module")
def opposite() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return ledger(Evidence(reversed_findings(rng), observers(rng, shift=0.08))).set_index("claim")


@pytest.fixture(scope="module")
def tiny_run() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    scores = as_paper(rng).query("n_train == 5 and source_task == 'classification' and fold == 0")
    return ledger(Evidence(scores.reset_index(drop=True), observers(rng))).set_index("claim")


def test_there_are_enough_claims_each_with_a_name_of_its_own():
    names = [claim.name for claim in CLAIMS]
    assert len(names) == len(set(names)) >= 24
    assert all(claim.text and claim.test and claim.section and claim.anchor for claim in CLAIMS)


@pytest.mark.parametrize("name", [claim.name for claim in CLAIMS])
def test_each_claim_holds_on_scores_like_the_papers(paper_like, name):
    row = paper_like.loc[name]
    assert row["verdict"] == "holds", row["numbers"]


@pytest.mark.parametrize("name", [claim.name for claim in CLAIMS])
def test_no_claim_holds_on_the_opposite_findings(opposite, name):
    row = opposite.loc[name]
    assert row["verdict"] == "does not hold", row["numbers"]


def test_a_run_of_one_cell_decides_nothing_about_the_others(tiny_run):
    about_other_cells = tiny_run.drop(index=[name for name in tiny_run.index if name.startswith("observers-")])
    assert not (about_other_cells["verdict"] == "holds").any()


def test_without_observers_no_statement_about_them_is_decided(paper_like):
    rng = np.random.default_rng(0)
    alone = ledger(Evidence(as_paper(rng), pd.DataFrame([]))).set_index("claim")
    about_observers = ["ten-slices", "observers-dice", "better-from-50", "order-of-magnitude", "all-far-at-5"]
    assert set(alone.loc[about_observers, "verdict"]) == {"cannot be decided at this scale"}
    others = ["ten-slices-muscle", "levels-off", "segmentation-first-at-5", "area-not-different"]
    assert (alone.loc[others] == paper_like.loc[others]).all(axis=None)


def test_the_printed_tables_bear_out_what_they_decide(paper_like):
    printed = paper_like["printed"]
    assert printed["better-from-50"] == printed["distance-from-25"] == printed["ten-slices"] == "bears it out"
    assert printed["observers-dice"] == ""
    assert set(printed) <= {"", "bears it out", "does not"}


@pytest.mark.parametrize(
    ("p_value", "low", "high", "relation", "expected"),
    [
        (1e-5, 0.01, 0.05, "better", True),
        (1e-5, 0.01, 0.05, "worse", False),
        (1e-5, 0.01, 0.05, "no difference", False),
        (1e-5, 0.01, 0.05, "not worse", True),
        (1e-5, -0.05, -0.01, "better", False),
        (1e-5, -0.05, -0.01, "worse", True),
        (1e-5, -0.05, -0.01, "not worse", False),
        (0.5, -0.01, 0.01, "no difference", True),
        (0.5, -0.01, 0.01, "better", False),
        (0.5, -0.01, 0.2, "no difference", None),
        (0.5, -0.01, 0.2, "better", None),
        (0.5, -0.01, 0.2, "not worse", True),
        (0.5, -0.2, 0.01, "not worse", None),
        (np.nan, np.nan, np.nan, "better", None),
        (np.nan, np.nan, np.nan, "no difference", None),
    ],
)
def test_no_difference_needs_more_than_a_test_that_finds_none(p_value, low, high, relation, expected):
    one = Compared("cell", p_value, (low + high) / 2, low, high)
    assert decide(one, relation, margin=0.02, alpha=ALPHA) is expected


def test_one_comparison_against_a_claim_refutes_it_and_an_open_one_leaves_it_open():
    assert all_of([True, True]) is True
    assert all_of([True, None]) is None
    assert all_of([None, False, True]) is False
    assert all_of([]) is None
    assert set(VERDICTS) == {True, False, None}


def test_the_starts_are_the_papers():
    assert set(TASKS) == set(AS_PAPER)
