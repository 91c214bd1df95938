"""Published latent action models: their checkpoints, read here, give what their authors' own code gives.

`fixtures/*_tiny.safetensors` hold frames and what that code made of them with the random weights beside them (a tiny network of
the published layout); no test needs that code or the real weights.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import jobs
import lapa
from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from lapa.extraction.extract import write_latents
from lapa.extraction.settings import ExtractionSettings
from lapa.model.checkpoint import initialise_from, model_hash, read_lam_config, save_lam
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.pairs.config import PairConfig
from lapa.pairs.pair import resize_frames, shown
from tests.builders.corpora import write_corpus

FIXTURES = Path(__file__).parent / "fixtures"
LAPA = FIXTURES / "laq_tiny.pt"
DREAMDOJO = FIXTURES / "dreamdojo_tiny.ckpt"


def expected(checkpoint: Path) -> tuple[PairBatch, dict[str, Tensor]]:
    """The frames, and what the authors' code made of them."""
    held = load_file(checkpoint.with_suffix(".safetensors"))
    frames = held.pop("frames")
    return PairBatch(frames[:, 0], frames[:, 1]).floats(), held


def assert_agrees(checkpoint: Path) -> None:
    pairs, theirs = expected(checkpoint)
    model = lapa.load(checkpoint)
    with torch.inference_mode():
        encoding = model.encode(pairs)
        second = model.predict(pairs.first, encoding.quantized).target[: len(theirs["second"])]
    torch.testing.assert_close(encoding.latent, theirs["latent"], atol=1e-5, rtol=0)
    torch.testing.assert_close(second, theirs["second"], atol=1e-5, rtol=0)
    assert theirs["latent"].std(0).mean() > 1e-2  # pairs differ by far more than that
    if "codes" in theirs:
        assert encoding.codes is not None
        assert torch.equal(encoding.codes, theirs["codes"])
        assert len(theirs["codes"].unique()) > 4  # or it would be easy
        torch.testing.assert_close(encoding.quantized, theirs["quantized"], atol=1e-6, rtol=0)


def test_lapas_checkpoint_gives_what_lapas_code_gives() -> None:
    assert_agrees(LAPA)


