"""Composition root: one run from a configuration to its results. Only this file knows both sides.

Whatever is wrong with a configuration is said by `compose`, before any data is loaded or any file is written.
"""

import copy
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cl import seeding
from cl.buffers.base import ReplayBuffer, check_policies, parse_capacity, total_capacity
from cl.build import build, locate, options_of
from cl.configuration.identity import as_text, config_hash, words
from cl.data.loader import num_batches
from cl.data.streaming import Workers
from cl.data.transforms import BatchTransform
from cl.datasets.base import Dataset
from cl.distributed import ranks
from cl.distributed.comm import Comm, ReduceOptions, check_equal, connect, equalise_statistics
from cl.networks.backbones import fewest_samples
from cl.reporting import plots, results
from cl.reporting.history import History
from cl.reporting.loggers import NoLogger
from cl.reporting.progress import Progress
from cl.reporting.results import MetricsFile
from cl.run import checkpoint, reconstructions
from cl.run.compiler import defer_compiler
from cl.run.evaluator import Evaluator
from cl.run.folder import check_writable, finished_run, plain, run_folder
from cl.run.trainer import Trainer
from cl.scenarios.base import Scenario, Tasks
from cl.scenarios.outputs import TaskOutputs
from cl.step.objectives import AbsoluteError, Labels, Objective
from cl.step.schedules import Schedule
from cl.step.updater import Updater
from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext

TORCH_THREADS = torch.get_num_threads()  # before any run has changed it
# Weights below which sharing a step among threads costs more than it gains; on busy cores it costs twenty times as much
# as the step itself (measured with 784-100-100-10: 0.5 ms on one thread, 0.5 to 20 ms on two).
SMALL_NETWORK = 300_000


# The weights with which a stage starts, from its number and the history so far.
Start = Callable[[int, History], dict[str, torch.Tensor]]


@dataclass
class Components:
    """What a run is made of, checked, before any data is there."""

    comm: Comm
    device: torch.device
    dataset: Dataset
    loader: Workers  # of what stays in files
    scenario: Scenario
    strategy: Strategy
    stages: list[list[int]]  # the tasks whose data each stage of training uses
    epochs: list[int]  # of each stage
    schedule: Schedule
    logger: NoLogger
    transform: BatchTransform
    model: nn.Module
    updater: Updater
    fewest_samples: int  # that a batch must have in training

    def close(self) -> None:
        """End what was opened; after an error as well."""
        self.loader.close()
        self.logger.close()


def run(config, make_start: Callable[..., Start] | None = None) -> Path:
    """Train what the configuration (OmegaConf) describes, or go on with it; returns the run's folder.

    With several ranks every one of them calls this; rank 0 alone writes. `make_start` is for a strategy that asks for
    the weights of each stage; it is given components, tasks, the outputs of each task, and the folder.
    """
    settings = config
    config = plain(config)
    folder = run_folder(config)
    parts = compose(config)
    comm = parts.comm
    with ExitStack() as opened:
        opened.callback(parts.close)
        if comm.size > 1:
            finished = comm.broadcast(finished_run(settings) if comm.is_main else None)
            if finished is not None:
                return finished
        if comm.is_main:
            check_writable(folder)

        tasks, num_training = load_tasks(config, parts)
        buffer, capacity = make_buffer(config, parts, num_training)
        if buffer is not None:
            opened.push(buffer.exit)
        equip(config, parts, buffer, capacity)
        evaluator, outputs = make_evaluator(config, parts, tasks)
        if config["overwrite"] and comm.is_main:
            checkpoint.clear(folder, everything=True)
        if parts.strategy.needs_start and make_start is None:
            raise ValueError(parts.strategy.needs_start)
        start = make_start(parts, tasks, outputs, folder) if parts.strategy.needs_start else None
        history = _train(config, folder, parts, tasks, buffer, evaluator, start)
        memory = _memory(parts.strategy, buffer, capacity, comm)
        if comm.is_main:
            content = _results(config, parts, memory, history)
            results.write_json(folder / "results.json", content)
            checkpoint.clear(folder, everything=False)
            parts.logger.finish(content)
            with plots.after_results(folder):
                plots.draw_run(folder, content, config["pictures"])
                if parts.scenario.targets:
                    title = f"{config['strategy']['name']}, after the last of {len(parts.stages)} stages"
                    reconstructions.draw(folder, parts.model, evaluator, title, config["pictures"])
    return folder


