"""Where ranks of Horovod on this machine meet. Needs no torch."""

import contextlib


@contextlib.contextmanager
def horovod_rendezvous(ranks: int):
    """A server where `ranks` ranks of this machine meet; yields its port."""
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
    """What to say where Horovod is missing or was built for another torch."""
    return ValueError(
        f"several ranks need Horovod, which cannot be imported ({error}); `make horovod` builds it, "
        "launcher=torchrun does without"
    )
