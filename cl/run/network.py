"""The network of a run: built from the configuration, and held to the data set and the scenario."""

import torch
from torch import nn

from cl import seeding
from cl.build import build, shared_options
from cl.configuration.identity import is_set
from cl.data.transforms import BatchTransform
from cl.datasets.base import Dataset
from cl.networks import lora
from cl.networks.backbones import fewest_samples
from cl.networks.frozen import freeze
from cl.run.plan import Plan

STATISTICS = ("mean", "std")


def build_network(plan: Plan, number: int = 0, config: dict | None = None, adapters: bool = True) -> nn.Module:
    """A network before training; the number tells apart those of one run. The generators of the process do not change.

    `config`: whose seed and backbone are taken; None: those of the plan. `adapters`: with those that the backbone asks
    for (`backbone.lora`).
    """
    config = plan.config if config is None else config
    numbers = (number,) if number else ()
    node, shape = config["backbone"], input_shape(plan.dataset, config["backbone"])
    shared = shared_options(node, "backbone")
    options = lora.options_of(shared["lora"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(config["seed"], "weights", *numbers))
        network = build(node, "backbone", sample_shape=shape, num_outputs=plan.scenario.num_outputs)
        if shared["freeze"] is not None:
            try:
                freeze(network, shared["freeze"], shape)
            except (RuntimeError, AssertionError) as error:
                raise _unfit(node["name"], shape, error) from error
        if options is not None and adapters:
            lora.add(network, options, plan.scenario.num_outputs)
    return network


def input_shape(dataset: Dataset, backbone: dict) -> tuple[int, int, int]:
    """The shape (C, H, W) of what a network of the node `backbone` is given, scaled where the node says so."""
    channels, height, width = dataset.input_shape
    size = shared_options(backbone, "backbone")["input_size"]
    if size is None:
        return channels, height, width
    if height != width:
        raise ValueError(
            f"backbone.input_size={size} scales squares, and these pictures have {height}x{width} pixels: set it to "
            "null"
        )
    return channels, size, size


def normalisation(plan: Plan, model: nn.Module) -> tuple[list[float] | None, list[float] | None]:
    """The mean and standard deviation of each channel by which pictures are normalised, None for neither.

    Those of the network's pretrained weights (its `input_statistics`, if it has them), unless the user has set others
    than the file of the data set. Samples that are no pictures keep those of the data set.
    """
    dataset, node = plan.dataset, plan.config["dataset"]
    of_weights = getattr(model, "input_statistics", None)
    if of_weights is None or dataset.dtype_name != "uint8" or any(is_set("dataset", node, key) for key in STATISTICS):
        return dataset.mean, dataset.std
    mean, std = of_weights
    return list(mean), list(std)


def weights_of(model: nn.Module, mean: list[float] | None, std: list[float] | None) -> dict | None:
    """For results.json: which pretrained weights a network has, and how its input is normalised; None without."""
    about = getattr(model, "pretrained_from", None)
    return None if about is None else about | {"mean": mean, "std": std}


def in_words(weights: dict) -> str:
    """What `weights_of` says, in a line for the terminal."""
    at = f"{weights['repository']} at {weights['revision'][:8]}" if "repository" in weights else weights.get("url")
    at = weights.get("package", at)
    mean, std = ("none" if values is None else ", ".join(f"{value:.4g}" for value in values)
                 for values in (weights["mean"], weights["std"]))  # fmt: skip
    where = weights["file"] if at is None else f"{weights['file']} of {at}"
    return f"pretrained weights: {where}; input normalised by mean {mean} and std {std}"


def check_network(plan: Plan, model: nn.Module, transform: BatchTransform, device: torch.device) -> int:
    """How many samples a batch must have in training, from one pass of an empty picture.

    Raises ValueError for a network that does not fit the pictures or the outputs, before any data are read, and for a
    batch size that is too small for it.
    """
    name, sample_shape, outputs = plan.config["backbone"]["name"], plan.dataset.sample_shape, plan.scenario.output_shape
    try:
        with torch.no_grad():
            empty = transform.test(torch.zeros(1, *sample_shape, dtype=plan.dataset.sample_dtype, device=device))
            shape = model.eval()(empty).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _unfit(name, sample_shape, error) from error
    if shape[1:] != outputs:
        raise ValueError(
            f"backbone {name} gives outputs of shape {tuple(shape[1:])}, expected {outputs} for "
            + (f"the targets {', '.join(plan.scenario.targets)}" if plan.scenario.targets else "the classes")
        )
    fewest = fewest_samples(model, empty) if plan.strategy.trains else 1
    if plan.config["batch_size"] < fewest:
        raise ValueError(
            f"batch_size={plan.config['batch_size']} is too small for backbone={name}, whose batch normalisation takes "
            f"a variance over the samples of a batch: it must be at least {fewest}"
        )
    return fewest


def _unfit(name: str, shape: tuple[int, ...], error: Exception) -> ValueError:
    return ValueError(f"backbone {name} does not take pictures of shape {shape}: {' '.join(str(error).split())}")
