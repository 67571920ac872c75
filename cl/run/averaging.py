"""What an average of the weights is given of a run."""

import math
from collections.abc import Iterator

import torch

from cl import seeding
from cl.data.rows import Rows
from cl.run.session import Session
from cl.step.average import Average, AverageContext
from cl.strategies.context import StrategyContext
from cl.strategies.ewc import Ewc
from cl.strategies.head import last_layer


def set_up(average: Average, session: Session) -> Average:
    """The average of a session's plan, ready to begin."""
    plan, config, comm = session.plan, session.config, session.comm
    head = None
    if average.in_place and not plan.scenario.targets:
        head = last_layer(session.model, plan.scenario.num_outputs, f"average={config['average']['name']}")

    def batches(stage: int, rows: Rows) -> Iterator[torch.Tensor]:
        count = comm.size * math.ceil(len(rows) / (config["eval_batch_size"] * comm.size))
        order = torch.from_numpy(seeding.generator(config["seed"], "average", stage).permutation(len(rows)))
        for part in order.tensor_split(count)[comm.rank :: comm.size]:
            some = rows.part(part.to(rows.y.device)).loaded().to(session.device)
            yield session.transform.test(some.x)

    def fisher(stage: int, samples: Rows, labels: str, count: int | None) -> list[torch.Tensor]:
        estimate = Ewc(lambda_=0.0, fisher_labels=labels, fisher_samples=count)
        estimate.setup(
            StrategyContext(
                session.model, session.updater, session.transform, session.outputs, seed=config["seed"],
                passes=session.passes,
            )
        )  # fmt: skip
        return estimate.fisher(stage, samples)

    average.setup(AverageContext(session.model, comm, plan.strategy.uses_memory, head, batches, fisher))
    return average
