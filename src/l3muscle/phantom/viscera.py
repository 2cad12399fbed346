"""What lies inside the abdominal wall: mesentery, kidneys and great vessels, liver and spleen, masses, bowel."""

import numpy as np

from l3muscle.phantom.body import Body
from l3muscle.phantom.canvas import Window, capsule, ellipse, smooth_max

GAS_HU = -930.0  # in the bowel


def cavity(body: Body) -> None:
    """All inside the wall starts as fat; strands and vessels of the mesentery run through it, or ascites."""
    patient, canvas, rng = body.patient, body.canvas, body.rng
    inner = body.inner.astype(np.float32)[body.index]
    body.within = inner - body.depth
    body.bare = body.muscle_depth.astype(np.float32)[body.index] + 0.6 - body.depth
    canvas.lay(-body.depth, body.fat + 4)
    strands = np.exp(-((canvas.field(15) / 0.07) ** 2)) * np.clip(0.3 + canvas.field(40), 0, 1)
    canvas.hu += canvas.cover(body.within + 4) * strands * rng.uniform(15, 60)
    if patient.ascites:
        pooled = smooth_max(body.within, np.abs(body.y + 30) - 60 + 12 * canvas.field(40), 6)
        canvas.lay(smooth_max(pooled, -body.within - rng.uniform(15, 45) + 8 * canvas.field(25), 5), rng.uniform(4, 18))
    body.vessel_hu = body.organ(42 + 105 * patient.contrast)
    for _ in range(rng.poisson(45)):
        direction, distance = rng.uniform(-np.pi, np.pi), np.sqrt(rng.random())
        x = 5 + 0.72 * patient.wall_width * distance * np.sin(direction)
        y = -0.48 * patient.wall_front - 0.42 * (patient.wall_front - 25) * distance * np.cos(direction)
        turn, stretch = rng.uniform(0, np.pi), 1 + rng.exponential(1.2)
        canvas.dot(x, y, rng.gamma(3, 0.45) + 0.5, body.vessel_hu - rng.uniform(0, 25), stretch=stretch, turn=turn)


def retroperitoneum(body: Body) -> None:
    """Kidneys, great vessels, ureters; together with psoas and spine they bound the room for the bowel."""
    scale = body.patient.stature
    wide = body.canvas.around(0, 0, 105 * scale)
    x, y = body.x[wide], body.y[wide]
    psoas = np.minimum(*(body.psoas[side].distance(x, y) for side in (-1, 1)))
    quadratus = np.minimum(*(body.quadratus[side].distance(x, y) for side in (-1, 1)))
    spine = ellipse(x, y, (0, 0), (25 * scale, 19 * scale))
    block = np.minimum(np.minimum(psoas, quadratus), spine)
    block = np.minimum(block, _kidneys(body, wide, block))
    vessels = _great_vessels(body, wide)
    # Where the bowel may lie, and where what presses fat aside may.
    body.room, body.tight_room = body.within.copy(), body.bare.copy()
    body.room[wide] = np.maximum(body.room[wide], 0.4 * body.cushion + 0.5 - np.minimum(block, vessels))
    body.tight_room[wide] = np.maximum(body.tight_room[wide], 0.5 - np.minimum(block, vessels))


