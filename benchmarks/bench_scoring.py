"""All measures of one prediction against a prepared reference, beside the same from the plain functions."""

import statistics
import time

import numpy as np

from l3muscle.cohort.phantom import phantom_slice
from l3muscle.metrics import Reference, dice, muscle_area, muscle_density, remove_bone, rms_dta

ROUNDS, REPEATS = 5, 20


def test_prepared_reference_beside_plain_functions():
    phantom = phantom_slice(1)
    pred = np.roll(phantom.mask, 3, axis=1)
    reference = Reference(phantom.mask, phantom.hu, phantom.spacing)

    def plain() -> tuple[float, ...]:
        soft = remove_bone(pred, phantom.hu, phantom.spacing)
        return (
            dice(pred, phantom.mask),
            rms_dta(pred, phantom.mask, phantom.spacing),
            muscle_density(soft, phantom.hu),
            muscle_area(pred, phantom.spacing),
        )

    np.testing.assert_allclose(reference.score(pred)[:4], plain(), rtol=1e-9)
    ratios = []
    for round_ in range(ROUNDS + 1):
        times = []
        for side in (lambda: reference.score(pred), plain):
            started = time.perf_counter()
            for _ in range(REPEATS):
                side()
            times.append((time.perf_counter() - started) / REPEATS)
        if round_:
            ratios.append(times[1] / times[0])
            print(f"prepared {times[0] * 1e3:.2f} ms, plain {times[1] * 1e3:.2f} ms")
    print(f"prepared is {statistics.median(ratios):.1f} times as fast ({min(ratios):.1f}-{max(ratios):.1f})")
    assert statistics.median(ratios) > 1
