"""Which axes of a network's weights permute together, found by tracing the network's graph.

Reordering the channels of a layer does not change the network's function if everything that uses these channels is
reordered in the same way: the layer's rows and biases, the statistics and scales of the normalisation after it, and the
columns of every layer that reads them. A residual connection ties the channels of both tensors that it adds. The inputs
and outputs of a network keep their order.
"""

import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from merging.align import rules

WRITES, READS = "writes", "reads"


@dataclass(frozen=True)
class Axis:
    """Axis `dim` of the state dict's tensor `name`, on which each channel of a group has `repeat` adjacent entries.

    `role`: "writes" (rows, biases and normalisation, which compute the channel) or "reads" (columns, which use it).
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
        own = (
            *rules.MIXING,
            rules.BATCH_NORM,
            nn.LayerNorm,
            nn.GroupNorm,
            nn.MultiheadAttention,
            nn.modules.pooling._MaxPoolNd,
        )
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


class _Layout(NamedTuple):
    """Where a tensor has the channels of a group: on which axis, each with `repeat` adjacent entries."""

    group: Group
    repeat: int
    axis: int


class _Walk:
    """One pass over the graph that finds the layout of every tensor."""

    def __init__(self, graph: fx.GraphModule):
        self.graph, self.modules = graph, dict(graph.named_modules())
        self.layout: dict[fx.Node, _Layout] = {}
        self.vectors: dict[fx.Node, tuple[str, int]] = {}  # weights by channel: their name, and their axis from the end
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
                self.layout[node] = _Layout(self.new_group(_shape(node)[1], fixed=True), 1, 1)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.root(self.layout[source].group).fixed = True
        elif node.op == "call_module":
            self.visit_module(node, self.modules[node.target])
        elif node.op == "get_attr":
            if dict(self.graph.named_parameters()).get(str(node.target), torch.zeros(0, 0)).dim() == 1:
                self.vectors[node] = str(node.target), -1
        elif "tensor_meta" in node.meta:  # numbers such as sizes have no layout
            self.visit_function(node)

    def visit_module(self, node: fx.Node, layer: nn.Module) -> None:
        source = node.args[0]
        if source not in self.layout:
            raise self.no_rule(node)
        group, repeat, axis = self.layout[source]
        group, last = self.root(group), len(_shape(source)) - 1
        if isinstance(layer, rules.MIXING):
            if axis != (last if isinstance(layer, nn.Linear) else 1):
                raise self.no_rule(node)
            self.layout[node] = self.visit_mixing(node, layer, group, repeat, axis)
        elif isinstance(layer, rules.BATCH_NORM) and axis == 1 or _normalises(layer, axis, last):
            for name in ("weight", "bias", "running_mean", "running_var"):
                if getattr(layer, name, None) is not None:
                    self.add(group, Axis(f"{node.target}.{name}", 0, repeat, WRITES))
            self.layout[node] = _Layout(group, repeat, axis)
        elif isinstance(layer, nn.Flatten) and layer.start_dim == axis == 1:
            self.layout[node] = _Layout(group, repeat * _flattened(source, node), 1)
        elif isinstance(layer, rules.PASSING_MODULES) or isinstance(layer, rules.POOLING_MODULES) and axis == 1:
            self.layout[node] = _Layout(group, repeat, axis)
        else:
            raise self.no_rule(node)

    def visit_mixing(self, node: fx.Node, layer: nn.Module, group: Group, repeat: int, axis: int) -> _Layout:
        name, rows = str(node.target), layer.weight.shape[0]
        depth = getattr(layer, "groups", 1)
        if depth > 1:
            if depth != layer.in_channels:
                raise self.no_rule(node, f"a convolution in {depth} groups")
            entries = repeat * (rows // depth)  # channel c makes the rows from c * rows / depth on
            for weight in ("weight", "bias"):
                if getattr(layer, weight) is not None:
                    self.add(group, Axis(f"{name}.{weight}", 0, entries, WRITES))
            return _Layout(group, entries, axis)
        made = self.new_group(rows)
        self.add(group, Axis(f"{name}.weight", 1, repeat, READS))
        if (name, repeat) not in group.readers:
            group.readers.append((name, repeat))
        self.add(made, Axis(f"{name}.weight", 0, 1, WRITES))
        if layer.bias is not None:
            self.add(made, Axis(f"{name}.bias", 0, 1, WRITES))
        self.ends[f"{name}.weight"] = (made, group)
        return _Layout(made, 1, axis)

    def visit_function(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self.layout]
        vectors = [source for source in node.all_input_nodes if source in self.vectors]
        named = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        tensors = [source for source in node.all_input_nodes if "tensor_meta" in source.meta or source.op == "get_attr"]
        if not sources and len(vectors) == len(tensors) == 1 and named in rules.FLATTENING:
            long = [place for place, size in enumerate(_shape(node)) if size > 1]
            if len(long) == 1:
                self.vectors[node] = self.vectors[vectors[0]][0], long[0] - len(_shape(node))
                return
        if not sources or len(tensors) != len(sources) + len(vectors):
            raise self.no_rule(node)
        group, repeat, axis = self.layout[sources[0]]
        group, first = self.root(group), axis == 1
        if node.target in rules.JOINING or named in rules.JOINING_METHODS:
            for other in sources[1:]:
                own = self.layout[other]
                if own.repeat != repeat or own.axis != axis or _shape(other)[axis] != _shape(sources[0])[axis]:
                    raise self.no_rule(node)
                group = self.join(group, self.root(own.group))
            for vector in vectors:
                name, place = self.vectors[vector]
                if place != axis - len(_shape(sources[0])):
                    raise self.no_rule(node)
                self.add(group, Axis(name, 0, repeat, WRITES))
        elif len(sources) > 1 or vectors:
            raise self.no_rule(node)
        elif named in rules.FLATTENING and len(_shape(node)) == 2 and first:
            repeat *= _flattened(sources[0], node)
        elif named == "permute":
            axis = _places(node).index(axis)
        elif node.target in rules.PASSING_FUNCTIONS or named in rules.PASSING_METHODS:
            pass
        elif not first or node.target not in rules.POOLING_FUNCTIONS and not _reduces(node, named, sources[0]):
            raise self.no_rule(node)
        self.layout[node] = _Layout(group, repeat, axis)

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
            "convolutions, batch-norm, layer norm, pooling or residual connections; choose another fusion"
        )


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


def _places(node: fx.Node) -> list[int]:
    """Which axis of its input each axis of a permutation is."""
    given = [*node.args[1:], *(value for key, value in node.kwargs.items() if key == "dims")]
    places = list(given[0]) if isinstance(given[0], tuple | list) else given
    return [place % len(places) for place in places]


def _reduces(node: fx.Node, named: str, source: fx.Node) -> bool:
    """Whether a function takes the mean, sum or maximum over the places of a picture."""
    return named in rules.REDUCING and len(_shape(source)) == 4 and _shape(node)[1] == _shape(source)[1]


def _normalises(layer: nn.Module, axis: int, last: int) -> bool:
    """Whether a layer normalises each sample over all entries of this axis; libraries' "2d" ones do over axis 1."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups == 1 and axis == 1
    if not isinstance(layer, nn.LayerNorm) or len(layer.normalized_shape) != 1:
        return False
    return axis == (1 if "2d" in type(layer).__name__ else last)


def _flattened(source: fx.Node, node: fx.Node) -> int:
    """The number of entries of the flattened axis for each channel."""
    return _shape(node)[1] // _shape(source)[1]
