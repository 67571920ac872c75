"""What wandb and TensorBoard hold of a run that died within a task and was resumed, read back from their files.

Expected is what metrics.csv and results.json say; and of TensorBoard what a run holds that was not interrupted.
"""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import wandb_files
from hydra import compose, initialize_config_dir
from interrupted import interrupted
from omegaconf import OmegaConf
from support import QUICK, ROOT

from cl.reporting import report
from cl.reporting.loggers.tensorboard import files

WORDS = ("strategy=er", "scenario=class2", "log_interval=2", "steps=7", "buffer.capacity=20", *QUICK, "pictures=[png]")
PICTURES = ("accuracy_matrix.png", "average_accuracy.png")
CLOCK = ("seconds", "per_second", "memory_bytes")  # in names of what differs from run to run


def config(output: Path, *words: str) -> dict:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("run", [f"output={output}", *WORDS, *words]))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    words = ("logger=[csv,wandb,tensorboard]", "logger.wandb.mode=offline", "logger.wandb.artifacts=checkpoints")
    return interrupted(config(tmp_path_factory.mktemp("resumed"), *words, "logger.wandb.tags=[tried]"))


@pytest.fixture(scope="module")
def parts(resumed):
    return wandb_files.offline(resumed)


@pytest.fixture(scope="module")
def rows(resumed) -> list[dict]:
    return [
        {name: float(value) for name, value in row.items()} for row in csv.DictReader((resumed / "metrics.csv").open())
    ]


@pytest.fixture(scope="module")
def results(resumed) -> dict:
    return json.loads((resumed / "results.json").read_text())


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = events(folder / "tensorboard")
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_wandb_has_one_run_in_two_parts_with_what_it_is(resumed, parts, results):
    assert len(parts) == 2 and len({part.run.run_id for part in parts}) == 1
    for part in parts:
        run = part.run
        assert (run.job_type, run.run_group, run.project) == ("run", resumed.parent.name, "remerge")
        assert run.display_name == f"{resumed.parent.name}/seed0" and list(run.tags) == ["tried"]
        told = {entry.key or entry.nested_key[0]: json.loads(entry.value_json) for entry in run.config.update}
        assert told["strategy"] == results["config"]["strategy"] and told["steps"] == 7
    # The first was not ended: its process died. The error closed it here.
    assert [part.status for part in parts] == [1, 0]


def test_wandb_has_each_row_against_the_step_and_each_test_against_the_stage(parts, rows, results):
    axes = parts[-1].axes
    assert axes["train/*"] == axes["strategy/*"] == "train/step" and axes["accuracy/*"] == "test/stage"
    # Steps of wandb that both parts have hold the same: the second repeats what came after the checkpoint.
    steps = {row["_step"]: row for part in parts for row in part.rows if "train/loss" in row}
    merged = [(row["train/step"], row["train/loss"], row["train/learning_rate"]) for _, row in sorted(steps.items())]
    assert merged == [
        (row["step"], pytest.approx(row["loss"], rel=1e-5), pytest.approx(row["learning_rate"], rel=1e-5))
        for row in rows
    ]
    tests = {row["test/stage"]: row for part in parts for row in part.rows if "test/stage" in row}
    matrix, aware = results["accuracy_matrix"], results["task_accuracy_matrix"]
    assert sorted(tests) == list(range(len(matrix)))
    for stage, row in tests.items():
        assert [row["accuracy/task_00"], row["accuracy/task_01"]] == matrix[stage]
        assert [row["task_aware_accuracy/task_00"], row["task_aware_accuracy/task_01"]] == aware[stage]
        assert row["accuracy/so_far"] == pytest.approx(results["accuracy_so_far"][stage])


