"""Ptychography: the far-field model, files as instruments' pipelines write them, the part held out, clear errors."""

import numpy as np
import pytest
import torch

from cl.datasets.ptycho import OBJECT, PATTERNS, Ptycho
from cl.datasets.ptycho_synthetic import PtychoSynthetic, diffraction, probe, smooth_fields

SIZE = 8


def synthetic(**options) -> PtychoSynthetic:
    options = {"scans": 3, "patterns": 20, "photons": None, "seed": 0, "held_out": 0.1, "validation": 0.0} | options
    return PtychoSynthetic(size=16, mean=None, std=None, augment=[], **options)


def random_patches(count: int, size: int = 16) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(0, 1, (count, size, size)) * np.exp(1j * random.uniform(-3, 3, (count, size, size)))


def test_the_far_field_keeps_the_energy_and_loses_a_phase_of_everything():
    patches, beam = random_patches(5), probe(16)
    magnitudes = diffraction(patches, beam)
    assert np.allclose(np.square(magnitudes).sum((1, 2)), np.square(np.abs(patches * beam)).sum((1, 2)))
    assert np.allclose(diffraction(patches * np.exp(0.7j), beam), magnitudes)
    assert not np.allclose(diffraction(np.conj(patches), beam), magnitudes)


def test_a_plane_wave_is_focused_in_the_middle():
    pattern = diffraction(np.ones((1, 16, 16)), np.ones((16, 16)))[0]
    assert pattern[8, 8] == pytest.approx(16) and np.count_nonzero(pattern > 1e-9) == 1


def test_fields_are_as_smooth_as_asked_and_of_unit_variance():
    random = np.random.default_rng(1)
    fields = {length: smooth_fields(random, (400,), 32, length, 1.0, 0.0) for length in (0.05, 0.3)}
    steps = {length: np.square(np.diff(field, axis=1)).mean() for length, field in fields.items()}
    assert steps[0.3] < 0.1 * steps[0.05]
    for field in fields.values():
        assert field.shape == (400, 32, 32) and abs(field.mean()) < 1e-9
        assert np.square(field).mean() == pytest.approx(1, abs=0.1)  # of 400 fields: their mean is off by 0.03


def test_records_have_what_the_model_says():
    dataset = synthetic()
    train, test = dataset.load(0)
    assert len(train) == 3 * 18 and len(test) == 3 * 2
    assert train.y.tolist() == [0] * 18 + [1] * 18 + [2] * 18
    for split in (train, test):
        assert split.x.shape == (len(split), *dataset.sample_shape) and split.x.dtype == dataset.sample_dtype
        assert {name: value.shape[1:] for name, value in split.targets.items()} == dataset.target_shapes
        patches = (split.targets["amplitude"] * torch.exp(1j * split.targets["phase"]))[:, 0].numpy()
        assert np.allclose(diffraction(patches, probe(16)), split.x[:, 0].numpy(), atol=1e-4)
    first, second = (synthetic().scan(place)[1] for place in (0, 1))
    assert not np.allclose(first, second) and np.allclose(first, synthetic().scan(0)[1])
    assert not np.allclose(first, synthetic(seed=1).scan(0)[1])


def test_the_test_split_is_the_same_for_every_seed():
    (_, one), (_, other) = (synthetic().load(seed) for seed in (0, 1))
    assert torch.equal(one.x, other.x)
    train, held = synthetic(validation=0.2).load(0)
    assert len(train) + len(held) == 54 and torch.equal(synthetic().load(0)[1].x, one.x)


def test_photons_are_counted():
    exact, noisy = (synthetic(photons=photons).scan(0)[0] for photons in (None, 1e4))
    scale = 1e4 / np.square(exact).sum((1, 2), keepdims=True)
    counts = np.square(noisy) * scale
    assert np.allclose(counts, np.round(counts), atol=1e-6)
    # Poisson: the mean square of (counts - mean) / sqrt(mean) is 1, over 5,120 pixels to 0.02 (pixels of few counts
    # spread more). Error rate below 1e-4; the data have a fixed seed.
    mean = np.square(exact) * scale
    bright = mean > 5
    assert np.square((counts - mean)[bright] / np.sqrt(mean[bright])).mean() == pytest.approx(1, abs=0.2)


