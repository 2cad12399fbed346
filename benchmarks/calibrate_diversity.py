"""How diverse the study's phantom has to be, from random initialisation alone.

    python benchmarks/calibrate_diversity.py --out results/calibration

In the paper (Figure 3, Section 3) networks from random initialisation reach the observers' mean Dice of 0.901 somewhere
between 10 and 50 annotated slices. The diversity of the phantom, `cohort.diversity`, is set so that the same happens
here. No source task is looked at: all that the study says of them is out of sample. Writes `scores.csv` (one row a
model and test image) and `provenance.json` (with the size at which each diversity crosses 0.901, and the chosen one).
Takes up where an earlier call ended.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from augmentation_ablation import run

from l3muscle.runtime import provenance

OBSERVERS_DICE = 0.901  # Section 3
BETWEEN = (10, 50)  # annotated slices


def crossing(dice: pd.Series) -> float:
    """Size at which mean Dice reaches the observers', interpolated over the logarithm; nan where it does not."""
    sizes, values = np.log(dice.index.to_numpy(float)), dice.to_numpy()
    if not values.min() < OBSERVERS_DICE < values.max():
        return float("nan")
    return float(np.exp(np.interp(OBSERVERS_DICE, np.maximum.accumulate(values), sizes)))


def _size(n: float, sizes: list[int]) -> str:
    """A crossing as text; where there is none, every mean lies on one side."""
    return f"none of {sizes[0]} to {sizes[-1]}" if np.isnan(n) else f"{n:.0f}"


def main() -> None:
    """Train, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="full")
    parser.add_argument("--diversities", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 10, 25, 50])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    grid = {"source_tasks": ["random"], "sizes": arguments.sizes, "folds": 2, "subsets": 1, "repeats": 1}
    scores = []
    for diversity in arguments.diversities:
        own = {"name": f"calibration-{diversity:g}", "extends": arguments.profile, "grid": grid}
        results = run({**own, "cohort": {"diversity": diversity}}, arguments.runs, arguments.workers, None)
        scores.append(results.scores().assign(diversity=diversity))
    scores = pd.concat(scores, ignore_index=True)
    means = scores.pivot_table(index="diversity", columns="n_train", values="dice")
    table = means.assign(crossing=means.apply(crossing, axis=1))
    inside = table["crossing"].between(*BETWEEN)
    # The middle of the range, on the scale on which sizes are spaced.
    distance = (np.log(table["crossing"]) - np.log(BETWEEN).mean()).abs()
    chosen = float(distance[inside].idxmin()) if inside.any() else None
    arguments.out.mkdir(parents=True, exist_ok=True)
    scores.to_csv(arguments.out / "scores.csv", index=False, float_format="%.6g")
    about = {
        "measured": date.today().isoformat(),
        "profile": arguments.profile,
        "observers_dice": OBSERVERS_DICE,
        "between": BETWEEN,
        "crossing": {f"{at:g}": _size(n, grid["sizes"]) for at, n in table["crossing"].items()},
        "chosen": chosen,
        "provenance": provenance(),
    }
    (arguments.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(table.round(3), f"chosen: {chosen}", sep="\n")


if __name__ == "__main__":
    main()
