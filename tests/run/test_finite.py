"""Which weights are not finite."""

import math

import pytest
import torch
from torch import nn

from cl.run.finite import not_finite


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).to(torch.bfloat16))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "2.bias"])
def test_the_tensor_with_such_a_number_is_named(name, value):
    model = network()
    assert not_finite(model) == []
    model.state_dict()[name].view(-1)[1] = value
    assert not_finite(model) == [name]


def test_infinities_of_both_signs_do_not_cancel():
    model = network()
    model.state_dict()["0.bias"][:2] = torch.tensor([math.inf, -math.inf])
    assert not_finite(model) == ["0.bias"]


def test_finite_numbers_with_a_sum_beyond_float32_are_finite():
    model = network()
    nn.init.constant_(model[0].weight, 3e38)
    assert model[0].weight.sum().isinf()
    assert not_finite(model) == []
