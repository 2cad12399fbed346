"""The one training loop: every source task and every model of the target task goes through `fit` (Section 2.3)."""

import hashlib
import io
import math
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.files import replaced

CHECKPOINT_EVERY_S = 60.0


class TrainingError(L3MuscleError):
    """A training that cannot go on."""


class TrainingPaused(L3MuscleError):
    """A training whose time was up; not a failure."""


class Shuffled:
    """Indices 0 to `count` - 1 in random order, each once before any comes again.

    Attributes
    ----------
    taken : list of int
        What `take` gave last.
    queue : list of int
        What comes before the next shuffling.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken: list[int] = []
        self.queue: list[int] = []

    def take(self, size: int, generator: Generator) -> list[int]:
        """The next `size` indices; the CPU's `generator` shuffles whenever they run out."""
        while len(self.queue) < size:
            self.queue += torch.randperm(self.count, generator=generator).tolist()
        self.taken, self.queue = self.queue[:size], self.queue[size:]
        return self.taken


class Task:
    """What a network learns: batches and a loss. A source task is a subclass in `l3muscle.pretext`.

    Attributes
    ----------
    order : Shuffled or None
        Of the images; None where every image is new.
    classes : int or None
        Of a task whose accuracy can be told.
    validation : sequence of (Tensor, Tensor)
        Batches for validation, of a task that keeps them as the network takes them.
    """

    order: Shuffled | None = None
    classes: int | None = None
    validation: Sequence[tuple[Tensor, Tensor]]

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Network input (N, 3, H, W) and its target."""
        raise NotImplementedError

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole validation set, the same at each call."""
        yield from self.validation

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar loss, a mean over the batch: cross-entropy of logits (N, classes, ...) unless a task overrides it."""
        return F.cross_entropy(output.float(), target)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Settings of one call of `fit`; the names are those of `l3muscle.settings.TrainingSettings`."""

    learning_rate: float
    max_steps: int
    validate_every: int
    patience: int
    min_improvement: float
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


