"""One patient's body laid out on a canvas: where muscles, wall and tissues lie, before any of it is drawn.

Lengths are mm for an average man; the patient's `stature` scales the skeleton and `muscularity` the area of muscles.
The centre of L3's body is the origin, x runs to the patient's left and y to the back.

Where the proportions come from: order, thickness and left-right asymmetry of the abdominal wall's muscles from Rankin
et al. 2006 (rectus > internal > external oblique > transversus, single muscles 13-24 % asymmetrical); areas of psoas
(about 12 cm^2), quadratus lumborum (5-7 cm^2) and erector spinae (about 21 cm^2) at L3 from Ivanac et al. 2026;
vertebra L3 from Panjabi et al. 1992. That single measures are drawn around these values, and with which spread, is our
choice.
"""

import numpy as np
from scipy.interpolate import CubicSpline

from l3muscle.phantom.canvas import TABLE, Canvas, Curve, ellipse
from l3muscle.phantom.people import PhantomPatient

COMPARTMENTS = ("rectus", "lateral wall", "psoas", "quadratus lumborum", "erector spinae")
RECTUS, LATERAL_WALL, PSOAS, QUADRATUS, ERECTOR = range(1, 1 + len(COMPARTMENTS))
# Corners of the muscles on the patient's left, in the order in which their edges run.
PSOAS_POINTS = (
    (25, -11), (27, 3), (26, 15), (34, 22), (47, 20), (56, 9), (58, -6), (51, -18), (38, -23), (28, -19)
)  # fmt: skip
QUADRATUS_POINTS = ((45, 21), (52, 12), (63, 7), (75, 9), (82, 18), (77, 27), (63, 29), (51, 28))
ERECTOR_POINTS = (
    (6, 42), (18, 35), (33, 29), (49, 28), (63, 32), (71, 41), (72, 52), (65, 63), (53, 70), (37, 74), (19, 75),
    (7, 72), (4.5, 61), (4.5, 50),
)  # fmt: skip
DIRECTIONS = np.linspace(-np.pi, np.pi, TABLE, endpoint=False)
BACKWARD = np.abs(DIRECTIONS) > np.pi / 2
LAYERS = ("latissimus", "external", "internal", "transversus")  # of the lateral wall, from outside


