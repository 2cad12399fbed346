"""Axial planes of NIfTI volumes, and masks as NIfTI.

The header is checked before anything is allocated. Spacing and orientation come from the affine alone, which qform and
sform have to agree on; nothing is resampled. Planes have the numbers that the file stores them under, from 0.
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from pydicom.dataset import Dataset

from l3muscle.cohort.ct import CTSlice
from l3muscle.cohort.files import reading
from l3muscle.cohort.geometry import MAX_PIXEL_MM, MAX_SIDE, Grid
from l3muscle.cohort.outlines import EXPERT, as_mask
from l3muscle.cohort.pixels import as_hounsfield
from l3muscle.errors import L3MuscleError

MAX_PLANES = 4000
MAX_VOLUME_BYTES = 1 << 31
MAX_EXTENSION_BYTES = 1 << 20  # between header and voxels
SPACING_TOLERANCE = 1e-3  # of the spacing, between affine and pixdim, both in single precision
FORM_TOLERANCE_MM = 0.3  # between qform and sform; both are in single precision, the one by way of a quaternion
HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
GZIP = b"\x1f\x8b"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


def _open(path: Path) -> BinaryIO:
    """A file, decompressed where it is compressed, whatever it is called."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return gzip.open(path, "rb") if packed else path.open("rb")


