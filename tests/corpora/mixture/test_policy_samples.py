"""Samples of robots, clips and latents against slow references: all by time, nothing beyond an episode's or clip's end."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.frames import ClipFrames, open_clip_frames
from corpora.clips.parts import Part
from corpora.episodes.episode import Episodes
from corpora.episodes.frames import open_episode_frames
from corpora.mixture.clip_samples import ClipSamples, ClipsAt
from corpora.mixture.episode_samples import EpisodeSamples, EpisodesAt
from corpora.mixture.label_kinds import Latents, Unlabelled
from corpora.mixture.labels import exchanged
from corpora.mixture.spec import DatasetSpec, SampleDataset
from corpora.mixture.views import Window
from corpora.store.frames import FrameTable
from lapa.latents import LatentKey
from tests.builders.corpora import clip_frames, write_corpus
from tests.builders.datasets import (
    CAMERAS,
    FPS,
    LENGTHS,
    TASKS,
    frames_of,
    lerobot_v2,
    lerobot_v3,
    opened,
    without_states,
)
from tests.builders.latents import pairs_at, write_made_part
from tests.builders.videos import number_of, write_video

HEAD = CAMERAS[0]
TOKENS, DIM = 4, 3


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Episodes, FrameTable]:
    folder = tmp_path_factory.mktemp("robot")
    episodes = opened(lerobot_v3(folder / "pick"))
    return episodes, open_episode_frames(episodes, 64, cache=folder / "cache")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipFrames, Path]:
    """Clips of even and uneven times, and made-up latents of their frames: (clip, frame, token, dimension)."""
    folder = tmp_path_factory.mktemp("corpus")
    read = Corpus(write_corpus(folder / "corpus", range(6)))
    clips = open_clip_frames(read, 32, cache=folder / "cache")
    write_latents(folder / "latents", clips)
    return clips, folder / "latents"


def write_latents(
    folder: Path, clips: ClipFrames, *, shift_s: float = 0.0, lam_tokens: int | None = TOKENS, corpus: str = ""
) -> None:
    """With extract's own writer, in two parts, clips in another order; frame k of clip c has 100 c + k + n / 100."""
    folder.mkdir()
    key = LatentKey(model_hash="model", gap_s=0.5, stride_s=0.1, corpus=corpus or clips.identity, part_frames=99)
    order = list(range(len(clips.rows)))[::-1]
    for number, runs in enumerate((order[:2], order[2:])):
        pairs, latents = [], [np.zeros((0, TOKENS * DIM), np.float32)]
        for run in runs:
            times = clips.t_s[clips.starts[run] : clips.starts[run + 1]]
            frames = np.arange(0, len(times) - 5, 2)
            pairs.append((clips.rows[run], pairs_at(times[frames] + shift_s)))
            latents.append((100 * run + frames[:, None] + np.arange(TOKENS * DIM) / 100).astype(np.float32))
        values = np.concatenate(latents)
        part = Part(number, "", tuple(clips.rows[run] for run in runs))
        write_made_part(folder, part, key, pairs, values, quantized=-values)
    (folder / "_extract.json").write_text(json.dumps({"gap_s": 0.5, "lam": str(folder / "lam")}))
    if lam_tokens is not None:
        (folder / "lam").mkdir()
        (folder / "lam" / "config.json").write_text(json.dumps({"tokens": lam_tokens}))


def member_of(
    robot: tuple[Episodes, FrameTable], chosen: list[int] | None = None, horizon: int = 6, **window: object
) -> EpisodeSamples:
    spec = DatasetSpec("pick", "robot", EpisodesAt(robot[0].root), embodiment="two_link")
    return EpisodeSamples(spec, *robot, Window(horizon, **window), chosen)


