"""Two rates: System 2 encodes slowly in the background, System 1 plans chunks from its newest tokens, actions stream fast.

    System 2   |---- encode ---|---- encode ---|      think_hz (10): newest observation -> tokens
    System 1       |-act-|-act-|-act-|-act-|-act-|    chunk_hz (30): newest tokens and state -> chunk of H steps
    stream     . . . . . . . . . . . . . . . . . .    act_hz (120): newest chunk at this moment -> one action

Step k of a chunk is meant for k * step_s seconds after the observation that it was made from. The stream takes from the
newest chunk what is meant for the present moment, between two steps by interpolation: the time that encoding and planning
took is made up for, not added. All times are in seconds of the runner's clock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla.noise import NoiseKey

if TYPE_CHECKING:
    from vla.policy import ContextTokens, Policy

_RECENT = 65_536
"""Ages of which the 95th percentile is taken: nine minutes at 120 Hz."""


@dataclass(frozen=True)
class Moment:
    """What the robot sees and feels at one moment, in the policy's shapes but without a batch axis."""

    images: Tensor
    """uint8 [V, T, 3, S, S]."""
    image_mask: Tensor
    """bool [V, T]; False where a camera or a frame is missing."""
    instruction: str
    """"" where there is none."""
    state: NDArray[np.float32] | None
    """[Ds], raw; None where there is none."""
    time_s: float | None = None
    """When it was taken, on the runner's clock (time.monotonic); None: when it was asked for."""


class Clock(Protocol):
    """Time in seconds; another one is given by tests."""

    def now(self) -> float: ...

    def sleep_until(self, time_s: float, stop: threading.Event) -> None:
        """Returns at `time_s`, or earlier where `stop` is set."""


class MonotonicClock:
    """The machine's."""

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, time_s: float, stop: threading.Event) -> None:
        stop.wait(max(0.0, time_s - time.monotonic()))


@dataclass(frozen=True)
class DatedTokens:
    """Tokens of System 2, with their age."""

    tokens: ContextTokens
    observed_s: float
    """When the observation behind them was taken."""


@dataclass(frozen=True)
class Chunk:
    """Actions of System 1."""

    actions: NDArray[np.float32]
    """[H, Da], raw."""
    observed_s: float
    """When the state behind it was taken; its step 0 is meant for this moment."""
    tokens_observed_s: float
    """When the observation behind its tokens was taken."""
    step_s: float
    """Seconds between its steps."""

    def at(self, time_s: float) -> NDArray[np.float32]:
        """Action [Da] for a moment, linearly between two steps. Before the first and after the last step: those."""
        last = len(self.actions) - 1
        place = min(max((time_s - self.observed_s) / self.step_s, 0.0), float(last))
        step = int(place)
        if step == last:
            return self.actions[step].copy()
        share = np.float32(place - step)
        return (1 - share) * self.actions[step] + share * self.actions[step + 1]

    def covers(self, time_s: float) -> bool:
        """Whether it has a step for that moment."""
        return time_s <= self.observed_s + (len(self.actions) - 1) * self.step_s + 1e-9


@dataclass(frozen=True)
class Spread:
    """Of many durations, in seconds; 0 where there were none."""

    mean_s: float = 0.0
    p95_s: float = 0.0
    """Of the last 65,536."""
    max_s: float = 0.0


class Durations:
    """Collects durations in seconds; its memory is bounded."""

    def __init__(self) -> None:
        self._count, self._sum, self._max = 0, 0.0, 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float) -> None:
        self._count, self._sum, self._max = self._count + 1, self._sum + seconds, max(self._max, seconds)
        self._recent.append(seconds)

    def spread(self) -> Spread:
        if not self._count:
            return Spread()
        return Spread(self._sum / self._count, float(np.percentile(list(self._recent), 95)), self._max)


