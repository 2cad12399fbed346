"""What augmentation is worth: the same experiments with a profile's augmentation and without any (Section 4).

    python benchmarks/augmentation_ablation.py --profile laptop --out results/augmentation-ablation

Both settings share cohort, splits, seeds, source weights and every other setting, so that each model has a partner
that differs in nothing else; a model whose partner is not finished is left out. Writes `scores.csv` (one row a model
and test image; the column `augmentation` says which setting) and `provenance.json`. Takes up where an earlier call
ended.
"""

import argparse
import json
from dataclasses import fields
from datetime import date
from pathlib import Path

import pandas as pd

from l3muscle.profile import Profile, load_profile
from l3muscle.runner import run_study
from l3muscle.runtime import provenance
from l3muscle.study import Experiment, Study, StudyResults

NAME = "augmentation-ablation"
NONE = {f"{kind}_probability": 0.0 for kind in ("flip", "rotation", "scale", "elastic")}
SETTINGS = {"with": {}, "without": NONE}


def run(profile: Profile, runs: Path, workers: int, time_budget: float | None) -> StudyResults:
    """Run what is missing of one setting; both lie in one folder, where they share the learned source tasks."""
    study = Study(profile, runs=runs)
    study.make_phantom(workers=workers)
    run_study(study, workers=workers, time_budget=time_budget)
    return StudyResults(study.folder)


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
    found, settings = {}, {}
    for setting, augmentation in SETTINGS.items():
        profile = load_profile(arguments.profile, grid=grid, augmentation=augmentation)
        settings[setting] = profile.augmentation.model_dump(mode="json")
        results = run(
            profile.model_copy(update={"name": NAME}), arguments.runs, arguments.workers, arguments.time_budget
        )
        # Read at once: the plan of the other setting takes this one's place.
        found[setting] = results.records, results.scores() if results.records else pd.DataFrame()
    pairs = set.intersection(*(set(records) for records, _ in found.values()))
    if not pairs:
        raise SystemExit("no pair of models is finished yet")
    axes = [field.name for field in fields(Experiment)]
    scores = pd.concat([scores.assign(augmentation=setting) for setting, (_, scores) in found.items()])
    scores = scores[[Experiment(*place) in pairs for place in scores[axes].itertuples(index=False)]]
    seconds = sum(record["seconds"] for records, _ in found.values() for key, record in records.items() if key in pairs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    scores.to_csv(arguments.out / "scores.csv", index=False, float_format="%.10g")
    about = {
        "measured": date.today().isoformat(),
        "profile": arguments.profile,
        "cohort": "phantom",
        "grid": profile.grid.model_dump(mode="json"),
        "augmentation": settings,
        "pairs": len(pairs),
        "seconds_of_one_worker": round(seconds, 1),
        "provenance": provenance(),
    }
    (arguments.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(scores.pivot_table(index=["source_task", "n_train"], columns="augmentation", values="dice").round(3))


if __name__ == "__main__":
    main()