def test_wandb_has_the_matrix_as_table_and_picture_all_measures_and_the_networks(resumed, parts, results):
    last = parts[-1]
    for name in ("average_accuracy", "forgetting", "passes", "flops", "persistent_bytes"):
        assert last.summary[name] == pytest.approx(results[name]), name
    (place,) = resumed.glob("wandb/offline-run-*/files/media/table/accuracy_matrix_*.json")
    table = json.loads(place.read_text())
    assert table["columns"] == ["stage", "task_00", "task_01"]
    assert table["data"] == [[stage, *row] for stage, row in enumerate(results["accuracy_matrix"])]
    (place,) = resumed.glob("wandb/offline-run-*/files/media/images/pictures/accuracy_matrix_*.png")
    assert place.read_bytes() == (resumed / "accuracy_matrix.png").read_bytes()
    (networks,) = [artifact for artifact in last.artifacts if artifact.type == "networks"]
    kept = {entry.path for entry in networks.manifest.contents}
    assert kept == {"task_00.pt", "task_01.pt", "results.json", "metrics.csv", "config.yaml", *PICTURES}


def test_tensorboard_has_of_a_resumed_run_what_an_uninterrupted_one_has(resumed, rows, results, tmp_path):
    from cl.run import experiment

    whole = experiment.run(OmegaConf.create(config(tmp_path, "logger=tensorboard", "checkpoint.every=3")))
    found, expected = scalars(resumed), scalars(whole)
    assert found.keys() == expected.keys()
    for tag in found:
        if not any(word in tag for word in CLOCK):
            assert [step for step, _ in found[tag]] == [step for step, _ in expected[tag]], tag
            values = [value for _, value in expected[tag]]  # of a resumed run those of metrics.csv, with six digits
            assert [value for _, value in found[tag]] == pytest.approx(values, rel=1e-5), tag
    assert [step for step, _ in found["train/loss"]] == [row["step"] for row in rows]
    assert [value for _, value in expected["train/loss"]] == pytest.approx([row["loss"] for row in rows], rel=1e-5)
    assert expected["accuracy/so_far"] == [
        (stage, pytest.approx(value)) for stage, value in enumerate(results["accuracy_so_far"])
    ]
    assert expected["final/average_accuracy"] == [(0, pytest.approx(results["average_accuracy"]))]
    assert len(files(resumed)) == 1


def test_the_documentation_names_all_that_is_logged(resumed):
    page = (ROOT / "docs" / "loggers.md").read_text()
    tags = {re.sub(r"task_\d+$", "task_00", tag) for tag in scalars(resumed) if not tag.startswith("final/")}
    assert {"train/loss", "accuracy/so_far", "task_aware_accuracy/task_00"} < tags
    assert [tag for tag in sorted(tags) if f"`{tag}`" not in page] == []


def test_tensorboard_has_pictures_tables_and_hyperparameters(resumed, results):
    from tensorboard.plugins.hparams import metadata

    found = events(resumed / "tensorboard")
    (picture,) = found.Images("pictures/accuracy_matrix")
    assert picture.encoded_image_string == (resumed / "accuracy_matrix.png").read_bytes()
    assert (picture.width, picture.height) > (100, 100)
    (table,) = found.Tensors("accuracy_matrix/text_summary")
    first = results["accuracy_matrix"][0]
    assert f"| 0 | {first[0]:.4f} | {first[1]:.4f} |" in table.tensor_proto.string_val[0].decode()
    told = {
        tag: found.SummaryMetadata(tag).plugin_data.content for tag in found.Tags()["tensors"] if "_hparams_" in tag
    }
    begin = metadata.parse_session_start_info_plugin_data(told[metadata.SESSION_START_INFO_TAG])
    assert begin.group_name == resumed.parent.name and begin.hparams["strategy"].string_value == "er"
    assert begin.hparams["steps"].number_value == 7 and begin.hparams["seed"].number_value == 0
    experiment = metadata.parse_experiment_plugin_data(told[metadata.EXPERIMENT_TAG])
    assert "final/average_accuracy" in {each.name.tag for each in experiment.metric_infos}
    assert metadata.SESSION_END_INFO_TAG in told


def sent(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["cl.report", *words])
    capsys.readouterr()
    report.main()
    return capsys.readouterr().out


