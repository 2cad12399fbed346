"""Reading files: ours beside SimpleITK and pydicom (a CT slice), highdicom and SimpleITK (a DICOM Segmentation).

The files are phantoms at 512 x 512 that this package writes, uncompressed. Ours also checks what decides a measure
(modality, spacing, rescaling, where an outline lies), which the others leave to their caller. Files are in the page
cache: what is timed is decoding, not the disk.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import NotOffered, Rows, Sides, Work

PART = "reading"
SLICE, MASK = "a CT slice", "a DICOM Segmentation"


def write_files(folder: Path, count: int) -> None:
    """Phantoms as DICOM, each with its mask as DICOM Segmentation."""
    from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
    from l3muscle.cohort.seg import write_seg
    from l3muscle.phantom.patients import phantom_slice

    for seed in range(count):
        drawn = phantom_slice(seed)
        ct = folder / f"{seed:02d}.ct.dcm"
        write_ct_slice(ct, drawn.hu, drawn.spacing, patient_id=f"PHANTOM-{seed:04d}")
        write_seg(folder / f"{seed:02d}.seg.dcm", drawn.mask, read_ct_slice(ct))


# Each library reads a pair of files (slice, segmentation) by case: HU (H, W), or a mask (H, W) bool.
Library = dict[str, Callable[[Path, Path], np.ndarray]]


def ours() -> Library:
    """This package."""
    from l3muscle.cohort import seg
    from l3muscle.cohort.ct import read_ct_slice

    slices = {}  # is read before, and not timed with the segmentation

    def mask(ct: Path, segmentation: Path) -> np.ndarray:
        if ct not in slices:
            slices[ct] = read_ct_slice(ct)
        seg._segmentation.cache_clear()
        outlines = seg.SegmentationFile(segmentation, segmentation.name)
        outlines.slices([slices[ct]])
        return outlines.masks(slices[ct])["expert"]

    return {SLICE: lambda ct, _: read_ct_slice(ct).hu, MASK: mask}


def pydicom() -> Library:
    """pydicom, with its own rescaling."""
    from pydicom import dcmread
    from pydicom.pixels import apply_rescale

    def slice_(ct: Path, _: Path) -> np.ndarray:
        dataset = dcmread(ct)
        return apply_rescale(dataset.pixel_array, dataset)

    return {SLICE: slice_}


def simpleitk() -> Library:
    """SimpleITK, which reads the frames of a segmentation as an image."""
    import SimpleITK as sitk

    def read(path: Path) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]

    return {SLICE: lambda ct, _: read(ct), MASK: lambda _, segmentation: read(segmentation) > 0}


def highdicom() -> Library:
    """highdicom, which finds the frames of an image by its UID."""
    import highdicom as library
    from pydicom import dcmread

    uids = {}

    def mask(ct: Path, segmentation: Path) -> np.ndarray:
        if ct not in uids:
            uids[ct] = dcmread(ct, stop_before_pixels=True).SOPInstanceUID
        read = library.seg.segread(segmentation)
        return read.get_pixels_by_source_instance([uids[ct]], segment_numbers=[1])[0, ..., 0] > 0

    return {MASK: mask}


def _side(library: Callable[[], Library]) -> Callable[..., Work]:
    def side(case: str, files: list[tuple[Path, Path]]) -> Work:
        offered = library()
        if case not in offered:
            raise NotOffered("it has none")
        return Work(
            lambda: [offered[case](*pair) for pair in files],
            len(files),
            lambda: [np.asarray(offered[case](*pair)).astype(np.float32) for pair in files],
        )

    return side


LIBRARIES = {"ours": ours, "pydicom": pydicom, "SimpleITK": simpleitk, "highdicom": highdicom}
SIDES = {name: _side(library) for name, library in LIBRARIES.items()}


def run(rows: Rows, size, folder: Path) -> None:
    """Compare the readers."""
    write_files(folder, size.pairs)
    files = [(folder / f"{seed:02d}.ct.dcm", folder / f"{seed:02d}.seg.dcm") for seed in range(size.pairs)]
    with Sides(__name__, SIDES) as sides:
        for case, unit in ((SLICE, "HU"), (MASK, "")):
            units = sides.prepare({"case": case, "files": files}, threads=1)
            seconds = sides.alternate(units, rounds=size.rounds, block_s=size.block_s)
            outcomes = sides.outcomes(seconds)
            rows.add_times(PART, case, "time a file", seconds, sides.failed)
            for name in outcomes.keys() - {"ours"}:
                largest = max(np.abs(a - b).max() for a, b in zip(outcomes[name], outcomes["ours"], strict=True))
                rows.add(PART, case, "largest difference", name, [largest], unit=unit)
