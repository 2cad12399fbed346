"""What run a page shows: its header, what it lacks, and the tables of the chapter "About this run"."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display

from l3muscle.book.pseudonyms import shown_names
from l3muscle.book.show import markdown_table, notice
from l3muscle.experiment import AXES
from l3muscle.metrics import dice, rms_dta
from l3muscle.runtime import origin
from l3muscle.study import StudyResults

# Words for how a source task came about, by the beginning of what `Profile.source_kind` says.
LEARNED_FROM = (
    ("procedural on IMAGENET", "procedural, on ImageNet"),
    ("procedural", "procedural"),
    ("IMAGENET", "ImageNet"),
    ("COCO", "COCO"),
)


def labels_of(kinds: Mapping[str, str]) -> dict[str, str]:
    """How source tasks are called, by how they came about: a word says which images one was learned from."""
    return {
        task: next((f"{task} ({word})" for beginning, word in LEARNED_FROM if kind.startswith(beginning)), task)
        for task, kind in kinds.items()
    }


def source_labels(results: StudyResults) -> dict[str, str]:
    """How the source tasks of a run are called."""
    return labels_of({task: results.source_kind(task) for task in results.profile.grid.source_tasks})


def names_of(results: StudyResults) -> dict[str, str]:
    """How patients and observers of a run are called on its pages (`l3muscle.book.pseudonyms`)."""
    return shown_names(results.cohort(), phantom=results.plan["phantom"])


def window_of(results: StudyResults) -> tuple[float, float]:
    """Width and level of the window that a run's networks see slices through, HU."""
    return results.profile.image.window_hu, results.profile.image.level_hu


def results_id(results: StudyResults) -> str:
    """Ten hexadecimal digits that name what a run has finished: any other set of scores has others."""
    digest = hashlib.sha256("".join(sorted(results.keys.values())).encode())
    if results.records:
        digest.update(results.scores().to_csv(index=False).encode())
    digest.update(results.observer_scores().to_csv(index=False).encode())
    return digest.hexdigest()[:10]


def _cohort_text(results: StudyResults) -> str:
    """Whose images the numbers come from, in a few words."""
    return f"{'phantom' if results.plan['phantom'] else 'own cohort'}, {results.plan['patients']} patients"


def header_text(results: StudyResults) -> str:
    """What a run is, in one line: profile, cohort, models, duration, machine, commit."""
    records = list(results.records.values())
    minutes = sum(record["seconds"] for record in records) / 60
    origins = list(dict.fromkeys(origin(record["provenance"]) for record in records)) or ["nothing run yet"]
    more = f" and {len(origins) - 1} more" if len(origins) > 1 else ""
    return (
        f"*Measured in this run* — profile **{results.profile.name}** · {_cohort_text(results)} · "
        f"{len(records)} of {results.planned()} models · {minutes:.1f} min of fine-tuning · "
        f"{origins[0]}{more} · results {results_id(results)}"
    )


def missing_notice(results: StudyResults) -> str:
    """A notice of the configurations that a run has no model of, as Markdown; empty where there is none."""
    grid = results.profile.grid
    done = {experiment.configuration for experiment in results.records}
    missing = [f"{task} n = {n}" for task in grid.source_tasks for n in grid.sizes if (task, n) not in done]
    if not missing:
        return ""
    return notice(f"The run of the profile **{results.profile.name}** has no models of: {', '.join(missing)}.")


def as_header(line: str) -> str:
    """A line as the header of a page, in Markdown."""
    return f"```{{div}} l3-run-header\n{line}\n```\n"


def show_run_header(results: StudyResults, *, models: bool = True) -> None:
    """Show at the top of a chapter which run it is of.

    Parameters
    ----------
    results : StudyResults
    models : bool
        Whether the chapter is about trained models, so that it says which are missing.
    """
    line = header_text(results)
    text = as_header(line) + (missing_notice(results) if models else "")
    display({"text/markdown": text, "text/html": f"<p>{line.replace('*', '')}</p>"}, raw=True)


def cohort_notice(results: StudyResults) -> str:
    """A notice that says whose images the numbers come from, as Markdown."""
    if results.plan["phantom"]:
        text = (
            "All images are of a **phantom**: procedural images of the abdomen, drawn by a program, with simulated "
            "observers; only {doc}`/book/executed/sim_to_real` scores slices of a real CT volume. Numbers of this run "
            "stand beside the paper's so that the two can be compared as *studies*; they say nothing about patients."
        )
    else:
        text = (
            f"This run was made on a **cohort of its owner's**, {results.plan['patients']} patients, and not on the "
            "phantom of the published edition. What other pages say of a phantom does not hold for its numbers."
        )
    return f"```{{important}}\n{text}\n```\n"


def run_rows(results: StudyResults) -> list[dict[str, str]]:
    """What identifies a run, as rows of a table."""
    records, failed = results.records, len(results.failures())
    values = {
        "profile": results.profile.name,
        "cohort": _cohort_text(results),
        "cohort's SHA-256": f"`{results.plan['cohort']}`",
        "training-set sizes": ", ".join(str(n) for n in results.profile.grid.sizes),
        "seed": str(results.profile.grid.seed),
        "models": f"{len(records)} of {results.planned()} finished, {failed} failed",
        "results": f"`{results_id(results)}`",
        "total training time": f"{sum(record['seconds'] for record in records.values()) / 60:.1f} min",
    }
    return [{"what": name, "value": value} for name, value in values.items()]


