"""A fake Sentry on loopback, which takes envelopes as the real one does.

https://develop.sentry.dev/sdk/foundations/transport/envelopes/
"""

import gzip
import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KEY = "0123456789abcdef0123456789abcdef"
PROJECT = "42"
WAIT_SECONDS = 30.0
DECODERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.decompress, "zstd": zstd.decompress}


@dataclass(frozen=True)
class Answer:
    """How a request is answered. `silent_seconds` pass before it."""

    status: int = 200
    headers: Mapping[str, str] | None = None
    silent_seconds: float = 0.0


class FakeSentry:
    """Serves on loopback, in threads of its own. Requests take answers from `script` first, then `default`.

    `events` are those of envelopes that were accepted, and `received` is every byte that arrived, decompressed, also of
    requests that were refused. What the protocol does not allow is refused with 400 and recorded in `faults`.
    """

    def __init__(self) -> None:
        self.script: deque[Answer] = deque()
        self.default = Answer()
        self.events: list[dict[str, Any]] = []
        self.received = b""
        self.requests = 0
        self.faults: list[str] = []
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer is two writes, and the second one would wait for a delayed acknowledgement.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = fake._take(self.path, self.headers, body)
                content = b'{"id": "0"}'
                self.send_response(answer.status)
                for name, value in {**(answer.headers or {}), "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def dsn(self) -> str:
        """Returns the value for SENTRY_DSN."""
        return f"http://{KEY}@127.0.0.1:{self._server.server_port}/{PROJECT}"

    def wait(self, *, events: int = 0, requests: int = 0) -> None:
        """Returns once that many were received. Raises TimeoutError."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: len(self.events) >= events and self.requests >= requests, WAIT_SECONDS
            )
        if not enough:
            raise TimeoutError(f"{len(self.events)} events of {self.requests} requests; {self.faults}")

    def _take(self, path: str, headers: Any, body: bytes) -> Answer:
        with self._changed:
            answer = self.script.popleft() if self.script else self.default
        time.sleep(answer.silent_seconds)
        with self._changed:
            try:
                text = DECODERS[headers.get("Content-Encoding", "")](body)
                self.received += f"{path}\n{headers}\n".encode() + text
                events = _events(path, headers, text)
            except (ValueError, KeyError, OSError) as exc:
                self.received += body
                self.faults.append(repr(exc))
                answer = Answer(400)
            if answer.status == 200:
                self.events += events
            self.requests += 1
            self._changed.notify_all()
        return answer


def _events(path: str, headers: Any, text: bytes) -> list[dict[str, Any]]:
    """Returns the events of a request. Raises ValueError if it is not one that Sentry accepts."""
    auth = dict(re.findall(r"(\w+)=([^,\s]+)", headers.get("X-Sentry-Auth", "")))
    if path != f"/api/{PROJECT}/envelope/" or auth.get("sentry_key") != KEY or auth.get("sentry_version") != "7":
        raise ValueError(f"not for this project: {path} {auth}")
    first, _, rest = text.partition(b"\n")
    envelope = json.loads(first)
    events = []
    while rest:
        line, _, rest = rest.partition(b"\n")
        item = json.loads(line)
        length = item.get("length")
        payload = rest.partition(b"\n")[0] if length is None else rest[:length]
        rest = rest[len(payload) + 1 :]
        if item["type"] != "event":
            raise ValueError(f"an item of type {item['type']}")
        event = json.loads(payload)
        if not re.fullmatch("[0-9a-f]{32}", event["event_id"]) or event["event_id"] != envelope["event_id"]:
            raise ValueError(f"no id: {event}")
        if not event["timestamp"] or event["platform"] != "python":
            raise ValueError(f"not an event: {event}")
        events.append(event)
    return events
