"""Names that say no more than which is which, for whatever leaves the folder of a cohort."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

import pandas as pd

from l3muscle.cohort import Cohort


def pseudonyms(names: Iterable[str], salt: bytes, kind: str = "patient") -> dict[str, str]:
    """Number names in an order that nobody can repeat who does not know the salt.

    Parameters
    ----------
    names : iterable of str
    salt : bytes
    kind : str
        What they name.

    Returns
    -------
    dict of str to str
        `"patient 017"` and the like, by name. Numbers in the order of the names themselves would give away who is who
        to anybody with a list of them.
    """
    ordered = sorted(set(names), key=lambda name: hmac.digest(salt, name.encode(), "sha256"))
    return {name: f"{kind} {number:03d}" for number, name in enumerate(ordered, start=1)}


def cohort_salt(cohort: Cohort) -> bytes:
    """A salt that only the images themselves give, so that all pages of a run use the same names without storing it."""
    digest = hashlib.sha256(b"l3muscle pseudonyms")
    for hu in cohort.images:
        digest.update(hu.tobytes())
    return digest.digest()


def shown_names(cohort: Cohort, *, phantom: bool) -> dict[str, str]:
    """How patients and observers of a cohort are called on pages: by pseudonyms, or as they are if it is a phantom."""
    observers = {name for outlines in cohort.observers.values() for name in outlines}
    if phantom:
        return {name: name for name in (*cohort.patient_ids, *observers)}
    salt = cohort_salt(cohort)
    return pseudonyms(cohort.patient_ids, salt) | pseudonyms(observers, salt, "observer")


def renamed(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """A table in which patients and observers are called by other names."""
    columns = [column for column in ("patient_id", "observer") if column in table]
    return table.assign(**{column: table[column].map(names) for column in columns})