def _kidneys(body: Body, wide: Window, block: np.ndarray) -> np.ndarray:
    """Draw the kidneys beside what blocks their way; returns the distance to them, less a margin."""
    patient, canvas, rng, scale = body.patient, body.canvas, body.rng, body.patient.stature
    x, y, within = body.x[wide], body.y[wide], body.within[wide]
    cortex = body.organ(30 + 135 * patient.contrast + rng.normal(0, 6))
    kidneys = np.full_like(block, 1e3)
    for side, chance in ((-1, 0.8), (1, 0.65)):
        if rng.random() > chance:
            continue
        radius = rng.uniform(13, 30) * scale
        middle = body.psoas[side].centre[0] + side * (17 * scale + radius + rng.uniform(0, 6))
        middle = side * min(abs(middle), patient.wall_width - 22 - radius)
        centre = (middle, rng.normal(-6, 5) * scale)
        turn = side * rng.normal(0.5, 0.2)
        kidney = ellipse(x, y, centre, (radius, radius * rng.uniform(1.05, 1.3)), turn=turn)
        kidney = kidney + 1.2 * canvas.field(24)[wide]
        kidney = smooth_max(smooth_max(kidney, rng.uniform(0, 3) - block, 4), within + 5, 4)
        fascia = kidney - rng.uniform(6, 14)
        canvas.line(np.maximum(fascia, within), 0.5, -20, wide)
        canvas.lay(kidney, cortex, where=wide)
        if radius > 20 * scale:
            medulla = kidney + rng.uniform(5, 7)
            canvas.lay(medulla, cortex - 28 * patient.contrast + 6 * body.grain[wide], where=wide)
            hilum = centre[0] - side * 0.35 * radius, centre[1] - 1
            sinus = ellipse(x, y, hilum, (0.55 * radius, 0.3 * radius), turn=-turn)
            canvas.lay(sinus + 3 * canvas.field(9)[wide], body.fat[wide] + 25, where=wide)
        if rng.random() < 0.2:
            angle = rng.uniform(0, 2 * np.pi)
            cyst = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
            canvas.lay(ellipse(x, y, cyst, (rng.uniform(4, 13),) * 2), rng.uniform(0, 15), where=wide)
        kidneys = np.minimum(kidneys, kidney - 5)
    return kidneys


def _great_vessels(body: Body, wide: Window) -> np.ndarray:
    """Draw crura, vena cava, aorta with its plaques, lymph nodes and ureters; returns the distance to the vessels."""
    patient, canvas, rng, scale = body.patient, body.canvas, body.rng, body.patient.stature
    x, y = body.x[wide], body.y[wide]
    front = -18.5 * scale
    lumen = rng.normal(9.3, 0.9) * (1 if patient.male else 0.88) * (1 + 0.004 * (patient.age - 60))
    if rng.random() < 0.03:
        lumen *= rng.uniform(1.5, 2.2)
    aorta = (rng.normal(9, 3.5), front - lumen - rng.uniform(0.5, 2.5))
    cava = (rng.normal(-17, 2.5), front - 7 + rng.uniform(-2, 1))
    flat = rng.uniform(0.45, 0.95)
    for side in (-1, 1):
        crus = capsule(x, y, (side * 15, front + 2), (side * 3 + 4, front - 1.5), 1.8)
        canvas.lay(crus, patient.muscle_hu, where=wide)
    cava_distance = ellipse(x, y, cava, (11.5 / flat**0.4, 11.5 * flat), turn=rng.normal(0.15, 0.15))
    cava_distance = cava_distance + 0.7 * body.grain[wide]
    canvas.lay(cava_distance, body.organ(body.vessel_hu - 14 * patient.contrast), where=wide)
    aorta_distance = ellipse(x, y, aorta, (lumen, lumen * rng.uniform(0.93, 1.03)))
    canvas.lay(aorta_distance - 0.8, 45, where=wide)
    canvas.lay(aorta_distance + 0.6, body.vessel_hu + 6 * patient.contrast, where=wide)
    for _ in range(rng.poisson(max(patient.age - 50, 0) / 8)):
        angle = rng.uniform(0, 2 * np.pi)
        spot = aorta[0] + lumen * np.cos(angle), aorta[1] + lumen * np.sin(angle)
        radius, hu = rng.uniform(0.6, 1.4), rng.uniform(350, 1000)
        canvas.dot(*spot, radius, hu, stretch=rng.uniform(1, 3.5), turn=angle + np.pi / 2)
    canvas.dot(aorta[0] + rng.normal(0, 4), aorta[1] - lumen - rng.uniform(9, 20), 3.4, body.vessel_hu)
    canvas.dot(aorta[0] - 14 + rng.normal(0, 4), aorta[1] - lumen - rng.uniform(8, 20), 5.2, body.vessel_hu)
    for _ in range(rng.poisson(5)):
        canvas.dot(rng.normal(0, 22), front - rng.uniform(2, 24), rng.uniform(1, 2.6), 38)
    for side in (-1, 1):
        top = float(body.psoas[side].centre[1]) - 21 * scale
        for offset, radius in ((rng.normal(40, 4), 2.0), (rng.normal(46, 4), 1.4)):
            hu = rng.uniform(400, 900) if patient.contrast > 0.9 and radius == 2.0 else rng.uniform(10, 45)
            canvas.dot(side * offset * scale, top + rng.normal(0, 3), radius, hu)
    return np.minimum(aorta_distance, cava_distance) - 3


