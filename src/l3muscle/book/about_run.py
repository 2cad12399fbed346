"""What a run was, and its numbers followed back: from the mean on a page to the scores, and from those to the masks."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from l3muscle.book.downloads import experiments_table
from l3muscle.book.summary import results_id
from l3muscle.book.tables import markdown_table
from l3muscle.metrics import Reference
from l3muscle.statistics import learning_curve_table
from l3muscle.study import Experiment, StudyResults


def run_rows(results: StudyResults) -> list[dict[str, str]]:
    """What identifies a run, as rows of a table."""
    plan, records = results.plan, results.records
    failed, minutes = len(results.failures()), sum(record["seconds"] for record in records.values()) / 60
    sizes = [str(n) for n in results.profile.grid.sizes]
    values = {
        "profile": results.profile.name,
        "cohort": f"{'phantom' if plan['phantom'] else 'own cohort'}, {plan['patients']} patients",
        "cohort's SHA-256": f"`{plan['cohort']}`",
        "training-set sizes": ", ".join(sizes),
        "seed": str(results.profile.grid.seed),
        "experiments": f"{len(records)} of {results.planned()} finished, {failed} failed",
        "hash of the method's code": f"`{plan['code']}`",
        "results": f"`{results_id(results)}`",
        "time of one worker": f"{minutes:.1f} min for the experiments",
    }
    return [{"what": name, "value": value} for name, value in values.items()]


def machine_rows(results: StudyResults) -> list[dict[str, str]]:
    """Every machine and version that made experiments of a run: one row a property, one column a machine."""
    counts: Counter[str] = Counter()
    for record in results.records.values():
        counts[json.dumps(record["provenance"], sort_keys=True)] += 1
    columns = []
    for text, count in counts.most_common():
        about = json.loads(text)
        changed = " with uncommitted changes" if about["uncommitted_changes"] else ""
        columns.append(
            {
                "experiments": str(count),
                "commit": f"`{(about['commit'] or 'unknown')[:10]}`{changed}",
                "processor": f"{about['processor']}, {about['cores']} cores",
                "GPU": about["gpu"] or "none",
                "system": about["system"],
                "Python": about["python"],
                **about["versions"],
            }
        )
    names = list(dict.fromkeys(name for column in columns for name in column))
    return [
        {"what": name, **{f"machine {place}": column.get(name, "") for place, column in enumerate(columns, 1)}}
        for name in names
    ]


def cell_rows(results: StudyResults, labels: Mapping[str, str]) -> list[dict[str, str]]:
    """How many of its models every cell of source task and training-set size has.

    Parameters
    ----------
    results : StudyResults
    labels : mapping of str to str
        How each source task is called.
    """
    grid = results.profile.grid
    whole = grid.folds * grid.subsets * grid.repeats
    done = Counter((experiment.source_task, experiment.n_train) for experiment in results.records)
    return [
        {
            "source task": labels[task],
            **{f"n = {n}": f"{done[task, n]} of {whole}" if done[task, n] else "not run" for n in grid.sizes},
        }
        for task in grid.source_tasks
    ]


def retrace(results: StudyResults, *, cells: int = 10, seed: int = 0) -> pd.DataFrame:
    """Measure the stored masks of some cells once more, and lay their means beside those that the pages show.

    Parameters
    ----------
    results : StudyResults
    cells : int
        How many, chosen at random.
    seed : int

    Returns
    -------
    DataFrame
        One row a cell: source_task, n_train, predictions; shown_dice and shown_rms_dta_cm, the means of the score
        tables as figures and tables show them; measured_dice and measured_rms_dta_cm, the means of what the masks in
        `predictions.npz` measure against the cohort's; largest_difference, over every single score of the cell.
    """
    scores, cohort = results.scores(), results.cohort()
    test_ids = results.splits().test_ids
    references = []
    for patient in test_ids:
        place = cohort.index(patient)
        references.append(Reference(cohort.masks[place], cohort.images[place], cohort.spacing[place]))
    shown = {
        metric: learning_curve_table(scores, metric).set_index(["source_task", "n_train"])["mean"]
        for metric in ("dice", "rms_dta_cm")
    }
    finished = list(dict.fromkeys((experiment.source_task, experiment.n_train) for experiment in results.records))
    order = np.random.default_rng(seed).permutation(len(finished))[:cells]
    rows = []
    for task, n_train in (finished[place] for place in sorted(order)):
        measured, stored = [], []
        for experiment in results.records:
            if (experiment.source_task, experiment.n_train) != (task, n_train):
                continue
            own = _scores_of(results, experiment)
            for patient, reference, mask in zip(test_ids, references, results.predictions(experiment), strict=True):
                score = reference.score(mask)
                measured.append((score.dice, score.rms_dta_cm))
                stored.append((own.loc[patient, "dice"], own.loc[patient, "rms_dta_cm"]))
        again, before = np.array(measured, dtype=float), np.array(stored, dtype=float)
        means = np.nanmean(again, axis=0)
        rows.append(
            {
                "source_task": task,
                "n_train": n_train,
                "predictions": len(again),
                "shown_dice": shown["dice"][task, n_train],
                "measured_dice": means[0],
                "shown_rms_dta_cm": shown["rms_dta_cm"][task, n_train],
                "measured_rms_dta_cm": means[1],
                "largest_difference": np.nanmax(np.abs(again - before)),
            }
        )
    return pd.DataFrame(rows)


def _scores_of(results: StudyResults, experiment: Experiment) -> pd.DataFrame:
    return results.store.table("experiments", results.keys[experiment], "scores").set_index("patient_id")


def experiment_listing(results: StudyResults, labels: Mapping[str, str]) -> str:
    """Every experiment of a run with the folder of its files, folded away by source task, as Markdown."""
    parts = []
    for task, own in experiments_table(results).groupby("source_task", sort=False):
        rows = [_listed(row) for row in own.sort_values(["n_train", "fold", "subset", "repeat"]).to_dict("records")]
        done = int((own["state"] == "done").sum())
        title = f"{labels[task]}: {done} of {len(own)} finished"
        parts.append(f"````{{dropdown}} {title}\n{markdown_table(rows)}\n````\n")
    return "\n".join(parts)


def _listed(row: Mapping[str, Any]) -> dict[str, str]:
    place = {name: str(row[name] + 1) for name in ("fold", "subset", "repeat")}
    done = row["state"] == "done"
    return {
        "n": str(row["n_train"]),
        **place,
        "mean Dice": f"{row['mean_dice']:.4f}" if done else row["state"],
        "steps": f"{row['steps']:.0f}" if done else "",
        "seconds": f"{row['seconds']:.1f}" if done else "",
        "files": f"`{row['files']}`" if done else "",
    }
