"""Whether the numbers of data mean what those of their embodiment mean: their range, and what leaves the robot at rest."""

from __future__ import annotations

import logging

from corpora.mixture.spec import Frames, Numbers
from vla.actions.rest import displacements
from vla.data.slots import same_step
from vla.embodiment import Embodiment

log = logging.getLogger(__name__)

TOLD = 0.05
"""Share of the values beyond the old range from which it is told; of data like the old some 2% are, of q01 to q99."""


def check_range(known: Embodiment, numbers: Numbers, frames: Frames, *, may_move: bool = False) -> None:
    """Tells what lies beyond the range of the embodiment's statistics. Raises ValueError, unless they `may_move`, for actions
    that never moved in the data of the statistics and do now: a policy could never command them."""
    space = known.action_space
    shares = space.outside(numbers.states, numbers.chunks, numbers.mask, frames=(frames.states, frames.actions))
    moved = [name for name in space.constant if shares.get(name)]
    actions = [name.removeprefix("action: ") for name in moved if name.startswith("action: ")]
    if actions and not may_move:
        raise ValueError(
            f"its {', '.join(actions)} move, but never did in the data that embodiment '{known.name}' was fitted on, so that the "
            "policy could not command them; give --refit for statistics of these data, or another embodiment"
        )
    beyond = [f"{name} {share:.0%}" for name, share in shares.items() if share > TOLD or name in moved]
    if beyond:
        log.warning(
            "of these values this share lies beyond the range that embodiment '%s' was fitted on, and is cut to it: %s; a "
            "training with --refit makes statistics of these data",
            known.name,
            ", ".join(beyond),
        )


def check_rest(known: Embodiment, frames: Frames, step_s: float) -> None:
    """Tells where actions are displacements and those of the embodiment are not, or the other way round, as far as the data
    tell. Raises ValueError for displacements of another step than the embodiment's: what is done in a longer one is their sum,
    of velocities their mean, and nothing says which."""
    space = known.action_space
    if frames.states is None:
        return
    names = space.state_names, space.action_names
    moving = displacements(space.parts, frames.states, frames.moved, frames.actions, names) or ()
    if moving and not same_step(step_s, known.step_s):
        raise ValueError(
            f"its rows are {step_s:.4f} s apart and are to be read every {known.step_s:.4f} s, but its "
            f"{', '.join(names[1][dim] for dim in moving)} are displacements or velocities, which do not say what is done in a "
            "longer step; give another embodiment, or data of that rate"
        )
    if space.displacements is not None and (differ := sorted(set(moving) ^ set(space.displacements))):
        log.warning(
            "of its actions %s are, by the data, %s, and those of embodiment '%s' are not: do both mean the same?",
            ", ".join(names[1][dim] for dim in differ),
            "displacements" if differ[0] in moving else "targets or commands",
            known.name,
        )