def write_scan(folder, count: int, void: int = 0, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(folder.name))
    patches = random.uniform(0.5, 1, (count, size, size)) * np.exp(1j * random.uniform(0.3, 1, (count, size, size)))
    patches[:void] = np.abs(patches[:void])
    patterns = random.uniform(0, 9, (count, size, size)).astype(np.float32)
    np.save(folder / PATTERNS, patterns)
    np.save(folder / OBJECT, patches.astype(np.complex64))
    return patterns, patches


def files(root, scans: int, void: float = 0.02) -> Ptycho:
    return Ptycho(str(root), scans, SIZE, void, 0.25, 0.0, None, None, [])


def test_scans_are_read_in_the_order_of_their_numbers_without_void_patches(tmp_path):
    written = {name: write_scan(tmp_path / name, 12, void=4) for name in ("scan1000", "scan204", "scan99")}
    dataset = files(tmp_path, 2)
    dataset.check()
    train, test = dataset.load(0)
    assert train.y.tolist() == [0] * 6 + [1] * 6 and test.y.tolist() == [0] * 2 + [1] * 2
    for label, name in enumerate(("scan99", "scan204")):
        patterns, patches = written[name]
        own = torch.cat([split.x[split.y == label] for split in (train, test)])[:, 0].numpy()
        assert sorted(map(float, own.sum((1, 2)))) == pytest.approx(sorted(map(float, patterns[4:].sum((1, 2)))))
        phases = torch.cat([split.targets["phase"][split.y == label] for split in (train, test)])
        assert sorted(phases.mean((1, 2, 3)).tolist()) == pytest.approx(sorted(np.angle(patches[4:]).mean((1, 2))))
        amplitudes = torch.cat([split.targets["amplitude"][split.y == label] for split in (train, test)])
        assert amplitudes.mean().item() == pytest.approx(np.abs(patches[4:]).mean(), rel=1e-5)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has 0 folders of scans, expected dataset.scans=1"):
        files(tmp_path, 1).check()
    write_scan(tmp_path / "204", 6)
    with pytest.raises(FileNotFoundError, match="has 1 folders of scans, expected dataset.scans=2"):
        files(tmp_path, 2).check()
    dataset = files(tmp_path, 1, void=100.0)
    dataset.check()
    with pytest.raises(ValueError, match="0 of 6 patches are above dataset.void"):
        dataset.load(0)
    (tmp_path / "204" / OBJECT).write_bytes(b"no array")
    with pytest.raises(ValueError, match=f"{OBJECT} cannot be read"):
        files(tmp_path, 1).check()
    (tmp_path / "204" / OBJECT).unlink()
    with pytest.raises(FileNotFoundError, match=f"no .*{OBJECT}"):
        files(tmp_path, 1).check()
    write_scan(tmp_path / "100", 6, size=6)
    with pytest.raises(ValueError, match=r"should be \(patches, 8, 8\).*see dataset.size"):
        files(tmp_path, 1).check()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patterns": 1}, "dataset.patterns"),
        ({"photons": 0.0}, "dataset.photons"),
        ({"scans": 0}, "dataset.scans"),
        ({"held_out": 1.0}, "dataset.held_out"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**options)


def test_patterns_are_not_augmented():
    with pytest.raises(ValueError, match="belongs to another object"):
        PtychoSynthetic(2, 5, 16, None, 0, 0.5, 0.0, None, None, ["flip"])


def test_patches_are_either_trained_on_or_tested_on(tmp_path):
    patterns, _ = write_scan(tmp_path / "204", 20)
    train, test = files(tmp_path, 1).load(3)  # loads without a check before
    sums = [split.x.sum((1, 2, 3)).tolist() for split in (train, test)]
    assert len(sums[0]) == 15 and len(sums[1]) == 5 and not set(sums[0]) & set(sums[1])
    assert sorted(sums[0] + sums[1]) == pytest.approx(sorted(patterns.sum((1, 2)).tolist()))
    assert torch.equal(files(tmp_path, 1).load(8)[1].x, test.x)


def test_values_that_cannot_be_are_named_with_their_file(tmp_path):
    patterns, patches = write_scan(tmp_path / "204", 6)
    for name, array in ((PATTERNS, patterns), (OBJECT, patches)):
        damaged = array.copy()
        damaged[2, 3, 3] = np.nan
        np.save(tmp_path / "204" / name, damaged)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            files(tmp_path, 1).load(0)
        np.save(tmp_path / "204" / name, array)
    np.save(tmp_path / "204" / PATTERNS, patches)
    with pytest.raises(ValueError, match="the patterns real"):
        files(tmp_path, 1).check()
    with open(tmp_path / "204" / PATTERNS, "wb") as archive:
        np.savez(archive, patterns)
    with pytest.raises(ValueError, match="holds no array"):
        files(tmp_path, 1).check()
    np.save(tmp_path / "204" / PATTERNS, np.float32(1))
    with pytest.raises(ValueError, match="holds no array"):
        files(tmp_path, 1).check()


