"""The notebooks of docs/ run from top to bottom: their cells, with the settings of the first one made tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests.builders.rollouts import rollouts_in_threads
from tests.builders.videos import numbered_video

DOCS = Path(__file__).resolve().parents[2] / "docs"
SAMPLE = DOCS.parent / "corpora" / "sample"


def run(name: str, **settings: Any) -> dict[str, Any]:
    """The names that the notebook leaves behind. Raises what a cell raises, and KeyError for a setting that it lacks."""
    cells = json.loads((DOCS / name).read_text("utf-8"))["cells"]
    scope: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        exec(compile(source, f"{name}:{cell['id']}", "exec"), scope)
        if "parameters" in cell["metadata"].get("tags", ()):
            for setting, value in settings.items():
                assert setting in scope, f"{name} has no setting {setting}"
                scope[setting] = value
    return scope


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    matplotlib.use("Agg")
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def extracted(runs: Path) -> dict[str, Any]:
    folder = runs / "videos"
    folder.mkdir()
    for seed in range(6):
        numbered_video(folder / f"{seed}.mp4", 60, seed=seed)
    return run("1_extract_latents.ipynb", videos=[str(folder)], recipe="debug", steps=3, runs=str(runs / "latents"))


def test_latents_are_extracted_and_judged(extracted: dict[str, Any], runs: Path) -> None:
    assert len(extracted["latents"]) > 20
    assert extracted["card"].verdicts
    assert (runs / "latents" / "report.html").stat().st_size > 10_000
    assert extracted["predicted"].shape == extracted["pairs"].first.shape


@pytest.mark.usefixtures("extracted")
def test_a_policy_is_pretrained_grounded_and_acts(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIZA_CACHE", str(runs / "cache"))
    scope = run(
        "2_pretrain.ipynb",
        latents_run=str(runs / "latents"),
        robot=str(SAMPLE / "robot_still"),
        simulated=str(SAMPLE / "robot_moving"),
        steps=2,
        runs=str(runs / "policy"),
    )
    assert {"latent", "sawyer", "sawyer_real"} <= set(scope["policy"].embodiments)
    assert scope["chunk"].actions.shape[1] == 4
    assert scope["result"].open_loop.overall["policy"].value > 0


@pytest.mark.gl
def test_an_arm_of_ones_own_is_ablated(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # arms run in this process: others would import anew for 10 s each
    rollouts_in_threads(monkeypatch)
    scope = run(
        "3_ablate.ipynb",
        runs=str(runs / "ablation"),
        seeds=(0,),
        human_clips=4,
        budget={"ground_steps": 2, "pretrain_steps": 0, "starts": 1, "max_steps": 8, "batch_size": 4},
        amounts={"lam_steps": 2, "robot_episodes": 6, "synthetic_episodes": 1},
    )
    assert "no difference shown" in scope["study"].headline.lower() or "No lift" in scope["study"].headline
    assert (runs / "ablation" / "ablation.html").is_file()


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.name)
def test_what_is_stored_is_what_was_printed(path: Path) -> None:
    """Of a run from top to bottom, without progress, failures, or where it was run."""
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    assert "Path('/" not in json.dumps(outputs)
