"""The machine a run happens on: threads, memory, precision, and a record of what it was."""

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from l3muscle import __version__

if TYPE_CHECKING:
    from l3muscle.profile import Profile

RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pydicom", "scikit-image")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed activations back to the system at every step.

    Large blocks are otherwise mapped and unmapped, page by page, twice a layer and step.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def best_device() -> str:
    """`"cuda"`, `"mps"` or `"cpu"`, the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def begin_training(profile: "Profile") -> str:
    """Settle what decides the bits and the speed of a training in this process, and name the device it goes to.

    Parameters
    ----------
    profile : Profile
        Its `threads_per_worker` are those of the CPU; another count sums in another order. Its `training.deterministic`
        is whether a GPU is held to algorithms that give the same bits for the same input. Where torch has none for a
        step, it warns and goes on. A CPU always does.

    Returns
    -------
    str
        As `best_device`.
    """
    keep_freed_memory()
    torch.set_num_threads(profile.threads_per_worker)
    device, deterministic = best_device(), profile.training.deterministic
    if device == "cuda":
        if deterministic:
            # cuBLAS reads it when it starts, which is at the first product.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.backends.cudnn.benchmark = not deterministic
        # Filling fresh memory guards against reading it uninitialised, which nothing here does, at a pass over it each.
        torch.utils.deterministic.fill_uninitialized_memory = False
    return device


def gpus() -> list[str]:
    """Names of the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` takes them; none is initialised."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in named.split(",")][:count]


def resolve_precision(precision: Literal["auto", "fp32", "bf16"], device: str = "") -> Literal["fp32", "bf16"]:
    """Choose bfloat16 where the processor has instructions for it; elsewhere it is emulated, and much slower."""
    if precision != "auto":
        return precision
    device = device or best_device()
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    native = device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_instructions()
    return "bf16" if native else "fp32"


@cache
def _has_bf16_instructions() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any values with a stable text, the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _git(*arguments: str) -> str | None:
    """Answer of git about the checkout that this package lies in; None where it was installed from elsewhere."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=checkout, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@cache
def provenance() -> dict[str, Any]:
    """Commit, versions and hardware, for the record beside a result. Names neither host, user nor folder."""
    commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "uncommitted_changes": None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {"l3-muscle": __version__, **{name: metadata.version(name) for name in RECORDED_PACKAGES}},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def origin(record: dict[str, Any]) -> str:
    """Machine and commit of a `provenance` record, as text."""
    commit = record["commit"][:10] if record["commit"] else "unknown (not from a checkout)"
    changed = " with uncommitted changes" if record["uncommitted_changes"] else ""
    return f"{record['gpu'] or record['processor']} · commit {commit}{changed}"
