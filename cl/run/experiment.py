"""One run, from its configuration to its results: plan, session, data, training, results; to be read downwards."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from cl import signals
from cl.buffers.base import ReplayBuffer
from cl.distributed.comm import Comm
from cl.networks.lora import Adapted, Base
from cl.reporting import custom, plots, results
from cl.reporting.history import History
from cl.reporting.metrics_file import State
from cl.run import checkpoint, costs, reconstructions
from cl.run.evaluator import Evaluator
from cl.run.features import frozen
from cl.run.folder import alone, finished_run, plain
from cl.run.part import Parts, train_all
from cl.run.plan import make_plan
from cl.run.session import Session
from cl.run.training import Start, Training
from cl.scenarios.base import Tasks
from cl.step.objectives import AbsoluteError, Labels, Objective
from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext


def run(config, make_start: Callable[..., Start] | None = None) -> Path:
    """Train what the configuration (OmegaConf) describes, or go on with it; returns the run's folder.

    With several ranks every one of them calls this; rank 0 alone writes. `make_start` is for a strategy that asks for
    the weights of each stage; it is given the session and the tasks.
    """
    return train_all(parts(config, make_start))


def parts(config, make_start: Callable[..., Start] | None = None) -> Parts:
    """A run as what its caller trains, one part after the other, and all that stands around that; see `run`."""
    plan = make_plan(plain(config))
    folder, strategy = plan.folder, plan.strategy
    if strategy.needs_start and make_start is None:
        raise ValueError(strategy.needs_start)
    with Session(plan) as session, alone(folder, session.comm):
        comm = session.comm
        # Rank 0 decides for all: their disks need not be one. Another process may have finished the run meanwhile.
        finished = comm.broadcast(finished_run(config) if comm.is_main else None)
        if finished is not None:
            return finished
        tasks, num_training = session.load_tasks()
        buffer, capacity = session.make_buffer(num_training)
        equip(session, buffer, capacity)
        evaluator = make_evaluator(session, tasks)
        if plan.config["overwrite"] and comm.is_main and (folder / "results.json").exists():
            checkpoint.clear(folder, everything=True)  # an unfinished run may have been begun so: `Checkpoints`
        start = make_start(session, tasks) if strategy.needs_start else None
        training = Training(session, tasks, buffer, evaluator, start)
        with signals.deferred(f"the run is finished: {folder}"):
            history = yield from training.run()
            memory, buffer_bytes = _memory(strategy, buffer, capacity, comm)
            content = None
            if comm.is_main:
                more = training.average.state_dict() if training.average.in_place else ()
                memory |= costs.of_run(session, _kept_networks(training), tasks, buffer_bytes, more)
                content = _finish(training, evaluator, _results(session, memory, history, training.recorder.files))
            comm.gather(None)  # the results are there
            training.checkpoints.clear()
            if plan.callbacks.all:
                plan.callbacks.run_end(comm.broadcast(content))
    return folder


def _kept_networks(training: Training) -> list[torch.nn.Module]:
    """The networks that would have to be kept after the last stage if another one came."""
    parts = training.tree.shared
    networks = [parts[name] for name in costs.NETWORKS if name in parts]
    base = [Base(training.session.model)] if isinstance(training.session.model, Adapted) else []  # once for all
    anew = training.strategy.starts_anew or training.config["model_state"] == "reset"
    return base + (networks[-1:] if anew else networks)  # then no stage needs the raw weights again


def _finish(training: Training, evaluator: Evaluator, content: dict) -> dict:
    """Write the results of a run, with the metrics of the user, which are added to what is returned."""
    folder, session = training.folder, training.session
    results.write_json(folder / "results.json", content)
    training.checkpoints.clear()
    with ExitStack() as ending:  # an error in a metric of the user leaves no run without pictures
        ending.callback(session.logger.finish, content)
        ending.callback(_draw, session, training.tested, evaluator, content)
        content |= custom.add(folder, session.config["metrics"])
    return content


def equip(session: Session, buffer: ReplayBuffer | None, capacity: int | None) -> None:
    """Hand the strategy what it works on: the memory and its capacity (None for a strategy without) and all else."""
    plan = session.plan
    context = StrategyContext(
        model=session.model,
        updater=session.updater,
        transform=session.transform,
        outputs=session.outputs,
        objective=_objective(session),
        network=session.passes.compiled(torch.compile(session.model)) if session.config["compile"] else session.model,
        buffer=buffer,
        capacity=capacity,
        stages=plan.stages,
        initial_weights=session.initial_weights,
        seed=session.config["seed"],
        fewest_samples=session.recipe.fewest_samples,
        passes=session.passes,
    )
    plan.strategy.setup(context)


def make_evaluator(session: Session, tasks: Tasks) -> Evaluator:
    """What tests networks on all tasks."""
    batch_size = session.config["eval_batch_size"]
    objective = _objective(session)
    return Evaluator(tasks, session.transform, objective, batch_size, session.device, session.comm, session.passes)


def _objective(session: Session) -> Objective:
    """What the scenario asks of the network."""
    targets = session.plan.scenario.targets
    return AbsoluteError(targets) if targets else Labels(session.outputs)


def _draw(session: Session, network: torch.nn.Module, evaluator: Evaluator, content: dict) -> None:
    """The pictures of a finished run."""
    config, folder = session.config, session.plan.folder
    with plots.after_results(folder):
        plots.draw_run(folder, content, config["pictures"], config["picture_titles"])
        if session.plan.scenario.targets:
            title = f"{config['strategy']['name']}, after the last of {len(session.plan.stages)} stages"
            title = title if config["picture_titles"] else ""
            reconstructions.draw(folder, network, evaluator, title, config["pictures"])


def _memory(strategy: Strategy, buffer: ReplayBuffer | None, capacity: int | None, comm: Comm) -> tuple[dict, int]:
    """What was stored and what it took: bytes on all ranks together, seconds of waiting in their mean.

    The second value: the bytes of the replay memory alone.
    """
    waited, used = (buffer.wait_seconds, buffer.nbytes) if buffer is not None else (0.0, 0)
    sums = comm.sum(torch.tensor([waited / comm.size, used + strategy.nbytes, used], dtype=torch.float64))
    named = {"buffer_capacity": capacity, "replay_wait_seconds": sums[0].item(), "buffer_bytes": int(sums[1])}
    return named, int(sums[2])


def _results(session: Session, memory: dict, history: History, files: State) -> dict:
    """The content of results.json."""
    config, plan = session.config, session.plan
    stage_costs, gradient_steps = history.stages, history.gradient_steps
    if not plan.strategy.trains:  # what the history has counted are batches
        stage_costs, gradient_steps = [stage | {"gradient_steps": 0} for stage in stage_costs], 0
    return {
        **results.described(config, "run"),
        "buffer": config["buffer"]["name"] if plan.strategy.uses_buffer else None,
        "world_size": session.comm.size,
        **results.measures(history, plan.scenario),
        "train_seconds": history.train_seconds,
        "eval_seconds": history.eval_seconds,
        "samples_per_second": history.labelled_samples / history.train_seconds,
        **memory,
        "peak_memory_bytes": results.peak_memory_bytes(session.device),
        "one_pass": plan.one_pass,
        "gradient_steps": gradient_steps,
        "labelled_samples": history.labelled_samples,
        "unlabelled_samples": 0,
        **costs.compute(session, costs.summed(history.passes)),
        "stage_passes": [costs.training_passes(counts) for counts in history.passes],
        "stage_counts": history.passes,
        "stage_costs": stage_costs,
        "files": files,
        **({} if session.weights is None else {"pretrained": session.weights}),
        **frozen(session.model, session.features),
        "versions": results.versions(),
        "config": config,
    }
