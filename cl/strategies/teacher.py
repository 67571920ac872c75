"""A copy of the network as it was before a task: the teacher of the network that learns the task."""

import copy

from torch import nn


def new_teacher(model: nn.Module) -> nn.Module:
    """A copy with the weights that the network has now, in evaluation mode."""
    return copy.deepcopy(model).eval()


def loaded_teacher(model: nn.Module, state: dict | None) -> nn.Module | None:
    """A copy with the weights of `state`; None for None."""
    if state is None:
        return None
    teacher = new_teacher(model)
    teacher.load_state_dict(state)
    return teacher
