"""Each statement on made-up tests: which of them it reads, what they must say, and when it stays open."""

import re
from itertools import combinations, cycle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from l3muscle.statistics import (
    claims,
    dunnett_table,
    learning_curve_table,
    mixed_model_pairs,
    mixed_model_table,
    plateau_table,
)
from l3muscle.statistics.claims import ALPHA, MARGINS, Claim, Compared, Evidence, Outcome, decide, ledger
from l3muscle.statistics.printed import printed_cells, printed_pairs

TASKS = ("random", "classification", "segmentation", "jigsaw", "reconstruction")
OTHERS = ("random", "classification", "jigsaw", "reconstruction")
TRANSFERRED = ("segmentation", "classification", "jigsaw")
SIZES = (5, 10, 25, 50, 75, 100, 125)
DICE, DTA, SMD, SMA = "dice", "rms_dta_cm", "smd_difference_hu", "sma_difference_cm2"

# What the paper's sentences speak of: measure, relation to the observers or the expert, starts, sizes.
CELLS = {
    "ten-slices": [(DICE, "not worse", ["segmentation"], [10]), (DTA, "not worse", ["segmentation"], [10])],
    "ten-slices-muscle": [(m, "no difference", ["segmentation"], [10]) for m in (SMD, SMA)],
    "better-from-50": [(DICE, "better", TASKS, [50, 75, 100, 125])],
    "distance-from-25": [(DTA, "no difference", TASKS, [25, 50, 75, 100, 125])],
    "only-segmentation-at-5": [(DICE, "not worse", ["segmentation"], [5]), (DICE, "worse", OTHERS, [5])],
    "three-at-10-dice": [(DICE, "no difference", TRANSFERRED, [10])],
    "three-at-10-distance": [(DTA, "no difference", TRANSFERRED, [10])],
    "two-worse-at-10": [(DICE, "worse", ["random", "reconstruction"], [10])],
    "all-far-at-5": [(DTA, "worse", TASKS, [5])],
    "density-not-different": [
        (SMD, "no difference", TASKS[1:], SIZES),
        (SMD, "no difference", ["random"], [10, 25, 50, 75, 100, 125]),
    ],
    "random-density": [(SMD, "difference", ["random"], [5])],
    "area-not-different": [(SMA, "no difference", TASKS, SIZES)],
}
# The same of pairs: relation of the first to the second, by RMS-DTA.
PAIRS = {
    "no-difference-from-25": (
        "no difference",
        [("segmentation", "classification"), ("segmentation", "jigsaw")],
        [25, 50, 75, 100, 125],
    ),
    "segmentation-first-at-5": ("better", [("segmentation", task) for task in OTHERS], [5]),
    "segmentation-first-at-10": ("better", [("segmentation", task) for task in OTHERS], [10]),
    "classification-is-jigsaw": ("no difference", [("classification", "jigsaw")], SIZES),
    "random-behind": ("worse", [("random", task) for task in TRANSFERRED], [25, 50, 75]),
}
# p-value, and in margins the gain, low and high end of its interval.
FINDINGS = {
    "better": (1e-9, 3, 2, 4),
    "worse": (1e-9, -3, -4, -2),
    "alike": (0.5, 0.2, -0.5, 0.9),
    "open": (0.5, 0, -3, 3),
    "not ahead": (0.5, -1, -3, 0.5),
    "not behind": (0.5, 1, -0.5, 3),
}
TRUE = {
    "better": ["better"],
    "worse": ["worse"],
    "no difference": ["alike"],
    "not worse": ["better", "not behind", "alike"],
    "difference": ["worse", "better"],
}
FALSE = {
    "better": ["worse", "not ahead", "alike"],
    "worse": ["better", "not behind", "alike"],
    "no difference": ["better", "worse"],
    "not worse": ["worse"],
    "difference": ["alike"],
}
OPEN = {
    "better": ["open", "not behind"],
    "worse": ["open", "not ahead"],
    "no difference": ["open", "not ahead", "not behind"],
    "not worse": ["open", "not ahead"],
    "difference": ["open", "not ahead", "not behind"],
}


@pytest.fixture
def statements() -> dict[str, Claim]:
    """Made anew for each test, so that what makes them runs in it."""
    return {claim.name: claim for claim in claims._claims()}


class Given:
    """Evidence whose comparisons are given: those of `findings`, and of all others nothing can be told."""

    def __init__(self, findings: dict[tuple, str]) -> None:
        self.findings = dict(findings)

    def _compared(self, name: str, key: tuple, margin: float) -> Compared:
        p_value, *rest = FINDINGS[self.findings.get(key, "open")]
        return Compared(name, p_value, *(margin * value for value in rest))

    def against_control(self, metric, tasks, sizes) -> list[Compared]:
        return [self._compared(f"{t} n = {n}", (metric, t, n), MARGINS[metric]) for t in tasks for n in sizes]

    def between(self, pairs, sizes) -> list[Compared]:
        return [self._compared(f"{a} / {b} n = {n}", (a, b, n), MARGINS[DTA]) for a, b in pairs for n in sizes]


def keys_of(name: str) -> dict[tuple, str]:
    """What a statement is about, each with the relation that it states."""
    if name in CELLS:
        return {(m, task, n): relation for m, relation, tasks, sizes in CELLS[name] for task in tasks for n in sizes}
    relation, pairs, sizes = PAIRS[name]
    return {(*pair, n): relation for pair in pairs for n in sizes}


