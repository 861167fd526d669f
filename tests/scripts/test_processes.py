"""Commands of the scripts leave nothing behind, however they end."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from processes import CommandFailed, run

CHILD_STAYS = "sleep 300 & echo $! > child; "


def child_of(folder: Path) -> bool:
    """Whether the command's child still runs."""
    return os.path.exists(f"/proc/{(folder / 'child').read_text().strip()}/exe")


@pytest.mark.parametrize(
    ("end", "limit_s", "said"),
    [
        ("echo first; echo why >&2; exit 3", None, "sh ended with status 3, see {log}: first / why"),
        (
            "echo '  ray.exceptions.OutOfMemoryError: killed'; echo 'pid rss'; echo 'Set this.'; exit 1",
            None,
            "sh ended with status 1, see {log}: ray.exceptions.OutOfMemoryError: killed",
        ),
        ("echo busy; sleep 300", 0.5, "sh took more than 0.5 s, see {log}: busy"),
    ],
)
def test_a_command_that_fails_or_takes_too_long_says_so_and_ends_with_its_children(
    tmp_path, monkeypatch, end, limit_s, said
):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "logs" / "log"
    with pytest.raises(CommandFailed, match=f"^{re.escape(said.format(log=log))}$"):
        run(["sh", "-c", CHILD_STAYS + end], log, limit_s=limit_s)
    assert not child_of(tmp_path)


def test_a_command_that_succeeds_has_its_output_and_ends_with_its_children(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(["sh", "-c", CHILD_STAYS + "echo $WORD"], tmp_path / "log", {**os.environ, "WORD": "done"}, limit_s=60)
    assert (tmp_path / "log").read_text() == "done\n"
    assert not child_of(tmp_path)
