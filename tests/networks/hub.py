"""A hub of models on this machine: an HTTP server in the layout of timm's hub, and a cache in that layout."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import safetensors.torch
import timm
import torch

MODEL, TAG = "test_resnet", "test_resnet.r160_in1k"
CFG = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "classifier": "fc", "first_conv": "conv1.0"}
REVISION = "0123456789abcdef0123456789abcdef01234567"


def random_model(model: str, seed: int, **options) -> torch.nn.Module:
    """A network of timm with random weights in every tensor, also those that begin as zeros and ones."""
    torch.manual_seed(seed)
    network = timm.create_model(model, **options)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    return network


def files_of(network: torch.nn.Module, architecture: str, **cfg) -> dict[str, bytes]:
    """The files of a repository: weights and configuration."""
    config = {"architecture": architecture, "num_classes": 1000, "pretrained_cfg": {"tag": "own", **cfg}}
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    return {"model.safetensors": safetensors.torch.save(tensors), "config.json": json.dumps(config).encode()}


def fill_cache(home: Path, repository: str, files: dict[str, bytes]) -> Path:
    """A repository in the cache, as the hub's client leaves it; returns the folder of its files."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    place = folder / "snapshots" / REVISION
    for sub in (place, folder / "blobs", folder / "refs"):
        sub.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(REVISION)
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (place / name).symlink_to(blob)
    return place


class Hub:
    """The server; `asked` counts the requests by method and path."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]):
        asked = self.asked = Counter()

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> bytes:
                asked[self.command, self.path] += 1
                parts = self.path.strip("/").split("/")
                content = repositories.get("/".join(parts[:2]), {}).get(parts[-1]) if "resolve" in parts else None
                known = "/".join(parts[:2]) in repositories
                self.send_response(404 if content is None else 200)
                if content is None:
                    self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                else:
                    digest = hashlib.sha256(content).hexdigest()
                    self.send_header("ETag", f'"{digest}"')
                    self.send_header("X-Repo-Commit", REVISION)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                return content or b""

            def do_HEAD(self):
                self._answer()

            def do_GET(self):
                self.wfile.write(self._answer())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def downloads(self, name: str) -> int:
        """How often a file was sent."""
        return sum(count for (method, path), count in self.asked.items() if method == "GET" and path.endswith(name))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
