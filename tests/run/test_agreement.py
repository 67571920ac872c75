"""What ranks compare, against hashes computed here; and what is said of several ranks, which are threads here."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import ROOT

from cl.data.streaming import FileImages
from cl.distributed.comm import Comm
from cl.run import agreement
from cl.run.folder import plain


class Rank(Comm):
    """A rank of a group of threads."""

    def __init__(self, rank: int, box: list, barrier: threading.Barrier):
        self.rank, self.size, self.box, self.barrier = rank, len(box), box, barrier

    def gather(self, content) -> list:
        self.box[self.rank] = content
        self.barrier.wait(10)
        found = list(self.box)
        self.barrier.wait(10)
        return found


def said(found: list[dict]) -> str | None:
    """What all ranks say of what each has found."""
    size = len(found)
    box, barrier = [None] * size, threading.Barrier(size)

    def one(rank: int) -> str | None:
        try:
            agreement.agree(Rank(rank, box, barrier), found[rank])
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(size) as pool:
        (text,) = set(pool.map(one, range(size)))
    return text


def crc32(data: bytes) -> int:
    """By the definition: the remainder by the polynomial 0x04C11DB7, bits reversed (ISO 3309)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def pictures(paths: list[str]) -> FileImages:
    return FileImages(np.array([path.encode() for path in paths]), None, None)


def test_all_ranks_that_differ_are_named_with_what_they_have():
    equal = {"pixels": {"training": "aa", "test": "bb"}, "labels": {"training": "cc"}}
    assert said([equal] * 4) is None
    one = {"pixels": {"training": "dd", "test": "bb"}, "labels": {"training": "cc"}}
    other = {"pixels": {"training": "ee", "test": "ff"}, "labels": {"training": "gg"}}
    assert said([equal, one, equal, one, other]) == (
        "ranks 1, 3 differ from rank 0 in the pixels: expected training=aa, got training=dd; rank 4 differs from rank "
        "0 in the pixels: expected training=aa, test=bb, got training=ee, test=ff; the labels differ as well: copy the "
        "data set to every host anew"
    )


def test_a_long_list_of_differences_is_shortened_and_a_missing_one_is_nothing():
    mine, other = {"code": {f"{n}.py": "a" for n in range(9)}}, {"code": {f"{n}.py": "b" for n in range(1, 9)}}
    assert said([mine, other]) == (
        "rank 1 differs from rank 0 in the code: expected 0.py=a, 1.py=a, 2.py=a, 3.py=a, got 0.py=nothing, 1.py=b, "
        "2.py=b, 3.py=b and 5 more: install the same version of the code on every host"
    )


def test_a_package_that_only_one_rank_has_loaded_is_no_difference():
    mine, other = {"python": "3", "Pillow": "11"}, {"python": "3", "timm": "1"}
    assert said([{"packages": mine}, {"packages": other}]) is None
    text = said([{"packages": mine, "labels": {"a": "b"}}, {"packages": other, "labels": {"a": "c"}}])
    assert text.startswith("rank 1 differs from rank 0 in the labels: expected a=b, got a=c")


def test_arrays_are_compared_by_their_bytes():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (3, 1, 5, 7), dtype=np.uint8)
    numbers = generator.normal(size=(4, 2)).astype(np.float32)
    assert agreement.digest(torch.from_numpy(pixels)) == f"{crc32(pixels.tobytes()):08x}"
    both = pixels.tobytes() + numbers.tobytes()
    assert agreement.digest(pixels, torch.from_numpy(numbers)) == f"{crc32(both):08x}"
    turned = numbers.T
    assert agreement.digest(turned) == f"{crc32(np.array(turned.tolist(), np.float32).tobytes()):08x}"
    for place in range(pixels.size):
        changed = pixels.copy()
        changed.reshape(-1)[place] ^= 1
        assert agreement.digest(changed) != agreement.digest(pixels)


