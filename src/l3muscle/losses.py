"""The loss of the target task: binary cross-entropy plus soft Dice (Section 2.3, Equations 1 to 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels of each image (Equation 1).

    Parameters
    ----------
    logits, target : Tensor, (N, 1, H, W)
        Raw network outputs, and the gold standard in [0, 1].

    Returns
    -------
    Tensor, (N,)
    """
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1).mean(1)


def soft_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the Dice of the predicted probabilities with the gold standard, per image (Equation 2).

    The cardinalities are sums of probabilities, which keeps a gradient that a rounded prediction would not have.

    Parameters
    ----------
    logits, target : Tensor, (N, 1, H, W)
        Raw network outputs, and the gold standard in [0, 1].

    Returns
    -------
    Tensor, (N,)
        In [0, 1]. For an empty gold standard it is 1 whatever is predicted, as Equation 2 has it.
    """
    probability = torch.sigmoid(logits).flatten(1)
    target = target.flatten(1)
    overlap = (probability * target).sum(1)
    total = probability.sum(1) + target.sum(1)
    # Only a prediction of exactly zero everywhere on an empty image reaches the clamp: 0 / 0 has no gradient.
    return 1 - 2 * overlap / total.clamp_min(torch.finfo(total.dtype).tiny)


class BCEDiceLoss(nn.Module):
    """Mean over the batch of cross-entropy plus soft Dice loss (Equation 3).

    The paper adds the two terms as they are.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of `logits` against `target`, both (N, 1, H, W).

        Raises
        ------
        ValueError
            If the shapes differ: broadcasting would silently average over the wrong axis.
        """
        if logits.shape != target.shape or logits.ndim != 4 or logits.shape[1] != 1:
            raise ValueError(
                f"logits and target must both be (N, 1, H, W); got {tuple(logits.shape)} and {tuple(target.shape)}"
            )
        # Sums over 262,144 pixels lose their last bits in half precision.
        logits, target = logits.float(), target.float()
        return (binary_cross_entropy(logits, target) + soft_dice_loss(logits, target)).mean()


# A loss by the name that a profile gives it (`training.loss`); a new one is a class and a row here.
LOSSES: dict[str, type[nn.Module]] = {"bce_dice": BCEDiceLoss}
