"""Every backbone with a data set that fits it and three strategies: composed from the configuration, two steps."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT

from cl.data.loader import epoch_batches
from cl.run.experiment import equip
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session

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
    "efficientnet_lite0": ["backbone.pretrained=null"],  # its package is an option
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
    with Session(make_plan(config)) as session:
        strategy, model = session.plan.strategy, session.model
        tasks, num_training = session.load_tasks()
        buffer, capacity = session.make_buffer(num_training)
        equip(session, buffer, capacity)
        before = [weight.detach().clone() for weight in model.parameters()]
        samples = tasks.training([0])
        model.train()
        strategy.before_task(0, samples)
        losses = [strategy.observe(batch).item() for batch in itertools.islice(epoch_batches(samples, 2, 0, 0, 0), 2)]
        assert len(losses) == 2 and all(map(math.isfinite, losses))
        changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters())]
        assert sum(changed) > 0.9 * len(changed)
        if buffer is not None:
            assert strategy.take_replayed() > 0
