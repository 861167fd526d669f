"""One report, from the directories of its runs to its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from verl_setpo.evaluation.comparison import Comparison, compare
from verl_setpo.evaluation.figure import save_figure
from verl_setpo.evaluation.formats import json_report, markdown_report
from verl_setpo.evaluation.report.content import build_content, content_json
from verl_setpo.evaluation.report.notes import notes_on_missing
from verl_setpo.evaluation.report.page import html_page, paired_table
from verl_setpo.evaluation.run_folders import RunFolder
from verl_setpo.evaluation.runs import Layout, read_run


class Written(NamedTuple):
    """What a report says, and its files."""

    comparison: Comparison | None  # None: no run has a validation
    notes: list[str]
    paths: list[Path]


def write_report(
    folders: Sequence[tuple[RunFolder, str]], layout: Layout, ks: Sequence[int] | None, out: Path
) -> Written:
    """Read the runs, each given with its label, compare them, and write report.html, .md, .json and .png into `out`.

    Where no run has a validation, report.html is the only file.

    Args:
        ks: of pass@k, as `compare` takes them.

    Raises:
        NothingInCommonError: the runs share no problem.
        OSError: a run has nothing to report, or a file cannot be read or written.
    """
    runs = [read_run(folder.path, label, layout, folder.is_evaluation) for folder, label in folders]
    comparison = compare(runs, ks) if any(run.validations for run in runs) else None
    content = build_content(runs, comparison)
    notes = [*(comparison.notes if comparison else ()), *content.notes, *notes_on_missing(runs)]
    out.mkdir(parents=True, exist_ok=True)
    page, text, data, figure = (out / f"report.{ending}" for ending in ("html", "md", "json", "png"))
    page.write_text(html_page(runs, comparison, content, notes), encoding="utf-8")
    if comparison is None:
        return Written(None, notes, [page])
    save_figure(comparison, figure)
    text.write_text(markdown_report(comparison, figure.name, notes, paired_table(content.paired)), encoding="utf-8")
    paths = [str(run.path) for run in runs if run.validations]
    values = json_report(comparison, paths, notes) | content_json(content)
    data.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return Written(comparison, notes, [page, text, data, figure])
