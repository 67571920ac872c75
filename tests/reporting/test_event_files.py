"""Event files of TensorBoard while a run is under way, and what makes no file of ours."""

import csv
import struct

import pytest
from support import QUICK, run_killed

from cl.reporting.loggers.tensorboard import Events, TensorBoardLogger, files
from cl.run import experiment


def losses(folder) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return [(each.step, each.value) for each in found.Scalars("train/loss")]


def test_of_a_run_that_was_killed_and_goes_on_no_point_is_shown_twice(tmp_path):
    for begin, end in ((1, 7), (4, 9), (6, 12)):  # each goes on from a checkpoint that is older than its end
        logger = TensorBoardLogger()
        logger.start(tmp_path, {}, "run")
        for step in range(begin, end):
            logger.log_training(step, {"train/loss": float(step)})
    assert losses(tmp_path) == [(step, float(step)) for step in range(1, 12)] and len(files(tmp_path)) == 3


def test_a_torn_end_of_a_killed_run_hides_nothing_that_comes_after(tmp_path):
    logger = TensorBoardLogger()
    logger.start(tmp_path, {}, "run")
    for step in (1, 2, 3):
        logger.log_training(step, {"train/loss": float(step)})
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    logger = TensorBoardLogger()
    logger.start(tmp_path, {}, "run")
    logger.log_training(3, {"train/loss": 3.0})
    assert losses(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_run_that_was_begun_without_it_has_all_rows_in_the_end(tmp_path, compose_config):
    words = ("strategy=er", "scenario=class2", *QUICK, "log_interval=5")
    run_killed(compose_config(*words), stage=1)
    folder = experiment.run(compose_config(*words, "logger=tensorboard"))
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [(int(row["step"]), pytest.approx(float(row["loss"]), rel=1e-6)) for row in csv.DictReader(file)]
    assert losses(folder) == rows and len(rows) > 20


def test_records_are_those_of_tensorboards_own_writer(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = Events(tmp_path, [])
    events.scalars(7, {"a": 0.5})
    events.close()
    content = events.path.read_bytes()
    parts, place = [], 0
    while place < len(content):
        (length,) = struct.unpack("<Q", content[place : place + 8])
        parts.append(content[place + 12 : place + 12 + length])
        place += length + 16
    with (tmp_path / "theirs").open("wb") as file:
        for part in parts:
            RecordWriter(file).write(part)
    assert (tmp_path / "theirs").read_bytes() == content
    assert Event.FromString(parts[0]).file_version == "brain.Event:2" and Event.FromString(parts[1]).step == 7


def test_files_of_other_names_are_no_files_of_ours(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1795695640.host.12.0").touch()
    assert files(tmp_path) == []