def latents_of(
    clips: ClipFrames, folder: Path, horizon: int = 6, seed: int | None = None, **window: object
) -> ClipSamples:
    spec = DatasetSpec("hands", "human", ClipsAt(Path("corpus")), Latents(folder, seed))
    labels = spec.label.read(clips, spec.embodiment, horizon)
    return ClipSamples(spec, clips, Window(horizon, **window), labels)


def values(samples: ClipSamples) -> np.ndarray:
    """[N, steps, dim] of all."""
    return samples.numbers(range(len(samples))).chunks


def watched(clips: ClipFrames, *, future_s: float, stride_s: float = 0.0) -> ClipSamples:
    spec = DatasetSpec("watched", "human", ClipsAt(Path("corpus")), Unlabelled())
    return ClipSamples(spec, clips, Window(4, future_s=future_s), None, stride_s)


@pytest.mark.parametrize(("horizon", "step_s"), [(6, None), (4, 2 / FPS), (5, 0.1), (1, None)])
def test_a_chunk_is_the_actions_at_its_times(robot, horizon: int, step_s: float | None) -> None:
    episodes = robot[0]
    member = member_of(robot, horizon=horizon, step_s=step_s)
    step = step_s or 1 / FPS
    assert len(member) == sum(LENGTHS)
    position = 0
    for episode in episodes.episodes:
        for row in range(len(episode.t_s)):
            sample = member[position]
            position += 1
            np.testing.assert_array_equal(sample.state, episode.state[row])
            assert sample.instruction == TASKS[episode.index]
            for k in range(horizon):
                moment = episode.t_s[row] + k * step
                distance = np.abs(episode.t_s - moment)
                assert sample.action_mask[k] == (moment <= episode.t_s[-1] + 0.5 / FPS + 1e-6)
                if sample.action_mask[k]:
                    nearest = np.flatnonzero(distance <= distance.min() + 2e-6)[-1]
                    np.testing.assert_array_equal(sample.action[k], episode.action[nearest])
                else:
                    np.testing.assert_array_equal(sample.action[k], episode.action[-1])


def test_images_and_future_are_those_of_their_moments(robot) -> None:
    episodes = robot[0]
    member = member_of(robot, future_s=6 / FPS)
    for episode in episodes.episodes:
        for row in range(len(episode.t_s)):
            sample = member[episode.start + row]
            assert sample.images.shape == (2, 1, 64, 64, 3)
            assert sample.image_mask.all()
            assert [number_of(view[0]) for view in sample.images] == [row, row]
            if row + 6 < len(episode.t_s):
                assert [number_of(view) for view in sample.future] == [row + 6, row + 6]
            else:
                assert sample.future is None
    assert member_of(robot)[0].future is None


def test_history_is_oldest_first_and_masked_before_the_beginning(robot) -> None:
    episodes = robot[0]
    member = member_of(robot, history_s=(-0.4, -0.2, 0.0))
    for row in (0, 2, 3, 5, 6, 29):
        for episode in episodes.episodes:
            sample = member[episode.start + row]
            wanted = [row - 6, row - 3, row]
            assert sample.images.shape == (2, 3, 64, 64, 3)
            assert sample.image_mask.tolist() == [[moment >= 0 for moment in wanted]] * 2
            for moment, image in zip(wanted, sample.images[1], strict=True):
                if moment >= 0:
                    assert number_of(image) == moment
                else:
                    assert not image.any()


def test_episodes_are_chosen_and_numbers_are_those_of_the_samples(robot) -> None:
    member = member_of(robot, [1])
    assert len(member) == LENGTHS[1]
    assert member.groups == ["pick/episode_000001"] * len(member)
    assert [bool(member[index].action_mask.all()) for index in (0, LENGTHS[1] - 6, LENGTHS[1] - 5)] == [
        True,
        True,
        False,
    ]
    numbers = member.numbers(range(len(member)))
    for index in (0, 17, len(member) - 1):
        sample = member[index]
        np.testing.assert_array_equal(numbers.states[index], sample.state)
        np.testing.assert_array_equal(numbers.chunks[index], sample.action)
        np.testing.assert_array_equal(numbers.mask[index], sample.action_mask)
    np.testing.assert_array_equal(numbers.states, robot[0].episodes[1].state)
    np.testing.assert_array_equal(numbers.chunks[:, 0], robot[0].episodes[1].action)
    facts = member.embodiment()
    assert facts.cameras == member.cameras == robot[0].cameras and facts.step_s == 1 / FPS and facts.codec is None
    assert (facts.state_names, facts.action_names) == (robot[0].state_names, robot[0].action_names)


