"""Slices without their outlines: what the two source tasks learn from that need no annotation (Section 2.2).

Both take the full training set, which is every patient who is not held out for testing (N = 167 in the paper). A share
of it is set apart, so that their curves have a validation loss and training can be seen to converge (Figures A1, A2).
"""

import torch
from torch import Generator, Tensor

from l3muscle.augment import augment_images
from l3muscle.settings import AugmentationSettings, UnlabelledSettings
from l3muscle.training import Shuffled, Task


class UnlabelledTask(Task):
    """A task on slices alone: shuffled, augmented batches of them, and a part of them for validation.

    Parameters
    ----------
    images : Tensor, (N, 1, H, W)
        Prepared by `l3muscle.preprocess`; at least two.
    settings : UnlabelledSettings
    augmentation : AugmentationSettings
    seed : int
        Decides which slices validate.

    Attributes
    ----------
    training_images, validation_images : Tensor, (n, 1, H, W)
    order : Shuffled
        Of the training images.
    """

    def __init__(
        self, images: Tensor, settings: UnlabelledSettings, augmentation: AugmentationSettings, *, seed: int
    ) -> None:
        held = min(max(1, round(settings.validation_share * len(images))), len(images) - 1)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)
        self.validation_images, self.training_images = images[order[:held]], images[order[held:]]
        self.batch_size = settings.batch_size
        self.augmentation = augmentation
        self.order = Shuffled(len(self.training_images))

    def draw(self, generator: Generator) -> Tensor:
        """Next images, (batch, 1, H, W): each once before any comes again, each under a warp of its own."""
        chosen = self.order.take(self.batch_size, generator)
        return augment_images(self.training_images[chosen], self.augmentation, generator=generator)
