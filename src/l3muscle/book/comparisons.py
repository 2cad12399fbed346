"""Reading what `make bench` measured: this package beside others, repeat by repeat.

The archive's table has one row a value: `part`, `case`, `quantity`, `unit`, which way is `better` (`"lower"` or
`"higher"`), `side`, `repeat`, `value` and `note`. The sides of a case were timed in turn, so that a ratio is taken
within a repeat, and its spread over the repeats says how far it can be trusted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from l3muscle.profile import Profile

OURS = "ours"
EVEN = 0.02  # a ratio nearer to 1 than this is called equal
# Milliseconds for all four measures of a mask at 512 x 512: case, against what, at most.
AIMS = (
    ("all four measures, reference prepared", "a prepared reference", 0.5),
    ("all four measures", "a new one", 2.5),
)
NOT_MEASURED = "This part was not measured in the archived run."


def compare(
    scores: pd.DataFrame, part: str, quantity: str, *, cases: Sequence[str] | None = None, baseline: str = OURS
) -> pd.DataFrame:
    """Every side beside ours, or another, in one quantity.

    Parameters
    ----------
    scores : DataFrame
        The archive's table.
    part, quantity : str
    cases : sequence of str, optional
        Those wanted, in their order; all by default.
    baseline : str
        The side that the others are compared with.

    Returns
    -------
    DataFrame
        One row a case and peer: case, unit, better, peer; ours, theirs (medians over the repeats); ratio, low, high
        (median and range, over repeats, of how many times better ours is: above 1 ours wins); repeats; note. A peer
        without a value has NaN, and the reason in `note`; so has a case that the baseline has no value in.
    """
    own = scores[(scores["part"] == part) & (scores["quantity"] == quantity)]
    wanted = list(dict.fromkeys(own["case"])) if cases is None else cases
    rows = []
    for case in wanted:
        group = own[own["case"] == case]
        values = {side: values_of(group, side) for side in dict.fromkeys(group["side"])}
        ours = values.get(baseline, pd.Series(dtype=float))
        for side, theirs in values.items():
            if side == baseline:
                continue
            entry = group[group["side"] == side].iloc[0]
            both = pd.concat({"ours": ours, "theirs": theirs}, axis=1, join="inner").dropna()
            ratio = both["theirs"] / both["ours"]
            if entry["better"] == "higher":
                ratio = 1 / ratio
            rows.append(
                {
                    "case": case,
                    "unit": entry["unit"] if isinstance(entry["unit"], str) else "",
                    "better": entry["better"],
                    "peer": side,
                    "ours": ours.median(),
                    "theirs": theirs.median(),
                    "ratio": ratio.median(),
                    "low": ratio.min(),
                    "high": ratio.max(),
                    "repeats": len(ratio),
                    "note": entry["note"] if isinstance(entry["note"], str) else "",
                }
            )
    columns = ["case", "unit", "better", "peer", "ours", "theirs", "ratio", "low", "high", "repeats", "note"]
    return pd.DataFrame(rows, columns=columns)


def values_of(scores: pd.DataFrame, side: str) -> pd.Series:
    """Values of one side by repeat; empty where it has none."""
    own = scores[(scores["side"] == side) & scores["value"].notna()]
    return pd.Series(own["value"].to_numpy(dtype=float), index=own["repeat"].to_numpy(dtype=int))


def plain(value: float, digits: int = 3) -> str:
    """A number with so many digits that count, without a power of ten."""
    if np.isnan(value):
        return "n/a"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{decimals}f}" if decimals < 7 else f"{value:.1e}"


def comparison_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """A table of `compare` as rows of text: each kind of work is named once, above those that do it."""
    rows, before = [], None
    for row in table.itertuples():
        unit = f" {row.unit}" if row.unit and row.unit != "1/s" else ""
        work, before = ("" if row.case == before else row.case), row.case
        rows.append(
            {
                "work": work,
                "beside": row.peer,
                "ours": plain(row.ours) + ("" if np.isnan(row.ours) else unit),
                "theirs": plain(row.theirs) + ("" if np.isnan(row.theirs) else unit),
                "times better": "" if np.isnan(row.ratio) else f"**{plain(row.ratio, 2)}**",
                "range": "" if np.isnan(row.ratio) else f"{plain(row.low, 2)} … {plain(row.high, 2)}",
            }
        )
    return rows or _nothing()


def _nothing() -> list[dict[str, str]]:
    """A table that says that it has nothing to show."""
    return [{"what": "not measured in the archived run"}]


def outcome(table: pd.DataFrame, *, wins: str = "faster", loses: str = "slower") -> str:
    """Who wins a table of `compare`, in a sentence or two.

    Parameters
    ----------
    table : DataFrame
    wins, loses : str
        What it means that ours is better, and worse.
    """
    measured = table.dropna(subset="ratio")
    if measured.empty:
        return NOT_MEASURED
    better = measured[measured["ratio"] > 1 + EVEN]
    worse = measured[measured["ratio"] < 1 - EVEN]
    sentences = []
    if len(better):
        span = f"{plain(better['ratio'].min(), 2)} to {plain(better['ratio'].max(), 2)} times"
        times = span if len(better) > 1 else f"{plain(better['ratio'].iloc[0], 2)} times"
        sentences.append(f"ours is {wins} in {len(better)} of {len(measured)} comparisons, by {times}")
    even = len(measured) - len(better) - len(worse)
    if even:
        sentences.append(f"{even} of {len(measured)} are within {EVEN:.0%}")
    if len(worse):
        named = []
        for peer, own in worse.sort_values("ratio").groupby("peer", sort=False):
            cases = "; ".join(f"{row.case}: {plain(1 / row.ratio, 2)}" for row in own.itertuples())
            named.append(f"{peer} ({cases} times)")
        sentences.append(f"ours is {loses} than {', '.join(named)}")
    text = "; ".join(sentences)
    return text[0].upper() + text[1:] + "."


def reasons_where_worse(table: pd.DataFrame, reasons: dict[str, str]) -> str:
    """Why the peers that win do so, as a list in Markdown; empty where none does.

    Parameters
    ----------
    table : DataFrame
        From `compare`.
    reasons : dict of str to str
        One sentence for each peer that may win.
    """
    worse = table[table["ratio"] < 1 - EVEN]
    lines = [
        f"- *{peer}* is ahead" + (f": {reasons[peer]}" if peer in reasons else ".")
        for peer in dict.fromkeys(worse["peer"])
    ]
    return "\n".join(lines)


def without_value(scores: pd.DataFrame, part: str, quantity: str) -> str:
    """Which sides have no value for which work, and why, in a sentence; empty where every one has.

    Parameters
    ----------
    scores : DataFrame
        The archive's table.
    part, quantity : str
    """
    own = scores[(scores["part"] == part) & (scores["quantity"] == quantity) & scores["value"].isna()]
    said = []
    for (side, note), group in own.groupby(["side", "note"], sort=False):
        cases = ", ".join(f"*{case}*" for case in dict.fromkeys(group["case"]))
        said.append(f"{side} for {cases} ({note.removeprefix('n/a (').removesuffix(')')})")
    return f"Without a value (n/a): {'; '.join(said)}." if said else ""


def conditions(about: dict[str, Any]) -> list[dict[str, str]]:
    """When, where and with which versions a comparison was measured, as rows of a table.

    Parameters
    ----------
    about : dict
        `provenance.json` of the archive.
    """
    record = about["provenance"]
    peers = {name: version or "not installed" for name, version in about["peers"].items()}
    again = [
        f"{part.replace('_', ' ')}, {told['measured']}, commit `{(told['commit'] or 'unknown')[:10]}`, "
        f"load {told['load_at_start']:g}"
        for part, told in about.get("measured_again", {}).items()
    ]
    values = {
        "measured": about["measured"],
        **({"measured again": "; ".join(again)} if again else {}),
        "machine": f"{record['processor']}, {record['cores']} cores, GPU: {record['gpu'] or 'none'}",
        "system": f"{record['system']}, Python {record['python']}",
        "busy with other work": f"load {about['load_at_start']:g} when it began",
        "took": f"{about['seconds'] / 60:.0f} min at size `{about['size']}`",
        "commit": f"`{(record['commit'] or 'unknown')[:10]}`",
        "ours": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "theirs": ", ".join(f"{name} {version}" for name, version in peers.items()),
    }
    return [{"what": name, "value": value} for name, value in values.items()]


def _largest_differences(scores: pd.DataFrame) -> pd.DataFrame:
    own = scores[(scores["part"] == "measures") & scores["quantity"].str.startswith("largest difference")]
    own = own[own["value"].notna()]
    return own.assign(
        quantity=own["quantity"].str.removeprefix("largest difference, "), unit=own["unit"].fillna("").astype(str)
    )


def agreement_rows(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Largest difference of each library's measures from ours: one row a value, one column a library."""
    apart = _largest_differences(scores)
    sides = list(dict.fromkeys(apart["side"]))
    rows = []
    for (case, quantity), group in apart.groupby(["case", "quantity"], sort=False):
        found = {row.side: f"{plain(row.value, 2)} {row.unit}".strip() for row in group.itertuples()}
        rows.append({"work": case, "value": quantity, **{side: found.get(side, "–") for side in sides}})
    return rows or _nothing()


