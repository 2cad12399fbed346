"""Cross-validated fine-tuning on few outlined slices, and the ensemble that comes of it.

Each patient is held out once, with all of their slices. The models of the folds, each trained on the other folds, are
the ensemble: nothing is trained twice, and the held-out scores are those of its members. Which weights of a training
are kept is decided on its own training slices: choosing them on the held-out ones would make the estimate too good, and
setting more slices apart costs more than it gives where there are ten.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from l3muscle import runtime
from l3muscle.cohort import Patient
from l3muscle.errors import L3MuscleError
from l3muscle.experiment import SegmentationTask, build_network, target_loop
from l3muscle.metrics import Reference, dice
from l3muscle.models import transfer_weights
from l3muscle.preprocess import crop_of, prepare_image, prepare_mask, restore_mask, to_network_input
from l3muscle.segmenter.flags import Calibration, calibrate, describe
from l3muscle.segmenter.initialisation import Initialisation
from l3muscle.training import fit

MIN_TRAINING = 4  # slices, of the learning curve's smallest set
# A network's weights, and its logits (M, 1, rows, columns) of the held-out slices.
Trained = tuple[dict[str, Tensor], Tensor]


class CrossValidationError(L3MuscleError):
    """Slices that are too few to hold some of them out."""


def make_folds(patients: Sequence[Patient], folds: int, *, seed: int = 0) -> list[list[int]]:
    """Indices of the slices in each fold; slices of one patient lie in one fold.

    Patients are dealt in random order, those with most slices first, each to the smallest fold. Of a single patient,
    the slices are cut into runs of neighbours, so that what is held out is at least not flanked on both sides.
    """
    slices_of: dict[str, list[int]] = defaultdict(list)
    for index, patient in enumerate(patients):
        slices_of[patient.patient_id].append(index)
    if len(slices_of) == 1:
        return [part.tolist() for part in np.array_split(np.arange(len(patients)), min(folds, len(patients)))]
    order = np.random.default_rng(np.random.SeedSequence([0xF01D, seed])).permutation(sorted(slices_of)).tolist()
    parts: list[list[int]] = [[] for _ in range(min(folds, len(slices_of)))]
    for patient_id in sorted(order, key=lambda name: -len(slices_of[name])):
        min(parts, key=len).extend(slices_of[patient_id])
    return [sorted(part) for part in parts]


def curve_sizes(largest: int) -> list[int]:
    """Sizes of the learning curve below the largest, half and three quarters of it: at least one."""
    sizes = {max(MIN_TRAINING, largest // 2), max(MIN_TRAINING, 3 * largest // 4)}
    return sorted(size for size in sizes if size < largest) or [max(1, largest - 1)]


@dataclass(frozen=True)
class _Job:
    """One training: indices of the slices that it sees, in order, and of those that it is asked about."""

    fold: int
    training: tuple[int, ...]
    held_out: tuple[int, ...]
    is_member: bool


def _jobs(parts: list[list[int]], full_curve: bool, seed: int) -> list[_Job]:
    """Of each fold the member of the ensemble first, then the smaller models in order of size."""
    rng = np.random.default_rng(np.random.SeedSequence([0xC0DE, seed]))
    sizes = curve_sizes(sum(map(len, parts)) - max(map(len, parts)))
    jobs = []
    for fold, held_out in enumerate(parts):
        others = rng.permutation([index for part in parts if part is not held_out for index in part]).tolist()
        jobs.append(_Job(fold, tuple(others), tuple(held_out), is_member=True))
        for size in sizes if full_curve else sizes[-1:]:
            jobs.append(_Job(fold, tuple(others[:size]), tuple(held_out), is_member=False))
    return jobs


def _train(job: _Job, initial: Initialisation, images: Tensor, masks: Tensor, seed: int) -> Trained:
    """Fine-tune one network on its share of all slices' images and masks, (N, 1, rows, columns) each."""
    profile, threads = initial.profile, torch.get_num_threads()
    device = runtime.begin_training(profile)
    seed = runtime.seed_of("own", seed, job.fold, len(job.training))
    torch.manual_seed(seed)
    network = build_network(profile)
    if initial.weights is not None:
        transfer_weights(initial.weights, network)
    training = list(job.training)
    own = images[training].to(device), masks[training].to(device)
    loop = target_loop(profile, device, fine_tuned=initial.weights is not None)
    task = SegmentationTask(*own, *own, profile)
    outcome = fit(network, task, loop, generator=torch.Generator().manual_seed(seed))
    network.load_state_dict(outcome.weights)
    network.eval()
    with torch.inference_mode():
        held_out = [to_network_input(images[[index]]).to(device) for index in job.held_out]
        logits = torch.cat([network(image).float().cpu() for image in held_out])
    torch.set_num_threads(threads)
    return outcome.weights, logits


