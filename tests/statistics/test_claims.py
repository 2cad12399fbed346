"""The table of claims: every verdict can come out each way, and follows the tables it is given."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from l3muscle.metrics import MEASURES
from l3muscle.statistics import REPORTED_NAMES, dunnett_table, hierarchical_bootstrap_table, reported_p_values
from l3muscle.statistics import claims as module
from l3muscle.statistics.claims import TESTS, VERDICTS, Comparison, Run, all_of, claims, claims_table, decide

NAMES = list(dict.fromkeys(claims()["claim"]))
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


# Mean Dice and RMS-DTA of each source task at each size: the paper's findings, and their opposite.
AS_PAPER = {
    "segmentation": ((0.901, 0.55), (0.905, 0.312), *[(0.94, 0.316)] * 5),
    "classification": ((0.83, 0.80), (0.901, 0.325), *[(0.94, 0.316)] * 5),
    "jigsaw": ((0.83, 0.80), (0.901, 0.325), *[(0.94, 0.316)] * 5),
    "reconstruction": ((0.72, 1.0), (0.83, 0.8), (0.90, 0.322), *[(0.94, 0.322)] * 4),
    "random": ((0.60, 1.7), (0.80, 0.9), (0.88, 0.324), (0.94, 0.324), (0.94, 0.324), *[(0.94, 0.32)] * 2),
}


def as_paper(rng) -> pd.DataFrame:
    parts = []
    for task, means in AS_PAPER.items():
        for n_train, (dice, distance) in zip(SIZES, means, strict=True):
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
    for rank, task in enumerate(("random", "reconstruction", "classification", "jigsaw", "segmentation")):
        for step, n_train in enumerate(SIZES):
            dice = 0.93 - 0.01 * rank - (0.03 + 0.005 * rank) * step
            distance = 0.3 if step == 0 else 0.2 + 0.15 * rank + 0.3 * step
            if n_train == 10 and rank < 2:
                dice = 0.995
            for fold in range(4):
                errors = (10.0 * (step + 1) * (task != "random" or step > 0), 20.0 * (step + 1))
                keys = {"source_task": task, "n_train": n_train, "fold": fold, "subset": 0, "repeat": 0}
                parts.append(_rows(rng, dice, distance, *errors, 0.004 + 0.004 * step, **keys))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def paper_like() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return claims_table(as_paper(rng), observers(rng)).set_index("claim")


@pytest.fixture(scope="module")
def opposite() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return claims_table(reversed_findings(rng), observers(rng, shift=0.08)).set_index("claim")


@pytest.fixture(scope="module")
def tiny_run() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    scores = as_paper(rng).query("n_train == 5 and source_task == 'classification' and fold == 0")
    return claims_table(scores.reset_index(drop=True), observers(rng)).set_index("claim")


@pytest.mark.parametrize("name", NAMES)
def test_each_claim_holds_on_scores_like_the_papers(paper_like, name):
    row = paper_like.loc[name]
    assert row["verdict"] == "holds", row["numbers"]


@pytest.mark.parametrize("name", NAMES)
def test_no_claim_holds_on_the_opposite_findings(opposite, name):
    row = opposite.loc[name]
    assert row["verdict"] == "does not hold", row["numbers"]


def test_a_run_of_one_configuration_decides_nothing_about_the_others(tiny_run):
    about_others = tiny_run.drop(index=[name for name in tiny_run.index if name.startswith("observers-")])
    assert not (about_others["verdict"] == "holds").any()


def test_without_observers_no_statement_about_them_is_decided(paper_like):
    rng = np.random.default_rng(0)
    alone = claims_table(as_paper(rng), pd.DataFrame([])).set_index("claim")
    about_observers = ["ten-slices", "observers-dice", "better-from-50", "order-of-magnitude", "all-far-at-5"]
    assert set(alone.loc[about_observers, "verdict"]) == {"cannot be decided at this scale"}
    others = ["ten-slices-muscle", "levels-off", "segmentation-first-at-5", "area-not-different"]
    assert (alone.loc[others] == paper_like.loc[others]).all(axis=None)


def test_the_numbers_count_the_comparisons_that_agree(paper_like, opposite):
    assert paper_like.loc["scatter-falls", "numbers"] == "DSC: 5 of 5 comparisons agree"
    assert paper_like.loc["area-not-different", "numbers"] == "SMA, cm²: 35 of 35 comparisons agree"
    assert opposite.loc["scatter-falls", "numbers"].startswith(
        "DSC: 0 of 5 comparisons agree; 5 disagree, such as random: -"
    )


def test_a_difference_in_words_is_the_first_minus_the_second(paper_like):
    farther = Comparison("random n = 5", 0.0005, gain=-0.25, low=-0.5, high=-0.125, sign=-1.0)
    assert str(farther) == "random n = 5: +0.25 (+0.125 to +0.5), p < 0.001"
    assert "inf" not in "".join(paper_like["numbers"])


def test_the_printed_tables_bear_out_what_they_decide(paper_like):
    printed = paper_like["printed"]
    assert printed["better-from-50"] == printed["two-worse-at-10"] == "supported"
    # A p-value above the level does not show that two things are alike.
    assert printed["distance-from-25"] == printed["ten-slices"] == "not contradicted"
    assert printed["observers-dice"] == ""
    assert printed["segmentation-first-at-5"] == "a difference, without its direction"
    assert set(printed) <= {"", "supported", "not contradicted", "not supported", "a difference, without its direction"}


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
        (1e-5, -0.05, -0.01, "differs", True),
        (0.5, -0.01, 0.01, "differs", False),
        (0.5, -0.01, 0.2, "differs", None),
        (np.nan, -0.01, 0.01, "about", True),
        (np.nan, 0.021, 0.2, "about", False),
        (np.nan, -0.2, -0.021, "about", False),
        (np.nan, -0.2, 0.01, "about", None),
        (np.nan, 0.0, 6.0, "at most", True),
        (np.nan, -np.inf, -0.5, "at most", False),
        (np.nan, -np.inf, 6.0, "at most", None),
        (1e-5, np.nan, np.nan, "better", False),  # a test without an interval: the gain's sign decides
        (0.5, np.nan, np.nan, "better", None),
        (np.nan, np.nan, np.nan, "better", None),
        (np.nan, np.nan, np.nan, "no difference", None),
    ],
)
def test_no_difference_needs_more_than_a_test_that_finds_none(p_value, low, high, relation, expected):
    gain = -1.0 if np.isnan(low) else (low + high) / 2
    one = Comparison("configuration", p_value, gain, low, high)
    assert decide(one, relation, margin=0.02) is expected


def test_one_comparison_against_a_claim_refutes_it_and_an_open_one_leaves_it_open():
    assert all_of([True, True]) is True
    assert all_of([True, None]) is None
    assert all_of([None, False, True]) is False
    assert all_of([]) is None
    assert set(VERDICTS) == {True, False, None}


def test_every_line_of_the_file_can_be_evaluated():
    table = claims()
    assert set(table["test"]) <= set(TESTS) and set(table["measure"]) <= set(MEASURES)
    assert (table["margin"].astype(float) >= 0).all()
    for line in table.itertuples():
        decide(Comparison(line.claim), line.relation, float(line.margin))
        assert set(line.source_tasks.split()) <= {"all", "observers", *AS_PAPER}, line.claim
    first = table.drop_duplicates("claim")
    assert (first[["section", "statement", "shown_in"]] != "").all(axis=None) and len(first) >= 24
    with pytest.raises(ValueError, match="unknown relation 'larger'"):
        decide(Comparison("one"), "larger", 0.1)


def test_what_shows_a_claim_is_in_the_book():
    notebooks = Path(__file__).parents[2] / "notebooks"
    text = "".join(path.read_text(encoding="utf-8") for path in notebooks.glob("*.ipynb"))
    for label in set(claims()["shown_in"]) - {""}:
        assert f'\\"{label}\\"' in text, label


@pytest.fixture(scope="module")
def some() -> Run:
    """Two sizes of three source tasks, and observers; no measure is another's mirror image."""
    rng = np.random.default_rng(3)
    scores = as_paper(rng).query("n_train in (5, 10) and source_task in ('random', 'jigsaw', 'segmentation')")
    return Run(scores.reset_index(drop=True), observers(rng))


