"""One step of several networks at once: their weights stacked, each layer one batched operation (torch.func).

The networks are alike but for their weights, and each has its own samples, memory and loss. What a strategy computes is
its own code, mapped over the networks. Weights and optimizer states of the single networks are views of the stacked
ones for as long as these are used, so that each network can be tested and saved at any time.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call, vmap

from cl.buffers.base import Records
from cl.buffers.transfers import Transfers
from cl.data.rows import Rows
from cl.distributed.comm import ReduceOptions
from cl.step.updater import Updater
from cl.strategies.base import Strategy

STEP = "step"  # in the state of an optimizer: how many it has taken, which all networks have in common


class Stacked:
    """The steps of several strategies that are set up alike, each with its own network and memory.

    Their optimizers must treat each number by itself, as SGD and Adam do, and have taken the same number of steps.
    `release`, at the end, gives every network weights of its own again.
    """

    def __init__(self, strategies: Sequence[Strategy]):
        self.strategies, first = strategies, strategies[0]
        self.device = first.updater.device
        self.networks = [dict(strategy.model.named_parameters()) for strategy in strategies]
        self.weights = {name: self._stacked_weight(name) for name in self.networks[0]}
        (self.options,) = first.updater.optimizer.param_groups  # whose learning rate is read in each step
        options = {key: value for key, value in self.options.items() if key != "params"}
        optimizer = type(first.updater.optimizer)([{"params": list(self.weights.values()), **options}])
        module = nn.ParameterList(self.weights.values())
        self.updater = Updater(optimizer, module, self.device, first.updater.comm, ReduceOptions())
        self._stack_states()
        self.transfers = Transfers(self.device)
        self.code = copy.copy(first)  # that is mapped: it keeps tensors between two of its methods
        self.step = vmap(self._step_of_one)
        self.starts = True

    def observe(self, batches: Sequence[Rows], draws: Sequence[Sequence[Records]]) -> torch.Tensor:
        """One training step of each network on its new samples and draws, all of equal lengths; the losses [N]."""
        new = _stacked_columns(batches)
        replayed = [self._on_device(_stacked_columns(same)) for same in zip(*draws, strict=True)]
        self.updater.optimizer.param_groups[0]["lr"] = self.options["lr"]
        self.updater.clear()
        # A flat list of tensors: what `vmap` does with dictionaries within lists takes as long as a layer.
        self.new_columns, self.columns_of_draws = list(new), [list(columns) for columns in replayed]
        drawn = [column for columns in replayed for column in columns.values()]
        losses, *remembered = self.step(*self.weights.values(), *new.values(), *drawn)
        offers = self.transfers.fetch(new | dict(zip(self.remembered, remembered)))
        if self.device.type == "cuda":  # it computes while this process stores records (`Strategy.observe`)
            self.updater.backward(losses.sum())
            self._exchange(offers)
        else:
            self._exchange(offers)
            self.updater.backward(losses.sum())
        self.updater.step()
        if self.starts:  # some optimizers make their states in their first step
            self._share_states()
            self.starts = False
        return losses.detach()

    def release(self) -> None:
        """Give each network weights, and its optimizer a state, of its own."""
        for weights, strategy in zip(self.networks, self.strategies):
            for weight in weights.values():
                weight.data = _own(weight.data)
                if state := strategy.updater.optimizer.state.get(weight):
                    state |= {key: _own(value) for key, value in state.items() if isinstance(value, torch.Tensor)}

    def _step_of_one(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The loss of one network, and what its memory is offered beside the columns of the samples."""
        rest = iter(tensors)
        weights, batch = dict(zip(self.weights, rest)), Rows(dict(zip(self.new_columns, rest)))
        draws = [Records(dict(zip(names, rest)), _not_mapped, _not_mapped) for names in self.columns_of_draws]
        self.code.network = lambda x: self._forward(weights, x)
        loss = self.code.loss(batch, draws)
        remembered = {} if self.code.buffer is None else self.code.remember(batch)
        self.remembered = [name for name, column in remembered.items() if column is not batch.columns.get(name)]
        return loss, *(remembered[name] for name in self.remembered)

    def _forward(self, weights: dict, x: torch.Tensor) -> torch.Tensor:
        """What one network makes of images, which counts as passes of each; its own hook does not see gradients."""
        with self.code.passes.paused():
            output = functional_call(self.code.model, weights, (x,))
        for strategy in self.strategies:
            strategy.passes.count(len(x), len(x) if torch.is_grad_enabled() else 0)
        return output

    def _on_device(self, columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return columns if columns["y"].device == self.device else self.transfers.to_device(columns)

    def _exchange(self, offers: dict[str, torch.Tensor]) -> None:
        if self.code.buffer is None:
            return
        self.transfers.wait()
        for place, strategy in enumerate(self.strategies):
            strategy.exchange([{name: column[place] for name, column in offers.items()}])

    def _stacked_weight(self, name: str) -> nn.Parameter:
        """A weight of all networks, of which theirs become views."""
        stacked = stack([weights[name].detach() for weights in self.networks])
        for weights, own in zip(self.networks, stacked):
            weights[name].data, weights[name].grad = own, None
        return nn.Parameter(stacked)

    def _stack_states(self) -> None:
        for name, weight in self.weights.items():
            states = [self._state(strategy, weights[name]) for strategy, weights in zip(self.strategies, self.networks)]
            if any(states):
                self.updater.optimizer.state[weight] = {
                    key: stack([state[key] for state in states]) if _is_own(key, value) else value
                    for key, value in states[0].items()
                }
        self._share_states()

    def _share_states(self) -> None:
        """Let the optimizers of the single networks have views of the stacked state, as far as there is one."""
        found = self.updater.optimizer.state
        for name, weight in self.weights.items():
            for place, (strategy, weights) in enumerate(zip(self.strategies, self.networks)):
                if weight in found:
                    strategy.updater.optimizer.state[weights[name]] = {
                        key: value[place] if _is_own(key, value) else value for key, value in found[weight].items()
                    }

    @staticmethod
    def _state(strategy: Strategy, weight: nn.Parameter) -> dict:
        return strategy.updater.optimizer.state.get(weight, {})


def why_not(network: nn.Module, images: torch.Tensor) -> str:
    """Why networks like this one cannot be stacked, in words; empty if they can. `images` [B, C, H, W]: some input."""
    if any(True for _ in network.buffers()):
        return "has statistics, such as those of batch-norm"
    weights = {name: torch.stack([weight.detach()] * 2) for name, weight in network.named_parameters()}
    modes = [(module, module.training) for module in network.modules()]
    try:
        vmap(lambda weights, x: functional_call(network.train(), weights, (x,)))(weights, torch.stack([images] * 2))
    except RuntimeError as error:
        if "random" in str(error):
            return "draws random numbers in training, such as those of dropout"
        return f"cannot be mapped: {' '.join(str(error).split())[:200]}"
    finally:
        for module, training in modes:
            module.training = training
    return ""


def stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """[N, ...]; matrices in the layout that their gradients have, which else are copied in every step."""
    if tensors[0].dim() == 2:
        return torch.stack([tensor.t() for tensor in tensors]).transpose(1, 2)
    return torch.stack(list(tensors))


def _stacked_columns(rows: Sequence[Rows]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([each[name] for each in rows]) for name in rows[0].columns}


def _is_own(key: str, value) -> bool:
    """Whether each network has its own value in the state of an optimizer."""
    return isinstance(value, torch.Tensor) and key != STEP


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _not_mapped() -> torch.Tensor:
    raise NotImplementedError("the weights and ids of records are not handed to steps of several networks")
