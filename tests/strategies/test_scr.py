"""SCR: the contrastive loss by its sums, both views, the projection, and nearest means of the memory."""

import math

import pytest
import torch
from torch import nn
from toys import batch, ready, records

from cl.networks.modes import evaluating
from cl.scenarios.outputs import TaskOutputs
from cl.strategies.contrast import supervised_contrast
from cl.strategies.scr import Scr

NEW, OLD = batch([[255, 0], [0, 255], [200, 90]], [0, 1, 0]), records([[20, 240], [130, 120]], [1, 2])


def scr(augment=(), **more):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
    method = Scr(2, temperature=0.5, projection_dim=3, projection_hidden=5)
    return ready(method, model, outputs=TaskOutputs(3), augment=augment, **more)


def contrast(z: list[list[float]], labels: list[int], temperature: float) -> float:
    """The formula of the paper, term by term."""
    z = [[value / math.hypot(*one) for value in one] for one in z]
    products = [[sum(a * b for a, b in zip(one, other)) / temperature for other in z] for one in z]
    total = 0.0
    for i, label in enumerate(labels):
        others = [a for a in range(len(z)) if a != i]
        below = sum(math.exp(products[i][a]) for a in others)
        positives = [p for p in others if labels[p] == label]
        total -= sum(math.log(math.exp(products[i][p]) / below) for p in positives) / len(positives)
    return total / len(z)


def test_the_contrastive_loss_is_the_mean_over_positives_of_their_log_share():
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    labels = [0, 1, 0, 2, 1, 2, 0]
    found = supervised_contrast(z, torch.tensor(labels), 0.3)
    assert found.item() == pytest.approx(contrast(z.tolist(), labels, 0.3), rel=1e-5)


def test_both_views_of_new_and_replayed_samples_are_contrasted():
    strategy = scr(augment=["flip"])
    strategy.transform.reseed(3)
    found = strategy.loss(NEW, [OLD])
    strategy.transform.reseed(3)
    x, y = torch.cat([NEW.x, OLD.x]), [0, 1, 0, 1, 2]
    views = torch.cat([x / 255, strategy.transform.train(x)])
    assert not torch.equal(*views.split(5))
    first, _, last = strategy.projection
    hidden = strategy.model[2](strategy.model[1](views.flatten(1)))
    z = last(first(hidden).relu())
    assert found.item() == pytest.approx(contrast(z.tolist(), y + y, 0.5), rel=1e-5)


def test_new_samples_alone_and_parts_without_weight():
    strategy = scr()
    alone = strategy.loss(NEW, [])
    assert strategy.loss(NEW, [OLD.part(slice(0))]).item() == alone.item()
    assert strategy.loss(NEW, [OLD.part(slice(None), 0.0)]).item() == alone.item()
    assert strategy.loss(NEW.part(slice(None), 0.5), []).item() == pytest.approx(alone.item() / 2)
    assert strategy.loss(NEW.part(slice(0, 1), 0.0), []).item() == 0


def test_a_step_trains_network_and_projection_but_for_the_last_layer():
    strategy = scr(lr=0.1)
    trained = [*strategy.model[1].parameters(), *strategy.projection.parameters()]
    before = [weight.detach().clone() for weight in trained]
    last = strategy.model[3].weight.detach().clone()
    strategy.observe(NEW)
    assert len(strategy.updater.weights) == 8
    assert not any(torch.equal(weight, old) for weight, old in zip(trained, before))
    assert torch.equal(strategy.model[3].weight, last)


def test_the_class_of_the_nearest_mean_in_the_memory_is_predicted_also_within_a_task():
    strategy = scr(lr=0.1, capacity=10)
    images = torch.rand(20, 1, 1, 2, generator=torch.Generator().manual_seed(5))

    def expected() -> torch.Tensor:
        stored = strategy.buffer.columns["x"][: len(strategy.buffer)], strategy.buffer.columns["y"]
        with torch.no_grad():
            phi, asked = (
                nn.functional.normalize(strategy.model[2](strategy.model[1](part.flatten(1))))
                for part in (stored[0] / 255, images)
            )
        means = [phi[stored[1][: len(phi)] == label].mean(0) for label in (0, 1)]
        return torch.stack([asked @ mean / mean.norm() for mean in means], dim=1)

    def found() -> torch.Tensor:
        with evaluating(strategy.model):
            return strategy.classifier()(images)

    strategy.before_task(0, NEW)
    for _ in range(2):
        strategy.observe(NEW)
        assert torch.allclose(found()[:, :2], expected(), atol=1e-5)
        assert torch.isinf(found()[:, 2]).all()  # a class that is not in the memory
    assert strategy.buffer.pending == 1  # the draw of the next step is asked for
    counted = dict(strategy.passes.counts)
    strategy.passes.watch(strategy.model)
    strategy.after_task(0, NEW)
    assert torch.allclose(found()[:, :2], expected(), atol=1e-5)
    assert strategy.passes.counts["forward_passes"] == counted["forward_passes"] + 6 + 20  # stored, and asked here


def test_the_projection_is_that_of_the_seed_and_part_of_the_state():
    strategy, again, other = scr(), scr(), scr(seed=1)
    for own, same, differs in zip(*(each.projection.parameters() for each in (strategy, again, other))):
        assert torch.equal(own, same) and not torch.equal(own, differs)
    other.load_state_dict(strategy.state_dict())
    assert all(map(torch.equal, other.projection.parameters(), strategy.projection.parameters()))


def test_what_it_cannot_train_is_refused():
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="all of that is frozen: choose strategy=ncm"):
        ready(Scr(2), nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="strategy=scr looks into the network, which compile=true"):
        scr(network=lambda x: x)
