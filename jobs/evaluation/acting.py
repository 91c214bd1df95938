"""A trained policy as what the evaluations call: batches of Meta-World's observations, or moments of recorded episodes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from corpora.mixture.embodiments import LATENT
from corpora.mixture.labels import EmbodimentFacts
from corpora.simulation.metaworld import ACTION_NAMES, STATE_NAMES
from corpora.simulation.settings import HEAD_CAMERA
from corpora.video.image import fit_square
from corpora.video.view import View, view_told
from jobs.evaluation.closed_loop import Act, Observations
from vla.actions.names import places
from vla.checkpoint import load_policy
from vla.data.placed import placed_views
from vla.data.slots import Slot, place
from vla.embodiment import Embodiment
from vla.noise import NoiseKey
from vla.policy import Policy
from vla.stored import policy_fingerprint


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


def metaworld_act(policy: Policy, embodiment: str, *, seed: int = 0, camera: str = HEAD_CAMERA) -> Act:
    """What `play` calls: images of `camera` are resized as the training data were, noise is drawn from `seed`, the rollout
    and the number of its chunk. Raises ValueError for a policy of another robot, or of several cameras none of which is
    this."""
    known = policy.embodiment(embodiment)
    slot, size, seen_as = Slot.of(known), policy.config.image_size, _seen_as(known, camera)
    state_names = STATE_NAMES if slot.state_names else ()
    try:
        view = metaworld_view(policy, embodiment, camera=camera)
        views = {} if view is None else {seen_as: view}
        where = place(EmbodimentFacts((seen_as,), known.step_s, state_names, ACTION_NAMES, views=views), slot)
        if len(where.action) < len(ACTION_NAMES):
            raise ValueError(f"its actions are {', '.join(slot.action_names)}, Meta-World's {', '.join(ACTION_NAMES)}")
    except ValueError as error:
        raise ValueError(
            f"embodiment '{embodiment}' is not Meta-World's robot: {error}; choose the embodiment that was trained on giza "
            "simulate's episodes"
        ) from error
    order = np.argsort(where.action)

    def act(seen: Observations) -> NDArray[np.float32]:
        if seen.view != view:
            raise ValueError(
                f"the pictures of embodiment '{embodiment}' were {view_told(view)} in training, these are {view_told(seen.view)}: "
                "give the rollouts the policy's view (metaworld_view)"
            )
        rows = zip(seen.task, seen.start, seen.instruction, seen.chunk, strict=True)
        keys = [NoiseKey(seed, (task, start, text), chunk) for task, start, text, chunk in rows]
        images = resized(seen.images, size)
        with torch.inference_mode():
            chunk = policy.act_batch(
                torch.from_numpy(placed_views(images, where, axis=1)),
                torch.from_numpy(placed_views(seen.image_mask, where, axis=1)),
                seen.instruction,
                seen.state[:, list(where.state)] if where.state else None,
                embodiment,
                noise=keys,
            )
        return chunk[..., order]

    return act


def metaworld_view(policy: Policy, embodiment: str, *, camera: str = HEAD_CAMERA) -> View | None:
    """How `camera`'s pictures are painted for this policy; None: not at all. Raises ValueError for a robot that it does not
    know."""
    known = policy.embodiment(embodiment)
    (where,) = places([_seen_as(known, camera)], known.cameras)
    return None if where is None else known.views.get(known.cameras[where])


def _seen_as(known: Embodiment, camera: str) -> str:
    """The only camera of a policy is meant, whatever it is called."""
    return camera if len(known.cameras) > 1 else known.cameras[0]


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [B, V, T, 3, S, S] at another size; being square they are neither stretched nor cropped."""
    if images.shape[-2:] == (size, size):
        return images
    flat = images.reshape(-1, *images.shape[3:]).transpose(0, 2, 3, 1)
    small = np.stack([fit_square(np.ascontiguousarray(image), size, "stretch") for image in flat])
    return np.ascontiguousarray(small.transpose(0, 3, 1, 2)).reshape(*images.shape[:3], 3, size, size)
