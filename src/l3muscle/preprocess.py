"""From Hounsfield units to network input, and from logits back to the grid of the slice (Section 2.3)."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from l3muscle.models import IMAGENET_MEAN, IMAGENET_STD
from l3muscle.settings import ImageSettings

AIR_HU = -1000
BODY_HU = -250  # a little below fat


@dataclass(frozen=True)
class Crop:
    """The part of a slice that the network sees: rows [top, bottom) and columns [left, right), which may overhang."""

    top: int
    bottom: int
    left: int
    right: int


def body(hu: np.ndarray, opening: int = 2) -> np.ndarray:
    """The body of a slice: its largest connected region of tissue; empty where there is none.

    Parameters
    ----------
    hu : ndarray, (H, W)
        Hounsfield units.
    opening : int
        Iterations of the opening that parts it from the couch.

    Returns
    -------
    ndarray, (H, W) bool
    """
    labels, _ = ndimage.label(ndimage.binary_opening(hu > BODY_HU, iterations=opening))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (labels == sizes.argmax()) & (labels > 0)


def body_box(hu: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the body of a slice (H, W); the whole slice where there is none."""
    boxes = ndimage.find_objects(body(hu).astype(np.uint8))
    return boxes[0] if boxes else (slice(0, hu.shape[0]), slice(0, hu.shape[1]))


def body_centre(hu: np.ndarray) -> tuple[float, float]:
    """Centre (row, column), in pixels, of the box around the body."""
    rows, columns = body_box(hu)
    return (rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2


def crop_of(hu: np.ndarray, spacing: np.ndarray, settings: ImageSettings) -> Crop:
    """Lay the field of view around the body.

    Parameters
    ----------
    hu : ndarray, (H, W)
        Hounsfield units.
    spacing : array-like, (2,)
        Row and column spacing in mm.
    settings : ImageSettings

    Returns
    -------
    Crop
        The whole slice where the settings ask for no field of view.
    """
    if settings.field_of_view_mm is None:
        return Crop(0, hu.shape[0], 0, hu.shape[1])
    edges = []
    for centre, extent, pixel in zip(body_centre(hu), settings.field_of_view_mm, spacing, strict=True):
        length = round(extent / float(pixel))
        start = round(centre - (length - 1) / 2)
        edges += [start, start + length]
    return Crop(*edges)


def _cut(array: np.ndarray, crop: Crop, fill: float) -> np.ndarray:
    """The crop's part of (H, W) `array`, padded with `fill` where the crop overhangs."""
    height, width = array.shape
    out = np.full((crop.bottom - crop.top, crop.right - crop.left), fill, dtype=np.float32)
    top, bottom = max(crop.top, 0), min(crop.bottom, height)
    left, right = max(crop.left, 0), min(crop.right, width)
    if top < bottom and left < right:
        out[top - crop.top : bottom - crop.top, left - crop.left : right - crop.left] = array[top:bottom, left:right]
    return out


def _resize(image: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """(h, w) -> (1, H, W), averaging over the area of each new pixel when it grows."""
    tensor = torch.from_numpy(image)[None, None]
    if tensor.shape[-2:] != shape:
        tensor = F.interpolate(tensor, size=shape, mode="bilinear", align_corners=False, antialias=True)
    return tensor[0]


def prepare_image(hu: np.ndarray, crop: Crop, settings: ImageSettings) -> Tensor:
    """Window, cut and resample one slice.

    Parameters
    ----------
    hu : ndarray, (H, W)
    crop : Crop
    settings : ImageSettings
        Values outside level ± window / 2 are clipped.

    Returns
    -------
    Tensor, (1, rows, columns)
        In [0, 1]; air is 0.
    """
    low = settings.level_hu - settings.window_hu / 2
    windowed = np.clip((_cut(hu, crop, AIR_HU) - low) / settings.window_hu, 0, 1)
    return _resize(windowed, settings.shape)


def prepare_mask(mask: np.ndarray, crop: Crop, settings: ImageSettings) -> Tensor:
    """Cut and resample one mask: (H, W) bool -> (1, rows, columns), the share of muscle in each pixel."""
    return _resize(_cut(mask, crop, 0), settings.shape).clamp(0, 1)


def to_network_input(images: Tensor) -> Tensor:
    """Repeat the one channel three times and normalise each with ImageNet's mean and deviation (Section 2.3).

    Parameters
    ----------
    images : Tensor, (N, 1, H, W)
        In [0, 1].

    Returns
    -------
    Tensor, (N, 3, H, W), channels last in memory
    """
    mean = images.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def restore_mask(logits: Tensor, crop: Crop, shape: tuple[int, int]) -> np.ndarray:
    """Bring the logits of one slice back onto its own grid and decide each pixel.

    Parameters
    ----------
    logits : Tensor, (1, rows, columns)
    crop : Crop
        The part of the slice they belong to.
    shape : (int, int)
        Rows and columns of the slice.

    Returns
    -------
    ndarray, (H, W) bool
        True where the probability is above one half; False outside the crop.
    """
    size = (crop.bottom - crop.top, crop.right - crop.left)
    full = logits[None].float().cpu()
    if full.shape[-2:] != size:
        full = F.interpolate(full, size=size, mode="bilinear", align_corners=False)
    predicted = (full[0, 0] > 0).numpy()
    mask = np.zeros(shape, dtype=bool)
    top, bottom = max(crop.top, 0), min(crop.bottom, shape[0])
    left, right = max(crop.left, 0), min(crop.right, shape[1])
    if top < bottom and left < right:
        mask[top:bottom, left:right] = predicted[
            top - crop.top : bottom - crop.top, left - crop.left : right - crop.left
        ]
    return mask
