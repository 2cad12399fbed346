"""The validated settings of one run of the study, read from `profiles/*.yml`.

Every number of the method stands in a profile and nowhere else. A profile may extend another and say only what
differs. Names are closed: a misspelt setting is an error, not a silent default.
"""

import difflib
import hashlib
import json
import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from l3muscle.errors import L3MuscleError
from l3muscle.models import BACKBONES, BOTTLENECKS

SourceTask = Literal["random", "classification", "segmentation", "jigsaw", "reconstruction"]
NATURAL_TASKS: tuple[SourceTask, ...] = ("classification", "segmentation")
MAX_BYTES = 1 << 18  # of a profile's file; the longest here has 4 KiB
MAX_QUOTED = 80  # letters of a wrong value that a message repeats
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class ProfileError(L3MuscleError):
    """A profile that cannot be found, read or validated."""


class Settings(BaseModel):
    """Base of all settings: closed to unknown names, unchangeable once made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CohortSettings(Settings):
    """Whose images. A phantom is drawn from these numbers; a folder of one's own replaces it (`--cohort`)."""

    patients: Positive = 204
    test_patients: Positive = 37  # held out and outlined by the observers (Section 2.1)
    seed: int = 0
    size: Annotated[int, Field(ge=64, le=1024)] = 512  # pixels a side of the phantom's slices
    setting: Literal["realistic", "randomised"] = "realistic"  # a clinic's patients, or wider than life


class NetworkSettings(Settings):
    """The FCN-ResNet; see `l3muscle.models.build_fcn`."""

    backbone: Literal[BACKBONES] = "resnet101"
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    output_stride: Literal[4, 8] = 8


class ImageSettings(Settings):
    """From Hounsfield units to network input (Section 2.3)."""

    window_hu: Annotated[float, Field(gt=0)] = 400.0
    level_hu: float = 50.0
    shape: tuple[Positive, Positive] = (512, 512)  # rows, columns that the network sees
    # Rows and columns in mm of a frame laid around the centre of the body; null keeps the whole slice.
    field_of_view_mm: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None


class AugmentationSettings(Settings):
    """Random transformations of training images; one probability for each."""

    flip_probability: Fraction = 0.5
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 20.0  # Section 2.3: plus or minus 20 degrees
    rotation_probability: Fraction = 0.5  # Section 2.3 combines the four at random; each is drawn on its own
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1  # magnification drawn from 1 - scale to 1 + scale
    scale_probability: Fraction = 0.5
    elastic_nodes: Annotated[int, Field(ge=2)] = 4  # control points a side of the coarse displacement grid
    elastic_shift: Annotated[float, Field(ge=0, lt=1)] = 0.3  # largest shift of a node, as a share of the node distance
    elastic_probability: Fraction = 0.5


class TrainingSettings(Settings):
    """The loop of the target task."""

    batch_size: Positive = 4
    learning_rate_random: Annotated[float, Field(gt=0)] = 3e-3  # Section 2.3, without pre-training
    learning_rate_fine_tune: Annotated[float, Field(gt=0)] = 3e-4  # Section 2.3, with pre-training
    schedule: Literal["constant", "cosine"] = "constant"
    max_steps: Positive = 20_000
    validate_every: Positive = 50  # steps
    # Saturated: neither loss has improved by min_improvement for so many validations in a row.
    patience: Positive = 20
    min_improvement: Annotated[float, Field(ge=0)] = 1e-3
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    deterministic: bool = True  # holds a GPU to what gives the same bits each time, where torch has it; a CPU always is
    compiled: bool = False  # fuses the operations of a step and hands them to a GPU as one graph; needs a C++ compiler
    bce_weight: Annotated[float, Field(ge=0)] = 1.0
    dice_weight: Annotated[float, Field(ge=0)] = 1.0


class SourceTrainingSettings(Settings):
    """The loop of a source task that is learned here; the paper says only that it converged (Appendix A)."""

    steps: Positive = 20_000  # at most
    batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    schedule: Literal["constant", "cosine"] = "constant"
    validate_every: Positive = 100
    patience: Positive = 20  # validations without improvement, as for the target task


class ProceduralClassificationSettings(SourceTrainingSettings):
    """Offline stand-in for ImageNet: telling fractals apart (`l3muscle.pretext.fractals`)."""

    batch_size: Positive = 32
    classes: Annotated[int, Field(ge=2, le=10_000)] = 1_000
    points: Annotated[int, Field(ge=1_000)] = 100_000  # of one fractal
    validation_images: Positive = 512


class ProceduralSegmentationSettings(SourceTrainingSettings):
    """Offline stand-in for COCO: labelling generated scenes (`l3muscle.pretext.scenes`)."""

    classes: Annotated[int, Field(ge=2, le=64)] = 10
    shapes_per_scene: Positive = 10
    validation_scenes: Positive = 32


class UnlabelledSettings(SourceTrainingSettings):
    """Source tasks on the cohort's own slices, which need no outlines: the full training set."""

    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of these slices, set apart for the validation loss


class JigsawSettings(UnlabelledSettings):
    """Jigsaw puzzles of 3 x 3 tiles (Noroozi and Favaro 2016)."""

    permutations: Annotated[int, Field(ge=2, le=362_880)] = 50  # Section 2.2
    tile_share: Annotated[float, Field(gt=0, le=1)] = 0.85  # of a cell's side; theirs: 64 of 75 pixels
    embedding: Positive = 512  # features of a tile
    hidden: Positive = 1_024  # features of a puzzle
    validation_puzzles: Positive = 8  # of each validation slice


