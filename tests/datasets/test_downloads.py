"""Downloads from a real server: whole or not there, once for all processes, checked; what is said when they fail."""

import gzip
import hashlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from cl.data.downloads import fetch
from cl.datasets import torchvision_sets
from cl.datasets.torchvision_sets import Mnist

FILES = [f"{part}-{name}" for part in ("train", "t10k") for name in ("images-idx3-ubyte", "labels-idx1-ubyte")]
PROCESS = multiprocessing.get_context("fork")  # a new interpreter would import torch for seconds


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, notes what was asked for, and holds back what it is told to."""

    def __init__(self, *request, server_state, **named):
        self.state = server_state
        super().__init__(*request, **named)

    def do_GET(self):
        name = Path(self.path).name
        self.state["asked"].append(name)
        if name.startswith(self.state["held"]):
            self.state["holding"].set()
            self.state["go"].wait(20)
        super().do_GET()

    def log_message(self, *_):
        """The test's output is not a log."""


@pytest.fixture
def server(tmp_path, write_mnist, monkeypatch):
    """A server of small MNIST archives; its state: `asked`, names in order, and `held`, the beginning of a name."""
    random = np.random.default_rng(0)
    parts = {part: (random.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n) % 10) for part, n in
             (("train", 12), ("test", 7))}  # fmt: skip
    write_mnist(tmp_path / "source", parts)
    (tmp_path / "served").mkdir()
    for name in FILES:
        (tmp_path / "served" / f"{name}.gz").write_bytes(
            gzip.compress((tmp_path / "source" / "MNIST" / "raw" / name).read_bytes())
        )
    state = {"asked": [], "held": "none", "holding": threading.Event(), "go": threading.Event()}
    handler = partial(Handler, directory=tmp_path / "served", server_state=state)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        sums = {name: hashlib.md5((tmp_path / "served" / f"{name}.gz").read_bytes()).hexdigest() for name in FILES}
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{running.server_port}/"])
        monkeypatch.setattr(datasets.MNIST, "resources", [(f"{name}.gz", value) for name, value in sums.items()])
        yield state
        state["go"].set()
        running.shutdown()


def mnist(root) -> Mnist:
    return Mnist(root=str(root), download=True, validation=0.0, mean=None, std=None, augment=[])


def left_aside(root) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith(".download-")]


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    train, test = mnist(tmp_path / "data").read()
    assert (len(train), len(test)) == (12, 7) and not left_aside(tmp_path / "data")
    assert set(server["asked"]) == {f"{name}.gz" for name in FILES}
    server["asked"].clear()
    assert len(mnist(tmp_path / "data").read()[0]) == 12 and not server["asked"]


def test_where_all_is_there_nothing_is_written(tmp_path, write_mnist):
    pictures = np.zeros((3, 28, 28), dtype=np.uint8), np.arange(3)
    write_mnist(tmp_path, {"train": pictures, "test": pictures})
    assert len(mnist(tmp_path).read()[0]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]  # no lock: it might be read-only


def test_a_damaged_file_is_fetched_anew(server, tmp_path):
    mnist(tmp_path).read()
    (tmp_path / "MNIST" / "raw" / FILES[2]).write_bytes(b"cut off")
    server["asked"].clear()
    assert len(mnist(tmp_path).read()[1]) == 7
    assert f"{FILES[2]}.gz" in server["asked"] and not left_aside(tmp_path)


def test_processes_share_one_download(server, tmp_path):
    mnist(tmp_path / "alone").read()
    alone = sorted(server["asked"])  # torchvision asks for a file more than once
    server["asked"].clear()
    processes = [PROCESS.Process(target=lambda: os._exit(len(mnist(tmp_path).read()[0]))) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 12
    assert sorted(server["asked"]) == alone


def test_a_killed_download_leaves_nothing_in_place(server, tmp_path):
    server["held"] = FILES[3]
    process = PROCESS.Process(target=lambda: mnist(tmp_path).read())
    process.start()
    assert server["holding"].wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "MNIST").exists() and left_aside(tmp_path)
    server["held"] = "none"
    started = time.monotonic()
    assert len(mnist(tmp_path).read()[0]) == 12
    assert time.monotonic() - started < 15 and not left_aside(tmp_path)


def test_another_data_set_that_is_downloaded_at_the_same_time_is_left_alone(server, tmp_path):
    server["held"] = FILES[3]
    process = PROCESS.Process(target=lambda: os._exit(len(mnist(tmp_path).read()[0])))
    process.start()
    assert server["holding"].wait(30)
    place = Path("OTHER") / "file"

    def download(aside: Path) -> None:
        (aside / place).parent.mkdir()
        (aside / place).write_text("whole")

    fetch(tmp_path, "OTHER", download, lambda root: [] if (root / place).is_file() else [root / place])
    server["go"].set()
    process.join(30)
    assert process.exitcode == 12 and (tmp_path / place).read_text() == "whole"


def test_a_wrong_checksum_and_no_network_are_named(server, tmp_path, monkeypatch):
    wrong = [(f"{name}.gz", "0" * 32) for name in FILES]
    monkeypatch.setattr(datasets.MNIST, "resources", wrong)
    with pytest.raises(
        OSError,
        match=r"(?s)MNIST could not be downloaded.*tried http://127.*MNIST\('data', download=True\).*to .*/MNIST/raw",
    ):
        mnist(tmp_path).read()
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(OSError, match="(?s)could not be downloaded.*tried http://127.0.0.1:9/"):
        mnist(tmp_path).read()
    assert not (tmp_path / "MNIST").exists() and not left_aside(tmp_path)


def test_a_server_that_falls_silent_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "SILENCE", 0.3)
    server["held"] = FILES[1]
    with pytest.raises(OSError, match="MNIST could not be downloaded .*timed out"):
        mnist(tmp_path).read()
    assert socket.getdefaulttimeout() is None
    assert not (tmp_path / "MNIST").exists() and not left_aside(tmp_path)
