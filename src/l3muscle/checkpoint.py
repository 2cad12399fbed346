"""Where a long training keeps its state, so that one that was killed goes on from there: one file, whole or absent."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from l3muscle.drafts import drafted, remove_abandoned
from l3muscle.segmenter.model_file import tensor_digest

SAVE_EVERY_S = 60.0


class CheckpointFile:
    """The state of one training, as `l3muscle.training.fit` hands it over.

    Parameters
    ----------
    path : Path
        Of a safetensors file; its folder is made with the first state. Named after the training's identity: a state
        is only ever offered to the training that left it.
    every_s : float
        Seconds between two states. A training that is shorter leaves nothing.
    deadline : float, optional
        When the training has to leave its state and stop, as `time.time()` counts: the one clock that machines share.
    """

    def __init__(self, path: Path, *, every_s: float = SAVE_EVERY_S, deadline: float | None = None) -> None:
        self.path, self.every_s, self.deadline = path, every_s, deadline
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next state."""
        return time.monotonic() - self._last >= self.every_s

    def out_of_time(self) -> bool:
        """Whether the training has to stop."""
        return self.deadline is not None and time.time() >= self.deadline

    def save(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Write a state in place of the last one. A full disk costs the state, not the training."""
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        header = {"values": json.dumps(values)}
        with suppress(OSError, SafetensorError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with drafted(self.path) as draft:
                save_file(tensors, draft, metadata={**header, "sha256": tensor_digest(tensors, header)})
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last state; None where there is none, or it is damaged."""
        try:
            with safe_open(self.path, framework="pt") as archive:
                header = archive.metadata() or {}
                tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a dict)
            if tensor_digest(tensors, header) != header.get("sha256"):
                return None
            return tensors, json.loads(header["values"])
        except (OSError, SafetensorError, KeyError, ValueError, RecursionError):
            return None

    def remove(self) -> None:
        """Forget the state, of a training whose outcome is safe."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            remove_abandoned(self.path.parent, self.path.name)
            self.path.parent.rmdir()
