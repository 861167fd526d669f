"""What the rollouts of a file are judged by: its own clusters, or a signal as a run would ask it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from verl_setpo.credit.chunks import Chunk
from verl_setpo.credit.layout import DEGENERATE
from verl_setpo.credit.reading import Group, Source
from verl_setpo.signals import Rollout, Run, SignalBatch, build_signal, collect_safely
from verl_setpo.signals.store.settings import PREFIX
from verl_setpo.signals.store.shard import Reply
from verl_setpo.signals.store.signal import StoreSignal
from verl_setpo.signals.store.usage import SignalError

CLUSTERS = "clusters"
"""The name under which the file's own clusters stand where a run would name a signal."""
OF_TEXTS = ("ngram", "judge", "embedding")
Tokenize = Callable[[str], list[int]]


def parse_keys(arguments: Sequence[str]) -> dict[str, Any]:
    """The signal's keys of arguments KEY=VALUE, as they stand on verl's command line.

    Raises:
        ValueError: names the first argument that is none; shows no value, which may be an API key.
    """
    plain = [argument.lstrip("+").removeprefix(PREFIX) for argument in arguments]
    for number, argument in enumerate(plain, start=1):
        if not re.fullmatch(r"[A-Za-z_][\w.]*=.*", argument, flags=re.DOTALL):
            raise ValueError(f"Argument {number} after FILE is not KEY=VALUE, a key of the signal such as equal=math.")
    try:
        keys = OmegaConf.to_container(OmegaConf.from_dotlist(plain), resolve=True)
    except (OmegaConfBaseException, YAMLError):
        raise ValueError("The KEY=VALUE arguments after FILE cannot be read: quote their values.") from None
    assert isinstance(keys, dict)
    return {str(key): value for key, value in keys.items()}


def choose_signal(source: Source) -> str:
    """The file's clusters if it has them, else its answers, else its texts.

    Raises:
        ValueError: it has nothing to compare.
    """
    rollouts = [rollout for group in source.groups for rollout in group.rollouts]
    if any(rollout.cluster is not None for rollout in rollouts):
        return CLUSTERS
    if any(rollout.answer for rollout in rollouts):
        return "answer"
    if any(rollout.text for rollout in rollouts):
        return "ngram"
    raise ValueError(
        f"{source.path.name} has nothing to compare rollouts by: add a column cluster, answer (or pred), or text "
        "(or output, response)."
    )


def check_signal(name: str, keys: dict[str, Any], source: Source) -> None:
    """Raise ValueError where the file lacks what the signal looks at, or nobody could be asked."""
    if name == CLUSTERS and keys:
        raise ValueError(
            f"{next(iter(keys))} is a key of a signal, and the file's own clusters have none: add --signal."
        )
    if keys.get("kind") == "reward_model":
        raise ValueError(
            "algorithm.set_rl.signal.kind=reward_model is a server that a run starts for itself: give base_url and "
            "model of one that runs."
        )
    layout = source.layout
    if name == CLUSTERS and layout.cluster is None:
        raise ValueError(f"--signal clusters needs a column cluster, which {source.path.name} has not: choose another.")
    if name in OF_TEXTS and layout.text is None:
        raise ValueError(
            f"--signal {name} needs the texts, which {source.path.name} has not: add a column text, or choose another."
        )
    if name == "judge" and layout.question is None:
        raise ValueError(
            f"--signal judge needs the questions, which {source.path.name} has not: add a column prompt beside uid."
        )


def collect(name: str, keys: dict[str, Any], chunks: Sequence[Chunk], tokenize: Tokenize) -> list[SignalBatch]:
    """The signal of each chunk; a group that it fails for has the cause.

    Raises:
        ValueError: a wrong key, or a judge or embedder that cannot be asked at all; one sentence.
    """
    if name == CLUSTERS:
        return [_own_clusters(chunk.groups) for chunk in chunks]
    signal = build_signal(name, keys)
    groups = [[_rollouts(group, tokenize) for group in chunk.groups] for chunk in chunks]
    if isinstance(signal, StoreSignal):
        return asyncio.run(_ask(signal, groups))
    try:
        masks = [torch.ones_like(chunk.rewards_PN, dtype=torch.bool) for chunk in chunks]
        return [collect_safely(signal, some, mask_PN) for some, mask_PN in zip(groups, masks, strict=True)]
    finally:
        signal.close()


def words() -> Tokenize:
    """Words and marks as tokens, numbered as they come, for n-grams where there is no tokenizer."""
    numbers: dict[str, int] = {}

    def tokenize(text: str) -> list[int]:
        return [numbers.setdefault(word, len(numbers)) for word in re.findall(r"\w+|[^\w\s]", text)]

    return tokenize


def _own_clusters(groups: Sequence[Group]) -> SignalBatch:
    clusters: list[list[int]] = []
    failures: list[str | None] = []
    for group in groups:
        labels: dict[str, int] = {}
        named = [DEGENERATE if r.cluster is None else r.cluster for r in group.rollouts]
        clusters.append([-1 if label == DEGENERATE else labels.setdefault(label, len(labels)) for label in named])
        has_one = any(rollout.cluster is not None for rollout in group.rollouts)
        failures.append(None if has_one else "the file has no cluster for it")
    return SignalBatch(clusters_PN=torch.tensor(clusters), failures=tuple(failures))


def _rollouts(group: Group, tokenize: Tokenize) -> list[Rollout]:
    """As a signal sees them in a run."""
    return [
        Rollout(
            uid=group.uid,
            session=session,
            token_ids=torch.tensor(tokenize(rollout.text), dtype=torch.int64),
            answer=rollout.answer or "",
            text=partial(str, rollout.text),
            question=group.question,
            group_size=len(group.rollouts),
            reward_extra_info=rollout.extra,
        )
        for session, rollout in enumerate(group.rollouts)
    ]


async def _ask(signal: StoreSignal, chunks: Sequence[Sequence[Sequence[Rollout]]]) -> list[SignalBatch]:
    """Ask a judge or an embedder as an actor of the store does, in this process."""
    work = signal._work(Run(name="credit"), 1)()

    async def reply(group: Sequence[Rollout]) -> Reply:
        texts = [signal._text(rollout) for rollout in group]
        # As the store does: a judge gets the group, an embedder each response.
        calls = [texts] if work.whole_group else [[text] for text in texts]
        try:
            parts = await asyncio.gather(*(work.run(group[0].question, call) for call in calls))
        except Exception as error:
            return Reply(None, SignalError.of(error))
        return Reply([result for part in parts for result in part])

    try:
        try:
            await work.check()
        except Exception as error:
            raise ValueError(SignalError.of(error).message) from None
        replies = [await asyncio.gather(*(reply(group) for group in groups)) for groups in chunks]
    finally:
        await work.close()
    return [signal._batch(groups, some) for groups, some in zip(chunks, replies, strict=True)]


def blank(chunk: Chunk, provides: str) -> SignalBatch:
    """A signal by which no two rollouts are alike, to try keys and rewards before calls are paid for."""
    nobody = (None,) * len(chunk.groups)
    if provides == "kernel":
        return SignalBatch(kernel_PNN=torch.eye(chunk.size).repeat(len(chunk.groups), 1, 1), failures=nobody)
    return SignalBatch(clusters_PN=torch.arange(chunk.size).repeat(len(chunk.groups), 1), failures=nobody)


def needs_text(name: str | None, has_cluster: bool, has_answer: bool) -> bool:
    """Whether the texts are looked at as a whole; name None: the choice is by what the file has."""
    if name is None:
        return not (has_cluster or has_answer)
    return name not in (CLUSTERS, "answer")
