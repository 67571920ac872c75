"""LUCIR (Hou et al. 2019, Learning a Unified Classifier Incrementally via Rebalancing).

Outputs are cosines, so that no class has longer rows than others; features are held in their direction; and exemplars
of old classes are kept away from the new classes that come nearest to them.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.scenarios.outputs import keep_only
from cl.strategies.context import StrategyContext
from cl.strategies.exemplars import ExemplarStrategy
from cl.strategies.features import Features
from cl.values import Count, NotNegative, Positive


class Lucir(ExemplarStrategy):
    """CE(eta c(x), y) + l mean(1 - cos(phi, phi_old)) + ranking mean_old sum_k max(0, margin - c_y + c_k).

    On new samples and exemplars; c_i = cos(phi(x), w_i), phi what enters the last layer and w_i its rows (eq. 2 to 4);
    l = `less_forget` sqrt(old / new classes) (eq. 6 and 7); the last mean is over the samples of old classes, k the
    `hardest` new classes with the largest c_k (eq. 8). CE is over the classes seen so far.

    After a task the rows of these classes are made of length 1 and the biases 0: then the outputs have the
    order of the cosines, and it is tested, saved and loaded like any other. eta begins with `scale` and is learned by
    plain gradient descent. The authors' code takes the mean over k, starts new rows from mean features, has no ReLU
    before the last layer, and trains once more on a balanced set; here nothing of that is done.
    """

    changes_gradients = changes_network = True

    follows_weights = "gives the rows of its last layer length 1"

    def __init__(
        self,
        less_forget: NotNegative = 5.0,
        ranking: NotNegative = 1.0,
        margin: NotNegative = 0.5,
        hardest: Count = 2,
        scale: Positive = 1.0,
    ):
        self.less_forget, self.ranking, self.margin, self.hardest = less_forget, ranking, margin, hardest
        self.first_scale = scale

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        if self.network is not self.model:
            raise ValueError("strategy=lucir reads the features within the network: set compile=false")
        self.scale = torch.tensor([float(self.first_scale)], device=self.updater.device, requires_grad=True)

    def set_stage(self, stage: int) -> None:
        super().set_stage(stage)
        self.new = self.seen & ~self.old
        self.num_new = int(self.new.sum())
        self.feature_weight = self.less_forget * math.sqrt(int(self.old.sum()) / max(1, self.num_new))

    def observe(self, batch: Rows) -> torch.Tensor:
        if self.teacher is not None:
            own = self.old[batch.y].sum().float().reshape(1) * (batch.loss_weight > 0)
            self.num_old = self.updater.comm.sum(own).clamp(min=1)  # rows of old classes in the step on all ranks
        return super().observe(batch)

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        x = self.transform.train(batch.x)
        features = F.normalize(self.entering(x))
        with torch.autocast(features.device.type, enabled=False):
            cosines = features @ F.normalize(self.head.weight.float()).T
        loss = batch.weighted(self.cross_entropy(keep_only(self.scale * cosines, self.seen), batch))
        if self.teacher is None:
            return loss
        with torch.no_grad():
            before = F.normalize(Features(self.teacher, self.outputs.num_outputs, "strategy=lucir")(x))
        loss = loss + self.feature_weight * batch.weighted((1 - (features * before).sum(1)).mean())
        if self.num_new and batch.loss_weight:
            nearest = cosines[:, self.new].topk(min(self.hardest, self.num_new), dim=1)[0]
            missed = (self.margin - cosines.gather(1, batch.y[:, None]) + nearest).clamp(min=0).sum(1)
            share = self.updater.comm.size / self.num_old  # what is averaged over ranks is then a mean over all rows
            loss = loss + self.ranking * (missed * self.old[batch.y]).sum() * share[0]
        return loss

    @torch.no_grad()
    def adjust_gradients(self, batch: Rows, draws: Sequence[Records]) -> None:
        scaler = self.updater.scaler
        gradient = self.scale.grad if scaler is None else self.scale.grad / scaler.get_scale()
        (gradient,) = self.updater.comm.mean([gradient])
        rate = self.updater.optimizer.param_groups[0]["lr"]
        self.scale -= rate * gradient.nan_to_num(0.0, 0.0, 0.0)  # of a step beyond fp16, which is left out
        self.scale.grad = None

    def after_task(self, stage: int, samples: Rows) -> None:
        super().after_task(stage, samples)
        with torch.no_grad():
            self.head.weight[self.seen] = F.normalize(self.head.weight[self.seen])
            if self.head.bias is not None:
                self.head.bias.zero_()

    def state_dict(self) -> dict:
        return super().state_dict() | {"scale": self.scale.detach()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            self.scale.copy_(state["scale"])
