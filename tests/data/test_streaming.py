"""Pictures that stay in their files: the same pixels, order and results as from memory, at any number of workers."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import QUICK, ROOT, command

from cl.data.decoding import Decoder
from cl.data.loader import epoch_batches, in_order
from cl.data.rows import Rows
from cl.data.streaming import FileImages, Workers
from cl.datasets.image_folder import ImageFolder
from cl.run.experiment import run

CPU = torch.device("cpu")
SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """23 training and 7 test pictures in three classes, each of a colour of its own, JPEG and PNG, of several sizes."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for part, count in (("train", 23), ("test", 7)):
        for number in range(count):
            place = root / part / "abc"[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (random.integers(5, 40), random.integers(5, 40), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number:02}.{'jpg' if number % 2 else 'png'}")
    return root


@pytest.fixture(scope="module")
def pools():
    """Loaders with 0, 1 and 2 workers; starting them takes seconds."""
    loaders = {count: Workers(count, 2, CPU) for count in (0, 1, 2)}
    yield loaders
    for loader in loaders.values():
        loader.close()


def dataset(folder: Path, stream: bool, **options) -> ImageFolder:
    options = {"crop": None, "validation": 0.0, "cache": str(folder.parent / "cache")} | options
    return ImageFolder(str(folder), SIZE, 3, stream=stream, mean=None, std=None, augment=[], **options)


def samples(split) -> Rows:
    return Rows({"x": split.x, "y": split.y, "task": torch.zeros_like(split.y)})


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_epochs_are_those_of_the_same_pictures_in_memory(folder, pools, workers):
    from_memory = samples(dataset(folder, stream=False).load(0)[0])
    from_files = samples(dataset(folder, stream=True).load(0, pools[workers])[0])
    assert isinstance(from_files.x, FileImages)
    for epoch, rank, ranks in ((0, 0, 1), (1, 0, 2), (1, 1, 2)):
        expected = list(epoch_batches(from_memory, 4, 0, 0, epoch, rank, ranks))
        got = list(epoch_batches(from_files, 4, 0, 0, epoch, rank, ranks))
        assert len(got) == len(expected) > 2
        for one, other in zip(got, expected):
            assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y) and one.loss_weight == other.loss_weight


