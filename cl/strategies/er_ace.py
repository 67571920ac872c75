"""ER with asymmetric cross entropy (Caccia et al. 2022, New Insights on Reducing Abrupt Representation Change, eq. 4).

New samples compete with the classes of their batch only, so what was learned before is not pushed away by them.
"""

import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.scenarios.outputs import keep_only
from cl.strategies.replay import ReplayStrategy


class ErAce(ReplayStrategy):
    """CE(f(x), y) over the classes in the batch + CE(f(x'), y') over all classes seen so far in the stream.

    The authors' code has in the first term the outputs beyond the highest class seen as well; Mammoth neither masks
    nor replays in the first task.
    """

    defined_in = ("class", "task", "stream")
    needs_labels = True
    seen: torch.Tensor | None = None  # [C] bool

    def observe(self, batch: Rows) -> torch.Tensor:
        # The batch is that of all ranks and accumulation steps together.
        present = torch.zeros(self.outputs.num_outputs, device=batch["y"].device)
        present[batch["y"]] = 1
        self.present = self.updater.comm.sum(present) > 0
        self.seen = self.present if self.seen is None else self.seen | self.present
        return super().observe(batch)

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        draws = [draw for draw in draws if len(draw)]
        parts = [(batch, self.present), *((draw, self.seen) for draw in draws)]
        outputs = self.forward_each(*(part["x"] for part, _ in parts))
        losses = [
            part.weighted(self.cross_entropy(keep_only(logits, classes), part))
            for logits, (part, classes) in zip(outputs, parts)
        ]
        return sum(losses)

    def state_dict(self) -> dict:
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.seen = None if state["seen"] is None else state["seen"].to(self.updater.device)
