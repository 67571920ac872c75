"""Batch transforms: scaling against torchvision, the laws of crop and flip, repeatability, nothing changed in place.

The statistical tests have fixed seeds, so they pass or fail for good with one version of torch; the error rates stated
are the chances that another generator of random numbers would make a right transform fail.
"""

import typing

import pytest
import torch
from torchvision.transforms import v2

from cl.build import KINDS, build
from cl.data.transforms import AUGMENTATIONS, BatchTransform, permute_pixels, random_crop, random_flip, rotate

CPU = torch.device("cpu")


def transform(augment=(), mean=None, std=None, channels: int = 3) -> BatchTransform:
    made = BatchTransform(list(augment), mean, std, channels, CPU)
    made.reseed(0)
    return made


def all_levels(channels: int = 3) -> torch.Tensor:
    """Two images of 16x16 pixels with each level once in each channel, in a different order."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randperm(256, generator=generator).view(16, 16) for _ in range(2 * channels)]
    return torch.stack(images).view(2, channels, 16, 16).to(torch.uint8)


def pictures(batch: int, channels: int = 3, side: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, side, side), dtype=torch.uint8, generator=generator)


def chi_square_p(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """The probability of a larger deviation from the expected counts (Pearson)."""
    assert observed.sum() == pytest.approx(float(expected.sum()))
    statistic = ((observed.double() - expected.double()) ** 2 / expected.double()).sum()
    degrees = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, statistic / 2))


# Scaling and normalisation

CIFAR_MEAN, CIFAR_STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2615]


@pytest.mark.parametrize(
    "channels, mean, std",
    [
        (3, None, None),
        (1, None, None),
        (1, [0.5], [0.5]),
        (1, [0.1307], [0.3081]),
        (3, CIFAR_MEAN, CIFAR_STD),
        (3, [0.0, 0.5, 1.0], [1.0, 0.1, 0.9]),
        (3, [0, 0, 0], [1, 1, 1]),  # whole numbers, as a command line gives them
    ],
)
def test_scaling_and_normalisation_are_those_of_torchvision(channels, mean, std):
    steps = [v2.ToDtype(torch.float32, scale=True)]
    if mean is not None:
        steps.append(v2.Normalize(mean, std))
    x = all_levels(channels)
    expected = v2.Compose(steps)(x)
    for got in (transform([], mean, std, channels).test(x), transform([], mean, std, channels).train(x)):
        assert got.dtype == torch.float32 and got.shape == x.shape and got.is_contiguous()
        # a few roundings of float32 numbers below 11
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_black_is_zero_and_white_is_one_without_normalisation():
    x = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert transform([], channels=1).test(x).flatten().tolist() == [0.0, 1.0]


def test_the_test_transform_does_not_augment():
    x = pictures(50)
    assert torch.equal(transform(["crop", "flip"]).test(x), transform([]).test(x))
    assert not torch.equal(transform(["crop", "flip"]).train(x), transform([]).test(x))


@pytest.mark.parametrize("augment", [[], ["crop"], ["flip"], ["crop", "flip"]])
@pytest.mark.parametrize("mean, std", [(None, None), (CIFAR_MEAN, CIFAR_STD)])
def test_the_images_given_are_never_changed(augment, mean, std):
    x = pictures(20)
    before = x.clone()
    made = transform(augment, mean, std)
    made.train(x), made.test(x)
    assert torch.equal(x, before) and x.dtype == torch.uint8


@pytest.mark.parametrize("function", [lambda x: permute_pixels(x, torch.arange(768).flip(0)), lambda x: rotate(x, 33)])
def test_a_task_s_transformation_changes_nothing_in_place(function):
    x = pictures(5)
    before = x.clone()
    assert not torch.equal(function(x), before) and torch.equal(x, before)


def test_a_view_that_is_not_contiguous_is_transformed_like_its_copy():
    x = pictures(40)
    view = x[::2, :, :, :].transpose(2, 3)
    assert not view.is_contiguous()
    made = transform(["crop", "flip"], CIFAR_MEAN, CIFAR_STD)
    first = made.train(view)
    made.reseed(0)
    assert torch.equal(first, made.train(view.contiguous()))


# Crop


def whole_levels(out: torch.Tensor) -> torch.Tensor:
    return (out * 255).round().to(torch.uint8)


def places(out: torch.Tensor, x: torch.Tensor, padding: int) -> torch.Tensor:
    """For each image the number of the place it was cropped at; fails if it is no crop of the padded original."""
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    number = torch.full((len(x),), -1)
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            same = (out == padded[:, :, top : top + height, left : left + width]).flatten(1).all(1)
            assert (number[same] == -1).all(), "an image fits two places: the test's pictures are too plain"
            number[same] = top * (2 * padding + 1) + left
    assert (number >= 0).all(), "an image is no crop of the padded one"
    return number


@pytest.mark.parametrize("side, padding, count", [(8, 1, 9000), (16, 2, 10000), (32, 4, 8100)])
def test_every_crop_is_a_part_of_the_padded_image_and_all_places_are_equally_likely(side, padding, count):
    x = pictures(count, channels=2, side=side)
    number = places(whole_levels(transform(["crop"], channels=2).train(x)), x, padding)
    cells = (2 * padding + 1) ** 2
    # error rate 1e-4 for each of the three
    assert chi_square_p(number.bincount(minlength=cells), torch.full((cells,), count / cells)) > 1e-4


def test_places_of_neighbours_in_a_batch_are_independent():
    x = pictures(16200, channels=1, side=8)
    number = places(whole_levels(transform(["crop"], channels=1).train(x)), x, 1)
    # all 81 pairs of places of two neighbours, 100 of each expected; error rate 1e-4
    pairs = number[0::2] * 9 + number[1::2]
    assert chi_square_p(pairs.bincount(minlength=81), torch.full((81,), 100.0)) > 1e-4


def test_pictures_that_are_not_square_are_cropped_at_their_size():
    x = torch.randint(0, 256, (200, 3, 6, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = random_crop(x, 2, torch.Generator().manual_seed(0))
    assert out.shape == x.shape and len(places(out, x, 2).unique()) > 20


# Flip


def flipped(out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """For each image whether it was mirrored; fails if it is neither itself nor its mirror image."""
    same, mirrored = (out == x).flatten(1).all(1), (out == x.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    return mirrored


def test_half_of_the_images_are_mirrored():
    x = pictures(10000, side=4)
    count = int(flipped(whole_levels(transform(["flip"]).train(x)), x).sum())
    # binomial: 5000 +- 50; four deviations are an error rate of 6e-5
    assert abs(count - 5000) < 200


def test_images_of_one_batch_are_mirrored_independently():
    made, x = transform(["flip"]), pictures(8, side=4)
    counts = torch.stack([flipped(whole_levels(made.train(x)), x).sum() for _ in range(3000)])
    # mirrored images per batch of eight: the binomial law; one draw per batch would give only 0 and 8. Error rate 1e-4
    law = torch.tensor([1, 8, 28, 56, 70, 56, 28, 8, 1]) / 256
    assert chi_square_p(counts.bincount(minlength=9), 3000 * law) > 1e-4


def test_each_place_in_the_batch_is_mirrored_half_the_time():
    made, x = transform(["flip"]), pictures(8, side=4)
    counts = torch.stack([flipped(whole_levels(made.train(x)), x) for _ in range(3000)]).sum(0)
    # binomial: 1500 +- 27.4; 4.5 deviations for any of eight are an error rate of 6e-5
    assert (counts - 1500).abs().max() < 123


def test_crop_and_flip_together_give_every_combination():
    x = pictures(3600, side=8)
    out = whole_levels(transform(["crop", "flip"]).train(x))
    padded = torch.nn.functional.pad(x, (1,) * 4)
    found = torch.zeros(18)
    for number in range(18):
        top, left, mirror = number // 6, number // 2 % 3, number % 2
        part = padded[:, :, top : top + 8, left : left + 8]
        found[number] = (out == (part.flip(-1) if mirror else part)).flatten(1).all(1).sum()
    # 9 places, mirrored or not, 200 of each expected; error rate 1e-4
    assert chi_square_p(found, torch.full((18,), 200.0)) > 1e-4


# Repeatability


@pytest.mark.parametrize("augment", [["crop"], ["flip"], ["crop", "flip"]])
def test_reseeding_repeats_exactly_and_another_seed_does_not(augment):
    x, made = pictures(30), transform(augment)
    made.reseed(11)
    first = [made.train(x) for _ in range(3)]
    torch.manual_seed(99), torch.rand(5)  # torch's own generator has no part in it
    made.reseed(11)
    assert all(torch.equal(made.train(x), batch) for batch in first)
    assert not torch.equal(first[0], first[1])
    made.reseed(12)
    assert not torch.equal(made.train(x), first[0])


def test_augmentation_leaves_torch_s_own_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    transform(["crop", "flip"]).train(pictures(10))
    assert torch.equal(torch.rand(4), expected)


def test_two_transforms_do_not_share_their_random_numbers():
    x = pictures(30)
    first, second = transform(["flip"]), transform(["flip"])
    expected = first.train(x)
    first.train(x)
    assert torch.equal(second.train(x), expected)


# What cannot be


@pytest.mark.parametrize(
    "augment, mean, std, channels, message",
    [
        ([], [0.5], None, 1, "belong together"),
        ([], None, [0.5], 1, "belong together"),
        ([], [0.5], [0.5], 3, "one number per channel"),
        ([], [0.5, 0.5, 0.5], [0.5], 3, "one number per channel"),
        ([], [0.5], [0.5, 0.5, 0.5], 3, "one number per channel"),
        ([], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], 1, "one number per channel"),
        ([], [0.5], [0.0], 1, "dataset.std"),  # every pixel would be infinite or not a number
        ([], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], 3, "dataset.std"),
        ([], [127.5], [0.5], 1, r"pixels in \[0, 1\], not in 0 to 255"),
        ([], [0.5], [64.0], 1, r"pixels in \[0, 1\], not in 0 to 255"),
        ([], [-0.5], [0.5], 1, "the mean not below 0"),
        ([], [float("nan")], [0.5], 1, "dataset.mean must be finite"),
        ([], [0.5], [float("nan")], 1, "dataset.std must be finite"),  # it is not below 0
        ([], ["a"], [0.5], 1, "dataset.mean must be numbers"),
        ([], [0.5], [True], 1, "dataset.std must be numbers"),
        ([], [0.5], [[0.5]], 1, "dataset.std must be numbers"),
    ],
)
def test_unfit_numbers_are_rejected(augment, mean, std, channels, message):
    with pytest.raises(ValueError, match=message):
        BatchTransform(augment, mean, std, channels, CPU)


def test_a_number_in_place_of_a_list_is_a_list_of_one():
    node = {"_target_": "cl.datasets.digits.Digits", "validation": 0.0, "mean": 0.5, "std": 0.25, "augment": "flip"}
    dataset = build(node, "dataset")
    assert (dataset.mean, dataset.std, dataset.augment) == ([0.5], [0.25], ["flip"])


# The functions that scenarios use


def test_a_permutation_moves_pixels_over_all_channels():
    x = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    out = permute_pixels(x, torch.tensor([11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
    assert out.flatten(1).tolist() == [[11, *range(11)], [23, *range(12, 23)]]
    assert out.shape == x.shape and out.is_contiguous()


def test_rotation_by_half_a_right_angle_keeps_the_middle_and_darkens_the_corners():
    out = rotate(torch.full((1, 1, 28, 28), 200, dtype=torch.uint8), 45)
    assert out[0, 0, 10:18, 10:18].unique().tolist() == [200]
    assert [int(out[0, 0, i, j]) for i in (0, -1) for j in (0, -1)] == [0, 0, 0, 0]


def test_flip_mirrors_left_and_right():
    x = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3).expand(64, 1, 2, 3)
    out = random_flip(x, torch.Generator().manual_seed(0))
    assert {tuple(image.flatten().tolist()) for image in out} == {(0, 1, 2, 3, 4, 5), (2, 1, 0, 5, 4, 3)}


def test_the_options_of_data_sets_know_every_augmentation():
    (names,) = typing.get_args(KINDS["dataset"]["augment"])
    assert set(typing.get_args(names)) == set(AUGMENTATIONS)