def machine_rows(results: StudyResults) -> list[dict[str, str]]:
    """Every machine and version that made models of a run: one row a property, one column a machine."""
    counts = Counter(json.dumps(record["provenance"], sort_keys=True) for record in results.records.values())
    columns = []
    for text, count in counts.most_common():
        about = json.loads(text)
        changed = " with uncommitted changes" if about["uncommitted_changes"] else ""
        columns.append(
            {
                "models": str(count),
                "commit": f"`{(about['commit'] or 'unknown')[:10]}`{changed}",
                "processor": f"{about['processor']}, {about['cores']} cores",
                "GPU": about["gpu"] or "none",
                "system": about["system"],
                "Python": about["python"],
                **about["versions"],
            }
        )
    names = list(dict.fromkeys(name for column in columns for name in column))
    machines = list(enumerate(columns, start=1))
    return [{"what": name, **{f"machine {k}": column.get(name, "") for k, column in machines}} for name in names]


def configuration_rows(results: StudyResults, labels: Mapping[str, str]) -> list[dict[str, str]]:
    """How many of its models every configuration of source task and training-set size has."""
    grid = results.profile.grid
    whole = grid.folds * grid.subsets * grid.repeats
    done = Counter(experiment.configuration for experiment in results.records)
    counts = {
        task: {f"n = {n}": f"{done[task, n]} of {whole}" if done[task, n] else "not run" for n in grid.sizes}
        for task in grid.source_tasks
    }
    return [{"source task": labels[task], **row} for task, row in counts.items()]


def measure_again(results: StudyResults, *, configurations: int = 10, seed: int = 0) -> pd.DataFrame:
    """Measure the stored masks of some configurations once more, and lay their means beside those that pages show.

    Parameters
    ----------
    results : StudyResults
    configurations : int
        How many, chosen at random.
    seed : int

    Returns
    -------
    DataFrame
        One row a configuration: source_task, n_train, predictions; shown_dice and shown_rms_dta_cm, the means of the
        scores; measured_dice and measured_rms_dta_cm, the means of what the stored masks measure against the expert's;
        largest_difference, over every single score of the configuration.
    """
    cohort, measures = results.cohort(), ["dice", "rms_dta_cm"]
    test = [cohort.index(patient) for patient in results.splits().test_ids]
    finished = list(dict.fromkeys(experiment.configuration for experiment in results.records))
    chosen = sorted(np.random.default_rng(seed).permutation(len(finished))[:configurations])
    rows = []
    for task, n_train in (finished[k] for k in chosen):
        models = [one for one in results.records if one.configuration == (task, n_train)]
        shown = pd.concat([results.scores_of(model)[measures] for model in models])
        pairs = [(mask, k) for model in models for k, mask in zip(test, results.predictions(model), strict=True)]
        again = [
            (dice(mask, cohort.masks[k]), rms_dta(mask, cohort.masks[k], tuple(cohort.spacing[k]))) for mask, k in pairs
        ]
        measured = pd.DataFrame(again, columns=measures)
        row = {"source_task": task, "n_train": n_train, "predictions": len(again)}
        for name in measures:
            row |= {f"shown_{name}": shown[name].mean(), f"measured_{name}": measured[name].mean()}
        rows.append(row | {"largest_difference": np.nanmax(np.abs(measured.to_numpy() - shown.to_numpy()))})
    return pd.DataFrame(rows)


def models_table(results: StudyResults) -> pd.DataFrame:
    """Every model of a run: whether it was made, how long it took, how well it did, and where its files lie.

    Returns
    -------
    DataFrame
        source_task, n_train, fold, subset, repeat, state (`"done"`, `"failed"`), steps, stopped, seconds, mean_dice,
        commit, key (of its files).
    """
    rows: list[dict[str, Any]] = []
    means = results.scores().groupby(list(AXES))["dice"].mean() if results.records else {}
    for experiment, record in results.records.items():
        rows.append(
            {
                **asdict(experiment),
                "state": "done",
                **{name: record[name] for name in ("steps", "stopped", "seconds")},
                "mean_dice": means[tuple(asdict(experiment).values())],
                "commit": record["provenance"]["commit"],
                "key": results.keys[experiment],
            }
        )
    rows += [{**asdict(experiment), "state": "failed"} for experiment in results.failures()]
    return pd.DataFrame(rows)


def model_listing(results: StudyResults, labels: Mapping[str, str]) -> str:
    """Every model of a run, folded away by source task, as Markdown."""
    parts = []
    for task, models in models_table(results).groupby("source_task", sort=False):
        rows = [
            {
                "n": row.n_train,
                **{name: getattr(row, name) for name in ("fold", "subset", "repeat")},
                "mean Dice": f"{row.mean_dice:.4f}" if row.state == "done" else row.state,
                "steps": f"{row.steps:.0f}" if row.state == "done" else "",
                "seconds": f"{row.seconds:.1f}" if row.state == "done" else "",
                "files": f"`{row.key}`" if row.state == "done" else "",
            }
            for row in models.sort_values(["n_train", "fold", "subset", "repeat"]).itertuples()
        ]
        parts.append(f"````{{dropdown}} {labels[task]}: {len(models)} models\n{markdown_table(rows)}\n````\n")
    return "\n".join(parts)
