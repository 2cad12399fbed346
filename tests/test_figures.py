"""Figures show the numbers of their tables, and leave no state behind."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from l3muscle import figures
from l3muscle.statistics import ObserverBand, learning_curve_table

LABELS = {"random": "random", "segmentation": "segmentation (procedural)"}


@pytest.fixture
def scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (task, n, fold, 0, 0, f"P{image}", 0.6 + 0.1 * np.log10(n) + 0.02 * rng.standard_normal(), "")
        for task in LABELS
        for n in (5, 10, 25, 125)
        for fold in range(2)
        for image in range(5)
    ]
    names = ["source_task", "n_train", "fold", "subset", "repeat", "patient_id", "dice", "failure"]
    return pd.DataFrame(rows, columns=names)


def test_learning_curve_draws_the_table(scores):
    band = ObserverBand(0.9, 0.01)
    axes = figures.learning_curve(scores, band, "dice", labels=LABELS).axes[0]
    table = learning_curve_table(scores, "dice")
    drawn = [container for container in axes.containers if hasattr(container, "has_yerr")]
    for container, (task, part) in zip(drawn, table.groupby("source_task", sort=False), strict=True):
        assert container.get_label() == LABELS[task]
        line, _, bars = container.lines
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), part["mean"].to_numpy())
        ends = np.array([segment[:, 1] for segment in bars[0].get_segments()])
        np.testing.assert_allclose(ends, part[["low", "high"]].to_numpy())
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "10", "25", "125"]
    assert any(list(line.get_ydata()) == [0.9, 0.9] for line in axes.lines)


def test_training_curves_show_as_many_models_as_asked(scores):
    curves = pd.concat(
        [
            pd.DataFrame({"step": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5]}).assign(
                source_task="random", n_train=5, fold=fold, subset=0, repeat=0
            )
            for fold in range(7)
        ]
    )
    left, right = figures.training_curves(curves, labels=LABELS, shown=4).axes
    assert len(left.lines) == len(right.lines) == 4
    assert right.lines[0].get_ydata().tolist() == [2.0, 1.5]


def test_outlines_keep_a_colour_for_a_name():
    hu = np.zeros((40, 60), dtype=np.int16)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:30] = True
    figure = figures.outlines(
        [("a", hu, (1, 1), {"expert": mask}), ("b", hu, (2, 1), {"prediction": mask, "expert": ~mask})]
    )
    colours = {handle.get_label(): handle.get_color() for handle in figure.legends[0].legend_handles}
    assert set(colours) == {"expert", "prediction"} and len(set(colours.values())) == 2
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    assert figure.axes[1].get_aspect() == 2.0


def test_contact_sheet_centres_the_muscle():
    images = np.full((2, 50, 50), -1000, dtype=np.int16)
    masks = np.zeros((2, 50, 50), bool)
    masks[:, 30:40, 20:30] = True
    [image] = figures.contact_sheet(images, masks, columns=2).axes[0].images
    coloured = np.argwhere(np.ptp(image.get_array(), axis=-1) > 0)
    height, width = image.get_array().shape[0], image.get_array().shape[1] // 2
    first = coloured[coloured[:, 1] < width]
    assert np.abs(first.mean(0) - [(height - 1) / 2, (width - 1) / 2]).max() <= 6


def test_the_look_ends_with_the_figure(scores):
    before = dict(matplotlib.rcParams)
    figures.learning_curve(scores, None, "dice", labels=LABELS)
    assert dict(matplotlib.rcParams) == before


def test_puzzles_lay_each_tile_where_the_permutation_says():
    tiles = np.arange(1, 10)[None, :, None, None] / 10 * np.ones((1, 9, 4, 6))
    truth = np.array([[2, 0, 1, 5, 3, 4, 8, 6, 7]])
    guess = np.roll(truth, 1, axis=1)
    figure = figures.puzzles({"tiles": tiles, "guess": guess, "permutation": truth}, gap=1)
    given, guessed, right = (axes.images[0].get_array() for axes in figure.axes)
    assert given[0, 0] == 0.1 and given[-1, -1] == 0.9 and given.shape == (14, 20)
    # Tile 0 belongs to place 2, the upper right corner; the guess puts tile 1 there.
    assert right[0, -1] == 0.1 and guessed[0, -1] == 0.2
    assert figure.axes[0].get_ylabel() == "puzzle 1: not solved"


def test_reconstructions_stand_under_their_inputs():
    examples = {"input": np.zeros((3, 8, 10)), "output": np.ones((3, 8, 10))}
    panels = figures.reconstructions(examples).axes
    assert [float(axes.images[0].get_array().mean()) for axes in panels] == [0, 0, 0, 1, 1, 1]


def test_accuracy_is_shown_against_chance():
    curve = pd.DataFrame({"step": [1, 2], "validation_accuracy": [0.1, 0.4]})
    [axes] = figures.accuracy_curve(curve, chance=0.02).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines == {"validation": [0.1, 0.4], "chance (2.0%)": [0.02, 0.02]}


def test_what_was_not_run_says_so():
    [axes] = figures.not_run("jigsaw").axes
    assert axes.texts[0].get_text() == "jigsaw: not part of this run"
