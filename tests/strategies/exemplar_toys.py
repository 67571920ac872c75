"""Two tasks of two classes and a network with three features, for the strategies with exemplars."""

import torch
from torch import nn
from toys import samples

from cl.data.rows import Rows
from cl.scenarios.outputs import TaskOutputs

STAGES, OUTPUTS = [[0], [1]], TaskOutputs(4, [range(0, 2), range(2, 4)])


def network(num_outputs: int = 4) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, num_outputs))


def task(first_label: int, count: int = 10) -> Rows:
    """`count` samples of each of two classes."""
    generator = torch.Generator().manual_seed(first_label)
    pixels = torch.randint(0, 256, (2 * count, 2), generator=generator).tolist()
    return samples(pixels, [first_label] * count + [first_label + 1] * count, task=first_label // 2)