def line(test: str, measure: str, **given) -> SimpleNamespace:
    return SimpleNamespace(test=test, measure=measure, **given)


def compared(run: Run, test: str, measure: str, **given) -> dict[str, Comparison]:
    return {one.name: one for one in TESTS[test](line(test, measure, **given), run)}


@pytest.mark.parametrize(("measure", "sign"), [("dice", 1), ("rms_dta_cm", -1)])
def test_configurations_are_compared_with_the_observers_with_gains_in_their_favour(some, measure, sign):
    found = compared(some, "dunnett", measure, source_tasks="random jigsaw", sizes="10 25", against="observers")
    tested = dunnett_table(some.scores, some.observers, measure).set_index(["source_task", "n_train"])
    drawn = hierarchical_bootstrap_table(some.scores, some.observers, measure).set_index(["source_task", "n_train"])
    for task in ("random", "jigsaw"):
        one = found[f"{task} n = 10"]
        assert one.p_value == tested.loc[(task, 10), "p_value"]
        assert one.gain == pytest.approx(sign * drawn.loc[(task, 10), "difference"])
        assert [one.low, one.high] == pytest.approx(sorted(sign * drawn.loc[(task, 10), ["low", "high"]]))
        assert str(found[f"{task} n = 25"]) == f"{task} n = 25: not run"


