"""Find the final answer in a response. Linear time, no evaluation, and no string makes it raise."""

import re

_BRACES = re.compile(r"\\boxed\{|\{|\}")


def last_tagged(text: str, tag: str = "answer") -> tuple[int, str] | None:
    """The last complete `<tag>...</tag>`: (position of its content, its content), or None."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    start = text.rfind(opening, 0, max(text.rfind(closing), 0))
    if start < 0:
        return None
    start += len(opening)
    return start, text[start : text.find(closing, start)]


def last_boxed(text: str) -> tuple[int, str] | None:
    r"""The complete `\boxed{...}` that opens last: (position of its content, its content), or None.

    One pass with a stack, so a hundred thousand open braces cost no more than other text.
    """
    last: tuple[int, int] | None = None
    open_braces: list[tuple[int, bool]] = []
    for match in _BRACES.finditer(text):
        if match[0] != "}":
            open_braces.append((match.end(), match[0] != "{"))
        elif open_braces:
            start, boxed = open_braces.pop()
            if boxed and (last is None or start > last[0]):
                last = start, match.start()
    return None if last is None else (last[0], text[last[0] : last[1]])


def final_answer(text: str) -> str | None:
    r"""The content of the last `<answer>...</answer>` or `\boxed{...}`, the innermost where they nest, or None."""
    found = [answer for answer in (last_tagged(text), last_boxed(text)) if answer is not None]
    return max(found)[1] if found else None
