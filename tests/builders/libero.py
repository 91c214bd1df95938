"""What the tests of LIBERO run where LIBERO is not installed: an environment whose Python runs the stand-in, and a policy that solves
it by what it is shown."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from corpora.simulation.libero import process
from tests.builders.fake_libero import BASKET, MOVE_M
from vla.actions.space import ActionSpace
from vla.embodiment import Embodiment
from vla.noise import drawn

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64


def fake_environment(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone the environment of LIBERO is this process' Python, with the stand-in."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    patch.setenv(process.ENVIRONMENT, str(folder))
    patch.setattr(process, "WORLD", "tests.builders.fake_libero")


class SeeingPolicy:
    """Places things by what it is shown: the thing where its picture is red, itself where its state says. No weights."""

    device = torch.device("cpu")

    def __init__(self, *, opens_at_one: bool = False) -> None:
        self.config = SimpleNamespace(history_s=(0.25, 0.0), image_size=SIZE, horizon=8)
        rng = np.random.default_rng(0)
        chunks = rng.uniform(-1, 1, (64, 8, 7)).astype(np.float32)
        chunks[..., 6] = rng.integers(2, size=(64, 8)) if opens_at_one else 1
        chunks[0, :, 6] = -1 + opens_at_one
        space = ActionSpace.fit(rng.normal(size=(64, 8)).astype(np.float32), chunks)
        modality = {
            "video": {"front": {"original_key": "observation.images.image"}},
            "state": {"fingers": {"start": 6, "end": 8}, "arm": {"start": 0, "end": 6}},
            "action": {"gripper": {"start": 6, "end": 7}, "arm": {"start": 0, "end": 6}},
        }
        self.known = Embodiment("panda", space, 0.05, ("observation.images.image",), modality)
        self.opens_at_one, self.seen = opens_at_one, []

    def embodiment(self, name: str) -> Embodiment:
        return self.known

    def act_batch(self, images: Any, image_mask: Any, instruction: Any, state: Any, name: str, *, noise: Any) -> Any:
        """[1, 8, 7]."""
        self.seen.append((instruction[0], image_mask[0, 0].tolist(), drawn(noise, (1, 1)).item()))
        picture = images[0, 0, -1].numpy().transpose(1, 2, 0).astype(int)
        rows, columns = np.nonzero((picture[..., 0] > 180) & (picture[..., 1] < 90))
        thing = (np.array([rows.mean(), columns.mean()]) + 0.5) / SIZE * 0.8 - 0.4 if len(rows) else state[0, :2]
        tool, held, chunk = state[0, :3].astype(float), state[0, 6] < 0.01, []
        for _ in range(8):
            move, grip = self._wanted(tool, thing, held)
            tool, held = tool + MOVE_M * np.clip(move, -1, 1), grip
            chunk.append([*np.clip(move, -1, 1), 0, 0, 0, (0 if grip else 1) if self.opens_at_one else 2 * grip - 1])
        return np.array([chunk], np.float32)

    @staticmethod
    def _wanted(tool: NDArray[np.float64], thing: NDArray[np.float64], held: bool) -> tuple[NDArray[np.float64], bool]:
        target = BASKET[:2] if held else thing
        astray = np.array([*(target - tool[:2]), 0.0]) / MOVE_M
        if held:
            return (astray, True) if np.abs(astray).max() > 0.4 else (np.zeros(3), False)
        down = np.array([0, 0, (0.03 - tool[2]) / MOVE_M])
        if np.abs(astray).max() > 0.4:
            return astray, False
        return (down, False) if abs(down[2]) > 0.2 else (np.zeros(3), True)
