"""Damaged files: every reader refuses them in one of this package's own sentences, in bounded time.

These are some hundred inputs in all, the same in every run. `make soak` feeds a thousand times as many; its last
outcome is in `results/soak`.
"""

import random
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fuzzed_readers import Reader, damaged, readers

from l3muscle.errors import L3MuscleError

NAMES = (
    "ct", "rtstruct", "seg", "nifti", "nifti-gz", "nifti-mask", "png", "cohort-csv", "cohort-folder", "saved-cohort",
    "saros-levels", "saros-info", "saros-regions",
)  # fmt: skip
LONGEST_S = 10.0  # of one input on a busy machine; a usual one takes milliseconds


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict[str, Reader]]:
    folder = tmp_path_factory.mktemp("readers")
    return folder, readers(folder)


def test_the_list_of_readers_is_whole(sound):
    assert set(NAMES) == set(sound[1])


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_refused_in_our_own_words_or_read_as_others_read_it(sound, name):
    folder, known = sound
    reader, path, rng = known[name], folder / known[name].file, random.Random(name)
    for seed in reader.seeds:
        path.write_bytes(seed)
        assert reader.agrees(path, reader.read(folder))
    for _ in range(40):
        path.write_bytes(damaged(rng.choice(reader.seeds), rng))
        started = time.monotonic()
        with suppress(L3MuscleError):
            assert reader.agrees(path, reader.read(folder))
        assert time.monotonic() - started < LONGEST_S
    path.write_bytes(reader.seeds[0])
