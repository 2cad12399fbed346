"""The command line: `l3muscle`. Every error that a person can cause is one sentence and exit status 2."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from l3muscle import __version__
from l3muscle.errors import L3MuscleError, reason_of

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
cohort_app = typer.Typer(no_args_is_help=True, help="Make or check a cohort of CT slices.")
study_app = typer.Typer(no_args_is_help=True, help="Run the study, or see how far it is.")
app.add_typer(cohort_app, name="cohort")
app.add_typer(study_app, name="study")

ProfileOption = Annotated[str, typer.Option(help="Name of a profile, or path of a .yml file.")]
RunsOption = Annotated[Path, typer.Option(help="Folder in which runs are kept.")]
CohortOption = Annotated[Path | None, typer.Option(help="Folder of slices and outlines to use instead of the phantom.")]
UsableOnlyOption = Annotated[
    bool, typer.Option("--usable-only", help="Go on with what is sound of a folder where some is refused.")
]
RoiOption = Annotated[
    list[str] | None, typer.Option("--roi", help="Name of the outlines that are muscle, where files do not tell.")
]
OnlyTexts = Annotated[list[str] | None, typer.Option(help="Only these; may be given several times.")]
OnlyNumbers = Annotated[list[int] | None, typer.Option(help="Only these; may be given several times.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Local worker processes.")]


Queue = StrEnum("Queue", ["slurm", "pbs", "lsf", "sge"])  # batch systems of compute clusters
MaskFormat = StrEnum("MaskFormat", ["seg", "rtstruct", "nifti"])


def say(line: str) -> None:
    """Print one line at once, also into a pipe."""
    print(line, flush=True)


@contextmanager
def _counter(description: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that appears with the first report of how many are done, of how many."""
    from l3muscle.progress import progress_bar

    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = progress_bar(total, description, unit=unit)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def _version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@cohort_app.command("phantom")
def cohort_phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    patients: Annotated[int, typer.Option(min=1)] = 204,
    test_patients: Annotated[int, typer.Option(min=0, help="Patients whom ten observers outline as well.")] = 37,
    seed: int = 0,
    size: Annotated[int, typer.Option(min=64, max=1024, help="Pixels a side.")] = 512,
    diversity: Annotated[
        float,
        typer.Option(min=0, max=1, help="0: a clinic's patients and scanners; 1: domain-randomised, to learn for any."),
    ] = 0.0,
    workers: WorkersOption = 2,
) -> None:
    """Write a phantom cohort: DICOM CT with RTSTRUCTs of the expert and the observers."""
    from l3muscle.phantom.patients import write_phantom

    if out.exists():
        raise L3MuscleError(f"{out} exists already; name a new folder")
    with _counter("phantom", unit="patient") as show:
        write_phantom(
            out,
            patients=patients,
            seed=seed,
            size=size,
            diversity=diversity,
            test_patients=test_patients,
            workers=workers,
            progress=lambda done: show(done, patients),
        )
    say(f"{patients} patients written to {out}")


@cohort_app.command("check")
def cohort_check(
    folder: Annotated[Path, typer.Argument(help="Folder of slices (DICOM, NIfTI) and outlines of them.")],
    folds: Annotated[int, typer.Option(min=2, help="Folds that the patients have to suffice for.")] = 4,
    test_patients: Annotated[int, typer.Option(min=1, help="Patients held out where no observers outlined any.")] = 37,
    largest: Annotated[int, typer.Option(min=1, help="Largest training set that has to fit.")] = 125,
    roi: RoiOption = None,
) -> None:
    """List what is usable in a folder, and what is not and why; warn where it is too little for the paper's study."""
    from l3muscle.cohort import check_folder
    from l3muscle.cohort.splits import SplitsError, make_splits

    report = check_folder(folder, rois=roi or ())
    for line in report.lines():
        say(line)
    if not report.usable:
        raise L3MuscleError(f"nothing in {folder} can be used")
    try:
        make_splits(report.cohort(usable_only=True), sizes=[largest], folds=folds, test_patients=test_patients)
    except SplitsError as error:
        say(f"warning: {error}")


@cohort_app.command("show")
def cohort_show(
    folder: Annotated[Path, typer.Argument(help="Folder of slices (DICOM, NIfTI) and outlines of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables and pictures.")],
    roi: RoiOption = None,
) -> None:
    """Show what a cohort holds: counts, spacing, Hounsfield units, every slice with its outline, refusals."""
    from l3muscle.book.cohort_overview import summarise, write_overview
    from l3muscle.cohort import check_folder

    report = check_folder(folder, rois=roi or ())
    for row in summarise(write_overview(report, out)):
        say("  ".join(f"{value:<26}" if key == "of the cohort" else f"{value:>10}" for key, value in row.items()))
    say(f"{len(report.refused)} refusals in {out / 'refused.txt'}; pictures beside it")


