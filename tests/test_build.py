"""A component is built from its options strictly: a mistake is one line that names it and the valid names."""

import math
from functools import partial

import pytest
import torch

from cl.build import build, locate


def widget(size, width, learning_rate=0.1, name_of_head="fc"):
    return size, width, learning_rate, name_of_head


def open_widget(width, **others):
    return width, others


def bare():
    return "bare"


def failing(width):
    raise ValueError(f"width {width} is too large")


def typed(width: int, rate: float = 0.1, kind: str | None = None, flag: bool = False, sizes: list[int] | None = None):
    return width, rate, kind, flag, sizes


def node(function, **options):
    return {"_target_": f"{__name__}.{function.__name__}", **options}


@pytest.mark.parametrize(
    "options, built",
    [
        ({"width": 3}, (1, 3, 0.1, "fc")),
        ({"width": 3, "learning_rate": 0.5}, (1, 3, 0.5, "fc")),
        ({"width": None, "name_of_head": "out"}, (1, None, 0.1, "out")),
        ({"name": "Widget", "memory": True, "width": 3}, (1, 3, 0.1, "fc")),  # labels are no options
    ],
)
def test_options_and_given_arguments_are_passed(options, built):
    assert build(node(widget, **options), "widget", size=1) == built


def test_a_target_that_takes_any_option_gets_every_one():
    assert build(node(open_widget, width=3, whatever=4), "widget", size=1) == (3, {"whatever": 4, "size": 1})


def test_a_target_without_options_is_called():
    assert build(node(bare), "widget") == "bare"


def test_a_class_of_a_library_is_built():
    built = build({"_target_": "fractions.Fraction", "numerator": 1}, "number", denominator=2)
    assert (built.numerator, built.denominator) == (1, 2)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"width": 3, "learning_rat": 1}, "widget.learning_rat (did you mean learning_rate?)"),
        ({"widht": 3}, "widget.widht (did you mean width?)"),
        ({"width": 3, "zzz": 1}, "widget.zzz"),
        ({"width": 3, "size": 9}, "widget.size"),  # what the program gives is not the user's to set
    ],
)
def test_an_unknown_option_is_named_with_the_valid_ones(options, complaint):
    with pytest.raises(ValueError) as error:
        build(node(widget, **options), "widget", size=1)
    assert str(error.value) == f"unknown option {complaint}; valid: width, learning_rate, name_of_head"


def test_an_option_of_a_target_without_any_is_named():
    with pytest.raises(ValueError) as error:
        build(node(bare, width=1), "widget")
    assert str(error.value) == "unknown option widget.width; valid: none"


@pytest.mark.parametrize(
    "function, given, message",
    [
        (widget, {"size": 1}, "widget needs width"),
        (widget, {}, "widget needs size, width"),
        (open_widget, {}, "widget needs width"),
        (open_widget, {"size": 1}, "widget needs width"),
    ],
)
def test_a_missing_option_is_named(function, given, message):
    with pytest.raises(ValueError) as error:
        build(node(function), "widget", **given)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("width", "x", "widget.width must be a whole number, got 'x'"),
        ("width", 3.0, "widget.width must be a whole number, got 3.0"),
        ("width", "3.0", "widget.width must be a whole number, got '3.0'"),
        ("width", True, "widget.width must be a whole number, got true"),
        ("width", None, "widget.width must be a whole number, got null"),
        ("rate", "0.1x", "widget.rate must be a number, got '0.1x'"),
        ("rate", False, "widget.rate must be a number, got false"),
        ("rate", math.nan, "widget.rate must be a number, got nan"),
        ("rate", "-inf", "widget.rate must be a number, got '-inf'"),
        (
            "kind",
            3,
            "widget.kind must be text or null, got 3: to give it as text, add quotes, 'widget.kind=\"3\"'",
        ),
        ("flag", 1, "widget.flag must be true or false, got 1"),
        ("flag", "maybe", "widget.flag must be true or false, got 'maybe'"),
        ("sizes", {"a": 1}, "widget.sizes must be a list (each a whole number) or null, got {'a': 1}"),
        ("sizes", [1, "x"], "widget.sizes must be a list (each a whole number) or null, got [1, 'x']"),
        ("sizes", "ab", "widget.sizes must be a list (each a whole number) or null, got 'ab'"),
    ],
)
def test_an_option_of_a_wrong_type_is_named(option, value, message):
    with pytest.raises(ValueError) as error:
        build(node(typed, **{"width": 3, option: value}), "widget")
    assert str(error.value) == message


