"""What of the figures a user should act on before a run, each in one sentence with what to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from verl_setpo.credit.figures import Figures
from verl_setpo.credit.methods import Choice
from verl_setpo.credit.sweep import Sweep
from verl_setpo.trainer.schedule import AutoCoef

MUCH, LITTLE = 0.5, 0.02
"""Credit shares above which diversity outweighs correctness, and below which it changes next to nothing."""
NONE = 1e-6
"""Credit share below which there is rounding alone."""
FEW_FLIPS = 0.01
"""Share of rollouts below which the table alone tells of changed signs."""
TARGET_SHARE = 0.3
"""The share that a coef is suggested for; README.md calls it a place to start."""
MAX_COEF = 100.0


@dataclass(frozen=True)
class Warned:
    """kind: a word for scripts. estimator: None where it is about the rollouts alone. count: prompts or rollouts."""

    kind: str
    estimator: str | None
    count: int
    message: str


def coef_for(choice: Choice, figures: Figures, coef: float | None) -> float | None:
    """The coef that gives `TARGET_SHARE` on these rollouts, as `coef=auto` finds it; None where none does."""
    if not coef or not figures.credit_size or not figures.rest_size:
        return None
    found = AutoCoef(TARGET_SHARE, MAX_COEF).update(figures.credit_size / coef, figures.rest_size)
    return found if found < MAX_COEF else None


def no_answer(signal: str, rollouts: int) -> Warned:
    """The warning where no rollout has a cluster, so that nothing is to be compared."""
    alike = "so that all are alike to every method"
    if signal == "answer":
        message = (
            f"no answer was found in any of {rollouts} rollouts, {alike}: add a column answer (or pred), mark answers "
            "in the texts as \\boxed{...}, or choose --signal ngram."
        )
    else:
        message = f"by {signal} all of {rollouts} rollouts are degenerate, {alike}: choose another --signal."
    return Warned("no_answer", None, rollouts, message)


def of_rollouts(prompts: int, dead: int, alone: int, failed: int, cause: str) -> Iterator[Warned]:
    """Warnings about the rollouts themselves.

    Args:
        dead: prompts whose rollouts have one reward and one strategy. alone: prompts with one rollout. failed: prompts
            without a signal; cause: of the first of them.
    """
    if alone:
        yield Warned(
            "one_rollout",
            None,
            alone,
            f"{alone} of {prompts} prompts have one rollout, whose bare reward verl's GRPO takes for its advantage, as "
            "there is nothing to compare it with: generate more rollouts.",
        )
    if dead:
        yield Warned(
            "no_signal",
            None,
            dead,
            f"{dead} of {prompts} prompts have one reward and one strategy throughout, and teach nothing under any "
            "method: use harder or other prompts, more rollouts, or a higher temperature.",
        )
    if failed:
        yield Warned(
            "signal_failed",
            None,
            failed,
            f"{failed} of {prompts} prompts have no signal and keep their base advantage ({cause[:200]}): mend the "
            "signal, or name another with --signal.",
        )


def of_estimator(choice: Choice, figures: Figures, coef: float | None, set_size: int | None) -> Iterator[Warned]:
    """Warnings about one estimator. coef, set_size: in force, None for an estimator without one."""
    if choice.group is None:
        return
    name, weaker = choice.name, _weaker(choice, set_size)

    def warned(kind: str, count: int, message: str) -> Warned:
        return Warned(kind, name, count, f"{name}: {message}")

    if figures.vanished_prompts:
        cure = f"try another {'--set-size (--sweep-set-size)' if choice.by_set_size else '--coef'}"
        if figures.vanished_alike == figures.vanished_prompts:
            cure = "their rollouts are all of one strategy, so add --no-zero-single-cluster, or check the signal"
        yield warned(
            "vanished",
            figures.vanished_prompts,
            f"in {figures.vanished_prompts} of {figures.prompts} prompts every advantage is 0 though the rewards "
            f"differ: {cure}.",
        )
    if figures.inverted_prompts:
        yield warned(
            "inverted",
            figures.inverted_prompts,
            f"in {figures.inverted_prompts} of {figures.mixed_prompts} prompts with correct and wrong rollouts the "
            f"wrong ones get more than the correct ones: {weaker}.",
        )
    against = {
        "correct": (figures.correct_negative_mixed, "a negative advantage, for being common"),
        "wrong": (figures.wrong_positive_mixed, "a positive advantage, for being rare"),
    }
    parts = [f"{count} {kind} {_one(count)} {what}" for kind, (count, what) in against.items() if count]
    if parts:
        yield warned(
            "against_reward",
            sum(count for count, _ in against.values()),
            f"in prompts with correct and wrong rollouts, {', and '.join(parts)}: if that is too many, {weaker}.",
        )
    if figures.paid_wrong and choice.by_coef:
        yield warned(
            "paid_for_being_wrong",
            figures.paid_wrong,
            f"{figures.paid_wrong} of {figures.wrong} wrong rollouts have a positive advantage in prompts without any "
            "correct one, for being rare, at whatever coef: if that is unwanted, drop such prompts in the run "
            "(algorithm.filter_groups), or take poly_epo.",
        )
    yield from _of_share(choice, figures, coef, weaker)
    if figures.too_small:
        size = "the method" if set_size is None else f"--set-size {set_size}"
        smaller = set_size is not None and set_size > choice.smallest_set
        yield warned(
            "too_small",
            figures.too_small,
            f"{figures.too_small} of {figures.prompts} prompts have too few rollouts for {size} and keep their base "
            f"advantage: generate more rollouts{', or lower --set-size' if smaller else ''}.",
        )
    if figures.left_out:
        yield warned(
            "left_out",
            figures.left_out,
            f"{figures.left_out} of {figures.rollouts} rollouts are in no drawn set and get no advantage: raise "
            "--num-sets, or leave it out.",
        )


def _of_share(choice: Choice, figures: Figures, coef: float | None, weaker: str) -> Iterator[Warned]:
    if figures.too_small + figures.failed == figures.prompts:
        return
    share, better = figures.credit_share, coef_for(choice, figures, coef)
    hint = "" if better is None else f", such as to {better:.2g} for a share of {TARGET_SHARE} on these rollouts"
    # Of another objective the credit is all that sets it apart from the mean reward, correctness included.
    if share > MUCH and (choice.by_coef or choice.group == "poly_epo"):
        yield Warned(
            "outweighs",
            choice.name,
            figures.prompts,
            f"{choice.name}: diversity outweighs correctness, with a credit share of {share:.2f}: {weaker}{hint}.",
        )
    elif choice.by_coef and coef and share < NONE:
        yield Warned(
            "no_credit",
            choice.name,
            figures.prompts,
            f"{choice.name}: diversity changes nothing at any --coef, as to this signal the rollouts of a prompt are "
            "all alike or all different: choose another --signal, or other prompts.",
        )
    elif (
        share < LITTLE and figures.size > 0 and choice.by_coef and figures.too_small + figures.failed < figures.prompts
    ):
        yield Warned(
            "changes_nothing",
            choice.name,
            figures.prompts,
            f"{choice.name}: --coef {coef:g} changes next to nothing, with a credit share of {share:.2g}: "
            f"raise --coef{hint}.",
        )


def _one(count: int) -> str:
    return "rollout has" if count == 1 else "rollouts have"


def _weaker(choice: Choice, set_size: int | None) -> str:
    """What brings the method closer to its base."""
    if choice.by_coef:
        return "lower --coef"
    ways = ["lower --set-size"] if set_size is not None and set_size > choice.smallest_set else []
    if "zero_single_cluster" in choice.reads and choice.keys.get("zero_single_cluster", True):
        # Where most rollouts agree, what a rare one adds is mostly that its sets are worth something at all.
        ways.append("add --no-zero-single-cluster")
    return f"{' and '.join(ways)}, towards GRPO" if ways else "take grpo"


def of_sweep(swept: Sweep) -> Iterator[Warned]:
    """Warnings about what a key does over its values."""
    name, option = swept.choice.name, f"--{swept.key.replace('_', '-')}"
    flips = [(figures.flips, value) for figures, value in zip(swept.figures, swept.values, strict=True)]
    most, where = max(flips)
    if most >= FEW_FLIPS * swept.figures[0].rollouts:
        yield Warned(
            "sign_flips",
            name,
            most,
            f"{name}: from {option} {swept.values[0]:g} to {where:g}, {most} of {swept.figures[0].rollouts} rollouts "
            f"change the sign of their advantage: choose {option} by what each does to correct and wrong rollouts.",
        )
    gone = [f"{v:g}" for f, v in zip(swept.figures, swept.values, strict=True) if f.vanished_prompts]
    if gone:
        most = max(figures.vanished_prompts for figures in swept.figures)
        yield Warned(
            "vanished_in_sweep",
            name,
            most,
            f"{name}: at {option} {', '.join(gone)} {'a prompt has' if most == 1 else f'up to {most} prompts have'} "
            f"advantages of 0 throughout though rewards differ: choose another {option}.",
        )