@pytest.mark.parametrize("name", [*CELLS, *PAIRS])
def test_a_statement_reads_every_comparison_it_is_about_and_no_other(statements, name):
    check, relations = statements[name].check, keys_of(name)
    bearing_out = {relation: cycle(findings) for relation, findings in TRUE.items()}
    given = Given({key: next(bearing_out[relation]) for key, relation in relations.items()})
    assert check(given).decision is True
    for findings, expected in ((FALSE, False), (OPEN, None)):
        turning = {relation: cycle(choices) for relation, choices in findings.items()}
        for key, relation in relations.items():
            assert check(Given({**given.findings, key: next(turning[relation])})).decision is expected, key


@pytest.mark.parametrize("name", CELLS)
def test_the_print_bears_a_statement_out_by_its_own_cells_and_no_others(statements, monkeypatch, name):
    relations, tables = keys_of(name), {metric: printed_cells(metric) for metric in MARGINS}
    # Printed below 0.001 (or not), and underlined as worse (or not).
    states = {"better": (True, ""), "worse": (True, "worse"), "alike": (False, ""), "marked": (False, "worse")}
    true = {**TRUE, "not worse": ["better", "alike", "marked"], "no difference": ["alike", "marked"]}
    false = {**FALSE, "better": ["worse", "alike", "marked"], "worse": ["better", "alike", "marked"]}

    def bears_out(own: dict[tuple, str], others: str) -> bool:
        changed = {}
        for metric, table in tables.items():
            keys = zip(table["source_task"], table["n_train"], strict=True)
            below, marked = zip(*(states[own.get((metric, *key), others)] for key in keys), strict=True)
            changed[metric] = table.assign(below=below, marked=marked)
        monkeypatch.setattr(claims, "printed_cells", changed.__getitem__)
        return statements[name].printed()

    choices = {relation: cycle(states_) for relation, states_ in true.items()}
    stated = {key: next(choices[relation]) for key, relation in relations.items()}
    # One or the other would refute any statement that read them.
    assert bears_out(stated, "worse") is bears_out(stated, "marked") is True
    choices = {relation: cycle(states_) for relation, states_ in false.items()}
    for key, relation in relations.items():
        assert bears_out({**stated, key: next(choices[relation])}, "alike") is False, key


@pytest.mark.parametrize("name", PAIRS)
def test_the_print_bears_a_statement_out_by_its_own_pairs_and_no_others(statements, monkeypatch, name):
    relation, pairs, sizes = PAIRS[name]
    # Appendix C prints no direction: below 0.001 is a difference.
    stated = relation != "no difference"
    table = printed_pairs()
    own = [
        {first, second} in [set(pair) for pair in pairs] and n in sizes
        for first, second, n in zip(table["first"], table["second"], table["n_train"], strict=True)
    ]
    assert sum(own) == 2 * len(pairs) * len(sizes)  # both mirror cells
    below = np.where(own, stated, not stated)
    monkeypatch.setattr(claims, "printed_pairs", lambda: table.assign(below=below))
    assert statements[name].printed() is True
    for place in np.flatnonzero(own):
        changed = below.copy()
        changed[place] = not stated
        monkeypatch.setattr(claims, "printed_pairs", lambda changed=changed: table.assign(below=changed))
        assert statements[name].printed() is False


def test_the_print_as_it_stands_bears_out_all_that_it_can_decide(statements):
    printed = {name: claim.printed() for name, claim in statements.items() if claim.printed is not None}
    assert printed == dict.fromkeys([*CELLS, *PAIRS], True)


# --- words -----------------------------------------------------------------------------------------------------


def test_every_statement_is_a_sentence_with_a_place_in_the_paper(statements):
    section = r"(Abstract|3|4|(Table|Figure) \d|Appendix [A-D])"
    for name, claim in statements.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name)
        assert re.fullmatch(rf"{section}(, {section})?", claim.section), name
        for text in (claim.text, claim.test):
            assert re.match(r"[A-Za-z][a-z]+[\w'-]* ", text) and not text.endswith((".", "X")), name
        assert claim.text[0].isupper()
        # Names of measures and of people keep their capitals.
        assert not re.search(r"\b(dice|rms|dta|smd|sma|hu|dunnett|mann|whitney|levene)\b", claim.text + claim.test)


def test_every_statement_is_shown_by_a_figure_or_table_of_the_book(statements):
    notebooks = Path(__file__).parent.parent / "notebooks"
    shown = set()
    for path in notebooks.glob("*.ipynb"):
        shown |= set(re.findall(r"\"?name\\?\"?(?:: |=)\\?\"((?:fig|tab)-[a-z-]+)", path.read_text(encoding="utf-8")))
    assert {claim.anchor for claim in statements.values()} <= shown


