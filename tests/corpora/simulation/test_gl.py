"""The software GL library: when it is chosen, and beside torch in one process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from corpora.simulation import gl as offscreen_gl

RENDER_FIRST = """
from corpora.simulation.metaworld import MetaWorldEnv
from corpora.simulation.settings import Look
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


def test_software_rendering_is_chosen_only_where_the_user_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offscreen_gl, "_loads", lambda name, files: True)
    monkeypatch.setattr(offscreen_gl.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    offscreen_gl.require_offscreen_gl()
    assert offscreen_gl.os.environ["MUJOCO_GL"] == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    offscreen_gl.require_offscreen_gl()
    assert offscreen_gl.os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.setattr(offscreen_gl.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'giza\[sim\]'"):
        offscreen_gl.require_offscreen_gl()
