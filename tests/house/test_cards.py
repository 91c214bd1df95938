"""What is saved has a card: a header that the hub reads, five lines of code that run, a table, limits, licence and tags."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard

from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from jobs.commands import simulate
from tests.builders.datasets import lerobot_v3
from tests.builders.policies import teach, tiny_policy
from tests.builders.videos import numbered_video


def parts_of(folder: Path, kind: Any) -> tuple[dict[str, Any], list[str], str]:
    """(header, lines of code, text) of a card."""
    card = kind((folder / "README.md").read_text("utf-8"))
    code = card.content.partition("```python\n")[2].partition("\n```")[0].splitlines()
    return card.data.to_dict(), code, card.text


def checked(folder: Path, kind: Any, *tags: str) -> tuple[list[str], str]:
    header, code, text = parts_of(folder, kind)
    assert {*tags} <= {*header["tags"]} and header["license"]
    assert 5 <= len(code) <= 6 and "\n| " in text and "## Limits\n\n- " in text
    return code, text


def ran(code: list[str], folder: Path) -> dict[str, Any]:
    """Its names, once the lines have run."""
    names: dict[str, Any] = {}
    exec("\n".join(code).replace("this folder", str(folder)), names)
    return names


def test_of_a_latent_action_model(tiny_lam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = checked(tiny_lam, ModelCard, "latent-action-model", "robotics")
    assert "| target loss | " in text and "| perplexity (higher is better) | " in text and "debug" in text
    assert str(tiny_lam) not in text
    numbered_video(tmp_path / "video.mp4", 40)
    monkeypatch.chdir(tmp_path)
    sample = ran(code, tiny_lam)["sample"]
    assert len(sample.latent) == len(sample.t_s) > 0


def test_of_a_policy(tmp_path: Path) -> None:
    policy = tiny_policy()
    teach(policy, "two_link", 3, 2)
    policy.save_pretrained(tmp_path)
    code, _ = checked(tmp_path, ModelCard, "robotics", "vision-language-action", "two_link")
    assert "policy.act(seen" in "\n".join(code)


def test_of_a_corpus_the_same_wherever_it_was_made(tmp_path: Path) -> None:
    settings = IngestSettings(size=64, clip_s=1.0, camera_gap_s=0.2)
    for place in ("a", "b"):
        (tmp_path / place / "in").mkdir(parents=True)
        numbered_video(tmp_path / place / "in" / "v.mp4", 40)
        make_corpus(
            [str(tmp_path / place / "in")], settings, SourceDefaults(tier="human"), IngestRun(tmp_path / place / "c")
        )
    code, text = checked(tmp_path / "a" / "c", DatasetCard, "giza", "video", "human")
    assert (tmp_path / "b" / "c" / "README.md").read_bytes() == (tmp_path / "a" / "c" / "README.md").read_bytes()
    assert "| clips kept | 2 |" in text and "64 px square" in text and str(tmp_path) not in text
    assert ran(code, tmp_path / "a" / "c")["clip"].frames.shape[1:] == (64, 64, 3)


def test_of_a_simulated_dataset(tmp_path: Path) -> None:
    folder = lerobot_v3(tmp_path / "robot")
    config = simulate.SimulateConfig(folder, tasks=("door-open",))
    told = {
        "settings": {"tasks": ["door-open"], "versions": {"mujoco": "3"}},
        "episodes": 2,
        "frames": 75,
        "seconds": 5.0,
    }
    simulate._write_card(config, told | {"success": {"door-open": {"all": 0.5}}})
    code, text = checked(folder, DatasetCard, "LeRobot", "simulation", "meta-world")
    assert "Written by giza simulate" in text and "| success, door-open | 50% |" in text and "It is simulated" in text
    assert ran(code, folder)["episode"].action.shape[1] == 2
    simulate._write_card(SimpleNamespace(**{**vars(config), "action_free": True}), told)  # type: ignore[arg-type]
    assert "success" not in (folder / "README.md").read_text().replace("`next.success`", "")
