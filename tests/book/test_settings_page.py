"""The settings page names settings that exist."""

import re
from pathlib import Path

from l3muscle.profile import Profile, Settings

PAGE = Path(__file__).resolve().parents[2] / "book" / "settings.md"


def test_every_setting_that_the_page_names_exists():
    named = re.findall(r"`((?:image|network|training|augmentation|sources|cohort|grid)\.\w+)`", PAGE.read_text("utf-8"))
    assert len(set(named)) > 20
    for name in named:
        part, field = name.split(".")
        settings = Profile.model_fields[part].annotation
        assert issubclass(settings, Settings) and field in settings.model_fields, name


def test_every_setting_of_the_method_is_on_the_page():
    text = PAGE.read_text("utf-8")
    for part in ("image", "training", "augmentation", "grid"):
        for field in Profile.model_fields[part].annotation.model_fields:
            open_to_reader = field.endswith("_probability") or field in (
                "seed",
                "source_tasks",
                "bce_weight",
                "dice_weight",
            )
            assert open_to_reader or field in text, f"{part}.{field}"
