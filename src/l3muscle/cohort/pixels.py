"""From the stored values of a CT file to Hounsfield units."""

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ImplicitVRLittleEndian, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes
from scipy import ndimage

from l3muscle.cohort.cohort import AIR_HU
from l3muscle.errors import L3MuscleError, reason_of

STORED_HU = (-1024, 3071)  # what twelve stored bits hold
LARGEST_HU = 31_000  # of the extended scale for metal; beyond are negative numbers read without their sign
TISSUE_HU = (-300, 300)
DENSE_HU = 700  # compact bone and metal
MAX_DENSE_SHARE = 0.1
FAT_HU = -30  # every body has tissue below
THIN_HU = -500
AIR_RANGE_HU = (-1200, -800)  # holds the thinner part of what is thin, whatever the noise of a sharp kernel
HU_TYPES = ("", "HU", "HU_MOD", "US")  # US: unspecified
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
# pydicom's name of the decoder for each packing, and what to install for it.
DECODERS = {
    **dict.fromkeys(JPEG, ("gdcm", "python-gdcm")),
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), ("pyjpegls", "pyjpegls")),
    **dict.fromkeys(("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"), ("pylibjpeg", "pylibjpeg-openjpeg")),
    "1.2.840.10008.1.2.5": ("pydicom", "pydicom"),
}


def numbers(dataset: Dataset, keyword: str, count: int) -> np.ndarray:
    """An element's finite numbers, (count,).

    Raises
    ------
    L3MuscleError
        If it is missing or not that.
    """
    try:
        values = np.atleast_1d(np.array(dataset.get(keyword), dtype=np.float64))
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if values.shape != (count,) or not np.isfinite(values).all():
        raise L3MuscleError(f"{keyword} is missing or not {count} finite number{'s' if count > 1 else ''}")
    return values


