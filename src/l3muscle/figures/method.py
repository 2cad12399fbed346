"""Pictures of the method itself, for the notebooks that run it: batches, slices with masks, outlines."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from l3muscle.experiment import PreparedCohort
from l3muscle.settings import ImageSettings

EXPERT, PREDICTION = "#ffb000", "#56b4e9"


def _row(count: int, *, rows: int = 1, height: float = 1.6) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(rows, count, figsize=(7.4, height * rows), squeeze=False, layout="constrained")
    for panel in axes.ravel():
        panel.set_axis_off()
    return figure, axes


def slices_and_masks(images: Tensor, masks: Tensor) -> None:
    """Prepared slices, and below each the share of muscle in its pixels; both (N, 1, rows, columns)."""
    _, axes = _row(len(images), rows=2, height=1.2)
    for column, pair in enumerate(zip(images[:, 0], masks[:, 0], strict=True)):
        for panel, image in zip(axes[:, column], pair, strict=True):
            panel.imshow(image, cmap="gray", vmin=0, vmax=1)


def batch_picture(inputs: Tensor, target: Tensor, count: int = 4) -> None:
    """What a source task's network is given, and what it has to answer.

    Parameters
    ----------
    inputs : Tensor, (N, 3, rows, columns), or (N, 9, 3, rows, columns) of tiles
    target : Tensor
        Images (N, 3, rows, columns), labels of pixels (N, rows, columns), or classes (N,).
    """
    inputs, target = inputs.cpu(), target.cpu()
    count = min(count, len(inputs))
    pictures = target.ndim > 1
    _, axes = _row(count, rows=1 + pictures)
    for column in range(count):
        image = inputs[column]
        if image.ndim == 4:  # nine tiles as they lie
            image = image.unflatten(0, (3, 3)).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
        axes[0, column].imshow(image[0], cmap="gray")
        if pictures:
            answer = target[column][0] if target.ndim == 4 else target[column]
            axes[1, column].imshow(answer, cmap="gray" if target.ndim == 4 else "tab20", interpolation="nearest")
        else:
            axes[0, column].set_title(f"class {int(target[column])}", fontsize=9)


def best_median_worst(
    scores: pd.DataFrame, predictions: np.ndarray, prepared: PreparedCohort, settings: ImageSettings
) -> None:
    """The outlines of one model that agree best, in the middle and worst with the expert's.

    Parameters
    ----------
    scores : DataFrame
        Of the model: one row a test image, in the order of `prepared.test_ids`.
    predictions : ndarray, (n_test, H, W) bool
    prepared : PreparedCohort
    settings : ImageSettings
        Its window is shown.
    """
    order = np.argsort(scores["dice"].to_numpy())[::-1]
    chosen: Sequence[tuple[str, int]] = [
        ("best", order[0]),
        ("median", order[len(order) // 2]),
        ("worst", order[-1]),
    ]
    _, axes = _row(len(chosen), height=2.2)
    low = settings.level_hu - settings.window_hu / 2
    for panel, (name, index) in zip(axes[0], chosen, strict=True):
        aspect = float(prepared.test_spacing[index][0] / prepared.test_spacing[index][1])
        panel.imshow(prepared.test_hu[index], cmap="gray", vmin=low, vmax=low + settings.window_hu, aspect=aspect)
        for mask, colour in ((prepared.test_masks[index], EXPERT), (predictions[index], PREDICTION)):
            if mask.any():
                panel.contour(mask, [0.5], colors=[colour], linewidths=0.8)
        rows, columns = np.nonzero(prepared.test_masks[index] | predictions[index])
        panel.set_xlim(columns.min() - 15, columns.max() + 15)
        panel.set_ylim(rows.max() + 15, rows.min() - 15)
        panel.set_title(f"{name}: Dice {scores['dice'].iloc[index]:.3f}", fontsize=9)
    handles = [plt.Line2D([], [], color=c, label=name) for c, name in ((EXPERT, "expert"), (PREDICTION, "model"))]
    axes[0, 0].legend(handles=handles, fontsize=8, loc="lower left", framealpha=0.6)
