"""A training that was interrupted goes on from its last state, to the same bits."""

import pytest
import torch

from l3muscle.checkpoint import CheckpointFile
from l3muscle.models import build_fcn
from l3muscle.profile import AugmentationSettings, TrainingSettings
from l3muscle.target_task import MuscleSegmentation
from l3muscle.training import Loop, fit

LOOP = Loop(learning_rate=3e-3, max_steps=12, validate_every=3, patience=100, schedule="cosine")


class KilledError(Exception):
    """Stands in for the end of a process."""


def train(checkpoint=None, *, killed_at=None, loop=LOOP):
    torch.manual_seed(0)
    images = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = (images > 0.5).float()
    task = MuscleSegmentation(images, masks, images, masks, TrainingSettings(batch_size=3), AugmentationSettings())
    network = build_fcn("resnet10", width=8, output_stride=4)

    def die(point):
        if point.step == killed_at:
            raise KilledError

    generator = torch.Generator().manual_seed(2)
    return fit(network, task, loop, generator=generator, checkpoint=checkpoint, on_validation=die)


@pytest.mark.parametrize("killed_at", [3, 6, 12])
def test_an_interrupted_training_ends_with_the_bits_of_an_undisturbed_one(tmp_path, killed_at):
    checkpoint = CheckpointFile(tmp_path / "states" / "key.safetensors", every_s=0)
    with pytest.raises(KilledError):
        train(checkpoint, killed_at=killed_at)
    assert checkpoint.path.exists() == (killed_at > 3)
    # Dropout and augmentation have to go on where they were, wherever the new process stands.
    torch.rand(17)
    resumed, undisturbed = train(checkpoint), train()
    assert resumed.resumed_at == killed_at - 3
    assert resumed.curve == undisturbed.curve
    assert resumed.best_step == undisturbed.best_step
    assert all(torch.equal(resumed.weights[name], value) for name, value in undisturbed.weights.items())


def test_a_damaged_state_is_not_believed(tmp_path):
    checkpoint = CheckpointFile(tmp_path / "key.safetensors", every_s=0)
    with pytest.raises(KilledError):
        train(checkpoint, killed_at=9)
    sound = checkpoint.path.read_bytes()
    for place in (0, 9, len(sound) // 2, len(sound) - 1):
        damaged = bytearray(sound)
        damaged[place] ^= 1
        checkpoint.path.write_bytes(bytes(damaged))
        found = checkpoint.load()
        assert found is None, f"a bit flipped at {place} went unnoticed"
    checkpoint.path.write_bytes(sound[:-100])
    assert checkpoint.load() is None
    assert train(checkpoint).resumed_at == 0


def test_a_state_of_another_loop_is_left_alone(tmp_path):
    checkpoint = CheckpointFile(tmp_path / "key.safetensors", every_s=0)
    with pytest.raises(KilledError):
        train(checkpoint, killed_at=9)
    longer = Loop(learning_rate=3e-3, max_steps=15, validate_every=3, patience=100, schedule="cosine")
    assert train(checkpoint, loop=longer).resumed_at == 0


def test_a_short_training_leaves_no_state_and_a_finished_one_is_forgotten(tmp_path):
    checkpoint = CheckpointFile(tmp_path / "states" / "key.safetensors")
    train(checkpoint)
    assert not checkpoint.path.parent.exists()
    checkpoint.save({"a": torch.ones(2)}, {"step": 1})
    checkpoint.remove()
    assert not checkpoint.path.parent.exists()


def test_a_state_that_cannot_be_written_costs_no_training(tmp_path):
    (tmp_path / "states").write_text("a file where a folder should be")
    checkpoint = CheckpointFile(tmp_path / "states" / "key.safetensors", every_s=0)
    assert train(checkpoint).stopped == "max_steps"
