"""The one training loop: every source task and every experiment of the target task goes through `fit`."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor, nn

from l3muscle.errors import L3MuscleError, reason_of


class TrainingError(L3MuscleError):
    """A training that cannot go on."""


class TrainingPaused(Exception):
    """A training that left its state and stopped, because its time was up; not an error."""


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

    def position(self) -> list[int]:
        """Where the task stands in its order of images; with the generator's state, all that decides what comes."""

    def resume(self, position: list[int]) -> None:
        """Go on from a `position`."""


class Checkpoint(Protocol):
    """Where `fit` leaves its state, such as `l3muscle.checkpoint.CheckpointFile`."""

    def due(self) -> bool:
        """Whether a state is wanted now."""

    def out_of_time(self) -> bool:
        """Whether the training has to leave its state and stop."""

    def save(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Keep a state, in place of the last one."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last state; None where there is none."""


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
    compiled: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class CurvePoint:
    """Losses at one validation: the training loss is the mean over the steps since the one before."""

    step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float | None = None  # of a task that has classes


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
    resumed_at : int
        Step of the checkpoint that the training went on from; 0 without one.
    seconds, validation_seconds : float
        Wall time of the loop since it started or went on, and the validations' part of it.
    """

    weights: dict[str, Tensor]
    best_step: int
    curve: tuple[CurvePoint, ...]
    stopped: str
    resumed_at: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0


def _learning_rate_factor(loop: Loop) -> Callable[[int], float]:
    if loop.schedule == "constant":
        return lambda step: 1.0
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / loop.max_steps, 1.0)))


def _autocast(loop: Loop) -> torch.autocast:
    return torch.autocast(loop.device, torch.bfloat16, enabled=loop.precision == "bf16")


def _for_steps(network: nn.Module, loop: Loop) -> Callable[[Tensor], Tensor]:
    """The network as a training step calls it; validations, of other sizes, call the network itself."""
    # Batches of a training have one shape, so that the graph of a GPU's step is recorded once.
    return torch.compile(network, mode="reduce-overhead", dynamic=False) if loop.compiled else network


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


def _dropout_state(device: str) -> dict[str, Tensor]:
    """States of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device != "cpu":
        states[device] = getattr(torch, device).get_rng_state()
    return states


def _set_dropout_state(device: str, states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device != "cpu":
        getattr(torch, device).set_rng_state(states[device])


class _Progress:
    """All of a training that changes from step to step."""

    def __init__(self, network: nn.Module, task: Task, loop: Loop, generator: Generator) -> None:
        self.network, self.task, self.loop, self.generator = network, task, loop, generator
        fused = loop.device in ("cpu", "cuda")
        self.optimiser = torch.optim.Adam(network.parameters(), lr=loop.learning_rate, fused=fused)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, _learning_rate_factor(loop))
        self.saturations = tuple(_Saturation(loop.min_improvement) for _ in range(2))
        self.best_loss, self.best_step = math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None
        self.curve: list[CurvePoint] = []
        self.resumed_at = 0

    def save(self, checkpoint: Checkpoint, step: int) -> None:
        """Hand over everything, as tensors and as values that JSON can hold."""
        optimiser = self.optimiser.state_dict()
        parts = {
            "network": self.network.state_dict(),
            "best": self.best_weights,
            "generator": {"task": self.generator.get_state()},
            "dropout": _dropout_state(self.loop.device),
            **{f"optimiser {place}": state for place, state in optimiser["state"].items()},
        }
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        values = {
            "step": step,
            "loop": asdict(self.loop),
            "groups": optimiser["param_groups"],
            "schedule": self.schedule.state_dict(),
            "saturations": [[saturation.best, saturation.stale] for saturation in self.saturations],
            "best": [self.best_loss, self.best_step],
            "curve": [asdict(point) for point in self.curve],
            "task": self.task.position(),
        }
        checkpoint.save(tensors, values)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from what `save` handed over, if that was a training like this one."""
        found = checkpoint.load()
        if found is None or found[1]["loop"] != asdict(self.loop):
            return
        tensors, values = found
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, own = name.split("/", 1)
            parts.setdefault(part, {})[own] = tensor
        self.network.load_state_dict(parts["network"])
        states = {int(part.split()[1]): state for part, state in parts.items() if part.startswith("optimiser ")}
        for place, parameter in enumerate(self.network.parameters()):
            for name in ("exp_avg", "exp_avg_sq"):
                # The fused optimiser walks through memory: the moments have to lie as the parameter does.
                states[place][name] = torch.empty_like(parameter, requires_grad=False).copy_(states[place][name])
        self.optimiser.load_state_dict({"state": states, "param_groups": values["groups"]})
        self.schedule.load_state_dict(values["schedule"])
        for saturation, (best, stale) in zip(self.saturations, values["saturations"], strict=True):
            saturation.best, saturation.stale = best, stale
        self.generator.set_state(parts["generator"]["task"])
        _set_dropout_state(self.loop.device, parts["dropout"])
        self.task.resume(values["task"])
        self.best_loss, self.best_step = values["best"]
        self.best_weights = parts["best"]
        self.curve = [CurvePoint(**point) for point in values["curve"]]
        self.resumed_at = values["step"]


def fit(
    network: nn.Module,
    task: Task,
    loop: Loop,
    *,
    generator: Generator,
    checkpoint: Checkpoint | None = None,
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
    checkpoint : Checkpoint, optional
        Keeps the state at validations, whenever it is due; a training that finds one goes on from it, to the same bits
        as if it had not been interrupted.
    on_validation : callable, optional
        Called with each point of the curve.

    Returns
    -------
    Fit

    Raises
    ------
    TrainingError
        If the loss is not finite before the first validation, the device is out of memory, or a step that is to be
        compiled cannot be. Once there are weights to keep, a loss that is not finite ends the training instead, and
        `Fit.stopped` says at which step.
    TrainingPaused
        If the checkpoint says that time is up, once the state is safe.
    """
    network.to(loop.device, memory_format=torch.channels_last).train()
    forward = _for_steps(network, loop)
    progress = _Progress(network, task, loop, generator)
    if checkpoint is not None:
        progress.load(checkpoint)
    train_saturation, validation_saturation = progress.saturations
    accuracy = getattr(task, "accuracy", None)
    stopped = "max_steps"
    started, validation_seconds = time.perf_counter(), 0.0
    # Kept on the device until the next validation: reading a loss at every step would make a GPU wait for the CPU.
    losses: list[Tensor] = []
    batches: list[str] = []
    try:
        for step in range(progress.resumed_at + 1, loop.max_steps + 1):
            inputs, target = task.training_batch(generator)
            inputs, target = inputs.to(loop.device), target.to(loop.device)
            with _autocast(loop):
                output = forward(inputs)
            loss = task.loss(output, target)
            losses.append(loss.detach())
            batches.append(task.describe_batch())
            # On the CPU the loss is at hand, so that a bad one stops the training before it spoils the weights.
            if loop.device != "cpu" or math.isfinite(loss.item()):
                progress.optimiser.zero_grad()
                loss.backward()
                progress.optimiser.step()
                progress.schedule.step()
                if step % loop.validate_every and step != loop.max_steps:
                    continue
            values = torch.stack(losses).tolist()
            steps_ended = time.perf_counter()
            first = step - len(values) + 1
            bad = next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
            if bad is None:
                point = CurvePoint(
                    step,
                    math.fsum(values) / len(values),
                    validation_loss(network, task, loop),
                    None if accuracy is None else accuracy(network, loop.device),
                )
                where = None if math.isfinite(point.validation_loss) else f"step {step} (validation)"
            else:
                where = f"step {first + bad} ({batches[bad]})"
            if where is not None:
                if progress.best_weights is None:
                    raise TrainingError(
                        f"the loss is not finite at {where}, with a learning rate of {loop.learning_rate:g}; lower the "
                        "learning rate or look at these images"
                    )
                stopped = f"diverged at {where}"
                break
            losses.clear()
            batches.clear()
            validation_seconds += time.perf_counter() - steps_ended
            progress.curve.append(point)
            if on_validation is not None:
                on_validation(point)
            if point.validation_loss < progress.best_loss:
                progress.best_loss, progress.best_step = point.validation_loss, step
                progress.best_weights = {
                    name: value.cpu().clone(memory_format=torch.contiguous_format)
                    for name, value in network.state_dict().items()
                }
            stale = (train_saturation.update(point.train_loss), validation_saturation.update(point.validation_loss))
            if min(stale) >= loop.patience:
                stopped = "saturated"
                break
            if checkpoint is None or step == loop.max_steps:
                continue
            if checkpoint.out_of_time():
                progress.save(checkpoint, step)
                raise TrainingPaused(step)
            if checkpoint.due():
                progress.save(checkpoint, step)
    except RuntimeError as error:
        if loop.compiled and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise TrainingError(
                f"the training step could not be compiled; set training.compiled to false ({reason_of(error)})"
            ) from None
        # torch.OutOfMemoryError for CUDA; Apple's backend only says so in words.
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise
        raise TrainingError(
            "the GPU ran out of memory; lower the batch size (training.batch_size, or that of the source task) or "
            f"image.shape in the profile ({reason_of(error)})"
        ) from None
    return Fit(
        progress.best_weights,
        progress.best_step,
        tuple(progress.curve),
        stopped,
        progress.resumed_at,
        time.perf_counter() - started,
        validation_seconds,
    )
