"""Kinds of settings that a profile is made of. Their values stand in `profiles/`, each number once; none is a default.

Names are closed (a misspelt setting is an error) and types are strict (`learning_rate: yes` is no number).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from l3muscle.losses import LOSSES
from l3muscle.models import BACKBONES

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Schedule = Literal["constant", "cosine"]


class Settings(BaseModel):
    """Base of all settings: closed to unknown names, strict about types, unchangeable once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CohortSettings(Settings):
    """Whose images. A phantom is drawn from these numbers; a folder of one's own replaces it (`--cohort`)."""

    patients: Positive
    test_patients: Positive  # held out and outlined by the observers (Section 2.1)
    seed: int
    size: Annotated[int, Field(ge=64, le=1024)]  # pixels a side of the phantom's slices
    diversity: Fraction  # 0 draws a clinic's patients and scanners, 1 wider than life (domain randomisation)


class NetworkSettings(Settings):
    """The FCN-ResNet; see `l3muscle.models.build_fcn`."""

    backbone: Literal[tuple(BACKBONES)]
    width: Positive
    output_stride: Literal[2, 4, 8]


class ImageSettings(Settings):
    """From Hounsfield units to network input (Section 2.3)."""

    window_hu: PositiveFloat
    level_hu: float
    shape: tuple[Positive, Positive]  # rows, columns that the network sees
    # Rows and columns in mm of a crop around the centre of the body; null keeps the whole slice.
    field_of_view_mm: tuple[PositiveFloat, PositiveFloat] | None


class AugmentationSettings(Settings):
    """Random transformations of training images (Section 2.3); one probability for each."""

    flip_probability: Fraction
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]  # either way
    rotation_probability: Fraction
    scale: Annotated[float, Field(ge=0, lt=1)]  # magnification drawn from 1 - scale to 1 + scale
    scale_probability: Fraction
    elastic_nodes: Annotated[int, Field(ge=2)]  # control points a side of the coarse displacement grid
    elastic_shift: Annotated[float, Field(ge=0, lt=1)]  # largest shift of a node, as a share of the node distance
    elastic_probability: Fraction


class TrainingSettings(Settings):
    """The loop of the target task."""

    loss: Literal[tuple(LOSSES)]
    batch_size: Positive
    learning_rate_random: PositiveFloat  # without pre-training
    learning_rate_fine_tune: PositiveFloat  # with pre-training
    schedule: Schedule
    max_steps: Positive
    validate_every: Positive  # steps
    # Saturated: neither loss has improved by min_improvement for so many validations in a row.
    patience: Positive
    min_improvement: Annotated[float, Field(ge=0)]
    precision: Literal["auto", "fp32", "bf16"]
    deterministic: bool  # holds a GPU to what gives the same bits each time, where torch has it; a CPU always is
    compiled: bool  # fuses the operations of a step and hands them to a GPU as one graph; needs a C++ compiler


class SourceTrainingSettings(Settings):
    """The loop of a source task that is learned here; the paper says only that it converged (Appendix A)."""

    steps: Positive  # at most
    batch_size: Positive
    learning_rate: PositiveFloat
    schedule: Schedule
    validate_every: Positive
    patience: Positive  # validations without improvement, as for the target task


class UnlabelledSettings(SourceTrainingSettings):
    """Source tasks on the cohort's own slices, which need no outlines: the full training set."""

    validation_share: Annotated[float, Field(gt=0, lt=1)]  # of these slices, kept apart for the validation loss


class GridSettings(Settings):
    """The study: source tasks x training-set sizes x folds x subsets x repeats (Section 2.1)."""

    source_tasks: tuple[str, ...]
    sizes: tuple[Positive, ...]
    folds: Annotated[int, Field(ge=2)]
    subsets: Positive
    repeats: Positive
    seed: int

    @model_validator(mode="after")
    def _distinct(self) -> "GridSettings":
        for name in ("source_tasks", "sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must be a list without repetitions, and not empty")
        if list(self.sizes) != sorted(self.sizes):
            raise ValueError("sizes must rise")
        return self
