"""One training step: ours beside the bare network, a loop as in torchvision's references, and MONAI's trainer.

All sides train the same network on batches of the same size and number format, by Adam. *Bare* is forward, loss,
backward and step on one batch that lies ready: what is left of a step when the loop costs nothing. The others draw
their batches, augment them as their makers do, and log what they log. For ResNet-50 and -101 the network of all but
ours is torchvision's own FCN.
"""

from collections.abc import Callable
from pathlib import Path

from harness import Rows, Sides, Work

PART = "training_step"
SLICES = 12  # in the training set of every side


def _peer_network(backbone: str, width: int, stride: int):
    """torchvision's own network where there is one."""
    import torch

    from l3muscle.models import build_fcn

    torch.manual_seed(0)
    if backbone not in ("resnet50", "resnet101"):
        return build_fcn(backbone, width=width, output_stride=stride)
    from torchvision.models import segmentation

    class OneOutput(torch.nn.Module):
        """torchvision's network without the dictionary around its output."""

        def __init__(self) -> None:
            super().__init__()
            made = getattr(segmentation, f"fcn_{backbone}")
            self.fcn = made(weights=None, weights_backbone=None, num_classes=1, aux_loss=False)

        def forward(self, x):
            return self.fcn(x)["out"]

    return OneOutput()


def _slices(shape: tuple[int, int]):
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(SLICES, 1, *shape, generator=generator)
    return images, (images > 0.5).float()


def _autocast(precision: str):
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def ours(backbone, width, stride, shape, batch, precision, steps) -> Work:
    """`l3muscle.training.fit` with its setting up and keeping the best weights; its validation is taken off."""
    import torch

    from l3muscle.experiment import SegmentationTask
    from l3muscle.models import build_fcn
    from l3muscle.profile import load_profile
    from l3muscle.runtime import keep_freed_memory
    from l3muscle.training import Loop, fit

    keep_freed_memory()
    images, masks = _slices(shape)
    network = build_fcn(backbone, width=width, output_stride=stride)
    profile = load_profile("paper", training={"batch_size": batch})
    task = SegmentationTask(images, masks, images[:1], masks[:1], profile)
    loop = Loop(
        learning_rate=1e-3,
        max_steps=steps,
        validate_every=steps,
        patience=9,
        min_improvement=0.0,
        precision=precision,
    )
    generator = torch.Generator().manual_seed(0)
    return Work(lambda: fit(network, task, loop, generator=generator).validation_seconds, steps)


def bare(backbone, width, stride, shape, batch, precision, steps) -> Work:
    """Forward, loss, backward and step."""
    import torch

    from l3muscle.losses import BCEDiceLoss

    network = _peer_network(backbone, width, stride).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    criterion = BCEDiceLoss()
    images, masks = (tensor[:batch] for tensor in _slices(shape))
    inputs = images.repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        for _ in range(steps):
            with _autocast(precision):
                output = network(inputs)
            loss = criterion(output, masks)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return Work(run, steps)


def torchvision_loop(backbone, width, stride, shape, batch, precision, steps) -> Work:
    """As in torchvision's `references/segmentation`: its presets, a DataLoader, binary cross-entropy, a step's rate.

    The reference draws a size, flips and crops; here at the size of the case. Without worker processes, as the other
    sides have none.
    """
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    images, masks = _slices(shape)
    crop = v2.Compose(
        [
            v2.RandomResize(min(shape) // 2, 2 * min(shape)),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(shape, pad_if_needed=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )

    class Slices(Dataset):
        def __len__(self) -> int:
            return batch * steps

        def __getitem__(self, index: int):
            image, mask = images[index % SLICES].repeat(3, 1, 1), masks[index % SLICES]
            both = crop(tv_tensors.Image(image), tv_tensors.Mask(mask))
            return tuple(part.as_subclass(torch.Tensor) for part in both)

    network = _peer_network(backbone, width, stride).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, total_iters=10**6, power=0.9)
    criterion = torch.nn.BCEWithLogitsLoss()
    loader = DataLoader(Slices(), batch_size=batch, shuffle=True, drop_last=True)

    def run() -> None:
        for image, target in loader:
            with _autocast(precision):
                loss = criterion(network(image), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            loss.item()  # its logger reads the loss at every step

    return Work(run, steps)


def monai_warp(keys: tuple[str, str], shape: tuple[int, int], probability: float):
    """MONAI's rotation, scaling and elastic deformation, about as strong as the paper's."""
    from monai.transforms import Rand2DElasticd

    return Rand2DElasticd(
        keys,
        spacing=tuple(side / 3 for side in shape),
        magnitude_range=(0, 0.1 * min(shape)),
        rotate_range=0.35,
        scale_range=(0.1, 0.1),
        padding_mode="zeros",
        prob=probability,
    )


def monai_trainer(backbone, width, stride, shape, batch, precision, steps) -> Work:
    """MONAI's SupervisedTrainer, with its dictionary transforms, cached data set, loss and data loader."""
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.engines import SupervisedTrainer
    from monai.losses import DiceCELoss
    from monai.transforms import Compose, NormalizeIntensityd, RandFlipd, RepeatChanneld

    images, masks = _slices(shape)
    keys = ("image", "label")
    transforms = Compose(
        [
            RandFlipd(keys, spatial_axis=1, prob=0.5),
            monai_warp(keys, shape, 0.5),
            RepeatChanneld("image", 3),
            NormalizeIntensityd("image", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channel_wise=True),
        ]
    )
    members = [{"image": images[index % SLICES], "label": masks[index % SLICES]} for index in range(batch * steps)]
    loader = DataLoader(CacheDataset(members, transforms, progress=False), batch_size=batch, shuffle=True)
    network = _peer_network(backbone, width, stride)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    half = {"amp": True, "amp_kwargs": {"dtype": torch.bfloat16, "device_type": "cpu"}} if precision == "bf16" else {}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=loader,
        network=network,
        optimizer=optimiser,
        loss_function=DiceCELoss(sigmoid=True),
        **half,
    )
    return Work(trainer.run, steps)


SIDES: dict[str, Callable[..., Work]] = {
    "ours": ours,
    "bare network": bare,
    "torchvision loop": torchvision_loop,
    "MONAI trainer": monai_trainer,
}


def _cases(size) -> dict[str, tuple[dict, int]]:
    """Settings and threads of every case."""
    from l3muscle.runtime import resolve_precision

    names = ("backbone", "width", "stride", "shape", "batch", "steps")
    cases = {}
    for *values, threads in size.networks:
        given = dict(zip(names, values, strict=True))
        rows, columns = given["shape"]
        name = f"{given['backbone'].replace('resnet', 'ResNet-')}, {rows} x {columns}, batch {given['batch']}"
        cores = "one core" if threads == 1 else f"{threads} cores"
        precisions = {"fp32", resolve_precision("auto", "cpu")} if given["width"] == 64 else {"fp32"}
        for precision in sorted(precisions, reverse=True):
            cases[f"{name}, {precision}, {cores}"] = ({**given, "precision": precision}, threads)
    return cases


def run(rows: Rows, size, folder: Path) -> None:
    """Compare the training steps."""
    for case, (given, threads) in _cases(size).items():
        # New processes for every case: what one left in memory would count in the next.
        with Sides(__name__, SIDES) as sides:
            seconds = sides.alternate(sides.prepare(given, threads), rounds=size.rounds, block_s=size.block_s)
            rows.add_times(PART, case, "time a step", seconds, sides.failed)
