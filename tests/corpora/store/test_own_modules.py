"""A module of the user's own registers what jobs, and the processes that they start, then know by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from lapa.model.config import QuantiserConfig
from lapa.model.kinds import QUANTISERS


def test_a_quantiser_of_ones_own_is_known_where_the_environment_names_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from lapa.model.quantisers import NoBottleneck, register\nregister('of_my_own', NoBottleneck)\n"
    (tmp_path / "my_quantiser.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match="quantiser.kind 'of_my_own': choose one of .* in a module that GIZA_MODULES names"
    ):
        QuantiserConfig(kind="of_my_own")
    monkeypatch.setenv("GIZA_MODULES", " my_quantiser,")
    monkeypatch.setattr(QUANTISERS, "_registered", {})
    assert QuantiserConfig(kind="of_my_own").kind == "of_my_own"


def test_a_module_that_cannot_be_imported_stops_every_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIZA_MODULES", "no_such_module")
    assert main(["ingest", "--help"]) == 2
    assert (
        "GIZA_MODULES names 'no_such_module', which cannot be imported (ModuleNotFoundError" in capsys.readouterr().err
    )
