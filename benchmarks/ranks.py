"""Samples per second with one and two ranks, and the cost of remerge's loop compared with a bare loop.

    python benchmarks/ranks.py [--rounds 11] [--steps 400] [--models mlp,resnet]

Networks: the MLP 784-100-100-10, and a ResNet-18 for 32x32 pictures with narrow stages (0.7 million weights), which
makes a twentieth of the steps. Every rank is a process with one thread. remerge's loop is `Trainer.train` with
fine-tuning, SGD, progress bar and metrics. The exchange is the fraction of its time inside `Updater.reduce`. That
includes waiting for the other rank, but not the messages that Horovod sends during the backward pass.
The bare loop does the same arithmetic on the same batches, which are in memory in advance; with two ranks it uses
`hvd.DistributedOptimizer`, or one `all_reduce` of all gradients. The two are timed in turn in the same processes, the
slower rank counts, and the ratio is taken pair by pair. Both must end with the same bits. Limit with two ranks: 1.02.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.data.loader import epoch_batches, num_batches
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed import ranks
from cl.distributed.comm import Comm, ReduceOptions
from cl.distributed.group import connect
from cl.distributed.launch import start_ranks
from cl.distributed.leaving import leave
from cl.networks.backbones import mlp, resnet_cifar
from cl.reporting.history import History
from cl.reporting.metrics_file import MetricsFile
from cl.reporting.progress import Progress
from cl.reporting.recorder import Recorder
from cl.run.trainer import Trainer
from cl.scenarios.outputs import TaskOutputs
from cl.step.schedules import Constant
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.finetune import Finetune

CLASSES, LIMIT = 10, 1.02
CPU = torch.device("cpu")
# For each network: the shape of its pictures, its constructor, its batch sizes per rank, and the divisor of its steps.
MODELS = {
    "mlp": ((1, 28, 28), lambda shape: mlp(shape, CLASSES, [100, 100]), (10, 128), 1),
    "resnet": (
        (3, 32, 32),
        lambda shape: resnet_cifar(shape, CLASSES, "resnet18", None, {"channels": [16, 32, 64, 128]}),
        (32,),
        20,
    ),
}


def samples(count: int, shape: tuple[int, int, int]) -> Rows:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    return Rows({"x": x, "y": y, "task": torch.zeros_like(y)})


def network(name: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    shape, make, _, _ = MODELS[name]
    model = make(shape)
    return model.train(), torch.optim.SGD(model.parameters(), lr=0.01)


def remerge(name: str, data: Rows, batch_size: int, comm: Comm, folder: Path) -> tuple[float, float, torch.Tensor]:
    """Seconds of the loop, the part of them in the exchange, and the weights."""
    model, optimizer = network(name)
    updater = Updater(optimizer, model, CPU, comm, ReduceOptions())
    inside, reduce = 0.0, updater.reduce

    def timed_reduce() -> None:
        nonlocal inside
        started = time.perf_counter()
        reduce()
        inside += time.perf_counter() - started

    updater.reduce = timed_reduce
    strategy = Finetune()
    transform = BatchTransform([], None, None, data.x.shape[1], CPU)
    strategy.setup(StrategyContext(model, updater, transform, TaskOutputs(CLASSES)))
    progress = Progress("", len(data) // (batch_size * comm.size), 0, comm.is_main)
    metrics = MetricsFile(folder / "metrics.csv") if comm.is_main else None
    history = History([], None)
    trainer = Trainer(strategy, Constant(), batch_size, 0, Recorder(history, progress, metrics))
    comm.sum(torch.zeros(1))  # so that all ranks begin at the same time
    started = time.perf_counter()
    trainer.train(data, 0, num_batches(len(data), batch_size, comm.size))
    seconds = time.perf_counter() - started
    progress.close()
    return seconds, inside, flat(model)


def bare(name: str, batches: list, comm: Comm) -> tuple[float, torch.Tensor]:
    """Seconds of the loop, and the weights."""
    model, optimizer = network(name)
    if comm.engine == "horovod":
        import horovod.torch as hvd

        optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    comm.sum(torch.zeros(1))
    started = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch.x.float().mul_(1 / 255)), batch.y)
        loss.backward()
        if comm.engine == "torch":
            average(model)
        optimizer.step()
    return time.perf_counter() - started, flat(model)


def average(model: torch.nn.Module) -> None:
    """The mean of the gradients over the ranks of torch.distributed, as one writes it by hand."""
    gradients = [weight.grad for weight in model.parameters()]
    together = torch.cat([gradient.view(-1) for gradient in gradients])
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for gradient, mean in zip(gradients, together.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(mean.view_as(gradient))


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().reshape(-1) for weight in model.parameters()])


def measure(comm: Comm, models: list[str], rounds: int, steps: int, folder: Path) -> list[dict]:
    """One entry for each network and batch size; every rank calls this."""
    torch.set_num_threads(1)
    found = []
    for name in models:
        shape, _, batch_sizes, fewer = MODELS[name]
        for batch_size in batch_sizes:
            data = samples(max(1, steps // fewer) * batch_size * comm.size, shape)
            batches = list(epoch_batches(data, batch_size, 0, 0, 0, comm.rank, comm.size))
            entry = {"model": name, "batch": batch_size, "steps": len(batches), "samples": [], "share": [], "pairs": []}
            for round in range(rounds + 1):  # the first warms up
                own, weights = {}, {}
                # The order alternates, so that the cost of a cold start is divided between both.
                for which in ("ours", "bare")[:: 1 if round % 2 else -1]:
                    if which == "ours":
                        own["ours"], own["inside"], weights[which] = remerge(name, data, batch_size, comm, folder)
                    else:
                        own["bare"], weights[which] = bare(name, batches, comm)
                same = all(torch.equal(weights["ours"], others) for others in weights.values())
                assert same, "the bare loop has computed something else"
                of_ranks = comm.gather(own)
                if round:
                    slowest = {key: max(times[key] for times in of_ranks) for key in own}
                    entry["samples"].append(len(data) / slowest["ours"])
                    entry["share"].append(statistics.mean(times["inside"] / times["ours"] for times in of_ranks))
                    if "bare" in own:
                        entry["pairs"].append((slowest["ours"], slowest["bare"]))
            found.append(entry)
    return found


def show(found: dict[str, list[dict]]) -> None:
    print("model   batch  ranks       samples/s  (low to high)       exchange")
    for engine, entries in found.items():
        for e in entries:
            rate, share = statistics.median(e["samples"]), statistics.median(e["share"])
            spread = f"({min(e['samples']):.0f} to {max(e['samples']):.0f})"
            print(f"{e['model']:7} {e['batch']:5}  {engine:11} {rate:9.0f}  {spread:18}  {100 * share:6.1f} %")
    print("\nmodel   batch  ranks       remerge us  bare us  ratio  (low to high)")
    for engine, entries in found.items():
        for e in (e for e in entries if e["pairs"]):
            ours, theirs = (1e6 * statistics.median(times) / e["steps"] for times in zip(*e["pairs"]))
            ratios = sorted(a / b for a, b in e["pairs"])
            print(
                f"{e['model']:7} {e['batch']:5}  {engine:11} {ours:10.0f}  {theirs:7.0f}  "
                f"{statistics.median(ratios):5.3f}  ({ratios[0]:.3f} to {ratios[-1]:.3f})"
                + (f", limit {LIMIT}" if engine != "1" else "")
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--models", default="mlp,resnet")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # given to the ranks, for their results
    parser.add_argument("launcher", nargs="*", help=argparse.SUPPRESS)  # also given to the ranks
    arguments = parser.parse_args()
    models = arguments.models.split(",")
    if unknown := set(models) - MODELS.keys():
        parser.error(f"--models has unknown names {', '.join(sorted(unknown))}; valid: {', '.join(MODELS)}")
    if ranks.started():
        comm, folder = connect(ranks.started()[0], timeout=300), Path(arguments.folder)
        found = measure(comm, models, arguments.rounds, arguments.steps, folder)
        if comm.is_main:
            (folder / "found.json").write_text(json.dumps(found))
        leave()
    with tempfile.TemporaryDirectory() as folder:
        found = {"1": measure(Comm(), models, arguments.rounds, arguments.steps, Path(folder))}
        for launcher in ("horovod", "torchrun"):
            options = {"name": launcher, "np": 2, "hosts": None, "hostfile": None}
            start_ranks(options, [*sys.argv[1:], "--folder", folder])
            found[f"2 {launcher}"] = json.loads((Path(folder) / "found.json").read_text())
    show(found)


if __name__ == "__main__":
    main()
