"""The paper's statements as checks on a run's tables: `claims.csv` says what is claimed and what decides it.

A line of the file is a comparison or several of one kind; a claim is all lines of its name. A claimed difference needs
a significant test in its direction. That *no* difference exists is never concluded from a test that finds none: the
interval of the difference, by the bootstrap over images and models, has to lie inside the line's margin. Else the run
is too small to tell. Nor does a training that was stopped before its losses had saturated (Section 2.3) tell how good a
source task is. Margins are differences that would not matter: of Dice and RMS-DTA well below what parts the
paper's plateau from its observers, of density and area one standard deviation of its observers.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from l3muscle.metrics import MEASURES
from l3muscle.statistics.bootstrap import Bootstrap, Drawn, estimate, observers_drawn
from l3muscle.statistics.dunnett import control_sample, dunnett_table, plateau_table
from l3muscle.statistics.mann_whitney import mann_whitney_pairs
from l3muscle.statistics.printed import REPORTED_NAMES, p_text, printed_configurations, printed_pairs
from l3muscle.statistics.score_table import ALPHA, MEASURE_OF, NoTest, check_scores, configurations
from l3muscle.statistics.slices_needed import slices_needed_table

VERDICTS = {True: "holds", False: "does not hold", None: "cannot be decided at this scale"}
UNCONVERGED = "cannot be decided: trainings ended before saturation"
INPUT = "an input of the phantom"
CONVERGED = 0.9  # share of a configuration's trainings that have to end by saturation
RELATIONS = ("better", "worse", "not worse", "no difference", "differs", "about", "at most")
SAMENESS = {"no difference", "not worse"}  # relations that no p-value shows: a high one only fails to contradict them


@dataclass(frozen=True)
class Comparison:
    """One comparison: `gain` is in favour of what is named first, and `low` to `high` its 95 % interval.

    In words it is the first minus the second, which is `sign` times the gain; of slices needed the name says all.
    """

    name: str
    p_value: float = np.nan
    gain: float = np.nan
    low: float = np.nan
    high: float = np.nan
    sign: float = 1.0

    def __str__(self) -> str:
        if np.isnan(self.gain):
            return f"{self.name}: not run"
        if not self.sign:
            return self.name
        low, high = sorted((self.sign * self.low, self.sign * self.high))
        text = f"{self.name}: {self.sign * self.gain:+.3g}"
        text += "" if np.isnan(self.low) else f" ({low:+.3g} to {high:+.3g})"
        p = p_text(self.p_value)
        return text if np.isnan(self.p_value) else f"{text}, {p if p.startswith('p') else f'p = {p}'}"


def decide(one: Comparison, relation: str, margin: float) -> bool | None:
    """Whether a comparison supports a relation; None where it cannot tell.

    Parameters
    ----------
    one : Comparison
    relation : {"better", "worse", "not worse", "no difference", "differs", "about", "at most"}
        The last two rest on the interval alone: it lies inside the margin, or above zero.
    margin : float
        Differences below it do not matter.

    Returns
    -------
    bool or None
    """
    if relation not in RELATIONS:
        raise ValueError(f"unknown relation {relation!r}")
    if relation == "worse":
        return decide(Comparison(one.name, one.p_value, -one.gain, -one.high, -one.low), "better", margin)
    inside = -margin < one.low and one.high < margin
    if relation == "about":
        outside = one.low > margin or one.high < -margin
        return True if inside else False if outside else None
    if relation == "at most":
        return True if one.low >= 0 else False if one.high < 0 else None
    if one.p_value < ALPHA:
        ahead = bool(one.gain > 0)
        return {"better": ahead, "not worse": ahead, "no difference": False, "differs": True}[relation]
    # A test that found nothing tells nothing; that there is nothing, only the interval can tell.
    answers = {
        "better": (one.high < margin, False),
        "not worse": (one.low > -margin, True),
        "no difference": (inside, True),
        "differs": (inside, False),
    }
    told, answer = answers[relation]
    return answer if told else None


def all_of(decisions: Iterable[bool | None]) -> bool | None:
    """True if all are, False if any is False, else None."""
    decisions = list(decisions)
    if False in decisions:
        return False
    return None if None in decisions or not decisions else True


class Run:
    """A run's tables, and what is computed from them once for all claims; `observers` may be empty."""

    def __init__(self, scores: pd.DataFrame, observers: pd.DataFrame) -> None:
        self.scores, self.observers = scores, observers
        self.bootstrap = Bootstrap(scores["patient_id"].nunique())
        self.sizes = sorted(int(n) for n in scores["n_train"].unique())
        self.drawn, self.dunnett, self.pairs = cache(self._drawn), cache(self._dunnett), cache(self._pairs)

    def _drawn(self, measure: str) -> dict[Any, Drawn]:
        """Means and replicates by (source task, size), and of the observers; without what is too little to draw."""
        check_scores(self.scores, measure)
        drawn = {}
        for one in configurations(self.scores, measure):
            with suppress(NoTest):
                drawn[one.key] = self.bootstrap.draw(one.matrix, *one.key)
        if not self.observers.empty:
            drawn["observers"] = observers_drawn(self.bootstrap, self.scores, self.observers, measure)
        return drawn

    def _dunnett(self, measure: str) -> dict[tuple[str, int], float]:
        """Density and area are compared as measured: the reading that gives p-values near 1, as Table 2 prints them."""
        control = self.observers
        if measure in MEASURE_OF:
            measure = MEASURE_OF[measure]
            control = control_sample("expert", measure, scores=self.scores)
        rows = dunnett_table(self.scores, control, measure).itertuples()
        return {(row.source_task, row.n_train): row.p_value for row in rows}

    def _pairs(self, measure: str) -> dict[tuple, float]:
        rows = mann_whitney_pairs(self.scores, measure).itertuples()
        return {(frozenset((row.first, row.second)), row.n_train): row.p_value for row in rows}

    def compare(self, name: str, measure: str, first: Any, second: Any, p_value: float | None = None) -> Comparison:
        """Two keys of `drawn` (the second may be a number): p-value by the bootstrap where no other test gives one."""
        sides, number = self.drawn(measure), isinstance(second, float)
        if first not in sides or not (number or second in sides):
            return Comparison(name)
        try:
            one = estimate(sides[first], None if number else sides[second])
        except NoTest:
            return Comparison(name)
        sign = -1.0 if MEASURES[measure].better == "lower" else 1.0
        gain, *ends = (sign * (at - (second if number else 0.0)) for at in (one.value, one.low, one.high))
        return Comparison(name, one.p_value if p_value is None else p_value, gain, *sorted(ends), sign=sign)

    def values(self, measure: str, task: str, n: int) -> pd.Series:
        """A measure of all predictions of a configuration."""
        return self.scores.loc[(self.scores["source_task"] == task) & (self.scores["n_train"] == n), measure].dropna()


