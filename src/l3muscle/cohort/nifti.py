"""Axial planes of NIfTI volumes, as DICOM shows them: anterior at the top, the patient's right on the left.

The header is read by whitelist and before anything is allocated. Spacing and orientation come from the affine alone;
nothing is resampled, and axes are only reordered.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from l3muscle.cohort.dicom import AXIAL_TOLERANCE, MAX_PIXEL_MM, MAX_SIDE, PADDING_HU
from l3muscle.cohort.grid import Grid
from l3muscle.errors import L3MuscleError, reason_of

MAX_PLANES = 2000
MAX_VOLUME_BYTES = 1 << 31
MAX_EXTENSION_BYTES = 1 << 20  # between header and voxels
PIECE_BYTES = 1 << 27  # what is read at once of a volume that is searched; most label maps are smaller
SPACING_TOLERANCE = 1e-3  # of the spacing, between affine and pixdim, both in single precision
FAT_HU = -30  # every body has tissue below; an image that has none was rescaled to something else
HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
MILLIMETRES = ("mm", "unknown")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class NiftiError(L3MuscleError):
    """A NIfTI file that is not what it should be."""


@contextmanager
def _naming_damage(name: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the parser raise into a refusal that names the file."""
    try:
        # The parser also writes its findings to the error output.
        with nibabel.imageglobals.LoggingOutputSuppressor():
            yield
    except NiftiError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise NiftiError(f"{name}: the file is cut short or not whole") from None
    except (HeaderDataError, KeyError):
        raise NiftiError(f"{name}: not a NIfTI file") from None
    except OSError as error:
        raise NiftiError(f"{name}: cannot be read ({reason_of(error)})") from None
    except Exception as error:
        raise NiftiError(f"{name}: damaged NIfTI file ({type(error).__name__})") from None


