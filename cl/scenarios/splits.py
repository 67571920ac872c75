"""The samples of each task, computed by continuum without importing the whole package.

`import continuum` loads all of its data sets and plots, and with them torchvision, pandas, sympy, scikit-learn,
matplotlib and Hugging Face datasets, which takes seconds at every start. The split of labels needs only three files of
its package `scenarios`. They are executed here from the installed package; imports from the slow packages, which a
split does not need, get stand-ins. `sys.modules` is not changed, so continuum can still be imported as usual.
Rejected: a cached copy of the split, which is slow the first time and must be kept valid.
"""

import builtins
import functools
import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

FILES = ("base", "class_incremental", "instance_incremental")  # in continuum/scenarios, in the order of their imports
TASK_TYPE = SimpleNamespace(TENSOR="tensor", SEGMENTATION="segmentation", H5="h5")


class _Labels:
    """The part of a continuum data set that its scenarios use; each sample is its index."""

    data_type = TASK_TYPE.TENSOR
    class_order = transformations = bounding_boxes = None
    need_class_remapping = False

    def __init__(self, labels: np.ndarray, task_of: np.ndarray | None = None):
        self._data = np.arange(len(labels)), labels, task_of

    def get_data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        return self._data


def class_incremental(labels: np.ndarray, increments: list[int], order: list[int]) -> list[tuple]:
    """The indices of each task's samples and their new labels, the positions of the old labels in `order`.

    `increments`: the number of classes of each task.
    """
    return _tasks(_scenarios().ClassIncremental(_Labels(labels), increment=increments, class_order=order))


def instance_incremental(labels: np.ndarray, task_of: np.ndarray) -> list[tuple]:
    """The indices of each task's samples and their labels; `task_of`: the task of each sample."""
    return _tasks(_scenarios().InstanceIncremental(_Labels(labels, task_of)))


def _tasks(scenario) -> list[tuple]:
    return [(indices, labels.astype(np.int64)) for indices, labels in scenario]


@functools.cache
def _scenarios() -> SimpleNamespace:
    """The scenario classes of continuum; raises ImportError if it is missing or its files have another layout."""
    found = importlib.util.find_spec("continuum")
    if found is None:
        raise ImportError("continuum, which makes the tasks, is not installed: run `pip install continuum`")
    folder = Path(found.submodule_search_locations[0]) / "scenarios"
    scenarios = SimpleNamespace()
    known = {
        "torchvision": SimpleNamespace(transforms=SimpleNamespace(Compose=_unchanged)),
        "continuum.datasets": SimpleNamespace(_ContinuumDataset=_Labels),  # for annotations
        "continuum.tasks": SimpleNamespace(TaskSet=lambda x, y, t, **_: (x, y), TaskType=TASK_TYPE),
        "continuum.transforms.segmentation": SimpleNamespace(Compose=_unchanged),
        "continuum.scenarios": scenarios,
    }
    try:
        for name in FILES:
            vars(scenarios).update(_executed(f"continuum.scenarios.{name}", folder / f"{name}.py", known))
        scenarios.ClassIncremental, scenarios.InstanceIncremental  # noqa: B018
    except (ImportError, OSError, AttributeError) as error:
        raise ImportError(
            f"the scenarios of continuum in {folder} are not those of versions 1.2.7 to 1.2.x ({error}): "
            'install one of them, `pip install "continuum>=1.2.7,<1.3"`'
        ) from error
    return scenarios


def _unchanged(transformations):
    return transformations


def _executed(name: str, path: Path, known: dict[str, SimpleNamespace]) -> dict:
    """The classes that a source file defines; its imports are looked up in `known` first."""

    def find(module, *arguments):
        if module in known:
            return known[module]
        if module.partition(".")[0] in ("continuum", "torchvision"):
            raise ImportError(f"{path.name} imports {module}")
        return __import__(module, *arguments)

    module = ModuleType(name)
    module.__builtins__ = vars(builtins) | {"__import__": find}
    exec(SourceFileLoader(name, str(path)).get_code(name), vars(module))
    return {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == name}
