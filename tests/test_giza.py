"""`import giza` offers the three uses, is cheap, and gives what the jobs give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import giza
from corpora.clips.corpus import Corpus
from lapa.latents import Latents
from tests.builders.videos import numbered_video


def test_importing_it_loads_no_torch() -> None:
    code = "import giza, sys; assert giza.__version__ and not {'torch', 'av', 'pyarrow'} & sys.modules.keys(); print(dir(giza))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(
        f"'{name}'" in said for name in ("LatentActionModel", "LatentDataset", "load_latents", "ingest", "ablate")
    )


def test_every_name_is_there() -> None:
    for name in giza.__all__:
        assert getattr(giza, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        giza.nothing  # noqa: B018


def test_latents_of_a_video_are_those_of_the_jobs(tiny_lam: Path, tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "a.mp4", 60)
    sample = giza.LatentActionModel.from_pretrained(tiny_lam).extract(video, gap_s=0.4)
    corpus = giza.ingest(video, out=tmp_path / "corpus")
    giza.extract(tiny_lam, corpus, out=tmp_path / "latents", gap_s=0.4, measure_s=0.0)
    latents = giza.load_latents(tmp_path / "latents")
    expected = latents.read(row.clip_id for row in Corpus(tmp_path / "corpus").clips)
    assert len(sample) == len(expected) > 10
    np.testing.assert_array_equal(sample.latent, expected.latent)
    np.testing.assert_array_equal(sample.t_s, expected.t_s)


def test_a_video_of_which_nothing_is_kept_is_told(tiny_lam: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="unreadable"):
        giza.LatentActionModel.from_pretrained(tiny_lam).extract(tmp_path / "broken.mp4")


def test_the_dataset_gives_each_pair_its_two_frames(tiny_corpus: Path, tiny_latents: Path, tmp_path: Path) -> None:
    dataset = giza.LatentDataset(tiny_corpus, tiny_latents, cache=tmp_path)
    assert len(dataset) == len(Latents(tiny_latents)) and not dataset.faults
    clips = {clip.row.clip_id: clip for clip in Corpus(tiny_corpus).read()}
    expected = Latents(tiny_latents).read(clips)
    for number in range(0, len(dataset), 7):
        item, clip = dataset[number], clips[str(expected.clip_id[number])]
        first = int(np.abs(clip.t_s - expected.t_s[number]).argmin())
        second = int(np.abs(clip.t_s - expected.t_s[number] - expected.gap_s[number]).argmin())
        assert first < second and item["clip_id"] == clip.row.clip_id
        frames = item["frames"].permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(frames, clip.frames[[first, second]])
        np.testing.assert_array_equal(item["latent"].numpy(), expected.latent[number])
        np.testing.assert_array_equal(item["codes"].numpy(), expected.codes[number])
    batch = next(iter(DataLoader(dataset, batch_size=4, num_workers=1)))
    assert batch["frames"].shape[:3] == (4, 2, 3) and batch["frames"].dtype == torch.uint8 and len(batch["text"]) == 4


def test_latents_of_another_corpus_are_refused(tiny_latents: Path, tmp_path: Path) -> None:
    from tests.builders.corpora import write_corpus

    other = write_corpus(tmp_path / "other", range(2))
    with pytest.raises(ValueError, match="another corpus"):
        giza.LatentDataset(other, tiny_latents, cache=tmp_path)