def test_a_camera_that_failed_is_masked_and_rows_nobody_saw_are_no_samples(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "pick")
    video = "videos/chunk-000/{}/episode_000000.mp4"
    write_video(root / video.format(HEAD), frames_of(0, 0)[:10], fps=FPS)
    write_video(root / video.format(CAMERAS[1]), frames_of(0, 1)[:20], fps=FPS)
    episodes = opened(root)
    frames = open_episode_frames(episodes, 32, cache=tmp_path / "cache")
    member = member_of((episodes, frames), [0], future_s=4 / FPS)
    assert len(member) == 21
    assert [member[i].image_mask[:, 0].tolist() for i in (5, 15)] == [[True, True], [False, True]]
    assert not member[15].images[0].any()
    # a future that one camera did not see is none
    assert [member[i].future is None for i in (6, 7)] == [False, True]
    # actions go on where the images end
    assert member[20].action_mask.all()


def test_without_actions_the_mask_is_false(tmp_path: Path) -> None:
    episodes = opened(without_states(lerobot_v2(tmp_path / "watched", actions=False)), cameras=["head"])
    frames = open_episode_frames(episodes, 32, cache=tmp_path / "cache")
    member = member_of((episodes, frames), future_s=0.2)
    sample = member[3]
    assert sample.state is None
    assert sample.action is None
    assert sample.action_mask.tolist() == [False] * 6
    with pytest.raises(ValueError, match="dataset 'watched' has no action: none of its columns"):
        member.numbers([0])


def test_settings_that_make_no_sense_are_refused(robot) -> None:
    for history in ((0.5, 0.0), (-0.5,), (0.0, -0.5, 0.0), ()):
        with pytest.raises(ValueError, match="oldest first"):
            member_of(robot, history_s=history)
    with pytest.raises(ValueError, match="horizon 0"):
        member_of(robot, horizon=0)
    with pytest.raises(ValueError, match="step_s 0"):
        member_of(robot, step_s=0)
    with pytest.raises(ValueError, match="future_s -1"):
        member_of(robot, future_s=-1)
    with pytest.raises(ValueError, match="episodes 5 are not among"):
        member_of(robot, [1, 5])
    with pytest.raises(ValueError, match="has no sample"):
        member_of(robot, [])
    with pytest.raises(ValueError, match="open_episode_frames of the same episodes"):
        member_of((opened(robot[0].root, indices=[0]), robot[1]))


def test_samples_may_be_changed_without_changing_the_data(robot, corpus) -> None:
    members: list[SampleDataset] = [
        member_of(robot, future_s=0.2),
        latents_of(*corpus, future_s=0.5),
    ]
    for member in members:
        first = member[0]
        kept = pickle.loads(pickle.dumps(first))
        for values in (first.images, first.action, first.action_mask, first.image_mask, first.future):
            values[:] = 0
        again = member[0]
        np.testing.assert_array_equal(again.images, kept.images)
        np.testing.assert_array_equal(again.action, kept.action)
        np.testing.assert_array_equal(again.future, kept.future)


def test_members_reach_workers_without_their_images(robot, corpus) -> None:
    latent = latents_of(*corpus, future_s=0.5)
    for member in (member_of(robot, future_s=0.2), latent):
        packed = pickle.dumps(member)
        assert len(packed) < 40_000  # the images alone are more than ten times that
        copy = pickle.loads(packed)
        for index in (0, len(member) - 1):
            np.testing.assert_array_equal(copy[index].images, member[index].images)
            np.testing.assert_array_equal(copy[index].action, member[index].action)


