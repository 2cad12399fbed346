"""The paper's statements as checks on a run's tables: what is claimed, which test decides it, and what this run says.

A difference that is claimed needs a significant test in its direction. That *no* difference exists is never concluded
from a test that finds none: the interval of the difference has to lie inside a margin as well. Where it does not, the
run is too small to tell, and the verdict says so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from l3muscle.statistics import (
    HIGHER_IS_BETTER,
    control_sample,
    dunnett_table,
    learning_curve_table,
    mann_whitney_pairs,
    mixed_model_pairs,
    mixed_model_table,
    observer_band,
    p_text,
    plateau_table,
    slices_needed_table,
)
from l3muscle.statistics.printed import printed_cells, printed_pairs

ALPHA = 0.001  # Section 3
# Differences that would not matter. Dice and RMS-DTA: well below what parts the paper's plateau from its observers.
# Density and area: one standard deviation of its observers.
MARGINS = {"dice": 0.02, "rms_dta_cm": 0.1, "smd_difference_hu": 5.0, "sma_difference_cm2": 10.0}
MEASURED = {"smd_difference_hu": "smd_hu", "sma_difference_cm2": "sma_cm2"}
NAMES = {"smd_difference_hu": "SMD", "sma_difference_cm2": "SMA"}
TASKS = ("random", "classification", "segmentation", "jigsaw", "reconstruction")
SIZES = (5, 10, 25, 50, 75, 100, 125)

Verdict = Literal["holds", "does not hold", "cannot be decided at this scale"]
VERDICTS: dict[bool | None, Verdict] = {
    True: "holds",
    False: "does not hold",
    None: "cannot be decided at this scale",
}
Relation = Literal["better", "worse", "no difference", "not worse"]


@dataclass(frozen=True)
class Compared:
    """One comparison: `gain` is in favour of what is named first, and `low` to `high` its 95 % interval."""

    name: str
    p_value: float
    gain: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.p_value) and np.isnan(self.gain):
            return f"{self.name}: not run"
        interval = "" if np.isnan(self.low) else f" ({self.low:+.3g} to {self.high:+.3g})"
        p_value = p_text(self.p_value)
        return f"{self.name}: {self.gain:+.3g}{interval}, {p_value if p_value[0] in 'pn' else f'p = {p_value}'}"


def decide(one: Compared, relation: Relation, margin: float, alpha: float = ALPHA) -> bool | None:
    """Whether a comparison bears out a relation; None where it cannot tell.

    Parameters
    ----------
    one : Compared
    relation : {"better", "worse", "no difference", "not worse"}
    margin : float
        Differences below it do not matter.
    alpha : float

    Returns
    -------
    bool or None
    """
    significant = one.p_value < alpha
    if relation == "worse":
        mirrored = Compared(one.name, one.p_value, -one.gain, -one.high, -one.low)
        return decide(mirrored, "better", margin, alpha)
    if relation == "better":
        if significant:
            return bool(one.gain > 0)
        return False if one.high < margin else None
    if relation == "no difference":
        if significant:
            return False
        return True if -margin < one.low and one.high < margin else None
    if significant:
        return bool(one.gain > 0)
    return True if one.low > -margin else None


def all_of(decisions: Iterable[bool | None]) -> bool | None:
    """True if all are, False if any is False, else None."""
    found = list(decisions)
    if False in found:
        return False
    return None if None in found or not found else True


@dataclass(frozen=True)
class Evidence:
    """A run's tables, and what is computed from them once for all claims.

    Attributes
    ----------
    scores, observers : DataFrame
        As `l3muscle.statistics` takes them; a cohort without observers has an empty table, which decides nothing.
    """

    scores: pd.DataFrame
    observers: pd.DataFrame
    _kept: dict[tuple, object] = field(default_factory=dict, repr=False, compare=False)

    def _once(self, name: str, metric: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        if (name, metric) not in self._kept:
            self._kept[name, metric] = make()
        return self._kept[name, metric]

    @cached_property
    def smallest(self) -> int:
        """Smallest training-set size of the run."""
        return int(self.scores["n_train"].min())

    @cached_property
    def largest(self) -> int:
        """Largest training-set size of the run."""
        return int(self.scores["n_train"].max())

    def curve(self, metric: str) -> pd.DataFrame:
        """`learning_curve_table`."""
        return self._once("curve", metric, lambda: learning_curve_table(self.scores, metric))

    def plateau(self, metric: str) -> pd.DataFrame:
        """`plateau_table`."""
        return self._once("plateau", metric, lambda: plateau_table(self.scores, metric))

    def against_control(self, metric: str, tasks: Sequence[str], sizes: Sequence[int]) -> list[Compared]:
        """Cells against the observers, or the expert: Dunnett's p-value, and the interval of the mixed model.

        Density and area are compared as measured, the expert's own values being the control: of the readings of the
        paper's words this is the one that gives p-values near 1, as Table 2 prints them.
        """
        measure = MEASURED.get(metric)
        if measure is None and self.observers.empty:
            return [Compared(f"{task} n = {n}", *(np.nan,) * 4) for task in tasks for n in sizes]

        def dunnett() -> pd.DataFrame:
            if measure is None:
                return dunnett_table(self.scores, self.observers, metric)
            return dunnett_table(self.scores, control_sample("expert", measure, scores=self.scores), measure)

        tested = self._once("dunnett", metric, dunnett).set_index(["source_task", "n_train"])
        mixed = self._once("mixed", metric, lambda: mixed_model_table(self.scores, self.observers, metric))
        mixed = mixed.set_index(["source_task", "n_train"])
        sign = -1.0 if HIGHER_IS_BETTER.get(metric) is False else 1.0
        found = []
        for task in tasks:
            for n in sizes:
                if (task, n) not in tested.index:
                    found.append(Compared(f"{task} n = {n}", *(np.nan,) * 4))
                    continue
                low, high = sorted(sign * mixed.loc[(task, n), ["low", "high"]].to_numpy(float))
                row = tested.loc[(task, n)]
                found.append(Compared(f"{task} n = {n}", row["p_value"], sign * row["difference"], low, high))
        return found

    def between(self, pairs: Sequence[tuple[str, str]], sizes: Sequence[int]) -> list[Compared]:
        """Pairs of source tasks by RMS-DTA: the p-value of Mann and Whitney, and the interval of the mixed model."""
        metric = "rms_dta_cm"
        tests = self._once("pairs", metric, lambda: mann_whitney_pairs(self.scores, metric))
        mixed = self._once("mixed pairs", metric, lambda: mixed_model_pairs(self.scores, metric))
        found = []
        for first, second in pairs:
            for n in sizes:
                name = f"{first} against {second}, n = {n}"
                p_value, row, sign = np.nan, None, 1.0
                for a, b, direction in ((first, second, -1.0), (second, first, 1.0)):
                    own = tests[(tests["n_train"] == n) & (tests["first"] == a) & (tests["second"] == b)]
                    if len(own):
                        p_value, sign = float(own["p_value"].iloc[0]), direction
                        row = mixed[(mixed["n_train"] == n) & (mixed["first"] == a) & (mixed["second"] == b)].iloc[0]
                if row is None:
                    found.append(Compared(name, *(np.nan,) * 4))
                    continue
                means = self.curve(metric).set_index(["source_task", "n_train"])["mean"]
                gain = means[second, n] - means[first, n]
                low, high = sorted(sign * row[["low", "high"]].to_numpy(float))
                found.append(Compared(name, p_value, gain, low, high))
        return found


@dataclass(frozen=True)
class Outcome:
    """What a run says of a claim."""

    decision: bool | None
    numbers: str


@dataclass(frozen=True)
class Claim:
    """A statement of the paper.

    Attributes
    ----------
    name : str
    section : str
        Where the paper makes it.
    text : str
        In our words.
    test : str
        What decides it.
    check : callable
        Of `Evidence`.
    anchor : str
        Name of the figure or table that shows it.
    printed : callable or None
        Whether the paper's own printed p-values bear it out, where they decide it.
    """

    name: str
    section: str
    text: str
    test: str
    check: Callable[[Evidence], Outcome]
    anchor: str
    printed: Callable[[], bool] | None = None


def _summary(compared: Sequence[Compared], decisions: Sequence[bool | None]) -> str:
    """The comparisons in words: all of a few, else how many agree and the first that does not."""
    if len(compared) <= 3:
        return "; ".join(map(str, compared))
    agree = sum(decision is True for decision in decisions)
    text = f"{agree} of {len(compared)} comparisons agree"
    against = [one for one, decision in zip(compared, decisions, strict=True) if decision is False]
    open_ = [one for one, decision in zip(compared, decisions, strict=True) if decision is None]
    if against:
        text += f"; {len(against)} disagree, such as {against[0]}"
    elif open_:
        text += f"; {len(open_)} cannot tell, such as {open_[0]}"
    return text


def _outcome(compared: Sequence[Compared], relation: Relation, margin: float) -> Outcome:
    decisions = [decide(one, relation, margin) for one in compared]
    return Outcome(all_of(decisions), _summary(compared, decisions))


def _printed_cell(row: pd.Series, relation: Relation) -> bool:
    worse = row["below"] and row["marked"] == "worse"
    return {
        "better": row["below"] and not worse,
        "worse": worse,
        "no difference": not row["below"],
        "not worse": not worse,
    }[relation]


def _cells(
    name: str,
    section: str,
    text: str,
    metric: str,
    relation: Relation,
    tasks: Sequence[str],
    sizes: Sequence[int],
    anchor: str,
) -> Claim:
    """A claim about cells against the observers (Dice, RMS-DTA) or the expert (SMD, SMA)."""

    def check(evidence: Evidence) -> Outcome:
        return _outcome(evidence.against_control(metric, tasks, sizes), relation, MARGINS[metric])

    def printed() -> bool:
        table = printed_cells(metric)
        table = table[table["source_task"].isin(tasks) & table["n_train"].isin(sizes)]
        return all(_printed_cell(row, relation) for _, row in table.iterrows())

    control = "expert" if metric in MEASURED else "observers"
    test = f"Dunnett against the {control}" + (
        f"; interval within ±{MARGINS[metric]:g}" if relation in ("no difference", "not worse") else ""
    )
    return Claim(name, section, text, test, check, anchor, printed)


def _pairs(
    name: str,
    section: str,
    text: str,
    relation: Relation,
    pairs: Sequence[tuple[str, str]],
    sizes: Sequence[int],
) -> Claim:
    """A claim about pairs of source tasks by RMS-DTA; `relation` is of the first to the second."""

    def check(evidence: Evidence) -> Outcome:
        return _outcome(evidence.between(pairs, sizes), relation, MARGINS["rms_dta_cm"])

    def printed() -> bool:
        table = printed_pairs()
        wanted = {frozenset(pair) for pair in pairs}
        chosen = [frozenset(pair) in wanted for pair in zip(table["first"], table["second"], strict=True)]
        below = table[np.array(chosen) & table["n_train"].isin(sizes)]["below"]
        # Appendix C prints no direction: of a difference it can only show that there is one.
        return bool((~below).all() if relation == "no difference" else below.all())

    test = "Mann-Whitney of RMS-DTA" + (
        f"; interval within ±{MARGINS['rms_dta_cm']:g} cm" if relation == "no difference" else ""
    )
    return Claim(name, section, text, test, check, "fig-pairs", printed)


def _observer_mean(metric: str, reported: float) -> Callable[[Evidence], Outcome]:
    """Whether the observers' mean is the reported one, give or take the margin."""

    def check(evidence: Evidence) -> Outcome:
        band = observer_band(evidence.observers, metric)
        if band is None:
            return Outcome(None, "this cohort has no observers")
        half = 1.96 * band.standard_error
        low, high = band.mean - half, band.mean + half
        margin = MARGINS[metric]
        inside = reported - margin < low and high < reported + margin
        outside = high < reported - margin or low > reported + margin
        return Outcome(
            True if inside else False if outside else None,
            f"{band.mean:.3f} ({low:.3f} to {high:.3f}) against {reported}",
        )

    return check


