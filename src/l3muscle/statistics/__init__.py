"""The paper's tests and what it does not test: tables in, tables out (Section 2.4, Tables 1 and 2, Appendices C, D).

`score_table` says what the tables must hold; `dunnett` and `mann_whitney` are the paper's tests, `readings` the ways to
read its words, `printed` its own numbers, `learning_curve` its figures; `agreement` compares with the expert as
clinicians do; `bootstrap` takes into account that models share images, and with it `slices_needed` asks how many
annotations are enough, `ablation` what augmentation is worth, and `claims` which of the paper's statements hold.
"""

from l3muscle.statistics.ablation import ablation_table
from l3muscle.statistics.agreement import agreement_table, bland_altman_points
from l3muscle.statistics.bootstrap import hierarchical_bootstrap_table, surviving_differences
from l3muscle.statistics.dunnett import Family, ObserverControl, control_sample, dunnett, dunnett_table, plateau_table
from l3muscle.statistics.learning_curve import ObserverBand, learning_curve_table, observer_band
from l3muscle.statistics.mann_whitney import Correction, PairFamily, mann_whitney_pairs, mann_whitney_table
from l3muscle.statistics.printed import (
    REPORTED_NAMES,
    beside_paper,
    configuration_summary,
    mann_whitney_beside_paper,
    p_text,
    printed_mean_text,
    reported_p_values,
)
from l3muscle.statistics.readings import readings_table
from l3muscle.statistics.score_table import ScoreTableError, Unit, best_median_worst
from l3muscle.statistics.slices_needed import slices_needed_table
