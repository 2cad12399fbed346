"""What the front page says of a run: its answer in one sentence, one figure, one table and four pictures."""

import json
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from l3muscle.book.archive import Archived, ArchiveError, open_archive
from l3muscle.book.error_maps import one_model_each
from l3muscle.book.experiment_pages import page_address
from l3muscle.book.pseudonyms import renamed
from l3muscle.book.run_header import (
    as_header,
    cohort_notice,
    header_text,
    labels_of,
    missing_notice,
    models_table,
    names_of,
    results_id,
    source_labels,
    window_of,
)
from l3muscle.book.show import FOLDER, THIS_RUN, figure_text, table_text
from l3muscle.figures import contact_sheet, learning_curve, svg_text
from l3muscle.pretext.fractals import draw_fractals, draw_systems
from l3muscle.pretext.scenes import draw_scenes
from l3muscle.statistics import ObserverBand, best_median_worst, dunnett_table, learning_curve_table, observer_band
from l3muscle.statistics.claims import CONVERGED
from l3muscle.statistics.printed import printed_configurations
from l3muscle.statistics.score_table import ALPHA
from l3muscle.study import StudyResults

NOT_RUN, NOT_FINISHED, NEVER = "not run", "not finished", "at no size"
FULL = "full"  # the profile of the most complete study, whose archive stands before the run
RUN_FILE = "run.json"  # what the pages' footers have to know of the run
ORIGIN = f"[{THIS_RUN}]{{.l3-origin}}"
ALT = "Mean Dice against training-set size for each source task, with the observers' mean as a band."
DRAWN = (
    "Mean Dice of the predicted outlines on the held-out test slices, with 95 % intervals, against the number of "
    "annotated slices that each model was fine-tuned on."
)
LEVELS = (
    "Smallest n from which on mean Dice is not significantly below the observers' (Dunnett's test, "
    f"p < {ALPHA:g}): the paper, on patients, beside"
)
STEPS = ("slices", "source-tasks", "few-outlines", "test")
STEP_SHAPE, STEP_WIDTH_IN = (96, 128), 3.2  # of generated images, pixels; of a picture


def _level_from(worse: Mapping[int, bool], nothing: str = NOT_RUN) -> str:
    """The size from which on no size is worse than the observers; `nothing` where there is no size."""
    if not worse:
        return nothing
    level = None
    for n in sorted(worse, reverse=True):
        if worse[n]:
            break
        level = n
    return NEVER if level is None else f"n = {level}"


def unfinished_tasks(models: pd.DataFrame, planned: int, tasks: Collection[str]) -> set[str]:
    """Source tasks of which models are missing: a part of them gives no answer.

    Parameters
    ----------
    models : DataFrame
        source_task, a row a model.
    planned : int
        How many models there are in all, as many of each of the `tasks`.
    """
    counts = models["source_task"].value_counts()
    return {task for task in tasks if counts.get(task, 0) * len(tasks) < planned}


def answer_table(
    tests: pd.DataFrame,
    curve: pd.DataFrame,
    labels: Mapping[str, str],
    ours: str = "this run",
    unfinished: Collection[str] = (),
) -> pd.DataFrame:
    """Size from which on mean Dice is not significantly below the observers': the paper's patients beside ours.

    Parameters
    ----------
    tests : DataFrame
        From `dunnett_table`, of Dice.
    curve : DataFrame
        From `learning_curve_table`, of Dice.
    labels : mapping of str to str
    ours : str
        What the tables are of, as the column says it.
    unfinished : collection of str
        Source tasks of which models are missing.

    Returns
    -------
    DataFrame
        Text, one row a source task.
    """
    printed = printed_configurations("dice")
    sizes = sorted(curve["n_train"].unique())
    rows = []
    for task, label in labels.items():
        paper = printed[printed["source_task"] == task]
        tested = tests[tests["source_task"] == task]
        means = curve[curve["source_task"] == task].set_index("n_train")["mean"]
        level = _level_from(dict(zip(tested["n_train"], tested["verdict"] == "worse", strict=True)))
        row = {
            "source task": label,
            "paper": _level_from(dict(zip(paper["n_train"], paper["marked"] == "worse", strict=True)), "–"),
            ours: NOT_FINISHED if task in unfinished and level != NOT_RUN else level,
        }
        for n in dict.fromkeys((sizes[0], sizes[-1])):
            row[f"Dice, n = {n}"] = f"{means[n]:.3f}" if n in means else NOT_RUN
        rows.append(row)
    return pd.DataFrame(rows)