def _all_checks(*checks: Callable[[Evidence], Outcome]) -> Callable[[Evidence], Outcome]:
    def check(evidence: Evidence) -> Outcome:
        outcomes = [one(evidence) for one in checks]
        return Outcome(all_of(o.decision for o in outcomes), "; ".join(o.numbers for o in outcomes))

    return check


def _both(*claims: Claim) -> tuple[Callable[[Evidence], Outcome], Callable[[], bool]]:
    return _all_checks(*(claim.check for claim in claims)), lambda: all(claim.printed() for claim in claims)


def _common_plateau(evidence: Evidence) -> Outcome:
    """Whether all source tasks end within the margin of one another, and of the paper's Dice."""
    curve = evidence.curve("dice")
    last = curve[curve["n_train"] == evidence.largest]
    if set(TASKS) - set(last["source_task"]):
        return Outcome(None, "not every source task was run")
    margin = MARGINS["dice"]
    near = (last["mean"] - 0.94).abs() <= margin
    means = ", ".join(f"{row.source_task} {row.mean:.3f}" for row in last.itertuples())
    return Outcome(bool(near.all()), f"at n = {evidence.largest}: {means}")


def _tasks_draw_near(evidence: Evidence) -> Outcome:
    """Whether the source tasks lie closer together at the largest size than at the smallest."""
    curve = evidence.curve("dice")
    if evidence.smallest == evidence.largest or curve["source_task"].nunique() < 2:
        return Outcome(None, "fewer than two sizes or source tasks")
    spread = curve.groupby("n_train")["mean"].agg(lambda means: means.max() - means.min())
    first, last = spread[evidence.smallest], spread[evidence.largest]
    noise = ((curve["high"] - curve["low"]) / 2).groupby(curve["n_train"]).max()
    numbers = f"range of the mean Dice {first:.3f} at n = {evidence.smallest}, {last:.3f} at n = {evidence.largest}"
    if abs(first - last) <= noise[evidence.smallest] + noise[evidence.largest]:
        return Outcome(None, numbers)
    return Outcome(bool(last < first), numbers)


