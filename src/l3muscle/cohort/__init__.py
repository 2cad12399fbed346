"""Cohorts: CT slices at L3 with outlines of skeletal muscle."""

from l3muscle.cohort.cohort import UNNAMED, Cohort, CohortError, CohortReport, Patient
from l3muscle.cohort.files import folder_signature
from l3muscle.cohort.folder import check_folder, check_slices, load_cohort

__all__ = [
    "UNNAMED", "Cohort", "CohortError", "CohortReport", "Patient", "check_folder", "check_slices", "folder_signature",
    "load_cohort",
]  # fmt: skip