class Checkpoint:
    """The state of a long training in one file, so that one that was interrupted goes on from there.

    Parameters
    ----------
    path : Path
        Named after the training's identity: a state is only ever offered to the training that left it.
    deadline : float, optional
        When the training has to leave its state and stop, as `time.time()` counts.
    every_s : float
        Seconds between two states. A training that is shorter leaves nothing.
    """

    def __init__(self, path: Path, *, deadline: float | None = None, every_s: float = CHECKPOINT_EVERY_S) -> None:
        self.path, self.deadline, self.every_s = path, deadline, every_s
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next state."""
        return time.monotonic() - self._last >= self.every_s

    def out_of_time(self) -> bool:
        """Whether the training has to stop."""
        return self.deadline is not None and time.time() >= self.deadline

    def save(self, state: dict[str, Any]) -> None:
        """Write a state in place of the last one. A full disk costs the state, not the training."""
        stream = io.BytesIO()
        torch.save(state, stream)
        content = stream.getvalue()
        with suppress(OSError), replaced(self.path) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last state; None where there is none, or it is damaged. Nothing in it is executed."""
        try:
            content = self.path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return torch.load(io.BytesIO(content[32:]), weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError):
            pass
        return None

    def remove(self) -> None:
        """Forget the state, of a training whose outcome is safe."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()


def _learning_rate_factor(loop: Loop) -> Callable[[int], float]:
    if loop.schedule == "constant":
        return lambda step: 1.0
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / loop.max_steps, 1.0)))


def _stale(losses: Iterable[float], min_improvement: float) -> int:
    """Number of validations since a loss last improved by more than `min_improvement`."""
    best, stale = math.inf, 0
    for loss in losses:
        if loss < best - min_improvement:
            best, stale = loss, 0
        else:
            stale += 1
    return stale


def _autocast(loop: Loop) -> torch.autocast:
    return torch.autocast(loop.device, torch.bfloat16, enabled=loop.precision == "bf16")


def validate(network: nn.Module, task: Task, loop: Loop) -> tuple[float, float | None]:
    """Mean loss over the validation set, each image weighing the same, and the share of it that is classified rightly.

    The share is None of a task without classes.
    """
    network.eval()
    total, right, count = 0.0, 0, 0
    with torch.inference_mode():
        for inputs, target in task.validation_batches():
            target = target.to(loop.device)
            with _autocast(loop):
                output = network(inputs.to(loop.device))
            total += task.loss(output, target).item() * len(inputs)
            if task.classes is not None:
                right += (output.argmax(1) == target).sum().item()
            count += len(inputs)
    network.train()
    return total / count, None if task.classes is None else right / count


class Training:
    """All of a training that changes from step to step; parameters as of `fit`."""

    def __init__(self, network: nn.Module, task: Task, loop: Loop, generator: Generator) -> None:
        self.network, self.task, self.loop, self.generator = network, task, loop, generator
        network.to(loop.device, memory_format=torch.channels_last).train()
        # Batches of a training have one shape, so that the graph of a GPU's step is recorded once.
        self.forward = torch.compile(network, mode="reduce-overhead", dynamic=False) if loop.compiled else network
        fused = loop.device in ("cpu", "cuda")
        self.optimiser = torch.optim.Adam(network.parameters(), lr=loop.learning_rate, fused=fused)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, _learning_rate_factor(loop))
        self.best_loss, self.best_step = math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None
        self.curve: list[CurvePoint] = []
        self.resumed_at = 0
        self.validation_seconds = 0.0
        # Kept on the device until the next validation: reading a loss at every step would make a GPU wait for the CPU.
        self.losses: list[Tensor] = []
        self.batches: list[str] = []

    def take_step(self) -> bool:
        """One step of Adam; whether the loss is known to be finite, without which nothing is changed."""
        inputs, target = (part.to(self.loop.device) for part in self.task.training_batch(self.generator))
        with _autocast(self.loop):
            output = self.forward(inputs)
        loss = self.task.loss(output, target)
        self.losses.append(loss.detach())
        order = self.task.order
        self.batches.append("generated images" if order is None else f"images {', '.join(map(str, order.taken))}")
        # On the CPU the loss is at hand, so that a bad one stops the training before it spoils the weights.
        if self.loop.device == "cpu" and not math.isfinite(loss.item()):
            return False
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        return True

    def validate(self, step: int) -> str | None:
        """Add a point to the curve, keep the best weights; why the training has to stop, or None."""
        values = torch.stack(self.losses).tolist()
        bad = next((index for index, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            return self._diverged(f"step {step - len(values) + 1 + bad} ({self.batches[bad]})")
        started = time.perf_counter()
        point = CurvePoint(step, math.fsum(values) / len(values), *validate(self.network, self.task, self.loop))
        self.validation_seconds += time.perf_counter() - started
        if not math.isfinite(point.validation_loss):
            return self._diverged(f"step {step} (validation)")
        self.losses.clear()
        self.batches.clear()
        self.curve.append(point)
        if point.validation_loss < self.best_loss:
            self.best_loss, self.best_step = point.validation_loss, step
            self.best_weights = {
                name: value.cpu().clone(memory_format=torch.contiguous_format)
                for name, value in self.network.state_dict().items()
            }
        losses = ([p.train_loss for p in self.curve], [p.validation_loss for p in self.curve])
        stale = min(_stale(one, self.loop.min_improvement) for one in losses)
        return "saturated" if stale >= self.loop.patience else None

    def _diverged(self, where: str) -> str:
        if self.best_weights is None:
            raise TrainingError(
                f"the loss is not finite at {where}, with a learning rate of {self.loop.learning_rate:g}; lower the "
                "learning rate or look at these images"
            )
        return f"diverged at {where}"

    def state(self, step: int) -> dict[str, Any]:
        """Everything, as `torch.save` takes it."""
        device = self.loop.device
        return {
            "step": step,
            "loop": asdict(self.loop),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": (self.best_loss, self.best_step, self.best_weights),
            "curve": [asdict(point) for point in self.curve],
            "queue": self.task.order.queue if self.task.order else [],
            "generator": self.generator.get_state(),
            # Dropout draws from torch's own generators.
            "dropout": torch.get_rng_state(),
            "dropout_device": None if device == "cpu" else getattr(torch, device).get_rng_state(),
        }

    def resume(self, state: dict[str, Any] | None) -> None:
        """Go on from a `state`, if it is that of a training like this one."""
        if state is None or state["loop"] != asdict(self.loop):
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.best_loss, self.best_step, self.best_weights = state["best"]
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        if self.task.order is not None:
            self.task.order.queue = state["queue"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["dropout"])
        if state["dropout_device"] is not None:
            getattr(torch, self.loop.device).set_rng_state(state["dropout_device"])
        self.resumed_at = state["step"]


@contextmanager
def _in_plain_words(loop: Loop) -> Iterator[None]:
    """Turn an exhausted memory, and a step that cannot be compiled, into a sentence."""
    try:
        yield
    except RuntimeError as error:
        if loop.compiled and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise TrainingError(
                f"the training step could not be compiled; set training.compiled to false ({reason_of(error)})"
            ) from None
        # torch.OutOfMemoryError for CUDA; elsewhere it is only said in words.
        said = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in said and "can't alloc" not in said:
            raise
        raise TrainingError(
            "the memory is exhausted; lower the batch size (training.batch_size, or that of the source task) or "
            f"image.shape in the profile ({reason_of(error)})"
        ) from None


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
        If the loss is not finite before the first validation, the memory is exhausted, or a step that is to be
        compiled cannot be. Once there are weights to keep, a loss that is not finite ends the training instead, and
        `Fit.stopped` says at which step.
    TrainingPaused
        If the checkpoint says that time is up, once the state is safe.
    """
    training = Training(network, task, loop, generator)
    if checkpoint is not None:
        training.resume(checkpoint.load())
    stopped, started = None, time.perf_counter()
    with _in_plain_words(loop):
        for step in range(training.resumed_at + 1, loop.max_steps + 1):
            if training.take_step() and step % loop.validate_every and step != loop.max_steps:
                continue
            points = len(training.curve)
            stopped = training.validate(step)
            if on_validation is not None and len(training.curve) > points:
                on_validation(training.curve[-1])
            if stopped is not None:
                break
            if checkpoint is None or step == loop.max_steps:
                continue
            out_of_time = checkpoint.out_of_time()
            if out_of_time or checkpoint.due():
                checkpoint.save(training.state(step))
            if out_of_time:
                raise TrainingPaused(f"the time was up at step {step}; the same command goes on from there")
    return Fit(
        training.best_weights,
        training.best_step,
        tuple(training.curve),
        stopped or "max_steps",
        training.resumed_at,
        time.perf_counter() - started,
        training.validation_seconds,
    )
