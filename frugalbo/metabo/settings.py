"""Settings of trainings, read from TOML, and what is refused of them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from frugalbo.errors import WeightsError


def read_settings(path: str | Path) -> dict[str, Any]:
    """What a file of TOML says.

    Raises:
        WeightsError: If the file is not that.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read a training from {str(path)!r}: {error}") from error


def refuse_unknown(kind: type[Any], given: Mapping[str, Any]) -> None:
    """Refuse settings that the dataclass `kind` does not have.

    Raises:
        WeightsError: If there are some.
    """
    known = {f.name for f in fields(kind)}
    if unknown := set(given) - known:
        raise WeightsError(f"unknown setting {min(unknown)!r}; expected some of {', '.join(sorted(known))}")


def require_positive(settings: object, names: Sequence[str]) -> None:
    """Refuse what is no number above 0.

    Raises:
        WeightsError: If one of `names` is not.
    """
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise WeightsError(f"expected {name} above 0, got {value!r}")
