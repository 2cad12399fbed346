"""All statistics of a whole study: 560 experiments on 37 images, 20,720 scores, and 182 observer outlines.

The scores are drawn, not measured: what the tables cost hangs on their size and on how they scatter, not on where they
come from. Prints the CPU seconds of each table and their sum, of one process with one thread.
"""

import time
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from l3muscle import statistics
from l3muscle.metrics import MEASURES
from l3muscle.statistics.claims import claims_table
from l3muscle.statistics.printed import printed_pairs
from l3muscle.statistics.score_table import COMPARED, DIFFERENCE_OF

TASKS = ("random", "classification", "segmentation", "jigsaw", "reconstruction")
SIZES = (5, 10, 25, 50, 75, 100, 125)
FOLDS, SUBSETS, REPEATS, IMAGES, OBSERVERS = 4, 2, 2, 37, 5
EMPTY_AT_SMALLEST = 0.02  # share of the predictions at the smallest size
LIMIT_S = 60.0


def _measures(dice: np.ndarray, lean: np.ndarray, patients: pd.DataFrame) -> pd.DataFrame:
    """Scores that go with a Dice: the distance grows as it falls; who draws wide measures more muscle, less dense."""
    distance = 2.6 * (1 - dice) * np.exp(0.4 * lean)
    density, area = -20 * (1 - dice) * (1 + lean), 60 * (1 - dice) * lean
    return pd.DataFrame(
        {
            "patient_id": patients["patient_id"].to_numpy(),
            "dice": dice,
            "rms_dta_cm": distance,
            "smd_hu": patients["smd"].to_numpy() + density,
            "sma_cm2": patients["sma"].to_numpy() + area,
            "smd_difference_hu": density,
            "sma_difference_cm2": area,
            "failure": "",
        }
    )


def study_scores(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of a study of the paper's size, and of its observers."""
    rng = np.random.default_rng(seed)
    patients = pd.DataFrame(
        {
            "patient_id": [f"P{i:03d}" for i in range(IMAGES)],
            "smd": rng.normal(38, 8, IMAGES),
            "sma": rng.normal(140, 28, IMAGES),
        }
    )
    image = rng.normal(0, 0.25, IMAGES)  # how hard a slice is, on the scale of log(1 - Dice)
    parts = []
    for place, task in enumerate(TASKS):
        for n, fold, subset, repeat in product(SIZES, range(FOLDS), range(SUBSETS), range(REPEATS)):
            off = np.log(0.06 + (0.9 + 0.15 * place) / n) + image + rng.normal(0, 0.15) + rng.normal(0, 0.3, IMAGES)
            part = _measures(1 - np.minimum(np.exp(off), 0.95), rng.normal(0, 1, IMAGES), patients)
            empty = rng.random(IMAGES) < (EMPTY_AT_SMALLEST if n == SIZES[0] else EMPTY_AT_SMALLEST / n)
            part.loc[empty, ["rms_dta_cm", "smd_hu", "smd_difference_hu"]] = np.nan
            part.loc[empty, ["dice", "sma_cm2"]] = 0.0
            part.loc[empty, "sma_difference_cm2"] = -patients["sma"][empty].to_numpy()
            part.loc[empty, "failure"] = "empty"
            parts.append(part.assign(source_task=task, n_train=n, fold=fold, subset=subset, repeat=repeat))
    outlines = [
        _measures(1 - np.exp(np.log(0.1) + image + rng.normal(0, 0.2, IMAGES)), rng.normal(-0.5, 1, IMAGES), patients)
        .assign(observer=f"observer {observer}")
        .iloc[: IMAGES - 3 * (observer == 0)]  # three outlines are missing, as in the paper
        for observer in range(OBSERVERS)
    ]
    return pd.concat(parts, ignore_index=True), pd.concat(outlines, ignore_index=True)


def tables(scores: pd.DataFrame, observers: pd.DataFrame) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every table that the book computes from the scores, once, with a name."""
    for metric in COMPARED:
        yield f"learning_curve_table {metric}", lambda m=metric: statistics.learning_curve_table(scores, m)
        yield f"plateau_table {metric}", lambda m=metric: statistics.plateau_table(scores, m)
    for metric in (column for column, row in MEASURES.items() if row.better):
        yield f"dunnett_table {metric}", lambda m=metric: statistics.dunnett_table(scores, observers, m)
        yield f"slices_needed_table {metric}", lambda m=metric: statistics.slices_needed_table(scores, observers, m)
    for measure in DIFFERENCE_OF:
        control = statistics.control_sample("expert", measure, scores=scores)
        yield f"dunnett_table {measure}", lambda m=measure, c=control: statistics.dunnett_table(scores, c, m)
        yield (
            f"agreement_table {measure}",
            lambda m=measure: statistics.agreement_table(scores, m, observers=observers),
        )
    yield "mann_whitney_pairs", lambda: statistics.mann_whitney_pairs(scores)
    for n in sorted(set(printed_pairs()["n_train"])):
        yield f"mann_whitney_beside_paper {n}", lambda n=n: statistics.mann_whitney_beside_paper(scores, n_train=n)
    for metric in COMPARED:
        yield f"surviving_differences {metric}", lambda m=metric: statistics.surviving_differences(scores, observers, m)
    for metric in COMPARED:
        yield f"readings_table {metric}", lambda m=metric: statistics.readings_table(scores, observers, m)
    yield "claims_table", lambda: claims_table(scores, observers)


def test_all_statistics_of_a_study():
    scores, observers = study_scores()
    assert len(scores) == 20_720 and len(observers) == 182
    total = 0.0
    print()
    with threadpool_limits(limits=1):
        for name, make in tables(scores, observers):
            started = time.process_time()
            made = make()
            took = time.process_time() - started
            total += took
            assert len(made)
            print(f"{name:<42} {took:6.2f} s")
    print(f"{'all statistics of the study':<42} {total:6.2f} s of one core")
    assert total <= LIMIT_S
