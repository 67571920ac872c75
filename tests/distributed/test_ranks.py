"""Runs with several real processes: the same numbers as one process, and a clear end when a rank dies."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest
import torch
from support import QUICK, ROOT

from cl.distributed import environments as launchers
from cl.distributed import reports

ENGINES = ["horovod", "torchrun"]


@pytest.fixture(params=ENGINES)
def engine(request) -> str:
    if request.param == "horovod" and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed: `make horovod` builds it")
    return request.param


def horovod_has_mpi() -> bool:
    if importlib.util.find_spec("horovod") is None:
        return False
    import horovod.torch as hvd

    return hvd.mpi_built()


def start(*overrides, env=None) -> forkserver.Process:
    """`python run.py OVERRIDES`; ranks that it launches are new interpreters."""
    return forkserver.start([ROOT / "run.py", *overrides], cwd=ROOT, env={**os.environ, **(env or {})})


def finish(process, timeout: float = 600) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def run(folder: Path, *overrides) -> dict:
    """The results of a run in its own folder, with the weights after its last task under `weights`."""
    status, out, err = finish(start(f"output={folder}", "progress=false", "pictures=[]", *overrides))
    assert status == 0, err
    return result(folder)


def run_launched(engine: str, ranks: int, folder: Path, *overrides) -> dict:
    """The same of several ranks that the command launches."""
    return run(folder, *overrides, f"launcher={engine}", f"launcher.np={ranks}")


def run_ranks(engine: str, ranks: int, folder: Path, *overrides) -> dict:
    """The same of several ranks that are forked with the environment that a launcher makes, and import nothing anew."""
    train_ranks(engine, ranks, f"output={folder}", "progress=false", "pictures=[]", *overrides)
    return result(folder)


def train_ranks(engine: str, ranks: int, *overrides, timeout: float = 600) -> None:
    """Run the command as ranks of an engine that another launcher has started, to its end."""
    with getattr(launchers, engine)(ranks) as extra:
        processes = [start(*overrides, env=env) for env in extra]
        try:
            ends = [finish(process, timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert [status for status, *_ in ends] == [0] * ranks, "\n".join(err for *_, err in ends)


def result(folder: Path) -> dict:
    (path,) = folder.rglob("results.json")
    content = json.loads(path.read_text())
    content["weights"] = torch.load(sorted(path.parent.glob("task_*.pt"))[-1])["model"]
    return content


def assert_same_weights(one: dict, other: dict, tolerance: float) -> None:
    for name, weights in one["weights"].items():
        assert torch.allclose(weights, other["weights"][name], rtol=0, atol=tolerance), name


SMALL = ("scenario=class2", "epochs=1", "backbone.hidden=[32]", "dataset.validation=0.64")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with batches of 20, for each strategy that is asked for, made once."""
    made = {}

    def get(strategy: str) -> dict:
        if strategy not in made:
            folder = tmp_path_factory.mktemp(strategy)
            made[strategy] = run(folder, *SMALL, f"strategy={strategy}", "batch_size=20")
        return made[strategy]

    return get


@pytest.mark.parametrize(
    "engine, strategy, ranks, train",
    [
        ("torchrun", "finetune", 2, run_launched), ("horovod", "joint", 2, run_ranks),
        ("horovod", "finetune", 4, run_ranks),
    ],
    indirect=["engine"],
)  # fmt: skip
def test_ranks_with_small_batches_equal_one_process_with_a_large_one(tmp_path, engine, alone, strategy, ranks, train):
    # steps of 20 samples, the last of an epoch ragged (261 samples of the first task: one for the first rank, none
    # for the others), on weights of about 0.1
    expected = alone(strategy)
    several = train(engine, ranks, tmp_path, *SMALL, f"strategy={strategy}", f"batch_size={20 // ranks}")
    assert several["world_size"] == ranks
    assert several["gradient_steps"] == expected["gradient_steps"] == (26 if strategy == "joint" else 27)
    assert several["labelled_samples"] == expected["labelled_samples"] == 519  # no sample twice, none left out
    assert several["untrained_accuracy"] == expected["untrained_accuracy"]  # same weights: equal to the last digit
    assert_same_weights(expected, several, 2e-6)


