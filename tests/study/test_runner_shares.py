"""What each worker is given: the weights of the source task that the experiment names, one GPU, peace to train."""

import os

import dask
import pytest
import torch

from l3muscle import runtime
from l3muscle.runner import _scatter, local_client


def _sum(weights: dict[str, torch.Tensor]) -> float:
    return float(sum(value.sum() for value in weights.values()))


def test_state_dicts_with_the_same_names_stay_apart_on_workers():
    names = ("backbone.conv1.weight", "backbone.bn1.num_batches_tracked")
    with local_client(1) as client:
        futures = {value: _scatter(client, {name: torch.full((2,), value) for name in names}) for value in (1, 5)}
        sums = {value: client.submit(_sum, future, pure=False).result() for value, future in futures.items()}
    assert sums == {1: 4.0, 5: 20.0}


def _card() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_local_workers_share_the_gpus_evenly(monkeypatch):
    monkeypatch.setattr(runtime, "cards", lambda: ["2", "5"])
    with local_client(3) as client:
        assert sorted(client.run(_card).values()) == ["2", "2", "5"]


def test_workers_keep_their_hands_off_the_setting_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(runtime, "cards", lambda: [])
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with local_client(1) as client:
        assert list(client.run(_card).values()) == [before]


@pytest.mark.parametrize(
    ("variable", "count", "names"),
    [(None, 2, ["0", "1"]), ("3,1", 2, ["3", "1"]), ("GPU-8f,7", 2, ["GPU-8f", "7"]), ("", 0, []), ("-1", 0, [])],
)
def test_the_gpus_that_may_be_used(monkeypatch, variable, count, names):
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert runtime.cards() == names


def _is_watched() -> bool:
    return dask.config.get("distributed.worker.profile.enabled")


def test_local_workers_do_not_sample_the_training_that_they_run():
    before = _is_watched()
    with local_client(1) as client:
        assert list(client.run(_is_watched).values()) == [False]
    assert _is_watched() is before
