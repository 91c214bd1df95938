"""Two rates: System 2 encodes slowly in the background, System 1 plans chunks from its newest tokens, actions stream fast.

    System 2   |---- encode ---|---- encode ---|      think_hz (10): newest observation -> tokens
    System 1       |-act-|-act-|-act-|-act-|-act-|    chunk_hz (30): newest tokens and state -> chunk of H steps
    stream     . . . . . . . . . . . . . . . . . .    act_hz (120): newest chunk at this moment -> one action

Step k of a chunk is meant for k * step_s seconds after the observation that it was made from. The stream takes from the
newest chunk what is meant for the present moment, between two steps by interpolation: the time that encoding and planning
took is made up for, not added. Past a chunk's end the robot rests: displacements are zero, all else stays as it is. What was
seen too long ago ends the run, and so does an error; displacements end with zero whatever ended it. All times are in seconds
of the runner's clock.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla.noise import NoiseKey
from vla.serving.beats import Clock, Durations, Metronome, MonotonicClock, Spread

if TYPE_CHECKING:
    from vla.policy import ContextTokens, Policy

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class DatedTokens:
    """Tokens of System 2."""

    tokens: ContextTokens
    observed_s: float
    """When the observation behind them was taken."""


@dataclass(frozen=True)
class Chunk:
    """Actions of System 1."""

    actions: NDArray[np.float32]
    """[H + 1, Da], raw; the last leaves the robot at rest."""
    observed_s: float
    """When the state behind it was taken; its step 0 is meant for this moment."""
    tokens_observed_s: float
    """When the observation behind its tokens was taken."""
    step_s: float
    """Seconds between its steps."""

    def at(self, time_s: float) -> NDArray[np.float32]:
        """Action [Da] for a moment, linearly between two steps. Before the first and after the last: those."""
        last = len(self.actions) - 1
        place = min(max((time_s - self.observed_s) / self.step_s, 0.0), float(last))
        step = int(place)
        if step == last:
            return self.actions[step].copy()
        share = np.float32(place - step)
        return (1 - share) * self.actions[step] + share * self.actions[step + 1]

    def covers(self, time_s: float) -> bool:
        """Whether it has a planned step for that moment."""
        return time_s <= self.observed_s + (len(self.actions) - 2) * self.step_s + 1e-9

    @property
    def seen_s(self) -> float:
        """When the oldest of the observations behind it was taken."""
        return min(self.observed_s, self.tokens_observed_s)


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
    """Actions for a moment after the last step of the newest chunk: the robot rested."""

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
        stale_s: float = 2.0,
        seed: int | None = 0,
        clock: Clock | None = None,
    ) -> None:
        """`observe`: the newest observation, at once; it is called from two threads. `stale_s`: no action is sent that was made
        of what was seen longer ago. `seed`: of the noise, the same for each chunk, so that chunks differ only as observations
        do; None: new noise each time.

        Raises ValueError for rates that are none, for a policy in training, for a robot that it does not know, and for one of
        which it does not know what leaves it at rest.
        """
        self.wanted_hz = {"think": think_hz, "chunk": chunk_hz, "act": act_hz}
        for name, value in (*((f"{name}_hz", hz) for name, hz in self.wanted_hz.items()), ("stale_s", stale_s)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} {value:g}: must be more than 0 and finite")
        if min(think_hz, chunk_hz) * stale_s <= 1:
            raise ValueError(
                f"stale_s {stale_s:g}: at {think_hz:g} thoughts and {chunk_hz:g} chunks a second all would be stale; give a longer "
                "stale_s, or higher rates"
            )
        if policy.training:
            raise ValueError(
                "the policy is in training, where it crops at random and drops out: call policy.eval() first"
            )
        self.policy, self.observe, self.embodiment, self.stale_s = policy, observe, embodiment, stale_s
        known = policy.embodiment(embodiment)
        self.step_s, self.space = float(known.step_s), known.action_space
        self.space.at_rest(np.zeros(self.space.action_dim))  # refused before anything moves
        if self.space.displacements and not math.isclose(act_hz * self.step_s, 1, rel_tol=0.01):
            log.warning(
                "displacements of steps of %g s are sent every %g s, as they are: a robot that adds up what it gets moves %.2g times "
                "as far as it should; give act_hz %g, or let it take them as velocities",
                self.step_s, 1 / act_hz, act_hz * self.step_s, 1 / self.step_s,
            )  # fmt: skip
        self.seed = seed
        self.clock: Clock = MonotonicClock() if clock is None else clock
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
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
        are sent, or `stop` is called. Where actions have displacements, one more without any comes last, whatever ended it but
        `send` itself.

        Raises what `observe` or the policy raised in a thread, here, with the other thread ended; what `send` raises; and
        TimeoutError where there is no first chunk after `patience_s` seconds, or the newest one is stale. A thread that does
        not end within `stale_s` is left behind; RuntimeError where one of the last run is still busy.
        """
        if busy := [thread.name for thread in self._threads if thread.is_alive()]:
            raise RuntimeError(f"{', '.join(busy)} of the last run did not end: its policy or camera hangs; start anew")
        self._stop.clear()
        self._error = self._tokens = self._chunk = None
        start = self.clock.now()
        beats = {name: Metronome(hz, start) for name, hz in self.wanted_hz.items()}
        took = {"think": Durations(), "chunk": Durations()}
        self._threads = [
            threading.Thread(target=self._loop, args=(work, beats[name], took[name]), name=f"giza-{name}", daemon=True)
            for name, work in (("think", self._encode), ("chunk", self._plan))
        ]
        last: NDArray[np.float32] | None = None

        def sending(action: NDArray[np.float32], now: float) -> None:
            nonlocal last
            rest, last = self.space.at_rest(action), None
            send(action, now)
            last = rest

        for thread in self._threads:
            thread.start()
        try:
            return self._stream(sending, start, beats, took, seconds, steps, patience_s)
        finally:
            self._stop.set()
            if last is not None and self.space.displacements:
                send(last, self.clock.now())
            for thread in self._threads:
                thread.join(self.stale_s)
                if thread.is_alive():
                    log.warning("%s does not end: its policy or camera hangs; it is left behind", thread.name)

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
        self.policy.tell_cut([observation.instruction])
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
        acted = self.policy.act_on(dated.tokens, state, self.embodiment, noise=noise)
        actions = np.asarray(acted[0], np.float32)
        if not np.isfinite(actions).all():
            raise ValueError("the policy gave actions that are not finite; none is sent to the robot")
        actions = np.concatenate([actions, self.space.at_rest(actions[-1:])])
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
                raise TimeoutError(f"no first chunk of actions within {patience_s:g} s: is the policy too slow?")
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
            if now - chunk.seen_s > self.stale_s:
                raise TimeoutError(
                    f"the newest actions were made of what was seen {now - chunk.seen_s:.2f} s ago, the limit is {self.stale_s:g} s: "
                    "the policy or a camera hangs, or is too slow; then give a longer stale_s"
                )
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
