"""Who is trained on, who validates, who is held out (Section 2.1, Figure 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l3muscle.cohort.cohort import Cohort
from l3muscle.errors import L3MuscleError


class SplitsError(L3MuscleError):
    """A cohort too small for the study that is asked of it."""


@dataclass(frozen=True)
class Splits:
    """Test patients, folds, and for each fold and subset the order in which training patients are added.

    Attributes
    ----------
    test_ids : tuple of str
    folds : tuple of tuple of str
    orders : tuple (fold) of tuple (subset) of tuple of str
        A training set of n patients is the first n of its order, so smaller sets lie inside larger ones.
    """

    test_ids: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    orders: tuple[tuple[tuple[str, ...], ...], ...]

    def training_ids(self, fold: int, subset: int, n_train: int) -> tuple[str, ...]:
        """The n patients trained on when `fold` is left out."""
        order = self.orders[fold][subset]
        if not 0 < n_train <= len(order):
            raise ValueError(f"n_train must be from 1 to {len(order)}, not {n_train}")
        return order[:n_train]

    def validation_ids(self, fold: int) -> tuple[str, ...]:
        """The fold that is left out."""
        return self.folds[fold]


def make_splits(
    cohort: Cohort,
    *,
    sizes: Sequence[int] = (5, 10, 25, 50, 75, 100, 125),
    folds: int = 4,
    subsets: int = 2,
    seed: int = 0,
    test_patients: int = 37,
) -> Splits:
    """Split a cohort as Section 2.1 does.

    Parameters
    ----------
    cohort : Cohort
        Patients whom observers outlined are in the test set; where they are fewer than `test_patients`, others are
        drawn besides.
    sizes : sequence of int
        Training-set sizes that must fit.
    folds, subsets, seed, test_patients : int

    Returns
    -------
    Splits

    Raises
    ------
    SplitsError
        If there are too few patients for the folds or for the largest training set.
    """
    rng = np.random.default_rng(np.random.SeedSequence([0x5917, seed]))
    patients = sorted(cohort.patient_ids)
    observed = sorted(cohort.observers)
    others = [patient for patient in patients if patient not in cohort.observers]
    missing = max(test_patients - len(observed), 0)
    if missing >= len(others):
        raise SplitsError(f"{len(patients)} patients are too few to hold out {test_patients}")
    test_ids = tuple(sorted([*observed, *rng.choice(others, missing, replace=False).tolist()] if missing else observed))
    rest = rng.permutation([patient for patient in patients if patient not in set(test_ids)]).tolist()
    if len(rest) < 2 * folds:
        raise SplitsError(f"{len(rest)} patients besides the test set are too few for {folds} folds")
    parts = tuple(tuple(rest[fold::folds]) for fold in range(folds))
    smallest = len(rest) - max(map(len, parts))
    if max(sizes) > smallest:
        raise SplitsError(
            f"a training set of {max(sizes)} does not fit: {len(rest)} patients in {folds} folds leave {smallest} to "
            "train on; lower grid.sizes or cohort.test_patients in the profile"
        )
    orders = []
    for fold in range(folds):
        parent = [patient for other, part in enumerate(parts) if other != fold for patient in part]
        orders.append(tuple(tuple(rng.permutation(parent).tolist()) for _ in range(subsets)))
    return Splits(test_ids=test_ids, folds=parts, orders=tuple(orders))
