"""What a pyramid holds, counted anew from the made data; every fault of the data told at once, none decoded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.frames import open_clip_frames
from corpora.clips.parts import Part
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.clip_samples import ClipSamples, ClipsAt
from corpora.mixture.episode_samples import EpisodeSamples, EpisodesAt
from corpora.mixture.label_kinds import Latents, PseudoActions, Unlabelled
from corpora.mixture.label_type import PolicyLimits
from corpora.mixture.mixture import MixtureSpec, read_mixture
from corpora.mixture.order import MixtureOrder
from corpora.mixture.pseudo_actions import ClipLabels, write_labels
from corpora.mixture.spec import DatasetSpec, Opening, Planned
from corpora.mixture.survey import MixtureSurvey
from corpora.mixture.views import Window
from jobs.commands import pyramid as job
from lapa.latents import LatentKey
from tests.builders.corpora import write_corpus
from tests.builders.datasets import FPS, LENGTHS, lerobot_v2, lerobot_v3
from tests.builders.latents import pairs_at, write_made_part

SEEDS = (1, 2, 3, 5)
PAIRS = 6
"""Latents, and pseudo-actions, of each clip."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with actions and one without, a corpus, its latents (4 tokens of 3) and pseudo-actions (5 steps of 2)."""
    root = tmp_path_factory.mktemp("pyramid")
    lerobot_v3(root / "robot")
    lerobot_v2(root / "still", actions=False)
    corpus = Corpus(write_corpus(root / "corpus", SEEDS))
    write_corpus(root / "empty", ())
    write_latents(root / "latents", corpus, corpus.identity, 12)
    write_latents(root / "foreign", corpus, "another-", 12)
    write_latents(root / "wide", corpus, corpus.identity, 4 * 40)
    write_pseudo_actions(root / "pseudo", corpus)
    return root


def write_latents(folder: Path, corpus: Corpus, identity: str, width: int) -> None:
    folder.mkdir()
    pairs = []
    for row in corpus.clips:
        pairs.append((row, pairs_at(row.start_s + np.arange(PAIRS) / 10)))
    values = np.zeros((PAIRS * len(pairs), width), np.float32)
    key = LatentKey(model_hash="model", gap_s=0.5, stride_s=0.1, corpus=identity, part_frames=99)
    write_made_part(folder, Part(0, "", tuple(corpus.clips)), key, pairs, values)
    (folder / "_extract.json").write_text(json.dumps({"tokens": 4, "gap_s": 0.5}))


def write_pseudo_actions(folder: Path, corpus: Corpus) -> None:
    folder.mkdir()
    labels = [
        ClipLabels(row.clip_id, row.start_s + np.arange(PAIRS) / 10, np.zeros((PAIRS, 5, 2), np.float32))
        for row in corpus.clips
    ]
    write_labels(folder / "part-000000.parquet", labels, {})
    facts = {"embodiment": "franka", "horizon": 5, "step_s": 0.1, "action_names": ["a", "b"], "cameras": ["top"]}
    (folder / "_label.json").write_text(json.dumps({**facts, "codec": {}, "corpus_identity": corpus.identity}))


ROBOT = DatasetSpec("robot", "robot", EpisodesAt(Path("robot")), weight=2.0, embodiment="franka", licence="MIT")
LATENT = DatasetSpec("latent", "human", ClipsAt(Path("corpus")), Latents(Path("latents")))
NONE = DatasetSpec("none", "human", ClipsAt(Path("corpus")), Unlabelled(), weight=0.5)
PSEUDO = DatasetSpec(
    "pseudo", "neural", ClipsAt(Path("corpus")), PseudoActions(Path("pseudo")), weight=0.5, embodiment="franka"
)
ALL = (ROBOT, LATENT, NONE, PSEUDO)


def survey(root: Path, *specs: DatasetSpec, **how: Any) -> MixtureSurvey:
    """Of these datasets, whose paths are relative to `root`."""

    def placed(value: Any) -> Any:
        paths = {name: root / path for name in ("folder", "corpus") if (path := getattr(value, name, None)) is not None}
        return dataclasses.replace(value, **paths) if paths else value

    placed_specs = [dataclasses.replace(spec, data=placed(spec.data), label=placed(spec.label)) for spec in specs]
    return MixtureSpec(tuple(placed_specs), "made").survey(**how)


