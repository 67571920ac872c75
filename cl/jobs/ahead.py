"""What a sweep with `jobs` does before Hydra composes it: the server of its processes imports torch meanwhile."""

from collections.abc import Sequence

from hydra.core.plugins import Plugins

from cl.configuration.arguments import is_sweep
from cl.reporting import screen


def start(overrides: list[str], flags: list[str], modules: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Overrides and flags as they are; starts the server if they ask for several jobs at a time.

    `modules`: further ones that the jobs import.
    """
    if is_sweep(flags):
        asked = [word.partition("=")[2] for word in overrides if word.startswith("jobs=") and word != "jobs=1"]
        if asked:
            from cl.jobs.server import server

            server(modules)
            if asked[-1] == "auto":
                screen.say("a sweep, as many jobs at a time as fit")
            elif asked[-1].isdigit() and int(asked[-1]) and not any(w.startswith("hydra/launcher=") for w in overrides):
                screen.say(f"a sweep, {asked[-1]} at a time")
        from hydra_plugins.remerge_launcher.launcher import JobsLauncher

        Plugins.instance().register(JobsLauncher)  # Hydra does not find it in an installation that can be edited
    return overrides, flags
