"""The server paints what a client sends as the pictures were painted that the policy learned from: the same bits."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from corpora.agent.painting import AGENTS, Dot, Painter, open_agent, painter_of, view_of
from corpora.agent.settings import PaintSettings
from corpora.agent.track import known_track
from corpora.video.view import View
from tests.builders.agents import SIZE, acted
from tests.builders.fake_policy import FakePolicy
from tests.builders.policies import teach, tiny_policy
from tests.builders.server import KEY, client_of, flat, serving
from vla.serving.client import PolicyServerError
from vla.serving.groot import ServedPolicy

CLIP = acted("0" * 16, 3)
SETTINGS = PaintSettings(agent="dot", dot_radius=0.1)


def served(view: View | None) -> ServedPolicy:
    policy = tiny_policy(image_size=SIZE)
    known = teach(policy, "arm", 0, 2)
    policy.embodiments["arm"] = dataclasses.replace(known, views={} if view is None else {"head": view})
    return ServedPolicy(policy, "arm")


def asked(frame: int, *, scale: int = 1, nested: bool = True) -> dict[str, Any]:
    mask, point = CLIP.mask[frame], CLIP.point[frame]
    if scale > 1:
        mask, point = mask.repeat(scale, 0).repeat(scale, 1), (point + 0.5) * scale - 0.5
    found = {
        "video": {"head": CLIP.frames[frame][None, None]},
        "mask": {"head": mask[None, None]},
        "point": {"head": point[None, None].astype(np.float32)},
    }
    if nested:
        return {**found, "language": {"task": [["go"]]}}
    return {f"{kind}.head": value["head"] for kind, value in found.items()} | {"task": ["go"]}


@pytest.mark.parametrize(("agent", "background"), [("dot", "before"), ("none", "before"), ("dot", "inpaint")])
@pytest.mark.parametrize("scale", [1, 2])
def test_acting_sees_the_bits_of_training(agent: str, background: Any, scale: int) -> None:
    settings = dataclasses.replace(SETTINGS, agent=agent, background=background)
    trained = Painter(open_agent(settings, SIZE), settings)
    acting = served(view_of(trained.agent, settings))
    for frame in range(len(CLIP.frames)):
        track = known_track(CLIP.mask[frame][None], CLIP.point[frame][None])
        wanted = trained.paint(CLIP.frames[frame][None], track).frames[0]
        for nested in (True, False):
            parsed = acting.parse(
                asked(frame, scale=scale, nested=nested), nested=nested, client=b"n" if nested else b"f"
            )
            np.testing.assert_array_equal(parsed.images[0, 0, 0].transpose(1, 2, 0), wanted)
    assert (wanted != CLIP.frames[-1]).any()


def test_a_view_is_kept_and_gives_the_same_painter() -> None:
    for agent in ("none", "dot"):
        settings = dataclasses.replace(SETTINGS, agent=agent)
        view = view_of(open_agent(settings, SIZE), settings)
        again = View.from_json(view.to_json(), what="it")
        assert again == view and bool(view.dot_radius) == (agent == "dot")
        track = known_track(CLIP.mask, CLIP.point)
        one = Painter(open_agent(settings, SIZE), settings).paint(CLIP.frames, track)
        np.testing.assert_array_equal(painter_of(again).paint(CLIP.frames, track).frames, one.frames)
    with pytest.raises(ValueError, match="--agent 'ghost'"):
        painter_of(View("ghost", "before", 0.02))
    with pytest.raises(ValueError, match="is not what it was"):
        painter_of(View("dot", "before", 0.02, 0.1, "other"))


def test_what_an_agent_of_ones_own_is_drawn_by_is_of_its_view_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """At acting it was drawn at the default size, whatever it was in training."""

    class Mine(Dot):
        name = "mine"

        def __init__(self, settings: PaintSettings, size: int) -> None:
            self._radius = settings.dot_radius * (3 if settings.scale == "hand" else 1)

    monkeypatch.setitem(AGENTS, Mine.name, Mine)
    track = known_track(CLIP.mask, CLIP.point)
    seen, views = [], []
    for how in ({}, {"scale": "hand"}, {"dot_radius": 0.1}):
        settings = PaintSettings(agent="mine", **how)
        trained = Painter(open_agent(settings, SIZE), settings)
        views.append(view_of(trained.agent, settings))
        seen.append(trained.paint(CLIP.frames, track).frames)
        np.testing.assert_array_equal(painter_of(views[-1]).paint(CLIP.frames, track).frames, seen[-1])
    assert len(set(views)) == 3 and "scale hand" in str(views[1])
    assert views[0] == View("mine", "before", 0.02)  # as earlier versions kept it


def test_nobody_and_a_dot_are_the_same_at_every_scale_and_a_robot_is_not_painted_where_it_acts() -> None:
    for agent in ("none", "dot"):
        settings = PaintSettings(agent=agent)
        opened = open_agent(settings, SIZE)
        assert view_of(opened, settings) == view_of(opened, dataclasses.replace(settings, scale="hand"))
    made = dataclasses.asdict(PaintSettings(scale="hand")) | {"agent_identity": "bank"}
    assert made["agent"] == "robot" and View.painted(made) is None


def test_what_was_seen_before_is_each_clients_own_until_it_resets() -> None:
    acting = served(View("none", "before", 0.02))

    def images(frame: int, client: bytes) -> np.ndarray:
        return acting.parse(asked(frame), nested=True, client=client).images

    first = images(12, b"a")
    for frame in range(12):
        images(frame, b"b")
    assert (images(12, b"b") != first).any()
    acting.reset(client=b"b")
    np.testing.assert_array_equal(images(12, b"b"), first)


def test_pictures_that_are_not_painted_are_refused_in_one_line() -> None:
    acting, rule = (
        served(View("dot", "before", 0.02, 0.1)),
        "send mask and point of head beside its picture, and the server paints",
    )
    for nested in (True, False):
        for lacking in ("mask", "point"):
            one = asked(0, nested=nested)
            del one[lacking if nested else f"{lacking}.head"]
            with pytest.raises(
                ValueError, match=f"{lacking}.head is missing: the policy learned from .*{rule}"
            ) as error:
                acting.parse(one, nested=nested)
            assert "\n" not in str(error.value)
    for kind, value, said in (
        ("mask", CLIP.mask[:1, None, :30], r"mask.head: bool \[1, 1, 30, 48\]: must be bool or uint8 \[1, 1, 48, 48\]"),
        ("mask", CLIP.mask[0], "mask.head: bool"),
        ("mask", CLIP.mask[:1, None].astype(float), "mask.head: float64"),
        ("point", np.zeros((1, 1, 3), np.float32), r"point.head: float32 \[1, 1, 3\]: must be float \[1, 1, 2\]"),
        ("point", np.zeros((1, 1, 2), int), "point.head: int"),
    ):
        with pytest.raises(ValueError, match=said):
            acting.parse({**asked(0), kind: {"head": value}}, nested=True)
    nobody = asked(0)
    del nobody["point"]
    served(View("none", "before", 0.02)).parse(nobody, nested=True)
    assert (served(None).parse(nobody, nested=True).images[0, 0, 0].transpose(1, 2, 0) == CLIP.frames[0]).all()


def test_masks_and_points_come_over_the_wire() -> None:
    policy = FakePolicy()
    policy.facts.views = {"observation.images.ego": View("dot", "inpaint", 0.0, 0.2)}
    with serving(policy) as server, client_of(server) as client:
        from tests.builders.server import observation

        one = observation()
        with pytest.raises(PolicyServerError, match="mask.ego_view is missing"):
            client.get_action(one)
        shape = one["video"]["ego_view"].shape
        one |= {"mask": {"ego_view": np.ones(shape[:4], bool)}, "point": {"ego_view": np.full((*shape[:2], 2), 2.0)}}
        nested, _ = client.get_action(one)
        also = flat(one) | {"mask.ego_view": one["mask"]["ego_view"], "point.ego_view": one["point"]["ego_view"]}
        flatly, _ = client.get_action(also)
    np.testing.assert_array_equal(nested["arm"], flatly["action.arm"])
    assert KEY in also
