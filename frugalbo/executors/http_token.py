"""The secret that workers and their controller share, and where a controller may listen without one."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from pathlib import Path

from frugalbo.errors import ExecutorError

_LEAST_CHARS = 16


def read_token(path: str | Path, *, make: bool = False) -> str:
    """The token in a file; where there is none and `make`, a new one, in a file that only its owner can read.

    Raises:
        ExecutorError: If it cannot be read, others can read it, or it is too short to be a secret.
    """
    path = Path(path).expanduser()
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32) + "\n")
        token = path.read_text(encoding="ascii").strip()
        is_open = path.stat().st_mode & 0o077
    except (OSError, ValueError) as error:
        raise ExecutorError(f"expected a file with a token, got {path}: {error}") from None
    if is_open:
        raise ExecutorError(f"expected a token that only you can read, got {path}: chmod 600 it")
    if len(token) < _LEAST_CHARS or not token.isprintable():
        raise ExecutorError(f"expected a token of at least {_LEAST_CHARS} characters in {path}, got {len(token)}")
    return token


def is_token(said: str | None, token: str | None) -> bool:
    """Whether an Authorization header carries the token, compared in constant time."""
    return token is None or hmac.compare_digest((said or "").encode(), f"Bearer {token}".encode())


def read_listen(listen: str, token_file: str | Path | None) -> tuple[str, int]:
    """The address and the port to listen on, such as `"127.0.0.1:8765"`.

    Raises:
        ExecutorError: If it cannot be read, or needs a token: others than this machine can reach it.
    """
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ExecutorError(f"expected an address and a port to listen on, such as '127.0.0.1:8765', got {listen!r}")
    if token_file is None and not is_loopback(host):
        raise ExecutorError(f"other machines can reach {listen!r}, so a token is needed: give token_file")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether an address or a name is that of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
