"""Pretrained weights by word: timm's for a model, of a repository of its hub or a folder, or of a Python package.

What is in the local cache is taken as it is, without asking the network: so a run repeats, and works where there is
none. What is missing is downloaded, once by all processes of a machine (the hub's own lock of the file). timm would ask
the hub first, and without a network try again for half a minute before it says so.
"""

import functools
import hashlib
import json
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from cl.checksums import DamagedError
from cl.networks import packages
from cl.values import did_you_mean

HUB = ("hf_hub:", "hf-hub:")
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".tar", ".npz", ".pkl")  # of files, never of a tag
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a repository, the first that is there
PATIENCE = 5.0  # seconds for the first answer of a server
KNOWN_STATISTICS = ("mean", "std")


@dataclass(frozen=True)
class Found:
    """A file of weights with what timm knows of them.

    `cfg`: timm's pretrained_cfg as a dict, with the mean and std of the input. `options`: arguments with which the
    network was made. `about`: which weights they are, for results.json. `convert`: makes of the tensors in the file
    those of the network with these names and shapes; None: timm itself reads the file.
    """

    path: Path
    cfg: dict
    options: dict
    about: dict[str, str]
    convert: Callable[[dict, dict, str], dict] | None = None


def is_file(word: bool | str) -> bool:
    """Whether a value of `pretrained` names a file, and neither weights of timm nor of its hub."""
    if word is True or str(word).startswith(HUB):
        return False
    path = Path(str(word))
    return not (path / "config.json").is_file() and (
        path.is_file() or "/" in str(word) or path.suffix.lower() in SUFFIXES
    )


@functools.cache
def find(model: str, word: bool | str) -> Found:
    """The weights for a model of timm; `word`: true, a tag of timm, hf_hub:USER/MODEL[@REVISION], a folder or package.

    Downloads them if they are not in the local cache. Raises ValueError for weights that do not exist or are of another
    model, OSError where they cannot be had, and DamagedError.
    """
    what = f"backbone.pretrained={'true' if word is True else word}"
    if word == packages.WORD:
        return _of_package(model, what)
    if str(word).startswith(HUB):
        repository, _, revision = str(word).partition(":")[2].partition("@")
        return _of_repository(model, repository, revision or None, what)
    if word is not True and (Path(str(word)) / "config.json").is_file():
        return _of_folder(model, Path(str(word)), what)
    name, cfg = _registered(model, word, what)
    if cfg.hf_hub_id:
        foreign = cfg.custom_load == "hf"  # in the format of another library, which the model itself reads
        repository, _, revision = cfg.hf_hub_id.partition("@")
        file = cfg.hf_hub_filename or WEIGHTS[-1]
        names = (file,) if foreign else tuple(dict.fromkeys((_safe(file), file)))
        path, about = _from_hub(repository, names, revision or None, what)
    else:
        foreign = bool(cfg.custom_load)
        path, about = _from_url(cfg.url, what)
    return Found(path, cfg.to_dict(remove_source=True) | {"custom_load": foreign}, {}, {"model": name} | about)


def of_file(path: Path) -> dict[str, str]:
    """What results.json says of a file of weights."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"file": str(path), "sha256": digest.hexdigest()}


def statistics(cfg: dict, channels: int) -> tuple[list[float], list[float]]:
    """The mean and the standard deviation of each input channel for weights with this pretrained_cfg.

    As timm makes the first convolution for so many channels: for one it adds up the weights of all, so the input is
    normalised by the means over the channels; for other numbers the channels are repeated.
    """
    found = []
    for values in (list(cfg[name]) for name in KNOWN_STATISTICS):
        mean = sum(values) / len(values)
        found.append([mean] if channels == 1 else [values[number % len(values)] for number in range(channels)])
    return found[0], found[1]


def _registered(model: str, word: bool | str, what: str):
    """The full name and timm's configuration of weights that timm has for a model."""
    import timm

    base, _, own = model.partition(".")
    names = timm.list_pretrained(f"{base}.*")
    if not names:
        close = [name.partition(".")[0] for name in timm.list_pretrained(f"{base.partition('_')[0]}*")]
        others = did_you_mean(base, close)
        raise ValueError(
            f"{what}: timm has no pretrained weights for {base}{others}; leave it out, or give a file, "
            "backbone.pretrained=FILE"
        )
    if word is True:
        default = f"{base}.{timm.get_pretrained_cfg(base).tag}"
        name = model if own else default if default in names else names[0]
    else:
        name = str(word) if str(word).startswith(f"{base}.") else f"{base}.{word}"
    if name not in names:
        tags = [known.partition(".")[2] for known in names]
        raise ValueError(
            f"{what} is neither a file nor a tag of timm for {base}{did_you_mean(name.partition('.')[2], tags)}; "
            f"valid: true, {', '.join(tags)}, hf_hub:USER/MODEL, or a file"
        )
    return name, timm.get_pretrained_cfg(name)


def _of_repository(model: str, repository: str, revision: str | None, what: str) -> Found:
    config, _ = _from_hub(repository, ("config.json",), revision, what)
    cfg, options = _configured(model, config, what)
    path, about = _from_hub(repository, WEIGHTS, revision, what)
    return Found(path, cfg, options, about)


