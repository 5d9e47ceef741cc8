"""`frugalbo serve`: the runs of a storage as pages, to look at from a browser. It writes nothing.

| address | what |
|---|---|
| `/` | all runs |
| `/RUN/` | the page of a run as it stands; while the run is at work it keeps up, as `report --watch` does |
| `/RUN.json` | the figures of it |
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
import time
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from frugalbo.cli_report import report_of
from frugalbo.errors import FrugalError
from frugalbo.executors.http_token import is_loopback, is_token, read_listen, read_token

if TYPE_CHECKING:
    from frugalbo.store import Store

_LISTEN: Final = "127.0.0.1:8080"
_EVERY_S: Final = 10.0  # how old a page may be that is shown


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What the command can do."""
    command.add_argument("--listen", default=_LISTEN, metavar="ADDRESS:PORT", help=f"where to listen ({_LISTEN})")
    command.add_argument(
        "--token-file", metavar="FILE",
        help="a secret that a browser must give as password; needed where other machines can reach the address",
    )  # fmt: skip


def run(args: argparse.Namespace, store: Store) -> int:
    """Serve until Ctrl-C; returns the exit code.

    Raises:
        FrugalError: If it cannot listen there.
    """
    address = read_listen(args.listen, args.token_file)
    token = read_token(args.token_file, make=True) if args.token_file else None
    with tempfile.TemporaryDirectory(prefix="frugalbo-serve-") as folder:
        pages = Pages(store, Path(folder))
        try:
            server = make_server(address, pages, token)
        except OSError as error:
            raise FrugalError(f"cannot listen on {args.listen}: {error}") from None
        print(f"http://{args.listen.rpartition(':')[0]}:{server.server_address[1]}/", flush=True)
        with server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
    return 0


class Pages:
    """What there is to see; a page is made anew when somebody looks and it is older than `every_s`."""

    def __init__(self, store: Store, folder: Path, *, every_s: float = _EVERY_S) -> None:
        self._store, self._folder, self._every_s = store, folder, every_s
        self._lock = Lock()  # pictures are drawn one at a time
        self._made: dict[str, float] = {}

    def at(self, path: str) -> tuple[str, bytes] | None:
        """The type and the content of a page; None if there is none."""
        with self._lock:
            if path == "/":
                return "text/html; charset=utf-8", self._list().encode()
            name = unquote(path.strip("/"))
            run = name.removesuffix(".json")
            if run not in {record.id for record in self._store.runs()}:
                return None
            if name.endswith(".json"):
                return "application/json", json.dumps(report_of(self._store, run).to_json()).encode()
            return "text/html; charset=utf-8", self._page(run)

    def _page(self, run: str) -> bytes:
        if time.monotonic() > self._made.get(run, float("-inf")) + self._every_s:
            report_of(self._store, run).write_live(self._folder / quote(run, safe=""), refresh_s=self._every_s)
            self._made[run] = time.monotonic()
        return (self._folder / quote(run, safe="") / "index.html").read_bytes()

    def _list(self) -> str:
        rows = "".join(
            f'<li><a href="/{quote(run.id)}/">{escape(run.id)}</a> ({run.events} events'
            f'{", at work" if run.holder else ""}; <a href="/{quote(run.id)}.json">JSON</a>)</li>'
            for run in self._store.runs()
        )
        return f"<!doctype html><meta charset=utf-8><title>frugalbo</title><h1>Runs</h1><ul>{rows}</ul>"


def make_server(address: tuple[str, int], pages: Pages, token: str | None) -> ThreadingHTTPServer:
    """What serves pages to who knows the token; without one, to who asks for this machine by a name of its own."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 30.0
        server_version, sys_version = "frugalbo", ""

        def do_GET(self) -> None:
            # Another site's name that was made to lead here is no way in.
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if not is_token(_bearer(self.headers.get("Authorization", "")), token):
                self._say(HTTPStatus.UNAUTHORIZED, "text/plain", b"expected the token as password")
            elif token is None and not is_loopback(host.strip("[]")):
                self._say(HTTPStatus.FORBIDDEN, "text/plain", b"expected 127.0.0.1 or localhost")
            else:
                self._show()

        def _show(self) -> None:
            try:
                found = pages.at(self.path)
            except FrugalError as error:  # of a run that cannot be read; the others can
                self._say(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", str(error).encode())
                return
            if found is None:
                self._say(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page")
            else:
                self._say(HTTPStatus.OK, *found)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _say(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            if status == HTTPStatus.UNAUTHORIZED:
                self.send_header("WWW-Authenticate", 'Basic realm="frugalbo"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(address, Handler)


def _bearer(said: str) -> str:
    """What a browser says of a password, as a program says a token."""
    kind, _, rest = said.partition(" ")
    if kind != "Basic":
        return said
    try:
        return f"Bearer {base64.b64decode(rest, validate=True).decode().partition(':')[2]}"
    except ValueError:
        return ""
