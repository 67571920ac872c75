"""Elastic Weight Consolidation (Kirkpatrick et al. 2017, eq. 3), online (Schwarz et al. 2018, Progress & Compress)."""

import torch
from torch.func import functional_call, grad, vmap

from cl import seeding
from cl.samples import Samples
from cl.strategies.penalty import PenaltyStrategy
from cl.strategies.replay import check_counts, check_weights

LABELS = ("sampled", "true", "all")
CHUNK_BYTES = 2**24  # of gradients of single samples that are held at once: within the caches it is three times faster


class Ewc(PenaltyStrategy):
    """CE(f(x), y) + lambda/2 sum_i F_i (theta_i - theta*_i)^2; after each task F <- gamma F + F_t, theta* <- theta.

    F_t is the diagonal of the Fisher information at the end of task t: the mean over its training samples (or
    `fisher_samples` of them) of the squared gradient of log p(y | x), with y "sampled" from the network's own
    prediction, the "true" label (the empirical Fisher), or the expectation over "all" outputs, which costs as many
    times more as there are.
    """

    needs_labels = True

    def __init__(self, lambda_: float, gamma: float, fisher_labels: str = "sampled", fisher_samples: int | None = None):
        check_weights(lambda_=lambda_)
        if not 0 <= gamma <= 1:
            raise ValueError(f"strategy.gamma must lie in [0, 1], got {gamma}")
        if fisher_labels not in LABELS:
            raise ValueError(f"strategy.fisher_labels={fisher_labels} does not exist; valid: {', '.join(LABELS)}")
        if fisher_samples is not None:
            check_counts(fisher_samples=fisher_samples)
        super().__init__(strength=lambda_)
        self.gamma, self.fisher_labels, self.fisher_samples = gamma, fisher_labels, fisher_samples

    def after_task(self, stage: int, samples: Samples) -> None:
        fisher = self.fisher(stage, samples)
        if self.importance:
            fisher = [new + self.gamma * old for new, old in zip(fisher, self.importance)]
        self.importance = fisher
        self.keep_anchor()

    def fisher(self, stage: int, samples: Samples) -> list[torch.Tensor]:
        """F_t, a tensor for each weight; every rank computes its part."""
        device, comm = self.updater.device, self.updater.comm
        random = seeding.generator(self.seed, "fisher", stage)
        order = random.permutation(len(samples))[: self.fisher_samples]
        mine = torch.from_numpy(order[comm.rank :: comm.size]).to(samples.y.device)
        numbers = torch.from_numpy(random.random(len(order))[comm.rank :: comm.size]).to(device)
        was_training = self.model.training
        self.model.eval()
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        weights = {names[id(weight)]: weight.detach() for weight in self.updater.weights}
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        others = {name: value.detach() for name, value in self.model.named_parameters() if name not in weights}
        others |= dict(self.model.named_buffers())

        def logits_of(weights, x, task):
            return self.own_outputs(functional_call(self.model, (weights, others), (x,)), task)

        def log_probability(weights, x, y, task):
            logits = logits_of(weights, x[None], task[None])[0]
            return torch.gather(logits, 0, y[None])[0] - torch.logsumexp(logits, 0)

        gradients = vmap(grad(log_probability), in_dims=(None, 0, 0, 0))
        chunk = max(1, CHUNK_BYTES // sum(weight.nbytes for weight in weights.values()))
        for part, uniform in zip(mine.split(chunk), numbers.split(chunk)) if len(mine) else ():
            some = samples.part(part).loaded().to(device)
            x, task = self.transform.test(some.x), some.task
            with torch.no_grad():
                probabilities = logits_of(weights, x, task).softmax(1)
            for y, share in self.labels(probabilities, some.y, uniform):
                for name, values in gradients(weights, x, y, task).items():
                    total[name] += torch.tensordot(share, values.square_(), 1)
        self.model.train(was_training)
        return [value * (comm.size / len(order)) for value in comm.mean(list(total.values()))]

    def labels(self, probabilities: torch.Tensor, y: torch.Tensor, uniform: torch.Tensor):
        """The labels [n] for which the gradient is taken, each with the weights [n] of its square."""
        ones = torch.ones(len(y), device=y.device)
        if self.fisher_labels == "true":
            yield y, ones
        elif self.fisher_labels == "sampled":  # by inversion, from a random number [n] in [0, 1) for each sample
            below = (probabilities.double().cumsum(1) <= uniform[:, None]).sum(1)
            last = probabilities.shape[1] - 1 - probabilities.flip(1).gt(0).int().argmax(1)  # against rounding
            yield torch.minimum(below, last), ones
        else:
            for label in range(probabilities.shape[1]):
                if (share := probabilities[:, label]).any():  # an output of another task has none
                    yield torch.full_like(y, label), share
