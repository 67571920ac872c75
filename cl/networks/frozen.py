"""Networks of which a part is frozen: it keeps its weights, stays in evaluation mode, and can be computed apart.

The network keeps its class, its names and all of its weights, so it is saved, merged and copied as any other. With
`takes_features` it is given what the frozen part has made of pictures, and computes the rest alone. How the two are
told apart is read from the network's own code by torch.fx, which looks only into the modules around the cut: no list
of architectures is needed, and what happens inside a block does not matter.
"""

import functools
from collections.abc import Callable, Iterable

import torch
from torch import fx, nn

from cl.networks.modes import KeepsFrozen, is_frozen, mark_frozen
from cl.values import did_you_mean


class Frozen(KeepsFrozen):
    """Mixed into the class of a network with a frozen part; `frozen_up_to` is what was asked for."""

    frozen_up_to: bool | str
    takes_features = False
    rest: dict[bool, Callable]  # by `training`, functions of the network and of features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest[self.training](self, x) if self.takes_features else super().forward(x)


def frozen_weights(network: nn.Module) -> int:
    """How many weights of a network are not trained."""
    return sum(weight.numel() for weight in network.parameters() if not weight.requires_grad)


def frozen_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a network's state dict that belong to its frozen part; {} without one."""
    if not isinstance(network, Frozen):
        return {}
    kept = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    for owner, module in network.named_modules():
        if is_frozen(module):
            kept |= {f"{owner}.{name}" if owner else name for name, _ in module.named_buffers(recurse=False)}
    return {name: value for name, value in network.state_dict().items() if name in kept}


def own_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a network's state dict that do not belong to a frozen part."""
    state = network.state_dict()
    return {name: state[name] for name in state.keys() - frozen_state(network).keys()}


def freeze(network: nn.Module, up_to: bool | str, sample_shape: tuple[int, ...]) -> None:
    """Freeze all weights on which the output of the module `up_to` depends; true: the input of the last linear layer.

    The modules that are done when that is there stay in evaluation mode, also in training. `sample_shape`: of one input
    of the network. Raises ValueError for a name that is no module of the network, and where nothing would be frozen.
    """
    what = f"backbone.freeze={'true' if up_to is True else up_to}"
    if up_to is False:
        raise ValueError("backbone.freeze must be true, the name of a module, or null to train all, got false")
    if up_to is True:
        module = network.get_submodule(_last_linear(network, what))
    else:
        module = network.get_submodule(_known(network, up_to, what))
    network.eval()
    done, reached = _run_to(network, module, torch.zeros(1, *sample_shape), before=up_to is True)
    if reached is None:
        raise ValueError(f"{what}: this network does not call that module: name another one")
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    # The graph of the derivatives says exactly what the output has been computed from, in any order of modules.
    found = torch.autograd.grad(reached.sum(), weights, allow_unused=True) if reached.requires_grad else []
    used = [weight for weight, gradient in zip(weights, found) if gradient is not None]
    if not used:
        raise ValueError(f"{what} would freeze nothing: there are no weights up to there")
    if len(used) == len(weights):
        raise ValueError(f"{what} would freeze all weights, and nothing would be trained: name an earlier module")
    for weight in used:
        weight.requires_grad_(False)
    if up_to is True:  # the head alone is trained: what the network does around it, such as dropout, is off as well
        done = [each for each in network.modules() if each not in set(module.modules())]
    for each in done:
        mark_frozen(each)
    network.__class__ = _class(type(network))
    network.frozen_up_to = up_to
    network.train()


def cut(network: nn.Module) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """The frozen part as a function of a frozen network and inputs; the network can take features from now on.

    Raises ValueError for a network whose code cannot be cut in two there.
    """
    up_to = network.frozen_up_to
    what = f"backbone.freeze={'true' if up_to is True else up_to}"
    name = _last_linear(network, what) if up_to is True else up_to
    try:
        graphs = {}
        for training in (True, False):
            graphs[training] = _Tracer(name).trace(network.train(training))
        parts = {training: _halves(graph, name, before=up_to is True) for training, graph in graphs.items()}
    except Exception as error:  # fx raises many types for code that it cannot follow
        raise ValueError(
            f"{what}: this network cannot be computed in two parts there ({' '.join(str(error).split())}): "
            "backbone.cache=false computes the frozen part in every step, or name another module"
        ) from error
    network.rest = {training: rest for training, (_, rest) in parts.items()}
    return parts[False][0]


def _last_linear(network: nn.Module, what: str) -> str:
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError(
            f"{what} trains the last linear layer alone, and this network has none: name a module up to which it is "
            f"frozen; it has {', '.join(_children(network))}"
        )
    return names[-1]


def _known(network: nn.Module, name: str, what: str) -> str:
    names = [each for each, _ in network.named_modules() if each]
    if name not in names:
        raise ValueError(
            f"{what} is no module of this network{did_you_mean(name, names)}; it has {', '.join(_children(network))} "
            "and the modules within these"
        )
    return name


def _children(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_children()]


def _run_to(
    network: nn.Module, module: nn.Module, x: torch.Tensor, before: bool
) -> tuple[list[nn.Module], torch.Tensor | None]:
    """The modules that are done when a module is, and what it has given; `before`: what it was given."""
    done: list[nn.Module] = []
    found: list[torch.Tensor] = []

    def enters(_, given: tuple) -> None:
        found.append(given[0])

    def leaves(each: nn.Module, _, output) -> None:
        if not found:
            done.append(each)
            if each is module:
                found.append(output)

    hooks = [each.register_forward_hook(leaves) for each in network.modules()]
    if before:
        hooks.append(module.register_forward_pre_hook(enters))
    try:
        with torch.enable_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if found and not isinstance(found[0], torch.Tensor):
        raise ValueError("that module does not give one tensor: name another one")
    return done, found[0] if found else None


@functools.cache
def _class(kind: type) -> type:
    return type(kind.__name__, (Frozen, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


class _Tracer(fx.Tracer):
    """Follows the code of the modules around one of them, and takes all others as they are."""

    def __init__(self, name: str):
        super().__init__()
        parts = name.split(".")
        self.around = {".".join(parts[:count]) for count in range(len(parts))}

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return name not in self.around


def _halves(graph: fx.Graph, name: str, before: bool) -> tuple[Callable, Callable]:
    """The functions before and after the cut at the call of a module."""
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(calls) != 1:
        raise ValueError(f"its code calls {name} {len(calls)} times, expected once")
    cut = calls[0].args[0] if before else calls[0]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.nodes if node.op == "output")
    after = _needed([output], cut)
    if any(node in after for node in inputs):
        raise ValueError(f"what follows {name} also needs what was there before it")
    return _function(graph, inputs[0], cut), _function(graph, cut, output.args[0])


def _needed(ends: Iterable[fx.Node], start: fx.Node) -> set[fx.Node]:
    """All from which the ends are computed, without what lies before `start`."""
    found, left = set(), list(ends)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += [] if node is start else node.all_input_nodes
    return found


def _function(graph: fx.Graph, start: fx.Node, end: fx.Node) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """From a network and the value of `start` to that of `end`."""
    part, needed = fx.Graph(), _needed([end], start)
    values = {start: part.placeholder("x")}
    for node in graph.nodes:
        if node in needed and node is not start:
            values[node] = part.node_copy(node, lambda each: values[each])
    part.output(values[end])
    code = part.python_code("self")
    scope = dict(code.globals)
    exec(code.src, scope)
    scope["forward"].__doc__ = code.src
    return scope["forward"]
