"""How many jobs at a time: as many as there are processors for their threads, or GPUs."""

import os

from cl.jobs.pool import Pool
from cl.processors import processors


def gpus_for(device: str) -> list[str]:
    """The names of the GPUs that jobs are shared out among; none where the user has chosen one. Imports torch."""
    import torch

    if device.startswith("cuda:"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def shared_out(jobs: int | None, configs: list[dict]) -> tuple[int, list[str]]:
    """How many processes do some jobs, and the names of the GPUs that they share; `jobs`: how many, if it is decided.

    `configs`: plain ones of run.py, of those jobs that differ in what decides it. A process is started to look at them,
    as only torch knows of GPUs and threads.
    """
    if not configs:
        return jobs or 1, []
    probe = Pool(1)
    try:
        threads, gpus = probe.submit(largest, configs, jobs is None).result()
    finally:
        probe.close(at_once=False)
    return jobs or len(gpus) or max(1, processors() // threads), gpus


def largest(configs: list[dict], count: bool = True) -> tuple[int, list[str]]:
    """The most threads that one of some jobs has, and the GPUs that they are shared out among. Imports torch.

    `configs`: plain ones of run.py; one that cannot work counts as one thread, it will say so itself. `count`: whether
    threads are counted, else there is one.
    """
    import torch

    from cl.run.device import SMALL_NETWORK, TORCH_THREADS
    from cl.run.network import build_network
    from cl.run.plan import make_plan

    threads, gpus = 1, set()
    for config in configs:
        if config["device"] in ("auto", "cuda") and torch.cuda.is_available():
            gpus.update(gpus_for(config["device"]))
        if not count:
            continue
        own = config["threads"]
        if own == "auto":
            try:
                weights = sum(weight.numel() for weight in build_network(make_plan(config)).parameters())
            except Exception:
                weights = 0
            own = 1 if weights < SMALL_NETWORK else TORCH_THREADS
        threads = max(threads, own * config["launcher"]["np"])
    return threads, sorted(gpus)
