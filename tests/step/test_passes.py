"""Passes are counted where they happen: in every call of a network and of its copies, in the right column."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.func import functional_call

from cl.distributed.comm import Comm
from cl.step.passes import COLUMNS, Passes

X = torch.ones(3, 1, 1, 2)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))


def watched() -> tuple[nn.Module, Passes]:
    network, passes = linear(), Passes()
    passes.watch(network)
    return network, passes


def taken(passes: Passes) -> tuple[int, ...]:
    counts = passes.take(Comm())
    assert tuple(counts) == COLUMNS
    return tuple(counts.values())


def test_a_call_with_gradients_is_two_passes_of_each_row_and_one_without_is_one():
    network, passes = watched()
    network(X)
    assert taken(passes) == (3, 3, 0, 0)
    with torch.no_grad():
        network(X)
    assert taken(passes) == (3, 0, 0, 0)
    network.requires_grad_(False)
    network(X)
    assert taken(passes) == (3, 0, 0, 0)
    assert taken(passes) == (0, 0, 0, 0)


def test_copies_and_calls_with_other_weights_count_where_the_network_counts():
    network, passes = watched()
    with torch.no_grad():
        copy.deepcopy(copy.deepcopy(network))(X)
        functional_call(network, {"1.weight": torch.zeros(2, 2)}, (X,))
    assert taken(passes) == (6, 0, 0, 0)


def test_a_watched_network_can_be_saved_whole():
    network, _ = watched()
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(X), network(X))


def test_blocks_choose_the_column_and_end_as_they_began_also_after_an_error():
    network, passes = watched()
    with passes.unlabelled():
        network(X)
        with passes.labelled():
            network(X[:1])
        with pytest.raises(KeyError), passes.paused():
            with passes.paused():
                network(X)
            network(X)
            passes.count(forward=100, backward=1000)  # what is known is counted also where the hooks are not
            raise KeyError
        network(X)
    network(X[:2])
    assert taken(passes) == (3, 3, 106, 1006)


@pytest.mark.parametrize("hook_is_kept", [True, False])
def test_a_compiled_network_counts_once_whether_or_not_the_compiler_keeps_the_hook(hook_is_kept):
    network, passes = watched()
    compiled = passes.compiled(network if hook_is_kept else network.forward)
    with passes.unlabelled():
        assert torch.equal(compiled(X), network.forward(X))
    assert taken(passes) == (0, 0, 3, 3)


def test_a_state_holds_the_counts():
    network, passes = watched()
    network(X)
    other = Passes()
    other.load_state_dict(passes.state_dict())
    network(X)
    assert taken(other) == (3, 3, 0, 0) and taken(passes) == (6, 6, 0, 0)
