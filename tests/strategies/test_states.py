"""What each strategy compares with is what its paper compares with, whatever a run sets back before a task.

The right values are the networks that the run has saved after each task.
"""

import pytest
import torch
from support import QUICK, run_killed

from cl.run import checkpoint, experiment
from cl.run.folder import plain, run_folder
from cl.run.network import build_network
from cl.run.plan import make_plan
from cl.run.trainer import Trainer

STRATEGIES = [
    "agem", "bic", "der", "derpp", "er", "er_ace", "ewc", "ewc_separate", "fdr", "finetune", "gdumb", "gss",
    "icarl", "independent", "lucir", "lwf", "mas", "scratch", "si", "wa", "xder",
]  # fmt: skip
FROM_SCRATCH = ("gdumb", "independent", "scratch")  # whatever the options say
STATES = {
    "keep": ["optimizer.momentum=0.5"],
    "reset": ["model_state=reset", "optimizer_state=reset", "optimizer.momentum=0.5"],
    "epoch": ["optimizer_state=epoch", "optimizer.momentum=0.5", "gradient_accumulation_steps=2", "batch_size=5"],
    "reset, bf16": ["model_state=reset", "precision=bf16", "optimizer=adam"],
}


def options(strategy: str) -> list[str]:
    choice = {"ewc_separate": ["strategy=ewc", "strategy.anchors=separate"]}.get(strategy, [f"strategy={strategy}"])
    quick = [word for word in QUICK if not word.startswith("epochs")]
    return [
        *choice,
        "scenario.num_tasks=3",
        "scenario.initial_increment=4",
        "scenario.increment=3",
        "steps=5",
        "buffer.capacity=30",
        "log_interval=1",
        *quick,
    ]


def copied(values) -> list[torch.Tensor]:
    return [value.detach().clone() for value in values]


def same(some, others) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_teachers_anchors_and_starts(compose_config, monkeypatch, strategy, state):
    found, train = [], Trainer.train

    def watched(trainer, samples, stage, steps):
        method = trainer.strategy
        teacher = getattr(method, "teacher", None)
        found.append(
            {
                "weights": copied(method.model.parameters()),
                "teacher": None if teacher is None else copied(teacher.parameters()),
                "anchor": copied(getattr(method, "anchor", [])),
                "start": copied(getattr(method, "start", [])),
                "optimizer": len(method.updater.optimizer.state_dict()["state"]),
            }
        )
        return train(trainer, samples, stage, steps)

    monkeypatch.setattr(Trainer, "train", watched)
    config = compose_config(*options(strategy), *STATES[state], "optimizer.weight_decay=0.001")
    folder = experiment.run(config)
    network = build_network(make_plan(plain(config)))
    names = [name for name, _ in network.named_parameters()]
    ends = [torch.load(checkpoint.task_file(folder, stage))["model"] for stage in range(3)]
    ends = [[end[name] for name in names] for end in ends]
    initial = copied(network.parameters())
    for stage, before in enumerate(found):
        begins_anew = stage == 0 or strategy in FROM_SCRATCH or "reset" in state
        last = -2 if strategy == "bic" else None  # a task starts from the last layer without the correction
        assert same(before["weights"][:last], (initial if begins_anew else ends[stage - 1])[:last])
        fresh = stage == 0 or strategy in FROM_SCRATCH or state in ("reset", "epoch")
        assert (before["optimizer"] == 0) == fresh  # momentum of the task before
        if strategy in ("lwf", "icarl", "bic", "lucir", "wa"):
            assert (before["teacher"] is None) == (stage == 0)
            assert stage == 0 or same(before["teacher"], ends[stage - 1])
        if strategy in ("ewc", "mas", "si"):
            assert same(before["anchor"], ends[stage - 1] if stage else [])
        if strategy == "ewc_separate" and stage == 1:
            assert same(before["anchor"], ends[0])
        if strategy == "si":
            assert same(before["start"], before["weights"])
    assert not same(ends[0], ends[1]) and not same(ends[1], ends[2])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_with_weights_set_back_ends_with_the_same_bits(compose_config, strategy):
    words = [*options(strategy), *STATES["reset"], "gradient_accumulation_steps=2", "batch_size=5"]
    if strategy == "lwf":
        words += ["strategy.warmup_steps=2"]
    whole = experiment.run(compose_config(*words, f"output={compose_config().output}/whole"))
    killed = compose_config(*words)
    run_killed(killed, stage=1)
    folder = run_folder(plain(killed))
    assert list(folder.glob("resume_*.pt"))
    experiment.run(killed)
    for stage in range(3):
        ours, theirs = (torch.load(checkpoint.task_file(place, stage))["model"] for place in (folder, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), f"stage {stage}"


@pytest.mark.parametrize("init", ["previous", "merged"])
def test_two_places_to_start_from_are_refused(compose_config, init):
    config = plain(compose_config("strategy=independent", f"strategy.init={init}", "model_state=reset"))
    with pytest.raises(ValueError, match=f"strategy.init={init} .* and model_state=reset .*leave out one"):
        make_plan(config)


@pytest.mark.parametrize("init", ["shared", "independent"])
def test_weights_that_a_strategy_sets_stand_above_those_that_the_run_sets_back(compose_config, monkeypatch, init):
    starts, train = [], Trainer.train

    def watched(trainer, samples, stage, steps):
        starts.append(copied(trainer.strategy.model.parameters()))
        return train(trainer, samples, stage, steps)

    monkeypatch.setattr(Trainer, "train", watched)
    experiment.run(compose_config(*options("independent"), f"strategy.init={init}", "model_state=reset"))
    assert same(starts[0], starts[1]) == (init == "shared")
