"""The cost of replay beyond its additional samples: ER with half its samples replayed, against as many new samples.

    python benchmarks/hidden_cost.py [--rounds 5] [--steps 8] [--ranks 2] [--engine torchrun] [--models resnet18,mlp]
                                     [--hosts a:1,b:1] [--device cpu] [--tiny] [--json FILE]

Ranks are processes with one thread each. Both loops are `Trainer.train`. ER (32 new and 32 replayed samples per rank, a
full memory of 1000 records over all ranks) and fine-tuning on 64 new samples make the same number of steps on the same
network, in turn, in the same processes. The slower rank counts, and the ratio is taken pair by pair. ResNet-18 has its
full width and the stem for 32x32 pictures; the MLP is 784-100-100-10 on pictures of MNIST's size, with 10 + 10 samples.
On GPUs each rank has one of its own, and gradients go by NCCL.
Limits: 1.03 for ResNet-18; waiting for replay below 1 % of the training time there, below 5 % with the MLP.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu_training import now

from cl.buffers.native import NativeBuffer
from cl.data.loader import num_batches
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed import ranks
from cl.distributed.comm import Comm, ReduceOptions
from cl.distributed.group import connect
from cl.distributed.launch import start_ranks
from cl.distributed.leaving import leave
from cl.networks.backbones import mlp, resnet_cifar
from cl.reporting.history import History
from cl.reporting.progress import Progress
from cl.reporting.recorder import Recorder
from cl.run.device import check_own_gpu, choose_device
from cl.run.trainer import Trainer
from cl.scenarios.outputs import TaskOutputs
from cl.step.schedules import Constant
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.er import Er
from cl.strategies.finetune import Finetune

CLASSES, CAPACITY = 10, 1000
# Shape of the pictures, network, new samples per rank and step of ER, factor of the number of steps, limit of the
# ratio, and limit of the fraction of time spent waiting.
MODELS = {
    "resnet18": ((3, 32, 32), lambda shape: resnet_cifar(shape, CLASSES, "resnet18", None, {}), 32, 1, 1.03, 0.01),
    "mlp": ((1, 28, 28), lambda shape: mlp(shape, CLASSES, [100, 100]), 10, 100, None, 0.05),
}


def samples(count: int, shape: tuple[int, int, int], device: torch.device) -> Rows:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator).to(device)
    y = torch.randint(0, CLASSES, (count,), generator=generator).to(device)
    return Rows({"x": x, "y": y, "task": torch.zeros_like(y)})


def train(name: str, replay: bool, steps: int, comm: Comm, device: torch.device) -> tuple[float, float]:
    """Seconds of training, and the part of them spent waiting for replay."""
    shape, make, half, _, _, _ = MODELS[name]
    batch_size = half if replay else 2 * half
    data = samples(steps * batch_size * comm.size, shape, device)
    torch.manual_seed(0)
    model = make(shape).to(device).train()
    strategy = Er(half) if replay else Finetune()
    buffer = None
    if replay:
        fields = strategy.fields(shape, (CLASSES,))
        buffer = NativeBuffer(CAPACITY, "reservoir", "uniform", fields, CLASSES, 0, device, comm)
        past = samples(2 * CAPACITY, shape, device)
        buffer.add(past.columns)
        buffer.request(half)
    updater = Updater(torch.optim.SGD(model.parameters(), lr=0.01), model, device, comm, ReduceOptions())
    transform = BatchTransform([], None, None, shape[0], device)
    strategy.setup(StrategyContext(model, updater, transform, TaskOutputs(CLASSES), buffer=buffer))
    progress = Progress("", steps, 0, False)
    recorder = Recorder(History([], None), progress, log_interval=10**6)
    trainer = Trainer(strategy, Constant(), batch_size, 0, recorder)
    comm.sum(torch.zeros(1))  # so that all ranks begin at the same time
    waited = buffer.wait_seconds if buffer else 0.0
    started = now(device)
    trainer.train(data, 0, num_batches(len(data), batch_size, comm.size))
    seconds = now(device) - started
    progress.close()
    if buffer is None:
        return seconds, 0.0
    waited = buffer.wait_seconds - waited
    buffer.close()
    return seconds, waited


def measure(comm: Comm, device: torch.device, models: list[str], rounds: int, steps: int) -> list[dict]:
    torch.set_num_threads(1)
    found = []
    for name in models:
        entry = {"model": name, "pairs": [], "shares": []}
        for round in range(rounds + 1):  # the first warms up
            times = {}
            for replay in (True, False) if round % 2 else (False, True):
                own = train(name, replay, steps * MODELS[name][3], comm, device)
                of_ranks = comm.gather(own)
                times[replay] = max(seconds for seconds, _ in of_ranks)
                if replay and round:
                    entry["shares"].append(statistics.mean(waited / seconds for seconds, waited in of_ranks))
            if round:
                entry["pairs"].append((times[True], times[False]))
        images = 2 * MODELS[name][2] * steps * MODELS[name][3] * comm.size
        entry["images_per_second"] = images / statistics.median(ours for ours, _ in entry["pairs"])
        found.append(entry)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of ResNet-18; the MLP makes 100 times as many")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--engine", default="torchrun", choices=["torchrun", "horovod"])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a few steps of the MLP")
    parser.add_argument("--hosts", help="where the ranks run, as in launcher.hosts")
    parser.add_argument("--json", type=Path, help="file for the times")
    parser.add_argument("--out", help=argparse.SUPPRESS)  # file for the results of rank 0
    arguments, _ = parser.parse_known_args()
    models, steps = arguments.models.split(","), arguments.steps
    if arguments.tiny:
        models, steps = ["mlp"], 1
    if ranks.started():
        comm = connect(ranks.started()[0], timeout=300)
        device = choose_device(arguments.device, comm.local_rank)
        check_own_gpu(arguments.device, device, comm)
        found = measure(comm, device, models, arguments.rounds, steps)
        if comm.is_main:
            Path(arguments.out).write_text(json.dumps(found))
        leave()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        launcher = {"name": arguments.engine, "np": arguments.ranks, "hosts": arguments.hosts, "hostfile": None}
        start_ranks(launcher, [*sys.argv[1:], f"--out={out}"])
        found = json.loads(out.read_text())
    if arguments.json:
        arguments.json.write_text(json.dumps(found))
    for entry in found:
        ratios = sorted(ours / theirs for ours, theirs in entry["pairs"])
        limit, wait_limit = MODELS[entry["model"]][4:]
        print(
            f"{entry['model']}, {arguments.ranks} ranks, {arguments.engine}: "
            f"{statistics.median(ours for ours, _ in entry['pairs']):.2f} s with replay, "
            f"{entry['images_per_second']:.0f} images/s; ratio to as many new samples "
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
            + (f", limit {limit}" if limit else "")
            + f"; waiting for replay {statistics.median(entry['shares']):.2%}, limit {wait_limit:.0%}"
        )


if __name__ == "__main__":
    main()