def test_density_is_compared_with_the_expert_as_measured(some):
    (one,) = compared(some, "dunnett", "smd_difference_hu", source_tasks="random", sizes="5", against="expert").values()
    control = np.sort(EXPERT["smd"])
    tested = dunnett_table(some.scores, control, "smd_hu").set_index(["source_task", "n_train"])
    assert one.p_value == pytest.approx(tested.loc[("random", 5), "p_value"])
    assert one.gain == pytest.approx(-47, abs=0.2) and one.low < one.gain < one.high


def test_a_pair_is_tested_by_mann_and_whitney_and_a_shorter_distance_is_a_gain(some):
    first, second = (
        compared(some, "mann_whitney", "rms_dta_cm", source_tasks=a, sizes="5", against=b)
        for a, b in (("segmentation", "random"), ("random", "segmentation"))
    )
    (one,), (other,) = first.values(), second.values()
    at_5 = some.scores[some.scores["n_train"] == 5].groupby("source_task")["rms_dta_cm"]
    expected = stats.mannwhitneyu(at_5.get_group("random"), at_5.get_group("segmentation"))
    assert one.p_value == other.p_value == pytest.approx(expected.pvalue)
    assert one.gain == pytest.approx(at_5.get_group("random").mean() - at_5.get_group("segmentation").mean())
    assert (other.gain, other.low, other.high) == pytest.approx((-one.gain, -one.high, -one.low))
    assert one.low < one.gain < one.high
    (missing,) = compared(
        some, "mann_whitney", "rms_dta_cm", source_tasks="segmentation", sizes="25", against="random"
    ).values()
    assert np.isnan([missing.p_value, missing.gain]).all()


def test_the_bootstrap_compares_with_all_others_or_one_another(some):
    found = compared(
        some, "bootstrap", "rms_dta_cm", source_tasks="random", sizes="5", against="every other configuration"
    )
    assert len(found) == 5 and all(name.startswith("random n = 5 against ") for name in found)
    assert all(one.high < 0 for one in found.values())  # the most distant of all
    pairs = compared(
        some, "bootstrap", "dice", source_tasks="random jigsaw segmentation", sizes="largest", against="one another"
    )
    assert len(pairs) == 3 and all(" n = 10 against " in name for name in pairs)


def test_a_mean_is_compared_with_the_printed_one(some):
    (one,) = compared(some, "mean", "dice", source_tasks="observers", sizes="", against="0.9").values()
    assert one.gain == pytest.approx(some.observers["dice"].mean() - 0.9) and np.isnan(one.p_value)
    assert one.low < one.gain < one.high
    found = compared(some, "mean", "dice", source_tasks="all", sizes="largest", against="0.94")
    assert str(found["classification n = 10 less 0.94"]).endswith("not run")
    assert found["random n = 10 less 0.94"].gain == pytest.approx(0.8 - 0.94, abs=0.01)


def test_the_spread_is_the_range_of_the_means(some):
    tasks = "random jigsaw segmentation"
    (one,) = compared(some, "spread", "dice", source_tasks=tasks, sizes="5", against="10").values()
    means = some.scores.groupby(["n_train", "source_task"])["dice"].mean().groupby("n_train").agg(np.ptp)
    assert one.gain == pytest.approx(means[5] - means[10]) and one.low < one.gain < one.high
    (open_,) = compared(some, "spread", "dice", source_tasks="all", sizes="5", against="10").values()
    assert str(open_).endswith("not run")


