"""Cohorts: CT slices at L3 with outlines of skeletal muscle."""

from l3muscle.cohort.cohort import Cohort
from l3muscle.cohort.folder import CohortError, CohortReport, check_folder, load_cohort

__all__ = ["Cohort", "CohortError", "CohortReport", "check_folder", "load_cohort"]