@study_app.command("run")
def study_run(
    profile: ProfileOption = "laptop",
    runs: RunsOption = Path("runs"),
    cohort: CohortOption = None,
    usable_only: UsableOnlyOption = False,
    roi: RoiOption = None,
    workers: WorkersOption = 2,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to use instead.")] = None,
    queue: Annotated[Queue | None, typer.Option(help="Batch system to submit --workers jobs to instead.")] = None,
    kernel: Annotated[str, typer.Option(help="Jupyter kernel that executes the notebooks.")] = "python3",
    time_budget: Annotated[float | None, typer.Option(help="Seconds inside which to stop cleanly.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the run would cost here.")] = False,
    source_task: OnlyTexts = None,
    n_train: OnlyNumbers = None,
    fold: OnlyNumbers = None,
    subset: OnlyNumbers = None,
    repeat: OnlyNumbers = None,
) -> None:
    """Run what is missing of the study, or of a part of it: each configuration is a notebook."""
    from l3muscle.experiment import choose, experiments
    from l3muscle.profile import load_profile
    from l3muscle.runner import run_study
    from l3muscle.segmenter.model_file import publish_model
    from l3muscle.study import Study

    settings = load_profile(profile)
    how = {"usable_only": usable_only, "rois": roi or ()}
    study = Study(settings, runs=runs, cohort_folder=cohort, profile_name=profile, **how)
    only = {"source_task": source_task, "n_train": n_train, "fold": fold, "subset": subset, "repeat": repeat}
    only = {axis: wanted for axis, wanted in only.items() if wanted}
    choose(experiments(settings), only)
    if dry_run:
        from l3muscle.forecast import forecast

        for line in forecast(study, workers=workers, only=only):
            say(line)
        return
    with _counter("phantom cohort", unit="patient") as show:
        study.make_phantom(workers=workers, on_patient=lambda done: show(done, settings.cohort.patients))
    progress = run_study(
        study,
        workers=workers,
        scheduler=scheduler,
        queue=queue,
        kernel=kernel,
        time_budget=time_budget,
        only=only,
        say=say,
    )
    publish_model(study)
    say(
        f"{progress.done_before + progress.finished} of {progress.total} models done ({progress.finished} now, in "
        f"{progress.seconds:.0f} s), {progress.left} left; executed notebooks in {study.folder / 'notebooks'}"
    )
    for name, reason in progress.failed.items():
        say(f"failed: {name}: {reason}")
    if progress.failed:
        raise L3MuscleError("something failed; running the same command again tries it again")


@study_app.command("status")
def study_status(
    profile: ProfileOption = "laptop",
    runs: RunsOption = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Keep the table up to date until all is done.")] = False,
) -> None:
    """Show what is done, missing and failed, by source task and training-set size."""
    from l3muscle.status import show_status
    from l3muscle.study import open_results

    show_status(open_results(profile, runs), watch=watch)


@study_app.command("archive")
def study_archive(
    profile: ProfileOption = "laptop",
    runs: RunsOption = Path("runs"),
    archive: Annotated[Path, typer.Option(help="Folder that gets a folder of the profile's name.")] = Path("results"),
) -> None:
    """Keep the scores of a run as small tables with their provenance, to show and to commit."""
    from l3muscle.book.archive import write_archive
    from l3muscle.study import open_results

    results = open_results(profile, runs)
    folder = write_archive(results, archive)
    say(f"{len(results.records)} of {results.planned()} models kept in {folder}")


@app.command()
def notebooks(profile: ProfileOption = "laptop", runs: RunsOption = Path("runs"), workers: WorkersOption = 2) -> None:
    """Execute the book's chapters with papermill into book/executed/."""
    from l3muscle.book.build import execute_chapters
    from l3muscle.study import open_results

    execute_chapters(open_results(profile, runs), profile=profile, runs=runs, workers=workers, say=say)


@app.command()
def book(
    profile: ProfileOption = "laptop",
    runs: RunsOption = Path("runs"),
    cohort: CohortOption = None,
    usable_only: UsableOnlyOption = False,
    workers: WorkersOption = 2,
) -> None:
    """Run the study, execute the notebooks and build the book: the whole path."""
    from l3muscle.book.build import build_book, chapters, execute_chapters
    from l3muscle.study import open_results

    started = time.monotonic()
    chapters()
    say(f"1/3 study ({profile})")
    study_run(profile, runs, cohort, usable_only, workers=workers)
    say("2/3 chapters")
    results = open_results(profile, runs)
    execute_chapters(results, profile=profile, runs=runs, workers=workers, say=say)
    say("3/3 book")
    page = build_book(say=say)
    say(f"done in {(time.monotonic() - started) / 60:.1f} min; open {page.resolve().as_uri()}")


