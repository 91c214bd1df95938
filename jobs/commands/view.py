"""`giza view`: plays clips or episodes beside their latents, codes, states, actions and predictions."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corpora.store.inputs import READ, READ_OR_HUB, ROBOT
from corpora.store.remote import told
from jobs.cli import parse
from jobs.progress import at_service, bar


@dataclass(frozen=True)
class ViewConfig:
    """A page on this machine that ends with Ctrl-C, or a recording for rerun."""

    folder: Path = field(metadata=READ)
    """A corpus, latents, or a LeRobot dataset."""
    latents: Path | None = field(default=None, metadata=READ)
    """Of the corpus."""
    corpus: Path | None = field(default=None, metadata=READ)
    """Of the latents, where it does not lie where they were extracted."""
    policy: str = field(default="", metadata=READ_OR_HUB)
    """Of a dataset: draw what this policy would do beside the recorded actions."""
    embodiment: str = field(default="", metadata=ROBOT)
    """Of the policy, where it knows several robots."""
    save: Path | None = None
    """Write a recording for rerun (.rrd) instead."""
    items: int = 20
    """Of --save: the first so many clips or episodes."""
    port: int = 8765
    """Of the page; 0: any that is free."""
    browser: bool = True
    """Open the page."""

    def __post_init__(self) -> None:
        if self.save is not None and self.save.suffix != ".rrd":
            raise ValueError(f"--save '{self.save}': the name of a rerun recording ends in .rrd")
        if self.items < 1:
            raise ValueError(f"--items {self.items}: at least 1")


def run(config: ViewConfig) -> None:
    """Serves until it is interrupted, or writes the recording."""
    from jobs.viewing.items import open_viewed

    viewed = open_viewed(config.folder, config.latents, config.corpus, config.policy, config.embodiment)
    if config.save is not None:
        from jobs.viewing.rerun_file import save_recording

        numbers = range(min(config.items, len(viewed.heads)))
        with bar("recording", unit="items") as progress:
            save_recording(viewed, numbers, config.save.expanduser(), progress=progress)
        print(f"{len(numbers)} of {len(viewed.heads)} -> {config.save}; open it with: rerun {config.save}")
        return
    from jobs.viewing.server import serve

    with serve(viewed, told(config.folder), config.port) as server, at_service():
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{len(viewed.heads)} to view at {address} (Ctrl-C ends)", flush=True)
        if config.browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def main(argv: Sequence[str]) -> None:
    """The job's command line; the folder may stand first without a flag."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = ["--folder", *words]
    run(parse(ViewConfig, words, job="view"))
