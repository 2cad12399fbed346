"""Small files that claim or unfold to something huge are refused before anything of that size is allocated."""

import gzip
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fuzzed_readers import readers
from pydicom.uid import DeflatedExplicitVRLittleEndian

HEADROOM = 600 << 20  # bytes of address space beyond what the imports take
LONGEST_S = 60

CHILD = """
import resource, sys
from contextlib import suppress
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fuzzed_readers import readers
from l3muscle.errors import L3MuscleError
import tempfile
folder, names = Path(sys.argv[2]), sys.argv[3].split(",")
with tempfile.TemporaryDirectory() as other:
    known = readers(Path(other))
    # Once with sound files, so that every library is loaded before memory is counted.
    for name in names:
        Path(other, known[name].file).write_bytes(known[name].seeds[0])
        known[name].read(Path(other))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[4]),) * 2)
    for place in sorted(folder.iterdir()):
        name = place.name.split("@")[0]
        Path(other, known[name].file).write_bytes(place.read_bytes())
        outcome = "read"
        try:
            known[name].read(Path(other))
        except L3MuscleError as error:
            outcome = "MemoryError" if "MemoryError" in str(error) else f"refused: {error}"
        except BaseException as error:
            outcome = type(error).__name__
        print(place.name, outcome, sep="|", flush=True)
"""


def slice_with(seed: bytes, **changes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(seed))
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    target = io.BytesIO()
    dataset.save_as(target)
    return target.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and unfolds to zeros without end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    zeros = zlib.compress(bytes(1 << 24))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")


def bombs(folder: Path) -> dict[str, bytes]:
    """Contents by reader and what is wrong with them."""
    known = readers(folder)
    plain, jpeg = known["ct"].seeds[0], known["ct"].seeds[4]
    huge = bytearray(jpeg)
    at = huge.index(b"\xff\x4f\xff\x51") + 8
    huge[at : at + 8] = (300_000).to_bytes(4, "big") * 2
    deflated = pydicom.dcmread(io.BytesIO(known["ct"].seeds[2]))
    assert deflated.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    deflated.ImageComments = "0" * 1000
    deflated.PixelData = bytes((1 << 28) + (1 << 21))
    target = io.BytesIO()
    deflated.save_as(target)
    nifti = bytearray(known["nifti"].seeds[0])
    nifti[40:56] = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], "<i2").tobytes()
    long = bytearray(known["nifti"].seeds[0])
    long[40:56] = np.array([3, 4096, 4096, 2000, 1, 1, 1, 1], "<i2").tobytes()
    safetensors = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    return {
        "ct@rows and columns of four gigapixels": slice_with(plain, Rows=65535, Columns=65535),
        "ct@a codestream of 90 gigapixels": bytes(huge),
        "ct@deflated to a quarter of a gigabyte": target.getvalue(),
        "seg@frames of four gigapixels": slice_with(known["seg"].seeds[0], Rows=65535, Columns=65535),
        "seg@a billion frames": slice_with(known["seg"].seeds[0], NumberOfFrames=1_000_000_000),
        "png@a header of 100 gigapixels": png_header(316_228, 316_228),
        "nifti@35 teravoxels": bytes(nifti),
        "nifti-gz@zeros without end": gzip.compress(bytes(long) + bytes(1 << 26), 1),
        "model@a header of terabytes": (1 << 42).to_bytes(8, "little") + b"{}",
        "model@a tensor of terabytes": len(safetensors).to_bytes(8, "little") + safetensors,
        "cohort-csv@more than any table": b"patient_id\n" + b"x" * (1 << 25),
        "saros-levels@more than any table": b"case\n" + b"x" * (1 << 25),
        "profile@aliases of aliases": _laughing(),
        "plan@nested beyond all measure": b"[" * 1_000_000,
        "splits@nested beyond all measure": b"[" * 1_000_000,
    }


def _laughing() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join([*lines, "description: *a11"]).encode()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited and counted on Linux only")
def test_nothing_is_allocated_on_a_files_word(tmp_path):
    sound, folder = tmp_path / "sound", tmp_path / "bombs"
    sound.mkdir()
    folder.mkdir()
    contents = bombs(sound)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        assert len(content) < 1 << 26
    names = ",".join(sorted({name.split("@")[0] for name in contents}))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), names, str(HEADROOM)],
        capture_output=True, text=True, timeout=LONGEST_S, check=False,
    )  # fmt: skip
    outcomes = dict(line.split("|", 1) for line in child.stdout.splitlines() if "|" in line)
    assert outcomes.keys() == contents.keys(), child.stderr[-2000:]
    # A folder's report lists its refusals; of a segmentation only the frames that exist are looked at, one by one.
    harmless = {"saros-levels@more than any table", "seg@a billion frames"}
    accepted = {name: outcome for name, outcome in outcomes.items() if not outcome.startswith("refused: ")}
    assert accepted == dict.fromkeys(harmless, "read")
