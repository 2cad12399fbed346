"""Source task: an autoencoder that gives a slice back, on slices without outlines (Section 2.2).

The network is that of the target task with three output channels. Between input and output lies the encoder's map,
eight times coarser than the image (four times for small networks), which is all the bottleneck there is.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from l3muscle.models import IMAGENET_MEAN, IMAGENET_STD, build_fcn
from l3muscle.preprocess import to_network_input
from l3muscle.pretext.unlabelled import UnlabelledTask
from l3muscle.training import Task

if TYPE_CHECKING:
    from l3muscle.profile import Profile

VALIDATION_BATCH = 16


class Reconstruction(UnlabelledTask):
    """Slices that are input and target at once; parameters as of `UnlabelledTask`."""

    out_channels = 3

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Augmented slices, twice: (N, 3, H, W), normalised as ImageNet's."""
        images = to_network_input(self.draw(generator))
        return images, images

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The slices set apart, as they are."""
        for images in self.validation_images.split(VALIDATION_BATCH):
            images = to_network_input(images)
            yield images, images

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error over images, channels and pixels; both (N, 3, H, W)."""
        return F.mse_loss(output.float(), target)

    def examples(self, network: nn.Module, device: str, count: int) -> dict[str, np.ndarray]:
        """The first `count` validation slices and what the network makes of them, for a picture.

        Returns
        -------
        dict of str to ndarray
            `input` and `output`, each (count, H, W), in the window's units: 0 is its lower end, 1 its upper.
        """
        images = self.validation_images[:count]
        network.eval()
        with torch.inference_mode():
            output = network(to_network_input(images).to(device)).float().cpu()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return {"input": images[:, 0].cpu().numpy(), "output": (output * std + mean).mean(1).numpy()}


def build(profile: "Profile", images: Tensor, *, seed: int, device: str) -> tuple[nn.Module, Task]:
    """The untrained network of this source task and its task; parameters as in `l3muscle.pretext.SourceTask`."""
    task = Reconstruction(images.to(device), profile.sources.reconstruction, profile.augmentation, seed=seed)
    return build_fcn(**dict(profile.network), out_channels=task.out_channels), task
