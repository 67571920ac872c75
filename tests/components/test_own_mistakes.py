"""What is said of the mistakes of those who add a component: one line that names file, class and remedy."""

from pathlib import Path

import pytest
from support import QUICK

from cl.configuration import place
from cl.run.checks import check
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from remerge.words import configuration

NEEDED = "validation: 0, mean: null, std: null, augment: []}"
BAD = {
    "strategy/silent": "name: silent\n_target_: lacking.Net\n",
    "strategy/nameless": "memory: false\n_target_: lacking.Net\n",
    "dataset/shapeless": "{name: shapeless, _target_: lacking.Shapeless, " + NEEDED,
    "dataset/abstract": "{name: abstract, _target_: lacking.Abstract, " + NEEDED,
    "backbone/number": "{name: number, _target_: lacking.number}",
    "backbone/deaf": "{name: deaf, _target_: lacking.deaf}",
    "backbone/gone": "{name: gone, _target_: lacking.gone}",
}
LACKING = """
from cl.datasets.base import Dataset
class Abstract(Dataset):
    num_classes = 3
class Shapeless(Dataset):
    num_classes = 3
    def check(self): pass
    def read(self): pass
def number(sample_shape, num_outputs): return 3
def deaf(num_outputs): return 3
"""
POLICIES = "trust=[my_policies]"
MISTAKES = [
    ("strategy=weighted_repla", "strategy=weighted_repla does not exist (did you mean weighted_replay?); valid: "),
    ("strategy=weighted_replay", "my_strategy.WeightedReplay is no component of remerge: if you trust the code of"),
    ("strategy=weighted_replay strategy.weigt=1", "strategy.weigt (did you mean weight?); valid for strategy=weig"),
    ("strategy=er strategy.weight=1", "strategy=weighted_replay can take weight"),
    ("buffer=fifo", "buffer.insertion=my_policies.Fifo is no component of remerge: if you trust the code"),
    ("buffer.insertion=my_policies.Fifo " + POLICIES, "buffer.insertion=my_policies.Fifo is written in Python, and"),
    ("buffer=reference buffer.insertion=my_policies.Fifo " + POLICIES, "needs buffer.every: set +buffer.every=VALUE"),
    ("buffer=fifo buffer.insertion=my_policies.Lifo " + POLICIES, "my_policies.Lifo cannot be imported ("),
    ("buffer=fifo buffer.sampling=my_policies.Fifo " + POLICIES, "no sampling policy: expected a class derived from"),
    ("buffer=fifo buffer.insertion=cl.buffers.insertion.InsertionPolicy trust=[cl.buffers]", "that has offer"),
    ("strategy=silent trust=[lacking]", "does not say whether it stores samples: its file needs a line memory: "),
    ("strategy=nameless trust=[lacking]", "strategy has no name: its file in conf/strategy/ needs a line name: NAME"),
    ("dataset=shapeless trust=[lacking]", "Shapeless has no sample_shape: a data set knows them before"),
    ("dataset=abstract trust=[lacking]", "lacking.Abstract lacks check, read, which every dataset must have"),
    ("backbone=number trust=[lacking]", "lacking.number makes an object of int, expected torch.nn.Module"),
    ("backbone=deaf trust=[lacking]", "lacking.deaf does not take sample_shape: remerge calls every backbone with "),
    ("backbone=gone trust=[lacking]", "lacking.gone cannot be imported (AttributeError"),
]  # fmt: skip


@pytest.fixture
def project(alone) -> Path:
    alone("my_strategy", "strategy", "weighted_replay")
    folder = alone("my_policies", "buffer", "fifo")
    (folder.parent / "lacking.py").write_text(LACKING)
    for name, text in BAD.items():
        (folder / f"{name}.yaml").parent.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("words, says", MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line_before_anything_is_read(own, project, tmp_path, words, says):
    with pytest.raises(ValueError) as error:
        given = [*words.split(), f"output={tmp_path}", "scenario=class2", "device=cpu", *QUICK[2:]]
        config = plain(configuration("run", given, project))
        check(config)
        with Session(make_plan(config)):
            pass
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_folder_on_the_wrong_level_is_named(own, project):
    for folder in (project.parent, project / "strategy"):
        with pytest.raises(ValueError) as error:
            configuration("run", ["strategy=weighted_replay"], folder)
        assert str(error.value).endswith(f"; {folder} has no options: expected {folder}/GROUP/NAME.yaml")
        place._own.clear()
