"""The task itself: Dice after equal computing time, of our fine-tuning, a MONAI U-Net and nnU-Net's 2D pipeline.

Every side trains on the same n phantom slices, at the same resolution and in the same field of view, by one thread,
for the same CPU seconds (augmentation included; preparing the data, planning and predicting are not counted), and takes
its last weights: no side sees an annotated slice more than the n. All of them outline the same test slices, and the
outlines are scored at 512 x 512 by `l3muscle.metrics`. Each has its makers' recipe:

- *ours* is the profile `laptop`: a small FCN-ResNet; from random weights, and fine-tuned from the procedural
  segmentation source task, whose own training is not counted, as it is done once for all.
- *MONAI U-Net*: residual U-Net of 16 to 256 channels, Dice and cross-entropy, Adam.
- *nnU-Net*: version 2's own planner, preprocessing, network, augmentation and schedule, with as many iterations as the
  time allows instead of 250 000.

Each learning rate falls to zero over the budget. How many steps fit is found by a few steps before, not counted.

Equal time stops nnU-Net after a dozen steps: `saturation` gives every side far more time.
"""

import os
import pickle
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import Rows, Side, SideFailed, Work
from training_step import monai_warp

if TYPE_CHECKING:  # torch is imported where a side has its threads
    from torch import Tensor

    from l3muscle.experiment import PreparedCohort

PART = "task"
PROFILE = "laptop"
SOURCE = "segmentation"
TRIAL_STEPS = 4


@dataclass(frozen=True)
class Job:
    """One training: what a side is given.

    Attributes
    ----------
    prepared : PreparedCohort
    images, masks : Tensor, (n_train, 1, rows, columns)
    test : Tensor, (n_test, 1, rows, columns)
    budget_s : float
    folder : Path
    seed : int
    """

    prepared: "PreparedCohort"
    images: "Tensor"
    masks: "Tensor"
    test: "Tensor"
    budget_s: float
    folder: Path
    seed: int


def _profile(size=None, **settings: Any):
    """The profile, with a cohort as large as the comparison needs."""
    from l3muscle.profile import load_profile

    if size is not None:
        patients = 2 * max(size.task_n) + size.task_test
        settings["cohort"] = {"patients": patients, "test_patients": size.task_test, "size": size.image_size}
    return load_profile(PROFILE, **settings)


def write_cohort(folder: Path, size) -> None:
    """Draw and prepare the slices, once for all."""
    from l3muscle.experiment import prepare
    from l3muscle.study import Study

    profile = _profile(size)
    study = Study(profile, runs=folder)
    study.make_phantom(workers=size.cores)
    prepared = prepare(study.cohort, study.cohort.patient_ids[-size.task_test :], profile)
    (folder / "prepared.pkl").write_bytes(pickle.dumps(prepared))


def _job(folder: str, n_train: int, repeat: int, budget_s: float) -> Job:
    """The training slices are another draw in every repeat, the same for every side, the smaller inside the larger."""
    prepared = pickle.loads((Path(folder) / "prepared.pkl").read_bytes())
    pool = [patient for patient in prepared.patient_ids if patient not in prepared.test_ids]
    chosen = random.Random(repeat).sample(pool, len(pool))[:n_train]
    test, _ = prepared.select(prepared.test_ids)
    return Job(prepared, *prepared.select(chosen), test, budget_s, Path(folder), repeat)


def _side(train: Callable[[Job], tuple["Tensor", float, int]]) -> Callable[..., Work]:
    """Work whose outcome is what a training achieved; `train` gives logits (n_test, 1, H, W), CPU seconds, steps."""

    def side(**case: Any) -> Work:
        def outcome() -> dict[str, float]:
            from l3muscle.experiment import score
            from l3muscle.preprocess import restore_mask

            job = _job(**case)
            started = time.perf_counter()
            logits, seconds, steps = train(job)
            shape, crops = job.prepared.test_hu.shape[1:], job.prepared.test_crops
            outlines = np.stack([restore_mask(own, crop, shape) for own, crop in zip(logits, crops, strict=True)])
            return {
                "Dice": score(outlines, job.prepared)["dice"].mean(),
                "CPU time of training": seconds,
                "steps": steps,
                "time with all around it": time.perf_counter() - started,
            }

        return Work(outcome=outcome)

    return side