def test_a_latent_lies_at_its_frame(corpus) -> None:
    clips, folder = corpus
    member = latents_of(clips, folder)
    counted = [
        len(range(0, int(stop - start) - 5, 2))
        for start, stop in np.lib.stride_tricks.sliding_window_view(clips.starts, 2)
    ]
    assert len(member) == sum(counted)
    facts = member.embodiment()
    assert (member.spec.embodiment, facts.step_s, facts.made_by) == ("latent", 0, "model model, gap 0.5 s")
    position = 0
    for run, count in enumerate(counted):
        for number in range(count):
            sample = member[position]
            assert member.groups[position] == f"video{run}"
            wanted = (100 * run + 2 * number + np.arange(TOKENS * DIM) / 100).astype(np.float32)
            np.testing.assert_array_equal(sample.action[:TOKENS], wanted.reshape(TOKENS, DIM))
            assert np.array_equal(
                sample.action[TOKENS:], np.repeat(sample.action[TOKENS - 1 : TOKENS], len(sample.action) - TOKENS, 0)
            )
            assert sample.action_mask.tolist() == [True] * TOKENS + [False] * 2
            np.testing.assert_array_equal(sample.images[0, 0], clips.table.images[clips.starts[run] + 2 * number, 0])
            assert sample.state is None
            position += 1


def test_clips_are_decoded_to_their_frames(corpus) -> None:
    clips, _ = corpus
    for run, row in enumerate(clips.rows):
        start, stop = clips.starts[run], clips.starts[run + 1]
        assert stop - start == row.frames
        frames = clip_frames(run, row.frames, moving=run % 2 == 1).astype(np.float64)
        # 48 to 32 pixels by area: each pixel is the mean of 1.5 x 1.5
        fine = frames.repeat(2, 1).repeat(2, 2)
        small = fine.reshape(row.frames, 32, 3, 32, 3, 3).mean((2, 4))
        assert np.abs(small - clips.table.images[start:stop, 0]).mean() < 5
    assert clips.table.valid.all()


def test_no_future_lies_beyond_its_clip(corpus) -> None:
    clips, folder = corpus
    latent = latents_of(clips, folder, 4, future_s=0.8)
    clip = watched(clips, future_s=0.8)
    assert clip.embodiment() is None
    with pytest.raises(ValueError, match="dataset 'watched' has no actions"):
        clip.numbers([0])
    missing = 0
    for member in (latent, clip):
        position = 0
        for run, row in enumerate(clips.rows):
            start, stop = int(clips.starts[run]), int(clips.starts[run + 1])
            times = clips.t_s[start:stop]
            edge = times[-1] + 0.5 * float(np.median(np.diff(times))) + 1e-6
            frames = range(0, row.frames - 5, 2) if member is latent else np.flatnonzero(times + 0.8 <= edge).tolist()
            for frame in frames:
                sample, moment = member[position], times[frame] + 0.8
                position += 1
                np.testing.assert_array_equal(sample.images[:, 0], clips.table.images[start + frame])
                if moment > edge:
                    missing += 1
                    assert sample.future is None
                    continue
                nearest = start + int(np.abs(times - moment).argmin())
                np.testing.assert_array_equal(sample.future, clips.table.images[nearest])
        assert position == len(member)
    assert missing > 0
    assert "video3" not in clip.groups  # it is shorter than the future is away
    assert clip[0].action is None
    assert not clip[0].action_mask.any()
    spaced = watched(clips, future_s=0.8, stride_s=0.3)
    assert 0 < len(spaced) < len(clip) / 2


