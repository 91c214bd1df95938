"""A frozen vision model as System 2: `small_dino` and `bc_dino`, on a tiny random DINOv2 of the real class."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from flare.vision import FrozenVision
from tests.builders.policies import batch_of, shaken
from tests.flare.test_vision import save
from vla.batch import PolicyBatch
from vla.checkpoint import build_policy, load_policy
from vla.data.loader import cacheable
from vla.models.config import PolicyConfig, VisionConfig, VlmConfig
from vla.models.feature_cache import FeatureCache, Prompt
from vla.policy import Policy
from vla.recipes import DEBUG

HEADS = ("flow", "regression")


def config(folder: Path, head: str) -> PolicyConfig:
    name = str(folder) if (folder / "config.json").is_file() else save("dinov2", folder)
    return dataclasses.replace(DEBUG, head=head, vision=VisionConfig(name=name), future_tokens=0)


def made(folder: Path, head: str) -> Policy:
    torch.manual_seed(0)
    policy = build_policy(config(folder, head))
    for part in policy.children():
        if part is not policy.system2:
            shaken(part)
    return policy.eval()


def seen(policy: Policy) -> PolicyBatch:
    batch = batch_of(policy.config, [0, 1, 0], cameras=2)
    batch["instruction"] = ["open the drawer", "close it", ""]
    return batch


def with_features(policy: Policy, batch: PolicyBatch, folder: Path) -> PolicyBatch:
    assert policy.system2 is not None
    cache = FeatureCache(folder, policy.system2)
    rows = zip(batch["images"], batch["image_mask"], batch["instruction"], strict=True)
    cache.fill([Prompt(str(k), *row) for k, row in enumerate(rows)])
    tokens = cache.tokens(["0", "1", "2"])
    return {
        **batch,
        "features": tokens.features,
        "feature_mask": tokens.mask,
        "feature_is_image": tokens.is_image,
        "images": torch.zeros_like(batch["images"]),
    }


@pytest.mark.parametrize("head", HEADS)
def test_kept_features_give_the_losses_of_looking(head: str, tmp_path: Path) -> None:
    policy = made(tmp_path / "dino", head)
    assert cacheable(policy)
    batch = seen(policy)
    batch["image_mask"][1, 1] = False
    losses = []
    for one in (batch, with_features(policy, batch, tmp_path / "cache")):
        torch.manual_seed(1)
        with torch.no_grad():
            losses.append(policy.loss(one).action_loss)
    torch.testing.assert_close(losses[0], losses[1], atol=2e-3, rtol=2e-3)  # kept as float16


@pytest.mark.parametrize("head", HEADS)
def test_what_is_seen_and_said_matters_and_a_camera_that_is_not_there_does_not(head: str, tmp_path: Path) -> None:
    policy = made(tmp_path / "dino", head)
    batch = seen(policy)
    batch["image_mask"][:, 1] = False

    def loss(**changed: object) -> torch.Tensor:
        torch.manual_seed(1)
        with torch.no_grad():
            return policy.loss({**batch, **changed}).action_loss  # type: ignore[typeddict-item]

    hidden, shown = batch["images"].clone(), batch["images"].clone()
    hidden[:, 1], shown[:, 0] = 0, 0
    assert torch.equal(loss(images=hidden), loss())
    assert not torch.isclose(loss(images=shown), loss()).any()
    assert not torch.isclose(loss(instruction=["shut the door"] * 3), loss()).any()


@pytest.mark.parametrize("head", HEADS)
def test_the_reader_learns_and_the_model_does_not_and_all_is_saved(head: str, tmp_path: Path) -> None:
    policy = made(tmp_path / "dino", head).train()
    assert policy.system2 is not None
    batch = seen(policy)
    if head == "flow":
        policy.backbone.set_trainable(vision=False, top_layers=0)  # type: ignore[union-attr, operator]
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        torch.manual_seed(1)
        loss = policy.loss(batch).action_loss.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    after = policy.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("reader" in name for name in moved)
    assert not any(name.startswith("backbone.") for name in moved)
    policy.eval().save_pretrained(tmp_path / "saved")
    (tmp_path / "dino").rename(tmp_path / "gone")  # the checkpoint is enough
    again = load_policy(tmp_path / "saved")
    with torch.no_grad():
        for one in (policy, again):
            torch.manual_seed(2)
            losses.append(one.loss(batch).action_loss.mean().item())
    assert losses[-1] == losses[-2]


def test_in_bfloat16_training_and_acting_compute_alike_and_stored_halves_do_not(tmp_path: Path) -> None:
    given = config(tmp_path / "dino", "regression")
    given = dataclasses.replace(given, vision=dataclasses.replace(given.vision, bfloat16=True))
    policy = build_policy(given).eval()
    policy.save_pretrained(tmp_path / "saved")
    again = load_policy(tmp_path / "saved").eval()
    images = seen(policy)["images"]
    mask, texts = torch.ones(images.shape[:3], dtype=torch.bool), ["", "", ""]
    tokens = []
    for one in (policy, again):
        assert one.system2 is not None
        assert {value.dtype for value in one.system2.parameters()} == {torch.bfloat16}
        tokens.append(one.system2(images, mask, texts).features)
    assert torch.equal(*tokens)
    stored = FrozenVision(str(tmp_path / "dino"))
    stored.net.half().save_pretrained(tmp_path / "half")
    assert next(FrozenVision(str(tmp_path / "half")).net.parameters()).dtype == torch.float32


def test_principal_components_keep_what_varies_and_are_saved(tmp_path: Path) -> None:
    given = config(tmp_path / "dino", "regression")
    given = dataclasses.replace(given, vision=dataclasses.replace(given.vision, components=4))
    policy = build_policy(given).eval()
    whole = FrozenVision(given.vision.name)
    images = seen(policy)["images"]
    mask = torch.ones(images.shape[:3], dtype=torch.bool)
    assert policy.system2 is not None
    policy.system2.fit(lambda: list(images))
    policy.system2.fit(lambda: pytest.fail("fitted once"))
    reduced = policy.system2(images, mask, ["", "", ""]).features.flatten(0, 1)
    tokens = whole(images.flatten(0, 2)).flatten(0, 1)
    away = tokens - tokens.mean(0)
    values = torch.linalg.svdvals(away)[:4]
    torch.testing.assert_close(reduced.norm(dim=0), values, rtol=1e-3, atol=1e-3)
    policy.save_pretrained(tmp_path / "saved")
    again = load_policy(tmp_path / "saved").eval()
    assert again.system2 is not None
    assert torch.equal(again.system2(images, mask, ["", "", ""]).features.flatten(0, 1), reduced)


def test_components_are_as_many_as_there_are_and_fitted_before_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="vision.components -1: at least 1, or 0 for all"):
        VisionConfig(components=-1)
    given = config(tmp_path / "dino", "regression")
    many, some = (dataclasses.replace(given, vision=dataclasses.replace(given.vision, components=n)) for n in (17, 4))
    with pytest.raises(ValueError, match="vision.components 17: '.*' has 16 features; choose at most so many"):
        build_policy(many)
    policy = build_policy(some).eval()
    batch = seen(policy)
    with pytest.raises(ValueError, match="the 4 components of '.*' are not fitted yet: giza pretrain or giza ground"):
        policy.loss(batch)
    assert policy.system2 is not None
    policy.system2.fit(lambda: list(batch["images"]))
    policy.loss(batch)
    monkeypatch.setattr(torch.Tensor, "any", lambda *_: pytest.fail("looked at again"))
    policy.system2(batch["images"], batch["image_mask"], batch["instruction"])


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    policy = made(tmp_path / "dino", "flow")
    with pytest.raises(ValueError, match="a frozen vision model is not trained: set tuning.no-vision"):
        policy.backbone.set_trainable(vision=True, top_layers=0)  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="vision.name 'a' and vlm.name 'b': one backbone, not two"):
        dataclasses.replace(DEBUG, vision=VisionConfig(name="a"), vlm=VlmConfig(name="b"))
    with pytest.raises(ValueError, match="vision.noise 3: within 0 and 2"):
        VisionConfig(noise=3)


def test_the_direct_path_reaches_every_step_of_the_chunk_and_leaves_out_what_is_not_there() -> None:
    torch.manual_seed(0)
    small = dataclasses.replace(DEBUG.small, direct=16)
    policy = build_policy(dataclasses.replace(DEBUG, small=small)).eval()
    batch = seen(policy)
    batch["image_mask"][:, 1] = False
    tokens = policy.encode(batch["images"], batch["image_mask"], batch["instruction"])
    changed = batch["images"].clone()
    changed[:, 1] = 0
    assert tokens.direct is not None
    assert torch.equal(tokens.direct, policy.encode(changed, batch["image_mask"], batch["instruction"]).direct)
    # with attention to nothing, only the direct path tells of the image
    blind = dataclasses.replace(tokens, mask=torch.zeros_like(tokens.mask))
    other = dataclasses.replace(blind, direct=tokens.direct.flip(0))
    ids = torch.zeros(3, dtype=torch.long)
    chunks = [policy.sample(one, batch["state"], batch["state_mask"], ids, 3) for one in (blind, other)]
    assert bool(((chunks[0] - chunks[1]).abs().amax((0, 2)) > 0).all())


def test_what_the_action_reads_is_the_same_with_and_without_the_tokens_that_nobody_reads(tmp_path: Path) -> None:
    policy = made(tmp_path / "dino", "regression")
    batch = seen(policy)
    batch["image_mask"][1, 1] = False
    with torch.no_grad():
        tokens = policy.backbone(batch["images"], batch["image_mask"], batch["instruction"])  # type: ignore[operator, union-attr]
        reader, asked = policy.reader, (tokens, batch["image_mask"], batch["instruction"])  # type: ignore[union-attr]
        assert torch.equal(reader.read_directly(*asked), reader(*asked).direct)  # type: ignore[operator, union-attr]
