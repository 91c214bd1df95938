"""What is held out: whole groups, chosen by their names, whatever else the dataset holds."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from corpora.episodes.episode import Episode
from corpora.held_out import hold_out, hold_out_episodes

VIDEOS = [f"kitchen/video_{number:04d}" for number in range(100)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("change", ["removed", "added", "another dataset beside"])
def test_no_name_changes_sides_when_others_come_or_go(seed: int, change: str) -> None:
    """V10: a permutation of the list gave what one mixture held out to another's training."""
    held = hold_out(VIDEOS, 0.1, seed)
    others = random.Random(seed).sample(VIDEOS, 97) if change == "removed" else list(VIDEOS)
    if change == "added":
        others += ["garage/a", "garage/b", "attic/c"]
    if change == "another dataset beside":
        others += [f"street/{number}" for number in range(60)]
    again = hold_out(others, 0.1, seed)
    assert held & set(others) == again & set(VIDEOS)


def test_where_the_count_demands_it_only_the_nearest_change_sides() -> None:
    """Of few names at least one is held out and not all are."""
    for seed in range(50):
        names = [f"episode_{number}" for number in range(12)]
        moved = 0
        held = hold_out(names, 0.2, seed)
        while len(names) > 2:
            names.remove(random.Random(seed).choice(names))
            again = hold_out(names, 0.2, seed)
            moved += len((held - again) & set(names))
            held = again
        assert moved <= 3


@pytest.mark.parametrize("share", [0.05, 0.1, 0.15, 0.3, 0.5])
@pytest.mark.parametrize("count", [2, 3, 5, 10, 40, 300])
def test_the_count_is_near_the_share(share: float, count: int) -> None:
    for seed in range(30):
        held = len(hold_out([f"v{number}" for number in range(count)], share, seed))
        assert 1 <= held < count
        assert max(1, 0.5 * share * count) <= held + 0.999 and held <= max(1, 1.5 * share * count) + 1e-6


def test_order_and_repetition_do_not_matter_and_the_seed_does() -> None:
    assert hold_out(VIDEOS, 0.2, 1) == hold_out([*VIDEOS[::-1], *VIDEOS], 0.2, 1)
    assert len({frozenset(hold_out(VIDEOS, 0.2, seed)) for seed in range(5)}) == 5


def test_nothing_is_held_out_of_one_group_or_by_a_share_of_0() -> None:
    assert hold_out(["one"], 0.5, 1) == hold_out([], 0.5, 1) == hold_out(VIDEOS, 0.0, 1) == set()


def test_of_chosen_episodes_others_are_held_out() -> None:
    """Also the only other one; and those that are held out of all of them stay so."""
    assert hold_out(["a", "b", "c"], 0.1, 0, trained=["a", "c"]) == {"b"}
    assert hold_out(["a", "b"], 0.1, 0, trained=["a", "b"]) == set()
    all_of_them = hold_out(VIDEOS, 0.1, 3)
    chosen = [name for name in VIDEOS[:30] if name not in all_of_them]
    assert hold_out(VIDEOS, 0.1, 3, trained=chosen) == all_of_them


def episodes_of(*tasks: str) -> list[Episode]:
    return [
        Episode(number, f"pick/episode_{number:06d}", [task] * 3, np.arange(3) / 10, None, None)
        for number, task in enumerate(tasks)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_at_least_one_episode_of_every_instruction_is_trained_on(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """M7: 9, 9 and 1 episodes: the one was held out, and its task never learned."""
    episodes = episodes_of(*["open"] * 9, *["close"] * 9, "turn")
    held = hold_out_episodes(episodes, 0.3, seed, title="dataset 'pick'")
    assert 3 <= len(held) <= 8 and "pick/episode_000018" not in held
    assert [record.getMessage() for record in caplog.records] == [
        "dataset 'pick': 1 of 3 instructions (such as 'turn') have one episode each, which is trained on; no held-out loss is "
        "of these tasks"
    ]


def test_of_ten_tasks_of_one_demonstration_each_all_are_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    episodes = episodes_of(*[f"task {number}" for number in range(10)])
    assert hold_out_episodes(episodes, 0.1, 0, title="robot 'pick'") == set()
    assert "10 of 10 instructions" in caplog.text and "nothing is held out, unless" in caplog.text


def test_instructions_that_change_within_an_episode_all_keep_another(caplog: pytest.LogCaptureFixture) -> None:
    episodes = [
        replace(one, instructions=["reach", one.instruction, "rest"]) for one in episodes_of("a", "a", "b", "b")
    ]
    for seed in range(20):
        held = hold_out_episodes(episodes, 0.5, seed, title="")
        assert len(held) in (1, 2) and len({name[-1] in "01" for name in held}) == len(held)
    assert not caplog.records


def test_of_chosen_episodes_the_others_are_free_to_be_held_out(caplog: pytest.LogCaptureFixture) -> None:
    episodes = episodes_of("a", "b", "c")
    assert len(hold_out_episodes(episodes, 0.5, 0, trained=[episodes[0].group], title="")) == 1
    assert not caplog.records