def _of_package(model: str, what: str) -> Found:
    import timm

    package = packages.find(model, what)
    path = package.file(what)
    about = of_file(path)
    if about["sha256"] != package.sha256:
        raise DamagedError(f"{what}: {path} is not the file of the package: {package.remedy} --force-reinstall")
    cfg = timm.get_pretrained_cfg(model).to_dict(remove_source=True)
    cfg |= {"mean": package.mean, "std": package.std, "num_classes": package.num_classes, "custom_load": False}
    return Found(
        path, cfg, {}, {"model": model, "package": package.name} | about | {"file": path.name}, packages.in_order
    )


def _of_folder(model: str, folder: Path, what: str) -> Found:
    cfg, options = _configured(model, folder / "config.json", what)
    paths = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not paths:
        raise FileNotFoundError(f"{what} has a config.json, but neither {WEIGHTS[0]} nor {WEIGHTS[1]}")
    return Found(paths[0], cfg, options, of_file(paths[0]))


def _configured(model: str, path: Path, what: str) -> tuple[dict, dict]:
    """What a config.json of timm says: the pretrained_cfg, and arguments of the network."""
    from timm.models import PretrainedCfg

    try:
        content = json.loads(path.read_text())
        architecture = content["architecture"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{what} is not a model of timm: its config.json names no architecture; give another one, or its weights "
            "as a file"
        ) from error
    if architecture != model.partition(".")[0]:
        raise ValueError(f"{what} has weights of {architecture}, expected those of backbone.model={model}")
    known = {field.name for field in fields(PretrainedCfg)}
    given = content.get("pretrained_cfg", content) | {key: content[key] for key in ("num_classes",) if key in content}
    cfg = PretrainedCfg(**{key: value for key, value in given.items() if key in known})
    return cfg.to_dict(remove_source=True) | {"custom_load": False}, dict(content.get("model_args", {}))


def _from_hub(repository: str, names: tuple[str, ...], revision: str | None, what: str) -> tuple[Path, dict[str, str]]:
    """The first of these files of a repository, from the cache or else from the network."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    cache = Path(constants.HF_HUB_CACHE)
    where = {"cache_dir": cache, "revision": revision}
    wanted = f"{what} needs {names[0]} of the repository {repository}"
    try:
        for name in names:
            path = try_to_load_from_cache(repository, name, **where)
            if isinstance(path, str):
                return Path(path), _described(Path(path), repository, name, cache)
    except HFValidationError as error:
        raise ValueError(f"{what}: {repository!r} is no name of a repository, expected hf_hub:USER/MODEL") from error
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _unreachable(constants.ENDPOINT)
    if reason is None:
        if not sys.stderr.isatty():
            disable_progress_bars()
        for name in names:
            try:
                path = hf_hub_download(repository, name, **where)
                return Path(path), _described(Path(path), repository, name, cache)
            except LocalEntryNotFoundError as error:  # its word for a lost connection
                reason = _first_line(error.__cause__ or error)
                break
            except EntryNotFoundError:
                reason = f"it has no {' or '.join(names)}"
            except Exception as error:  # of the hub, its HTTP client and the disk
                reason = _first_line(error)
                break
    at = "" if revision is None else f" --revision {revision}"
    raise OSError(
        f"{wanted}, which is not in the cache {cache} (HF_HOME moves it) and cannot be had from {constants.ENDPOINT}: "
        f"{reason}. Where there is a network, `hf download {repository} {' '.join(names[:1])}{at}` puts it into the "
        f"cache; copy models--{repository.replace('/', '--')} from there, or give the file, backbone.pretrained=FILE"
    )


def _from_url(url: str | tuple[str, str], what: str) -> tuple[Path, dict[str, str]]:
    """A file by its address, from torch's cache or else from the network."""
    import torch.hub

    url, name = url if isinstance(url, (tuple, list)) else (url, Path(urllib.parse.urlparse(url).path).name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        reason = _unreachable(url)
        if reason is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            begin = torch.hub.HASH_REGEX.search(name)
            try:
                torch.hub.download_url_to_file(url, str(path), begin and begin.group(1), progress=sys.stderr.isatty())
            except Exception as error:  # of the connection, the disk and the checksum
                reason = _first_line(error)
        if reason is not None:
            raise OSError(
                f"{what} needs {name}, which is not in the cache {path.parent} (TORCH_HOME moves it) and cannot be had "
                f"from {url}: {reason}. Download it elsewhere and put it there, or give backbone.pretrained=FILE"
            )
    return path, of_file(path) | {"file": name, "url": url}


def _unreachable(url: str) -> str | None:
    """Why a server does not answer, None if it does, whatever it says. Looking up its name counts as waiting, too."""
    reasons: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            reasons.append(None)
        except urllib.error.HTTPError:  # an answer
            reasons.append(None)
        except Exception as error:  # of the connection
            reasons.append(_first_line(getattr(error, "reason", None) or error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * PATIENCE)
    return reasons[0] if reasons else f"no answer within {2 * PATIENCE:g} seconds"


def _described(path: Path, repository: str, name: str, cache: Path) -> dict[str, str]:
    """Which file this is; raises DamagedError for one whose content is not what its name in the cache says."""
    snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    found = of_file(path) | {"file": name}
    blob = path.resolve().name
    if len(blob) == 64 and blob != found["sha256"]:  # large files are named by their SHA-256
        raise DamagedError(
            f"{path} is damaged, its checksum is not its name: remove {path.resolve()}, and it is fetched"
        )
    return {"repository": repository, "revision": path.relative_to(snapshots).parts[0], **found}


def _safe(name: str) -> str:
    """The name of the same weights in a file of safetensors."""
    return name.replace("pytorch_model.bin", "model.safetensors")


def _first_line(error: object) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
