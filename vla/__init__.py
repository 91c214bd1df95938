"""Vision-language-action policies: what a robot's numbers are, the policies that learn them, and how they are served.

    import numpy as np
    import vla

    policy = vla.load("runs/policy")                            # a run folder, or "org/name" of the hub
    franka = policy.embodiment("franka")                        # cameras, step_s, and the action space with its statistics
    seen = vla.Observation({"wrist": image}, state, "open the drawer")      # uint8 [H, W, 3], float [Ds]
    chunk = policy.act(seen, "franka")
    chunk.actions, chunk.step_s                                 # [H, Da] in the robot's own numbers; seconds between two

    parts = [
        vla.ActionPart("arm", dims=range(7), state_dims=range(7), representation="relative", per_step=True),
        vla.ActionPart("gripper", dims=[7], normalisation="min_max"),
    ]
    space = vla.ActionSpace.fit(states, chunks, parts=parts)    # [M, Ds], [M, H, Da]
    np.testing.assert_allclose(space.decode_action(states, space.encode_action(states, chunks)), chunks, atol=1e-5)

    vla.save(policy, "copy")                                    # safetensors and JSON; policy.push_to_hub("me/franka-drawer")
    vla.serve(policy, "franka", port=5555)                      # for Isaac-GR00T's clients, until Ctrl+C

Rooms, from the ground up: `actions` and `batch`, `embodiment`, `policy` (the contract), `models` (heads and backbones),
`training`, `serving`, `data`, `checkpoint`. Names are imported when they are first used, so that `import vla` needs no torch.
"""

# ruff: noqa: F401 - the names are for type checkers; `door` imports them
from __future__ import annotations

from typing import TYPE_CHECKING

from corpora.door import door

if TYPE_CHECKING:
    from corpora.episodes.parts import ActionPart
    from vla.actions.space import ActionSpace
    from vla.checkpoint import build_policy as build
    from vla.checkpoint import load_policy as load
    from vla.checkpoint import save_policy as save
    from vla.data.open import open_mixture
    from vla.embodiment import Embodiment
    from vla.noise import NoiseKey
    from vla.observation import ActionChunk, Observation
    from vla.policy import Policy
    from vla.published_heads import load_head
    from vla.serving.groot import serve

__getattr__, __dir__, __all__ = door(
    __name__,
    {
        "corpora.episodes.parts": "ActionPart",
        "vla.actions.space": "ActionSpace",
        "vla.checkpoint": "build=build_policy load=load_policy save=save_policy",
        "vla.data.open": "open_mixture",
        "vla.embodiment": "Embodiment",
        "vla.noise": "NoiseKey",
        "vla.observation": "ActionChunk Observation",
        "vla.policy": "Policy",
        "vla.published_heads": "load_head",
        "vla.serving.groot": "serve",
    },
)
