"""Hydra's launcher for `jobs`. Hydra imports it at every start, so it imports nothing more than Hydra's own."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn


class JobsLauncher(BasicLauncher):
    """Runs the jobs of a sweep one after the other in this process, as Hydra's own, or `jobs` at a time beside it."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if str(self.config.jobs) == "1":
            return super().launch(job_overrides, initial_job_idx)
        from cl.jobs.launching import launch

        return launch(self.config, self.hydra_context, self.task_function, job_overrides, initial_job_idx)
