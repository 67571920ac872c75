"""Avalanche's side of benchmarks/race.py. It runs in the environment that scripts/race.sh builds, without remerge.

    .race/bin/python benchmarks/race_avalanche.py warm|train|buffer SETTINGS FILE

SETTINGS are those of race.py as JSON; the figures are written to FILE as JSON. Written from Avalanche's documentation:
SplitMNIST, Naive with ReplayPlugin and ReservoirSamplingBuffer, no loggers, the accuracy as the only metric, no worker
processes. SplitMNIST keeps its pictures as tensors in memory; tensors that are converted in advance are no faster.
"""

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

TASKS, CLASSES = 5, 10


def network() -> nn.Module:
    """The network of remerge's `backbone=mlp backbone.init=xavier` for MNIST, in plain torch."""
    layers = [nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, CLASSES)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def tasks(settings: dict):
    """Split MNIST in the order of the digits, pixels in [0, 1]."""
    from avalanche.benchmarks import SplitMNIST

    order = list(range(CLASSES))
    return SplitMNIST(
        TASKS, dataset_root=settings["data"], fixed_class_order=order, train_transform=None, eval_transform=None
    )


def learner(settings: dict):
    """The strategy, with its network and its memory."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training import Naive
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ReservoirSamplingBuffer

    model, capacity = network(), settings["capacity"]
    memory = ReservoirSamplingBuffer(max_size=capacity)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=settings["lr"]),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=settings["batch_size"],
        train_epochs=1,
        eval_mb_size=settings["eval_batch_size"],
        plugins=[ReplayPlugin(mem_size=capacity, storage_policy=memory)],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
    )


def warm(settings: dict) -> dict:
    """Everything but training, so that all modules are compiled and the files are in the system's memory."""
    strategy, found = learner(settings), tasks(settings)
    return strategy.eval(found.test_stream[:1], num_workers=0)


def train(settings: dict) -> dict:
    """Train on all tasks, with a test of all tasks after each."""
    strategy, found = learner(settings), tasks(settings)
    train_seconds = eval_seconds = 0.0
    for task in found.train_stream:
        started = time.perf_counter()
        strategy.train(task, num_workers=0)
        trained = time.perf_counter()
        tested = strategy.eval(found.test_stream, num_workers=0)
        train_seconds += trained - started
        eval_seconds += time.perf_counter() - trained
    return {
        "train_s": train_seconds,
        "eval_s": eval_seconds,
        "steps": strategy.clock.train_iterations,
        "accuracy": 100 * statistics.mean(map(float, tested.values())),
        "parameters": sum(weight.numel() for weight in strategy.model.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def per_call(call: Callable[[], object], times: int, blocks: int = 5) -> float:
    """Microseconds of a call: the median over blocks of so many calls."""
    found = []
    for _ in range(blocks + 1):
        started = time.perf_counter()
        for _ in range(times):
            call()
        found.append((time.perf_counter() - started) / times)
    return 1e6 * statistics.median(found[1:])  # the first block warms up


def buffer(settings: dict) -> dict:
    """The parts of `race.BUFFER_PARTS`, once all tasks have been offered to the memory."""
    from avalanche.benchmarks.utils.data_loader import ReplayDataLoader
    from avalanche.training.storage_policy import ReservoirSamplingBuffer
    from torch.utils.data import DataLoader

    datasets = [task.dataset for task in tasks(settings).train_stream]
    size, memory = settings["batch_size"], ReservoirSamplingBuffer(max_size=settings["capacity"])
    for dataset in datasets:
        memory.update_from_dataset(dataset)
    few = [datasets[-1].subset(range(start, start + size)) for start in range(0, 100 * size, size)]
    turn = iter(range(10**9))
    found = {"add_batch": per_call(lambda: memory.update_from_dataset(few[next(turn) % len(few)]), 50)}
    found["add_task"] = per_call(lambda: memory.update_from_dataset(datasets[-1]), 1)
    stored = memory.buffer
    draws = endless(lambda: DataLoader(stored, size, shuffle=True, collate_fn=stored.collate_fn))
    found["draw"] = per_call(lambda: next(draws), 200)
    options = {"batch_size": size, "batch_size_mem": size, "oversample_small_tasks": True}
    both = endless(lambda: ReplayDataLoader(datasets[-1], stored, shuffle=True, num_workers=0, **options))
    found["batch"] = per_call(lambda: next(both), 200)
    assert [len(next(draws)[0]), len(next(both)[0])] == [size, 2 * size]
    return found


def endless(loader: Callable):
    """The batches of loaders, one loader after the other."""
    while True:
        yield from loader()


def main() -> None:
    part, settings, file = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(settings["seed"])
    file.write_text(json.dumps({"warm": warm, "train": train, "buffer": buffer}[part](settings)))


if __name__ == "__main__":
    main()
