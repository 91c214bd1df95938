"""Meta-World environments in processes of their own: each holds several, steps them through their chunks and asks for
the next chunks of all of them at once."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corpora.agent.painting import painter_of
from corpora.agent.track import known_track
from corpora.simulation.metaworld import MetaWorldEnv, episode_generator
from corpora.simulation.settings import CONTROL_HZ, Look
from corpora.simulation.tasks import INSTRUCTIONS
from corpora.video.view import View
from jobs.evaluation.rollout_log import Rollout


def start_seed(seed: int, task: str, start: int) -> int:
    """Reset seed of the initial state number `start`: from a stream of its own, which no simulated episode draws from."""
    return int(episode_generator(seed, task, start, "evaluation").integers(2**31))


class RolloutRequest(NamedTuple):
    """One rollout to be made."""

    task: str
    start: int
    """Number of the initial state; the same number is the same state under every policy and instruction."""
    instruction: str
    """The instruction that the policy is given."""
    video: bool = False
    """Bring its frames along."""


@dataclass(frozen=True)
class RolloutSettings:
    """What the rollouts of one evaluation have in common."""

    look: Look
    """How images are taken."""
    execute: int
    """Steps of a chunk that are executed before the next is asked for."""
    repeat: int
    """Control steps (12.5 ms each) for which one step of a chunk is held."""
    max_steps: int
    """Control steps after which a rollout has failed."""
    seed: int
    """Of the initial states."""
    history_steps: tuple[int, ...]
    """Ages of the frames that the policy sees, in control steps, oldest first, the last 0."""
    video_every: int
    """A recorded rollout keeps every k-th control step's image."""
    expert: bool = False
    """Meta-World's script acts instead of a policy; nobody is asked."""
    view: View | None = None
    """How what the policy sees is painted; films show what the camera saw."""


class Observation(NamedTuple):
    """What a policy is shown of one environment that needs its next chunk."""

    task: str
    start: int
    chunk: int
    """Chunks played so far."""
    instruction: str
    images: NDArray[np.uint8]
    """[T, S, S, 3], oldest first."""
    seen: NDArray[np.bool_]
    """[T]: False for a frame from before the initial state."""
    state: NDArray[np.float32]
    """[11], see corpora.simulation.metaworld.STATE_NAMES."""


class WorkerError(RuntimeError):
    """An environment's process failed; the message holds its traceback."""


