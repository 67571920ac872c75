"""Which axes of a network's weights permute together, found by tracing the network's graph.

Reordering the channels of a layer does not change the network's function if everything that uses these channels is
reordered in the same way: the layer's rows and biases, the statistics and scales of the batch-norm after it, and the
columns of every layer that reads them. A residual connection ties the channels of both tensors that it adds. The inputs
and outputs of a network keep their order.
"""

import copy
import operator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

WRITES, READS = "writes", "reads"
MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORM = nn.modules.batchnorm._BatchNorm
# Modules, functions and methods that treat all channels in the same way and keep their order.
PASSING_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Hardswish,
    nn.Hardsigmoid, nn.Softplus, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d,
    nn.Upsample,
)  # fmt: skip
PASSING_FUNCTIONS = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.dropout, F.max_pool2d,
    F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, F.pad, torch.relu, torch.tanh,
    torch.sigmoid, torch.abs, operator.neg,
)  # fmt: skip
PASSING_METHODS = ("relu", "relu_", "tanh", "sigmoid", "contiguous", "float", "clone", "detach")
JOINING = (operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add, torch.sub, torch.mul)
FLATTENING = ("flatten", "view", "reshape")
REDUCING = ("mean", "sum", "amax")


@dataclass(frozen=True)
class Axis:
    """Axis `dim` of the state dict's tensor `name`, on which each channel of a group has `repeat` adjacent entries.

    `role`: "writes" (rows, biases and batch-norm, which compute the channel) or "reads" (columns, which use it).
    """

    name: str
    dim: int
    repeat: int
    role: str


@dataclass(eq=False)
class Group:
    """Channels that are reordered together, with all axes of the weights that hold them, in the order of the graph.

    `fixed`: true for the network's inputs and outputs, which keep their order. `readers`: the layers that take these
    channels as input, each with its repeat.
    """

    size: int
    fixed: bool = False
    axes: list[Axis] = field(default_factory=list)
    readers: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Structure:
    """The groups that can be reordered, in the order in which the network computes them."""

    groups: list[Group]
    # For each weight matrix: (group of its rows, group of its columns), fixed groups included.
    ends: dict[str, tuple[Group, Group]]


