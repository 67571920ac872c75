"""The rendezvous server for Horovod's ranks; does not import torch."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

from cl.distributed.hosts import Place


@contextlib.contextmanager
def horovod_rendezvous(where: Sequence[Place], address: str) -> Iterator[int]:
    """Run a rendezvous server for these ranks that listens on one address of this machine; yields its port.

    Horovod's own way to start the server listens on all addresses. `address`: empty for all of them.
    """
    try:
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
    except ImportError as error:
        raise no_horovod(error) from error

    class Server(RendezvousHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        daemon_threads = True

        def server_bind(self):
            # Without HTTPServer's, which asks the name service for the name of the address: that can take seconds.
            self.socket.bind(self.server_address[:2])
            self.server_address = self.socket.getsockname()

    server = Server((address, 0), RendezvousHandler, 0)
    server.init(where)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def no_horovod(error: ImportError) -> ValueError:
    """The error for a Horovod that is missing or was built for another torch."""
    return ValueError(
        f"several ranks need Horovod, which cannot be imported ({error}): build it with `make horovod` or "
        "`remerge-horovod`, or use launcher=torchrun"
    )
