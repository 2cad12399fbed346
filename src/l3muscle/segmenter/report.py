"""Pictures and words for people: overlays and contact sheets, the model card, the learning curve."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from l3muscle import __version__, runtime
from l3muscle.cohort import Patient
from l3muscle.metrics import boundary, muscle_area
from l3muscle.preprocess import body_centre
from l3muscle.segmenter.estimate import error_table, learning_curve, would_more_help

if TYPE_CHECKING:
    from l3muscle.segmenter.cross_validation import CrossValidation
    from l3muscle.segmenter.initialisation import Initialisation

OUTLINE_RGB, REFERENCE_RGB, FLAG_RGB = (86, 180, 233), (255, 176, 0), (213, 94, 0)  # as prediction and expert
WINDOW_HU, LEVEL_HU = 400, 50
TILE_PX, TILE_MM = (300, 214), (420.0, 300.0)  # width and height of a tile, and of what it shows
CAPTION_PX, MARGIN_PX, CAPTION_LETTERS = 34, 4, 40
COLUMNS, TILES_A_SHEET = 3, 39
NO_LICENCE = "not stated: the licence of the training slices decides; ask whoever owns them before you share it"


def _grey(hu: np.ndarray) -> np.ndarray:
    return (np.clip((hu - (LEVEL_HU - WINDOW_HU / 2)) / WINDOW_HU, 0, 1) * 255).astype(np.uint8)


def overlay_image(hu: np.ndarray, mask: np.ndarray) -> Image.Image:
    """Draw the outline of `mask` (H, W) bool on the windowed slice `hu` (H, W).

    RGB, twice the size of the slice, so that the outline is one screen pixel inside the mask's edge.
    """
    picture, large = (np.repeat(np.repeat(array, 2, axis=0), 2, axis=1) for array in (_grey(hu), mask))
    rgb = np.stack([picture] * 3, axis=-1)
    rgb[boundary(large)] = OUTLINE_RGB
    return Image.fromarray(rgb)


@dataclass(frozen=True)
class Tile:
    """A picture (rows, columns, 3) of a contact sheet, with its caption."""

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
    ) -> "Tile":
        """Cut a slice around the body, with the outline of `mask` and, in orange below it, of `reference`."""
        (row, column), (width, height) = body_centre(hu), TILE_PX
        across, down = TILE_MM[0] / width / float(spacing[1]), TILE_MM[1] / height / float(spacing[0])
        corner = (column + 0.5 - across * width / 2, row + 0.5 - down * height / 2)
        # From a pixel of the tile to the slice's; beyond the slice is black.
        to_slice = (across, 0, corner[0], 0, down, corner[1])

        def resampled(array: np.ndarray) -> np.ndarray:
            return np.asarray(Image.fromarray(array).transform(TILE_PX, Image.Transform.AFFINE, to_slice))

        picture = np.stack([resampled(_grey(hu))] * 3, axis=-1)
        for drawn, colour in ((reference, REFERENCE_RGB), (mask, OUTLINE_RGB)):
            if drawn is not None:
                picture[boundary(resampled(drawn.astype(np.uint8)) > 0)] = colour
        return cls(caption, picture, flagged)


def contact_sheets(tiles: Sequence[Tile]) -> Iterator[Image.Image]:
    """Contact sheets of `TILES_A_SHEET` tiles, in the given order, flagged ones framed."""
    font = ImageFont.load_default(14)
    width, height = TILE_PX
    step = width + 2 * MARGIN_PX, height + CAPTION_PX
    for first in range(0, len(tiles), TILES_A_SHEET):
        part = tiles[first : first + TILES_A_SHEET]
        rows = -(-len(part) // COLUMNS)
        sheet = Image.new("RGB", (step[0] * min(COLUMNS, len(part)), step[1] * rows), (18, 20, 24))
        draw = ImageDraw.Draw(sheet)
        for i, tile in enumerate(part):
            left, top = step[0] * (i % COLUMNS) + MARGIN_PX, step[1] * (i // COLUMNS) + MARGIN_PX
            sheet.paste(Image.fromarray(tile.picture), (left, top))
            if tile.flagged:
                draw.rectangle((left - 3, top - 3, left + width + 2, top + height + 2), outline=FLAG_RGB, width=3)
            fits = len(tile.caption) <= CAPTION_LETTERS
            caption = tile.caption if fits else f"…{tile.caption[1 - CAPTION_LETTERS :]}"
            draw.text((left, top + height + 6), caption, fill=(228, 230, 234), font=font)
        yield sheet


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"least": round(float(min(values)), 3), "greatest": round(float(max(values)), 3)}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(table.round(4).to_json(orient="records"))


def model_card(
    patients: Sequence[Patient], initial: "Initialisation", outcome: "CrossValidation", licence: str
) -> dict[str, Any]:
    """What a model is, what it was trained on, how good it is and what for; names no patient, file or folder."""
    profile, members = initial.profile, len(outcome.members)
    people = {patient.patient_id for patient in patients}
    return {
        "name": f"L3 skeletal muscle, {members} fine-tuned networks",
        "intended_use": "outlining skeletal muscle on axial CT at the third lumbar vertebra for research, on scans "
        "like those it was trained on, with a person looking at every outline and at the flagged ones first",
        "not_for": [
            "diagnosis, treatment or any decision about a patient: it is not a medical device",
            "other vertebral levels, other body regions, MR, or images that are not in Hounsfield units",
            "scanners, contrast phases or patients unlike those of the training slices, until it was tried on them",
        ],
        "licence": licence or NO_LICENCE,
        "preprocessing": {
            **profile.image.model_dump(mode="json"),
            "words": "the field of view is laid around the body, clipped to the window, resampled to the network's "
            "shape and normalised with ImageNet's mean and deviation",
        },
        "network": {**profile.network.model_dump(mode="json"), "members": members},
        "training": {
            "profile": profile.name,
            "start": initial.source,
            "start_words": initial.description,
            **profile.training.model_dump(mode="json"),
        },
        "training_data": {
            "slices": len(patients),
            "patients": len(people),
            "row_spacing_mm": _range([patient.spacing[0] for patient in patients]),
            "column_spacing_mm": _range([patient.spacing[1] for patient in patients]),
            "pixels": sorted({" x ".join(map(str, patient.hu.shape)) for patient in patients}),
            "muscle_area_cm2": _range([muscle_area(patient.expert, patient.spacing) for patient in patients]),
        },
        "error_estimate": {
            "how": f"cross-validation in {members} folds; each patient held out once, with all slices; of one member, "
            "while the ensemble's own error cannot be known from slices that other members have seen",
            "warning": ""
            if len(people) > 1
            else "all slices are of one patient: the estimate is for more slices of this patient and says nothing of "
            "others",
            "measures": _records(error_table(outcome.held_out)),
            "learning_curve": _records(learning_curve(outcome.scores)),
            "would_more_help": would_more_help(outcome.scores),
        },
        "review_flags": outcome.calibration.model_dump(mode="json"),
        "provenance": runtime.provenance(),
        "l3muscle": __version__,
    }
