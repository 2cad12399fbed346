"""A trained segmenter as one self-describing file: safetensors whose header holds how to build and feed it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.models import FCN, build_fcn
from l3muscle.preprocess import frame_of, prepare_image, restore_mask, to_network_input
from l3muscle.profile import ImageSettings, NetworkSettings

FORMAT = "l3muscle-model-1"


class ModelFileError(L3MuscleError):
    """A model file that is absent, damaged or of another kind."""


@dataclass(frozen=True)
class Segmenter:
    """A network with its preprocessing.

    Attributes
    ----------
    network : FCN
        In evaluation mode.
    image : ImageSettings
    about : dict
        Where it comes from: profile, cohort, experiment, validation loss.
    """

    network: FCN
    image: ImageSettings
    about: dict[str, Any]

    def predict(self, hu: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
        """Outline muscle in one slice: (H, W) HU -> (H, W) bool, on the slice's own grid."""
        frame = frame_of(hu, spacing, self.image)
        inputs = to_network_input(prepare_image(hu, frame, self.image)[None])
        with torch.inference_mode():
            logits = self.network(inputs)[0]
        return restore_mask(logits, frame, hu.shape)


def tensor_digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes of named tensors, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_model(
    path: Path, weights: dict[str, Tensor], network: NetworkSettings, image: ImageSettings, about: dict[str, Any]
) -> None:
    """Write a model file.

    Parameters
    ----------
    path : Path
        Ending in `.safetensors`.
    weights : dict of str to Tensor
        State dict of the FCN that `network` describes.
    network, image
        Settings it was trained with.
    about : dict
        Anything JSON can hold.

    Raises
    ------
    ModelFileError
        If it cannot be written.
    """
    header = {
        "format": FORMAT,
        "network": network.model_dump_json(),
        "image": image.model_dump_json(),
        "about": json.dumps(about),
        "sha256": tensor_digest(weights),
    }
    draft = path.with_name(f".{path.name}.draft")
    try:
        save_file(weights, draft, metadata=header)
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise ModelFileError(f"cannot write {path}: {reason_of(error)}") from None


def load_model(path: Path) -> Segmenter:
    """Read a model file; nothing in it is executed.

    Raises
    ------
    ModelFileError
        If it is absent, not a safetensors file, not made by `save_model`, or its tensors do not match their checksum.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}; `make book` leaves one at runs/laptop/model.safetensors")
    try:
        with safe_open(path, framework="pt") as archive:
            header = archive.metadata() or {}
            weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} cannot be read as a model: {error}") from None
    if header.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a model of this package (its header lacks 'format: {FORMAT}')")
    if tensor_digest(weights) != header.get("sha256"):
        raise ModelFileError(f"{path} is damaged: its tensors do not match their checksum")
    try:
        settings = NetworkSettings.model_validate_json(header["network"])
        image = ImageSettings.model_validate_json(header["image"])
        network = build_fcn(settings.backbone, width=settings.width, output_stride=settings.output_stride)
        network.load_state_dict(weights)
        about = json.loads(header["about"])
    except (KeyError, ValueError, ValidationError, RuntimeError) as error:
        raise ModelFileError(f"{path} does not describe its network soundly: {' '.join(str(error).split())}") from None
    return Segmenter(network.eval().to(memory_format=torch.channels_last), image, about)