def answer_sentence(answer: pd.DataFrame, ours: str = "this run") -> str:
    """The answer in one sentence, from `answer_table`."""
    groups = {level: list(part["source task"]) for level, part in answer.groupby(ours, sort=False)}
    missing, partial, never = (groups.pop(level, []) for level in (NOT_RUN, NOT_FINISHED, NEVER))
    parts = [
        f"from {level} on with {_listing(tasks)}"
        for level, tasks in sorted(groups.items(), key=lambda group: int(group[0].rpartition(" ")[2]))
    ]
    clauses = [f"mean Dice is not significantly below the observers' {'; '.join(parts)}"] if parts else []
    if never:
        below = "it still is" if parts else "mean Dice is still significantly below the observers'"
        clauses.append(f"with {_listing(never)} {below} at the largest size")
    tail = f" Not finished: {_listing(partial)}." if partial and clauses else ""
    tail += f" Not run: {_listing(missing)}." if missing else ""
    return f"**In {ours}** {'; '.join(clauses) or 'no source task is finished'}.{tail}"


def gap_sentence(curve: pd.DataFrame, band: ObserverBand | None) -> str:
    """How many means lie below the observers', whatever the tests find; empty without observers, or means."""
    if band is None or curve.empty:
        return ""
    below = int((curve["mean"] < band.mean).sum())
    return (
        f"Of {len(curve)} means {below} lie below the observers' {band.mean:.3f}: a test that finds no difference does "
        "not show that there is none."
    )


def saturation_sentence(models: pd.DataFrame) -> str:
    """How many trainings ended as the method has it, and what follows where too few did: the rule of the claims."""
    share = (models["stopped"] == "saturated").mean()
    rule = (
        f"; where fewer than {CONVERGED:.0%} of a configuration did, {{doc}}`executed/claims` gives no verdict"
        if share < CONVERGED
        else ""
    )
    return f"Of the trainings {share:.0%} went on until both losses had saturated{rule}."


