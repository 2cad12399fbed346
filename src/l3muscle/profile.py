"""The validated settings of one run of the study, read from `profiles/*.yml`.

Every number of the method stands in `profiles/paper.yml`; another profile extends it and says only what differs.
"""

import hashlib
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, create_model, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from l3muscle.errors import L3MuscleError
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.pretext.pretrained import PUBLISHED
from l3muscle.settings import (
    AugmentationSettings,
    CohortSettings,
    GridSettings,
    ImageSettings,
    NetworkSettings,
    Positive,
    Settings,
    TrainingSettings,
)


class ProfileError(L3MuscleError):
    """A profile that cannot be found, read or validated."""


class _Sources(Settings):
    seed: int
    weights_folder: str | None  # holds published weights under their own file names; null downloads them


# One section for each source task that is learned or loaded, with the settings that its own module asks for.
SourceSettings = create_model(
    "SourceSettings",
    __base__=_Sources,
    **{name: (task.settings, ...) for name, task in SOURCE_TASKS.items() if task.settings},
)


class Profile(Settings):
    """All settings of one run."""

    name: str
    description: str
    cohort: CohortSettings
    network: NetworkSettings
    image: ImageSettings
    augmentation: AugmentationSettings
    training: TrainingSettings
    sources: SourceSettings
    grid: GridSettings
    keep_weights: Literal["none", "representative", "all"]
    threads_per_worker: Positive  # another count sums in another order: it decides the last bits of an outcome

    @model_validator(mode="after")
    def _source_tasks(self) -> "Profile":
        for task in self.grid.source_tasks:
            if task not in SOURCE_TASKS:
                raise ValueError(f"there is no source task {task!r}; choose one of {', '.join(SOURCE_TASKS)}")
            weights, there = self.published_weights(task), PUBLISHED.get(task, ())
            if weights is not None and self.network.backbone not in there:
                raise ValueError(
                    f"sources.{task}.weights: there are no weights {weights} of {self.network.backbone}; set it to "
                    f"procedural, or network.backbone to one of {', '.join(there)}"
                )
            if self.builds_on_classification(task) and self.published_weights("classification") is None:
                raise ValueError(
                    f"sources.{task}.initialisation: only published weights of classification can be built on; set it "
                    "to random"
                )
        return self

    def builds_on_classification(self, source_task: str) -> bool:
        """Whether a source task that is learned here begins from the published weights of classification."""
        learned = self.published_weights(source_task) is None
        return learned and getattr(self.source(source_task), "initialisation", "random") == "classification"

    def source(self, source_task: str) -> Any:
        """Settings of a source task; None of random initialisation."""
        return getattr(self.sources, source_task, None)

    def published_weights(self, source_task: str) -> str | None:
        """Name of the published weights that a source task loads; None where it is learned here, or is random."""
        weights = getattr(self.source(source_task), "weights", "procedural")
        return None if weights == "procedural" else weights

    def source_kind(self, source_task: str) -> str:
        """How a source task comes about: `"random"`, `"cohort"`, `"procedural"`, or the name of published weights.

        A procedural task that is learned on top of such weights names them too.
        """
        published = self.published_weights(source_task)
        if published is not None or source_task == "random":
            return published or "random"
        if SOURCE_TASKS[source_task].uses_cohort:
            return "cohort"
        on_top = self.builds_on_classification(source_task)
        return f"procedural on {self.published_weights('classification')}" if on_top else "procedural"

    def fingerprint(self, *parts: str) -> str:
        """SHA-256 of the named parts of the profile (`"training"`, `"image"` ...), as hexadecimal digits."""
        chosen = {part: self.model_dump(mode="json")[part] for part in parts}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def profile_folders() -> list[Path]:
    """Folders searched for `NAME.yml`: the working folder's `profiles/`, then the installed or checked-out ones."""
    package = Path(str(resources.files("l3muscle")))
    return [Path("profiles"), package / "profiles", package.parents[1] / "profiles"]


def available_profiles() -> list[str]:
    """Names of the profiles that can be loaded."""
    return sorted({path.stem for folder in profile_folders() for path in folder.glob("*.yml")})


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix not in (".yml", ".yaml"):
        path = next((p for f in profile_folders() if os.path.isfile(p := f / f"{name}.yml")), None)
        if path is None:
            raise ProfileError(f"there is no profile {name!r}; choose one of {', '.join(available_profiles())}")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProfileError(f"there is no profile file {path}") from None
    except (OSError, ValueError, RecursionError, YAMLError) as error:
        reason = " ".join(str(error).partition("To suppress this check")[0].split())
        raise ProfileError(f"profile {path} cannot be read: {reason}") from None
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
        # As JSON, where a list may stand for a tuple while all else is strict.
        return Profile.model_validate_json(json.dumps(content))
    except (TypeError, ValueError) as error:
        raise ProfileError(f"profile {name!r}: {_first_fault(error)}") from None


def _first_fault(error: Exception) -> str:
    """The first setting that is wrong, and why."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    # Positions inside a list are numbers; the setting is named by the words before them.
    field = ".".join(str(part) for part in first["loc"] if isinstance(part, str)) or "profile"
    reasons = {
        "extra_forbidden": "no such setting",
        "missing": "not given; `extends: paper` gives every setting that a profile does not name",
        "value_error": first["msg"].removeprefix("Value error, "),
    }
    reason = reasons.get(first["type"], f"{first['msg']} (got {repr(first['input'])[:80]})")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: {reason}{more}"
