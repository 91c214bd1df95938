"""UniVLA's checkpoint (see test_published.py): its features, latents, codes and predictions are those of its own code.

`fixtures/univla_tiny.*` are of that code with a small DINOv2 of DINOv2's own code in it, both with random weights.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lapa
from corpora.clips.corpus import Corpus
from lapa.extraction.extract import write_latents
from lapa.extraction.settings import ExtractionSettings
from lapa.model.checkpoint import featurise_of, initialise_from, read_lam_config, save_lam
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.pairs.pair import resize_frames
from lapa.recipes import UNIVLA, UNIVLA_STAGE1
from tests.builders.corpora import write_corpus

UNIVLA_TINY = Path(__file__).parent / "fixtures" / "univla_tiny.ckpt"


def as_its_model_is_fed(frames: Tensor) -> PairBatch:
    """Features of frames uint8 [P, 2, 3, S, S]."""
    featurise = featurise_of(UNIVLA_TINY, read_lam_config(UNIVLA_TINY))
    assert featurise is not None
    features = torch.from_numpy(featurise(frames.flatten(0, 1).permute(0, 2, 3, 1).numpy()))
    return PairBatch(*features.unflatten(0, (len(frames), 2)).unbind(1))


def expected() -> tuple[PairBatch, dict[str, Tensor]]:
    """What the model is fed, and what UniVLA's code made of it."""
    held = load_file(UNIVLA_TINY.with_suffix(".safetensors"))
    return as_its_model_is_fed(held.pop("frames")), held


