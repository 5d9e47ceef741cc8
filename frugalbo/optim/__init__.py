"""FRUGAL, the optimizer, and UBA, the learning-rate schedule; needs torch alone."""

from frugalbo.optim.frugal import Frugal
from frugalbo.optim.groups import param_groups
from frugalbo.optim.memory import (
    LLAMA,
    LlamaShape,
    StateBytes,
    measure_state_bytes,
    paper_state_bytes,
    predict_state_bytes,
    predict_state_bytes_from_shapes,
)
from frugalbo.optim.uba import UBA, uba_factor

__all__ = [
    "LLAMA",
    "UBA",
    "Frugal",
    "LlamaShape",
    "StateBytes",
    "measure_state_bytes",
    "paper_state_bytes",
    "param_groups",
    "predict_state_bytes",
    "predict_state_bytes_from_shapes",
    "uba_factor",
]
