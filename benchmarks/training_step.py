"""One training step: ours beside the bare network, a loop as in torchvision's references, and MONAI's trainer.

All sides train the same network on batches of the same size and number format, by Adam. *Bare* is forward, loss,
backward and step on one batch that lies ready: what is left of a step when the loop costs nothing. The others draw
their batches, augment them as their makers do, and keep their books. For ResNet-50 the network of all but ours is
torchvision's own FCN.

Beside them a large matrix product is timed, in the same rounds: its rate is what the machine can do, and a step's
floating-point operations over its time are what is made of it.
"""

from collections.abc import Callable
from pathlib import Path

from harness import Rows, SideFailed, Sides, Work

PART = "training step"
MATRIX = 2048
SLICES = 12  # in the training set of every side


def _network(backbone: str, width: int, stride: int, *, peer: bool):
    """The network of a case; `peer` asks for torchvision's own where there is one."""
    import torch

    from l3muscle.models import build_fcn

    torch.manual_seed(0)
    if not peer or backbone not in ("resnet50", "resnet101"):
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


def _autocast(precision: str, device: str):
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def ours(backbone, width, stride, shape, batch, precision, steps, device, *, compiled=False) -> Work:
    """`l3muscle.training.fit` with its setting up and keeping the best weights; its validation is taken off."""
    import torch

    from l3muscle.profile import TrainingSettings, load_profile
    from l3muscle.runtime import keep_freed_memory
    from l3muscle.target_task import MuscleSegmentation
    from l3muscle.training import Loop, fit

    keep_freed_memory()
    images, masks = (tensor.to(device) for tensor in _slices(shape))
    network = _network(backbone, width, stride, peer=False)
    settings = TrainingSettings(batch_size=batch)
    task = MuscleSegmentation(images, masks, images[:1], masks[:1], settings, load_profile("paper").augmentation)
    loop = Loop(
        learning_rate=1e-3,
        max_steps=steps,
        validate_every=steps,
        patience=9,
        precision=precision,
        compiled=compiled,
        device=device,
    )
    generator = torch.Generator().manual_seed(0)
    return Work(lambda: fit(network, task, loop, generator=generator).validation_seconds, steps)


def ours_compiled(backbone, width, stride, shape, batch, precision, steps, device) -> Work:
    """The same with `training.compiled`; compiling happens once, before anything is timed."""
    return ours(backbone, width, stride, shape, batch, precision, steps, device, compiled=True)


def bare(backbone, width, stride, shape, batch, precision, steps, device) -> Work:
    """Forward, loss, backward and step; the outcome is the floating-point operations of one step."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from l3muscle.losses import BCEDiceLoss

    network = _network(backbone, width, stride, peer=True).to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    criterion = BCEDiceLoss()
    images, masks = (tensor[:batch].to(device) for tensor in _slices(shape))
    inputs = images.repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with _autocast(precision, device):
            output = network(inputs)
        loss = criterion(output, masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def run() -> None:
        for _ in range(steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    def operations() -> int:
        with FlopCounterMode(display=False) as counter:
            step()
        return counter.get_total_flops()

    return Work(run, steps, operations)


def torchvision_loop(backbone, width, stride, shape, batch, precision, steps, device) -> Work:
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
            place = index % SLICES
            image, mask = tv_tensors.Image(images[place].repeat(3, 1, 1)), tv_tensors.Mask(masks[place])
            return tuple(part.as_subclass(torch.Tensor) for part in crop(image, mask))

    network = _network(backbone, width, stride, peer=True).to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, total_iters=10**6, power=0.9)
    criterion = torch.nn.BCEWithLogitsLoss()
    loader = DataLoader(Slices(), batch_size=batch, shuffle=True, drop_last=True)

    def run() -> None:
        for image, target in loader:
            image, target = image.to(device), target.to(device)
            with _autocast(precision, device):
                loss = criterion(network(image), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            loss.item()  # its logger reads the loss at every step

    return Work(run, steps)


def monai_trainer(backbone, width, stride, shape, batch, precision, steps, device) -> Work:
    """MONAI's SupervisedTrainer, with its dictionary transforms, cached data set, loss and data loader."""
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.engines import SupervisedTrainer
    from monai.losses import DiceCELoss
    from monai.transforms import Compose, NormalizeIntensityd, Rand2DElasticd, RandFlipd, RepeatChanneld

    images, masks = _slices(shape)
    keys = ("image", "label")
    transforms = Compose(
        [
            RandFlipd(keys, spatial_axis=1, prob=0.5),
            Rand2DElasticd(
                keys,
                spacing=tuple(side / 3 for side in shape),
                magnitude_range=(0, 0.1 * min(shape)),
                rotate_range=0.35,
                scale_range=(0.1, 0.1),
                padding_mode="zeros",
                prob=0.5,
            ),
            RepeatChanneld("image", 3),
            NormalizeIntensityd("image", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channel_wise=True),
        ]
    )
    members = [{"image": images[place % SLICES], "label": masks[place % SLICES]} for place in range(batch * steps)]
    loader = DataLoader(CacheDataset(members, transforms, progress=False), batch_size=batch, shuffle=True)
    network = _network(backbone, width, stride, peer=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    half = {"amp": True, "amp_kwargs": {"dtype": torch.bfloat16, "device_type": device}} if precision == "bf16" else {}
    trainer = SupervisedTrainer(
        device=torch.device(device),
        max_epochs=1,
        train_data_loader=loader,
        network=network,
        optimizer=optimiser,
        loss_function=DiceCELoss(sigmoid=True),
        **half,
    )
    return Work(trainer.run, steps)


def matrix_product(backbone, width, stride, shape, batch, precision, steps, device) -> Work:
    """Two square matrices; a unit is one floating-point operation."""
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.rand(MATRIX, MATRIX, device=device).to(kind) for _ in range(2))
    out = torch.empty(MATRIX, MATRIX, device=device, dtype=kind)

    def run() -> None:
        torch.matmul(left, right, out=out)
        if device == "cuda":
            torch.cuda.synchronize()

    return Work(run, 2 * MATRIX**3)


