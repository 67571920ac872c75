"""Numbers that a strategy logs: means over an interval."""

import pytest
import torch
from toys import NEW, batch, ready

from cl.strategies.finetune import Finetune


class Logging(Finetune):
    """Logs the loss of each part of a step, and how many samples it has."""

    def loss(self, batch, draws):
        loss = super().loss(batch, draws)
        self.log("part_loss", loss)
        self.log("samples", len(batch))
        return loss


def test_means_are_over_the_calls_since_the_last_one():
    strategy = ready(Logging())
    losses = [strategy.observe(new).item() for new in (NEW, batch([[255, 0]], [0]), batch([[9, 9]] * 3, [0, 1, 1]))]
    logged = strategy.take_logged()
    assert logged["part_loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert logged["samples"] == (2 + 1 + 3) / 3 and list(logged) == ["part_loss", "samples"]
    assert strategy.take_logged() == {}
    strategy.observe(NEW)
    assert strategy.take_logged()["samples"] == 2


def test_a_tensor_stays_a_tensor_without_its_graph_until_the_interval_ends():
    strategy, weight = ready(Finetune()), torch.ones((), requires_grad=True)
    for factor in (1, 2):
        strategy.log("weight", factor * weight)
    total = strategy.logged.sums["weight"]
    assert isinstance(total, torch.Tensor) and not total.requires_grad
    weight.data.fill_(7)
    assert strategy.take_logged() == {"weight": 1.5}


def test_the_sums_of_an_interval_are_a_state():
    strategy, resumed = ready(Finetune()), ready(Finetune())
    strategy.log("a", torch.tensor(1.0))
    strategy.log("b", 3)
    resumed.logged.load_state_dict(strategy.logged.state_dict())
    for each in (strategy, resumed):
        each.log("a", torch.tensor(4.0))
    assert resumed.take_logged() == strategy.take_logged() == {"a": 2.5, "b": 3.0}