def test_counts_are_those_of_the_data(data: Path) -> None:
    found = survey(data, *ALL, limits=PolicyLimits(future_s=0.5))
    assert not found.faults
    contents = {one.spec.name: one.contents for one in found.datasets}
    rows = Corpus(data / "corpus").clips
    assert contents["robot"].clips == len(LENGTHS) and contents["robot"].samples == sum(LENGTHS)
    assert contents["robot"].hours == pytest.approx(sum(LENGTHS) / FPS / 3600)
    for name in ("latent", "none", "pseudo"):
        assert contents[name].frames == sum(row.frames for row in rows)
        assert contents[name].hours == pytest.approx(sum(row.end_s - row.start_s for row in rows) / 3600)
    assert contents["latent"].samples == contents["pseudo"].samples == PAIRS * len(SEEDS)
    tiers = {tier.tier: tier.contents for tier in found.tiers}
    assert list(tiers) == ["human", "neural", "robot"]
    assert tiers["human"].samples == contents["latent"].samples + contents["none"].samples
    for name in ("clips", "frames", "hours"):  # one corpus under three labels
        once = getattr(contents["latent"], name)
        assert getattr(tiers["human"], name) == pytest.approx(once)
        assert getattr(found.contents, name) == pytest.approx(once + getattr(contents["robot"], name))
    assert {one.spec.name: one.dims for one in found.datasets} == {
        "robot": "state 3, action 2", "latent": "4 tokens of 3", "none": "", "pseudo": "5 steps of 2",
    }  # fmt: skip


def test_frames_with_a_future_are_those_that_training_finds(data: Path, tmp_path: Path) -> None:
    """To the frame at each clip's end, which the manifest alone does not tell."""
    clips = open_clip_frames(Corpus(data / "corpus"), 32, cache=tmp_path)
    for future_s in (0.3, 0.8):
        member = ClipSamples(NONE, clips, Window(4, future_s=future_s))
        counted = survey(data, NONE, limits=PolicyLimits(future_s=future_s)).datasets[0].contents.samples
        assert counted == pytest.approx(len(member), abs=len(SEEDS))


def test_epochs_are_those_that_the_sampler_makes(data: Path) -> None:
    found = survey(data, *ALL, steps=300, batch_size=32)
    members = [one for member in ALL for one in found.datasets if one.spec.name == member.name]
    order = MixtureOrder(
        [one.contents.samples for one in members], [member.weight for member in ALL], batch_size=32, seed=0
    )
    assert [one.contents.share for one in members] == pytest.approx(order.shares)
    assert [one.contents.epochs for one in members] == pytest.approx(order.epochs(300), rel=0.02)
    assert found.contents.share == pytest.approx(1)
    assert found.contents.epochs == pytest.approx(300 * 32 / found.contents.samples)
    assert all(one.contents.epochs is None for one in survey(data, *ALL).datasets)


def test_episodes_are_chosen_as_the_file_says(data: Path) -> None:
    for how, rows in (({"episodes": "1"}, LENGTHS[1]), ({"demos": 1}, sum(LENGTHS)), ({"episodes": "0:1"}, LENGTHS[0])):
        spec = dataclasses.replace(ROBOT, data=EpisodesAt(Path("robot"), EpisodeSelection(**how)))
        assert survey(data, spec).datasets[0].contents.frames == rows


def test_all_faults_are_told_at_once(data: Path) -> None:
    nothing = EpisodesAt(Path("robot"), EpisodeSelection("7"))
    members = (
        dataclasses.replace(ROBOT, name="still", data=EpisodesAt(Path("still"))),
        dataclasses.replace(ROBOT, name="nothing", data=nothing),
        dataclasses.replace(LATENT, name="foreign", label=Latents(Path("foreign"))),
        dataclasses.replace(LATENT, name="wide", label=Latents(Path("wide"))),
        dataclasses.replace(NONE, name="empty", data=ClipsAt(Path("empty")), tier="synthetic"),
        dataclasses.replace(PSEUDO, name="stranger", embodiment="gr1"),
        dataclasses.replace(PSEUDO, name="slot", embodiment="latent"),
    )
    faults = "\n".join(survey(data, *members).faults)
    for wanted in (
        "'still': label 'action', but dataset 'still' has no action: none of its columns is called action or actions; choose",
        "'nothing': episodes '7', demos 0: no episode is left",
        "'foreign': latents",
        "are of another corpus",
        "'wide': latents of 40 dimensions, the policy takes at most 32",
        f"'empty': corpus '{data}/empty': no clips were kept: 6 static;",
        "'empty': no sample to train on",
        "tier 'synthetic' has no sample",
        "'stranger': pseudo-actions of 'franka', but the embodiment is 'gr1'",
        "embodiment 'latent': 'slot' has actions of 2 dimensions, 'wide' has actions of 40 dimensions",
    ):
        assert wanted in faults, wanted


def test_dimensions_are_held_against_the_policys(data: Path) -> None:
    few = PolicyLimits(horizon=3, max_action_dim=1, max_state_dim=2)
    faults = "\n".join(survey(data, *ALL, limits=few).faults)
    assert "state of 3 dimensions, the policy takes at most 2" in faults
    assert "action of 2 dimensions, the policy takes at most 1" in faults
    assert "latents of 4 tokens, the policy's chunks have 3 steps" in faults
    assert "'pseudo': actions of 2 dimensions, the policy takes at most 1" in faults
    with pytest.raises(ValueError, match="0 \\(none planned\\) or more"):
        survey(data, *ALL, steps=-1)