def test_what_shows_a_statement_is_of_its_measure(statements):
    tables = {DICE: "tab-dunnett-dice", DTA: "tab-dunnett-dta", SMD: "tab-dunnett-smd", SMA: "tab-dunnett-sma"}
    for name, (first, *_) in CELLS.items():
        assert statements[name].anchor == ("fig-dice" if name == "ten-slices" else tables[first[0]])
    for name in (*PAIRS, "matters-when-few"):
        assert statements[name].anchor == "fig-pairs"
    for name in ("common-plateau", "differences-shrink", "scatter-falls"):
        assert statements[name].anchor == "fig-dice"
    assert statements["random-at-5-far"].anchor == "fig-dta"
    assert statements["density-error-shrinks"].anchor == "fig-smd"
    assert statements["area-error-shrinks"].anchor == "fig-sma"
    assert {statements[f"observers-{end}"].anchor for end in ("dice", "dta", "smd", "sma")} == {"tab-observers"}
    assert statements["order-of-magnitude"].anchor == "tab-needed"
    assert statements["levels-off"].anchor == "tab-plateau"


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("better-from-50", "Dunnett against the observers"),
        ("two-worse-at-10", "Dunnett against the observers"),
        ("three-at-10-dice", "Dunnett against the observers; interval within ±0.02"),
        ("distance-from-25", "Dunnett against the observers; interval within ±0.1"),
        ("density-not-different", "Dunnett against the expert; interval within ±5"),
        ("area-not-different", "Dunnett against the expert; interval within ±10"),
        ("segmentation-first-at-5", "Mann-Whitney of RMS-DTA"),
        ("classification-is-jigsaw", "Mann-Whitney of RMS-DTA; interval within ±0.1 cm"),
    ],
)
def test_a_margin_is_named_where_no_difference_is_stated(statements, name, test):
    assert statements[name].test == test


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (Compared("a", 0.0371, 0.01234, -0.01, 0.0345), "a: +0.0123 (-0.01 to +0.0345), p = 0.037"),
        (Compared("a", 0.0009, -2.0, -3.0, -1.0), "a: -2 (-3 to -1), p < 0.001"),
        (Compared("a", 0.001, -2.0, np.nan, np.nan), "a: -2, p = 0.001"),
        (Compared("a", np.nan, 0.5, 0.25, 0.75), "a: +0.5 (+0.25 to +0.75), n/a"),
        (Compared("a", 0.5, np.nan, np.nan, np.nan), "a: +nan, p = 0.500"),
        (Compared("a", np.nan, np.nan, np.nan, np.nan), "a: not run"),
    ],
)
def test_a_comparison_in_words(one, text):
    assert str(one) == text


def test_few_comparisons_are_all_told_and_of_many_how_many_agree(statements):
    few, many = statements["three-at-10-dice"], statements["better-from-50"]
    one = f"n = 10: +{0.2 * 0.02:.3g} (-{0.5 * 0.02:.3g} to +{0.9 * 0.02:.3g}), p = 0.500"
    given = Given(dict.fromkeys(keys_of("three-at-10-dice"), "alike"))
    assert few.check(given).numbers == "; ".join(f"{task} {one}" for task in TRANSFERRED)

    given = Given(dict.fromkeys(keys_of("better-from-50"), "better"))
    assert many.check(given).numbers == "20 of 20 comparisons agree"
    given.findings[DICE, "jigsaw", 75] = given.findings[DICE, "jigsaw", 100] = "open"
    open_ = "jigsaw n = 75: +0 (-0.06 to +0.06), p = 0.500"
    assert many.check(given).numbers == f"18 of 20 comparisons agree; 2 cannot tell, such as {open_}"
    given.findings[DICE, "segmentation", 125] = given.findings[DICE, "jigsaw", 50] = "worse"
    given.findings[DICE, "reconstruction", 50] = "worse"
    against = "segmentation n = 125: -0.06 (-0.08 to -0.04), p < 0.001"
    assert many.check(given).numbers == f"15 of 20 comparisons agree; 3 disagree, such as {against}"


def test_a_statement_of_two_parts_tells_both(statements):
    given = Given({(DICE, "segmentation", 10): "better", (DTA, "segmentation", 10): "worse"})
    dice, distance = "+0.06 (+0.04 to +0.08)", "-0.3 (-0.4 to -0.2)"
    told = f"segmentation n = 10: {dice}, p < 0.001; segmentation n = 10: {distance}, p < 0.001"
    assert statements["ten-slices"].check(given) == Outcome(False, told)
    given = Given({(SMD, "random", 5): "worse"})
    assert statements["random-density"].check(given).numbers == "random n = 5: -15 (-20 to -10), p < 0.001"


def test_the_ledger_has_a_row_a_statement_with_all_that_is_known_of_it(monkeypatch):
    def claim(name: str, decision: bool | None, printed) -> Claim:
        words = {part: f"{part} of {name}" for part in ("section", "text", "test", "anchor")}
        return Claim(
            name=name, **words, check=lambda evidence: Outcome(decision, f"{evidence} {name}"), printed=printed
        )

    made_up = (claim("a", True, lambda: True), claim("b", False, lambda: False), claim("c", None, None))
    monkeypatch.setattr(claims, "CLAIMS", made_up)
    verdicts = ["holds", "does not hold", "cannot be decided at this scale"]
    assert ledger("numbers of").to_dict("records") == [
        {
            "claim": name,
            "section": f"section of {name}",
            "statement": f"text of {name}",
            "test": f"test of {name}",
            "numbers": f"numbers of {name}",
            "verdict": verdict,
            "printed": printed,
            "anchor": f"anchor of {name}",
        }
        for name, verdict, printed in zip("abc", verdicts, ["bears it out", "does not", ""], strict=True)
    ]