class _Tracer(fx.Tracer):
    """Does not trace into layers that have a rule, nor into timm's subclasses of them."""

    failed_in: str | None = None  # the innermost module whose code could not be traced

    def call_module(self, module: nn.Module, forward, args, kwargs):
        try:
            return super().call_module(module, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.path_of_module(module)
            raise

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        own = (*MIXING, BATCH_NORM, nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention, nn.modules.pooling._MaxPoolNd)
        return isinstance(module, own) or super().is_leaf_module(module, name)


def trace(network: nn.Module, sample_shape: tuple[int, ...]) -> Structure:
    """Find the groups of a network that maps images of `sample_shape` (C, H, W) to logits.

    Raises ValueError, which names the layer, for a layer without a rule (attention, channel shuffles, concatenation).
    """
    network, tracer = copy.deepcopy(network).cpu().eval(), _Tracer()
    try:
        graph = fx.GraphModule(network, tracer.trace(network))
    except Exception as error:  # the network's code may raise anything
        place = tracer.failed_in or type(network).__name__
        raise ValueError(
            f"methods that align neurons need the network's graph, but {place} cannot be traced: {error}; choose "
            "another fusion"
        ) from error
    ShapeProp(graph).propagate(torch.zeros(2, *sample_shape))
    return _Walk(graph).structure()


class _Walk:
    """One pass over the graph that finds, for every tensor, the group of its channels (axis 1) and their repeat."""

    def __init__(self, graph: fx.GraphModule):
        self.graph, self.modules = graph, dict(graph.named_modules())
        self.layout: dict[fx.Node, tuple[Group, int]] = {}
        self.joined: dict[Group, Group] = {}  # from a group to the one that absorbed it
        self.created: list[Group] = []
        self.ends: dict[str, tuple[Group, Group]] = {}

    def structure(self) -> Structure:
        for node in self.graph.graph.nodes:
            self.visit(node)
        groups = [group for group in self.created if group not in self.joined]
        free = [group for group in groups if not group.fixed and group.size > 1]
        ends = {name: (self.root(rows), self.root(columns)) for name, (rows, columns) in self.ends.items()}
        return Structure(free, ends)

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if "tensor_meta" in node.meta:  # absent for optional arguments other than the image
                self.layout[node] = (self.new_group(_channels(node), fixed=True), 1)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.root(self.layout[source][0]).fixed = True
        elif node.op == "call_module":
            self.visit_module(node, self.modules[node.target])
        elif node.op == "get_attr" or "tensor_meta" not in node.meta:
            return  # constants and numbers such as sizes have no layout; a tensor that uses a constant has no rule
        else:
            self.visit_function(node)

    def visit_module(self, node: fx.Node, layer: nn.Module) -> None:
        source = node.args[0]
        if source not in self.layout:
            raise self.no_rule(node)
        group, repeat = self.layout[source]
        group = self.root(group)
        if isinstance(layer, MIXING):
            self.layout[node] = self.visit_mixing(node, layer, group, repeat)
        elif isinstance(layer, BATCH_NORM):
            for name in ("weight", "bias", "running_mean", "running_var"):
                if getattr(layer, name, None) is not None:
                    self.add(group, Axis(f"{node.target}.{name}", 0, repeat, WRITES))
            self.layout[node] = (group, repeat)
        elif isinstance(layer, nn.Flatten) and layer.start_dim == 1:
            self.layout[node] = (group, repeat * _flattened(source, node))
        elif isinstance(layer, PASSING_MODULES):
            self.layout[node] = (group, repeat)
        else:
            raise self.no_rule(node)

    def visit_mixing(self, node: fx.Node, layer: nn.Module, group: Group, repeat: int) -> tuple[Group, int]:
        name, rows = str(node.target), layer.weight.shape[0]
        if isinstance(layer, nn.Linear) and len(_shape(node)) != 2:
            raise self.no_rule(node)
        depth = getattr(layer, "groups", 1)
        if depth > 1:
            if depth != layer.in_channels:
                raise self.no_rule(node, f"a convolution in {depth} groups")
            entries = repeat * (rows // depth)  # channel c makes the rows from c * rows / depth on
            for weight in ("weight", "bias"):
                if getattr(layer, weight) is not None:
                    self.add(group, Axis(f"{name}.{weight}", 0, entries, WRITES))
            return group, entries
        made = self.new_group(rows)
        self.add(group, Axis(f"{name}.weight", 1, repeat, READS))
        if (name, repeat) not in group.readers:
            group.readers.append((name, repeat))
        self.add(made, Axis(f"{name}.weight", 0, 1, WRITES))
        if layer.bias is not None:
            self.add(made, Axis(f"{name}.bias", 0, 1, WRITES))
        self.ends[f"{name}.weight"] = (made, group)
        return made, 1

    def visit_function(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self.layout]
        named = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        tensors = [source for source in node.all_input_nodes if "tensor_meta" in source.meta or source.op == "get_attr"]
        if not sources or len(tensors) != len(sources):
            raise self.no_rule(node)
        group, repeat = self.layout[sources[0]]
        group = self.root(group)
        if node.target in JOINING:
            for other in sources[1:]:
                if self.layout[other][1] != repeat or _channels(other) != _channels(sources[0]):
                    raise self.no_rule(node)
                group = self.join(group, self.root(self.layout[other][0]))
            self.layout[node] = (group, repeat)
        elif len(sources) > 1:
            raise self.no_rule(node)
        elif node.target in PASSING_FUNCTIONS or named in PASSING_METHODS:
            self.layout[node] = (group, repeat)
        elif named in FLATTENING and len(_shape(node)) == 2:
            self.layout[node] = (group, repeat * _flattened(sources[0], node))
        elif named in REDUCING and _channels(node) == _channels(sources[0]) and len(_shape(sources[0])) == 4:
            self.layout[node] = (group, repeat)
        else:
            raise self.no_rule(node)

    def new_group(self, size: int, fixed: bool = False) -> Group:
        self.created.append(Group(size, fixed))
        return self.created[-1]

    def root(self, group: Group) -> Group:
        while group in self.joined:
            group = self.joined[group]
        return group

    def join(self, group: Group, other: Group) -> Group:
        """Merge two groups whose channels are added; returns the earlier one, now with the axes of both."""
        if group is other:
            return group
        if self.created.index(other) < self.created.index(group):
            group, other = other, group
        for axis in other.axes:
            self.add(group, axis)
        group.readers.extend(reader for reader in other.readers if reader not in group.readers)
        group.fixed |= other.fixed
        self.joined[other] = group
        return group

    def add(self, group: Group, axis: Axis) -> None:
        if axis not in group.axes:  # a layer may be called more than once
            group.axes.append(axis)

    def no_rule(self, node: fx.Node, what: str | None = None) -> ValueError:
        within = list(node.meta.get("nn_module_stack", {}))[-1:]  # the innermost layer that contains the node
        if node.op == "call_module":
            place, kind = str(node.target), type(self.modules[node.target]).__name__
        else:
            place, kind = within[0] if within else "the network", getattr(node.target, "__name__", node.target)
        return ValueError(
            f"neurons cannot be aligned through {place} ({what or kind}): expected fully connected layers, "
            "convolutions, batch-norm, pooling or residual connections; choose another fusion"
        )


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


def _channels(node: fx.Node) -> int:
    return _shape(node)[1]


def _flattened(source: fx.Node, node: fx.Node) -> int:
    """The number of entries of the flattened axis for each channel."""
    return _channels(node) // _channels(source)
