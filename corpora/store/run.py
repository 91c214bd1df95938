"""A run: one job's folder, which belongs to one configuration, is written by one process at a time, and is done once."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout

from corpora.store.files import UNFINISHED, plain, read_json, write_json
from corpora.store.kinds import expect_own
from corpora.store.provenance import provenance
from corpora.store.ranks import process_rank
from corpora.store.upload import uploaded

SETTINGS = "settings.json"
TRAINING = "train.json"
"""As SETTINGS, of trainings."""
SUMMARY = "run.json"
BUDGET = ("steps", "minutes", "training.steps", "training.minutes")
LAYOUT = ("training.workers", "training.devices", "training.strategy", "training.compile")
"""Of the processes that do the work, and how: it may change where a training goes on."""
LOCK = ".lock"
LOCK_WAIT_S = 6.0
"""A killed process' loaders hold its lock until they notice, which takes them up to five seconds."""


class Run:
    """The folder of one job.

        run = Run(out, settings)
        if run.finished is not None:
            return run.finished
        ...                           # whatever can be refused is refused here: nothing is written yet
        with run.claim():
            ...
            return run.finish(summary)

    settings: all that the result depends on; plain values, in dicts and lists. Paths that may move are left out.
    budget: settings that may change; where they do, the run is not finished but goes on.
    free: settings that may change and change nothing.
    formats: numbers of this version of giza, no flags; None where one has no say in the run.
    summary, record: files of the folder: what came out, and the settings.
    inside: key of the summary that holds the settings, of which the record then goes when the run is finished.
    alone: the folder must hold nothing else.
    together: several processes train together in it; the first of them claims it and writes, for all.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        summary: str = SUMMARY,
        record: str = SETTINGS,
        budget: Sequence[str] = (),
        free: Sequence[str] = (),
        formats: Mapping[str, int | None] = MappingProxyType({}),
        inside: str = "",
        alone: bool = False,
        together: bool = False,
    ) -> None:
        self.folder = folder.expanduser()
        self.settings = _flat(plain(dict(settings))) | dict(formats)
        self._summary, self._record = self.folder / summary, self.folder / record
        self._budget, self._free, self._formats = tuple(budget), {*budget, *free}, formats
        self._inside, self._alone = inside, alone
        self._writes = not together or process_rank() == 0

    @property
    def finished(self) -> dict[str, Any] | None:
        """What `finish` was given, with "already_finished"; None where there is still something to do.

        Raises ValueError where the folder holds another run, or one of another version of giza.
        """
        there = self._checked()
        summary = read_json(self._summary)
        if summary is None or any(there.get(name) != self.settings.get(name) for name in self._budget):
            return None
        return {**summary, "already_finished": True}

    @contextmanager
    def claim(self) -> Iterator[Run]:
        """Makes the folder, locks it and writes the settings; clears what a killed process left half-written.

        Raises ValueError as `finished`, and where another
        process is writing there. A body that is refused (ValueError) before it wrote anything leaves nothing behind.
        """
        before = self.finished
        if not self._writes:
            yield self
            return
        made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=LOCK_WAIT_S)
        except Timeout:
            raise ValueError(
                f"another process is writing to '{self.folder}': wait for it, or give another --out"
            ) from None
        try:
            if before is None and self.finished is not None:
                raise ValueError(
                    f"'{self.folder}' was finished by another process meanwhile: run the same command again"
                )
            there = self._checked()
            if there and any(there.get(name) != self.settings.get(name) for name in self._budget):
                self._summary.unlink(missing_ok=True)  # first of all: a run with a summary is finished
            for path in self.folder.glob(f"*{UNFINISHED}"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._record.parent.mkdir(exist_ok=True)
            write_json(self._record, self.settings)
            try:
                with uploaded(self.folder):
                    yield self
            except ValueError:
                if not there and {path.name for path in self.folder.iterdir()} <= {self._record.name, LOCK}:
                    self._record.unlink(missing_ok=True)
                raise
        finally:
            (self.folder / LOCK).unlink(missing_ok=True)
            lock.release()
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def finish(self, summary: Mapping[str, Any], *, traced: bool = True) -> dict[str, Any]:
        """Writes `summary` with its provenance (where it is to be `traced`) and returns it as JSON has it. The run is
        finished then."""
        record: dict[str, Any] = plain({**summary, "provenance": provenance()} if traced else dict(summary))
        if self._writes:
            write_json(self._summary, record)
            if self._inside:
                self._record.unlink()
        return record

    def _checked(self) -> dict[str, Any]:
        """The settings that the folder holds, {} where there are none. Raises ValueError where they are of another run."""
        if self.folder.is_file():
            raise ValueError(f"--out '{self.folder}' is a file: name a folder")
        found, summary = read_json(self._record), read_json(self._summary)
        if found is None and summary is not None:
            found = summary.get(self._inside, {"format": None})  # a result without its settings
        if found is None:
            known = {LOCK, self._record.relative_to(self.folder).parts[0]}
            if self._alone and self.folder.is_dir() and {path.name for path in self.folder.iterdir()} - known:
                raise ValueError(f"--out '{self.folder}' holds other files: name a new or empty folder")
            expect_own(self.folder, own=known | {self._summary.name, self._record.name})
            return {}
        there = _flat(found)
        differ = [
            name for name in sorted({*self.settings, *there} - self._free) if self.settings.get(name) != there.get(name)
        ]
        chosen = [name for name in differ if name in self.settings and name in there and name not in self._formats]
        differences = ", ".join(
            f"{name} {_short(there.get(name, 'absent'))} there and {_short(self.settings.get(name, 'absent'))} here"
            for name in chosen or differ
        )
        if chosen:
            raise ValueError(
                f"'{self.folder}' holds a run with other settings ({differences}): resume with the same flags, or give another "
                "--out"
            )
        if differ:
            raise ValueError(
                f"'{self.folder}' holds a run that was begun by another version of giza ({differences}), which this one cannot "
                f"resume: begin again with another --out, or remove '{self.folder}'"
            )
        return there


def _short(value: Any) -> str:
    return textwrap.shorten(str(value), 40)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"training": {"lr": 1}} -> {"training.lr": 1}; of a list of such also its length, {"datasets": 1, "datasets.0.name": "a"}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            flat[f"{before}{name}"] = len(value)
            value = {str(place): entry for place, entry in enumerate(value)}
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def dataset_run(out: Path, settings: Mapping[str, Any], summary: str, record: str) -> Run:
    """The run of a job that writes a dataset and nothing else into `out`; `settings` with its "format". Raises ValueError as `Run`."""
    formats = {"format": settings["format"]}
    return Run(out, settings, summary=summary, record=record, inside="settings", alone=True, formats=formats)