# --- decisions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_value", "gain", "low", "high", "relation", "expected"),
    [
        # Exactly at alpha is not below it.
        (ALPHA, 0.5, 0.1, 0.9, "better", None),
        (ALPHA, -0.5, -0.9, -0.1, "worse", None),
        (ALPHA, 0.0, -0.01, 0.01, "no difference", True),
        (ALPHA, -0.5, -0.9, -0.1, "not worse", None),
        # A significant difference of nothing is in nobody's favour.
        (0.0, 0.0, 0.0, 0.0, "better", False),
        (0.0, 0.0, 0.0, 0.0, "worse", False),
        (0.0, 0.0, 0.0, 0.0, "not worse", False),
        # Exactly at the margin is not inside it.
        (0.5, 0.0, -0.25, 0.125, "no difference", None),
        (0.5, 0.0, -0.125, 0.25, "no difference", None),
        (0.5, 0.0, -0.125, 0.125, "no difference", True),
        (0.5, 0.0, -0.5, 0.25, "better", None),
        (0.5, 0.0, -0.5, 0.125, "better", False),
        (0.5, 0.0, -0.25, 0.5, "worse", None),
        (0.5, 0.0, -0.125, 0.5, "worse", False),
        (0.5, 0.0, -0.25, 0.5, "not worse", None),
        (0.5, 0.0, -0.125, 0.5, "not worse", True),
        # With no test and an interval, the interval alone decides what it can.
        (np.nan, 0.0, -0.125, 0.125, "no difference", True),
        (np.nan, 1.0, 0.5, 1.5, "better", None),
    ],
)
def test_alpha_and_margin_are_limits_that_do_not_belong_to_the_inside(p_value, gain, low, high, relation, expected):
    assert decide(Compared("cell", p_value, gain, low, high), relation, 0.25) is expected


def test_alpha_is_the_papers_and_another_can_be_asked_for():
    found = Compared("cell", 0.01, 1.0, 0.5, 1.5)
    assert ALPHA == 0.001  # Section 2.4 and the stars of the tables
    for relation, at_1_in_1000, at_1_in_20 in (
        ("better", None, True),
        ("worse", False, False),
        ("no difference", None, False),
        ("not worse", True, True),
    ):
        assert decide(found, relation, 0.25) is at_1_in_1000
        assert decide(found, relation, 0.25, alpha=0.05) is at_1_in_20
    lost = Compared("cell", 0.01, -1.0, -1.5, -0.5)
    assert decide(lost, "worse", 0.25) is None and decide(lost, "worse", 0.25, alpha=0.05) is True
    assert decide(lost, "not worse", 0.25) is None and decide(lost, "not worse", 0.25, alpha=0.05) is False


# --- the observers' means --------------------------------------------------------------------------------------


def two_images(metric: str, mean: float, error: float) -> Evidence:
    """Observers with this mean over images, and its standard error: half the distance of two images."""
    values = [mean - error, mean + error, np.nan]
    table = pd.DataFrame({"observer": "o1", "patient_id": ["p1", "p2", "p3"], metric: values})
    return Evidence(pd.DataFrame(), table)


@pytest.mark.parametrize(
    ("name", "metric", "reported"),
    [
        # Section 3 of the paper.
        ("observers-dice", DICE, 0.901),
        ("observers-dta", DTA, 0.318),
        ("observers-smd", SMD, -6.045),
        ("observers-sma", SMA, -5.135),
    ],
)
def test_the_observers_mean_is_the_reported_one_give_or_take_the_margin(statements, name, metric, reported):
    margin, check = MARGINS[metric], statements[name].check
    for side in (-1, 1):
        for off, half, expected in (
            (0.5, 0.49, True),
            (0.5, 0.51, None),
            (1.5, 0.51, None),
            (1.5, 0.49, False),
            (0.0, 1.01, None),
            (0.0, 3.0, None),
        ):
            evidence = two_images(metric, reported + side * off * margin, half * margin / 1.96)
            assert check(evidence).decision is expected, (side, off, half)
    low, high = reported - 0.5 * margin, reported + 0.5 * margin
    told = check(two_images(metric, reported, 0.5 * margin / 1.96)).numbers
    assert told == f"{reported:.3f} ({low:.3f} to {high:.3f}) against {reported}"


def test_without_observers_their_means_and_the_slices_needed_are_not_decided(statements):
    nobody = Evidence(pd.DataFrame(), pd.DataFrame([]))
    for name in ("observers-dice", "observers-dta", "observers-smd", "observers-sma", "order-of-magnitude"):
        assert statements[name].check(nobody) == Outcome(None, "this cohort has no observers")


# --- the course of the curves ----------------------------------------------------------------------------------


def curve(cells: dict[tuple[str, int], tuple[float, float]], **more) -> SimpleNamespace:
    """Evidence with a learning curve: the mean of each cell, and half its interval."""
    rows = [
        {"source_task": task, "n_train": n, "mean": mean, "low": mean - half, "high": mean + half}
        for (task, n), (mean, half) in cells.items()
    ]
    sizes = [n for _, n in cells]
    asked = {}
    table = pd.DataFrame(rows)
    return SimpleNamespace(
        curve=lambda metric: table.assign(**asked.setdefault(metric, {})),
        asked=asked,
        smallest=min(sizes),
        largest=max(sizes),
        **more,
    )