def test_dreamdojos_checkpoint_gives_what_its_code_gives() -> None:
    assert_agrees(DREAMDOJO)
    pairs, theirs = expected(DREAMDOJO)
    model = lapa.load(DREAMDOJO)
    with torch.inference_mode():
        moments = model.encoder(pairs.first, pairs.second, None, None)
    torch.testing.assert_close(moments[..., 6:], theirs["log_variance"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [{"blocks": "plain"}, {"input": "difference"}, {"condition": "cross"}],
    ids=lambda change: next(iter(change)),
)
def test_each_of_lapas_own_parts_matters(change: dict[str, str]) -> None:
    pairs, theirs = expected(LAPA)
    model = lapa.load(LAPA)
    other = LatentActionModel(dataclasses.replace(model.config, **change)).eval()  # type: ignore[arg-type]
    other.load_state_dict(model.state_dict(), strict=False)
    with torch.inference_mode():
        encoding = other.encode(pairs)
        second = other.predict(pairs.first, theirs["quantized"]).target
    off = max((encoding.latent - theirs["latent"]).abs().max(), (second - theirs["second"]).abs().max())
    assert off > 1e-3


def test_the_recipe_of_the_same_name_is_the_same_network() -> None:
    for name, parameters in {"lapa": 343_771_504, "dreamdojo": 709_777_472, "univla": 201_166_592}.items():
        with torch.device("meta"):
            model = LatentActionModel(lapa.RECIPES[name].model)
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_training_starts_from_a_published_checkpoint() -> None:
    config = lapa.load(LAPA).config
    model = LatentActionModel(config)
    taken = initialise_from(model, LAPA)
    assert {"encoder.branches.0.spatial.layers.0.self.q_scale", "quantiser.codebook", "decoder.out.weight"} <= set(
        taken
    )
    pairs, theirs = expected(LAPA)
    torch.testing.assert_close(model.eval().encode(pairs).latent, theirs["latent"], atol=1e-5, rtol=0)


def test_saved_as_a_run_it_is_the_same_model(tmp_path: Path) -> None:
    model = lapa.load(LAPA)
    save_lam(model, tmp_path)
    pairs, _ = expected(LAPA)
    assert read_lam_config(tmp_path) == model.config
    assert torch.equal(lapa.load(tmp_path).encode(pairs).latent, model.encode(pairs).latent)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c", (0, 1))


def test_extraction_says_whose_model_it_ran_and_what_it_was_shown(corpus: Path, tmp_path: Path) -> None:
    record = write_latents(ExtractionSettings(LAPA, corpus, gap_s=0.5, workers=1, device="cpu"), tmp_path / "latents")
    assert record["made_by"] == "LAPA"
    assert record["preprocessing"] == "RGB in [0, 1], the whole image resized to 32 x 32 (bilinear)"
    assert record["stored_px"] == [48]
    assert record["model_hash"] == model_hash(LAPA)
    clip = next(Corpus(corpus).read(limit=1))
    found = lapa.Latents(tmp_path / "latents").read([clip.row.clip_id])
    assert found.codes is not None
    assert found.codes.shape == (len(found), 4)
    assert found.latent.shape == found.quantized.shape == (len(found), 16)
    first = int(np.abs(clip.t_s - found.t_s[0]).argmin())
    second = int(np.abs(clip.t_s - found.t_s[0] - found.gap_s[0]).argmin())
    small = torch.from_numpy(resize_frames(clip.frames[[first, second]], 32, "bilinear")).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        latent = lapa.load(LAPA).encode(PairBatch(small[:1], small[1:])).latent
    np.testing.assert_allclose(found.latent[0], latent.flatten(), atol=1e-5)


def test_images_are_resized_as_torchvision_does() -> None:
    from PIL import Image
    from torchvision.transforms import Resize

    frames = np.random.default_rng(0).integers(0, 256, (1, 48, 60, 3), np.uint8)
    for size in (32, 64):
        theirs = np.asarray(Resize((size, size))(Image.fromarray(frames[0])))
        assert np.array_equal(resize_frames(frames, size, "bilinear")[0], theirs)
    assert PairConfig().resize == "area"


class _Harmless:
    """Of no plain kind."""


def _wrapped(weights: dict[str, Tensor]) -> object:
    return {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in weights.items()}}


def test_the_middle_of_the_source_is_shown_in_the_models_aspect() -> None:
    """Of 160 x 80, 60 x 80 and 64 x 48 pixels, stored as squares, what lies within the middle 4:3."""
    config = PairConfig(image_size=12, image_width=16, crop=True, resize="linear")
    for (width, height), left, top in (((160, 80), 1 / 6, 0.0), ((60, 80), 0.0, 7 / 32), ((64, 48), 0.0, 0.0)):
        ramp = np.linspace(0, 255, 96)
        frame = np.stack([np.tile(ramp, (96, 1)), np.tile(ramp[:, None], (1, 96)), np.zeros((96, 96))], -1)
        row = ClipRow("", "", "", width=width, height=height, size=96)
        image = shown(frame[None].astype(np.uint8), config, row)[0]
        assert image.shape == (12, 16, 3)
        margins = image[0, 0, :2] / 255 - (left, top), 1 - image[-1, -1, :2] / 255 - (left, top)
        assert np.abs(margins).max() < 0.06  # half a pixel of 12
    with pytest.raises(ValueError, match="middle squares .* ingest them again with --fit stretch"):
        config.expect("crop")


