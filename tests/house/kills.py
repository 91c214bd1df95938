"""Kills ingest, train-lam, extract and ablate again and again, over odd and broken videos, and compares what comes of it with what
was made undisturbed:

    python -m tests.house.kills FOLDER --videos 1000 --kills 100

A command is started, killed (SIGKILL, by turns alone and with all of its processes) after a random time in which it gets
somewhere, and started again, until its share of the kills is spent; then it may end. Nothing may be lost, doubled or other.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.builders.corpora import corpus_files
from tests.builders.latents import parts
from tests.corpora.ingestion.odd_videos import make_videos

SHARES = {"ingest": 0.4, "train-lam": 0.2, "extract": 0.2, "ablate": 0.2}
"""Of the kills."""
LONGEST = 1.0
"""A start lives at most so many times as long as the undisturbed command took, over the kills that are left to it."""
LEAST_S = 6.0
"""Within which a command may be killed while it is only starting."""


def commands(videos: Path, out: Path) -> dict[str, list[str]]:
    corpus, lam = str(out / "corpus"), str(out / "lam")
    return {
        "ingest": ["ingest", str(videos), "--out", corpus, "--size", "64", "--clip-s", "1", "--workers", "2"],
        "train-lam": ["train-lam", "--corpus", corpus, "--recipe", "debug", "--out", lam, "--training.steps", "300"],
        "extract": [
            *("extract", "--lam", lam, "--corpus", corpus, "--out", str(out / "latents"), "--part-frames", "200"),
            *("--measure-s", "0", "--workers", "1", "--gap-s", "0.2"),
        ],
        "ablate": [
            *("ablate", "--recipe", "joint_demo", "--out", str(out / "ablation"), "--tasks", "drawer-open"),
            *("--arms", "robot-only", "bc", "--demos", "1", "--seeds", "0", "--parallel", "1"),
            *("--budget.ground-steps", "60", "--budget.starts", "3", "--budget.max-steps", "60"),
            *("--data.robot-episodes", "8"),
        ],
    }


def start(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *words], stdout=file, stderr=file, start_new_session=True
        )


def undisturbed(words: Sequence[str], log: Path) -> float:
    """Seconds that it takes. Raises RuntimeError where it fails."""
    began = time.monotonic()
    if status := start(words, log).wait():
        raise RuntimeError(f"{words[0]} ended with {status} without a kill: see {log}")
    return time.monotonic() - began


def disturbed(words: Sequence[str], log: Path, kills: int, whole_s: float, rng: random.Random) -> int:
    """Runs it to its end through so many kills; how many came while it still ran."""
    done = 0
    for number in range(kills):
        process = start(words, log)
        longest = LEAST_S + LONGEST * whole_s / max(1, kills)
        try:
            process.wait(rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            done += 1
        else:
            if process.returncode:
                raise RuntimeError(
                    f"{words[0]} ended with {process.returncode} after {done} kills: see {log}"
                ) from None
            continue  # it had ended before: to end again at once is what is asked of it then
        if number % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    undisturbed(words, log)
    return done


def made(out: Path) -> dict[str, object]:
    """What the four commands made, without what tells times and folders."""
    ablation = json.loads((out / "ablation" / "ablation.json").read_text())
    runs = [{name: value for name, value in run.items() if name != "minutes"} for run in ablation["runs"]]
    return {
        **{f"corpus/{name}": data for name, data in corpus_files(out / "corpus").items()},
        "lam": (out / "lam" / "model.safetensors").read_bytes(),
        **{f"latents/{name}": data for name, data in parts(out / "latents").items()},
        "ablation": runs,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    asked.folder.mkdir(parents=True, exist_ok=True)
    videos, straight, killed = (asked.folder / name for name in ("videos", "straight", "killed"))
    cases = make_videos(videos, asked.videos, asked.seed)
    rng = random.Random(asked.seed)
    total = 0
    for name, words in commands(videos, straight).items():
        whole_s = undisturbed(words, asked.folder / f"{name}-straight.log")
        kills = round(SHARES[name] * asked.kills)
        log = asked.folder / f"{name}-killed.log"
        hit = disturbed(commands(videos, killed)[name], log, kills, whole_s, rng)
        total += hit
        print(f"{name}: {whole_s:.0f} s undisturbed, {hit} kills while it ran, of {kills} starts", flush=True)
    one, other = made(straight), made(killed)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    print(f"{len(cases)} videos, {total} kills, {len(one)} results, different: {differ or 'none'}")
    if differ:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
