"""What a score table must hold, its configurations and its failures, on tables small enough to count by hand."""

import numpy as np
import pandas as pd
import pytest
from score_rows import model, observer, stacked

from l3muscle.statistics.score_table import (
    best_median_worst,
    check_choice,
    check_observers,
    check_scores,
    configurations,
    expert_values,
    gross_failures,
    observers_as_matrix,
)

NAN = np.nan
EXPERT = ("smd_hu", "smd_difference_hu", "SMD"), ("sma_cm2", "sma_difference_cm2", "SMA")


@pytest.fixture
def scores() -> pd.DataFrame:
    return stacked(model([0.5, 0.75]), model([0.25, 1.0], fold=1), model([0.5, 0.5], task="jigsaw", n=10))


def test_a_choice_is_one_of_the_offered():
    check_choice("colour", "red", ("red", 2))
    check_choice("colour", 2, ("red", 2))
    with pytest.raises(ValueError, match=r"^unknown colour 'blue'; choose one of red, 2$"):
        check_choice("colour", "blue", ("red", 2))


@pytest.mark.parametrize(
    "column", ["source_task", "n_train", "fold", "subset", "repeat", "patient_id", "dice", "failure"]
)
def test_every_column_of_a_score_table_is_needed(scores, column):
    with pytest.raises(ValueError, match=rf"^the score table lacks {column}$"):
        check_scores(scores.drop(columns=column), "dice")


def test_a_table_without_rows_is_refused(scores):
    with pytest.raises(ValueError, match=r"^the score table has no rows$"):
        check_scores(scores[:0], "dice")
    with pytest.raises(ValueError, match=r"^the observer table has no rows$"):
        check_observers(observer([]), "dice")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_value_is_refused_in_the_metric_that_is_asked_for(scores, value):
    scores = scores.assign(rms_dta_cm=[0.5, value, *[0.5] * 4])
    check_scores(scores, "dice")
    with pytest.raises(ValueError, match=r"^the score table holds infinite values of rms_dta_cm$"):
        check_scores(scores, "rms_dta_cm")


@pytest.mark.parametrize("columns", [["source_task"], ["n_train"], ["fold"], ["subset", "repeat"], ["patient_id"]])
def test_a_row_must_say_which_model_and_image_it_is_of(scores, columns):
    scores = scores.astype(object)
    scores.loc[1, columns] = None
    with pytest.raises(ValueError, match=rf"^the score table has rows without {', '.join(columns)}$"):
        check_scores(scores, "dice")


@pytest.mark.parametrize(
    ("column", "other"),
    [("source_task", "jigsaw"), ("n_train", 10), ("fold", 1), ("subset", 1), ("repeat", 1), ("patient_id", "z")],
)
def test_rows_that_differ_in_one_key_are_not_the_same(column, other):
    one = model([0.5])
    check_scores(stacked(one, one.assign(**{column: other})), "dice")
    with pytest.raises(ValueError, match="1 rows twice"):
        check_scores(stacked(one, one.assign(dice=0.75)), "dice")


def test_rows_given_twice_are_counted_and_the_first_is_named(scores):
    with pytest.raises(ValueError) as caught:
        check_scores(stacked(scores, scores[4:], scores[1:2]), "dice")
    assert str(caught.value) == (
        "the score table holds 3 rows twice, the first for source_task jigsaw, n_train 10, fold 0, subset 0, repeat 0, "
        "patient_id a"
    )
    with pytest.raises(
        ValueError, match=r"^the observer table holds 1 rows twice, the first for observer o1, patient_id a$"
    ):
        check_observers(stacked(observer([0.5, 0.5]), observer([0.75])), "dice")


