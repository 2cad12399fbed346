"""Applying a trained model to CT slices: masks, overlays, measures, and which outlines a person should review first."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.metrics import muscle_area, muscle_density, remove_bone
from l3muscle.segmenter.flags import FAT_HU, muscle_range, review_reasons
from l3muscle.segmenter.model_file import Outline, Segmenter
from l3muscle.segmenter.output import MEASURES, OutputFolder
from l3muscle.segmenter.report import Tile, contact_sheets, overlay_image
from l3muscle.segmenter.slices import HEIGHT_M, MASK_WRITERS, Slice, find_slices

BATCH = 16  # slices read, outlined and written together
PNG_LEVEL = 1  # three times as fast as the usual compression, for pictures a fifth larger


class SegmentError(L3MuscleError):
    """Slices that cannot be segmented, or an output folder that cannot be written."""


def read_heights(path: Path) -> dict[str, float]:
    """Read body heights from a table: `height_m`, and `patient_id` or `slice`.

    A slice is called as `measures.csv` calls it: by its name, the path of its file, or its SOP Instance UID.

    Raises
    ------
    SegmentError
        If the table cannot be read, lacks a column, names someone twice, or holds a height that is not in metres.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, sep=None, engine="python", encoding="utf-8-sig", keep_default_na=False, na_values=[""]
        ).dropna(how="all")
    except (OSError, ValueError, csv.Error, pd.errors.ParserError) as error:
        raise SegmentError(f"{path.name} cannot be read as a table: {reason_of(error)}") from None
    table.columns = [str(name).strip().lower() for name in table.columns]
    keys = [name for name in ("patient_id", "slice") if name in table.columns]
    if "height_m" not in table.columns or len(keys) != 1:
        raise SegmentError(f"{path.name} needs the columns height_m and either patient_id or slice")
    heights: dict[str, float] = {}
    for who, text in table[[keys[0], "height_m"]].dropna().itertuples(index=False):
        height = pd.to_numeric(text.replace(",", "."), errors="coerce")
        if not HEIGHT_M[0] <= height <= HEIGHT_M[1]:
            raise SegmentError(f"{path.name}: {text!r} is no height in metres ({HEIGHT_M[0]:g} to {HEIGHT_M[1]:g})")
        if heights.setdefault(who.strip(), float(height)) != height:
            raise SegmentError(f"{path.name}: {keys[0]} {who.strip()!r} has two heights")
    return heights


def measure(mask: np.ndarray, hu: np.ndarray, spacing: tuple[float, float], height_m: float | None) -> dict[str, float]:
    """Measures of an outline.

    Returns
    -------
    dict of str to float
        sma_cm2 and smd_hu (after bone removal, Section 2.3); sma_range_cm2 and smd_range_hu of the outline's pixels
        within -29 to 150 HU; imat_cm2, the area of fat, -190 to -30 HU, inside the outline; height_m, and smi_cm2_m2
        and smi_range_cm2_m2, the muscle areas over its square (or NaN).
    """
    ranged = mask & muscle_range(hu)
    area, ranged_area = muscle_area(mask, spacing), muscle_area(ranged, spacing)
    height = math.nan if height_m is None else height_m
    return {
        "sma_cm2": area,
        "smd_hu": muscle_density(remove_bone(mask, hu, spacing), hu),
        "sma_range_cm2": ranged_area,
        "smd_range_hu": muscle_density(ranged, hu),
        "imat_cm2": muscle_area(mask & (hu >= FAT_HU[0]) & (hu <= FAT_HU[1]), spacing),
        "height_m": height,
        "smi_cm2_m2": area / height**2,
        "smi_range_cm2_m2": ranged_area / height**2,
    }


