"""What LAPA writes, and LeRobot datasets whose action is a latent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from lapa.foreign.bring import bring_in, foreign_facts
from lapa.foreign.formats import choose_format
from lapa.foreign.settings import ForeignSettings
from tests.builders.corpora import clip_frames, clip_members, sliding_camera, store_clips
from tests.builders.datasets import lerobot_v2, lerobot_v3, truth_of
from tests.builders.foreign import write_jsonl
from tests.builders.latents import rows

FPS, FRAMES, GAP = 15, 14, 6
TOLD = ForeignSettings(gap_s=GAP / FPS)


def corpus_of(root: Path, sources: dict[str, str]) -> Corpus:
    """A clip of each source, from its beginning on; source -> group."""

    def clip(number: int, source: str, group: str) -> tuple[ClipRow, dict[str, bytes]]:
        t_s = np.arange(FRAMES) / FPS
        row = ClipRow(
            f"{number:016x}", source, group, start_s=0.0, end_s=FRAMES / FPS, frames=FRAMES, width=48, height=48, size=48, kept=True
        )  # fmt: skip
        return row, clip_members(
            clip_frames(number, FRAMES, moving=False), t_s, sliding_camera(FRAMES - GAP, GAP), crf=20
        )

    clips = (clip(number, source, group) for number, (source, group) in enumerate(sources.items()))
    return Corpus(store_clips(root, clips))


def lapa_line(folder: str, frame: int, codes: list[int]) -> dict[str, object]:
    """As `laq/inference_sthv2.py` writes it."""
    return {
        "image": f"{folder}/img_{frame:05d}.jpg",
        "vision": "[1, 2]",
        "instruction": "Pushing something",
        "delta": [str(code) for code in codes],
        "fields": "[instruction],[vision],delta",
    }


def test_lapas_lines_find_their_frames(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", {"sthv2/7.webm": "sthv2/7.webm", "sthv2/12.webm": "sthv2/12.webm"})
    lines = [
        lapa_line(f"/data/sthv2/{video}", frame, [frame % 8, 0, video % 8, 3])
        for video in (12, 7)
        for frame in range(FRAMES)
    ]
    lines.append(lapa_line("/data/sthv2/7", 0, [1, 2, 3, 4]) | {"image": "/data/sthv2/7/first.jpg"})
    path = write_jsonl(tmp_path / "laq.jsonl", lines)
    with pytest.raises(ValueError, match=r"--foreign.fps .*--foreign.gap-s \(window_size / fps\)"):
        bring_in(path, corpus, tmp_path / "latents")
    latents = bring_in(path, corpus, tmp_path / "latents", dataclasses.replace(TOLD, fps=FPS))
    facts = foreign_facts(latents)
    assert facts is not None and facts.format == "lapa-jsonl" and facts.one_hot
    assert (facts.codebook_size, facts.codebook_told) == (8, True)
    # LAPA puts the last frame where there is no second: those pairs are left out
    assert [(fault.reason, fault.rows) for fault in facts.faults] == [
        ("ends after its clip", 2 * GAP),
        ("has an image that is no numbered frame in a folder", 1),
    ]
    found = [(row["source"], round(row["t_s"] * FPS), row["codes"]) for row in rows(tmp_path / "latents")]
    assert found == [(f"sthv2/{v}.webm", k, [k % 8, 0, v % 8, 3]) for v in (7, 12) for k in range(FRAMES - GAP)]
    write_jsonl(path, [lapa_line("/data/sthv2/7", 0, [9, 0, 0, 0])])
    with pytest.raises(ValueError, match=r"a code 9, where 8 codes are usual.*--foreign.codebook-size"):
        bring_in(path, corpus, tmp_path / "others", dataclasses.replace(TOLD, fps=FPS))


@pytest.mark.parametrize("make", [lerobot_v2, lerobot_v3])
def test_a_lerobot_datasets_action_is_its_latent(make: object, tmp_path: Path) -> None:
    sources = {f"robot/episode_{k:06d}/top": f"robot/episode_{k:06d}" for k in range(2)}
    corpus = corpus_of(tmp_path / "corpus", sources)
    dataset = make(tmp_path / "latent_actions")  # type: ignore[operator]
    assert choose_format(dataset, ForeignSettings())[0] == "lerobot"
    with pytest.raises(ValueError, match="give --foreign.gap-s"):
        bring_in(dataset, corpus, tmp_path / "latents")
    with pytest.raises(ValueError, match="foreign.column 'actoin' .*Did you mean 'action'"):
        bring_in(dataset, corpus, tmp_path / "latents", dataclasses.replace(TOLD, column="actoin"))
    facts = foreign_facts(bring_in(dataset, corpus, tmp_path / "latents", TOLD))
    back = rows(tmp_path / "latents")
    assert facts is not None and facts.pairs == len(back) > 0 and not facts.one_hot and facts.codebook_size == 0
    assert {row["source"] for row in back} == set(sources)
    for row in back:
        episode, frame = int(row["clip_id"], 16), round(row["t_s"] * FPS)
        np.testing.assert_allclose(row["latent"], truth_of(episode)["action"][frame], rtol=1e-6)


def test_two_cameras_are_told_apart_by_name(tmp_path: Path) -> None:
    sources = {f"robot/episode_000000/{camera}": "robot/episode_000000" for camera in ("top", "side")}
    corpus = corpus_of(tmp_path / "corpus", sources)
    dataset = lerobot_v2(tmp_path / "latent_actions")
    with pytest.raises(ValueError, match="names several videos of the corpus .*--foreign.camera"):
        bring_in(dataset, corpus, tmp_path / "latents", TOLD)
    bring_in(dataset, corpus, tmp_path / "latents", dataclasses.replace(TOLD, camera="side", dataset="robot"))
    assert {row["source"] for row in rows(tmp_path / "latents")} == {"robot/episode_000000/side"}


def test_a_line_of_lapas_is_json_that_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "theirs.jsonl").write_text(json.dumps({"video": "a", "delta": ["1"]}) + "\n", "utf-8")
    assert choose_format(tmp_path / "theirs.jsonl", ForeignSettings())[0] == "jsonl"
