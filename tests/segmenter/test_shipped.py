"""The ensemble that comes with the package, for scans that nobody has outlined."""

import numpy as np
import pytest

from l3muscle.metrics import dice
from l3muscle.phantom.patients import phantom_slice
from l3muscle.segmenter.flags import review_reasons
from l3muscle.segmenter.model_file import SHIPPED, load_model


@pytest.fixture(scope="module")
def ensemble():
    return load_model(SHIPPED)


def test_it_is_small_and_says_what_it_learned_from(ensemble):
    assert SHIPPED.stat().st_size < 4e6
    assert len(ensemble.members) == 4 and ensemble.about["cohort"] == "phantom"
    assert ensemble.about["profile"] == "sim-to-real" and ensemble.calibration.agreement > 0.5


def test_it_outlines_phantoms_that_it_has_not_seen(ensemble):
    drawn = [phantom_slice(seed, diversity=0.5) for seed in range(6)]
    outlines = ensemble.outline([(one.hu, one.spacing) for one in drawn])
    agreement = [dice(outline.mask, one.mask) for outline, one in zip(outlines, drawn, strict=True)]
    assert np.mean(agreement) > 0.9 and min(agreement) > 0.8


def test_it_sends_what_is_no_abdomen_to_review(ensemble):
    one = phantom_slice(0)
    for spoilt in (one.hu[::-1], np.where(one.hu > -400, -1000, one.hu), one.hu + 400):
        [outline] = ensemble.outline([(spoilt, one.spacing)])
        assert review_reasons(spoilt, outline.mask, one.spacing, outline.agreement, ensemble.calibration)


def test_segment_uses_it_where_no_model_is_named(run, write, patients, tmp_path):
    write(tmp_path / "in", patients[0])
    status, out, _ = run("segment", tmp_path / "in", "--out", tmp_path / "out")
    assert status == 0 and "seen only phantoms" in out