def liver_and_spleen(body: Body) -> None:
    """Tip of the right lobe along the flank, now and then the gallbladder or the spleen's tip."""
    patient, canvas, rng = body.patient, body.canvas, body.rng
    for side, present, hu in (
        (-1, patient.liver, body.organ(58 + 48 * patient.contrast)),
        (1, patient.spleen, body.organ(48 + 65 * patient.contrast)),
    ):
        if not present:
            continue
        half = rng.uniform(14, 30 + 12 * patient.spread), rng.uniform(28, 54 + 12 * patient.spread)
        centre = side * (patient.wall_width - 12), rng.uniform(-30 - 20 * patient.spread, -5)
        organ = ellipse(body.x, body.y, centre, half, turn=-side * rng.uniform(0, 0.4)) + 2 * canvas.field(40)
        organ = smooth_max(organ, body.bounds() + 0.6, 5)
        canvas.lay(organ, hu + rng.normal(0, 8) + 3 * body.grain)
        for _ in range(rng.poisson(6)):
            inside = centre[0] + 0.6 * half[0] * rng.normal(), centre[1] + 0.6 * half[1] * rng.normal()
            if max(abs(inside[0] - centre[0]) / half[0], abs(inside[1] - centre[1]) / half[1]) < 0.7:
                canvas.dot(*inside, rng.uniform(1, 4), body.vessel_hu, stretch=1 + rng.exponential(1.0), turn=1.0)
        body.take_room(organ)
        if side == -1 and rng.random() < 0.3:
            fundus = centre[0] + half[0] + 14, centre[1] - rng.uniform(5, 25)
            bladder = smooth_max(ellipse(body.x, body.y, fundus, (rng.uniform(9, 16), 15), turn=0.4), body.room + 1, 3)
            canvas.lay(bladder, 55 + 40 * patient.contrast)
            canvas.lay(bladder + 1.8, rng.uniform(2, 18))
            body.take_room(bladder)


def masses(body: Body) -> None:
    """Soft tissue that may lie anywhere in the cavity: tumour, fluid collection, a lobe of an organ from above."""
    patient, canvas, rng = body.patient, body.canvas, body.rng
    for _ in range(patient.masses):
        direction = rng.uniform(-0.8, 0.8) * np.pi
        index = body.wall.index_of(direction)
        reach = rng.uniform(0.35, 1.0) * (float(body.wall.radius[index]) - float(body.muscle_depth[index]))
        half = rng.uniform(8, 34), rng.uniform(12, 62)
        # The longer axis along the wall, roughly.
        mass = ellipse(
            body.x, body.y, body.wall.point(direction, reach), half, turn=direction + np.pi / 2 + rng.normal(0, 0.4)
        )
        mass = smooth_max(mass + 2.5 * canvas.field(28), body.bounds() + 0.5, 5)
        canvas.lay(mass, patient.muscle_hu + rng.normal(0, 16) + 3 * body.grain)
        body.take_room(mass)