def test_a_finished_run_can_be_sent_later_and_twice_is_once(resumed, parts, results, tmp_path, monkeypatch, capsys):
    """To the project that has it already nothing is sent; to another what was told in training."""
    before = scalars(resumed)
    words = (str(resumed), "--output", str(tmp_path), "--wandb")
    assert "wandb: 0 sent, 1 had been sent before" in sent(monkeypatch, capsys, *words)
    words = (*words, "--wandb-project", "other", "--tensorboard")
    told = sent(monkeypatch, capsys, *words)
    assert "wandb: 1 sent\n" in told and "tensorboard: 1 sent" in told
    assert "wandb: 0 sent, 1 had been sent before" in sent(monkeypatch, capsys, *words)
    (other,) = [part for part in wandb_files.offline(resumed) if part.run.project == "other"]
    assert other.run.run_id != parts[0].run.run_id and other.status == 0
    assert other.summary["average_accuracy"] == pytest.approx(results["average_accuracy"])
    steps = {row["_step"]: row for part in parts for row in part.rows if "train/loss" in row}
    assert other.series("train/loss", "train/step") == [
        (row["train/step"], pytest.approx(row["train/loss"], rel=1e-5)) for _, row in sorted(steps.items())
    ]
    assert len(other.series("accuracy/so_far", "test/stage")) == 2
    after = scalars(resumed)
    assert after == before and len(files(resumed)) == 1


def test_sending_needs_no_torch_and_tensorboard_no_tensorflow(resumed, tmp_path):
    """Where tensorflow is installed its import takes seconds."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemError('tensorflow is imported')")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules['torch'] = None; "
        f"sys.argv = ['report', {str(resumed)!r}, '--output', {str(tmp_path)!r}, '--tensorboard']; "
        "from cl.reporting.report import main; main(); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["tensorboard: 1 sent", "False"]


def test_without_the_package_it_is_named_with_its_command(monkeypatch, capsys, resumed):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["cl.report", str(resumed), "--tensorboard"])
    with pytest.raises(SystemExit, match="needs the package tensorboard: pip install 'remerge.tensorboard.'"):
        report.main()


def test_an_overwritten_run_begins_anew(tmp_path):
    from cl.run import experiment

    folder = experiment.run(OmegaConf.create(config(tmp_path, "logger=tensorboard")))
    mine = folder / "tensorboard" / "events.out.tfevents.000000.mine"
    mine.write_bytes(b"")
    before = scalars(folder)["train/loss"]
    experiment.run(OmegaConf.create(config(tmp_path, "logger=tensorboard", "overwrite=true", "log_interval=7")))
    after = scalars(folder)["train/loss"]
    assert [step for step, _ in after] == [7, 14] and len(before) > 2 and mine.exists() and len(files(folder)) == 1


def test_the_agent_of_a_sweep_hears_of_a_run_that_was_finished_before(resumed, parts, rows, results, monkeypatch):
    from cl.run.job import run_or_find

    words = ("logger=[csv,wandb,tensorboard]", "logger.wandb.mode=offline", "checkpoint.every=3")
    asked = OmegaConf.create(config(resumed.parents[2], *words))
    before = set(resumed.glob("wandb/offline-run-*"))
    assert run_or_find(asked, []) == resumed and set(resumed.glob("wandb/offline-run-*")) == before
    monkeypatch.setenv("WANDB_SWEEP_ID", "a_sweep")
    assert run_or_find(asked, []) == resumed
    (place,) = set(resumed.glob("wandb/offline-run-*")) - before
    told = wandb_files.read(place)
    assert told.run.run_id != parts[0].run.run_id and told.status == 0
    assert [step for step, _ in told.series("train/loss", "train/step")] == [row["step"] for row in rows]
    assert told.summary["average_accuracy"] == pytest.approx(results["average_accuracy"])
    monkeypatch.delenv("WANDB_SWEEP_ID")
    record = json.loads((resumed / "wandb" / "remerge.json").read_text())["runs"]["/remerge"]
    assert record["id"] == parts[0].run.run_id
