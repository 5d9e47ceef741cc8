"""Constructors that return BoTorch models of what a trial will reach, and whether it will run at all.

`docs/models.md` shows each of them in a few lines.
"""

import warnings

with warnings.catch_warnings():
    # It compiles a function at import, by a way that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
    import linear_operator  # noqa: F401
