"""Which source videos are kept from training: whole groups (a video, an episode), never frames of one."""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

from corpora.clips.manifest import ClipRow


def split_groups(
    rows: Sequence[ClipRow], *, share: float, patterns: Sequence[str] = (), seed: int = 0
) -> tuple[list[str], list[str]]:
    """(training groups, held-out groups), each sorted.

    With `patterns` (globs over the group's name) those that match are held out; else `share` of the groups of each
    embodiment, at least one where it has two, chosen by a hash of their names (so that adding videos moves few others).
    Raises ValueError where a pattern matches nothing or nothing is left to train on.
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
            count = max(1 if share > 0 else 0, math.floor(share * len(names) + 0.5))
            count = min(count, len(names) - 1)
            held_out.update(
                sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())[:count]
            )
    training = [name for name in groups if name not in held_out]
    if not training:
        raise ValueError("the held-out patterns match every group: nothing is left to train on; narrow them")
    return training, sorted(held_out)
