"""When the memory is given new samples and asked for the next ones: on a GPU after the backward pass, else before."""

import pytest
import torch
from toys import batch, ready

from cl.strategies.agem import Agem
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er


def trained(make, device: str, accumulation_steps: int = 1):
    """The calls of the last of four steps, and the weights and the stored samples after it."""
    calls = []
    strategy = ready(make(), lr=0.1, accumulation_steps=accumulation_steps)
    strategy.updater.device = torch.device(device)  # only its name is asked for

    def listed(owner, name):
        call = getattr(owner, name)
        setattr(owner, name, lambda *arguments: (calls.append(name), call(*arguments))[1])

    for name in ("fetch", "add", "request"):
        listed(strategy.buffer, name)
    listed(strategy.updater, "backward")
    strategy.before_task(0, batch([[0, 0]], [0]))
    for step in range(4):
        calls.clear()
        strategy.observe(batch([[255, 50 * step], [20 * step, 255]], [0, 1]))
    return calls, [weight.tolist() for weight in strategy.updater.weights], strategy.buffer.columns["x"].tolist()


def test_a_processor_asks_for_the_next_records_before_it_computes_the_backward_pass():
    assert trained(lambda: Er(2), "cpu")[0] == ["fetch", "add", "request", "backward"]


def test_a_gpu_is_given_the_backward_pass_first():
    assert trained(lambda: Er(2), "cuda")[0] == ["fetch", "backward", "add", "request"]


def test_with_accumulation_the_last_backward_pass_counts():
    halves = ["fetch", "backward", "fetch", "backward"]
    assert trained(lambda: Er(2), "cuda", 2)[0] == [*halves, "add", "add", "request"]
    assert trained(lambda: Er(2), "cpu", 2)[0] == [*halves[:3], "add", "add", "request", "backward"]


@pytest.mark.parametrize("make", [lambda: Er(2), lambda: Derpp(2, 0.5, 0.5), lambda: Agem(2)])
def test_the_numbers_are_the_same_in_both_orders(make):
    assert trained(make, "cpu")[1:] == trained(make, "cuda")[1:]
