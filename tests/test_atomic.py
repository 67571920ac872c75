"""A file written atomically is there whole or not at all, and nothing else is left beside it."""

import errno
import os
import stat

import pytest
import torch

from cl.atomic import atomic_write, save_tensors


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
        raise OSError(errno.ENOSPC, "no space left")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="no space left") as error:
        with atomic_write(path) as file:
            file.write(b"new")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))  # not the temporary one
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def recorded(monkeypatch, folder_error=None) -> list:
    """What is done to the disk, in order: the size of a file that is synced, replace, folder."""
    order, replace = [], os.replace

    def fsync(descriptor):
        about = os.fstat(descriptor)
        is_folder = stat.S_ISDIR(about.st_mode)
        order.append("folder" if is_folder else about.st_size)
        if is_folder and folder_error:
            raise OSError(folder_error, os.strerror(folder_error))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    return order


def test_the_content_is_on_the_disk_before_it_gets_its_name_and_then_the_name(tmp_path, monkeypatch):
    order = recorded(monkeypatch)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"12345")
    assert order == [5, "replace", "folder"]


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path, monkeypatch):
    order = recorded(monkeypatch, errno.EINVAL)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"12345")
    assert order == [5, "replace", "folder"] and (tmp_path / "file").read_bytes() == b"12345"


def test_a_folder_that_does_not_get_to_the_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    recorded(monkeypatch, errno.EIO)
    with pytest.raises(OSError) as error:
        with atomic_write(tmp_path / "file") as file:
            file.write(b"12345")
    assert (error.value.errno, error.value.filename) == (errno.EIO, str(tmp_path / "file"))
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="file"):
        with atomic_write(tmp_path / "file" / "below"):
            raise AssertionError("there is nowhere to write")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs a file system that lets nobody write: /proc")
def test_a_file_that_cannot_be_opened_is_an_error_that_names_it():
    with pytest.raises(OSError) as error:
        with atomic_write("/proc/self/file"):
            raise AssertionError("there is nowhere to write")
    assert error.value.filename == "/proc/self/file"  # not the temporary one


def test_a_folder_in_the_place_of_the_file_is_an_error_and_stays(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        with atomic_write(tmp_path / "file") as file:
            file.write(b"new")
    assert names(tmp_path) == ["file"] and (tmp_path / "file").is_dir()


def test_another_file_that_fails_within_the_block_keeps_its_name_in_the_error(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        with atomic_write(tmp_path / "file"):
            open(tmp_path / "missing")
    assert error.value.filename == str(tmp_path / "missing")


def test_saved_tensors_come_back(tmp_path):
    content = {"weight": torch.arange(6.0).view(2, 3), "half": torch.ones(2, dtype=torch.float16), "step": 3}
    save_tensors(tmp_path / "folder" / "file", content)
    loaded = torch.load(tmp_path / "folder" / "file", weights_only=True)
    assert loaded.keys() == content.keys() and loaded["step"] == 3
    assert torch.equal(loaded["weight"], content["weight"])
    assert loaded["half"].dtype == torch.float16 and torch.equal(loaded["half"], content["half"])
    assert names(tmp_path / "folder") == ["file"]


def test_content_that_cannot_be_saved_leaves_the_old_file(tmp_path):
    save_tensors(tmp_path / "file", {"step": 3})
    with pytest.raises(Exception, match="pickle"):
        save_tensors(tmp_path / "file", {"step": lambda: 4})
    assert torch.load(tmp_path / "file", weights_only=True) == {"step": 3}
    assert names(tmp_path) == ["file"]
