"""Two pixels, two logits: networks, batches and records small enough to work a loss out by hand."""

import math

import torch
from torch import nn

from cl.buffers.base import Records
from cl.buffers.reference import ReferenceBuffer
from cl.data.loader import Batch
from cl.data.rows import Samples
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.step.updater import Updater

CPU = torch.device("cpu")
SHAPE, CLASSES = (1, 1, 2), 2


def linear(weight=((1.0, 0.0), (0.0, 1.0))) -> nn.Module:
    """Two pixels straight to two logits: with the identity, the logits are the pixels / 255."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor(weight)
    return nn.Sequential(nn.Flatten(), layer)


def ready(strategy, model=None, capacity=4, foreign_outputs=None, lr=0.0, augment=(), accumulation_steps=1, **more):
    """A strategy that is set up, with SGD; `more` goes to its `setup`."""
    model = model or linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    transform = BatchTransform(list(augment), None, None, 1, CPU)
    buffer = None
    if strategy.uses_buffer:
        outputs = more.get("num_outputs", CLASSES)
        fields = strategy.fields(SHAPE, (outputs,))
        buffer = ReferenceBuffer(capacity, "reservoir", "uniform", fields, outputs, 0, CPU, Comm())
    updater = Updater(optimizer, model, CPU, Comm(), ReduceOptions(), accumulation_steps=accumulation_steps)
    strategy.setup(model, updater, transform, buffer, foreign_outputs, capacity=capacity, **more)
    return strategy


def samples(pixels, labels, task=0) -> Samples:
    content = batch(pixels, labels)
    return Samples(content.x, content.y, torch.full_like(content.y, task))


def batch(pixels, labels, tasks=None) -> Batch:
    y = torch.tensor(labels)
    x = torch.tensor(pixels, dtype=torch.uint8).view(-1, *SHAPE)
    return Batch(x, y, torch.zeros_like(y) if tasks is None else torch.tensor(tasks))


def records(pixels, labels, logits=None) -> Records:
    content = batch(pixels, labels)
    columns = {"x": content.x, "y": content.y, "task": content.task}
    if logits is not None:
        columns["logits"] = torch.tensor(logits)
    return Records(columns, torch.ones(len(labels)), torch.arange(len(labels)))


def cross_entropy(logits, label) -> float:
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]


NEW = batch([[255, 0], [0, 255]], [0, 0])  # logits (1, 0) and (0, 1)
NEW_LOSS = (cross_entropy((1, 0), 0) + cross_entropy((0, 1), 0)) / 2
