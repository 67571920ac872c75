"""Picture files to pixels: the centre square of a picture, scaled to a side, the same for every data set of files."""

import os
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # the entry of a picture's EXIF data that says how it is turned; 1: not at all
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # entries of TIFF 6.0: bits of a sample, 0 is white, 2 is signed
# Every mode that Pillow has, and what it is converted to before the colours that are asked for; alpha is left out.
EIGHT_BITS = {mode: mode for mode in ("1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")}
EIGHT_BITS |= {"La": "LA", "RGBa": "RGBA", "LAB": "RGB", "HSV": "RGB"}
WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")


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
            raise ValueError(f"cannot decode the picture {os.fsdecode(path)}: {_reason(error, path)}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _jpeg(self, path: bytes | str) -> np.ndarray:
        with open(path, "rb") as file:
            content = file.read()
        space = "GRAY" if self.channels == 1 else "RGB"
        # One of at least twice the size is decoded from fewer frequencies: exact averages, at less work.
        return simplejpeg.decode_jpeg(content, space, min_height=self.size, min_width=self.size, min_factor=2)

    def _by_pillow(self, image: Image.Image) -> np.ndarray:
        # A phone's JPEG (MPO) has further views of the same scene behind the first.
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            raise ValueError(f"it holds {frames} pictures, and one is expected: save each in a file of its own")
        tags = getattr(image, "tag_v2", {})
        if image.mode in WIDE:
            grey = _wide(image, tags)
            return np.repeat(grey[:, :, None], self.channels, axis=2)
        if image.mode not in EIGHT_BITS or tags.get(SAMPLE_FORMAT, (1,))[0] == 2:
            raise ValueError(_no_range(image))
        image = ImageOps.exif_transpose(image)
        image.info.pop("transparency", None)  # of a palette: its colours are as they are
        pixels = np.array(image.convert(EIGHT_BITS[image.mode]).convert(self.mode))
        return pixels.reshape(*pixels.shape[:2], self.channels)


def _wide(image: Image.Image, tags: dict) -> np.ndarray:
    """The highest 8 bits [H, W] of a grey picture of 12 or 16, as Pillow gives them of colours of 16 bits."""
    if image.format == "TIFF" and image.mode != "I":
        bits = tags.get(BITS, (16,))[0]
    elif (image.format, image.mode) in (("PNG", "I;16"), ("PPM", "I")):  # of a PGM Pillow scales to 65535
        bits = 16
    else:
        raise ValueError(_no_range(image))
    levels = (np.asarray(ImageOps.exif_transpose(image)) >> (bits - 8)).astype(np.uint8)
    return 255 - levels if tags.get(PHOTOMETRIC) == 0 else levels  # Pillow turns that about for 8 bits only


def _no_range(image: Image.Image) -> str:
    return (
        f"its values (mode {image.mode} of a {image.format}) have no known range: save it with 8 bits for each value, "
        "or grey with 16"
    )


def _reason(error: Exception, path: bytes | str) -> str:
    """Why a picture cannot be decoded, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture of a kind that can be read" if os.path.getsize(path) else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
