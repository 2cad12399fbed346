"""Applying a trained model to CT slices: masks, overlays, measures, and which of them a person should look at first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from l3muscle.cohort.ct import CTSlice
from l3muscle.cohort.nifti import write_nifti
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.cohort.scan import find_slices
from l3muscle.cohort.seg import write_seg
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.metrics import muscle_area, muscle_density, remove_bone
from l3muscle.preprocess import body_centre
from l3muscle.segmenter.flags import muscle_range, reasons_to_look
from l3muscle.segmenter.model_file import Segmenter

OUTLINE_RGB = (255, 176, 0)
REFERENCE_RGB = (86, 180, 233)
FLAG_RGB = (213, 94, 0)
BATCH = 16  # slices read, outlined and written together
WRITERS = 2  # threads that compress pictures, which holds no lock
PNG_LEVEL = 1  # three times as fast as the usual compression, for pictures a fifth larger
TILE, CAPTION, COLUMNS, SHEET = 300, 34, 5, 40  # pixels, pixels, tiles, tiles a sheet
TILE_MM = (300.0, 420.0)  # rows and columns that a tile shows
HEIGHT_M = (1.0, 2.4)  # beyond, a height is taken for a mistake
MASK_WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray, CTSlice], None]]] = {
    "seg": ("seg.dcm", write_seg),
    "rtstruct": ("rtstruct.dcm", lambda path, mask, ct: write_rtstruct(path, {"skeletal muscle": mask}, ct)),
    "nifti": ("mask.nii.gz", write_nifti),
}


class SegmentError(L3MuscleError):
    """Slices that cannot be segmented, or an output folder that cannot be written."""


def _grey(hu: np.ndarray, window_hu: float, level_hu: float) -> np.ndarray:
    return (np.clip((hu - (level_hu - window_hu / 2)) / window_hu, 0, 1) * 255).astype(np.uint8)


def _inner_edge(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    return mask & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def overlay_image(hu: np.ndarray, mask: np.ndarray, *, window_hu: float = 400, level_hu: float = 50) -> Image.Image:
    """Draw the outline of `mask` on the windowed slice.

    Parameters
    ----------
    hu : ndarray, (H, W)
    mask : ndarray, (H, W) bool
    window_hu, level_hu : float

    Returns
    -------
    PIL.Image.Image
        RGB, twice the size of the slice, so that the outline is one screen pixel inside the mask's edge.
    """
    picture, large = (np.repeat(np.repeat(a, 2, axis=0), 2, axis=1) for a in (_grey(hu, window_hu, level_hu), mask))
    rgb = np.stack([picture] * 3, axis=-1)
    rgb[_inner_edge(large)] = OUTLINE_RGB
    return Image.fromarray(rgb)


@dataclass(frozen=True)
class SheetSlice:
    """A tile of a contact sheet: picture and caption."""

    caption: str
    picture: np.ndarray
    flagged: bool = False

    @classmethod
    def cut(
        cls,
        caption: str,
        hu: np.ndarray,
        spacing: tuple[float, float],
        mask: np.ndarray,
        *,
        reference: np.ndarray | None = None,
        flagged: bool = False,
    ) -> "SheetSlice":
        """Cut a slice around the body, with the outline of `mask` and, in blue below it, of `reference`."""
        scale = min(TILE / TILE_MM[1], TILE / TILE_MM[0])
        shape = tuple(round(length * scale) for length in TILE_MM)
        axes = []
        for centre, extent, pixel, count in zip(body_centre(hu), TILE_MM, spacing, shape, strict=True):
            axes.append(np.rint(centre + ((np.arange(count) + 0.5) / count - 0.5) * extent / float(pixel)).astype(int))
        inside = [(axis >= 0) & (axis < length) for axis, length in zip(axes, hu.shape, strict=True)]
        within = np.ix_(*(np.clip(axis, 0, length - 1) for axis, length in zip(axes, hu.shape, strict=True)))
        there = inside[0][:, None] & inside[1]
        picture = np.stack([np.where(there, _grey(hu[within], 400, 50), 0).astype(np.uint8)] * 3, axis=-1)
        for drawn, colour in ((reference, REFERENCE_RGB), (mask, OUTLINE_RGB)):
            if drawn is not None:
                picture[_inner_edge(drawn[within] & there)] = colour
        return cls(caption, picture, flagged)


def write_sheets(out: Path, name: str, tiles: Sequence[SheetSlice]) -> list[Path]:
    """Write contact sheets `<name>-01.png` ..., tiles in the given order, flagged ones framed.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    font = ImageFont.load_default(12)
    paths = []
    for number, first in enumerate(range(0, len(tiles), SHEET), start=1):
        part = tiles[first : first + SHEET]
        height, width = part[0].picture.shape[:2]
        cell = (width + 8, height + CAPTION)
        rows = -(-len(part) // COLUMNS)
        sheet = Image.new("RGB", (cell[0] * min(COLUMNS, len(part)), cell[1] * rows), (18, 20, 24))
        draw = ImageDraw.Draw(sheet)
        for place, tile in enumerate(part):
            left, top = cell[0] * (place % COLUMNS) + 4, cell[1] * (place // COLUMNS) + 4
            sheet.paste(Image.fromarray(tile.picture), (left, top))
            if tile.flagged:
                draw.rectangle((left - 3, top - 3, left + width + 2, top + height + 2), outline=FLAG_RGB, width=3)
            caption = tile.caption if len(tile.caption) <= 48 else tile.caption[:47] + "…"
            draw.text((left, top + height + 6), caption, fill=(228, 230, 234), font=font)
        paths.append(out / f"{name}-{number:02d}.png")
        sheet.save(paths[-1], compress_level=PNG_LEVEL)
    return paths


@dataclass(frozen=True)
class _Waiting:
    """A slice that is known to be there and not yet read."""

    name: str
    patient_id: str
    location_mm: float
    is_dicom: bool
    read: Callable[[], CTSlice]
    height_m: float | None = None


@dataclass
class _Found:
    waiting: list[_Waiting] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    masks: int = 0


def _height_of(dataset: Dataset) -> float | None:
    """PatientSize in metres, where it states one that a person can have."""
    try:
        height = float(dataset.get("PatientSize") or 0)
    except (TypeError, ValueError):
        return None
    return height if HEIGHT_M[0] <= height <= HEIGHT_M[1] else None


def _look(paths: Sequence[Path]) -> _Found:
    """What slices there are; outlines in folders are passed over, whatever else is no slice is refused."""
    slices, refused, outlines = find_slices(paths)
    waiting = [
        _Waiting(
            ct.path.stem if ct.sop_instance_uid else f"{ct.patient_id}-{ct.index:03d}",
            ct.patient_id,
            ct.location_mm,
            bool(ct.sop_instance_uid),
            ct.read,
            _height_of(ct.header),
        )
        for ct in slices
    ]
    return _Found(waiting, refused, outlines)


def read_heights(path: Path) -> dict[str, float]:
    """Read body heights from a table: `height_m`, and `patient_id` or `slice` (a slice as `measures.csv` names it).

    Raises
    ------
    SegmentError
        If the table cannot be read, lacks a column, names someone twice, or holds a height that is not in metres.
    """
    try:
        table = pd.read_csv(path, dtype=str, sep=None, engine="python", encoding="utf-8-sig").dropna(how="all")
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise SegmentError(f"{path.name} cannot be read as a table: {reason_of(error)}") from None
    table.columns = [str(name).strip().lower() for name in table.columns]
    keys = [name for name in ("patient_id", "slice") if name in table.columns]
    if "height_m" not in table.columns or len(keys) != 1:
        raise SegmentError(f"{path.name} needs the columns height_m and either patient_id or slice")
    heights: dict[str, float] = {}
    for who, text in zip(table[keys[0]], table["height_m"], strict=True):
        if pd.isna(text):
            continue
        try:
            height = float(text.replace(",", "."))
        except ValueError:
            height = float("nan")
        if not HEIGHT_M[0] <= height <= HEIGHT_M[1]:
            raise SegmentError(f"{path.name}: {text!r} is no height in metres ({HEIGHT_M[0]:g} to {HEIGHT_M[1]:g})")
        who = str(who).strip()
        if heights.setdefault(who, height) != height:
            raise SegmentError(f"{path.name}: {keys[0]} {who!r} has two heights")
    return heights


def measure(mask: np.ndarray, hu: np.ndarray, spacing: tuple[float, float], height_m: float | None) -> dict[str, float]:
    """Measures of an outline.

    Returns
    -------
    dict of str to float
        sma_cm2 and smd_hu (after bone removal, Section 2.3); sma_range_cm2 and smd_range_hu of the outline's pixels
        within -29 to 150 HU; height_m, and smi_cm2_m2 and smi_range_cm2_m2, the areas over its square (or NaN).
    """
    ranged = mask & muscle_range(hu)
    area, ranged_area = muscle_area(mask, spacing), muscle_area(ranged, spacing)
    square = float("nan") if height_m is None else height_m**2
    return {
        "sma_cm2": area,
        "smd_hu": muscle_density(remove_bone(mask, hu, spacing), hu),
        "sma_range_cm2": ranged_area,
        "smd_range_hu": muscle_density(ranged, hu),
        "height_m": float("nan") if height_m is None else height_m,
        "smi_cm2_m2": area / square,
        "smi_range_cm2_m2": ranged_area / square,
    }


@dataclass(frozen=True)
class Segmentation:
    """Outcome of `segment_slices`.

    Attributes
    ----------
    measures : DataFrame
        One row a slice, those to look at first on top; the columns of `measure` besides slice, patient_id, position_mm
        (along the scan axis), look_first (bool), reasons (in words, parted by semicolons) and agreement (mean Dice
        between an ensemble's members).
    refused : list of str
        Files that are no slice that can be read soundly, and why.
    masks : int
        Outline files that lay in the folders and were passed over.
    """

    measures: pd.DataFrame
    refused: list[str]
    masks: int


def segment_slices(
    paths: Sequence[Path],
    model: Segmenter,
    out: Path,
    *,
    formats: Sequence[str] = ("seg",),
    heights: Mapping[str, float] | None = None,
    overlays: bool = True,
    on_slice: Callable[[int, int], None] | None = None,
) -> Segmentation:
    """Outline muscle in CT slices, measure it, and say which outlines to look at first.

    Parameters
    ----------
    paths : sequence of Path
        DICOM files, NIfTI images, or folders of them. Every plane of a NIfTI volume is a slice.
    model : Segmenter
    out : Path
        Folder for the results: for each slice a mask in every format (NIfTI for a NIfTI image) and `<name>.png`; for
        all of them `measures.csv` and contact sheets `sheet-01.png` ..., both with those to look at first on top, and
        `refused.txt` where files were refused.
    formats : sequence of {"seg", "rtstruct", "nifti"}
    heights : mapping of str to float, optional
        Body heights in metres by patient ID or by slice; they go before those in the DICOM files.
    overlays : bool
        Whether each slice's own picture is written.
    on_slice : callable, optional
        Called with how many slices are done and how many there are.

    Raises
    ------
    L3MuscleError
        If there is no sound slice, or `out` cannot be written.
    """
    found = _look(paths)
    rows: list[dict[str, object]] = []
    tiles: list[SheetSlice] = []
    total, heights = len(found.waiting), heights or {}
    if not total:
        more = f" (and {len(found.refused) - 1} more refusals)" if len(found.refused) > 1 else ""
        raise SegmentError(found.refused[0] + more if found.refused else "there is no slice among these files")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(WRITERS) as pool:
            pictures = []
            for first in range(0, total, BATCH):
                batch = []
                for place, waiting in enumerate(found.waiting[first : first + BATCH], start=first + 1):
                    try:
                        batch.append((f"{place:03d}-{waiting.name}", waiting, waiting.read()))
                    except L3MuscleError as error:
                        found.refused.append(str(error))
                outlined = model.outline([(ct.hu, ct.spacing) for _, _, ct in batch]) if batch else []
                for (name, waiting, ct), (mask, agreement) in zip(batch, outlined, strict=True):
                    wanted = formats if waiting.is_dicom else ("nifti",)
                    for suffix, write in (MASK_WRITERS[format_] for format_ in wanted):
                        write(out / f"{name}.{suffix}", mask, ct)
                    if overlays:
                        pictures.append(pool.submit(_save_overlay, out / f"{name}.png", ct.hu, mask))
                    reasons = reasons_to_look(ct.hu, mask, ct.spacing, agreement, model.calibration)
                    height = heights.get(waiting.name, heights.get(name, heights.get(ct.patient_id, waiting.height_m)))
                    rows.append(
                        {
                            "slice": name,
                            "patient_id": ct.patient_id,
                            "position_mm": waiting.location_mm,
                            "look_first": bool(reasons),
                            **measure(mask, ct.hu, ct.spacing, height),
                            "agreement": float("nan") if agreement is None else agreement,
                            "reasons": "; ".join(reasons),
                        }
                    )
                    tiles.append(SheetSlice.cut(name, ct.hu, ct.spacing, mask, flagged=bool(reasons)))
                    if on_slice is not None:
                        on_slice(len(rows), total)
            for picture in pictures:
                picture.result()
        if not rows:
            raise SegmentError(found.refused[0])
        order = _order(rows)
        measures = pd.DataFrame([rows[place] for place in order])
        measures.to_csv(out / "measures.csv", index=False, float_format="%.3f")
        write_sheets(out, "sheet", [tiles[place] for place in order])
        if found.refused:
            (out / "refused.txt").write_text("".join(f"{line}\n" for line in found.refused), encoding="utf-8")
    except OSError as error:
        raise SegmentError(f"cannot write to {out}: {reason_of(error)}") from None
    return Segmentation(measures, found.refused, found.masks)


def _save_overlay(path: Path, hu: np.ndarray, mask: np.ndarray) -> None:
    overlay_image(hu, mask).save(path, compress_level=PNG_LEVEL)


def _order(rows: Iterable[Mapping[str, object]]) -> list[int]:
    """Places of the rows: flagged ones first, by the number of reasons, and then by how little the members agree."""

    def key(entry: tuple[int, Mapping[str, object]]) -> tuple:
        place, row = entry
        agreement = row["agreement"]
        count = str(row["reasons"]).count(";") + 1 if row["look_first"] else 0
        return -count, 1.0 if np.isnan(agreement) else agreement, place

    return [place for place, _ in sorted(enumerate(rows), key=key)]
