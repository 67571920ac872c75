"""metrics.csv: a resumed run takes up the rows of its checkpoint, and no others."""

import errno
import random

import pytest

from cl import versions
from cl.atomic import write_json
from cl.checksums import DamagedError
from cl.reporting import metrics_file
from cl.reporting.metrics_file import METRIC_COLUMNS, MetricsFile, changed_files
from cl.run.folder import found_finished


def row(step: int, **changes) -> dict:
    return dict(zip(METRIC_COLUMNS, (0, 0, step, step / 3, 0.1, 1e5, 0.0, 20))) | changes


def written(path, steps: int = 3, logged: int = 2) -> MetricsFile:
    """A file with rows, the first `logged` of them with numbers of the strategy."""
    file = MetricsFile(path)
    for step in range(1, steps + 1):
        file.append(row(step))
        file.append_logged(row(step), {"a": 0.5, "b": step} if step <= logged else {})
    return file


def test_a_resumed_run_takes_up_the_rows_of_its_checkpoint_and_repeats_the_others(tmp_path):
    path, logged = tmp_path / "metrics.csv", tmp_path / "strategy_metrics.csv"
    file = written(path)
    state, texts = file.state_dict(), (path.read_text(), logged.read_text())
    assert texts[0].splitlines() == [
        ",".join(METRIC_COLUMNS), "0,0,1,0.333333,0.1,100000,0,20", "0,0,2,0.666667,0.1,100000,0,20",
        "0,0,3,1,0.1,100000,0,20",
    ]  # fmt: skip
    assert logged.read_text().splitlines()[1:] == ["0,0,1,a,0.5", "0,0,1,b,1", "0,0,2,a,0.5", "0,0,2,b,2"]
    file.append(row(4))
    file.append_logged(row(4), {"a": 1.0})
    with open(path, "a") as torn:  # by a crash
        torn.write("0,0,5,1.6")
    again = MetricsFile(path, state)
    assert (path.read_text(), logged.read_text()) == texts and again.state_dict() == state
    for each in (file, again):  # one that goes on has the state of one that was not stopped
        each.__init__(path, state)
        each.append(row(4))
    assert file.state_dict() == again.state_dict() != state
    again = MetricsFile(path)
    assert path.read_text() == texts[0].splitlines(True)[0] and not logged.exists()
    assert again.state_dict().keys() == {"metrics.csv"}


@pytest.mark.parametrize("name", ["metrics.csv", "strategy_metrics.csv"])
def test_rows_that_were_changed_or_lost_are_one_line_and_removing_the_file_goes_on(name, tmp_path, capsys):
    path, draw = tmp_path / "metrics.csv", random.Random(0)
    state = written(path).state_dict()
    whole = (tmp_path / name).read_bytes()
    for _ in range(50):
        place = draw.randrange(len(whole))
        wrong = [whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], b"0" + whole]
        (tmp_path / name).write_bytes(draw.choice(wrong))
        with pytest.raises(DamagedError, match=f"{tmp_path / name} is damaged .its rows are not those .*or remove it"):
            MetricsFile(path, state)
    (tmp_path / name).unlink()
    MetricsFile(path, state)
    assert capsys.readouterr().err == f"{tmp_path / name} is missing: its rows begin where the run goes on\n"
    assert len((tmp_path / name).read_text().splitlines()) == 1


def test_changed_rows_of_a_finished_run_are_said_and_keep_nobody_from_its_results(tmp_path, capsys):
    path = tmp_path / "metrics.csv"
    state = written(path).state_dict()
    write_json(tmp_path / "results.json", {"kind": "run", "versions": versions.this(), "files": state})
    found_finished(tmp_path, {}, "")
    whole = path.read_bytes()
    assert changed_files(tmp_path, state) == [] and capsys.readouterr().err == ""
    windows = whole.replace(b"\n", b"\r\n")
    for wrong in (windows, whole[:-1], whole + whole.splitlines(True)[-1], whole.replace(b"0.666667", b"0.666668")):
        path.write_bytes(wrong)
        found_finished(tmp_path, {}, "")
        said = capsys.readouterr()
        assert said.err == f"{path}: its rows are not those that were written; results.json is whole\n"
        assert said.out.startswith(f"finished before: {tmp_path}") and path.read_bytes() == wrong
    path.unlink()
    found_finished(tmp_path, {}, "")  # its owner has removed it
    assert capsys.readouterr().err == ""


def test_a_full_disk_leaves_whole_rows_and_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    file = written(path)
    before = path.read_bytes()

    class Full:
        """A file on a disk with room for five bytes more."""

        def __init__(self, *arguments, **options):
            self.file = open(*arguments, **options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            if self.file.tell() > len(before):
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(content[:5])

    with monkeypatch.context() as patch:
        patch.setattr(metrics_file, "open", Full, raising=False)
        with pytest.raises(OSError, match="No space left") as error:
            file.append(row(4))
    assert error.value.filename == str(path) and path.read_bytes() == before
    file.append(row(4))
    MetricsFile(path, file.state_dict())
    assert path.read_text().splitlines()[-1].startswith("0,0,4,")