@pytest.mark.parametrize(("measure", "difference", "name"), EXPERT)
@pytest.mark.parametrize(
    ("expert", "apart", "refused"),
    [
        # A millionth of the value is rounding, and so is a millionth of one unit where the value is small.
        (200.0, 1.9e-4, False),
        (200.0, 2.1e-4, True),
        (-200.0, 1.9e-4, False),
        (-200.0, 2.1e-4, True),
        (0.25, 0.9e-6, False),
        (0.25, 1.1e-6, True),
    ],
)
def test_an_image_has_one_expert(measure, difference, name, expert, apart, refused):
    # What each model measured and how far it was off; the models differ in what that makes of the expert.
    first = model([0.5] * 3, **{measure: [7.0, expert + 5, expert - 3], difference: [0.0, 5, -3]})
    second = model([0.5] * 3, fold=1, **{measure: [7.0, NAN, expert + apart], difference: [0.0, NAN, 0.0]})
    for check, table, what in (
        (check_scores, stacked(first, second), "score table"),
        (check_observers, stacked(first, second).assign(observer=[1] * 3 + [2] * 3), "observer table"),
    ):
        if not refused:
            check(table, "dice")
            continue
        with pytest.raises(ValueError) as caught:
            check(table, "dice")
        assert str(caught.value) == f"the {what} mixes runs: the expert's {name} of c is not the same in all rows"


@pytest.mark.parametrize(
    ("columns", "left"),
    [
        ({"rms_dta_cm": 2.0}, False),
        ({"rms_dta_cm": 2.001}, True),
        ({"rms_dta_cm": NAN}, False),
        ({"rms_dta_cm": 2.001, "failure": "empty"}, False),
        ({"rms_dta_cm": 2.001, "failure": NAN}, True),
        ({"rms_dta_cm": 2.001, "failure": "other"}, True),
        # The expert has 100 cm²: twice and half of it are still an outline of the muscle.
        ({"sma_cm2": 200.0, "sma_difference_cm2": 100.0}, False),
        ({"sma_cm2": 201.0, "sma_difference_cm2": 101.0}, True),
        ({"sma_cm2": 50.0, "sma_difference_cm2": -50.0}, False),
        ({"sma_cm2": 49.0, "sma_difference_cm2": -51.0}, True),
        ({"sma_cm2": 1.0, "sma_difference_cm2": -99.0}, True),
        ({"sma_cm2": 0.0, "sma_difference_cm2": -100.0}, False),
        ({"sma_cm2": 49.0, "sma_difference_cm2": -51.0, "failure": "empty"}, False),
        ({"rms_dta_cm": 2.001, "sma_cm2": 100.0, "sma_difference_cm2": 0.0}, True),
        ({"rms_dta_cm": 0.3, "sma_cm2": 201.0, "sma_difference_cm2": 101.0}, True),
        ({"rms_dta_cm": 0.3, "sma_cm2": 100.0, "sma_difference_cm2": 0.0}, False),
        ({"sma_cm2": 201.0}, False),
        ({}, False),
    ],
)
def test_an_outline_has_failed_grossly_beyond_two_centimetres_or_a_factor_of_two(columns, left):
    table = stacked(model([0.9], rms_dta_cm=0.3, sma_cm2=100.0, sma_difference_cm2=0.0), model([0.9], fold=1))
    table = table[["failure", *[name for name in columns if name != "failure"]]].set_index(pd.Index([7, 9]))
    for name, value in columns.items():
        table.loc[9, name] = value
    found = gross_failures(table)
    assert found.index.tolist() == [7, 9] and found.tolist() == [False, left]


def test_configurations_come_by_source_task_as_they_appear_and_by_size():
    table = stacked(
        model([0.5], n=25), model([0.5], task="jigsaw", n=5), model([0.5], n=5), model([0.5], task="jigsaw", n=10)
    )
    found = [one.key for one in configurations(table, "dice")]
    assert found == [("random", 5), ("random", 25), ("jigsaw", 5), ("jigsaw", 10)]
    assert {(type(task), type(n)) for task, n in found} == {(str, int)}


def test_a_configuration_is_models_by_images_whatever_the_order_of_the_rows():
    table = stacked(
        model([0.1, 0.2, 0.3], task="jigsaw"), model([0.4, NAN], fold=3), model([0.5, 0.6, 0.7], fold=1, repeat=1)
    ).sample(frac=1, random_state=1)
    one = next(one for one in configurations(table, "dice") if one.source_task == "random")
    assert one.matrix.shape == (2, 3)
    np.testing.assert_array_equal(one.matrix, [[0.5, 0.6, 0.7], [0.4, NAN, NAN]])


