"""Figures show the numbers of their tables, and leave no state behind."""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from l3muscle import figures
from l3muscle.book.cohort_overview import reference_values, split_table
from l3muscle.book.error_maps import ErrorMap
from l3muscle.cohort.splits import Splits
from l3muscle.figures.style import GRID, INK, OUTLINE_STYLE, PAPER, TASK_STYLE, described
from l3muscle.metrics import MEASURES
from l3muscle.statistics import ObserverBand, learning_curve_table

LABELS = {"random": "random", "segmentation": "segmentation (procedural)"}
WINDOW = (400, 50)
METRICS = ["dice", "rms_dta_cm", "smd_difference_hu", "sma_difference_cm2"]


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


@pytest.fixture
def block() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:30] = True
    return mask


def drawn_curve(scores: pd.DataFrame, metric: str = "dice", **options) -> figures.BookFigure:
    return figures.learning_curve(learning_curve_table(scores, metric), None, metric, labels=LABELS, **options)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_a_learning_curve_draws_its_table(scores):
    table = learning_curve_table(scores, "dice")
    figure = figures.learning_curve(table, ObserverBand(0.9, 0.01), "dice", labels=LABELS)
    [axes] = figure.axes
    lines = [line.get_ydata() for line in axes.lines]
    for _, part in table.groupby("source_task", sort=False):
        assert any(len(y) == len(part) and np.allclose(y, part["mean"]) for y in lines)
    [intervals] = [drawn for drawn in axes.collections if hasattr(drawn, "get_segments")]
    ends = np.array([segment[:, 1] for segment in intervals.get_segments()])
    np.testing.assert_allclose(ends, table[["low", "high"]].to_numpy())
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "10", "25", "125"]
    assert any(np.allclose(y, 0.9) for y in lines), "the observers' mean"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*LABELS.values(), "observers (mean ± standard error)"]


def test_points_say_their_values_and_lead_to_a_page(scores):
    figure = drawn_curve(scores, link=lambda task, n: f"viewer.html#task={task}&n={n}")
    mean = scores[(scores.source_task == "segmentation") & (scores.n_train == 10)].dice.mean()
    svg = figures.svg_text(figure, "fig-dice")
    links = re.findall(r'<a href="([^"]+)"><circle[^>]*><title>([^<]+)</title>', svg)
    assert len(links) == 8
    told = dict(links)["viewer.html#task=segmentation&amp;n=10"]
    assert told.startswith(f"segmentation (procedural), n = 10: {mean:.3f} (95 % interval ") and "2 models" in told
    # A mark lies where matplotlib has drawn the marker of its point.
    drawn = {(round(float(x)), round(float(y))) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg)}
    marks = {(round(float(x)), round(float(y))) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)}
    assert all(min(abs(x - a) + abs(y - b) for a, b in drawn) <= 2 for x, y in marks)


def test_a_mean_far_from_all_others_is_named_at_the_edge(scores):
    assert not list(drawn_curve(scores).axes[0].texts)
    scores.loc[(scores.source_task == "random") & (scores.n_train == 5), "dice"] -= 9
    [axes] = drawn_curve(scores).axes
    assert axes.get_ylim()[0] > 0
    [text] = [text.get_text() for text in axes.texts]
    assert text.startswith("▼ random, n = 5: −8.")


def test_means_that_lack_empty_predictions_are_marked(scores):
    scores["rms_dta_cm"] = 1 - scores["dice"]
    empty = (scores.source_task == "random") & (scores.n_train == 5) & (scores.patient_id == "P0")
    scores.loc[empty, ["rms_dta_cm", "failure"]] = np.nan, "empty"
    texts = [text.get_text() for text in drawn_curve(scores, "rms_dta_cm").legends[0].get_texts()]
    assert "dot: empty predictions left out" in texts


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", METRICS)
def test_curves_of_one_value_and_of_none_are_drawn_without_a_warning(scores, metric):
    few = scores[(scores.patient_id == "P0") & (scores.fold == 0)].copy()
    few[metric] = 0.5
    few.loc[few.n_train == 10, metric] = np.nan
    assert drawn_curve(few, metric).axes[0].get_ylabel() == MEASURES[metric].label
    assert len(drawn_curve(few[few.n_train == 5], metric).axes) == 1


