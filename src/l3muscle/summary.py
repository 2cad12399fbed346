"""What the front page says of a run: in one strip, one figure and one small table."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from l3muscle.figures import learning_curve
from l3muscle.notebooks import EXECUTED
from l3muscle.runtime import origin
from l3muscle.statistics import (
    METRICS,
    REPORTED_NAMES,
    dunnett_table,
    learning_curve_table,
    observer_band,
    reported_p_values,
)
from l3muscle.study import StudyResults
from l3muscle.tables import numbered_table

PICTURE_DPI = 150


def source_labels(results: StudyResults) -> dict[str, str]:
    """How the source tasks of a run are called: one that was learned from generated images says so."""
    kinds = {task: results.source_kind(task) for task in results.profile.grid.source_tasks}
    return {task: f"{task} (procedural)" if kind == "procedural" else task for task, kind in kinds.items()}


def run_strip(results: StudyResults) -> str:
    """What a run is, as a strip for the top of a page: profile, cohort, experiments, duration, machine, commit."""
    records = list(results.records.values())
    cohort = f"{'phantom' if results.plan['phantom'] else 'own cohort'}, {results.plan['patients']} patients"
    minutes = sum(record["seconds"] for record in records) / 60
    line = (
        f"*Measured in this run* — profile **{results.profile.name}** · {cohort} · "
        f"{len(records)} of {results.planned()} experiments · {minutes:.1f} min of one worker · "
        f"{origin(records[0]['provenance'])}"
    )
    return f"```{{div}} l3-strip\n{line}\n```\n"


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
    return (
        "```{admonition} Not run in this profile\n:class: warning l3-not-run\n"
        f"{what} needs experiments that the run of the profile **{results.profile.name}** does not have: "
        f"{', '.join(missing)}. Nothing is shown in their place.\n```\n"
    )


def _level_from(worse: dict[int, bool]) -> str:
    """The size from which on no size is worse than the observers."""
    level = None
    for n in sorted(worse, reverse=True):
        if worse[n]:
            break
        level = n
    return "at no size" if level is None else f"n = {level}"


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
    printed = printed[(printed["metric"] == METRICS["dice"]) & (printed["versus"] == "")]
    sizes = sorted(curve["n_train"].unique())
    rows = []
    for task in dict.fromkeys(table["source_task"]):
        paper = printed[printed["source_task"] == REPORTED_NAMES[task]]
        ours = table[table["source_task"] == task]
        means = curve[curve["source_task"] == task].set_index("n_train")["mean"]
        row = {
            "source task": labels[task],
            "paper": _level_from(dict(zip(paper["n_train"], paper["marked"] == "worse", strict=True))),
            "this run": _level_from(dict(zip(ours["n_train"], ours["verdict"] == "worse", strict=True))),
        }
        for n in dict.fromkeys((sizes[0], sizes[-1])):
            row[f"Dice, n = {n}"] = f"{means[n]:.3f}" if n in means else "not run"
        rows.append(row)
    return pd.DataFrame(rows)


def write_tables_zip(folder: Path) -> Path | None:
    """Pack every CSV under `folder / "data"` into `folder / "tables.zip"`, the same bytes for the same tables."""
    tables = sorted((folder / "data").rglob("*.csv"))
    if not tables:
        return None
    path = folder / "tables.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for table in tables:
            entry = zipfile.ZipInfo(table.relative_to(folder / "data").as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, table.read_bytes())
    return path


def write_summary(results: StudyResults, folder: Path = EXECUTED) -> Path:
    """Write `summary.md` and its picture, which the front page includes.

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
    figure.savefig(folder / "summary.svg", metadata={"Date": None})
    figure.savefig(folder / "summary.png", dpi=PICTURE_DPI)
    curve = learning_curve_table(scores, "dice")
    answer = answer_table(dunnett_table(scores, observers, "dice"), curve, labels)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    curve.to_csv(data / "front-learning-curve.csv", index=False, float_format="%.6g")
    answer.to_csv(data / "front-answer.csv", index=False)
    write_tables_zip(folder)
    front_table = numbered_table(
        answer.to_dict("records"),
        caption="The size from which on a source task is not worse than the observers (Dice, p < 0.001), by the "
        "paper on patients and by this run, with this run's mean Dice at its ends.",
        name="tab-front",
    )
    missing = not_run_box(
        results, "Part of this page", tasks=results.profile.grid.source_tasks, sizes=results.profile.grid.sizes
    )
    text = f"""\
{run_strip(results)}
{missing}
```{{figure}} /{folder.as_posix()}/summary.svg
:name: fig-front
:alt: Mean Dice against training-set size for each source task, with the observers' mean as a band.

Mean Dice of the predicted outlines on the held-out test slices, with 95 % intervals, against the number of annotated
slices that each model was fine-tuned on. The observers' mean is {band.mean:.3f}. Values appear under the pointer, and
with the arrow keys.
```

{front_table}
Every table of this book: {{download}}`tables.zip </{folder.as_posix()}/tables.zip>`.
"""
    path = folder / "summary.md"
    path.write_text(text, encoding="utf-8")
    return path
