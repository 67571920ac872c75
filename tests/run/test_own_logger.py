"""The example of a logger of one's own: as the documentation calls it, and in a run that was killed."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir
from support import QUICK, ROOT, command, run_killed

from cl.run import experiment

EXAMPLES = ROOT / "docs" / "examples"
SMALL = ("strategy=finetune", "scenario=class2", "steps=4", "log_interval=1", *QUICK)
OWN = ("logger=[csv,my_logger]", "logger.my_logger.every=2", "trust=[my_logger]")


def written(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_its_command_works_beside_other_loggers_and_in_a_sweep(tmp_path):
    words = ("--config-dir", "conf", *OWN, *SMALL, f"output={tmp_path}", "-m", "seed=0,1")
    done = command(*words, cwd=EXAMPLES)
    assert done.returncode == 0, done.stderr
    folders = sorted(tmp_path.glob("*/*/seed*"))
    assert len(folders) == 2
    for folder in folders:
        lines, results = written(folder), json.loads((folder / "results.json").read_text())
        rows = list(csv.DictReader((folder / "metrics.csv").open()))
        assert [line["step"] for line in lines if "step" in line] == [int(row["step"]) for row in rows[1::2]]
        losses = [line["train/loss"] for line in lines if "step" in line]
        assert losses == pytest.approx([float(row["loss"]) for row in rows[1::2]], rel=1e-5)
        tests = [line["accuracy/task_00"] for line in lines if "stage" in line]
        assert tests == [row[0] for row in results["accuracy_matrix"]]
        assert lines[-1] == {"average_accuracy": results["average_accuracy"]}


def test_without_trust_it_is_not_imported(tmp_path):
    done = command("--config-dir", "conf", *OWN[:2], *SMALL, f"output={tmp_path}", cwd=EXAMPLES)
    line = (
        "logger.my_logger._target_=my_logger.JsonLines is no component of remerge: if you trust the code of my_logger"
    )
    assert done.returncode == 1 and line in done.stderr


def test_a_killed_run_writes_what_an_uninterrupted_one_does(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)

    def config(output: str):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            own = f"hydra.searchpath=['{EXAMPLES / 'conf'}']"
            return compose("run", [own, f"output={tmp_path / output}", *OWN, *SMALL])

    whole = written(experiment.run(config("whole")))
    run_killed(config("killed"), stage=1)
    again = written(experiment.run(config("killed")))
    for line in (*whole, *again):
        line.pop("train/samples_per_second", None)
    assert again == whole and len(whole) == 4 + 2 + 1


def test_a_file_that_does_not_say_where_it_belongs_is_named(tmp_path):
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger" / "mine.yaml").write_text("_target_: mine.Mine\n")
    done = command("--config-dir", str(tmp_path), "logger=mine", *SMALL, f"output={tmp_path}", cwd=tmp_path)
    assert done.returncode == 1
    assert "the file conf/logger/NAME.yaml begins with the line `# @package logger.NAME`" in done.stderr
