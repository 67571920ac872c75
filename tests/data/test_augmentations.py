"""Augmentations of batches: exact where a draw is known, distributions with a stated error rate."""

import math

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from cl.data.augmentations import (  # fmt: skip
    OPERATIONS,
    _sampled,
    center_crop,
    mix,
    operate,
    rand_augment,
    random_boxes,
    random_resized_crop,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, channels: int = 3, height: int = 20, width: int = 20) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator(9))


def test_the_centre_is_that_of_torchvision():
    for height, width, side in ((20, 20, 14), (9, 12, 4), (5, 5, 5)):
        x = pictures(2, height=height, width=width)
        assert torch.equal(center_crop(x, side), x if side == 5 else V.center_crop(x, [side, side]))
    with pytest.raises(ValueError, match="6 pixels cannot be cut out of pictures of 5x5"):
        center_crop(pictures(1, height=5, width=5), 6)


def test_boxes_lie_inside_and_have_the_area_and_ratio_that_were_asked_for():
    boxes = random_boxes(4000, (64, 96), generator(), (0.2, 0.4), (0.75, 4 / 3))
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 64).all() and (left + width <= 96).all()
    share, ratio = height * width / (64 * 96), width / height
    assert 0.19 < share.min() and share.max() < 0.42 and 0.7 < ratio.min() and ratio.max() < 1.4
    # Areas are uniform: no box of this size has to be drawn again. Error rate of each test 1e-4, the seed is fixed.
    assert stats.kstest(share.numpy(), stats.uniform(0.2, 0.2).cdf).pvalue > 1e-4
    logs = stats.uniform(math.log(0.75), math.log(16 / 9)).cdf
    assert stats.kstest(ratio.log().numpy(), logs).pvalue > 1e-4


def test_a_box_that_never_fits_is_the_largest_central_one():
    boxes = random_boxes(50, (10, 100), generator(), (1.0, 1.0), (0.75, 4 / 3))
    assert torch.equal(boxes, torch.tensor([[0, 43, 10, 13]]).expand(50, 4))


def test_a_crop_is_the_box_scaled_by_torchvision():
    x = pictures(6, height=30, width=40)
    boxes = random_boxes(6, (30, 40), generator(1), (0.08, 1.0), (0.75, 4 / 3)).tolist()
    got = random_resized_crop(x, 12, generator(1))
    for image, box, found in zip(x, boxes, got):
        expected = V.resized_crop(image, *box, [12, 12], antialias=True)
        assert (found.int() - expected.int()).abs().max() <= 1


def test_both_ways_to_crop_agree_where_nothing_is_averaged():
    x = V.gaussian_blur(pictures(8, height=16, width=16), [5, 5])
    boxes = random_boxes(8, (16, 16), generator(2), (0.5, 1.0), (1.0, 1.0))
    larger = _sampled(x, boxes, 32)
    own = random_resized_crop(x, 32, generator(2), (0.5, 1.0), (1.0, 1.0))
    # the one looks beyond the border of the box, the other does not
    assert (larger.int() - own.int())[:, :, 2:-2, 2:-2].abs().max() <= 1


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_operations_are_those_of_torchvision(magnitude):
    reference = v2.RandAugment(num_ops=1, magnitude=magnitude)
    names = {"translate_x": "TranslateX", "translate_y": "TranslateY", "shear_x": "ShearX", "shear_y": "ShearY"}
    names |= {"auto_contrast": "AutoContrast"}
    x = pictures(3, height=24, width=32)
    assert len(reference._AUGMENTATION_SPACE) == len(OPERATIONS)
    for name in OPERATIONS:
        theirs = names.get(name, name.capitalize())
        strengths, signed = reference._AUGMENTATION_SPACE[theirs]
        values = strengths(31, 24, 32)
        strength = 0.0 if values is None else float(values[magnitude] if values.ndim else values)
        for sign in (-1, 1):
            expected = reference._apply_image_or_video_transform(
                x, theirs, sign * strength if signed else strength, v2.InterpolationMode.NEAREST, {}
            )
            # strengths of torchvision are float32: a level may be rounded the other way
            difference = operate(x, name, sign, magnitude).int() - expected.int()
            assert difference.abs().max() <= 1 and difference.abs().float().mean() < 0.01, (name, sign)


