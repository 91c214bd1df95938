"""A trained policy as what the evaluations call: batches of Meta-World's observations, or moments of recorded episodes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from corpora.simulation.metaworld import ACTION_NAMES, STATE_NAMES
from corpora.video.image import Fit, fit_square
from jobs.evaluation.closed_loop import Act, Observations
from vla.checkpoint import load_policy, policy_fingerprint
from vla.embodiment import LATENT
from vla.noise import NoiseKey
from vla.policy import Policy


def load_acting(name: str, *, device: str = "") -> tuple[Policy, str]:
    """The policy of a run folder or of the hub, ready to act on `device` (default: the GPU where there is one), and a
    fingerprint of it. Raises ValueError where there is none."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return load_policy(name).to(chosen).eval(), policy_fingerprint(name)


def embodiment_of(policy: Policy, name: str) -> str:
    """`name` where the policy knows it; without a name its only robot (latent actions are nobody's). Raises ValueError
    where neither is so."""
    robots = [robot for robot in policy.embodiments if robot != LATENT]
    if not name and len(robots) == 1:
        return robots[0]
    if not name:
        raise ValueError(f"--embodiment: this policy knows {', '.join(robots) or 'no robot'}; name one")
    policy.embodiment(name)
    return name


def metaworld_act(policy: Policy, embodiment: str, *, seed: int = 0, fit: Fit = "stretch") -> Act:
    """What `play` calls: images are resized as the training data were, noise is drawn from `seed`, the
    rollout and the number of its chunk. Raises ValueError for a policy of another robot or of several cameras."""
    facts = policy.embodiment(embodiment)
    widths = (facts.action_space.state_dim, facts.action_space.action_dim)
    if widths not in ((len(STATE_NAMES), len(ACTION_NAMES)), (0, len(ACTION_NAMES))) or len(facts.cameras) != 1:
        raise ValueError(
            f"embodiment '{embodiment}' has states of {widths[0]}, actions of {widths[1]} numbers and the cameras "
            f"{list(facts.cameras)}; Meta-World has {len(STATE_NAMES)}, {len(ACTION_NAMES)} and one camera: choose the "
            "embodiment that was trained on giza simulate's episodes"
        )
    size = policy.config.image_size

    def act(seen: Observations) -> NDArray[np.float32]:
        rows = zip(seen.task, seen.start, seen.instruction, seen.chunk, strict=True)
        keys = [NoiseKey(seed, (task, start, text), chunk) for task, start, text, chunk in rows]
        with torch.inference_mode():
            return policy.act_batch(
                torch.from_numpy(resized(seen.images, size, fit)),
                torch.from_numpy(seen.image_mask),
                seen.instruction,
                seen.state if widths[0] else None,
                embodiment,
                noise=keys,
            )

    return act


def resized(images: NDArray[np.uint8], size: int, fit: Fit) -> NDArray[np.uint8]:
    """uint8 [B, V, T, 3, S, S] at another size."""
    if images.shape[-2:] == (size, size):
        return images
    flat = images.reshape(-1, *images.shape[3:]).transpose(0, 2, 3, 1)
    small = np.stack([fit_square(np.ascontiguousarray(image), size, fit) for image in flat])
    return np.ascontiguousarray(small.transpose(0, 3, 1, 2)).reshape(*images.shape[:3], 3, size, size)