def test_wrappers_of_a_trainer_are_taken_off(tmp_path: Path) -> None:
    torch.save(_wrapped(torch.load(LAPA)), tmp_path / "laq.pt")
    pairs, theirs = expected(LAPA)
    torch.testing.assert_close(lapa.load(tmp_path / "laq.pt").encode(pairs).latent, theirs["latent"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "is no checkpoint, or is cut off .*: fetch it again"),
        ("object", "holds more than tensors and plain containers .*_Harmless.*torch.save"),
        ("other", "of no latent action model that giza knows .*its first tensors are net.weight, net.bias"),
        ("nothing", "its first tensors are none"),
        ("lacks", "LAPA, has nothing for encoder.branches.0.spatial.layers.0.self.to_q.weight, where .16, 16. belongs"),
        ("size", "LAPA, has .16, 12. for encoder.branches.0.spatial.layers.0.self.to_q.weight, where .16, 16. belongs"),
        ("heads", "3 heads of 8 make 24 of width 16.*give a checkpoint of LAPA as its authors publish it"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_with_the_remedy(tmp_path: Path, damage: str, message: str) -> None:
    path = tmp_path / "laq.pt"
    weights = torch.load(LAPA)
    query = "enc_spatial_transformer.layers.0.1.to_q.weight"
    if damage == "cut":
        path.write_bytes(LAPA.read_bytes()[:-1000])
    elif damage == "object":
        torch.save({"state_dict": weights, "trainer": _Harmless()}, path)
    elif damage == "other":
        torch.save({"net.weight": torch.zeros(2, 2), "net.bias": torch.zeros(2)}, path)
    elif damage == "nothing":
        torch.save([1, 2, 3], path)
    elif damage == "lacks":
        del weights[query]
        torch.save(weights, path)
    elif damage == "size":
        torch.save(weights | {query: torch.zeros(16, 12)}, path)
    else:
        torch.save(weights | {"enc_spatial_transformer.layers.0.1.null_kv": torch.zeros(3, 0, 8)}, path)
    with pytest.raises(ValueError, match=message) as error:
        lapa.load(path)
    assert "\n" not in str(error.value)


def test_a_file_on_the_hub_is_asked_for_by_its_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked = []

    def fetched(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, file, revision))
        if revision == "gone":
            raise huggingface_hub.errors.LocalEntryNotFoundError("offline, and not in the cache")
        return str(LAPA)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    named = "hf://latent-action-pretraining/LAPA-7B-openx/laq_openx.pt"
    assert model_hash(named) == model_hash(Path(named)) == model_hash(LAPA)  # a Path holds one slash of the two
    read_lam_config("hf://a/b@v1/deep/c.pt")
    assert asked == [("latent-action-pretraining/LAPA-7B-openx", "laq_openx.pt", None)] * 2 + [
        ("a/b", "deep/c.pt", "v1")
    ]
    with pytest.raises(
        ValueError, match="cannot be fetched .offline, and not in the cache.: fetch the file by other means"
    ):
        lapa.load("hf://a/b@gone/c.pt")
    with pytest.raises(ValueError, match="names no file: give hf://owner/repository/file"):
        lapa.load("hf://a/b")


def test_a_checkpoints_hash_is_that_of_what_it_holds(tmp_path: Path) -> None:
    shutil.copy(LAPA, tmp_path / "elsewhere.pt")
    assert model_hash(tmp_path / "elsewhere.pt") == model_hash(LAPA)
    weights = torch.load(LAPA)
    weights["vq.codebooks"][0, 0] += 1
    torch.save(weights, tmp_path / "elsewhere.pt")
    assert model_hash(tmp_path / "elsewhere.pt") != model_hash(LAPA)


def test_a_model_of_images_that_are_not_square_is_judged(tmp_path: Path) -> None:
    """What a report looks at, the ends of each clip among it, is what the model is shown."""
    corpus = write_corpus(tmp_path / "corpus", list(range(6)))
    jobs.extract(DREAMDOJO, corpus, tmp_path / "latents", gap_s=0.2, measure_s=0.0)
    card = jobs.report(DREAMDOJO, corpus, tmp_path / "latents", tmp_path / "report")
    assert card.verdict.title == "Do not trust"  # its weights are random
    assert (tmp_path / "report" / "report.html").is_file()