def test_an_svg_follows_the_theme_and_shares_no_id_with_another(scores):
    figure = drawn_curve(scores)
    one, other = (figures.svg_text(figure, name, "A <curve>") for name in ("fig-a", "fig-b"))
    root = ElementTree.fromstring(one)
    assert root.get("aria-label") == "A <curve>" and root.get("viewBox").startswith("0 0 ")
    for colour in (PAPER, INK, GRID):
        assert one.count(colour) == one.count(f"{colour})"), "a colour that does not follow the theme"
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', one)) <= {
        pair for name in ids[0] for pair in ((name, ""), ("", name))
    }
    assert one == figures.svg_text(drawn_curve(scores), "fig-a", "A <curve>"), "the same figure gives the same text"


def test_source_tasks_differ_and_the_style_ends_with_the_figure(scores):
    colours, markers = zip(*TASK_STYLE.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(TASK_STYLE)
    before = dict(matplotlib.rcParams)
    drawn_curve(scores)
    assert dict(matplotlib.rcParams) == before


def test_training_curves_show_as_many_models_as_asked():
    curve = pd.DataFrame({"step": [1, 2], "epoch": [3, 30], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5]})
    models = [curve.assign(source_task="random", n_train=5, fold=fold, subset=0, repeat=0) for fold in range(7)]
    figure = figures.training_curves(pd.concat(models), labels=LABELS, shown=4)
    left, right = ([line for line in axes.lines if len(line.get_xdata())] for axes in figure.axes)
    assert len(left) == len(right) == 4 and titles(figure) == ["training", "validation"]
    assert left[0].get_ydata().tolist() == [2.0, 1.0] and right[0].get_ydata().tolist() == [2.0, 1.5]
    assert figure.axes[0].get_xscale() == "log" and left[0].get_xdata().tolist() == [3, 30]


def test_curves_of_a_source_task_show_both_losses_and_chance():
    curve = pd.DataFrame(
        {"step": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5], "validation_accuracy": [0.1, 0.4]}
    )
    lines = figures.source_curve(curve, ylabel="loss").axes[0].lines
    assert [list(line.get_ydata()) for line in lines if len(line.get_ydata())] == [[2.0, 1.0], [2.0, 1.5]]
    [axes] = figures.accuracy_curve(curve, chance=0.02).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines == {"validation": [0.1, 0.4], "chance (2.0%)": [0.02, 0.02]}


def test_expert_and_prediction_have_the_same_colours_in_every_figure(block):
    hu = np.zeros(block.shape, dtype=np.int16)
    names = ["expert", *(f"observer {k}" for k in range(10))]
    many = figures.outlines([("a", hu, (1, 1), dict.fromkeys(names, block))], window=WINDOW)
    few = figures.outlines([("b", hu, (2, 1), {"prediction": block, "expert": ~block})], window=WINDOW)
    looks = [(handle.get_color(), str(handle.get_linestyle())) for handle in many.legends[0].legend_handles]
    assert len(set(looks)) == len(names), "each outline has a look of its own"
    colours = {handle.get_label(): handle.get_color() for handle in few.legends[0].legend_handles}
    assert colours == {name: OUTLINE_STYLE[name][0] for name in ("prediction", "expert")}
    assert looks[0][0] == colours["expert"] and few.axes[0].get_aspect() == 2.0 and titles(few) == ["b"]
    [panel] = figures.contact_sheet([hu], [{"prediction": block}], columns=1, window=WINDOW).axes
    assert matplotlib.colors.to_hex(panel.collections[0].get_edgecolor()[0]) == colours["prediction"]


def test_an_outline_keeps_to_its_mask_with_fewer_points():
    rows, columns = np.mgrid[:200, :200]
    radius = np.hypot(rows - 100, columns - 100)
    mask = (radius < 80) & (radius > 20)
    figure = figures.outlines([("a", np.zeros(mask.shape), (1, 1), {"expert": mask})], window=WINDOW)
    [path] = figure.axes[0].collections[0].get_paths()
    every = Figure().subplots().contour(mask.astype(float), [0.5]).get_paths()[0]
    assert len(path.vertices) < 0.6 * len(every.vertices)
    polygons = [polygon for polygon in path.to_polygons() if len(polygon) > 2]
    centre = 100 - max(np.flatnonzero(mask.any(1))[0] - 28, 0)
    distances = np.hypot(*(np.concatenate(polygons) - centre).T)
    assert len(polygons) == 2 and np.minimum(abs(distances - 80), abs(distances - 20)).max() <= 1.0


