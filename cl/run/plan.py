"""What a run is made of, decided from its configuration alone.

Pure: no device, file or generator is touched, and no data are read, so a plan can be made for a run that only might
follow (merge.py checks its baselines this way). What needs a device, a network or data is checked by the session.
"""

from dataclasses import dataclass
from pathlib import Path

from cl.buffers.settings import check_buffer, import_own
from cl.build import build, locate, options_of, shared_options
from cl.datasets.base import Dataset, check_dataset
from cl.distributed.ranks import world_size
from cl.networks import lora
from cl.reporting import custom
from cl.run.callbacks import Callbacks
from cl.run.folder import run_folder
from cl.scenarios.base import KINDS, Scenario
from cl.step.average import Average
from cl.strategies.base import Strategy


@dataclass(frozen=True)
class Plan:
    """A run's configuration (resolved and checked), its folder, and its parts that are decided before it begins."""

    config: dict
    folder: Path
    dataset: Dataset
    scenario: Scenario
    strategy: Strategy
    average: Average
    stages: list[list[int]]  # the tasks whose data each stage of training uses
    epochs: list[float]  # of each stage
    callbacks: Callbacks

    @property
    def one_pass(self) -> bool:
        """Whether each sample of the stream is a new one at most once; replayed ones are no new ones."""
        tasks = [task for stage in self.stages for task in stage]
        if len(set(tasks)) < len(tasks):
            return False
        if _trains_on_memory(self.strategy) or not self.strategy.trains:
            return True
        return self.config["steps"] is None and set(self.epochs) == {1}


def make_plan(config: dict) -> Plan:
    """The plan of a run; raises ValueError or OSError for components, or combinations of them, that cannot work."""
    dataset = build(config["dataset"], "dataset")
    check_dataset(dataset)
    scenario = build(config["scenario"], "scenario")
    scenario.plan(dataset)
    strategy = build(config["strategy"], "strategy")
    _check_strategy(config, strategy, scenario)
    strategy.check(scenario, config["buffer"])
    _check_memory(config, strategy)
    if lora.options_of(shared_options(config["backbone"], "backbone")["lora"]) is not None and strategy.needs_start:
        raise ValueError(
            f"backbone.lora trains adapters to the weights of the start, and {strategy.keeps_weights} starts from "
            "merged weights: leave out one of them"
        )
    average = build(config["average"], "average")
    _check_average(config, average, strategy, scenario)
    stages = strategy.curriculum(scenario.num_tasks, scenario.concatenate)
    epochs = _epochs(config["epochs"] if strategy.trains else 1, len(stages))
    custom.try_out(config["metrics"], len(stages), scenario.num_tasks)
    callbacks = Callbacks(config["callbacks"])
    plan = Plan(config, run_folder(config), dataset, scenario, strategy, average, stages, epochs, callbacks)
    _check_passes(plan)
    return plan


def _trains_on_memory(strategy: Strategy) -> bool:
    """Whether the stream only fills the memory, on which the strategy trains as often as it likes."""
    return strategy.starts_anew and strategy.uses_memory


def _check_passes(plan: Plan) -> None:
    """A stream in its order is seen once, but by upper bounds, which join its tasks; so are all with `one_pass`."""
    config, strategy = plan.config, plan.strategy
    joins = strategy.starts_anew or len(plan.stages) < plan.scenario.num_tasks
    what = ""
    if config["one_pass"]:
        what = "one_pass=true lets each sample be new once"
    elif plan.scenario.ordered and not joins:
        what = f"scenario={config['scenario']['name']} is a stream that is seen once, in its order"
    if what and not plan.one_pass:
        got = f"steps={config['steps']}" if config["steps"] is not None else f"epochs={config['epochs']}"
        if set(plan.epochs) == {1} and config["steps"] is None:
            got = f"strategy={config['strategy']['name']}, which trains on data of earlier tasks again"
        raise ValueError(f"{what}: set epochs=1 and leave out steps and scenario.concatenate, got {got}")


