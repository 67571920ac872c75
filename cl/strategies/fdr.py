"""Function Distance Regularization (Benjamin et al. 2019, Measuring and Regularizing Networks in Function Space).

Records carry the outputs that the network gave at the end of their task; the network is held to that function.
"""

from typing import Literal

import torch

from cl import seeding
from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.networks.modes import evaluating
from cl.scenarios.base import Scenario
from cl.strategies.base import Strategy
from cl.strategies.der import Der
from cl.values import Count, NotNegative

PART = 500  # samples that go through the network at once where nothing is learned


class Fdr(Der):
    """CE(f(x), y) + alpha ||p(x') - p'||_2; the norm is over the outputs of a record, its mean over the records.

    `distance`: p are the predictions ("softmax"), where the task is known over the outputs of the record's task; or the
    "outputs" as they are. A task's samples are offered to the memory when it is over, and those that stay are given the
    outputs of that moment, without augmentation. The paper's norm is over all outputs of the drawn records together.
    Mammoth takes one step on the new samples and a second on the norm, and does not use its alpha: as alpha=1.
    """

    def __init__(
        self,
        replay_batch_size: Count,
        alpha: NotNegative = 1.0,
        distance: Literal["softmax", "outputs"] = "softmax",
        replay_from: Count = 1,
    ):
        super().__init__(replay_batch_size, alpha, replay_from)
        self.distance, self.needs_boundaries = distance, True

    def check(self, scenario: Scenario, buffer: dict) -> None:
        if scenario.targets and self.distance == "softmax":
            raise ValueError(
                "strategy.distance=softmax compares predictions of classes, and this scenario has targets to compute: "
                "set strategy.distance=outputs"
            )

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        draws = [draw for draw in draws if len(draw)]
        outputs, *replayed = self.forward_each(batch["x"], *(draw["x"] for draw in draws))
        loss = batch.weighted(self.objective.loss(outputs, batch))
        for draw, output in zip(draws, replayed):
            difference = self.compared(output, draw) - self.compared(draw["logits"], draw)
            loss = loss + self.alpha * draw.weighted(torch.linalg.vector_norm(difference.flatten(1), dim=1).mean())
        return loss

    def compared(self, outputs: torch.Tensor, rows: Rows) -> torch.Tensor:
        """What the distance is taken of, from the outputs [n, ...] of some rows."""
        if self.distance == "outputs":
            return outputs.float()
        return self.outputs.for_training(outputs.float(), rows["task"]).softmax(1)

    def remember(self, batch: Rows) -> dict[str, torch.Tensor]:
        return Strategy.remember(self, batch)

    def exchange(self, offers: list[dict[str, torch.Tensor]]) -> None:
        """New samples are offered when their task is over."""
        super().exchange([])

    def after_task(self, stage: int, samples: Rows) -> None:
        comm, device = self.updater.comm, self.updater.device
        (shape,) = [field.shape for field in self.buffer.fields if field.name == "logits"]
        order = torch.from_numpy(seeding.generator(self.seed, "filling", stage).permutation(len(samples)))
        for mine in order[comm.rank :: comm.size].to(samples.y.device).split(PART):
            unknown = torch.zeros(len(mine), *shape, device=device)
            self.buffer.add(samples.part(mine).loaded().columns | {"logits": unknown})
        self.buffer.request(self.capacity)
        while self.buffer.pending:  # the draws for a next step come first
            stored = self.buffer.receive()
        of_stage = torch.isin(stored["task"].cpu(), torch.tensor(self.stages[stage]))
        by_id = stored.ids.argsort()  # each rank draws them in another order
        mine = by_id[of_stage[by_id]][comm.rank :: comm.size]
        logits = torch.zeros(len(mine), *shape, device=device)
        with evaluating(self.model):
            for part, rows in zip(mine.to(device).split(PART), logits.split(PART)):
                if len(part):
                    rows.copy_(self.model(self.transform.test(stored["x"][part])))
        self.buffer.update("logits", stored.ids[mine], logits)
        self.request_anew()
