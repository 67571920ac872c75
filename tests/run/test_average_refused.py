"""Averages that replace the weights at the end of a task, with methods that do not bear it."""

import pytest

from cl.run.folder import plain
from cl.run.plan import make_plan


@pytest.mark.parametrize("strategy", ["si", "cls_er", "scr", "lucir"])
@pytest.mark.parametrize("average", ["task", "fisher"])
def test_methods_that_follow_the_weights_refuse_others_in_their_place(compose_config, strategy, average):
    with pytest.raises(ValueError, match=f"average={average} replaces the weights .*, and strategy={strategy} "):
        make_plan(plain(compose_config(f"strategy={strategy}", f"average={average}")))
