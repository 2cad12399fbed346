"""Published values of muscle area and density at L3, to hold a cohort against.

Both are of healthy kidney donors and candidates; the paper's patients, and the phantom that stands in for them, have
cancer and are older, so that more than a few of them should lie below.
"""

import pandas as pd

# Measure, sex, what the value is, the value, and the key of the source in the book's references.
_VALUES = (
    ("sma_cm2", "men", "5th percentile", 134.0, "vanderwerf2018"),
    ("sma_cm2", "women", "5th percentile", 89.2, "vanderwerf2018"),
    ("smd_hu", "men", "5th percentile", 29.3, "vanderwerf2018"),
    ("smd_hu", "women", "5th percentile", 22.0, "vanderwerf2018"),
    ("sma_cm2", "men", "mean − 2 SD", 144.3, "derstine2018"),
    ("sma_cm2", "women", "mean − 2 SD", 92.2, "derstine2018"),
    ("smd_hu", "men", "mean − 2 SD", 38.5, "derstine2018"),
    ("smd_hu", "women", "mean − 2 SD", 34.3, "derstine2018"),
)
POPULATIONS = {
    "vanderwerf2018": "van der Werf 2018, donors of 20–82 years",
    "derstine2018": "Derstine 2018, donor candidates of 18–40 years",
}


def reference_values() -> pd.DataFrame:
    """The published values: measure (`sma_cm2` or `smd_hu`), sex, kind, value, source, population."""
    table = pd.DataFrame(_VALUES, columns=["measure", "sex", "kind", "value", "source"])
    return table.assign(population=table["source"].map(POPULATIONS))