def agreement_outcome(scores: pd.DataFrame, *, tolerance: float = 1e-6) -> str:
    """How many values agree, and which do not, in a sentence or two."""
    apart = _largest_differences(scores)
    if apart.empty:
        return NOT_MEASURED
    far = apart[apart["value"] >= tolerance]
    text = f"{len(apart) - len(far)} of {len(apart)} values agree with ours to six decimals."
    if len(far):
        worst = far.sort_values("value").drop_duplicates(["side", "quantity"], keep="last").sort_index()
        named = [f"{row.side}, {row.quantity}: {plain(row.value, 2)} {row.unit}".strip() for row in worst.itertuples()]
        text += f" The others differ by at most: {'; '.join(named)}."
    return text


def peak_rows(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Share of the machine's matrix rate that each training step makes use of, and the memory of its process."""
    own = scores[(scores["part"] == "training step") & scores["value"].notna()]
    rows = []
    for (case, side), group in own[own["quantity"] == "share of the matrix rate"].groupby(["case", "side"], sort=False):
        here = own[own["case"] == case]
        rate = here[here["quantity"] == "rate"]["value"].median()
        memory = values_of(here[here["quantity"] == "peak memory"], side)
        rows.append(
            {
                "network": case,
                "side": side,
                "share of the matrix rate": f"**{group['value'].median():.0%}**",
                "range": f"{group['value'].min():.0%} … {group['value'].max():.0%}",
                "matrix rate": f"{plain(rate)} GFLOP/s",
                "peak memory": f"{plain(memory.max())} MiB",
            }
        )
    return rows or _nothing()


def _budget(scores: pd.DataFrame, quantity: str) -> pd.DataFrame:
    return scores[(scores["part"] == "task") & (scores["quantity"] == quantity)]


def budget_rows(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Dice of each side after equal CPU time, one row a training-set size and side."""
    rows = []
    used, steps = _budget(scores, "CPU time of training"), _budget(scores, "steps")
    for (case, side), group in _budget(scores, "Dice").groupby(["case", "side"], sort=False):
        values = group["value"].dropna()
        row = {"slices": case, "side": side, "Dice": "", "range": "", "repeats": "", "CPU time": "", "steps": ""}
        if values.empty:
            row["Dice"] = str(group["note"].iloc[0])
        else:
            seconds, count = (values_of(table[table["case"] == case], side).median() for table in (used, steps))
            row |= {"Dice": f"**{values.median():.3f}**", "range": f"{values.min():.3f} … {values.max():.3f}"}
            row |= {"repeats": str(len(values)), "CPU time": f"{seconds:.1f} s", "steps": f"{count:.0f}"}
        rows.append(row)
    return rows or _nothing()


def budget_outcome(scores: pd.DataFrame, seconds: float) -> str:
    """Which side is ahead at each training-set size, and what the source task took besides.

    Parameters
    ----------
    scores : DataFrame
        The archive's table.
    seconds : float
        CPU time of each training.
    """
    dice = _budget(scores, "Dice").dropna(subset="value")
    if dice.empty:
        return NOT_MEASURED
    ahead = []
    for case, group in dice.groupby("case", sort=False):
        middle = group.groupby("side")["value"].median().sort_values(ascending=False)
        others = ", ".join(f"{side} {value:.3f}" for side, value in middle.iloc[1:].items())
        ahead.append(f"at {case} *{middle.index[0]}* is ahead ({middle.iloc[0]:.3f}" + f"; {others})" * bool(others))
    source = _budget(scores, "CPU time")["value"]
    spent = f" The source task of *ours* took {source.iloc[0]:.0f} s of CPU time, once." if len(source) else ""
    return f"With {seconds:g} s of one core for each training, {'; '.join(ahead)}.{spent}"


def forecasts(scores: pd.DataFrame) -> pd.DataFrame:
    """Studies as forecast and as measured: case, quantity, unit, predicted, measured; one row a case and quantity."""
    own = scores[(scores["part"] == "scaling") & scores["value"].notna()]
    index = ["case", "quantity", "unit"]
    table = own.pivot_table(index=index, columns="side", values="value", sort=False)
    return table.reindex(columns=["predicted", "measured"]).reset_index().rename_axis(columns=None)


def forecast_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """A table of `forecasts` as rows of text, one a case."""
    rows: dict[str, dict[str, str]] = {}
    for row in table.itertuples():
        cells = rows.setdefault(row.case, {"study": row.case})
        cells[f"{row.quantity}, predicted"] = f"{plain(row.predicted)} {row.unit}"
        cells[f"{row.quantity}, measured"] = f"{plain(row.measured)} {row.unit}"
        cells[f"{row.quantity}, ratio"] = f"**{row.predicted / row.measured:.2f}**"
    return list(rows.values()) or _nothing()


def forecast_outcome(table: pd.DataFrame) -> str:
    """How far forecasts were from what was measured, in a sentence."""
    if table.empty:
        return NOT_MEASURED
    ratio = table["predicted"] / table["measured"]
    said = [
        f"{quantity} was forecast at {own.min():.2f} to {own.max():.2f} times what was then measured"
        for quantity, own in ratio.groupby(table["quantity"], sort=False)
    ]
    text = "; ".join(said)
    return text[0].upper() + text[1:] + "."


def paper_cost(scores: pd.DataFrame, profile: Profile, gpu: str | None) -> str:
    """What the paper's grid costs on the GPU whose training step was measured, in a sentence.

    Parameters
    ----------
    scores : DataFrame
        The archive's table.
    profile : Profile
        `paper`.
    gpu : str or None
        The archive's GPU.
    """
    grid = profile.grid
    models = len(grid.source_tasks) * len(grid.sizes) * grid.folds * grid.subsets * grid.repeats
    own = scores[(scores["part"] == "training step") & (scores["quantity"] == "time a step")]
    step = values_of(own[own["case"].str.endswith("GPU")], OURS)
    if step.empty:
        return f"What the {models} models of the profile `{profile.name}` cost on a GPU is **not measured**."
    hours = models * profile.training.max_steps * step.median() / 3.6e6
    return (
        f"At the training step measured on {gpu}, the {models} models of the profile `{profile.name}` take at most "
        f"{hours:.0f} hours of it: computed, not measured; most end earlier, when their losses have saturated."
    )


def sharpness_outcome(scores: pd.DataFrame, *, frequency: float = 0.25) -> str:
    """Which sides keep as much contrast as ours at one frequency, and which keep less, in a sentence."""
    own = scores[(scores["quantity"] == "contrast kept") & (scores["case"] == f"{frequency:g} cycles a pixel")]
    kept = own.dropna(subset="value").groupby("side", sort=False)["value"].median().sort_values(ascending=False)
    if OURS not in kept:
        return NOT_MEASURED
    others = kept.drop(OURS)
    groups = {
        "more is left by": others[others > kept[OURS] * (1 + EVEN)],
        "as much is left by": others[(others - kept[OURS]).abs() <= kept[OURS] * EVEN],
        "less is left by": others[others < kept[OURS] * (1 - EVEN)],
    }
    parts = [f"of waves {1 / frequency:g} pixels long, ours keeps {kept[OURS]:.0%} of the contrast"]
    for words, group in groups.items():
        if len(group):
            parts.append(f"{words} {', '.join(f'{side} ({value:.0%})' for side, value in group.items())}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def aims_outcome(scores: pd.DataFrame) -> str:
    """How long all four measures take against a prepared reference and a new one, and whether that was the aim."""
    own = scores[(scores["part"] == "measures") & (scores["quantity"] == "time a pair")]
    said = []
    for case, name, aim in AIMS:
        taken = values_of(own[own["case"] == case], OURS).median()
        if not np.isnan(taken):
            missed = "" if taken <= aim else " (**missed**)"
            said.append(f"{plain(taken)} ms against {name}, where {aim:g} ms or less was the aim{missed}")
    return f"All four measures of a mask take {'; '.join(said)}." if said else ""
