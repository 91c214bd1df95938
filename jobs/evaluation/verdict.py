"""What an evaluation says in words: is the policy better than doing nothing, and how sure is that? Computed from evaluation.json alone.

Intervals decide: better or worse is what a whole 95% interval is. Ratios are of squared errors, the policy's over a baseline's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corpora.store.told import listed
from jobs.evaluation.open_loop import episodes_told

Kind = Literal["good", "concern", "bad", "unknown", "even"]
WORST_FIRST: tuple[Kind, ...] = ("bad", "concern", "unknown", "even", "good")

HARDLY = 0.9
"""Of the best baseline's squared error: above it a policy is hardly better. Four recipes on the same G1 data came out between 0.035
and 0.038 (README), so that a tenth is within what training again may change."""
ALONE = 2.0
"""Of one episode there is no interval: only a squared error twice as large or half as large is called worse or better. Among six
held-out episodes of one task errors were 0.025 to 0.044 (G1), 1.8 times as large."""
FEW_EPISODES = 5
"""Below, resampling episodes gives intervals that are too narrow: of 4 there are but 35 different resamples."""
RELIABLE = 0.8
"""The lower bound of the share of successes from which on a policy is said to do its tasks: it fails at most one time in five."""
CHANCE = 0.5
"""A policy that turns the faucet and does not listen turns it as told in half of the rollouts: each start is told both ways."""
WIDE = 0.41
"""An interval of a share that is wider leaves open whether the policy is of any use; 20 rollouts give at most 0.40."""

DOING = {
    "hold_still": "holding still",
    "repeat_last": "repeating the last action",
    "mean_chunk": "the mean chunk",
    "mean_motion": "the mean motion",
}
"""Baseline -> what it does, in a sentence."""
_WORDS = dict(enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 2))


@dataclass(frozen=True)
class Verdict:
    """One part's."""

    kind: Kind
    headline: str
    """One sentence, without a full stop."""
    reasons: tuple[tuple[Kind, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "headline": self.headline,
            "reasons": [{"kind": kind, "text": text} for kind, text in self.reasons],
        }


def verdicts(result: Mapping[str, Any]) -> dict[str, Verdict]:
    """Part of evaluation.json -> what it says, the worst first; of two alike that of rollouts, as they say more."""
    judges = {"closed_loop": closed_loop_verdict, "open_loop": open_loop_verdict}
    found = {part: judge(result[part]) for part, judge in judges.items() if part in result}
    return dict(sorted(found.items(), key=lambda item: WORST_FIRST.index(item[1].kind)))


@dataclass(frozen=True)
class _Ratio:
    """The policy's squared error over that of one baseline."""

    method: str
    value: float
    span: tuple[float, float] | None
    """None: of one episode."""

    @property
    def worse(self) -> bool:
        return self.span[0] > 1 if self.span else self.value >= ALONE

    @property
    def better(self) -> bool:
        return self.span[1] < 1 if self.span else self.value <= 1 / ALONE

    @property
    def doing(self) -> str:
        return DOING.get(self.method, self.method)

    @property
    def told(self) -> str:
        """E.g. "x0.36, [0.33, 0.40]"."""
        return f"x{two_digits(self.value)}" + (f", [{', '.join(map(two_digits, self.span))}]" if self.span else "")


def open_loop_verdict(found: Mapping[str, Any]) -> Verdict:
    """Of the part open_loop of an evaluation.json."""
    errors = {name: each["value"] for name, each in found["normalised_squared_error"].items()}
    told, standing = episodes_told(found["episodes"], found["standing"]), found["standing"]
    ratios = [_ratio(name, each, found["episodes"]) for name, each in found["policy_over_baseline"].items()]
    still_ones = [name for name, error in errors.items() if name != "policy" and error == 0]
    if errors["policy"] is None or still_ones or any(each is None for each in ratios):
        why = f"{DOING.get(still_ones[0], still_ones[0])} makes no error" if still_ones else "an error is no number"
        return Verdict("unknown", f"cannot be judged on {told}: {why}; choose episodes in which the robot moves")
    known = [each for each in ratios if each is not None]
    kind, headline = _beside(known, told)
    if standing == "trained on" and kind != "bad":
        kind, headline = "concern", f"remembers what it was trained on, and more is not known: {headline}"
    doubts = _doubts(found)
    if kind == "good" and doubts:
        kind = "concern"
    beside = [(_kind_of(each), f"{each.told} of the squared error of {each.doing}") for each in known]
    return Verdict(kind, headline, (*doubts, *beside, *_by_dimension(found), *_by_step(found), _OPEN))


_OPEN: tuple[Kind, str] = (
    "even",
    "Open loop: the recorded robot was never led astray by the policy's own mistakes. To be good here is needed and not enough.",
)


def _ratio(method: str, found: Mapping[str, Any], episodes: int) -> _Ratio | None:
    if found["value"] is None:
        return None
    low, high = found["bootstrap95"]
    known = episodes > 1 and low is not None and high is not None  # of one, earlier versions stored an interval
    return _Ratio(method, found["value"], (low, high) if known else None)


def _beside(ratios: Sequence[_Ratio], told: str) -> tuple[Kind, str]:
    """Of the policy beside its baselines."""
    best = max(ratios, key=lambda each: each.value)  # of the smallest error
    still = next((each for each in ratios if each.method == "hold_still"), None)
    if still is not None and still.worse:
        words = f"{_times(still.value)} than holding still on {told} ({still.told} of its squared error)"
        return "bad", f"{words}: do not run this on a robot"
    if all(each.better for each in ratios):
        words = f"better than every baseline on {told} ({best.told} of the squared error of the best, {best.doing})"
        return ("good", words) if best.value <= HARDLY else ("concern", f"hardly {words}")
    worse = [each for each in ratios if each.worse]
    but = "better than holding still, but " if still is not None and still.better else ""
    if worse:
        against = max(worse, key=lambda each: each.value)
        words = f"{but}{_times(against.value)} than {against.doing} on {told} ({against.told} of its squared error)"
        return ("concern" if but else "bad"), words
    alike = [each for each in ratios if not each.better]
    against = still if still is not None and still in alike else max(alike, key=lambda each: each.value)
    return "concern", f"{but}not told apart from {against.doing} on {told} ({against.told} of its squared error)"


def _times(ratio: float) -> str:
    """ "ten times worse"; below twice just "worse"."""
    count = round(ratio)
    return f"{_WORDS.get(count, f'{ratio:.0f}')} times worse" if count >= 2 else "worse"


def _kind_of(ratio: _Ratio) -> Kind:
    return "bad" if ratio.worse else "good" if ratio.better else "unknown"


def _doubts(found: Mapping[str, Any]) -> list[tuple[Kind, str]]:
    """Why a good verdict is to be taken with care."""
    count, said = found["episodes"], []
    if count == 1:
        said.append(
            f"One episode, so there is no interval: only a squared error {ALONE:g} times larger or smaller counts."
        )
    elif count < FEW_EPISODES:
        said.append(f"{count} episodes: their intervals are too narrow; {FEW_EPISODES} and more would tell.")
    standing = {
        "trained on": "All episodes were trained on: their errors say how well they are remembered.",
        "partly trained on": "Some of these episodes were trained on; leave them out to measure what was not seen.",
        "not known": "Whether these episodes were trained on is not known.",
    }
    if found["standing"] in standing:
        said.append(standing[found["standing"]])
    return [("concern", text) for text in said]


def _by_dimension(found: Mapping[str, Any]) -> list[tuple[Kind, str]]:
    errors = found["squared_error_per_dimension"]
    if "hold_still" not in errors:
        return []
    moving = [dim for dim, moves in enumerate(found["moving"]) if moves]
    mine, still = errors["policy"]["value"], errors["hold_still"]["value"]
    worse = [found["dimensions"][dim] for dim in moving if mine[dim] > still[dim]]
    if worse:
        return [
            ("concern", f"Farther off than holding still in {len(worse)} of {len(moving)} dimensions: {listed(worse)}.")
        ]
    return [("good", f"Nearer than holding still in each of {len(moving)} dimensions.")]


def _by_step(found: Mapping[str, Any]) -> list[tuple[Kind, str]]:
    """Where in the chunk some baseline is nearer."""
    curves = found["normalised_squared_error_per_step"]
    nearest = [
        min(
            ((curve[step], name) for name, curve in curves.items() if name != "policy" and curve[step] is not None),
            default=None,
        )
        for step in range(len(curves["policy"]))
    ]
    steps = [
        (number, best[1])
        for number, (mine, best) in enumerate(zip(curves["policy"], nearest, strict=True), 1)
        if mine is not None and best is not None and mine > best[0]
    ]
    if not steps:
        return [("good", f"Nearer than every baseline at each of the {len(nearest)} steps of a chunk.")]
    who = DOING.get(steps[0][1], steps[0][1])
    at = "At step" if len(steps) == 1 else "At steps"
    where = (
        "At every step"
        if len(steps) == len(nearest)
        else f"{at} {listed([number for number, _ in steps])} of {len(nearest)}"
    )
    return [("concern", f"{where} a baseline is nearer, first {who}.")]


def two_digits(value: float) -> str:
    """ "0.40", "27"."""
    return f"{value:#.2g}".rstrip(".") if value < 1000 else f"{value:.2g}"


def closed_loop_verdict(found: Mapping[str, Any]) -> Verdict:
    """Of the part closed_loop of an evaluation.json."""
    shares = found["success"]
    share = shares["all"]
    if not share["trials"]:
        return Verdict("unknown", "no rollout was told its own task: nothing to say")
    low, high = share["wilson95"]
    counted = f"{_counted(share)} rollouts from unseen starts succeed, {low:.0%} to {high:.0%}"
    kind: Kind
    if not share["successes"]:
        kind, words = "bad", "never does its tasks"
    elif low >= RELIABLE:
        kind, words = "good", "does its tasks"
    elif low > CHANCE:
        kind, words = "concern", "succeeds more often than not"
    elif high < CHANCE:
        kind, words = "bad", "fails more often than not"
    else:
        kind, words = "concern", "whether it succeeds more often than not is not told"
    reasons: list[tuple[Kind, str]] = []
    if high - low > WIDE:
        reasons.append(("concern", f"{share['trials']} rollouts are few: more --starts would tell."))
    for task, each in shares.items():
        if task != "all" and each["trials"]:
            reasons.append((_kind_of_share(each), f"{task}: {_counted(each)}, {_span(each)}."))
    return Verdict(kind, f"{words}: {counted}", (*reasons, *_language(found.get("language", {}))))


def _kind_of_share(share: Mapping[str, Any]) -> Kind:
    low, high = share["wilson95"]
    return "good" if low > CHANCE else "bad" if high < CHANCE else "unknown"


def _language(shares: Mapping[str, Any]) -> list[tuple[Kind, str]]:
    told = shares.get("compliance")
    if not told or not told["trials"]:
        return []
    kind = _kind_of_share(told)
    words = {
        "good": "listens",
        "bad": "does not do as told",
        "unknown": "is not told apart from one that does not listen, whose due is half",
    }[kind]
    said: list[tuple[Kind, str]] = [
        (kind, f"The faucet, told both ways: it {words}; turned as told {_counted(told)}, {_span(told)}.")
    ]
    blank = shares.get("blank_turned")
    if blank and blank["trials"]:
        said.append(("even", f"Told nothing, it turned the faucet {_counted(blank)}, {_span(blank)}."))
    return said


def _counted(share: Mapping[str, Any]) -> str:
    return f"{share['successes']} of {share['trials']}"


def _span(share: Mapping[str, Any]) -> str:
    low, high = share["wilson95"]
    return f"{low:.0%} to {high:.0%}"
