"""Where the pixels of an axial plane lie in the patient, and whether two planes are the same one."""

from dataclasses import dataclass

import numpy as np

# Rounding in decimal strings and single-precision affines stays a hundred times below, a shift by half a pixel above.
GRID_TOLERANCE_MM = 0.1


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The pixels of one plane, in DICOM's frame: millimetres to the patient's left, back and head.

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
    def corners(self) -> np.ndarray:
        """Centres of the first pixel, the last of its row and the last of its column, (3, 3), mm."""
        along_row = self.orientation[0] * self.spacing[1] * (self.shape[1] - 1)
        down_column = self.orientation[1] * self.spacing[0] * (self.shape[0] - 1)
        return self.position + np.stack([np.zeros(3), along_row, down_column])

    def mismatch(self, other: "Grid") -> str:
        """What tells `other` from this plane, as words for a message; empty where they are the same."""
        if self.shape != other.shape:
            found, expected = (" x ".join(map(str, grid.shape)) for grid in (other, self))
            return f"has {found} pixels where the slice has {expected}"
        distance = np.abs(self.corners - other.corners).max()
        # Written so that a distance that is not a number is a mismatch.
        return "" if distance <= GRID_TOLERANCE_MM else f"lies up to {distance:.1f} mm off the slice's pixels"