class _Playing:
    """One environment in the middle of a rollout."""

    def __init__(self, env: MetaWorldEnv, request: RolloutRequest, settings: RolloutSettings) -> None:
        self.env, self.request, self.settings = env, request, settings
        self.state = env.reset(start_seed(settings.seed, request.task, request.start))
        self.turned: Literal["open", "close"] | None = None
        self.over = False
        self.seen: dict[int, NDArray[np.uint8]] = {}
        self.frames: list[NDArray[np.uint8]] = []
        self.painter = None if settings.view is None else painter_of(settings.view, settings.look.size)
        self._look()

    def _look(self) -> None:
        """Renders only what will be shown: the frames of an observation (there is one every execute * repeat steps) and of
        the video. A painter sees every row of an episode, as it did in training: what it fills in depends on those before."""
        step, settings = self.env.steps, self.settings
        period = settings.execute * settings.repeat
        recorded = self.request.video and (step % settings.video_every == 0 or self.over)
        asked = not settings.expert and any((step + age) % period == 0 for age in settings.history_steps)
        painted = self.painter is not None and not settings.expert and step % settings.repeat == 0
        if not (recorded or ((asked or painted) and not self.over)):
            return
        image = self.env.render().copy()
        if recorded:
            self.frames.append(image)
        if self.painter is not None and painted:
            point, _, _ = self.env.tool()
            track = known_track(self.env.agent_mask()[None], point[None])
            image = self.painter.paint(image[None], track).frames[0]
        if asked:
            self.seen[step] = image
            oldest = step - settings.history_steps[0]
            self.seen = {at: kept for at, kept in self.seen.items() if at >= oldest}

    def observation(self) -> Observation:
        step, request = self.env.steps, self.request
        present = self.seen[step]
        times = [step - age for age in self.settings.history_steps]
        images = np.stack([self.seen[at] if at >= 0 else np.zeros_like(present) for at in times])
        seen = np.array([at >= 0 for at in times])
        chunk = step // (self.settings.execute * self.settings.repeat)
        return Observation(request.task, request.start, chunk, request.instruction, images, seen, self.state)

    def play(self, chunk: NDArray[np.floating[Any]]) -> None:
        for action in chunk[: self.settings.execute]:
            for _ in range(self.settings.repeat):
                self.step(action)
                if self.over:
                    return

    def play_expert(self) -> None:
        while not self.over:
            self.step(self.env.expert_action())

    def step(self, action: NDArray[np.floating[Any]]) -> None:
        env = self.env
        self.state = env.step(action)
        self.turned = self.turned or env.faucet_turned()
        # Told something else than the task, an environment's own criterion is not what was asked for: a faucet turned
        # either way has answered.
        answered = self.request.instruction != env.instruction and self.turned is not None
        self.over = env.success or answered or env.steps >= self.settings.max_steps
        self._look()

    def result(self) -> Rollout:
        request, steps = self.request, self.env.steps
        return Rollout(
            task=request.task,
            start=request.start,
            start_seed=start_seed(self.settings.seed, request.task, request.start),
            instruction=request.instruction,
            success=self.env.success,
            turned=self.turned,
            steps=steps,
            seconds=steps / CONTROL_HZ,
            frames=np.stack(self.frames) if request.video else None,
        )


class _Worker:
    """The rollouts of one process, at most `slots` at a time."""

    def __init__(self, requests: Sequence[RolloutRequest], slots: int, settings: RolloutSettings) -> None:
        self.waiting = list(requests)
        self.settings = settings
        self.idle: list[MetaWorldEnv] = []
        self.results: list[Rollout] = []
        self.playing: list[_Playing] = []
        for _ in range(min(slots, len(requests))):
            self._begin()

    def _begin(self) -> None:
        """Starts a rollout that waits, if any. The script's rollouts need nobody's answer: they are played at once."""
        if not self.waiting:
            return
        request = self._next_request()
        env = next((env for env in self.idle if env.task == request.task), None)
        if env is None:
            env = MetaWorldEnv(request.task, self.settings.look)
        else:
            self.idle.remove(env)
        playing = _Playing(env, request, self.settings)
        if self.settings.expert:
            playing.play_expert()
            self._end(playing)
        else:
            self.playing.append(playing)

    def _next_request(self) -> RolloutRequest:
        """One whose environment is free if there is such a one: making an environment costs a second. Environments of
        tasks that are through are closed."""
        free = {env.task for env in self.idle}
        index = next((place for place, request in enumerate(self.waiting) if request.task in free), 0)
        request = self.waiting.pop(index)
        needed = {request.task, *(later.task for later in self.waiting)}
        for env in self.idle:
            if env.task not in needed:
                env.close()
        self.idle = [env for env in self.idle if env.task in needed]
        return request

    def _end(self, playing: _Playing) -> None:
        self.results.append(playing.result())
        self.idle.append(playing.env)

    def advance(self, chunks: Sequence[NDArray[np.floating[Any]]]) -> None:
        """One chunk for each of `playing`, in their order."""
        before, self.playing = self.playing, []
        for playing, chunk in zip(before, chunks, strict=True):
            playing.play(chunk)
            if playing.over:
                self._end(playing)
                self._begin()
            else:
                self.playing.append(playing)
        if self.settings.expert:
            self._begin()

    def report(self) -> tuple[list[Observation], list[Rollout], bool]:
        """Observations, rollouts that ended since the last report, and whether there is more to come."""
        results, self.results = self.results, []
        return [playing.observation() for playing in self.playing], results, bool(self.playing or self.waiting)

    def close(self) -> None:
        for env in [*self.idle, *(playing.env for playing in self.playing)]:
            env.close()