def _levels_off(evidence: Evidence) -> Outcome:
    """Whether going from 100 to 125 slices changes the Dice of any source task."""
    table = evidence.plateau("dice")
    rows = table[(table["n_train"] == 100) & (table["versus"] == 125)]
    if len(rows) < len(TASKS):
        return Outcome(None, "n = 100 and 125 were not run for every source task")
    curve = evidence.curve("dice").set_index(["source_task", "n_train"])
    decisions = []
    for row in rows.itertuples():
        halves = [
            (curve.loc[(row.source_task, n), "high"] - curve.loc[(row.source_task, n), "low"]) / 2 for n in (100, 125)
        ]
        half = float(np.hypot(*halves))
        gain = -float(row.difference)
        one = Compared(row.source_task, float(row.p_value), gain, gain - half, gain + half)
        decisions.append((one, decide(one, "no difference", MARGINS["dice"])))
    return Outcome(all_of(d for _, d in decisions), _summary(*zip(*decisions, strict=True)))


def _scatter_falls(evidence: Evidence) -> Outcome:
    """Whether the Dice of a source task scatters less at the largest size than at the smallest (Levene's test)."""
    if evidence.smallest == evidence.largest:
        return Outcome(None, "one size only")
    decisions, texts = [], []
    for task in dict.fromkeys(evidence.scores["source_task"]):
        own = evidence.scores[evidence.scores["source_task"] == task]
        few, many = (own[own["n_train"] == n]["dice"].dropna() for n in (evidence.smallest, evidence.largest))
        if min(len(few), len(many)) < 3:
            decisions.append(None)
            continue
        p_value = stats.levene(few, many).pvalue
        falls = many.std() < few.std()
        decisions.append(bool(falls) if p_value < ALPHA else None)
        texts.append(f"{task} {few.std():.3f} to {many.std():.3f}")
    return Outcome(all_of(decisions), "standard deviation of Dice, " + ", ".join(texts))


