"""What a network reads: the exact footprint of its outputs on its input."""

from atrous.footprint.axis import Taps
from atrous.footprint.call import Call
from atrous.footprint.footprint import Footprint
from atrous.footprint.graph import Edge, Node
from atrous.footprint.rules import rule
from atrous.footprint.trace import trace_footprint

__all__ = ["Call", "Edge", "Footprint", "Node", "Taps", "rule", "trace_footprint"]
