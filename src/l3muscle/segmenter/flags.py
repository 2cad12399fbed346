"""Which outlines drawn by a network a person should review first.

Two signs, both calibrated on the training slices alone: how far the members of an ensemble agree, and whether body,
tissues or outline lie outside what the training slices lead to expect. The bounds sort slices for a person's eyes and
take no decision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator
from scipy import ndimage, special

from l3muscle.metrics import dice
from l3muscle.preprocess import body

MUSCLE_RANGE_HU = (-29, 150)  # Mourtzakis et al. 2008, as most studies of body composition cut it
COARSE_MM = 3.0  # pixels that the description is taken from; finer ones add nothing but time
AIR_HU = -400  # lung and bowel gas lie below, every tissue above
FAT_HU = (-190, -30)
BONE_HU = 175
FALSE_ALARMS = 0.02  # share of slices like those of the training that the bounds together may wrongly flag
DISAGREEING = 0.1  # share of held-out slices whose members agree less than the bound
MIN_MUSCLE_SHARE = 0.5  # of an outline within the muscle range; experts' outlines have 0.9 and more


@dataclass(frozen=True)
class Feature:
    """One number that describes a slice or its outline.

    Attributes
    ----------
    label : str
        What it is, as a sentence about a slice calls it.
    min_sd : float
        Least standard deviation assumed between slices: ten slices can be alike by chance.
    as_root : bool
        Whether bounds are set on the square root, as for shares near zero, which vary lopsidedly.
    unit : str
        Empty for a share.
    """

    label: str
    min_sd: float
    as_root: bool = False
    unit: str = ""

    def text(self, value: float) -> str:
        """A value as reports print it."""
        return f"{value:.0f} {self.unit}" if self.unit else f"{value:.0%}"


FEATURES = {
    "body_area_cm2": Feature("body area", 120.0, unit="cm²"),
    "body_width_mm": Feature("body width", 30.0, unit="mm"),
    "body_depth_mm": Feature("body depth", 25.0, unit="mm"),
    "air_share": Feature("air inside the body", 0.05, as_root=True),
    "fat_share": Feature("fat in the body", 0.06, as_root=True),
    "bone_share": Feature("bone or contrast medium in the body", 0.03, as_root=True),
    "soft_hu": Feature("median of soft tissue", 6.0, unit="HU"),
    "fat_hu": Feature("median of fat", 6.0, unit="HU"),
    "muscle_area_share": Feature("outlined share of the body", 0.03),
    "muscle_range_share": Feature("part of the outline within -29 to 150 HU", 0.03),
    "outline_depth": Feature("height of the outline's middle in the body", 0.04),
}


def muscle_range(hu: np.ndarray) -> np.ndarray:
    """Pixels within -29 to 150 HU, ends included."""
    return (hu >= MUSCLE_RANGE_HU[0]) & (hu <= MUSCLE_RANGE_HU[1])


def describe(hu: np.ndarray, mask: np.ndarray, spacing: tuple[float, float]) -> dict[str, float]:
    """Describe a slice and its outline by the numbers of `FEATURES`.

    Parameters
    ----------
    hu : ndarray, (H, W)
    mask : ndarray, (H, W) bool
    spacing : (float, float)
        Row and column spacing, mm.

    Returns
    -------
    dict of str to float
        NaN where a number does not exist: all of them without a body, some without an outline.
    """
    steps = [max(1, round(COARSE_MM / float(pixel))) for pixel in spacing]
    hu, mask = hu[:: steps[0], :: steps[1]], mask[:: steps[0], :: steps[1]]
    row_mm, column_mm = (float(pixel) * step for pixel, step in zip(spacing, steps, strict=True))
    described = dict.fromkeys(FEATURES, float("nan"))
    whole = ndimage.binary_fill_holes(body(hu, opening=1))
    if not whole.any():
        return described
    inside = hu[whole]
    rows, columns = ndimage.find_objects(whole.astype(np.uint8))[0]
    height, width = rows.stop - rows.start, columns.stop - columns.start
    soft, fat = inside[muscle_range(inside)], inside[(inside >= FAT_HU[0]) & (inside < FAT_HU[1])]
    described |= {
        "body_area_cm2": inside.size * row_mm * column_mm / 100,
        "body_width_mm": width * column_mm,
        "body_depth_mm": height * row_mm,
        "air_share": float(np.mean(inside < AIR_HU)),
        "fat_share": fat.size / inside.size,
        "bone_share": float(np.mean(inside > BONE_HU)),
        "muscle_area_share": np.count_nonzero(mask) / inside.size,
    }
    if soft.size:
        described["soft_hu"] = float(np.median(soft))
    if fat.size:
        described["fat_hu"] = float(np.median(fat))
    if mask.any():
        described["muscle_range_share"] = float(muscle_range(hu[mask]).mean())
        described["outline_depth"] = float((np.nonzero(mask)[0].mean() - rows.start) / height)
    return described


class Calibration(BaseModel):
    """What the training slices lead to expect of others.

    Attributes
    ----------
    slices : int
        How many were described.
    agreement : float or None
        Mean Dice between members below which a slice is flagged; None for a model of one member.
    bounds : dict of str to (float, float)
        For each feature, between which values it is expected.
    """

    model_config = ConfigDict(frozen=True)

    slices: int
    agreement: float | None
    bounds: dict[str, tuple[float, float]]

    @field_validator("bounds")
    @classmethod
    def _known(cls, bounds: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if unknown := bounds.keys() - FEATURES.keys():
            raise ValueError(f"unknown feature {min(unknown)}")
        return bounds


def calibrate(descriptions: Sequence[Mapping[str, float]], agreements: Sequence[float]) -> Calibration:
    """Set the bounds.

    A feature's bounds are a prediction interval for one more slice (Student's, two-sided), wide enough that all
    features together flag `FALSE_ALARMS` of the slices like those of the training. Below the least agreement lies the
    share `DISAGREEING` of the held-out slices.

    Parameters
    ----------
    descriptions : sequence of dict
        From `describe`, of at least three slices.
    agreements : sequence of float
        Of slices that the members compared had not seen; may be empty.
    """
    count = len(descriptions)
    reach = special.stdtrit(count - 1, 1 - FALSE_ALARMS / len(FEATURES) / 2) * np.sqrt(1 + 1 / count)
    bounds = {}
    for name, feature in FEATURES.items():
        values = np.array([description[name] for description in descriptions])
        values = values[np.isfinite(values)]
        if len(values) < 3:
            continue
        scale = np.sqrt(values) if feature.as_root else values
        half = reach * max(scale.std(ddof=1), feature.min_sd)
        low, high = float(scale.mean() - half), float(scale.mean() + half)
        bounds[name] = (max(low, 0.0) ** 2, high**2) if feature.as_root else (low, high)
    least = sorted(agreements)[int(DISAGREEING * (len(agreements) - 1))] if agreements else None
    return Calibration(slices=count, agreement=least, bounds=bounds)


def pairwise_dice(masks: np.ndarray) -> float:
    """Mean Dice over all pairs of two or more masks (K, H, W) bool; 1 for a pair of empty ones."""
    return float(np.mean([dice(one, other) for one, other in combinations(masks, 2)]))


def review_reasons(
    hu: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float],
    agreement: float | None = None,
    calibration: Calibration | None = None,
) -> list[str]:
    """Why a person should review an outline before others, in words; empty where nothing speaks against it.

    Parameters
    ----------
    hu : ndarray, (H, W)
    mask : ndarray, (H, W) bool
        The outline.
    spacing : (float, float)
        Row and column spacing, mm.
    agreement : float, optional
        Mean Dice between the members of an ensemble.
    calibration : Calibration, optional
        Without it only what holds for any slice is checked.
    """
    described = describe(hu, mask, spacing)
    if np.isnan(described["body_area_cm2"]):
        return ["no body in the slice"]
    reasons = []
    if hu.min() > AIR_HU:
        reasons.append(f"no air around the body (lowest value {hu.min():.0f}): are these Hounsfield units, or MR?")
    if described["fat_share"] == 0:
        reasons.append("nothing in the body has the density of fat: are these Hounsfield units?")
    if not mask.any():
        reasons.append("no muscle found")
    elif described["muscle_range_share"] < MIN_MUSCLE_SHARE:
        reasons.append(f"only {described['muscle_range_share']:.0%} of the outline is within -29 to 150 HU")
    if calibration is None:
        return reasons
    if agreement is not None and calibration.agreement is not None and agreement < calibration.agreement:
        reasons.append(
            f"the models disagree: mean Dice between them {agreement:.2f}, "
            f"on held-out slices seldom below {calibration.agreement:.2f}"
        )
    for name, (low, high) in calibration.bounds.items():
        feature, value = FEATURES[name], described[name]
        if np.isfinite(value) and not low <= value <= high:
            side, bound = ("below", low) if value < low else ("above", high)
            reasons.append(
                f"{feature.label} is {feature.text(value)}, {side} the {feature.text(bound)} "
                "that training slices lead to expect"
            )
    return reasons