class Volume:
    """The axial planes of a NIfTI image, 2-D or 3-D, read when they are looked at.

    Parameters
    ----------
    path : Path
        `.nii` or `.nii.gz`.
    name : str
        The file as messages call it.
    axes : (str, str)
        Where columns and rows run, as letters of the patient's directions. By default to the left and to the back.

    Raises
    ------
    NiftiError
        If it is no NIfTI file, has more than three dimensions, states no orientation or an oblique one, units other
        than millimetres (none stated counts as millimetres, as the standard's usual), spacings that contradict each
        other, or sizes beyond all measure.
    """

    def __init__(self, path: Path, name: str, axes: tuple[str, str] = ("L", "P")) -> None:
        self.name = name
        with _naming_damage(name):
            header = self._header(path)
            self._check(header)
            shape, affine = self._shape, header.get_best_affine()
            transform = ornt_transform(io_orientation(affine), axcodes2ornt((*axes, "S")))
            self._transform = transform
            self._axis = int(np.flatnonzero(transform[:, 0] == 2)[0])
            turned = LPS_TO_RAS @ affine @ inv_ornt_aff(transform, shape)
            self.shape = tuple(int(shape[int(np.flatnonzero(transform[:, 0] == out)[0])]) for out in (1, 0))
            self._steps, self._origin = turned[:3, :3], turned[:3, 3]
            slope, inter = header.get_slope_inter()
            scaling = (1.0 if slope is None else slope, inter or 0.0)
            self._data = ArrayProxy(
                str(path), (shape, header.get_data_dtype(), header.get_data_offset(), *scaling), mmap=False
            )

    def _header(self, path: Path) -> nibabel.Nifti1Header:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
            block = file.read(max(HEADERS))
        for order in ("little", "big"):
            size = int.from_bytes(block[:4], order)
            if size in HEADERS and len(block) >= size:
                header = HEADERS[size](block[:size])
                if header["magic"].item()[:3] == b"n+" + (b"1" if size == 348 else b"2"):
                    return header
        raise NiftiError(f"{self.name}: not a NIfTI file")

    def _check(self, header: nibabel.Nifti1Header) -> None:
        name = self.name
        shape = tuple(int(length) for length in header.get_data_shape())
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        self._shape = (*shape, 1) if len(shape) == 2 else shape
        if len(self._shape) != 3 or min(self._shape) < 1:
            raise NiftiError(f"{name}: has {' x '.join(map(str, shape))} voxels; a plane or a volume is expected")
        dtype = header.get_data_dtype()
        if dtype.kind not in "iufb":
            raise NiftiError(f"{name}: holds {dtype} instead of one number a voxel")
        if not header["sform_code"] and not header["qform_code"]:
            raise NiftiError(f"{name}: states no orientation (qform and sform codes are 0)")
        units = header.get_xyzt_units()[0]
        if units not in MILLIMETRES:
            raise NiftiError(f"{name}: its unit of length is {units}, not mm")
        affine = header.get_best_affine()
        steps = affine[:3, :3]
        spacing = np.linalg.norm(steps, axis=0)
        if not np.isfinite(affine).all() or (spacing <= 0).any() or (spacing[: len(shape)] > 100).any():
            raise NiftiError(f"{name}: spacing of {spacing.round(4).tolist()} mm cannot be right")
        stated = np.abs(np.asarray(header["pixdim"][1:4], dtype=float))[: len(shape)]
        if not np.allclose(stated, spacing[: len(shape)], rtol=SPACING_TOLERANCE):
            raise NiftiError(f"{name}: affine and pixdim state different spacings")
        cosines = np.sort(np.abs(steps / spacing), axis=0)
        ornt = io_orientation(affine)
        if np.isnan(ornt).any() or (cosines[1] > AXIAL_TOLERANCE).any():
            raise NiftiError(f"{name}: oblique; its axes do not run along the patient's")
        axial = int(np.flatnonzero(ornt[:, 0] == 2)[0])
        plane = [axis for axis in range(3) if axis != axial]
        if (spacing[plane] > MAX_PIXEL_MM).any():
            raise NiftiError(f"{name}: spacing of {spacing.round(4).tolist()} mm cannot be right")
        if len(shape) == 2 and axial != 2:
            raise NiftiError(f"{name}: not an axial plane")
        if max(self._shape[axis] for axis in plane) > MAX_SIDE or self._shape[axial] > MAX_PLANES:
            found = " x ".join(map(str, shape))
            raise NiftiError(
                f"{name}: {found} voxels; at most {MAX_SIDE} a side and {MAX_PLANES} axial planes are accepted"
            )
        item = dtype.itemsize if header.get_slope_inter() in ((None, None), (1.0, 0.0)) else 8
        if int(np.prod(self._shape, dtype=np.int64)) * item > MAX_VOLUME_BYTES:
            raise NiftiError(f"{name}: its voxels take more than {MAX_VOLUME_BYTES >> 30} GiB")
        if header.get_data_offset() > max(HEADERS) + MAX_EXTENSION_BYTES:
            raise NiftiError(f"{name}: its voxels begin too far behind the header")

    @property
    def planes(self) -> int:
        """How many axial planes there are; they are counted from the feet."""
        return self._shape[self._axis]

    def in_order_of_file(self, index: int) -> int:
        """The plane that has this place, from 0, along the axial axis as the file stores it."""
        return index if self._transform[self._axis, 1] > 0 else self.planes - 1 - index

    def grid(self, plane: int) -> Grid:
        """Where a plane's pixels lie."""
        spacing = np.linalg.norm(self._steps, axis=0)
        return Grid(
            shape=self.shape,
            spacing=(float(spacing[1]), float(spacing[0])),
            position=self._origin + plane * self._steps[:, 2],
            orientation=(self._steps[:, :2] / spacing[:2]).T,
        )

    def plane_at(self, grid: Grid) -> int:
        """The plane whose pixels are those of `grid`.

        Raises
        ------
        NiftiError
            If there is none.
        """
        steps = np.array([np.dot(grid.position - self._origin, s) / np.dot(s, s) for s in self._steps.T])
        plane = int(np.clip(np.rint(steps[2]), 0, self.planes - 1))
        if difference := grid.mismatch(self.grid(plane)):
            raise NiftiError(f"{self.name}: {difference}")
        return plane

    def values(self, plane: int) -> np.ndarray:
        """A plane's values, (H, W), as floats."""
        with _naming_damage(self.name):
            place = self.in_order_of_file(plane)
            index = tuple(slice(place, place + 1) if axis == self._axis else slice(None) for axis in range(3))
            turned = apply_orientation(np.asarray(self._data[index], dtype=np.float64), self._transform)
            values = turned[:, :, 0].T
        if not np.isfinite(values).all():
            raise NiftiError(f"{self.name}: holds values that are not finite numbers")
        return values

    @cached_property
    def annotated(self) -> tuple[int, ...]:
        """The planes that hold anything but zeros."""
        with _naming_damage(self.name):
            other = tuple(axis for axis in range(3) if axis != self._axis)
            found = np.flatnonzero((np.asanyarray(self._data) != 0).any(axis=other))
        return tuple(sorted(self.in_order_of_file(int(place)) for place in found))

    def counts(self, *values: float) -> np.ndarray:
        """How many voxels of each plane hold each of `values`, (len(values), planes)."""
        found = np.zeros((len(values), self.planes), dtype=np.int64)
        other = tuple(axis for axis in range(3) if axis != self._axis)
        length = self._shape[2]  # the axis along which the file's voxels lie in one piece
        step = max(1, PIECE_BYTES * length // (self._data.dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))))
        with _naming_damage(self.name):
            for start in range(0, length, step):
                piece = np.asanyarray(self._data[:, :, start : start + step])
                planes = slice(start, start + step) if self._axis == 2 else slice(None)
                for row, value in zip(found, values, strict=True):
                    row[planes] += np.count_nonzero(piece == value, axis=other)
        return found if self.in_order_of_file(0) == 0 else found[:, ::-1]

    def hu(self, plane: int) -> np.ndarray:
        """A plane as Hounsfield units, (H, W) int16; padding below -1024 reads as -1024.

        Raises
        ------
        NiftiError
            If the values cannot be Hounsfield units: nothing as thin as fat, nothing denser than water, or numbers
            beyond any scanner's.
        """
        values = np.rint(self.values(plane))
        low, high = values.min(), values.max()
        if low > FAT_HU or high <= 0 or low < -32768 or high > 32767:
            raise NiftiError(f"{self.name}: values from {low:g} to {high:g} are not Hounsfield units of a body")
        return np.maximum(values, PADDING_HU).astype(np.int16)
