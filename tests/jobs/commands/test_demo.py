"""The demo's folder belongs to one demo."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.commands import demo, extract, ingest, report, train_lam


def test_a_demo_is_done_once_and_its_folder_takes_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    card = SimpleNamespace(verdicts={body: SimpleNamespace(text=body.upper()) for body in ("hand", "arm")})

    def job(name: str) -> Any:
        return lambda config: ran.append(name) or card

    for module in (ingest, train_lam, extract, report):
        monkeypatch.setattr(module, "run", job(module.__name__.rpartition(".")[2]))
    config = demo.DemoConfig(out=tmp_path / "demo", steps=2)
    summary = demo.run(config)
    assert ran == ["ingest", "train_lam", "extract", "report"]
    kept = json.loads((config.out / "demo.json").read_text())
    assert set(kept) == {"seconds", "verdicts", "config", "provenance"}
    assert kept["verdicts"] == {"hand": "HAND", "arm": "ARM"}
    assert demo.run(config)["seconds"] == summary["seconds"] and len(ran) == 4
    with pytest.raises(ValueError, match="holds a run with other settings"):
        demo.run(demo.DemoConfig(out=config.out, steps=2, seed=1))
