"""What partial learning curves say of the rest of them, jointly over configurations; see `docs/curves.md`."""

from frugalbo.models.curves.curve import PartialCurve, curves_of
from frugalbo.models.curves.model import CurveModel
from frugalbo.models.curves.posterior import CurvePosterior
from frugalbo.models.curves.schedule import schedule_progress

__all__ = ["CurveModel", "CurvePosterior", "PartialCurve", "curves_of", "schedule_progress"]