def _source_task(folder: str, steps: int | None) -> Work:
    """The procedural segmentation source task of the profile; its outcome is the CPU time of its training."""

    def outcome() -> float:
        import torch

        from l3muscle.experiment import learn_source

        profile = _profile() if steps is None else _profile(sources={SOURCE: {"steps": steps, "validation_scenes": 2}})
        started = time.process_time()
        network, _, _ = learn_source(profile, SOURCE, torch.empty(0), "cpu")
        torch.save(network.state_dict(), Path(folder) / "source.pt")
        return time.process_time() - started

    return Work(outcome=outcome)


def _train_ours(job: Job, *, pretrained: bool = True):
    import torch

    from l3muscle.experiment import SegmentationTask, build_network, target_loop
    from l3muscle.models import transfer_weights
    from l3muscle.preprocess import to_network_input
    from l3muscle.runtime import keep_freed_memory
    from l3muscle.training import fit

    keep_freed_memory()
    profile = _profile()
    task = SegmentationTask(job.images, job.masks, job.images[:1], job.masks[:1], profile)
    settings = target_loop(profile, "cpu", fine_tuned=pretrained)

    def trained(steps: int):
        torch.manual_seed(job.seed)
        network = build_network(profile)
        if pretrained:
            transfer_weights(torch.load(job.folder / "source.pt", weights_only=True), network)
        # Validated once, at the end: the loop has nothing to choose from, and keeps its last weights.
        loop = replace(settings, max_steps=steps, validate_every=steps)
        started = time.process_time()
        fit(network, task, loop, generator=torch.Generator().manual_seed(job.seed))
        return network, time.process_time() - started

    trained(TRIAL_STEPS)
    step = trained(10 * TRIAL_STEPS)[1] / (10 * TRIAL_STEPS)
    steps = max(1, round(job.budget_s / step))
    network, seconds = trained(steps)
    with torch.inference_mode():
        return network.eval()(to_network_input(job.test)), seconds, steps


def _train_ours_random(job: Job):
    return _train_ours(job, pretrained=False)