@pytest.mark.parametrize(("test", "measure"), [("levene", "dice"), ("error_size", "sma_difference_cm2")])
def test_both_ends_are_compared_by_source_task(some, test, measure):
    found = compared(some, test, measure, source_tasks="random classification", sizes="smallest", against="largest")
    few, many = (some.values(measure, "random", n) for n in (5, 10))
    if test == "levene":
        expected = stats.levene(few, many).pvalue, few.std(ddof=0) - many.std(ddof=0)
    else:
        expected = stats.mannwhitneyu(few.abs(), many.abs()).pvalue, few.abs().mean() - many.abs().mean()
    assert (found["random"].p_value, found["random"].gain) == pytest.approx(expected)
    assert str(found["classification"]) == "classification: not run"
    # One size alone has no ends.
    alone = Run(some.scores[some.scores["n_train"] == 5], some.observers)
    (one,) = compared(alone, test, measure, source_tasks="random", sizes="smallest", against="largest").values()
    assert np.isnan(one.p_value)


def test_what_is_needed_is_held_against_the_most(some, monkeypatch):
    rows = [("random", 20.0, 12.0, np.inf, "20 (12 to >25)"), ("jigsaw", np.nan, np.nan, np.nan, "n/a")]
    table = pd.DataFrame(rows, columns=["source_task", "needed", "low", "high", "text"])
    monkeypatch.setattr(module, "slices_needed_table", lambda *_: table)
    random, jigsaw, own = TESTS["slices_needed"](
        line("slices_needed", "dice", source_tasks="random jigsaw own", against="16"), some
    )
    assert (random.gain, random.low, random.high) == (-4, -np.inf, 4) and "20 (12 to >25)" in random.name
    assert str(jigsaw) == "jigsaw: not run" and str(own) == "own: not run"


def ended(*unsaturated: tuple[str, int]) -> pd.DataFrame:
    """Ten trainings of each configuration, of which two of the named ones were stopped by their budget."""
    table = pd.DataFrame(product(REPORTED_NAMES, SIZES, range(10)), columns=["source_task", "n_train", "model"])
    spent = [(row.source_task, row.n_train) in unsaturated and row.model < 2 for row in table.itertuples()]
    return table.assign(stopped=np.where(spent, "max_steps", "saturated"))


def test_trainings_that_did_not_saturate_decide_nothing(paper_like):
    rng = np.random.default_rng(0)
    scores, outlines = as_paper(rng), observers(rng)
    verdicts = {
        name: claims_table(scores, outlines, models=ended(*some)).set_index("claim")["verdict"]
        for name, some in {"all": (), "one": (("jigsaw", 10),), "none": tuple(product(REPORTED_NAMES, SIZES))}.items()
    }
    assert (verdicts["all"] == paper_like["verdict"]).all()
    changed = verdicts["one"].index[verdicts["one"] != paper_like["verdict"]]
    assert {"three-at-10-dice", "segmentation-first-at-10", "random-at-5-far", "matters-when-few"} <= set(changed)
    assert not {"ten-slices", "levels-off", "better-from-50", "segmentation-first-at-5"} & set(changed)
    about_models = [name for name in NAMES if not name.startswith("observers-")]
    assert set(verdicts["none"][about_models]) == {module.UNCONVERGED}


def test_what_the_phantom_was_given_is_no_finding(paper_like):
    rng = np.random.default_rng(0)
    tuned = claims_table(as_paper(rng), observers(rng), tuned_observers=True).set_index("claim")["verdict"]
    inputs = tuned == module.INPUT
    assert list(tuned.index[inputs]) == ["observers-dice", "observers-dta", "observers-smd", "observers-sma"]
    assert (tuned[~inputs] == paper_like["verdict"][~inputs]).all()


def test_the_print_is_read_value_by_value(monkeypatch):
    """Every line that the print decides turns when one of the values that it speaks of does."""
    table = reported_p_values()
    chosen = claims().query("test in ('dunnett', 'mann_whitney') and relation in ('better', 'worse', 'no difference')")
    for own in chosen.itertuples():
        task, n = module._tasks(own.source_tasks)[0], own.sizes.split()[-1]
        where = (table["source_task"] == REPORTED_NAMES[task]) & (table["n_train"] == int(n))
        where &= table["metric"] == MEASURES[own.measure].name
        where &= table["versus"] == (REPORTED_NAMES[own.against.split()[0]] if own.test == "mann_whitney" else "")
        true, false = ("1.0", "<0.001") if own.relation == "no difference" else ("<0.001", "1.0")
        outcomes = []
        for text in (true, false):
            marked = "worse" if own.relation == "worse" else ""
            every = table.assign(p_value_as_printed=true, marked=marked)
            every.loc[where, "p_value_as_printed"] = text
            monkeypatch.setattr("l3muscle.statistics.printed.reported_p_values", lambda changed=every: changed)
            outcomes.append(module._printed(own))
        assert outcomes == [True, False] and where.any(), own.claim
