"""The abdomen at L3, group by group: skin and fat, muscles of wall and back, bones, and what a few patients have."""

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

from l3muscle.phantom import viscera
from l3muscle.phantom.body import DIRECTIONS, ERECTOR, LATERAL_WALL, PSOAS, QUADRATUS, RECTUS, Body
from l3muscle.phantom.canvas import TABLE, Curve, Window, capsule, ellipse, smooth_max, smooth_min
from l3muscle.phantom.viscera import GAS_HU


def skin_and_subcutaneous_fat(body: Body) -> None:
    """Body outline: fat over the wall, thickest at the front, flank or back, and flattened by the couch."""
    patient, canvas, rng = body.patient, body.canvas, body.rng
    front, side, back = patient.fat_front, patient.fat_side, patient.fat_back
    # Thickness every 36 degrees from the back over the flank to the front, nearly alike on both sides.
    nodes = np.array([0.85 * back, back, 0.5 * (back + side), side, 0.6 * front + 0.4 * side, front])
    nodes = np.concatenate([nodes, nodes[-2::-1]]) * (1 + 0.03 * rng.standard_normal(11))
    nodes[-1] = nodes[0]
    thickness = CubicSpline(np.linspace(-np.pi, np.pi, 11), nodes, bc_type="periodic")(DIRECTIONS)
    thickness = np.maximum(thickness, 3.5)
    around = ndimage.gaussian_filter1d(body.wall.radius + thickness, np.deg2rad(13) * TABLE / (2 * np.pi), mode="wrap")
    surface = np.maximum(around, body.wall.radius + 3)
    edge = np.stack([surface * np.sin(DIRECTIONS), -surface * np.cos(DIRECTIONS)], 1) + body.wall.centre
    distance = Curve.through(edge[:: TABLE // 32], body.wall.centre).distance(body.x, body.y)
    thickness = thickness.astype(np.float32)[body.index]
    furrow = rng.uniform(2, 7) * np.exp(-((body.x / 15) ** 2)) * (body.y > 0)
    distance = np.minimum(distance + furrow, -body.depth - 2.5)
    # A supine back lies flat on its fat.
    lowest = body.back + 0.7 * back
    body.outline = smooth_max(distance, body.y - np.float32(lowest), 32)
    if rng.random() < 0.25:
        deep = max(front * rng.uniform(0.3, 0.7), 4)
        navel = ellipse(body.x, body.y, (rng.normal(0, 4), -patient.wall_front - front), (rng.uniform(5, 9), deep))
        body.outline = smooth_max(body.outline, -navel, 12)
    if patient.hernia:
        body.outline = smooth_min(body.outline, body.sac - 6, 12)
    canvas.lay(body.outline, rng.uniform(-10, 35))
    canvas.lay(body.outline + rng.uniform(1.4, 2.2), body.fat)
    inside = -body.outline
    # Scarpa's fascia, halfway, and septa that oedema makes plain.
    fascia = inside - thickness * (0.45 + 0.07 * canvas.field(45))
    canvas.line(fascia, np.where(thickness > 9, 0.5 + 0.35 * canvas.field(20), 0).clip(0), -30)
    septa = np.exp(-((canvas.field(13) / 0.05) ** 2)) + np.exp(-((canvas.field((9, 24)) / 0.05) ** 2))
    strength = (8 + 60 * patient.oedema) * np.clip((inside - 2) / 3, 0, 1)
    canvas.hu += strength * np.minimum(septa, 1)
    for _ in range(rng.poisson(10)):
        angle = rng.uniform(-np.pi, np.pi)
        vessel = body.wall.point(angle, float(body.wall.radius[body.wall.index_of(angle)]) + rng.uniform(3, 12))
        canvas.dot(*vessel, rng.uniform(0.6, 1.4), 30)


def abdominal_wall(body: Body) -> None:
    """Rectus bellies beside the linea alba; external and internal oblique and transversus in layers; fascia."""
    patient, canvas = body.patient, body.canvas
    depth, index = body.depth, body.index
    low, high = (bound.astype(np.float32)[index] for bound in body.rectus_bounds)
    distance = np.where(high - low > 0.3, np.maximum(low - depth, depth - high), 1e3)
    # Sheath and aponeuroses: a thin line over and under the muscles that also joins them.
    canvas.line(depth - 0.6, 1.1, 15)
    canvas.line(depth - np.maximum(high, 2.0) - 0.6, 0.9, 5)
    canvas.lay(distance, body.muscle(0.55 * patient.infiltration), label=RECTUS)
    hu = body.muscle(0.5 * patient.infiltration)
    nearest = np.full_like(depth, 1e3)
    outer = inner = None
    for low_table, high_table in body.wall_bounds:
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
    canvas.line(body.within - 0.5, 0.5, -10)


def ribs(body: Body) -> None:
    """Tips of the eleventh and twelfth rib between the layers of the flank."""
    canvas, rng, wall = body.canvas, body.rng, body.wall
    for side in (-1, 1):
        for number in range(body.patient.ribs):
            direction = side * np.deg2rad(rng.uniform(86, 112) if number else rng.uniform(112, 136))
            index = wall.index_of(direction)
            depth = rng.uniform(0.35, 0.75) * float(body.muscle_depth[index]) + 2
            middle = wall.point(direction, float(wall.radius[index]) - depth / float(wall.slant[index]))
            where = canvas.around(*middle, 30)
            half = rng.uniform(6, 17), rng.uniform(3.2, 5.2)
            # Along the wall: at right angles to the direction in which it is seen, near enough.
            bone = ellipse(body.x[where], body.y[where], middle, half, turn=direction, power=2.4)
            bone = bone + 0.5 * canvas.field(8)[where]
            canvas.lay(bone, rng.uniform(350, 800), where=where)
            canvas.lay(bone + rng.uniform(1.2, 2.0), rng.uniform(60, 260), where=where)


def herniate(body: Body) -> None:
    """A sac of mesenteric fat, often with a loop of bowel, through a gap in the linea alba."""
    patient, canvas, rng = body.patient, body.canvas, body.rng
    sac = body.sac
    canvas.lay(sac, 25)
    canvas.lay(sac + 1.0, body.fat + 6)
    neck = np.maximum(np.abs(body.x) - 0.4 * (patient.diastasis + 5), np.abs(body.y + patient.wall_front - 6) - 12)
    canvas.lay(neck, body.fat + 4)
    if rng.random() < 0.6:
        loop = smooth_max(sac + rng.uniform(3, 6), np.hypot(body.x - rng.normal(0, 6), 0) - rng.uniform(8, 16), 5)
        canvas.lay(loop, body.organ(38 + 40 * patient.contrast))
        canvas.lay(loop + 2.2, GAS_HU if rng.random() < 0.3 else body.organ(15))


def posterior_muscles(body: Body) -> None:
    """Psoas, quadratus lumborum, erector spinae with multifidus, each in its sleeve of fat."""
    patient, canvas, rng, scale = body.patient, body.canvas, body.rng, body.patient.stature
    inf = patient.infiltration
    for side in (-1, 1):
        for curve, label, share in (
            (body.quadratus[side], QUADRATUS, 0.7),
            (body.psoas[side], PSOAS, 0.35),
            (body.erector[side], ERECTOR, 1.0),
        ):
            where = canvas.around(*curve.centre, curve.reach)
            x, y = body.x[where], body.y[where]
            distance = (
                curve.distance(x, y) + 0.7 * canvas.field(14)[where] + (0.25 + 1.2 * inf) * canvas.field(6)[where]
            )
            sleeve = rng.uniform(0.5, 1.1) + 1.5 * inf
            distance = smooth_max(distance, sleeve - body.depth[where] - 0.4, 3)
            canvas.lay(distance - sleeve, body.fat[where], where=where)
            infiltration = share * inf
            if label == ERECTOR:
                # Fat gathers in multifidus, towards the lamina and below the fascia.
                medial = np.exp(-((np.abs(x) / (24 * scale)) ** 2))
                shallow = np.clip(1 - (body.depth[where] - 2) / 9, 0, 1)
                infiltration = infiltration * (0.75 + 1.1 * medial + 0.5 * shallow)
            canvas.lay(distance, body.muscle(infiltration, where), label=label, where=where)
            if label == ERECTOR:
                _clefts(body, side, where, distance)
    canvas.line(body.depth - 0.5, 0.9 * (body.y > 20), 25)


def _clefts(body: Body, side: int, where: Window, distance: np.ndarray) -> None:
    """Fat clefts between multifidus, longissimus and iliocostalis."""
    canvas, rng, scale = body.canvas, body.rng, body.patient.stature
    x, y = side * body.x[where] / scale, body.y[where] / scale
    wave = 1.6 * canvas.field(12)[where]
    for foot, lean, bow, width in (
        (rng.normal(25, 1.5), rng.normal(0.10, 0.06), 0.010, rng.uniform(0.3, 0.8)),
        (rng.normal(54, 2.5), rng.normal(-0.1, 0.1), 0.006, rng.uniform(0.1, 0.6)),
    ):
        middle = foot + lean * (y - 32) - bow * (y - 50) ** 2 * 0.6 + wave
        width = (width + 2.2 * body.patient.infiltration) * np.clip(0.8 + canvas.field(16)[where], 0, 1.6)
        inside = np.clip(-distance / 2, 0, 1)
        canvas.line((x - middle) * scale, width * inside, body.patient.fat_hu, where)


def vertebra(body: Body) -> None:
    """L3: body and arch with cortical shell and trabecular core, the canal, and ligament between the processes."""
    patient, canvas, rng, scale = body.patient, body.canvas, body.rng, body.patient.stature
    where = canvas.around(0, 24 * scale, 64 * scale)
    x, y = body.x[where] / scale, body.y[where] / scale
    wobble = 0.6 * canvas.field(9)[where]
    half = 23.5 + patient.spread * rng.normal(0, 1), 17.2 + patient.spread * rng.normal(0, 0.8)
    corpus = ellipse(x, y, (0, -1), half, power=2.5)
    corpus = smooth_max(corpus, 15 - np.hypot(x, y - 27.5), 4) + 0.5 * wobble  # hollow at the back
    osteophyte = rng.exponential(2.0) * (patient.age > 55)
    corpus = corpus - osteophyte * np.exp(-(((np.arctan2(y, x) - rng.choice([-0.3, -2.8])) / 0.35) ** 2))
    through_pedicles = rng.random() < 0.7
    arch = np.full_like(corpus, 1e3)
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
    bone = np.minimum(corpus, arch) * scale
    canal = ellipse(x, y, (0, 24.5), (11.5, 8.2), power=2.2)
    bone = smooth_max(bone, -canal * scale, 1.5)
    ligament = np.where((y > 40) & (body.depth[where] > 1.5), np.abs(x) * scale - 2.2, 1e3)
    canvas.lay(ligament, 30 + 8 * body.grain[where], where=where)
    trabecular = np.clip(rng.normal(150, 30) - 1.8 * (patient.age - 66), 50, 280) + 25 * patient.contrast
    spongy = trabecular + 26 * body.grain[where] + 20 * canvas.field(14)[where]
    cortex = rng.normal(620, 70) - 2 * (patient.age - 60)
    shell = rng.uniform(1.0, 1.7)
    canvas.lay(bone, cortex, where=where)
    canvas.lay(bone + shell + 0.5 * np.abs(wobble), spongy, where=where)
    # An end plate in the slice whitens the body.
    canvas.lay(corpus * scale + shell, spongy + rng.uniform(0, 60), where=where)
    canvas.lay(canal * scale, body.patient.fat_hu + 60, where=where)
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


def stoma(body: Body) -> None:
    """A loop of bowel brought through the rectus to the skin."""
    side, front = -1, -body.patient.wall_front
    x, y = side * 48.0, front * 0.9 - body.patient.fat_front * 0.4
    reach = 18 + body.patient.fat_front
    where = body.canvas.around(x, y, reach + 14)
    gut = capsule(body.x[where], body.y[where], (x - 6, y + 0.5 * reach), (x, y - 0.5 * reach), 13)
    gut = smooth_max(gut, body.outline[where] - 6, 6)
    body.canvas.lay(gut, 42 + 40 * body.patient.contrast, where=where)
    body.canvas.lay(gut + 4 + body.grain[where], body.rng.choice([15.0, GAS_HU, body.patient.fat_hu + 30]), where=where)


def arms(body: Body) -> None:
    """Forearms beside the trunk: skeletal muscle, but not of the trunk, and so not in the expert's mask."""
    patient, canvas, rng = body.patient, body.canvas, body.rng
    trunk = patient.wall_width + patient.fat_side
    for side in (-1, 1):
        x, y = side * (trunk + rng.uniform(42, 60)), rng.uniform(-25, 35)
        half = rng.uniform(26, 36), rng.uniform(30, 42)
        where = canvas.around(x, y, 60)
        arm = ellipse(body.x[where], body.y[where], (x, y), half, turn=rng.uniform(0, 1), power=2.2)
        arm = np.maximum(arm, 3 - body.outline[where])
        canvas.lay(arm, 15, where=where)
        canvas.lay(arm + 2, body.fat[where], where=where)
        canvas.lay(
            arm + rng.uniform(5, 10) + 3 * canvas.field(18)[where],
            body.muscle(0.3 * patient.infiltration, where),
            where=where,
        )
        for offset in ((-9, -3), (8, 6)):
            bone = ellipse(body.x[where], body.y[where], (x + offset[0], y + offset[1]), (6.5, 7.5))
            canvas.lay(bone, 1100, where=where)
            canvas.lay(bone + 3, 40, where=where)


def draw(body: Body) -> None:
    """Lay all organ groups in the order in which they cover each other, outermost and hindmost first."""
    skin_and_subcutaneous_fat(body)
    viscera.cavity(body)
    viscera.retroperitoneum(body)
    viscera.liver_and_spleen(body)
    viscera.masses(body)
    viscera.bowel(body)
    abdominal_wall(body)
    ribs(body)
    if body.patient.hernia:
        herniate(body)
    posterior_muscles(body)
    vertebra(body)
    if body.patient.stoma:
        stoma(body)
    if body.patient.arms:
        arms(body)