def test_a_contact_sheet_crops_each_slice_to_its_muscle():
    mask = np.zeros((50, 50), bool)
    mask[20:30, 10:20] = True
    sheet = figures.contact_sheet([np.zeros((50, 50))] * 2, [{"expert": mask}, {}], columns=2, window=WINDOW)
    first, second = sheet.axes
    height, width = first.images[0].get_array().shape
    middle = np.concatenate([path.vertices for path in first.collections[0].get_paths()])[:-1].mean(0)
    assert np.abs(middle - [(width - 1) / 2, (height - 1) / 2]).max() <= 1 and height == width == 16
    assert second.images[0].get_array().shape == (50, 50), "nothing to crop to"


def test_puzzles_order_each_tile_as_the_permutation_says():
    tiles = np.arange(1, 10)[None, :, None, None] / 10 * np.ones((1, 9, 4, 6))
    truth = np.array([[2, 0, 1, 5, 3, 4, 8, 6, 7]])
    figure = figures.puzzles({"tiles": tiles, "guess": np.roll(truth, 1, axis=1), "permutation": truth}, gap=1)
    given, guessed, right = (axes.images[0].get_array() for axes in figure.axes)
    assert given[0, 0] == 0.1 and given[-1, -1] == 0.9 and given.shape == (14, 20)
    # Tile 0 belongs to position 2, the upper right corner; the guess puts tile 1 there.
    assert right[0, -1] == 0.1 and guessed[0, -1] == 0.2
    assert figure.axes[0].get_ylabel() == "1: not solved"


def test_bone_removal_and_error_maps_are_drawn(block):
    hu = np.where(block, 40.0, -100.0)
    hu[20, 20] = 900
    labels = [text.get_text() for text in figures.bone_removal(hu, block, (1, 1), window=WINDOW).legends[0].get_texts()]
    assert labels == ["kept", "denser than 175 HU", "within 2 mm of bone"]
    flat = np.zeros(block.shape)
    none, some = (ErrorMap(flat, block * 1.0, flat + share, flat, 3, 0, 0) for share in (0, 0.25))
    figure = figures.error_maps({"observers": none, "models": some}, window=WINDOW)
    assert titles(figure) == ["observers\n3 outlines", "models\n3 outlines"] and len(figure.axes) == 5


def test_observers_stand_image_by_image():
    rng = np.random.default_rng(0)
    observers = pd.DataFrame(rng.normal(size=(10, 4)), columns=METRICS)
    observers["patient_id"] = ["A"] * 5 + ["B"] * 5
    figure = figures.observer_agreement(observers)
    order = observers.groupby("patient_id")[METRICS].mean().sort_values("dice")
    offsets = [drawn.get_offsets() for drawn in figure.axes[1].collections]
    [means] = [xy[:, 1] for xy in offsets if len(xy) == 2]
    np.testing.assert_allclose(means, order["rms_dta_cm"])
    assert len(figure.axes) == 4 and any(len(xy) == 10 for xy in offsets)
    labels = [axes.get_xlabel() for axes in figure.axes if axes.xaxis.label.get_visible()]
    assert labels == ["2 test images, by mean Dice"] * 2


def test_readings_of_the_distance_are_drawn_with_their_values(block):
    figure = figures.distance_definitions(np.roll(block, 2, axis=1), block, (1, 1))
    names = [title.splitlines()[0] for title in titles(figure)]
    assert names == ["surface (used here)", "symmetric", "Equation 4 as printed"]
    table = pd.DataFrame({"surface": [0.1, 0.4, np.nan], "symmetric": [0.2, 0.5, np.nan], "equation4": [0.2, 0.8, 1]})
    [axes] = figures.distance_readings(table).axes
    assert len(axes.collections[0].get_offsets()) == 4, "two readings of the two outlines that have all"


def test_matrices_show_the_paper_below_and_the_run_above():
    ours = pd.DataFrame({"n_train": [5], "first": ["random"], "second": ["segmentation"], "p_value": [0.25]})
    paper = pd.DataFrame({"n_train": [5, 100], "number": [0.001, 0.4], "below": [True, False]})
    paper = paper.assign(first="segmentation", second="random")
    figure = figures.p_value_matrices(ours, paper, labels=LABELS)
    shown = {axes.get_title(loc="left"): [text.get_text() for text in axes.texts] for axes in figure.axes}
    assert shown == {"n = 5": [".250", "<.001"], "n = 100": ["–", ".400"]}
    [legend] = figures.p_value_matrices(ours, paper, labels=LABELS, alpha=0.05).legends
    assert "p < 0.05" in [text.get_text() for text in legend.texts]


