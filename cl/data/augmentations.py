"""Augmentations of whole batches, every image with random numbers of its own.

torchvision's transforms draw once per call, so on a batch every image would be changed alike. Here the images that drew
the same operation are changed together by torchvision's functions.
"""

import math

import torch
import torch.nn.functional as F

ATTEMPTS = 10  # boxes drawn for each image before the largest central one is taken
BINS = 31  # strengths of RandAugment's operations, of which `magnitude` is one
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness")
OPERATIONS = ("identity", *SIGNED, "posterize", "solarize", "auto_contrast", "equalize")


def center_crop(x: torch.Tensor, side: int) -> torch.Tensor:
    """The central square of images [B, C, H, W]; raises ValueError where they are smaller."""
    height, width = x.shape[-2:]
    if side > min(height, width):
        raise ValueError(f"a square of {side} pixels cannot be cut out of pictures of {height}x{width}")
    top, left = (height - side) // 2, (width - side) // 2
    return x[..., top : top + side, left : left + side]


def random_resized_crop(
    x: torch.Tensor,
    side: int,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> torch.Tensor:
    """A random box of each uint8 image [B, C, H, W], scaled to [B, C, side, side].

    The box has a share of the area between the two of `scale` and an aspect ratio between the two of `ratio`, uniform
    in its logarithm (Szegedy et al. 2015, Going Deeper with Convolutions, section 6).
    """
    boxes = random_boxes(len(x), x.shape[-2:], generator, scale, ratio)
    if x.device.type != "cpu":
        return _sampled(x, boxes, side)
    # On a processor one call per image is three times as fast as one grid for all of them, and averages where it scales
    # down; torch has that for uint8 on processors only.
    found = torch.empty(len(x), x.shape[1], side, side, dtype=x.dtype, memory_format=torch.channels_last)
    for image, (top, left, height, width), place in zip(x, boxes.tolist(), found):
        box = image[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        place.copy_(F.interpolate(box, (side, side), mode="bilinear", antialias=True)[0])
    return found


def random_boxes(
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> torch.Tensor:
    """[count, 4] int64: top, left, height and width of boxes in an image of (height, width)."""
    height, width = size
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, device=device)

    area = uniform(*scale, count, ATTEMPTS) * (height * width)
    aspect = uniform(math.log(ratio[0]), math.log(ratio[1]), count, ATTEMPTS).exp()
    heights, widths = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
    first = fits.int().argmax(1, keepdim=True)
    # Where none fits: the largest central box whose aspect ratio is allowed.
    own = min(max(width / height, ratio[0]), ratio[1])
    largest = (height, round(height * own)) if width / height > own else (round(width / own), width)
    fits = fits.any(1)
    heights = torch.where(fits, heights.gather(1, first)[:, 0], largest[0])
    widths = torch.where(fits, widths.gather(1, first)[:, 0], largest[1])
    free = torch.stack([height - heights, width - widths])
    corners = (torch.rand(2, count, generator=generator, device=device) * (free + 1)).long()
    tops, lefts = torch.where(fits, corners, free // 2)
    return torch.stack([tops, lefts, heights, widths], 1)


def _sampled(x: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """The boxes of images, bilinear, all at once."""
    top, left, height, width = boxes.to(x.device).float()[:, :, None].unbind(1)
    steps = (torch.arange(side, device=x.device) + 0.5) / side
    rows = (top + steps * height) * 2 / x.shape[2] - 1
    columns = (left + steps * width) * 2 / x.shape[3] - 1
    shape = (len(x), side, side)
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False).round_().to(x.dtype)


def rand_augment(x: torch.Tensor, generator: torch.Generator, num_ops: int = 2, magnitude: int = 9) -> torch.Tensor:
    """`num_ops` random operations, one after the other, on each uint8 image [B, C, H, W].

    RandAugment (Cubuk et al. 2020) with its 14 operations; `magnitude` of 31 strengths, the sign is random.
    """
    for _ in range(num_ops):
        drawn = torch.randint(2 * len(OPERATIONS), (len(x),), generator=generator, device=x.device)
        changed = x.clone()
        for choice in drawn.unique().tolist():
            name, sign = OPERATIONS[choice // 2], 1 if choice % 2 else -1
            which = (drawn == choice).nonzero()[:, 0]
            changed.index_copy_(0, which, operate(x.index_select(0, which), name, sign, magnitude))
        x = changed
    return x


def operate(x: torch.Tensor, name: str, sign: int, magnitude: int) -> torch.Tensor:
    """One of RandAugment's operations on uint8 images [B, C, H, W]; colour is left as it is where there is none."""
    from torchvision.transforms.v2 import functional as V

    share = magnitude / (BINS - 1)
    if name == "identity" or name == "color" and x.shape[1] == 1:
        return x
    if name in ("shear_x", "shear_y"):
        degrees = math.degrees(math.atan(sign * 0.3 * share))
        shear = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
        return V.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])
    if name in ("translate_x", "translate_y"):
        length = x.shape[3] if name == "translate_x" else x.shape[2]
        pixels = int(sign * 150 / 331 * share * length)
        translate = [pixels, 0] if name == "translate_x" else [0, pixels]
        return V.affine(x, angle=0.0, translate=translate, scale=1.0, shear=[0.0, 0.0])
    if name == "rotate":
        return V.rotate(x, sign * 30 * share)
    if name in ("brightness", "color", "contrast", "sharpness"):
        adjust = V.adjust_saturation if name == "color" else getattr(V, f"adjust_{name}")
        return adjust(x, 1 + sign * 0.9 * share)
    if name == "posterize":
        return V.posterize(x, 8 - round(4 * share))
    if name == "solarize":
        return V.solarize(x, 255 * (1 - share))
    return V.autocontrast(x) if name == "auto_contrast" else V.equalize(x)


def mix(
    x: torch.Tensor, generator: torch.Generator, mixup: float, cutmix: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float images [B, C, H, W] each mixed with another one: the images, the partners [B] int64, the weights [B].

    A label then counts with the weight, that of the partner with the rest. mixup (Zhang et al. 2018): the two images
    are averaged; CutMix (Yun et al. 2019): a box is the partner's, and the weight is the share of the area outside it.
    Both are given the alpha of Beta(alpha, alpha), from which each image draws; 0: off; with both, each image has one.
    """
    count, _, height, width = x.shape
    device = x.device
    partner = torch.randperm(count, generator=generator, device=device)
    cut = torch.rand(count, generator=generator, device=device) < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = torch.where(cut, cutmix, mixup).expand(2, count).contiguous()
    gammas = torch._standard_gamma(alpha, generator=generator)  # Beta(a, a) is G / (G + G') of two Gamma(a)
    weight = gammas[0] / gammas.sum(0).clamp(min=torch.finfo(gammas.dtype).tiny)
    # A box of that share of the area, at any place; what sticks out is cut off.
    side = (1 - weight).sqrt()
    middle = torch.rand(2, count, generator=generator, device=device)
    low, high = (middle - side / 2).clamp(0, 1), (middle + side / 2).clamp(0, 1)
    sizes = torch.tensor([[height], [width]], device=device)
    low, high = (low * sizes).round(), (high * sizes).round()
    rows, columns = (torch.arange(size, device=device) for size in (height, width))
    in_rows = (rows >= low[0][:, None]) & (rows < high[0][:, None])
    in_columns = (columns >= low[1][:, None]) & (columns < high[1][:, None])
    box = (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)
    weight = torch.where(cut, 1 - box.float().mean((1, 2, 3)), weight)
    share = torch.where(cut.view(-1, 1, 1, 1), (~box).float(), weight.view(-1, 1, 1, 1))
    return share * x + (1 - share) * x[partner], partner, weight
