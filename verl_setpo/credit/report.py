"""All that `verl-setpo credit` finds, as plain JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from verl_setpo.credit.figures import Figures
from verl_setpo.credit.study import Study
from verl_setpo.credit.telling import Shown


def json_report(study: Study) -> dict[str, Any]:
    """summary: the figures of each estimator. prompts: each rollout's reward, strategy, advantages and credits."""
    return {
        "file": str(study.source.path),
        "understood": study.source.understood,
        "signal": study.signal,
        "skipped_lines": len(study.source.skipped),
        "summary": [
            {
                "estimator": choice.name,
                "coef": credited[0].coef,
                "set_size": credited[0].set_size,
                "run": choice.overrides(study.signal, study.signal_keys),
                **_figures(figures),
            }
            for (choice, credited), figures in zip(study.results, study.figures, strict=True)
        ],
        "sweeps": [
            {
                "estimator": swept.choice.name,
                "over": swept.key,
                "values": [
                    {swept.key: value, **_figures(figures), "sign_flips": figures.flips}
                    for value, figures in zip(swept.values, swept.figures, strict=True)
                ],
            }
            for swept in study.sweeps
        ],
        "warnings": [asdict(one) for one in study.warned],
        "prompts": [_prompt(study.prompts.shown(number)) for number in study.prompts.numbers],
    }


def _figures(figures: Figures) -> dict[str, Any]:
    plain = asdict(figures)
    for name in ("size", "credit_size", "rest_size", "flips"):
        del plain[name]
    return {"mean_advantage_size": figures.mean_size, "credit_share": figures.credit_share, **plain}


def _prompt(shown: Shown) -> dict[str, Any]:
    return {
        "number": shown.number,
        "prompt": shown.uid,
        "rewards": shown.rewards,
        "strategies": shown.labels,
        "advantages": shown.advantages,
        "credits": shown.credits,
    }
