"""Every backbone with a data set that fits it and three strategies: composed from the configuration, two steps."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT

from cl.data.loader import epoch_batches
from cl.run.experiment import compose, equip, load_tasks, make_buffer
from cl.run.folder import plain

BACKBONES = sorted(path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml"))
# Data sets of the tests; the others are pictures of 32 pixels.
FITTING = {
    "mlp": "digits",
    "mlpnet": "digits",
    "mlplarge": "digits",
    "mlphuge": "digits",
    "ptychonn": "ptycho_synthetic",
}
MORE = {
    "convnext": ["+backbone.options.depths=[1,1,1,1]"],  # of 36 blocks 4, which are as many kinds
    "timm": ["backbone.model=resnet10t"],
    "ptychonn": ["backbone.widths=[4,8,8]"],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of 32 pixels in two classes."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for part, name, number in itertools.product(("train", "test"), "ab", range(4)):
        (root / part / name).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def overrides(backbone: str, pictures) -> list[str]:
    dataset = FITTING.get(backbone)
    if dataset == "ptycho_synthetic":
        return [f"dataset={dataset}", "dataset.patterns=8", "scenario=reconstruction"]
    if dataset is not None:
        return [f"dataset={dataset}", "scenario=class2"]
    cache = pictures.parent / "cache"
    return ["dataset=image_folder", f"dataset.root={pictures}", f"dataset.cache={cache}", "scenario=class2"]


@pytest.mark.parametrize("strategy", ["finetune", "er", "derpp"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_two_steps(backbone, strategy, pictures, compose_config):
    options = overrides(backbone, pictures) + MORE.get(backbone, [])
    if strategy != "finetune":
        options += ["buffer.capacity=10", "strategy.replay_batch_size=2"]
    config = plain(compose_config(f"backbone={backbone}", f"strategy={strategy}", *options, "batch_size=2"))
    parts = compose(config)
    tasks, num_training = load_tasks(config, parts)
    buffer, capacity = make_buffer(config, parts, num_training)
    equip(config, parts, buffer, capacity)
    before = [weight.detach().clone() for weight in parts.model.parameters()]
    samples = tasks.training([0])
    parts.model.train()
    parts.strategy.before_task(0, samples)
    losses = [parts.strategy.observe(batch).item() for batch in itertools.islice(epoch_batches(samples, 2, 0, 0, 0), 2)]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    changed = [not torch.equal(old, new) for old, new in zip(before, parts.model.parameters())]
    assert sum(changed) > 0.9 * len(changed)
    if buffer is not None:
        assert parts.strategy.take_replayed() > 0
        buffer.close()
