"""Masks by SAM2: it is asked about the hand, and of what it offers the hand and its forearm are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from corpora.agent.forearm import forearm_wedge, hand_shape
from corpora.agent.hand_masks import open_mask
from corpora.agent.sam2 import SHOWN, Sam2Mask, chosen
from corpora.agent.settings import TrackSettings
from tests.builders.agents import hand_at
from tests.builders.sam2 import SIDE, tiny_sam2

HEIGHT, WIDTH = 48, 64
HAND = hand_at((30.0, 30.0), 8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam2(tmp_path_factory.mktemp("sam2"))


def asked(name: Path | str) -> TrackSettings:
    return TrackSettings(mask="sam2", mask_model=str(name))


def test_it_is_asked_about_wrist_and_knuckles_of_every_hand(folder: Path) -> None:
    mask = open_mask(asked(folder))
    assert isinstance(mask, Sam2Mask)
    told: list[torch.Tensor] = []
    forward = mask._model.forward
    mask._model.forward = lambda **given: told.append(given["input_points"]) or forward(**given)
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    hands = [HAND, HAND + 8]
    found = mask(image, hands)
    assert found.shape == (HEIGHT, WIDTH) and found.dtype == bool
    for points, hand in zip(told[0][0].cpu().numpy(), hands, strict=True):
        np.testing.assert_allclose(points, hand[list(SHOWN)] * (SIDE / WIDTH, SIDE / HEIGHT), atol=1e-3)
    for hand in hands:
        assert found[hand_shape(hand, found.shape)].all()
    assert (found == mask(image, hands)).all()


def test_of_its_masks_the_largest_that_is_a_hand_and_a_forearm_is_taken() -> None:
    shape = (HEIGHT, WIDTH)
    hand, wedge = hand_shape(HAND, shape), forearm_wedge(HAND, shape)
    finger, arm, person = np.zeros(shape, bool), hand.copy(), np.ones(shape, bool)
    finger[10:14, 30:33] = True
    arm[30:, 26:35] = True
    assert (chosen(np.stack([finger, arm, person, hand]), HAND) == (arm & (hand | wedge))).all()
    assert arm[wedge].sum() > 100 and (chosen(np.stack([finger, person]), HAND) == hand).all()
    holding = arm & ~hand
    holding[14:34, 20:40] |= hand[14:34, 20:40]  # what is held hides the fingers
    assert (chosen(holding[None], HAND) == (hand | (arm & wedge))).all()


def test_what_it_says_depends_on_the_weights(folder: Path, tmp_path: Path) -> None:
    other = tiny_sam2(tmp_path, seed=1)
    assert open_mask(asked(folder)).identity == open_mask(asked(folder)).identity != open_mask(asked(other)).identity


def test_as_it_is_published_it_holds_what_follows_through_video_too(tmp_path: Path) -> None:
    video = tiny_sam2(tmp_path, video=True)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert open_mask(asked(video))(image, [HAND]).any()


def test_what_is_no_sam2_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--mask sam2: name the model .*--mask-model.*--mask grabcut"):
        open_mask(asked(""))
    with pytest.raises(ValueError, match=r"--mask-model '.*nowhere': is no SAM2 that loads"):
        open_mask(asked(tmp_path / "nowhere"))
    transformers.Dinov2Config(hidden_size=8).save_pretrained(tmp_path / "dino")
    with pytest.raises(ValueError, match=r"--mask-model '.*dino': is no SAM2 that loads \(it is dinov2\)"):
        open_mask(asked(tmp_path / "dino"))
    with pytest.raises(ValueError, match=r"--mask-model /x: --mask grabcut does not read it.*choose --mask sam2"):
        open_mask(TrackSettings(mask_model="/x"))
    with pytest.raises(ValueError, match=r"--mask 'sam3': must be one of grabcut, hand, sam2"):
        open_mask(TrackSettings(mask="sam3"))


def test_weights_that_lack_something_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    half = tiny_sam2(tmp_path)
    weights = load_file(half / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "mask_decoder" not in name},
        half / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match=r"lacks weights \(mask_decoder"):
        open_mask(asked(half))
