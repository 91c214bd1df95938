"""Quantisers: gradients, dead codes, no duplicates, what evaluation returns."""

from __future__ import annotations

import pytest
import torch

from lapa.model.quantisers import QuantiserConfig, TwoStageQuantiser, build_quantiser, fsq_levels, random_encodings

DISCRETE = ["nsvq", "vq", "rvq", "fsq"]


def blobs(count: int, generator: torch.Generator) -> torch.Tensor:
    centres = torch.tensor([[4.0, 0], [-4, 0], [0, 4], [0, -4]])
    choice = torch.randint(4, (count, 2), generator=generator)
    return centres[choice] + 0.1 * torch.randn(count, 2, 2, generator=generator)


@pytest.mark.parametrize("kind", ["nsvq", "vq", "rvq", "fsq", "kl", "none"])
def test_shapes_and_gradients(kind: str) -> None:
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind=kind, codebook_size=8), 6).train()  # type: ignore[arg-type]
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
    net = build_quantiser(QuantiserConfig(kind=kind, codebook_size=8), 2)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    net.train()
    for _ in range(5):
        net(blobs(64, generator))
    net.eval()
    z = blobs(64, generator)
    out = net(z)
    book = net.codebook if kind == "nsvq" else net.net.codebook
    slow = torch.stack([(z[..., None, :] - book).pow(2).sum(-1)]).argmin(-1)[0]
    assert torch.equal(out.codes, slow)
    torch.testing.assert_close(out.quantized, book[slow])


def test_nsvq_noise_has_the_length_of_the_error() -> None:
    """Vali and Backstrom, eq. 4: the substituted error is as long as the true one."""
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind="nsvq", codebook_size=4, expire_below=0.0), 2).train()
    z = blobs(256, torch.Generator().manual_seed(1))
    out = net(z)
    true = (z - net.codebook[out.codes]).norm(dim=-1)
    torch.testing.assert_close((out.quantized - z).norm(dim=-1), true, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["nsvq", "vq"])
def test_dead_codes_come_back_as_encodings_and_never_as_copies(kind: str) -> None:
    """Start with every code but one out of reach: they must be replaced by distinct live encodings."""
    torch.manual_seed(0)
    net = build_quantiser(QuantiserConfig(kind=kind, codebook_size=8, decay=0.9, expire_below=0.2), 2)  # type: ignore[arg-type]
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
    book = net.codebook if kind == "nsvq" else net.net.codebook
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


def test_the_first_code_book_stays_frozen_in_stage_two() -> None:
    torch.manual_seed(0)
    net = TwoStageQuantiser(QuantiserConfig(kind="vq", codebook_size=4), 2)
    net.frozen.train()
    net.frozen(blobs(64, torch.Generator().manual_seed(1)))
    net.train()
    before = net.frozen.net.codebook.clone()
    for _ in range(3):
        out = net(torch.randn(64, 4, 2))
    torch.testing.assert_close(net.frozen.net.codebook, before)
    assert out.codes.shape == (64, 4)


def test_a_code_book_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="codebook_size 1"):
        QuantiserConfig(codebook_size=1)
