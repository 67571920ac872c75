"""Images on the way into the network: whole batches at once, on the device, each sample with its own random numbers.

torchvision's transforms draw one set of parameters per call, so on a batch every sample would be cropped and flipped
alike; per-sample calls cost more than the training step of a small network.
"""

import math

import torch
import torch.nn.functional as F

from cl.data.augmentations import center_crop, mix, rand_augment, random_resized_crop

ROTATION_CHUNK = 4096  # images rotated at once: bounds the float copy that interpolation needs
# Each step: a function of uint8 images, the side that the network takes, and the generator.
AUGMENTATIONS = {
    "crop": lambda x, side, generator: random_crop(x, x.shape[-1] // 8, generator),
    "flip": lambda x, side, generator: random_flip(x, generator),
    "resized_crop": lambda x, side, generator: random_resized_crop(x, side, generator),
    "rand_augment": lambda x, side, generator: rand_augment(x, generator),
}


class BatchTransform:
    """Images [B, C, H, W] to float32: augmentation (training only), the centre, scaling to [0, 1], normalisation.

    `augment` names the steps: `crop` (random crop after zero padding by an eighth of the side: 4 pixels of 32), `flip`
    (horizontal, with probability one half), `resized_crop` (8 to 100 % of the area, of any place) and `rand_augment`
    (two operations of medium strength). `mixup` and `cutmix`: see `mixed`. Random numbers come from a generator of its
    own, see `reseed`. `side`: of the square that is left of each picture, the centre in tests; None: all of it. Images
    that are float32 are not pixels: they are not scaled to [0, 1], and have no augmentation.
    """

    def __init__(
        self,
        augment: list,
        mean: list | None,
        std: list | None,
        channels: int,
        device: torch.device,
        channels_last: bool = False,
        side: int | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        dtype: torch.dtype = torch.uint8,
    ):
        if augment and dtype != torch.uint8:
            raise ValueError(f"dataset.augment={augment} is for pictures; samples that are no pictures need []")
        _check_normalisation(mean, std, channels, dtype)
        if min(mixup, cutmix) < 0:
            raise ValueError(f"mixing.mixup and mixing.cutmix must be 0 or more, got {mixup} and {cutmix}")
        self.mixup, self.cutmix = mixup, cutmix
        self.steps, self.channels_last, self.side = tuple(augment), channels_last, side
        self.generator = torch.Generator(device)
        # (x / 255 - mean) / std as one multiplication and one addition
        full = 255 if dtype == torch.uint8 else 1
        self.scale, self.shift = 1 / full, None
        if mean is not None:
            mean, std = (torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std))
            self.scale, self.shift = 1 / (full * std), -mean / std

    def reseed(self, seed: int) -> None:
        """Start the random numbers of the augmentation anew, as at the beginning of each stage."""
        self.generator.manual_seed(seed)

    def state_dict(self) -> dict:
        """The state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""
        self.generator.set_state(state["generator"].cpu())

    def train(self, x: torch.Tensor) -> torch.Tensor:
        """With augmentation."""
        for step in self.steps:
            x = AUGMENTATIONS[step](x, self.side or x.shape[-1], self.generator)
        return self.test(x)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def mixed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Transformed images mixed; with which other one each, and the share that is its own (`augmentations.mix`)."""
        return mix(x, self.generator, self.mixup, self.cutmix)

    def test(self, x: torch.Tensor) -> torch.Tensor:
        """Without augmentation."""
        if self.side is not None:
            x = center_crop(x, self.side)
        x = x.to(torch.float32, copy=True).mul_(self.scale)
        if self.shift is not None:
            x = x.add_(self.shift)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return x.contiguous(memory_format=layout)


def _check_normalisation(mean: list | None, std: list | None, channels: int, dtype: torch.dtype) -> None:
    """Raise ValueError for numbers that are not a mean and a deviation of each channel."""
    if (mean is None) != (std is None):
        raise ValueError("dataset.mean and dataset.std belong together: give both or neither")
    if mean is None or std is None:
        return
    if not len(mean) == len(std) == channels:
        raise ValueError(f"dataset.mean and dataset.std need one number per channel ({channels}): {mean}, {std}")
    for name, values in (("mean", mean), ("std", std)):
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            raise ValueError(f"dataset.{name} must be numbers, got {values}")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"dataset.{name} must be finite, got {values}")
    if min(std) <= 0:
        raise ValueError(f"dataset.std must be above 0, got {std}")
    if dtype == torch.uint8 and (min(mean) < 0 or max(*mean, *std) > 1):
        raise ValueError(
            f"dataset.mean and dataset.std are of pixels in [0, 1], not in 0 to 255: they must not be above 1, and the "
            f"mean not below 0, got {mean} and {std}"
        )


def random_crop(x: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Each image of [B, C, H, W] cropped to its size at a random place after zero padding by `padding` pixels."""
    batch, channels, height, width = x.shape
    padded = F.pad(x, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator, device=x.device)
    rows = (top + torch.arange(height, device=x.device)).view(batch, 1, height, 1)
    columns = (left + torch.arange(width, device=x.device)).view(batch, 1, 1, width)
    image = torch.arange(batch, device=x.device).view(batch, 1, 1, 1)
    channel = torch.arange(channels, device=x.device).view(1, channels, 1, 1)
    return padded[image, channel, rows, columns]


def random_flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image of [B, C, H, W] mirrored left to right with probability one half."""
    flipped = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)


def permute_pixels(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Images [N, C, H, W] with their C*H*W values in the given order."""
    return x.flatten(1).index_select(1, order.to(x.device)).view_as(x)


def rotate(x: torch.Tensor, degrees: float) -> torch.Tensor:
    """uint8 images [N, C, H, W] turned counter-clockwise about their centre, bilinear, zero outside."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2.functional import rotate as rotate_batch

    return torch.cat(
        [rotate_batch(part, degrees, interpolation=InterpolationMode.BILINEAR) for part in x.split(ROTATION_CHUNK)]
    )
