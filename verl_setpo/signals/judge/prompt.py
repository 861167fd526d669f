"""The judge's prompt: criteria from a template, problem and responses quoted so that nothing in them can get out.

Responses are written by the policy that is rewarded by this judge, so they are hostile input. Each is one JSON string
on one line, under an id that is drawn anew for each call and occurs in no response. Characters that cannot be seen and
the beginnings of chat and tool markers are written as \\uXXXX, as JSON escapes others: `json.loads` gives back the very
text, while no tokenizer finds a special token in it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import jinja2.meta

BUILTIN_TEMPLATE = Path(__file__).with_name("judge.jinja")
REQUIRED = frozenset({"question", "solutions"})
VARIABLES = REQUIRED | {"count", "degenerate_cluster", "max_strategy_chars"}

_ID_LETTERS = "bcdfghjkmnpqrstvwxz"  # no vowels, so no words; nothing that looks like a digit
_ID_LENGTH = 4

# Where the special tokens of today's chat templates begin: <|...|>, </s>, <tool_call>, <<SYS>>; [INST], [/INST],
# [gMASK], [|user|]; ]~b], [e~[. A comparison (x < 3, x<3, x<=y) and an interval ([0,1]) stay as they are.
_OPENERS = r"<(?![\s\d=])|\[(?=\||/?[A-Za-z_]{2,}\])|[\[\]](?=~|[a-z]~)"
# Printable by Unicode, yet not to be seen, or part of special tokens: joiners, fillers, variation selectors, the
# full-width forms and the mark that SentencePiece writes for a space.
_HIDDEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2581\u3164\ufe00-\ufe0f\uff00-\uffef\U000e0100-\U000e01ef]"
)


@dataclass(frozen=True)
class Prompt:
    """Chat messages, and the id of each response in the order of the prompt: ids[k] belongs to responses[order[k]]."""

    messages: list[dict[str, str]]
    ids: tuple[str, ...]
    order: tuple[int, ...]


class Quoter:
    """Writes any text as a JSON string of printable characters on one line, without special tokens.

    special_tokens: those of the judge's tokenizer, where it is known, besides the usual ones.
    """

    def __init__(self, special_tokens: Iterable[str] = ()) -> None:
        known = sorted({token for token in special_tokens if len(token) > 1 and token.strip()})
        lookaheads = [f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in known]
        self._openers = re.compile("|".join([_OPENERS, *lookaheads]))

    def __call__(self, text: str) -> str:
        """`json.loads` of the result is `text`."""
        parts, end = [], 0
        for match in self._openers.finditer(text):
            parts += [_quote(text[end : match.start()]), _escape(match.group())]
            end = match.end()
        return '"' + "".join([*parts, _quote(text[end:])]) + '"'

    def line(self, name: str, text: str) -> str:
        """One response as it stands in the prompt."""
        return f'{{"id": "{name}", "solution": {self(text)}}}'


def _quote(text: str) -> str:
    literal = json.dumps(text, ensure_ascii=False)[1:-1]
    if literal.isascii() and literal.isprintable():
        return literal
    # Letters of all scripts stay: a small judge reads them, not their numbers.
    literal = literal if literal.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in literal)
    return _HIDDEN.sub(lambda match: _escape(match.group()), literal)


def _escape(char: str) -> str:
    """\\uXXXX, as a surrogate pair beyond the first plane."""
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def draw_ids(count: int, texts: Sequence[str], rng: random.Random) -> list[str]:
    """`count` different short names, none of which occurs in `texts`."""
    together = "\n".join(texts)
    ids: dict[str, None] = {}
    tries = 0
    while len(ids) < count:
        tries += 1
        name = "".join(rng.choices(_ID_LETTERS, k=_ID_LENGTH + tries // (4 * count + 64)))
        if name not in together:
            ids[name] = None
    return list(ids)


class PromptTemplate:
    """A jinja2 template with the blocks `user` and, if it has one, `system`; without blocks all of it is the user's.

    ValueError, naming the key `template`, for one that cannot be read or leaves out the problem or the solutions.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        where = f"template={path}" if path is not None else "the built-in template"
        try:
            self.source = Path(path or BUILTIN_TEMPLATE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where} cannot be read: {error}") from None
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)
        try:
            used = jinja2.meta.find_undeclared_variables(environment.parse(self.source))
            self._template = environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise ValueError(f"{where} is not a jinja2 template: {error}") from None
        if used - VARIABLES or REQUIRED - used:
            wrong = f"uses {sorted(used - VARIABLES)}" if used - VARIABLES else f"leaves out {sorted(REQUIRED - used)}"
            raise ValueError(
                f"{where} {wrong}; its variables are {sorted(VARIABLES)}, of which {sorted(REQUIRED)} must be"
            )

    def render(
        self,
        question: str,
        responses: Sequence[str],
        rng: random.Random,
        *,
        quoter: Quoter,
        degenerate_cluster: int = 100,
        max_strategy_chars: int = 200,
    ) -> Prompt:
        """The prompt for `responses`, shuffled and named by `rng`."""
        order = rng.sample(range(len(responses)), len(responses))
        ids = draw_ids(len(responses), [question, *responses], rng)
        variables = {
            "question": quoter(question),
            "solutions": [quoter.line(name, responses[i]) for name, i in zip(ids, order, strict=True)],
            "count": len(responses),
            "degenerate_cluster": degenerate_cluster,
            "max_strategy_chars": max_strategy_chars,
        }
        return Prompt(self._messages(variables), tuple(ids), tuple(order))

    def _messages(self, variables: dict[str, object]) -> list[dict[str, str]]:
        blocks = self._template.blocks
        if not {"system", "user"} & set(blocks):
            return [{"role": "user", "content": self._template.render(variables)}]
        context = self._template.new_context(variables)
        return [
            {"role": role, "content": "".join(blocks[role](context))} for role in ("system", "user") if role in blocks
        ]