def _train_monai(job: Job):
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.transforms import Compose, DivisiblePad, DivisiblePadd, RandFlipd
    from monai.utils import set_determinism

    set_determinism(job.seed)
    torch.use_deterministic_algorithms(False)
    keys, shape = ("image", "label"), tuple(job.images.shape[-2:])
    flip, warp = RandFlipd(keys, spatial_axis=1, prob=0.5), monai_warp(keys, shape, 0.75)
    transforms = Compose([DivisiblePadd(keys, k=16), flip, warp])
    members = [dict(zip(keys, pair, strict=True)) for pair in zip(job.images, job.masks, strict=True)]
    data = CacheDataset(members, transforms, progress=False)
    loader = DataLoader(data, batch_size=_profile().training.batch_size, shuffle=True)
    network = UNet(2, 1, 1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = DiceCELoss(sigmoid=True)
    used, steps, started = 0.0, 0, time.process_time()
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + np.cos(np.pi * min(used / job.budget_s, 1)))
    )
    while used < job.budget_s:
        for member in loader:
            loss = criterion(network(member["image"]), member["label"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps, used = steps + 1, time.process_time() - started
            schedule.step()
            if used >= job.budget_s:
                break
    pad = DivisiblePad(k=16)
    top, left = ((-side % 16) // 2 for side in shape)
    with torch.inference_mode():
        padded = torch.stack([torch.as_tensor(pad(image)) for image in job.test])
        logits = network.eval()(padded)[..., top : top + shape[0], left : left + shape[1]]
    return logits, used, steps


def _write_nnunet_dataset(job: Job, name: str) -> None:
    """The training slices in nnU-Net's folders, which it finds by environment variables."""
    import json

    from skimage.io import imsave

    own = job.folder / f"nnunet-{len(job.images)}-{job.seed}-{os.getpid()}"
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(own / variable)
        (own / variable).mkdir(parents=True)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "0"}
    raw = own / "nnUNet_raw" / name
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for number, (image, mask) in enumerate(zip(job.images.numpy(), job.masks.numpy(), strict=True)):
        imsave(raw / "imagesTr" / f"slice{number:03d}_0000.tif", image[0], check_contrast=False)
        label = (mask[0] > 0.5).astype(np.uint8)
        imsave(raw / "labelsTr" / f"slice{number:03d}.tif", label, check_contrast=False)
    about = {
        "channel_names": {"0": "windowed CT"},
        "labels": {"background": 0, "muscle": 1},
        "numTraining": len(job.images),
        "file_ending": ".tif",
    }
    (raw / "dataset.json").write_text(json.dumps(about))


def _train_nnunet(job: Job):
    """nnU-Net's own steps through its Python interface, in folders of its own."""
    import torch

    name = "Dataset001_L3"
    _write_nnunet_dataset(job, name)

    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    planning.extract_fingerprints([1], num_processes=1)
    planning.plan_experiments([1])
    planning.preprocess_dataset(1, configurations=("2d",), num_processes=(1,))
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # in this process, where its time counts; the planner takes no 0
    torch.set_num_threads(1)  # the planner has changed it
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)
    device = torch.device("cpu")

    def trained(steps: int):
        """A trainer from the start, with its schedule stretched over the steps that there is time for."""
        trainer = get_trainer_from_args(name, "2d", "all", device=device)
        trainer.disable_checkpointing = True
        trainer.num_epochs = steps
        trainer.on_train_start()
        trainer.network.train()
        started = time.process_time()
        for number in range(steps):
            trainer.lr_scheduler.step(number)
            trainer.train_step(next(trainer.dataloader_train))
        return trainer, time.process_time() - started

    trained(1)
    steps = max(1, round(job.budget_s / (trained(TRIAL_STEPS)[1] / TRIAL_STEPS)))
    trainer, seconds = trained(steps)
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=device, perform_everything_on_device=False, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    probabilities = [
        predictor.predict_single_npy_array(image[:, None], {"spacing": [999, 1, 1]}, save_or_return_probabilities=True)[
            1
        ][1]
        for image in job.test.numpy()
    ]
    return torch.logit(torch.as_tensor(np.stack(probabilities)), eps=1e-6), seconds, steps


TRAINERS = {
    "ours": _train_ours,
    "ours, random start": _train_ours_random,
    "MONAI U-Net": _train_monai,
    "nnU-Net": _train_nnunet,
}
SIDES = {name: _side(train) for name, train in TRAINERS.items()} | {"source task": _source_task}


def _outcome(name: str, case: dict[str, Any]) -> Any:
    """What one training in a process of its own achieved; the reason where it failed."""
    try:
        with Side(__name__, name) as side:
            side.prepare(case, threads=1)
            return side.outcome()
    except SideFailed as error:
        return str(error)


def compare(rows: Rows, part: str, jobs: dict[tuple[str, str, int], dict[str, Any]], size, folder: Path) -> None:
    """Compare the outcomes of training.

    Parameters
    ----------
    rows : Rows
    part : str
    jobs : dict of (str, str, int) to dict
        What `_job` takes, by case, side and repeat.
    size : Size
    folder : Path
    """
    write_cohort(folder, size)
    trial = 4 if size.task_s < 1 else None  # steps, to see that all runs
    seconds = _outcome("source task", {"folder": str(folder), "steps": trial})
    if isinstance(seconds, str):
        raise SideFailed(seconds)
    rows.add(part, "source task, once", "CPU time", "ours", [seconds], unit="s")
    # One thread each, as many at a time as there are cores; sides take turns in this order.
    with ThreadPoolExecutor(size.cores) as pool:
        outcomes = pool.map(lambda key: _outcome(key[1], {"folder": str(folder), **jobs[key]}), jobs)
        for (case, name, repeat), outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, str):
                rows.missing(part, case, "Dice", {name: outcome})
                continue
            for quantity, value in outcome.items():
                rows.add(part, case, quantity, name, [value], first=repeat)


def run(rows: Rows, size, folder: Path) -> None:
    """Compare after equal time."""
    jobs = {
        (f"n = {n_train}", name, repeat): {"n_train": n_train, "repeat": repeat, "budget_s": size.task_s}
        for repeat in range(size.task_repeats)
        for n_train in size.task_n
        for name in TRAINERS
    }
    if jobs:
        compare(rows, PART, jobs, size, folder)
