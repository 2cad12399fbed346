"""The abdomen at L3, organ group by organ group.

Lengths are mm for an average man; `Patient.stature` scales the skeleton and `Patient.muscularity` the area of the
muscles. The centre of L3's body is the origin, x runs to the patient's left and y to the back.

Where the proportions come from: order, thickness and left-right asymmetry of the abdominal wall's muscles from Rankin
et al. 2006 (rectus > internal > external oblique > transversus, single muscles 13-24 % asymmetrical); areas of psoas
(about 12 cm^2), quadratus lumborum (5-7 cm^2) and erector spinae (about 21 cm^2) at L3 from Ivanac et al. 2026;
vertebra L3 from Panjabi et al. 1992. That single measures are drawn around these values, and with which spread, is our
choice.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

from l3muscle.phantom.canvas import TABLE, Canvas, Curve, capsule, ellipse, smooth_max, smooth_min

COMPARTMENTS = ("rectus", "lateral wall", "psoas", "quadratus lumborum", "erector spinae")
RECTUS, LATERAL_WALL, PSOAS, QUADRATUS, ERECTOR = range(1, 1 + len(COMPARTMENTS))
# Corners of the muscles on the patient's left, in the order in which their edges run.
PSOAS_POINTS = (
    (25, -11),
    (27, 3),
    (26, 15),
    (34, 22),
    (47, 20),
    (56, 9),
    (58, -6),
    (51, -18),
    (38, -23),
    (28, -19),
)
QUADRATUS_POINTS = ((45, 21), (52, 12), (63, 7), (75, 9), (82, 18), (77, 27), (63, 29), (51, 28))
ERECTOR_POINTS = (
    (6, 42), (18, 35), (33, 29), (49, 28), (63, 32), (71, 41), (72, 52), (65, 63), (53, 70), (37, 74), (19, 75),
    (7, 72), (4.5, 61), (4.5, 50),
)  # fmt: skip
EMPTY_HU = -930.0  # gas in the bowel


@dataclass(frozen=True)
class Patient:
    """Who is drawn, in the numbers that the organ groups need (mm and HU unless said otherwise)."""

    male: bool
    age: float  # years
    obesity: float  # 0 cachectic, 0.4 average, 1 and more obese
    stature: float  # length scale of the skeleton
    muscularity: float  # share of the average muscle area for that stature
    wall_width: float  # half-width of the abdominal wall
    wall_front: float  # from the centre of L3 to the linea alba
    fat_front: float  # subcutaneous
    fat_side: float
    fat_back: float
    muscle_hu: float  # of muscle without visible fat
    fat_hu: float
    infiltration: float  # fat inside muscles, 0 to 0.7
    planes: float  # fat between the layers of the wall
    contrast: float  # 0 none, 1 portal venous phase
    ascites: bool
    oedema: float  # strands in the subcutaneous fat, 0 to 1
    diastasis: float  # extra gap between the rectus bellies
    stoma: bool
    arms: bool
    screws: bool
    hernia: bool = False  # through the linea alba
    liver: bool = False  # the right lobe reaches down to the slice
    spleen: bool = False
    ribs: int = 0  # cut in each flank, 0 to 2
    masses: int = 0  # of soft tissue, anywhere in the cavity
    stomach: bool = False  # its lowest part
    latissimus: float = 0.0  # thickness of its lowest sheet, mm
    lamina: bool = True  # the slice cuts the laminae, not the gap between two
    psoas: float = 1.0  # size relative to the other muscles
    quadratus: float = 1.0
    erector: float = 1.0
    wall: float = 1.0
    spread: float = 1.0  # how far single outlines stray from the average
    organ_spread_hu: float = 0.0  # how far the attenuation of single organs strays


class Torso:
    """Draws one patient on a canvas; `draw` calls the organ groups in the order in which they cover each other."""

    def __init__(self, canvas: Canvas, patient: Patient) -> None:
        self.canvas, self.patient, self.rng = canvas, patient, canvas.rng
        self.x, self.y = canvas.x, canvas.y
        self.grain = canvas.field(5)
        self._lay_out_back()
        self._lay_out_wall()
        self._lay_out_texture()
        if patient.hernia:
            half = self.rng.uniform(16, 34), self.rng.uniform(12, 24)
            place = self.rng.normal(0, 5), -patient.wall_front - 0.55 * half[1]
            self.sac = ellipse(self.x, self.y, place, half) + 1.5 * canvas.field(18)

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
        self.back = max(float((c.centre[1] + c.radius * -np.cos(_DIRECTIONS)).max()) for c in self.erector.values())

    def _lay_out_wall(self) -> None:
        """Outer surface of the abdominal wall, and what lies how deep below it in each direction."""
        rng, patient, scale = self.rng, self.patient, self.patient.stature
        a, front, spread = patient.wall_width, patient.wall_front, patient.spread
        widest = rng.normal(-14, 4 * spread) * scale
        quarter = np.deg2rad([16, 34, 52, 70, 90])
        flat = rng.uniform(2.1, 2.4 + 0.1 * spread)  # 2 is an ellipse; higher has a flatter front
        ahead = np.stack(
            [a * np.sin(quarter) ** (2 / flat), widest - (front + widest) * np.cos(quarter) ** (2 / flat)], 1
        )
        quarter = np.deg2rad([18, 36])
        behind = np.stack([a * np.cos(quarter), widest + (self.back + 2 - widest) * np.sin(quarter) ** 0.95], 1)
        right_half = np.concatenate([ahead, behind])
        lateral = {
            side: float((side * (c.centre[0] + c.radius * np.sin(_DIRECTIONS))).max())
            for side, c in self.erector.items()
        }
        halves = {
            side: np.concatenate(
                [
                    right_half * (1 + rng.normal(0, 0.012 * spread, right_half.shape)),
                    [
                        (0.88 * lateral[side], self.back - 8),
                        (0.50 * lateral[side], self.back + 2.0),
                        (5.0, self.back - 2.0),
                    ],
                ]
            )
            * (side, 1)
            for side in (-1, 1)
        }
        outline = np.concatenate([[(0, -front)], halves[1], halves[-1][::-1]])
        self.wall = wall = Curve.through(outline, centre=(0.0, (self.back - front) / 2 + 4))
        self.index, distance = wall.place(self.x, self.y)
        self.depth = -distance
        step = 2 * np.pi / TABLE * wall.radius / wall.slant
        middle = TABLE // 2
        along = np.concatenate([np.cumsum(step[:middle][::-1])[::-1], np.cumsum(step[middle:])])
        side = np.sign(_DIRECTIONS + 1e-9)
        size = patient.muscularity * patient.wall * scale

        def profile(start: float, end: float, thickness: float, fullness: float) -> np.ndarray:
            """A belly from `start` to `end` along the surface, tapering at both ends."""
            place = np.clip((2 * along - start - end) / (end - start), -1, 1)
            return thickness * (1 - np.abs(place) ** fullness) ** 0.62

        def waver(amount: float) -> np.ndarray:
            """Thicker and thinner along the surface."""
            nodes = rng.normal(0, amount, 24)
            nodes[-1] = nodes[0]
            return 1 + CubicSpline(np.linspace(-np.pi, np.pi, 24), nodes, bc_type="periodic")(_DIRECTIONS)

        layers = {name: np.zeros(TABLE) for name in ("rectus", "latissimus", "external", "internal", "transversus")}
        self.cushion = 0.8 + patient.obesity * rng.uniform(1, 9)  # fat between the wall and what it holds
        gap = 5 * scale + abs(rng.normal(0, 3)) + patient.diastasis
        self.semilunaris = {}
        for s in (-1, 1):
            here = side == s
            width = np.clip(rng.normal(0.44, 0.03) * a, 45, 78) * (0.7 + 0.3 * patient.muscularity)
            edge = gap / 2 + width
            self.semilunaris[s] = edge
            tail = rng.normal(0, 6 * spread)
            # Where the erector's outer border meets the surface, the oblique muscles have ended.
            corner = float(np.interp(lateral[s], *_rising(np.abs(wall.radius * np.sin(_DIRECTIONS))[here & _BACKWARD],
                                                          along[here & _BACKWARD])))  # fmt: skip
            belly = (13.2 + spread * rng.normal(0, 1.6)) * size * (1 - 0.12 * np.clip(patient.obesity - 0.4, 0, 1))
            for name, begin, end, thickness, deviation, fullness in (
                ("rectus", gap / 2, edge, belly, 0.0, 3.2),
                ("latissimus", corner - rng.uniform(45, 95), corner + 14, patient.latissimus, 0.3, 2.5),
                ("external", edge + spread * rng.normal(9, 3), corner - 40 + tail, 6.4 * size, 0.9 * size, 4.5),
                ("internal", edge + rng.normal(2, 2), corner - 24 + tail, 8.2 * size, 1.1 * size, 4.0),
                ("transversus", edge + rng.normal(3, 3), corner - 18 + tail, 4.0 * size, 0.6 * size, 5.0),
            ):
                thickness = max(thickness + spread * deviation * rng.normal(), 0.35 * thickness)
                layers[name][here] = (profile(begin, end, thickness, fullness) * waver(0.10 * spread))[here]
        plane = np.maximum(patient.planes * waver(0.45), 0.15)
        start = np.full(TABLE, 1.0)
        self.rectus_bounds = start, start + np.maximum(layers["rectus"], 0)
        self.wall_bounds = []
        for name in ("latissimus", "external", "internal", "transversus"):
            thickness = np.maximum(layers[name], 0)
            self.wall_bounds.append((start, start + thickness))
            start = start + thickness + plane * (thickness > 1)
        self.muscle_depth = np.maximum(self.rectus_bounds[1], start)
        # Liver, colon and kidney press the fat aside in some places and leave it thick in others.
        self.inner = self.muscle_depth + self.cushion * np.clip(waver(0.6), 0.1, 2.5)

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

    def skin_and_subcutaneous_fat(self) -> None:
        """Body outline: fat over the wall, thickest at the front, flank or back, and flattened by the couch."""
        patient, canvas, rng = self.patient, self.canvas, self.rng
        front, side, back = patient.fat_front, patient.fat_side, patient.fat_back
        # Thickness every 36 degrees from the back over the flank to the front, nearly alike on both sides.
        nodes = np.array([0.85 * back, back, 0.5 * (back + side), side, 0.6 * front + 0.4 * side, front])
        nodes = np.concatenate([nodes, nodes[-2::-1]]) * (1 + 0.03 * rng.standard_normal(11))
        nodes[-1] = nodes[0]
        thickness = CubicSpline(np.linspace(-np.pi, np.pi, 11), nodes, bc_type="periodic")(_DIRECTIONS)
        thickness = np.maximum(thickness, 3.5)
        around = ndimage.gaussian_filter1d(
            self.wall.radius + thickness, np.deg2rad(13) * TABLE / (2 * np.pi), mode="wrap"
        )
        surface = np.maximum(around, self.wall.radius + 3)
        edge = np.stack([surface * np.sin(_DIRECTIONS), -surface * np.cos(_DIRECTIONS)], 1) + self.wall.centre
        distance = Curve.through(edge[:: TABLE // 32], self.wall.centre).distance(self.x, self.y)
        thickness = thickness.astype(np.float32)[self.index]
        furrow = rng.uniform(2, 7) * np.exp(-((self.x / 15) ** 2)) * (self.y > 0)
        distance = np.minimum(distance + furrow, -self.depth - 2.5)
        # A supine back lies flat on its fat.
        lowest = self.back + 0.7 * back
        self.outline = smooth_max(distance, self.y - np.float32(lowest), 32)
        if rng.random() < 0.25:
            deep = max(front * rng.uniform(0.3, 0.7), 4)
            navel = ellipse(self.x, self.y, (rng.normal(0, 4), -patient.wall_front - front), (rng.uniform(5, 9), deep))
            self.outline = smooth_max(self.outline, -navel, 12)
        if patient.hernia:
            self.outline = smooth_min(self.outline, self.sac - 6, 12)
        canvas.lay(self.outline, rng.uniform(-10, 35))
        canvas.lay(self.outline + rng.uniform(1.4, 2.2), self.fat)
        inside = -self.outline
        # Scarpa's fascia, halfway, and septa that oedema makes plain.
        fascia = inside - thickness * (0.45 + 0.07 * canvas.field(45))
        canvas.line(fascia, np.where(thickness > 9, 0.5 + 0.35 * canvas.field(20), 0).clip(0), -30)
        septa = np.exp(-((canvas.field(13) / 0.05) ** 2)) + np.exp(-((canvas.field((9, 24)) / 0.05) ** 2))
        strength = (8 + 60 * patient.oedema) * np.clip((inside - 2) / 3, 0, 1)
        canvas.hu += strength * np.minimum(septa, 1)
        for _ in range(rng.poisson(10)):
            angle = rng.uniform(-np.pi, np.pi)
            radius = float(self.wall.radius[int((angle + np.pi) / (2 * np.pi) * TABLE) % TABLE]) + rng.uniform(3, 12)
            x, y = self.wall.centre[0] + radius * np.sin(angle), self.wall.centre[1] - radius * np.cos(angle)
            canvas.dot(x, y, rng.uniform(0.6, 1.4), 30)

    def cavity(self) -> None:
        """All inside the wall starts as fat; strands and vessels of the mesentery run through it, or ascites."""
        patient, canvas, rng = self.patient, self.canvas, self.rng
        inner = self.inner.astype(np.float32)[self.index]
        self.within = inner - self.depth
        self.bare = self.muscle_depth.astype(np.float32)[self.index] + 0.6 - self.depth
        canvas.lay(-self.depth, self.fat + 4)
        strands = np.exp(-((canvas.field(15) / 0.07) ** 2)) * np.clip(0.3 + canvas.field(40), 0, 1)
        canvas.hu += canvas.cover(self.within + 4) * strands * rng.uniform(15, 60)
        if patient.ascites:
            pooled = smooth_max(self.within, np.abs(self.y + 30) - 60 + 12 * canvas.field(40), 6)
            canvas.lay(
                smooth_max(pooled, -self.within - rng.uniform(15, 45) + 8 * canvas.field(25), 5),
                rng.uniform(4, 18),
            )
        self.vessel_hu = self.organ(42 + 105 * patient.contrast)
        for _ in range(rng.poisson(45)):
            direction, distance = rng.uniform(-np.pi, np.pi), np.sqrt(rng.random())
            x = 5 + 0.72 * patient.wall_width * distance * np.sin(direction)
            y = -0.48 * patient.wall_front - 0.42 * (patient.wall_front - 25) * distance * np.cos(direction)
            turn, stretch = rng.uniform(0, np.pi), 1 + rng.exponential(1.2)
            canvas.dot(
                x,
                y,
                rng.gamma(3, 0.45) + 0.5,
                self.vessel_hu - rng.uniform(0, 25),
                stretch=stretch,
                turn=turn,
            )

    def retroperitoneum(self) -> None:
        """Kidneys, great vessels, ureters; together with psoas and spine they bound the room for the bowel."""
        patient, canvas, rng, scale = self.patient, self.canvas, self.rng, self.patient.stature
        wide = canvas.around(0, 0, 105 * scale)
        x, y = self.x[wide], self.y[wide]
        psoas = np.minimum(*(self.psoas[side].distance(x, y) for side in (-1, 1)))
        quadratus = np.minimum(*(self.quadratus[side].distance(x, y) for side in (-1, 1)))
        spine = ellipse(x, y, (0, 0), (25 * scale, 19 * scale))
        block = np.minimum(np.minimum(psoas, quadratus), spine)
        within = self.within[wide]
        cortex = self.organ(30 + 135 * patient.contrast + rng.normal(0, 6))
        kidneys = np.full_like(block, 1e3)
        for side, chance in ((-1, 0.8), (1, 0.65)):
            if rng.random() > chance:
                continue
            radius = rng.uniform(13, 30) * scale
            middle = self.psoas[side].centre[0] + side * (17 * scale + radius + rng.uniform(0, 6))
            middle = side * min(abs(middle), patient.wall_width - 22 - radius)
            centre = (middle, rng.normal(-6, 5) * scale)
            turn = side * rng.normal(0.5, 0.2)
            kidney = (
                ellipse(x, y, centre, (radius, radius * rng.uniform(1.05, 1.3)), turn=turn)
                + 1.2 * canvas.field(24)[wide]
            )
            kidney = smooth_max(smooth_max(kidney, rng.uniform(0, 3) - block, 4), within + 5, 4)
            fascia = kidney - rng.uniform(6, 14)
            canvas.line(np.maximum(fascia, within), 0.5, -20, wide)
            canvas.lay(kidney, cortex, where=wide)
            if radius > 20 * scale:
                medulla = kidney + rng.uniform(5, 7)
                canvas.lay(medulla, cortex - 28 * patient.contrast + 6 * self.grain[wide], where=wide)
                sinus = ellipse(
                    x,
                    y,
                    (centre[0] - side * 0.35 * radius, centre[1] - 1),
                    (0.55 * radius, 0.3 * radius),
                    turn=-turn,
                )
                canvas.lay(sinus + 3 * canvas.field(9)[wide], self.fat[wide] + 25, where=wide)
            if rng.random() < 0.2:
                angle = rng.uniform(0, 2 * np.pi)
                place = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
                canvas.lay(ellipse(x, y, place, (rng.uniform(4, 13),) * 2), rng.uniform(0, 15), where=wide)
            kidneys = np.minimum(kidneys, kidney - 5)
        block = np.minimum(block, kidneys)
        front = -18.5 * scale
        lumen = rng.normal(9.3, 0.9) * (1 if patient.male else 0.88) * (1 + 0.004 * (patient.age - 60))
        if rng.random() < 0.03:
            lumen *= rng.uniform(1.5, 2.2)
        aorta = (rng.normal(9, 3.5), front - lumen - rng.uniform(0.5, 2.5))
        cava = (rng.normal(-17, 2.5), front - 7 + rng.uniform(-2, 1))
        flat = rng.uniform(0.45, 0.95)
        for side in (-1, 1):
            canvas.lay(
                capsule(x, y, (side * 15, front + 2), (side * 3 + 4, front - 1.5), 1.8),
                patient.muscle_hu,
                where=wide,
            )
        cava_distance = (
            ellipse(x, y, cava, (11.5 / flat**0.4, 11.5 * flat), turn=rng.normal(0.15, 0.15)) + 0.7 * self.grain[wide]
        )
        canvas.lay(cava_distance, self.organ(self.vessel_hu - 14 * patient.contrast), where=wide)
        aorta_distance = ellipse(x, y, aorta, (lumen, lumen * rng.uniform(0.93, 1.03)))
        canvas.lay(aorta_distance - 0.8, 45, where=wide)
        canvas.lay(aorta_distance + 0.6, self.vessel_hu + 6 * patient.contrast, where=wide)
        for _ in range(rng.poisson(max(patient.age - 50, 0) / 8)):
            angle = rng.uniform(0, 2 * np.pi)
            spot = aorta[0] + lumen * np.cos(angle), aorta[1] + lumen * np.sin(angle)
            canvas.dot(
                *spot,
                rng.uniform(0.6, 1.4),
                rng.uniform(350, 1000),
                stretch=rng.uniform(1, 3.5),
                turn=angle + np.pi / 2,
            )
        canvas.dot(aorta[0] + rng.normal(0, 4), aorta[1] - lumen - rng.uniform(9, 20), 3.4, self.vessel_hu)
        canvas.dot(aorta[0] - 14 + rng.normal(0, 4), aorta[1] - lumen - rng.uniform(8, 20), 5.2, self.vessel_hu)
        for _ in range(rng.poisson(5)):
            canvas.dot(rng.normal(0, 22), front - rng.uniform(2, 24), rng.uniform(1, 2.6), 38)
        for side in (-1, 1):
            top = float(self.psoas[side].centre[1]) - 21 * scale
            for offset, radius in ((rng.normal(40, 4), 2.0), (rng.normal(46, 4), 1.4)):
                hu = rng.uniform(400, 900) if patient.contrast > 0.9 and radius == 2.0 else rng.uniform(10, 45)
                canvas.dot(side * offset * scale, top + rng.normal(0, 3), radius, hu)
        vessels = np.minimum(aorta_distance, cava_distance) - 3
        # Where the bowel may lie, and where what presses fat aside may.
        self.room, self.tight_room = self.within.copy(), self.bare.copy()
        self.room[wide] = np.maximum(self.room[wide], 0.4 * self.cushion + 0.5 - np.minimum(block, vessels))
        self.tight_room[wide] = np.maximum(self.tight_room[wide], 0.5 - np.minimum(block, vessels))

    def _bounds(self) -> np.ndarray:
        """What an organ must stay within: it lies on its fat, or on the wall itself, or between."""
        return self.room + np.float32(self.rng.random()) * (self.tight_room - self.room)

    def _take_room(self, organ: np.ndarray) -> None:
        self.room = np.maximum(self.room, 2 - organ)
        self.tight_room = np.maximum(self.tight_room, 1 - organ)

    def liver_and_spleen(self) -> None:
        """Tip of the right lobe along the flank, now and then the gallbladder or the spleen's tip."""
        patient, canvas, rng = self.patient, self.canvas, self.rng
        for side, present, hu in (
            (-1, patient.liver, self.organ(58 + 48 * patient.contrast)),
            (1, patient.spleen, self.organ(48 + 65 * patient.contrast)),
        ):
            if not present:
                continue
            half = rng.uniform(14, 30 + 12 * patient.spread), rng.uniform(28, 54 + 12 * patient.spread)
            centre = side * (patient.wall_width - 12), rng.uniform(-30 - 20 * patient.spread, -5)
            organ = ellipse(self.x, self.y, centre, half, turn=-side * rng.uniform(0, 0.4)) + 2 * canvas.field(40)
            organ = smooth_max(organ, self._bounds() + 0.6, 5)
            canvas.lay(organ, hu + rng.normal(0, 8) + 3 * self.grain)
            for _ in range(rng.poisson(6)):
                inside = centre[0] + 0.6 * half[0] * rng.normal(), centre[1] + 0.6 * half[1] * rng.normal()
                if max(abs(inside[0] - centre[0]) / half[0], abs(inside[1] - centre[1]) / half[1]) < 0.7:
                    canvas.dot(*inside, rng.uniform(1, 4), self.vessel_hu, stretch=1 + rng.exponential(1.0), turn=1.0)
            self._take_room(organ)
            if side == -1 and rng.random() < 0.3:
                place = centre[0] + half[0] + 14, centre[1] - rng.uniform(5, 25)
                bladder = smooth_max(
                    ellipse(self.x, self.y, place, (rng.uniform(9, 16), 15), turn=0.4), self.room + 1, 3
                )
                canvas.lay(bladder, 55 + 40 * patient.contrast)
                canvas.lay(bladder + 1.8, rng.uniform(2, 18))
                self._take_room(bladder)

    def masses(self) -> None:
        """Soft tissue that may lie anywhere in the cavity: tumour, fluid collection, a lobe of an organ from above."""
        patient, canvas, rng = self.patient, self.canvas, self.rng
        for _ in range(patient.masses):
            direction = rng.uniform(-0.8, 0.8) * np.pi
            index = int((direction + np.pi) / (2 * np.pi) * TABLE) % TABLE
            reach = rng.uniform(0.35, 1.0) * (float(self.wall.radius[index]) - float(self.muscle_depth[index]))
            place = self.wall.centre[0] + reach * np.sin(direction), self.wall.centre[1] - reach * np.cos(direction)
            half = rng.uniform(8, 34), rng.uniform(12, 62)
            # The longer axis along the wall, roughly.
            mass = ellipse(self.x, self.y, place, half, turn=direction + np.pi / 2 + rng.normal(0, 0.4))
            mass = smooth_max(mass + 2.5 * canvas.field(28), self._bounds() + 0.5, 5)
            canvas.lay(mass, patient.muscle_hu + rng.normal(0, 16) + 3 * self.grain)
            self._take_room(mass)

    def bowel(self) -> None:
        """Colon and small bowel: soft loops that press each other flat, with walls, gas, fluid, faeces or contrast.

        A pixel belongs to the loop whose ellipse it lies deepest in; where two are nearly tied runs the seam between
        them, so that loops touch without overlap.
        """
        patient, canvas, rng = self.patient, self.canvas, self.rng
        a, front = patient.wall_width, patient.wall_front
        loops: list[tuple[float, ...]] = []  # x, y, half-axes, turn
        kinds: list[str] = []

        def add(kind: str, x: float, y: float, half: tuple[float, float], turn: float) -> None:
            loops.append((x, y, *half, turn))
            kinds.append(kind)

        caecal, distal = rng.uniform(18, 31), rng.uniform(11, 22)
        add(
            "colon",
            -(a - 22 - 0.8 * caecal),
            rng.normal(2, 8),
            (caecal, caecal * rng.uniform(0.85, 1.2)),
            0.0,
        )
        add("colon", a - 24 - 0.8 * distal, rng.normal(6, 8), (distal, distal * rng.uniform(0.85, 1.2)), 0.0)
        if rng.random() < 0.6:
            count, low = rng.integers(2, 6), -front + rng.uniform(20, 40)
            for place in np.linspace(-0.5, 0.5, count) + rng.normal(0, 0.04):
                half = rng.uniform(15, 26), rng.uniform(11, 19)
                add("colon", place * a * 1.2, low + 60 * place**2 + rng.normal(0, 4), half, rng.normal(0, 0.2))
        if patient.stomach:
            half = rng.uniform(24, 52), rng.uniform(12, 26)
            add("stomach", rng.normal(8, 22), -front + half[1] + rng.uniform(4, 16), half, rng.normal(0, 0.25))
        if rng.random() < 0.45:
            add(
                "small",
                rng.normal(-8, 8),
                -18 * patient.stature - rng.uniform(26, 32),
                (rng.uniform(26, 42), 9.5),
                0.05,
            )
        crowd = rng.uniform(0.5, 0.9)
        for _ in range(500):
            if len(loops) > 38:
                break
            radius = np.sqrt(rng.random())
            angle = rng.uniform(-np.pi, np.pi)
            x, y = (
                radius * (a - 32) * np.sin(angle),
                -0.42 * front - radius * 0.5 * (front - 10) * np.cos(angle),
            )
            size = rng.uniform(9, 18)
            taken = np.array(loops)
            near = np.min(np.hypot(x - taken[:, 0], y - taken[:, 1]) - (taken[:, 2] + taken[:, 3]) / 2)
            if near > crowd * size and not (patient.obesity > 0.5 and abs(x) < 0.35 * a and rng.random() < 0.5):
                stretch = rng.uniform(1.0, 1.9)
                add("small", x, y, (size * stretch**0.5, size / stretch**0.5), rng.uniform(0, np.pi))
        table = np.array(loops, dtype=np.float32)
        pick = np.flatnonzero(self.room.ravel() < 1)
        if not pick.size:
            return
        bent = [(axis + 3.0 * canvas.field(16) + 1.2 * canvas.field(7)).ravel()[pick] for axis in (self.x, self.y)]
        u, v = (bent[axis][None] - table[:, axis, None] for axis in (0, 1))
        cos, sin = np.cos(table[:, 4, None]), np.sin(table[:, 4, None])
        deep = np.hypot((cos * u + sin * v) / table[:, 2, None], (cos * v - sin * u) / table[:, 3, None])
        owner = deep.argmin(axis=0)
        everyone = np.arange(pick.size)
        first = deep[owner, everyone]
        deep[owner, everyone] = np.inf
        second = deep.min(axis=0)
        size = (table[:, 2] + table[:, 3])[owner] / 2
        seam = rng.uniform(0.0, 1.2) * (0.5 + patient.obesity)
        edge = smooth_max((first - 1) * size, seam - (second - first) * size * 0.55, 4)
        edge = smooth_max(edge, self.room.ravel()[pick] + 0.5, 3)
        self._fill_loops(kinds, table, owner, edge, pick)

    def _fill_loops(
        self, kinds: list[str], loops: np.ndarray, owner: np.ndarray, edge: np.ndarray, pick: np.ndarray
    ) -> None:
        """Walls and contents of the loops, pixel by pixel from tables over the loops."""
        patient, canvas, rng = self.patient, self.canvas, self.rng
        wall, wall_hu, content, gas_level, mottle, fold = (np.zeros(len(kinds), np.float32) for _ in range(6))
        small_contrast, colon_contrast = rng.random() < 0.35, rng.random() < 0.2
        for i, kind in enumerate(kinds):
            wall[i] = rng.uniform(1.4, 2.8)
            wall_hu[i] = self.organ(rng.normal(38, 5) + rng.uniform(25, 65) * patient.contrast)
            content[i] = self.organ(rng.uniform(5, 32))
            gas_level[i] = -1e3
            y, half = loops[i, 1], loops[i, 3]
            if kind == "stomach":
                wall[i], fold[i] = rng.uniform(3, 9), rng.uniform(0.5, 2)
                gas_level[i] = y + half * rng.uniform(-1.1, 0.2)
            elif kind == "colon":
                wall[i] = rng.uniform(1.2, 2.4)
                state = rng.random()
                if state < 0.5:
                    gas_level[i] = y + half * rng.uniform(-0.6, 1.2)
                if state > 0.25:
                    content[i], mottle[i] = rng.uniform(-40, 40), rng.uniform(0.5, 1.2)
                if colon_contrast:
                    content[i] = rng.uniform(120, 500)
            else:
                fold[i] = rng.uniform(0.4, 1.6)
                state = rng.random()
                if state < 0.3:
                    wall[i] = 30.0  # collapsed: nothing but wall
                elif state < 0.42:
                    gas_level[i] = y + half * rng.uniform(-0.9, 0.3)
                if small_contrast and rng.random() < 0.6:
                    content[i] = rng.uniform(90, 420)
        grain, hu = self.grain.ravel()[pick], canvas.hu.ravel()
        lumps, bubbles = canvas.field(6).ravel()[pick], canvas.field(3.2).ravel()[pick]
        values = hu[pick]
        values += canvas.cover(edge) * (wall_hu[owner] + 4 * grain - values)
        mucosa = edge + wall[owner] + fold[owner] * bubbles
        cover = canvas.cover(mucosa)
        filling = content[owner] + mottle[owner] * (28 * lumps - 330 * np.clip(bubbles - 0.9, 0, 1.2))
        gas = np.clip(0.5 + (gas_level[owner] - self.y.ravel()[pick]) / canvas.pixel, 0, 1)
        filling = filling + gas * (EMPTY_HU - filling)
        values += cover * (filling - values)
        hu[pick] = values
        canvas.hu = hu.reshape(canvas.hu.shape)

    def abdominal_wall(self) -> None:
        """Rectus bellies beside the linea alba; external and internal oblique and transversus in layers; fascia."""
        patient, canvas = self.patient, self.canvas
        depth, index = self.depth, self.index
        low, high = (bound.astype(np.float32)[index] for bound in self.rectus_bounds)
        distance = np.where(high - low > 0.3, np.maximum(low - depth, depth - high), 1e3)
        # Sheath and aponeuroses: a thin line over and under the muscles that also joins them.
        canvas.line(depth - 0.6, 1.1, 15)
        canvas.line(depth - np.maximum(high, 2.0) - 0.6, 0.9, 5)
        canvas.lay(distance, self.muscle(0.55 * patient.infiltration), label=RECTUS)
        hu = self.muscle(0.5 * patient.infiltration)
        nearest = np.full_like(depth, 1e3)
        outer = inner = None
        for low_table, high_table in self.wall_bounds:
            low, high = low_table.astype(np.float32)[index], high_table.astype(np.float32)[index]
            distance = np.where(high - low > 0.3, np.maximum(low - depth, depth - high), 1e3)
            cover = canvas.cover(distance) * np.minimum((high - low) / canvas.pixel, 1)
            canvas.blend(cover, hu)
            nearest = np.minimum(nearest, distance)
            outer = low if outer is None else outer
            inner = high
        # The expert's outline runs over planes that are too thin to draw around.
        bridged = np.maximum(nearest - 1.0, np.maximum(outer - depth, depth - inner))
        canvas.label[(bridged < 0) & (nearest < 100)] = LATERAL_WALL
        canvas.line(self.within - 0.5, 0.5, -10)

    def ribs(self) -> None:
        """Tips of the eleventh and twelfth rib between the layers of the flank."""
        canvas, rng, wall = self.canvas, self.rng, self.wall
        for side in (-1, 1):
            for number in range(self.patient.ribs):
                direction = side * np.deg2rad(rng.uniform(86, 112) if number else rng.uniform(112, 136))
                index = int((direction + np.pi) / (2 * np.pi) * TABLE) % TABLE
                depth = rng.uniform(0.35, 0.75) * float(self.muscle_depth[index]) + 2
                radius = float(wall.radius[index]) - depth / float(wall.slant[index])
                place = wall.centre[0] + radius * np.sin(direction), wall.centre[1] - radius * np.cos(direction)
                where = canvas.around(*place, 30)
                half = rng.uniform(6, 17), rng.uniform(3.2, 5.2)
                # Along the wall: at right angles to the direction in which it is seen, near enough.
                bone = ellipse(self.x[where], self.y[where], place, half, turn=direction, power=2.4)
                bone = bone + 0.5 * canvas.field(8)[where]
                canvas.lay(bone, rng.uniform(350, 800), where=where)
                canvas.lay(bone + rng.uniform(1.2, 2.0), rng.uniform(60, 260), where=where)

    def herniate(self) -> None:
        """A sac of mesenteric fat, often with a loop of bowel, through a gap in the linea alba."""
        patient, canvas, rng = self.patient, self.canvas, self.rng
        sac = self.sac
        canvas.lay(sac, 25)
        canvas.lay(sac + 1.0, self.fat + 6)
        neck = np.maximum(np.abs(self.x) - 0.4 * (patient.diastasis + 5), np.abs(self.y + patient.wall_front - 6) - 12)
        canvas.lay(neck, self.fat + 4)
        if rng.random() < 0.6:
            loop = smooth_max(sac + rng.uniform(3, 6), np.hypot(self.x - rng.normal(0, 6), 0) - rng.uniform(8, 16), 5)
            canvas.lay(loop, self.organ(38 + 40 * patient.contrast))
            canvas.lay(loop + 2.2, EMPTY_HU if rng.random() < 0.3 else self.organ(15))

    def posterior_muscles(self) -> None:
        """Psoas, quadratus lumborum, erector spinae with multifidus, each in its sleeve of fat."""
        patient, canvas, rng, scale = self.patient, self.canvas, self.rng, self.patient.stature
        inf = patient.infiltration
        for side in (-1, 1):
            for curve, label, share in (
                (self.quadratus[side], QUADRATUS, 0.7),
                (self.psoas[side], PSOAS, 0.35),
                (self.erector[side], ERECTOR, 1.0),
            ):
                where = canvas.around(*curve.centre, curve.reach)
                x, y = self.x[where], self.y[where]
                distance = (
                    curve.distance(x, y) + 0.7 * canvas.field(14)[where] + (0.25 + 1.2 * inf) * canvas.field(6)[where]
                )
                sleeve = rng.uniform(0.5, 1.1) + 1.5 * inf
                distance = smooth_max(distance, sleeve - self.depth[where] - 0.4, 3)
                canvas.lay(distance - sleeve, self.fat[where], where=where)
                infiltration = share * inf
                if label == ERECTOR:
                    # Fat gathers in multifidus, towards the lamina and below the fascia.
                    medial = np.exp(-((np.abs(x) / (24 * scale)) ** 2))
                    shallow = np.clip(1 - (self.depth[where] - 2) / 9, 0, 1)
                    infiltration = infiltration * (0.75 + 1.1 * medial + 0.5 * shallow)
                canvas.lay(distance, self.muscle(infiltration, where), label=label, where=where)
                if label == ERECTOR:
                    self._clefts(side, where, distance)
        canvas.line(self.depth - 0.5, 0.9 * (self.y > 20), 25)

    def _clefts(self, side: int, where, distance: np.ndarray) -> None:
        """Fat clefts between multifidus, longissimus and iliocostalis."""
        canvas, rng, scale = self.canvas, self.rng, self.patient.stature
        x, y = side * self.x[where] / scale, self.y[where] / scale
        wave = 1.6 * canvas.field(12)[where]
        for foot, lean, bow, width in (
            (rng.normal(25, 1.5), rng.normal(0.10, 0.06), 0.010, rng.uniform(0.3, 0.8)),
            (rng.normal(54, 2.5), rng.normal(-0.1, 0.1), 0.006, rng.uniform(0.1, 0.6)),
        ):
            middle = foot + lean * (y - 32) - bow * (y - 50) ** 2 * 0.6 + wave
            width = (width + 2.2 * self.patient.infiltration) * np.clip(0.8 + canvas.field(16)[where], 0, 1.6)
            inside = np.clip(-distance / 2, 0, 1)
            canvas.line((x - middle) * scale, width * inside, self.patient.fat_hu, where)

    def vertebra(self) -> None:
        """L3: body and arch with cortical shell and trabecular core, the canal, and ligament between the processes."""
        patient, canvas, rng, scale = self.patient, self.canvas, self.rng, self.patient.stature
        where = canvas.around(0, 24 * scale, 64 * scale)
        x, y = self.x[where] / scale, self.y[where] / scale
        wobble = 0.6 * canvas.field(9)[where]
        half = 23.5 + patient.spread * rng.normal(0, 1), 17.2 + patient.spread * rng.normal(0, 0.8)
        body = ellipse(x, y, (0, -1), half, power=2.5)
        body = smooth_max(body, 15 - np.hypot(x, y - 27.5), 4) + 0.5 * wobble  # hollow at the back
        osteophyte = rng.exponential(2.0) * (patient.age > 55)
        body = body - osteophyte * np.exp(-(((np.arctan2(y, x) - rng.choice([-0.3, -2.8])) / 0.35) ** 2))
        through_pedicles = rng.random() < 0.7
        arch = np.full_like(body, 1e3)
        for side in (-1, 1):
            reach = rng.normal(46, 3) if through_pedicles else rng.normal(30, 4)
            droop = rng.normal(22, 2.5)
            root = (side * 18, 26)
            if through_pedicles:
                arch = smooth_min(arch, capsule(x, y, (side * 16.5, 12), (side * 17.5, 27), rng.normal(5.0, 0.4)), 3)
            process = capsule(x, y, root, (side * reach, droop), 3.1)
            arch = smooth_min(arch, process + 0.04 * np.maximum(np.abs(x) - 30, 0), 3)
            facet = ellipse(x, y, (side * 19, 32), (rng.normal(6.8, 0.6), rng.normal(8.5, 0.8)), turn=side * 0.5)
            arch = smooth_min(arch, facet, 3)
            if patient.lamina:
                arch = smooth_min(arch, capsule(x, y, (side * 15, 32), (side * 2, 42), 3.2), 3)
        arch = smooth_min(arch, capsule(x, y, (0, 41), (rng.normal(0, 1), rng.normal(67, 2)), 2.6), 4)
        arch = smooth_min(arch, ellipse(x, y, (0, 66), (4.2, 5.5)), 4) + wobble
        bone = np.minimum(body, arch) * scale
        canal = ellipse(x, y, (0, 24.5), (11.5, 8.2), power=2.2)
        bone = smooth_max(bone, -canal * scale, 1.5)
        ligament = np.where((y > 40) & (self.depth[where] > 1.5), np.abs(x) * scale - 2.2, 1e3)
        canvas.lay(ligament, 30 + 8 * self.grain[where], where=where)
        trabecular = np.clip(rng.normal(150, 30) - 1.8 * (patient.age - 66), 50, 280) + 25 * patient.contrast
        spongy = trabecular + 26 * self.grain[where] + 20 * canvas.field(14)[where]
        cortex = rng.normal(620, 70) - 2 * (patient.age - 60)
        shell = rng.uniform(1.0, 1.7)
        canvas.lay(bone, cortex, where=where)
        canvas.lay(bone + shell + 0.5 * np.abs(wobble), spongy, where=where)
        # An end plate in the slice whitens the body.
        canvas.lay(body * scale + shell, spongy + rng.uniform(0, 60), where=where)
        canvas.lay(canal * scale, self.patient.fat_hu + 60, where=where)
        canvas.lay(ellipse(x, y, (0, 23.3), (8.8, 6.6)) * scale, rng.uniform(12, 34), where=where)
        if not through_pedicles:
            for side in (-1, 1):
                canvas.dot(side * 15 * scale, 19 * scale, 2.6, 32)
                joint = np.abs(capsule(x, y, (side * 15, 29), (side * 21, 36), 0.0)) * scale
                canvas.line(joint, 1.0, 60, where)
        if patient.screws:
            for side in (-1, 1):
                screw = capsule(x, y, (side * 12, -4), (side * 22, 40), 2.6) * scale
                canvas.lay(screw, 3071.0, where=where)
            canvas.label[where][np.minimum(bone, screw) < 0] = 0

    def stoma(self) -> None:
        """A loop of bowel brought through the rectus to the skin."""
        side, front = -1, -self.patient.wall_front
        x, y = side * 48.0, front * 0.9 - self.patient.fat_front * 0.4
        reach = 18 + self.patient.fat_front
        where = self.canvas.around(x, y, reach + 14)
        gut = capsule(self.x[where], self.y[where], (x - 6, y + 0.5 * reach), (x, y - 0.5 * reach), 13)
        gut = smooth_max(gut, self.outline[where] - 6, 6)
        self.canvas.lay(gut, 42 + 40 * self.patient.contrast, where=where)
        self.canvas.lay(
            gut + 4 + self.grain[where],
            self.rng.choice([15.0, EMPTY_HU, self.patient.fat_hu + 30]),
            where=where,
        )

    def arms(self) -> None:
        """Forearms beside the trunk: skeletal muscle, but not of the trunk, and so not in the expert's mask."""
        patient, canvas, rng = self.patient, self.canvas, self.rng
        trunk = patient.wall_width + patient.fat_side
        for side in (-1, 1):
            x, y = side * (trunk + rng.uniform(42, 60)), rng.uniform(-25, 35)
            half = rng.uniform(26, 36), rng.uniform(30, 42)
            where = canvas.around(x, y, 60)
            arm = ellipse(self.x[where], self.y[where], (x, y), half, turn=rng.uniform(0, 1), power=2.2)
            arm = np.maximum(arm, 3 - self.outline[where])
            canvas.lay(arm, 15, where=where)
            canvas.lay(arm + 2, self.fat[where], where=where)
            canvas.lay(
                arm + rng.uniform(5, 10) + 3 * canvas.field(18)[where],
                self.muscle(0.3 * patient.infiltration, where),
                where=where,
            )
            for offset in ((-9, -3), (8, 6)):
                bone = ellipse(self.x[where], self.y[where], (x + offset[0], y + offset[1]), (6.5, 7.5))
                canvas.lay(bone, 1100, where=where)
                canvas.lay(bone + 3, 40, where=where)

    def draw(self) -> None:
        """Lay all organ groups, outermost and hindmost first."""
        self.skin_and_subcutaneous_fat()
        self.cavity()
        self.retroperitoneum()
        self.liver_and_spleen()
        self.masses()
        self.bowel()
        self.abdominal_wall()
        self.ribs()
        if self.patient.hernia:
            self.herniate()
        self.posterior_muscles()
        self.vertebra()
        if self.patient.stoma:
            self.stoma()
        if self.patient.arms:
            self.arms()


_DIRECTIONS = np.linspace(-np.pi, np.pi, TABLE, endpoint=False)
_BACKWARD = np.abs(_DIRECTIONS) > np.pi / 2


def _rising(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(x)
    return x[order], y[order]
