"""A strategy of a user is counted without its help: what it asks of networks itself, and what it keeps."""

import copy

import torch
from toys import NEW, linear, ready

from cl.distributed.comm import Comm
from cl.step.passes import Passes
from cl.strategies.base import Strategy


def watched():
    network, passes = linear(), Passes()
    passes.watch(network)
    return network, passes


def test_a_strategy_that_does_everything_itself_is_counted():
    class Own(Strategy):
        """Asks the network without gradients first, and has a backward pass of its own."""

        def observe(self, batch):
            self.updater.clear()
            x = self.transform.train(batch.x)
            with torch.no_grad():
                hardest = self.model(x).amax(1).argsort()[:1]
            loss = self.objective.loss(self.model(x[hardest]), batch.part(hardest))
            loss.backward()
            self.updater.step()
            return loss.detach()

    network, passes = watched()
    ready(Own(), network, passes=passes).observe(NEW)
    assert list(passes.take(Comm()).values()) == [2 + 1, 1, 0, 0]


def test_a_strategy_counts_as_the_copy_that_teaches_it_does():
    class Distils(Strategy):
        def loss(self, batch, draws):
            x = self.transform.train(batch.x)
            with torch.no_grad():
                target = self.teacher(x)
            return (self.network(x) - target).square().mean()

    network, passes = watched()
    strategy = ready(Distils(), network, passes=passes)
    strategy.teacher = copy.deepcopy(network)
    strategy.observe(NEW)
    assert list(passes.take(Comm()).values()) == [4, 2, 0, 0]
