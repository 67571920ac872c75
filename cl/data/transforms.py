"""Transforms images for the network: whole batches on the device, with independent random numbers for each sample.

torchvision's transforms draw one set of parameters per call and would crop and flip all samples of a batch in the same
way. One call per sample would cost more than the training step of a small network.
"""

import math

import torch
import torch.nn.functional as F

from cl.data.augmentations import center_crop, mix, rand_augment, random_resized_crop

ROTATION_CHUNK = 4096  # images rotated at once; limits the float copy that interpolation needs
# Each step is a function of uint8 images, the side of the network's input, and the generator.
AUGMENTATIONS = {
    "crop": lambda x, side, generator: random_crop(x, x.shape[-1] // 8, generator),
    "flip": lambda x, side, generator: random_flip(x, generator),
    "resized_crop": lambda x, side, generator: random_resized_crop(x, side, generator),
    "rand_augment": lambda x, side, generator: rand_augment(x, generator),
}


class BatchTransform:
    """Transforms images [B, C, H, W] to float32: augmentation (training only), centre crop, size, normalisation.

    `augment` names the steps: `crop` (random crop after zero padding by an eighth of the side: 4 pixels of 32), `flip`
    (horizontal, with probability one half), `resized_crop` (a random box of 8 to 100 % of the area) and `rand_augment`
    (two operations of medium strength). `mixup` and `cutmix`: see `mixed`. `side`: side in pixels of the square that
    the network takes, the centre in tests; None: the whole image. `size`: side in pixels to which that square is
    scaled, see `scaled`; None: it keeps its size. uint8 images are scaled to [0, 1]; float32 samples
    are not pixels, so they are not scaled and cannot be augmented. The transform has its own random generator, see
    `reseed`. Raises ValueError for unknown steps and for a mean and std that do not fit.
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
        size: int | None = None,
    ):
        if size is not None and dtype != torch.uint8:
            raise ValueError(f"backbone.input_size={size} scales pictures, but the samples are float32: set it to null")
        if augment and dtype != torch.uint8:
            raise ValueError(f"dataset.augment={augment} is for pictures, but the samples are float32: set it to []")
        _check_normalisation(mean, std, channels, dtype)
        if min(mixup, cutmix) < 0:
            raise ValueError(f"mixing.mixup and mixing.cutmix must be 0 or more, got {mixup} and {cutmix}")
        self.mixup, self.cutmix = mixup, cutmix
        self.steps, self.channels_last, self.side, self.size = tuple(augment), channels_last, side, size
        self.generator = torch.Generator(device)
        # Computes (x / 255 - mean) / std as one multiplication and one addition.
        full = 255 if dtype == torch.uint8 else 1
        self.scale, self.shift = 1 / full, None
        if mean is not None:
            mean, std = (torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std))
            self.scale, self.shift = 1 / (full * std), -mean / std

    def reseed(self, seed: int) -> None:
        """Seed the generator; the run does so at the beginning of each stage."""
        self.generator.manual_seed(seed)

    def state_dict(self) -> dict:
        """The state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state that `state_dict` returned."""
        self.generator.set_state(state["generator"].cpu())

    def train(self, x: torch.Tensor) -> torch.Tensor:
        """Transform images with augmentation."""
        for step in self.steps:
            x = AUGMENTATIONS[step](x, self.side or x.shape[-1], self.generator)
        return self.test(x)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def mixed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mix transformed images; returns images, partners and weights, see `augmentations.mix`."""
        return mix(x, self.generator, self.mixup, self.cutmix)

    def test(self, x: torch.Tensor) -> torch.Tensor:
        """Transform images without augmentation."""
        if self.side is not None:
            x = center_crop(x, self.side)
        if self.size is not None:
            x = scaled(x, self.size)
        x = x.to(torch.float32, copy=True).mul_(self.scale)
        if self.shift is not None:
            x = x.add_(self.shift)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return x.contiguous(memory_format=layout)


def _check_normalisation(mean: list | None, std: list | None, channels: int, dtype: torch.dtype) -> None:
    """Raise ValueError unless there are a mean and a standard deviation for each channel, or neither."""
    if (mean is None) != (std is None):
        raise ValueError("dataset.mean and dataset.std belong together: give both or neither")
    if mean is None or std is None:
        return
    if not len(mean) == len(std) == channels:
        raise ValueError(f"dataset.mean and dataset.std need one number per channel ({channels}), got {mean}, {std}")
    for name, values in (("mean", mean), ("std", std)):
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            raise ValueError(f"dataset.{name} must be numbers, got {values}")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"dataset.{name} must be finite, got {values}")
    if min(std) <= 0:
        raise ValueError(f"dataset.std must be above 0, got {std}")
    if dtype == torch.uint8 and (min(mean) < 0 or max(*mean, *std) > 1):
        raise ValueError(
            "dataset.mean and dataset.std are for pixels in [0, 1], not in 0 to 255: they must not be above 1, and the "
            f"mean not below 0, got {mean} and {std}"
        )


def scaled(x: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 images [B, C, H, W] scaled to `size` pixels a side: bicubic with antialiasing, rounded to whole numbers."""
    options = {"size": (size, size), "mode": "bicubic", "antialias": True}
    if x.device.type == "cpu":  # a tenth of the time of the way through float32
        return F.interpolate(x.contiguous(memory_format=torch.channels_last), **options)
    return F.interpolate(x.float(), **options).round_().clamp_(0, 255).to(torch.uint8)


def random_crop(x: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Pad each image of [B, C, H, W] with `padding` zero pixels and crop it to its size at a random place."""
    batch, channels, height, width = x.shape
    padded = F.pad(x, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator, device=x.device)
    rows = (top + torch.arange(height, device=x.device)).view(batch, 1, height, 1)
    columns = (left + torch.arange(width, device=x.device)).view(batch, 1, 1, width)
    image = torch.arange(batch, device=x.device).view(batch, 1, 1, 1)
    channel = torch.arange(channels, device=x.device).view(1, channels, 1, 1)
    return padded[image, channel, rows, columns]


def random_flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image of [B, C, H, W] left to right with probability one half."""
    flipped = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)


def permute_pixels(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Reorder the C*H*W values of images [N, C, H, W]; `order` [C*H*W] holds the old index of each new value."""
    return x.flatten(1).index_select(1, order.to(x.device)).view_as(x)


def rotate(x: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate uint8 images [N, C, H, W] counter-clockwise about their centre, bilinear, with zeros outside."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2.functional import rotate as rotate_batch

    return torch.cat(
        [rotate_batch(part, degrees, interpolation=InterpolationMode.BILINEAR) for part in x.split(ROTATION_CHUNK)]
    )
