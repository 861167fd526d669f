"""What may change from step to step: a schedule over training, and the weight of diversity that finds itself."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Schedule(BaseModel):
    """A number over training: from `start` in step 1 to `end` in step `steps`, and `end` from then on.

    linear is a straight line, cosine half a cosine (slow at both ends); constant is `start` throughout.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["constant", "linear", "cosine"]
    start: float = Field(allow_inf_nan=False)
    end: float | None = Field(default=None, allow_inf_nan=False)
    # From 2, so that start and end are not due in the same step.
    steps: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Schedule:
        given = [key for key in ("end", "steps") if getattr(self, key) is not None]
        if self.schedule == "constant" and given:
            raise ValueError(f"schedule=constant has only a start: remove {' and '.join(given)}, or set linear")
        if self.schedule != "constant" and len(given) < 2:
            missing = [key for key in ("end", "steps") if key not in given]
            raise ValueError(f"schedule={self.schedule} needs {' and '.join(missing)} as well")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last value, between which all others lie."""
        return self.start, self.start if self.end is None else self.end

    def at(self, step: int) -> float:
        """The value in a training step; verl counts steps from 1. Exactly `start` and `end` at the two ends."""
        if self.end is None or self.steps is None:
            return self.start
        done = min(max((step - 1) / (self.steps - 1), 0.0), 1.0)
        if self.schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        # Rounding errors must not leave the ends: 0 is no weight at all, and the set sizes between them were checked.
        return min(max((1 - done) * self.start + done * self.end, min(self.ends)), max(self.ends))

    def __str__(self) -> str:
        if self.end is None:
            return f"constant {self.start:g}"
        return f"{self.schedule} {self.start:g} to {self.end:g} in {self.steps} steps"


DECAY = 0.95
"""Of the running means of `AutoCoef`: they look back over about 1 / (1 - 0.95) = 20 batches, long against the noise of
one batch and short against the hundreds of steps in which rewards and diversity drift."""


class RunningMeans(BaseModel):
    """What `AutoCoef` has seen, as a checkpoint keeps it.

    credit, rest: means of |s| and |rest| over past batches, both non-negative.
    weight: total weight of those batches, 1 - DECAY**batches; 0 before the first, when the means are 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    credit: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    rest: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    weight: float = Field(default=0.0, ge=0, le=1)

    def after(self, credit: float, rest: float) -> RunningMeans:
        """The means with one more batch, each an average of all batches that weighs recent ones more.

        The first batch has weight 1, not 1 - DECAY, so nothing pulls the means towards 0 (bias correction).
        """
        weight = DECAY * self.weight + (1 - DECAY)
        new = (1 - DECAY) / weight
        return RunningMeans(
            credit=(1 - new) * self.credit + new * credit, rest=(1 - new) * self.rest + new * rest, weight=weight
        )


class AutoCoef:
    """Chooses coef so that diversity holds `target_share` of the advantage's size, as `set_rl/credit_share` measures.

    With s the credit at coef 1 and rest the other part of the advantage, a share t = E|coef s| / (E|coef s| + E|rest|)
    needs coef = t / (1 - t) * E|rest| / E|s|. Both expectations are running means over batches, so coef is slow.
    """

    def __init__(self, target_share: float, max_coef: float) -> None:
        """target_share in (0, 1). max_coef > 0 bounds coef where groups agree and E|s| goes to 0."""
        self.target_share, self.max_coef = target_share, max_coef
        self.means = RunningMeans()

    @property
    def coef(self) -> float:
        """In [0, max_coef]; 0 as long as no diversity was seen at all, since there is nothing to scale."""
        if self.means.credit == 0:
            return 0.0
        odds = self.target_share / (1 - self.target_share)
        return min(odds * self.means.rest / self.means.credit, self.max_coef)

    def update(self, credit: float, rest: float) -> float:
        """Take in a batch's mean |s| and mean |rest|, and return the coef for that batch.

        Of an empty batch (whose means are NaN) or one that is not finite, nothing is taken in.
        """
        if math.isfinite(credit) and math.isfinite(rest):
            self.means = self.means.after(credit, rest)
        return self.coef

    def state_dict(self) -> dict[str, float]:
        """The running means, as plain numbers."""
        return self.means.model_dump()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from `state_dict()`. Raises ValueError, and changes nothing, where `state` is no such thing."""
        try:
            means = RunningMeans.model_validate(state)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(" ".join([*map(str, first["loc"]), first["msg"]])) from None
        if means.model_fields_set != set(RunningMeans.model_fields):
            raise ValueError(f"it should have {', '.join(RunningMeans.model_fields)}")
        self.means = means
