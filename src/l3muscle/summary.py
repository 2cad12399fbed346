"""What the front page says of a run: in one strip, one figure and one small table."""

from pathlib import Path

from l3muscle.figures import learning_curve
from l3muscle.notebooks import EXECUTED
from l3muscle.runtime import origin
from l3muscle.statistics import beside_paper, dunnett_table, observer_band
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
    table = dunnett_table(scores, observers, "dice")
    largest = max(results.profile.grid.sizes)
    final = ", ".join(
        f"{labels[task]} {scores[(scores.source_task == task) & (scores.n_train == largest)].dice.mean():.3f}"
        for task in labels
    )
    front_table = numbered_table(
        beside_paper(table, "dice", labels).to_dict("records"),
        caption="Dunnett's tests of Dice against the observers: the paper's p-values on patients beside this run's.",
        name="tab-front",
    )
    text = f"""\
{run_strip(results)}
```{{figure}} /{folder.as_posix()}/summary.svg
:name: fig-front
:alt: Mean Dice against training-set size for each source task, with the observers' mean as a band.

Mean Dice of the predicted outlines on the held-out test slices, with 95 % intervals, against the number of annotated
slices that each model was fine-tuned on. At n = {largest}: {final}; observers {band.mean:.3f}.
```

{front_table}
Bold: better than the observers (this run only: the transcription of the paper's table has lost its bold type).
Underlined: worse. Both at p < 0.001.
"""
    path = folder / "summary.md"
    path.write_text(text, encoding="utf-8")
    return path