class SourceSettings(Settings):
    """Where the weights of each source task come from, and how they are learned where they are learned here.

    The two on natural images name torchvision's published weights (of ResNet-50 and -101), or a procedural stand-in.
    """

    classification: Literal["procedural", "IMAGENET1K_V1", "IMAGENET1K_V2"] = "IMAGENET1K_V1"
    segmentation: Literal["procedural", "COCO_WITH_VOC_LABELS_V1"] = "COCO_WITH_VOC_LABELS_V1"
    weights_folder: str | None = None  # holds the published files under their own names; null downloads them
    procedural_segmentation: ProceduralSegmentationSettings = ProceduralSegmentationSettings()
    procedural_classification: ProceduralClassificationSettings = ProceduralClassificationSettings()
    reconstruction: UnlabelledSettings = UnlabelledSettings()
    jigsaw: JigsawSettings = JigsawSettings()
    seed: int = 0


class GridSettings(Settings):
    """The study: source tasks x training-set sizes x folds x subsets x repeats (Section 2.1)."""

    source_tasks: tuple[SourceTask, ...] = ("random", "classification", "segmentation", "jigsaw", "reconstruction")
    sizes: tuple[Positive, ...] = (5, 10, 25, 50, 75, 100, 125)
    folds: Annotated[int, Field(ge=2)] = 4
    subsets: Positive = 2
    repeats: Positive = 2
    seed: int = 0

    @model_validator(mode="after")
    def _distinct(self) -> "GridSettings":
        for name in ("source_tasks", "sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must be a list without repetitions, and not empty")
        if list(self.sizes) != sorted(self.sizes):
            raise ValueError("sizes must rise")
        return self


class Profile(Settings):
    """All settings of one run."""

    name: str
    description: str = ""
    cohort: CohortSettings = CohortSettings()
    network: NetworkSettings = NetworkSettings()
    image: ImageSettings = ImageSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings = TrainingSettings()
    sources: SourceSettings = SourceSettings()
    grid: GridSettings = GridSettings()
    keep_weights: Literal["none", "representative", "all"] = "representative"
    threads_per_worker: Positive = 1  # another count sums in another order: it decides the last bits of an outcome

    @model_validator(mode="after")
    def _published(self) -> "Profile":
        for task in NATURAL_TASKS:
            weights = getattr(self.sources, task)
            if task in self.grid.source_tasks and weights != "procedural" and self.network.backbone not in BOTTLENECKS:
                raise ValueError(
                    f"sources.{task}: there are no weights {weights} of {self.network.backbone}; set it to procedural, "
                    f"or network.backbone to one of {', '.join(BOTTLENECKS)}"
                )
        return self

    def fingerprint(self, *parts: str) -> str:
        """SHA-256 of the named parts of the profile (`"training"`, `"image"` ...), as hexadecimal digits."""
        chosen = {part: self.model_dump(mode="json")[part] for part in parts}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, nine lines of which can stand for a billion values."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(None, None, f"a profile takes no alias (*{event.anchor})", event.start_mark)
        return super().compose_node(parent, index)


def profile_folders() -> list[Path]:
    """Folders searched for `NAME.yml`: the working folder's `profiles/`, then the installed or checked-out ones."""
    package = Path(str(resources.files("l3muscle")))
    return [Path("profiles"), package / "profiles", package.parents[1] / "profiles"]


def available_profiles() -> list[str]:
    """Names of the profiles that can be loaded."""
    return sorted({path.stem for folder in profile_folders() for path in folder.glob("*.yml")})


def _nearest(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of {', '.join(choices)}"


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix not in (".yml", ".yaml"):
        path = next((p for f in profile_folders() if os.path.isfile(p := f / f"{name}.yml")), None)
        if path is None:
            raise ProfileError(f"there is no profile {name!r}{_nearest(name, available_profiles())}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProfileError(f"profile {path} is larger than {MAX_BYTES >> 10} KiB")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except FileNotFoundError:
        raise ProfileError(f"there is no profile file {path}") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ProfileError(f"profile {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ProfileError(f"profile {path} must be a list of 'setting: value' lines")
    content.setdefault("name", path.stem)
    return content


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _load_chain(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if name in seen:
        raise ProfileError(f"profiles extend each other in a circle: {' -> '.join((*seen, name))}")
    content = _read(name)
    parent = content.pop("extends", None)
    return content if parent is None else _merge(_load_chain(str(parent), (*seen, name)), content)


def _known_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for field, info in model.model_fields.items():
        names.append(prefix + field)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            names += _known_fields(info.annotation, f"{prefix}{field}.")
    return names


def load_profile(name: str, **overrides: Any) -> Profile:
    """Load and validate a profile.

    Parameters
    ----------
    name : str
        Name of a profile (`"laptop"`), or path of a `.yml` file.
    **overrides
        Settings to change: `keep_weights="all"`, `training={"max_steps": 50}`, or with a dotted name
        `**{"training.max_steps": 50}`.

    Returns
    -------
    Profile

    Raises
    ------
    ProfileError
        One sentence that names the profile and the setting.
    """
    content = _load_chain(name)
    for key, value in overrides.items():
        nested = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        content = _merge(content, nested)
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        # Positions inside a list are numbers; the setting is named by the words before them.
        field = ".".join(str(part) for part in first["loc"] if isinstance(part, str)) or "profile"
        if first["type"] == "extra_forbidden":
            reason = f"no such setting{_nearest(field, _known_fields(Profile))}"
        elif first["type"] == "value_error":
            reason = first["msg"].removeprefix("Value error, ")
        else:
            reason = f"{first['msg']} (got {repr(first['input'])[:MAX_QUOTED]})"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ProfileError(f"profile {name!r}: {field}: {reason}{more}") from None
