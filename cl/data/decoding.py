"""Decodes picture files to pixels: the centre square, scaled to one size, for every data set of files."""

import os
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # EXIF tag of the picture's rotation; 1: not rotated
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0 tags: bits per sample; 0: zero is white; 2: signed
# Pillow's modes with at most 8 bits per value, each with the mode to convert it to first; alpha is dropped.
EIGHT_BITS = {mode: mode for mode in ("1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")}
EIGHT_BITS |= {"La": "LA", "RGBa": "RGBA", "LAB": "RGB", "HSV": "RGB"}
WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Decoder:
    """Decodes files to uint8 [channels, size, size]: the centre square, bilinear with antialiasing; 1 channel: grey."""

    channels: int
    size: int

    @property
    def mode(self) -> str:
        """Pillow's mode for the channels."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.size, self.size)

    def __call__(self, path: bytes | str) -> torch.Tensor:
        """Decode one picture, channels last in memory; raises ValueError, which names the file, if it is damaged."""
        image = self._pixels(path)
        height, width = image.shape[1:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[:, top : top + side, left : left + side]
        if side == self.size:
            return square
        # A contiguous copy, because torch's interpolation is fast for contiguous pictures with the channels last.
        square = square.unsqueeze(0).contiguous(memory_format=torch.channels_last)
        return F.interpolate(square, (self.size, self.size), mode="bilinear", antialias=True)[0]

    def batch(self, paths: list[bytes], shared: bool = False) -> torch.Tensor:
        """Decode a batch [B, C, H, W], channels last in memory; `shared`: in memory shared between processes."""
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
        """The whole picture [channels, H, W], rotated by its EXIF tag; a large JPEG at a fraction of its size."""
        try:
            with Image.open(path) as image:
                if image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1:
                    pixels = self._jpeg(path)
                else:
                    pixels = self._by_pillow(image)
        except Exception as error:  # Pillow raises many types for a damaged file, SyntaxError among them
            raise ValueError(f"cannot decode the picture {os.fsdecode(path)}: {_reason(error, path)}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _jpeg(self, path: bytes | str) -> np.ndarray:
        with open(path, "rb") as file:
            content = file.read()
        space = "GRAY" if self.channels == 1 else "RGB"
        # A JPEG of at least twice the size is decoded from fewer frequencies: exact averages with less work.
        return simplejpeg.decode_jpeg(content, space, min_height=self.size, min_width=self.size, min_factor=2)

    def _by_pillow(self, image: Image.Image) -> np.ndarray:
        # A phone's JPEG (MPO) has further views of the same scene after the first.
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            raise ValueError(f"it holds {frames} pictures, expected one: save each in a separate file")
        tags = getattr(image, "tag_v2", {})
        if image.mode in WIDE:
            grey = _wide(image, tags)
            return np.repeat(grey[:, :, None], self.channels, axis=2)
        if image.mode not in EIGHT_BITS or tags.get(SAMPLE_FORMAT, (1,))[0] == 2:
            raise ValueError(_no_range(image))
        image = ImageOps.exif_transpose(image)
        image.info.pop("transparency", None)  # ignored, like alpha: a palette's colours are used unchanged
        pixels = np.array(image.convert(EIGHT_BITS[image.mode]).convert(self.mode))
        return pixels.reshape(*pixels.shape[:2], self.channels)


def _wide(image: Image.Image, tags: dict) -> np.ndarray:
    """The highest 8 bits [H, W] of a grey picture with 12 or 16 bits, as Pillow does for colours with 16 bits."""
    if image.format == "TIFF" and image.mode != "I":
        bits = tags.get(BITS, (16,))[0]
    elif (image.format, image.mode) in (("PNG", "I;16"), ("PPM", "I")):  # Pillow scales a PGM to 65535
        bits = 16
    else:
        raise ValueError(_no_range(image))
    levels = (np.asarray(ImageOps.exif_transpose(image)) >> (bits - 8)).astype(np.uint8)
    return 255 - levels if tags.get(PHOTOMETRIC) == 0 else levels  # Pillow inverts only pictures with 8 bits


def _no_range(image: Image.Image) -> str:
    return (
        f"its values (mode {image.mode} of a {image.format}) have no known range: save it with 8 bits per value, or "
        "as grey with 16 bits"
    )


def _reason(error: Exception, path: bytes | str) -> str:
    """The reason why a picture cannot be decoded, without the name of its file."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture in a known format" if os.path.getsize(path) else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
