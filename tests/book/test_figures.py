"""Figures show the numbers of their tables, and leave no state behind."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from l3muscle import figures
from l3muscle.book.predictions import ErrorMap
from l3muscle.cohort.splits import Splits
from l3muscle.figures.look import size_axis
from l3muscle.statistics import ObserverBand, learning_curve_table, mann_whitney_pairs
from l3muscle.statistics.printed import printed_pairs

PHONE_PX = 358  # width of the text on a phone of 390 pixels
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


def drawings(scores: pd.DataFrame) -> dict[str, figures.PageFigure]:
    """A figure of each function that draws for two widths."""
    hu, mask = np.zeros((40, 60)), np.zeros((40, 60), bool)
    mask[10:30, 10:30] = True
    curve = pd.DataFrame(
        {"step": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5], "validation_accuracy": [0.1, 0.4]}
    )
    models = curve.assign(source_task="random", n_train=5, fold=0, subset=0, repeat=0)
    observed = pd.DataFrame(
        {
            "patient_id": ["A", "A", "B", "B"],
            "observer": ["1", "2"] * 2,
            **{name: [0.8, 0.9, 0.85, 0.95] for name in figures.agreement.OBSERVER_PANELS},
        }
    )
    readings = pd.DataFrame({"surface": [0.1, 0.2], "symmetric": [0.1, 0.25], "equation4": [0.2, 0.4]})
    people = tuple(f"P{k}" for k in range(12))
    splits = Splits(people[:4], (people[4:8], people[8:]), ((people[8:],), (people[4:8],)))
    tiles = np.linspace(0, 1, 9)[None, :, None, None] * np.ones((3, 9, 4, 6))
    order = np.arange(9)[None].repeat(3, axis=0)
    error = ErrorMap(hu, mask.astype(float), mask * 0.3, mask * 0.1, 3, 1.0, 2.0)
    points = pd.DataFrame({"source_task": "random", "n_train": 5, "mean": [100.0, 120.0], "difference": [-1.0, 2.0]})
    agreed = pd.DataFrame(
        {"source_task": "random", "n_train": 5, "margin": [10.0], "bias": 0.5, "lower_limit": -2.0, "upper_limit": 3.0}
    )
    measures = pd.DataFrame({"sma_cm2": [90.0, 150.0], "smd_hu": [30.0, 40.0], "sex": ["women", "men"]})
    return {
        "accuracy_curve": figures.accuracy_curve(curve, chance=0.02),
        "against_reference": figures.against_reference(measures),
        "bland_altman": figures.bland_altman(points, agreed, "sma_cm2", n_train=5, labels=LABELS),
        "bone_removal": figures.bone_removal(hu + 300 * mask, mask, (1, 1)),
        "contact_sheet": figures.contact_sheet(hu[None].repeat(6, 0), mask[None].repeat(6, 0)),
        "distance_definitions": figures.distance_definitions(mask, np.roll(mask, 3, 1), (1, 1)),
        "distance_readings": figures.distance_readings(readings),
        "error_maps": figures.error_maps({"observers": error, "models, n = 5": error, "models, n = 125": error}),
        "hu_histogram": figures.hu_histogram({"cohort": (hu[None], mask[None])}),
        "image_grid": figures.image_grid([("class 1", [np.zeros((4, 6))] * 4)]),
        "learning_curve": figures.learning_curve(scores, ObserverBand(0.9, 0.01), labels=LABELS),
        "observer_agreement": figures.observer_agreement(observed),
        "outlines": figures.outlines([("a", hu, (1, 1), {"expert": mask})] * 2, columns=2),
        "p_value_matrices": figures.p_value_matrices(
            mann_whitney_pairs(scores.assign(rms_dta_cm=1 - scores["dice"])), printed_pairs(), labels=LABELS
        ),
        "puzzles": figures.puzzles({"tiles": tiles, "guess": order, "permutation": order}),
        "reconstructions": figures.reconstructions({"input": np.zeros((3, 8, 10)), "output": np.ones((3, 8, 10))}),
        "source_curve": figures.source_curve(curve, ylabel="loss"),
        "split_map": figures.split_map(splits, [2, 4]),
        "training_curves": figures.training_curves(models, labels=LABELS),
    }


def test_every_figure_can_be_read_on_a_phone(scores):
    drawn = drawings(scores)
    known = (getattr(figures, name) for name in figures.__all__)
    assert set(drawn) == {each.__name__ for each in known if "narrow" in getattr(each, "__annotations__", {})} - {
        "new_figure",
        "page_width",
    }
    for name, wide in drawn.items():
        narrow = wide.draw_narrow()
        assert narrow.get_figwidth() < wide.get_figwidth(), name
        pixels_a_point = PHONE_PX / (72 * narrow.get_figwidth())
        texts = [text for text in narrow.findobj(Text) if text.get_text() and text.get_visible()]
        assert min((text.get_fontsize() for text in texts), default=9) * pixels_a_point >= 8.5, name


def test_a_narrow_learning_curve_shows_the_same(scores):
    wide = figures.learning_curve(scores, None, "dice", labels=LABELS)
    [[axes], [other]] = wide.axes, wide.draw_narrow().axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [line.get_ydata().tolist() for line in other.lines]
    means = learning_curve_table(scores, "dice").set_index(["source_task", "n_train"])["mean"]
    assert f"{means['random', 5]:.3f} at n = 5 and {means['random', 125]:.3f} at n = 125" in wide.said


def test_labels_that_would_touch_stand_on_two_lines():
    axes = Figure().subplots()
    size_axis(axes, [5, 10, 75, 100, 125], narrow=True)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "10", "75", "\n100", "125"]


def test_an_outline_keeps_to_its_mask_with_fewer_points():
    rows, columns = np.mgrid[:200, :200]
    mask = (rows - 100) ** 2 + (columns - 100) ** 2 < 80**2
    mask &= ~((rows - 100) ** 2 + (columns - 100) ** 2 < 20**2)
    figure = figures.outlines([("a", np.zeros(mask.shape), (1, 1), {"expert": mask})])
    [drawn] = figure.axes[0].collections
    [path] = drawn.get_paths()
    every = Figure().subplots().contour(mask.astype(float), [0.5]).get_paths()[0]
    assert len(path.vertices) < 0.6 * len(every.vertices)
    polygons = [polygon for polygon in path.to_polygons() if len(polygon) > 2]
    assert len(polygons) == 2
    box = np.flatnonzero(mask.any(1))[0] - 28
    centre = 100 - max(box, 0)
    distances = np.hypot(*(np.concatenate(polygons) - centre).T)
    assert np.minimum(abs(distances - 80), abs(distances - 20)).max() <= 1.0


def test_eleven_outlines_have_eleven_looks():
    mask = np.eye(40, dtype=bool)
    names = ["expert", *(f"observer {k}" for k in range(10))]
    figure = figures.outlines([("a", np.zeros((40, 40)), (1, 1), dict.fromkeys(names, mask))])
    looks = {(handle.get_color(), str(handle.get_linestyle())) for handle in figure.legends[0].legend_handles}
    assert len(looks) == len(names)
    assert len({colour for colour, _ in looks if colour == figures.OUTLINE_COLOURS[0]}) == 1


def test_puzzles_lay_each_tile_where_the_permutation_says():
    tiles = np.arange(1, 10)[None, :, None, None] / 10 * np.ones((1, 9, 4, 6))
    truth = np.array([[2, 0, 1, 5, 3, 4, 8, 6, 7]])
    guess = np.roll(truth, 1, axis=1)
    figure = figures.puzzles({"tiles": tiles, "guess": guess, "permutation": truth}, gap=1)
    given, guessed, right = (axes.images[0].get_array() for axes in figure.axes)
    assert given[0, 0] == 0.1 and given[-1, -1] == 0.9 and given.shape == (14, 20)
    # Tile 0 belongs to place 2, the upper right corner; the guess puts tile 1 there.
    assert right[0, -1] == 0.1 and guessed[0, -1] == 0.2
    assert figure.axes[0].get_ylabel() == "1: not solved"


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


def test_a_cell_far_from_all_others_is_named_at_the_edge(scores):
    scores.loc[(scores.source_task == "random") & (scores.n_train == 5), "dice"] -= 9
    [axes] = figures.learning_curve(scores, None, "dice", labels=LABELS).axes
    low, _ = axes.get_ylim()
    assert low > 0
    [text] = [text.get_text() for text in axes.texts]
    assert text.startswith("random, n = 5: −8.")
    drawn = [container for container in axes.containers if hasattr(container, "has_yerr")]
    assert len(drawn[0].lines[0].get_xdata()) == 3


def test_nothing_is_off_the_axis_where_cells_are_alike(scores):
    assert not list(figures.learning_curve(scores, None, "dice", labels=LABELS).axes[0].texts)


def test_cells_with_empty_predictions_are_open(scores):
    scores["rms_dta_cm"] = 1 - scores["dice"]
    empty = (scores.source_task == "random") & (scores.n_train == 5) & (scores.patient_id == "P0")
    scores.loc[empty, ["rms_dta_cm", "failure"]] = np.nan, "empty"
    figure = figures.learning_curve(scores, None, "rms_dta_cm", labels=LABELS)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "open: empty predictions left out" in texts


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["dice", "rms_dta_cm", "smd_difference_hu", "sma_difference_cm2"])
def test_curves_of_one_value_and_of_none_are_drawn_without_a_warning(scores, metric):
    few = scores[(scores.patient_id == "P0") & (scores.fold == 0)].copy()
    few[metric] = 0.5
    few.loc[few.n_train == 10, metric] = np.nan
    figure = figures.learning_curve(few, ObserverBand(0.9, 0.01), metric, labels=LABELS)
    assert figure.axes[0].get_ylabel() == figures.METRIC_LABELS[metric]
    assert len(figures.learning_curve(few[few.n_train == 5], None, metric, labels=LABELS).axes) == 1


def test_matrices_show_the_paper_below_and_the_run_above(scores):
    scores["rms_dta_cm"] = 1 - scores["dice"]
    pairs = mann_whitney_pairs(scores)
    figure = figures.p_value_matrices(pairs, printed_pairs(), labels=LABELS)
    by_title = {axes.get_title(loc="left"): [t.get_text() for t in axes.texts] for axes in figure.axes if axes.texts}
    # Row by row without the diagonal: above it random against segmentation of this run, below it as printed.
    above, below = by_title["n = 5"]
    p = pairs.loc[pairs.n_train == 5, "p_value"].item()
    assert above == f"{p:.3f}".removeprefix("0") and below == "<.001"
    assert by_title["n = 100"][0] == "–"


def test_observers_stand_image_by_image():
    rng = np.random.default_rng(0)
    names = ["dice", "rms_dta_cm", "smd_difference_hu", "sma_difference_cm2"]
    observers = pd.DataFrame(rng.normal(size=(10, 4)), columns=names)
    observers["observer"] = [f"observer {k % 5}" for k in range(10)]
    observers["patient_id"] = ["A"] * 5 + ["B"] * 5
    figure = figures.observer_agreement(observers)
    assert len(figure.axes) == 4
    order = observers.groupby("patient_id")["rms_dta_cm"].mean()[
        observers.groupby("patient_id")["dice"].mean().sort_values().index
    ]
    means = next(line for line in figure.axes[1].lines if line.get_marker() == "_")
    np.testing.assert_allclose(means.get_ydata(), order)


def test_readings_are_drawn_with_their_values():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 5:20] = True
    shifted = np.roll(mask, 2, axis=1)
    titles = [axes.get_title(loc="left") for axes in figures.distance_definitions(shifted, mask, (1, 1)).axes]
    assert [title.splitlines()[0] for title in titles] == [
        "surface (used here)",
        "symmetric",
        "Equation 4 as printed",
    ]
    table = pd.DataFrame({"surface": [0.1, 0.4, np.nan], "symmetric": [0.2, 0.5, np.nan], "equation4": [0.2, 0.8, 1]})
    [axes] = figures.distance_readings(table).axes
    assert len(axes.lines[0].get_xdata()) == 2
    assert figures.distance_readings(table.iloc[2:]).axes[0].get_xscale() == "linear"


def test_bone_removal_and_error_maps_are_drawn():
    hu, mask = np.full((60, 80), 40.0), np.zeros((60, 80), bool)
    mask[20:40, 20:60] = True
    hu[30, 40] = 900
    labels = [text.get_text() for text in figures.bone_removal(hu, mask, (1, 1)).legends[0].get_texts()]
    assert labels == ["kept", "denser than 175 HU", "within 2 mm of bone"]
    flat = np.zeros((30, 40))
    none, some = (ErrorMap(flat, mask[15:45, 15:55] * 1.0, flat + share, flat, 3, 0, 0) for share in (0, 0.25))
    assert len(figures.error_maps({"observers": none, "models": some}).axes) == 5
    assert figures.error_maps({"observers": none}).axes[0].get_title(loc="left") == "observers\n3 outlines"


def test_epochs_are_drawn_on_a_logarithmic_axis():
    curve = pd.DataFrame({"step": [1, 2], "epoch": [3, 30], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5]})
    curve = curve.assign(source_task="random", n_train=5, fold=0, subset=0, repeat=0)
    axes = figures.training_curves(curve, labels=LABELS, against="epoch").axes[0]
    assert axes.get_xscale() == "log" and axes.lines[0].get_xdata().tolist() == [3, 30]


def test_a_training_so_far_has_the_axis_of_the_whole_and_every_outline():
    hu, mask = np.zeros((40, 60), dtype=np.int16), np.zeros((40, 60), dtype=bool)
    mask[10:20, 10:20] = True
    curve = pd.DataFrame({"step": [5, 10], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5]})
    masks = {"expert": mask, "network": np.zeros_like(mask)}
    left, right = figures.training_so_far(curve, 100, ("a slice", hu, (1.0, 1.0), masks)).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[2.0, 1.0], [2.0, 1.5]]
    assert left.get_xlim()[1] >= 100 and left.get_ylim()[0] == 0
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["expert", "network"]
    assert len(right.collections) == 1, "an empty mask has no outline to draw"
    waiting, _ = figures.training_so_far(pd.DataFrame(), 100, ("a slice", hu, (1.0, 1.0), masks)).axes
    assert waiting.get_xlim() == left.get_xlim()
