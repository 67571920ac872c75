"""A run that is stopped within a task goes on as if nothing had happened, for every strategy.

Compared with an uninterrupted run: everything that a strategy works on is built anew and given its saved state.
"""

import pytest
import torch
from torch import nn
from toys import SHAPE

from cl.buffers.native import NativeBuffer
from cl.buffers.reference import ReferenceBuffer
from cl.data.loader import epoch_batches
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.scenarios.outputs import TaskOutputs
from cl.step.updater import Updater
from cl.strategies.agem import Agem
from cl.strategies.bic import Bic
from cl.strategies.cls_er import ClsEr
from cl.strategies.context import StrategyContext
from cl.strategies.der import Der
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er
from cl.strategies.er_ace import ErAce
from cl.strategies.ewc import Ewc
from cl.strategies.fdr import Fdr
from cl.strategies.finetune import Finetune
from cl.strategies.gdumb import Gdumb
from cl.strategies.gem import Gem
from cl.strategies.gss import Gss
from cl.strategies.icarl import Icarl
from cl.strategies.independent import Independent
from cl.strategies.joint import Joint
from cl.strategies.lucir import Lucir
from cl.strategies.lwf import Lwf
from cl.strategies.mas import Mas
from cl.strategies.mir import Mir
from cl.strategies.ncm import Ncm
from cl.strategies.ranpac import Ranpac
from cl.strategies.scr import Scr
from cl.strategies.scratch import Scratch
from cl.strategies.si import Si
from cl.strategies.slda import Slda
from cl.strategies.wa import Wa
from cl.strategies.xder import Xder

CPU = torch.device("cpu")
TASKS, CLASSES, CAPACITY, SEED, STOP = 3, 6, 18, 5, 3
STRATEGIES = {
    "agem": lambda: Agem(4),
    "bic": lambda: Bic(held_out=0.5),
    "cls_er": lambda: ClsEr(4, 0.5, plastic_rate=0.8, stable_rate=0.5),
    "der": lambda: Der(4, alpha=0.5),
    "derpp": lambda: Derpp(4, 0.5, 0.5, distillation_batch_size=3, distill_from=2),
    "er": lambda: Er(4, weighting="by_task"),
    "er task_end": lambda: Er(4, filling="task_end", replay_from=2),
    "er_ace": lambda: ErAce(4),
    "ewc": lambda: Ewc(3.0, anchors="separate"),
    "fdr": lambda: Fdr(4),
    "finetune": lambda: Finetune(),
    "gdumb": lambda: Gdumb(),
    "gss": lambda: Gss(4, compared=3),
    "gem": lambda: Gem(),
    "icarl": lambda: Icarl(),
    "independent": lambda: Independent(),
    "independent previous": lambda: Independent(init="previous"),
    "joint": lambda: Joint(),
    "lucir": lambda: Lucir(),
    "lwf": lambda: Lwf(weighting="by_task"),
    "lwf in its warm-up": lambda: Lwf(warmup_steps=STOP + 2),
    "mas": lambda: Mas(3.0),
    "mir": lambda: Mir(4, candidates=8),
    "ncm": lambda: Ncm(),
    "ranpac": lambda: Ranpac(num_features=9),
    "scratch": lambda: Scratch(),
    "scr": lambda: Scr(4, projection_dim=3),
    "si": lambda: Si(0.5, 0.1),
    "slda": lambda: Slda(),
    "wa": lambda: Wa(),
    "xder": lambda: Xder(4, 0.5, 0.5),
}
BUFFERS = {"reference": ReferenceBuffer, "native": NativeBuffer}
REPLAY = [name for name, make in STRATEGIES.items() if make().uses_buffer]
WITH_STATE = [
    "bic", "cls_er", "derpp", "er", "er_ace", "ewc", "gdumb", "gss", "icarl", "lucir", "lwf", "lwf in its warm-up",
    "mas", "scr", "si", "wa",
]  # fmt: skip


def task(number: int) -> Rows:
    generator = torch.Generator().manual_seed(number)
    y = torch.arange(20) % 2 + 2 * number
    x = torch.randint(0, 256, (20, *SHAPE), dtype=torch.uint8, generator=generator)
    return Rows({"x": x, "y": y, "task": torch.full_like(y, number)})


def network(number: int = 0) -> nn.Module:
    torch.manual_seed(100 + number)
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, CLASSES))


