"""How a phantom patient is imaged: couch, blur, noise, streaks and the scanner's own scale of HU."""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from l3muscle.phantom.canvas import smooth_field
from l3muscle.phantom.people import Draw, uniform


@dataclass(frozen=True)
class Scanner:
    """How a patient is imaged (HU and mm)."""

    blur: float  # standard deviation of the point spread
    noise: float
    cut: float  # frequency at which the kernel rolls the noise off, 1/mm
    stretch: float  # of the noise, across against along
    sharpening: float  # overshoot at edges, as sharp kernels have it
    gain: float  # of the HU scale, about water
    offset: float  # of soft tissue
    shading: float  # slow variation over the body
    coarse: float  # pixel of an image that was resampled once before; 0 for none


def draw_scanner(rng: np.random.Generator, diversity: float) -> Scanner:
    """Draw a scanner: those of a clinic's PET-CT at a diversity of 0, any at 1."""
    draw = Draw(rng, diversity)
    return Scanner(
        blur=draw.number(uniform(0.45, 0.95), uniform(0.3, 1.7)),
        noise=draw.number(uniform(7, 20), lambda share: 2 * 22.5**share),
        cut=draw.number(uniform(0.22, 0.38), uniform(0.12, 0.6)),
        stretch=draw.number(uniform(-0.3, 0.5), uniform(-0.5, 0.8)),
        sharpening=draw.chance(0, 0.3) * rng.uniform(0, 0.8),
        gain=draw.number(uniform(1, 1), uniform(0.93, 1.07)),
        offset=draw.number(uniform(0, 0), uniform(-12, 12)),
        shading=draw.number(uniform(3, 3), uniform(0, 10)),
        coarse=draw.chance(0, 0.3) * rng.uniform(1, 3.2),
    )


def draw_couch(hu: np.ndarray, pixel: float, rng: np.random.Generator) -> None:
    """Draw the table into the air below the patient: a thin pad, and the two skins of a curved shell."""
    size = len(hu)
    axis = ((np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)
    body = hu > -400
    lowest = np.flatnonzero(body.any(axis=1)).max(initial=size // 2)
    x, y = axis[None], axis[:, None]
    top = axis[min(lowest, size - 1)] + rng.uniform(2, 14) + (x / 210) ** 2 * rng.uniform(-60, -15)
    below = y - top
    # Everything under the patient's own silhouette is open to the table; beside the body it ends at the edge.
    free = ~body & (np.abs(x) < rng.uniform(190, 230)) & (y > axis[lowest] - 45)
    thickness = rng.uniform(14, 30)
    pad = np.clip(0.5 - np.abs(below + 3) / pixel + 2 / pixel, 0, 1) * free
    hu += pad * (-860 - hu)
    for depth in (0.0, thickness):
        skin = np.clip(0.5 + (1.2 - np.abs(below - depth)) / pixel, 0, 1) * free
        hu += skin * (rng.uniform(-250, 150) - hu)
    core = (below > 1.2) & (below < thickness - 1.2) & free
    hu[core] = rng.uniform(-960, -880)


def scan(hu: np.ndarray, pixel: float, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Image the tissue map: the kernel's blur, its correlated noise, streaks, and a trace of beam hardening.

    Noise grows with the square root of the attenuation along the path, here the thickness of tissue around a pixel.
    """
    size = len(hu)
    shape = hu.shape
    frequency = np.hypot(fft.fftfreq(size, pixel)[:, None], fft.rfftfreq(size, pixel)[None]).astype(np.float32)
    spectrum = fft.rfft2(hu)
    soft = np.exp(-2 * (np.pi * scanner.blur * frequency) ** 2)
    soft *= 1 + scanner.sharpening * (1 - np.exp(-2 * (np.pi * 1.2 * frequency) ** 2))
    image = fft.irfft2(spectrum * soft, s=shape)
    around = fft.irfft2(fft.rfft2((hu > -500).astype(np.float32)) * np.exp(-2 * (np.pi * 35 * frequency) ** 2), s=shape)
    bone = fft.irfft2(fft.rfft2(np.clip(hu - 200, 0, 1500)) * np.exp(-2 * (np.pi * 14 * frequency) ** 2), s=shape)
    # Filtered back-projection: a ramp, rolled off by the kernel.
    colour = np.sqrt(frequency) * np.exp(-((frequency / scanner.cut) ** 2))
    direction = np.arctan2(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None])
    stretch = 1 + scanner.stretch * np.cos(2 * direction)
    noise = fft.irfft2(fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * (colour * stretch), s=shape)
    noise *= scanner.noise / noise.std()
    thickness = np.clip(around, 0, 1)
    image += noise * (0.35 + 0.75 * thickness)
    image += scanner.shading * smooth_field(rng, shape, 90 / pixel) * thickness - 0.02 * bone
    pieces, count = ndimage.label(hu > 2500)
    rows, columns = np.ogrid[:size, :size]
    for row, column in ndimage.center_of_mass(pieces > 0, pieces, range(1, count + 1)):
        # Photon starvation: rays of light and shade from each piece of metal, fading outwards.
        angle = np.arctan2(rows - row, columns - column)
        reach = np.hypot(rows - row, columns - column) * pixel
        rays = sum(np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 5, 9, 16, 25))
        image += (thickness * 45 * rays / (1 + reach / 25)).astype(np.float32)
    if scanner.coarse > pixel:
        few = round(size * pixel / scanner.coarse)
        image = ndimage.zoom(ndimage.zoom(image, few / size, order=1, grid_mode=True, mode="nearest"), size / few,
                             order=1, grid_mode=True, mode="nearest")  # fmt: skip
    return image * scanner.gain + thickness * scanner.offset
