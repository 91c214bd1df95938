"""A run folder belongs to one configuration, of one version of giza."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corpora.store.run import SETTINGS, claim


def settings(**changes: Any) -> dict[str, Any]:
    return {"seed": 0, "steps": 5, "training": {"lr": 0.1}, "members": [{"name": "a"}, {"name": "b"}], **changes}


def test_a_longer_budget_goes_on_and_other_flags_are_refused(tmp_path: Path) -> None:
    claim(tmp_path, settings())
    claim(tmp_path, settings(steps=9))
    for changes, named in (
        ({"seed": 1}, "seed"),
        ({"training": {"lr": 0.2}}, r"training\.lr"),
        ({"members": [{"name": "a"}]}, "members"),
        ({"members": [{"name": "a"}, {"name": "c"}]}, r"members\.1\.name"),
    ):
        with pytest.raises(ValueError, match=rf"other settings \({named}\): resume with the same flags"):
            claim(tmp_path, settings(**changes))


def test_a_setting_that_one_side_lacks_is_of_another_version(tmp_path: Path) -> None:
    claim(tmp_path, settings())
    for changes, said in (
        ({"training": {"lr": 0.1, "clip": 2}}, r"training\.clip absent there and 2 here"),
        ({"training": {}}, r"training\.lr 0\.1 there and absent here"),
        ({"members": [{"name": "a", "weight": 1}, {"name": "b"}]}, r"members\.0\.weight absent there and 1 here"),
    ):
        with pytest.raises(
            ValueError, match=rf"begun by another version of giza \({said}\).*begin again with another --out"
        ):
            claim(tmp_path, settings(**changes))
    claim(tmp_path, settings(training={"lr": 0.1, "clip": None}))  # None says nothing that absence does not


def test_a_record_of_earlier_versions_with_its_members_in_a_list_is_read(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text(json.dumps({**settings(), "training.lr": 0.1, "training": {}}))
    claim(tmp_path, settings())


def test_formats_are_of_the_version_and_no_flags(tmp_path: Path) -> None:
    claim(tmp_path, settings(), formats={"pictures": 1})
    claim(tmp_path, settings(), formats={"pictures": 1})
    with pytest.raises(ValueError, match=r"another version of giza \(pictures 1 there and 2 here\)"):
        claim(tmp_path, settings(), formats={"pictures": 2})
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):  # the flag explains the format as well
        claim(tmp_path, settings(seed=1), formats={"pictures": None})
