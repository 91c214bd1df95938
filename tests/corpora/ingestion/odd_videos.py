"""Pushes odd and broken videos (`tests.builders.odd`) through ingest and judges what comes of each by what it shows:

    python -m tests.corpora.ingestion.odd_videos FOLDER --count 1000

prints how many of each kind ended how, and each that ended wrong: a video without a row or with one twice, a frame that is
lost without a word, doubled, at another time or in other colours, a reason that does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from corpora.clips.corpus import Clip, Corpus
from corpora.clips.manifest import ClipRow
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.ingestion.stage import TRUNCATED_S
from corpora.sources.source import SourceDefaults
from corpora.video.settings import DuplicateSettings
from tests.builders.odd import KINDS, Case, Unwritable, formats
from tests.builders.videos import number_of

SETTINGS = IngestSettings(size=80, max_fps=1000.0, clip_s=1.0, min_clip_s=0.5, camera_gap_s=0.5, crf=10)
SETTINGS = replace(
    SETTINGS, duplicates=DuplicateSettings(similarity=1.01)
)  # to their numbers all scenes are much alike
"""Every frame is stored, in windows of which a video has two."""
FORMATS = "formats.container_and_codec"
EVERYWHERE = frozenset({"too_short", "static"})
"""The last window of a video may be short, and in less than half a second nothing is known of motion."""


def make_videos(folder: Path, count: int, seed: int, only: str = "") -> list[tuple[str, Case]]:
    """(kind, case) of `count` videos: two in five are formats, each once, the others of all kinds alike; the same for the
    same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    of_formats = _formats(folder, rng) if only in FORMATS else iter(())
    others = _others(folder, rng, only)
    made: list[tuple[str, Case]] = []
    while len(made) < count:
        turn = (of_formats, others) if len(made) % 5 < 2 else (others, of_formats)
        found = next(turn[0], None) or next(turn[1], None)
        if found is None:
            break
        made.append(found)
    return made


def _formats(folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Case]]:
    for number in rng.permutation(len(formats.pairs())):
        with contextlib.suppress(Unwritable):
            way = formats.pairs()[number]
            yield FORMATS, formats.container_and_codec(folder, f"f{number:05d}", rng, *way)


def _others(folder: Path, rng: np.random.Generator, only: str) -> Iterator[tuple[str, Case]]:
    kinds = [(name, make) for name, make in KINDS.items() if only in name]
    for number in itertools.count() if kinds else ():
        name, make = kinds[number % len(kinds)]
        with contextlib.suppress(Unwritable):
            yield from ((name, case) for case in make(folder, f"{number:05d}", rng))


def ingest(folder: Path, out: Path, workers: int = 1) -> Corpus:
    lists = [str(path) for path in sorted(folder.glob("*.jsonl"))]
    make_corpus([str(folder), *lists], SETTINGS, SourceDefaults(), IngestRun(out, workers=workers, file_timeout_s=20.0))
    return Corpus(out)


def judge(corpus: Corpus, made: Sequence[tuple[str, Case]]) -> list[tuple[str, str, str, list[str]]]:
    """(kind, source, how it ended, what is wrong) of each video."""
    rows: dict[str, list[ClipRow]] = defaultdict(list)
    for row in corpus.rows():
        rows[row.source].append(row)
    cases = {case.source: (kind, case) for kind, case in made}
    assert len(cases) == len(made)
    clips: dict[str, list[Clip]] = defaultdict(list)
    found = []
    for clip in corpus.read():
        clips[clip.row.source].append(clip)
    for source, (kind, case) in cases.items():
        ending = "left out" if case.left_out else _ending(case, rows[source])
        found.append((kind, source, ending, _wrong(case, rows[source], clips[source])))
    strange = sorted(set(rows) - set(cases))
    found += [("", source, "of no video", ["a row of what was never put there"]) for source in strange if rows[source]]
    left_out = Counter(case.left_out for _, case in made if case.left_out)
    if (told := Counter(corpus.summary["files_skipped"])) != (expected := left_out + _furniture(corpus, made)):
        found.append(("", "", "left out", [f"left out are {dict(told)}, to be left out were {dict(expected)}"]))
    return found


def _furniture(corpus: Corpus, made: Sequence[tuple[str, Case]]) -> Counter[str]:
    """What lies beside the videos: lists and the folders that they and links point to."""
    folder = Path(corpus.summary["config"]["inputs"][0])
    folders = sum((folder / name).is_dir() for name in (".listed", ".linked"))
    expected = Counter({"(hidden folder)": folders, ".jsonl": len(list(folder.glob("*.jsonl")))})
    return +expected


def _ending(case: Case, rows: Sequence[ClipRow]) -> str:
    kept = sum(row.frames for row in rows if row.kept)
    reasons = sorted({row.reason for row in rows if not row.kept} - ({"too_short"} if kept else set()))
    if not rows:
        return "no row"
    if kept:
        return "whole" if kept >= 0.9 * len(case.seen) else "+".join(["in part", *reasons])
    return "+".join(reasons)


