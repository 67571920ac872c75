"""What a sweep with `jobs` does before Hydra composes it: the server of its processes imports torch meanwhile."""

from collections.abc import Sequence

from hydra.core.plugins import Plugins

from cl.configuration.arguments import is_sweep


def start(overrides: list[str], flags: list[str], modules: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Overrides and flags as they are; starts the server if they ask for several jobs at a time.

    `modules`: further ones that the jobs import.
    """
    if is_sweep(flags):
        if any(word.startswith("jobs=") and word != "jobs=1" for word in overrides):
            from cl.jobs.server import server

            server(modules)
        from hydra_plugins.remerge_launcher.launcher import JobsLauncher

        Plugins.instance().register(JobsLauncher)  # Hydra does not find it in an installation that can be edited
    return overrides, flags
