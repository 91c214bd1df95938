"""The cache of frozen features: the same tokens, computed once, whatever kills the job on the way."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.builders.vlms import SIDE, some_images, tiny_backbone
from vla.models.config import SmallBackboneConfig
from vla.models.feature_cache import FeatureCache, Prompt, fingerprint
from vla.models.small import SmallBackbone
from vla.policy import Backbone, ContextTokens


class Counting(Backbone):
    """Frozen; a token for each letter of the instruction and one for each image; counts what it is asked."""

    def __init__(self, seed: int = 0, size: float = 1.0) -> None:
        super().__init__()
        self.dim = 6
        self.size = size
        self.config = f"size {size}"
        generator = torch.Generator().manual_seed(seed)
        self.words = nn.Parameter(torch.randn(128, 6, generator=generator), requires_grad=False)
        self.asked: list[str] = []
        self.batches: list[int] = []
        self.fail_at: int | None = None

    def forward(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        assert not self.training and not torch.is_grad_enabled()
        if self.fail_at is not None and len(self.asked) >= self.fail_at:
            raise KeyboardInterrupt
        self.asked += instruction
        self.batches.append(len(instruction))
        rows = []
        for k, text in enumerate(instruction):
            shown = images[k][image_mask[k]].float().mean((1, 2, 3))[:, None].expand(-1, 6) / 255
            rows.append(torch.cat([self.words[[ord(letter) for letter in text]], shown]) * self.size)
        length = max(map(len, rows))
        features = torch.full((len(rows), length, 6), float("nan"))
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        is_image = torch.zeros_like(mask)
        for k, row in enumerate(rows):
            features[k, : len(row)] = row
            mask[k, : len(row)] = True
            is_image[k, len(instruction[k]) : len(row)] = True
        return ContextTokens(features, mask, is_image)


def prompts(count: int, *, prefix: str = "s", seed: int = 0) -> list[Prompt]:
    images = some_images(count, cameras=2, seed=seed, side=4)
    mask = torch.rand(count, 2, 1, generator=torch.Generator().manual_seed(seed)) < 0.7
    return [Prompt(f"{prefix}{k}", images[k], mask[k], "go " + "x" * (k % 5)) for k in range(count)]


def together(backbone: Backbone, part: list[Prompt]) -> ContextTokens:
    with torch.no_grad():
        return backbone.eval()(
            torch.stack([p.images for p in part]),
            torch.stack([p.image_mask for p in part]),
            [p.instruction for p in part],
        )


def check(found: ContextTokens, want: ContextTokens, tolerance: float = 1e-3) -> None:
    assert torch.equal(found.mask, want.mask)
    assert torch.equal(found.is_image, want.is_image)
    wanted = want.features.masked_fill(~want.mask[..., None], 0)
    torch.testing.assert_close(found.features, wanted.float(), atol=tolerance, rtol=tolerance)


def test_the_cache_gives_what_the_backbone_gives(tmp_path: Path) -> None:
    backbone = Counting()
    some = prompts(23)
    cache = FeatureCache(tmp_path, backbone, shard_prompts=8)
    done: list[int] = []
    assert cache.fill(some, batch=3, progress=done.append) == 23
    assert done == [8, 16, 23]
    assert max(backbone.batches) == 3
    chosen = [some[k] for k in (22, 0, 9, 9, 15)]
    for reader in (cache, FeatureCache(tmp_path, Counting()), pickle.loads(pickle.dumps(cache))):
        assert len(reader) == 23
        check(reader.tokens([p.id for p in chosen]), together(Counting(), chosen))


@pytest.mark.parametrize("family", ["smolvlm", "qwen3vl"])
def test_the_cache_of_a_vision_language_model(family: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = tiny_backbone(family, layer=2)
    images = some_images(3, side=SIDE)
    mask = torch.tensor([[[True], [True]], [[False], [False]], [[False], [True]]])
    some = [Prompt(str(k), images[k], mask[k], text) for k, text in enumerate(["open", "", "close the drawer"])]
    cache = FeatureCache(tmp_path, backbone)
    cache.fill(some, batch=2)
    check(cache.tokens(["0", "1", "2"]), together(backbone, some), tolerance=2e-3)
    # the padding that the processor leaves in its tokenizer changes no key
    assert FeatureCache(tmp_path, backbone).folder == cache.folder


def test_each_prompt_is_computed_once(tmp_path: Path) -> None:
    backbone = Counting()
    cache = FeatureCache(tmp_path, backbone, shard_prompts=4)
    some = prompts(10)
    twins = [Prompt(f"twin{p.id}", p.images, p.image_mask, p.instruction) for p in some]
    assert cache.fill([*some[:6], *twins[:3]]) == 6
    assert cache.fill([*some, *twins]) == 4
    assert len(backbone.asked) == 10
    again = FeatureCache(tmp_path, backbone)
    assert again.fill([*some, *twins]) == 0
    check(again.tokens([t.id for t in twins]), together(Counting(), some))
    # what is masked out is not seen, so it does not count
    hidden = prompts(1)[0]
    mask = torch.zeros_like(hidden.image_mask)
    a, b = (Prompt(name, value, mask, "go") for name, value in (("a", hidden.images), ("b", 255 - hidden.images)))
    assert cache.fill([a, b]) == 1


def test_a_killed_job_goes_on_where_it_was(tmp_path: Path) -> None:
    some = prompts(20)
    backbone = Counting()
    backbone.fail_at = 10
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, backbone, shard_prompts=4).fill(some, batch=2)
    folder = FeatureCache(tmp_path, Counting()).folder
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["000000.safetensors", "000001.safetensors"]
    (folder / "000009.safetensors.tmp").write_bytes(b"half a shard")
    second = Counting()
    cache = FeatureCache(tmp_path, second, shard_prompts=4)
    assert len(cache) == 8
    assert cache.fill(some, batch=2) == 12
    assert second.asked == [p.instruction for p in some[8:]]
    assert not list(folder.glob("*.tmp"))
    check(cache.tokens([p.id for p in some]), together(Counting(), some))


def test_a_sample_that_changed_is_computed_again(tmp_path: Path) -> None:
    backbone = Counting()
    cache = FeatureCache(tmp_path, backbone)
    old, new = prompts(6), prompts(6, seed=1)
    cache.fill(old)
    assert cache.fill([*new[:3], *old[3:]]) == 3
    for reader in (cache, FeatureCache(tmp_path, backbone)):
        check(reader.tokens([p.id for p in old]), together(Counting(), [*new[:3], *old[3:]]))
    # and back: nothing to compute, but the name must point at the old features again
    assert cache.fill(old[:1]) == 0
    check(FeatureCache(tmp_path, backbone).tokens(["s0"]), together(Counting(), old[:1]))


def test_another_model_has_another_cache(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, Counting())
    cache.fill(prompts(2))
    other = FeatureCache(tmp_path, Counting(seed=1))
    assert other.folder != cache.folder
    assert len(other) == 0
    with pytest.raises(ValueError, match="sample 's0': not in the feature cache .*fill it first"):
        other.tokens(["s0"])
    keys = set()
    for layer in (2, 3):
        torch.manual_seed(0)
        keys.add(fingerprint(tiny_backbone(layer=layer)))
    assert len(keys) == 2


def test_a_backbone_in_training_is_refused(tmp_path: Path) -> None:
    small = SmallBackbone(SmallBackboneConfig(dim=16, channels=(8, 8)))
    with pytest.raises(ValueError, match=r"\d+ of the backbone's tensors are being trained: .*train without the cache"):
        FeatureCache(tmp_path, small)
    some = prompts(3)
    small = SmallBackbone(SmallBackboneConfig(dim=16, channels=(8, 8))).requires_grad_(False).train()
    shown = [Prompt(p.id, some_images(1, seed=k, side=28)[0], p.image_mask, "go") for k, p in enumerate(some)]
    cache = FeatureCache(tmp_path, small)
    cache.fill(shown)
    assert small.training
    found, want = cache.tokens([p.id for p in shown]), together(small, shown)
    # this one leaves padding between the real tokens, the cache none
    torch.testing.assert_close(found.features[found.mask], want.features[want.mask], atol=2e-3, rtol=2e-3)


def test_features_too_large_for_half_precision_keep_their_precision(tmp_path: Path) -> None:
    some = prompts(4)
    cache = FeatureCache(tmp_path, Counting(size=1e6))
    cache.fill(some)
    want = together(Counting(size=1e6), some)
    found = cache.tokens([p.id for p in some])
    error = (found.features - want.features)[want.mask].abs().amax(-1) / want.features[want.mask].abs().amax(-1)
    assert want.features[want.mask].abs().max() > 65504
    assert error.max() < 2**-10
    bad = Counting(size=float("inf"))
    with pytest.raises(ValueError, match="not finite"):
        FeatureCache(tmp_path, bad).fill(some)


def test_samples_are_read_as_a_stream(tmp_path: Path) -> None:
    """At most a shard of prompts is alive at a time."""
    alive = 0
    most = 0

    class Tracked(Prompt):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[Prompt]:
        nonlocal alive, most
        for p in prompts(40):
            alive += 1
            most = max(most, alive)
            yield Tracked(p.id, p.images, p.image_mask, p.instruction)

    FeatureCache(tmp_path, Counting(), shard_prompts=5).fill(stream(), batch=2)
    assert most <= 2 * 5 + 2


def test_more_shards_than_are_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla.models.feature_cache.OPEN_SHARDS", 2)
    some = prompts(9)
    cache = FeatureCache(tmp_path, Counting(), shard_prompts=1)
    cache.fill(some)
    check(cache.tokens([p.id for p in some]), together(Counting(), some))
    assert len(cache._open) == 2
