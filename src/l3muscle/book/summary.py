"""What the front page says of a run: in one strip, one figure and one small table."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from IPython import get_ipython

from l3muscle.book.archive import ArchiveError
from l3muscle.book.downloads import run_tables, write_tables
from l3muscle.book.notebooks import EXECUTED
from l3muscle.book.steps import step_pictures
from l3muscle.book.tables import numbered_table
from l3muscle.figures import learning_curve, svg_text
from l3muscle.metrics import MEASURES
from l3muscle.runtime import origin
from l3muscle.statistics import (
    REPORTED_NAMES,
    dunnett_table,
    learning_curve_table,
    observer_band,
    reported_p_values,
)
from l3muscle.study import StudyResults

PICTURE_DPI = 150
NOT_RUN, NEVER = "not run", "at no size"
NOT_IN_PROFILE = "Not run in this profile"
RUN_FILE = "run.json"  # what the pages' notes and footers have to know of the run


def labels_of(kinds: Mapping[str, str]) -> dict[str, str]:
    """How source tasks are called, by how they came about: one that was learned from generated images says so."""
    return {task: f"{task} (procedural)" if kind == "procedural" else task for task, kind in kinds.items()}


def source_labels(results: StudyResults) -> dict[str, str]:
    """How the source tasks of a run are called."""
    return labels_of({task: results.source_kind(task) for task in results.profile.grid.source_tasks})


def results_id(results: StudyResults) -> str:
    """Ten hexadecimal digits that name what a run has finished: any other set of results has others.

    They are taken from the keys of the finished experiments, in which settings, cohort, splits and code are hashed, and
    from the checksums of their files.
    """
    files = {key: results.records[experiment]["sha256"] for experiment, key in results.keys.items()}
    text = json.dumps([files, results.plan["observers"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def run_strip(results: StudyResults) -> str:
    """What a run is, as a strip for the top of a page: profile, cohort, experiments, duration, machine, commit."""
    records = list(results.records.values())
    cohort = f"{'phantom' if results.plan['phantom'] else 'own cohort'}, {results.plan['patients']} patients"
    minutes = sum(record["seconds"] for record in records) / 60
    origins = list(dict.fromkeys(origin(record["provenance"]) for record in records)) or ["nothing run yet"]
    more = f" and {len(origins) - 1} more" if len(origins) > 1 else ""
    line = (
        f"*Measured in this run* — profile **{results.profile.name}** · {cohort} · "
        f"{len(records)} of {results.planned()} experiments · {minutes:.1f} min of one worker · "
        f"{origins[0]}{more} · results {results_id(results)}"
    )
    return f"```{{div}} l3-strip\n{line}\n```\n"


def cohort_notice(results: StudyResults) -> str:
    """A box that says whose images the numbers come from."""
    if results.plan["phantom"]:
        text = (
            "Everything measured here is measured on a **phantom**: procedural images of the abdomen, drawn by a "
            "program, with simulated observers. Numbers of this run stand beside the paper's so that the two can be "
            "compared as *studies*; they say nothing about patients."
        )
    else:
        text = (
            f"This run was made on a **cohort of its owner's**, {results.plan['patients']} patients, and not on the "
            "phantom of the published edition. What other pages say of a phantom does not hold for its numbers."
        )
    return f"```{{important}}\n{text}\n```\n"


def _box(title: str, text: str) -> str:
    return f"```{{admonition}} {title}\n:class: warning l3-not-run\n{text}\n```\n"


def not_run_box(results: StudyResults, what: str, *, tasks: Sequence[str] = (), sizes: Sequence[int] = ()) -> str:
    """A visible box for a chapter, or a part of one, whose experiments this run does not have.

    Parameters
    ----------
    results : StudyResults
    what : str
        What cannot be shown, as the subject of a sentence.
    tasks, sizes : sequence
        Source tasks and training-set sizes that are needed; none given asks for any finished experiment.

    Returns
    -------
    str
        Markdown; empty where every cell that is needed has a finished experiment.
    """
    done = {(experiment.source_task, experiment.n_train) for experiment in results.records}
    needed_tasks = list(tasks) or [None]
    needed_sizes = list(sizes) or [None]
    missing = [
        " ".join([task or "any source task"] + ([f"n = {n}"] if n is not None else []))
        for task in needed_tasks
        for n in needed_sizes
        if not any(task in (None, own_task) and n in (None, own_n) for own_task, own_n in done)
    ]
    if not missing:
        return ""
    return _box(
        NOT_IN_PROFILE,
        f"{what} needs experiments that the run of the profile **{results.profile.name}** does not have: "
        f"{', '.join(missing)}. Nothing is shown in their place.",
    )


def no_observers_box(what: str) -> str:
    """A visible box for what cannot be shown of a cohort that nobody but the expert outlined.

    Parameters
    ----------
    what : str
        As the subject of a sentence.
    """
    return _box(
        NOT_IN_PROFILE,
        f"{what} needs the outlines of observers, and this cohort has none. Nothing is shown in their place.",
    )


def not_archived_box(what: str, error: ArchiveError) -> str:
    """A visible box for a result that is shown from the archive, and is not there.

    Parameters
    ----------
    what : str
        As the subject of a sentence.
    error : ArchiveError
        Why it could not be opened.
    """
    return _box("Not run", f"{what} has not been measured: {error}. Nothing is shown in its place.")


def opening(results: StudyResults, *, observers: bool = False) -> str:
    """What a chapter of results begins with: the strip, and boxes for what the run does not have.

    Where the run has no finished experiment at all, the cells after this one do nothing: there is nothing that they
    could show.

    Parameters
    ----------
    results : StudyResults
    observers : bool
        Whether the chapter is about the observers, and not about experiments.
    """
    grid = results.profile.grid
    if observers:
        box, empty = "", results.observer_scores().empty
        if empty:
            box = no_observers_box("This chapter")
    else:
        box, empty = not_run_box(results, "A part of this chapter", tasks=grid.source_tasks, sizes=grid.sizes), False
        if not results.records:
            box, empty = not_run_box(results, "This chapter"), True
    shell = get_ipython()
    if empty and shell is not None:
        shell.input_transformers_cleanup.append(lambda lines: [])
    return run_strip(results) + box


def _level_from(worse: dict[int, bool]) -> str:
    """The size from which on no size is worse than the observers."""
    if not worse:
        return NOT_RUN
    level = None
    for n in sorted(worse, reverse=True):
        if worse[n]:
            break
        level = n
    return NEVER if level is None else f"n = {level}"


def answer_table(table: pd.DataFrame, curve: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    """From which size on each source task is not worse than the observers: the paper's patients beside this run.

    Parameters
    ----------
    table : DataFrame
        From `dunnett_table`, of Dice.
    curve : DataFrame
        From `learning_curve_table`, of Dice.
    labels : dict of str to str

    Returns
    -------
    DataFrame
        Text, one row a source task.
    """
    printed = reported_p_values()
    printed = printed[(printed["metric"] == MEASURES["dice"].name) & (printed["versus"] == "")]
    sizes = sorted(curve["n_train"].unique())
    rows = []
    for task, label in labels.items():
        paper = printed[printed["source_task"] == REPORTED_NAMES[task]]
        ours = table[table["source_task"] == task]
        means = curve[curve["source_task"] == task].set_index("n_train")["mean"]
        row = {
            "source task": label,
            "paper": _level_from(dict(zip(paper["n_train"], paper["marked"] == "worse", strict=True))),
            "this run": _level_from(dict(zip(ours["n_train"], ours["verdict"] == "worse", strict=True))),
        }
        for n in dict.fromkeys((sizes[0], sizes[-1])):
            row[f"Dice, n = {n}"] = f"{means[n]:.3f}" if n in means else NOT_RUN
        rows.append(row)
    return pd.DataFrame(rows)


def answer_sentence(answer: pd.DataFrame) -> str:
    """The answer in one sentence, from `answer_table`."""
    groups = {level: list(part["source task"]) for level, part in answer.groupby("this run", sort=False)}
    missing, never = groups.pop(NOT_RUN, []), groups.pop(NEVER, [])
    parts = [
        f"from {level} on after {_listing(tasks)}"
        for level, tasks in sorted(groups.items(), key=lambda group: int(group[0].rpartition(" ")[2]))
    ]
    clauses = [f"the outlines are not worse than the observers' {'; '.join(parts)}"] if parts else []
    if never:
        worse = "they are still worse" if parts else "the outlines are still worse than the observers'"
        clauses.append(f"after {_listing(never)} {worse} at the largest size")
    tail = f" Not run: {_listing(missing)}." if missing else ""
    return f"**In this run** {'; '.join(clauses)}.{tail}"


def rise_sentence(curve: pd.DataFrame, labels: dict[str, str]) -> str:
    """How much mean Dice changes from the smallest size to the largest, in one sentence.

    Parameters
    ----------
    curve : DataFrame
        From `learning_curve_table`, of Dice.
    labels : dict of str to str

    Returns
    -------
    str
        Empty where no source task has been run at two sizes.
    """
    means = curve.pivot(index="source_task", columns="n_train", values="mean")
    first, last = means.columns[0], means.columns[-1]
    rise = (means[last] - means[first]).dropna().sort_values()
    if first == last or rise.empty:
        return ""
    ends = dict.fromkeys(
        f"{value:+.3f}".replace("-", "−") + f" ({labels[task]})" for task, value in rise.iloc[[0, -1]].items()
    )
    return f"From n = {first} to n = {last} mean Dice changes by {' to '.join(ends)}."


def _listing(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def write_summary(results: StudyResults, folder: Path = EXECUTED) -> Path:
    """Write what pages include: `summary.md` and its picture, `answer.md`, `notice.md`, `run.json`, pictures, tables.

    Returns
    -------
    Path
        The Markdown file.
    """
    scores, observers = results.scores(), results.observer_scores()
    labels = source_labels(results)
    band = observer_band(observers, "dice")
    folder.mkdir(parents=True, exist_ok=True)
    figure = learning_curve(scores, band, "dice", labels=labels)
    (folder / "summary.svg").write_text(svg_text(figure), encoding="utf-8")
    figure.savefig(folder / "summary.png", dpi=PICTURE_DPI)
    (folder / "summary.narrow.svg").write_text(svg_text(figure.draw_narrow()), encoding="utf-8")
    (folder / "steps").mkdir(exist_ok=True)
    for name, drawing in step_pictures(results).items():
        drawing.savefig(folder / "steps" / f"{name}.png", dpi=PICTURE_DPI, facecolor=drawing.get_facecolor())
    curve = learning_curve_table(scores, "dice")
    if band is None:
        tests = pd.DataFrame(columns=["source_task", "n_train", "verdict"])
    else:
        tests = dunnett_table(scores, observers, "dice")
    answer = answer_table(tests, curve, labels)
    sentence = no_observers_box("This run's answer") if band is None else answer_sentence(answer)
    compared = "" if band is None else f" The observers' mean is {band.mean:.3f}."
    write_tables(
        folder,
        shown={"tab-front": answer},
        behind={"learning-curve-dice": curve, "dunnett-dice": tests, **run_tables(results)},
        about=run_strip(results).splitlines()[1].replace("*", ""),
    )
    front_table = numbered_table(
        answer.to_dict("records"),
        caption="The size from which on no test finds a source task worse than the observers (Dice, p < 0.001): the "
        "paper, on patients, beside this run, with this run's mean Dice at both ends.",
        name="tab-front",
    )
    missing = not_run_box(
        results, "Part of this page", tasks=results.profile.grid.source_tasks, sizes=results.profile.grid.sizes
    )
    text = f"""\
{run_strip(results)}
{missing}
{sentence} The paper's answer, on patients, stands beside it in {{numref}}`tab-front`.
{rise_sentence(curve, labels)} {{doc}}`The method <method>` says where this edition departs from the paper.

```{{figure}} /{folder.as_posix()}/summary.svg
:name: fig-front
:alt: Mean Dice against training-set size for each source task, with the observers' mean as a band. {figure.said}

Mean Dice of the predicted outlines on the held-out test slices, with 95 % intervals, against the number of annotated
slices that each model was fine-tuned on.{compared} Values appear under the pointer and with the arrow keys; a click or
Enter shows the outlines behind a point.
```

{front_table}
Every table of this book, and every score behind it: {{download}}`tables.zip </{folder.as_posix()}/tables.zip>`.
"""
    whose = "Its images are of phantoms, not of patients" if results.plan["phantom"] else "Its cohort is its owner's"
    brief = "This run has no observers to compare with." if band is None else answer_sentence(answer)
    (folder / "answer.md").write_text(
        f"{brief} {whose}; {{numref}}`tab-front` sets it beside the paper.\n", encoding="utf-8"
    )
    (folder / "notice.md").write_text(cohort_notice(results), encoding="utf-8")
    about = {"profile": results.profile.name, "phantom": results.plan["phantom"], "results": results_id(results)}
    (folder / RUN_FILE).write_text(json.dumps(about), encoding="utf-8")
    path = folder / "summary.md"
    path.write_text(text, encoding="utf-8")
    return path
