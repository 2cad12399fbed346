"""The paper's tests and what it does not test: tables in, tables out (Section 2.4, Tables 1 and 2, Appendices C, D).

`score_table` says what the tables must hold; `against_control` and `between_tasks` are the paper's tests, `readings`
the ways to read its words, `printed` its own numbers; `agreement` compares with the expert as clinicians do;
`crossed` and `dependence` take into account that models share images; `efficiency` asks how many slices are needed.
"""

from l3muscle.statistics.agreement import AGREEMENT_MARGIN, agreement_table, bland_altman_points, lin_concordance
from l3muscle.statistics.dependence import (
    hierarchical_bootstrap_table,
    mixed_model_pairs,
    mixed_model_table,
    surviving_pair_stars,
    surviving_stars,
)
from l3muscle.statistics.dunnett import (
    Dunnett,
    Family,
    ObserverControl,
    control_sample,
    dunnett,
    dunnett_table,
    plateau_table,
)
from l3muscle.statistics.efficiency import ablation_table, slices_needed_table
from l3muscle.statistics.mann_whitney import Correction, PairFamily, mann_whitney_pairs, mann_whitney_table
from l3muscle.statistics.printed import (
    REPORTED_NAMES,
    beside_paper,
    mann_whitney_beside_paper,
    p_text,
    printed_oddities,
    reported_p_values,
    stars_text,
)
from l3muscle.statistics.readings import DunnettReading, MannWhitneyReading, possible_readings, readings_table
from l3muscle.statistics.score_table import (
    HIGHER_IS_BETTER,
    MEASURES,
    METRICS,
    MODEL_KEYS,
    Unit,
    expert_values,
    runaway,
)
from l3muscle.statistics.summaries import ObserverBand, learning_curve_table, observer_band

__all__ = [
    "HIGHER_IS_BETTER",
    "MEASURES",
    "METRICS",
    "MODEL_KEYS",
    "REPORTED_NAMES",
    "AGREEMENT_MARGIN",
    "Correction",
    "Dunnett",
    "DunnettReading",
    "Family",
    "MannWhitneyReading",
    "ObserverBand",
    "ObserverControl",
    "PairFamily",
    "Unit",
    "beside_paper",
    "control_sample",
    "dunnett",
    "dunnett_table",
    "expert_values",
    "learning_curve_table",
    "mann_whitney_beside_paper",
    "mann_whitney_pairs",
    "mann_whitney_table",
    "observer_band",
    "p_text",
    "plateau_table",
    "printed_oddities",
    "reported_p_values",
    "runaway",
    "ablation_table",
    "agreement_table",
    "bland_altman_points",
    "hierarchical_bootstrap_table",
    "lin_concordance",
    "mixed_model_pairs",
    "mixed_model_table",
    "possible_readings",
    "readings_table",
    "slices_needed_table",
    "surviving_pair_stars",
    "surviving_stars",
    "stars_text",
]
