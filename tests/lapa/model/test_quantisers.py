"""Quantisers: gradients, dead codes, no duplicates, what evaluation returns."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lapa.model.checkpoint import load_lam, save_lam
from lapa.model.config import LamConfig, QuantiserConfig
from lapa.model.lam import LatentActionModel
from lapa.model.quantiser import Quantised, Quantiser
from lapa.model.quantisers import (
    build_quantiser,
    fsq_levels,
    random_encodings,
    register,
)
from lapa.pairs.batch import PairBatch
from lapa.recipes import DEBUG

DISCRETE = ["nsvq", "vq", "rvq", "fsq"]


def blobs(count: int, generator: torch.Generator) -> torch.Tensor:
    centres = torch.tensor([[4.0, 0], [-4, 0], [0, 4], [0, -4]])
    choice = torch.randint(4, (count, 2), generator=generator)
    return centres[choice] + 0.1 * torch.randn(count, 2, 2, generator=generator)


@pytest.mark.parametrize("kind", ["nsvq", "vq", "rvq", "fsq", "kl", "none"])
def test_shapes_and_gradients(kind: str) -> None:
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind=kind, codebook_size=8), 6, tokens=4).train()
    z = torch.randn(32, 4, 6, requires_grad=True)
    out = net(z)
    assert out.quantized.shape == z.shape
    (out.quantized.square().mean() + out.loss).backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().sum() > 0
    if kind in DISCRETE:
        assert out.codes is not None
        assert out.codes.shape == (32, 8 if kind == "rvq" else 4)
        assert out.codes.dtype == torch.int64
    else:
        assert out.codes is None


@pytest.mark.parametrize("kind", ["nsvq", "vq"])
def test_evaluation_returns_the_nearest_code(kind: str) -> None:
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind=kind, codebook_size=8), 2, tokens=2)
    generator = torch.Generator().manual_seed(1)
    net.train()
    for _ in range(5):
        net(blobs(64, generator))
    net.eval()
    z = blobs(64, generator)
    out = net(z)
    book = net.codebook
    slow = torch.stack([(z[..., None, :] - book).pow(2).sum(-1)]).argmin(-1)[0]
    assert torch.equal(out.codes, slow)
    torch.testing.assert_close(out.quantized, book[slow])


def test_nsvq_noise_has_the_length_of_the_error() -> None:
    """Vali and Backstrom, eq. 4: the substituted error is as long as the true one."""
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind="nsvq", codebook_size=4, expire_below=0.0), 2, tokens=2).train()
    z = blobs(256, torch.Generator().manual_seed(1))
    out = net(z)
    true = (z - net.codebook[out.codes]).norm(dim=-1)
    torch.testing.assert_close((out.quantized - z).norm(dim=-1), true, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["nsvq", "vq"])
def test_dead_codes_come_back_as_encodings_and_never_as_copies(kind: str) -> None:
    """Start with every code but one out of reach: they must be replaced by distinct live encodings."""
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind=kind, codebook_size=8, decay=0.9, expire_below=0.2), 2, tokens=2)
    generator = torch.Generator().manual_seed(1)
    net.train()
    net(blobs(64, generator))
    with torch.no_grad():
        book = net.codebook if kind == "nsvq" else net.net._codebook.embed[0]
        book[1:] = 1000 + torch.arange(7.0)[:, None]
        if kind == "vq":
            net.net._codebook.embed_avg[0, 1:] = book[1:] * net.net._codebook.cluster_size[0, 1:, None]
    for _ in range(60):
        net(blobs(64, generator))
    book = net.codebook
    assert book.abs().max() < 6
    assert torch.cdist(book, book).add(torch.eye(8) * 9).min() > 1e-4
    net.eval()
    assert len(net(blobs(512, generator)).codes.unique()) >= 7


def test_random_encodings_do_not_repeat() -> None:
    flat = torch.arange(20.0)[:, None]
    assert len(random_encodings(flat, 20).unique()) == 20
    assert len(random_encodings(flat[:3], 9).unique()) == 9


def test_fsq_takes_the_nearest_size() -> None:
    assert torch.tensor(fsq_levels(16)).prod() == 16
    assert torch.tensor(fsq_levels(8)).prod() == 9
    assert torch.tensor(fsq_levels(240)).prod() == 240


def test_the_first_codebook_stays_frozen_in_stage_two() -> None:
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind="vq", codebook_size=4), 2, 2, stage=2)
    net.frozen.train()
    net.frozen(blobs(64, torch.Generator().manual_seed(1)))
    net.train()
    before = net.frozen.codebook.clone()
    for _ in range(3):
        out = net(torch.randn(64, 4, 2))
    torch.testing.assert_close(net.frozen.codebook, before)
    assert out.codes.shape == (64, 2)
    assert out.quantized.shape == out.rest.shape == (64, 2, 2)


def test_a_codebook_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="codebook_size 1"):
        QuantiserConfig(codebook_size=1)


def test_each_kind_answers_for_its_codes() -> None:
    def sizes(stage: int = 1, **settings: object) -> tuple[int, ...]:
        return build_quantiser(QuantiserConfig(**settings), 6, 4, stage=stage).sizes  # type: ignore[arg-type]

    assert sizes(kind="nsvq", codebook_size=8) == (8,) * 4
    assert sizes(kind="vq", codebook_size=8, compand=True) == (8,) * 4
    assert sizes(kind="rvq", codebook_size=8, levels=2) == (8,) * 8
    assert sizes(kind="rvq", codebook_size=8, levels=2, compand=True) == (8,) * 8
    assert sizes(kind="fsq", codebook_size=8) == (9,) * 4
    assert sizes(kind="vq", codebook_size=8, stage=2) == (8,) * 4
    assert sizes(kind="rvq", codebook_size=8, levels=2, stage=2) == (8,) * 8
    assert sizes(kind="kl") == sizes(kind="none", stage=2) == ()


@pytest.mark.parametrize("kind", ["nsvq", "vqvae", "vq", "rvq", "fsq", "kl", "none"])
@pytest.mark.parametrize("compand", [False, True])
@pytest.mark.parametrize("stage", [1, 2])
def test_what_a_quantiser_says_of_itself_is_what_it_does(kind: str, compand: bool, stage: int) -> None:
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind=kind, codebook_size=4, compand=compand), 6, 4, stage=stage).train()
    assert net.settled == (kind not in {"vq", "rvq"})
    z = torch.randn(64, 4 * stage, 6)
    net(z)
    if stage == 2:  # what stage 1 has learned
        net.frozen.train()(z[:, 4:])
    out = net.eval()(z)
    assert net.settled
    assert net.continuous == (out.codes is None) == (kind in {"kl", "none"})
    assert (0 if out.codes is None else out.codes.shape[1]) == len(net.sizes)
    if out.codes is not None:
        assert (out.codes < torch.tensor(net.sizes)).all()
    if net.codebook is not None:
        torch.testing.assert_close(net.codebook[out.codes], out.quantized, atol=1e-5, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class SignConfig(QuantiserConfig):
    margin: float = 0.0


class Sign(Quantiser):
    """One bit a token."""

    Config = SignConfig
    config: SignConfig

    @property
    def sizes(self) -> tuple[int, ...]:
        return (2,) * self.tokens

    def forward(self, z: torch.Tensor) -> Quantised:
        bit = z.sum(-1) > self.config.margin
        hard = torch.where(bit, 1.0, -1.0)[..., None].expand_as(z)
        return Quantised(z + (hard - z).detach(), bit.long(), z.new_zeros(()))


def test_a_quantiser_of_ones_own_is_one_class_and_a_name(tmp_path: Path) -> None:
    register("sign", Sign)
    register("sign", Sign)  # a notebook's cell, run again
    config = dataclasses.replace(
        DEBUG,
        pair=dataclasses.replace(DEBUG.pair, flow="none"),
        flow_weight=0.0,
        quantiser=SignConfig("sign", margin=0.5),
    )
    model = LatentActionModel(config).eval()
    save_lam(model, tmp_path)
    again = load_lam(tmp_path)
    assert again.config == config
    first, second = torch.rand(2, 8, 3, 32, 32)
    codes = again.encode(PairBatch(first, second)).codes
    assert codes is not None
    assert set(codes.unique().tolist()) <= {0, 1}
    assert torch.equal(codes, model.encode(PairBatch(first, second)).codes)
    assert again.random_codes(5).shape == (5, 2, 8)
    with pytest.raises(ValueError, match="'vq' is giza's own"):
        register("vq", Sign)


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"quantiser.kind 'nvsq': choose one of nsvq, vq, .* Did you mean 'nsvq'"):
        QuantiserConfig(kind="nvsq")
    values = dataclasses.asdict(LamConfig())
    values["quantiser"]["heads"] = 3
    with pytest.raises(ValueError, match=r"unknown field heads"):
        LamConfig.from_dict(values)


RANK = """
import sys
import torch
import torch.distributed as dist
from flare.ranks import whole_batch
from lapa.model.config import QuantiserConfig
from lapa.model.quantisers import build_quantiser

folder, rank = sys.argv[1], int(sys.argv[2])
torch.manual_seed(rank)
kinds = ("vq", "rvq")
nets = [build_quantiser(QuantiserConfig(kind, codebook_size=4, levels=1, decay=0.9), 2, tokens=1) for kind in kinds]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
for number in range(10):
    for net in nets:
        z = (10.0 if rank else -10.0) + torch.randn(16, 1, 2)
        with whole_batch(0, number):
            net.train()(z)
torch.save([nets[0].codebook, nets[1].net.codebooks[0]], f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_codes_follow_what_every_process_sees(tmp_path: Path) -> None:
    """Two processes, each with encodings of its own; the quantisers were built before they knew of each other."""
    commands = [[sys.executable, "-c", RANK, str(tmp_path), str(rank)] for rank in range(2)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    for one, other in zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert one.min() < -8 and one.max() > 8
