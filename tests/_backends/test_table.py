"""The table itself: data that can be read, of names and limits that exist."""

import re

from atrous._backends import NAMES
from atrous._backends.table import TABLE


def test_rows_name_backends_and_cells():
    for row in TABLE:
        assert {row.forward, row.backward} <= set(NAMES["conv"])
        assert re.fullmatch(r"(\d+to\d+-)?\d+(x\d+)+-k\d+-d\d+(-s\d+)?", row.cell)
        for name in ("inputs", "outputs", "taps", "dilation", "stride", "pixels"):
            least, most = getattr(row, name)
            assert most is None or least <= most