def test_names_of_files_are_compared_without_the_folder():
    here = pictures(["/data/a/1.png", "/data/a/2.png", "/data/bb/1.png"])
    there = pictures([f"/elsewhere{path}" for path in ("/a/1.png", "/a/2.png", "/bb/1.png")])
    assert agreement.names(here) == agreement.names(there)
    width = len("bb/1.png")
    expected = b"".join(name.encode().ljust(width, b"\0") for name in ("a/1.png", "a/2.png", "bb/1.png"))
    assert agreement.names(here) == f"{crc32(expected):08x}"
    assert agreement.names(here) != agreement.names(pictures(["/data/a/1.png", "/data/a/3.png", "/data/bb/1.png"]))


def test_files_are_read_at_places_that_the_seed_decides(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number:02d}" for number in range(30)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(number))
    all_of_them = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    named = pictures([str(path) for path in paths])
    assert agreement.content(named, 0) == hashlib.sha256(all_of_them).hexdigest()[:8]
    monkeypatch.setattr(agreement, "STREAMED_ROWS", 10)
    read, of_file = [], agreement._of_file
    monkeypatch.setattr(agreement, "_of_file", lambda path: read.append(path) or of_file(path))
    first = agreement.content(named, 1)
    chosen = sorted(set(read))
    assert len(chosen) == 10 and agreement.content(named, 1) == first and sorted(set(read)) == chosen
    agreement.content(named, 2)
    assert len(set(read)) > 10


def test_the_code_is_every_file_of_ours_and_what_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "project" / "deep").mkdir(parents=True)
    for name in ("__init__", "one", "deep/__init__", "deep/two"):
        (tmp_path / "project" / f"{name}.py").write_text(f"raise SystemExit({name!r})  # never run")
    (tmp_path / "single.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    found = agreement.code(["project", "single", "project.deep.two", "nowhere.at.all"])
    ours = {path.relative_to(ROOT).as_posix() for name in ("cl", "merging") for path in (ROOT / name).rglob("*.py")}
    theirs = {"project/__init__.py", "project/one.py", "project/deep/__init__.py", "project/deep/two.py", "single",
              "project.deep.two"}  # fmt: skip
    native = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cl").rglob("*.so")}
    assert found.keys() == ours | theirs | native and native
    for name in ("cl/run/agreement.py", *native):
        assert found[name] == hashlib.sha256((ROOT / name).read_bytes()).hexdigest()[:12]
    assert found["project/one.py"] == hashlib.sha256((tmp_path / "project" / "one.py").read_bytes()).hexdigest()[:12]


def test_the_configuration_is_every_key_but_what_may_differ(compose_config):
    """Each key of a configuration is either compared, or in the list; none of the list names a run."""
    config = plain(compose_config("strategy=er", "dataset=mnist", "dataset.root=/data"))
    found = agreement.options(config)
    assert found["seed"] == "0" and found["reduce.fp16"] == "false" and found["epochs"] == "5.0"
    assert found["strategy.name"] == '"er"' and found["checkpoint.every"] == '"10min"'
    tops = {key.partition(".")[0] for key in found}
    assert set(config) - tops == {key for key in agreement.MAY_DIFFER if "." not in key}
    assert not set(found) & set(agreement.MAY_DIFFER)


def test_versions_are_those_of_the_installed_packages():
    found = agreement.packages()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__ == metadata.version("numpy")


def test_one_process_looks_at_nothing(monkeypatch):
    def refuse(*_):
        raise AssertionError("this costs time")

    for name in ("digest", "code", "options", "packages", "agree"):
        monkeypatch.setattr(agreement, name, refuse)
    agreement.check_program(Comm(), {}, torch.device("cpu"))
    agreement.check_data(Comm(), SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), 0)


@pytest.mark.parametrize("what", agreement.REMEDIES)
def test_every_kind_of_difference_has_its_remedy(what):
    text = said([{what: {"a": "1"}}, {what: {"a": "2"}}])
    assert text == f"rank 1 differs from rank 0 in the {what}: expected a=1, got a=2: {agreement.REMEDIES[what]}"
