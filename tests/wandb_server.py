"""A stand-in for the server of wandb: as much of its protocol as runs without artifacts need (wandb 0.31).

It keeps the rows of each run in the order in which they came, answers for a run that is resumed where it stands, and
ends on GET /stop. wandb's own process talks to it, so that a lost connection is a real one.
"""

import gzip
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OWN = {"id": "e", "name": "me"}
VIEWER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
EMPTY = {
    "config": "{}", "wandbConfig": '{"t":1}', "summaryMetrics": "{}", "historyLineCount": 0, "eventsLineCount": 0,
    "logLineCount": 0, "historyTail": "[]", "eventsTail": "[]",
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *given):
        pass

    def answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def do_GET(self):
        self.answer({})
        if self.path == "/stop":
            threading.Thread(target=self.server.stop).start()

    def do_PUT(self):
        self.body()
        self.answer({})

    def do_POST(self):
        content = self.body()
        if self.path.endswith("graphql"):
            asked = json.loads(content)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
            self.answer({"data": self.server.asked(name, asked.get("variables") or {})})
            return
        if found := re.search(r"/(\w+)/file_stream$", self.path):
            self.server.stream(found[1], json.loads(content).get("files") or {})
        self.answer({})


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.runs: dict[str, dict] = {}
        self.rows: dict[str, list[dict]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def asked(self, name: str, values: dict) -> dict:
        project = {"id": "p", "name": "remerge", "entity": OWN}
        run = self.runs.get(values.get("name"))
        if name == "RunResumeStatus":
            return {"model": project | {"bucket": run}}
        if name == "UpsertBucket":
            bucket = {"id": f"of {values['name']}", "name": values["name"], "displayName": values["name"]}
            run = self.runs.setdefault(values["name"], EMPTY | bucket)
            return {"upsertBucket": {"bucket": run | {"project": project}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/{file}"} for file in values["files"]]
            return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": files}}
        return {"Viewer": {"viewer": VIEWER}, "ServerFeaturesQuery": {"serverInfo": {"features": []}}}.get(name, {})

    def stream(self, name: str, files: dict) -> None:
        run = self.runs[name]
        if history := files.get("wandb-history.jsonl"):
            self.rows.setdefault(name, []).extend(map(json.loads, history["content"]))
            run["historyLineCount"] = history["offset"] + len(history["content"])
            run["historyTail"] = json.dumps(history["content"][-1:])
        if summary := files.get("wandb-summary.json"):
            run["summaryMetrics"] = summary["content"][-1]


@contextmanager
def serving():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.stop()
