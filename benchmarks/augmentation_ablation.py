"""What augmentation is worth: the same experiments with a profile's augmentation and without any (Section 4).

    python benchmarks/augmentation_ablation.py --profile laptop --out results/augmentation-ablation

Both settings share cohort, splits, seeds, source weights and every other setting, so that each model has a partner
that differs in nothing else; a model whose partner is not finished is left out. Writes `scores.csv` (one row a model
and test image; the column `augmentation` says which setting) and `provenance.json`. Takes up where an earlier call
ended.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import pandas as pd

from l3muscle.experiment import AXES, Experiment
from l3muscle.profile import load_profile
from l3muscle.runner import run_study
from l3muscle.runtime import provenance
from l3muscle.study import Study, open_study

NAME = "augmentation-ablation"
NONE = {f"{kind}_probability": 0.0 for kind in ("flip", "rotation", "scale", "elastic")}
SETTINGS = {"with": {}, "without": NONE}


def run(
    profile: dict, runs: Path, workers: int, time_budget: float | None = None, only: dict[str, list[int]] | None = None
) -> Study:
    """Run what is missing of a profile, or a part of it; its notebooks read the profile from a file."""
    path = runs.resolve() / f"{profile['name']}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(profile), encoding="utf-8")  # JSON is YAML
    study = open_study(str(path), runs)
    run_study(study, workers=workers, time_budget=time_budget, only=only)
    return study


def main() -> None:
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--source-tasks", nargs="+", default=["random", "segmentation"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 10, 25, 125])
    parser.add_argument("--subsets", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--time-budget", type=float, help="seconds for each setting; by default until all is done")
    arguments = parser.parse_args()
    grid = {name: getattr(arguments, name) for name in ("source_tasks", "sizes", "subsets", "repeats")}
    # Both lie in one folder, where they share the learned source tasks.
    given = {"extends": arguments.profile, "name": NAME, "grid": grid}
    found = {}
    for setting, augmentation in SETTINGS.items():
        own = {**given, "augmentation": augmentation}
        results = run(own, arguments.runs, arguments.workers, arguments.time_budget).results()
        # Read at once: the plan of the other setting takes this one's place.
        found[setting] = results.records, results.scores() if results.records else pd.DataFrame()
    pairs = set.intersection(*(set(records) for records, _ in found.values()))
    if not pairs:
        raise SystemExit("no pair of models is finished yet")
    scores = pd.concat([scores.assign(augmentation=setting) for setting, (_, scores) in found.items()])
    scores = scores[[Experiment(*axes) in pairs for axes in scores[list(AXES)].itertuples(index=False)]]
    seconds = sum(records[experiment]["seconds"] for records, _ in found.values() for experiment in pairs)
    profile = load_profile(arguments.profile, grid=grid)
    with_augmentation = profile.augmentation.model_dump(mode="json")
    arguments.out.mkdir(parents=True, exist_ok=True)
    scores.to_csv(arguments.out / "scores.csv", index=False, float_format="%.10g")
    about = {
        "measured": date.today().isoformat(),
        "profile": arguments.profile,
        "cohort": "phantom",
        "grid": profile.grid.model_dump(mode="json"),
        "augmentation": {setting: {**with_augmentation, **changed} for setting, changed in SETTINGS.items()},
        "pairs": len(pairs),
        "seconds_of_one_worker": round(seconds, 1),
        "provenance": provenance(),
    }
    (arguments.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(scores.pivot_table(index=["source_task", "n_train"], columns="augmentation", values="dice").round(3))


if __name__ == "__main__":
    main()
