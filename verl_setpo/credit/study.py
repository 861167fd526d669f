"""From a file and what is asked about it to everything that is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_setpo.credit import advice
from verl_setpo.credit.asked import Asked, check_keys, chosen, sweeps_of
from verl_setpo.credit.chunks import Chunk, chunks_of, degenerate, one_reward
from verl_setpo.credit.figures import Figures, figures_of
from verl_setpo.credit.layout import Layout
from verl_setpo.credit.methods import Choice
from verl_setpo.credit.options import in_options
from verl_setpo.credit.reading import Source, pick_file, read_source
from verl_setpo.credit.reward_range import check_rewards
from verl_setpo.credit.signal import (
    CLUSTERS,
    Tokenize,
    blank,
    check_signal,
    choose_signal,
    collect,
    needs_text,
    parse_keys,
    words,
)
from verl_setpo.credit.sweep import Sweep, sweep
from verl_setpo.credit.telling import Prompts
from verl_setpo.credit.trainer import Bench, Credited
from verl_setpo.evaluation.text import printable
from verl_setpo.signals import SignalBatch, signal_class
from verl_setpo.signals.store.signal import StoreSignal

UNIT_RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Study:
    """What was found. results: each choice with what it gives each chunk; figures: one a choice."""

    source: Source
    signal: str
    signal_keys: dict[str, Any]
    signal_text: str
    notes: list[str]
    results: list[tuple[Choice, list[Credited]]]
    figures: list[Figures]
    sweeps: list[Sweep]
    prompts: Prompts
    warned: list[advice.Warned]

    def find_prompt(self, which: str) -> int:
        """The number of a prompt by its uid or its number. Raises ValueError where there is none."""
        for group in self.source.groups:
            if group.uid == which:
                return group.number
        if which.isascii() and which.isdigit() and len(which) < 19 and int(which) in self.prompts.numbers:
            return int(which)
        last = self.prompts.numbers[-1]
        raise ValueError(f"--prompt {which[:80]} is neither a uid of the file nor a number from 0 to {last}: give one.")


def study(asked: Asked) -> Study:
    """Read, ask the signal, and compute.

    Raises:
        ValueError: one sentence for what cannot be done, before anything is paid for where that can be known.
    """
    keys = parse_keys(asked.signal_arguments)
    named = asked.signal if asked.signal is not None or "field" not in keys else "answer"
    if named not in (None, CLUSTERS):
        try:
            signal_class(named)
        except ValueError as error:
            raise ValueError(in_options(str(error))) from None
    path = pick_file(asked.path, asked.step)

    def read(name: str | None) -> Source:
        def whole(layout: Layout) -> bool:
            return needs_text(name, layout.cluster is not None, layout.answer is not None)

        return read_source(path, whole, extra=keys.get("field"), limit=asked.limit)

    source = read(named)
    signal = named or choose_signal(source)
    if named is None and signal == "ngram":
        source = read(signal)  # its columns of clusters and answers were empty, and the texts were cut
    check_signal(signal, keys, source)
    if asked.tokenizer is not None and signal in (CLUSTERS, "answer", "judge", "embedding"):
        raise ValueError(f"--tokenizer is not for the signal {signal}, which has no tokens: leave it out.")
    # The file's clusters stand where a run asks a judge or compares answers.
    signal_keys = {"name": "answer"} if signal == CLUSTERS else {**keys, "name": signal}
    provides = signal_class(str(signal_keys["name"])).provides

    chunks = chunks_of(source.groups)
    rollouts = max(chunk.size for chunk in chunks)
    choices, notes = chosen(asked, signal, provides, rollouts)
    rows = sweeps_of(asked, choices, signal, provides)
    low, high = asked.keys.get("reward_range", UNIT_RANGE)
    check_keys(rollouts, choices, rows, signal_keys)
    if any("reward_range" in choice.reads for choice in choices):
        check_rewards(source, low, high)
    if signal != CLUSTERS and issubclass(signal_class(signal), StoreSignal):
        _rehearse(chunks, [*choices, *(choice for row, _ in rows for choice in row)], provides, signal_keys)

    tokenize = words() if signal == "ngram" and asked.tokenizer is None else _tokenizer(asked.tokenizer)
    batches = collect(signal, keys, chunks, tokenize)
    failed, cause = _failures(batches)
    if failed == len(source.groups):
        raise ValueError(f"The signal {signal} has nothing to say of any prompt ({cause}): name another with --signal.")

    bench = Bench(chunks, batches, signal_keys)
    results = [(choice, bench.credit(choice)) for choice in choices]
    figures = [figures_of(bench, credited, (low, high)) for _, credited in results]
    sweeps = [sweep(bench, row, key, (low, high)) for row, key in rows]
    return Study(
        source=source,
        signal=signal,
        signal_keys=keys,
        signal_text=_in_words(signal, keys, asked.tokenizer),
        notes=notes,
        results=results,
        figures=figures,
        sweeps=sweeps,
        prompts=Prompts(chunks, batches, results, (low, high), own_clusters=signal == CLUSTERS),
        warned=_warned(signal, bench, results, figures, sweeps, failed, cause),
    )


def _rehearse(chunks: Sequence[Chunk], choices: Sequence[Choice], provides: str, signal_keys: dict[str, Any]) -> None:
    """What would stop a run in its first step, before calls are paid for."""
    bench = Bench(chunks, [blank(chunk, provides) for chunk in chunks], signal_keys)
    for choice in choices:
        bench.credit(choice)


def _tokenizer(name: str | None) -> Tokenize:
    """A model's tokenizer; None: no tokens, for signals that look at none."""
    if name is None:
        return lambda text: []
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the library raises many kinds
        raise ValueError(
            f"--tokenizer {printable(name)} cannot be loaded ({type(error).__name__}): name a model's folder."
        ) from None
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def _failures(batches: Sequence[SignalBatch]) -> tuple[int, str]:
    """How many prompts have no signal, and the first cause."""
    causes = [cause for batch in batches for cause in batch.failures if cause is not None]
    return len(causes), printable(causes[0])[:300] if causes else ""


