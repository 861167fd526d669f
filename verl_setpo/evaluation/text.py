"""Text from outside (labels, paths) made safe to print."""

from __future__ import annotations

import re


def printable(text: object) -> str:
    """`text` with every character that could move a cursor, change colours or reverse the line escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def markdown(text: object) -> str:
    """`text` as literal Markdown: neither table, emphasis, link nor HTML."""
    return re.sub(r"([\\`*_\[\]<>|~&$!#])", r"\\\1", printable(text))