def _matters_most_when_few(evidence: Evidence) -> Outcome:
    """Whether a larger share of the pairs of source tasks differs below n = 25 than from there on."""
    few = [n for n in SIZES if n < 25]
    pairs = [(a, b) for i, a in enumerate(TASKS) for b in TASKS[i + 1 :]]
    shares = []
    for sizes in (few, [n for n in SIZES if n >= 25]):
        known = [one for one in evidence.between(pairs, sizes) if not np.isnan(one.p_value)]
        if len(known) < len(pairs):
            return Outcome(None, "too few pairs of source tasks were run")
        shares.append(np.mean([one.p_value < ALPHA for one in known]))
    numbers = f"{shares[0]:.0%} of the pairs differ below n = 25, {shares[1]:.0%} from there on"
    return Outcome(None if shares[0] == shares[1] else bool(shares[0] > shares[1]), numbers)


def _errors_shrink(metric: str) -> Callable[[Evidence], Outcome]:
    """Whether the mean size of a measure's error is smaller at the largest size than at the smallest."""

    def check(evidence: Evidence) -> Outcome:
        if evidence.smallest == evidence.largest:
            return Outcome(None, "one size only")
        decisions, texts = [], []
        for task, own in evidence.scores.assign(size=evidence.scores[metric].abs()).groupby("source_task", sort=False):
            few, many = (own[own["n_train"] == n]["size"].dropna() for n in (evidence.smallest, evidence.largest))
            if min(len(few), len(many)) < 3:
                decisions.append(None)
                continue
            p_value = stats.mannwhitneyu(few, many).pvalue
            decisions.append(bool(many.mean() < few.mean()) if p_value < ALPHA else None)
            texts.append(f"{task} {few.mean():.1f} to {many.mean():.1f}")
        return Outcome(all_of(decisions), f"mean size of the error of {NAMES[metric]}, " + ", ".join(texts))

    return check