class Metronome:
    """Beats at `hz` from `start_s` on. A beat that is over before it could be kept is missed, not made up for."""

    def __init__(self, hz: float, start_s: float) -> None:
        self.period_s = 1 / hz
        self.start_s = start_s
        self.kept = 0
        """Beats that were kept."""
        self.missed = 0
        """Beats that were over, their whole period long, before they could be kept."""
        self.late = Durations()
        """By how much those that were kept came too late."""
        self._beat = 0

    @property
    def next_s(self) -> float:
        """When the next beat is due."""
        return self.start_s + self._beat * self.period_s

    def keep(self, now_s: float) -> None:
        """The next beat is kept now: counts those that are over, and how late this one is."""
        current = max(self._beat, int((now_s - self.start_s) / self.period_s + 1e-9))
        self.missed += current - self._beat
        self._beat = current
        self.late.add(max(0.0, now_s - self.next_s))
        self._beat += 1
        self.kept += 1


@dataclass(frozen=True)
class DualRateReport:
    """What was measured from the first action on."""

    seconds: float
    """From the first action to the last."""
    actions: int
    """That were sent."""
    wanted_hz: dict[str, float]
    """think, chunk and act, as they were asked for."""
    measured_hz: dict[str, float]
    """think, chunk and act, as they were."""
    first_action_s: float
    """From the start to the first action."""
    feature_age: Spread
    """From the observation behind the tokens to the action that was sent."""
    action_age: Spread
    """From the state behind the chunk to the action that was sent."""
    think_duration: Spread
    """Of System 2, with the observation."""
    chunk_duration: Spread
    """Of System 1, with the observation."""
    lateness: Spread
    """From when an action was due to when it was sent."""
    missed: dict[str, int]
    """Beats of think, chunk and act that were over before they could be kept: deadlines missed."""
    exhausted: int
    """Actions for a moment after the last step of the newest chunk, whose last step was repeated."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class DualRateRunner:
    """Runs a policy at two rates; `run` returns when it is over, and leaves no thread behind."""

    def __init__(
        self,
        policy: Policy,
        observe: Callable[[], Moment],
        *,
        embodiment: str,
        think_hz: float = 10.0,
        chunk_hz: float = 30.0,
        act_hz: float = 120.0,
        seed: int | None = 0,
        clock: Clock | None = None,
    ) -> None:
        """`observe`: the newest observation, at once; it is called from two threads. `seed`: of the noise, the
        same for each chunk, so that chunks differ only as observations do; None: new noise each time.

        Raises ValueError for rates that are none, and for a robot that the policy does not know.
        """
        self.wanted_hz = {"think": think_hz, "chunk": chunk_hz, "act": act_hz}
        for name, hz in self.wanted_hz.items():
            if not 0 < hz < float("inf"):
                raise ValueError(f"{name}_hz {hz:g}: must be more than 0 and finite")
        self.policy, self.observe, self.embodiment = policy, observe, embodiment
        self.step_s = float(policy.embodiment(embodiment).step_s)
        self.seed = seed
        self.clock: Clock = MonotonicClock() if clock is None else clock
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._tokens: DatedTokens | None = None
        self._chunk: Chunk | None = None

    def stop(self) -> None:
        """Ends `run` after the action that is being sent. From any thread, also from `send`."""
        self._stop.set()

    def run(
        self,
        send: Callable[[NDArray[np.float32], float], None],
        *,
        seconds: float | None = None,
        steps: int | None = None,
        patience_s: float = 60.0,
    ) -> DualRateReport:
        """Calls `send(action [Da], time)` at act_hz, until `seconds` have passed since the first action, `steps` actions
        are sent, or `stop` is called.

        Raises what `observe` or the policy raised in a thread, here, with the other thread ended; what `send` raises;
        and TimeoutError where there is no first chunk after `patience_s` seconds.
        """
        self._stop.clear()
        self._error = self._tokens = self._chunk = None
        start = self.clock.now()
        beats = {name: Metronome(hz, start) for name, hz in self.wanted_hz.items()}
        took = {"think": Durations(), "chunk": Durations()}
        threads = [
            threading.Thread(target=self._loop, args=(work, beats[name], took[name]), name=f"giza-{name}", daemon=True)
            for name, work in (("think", self._encode), ("chunk", self._plan))
        ]
        for thread in threads:
            thread.start()
        try:
            return self._stream(send, start, beats, took, seconds, steps, patience_s)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _loop(self, work: Callable[[], bool], beats: Metronome, took: Durations) -> None:
        """A background thread: `work` at each beat, until the end or an error."""
        try:
            while True:
                self.clock.sleep_until(beats.next_s, self._stop)
                if self._stop.is_set():
                    return
                begun = self.clock.now()
                beats.keep(begun)
                with torch.inference_mode():
                    if work():
                        took.add(self.clock.now() - begun)
        except BaseException as error:  # it surfaces where `run` was called, whatever it is
            self._error = error

    def _observed(self) -> tuple[Moment, float]:
        asked = self.clock.now()
        observation = self.observe()
        return observation, asked if observation.time_s is None else observation.time_s

    def _encode(self) -> bool:
        observation, taken = self._observed()
        device = self.policy.device
        tokens = self.policy.encode(
            observation.images[None].to(device), observation.image_mask[None].to(device), [observation.instruction]
        )
        self._tokens = DatedTokens(tokens, taken)
        return True

    def _plan(self) -> bool:
        dated = self._tokens
        if dated is None:  # System 2 has made none yet
            return False
        observation, taken = self._observed()
        state = None if observation.state is None else np.asarray(observation.state, np.float32)[None]
        noise = None if self.seed is None else [NoiseKey(self.seed)]
        acted: Any = self.policy.act_on(dated.tokens, state, self.embodiment, noise=noise)
        actions = np.asarray(acted.cpu() if isinstance(acted, Tensor) else acted, np.float32)[0]
        self._chunk = Chunk(actions, taken, dated.observed_s, self.step_s)
        return True

    def _stream(
        self,
        send: Callable[[NDArray[np.float32], float], None],
        start: float,
        beats: dict[str, Metronome],
        took: dict[str, Durations],
        seconds: float | None,
        steps: int | None,
        patience_s: float,
    ) -> DualRateReport:
        period = 1 / self.wanted_hz["act"]
        while self._chunk is None and not self._stop.is_set():
            self._surface()
            if self.clock.now() - start > patience_s:
                raise TimeoutError(
                    f"no first chunk of actions within {patience_s:g} s: is the policy too slow for this?"
                )
            self.clock.sleep_until(self.clock.now() + period, self._stop)
        first = last = self.clock.now()
        act = Metronome(self.wanted_hz["act"], first)
        before = {name: (beats[name].kept, beats[name].missed) for name in ("think", "chunk")}
        feature_age, action_age = Durations(), Durations()
        exhausted = 0
        while not self._stop.is_set() and (steps is None or act.kept < steps):
            if seconds is not None and act.next_s >= first + seconds - 1e-9:
                break
            self.clock.sleep_until(act.next_s, self._stop)
            self._surface()
            chunk, now = self._chunk, self.clock.now()
            if chunk is None or self._stop.is_set() or (seconds is not None and now >= first + seconds):
                break
            act.keep(now)
            feature_age.add(now - chunk.tokens_observed_s)
            action_age.add(now - chunk.observed_s)
            exhausted += not chunk.covers(now)
            last = now
            send(chunk.at(now), now)
        self._surface()
        ended = self.clock.now()
        counts = {name: beats[name].kept - kept for name, (kept, _) in before.items()}
        measured = {name: count / (ended - first) if ended > first else 0.0 for name, count in counts.items()}
        measured["act"] = (act.kept - 1) / (last - first) if last > first else 0.0
        return DualRateReport(
            seconds=last - first,
            actions=act.kept,
            wanted_hz=dict(self.wanted_hz),
            measured_hz=measured,
            first_action_s=first - start,
            feature_age=feature_age.spread(),
            action_age=action_age.spread(),
            think_duration=took["think"].spread(),
            chunk_duration=took["chunk"].spread(),
            lateness=act.late.spread(),
            missed={**{name: beats[name].missed - missed for name, (_, missed) in before.items()}, "act": act.missed},
            exhausted=exhausted,
        )

    def _surface(self) -> None:
        """Raises here what was raised in a thread."""
        if self._error is not None:
            raise self._error
