"""Masks of one slice, from whichever kind of file holds them: RTSTRUCT, DICOM-SEG, NIfTI or PNG."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset

from l3muscle.cohort.dicom import CTHeader, DicomError, modality, read_dataset, rtstruct_masks, seg_masks
from l3muscle.cohort.grid import Grid
from l3muscle.cohort.nifti import Volume
from l3muscle.errors import L3MuscleError, reason_of

EXPERT = "expert"
OBSERVER_PREFIX = "observer"
NIFTI_SUFFIXES = (".nii", ".nii.gz")
PNG_SUFFIX = ".png"
GREY_MODES = ("1", "L", "I", "I;16")


class MaskError(L3MuscleError):
    """A file that holds no mask of the slice it is meant for."""


def is_nifti(path: Path) -> bool:
    """Whether a file is called as a NIfTI file is."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_png(path: Path) -> bool:
    """Whether a file is called as a PNG is."""
    return path.suffix.lower() == PNG_SUFFIX


def as_mask(values: np.ndarray, name: str) -> np.ndarray:
    """Muscle where `values` (H, W) are not zero.

    Raises
    ------
    MaskError
        If there are more than two values, or two and none of them zero: which of them is muscle would be a guess.
    """
    found = np.unique(values)
    if len(found) > 2 or (len(found) == 2 and found[0] * found[1] != 0):
        listed = ", ".join(f"{value:g}" for value in found[:4]) + (" ..." if len(found) > 4 else "")
        raise MaskError(f"{name}: a mask holds 0 and one other value; this holds {listed}")
    return values != 0


def png_mask(path: Path, grid: Grid, name: str) -> np.ndarray:
    """Read a mask (H, W) bool from a greyscale PNG of the slice's size.

    Raises
    ------
    MaskError
        If it is not that.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            shape = (picture.height, picture.width)
            if shape != grid.shape:
                found, expected = (" x ".join(map(str, size)) for size in (shape, grid.shape))
                raise MaskError(f"{name}: has {found} pixels where the slice has {expected}")
            if picture.mode not in GREY_MODES:
                raise MaskError(f"{name}: a picture of mode {picture.mode}; a mask is greyscale or one-bit")
            values = np.asarray(picture).astype(np.int64)
    except MaskError:
        raise
    except UnidentifiedImageError:
        raise MaskError(f"{name}: not a PNG picture") from None
    except Exception as error:  # its decoder raises its own kinds
        raise MaskError(f"{name}: damaged picture ({reason_of(error)})") from None
    return as_mask(values, name)


def nifti_mask(path: Path, grid: Grid, name: str) -> np.ndarray:
    """Read the plane of a NIfTI mask that lies on a slice, (H, W) bool.

    Raises
    ------
    NiftiError, MaskError
        If no plane has the slice's pixels, or it is no mask.
    """
    left, back = (grid.orientation[0][0] > 0, grid.orientation[1][1] > 0)
    volume = Volume(path, name, axes=("L" if left else "R", "P" if back else "A"))
    return as_mask(volume.values(volume.plane_at(grid)), name)


def dicom_masks(dataset: Dataset, ct: CTHeader, path: Path, name: str) -> dict[str, np.ndarray]:
    """The outlines in an RTSTRUCT or a DICOM-SEG that lie on a slice, by name.

    Raises
    ------
    DicomError
        If the file is neither, or does not belong onto the slice.
    """
    kind = modality(dataset, name)
    if kind == "RTSTRUCT":
        return rtstruct_masks(dataset, ct, name)
    if kind == "SEG":
        return seg_masks(dataset, ct, path, name)
    raise DicomError(f"{name}: holds no outlines (modality {kind})")


def read_masks(path: Path, ct: CTHeader, name: str) -> dict[str, np.ndarray]:
    """The outlines in a file of any kind that lie on a DICOM slice.

    Parameters
    ----------
    path : Path
    ct : CTHeader
    name : str
        The file as messages call it.

    Returns
    -------
    dict of str to ndarray, (H, W) bool
        By ROI name or segment label; a NIfTI or PNG mask is the expert's.
    """
    if is_nifti(path):
        return {EXPERT: nifti_mask(path, ct, name)}
    if is_png(path):
        return {EXPERT: png_mask(path, ct, name)}
    return dicom_masks(read_dataset(path, name, pixels=False), ct, path, name)
