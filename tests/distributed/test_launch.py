"""Launchers: how ranks are started, told to stop, followed to their ends, and tried again; with ranks without torch."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from launching import OPTIONS, SCRIPT, all_gone, failure, forget, gone, notes, send_later, wait_for_ranks

from cl.distributed import launch, ranks, reports, watch
from cl.distributed.failures import Ending, merged, numbers
from cl.run import cli, mistakes
from cl.signals import Stopped

# ---- What ranks find ---------------------------------------------------------------------------------------------


def test_ranks_here_get_their_numbers_a_token_and_loopback_and_nothing_of_other_launchers(start, tmp_path, monkeypatch):
    for name in ("SLURM_PROCID", "SLURM_STEP_ID", "MASTER_ADDR", "LOCAL_RANK", "PMI_RANK"):
        monkeypatch.setenv(name, "7")
    start()
    found = notes(tmp_path)
    assert found.keys() == {"0_0", "1_0"}
    for rank in (0, 1):
        environment = found[f"{rank}_0"]["environment"]
        assert (environment["RANK"], environment["LOCAL_RANK"], environment["WORLD_SIZE"]) == (
            str(rank),
            str(rank),
            "2",
        )
        names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HOROVOD_GLOO_IFACE", "UCX_NET_DEVICES")
        assert {environment[name] for name in names} == {"lo0" if sys.platform == "darwin" else "lo"}
        assert not {"SLURM_PROCID", "SLURM_STEP_ID", "MASTER_ADDR", "PMI_RANK"} & environment.keys()
    tokens = {note["environment"][ranks.TOKEN] for note in found.values()}
    assert len(tokens) == 1 and len(bytes.fromhex(*tokens)) == 16


def test_every_start_has_a_token_of_its_own_and_the_users_network_of_ucx(start, tmp_path, monkeypatch):
    monkeypatch.setenv("UCX_NET_DEVICES", "mlx5_0:1")
    start("0.0=kill", retries=1)
    found = notes(tmp_path)
    assert found["0_0"]["environment"][ranks.TOKEN] != found["0_1"]["environment"][ranks.TOKEN]
    assert found["0_1"]["environment"]["UCX_NET_DEVICES"] == "mlx5_0:1"


# ---- Errors ------------------------------------------------------------------------------------------------------


def test_an_error_of_one_rank_is_said_with_its_number_and_all_ranks_end(start, tmp_path):
    error = failure(start, "0=work", "1=fail:no data on this host", "2=work:child", np=3)
    assert error.errors == [("rank 1: ", "no data on this host", "")]
    assert str(error) == "rank 1 of 3 ended with status 1, so all ranks were ended"
    assert all_gone(tmp_path)


def test_an_error_of_all_ranks_is_said_once_and_nothing_else(start):
    error = failure(start, "0=fail:wrong option", "1=fail:wrong option")
    assert error.errors == [("", "wrong option", "")] and str(error) == ""


def test_a_rank_that_says_nothing_is_named_by_its_end(start, tmp_path):
    assert str(failure(start, "0=work", "1=status:3")).startswith("rank 1 of 2 ended with status 3")
    assert str(failure(start, "0=kill", "1=work")).startswith("rank 0 of 2 was killed by SIGKILL")
    assert all_gone(tmp_path)


def test_the_rank_that_was_lost_is_named_and_not_the_one_that_noticed(start, tmp_path):
    error = failure(start, "0=fail:no word of rank 1:lost", "1=stop")
    assert error.errors == [("rank 0: ", "no word of rank 1", "")]
    assert str(error) == "rank 1 of 2 did not answer and had to be killed, so all ranks were ended"
    assert all_gone(tmp_path)


def test_equal_lines_are_one_and_lines_about_a_lost_rank_too():
    error = {"line": "no data"}
    lost = [{"line": f"lost another rank (port {number})", "lost": True} for number in range(3)]
    assert merged({0: error, 1: error}, 2) == [("", "no data", "")]
    assert merged({3: error, 1: error}, 4) == [("ranks 1, 3: ", "no data", "")]
    found = merged({0: lost[0], 1: error, 2: lost[1], 3: lost[2]}, 4)
    assert found == [("ranks 0, 2, 3: ", "lost another rank (port 0)", ""), ("rank 1: ", "no data", "")]
    assert (
        numbers([5, 0, 1, 2, 7]) == "ranks 0-2, 5, 7" and numbers([0, 1]) == "ranks 0, 1" and numbers([4]) == "rank 4"
    )


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, KeyError, RuntimeError, AssertionError, MemoryError])
def test_every_rank_says_every_error(kind, monkeypatch, capsys):
    for name, value in {"RANK": "2", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "_reported", set())
    cli._report(cli._failure(kind("here"), "what it says", debug=False))  # started by torchrun or srun
    assert capsys.readouterr().err == "rank 2: error: what it says\n"
    reader, writer = os.pipe()
    monkeypatch.setenv(reports.PIPE, str(writer))
    cli._report(cli._failure(kind("there"), "what else it says", debug=True))  # started by our launcher, which says it
    assert capsys.readouterr().err == ""
    told = json.loads(os.read(reader, 1 << 16))
    assert told["line"] == "what else it says" and told["lost"] is False
    assert told["trace"].splitlines()[-1].startswith(kind.__name__)
    os.close(reader)
    os.close(writer)


def test_a_dead_launcher_is_told_nothing_and_the_error_goes_to_the_error_stream(monkeypatch, capfd):
    for name, value in {"RANK": "2", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setenv(reports.PIPE, str(writer))
    reports.tell("connected")
    watch.say(2, "rank 1 is gone")
    os.close(writer)
    assert capfd.readouterr().err == "rank 2: error: rank 1 is gone\n"


@pytest.mark.parametrize(
    "error, expected",
    [
        (RuntimeError("[pair.cc:545] Read error [10.0.0.2]:26803: Connection reset by peer"), True),
        (RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True),
        (type("PeerError", (RuntimeError,), {})("rank 1"), True),
        (type("HorovodInternalError", (RuntimeError,), {})("shut down"), True),
        (type("DistBackendError", (RuntimeError,), {})("NCCL"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("no data: Connection closed"), False),
        (KeyError("three"), False),
    ],
)
def test_which_errors_are_a_lost_rank(error, expected, monkeypatch):
    assert not mistakes.is_loss(error)  # one process has none to lose
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert mistakes.is_loss(error) is expected


def test_a_rank_that_hangs_in_its_start_is_named_after_the_timeout(start, tmp_path):
    began = time.monotonic()
    error = failure(start, "0=work", "1=work:late", timeout=2.0)
    assert 2 <= time.monotonic() - began < 6
    assert str(error) == "rank 1 of 2 did not come within 2 s, so all ranks were ended"
    assert all_gone(tmp_path)


# ---- Signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_goes_to_every_rank_once_and_the_launcher_waits_for_them(start, tmp_path, number):
    send_later(tmp_path, number)
    with pytest.raises(Stopped) as caught:
        start("0=work", "1=work")
    assert caught.value.number == number and caught.value.line == ""
    assert [note["received"] for note in notes(tmp_path).values()] == [[number], [number]]
    assert all_gone(tmp_path, 0)


def test_a_second_signal_kills_at_once_and_a_stubborn_rank_has_the_timeout(start, tmp_path):
    send_later(tmp_path, signal.SIGTERM, signal.SIGTERM, apart=1.2)
    began = time.monotonic()
    with pytest.raises(Stopped) as caught:
        start("0=work:stubborn", "1=work", timeout=30.0)
    assert time.monotonic() - began < 10 and caught.value.line == "rank 0 had to be killed"
    assert all_gone(tmp_path)
    forget(tmp_path)
    send_later(tmp_path, signal.SIGTERM)
    with pytest.raises(Stopped) as caught:
        start("0=work", "1=work:stubborn", timeout=1.0)
    assert caught.value.line == "rank 1 had to be killed" and all_gone(tmp_path)


def test_ranks_that_cannot_meet_after_a_signal_are_not_waited_for(start, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "UNMET_SECONDS", 0.3)
    send_later(tmp_path, signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(Stopped):
        start("0=work:late", "1=work:late:stubborn", timeout=20.0)  # as one that waits for the other in an engine
    assert time.monotonic() - began < 10 and all_gone(tmp_path)


def test_a_signal_to_one_rank_after_which_all_have_saved_is_no_error(start, tmp_path):
    with pytest.raises(Stopped) as caught:
        start("0=status:143", "1=status:143", retries=3)
    assert caught.value.number == signal.SIGTERM and caught.value.line == "" and len(notes(tmp_path)) == 2
    assert Ending(2, {0: 138, 1: 0}).signal == signal.SIGUSR1
    for ended in ({0: 143, 1: 1}, {0: 143, 1: 138}, {0: 128 + signal.SIGSEGV}, {0: -signal.SIGTERM}, {0: 0}):
        assert Ending(2, ended).signal is None
    assert Ending(2, {0: 143}, [1]).signal is None


def test_a_signal_between_two_tries_ends_them(start, tmp_path, monkeypatch):
    again = Ending.cause
    monkeypatch.setattr(Ending, "cause", lambda self: (os.kill(os.getpid(), signal.SIGTERM), again(self))[1])
    with pytest.raises(Stopped) as caught:
        start("1=kill", retries=3)
    assert caught.value.number == signal.SIGTERM and len(notes(tmp_path)) == 2


def test_a_signal_that_comes_by_two_ways_is_one(start, tmp_path):
    # a scheduler signals every process of a job, and the launcher passes it on
    send_later(tmp_path, signal.SIGTERM, signal.SIGTERM, apart=0.02)
    with pytest.raises(Stopped) as caught:
        start("0=work", "1=work")
    assert caught.value.line == ""
    assert [note["received"] for note in notes(tmp_path).values()] == [[signal.SIGTERM]] * 2


def test_ctrl_c_reaches_the_launcher_alone(start, tmp_path):
    start("0=ok", "1=ok")
    assert all(gone(note["pid"]) for note in notes(tmp_path).values())
    # A terminal sends it to the whole group of the process in the foreground.
    code = f"import sys; sys.argv = [{str(SCRIPT)!r}]; from cl.distributed import launch\n"
    code += f"launch.start_ranks({OPTIONS!r}, ['0=work', '1=work'])"
    forget(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_ranks(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert "Stopped" in process.communicate(timeout=20)[1]
    assert [note["received"] for note in notes(tmp_path).values()] == [[signal.SIGINT], [signal.SIGINT]]


def test_a_killed_launcher_leaves_no_rank_not_even_a_stopped_one(start, tmp_path):
    code = f"import sys; sys.argv = [{str(SCRIPT)!r}]; from cl.distributed import launch\n"
    code += f"launch.start_ranks({OPTIONS!r}, ['0=work', '1=stop'])"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for_ranks(tmp_path)
    time.sleep(0.3)  # until the rank has stopped
    process.kill()
    process.wait()
    assert all_gone(tmp_path)


# ---- Tries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first, what",
    [
        (("0.0=work", "1.0=kill"), "rank 1 of 2 was killed by SIGKILL"),
        (("0.0=fail:lost:lost", "1.0=stop"), "rank 1 of 2 did not answer and had to be killed"),
        (("0.0=work", "1.0=work:late"), "rank 1 of 2 did not come within 2 s"),
    ],
)
def test_lost_ranks_are_started_again_and_one_line_says_so(start, tmp_path, capfd, first, what):
    start(*first, retries=2, timeout=2.0)
    line = f"{what}: all ranks start again from the last checkpoint (try 2 of 3)\n"
    assert capfd.readouterr().err == line
    assert notes(tmp_path).keys() == {"0_0", "1_0", "0_1", "1_1"}


def test_tries_end_and_mistakes_and_signals_are_not_tried_again(start, tmp_path, capfd):
    error = failure(start, "1=kill", retries=1)
    assert str(error).startswith("rank 1 of 2 was killed by SIGKILL") and len(notes(tmp_path)) == 4
    assert capfd.readouterr().err.count("\n") == 1
    for words in (("1=fail:no data",), ("0=fail:lost:lost", "1=fail:no data")):
        forget(tmp_path)
        failure(start, *words, retries=3)
        assert len(notes(tmp_path)) == 2 and capfd.readouterr().err == ""
    forget(tmp_path)
    send_later(tmp_path, signal.SIGTERM)
    with pytest.raises(Stopped):
        start("0=work", "1=work", retries=3)
    assert len(notes(tmp_path)) == 2
