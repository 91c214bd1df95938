"""Reading ahead: who reads may stop at any moment, wherever the reader is then closed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from corpora.clips.corpus import Corpus
from corpora.clips.parts import plan_parts
from lapa.pairs.reader import _ahead


def test_a_reader_may_be_closed_in_one_of_its_own_threads(tiny_corpus: Path) -> None:
    """As the garbage collector does with one that was left alone: waiting for its threads would there be for itself."""
    left, closed = threading.Event(), threading.Event()
    held: list[Any] = []
    done: list[int] = []

    def work(clip: Any) -> int:
        done.append(len(done))
        if len(done) > 2:
            assert left.wait(20)
            held.clear()  # the last reference to the reader
            closed.set()
        return len(done)

    held.append(_ahead(tiny_corpus, plan_parts(Corpus(tiny_corpus).clips), work, 1, 0))
    assert next(held[0])[2] == 1
    left.set()
    assert closed.wait(20) and not held