@lru_cache(maxsize=3)
def _voxels(path: Path, _modified_ns: int, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> np.ndarray:
    """The voxels as stored. Kept, as the planes of a volume are asked for one by one."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    with _open(path) as file:
        file.seek(offset)
        content = bytearray()
        # In pieces, as a reader would allocate on the header's word.
        while len(content) < size and (piece := file.read(min(1 << 24, size - len(content)))):
            content += piece
        if len(content) < size:
            raise L3MuscleError("the file is cut short")
        file.read(1)  # lets the checksum at the end be compared
    return np.frombuffer(content, dtype).reshape(shape, order="F")


class Volume:
    """The axial planes of a NIfTI image, 2-D or 3-D, read when they are looked at.

    Parameters
    ----------
    path : Path
        `.nii` or `.nii.gz`.
    name : str
        The file as messages call it.

    Attributes
    ----------
    planes : int
        How many axial planes there are.

    Raises
    ------
    FileError
        If it is no NIfTI file, has more than three dimensions, states no orientation, two of them or an oblique one,
        units other than millimetres (none stated counts as millimetres, as the standard's usual), spacings that
        contradict each other or stand for unknown ones, or sizes beyond all measure.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name or path.name
        with reading(self.name, "NIfTI"):
            header = self._read_header()
            self._shape = _shape(header)
            affine = LPS_TO_RAS @ _affine(header, self._shape)
            self._steps, self._origin = affine[:3, :3], affine[:3, 3]
            self._axis = int(np.argmax(np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
            self.planes = self._shape[self._axis]
            slope, intercept = header.get_slope_inter()
            self._scaling = (1.0 if slope is None else slope, intercept or 0.0)
            self._dtype, self._offset = header.get_data_dtype(), int(header.get_data_offset())
            stored = self.stored_grid(0)
            if max(stored.shape) > MAX_SIDE or self.planes > MAX_PLANES or max(stored.spacing) > MAX_PIXEL_MM:
                sizes = " x ".join(map(str, self._shape))
                raise L3MuscleError(f"{sizes} voxels of {stored.spacing} mm; no CT has such pixels")
            if int(np.prod(self._shape, dtype=np.int64)) * self._dtype.itemsize > MAX_VOLUME_BYTES:
                raise L3MuscleError(f"its voxels take more than {MAX_VOLUME_BYTES >> 30} GiB")
            if not max(HEADERS) + MAX_EXTENSION_BYTES >= self._offset >= min(HEADERS):
                raise L3MuscleError("its voxels begin too far behind the header")
            upright, self.turn = stored.upright()
            self.shape = upright.shape

    def _read_header(self) -> nibabel.Nifti1Header:
        with _open(self.path) as file:
            block = file.read(max(HEADERS))
        for order in ("little", "big"):
            size = int.from_bytes(block[:4], order)
            if size in HEADERS and len(block) >= size:
                # The parser also writes its findings to the error output.
                with nibabel.imageglobals.LoggingOutputSuppressor():
                    header = HEADERS[size](block[:size])
                if header["magic"].item()[:3] == b"n+" + (b"1" if size == 348 else b"2"):
                    return header
        raise L3MuscleError("not a NIfTI file")

    def stored_grid(self, index: int) -> Grid:
        """Where the pixels of a plane lie, its first axis in the file along the columns."""
        first, second = (axis for axis in range(3) if axis != self._axis)
        spacing = np.linalg.norm(self._steps, axis=0)
        return Grid(
            shape=(self._shape[second], self._shape[first]),
            spacing=(float(spacing[second]), float(spacing[first])),
            position=self._origin + index * self._steps[:, self._axis],
            orientation=np.stack([self._steps[:, axis] / spacing[axis] for axis in (first, second)]),
        )

    def grid(self, index: int) -> Grid:
        """Where the upright pixels of a plane lie."""
        return self.stored_grid(index).upright()[0]

    @property
    def positions(self) -> np.ndarray:
        """Centre of each plane's first upright pixel, (planes, 3), mm."""
        return self.grid(0).position + np.arange(self.planes)[:, None] * self._steps[:, self._axis]

    @property
    def locations_mm(self) -> np.ndarray:
        """Third coordinate of each plane, (planes,), mm."""
        return self.positions[:, 2]

    def slice(self, index: int, patient_id: str = "") -> CTSlice:
        """A plane as a CT slice."""
        header = Dataset()
        if self.planes > 1:
            header.SliceThickness = f"{float(np.linalg.norm(self._steps[:, self._axis])):.10g}"
        return CTSlice(
            **vars(self.grid(index)),
            path=self.path,
            name=self.name if self.planes == 1 else f"{self.name}[{index}]",
            patient_id=patient_id or SUFFIX.sub("", self.path.name),
            stored=self.stored_grid(index),
            turn=self.turn,
            pixels=lambda: self.hu(index),
            index=index,
            header=header,
        )

    @property
    def planes_first(self) -> np.ndarray:
        """The voxels as stored, their axial axis first; planes are not upright."""
        with reading(self.name, "NIfTI"):
            stamp = self.path.stat().st_mtime_ns
            return np.moveaxis(_voxels(self.path, stamp, self._shape, self._dtype, self._offset), self._axis, 0)

    def values(self, index: int) -> np.ndarray:
        """A plane's values, (H, W), upright, as floats."""
        with reading(self.name, "NIfTI"):
            slope, intercept = self._scaling
            values = self.turn.apply(self.planes_first[index].T).astype(np.float64) * slope + intercept
            if not np.isfinite(values).all():
                raise L3MuscleError("holds values that are not finite numbers")
            return values

    def hu(self, index: int) -> np.ndarray:
        """A plane as Hounsfield units, (H, W) int16, upright; padding reads as -1024.

        Raises
        ------
        FileError
            If the values cannot be Hounsfield units.
        """
        with reading(self.name, "NIfTI"):
            return as_hounsfield(self.values(index))

    @cached_property
    def annotated(self) -> tuple[int, ...]:
        """The planes that hold anything but zeros, where this is a mask.

        Raises
        ------
        FileError
            If it holds several labels, so that none of them is known to be muscle.
        """
        with reading(self.name, "NIfTI"):
            slope, intercept = self._scaling
            inside = as_mask(self.planes_first if intercept == 0 else self.planes_first * slope + intercept)
            return tuple(int(index) for index in np.flatnonzero(inside.any(axis=(1, 2))))

    def mask_on(self, grid: Grid) -> np.ndarray:
        """The mask that this volume holds of a plane, (H, W) bool on the plane's pixels.

        Raises
        ------
        FileError
            If no plane lies there, its pixels are others, or the file is no mask.
        """
        with reading(self.name, "NIfTI"):
            self.annotated  # noqa: B018 (of the whole file, as labels of other planes tell that it is no mask)
            index = self.nearest(grid)
            return grid.align(self.values(index) != 0, self.grid(index))

    def nearest(self, grid: Grid) -> int:
        """The plane nearest to that of `grid`."""
        return int(np.argmin(np.abs(grid.heights(self.positions))))

    def image_of(self, index: int, mask: np.ndarray) -> nibabel.Nifti1Image:
        """A mask (H, W) bool, upright, of one plane, in the file's own order of axes."""
        stored = np.expand_dims(self.turn.undo(mask).T, self._axis).astype(np.uint8)
        affine = np.eye(4)
        affine[:3, :3] = self._steps
        affine[:3, 3] = self._origin + index * self._steps[:, self._axis]
        return nibabel.Nifti1Image(stored, LPS_TO_RAS @ affine)


def _shape(header: nibabel.Nifti1Header) -> tuple[int, int, int]:
    shape = tuple(int(length) for length in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    whole = (*shape, 1) if len(shape) == 2 else shape
    if len(whole) != 3 or min(whole) < 1:
        raise L3MuscleError(f"has {' x '.join(map(str, shape))} voxels; a plane or a volume is expected")
    if header.get_data_dtype().kind not in "iufb":
        raise L3MuscleError(f"holds {header.get_data_dtype()} instead of one number a voxel")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope != 0 and np.isfinite(slope) and not np.isfinite(intercept):
        raise L3MuscleError(f"its intercept (scl_inter) is {intercept:g}, not a number")
    return whole


def _affine(header: nibabel.Nifti1Header, shape: tuple[int, int, int]) -> np.ndarray:
    """From voxels to the patient, RAS, after all checks that need no voxel."""
    qform, sform = (header.get_qform(coded=True)[0], header.get_sform(coded=True)[0])
    if qform is None and sform is None:
        raise L3MuscleError("states no orientation (qform and sform codes are 0)")
    if qform is not None and sform is not None:
        corners = np.array(
            [(*(n * (length - 1) for n, length in zip(bits, shape, strict=True)), 1) for bits in np.ndindex(2, 2, 2)]
        )
        apart = np.abs(corners @ (qform - sform).T).max()
        if not apart <= FORM_TOLERANCE_MM:
            raise L3MuscleError(f"its qform and its sform disagree, by up to {apart:.1f} mm")
    units = header.get_xyzt_units()[0]
    if units not in ("mm", "unknown"):
        raise L3MuscleError(f"its unit of length is {units}, not mm")
    affine = qform if sform is None else sform
    if np.array_equal(np.abs(affine), np.eye(4)):
        # As libraries write an array that nobody told them the geometry of.
        raise L3MuscleError("states no spacing (voxels of 1 mm at the origin stand for an unknown one)")
    steps = affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    if not np.isfinite(affine).all() or (spacing <= 0).any() or (spacing > 100).any():
        raise L3MuscleError(f"spacing of {spacing.round(4).tolist()} mm cannot be right")
    count = len(header.get_data_shape()[:3])
    if not np.allclose(np.abs(header["pixdim"][1 : count + 1]), spacing[:count], rtol=SPACING_TOLERANCE):
        raise L3MuscleError("affine and pixdim state different spacings")
    return affine


@dataclass(frozen=True)
class NiftiMask:
    """A NIfTI file that holds one person's outlines."""

    volume: Volume
    drawn_by: str = EXPERT

    @property
    def name(self) -> str:
        """The file as messages call it."""
        return self.volume.name

    def slices(self, candidates: Sequence[CTSlice]) -> set[str]:
        """Keys of the slices that it marks, or of the only candidate."""
        if len(candidates) == 1:
            return {candidates[0].key}
        marked = self.volume.positions[list(self.volume.annotated)]
        return {ct.key for ct in candidates if len(marked) and np.abs(ct.heights(marked)).min() <= 0.1}

    def masks(self, ct: CTSlice) -> dict[str, np.ndarray]:
        """Its outline of a slice, (H, W) bool, upright."""
        return {self.drawn_by: self.volume.mask_on(ct)}


def is_nifti(path: Path) -> bool:
    """Whether a file is called as a NIfTI file is."""
    return SUFFIX.search(path.name) is not None


def write_nifti(path: Path, mask: np.ndarray, ct: CTSlice) -> None:
    """Write a mask (H, W) bool, upright, as a NIfTI volume of one plane, in its own pixels and order of axes."""
    if not ct.sop_instance_uid:
        nibabel.save(Volume(ct.path, ct.name).image_of(ct.index, mask), path)
        return
    stored, affine = ct.stored, np.eye(4)
    affine[:3, 0] = stored.orientation[0] * stored.spacing[1]
    affine[:3, 1] = stored.orientation[1] * stored.spacing[0]
    affine[:3, 2] = stored.normal * float(ct.header.get("SliceThickness") or 1.0)
    affine[:3, 3] = stored.position
    nibabel.save(nibabel.Nifti1Image(ct.turn.undo(mask).T[..., None].astype(np.uint8), LPS_TO_RAS @ affine), path)
