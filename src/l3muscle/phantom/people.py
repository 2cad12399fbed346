"""Who the phantom's patients are: what is drawn of them, and how it is distributed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincinv, ndtri

Quantile = Callable[[float], float]  # from a share of a distribution to the value there


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


def normal(mean: float, deviation: float, low: float = -np.inf, high: float = np.inf) -> Quantile:
    """Normal distribution, held within limits."""
    return lambda share: min(max(mean + deviation * float(ndtri(share)), low), high)


def uniform(low: float, high: float) -> Quantile:
    """Even distribution between limits."""
    return lambda share: low + share * (high - low)


def gamma(shape: float, scale: float) -> Quantile:
    """Gamma distribution."""
    return lambda share: scale * float(gammaincinv(shape, share))


class Draw:
    """Draws from between a clinic's distributions and wider ones.

    A number is drawn as a share of its distribution, looked up at that share in the clinic's and in the wide one, and
    the two are mixed. Its range so grows steadily with the diversity, and who is at the rim of the one is at the rim
    of the other.

    Parameters
    ----------
    rng : numpy Generator
    diversity : float
        0 for a clinic's patients and scanners, 1 for a range that is wider than life.
    """

    def __init__(self, rng: np.random.Generator, diversity: float) -> None:
        self.rng, self.diversity = rng, diversity

    def mix(self, usual: float, wide: float) -> float:
        """What is not drawn, between the clinic's value and the wide one."""
        return float((1 - self.diversity) * usual + self.diversity * wide)

    def number(self, usual: Quantile, wide: Quantile) -> float:
        """A number of these two distributions."""
        share = self.rng.uniform(1e-6, 1 - 1e-6)
        return self.mix(usual(share), wide(share))

    def chance(self, usual: float, wide: float) -> bool:
        """Whether something that has these two probabilities occurs."""
        return bool(self.rng.random() < self.mix(usual, wide))


def draw_patient(rng: np.random.Generator, diversity: float = 0.0) -> PhantomPatient:
    """Draw a patient of an oesophago-gastric cancer clinic: mostly men, mostly over sixty, cachectic to obese.

    Muscle area and density are set so that the cohort's means lie where L3 reference values do (van der Werf et al.
    2018: fifth percentiles of healthy adults 134 and 89 cm^2, 29 and 22 HU, for men and women, both falling with age
    and density falling with body mass).

    The wide distributions are domain randomisation after SynthSeg (Billot et al. 2023): what differs between real
    scans is drawn from ranges that include them all, whether or not a single draw is plausible, so that only what is
    true of every scan can be learned.

    Parameters
    ----------
    rng : numpy Generator
    diversity : float
        0 draws the clinic, 1 the wide distributions; see `Draw`.
    """
    draw = Draw(rng, diversity)
    male = bool(rng.random() < 0.7)
    age = float(np.clip(rng.normal(66, 9.5), 30, 90))
    obesity = draw.number(normal(0.45, 0.27, 0.0, 1.3), uniform(0, 1.3))
    stature = draw.number(normal(1.0 if male else 0.915, 0.035), uniform(0.82, 1.1))
    usual_area = (1.0 if male else 0.89) * (1 - 0.005 * (age - 66) + 0.20 * (obesity - 0.45))
    if rng.random() < 0.12:
        usual_area *= rng.uniform(0.7, 0.88)  # cachexia
    visceral = obesity + draw.number(normal(0.08 if male else -0.08, 0.15), normal(0, 0.25))
    visceral = float(np.clip(visceral, draw.mix(0, -0.5), draw.mix(1.4, 2)))
    # Men store fat inside the wall, women outside it.
    under_skin = draw.mix(1.0 if male else 1.4, 1.0) * obesity
    usual_fat = 0.004 * (age - 66) + 0.12 * (obesity - 0.45)
    infiltration = draw.number(
        lambda share: float(np.clip(gamma(2.2, 0.08)(share) + usual_fat, 0.02, 0.7)),
        lambda share: uniform(0.02, 0.75)(share) ** 1.5,
    )
    usual_hu = 58 - 0.25 * (age - 66) - 8 * (obesity - 0.45)
    hernia = draw.chance(0.03, 0.06)
    gap = draw.chance(0.15, 0.35) or hernia
    return PhantomPatient(
        male=male,
        age=age,
        obesity=obesity,
        stature=stature,
        muscularity=draw.number(normal(usual_area, 0.11 * usual_area, 0.5, 1.45), uniform(0.5, 1.5)),
        wall_width=(draw.number(normal(131, 5), normal(128, 10)) + 27 * visceral) * stature,
        wall_front=max(draw.number(normal(72, 6), normal(74, 12)) + draw.mix(58, 52) * visceral, 48) * stature,
        fat_front=draw.mix(4, 3) + under_skin * draw.number(uniform(18, 42), uniform(5, 55)),
        fat_side=draw.mix(4, 3) + under_skin * draw.number(uniform(16, 40), uniform(5, 55)),
        fat_back=draw.mix(5, 4) + under_skin * draw.number(uniform(18, 46), uniform(5, 55)),
        muscle_hu=draw.number(normal(usual_hu, 6.5, 24, 74), uniform(8, 82)),
        fat_hu=draw.number(normal(-103, 7), uniform(-122, -82)),
        infiltration=infiltration,
        planes=draw.number(gamma(3, 0.3), gamma(2, 0.5)) + 1.5 * infiltration,
        contrast=draw.chance(0.45, 0.5) * draw.number(uniform(0.4, 1.0), uniform(0.2, 1.5)),
        ascites=draw.chance(0.04, 0.08),
        oedema=draw.number(lambda share: share**4, lambda share: share**2),
        diastasis=gap * draw.number(uniform(8, 40), uniform(4, 45)) + 4 * hernia,
        stoma=draw.chance(0.02, 0.04),
        arms=draw.chance(0.08, 0.15),
        screws=draw.chance(0.015, 0.03),
        hernia=hernia,
        liver=draw.chance(0.4, 0.6),
        spleen=draw.chance(0.08, 0.3),
        stomach=draw.chance(0.12, 0.35),
        ribs=int(draw.chance(0.28, 0.67)) * (1 + int(draw.chance(0.2, 0.5))),
        latissimus=draw.chance(0.5, 0.6) * draw.number(uniform(1.5, 5), uniform(1.5, 8)),
        lamina=draw.chance(0.85, 0.6),
        psoas=draw.number(normal(1, 0.2, 0.45, 1.6), uniform(0.2, 1.5)),
        quadratus=draw.number(normal(1, 0.22, 0.35, 1.6), uniform(0.05, 1.5)),
        erector=draw.number(normal(1, 0.1, 0.7, 1.4), uniform(0.75, 1.45)),
        wall=draw.number(normal(1, 0.12, 0.6, 1.45), uniform(0.55, 1.45)),
        spread=draw.number(uniform(1, 1), uniform(1, 2.2)),
        organ_spread_hu=draw.number(uniform(0, 0), uniform(5, 30)),
        masses=int(rng.poisson(draw.mix(0.08, 1.2))),
    )
