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
"""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, Side, SideFailed, Work

PART = "task"
PROFILE = "laptop"
TRIAL_STEPS = 4
JOB_S = 1800
OURS_RANDOM = "ours, random start"


def write_slices(folder: Path, train: int, test: int, size: int) -> None:
    """Draw the slices and train the source task, once for all."""
    import torch

    from l3muscle.phantom.patients import phantom_slice
    from l3muscle.preprocess import frame_of, prepare_image, prepare_mask
    from l3muscle.profile import load_profile

    settings = load_profile(PROFILE).image
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        phantoms = list(pool.map(lambda seed: phantom_slice(1000 + seed, size=size), range(train + test)))
    frames = [frame_of(phantom.hu, phantom.spacing, settings) for phantom in phantoms]
    both = list(zip(phantoms, frames, strict=True))
    np.savez(
        folder / "slices.npz",
        images=torch.stack([prepare_image(p.hu, frame, settings) for p, frame in both]).numpy(),
        masks=torch.stack([prepare_mask(p.mask, frame, settings) for p, frame in both]).numpy(),
        frames=np.array([[f.top, f.bottom, f.left, f.right] for f in frames]),
        full_masks=np.stack([p.mask for p in phantoms]),
        hu=np.stack([p.hu for p in phantoms]),
        spacing=np.array([p.spacing for p in phantoms]),
        test=np.array(test),
    )


def _chosen(data: dict[str, np.ndarray], n_train: int, repeat: int) -> list[int]:
    """The training slices: another draw for every repeat, the same for every side, the smaller inside the larger."""
    pool = len(data["images"]) - int(data["test"])
    return random.Random(repeat).sample(range(pool), pool)[:n_train]


def _dice(data: dict[str, np.ndarray], logits: np.ndarray) -> list[float]:
    """Dice of every test slice, from logits at network size (n_test, 1, rows, columns)."""
    import torch

    from l3muscle.metrics import dice
    from l3muscle.preprocess import Frame, restore_mask

    first = len(data["images"]) - int(data["test"])
    scores = []
    for place, own in enumerate(torch.from_numpy(logits), first):
        ref = data["full_masks"][place]
        scores.append(dice(restore_mask(own, Frame(*map(int, data["frames"][place])), ref.shape), ref))
    return scores


def _load(folder: str) -> dict[str, np.ndarray]:
    with np.load(Path(folder) / "slices.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def _job(train, folder: str, n_train: int, repeat: int, budget_s: float) -> Work:
    """Work whose outcome is what a training on these slices achieved."""

    def outcome() -> dict[str, Any]:
        data = _load(folder)
        started = time.perf_counter()
        logits, seconds, steps = train(data, _chosen(data, n_train, repeat), budget_s, Path(folder), repeat)
        return {
            "dice": float(np.mean(_dice(data, logits))),
            "cpu": seconds,
            "steps": steps,
            "whole": time.perf_counter() - started,
        }

    return Work(lambda: None, 1, outcome)


def train_source(folder: str, budget_s: float, **_: Any) -> Work:
    """The procedural segmentation source task of the profile; its outcome is the CPU time of its training."""

    def outcome() -> float:
        import torch

        from l3muscle.models import build_fcn
        from l3muscle.pretext.scenes import ProceduralSegmentation
        from l3muscle.profile import load_profile
        from l3muscle.training import Loop, fit

        profile = load_profile(PROFILE)
        settings = profile.sources.procedural_segmentation
        if budget_s < 5:  # a trial of the machinery
            settings = settings.model_copy(update={"steps": 4, "validate_every": 4, "validation_scenes": 2})
        torch.manual_seed(0)
        task = ProceduralSegmentation(settings, profile.image.shape, seed=0, device="cpu")
        network = build_fcn(
            profile.network.backbone,
            width=profile.network.width,
            output_stride=profile.network.output_stride,
            out_channels=task.out_channels,
        )
        loop = Loop(
            learning_rate=settings.learning_rate,
            max_steps=settings.steps,
            validate_every=settings.validate_every,
            patience=settings.patience,
            schedule=settings.schedule,
        )
        started = time.process_time()
        trained = fit(network, task, loop, generator=torch.Generator().manual_seed(0))
        torch.save(trained.weights, Path(folder) / "source.pt")
        return time.process_time() - started

    return Work(lambda: None, 1, outcome)


def _train_ours(data, chosen, budget_s, folder, repeat, *, pretrained: bool):
    import torch

    from l3muscle.models import build_fcn, transfer_weights
    from l3muscle.preprocess import to_network_input
    from l3muscle.profile import load_profile
    from l3muscle.runtime import keep_freed_memory
    from l3muscle.target_task import MuscleSegmentation
    from l3muscle.training import Loop, fit

    keep_freed_memory()
    profile = load_profile(PROFILE)
    images, masks = (torch.from_numpy(data[name][chosen]) for name in ("images", "masks"))
    # Validated once, at the end: the loop has nothing to choose from, and keeps its last weights.
    task = MuscleSegmentation(images, masks, images[:1], masks[:1], profile.training, profile.augmentation)
    rate = profile.training.learning_rate_fine_tune if pretrained else profile.training.learning_rate_random

    def trained(steps: int):
        torch.manual_seed(repeat)
        network = build_fcn(
            profile.network.backbone, width=profile.network.width, output_stride=profile.network.output_stride
        )
        if pretrained:
            transfer_weights(torch.load(folder / "source.pt", weights_only=True), network)
        loop = Loop(learning_rate=rate, max_steps=steps, validate_every=steps, patience=9, schedule="cosine")
        started = time.process_time()
        outcome = fit(network, task, loop, generator=torch.Generator().manual_seed(repeat))
        return network, outcome, time.process_time() - started

    trained(TRIAL_STEPS)
    step = trained(10 * TRIAL_STEPS)[2] / (10 * TRIAL_STEPS)
    steps = max(1, round(budget_s / step))
    network, outcome, seconds = trained(steps)
    network.load_state_dict(outcome.weights)
    network.eval()
    test = torch.from_numpy(data["images"][-int(data["test"]) :])
    with torch.inference_mode():
        return network(to_network_input(test)).numpy(), seconds, steps


def _train_monai(data, chosen, budget_s, folder, repeat):
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.transforms import Compose, DivisiblePad, DivisiblePadd, Rand2DElasticd, RandFlipd
    from monai.utils import set_determinism

    from l3muscle.profile import load_profile

    batch = load_profile(PROFILE).training.batch_size
    set_determinism(repeat)
    torch.use_deterministic_algorithms(False)
    keys, rows, columns = ("image", "label"), *data["images"].shape[-2:]
    transforms = Compose(
        [
            DivisiblePadd(keys, k=16),
            RandFlipd(keys, spatial_axis=1, prob=0.5),
            Rand2DElasticd(
                keys,
                spacing=(rows / 3, columns / 3),
                magnitude_range=(0, 0.1 * rows),
                rotate_range=0.35,
                scale_range=(0.1, 0.1),
                padding_mode="zeros",
                prob=0.75,
            ),
        ]
    )
    members = [
        {"image": torch.from_numpy(data["images"][place]), "label": torch.from_numpy(data["masks"][place])}
        for place in chosen
    ]
    loader = DataLoader(CacheDataset(members, transforms, progress=False), batch_size=batch, shuffle=True)
    network = UNet(2, 1, 1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = DiceCELoss(sigmoid=True)
    used = 0.0
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + np.cos(np.pi * min(used / budget_s, 1)))
    )
    steps, started = 0, time.process_time()
    while used < budget_s:
        for member in loader:
            loss = criterion(network(member["image"]), member["label"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps, used = steps + 1, time.process_time() - started
            schedule.step()
            if used >= budget_s:
                break
    network.eval()
    pad = DivisiblePad(k=16)
    top, left = ((-side % 16) // 2 for side in (rows, columns))
    with torch.inference_mode():
        padded = torch.stack([torch.as_tensor(pad(image)) for image in data["images"][-int(data["test"]) :]])
        logits = network(padded)[..., top : top + rows, left : left + columns]
    return logits.numpy(), used, steps


def _train_nnunet(data, chosen, budget_s, folder, repeat):
    """nnU-Net's own steps through its Python interface, in folders of its own."""
    import json

    import torch
    from skimage.io import imsave

    name = "Dataset001_L3"
    own = folder / f"nnunet-{len(chosen)}-{repeat}-{os.getpid()}"
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(own / variable)
        (own / variable).mkdir(parents=True)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "0"}
    raw = own / "nnUNet_raw" / name
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for number, place in enumerate(chosen):
        imsave(raw / "imagesTr" / f"slice{number:03d}_0000.tif", data["images"][place, 0], check_contrast=False)
        label = (data["masks"][place, 0] > 0.5).astype(np.uint8)
        imsave(raw / "labelsTr" / f"slice{number:03d}.tif", label, check_contrast=False)
    about = {
        "channel_names": {"0": "windowed CT"},
        "labels": {"background": 0, "muscle": 1},
        "numTraining": len(chosen),
        "file_ending": ".tif",
    }
    (raw / "dataset.json").write_text(json.dumps(about))

    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess_dataset,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    extract_fingerprints([1], num_processes=1)
    plan_experiments([1])
    preprocess_dataset(1, configurations=("2d",), num_processes=(1,))
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # in this process, where its time counts; the planner takes no 0
    torch.set_num_threads(1)  # the planner has changed it
    torch.manual_seed(repeat)
    np.random.seed(repeat)
    device = torch.device("cpu")
    trainer = get_trainer_from_args(name, "2d", "all", device=device)
    trainer.disable_checkpointing = True
    trainer.on_train_start()

    def step() -> None:
        trainer.train_step(next(trainer.dataloader_train))

    step()
    started = time.process_time()
    for _ in range(TRIAL_STEPS):
        step()
    steps = max(1, round(budget_s / ((time.process_time() - started) / TRIAL_STEPS)))
    # From the start again, with its schedule stretched over the steps that there is time for.
    trainer = get_trainer_from_args(name, "2d", "all", device=device)
    trainer.disable_checkpointing = True
    trainer.num_epochs = steps
    trainer.on_train_start()
    trainer.network.train()
    started = time.process_time()
    for number in range(steps):
        trainer.lr_scheduler.step(number)
        trainer.train_step(next(trainer.dataloader_train))
    seconds = time.process_time() - started
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
    logits = []
    for image in data["images"][-int(data["test"]) :]:
        _, probability = predictor.predict_single_npy_array(
            image[:, None], {"spacing": [999, 1, 1]}, save_or_return_probabilities=True
        )
        muscle = np.clip(np.asarray(probability[1, 0], dtype=np.float64), 1e-6, 1 - 1e-6)
        logits.append(np.log(muscle / (1 - muscle)).astype(np.float32)[None])
    return np.stack(logits), seconds, steps


