"""What `bench.py` measured, side by side: `report.md` with every comparison, `summary.md` with one table for the book.

python benchmarks/report.py [results/bench]
"""

import json
import sys
from pathlib import Path

import pandas as pd

OURS = "ours"
SIDES = ("ours", "theirs")
COLUMNS = ["part", "case", "quantity", "unit", "peer", "ours", "theirs", "gain", "low", "high"]
COMPARED = ("time a pair", "time a file", "images a second", "time a step", "Dice", "contrast kept")
SUBTRACTED = ("Dice", "contrast kept")  # shares, of which a ratio says nothing
# Case and quantity of the book's table, and how it calls them.
SUMMARY = {
    ("all four measures", "time a pair"): "measuring a mask of 512 × 512 against another",
    ("all four, one core", "images a second"): "augmenting images of 512 × 512, one core",
    ("ResNet-8, 104 x 148, batch 2, fp32, one core", "time a step"): "a training step, ResNet-8, one core",
    ("ResNet-50, 256 x 256, batch 4, fp32, 2 cores", "time a step"): "a training step, ResNet-50, two cores",
    ("a CT slice", "time a file"): "reading a CT slice (DICOM)",
    ("a DICOM Segmentation", "time a file"): "reading a mask (DICOM Segmentation)",
    ("n = 10", "Dice"): "Dice after equal CPU time, trained on ten slices",
    ("n = 10, to saturation", "Dice"): "the same with far more CPU time (part `saturation`)",
}


def compare(scores: pd.DataFrame) -> pd.DataFrame:
    """Every side beside ours.

    Parameters
    ----------
    scores : DataFrame
        `scores.csv` of a run.

    Returns
    -------
    DataFrame
        part, case, quantity, unit, peer; ours and theirs, medians over the repeats; gain, low, high: median and range
        over the repeats of how many times better ours is (above 1 ours wins), or of ours minus theirs where both are
        shares. The sides of a repeat were measured in turn, so a gain is taken within it.
    """
    rows = []
    scores = scores[scores["quantity"].isin(COMPARED)].dropna(subset="value")
    for (part, case, quantity), own in scores.groupby(["part", "case", "quantity"], sort=False):
        values = own.pivot(index="repeat", columns="side", values="value")
        if OURS not in values:
            continue
        for peer in values.columns.drop(OURS):
            both = values[[OURS, peer]].dropna()
            gain = both[peer] / both[OURS]
            if quantity in SUBTRACTED:
                gain = both[OURS] - both[peer]
            elif own["better"].iloc[0] == "higher":
                gain = 1 / gain
            medians = {"ours": values[OURS].median(), "theirs": values[peer].median()}
            gains = {"gain": gain.median(), "low": gain.min(), "high": gain.max()}
            unit = own["unit"].fillna("").iloc[0]
            rows.append(
                {"part": part, "case": case, "quantity": quantity, "unit": unit, "peer": peer, **medians, **gains}
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def markdown(table: pd.DataFrame) -> str:
    """Columns of text as a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [table.columns, *table.to_numpy()]]
    return "\n".join([lines[0], "|" + " --- |" * table.shape[1], *lines[1:]]) + "\n"


def plain(value: float) -> str:
    """Three digits, and no power of ten."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def texts(table: pd.DataFrame, first: dict[str, pd.Series]) -> pd.DataFrame:
    """The comparisons as text, behind some first columns."""
    units = table["unit"].replace("1/s", "a second")
    columns = {side: [f"{plain(v)} {u}".strip() for v, u in zip(table[side], units, strict=True)] for side in SIDES}
    share = table["quantity"].isin(SUBTRACTED)
    low, high, gain = (
        table[name].map(plain).where(~share, table[name].map("{:+.3f}".format).str.replace("-", "−"))
        for name in ("low", "high", "gain")
    )
    gains, spans = gain.where(share, gain + " times"), low + " … " + high
    return pd.DataFrame({**first, "beside": table["peer"], **columns, "better by": gains, "range": spans})


def write(folder: Path) -> None:
    """Write both files into the folder of a run."""
    about = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    record = about["provenance"]
    # Parts that were measured anew have another one.
    commits = ", ".join(dict.fromkeys((part["commit"] or "unknown")[:10] for part in about["parts"].values()))
    where = f"Measured {about['measured']} on {record['processor']}, {record['cores']} cores, commit {commits}"
    table = compare(pd.read_csv(folder / "scores.csv", dtype={"note": str}))
    parts = [
        f"# Beside other tools\n\n{where}. *Better by*: median and range over the repeats; above 1 time, or above 0 of "
        "shares, ours is ahead.\n"
    ]
    for part, own in table.groupby("part", sort=False):
        shown = texts(own, {"work": own["case"], "measured": own["quantity"]})
        parts.append(f"## {part.replace('_', ' ').capitalize()}\n\n{markdown(shown)}")
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items() if version)
    parts.append(f"Versions: {peers}.\n")
    (folder / "report.md").write_text("\n".join(parts), encoding="utf-8")

    others = table[~table["peer"].str.startswith("our") & (table["peer"] != "bare network")]
    best = others.sort_values("gain").drop_duplicates(["case", "quantity"])
    best = best.set_index(["case", "quantity"], drop=False).reindex(SUMMARY).dropna(subset="gain")
    if best.empty:
        return
    shown = texts(best, {"work": pd.Series([SUMMARY[key] for key in best.index], index=best.index)})
    archived = f"[from the archive: make bench, {about['measured']}]{{.l3-origin}}"
    caption = (
        f"{where}: each kind of work beside the best of the other tools; Dice after "
        f"{about['settings']['task_s']:g} s of CPU time. Above 1 time, or above 0 of Dice, ours is ahead. {archived}"
    )
    (folder / "summary.md").write_text(
        f"~~~{{table}} {caption}\n:name: tab-bench\n\n{markdown(shown)}~~~\n", encoding="utf-8"
    )


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "results/bench"))
