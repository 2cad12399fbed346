"""A trained segmenter as one self-describing file: safetensors whose header holds how to build and feed it.

A file holds one network or an ensemble of them. `l3muscle-model-2` is one network under its own names; in
`l3muscle-ensemble-2` the names of each member begin with its number and a slash. The header's checksum is over tensors
and header alike: a display window or a width that changed on the disk would change every outline.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.files import replaced as drafted
from l3muscle.models import FCN, build_fcn
from l3muscle.preprocess import crop_of, prepare_image, restore_mask, to_network_input
from l3muscle.segmenter.flags import Calibration, pairwise_dice
from l3muscle.settings import ImageSettings, NetworkSettings
from l3muscle.study import StudyResults

FORMAT = "l3muscle-model-2"
ENSEMBLE_FORMAT = "l3muscle-ensemble-2"


class ModelFileError(L3MuscleError):
    """A model file that is absent, damaged or of another kind."""


class Outline(NamedTuple):
    """What a segmenter makes of a slice.

    Attributes
    ----------
    mask : ndarray, (H, W) bool
        On the slice's own grid.
    agreement : float or None
        Mean Dice between the members' outlines, at the network's resolution; None of a single network.
    """

    mask: np.ndarray
    agreement: float | None


@dataclass(frozen=True)
class Segmenter:
    """One or more networks with their preprocessing.

    Attributes
    ----------
    network : FCN
        In evaluation mode; of an ensemble, the first.
    image : ImageSettings
    about : dict
        Where it comes from: profile, cohort, experiment, validation loss.
    settings : NetworkSettings or None
        Of every member.
    others : tuple of FCN
        The other members of an ensemble.
    calibration : Calibration or None
        What its training slices say of slices to come.
    """

    network: FCN
    image: ImageSettings
    about: dict[str, Any]
    settings: NetworkSettings | None = None
    others: tuple[FCN, ...] = ()
    calibration: Calibration | None = field(default=None)

    @property
    def members(self) -> tuple[FCN, ...]:
        """All networks."""
        return (self.network, *self.others)

    def predict(self, hu: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
        """Outline muscle in one slice: (H, W) HU -> (H, W) bool, on the slice's own grid."""
        return self.outline([(hu, spacing)])[0].mask

    def outline(self, slices: Sequence[tuple[np.ndarray, tuple[float, float]]]) -> list[Outline]:
        """Outline muscle in several slices at once; an ensemble's outline is where its mean probability is above half.

        Parameters
        ----------
        slices : sequence of (hu, spacing)
            (H, W) HU, which may differ in size, and row and column spacing in mm.
        """
        frames = [crop_of(hu, spacing, self.image) for hu, spacing in slices]
        prepared = [prepare_image(hu, frame, self.image) for (hu, _), frame in zip(slices, frames, strict=True)]
        inputs = to_network_input(torch.stack(prepared))
        with torch.inference_mode():
            logits = torch.stack([network(inputs).float() for network in self.members])  # (K, N, 1, rows, columns)
        # Of a mean probability only on which side of one half it lies matters.
        merged = logits[0] if len(logits) == 1 else torch.sigmoid(logits).mean(0) - 0.5
        single = len(logits) == 1
        return [
            Outline(
                restore_mask(merged[place], frame, hu.shape),
                None if single else pairwise_dice((logits[:, place, 0] > 0).numpy()),
            )
            for place, ((hu, _), frame) in enumerate(zip(slices, frames, strict=True))
        ]


