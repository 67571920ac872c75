"""Checks of a merge that run before any training and before any data is read."""

from collections.abc import Iterable
from itertools import chain

from torch import nn

from cl.build import build
from cl.reporting import screen
from cl.run.session import Session
from merging.choices import check_choices
from merging.fusion import Fusion, WeightFusion, no_initial
from merging.sources import Source


def check_options(own: dict, base: dict) -> Fusion:
    """Build the fusion from the options; raises ValueError for options that cannot work."""
    name = own["fusion"]["name"]
    check_choices(own | base)
    fusion = build(own["fusion"], "fusion")
    for asked, what in (
        (own["running"], "running=true continues from"), (starts_merged(base), "strategy.init=merged continues from"),
        (own["finetune_samples"], f"finetune_samples={own['finetune_samples']} trains"),
    ):  # fmt: skip
        if asked and not isinstance(fusion, WeightFusion):
            raise ValueError(f"{what} merged weights, and fusion={name} has none")
    if own["weighting"] == "samples" and not fusion.uses_weights:
        options = " with these options" if type(fusion).uses_weights else ""
        raise ValueError(
            f"weighting=samples has no effect on fusion={name}{options}: it uses no weights of the networks; "
            "set weighting=uniform"
        )
    return fusion


def check_merge(fusion: Fusion, own: dict, session: Session, source: Source | None) -> None:
    """Raise ValueError for networks that cannot be merged with these options.

    `source`: the networks of files or of a run, without values; None if this command trains them.
    """
    name, plan = own["fusion"]["name"], session.plan
    if source is None:
        count, common = len(plan.stages), session.config["strategy"].get("init") != "independent"
    else:
        count, common = len(source.states), source.initial is not None
        source.tasks = known_tasks(fusion, own, session, source)
        if own["checkpoints"] is not None and (own["sequential"] or own["running"]):
            _check_order(own, source)
        if fusion.unequal_widths:
            fusion.check_shapes(session.model, plan.dataset.input_shape, source.states)
    if fusion.needs_initial and not common:
        raise ValueError(no_initial(name))
    if fusion.needs_known_task and not plan.scenario.task_aware:
        raise ValueError(
            f"fusion={name} makes a network for each task and has to be told which one a test sample is of, but "
            f"scenario={session.config['scenario']['name']} does not tell it: set scenario=task5"
        )
    most = fusion.most_models
    if most is not None and (count < most or count > most and not own["running"]):
        hint = "; set running=true to merge each network with the merge of those before it" if count > most else ""
        raise ValueError(f"fusion={name} merges {most} networks, got {count}{hint}")
    num_tasks = plan.scenario.num_tasks
    if 0 < own["finetune_samples"] < num_tasks:
        raise ValueError(
            f"finetune_samples must be at least {num_tasks}, one of each task, or 0 for none, got "
            f"{own['finetune_samples']}"
        )


def check_network(fusion: Fusion, session: Session) -> None:
    """Raise ValueError for a network that the fusion cannot merge."""
    with session.passes.paused():
        fusion.check(session.model, session.plan.dataset.input_shape)
    _check_names(session.model)


def _check_names(network: nn.Module) -> None:
    """Raise ValueError for a weight under two names, which would be merged twice."""
    first: dict[int, str] = {}
    for name, weight in network.named_parameters(remove_duplicate=False):
        if first.setdefault(id(weight), name) != name:
            raise ValueError(
                f"networks are merged weight by weight, but this one has {first[id(weight)]} once more as {name}: "
                "expected each weight under one name"
            )


def known_tasks(fusion: Fusion, own: dict, session: Session, source: Source, say: bool = False) -> list[list[int]]:
    """The tasks of each network.

    A file that does not name its tasks gets the task of its position, or all tasks if there are more files than tasks.
    `say`: print each such assumption.
    """
    unknown = [number for number, tasks in enumerate(source.tasks) if tasks is None]
    if not unknown:
        return source.tasks
    num_tasks, last = session.plan.scenario.num_tasks, unknown[-1]
    if last < num_tasks:
        assumed = {number: [number] for number in unknown}
    elif fusion.needs_tasks:
        raise ValueError(
            f"fusion={own['fusion']['name']} uses data of each network's task, but {source.files[last]} does not name "
            f"its task, and its position, {last + 1}, is beyond the {num_tasks} tasks of "
            f"scenario={session.config['scenario']['name']}: give checkpoints of remerge, which name their tasks"
        )
    else:
        assumed = dict.fromkeys(unknown, list(range(num_tasks)))
    if say:
        for number, tasks in assumed.items():
            what = f"task {number + 1}, its position" if len(tasks) == 1 else "all tasks"
            screen.say(f"{source.files[number]} does not name the tasks of its network: assumed {what}")
    return [tasks if tasks is not None else assumed[number] for number, tasks in enumerate(source.tasks)]


def _check_order(own: dict, source: Source) -> None:
    """Raise ValueError unless the files are one network per task, in order: a row of the accuracy matrix each."""
    for number in range(len(source.tasks)):
        if union(source.tasks[: number + 1]) != list(range(number + 1)):
            key = "running" if own["running"] else "sequential"
            tasks = ", ".join(str(task + 1) for task in source.tasks[number])
            raise ValueError(
                f"{key}=true merges task after task, and number {number + 1} of checkpoints, {source.files[number]}, "
                f"is a network of task {tasks}: give one file for each task, in their order"
            )


def union(tasks: Iterable[list[int]]) -> list[int]:
    """All tasks of several networks, sorted."""
    return sorted(set(chain(*tasks)))


def starts_merged(base: dict) -> bool:
    """Whether the training of each network starts from the merge of the networks before it."""
    return base["strategy"].get("init") == "merged"
