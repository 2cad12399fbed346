"""A phantom of the abdomen at L3: procedural patients, drawn from parameters, with the expert's mask.

Not patients: no number from them says anything about people. They exist so that the whole study can be run, checked
and taught without private data. Lengths are mm in a frame whose x points to the patient's left (right in the image)
and whose y points to the back (down); the centre of the abdominal wall is the origin.

Where the numbers come from: wall and rectus thickness from ultrasound norms (Rankin et al. 2006), vertebral
dimensions from Panjabi et al. 1992, muscle area and density by sex and age from van der Werf et al. 2018, tissue
attenuation from the usual CT ranges (fat -190 to -30 HU, muscle -29 to 150 HU).
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy import ndimage

from l3muscle.cohort.dicom import read_ct_slice, write_ct_slice, write_rtstruct
from l3muscle.cohort.observers import assign_observers, outline_as_observer, spline_weights
from l3muscle.errors import L3MuscleError

FIELD_OF_VIEW_MM = (500.0, 600.0, 700.0)  # reconstruction diameters usual for the CT of a PET-CT
MUSCLE_COMPARTMENTS = ("rectus", "lateral wall", "psoas", "quadratus lumborum", "erector spinae")
OTHER = 0
SKIN_MM = 2.0


class PhantomError(L3MuscleError):
    """A phantom cohort that cannot be written."""


@dataclass(frozen=True)
class PhantomSlice:
    """One procedural patient.

    Attributes
    ----------
    hu : ndarray, (size, size) int16
    mask : ndarray, (size, size) bool
        All skeletal muscle.
    compartments : ndarray, (size, size) uint8
        0, or 1 + index into `MUSCLE_COMPARTMENTS`.
    spacing : (float, float)
        mm.
    """

    hu: np.ndarray
    mask: np.ndarray
    compartments: np.ndarray
    spacing: tuple[float, float]


@dataclass(frozen=True)
class Habitus:
    """Who the patient is, in the numbers that the drawing functions need (mm and HU unless said otherwise)."""

    male: bool
    age: float  # years
    wall_width: float  # half-width of the outer surface of the abdominal wall
    wall_depth: float  # half-depth, front to back
    fat_front: float  # thickness of subcutaneous fat
    fat_side: float
    fat_back: float
    muscularity: float  # 1 is average for the sex
    muscle_hu: float
    fat_hu: float
    infiltration: float  # share of streaky fat in the back muscles, 0 to 0.5
    contrast: float  # 0 none, 1 portal venous phase


def draw_habitus(rng: np.random.Generator) -> Habitus:
    """Draw a patient of an oesophago-gastric cancer clinic: mostly men, mostly over sixty, lean to obese."""
    male = bool(rng.random() < 0.75)
    age = float(np.clip(rng.normal(66, 9), 35, 90))
    obesity = float(np.clip(rng.normal(0.45, 0.25), 0.0, 1.2))
    muscularity = float(np.clip(rng.normal(1.0, 0.13) - 0.004 * (age - 66), 0.6, 1.35))
    wall_width = rng.normal(140 if male else 128, 6) + 14 * (obesity - 0.45)
    wall_depth = rng.normal(96 if male else 86, 6) + 24 * (obesity - 0.45)
    thin, sex_fat = 4.0, 1.0 if male else 1.35
    return Habitus(
        male=male,
        age=age,
        wall_width=float(wall_width),
        wall_depth=float(wall_depth),
        fat_front=thin + sex_fat * obesity * rng.uniform(22, 44),
        fat_side=thin + sex_fat * obesity * rng.uniform(18, 42),
        fat_back=thin + sex_fat * obesity * rng.uniform(22, 48),
        muscularity=muscularity,
        muscle_hu=float(np.clip(rng.normal(52, 6) - 0.35 * (age - 66) - 9 * (obesity - 0.45), 26, 70)),
        fat_hu=float(rng.normal(-104, 5)),
        infiltration=float(np.clip(rng.beta(2, 7) + 0.004 * (age - 66), 0.02, 0.5)),
        contrast=float(rng.random() < 0.4) * rng.uniform(0.5, 1.0),
    )


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], nodes: int) -> np.ndarray:
    """Random field of unit standard deviation at its nodes, smooth between them."""
    coarse = rng.standard_normal((nodes + 3, nodes + 3)).astype(np.float32)
    rows, columns = (spline_weights(nodes + 3, n) for n in shape)
    return rows @ coarse @ columns.T


class Canvas:
    """The slice being drawn: tissues laid over each other with soft, one-pixel edges (partial volume).

    Shapes are given as signed distances in mm, negative inside.
    """

    def __init__(self, size: int, pixel_mm: float, rng: np.random.Generator) -> None:
        self.size, self.pixel, self.rng = size, pixel_mm, rng
        axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
        centre = rng.normal(0, 8, 2)
        turn = rng.normal(0, np.deg2rad(2.5))
        x, y = np.meshgrid(axis - centre[0], axis - centre[1])
        # One smooth bend of the whole frame makes every shape in it organic, left unlike right.
        bend = 3.5
        self.x = (np.cos(turn) * x + np.sin(turn) * y + bend * _smooth_noise(rng, x.shape, 6)).astype(np.float32)
        self.y = (np.cos(turn) * y - np.sin(turn) * x + bend * _smooth_noise(rng, x.shape, 6)).astype(np.float32)
        self.hu = np.full((size, size), -1000, dtype=np.float32)
        self.compartments = np.full((size, size), OTHER, dtype=np.uint8)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns that surely hold everything within `reach` of (x, y)."""
        # The frame turns and bends, so the place is searched for, on every eighth pixel.
        coarse = np.hypot(self.x[::8, ::8] - x, self.y[::8, ::8] - y) <= reach + 12 * self.pixel
        rows, columns = np.flatnonzero(coarse.any(1)), np.flatnonzero(coarse.any(0))
        if not rows.size:
            return slice(0, 0), slice(0, 0)
        return (
            slice(max(rows[0] * 8 - 8, 0), min(rows[-1] * 8 + 16, self.size)),
            slice(max(columns[0] * 8 - 8, 0), min(columns[-1] * 8 + 16, self.size)),
        )

    def lay(
        self, distance: np.ndarray, hu: float | np.ndarray, *, label: int = OTHER, where: tuple = (slice(None),) * 2
    ) -> None:
        """Lay tissue over what is there: opaque inside, fading over one pixel at the edge."""
        cover = np.clip(0.5 - distance / self.pixel, 0, 1).astype(np.float32)
        target = self.hu[where]
        target += cover * (hu - target)
        self.compartments[where][cover > 0.5] = label

    def ellipse(
        self,
        x: float,
        y: float,
        half_width: float,
        half_height: float,
        hu: float | Callable[[tuple], np.ndarray],
        *,
        turn: float = 0.0,
        power: float = 2.0,
        wobble: float = 0.0,
        label: int = OTHER,
    ) -> None:
        """Lay a (super)ellipse around (x, y), turned by `turn` radians, its edge wavering by `wobble` of its size."""
        where = self.window(x, y, 1.5 * max(half_width, half_height))
        u, v = self.x[where] - x, self.y[where] - y
        if u.size == 0:
            return
        if turn:
            u, v = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
        u, v = u / half_width, v / half_height
        radius = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)
        if wobble:
            angle = np.arctan2(v, u)
            for lobes in (2, 3, 4, 5):
                amount = wobble * self.rng.normal() / lobes
                radius = radius + amount * np.cos(lobes * angle + self.rng.uniform(0, 2 * np.pi)) * np.minimum(radius, 1)
        distance = (radius - 1) * 2 * half_width * half_height / (half_width + half_height)
        self.lay(distance, hu(where) if callable(hu) else hu, label=label, where=where)