@pytest.mark.parametrize(
    "option, given, taken",
    [
        ("width", "3", 3),
        ("width", "1_000", 1000),
        ("rate", "1e-3", 0.001),  # which YAML 1.1 reads as text
        ("flag", "no", False),
        ("flag", "Off", False),
        ("flag", "yes", True),
        ("sizes", 3, [3]),
        ("sizes", "3", [3]),
        ("sizes", ["1", 2], [1, 2]),
        ("sizes", None, None),
    ],
)
def test_a_value_becomes_what_its_annotation_says(option, given, taken):
    names = ("width", "rate", "kind", "flag", "sizes")
    got = build(node(typed, **{"width": 3, option: given}), "widget")[names.index(option)]
    assert got == taken and type(got) is type(taken)


@pytest.mark.parametrize(
    "option, value, valid",
    [
        ("lr", "abc", "a number of at least 0"),
        ("lr", True, "a number of at least 0"),
        ("lr", -0.1, "a number of at least 0"),
        ("weight_decay", math.inf, "a number of at least 0"),
        ("eps", 0, "a number above 0"),
        ("betas", [0.9], "a list of 2 "),
        ("betas", [0.9, 1.0], "a list of 2 "),
    ],
)
def test_what_torch_takes_is_known_better_than_its_annotations_tell(option, value, valid):
    options = {"_target_": "torch.optim.AdamW", option: value}
    with pytest.raises(ValueError, match=f"^optimizer.{option} must be {valid}"):
        build(options, "optimizer", params=[torch.nn.Parameter(torch.zeros(1))])


def test_a_complaint_of_torch_begins_with_our_options():
    options = {"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}
    with pytest.raises(ValueError, match="^optimizer.lr=0.1 optimizer.nesterov=True: Nesterov"):
        build(options, "optimizer", params=[torch.nn.Parameter(torch.zeros(1))])


def test_a_whole_number_will_do_for_a_float_and_null_where_it_is_allowed():
    options = {"width": 3, "rate": 1, "kind": None, "flag": True, "sizes": [1, 2]}
    assert build(node(typed, **options), "widget") == (3, 1, None, True, [1, 2])


@pytest.mark.parametrize("target", [None, ""])
def test_a_node_without_target_is_an_error(target):
    with pytest.raises(ValueError, match="^widget has no _target_: expected the dotted name"):
        build({"_target_": target, "width": 3}, "widget")
    with pytest.raises(ValueError, match="^widget has no _target_: expected the dotted name"):
        locate({"width": 3}, "widget")


@pytest.mark.parametrize(
    "target",
    [
        "no_such_package.Widget",
        "cl.no_such_module.Widget",
        "cl.build.no_such_function",
        "build",  # no module
        ".build",
        ".cl.build",  # relative: to what?
        "cl.build.",
        "cl..build",
        "cl.build.LABELS",  # there, but nothing to call
    ],
)
def test_a_target_that_cannot_be_built_is_named(target):
    with pytest.raises(ValueError) as error:
        build({"_target_": target}, "widget")
    assert f"widget._target_={target}" in str(error.value)


def test_errors_of_the_target_itself_come_through():
    with pytest.raises(ValueError, match="^width 7 is too large$"):
        build(node(failing, width=7), "widget")
    with pytest.raises(ZeroDivisionError):
        build({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 0}, "number")


def test_the_node_is_left_as_it_was():
    options = node(widget, width=3, name="Widget")
    build(options, "widget", size=1)
    assert options == node(widget, width=3, name="Widget")


def test_locate_returns_the_target_itself():
    assert locate(node(widget), "widget") is widget
    assert locate({"_target_": "functools.partial"}, "widget") is partial
