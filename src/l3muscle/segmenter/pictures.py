"""Figures and tables of a training on one's own scans."""

import pandas as pd

from l3muscle.figures import FAINT, TASK_STYLE, PageFigure, in_two_widths, new_figure, style
from l3muscle.runtime import origin
from l3muscle.segmenter.estimate import MEASURES
from l3muscle.segmenter.train import OwnModel


def model_strip(model: OwnModel, what: str) -> str:
    """What a model was trained on and where, as a strip for a page: the labels of captions below are read from it.

    Parameters
    ----------
    model : OwnModel
    what : str
        The images, in words.
    """
    card = model.card
    data = card["training_data"]
    line = (
        f"*Measured in this run* — training on one's own scans, profile **{card['training']['profile']}** · {what}, "
        f"{data['slices']} slices of {data['patients']} patients · {origin(card['provenance'])}"
    )
    return f"```{{div}} l3-strip\n{line}\n```\n\n"


@in_two_widths
def curve_figure(model: OwnModel, *, narrow: bool = False) -> PageFigure:
    """Held-out Dice against the number of training slices, with the forecast for twice as many."""
    curve = model.curve()
    measured, ahead = (curve[curve["kind"] == kind] for kind in ("measured", "forecast"))
    colour = TASK_STYLE["segmentation"][0]
    with style():
        figure, [[axes]] = new_figure(3.6 if narrow else 3.0, narrow=narrow)
        figure.said = "; ".join(f"{row.mean:.3g} with {row.n_train} slices" for row in measured.itertuples()) + "."
        _bars(axes, measured, color=colour, marker="o", label="held-out slices")
        if len(ahead):
            _bars(axes, ahead, color="#d55e00", marker="D", mfc="none", label="forecast, if the curve goes on")
            joined = pd.concat([measured.tail(1), ahead])
            axes.plot(joined["n_train"], joined["mean"], color=FAINT, lw=1, ls=(0, (2, 2)))
        axes.set_xticks(curve["n_train"])
        axes.set_xlabel("training slices")
        axes.set_ylabel("mean Dice of held-out slices")
        figure.legend(loc="outside lower center", ncols=1 if narrow else 2, fontsize=9)
    return figure


def _bars(axes, part: pd.DataFrame, **look) -> None:
    bars = [part["mean"] - part["low"], part["high"] - part["mean"]]
    axes.errorbar(part["n_train"], part["mean"], yerr=bars, capsize=3, lw=1.4, ms=6, **look)


def error_rows(model: OwnModel) -> list[dict[str, str]]:
    """Rows of the table of held-out errors."""
    rows = []
    for row in model.errors().itertuples():
        digits = 3 if row.measure in (MEASURES["dice"], MEASURES["rms_dta_cm"]) else 1
        mean, low, high, sd, worst = (
            "n/a" if pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")
            for value in (row.mean, row.low, row.high, row.sd, row.worst)
        )
        rows.append(
            {
                "measure": row.measure.replace(" - ", " − "),
                "mean": mean,
                "95 % interval": low if low == high else f"{low} to {high}",
                "between patients (SD)": sd,
                "worst slice": worst,
            }
        )
    return rows


def measure_rows(measures: pd.DataFrame, count: int) -> list[dict[str, str]]:
    """Rows of the table of what was measured, from the top."""
    return [
        {
            "slice": row.slice,
            "SMA, cm²": f"{row.sma_cm2:.1f}",
            "SMD, HU": f"{row.smd_hu:.1f}",
            "SMA in range": f"{row.sma_range_cm2:.1f}",
            "agreement": f"{row.agreement:.2f}",
            "why to look first": row.reasons or "–",
        }
        for row in measures.head(count).itertuples()
    ]
