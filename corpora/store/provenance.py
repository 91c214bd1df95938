"""Where a result comes from: the version of giza and of what it stands on, the command, the machine and the time."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PACKAGES = ("giza", "torch", "lightning", "numpy")
_ROOT = Path(__file__).parents[2]


def provenance() -> dict[str, Any]:
    """For a JSON summary."""
    return {
        "git": git_revision(),
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "argv": list(sys.argv),
        "host": socket.gethostname(),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def git_revision() -> str | None:
    """Commit of the checkout that giza runs from, "+" where files differ from it; None where it was installed."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
