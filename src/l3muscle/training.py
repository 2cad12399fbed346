"""The one training loop: every source task and every experiment of the target task goes through `fit`."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor, nn

from l3muscle.errors import L3MuscleError, reason_of


class TrainingError(L3MuscleError):
    """A training that cannot go on."""


class Task(Protocol):
    """What `fit` asks of a task."""

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Network input (N, 3, H, W) and its target."""

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole validation set, the same at each call."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar loss, a mean over the batch."""

    def describe_batch(self) -> str:
        """What the last training batch held, for the message when its loss is not finite."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Settings of one call of `fit`; the names are those of `l3muscle.profile.TrainingSettings`."""

    learning_rate: float
    max_steps: int
    validate_every: int
    patience: int
    min_improvement: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"


@dataclass(frozen=True)
class CurvePoint:
    """Losses at one validation: the training loss is the mean over the steps since the one before."""

    step: int
    train_loss: float
    validation_loss: float


@dataclass(frozen=True)
class Fit:
    """Outcome of `fit`.

    Attributes
    ----------
    weights : dict of str to Tensor
        State dict, on the CPU, at the lowest validation loss.
    best_step : int
        Where that was.
    curve : tuple of CurvePoint
    stopped : str
        `"saturated"` (both losses), `"max_steps"`, or `"diverged at step ..."` with the batch named.
    """

    weights: dict[str, Tensor]
    best_step: int
    curve: tuple[CurvePoint, ...]
    stopped: str


def _learning_rate_factor(loop: Loop) -> Callable[[int], float]:
    if loop.schedule == "constant":
        return lambda step: 1.0
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / loop.max_steps, 1.0)))


def _autocast(loop: Loop) -> torch.autocast:
    return torch.autocast(loop.device, torch.bfloat16, enabled=loop.precision == "bf16")


class _Saturation:
    """Counts validations since a loss last improved by more than `min_improvement`."""

    def __init__(self, min_improvement: float) -> None:
        self.min_improvement = min_improvement
        self.best = math.inf
        self.stale = 0

    def update(self, loss: float) -> int:
        if loss < self.best - self.min_improvement:
            self.best, self.stale = loss, 0
        else:
            self.stale += 1
        return self.stale


def validation_loss(network: nn.Module, task: Task, loop: Loop) -> float:
    """Mean loss over the validation set, each image weighing the same."""
    network.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for inputs, target in task.validation_batches():
            with _autocast(loop):
                output = network(inputs.to(loop.device))
            total += task.loss(output, target.to(loop.device)).item() * len(inputs)
            count += len(inputs)
    network.train()
    return total / count


def fit(
    network: nn.Module,
    task: Task,
    loop: Loop,
    *,
    generator: Generator,
    on_validation: Callable[[CurvePoint], None] | None = None,
) -> Fit:
    """Train `network` with Adam until both losses have saturated, and keep its best weights (Section 2.3).

    Saturated means that neither the training nor the validation loss has fallen by `min_improvement` below its
    lowest value within the last `patience` validations.

    Parameters
    ----------
    network : nn.Module
        Trained in place; moved to `loop.device`.
    task : Task
    loop : Loop
    generator : torch.Generator
        Source of every random choice of the task. Dropout draws from torch's global generator.
    on_validation : callable, optional
        Called with each point of the curve.

    Returns
    -------
    Fit

    Raises
    ------
    TrainingError
        If the loss is not finite before the first validation, or the device is out of memory. Once there are weights to
        keep, a loss that is not finite ends the training instead, and `Fit.stopped` says at which step.
    """
    network.to(loop.device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=loop.learning_rate, fused=loop.device in ("cpu", "cuda"))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _learning_rate_factor(loop))
    train_saturation, validation_saturation = (_Saturation(loop.min_improvement) for _ in range(2))
    best_loss, best_step, best_weights = math.inf, 0, None
    curve: list[CurvePoint] = []
    stopped = "max_steps"
    # Kept on the device until the next validation: reading a loss at every step would make a GPU wait for the CPU.
    losses: list[Tensor] = []
    batches: list[str] = []
    try:
        for step in range(1, loop.max_steps + 1):
            inputs, target = task.training_batch(generator)
            inputs, target = inputs.to(loop.device), target.to(loop.device)
            with _autocast(loop):
                output = network(inputs)
            loss = task.loss(output, target)
            losses.append(loss.detach())
            batches.append(task.describe_batch())
            # On the CPU the loss is at hand, so that a bad one stops the training before it spoils the weights.
            if loop.device != "cpu" or math.isfinite(loss.item()):
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                if step % loop.validate_every and step != loop.max_steps:
                    continue
            values = torch.stack(losses).tolist()
            first = step - len(values) + 1
            bad = next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
            if bad is None:
                point = CurvePoint(step, math.fsum(values) / len(values), validation_loss(network, task, loop))
                where = None if math.isfinite(point.validation_loss) else f"step {step} (validation)"
            else:
                where = f"step {first + bad} ({batches[bad]})"
            if where is not None:
                if best_weights is None:
                    raise TrainingError(
                        f"the loss is not finite at {where}, with a learning rate of {loop.learning_rate:g}; lower the "
                        "learning rate or look at these images"
                    )
                stopped = f"diverged at {where}"
                break
            losses.clear()
            batches.clear()
            curve.append(point)
            if on_validation is not None:
                on_validation(point)
            if point.validation_loss < best_loss:
                best_loss, best_step = point.validation_loss, step
                best_weights = {
                    name: value.cpu().clone(memory_format=torch.contiguous_format)
                    for name, value in network.state_dict().items()
                }
            stale = (train_saturation.update(point.train_loss), validation_saturation.update(point.validation_loss))
            if min(stale) >= loop.patience:
                stopped = "saturated"
                break
    except RuntimeError as error:
        # torch.OutOfMemoryError for CUDA; Apple's backend only says so in words.
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise
        raise TrainingError(
            "the GPU ran out of memory; lower the batch size (training.batch_size, or that of the source task) or "
            f"image.shape in the profile ({reason_of(error)})"
        ) from None
    return Fit(best_weights, best_step, tuple(curve), stopped)
