"""Which row of verl's batch is which rollout of which prompt.

Rows arrive in completion order and are then balanced over ranks, so the rollouts of a prompt are scattered; a failed
session is absent; a session of a multi-turn agent may have several rows, of which the last one counts; and rows that
pad the batch belong to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Groups:
    """P prompts with at most N rollouts, and the B rows of the batch that they are in.

    uids: P prompt ids, in order of first appearance.
    sessions: for each prompt its session ids, ascending; a rollout's place in a group does not depend on row order.
    rows_PN: row of each rollout's last output; 0 where the mask is False.
    mask_PN: True where there is a rollout.
    place_B: index into the flattened (P, N) of the rollout that a row belongs to; -1 for padding.
    """

    uids: list[str]
    sessions: list[list[int]]
    rows_PN: torch.Tensor
    mask_PN: torch.Tensor
    place_B: torch.Tensor

    @classmethod
    def of(cls, keys: Sequence[str], tags: Sequence[dict[str, Any]]) -> Groups:
        """Read verl's keys `{uid}_{session}_{output}` and tags (`is_padding`), one per row."""
        last_row: dict[str, dict[int, tuple[int, int]]] = {}  # uid -> session -> (output, row)
        owner: list[tuple[str, int] | None] = []
        for row, (key, tag) in enumerate(zip(keys, tags, strict=True)):
            if tag.get("is_padding", False):
                owner.append(None)
                continue
            uid, session_text, output_text = key.rsplit("_", 2)
            session, output = int(session_text), int(output_text)
            owner.append((uid, session))
            sessions_of_uid = last_row.setdefault(uid, {})
            if session not in sessions_of_uid or sessions_of_uid[session][0] < output:
                sessions_of_uid[session] = (output, row)

        uids = list(last_row)
        sessions = [sorted(last_row[uid]) for uid in uids]
        width = max((len(ids) for ids in sessions), default=0)
        rows_PN = torch.zeros(len(uids), width, dtype=torch.long)
        mask_PN = torch.zeros(len(uids), width, dtype=torch.bool)
        place: dict[tuple[str, int], int] = {}
        for p, uid in enumerate(uids):
            for i, session in enumerate(sessions[p]):
                rows_PN[p, i] = last_row[uid][session][1]
                mask_PN[p, i] = True
                place[uid, session] = p * width + i
        place_B = torch.tensor([-1 if who is None else place[who] for who in owner], dtype=torch.long)
        return cls(uids, sessions, rows_PN, mask_PN, place_B)

    @property
    def sizes_P(self) -> torch.Tensor:
        return self.mask_PN.sum(-1)

    def gather(self, values_B: torch.Tensor) -> torch.Tensor:
        """(B, ...) to (P, N, ...): each rollout's value from the row of its last output; 0 where there is none."""
        values_PN = values_B[self.rows_PN]
        mask = self.mask_PN.view(*self.mask_PN.shape, *[1] * (values_PN.dim() - 2))
        return torch.where(mask, values_PN, torch.zeros_like(values_PN))

    def scatter(self, values_PN: torch.Tensor) -> torch.Tensor:
        """(P, N) to (B,): every row of a session gets its rollout's value; padding rows get 0."""
        values_B = values_PN.reshape(-1)[self.place_B.clamp(min=0)]
        return torch.where(self.place_B >= 0, values_B, torch.zeros_like(values_B))

    def members(self) -> list[list[int]]:
        """For each prompt the rows of its rollouts, in session order."""
        return [rows[mask].tolist() for rows, mask in zip(self.rows_PN, self.mask_PN, strict=True)]
