"""The bundled digits: two splits that share no sample, and the part held out for validation."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from cl.datasets.digits import Digits


def digits(validation: float = 0.0) -> Digits:
    return Digits(validation=validation, mean=None, std=None, augment=[])


def rows(split) -> list[bytes]:
    """Each sample with its label, as something that can be counted and compared."""
    return [bytes([label]) + image.numpy().tobytes() for image, label in zip(split.x, split.y.tolist())]


@pytest.fixture(scope="module")
def official():
    return digits().load(seed=0)


def test_sizes_and_shapes(official):
    train, test = official
    # a fifth of each class, rounded down, is the test split
    counts = np.bincount(load_digits().target)
    assert test.y.bincount().tolist() == (counts // 5).tolist()
    assert train.y.bincount().tolist() == (counts - counts // 5).tolist()
    assert len(train) + len(test) == 1797
    for split in official:
        assert tuple(split.x.shape[1:]) == Digits.sample_shape == (1, 8, 8)
        assert split.x.dtype == torch.uint8 and split.x.is_contiguous()
        assert split.y.dtype == torch.int64 and split.y.is_contiguous()
        assert split.y.unique().tolist() == list(range(Digits.num_classes))


def test_the_two_splits_together_are_the_bundled_samples_once_each(official):
    images, labels = load_digits(return_X_y=True)
    # sixteen levels become the nearest of 255: computed in integers, apart from the code under test
    levels = [(2 * 255 * level + 16) // 32 for level in range(17)]
    expected = [bytes([y]) + bytes(levels[int(v)] for v in image) for image, y in zip(images, labels)]
    assert sorted(rows(official[0]) + rows(official[1])) == sorted(expected)
    assert not set(rows(official[0])) & set(rows(official[1]))


def test_levels_span_the_whole_byte(official):
    for split in official:
        levels = split.x.unique().tolist()
        assert len(levels) == 17 and levels[0] == 0 and levels[-1] == 255


def test_the_splits_do_not_depend_on_the_seed_without_validation(official):
    for first, second in zip(official, digits().load(seed=7)):
        assert torch.equal(first.x, second.x) and torch.equal(first.y, second.y)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_validation_splits_the_training_samples_and_never_uses_the_test_samples(official, share):
    train, held_out = digits(share).load(seed=0)
    assert len(held_out) == round(share * len(official[0]))
    assert sorted(rows(train) + rows(held_out)) == sorted(rows(official[0]))
    assert not set(rows(train)) & set(rows(held_out))
    assert not (set(rows(train)) | set(rows(held_out))) & set(rows(official[1]))
    for split in (train, held_out):
        assert split.x.is_contiguous() and split.x.dtype == torch.uint8


def test_the_validation_part_depends_on_the_seed_only():
    np.random.seed(1), torch.manual_seed(1)
    first = rows(digits(0.2).load(seed=3)[1])
    np.random.seed(2), torch.manual_seed(2)
    assert rows(digits(0.2).load(seed=3)[1]) == first
    assert rows(digits(0.2).load(seed=4)[1]) != first


class InOrder(Digits):
    """The digits as files give them: sorted by class; `counts` of each."""

    counts = (140, 3, 77, 1, 10, 25, 100, 2, 60, 9)

    def read(self):
        train, test = super().read()
        chosen = [torch.nonzero(train.y == label)[:count, 0] for label, count in enumerate(self.counts)]
        return train.part(torch.cat(chosen)), test


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5, 0.77])
def test_each_part_has_of_each_class_its_share(share, seed):
    train, held_out = InOrder(share, None, None, []).load(seed)
    counts = torch.tensor(InOrder.counts)
    assert len(held_out) == round(share * sum(InOrder.counts))
    for part in (train, held_out):
        expected = counts * len(part) / sum(InOrder.counts)
        assert (part.y.bincount(minlength=10) - expected).abs().max() < 1
    assert not torch.equal(held_out.x, InOrder(share, None, None, []).load(seed + 2)[1].x)


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_a_share_that_leaves_nothing_is_rejected(share):
    with pytest.raises(ValueError, match="dataset.validation"):
        digits(share).load(seed=0)
