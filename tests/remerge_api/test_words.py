"""Python values as words: what Hydra reads back is what was given."""

import math

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from remerge.words import as_word, configuration, jobs_of, words_of

VALUES = [
    "er", "a b", "a,b", "it's", "\\", "a\\'b", "a\\\\'b", "x\\", "", "null", "true", "1e3", "2024", "[a]", "{a:1}",
    "a=b", "é", "50%", "/x/y z", "~a", "a:b", "'q'", '"d"', " lead",
    1, -2.5, 1e-7, math.inf, True, None, [1, "a b", ["2"]],
    {"a": 1, "b": "x y"}, [],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_hydra_reads_the_value_that_was_given(value):
    override = OverridesParser.create().parse_override(f"key={as_word('key', value)}")
    read = override.value()
    assert read == value and isinstance(read, type(value)) and not override.is_sweep_override()


def test_numbers_of_numpy_and_tuples_are_those_of_python():
    assert words_of((), {"seed": np.int64(3), "epochs": np.float32(0.5), "pictures": ("png",)}) == [
        "seed=3", "epochs=0.5", "pictures=[png]",
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["-m", 3, "--cfg"])
def test_flags_are_no_words(word):
    with pytest.raises(ValueError, match="is no setting"):
        words_of((word,), {})


def test_a_value_of_another_kind_is_named():
    with pytest.raises(ValueError, match="epochs: expected a number, text"):
        words_of((), {"epochs": object()})


def test_jobs_are_the_product_of_words_and_values():
    values = {"seed": range(2), "buffer.capacity": "100,200", "trust": [], "pictures": ["png", "pdf"]}
    jobs = jobs_of(["strategy=er,derpp"], values)
    assert len(jobs) == 8 and len({tuple(job) for job in jobs}) == 8
    assert {word for job in jobs for word in job} == {
        "strategy=er", "strategy=derpp", "pictures=[png,pdf]", "seed=0", "seed=1", "buffer.capacity=100",
        "buffer.capacity=200", "trust=[]",
    }  # fmt: skip
    assert jobs_of([], {"pictures": [["png"], []]}) == [["pictures=[png]"], ["pictures=[]"]]
    with pytest.raises(ValueError, match="seed has no value"):
        jobs_of([], {"seed": []})


@pytest.mark.parametrize(
    "words, said",
    [
        (["strategy=err"], "did you mean er"),
        (["nonsense=1"], "nonsense"),
        (["seed"], "cannot read the argument 'seed'"),
        (["fusion=avg"], "for merge.py"),
        (["optimizer.lrr=1"], "lrr"),
        (["strategy=er", "seed=0,1"], "seed=0,1 has several values: remerge.sweep"),
    ],
)
def test_mistakes_are_one_line(words, said):
    with pytest.raises(ValueError, match=said) as caught:
        configuration("run", words)
    assert "\n" not in str(caught.value)
