"""On `PYTHONPATH`, this lets the wall clock of a process jump by the seconds in the file that `CHAOS_CLOCK` names.

Stamps of files do not jump with it, as those of a file server would not.
"""

import os
import time

_real = time.time
_path = os.environ.get("CHAOS_CLOCK")


def _jumping() -> float:
    try:
        with open(str(_path)) as file:  # noqa: PTH123 - called often
            return _real() + float(file.read() or 0)
    except (OSError, ValueError):
        return _real()


if _path:
    time.time = _jumping
