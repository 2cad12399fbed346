"""A trained segmenter as one self-describing file: safetensors whose header holds how to build and feed its networks.

The tensors of each network carry its number and a slash before their own names. The header's checksum is over tensors
and header alike: a display window that changed on the disk would change every outline.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.files import replaced
from l3muscle.models import FCN, build_fcn
from l3muscle.preprocess import crop_of, prepare_image, restore_mask, to_network_input
from l3muscle.segmenter.flags import Calibration, calibrate, describe, pairwise_dice
from l3muscle.settings import ImageSettings, NetworkSettings

if TYPE_CHECKING:
    from l3muscle.study import Study

FORMAT = "l3muscle-model-3"
MODEL = "model.safetensors"
Weights = Mapping[str, Tensor]


def _shipped() -> Path:
    package = Path(__file__).resolve().parents[1]
    installed = package / "sim-to-real.safetensors"
    return installed if installed.is_file() else package.parents[1] / "results" / "sim-to-real" / MODEL


SHIPPED = _shipped()  # an ensemble learned from phantoms alone (profile sim-to-real), for those who name no model


class ModelFileError(L3MuscleError):
    """A model file that is absent, damaged or of another kind."""


class Outline(NamedTuple):
    """What a segmenter makes of a slice.

    Attributes
    ----------
    mask : ndarray, (H, W) bool
        On the slice's own grid.
    agreement : float or None
        Mean Dice between the members' outlines, at the network's resolution; None for a single network.
    """

    mask: np.ndarray
    agreement: float | None


@dataclass(frozen=True)
class Segmenter:
    """One network, or an ensemble of them, with its preprocessing.

    Attributes
    ----------
    members : tuple of FCN
        In evaluation mode.
    image : ImageSettings
    about : dict
        Where it comes from: profile, cohort, experiment or model card.
    settings : NetworkSettings or None
        Of every member.
    calibration : Calibration or None
        What its training slices lead to expect of others.
    """

    members: tuple[FCN, ...]
    image: ImageSettings
    about: dict[str, Any]
    settings: NetworkSettings | None = None
    calibration: Calibration | None = None

    def predict(self, hu: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
        """Outline muscle in one slice (H, W) of HU with row and column spacing in mm; returns (H, W) bool."""
        return self.outline([(hu, spacing)])[0].mask

    def outline(self, slices: Sequence[tuple[np.ndarray, tuple[float, float]]]) -> list[Outline]:
        """Outline muscle in several slices at once; an ensemble's outline is where its mean probability exceeds 1/2.

        Parameters
        ----------
        slices : sequence of (hu, spacing)
            (H, W) HU, which may differ in size, and row and column spacing in mm.
        """
        crops = [crop_of(hu, spacing, self.image) for hu, spacing in slices]
        prepared = [prepare_image(hu, crop, self.image) for (hu, _), crop in zip(slices, crops, strict=True)]
        inputs = to_network_input(torch.stack(prepared))
        with torch.inference_mode():
            logits = torch.stack([network(inputs).float() for network in self.members])  # (K, N, 1, rows, columns)
        single = len(logits) == 1
        # Of a mean probability only on which side of one half it lies matters.
        merged = logits[0] if single else torch.sigmoid(logits).mean(0) - 0.5
        drawn = (logits[:, :, 0] > 0).numpy()
        return [
            Outline(restore_mask(merged[i], crops[i], hu.shape), None if single else pairwise_dice(drawn[:, i]))
            for i, (hu, _) in enumerate(slices)
        ]


def tensor_digest(weights: Weights, header: Mapping[str, str] | None = None) -> str:
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
    path: Path,
    weights: Sequence[Weights],
    network: NetworkSettings,
    image: ImageSettings,
    about: dict[str, Any],
    calibration: Calibration | None = None,
) -> None:
    """Write a model file.

    Parameters
    ----------
    path : Path
        Ending in `.safetensors`.
    weights : sequence of dict of str to Tensor
        State dict of each member: of the FCN that `network` describes.
    network, image
        Settings that every member was trained with.
    about : dict
        Anything JSON can hold.
    calibration : Calibration, optional

    Raises
    ------
    ModelFileError
        If it cannot be written.
    """
    tensors = {f"{i}/{name}": value for i, member in enumerate(weights) for name, value in member.items()}
    header = {
        "format": FORMAT,
        "members": str(len(weights)),
        "network": network.model_dump_json(),
        "image": image.model_dump_json(),
        "calibration": "null" if calibration is None else calibration.model_dump_json(),
        "about": json.dumps(about),
    }
    header["sha256"] = tensor_digest(tensors, header)
    try:
        with replaced(path) as draft:
            save_file(tensors, draft, metadata=header)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"cannot write {path}: {reason_of(error)}") from None


def _network(settings: NetworkSettings, weights: Weights) -> FCN:
    network = build_fcn(**dict(settings))
    network.load_state_dict(weights)  # into single precision, whatever the file has
    return network.eval().to(memory_format=torch.channels_last)


def load_model(path: Path) -> Segmenter:
    """Read a model file; nothing in it is executed.

    Raises
    ------
    ModelFileError
        If it is absent, not a safetensors file, not made by `save_model`, or does not match its checksum.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}; `make book` leaves one at runs/laptop/{MODEL}")
    try:
        with safe_open(path, framework="pt") as archive:
            header = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} cannot be read as a model: {error}") from None
    if header.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a model of this version (its header lacks 'format: {FORMAT}')")
    if tensor_digest(tensors, header) != header.get("sha256"):
        raise ModelFileError(f"{path} is damaged: it does not match its checksum")
    try:
        settings = NetworkSettings.model_validate_json(header["network"])
        weights: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            member, parameter = name.split("/", 1)
            weights.setdefault(int(member), {})[parameter] = value
        if sorted(weights) != list(range(int(header["members"]))):
            raise ValueError(f"it holds the members {sorted(weights)} where its header says {header['members']}")
        return Segmenter(
            members=tuple(_network(settings, weights[i]) for i in sorted(weights)),
            image=ImageSettings.model_validate_json(header["image"]),
            about=json.loads(header["about"]),
            settings=settings,
            calibration=TypeAdapter(Calibration | None).validate_json(header["calibration"]),
        )
    except (KeyError, TypeError, ValueError, ValidationError, RuntimeError) as error:
        raise ModelFileError(f"{path} does not describe its network soundly: {' '.join(str(error).split())}") from None