def test_one_plateau_is_every_start_within_the_margin_of_the_papers(statements):
    check = statements["common-plateau"].check
    ends = dict.fromkeys(((task, 50) for task in TASKS), (0.93, 0.01))
    starts = dict.fromkeys(((task, 5) for task in TASKS), (0.5, 0.01))
    evidence = curve({**starts, **ends})
    told = ", ".join(f"{task} 0.930" for task in TASKS)
    assert check(evidence) == Outcome(True, f"at n = 50: {told}")
    assert list(evidence.asked) == [DICE]
    for mean, expected in ((0.9201, True), (0.9199, False), (0.9599, True), (0.9601, False)):
        assert check(curve({**starts, **ends, ("jigsaw", 50): (mean, 0.5)})).decision is expected
    without = {key: value for key, value in {**starts, **ends}.items() if key != ("reconstruction", 50)}
    assert check(curve(without)) == Outcome(None, "not every source task was run")


def test_starts_draw_near_if_their_range_shrinks_by_more_than_both_intervals(statements):
    check = statements["differences-shrink"].check

    def means(first: float, last: float, half: float) -> dict:
        return {
            ("random", 5): (0.25, half),
            ("jigsaw", 5): (0.25 + first, 0.0),
            ("segmentation", 5): (0.25 + first / 2, 0.0),
            ("random", 25): (0.5, 9.0),
            ("jigsaw", 25): (0.75, 9.0),
            ("random", 50): (0.25, 0.0),
            ("jigsaw", 50): (0.25 + last, 0.125),
        }

    evidence = curve(means(0.5, 0.25, 0.0625))
    told = "range of the mean Dice 0.500 at n = 5, 0.250 at n = 50"
    assert check(evidence) == Outcome(True, told)
    assert list(evidence.asked) == [DICE]
    assert check(curve(means(0.5, 0.25, 0.125))) == Outcome(None, told)  # exactly as much as the intervals
    assert check(curve(means(0.25, 0.5, 0.0625))).decision is False
    assert check(curve(means(0.25, 0.5, 0.125))).decision is None
    too_little = Outcome(None, "fewer than two sizes or source tasks")
    assert check(curve({("random", 5): (0.2, 0.0), ("jigsaw", 5): (0.9, 0.0)})) == too_little
    assert check(curve({("random", 5): (0.2, 0.0), ("random", 50): (0.9, 0.0)})) == too_little


def test_nothing_is_gained_beyond_100_if_no_start_gains(statements):
    check = statements["levels-off"].check
    tops = {(task, n): (0.94, 0.003 if n == 100 else 0.004) for task in TASKS for n in (100, 125)}
    halves = {**tops, **dict.fromkeys(((task, 50) for task in TASKS), (0.9, 5.0))}

    def outcome(p_value: float = 0.5, gain: float = 0.0, tasks=TASKS) -> Outcome:
        rows = [
            # Of other sizes nothing is asked.
            *({"source_task": t, "n_train": 50, "versus": 125, "difference": -1.0, "p_value": 0.0} for t in tasks),
            *({"source_task": t, "n_train": 100, "versus": 150, "difference": -1.0, "p_value": 0.0} for t in tasks),
            *({"source_task": t, "n_train": 100, "versus": 125, "difference": 0.0, "p_value": 0.5} for t in tasks),
        ]
        # The table has the smaller size less the larger.
        rows[-1] |= {"difference": -gain, "p_value": p_value}
        asked = []

        def plateau(metric: str) -> pd.DataFrame:
            asked.append(metric)
            return pd.DataFrame(rows)

        evidence = curve(halves, plateau=plateau)
        found = check(evidence)
        assert asked == [DICE] and set(evidence.asked) <= {DICE}
        return found

    assert outcome() == Outcome(True, "5 of 5 comparisons agree")
    # Half the interval of a difference of means with halves 0.003 and 0.004 is 0.005.
    assert outcome(gain=0.0149).decision is True and outcome(gain=-0.0149).decision is True
    assert outcome(gain=0.0151).decision is None and outcome(gain=-0.0151).decision is None
    assert outcome(p_value=ALPHA).decision is True
    lost = "reconstruction: +0.01 (+0.005 to +0.015), p < 0.001"
    assert outcome(p_value=1e-9, gain=0.01) == Outcome(False, f"4 of 5 comparisons agree; 1 disagree, such as {lost}")
    assert outcome(tasks=TASKS[:4]) == Outcome(None, "n = 100 and 125 were not run for every source task")


def test_the_worst_cell_is_far_if_its_interval_lies_above_that_of_every_other(statements):
    check = statements["random-at-5-far"].check

    def cells(mean: float, half: float) -> SimpleNamespace:
        others = {("random", 10): (0.5, 9.0), ("jigsaw", 5): (1.0, 0.25), ("segmentation", 5): (0.25, 9.0)}
        return curve({**others, ("random", 5): (mean, half)})

    evidence = cells(1.75, 0.25)
    assert check(evidence) == Outcome(True, "1.75 cm; the worst of the others, jigsaw n = 5, 1.00 cm")
    assert list(evidence.asked) == [DTA]
    for mean, half, expected in (
        (1.75, 0.5, None),  # touches the next
        (1.75, 0.75, None),
        (0.5, 0.125, False),
        (0.5, 0.25, None),  # touches it from below
        (0.5, 0.5, None),
    ):
        assert check(cells(mean, half)).decision is expected
    not_run = Outcome(None, "random initialisation at n = 5 was not run")
    assert check(curve({("random", 10): (1.0, 0.1), ("jigsaw", 5): (0.5, 0.1)})) == not_run
    assert check(curve({("random", 5): (1.0, 0.1)})) == not_run
    assert check(curve({("random", 5): (1.0, 0.1), ("jigsaw", 5): (0.5, 0.1)})).decision is True


