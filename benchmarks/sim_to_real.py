"""From simulated to real CT: what each part of the profile `sim-to-real` is worth on annotated real slices.

    python benchmarks/sim_to_real.py ct.nii.gz muscle.nii.gz --planes 0 1 2 3 4 --out results/sim-to-real

A recipe is the profile with settings changed, learned by the networks of two folds; the profile itself is learned by
four, and scored as the ensemble of them besides. None sees a real slice before it is scored. Writes `scores.csv` (one
row a recipe, network and slice), `provenance.json`, and the ensemble as `model.safetensors`. `--recipes` runs some and
keeps the rows of the others; what was cut short is taken up again.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pandas as pd
from augmentation_ablation import run

from l3muscle.cohort.nifti import Volume
from l3muscle.experiment import build_network
from l3muscle.metrics import Reference
from l3muscle.runtime import provenance
from l3muscle.segmenter.model_file import MODEL, Segmenter, load_model, publish_model
from l3muscle.study import Study

PROFILE = "sim-to-real"
FEW = {"training": {"max_steps": 1500}, "grid": {"sizes": [300]}}
COARSE = {**FEW, "network": {"output_stride": 4}, "image": {"shape": [140, 200], "field_of_view_mm": [280, 400]}}
NARROW = {**COARSE, "image": {"shape": [120, 176], "field_of_view_mm": [248, 352]}}
# Each changes something of the one before; the last is the profile itself.
RECIPES = {
    "300 phantoms of diversity 0 and 1500 steps, 248 x 352 mm at 2 mm, output stride 4": {
        **NARROW,
        "cohort": {"diversity": 0.0},
    },
    "diversity 1": NARROW,
    "280 x 400 mm": COARSE,
    "1.5 mm, output stride 2": FEW,
    "600 phantoms and 3000 steps": {},
}
FOLDS = [0, 1]  # of the recipes that are there to be compared


def segmenters(study: Study) -> Iterator[tuple[str, Segmenter]]:
    """The trained networks, each with its fold; after those of the profile itself the ensemble of them."""
    results = study.results()
    for experiment, key in results.keys.items():
        network = build_network(results.profile)
        network.load_state_dict(results.store.weights("models", key))
        yield f"fold {experiment.fold}", Segmenter((network.eval(),), results.profile.image, {})
    if results.profile.name == PROFILE:
        yield "ensemble", load_model(publish_model(study))


def main() -> None:
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="CT volume (NIfTI, HU)")
    parser.add_argument("mask", type=Path, help="skeletal muscle in it (NIfTI)")
    parser.add_argument("--planes", type=int, nargs="+", required=True, help="slices to score, as the file counts")
    parser.add_argument("--recipes", type=int, nargs="+", default=range(len(RECIPES)), help="numbers, from 0; else all")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=2)
    arguments, code = parser.parse_args(), provenance()
    image, mask = Volume(arguments.image), Volume(arguments.mask)
    real = [(image.hu(plane), image.grid(plane), mask.mask_on(image.grid(plane))) for plane in arguments.planes]
    recipes, rows, on_phantoms = list(RECIPES), [], {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number in arguments.recipes:
        recipe = recipes[number]
        changed = RECIPES[recipe]
        profile = {"extends": PROFILE, "name": f"{PROFILE}-{number}" if changed else PROFILE, **changed}
        study = run(profile, arguments.runs, arguments.workers, only={"fold": FOLDS} if changed else None)
        on_phantoms[recipe] = round(float(study.results().scores()["dice"].mean()), 4)
        for network, segmenter in segmenters(study):
            for plane, (hu, grid, expert) in zip(arguments.planes, real, strict=True):
                score = Reference(expert, hu, grid.spacing).score(segmenter.predict(hu, grid.spacing))
                rows.append({"recipe": recipe, "network": network, "plane": plane, **score._asdict()})
        if not changed:
            shutil.copy(study.folder / MODEL, arguments.out / MODEL)
    scores, path = pd.DataFrame(rows), arguments.out / "provenance.json"
    earlier = json.loads(path.read_text(encoding="utf-8"))["phantom_dice"] if path.exists() else {}
    if earlier:
        before = pd.read_csv(arguments.out / "scores.csv", dtype={"failure": str})
        scores = pd.concat([before[~before["recipe"].isin(on_phantoms)], scores])
        scores = scores.sort_values("recipe", key=lambda names: names.map(recipes.index), kind="stable")
    scores.to_csv(arguments.out / "scores.csv", index=False, float_format="%.4f")
    about = {
        "measured": date.today().isoformat(),
        "phantom_dice": {**earlier, **on_phantoms},
        "planes": arguments.planes,
        "provenance": code,
    }
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    kind = scores["network"].eq("ensemble")
    print(scores.groupby(["recipe", kind], sort=False)[["dice", "rms_dta_cm"]].agg(["mean", "std"]).round(3))


if __name__ == "__main__":
    main()