def _ten_are_enough(evidence: Evidence) -> Outcome:
    """Whether the segmentation source task reaches the observers with an order of magnitude fewer slices than 160."""
    if evidence.observers.empty:
        return Outcome(None, "this cohort has no observers")
    table = slices_needed_table(evidence.scores, evidence.observers, "dice").set_index("source_task")
    if "segmentation" not in table.index or np.isnan(table.loc["segmentation", "needed"]):
        return Outcome(None, "the segmentation source task was not run, or too few models")
    row = table.loc["segmentation"]
    decision = True if row["high"] <= 16 else False if row["low"] > 16 else None
    return Outcome(decision, f"{row['text']} slices needed")


def _worst_cell(evidence: Evidence) -> Outcome:
    """Whether random initialisation at n = 5 is the cell of the largest mean distance."""
    curve = evidence.curve("rms_dta_cm").set_index(["source_task", "n_train"])
    if ("random", 5) not in curve.index or len(curve) < 2:
        return Outcome(None, "random initialisation at n = 5 was not run")
    first = curve.loc[("random", 5)]
    rest = curve.drop(index=("random", 5))
    worst = rest["mean"].idxmax()
    numbers = (
        f"{first['mean']:.2f} cm; the worst of the others, {worst[0]} n = {worst[1]}, {rest.loc[worst, 'mean']:.2f} cm"
    )
    if first["low"] > rest.loc[worst, "high"]:
        return Outcome(True, numbers)
    return Outcome(False if first["high"] < rest.loc[worst, "low"] else None, numbers)