def test_a_shifted_object_turns_the_phase_of_a_far_field_only():
    patches = random_patches(3)
    moved = np.roll(patches, (2, 5), axis=(1, 2))
    plane = np.ones((16, 16))
    assert np.allclose(diffraction(moved, plane), diffraction(patches, plane))
    assert not np.allclose(diffraction(moved, probe(16)), diffraction(patches, probe(16)))


MEMORY = {
    "as it is": lambda array: array,
    "fortran": np.asfortranarray,
    "turned": lambda array: np.asfortranarray(array.transpose(2, 1, 0)).transpose(2, 1, 0),
    "every other": lambda array: np.repeat(array, 2, axis=0)[::2],
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "big-endian fortran": lambda array: np.asfortranarray(array.astype(array.dtype.newbyteorder(">"))),
}


@pytest.mark.parametrize("patterns, patches", [
    ("f2", "c8"), ("f4", "c16"), ("f8", "c8"), ("f16", "c32"), ("u1", "c8"), ("i2", "c16"), ("u8", "c16"),
])  # fmt: skip
@pytest.mark.parametrize("memory", MEMORY)
def test_arrays_of_every_memory_order_and_number_come_to_the_same(tmp_path, memory, patterns, patches):
    _, objects = write_scan(tmp_path / "204", 6)
    magnitudes = np.random.default_rng(0).integers(0, 100, (6, SIZE, SIZE))
    np.save(tmp_path / "204" / PATTERNS, MEMORY[memory](magnitudes.astype(patterns)))
    np.save(tmp_path / "204" / OBJECT, MEMORY[memory](objects.astype(patches)))
    dataset = files(tmp_path, 1)
    dataset.check()
    train, test = dataset.load(0)
    for name, expected in (("x", magnitudes), ("amplitude", np.abs(objects)), ("phase", np.angle(objects))):
        parts = [split.x if name == "x" else split.targets[name] for split in (train, test)]
        assert all(part.is_contiguous() and part.dtype == torch.float32 for part in parts)
        found = torch.cat(parts)[:, 0].numpy()
        order = [np.lexsort(rows.reshape(6, -1).T.round(3)) for rows in (found, expected)]
        assert np.allclose(found[order[0]], expected[order[1]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, dtype, message", [
    (PATTERNS, "?", "bool patterns"),
    (PATTERNS, "c8", "complex64 patterns"),
    (PATTERNS, "U3", "<U3 patterns"),
    (PATTERNS, "O", "cannot be read"),
    (PATTERNS, "M8[s]", "datetime64.* patterns"),
    (PATTERNS, [("a", "f4")], "patterns of shape"),
    (OBJECT, "f4", "float32 patches"),
    (OBJECT, "i8", "int64 patches"),
    (OBJECT, "O", "cannot be read"),
])  # fmt: skip
def test_arrays_that_are_no_such_numbers_are_refused_with_their_folder(tmp_path, name, dtype, message):
    write_scan(tmp_path / "204", 6)
    np.save(tmp_path / "204" / name, np.zeros((6, SIZE, SIZE)).astype(dtype))
    with pytest.raises(ValueError, match=f"204.*{message}") as error:
        files(tmp_path, 1).check()
    assert "\n" not in str(error.value)


def test_numbers_beyond_float32_are_refused_with_their_file(tmp_path):
    patterns, _ = write_scan(tmp_path / "204", 6)
    np.save(tmp_path / "204" / PATTERNS, patterns.astype(np.float64) * 1e39)
    with pytest.raises(ValueError, match=f"{PATTERNS} has values beyond the range of float32"):
        files(tmp_path, 1).load(0)


def test_the_folder_of_one_scan_is_not_that_of_scans(tmp_path):
    write_scan(tmp_path / "204", 6)
    with pytest.raises(FileNotFoundError, match="204 is the folder of one scan: set dataset.root=.*, the folder above"):
        files(tmp_path / "204", 1).check()