def _calibrated(ensemble: Segmenter, study: "Study") -> Calibration:
    """What the test images of a study lead to expect of others."""
    cohort, described, agreements = study.cohort, [], []
    for index in map(cohort.index, study.splits.test_ids):
        rows, columns = cohort.shapes[index] if cohort.shapes else cohort.images[index].shape
        hu, spacing = cohort.images[index, :rows, :columns], tuple(cohort.spacing[index])
        [outline] = ensemble.outline([(hu, spacing)])
        described.append(describe(hu, outline.mask, spacing))
        agreements.append(outline.agreement)
    return calibrate(described, agreements)


def publish_model(study: "Study") -> Path | None:
    """Leave the best that a run has learned in `<run>/model.safetensors`.

    Of the kept models of the largest training-set size the one of lowest validation loss, and with it, as an ensemble
    in half precision, those of the same source task. What an ensemble leads to expect of other slices comes from the
    test images.

    Returns
    -------
    Path or None
        None where the run has kept no weights.

    Raises
    ------
    ModelFileError
        If it cannot be written.
    """
    results = study.results()
    losses = {
        experiment: record["best_validation_loss"]
        for experiment, record in results.records.items()
        if "weights.safetensors" in record["sha256"]
    }
    if not losses:
        return None
    best = min(losses, key=lambda experiment: (-experiment.n_train, losses[experiment], experiment))
    members = sorted(experiment for experiment in losses if experiment.configuration == best.configuration)
    about = {
        "experiment": asdict(best),
        "validation_loss": losses[best],
        "profile": results.profile.name,
        "cohort": "phantom" if results.plan["phantom"] else "own",
        "cohort_fingerprint": results.plan["cohort"],
        "keys": [results.keys[member] for member in members],
    }
    weights = [results.store.weights("models", key) for key in about["keys"]]
    network, image = results.profile.network, results.profile.image
    path, calibration = results.folder / MODEL, None
    if len(weights) > 1:
        weights = [
            {name: value.half() if value.is_floating_point() else value for name, value in member.items()}
            for member in weights
        ]
        calibration = _calibrated(Segmenter(tuple(_network(network, one) for one in weights), image, about), study)
    save_model(path, weights, network, image, about, calibration)
    return path
