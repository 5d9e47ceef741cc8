"""Ax's stores: what of ours they must know, a database that is ready, and snapshots that a crash cannot halve.

    client = Client(storage_config=sqlite("runs.db"))     # Ax saves every change by itself
    save(client, "run.json"); client = load("run.json")   # or a snapshot

Importing `frugalbo.integrations.ax` registers our node, runner, metric and acquisitions with both stores.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.core.map_metric import MapMetric
from ax.core.runner import Runner
from ax.exceptions.core import AxError
from ax.storage.json_store.encoders import metric_to_dict, runner_to_dict
from ax.storage.json_store.registry import CORE_DECODER_REGISTRY, CORE_ENCODER_REGISTRY
from ax.storage.metric_registry import CORE_METRIC_REGISTRY
from ax.storage.runner_registry import CORE_RUNNER_REGISTRY
from ax.storage.utils import stable_hash
from ax.version import version as ax_version

from frugalbo.errors import MissingExtra, StorageError
from frugalbo.integrations.ax.node import FrugalNode
from frugalbo.integrations.ax.record import KEY

_READING = (AxError, KeyError, TypeError, ValueError, AttributeError)


def register_node() -> None:
    """Let Ax's stores save and load strategies with our node."""
    CORE_ENCODER_REGISTRY[FrugalNode] = _node_to_dict
    CORE_DECODER_REGISTRY[FrugalNode.__name__] = FrugalNode


def register_runner(runner: type[Runner]) -> None:
    """Let Ax's stores save and load experiments with a runner of ours."""
    CORE_ENCODER_REGISTRY[runner] = runner_to_dict
    CORE_DECODER_REGISTRY[runner.__name__] = runner
    CORE_RUNNER_REGISTRY[runner] = stable_hash(runner.__name__) % 10**5


def register_metric(metric: type[MapMetric]) -> None:
    """Let Ax's stores save and load experiments with a metric of ours."""
    CORE_ENCODER_REGISTRY[metric] = metric_to_dict
    CORE_DECODER_REGISTRY[metric.__name__] = metric
    CORE_METRIC_REGISTRY[metric] = stable_hash(metric.__name__) % 10**5


def sqlite(path: str | Path) -> StorageConfig:
    """Ax's storage in an SQLite file, which is made, with its tables, if it is not there.

    Ax has one database at a time in a process: the last that was opened.

    Raises:
        MissingExtra: If a package is lacking that Ax's SQL store needs.
        StorageError: If the file cannot be opened.
    """
    for package in ("sqlalchemy", "tabulate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(f"Ax's SQL store needs {package}: pip install 'frugalbo[ax]'")
    from ax.storage.sqa_store.db import create_all_tables, get_engine, init_engine_and_session_factory
    from sqlalchemy.exc import SQLAlchemyError

    url = f"sqlite:///{Path(path).absolute()}"
    try:
        init_engine_and_session_factory(url=url, force_init=True)
        create_all_tables(get_engine())
    except SQLAlchemyError as error:
        raise StorageError(f"cannot open {path} as a database of Ax {ax_version}: {error}") from error
    return StorageConfig(url=url)


def save(client: Client, path: str | Path) -> None:
    """Write a snapshot, whole or not at all; Ax's own `save_to_json_file` cuts the old one off first.

    Raises:
        StorageError: If it cannot be written; what was there before still is.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        client.save_to_json_file(str(partial))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (AxError, OSError, ValueError, TypeError) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot save the experiment to {path}: {error}") from error


def load(path: str | Path) -> Client:
    """The client that `save` or Ax wrote to a file, which is left as it is.

    Raises:
        StorageError: If it is no snapshot of a client that this version of Ax can read.
    """
    try:
        snapshot = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path} as a snapshot of an Ax client: {error}") from error
    written = _written_by(snapshot)
    with _reading(str(path), written):
        return Client.load_from_json_file(str(path))


def load_sqlite(path: str | Path, name: str) -> Client:
    """The client of the experiment of that name in a database.

    Raises:
        StorageError: If there is none that this version of Ax can read.
    """
    if not Path(path).is_file():
        raise StorageError(f"there is no database at {path}")
    config = sqlite(path)
    with _reading(f"experiment {name!r} in {path}", ""):
        return Client.load_from_database(name, storage_config=config)


@contextmanager
def _reading(what: str, written: str) -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (*_READING, SQLAlchemyError) as error:
        by = f"it was written by Ax {written}, and " if written and written != ax_version else ""
        raise StorageError(
            f"cannot load {what}: {by}this is Ax {ax_version} ({type(error).__name__}: {error}); nothing was changed"
        ) from error


def _written_by(snapshot: object) -> str:
    """The version of Ax that our record in the snapshot names; empty where none does."""
    found: object = snapshot
    for key in ("experiment", "properties", KEY, "ax"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _node_to_dict(node: FrugalNode) -> dict[str, object]:
    return {"__type": FrugalNode.__name__, **FrugalNode.serialize_init_args(node)}
