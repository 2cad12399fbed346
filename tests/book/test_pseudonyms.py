"""Whoever has a list of patients cannot tell from a page who is who."""

import re

import numpy as np

from l3muscle.book.pseudonyms import cohort_salt, pseudonyms, shown_names
from l3muscle.cohort import Cohort

IDS = tuple(f"HOSPITAL-{k:04d}" for k in range(40))


def cohort(seed: int) -> Cohort:
    images = np.random.default_rng(seed).integers(-1000, 1000, (40, 8, 8)).astype(np.int16)
    observers = {IDS[0]: {"Dr. Who": images[0] > 0, "Dr. No": images[0] > 9}}
    return Cohort(images, images > 0, np.ones((40, 2)), IDS, observers)


def test_every_name_has_a_number_of_its_own_and_the_salt_decides_which():
    one, other = pseudonyms(IDS, b"one"), pseudonyms(IDS, b"other")
    assert set(one) == set(IDS) and len(set(one.values())) == len(IDS)
    assert all(re.fullmatch(r"patient \d{3}", name) for name in one.values())
    assert one != other and one == pseudonyms(reversed(IDS), b"one")
    ranks = [int(one[name][-3:]) for name in IDS]
    assert abs(np.corrcoef(ranks, range(len(IDS)))[0, 1]) < 0.5, "numbers must not follow the names"


def test_pages_of_one_cohort_agree_and_another_cohort_has_another_salt():
    assert cohort_salt(cohort(0)) == cohort_salt(cohort(0)) != cohort_salt(cohort(1))


def test_names_of_a_phantom_are_shown_and_those_of_patients_and_observers_are_not():
    own = cohort(0)
    assert shown_names(own, phantom=True)["HOSPITAL-0003"] == "HOSPITAL-0003"
    names = shown_names(own, phantom=False)
    assert {names["Dr. Who"], names["Dr. No"]} == {"observer 001", "observer 002"}
    assert not re.search("HOSPITAL|Dr", " ".join(names.values()))
