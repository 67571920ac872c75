"""What a run opens and changes, from the ranks to the logger: made in one order, and closed on every path."""

import dataclasses
from contextlib import ExitStack

import torch

from cl.buffers.base import ReplayBuffer
from cl.buffers.settings import total_capacity
from cl.build import build, shared_options
from cl.data.transforms import BatchTransform
from cl.distributed import ranks
from cl.distributed.comm import ENGINE_SECONDS
from cl.distributed.group import connect
from cl.networks.frozen import frozen_state
from cl.networks.lora import base_state
from cl.reporting import screen
from cl.reporting.loggers.base import NoLogger
from cl.reporting.loggers.several import Loggers
from cl.run import agreement
from cl.run import device as devices
from cl.run.compiler import defer_compiler
from cl.run.features import Features, FeatureSet, why_not
from cl.run.network import build_network, check_network, in_words, normalisation, weights_of
from cl.run.plan import Plan
from cl.run.recipe import Recipe
from cl.scenarios.base import Tasks
from cl.scenarios.outputs import TaskOutputs
from cl.step.passes import Passes


class Session:
    """Ranks, device, threads, network, recipe, loader and logger of a plan; data and memory once they are asked for.

    A context manager: within it all of these are open. Raises ValueError or OSError on entry for what cannot work here,
    before any data are read.
    """

    def __init__(self, plan: Plan, adapters: bool = True):
        """`adapters`: with those that the backbone asks for; networks are merged without, theirs are folded in."""
        self.plan, self.config, self.adapters = plan, plan.config, adapters
        self._of_pictures = plan
        self.features: Features | None = None
        self._opened = ExitStack()

    def __enter__(self) -> "Session":
        try:
            self._open()
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(self, *error) -> bool | None:
        return self._opened.__exit__(*error)

    def _open(self) -> None:
        config, dataset = self.config, self.plan.dataset
        started = ranks.started()
        self.comm = connect(started[0] if started else None, config["timeout"])
        self.device = devices.choose_device(config["device"], self.comm.local_rank)
        devices.check_own_gpu(config["device"], self.device, self.comm)
        if config["compile"]:
            devices.check_compiler(self.device)
        self._opened.enter_context(devices.repeatable(self.device))
        self.model = build_network(self.plan, adapters=self.adapters).to(self.device)
        mean, std = normalisation(self.plan, self.model)
        self.transform = BatchTransform(
            dataset.augment, mean, std, dataset.sample_shape[0], self.device, config["channels_last"],
            dataset.crop, config["mixing"]["mixup"], config["mixing"]["cutmix"], dataset.sample_dtype,
            shared_options(config["backbone"], "backbone")["input_size"],
        )  # fmt: skip
        self.weights = weights_of(self.model, mean, std)
        if self.weights is not None and self.comm.is_main:
            print(in_words(self.weights))
        # Horovod exchanges contiguous gradients only; there the pictures alone are channels_last, and the weights
        # follow inside each convolution.
        if config["channels_last"] and self.comm.engine != "horovod":
            self.model = self.model.to(memory_format=torch.channels_last)
        self._freeze(mean, std)
        self._opened.enter_context(devices.threads(config["threads"], self.model, self.comm.local_size))
        agreement.check_program(self.comm, config, self.device, self.weights)
        fewest = check_network(self.plan, self.model, self.transform, self.device)
        self.passes = Passes()
        self.passes.watch(self.model)
        if not config["compile"]:
            defer_compiler()
        self.recipe = Recipe(config, self.comm, self.device, fewest)
        trained = self.plan.strategy.trained(self.model, self.plan.scenario.num_outputs, config["seed"])
        self.updater = self.recipe.updater(trained, self.plan.strategy.changes_gradients)
        self.loader = build(config["loader"], "loader", device=self.device, local_ranks=self.comm.local_size)
        self._opened.callback(self.loader.close)
        scenario = self.plan.scenario
        self.outputs = TaskOutputs(scenario.num_outputs, scenario.task_outputs, scenario.task_aware, self.device)
        self.logger = Loggers.of_config(config["logger"]) if self.comm.is_main else NoLogger()
        self._opened.callback(self.logger.close)

    def _freeze(self, mean: list | None, std: list | None) -> None:
        """With a frozen part whose features are computed once: from here on these are the samples of the run."""
        options = shared_options(self.config["backbone"], "backbone")
        if options["freeze"] is None or options["cache"] is False:
            return
        reason = why_not(self.plan)
        if reason:
            if self.comm.is_main:
                screen.say(f"the frozen part of the network is computed in every step: {reason}")
            return
        self.features = Features(self.plan, self.model, self.transform, mean, std, self.comm)
        self.plan = dataclasses.replace(self.plan, dataset=FeatureSet(self.plan.dataset, self.features))
        self.transform = BatchTransform([], None, None, 0, self.device, dtype=torch.float32)

    def load_tasks(self) -> tuple[Tasks, int]:
        """The tasks of the data, and the number of all training samples."""
        seed = self.config["seed"]
        train, test = self.plan.dataset.load(seed, self.loader)
        tasks = self.plan.scenario.split(train, test, seed)
        if self.features is not None:
            self.features.check(tasks)
        agreement.check_data(self.comm, train, test, tasks, seed)
        return tasks, len(train)

    def make_buffer(self, num_training: int) -> tuple[ReplayBuffer | None, int | None]:
        """The replay memory, and how many samples may be stored on all ranks together; None for a strategy without.

        The memory is closed with the other ranks, or after an error without them.
        """
        plan, config = self.plan, self.config
        if not plan.strategy.uses_memory:
            return None, None
        capacity = total_capacity(config["buffer"]["capacity"], num_training, plan.scenario.num_labels)
        if not plan.strategy.uses_buffer:
            return None, capacity
        buffer = build(
            config["buffer"] | {"capacity": capacity},
            "buffer",
            fields=plan.strategy.fields(
                plan.dataset.sample_shape, plan.scenario.output_shape, plan.dataset.sample_dtype, plan.scenario.targets
            ),
            num_classes=plan.scenario.num_labels,
            seed=config["seed"],
            device=self.device,
            comm=self.comm,
            timeout=config["timeout"] + ENGINE_SECONDS,  # the watch of the ranks speaks first
        )
        self._opened.push(buffer.exit)
        return buffer, capacity

    def initial_weights(self, number: int = 0, config: dict | None = None) -> dict[str, torch.Tensor]:
        """The state dict of a network before training: number 0 is that with which the run begins.

        `config`: whose seed and backbone are taken; None: those of the run.
        """
        network = build_network(self._of_pictures, number, config, self.adapters)
        weights = {name: value.to(self.device) for name, value in network.state_dict().items()}
        # The frozen part is the same in all networks of a run, also where it is random; adapters are to one network.
        return weights | frozen_state(self.model) | base_state(self.model)
