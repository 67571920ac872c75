"""Steps of several networks as one: weights and states of each, against loops of torch for each by itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cl.buffers.base import Field
from cl.buffers.native import NativeBuffer
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.scenarios.outputs import TaskOutputs
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.der import Der
from cl.strategies.finetune import Finetune
from cl.strategies.stacked import Stacked, stack, why_not

CPU, SHAPE, CLASSES, SEEDS = torch.device("cpu"), (1, 2, 3), 4, 3
OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.3),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.3, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.05),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=0.05, momentum=0.5),
}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES, bias=False))


def batch(seed: int, step: int) -> Rows:
    generator = torch.Generator().manual_seed(100 * seed + step)
    x = torch.randint(0, 256, (7, *SHAPE), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, CLASSES, (7,), generator=generator)
    return Rows({"x": x, "y": y, "task": torch.zeros_like(y)})


def strategy_of(model: nn.Module, optimizer, strategy, buffer=None):
    updater = Updater(optimizer(model.parameters()), model, CPU, Comm(), ReduceOptions())
    transform = BatchTransform([], None, None, SHAPE[0], CPU)
    strategy.setup(StrategyContext(model, updater, transform, TaskOutputs(CLASSES), buffer=buffer))
    return strategy


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Rows) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(rows.x / 255), rows.y)
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_network_takes_its_own_steps_stacked_or_not(name):
    """Four steps stacked, one by itself, three stacked again; states and weights can be read after each."""
    make, models, twins = OPTIMIZERS[name], [network(seed) for seed in range(SEEDS)], [network(s) for s in range(SEEDS)]
    strategies = [strategy_of(model, make, Finetune()) for model in models]
    optimizers = [make(twin.parameters()) for twin in twins]
    stacked = None
    for step in range(8):
        batches = [batch(seed, step) for seed in range(SEEDS)]
        if step == 4:
            stacked.release()
            stacked = None
            losses = [strategy.observe(rows) for strategy, rows in zip(strategies, batches)]
        else:
            stacked = stacked or Stacked(strategies)
            losses = stacked.observe(batches, [[]] * SEEDS)
        expected = [plain_step(*parts) for parts in zip(twins, optimizers, batches)]
        torch.testing.assert_close(torch.stack(list(losses)), torch.tensor(expected), rtol=1e-4, atol=1e-6)
        for model, twin, strategy, optimizer in zip(models, twins, strategies, optimizers):
            torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-3, atol=2e-5)
            mine, theirs = strategy.updater.optimizer.state_dict(), optimizer.state_dict()
            torch.testing.assert_close(mine["state"], theirs["state"], rtol=1e-3, atol=2e-5)
    stacked.release()
    for model in models:
        for weight in model.parameters():
            assert weight.is_contiguous() and weight.untyped_storage().nbytes() == 4 * weight.numel()


def test_the_learning_rate_is_that_of_the_first():
    models = [network(seed) for seed in range(2)]
    before = [weight.clone() for weight in models[1].parameters()]
    strategies = [strategy_of(model, OPTIMIZERS["sgd"], Finetune()) for model in models]
    stacked = Stacked(strategies)
    strategies[0].updater.optimizer.param_groups[0]["lr"] = 0.0
    stacked.observe([batch(0, 0), batch(1, 0)], [[], []])
    assert all(torch.equal(*pair) for pair in zip(before, models[1].parameters()))


def test_each_memory_has_the_logits_of_its_own_network():
    models, strategies = [network(seed) for seed in range(2)], []
    for seed, model in enumerate(models):
        strategy = Der(replay_batch_size=5, alpha=0.5)
        fields = strategy.fields(SHAPE, (CLASSES,))
        assert fields[-1] == Field("logits", (CLASSES,), torch.float32)
        buffer = NativeBuffer(20, "reservoir", "uniform", fields, CLASSES, seed, CPU, Comm())
        strategies.append(strategy_of(model, OPTIMIZERS["sgd"], strategy, buffer))
    batches = [batch(seed, 0) for seed in range(2)]
    with torch.no_grad():
        expected = [model(rows.x / 255) for model, rows in zip(models, batches)]
    stacked = Stacked(strategies)
    stacked.observe(batches, [[], []])
    for strategy, rows, logits in zip(strategies, batches, expected):
        (draw,) = strategy.recall()
        assert len(draw) == 5
        for x, z in zip(draw["x"], draw["logits"]):
            place = (rows.x == x).flatten(1).all(1).nonzero().item()
            torch.testing.assert_close(z, logits[place])
        assert strategy.passes.counts["forward_passes"] == strategy.passes.counts["backward_passes"] == 7


def test_a_stack_has_matrices_transposed_in_memory():
    matrices = [torch.randn(3, 5) for _ in range(2)]
    assert torch.equal(stack(matrices), torch.stack(matrices)) and stack(matrices)[0].t().is_contiguous()


@pytest.mark.parametrize("layer, reason", [
    (nn.Identity(), ""),
    (nn.GroupNorm(1, 1), ""),
    (nn.BatchNorm2d(1), "has statistics, such as those of batch-norm"),
    (nn.Dropout(0.5), "draws random numbers in training, such as those of dropout"),
])  # fmt: skip
def test_which_networks_can_be_stacked(layer, reason):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(6, CLASSES)).eval()
    assert why_not(model, torch.zeros(2, *SHAPE)) == reason
    assert not any(module.training for module in model.modules())


def test_a_network_that_looks_at_values_cannot_be_stacked():
    class Looks(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) if x.sum() > 0 else x

    assert why_not(Looks(6, CLASSES), torch.zeros(2, *SHAPE)).startswith("cannot be mapped: ")
