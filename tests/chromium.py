"""A real browser for the tests of reports: Chromium, driven by Playwright, with nothing let out and nothing overheard.

The fixtures skip where there is no Chromium (`make browser` installs one where it can) or no Playwright.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OURS = "willReadFrequently"
"""Chromium's advice to the tests, which look at the pixels of a canvas again and again."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra dev: pip install -e '.[dev]'")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium here: make browser installs one as root, or apt-get install chromium")
    # The sandbox of Chromium refuses to run as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens a file; at the end, the console was silent and nothing but this file was asked for."""
    contexts, heard, asked = [], [], set()

    def open_(path: Path, **options: Any) -> Any:
        options = {"viewport": {"width": 1280, "height": 900}} | options
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: heard.append(f"{message.type}: {message.text}") if OURS not in message.text else None,
        )
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.add(request.url.split("#")[0]))
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
        page.goto(path.as_uri())
        page.heard, page.asked = heard, asked
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not heard
    assert len(asked) == len([url for url in asked if url.startswith("file:") and url.endswith(".html")]) <= 1
