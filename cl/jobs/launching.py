"""The jobs of one of Hydra's sweeps in processes beside this one."""

import atexit
import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from cl.configuration.composing import register_resolvers
from cl.configuration.plugins import jobs_of
from cl.jobs import sizes
from cl.jobs.pool import Pool
from cl.run import sweeping
from cl.run.folder import plain

_pools: list[Pool] = []  # that of this command: a sweeper may launch one batch after the other


def launch(
    config: DictConfig,
    context: HydraContext,
    task: Callable,
    overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """What a launcher of Hydra does; `task`: the function of a module that `hydra.main` has wrapped."""
    setup_globals()
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    configs = [_configuration(config, context, list(words), first + i) for i, words in enumerate(overrides)]
    if not _pools:
        _pools.append(_pool(jobs_of(config), configs))
        atexit.register(_pools[0].close, at_once=False)
    pool = _pools[0]
    futures = [pool.submit(do, task.__module__, task.__qualname__, each) for each in configs]
    try:
        return [_returned(*job) for job in zip(futures, configs, overrides, strict=True)]
    except BaseException:
        _pools.clear()
        pool.close(at_once=True)
        raise


def do(module: str, name: str, config: DictConfig) -> float | None:
    """In another process: what Hydra does with one job, and what its function returns."""
    register_resolvers()
    setup_globals()
    HydraConfig.instance().set_config(config)
    function = inspect.unwrap(getattr(importlib.import_module(module), name))
    context = HydraContext(config_loader=None, callbacks=Callbacks(config))
    done = run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    return done.return_value


def _configuration(config: DictConfig, context: HydraContext, words: list[str], number: int) -> DictConfig:
    found = context.config_loader.load_sweep_config(config, words)
    with open_dict(found):
        found.hydra.job.id = number
        found.hydra.job.num = number
    return found


def _pool(jobs: int | str, configs: list[DictConfig]) -> Pool:
    if jobs == "auto":
        jobs = None
    asked = {}
    for config in configs:
        if jobs is None or str(config.device) in ("auto", "cuda"):
            try:
                found = plain(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
            except ValueError:  # the job will tell
                continue
            decisive = [found[key] for key in ("device", "threads", "launcher", "scenario", "dataset", "backbone")]
            asked[json.dumps(decisive, default=str)] = found
    size, gpus = sizes.shared_out(jobs, list(asked.values()))
    return Pool(size, gpus)


def _returned(future: Future, config: DictConfig, words: Sequence[str]) -> JobReturn:
    """What Hydra's sweepers are given; a process that was killed is a job that failed."""
    try:
        value = future.result()
    except RuntimeError as error:
        value = None
        sweeping.failed(config.hydra.job.num, str(error))
    return JobReturn(overrides=words, cfg=config, status=JobStatus.COMPLETED, _return_value=value)
