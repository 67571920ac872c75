"""torch's compiler, loaded only where something is compiled.

Every optimizer of torch imports `torch._dynamo`, and with it sympy, triton and a thousand modules (2 s), in order to
tell the compiler two things: leave this function out (`disable`), and end the graph here (`graph_break`). Where nothing
is compiled neither has an effect. Until more than these two is asked for, a stand-in answers for the module; for
everything else it loads the compiler and hands over, so a torch that asks for more starts later, but works alike.
Rejected: calling the functions below torch's decorators, which skips the hooks of a step.
"""

import importlib
import sys
from types import ModuleType

NAME = "torch._dynamo"


class _Deferred(ModuleType):
    """`torch._dynamo` of a process that compiles nothing."""

    def graph_break(self, msg: str = "") -> None:
        """Nothing, as the compiler's own where it is not tracing."""

    def disable(self, fn=None, *arguments, **options):
        """The function, which is never compiled before the compiler is loaded."""
        return _loaded().disable(fn, *arguments, **options) if fn is None else fn

    def __getattr__(self, name: str):
        # `inspect` asks every module for its file and the like; the path is asked for by imports of what is below.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(f"{NAME} is not loaded, and has no {name} yet")
        return getattr(_loaded(), name)


def defer_compiler() -> None:
    """Put off the import of torch's compiler until it is used; nothing to do where it is loaded."""
    import torch

    if NAME not in sys.modules:
        sys.modules[NAME] = torch._dynamo = _Deferred(NAME)


def _loaded() -> ModuleType:
    """The compiler itself, in the place of the stand-in."""
    import torch

    if isinstance(sys.modules.get(NAME), _Deferred):
        del sys.modules[NAME], torch._dynamo
    return importlib.import_module(NAME)
