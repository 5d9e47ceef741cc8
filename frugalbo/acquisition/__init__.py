"""BoTorch acquisition functions that BoTorch lacks: what an improvement is worth at its price."""

import frugalbo.models  # noqa: F401 - imports linear_operator without its warning
