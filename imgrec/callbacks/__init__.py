"""When things happen; what happens is in the room that owns it."""

from imgrec.callbacks.metrics_logger import MetricsLogger
from imgrec.callbacks.monitors import MonitorCheck
from imgrec.callbacks.progress import EpochProgress
from imgrec.callbacks.recorder import RunRecorder
from imgrec.callbacks.seeding import PositionalSeeding

__all__ = ["EpochProgress", "MetricsLogger", "MonitorCheck", "PositionalSeeding", "RunRecorder"]