def bowel(body: Body) -> None:
    """Colon and small bowel: soft loops that press each other flat, with walls, gas, fluid, faeces or contrast.

    A pixel belongs to the loop whose ellipse it lies deepest in; where two are nearly tied runs the seam between
    them, so that loops touch without overlap.
    """
    patient, canvas, rng = body.patient, body.canvas, body.rng
    a, front = patient.wall_width, patient.wall_front
    loops: list[tuple[float, ...]] = []  # x, y, half-axes, turn
    kinds: list[str] = []

    def add(kind: str, x: float, y: float, half: tuple[float, float], turn: float) -> None:
        loops.append((x, y, *half, turn))
        kinds.append(kind)

    caecal, distal = rng.uniform(18, 31), rng.uniform(11, 22)
    add("colon", -(a - 22 - 0.8 * caecal), rng.normal(2, 8), (caecal, caecal * rng.uniform(0.85, 1.2)), 0.0)
    add("colon", a - 24 - 0.8 * distal, rng.normal(6, 8), (distal, distal * rng.uniform(0.85, 1.2)), 0.0)
    if rng.random() < 0.6:
        count, low = rng.integers(2, 6), -front + rng.uniform(20, 40)
        for share in np.linspace(-0.5, 0.5, count) + rng.normal(0, 0.04):
            half = rng.uniform(15, 26), rng.uniform(11, 19)
            add("colon", share * a * 1.2, low + 60 * share**2 + rng.normal(0, 4), half, rng.normal(0, 0.2))
    if patient.stomach:
        half = rng.uniform(24, 52), rng.uniform(12, 26)
        add("stomach", rng.normal(8, 22), -front + half[1] + rng.uniform(4, 16), half, rng.normal(0, 0.25))
    if rng.random() < 0.45:
        add("small", rng.normal(-8, 8), -18 * patient.stature - rng.uniform(26, 32), (rng.uniform(26, 42), 9.5), 0.05)
    crowd = rng.uniform(0.5, 0.9)
    for _ in range(500):
        if len(loops) > 38:
            break
        radius = np.sqrt(rng.random())
        angle = rng.uniform(-np.pi, np.pi)
        x, y = (radius * (a - 32) * np.sin(angle), -0.42 * front - radius * 0.5 * (front - 10) * np.cos(angle))
        size = rng.uniform(9, 18)
        taken = np.array(loops)
        near = np.min(np.hypot(x - taken[:, 0], y - taken[:, 1]) - (taken[:, 2] + taken[:, 3]) / 2)
        if near > crowd * size and not (patient.obesity > 0.5 and abs(x) < 0.35 * a and rng.random() < 0.5):
            stretch = rng.uniform(1.0, 1.9)
            add("small", x, y, (size * stretch**0.5, size / stretch**0.5), rng.uniform(0, np.pi))
    table = np.array(loops, dtype=np.float32)
    pick = np.flatnonzero(body.room.ravel() < 1)
    if not pick.size:
        return
    bent = [(axis + 3.0 * canvas.field(16) + 1.2 * canvas.field(7)).ravel()[pick] for axis in (body.x, body.y)]
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
    edge = smooth_max(edge, body.room.ravel()[pick] + 0.5, 3)
    _fill_loops(body, kinds, table, owner, edge, pick)


def _fill_loops(
    body: Body, kinds: list[str], loops: np.ndarray, owner: np.ndarray, edge: np.ndarray, pick: np.ndarray
) -> None:
    """Walls and contents of the loops, pixel by pixel from tables over the loops."""
    patient, canvas, rng = body.patient, body.canvas, body.rng
    wall, wall_hu, content, gas_level, mottle, fold = (np.zeros(len(kinds), np.float32) for _ in range(6))
    small_contrast, colon_contrast = rng.random() < 0.35, rng.random() < 0.2
    for i, kind in enumerate(kinds):
        wall[i] = rng.uniform(1.4, 2.8)
        wall_hu[i] = body.organ(rng.normal(38, 5) + rng.uniform(25, 65) * patient.contrast)
        content[i] = body.organ(rng.uniform(5, 32))
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
    grain, hu = body.grain.ravel()[pick], canvas.hu.ravel()
    lumps, bubbles = canvas.field(6).ravel()[pick], canvas.field(3.2).ravel()[pick]
    values = hu[pick]
    values += canvas.cover(edge) * (wall_hu[owner] + 4 * grain - values)
    mucosa = edge + wall[owner] + fold[owner] * bubbles
    cover = canvas.cover(mucosa)
    filling = content[owner] + mottle[owner] * (28 * lumps - 330 * np.clip(bubbles - 0.9, 0, 1.2))
    gas = np.clip(0.5 + (gas_level[owner] - body.y.ravel()[pick]) / canvas.pixel, 0, 1)
    filling = filling + gas * (GAS_HU - filling)
    values += cover * (filling - values)
    hu[pick] = values
    canvas.hu = hu.reshape(canvas.hu.shape)