def test_bland_altman_draws_bias_limits_and_margin():
    points = pd.DataFrame({"source_task": "random", "n_train": 5, "mean": [100.0, 120.0], "difference": [-1.0, 2.0]})
    limits = {"bias": 0.5, "lower_limit": -2.0, "upper_limit": 3.0, "margin": 10.0}
    table = pd.DataFrame([{"source_task": "random", "n_train": 5, **limits}])
    [axes] = figures.bland_altman(points, table, "sma_cm2", n_train=5, labels=LABELS).axes
    assert {line.get_ydata()[0] for line in axes.lines} == {0, 0.5, -2.0, 3.0}
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[100, -1], [120, 2]])


def test_a_split_map_shows_smaller_sets_inside_larger_ones():
    ids = tuple(f"P{k:02d}" for k in range(14))
    splits = Splits(ids[10:], (ids[:5], ids[5:10]), ((ids[5:10],), (ids[:5],)))
    [axes] = figures.split_map(split_table(splits), [2, 4]).axes
    grid = axes.collections[0].get_array().reshape(2, 14)
    assert grid[0].tolist() == [3] * 5 + [1, 1, 2, 2, 0] + [4] * 4
    assert grid[1].tolist() == [1, 1, 2, 2, 0] + [3] * 5 + [4] * 4


def test_a_training_batch_shows_images_tiles_labels_and_classes():
    images = torch.arange(2 * 3 * 6 * 9.0).reshape(2, 3, 6, 9)
    for target, rows in ((images, 2), (images[:, 0], 2), (torch.tensor([4, 7]), 1)):
        figure = figures.training_batch(images, target)
        assert len(figure.axes) == 2 * rows
    assert titles(figure) == ["class 4", "class 7"]
    whole = figure.axes[1].images[0].get_array()
    assert whole[0, 0] == pytest.approx(images[1, 0, 0, 0] / images[1, 0].max()) and whole[-1, -1] == 1
    tiles = images.unflatten(2, (3, 2)).unflatten(4, (3, 3)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    shown = figures.training_batch(tiles, torch.tensor([4, 7])).axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown, whole)


def test_hounsfield_units_of_a_cohort_are_shared_out(block):
    images = np.where(block, 45, -95)[None].repeat(12, axis=0)
    shares = figures.hu_shares(images, block[None].repeat(12, axis=0))
    muscle = shares[shares.region == "muscle"].set_index("hu")["median"]
    assert muscle[45] == 100 and muscle.drop(45).sum() == 0
    assert shares[shares.region == "slice"].set_index("hu")["median"][-95] == pytest.approx(100 * (1 - 400 / 2400))
    assert len(figures.hu_histogram(shares).axes) == 2


def test_a_cohort_stands_beside_published_values():
    measures = pd.DataFrame({"sma_cm2": [90.0, 150.0], "smd_hu": [30.0, 40.0], "sex": ["women", "men"]})
    published = reference_values()
    figure = figures.against_reference(measures, published)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [name.split(",")[0] for name in names] == ["5th percentile", "mean − 2 SD"]
    assert len(figures.against_reference(measures.assign(sex=np.nan), published).axes) == 2


def test_a_drawing_takes_few_bytes_and_looks_the_same():
    """Grey pictures have one number a pixel, the same number; paths have tenths of a point."""
    grey = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    figure, axes = figures.new_figure(2)
    axes[0, 0].imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="none")
    axes[0, 0].contour(grey > 128, [0.5], colors="#ffb000")
    svg = figures.svg_text(figure)
    [picture] = re.findall('base64,([^"]+)"', svg)
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    assert image.mode == "L" and set(np.unique(image)) <= set(np.unique(grey))
    assert not re.search(r' d="[^"]*\.\d\d', svg) and ' d="M' in svg


def test_a_figure_of_pyplot_is_shown_without_its_margins():
    figure = Figure(figsize=(6, 4))
    figure.add_axes((0.4, 0.4, 0.2, 0.2)).set(xticks=[], yticks=[])
    [size] = re.findall(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', figures.svg_text(figure))
    assert float(size[0]) < 0.5 * 6 * 72 and float(size[1]) < 0.5 * 4 * 72


def test_a_figure_is_described_by_its_titles_or_what_its_axes_show():
    figure = Figure()
    one, two, _ = figure.subplots(1, 3)
    one.set(xlabel="step", ylabel="loss")
    two.set_title("a slice", loc="left")
    assert described(figure) == "loss against step; a slice"
    assert described(Figure()) == "a picture"
