"""A file written atomically is there whole or not at all, and nothing else is left beside it."""

import os

import pytest

from cl.atomic import atomic_write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "mode, old, new",
    [
        ("wb", None, b"new"),
        ("wb", b"old and much longer", b"new"),
        ("wb", b"old", b""),
        ("wb", b"old", os.urandom(2**20)),
        ("w", b"old", "new\n"),
    ],
    ids=["first", "shorter", "empty", "long", "text"],
)
def test_the_new_content_replaces_the_old_whole(tmp_path, mode, old, new):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with atomic_write(path, mode) as file:
        file.write(new)
    assert path.read_bytes() == (new if mode == "wb" else new.encode())
    assert names(tmp_path) == ["file"]


def test_the_old_content_stands_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_missing_folders_are_made(tmp_path):
    with atomic_write(tmp_path / "a" / "b" / "file") as file:
        file.write(b"new")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"


def test_the_path_may_be_a_string(tmp_path):
    with atomic_write(f"{tmp_path}/file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"], ids=["first", "existing"])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error, match="in the middle"):
        with atomic_write(path) as file:
            file.write(b"half of the new")
            file.flush()
            raise error("in the middle")
    assert names(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError("no space left")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="no space left"):
        with atomic_write(path) as file:
            file.write(b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, order = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append(os.fstat(descriptor).st_size), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    with atomic_write(path) as file:
        file.write(b"12345")
    assert order[:2] == [5, "replace"]
