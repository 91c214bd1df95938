"""Latents from elsewhere find their pairs, and what is wrong with a row is counted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from lapa.foreign.bring import bring_in, foreign_facts
from lapa.foreign.formats import choose_format
from lapa.foreign.settings import ForeignSettings
from tests.builders.corpora import write_corpus
from tests.builders.foreign import WRITERS, measured_latents, records_of, write_jsonl, write_npz
from tests.builders.latents import assert_same_rows, rows

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(write_corpus(tmp_path_factory.mktemp("foreign") / "corpus", range(4)))


@pytest.fixture(scope="module")
def own(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return rows(measured_latents(tmp_path_factory.mktemp("foreign") / "own", corpus.folder))


def by_video(own: list[dict[str, Any]], before: str = "") -> Records:
    return [record | {"video": before + record["video"]} for record in records_of(own, clip_id="", source="video")]


@pytest.mark.parametrize("kind", ["jsonl", "npz", "parquet"])
def test_what_was_written_out_comes_back_as_it_was(
    kind: str, own: list[dict[str, Any]], corpus: Corpus, tmp_path: Path
) -> None:
    records = records_of(own) if kind == "npz" else by_video(own, "/somewhere/else/")
    random.Random(0).shuffle(records)
    path = WRITERS[kind](tmp_path / f"theirs.{kind}", records)
    latents = bring_in(path, corpus, tmp_path / "latents")
    back = rows(tmp_path / "latents")
    assert [row["clip_id"] for row in back] == [row["clip_id"] for row in own], "in the order of the corpus"
    known_hash = back[0]["model_hash"]
    assert known_hash != own[0]["model_hash"]
    assert_same_rows([row | {"model_hash": known_hash} for row in own], back)
    facts = foreign_facts(latents)
    assert facts is not None and (facts.rows, facts.pairs, facts.faults) == (len(own), len(own), ())
    assert not facts.one_hot and not facts.codebook_told and facts.format == kind
    before = rows(tmp_path / "latents")
    bring_in(path, corpus, tmp_path / "latents")
    assert rows(tmp_path / "latents") == before
    write_jsonl(tmp_path / "others.jsonl", records[:5])
    with pytest.raises(ValueError, match="holds something else: choose another folder"):
        bring_in(tmp_path / "others.jsonl", corpus, tmp_path / "latents")


def spoiled(records: Records, **fields: Any) -> Records:
    """The fourth from the end, of a clip whose frames are 0.1 s apart."""
    return [*records[:-4], records[-4] | fields, *records[-3:]]


@pytest.mark.parametrize(
    ("fields", "reason", "settings"),
    [
        ({"vector": [float("nan")] * 8}, "has a vector that is not finite", {}),
        ({"vector": [1e300] * 8}, "has a vector that is not finite", {}),
        ({"vector": [0.5] * 3}, "is of another width than most", {}),
        ({"vector": ["a"] * 8}, "has numbers that cannot be read", {}),
        ({"codes": [0.5, 1]}, "has numbers that cannot be read", {}),
        ({"codes": [-1, 1]}, "has numbers that cannot be read", {}),
        ({"codes": [4000, 1]}, "has a code beyond the codebook", {"codebook_size": 64}),
        ({"t_s": None}, "has a t_s that is no number", {}),
        ({"t_s": 1e6}, "lies outside of the clips of its video", {}),
        ({"t_s": -3.0}, "lies outside of the clips of its video", {}),
        ({"gap_s": 500.0}, "ends after its clip", {}),
        ({"gap_s": 0.0}, "has a gap_s that is not above 0", {}),
        ({"gap_s": 0.55}, "is at times of which the corpus keeps no frame", {}),
        ({"gap_s": None}, "has no gap_s", {}),
        ({"gap_s": 0.001}, "has one frame for both", {}),
        ({"video": "nobody.mp4"}, "is of a video that is not in the corpus", {}),
        ({"video": ""}, "names neither a video nor a clip", {}),
        ({"vector": None, "codes": None}, "has neither a vector nor codes", {}),
    ],
)
def test_a_bad_row_is_counted_and_the_rest_goes_on(
    fields: dict[str, Any],
    reason: str,
    settings: dict[str, Any],
    own: list[dict[str, Any]],
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    path = write_jsonl(tmp_path / "theirs.jsonl", spoiled(by_video(own), **fields))
    facts = foreign_facts(bring_in(path, corpus, tmp_path / "latents", ForeignSettings(**settings)))
    assert facts is not None and facts.pairs == len(own) - 1
    assert [(fault.reason, fault.rows) for fault in facts.faults] == [(reason, 1)]
    assert facts.faults[0].example.startswith(f"line {len(own) - 3}")
    if fields.get("video"):
        assert "giza ingest VIDEOS" in str(facts.faults[0])


def test_a_line_that_is_cut_and_a_row_that_comes_twice_are_counted(
    own: list[dict[str, Any]], corpus: Corpus, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "theirs.jsonl", by_video(own))
    text = path.read_text("utf-8")
    path.write_text(text + text.splitlines()[3] + "\n[1]\n" + text[:40], "utf-8")
    facts = foreign_facts(bring_in(path, corpus, tmp_path / "latents"))
    assert facts is not None and facts.pairs == len(own) and facts.rows == len(own) + 3
    assert {fault.reason for fault in facts.faults} == {
        "is of a pair that an earlier row has", "is no JSON object", "is no JSON",
    }  # fmt: skip


def test_none_at_all_is_one_line_with_the_remedy(own: list[dict[str, Any]], corpus: Corpus, tmp_path: Path) -> None:
    theirs = [record | {"video": "kitchen/7.mp4"} for record in by_video(own)]
    path = write_jsonl(tmp_path / "theirs.jsonl", theirs)
    with pytest.raises(
        ValueError, match=r"none of \d+ rows is a pair of corpus .*kitchen/7.mp4.*giza ingest VIDEOS.*such as 'video"
    ) as e:
        bring_in(path, corpus, tmp_path / "latents")
    assert "\n" not in str(e.value) and not list(tmp_path.glob("latents*"))
    path.write_text("\n", "utf-8")
    with pytest.raises(ValueError, match="hold no row"):
        bring_in(path, corpus, tmp_path / "latents")


def test_a_file_that_is_wrong_as_a_whole_stops(own: list[dict[str, Any]], corpus: Corpus, tmp_path: Path) -> None:
    records = records_of(own, quantized="")
    npz = write_npz(tmp_path / "theirs.npz", records)
    npz.write_bytes(npz.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"theirs.npz' cannot be read .*np.savez"):
        bring_in(npz, corpus, tmp_path / "latents")
    np.savez(npz, t_s=np.zeros(3), clip=np.array(["a", "b"]))
    with pytest.raises(ValueError, match="different lengths .*one entry a pair"):
        bring_in(npz, corpus, tmp_path / "latents")
    parquet = tmp_path / "theirs.parquet"
    parquet.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="no whole Parquet file"):
        bring_in(parquet, corpus, tmp_path / "latents")
    WRITERS["parquet"](parquet, [{"frame": 3, "clip": "a"}])
    with pytest.raises(ValueError, match="no column t_s.*it has frame, clip"):
        bring_in(parquet, corpus, tmp_path / "latents")
    with pytest.raises(ValueError, match=r"of no format that is known \(lerobot, lapa-jsonl"):
        choose_format(write_jsonl(tmp_path / "theirs.csv", records), ForeignSettings())
    with pytest.raises(ValueError, match="there is no such file"):
        choose_format(tmp_path / "nothing.npz", ForeignSettings())
    with pytest.raises(ValueError, match="foreign.format 'jsnol': Did you mean 'jsonl'"):
        choose_format(parquet, ForeignSettings(format="jsnol"))
    with pytest.raises(ValueError, match="foreign.gap_s -1"):
        ForeignSettings(gap_s=-1)


def test_codes_alone_are_read_as_one_hot_vectors(own: list[dict[str, Any]], corpus: Corpus, tmp_path: Path) -> None:
    records = [record | {"codes": [k % 5, 3]} for k, record in enumerate(records_of(own, latent="", quantized=""))]
    path = write_jsonl(tmp_path / "theirs.jsonl", records)
    latents = bring_in(path, corpus, tmp_path / "latents", ForeignSettings(codebook_size=6))
    facts = foreign_facts(latents)
    assert facts is not None and facts.one_hot and facts.codebook_told and "one-hot" in " ".join(facts.told)
    for row in rows(tmp_path / "latents"):
        assert np.argmax(row["latent"][:6]) == row["codes"][0] and row["latent"][6:] == [0, 0, 0, 1, 0, 0]
        assert row["quantized"] == row["latent"] and sum(row["latent"]) == 2
    huge = [record | {"codes": [k, 9999]} for k, record in enumerate(records)]
    with pytest.raises(ValueError, match=r"20,000 numbers.*give the vectors of the codes as well"):
        bring_in(write_jsonl(tmp_path / "huge.jsonl", huge), corpus, tmp_path / "huge")