def _in_words(signal: str, keys: Mapping[str, Any], tokenizer: str | None) -> str:
    if signal == CLUSTERS:
        return "clusters of the file"
    if signal == "ngram" and tokenizer is None:
        return "ngram, of words and marks (a run's are of the model's tokens: --tokenizer)"
    # Not base_url and the like, which may hold a key.
    shown = [f"{key}={keys[key]}" for key in ("equal", "field", "n", "model", "part") if key in keys]
    return ", ".join([signal, *shown])


def _warned(
    signal: str,
    bench: Bench,
    results: Sequence[tuple[Choice, list[Credited]]],
    figures: Sequence[Figures],
    sweeps: Sequence[Sweep],
    failed: int,
    cause: str,
) -> list[advice.Warned]:
    prompts = sum(len(chunk.groups) for chunk in bench.chunks)
    dead = alone = 0
    for chunk, alike_P in zip(bench.chunks, bench.alike, strict=True):
        if chunk.size == 1:
            alone += len(chunk.groups)
        else:
            dead += int((one_reward(chunk) & alike_P).sum())
    if failed == 0 and all(degenerate(batch) for batch in bench.signals):
        # What else is said of one strategy throughout would send people after the wrong cause.
        return [advice.no_answer(signal, sum(chunk.rewards_PN.numel() for chunk in bench.chunks))]
    warned = list(advice.of_rollouts(prompts, dead, alone, failed, cause))
    for (choice, credited), one in zip(results, figures, strict=True):
        warned += advice.of_estimator(choice, one, credited[0].coef, credited[0].set_size)
    for swept in sweeps:
        warned += advice.of_sweep(swept)
    return warned