class Training:
    """A strategy with everything that it works on, built anew."""

    def __init__(self, make, buffer="reference"):
        self.strategy, self.model = make(), network().train()
        self.stages = self.strategy.curriculum(TASKS, concatenate=False)
        trained = self.strategy.trained(self.model, CLASSES, SEED)
        self.optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.5)
        self.updater = Updater(self.optimizer, trained, CPU, Comm(), ReduceOptions())
        self.transform = BatchTransform(["flip"], None, None, 1, CPU)
        self.buffer = None
        if self.strategy.uses_buffer:
            insertion = "class_balanced" if isinstance(self.strategy, (Gdumb, Xder)) else "reservoir"
            fields = self.strategy.fields(SHAPE, (CLASSES,))
            self.buffer = BUFFERS[buffer](CAPACITY, insertion, "uniform", fields, CLASSES, SEED, CPU, Comm())
        outputs = TaskOutputs(CLASSES, [range(2 * t, 2 * t + 2) for t in range(TASKS)])
        self.strategy.setup(
            StrategyContext(
                self.model,
                self.updater,
                self.transform,
                outputs,
                buffer=self.buffer,
                capacity=CAPACITY,
                stages=self.stages,
                initial_weights=lambda number: network(number).state_dict(),
                seed=SEED,
            )
        )

    def samples(self, stage: int) -> Rows:
        return Rows.cat([task(number) for number in self.stages[stage]])

    def begin(self, stage: int) -> None:
        torch.manual_seed(stage)
        self.transform.reseed(stage)
        self.strategy.before_task(stage, self.samples(stage))
        self.strategy.start_task(stage)

    def train(self, stage: int, first: int, last: int | None) -> list[float]:
        """The losses of some steps of a stage of two epochs."""
        rows = self.strategy.training_set(stage, self.samples(stage))
        batches = [batch for epoch in range(2) for batch in epoch_batches(rows, 4, SEED, stage, epoch)]
        return [self.strategy.observe(batch).item() for batch in batches[first:last]]

    def end(self, stage: int) -> None:
        self.strategy.after_task(stage, self.samples(stage))

    def save(self, folder) -> None:
        parts = {"model": self.model, "updater": self.updater, "strategy": self.strategy, "transform": self.transform}
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save(states | {"generator": torch.get_rng_state()}, folder / "states.pt")
        if self.buffer is not None:
            self.buffer.save(folder / "buffer.pt")

    def load(self, folder, leave_out: str | None = None) -> None:
        states = torch.load(folder / "states.pt", weights_only=True)
        parts = {"model": self.model, "updater": self.updater, "strategy": self.strategy, "transform": self.transform}
        for name, part in parts.items():
            if name != leave_out:
                part.load_state_dict(states[name])
        torch.set_rng_state(states["generator"])
        if self.buffer is not None:
            self.buffer.load(folder / "buffer.pt")

    def everything(self) -> dict:
        """What must be the same: weights, states, and what the memory draws next."""
        draws = []
        if self.buffer is not None:
            for size in (4, CAPACITY):
                self.buffer.request(size)
            draws = [self.buffer.receive() for _ in range(self.buffer.pending)]
        training = self.model.training
        scores = self.model.eval() and self.strategy.classifier()(task(1)["x"] / 255)
        self.model.train(training)
        parts = {"model": self.model, "updater": self.updater, "strategy": self.strategy, "transform": self.transform}
        return {
            **{name: part.state_dict() for name, part in parts.items()},
            "scores": scores,
            "draws": [(draw.columns, draw.weight, draw.ids) for draw in draws],
            "training": training,
        }


def differences(one, other, where: str = "") -> list[str]:
    """The places in which two states are not equal to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        one, other = (dict(enumerate(values)) for values in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other):
            return [f"{where} has {list(one)} and {list(other)}"]
        return [place for key in one for place in differences(one[key], other[key], f"{where}.{key}")]
    return [] if type(one) is type(other) and one == other else [where]


def stopped(make, buffer, folder) -> tuple[Training, int]:
    """A training that was saved within its second stage (or the only one), and the number of that stage."""
    training = Training(make, buffer)
    stage = min(1, len(training.stages) - 1)
    for before in range(stage):
        training.begin(before)
        training.train(before, 0, None)
        training.end(before)
    training.begin(stage)
    training.train(stage, 0, STOP)
    training.save(folder)
    return training, stage


CASES = [(name, "reference") for name in STRATEGIES] + [(name, "native") for name in REPLAY]


@pytest.mark.parametrize("name, buffer", CASES)
def test_going_on_within_a_task_changes_nothing(tmp_path, name, buffer):
    whole, stage = stopped(STRATEGIES[name], buffer, tmp_path)
    losses = whole.train(stage, STOP, None)
    torch.manual_seed(77)
    resumed = Training(STRATEGIES[name], buffer)
    torch.manual_seed(78)
    resumed.load(tmp_path)
    assert resumed.train(stage, STOP, None) == losses and len(losses) > 3
    assert resumed.strategy.take_replayed() == whole.strategy.take_replayed()
    for training in (whole, resumed):
        training.end(stage)
    assert not differences(whole.everything(), resumed.everything())
    if stage + 1 < len(whole.stages):
        for training in (whole, resumed):
            training.begin(stage + 1)
            training.train(stage + 1, 0, 4)
        assert not differences(whole.everything(), resumed.everything())


@pytest.mark.parametrize("name", WITH_STATE)
def test_without_the_state_of_the_strategy_it_would(tmp_path, name):
    """The negative control: the test above sees a state that is not loaded."""
    whole, stage = stopped(STRATEGIES[name], "reference", tmp_path)
    losses = whole.train(stage, STOP, None)
    resumed = Training(STRATEGIES[name])
    resumed.load(tmp_path, leave_out="strategy")
    try:
        assert resumed.train(stage, STOP, None) != losses
    except (AttributeError, RuntimeError, TypeError):  # what the stage would have set is not there
        assert resumed.strategy.stage is None


@pytest.mark.parametrize("name", STRATEGIES)
def test_asking_for_the_training_set_changes_nothing(tmp_path, name):
    training, stage = stopped(STRATEGIES[name], "reference", tmp_path)
    sets = [training.strategy.training_set(stage, training.samples(stage)) for _ in range(2)]
    assert not differences(sets[0].columns, sets[1].columns)
    again = Training(STRATEGIES[name])
    again.load(tmp_path)
    assert not differences(training.everything(), again.everything())
