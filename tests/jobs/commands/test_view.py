"""giza view plays what there is: the numbers of the data, the video piece by piece, to this machine alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.episodes.opening import open_episodes
from jobs.commands.view import ViewConfig, run
from jobs.viewing.items import open_viewed
from jobs.viewing.server import serve
from lapa.latents import Latents
from tests.builders.datasets import lerobot_v3


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robot") / "arm"
    lerobot_v3(folder)
    return folder


@pytest.fixture
def server(tiny_corpus: Path, tiny_latents: Path) -> Iterator[HTTPConnection]:
    with serve(open_viewed(tiny_corpus, tiny_latents), "tiny", 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        with contextlib.closing(HTTPConnection("127.0.0.1", running.server_port, timeout=20)) as connection:
            yield connection
        running.shutdown()
        thread.join()


def asked(server: HTTPConnection, path: str, **headers: str) -> tuple[int, bytes]:
    server.request("GET", path, headers=headers)
    answer = server.getresponse()
    return answer.status, answer.read()


def test_tracks_of_a_clip_are_its_latents_codes_and_truth(tiny_corpus: Path, tiny_latents: Path) -> None:
    viewed = open_viewed(tiny_latents)  # which say where their corpus lies
    clips = {clip.row.clip_id: clip for clip in Corpus(tiny_corpus).read()}
    assert {head.name for head in viewed.heads} == set(clips)
    for number, head in enumerate(viewed.heads):
        clip = clips[head.name]
        tracks = {track.title.split(",")[0]: track for track in viewed.tracks(number)}
        truth = tracks["observation.state"]
        np.testing.assert_array_equal(truth.values, clip.truth["observation.state"])
        np.testing.assert_allclose(truth.t_s, clip.truth["t_s"] - clip.t_s[0])
        if "latent" not in tracks:  # too short for a pair
            assert head.seconds < 0.6
            continue
        expected = Latents(tiny_latents).read([head.name])
        np.testing.assert_array_equal(tracks["latent"].values, expected.latent)
        np.testing.assert_array_equal(tracks["codes"].values, expected.codes)
        np.testing.assert_allclose(tracks["latent"].t_s, expected.t_s - clip.t_s[0])


def test_tracks_of_an_episode_are_its_rows(robot: Path) -> None:
    viewed, episodes = open_viewed(robot), open_episodes(robot)
    for number, episode in enumerate(episodes.episodes):
        action, state = viewed.tracks(number)
        np.testing.assert_array_equal(action.values, episode.action)
        np.testing.assert_array_equal(state.values, episode.state)
        assert action.names == episodes.action_names and viewed.heads[number].text == episode.instruction
        assert {film.camera: film.from_s for film in viewed.films(number)} == {
            camera: span.from_s for camera, span in episode.videos.items()
        }


def test_the_page_asks_for_items_tracks_and_pieces_of_a_video(
    server: HTTPConnection, tiny_corpus: Path, tiny_latents: Path
) -> None:
    assert b"<video" not in asked(server, "/")[1] and b"giza view" in asked(server, "/")[1]
    listed = json.loads(asked(server, "/items")[1])
    assert listed["title"] == "tiny" and len(listed["items"]) == len(Corpus(tiny_corpus).clips)
    tracks = json.loads(asked(server, "/items/0/tracks")[1])
    assert [track["kind"] for track in tracks][:2] == ["code", "heat"]
    stored = next(Corpus(tiny_corpus).stored([listed["items"][0]["name"]])).members["mp4"]
    assert asked(server, "/items/0/film/0") == (200, stored)
    assert asked(server, "/items/0/film/0", Range="bytes=10-19") == (206, stored[10:20])
    assert asked(server, "/items/0/film/0", Range=f"bytes={len(stored) - 3}-") == (206, stored[-3:])
    assert asked(server, "/items/0/film/0", Range=f"bytes={len(stored)}-")[0] == 416
    for path in ("/items/999/tracks", "/items/0/film/7", "/../pyproject.toml", "/etc/passwd"):
        assert asked(server, path)[0] == 404


def test_another_site_is_not_answered(server: HTTPConnection) -> None:
    """One whose name was made to mean 127.0.0.1."""
    assert asked(server, "/items", Host="evil.example:80")[0] == 403
    assert asked(server, "/items", Host="localhost:80")[0] == 200


def test_what_cannot_be_viewed_is_refused(tiny_corpus: Path, tiny_latents: Path, robot: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no corpus, no latents and no LeRobot dataset"):
        open_viewed(tmp_path / "empty")
    with pytest.raises(ValueError, match="which is no corpus"):
        open_viewed(robot, tiny_latents)
    with pytest.raises(ValueError, match="a policy acts on episodes"):
        open_viewed(tiny_corpus, policy="somewhere")
    with pytest.raises(ValueError, match=r"ends in \.rrd"):
        ViewConfig(tiny_corpus, save=tmp_path / "a.mp4")
    with serve(open_viewed(robot), "", 0) as taken, pytest.raises(ValueError, match=f"--port {taken.server_port}"):
        serve(open_viewed(robot), "", taken.server_port)


def test_a_recording_for_rerun_is_whole(tiny_corpus: Path, tiny_latents: Path, robot: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    for config in (
        ViewConfig(tiny_corpus, tiny_latents, save=tmp_path / "clips.rrd", items=2),
        ViewConfig(robot, save=tmp_path / "episodes.rrd", items=1),
    ):
        run(config)
        said = subprocess.run(
            [Path(sys.executable).with_name("rerun"), "rrd", "verify", str(config.save)], capture_output=True, text=True
        )
        assert said.returncode == 0, said.stderr