def rescale(dataset: Dataset) -> tuple[float, float]:
    """Slope and intercept from stored values to Hounsfield units."""
    slope, intercept = (float(numbers(dataset, keyword, 1)[0]) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope <= 0:
        raise L3MuscleError(f"RescaleSlope is {slope:g}")
    if str(dataset.get("RescaleType") or "") not in HU_TYPES:
        raise L3MuscleError(f"rescales to {dataset.RescaleType}, not to Hounsfield units")
    return slope, intercept


def transfer_syntax(dataset: FileDataset) -> UID:
    """How the pixels are packed; files that do not say so hold them as they are."""
    return dataset.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian


def stored_values(dataset: FileDataset, shape: tuple[int, int], frame: int = 0, **options: object) -> np.ndarray:
    """Pixels (H, W) of a frame, counted from 0, as pydicom decodes them; for `options` see its decoders.

    Raises
    ------
    L3MuscleError
        If they cannot be decoded or are not of this shape.
    """
    syntax = transfer_syntax(dataset)
    frames, count = int(dataset.get("NumberOfFrames") or 1), shape[0] * shape[1]
    pixels = dataset.get("PixelData") or b""
    if syntax.is_encapsulated:
        if syntax not in DECODERS:
            raise L3MuscleError(f"pixels are packed as {syntax.name}, which is not read; convert the file")
        plugin, package = DECODERS[syntax]
        if plugin not in get_decoder(syntax).available_plugins:
            raise L3MuscleError(f"pixels are packed as {syntax.name}; to read them install {package}")
        if syntax in JPEG:
            _check_jpeg(get_frame(pixels, frame, number_of_frames=frames), shape)
        options = {**options, "decoding_plugin": plugin}
    # Values have an even length: one byte may be padding.
    elif len(pixels) != (frames * count * int(dataset.BitsAllocated) + 15) // 16 * 2:
        raise L3MuscleError(f"the pixel data are not of the {shape[0]} x {shape[1]} pixels it states")
    elif dataset.BitsAllocated == 1:
        # Frames begin within bytes, which pydicom does not know.
        first, bit = divmod(frame * count, 8)
        packed = np.frombuffer(pixels, np.uint8, offset=first, count=(bit + count + 7) // 8)
        return np.unpackbits(packed, bitorder="little")[bit : bit + count].reshape(shape)
    try:
        stored, _ = get_decoder(syntax).as_array(dataset, index=frame, **options)
    except Exception as error:  # each decoder raises its own kinds
        raise L3MuscleError(f"pixels cannot be decoded ({type(error).__name__}: {reason_of(error)})") from None
    if stored.shape != shape:
        raise L3MuscleError(f"{stored.shape} pixels decoded where the header says {shape}")
    return stored


def hounsfield(dataset: FileDataset, shape: tuple[int, int]) -> np.ndarray:
    """Hounsfield units (H, W) int16 of a CT slice as the file stores them.

    Raises
    ------
    L3MuscleError
        If the pixels cannot be decoded, are not of this shape, or are not Hounsfield units.
    """
    slope, intercept = rescale(dataset)
    stored = raw = stored_values(dataset, shape, correct_unused_bits=False)
    unused = int(dataset.BitsAllocated) - int(dataset.BitsStored)
    if unused and transfer_syntax(dataset) not in (*JPEG2000TransferSyntaxes, *JPEGLSTransferSyntaxes):
        # Programs leave the sign, overlays or padding there.
        stored = (raw << unused) >> unused
    hu = stored.astype(np.float64)  # and in place: memory that is new costs more than the arithmetic
    hu *= slope
    hu += intercept
    np.rint(hu, out=hu)
    hu[_padding(dataset, raw, hu)] = AIR_HU
    return as_hounsfield(hu)


def _check_jpeg(frame: bytes, shape: tuple[int, int]) -> None:
    """Refuse a damaged JPEG stream, for which the decoder would end the whole process."""
    at, markers, sound = 2, [], frame[:2] == b"\xff\xd8"
    while sound and markers[-1:] != [0xDA]:
        sound = frame[at : at + 1] == b"\xff" and at + 10 <= len(frame)
        if sound:
            markers.append(frame[at + 1])
            if markers[-1] in (0xC0, 0xC1, 0xC3):  # the start of the frame: precision, rows, columns, components
                stated = int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
                sound = stated == shape and frame[at + 4] <= 16 and frame[at + 9] == 1
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    known = all(marker in (0xC0, 0xC1, 0xC3, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE) or marker >> 4 == 0xE for marker in markers)
    once = sum(marker in (0xC0, 0xC1, 0xC3) for marker in markers) == 1 and 0xC4 in markers
    scan = np.frombuffer(frame[at:], np.uint8)
    follows = scan[1:][scan[:-1] == 0xFF]  # in coded data a zero, a restart or the end
    if not (sound and known and once and np.isin(follows, (0, *range(0xD0, 0xD8), 0xD9, 0xFF)).all()):
        raise L3MuscleError("pixels cannot be decoded (a damaged JPEG stream, or one of other pixels)")


def _padding(dataset: Dataset, stored: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool that hold no measurement.

    Specks of a padding value that tissue can have as well are taken for tissue.
    """
    padding = np.zeros(stored.shape, dtype=bool)
    if dataset.get("PixelPaddingValue") is not None:
        # Signed or unsigned, whichever its writer took: the same bits.
        bits = 1 << int(dataset.BitsAllocated)
        ends = [
            int(dataset.get(key, dataset.PixelPaddingValue)) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        ]
        low, high = min(ends), max(ends)
        padding = (stored.astype(np.int64) - low) % bits <= high - low
        tissue = padding & (hu > AIR_HU) & (hu <= STORED_HU[1])
        if tissue.any():
            regions, _ = ndimage.label(tissue)
            padding &= ~tissue | (np.bincount(regions.ravel()) > hu.size // 10_000)[regions]
    if int(dataset.PixelRepresentation) == 0:
        # Negative numbers without their sign.
        kept = int(dataset.BitsStored)
        all_set = (1 << int(dataset.BitsAllocated) - kept) - 1
        padding |= (stored >> kept == all_set) if all_set else (hu > LARGEST_HU)
    return padding


def as_hounsfield(values: np.ndarray) -> np.ndarray:
    """Check that values (H, W) are Hounsfield units of a body, and return them as int16, with -1024 for less.

    What every slice of a body holds, air and soft tissue, gives a wrong slope or intercept away if it moves them by
    more than they vary, about 200 HU; smaller errors do not show.

    Raises
    ------
    L3MuscleError
        If they are not.
    """
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all() or high > 32767:
        raise L3MuscleError(f"values from {low:g} to {high:g} are not Hounsfield units")
    rounded = np.rint(values)
    hu = np.maximum(rounded, AIR_HU, out=rounded).astype(np.int16)
    step = max(1, min(hu.shape) // 128)
    measured = hu[::step, ::step]
    count = measured.size
    measured = measured[measured > AIR_HU]
    tissue = np.count_nonzero((measured >= TISSUE_HU[0]) & (measured <= TISSUE_HU[1]))
    thin = measured[measured < THIN_HU]
    if len(thin) > 0.01 * count:
        sound = AIR_RANGE_HU[0] <= np.quantile(thin, 0.1) <= AIR_RANGE_HU[1]
    else:
        # Without air, the least is fat or gas in the bowel, and little is as dense as bone.
        sound = len(measured) and measured.min() <= FAT_HU and np.mean(measured > DENSE_HU) <= MAX_DENSE_SHARE
    if not sound or tissue < max(0.02 * count, 0.25 * np.count_nonzero(measured >= TISSUE_HU[0])):
        raise L3MuscleError(
            f"values from {low:g} to {high:g} are not Hounsfield units; no body has such shares of air and soft tissue"
        )
    return hu
