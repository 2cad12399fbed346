"""Who the phantom's patients are: what is drawn of them, and how it is distributed."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class PhantomPatient:
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


def draw_patient(rng: np.random.Generator) -> PhantomPatient:
    """Draw a patient of an oesophago-gastric cancer clinic: mostly men, mostly over sixty, cachectic to obese.

    Muscle area and density are set so that the cohort's means lie where L3 reference values do (van der Werf et al.
    2018: fifth percentiles of healthy adults 134 and 89 cm^2, 29 and 22 HU, for men and women, both falling with age
    and density falling with body mass).
    """
    male = bool(rng.random() < 0.7)
    age = float(np.clip(rng.normal(66, 9.5), 30, 90))
    obesity = float(np.clip(rng.normal(0.45, 0.27), 0.0, 1.3))
    stature = float(rng.normal(1.0 if male else 0.915, 0.035))
    muscularity = (1.0 if male else 0.89) * (1 - 0.005 * (age - 66) + 0.20 * (obesity - 0.45)) * rng.normal(1, 0.11)
    if rng.random() < 0.12:
        muscularity *= rng.uniform(0.7, 0.88)  # cachexia
    visceral = np.clip(obesity + rng.normal(0.08 if male else -0.08, 0.15), 0, 1.4)
    # Men store fat inside the wall, women outside it.
    under_skin = (1.0 if male else 1.4) * obesity
    infiltration = float(np.clip(rng.gamma(2.2, 0.08) + 0.004 * (age - 66) + 0.12 * (obesity - 0.45), 0.02, 0.7))
    hernia = bool(rng.random() < 0.03)
    return PhantomPatient(
        male=male,
        age=age,
        obesity=obesity,
        stature=stature,
        muscularity=float(np.clip(muscularity, 0.5, 1.45)),
        wall_width=float((rng.normal(131, 5) + 27 * visceral) * stature),
        wall_front=float((rng.normal(72, 6) + 58 * visceral) * stature),
        fat_front=float(4 + under_skin * rng.uniform(18, 42)),
        fat_side=float(4 + under_skin * rng.uniform(16, 40)),
        fat_back=float(5 + under_skin * rng.uniform(18, 46)),
        muscle_hu=float(np.clip(rng.normal(58, 6.5) - 0.25 * (age - 66) - 8 * (obesity - 0.45), 24, 74)),
        fat_hu=float(rng.normal(-103, 7)),
        infiltration=infiltration,
        planes=float(rng.gamma(3, 0.3) + 1.5 * infiltration),
        contrast=float(rng.random() < 0.45) * float(rng.uniform(0.4, 1.0)),
        ascites=bool(rng.random() < 0.04),
        oedema=float(rng.random() ** 4),
        diastasis=float(rng.uniform(12, 30)) if hernia else float(rng.random() < 0.15) * float(rng.uniform(8, 40)),
        stoma=bool(rng.random() < 0.02),
        arms=bool(rng.random() < 0.08),
        screws=bool(rng.random() < 0.015),
        hernia=hernia,
        liver=bool(rng.random() < 0.4),
        spleen=bool(rng.random() < 0.08),
        masses=int(rng.random() < 0.08),
        stomach=bool(rng.random() < 0.12),
        ribs=int(rng.choice([0, 1, 2], p=[0.72, 0.22, 0.06])),
        latissimus=float(rng.random() < 0.5) * float(rng.uniform(1.5, 5)),
        lamina=bool(rng.random() < 0.85),
        psoas=float(np.clip(rng.normal(1, 0.2), 0.45, 1.6)),
        quadratus=float(np.clip(rng.normal(1, 0.22), 0.35, 1.6)),
        erector=float(np.clip(rng.normal(1, 0.1), 0.7, 1.4)),
        wall=float(np.clip(rng.normal(1, 0.12), 0.6, 1.45)),
    )


def draw_domain_randomised_patient(rng: np.random.Generator) -> PhantomPatient:
    """Draw a patient from wider than life, for a network that has to get along with scans it has never seen.

    Domain randomisation after SynthSeg (Billot et al. 2023): what differs between real scans is drawn from ranges that
    include them all, whether or not a single draw is plausible, so that only what is true of every scan can be learned.
    """
    usual = draw_patient(rng)
    uniform = rng.uniform
    obesity = float(uniform(0, 1.3))
    stature = float(uniform(0.82, 1.1))
    visceral = obesity + rng.normal(0, 0.25)
    infiltration = float(uniform(0.02, 0.75) ** 1.5)
    hernia = bool(rng.random() < 0.06)
    return replace(
        usual,
        obesity=obesity,
        stature=stature,
        muscularity=float(uniform(0.5, 1.5)),
        wall_width=float((rng.normal(128, 10) + 27 * visceral) * stature),
        wall_front=float(max(rng.normal(74, 12) + 52 * visceral, 48) * stature),
        fat_front=float(3 + obesity * uniform(5, 55)),
        fat_side=float(3 + obesity * uniform(5, 55)),
        fat_back=float(4 + obesity * uniform(5, 55)),
        muscle_hu=float(uniform(8, 82)),
        fat_hu=float(uniform(-122, -82)),
        infiltration=infiltration,
        planes=float(rng.gamma(2, 0.5) + 1.5 * infiltration),
        contrast=float(rng.random() < 0.5) * float(uniform(0.2, 1.5)),
        ascites=bool(rng.random() < 0.08),
        oedema=float(rng.random() ** 2),
        diastasis=float(uniform(12, 35)) if hernia else float(rng.random() < 0.35) * float(uniform(4, 45)),
        stoma=bool(rng.random() < 0.04),
        arms=bool(rng.random() < 0.15),
        screws=bool(rng.random() < 0.03),
        hernia=hernia,
        liver=bool(rng.random() < 0.6),
        spleen=bool(rng.random() < 0.3),
        masses=int(rng.poisson(1.2)),
        stomach=bool(rng.random() < 0.35),
        ribs=int(rng.integers(0, 3)),
        latissimus=float(rng.random() < 0.6) * float(uniform(1.5, 8)),
        lamina=bool(rng.random() < 0.6),
        psoas=float(uniform(0.2, 1.5)),
        quadratus=float(uniform(0.05, 1.5)),
        erector=float(uniform(0.75, 1.45)),
        wall=float(uniform(0.55, 1.45)),
        spread=float(uniform(1, 2.2)),
        organ_spread_hu=float(uniform(5, 30)),
    )
