"""What a job shows while it works, alike for all: how far it is, its rate, how long it will take, its memory.

On a terminal that is a bar; elsewhere a line every ten seconds. Between bars, and while libraries are loaded, `at_work` says
that the job is alive.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from corpora.store.files import peak_memory_mb

SILENT_S = 9.0
"""After so long a word is said, so that nobody waits for ten seconds where a busy machine is late."""
FIRST_S = 1.5
"""After the start of the command."""
REDRAWN_S = 0.2
"""On a terminal."""

Update = Callable[..., None]
"""Called with (done, total), and with what is being done where that changes."""


class Activity:
    """Something that takes a while: so much done of so much, 0 where that is unknown."""

    def __init__(self, title: str, *, unit: str = "", text: Callable[[], str] | None = None) -> None:
        """text: what to say beside the title instead of how many units a second there are."""
        self._title, self._unit, self._text = title, unit, text
        self._done = self._total = 0
        self._first = 0
        self._began = time.monotonic()

    def update(self, done: int, total: int, title: str | None = None) -> None:
        """Another title, done anew, is another activity: its rate is its own."""
        if done < self._done or (self._total == 0 and total):
            self._began, self._first = time.monotonic(), done
        self._done, self._total = done, total
        self._title = self._title if title is None else title

    @property
    def share(self) -> float:
        return self._done / self._total if self._total else 0.0

    def said(self) -> str:
        """One line."""
        seconds = time.monotonic() - self._began
        fresh = self._done - self._first  # what was there before is no work of now
        rate = fresh / max(seconds, 1e-9)
        words = [f"{self._done:,} of {self._total:,} {self._unit}".rstrip() if self._total else ""]
        words.append(self._text() if self._text else f"{rate:.3g} {self._unit}/s" if fresh and self._unit else "")
        words.append(f"{duration(seconds)} so far")
        if fresh and self._done < self._total:
            words.append(f"about {duration((self._total - self._done) / rate)} left")
        words.append(f"at most {peak_memory_mb() / 1000:.1f} GB of memory")
        return ": ".join(filter(None, (self._title, ", ".join(filter(None, words)))))


def duration(seconds: float) -> str:
    """ "8 s", "3 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class _Voice:
    """What is being done in this process, and when it was last told."""

    def __init__(self) -> None:
        self.doing: list[Activity] = []
        self.drawn = 0
        """Bars on a terminal, and servers, which need no lines."""
        self.told_s = time.monotonic()
        self.begun = threading.Event()
        """The flags are read and right: help and a user's error need no sign of life."""

    def begin(self) -> None:
        self.told_s = time.monotonic()
        self.begun.set()

    def say(self, text: str) -> None:
        self.told_s = time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def say_if_due(self) -> None:
        if self.doing and not self.drawn and time.monotonic() - self.told_s >= SILENT_S:
            self.say(self.doing[-1].said())


VOICE = _Voice()


@contextmanager
def bar(
    title: str, *, unit: str = "", quiet: bool = False, keep: bool = False, text: Callable[[], str] | None = None
) -> Iterator[Update]:
    """What is done within, on standard error: a bar that is gone at the end unless `keep`, or lines."""
    activity = Activity(title, unit=unit, text=text)
    if quiet:
        yield activity.update
        return
    console = Console(stderr=True)
    VOICE.doing.append(activity)
    try:
        if console.is_terminal:
            with _drawn(activity, console, keep) as update:
                yield update
        else:

            def update(done: int, total: int, title: str | None = None) -> None:
                activity.update(done, total, title)
                if done < total or not keep:  # which tells the end
                    VOICE.say_if_due()

            yield update
            if keep:
                VOICE.say(activity.said())
    finally:
        VOICE.doing.remove(activity)


@contextmanager
def _drawn(activity: Activity, console: Console, keep: bool) -> Iterator[Update]:
    columns = BarColumn(20), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console, transient=not keep, redirect_stderr=True) as progress:
        task = progress.add_task(activity.said(), total=1.0)
        drawn_s = 0.0

        def update(done: int, total: int, title: str | None = None) -> None:
            nonlocal drawn_s
            activity.update(done, total, title)
            if time.monotonic() - drawn_s > REDRAWN_S or done == total:
                drawn_s = time.monotonic()
                progress.update(task, completed=activity.share, description=activity.said())

        VOICE.drawn += 1
        try:
            yield update
            progress.update(task, completed=activity.share, description=activity.said())
        finally:
            VOICE.drawn -= 1


@contextmanager
def at_service() -> Iterator[None]:
    """Of a server: its silence means that nobody asks."""
    VOICE.drawn += 1
    try:
        yield
    finally:
        VOICE.drawn -= 1


@contextmanager
def at_work(job: str) -> Iterator[None]:
    """While a command runs: says so before two seconds are over, and whenever it would have been silent for ten."""
    began, ended = time.monotonic(), threading.Event()
    VOICE.begun.clear()

    def watch() -> None:
        limit = FIRST_S
        while not ended.wait(0.25):
            if not VOICE.begun.is_set() or VOICE.drawn or time.monotonic() - VOICE.told_s < limit:
                continue
            limit = SILENT_S
            if VOICE.doing:
                VOICE.say(VOICE.doing[-1].said())
            else:
                VOICE.say(f"giza {job}: at work, {duration(time.monotonic() - began)} so far")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
