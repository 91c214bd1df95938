"""A run's folder belongs to one configuration of one version of giza, to one process at a time, and is done once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from corpora.store import run as runs
from corpora.store.files import write_json, written_whole
from corpora.store.run import BUDGET, LOCK, SETTINGS, Run


def settings(**changes: Any) -> dict[str, Any]:
    return {"seed": 0, "steps": 5, "training": {"lr": 0.1}, "members": [{"name": "a"}, {"name": "b"}], **changes}


def run_in(folder: Path, formats: dict[str, int | None] | None = None, **changes: Any) -> Run:
    return Run(folder, settings(**changes), budget=BUDGET, free=("training.workers",), formats=formats or {})


def claim(folder: Path, formats: dict[str, int | None] | None = None, **changes: Any) -> None:
    with run_in(folder, formats, **changes).claim():
        pass


def test_a_longer_budget_goes_on_and_other_flags_are_refused(tmp_path: Path) -> None:
    claim(tmp_path)
    claim(tmp_path, steps=9)
    for changes, named in (
        ({"seed": 1}, "seed"),
        ({"training": {"lr": 0.2}}, r"training\.lr"),
        ({"members": [{"name": "a"}]}, "members"),
        ({"members": [{"name": "a"}, {"name": "c"}]}, r"members\.1\.name"),
    ):
        with pytest.raises(
            ValueError, match=rf"other settings \({named} .* there and .* here\): resume with the same flags"
        ):
            claim(tmp_path, **changes)


def test_a_setting_that_one_side_lacks_is_of_another_version(tmp_path: Path) -> None:
    claim(tmp_path)
    for changes, said in (
        ({"training": {"lr": 0.1, "clip": 2}}, r"training\.clip absent there and 2 here"),
        ({"training": {}}, r"training\.lr 0\.1 there and absent here"),
        ({"members": [{"name": "a", "weight": 1}, {"name": "b"}]}, r"members\.0\.weight absent there and 1 here"),
    ):
        with pytest.raises(
            ValueError, match=rf"begun by another version of giza \({said}\).*begin again with another --out"
        ):
            claim(tmp_path, **changes)
    claim(tmp_path, training={"lr": 0.1, "clip": None})  # None says nothing that absence does not


def test_a_record_of_earlier_versions_with_its_members_in_a_list_is_read(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text(json.dumps({**settings(), "training.lr": 0.1, "training": {}}))
    claim(tmp_path)


def test_formats_are_of_the_version_and_no_flags(tmp_path: Path) -> None:
    claim(tmp_path, {"images": 1})
    claim(tmp_path, {"images": 1})
    with pytest.raises(ValueError, match=r"another version of giza \(images 1 there and 2 here\)"):
        claim(tmp_path, {"images": 2})
    with pytest.raises(
        ValueError, match=r"other settings \(seed 0 there and 1 here\)"
    ):  # the flag explains the format as well
        claim(tmp_path, {"images": None}, seed=1)


def test_a_finished_run_returns_what_it_came_to_and_a_longer_one_is_not_finished(tmp_path: Path) -> None:
    """J2."""
    run = run_in(tmp_path / "new" / "run")
    assert run.finished is None and not (tmp_path / "new").exists()  # asking leaves nothing
    with run.claim():
        written = run.finish({"value": 3, "missing": float("nan")})
    again = run_in(tmp_path / "new" / "run").finished
    assert again == {**written, "missing": None, "already_finished": True}
    with pytest.raises(ValueError, match="other settings"):
        _ = run_in(tmp_path / "new" / "run", seed=1).finished
    longer = run_in(tmp_path / "new" / "run", steps=9)
    assert longer.finished is None
    with pytest.raises(KeyboardInterrupt), longer.claim():
        raise KeyboardInterrupt
    assert run_in(tmp_path / "new" / "run", steps=9).finished is None  # killed on the way, it is not done


def test_a_result_that_does_not_say_what_it_was_made_of_is_not_taken_for_this_runs(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"value": 3})
    with pytest.raises(ValueError, match="begun by another version of giza .*seed absent there and 0 here"):
        _ = run_in(tmp_path).finished


def test_a_refused_run_leaves_nothing_and_the_corrected_command_works(tmp_path: Path) -> None:
    """J4."""
    wrong, right = run_in(tmp_path / "a" / "b", seed=1), run_in(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="too many"), wrong.claim():
        raise ValueError("too many")
    assert list(tmp_path.iterdir()) == []
    with right.claim():
        right.finish({})
    for refused in (wrong, right):  # what was there stays, whoever is refused
        with pytest.raises(ValueError), refused.claim():
            raise ValueError("no")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["run.json", SETTINGS]


def test_a_refusal_after_work_was_done_keeps_the_work(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")

    def work() -> None:
        (run.folder / "checkpoint").write_text("hours")
        raise ValueError("not finite")

    with pytest.raises(ValueError), run.claim():
        work()
    assert sorted(path.name for path in run.folder.iterdir()) == ["checkpoint", SETTINGS]


def _hold(folder: Path, ready: Any) -> None:
    with run_in(folder).claim():
        ready.set()
        time.sleep(60)


def test_two_processes_do_not_write_one_folder_and_a_killed_one_frees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J5."""
    monkeypatch.setattr(runs, "LOCK_WAIT_S", 0.2)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", ready))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(ValueError, match="another process is writing to '.*run': wait for it, or give another"):
            claim(tmp_path / "run")
    finally:
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    (tmp_path / "run" / "half.json.tmp").write_text("{")
    claim(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [SETTINGS]  # no lock, nothing half-written


def test_of_processes_that_train_together_the_first_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    run = Run(tmp_path / "run", settings(), together=True)
    with run.claim():
        assert run.finish({"value": 1})["value"] == 1
    assert not (tmp_path / "run").exists()


def test_a_summary_says_where_it_comes_from(tmp_path: Path) -> None:
    """J11."""
    run = run_in(tmp_path)
    with run.claim():
        run.finish({})
    said = json.loads((tmp_path / "run.json").read_text())["provenance"]
    assert set(said) == {"git", "versions", "argv", "host", "utc"}
    assert set(said["versions"]) == {"giza", "torch", "lightning", "numpy", "python"} and all(said["versions"].values())
    assert said["argv"] and said["host"] and said["utc"].startswith("20")


def test_settings_inside_the_summary_take_the_place_of_the_record(tmp_path: Path) -> None:
    def run(**changes: Any) -> Run:
        return Run(tmp_path / "data", settings(**changes), inside="settings", alone=True)

    with run().claim():
        assert (tmp_path / "data" / SETTINGS).is_file()
        run().finish({"settings": settings()})
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["run.json"]
    assert run().finished is not None
    with pytest.raises(ValueError, match=r"other settings \(seed 0 there and 1 here\)"):
        _ = run(seed=1).finished
    with pytest.raises(ValueError, match="holds other files: name a new or empty folder"):
        _ = Run(tmp_path, settings(), alone=True).finished
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file: name a folder"):
        _ = Run(tmp_path / "file", settings()).finished


def test_a_file_is_there_whole_or_not_and_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: file and folder are synchronised around the rename."""
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (done.append("sync " + os.readlink(f"/proc/self/fd/{fd}")), real_sync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), real_replace(a, b)))
    write_json(tmp_path / "a.json", {"name": "caf\udce9", "text": "开门"})
    assert done == [f"sync {tmp_path}/a.json.tmp", "rename", f"sync {tmp_path}"]
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"name": "caf\udce9", "text": "开门"}

    def half(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), written_whole(tmp_path / "a.json") as temporary:
        half(temporary)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and "text" in (tmp_path / "a.json").read_text()


def test_a_file_may_be_read_by_whom_the_user_lets_read(tmp_path: Path) -> None:
    """J11: safetensors makes files that only their owner may read."""
    with written_whole(tmp_path / "model") as temporary:
        temporary.touch(0o600)
    (tmp_path / "usual").touch()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_lock_is_gone_when_nobody_writes(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    with run.claim():
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()
