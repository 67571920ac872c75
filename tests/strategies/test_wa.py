"""Weight Aligning: the loss on new samples and exemplars, the rows of the last layer, and what cannot go with it."""

import pytest
import torch
from exemplar_toys import OUTPUTS, STAGES, network, task
from toys import batch, ready, samples

from cl.data.rows import Rows
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.scenarios.outputs import TaskOutputs
from cl.strategies.bic import Bic
from cl.strategies.wa import Wa


def wa(**options) -> Wa:
    return ready(Wa(**options), network(), outputs=OUTPUTS, stages=STAGES, capacity=8, lr=0.1)


@pytest.mark.parametrize("make", [Wa, Bic])
def test_the_loss_weighs_labels_and_old_outputs_by_the_numbers_of_classes(make):
    outputs = TaskOutputs(6, [range(0, 2), range(2, 3), range(3, 6)])  # the last is not seen yet
    strategy = ready(make(temperature=3.0), network(6), outputs=outputs, stages=[[0], [1], [2]], capacity=12)
    strategy.exemplars = {0: samples([[1, 2]] * 2, [0] * 2), 1: samples([[2, 1]] * 2, [1] * 2)}
    strategy.before_task(1, None)
    with torch.no_grad():
        strategy.model[3].weight += 0.3 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    new = batch([[255, 0], [10, 200]], [2, 0])
    logits, before = (net(new.x / 255).detach().double() for net in (strategy.model, strategy.teacher))
    labels = -(logits[[0, 1], [2, 0]] - logits[:, :3].exp().sum(1).log()).mean()
    p = (before[:, :2] / 3).exp() / (before[:, :2] / 3).exp().sum(1, keepdim=True)
    q = (logits[:, :2] / 3).exp() / (logits[:, :2] / 3).exp().sum(1, keepdim=True)
    old = -(p * q.log()).sum(1).mean()
    assert strategy.loss(new, []).item() == pytest.approx((labels / 3 + 2 * old / 3).item(), abs=1e-6)


def test_in_the_first_task_the_loss_is_that_of_the_labels():
    strategy = wa()
    strategy.before_task(0, None)
    new = batch([[255, 0], [10, 200]], [0, 1])
    logits = strategy.model(new.x / 255)[:, :2]
    expected = torch.nn.functional.cross_entropy(logits, new.y)
    assert strategy.loss(new, []).item() == pytest.approx(expected.item(), abs=1e-6)


def test_new_rows_get_the_mean_length_of_the_old_ones_and_keep_their_proportions():
    strategy = wa()
    strategy.before_task(0, None)
    first = strategy.head.weight.clone()
    strategy.after_task(0, task(0))
    assert torch.equal(strategy.head.weight, first)  # there is nothing to align with
    strategy.before_task(1, task(2))
    with torch.no_grad():
        strategy.head.weight.copy_(torch.tensor([[3.0, 4, 0], [0, 0, 1], [6, 8, 0], [0, 20, 0]]))
    bias = strategy.head.bias.clone()
    strategy.after_task(1, task(2))
    expected = torch.tensor([[3.0, 4, 0], [0, 0, 1], [1.2, 1.6, 0], [0, 4, 0]])  # 3 / 15
    assert torch.allclose(strategy.head.weight, expected) and torch.equal(strategy.head.bias, bias)


@pytest.mark.parametrize("positive", [True, False])
def test_weights_of_the_last_layer_do_not_fall_below_zero(positive):
    strategy = wa(positive_weights=positive)
    strategy.before_task(0, None)
    strategy.observe(batch([[255, 0], [10, 200]], [0, 1]))
    assert (strategy.head.weight.min() >= 0) == positive
    assert strategy.model[1].weight.min() < 0


def test_exemplars_are_trained_on_with_the_new_samples():
    strategy = wa()
    strategy.before_task(0, None)
    strategy.after_task(0, task(0))
    strategy.before_task(1, task(2))
    rows = strategy.training_set(1, task(2))
    assert len(rows) == 20 + 8 and rows.y.bincount().tolist() == [4, 4, 10, 10]
    assert strategy.nbytes == 8 * (2 + 8 + 8)


@pytest.mark.parametrize("name", ["wa", "bic"])
def test_averaged_weights_are_refused(compose_config, name):
    with pytest.raises(ValueError, match=f"ema=0.9 .*strategy={name} corrects its own network .*set ema=null"):
        make_plan(plain(compose_config(f"strategy={name}", "ema=0.9")))


def test_a_memory_without_room_for_each_class_is_refused():
    with pytest.raises(ValueError, match="strategy=wa needs an exemplar of each class: buffer.capacity=3 is too small"):
        ready(Wa(), network(), outputs=OUTPUTS, stages=STAGES, capacity=3)
    with pytest.raises(ValueError, match="strategy=bic needs 2 exemplars of each class: buffer.capacity=7 is too"):
        ready(Bic(), network(), outputs=OUTPUTS, stages=STAGES, capacity=7)


def test_pictures_that_stay_in_their_files_are_refused():
    with pytest.raises(ValueError, match="strategy=wa .* set dataset.stream=false"):
        wa().training_set(0, Rows({"x": None, "y": torch.zeros(1)}))
