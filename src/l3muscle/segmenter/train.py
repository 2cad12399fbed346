"""From outlined slices to a folder with a model file, its card, held-out scores and pictures."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l3muscle.cohort import Patient
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.experiment import METHOD_VERSION
from l3muscle.files import replaced
from l3muscle.metrics import Reference
from l3muscle.profile import Profile
from l3muscle.segmenter.cross_validation import CrossValidation, cross_validate
from l3muscle.segmenter.estimate import error_table, learning_curve, paired_gain, would_more_help
from l3muscle.segmenter.initialisation import PHANTOM, Initialisation, choose_initialisation
from l3muscle.segmenter.model_file import MODEL, SHIPPED, Segmenter, load_model, save_model, tensor_digest
from l3muscle.segmenter.report import Tile, contact_sheets, model_card

CARD, SCORES = "model.json", "held_out.csv"
CARD_FORMAT = "l3muscle-card-4"  # goes up when this room makes another model of the same slices and settings


class TrainError(L3MuscleError):
    """A folder that holds no trained segmenter, or cannot be written."""


@dataclass(frozen=True)
class TrainedSegmenter:
    """A segmenter trained on own scans, as it lies in a folder.

    Attributes
    ----------
    path : Path
        Of the model file.
    card : dict
    scores : DataFrame
        Held-out slices at every training-set size; see `CrossValidation.scores`.
    """

    path: Path
    card: dict[str, Any]
    scores: pd.DataFrame

    @property
    def held_out(self) -> pd.DataFrame:
        """Held-out scores of the members: each slice once."""
        return self.scores[self.scores["member"]].reset_index(drop=True)

    def errors(self) -> pd.DataFrame:
        """Mean and interval of each measure; see `error_table`."""
        return error_table(self.held_out)

    def curve(self) -> pd.DataFrame:
        """Held-out Dice against training-set size; see `learning_curve`."""
        return learning_curve(self.scores)

    def lines(self) -> list[str]:
        """What was found, in sentences."""
        slices, patients = (self.card["training_data"][key] for key in ("slices", "patients"))
        few = "; so few leave wide intervals" if patients > 1 else ""
        lines = [f"held out once each: {slices} slices of {patients} patient{'s' * (patients > 1)}{few}"]
        for row in self.errors().itertuples():
            interval = f"95 % interval {row.low:.3f} to {row.high:.3f}" if row.patients > 1 else "no interval"
            lines.append(f"{row.measure}: {row.mean:.3f} ({interval}; worst {row.worst:.3f})")
        start, untrained = self.card["training"]["start"], self.card["untrained"]
        for other in self.card["compared_with"]:
            lines.append(f"started from {start} instead of {other['start']}: Dice {_gain_words(other['gain'])}")
        if untrained:
            lines.append(
                f"the ensemble for real scans outlines the same slices, untrained on yours, with a mean Dice of "
                f"{untrained['dice']:.3f}; what is trained here changes that by {_gain_words(untrained['gain'])}"
            )
        warning = self.card["error_estimate"]["warning"]
        return [*lines, *([warning] if warning else []), would_more_help(self.scores)]


def _gain(before: pd.DataFrame, after: pd.DataFrame) -> list[float | None]:
    """Of Dice, with its interval, as JSON can hold it."""
    return [value if value == value else None for value in paired_gain(before, after)]


def _gain_words(gain: Sequence[float | None]) -> str:
    value, low, high = gain
    return f"{value:+.3f} ({'no interval' if low is None else f'95 % interval {low:+.3f} to {high:+.3f}'})"


def scores_of(segmenter: Segmenter, patients: Sequence[Patient]) -> pd.DataFrame:
    """Score a segmenter on outlined slices.

    Returns
    -------
    DataFrame
        slice, patient_id, agreement, and the measures of `l3muscle.metrics.Score`.
    """
    rows = []
    for patient in patients:
        [(mask, agreement)] = segmenter.outline([(patient.hu, patient.spacing)])
        score = Reference(patient.expert, patient.hu, patient.spacing).score(mask)
        row = {"slice": patient.name, "patient_id": patient.patient_id, "agreement": agreement}
        rows.append(row | score._asdict())
    return pd.DataFrame(rows)


def open_trained(out: Path) -> TrainedSegmenter:
    """Open what `train_segmenter` left in a folder.

    Raises
    ------
    TrainError
        If it is not there or cannot be read.
    """
    try:
        card = json.loads((out / CARD).read_text(encoding="utf-8"))
        if card["format"] != CARD_FORMAT or not (out / MODEL).is_file():
            raise ValueError("not a complete model folder")
        scores = pd.read_csv(out / SCORES, dtype={"patient_id": str, "failure": str})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainError(f"there is no trained segmenter in {out}: {reason_of(error)}") from None
    return TrainedSegmenter(out / MODEL, card, scores)


def _inputs_digest(patients: Sequence[Patient], starts: Sequence[Initialisation], options: dict[str, Any]) -> str:
    """SHA-256 of all that decides the outcome: settings, slices, initial weights, and the version of the method."""
    decisive = {"network", "image", "augmentation", "training", "threads_per_worker"}
    settings = [initial.profile.model_dump(mode="json", include=decisive) for initial in starts]
    digest = hashlib.sha256(json.dumps([METHOD_VERSION, CARD_FORMAT, settings, options], sort_keys=True).encode())
    for patient in patients:
        about = (patient.patient_id, patient.name, patient.hu.shape, *map(float, patient.spacing))
        digest.update(json.dumps(about).encode())
        digest.update(np.ascontiguousarray(patient.hu).tobytes())
        digest.update(np.packbits(patient.expert).tobytes())
    for initial in starts:
        digest.update((tensor_digest(initial.weights) if initial.weights else "random").encode())
    return digest.hexdigest()


def train_segmenter(
    patients: Sequence[Patient],
    out: Path,
    profile: Profile,
    *,
    start_from: str | Sequence[str] = PHANTOM,
    runs: Path = Path("runs"),
    folds: int = 5,
    full_curve: bool = True,
    licence: str = "",
    kind: str = "own",
    seed: int = 0,
    workers: int = 1,
    say: Callable[[str], None] = print,
    on_model: Callable[[int, int], None] | None = None,
) -> TrainedSegmenter:
    """Cross-validate, and leave the ensemble with its card, held-out scores and pictures in a folder.

    What the folder holds already is kept where nothing that decides it has changed.

    Parameters
    ----------
    patients : sequence of Patient
        One a slice, from `require_enough`.
    out : Path
        Receives `model.safetensors`, `model.json`, `held_out.csv` and pictures of the held-out outlines, worst first.
    profile : Profile
    start_from : str or sequence of str
        See `choose_initialisation`. Of several, the one with the highest mean Dice on held-out slices makes the model.
    runs : Path
        See `choose_initialisation`.
    folds, full_curve, seed, workers, on_model
        See `cross_validate`.
    licence : str
        Under which the model may be used.
    kind : {"own", "phantom"}
        Of the slices, as the model file says it.
    say : callable
        Takes one line of text.

    Raises
    ------
    TrainError
        If `out` cannot be written.
    """
    started = time.perf_counter()
    names = [start_from] if isinstance(start_from, str) else list(start_from)
    starts = [choose_initialisation(profile, name, runs=runs, slices=len(patients), say=say) for name in names]
    for initial in starts:
        say(f"starting from: {initial.source} ({initial.description})")
    options = {"folds": folds, "full_curve": full_curve, "seed": seed, "licence": licence, "kind": kind}
    inputs = _inputs_digest(patients, starts, options)
    try:
        earlier = open_trained(out)
        if earlier.card["inputs"] == inputs:
            say(f"{out} is up to date")
            return earlier
    except TrainError:
        pass
    how = {"folds": folds, "full_curve": full_curve, "seed": seed, "workers": workers, "on_model": on_model}
    outcomes = [cross_validate(patients, initial, **how) for initial in starts]
    best = max(range(len(starts)), key=lambda k: outcomes[k].held_out["dice"].mean())
    initial, outcome = starts[best], outcomes[best]
    card = {"format": CARD_FORMAT, **model_card(patients, initial, outcome, licence), "inputs": inputs}
    card["compared_with"] = [
        {"start": other.source, "gain": _gain(compared.held_out, outcome.held_out)}
        for other, compared in zip(starts, outcomes, strict=True)
        if other is not initial
    ]
    card["untrained"] = None
    if kind == "own":  # phantoms are what the ensemble has learned from
        untrained = scores_of(load_model(SHIPPED), patients)
        gain = _gain(untrained, outcome.held_out)
        card["untrained"] = {"dice": round(float(untrained["dice"].mean()), 4), "gain": gain}
    card["seconds"] = round(time.perf_counter() - started, 1)
    try:
        _write(out, patients, initial, outcome, {"cohort": kind, "profile": profile.name, "card": card})
    except OSError as error:
        raise TrainError(f"cannot write to {out}: {reason_of(error)}") from None
    return open_trained(out)


def _write(
    out: Path, patients: Sequence[Patient], initial: Initialisation, outcome: CrossValidation, about: dict[str, Any]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / CARD).unlink(missing_ok=True)  # written last: a folder with a card is complete
    network, image = initial.profile.network, initial.profile.image
    save_model(out / MODEL, outcome.members, network, image, about, outcome.calibration)
    outcome.scores.drop(columns="index").to_csv(out / SCORES, index=False, float_format="%.6f")
    worst_first = outcome.held_out.sort_values("dice", kind="stable")
    tiles = []
    for index, name, dice in worst_first[["index", "slice", "dice"]].itertuples(index=False):
        patient, outline = patients[index], outcome.outlines[index]
        caption = f"{name}  Dice {dice:.2f}"
        tiles.append(Tile.cut(caption, patient.hu, patient.spacing, outline, reference=patient.expert))
    for old in out.glob("held-out-*.png"):
        old.unlink()
    for number, sheet in enumerate(contact_sheets(tiles), start=1):
        sheet.save(out / f"held-out-{number:02d}.png")
    with replaced(out / CARD) as draft:
        draft.write_text(json.dumps(about["card"], indent=1), encoding="utf-8")
