"""Chromium, driven by Playwright. Most of its calls wait for ever, out of a time-out's reach: where it takes too long, its
processes are killed, and what waits for them fails."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

CHROMIUM = os.environ.get("GIZA_CHROMIUM") or shutil.which("chromium")
NEEDED = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt install chromium)")]


@contextmanager
def chromium(limit_s: float = 120.0) -> Iterator[Any]:
    """A browser of Playwright's synchronous API, for at most so long. Skips without Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
    before = set(psutil.Process().children())
    with sync_api.sync_playwright() as playwright:
        drivers = set(psutil.Process().children()) - before
        late = threading.Timer(limit_s, _kill, (drivers,))
        late.start()
        try:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=1000 * limit_s
            )
            yield browser
            browser.close()
        finally:
            late.cancel()


def _kill(drivers: set[psutil.Process]) -> None:
    for process in [child for driver in drivers for child in driver.children(recursive=True)]:
        process.kill()
