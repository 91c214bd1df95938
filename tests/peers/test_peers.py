"""Other people's trainers read what `giza export` writes, and heads in their layout give what their code gives: `make peers`. Each
runs in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from lapa.exporting.rows import latents_by_clip
from lapa.latents import Latents
from tests.builders.corpora import write_corpus
from tests.builders.datasets import lerobot_v2
from tests.builders.exports import converted, exported, with_images
from tests.builders.foreign import measured_latents
from tests.builders.groot_head import LAYOUTS, Shown, expected, of_layout, off
from vla.published_heads import load_head

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]
HERE = Path(__file__).parent
PEERS = Path(os.environ.get("GIZA_PEERS", "not-there"))
LEROBOT = PEERS / "lerobot" / "bin" / "python"
CHUNKS = HERE.parent / "vla" / "fixtures" / "groot_n1_7_chunks.safetensors"
GROOT = sorted(PEERS.glob("groot-*"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("made")
    corpus = write_corpus(root / "corpus", (1, 2, 3, 5, 6), truth=True)
    return corpus, measured_latents(root / "latents", corpus)


def told_by(script: str, *args: str | Path) -> dict[str, Any]:
    if not LEROBOT.is_file():
        pytest.skip(f"no lerobot in GIZA_PEERS ({PEERS}): make peers")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [LEROBOT, HERE / script, *args], capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stdout.splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("policy", ["act", "diffusion"])
def test_lerobot_trains_on_latents(made: tuple[Path, Path], tmp_path: Path, policy: str) -> None:
    out = exported(tmp_path / "latents-v3", *made)
    told = told_by("lerobot_peer.py", out, "--policy", policy)
    first = next(latents_by_clip(Latents(made[1]), "latent"))
    assert (told["version"], told["episodes"], told["actions"], told["action"]) == ("v3.0", 4, ["action"], [8])
    np.testing.assert_allclose(told["first_action"], first.vector[0], rtol=1e-6)
    assert {"q01", "q10", "q50", "q90", "q99"} <= set(told["stats"]) and len(told["losses"]) == 3


def test_lerobot_converts_our_v21_and_trains_on_it(made: tuple[Path, Path], tmp_path: Path) -> None:
    out = exported(tmp_path / "latents-v21", *made, format="lerobot-v2.1")
    told = told_by("lerobot_peer.py", out, "--convert")
    assert (told["version"], told["episodes"], told["action"]) == ("v3.0", 4, [8])


@pytest.mark.parametrize("build", [lerobot_v2, with_images])
def test_lerobot_trains_on_a_robots_dataset_from_v21_and_from_images(tmp_path: Path, build: Any) -> None:
    source = build(tmp_path / "source")
    out = converted(tmp_path / "robot-v3", source, "lerobot-v3")
    told = told_by("lerobot_peer.py", out, "--steps", "2")
    assert (told["episodes"], told["rows"], told["actions"], told["action"]) == (2, 75, ["action"], [2])
    assert told["tasks"] == ["pick the cup", "place the cup"]
    back = converted(tmp_path / "robot-v21", out, "lerobot-v2.1")
    again = told_by("lerobot_peer.py", shutil.copytree(back, tmp_path / "robot-again"), "--convert", "--steps", "1")
    assert (again["rows"], again["first_action"]) == (75, told["first_action"])


@pytest.mark.parametrize("checkout", GROOT or [None], ids=[path.name for path in GROOT] or ["none"])
def test_groot_reads_the_export(made: tuple[Path, Path], tmp_path: Path, checkout: Path | None) -> None:
    if checkout is None:
        pytest.skip(f"no checkout of Isaac-GR00T in GIZA_PEERS ({PEERS}): PEERS/groot-n1.5, PEERS/groot-n1.7, ...")
    out = exported(tmp_path / "groot", *made, format="gr00t")
    before = (out / "meta" / "stats.json").read_bytes()
    told = told_by("groot_peer.py", checkout, out)
    rows = sum(pq.read_metadata(path).num_rows for path in (out / "data").rglob("*.parquet"))
    assert (told["rows"], told["episodes"]) == (rows, 4)
    wanted = json.loads(before)["action"]["q01"]
    np.testing.assert_allclose(told["q01"]["action"], wanted, rtol=1e-6)
    assert (out / "meta" / "stats.json").read_bytes() == before  # N1.5 writes its own where it cannot use them


def test_openpi_reads_the_export(made: tuple[Path, Path], tmp_path: Path) -> None:
    checkout = PEERS / "openpi"
    if not checkout.is_dir():
        pytest.skip(f"no checkout of openpi in GIZA_PEERS ({PEERS}): src/, packages/ and site/ (see openpi_peer.py)")
    out = exported(tmp_path / "latents-v21", *made, format="lerobot-v2.1")
    told = told_by("openpi_peer.py", checkout, out)
    first = next(latents_by_clip(Latents(made[1]), "latent"))
    rows = sum(pq.read_metadata(path).num_rows for path in (out / "data").rglob("*.parquet"))
    assert (told["rows"], told["action"]) == (rows, [5, 8]) and told["prompts"]
    np.testing.assert_allclose(told["first_action"], first.vector[0], rtol=1e-6)
    assert list(told["images"].values()) == [[3, *next(iter(told["images"].values()))[1:]]]


def test_groots_chunks_are_those_of_the_fixture(tmp_path: Path) -> None:
    checkout = PEERS / "groot-n1.7"
    if checkout not in GROOT:
        pytest.skip(f"no checkout of Isaac-GR00T at {checkout}")
    told_by("groot_chunks_peer.py", checkout, tmp_path / "made.safetensors")
    kept, made = load_file(CHUNKS), load_file(tmp_path / "made.safetensors")
    assert kept.keys() == made.keys()
    for name, values in kept.items():
        np.testing.assert_allclose(made[name], values, atol=1e-6)


@pytest.mark.parametrize("size", [(), ("--published",)], ids=["tiny", "published"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_groots_head_gives_what_ours_gives(tmp_path: Path, layout: str, size: tuple[str, ...]) -> None:
    checkout = PEERS / f"groot-{layout.replace('_', '.')}"
    if checkout not in GROOT:
        pytest.skip(f"no checkout of Isaac-GR00T at {checkout}")
    told_by("groot_head_peer.py", checkout, tmp_path, *size)
    theirs, told = expected(tmp_path / "expected.safetensors")
    policy = of_layout(LAYOUTS[layout], told["config"])
    load_head(policy, tmp_path)
    shown = Shown(policy, theirs, told["robots"])
    assert off(shown.sampled(theirs["action"].shape[2]), theirs["sampled"]) < 1e-6
    assert off(shown.velocity(), theirs["velocity"]) < 1e-6
    assert shown.loss().mean() == pytest.approx(float(theirs["loss"]), rel=1e-5)
