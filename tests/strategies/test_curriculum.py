"""Which data each strategy trains on at each stage, and what it starts from."""

import torch
from torch import nn
from toys import batch

from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.scenarios.outputs import TaskOutputs
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.er import Er
from cl.strategies.finetune import Finetune
from cl.strategies.joint import Joint
from cl.strategies.scratch import Scratch


def test_stages():
    assert Finetune().curriculum(3, concatenate=False) == [[0], [1], [2]]
    assert Er(1).curriculum(3, concatenate=False) == [[0], [1], [2]]
    assert Er(1).curriculum(3, concatenate=True) == [[0], [0, 1], [0, 1, 2]]
    assert Joint().curriculum(3, concatenate=False) == [[0, 1, 2]]
    assert Scratch().curriculum(3, concatenate=False) == [[0], [0, 1], [0, 1, 2]]


def test_scratch_goes_back_to_the_initial_weights_and_optimizer_before_each_task():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = Updater(optimizer, model, torch.device("cpu"), Comm(), ReduceOptions())
    strategy = Scratch()
    transform = BatchTransform([], None, None, 1, torch.device("cpu"))
    strategy.setup(StrategyContext(model, updater, transform, TaskOutputs(2)))
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    sample = batch([[255, 255]], [1])
    for _ in range(2):
        strategy.start_task(0)
        assert all(torch.equal(value, initial[name]) for name, value in model.state_dict().items())
        assert not optimizer.state_dict()["state"]  # no momentum from the task before
        strategy.observe(sample)
        assert not all(torch.equal(value, initial[name]) for name, value in model.state_dict().items())