@app.command()
def train(
    folder: Annotated[Path, typer.Argument(help="Folder of slices (DICOM, NIfTI), ten or more of them outlined.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, its model card, held-out scores and pictures.")],
    profile: ProfileOption = "laptop",
    start_from: Annotated[
        list[str],
        typer.Option(
            help="phantom (the network for real scans), best (source task of the finished run), a source task, or a "
            "model file; if given several times, the best by cross-validation."
        ),
    ] = ["phantom"],  # noqa: B006
    runs: RunsOption = Path("runs"),
    folds: Annotated[int, typer.Option(min=2, help="Folds, and networks of the ensemble.")] = 5,
    short_curve: Annotated[
        bool, typer.Option("--short-curve", help="Faster: one smaller training set instead of two.")
    ] = False,
    usable_only: UsableOnlyOption = False,
    roi: RoiOption = None,
    check_only: Annotated[bool, typer.Option("--check-only", help="Only check the outlines.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the model, for its model card.")] = "",
    workers: WorkersOption = 2,
) -> None:
    """Train a segmenter on a few outlined slices of your own, and estimate how good it is."""
    from l3muscle.phantom.patients import people_of
    from l3muscle.profile import load_profile
    from l3muscle.segmenter.checks import check_training_folder, require_enough
    from l3muscle.segmenter.train import train_segmenter

    settings = load_profile(profile)
    report, findings = check_training_folder(folder, rois=roi or ())
    for line in findings:
        say(line)
    patients = len({patient.patient_id for patient in report.usable})
    say(
        f"{len(report.usable)} outlined slices of {patients} patients usable, {len(report.refused)} refusals, "
        f"{len(report.unlabelled)} slices without an outline"
    )
    slices = require_enough(report, usable_only=usable_only)
    if check_only:
        return
    with _counter("train", unit="model") as show:
        model = train_segmenter(
            slices,
            out,
            settings,
            start_from=start_from,
            runs=runs,
            folds=folds,
            full_curve=not short_curve,
            licence=licence,
            kind="phantom" if people_of(folder) else "own",
            workers=workers,
            say=say,
            on_model=show,
        )
    for line in model.lines():
        say(line)
    say(
        f"model, model card, held-out scores and pictures in {out}; "
        f"next: l3muscle segment SLICES --model {model.path} --out ..."
    )


@app.command()
def crate(
    out: Annotated[Path, typer.Option(help="Folder, or .zip file; must not exist.")],
    profile: ProfileOption = "laptop",
    runs: RunsOption = Path("runs"),
) -> None:
    """Write a run as a Workflow Run RO-Crate: settings, plan, scores and provenance, without names or folders."""
    from l3muscle.book.crate import write_crate
    from l3muscle.study import open_results

    say(f"the run is described in {write_crate(open_results(profile, runs), out)}")


@app.command()
def segment(
    slices: Annotated[list[Path], typer.Argument(help="DICOM files, NIfTI images, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for masks, overlays, contact sheets and measures.csv.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Model file (.safetensors); without one, the ensemble that comes with the package."),
    ] = None,
    format: Annotated[list[MaskFormat], typer.Option(help="Mask format; may be given several times.")] = [  # noqa: B006
        MaskFormat.seg
    ],
    heights: Annotated[
        Path | None, typer.Option(help="Table (CSV) of height_m by patient_id or slice, for the muscle index.")
    ] = None,
    overlays: Annotated[bool, typer.Option(help="Write a picture of each slice beside the contact sheets.")] = True,
) -> None:
    """Outline muscle in CT slices, measure its area and density, and say which outlines to review first."""
    from l3muscle.segmenter.model_file import SHIPPED, load_model
    from l3muscle.segmenter.segment import read_heights, segment_slices

    segmenter = load_model(model or SHIPPED)
    known = read_heights(heights) if heights else {}
    with _counter("segment", unit="slice") as show:
        outcome = segment_slices(
            slices,
            segmenter,
            out,
            formats=[f.value for f in format],
            heights=known,
            overlays=overlays,
            on_slice=show,
        )
    measures = outcome.measures
    numbers = measures.drop(columns=["reasons", "source", "sop_instance_uid"]).dropna(axis=1, how="all")
    say(numbers.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    for row in measures[measures["review_first"]].itertuples():
        say(f"review first: {row.slice}: {row.reasons}")
    for note in outcome.notes:
        say(note)
    say(
        f"{len(measures)} slices, {int(measures['review_first'].sum())} to review first: "
        f"masks, overlays, contact sheets and measures.csv in {out}"
    )
    if segmenter.about.get("cohort") == "phantom":
        say("This model has seen only phantoms: look at every overlay before you believe a number.")
    if outcome.refused:
        for reason in outcome.refused:
            say(f"refused: {reason}")
        raise L3MuscleError(f"{len(outcome.refused)} files were refused; the slices among the others are done")


class _Interrupted(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which Typer would turn into an exit of its own before `main` sees it."""


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise _Interrupted


def main() -> None:
    """Entry point of the `l3muscle` command."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except L3MuscleError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        sys.exit(_fail(f"cannot use{where}: {reason_of(error)}"))
    except (_Interrupted, KeyboardInterrupt):
        print("\nl3muscle: stopped; what was finished is kept", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> int:
    print(f"l3muscle: {message}", file=sys.stderr)
    return 2
