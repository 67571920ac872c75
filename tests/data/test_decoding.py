"""Every mode, depth, turn and kind of file: the right levels, by formulas and files written by hand, or refused."""

import colorsys
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cl.data.decoding import EIGHT_BITS, WIDE, Decoder

COLOUR = (200, 100, 50)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


def levels(path, content: bytes, channels: int = 1, size: int = 2) -> np.ndarray:
    """What a file becomes, [channels, size, size]."""
    path.write_bytes(content)
    return Decoder(channels, size)(str(path)).numpy().astype(int)


def saved(picture: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def pgm(values, maxval: int) -> bytes:
    """Netpbm, binary: two bytes for each value, the higher first, where the largest is above 255."""
    array = np.array(values).reshape(2, 2)
    return b"P5 2 2 %d\n" % maxval + array.astype(">u2" if maxval > 255 else "u1").tobytes()


def png(values, bits: int, kind: int, more: bytes = b"") -> bytes:
    """2x2 pixels; kind 0: grey, 2: RGB, 3: palette, 4: grey and alpha, 6: RGBA (PNG specification, 11.2)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = np.array(values).reshape(2, -1).astype(">u2" if bits == 16 else "u1")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", 2, 2, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(data: bytes, bits: int, order: str = "<", photometric: int = 1, sample: int = 1, turn: int = 1) -> bytes:
    """2x2 grey pixels in one strip (TIFF 6.0, section 4); `photometric` 0: white is 0; `sample` 2: signed, 3: float."""
    entries = [(256, 2), (257, 2), (258, bits), (259, 1), (262, photometric), (273, 0), (274, turn), (277, 1), (278, 2)]
    entries += [(279, len(data)), (339, sample)]
    start = 8 + 2 + 12 * len(entries) + 4
    entries[5] = (273, start)
    found = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    for tag, value in entries:
        found += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
    return found + bytes(4) + data


def packed(values) -> bytes:
    """Four values of 12 bits, rows of two: three bytes each."""
    pairs = ((values[0], values[1]), (values[2], values[3]))
    return b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in pairs)


V16 = [0, 257 * 40, 257 * 200, 65535]  # which are 0, 40, 200 and 255 of 255


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.pgm", pgm([0, 1, 0, 1], 1), [0, 255, 0, 255]),
        ("a.pgm", pgm([0, 3, 12, 15], 15), [0, 51, 204, 255]),
        ("a.pgm", pgm([0, 40, 200, 255], 255), [0, 40, 200, 255]),
        ("a.pgm", pgm([0, 256, 512, 1023], 1023), [0, 63.8, 127.6, 255]),
        ("a.pgm", pgm([0, 1000, 3000, 4095], 4095), [0, 62.3, 186.8, 255]),
        ("a.pgm", pgm(V16, 65535), [0, 40, 200, 255]),
        ("a.pgm", b"P2 2 2 4095\n0 1000 3000 4095\n", [0, 62.3, 186.8, 255]),
        ("a.png", png(V16, 16, 0), [0, 40, 200, 255]),
        ("a.png", png([[v, 0] for v in V16], 16, 4), [0, 40, 200, 255]),
        ("a.png", png([[v] * 3 for v in V16], 16, 2), [0, 40, 200, 255]),
        ("a.png", png([[v] * 3 + [9] for v in V16], 16, 6), [0, 40, 200, 255]),
        ("a.tif", tiff(np.array(V16, "<u2").tobytes(), 16), [0, 40, 200, 255]),
        ("a.tif", tiff(np.array(V16, ">u2").tobytes(), 16, order=">"), [0, 40, 200, 255]),
        ("a.tif", tiff(np.array(V16, "<u2").tobytes(), 16, photometric=0), [255, 215, 55, 0]),
        ("a.tif", tiff(bytes([0, 40, 200, 255]), 8), [0, 40, 200, 255]),
        ("a.tif", tiff(bytes([0, 40, 200, 255]), 8, photometric=0), [255, 215, 55, 0]),
        ("a.tif", tiff(packed([0, 1000, 3000, 4095]), 12), [0, 62.3, 186.8, 255]),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_largest_value_of_the_file_becomes_255(tmp_path, name, content, expected, channels):
    got = levels(tmp_path / name, content, channels)
    for channel in got:
        assert np.abs(channel.ravel() - expected).max() <= 1


def test_a_pattern_of_sixteen_bits_is_the_same_picture_in_every_kind_of_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, 4)
    contents = {
        "a.pgm": pgm(values, 65535), "a.png": png(values, 16, 0), "b.png": png(np.repeat(values, 3), 16, 2),
        "a.tif": tiff(values.astype("<u2").tobytes(), 16), "b.tif": tiff(values.astype(">u2").tobytes(), 16, ">"),
    }  # fmt: skip
    for name, content in contents.items():
        assert np.array_equal(levels(tmp_path / name, content).ravel(), values >> 8), name


FRAMES = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (10, 90)]
NO_RANGE = "values .* have no known range: save it with 8 bits"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tif", tiff(np.arange(4, dtype="<i2").tobytes(), 16, sample=2), NO_RANGE),
        ("a.tif", tiff(np.arange(4, dtype="<u4").tobytes(), 32), NO_RANGE),
        ("a.tif", tiff(np.arange(4, dtype="<i4").tobytes(), 32, sample=2), NO_RANGE),
        ("a.tif", tiff(np.arange(4, dtype="<f4").tobytes(), 32, sample=3), NO_RANGE),
        ("a.tif", tiff(np.arange(4, dtype="i1").tobytes(), 8, sample=2), NO_RANGE),
        ("a.pgm", b"Pf 2 2 -1.0\n" + np.ones(4, "<f4").tobytes(), NO_RANGE),
        (
            "a.tif",
            saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
            "it holds 2 pictures, expected one",
        ),
        (
            "a.png",
            saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
            "it holds 2 pictures, expected one",
        ),
        (
            "a.jpg",
            saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
            "it holds 2 pictures, expected one",
        ),
        (
            "a.webp",
            saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
            "it holds 2 pictures, expected one",
        ),
        ("a.jpg", b"", "the file is empty"),
        ("a.jpg", b"<html>404 Not Found</html>", "it is not a picture in a known format"),
        ("a.jpg", saved(Image.effect_noise((64, 64), 90), "JPEG")[:700], "[a-z]"),
        ("a.png", saved(Image.effect_noise((64, 64), 90), "PNG")[:700], "truncated"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=f"cannot decode the picture {tmp_path / name}: .*{message}") as error:
        levels(tmp_path / name, content)
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_named(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    for name, reason in (("x.jpg", "Is a directory"), ("y.jpg", "No such file or directory")):
        with pytest.raises(ValueError, match=f"cannot decode the picture {tmp_path / name}: {reason}$"):
            Decoder(3, 4)(str(tmp_path / name))


def test_a_phones_picture_with_further_views_is_its_first(tmp_path):
    content = saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:], quality=95)
    assert np.abs(levels(tmp_path / "a.jpg", content, 3)[0] - 10).max() <= 3


def test_alpha_is_left_out_and_palettes_keep_their_colours(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) + chunk(b"tRNS", bytes([0, 128]))
    got = levels(tmp_path / "a.png", png([0, 1, 1, 0], 8, 3, palette), 3)
    assert got.reshape(3, 4).T.tolist() == [[10, 20, 30], [40, 50, 60], [40, 50, 60], [10, 20, 30]]
    got = levels(tmp_path / "b.png", png([[7, 0], [8, 255], [9, 1], [10, 128]], 8, 4))
    assert got.ravel().tolist() == [7, 8, 9, 10]


# Modes


def lab_of(rgb) -> list[float]:
    """CIE L*a*b* of an sRGB colour, white D50 (Bradford): L of 0..100, a and b."""
    share = np.array(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    ratios = np.array(matrix) @ linear / [0.96422, 1, 0.82521]
    x, y, z = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def of_mode(mode: str) -> tuple[Image.Image, tuple]:
    """A picture in a mode from its stored values, and the colour that these values mean."""
    r, g, b = COLOUR
    grey = (77, 77, 77)
    if mode == "1":
        return Image.new("1", (4, 4), 1), (255, 255, 255)
    if mode == "L":
        return Image.new("L", (4, 4), 77), grey
    if mode in ("LA", "La"):
        stored = 77 if mode == "LA" else 77 * 51 / 255  # premultiplied
        return Image.new(mode, (4, 4), (round(stored), 51)), grey
    if mode in ("P", "PA"):
        picture = Image.new(mode, (4, 4), 1 if mode == "P" else (1, 51))
        picture.putpalette([0, 0, 0, r, g, b])
        return picture, COLOUR
    values = {
        "RGB": COLOUR, "RGBA": (r, g, b, 51), "RGBX": (r, g, b, 9), "RGBa": (r // 5, g // 5, b // 5, 51),
        "CMYK": (0, 127, 191, 55), "YCbCr": (124, 86, 182), "HSV": None, "LAB": None,
    }[mode]  # fmt: skip
    if mode == "HSV":
        values = tuple(round(255 * share) for share in colorsys.rgb_to_hsv(r / 255, g / 255, b / 255))
    if mode == "LAB":
        lightness, *ab = lab_of(COLOUR)
        values = (round(lightness * 2.55), *(round(value) + 128 for value in ab))  # as Pillow keeps them
    return Image.new(mode, (4, 4), values), COLOUR


def test_every_mode_of_pillow_is_decided():
    assert {*EIGHT_BITS, *WIDE, "F"} == set(Image.MODES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", sorted(EIGHT_BITS))
def test_every_mode_of_eight_bits_has_the_colours_that_its_values_mean(mode, channels):
    picture, rgb = of_mode(mode)
    got = Decoder(channels, 4)._by_pillow(picture).astype(int)
    expected = np.array(rgb if channels == 3 else [np.dot(rgb, LUMA)])
    assert got.shape == (4, 4, channels)
    assert np.abs(got - expected).max() <= (5 if mode == "RGBa" else 3)  # steps of 5 are left of a fifth


@pytest.mark.parametrize("mode", [*WIDE, "F"])
def test_a_wide_mode_of_unknown_origin_is_refused(mode):
    with pytest.raises(ValueError, match="no known range"):
        Decoder(1, 4)._by_pillow(Image.new(mode, (4, 4)))


# Turned pictures

TURNS = {
    1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: np.transpose,
    6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).T, 8: lambda x: np.rot90(x, 1),
}  # fmt: skip
QUARTERS = np.array([[20, 90], [160, 230]])
BLOCKS = QUARTERS.repeat(16, 0).repeat(16, 1).astype(np.uint8)
WIDE_BLOCKS = BLOCKS.astype(np.uint16) * 257


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    "form, picture",
    [
        ("JPEG", Image.fromarray(BLOCKS)),
        ("JPEG", Image.fromarray(BLOCKS).convert("RGB")),
        ("JPEG", Image.fromarray(BLOCKS).convert("CMYK")),
        ("PNG", Image.fromarray(BLOCKS)),
        ("PNG", Image.fromarray(BLOCKS).convert("P")),
        ("PNG", Image.fromarray(BLOCKS).convert("RGBA")),
        ("PNG", Image.fromarray(WIDE_BLOCKS)),
        ("WEBP", Image.fromarray(BLOCKS).convert("RGB")),
        ("TIFF", Image.fromarray(BLOCKS)),
        ("TIFF", Image.fromarray(BLOCKS).convert("RGB")),
        ("TIFF", Image.fromarray(WIDE_BLOCKS)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_a_picture_is_turned_as_its_file_says(tmp_path, form, picture, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    got = levels(tmp_path / "a", saved(picture, form, exif=exif), size=32)[0]
    middles = got[8::16, 8::16]
    assert np.abs(middles - TURNS[turn](QUARTERS)).max() <= 6


@pytest.mark.parametrize("turn", TURNS)
def test_a_tiff_of_sixteen_bits_written_by_hand_is_turned(tmp_path, turn):
    content = tiff(np.array(V16, ">u2").tobytes(), 16, ">", turn=turn)
    assert np.array_equal(levels(tmp_path / "a.tif", content)[0], TURNS[turn](np.array([[0, 40], [200, 255]])))
