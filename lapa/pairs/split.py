"""Which source videos are kept from training: whole groups (a video, an episode), never frames of one."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Sequence

from corpora.clips.manifest import ClipRow
from corpora.held_out import hold_out


def split_groups(
    rows: Sequence[ClipRow], *, share: float, patterns: Sequence[str] = (), seed: int = 0
) -> tuple[list[str], list[str]]:
    """(training groups, held-out groups), each sorted.

    With `patterns` (globs over the group's name) those that match are held out; else a `share` of the groups of each
    embodiment, as `corpora.held_out` chooses them. Raises ValueError where a pattern matches nothing or nothing is left to train on.
    """
    if not 0 <= share < 1:
        raise ValueError(f"val_share {share}: a share in [0, 1)")
    groups = sorted({row.group for row in rows})
    held_out: set[str] = set()
    if patterns:
        for pattern in patterns:
            matched = fnmatch.filter(groups, pattern)
            if not matched:
                raise ValueError(f"holdout '{pattern}' matches none of {len(groups)} groups, such as '{groups[0]}'")
            held_out.update(matched)
    else:
        by_embodiment: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            by_embodiment[row.embodiment].add(row.group)
        for names in by_embodiment.values():
            held_out |= hold_out(names, share, seed)
    training = [name for name in groups if name not in held_out]
    if not training:
        raise ValueError("the held-out patterns match every group: nothing is left to train on; narrow them")
    return training, sorted(held_out)
