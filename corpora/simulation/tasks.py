"""The fifty Meta-World tasks by name, each with the instruction that a person would give; needs no simulator."""

from __future__ import annotations

from collections.abc import Sequence

from corpora.store.told import closest

BENCHMARKS = ("metaworld", "libero")
"""What is simulated, and what policies are measured in."""

DEFAULT_TASKS = (
    "drawer-open",
    "button-press-topdown",
    "window-open",
    "door-open",
    "faucet-open",
    "faucet-close",
)

INSTRUCTIONS = {
    "assembly": "put the ring onto the peg",
    "basketball": "dunk the ball into the hoop",
    "bin-picking": "move the cube from one bin to the other",
    "box-close": "put the lid on the box",
    "button-press": "press the button from the front",
    "button-press-topdown": "press the button from above",
    "button-press-topdown-wall": "reach over the wall and press the button from above",
    "button-press-wall": "reach around the wall and press the button",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "take the ring off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-close": "close the faucet",
    "faucet-open": "open the faucet",
    "hammer": "hammer the nail into the wall",
    "hand-insert": "put the hand into the hole",
    "handle-press": "press the handle down",
    "handle-press-side": "press the handle down from the side",
    "handle-pull": "pull the handle up",
    "handle-pull-side": "pull the handle up from the side",
    "lever-pull": "pull the lever up",
    "peg-insert-side": "insert the peg from the side",
    "peg-unplug-side": "pull the peg out sideways",
    "pick-out-of-hole": "pick the puck out of the hole",
    "pick-place": "pick up the puck and bring it to the goal",
    "pick-place-wall": "pick up the puck and bring it over the wall to the goal",
    "plate-slide": "slide the plate into the cabinet",
    "plate-slide-back": "slide the plate out of the cabinet",
    "plate-slide-back-side": "slide the plate out of the cabinet sideways",
    "plate-slide-side": "slide the plate into the cabinet sideways",
    "push": "push the puck to the goal",
    "push-back": "pull the puck back to the goal",
    "push-wall": "push the puck around the wall to the goal",
    "reach": "reach the goal",
    "reach-wall": "reach over the wall to the goal",
    "shelf-place": "put the block onto the shelf",
    "soccer": "kick the ball into the goal",
    "stick-pull": "pull the box with the stick",
    "stick-push": "push the box with the stick",
    "sweep": "sweep the block off the table",
    "sweep-into": "sweep the puck into the hole",
    "window-close": "close the window",
    "window-open": "open the window",
}


def check_benchmark(name: str) -> None:
    """Raises ValueError for an unknown one."""
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark '{name}': giza knows none of this name. {closest(name, BENCHMARKS)}")


def task_name(name: str) -> str:
    """The task's name without the version ("drawer-open-v3" -> "drawer-open"); ValueError for an unknown one."""
    short = name.removesuffix("-v3")
    if short not in INSTRUCTIONS:
        raise ValueError(f"no Meta-World task '{name}'. {closest(short, sorted(INSTRUCTIONS))}")
    return short


def task_names(names: Sequence[str]) -> tuple[str, ...]:
    """Checked names in the order given; ValueError for an unknown, a repeated or no name."""
    checked = tuple(task_name(name) for name in names)
    if not checked:
        raise ValueError("tasks () names no task; give at least one, e.g. --tasks drawer-open")
    if len(set(checked)) != len(checked):
        raise ValueError(f"tasks {checked} names a task twice; name each once and raise --episodes for more of it")
    return checked
