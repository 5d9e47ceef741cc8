"""A worker's calls to its controller, over one connection. No redirects, no proxies: the token goes nowhere else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from frugalbo.errors import ExecutorError
from frugalbo.executors.carried import CarryError, copy
from frugalbo.executors.http_registry import BusyError, GoneError

_ANSWER_BYTES = 64 * 2**20


class UnreachableError(ExecutorError):
    """Nobody answers, for now."""


class Caller:
    """Calls one controller; of one thread at a time.

    Args:
        url: Such as `"http://10.0.0.1:8765"`.
        timeout_s: How long an answer may take.

    Raises:
        ExecutorError: If the url is none.
    """

    def __init__(self, url: str, token: str | None, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ExecutorError(f"expected the URL of a controller such as 'http://10.0.0.1:8765', got {url!r}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def post(self, path: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """What is answered to a record.

        Raises:
            UnreachableError: If nobody answers; it may have been heard all the same.
            GoneError: If the session is over.
            BusyError: If it is to be asked again later.
            ExecutorError: If it is refused.
        """
        body = json.dumps(record).encode()
        response = self._request("POST", path, body, {"Content-Type": "application/json"})
        return json.loads(self._body(response))

    def put(self, path: str, file: BinaryIO, length: int) -> None:
        """Send a file; raises as `post`."""
        self._body(self._request("PUT", path, file, {"Content-Length": str(length)}))

    def get(self, path: str, into: Path, length: int) -> None:
        """Fetch a file of that length; raises as `post`, and `CarryError` if it is not whole."""
        response = self._request("GET", path, None, {})
        if response.status != HTTPStatus.OK:
            self._body(response)
        into.parent.mkdir(parents=True, exist_ok=True)
        try:
            with into.open("wb") as file:
                copy(response, file, length)  # pyright: ignore[reportArgumentType]
        except (CarryError, http.client.HTTPException, OSError):
            self.close()
            raise
        self._body(response)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()

    def _request(
        self, method: str, path: str, body: bytes | BinaryIO | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        try:
            self._connection.request(method, quote(path), body, {**self._headers, **headers})
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnreachableError(f"no answer from the controller: {error!r}") from error

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        try:
            body = response.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnreachableError(f"no whole answer from the controller: {error!r}") from error
        if response.status == HTTPStatus.OK:
            return body
        self.close()
        why = _why(body) or f"{response.status} {response.reason}"
        if response.status == HTTPStatus.GONE:
            raise GoneError(why)
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise BusyError(why)
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # of a proxy on the way
            raise UnreachableError(why)
        raise ExecutorError(f"the controller refuses: {why}")


def _why(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
