"""What is sent to the hub: the dataset, its card, the tag by which LeRobot looks for it. No hub is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corpora.episodes import hub
from jobs.commands.export import ExportConfig, run
from tests.builders.datasets import lerobot_v2
from tests.builders.exports import converted


class Stub:
    """Remembers what it was asked."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> str:
            if name == self._fails:
                raise OSError("no route to the hub")
            self.calls.append((name, {"args": args, **named}))
            return "https://hub/datasets/me/data"

        return call


def test_the_finished_dataset_is_uploaded_and_tagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, stub = lerobot_v2(tmp_path / "v21"), Stub()
    monkeypatch.setattr(hub, "HfApi", lambda: stub)
    config = ExportConfig(out=tmp_path / "out", dataset=source, push="me/data", private=True, licence="cc-by-4.0")
    assert run(config)["pushed"] == "https://hub/datasets/me/data"
    made, sent, tag = stub.calls
    assert made[0] == "create_repo" and made[1]["private"] and made[1]["repo_type"] == "dataset"
    assert sent[0] == "upload_folder" and (sent[1]["repo_id"], sent[1]["folder_path"]) == (
        "me/data",
        str(tmp_path / "out"),
    )
    assert tag[0] == "create_tag" and tag[1]["tag"] == "v3.0"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "- LeRobot" in card
    assert run(config)["pushed"] and len(stub.calls) == 6  # finished: sent again, not written again


def test_a_hub_that_refuses_leaves_the_dataset_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = converted(tmp_path / "out", lerobot_v2(tmp_path / "v21"), "lerobot-v3")
    with pytest.raises(ValueError, match="no route to the hub.*the dataset is whole in.*same command again"):
        hub.push_dataset(out, "me/data", api=Stub("upload_folder"))  # type: ignore[arg-type]
    for name in ("data", "me/da ta", "a/b/c"):
        with pytest.raises(ValueError, match="give owner/name"):
            hub.check_repo(name)
