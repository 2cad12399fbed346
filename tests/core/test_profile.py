"""Profiles: loading, extending, overriding, and one clear line for every mistake."""

from pathlib import Path

import pytest

from l3muscle.experiment import experiments
from l3muscle.profile import ProfileError, available_profiles, load_profile


def write(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.yml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_shipped_profiles_load():
    assert {"smoke", "laptop", "full", "paper", "paper-offline"} <= set(available_profiles())
    assert all(load_profile(name).name == name for name in available_profiles())


def test_paper_profile_holds_the_numbers_of_the_paper():
    paper = load_profile("paper")
    assert (paper.network.backbone, paper.image.shape) == ("resnet101", (512, 512))
    assert (paper.training.learning_rate_random, paper.training.learning_rate_fine_tune) == (3e-3, 3e-4)
    assert (paper.image.window_hu, paper.image.level_hu) == (400, 50)
    assert paper.sources.jigsaw.permutations == 50
    assert (paper.cohort.patients, paper.cohort.test_patients) == (204, 37)
    assert paper.grid.sizes == (5, 10, 25, 50, 75, 100, 125)
    assert len(experiments(paper)) == 5 * 7 * 16 == 560


def test_extending_changes_only_what_is_said(tmp_path):
    base = load_profile("laptop")
    mine = load_profile(write(tmp_path, "extends: laptop\ntraining:\n  max_steps: 7\n"))
    assert mine.training == base.training.model_copy(update={"max_steps": 7})
    assert mine.name == "mine" and mine.model_copy(update={"name": "laptop", "training": base.training}) == base


def test_overrides_nested_and_dotted_agree():
    nested = load_profile("smoke", training={"max_steps": 3}, keep_weights="all")
    assert nested == load_profile("smoke", **{"training.max_steps": 3, "keep_weights": "all"})
    assert nested.training.validate_every == load_profile("smoke").training.validate_every


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: paper\ntrainig:\n  max_steps: 3\n", "trainig: no such setting"),
        ("extends: paper\ntraining:\n  max_step: 3\n", "training.max_step: no such setting"),
        ("extends: paper\ntraining:\n  max_steps: many\n", "training.max_steps.*'many'"),
        ("extends: paper\ntraining:\n  max_steps: 0\n", "training.max_steps.*greater than 0"),
        # YAML 1.1 would take these for the numbers 1 and 8.
        ("extends: paper\ntraining:\n  learning_rate_random: yes\n", "learning_rate_random.*number"),
        ("extends: paper\ntraining:\n  max_steps: '10'\n", "training.max_steps.*integer"),
        ("extends: paper\ntraining:\n  max_steps: 1\ntraining:\n  batch_size: 2\n", "duplicate key"),
        ("extends: paper\ngrid:\n  sizes: [5, 5]\n", "without repetitions"),
        ("extends: paper\ngrid:\n  sizes: [10, 5]\n", "sizes must rise"),
        ("extends: paper\ngrid:\n  source_tasks: [imagenet]\n", "no source task 'imagenet'; choose one of random"),
        ("extends: paper\nnetwork:\n  backbone: vgg\n", "network.backbone: Input should be 'resnet8'.*got 'vgg'"),
        ("training:\n  max_steps: 3\n", "not given; `extends: paper` gives every setting"),
        ("training: [1, 2\n", "cannot be read"),
        ("- 1\n", "must be a list of"),
        ("extends: nowhere\n", "there is no profile 'nowhere'; choose one of .*laptop"),
        ("description: " + "[" * 5_000, "cannot be read"),
        ("extends: paper\ngrid: {folds: '" + "x" * 5_000 + "'}", r"grid\.folds"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(tmp_path, text, message):
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(write(tmp_path, text))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_octal_looking_numbers_are_decimal(tmp_path):
    assert load_profile(write(tmp_path, "extends: smoke\ntraining:\n  patience: 010\n")).training.patience == 10


def test_circle_is_refused(tmp_path):
    one, two = tmp_path / "one.yml", tmp_path / "two.yml"
    one.write_text(f"extends: {two}\n")
    two.write_text(f"extends: {one}\n")
    with pytest.raises(ProfileError, match="circle"):
        load_profile(str(one))