def compose(config: dict) -> Components:
    """Build and check every component; raises ValueError or OSError for whatever cannot work."""
    started = ranks.started()
    comm = connect(started[0] if started else None)
    device = _device(config["device"], comm.local_rank)
    if config["compile"]:
        _check_compiler(device)
    dataset = build(config["dataset"], "dataset")
    dataset.check()
    scenario = build(config["scenario"], "scenario")
    scenario.plan(dataset)
    strategy = build(config["strategy"], "strategy")
    if strategy.needs_labels and scenario.targets:
        raise ValueError(
            f"strategy={config['strategy']['name']} is defined by labels, and scenario={config['scenario']['name']} "
            f"has targets to compute ({', '.join(scenario.targets)})"
        )
    strategy.check(scenario, config["buffer"])
    if strategy.keeps_weights and config["model_state"] == "reset":
        raise ValueError(
            f"{strategy.keeps_weights} starts each task from weights of the tasks before, and model_state=reset from "
            "the initial ones: leave out one of them"
        )
    if strategy.uses_memory is not config["strategy"]["memory"]:  # it decides which options name the run's folder
        raise ValueError(
            f"strategy.memory={config['strategy']['memory']} is no option: it says what "
            f"strategy={config['strategy']['name']} does, which is {strategy.uses_memory}"
        )
    options_of(config["buffer"] | {"capacity": 1}, "buffer")
    stages = strategy.curriculum(scenario.num_tasks, scenario.concatenate)
    transform = BatchTransform(
        dataset.augment, dataset.mean, dataset.std, dataset.sample_shape[0], device, config["channels_last"],
        dataset.crop, config["mixing"]["mixup"], config["mixing"]["cutmix"], dataset.sample_dtype,
    )  # fmt: skip
    if transform.mixes and (scenario.targets or not strategy.mixable):
        raise ValueError(
            f"mixing={config['mixing']} needs a loss that is one cross entropy over new and replayed samples: "
            f"strategy={config['strategy']['name']} with scenario={config['scenario']['name']} has others"
        )
    if strategy.uses_memory:
        if strategy.uses_buffer and comm.size > 1 and not locate(config["buffer"], "buffer").serves_ranks:
            raise ValueError(
                f"buffer={config['buffer']['name']} serves one process, but there are {comm.size} ranks; buffer=native "
                "is one memory over all of them"
            )
        parse_capacity(config["buffer"]["capacity"])
        check_policies(config["buffer"]["insertion"], config["buffer"]["sampling"], config["buffer"]["candidates"])
    model = _network(config, dataset, scenario).to(device)
    # Horovod exchanges contiguous gradients only; there the pictures alone are channels_last, and the weights follow
    # inside each convolution.
    if config["channels_last"] and comm.engine != "horovod":
        model = model.to(memory_format=torch.channels_last)
    _set_threads(config["threads"], model, comm.local_size)
    fewest = _check_model(config["backbone"]["name"], model, transform, dataset, scenario, device)
    if config["batch_size"] < fewest:
        raise ValueError(
            f"batch_size={config['batch_size']} is too small for backbone={config['backbone']['name']}, whose batch "
            f"normalisation takes a variance over the samples of a batch: it must be at least {fewest}"
        )
    schedule = build(config["schedule"], "schedule")
    if not config["compile"]:
        defer_compiler()
    optimizer = build(config["optimizer"], "optimizer", params=model.parameters())
    _scale_rate(config["lr_scaling"], optimizer, schedule, comm.size * config["gradient_accumulation_steps"])
    reduce = ReduceOptions(**config["reduce"])
    reduce.check_step(config["precision"], config["clip_norm"], strategy.changes_gradients)
    updater = Updater(
        optimizer,
        model,
        device,
        comm,
        reduce,
        config["precision"],
        config["clip_norm"],
        config["gradient_accumulation_steps"],
    )
    return Components(
        comm=comm,
        device=device,
        dataset=dataset,
        loader=build(config["loader"], "loader", device=device, local_ranks=comm.local_size),
        scenario=scenario,
        strategy=strategy,
        stages=stages,
        epochs=_epochs(config["epochs"], len(stages)),
        schedule=schedule,
        logger=build(config["logger"], "logger") if comm.is_main else NoLogger(),
        transform=transform,
        model=model,
        updater=updater,
        fewest_samples=fewest,
    )


