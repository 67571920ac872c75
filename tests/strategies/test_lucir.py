"""LUCIR: cosines and their scale, the direction of features, the margin, and the last layer when a task is over."""

import math

import pytest
import torch
import torch.nn.functional as F
from exemplar_toys import OUTPUTS, STAGES, network, task
from toys import batch, ready, samples

from cl.data.rows import Rows
from cl.distributed.comm import Comm
from cl.scenarios.outputs import TaskOutputs
from cl.strategies.lucir import Lucir


def lucir(lr=0.1, **options) -> Lucir:
    model = network()
    with torch.no_grad():
        model[1].bias += 0.3  # so that no picture has features of 0
    return ready(Lucir(**options), model, outputs=OUTPUTS, stages=STAGES, capacity=8, lr=lr)


def in_second_task(**options) -> Lucir:
    strategy = lucir(**options)
    strategy.before_task(0, None)
    strategy.exemplars = {0: samples([[1, 2]], [0]), 1: samples([[2, 1]], [1])}
    strategy.before_task(1, None)
    with torch.no_grad():
        strategy.model[1].weight += 0.4
        strategy.model[3].weight -= 0.2
    return strategy


def cosine(a, b) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


NEW = batch([[255, 10], [10, 200], [90, 240]], [2, 0, 1])


def by_hand(strategy, less_forget, ranking, margin, hardest) -> float:
    images = NEW.x / 255
    weight = strategy.model[3].weight.detach()
    now, before = (net[:3](images).detach() for net in (strategy.model, strategy.teacher))
    c = [[cosine(feature, row) for row in weight] for feature in now]
    scale = strategy.scale.item()
    labels = NEW.y.tolist()
    entropy = [math.log(sum(math.exp(scale * v) for v in row)) - scale * row[y] for row, y in zip(c, labels)]
    moved = [1 - cosine(a, b) for a, b in zip(now, before)]
    missed = []
    for row, y in zip(c, labels):
        if y < 2:
            nearest = sorted(row[2:], reverse=True)[:hardest]
            missed.append(sum(max(0.0, margin - row[y] + other) for other in nearest))
    return sum(entropy) / 3 + less_forget * sum(moved) / 3 + ranking * sum(missed) / 2


@pytest.mark.parametrize("hardest", [1, 2, 5])
def test_the_three_terms_of_the_loss(hardest):
    options = {"less_forget": 5.0, "ranking": 0.7, "margin": 0.6}
    strategy = in_second_task(**options, hardest=hardest, scale=3.0, lr=0.0)
    assert strategy.observe(NEW).item() == pytest.approx(by_hand(strategy, **options, hardest=hardest), abs=1e-5)
    less = in_second_task(less_forget=0.0, ranking=0.0, scale=3.0, lr=0.0)
    assert less.observe(NEW).item() == pytest.approx(by_hand(less, 0, 0, 0.5, 2), abs=1e-5)
    assert strategy.observe(NEW) > less.observe(NEW) + 0.1


def test_the_weight_of_the_features_grows_with_the_root_of_old_by_new_classes():
    outputs = TaskOutputs(7, [range(0, 3), range(3, 5), range(5, 7)])
    strategy = ready(Lucir(less_forget=4.0), network(7), outputs=outputs, stages=[[0], [1], [2]], capacity=7)
    found = []
    for stage in range(3):
        strategy.set_stage(stage)
        found.append(strategy.feature_weight)
    assert found == pytest.approx([0, 4 * math.sqrt(3 / 2), 4 * math.sqrt(5 / 2)])


def test_the_scale_is_learned_by_the_gradient_of_the_loss():
    strategy = lucir(lr=0.5, scale=2.0)
    strategy.before_task(0, None)
    new = batch([[255, 10], [10, 200]], [0, 1])

    def loss(scale) -> torch.Tensor:
        features = F.normalize(strategy.model[:3](new.x / 255))
        return F.cross_entropy((scale * features @ F.normalize(strategy.model[3].weight).T)[:, :2], new.y)

    slope = ((loss(2.001) - loss(1.999)) / 0.002).item()
    strategy.observe(new)
    assert strategy.scale.item() == pytest.approx(2 - 0.5 * slope, abs=1e-3) and abs(slope) > 0.01


def test_after_a_task_the_network_itself_orders_classes_by_cosines():
    strategy = lucir()
    strategy.before_task(0, task(0))
    strategy.after_task(0, task(0))
    strategy.before_task(1, task(2))
    for part in range(4):
        strategy.observe(Rows.cat([task(0), task(2)]).part(slice(part, None, 4)))
    rows = strategy.model[3].weight.detach().clone()
    images = task(2).x / 255
    features = strategy.model[:3](images).detach()
    strategy.after_task(1, task(2))
    scores = strategy.classifier()(images).detach()
    expected = F.normalize(features) @ F.normalize(rows).T
    assert torch.allclose(scores / features.norm(dim=1, keepdim=True), expected, atol=1e-5)
    lengths = strategy.model[3].weight.norm(dim=1)
    assert lengths.tolist() == pytest.approx([1, 1, 1, 1]) and not strategy.model[3].bias.any()


def test_the_rows_of_classes_to_come_stay_as_they_are():
    strategy = lucir()
    later = strategy.model[3].weight[2:].detach().clone()
    strategy.before_task(0, task(0))
    strategy.observe(task(0))
    strategy.after_task(0, task(0))
    assert torch.equal(strategy.model[3].weight[2:], later)


def test_two_ranks_share_the_margins_of_all_samples_of_old_classes():
    class Rank(Comm):
        size = 2

        def sum(self, values):
            return torch.tensor([2.0])  # 2 rows of old classes: here one or two of them

    whole = in_second_task(lr=0.0)
    together = whole.observe(NEW).item()
    parts = []
    for which in ([0, 1], [2]):
        strategy = in_second_task(lr=0.0)
        strategy.updater.comm = Rank()
        strategy.updater.comm.mean = lambda values: values
        parts.append(strategy.observe(NEW.part(torch.tensor(which), 2 * len(which) / 3)).item())
    assert sum(parts) / 2 == pytest.approx(together, abs=1e-6)


def test_a_compiled_network_is_refused():
    with pytest.raises(ValueError, match="strategy=lucir reads the features within the network: set compile=false"):
        model = network()
        ready(Lucir(), model, outputs=OUTPUTS, stages=STAGES, capacity=8, network=lambda x: model(x))
