"""Ranks of srun, from the variables that SLURM sets; and which sets of variables are one process."""

import os
import socket

import pytest
from support import command

from cl.distributed import ranks, slurm

JOB = {
    "SLURM_JOB_ID": "4711", "SLURM_JOBID": "4711", "SLURM_JOB_NODELIST": "node[01-02]", "SLURM_NNODES": "2",
    "SLURM_TASKS_PER_NODE": "4(x2)", "SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_JOB_NUM_NODES": "2",
}  # fmt: skip
# slurmd sets these in the first task of any kind, so in a batch script too
TASK = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_TASK_PID": "99", "SLURM_GTIDS": "0"}
STEP = {
    "SLURM_STEP_ID": "0", "SLURM_STEPID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}  # fmt: skip
SIXTH = JOB | STEP | {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
ONE = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_STEP_NODELIST": "node01"}


@pytest.fixture
def environ():
    """Set the environment to these variables of launchers and no others; it is as before after the test."""
    before = dict(os.environ)

    def put(words: dict) -> None:
        for name in (*ranks.FOREIGN, *JOB, *TASK, *STEP, "GLOO_SOCKET_IFNAME"):
            os.environ.pop(name, None)
        os.environ.update(words)

    yield put
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    "words, expected",
    [
        ({}, None),
        (JOB, None),  # a shell of salloc on the login node
        (JOB | TASK, None),  # a batch script
        (JOB | TASK | STEP | {"SLURM_STEP_ID": str(0xFFFFFFFB), "SLURM_STEPID": str(0xFFFFFFFB)}, None),  # the same
        (JOB | TASK | STEP | {"SLURM_STEP_ID": str(0xFFFFFFFA)}, None),  # salloc's shell on the first node
        (JOB | TASK | STEP | ONE, None),  # srun -n 1 --pty bash, and a task of submitit
        (SIXTH, ("torch", 5, 8)),
        ({key: value for key, value in SIXTH.items() if key != "SLURM_STEP_ID"}, ("torch", 5, 8)),  # the older name
        (SIXTH | {"SLURM_STEP_NUM_TASKS": "6"}, ("torch", 5, 6)),  # a step smaller than the job
        (SIXTH | {"RANK": "3", "WORLD_SIZE": "4"}, ("torch", 3, 4)),  # torchrun, started by srun
        (SIXTH | {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, ("horovod", 2, 4)),  # mpirun in a job
        (SIXTH | {"PMI_RANK": "5", "PMI_SIZE": "8"}, ("torch", 5, 8)),  # srun --mpi=pmi2
        (JOB | TASK | STEP | ONE | {"PMI_RANK": "0", "PMI_SIZE": "1"}, None),  # the same with one task
        (JOB | TASK | STEP | ONE | {"PMI_RANK": "0", "PMI_SIZE": "2"}, ("horovod", 0, 2)),  # mpirun in it
        (SIXTH | {"PMI_RANK": "1", "PMI_SIZE": "16"}, ("horovod", 1, 16)),  # an mpirun that uses srun
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, ("horovod", 1, 2)),
        ({"PMI_RANK": "1"}, None),
    ],
)
def test_which_variables_make_a_rank(environ, words, expected):
    environ(words)
    assert ranks.started() == expected


@pytest.mark.parametrize(
    "words, message",
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK"),
        ({"RANK": "0"}, "RANK=0 without WORLD_SIZE"),
        ({"HOROVOD_SIZE": "2"}, "HOROVOD_SIZE=2 without HOROVOD_RANK"),
        (
            {"RANK": "2", "WORLD_SIZE": "2"},
            "RANK=2 and WORLD_SIZE=2, expected whole numbers with RANK below",
        ),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE=,"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1"),
        (SIXTH | {"SLURM_PROCID": "8"}, "SLURM_PROCID=8 and SLURM_STEP_NUM_TASKS=8"),
        (SIXTH | {"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS=many, expected a whole number"),
    ],
)
def test_variables_that_contradict_one_another_are_one_line(environ, words, message):
    environ(words)
    with pytest.raises(ValueError) as caught:
        ranks.started()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_rank_of_srun_gets_the_variables_of_torch(environ, monkeypatch):
    monkeypatch.setattr(slurm.network, "address_of", {"node01": "192.0.2.1", "node02": "192.0.2.2"}.__getitem__)
    monkeypatch.setattr(slurm.network, "interface_towards", lambda address: f"towards {address}")
    environ(SIXTH)
    ranks.prepare()
    expected = {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node01",
        "GLOO_SOCKET_IFNAME": "towards 192.0.2.1",
    }  # fmt: skip
    assert expected.items() <= os.environ.items()
    port = int(os.environ["MASTER_PORT"])
    assert port == 15000 + 4711 * 31 % 17000 and port < 32768
    environ(SIXTH | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_STEP_ID": "3"})
    ranks.prepare()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "towards 192.0.2.2"  # the first node looks at the second
    assert int(os.environ["MASTER_PORT"]) == port + 3  # two steps of a job do not meet


def test_a_step_on_one_node_stays_on_loopback(environ, monkeypatch):
    one = {"SLURM_STEP_NODELIST": "node07", "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_NODEID": "0", "SLURM_LOCALID": "5"}
    found = slurm.environment(SIXTH | one)
    assert found["MASTER_ADDR"] == "127.0.0.1" and found["LOCAL_WORLD_SIZE"] == "8"
    assert found["GLOO_SOCKET_IFNAME"].startswith("lo")


def test_a_node_without_a_way_is_one_line(environ, monkeypatch):
    def unknown(name):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(slurm.network, "address_of", unknown)
    with pytest.raises(ValueError, match="no way to the node node01 .*set GLOO_SOCKET_IFNAME"):
        slurm.environment(SIXTH)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("node[01-03,7],b", ["node01", "node02", "node03", "node7", "b"]),
        ("a", ["a"]),
        ("a,b-1,c.d", ["a", "b-1", "c.d"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
        ("gpu[1-2]-ib,x[3]", ["gpu1-ib", "gpu2-ib", "x3"]),
        ("", []),
    ],
)
def test_lists_of_nodes(text, expected):
    assert slurm.node_names(text) == expected


def test_lists_of_counts_and_texts_that_are_no_lists():
    assert slurm.tasks_per_node("4(x2),3") == [4, 4, 3] and slurm.tasks_per_node("1") == [1]
    for text in ("node[a-b]", "node[1-2", "node1]", "node[]"):
        with pytest.raises(ValueError, match="cannot read the list of nodes"):
            slurm.node_names(text)
    with pytest.raises(ValueError, match="cannot read SLURM_STEP_TASKS_PER_NODE"):
        slurm.tasks_per_node("4x2")


def test_merging_as_several_ranks_is_refused_and_not_done_several_times(tmp_path):
    done = command(f"output={tmp_path / 'out'}", script="merge.py", env={**os.environ, **SIXTH})
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert done.stderr.startswith("rank 5: error: 8 ranks were started, but merging runs in one process")
    assert done.stderr.count("\n") == 1