def test_options_of_the_step_compose_with_several_ranks(tmp_path):
    engine = "torchrun" if importlib.util.find_spec("horovod") is None else "horovod"
    options = (
        "strategy=finetune", "scenario=class2", "epochs=0.5", "gradient_accumulation_steps=2", "precision=bf16",
        "clip_norm=1.0",
        "optimizer=adam", "schedule=cosine", "schedule.warmup=0.2", "lr_scaling=sqrt",
        "backbone=resnet18_cifar", "batch_norm=average", "batch_size=32", "channels_last=true",
    )  # fmt: skip
    content = run_ranks(engine, 2, tmp_path, *options)
    assert content["world_size"] == 2
    assert all(torch.isfinite(weights).all() for weights in content["weights"].values())
    assert content["gradient_steps"] == 2 * 3  # 721 samples a task, 128 a step: half of 6 steps


@pytest.mark.parametrize(
    "strategy, options",
    [
        ("joint", ("batch_size=10", "reduce.fp16=true", "reduce.predivide=2.0")),
        # the limit is far above the norm, unless that is taken of the scaled gradient
        ("finetune", ("batch_size=5", "gradient_accumulation_steps=2", "precision=fp16", "clip_norm=100")),
    ],
)
def test_float16_stays_near_the_exact_weights(tmp_path, alone, strategy, options):
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed: `make horovod` builds it")
    exact = alone(strategy)
    half = run_ranks("horovod", 2, tmp_path, *SMALL, f"strategy={strategy}", *options)
    assert_same_weights(exact, half, 2e-2)
    with pytest.raises(AssertionError):  # float16 has three digits
        assert_same_weights(exact, half, 2e-6)