def _wrong(case: Case, rows: Sequence[ClipRow], clips: Sequence[Clip]) -> list[str]:
    if case.left_out:
        return ["a row although it is no video"] if rows else []
    if not rows:
        return ["no row"]
    wrong = []
    ids = Counter(row.clip_id for row in rows)
    wrong += [f"clip {name} has {count} rows" for name, count in ids.items() if count > 1]
    for row in rows:
        if row.reason not in case.reasons | EVERYWHERE | {""}:
            wrong.append(f"dropped as {row.reason}: {row.detail}")
        if case.words and row.width and case.words not in row.decoder_note:
            wrong.append(f"not said to be {case.words}: {row.decoder_note!r}")
    if case.text and any(row.text not in (case.text, "") for row in rows):
        wrong.append(f"text {rows[0].text!r}")
    return wrong + _frames(case, rows, clips)


def _frames(case: Case, rows: Sequence[ClipRow], clips: Sequence[Clip]) -> list[str]:
    """What is wrong with what was stored of a video."""
    wrong: list[str] = []
    left = {number: t_s for t_s, number in case.seen}
    place = {number: each for each, (_, number) in enumerate(sorted(case.seen))}
    last, shift_s = -1, None
    for clip in clips:
        for t_s, image, index in zip(clip.t_s, clip.frames, clip.frame_index.tolist(), strict=True):
            number, where = number_of(image), f"at {t_s:.3f} s"
            if number not in left:
                if not case.unnoticed:
                    wrong.append(f"{where} frame {number}, which is not to be shown (again)")
                continue
            then_s = left.pop(number)
            if case.floating and shift_s is None:
                shift_s = t_s - then_s
            late_s = t_s - then_s - (shift_s or 0.0)
            if case.clockless and number <= last and not case.unnoticed:
                wrong.append(f"{where} frame {number} after {last}")
            if not case.clockless and abs(late_s) > case.tie_s + 1e-6 and not case.unnoticed:
                wrong.append(f"{where} frame {number}, {late_s:+.4f} s off")
            if not case.damaged and not case.unnoticed and index != place[number]:
                wrong.append(f"{where} frame {number} is said to be the {index}th, of {place[number]}")
            last = number
            if (off := difference(image, case.images(number))) > case.tolerance and not case.unnoticed:
                wrong.append(f"{where} frame {number} differs by {off:.1f}")
    return [*wrong, *_missing(case, rows, left)][:6]


def _missing(case: Case, rows: Sequence[ClipRow], left: dict[int, float]) -> list[str]:
    """Frames that are in no clip, and in no row that says so."""
    dropped = [row for row in rows if not row.kept]
    if case.damaged:
        told = dropped or any(row.detail for row in rows)
        end_s = max((t_s for t_s, _ in case.seen), default=0.0) - TRUNCATED_S
        silent = [number for number, t_s in left.items() if t_s < end_s]
        if case.unnoticed or case.endless:
            return []
        return [f"frames {silent} are lost without a word"] if silent and not told else []
    slack = case.tie_s + 1e-3
    silent = [n for n, t in left.items() if not any(row.start_s - slack <= t < row.end_s + slack for row in dropped)]
    return [f"frames {silent} are in no row"] if silent and case.seen else []


def difference(image: np.ndarray, shown: np.ndarray) -> float:
    """Of two pictures, small: what encoding changes averages out, what is another picture or colour does not."""
    small = [cv2.resize(each, (20, 20), interpolation=cv2.INTER_AREA).astype(np.float32) for each in (image, shown)]
    return float(np.abs(small[0] - small[1]).mean())


def table(found: Sequence[tuple[str, str, str, list[str]]]) -> str:
    """Kinds by endings."""
    cells: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, _, ending, wrong in found:
        cells[kind][ending] += 1
        cells[kind]["WRONG"] += bool(wrong)
    lines = []
    for kind, endings in sorted(cells.items()):
        said = ", ".join(f"{count} {name}" for name, count in endings.most_common() if count and name != "WRONG")
        lines.append(f"{kind:34} {endings.total() - endings['WRONG']:4} {said}; {endings['WRONG']} wrong")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    args = parser.parse_args(argv)
    began = time.monotonic()
    made = make_videos(args.folder / "videos", args.count, args.seed, args.only)
    print(f"{len(made)} videos made in {time.monotonic() - began:.0f} s", flush=True)
    found = judge(ingest(args.folder / "videos", args.folder / "corpus", args.workers), made)
    print(table(found))
    bad = [each for each in found if each[3]]
    for kind, source, ending, wrong in bad:
        print(json.dumps({"kind": kind, "source": source, "ending": ending, "wrong": wrong}))
    print(f"{len(found)} videos, {len(bad)} wrong; {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
