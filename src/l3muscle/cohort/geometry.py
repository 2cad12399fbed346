"""Where the pixels of an axial plane lie in the patient: one geometry for every file format.

Coordinates are DICOM's, in millimetres to the patient's left, back and head. Every plane is read *upright*: columns run
to the patient's left and rows to the back, as radiologists look at it, however a file stores its axes. `Turn` leads
from the stored pixels to the upright ones and back again, so that results go into the file's own grid.
"""

from dataclasses import dataclass, replace

import numpy as np

from l3muscle.errors import L3MuscleError

AXIAL_TOLERANCE = 0.02  # of a direction cosine: about one degree
UNIT_TOLERANCE = 5e-3  # of the directions' squared lengths and right angle, as written with few digits
# Rounding in decimal strings and single-precision affines stays a hundred times below, a shift by half a pixel above.
GRID_TOLERANCE_MM = 0.1
MAX_SIDE = 4096  # pixels; a header that claims more is refused before anything is allocated
MAX_PIXEL_MM = 12.0  # a 700 mm field of 64 pixels has 10.9


@dataclass(frozen=True)
class Turn:
    """From the pixels as stored to upright ones: rows and columns exchanged first, then reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def _flip(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """Upright pixels (H, W) of stored ones."""
        return np.ascontiguousarray(self._flip(stored.T if self.transpose else stored))

    def undo(self, upright: np.ndarray) -> np.ndarray:
        """Stored pixels of upright ones (H, W)."""
        flipped = self._flip(upright)
        return np.ascontiguousarray(flipped.T if self.transpose else flipped)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The pixels of one plane.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    spacing : (float, float)
        Row and column spacing, mm.
    position : ndarray, (3,)
        Centre of the first pixel, mm.
    orientation : ndarray, (2, 3)
        Direction of increasing column index, then of increasing row index.
    """

    shape: tuple[int, int]
    spacing: tuple[float, float]
    position: np.ndarray
    orientation: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the plane; towards the head where the grid is upright."""
        across = np.cross(*self.orientation)
        return across / np.linalg.norm(across)

    @property
    def location_mm(self) -> float:
        """Position along the normal."""
        return float(self.normal @ self.position)

    @property
    def corners(self) -> np.ndarray:
        """Centres of the first pixel, the last of its row and the last of its column, (3, 3), mm."""
        return self.points(np.array([[0, 0], [0, self.shape[1] - 1], [self.shape[0] - 1, 0]]))

    def points(self, indices: np.ndarray) -> np.ndarray:
        """Points (K, 3), mm, of row and column indices (K, 2)."""
        return self.position + indices[:, ::-1] * np.array(self.spacing)[::-1] @ self.orientation

    def indices(self, points: np.ndarray) -> np.ndarray:
        """Row and column indices (K, 2), with fractions, of points (K, 3), mm."""
        return (points - self.position) @ self.orientation[::-1].T / self.spacing

    def heights(self, points: np.ndarray) -> np.ndarray:
        """Distances (K,) of points (K, 3) from the plane along its normal, mm."""
        return (points - self.position) @ self.normal

    def upright(self) -> tuple["Grid", Turn]:
        """The same pixels with columns to the patient's left and rows to the back, and how they get there.

        Raises
        ------
        L3MuscleError
            If the plane is not axial.
        """
        transpose = bool(abs(self.orientation[0, 0]) < abs(self.orientation[0, 1]))
        step = -1 if transpose else 1
        orientation, shape, spacing = self.orientation[::step], self.shape[::step], self.spacing[::step]
        turn = Turn(transpose, bool(orientation[1, 1] < 0), bool(orientation[0, 0] < 0))
        signs = np.array([[-1.0 if turn.flip_columns else 1.0], [-1.0 if turn.flip_rows else 1.0]])
        if not np.allclose(orientation * signs, np.eye(3)[:2], atol=AXIAL_TOLERANCE):
            raise L3MuscleError(f"not an axial slice (orientation {self.orientation.ravel().round(3).tolist()})")
        if not np.allclose(self.orientation @ self.orientation.T, np.eye(2), atol=UNIT_TOLERANCE):
            stated = self.orientation.ravel().round(3).tolist()
            raise L3MuscleError(f"its directions are not of length 1 at a right angle (orientation {stated})")
        turned = Grid(shape=shape, spacing=spacing, position=self.position, orientation=orientation)
        first = turned.points(np.array([[(shape[0] - 1) * turn.flip_rows, (shape[1] - 1) * turn.flip_columns]]))[0]
        return replace(turned, position=first, orientation=orientation * signs), turn

    def align(self, values: np.ndarray, other: "Grid") -> np.ndarray:
        """Values that are stored on `other`, which may cover less or more of the same pixels, on this grid.

        Parameters
        ----------
        values : ndarray, other.shape
        other : Grid

        Returns
        -------
        ndarray, (H, W)
            Zero where `other` does not reach.

        Raises
        ------
        L3MuscleError
            If the pixels are others, or something but zeros lies beyond this grid.
        """
        offset = np.rint(self.indices(other.position[None])[0])
        corner = self.points(offset[None])[0]
        same = Grid(shape=other.shape, spacing=self.spacing, position=corner, orientation=self.orientation)
        distance = np.abs(same.corners - other.corners).max()
        resized = self.shape != other.shape
        sizes = "has {} x {} pixels where the slice has {} x {}".format(*other.shape, *self.shape)
        # Written so that a distance that is not a number is refused.
        if not distance <= GRID_TOLERANCE_MM:
            raise L3MuscleError(sizes if resized else f"lies up to {distance:.1f} mm off the slice's pixels")
        (top, left), (height, width) = offset.astype(int), other.shape
        # What is cut to the outline lies somewhere within; what was resampled keeps its corner.
        if resized and top in (0, self.shape[0] - height) and left in (0, self.shape[1] - width):
            raise L3MuscleError(sizes)
        aligned = np.zeros(self.shape, dtype=values.dtype)
        rows = slice(max(top, 0), min(top + height, self.shape[0]))
        columns = slice(max(left, 0), min(left + width, self.shape[1]))
        if rows.start < rows.stop and columns.start < columns.stop:
            inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
            aligned[rows, columns] = values[inside]
        if np.count_nonzero(aligned) < np.count_nonzero(values):
            raise L3MuscleError("reaches beyond the slice's pixels")
        return aligned