def _ours(data, chosen, budget_s, folder, repeat):
    return _train_ours(data, chosen, budget_s, folder, repeat, pretrained=True)


def _ours_random(data, chosen, budget_s, folder, repeat):
    return _train_ours(data, chosen, budget_s, folder, repeat, pretrained=False)


TRAINERS = {"ours": _ours, OURS_RANDOM: _ours_random, "MONAI U-Net": _train_monai, "nnU-Net": _train_nnunet}
SIDES = {name: lambda train=train, **case: _job(train, **case) for name, train in TRAINERS.items()}
SIDES["source task"] = train_source


def _one(name: str, case: dict) -> Any:
    """One training in a process of its own."""
    side = Side(__name__, name)
    try:
        side.ask("prepare", case, 1)
        return side.ask("outcome", seconds=JOB_S)
    finally:
        side.close()


def run(rows: Rows, size, folder: Path) -> None:
    """Compare the outcomes of training."""
    if not size.task_repeats:
        return
    most = max(size.task_n)
    write_slices(folder, 2 * most, size.task_test, size.image_size)
    given = {"folder": str(folder), "budget_s": size.task_s}
    source_seconds = _one("source task", given)
    rows.add(PART, "source task, once", "CPU time", "ours", [source_seconds], unit="s")
    jobs = [
        (name, n_train, repeat)
        for repeat in range(size.task_repeats)
        for n_train in size.task_n
        for name in size.sides_of(TRAINERS)
    ]

    def outcome(job: tuple[str, int, int]) -> dict | str:
        name, n_train, repeat = job
        try:
            return _one(name, {**given, "n_train": n_train, "repeat": repeat})
        except SideFailed as error:
            return str(error)

    # One thread each, as many at a time as there are cores; sides take turns in this order.
    with ThreadPoolExecutor(size.cores) as pool:
        outcomes = dict(zip(jobs, pool.map(outcome, jobs), strict=True))
    for n_train in size.task_n:
        for name in size.sides_of(TRAINERS):
            case = f"n = {n_train}"
            found = [outcomes[name, n_train, repeat] for repeat in range(size.task_repeats)]
            done = [one for one in found if isinstance(one, dict)]
            if not done:
                rows.missing(PART, case, "Dice", name, found[0], better="higher")
                continue
            note = "" if len(done) == len(found) else f"{len(found) - len(done)} of {len(found)} failed"
            rows.add(PART, case, "Dice", name, [one["dice"] for one in done], better="higher", note=note)
            rows.add(PART, case, "CPU time of training", name, [one["cpu"] for one in done], unit="s")
            rows.add(PART, case, "steps", name, [one["steps"] for one in done], better="higher")
            rows.add(PART, case, "time with all around it", name, [one["whole"] for one in done], unit="s")
