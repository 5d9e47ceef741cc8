"""The listener of a controller: JSON over HTTP for its workers, and their checkpoints as they are.

| request | with | answers |
|---|---|---|
| `POST /register` | who a worker is, and its slots | the session, the lease, and what to run |
| `POST /commands` | the session, the last command that it has | those after it; waits for the first |
| `POST /messages` | the session, messages and the number of the first | the number of the last that counted |
| `PUT /checkpoints/SESSION/TRIAL/NUMBER/FILE` | a file of a checkpoint | nothing |
| `POST /keep` | the session, the segment, a checkpoint's name, its files' sizes | nothing: it is kept, or refused |
| `GET /checkpoints/SESSION/TRIAL/NUMBER/FILE` | nothing | that file |
| `POST /files` | the session, the segment, a checkpoint's name | its files |

The token is compared before anything else is read, in constant time. Requests are bounded in size, in number at
one time and in the time they may take; nothing in them is run or unpickled, and no path leaves its trial's folder.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Thread
from typing import IO, Any, cast
from urllib.parse import unquote

from frugalbo.errors import ExecutorError
from frugalbo.executors.carried import Arrivals, CarryError
from frugalbo.executors.http_registry import BusyError, GoneError
from frugalbo.executors.http_token import is_token

JSON_BYTES = 8 * 2**20  # of a request
_IDLE_S = 60.0  # a connection on which nothing comes for so long is closed
_MOST_CONNECTIONS = 1024
_CHUNK = 2**20

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Server:
    """Listens from the start; answers in threads of its own until it is closed.

    Args:
        answers: What answers to each `POST`, by path.
        arrivals: The checkpoints of the segment that a session, a trial and a number name.
        most_bytes: Of a file.

    Raises:
        ExecutorError: If it cannot listen there.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        token: str | None,
        answers: Mapping[str, Answer],
        arrivals: Callable[[str, int, int], Arrivals],
        most_bytes: int,
    ) -> None:
        class Handler(_Handler):
            pass

        Handler.token, Handler.answers, Handler.arrivals, Handler.most_bytes = token, answers, arrivals, most_bytes
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            self._server = _Bounded(address, Handler, family)
        except OSError as error:
            raise ExecutorError(f"cannot listen on {address[0]}:{address[1]}: {error}") from None
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="frugalbo-http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_address[1]

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Bounded(ThreadingHTTPServer):
    """So many connections at once, and no more."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], family: int) -> None:
        self.address_family = family
        self._free = BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base has it
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base has it
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base has it
        """A worker that has gone is no news: its lease says so."""


class _Handler(BaseHTTPRequestHandler):
    token: str | None
    answers: Mapping[str, Answer]
    arrivals: Callable[[str, int, int], Arrivals]
    most_bytes: int
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "frugalbo", ""
    timeout = _IDLE_S
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self._guarded(self._post, JSON_BYTES)

    def do_PUT(self) -> None:
        self._guarded(self._put, self.most_bytes)

    def do_GET(self) -> None:
        self._guarded(self._get, 0)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: stdout and stderr are the user's."""

    def _guarded(self, call: Callable[[int], None], most: int) -> None:
        """Refuse who has no token, and what is too large, before any of it is read."""
        length = self.headers.get("Content-Length", "" if most else "0")
        try:
            if not is_token(self.headers.get("Authorization"), type(self).token):
                self._refuse(HTTPStatus.UNAUTHORIZED, "expected the token of the controller")
            elif not length.isdigit() or "Transfer-Encoding" in self.headers:
                self._refuse(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
            elif int(length) > most:
                self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {most} bytes, got {length}")
            else:
                call(int(length))
        except GoneError as error:
            self._refuse(HTTPStatus.GONE, str(error))
        except BusyError as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except (ExecutorError, CarryError) as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"cannot read that: {error!r}"[:300])

    def _post(self, length: int) -> None:
        body = self.rfile.read(length)
        # A page in a browser cannot send this type to another site without asking first, and is refused then.
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected JSON")
            return
        answer = type(self).answers.get(self.path)
        if answer is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path!r}")
            return
        self._say(HTTPStatus.OK, answer(json.loads(body)))

    def _put(self, length: int) -> None:
        arrivals, name = self._addressed()
        arrivals.receive(name, cast("IO[bytes]", self.rfile), length)
        self._say(HTTPStatus.OK, {})

    def _get(self, _: int) -> None:
        arrivals, name = self._addressed()
        with arrivals.open(name) as (file, size):
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(size))
            self.send_header("Content-Type", "application/octet-stream")
            self.end_headers()
            while size > 0 and (piece := file.read(min(size, _CHUNK))):
                self.wfile.write(piece)
                size -= len(piece)
            self.close_connection = size > 0  # it shrank: whoever reads must see that this is not all

    def _addressed(self) -> tuple[Arrivals, str]:
        _, root, session, trial, number, name = unquote(self.path).split("/", 5)
        if root != "checkpoints":
            raise ValueError(f"there is no {self.path!r}")
        return type(self).arrivals(session, int(trial), int(number)), name

    def _say(self, status: HTTPStatus, record: Mapping[str, Any]) -> None:
        body = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # what it sent may not have been read
        self._say(status, {"error": why})
