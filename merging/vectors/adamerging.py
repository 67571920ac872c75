"""AdaMerging (Yang et al. 2024, AdaMerging: Adaptive Model Merging for Multi-Task Learning), layer-wise."""

import copy
from itertools import chain

import torch
from torch import nn
from torch.func import functional_call

from cl import seeding
from cl.networks.modes import is_frozen
from cl.scenarios.outputs import TaskOutputs
from cl.values import Count, Positive
from merging.fusion import Context, Models, State, WeightFusion, buffers, widened


class AdaMerging(WeightFusion):
    """theta_0 + sum_i lambda_i^l tau_i^l for each tensor l, with the lambdas that minimise the entropy of predictions.

    All start at `start`; Adam takes `steps` steps of `lr`, each on `batch` random ones of `samples_per_task` training
    images of each task, without labels (eq. 4, 5). The paper takes test images; its code keeps the lambdas in [0, 1],
    as here. The entropy is that over all outputs, or over those of the image's task where tests know the task.
    Batch-norm normalises by the batch meanwhile. With running=true the merge so far counts as one model.
    """

    uses_weights, needs_initial, needs_all_tasks = False, True, True

    def __init__(
        self,
        samples_per_task: Count = 100,
        steps: Count = 500,
        batch: Count = 16,
        lr: Positive = 0.001,
        start: Positive = 0.3,
        seed: int = 0,
    ):
        self.samples_per_task, self.steps, self.batch = samples_per_task, steps, batch
        self.lr, self.start, self.seed = lr, start, seed

    @torch.enable_grad()
    def __call__(self, models: Models, context: Context) -> State:
        names, start = models.parameters, models.need_initial("adamerging")
        first = {name: widened(start[name]) for name in names}
        vectors = {name: [widened(state[name]) - first[name] for state in models.states] for name in names}
        device = first[names[0]].device
        raw = torch.full((len(names), len(models.states)), self.start, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([raw], lr=self.lr)
        tasks = sorted(set(chain(*models.tasks)))
        images = {task: context.images([task], self.samples_per_task) for task in tasks}
        random, network = seeding.generator(self.seed, "adamerging"), _batch_statistics(copy.deepcopy(context.network))
        still, losses = buffers(models), []
        for _ in context.progress("adamerging", range(self.steps)):
            drawn = {task: torch.from_numpy(random.integers(len(own), size=self.batch)) for task, own in images.items()}
            x = torch.cat([own[drawn[task].to(own.device)] for task, own in images.items()])
            weights = merged(first, vectors, raw) | {name: value.clone() for name, value in still.items()}
            logits = functional_call(network, weights, (x,)).float().split(self.batch)
            loss = sum(entropy(_known(context.outputs, task, own)) for task, own in zip(tasks, logits))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() / len(tasks))
        found = dict(zip(names, raw.detach().clamp(0, 1).tolist()))
        context.stepped(self.steps)
        context.record("adamerging", lambda: {"lambdas": found, "entropies": losses})
        with torch.no_grad():
            result = still | {name: value.to(start[name].dtype) for name, value in merged(first, vectors, raw).items()}
        return {name: result[name] for name in models.states[0]}


def merged(first: State, vectors: dict[str, list[torch.Tensor]], raw: torch.Tensor) -> State:
    """The merged tensors for the lambdas [tensors, models] before they are clamped."""
    lambdas = raw.clamp(0, 1)
    return {
        name: first[name] + sum(factor * vector for factor, vector in zip(row, own))
        for row, (name, own) in zip(lambdas, vectors.items())
    }


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """The mean entropy of the predictions from logits [B, C]."""
    chances = logits.log_softmax(1)
    return -(chances.exp() * chances).sum(1).mean()


def _known(outputs: TaskOutputs, task: int, logits: torch.Tensor) -> torch.Tensor:
    """The logits among which the prediction is for an image of a task."""
    return logits[:, outputs.of_tasks([task])] if outputs.task_aware else logits


def _batch_statistics(network: nn.Module) -> nn.Module:
    """The network in evaluation mode but for batch-norm, which takes the statistics of the batch."""
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not is_frozen(module):
            module.train()
    return network