def test_nothing_is_decoded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*args: object, **how: object) -> None:
        raise AssertionError("an image was decoded")

    class Headers:
        """A container whose header may be read, and no frame."""

        decode = decoded

        def __init__(self, *args: Any, **how: Any) -> None:
            self._container = opened(*args, **how)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def __enter__(self) -> Headers:
            return self

        def __exit__(self, *_: object) -> None:
            self._container.close()

    opened = av.open
    monkeypatch.setattr("av.open", Headers)
    for where in ("corpora.clips.corpus.decode_clip", "corpora.video.decode.decoded_frames"):
        monkeypatch.setattr(where, decoded)
    assert survey(data, *ALL).contents.samples > 0


def test_what_is_only_drawn_has_hours_and_shares_of_them(data: Path) -> None:
    drawn = [
        DatasetSpec(f"m{n}", tier, Planned(n), Unlabelled(), source="s") for n, tier in ((1, "human"), (3, "robot"))
    ]
    found = survey(data, *drawn, steps=10, batch_size=4)
    assert found.planned and not found.faults
    assert [one.contents.share for one in found.datasets] == [0.25, 0.75]
    assert found.contents.hours == 4 and found.contents.epochs is None


FILE = """
name = "made"
[[member]]
name = "robot"
tier = "robot"
label = "action"
dataset = "robot"
embodiment = "franka"
weight = 3
licence = "CC BY 4.0"
[[member]]
name = "hands"
tier = "human"
label = "latent"
corpus = "corpus"
latents = "latents"
"""


def test_the_job_prints_and_writes_what_it_counts(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / "good.toml"
    path.write_text(FILE)
    job.main([str(path), "--out", str(tmp_path / "out"), "--steps", "100", "--batch-size", "8"])
    said = capsys.readouterr().out
    assert "75.0%" in said and "robot" in said and "hands" in said
    found = json.loads((tmp_path / "out" / "pyramid.json").read_text())
    tiers = {tier["tier"]: tier for tier in found["tiers"]}
    assert tiers["robot"]["share"] == 0.75 and tiers["robot"]["samples"] == sum(LENGTHS)
    assert tiers["robot"]["epochs"] == pytest.approx(100 * 8 * 0.75 / sum(LENGTHS))
    assert tiers["human"]["members"][0]["embodiment"] == "latent"
    assert "<svg" in (tmp_path / "out" / "pyramid.svg").read_text()


def test_clips_that_their_corpus_calls_another_tier_are_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Robot clips in a corpus that a pyramid calls people's video would else count as people's, unsaid."""
    said = f"of its {len(SEEDS)} clips {len(SEEDS)} of tier human by the corpus, not synthetic"
    path = data / "mixed.toml"
    path.write_text(FILE.replace('tier = "human"', 'tier = "synthetic"'))
    job.main([str(path), "--out", str(tmp_path / "out")])
    assert f"hands, {said}" in capsys.readouterr().out
    told = [found.told for found in read_mixture(path).survey().datasets]
    assert sorted(told) == ["", said] and said in (tmp_path / "out" / "pyramid.html").read_text()
    opening = Opening(Window(4, future_s=0.5), 32, seed=0, held_out=0.0, stride_s=0.1, cache=tmp_path)
    for tier, expected in (("human", 0), ("synthetic", 1)):
        caplog.clear()
        spec = dataclasses.replace(NONE, tier=tier, data=ClipsAt(data / "corpus"))
        spec.data.open(spec, opening)
        assert sum(said in record.message for record in caplog.records) == expected


def test_the_job_names_faults_of_the_file_and_of_the_data_together(data: Path) -> None:
    path = data / "bad.toml"
    path.write_text(
        FILE.replace("franka", "frnka").replace('latents = "latents"', 'latents = "foreign"')
        + '[[member]]\nname = "lost"\ntier = "neural"\nlabel = "none"\ncorpus = "nowhere"\n'
        + '[[member]]\nname = "wide"\ntier = "human"\nlabel = "latent"\ncorpus = "corpus"\nlatents = "wide"\n'
    )
    with pytest.raises(ValueError, match="faults:") as told:
        job.run(job.PyramidConfig(path))
    for wanted in ("did you mean 'franka'", "of another corpus", "no such folder", "latents of 40 dimensions"):
        assert wanted in str(told.value), wanted
    assert not (data / "bad").exists()


def test_of_chosen_episodes_no_other_is_decoded(data: Path, tmp_path: Path) -> None:
    """Three demonstrations of fifty thousand would else take a night to decode; they are what they are among all."""
    opening = Opening(Window(4, future_s=0.5), 32, seed=0, held_out=0.0, stride_s=0.1, cache=tmp_path)
    one, whole = (
        EpisodesAt(data / "robot", EpisodeSelection(episodes=which)).open(ROBOT, opening)[0] for which in ("1", "")
    )
    assert isinstance(one, EpisodeSamples) and len(one) == len(one.episodes.t_s) == LENGTHS[1] < len(whole)
    mine = [number for number, group in enumerate(whole.groups) if group == one.groups[0]]
    for number, among in enumerate(mine):
        np.testing.assert_equal(vars(one[number]), vars(whole[among]))
