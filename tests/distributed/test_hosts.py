"""Hosts: how they are written, which ranks they get, and what their agents do; `ssh` is a script that starts a shell.

Hosts here are names for this machine that the launcher takes for others. Two real networks: test_two_networks.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from launching import all_gone, failure, forget, gone, later, notes, send_later, wait_for_ranks
from support import ROOT

from cl.configuration.arguments import ordered
from cl.distributed import environments, launch, network, ranks
from cl.distributed.hosts import Host, hosts_of, places
from cl.distributed.remote import Remote, Unreachable
from cl.signals import Stopped


@pytest.fixture
def ssh(tmp_path, monkeypatch) -> Path:
    """Hosts a, b and c are reached by a script that notes its words; `off` in the folder has a line for a host down."""
    script = tmp_path / "ssh"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/words\necho $$ >> {tmp_path}/$1.pid\n'
        f"if grep -qsx $1 {tmp_path}/off; then\n"
        'echo "ssh: connect to host $1 port 22: No route to host" >&2; exit 255\nfi\n'
        'echo Welcome to $1\nexec sh -c "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("REMERGE_SSH", str(script))
    monkeypatch.setattr(network, "is_this_machine", lambda address: False)
    monkeypatch.setattr(network, "address_of", lambda name: "127.0.0.1")
    return tmp_path


# ---- How they are written --------------------------------------------------------------------------------------------


def slots_of(text: str) -> list[tuple[str, int]]:
    return [(host.name, host.slots) for host in hosts_of({"hosts": text, "hostfile": None, "np": 1})]


def test_hosts_and_slots_in_all_forms(monkeypatch):
    monkeypatch.setattr(network, "is_this_machine", lambda address: False)
    monkeypatch.setattr(network, "address_of", lambda name: "192.0.2.1")
    assert slots_of("a:4,b:4") == [("a", 4), ("b", 4)]
    assert slots_of("a, b:2 ,n1.example.org") == [("a", 1), ("b", 2), ("n1.example.org", 1)]
    assert slots_of("[fd00::1]:4,[fe80::1%eth0],10.0.0.1:2") == [("fd00::1", 4), ("fe80::1%eth0", 1), ("10.0.0.1", 2)]
    assert slots_of("a:4,b:4,a:2") == [("a", 6), ("b", 4)]


@pytest.mark.parametrize(
    "text", ["a:", "a:x", "a,,b", "a b", ":4", "fd00::1", "[fd00::1", "a:4;b", "a/b:2", "[a:4,b:4]"]
)
def test_what_is_no_list_of_hosts_is_one_line(text):
    with pytest.raises(ValueError, match="cannot read .* in launcher.hosts=.*expected host1:4,host2:4"):
        slots_of(text)


def test_names_that_ssh_would_take_for_an_option_and_no_slots():
    with pytest.raises(ValueError, match="cannot be called '-oProxyCommand=x'"):
        slots_of("-oProxyCommand=x:1")
    with pytest.raises(ValueError, match="0 slots"):
        slots_of("a:0")


def test_hostfiles(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "is_this_machine", lambda address: False)
    monkeypatch.setattr(network, "address_of", lambda name: "192.0.2.1")
    file = tmp_path / "hosts"
    file.write_text("# two hosts\na slots=4\n\nb slots = 2 # the small one\n[fd00::1]\nc:3\n")
    found = hosts_of({"hosts": None, "hostfile": str(file), "np": 1})
    assert [(host.name, host.slots) for host in found] == [("a", 4), ("b", 2), ("fd00::1", 1), ("c", 3)]
    file.write_text("a slots=4\nb slots four\n")
    with pytest.raises(ValueError, match="cannot read line 2 of .*got 'b slots four'"):
        hosts_of({"hosts": None, "hostfile": str(file), "np": 1})
    for name, text in (("empty", "# none\n"), ("missing", None)):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"launcher.hostfile=.*{name} "):
            hosts_of({"hosts": None, "hostfile": str(tmp_path / name), "np": 1})
    with pytest.raises(ValueError, match="launcher.hosts or launcher.hostfile, not both"):
        hosts_of({"hosts": "a", "hostfile": "b", "np": 1})


def test_this_machine_is_one_host_under_all_of_its_names():
    import socket

    found = hosts_of({"hosts": f"localhost:1,{socket.gethostname()}:2,127.0.0.1", "hostfile": None, "np": 1})
    assert len(found) == 1 and found[0].slots == 4 and found[0].here
    assert network.interface_towards("127.0.0.1") == network.LOOPBACK


def test_places_are_numbered_as_horovod_numbers_them():
    found = places([Host("a", 2), Host("b", 1), Host("c", 4)], 5)
    pytest.importorskip("horovod")
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts

    expected = get_host_assignments(parse_hosts("a:2,b:1,c:4"), 5, 5)
    keys = ("hostname", "rank", "size", "local_rank", "local_size", "cross_rank", "cross_size")
    assert [[getattr(place, key) for key in keys] for place in found] == [
        [getattr(slot, key) for key in keys] for slot in expected
    ]
    with pytest.raises(ValueError, match="launcher.np=4 ranks do not fit into 3 slots .a:2, b:1."):
        places([Host("a", 2), Host("b", 1)], 4)


@pytest.mark.parametrize("value", ["a:4,b:4", "a,b", "[fd00::1]:4,b:2", "a:4"])
@pytest.mark.parametrize("flags", [[], ["-m", "seed=0,1"]])
def test_hosts_on_the_command_line_are_one_value(value, flags):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words, _ = ordered(["launcher=torchrun", f"launcher.hosts={value}", *flags])
    (found,) = (
        word for word in OverridesParser.create().parse_overrides(words) if word.key_or_group == "launcher.hosts"
    )
    assert found.value() == value and not found.is_sweep_override()


@pytest.mark.parametrize("word", ["launcher.hosts='a:4,b:4'", "launcher.hosts=null", "launcher.hosts=", "seed=0,1"])
def test_other_words_stay_as_they_are(word):
    assert ordered([word]) == ([word], [])


# ---- What agents do --------------------------------------------------------------------------------------------------


def test_ranks_on_other_hosts_run_here_and_there_and_secrets_are_on_no_command_line(
    start, ssh, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("REMERGE_SECRET", "s3cret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    start("0=print:one", "1=print:two", "2=print:three", np=3, hosts="a:2,b:2")
    found = notes(tmp_path)
    assert [found[f"{rank}_0"]["environment"]["LOCAL_RANK"] for rank in range(3)] == ["0", "1", "0"]
    out = capfd.readouterr().out  # in any order; a rank may write a line and its end in two pieces
    assert all(word in out for word in ("one", "two", "three")) and "Welcome" not in out
    for note in found.values():
        environment = note["environment"]
        assert environment["REMERGE_SECRET"] == "s3cret" and environment[ranks.TOKEN]
        assert environment["MASTER_ADDR"] == "127.0.0.1" and environment["GLOO_SOCKET_IFNAME"] == network.LOOPBACK
        assert note["folder"] == os.getcwd()
    assert len({note["environment"][ranks.TOKEN] for note in found.values()}) == 1
    words = (ssh / "words").read_text()
    assert "s3cret" not in words and found["0_0"]["environment"][ranks.TOKEN] not in words
    assert words.count("-m cl.distributed.agent") == 2


def test_signals_errors_and_ends_reach_ranks_on_other_hosts(start, ssh, tmp_path):
    error = failure(start, "0=work:child", "1=fail:no data on b", hosts="a:1,b:1")
    assert error.errors == [("rank 1: ", "no data on b", "")]
    assert str(error) == "rank 1 of 2 ended with status 1, so all ranks were ended" and all_gone(tmp_path)
    forget(tmp_path)
    send_later(tmp_path, signal.SIGUSR1)
    with pytest.raises(Stopped) as caught:
        start("0=work", "1=work", hosts="a:1,b:1")
    assert caught.value.number == signal.SIGUSR1 and all_gone(tmp_path, 0)
    assert [note["received"] for note in notes(tmp_path).values()] == [[signal.SIGUSR1]] * 2


def test_a_host_that_is_lost_is_named_and_the_others_go_on_with_its_ranks(start, ssh, tmp_path, capfd):
    def kill_agent() -> None:
        time.sleep(0.2)
        os.kill(int((ssh / "b.pid").read_text().split()[0]), signal.SIGKILL)

    later(tmp_path, kill_agent)
    start("0.0=work", "1.0=stop", hosts="a:1,b:1,c:1", retries=1)
    found = notes(tmp_path)
    assert found.keys() == {"0_0", "1_0", "0_1", "1_1"}
    assert capfd.readouterr().err == (
        "host b was lost (ssh ended with status -9): all ranks start again from the last checkpoint (try 2 of 2)\n"
    )
    assert all_gone(tmp_path)
    started = [line.split()[0] for line in (ssh / "words").read_text().splitlines()]
    assert started == ["a", "b", "a", "c"]
    forget(tmp_path)
    (ssh / "b.pid").unlink()
    later(tmp_path, kill_agent)
    error = failure(start, "0.0=work", "1.0=work", hosts="a:1,b:1", retries=1)
    assert str(error).endswith("and the other hosts have 1 slots for 2 ranks") and all_gone(tmp_path)


def test_a_host_that_cannot_be_reached_is_left_out_if_the_others_have_slots(start, ssh, tmp_path, capfd):
    (ssh / "off").write_text("b\n")
    start(hosts="a:1,b:1,c:1")
    reason = "b cannot be reached (ssh: connect to host b port 22: No route to host)"
    assert capfd.readouterr().err == f"{reason}: going on with a:1, c:1\n"
    with pytest.raises(OSError, match="No route to host.; a:1 has too few slots for 2 ranks"):
        start(hosts="a:1,b:1")


def test_an_ssh_that_ends_before_all_readers_have_started_is_heard_at_once(ssh, monkeypatch):
    class Ahead(threading.Thread):
        def start(self):
            super().start()
            self.join(1)  # to its end, before what follows

    (ssh / "off").write_text("b\n")
    monkeypatch.setattr(threading, "Thread", Ahead)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="No route to host"):
        Remote(Host("b", 1), lambda *event: None).wait_for_hello(began + 20)
    assert time.monotonic() - began < 10


def test_what_a_host_says_that_was_left_out_is_not_heard(tmp_path):
    team = launch.Team("torchrun", [], 5.0, launch.Signals())
    late = SimpleNamespace(host=Host("b", 1), running={1})
    for event in (("heard", late, None), ("lost", late, "ssh ended"), ("ended", 0, 0), ("ended", 1, 0)):
        team.events.put(event)
    assert not team._wait(places([Host("a", 2)], 2)).failed


def test_a_signal_while_hosts_are_reached_ends_the_command_at_once(start, ssh, tmp_path):
    (ssh / "ssh").write_text("#!/bin/sh\nexec sleep 60\n")
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    with pytest.raises(Stopped) as caught:
        start(hosts="a:1,b:1")
    assert caught.value.number == signal.SIGTERM and time.monotonic() - began < 4


def test_a_host_without_the_folder_is_a_mistake_and_no_loss(start, ssh, tmp_path, monkeypatch):
    monkeypatch.setattr(launch.os, "getcwd", lambda: str(tmp_path / "missing"))
    error = failure(start, hosts="a:1,b:1,c:1", retries=2)
    assert not error.is_loss and re.search("host [ab] could not start its ranks .*No such file.*missing", str(error))
    assert (ssh / "words").read_text().count("-m cl.distributed.agent") == 2


def test_no_ssh_is_one_line(start, ssh, monkeypatch):
    monkeypatch.setenv("REMERGE_SSH", "no-such-ssh -v")
    with pytest.raises(ValueError, match="needs ssh to reach a, and there is no no-such-ssh here"):
        start(hosts="a:1,b:1")


def test_an_agent_kills_its_ranks_when_it_hears_nothing_or_its_input_ends(start, tmp_path, monkeypatch):
    for how in ("silence", "end", "kill"):
        forget(tmp_path)
        line = [sys.executable, "-m", "cl.distributed.agent"]
        agent = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert json.loads(agent.stdout.readline())["event"] == "hello"
        own = {"RANK": "0", "WORLD_SIZE": "2"}
        words = {
            "command": [sys.executable, *sys.argv, "0=work:stubborn:child", "1=stop"], "folder": str(tmp_path),
            "environment": {}, "ranks": {0: own, 1: own | {"RANK": "1"}}, "peer": "127.0.0.1",
            "timeout": 1.5 if how == "silence" else 60,
        }  # fmt: skip
        agent.stdin.write(json.dumps(words) + "\n")
        agent.stdin.flush()
        wait_for_ranks(tmp_path)
        if how == "end":
            agent.stdin.close()
        elif how == "kill":
            agent.kill()
        assert agent.wait(10) != 0 or how == "end"
        pids = [note["pid"] for note in notes(tmp_path).values()]
        time.sleep(0.2 if how == "kill" else 0)  # then Linux kills the ranks, but not what they have started
        assert len(pids) == 2 and (all(map(gone, pids)) if how == "kill" else all_gone(tmp_path))
        agent.stdout.close()


def test_addresses_of_version_6_are_refused_for_horovod():
    pytest.importorskip("horovod")
    where = places([Host("a", 1, "192.0.2.1", here=False), Host("b", 1, "fd00::2", here=False)], 2)
    with pytest.raises(ValueError, match="Horovod's ranks cannot meet over addresses of version 6 .b.: "):
        with environments.of_ranks("horovod", where):
            pass
