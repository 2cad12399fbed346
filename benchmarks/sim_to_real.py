"""From simulated to real CT: train on phantoms of one diversity alone, score on annotated real slices.

    python benchmarks/sim_to_real.py ct.nii.gz muscle.nii.gz --planes 0 1 2 3 4 --out results/sim-to-real

Both diversities get the network, images and steps of the profile `sim-to-real`, on two halves of 400 phantoms each,
with one training a half; neither sees a real slice before it is scored. Writes `scores.csv` (one row a network and
slice) and `provenance.json`.
"""

import argparse
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pandas as pd
from augmentation_ablation import run

from l3muscle.cohort.nifti import Volume
from l3muscle.experiment import build_network
from l3muscle.metrics import Reference
from l3muscle.runtime import provenance
from l3muscle.segmenter.model_file import Segmenter
from l3muscle.study import StudyResults

DIVERSITIES = (0.0, 1.0)


def segmenters(results: StudyResults) -> Iterator[tuple[str, Segmenter]]:
    """The trained networks, each with its experiment."""
    for experiment, key in results.keys.items():
        network = build_network(results.profile)
        network.load_state_dict(results.store.weights("models", key))
        yield str(experiment), Segmenter((network.eval(),), results.profile.image, {})


def main() -> None:
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="CT volume (NIfTI, HU)")
    parser.add_argument("mask", type=Path, help="skeletal muscle in it (NIfTI)")
    parser.add_argument(
        "--planes", type=int, nargs="+", required=True, help="axial slices to score, as the file counts"
    )
    parser.add_argument("--profile", default="sim-to-real")
    parser.add_argument("--size", type=int, default=200, help="phantoms that each network learns from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    image, mask = Volume(arguments.image), Volume(arguments.mask)
    grid = {"source_tasks": ["random"], "sizes": [arguments.size], "folds": 2, "subsets": 1, "repeats": 1}
    given = {"extends": arguments.profile, "keep_weights": "all", "grid": grid}
    rows, phantom_dice = [], {}
    for diversity in DIVERSITIES:
        own = {**given, "name": f"sim-to-real-{diversity:g}", "cohort": {"diversity": diversity}}
        results = run(own, arguments.runs, arguments.workers, None)
        phantom_dice[f"{diversity:g}"] = round(float(results.scores()["dice"].mean()), 4)
        for name, segmenter in segmenters(results):
            for plane in arguments.planes:
                hu, on = image.hu(plane), image.grid(plane)
                score = Reference(mask.mask_on(on), hu, on.spacing).score(segmenter.predict(hu, on.spacing))
                rows.append({"diversity": diversity, "network": name, "plane": plane, **score._asdict()})
    arguments.out.mkdir(parents=True, exist_ok=True)
    scores = pd.DataFrame(rows)
    scores.to_csv(arguments.out / "scores.csv", index=False, float_format="%.4f")
    about = {
        "measured": date.today().isoformat(),
        "phantom_dice": phantom_dice,
        "planes": arguments.planes,
        "provenance": provenance(),
    }
    (arguments.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(scores.groupby("diversity")[["dice", "rms_dta_cm"]].agg(["mean", "std"]).round(3))
    print("on phantoms of their own diversity:", phantom_dice)


if __name__ == "__main__":
    main()