def test_its_checkpoint_gives_what_its_code_gives() -> None:
    pairs, theirs = expected()
    model = lapa.load(UNIVLA_TINY)
    with torch.inference_mode():
        encoding = model.encode(pairs)
        second = model.predict(pairs.first, encoding.quantized, rest=encoding.rest).target[: len(theirs["second"])]
    first = torch.stack([pairs.first, pairs.second], 1)[: len(theirs["features"])]
    torch.testing.assert_close(first, theirs["features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoding.latent, theirs["latent"], atol=1e-5, rtol=0)
    torch.testing.assert_close(second, theirs["second"], atol=1e-5, rtol=0)
    assert theirs["latent"].std(0).mean() > 1e-2  # pairs differ by far more than that
    assert encoding.codes is not None and encoding.rest is not None
    assert torch.equal(encoding.codes, theirs["codes"])
    assert len(theirs["codes"].unique()) > 4  # or it would be easy
    torch.testing.assert_close(encoding.quantized, theirs["quantized"], atol=1e-6, rtol=0)
    torch.testing.assert_close(encoding.rest, theirs["rest"], atol=1e-6, rtol=0)


def test_each_of_its_own_parts_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    from lapa.model.task_tokens import CausalBlocks

    pairs, theirs = expected()
    model = lapa.load(UNIVLA_TINY)

    def off() -> float:
        with torch.inference_mode():
            return float((model.encode(pairs).latent - theirs["latent"]).abs().max())

    monkeypatch.setattr(CausalBlocks, "causal", False)
    assert off() > 1e-3
    monkeypatch.undo()
    assert off() < 1e-5
    branch = model.encoder.branches[0]
    branch.prompt.data, branch.task_prompt.data = branch.task_prompt.data, branch.prompt.data
    assert off() > 1e-3


def test_the_recipes_are_its_two_networks() -> None:
    # its second stage without DINOv2; the first has no tokens, maps and codes of the task, and one map of the text
    second = 201_166_592
    first = second - 4 * 768 - (769 * 128 + 129 * 768) - 16 * 128 + 769 * 768
    for config, parameters in ((UNIVLA, second), (UNIVLA_STAGE1, first)):
        with torch.device("meta"):
            model = LatentActionModel(config)
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_extraction_writes_the_task_centric_tokens_and_says_what_was_shown(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", (0, 1))
    settings = ExtractionSettings(UNIVLA_TINY, corpus, gap_s=0.5, workers=1, device="cpu")
    record = write_latents(settings, tmp_path / "latents")
    assert record["made_by"] == "UniVLA"
    assert record["preprocessing"] == (
        "RGB in [0, 1], the whole image resized to 32 x 32 (lanczos), normalised by ImageNet's mean and deviation, "
        "read by its frozen DINOv2"
    )
    clip = next(Corpus(corpus).read(limit=1))
    found = lapa.Latents(tmp_path / "latents").read([clip.row.clip_id])
    assert found.codes is not None
    assert found.codes.shape == (len(found), 4)
    assert found.latent.shape == found.quantized.shape == (len(found), 4 * 6)
    first = int(np.abs(clip.t_s - found.t_s[0]).argmin())
    second = int(np.abs(clip.t_s - found.t_s[0] - found.gap_s[0]).argmin())
    small = torch.from_numpy(resize_frames(clip.frames[[first, second]], 32, "lanczos")).permute(0, 3, 1, 2)
    with torch.inference_mode():
        encoding = lapa.load(UNIVLA_TINY).encode(as_its_model_is_fed(small[None]))
    np.testing.assert_allclose(found.latent[0], encoding.latent.flatten(), atol=1e-5)
    assert encoding.codes is not None and np.array_equal(found.codes[0], encoding.codes[0])


def test_training_goes_on_from_it() -> None:
    model = LatentActionModel(lapa.load(UNIVLA_TINY).config)
    taken = initialise_from(model, UNIVLA_TINY)
    assert {"quantiser.task.codebook", "quantiser.frozen.codebook", "encoder.branches.0.task_prompt"} <= set(taken)
    pairs, theirs = expected()
    torch.testing.assert_close(model.eval().encode(pairs).latent, theirs["latent"], atol=1e-5, rtol=0)


def tiny(stage: int) -> LatentActionModel:
    config = dataclasses.replace(
        UNIVLA if stage == 2 else UNIVLA_STAGE1,
        dim=32,
        heads=2,
        spatial_depth=1,
        decoder_depth=1,
        latent_dim=6,
        feature_dim=16,
        feature_patches=9,
        text_dim=8,
    )
    torch.manual_seed(stage)
    return LatentActionModel(config)


def test_the_second_stage_takes_tokens_and_codes_of_the_first_and_learns_the_rest_anew(tmp_path: Path) -> None:
    first = tiny(1)
    save_lam(first, tmp_path)
    second = tiny(2)
    taken = initialise_from(second, tmp_path)
    assert "encoder.branches.0.prompt" in taken
    assert all(name.startswith(("quantiser.frozen.", "encoder.branches.0.prompt")) for name in taken)
    codes = first.quantiser.codebook.clone()
    images = torch.randn(2, 5, 9, 16)
    second.train()
    optimiser = torch.optim.AdamW([p for p in second.parameters() if p.requires_grad], lr=0.01)
    before = {name: value.clone() for name, value in second.state_dict().items()}
    encoding = second.encode(PairBatch(*images))
    predicted = second.predict(images[0], encoding.quantized, rest=encoding.rest).target
    (encoding.loss + (predicted - images[1]).pow(2).mean()).backward()
    optimiser.step()
    assert torch.equal(second.quantiser.frozen.codebook, codes)
    moved = {name for name, value in second.state_dict().items() if not torch.equal(value, before[name])}
    assert {"encoder.branches.0.prompt", "encoder.branches.0.rest_out.weight", "quantiser.task.codebook"} <= moved


def test_the_first_stage_reads_the_text_in_encoder_and_decoder_and_no_padding() -> None:
    model = tiny(1).eval()
    pairs, text = PairBatch(*torch.randn(2, 3, 9, 16)), torch.randn(3, 4, 8)
    padded = torch.cat([text, torch.zeros(3, 2, 8)], 1)

    def read(words: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            latent = model.encode(pairs, text=words).latent
            return latent, model.predict(pairs.first, torch.zeros(3, 4, 6), text=words).target

    for one, same, other in zip(read(text), read(padded), read(text.flip(0)), strict=True):
        torch.testing.assert_close(one, same, atol=1e-5, rtol=0)
        assert (one - other)[0].abs().max() > 1e-3
    assert model.decoder.words is model.encoder.branches[0].words


def test_latents_of_a_first_stage_are_not_extracted(tmp_path: Path) -> None:
    save_lam(tiny(1), tmp_path / "first")
    settings = ExtractionSettings(tmp_path / "first", write_corpus(tmp_path / "corpus", (0,)))
    with pytest.raises(ValueError, match="is a first stage .* train the second from it") as error:
        write_latents(settings, tmp_path / "latents")
    assert "\n" not in str(error.value)


def test_what_stands_beside_the_latent_is_usual_where_nobody_gives_it() -> None:
    model = tiny(2).eval()
    first, latent = torch.randn(3, 9, 16), torch.randn(3, 4, 6)
    usual = model.quantiser.frozen.codebook.mean(0).expand(3, 4, -1)
    assert torch.equal(model.decode(first, latent), model.decode(first, latent, rest=usual))
    assert model.random_codes(3).shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "is no checkpoint, or is cut off .*: fetch it again"),
        ("stage 1", "this is UniVLA's stage 1.* take its stage 2 .lam-stage-2.ckpt."),
        ("size", "has .32, 8. for encoder.branches.0.layers.layers.0.space.to_q.weight, where .32, 32. belongs"),
        ("codes", "of 8 and 16 codes.* giza reads its models whose two codebooks are of one size"),
        ("vision", "its frozen vision model is not whole .*norm.* of UniVLA's DINOv2 .*: fetch it again"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_with_the_remedy(tmp_path: Path, damage: str, message: str) -> None:
    path = tmp_path / "lam.ckpt"
    held = torch.load(UNIVLA_TINY)
    weights = held["state_dict"]
    query = "lam.encoder.transformer_blocks.0.spatial_attn.to_q.weight"
    if damage == "stage 1":
        held["state_dict"] = {
            name: value
            for name, value in weights.items()
            if not name.startswith(("lam.vq_action", "lam.action_latent_controllable")) and "uncontrol" not in name
        }
    elif damage == "size":
        weights[query] = torch.zeros(32, 8)
    elif damage == "codes":
        weights["lam.vq.codebook.weight"] = torch.zeros(8, 6)
    elif damage == "vision":
        del weights["lam.dino_encoder.norm.bias"]
    torch.save(held, path)
    if damage == "cut":
        path.write_bytes(UNIVLA_TINY.read_bytes()[:-1000])

    def read() -> None:
        lapa.load(path)
        featurise_of(path, read_lam_config(path))

    with pytest.raises(ValueError, match=message) as error:
        read()
    assert "\n" not in str(error.value)
