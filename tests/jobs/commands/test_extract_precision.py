"""Extraction in half the precision: nearly the same latents, in a folder that says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.clips.parts import read_footer
from jobs.benchmarks.extract import random_model
from jobs.commands.extract import ExtractConfig, run
from lapa.latents import Latents
from lapa.recipes import RECIPES
from tests.builders.corpora import write_corpus
from tests.builders.latents import assert_same_rows, parts, rows


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> ExtractConfig:
    folder = tmp_path_factory.mktemp("precision")
    model = replace(RECIPES["debug"].model, spatial_depth=3)
    random_model(model, folder / "lam", 0)
    corpus = write_corpus(folder / "corpus", tuple(range(4)))
    config = ExtractConfig(
        lam=folder / "lam", corpus=corpus, out=folder / "whole", gap_s=0.5, part_frames=40, device="cpu"
    )
    run(config)
    return config


def test_bfloat16_moves_latents_by_a_fraction_of_their_spread(asked: ExtractConfig, tmp_path: Path):
    run(replace(asked, out=tmp_path / "half", precision="bfloat16"))
    whole, half = (np.array([row["latent"] for row in rows(out)]) for out in (asked.out, tmp_path / "half"))
    moved = np.sqrt(((half - whole) ** 2).mean() / whole.var(0).mean())
    assert 0 < moved < 0.2
    codes = [np.array([row["codes"] for row in rows(out)]) for out in (asked.out, tmp_path / "half")]
    equal = (codes[0] == codes[1]).mean()
    assert equal > 0.9
    summary = json.loads((tmp_path / "half" / "_extract.json").read_text())
    assert summary["precision"] == "bfloat16"
    told = summary["rounding"]
    assert told["latent_moved"] == pytest.approx(moved, rel=0.3)
    assert told["codes_equal"] == pytest.approx(equal, abs=0.05)
    assert Latents(tmp_path / "half").key.precision == "bfloat16"


def test_a_folder_holds_one_precision(asked: ExtractConfig):
    with pytest.raises(ValueError, match="precision"):
        run(replace(asked, precision="bfloat16"))


def test_a_folder_from_before_there_were_two_goes_on(asked: ExtractConfig, tmp_path: Path):
    """It says nothing of precision, as those in float32 still do."""
    out = tmp_path / "out"
    run(replace(asked, out=out))
    first, *_, last = (out / name for name in sorted(parts(out)))
    assert "precision" not in read_footer(first).record["key"]
    assert json.loads((out / "_extract.json").read_text())["precision"] == "float32"
    (out / "_extract.json").unlink()
    last.unlink()
    assert run(replace(asked, out=out))["pairs_this_run"] < len(rows(out))
    assert_same_rows(rows(asked.out), rows(out))


def test_compiled_latents_are_the_same_and_a_compiler_that_lacks_is_told_in_a_line(
    asked: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part: compile_(part, backend="eager"))
    assert run(replace(asked, out=tmp_path / "compiled", compile=True))["compile"]
    plain, compiled = rows(asked.out), rows(tmp_path / "compiled")
    assert [row["codes"] for row in plain] == [row["codes"] for row in compiled]
    np.testing.assert_allclose([row["latent"] for row in plain], [row["latent"] for row in compiled], atol=1e-5)

    def fails(graph: torch.fx.GraphModule, inputs: object) -> None:
        raise RuntimeError("no compiler")

    torch._dynamo.reset()
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part: compile_(part, backend=fails))
    with pytest.raises(ValueError, match=r"^--compile: torch.compile failed \(.*no compiler\); leave the flag out"):
        run(replace(asked, out=tmp_path / "failed", compile=True))
    torch._dynamo.reset()
