"""Training again what is stored: the same, different or not stored, and never touched."""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from l3muscle import cli
from l3muscle.store import sealed
from l3muscle.verify import (
    Comparison,
    VerifyError,
    comparison_table,
    largest_differences,
    reasons_for_difference,
    verdict_of,
    verifier,
    verify,
)


def quiet(line: str) -> None:
    pass


def state(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def copied(finished, runs, tmp_path) -> Path:
    """The finished run, to be spoilt."""
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def raise_scores(runs: Path, by: float) -> None:
    """Change every stored Dice, as another machine might have: with checksums that hold."""
    for path in (runs / "smoke" / "experiments").glob("*/scores.parquet"):
        table = pd.read_parquet(path)
        table["dice"] += by
        table.to_parquet(path, index=False)
        record = json.loads(path.with_name("record.json").read_text())
        record["sha256"]["scores.parquet"] = hashlib.sha256(path.read_bytes()).hexdigest()
        record["provenance"]["processor"] = "Another Processor"
        path.with_name("record.json").write_text(json.dumps(sealed(f"experiments/{path.parent.name}", record)))


def test_a_run_is_the_same_on_the_machine_that_made_it_and_stays_untouched(finished, runs):
    before = state(runs)
    found = verify("smoke", runs, sample=2, seed=1, say=quiet)
    assert [one.verdict for one in found] == ["same", "same"]
    assert verdict_of(found).startswith("same: every score of 2 models")
    assert not any(any(one.largest.values()) for one in found) and set(found[0].largest) >= {"dice", "rms_dta_cm"}
    assert state(runs) == before
    assert list(comparison_table(found)["verdict"]) == ["same", "same"]


def test_the_sample_follows_its_seed(finished, runs):
    with verifier("smoke", runs, say=quiet) as beside:
        assert len(beside.finished()) == 8

    def chosen(seed: int) -> list:
        return [one.experiment for one in verify("smoke", runs, sample=1, seed=seed, say=quiet)]

    assert chosen(3) == chosen(3) and len({chosen(seed)[0] for seed in range(4)}) > 1


def test_a_difference_is_measured_and_explained(copied):
    raise_scores(copied, 0.25)
    found = verify("smoke", copied, sample=1, say=quiet)
    assert found[0].verdict == "differs" and found[0].largest["dice"] == pytest.approx(0.25)
    assert "another processor: Another Processor" in str(found[0]) and "dice 0.25" in verdict_of(found)


def test_the_command_says_same_or_not_by_its_exit_status(copied, capsys, monkeypatch):
    def status(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["l3muscle", "verify", "--profile", "smoke", "--runs", str(copied), *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0

    assert status("--sample", "1") == 0 and "same: every score" in capsys.readouterr().out
    raise_scores(copied, -1e-12)
    assert status("--sample", "1") == 1 and "differs: 1 of 1 model" in capsys.readouterr().out
    shutil.rmtree(copied / "smoke" / "experiments")
    assert status() == 2 and "nothing to verify" in capsys.readouterr().err


def test_a_damaged_result_is_not_stored_and_not_moved_aside(copied):
    for path in (copied / "smoke" / "experiments").glob("*/scores.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    before = state(copied)
    [found] = verify("smoke", copied, sample=1, say=quiet)
    assert found.verdict == "not stored" and "damaged" in str(found)
    assert state(copied) == before


def test_a_source_task_that_is_not_stored_is_learned_anew(copied):
    shutil.rmtree(copied / "smoke" / "sources")
    with verifier("smoke", copied, say=quiet) as beside:
        [experiment] = beside.choose("segmentation", 2, fold=0)
        assert beside.compare(experiment).verdict == "same"  # the same source task, from the same seed
    assert not (copied / "smoke" / "sources").exists()


def test_without_a_run_the_cell_is_trained_and_said_to_be_new(tiny, tmp_path):
    path = tmp_path / "own.yml"
    path.write_text(yaml.safe_dump({**tiny.model_dump(mode="json"), "name": "own"}))
    said = []
    with verifier(str(path), tmp_path / "runs", say=said.append) as beside:
        assert beside.finished() == []
        comparison = beside.compare(beside.choose("random", 2, fold=1)[0])
    assert comparison.verdict == "not stored" and len(comparison.scores) == 4
    assert "no study has been started" in said[0] and "phantom" in said[1]
    assert verdict_of([comparison]).startswith("not stored: 1 model trained, nothing to compare with")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(VerifyError, match="nothing to verify"):
        verify(str(path), tmp_path / "runs", say=quiet)


def test_a_cell_that_the_grid_has_not_is_refused(finished, runs):
    with verifier("smoke", runs, say=quiet) as beside:
        with pytest.raises(VerifyError, match="has no n_train 3; it has 2, 4"):
            beside.choose("random", 3)
        with pytest.raises(VerifyError, match="has no source_task 'jigsaw'; it has random, segmentation"):
            beside.choose("jigsaw", 2)
        with pytest.raises(VerifyError, match="has no fold 7; it has 0, 1"):
            beside.choose("random", 2, fold=7)
        assert len(beside.choose("random", 2)) == 2


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame({"patient_id": ["a", "b"], "fold": [0, 0], **columns})


def test_differences_are_of_the_last_bit_and_of_what_is_undefined():
    nan = float("nan")
    stored = table(dice=[0.5, 0.25], dta=[nan, 1.0], gone=[1.0, nan], why=["", "empty"])
    fresh = table(dice=[0.5, 0.25 + 2**-54], dta=[nan, 1.0], gone=[1.0, 2.0], why=["", "empty"])
    expected = {"dice": 2**-54, "dta": 0.0, "gone": float("inf"), "why": 0.0}
    assert largest_differences(stored, fresh) == expected
    shuffled = fresh.iloc[::-1].reset_index(drop=True)
    assert largest_differences(stored, shuffled) == expected
    assert largest_differences(stored.drop(columns="dta"), fresh)["dta"] == float("inf")
    assert largest_differences(stored, fresh.assign(why=["", ""]))["why"] == float("inf")
    with pytest.raises(VerifyError, match="other test images"):
        largest_differences(stored, fresh.assign(patient_id=["a", "c"]))


def test_reasons_name_what_is_not_as_it_was():
    here = {"processor": "A", "commit": "c" * 40, "versions": {"torch": "2"}, "uncommitted_changes": False}
    before = {"provenance": here, "threads": 1}
    assert reasons_for_difference(before, before) == []
    now = {"provenance": {**here, "processor": "B", "versions": {"torch": "3"}}, "threads": 2}
    assert reasons_for_difference(before, now) == [
        "another processor: A, here B",
        "another thread count: 1, here 2",
        "another torch: 2, here 3",
    ]


def test_one_cell_missing_among_others_is_counted(finished, runs):
    [found] = verify("smoke", runs, sample=1, say=quiet)
    missing = Comparison(found.experiment, "not stored", {}, ("not finished",), found.scores, 1.0)
    assert verdict_of([found, missing]).endswith("; 1 have no stored result")


def test_the_notebook_trains_one_experiment_again_and_prints_same(finished, runs, tmp_path):
    template = Path(__file__).resolve().parents[2] / "notebooks" / "experiment.ipynb"
    chosen = {"profile": "smoke", "runs": str(runs), "source_task": "segmentation", "n_train": 2, "fold": 1}
    executed = papermill.execute_notebook(str(template), str(tmp_path / "out.ipynb"), chosen, progress_bar=False)
    printed = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert "segmentation n=2 fold 1 subset 0 repeat 0: same" in printed and "same: every score of 1 model" in printed
    with pytest.raises(PapermillExecutionError, match="source_task = 'segmentatoin': should be 'random'"):
        papermill.execute_notebook(
            str(template), str(tmp_path / "out.ipynb"), {**chosen, "source_task": "segmentatoin"}, progress_bar=False
        )
