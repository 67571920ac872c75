"""The rendezvous server for Horovod's ranks on this machine; does not import torch."""

import contextlib


@contextlib.contextmanager
def horovod_rendezvous(ranks: int):
    """Run a rendezvous server for `ranks` ranks of this machine; yields its port."""
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.http.http_server import RendezvousServer
    except ImportError as error:
        raise no_horovod(error) from error
    server = RendezvousServer(verbose=0)
    port = server.start()
    server.init(get_host_assignments(parse_hosts(f"localhost:{ranks}"), ranks))
    try:
        yield port
    finally:
        server.stop()


def no_horovod(error: ImportError) -> ValueError:
    """The error for a Horovod that is missing or was built for another torch."""
    return ValueError(
        f"several ranks need Horovod, which cannot be imported ({error}): build it with `make horovod`, or use "
        "launcher=torchrun"
    )
