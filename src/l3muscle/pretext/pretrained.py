"""Source tasks on natural images: torchvision's published weights (Section 2.2).

Classification takes a ResNet learned on ImageNet, segmentation an FCN-ResNet learned on a part of COCO with the classes
of Pascal VOC. torchvision ships no such weights for the smaller networks of this package.
"""

import hashlib
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from torch import Tensor

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.profile import Profile

PATIENCE_S = 30.0  # without an answer from the server


class WeightsError(L3MuscleError):
    """Published weights that cannot be had."""


def published_entry(profile: Profile, source_task: str):
    """torchvision's enum entry of the weights that a profile asks for.

    Parameters
    ----------
    profile : Profile
    source_task : {"classification", "segmentation"}

    Returns
    -------
    torchvision.models.WeightsEnum
    """
    # Imported where it is needed: it takes seconds, which every worker of a small network would pay.
    from torchvision.models import get_model_weights

    backbone = profile.network.backbone
    model = backbone if source_task == "classification" else f"fcn_{backbone}"
    return get_model_weights(model)[profile.published_weights(source_task)]


def file_name(weights) -> str:
    """Name of the file that holds the weights; its end is the beginning of its SHA-256."""
    return PurePosixPath(urlparse(weights.url).path).name


def _is_sound(path: Path) -> bool:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest.startswith(path.stem.rsplit("-", 1)[-1])


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address only where that is encrypted too."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlparse(newurl).scheme != "https":
            raise OSError(f"it leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _patient_and_encrypted() -> Iterator[None]:
    """Let downloads end when the server falls silent, or leads away from https."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    urllib.request.install_opener(urllib.request.build_opener(_HttpsOnly))
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
        urllib.request.install_opener(None)


def load_published(profile: Profile, source_task: str) -> dict[str, Tensor]:
    """Load published weights: from `sources.weights_folder` if the profile names one, else from the network.

    What is downloaded is kept in torch's cache (`TORCH_HOME`). A cached file that does not match the checksum in its
    name is fetched again, once.

    Parameters
    ----------
    profile : Profile
    source_task : {"classification", "segmentation"}

    Returns
    -------
    dict of str to Tensor
        torchvision's state dict, on the CPU. Nothing in the file is executed.

    Raises
    ------
    WeightsError
        If the file is not in the folder, is damaged, or cannot be downloaded.
    """
    weights = published_entry(profile, source_task)
    name = file_name(weights)
    folder = profile.sources.weights_folder
    if folder is not None:
        path = Path(folder).expanduser() / name
        if not path.is_file():
            raise WeightsError(f"there is no {path}; fetch {weights.url} on a machine with internet and put it there")
        if not _is_sound(path):
            raise WeightsError(
                f"{path} is damaged: it does not match the checksum in its name; fetch {weights.url} again"
            )
    else:
        if urlparse(weights.url).scheme not in ("https", "file"):
            raise WeightsError(f"{weights.url} is not https, and is not fetched")
        path = Path(torch.hub.get_dir()) / "checkpoints" / name
        if path.is_file() and not _is_sound(path):
            print(f"{path} does not match the checksum in its name; it is fetched again", file=sys.stderr, flush=True)
            path.unlink()
    attempts = 2
    while True:
        attempts -= 1
        try:
            with _patient_and_encrypted():
                return dict(
                    weights.get_state_dict(
                        model_dir=str(path.parent),
                        progress=True,
                        check_hash=True,
                        map_location="cpu",
                        weights_only=True,
                    )
                )
        except OSError as error:
            raise WeightsError(
                f"{weights.url} cannot be downloaded to {path.parent} ({reason_of(getattr(error, 'reason', error))}); "
                f"put the file into a folder and name that as sources.weights_folder in the profile, or set "
                f"sources.{source_task}.weights to procedural"
            ) from None
        except Exception as error:
            # torch refuses what does not match its checksum, and its reader of archives raises whatever it meets; a
            # broken line may mend. Nothing is removed from a folder that was named.
            if folder is not None:
                raise WeightsError(f"{path} is damaged: {reason_of(error)}") from None
            if attempts == 0:
                raise WeightsError(f"what comes from {weights.url} is damaged: {reason_of(error)}") from None
            path.unlink(missing_ok=True)