def load_tasks(config: dict, parts: Components) -> tuple[Tasks, int]:
    """The tasks of the data, and the number of all training samples."""
    train, test = parts.dataset.load(config["seed"], parts.loader)
    return parts.scenario.split(train, test, config["seed"]), len(train)


def make_buffer(config: dict, parts: Components, num_training: int) -> tuple[ReplayBuffer | None, int | None]:
    """The replay memory, and how many samples may be stored on all ranks together; None for a strategy without."""
    if not parts.strategy.uses_memory:
        return None, None
    capacity = total_capacity(config["buffer"]["capacity"], num_training, parts.scenario.num_labels)
    if not parts.strategy.uses_buffer:
        return None, capacity
    dataset, scenario = parts.dataset, parts.scenario
    buffer = build(
        config["buffer"] | {"capacity": capacity},
        "buffer",
        fields=parts.strategy.fields(
            dataset.sample_shape, scenario.output_shape, dataset.sample_dtype, scenario.targets
        ),
        num_classes=scenario.num_labels,
        seed=config["seed"],
        device=parts.device,
        comm=parts.comm,
    )
    return buffer, capacity


def equip(config: dict, parts: Components, buffer: ReplayBuffer | None, capacity: int | None) -> None:
    """Hand the strategy what it works on: the memory and its capacity (None for a strategy without) and all else."""
    outputs = task_outputs(parts)
    context = StrategyContext(
        model=parts.model,
        updater=parts.updater,
        transform=parts.transform,
        outputs=outputs,
        objective=_objective(parts, outputs),
        network=torch.compile(parts.model) if config["compile"] else parts.model,
        buffer=buffer,
        capacity=capacity,
        stages=parts.stages,
        initial_weights=lambda number: initial_weights(config, parts, number),
        seed=config["seed"],
        fewest_samples=parts.fewest_samples,
    )
    parts.strategy.setup(context)


def make_evaluator(config: dict, parts: Components, tasks: Tasks) -> tuple[Evaluator, TaskOutputs]:
    """What tests networks on all tasks, and which outputs belong to which task."""
    outputs = task_outputs(parts)
    objective = _objective(parts, outputs)
    return Evaluator(tasks, parts.transform, objective, config["eval_batch_size"], parts.device, parts.comm), outputs


def task_outputs(parts: Components) -> TaskOutputs:
    """Which outputs of the network belong to which task."""
    scenario = parts.scenario
    return TaskOutputs(scenario.num_outputs, scenario.task_outputs, scenario.task_aware, parts.device)


def _objective(parts: Components, outputs: TaskOutputs) -> Objective:
    """What the scenario asks of the network."""
    targets = parts.scenario.targets
    return AbsoluteError(targets) if targets else Labels(outputs)


def _network(config: dict, dataset: Dataset, scenario: Scenario, number: int = 0) -> nn.Module:
    """A network before training; the number tells apart those of one run."""
    numbers = (number,) if number else ()
    torch.manual_seed(seeding.derive(config["seed"], "weights", *numbers))
    shapes = {"sample_shape": dataset.input_shape, "num_outputs": scenario.num_outputs}
    return build(config["backbone"], "backbone", **shapes)


def initial_weights(config: dict, parts: Components, number: int = 0) -> dict[str, torch.Tensor]:
    """The state dict of a network as it is before training: number 0 is that with which a run begins."""
    network = _network(config, parts.dataset, parts.scenario, number)
    return {name: value.to(parts.device) for name, value in network.state_dict().items()}


