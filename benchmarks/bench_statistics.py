"""CPU time of all statistics of a study: 140 experiments on 37 images, 5,180 scores, and 182 observer outlines.

    python benchmarks/bench_statistics.py

The study is the one that is archived in `results/laptop`; the expert's own measures, which the archive does not
hold, are drawn. Prints the CPU seconds of each table and their sum, of one process with one thread.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from l3muscle import statistics
from l3muscle.metrics import MEASURES
from l3muscle.statistics.claims import claims_table
from l3muscle.statistics.printed import printed_pairs
from l3muscle.statistics.score_table import COMPARED, DIFFERENCE_OF

STUDY = Path(__file__).resolve().parents[1] / "results" / "laptop"


EXPERT = {"smd": ("hu", 38, 8), "sma": ("cm2", 140, 28)}  # unit, mean and standard deviation


def read_scores(name: str) -> pd.DataFrame:
    """An archived table, with density and area beside their differences from the expert's."""
    scores = pd.read_csv(STUDY / f"{name}.csv")
    patients = sorted(scores["patient_id"].unique())
    for measure, (unit, mean, spread) in EXPERT.items():
        drawn = np.random.default_rng(0).normal(mean, spread, len(patients))
        expert = scores["patient_id"].map(dict(zip(patients, drawn, strict=True)))
        scores[f"{measure}_{unit}"] = expert + scores[f"{measure}_difference_{unit}"]
    return scores


def tables(scores: pd.DataFrame, observers: pd.DataFrame) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every table that the book computes from the scores, once, with a name."""
    for metric in COMPARED:
        yield f"learning_curve_table {metric}", partial(statistics.learning_curve_table, scores, metric)
        yield f"plateau_table {metric}", partial(statistics.plateau_table, scores, metric)
        yield f"surviving_differences {metric}", partial(statistics.surviving_differences, scores, observers, metric)
        yield f"readings_table {metric}", partial(statistics.readings_table, scores, observers, metric)
    for metric in (column for column, row in MEASURES.items() if row.better):
        yield f"dunnett_table {metric}", partial(statistics.dunnett_table, scores, observers, metric)
        yield f"slices_needed_table {metric}", partial(statistics.slices_needed_table, scores, observers, metric)
    for measure in DIFFERENCE_OF:
        control = statistics.control_sample("expert", measure, scores=scores)
        yield f"dunnett_table {measure}", partial(statistics.dunnett_table, scores, control, measure)
        yield f"agreement_table {measure}", partial(statistics.agreement_table, scores, measure, observers=observers)
    yield "mann_whitney_pairs", partial(statistics.mann_whitney_pairs, scores)
    for n in sorted(set(printed_pairs()["n_train"])):
        yield f"mann_whitney_beside_paper {n}", partial(statistics.mann_whitney_beside_paper, scores, n_train=n)
    yield "claims_table", partial(claims_table, scores, observers)


def main() -> None:
    """Time every table."""
    scores, observers = read_scores("scores"), read_scores("observers")
    total = 0.0
    with threadpool_limits(limits=1):
        for name, make in tables(scores, observers):
            started = time.process_time()
            make()
            took = time.process_time() - started
            total += took
            print(f"{name:<42} {took:6.2f} s", flush=True)
    print(f"{'all statistics of the study':<42} {total:6.2f} s of one core")


if __name__ == "__main__":
    main()
