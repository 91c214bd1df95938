"""The doors of the packages: every name that is promised is there, and costs nothing before it is used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from corpora.door import door

PACKAGES = ("corpora", "lapa", "flare", "vla", "jobs", "jobs.ablation")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_promised_name_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__ == dir(package) == sorted(package.__all__)
    for word in package.__all__:
        assert getattr(package, word) is not None


def test_a_name_may_be_called_otherwise_at_home_and_a_room_is_given_as_it_is() -> None:
    get, names, promised = door("here", {"os.path": "join both=basename", "os": ""})
    assert names() == promised == ["both", "join", "os"]
    assert get("both")("a/b") == "b"
    assert get("os") is importlib.import_module("os")
    with pytest.raises(AttributeError, match="module 'here' has no attribute 'split'"):
        get("split")


def test_a_package_alone_loads_no_torch() -> None:
    asked = f"import sys, {', '.join(PACKAGES)}; sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    root = str(Path(__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", asked], cwd=root, check=False).returncode == 0
