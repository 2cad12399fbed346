"""What a run will cost, against what it then cost."""

import pytest

from l3muscle import forecast as module
from l3muscle.cohort.phantom import CHUNK
from l3muscle.forecast import Cost, Forecast, forecast
from l3muscle.runner import run_study
from l3muscle.study import Study


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    monkeypatch.setattr(module, "TRIAL_SECONDS", 0.1)


def silent(line: str) -> None:
    pass


def test_a_cost_is_a_straight_line():
    cost = Cost(fixed=2.0, step=0.5, validation=1.0, stored=0, weights=0, memory=0)
    assert cost.seconds(steps=10, validate_every=5) == pytest.approx(2 + 5 + 2)
    assert cost.seconds(steps=11, validate_every=5) == pytest.approx(2 + 5.5 + 3)


def handed_over(patients: int, workers: int, *, start: float, each: float) -> list[float]:
    """When patients come back from processes that take them in turn, a chunk at a time, in order; 0 is the start."""
    chunk = 1 if workers == 1 else CHUNK
    rounds = [start + (patient // (chunk * workers) + 1) * chunk * each for patient in range(patients)]
    return [0.0, *rounds]


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("start", [0.0, 5.0])
def test_the_phantoms_time_is_foreseen_from_a_few_of_them(workers, start):
    few = max(module.TRIAL_PATIENTS, 3 * module._first_round(workers))
    predicted = module._drawing_seconds(handed_over(few, workers, start=start, each=1.0), 204, workers)
    assert predicted == pytest.approx(handed_over(204, workers, start=start, each=1.0)[-1], rel=0.1)


def test_counts_disk_and_an_untouched_folder(tiny, tmp_path):
    study = Study(tiny, runs=tmp_path)
    predicted = forecast(study, say=silent)
    assert list(tmp_path.iterdir()) == []
    assert predicted.experiments == len(study.profile.grid.source_tasks) * 4
    assert predicted.sources == len(study.source_tasks())
    assert predicted.phantom_seconds > 0 and predicted.seconds > predicted.phantom_seconds
    assert predicted.memory > 50e6
    study.make_phantom()
    run_study(study, say=silent)
    written = sum(
        path.stat().st_size
        for kind in ("experiments", "sources")
        for path in (study.folder / kind).rglob("*")
        if path.is_file()
    )
    assert predicted.disk == pytest.approx(written, rel=0.25)
    assert forecast(study, say=silent).experiments == 0


def test_what_is_there_is_not_counted(finished, tiny, tmp_path):
    more = tiny.model_copy(update={"grid": tiny.grid.model_copy(update={"repeats": 2})})
    study = Study(more, runs=finished.folder.parent)
    predicted = forecast(study, say=silent)
    assert predicted.experiments == len(finished.jobs)
    assert predicted.sources == 0
    assert predicted.phantom_seconds == predicted.source_seconds == 0


def test_lines_say_all_of_it():
    text = "\n".join(Forecast(560, 4, 60, 30, 400, 4000, 2, 3 * 2**30, 50 * 2**20, at_most=True).lines())
    for part in (
        "560 experiments, 4 source tasks, the phantom",
        "at most 38.2 min with 2 workers",
        "3.0 GiB",
        "50 MiB",
    ):
        assert part in text