def rise_sentence(curve: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """How much mean Dice changes from the smallest size to the largest; empty where nothing was run at both."""
    if curve.empty:
        return ""
    means = curve.pivot(index="source_task", columns="n_train", values="mean")
    first, last = means.columns[0], means.columns[-1]
    rise = (means[last] - means[first]).dropna().sort_values()
    if first == last or rise.empty:
        return ""
    ends = dict.fromkeys(
        f"{value:+.3f}".replace("-", "−") + f" ({labels[task]})" for task, value in rise.iloc[[0, -1]].items()
    )
    return f"From n = {first} to n = {last} mean Dice changes by {' to '.join(ends)}."


def _listing(tasks: Sequence[str]) -> str:
    names = ["random initialisation" if task == "random" else task for task in tasks]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _drawing(figure: Figure, path: Path, name: str, caption: str) -> str:
    """Write a learning curve as the file that `path` says, and return it as a numbered figure in Markdown."""
    path.write_text(svg_text(figure, name, ALT), encoding="utf-8")
    return figure_text(f"/{path.as_posix()}", name, ALT, caption)


def full_study(kept: Archived, folder: Path) -> str:
    """Write the figure of an archived study into `folder`, and return what the front page says of the study.

    Parameters
    ----------
    kept : Archived
        With observers, and how each of its models' training ended.
    folder : Path
        Of the executed chapters.

    Returns
    -------
    str
        Markdown.
    """
    ours, about, labels = "the full study", kept.about, labels_of(kept.about["sources"])
    band, curve = observer_band(kept.observers, "dice"), learning_curve_table(kept.scores, "dice")
    # A long study is made in parts: a source task gives an answer once all of its sizes have models.
    made = set(kept.configurations.index)
    unfinished = {task for task in labels for n in about["profile"]["grid"]["sizes"] if (task, n) not in made}
    answer = answer_table(dunnett_table(kept.scores, kept.observers, "dice"), curve, labels, ours, unfinished)
    whole = curve[~curve["source_task"].isin(unfinished)]
    best = curve[curve["n_train"] == curve["n_train"].max()].nlargest(1, "mean").iloc[0]
    ends = (
        f"At n = {best.n_train} the best source task, {labels[best.source_task]}, reaches {best['mean']:.3f}."
        if not unfinished
        else ""
    )
    origin = f"[{kept.origin}]{{.l3-origin}}"
    figure = learning_curve(curve, band, "dice", labels=labels)
    caption = f"{DRAWN} {{doc}}`executed/explore` shows it under other choices. {origin}"
    return f"""\
## The answer of the full study

The most complete study that this book holds is of the profile `{kept.name}`: {kept.coverage}.
{saturation_sentence(kept.models)} {answer_sentence(answer, ours)}
{gap_sentence(whole, band)} {rise_sentence(whole, labels)} {ends}

{_drawing(figure, folder / "full.svg", "fig-full-front", caption)}
{table_text(answer.to_dict("records"), "tab-full-front", f"{LEVELS} the full study, on phantoms. {origin}")}
"""


def _source_images(results: StudyResults) -> list[np.ndarray]:
    """An example of each source task that this run can show; of published weights there is none."""
    settings, generator = results.profile.sources, torch.Generator().manual_seed(3)
    images = []
    if results.source_kind("classification") == "procedural":
        maps, chances = draw_systems(1, generator=generator)
        points = settings.classification.points
        images.append(draw_fractals(maps, chances, STEP_SHAPE, points=points, generator=generator)[0, 0].numpy())
    if results.source_kind("segmentation").startswith("procedural"):
        scenes = settings.segmentation
        look = {"classes": scenes.classes, "shapes_per_scene": scenes.shapes_per_scene}
        images.append(draw_scenes(1, STEP_SHAPE, **look, generator=generator)[0][0, 0].numpy())
    if (given := results.source_examples("reconstruction")) is not None:
        images.append(given["output"][0])
    if (given := results.source_examples("jigsaw")) is not None:
        tiles = given["tiles"][0]
        images.append(np.block([[tiles[3 * row + column] for column in range(3)] for row in range(3)]))
    width, level = window_of(results)
    return [(image - 0.5) * width + level for image in images]


def step_pictures(results: StudyResults) -> dict[str, Figure]:
    """A small picture for each of the study's four steps, by the names in `STEPS`.

    Parameters
    ----------
    results : StudyResults
        With at least one finished model.
    """
    cohort, splits = results.cohort(), results.splits()
    trained = splits.training_ids(0, 0, min(4, len(splits.orders[0][0])))
    experiment = max(one_model_each(results), key=lambda one: one.n_train)
    median = best_median_worst(results.scores_of(experiment))["median"]
    patient, mask = splits.test_ids[median], results.predictions(experiment)[median]
    masks = {**cohort.observers.get(patient, {}), "expert": cohort.masks[cohort.index(patient)], "prediction": mask}
    learned = _source_images(results)

    def sheet(patients: Sequence[str]) -> Figure:
        images = [cohort.images[cohort.index(one)] for one in patients]
        outlines = [{"expert": cohort.masks[cohort.index(one)]} for one in patients]
        return contact_sheet(images, outlines, **look, columns=int(len(patients) ** 0.5))

    look = {"window": window_of(results), "width": STEP_WIDTH_IN}
    pictures = (
        sheet(splits.folds[0][:1]),
        contact_sheet(learned, [{}] * len(learned), **look, columns=2) if learned else sheet(splits.folds[0][1:2]),
        sheet(trained),
        contact_sheet([cohort.images[cohort.index(patient)]], [masks], **look, columns=1),
    )
    return dict(zip(STEPS, pictures, strict=True))


def write_tables(results: StudyResults, folder: Path) -> None:
    """Write the values behind every figure and table of the book, and every score, into `folder / "tables.zip"`.

    The same tables give the same bytes; patients and observers of a cohort of one's own have pseudonyms.
    """
    tables = {"scores": results.scores(), "training-curves": results.curves(), "models": models_table(results)}
    tables["observer-scores"] = results.observer_scores()
    names = names_of(results)
    files = {f"{FOLDER}/{file.name}": file.read_text(encoding="utf-8") for file in (folder / FOLDER).glob("*.csv")}
    for name, table in tables.items():
        files[f"{name}.csv"] = renamed(table, names).to_csv(index=False, float_format="%.9g", lineterminator="\n")
    with zipfile.ZipFile(folder / "tables.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)


def write_front_page(results: StudyResults, folder: Path) -> None:
    """Write what pages include: `full.md` (empty where no full study is kept) and `summary.md` with their figures,
    `notice.md`, `run.json`, pictures, tables.

    Parameters
    ----------
    results : StudyResults
    folder : Path
        Of the executed chapters, whose values `l3muscle.book.show.write_values` has written before.
    """
    scores, observers, labels = results.scores(), results.observer_scores(), source_labels(results)
    band, curve = observer_band(observers, "dice"), learning_curve_table(scores, "dice")
    unfinished = unfinished_tasks(results.trainings(), results.planned(), labels)
    whole = curve[~curve["source_task"].isin(unfinished)]
    (folder / "steps").mkdir(parents=True, exist_ok=True)
    figure = learning_curve(
        curve, band, "dice", labels=labels, link=lambda *which: f"executed/{page_address(results, *which)}"
    )
    figure.savefig(folder / "summary.png", dpi=150)
    for name, drawing in step_pictures(results).items():
        drawing.savefig(folder / "steps" / f"{name}.png", dpi=150)
    write_tables(results, folder)
    if band is None:
        answer = answer_table(pd.DataFrame(columns=["source_task", "n_train", "verdict"]), curve, labels)
        brief, compared = "This run has no observers to compare with.", ""
    else:
        answer = answer_table(dunnett_table(scores, observers, "dice"), curve, labels, unfinished=unfinished)
        brief = f"{answer_sentence(answer)} {gap_sentence(whole, band)} {saturation_sentence(results.trainings())}"
        compared = f" The observers' mean is {band.mean:.3f}."
    caption = (
        f"{DRAWN}{compared} Values appear under the pointer; a click leads to the notebook behind a point. {ORIGIN}"
    )
    levels = f"{LEVELS} this run, with this run's mean Dice at both ends. {ORIGIN}"
    text = f"""\
{as_header(header_text(results))}
{missing_notice(results)}
{brief} The paper's answer, on patients, stands beside it in {{numref}}`tab-front`.
{rise_sentence(whole, labels)} {{doc}}`The method <method>` says where this edition departs from the paper.

{_drawing(figure, folder / "summary.svg", "fig-front", caption)}
{table_text(answer.to_dict("records"), "tab-front", levels)}
The values behind every figure and table, and every score: {{download}}`tables.zip </{folder.as_posix()}/tables.zip>`.
"""
    try:
        full = full_study(open_archive(FULL), folder)
    except ArchiveError:
        full = ""
    (folder / "full.md").write_text(full, encoding="utf-8")
    (folder / "notice.md").write_text(cohort_notice(results), encoding="utf-8")
    about = {"profile": results.profile.name, "phantom": results.plan["phantom"], "results": results_id(results)}
    (folder / RUN_FILE).write_text(json.dumps(about), encoding="utf-8")
    (folder / "summary.md").write_text(text, encoding="utf-8")