def _check_strategy(config: dict, strategy: Strategy, scenario: Scenario) -> None:
    name = f"strategy={config['strategy']['name']}"
    if strategy.needs_labels and scenario.targets:
        raise ValueError(
            f"{name} is defined by labels, and scenario={config['scenario']['name']} has targets to compute "
            f"({', '.join(scenario.targets)})"
        )
    if not scenario.targets and scenario.kind not in strategy.defined_in:
        raise ValueError(
            f"{name} is defined where {', or '.join(KINDS[kind] for kind in strategy.defined_in)}; "
            f"in scenario={config['scenario']['name']} {KINDS[scenario.kind].partition(' (')[0]}"
        )
    if strategy.needs_boundaries and not scenario.has_boundaries:
        raise ValueError(
            f"{name} has to be told when a task ends, and scenario={config['scenario']['name']} has no boundaries "
            "between tasks: choose a strategy without that need (docs/concepts.md, Streams) or another scenario"
        )
    if strategy.keeps_weights and config["model_state"] == "reset":
        raise ValueError(
            f"{strategy.keeps_weights} starts each task from weights of the tasks before, and model_state=reset from "
            "the initial ones: leave out one of them"
        )
    if config["eval_every"] is not None and not strategy.tested_within:
        raise ValueError(
            f"eval_every={config['eval_every']} tests within tasks, and {name} has what it tests at their ends only: "
            "set eval_every=null"
        )
    mixes = any(config["mixing"].values())
    if mixes and (scenario.targets or not strategy.mixable):
        raise ValueError(
            f"mixing={config['mixing']} needs a loss that is one cross entropy over new and replayed samples: "
            f"{name} with scenario={config['scenario']['name']} has others"
        )


def _check_average(config: dict, average: Average, strategy: Strategy, scenario: Scenario) -> None:
    name, method = f"average={config['average']['name']}", f"strategy={config['strategy']['name']}"
    given, off = (name, "average=none") if config["ema"] is None else (f"ema={config['ema']}", "ema=null")
    if average.beside and type(strategy).classifier is not Strategy.classifier:
        raise ValueError(
            f"{given} tests the network with averaged weights, and {method} tests something else than its network: "
            f"set {off}"
        )
    if average.beside and strategy.changes_network:
        raise ValueError(
            f"{given} tests the network with averaged weights, and {method} corrects its own network after each task: "
            f"set {off}"
        )
    if average.in_place and strategy.follows_weights:
        raise ValueError(
            f"{name} replaces the weights at the end of a task, and {method} {strategy.follows_weights}: set "
            "average=none"
        )
    if average.in_place and not strategy.trains:
        raise ValueError(f"{name} averages the weights of training, and {method} trains none: set average=none")
    anew = "model_state=reset" if config["model_state"] == "reset" else method if strategy.starts_anew else None
    if average.in_place and anew is not None:
        raise ValueError(
            f"{name} starts each task from the average of the networks so far, and {anew} from other weights: leave "
            "out one of them"
        )
    if config["eval_every"] is not None and config["average"]["name"] == "swa":
        raise ValueError(
            f"eval_every={config['eval_every']} tests within tasks, and {name} has no network of the task before its "
            "last steps: set eval_every=null, or average=ema"
        )
    if average.needs_boundaries and not scenario.has_boundaries:
        raise ValueError(
            f"{name} has to be told when a task ends, and scenario={config['scenario']['name']} has no boundaries "
            "between tasks: choose average=ema or another scenario"
        )
    if average.needs_labels and scenario.targets:
        raise ValueError(
            f"{name} is defined by labels, and scenario={config['scenario']['name']} has targets to compute "
            f"({', '.join(scenario.targets)}): choose another average"
        )


def _check_memory(config: dict, strategy: Strategy) -> None:
    """The options of the replay memory, as far as the strategy uses it."""
    if strategy.uses_memory is not config["strategy"]["memory"]:  # it decides which options name the run's folder
        raise ValueError(
            f"strategy.memory={str(config['strategy']['memory']).lower()} is no option: it says in the file of "
            f"strategy={config['strategy']['name']} whether it stores samples, and its class has uses_memory = "
            f"{strategy.uses_memory}"
        )
    buffer, ranks = config["buffer"], world_size(config)
    import_own(buffer)
    options_of(buffer | {"capacity": 1}, "buffer")
    if not strategy.uses_memory:
        return
    if strategy.uses_buffer and ranks > 1 and not locate(buffer, "buffer").serves_ranks:
        raise ValueError(
            f"buffer={buffer['name']} serves one process, but there are {ranks} ranks; buffer=native is one memory "
            "over all of them"
        )
    check_buffer(buffer)


def _epochs(epochs: float | list[float], stages: int) -> list[float]:
    if not isinstance(epochs, list):
        epochs = [epochs] * stages
    if len(epochs) != stages:
        raise ValueError(f"epochs has {len(epochs)} numbers, but there are {stages} stages of training: {epochs}")
    return epochs
