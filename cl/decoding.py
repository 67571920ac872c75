"""Picture files to pixels: the centre square of a picture, scaled to a side, the same for every data set of files."""

import os
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the entry of a picture's EXIF data that says how it is turned; 1: not at all


@dataclass(frozen=True)
class Decoder:
    """Decodes to uint8 [channels, size, size]: the centre square, bilinear with antialiasing; 1 channel is grey."""

    channels: int
    size: int

    @property
    def mode(self) -> str:
        """Pillow's word for the channels."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.size, self.size)

    def __call__(self, path: bytes | str) -> torch.Tensor:
        """One picture, in the memory order of its file (channels last); ValueError names one that is damaged."""
        image = self._pixels(path)
        height, width = image.shape[1:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[:, top : top + side, left : left + side]
        if side == self.size:
            return square
        # Packed first: torch's interpolation has a fast path for whole pictures with the channels last.
        square = square.unsqueeze(0).contiguous(memory_format=torch.channels_last)
        return F.interpolate(square, (self.size, self.size), mode="bilinear", antialias=True)[0]

    def batch(self, paths: list[bytes], shared: bool = False) -> torch.Tensor:
        """[B, C, H, W], channels last in memory; `shared`: in memory that another process can be handed."""
        shape = (len(paths), self.size, self.size, self.channels)
        if shared:
            storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))
            found = torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)
        else:
            found = torch.empty(shape, dtype=torch.uint8)
        found = found.permute(0, 3, 1, 2)
        for place, path in enumerate(paths):
            found[place] = self(path)
        return found

    def _pixels(self, path: bytes | str) -> torch.Tensor:
        """[channels, H, W] as it is in the file, turned as it says; a large JPEG at a fraction of its size."""
        try:
            with Image.open(path) as image:
                if image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1:
                    pixels = self._jpeg(path)
                else:
                    pixels = self._by_pillow(image)
        except Exception as error:  # Pillow raises many types for a damaged file, SyntaxError among them
            raise ValueError(f"cannot decode the picture {os.fsdecode(path)}: {error}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _jpeg(self, path: bytes | str) -> np.ndarray:
        with open(path, "rb") as file:
            content = file.read()
        space = "GRAY" if self.channels == 1 else "RGB"
        # One of at least twice the size is decoded from fewer frequencies: exact averages, at less work.
        return simplejpeg.decode_jpeg(content, space, min_height=self.size, min_width=self.size, min_factor=2)

    def _by_pillow(self, image: Image.Image) -> np.ndarray:
        if image.mode.startswith("I;16"):  # convert() would cut off what is above 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels = np.array(ImageOps.exif_transpose(image).convert(self.mode))
        return pixels.reshape(*pixels.shape[:2], self.channels)