def _claims() -> tuple[Claim, ...]:
    others = tuple(task for task in TASKS if task != "segmentation")
    transferred = ("segmentation", "classification", "jigsaw")
    from_50, from_25 = SIZES[3:], SIZES[2:]
    dice_10 = _cells("", "", "", "dice", "not worse", ("segmentation",), (10,), "")
    dta_10 = _cells("", "", "", "rms_dta_cm", "not worse", ("segmentation",), (10,), "")
    smd_10 = _cells("", "", "", "smd_difference_hu", "no difference", ("segmentation",), (10,), "")
    sma_10 = _cells("", "", "", "sma_difference_cm2", "no difference", ("segmentation",), (10,), "")
    headline, headline_printed = _both(dice_10, dta_10)
    health, health_printed = _both(smd_10, sma_10)
    only, only_printed = _both(
        _cells("", "", "", "dice", "not worse", ("segmentation",), (5,), ""),
        _cells("", "", "", "dice", "worse", others, (5,), ""),
    )
    pretrained = _cells("", "", "", "smd_difference_hu", "no difference", TASKS[1:], SIZES, "")
    random_from_10 = _cells("", "", "", "smd_difference_hu", "no difference", ("random",), SIZES[1:], "")
    density, density_printed = _both(pretrained, random_from_10)
    observers_mean = "mean of the observers within the margin of the paper's"
    return (
        Claim(
            "ten-slices",
            "Abstract",
            "Pre-trained on segmentation, ten slices are enough to outline muscle as well as trained observers do",
            "Dunnett of Dice and RMS-DTA against the observers, intervals above the margin",
            headline,
            "fig-dice",
            headline_printed,
        ),
        Claim(
            "ten-slices-muscle",
            "Abstract",
            "The same models measure muscle density and area as the expert does",
            "Dunnett of SMD and SMA against the expert, intervals within the margins",
            health,
            "tab-dunnett-smd",
            health_printed,
        ),
        Claim(
            "order-of-magnitude",
            "Abstract",
            "Transfer saves an order of magnitude of annotated slices, from 160 to about ten",
            "slices needed to reach the observers' Dice, with its interval, at most 16",
            _ten_are_enough,
            "tab-needed",
        ),
        Claim(
            "observers-dice",
            "3",
            "Trained observers agree with the expert at a Dice of about 0.90",
            observers_mean,
            _observer_mean("dice", 0.901),
            "tab-observers",
        ),
        Claim(
            "observers-dta",
            "3",
            "Trained observers lie about 0.32 cm (RMS) from the expert's outline",
            observers_mean,
            _observer_mean("rms_dta_cm", 0.318),
            "tab-observers",
        ),
        Claim(
            "observers-smd",
            "3",
            "Observers measure about 6 HU less density than the expert",
            observers_mean,
            _observer_mean("smd_difference_hu", -6.045),
            "tab-observers",
        ),
        Claim(
            "observers-sma",
            "3",
            "Observers measure about 5 cm² less area than the expert",
            observers_mean,
            _observer_mean("sma_difference_cm2", -5.135),
            "tab-observers",
        ),
        _cells(
            "better-from-50",
            "3",
            "From 50 slices on every start beats the observers by Dice",
            "dice",
            "better",
            TASKS,
            from_50,
            "tab-dunnett-dice",
        ),
        _cells(
            "distance-from-25",
            "3",
            "From 25 slices on no start differs from the observers by RMS-DTA",
            "rms_dta_cm",
            "no difference",
            TASKS,
            from_25,
            "tab-dunnett-dta",
        ),
        Claim(
            "only-segmentation-at-5",
            "3",
            "With five slices only the segmentation source task is not worse than the observers by Dice",
            "Dunnett of Dice against the observers",
            only,
            "tab-dunnett-dice",
            only_printed,
        ),
        _cells(
            "three-at-10-dice",
            "3",
            "With ten slices segmentation, classification and jigsaw do not differ from the observers by Dice",
            "dice",
            "no difference",
            transferred,
            (10,),
            "tab-dunnett-dice",
        ),
        _cells(
            "three-at-10-distance",
            "3",
            "With ten slices the same three do not differ from the observers by RMS-DTA",
            "rms_dta_cm",
            "no difference",
            transferred,
            (10,),
            "tab-dunnett-dta",
        ),
        _cells(
            "two-worse-at-10",
            "Table 1",
            "With ten slices random initialisation and reconstruction are worse than the observers by Dice",
            "dice",
            "worse",
            ("random", "reconstruction"),
            (10,),
            "tab-dunnett-dice",
        ),
        _cells(
            "all-far-at-5",
            "Table 1",
            "With five slices every start lies further from the expert than the observers do",
            "rms_dta_cm",
            "worse",
            TASKS,
            (5,),
            "tab-dunnett-dta",
        ),
        Claim(
            "random-at-5-far",
            "Figure 4",
            "Random initialisation with five slices is by far the most distant of all cells",
            "intervals of the mean RMS-DTA",
            _worst_cell,
            "fig-dta",
        ),
        Claim(
            "common-plateau",
            "3",
            "All starts end at one Dice of about 0.94",
            "means at the largest size within the margin of 0.94",
            _common_plateau,
            "fig-dice",
        ),
        Claim(
            "differences-shrink",
            "3",
            "The more slices, the less the starts differ",
            "range of the source tasks' means at both ends, beyond their intervals",
            _tasks_draw_near,
            "fig-dice",
        ),
        Claim(
            "levels-off",
            "3, Appendix D",
            "Beyond 100 slices nothing is gained, whatever the start",
            "Dunnett of n = 100 against 125; interval within the margin",
            _levels_off,
            "tab-plateau",
        ),
        Claim(
            "scatter-falls",
            "3, 4",
            "The more slices, the less the accuracy scatters",
            "Levene's test of Dice at both ends, each source task",
            _scatter_falls,
            "fig-dice",
        ),
        _pairs(
            "no-difference-from-25",
            "3, Appendix C",
            "From 25 slices on segmentation differs from neither classification nor jigsaw",
            "no difference",
            (("segmentation", "classification"), ("segmentation", "jigsaw")),
            from_25,
        ),
        _pairs(
            "segmentation-first-at-5",
            "3, 4",
            "With five slices segmentation is the best start",
            "better",
            tuple(("segmentation", task) for task in others),
            (5,),
        ),
        _pairs(
            "segmentation-first-at-10",
            "3, 4",
            "With ten slices segmentation is still the best start",
            "better",
            tuple(("segmentation", task) for task in others),
            (10,),
        ),
        _pairs(
            "classification-is-jigsaw",
            "Appendix C",
            "Classification and jigsaw are equally good starts at every size",
            "no difference",
            (("classification", "jigsaw"),),
            SIZES,
        ),
        _pairs(
            "random-behind",
            "Appendix C",
            "From 25 to 75 slices random initialisation stays behind segmentation, classification and jigsaw",
            "worse",
            tuple(("random", task) for task in transferred),
            (25, 50, 75),
        ),
        Claim(
            "matters-when-few",
            "4",
            "The source task matters most below 25 slices",
            "share of pairs that differ by Mann-Whitney",
            _matters_most_when_few,
            "fig-pairs",
        ),
        Claim(
            "density-not-different",
            "3",
            "Every start but random initialisation with five slices measures the expert's density",
            pretrained.test,
            density,
            "tab-dunnett-smd",
            density_printed,
        ),
        Claim(
            "random-density",
            "3",
            "Random initialisation with five slices does not measure the expert's density",
            "Dunnett of SMD against the expert",
            lambda evidence: _differs(
                evidence.against_control("smd_difference_hu", ("random",), (5,)), MARGINS["smd_difference_hu"]
            ),
            "tab-dunnett-smd",
            lambda: _printed_differs("smd_difference_hu", "random", 5),
        ),
        _cells(
            "area-not-different",
            "3",
            "Every start measures the expert's area at every size",
            "sma_difference_cm2",
            "no difference",
            TASKS,
            SIZES,
            "tab-dunnett-sma",
        ),
        Claim(
            "density-error-shrinks",
            "3",
            "Errors of density shrink as slices are added",
            "Mann-Whitney of the errors' size at both ends",
            _errors_shrink("smd_difference_hu"),
            "fig-smd",
        ),
        Claim(
            "area-error-shrinks",
            "3",
            "Errors of area shrink as slices are added",
            "Mann-Whitney of the errors' size at both ends",
            _errors_shrink("sma_difference_cm2"),
            "fig-sma",
        ),
    )


