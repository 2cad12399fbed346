"""What `make mutants` found: how many changes of each module the tests notice.

    python tests/mutants.py [--mutants mutants] [--out results/mutants]

mutmut leaves the exit status of the tests for each change beside the changed module. `scores.csv` has a row a module,
`provenance.json` says when and where. Some changes alter nothing that a test could see (`strict=True` of a zip of equal
lengths, the dtype of an array that has it already), so that no score reaches one.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from l3muscle.runtime import provenance

TOP = Path(__file__).resolve().parents[1]
SURVIVED, UNTESTED = 0, 33  # exit status; any other one is that of a test that noticed


def count(mutants: Path) -> pd.DataFrame:
    """Changes of each module: all, those that were tried, noticed, not noticed, and reached by no test."""
    rows, source = [], mutants / "src" / "l3muscle"
    for path in sorted(source.rglob("*.py.meta")):
        status = pd.Series(json.loads(path.read_text())["exit_code_by_key"], dtype="Int64")
        tried = status.dropna()
        survived, untested = int((tried == SURVIVED).sum()), int((tried == UNTESTED).sum())
        noticed = len(tried) - survived - untested
        rows.append(
            {
                "module": path.relative_to(source).as_posix().removesuffix(".meta"),
                "changes": len(status),
                "tried": len(tried),
                "noticed": noticed,
                "survived": survived,
                "untested": untested,
                "score": round(noticed / len(tried), 4) if len(tried) else None,
            }
        )
    return pd.DataFrame(rows).query("changes > 0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=Path, default=TOP / "mutants")
    parser.add_argument("--out", type=Path, default=TOP / "results" / "mutants")
    options = parser.parse_args()
    table = count(options.mutants)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "scores.csv", index=False)
    about = {
        "measured": datetime.now(UTC).date().isoformat(),
        "changes": int(table["changes"].sum()),
        "tried": int(table["tried"].sum()),
        "score": round(table["noticed"].sum() / table["tried"].sum(), 4),
        "provenance": provenance(),
    }
    (options.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n")
    print(table.to_string(index=False))
    print(f"{about['score']:.1%} of {about['tried']} changes are noticed")


if __name__ == "__main__":
    main()
