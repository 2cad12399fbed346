"""Cohorts: CT slices at L3 with outlines of skeletal muscle."""

from typing import Any

from l3muscle.cohort.cohort import UNNAMED, Cohort, CohortError, CohortReport, Patient

READING = ("check_folder", "load_cohort")

__all__ = ["UNNAMED", "Cohort", "CohortError", "CohortReport", "Patient", *READING]


def __getattr__(name: str) -> Any:
    """Import what reads files when it is asked for: a kernel that trains on a saved cohort starts without it."""
    if name in READING:
        from l3muscle.cohort import folder

        return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