def _differs(compared: Sequence[Compared], margin: float) -> Outcome:
    """The opposite of no difference."""
    opposite = {True: False, False: True, None: None}
    outcome = _outcome(compared, "no difference", margin)
    return Outcome(opposite[outcome.decision], outcome.numbers)


def _printed_differs(metric: str, task: str, n_train: int) -> bool:
    table = printed_cells(metric)
    return bool(table[(table["source_task"] == task) & (table["n_train"] == n_train)]["below"].all())


CLAIMS = _claims()


def ledger(evidence: Evidence) -> pd.DataFrame:
    """Check every claim on a run's tables.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    DataFrame
        claim (its name), section, statement, test, numbers, verdict, printed (whether the paper's own printed p-values
        bear the statement out; empty where they do not decide it) and anchor (what shows it in the book).

    Raises
    ------
    ValueError
        If a table lacks what the tests need, as `l3muscle.statistics` raises it.
    """
    rows = []
    for claim in CLAIMS:
        outcome = claim.check(evidence)
        rows.append(
            {
                "claim": claim.name,
                "section": claim.section,
                "statement": claim.text,
                "test": claim.test,
                "numbers": outcome.numbers,
                "verdict": VERDICTS[outcome.decision],
                "printed": "" if claim.printed is None else "bears it out" if claim.printed() else "does not",
                "anchor": claim.anchor,
            }
        )
    return pd.DataFrame(rows)
