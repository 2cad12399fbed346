"""Applying a trained model to CT slices: masks, overlays and one row of measures for each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from l3muscle.cohort import dicom
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.metrics import muscle_area, muscle_density, remove_bone
from l3muscle.model_file import Segmenter

OUTLINE_RGB = (255, 176, 0)
MASK_WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray, dicom.CTSlice], None]]] = {
    "seg": ("seg.dcm", dicom.write_seg),
    "rtstruct": ("rtstruct.dcm", lambda path, mask, ct: dicom.write_rtstruct(path, {"skeletal muscle": mask}, ct)),
    "nifti": ("mask.nii.gz", dicom.write_nifti),
}


class SegmentError(L3MuscleError):
    """Slices that cannot be segmented, or an output folder that cannot be written."""


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
    grey = np.clip((hu - (level_hu - window_hu / 2)) / window_hu, 0, 1)
    picture = np.repeat(np.repeat((grey * 255).astype(np.uint8), 2, axis=0), 2, axis=1)
    large = np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1)
    padded = np.pad(large, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rgb = np.stack([picture] * 3, axis=-1)
    rgb[large & ~inner] = OUTLINE_RGB
    return Image.fromarray(rgb)


def segment_slices(
    paths: Sequence[Path],
    model: Segmenter,
    out: Path,
    *,
    formats: Sequence[str] = ("seg",),
    on_slice: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Outline muscle in CT slices and measure it.

    Parameters
    ----------
    paths : sequence of Path
        DICOM files, or folders of them.
    model : Segmenter
    out : Path
        Folder for the results: for each slice a mask in every format and `<name>.png`; `measures.csv` for all.
    formats : sequence of {"seg", "rtstruct", "nifti"}
    on_slice : callable, optional
        Called with the name of each finished slice.

    Returns
    -------
    DataFrame
        One row a slice: slice, position_mm along the scan axis, sma_cm2, smd_hu (after bone removal, Section 2.3).

    Raises
    ------
    DicomError
        If a file is not a CT slice that can be read soundly.
    SegmentError
        If `out` cannot be written.
    """
    slices = dicom.read_ct_folder(paths)
    rows = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for index, ct in enumerate(slices, start=1):
            name = f"{index:03d}-{ct.path.stem}"
            mask = model.predict(ct.hu, ct.spacing)
            for suffix, write in (MASK_WRITERS[format_] for format_ in formats):
                write(out / f"{name}.{suffix}", mask, ct)
            overlay_image(ct.hu, mask).save(out / f"{name}.png")
            soft = remove_bone(mask, ct.hu, ct.spacing)
            rows.append(
                {
                    "slice": name,
                    "position_mm": ct.location_mm,
                    "sma_cm2": muscle_area(mask, ct.spacing),
                    "smd_hu": muscle_density(soft, ct.hu),
                }
            )
            if on_slice is not None:
                on_slice(name)
        measures = pd.DataFrame(rows)
        measures.to_csv(out / "measures.csv", index=False, float_format="%.3f")
    except OSError as error:
        raise SegmentError(f"cannot write to {out}: {reason_of(error)}") from None
    return measures
