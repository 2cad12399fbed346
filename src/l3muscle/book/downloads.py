"""Every table of the book as CSV, in one download: as it is shown, and the numbers behind it."""

import csv
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from l3muscle.study import Experiment, StudyResults

# A table as `l3muscle.book.tables.numbered_table` writes it.
_TABLE = re.compile(
    r"^```\{table\} (?P<caption>.+?)\n:name: (?P<name>\S+)\n(?::class: .*\n)?\n(?P<rows>(?:\|.*\n)+)```", re.M | re.S
)
_CELL_END = re.compile(r"(?<!\\)\|")
_MARKUP = re.compile(r"\*\*|</?(?:u|small)>|`")


def shown_tables(notebook: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Name and rows, header first, of each numbered table that an executed notebook shows."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            for match in _TABLE.finditer(output.get("data", {}).get("text/markdown", "") + "\n"):
                lines = match["rows"].strip().splitlines()
                rows = [_CELL_END.split(line.strip().strip("|")) for line in (lines[0], *lines[2:])]
                yield match["name"], [[_MARKUP.sub("", text).strip() for text in row] for row in rows]


def experiments_table(results: StudyResults) -> pd.DataFrame:
    """Every experiment of the grid: whether it was run, how long it took, how well it did, and where its files lie.

    Returns
    -------
    DataFrame
        source_task, n_train, fold, subset, repeat, state (`"done"`, `"failed"`, `"not run"`), steps, stopped, seconds,
        mean_dice, commit, files (a folder below that of the run), scores_sha256, predictions_sha256.
    """
    means = {}
    if results.records:
        names = ["source_task", "n_train", "fold", "subset", "repeat"]
        means = results.scores().groupby(names)["dice"].mean().to_dict()
    failures = results.failures()
    rows = []
    for entry in results.plan["experiments"]:
        experiment = Experiment(**{name: value for name, value in entry.items() if name != "key"})
        row: dict[str, Any] = asdict(experiment)
        record = results.records.get(experiment)
        if record is None:
            rows.append({**row, "state": "failed" if experiment in failures else "not run"})
            continue
        rows.append(
            {
                **row,
                "state": "done",
                **{name: record[name] for name in ("steps", "stopped", "seconds")},
                "mean_dice": means[tuple(row.values())],
                "commit": record["provenance"]["commit"],
                "files": f"experiments/{results.keys[experiment]}",
                "scores_sha256": record["sha256"]["scores.parquet"],
                "predictions_sha256": record["sha256"]["predictions.npz"],
            }
        )
    return pd.DataFrame(rows)


def run_tables(results: StudyResults) -> dict[str, pd.DataFrame]:
    """What a run has written, as tables by name: scores, training curves, observers' scores, experiments."""
    return {
        "scores": results.scores(),
        "training-curves": results.curves(),
        "observer-scores": results.observer_scores(),
        "experiments": experiments_table(results),
    }


def write_tables(
    folder: Path, *, shown: Mapping[str, pd.DataFrame], behind: Mapping[str, pd.DataFrame], about: str
) -> Path:
    """Write every table of the book as CSV under `folder / "data"`, and all of them into `folder / "tables.zip"`.

    Parameters
    ----------
    folder : Path
        Holds the executed notebooks, whose numbered tables are written as a reader sees them, by name. What chapters
        have put into `values/`, the numbers behind single figures, goes into the archive too.
    shown : mapping of str to DataFrame
        Further tables that are written as they are shown.
    behind : mapping of str to DataFrame
        The numbers behind them, which are written unrounded.
    about : str
        One line that says where they come from.

    Returns
    -------
    Path
        The archive; the same tables give the same bytes.
    """
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    (data / "shown").mkdir(parents=True)
    for name, table in shown.items():
        table.to_csv(data / "shown" / f"{name}.csv", index=False)
    for notebook in sorted(folder.glob("*.ipynb")):
        for name, rows in shown_tables(notebook):
            with (data / "shown" / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerows(rows)
    for name, table in behind.items():
        table.to_csv(data / f"{name}.csv", index=False, float_format="%.9g")
    (data / "README.txt").write_text(
        f"{about}\n\nshown/: the tables as the book shows them. The others: the numbers behind them, unrounded.\n"
        "Predicted masks: in the folders that experiments.csv names, below runs/<profile>/.\n",
        encoding="utf-8",
    )
    path = folder / "tables.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        files = {file.relative_to(data).as_posix(): file for file in data.rglob("*") if file.is_file()}
        files |= {f"values/{file.name}": file for file in (folder / "values").glob("*.csv")}
        for name, file in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
    return path