def test_shuffled_latents_are_all_of_other_clips(corpus) -> None:
    clips, folder = corpus
    true = latents_of(clips, folder, 4)
    shuffled, again, other = (latents_of(clips, folder, 4, seed) for seed in (1, 1, 2))
    assert shuffled.groups == true.groups
    run_of = np.array([int(latent.flat[0]) // 100 for latent in values(shuffled)])
    own = np.array([int(group.removeprefix("video")) for group in shuffled.groups])
    assert (run_of != own).all()
    assert sorted(values(shuffled)[:, 0, 0].tolist()) == sorted(values(true)[:, 0, 0].tolist())
    np.testing.assert_array_equal(values(shuffled), values(again))
    assert (values(shuffled) != values(other)).any()
    with pytest.raises(ValueError, match="of one clip"):
        exchanged(np.zeros(4, np.int64), 1)


def test_shuffled_futures_are_of_other_clips_with_what_they_follow(corpus) -> None:
    """What stays is how much changes in 0.8 s, and how often; what goes is that it has to do with what is seen."""
    clips, _ = corpus
    true = watched(clips, future_s=0.8)
    spec = DatasetSpec("watched", "human", ClipsAt(Path("corpus")), Unlabelled().shuffled(1))
    found = ClipSamples(spec, clips, Window(4, future_s=0.8))
    assert found.groups == true.groups and spec.label.description == "FLARE shuffled"
    samples, kept = ([data[index] for index in range(len(true))] for data in (found, true))
    assert all(np.array_equal(a.images, b.images) and b.before is None for a, b in zip(samples, kept, strict=True))
    pairs = [(sample.before.tobytes(), sample.future.tobytes()) for sample in samples]
    own = [(sample.images[:, 0].tobytes(), sample.future.tobytes()) for sample in kept]
    assert sorted(pairs) == sorted(own)
    of_clip = dict(zip(own, true.groups, strict=True))
    assert all(of_clip[pair] != group for pair, group in zip(pairs, found.groups, strict=True))


def test_latents_that_do_not_fit_are_refused(corpus, tmp_path: Path) -> None:
    clips, folder = corpus
    with pytest.raises(ValueError, match="4 tokens do not fit a horizon of 3 steps"):
        latents_of(clips, folder, 3)
    with pytest.raises(ValueError, match="giza extract"):
        latents_of(clips, tmp_path)
    write_latents(tmp_path / "uneven", clips, lam_tokens=5)
    with pytest.raises(ValueError, match="tokens 5: labels of 12 numbers"):
        latents_of(clips, tmp_path / "uneven", 8)
    write_latents(tmp_path / "unknown", clips, lam_tokens=None)
    with pytest.raises(ValueError, match="does not say how many tokens"):
        latents_of(clips, tmp_path / "unknown")
    write_latents(tmp_path / "shifted", clips, shift_s=0.02)
    with pytest.raises(ValueError, match="has no frame at"):
        latents_of(clips, tmp_path / "shifted")
    write_latents(tmp_path / "painted", clips, corpus="the same clips, painted")
    with pytest.raises(ValueError, match="are of another corpus than the clips beside them: .* with giza extract"):
        latents_of(clips, tmp_path / "painted")
    write_latents(tmp_path / "named", clips, lam_tokens=2)
    assert values(latents_of(clips, tmp_path / "named")).shape[1:] == (2, TOKENS * DIM // 2)


def test_a_clip_that_does_not_decode_costs_itself_only(tmp_path: Path) -> None:
    read = Corpus(write_corpus(tmp_path / "corpus", [1, 2, 5]))
    (shard,) = {row.shard for row in read.clips}
    path = tmp_path / "corpus" / "shards" / shard
    data = bytearray(path.read_bytes())
    place = data.index(b"mdat")
    data[place + 8 : place + 2000] = bytes(1992)
    path.write_bytes(data)
    clips = open_clip_frames(read, 32, cache=tmp_path / "cache")
    assert [fault.source for fault in clips.table.faults] == [read.clips[0].clip_id]
    member = watched(clips, future_s=0.5)
    assert set(member.groups) == {"video2", "video5"}