PRODUCT = "matrix product"
COMPILED = "ours, compiled"
SIDES: dict[str, Callable[..., Work]] = {
    "ours": ours,
    COMPILED: ours_compiled,
    "bare network": bare,
    "torchvision loop": torchvision_loop,
    "MONAI trainer": monai_trainer,
    PRODUCT: matrix_product,
}


def _cases(size) -> dict[str, tuple[dict, int]]:
    """Settings and threads of every case."""
    import torch

    from l3muscle.runtime import resolve_precision

    cases = {}
    for backbone, width, stride, shape, batch, steps, threads in size.networks:
        name = f"{backbone.replace('resnet', 'ResNet-')}, {shape[0]} x {shape[1]}, batch {batch}"
        given = {"backbone": backbone, "width": width, "stride": stride, "shape": shape, "batch": batch}
        precisions = ["fp32"]
        if width == 64 and resolve_precision("auto", "cpu") == "bf16":
            precisions.append("bf16")
        for precision in precisions:
            whole = {**given, "precision": precision, "steps": steps, "device": "cpu"}
            cores = "one core" if threads == 1 else f"{threads} cores"
            cases[f"{name}, {precision}, {cores}"] = (whole, threads)
    if torch.cuda.is_available():
        given = {"backbone": "resnet101", "width": 64, "stride": 8, "shape": (512, 512), "batch": 4, "steps": 10}
        cases["ResNet-101, 512 x 512, batch 4, bf16, GPU"] = (
            {**given, "precision": "bf16", "device": "cuda"},
            size.cores,
        )
    return cases


def run(rows: Rows, size, folder: Path) -> None:
    """Compare the training steps."""
    for case, (given, threads) in _cases(size).items():
        # New processes for every case: what one left in memory would count in the next.
        # Compiling takes minutes, and gains a CPU next to nothing.
        names = [name for name in size.sides_of(SIDES) if name != COMPILED or given["device"] == "cuda"]
        with Sides(__name__, names) as sides:
            units, failed = sides.prepare(given, threads)
            seconds, late = sides.alternate(units, rounds=size.rounds, block_s=size.block_s)
            for name, why in {**failed, **late}.items():
                rows.missing(PART, case, "time a step", name, why, unit="ms")
            product = seconds.pop(PRODUCT, [])
            for name, taken in seconds.items():
                rows.add(PART, case, "time a step", name, (1e3 * value for value in taken), unit="ms")
            if product:
                rates = (1e-9 / value for value in product)
                rows.add(PART, case, "rate", PRODUCT, rates, unit="GFLOP/s", better="higher")
            # Counted after all timing: counting makes a step slow.
            for name in seconds:
                try:
                    peak = sides[name].ask("peak") / 2**20
                except SideFailed as error:
                    rows.missing(PART, case, "peak memory", name, str(error), unit="MiB")
                else:
                    rows.add(PART, case, "peak memory", name, [peak], unit="MiB")
            if product and "bare network" in seconds:
                operations = sides["bare network"].ask("outcome")
                for name, taken in seconds.items():
                    shares = [operations * one / step for one, step in zip(product, taken, strict=True)]
                    rows.add(PART, case, "share of the matrix rate", name, shares, better="higher")