def _train_all(jobs: list[_Job], train: Callable[[_Job], Trained], workers: int) -> Iterator[Trained]:
    if workers == 1 or runtime.best_device() != "cpu":
        yield from map(train, jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(train, jobs)


@dataclass(frozen=True)
class CrossValidation:
    """Outcome of `cross_validate`.

    Attributes
    ----------
    members : list of dict of str to Tensor
        State dict of each fold's model.
    scores : DataFrame
        One row a held-out slice and training-set size: index (of the slice), slice, patient_id, fold, n_train (that was
        asked for; the largest stands for all of the other folds), trained_on (slices), member (whether by a member of
        the ensemble), agreement (Dice with the next smaller model of the same fold; members only), and the measures of
        `l3muscle.metrics.Score`.
    outlines : list of ndarray, (H, W) bool
        Held-out outlines by the members, one a slice.
    calibration : Calibration
    """

    members: list[dict[str, Tensor]]
    scores: pd.DataFrame
    outlines: list[np.ndarray]
    calibration: Calibration

    @property
    def held_out(self) -> pd.DataFrame:
        """Held-out scores of the members: each slice once."""
        return self.scores[self.scores["member"]].reset_index(drop=True)


def cross_validate(
    patients: Sequence[Patient],
    initial: Initialisation,
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
    initial : Initialisation
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
    CrossValidationError
        If there are fewer than two folds' slices.
    """
    parts = make_folds(patients, folds, seed=seed)
    if len(parts) < 2 or len(patients) < 3:
        raise CrossValidationError(f"{len(patients)} outlined slices are too few to hold some of them out")
    image = initial.profile.image
    crops = [crop_of(patient.hu, patient.spacing, image) for patient in patients]
    prepared = list(zip(patients, crops, strict=True))
    images = torch.stack([prepare_image(patient.hu, crop, image) for patient, crop in prepared])
    masks = torch.stack([prepare_mask(patient.expert, crop, image) for patient, crop in prepared])
    references = [Reference(patient.expert, patient.hu, patient.spacing) for patient in patients]
    jobs = _jobs(parts, full_curve, seed)
    largest = max(len(job.training) for job in jobs)
    members, rows, outlines, agreements = [], [], {}, {}
    train = partial(_train, initial=initial, images=images, masks=masks, seed=seed)
    member_logits = None
    for done, (job, (weights, logits)) in enumerate(zip(jobs, _train_all(jobs, train, workers), strict=True), 1):
        if job.is_member:
            members.append(weights)
            member_logits = logits
        for i, index in enumerate(job.held_out):
            patient = patients[index]
            mask = restore_mask(logits[i], crops[index], patient.hu.shape)
            if job.is_member:
                outlines[index] = mask
            else:
                # The last model of a fold is the next smaller one; two members share about as many training slices.
                agreements[index] = dice((member_logits[i, 0] > 0).numpy(), (logits[i, 0] > 0).numpy())
            row = {"index": index, "slice": patient.name, "patient_id": patient.patient_id, "fold": job.fold}
            row["n_train"] = largest if job.is_member else len(job.training)
            row |= {"trained_on": len(job.training), "member": job.is_member}
            rows.append(row | references[index].score(mask)._asdict())
        if on_model is not None:
            on_model(done, len(jobs))
    scores = pd.DataFrame(rows)
    scores["agreement"] = scores["index"].map(agreements).where(scores["member"])
    drawn = [outlines[index] for index in range(len(patients))]
    described = [describe(p.hu, outline, p.spacing) for p, outline in zip(patients, drawn, strict=True)]
    return CrossValidation(members, scores, drawn, calibrate(described, list(agreements.values())))
