"""One rank of test_streams.py: trains on equal pictures, and prints what augmentation and dropout make of them."""

import json
import sys

import torch
from torch import nn

from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed import ranks
from cl.distributed.comm import ReduceOptions
from cl.distributed.group import connect
from cl.distributed.leaving import leave
from cl.reporting.history import History
from cl.reporting.recorder import Recorder
from cl.run.trainer import Trainer
from cl.scenarios.outputs import TaskOutputs
from cl.step.schedules import Constant
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.finetune import Finetune

CPU = torch.device("cpu")
seen: list[dict] = []


class Watched(nn.Module):
    """A linear layer after dropout of ones, which notes pictures and masks."""

    def __init__(self):
        super().__init__()
        self.dropout, self.layer = nn.Dropout(0.5), nn.Linear(16, 2)

    def forward(self, x):
        mask = self.dropout(torch.ones(len(x), 16))
        seen.append({"pictures": x.flatten().tolist(), "mask": mask.flatten().tolist()})
        return self.layer(x.flatten(1) * mask)


started = ranks.started()
comm = connect(started[0] if started else None, timeout=60)
torch.manual_seed(0)
model = Watched()
picture = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
zeros = torch.zeros(8, dtype=torch.int64)
samples = Rows({"x": picture.repeat(8, 1, 1, 1), "y": zeros, "task": zeros})
strategy = Finetune()
updater = Updater(torch.optim.SGD(model.parameters(), lr=0.1), model, CPU, comm, ReduceOptions())
strategy.setup(StrategyContext(model, updater, BatchTransform(["flip"], None, None, 1, CPU), TaskOutputs(2)))
trainer = Trainer(strategy, Constant(), 4, 0, Recorder(History([], None)))
for stage in range(2):
    trainer.train(samples, stage, steps=1)
with open(sys.argv[1], "w") as file:
    json.dump(seen, file)
leave()