class Torso:
    """Draws one patient, organ group by organ group, from the outside in."""

    def __init__(self, canvas: Canvas, habitus: Habitus) -> None:
        self.canvas, self.body, self.rng = canvas, habitus, canvas.rng
        size = canvas.size
        self.grain = _smooth_noise(self.rng, (size, size), 70).astype(np.float32)
        self.streaks = self._streak_field()
        # Depth below the outer surface of the abdominal wall, mm, and the angle from the front (0) to the back (pi).
        a, b = habitus.wall_width, habitus.wall_depth
        power = 2.3
        radius = ((np.abs(canvas.x) / a) ** power + (np.abs(canvas.y) / b) ** power) ** (1 / power)
        slope = np.hypot(canvas.x / a**2, canvas.y / b**2) / np.maximum(np.hypot(canvas.x / a, canvas.y / b), 1e-3)
        self.depth = (1 - radius) / np.maximum(slope, 1e-4)
        self.angle = np.arctan2(np.abs(canvas.x) / a, -canvas.y / b)
        self.side = np.sign(canvas.x)
        self.vertebra_y = b - 63 + self.rng.normal(0, 2.5)

    def _streak_field(self) -> np.ndarray:
        """Fine ridges, 0 to 1, along which fat lies inside muscle."""
        size = self.canvas.size
        fine = _smooth_noise(self.rng, (size, size), 110)
        return np.exp(-((fine / 0.22) ** 2)).astype(np.float32)

    def muscle(self, infiltration: float) -> Callable[[tuple], np.ndarray]:
        """Attenuation of muscle: grain, and streaks of fat according to `infiltration`."""
        patches = 0.5 + 0.5 * np.tanh(2 * _smooth_noise(self.rng, self.canvas.hu.shape, 14))

        def fill(where: tuple) -> np.ndarray:
            fat = np.clip(self.streaks[where] * 2.2 * infiltration * 2 * patches[where], 0, 0.95)
            lean = self.body.muscle_hu + 5 * self.grain[where]
            return (lean + fat * (self.body.fat_hu - lean)).astype(np.float32)

        return fill

    def skin_and_subcutaneous_fat(self) -> None:
        """Body outline: the wall's outer surface plus fat that is thickest at the front, flank or back."""
        body, angle = self.body, self.angle
        front, back = np.cos(angle / 2) ** 4, np.sin(angle / 2) ** 4
        thickness = front * body.fat_front + back * body.fat_back + (1 - front - back) * body.fat_side
        thickness = thickness + 2.5 * _smooth_noise(self.rng, angle.shape, 5)
        # The flattened back rests on the couch; a furrow runs over the spine and the navel.
        furrow = 6 * np.exp(-((self.canvas.x / 14) ** 2)) * (self.canvas.y > 0)
        distance = -self.depth - np.maximum(thickness, SKIN_MM + 1) + furrow
        self.outline = distance
        self.canvas.lay(distance, 10 + 15 * self.rng.random())
        fat = body.fat_hu + 4 * self.grain
        septa = np.exp(-((_smooth_noise(self.rng, angle.shape, 40) / 0.06) ** 2))
        self.canvas.lay(distance + SKIN_MM, fat + 45 * septa)

    def cavity(self) -> None:
        """Everything inside the wall starts as visceral fat with mesenteric strands."""
        strands = np.exp(-((_smooth_noise(self.rng, self.depth.shape, 45) / 0.08) ** 2))
        fat = self.body.fat_hu + 6 + 4 * self.grain + 60 * self.rng.uniform(0.3, 1) * strands
        self.canvas.lay(-self.depth, fat)

    def lateral_wall(self) -> None:
        """External oblique, internal oblique and transversus abdominis as layers with fat planes between them."""
        rng, scale = self.rng, self.body.muscularity * (1.0 if self.body.male else 0.8)
        label = 1 + MUSCLE_COMPARTMENTS.index("lateral wall")
        fill = self.muscle(0.5 * self.body.infiltration)((slice(None), slice(None)))
        for side in (-1, 1):
            begin, end = np.deg2rad(rng.normal(38, 3)), np.deg2rad(rng.normal(122, 4))
            position = (self.angle - begin) / (end - begin)
            # Muscle bellies taper into their aponeuroses at both ends.
            belly = np.clip(1 - np.abs(2 * position - 1) ** 5, 0, None) ** 0.6
            waver = 1 + 0.12 * _smooth_noise(rng, self.angle.shape, 8)
            layers = [rng.normal(7.5, 0.9), rng.normal(9.5, 1.1), rng.normal(4.5, 0.5)]
            total = scale * sum(layers) * belly * waver
            start = 1.0
            distance = np.maximum(start - self.depth, self.depth - start - total)
            distance = np.where((self.side == side) & (belly > 0), distance, 1e3)
            self.canvas.lay(distance, fill, label=label)
            plane = rng.uniform(0.3, 0.8) + 1.2 * self.body.infiltration
            reached = 0.0
            for thickness in layers[:-1]:
                reached += thickness / sum(layers)
                off_plane = np.abs(self.depth - start - reached * total) - plane / 2
                inside = np.where(distance < -1.0, off_plane, 1e3)
                # A plane thinner than a pixel dims the pixels it crosses; the outline runs over it.
                cover = np.clip(0.5 - inside / self.canvas.pixel, 0, 1) * min(plane / self.canvas.pixel, 1)
                self.canvas.hu += (cover * (self.body.fat_hu - self.canvas.hu)).astype(np.float32)

    def rectus(self) -> None:
        """The two rectus bellies beside the linea alba."""
        rng, scale = self.rng, self.body.muscularity * (1.0 if self.body.male else 0.82)
        label = 1 + MUSCLE_COMPARTMENTS.index("rectus")
        gap, width = abs(rng.normal(7, 3)) + 2, rng.normal(74, 5) * (0.6 + 0.4 * scale)
        fill = self.muscle(0.6 * self.body.infiltration)((slice(None), slice(None)))
        for side in (-1, 1):
            thickness = rng.normal(14.0, 1.8) * scale
            across = (np.abs(self.canvas.x) - gap - width / 2) / (width / 2)
            belly = thickness * np.clip(1 - np.abs(across) ** 2.6, 0, None) ** 0.7
            start = 1.5
            distance = np.maximum(start - self.depth, self.depth - start - belly)
            here = (self.side == side) & (self.canvas.y < 0) & (np.abs(across) < 1)
            self.canvas.lay(np.where(here, distance, 1e3), fill, label=label)

    def back_muscles(self) -> None:
        """Erector spinae with multifidus, quadratus lumborum and psoas on both sides."""
        rng, y = self.rng, self.vertebra_y
        scale = np.sqrt(self.body.muscularity) * (1.0 if self.body.male else 0.9)
        surface = self.body.wall_depth
        label = {name: 1 + index for index, name in enumerate(MUSCLE_COMPARTMENTS)}
        for side in (-1, 1):
            sway = rng.normal(1, 0.05)
            erector = self.muscle(self.body.infiltration)
            height = 28.0 * scale * sway
            self.canvas.ellipse(
                side * (38 * scale + 2),
                surface - height - 2,
                37 * scale * sway,
                height,
                erector,
                turn=side * rng.normal(0.14, 0.04),
                power=2.5,
                wobble=0.05,
                label=label["erector spinae"],
            )
            # Multifidus fills the groove between lamina and spinous process.
            self.canvas.ellipse(
                side * 15 * scale,
                surface - 26 * scale - 4,
                11 * scale,
                19 * scale,
                self.muscle(min(1.4 * self.body.infiltration, 0.5)),
                turn=side * 0.1,
                power=2.4,
                wobble=0.04,
                label=label["erector spinae"],
            )
            self.canvas.ellipse(
                side * (60 * scale + rng.normal(0, 1.5)),
                y + 15 + rng.normal(0, 2),
                rng.normal(19, 1.5) * scale,
                rng.normal(10.5, 1) * scale,
                self.muscle(0.6 * self.body.infiltration),
                turn=side * rng.normal(-0.35, 0.12),
                power=2.2,
                wobble=0.06,
                label=label["quadratus lumborum"],
            )
            self.canvas.ellipse(
                side * (22 + 16.5 * scale + rng.normal(0, 1)),
                y - 2 + rng.normal(0, 2),
                rng.normal(18.5, 1.3) * scale * self.body.muscularity**0.5,
                rng.normal(24, 1.6) * scale,
                self.muscle(0.3 * self.body.infiltration),
                turn=side * rng.normal(-0.25, 0.1),
                power=2.1,
                wobble=0.05,
                label=label["psoas"],
            )

    def vertebra(self) -> None:
        """L3: body with cortical shell, pedicles, laminae, processes and the canal."""
        rng, canvas, y = self.rng, self.canvas, self.vertebra_y
        size = 1.0 if self.body.male else 0.9
        trabecular = np.clip(rng.normal(165, 30) - 1.6 * (self.body.age - 66), 70, 260)
        cortical = rng.normal(480, 60)

        def spongy(where: tuple) -> np.ndarray:
            return (trabecular + 28 * self.grain[where]).astype(np.float32)

        lamina_y = y + 34 * size
        for side in (-1, 1):
            canvas.ellipse(side * 15 * size, y + 17 * size, 5.0 * size, 10 * size, cortical, power=2.5)
            canvas.ellipse(side * 33 * size, y + 21 * size, 19 * size, 3.4, cortical, turn=-side * rng.normal(0.12, 0.05))
            canvas.ellipse(side * 33 * size, y + 21 * size, 17 * size, 1.6, spongy, turn=-side * 0.12)
            canvas.ellipse(side * 16 * size, y + 30 * size, 6.5, 8.5, cortical, turn=side * 0.5, wobble=0.06)
            canvas.ellipse(side * 16 * size, y + 30 * size, 4.0, 5.5, spongy, turn=side * 0.5)
        canvas.ellipse(0, y + 47 * size, 4.2, 14 * size, cortical, power=3)
        canvas.ellipse(0, y + 47 * size, 2.2, 12 * size, spongy, power=3)
        canvas.ellipse(0, lamina_y, 14 * size, 4.5, cortical, power=2.5)
        canvas.ellipse(0, y, 24.5 * size, 17.5 * size, cortical, power=2.4, wobble=0.02)
        canvas.ellipse(0, y, 22.8 * size, 15.8 * size, spongy, power=2.4, wobble=0.02)
        canvas.ellipse(0, y + 23.5 * size, 11.5 * size, 8.0 * size, -20, power=2.2)
        canvas.ellipse(0, y + 22.5 * size, 8.5 * size, 6.5 * size, 22)

    def great_vessels(self) -> None:
        """Aorta, with plaque in the old, and inferior vena cava in front of the vertebra."""
        rng, y = self.rng, self.vertebra_y - 17.5
        blood = 42 + 110 * self.body.contrast
        aorta = (rng.normal(12, 3), y - 10 - rng.normal(2, 1), rng.normal(9.5, 1))
        self.canvas.ellipse(*aorta[:2], aorta[2], aorta[2], blood, wobble=0.03)
        for _ in range(rng.poisson(max(self.body.age - 55, 0) / 9)):
            angle = rng.uniform(0, 2 * np.pi)
            x, y_plaque = aorta[0] + aorta[2] * np.cos(angle), aorta[1] + aorta[2] * np.sin(angle)
            self.canvas.ellipse(x, y_plaque, rng.uniform(1, 3), 1.2, rng.uniform(300, 800), turn=angle + np.pi / 2)
        self.canvas.ellipse(-19 + rng.normal(0, 3), y - 8, rng.normal(12, 1.5), rng.normal(8.5, 1.5), blood - 12, wobble=0.05)

    def kidneys_and_liver(self) -> None:
        """Lower kidney poles, each present or not, and now and then the tip of the liver."""
        rng, y = self.rng, self.vertebra_y
        cortex = 32 + 130 * self.body.contrast
        for side, chance in ((-1, 0.75), (1, 0.55)):
            if rng.random() < chance:
                x = side * min(rng.normal(78, 5), self.body.wall_width - 50)
                radius = rng.uniform(15, 27)
                self.canvas.ellipse(x, y - 8 + rng.normal(0, 5), radius, radius * 1.15, cortex, turn=side * 0.4, wobble=0.06)
                if radius > 20:
                    self.canvas.ellipse(x - side * 7, y - 9, 7, 9, self.body.fat_hu + 20, wobble=0.2)
        if rng.random() < 0.4:
            self.canvas.ellipse(
                -(self.body.wall_width - 34), -12 + rng.normal(0, 12), 15, rng.uniform(22, 48), 56 + 50 * self.body.contrast,
                turn=0.15, wobble=0.08,
            )  # fmt: skip

    def bowel(self) -> None:
        """Colon on both flanks and loops of small bowel: wall of muscle-like attenuation, mixed content."""
        rng, body = self.rng, self.body
        inner_a, inner_b = body.wall_width - 30, body.wall_depth - 26

        def loop(x: float, y: float, width: float, height: float, gas: float) -> None:
            turn = rng.uniform(0, np.pi)
            wall = rng.normal(38, 6) + 30 * body.contrast
            self.canvas.ellipse(x, y, width, height, wall, turn=turn, wobble=0.12)
            kind = rng.random()
            if kind < gas:
                content: float | Callable = -880.0
            elif kind < gas + 0.15:
                content = rng.uniform(150, 380)  # oral contrast
            elif kind < gas + 0.4:
                level = rng.uniform(-60, 40)

                def content(where: tuple) -> np.ndarray:
                    return level + 55 * self.grain[where]
            else:
                content = rng.uniform(5, 35)
            thick = rng.uniform(1.8, 3.2)
            self.canvas.ellipse(x, y, max(width - thick, 1), max(height - thick, 1), content, turn=turn, wobble=0.08)

        for side in (-1, 1):
            loop(side * (inner_a - 14), rng.normal(8, 8), rng.uniform(14, 22), rng.uniform(15, 26), 0.45)
        for _ in range(rng.integers(16, 30)):
            angle, reach = rng.uniform(-np.pi, np.pi), np.sqrt(rng.uniform(0.0, 0.85))
            x = reach * (inner_a - 14) * np.sin(angle)
            y = -18 - reach * (inner_b - 24) * np.cos(angle) * 0.8
            if y > self.vertebra_y - 44:
                continue
            loop(x, y, rng.uniform(9, 17), rng.uniform(10, 26), 0.15)
        for _ in range(rng.integers(10, 24)):
            x, y = rng.normal(0, 0.45 * inner_a), -0.6 * inner_b + rng.random() * (0.6 * inner_b + max(self.vertebra_y - 40, 0))
            self.canvas.ellipse(x, y, rng.uniform(1.2, 3), rng.uniform(1.2, 3.5), 40 + 100 * body.contrast)

    def couch(self) -> None:
        """The table: a curved shell under the back, outside the patient."""
        canvas = self.canvas
        axis = (np.arange(canvas.size) - (canvas.size - 1) / 2) * canvas.pixel
        lowest = np.flatnonzero((self.outline < 0).any(1)).max(initial=canvas.size // 2)
        x, y = np.meshgrid(axis, axis)
        bottom = axis[min(lowest, canvas.size - 1)] - 4
        curve = y - bottom + (x / 210) ** 2 * 45
        free = (self.outline > 1) & (np.abs(x) < 210)
        for depth, hu in ((0.0, -180.0), (22.0, -150.0)):
            cover = np.clip(0.5 - (np.abs(curve - depth) - 1.6) / canvas.pixel, 0, 1) * free
            canvas.hu += (cover * (hu - canvas.hu)).astype(np.float32)
        foam = (curve > 1.6) & (curve < 20.4) & free
        canvas.hu[foam] = -930

    def draw(self) -> None:
        """Lay all organ groups, outermost and hindmost first."""
        self.skin_and_subcutaneous_fat()
        self.cavity()
        self.kidneys_and_liver()
        self.bowel()
        self.great_vessels()
        # The wall confines the organs: what they overlap of it is drawn over.
        self.lateral_wall()
        self.rectus()
        self.back_muscles()
        self.vertebra()
        self.couch()


def _scan(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Blur by the reconstruction kernel and add its correlated noise, strongest where the path is longest."""
    blur_mm = rng.uniform(0.45, 0.8)
    sharp = ndimage.gaussian_filter(canvas.hu, blur_mm / canvas.pixel)
    white = rng.standard_normal(canvas.hu.shape).astype(np.float32)
    grainy = ndimage.gaussian_filter(white, 0.75) - 0.5 * ndimage.gaussian_filter(white, 2.0)
    grainy /= grainy.std()
    tissue = ndimage.gaussian_filter((canvas.hu > -500).astype(np.float32), 30 / canvas.pixel)
    return sharp + rng.uniform(8, 17) * (0.45 + 0.8 * tissue) * grainy


def phantom_slice(seed: int, *, size: int = 512) -> PhantomSlice:
    """Draw one patient at L3.

    Parameters
    ----------
    seed : int
        Decides everything; the same seed gives the same bits.
    size : int
        Pixels a side.

    Returns
    -------
    PhantomSlice
    """
    rng = np.random.default_rng(np.random.SeedSequence([0x4C33, seed]))
    habitus = draw_habitus(rng)
    widest = 2 * (habitus.wall_width + habitus.fat_side) + 30
    fields = [fov for fov in FIELD_OF_VIEW_MM if fov > widest] or [FIELD_OF_VIEW_MM[-1]]
    pixel = float(rng.choice(fields)) / size
    canvas = Canvas(size, pixel, rng)
    Torso(canvas, habitus).draw()
    hu = np.clip(np.rint(_scan(canvas, rng)), -1024, 3071).astype(np.int16)
    compartments = canvas.compartments
    return PhantomSlice(hu=hu, mask=compartments > 0, compartments=compartments, spacing=(pixel, pixel))


def patient_name(index: int) -> str:
    """Identity of a phantom patient: `PHANTOM-0001` ..."""
    return f"PHANTOM-{index + 1:04d}"


def _write_patient(index: int, *, folder: Path, seed: int, size: int, observers: dict[int, tuple[int, ...]]) -> int:
    phantom = phantom_slice(_patient_seed(seed, index), size=size)
    name = patient_name(index)
    place = folder / name
    place.mkdir()
    write_ct_slice(place / "ct.dcm", phantom.hu, phantom.spacing, patient_id=name)
    outlines = {"expert": phantom.mask}
    for observer in observers.get(index, ()):
        rng = np.random.default_rng(np.random.SeedSequence([0x0B5, seed, index, observer]))
        outlines[f"observer {observer + 1:02d}"] = outline_as_observer(
            phantom.mask, phantom.compartments, phantom.hu, phantom.spacing, observer=observer, rng=rng
        )
    write_rtstruct(place / "rtstruct.dcm", outlines, read_ct_slice(place / "ct.dcm"))
    return index


def _patient_seed(seed: int, index: int) -> int:
    return seed * 1_000_003 + index


def write_phantom(
    folder: Path,
    *,
    patients: int = 204,
    seed: int = 0,
    size: int = 512,
    test_patients: int = 37,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a phantom cohort as DICOM: one CT slice and one RTSTRUCT a patient.

    The last `test_patients` are outlined by ten simulated observers as well (Section 2.4).

    Parameters
    ----------
    folder : Path
        Must not exist; appears when it is complete.
    patients, test_patients : int
    seed : int
    size : int
        Pixels a side.
    workers : int
        Processes.
    progress : callable, optional
        Called with the number of patients done.

    Raises
    ------
    PhantomError
        If the folder exists or cannot be written, or there are more test patients than patients.
    """
    if test_patients > patients:
        raise PhantomError(f"{test_patients} test patients cannot be chosen from {patients} patients")
    if folder.exists():
        raise PhantomError(f"{folder} exists already")
    first_test = patients - test_patients
    observers = {first_test + place: group for place, group in assign_observers(test_patients).items()}
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".phantom-", dir=folder.parent))
        write = partial(_write_patient, folder=draft, seed=seed, size=size, observers=observers)
        if workers == 1:
            _count(map(write, range(patients)), progress)
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                _count(pool.map(write, range(patients), chunksize=2), progress)
        about = {"patients": patients, "test_patients": test_patients, "seed": seed, "size": size}
        (draft / "phantom.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError as error:
        raise PhantomError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        if draft is not None and draft.exists():
            shutil.rmtree(draft, ignore_errors=True)


def _count(results, progress: Callable[[int], None] | None) -> None:
    for done, _ in enumerate(results, start=1):
        if progress is not None:
            progress(done)