def test_an_order_of_magnitude_is_at_most_16_slices_with_all_of_the_interval(statements, monkeypatch):
    check = statements["order-of-magnitude"].check
    observers = pd.DataFrame({"observer": ["o"]})

    def outcome(low: float, high: float, *, needed: float = 10.0, task: str = "segmentation") -> Outcome:
        def table(scores, of_observers, metric):
            assert scores is evidence.scores and of_observers is observers and metric == DICE
            rows = [("jigsaw", 100.0, 90.0, 110.0, "100"), (task, needed, low, high, "10 (from to)")]
            return pd.DataFrame(rows, columns=["source_task", "needed", "low", "high", "text"])

        evidence = Evidence(pd.DataFrame(), observers)
        monkeypatch.setattr(claims, "slices_needed_table", table)
        return check(evidence)

    assert outcome(0, 16) == Outcome(True, "10 (from to) slices needed")
    assert outcome(16, 16.5).decision is None
    assert outcome(16.5, 17).decision is False
    assert outcome(17, np.inf).decision is False
    unknown = Outcome(None, "the segmentation source task was not run, or too few models")
    assert outcome(0, 16, needed=np.nan) == unknown
    assert outcome(0, 16, task="random") == unknown


# --- scatter, errors, and pairs --------------------------------------------------------------------------------


def predictions(metric: str, cells: dict[tuple[str, int], list[float]]) -> Evidence:
    """Evidence with these values of one metric."""
    rows = [(task, n, value) for (task, n), values in cells.items() for value in values]
    return Evidence(pd.DataFrame(rows, columns=["source_task", "n_train", metric]), pd.DataFrame())


WIDE, NARROW = np.linspace(-0.3, 0.3, 41), np.linspace(-0.01, 0.01, 31)


def test_scatter_falls_where_levene_says_so_for_every_start(statements):
    check = statements["scatter-falls"].check
    middle = {("jigsaw", 25): list(0.5 + 10 * NARROW), ("random", 25): [0.0, 1.0]}
    falls = {("jigsaw", 5): [*(0.6 + WIDE), np.nan], ("jigsaw", 125): [*(0.9 + NARROW), np.nan]}
    assert stats.levene(WIDE, NARROW).pvalue < ALPHA
    told = f"jigsaw {np.std(WIDE, ddof=1):.3f} to {np.std(NARROW, ddof=1):.3f}"
    words = "standard deviation of Dice, "
    assert check(predictions(DICE, {**falls, **middle})) == Outcome(None, words + told)  # random lacks both ends
    both = {**falls, ("random", 5): list(0.2 + WIDE), ("random", 125): list(NARROW)}
    assert check(predictions(DICE, both)) == Outcome(True, f"{words}{told}, {told.replace('jigsaw', 'random')}")
    rises = {**both, ("random", 5): list(NARROW), ("random", 125): list(WIDE)}
    assert check(predictions(DICE, rises)).decision is False
    same = {**both, ("random", 5): list(0.1 + 1.1 * NARROW)}
    assert check(predictions(DICE, same)).decision is None
    assert check(predictions(DICE, {("jigsaw", 5): list(WIDE)})) == Outcome(None, "one size only")


@pytest.mark.parametrize(("name", "metric", "measure"), [("density", SMD, "SMD"), ("area", SMA, "SMA")])
def test_errors_shrink_where_mann_and_whitney_say_so_for_every_start(statements, name, metric, measure):
    check = statements[f"{name}-error-shrinks"].check
    large, small = 20 + 10 * WIDE, 2 + 10 * NARROW
    large[::2] *= -1  # of their size, not their sign
    assert stats.mannwhitneyu(np.abs(large), small).pvalue < ALPHA < stats.mannwhitneyu(large, small).pvalue
    told, words = "jigsaw 20.0 to 2.0", f"mean size of the error of {measure}, "
    falls = {("jigsaw", 5): [*large, np.nan], ("jigsaw", 125): [*-small, np.nan], ("random", 25): [1.0, 2.0, 3.0]}
    assert check(predictions(metric, falls)) == Outcome(None, words + told)  # random lacks both ends
    both = {**falls, ("random", 5): list(-large), ("random", 125): list(small)}
    assert check(predictions(metric, both)) == Outcome(True, f"{words}{told}, {told.replace('jigsaw', 'random')}")
    grow = {**both, ("random", 5): list(small), ("random", 125): list(large)}
    assert check(predictions(metric, grow)).decision is False
    same = {**both, ("random", 125): list(large[3:])}
    assert check(predictions(metric, same)).decision is None
    assert check(predictions(metric, {("jigsaw", 5): list(large)})) == Outcome(None, "one size only")


