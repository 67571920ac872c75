"""Files that are read back: a change of any byte is named, or changes nothing that is read."""

import hashlib
import json
import random
import time
import zipfile
import zlib

import pytest
import torch

from cl import atomic, checksums
from cl.networks import weights

CONTENT = {"w": torch.arange(24, dtype=torch.float32).view(4, 6), "stage": 3, "of": ["a", 1.5, None]}
RESULTS = {"kind": "run", "seed": 0, "accuracy_matrix": [[0.5, 0.25], [0.125, 1 / 3]], "config": {"lr": 0.1, "é": None}}


def same(found: dict, expected: dict = CONTENT) -> bool:
    """A change in the name of the checksum itself leaves an entry that nobody asks for."""
    return all(
        torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
        for key, value in expected.items()
    )


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """The bytes of a file after a random accident."""
    kind, place, length = (
        draw.choice("flip flip cut zeros twice".split()),
        draw.randrange(len(whole)),
        1 + draw.randrange(64),
    )
    if kind == "flip":
        return whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
    if kind == "cut":
        return whole[:place]
    if kind == "zeros":
        end = min(place + length, len(whole))
        return whole[:place] + bytes(end - place) + whole[end:]
    return whole[: place + length] + whole[place:]


def refused(read, path) -> bool:
    """Whether a file is refused, with one line that names it and gives no dangerous advice."""
    try:
        assert same(read(path), CONTENT if path.suffix == ".pt" else RESULTS)
    except checksums.DamagedError as error:
        text = str(error)
        assert text.startswith(str(path)) and "\n" not in text and len(text) < 400
        assert not any(word in text for word in ("weights_only", "pickle", "Traceback"))
        return True
    return False


def test_every_bit_of_a_file_of_weights_is_guarded_or_says_nothing(tmp_path):
    path = tmp_path / "a.pt"
    atomic.save_tensors(path, CONTENT)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:  # where the bytes lie that torch turns into content
        guarded = set()
        for entry in archive.infolist():
            if entry.filename.endswith(("data.pkl", "data/0")):
                start = whole.index(archive.read(entry), entry.header_offset)
                guarded |= set(range(start, start + entry.file_size))
    assert len(guarded) > 200
    bits = [(place, place % 8) for place in range(0, len(whole), 5)]
    # The line of the table of contents about the tensor, of which every program reads something else.
    name = whole.rindex(b"data/0")
    bits += [(place, bit) for place in range(whole.rindex(b"PK\1\2", 0, name), name) for bit in range(8)]
    for place, bit in bits:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        assert refused(weights.load, path) or place not in guarded, place


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_random_accidents_never_change_what_is_read(suffix, tmp_path):
    path, draw = tmp_path / f"a{suffix}", random.Random(0)
    read = weights.load if suffix == ".pt" else checksums.read_json
    atomic.save_tensors(path, CONTENT) if suffix == ".pt" else atomic.write_json(path, RESULTS)
    whole = path.read_bytes()
    caught = 0
    for _ in range(400):
        path.write_bytes(damaged(whole, draw))
        caught += refused(read, path)
    assert caught > 150


def test_files_of_other_programs_are_checked_where_they_have_checksums(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save(CONTENT, path)
    assert checksums.check_archive(path) and same(weights.load(path))
    value = CONTENT["w"].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(value, value[:-1] + b"\x42"))
    assert not torch.equal(torch.load(path)["w"], CONTENT["w"])  # torch alone notices nothing
    with pytest.raises(
        weights.DamagedError, match=r"theirs.pth is damaged \(.* in its entry theirs/data/0\): put a whole"
    ):
        weights.load(path)
    for options in ({"_use_new_zipfile_serialization": False}, {}):
        computes = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        torch.save(CONTENT, path, **options)
        torch.serialization.set_crc32_options(computes)
        assert not checksums.check_archive(path) and same(weights.load(path))


def test_json_without_a_checksum_is_of_an_earlier_version_and_a_changed_number_is_not(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS, indent=1))
    assert checksums.read_json(path) == RESULTS
    atomic.write_json(path, RESULTS)
    written = json.loads(path.read_text())
    assert list(written)[:-1] == list(RESULTS) and written.pop("checksum") and written == RESULTS
    assert checksums.read_json(path) == RESULTS
    atomic.write_json(path, checksums.read_json(path) | {"seed": 1})
    assert checksums.read_json(path)["seed"] == 1
    path.write_text(path.read_text().replace("0.125", "0.175"))
    with pytest.raises(checksums.DamagedError, match="results.json is damaged .its content does not fit its checksum"):
        checksums.read_json(path)
    atomic.write_json(path, {"by": {1: (2, 3), 10: None}})  # what JSON makes of it has the same checksum
    assert checksums.read_json(path) == {"by": {"1": [2, 3], "10": None}}


def test_another_layout_of_the_same_json_is_the_same_and_a_change_by_hand_is_told_what_to_do(tmp_path):
    """As jq writes it: whole numbers without a fraction, letters without escapes, other exponents and blanks."""
    path = tmp_path / "results.json"
    content = {"é": [1.0, 100.0, -0.0, 0.5, 1e-05, 1e22, 3, True, None, float("nan")], "deep": {"a": [[2.0]]}}
    atomic.write_json(path, content)
    text = path.read_text()
    layout = "{\n  'é': [1, 1E2, -0, 5e-1, 0.00001, 1E+22, 3, true, null, NaN],'deep':{ 'a':[[2.00]]}, 'checksum': "
    path.write_text(layout.replace("'", '"') + f'"{json.loads(text)["checksum"]}"}}')
    assert repr(checksums.read_json(path)["é"][3:]) == repr(content["é"][3:])
    path.write_text(path.read_text().replace("5e-1", "6e-1"))
    with pytest.raises(checksums.DamagedError, match="; if you have changed it by hand, remove its entry checksum$"):
        checksums.read_json(path)
    # An earlier version took the checksum of the numbers as they are spelled.
    told = {"seed": 1.0}
    path.write_text(json.dumps(told | {"checksum": hashlib.sha256(b'{"seed": 1.0}').hexdigest()[:16]}))
    assert checksums.read_json(path) == told


def test_the_check_costs_less_than_three_times_the_reading_of_a_file_in_memory(tmp_path):
    """100 MB would take too long here; a disk that is slower than memory makes the ratio smaller."""
    path = tmp_path / "large.pt"
    atomic.save_tensors(path, {"w": torch.randn(4_000_000)})

    def seconds(call) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return min(times)

    of_bytes = seconds(lambda: zlib.crc32(path.read_bytes()))
    assert seconds(lambda: checksums.check_archive(path)) < 3 * of_bytes
