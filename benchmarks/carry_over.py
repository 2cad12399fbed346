"""Which phantom carries over to real CT: train on each setting alone, score on annotated real slices.

    python benchmarks/carry_over.py ct.nii.gz muscle.nii.gz --planes 0 1 2 3 4 --out results/carry-over

Both settings get the network, images and steps of the profile `carry-over`, on two halves of 400 phantoms each, with
one training a half; neither sees a real slice before it is scored. Writes `scores.csv` (one row a network and slice)
and `provenance.json`.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import pandas as pd

from l3muscle.cohort.nifti import Volume
from l3muscle.metrics import Reference
from l3muscle.models import build_fcn
from l3muscle.profile import load_profile
from l3muscle.runner import run_study
from l3muscle.runtime import provenance
from l3muscle.segmenter.model_file import Segmenter
from l3muscle.study import Study, StudyResults

SETTINGS = ("realistic", "randomised")


def train(setting: str, runs: Path, workers: int) -> StudyResults:
    """Run the profile's grid on a phantom of this setting, or take up where an earlier call ended."""
    settings = {"cohort": {"setting": setting}, "grid": {"folds": 2, "sizes": [200]}}
    study = Study(load_profile("carry-over", **settings), runs=runs / f"carry-over-{setting}")
    study.make_phantom(workers=workers)
    run_study(study, workers=workers)
    return StudyResults(study.folder)


def segmenters(results: StudyResults) -> dict[str, Segmenter]:
    """The trained networks, by experiment."""
    network = results.profile.network
    loaded = {}
    for experiment, key in results.keys.items():
        fcn = build_fcn(network.backbone, width=network.width, output_stride=network.output_stride)
        fcn.load_state_dict(results.store.weights("experiments", key))
        loaded[str(experiment)] = Segmenter(fcn.eval(), results.profile.image, {})
    return loaded


def main() -> None:
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="CT volume (NIfTI, HU)")
    parser.add_argument("mask", type=Path, help="skeletal muscle in it (NIfTI)")
    parser.add_argument(
        "--planes", type=int, nargs="+", required=True, help="axial slices to score, as the file counts"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    image, mask = (Volume(path, path.name) for path in (arguments.image, arguments.mask))
    rows, phantom_rows = [], []
    for setting in SETTINGS:
        results = train(setting, arguments.runs, arguments.workers)
        phantom_rows.append(results.scores().assign(setting=setting))
        for name, segmenter in segmenters(results).items():
            for number in arguments.planes:
                grid = image.grid(number)
                expert = mask.mask_on(grid)
                hu = image.hu(number)
                score = Reference(expert, hu, grid.spacing).score(segmenter.predict(hu, grid.spacing))
                rows.append({"setting": setting, "network": name, "plane": number, **score._asdict()})
    arguments.out.mkdir(parents=True, exist_ok=True)
    scores = pd.DataFrame(rows)
    scores.to_csv(arguments.out / "scores.csv", index=False, float_format="%.4f")
    own = pd.concat(phantom_rows).groupby("setting")["dice"].mean()
    about = {
        "measured": date.today().isoformat(),
        "phantom_dice": own.round(4).to_dict(),
        "planes": arguments.planes,
        "provenance": provenance(),
    }
    (arguments.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(scores.groupby("setting")[["dice", "rms_dta_cm"]].agg(["mean", "std"]).round(3))
    print("on phantoms of its own setting:", about["phantom_dice"])


if __name__ == "__main__":
    main()
