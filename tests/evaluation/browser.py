"""A real headless Chromium for the tests of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = "VERL_SETPO_CHROMIUM"
"""Environment variable with the path of a Chromium or Chrome; else the system's, else what playwright installed."""

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def executable() -> str | None:
    """The browser to start; None: playwright's own, which raises with the command that installs it."""
    if CHROMIUM in os.environ:
        return os.environ[CHROMIUM]
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@dataclass
class Opened:
    """A page, and what went wrong or left the machine meanwhile."""

    page: Any
    complaints: list[str] = field(default_factory=list)  # console errors and warnings, uncaught exceptions
    requests: list[str] = field(default_factory=list)  # but for the page itself


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Opened]:
    """Open a page offline; `options` are playwright's for a context, `viewport` and `color_scheme` say."""
    context = browser.new_context(offline=True, **{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    result = Opened(page)
    url = path.resolve().as_uri()
    page.on("console", lambda message: message.type in ("error", "warning") and result.complaints.append(message.text))
    page.on("pageerror", lambda error: result.complaints.append(str(error)))
    page.on("request", lambda request: request.url != url and result.requests.append(request.url))
    page.goto(url)
    page.wait_for_function("document.documentElement.dataset.ready === 'true'", timeout=60_000)
    try:
        yield result
    finally:
        context.close()
