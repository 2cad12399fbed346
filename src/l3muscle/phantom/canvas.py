"""Drawing for the phantom: shapes as signed distances in mm (negative inside), laid with soft, one-pixel edges."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline

TABLE = 2048  # directions in which the radius of a closed curve is tabulated
AIR_HU = -1000.0
Window = tuple[slice, slice]


@lru_cache(maxsize=256)
def spline_weights(nodes: int, count: int) -> np.ndarray:
    """Weights (count, nodes) that interpolate node values by a cubic spline, one node in from either end."""
    return CubicSpline(np.arange(nodes), np.eye(nodes))(np.linspace(1, nodes - 2, count)).astype(np.float32)


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], length: float | tuple[float, float]) -> np.ndarray:
    """Random field (H, W), of unit standard deviation at its nodes and smooth over `length` pixels between them."""
    lengths = (length, length) if np.isscalar(length) else length
    nodes = [max(round(count / step), 2) + 3 for count, step in zip(shape, lengths, strict=True)]
    rows, columns = (spline_weights(node, count) for node, count in zip(nodes, shape, strict=True))
    return rows @ rng.standard_normal(nodes).astype(np.float32) @ columns.T


def smooth_max(a: np.ndarray, b: np.ndarray | float, width: float) -> np.ndarray:
    """Larger of two distances with the edge between them rounded over `width` mm: intersects two shapes."""
    rounding = np.maximum(width - np.abs(a - b), 0)
    return np.maximum(a, b) + rounding * rounding / (4 * width)


def smooth_min(a: np.ndarray, b: np.ndarray | float, width: float) -> np.ndarray:
    """Smaller of two distances, rounded likewise: unites two shapes."""
    return -smooth_max(-a, -b, width)


def capsule(x: np.ndarray, y: np.ndarray, start: Sequence[float], end: Sequence[float], radius: float) -> np.ndarray:
    """Distance to a straight stroke with round ends."""
    along, across = end[0] - start[0], end[1] - start[1]
    share = np.clip(((x - start[0]) * along + (y - start[1]) * across) / (along**2 + across**2), 0, 1)
    return np.hypot(x - start[0] - share * along, y - start[1] - share * across) - radius


def ellipse(
    x: np.ndarray,
    y: np.ndarray,
    centre: Sequence[float],
    half: Sequence[float],
    *,
    turn: float = 0.0,
    power: float = 2.0,
) -> np.ndarray:
    """Distance to a (super)ellipse, turned by `turn` radians; exact on its edge, and near enough around it."""
    u, v = x - centre[0], y - centre[1]
    if turn:
        u, v = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
    u, v = np.abs(u) / half[0], np.abs(v) / half[1]
    radius = np.hypot(u, v) if power == 2 else (u**power + v**power) ** (1 / power)
    return (radius - 1) * (2 * half[0] * half[1] / (half[0] + half[1]))


@dataclass(frozen=True)
class Curve:
    """A smooth closed curve, star-shaped about its centre, as tables over the direction from there.

    Attributes
    ----------
    centre : (float, float)
        x and y, mm.
    radius : ndarray, (TABLE,)
        From direction -pi (clockwise from up), mm.
    slant : ndarray, (TABLE,)
        Cosine between the curve's normal and the direction, which turns radial into true distance near the curve.
    """

    centre: tuple[float, float]
    radius: np.ndarray
    slant: np.ndarray

    @classmethod
    def through(cls, points: np.ndarray, centre: tuple[float, float] | None = None) -> "Curve":
        """The curve through points (K, 2) of x and y that go once around, clockwise or not."""
        closed = np.concatenate([points, points[:1]])
        chord = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T) ** 0.5)])
        dense = CubicSpline(chord, closed, bc_type="periodic")(np.linspace(0, chord[-1], 600, endpoint=False))
        if centre is None:
            centre = tuple(dense.mean(axis=0))
        u, v = dense[:, 0] - centre[0], dense[:, 1] - centre[1]
        direction, radius = np.arctan2(u, -v), np.hypot(u, v)
        order = np.argsort(direction)
        angles = np.linspace(-np.pi, np.pi, TABLE, endpoint=False)
        table = np.interp(angles, direction[order], radius[order], period=2 * np.pi)
        growth = np.gradient(np.concatenate([table[-2:], table, table[:2]]), 2 * np.pi / TABLE)[2:-2]
        return cls(centre, table.astype(np.float32), (1 / np.hypot(1, growth / table)).astype(np.float32))

    def locate(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index into the tables, and distance to the curve, of each point."""
        u, v = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        index = ((np.arctan2(u, -v) + np.float32(np.pi)) * np.float32(TABLE / (2 * np.pi))).astype(np.int32)
        index &= TABLE - 1
        return index, (np.hypot(u, v) - self.radius[index]) * self.slant[index]

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distance to the curve."""
        return self.locate(x, y)[1]

    @staticmethod
    def index_of(direction: float) -> int:
        """Index into the tables of a direction, -pi to pi clockwise from up."""
        return int((direction + np.pi) / (2 * np.pi) * TABLE) % TABLE

    def point(self, direction: float, radius: float) -> tuple[float, float]:
        """The point that lies in a direction from the centre, at a distance in mm."""
        return self.centre[0] + radius * np.sin(direction), self.centre[1] - radius * np.cos(direction)

    @property
    def reach(self) -> float:
        """Largest distance of the curve from its centre, mm."""
        return float(self.radius.max())


class Canvas:
    """The part of a slice that the body may cover.

    Attributes
    ----------
    x, y : ndarray, (h, w) float32
        Where each pixel lies in the body, mm: to the patient's left (right in the image) and to the back (down). The
        frame is turned, shifted and slightly bent against the pixels, so that nothing in it is quite symmetrical.
    hu : ndarray, (h, w) float32
    label : ndarray, (h, w) uint8
        What was laid last, where that matters.
    box : Window
        Place in the whole slice.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: int,
        pixel: float,
        *,
        extent: tuple[float, float, float],
        shift: tuple[float, float],
        turn: float,
        bend: float,
    ) -> None:
        self.rng, self.size, self.pixel = rng, size, pixel
        half_width, front, back = extent
        half_height, middle = (front + back) / 2, (back - front) / 2
        axis = ((np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)
        reach = [half_height + half_width * abs(np.sin(turn)), half_width + half_height * abs(np.sin(turn))]
        inside = [np.flatnonzero(np.abs(axis - s) <= r + 4 * bend) for s, r in zip(shift[::-1], reach, strict=True)]
        self.box: Window = tuple(slice(int(i[0]), int(i[-1]) + 1) for i in inside)
        x, y = np.meshgrid(axis[self.box[1]] - np.float32(shift[0]), axis[self.box[0]] - np.float32(shift[1]))
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        self.x = cos * x + sin * y
        self.y = cos * y - sin * x + np.float32(middle)
        self.x += np.float32(bend) * self.field(85)
        self.y += np.float32(bend) * self.field(85)
        self.hu = np.full(self.x.shape, AIR_HU, dtype=np.float32)
        self.label = np.zeros(self.x.shape, dtype=np.uint8)
        self._sparse = self.x[::8, ::8], self.y[::8, ::8]

    def field(self, length_mm: float | tuple[float, float]) -> np.ndarray:
        """Random field smooth over `length_mm` (rows, columns, or both alike); see `smooth_field`."""
        return smooth_field(self.rng, self.x.shape, np.divide(length_mm, self.pixel).tolist())

    def around(self, x: float, y: float, reach: float) -> Window:
        """Window that holds everything within `reach` mm of a point; empty where that is off the canvas."""
        # The frame is turned and bent, so the window is searched for, on every eighth pixel.
        near = np.hypot(self._sparse[0] - x, self._sparse[1] - y) <= reach + 10 * self.pixel
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        if not rows.size:
            return slice(0, 0), slice(0, 0)
        return slice(max(rows[0] * 8 - 7, 0), rows[-1] * 8 + 8), slice(max(columns[0] * 8 - 7, 0), columns[-1] * 8 + 8)

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Share of each pixel that a shape covers."""
        return np.clip(0.5 - distance / np.float32(self.pixel), 0, 1)

    def blend(self, cover: np.ndarray, hu: float | np.ndarray, where: Window = (slice(None), slice(None))) -> None:
        """Mix a tissue into what is there, by its share of each pixel."""
        target = self.hu[where]
        target += cover * (hu - target)

    def lay(
        self,
        distance: np.ndarray,
        hu: float | np.ndarray,
        *,
        label: int = 0,
        where: Window = (slice(None), slice(None)),
    ) -> None:
        """Lay tissue over what is there; pixels that it mostly covers take its label."""
        cover = self.cover(distance)
        self.blend(cover, hu, where)
        self.label[where][cover > 0.5] = label

    def line(
        self, offset: np.ndarray, width: float | np.ndarray, hu: float, where: Window = (slice(None),) * 2
    ) -> None:
        """Draw a sheet seen edge-on: `offset` mm from its middle. Thinner than a pixel, it only tints."""
        cover = np.clip(0.5 + (width / 2 - np.abs(offset)) / self.pixel, 0, 1)
        self.blend(cover * np.minimum(width / self.pixel, 1), hu, where)

    def dot(self, x: float, y: float, radius: float, hu: float, *, stretch: float = 1.0, turn: float = 0.0) -> None:
        """A small vessel, node or calcification."""
        where = self.around(x, y, radius * max(stretch, 1))
        distance = ellipse(self.x[where], self.y[where], (x, y), (radius * stretch, radius), turn=turn)
        # Thinner than a pixel it covers only a share of one.
        self.blend(self.cover(distance) * min(2 * radius / self.pixel, 1), hu, where)