@dataclass(frozen=True)
class Segmentation:
    """Outcome of `segment_slices`.

    `measures` has one row a slice, those to review first on top: slice (the name of its files), source (path of its
    file within the folder), sop_instance_uid, plane (of a NIfTI volume), patient_id, position_mm (along the scan axis),
    review_first (bool), the columns of `measure`, agreement (mean Dice between an ensemble's members) and reasons (in
    words, parted by semicolons).
    """

    measures: pd.DataFrame
    refused: list[str]  # files that are no sound slice, slices whose mask cannot be written, and why
    notes: list[str]  # copies, outlines passed over, heights of nobody, formats not to be had


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
    """Outline muscle in CT slices, measure it, and say which outlines to review first.

    A slice that cannot be read or written is refused; the others are done.

    Parameters
    ----------
    paths : sequence of Path
        DICOM files, NIfTI images, or folders of them. Every axial plane of a NIfTI volume is a slice.
    model : Segmenter
    out : Path
        Folder for the results: for each slice a mask in every format (NIfTI for a NIfTI image) and `<name>.png`; for
        all of them `measures.csv` and contact sheets `sheet-01.png` ..., both with those to review first on top, and
        `refused.txt` where something was refused. What an earlier run wrote there goes.
    formats : sequence of {"seg", "rtstruct", "nifti"}
    heights : mapping of str to float, optional
        Body heights in metres, see `read_heights`; they go before those in the DICOM files.
    overlays : bool
        Whether each slice's own picture is written.
    on_slice : callable, optional
        Called with how many slices are done and how many there are.

    Raises
    ------
    L3MuscleError
        If there is no sound slice, or `out` cannot be written or holds files that must stay.
    """
    inventory = find_slices(paths)
    if not inventory.slices:
        more = f" (and {len(inventory.refused) - 1} more refusals)" if len(inventory.refused) > 1 else ""
        raise SegmentError(inventory.refused[0] + more if inventory.refused else "there is no slice among these files")
    heights = heights or {}
    inventory.notes += _not_to_be_had(inventory.slices, formats, heights)
    try:
        folder = OutputFolder(out)
        folder.clear()
        done: list[tuple[dict[str, object], Tile]] = []
        for outlined, refused in _outlined(inventory.slices, model):
            inventory.refused += refused
            for one, hu, outline in outlined:
                try:
                    _write(folder, one, hu, outline.mask, formats, overlays)
                except (ValueError, TypeError, AttributeError, KeyError) as error:  # of a header that forbids a mask
                    inventory.refused.append(f"{one.source}: no mask can be written for it ({reason_of(error)})")
                    continue
                done.append(_row_and_tile(one, hu, outline, model, _height(one, heights)))
                if on_slice is not None:
                    on_slice(len(done), len(inventory.slices))
        if not done:
            raise SegmentError(inventory.refused[0])
        # Flagged ones first, by the number of reasons, and then by how little the members agree.
        done.sort(key=lambda entry: (-len(entry[0]["reasons"]), np.nan_to_num(entry[0]["agreement"], nan=1.0)))
        measures = pd.DataFrame([row | {"reasons": "; ".join(row["reasons"])} for row, _ in done])
        with folder.write(MEASURES) as draft:
            measures.to_csv(draft, index=False, float_format="%.3f")
        for number, sheet in enumerate(contact_sheets([tile for _, tile in done]), start=1):
            with folder.write(f"sheet-{number:02d}.png") as draft:
                sheet.save(draft, compress_level=PNG_LEVEL)
        if inventory.refused:
            with folder.write("refused.txt") as draft:
                draft.write_text("".join(f"{line}\n" for line in inventory.refused), encoding="utf-8")
    except OSError as error:
        raise SegmentError(f"cannot write to {out}: {reason_of(error)}") from None
    return Segmentation(measures, inventory.refused, inventory.notes)


def _not_to_be_had(slices: Sequence[Slice], formats: Sequence[str], heights: Mapping[str, float]) -> list[str]:
    """What was asked for and cannot be given, in sentences."""
    notes = []
    others = [format_ for format_ in formats if format_ != "nifti"]
    volumes = {one.source for one in slices if not one.is_dicom}
    if others and volumes:
        notes.append(
            f"masks of {len(volumes)} NIfTI images are written as NIfTI and not as {' and '.join(others)}, "
            "which refer to DICOM slices"
        )
    known = {key for one in slices for key in _keys(one)}
    if unknown := [who for who in heights if who not in known]:
        listed = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        notes.append(f"{len(unknown)} heights are of no patient or slice among these files: {listed}")
    return notes


def _keys(one: Slice) -> tuple[str, ...]:
    """What a table of heights may call a slice, the most particular first."""
    return one.name, one.ct.sop_instance_uid, one.source, one.patient_id


def _height(one: Slice, heights: Mapping[str, float]) -> float | None:
    return next((heights[key] for key in _keys(one) if key in heights), one.height_m)


def _outlined(
    slices: Sequence[Slice], model: Segmenter
) -> Iterator[tuple[list[tuple[Slice, np.ndarray, Outline]], list[str]]]:
    """Batch by batch, slices with Hounsfield units (H, W) and outline, and why others have none.

    The next batch is outlined while the caller writes this one.
    """

    def outline(batch: Sequence[Slice]) -> tuple[list[tuple[Slice, np.ndarray, Outline]], list[str]]:
        read, refused = [], []
        for one in batch:
            try:
                read.append((one, one.ct.hu))
            except L3MuscleError as error:
                refused.append(str(error))
        outlines = model.outline([(hu, one.ct.spacing) for one, hu in read]) if read else []
        return [(one, hu, drawn) for (one, hu), drawn in zip(read, outlines, strict=True)], refused

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(outline, slices[:BATCH])
        for first in range(BATCH, len(slices), BATCH):
            done, ahead = ahead, pool.submit(outline, slices[first : first + BATCH])
            yield done.result()
        yield ahead.result()


def _write(
    folder: OutputFolder, one: Slice, hu: np.ndarray, mask: np.ndarray, formats: Sequence[str], overlays: bool
) -> None:
    for format_ in formats if one.is_dicom else ("nifti",):
        suffix, write = MASK_WRITERS[format_]
        with folder.write(f"{one.name}.{suffix}") as draft:
            write(draft, mask, one.ct)
    if overlays:
        with folder.write(f"{one.name}.png") as draft:
            overlay_image(hu, mask).save(draft, compress_level=PNG_LEVEL)


def _row_and_tile(
    one: Slice, hu: np.ndarray, outline: Outline, model: Segmenter, height_m: float | None
) -> tuple[dict[str, object], Tile]:
    ct = one.ct
    mask, agreement = outline
    reasons = review_reasons(hu, mask, ct.spacing, agreement, model.calibration)
    row = {
        "slice": one.name,
        "source": one.source,
        "sop_instance_uid": ct.sop_instance_uid,
        "plane": ct.index,
        "patient_id": one.patient_id,
        "position_mm": ct.location_mm,
        "review_first": bool(reasons),
        **measure(mask, hu, ct.spacing, height_m),
        "agreement": math.nan if agreement is None else agreement,
        "reasons": reasons,
    }
    return row, Tile.cut(one.name, hu, ct.spacing, mask, flagged=bool(reasons))