def _train(
    config: dict, folder: Path, parts: Components, tasks: Tasks, buffer: ReplayBuffer | None, evaluator: Evaluator,
    start: Start | None,
) -> History:  # fmt: skip
    """All stages of training that are not done yet, each followed by the test and a checkpoint."""
    model, updater, strategy, comm, seed = parts.model, parts.updater, parts.strategy, parts.comm, config["seed"]
    fresh_updater = updater.state_dict()
    fresh_model = copy.deepcopy(model.state_dict()) if config["model_state"] == "reset" else None
    resumed = checkpoint.load_resume(folder, model, updater, strategy, buffer, comm)
    if resumed is None and comm.is_main:
        results.write_config(folder / "config.yaml", config)
    measure = "error" if parts.scenario.targets else "accuracy"
    first, history = resumed or (0, History(*evaluator(model), measure=measure))

    def steps_of(stage: int, num_samples: int) -> int:
        epoch = num_batches(
            num_samples, config["batch_size"] * config["gradient_accumulation_steps"], comm.size, parts.fewest_samples
        )
        return config["steps"] or parts.epochs[stage] * epoch

    steps = [steps_of(stage, tasks.num_training(chosen)) for stage, chosen in enumerate(parts.stages)]
    label = f"{folder.parent.name.rpartition('_')[0]} seed {seed}"
    progress = Progress(label, sum(steps), sum(steps[:first]), config["progress"] and comm.is_main)
    metrics = MetricsFile(folder / "metrics.csv", history.gradient_steps) if comm.is_main else None
    trainer = Trainer(
        strategy, parts.schedule, config["batch_size"], seed, parts.device, config["log_interval"], history, progress,
        metrics, parts.logger, comm,
    )  # fmt: skip
    if config["optimizer_state"] == "epoch":
        trainer.each_epoch = lambda: updater.load_state_dict(copy.deepcopy(fresh_updater))
    parts.logger.start(folder, config)
    model.train()
    try:
        for stage in range(first, len(parts.stages)):
            samples = tasks.training(parts.stages[stage]).to(parts.device)
            strategy.before_task(stage, samples)
            if config["optimizer_state"] != "keep":
                updater.load_state_dict(fresh_updater)
            if fresh_model is not None:
                model.load_state_dict(fresh_model)
            strategy.start_task(stage)
            if start is not None:
                model.load_state_dict(start(stage, history))
            training_set = strategy.training_set(stage, samples)
            progress.expect(steps_of(stage, len(training_set)) - steps[stage])
            loss = trainer.train(training_set, stage, steps_of(stage, len(training_set)))
            equalise_statistics(comm, model, average=config["batch_norm"] == "average")
            strategy.after_task(stage, samples)
            check_equal(comm, model)
            started = time.perf_counter()
            row, task_aware_row = evaluator(model, strategy.classifier())
            history.add(row, task_aware_row)
            history.eval_seconds += time.perf_counter() - started
            digits = max(2, len(str(len(row) - 1)))  # loggers sort by text
            parts.logger.log(
                {"stage": stage, **{f"{measure}/task_{j:0{digits}}": value for j, value in enumerate(row)}}
            )
            if comm.is_main:
                about = {"tasks": parts.stages[stage], history.measure: row, "config": config}
                checkpoint.save_task(folder, stage, model, about)
            checkpoint.save_resume(folder, stage, updater, strategy, buffer, history, comm)
            if comm.is_main:
                progress.line(_stage_line(label, stage, parts.stages, loss, history))
    finally:
        progress.close()
    return history


def _stage_line(label: str, stage: int, stages: list[list[int]], loss: float, history: History) -> str:
    """The line of one stage: accuracies, or errors, are means over the tasks seen so far."""
    seen = sorted({task for tasks in stages[: stage + 1] for task in tasks})
    line = f"{label}  task {stage + 1:2}/{len(stages)}  loss {loss:6.4f}  "
    if history.measure == "error":
        return line + f"error so far {_mean_of(history.rows[-1], seen):.4f}"
    line += f"accuracy so far {100 * _mean_of(history.rows[-1], seen):5.1f} %"
    return line + (
        f"  task-aware {100 * _mean_of(history.task_aware_rows[-1], seen):5.1f} %" if history.task_aware_rows else ""
    )


def _mean_of(row: list[float], tasks: list[int]) -> float:
    return sum(row[task] for task in tasks) / len(tasks)


