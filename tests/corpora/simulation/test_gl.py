"""The software GL library beside torch, in one process."""

from __future__ import annotations

import subprocess
import sys

import pytest

RENDER_FIRST = """
from corpora.simulation.metaworld import Look, MetaWorldEnv
env = MetaWorldEnv("reach", Look(size=32))
env.reset(0)
env.render()
env.close()
import torch._dynamo
print("alive")
"""


@pytest.mark.gl
def test_torchs_compiler_lives_when_it_is_imported_after_an_image_was_rendered() -> None:
    done = subprocess.run([sys.executable, "-c", RENDER_FIRST], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]
