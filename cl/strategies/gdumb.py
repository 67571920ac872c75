"""GDumb (Prabhu et al. 2020, GDumb: A Simple Approach that Questions Our Progress in Continual Learning).

The stream only fills a class-balanced memory; before each test the network is trained again on the memory alone.
"""

import torch

from cl import seeding
from cl.data.rows import Rows
from cl.scenarios.base import Scenario
from cl.strategies.base import Strategy
from cl.strategies.replay import all_records
from cl.strategies.scratch import Scratch

OFFERED = 1000  # samples at a time


class Gdumb(Scratch):
    """CE(f(x'), y') on the records of the memory, from the initial weights, `epochs` times after each task.

    The paper keeps the first samples of each class that fit; here they are a reservoir of the class, so that all of
    its samples have the same chance. The learner is that of the run's options (the paper's: experiment gdumb_learner).
    """

    uses_memory = uses_buffer = True
    stored: Rows | None = None  # what the stage trains on; None between two stages

    def check(self, scenario: Scenario, buffer: dict) -> None:
        if buffer["insertion"] != "class_balanced":
            raise ValueError(
                f"strategy=gdumb keeps equally many samples of each class: buffer.insertion=class_balanced, got "
                f"{buffer['insertion']}"
            )

    def curriculum(self, num_tasks: int, concatenate: bool) -> list[list[int]]:
        return Strategy.curriculum(self, num_tasks, concatenate)

    def before_task(self, stage: int, samples: Rows) -> None:
        super().before_task(stage, samples)
        comm = self.updater.comm
        order = torch.from_numpy(seeding.generator(self.seed, "stream", stage).permutation(len(samples)))
        for mine in order[comm.rank :: comm.size].to(samples.y.device).split(OFFERED):
            self.buffer.add(samples.part(mine).loaded().columns)
        self.stored = all_records(self.buffer, self.capacity)

    def training_set(self, stage: int, samples: Rows) -> Rows:
        """All records of the memory as they were when the stage began, in the order in which they were offered.

        They are kept, and are part of the state: drawing them again would change the later draws of the memory.
        """
        return self.stored

    def after_task(self, stage: int, samples: Rows) -> None:
        self.stored = None

    def exchange(self, offers: list[dict[str, torch.Tensor]]) -> None:
        """The samples that are trained on are in the memory already."""

    def state_dict(self) -> dict:
        return super().state_dict() | {"stored": None if self.stored is None else self.stored.columns}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.stored = None if state["stored"] is None else Rows(state["stored"]).to(self.updater.device)
