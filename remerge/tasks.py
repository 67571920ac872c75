"""A scenario by itself: a sequence of tasks, whose samples any training loop can use."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from cl.build import build, shared_options
from cl.data.loader import epoch_batches
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm
from cl.run import device as devices
from cl.run.checks import check
from cl.run.evaluator import Evaluator
from cl.run.folder import plain
from cl.run.network import input_shape
from cl.scenarios.outputs import TaskOutputs
from cl.step.objectives import AbsoluteError, Labels
from remerge.words import configuration, words_of


def scenario(*words: str, config_dir: str | Path | None = None, **values) -> "Scenario":
    """The tasks of a scenario as a run has them: `scenario("scenario=class5", "dataset=digits", seed=0)`.

    Words and values are those of `remerge.run`; of them count the scenario, the data set, the seed and the batch sizes.
    Raises ValueError or OSError for data that are not there.
    """
    config = plain(configuration("run", words_of(words, values), config_dir))
    check(config)
    return Scenario(config)


class Samples(Dataset):
    """The samples of one split of a task for a DataLoader: pairs of a float32 picture [C, H, W] and a label.

    Pictures are scaled and normalised as the network takes them; those for training are augmented.
    """

    def __init__(self, rows: Rows, transform: Callable[[torch.Tensor], torch.Tensor]):
        self.rows, self._transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([range(len(self))[place]])[0]

    def __getitems__(self, places: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Several at once, which is much faster than one by one; torch's DataLoader asks for it."""
        rows = self.rows.part(torch.tensor(places)).loaded()
        return list(zip(self._transform(rows["x"]), rows["y"]))


class Task:
    """One task: `train` and `test` are data sets of torch, `classes` its labels in the scenario."""

    def __init__(self, scenario: "Scenario", number: int):
        self.scenario, self.number = scenario, number
        self.rows = scenario.tasks.training([number])
        self.classes = sorted(set(self.rows["y"].tolist()))

    @property
    def train(self) -> Samples:
        """Its training samples."""
        return Samples(self.rows, self.scenario.transform.train)

    @property
    def test(self) -> Samples:
        """Its test samples."""
        return Samples(self.scenario.tasks.testing(self.number, torch.device("cpu")), self.scenario.transform.test)

    def batches(self, batch_size: int | None = None, epoch: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of one pass in the order of a run: pictures [B, C, H, W] float32 and labels [B] int64."""
        config = self.scenario.config
        size = config["batch_size"] if batch_size is None else batch_size
        ordered = self.scenario.plan.ordered
        for batch in epoch_batches(self.rows, size, config["seed"], self.number, epoch, ordered=ordered):
            yield self.scenario.transform.train(batch["x"]), batch["y"]

    def __repr__(self) -> str:
        return f"task {self.number}: {len(self.rows)} training samples, classes {self.classes}"


class Scenario(Sequence):
    """The tasks of a configuration; `num_outputs` is the size of the classifier, `sample_shape` (C, H, W) its input."""

    def __init__(self, config: dict):
        self.config = config
        self.device = devices.choose_device("cpu", 0)
        dataset, self.plan = build(config["dataset"], "dataset"), build(config["scenario"], "scenario")
        self.plan.plan(dataset)
        loader = build(config["loader"], "loader", device=self.device, local_ranks=1)
        self.tasks = self.plan.split(*dataset.load(config["seed"], loader), config["seed"])
        self.sample_shape, self.num_outputs = input_shape(dataset, config["backbone"]), self.plan.num_outputs
        mean, std = _normalisation(config, dataset)
        self.transform = BatchTransform(
            dataset.augment, mean, std, dataset.sample_shape[0], self.device, False, dataset.crop,
            dtype=dataset.sample_dtype, size=shared_options(config["backbone"], "backbone")["input_size"],
        )  # fmt: skip
        self.transform.reseed(config["seed"])

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        return Task(self, range(len(self))[place])

    def evaluate(self, network: nn.Module) -> list[float]:
        """The accuracy in [0, 1], or the error, on the test samples of each task, as in a row of a run's matrix."""
        device = next((weight.device for weight in network.parameters()), self.device)
        outputs = TaskOutputs(self.num_outputs, self.plan.task_outputs, self.plan.task_aware, device)
        objective = AbsoluteError(self.plan.targets) if self.plan.targets else Labels(outputs)
        size = self.config["eval_batch_size"]
        return Evaluator(self.tasks, self.transform, objective, size, device, Comm())(network)[0]

    def __repr__(self) -> str:
        name, data = self.config["scenario"]["name"], self.config["dataset"]["name"]
        return f"{name} of {data}: {len(self)} tasks, {self.num_outputs} outputs"


def _normalisation(config: dict, dataset) -> tuple[list[float] | None, list[float] | None]:
    """As a run normalises with this configuration: pretrained weights decide, where there are any."""
    if config["backbone"].get("pretrained") is None:
        return dataset.mean, dataset.std
    from cl.run.network import build_network, normalisation
    from cl.run.plan import make_plan

    plan = make_plan(config)
    return normalisation(plan, build_network(plan))
