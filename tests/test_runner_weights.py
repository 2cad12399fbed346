"""Workers fine-tune from the weights of the source task that the experiment names, and of no other."""

import torch

from l3muscle.runner import _scatter, local_client


def _sum(weights: dict[str, torch.Tensor]) -> float:
    return float(sum(value.sum() for value in weights.values()))


def test_state_dicts_with_the_same_names_stay_apart_on_workers():
    names = ("backbone.conv1.weight", "backbone.bn1.num_batches_tracked")
    with local_client(1) as client:
        futures = {value: _scatter(client, {name: torch.full((2,), value) for name in names}) for value in (1, 5)}
        sums = {value: client.submit(_sum, future, pure=False).result() for value, future in futures.items()}
    assert sums == {1: 4.0, 5: 20.0}
