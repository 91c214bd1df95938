"""Action parts as TOML has them: everything reachable, faults named, no torch needed to read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corpora.episodes.parts import ActionPart, read_parts

HAND = """
[[action_parts]]
name = "position"
dims = "0:3"
state_dims = [4, 5, 6]
representation = "relative"
frame = "wrist"
per_step = true

[[action_parts]]
name = "wrist"
dims = [3, 4, 5, 6]
state_dims = "0:4"
representation = "relative"
rotation = "quaternion_xyzw"
normalisation = "none"

[[action_parts]]
name = "gripper"
dims = [7]
clip = 1.5
"""


def test_every_field_of_a_part_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "parts.toml"
    path.write_text(HAND)
    assert read_parts(path) == (
        ActionPart("position", range(3), range(4, 7), "relative", frame="wrist", per_step=True),
        ActionPart("wrist", range(3, 7), range(4), "relative", "quaternion_xyzw", normalisation="none"),
        ActionPart("gripper", [7], clip=1.5),
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('rotation = "euler_xyz"', "has 3 numbers, but"),
        ('colour = "red"', "unknown fields \\['colour'\\]"),
        ('state_dims = "4:0"', 'e.g. \\[0, 1, 2\\] or "0:3"'),
        ('representation = "relative"', "the state does not hold it"),
        ("this is no TOML", "after a key"),
    ],
)
def test_a_wrong_part_is_refused_with_the_file_and_the_remedy(tmp_path: Path, wrong: str, said: str) -> None:
    path = tmp_path / "parts.toml"
    path.write_text(f'[[action_parts]]\nname = "arm"\ndims = [0, 1]\n{wrong}\n')
    with pytest.raises(ValueError, match=rf"(?s)action parts '.*parts.toml'.*{said}"):
        read_parts(path)


def test_reading_parts_needs_no_torch() -> None:
    code = "import sys, corpora.episodes.parts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
