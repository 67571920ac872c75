"""What a class or function takes, read from its source without importing it.

Importing a strategy imports torch, which takes longer than a mistake in its options should. Its parameters are in its
source: `parameters_of` finds the file, parses it and evaluates the annotations as far as they are made of Python's own
types and those of `cl.values`. Everything else stands for a type that is not checked.
"""

import ast
import builtins
import functools
import importlib.util
import inspect
import typing
from inspect import Parameter
from pathlib import Path

from cl import values

NO_OPTIONS = ("ABC", "object", "Protocol", "Generic")  # bases without a constructor of their own
MOST_STEPS = 20  # from a name to its definition, through imports and base classes


class UnreadableError(Exception):
    """The source does not tell; only the import does."""


class _AnyName(type):
    def __getattr__(cls, _):
        return cls


class Unknown(metaclass=_AnyName):
    """In an annotation: a type that is not known here, with whatever is asked of it."""

    def __class_getitem__(cls, _):
        return cls


class _Names(dict):
    def __missing__(self, _):
        return Unknown


KNOWN = _Names(
    {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type)}
    | {name: getattr(typing, name) for name in ("Annotated", "Any", "Literal", "Optional", "Union")}
    | {name: value for name, value in vars(values).items() if not name.startswith("_")}
)


def parameters_of(target: str) -> dict[str, Parameter]:
    """The parameters of a class's constructor or of a function by its dotted name, as `inspect.signature` has them.

    A default that is no literal is `Unknown`. Raises UnreadableError where the source does not tell.
    """
    module, _, name = target.rpartition(".")
    return dict(_parameters(module, name, MOST_STEPS))


def docstring_of(target: str) -> str:
    """The docstring of a class or function by its dotted name, without its indentation; "" if it has none.

    Raises UnreadableError where the source does not tell.
    """
    module, _, name = target.rpartition(".")
    return ast.get_docstring(_definition(module, name, MOST_STEPS)[1]) or ""


def _definition(module: str, name: str, steps: int) -> tuple[str, ast.FunctionDef | ast.ClassDef]:
    """The module that defines a name which another may import, and the definition."""
    tree, is_package = _parsed(module)
    if steps == 0:
        raise UnreadableError(f"{module}.{name} leads too far")
    found = [node for node in tree.body if name in _defined(node)]
    if len(found) != 1:
        raise UnreadableError(f"{module} defines {name} {len(found)} times")
    node = found[0]
    if isinstance(node, ast.ImportFrom):
        original = next(alias.name for alias in node.names if name == (alias.asname or alias.name))
        package = module if is_package else module.rpartition(".")[0]
        source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        return _definition(source, original, steps - 1)
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.decorator_list:
        raise UnreadableError(f"{module}.{name} is no plain class or function")
    return module, node


def _parameters(module: str, name: str, steps: int) -> dict[str, Parameter]:
    module, node = _definition(module, name, steps)
    if isinstance(node, ast.FunctionDef):
        return _read(node.args)
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__" and not member.decorator_list:
            return dict(list(_read(member.args).items())[1:])  # without self
        if "__init__" in _defined(member) or "__new__" in _defined(member):
            raise UnreadableError(f"{module}.{node.name} has no plain constructor")
    return _of_bases(module, node, steps)


def _of_bases(module: str, node: ast.ClassDef, steps: int) -> dict[str, Parameter]:
    """Those of the constructor that a class inherits."""
    bases = [base.id if isinstance(base, ast.Name) else None for base in node.bases]
    bases = [base for base in bases if base not in NO_OPTIONS]
    if len(bases) > 1 or bases == [None] or any(keyword.arg != "metaclass" for keyword in node.keywords):
        raise UnreadableError(f"{module}.{node.name} has bases that are not followed")
    return _parameters(module, bases[0], steps - 1) if bases else {}


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _read(arguments: ast.arguments) -> dict[str, Parameter]:
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    kinds = [Parameter.POSITIONAL_ONLY] * len(arguments.posonlyargs)
    kinds += [Parameter.POSITIONAL_OR_KEYWORD] * len(arguments.args)
    rows = [
        *zip(plain, kinds, defaults),
        *([(arguments.vararg, Parameter.VAR_POSITIONAL, None)] if arguments.vararg else []),
        *zip(arguments.kwonlyargs, [Parameter.KEYWORD_ONLY] * len(arguments.kwonlyargs), arguments.kw_defaults),
        *([(arguments.kwarg, Parameter.VAR_KEYWORD, None)] if arguments.kwarg else []),
    ]
    return {
        argument.arg: Parameter(
            argument.arg, kind, default=_default(given), annotation=_annotation(argument.annotation)
        )
        for argument, kind, given in rows
    }


def _default(node: ast.expr | None):
    if node is None:
        return inspect.Parameter.empty
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Unknown


def _annotation(node: ast.expr | None):
    if node is None:
        return inspect.Parameter.empty
    try:
        return eval(compile(ast.Expression(node), "annotation", "eval"), {"__builtins__": {}}, KNOWN)
    except TypeError:  # an operation that the unknown types do not have
        return Unknown


def _parsed(module: str) -> tuple[ast.Module, bool]:
    """The source of a module, and whether it is a package; no package on the way is imported."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    if spec is None or spec.origin is None:
        raise UnreadableError(f"there is no package {top}")
    path, is_package = Path(spec.origin), bool(spec.submodule_search_locations)
    for name in rest:
        places = [path.parent / name / "__init__.py", path.parent / f"{name}.py"]
        path = next((place for place in places if place.is_file()), None) if is_package else None
        if path is None:
            raise UnreadableError(f"there is no source of {module}")
        is_package = path.name == "__init__.py"
    if path.suffix != ".py":
        raise UnreadableError(f"there is no source of {module}")
    return _tree(path, path.stat().st_mtime_ns), is_package


@functools.cache
def _tree(path: Path, changed: int) -> ast.Module:
    """The syntax of a file as it was changed last: a notebook may edit and reload a module."""
    return ast.parse(path.read_bytes(), str(path))
