"""Two pixels, two logits: networks, batches and records small enough to work a loss out by hand."""

import math

import torch
from torch import nn

from cl.buffers.base import Records
from cl.buffers.reference import ReferenceBuffer
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.scenarios.outputs import TaskOutputs
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext

CPU = torch.device("cpu")
SHAPE, CLASSES = (1, 1, 2), 2


def linear(weight=((1.0, 0.0), (0.0, 1.0))) -> nn.Module:
    """Two pixels straight to two logits: with the identity, the logits are the pixels / 255."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor(weight)
    return nn.Sequential(nn.Flatten(), layer)


def ready(strategy, model=None, capacity=4, outputs=None, lr=0.0, augment=(), accumulation_steps=1, **more):
    """A strategy that is set up, with SGD; `more` goes to its context."""
    outputs = outputs or TaskOutputs(CLASSES)
    model = model or linear()
    trained = strategy.trained(model, outputs.num_outputs, more.get("seed", 0))
    optimizer = torch.optim.SGD(trained.parameters(), lr=lr)
    transform = BatchTransform(list(augment), None, None, 1, CPU)
    buffer = None
    if strategy.uses_buffer:
        fields = strategy.fields(SHAPE, (outputs.num_outputs,))
        buffer = ReferenceBuffer(capacity, "reservoir", "uniform", fields, outputs.num_outputs, 0, CPU, Comm())
    updater = Updater(optimizer, trained, CPU, Comm(), ReduceOptions(), accumulation_steps=accumulation_steps)
    strategy.setup(StrategyContext(model, updater, transform, outputs, buffer=buffer, capacity=capacity, **more))
    return strategy


def samples(pixels, labels, task=0) -> Rows:
    return batch(pixels, labels, [task] * len(labels))


def batch(pixels, labels, tasks=None) -> Rows:
    y = torch.tensor(labels)
    x = torch.tensor(pixels, dtype=torch.uint8).view(-1, *SHAPE)
    return Rows({"x": x, "y": y, "task": torch.zeros_like(y) if tasks is None else torch.tensor(tasks)})


def records(pixels, labels, logits=None) -> Records:
    columns = batch(pixels, labels).columns
    if logits is not None:
        columns["logits"] = torch.tensor(logits)
    return Records(columns, torch.ones(len(labels)), torch.arange(len(labels)))


def cross_entropy(logits, label) -> float:
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]


NEW = batch([[255, 0], [0, 255]], [0, 0])  # logits (1, 0) and (0, 1)
NEW_LOSS = (cross_entropy((1, 0), 0) + cross_entropy((0, 1), 0)) / 2