def _sizes(text: str, run: Run) -> list[int]:
    ends = {"smallest": [run.sizes[0]], "largest": [run.sizes[-1]], "all": run.sizes}
    return ends[text] if text in ends else [int(n) for n in text.split()]


def _tasks(text: str) -> list[str]:
    return list(REPORTED_NAMES) if text == "all" else text.split()


def dunnett(line: Any, run: Run) -> Iterator[Comparison]:
    """Dunnett's test against the observers, or the expert."""
    expert = line.against == "expert"
    tested = {} if run.observers.empty and not expert else run.dunnett(line.measure)
    for task, n in product(_tasks(line.source_tasks), _sizes(line.sizes, run)):
        name = f"{task} n = {n}"
        if (task, n) in tested:
            control = 0.0 if expert else "observers"
            yield run.compare(name, line.measure, (task, n), control, tested[task, n])
        else:
            yield Comparison(name)


def mann_whitney(line: Any, run: Run) -> Iterator[Comparison]:
    """Mann-Whitney test between source tasks."""
    for first, second, n in product(_tasks(line.source_tasks), _tasks(line.against), _sizes(line.sizes, run)):
        name = f"{first} against {second}, n = {n}"
        p_value = run.pairs(line.measure).get((frozenset((first, second)), n))
        yield Comparison(name) if p_value is None else run.compare(name, line.measure, (first, n), (second, n), p_value)


def bootstrap(line: Any, run: Run) -> Iterator[Comparison]:
    """Bootstrap over images and models, between configurations."""
    named = list(product(_tasks(line.source_tasks), _sizes(line.sizes, run)))
    others = named if line.against == "one another" else [key for key in run.drawn(line.measure) if key != "observers"]
    for first, second in dict.fromkeys(tuple(sorted(pair)) for pair in product(named, others) if pair[0] != pair[1]):
        if second in named and first not in named:
            first, second = second, first
        name = f"{first[0]} n = {first[1]} against {second[0]} n = {second[1]}"
        yield run.compare(name, line.measure, first, second)


