"""remerge's replay buffer alone, for benchmarks/race.py: the parts that race_avalanche.py measures of Avalanche's.

python benchmarks/race_remerge.py SETTINGS FILE
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.race_avalanche import CLASSES, TASKS, per_call
from cl.buffers.native import NativeBuffer
from cl.data.loader import epoch_batches
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.datasets.torchvision_sets import Mnist
from cl.distributed.comm import Comm
from cl.strategies.er import Er

CPU = torch.device("cpu")


def mnist(root: str) -> list[Rows]:
    """The training pictures of each task of Split MNIST."""
    train, _ = Mnist(root, False, 0.0, None, None, []).read()
    x, y = torch.as_tensor(train.x), torch.as_tensor(train.y).long()
    task = y // (CLASSES // TASKS)
    return [Rows({"x": x, "y": y, "task": task}).part(task == number) for number in range(TASKS)]


def buffer(settings: dict, tasks: list[Rows], calls: float = 1.0) -> dict:
    """The parts of `race.BUFFER_PARTS`, once all tasks have been offered; draws are ready for the network.

    `calls`: factor of the number of calls that are timed.
    """
    size, shape = settings["batch_size"], tuple(tasks[0].x.shape[1:])
    fields = Er(size).fields(shape, (CLASSES,))
    memory = NativeBuffer(settings["capacity"], "reservoir", "uniform", fields, CLASSES, settings["seed"], CPU, Comm())
    transform = BatchTransform([], None, None, shape[0], CPU)
    for rows in tasks:
        memory.add(rows.columns)
    last = tasks[-1]
    few = [last.part(slice(start, start + size)).columns for start in range(0, min(100 * size, len(last)), size)]
    turn = itertools.cycle(few)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        memory.request(size)
        drawn = memory.receive().columns
        return transform.train(drawn["x"]), drawn["y"]

    new = endless(lambda epoch: epoch_batches(last, size, settings["seed"], TASKS - 1, epoch))

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        memory.request(size)
        rows, drawn = next(new), memory.receive().columns
        return transform.train(torch.cat((rows.x, drawn["x"]))), torch.cat((rows.y, drawn["y"]))

    found = {
        "add_batch": per_call(lambda: memory.add(next(turn)), max(1, int(2000 * calls))),
        "add_task": per_call(lambda: memory.add(last.columns), max(1, int(10 * calls))),
        "draw": per_call(draw, max(1, int(4000 * calls))),
        "batch": per_call(batch, max(1, int(4000 * calls))),
    }
    drawn, joined = draw()[0], batch()[0]
    assert [len(drawn), len(joined)] == [size, 2 * size] and drawn.dtype == torch.float32 and drawn.max() <= 1
    memory.close()
    return found


def endless(loader: Callable[[int], Iterator[Rows]]) -> Iterator[Rows]:
    """The batches of one epoch after the other."""
    for epoch in itertools.count():
        yield from loader(epoch)


def main() -> None:
    settings, file = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    file.write_text(json.dumps(buffer(settings, mnist(settings["data"]))))


if __name__ == "__main__":
    main()
