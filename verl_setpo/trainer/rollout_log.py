"""One JSON line per rollout, for the questions that averages do not answer."""

from __future__ import annotations

import json
import os
from typing import Any

from verl_setpo.trainer.metrics import StepReport


def rollout_rows(report: StepReport, extras: list[dict[str, Any]], global_step: int) -> list[dict[str, Any]]:
    """Rows in order of prompt and session. `extras` has one dict per row of the batch: answer, length, truncated,
    prompt_index and key, under which verl's `trainer.rollout_data_dir` holds the texts."""
    step = report.step
    rows = []
    for p, (uid, sessions, members) in enumerate(
        zip(step.groups.uids, step.groups.sessions, step.groups.members(), strict=True)
    ):
        for i, (session, row) in enumerate(zip(sessions, members, strict=True)):
            rows.append(
                {
                    "step": global_step,
                    "uid": uid,
                    "session": session,
                    **extras[row],
                    "reward": round(step.rewards_PN[p, i].item(), 6),
                    "cluster": None if report.failed_P[p] else int(report.clusters_PN[p, i]),
                    **({} if step.signal.notes is None else {"strategy": step.signal.notes[p][i]}),
                    "credit": None if step.credit_PN is None else round(step.credit_PN[p, i].item(), 6),
                    "base_advantage": round(step.base_PN[p, i].item(), 6),
                    "advantage": round(report.advantage_PN[p, i].item(), 6),
                    "has_signal": bool(step.usable_P[p]),
                }
            )
    return rows


def _plain(value: Any) -> Any:
    """A data set's own index may be of numpy."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def write_rollout_log(directory: str, rows: list[dict[str, Any]], global_step: int, again: bool) -> None:
    """Write `<directory>/<global_step>.jsonl`, or append to it if this run wrote to it before (`again`).

    What an earlier run left there, before a resume from an older step, is not this run's. One write call, so that a
    killed run leaves whole lines.
    """
    os.makedirs(directory, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=True, default=_plain) + "\n" for row in rows)
    with open(os.path.join(directory, f"{global_step}.jsonl"), "a" if again else "w", encoding="ascii") as file:
        file.write(lines)
