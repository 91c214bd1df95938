"""What is to be read and is not there is named at once, before torch is loaded."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from corpora.store.inputs import READ, READ_OR_HUB, expect_inputs
from jobs.cli import JOBS


@dataclass(frozen=True)
class Inner:
    files: Path | None = field(default=None, metadata=READ)


@dataclass(frozen=True)
class Asked:
    out: Path = Path("nowhere/out")
    corpus: Path | tuple[Path, ...] = field(default=(), metadata=READ)
    lam: Path | None = field(default=None, metadata=READ)
    policy: str = field(default="", metadata=READ_OR_HUB)
    settings: Inner = field(default_factory=Inner)


def test_the_hub_is_asked_without_torch(tmp_path: Path):
    words = ["serve", "--policy", "owner/name", "--embodiment", "hand"]
    code = f"import sys; from jobs.cli import main; status = main({words!r}); print(status, 'torch' in sys.modules)"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=offline, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["2", "False"] and "the hub does not give it" in done.stderr, done


def test_what_lacks_is_named_with_its_flag_and_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "policy").mkdir(parents=True)
    for asked, message in (
        (Asked(corpus=(tmp_path, tmp_path / "rusn")), "--corpus '.*rusn': .* .did you mean 'runs'"),
        (Asked(policy="runs/polcy"), "--policy 'runs/polcy': .*did you mean 'policy'"),
        (Asked(policy="./polcy"), "--policy './polcy': there is no such file or folder"),
        (Asked(policy=str(tmp_path / "a" / "b")), "--policy"),
        (Asked(settings=Inner(Path("masks"))), "--files 'masks'"),
    ):
        with pytest.raises(ValueError, match=message):
            expect_inputs(asked)


@pytest.mark.parametrize("job", ["serve", "evaluate", "view"])
def test_a_robot_that_the_policy_does_not_know_is_refused_before_it_is_loaded(job: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"robots": {"latent": {}, "unitree_g1": {}}}))
    module = importlib.import_module(JOBS[job][0])
    config_type = getattr(module, f"{job.capitalize()}Config")
    more = {"serve": {}, "evaluate": {"out": tmp_path / "out", "metaworld": True}, "view": {"folder": tmp_path}}[job]
    expect_inputs(config_type(policy=str(tmp_path), embodiment="unitree_g1", **more))
    with pytest.raises(
        ValueError, match=r"'unitre_g1' \(did you mean 'unitree_g1'\?\): .* trained on latent, unitree_g1$"
    ):
        expect_inputs(config_type(policy=str(tmp_path), embodiment="unitre_g1", **more))


def test_a_robot_that_is_to_be_trained_and_is_not_known_is_refused_without_torch(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"giza_policy": 2, "policy": {}, "robots": {"unitree_g1": {}}}))
    words = [
        *("ground", "--policy", str(tmp_path), "--data", str(tmp_path), "--embodiment", "unitre_g1"),
        *("--out", str(tmp_path / "out")),
    ]
    code = f"import sys; from jobs.cli import main; status = main({words!r}); print(status, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["2", "False"] and "knows unitree_g1; give one of these" in done.stderr, done


def test_what_is_there_and_what_the_hub_has_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    asked = []
    monkeypatch.setattr("corpora.store.hub.snapshot_download", lambda name, **_: asked.append(name) or tmp_path)
    expect_inputs(Asked(corpus=Path("runs"), lam=Path("hf://owner/repository/model.pt"), policy="owner/name"))
    expect_inputs(Asked(policy="runs"))
    assert asked == ["owner/name"]


def test_a_misspelt_folder_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("corpora.store.hub.snapshot_download", lambda name, **_: pytest.fail(f"asked for {name}"))
    with pytest.raises(ValueError, match=r"'rusn/base': .* \(did you mean 'runs'\?\); of the hub: hf://rusn/base$"):
        expect_inputs(Asked(policy="rusn/base"))
    with pytest.raises(ValueError, match="--lam 'lam'"):  # what lies here is looked for first
        expect_inputs(Asked(policy="owner/name", lam=Path("lam")))


HEAVY = (
    "av cv2 decord faiss lightning matplotlib numpy pandas PIL pyarrow scenedetect scipy torch torchvision transformers"
)
"""Packages that a job has no use for before its flags are read: they take longer than a second together."""


@pytest.mark.parametrize("job", JOBS)
def test_a_wrong_flag_is_answered_before_anything_heavy_is_loaded(job: str, tmp_path: Path):
    code = (
        f"import sys\nfrom jobs.cli import main\n"
        f"try: status = main([{job!r}, '--no-such-flag', 'x'])\nexcept SystemExit as end: status = end.code\n"
        f"print(status, [name for name in {HEAVY!r}.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split(maxsplit=1) == ["2", "[]\n"], done


@pytest.mark.parametrize(
    "words",
    [
        ["extract", "--lam", "lam", "--corpus", "corpus", "--out", "out"],
        ["train-lam", "--corpus", "corpus", "--out", "out"],
        ["report", "--corpus", "corpus", "--latents", "latents", "--out", "out"],
        ["pretrain", "--pyramid", "pyramid.toml", "--out", "out"],
        ["ground", "--policy", "runs/base/x", "--data", "data", "--out", "out"],
        ["ground", "--policy", "owner/name", "--data", "data", "--out", "out"],
        ["evaluate", "--policy", "runs/base/x", "--out", "out", "--metaworld"],
        ["serve", "--policy", "runs/base/x", "--embodiment", "hand"],
        ["label", "--robot", "robot", "--embodiment", "arm", "--corpus", "corpus", "--out", "out"],
        ["crosspaint", "--corpus", "corpus", "--tracks", "tracks", "--out", "out"],
        ["multiply", "--demos", "demos", "--into", "9", "--out", "out"],
        ["track", "--corpus", "corpus", "--out", "out"],
    ],
)
def test_a_wrong_path_is_answered_without_torch(words: list[str], tmp_path: Path):
    code = f"import sys; from jobs.cli import main; status = main({words!r}); print(status, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["2", "False"], done
    assert done.stderr.count("\n") == 1 and "there is no such file or folder" in done.stderr
    assert "owner/name" not in done.stderr
    assert not (tmp_path / "out").exists()
