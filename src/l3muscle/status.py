"""How far a study is: a table of its configurations, for the terminal."""

import time
from collections import Counter

from rich.console import Console
from rich.live import Live
from rich.table import Table

from l3muscle.results import StudyResults

REFRESH_S = 2.0


def status_table(results: StudyResults) -> Table:
    """Models done and failed in each configuration of source task and training-set size.

    Parameters
    ----------
    results : StudyResults

    Returns
    -------
    rich.table.Table
        Its caption says what is missing and how long one worker will need for it.
    """
    grid = results.profile.grid
    each = grid.folds * grid.subsets * grid.repeats
    done = Counter(experiment.configuration for experiment in results.records)
    failures = results.failures()
    failed = Counter(experiment.configuration for experiment in failures)
    table = Table(title=f"{results.profile.name}: models done of {each}", title_justify="left", caption_justify="left")
    table.add_column("source task")
    for size in grid.sizes:
        table.add_column(f"n={size}", justify="right")
    for task in grid.source_tasks:
        cells = []
        for size in grid.sizes:
            count, bad = done[task, size], failed[task, size]
            colour = "green" if count == each else "red" if bad else "default"
            cells.append(f"[{colour}]{count}[/]" + (f" [red]({bad} failed)[/]" if bad else ""))
        table.add_row(task, *cells)
    finished = sum(done.values())
    missing = results.planned() - finished
    caption = f"{finished} of {results.planned()} models done, {missing} missing, {len(failures)} failed"
    if finished and missing:
        seconds = sum(record["seconds"] for record in results.records.values()) / finished * missing
        caption += f"; about {seconds / 60:.0f} min of one worker left"
    for experiment, reason in failures.items():
        caption += f"\n{experiment}: {reason}"
    for name, reason in results.failed_notebooks().items():
        caption += f"\nnotebook {name}: {reason}; {results.folder / 'notebooks' / name}.ipynb is as far as it came"
    table.caption = caption
    return table


def show_status(results: StudyResults, *, watch: bool = False) -> None:
    """Print the table, or keep it up to date until the study is complete."""
    console = Console(soft_wrap=True)
    if not watch:
        console.print(status_table(results))
        return
    with Live(status_table(results), console=console, auto_refresh=False) as live:
        while len(results.records) < results.planned():
            time.sleep(REFRESH_S)
            results = StudyResults(results.folder)
            live.update(status_table(results), refresh=True)