@pytest.mark.parametrize("key", ["fold", "subset", "repeat"])
def test_a_model_is_told_apart_by_each_of_its_keys(key):
    other = model([0.75]).assign(**{key: 2})
    (one,) = configurations(stacked(other, model([0.25])), "dice")
    assert len(one.matrix) == 2 and one.matrix.tolist() == [[0.25], [0.75]]


def test_a_value_is_that_of_a_prediction_an_image_or_a_model():
    table = stacked(
        model([0.2, NAN, 0.6, NAN]),
        model([0.4, NAN, 1.0, NAN], fold=1),
        model([NAN] * 4, fold=2),
        model([NAN, NAN, NAN, 0.5], fold=3),
    )
    (one,) = configurations(table, "dice")
    assert one.values().tolist() == one.values("prediction").tolist() == [0.2, 0.6, 0.4, 1.0, 0.5]
    assert one.values("image_mean") == pytest.approx([0.3, 0.8, 0.5])
    assert one.values("model_mean") == pytest.approx([0.4, 0.7, 0.5])
    with pytest.raises(ValueError, match=r"^unknown unit 'fold'; choose one of prediction, image_mean, model_mean$"):
        one.values("fold")


def test_failures_are_counted_by_their_kind_in_their_configuration():
    distance = {"metric": "rms_dta_cm"}
    table = stacked(
        model([NAN, 2.5, 0.3, 0.3], **distance, failure=["empty", "", "", "other"]),
        model([NAN, NAN, 2.5, 2.5], **distance, fold=1, failure=["empty", "empty", "other", NAN]),
        model([0.3, 0.3, 0.3, 3.0], **distance, n=10, failure=[NAN, "", NAN, NAN]),
    )
    small, large = (one.counts for one in configurations(table, "rms_dta_cm"))
    assert small == {"failures": 7, "empty": 3, "gross": 3}
    assert large == {"failures": 1, "empty": 0, "gross": 1}


def test_an_empty_prediction_is_left_out_of_the_values_and_said():
    table = stacked(
        model([NAN, NAN, NAN], "rms_dta_cm", failure="empty"),
        model([1.5, 0.25, NAN], "rms_dta_cm", fold=1, failure=["", "", "empty"]),
    )
    (one,) = configurations(table, "rms_dta_cm")
    assert one.values().tolist() == [1.5, 0.25] and one.note == "4 failed predictions left out"


def test_observers_stand_by_name_over_the_images_that_are_asked_for():
    table = stacked(observer([0.3, 0.4], name="o2"), observer([0.1, 0.2, 0.9], name="o1"))
    found = observers_as_matrix(table, "dice", ["b", "z", "c"])
    np.testing.assert_array_equal(found, [[0.2, NAN, 0.9], [0.4, NAN, NAN]])


@pytest.mark.parametrize(("measure", "difference", "name"), EXPERT)
def test_the_experts_value_is_what_was_measured_less_what_it_was_off(measure, difference, name):
    table = stacked(
        model([0.9] * 3, **{measure: [30.0, 41.0, NAN], difference: [-2.0, 1.0, NAN]}),
        model([0.9] * 3, fold=1, **{measure: [33.0, NAN, NAN], difference: [1.0, NAN, NAN]}),
    )
    found = expert_values(table[::-1], measure)
    assert found.to_dict() == {"a": 32.0, "b": 40.0} and found.index.tolist() == ["a", "b"]
    for column in (measure, difference, "patient_id"):
        with pytest.raises(ValueError, match=rf"^the table lacks {column}$"):
            expert_values(table.drop(columns=column), measure)
    with pytest.raises(ValueError, match=rf"^unknown measure '{difference}'; choose one of smd_hu, sma_cm2$"):
        expert_values(table, difference)


def test_best_median_and_worst_are_the_same_rows_in_any_order():
    rows = pd.DataFrame({"dice": [0.7, 0.9, 0.7, 0.8, 0.6], "patient_id": list("edcba")}, index=range(10, 15))
    for order in (rows, rows[::-1], rows.sample(frac=1, random_state=1)):
        # Of equal Dice the later patient ranks first.
        assert best_median_worst(order) == {"best": 11, "median": 10, "worst": 14}
    assert best_median_worst(rows[1:]) == {"best": 11, "median": 12, "worst": 14}