def test_compiled_networks_of_ranks_in_several_passes_equal_one_process(tmp_path, alone):
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed: `make horovod` builds it")
    if shutil.which(os.environ.get("CXX") or "g++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    options = ("strategy=finetune", "batch_size=5", "gradient_accumulation_steps=2", "compile=true")
    assert_same_weights(alone("finetune"), run_ranks("horovod", 2, tmp_path, *SMALL, *options), 5e-6)


@pytest.mark.parametrize("engine, command", [("horovod", "horovodrun -np 2 --gloo python"),
                                             ("torchrun", "python -m torch.distributed.run --nproc-per-node=2")],
                         indirect=["engine"])  # fmt: skip
def test_ranks_of_other_launchers_train(tmp_path, alone, engine, command):
    places = {"horovodrun": str(Path(sys.executable).with_name("horovodrun")), "python": sys.executable}
    options = ("strategy=finetune", *SMALL, "batch_size=10", f"output={tmp_path}", "progress=false", "pictures=[]")
    line = [*(places.get(word, word) for word in command.split()), str(ROOT / "run.py"), *options]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    several = result(tmp_path)
    assert several["world_size"] == 2
    assert_same_weights(alone("finetune"), several, 2e-6)


@pytest.mark.parametrize("operation", ["average", "adasum"])
def test_ranks_of_mpirun_train(tmp_path, alone, operation):
    if not horovod_has_mpi() or shutil.which("mpirun") is None:
        pytest.skip("Horovod is built without MPI (HOROVOD_WITH_MPI=1 make horovod), or there is no mpirun")
    options = ("strategy=finetune", *SMALL, "batch_size=10", f"reduce.operation={operation}", f"output={tmp_path}")
    # Open MPI's words for what a test machine may be: fewer cores than ranks, a container's root
    words = ("OVERSUBSCRIBE=1", "ALLOW_RUN_AS_ROOT=1", "ALLOW_RUN_AS_ROOT_CONFIRM=1")
    env = {**os.environ, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    env |= dict(f"OMPI_{word}".split("=") for word in words)
    line = ["mpirun", "-np", "2", sys.executable, str(ROOT / "run.py"), "progress=false", "pictures=[]", *options]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    several = result(tmp_path)
    assert several["world_size"] == 2
    assert_same_weights(alone("finetune"), several, 2e-6 if operation == "average" else 1.0)


def test_ranks_of_mpirun_that_would_each_train_alone_are_refused(tmp_path):
    if importlib.util.find_spec("horovod") is None or horovod_has_mpi():
        pytest.skip("this is about a Horovod without MPI")
    environment = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}  # what mpirun sets
    status, _, err = finish(start("strategy=finetune", f"output={tmp_path / 'out'}", *QUICK, env=environment))
    assert status == 1 and "2 ranks were started, but Horovod sees 1" in err and "HOROVOD_WITH_MPI=1" in err
    assert not (tmp_path / "out").exists()


def children(pid: int) -> list[int]:
    """Processes that a process has started, on Linux."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("the children of a process are read from /proc, which this system does not have")
    return [int(child) for child in path.read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def training_ranks(process: subprocess.Popen) -> list[int]:
    """The ranks of a run that has finished its first task and is in the middle of the second."""
    while "task  1/" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.5)
    return children(process.pid)


def assert_all_end(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, "a rank outlived its run"
        time.sleep(0.1)


LONG = ("strategy=finetune", "scenario=class2", "epochs=[1,3000]", "progress=false", "pictures=[]")


@pytest.mark.parametrize("victim", [1])
def test_a_killed_rank_ends_the_run_with_its_name_and_leaves_no_process(tmp_path, engine, victim):
    process = start(f"output={tmp_path}", *LONG, f"launcher={engine}", "launcher.np=2")
    pids = training_ranks(process)
    assert len(pids) == 2
    os.kill(pids[victim], signal.SIGKILL)
    started = time.monotonic()
    status, _, err = finish(process, timeout=60)
    assert time.monotonic() - started < 60 and status == reports.LOST
    assert f"rank {victim} of 2 was killed by SIGKILL" in err
    assert re.search(rf"rank {1 - victim}: error: rank {victim} \(host \S+, process {pids[victim]}\) is gone", err), err
    assert_all_end(pids, 5)


def test_ending_the_command_ends_all_ranks(tmp_path, engine):
    # Ctrl-C, and the hard way, in which the command itself can do nothing any more
    how = signal.SIGINT if engine == "horovod" else signal.SIGKILL
    process = start(f"output={tmp_path}", *LONG, f"launcher={engine}", "launcher.np=2")
    pids = training_ranks(process)
    process.send_signal(how)
    finish(process, timeout=30)
    assert_all_end(pids, 30)


@pytest.mark.parametrize(
    "engine, overrides, message",
    [
        ("horovod", ["strategy=er", "buffer=reference"], "serves one process, but there are 2 ranks"),
        ("horovod", ["launcher.np=0"], "launcher.np must be a whole number of at least 1"),
        ("horovod", ["reduce.operation=adasum"], "reduce.operation=adasum"),  # Gloo does not have it,
        ("torchrun", ["reduce.operation=adasum"], "reduce.operation=adasum"),  # nor has torch.distributed
    ],
    indirect=["engine"],
)
def test_a_mistake_is_said_once_for_all_ranks(tmp_path, engine, overrides, message):
    options = ("strategy=finetune", f"launcher={engine}", "launcher.np=2", f"output={tmp_path / 'out'}", *QUICK)
    status, _, err = finish(start(*options, *overrides))
    assert status == 1 and err.count(message) == 1, err
    assert not (tmp_path / "out").exists()


def test_ranks_without_horovod_name_the_make_target(tmp_path):
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").write_text("raise ImportError('not here')\n")
    # A new interpreter, which reads PYTHONPATH.
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "strategy=finetune", "launcher=horovod", f"output={tmp_path / 'out'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1 and "make horovod" in done.stderr and "Traceback" not in done.stderr
