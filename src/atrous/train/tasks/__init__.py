"""What a network is trained for: one class for each task."""

from atrous.train.tasks.classify import Classify
from atrous.train.tasks.regress import Regress
from atrous.train.tasks.restore import Restore
from atrous.train.tasks.segment import Segment
from atrous.train.tasks.task import Task

__all__ = ["Classify", "Regress", "Restore", "Segment", "Task"]
