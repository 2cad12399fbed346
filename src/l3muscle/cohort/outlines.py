"""Which of a file's outlines is the muscle, which are observers', and masks from pictures.

An outline is muscle by its name, by the user's word, or because its file holds no other. That it is alone on a slice
says nothing.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from l3muscle.cohort.ct import CTSlice
from l3muscle.cohort.files import reading
from l3muscle.errors import L3MuscleError

EXPERT = "expert"
OBSERVER_PREFIX = "observer"
MUSCLE = re.compile(r"(?<![a-z])expert(?![a-z])|mus[ck]|músc|spier|мышц|肌|筋", re.IGNORECASE)
FAT = re.compile(
    r"fat(?![a-z])|fett|grais|grasa|gordura|жир|脂|adipos|sub[ck]ut|(?<![a-z])imat(?![a-z])", re.IGNORECASE
)
OTHER_TISSUE = re.compile(
    r"(?<![a-z])(body|external|skin|haut|peau|piel|bolus|support|couch|table|bone|vertebra|spine|spinal|cord|canal|rib"
    r"|pelvis|femur|kidney|liver|spleen|bowel|colon|bladder|stomach|pancreas|gallbladder|aorta"
    r"|vena|cava|vessel|lung|heart|vat|sat|[pgci]tv|tumou?r|lesion|leber|niere|milz|lunge|herz|darm|blase|knochen|wirbel"
    r"|foie|poumon|coeur|hueso|hígado)",
    re.IGNORECASE,
)
GREY_MODES = ("1", "L", "I", "I;16")
SAME_OUTLINE = 0.02  # share of the pixels by which one outline differs between two file formats
PLANE_TOLERANCE_MM = 0.5  # of an outline that does not name one slice
NAMED_TOLERANCE_MM = 1.0  # of one that does
TIE_MM = 0.05


class OutlineFile(Protocol):
    """What every reader of outlines offers.

    Attributes
    ----------
    name : str
        The file as messages call it.
    """

    name: str

    def slices(self, candidates: Sequence[CTSlice]) -> set[str]:
        """Keys of those of the candidates that it marks; to be called before `masks`."""

    def masks(self, ct: CTSlice) -> dict[str, np.ndarray]:
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
    L3MuscleError
        If it does not say which one is the muscle.
    """
    observers = {n.casefold(): [k] for k, n in names.items() if n.casefold().startswith(OBSERVER_PREFIX)}
    drawn: dict[str, list[int]] = {names[numbers[0]]: numbers for numbers in observers.values()}
    others = {number: name for number, name in names.items() if not name.casefold().startswith(OBSERVER_PREFIX)}
    if len(drawn) + len(others) < len(names):
        raise L3MuscleError("two outlines of one observer; each needs a name of its own")
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
        raise L3MuscleError(f"outlines {listed}; {said} (option --roi, or the column roi of cohort.csv)")
    return {EXPERT: chosen, **drawn}