def _serve(pipe: Connection, requests: Sequence[RolloutRequest], slots: int, settings: RolloutSettings) -> None:
    worker: _Worker | None = None
    try:
        worker = _Worker(requests, slots, settings)
        while True:
            pipe.send(worker.report())
            chunks = pipe.recv()
            if chunks is None:
                return
            worker.advance(chunks)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except Exception:
        pipe.send(traceback.format_exc())
    finally:
        if worker is not None:
            worker.close()
        pipe.close()


class RolloutPool:
    """Processes, each with its share of the requests; a context manager.

        with RolloutPool(requests, settings, workers=2, slots=6) as pool:
            for observations, results in pool:      # every environment that needs a chunk; rollouts that ended
                pool.answer(chunks)              # float [len(observations), H, 4]

    Rounds are in step: who is asked together depends on the requests and the policy, not on timing.
    Raises WorkerError where an environment's process fails.
    """

    def __init__(
        self, requests: Sequence[RolloutRequest], settings: RolloutSettings, *, workers: int, slots: int
    ) -> None:
        for request in requests:
            assert request.task in INSTRUCTIONS
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []
        self._counts: list[int] = []
        context = multiprocessing.get_context("spawn")
        # llvmpipe would start a thread for each core in each process
        added = [name for name in ("LP_NUM_THREADS", "OMP_NUM_THREADS") if name not in os.environ]
        os.environ.update(dict.fromkeys(added, "1"))
        try:
            for number in range(min(workers, len(requests))):
                ours, theirs = context.Pipe()
                share = list(requests[number::workers])
                process = context.Process(target=_serve, args=(theirs, share, slots, settings), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
        finally:
            for name in added:
                del os.environ[name]

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            try:
                pipe.send(None)
            except (BrokenPipeError, OSError):
                continue
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()
        for pipe in self._pipes:
            pipe.close()

    def __iter__(self) -> RolloutPool:
        return self

    def __next__(self) -> tuple[list[Observation], list[Rollout]]:
        if not self._pipes:
            raise StopIteration
        observations: list[Observation] = []
        results: list[Rollout] = []
        counts: list[int] = []
        ended: list[Connection] = []
        for pipe in self._pipes:
            asked, given, more = self._receive(pipe)
            observations += asked
            results += given
            if more:
                counts.append(len(asked))
            else:
                ended.append(pipe)
        for pipe in ended:
            pipe.send(None)
            pipe.close()
        self._pipes = [pipe for pipe in self._pipes if pipe not in ended]
        self._counts = counts
        return observations, results

    def _receive(self, pipe: Connection) -> tuple[list[Observation], list[Rollout], bool]:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise WorkerError("an environment's process died without a word; was it out of memory?") from error
        if isinstance(message, str):
            raise WorkerError(f"an environment's process failed:\n{message}")
        return message

    def answer(self, chunks: NDArray[np.floating[Any]]) -> None:
        """Sends each environment its chunk, [len(observations), H, 4] in the order of the observations."""
        first = 0
        for pipe, count in zip(self._pipes, self._counts, strict=True):
            pipe.send(list(chunks[first : first + count]))
            first += count


def control_steps(step_s: float) -> int:
    """Control steps for which one step of a chunk is held. Raises ValueError where that is no whole number."""
    steps = step_s * CONTROL_HZ
    if steps < 0.99 or abs(steps - round(steps)) > 0.01:
        raise ValueError(
            f"step_s {step_s:g}: Meta-World is controlled at {CONTROL_HZ} Hz, so a step must last a multiple of "
            f"{1 / CONTROL_HZ} s; train on episodes of 80, 40, 20 or 10 frames a second"
        )
    return round(steps)