class Body:
    """A patient laid out on a canvas; the functions of `anatomy` and `viscera` draw what it holds.

    Attributes
    ----------
    x, y : ndarray, (h, w)
        Of the canvas, mm.
    psoas, quadratus, erector : dict of int to Curve
        By side, -1 the patient's right and 1 the left.
    wall : Curve
        Outer surface of the abdominal wall; `index` and `depth` give each pixel's direction and depth below it.
    rectus_bounds, wall_bounds
        Depths between which the rectus, and each layer of the lateral wall, lie, by direction.
    muscle_depth, inner : ndarray, (TABLE,)
        Depth of the wall's inner face, without and with the fat on it.
    lean, fat, fatness : ndarray, (h, w)
        HU of lean muscle and of fat, and the share of fat in muscle for an infiltration of 1.
    within, room, tight_room : ndarray, (h, w)
        Distances to the cavity, and to what of it no organ has taken, with and without fat around; set while drawing.
    """

    def __init__(self, canvas: Canvas, patient: PhantomPatient) -> None:
        self.canvas, self.patient, self.rng = canvas, patient, canvas.rng
        self.x, self.y = canvas.x, canvas.y
        self.grain = canvas.field(5)
        self._lay_out_back()
        self._lay_out_surface()
        self._lay_out_layers()
        self._lay_out_texture()
        if patient.hernia:
            half = self.rng.uniform(16, 34), self.rng.uniform(12, 24)
            centre = self.rng.normal(0, 5), -patient.wall_front - 0.55 * half[1]
            self.sac = ellipse(self.x, self.y, centre, half) + 1.5 * canvas.field(18)

    def _lay_out_back(self) -> None:
        """Outlines of the muscles beside the spine, left and right drawn apart."""
        rng, patient, scale = self.rng, self.patient, self.patient.stature
        self.psoas: dict[int, Curve] = {}
        self.quadratus: dict[int, Curve] = {}
        self.erector: dict[int, Curve] = {}
        # An age-related loss spares the psoas least and the quadratus most; sides differ by a few per cent.
        for side in (-1, 1):
            for curves, points, anchor, share, asymmetry in (
                (self.psoas, PSOAS_POINTS, (27, 6), patient.psoas, 0.10),
                (self.quadratus, QUADRATUS_POINTS, (58, 22), patient.quadratus, 0.09),
                (self.erector, ERECTOR_POINTS, (12, 40), patient.erector, 0.05),
            ):
                size = np.sqrt(patient.muscularity * share) * (1 + patient.spread * rng.normal(0, asymmetry / 2))
                corners = np.array(points, dtype=np.float64) + patient.spread * rng.normal(0, 1.1, (len(points), 2))
                # Higher up the muscles are slim and stand upright, lower down they are round or lie flat.
                shape = np.exp(patient.spread * rng.normal(0, 0.06))
                corners = (np.array(anchor) + max(size, 0.25) * (corners - anchor) * (shape, 1 / shape)) * scale
                curves[side] = Curve.through(corners * (side, 1))
        self.lateral = {
            side: float((side * (c.centre[0] + c.radius * np.sin(DIRECTIONS))).max())
            for side, c in self.erector.items()
        }
        self.back = max(float((c.centre[1] + c.radius * -np.cos(DIRECTIONS)).max()) for c in self.erector.values())

    def _lay_out_surface(self) -> None:
        """Outer surface of the abdominal wall."""
        rng, patient, scale = self.rng, self.patient, self.patient.stature
        half_width, front, spread = patient.wall_width, patient.wall_front, patient.spread
        widest = rng.normal(-14, 4 * spread) * scale
        quarter = np.deg2rad([16, 34, 52, 70, 90])
        flat = rng.uniform(2.1, 2.4 + 0.1 * spread)  # 2 is an ellipse; higher has a flatter front
        across = half_width * np.sin(quarter) ** (2 / flat)
        ahead = np.stack([across, widest - (front + widest) * np.cos(quarter) ** (2 / flat)], 1)
        quarter = np.deg2rad([18, 36])
        down = widest + (self.back + 2 - widest) * np.sin(quarter) ** 0.95
        behind = np.stack([half_width * np.cos(quarter), down], 1)
        half = np.concatenate([ahead, behind])
        halves = {}
        for side in (-1, 1):
            reach = self.lateral[side]
            spine = [(0.88 * reach, self.back - 8), (0.50 * reach, self.back + 2.0), (5.0, self.back - 2.0)]
            jitter = 1 + rng.normal(0, 0.012 * spread, half.shape)
            halves[side] = np.concatenate([half * jitter, spine]) * (side, 1)
        outline = np.concatenate([[(0, -front)], halves[1], halves[-1][::-1]])
        self.wall = Curve.through(outline, centre=(0.0, (self.back - front) / 2 + 4))
        self.index, distance = self.wall.locate(self.x, self.y)
        self.depth = -distance

    def _lay_out_layers(self) -> None:
        """What lies how deep below the surface, in each direction."""
        rng, patient, wall = self.rng, self.patient, self.wall
        spread, scale = patient.spread, patient.stature
        step = 2 * np.pi / TABLE * wall.radius / wall.slant
        middle = TABLE // 2
        # From the linea alba along the surface, mm.
        along = np.concatenate([np.cumsum(step[:middle][::-1])[::-1], np.cumsum(step[middle:])])
        sides = np.sign(DIRECTIONS + 1e-9)
        size = patient.muscularity * patient.wall * scale
        layers = {name: np.zeros(TABLE) for name in ("rectus", *LAYERS)}
        self.cushion = 0.8 + patient.obesity * rng.uniform(1, 9)  # fat between the wall and what it holds
        gap = 5 * scale + abs(rng.normal(0, 3)) + patient.diastasis
        for side in (-1, 1):
            here = sides == side
            width = np.clip(rng.normal(0.44, 0.03) * patient.wall_width, 45, 78) * (0.7 + 0.3 * patient.muscularity)
            edge = gap / 2 + width
            tail = rng.normal(0, 6 * spread)
            # Where the erector's outer border meets the surface, the oblique muscles have ended.
            backward = here & BACKWARD
            offset = np.abs(wall.radius * np.sin(DIRECTIONS))[backward]
            order = np.argsort(offset)
            corner = float(np.interp(self.lateral[side], offset[order], along[backward][order]))
            belly = (13.2 + spread * rng.normal(0, 1.6)) * size * (1 - 0.12 * np.clip(patient.obesity - 0.4, 0, 1))
            for name, begin, end, thickness, deviation, fullness in (
                ("rectus", gap / 2, edge, belly, 0.0, 3.2),
                ("latissimus", corner - rng.uniform(45, 95), corner + 14, patient.latissimus, 0.3, 2.5),
                ("external", edge + spread * rng.normal(9, 3), corner - 40 + tail, 6.4 * size, 0.9 * size, 4.5),
                ("internal", edge + rng.normal(2, 2), corner - 24 + tail, 8.2 * size, 1.1 * size, 4.0),
                ("transversus", edge + rng.normal(3, 3), corner - 18 + tail, 4.0 * size, 0.6 * size, 5.0),
            ):
                thickness = max(thickness + spread * deviation * rng.normal(), 0.35 * thickness)
                # A belly from `begin` to `end` along the surface, tapering at both ends.
                taper = np.clip((2 * along - begin - end) / (end - begin), -1, 1)
                profile = thickness * (1 - np.abs(taper) ** fullness) ** 0.62
                layers[name][here] = (profile * self._waver(0.10 * spread))[here]
        plane = np.maximum(patient.planes * self._waver(0.45), 0.15)
        start = np.full(TABLE, 1.0)
        self.rectus_bounds = start, start + np.maximum(layers["rectus"], 0)
        self.wall_bounds = []
        for name in LAYERS:
            thickness = np.maximum(layers[name], 0)
            self.wall_bounds.append((start, start + thickness))
            start = start + thickness + plane * (thickness > 1)
        self.muscle_depth = np.maximum(self.rectus_bounds[1], start)
        # Liver, colon and kidney press the fat aside in some places and leave it thick in others.
        self.inner = self.muscle_depth + self.cushion * np.clip(self._waver(0.6), 0.1, 2.5)

    def _waver(self, amount: float) -> np.ndarray:
        """Thicker and thinner along the surface."""
        nodes = self.rng.normal(0, amount, 24)
        nodes[-1] = nodes[0]
        return 1 + CubicSpline(np.linspace(-np.pi, np.pi, 24), nodes, bc_type="periodic")(DIRECTIONS)

    def _lay_out_texture(self) -> None:
        """Fields that all muscles share: lean tissue, and the share of fat in it for an infiltration of 1."""
        canvas = self.canvas
        ridges = np.exp(-((canvas.field((11, 4.5)) / 0.28) ** 2)) + 0.7 * np.exp(-((canvas.field(4) / 0.16) ** 2))
        patches = 0.5 + 0.5 * np.tanh(1.6 * canvas.field(22))
        self.fatness = np.clip((0.25 + 1.5 * ridges) * patches, 0, 2.5)
        self.lean = self.patient.muscle_hu + 3.5 * self.grain + 3 * canvas.field(30)
        self.fat = self.patient.fat_hu + 3.5 * self.grain + 3 * canvas.field(40)

    def organ(self, hu: float) -> float:
        """Attenuation of one organ, strayed from its usual value."""
        return hu + self.patient.organ_spread_hu * self.rng.normal()

    def muscle(self, infiltration: float | np.ndarray, where=(slice(None), slice(None))) -> np.ndarray:
        """Attenuation of a muscle."""
        share = np.clip(infiltration * self.fatness[where], 0, 0.97)
        return self.lean[where] + share * (self.patient.fat_hu - self.lean[where])

    def bounds(self) -> np.ndarray:
        """What an organ must stay within: it lies on its fat, or on the wall itself, or between."""
        return self.room + np.float32(self.rng.random()) * (self.tight_room - self.room)

    def take_room(self, organ: np.ndarray) -> None:
        """Leave no room for others where an organ lies."""
        self.room = np.maximum(self.room, 2 - organ)
        self.tight_room = np.maximum(self.tight_room, 1 - organ)
