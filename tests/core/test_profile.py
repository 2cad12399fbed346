"""Profiles: loading, extending, overriding, and one clear line for every mistake."""

from pathlib import Path

import pytest

from l3muscle.profile import ProfileError, available_profiles, load_profile
from l3muscle.study import experiments


def write(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.yml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["smoke", "laptop", "paper", "paper-offline"])
def test_shipped_profiles_load(name):
    assert name in available_profiles()
    assert load_profile(name).name == name


def test_paper_profile_holds_the_numbers_of_the_paper():
    paper = load_profile("paper")
    assert (paper.network.backbone, paper.image.shape) == ("resnet101", (512, 512))
    assert (paper.training.learning_rate_random, paper.training.learning_rate_fine_tune) == (3e-3, 3e-4)
    assert (paper.image.window_hu, paper.image.level_hu) == (400, 50)
    assert paper.augmentation.rotation_degrees == 20
    assert (paper.cohort.patients, paper.cohort.test_patients) == (204, 37)
    assert paper.grid.sizes == (5, 10, 25, 50, 75, 100, 125)
    assert len(experiments(paper)) == len(paper.grid.source_tasks) * 7 * 16


def test_extending_changes_only_what_is_said(tmp_path):
    base = load_profile("laptop")
    mine = load_profile(write(tmp_path, "extends: laptop\ntraining:\n  max_steps: 7\n"))
    assert mine.training.max_steps == 7
    assert mine.training.batch_size == base.training.batch_size
    assert mine.grid == base.grid


def test_overrides_nested_and_dotted_agree():
    nested = load_profile("smoke", training={"max_steps": 3}, keep_weights="all")
    dotted = load_profile("smoke", **{"training.max_steps": 3, "keep_weights": "all"})
    assert nested == dotted
    assert nested.training.validate_every == load_profile("smoke").training.validate_every


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig:\n  max_steps: 3\n", "trainig.*did you mean 'training'"),
        ("training:\n  max_step: 3\n", "training.max_step: no such setting.*training.max_steps"),
        ("training:\n  max_steps: many\n", "training.max_steps.*'many'"),
        ("grid:\n  sizes: [5, 5]\n", "without repetitions"),
        ("grid:\n  sizes: [10, 5]\n", "sizes must rise"),
        ("grid:\n  source_tasks: [imagenet]\n", "grid.source_tasks.*imagenet"),
        ("training: [1, 2\n", "cannot be read"),
        ("- 1\n", "must be a list of"),
        ("extends: nowhere\n", "there is no profile 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(tmp_path, text, message):
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_unknown_profile_suggests_the_nearest():
    with pytest.raises(ProfileError, match="did you mean 'laptop'"):
        load_profile("labtop")


def test_circle_is_refused(tmp_path):
    one = tmp_path / "one.yml"
    two = tmp_path / "two.yml"
    one.write_text(f"extends: {two}\n")
    two.write_text(f"extends: {one}\n")
    with pytest.raises(ProfileError, match="circle"):
        load_profile(str(one))


def test_fingerprint_sees_only_the_parts_named():
    base = load_profile("smoke")
    other = load_profile("smoke", training={"max_steps": 3})
    assert base.fingerprint("training") != other.fingerprint("training")
    assert base.fingerprint("image", "network") == other.fingerprint("image", "network")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1]\ndescription: *a\n", r"takes no alias \(\*a\)"),
        ("description: " + "x" * 300_000, "larger than 256 KiB"),
        ("description: " + "[" * 5_000, "cannot be read"),
        ("extends: " + "9" * 400, "there is no profile"),
        ("grid: {folds: '" + "x" * 5_000 + "'}", r"grid\.folds"),
    ],
)
def test_no_profile_makes_much_of_little(tmp_path, text, message):
    (tmp_path / "p.yml").write_text(text)
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(str(tmp_path / "p.yml"))
    assert len(str(caught.value)) < 900
