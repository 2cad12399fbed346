"""Damaged and hostile files: every reader refuses them in one of this package's own sentences, in bounded time.

These are some hundred inputs a reader, the same in every run. `make soak` feeds a thousand times as many, guided by
what they reach in the code; its last outcome is in `results/soak`.
"""

import time
from pathlib import Path

import pytest
from fuzzed_readers import Reader, readers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l3muscle.errors import L3MuscleError

NAMES = (
    "ct", "rtstruct", "seg", "nifti", "nifti-gz", "nifti-mask", "png", "cohort-csv", "cohort-folder", "saros-levels",
    "saros-info", "saros-regions", "profile", "model", "checkpoint", "store-record", "store-table", "store-arrays",
    "store-weights", "plan", "splits", "failures", "archive-provenance", "archive-scores", "phantom-people",
    "published-weights",
)  # fmt: skip
LONGEST_S = 10.0  # of one input on a busy machine; a usual one takes milliseconds
#: What tends to break parsers: extremes of every width, text in place of numbers, and structure out of place.
TOKENS = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"-1", b"1e999", b"nan",
    b"inf", b"9" * 400, b"\\", b'"', b"{", b"[", b"null", b"\xe2\x80\xa8", b"\r", b"\n", b",", b";", b"../", b"'",
    b"true", b"0.5", b"&a *a", b"!!python/object:os.system", b"\xfe\xff\0\xe0", b"\xfe\xff\x0d\xe0",
)  # fmt: skip

damages = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(0, 7)),
    st.tuples(st.just("byte"), st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
    st.tuples(st.just("token"), st.floats(0, 1, exclude_max=True), st.sampled_from(TOKENS)),
    st.tuples(st.just("insert"), st.floats(0, 1, exclude_max=True), st.sampled_from(TOKENS)),
    st.tuples(st.just("delete"), st.floats(0, 1, exclude_max=True), st.integers(1, 64)),
    st.tuples(st.just("repeat"), st.floats(0, 1, exclude_max=True), st.integers(1, 300)),
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.just(0)),
)


def damaged(content: bytes, damage: list[tuple[str, float, object]]) -> bytes:
    """Bytes with each damage done at its place, a share of their length."""
    data = bytearray(content)
    for kind, share, how in damage:
        at = int(share * len(data))
        if not data:
            return b""
        if kind == "flip":
            data[at] ^= 1 << how
        elif kind == "byte":
            data[at] = how
        elif kind == "token":
            data[at : at + len(how)] = how
        elif kind == "insert":
            data[at:at] = how
        elif kind == "delete":
            del data[at : at + how]
        elif kind == "repeat":
            data[at:at] = data[at : at + how]
        else:
            del data[at:]
    return bytes(data)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict[str, Reader]]:
    folder = tmp_path_factory.mktemp("readers")
    return folder, readers(folder)


def test_the_list_of_readers_is_whole(sound):
    assert set(NAMES) == set(sound[1])


@pytest.mark.parametrize("name", NAMES)
def test_sound_files_are_read(sound, name):
    folder, known = sound
    for seed in known[name].seeds:
        (folder / known[name].file).write_bytes(seed)
        assert known[name].read(folder) is not None
    assert known[name].same(known[name].read(folder), known[name].read(folder))


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_refused_in_our_own_words_or_changes_nothing_that_counts(sound, name):
    folder, known = sound
    reader, expected = known[name], {}
    for index, seed in enumerate(reader.seeds):
        (folder / reader.file).write_bytes(seed)
        expected[index] = reader.read(folder)

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(reader.seeds) - 1), st.lists(damages, min_size=1, max_size=3))
    def feed(index: int, damage: list) -> None:
        (folder / reader.file).write_bytes(damaged(reader.seeds[index], damage))
        started = time.monotonic()
        try:
            found = reader.read(folder)
        except L3MuscleError as error:
            assert str(error).strip()
        else:
            assert reader.same(expected[index], found)
        assert time.monotonic() - started < LONGEST_S

    try:
        feed()
    finally:
        (folder / reader.file).write_bytes(reader.seeds[0])