def mean(line: Any, run: Run) -> Iterator[Comparison]:
    """Mean beside the printed one, with its bootstrap interval."""
    keys = ["observers"] if line.source_tasks == "observers" else product(_tasks("all"), _sizes(line.sizes, run))
    for key in keys:
        name = key if key == "observers" else f"{key[0]} n = {key[1]}"
        yield run.compare(f"{name} less {line.against}", line.measure, key, float(line.against), np.nan)


def plateau(line: Any, run: Run) -> Iterator[Comparison]:
    """Dunnett's test between two sizes of each source task."""
    tested = plateau_table(run.scores, line.measure).set_index(["source_task", "n_train", "versus"])["p_value"]
    n, versus = int(line.sizes), int(line.against)
    for task in _tasks(line.source_tasks):
        p_value = tested.get((task, n, versus))
        if p_value is None:
            yield Comparison(task)
        else:
            yield run.compare(task, line.measure, (task, n), (task, versus), p_value)


def _at_both_ends(line: Any, run: Run, test: Any, size: Any, change: Any) -> Iterator[Comparison]:
    (few,), (many,) = _sizes(line.sizes, run), _sizes(line.against, run)
    for task in _tasks(line.source_tasks):
        first, last = (change(run.values(line.measure, task, n)) for n in (few, many))
        enough = few != many and min(len(first), len(last)) >= 3
        yield Comparison(task, test(first, last).pvalue, size(first) - size(last)) if enough else Comparison(task)


def levene(line: Any, run: Run) -> Iterator[Comparison]:
    """Levene's test of the scatter at both ends, each source task."""
    yield from _at_both_ends(line, run, stats.levene, np.std, lambda values: values)


def error_size(line: Any, run: Run) -> Iterator[Comparison]:
    """Mann-Whitney test of the errors' size at both ends, each source task."""
    yield from _at_both_ends(line, run, stats.mannwhitneyu, np.mean, np.abs)


def spread(line: Any, run: Run) -> Iterator[Comparison]:
    """Range of the source tasks' means at few slices less that at many, by the bootstrap."""
    drawn, tasks = run.drawn(line.measure), _tasks(line.source_tasks)
    ends, name = [], "range of the means at few slices less that at many"
    for text in (line.sizes, line.against):
        sizes = [n for n in _sizes(text, run) if all((task, n) in drawn for task in tasks)]
        if not sizes:
            yield Comparison(name)
            return
        means = [[np.append(drawn[task, n].replicates, drawn[task, n].mean) for task in tasks] for n in sizes]
        ends.append(np.ptp(np.array(means), axis=1).mean(0))
    *replicates, gain = ends[0] - ends[1]
    error = np.nanstd(replicates)
    p_value = 2 * stats.norm.sf(abs(gain) / error) if error > 0 else np.nan
    yield Comparison(name, p_value, gain, gain - 1.96 * error, gain + 1.96 * error)


def slices_needed(line: Any, run: Run) -> Iterator[Comparison]:
    """Slices needed to reach the observers, with their bootstrap interval."""
    most = float(line.against)
    table = None if run.observers.empty else slices_needed_table(run.scores, run.observers, line.measure)
    for task in _tasks(line.source_tasks):
        row = None if table is None else table.set_index("source_task").reindex([task]).loc[task]
        if row is None or np.isnan(row["needed"]):
            yield Comparison(task)
        else:
            name = f"{task} needs {row['text']} slices"
            yield Comparison(name, np.nan, most - row["needed"], most - row["high"], most - row["low"], sign=0)


TESTS = {
    test.__name__: test
    for test in (dunnett, mann_whitney, bootstrap, mean, plateau, levene, error_size, spread, slices_needed)
}


def _summary(compared: list[Comparison], decisions: list[bool | None]) -> str:
    """The comparisons in words: all of a few, else how many agree and the first that does not."""
    if len(compared) <= 3:
        return "; ".join(map(str, compared))
    text = f"{sum(one is True for one in decisions)} of {len(compared)} comparisons agree"
    for decision, words in ((False, "disagree"), (None, "cannot tell")):
        such = [one for one, decided in zip(compared, decisions, strict=True) if decided is decision]
        if such:
            return f"{text}; {len(such)} {words}, such as {such[0]}"
    return text


