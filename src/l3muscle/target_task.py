"""The target task: skeletal muscle at L3 (Section 2.3)."""

from collections.abc import Iterator

from torch import Generator, Tensor

from l3muscle.augment import Shuffled, augment
from l3muscle.losses import BCEDiceLoss
from l3muscle.preprocess import to_network_input
from l3muscle.profile import AugmentationSettings, TrainingSettings

VALIDATION_BATCH = 16


class MuscleSegmentation:
    """Training and validation images of one experiment.

    Parameters
    ----------
    images, masks : Tensor, (n_train, 1, H, W)
        Prepared by `l3muscle.preprocess`.
    validation_images, validation_masks : Tensor, (n_validation, 1, H, W)
        Of the fold that is left out; never augmented.
    training : TrainingSettings
    augmentation : AugmentationSettings
    """

    out_channels = 1

    def __init__(
        self,
        images: Tensor,
        masks: Tensor,
        validation_images: Tensor,
        validation_masks: Tensor,
        training: TrainingSettings,
        augmentation: AugmentationSettings,
    ) -> None:
        self.images, self.masks = images, masks
        self.validation_images, self.validation_masks = to_network_input(validation_images), validation_masks
        self.batch_size = training.batch_size
        self.augmentation = augmentation
        self._loss = BCEDiceLoss(bce_weight=training.bce_weight, dice_weight=training.dice_weight)
        self._order = Shuffled(len(images))

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Next images in shuffled order, each seen once before any is seen again; input (N, 3, H, W), masks."""
        chosen = self._order.take(self.batch_size, generator)
        images, masks = augment(self.images[chosen], self.masks[chosen], self.augmentation, generator=generator)
        return to_network_input(images), masks

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The left-out fold, in order."""
        yield from zip(
            self.validation_images.split(VALIDATION_BATCH), self.validation_masks.split(VALIDATION_BATCH), strict=True
        )

    def describe_batch(self) -> str:
        """Which images came last, by their place in the training set."""
        return f"training images {', '.join(map(str, self._order.taken))}"

    def position(self) -> list[int]:
        """Images that come before the next shuffling, by their place."""
        return self._order.position()

    def resume(self, position: list[int]) -> None:
        """Go on from a `position`."""
        self._order.resume(position)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy plus soft Dice (Equation 3)."""
        return self._loss(output, target)
