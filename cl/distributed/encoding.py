"""Values as bytes, for what ranks send one another; pickle is not used, because who unpickles runs what was sent.

A value is one byte that names its type, then its content; lengths and counts are 8 bytes, all numbers little-endian:

    N T F       None, True, False
    i s b p     length, then the bytes of an int (two's complement), str (UTF-8), bytes, Path (the system's)
    f           the 8 bytes of a float
    l t         count, then the values of a list or a tuple
    d           count, then the keys and values of a dict, in its order
    x           a tensor: name of the dtype, number of dimensions, sizes, order of the dimensions in memory, bytes

Tensors come back on the CPU, without gradient, with the same order of dimensions in memory (channels_last stays). An
OrderedDict comes back as a dict, a Parameter as a tensor; all else comes back with its type, floats to the last bit.
"""

import math
import os
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

MOST_LEVELS = 100  # of values within values
MOST_DIMENSIONS = 64
DTYPES = {
    name: getattr(torch, name)
    for name in (
        "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
        "float16", "bfloat16", "float32", "float64", "complex32", "bcomplex32", "complex64", "complex128",
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    )
    if hasattr(torch, name)
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LENGTH = struct.Struct("<Q")
FLOAT = struct.Struct("<d")


def encode(value: Any) -> bytearray:
    """The bytes of a value; raises ValueError, with the place, for a type that is not in the table above."""
    parts: list = []
    _encode(value, parts, (), 0)
    return bytearray().join(parts)


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The value of bytes that `encode` made; it shares no memory with them.

    Raises ValueError for any other bytes, before anything that is larger than they are is allocated.
    """
    reader = _Reader(memoryview(data).cast("B"))
    value = reader.value(0)
    if reader.place != len(reader.data):
        raise ValueError(f"expected {reader.place} bytes, got {len(reader.data)}")
    return value


def _encode(value: Any, parts: list, path: tuple, level: int) -> None:
    kind = type(value)
    if level > MOST_LEVELS:
        raise ValueError(f"{_where(path[:3])} holds values within values, more than {MOST_LEVELS} levels of them")
    if value is None or kind is bool:
        parts.append(b"N" if value is None else b"T" if value else b"F")
    elif kind is int:
        _put(parts, b"i", value.to_bytes(_int_bytes(value), "little", signed=True))
    elif kind is float:
        parts.append(b"f" + FLOAT.pack(value))
    elif kind is str:
        _put(parts, b"s", value.encode("utf-8", "surrogatepass"))
    elif kind is bytes:
        _put(parts, b"b", value)
    elif isinstance(value, Path):
        _put(parts, b"p", os.fsencode(value))
    elif kind in (list, tuple):
        parts.append((b"l" if kind is list else b"t") + LENGTH.pack(len(value)))
        for number, item in enumerate(value):
            _encode(item, parts, (*path, number), level + 1)
    elif kind in (dict, OrderedDict):
        parts.append(b"d" + LENGTH.pack(len(value)))
        for key, item in value.items():
            if not _is_key(key):
                raise ValueError(f"a key of {_where(path)} is of {type(key).__qualname__}: ranks cannot exchange that")
            _encode(key, parts, path, level + 1)
            _encode(item, parts, (*path, key), level + 1)
    elif isinstance(value, torch.Tensor):
        _encode_tensor(value.detach(), parts, path)
    else:
        raise ValueError(
            f"{_where(path)} is of type {kind.__module__}.{kind.__qualname__}, expected tensors and plain "
            "values (None, bool, int, float, str, bytes, Path, list, tuple, dict): ranks exchange only those"
        )


def _encode_tensor(value: torch.Tensor, parts: list, path: tuple) -> None:
    if value.dtype not in NAMES or value.layout != torch.strided or value.is_quantized:
        raise ValueError(f"{_where(path)} is a tensor of {value.layout} and {value.dtype}: ranks cannot exchange that")
    order = sorted(range(value.dim()), key=lambda dim: -value.stride(dim))
    name = NAMES[value.dtype].encode()
    parts.append(b"x" + bytes([len(name)]) + name + bytes([value.dim()]))
    parts.extend(LENGTH.pack(size) for size in value.shape)
    parts.append(bytes(order))
    flat = value.permute(order).cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    parts.append(memoryview(flat.view(torch.uint8).numpy()))


def _put(parts: list, kind: bytes, content: bytes) -> None:
    parts += (kind + LENGTH.pack(len(content)), content)


def _int_bytes(value: int) -> int:
    """Bytes of an int with its sign; 2 ** 7 needs a second one."""
    return (value if value >= 0 else ~value).bit_length() // 8 + 1


def _is_key(key: Any) -> bool:
    if type(key) is tuple:
        return all(map(_is_key, key))
    return key is None or type(key) in (bool, int, float, str, bytes) or isinstance(key, Path)


def _where(path: tuple) -> str:
    return "the value" + "".join(f"[{key!r}]" for key in path)


class _Reader:
    """Takes values from the front of some bytes."""

    def __init__(self, data: memoryview):
        self.data, self.place = data, 0

    def value(self, level: int) -> Any:
        if level > MOST_LEVELS:
            raise ValueError(f"values within values, more than {MOST_LEVELS} levels of them")
        kind = bytes(self.take(1))
        if kind in (b"N", b"T", b"F"):
            return {b"N": None, b"T": True, b"F": False}[kind]
        if kind == b"f":
            return FLOAT.unpack(self.take(8))[0]
        if kind == b"x":
            return self.tensor()
        if kind not in (b"i", b"s", b"b", b"p", b"l", b"t", b"d"):
            raise ValueError(f"no type is named {kind!r}, at byte {self.place - 1}")
        length = self.number()  # of bytes, or of values, which have one byte or more
        if length > len(self.data) - self.place:
            raise ValueError(f"a length of {length} at byte {self.place}, but {len(self.data)} bytes in all")
        if kind in (b"l", b"t"):
            values = [self.value(level + 1) for _ in range(length)]
            return values if kind == b"l" else tuple(values)
        if kind == b"d":
            return self.dict(length, level)
        content = bytes(self.take(length))
        if kind == b"s":
            return content.decode("utf-8", "surrogatepass")
        if kind == b"b":
            return content
        if kind == b"p":
            return Path(os.fsdecode(content))
        value = int.from_bytes(content, "little", signed=True)
        if length != _int_bytes(value):
            raise ValueError(f"an int of {length} bytes, expected {_int_bytes(value)}")
        return value

    def dict(self, count: int, level: int) -> dict:
        values = {}
        for _ in range(count):
            key = self.value(level + 1)
            if not _is_key(key):
                raise ValueError(f"a key of a dict is of {type(key).__name__}")
            values[key] = self.value(level + 1)
        if len(values) != count:
            raise ValueError(f"a dict of {count} keys names one of them twice")
        return values

    def tensor(self) -> torch.Tensor:
        name = bytes(self.take(self.take(1)[0])).decode("ascii")
        dims = self.take(1)[0]
        if name not in DTYPES or dims > MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dims} dimensions and dtype {name!r}")
        sizes = [self.number() for _ in range(dims)]
        order = list(self.take(dims))
        if sorted(order) != list(range(dims)):
            raise ValueError(f"a tensor of {dims} dimensions in the order {order}")
        dtype = DTYPES[name]
        # Without the zeros as well: torch counts the strides of an empty tensor.
        if math.prod(max(1, size) for size in sizes) * dtype.itemsize >= 2**63:
            raise ValueError(f"a tensor of the sizes {sizes}")
        content = self.take(math.prod(sizes) * dtype.itemsize)
        flat = torch.empty(len(content), dtype=torch.uint8)
        flat.numpy()[:] = content
        if dtype == torch.bool and len(content) and flat.max() > 1:
            raise ValueError("a bool tensor with other bytes than 0 and 1")
        stored = flat.view(dtype).view([sizes[dim] for dim in order])
        return stored.permute([order.index(dim) for dim in range(dims)])

    def number(self) -> int:
        return LENGTH.unpack(self.take(8))[0]

    def take(self, length: int) -> memoryview:
        begin, self.place = self.place, self.place + length
        if self.place > len(self.data):
            raise ValueError(f"ends within a value: {len(self.data)} bytes, expected at least {self.place}")
        return self.data[begin : self.place]