@pytest.mark.parametrize("shape", [(3, 3, 24, 32), (2, 1, 3, 9), (1, 3, 2, 5)])
def test_operations_that_torchvision_does_slowly_have_its_bits(shape):
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(11))
    for magnitude in range(31):
        strength = magnitude / 30
        assert torch.equal(operate(x, "solarize", 1, magnitude), V.solarize(x, 255 * (1 - strength)))
        for sign in (-1, 1):
            sharpened = V.adjust_sharpness(x, 1 + sign * 0.9 * strength)
            assert torch.equal(operate(x, "sharpness", sign, magnitude), sharpened)
            for name, length, place in (("translate_x", shape[3], 0), ("translate_y", shape[2], 1)):
                move = [0, 0]
                move[place] = int(sign * 150 / 331 * strength * length)
                moved = V.affine(x, angle=0.0, translate=move, scale=1.0, shear=[0.0, 0.0])
                assert torch.equal(operate(x, name, sign, magnitude), moved)


def test_every_image_has_operations_of_its_own_in_equal_shares():
    x = torch.arange(0, 256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(5600, 3, 1, 1)
    x[:, 1], x[:, 2] = x[:, 1].flip(-1), x[:, 2] // 2
    got = rand_augment(x, generator(3), num_ops=1)
    own = [operate(x[:1], name, sign, 9) for name in OPERATIONS for sign in (-1, 1)]
    # What every kind of picture has to be expected from: several of the 28 leave this picture as it is.
    kinds = torch.cat(own).flatten(1).unique(dim=0, return_inverse=True)[1]
    chance = torch.bincount(kinds).double() / len(own)
    found = torch.cat([torch.cat(own), got]).flatten(1).unique(dim=0, return_inverse=True)[1]
    counts = torch.bincount(found[len(own) :], minlength=len(chance))
    assert len(counts) == len(chance) > 15
    # Error rate 1e-4; the seed is fixed.
    assert stats.chisquare(counts.numpy(), (chance * 5600).numpy()).pvalue > 1e-4


def test_grey_and_repeatable():
    x = pictures(12, channels=1)
    assert torch.equal(rand_augment(x, generator(4)), rand_augment(x, generator(4)))
    assert not torch.equal(rand_augment(x, generator(4)), rand_augment(x, generator(5)))
    assert torch.equal(operate(x, "color", 1, 30), x)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_are_what_weight_and_partner_say(kind):
    x = torch.rand(200, 2, 12, 10, generator=generator(6))
    alphas = {"mixup": 0.0, "cutmix": 0.0} | {kind: 1.0}
    mixed, partner, weight = mix(x, generator(7), **alphas)
    assert sorted(partner.tolist()) == list(range(200)) and (weight >= 0).all() and (weight <= 1).all()
    if kind == "mixup":
        w = weight.view(-1, 1, 1, 1)
        assert torch.allclose(mixed, w * x + (1 - w) * x[partner])
        # Beta(1, 1) is uniform. Error rate 1e-4, the seed is fixed.
        assert stats.kstest(weight.numpy(), "uniform").pvalue > 1e-4
    else:
        own, other = mixed == x, mixed == x[partner]
        assert (own | other).all()
        differ = partner != torch.arange(200)
        share = own.float().mean((1, 2, 3))
        assert torch.allclose(share[differ], weight[differ])
        for inside in ~own[differ][:, 0]:  # a box
            rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
            assert inside.sum() == len(rows) * len(columns)


def test_with_both_each_image_has_one_of_them():
    x = torch.rand(2000, 1, 8, 8, generator=generator(6))
    mixed, partner, weight = mix(x, generator(8), mixup=0.4, cutmix=1.0)
    cut = ((mixed == x) | (mixed == x[partner])).flatten(1).all(1)
    assert 850 < cut.sum() < 1150  # a half, to 6.7 standard deviations
    assert stats.kstest(weight[~cut].numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 1e-4
