"""No network calls the convolution whose gradient oneDNN writes past its buffer, and no training step spoils the heap.

oneDNN's strided 1 x 1 convolution needs as many input channels as a vector register holds numbers: 8 with AVX2, 16 with
AVX-512. With fewer, its gradient by the weights is written past the workspace (oneDNN issue 6035).
"""

import os
import subprocess
import sys
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from l3muscle.models import BACKBONES, BASIC_LAYERS, BOTTLENECKS, build_encoder, build_fcn
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.pretext.fractals import ResNetClassifier
from l3muscle.pretext.jigsaw import JigsawNetwork
from l3muscle.profile import load_profile

WIDEST_BLOCK = 16  # numbers of 32 bits in the widest vector register that oneDNN knows
NETWORKS = {
    "random": lambda encoder, **settings: build_fcn(**settings),
    "classification": lambda encoder, **settings: ResNetClassifier(encoder, 5),
    "segmentation": lambda encoder, **settings: build_fcn(**settings, out_channels=5),
    "jigsaw": lambda encoder, **settings: JigsawNetwork(encoder, permutations=5, embedding=8, hidden=8),
    "reconstruction": lambda encoder, **settings: build_fcn(**settings, out_channels=3),
}


class NarrowStridedConvolutions(TorchDispatchMode):
    """Notes every convolution of kernel 1 and stride above 1 of fewer input channels than the widest block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            weight, stride = args[1], args[3]
            channels, *kernel = weight.shape[1:]
            if set(kernel) == {1} and max(stride) > 1 and channels < WIDEST_BLOCK:
                self.found.append(f"{channels} channels, stride {stride}")
        return function(*args, **(kwargs or {}))


def narrow(network: nn.Module, *shape: int) -> list[str]:
    """What the walk finds when a network sees an image; on the device that computes shapes and no values."""
    with NarrowStridedConvolutions() as walk:
        network(torch.zeros(shape, device="meta"))
    return walk.found


def test_the_walk_finds_such_a_convolution_wherever_it_is_called():
    with torch.device("meta"):
        assert narrow(nn.Sequential(nn.Conv2d(8, 16, 1, stride=2)), 2, 8, 9, 9) == ["8 channels, stride [2, 2]"]
        weight = torch.zeros(4, 3, 1, 1)
        assert narrow(partial(F.conv2d, weight=weight, stride=(1, 2)), 2, 3, 9, 9) == ["3 channels, stride [1, 2]"]
        for sound in (nn.Conv2d(16, 4, 1, 2), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, 2)):
            assert narrow(sound, 2, sound.in_channels, 9, 9) == []


def test_the_networks_of_all_source_tasks_are_walked():
    assert set(NETWORKS) == set(SOURCE_TASKS)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_network_calls_a_strided_convolution_of_kernel_1_with_few_channels(backbone):
    # Here every layer of the basic networks has the fewest channels that it can have.
    basic = backbone in BASIC_LAYERS
    settings = {"backbone": backbone}
    strides = (2, 4) if basic else (8,) if backbone in BOTTLENECKS else (4,)
    for name, stride in product(NETWORKS if basic else ["random"], strides):
        settings |= {"output_stride": stride, "width": (2 if stride == 2 else 1) if basic else 64}
        with torch.device("meta"):
            network = NETWORKS[name](build_encoder(**settings), **settings)
        shape = (2, 9, 3, 33, 34) if name == "jigsaw" else (2, 3, 33, 34)
        assert narrow(network, *shape) == [], name


# --- a whole training step under an allocator that looks -----------------------------------------------------------

STEPS = """
import sys
from dataclasses import replace
import torch
from l3muscle.experiment import SegmentationTask, build_network, source_loop, target_loop
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.profile import load_profile
from l3muscle.runtime import begin_training
from l3muscle.training import fit

few = {"classification": {"validation_images": 2, "points": 1000}, "segmentation": {"validation_scenes": 2}}
few["jigsaw"] = {"validation_puzzles": 1}
for argument in sys.argv[1:]:
    name, width = argument.split(":")
    profile = load_profile(name, sources=few, **{"network.width": int(width)})
    device = begin_training(profile)
    images = torch.rand(12, 1, *profile.image.shape, generator=torch.Generator().manual_seed(0))
    for source_task in SOURCE_TASKS:
        torch.manual_seed(0)
        if source_task == "random":
            network, loop = build_network(profile), target_loop(profile, device, fine_tuned=False)
            masks = (images > 0.5).float()
            task = SegmentationTask(images[:8], masks[:8], images[8:], masks[8:], profile)
        else:
            network, task = SOURCE_TASKS[source_task].build(profile, images, seed=0, device=device)
            loop = source_loop(profile, source_task, device)
        fit(network, task, replace(loop, max_steps=2, precision="fp32"), generator=torch.Generator().manual_seed(0))
        print(source_task, flush=True)
"""
OVERFLOW = """
import ctypes
from ctypes import pythonapi
pythonapi.PyMem_RawMalloc.restype, pythonapi.PyMem_RawMalloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
pythonapi.PyMem_RawFree.argtypes = [ctypes.c_void_p]
block = pythonapi.PyMem_RawMalloc(24)
ctypes.memset(block, 1, 25)
pythonapi.PyMem_RawFree(block)
"""


def checked(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script in a child process under glibc's checking allocator."""
    allocator = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **allocator}, capture_output=True, text=True)


def test_training_steps_of_every_task_leave_the_heap_sound():
    if checked(OVERFLOW).returncode != -6:  # SIGABRT
        pytest.skip("this system has no glibc with a checking allocator (libc_malloc_debug.so.0)")
    networks = [f"{name}:{load_profile(name).network.width}" for name in ("smoke", "laptop")]
    networks += ["smoke:4", "smoke:20"]  # below and beside the width of a vector register
    done = checked(STEPS, *networks)
    assert (done.returncode, done.stdout.split()) == (0, list(SOURCE_TASKS) * len(networks)), done.stderr[-2000:]
