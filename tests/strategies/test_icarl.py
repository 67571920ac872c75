"""iCaRL: herding, the targets of the loss, exemplars and the nearest class mean."""

import pytest
import torch
from exemplar_toys import OUTPUTS, STAGES, network, task
from torch import nn
from toys import batch, ready, samples

from cl.strategies.exemplars import herding
from cl.strategies.head import last_layer
from cl.strategies.icarl import Icarl


def icarl(capacity=8, lr=0.0):
    return ready(Icarl(), network(), outputs=OUTPUTS, stages=STAGES, capacity=capacity, lr=lr)


def test_herding_picks_one_after_the_other_what_brings_the_mean_nearest():
    features = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [2.0, -0.1]])
    mean, chosen = features.mean(0), []
    for _ in range(4):
        trials = {i: features[[*chosen, i]].mean(0) for i in range(5) if i not in chosen}
        chosen.append(min(trials, key=lambda i: (trials[i] - mean).norm().item()))
    assert herding(features, 4).tolist() == chosen
    assert sorted(herding(features, 9).tolist()) == [0, 1, 2, 3, 4]


def test_loss_holds_old_outputs_to_the_old_network_and_new_ones_to_the_label():
    strategy = icarl()
    strategy.exemplars = {0: samples([[1, 2]], [0]), 1: samples([[2, 1]], [1])}
    strategy.before_task(1, None)
    old = strategy.teacher
    with torch.no_grad():
        strategy.model[3].weight += 0.3
    new = batch([[255, 0], [10, 200]], [2, 3])
    logits, before = (net(new.x / 255) for net in (strategy.model, old))
    targets = torch.tensor([[0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    targets[:, :2] = before[:, :2].sigmoid()
    p = logits.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum() / 2
    assert strategy.loss(new, []).item() == pytest.approx(expected.item(), abs=1e-5)


def test_loss_adds_up_over_the_classes_seen_so_far():
    strategy = icarl()
    strategy.before_task(0, None)
    new = batch([[255, 0], [10, 200]], [0, 1])
    p = strategy.model(new.x / 255)[:, :2].sigmoid()
    targets = torch.eye(2)
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum() / 2
    loss = strategy.loss(new, [])
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    assert strategy.model[3].weight.grad[2:].abs().sum() == 0


def test_exemplars_share_the_capacity_and_the_best_stay():
    strategy = icarl(capacity=9)
    strategy.after_task(0, task(0))
    first = {label: own.x.clone() for label, own in strategy.exemplars.items()}
    assert [len(x) for x in first.values()] == [4, 4]
    chosen = herding(strategy.features(task(0).x[:10]), 4)
    assert torch.equal(first[0], task(0).x[:10][chosen])
    strategy.after_task(1, task(2))
    assert {label: len(own) for label, own in strategy.exemplars.items()} == {0: 2, 1: 2, 2: 2, 3: 2}
    for label in (0, 1):
        assert torch.equal(strategy.exemplars[label].x, first[label][:2])
    assert len(strategy.training_set(1, task(2))) == 20 + 8
    assert strategy.nbytes == 8 * (2 + 8 + 8)


def test_the_class_of_the_nearest_mean_is_predicted():
    strategy = icarl(capacity=4)
    strategy.after_task(0, task(0))
    images = task(2).x.float() / 255
    scores = strategy.classifier()(images)
    features = strategy.features_of(images)
    for image, feature in zip(scores, features):
        distances = []
        for label in (0, 1):
            mean = strategy.features(strategy.exemplars[label].x).mean(0)
            distances.append((feature - mean / mean.norm()).norm())
        assert image.argmax().item() == (0 if distances[0] < distances[1] else 1)
        assert torch.isinf(image[2:]).all()  # classes that were not seen


def test_a_memory_without_room_for_each_class_is_refused():
    with pytest.raises(ValueError, match="buffer.capacity=3 is too small"):
        icarl(capacity=3)


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="last layer is linear"):
        last_layer(nn.Sequential(nn.Linear(2, 3), nn.Conv2d(1, 4, 1)), 4, "strategy=icarl")
