"""One configuration of the study beside the observers and beside what the paper prints of it."""

import pandas as pd

from l3muscle.metrics import MEASURES
from l3muscle.statistics.printed import printed_configurations, printed_means


def configuration_summary(
    scores: pd.DataFrame, observer_scores: pd.DataFrame, source_task: str, n_train: int
) -> pd.DataFrame:
    """Mean and standard deviation of a configuration's models and of the observers, and the paper's p-value.

    Parameters
    ----------
    scores : DataFrame
        One row a model and test image.
    observer_scores : DataFrame
        One row an outline of an observer; may be empty.
    source_task : str
    n_train : int

    Returns
    -------
    DataFrame
        One row a measure: models, observers (mean ± standard deviation over outlines), and `paper: p` as printed in
        Tables 1 and 2, of Dunnett's test against the observers on the paper's own data; where the paper prints a mean
        of the models too, `paper: models`.
    """
    rows = {}
    for column, measure in MEASURES.items():
        printed = printed_configurations(column).query("source_task == @source_task and n_train == @n_train")["printed"]
        if printed.empty:
            continue  # not among the measures that the paper tests
        rows[measure.label] = {
            who: f"{table[column].mean():.{measure.digits}f} ± {table[column].std():.{measure.digits}f}"
            for who, table in (("models", scores), ("observers", observer_scores))
            if len(table)
        } | {"paper: p": printed.iloc[0]}
    for row in printed_means().query("source_task == @source_task and n_train == @n_train").itertuples():
        rows[MEASURES[row.measure].label]["paper: models"] = row.printed.replace("-", "−")
    return pd.DataFrame(rows).T
