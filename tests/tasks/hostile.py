"""Texts that break careless parsers: long, deeply nested, or not quite text."""

import time
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

# No deadline: wall time says little on a busy machine.
patient = settings(deadline=None)

SIZE = 100_000
# CPU seconds for one call on about 100 KB. A quadratic parser needs minutes.
TIME_LIMIT = 2.0

HOSTILE_TEXTS = {
    "empty": "",
    "huge number": "9" * SIZE,
    "huge numbers in a pair": f"({'9' * 50_000},{'9' * 50_000})",
    "boxed huge pair": f"\\boxed{{({'1' * SIZE}, 2)}}",
    "zeros": f"({'0' * SIZE}1,2)",
    "open braces": "{" * SIZE,
    "closing braces": "}" * SIZE,
    "open boxes": "\\boxed{" * (SIZE // 7),
    "nested boxes": "\\boxed{" * (SIZE // 8) + "}" * (SIZE // 8),
    "boxes side by side": "\\boxed{(1,2)}" * (SIZE // 13),
    "a box around open braces": "\\boxed{" + "{" * SIZE,
    "open tags": "<answer>" * (SIZE // 8),
    "closing tags": "</answer>" * (SIZE // 9),
    "closing tags, then open tags": "</answer>" * 5000 + "<answer>" * 5000,
    "nested tags": "<answer>" * 5000 + "</answer>" * 5000,
    "pairs": "(1,2)" * (SIZE // 5),
    "open brackets": "(" * SIZE,
    "brackets and numbers": "(1" * (SIZE // 2),
    "a bracket and spaces": "(" + " " * SIZE,
    "a number and spaces": "(1" + " " * SIZE + ",",
    "commas": "(1," * (SIZE // 3),
    "spaces": " " * SIZE,
    "minus signs": "-" * SIZE,
    "plus signs": "1" + "+1" * (SIZE // 2),
    "powers": "9**9**9**9**9",
    "nested brackets": "(" * 5000 + "1" + ")" * 5000,
    "deep tagged brackets": f"<answer>{'(' * 100}1{')' * 100}</answer>",
    "deep tagged minus": f"<answer>{'-' * 200}1</answer>",
    "code": "<answer>__import__('os').abort()</answer>",
    "equals": "<answer>" + "=" * SIZE + "</answer>",
    "NULs": "\0" * SIZE,
    "NUL in a pair": "(1\0,2)",
    "lone surrogates": "(1,\ud800 2)\udfff",
    "Arabic digits": "(\u0661,\u0661\u0661)",
    "full-width digits": "(\uff11,\uff11\uff11)",
    "superscript digits": "<answer>3\u00b2+5</answer>",
    "underscores": "(1_0,1_1)",
    "unicode minus": "(\u22121,5)",
    "no-break space": "(1,\u00a011)",
    "byte order mark": "\ufeff(1,11)",
}

# Any text, and texts made of the pieces that the parsers look for.
any_text = st.text(st.characters(), max_size=200)  # st.characters() includes lone surrogates
pieces = ["\\boxed{", "{", "}", "<answer>", "</answer>", "(", ")", ",", "+", "-", "*", "/", "=", " ", "1", "07", "\0"]
parser_text = st.lists(st.sampled_from(pieces), max_size=40).map("".join)


def cpu_seconds(call: Callable[[], Any]) -> float:
    """The CPU time of this thread in `call`: other processes on a busy machine do not count."""
    start = time.thread_time()
    call()
    return time.thread_time() - start
