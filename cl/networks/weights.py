"""The reader for files of weights, whether remerge or another program wrote them.

It reads files of `torch.save` and of safetensors that hold a state dict, or have one under one of the usual keys. Names
may have a prefix, as wrappers add it. No code in a file is ever executed. Files of `torch.save` are zip archives with a
checksum of each entry, which torch does not compare: here they are. Its files of before 2020 and safetensors have none.
"""

import re
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from cl.checksums import AGAIN, DamagedError, check_archive

# Keys under which training programs keep a state dict; if a file has several, the first one in this order is used.
KEYS = (
    "state_dict", "model_state_dict", "model", "module", "network", "net", "params", "state_dict_ema", "model_ema",
    "ema",
)  # fmt: skip
COUNTER = "num_batches_tracked"  # batch-norm's counter, which old and converted files lack
State = dict[str, torch.Tensor]


def load(path: Path, what: str | None = None, device: torch.device | str = "cpu", remedy: str = AGAIN):
    """The content of a file of tensors and plain Python values, on a device.

    `what` names the file in errors, `remedy` says what to do about a damaged one.

    Raises FileNotFoundError, OSError for a file that cannot be read, DamagedError for one that is not what was written,
    or none of weights, and ValueError for one with other content.
    """
    what = what or str(path)
    if not path.exists():
        raise FileNotFoundError(f"{what}: there is no such file")
    if not path.is_file():
        raise FileNotFoundError(f"{what} is not a file")
    try:
        check_archive(path, what, remedy)
        if _is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path, device=str(device))
        return torch.load(path, map_location=device, weights_only=True)
    except DamagedError:
        raise
    except OSError as error:
        raise OSError(f"{what} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch and safetensors raise many types for files of another kind
        of = re.search(
            r"(?:Unsupported global: GLOBAL|Trying to instantiate class|Unsupported class) ([\w.]+)", str(error)
        )
        if of is not None or "TorchScript" in str(error):
            kind = of.group(1) if of is not None else "a TorchScript program"
            raise ValueError(
                f"{what} holds {kind}, expected tensors and plain values, because reading anything else would run code "
                "from the file: save the state dict alone, torch.save(network.state_dict(), PATH)"
            ) from error
        raise DamagedError(
            f"{what} cannot be read as weights (expected a file of torch.save or safetensors, this is another kind or "
            f"damaged): {remedy}"
        ) from error


def read(path: Path, what: str | None = None) -> tuple[State, dict]:
    """The tensors in a file by name, and the other entries of the file."""
    content, what = load(path, what), what or str(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{what} holds no weights: expected a state dict, got {type(content).__name__}")
    about = {key: value for key, value in content.items() if not isinstance(value, torch.Tensor) and key not in KEYS}
    while (inner := _inner(content, what)) is not None:
        content = inner
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise ValueError(f"{what} holds no weights: expected tensors by name, got {keys}")
    return tensors, about


def unprefixed(found: State, own: State, what: str, replaceable: tuple[str, ...] = ()) -> State:
    """The tensors without a common prefix of their names, if the shorter names are those of the network `own`.

    Raises ValueError if several prefixes fit.
    """
    # torch.compile adds this prefix to each compiled part, also in the middle of a name.
    found = {re.sub(r"(^|\.)_orig_mod\.", r"\1", name): value for name, value in found.items()}
    wanted = {name for name in own if not name.endswith(COUNTER) and not name.startswith(replaceable or ("\0",))}
    if wanted <= found.keys():
        return found
    counts: Counter[str] = Counter()
    for name in found:
        for dot in re.finditer(r"\.", name):
            if name[dot.end() :] in wanted:
                counts[name[: dot.end()]] += 1
    whole = [prefix for prefix, count in counts.items() if count == len(wanted)]
    if len(whole) > 1:
        raise ValueError(f"{what} holds several networks of these names ({', '.join(whole)}): save one of them alone")
    best = whole or [prefix for prefix, _ in counts.most_common(1)]
    if not best or len(wanted & found.keys()) >= counts[best[0]]:
        return found
    return {name.removeprefix(best[0]): value for name, value in found.items() if name.startswith(best[0])}


def fit(found: State, own: State, what: str, replaceable: tuple[str, ...] = (), free_widths: bool = False) -> State:
    """A network's state dict from the tensors of a file, in the network's precision and order.

    `own`: the network's state dict. It supplies counters that the file lacks, and tensors with a prefix in
    `replaceable` for which the file has none of equal shape. With `free_widths`, sizes may differ but not the number of
    dimensions. Raises ValueError, which names the tensor and its mistake.
    """
    found = unprefixed(found, own, what, replaceable)
    replaced = replaceable or ("\0",)
    kept = {name for name in own if name not in found and (name.endswith(COUNTER) or name.startswith(replaced))}
    missing = [name for name in own if name not in found and name not in kept]
    if len(missing) == len(own) - len(kept):
        raise ValueError(
            f"{what} has none of this network's tensors: its first is {next(iter(found))}, expected {missing[0]}; set "
            "backbone to the network in the file"
        )
    if missing:
        raise ValueError(f"{what} lacks {_and_more(missing)} of this network")
    extra = [name for name in found if name not in own and not name.endswith(COUNTER) and not name.startswith(replaced)]
    if extra:
        raise ValueError(f"{what} has {_and_more(extra)}, which this network does not have")
    result = {}
    for name, value in own.items():
        theirs = found.get(name)
        if theirs is not None and theirs.shape != value.shape and not (free_widths and theirs.dim() == value.dim()):
            if not name.startswith(replaced):
                raise ValueError(
                    f"{what} has {name} of shape {tuple(theirs.shape)}, in this network it is {tuple(value.shape)}"
                )
            theirs = None
        result[name] = value if theirs is None else _cast(theirs, value, f"{what} has {name}")
    return result


def _cast(value: torch.Tensor, own: torch.Tensor, what: str) -> torch.Tensor:
    """A tensor in the precision of the network's tensor `own`; raises ValueError if that would lose its values."""
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
        kind = "without values" if value.is_meta else f"as {str(value.dtype)[6:]}, {str(value.layout)[6:]}"
        raise ValueError(f"{what} {kind}: expected plain numbers, {str(own.dtype)[6:]} or of another precision")
    if own.is_floating_point() and not value.is_floating_point():
        raise ValueError(f"{what} as whole numbers ({str(value.dtype)[6:]}), expected {str(own.dtype)[6:]}")
    cast = value.detach().to(own.dtype)
    if own.is_floating_point() and not torch.isfinite(cast).all() and torch.isfinite(own).all():
        raise ValueError(f"{what} with numbers that are not finite: use another file")
    if not own.is_floating_point() and not torch.equal(cast.to(value.dtype), value):
        raise ValueError(f"{what} as {str(value.dtype)[6:]}, which are not {str(own.dtype)[6:]} numbers")
    return cast


def _inner(content: Mapping, what: str) -> Mapping | None:
    """The state dict inside the content of a file, None if the content is one itself."""
    for key in KEYS:
        if isinstance(content.get(key), Mapping):
            return content[key]
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return None
    parts = {key: value for key, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)}
    if len(parts) > 1:
        raise ValueError(f"{what} holds several sets of tensors ({', '.join(map(str, parts))}): save one of them alone")
    return next(iter(parts.values()), None)


def _has_tensors(content: Mapping) -> bool:
    return any(isinstance(value, torch.Tensor) for value in content.values())


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins like safetensors: with the length of a header, then the header, which is JSON."""
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= path.stat().st_size - 8


def _and_more(names: list[str]) -> str:
    more = len(names) - 1
    return names[0] if not more else f"{names[0]} and {more} more tensor{'s' if more > 1 else ''}"
