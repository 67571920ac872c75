"""Values as bytes: every type comes back with its type and bits, and no bytes do harm."""

import math
import random
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from cl.distributed import encoding
from cl.distributed.encoding import decode, encode


def same(one, other) -> bool:
    """Equal with all types, to the bit; the order of a dict counts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        bits = [value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)]
        return torch.equal(*bits)
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, other)) and all(map(same, one.values(), other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return one == other


# By hand, from the table in cl/distributed/encoding.py.
WORDS = [
    (None, "4e"), (True, "54"), (False, "46"),
    (0, "69 0100000000000000 00"), (-1, "69 0100000000000000 ff"), (127, "69 0100000000000000 7f"),
    (128, "69 0200000000000000 8000"), (-128, "69 0100000000000000 80"), (-129, "69 0200000000000000 7fff"),
    (1.5, "66 000000000000f83f"), (-0.0, "66 0000000000000080"),
    ("é", "73 0200000000000000 c3a9"), (b"\x00", "62 0100000000000000 00"), (Path("a/b"), "70 0300000000000000 612f62"),
    ([], "6c 0000000000000000"), ((None, True), "74 0200000000000000 4e 54"),
    ({"": []}, "64 0100000000000000 73 0000000000000000 6c 0000000000000000"),
    (torch.tensor([[1, 2, 3]], dtype=torch.int8), "78 04 696e7438 02 0100000000000000 0300000000000000 0001 010203"),
    (torch.tensor(1.0, dtype=torch.bfloat16), "78 08 62666c6f61743136 00 803f"),
]  # fmt: skip


@pytest.mark.parametrize("value, expected", WORDS, ids=[repr(value) for value, _ in WORDS])
def test_the_bytes_are_those_of_the_table(value, expected):
    assert encode(value) == bytes.fromhex(expected)
    assert same(decode(bytes.fromhex(expected)), value)


ODD = [
    2**64, -(2**63), 10**4000, -(2**70001), math.inf, -math.inf, math.nan, 5e-324, "", "a\0b", "\udc80", b"",
    Path("/"), Path("name\udcff"), (), ((),), [[[]], ({},)], {1: "int", "1": "str", (1, "a"): None, b"1": 2, None: 3},
    {1.5: True, Path("x"): False}, list(range(1000)), "x" * 10**5,
    struct.unpack("<d", bytes.fromhex("010000000000f47f"))[0],  # a NaN with a payload
]  # fmt: skip


@pytest.mark.parametrize(
    "value", ODD, ids=[repr(value)[:20] for value in ODD if not isinstance(value, int)] + ["int"] * 4
)
def test_odd_values_come_back(value):
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize("name", encoding.DTYPES)
def test_tensors_of_every_dtype_come_back(name):
    dtype = encoding.DTYPES[name]
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (24 * dtype.itemsize,), dtype=torch.uint8)
    value = raw.view(dtype).reshape(1, 2, 3, 4)
    for each in (
        value, value.to(memory_format=torch.channels_last), value.permute(3, 1, 0, 2), value[0, 1, 1, 1], value[:, :0],
        torch.empty(0, dtype=dtype),
    ):  # fmt: skip
        back = decode(encode([each]))[0]
        assert same(back.contiguous(), each.contiguous())
        dense = each.clone()
        assert [s for s, n in zip(back.stride(), back.shape) if n > 1] == [
            s for s, n in zip(dense.stride(), dense.shape) if n > 1
        ]


def test_all_dtypes_of_torch_that_hold_numbers_are_known():
    every = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    unknown = {str(dtype).removeprefix("torch.") for dtype in every - set(encoding.NAMES)}
    # quantized, smaller than a byte, or packed: no tensor of numbers has one
    assert all(
        name.startswith(("q", "uint", "int", "bits", "float4")) and not name.startswith(("uint8", "int8"))
        for name in unknown
    ), unknown
    assert not any(f"{kind}{bits}" in unknown for kind in ("int", "uint") for bits in (8, 16, 32, 64))


def test_views_parameters_and_gradients_come_back_as_plain_tensors():
    weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    for value in (weight, weight.t(), weight[::2, 1::2], torch.ones(3).expand(2, 3), weight.detach()[1]):
        back = decode(encode({"weight": value}))["weight"]
        assert type(back) is torch.Tensor and not back.requires_grad and back.equal(value)
    complex_ = torch.tensor([1 + 2j, 3 - 1j])
    assert decode(encode(complex_.conj())).equal(complex_.conj())
    assert same(decode(encode(OrderedDict(a=1, b=2))), {"a": 1, "b": 2})


def test_what_comes_back_shares_no_memory():
    data = encode(torch.zeros(4))
    back = decode(data)
    data[-16:] = b"\xff" * 16
    assert back.equal(torch.zeros(4))
    back += 1  # and may be written to


class Own:
    pass


@pytest.mark.parametrize(
    "value, line",
    [
        ({1}, r"the value is of type builtins.set, expected tensors and plain"),
        ({"a": [0, Own()]}, r"the value\['a'\]\[1\] is of type .*Own"),
        ({"a": {Own(): 1}}, r"a key of the value\['a'\] is of Own"),
        ({(1, (Own(),)): 1}, r"a key of the value is of tuple"),
        ([np.float64(1.0)], r"the value\[0\] is of type numpy.float64"),
        (np.zeros(2), "numpy.ndarray"),
        (lambda: 1, "function"),
        ([torch.zeros(2).to_sparse()], r"the value\[0\] is a tensor of torch.sparse_coo and torch.float32"),
        (torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), "torch.qint8"),
        (type, "type builtins.type"),
    ],
)  # fmt: skip
def test_other_types_are_named_with_their_place(value, line):
    with pytest.raises(ValueError, match=line) as error:
        encode(value)
    assert "\n" not in str(error.value)


def test_values_that_hold_themselves_are_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"the value\[0\]\[0\]\[0\] holds values within values"):
        encode(endless)
    deep = None
    for _ in range(encoding.MOST_LEVELS):
        deep = [deep]
    assert same(decode(encode(deep)), deep)
    with pytest.raises(ValueError, match="more than 100 levels"):
        decode(b"l" + encoding.LENGTH.pack(1) + encode(deep))


def random_value(rng: random.Random, level: int = 0):
    def key():
        return rng.choice(
            [None, rng.random() < 0.5, rng.getrandbits(40), rng.random(), str(rng.random()), b"k", (1, "a")]
        )

    kinds = 12 if level < 4 else 8
    match rng.randrange(kinds):
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.getrandbits(rng.choice([1, 8, 63, 64, 200])) * rng.choice([1, -1])
        case 3:
            return struct.unpack("<d", rng.randbytes(8))[0]
        case 4:
            return "".join(chr(rng.choice([65, 0, 233, 0x10FFFF, 0xDC80])) for _ in range(rng.randrange(9)))
        case 5:
            return rng.randbytes(rng.randrange(20))
        case 6:
            return Path(*(str(rng.getrandbits(9)) for _ in range(rng.randrange(1, 4))))
        case 7:
            shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
            dtype = rng.choice([torch.int64, torch.bfloat16, torch.float32, torch.complex64, torch.uint16])
            return torch.frombuffer(bytearray(rng.randbytes(math.prod(shape) * dtype.itemsize + 8)), dtype=dtype)[
                : math.prod(shape)
            ].reshape(shape)
        case 8 | 9:
            return [random_value(rng, level + 1) for _ in range(rng.randrange(5))]
        case 10:
            return tuple(random_value(rng, level + 1) for _ in range(rng.randrange(5)))
        case 11:
            return {key(): random_value(rng, level + 1) for _ in range(rng.randrange(5))}


def test_random_values_come_back():
    rng = random.Random(0)
    for _ in range(2000):
        value = random_value(rng)
        assert same(decode(encode(value)), value), value


def test_damage_is_a_value_error_or_another_value():
    rng = random.Random(1)
    seen = 0
    for _ in range(6000):
        data = encode(random_value(rng))
        match rng.randrange(4):
            case 0:
                data = data[: rng.randrange(len(data))]
            case 1:
                data += rng.randbytes(rng.randrange(1, 9))
            case 2:
                for _ in range(rng.randrange(1, 4)):
                    data[rng.randrange(len(data))] = rng.getrandbits(8)
            case 3:
                data = bytes(rng.choice(b"NTFfixsbpltd\0\1\2\xff") for _ in range(rng.randrange(60)))
        try:
            value = decode(data)
        except ValueError:
            seen += 1
        else:
            # Whatever it is, it is a value, and these are its bytes; the order of dimensions of size 1 may be another.
            assert same(decode(encode(value)), value)
    assert seen > 3000


@pytest.mark.parametrize(
    "data, line",
    [
        (b"", "ends within a value"),
        (b"N" + b"N", "expected 1 bytes, got 2"),
        (b"l" + b"\xff" * 8, "a length of 18446744073709551615"),
        (b"b" + encoding.LENGTH.pack(2**40), "a length of 1099511627776"),
        (b"x\x04int8\x01" + encoding.LENGTH.pack(2**40) + b"\0", "ends within a value"),
        (b"x\x04int8\x02" + encoding.LENGTH.pack(0) + encoding.LENGTH.pack(2**63) + b"\0\1", "a tensor of the sizes"),
        (b"x\x04int8\x41" + b"\0" * 600, "a tensor of 65 dimensions"),
        (b"x\x06object\x00", "dtype 'object'"),
        (b"x\x04bool\x00\x02", "other bytes than 0 and 1"),
        (b"x\x04int8\x02" + encoding.LENGTH.pack(1) * 2 + b"\0\0\1", "in the order"),
        (b"i" + encoding.LENGTH.pack(2) + b"\1\0", "an int of 2 bytes, expected 1"),
        (b"d" + encoding.LENGTH.pack(2) + b"NTNF", "names one of them twice"),
        (b"d" + encoding.LENGTH.pack(1) + b"l" + encoding.LENGTH.pack(0) + b"N", "a key of a dict is of list"),
        (b"s" + encoding.LENGTH.pack(1) + b"\xff", "utf-8"),
        (b"\x80\x04N.", "no type is named"),  # a pickle
    ],
)  # fmt: skip
def test_malformed_bytes_are_refused(data, line):
    with pytest.raises(ValueError, match=line):
        decode(data)
