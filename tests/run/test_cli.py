"""The commands as a user types them, each in a process of its own: flags anywhere, one clear line per mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest
from support import QUICK, ROOT, command

from cl.configuration.arguments import ordered
from cl.run.folder import check_writable


@pytest.mark.parametrize(
    "given, expected",
    [
        (["strategy=er", "-m", "seed=0,1"], ["strategy=er", "seed=0,1", "-m"]),
        (["-m", "seed=0,1"], ["seed=0,1", "-m"]),
        (["a=1", "--cfg", "job", "b=2"], ["a=1", "b=2", "--cfg", "job"]),
        (["--config-dir", "x", "+a=1", "--multirun"], ["+a=1", "--config-dir", "x", "--multirun"]),
        (["--config-dir=x", "~a"], ["~a", "--config-dir=x"]),
        (["--info", "a=1"], ["a=1", "--info"]),
        (["--info", "defaults", "a=1"], ["a=1", "--info", "defaults"]),
        ([], []),
    ],
)
def test_overrides_come_before_flags(given, expected):
    assert sum(ordered(given), []) == expected


def test_sweep_with_the_flag_in_the_middle_ends_with_the_table_and_is_quick_the_second_time(tmp_path):
    arguments = ("strategy=derpp", "scenario=class10", "-m", "seed=0,1,2", f"output={tmp_path / 'out'}", *QUICK)
    first = command(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("task 10/10") == 3
    table, _, below, command_of_report = first.stdout.strip().splitlines()[-4:]
    assert table.split()[:2] == ["derpp", "3"] and "±" in table
    (folder,) = {path.parents[1] for path in (tmp_path / "out").rglob("results.json")}
    assert len(list(folder.rglob("results.json"))) == 3
    assert below == f"3 runs below {folder}; for a report of what is there:"
    assert command_of_report == f"    python -m cl.report {folder}"
    again = command(*arguments)
    assert again.returncode == 0 and again.stdout.count("finished before") == 3
    assert again.stdout.strip().splitlines()[-4] == table


@pytest.mark.parametrize("given", ["--config-dir=own", "hydra.searchpath=[file://own]"])
def test_ranks_of_the_launcher_compose_the_same_configuration(tmp_path, given):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nepochs: 7\n")
    code = (
        "import sys; from hydra import main; from cl.run import cli\n"
        f"@main(config_path={str(ROOT / 'conf')!r}, config_name='run', version_base='1.3')\n"
        "def composed(config): print('epochs', config.epochs, *cli._words_of_ranks(), sep='\\n')\n"
        "cli.launch(composed, 'run')\n"
    )
    words = ["+experiment=mine", given, "launcher=torchrun", f"output={tmp_path / 'out'}"]
    for folder in (tmp_path, ROOT):  # as a rank on another host, wherever its process begins
        line = [sys.executable, "-c", code, *words]
        process = subprocess.run(
            line, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert process.stdout.split()[:2] == ["epochs", "7"], process.stderr
        words = [*process.stdout.split()[2:], "launcher=torchrun"]
        if given.startswith("hydra"):
            break  # as relative as the user has written it; ranks begin in the folder of the command
    assert any(word in words for word in (given, f"--config-dir={tmp_path / 'own'}"))


def test_output_that_is_no_longer_read_is_no_error():
    line = [sys.executable, str(ROOT / "run.py"), "--help"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # as `head` does
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_help_shows_the_groups_without_importing_torch(tmp_path):
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "run.py"), "--help"], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0
    for text in (
        "strategy: agem, bic, cls_er, der, derpp, er, ",
        "dataset: cifar10",
        "scenario: blurry5, class10",
        "-m seed=0,1,2",
    ):
        assert text in shown.stdout, text
    assert "| torch" not in shown.stderr and "| numpy" not in shown.stderr


def test_a_mistake_in_a_sweep_is_said_once(tmp_path):
    done = command("buffer.capacity=0", "-m", "seed=0,1,2", f"output={tmp_path / 'out'}")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_a_sweep_goes_on_after_a_job_that_failed_and_ends_with_status_1(tmp_path):
    done = command("strategy=finetune", "optimizer.lr=1e20,0.1", "-m", f"output={tmp_path / 'out'}", *QUICK)
    assert done.returncode == 1 and "diverged" in done.stderr
    assert done.stdout.strip().splitlines()[-3].startswith("finetune")
    assert len(list(tmp_path.rglob("results.json"))) == 1


def test_debug_shows_the_traceback(tmp_path):
    quiet, loud = (command("buffer.capacity=0", f"output={tmp_path}", f"debug={word}") for word in ("false", "true"))
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr and loud.returncode == 1


def test_a_corrupt_picture_is_named_and_nothing_is_left(tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "pictures" / part / label
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (40, 40), (i, 0, 0)).save(folder / f"{i}.png")
    bad = tmp_path / "pictures" / "train" / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    done = command(
        "dataset=image_folder", f"dataset.root={tmp_path / 'pictures'}", f"dataset.cache={tmp_path / 'cache'}",
        "scenario=class2", f"output={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"cannot decode the picture {bad}" in done.stderr
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("cache/*"))


def read_only_folder() -> Path | None:
    """A folder that even root cannot write to, if this machine has one."""
    for folder in ("/proc", "/sys"):
        try:
            check_writable(Path(folder) / "remerge")
        except OSError:
            return Path(folder)
    return None


def test_a_read_only_output_folder_is_one_clear_line_before_any_data_is_loaded(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere but there
        folder = read_only_folder()
        if folder is None:
            pytest.skip("no folder that root cannot write to: neither /proc nor /sys refuses; run the tests as a user")
    for extra in ([], ["-m", "seed=0,1"]):
        done = command(f"output={folder / 'out'}", *extra, *QUICK)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert str(folder) in done.stderr and "error: " in done.stderr


@pytest.mark.parametrize("megabytes, files", [(0.05, "at the first checkpoint"), (0.2, "later")])
def test_a_full_disk_is_one_clear_line_and_leaves_no_half_written_file(tmp_path, megabytes, files):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = int(megabytes * 2**20)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk ({mounted.stderr.decode().strip()}): needs root and mount")
    try:
        done = command("strategy=er", f"output={disk / 'out'}", "epochs=1", "progress=false")
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "No space left on device" in done.stderr
        assert not list(disk.rglob(".*.tmp"))
        assert bool(list(disk.rglob("results.json"))) is ("the results in" in done.stderr)  # then pictures lack space
        import torch

        for file in disk.rglob("results.json"):
            assert json.loads(file.read_text())["kind"] == "run"
        for file in disk.rglob("task_*.pt"):
            torch.load(file)  # whole
        for line in (text for file in disk.rglob("metrics.csv") for text in file.read_text().splitlines()):
            assert line.count(",") == 7
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_process_killed_in_mid_training_is_resumed_by_the_same_command(tmp_path):
    def arguments(output):
        return ["strategy=derpp", "epochs=5", f"output={tmp_path / output}", "progress=false", "pictures=[]"]

    process = forkserver.start([ROOT / "run.py", *arguments("killed")], cwd=ROOT)
    while "task  2/5" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.05)  # into the third task
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert list((tmp_path / "killed").rglob("resume_*.pt"))
    resumed, whole = command(*arguments("killed")), command(*arguments("whole"))
    assert resumed.returncode == whole.returncode == 0
    assert "task  1/5" not in resumed.stdout and "task  5/5" in resumed.stdout
    lines = [output.stdout.splitlines() for output in (resumed, whole)]
    assert [a for a in lines[0] if "task  5/5" in a] == [a for a in lines[1] if "task  5/5" in a]
