"""Gradient Episodic Memory (Lopez-Paz & Ranzato 2017, Gradient Episodic Memory for Continual Learning, eq. 8 to 12)."""

import numpy as np
import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.strategies.replay import ReplayStrategy
from cl.values import Count, NotNegative


class Gem(ReplayStrategy):
    """g + G^T v: the gradient g of the new samples, moved so that no past task's loss rises, to first order.

    The rows of G are the gradients on the records of each past task, v >= `margin` solves the dual of their quadratic
    programme (eq. 11) exactly. g stays as it is where no row has a negative product with it. All gradients are means
    over the ranks before they are compared. The paper adds the margin to the v of the programme without one; its code
    has it as the bound, as here, and adds 0.001 to the diagonal of G G^T, which moves the solution.

    The memory holds equally many random samples of each task that is over (the authors': its last ones), and all of
    them give the gradient of a task in every step, shared out to the ranks. `replay_batch_size`: so many records of
    each task, on each rank others, in place of all.
    """

    changes_gradients = True

    def __init__(self, margin: NotNegative = 0.5, replay_batch_size: Count | None = None):
        self.margin, self.capacity = margin, 0
        super().__init__(replay_batch_size, replay_from=2, filling="task_end")

    def sizes_of_draws(self, stage: int) -> tuple[int, ...]:
        return (self.capacity if stage else 0,)  # all that is stored

    def select(self, batch: Rows, draws: list[Records]) -> list[Records]:
        """A draw for each past task: this rank's part of its records."""
        if not any(draws):
            return []
        (everything,) = draws
        comm, count = self.updater.comm, self.replay_batch_size
        if count is None:  # each rank draws the records in another order
            everything = everything.part(everything.ids.argsort().to(everything["y"].device))
        chosen = []
        for task in everything["task"].unique():
            places = (everything["task"] == task).nonzero()[:, 0]
            mine = places[comm.rank :: comm.size] if count is None else places[:count]
            share = comm.size * len(mine) / len(places) if count is None else 1.0
            chosen.append(everything.part(mine, loss_weight=share))
        self.replayed_samples -= len(everything) - sum(map(len, chosen))
        return chosen

    def adjust_gradients(self, batch: Rows, draws: list[Records]) -> None:
        if not draws:
            return
        references = []
        for records in draws:
            count = min(self.updater.accumulation_steps, max(1, len(records) // self.fewest_samples))
            parts = records.split(count) if len(records) else []  # fewer records than ranks
            references.append(
                self.updater.gradient(lambda part: self.mean_loss(self.forward(part["x"]), [part]), parts)
            )
        gradients = self.updater.gradients()
        products = [[dot(a, b) for b in (*references, gradients)] for a in references]
        products = torch.stack([torch.stack(row) for row in products]).double().cpu().numpy()
        weights = dual(products[:, :-1], products[:, -1], self.margin)
        for weight, reference in zip(weights, references):
            if weight:
                torch._foreach_add_(gradients, reference, alpha=weight)


def dot(some: list[torch.Tensor], others: list[torch.Tensor]) -> torch.Tensor:
    """The product of two lists of tensors as one vector each."""
    return sum(torch.sum(a * b) for a, b in zip(some, others))


def dual(gram: np.ndarray, products: np.ndarray, margin: float) -> list[float]:
    """v [T] >= margin that minimises v^T (G G^T) v / 2 + (G g)^T v; zeros where no product is negative.

    `gram` [T, T] is G G^T and `products` [T] is G g. With v = u + margin, G G^T = A^T A and d = G g + margin G G^T 1
    it is the least of |A u + b|^2 over u >= 0, A^T b = d, which an active-set method solves exactly.
    """
    from scipy.optimize import nnls

    # Where numbers are not finite training has diverged, of which the run speaks.
    if not (np.isfinite(gram).all() and np.isfinite(products).all() and products.min() < 0):
        return [0.0] * len(products)
    values, vectors = np.linalg.eigh(gram)
    kept = values > values.max() * len(values) * np.finfo(np.float32).eps  # tasks may have dependent gradients
    roots, vectors = np.sqrt(values[kept]), vectors[:, kept]
    target = vectors.T @ (products + margin * gram.sum(1)) / roots
    solution, _ = nnls(roots[:, None] * vectors.T, -target, maxiter=100 * len(products))
    return (solution + margin).tolist()
