"""The features of a network, and methods that learn from them without gradients: what they have in common.

Features phi(x) are what enters the last linear layer of a network in evaluation mode. A method without gradients adds
up statistics of the features of each sample, once, and makes its classifier from the sums whenever it is tested.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from cl.data.rows import Rows
from cl.networks.modes import evaluating
from cl.scenarios.base import Scenario
from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext
from cl.strategies.head import last_layer


class Features:
    """What enters the last linear layer of a network, [B, `width`] float32, for transformed images.

    Raises ValueError, saying what `needs` it, for a network that does not end in one.
    """

    def __init__(self, model: nn.Module, num_outputs: int, needs: str):
        self.model, self.head = model, last_layer(model, num_outputs, needs)
        self.width = self.head.in_features

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        entered = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            self.model(images)
        finally:
            hook.remove()
        return entered[0].flatten(1).float()


def cosines(features: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """[B, C] from features [B, D] and means [C, D]: the higher, the nearer on the sphere."""
    return F.normalize(features) @ F.normalize(means).T


class Moments:
    """Sums over samples, in double precision: their number by class [C], the sum of their vectors by class [C, D], and
    with `products` the sum of x x^T over all of them [D, D].
    """

    def __init__(self, num_classes: int, width: int, device: torch.device, products: bool = False):
        device = torch.device("cpu") if device.type == "mps" else device  # which has no double precision

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.counts, self.sums = zeros(num_classes), zeros(num_classes, width)
        self.products = zeros(width, width) if products else None

    def add(self, vectors: torch.Tensor, labels: torch.Tensor) -> None:
        """Add samples: vectors [n, D], labels [n]."""
        vectors = vectors.to(self.sums.device).double()
        classes = F.one_hot(labels.to(self.sums.device), len(self.counts)).double()  # a product adds up in one order
        self.counts += classes.sum(0)
        self.sums.addmm_(classes.T, vectors)
        if self.products is not None:
            self.products.addmm_(vectors.T, vectors)

    def include(self, other: "Moments") -> None:
        """Add the samples of another."""
        for own, more in zip(self._tensors(), other._tensors()):
            own += more

    @property
    def seen(self) -> torch.Tensor:
        """[C] bool: the classes of which there are samples."""
        return self.counts > 0

    @property
    def means(self) -> torch.Tensor:
        """[C, D]; zeros for a class without samples."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors())

    def _tensors(self) -> list[torch.Tensor]:
        return [tensor for tensor in (self.counts, self.sums, self.products) if tensor is not None]

    def state_dict(self) -> list[torch.Tensor]:
        """The sums."""
        return self._tensors()

    def load_state_dict(self, state: list[torch.Tensor]) -> None:
        """Take back what `state_dict` returned."""
        for own, value in zip(self._tensors(), state):
            own.copy_(value)


class FeatureStrategy(Strategy):
    """A method that learns from the features of each sample, seen once, without gradients.

    `add` takes the samples of a step, those of all ranks together, and `scorer` makes the classifier from what was
    added so far. So it has no part in which precision, order or number of batches matter, but for rounding.
    """

    trains = False
    needs_labels = True
    products = False  # whether products of features are added up

    @property
    def name(self) -> str:
        """For messages."""
        return f"strategy={type(self).__name__.lower()}"

    def check(self, scenario: Scenario, buffer: dict) -> None:
        if scenario.concatenate:
            raise ValueError(
                f"{self.name} keeps what it has learned of earlier tasks, and would count their samples again: set "
                "scenario.concatenate=false"
            )

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        self.features = Features(self.model, self.outputs.num_outputs, self.name)
        self.moments = self.new_moments()

    def new_moments(self) -> Moments:
        """Sums of no samples yet."""
        return Moments(self.outputs.num_outputs, self.vector_width, self.updater.device, self.products)

    @property
    def vector_width(self) -> int:
        """The length of the vectors that `vectors` gives."""
        return self.features.width

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        """What is added up and scored, [B, D] for transformed images."""
        return self.features(images)

    def observe(self, batch: Rows) -> torch.Tensor:
        """Add the samples of a batch on all ranks; there is no loss, 0 takes its place."""
        if not batch.loss_weight:  # samples that another rank has
            batch = batch.part(slice(0))
            found = torch.zeros(0, self.vector_width, device=self.updater.device)
        else:
            with evaluating(self.model):
                found = self.vectors(self.transform.test(batch.x))
        # Every rank adds the samples of all, so all have the same sums at any time.
        for vectors, labels in self.updater.comm.gather([found, batch.y]):
            self.add(vectors, labels)
        return torch.zeros((), device=self.updater.device)

    def add(self, vectors: torch.Tensor, labels: torch.Tensor) -> None:
        """Learn from samples: vectors [n, D], labels [n]."""
        self.moments.add(vectors, labels)

    def scorer(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """What gives scores [B, C] in double precision for vectors [B, D], from the samples so far."""
        raise NotImplementedError

    def classifier(self) -> Callable[[torch.Tensor], torch.Tensor]:
        scorer, unseen, place = self.scorer(), ~self.all_moments().seen, self.moments.sums.device

        def scores(images: torch.Tensor) -> torch.Tensor:
            found = scorer(self.vectors(images).to(place).double())
            return found.masked_fill(unseen, float("-inf")).float().to(images.device)

        return scores

    def all_moments(self) -> Moments:
        """Those of all samples so far."""
        return self.moments

    @property
    def nbytes(self) -> int:
        return self.moments.nbytes // self.updater.comm.size  # every rank has them all; one copy is counted

    def state_dict(self) -> dict:
        return super().state_dict() | {"moments": self.moments.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.moments.load_state_dict(state["moments"])