def merge(files: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """The outlines of one slice from several files; where two hold the same one, they have to agree.

    Parameters
    ----------
    files : sequence of (str, mapping of str to ndarray)
        A file's name, and its outlines.

    Raises
    ------
    L3MuscleError
        If two files hold different outlines by the same person.
    """
    drawn: dict[str, np.ndarray] = {}
    first: dict[str, str] = {}
    for name, masks in files:
        for by, mask in masks.items():
            if by in drawn and np.sum(mask ^ drawn[by]) > SAME_OUTLINE * np.sum(mask | drawn[by]):
                raise L3MuscleError(f"{name}: outlines it by {by!r} differently from {first[by]}")
            drawn.setdefault(by, mask)
            first.setdefault(by, name)
    return drawn


@dataclass(frozen=True)
class Part:
    """A contour or a frame of an outline.

    Attributes
    ----------
    by : str
        Who drew it, `expert` or `observer ...`.
    images : frozenset of str
        SOP Instance UIDs that it names.
    frame : str
        UID of its frame of reference, or empty.
    points : ndarray, (K, 3)
        Where it lies, mm.
    content : object
        What its reader needs to fill it.
    """

    by: str
    images: frozenset[str]
    frame: str
    points: np.ndarray
    content: Any


class ReferringFile:
    """Outlines that refer to slices by UID or by their position: those of RTSTRUCT and SEG.

    Parameters
    ----------
    name : str
        The file as messages call it.
    parts : sequence of Part
    series : set of str
        UIDs of the series that the file names.
    """

    def __init__(self, name: str, parts: Sequence[Part], series: set[str]) -> None:
        self.name, self._parts, self._series = name, parts, series
        self._by_slice: dict[str, dict[str, list[Any]]] = {}

    def fill(self, contents: Sequence[Any], ct: CTSlice) -> np.ndarray:
        """The outline (H, W) bool that the parts on one slice make up."""
        raise NotImplementedError

    def masks(self, ct: CTSlice) -> dict[str, np.ndarray]:
        """Its outlines of a slice by who drew them, (H, W) bool, upright; `slices` says which slices there are.

        Raises
        ------
        FileError
            If an outline could mean two things.
        """
        with reading(self.name):
            return {by: self.fill(contents, ct) for by, contents in self._by_slice.get(ct.key, {}).items()}

    def slices(self, candidates: Sequence[CTSlice]) -> set[str]:
        """Keys of the slices that its outlines lie on: the one that a part names, or else the nearest one.

        Raises
        ------
        FileError
            If a part lies beside the slice it names, or as near to one slice as to another.
        """
        with reading(self.name):
            known = {ct.sop_instance_uid: ct for ct in candidates if ct.sop_instance_uid}
            planes: dict[object, _Planes] = {}
            self._by_slice = defaultdict(lambda: defaultdict(list))
            for part in self._parts:
                named = [known[image] for image in part.images if image in known]
                if any(part.frame and ct.frame_of_reference_uid not in ("", part.frame) for ct in named):
                    raise L3MuscleError(f"drawn in another frame of reference than {named[0].name}")
                if len(part.images) == 1:
                    on = named[0] if named else None
                    if on is not None and np.abs(on.heights(part.points)).max() > NAMED_TOLERANCE_MM:
                        raise L3MuscleError(f"an outline does not lie in the plane of {on.name}, which it names")
                else:
                    where = part.images or part.frame
                    if where not in planes:
                        of_frame = [ct for ct in candidates if ct.frame_of_reference_uid == part.frame != ""]
                        listed = named if part.images else of_frame
                        of_series = [ct for ct in listed if ct.header.get("SeriesInstanceUID") in self._series]
                        planes[where] = _Planes(of_series or listed)
                    on = planes[where].nearest(part.points)
                if on is not None:
                    self._by_slice[on.key][part.by].append(part.content)
            return set(self._by_slice)


class _Planes:
    """Slices among which an outline looks for its own."""

    def __init__(self, slices: Sequence[CTSlice]) -> None:
        self.slices = slices
        self.normals = np.array([ct.normal for ct in slices]).reshape(-1, 3)
        self.locations = np.array([ct.location_mm for ct in slices])

    def nearest(self, points: np.ndarray) -> CTSlice | None:
        """The slice that points (K, 3) lie on, if there is one."""
        if not self.slices:
            return None
        distances = np.abs(self.normals @ points.mean(axis=0) - self.locations)
        first, *others = np.argsort(distances, kind="stable")[:2]
        nearest = self.slices[first]
        if np.abs(nearest.heights(points)).max() > PLANE_TOLERANCE_MM:
            return None
        if others and distances[others[0]] - distances[first] < TIE_MM:
            other = self.slices[others[0]]
            raise L3MuscleError(f"an outline that names no image lies as near to {nearest.name} as to {other.name}")
        return nearest


def as_mask(values: np.ndarray) -> np.ndarray:
    """Muscle where `values` are not zero.

    Raises
    ------
    L3MuscleError
        If there are more than two values, or two and none of them zero: which of them is muscle would be a guess.
    """
    inside = values != 0
    if inside.any():
        label = values[inside][0]
        if (values[inside] != label).any():
            listed = ", ".join(f"{value:g}" for value in np.unique(values)[:4])
            raise L3MuscleError(f"a mask holds 0 and one other value; this holds {listed}")
    return inside


@dataclass(frozen=True)
class Picture:
    """A mask in a greyscale PNG of a slice's size: of the pixels as a DICOM file stores them, or upright for NIfTI."""

    path: Path
    name: str
    drawn_by: str = EXPERT

    def slices(self, candidates: Sequence[CTSlice]) -> set[str]:
        """A picture does not say which slice it is of."""
        return {ct.key for ct in candidates} if len(candidates) == 1 else set()

    def masks(self, ct: CTSlice) -> dict[str, np.ndarray]:
        """Read it.

        Raises
        ------
        L3MuscleError
            If it is no mask of this size.
        """
        shape = ct.stored.shape if ct.sop_instance_uid else ct.shape
        with reading(self.name, "PNG"):
            try:
                picture = Image.open(self.path, formats=["PNG"])
            except UnidentifiedImageError:
                raise L3MuscleError("not a PNG picture") from None
            with picture:
                if (picture.height, picture.width) != shape:
                    sizes = (picture.height, picture.width, *shape)
                    raise L3MuscleError("has {} x {} pixels where the slice has {} x {}".format(*sizes))
                if picture.mode not in GREY_MODES:
                    raise L3MuscleError(f"a picture of mode {picture.mode}; a mask is greyscale or one-bit")
                mask = as_mask(np.asarray(picture).astype(np.int64))
        return {self.drawn_by: ct.turn.apply(mask) if ct.sop_instance_uid else mask}