@pytest.mark.parametrize(("name", "metric"), [("scatter-falls", DICE), ("area-error-shrinks", SMA)])
def test_three_values_at_each_end_are_the_least_to_be_tested(statements, name, metric):
    for few, many, told in ((3, 3, True), (2, 3, False), (3, 2, False)):
        values = {("random", 5): [1.0, 2.0, 4.0][:few], ("random", 50): [1.0, 1.5, 3.0][:many]}
        outcome = statements[name].check(predictions(metric, values))
        assert outcome.decision is None
        assert ("random" in outcome.numbers) is told


def test_the_start_matters_most_where_a_larger_share_of_pairs_differs(statements):
    check = statements["matters-when-few"].check
    every = [(a, b, n) for place, a in enumerate(TASKS) for b in TASKS[place + 1 :] for n in SIZES]
    few, many = ([key for key in every if (key[2] < 25) is side] for side in (True, False))
    assert (len(few), len(many)) == (20, 50)

    def outcome(differing: list[tuple], known: list[tuple] = every) -> Outcome:
        def between(pairs, sizes) -> list[Compared]:
            asked = [(*pair, n) for pair in pairs for n in sizes]
            p_value = dict.fromkeys(known, ALPHA) | dict.fromkeys(differing, ALPHA / 2)
            return [Compared(str(key), p_value.get(key, np.nan), 0.0, 0.0, 0.0) for key in asked]

        return check(SimpleNamespace(between=between))

    share = "{} of the pairs differ below n = 25, {} from there on"
    assert outcome(few[:3] + many[:7]) == Outcome(True, share.format("15%", "14%"))
    assert outcome(few[:3] + many[:8]) == Outcome(False, share.format("15%", "16%"))
    assert outcome(few[:2] + many[:5]) == Outcome(None, share.format("10%", "10%"))
    too_few = Outcome(None, "too few pairs of source tasks were run")
    assert outcome([], few[:10] + many[:10]).decision is None
    assert outcome(few[:1], few[:10] + many[:10]) == Outcome(True, share.format("10%", "0%"))
    assert outcome(few[:1], few[:9] + many[:10]) == outcome(few[:1], few[:10] + many[:9]) == too_few


# --- evidence --------------------------------------------------------------------------------------------------

IMAGES = ["p1", "p2", "p3", "p4"]


