"""Stores that are folders: what fsspec finds behind a scheme, without a server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry


class StandIn(LocalFileSystem):
    """URL standin://A/B is the path /A/B, in every process that imports this module."""

    scheme, root = "standin", ""
    protocol = ("standin",)

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, str) and path.startswith(f"{cls.scheme}://"):
            path = f"{cls.root}/{path.partition('://')[2]}"
        return super()._strip_protocol(path)

    def info(self, path: Any, **options: Any) -> dict[str, Any]:
        """With what the store itself says of a file."""
        return self.told(super().info(path, **options))

    def told(self, facts: dict[str, Any]) -> dict[str, Any]:
        return facts


class StandInGcs(StandIn):
    """Times as texts, and a digest."""

    def told(self, facts: dict[str, Any]) -> dict[str, Any]:
        digest = _digest(facts)
        return {name: facts[name] for name in ("name", "size", "type")} | {
            "updated": "2026-01-02T03:04:05.678Z",
            "md5Hash": digest,
        }


class StandInHub(StandIn):
    """No times: a file is known by its blob."""

    def told(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {name: facts[name] for name in ("name", "size", "type")} | {"blob_id": _digest(facts)}


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.md5(Path(facts["name"]).read_bytes()).hexdigest() if facts["type"] == "file" else ""


def stand_in(patch: pytest.MonkeyPatch, scheme: str, root: Path) -> None:
    """gs:// or hf:// is this folder, in this process."""
    kind = type("_StandIn", ({"gs": StandInGcs, "hf": StandInHub}[scheme],), {"scheme": scheme, "root": str(root)})
    patch.setitem(_registry, scheme, kind)


fsspec.register_implementation("standin", StandIn, clobber=True)