def tensor_digest(weights: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> str:
    """SHA-256 over named tensors (name, type, shape, bytes) and a file's header, as hexadecimal digits.

    Of the header the entry `sha256` does not count: it is where the digest goes.
    """
    about = {name: text for name, text in (header or {}).items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}".encode())
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
    _save(path, weights, {"format": FORMAT}, network, image, about)


def save_ensemble(
    path: Path,
    members: Sequence[dict[str, Tensor]],
    network: NetworkSettings,
    image: ImageSettings,
    about: dict[str, Any],
    calibration: Calibration,
) -> None:
    """Write several networks of one kind as one model file; parameters and errors as `save_model`."""
    weights = {f"{place}/{name}": value for place, member in enumerate(members) for name, value in member.items()}
    more = {
        "format": ENSEMBLE_FORMAT,
        "members": str(len(members)),
        "calibration": json.dumps(calibration.as_dict()),
    }
    _save(path, weights, more, network, image, about)


def _save(
    path: Path,
    weights: dict[str, Tensor],
    more: dict[str, str],
    network: NetworkSettings,
    image: ImageSettings,
    about: dict[str, Any],
) -> None:
    header = {
        **more,
        "network": network.model_dump_json(),
        "image": image.model_dump_json(),
        "about": json.dumps(about),
    }
    try:
        with drafted(path) as draft:
            save_file(weights, draft, metadata={**header, "sha256": tensor_digest(weights, header)})
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"cannot write {path}: {reason_of(error)}") from None


def build_network(settings: NetworkSettings) -> FCN:
    """A randomly initialised network for the target task."""
    return build_fcn(settings.backbone, width=settings.width, output_stride=settings.output_stride)


def load_model(path: Path) -> Segmenter:
    """Read a model file; nothing in it is executed.

    Raises
    ------
    ModelFileError
        If it is absent, not a safetensors file, not made by `save_model` or `save_ensemble`, or does not match its
        checksum.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}; `make book` leaves one at runs/laptop/model.safetensors")
    try:
        with safe_open(path, framework="pt") as archive:
            header = archive.metadata() or {}
            weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} cannot be read as a model: {error}") from None
    if header.get("format") not in (FORMAT, ENSEMBLE_FORMAT):
        raise ModelFileError(f"{path} is not a model of this package (its header lacks 'format: {FORMAT}')")
    if tensor_digest(weights, header) != header.get("sha256"):
        raise ModelFileError(f"{path} is damaged: it does not match its checksum")
    try:
        settings = NetworkSettings.model_validate_json(header["network"])
        image = ImageSettings.model_validate_json(header["image"])
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in weights.items():
            member, own = name.split("/", 1) if header["format"] == ENSEMBLE_FORMAT else ("0", name)
            parts.setdefault(member, {})[own] = value
        if len(parts) != int(header.get("members", 1)):
            raise ValueError(f"{len(parts)} members where its header says {header['members']}")
        networks = []
        for member in sorted(parts, key=int):
            network = build_network(settings)
            network.load_state_dict(parts[member])
            networks.append(network.eval().to(memory_format=torch.channels_last))
        about = json.loads(header["about"])
        calibration = Calibration.from_dict(json.loads(header["calibration"])) if "calibration" in header else None
    except (KeyError, TypeError, ValueError, ValidationError, RuntimeError) as error:
        raise ModelFileError(f"{path} does not describe its network soundly: {' '.join(str(error).split())}") from None
    return Segmenter(networks[0], image, about, settings, tuple(networks[1:]), calibration)


def publish_model(results: StudyResults) -> Path | None:
    """Copy the kept model of lowest validation loss at the largest size to the run's `model.safetensors`."""
    kept = [
        (-experiment.n_train, record["best_validation_loss"], experiment)
        for experiment, record in results.records.items()
        if "weights.safetensors" in record["sha256"]
    ]
    if not kept:
        return None
    _, loss, experiment = min(kept)
    path = results.folder / "model.safetensors"
    about = {
        "experiment": asdict(experiment),
        "validation_loss": loss,
        "profile": results.profile.name,
        "cohort": "phantom" if results.plan["phantom"] else "own",
        "cohort_fingerprint": results.plan["cohort"],
        "key": results.keys[experiment],
    }
    weights = results.store.weights("models", results.keys[experiment])
    save_model(path, weights, results.profile.network, results.profile.image, about)
    return path