def test_tests_go_through_the_pictures_in_order(folder, pools):
    data = samples(dataset(folder, stream=True).load(0, pools[1])[1])
    batches = list(in_order(data, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([batch.x for batch in batches]), data.loaded().x)
    odd = list(in_order(data, 2, rank=1, ranks=2))
    assert torch.equal(odd[0].x, data.part(slice(2, 4)).loaded().x) and len(odd) == 2


def test_an_epoch_that_is_left_early_leaves_nothing_behind(folder, pools):
    data = samples(dataset(folder, stream=True).load(0, pools[2])[0])
    for _ in range(3):
        left = epoch_batches(data, 2, 0, 0, 0)
        first = next(left)
        again = list(epoch_batches(data, 2, 0, 0, 0))
        assert torch.equal(again[0].x, first.x) and len(again) == 12
    with pytest.raises(RuntimeError, match="another stream"):
        next(left)


def test_parts_joins_and_changes_read_no_file(folder, monkeypatch):
    data = samples(dataset(folder, stream=True).load(0, None)[0])
    monkeypatch.setattr(Decoder, "__call__", lambda *_: pytest.fail("a file was read"))
    odd = data.part(data.y == 1)
    both = Rows.cat([odd, data.part(slice(3))])
    assert both.x.shape == (len(odd) + 3, 3, SIZE, SIZE) and len(both.y) == len(both.x)
    inverted = FileImages.changed(data.x, lambda x: 255 - x)
    monkeypatch.undo()
    assert torch.equal(inverted.load(), 255 - data.loaded().x)
    with pytest.raises(ValueError, match="stream=false"):
        FileImages.cat([inverted, data.x])


def test_a_part_is_held_out_for_validation(folder, pools):
    files = dataset(folder, stream=True, validation=0.25).load(3, pools[0])
    memory = dataset(folder, stream=False, validation=0.25).load(3)
    for one, other in zip(files, memory):
        assert torch.equal(one.x.load(), other.x) and torch.equal(one.y, other.y)


def damaged_picture(path: Path, how: str) -> str:
    """Write a picture that cannot be decoded; returns the reason that is to be said."""
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(whole, "JPEG")
    contents = {"truncated": whole.getvalue()[:900], "text": b"404 Not Found", "empty": b"", "cut": b"\xff\xd8\xff\xe0"}
    path.write_bytes(contents.get(how, whole.getvalue()))
    if how == "removed":
        path.unlink()
    if how == "forbidden":
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read every file")
    reasons = {"empty": "the file is empty", "removed": "No such file", "forbidden": "Permission denied"}
    return reasons.get(how, "it is not a picture in a known" if how in ("text", "cut") else ".")


@pytest.mark.parametrize("how", ["truncated", "text", "empty", "cut", "removed", "forbidden"])
@pytest.mark.parametrize("workers", [0, 1, 2, "memory"])
def test_a_picture_that_cannot_be_decoded_is_one_line_with_its_name(folder, pools, workers, how, tmp_path):
    reason = damaged_picture(tmp_path / "bad.jpg", how)
    paths = np.array([os.fsencode(tmp_path / "bad.jpg")])
    images = FileImages(paths, Decoder(3, SIZE), pools.get(workers))
    with pytest.raises(ValueError) as error:
        images.load() if workers == "memory" else list(images.stream([torch.tensor([0])]))
    assert re.match(rf"cannot decode the picture {tmp_path}/bad\.jpg: {reason}", str(error.value))
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    if workers != "memory":
        good = samples(dataset(folder, stream=True).load(0, pools[workers])[1])
        assert len(list(in_order(good, 4))) == 2  # the workers live on


def test_a_command_ends_with_one_line_where_a_worker_cannot_decode(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "own")
    path = tmp_path / "own" / "train" / "a" / "00.png"
    path.write_bytes(path.read_bytes()[:60])
    options = ["dataset=image_folder", f"dataset.root={tmp_path / 'own'}", "dataset.stream=true", "dataset.size=8"]
    options += ["scenario=class5", "scenario.num_tasks=3", "loader.workers=2", f"output={tmp_path / 'runs'}", *QUICK]
    done = command(*options)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: cannot decode the picture {path}: [^\n]+\n", done.stderr)


STREAMS = """
import sys
import torch
from cl.data.decoding import Decoder
from cl.data.streaming import Workers

for _ in Workers(2, 1, torch.device("cpu")).stream([(Decoder(3, 8), [sys.argv[1].encode()])] * 3):
    print("streaming", flush=True)
sys.stdin.read()
"""


def test_no_worker_is_left_of_a_command_that_was_killed(folder, tmp_path):
    if not Path("/proc/self/environ").exists():
        pytest.skip("processes are found in /proc, which this system does not have")
    picture, mark = next(folder.rglob("*.png")), f"STREAM_OF={tmp_path}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **dict([mark.split("=")])}
    line = [sys.executable, "-c", STREAMS, str(picture)]
    with subprocess.Popen(line, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"streaming\n"
        assert len(marked(mark)) >= 4  # with the workers, and the server that makes them
        process.kill()
        process.wait()
    deadline = time.monotonic() + 20
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def marked(mark: str) -> list[int]:
    """The processes with a variable in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += [int(path.name)] if mark.encode() in (path / "environ").read_bytes() else []
    return found


def test_a_large_jpeg_is_averaged(tmp_path):
    board = (np.indices((256, 256)).sum(0) // 16 % 2 * 200).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.jpg", quality=98)
    Image.fromarray(board).save(tmp_path / "a.png")
    small, exact = (Decoder(1, 16)(str(tmp_path / name)).int() for name in ("a.jpg", "a.png"))
    assert (small - exact).abs().max() <= 6


def test_auto_shares_the_processors_among_the_ranks_of_a_host():
    processors = len(os.sched_getaffinity(0))
    assert Workers("auto", 1, CPU).workers == processors
    assert Workers("auto", 1, CPU, local_ranks=10 * processors).workers == 1


def test_streamed_and_loaded_runs_have_the_same_results(folder, compose_config):

    def results(**options):
        data = [f"dataset.{key}={value}" for key, value in options.items()]
        config = compose_config(
            "dataset=image_folder", f"dataset.root={folder}", f"dataset.cache={folder.parent / 'cache'}", *data,
            "dataset.size=12", "dataset.crop=8", "dataset.augment=[resized_crop,flip]", "loader.workers=1",
            "overwrite=true", "scenario=class5", "scenario.num_tasks=3", "strategy=er", "buffer.capacity=6",
            "batch_size=3", "eval_batch_size=4", *QUICK,
        )  # fmt: skip
        return json.loads((run(config) / "results.json").read_text())

    streamed, loaded = results(stream="true"), results(stream="false")
    assert streamed["identity"] == loaded["identity"]  # one run for both, trained twice
    assert streamed["accuracy_matrix"] == loaded["accuracy_matrix"]
    assert streamed["labelled_samples"] == loaded["labelled_samples"]


def memory_of(processes: list[int]) -> int:
    """Bytes of some processes together, what they share counted once."""
    texts = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("Pss:")) * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_memory_stays_flat_over_an_epoch_of_more_pictures_than_it_holds(tmp_path, pools):
    limit, side, count = 50_000_000, 160, 3000
    Image.new("RGB", (8, 8), (200, 30, 90)).save(tmp_path / "a.png")
    paths = np.array([os.fsencode(tmp_path / "a.png")] * count)
    images = FileImages(paths, Decoder(3, side), pools[2])
    assert np.prod(images.shape) > 4 * limit
    stream = images.stream(torch.arange(count).split(20))
    used = []
    for number, batch in enumerate(stream):
        if number % 10 == 9:
            workers = [worker.pid for worker in pools[2]._loader._iterator._workers]
            used.append(memory_of([os.getpid(), *workers]))
    assert max(used) - used[0] < limit


def test_without_dali_its_loader_says_what_to_install(compose_config):
    if importlib.util.find_spec("nvidia.dali"):
        pytest.skip("DALI is installed")
    with pytest.raises(ValueError, match="loader=dali needs NVIDIA DALI.*pip install"):
        run(compose_config("loader=dali", *QUICK))


def test_dali_decodes_the_same_pictures(folder):
    pytest.importorskip("nvidia.dali", reason="loader=dali is an option: pip install nvidia-dali-cuda120")
    from cl.data.dali import Dali

    for channels in (1, 3):
        images = dataset(folder, stream=True).load(0, None)[0].x
        decoder = Decoder(channels, SIZE)
        ours = FileImages(images.paths, decoder, None).load()
        theirs = FileImages(images.paths, decoder, Dali(2, 2, CPU))
        for _ in range(2):
            got = torch.cat(list(theirs.stream(torch.arange(len(ours)).split(5))))
            assert got.shape == ours.shape
            inside = (got.int() - ours.int())[:, :, 1:-1, 1:-1]  # DALI looks beyond the border of the square
            assert inside.abs().float().mean() < 4  # levels, of pictures of noise
