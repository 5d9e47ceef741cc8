"""Weights on the disk: a state dict, the network's sizes and how they were made, as JSON, and past studies.

Files are loaded with `weights_only=True`, so a foreign one cannot run anything.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frugalbo.errors import WeightsError
from frugalbo.metabo.past import PastStudies
from frugalbo.metabo.universal import Universal, UniversalShape

FORMAT = "frugalbo.metabo.universal/1"
PAST_FORMAT = "frugalbo.metabo.past/1"
SHIPPED = files("frugalbo.metabo") / "universal.pt"
SHIPPED_PAST = files("frugalbo.metabo") / "xgboost.pt"
# What torch.load raises of files that are something else, or were cut short.
_BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a file holds.

    Args:
        network: Ready to answer.
        past: Earlier studies, of any spaces.
        made: How the network was made, as JSON types.
        base: The network before it was fine-tuned, if it was.
    """

    network: Universal
    past: tuple[PastStudies, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)
    base: Universal | None = None


def save(
    path: str | Path,
    network: Universal,
    made: Mapping[str, Any],
    past: Sequence[PastStudies] = (),
    base: Universal | None = None,
) -> None:
    """Write weights beside their place, then put them there.

    Args:
        path: Where to.
        network: Whose weights.
        made: How they were made, as plain JSON types.
        past: Earlier studies that go with them.
        base: The network before it was fine-tuned.
    """
    shape = json.dumps(asdict(network.shape))
    record = {"format": FORMAT, "shape": shape, "made": json.dumps(made), "state": _state(network)}
    before = {} if base is None else {"base": _state(base)}
    write(path, {**record, "past": [studies.to_record() for studies in past], **before})


def _state(network: Universal) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}


def write(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record of tensors and plain types so that the file is there as a whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        torch.save(dict(record), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load(path: str | Path) -> Knowledge:
    """What a file of weights holds.

    Raises:
        WeightsError: If there is no such file, or it holds no weights of this network.
    """
    record = read(path, FORMAT)
    try:
        networks = [_network(record, name) for name in ("state", "base") if name in record or name == "state"]
        made = json.loads(record["made"])
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"the weights in {str(path)!r} do not fit their network: {error}") from error
    if not all(all_numbers(network) for network in networks):
        raise WeightsError(f"the weights in {str(path)!r} are not all numbers")
    past = tuple(PastStudies.of_record(studies) for studies in record.get("past", ()))
    return Knowledge(networks[0], past, made, *networks[1:])


def _network(record: Mapping[str, Any], name: str) -> Universal:
    network = Universal(UniversalShape(**json.loads(record["shape"])))
    network.load_state_dict(record[name])
    return network.eval().requires_grad_(False)


def all_numbers(network: nn.Module) -> bool:
    """Whether no weight is infinite or undefined."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())


def read(path: str | Path, form: str) -> dict[str, Any]:
    """The record that `write` wrote, if it is of that format.

    Raises:
        WeightsError: If it is not.
    """
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot read weights: {error}") from error
    except _BROKEN as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"expected {str(path)!r} to be a file of {form}, got something else: {first}") from error
    if not isinstance(record, dict) or record.get("format") != form:
        came = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise WeightsError(f"expected {str(path)!r} to be a file of {form}, got {came!r}")
    return record


@cache
def known(path: str = "") -> Knowledge:
    """What a file holds, read once; by default what ships: a network, and what the tables of XGBoost say."""
    if path:
        return load(path)
    held, past = load(str(SHIPPED)), read(str(SHIPPED_PAST), PAST_FORMAT)["past"]
    return Knowledge(held.network, tuple(PastStudies.of_record(studies) for studies in past), held.made)


def shipped() -> Universal:
    """The network with the weights that come with this package."""
    return known().network
