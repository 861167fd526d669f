"""What was measured of a judge: as tables and plain words for people, as JSON for programs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_setpo.evaluation.text import printable
from verl_setpo.signals.judge import JudgeSettings
from verl_setpo.signals.judge.quality import Group, PairCounts, Quality

PROMPTS_A_STEP = 128
INJECTION = "injection"
MOST_TAG_CHARS = 40

# Our rule of thumb, not the result of training runs. One pair in five may be wrong: a judge who puts all together
# has precision 0.31 on the groups of this package, and one who tells all apart recall 0.
LEAST_PRECISION = LEAST_RECALL = 0.8
# One pair in ten may hang on the order of the prompt. Whoever is right is steady too, so this is asked more of.
LEAST_STABILITY = 0.9
# A server that enforces response_format has no answer that breaks the schema; each one is paid for twice.
LEAST_PARSE_RATE = 1.0


@dataclass(frozen=True)
class Rule:
    """A figure that should be `least` or more, and what it means in a run when it is not."""

    figure: str
    value: float
    least: float
    meaning: str

    @property
    def broken(self) -> bool:
        """NaN, which was not measured, breaks no rule."""
        return self.value < self.least


@dataclass(frozen=True)
class Report:
    """What is known of a judge. causes: the first failure of each kind, in the words of the server."""

    settings: JudgeSettings
    groups_file: Path
    groups: Sequence[Group]
    quality: Quality
    causes: dict[str, str]

    @property
    def calls(self) -> int:
        return self.quality.groups * self.quality.shuffles

    @property
    def failed(self) -> int:
        return sum(self.quality.failed.values())

    @property
    def all_failed(self) -> bool:
        return self.failed == self.calls

    @property
    def tokens_a_step(self) -> float:
        """NaN where the server does not count tokens, which reads as 0."""
        return PROMPTS_A_STEP * self.quality.tokens if self.quality.tokens else math.nan

    def rules(self) -> list[Rule]:
        quality = self.quality
        injected = quality.by_tag.get(INJECTION, PairCounts())
        degenerate_precision, degenerate_recall = quality.degenerate
        return [
            Rule(
                "parse rate",
                quality.parse_rate,
                LEAST_PARSE_RATE,
                "answers that break the schema are paid for and asked for again: does the server enforce "
                "response_format, with a json_schema?",
            ),
            Rule(
                "precision",
                quality.pairs.precision,
                LEAST_PRECISION,
                "it puts different strategies together, so a run pays too little for diversity that is there",
            ),
            Rule(
                "recall",
                quality.pairs.recall,
                LEAST_RECALL,
                "it tells one strategy in other words apart, so a run pays for wording",
            ),
            Rule(
                "stability",
                quality.stability,
                LEAST_STABILITY,
                "its verdict hangs on the order of the responses, so a part of the credit is chance",
            ),
            Rule(
                "degenerate precision",
                degenerate_precision,
                LEAST_PRECISION,
                "it takes solutions for degenerate, which a run does not pay for",
            ),
            Rule(
                "degenerate recall",
                degenerate_recall,
                LEAST_RECALL,
                "it finds a strategy in texts without one, so a run pays for gibberish",
            ),
            Rule(
                "precision under injection",
                injected.precision,
                LEAST_PRECISION,
                "responses that address the judge change what it puts together",
            ),
            Rule(
                "recall under injection",
                injected.recall,
                LEAST_RECALL,
                "responses that ask the judge for a cluster of their own get it, and a run learns to ask",
            ),
        ]

    def findings(self) -> list[str]:
        """What is bad, each in one sentence."""
        lines = [
            f"{rule.figure} {rule.value:.3f} is below {rule.least:g}: {rule.meaning}."
            for rule in self.rules()
            if rule.broken
        ]
        if self.failed:
            lines.append(
                f"{self.failed} of {self.calls} calls gave no verdict: in a run such a group trains on its base "
                "advantage, and too many end the run."
            )
        return lines

    def print(self, console: Console) -> None:
        urls = ", ".join(self.settings.urls)
        counts = f"{self.quality.groups} x {self.quality.shuffles} = {self.calls} calls"
        _say(console, f"{self.settings.model} at {urls}: groups x shuffles = {counts}")
        console.print(self._figures())
        console.print(self._tags())
        for kind, cause in self.causes.items():
            _say(console, f"{kind}, {self.quality.failed.get(kind, 0)} calls, the first: {cause}")
        _say(console, self._cost())
        findings = self.findings()
        if not findings:
            _say(console, "Nothing measured here is bad by our rule of thumb.")
            return
        _say(console, "What is bad, by our rule of thumb:")
        for finding in findings:
            _say(console, f"- {finding}")

    def _figures(self) -> Table:
        quality = self.quality
        table = Table("figure", "value", "what it is")
        for name, value, meaning in (
            ("pairwise precision", quality.pairs.precision, "pairs put together that belong together"),
            ("pairwise recall", quality.pairs.recall, "pairs that belong together, put together"),
            ("stability", quality.stability, "pairs judged the same in another order"),
            ("parse rate", quality.parse_rate, "answers that hold to the schema"),
            ("degenerate precision", quality.degenerate[0], "called degenerate that are"),
            ("degenerate recall", quality.degenerate[1], "degenerate that are called so"),
        ):
            table.add_row(name, _share(value), meaning)
        table.add_row("tokens a call", _number(quality.tokens or math.nan, ",.0f"), "prompt and answer")
        table.add_row(
            "seconds a call", _number(quality.seconds, ".2f"), f"with up to {self.settings.concurrency} at once"
        )
        table.add_row("failed calls", f"{self.failed} of {self.calls}", "in no other figure but the parse rate")
        return table

    def _tags(self) -> Table:
        table = Table("tag", "groups", "precision (pairs)", "recall (pairs)")
        for tag, count in Counter(group.tag for group in self.groups).items():
            pairs = self.quality.by_tag.get(tag, PairCounts())
            name = printable(tag if len(tag) <= MOST_TAG_CHARS else tag[:MOST_TAG_CHARS] + "...")
            table.add_row(
                Text(name or "(no tag)"),  # a str in a table is markup
                str(count),
                f"{_share(pairs.precision)} ({pairs.both}/{pairs.both + pairs.only_found})",
                f"{_share(pairs.recall)} ({pairs.both}/{pairs.both + pairs.only_known})",
            )
        return table

    def _cost(self) -> str:
        if math.isnan(self.tokens_a_step):
            return "Cost of a run: not known, since no tokens were counted."
        responses = sum(len(group.responses) for group in self.groups) / len(self.groups)
        return (
            f"Estimate: {PROMPTS_A_STEP} prompts a step are {self.tokens_a_step:,.0f} tokens a step, if their groups "
            f"were like these, of {responses:.1f} short responses. Longer ones, and more of them, cost more."
        )

    def json(self) -> dict[str, object]:
        """All figures; null for what was not measured."""
        quality = self.quality
        precision, recall = quality.degenerate
        return {
            "model": self.settings.model,
            "base_url": self.settings.urls,
            "groups_file": str(self.groups_file),
            "groups": quality.groups,
            "shuffles": quality.shuffles,
            "pairs": _json_pairs(quality.pairs),
            "by_tag": {tag: _json_pairs(pairs) for tag, pairs in quality.by_tag.items()},
            "degenerate": {"precision": _json_number(precision), "recall": _json_number(recall)},
            "stability": _json_number(quality.stability),
            "parse_rate": _json_number(quality.parse_rate),
            "tokens": _json_number(quality.tokens),
            "seconds": _json_number(quality.seconds),
            "failed": quality.failed,
            "causes": self.causes,
            f"tokens_a_step_of_{PROMPTS_A_STEP}_prompts": _json_number(self.tokens_a_step),
            "findings": self.findings(),
        }


def _say(console: Console, text: str) -> None:
    """One line, of which nothing is markup or moves a cursor: servers and files may have written it."""
    console.print(printable(text), markup=False, emoji=False, soft_wrap=True)


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _share(value: float) -> str:
    return _number(value, ".3f")


def _json_pairs(pairs: PairCounts) -> dict[str, float | None]:
    return {
        "precision": _json_number(pairs.precision),
        "recall": _json_number(pairs.recall),
        **asdict(pairs),
    }


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value