def _memory(strategy: Strategy, buffer: ReplayBuffer | None, capacity: int | None, comm: Comm) -> dict:
    """What was stored and what it took: bytes on all ranks together, seconds of waiting in their mean."""
    waited, used = (buffer.wait_seconds, buffer.nbytes) if buffer is not None else (0.0, 0)
    sums = comm.sum(torch.tensor([waited / comm.size, used + strategy.nbytes], dtype=torch.float64))
    return {"buffer_capacity": capacity, "replay_wait_seconds": sums[0].item(), "buffer_bytes": int(sums[1])}


def _results(config: dict, parts: Components, memory: dict, history: History) -> dict:
    """The content of results.json."""
    return {
        "schema": results.SCHEMA,
        "kind": "run",
        "strategy": config["strategy"]["name"],
        "scenario": config["scenario"]["name"],
        "dataset": config["dataset"]["name"],
        "backbone": config["backbone"]["name"],
        "buffer": config["buffer"]["name"] if parts.strategy.uses_buffer else None,
        "seed": config["seed"],
        "group": config_hash(config),
        "identity": as_text(words(config)),
        "world_size": parts.comm.size,
        **results.measures(history, parts.scenario.task_aware),
        "train_seconds": history.train_seconds,
        "eval_seconds": history.eval_seconds,
        "samples_per_second": history.labelled_samples / history.train_seconds,
        **memory,
        "peak_memory_bytes": results.peak_memory_bytes(parts.device),
        "gradient_steps": history.gradient_steps,
        "labelled_samples": history.labelled_samples,
        "unlabelled_samples": 0,
        "versions": results.versions(),
        "config": config,
    }


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank % max(1, torch.cuda.device_count())}"
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={name} cannot be used here ({reason}); valid: auto, cpu, cuda, cuda:N, mps"
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # Same seed, same numbers: cuDNN and cuBLAS otherwise choose among kernels whose sums differ in order.
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def _check_compiler(device: torch.device) -> None:
    """torch.compile looks for what it needs only when training begins."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(f"compile=true needs a C++ compiler, and there is no {compiler}: install one, or set CXX")


def _scale_rate(policy: str, optimizer: torch.optim.Optimizer, schedule: Schedule, times: int) -> None:
    """Raise the learning rate for a step of `times` as many samples, warmed up from that of one (Goyal et al. 2017).

    linear: times as high; sqrt: its square root (Krizhevsky 2014); none: as it is.
    """
    factors = {"none": 1.0, "linear": float(times), "sqrt": times**0.5}
    if factors[policy] != 1.0:
        schedule.start = 1 / factors[policy]
        for group in optimizer.param_groups:
            group["lr"] *= factors[policy]


def _set_threads(threads: int | str, model: nn.Module, local_ranks: int) -> None:
    """CPU threads; `auto` is one for a network whose layers are too small to be shared out, else torch's own choice.

    The ranks of one host share its processors.
    """
    if threads == "auto":
        small = sum(weight.numel() for weight in model.parameters()) < SMALL_NETWORK
        threads = 1 if small else max(1, TORCH_THREADS // local_ranks)
    torch.set_num_threads(threads)


def _epochs(epochs: int | list[int], stages: int) -> list[int]:
    if isinstance(epochs, int):
        epochs = [epochs] * stages
    if len(epochs) != stages:
        raise ValueError(f"epochs has {len(epochs)} numbers, but there are {stages} stages of training: {epochs}")
    return epochs


def _check_model(
    name: str, model: nn.Module, transform: BatchTransform, dataset: Dataset, scenario: Scenario, device: torch.device
) -> int:
    """One pass of an empty picture: a network that does not fit the pictures is named before any data is loaded.

    Returns how many samples a batch must have in training.
    """
    sample_shape, outputs = dataset.sample_shape, scenario.output_shape
    try:
        with torch.no_grad():
            empty = transform.test(torch.zeros(1, *sample_shape, dtype=dataset.sample_dtype, device=device))
            shape = model.eval()(empty).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"backbone {name} does not take pictures of shape {sample_shape}: {reason}") from error
    if shape[1:] != outputs:
        raise ValueError(
            f"backbone {name} gives outputs of shape {tuple(shape[1:])}, expected {outputs} for "
            + (f"the targets {', '.join(scenario.targets)}" if scenario.targets else "the classes")
        )
    return fewest_samples(model, empty)
