"""Bias Correction (Wu et al. 2019, Large Scale Incremental Learning).

New samples and exemplars are trained on together, old outputs are distilled; then two numbers are fitted that correct
the outputs of the new classes, on samples that were held out, equally many of each class.
"""

import torch
import torch.nn.functional as F

from cl import seeding
from cl.data.rows import Rows
from cl.networks.modes import evaluating
from cl.strategies.context import StrategyContext
from cl.strategies.exemplars import PART
from cl.strategies.wa import DistilledExemplars
from cl.values import InnerFraction, Positive

DECAY = 1e-4  # keeps the two numbers finite where the held-out samples can be told apart without error


class Bic(DistilledExemplars):
    """The loss of `DistilledExemplars`; then f_c <- alpha f_c + beta for each class c of the task (eq. 4 and 5).

    `held_out`: the share of each old class' exemplars that are not trained on in a task, and as many samples of each
    new class. alpha and beta minimise the cross entropy on them over all classes so far, plus a decay towards 1 and 0.

    The correction is part of the last layer of the network that is tested, saved and that teaches the next task; that
    task starts from the layer without it, as in the paper. The paper fits by gradient descent; ours is the minimum.
    """

    changes_network = True
    fewest_exemplars = 2

    def __init__(
        self,
        temperature: Positive = 2.0,
        held_out: InnerFraction = 0.1,
    ):
        super().__init__(temperature)
        self.held_out = held_out
        self.corrections: list[list[float]] = []  # alpha and beta of each task after the first
        self.uncorrected: dict[str, torch.Tensor] | None = None  # of the last layer; None while a task is trained

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        if self.head.bias is None:
            raise ValueError("strategy=bic adds a number to outputs: it needs a last layer with a bias")

    def before_task(self, stage: int, samples: Rows) -> None:
        super().before_task(stage, samples)
        if self.uncorrected is not None:
            self.head.load_state_dict(self.uncorrected)
            self.uncorrected = None

    def training_set(self, stage: int, samples: Rows) -> Rows:
        return Rows.cat([part for part, _ in self.parts(stage, super().training_set(stage, samples))])

    def parts(self, stage: int, rows: Rows) -> list[tuple[Rows, Rows]]:
        """What is trained on and what is held out, of new samples and exemplars, for each class of them."""
        if not self.exemplars:
            return [(rows, rows.part(slice(0)))]
        number = max(1, int(self.held_out * min(map(len, self.exemplars.values()))))
        random = seeding.generator(self.seed, "held out", stage)
        found = []
        for label in rows.y.unique().tolist():
            places = (rows.y == label).nonzero()[:, 0]
            places = places[torch.from_numpy(random.permutation(len(places))).to(places.device)]
            found.append((rows.part(places[number:].sort()[0]), rows.part(places[:number])))
        return found

    def after_task(self, stage: int, samples: Rows) -> None:
        if self.exemplars:
            held_out = Rows.cat([part for _, part in self.parts(stage, super().training_set(stage, samples))])
            with self.counted_once():
                found = fitted(self.logits(held_out.x)[:, self.seen], *self.among_seen(held_out.y))
            alpha, beta = self.updater.comm.broadcast(found)
            self.corrections.append([alpha, beta])
            self.uncorrected = {name: value.clone() for name, value in self.head.state_dict().items()}
            new = self.seen & ~self.old
            with torch.no_grad():
                self.head.weight[new] *= alpha
                self.head.bias[new] = alpha * self.head.bias[new] + beta
        super().after_task(stage, samples)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C] of raw images, without augmentation."""
        with evaluating(self.model):
            return torch.cat([self.model(self.transform.test(part)).float() for part in x.split(PART)])

    def among_seen(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The place of each label among the classes seen so far, and which of these are new."""
        places = self.seen.cumsum(0) - 1
        return places[labels], ~self.old[self.seen]

    def state_dict(self) -> dict:
        return super().state_dict() | {"corrections": self.corrections, "uncorrected": self.uncorrected}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.corrections, kept = [list(pair) for pair in state["corrections"]], state["uncorrected"]
        self.uncorrected = None if kept is None else {name: value.clone() for name, value in kept.items()}


def fitted(logits: torch.Tensor, labels: torch.Tensor, new: torch.Tensor) -> list[float]:
    """alpha and beta for logits [n, C], labels [n] and which classes are `new` [C] bool: the minimum, by L-BFGS."""
    logits, start = logits.double(), torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device)
    both = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([both], 1.0, 200, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        corrected = torch.where(new, both[0] * logits + both[1], logits)
        value = F.cross_entropy(corrected, labels) + DECAY / 2 * (both - start).square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return both.detach().tolist()
