"""How far something is: lines in a log file, one line of a notebook."""

import time

from l3muscle.progress import one_after_another, progress_bar


def test_a_log_file_gets_whole_lines_with_rate_and_count(capsys):
    with progress_bar(3, "models", unit="model") as bar:
        bar.update(3)
    written = capsys.readouterr().err
    assert "\r" not in written
    assert "3/3" in written.splitlines()[-1] and "model" in written.splitlines()[-1]


def test_no_model_is_begun_that_would_not_be_done_in_time():
    begun = []
    for model in one_after_another(range(10), deadline=time.time() + 0.5):
        begun.append(model)
        time.sleep(0.2)
    assert begun in ([0], [0, 1])
    assert list(one_after_another(range(3), deadline=time.time() - 1)) == []
    assert list(one_after_another(range(3))) == [0, 1, 2]
