"""The small backbone's images in training: cropped at random, and of other colours."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.builders.policies import SIZE, here, shaken, some_images, tiny_bc, tiny_policy
from vla.models.config import SmallBackboneConfig
from vla.models.small import SmallBackbone, recoloured


def test_images_are_cropped_at_random_in_training_and_in_the_middle_after() -> None:
    torch.manual_seed(0)
    backbone = SmallBackbone(SmallBackboneConfig(dim=32, channels=(16, 32), keypoints=8, crop=0.75))
    shaken(backbone)
    images = some_images(2, cameras=2)
    border = images.clone()
    border[..., : SIZE // 8, :] = 0
    border[..., : SIZE // 8] = 0

    def see(images: Tensor, training: bool, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return backbone.train(training)(images, here(images), ["a", "b"]).features

    assert torch.equal(see(images, False, 0), see(images, False, 1))
    assert torch.equal(see(images, False, 0), see(border, False, 0))  # the border is cut off
    assert not torch.equal(see(images, True, 0), see(images, True, 1))
    assert not torch.equal(see(images, True, 0), see(border, True, 0))


@pytest.mark.parametrize("kind", [tiny_policy, tiny_bc])
def test_colours_change_in_training_alone_and_for_each_sample_by_itself(kind) -> None:
    plain = SmallBackboneConfig(dim=32, channels=(16, 16, 32), keypoints=8, words=256, crop=1.0)
    policy = kind(small=dataclasses.replace(plain, colour=0.3))
    shaken(policy)
    images = some_images(1).repeat(2, 1, 1, 1, 1, 1)

    def see(training: bool, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return policy.train(training).encode(images, here(images), ["a", "a"]).features

    assert torch.equal(see(False, 0), see(False, 1))
    first = see(True, 0)
    assert torch.equal(first, see(True, 0))
    assert not torch.allclose(first, see(True, 1))
    assert not torch.allclose(first[0], first[1])


def test_a_changed_colour_is_a_linear_map_shared_by_all_images_of_a_sample() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 3, 8, 8) * 2 - 1
    changed = recoloured(images, 0.2)
    for before, after in zip(images, changed, strict=True):
        flat = before.movedim(1, -1).reshape(-1, 3)
        known = torch.cat([flat, torch.ones(len(flat), 1)], 1)
        solved = torch.linalg.lstsq(known, after.movedim(1, -1).reshape(-1, 3)).solution
        torch.testing.assert_close(known @ solved, after.movedim(1, -1).reshape(-1, 3), atol=1e-4, rtol=0)
        assert (solved[:3] - torch.eye(3)).abs().max() > 0.05
    assert recoloured(images, 0.0) is images
    with pytest.raises(ValueError, match="colour 2.0: must be within 0 and 1"):
        SmallBackboneConfig(colour=2.0)
