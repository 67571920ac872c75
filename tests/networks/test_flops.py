"""FLOPs of a sample, by hand and by torch's own counter; the network stays as it was."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cl.networks.flops import flops


def test_a_linear_network_by_hand():
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    forward = 2 * (6 * 4 + 4 * 3)
    # the gradient of each weight, and of what enters the second layer
    assert flops(network, torch.zeros(1, 6)) == (forward, forward + 2 * 4 * 3)


def test_a_convolution_by_hand():
    network = nn.Conv2d(3, 5, 3, padding=1)
    forward = 2 * 8 * 8 * 5 * 3 * 9
    assert flops(network, torch.zeros(1, 3, 8, 8)) == (forward, forward)


def test_a_frozen_network_has_no_backward_pass():
    network = nn.Linear(6, 4).requires_grad_(False)
    assert flops(network, torch.zeros(1, 6)) == (48, 0)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_as_torch_counts_and_nothing_is_changed(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).train()
    x = torch.rand(1, 3, network.default_cfg["input_size"][1], network.default_cfg["input_size"][2])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    forward, backward = flops(network, x)
    assert network.training and all(weight.grad is None for weight in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    with FlopCounterMode(display=False) as counter:
        network.eval()(x).sum().backward()
    # on a processor torch has no formula for fused attention
    assert forward + backward >= counter.get_total_flops() > 0
    if name == "test_resnet":
        assert forward + backward == counter.get_total_flops()
