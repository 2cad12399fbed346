"""Which of a file's outlines is the muscle, which are observers', and masks from pictures.

An outline is muscle by its name, by the user's word, or because its file holds no other. That it is alone on a slice
says nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from l3muscle.cohort.ct import CTHeader
from l3muscle.errors import L3MuscleError, reason_of

EXPERT = "expert"
OBSERVER_PREFIX = "observer"
MUSCLE = re.compile(r"(?<![a-z])expert(?![a-z])|mus[ck]|músc|spier|мышц|肌|筋", re.IGNORECASE)
FAT = re.compile(r"fat(?![a-z])|adipos|(?<![a-z])imat(?![a-z])", re.IGNORECASE)
OTHER_TISSUE = re.compile(
    r"(?<![a-z])(body|external|skin|couch|table|bone|vertebra|spine|spinal|cord|canal|rib|pelvis|femur|kidney|liver|spleen"
    r"|bowel|colon|bladder|stomach|pancreas|gallbladder|aorta|vena|cava|vessel|lung|heart|vat|sat|[pgci]tv)",
    re.IGNORECASE,
)
GREY_MODES = ("1", "L", "I", "I;16")
SAME_OUTLINE = 0.05  # share of the pixels by which one outline differs between two file formats


class MaskError(L3MuscleError):
    """A file that holds no mask of the slice it is meant for."""


class OutlineFile(Protocol):
    """What every reader of outlines offers.

    Attributes
    ----------
    name : str
        The file as messages call it.
    """

    name: str

    def slices(self, candidates: Sequence[CTHeader]) -> set[str]:
        """Keys of those of the candidates that it marks; it has to be asked before `masks`."""

    def masks(self, ct: CTHeader) -> dict[str, np.ndarray]:
        """Its outlines of a slice by who drew them, `expert` or `observer ...`, each (H, W) bool and upright."""


def roles(
    names: Mapping[int, str], wanted: Sequence[str] = (), describes: Mapping[int, str] | None = None
) -> dict[str, list[int]]:
    """Who drew which of a file's outlines.

    Parameters
    ----------
    names : mapping of int to str
        Names of everything that the file outlines, on whichever slice, by number.
    wanted : sequence of str
        Names that the user says are muscle; several are one muscle together.
    describes : mapping of int to str, optional
        What else the file says of each, such as the kind of tissue.

    Returns
    -------
    dict of str to list of int
        Numbers by `expert` and `observer ...`.

    Raises
    ------
    MaskError
        If it does not say which one is the muscle.
    """
    found = {n.casefold(): [k] for k, n in names.items() if n.casefold().startswith(OBSERVER_PREFIX)}
    drawn: dict[str, list[int]] = {names[numbers[0]]: numbers for numbers in found.values()}
    others = {number: name for number, name in names.items() if not name.casefold().startswith(OBSERVER_PREFIX)}
    if len(drawn) + len(others) < len(names):
        raise MaskError("two outlines of one observer; each needs a name of its own")
    if not others:
        return drawn
    text = {number: f"{name} {(describes or {}).get(number, '')}" for number, name in others.items()}
    if wanted:
        chosen = [number for number, name in others.items() if name.casefold() in {w.casefold() for w in wanted}]
    else:
        chosen = [number for number in others if MUSCLE.search(text[number]) and not FAT.search(text[number])]
        named = [number for number in chosen if others[number].casefold() == EXPERT]
        chosen = named or chosen
        if not chosen and len(others) == 1 and not any(r.search(*text.values()) for r in (FAT, OTHER_TISSUE)):
            chosen = list(others)
    if not chosen or (len(chosen) > 1 and not wanted):
        listed = ", ".join(sorted(map(repr, others.values()))[:6]) + (", ..." if len(others) > 6 else "")
        said = (
            f"none is called {' or '.join(map(repr, wanted))}"
            if wanted
            else "which is the muscle can be told by its name"
        )
        raise MaskError(f"outlines {listed}; {said} (option --roi, or the column roi of cohort.csv)")
    return {EXPERT: chosen, **drawn}


def merge(files: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """The outlines of one slice from several files; where two hold the same one, they have to agree.

    Parameters
    ----------
    files : sequence of (str, mapping of str to ndarray)
        A file's name, and its outlines.

    Raises
    ------
    MaskError
        If two files hold different outlines by the same person.
    """
    drawn: dict[str, np.ndarray] = {}
    first: dict[str, str] = {}
    for name, masks in files:
        for by, mask in masks.items():
            if by in drawn and np.sum(mask ^ drawn[by]) > SAME_OUTLINE * np.sum(mask | drawn[by]):
                raise MaskError(f"{name}: outlines it by {by!r} differently from {first[by]}")
            drawn.setdefault(by, mask)
            first.setdefault(by, name)
    return drawn


def as_mask(values: np.ndarray) -> np.ndarray:
    """Muscle where `values` are not zero.

    Raises
    ------
    MaskError
        If there are more than two values, or two and none of them zero: which of them is muscle would be a guess.
    """
    inside = values != 0
    if inside.any():
        label = values[inside][0]
        if (values[inside] != label).any():
            listed = ", ".join(f"{value:g}" for value in np.unique(values)[:4])
            raise MaskError(f"a mask holds 0 and one other value; this holds {listed}")
    return inside


@dataclass(frozen=True)
class Picture:
    """A mask in a greyscale PNG of a slice's size: of the pixels as a DICOM file stores them, or upright for NIfTI."""

    path: Path
    name: str
    drawn_by: str = EXPERT

    def slices(self, candidates: Sequence[CTHeader]) -> set[str]:
        """A picture does not say which slice it is of."""
        return {ct.key for ct in candidates} if len(candidates) == 1 else set()

    def masks(self, ct: CTHeader) -> dict[str, np.ndarray]:
        """Read it.

        Raises
        ------
        MaskError
            If it is no mask of this size.
        """
        shape = ct.stored.shape if ct.sop_instance_uid else ct.shape
        try:
            with Image.open(self.path, formats=["PNG"]) as picture:
                if (picture.height, picture.width) != shape:
                    found, expected = (" x ".join(map(str, size)) for size in ((picture.height, picture.width), shape))
                    raise MaskError(f"{self.name}: has {found} pixels where the slice has {expected}")
                if picture.mode not in GREY_MODES:
                    raise MaskError(f"{self.name}: a picture of mode {picture.mode}; a mask is greyscale or one-bit")
                values = np.asarray(picture).astype(np.int64)
        except MaskError:
            raise
        except UnidentifiedImageError:
            raise MaskError(f"{self.name}: not a PNG picture") from None
        except Exception as error:  # its decoder raises its own kinds
            raise MaskError(f"{self.name}: damaged picture ({reason_of(error)})") from None
        try:
            mask = as_mask(values)
        except MaskError as error:
            raise MaskError(f"{self.name}: {error}") from None
        return {self.drawn_by: ct.turn.apply(mask) if ct.sop_instance_uid else mask}
