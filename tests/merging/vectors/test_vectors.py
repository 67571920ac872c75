"""Fusions of weight vectors: identities that hold exactly, and small cases worked out by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from merging.fusion import Models
from merging.means.avg import Avg
from merging.means.slerp import Slerp
from merging.vectors.dare import Dare
from merging.vectors.magmax import Magmax
from merging.vectors.task_arithmetic import TaskArithmetic
from merging.vectors.ties import Ties


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    net(torch.randn(5, 1, 4, 4))  # statistics that are not those of a new network
    return net


def models(*seeds: int, weights=None, initial: int | None = 99) -> Models:
    nets = [network(seed) for seed in seeds]
    states = [net.state_dict() for net in nets]
    names = [name for name, _ in nets[0].named_parameters()]
    start = None if initial is None else network(initial).state_dict()
    return Models(states, weights or [1 / len(seeds)] * len(seeds), names, start)


def small(*rows, initial=None, weights=None) -> Models:
    """Models that are one vector."""
    states = [{"w": torch.tensor(row)} for row in rows]
    start = None if initial is None else {"w": torch.tensor(initial)}
    return Models(states, weights or [1 / len(rows)] * len(rows), ["w"], start)


ALL = [Avg(), TaskArithmetic(), Ties(keep=100), Dare(drop=0.0), Magmax(), Slerp()]
NAMES = [type(fusion).__name__ for fusion in ALL]


@pytest.mark.parametrize("fusion", ALL, ids=NAMES)
def test_equal_models_give_that_model_and_inputs_are_unchanged(fusion):
    given = models(3, 3)
    before = copy.deepcopy((given.states, given.initial))
    merged = fusion(given)
    for name, value in given.states[0].items():
        assert torch.allclose(merged[name], value, rtol=0, atol=1e-7), name
        assert merged[name].dtype == value.dtype and merged[name].data_ptr() != value.data_ptr()
    for kept, now in zip((*before[0], before[1]), (*given.states, given.initial)):
        assert all(torch.equal(kept[name], now[name]) for name in kept)


@pytest.mark.parametrize("fusion", ALL, ids=NAMES)
def test_two_different_models_give_a_third_one(fusion):
    given = models(1, 2)
    merged = fusion(given)
    net = network(0)
    net.load_state_dict(merged)
    for state in given.states:
        assert not torch.allclose(merged["4.weight"], state["4.weight"], atol=1e-3)
    mean = (given.states[0]["1.running_var"] + given.states[1]["1.running_var"]) / 2
    assert torch.allclose(merged["1.running_var"], mean)
    assert merged["1.num_batches_tracked"] == 1


@pytest.mark.parametrize("fusion", [*ALL, Ties(keep=30), Dare(then="ties", keep=30)])
def test_merging_in_blocks_is_merging_at_once(fusion, monkeypatch):
    given = models(1, 2)
    whole = fusion(given)
    monkeypatch.setattr("merging.fusion.BLOCK", 5)
    assert all(torch.equal(value, whole[name]) for name, value in fusion(given).items())
    for state in (*given.states, given.initial):  # an order in memory that cannot be cut into blocks
        state["4.weight"] = state["4.weight"].T.contiguous().T
    assert all(torch.allclose(value, whole[name]) for name, value in fusion(given).items())


def test_half_precision_is_merged_in_single_precision():
    rows = [[1.0, 3.0], [1.0, 3.001], [1.0, 3.002]]
    given = Models([{"w": torch.tensor(row, dtype=torch.bfloat16)} for row in rows], [0.5, 0.25, 0.25], ["w"])
    merged = Avg()(given)["w"]
    assert merged.dtype == torch.bfloat16 and merged.tolist() == [1.0, 3.0]
    wide = Avg()(
        Models([{"w": torch.full((1,), 1.0 + i / 128, dtype=torch.bfloat16)} for i in range(3)], [1 / 3] * 3, ["w"])
    )
    assert wide["w"].item() == 1 + 1 / 128


def test_average_follows_the_weights():
    merged = Avg()(small([1.0, 2.0], [3.0, -2.0], [5.0, 0.0], weights=[0.5, 0.25, 0.25]))
    assert merged["w"].tolist() == pytest.approx([2.5, 0.5], rel=1e-6)
    assert torch.equal(Avg()(small([1.1, 7.3], [3.0, -2.0], weights=[1.0, 0.0]))["w"], torch.tensor([1.1, 7.3]))


def test_task_arithmetic_adds_what_the_models_have_moved():
    given = small([2.0, 1.0], [1.0, 4.0], initial=[1.0, 1.0])
    assert TaskArithmetic(scale=0.5)(given)["w"].tolist() == [1.5, 2.5]
    assert TaskArithmetic()(given)["w"].tolist() == Avg()(given)["w"].tolist() == [1.5, 2.5]
    assert TaskArithmetic(scale=1.0)(given)["w"].tolist() == [2.0, 4.0]


def test_ties_trims_elects_and_merges():
    given = small([3.0, -1.0, 0.5, 0.0], [1.0, 2.0, -4.0, 0.0], [-5.0, 0.1, -1.0, 0.0], initial=[0.0] * 4)
    # keep half: [3 -1 . .] [. 2 -4 .] [-5 . -1 .]; signs of the sums: - + -
    assert Ties(keep=50, scale=1.0)(given)["w"].tolist() == [-5.0, 2.0, -2.5, 0.0]
    assert Ties(keep=50, scale=0.5)(given)["w"].tolist() == [-2.5, 1.0, -1.25, 0.0]


def test_ties_of_one_model_with_all_its_entries_is_task_arithmetic():
    given = models(5)
    ties, arithmetic = Ties(keep=100, scale=0.7)(given), TaskArithmetic(scale=0.7)(given)
    assert all(torch.equal(ties[name], arithmetic[name]) for name in ties)


def test_magmax_takes_the_largest_of_each_entry():
    given = small([3.0, -1.0], [1.0, 2.5], initial=[2.0, 1.0])
    assert Magmax()(given)["w"].tolist() == [3.0, -1.0]  # moved by (1, -2) and (-1, 1.5)
    assert Magmax(scale=0.5)(given)["w"].tolist() == [2.5, 0.0]


def test_dare_keeps_the_expectation_and_the_share():
    moved = torch.full((200_000,), 2.0)
    given = small(moved.tolist(), initial=[0.0] * len(moved))
    merged = Dare(drop=0.75, scale=1.0, seed=3)(given)["w"]
    assert set(merged.unique().tolist()) == {0.0, 8.0}
    kept = (merged != 0).double().mean().item()
    # binomial: five standard deviations, wrong for less than one seed in a million
    assert abs(kept - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(moved))
    assert torch.equal(merged, Dare(drop=0.75, scale=1.0, seed=3)(given)["w"])
    assert not torch.equal(merged, Dare(drop=0.75, scale=1.0, seed=4)(given)["w"])


def test_dare_drops_other_entries_of_each_model_and_hands_on_to_ties():
    given = small([1.0] * 1000, [1.0] * 1000, initial=[0.0] * 1000)
    values = Dare(drop=0.5, then="ties")(given)["w"]
    assert set(values.unique().tolist()) == {0.0, 2.0}
    # an entry is 0 where both dropped it: a quarter of a thousand, standard deviation 14
    assert abs((values == 0).sum().item() - 250) < 70


def test_slerp_goes_along_the_arc():
    given = small([1.0, 0.0], [0.0, 2.0], weights=[1 / 3, 2 / 3])
    merged = Slerp()(given)["w"]
    assert torch.allclose(merged, torch.tensor([math.sin(math.pi / 6), 2 * math.sin(math.pi / 3)]), atol=1e-6)
    assert Slerp()(small([1.0, 1.0], [2.0, 2.0]))["w"].tolist() == [1.5, 1.5]
    with pytest.raises(ValueError, match="two models, got 3"):
        Slerp()(small([1.0], [2.0], [3.0]))


def test_slerp_goes_as_far_as_it_is_told():
    given = small([1.0, 0.0], [0.0, 2.0], weights=[0.5, 0.5])
    merged = Slerp(t=1 / 3)(given)["w"]
    assert torch.allclose(merged, torch.tensor([math.sin(math.pi / 3), 2 * math.sin(math.pi / 6)]), atol=1e-6)
    assert torch.allclose(Slerp(t=0.0)(given)["w"], torch.tensor([1.0, 0.0]), atol=1e-6)
    assert torch.allclose(Slerp(t=1.0)(given)["w"], torch.tensor([0.0, 2.0]), atol=1e-6)
    assert Slerp(t=0.25)(small([1.0, 1.0], [2.0, 2.0]))["w"].tolist() == [1.25, 1.25]


def test_what_cannot_be_merged_is_named():
    with pytest.raises(ValueError, match="different architectures: w is \\(2,\\) in the one and \\(3,\\)"):
        small([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="model 1 has numbers in w that are not finite"):
        small([1.0], [float("nan")])
    with pytest.raises(ValueError, match="with the sum 1"):
        small([1.0], [2.0], weights=[0.5, 0.6])
    with pytest.raises(ValueError, match="at least one model"):
        Models([], [], [])
    for fusion in (TaskArithmetic(), Ties(), Dare(), Magmax()):
        with pytest.raises(ValueError, match="strategy.init=shared"):
            fusion(small([1.0], [2.0]))
