"""How far an evaluation is, on a pipe and on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from verl_setpo.evaluate import progress
from verl_setpo.evaluate.progress import Meter


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_on_a_pipe_there_is_a_line_now_and_then_with_the_rate_and_the_time_left(clock):
    output = io.StringIO()
    with Meter(Console(file=output), "model [red]", total=50, done=10) as meter:
        clock.now += 500  # loading
        meter.begin()
        for _ in range(20):
            clock.now += 3
            meter.advance(tokens=6)
    assert output.getvalue().splitlines() == [
        "model [red]: 20 of 50 samples, 2 tokens/s, 90 s left",
        "model [red]: 30 of 50 samples, 2 tokens/s, 60 s left",
        "model [red]: 30 of 50 samples, 2 tokens/s, 60 s left",
    ]


def test_a_terminal_has_a_bar_with_the_rate():
    output = io.StringIO()
    with Meter(Console(file=output, force_terminal=True, width=100), "model", total=4, done=1) as meter:
        meter.begin()
        meter.advance(tokens=1000)
        assert meter._bar is not None
        meter._bar.refresh()
    assert "2/4" in output.getvalue()
    assert "tokens/s" in output.getvalue()