def run() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A small run with a start that is better, and its observers; only the former has been run at n = 10."""
    rng = np.random.default_rng(5)
    expert = pd.DataFrame({"patient_id": IMAGES, "smd_expert": [30.0, 35, 20, 41], "sma_expert": [120.0, 150, 90, 131]})

    def outlines(off: float, **keys) -> pd.DataFrame:
        def values(mean: float, scatter: float) -> np.ndarray:
            return mean + scatter * rng.normal(size=len(IMAGES))

        table = expert.assign(**keys, failure="")
        table[DICE], table[DTA] = values(0.9 - 0.1 * off, 0.02), values(0.3 + off, 0.05)
        table[SMD], table[SMA] = values(-20 * off, 2), values(30 * off, 4)
        table["smd_hu"], table["sma_cm2"] = table["smd_expert"] + table[SMD], table["sma_expert"] + table[SMA]
        return table.drop(columns=["smd_expert", "sma_expert"])

    cells = {("random", 5): 1.0, ("segmentation", 5): 0.2, ("segmentation", 10): 0.1}
    scores = [
        outlines(off, source_task=task, n_train=n, fold=fold, subset=0, repeat=0)
        for (task, n), off in cells.items()
        for fold in range(2)
    ]
    observers = [outlines(0.15, observer=name) for name in ("o1", "o2")]
    return pd.concat(scores, ignore_index=True), pd.concat(observers, ignore_index=True)


def test_the_ends_of_a_run_are_its_smallest_and_largest_sizes():
    evidence = Evidence(*run())
    assert (evidence.smallest, evidence.largest) == (5, 10)
    assert isinstance(evidence.smallest, int) and isinstance(evidence.largest, int)


def test_curves_and_plateaus_are_those_of_their_metric_and_made_once():
    scores, observers = run()
    evidence = Evidence(scores, observers)
    for metric in (DICE, DTA, DICE):
        pd.testing.assert_frame_equal(evidence.curve(metric), learning_curve_table(scores, metric))
        pd.testing.assert_frame_equal(evidence.plateau(metric), plateau_table(scores, metric))
    assert evidence.curve(DICE) is evidence.curve(DICE)
    assert evidence.plateau(DICE) is evidence.plateau(DICE)


@pytest.mark.parametrize(("metric", "sign"), [(DICE, 1), (DTA, -1)])
def test_cells_are_held_against_the_observers_with_gains_counted_in_their_favour(metric, sign):
    scores, observers = run()
    tested = dunnett_table(scores, observers, metric).set_index(["source_task", "n_train"])
    mixed = mixed_model_table(scores, observers, metric).set_index(["source_task", "n_train"])
    evidence = Evidence(scores, observers)
    found = evidence.against_control(metric, ("segmentation", "random"), (10, 5))
    order = [("segmentation", 10), ("segmentation", 5), ("random", 5)]
    assert str(found.pop(2)) == "random n = 10: not run"
    assert [one.name for one in found] == [f"{task} n = {n}" for task, n in order]
    for key, one in zip(order, found, strict=True):
        assert one.p_value == tested.loc[key, "p_value"]
        own = scores.query("source_task == @key[0] and n_train == @key[1]")[metric].mean()
        assert one.gain == pytest.approx(sign * (own - observers[metric].mean()))
        assert [one.low, one.high] == sorted(sign * mixed.loc[key, ["low", "high"]])
    assert found[2].gain < found[1].gain < found[0].gain
    assert evidence.against_control(metric, ("random",), (5,)) == [found[2]]


@pytest.mark.parametrize(("metric", "measure"), [(SMD, "smd_hu"), (SMA, "sma_cm2")])
def test_density_and_area_are_held_against_the_experts_own_values_as_measured(metric, measure):
    scores, observers = run()
    expert = (scores[measure] - scores[metric]).groupby(scores["patient_id"]).mean()
    tested = dunnett_table(scores, expert.to_numpy(), measure).set_index(["source_task", "n_train"])
    mixed = mixed_model_table(scores, None, metric).set_index(["source_task", "n_train"])
    for given in (observers, pd.DataFrame([])):
        (one,) = Evidence(scores, given).against_control(metric, ("random",), (5,))
        assert one.p_value == tested.loc[("random", 5), "p_value"]
        assert one.gain == pytest.approx(scores.query("source_task == 'random' and n_train == 5")[metric].mean())
        assert [one.low, one.high] == mixed.loc[("random", 5), ["low", "high"]].tolist()


def test_what_was_not_run_or_has_no_observers_is_not_a_number():
    scores, observers = run()
    nothing, known = Evidence(scores, observers).against_control(SMA, ("random",), (10, 5))
    assert np.isnan([nothing.p_value, nothing.gain, nothing.low, nothing.high]).all()
    assert np.isfinite([known.p_value, known.gain, known.low, known.high]).all()
    alone = Evidence(scores, pd.DataFrame([])).against_control(DTA, ("random", "jigsaw"), (5, 10))
    assert [str(one) for one in alone] == [f"{t} n = {n}: not run" for t in ("random", "jigsaw") for n in (5, 10)]
    assert all(np.isnan([one.low, one.high]).all() for one in alone)


def test_a_pair_is_tested_by_mann_and_whitney_with_the_interval_of_the_mixed_model():
    scores, observers = run()
    evidence = Evidence(scores, observers)
    (one,), (other,) = (
        evidence.between([pair], (5,)) for pair in (("segmentation", "random"), ("random", "segmentation"))
    )
    at_5 = scores[scores["n_train"] == 5].groupby("source_task")[DTA]
    random, segmentation = at_5.get_group("random"), at_5.get_group("segmentation")
    assert one.p_value == other.p_value == pytest.approx(stats.mannwhitneyu(random, segmentation).pvalue)
    # A shorter distance is a gain; the table of pairs has random less segmentation.
    assert one.gain == pytest.approx(random.mean() - segmentation.mean())
    assert other.gain == pytest.approx(-one.gain)
    low, high = mixed_model_pairs(scores, DTA).loc[0, ["low", "high"]]
    assert 0 < low < one.gain < high
    assert (one.low, one.high) == (low, high)
    assert (other.low, other.high) == (-high, -low)
    assert one.name == "segmentation against random, n = 5"
    assert other.name == "random against segmentation, n = 5"


def test_a_pair_of_which_one_was_not_run_is_not_a_number():
    evidence = Evidence(*run())
    found = evidence.between([("segmentation", "random"), ("jigsaw", "random")], (10, 5))
    assert [one.name for one in found] == [
        f"{t} against random, n = {n}" for t in ("segmentation", "jigsaw") for n in (10, 5)
    ]
    known = found.pop(1)
    assert np.isfinite([known.p_value, known.gain, known.low, known.high]).all()
    for one in found:
        assert np.isnan([one.p_value, one.gain, one.low, one.high]).all()


def test_each_pair_of_many_gets_its_own_numbers(monkeypatch):
    rows = [(n, a, b) for n in SIZES for a, b in combinations(TASKS, 2)]
    table = pd.DataFrame(rows, columns=["n_train", "first", "second"])
    place = np.arange(len(table))
    mean = dict(zip(TASKS, (1.0, 2.0, 4.0, 8.0, 16.0), strict=True))
    cells = [(task, n, n * mean[task]) for task in TASKS for n in SIZES]
    means = pd.DataFrame(cells, columns=["source_task", "n_train", "mean"])
    monkeypatch.setattr(claims, "mann_whitney_pairs", lambda *_: table.assign(p_value=place / 100))
    monkeypatch.setattr(claims, "mixed_model_pairs", lambda *_: table.assign(low=place, high=place + 0.5))
    monkeypatch.setattr(claims, "learning_curve_table", lambda *_: means)
    evidence = Evidence(pd.DataFrame(), pd.DataFrame())
    pairs = list(combinations(TASKS, 2))
    found = {one.name: one for order in (pairs, [(b, a) for a, b in pairs]) for one in evidence.between(order, SIZES)}
    assert len(found) == 2 * len(rows)
    for p, (n, a, b) in enumerate(rows):
        gain = n * (mean[b] - mean[a])
        name = f"{a} against {b}, n = {n}"
        assert found[name] == Compared(name, p / 100, gain, -p - 0.5, -p)
        name = f"{b} against {a}, n = {n}"
        assert found[name] == Compared(name, p / 100, -gain, p, p + 0.5)