def _printed(line: Any) -> bool | None:
    """Whether the paper's own printed p-values support a line; None where they do not decide it."""
    tasks, sizes = _tasks(line.source_tasks), line.sizes.split()
    if line.test == "mann_whitney":
        table, others = printed_pairs(), _tasks(line.against)
        table = table[table["first"].isin(tasks) & table["second"].isin(others)]
    elif line.test == "dunnett":
        table = printed_configurations(line.measure)
        table = table[table["source_task"].isin(tasks)]
    else:
        return None
    table = table[table["n_train"].astype(str).isin(sizes)]
    below = table["below"]
    if line.relation == "no difference":
        return bool((~below).all())
    if line.relation == "differs" or line.test == "mann_whitney":
        # Appendix C prints no direction: of a difference it can only show that there is one.
        return bool(below.all())
    worse = below & (table["marked"] == "worse")
    return bool({"worse": worse, "better": below & ~worse, "not worse": ~worse}[line.relation].all())


def claims() -> pd.DataFrame:
    """The lines of `claims.csv`, as text."""
    with (resources.files("l3muscle.statistics") / "claims.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype=str, keep_default_na=False)


def _involved(line: Any, run: Run) -> set[tuple[str, int]]:
    """Configurations that a line compares."""
    if line.source_tasks == "observers":
        return set()
    tasks, sizes = {*_tasks(line.source_tasks)}, {*_sizes(line.sizes, run)}
    named = line.against.split()
    tasks |= {name for name in named if name in REPORTED_NAMES}
    sizes |= {int(name) for name in named if name.isdigit()}
    if line.against == "largest":
        sizes.add(run.sizes[-1])
    if line.against == "every other configuration" or line.test == "slices_needed":
        tasks, sizes = set(REPORTED_NAMES), set(run.sizes)
    return set(product(tasks, sizes))


def _unconverged(models: pd.DataFrame) -> set[tuple[str, int]]:
    """Configurations of which too many trainings were stopped before saturation."""
    saturated = (models["stopped"] == "saturated").groupby([models["source_task"], models["n_train"]]).mean()
    return set(saturated.index[saturated < CONVERGED])


def claims_table(
    scores: pd.DataFrame,
    observers: pd.DataFrame,
    *,
    models: pd.DataFrame | None = None,
    tuned_observers: bool = False,
) -> pd.DataFrame:
    """Check every claim on a run's tables.

    Parameters
    ----------
    scores, observers : DataFrame
        As `l3muscle.statistics` takes them; a cohort without observers has an empty table, which decides nothing.
    models : DataFrame, optional
        How each training ended: source_task, n_train and stopped, a row a model. Without it all count as converged.
    tuned_observers : bool
        Whether the observers are the phantom's, whose agreement with the expert was put in and is no finding.

    Returns
    -------
    DataFrame
        claim (its name), section, statement, test, numbers, verdict, printed (whether the paper's own printed p-values
        support the statement; empty where they do not decide it) and shown_in (what shows it in the book).

    Raises
    ------
    ScoreTableError
        If a table lacks what the tests need.
    """
    run, rows = Run(scores, observers), []
    unconverged = set() if models is None else _unconverged(models)
    for name, lines in claims().groupby("claim", sort=False):
        decisions, numbers, tests, printed = [], [], [], []
        for line in lines.itertuples():
            compared = list(TESTS[line.test](line, run))
            decided = [decide(one, line.relation, float(line.margin)) for one in compared]
            decisions += decided
            measure = MEASURES[line.measure]
            numbers.append(f"{', '.join(filter(None, (measure.name, measure.unit)))}: {_summary(compared, decided)}")
            tests.append(f"{measure.name}: {TESTS[line.test].__doc__.rstrip('.')}")
            printed.append(_printed(line))
        first, verdict = lines.iloc[0], VERDICTS[all_of(decisions)]
        relations, of_pairs = set(lines["relation"]), "mann_whitney" in set(lines["test"])
        in_print = "not contradicted" if SAMENESS & relations else "supported"
        if of_pairs and relations & {"better", "worse"}:
            in_print = "a difference, without its direction"
        if tuned_observers and set(lines["source_tasks"]) == {"observers"}:
            verdict = INPUT
        elif any(_involved(line, run) & unconverged for line in lines.itertuples()):
            verdict = UNCONVERGED
        rows.append(
            {
                "claim": name,
                "section": first["section"],
                "statement": first["statement"],
                "test": "; ".join(dict.fromkeys(tests)),
                "numbers": "; ".join(numbers),
                "verdict": verdict,
                "printed": "" if None in printed else in_print if all(printed) else "not supported",
                "shown_in": first["shown_in"],
            }
        )
    return pd.DataFrame(rows)
