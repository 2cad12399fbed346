"""Cross-validated fine-tuning on few outlined slices, and the ensemble that comes of it.

Each patient is held out once, with all of their slices. The models of the folds, each trained on the other folds, are
the ensemble: nothing is trained twice, and the held-out scores are those of its members. Which weights of a training
are kept is decided on its own training slices: choosing them on the held-out ones would make the estimate too good, and
setting more slices apart costs more than it gives where there are ten.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from l3muscle import runtime
from l3muscle.cohort import Patient
from l3muscle.errors import L3MuscleError
from l3muscle.metrics import Reference, dice
from l3muscle.models import transfer_weights
from l3muscle.preprocess import Frame, frame_of, prepare_image, prepare_mask, restore_mask, to_network_input
from l3muscle.profile import Profile
from l3muscle.segmenter.flags import Calibration, calibrate, describe
from l3muscle.segmenter.model_file import build_network, load_model
from l3muscle.study import Study, StudyError, StudyResults, is_published, train_source
from l3muscle.target_task import MuscleSegmentation
from l3muscle.training import Loop, fit

BEST = "best"
DEFAULT_SOURCE = "segmentation"
LEARNED_ANYWHERE = ("classification", "segmentation")  # need no slices of a cohort
WORTH_A_POOL_S = 20.0  # of training; processes take some seconds to start
LEAST_TRAINING = 4  # slices, of the learning curve's smallest set


class FineTuneError(L3MuscleError):
    """A fine-tuning that cannot start."""


@dataclass(frozen=True)
class Start:
    """What a fine-tuning starts from.

    Attributes
    ----------
    source : str
        Name of a source task, or `"model"`.
    words : str
        Where the weights come from, as a sentence's end.
    weights : dict of str to Tensor or None
        None for random initialisation.
    profile : Profile
        With the network and the image settings that the weights belong to.
    """

    source: str
    words: str
    weights: dict[str, Tensor] | None
    profile: Profile


def choose_start(
    profile: Profile, start_from: str, *, runs: Path, slices: int, say: Callable[[str], None] = print
) -> Start:
    """Find or learn the weights that a fine-tuning starts from.

    Parameters
    ----------
    profile : Profile
    start_from : str
        `"best"`: the source task with the highest mean Dice in the finished run of this profile, at the training-set
        size nearest to `slices`; without a run, segmentation. Or the name of a source task. Or the path of a model
        file, which brings its network and image settings.
    runs : Path
        Where runs lie, and where a source task that is learned here is kept for the next time.
    slices : int
        Training slices.
    say : callable
        Takes one line of text.

    Raises
    ------
    FineTuneError
        For an unknown start, or one that needs a run which is not there.
    """
    if start_from.endswith(".safetensors"):
        model = load_model(Path(start_from))
        changed = profile.model_copy(update={"network": model.settings, "image": model.image})
        seen = model.about.get("cohort", "unknown")
        return Start("model", f"a model trained on slices of kind '{seen}'", model.network.state_dict(), changed)
    known = ("random", "classification", "segmentation", "jigsaw", "reconstruction")
    if start_from not in (BEST, *known):
        raise FineTuneError(
            f"nothing to start from is called {start_from!r}; choose best, {', '.join(known)}, "
            "or a model (.safetensors)"
        )
    try:
        results = StudyResults(runs / profile.name)
        same = results.profile.network == profile.network
    except StudyError:
        results, same = None, False
    chosen, words = start_from, "as asked"
    if start_from == BEST:
        chosen, words = DEFAULT_SOURCE, "no finished run tells which is best here; the paper's was segmentation"
        if same and results.records:
            scores = results.scores()
            size = min(scores["n_train"].unique(), key=lambda n: (abs(n - slices), n))
            means = scores[scores["n_train"] == size].groupby("source_task")["dice"].mean()
            chosen = str(means.idxmax())
            words = f"best in the run {profile.name!r} at n = {size}, mean Dice {means.max():.3f}"
    if chosen == "random":
        return Start(chosen, words, None, profile)
    if same and chosen in results.plan["sources"]:
        key = results.plan["sources"][chosen]
        if (record := results.store.record("sources", key)) is not None:
            return Start(chosen, f"{record['kind']}, {words}", results.store.weights("sources", key), profile)
    if chosen not in LEARNED_ANYWHERE:
        raise FineTuneError(
            f"{chosen} is learned from a study's slices, and {runs / profile.name} holds no such weights"
        )
    study = Study(profile, runs=runs)
    key = study.source_key(chosen)
    record = study.store.record("sources", key)
    if record is None:
        say(f"learning the source task {chosen} first; it is kept in {study.folder} for the next time")
        study.store_source(chosen, train_source(profile, chosen, None, checkpoint=study.checkpoint(key)))
    kind = getattr(profile.sources, chosen) if is_published(profile, chosen) else "procedural"
    return Start(chosen, f"{kind}, {words}", study.store.weights("sources", key), profile)


def make_folds(patients: Sequence[Patient], folds: int, *, seed: int = 0) -> list[list[int]]:
    """Places of the slices in each fold; slices of one patient lie in one fold.

    Patients are dealt in random order, those with most slices first, each to the smallest fold. Of a single patient,
    the slices are cut into runs of neighbours, so that what is held out is at least not flanked on both sides.
    """
    places: dict[str, list[int]] = {}
    for place, patient in enumerate(patients):
        places.setdefault(patient.patient_id, []).append(place)
    if len(places) == 1:
        return [part.tolist() for part in np.array_split(np.arange(len(patients)), min(folds, len(patients)))]
    order = np.random.default_rng(np.random.SeedSequence([0xF01D, seed])).permutation(sorted(places)).tolist()
    parts: list[list[int]] = [[] for _ in range(min(folds, len(places)))]
    for patient in sorted(order, key=lambda name: -len(places[name])):
        min(parts, key=len).extend(places[patient])
    return [sorted(part) for part in parts]


@dataclass(frozen=True)
class _Job:
    """One training: the places that it sees, in order, and those that it is asked about."""

    fold: int
    training: tuple[int, ...]
    held_out: tuple[int, ...]
    is_member: bool


@dataclass(frozen=True)
class _Shared:
    """What every training of a cross-validation has in common."""

    profile: Profile
    weights: dict[str, Tensor] | None
    images: Tensor
    masks: Tensor
    seed: int


@dataclass(frozen=True)
class _Trained:
    weights: dict[str, Tensor]
    logits: Tensor
    seconds: float


def _train(job: _Job, shared: _Shared) -> _Trained:
    """Fine-tune one network and outline the held-out slices."""
    profile, settings = shared.profile, shared.profile.training
    threads = torch.get_num_threads()
    device = runtime.begin_training(threads=profile.threads_per_worker, deterministic=settings.deterministic)
    seed = runtime.seed_of("own", shared.seed, job.fold, len(job.training))
    torch.manual_seed(seed)
    network = build_network(profile.network)
    if shared.weights is not None:
        transfer_weights(shared.weights, network)
    training = list(job.training)
    images, masks = shared.images[training].to(device), shared.masks[training].to(device)
    outcome = fit(
        network,
        MuscleSegmentation(images, masks, images, masks, settings, profile.augmentation),
        Loop(
            learning_rate=settings.learning_rate_random if shared.weights is None else settings.learning_rate_fine_tune,
            max_steps=settings.max_steps,
            validate_every=settings.validate_every,
            patience=settings.patience,
            min_improvement=settings.min_improvement,
            schedule=settings.schedule,
            precision=runtime.resolve_precision(settings.precision, device),
            compiled=settings.compiled,
            device=device,
        ),
        generator=torch.Generator().manual_seed(seed),
    )
    network.load_state_dict(outcome.weights)
    network.eval()
    with torch.inference_mode():
        parts = [
            network(to_network_input(shared.images[place][None]).to(device)).float().cpu() for place in job.held_out
        ]
    torch.set_num_threads(threads)
    return _Trained(outcome.weights, torch.cat(parts), outcome.seconds)


@dataclass(frozen=True)
class CrossValidation:
    """Outcome of `cross_validate`.

    Attributes
    ----------
    members : list of dict of str to Tensor
        State dict of each fold's model.
    scores : DataFrame
        One row a held-out slice and training-set size: slice, patient_id, fold, n_train (that was asked for; the
        largest stands for all of the other folds), trained_on (slices), member (whether by a member of the ensemble),
        agreement (Dice with the smaller model of the same fold; members only), and the measures of
        `l3muscle.metrics.Score`.
    outlines : ndarray objects, one (H, W) bool a slice
        Held-out outlines by the members.
    calibration : Calibration
    one_patient : bool
        Whether all slices are one patient's, so that nothing is known of other patients.
    """

    members: list[dict[str, Tensor]]
    scores: pd.DataFrame
    outlines: list[np.ndarray]
    calibration: Calibration
    one_patient: bool

    @property
    def held_out(self) -> pd.DataFrame:
        """Scores of the members: each slice once."""
        return self.scores[self.scores["member"]].reset_index(drop=True)


def curve_sizes(largest: int) -> list[int]:
    """Sizes of the learning curve below the largest, half and three quarters of it: at least one."""
    sizes = {max(LEAST_TRAINING, largest // 2), max(LEAST_TRAINING, 3 * largest // 4)}
    return sorted(size for size in sizes if size < largest) or [max(1, largest - 1)]


def cross_validate(
    patients: Sequence[Patient],
    start: Start,
    *,
    folds: int = 5,
    full_curve: bool = True,
    seed: int = 0,
    workers: int = 1,
    on_model: Callable[[int, int], None] | None = None,
) -> CrossValidation:
    """Fine-tune one model a fold, and smaller ones for the learning curve.

    Parameters
    ----------
    patients : sequence of Patient
        One a slice.
    start : Start
    folds : int
        Fewer where there are fewer patients.
    full_curve : bool
        Whether two sizes below the largest are trained; else one, which the calibration of agreement needs.
    seed : int
    workers : int
        Processes; the outcome does not depend on them.
    on_model : callable, optional
        Called with how many models are done and how many there are.

    Raises
    ------
    FineTuneError
        If there are fewer than two folds' slices.
    """
    profile = start.profile
    parts = make_folds(patients, folds, seed=seed)
    if len(parts) < 2 or len(patients) < 3:
        raise FineTuneError(f"{len(patients)} outlined slices are too few to hold some of them out")
    frames = [frame_of(patient.hu, patient.spacing, profile.image) for patient in patients]
    prepared = list(zip(patients, frames, strict=True))
    shared = _Shared(
        profile,
        start.weights,
        torch.stack([prepare_image(patient.hu, frame, profile.image) for patient, frame in prepared]),
        torch.stack([prepare_mask(patient.expert, frame, profile.image) for patient, frame in prepared]),
        seed,
    )
    jobs = _jobs(parts, full_curve, seed)
    trained = _train_all(jobs, shared, workers, on_model)
    references = [Reference(patient.expert, patient.hu, patient.spacing) for patient in patients]
    outlines, rows = _score(jobs, trained, patients, frames, references)
    agreements = _agreements(jobs, trained)
    scores = pd.DataFrame(rows)
    scores["agreement"] = [
        agreements.get(place, np.nan) if member else np.nan
        for place, member in zip(scores.pop("place"), scores["member"], strict=True)
    ]
    described = [describe(p.hu, outline, p.spacing) for p, outline in zip(patients, outlines, strict=True)]
    return CrossValidation(
        members=[outcome.weights for job, outcome in zip(jobs, trained, strict=True) if job.is_member],
        scores=scores,
        outlines=outlines,
        calibration=calibrate(described, list(agreements.values())),
        one_patient=len({patient.patient_id for patient in patients}) == 1,
    )


def _jobs(parts: list[list[int]], full_curve: bool, seed: int) -> list[_Job]:
    rng = np.random.default_rng(np.random.SeedSequence([0xC0DE, seed]))
    total = sum(map(len, parts))
    smallest = total - max(map(len, parts))
    sizes = curve_sizes(smallest)
    jobs = []
    for fold, held_out in enumerate(parts):
        others = rng.permutation(
            [place for other, part in enumerate(parts) if other != fold for place in part]
        ).tolist()
        jobs.append(_Job(fold, tuple(others), tuple(held_out), is_member=True))
        jobs += [_Job(fold, tuple(others[:n]), tuple(held_out), False) for n in (sizes if full_curve else sizes[-1:])]
    return jobs


def _train_all(
    jobs: list[_Job], shared: _Shared, workers: int, on_model: Callable[[int, int], None] | None
) -> list[_Trained]:
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if on_model is not None:
            on_model(done, len(jobs))

    trained = [_train(jobs[0], shared)]
    tell()
    brief = trained[0].seconds * (len(jobs) - 1) < WORTH_A_POOL_S
    if workers == 1 or brief or runtime.best_device() != "cpu":
        for job in jobs[1:]:
            trained.append(_train(job, shared))
            tell()
        return trained
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        futures: list[Future[_Trained]] = [pool.submit(_train, job, shared) for job in jobs[1:]]
        try:
            for future in as_completed(futures):
                future.result()
                tell()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return trained + [future.result() for future in futures]


def _score(
    jobs: list[_Job],
    trained: list[_Trained],
    patients: Sequence[Patient],
    frames: Sequence[Frame],
    references: Sequence[Reference],
) -> tuple[list[np.ndarray], list[dict[str, object]]]:
    outlines: list[np.ndarray] = [np.zeros(0, dtype=bool)] * len(patients)
    rows = []
    largest = max(len(job.training) for job in jobs)
    for job, outcome in zip(jobs, trained, strict=True):
        for place, logits in zip(job.held_out, outcome.logits, strict=True):
            patient = patients[place]
            mask = restore_mask(logits, frames[place], patient.hu.shape)
            if job.is_member:
                outlines[place] = mask
            rows.append(
                {
                    "slice": patient.name,
                    "patient_id": patient.patient_id,
                    "fold": job.fold,
                    "n_train": largest if job.is_member else len(job.training),
                    "trained_on": len(job.training),
                    "member": job.is_member,
                    "place": place,
                    **references[place].score(mask)._asdict(),
                }
            )
    return outlines, rows


def _agreements(jobs: list[_Job], trained: list[_Trained]) -> dict[int, float]:
    """For each slice, Dice between the two largest models that were trained without its fold.

    The members that have not seen a slice are one, so its agreement is taken with the next smaller model of the fold.
    Two members share about as many training slices as these two do.
    """
    agreements = {}
    for fold in {job.fold for job in jobs}:
        own = [(len(j.training), j, t) for j, t in zip(jobs, trained, strict=True) if j.fold == fold]
        (_, job, member), (_, _, next_smaller) = sorted(own, key=lambda entry: -entry[0])[:2]
        for place, first, second in zip(job.held_out, member.logits[:, 0], next_smaller.logits[:, 0], strict=True):
            agreements[place] = dice((first > 0).numpy(), (second > 0).numpy())
    return dict(sorted(agreements.items()))
