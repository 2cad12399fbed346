"""What the page *What if* can show is what the statistics say of the models drawn."""

import json

import numpy as np
import pandas as pd
import pytest
from score_rows import model, observer, stacked

from l3muscle.book.explorer import DRAWS, READINGS, draws_of_models, explorer_html, explorer_states, single_model_spread
from l3muscle.statistics import dunnett_table
from l3muscle.statistics.score_table import MODEL_KEYS

LABELS = {"random": "random", "segmentation": "segmentation (procedural)"}


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two source tasks, two sizes and five folds; and two observers."""
    rng = np.random.default_rng(0)
    scores = [
        model(
            0.8 + 0.05 * (task == "segmentation") + 0.02 * rng.random(6),
            task=task,
            n=n,
            fold=fold,
            rms_dta_cm=rng.random(6),
        )
        for task in LABELS
        for n in (5, 10)
        for fold in range(5)
    ]
    seen = [observer(0.85 + 0.02 * rng.random(6), name=name, rms_dta_cm=rng.random(6)) for name in ("o1", "o2")]
    return stacked(*scores), stacked(*seen)


def test_draws_are_of_different_models_and_end_with_all_of_them(tables):
    draws = draws_of_models(tables[0])
    assert [len(models) for models in draws] == [1] * DRAWS + [2] * DRAWS + [4] * DRAWS + [5]
    assert all(not models.duplicated().any() for models in draws)
    assert len({tuple(models["fold"]) for models in draws if len(models) == 1}) == DRAWS
    *some, everything = draws_of_models(tables[0].query("fold < 2 or n_train == 5"))
    assert [list(models["fold"]) for models in some] == [[0], [1]] and len(everything) == 5


def test_a_state_holds_the_mean_and_the_test_of_its_models(tables):
    scores, observers = tables
    states, draws = explorer_states(scores, observers, LABELS), draws_of_models(scores)
    assert states["sizes"] == [5, 10] and states["tasks"]["segmentation"]["label"] == LABELS["segmentation"]
    k = states["counts"].index(4)
    part = scores.merge(draws[k], on=MODEL_KEYS)
    state = states["measures"]["dice"]["draws"][k]
    chosen = part[(part["source_task"] == "segmentation") & (part["n_train"] == 10)]
    assert state["means"]["segmentation|10"][0] == pytest.approx(chosen["dice"].mean(), rel=1e-3)
    expected = dunnett_table(part, observers, "dice").set_index(["source_task", "n_train"]).loc[("random", 5)]
    p, difference = state["tests"][0]["random|5"]
    assert p == pytest.approx(expected["p_value"], rel=1e-2) and difference == pytest.approx(
        expected["difference"], rel=1e-2
    )
    assert len(state["tests"]) == len(READINGS)


def test_without_observers_nothing_is_tested(tables):
    scores, observers = tables
    states = explorer_states(scores, observers.iloc[:0], LABELS)
    assert states["readings"] == [] and states["measures"]["dice"]["observers"] is None
    assert states["measures"]["dice"]["draws"][0]["tests"] == []


def test_the_states_travel_inside_the_page(tables):
    states = explorer_states(*tables, {**LABELS, "random": "</script>"})
    html = explorer_html(states)
    text = html.split('id="l3-explorer-states">', 1)[1].split("</script>", 1)[0]
    assert json.loads(text) == json.loads(json.dumps(states))


def test_the_spread_of_single_models_is_that_of_their_means(tables):
    scores, observers = tables
    singles = [scores.merge(models, on=MODEL_KEYS) for models in draws_of_models(scores) if len(models) == 1]
    of_random = [part[(part["source_task"] == "random") & (part["n_train"] == 5)]["dice"].mean() for part in singles]
    spread = single_model_spread(explorer_states(scores, observers, LABELS))
    assert list(spread) == ["random", "segmentation"]
    assert spread["random"] == pytest.approx(max(of_random) - min(of_random), abs=2e-4)
    assert single_model_spread(explorer_states(scores[scores["fold"] == 0], observers, LABELS)) == {}


def test_how_many_models_a_configuration_has_is_said_of_fewest_and_most(tables):
    scores, observers = tables
    assert explorer_states(scores, observers, LABELS)["all"] == "5"
    assert explorer_states(scores.query("fold < 2 or n_train == 5"), observers, LABELS)["all"] == "2 to 5"
