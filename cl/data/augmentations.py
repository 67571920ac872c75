"""Augmentations of whole batches with independent random numbers for each image.

torchvision's transforms draw once per call and would change all images of a batch in the same way. Here the images that
drew the same operation are changed together, or one after the other where that is faster. What torchvision's functions
do slowly is done here in integers, to the same bits.
"""

import math

import torch
import torch.nn.functional as F

ATTEMPTS = 10  # boxes drawn for each image; if none fits, the largest central box is used
BINS = 31  # number of strengths of RandAugment's operations; `magnitude` is the index of one
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness")
OPERATIONS = ("identity", *SIGNED, "posterize", "solarize", "auto_contrast", "equalize")
CACHED = 1 << 18  # numbers of images whose floats stay in a CPU's cache from one step of an operation to the next
MAPPED = ("shear_x", "shear_y", "rotate")  # the map from places to places is made once for all images


def center_crop(x: torch.Tensor, side: int) -> torch.Tensor:
    """The central square of images [B, C, H, W], `side` pixels wide; raises ValueError for smaller images."""
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

    The area of the box is a fraction of the image drawn from `scale`. Its aspect ratio is drawn from `ratio`, uniform
    in the logarithm (Szegedy et al. 2015, Going Deeper with Convolutions, section 6).
    """
    boxes = random_boxes(len(x), x.shape[-2:], generator, scale, ratio)
    if x.device.type != "cpu":
        return _sampled(x, boxes, side)
    # On a CPU one call per image is three times as fast as one grid for all images, and it antialiases; torch has
    # antialiasing for uint8 only on CPUs.
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
    """Random boxes [count, 4] int64 (top, left, height, width) in an image of `size` (height, width)."""
    height, width = size
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, device=device)

    area = uniform(*scale, count, ATTEMPTS) * (height * width)
    aspect = uniform(math.log(ratio[0]), math.log(ratio[1]), count, ATTEMPTS).exp()
    heights, widths = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
    first = fits.int().argmax(1, keepdim=True)
    # If none fits: the largest central box with an allowed aspect ratio.
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
    """The boxes of all images in one call, with bilinear interpolation."""
    top, left, height, width = boxes.to(x.device).float()[:, :, None].unbind(1)
    steps = (torch.arange(side, device=x.device) + 0.5) / side
    rows = (top + steps * height) * 2 / x.shape[2] - 1
    columns = (left + steps * width) * 2 / x.shape[3] - 1
    shape = (len(x), side, side)
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False).round_().to(x.dtype)


def rand_augment(x: torch.Tensor, generator: torch.Generator, num_ops: int = 2, magnitude: int = 9) -> torch.Tensor:
    """`num_ops` random operations, one after the other, on each uint8 image [B, C, H, W].

    RandAugment (Cubuk et al. 2020) with its 14 operations; `magnitude`: strength from 0 to 30, with a random sign.
    """
    for _ in range(num_ops):
        drawn = torch.randint(2 * len(OPERATIONS), (len(x),), generator=generator, device=x.device)
        changed = x.clone()
        for choice in drawn.unique().tolist():
            name, sign = OPERATIONS[choice // 2], 1 if choice % 2 else -1
            which = (drawn == choice).nonzero()[:, 0]
            together = len(which) if name in MAPPED or x.device.type != "cpu" else max(1, CACHED // x[0].numel())
            for part in which.split(together):
                changed.index_copy_(0, part, operate(x.index_select(0, part), name, sign, magnitude))
        x = changed
    return x


def operate(x: torch.Tensor, name: str, sign: int, magnitude: int) -> torch.Tensor:
    """Apply one of RandAugment's operations to uint8 images [B, C, H, W]; "color" does not change grey images."""
    from torchvision.transforms.v2 import functional as V

    strength = magnitude / (BINS - 1)  # in [0, 1]
    if name == "identity" or name == "color" and x.shape[1] == 1:
        return x
    if name in ("shear_x", "shear_y"):
        degrees = math.degrees(math.atan(sign * 0.3 * strength))
        shear = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
        return V.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])
    if name in ("translate_x", "translate_y"):
        length = x.shape[3] if name == "translate_x" else x.shape[2]
        return _moved(x, int(sign * 150 / 331 * strength * length), 3 if name == "translate_x" else 2)
    if name == "rotate":
        return V.rotate(x, sign * 30 * strength)
    if name == "sharpness":
        return _sharpened(x, 1 + sign * 0.9 * strength)
    if name in ("brightness", "color", "contrast"):
        adjust = V.adjust_saturation if name == "color" else getattr(V, f"adjust_{name}")
        return adjust(x, 1 + sign * 0.9 * strength)
    if name == "posterize":
        return V.posterize(x, 8 - round(4 * strength))
    if name == "solarize":
        bright = x >= math.ceil(255 * (BINS - 1 - magnitude) / (BINS - 1))
        return x ^ bright.view(torch.uint8).neg_()  # bright: 255, which inverts
    return V.autocontrast(x) if name == "auto_contrast" else V.equalize(x)


def _moved(x: torch.Tensor, pixels: int, dimension: int) -> torch.Tensor:
    """Images moved along a dimension, with zeros where they come from."""
    moved, kept = torch.zeros_like(x), max(0, x.shape[dimension] - abs(pixels))
    moved.narrow(dimension, max(0, pixels), kept).copy_(x.narrow(dimension, max(0, -pixels), kept))
    return moved


def _sharpened(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Images blended with smoothed ones, 1/13 of each neighbour and 5/13 of the pixel, except at the edge."""
    if min(x.shape[-2:]) <= 2:
        return x
    whole = x.short()
    inner = whole[..., 1:-1, 1:-1]
    rows = whole[..., :-2, :] + whole[..., 1:-1, :] + whole[..., 2:, :]
    sums = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(inner, alpha=4)
    smooth = sums.float().mul_(1 / 13).round_()  # no sum of integers is halfway, so this is exact
    inner, changed = inner.float(), x.clone()
    changed[..., 1:-1, 1:-1] = inner.add_(smooth.sub_(inner), alpha=1 - factor).clamp_(0, 255)
    return changed


def mix(
    x: torch.Tensor, generator: torch.Generator, mixup: float, cutmix: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix each float image [B, C, H, W] with another one; returns images, partners [B] int64 and weights [B].

    The label of an image gets the weight, that of its partner 1 - weight. mixup (Zhang et al. 2018) averages the two
    images. CutMix (Yun et al. 2019) pastes a box of the partner, and the weight is the fraction of the area outside it.
    `mixup` and `cutmix` are the alpha of the Beta(alpha, alpha) from which each image draws, 0: off. With both on, each
    image uses one of them at random.
    """
    count, _, height, width = x.shape
    device = x.device
    partner = torch.randperm(count, generator=generator, device=device)
    cut = torch.rand(count, generator=generator, device=device) < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = torch.where(cut, cutmix, mixup).expand(2, count).contiguous()
    gammas = torch._standard_gamma(alpha, generator=generator)  # Beta(a, a) is G / (G + G') of two Gamma(a)
    weight = gammas[0] / gammas.sum(0).clamp(min=torch.finfo(gammas.dtype).tiny)
    # A box with the fraction 1 - weight of the area at a random place, clipped to the image.
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
    own = torch.where(cut.view(-1, 1, 1, 1), (~box).float(), weight.view(-1, 1, 1, 1))
    return own * x + (1 - own) * x[partner], partner, weight
