"""Strategies declare in which kinds of scenarios they are defined, and whether they are told when a task ends."""

import pytest

from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.scenarios.classes import ClassIncremental

SCENARIO_OF = {"class": "class5", "task": "task5", "domain": "domain5"}
# (strategy and options, kinds in which it is defined, whether it needs boundaries): from the papers, not from the code.
DECLARED = [
    (("finetune",), "class task domain", False),
    (("joint",), "class task domain", False),
    (("scratch",), "class task domain", False),
    (("er",), "class task domain", False),
    (("er", "strategy.filling=task_end"), "class task domain", True),
    (("er", "strategy.weighting=by_task"), "class task domain", True),
    (("er", "strategy.replay_from=2"), "class task domain", True),
    (("agem",), "class task domain", True),
    (("der",), "class task domain", False),
    (("derpp",), "class task domain", False),
    (("derpp", "strategy.distill_from=2"), "class task domain", True),
    (("fdr",), "class task domain", True),
    (("er_ace",), "class task", False),
    (("gss",), "class task domain", False),
    (("gdumb",), "class task domain", False),
    (("icarl",), "class", True),
    (("wa",), "class", True),
    (("bic",), "class", True),
    (("lucir",), "class", True),
    (("mir",), "class task domain", False),
    (("mir", "strategy.replay_from=2"), "class task domain", True),
    (("gem",), "class task domain", True),
    (("cls_er",), "class task domain", False),
    (("xder",), "class", True),
    (("ewc",), "class task domain", True),
    (("si",), "class task domain", True),
    (("lwf",), "class task domain", True),
    (("independent",), "class task domain", True),
    (("ncm",), "class task domain", False),
    (("slda",), "class task domain", False),
    (("ranpac",), "class task domain", True),
    (("ranpac", "strategy.lambda_=1.0"), "class task domain", False),
    (("scr",), "class domain", False),
    (("mas",), "class task domain", True),
]


@pytest.mark.parametrize(
    "words, kinds, boundaries", DECLARED, ids=lambda value: "-".join(value) if isinstance(value, tuple) else None
)
def test_a_strategy_runs_where_it_is_defined_and_nowhere_else(compose_config, monkeypatch, words, kinds, boundaries):
    for kind in SCENARIO_OF:
        options = (f"strategy={words[0]}", *words[1:], f"scenario={SCENARIO_OF[kind]}")
        if kind in kinds.split():
            make_plan(plain(compose_config(*options)))
        else:
            with pytest.raises(
                ValueError, match=f"strategy={words[0]} is defined where .*in scenario={SCENARIO_OF[kind]}"
            ):
                make_plan(plain(compose_config(*options)))
    monkeypatch.setattr(ClassIncremental, "has_boundaries", False)
    config = plain(compose_config(f"strategy={words[0]}", *words[1:], "scenario=class5"))
    if boundaries:
        with pytest.raises(ValueError, match="has to be told when a task ends"):
            make_plan(config)
    else:
        make_plan(config)


# Where classes come back there are no classes of old tasks, which icarl needs; in a stream without boundaries only what
# is told of none.
BLURRY = {"finetune", "joint", "scratch", "er", "agem", "der", "derpp", "er_ace", "gdumb", "ewc", "si", "lwf"}
GAUSSIAN = {"finetune", "joint", "scratch", "er", "der", "derpp", "er_ace", "gdumb"}


@pytest.mark.parametrize("scenario, fine", [("blurry5", BLURRY), ("repetition20", BLURRY), ("gaussian10", GAUSSIAN)])
@pytest.mark.parametrize("strategy", sorted(BLURRY | {"icarl"}))
def test_strategies_in_streams(compose_config, scenario, fine, strategy):
    config = plain(compose_config(f"strategy={strategy}", f"scenario={scenario}", "epochs=1"))
    if strategy in fine:
        make_plan(config)
    else:
        with pytest.raises(ValueError, match="is defined where each task brings|has to be told when a task ends"):
            make_plan(config)
