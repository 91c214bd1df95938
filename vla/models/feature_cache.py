"""ContextTokens of a frozen backbone, computed once for each sample and kept on disk.

    folder/<fingerprint of the backbone>/<shard>.safetensors
        features  float16 [M, D]   the tokens of the shard's prompts, one prompt after the other, without padding
        scale     float32 [M]      features * scale are the values; 1 unless float16 could not hold them
        is_image  uint8 [M]
        starts    int64 [P + 1]    prompt p holds the tokens starts[p] to starts[p + 1]
        metadata  contents (P digests of images and instruction), entries ((sample id, digest), ...)

A shard is written under a temporary name and renamed, so that a killed job leaves only whole shards and the next one goes on
behind them. Samples that show the same images with the same instruction share one entry. Features are right only for
images as they were: a cache and random crops exclude each other.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from corpora.store.files import UNFINISHED, written_whole
from vla.evaluating import evaluating
from vla.policy import Backbone, ContextTokens

OPEN_SHARDS = 256
"""Shards held open (memory-mapped) at a time."""


@dataclass(frozen=True)
class Prompt:
    """What the backbone is shown for one sample."""

    id: str
    """Name of the sample, unique in a cache."""
    images: Tensor
    """uint8 [V, T, 3, S, S]."""
    image_mask: Tensor
    """bool [V, T]."""
    instruction: str

    def digest(self, instruction: bool = True) -> str:
        """Digest of what is seen: images that are masked out leave no trace, nor does an `instruction` that is not read."""
        shown = self.images * self.image_mask[..., None, None, None]
        summary = hashlib.blake2b(digest_size=16)
        text = self.instruction if instruction else ""
        summary.update(json.dumps([list(shown.shape), self.image_mask.tolist(), text]).encode())
        summary.update(shown.cpu().contiguous().numpy().data)
        return summary.hexdigest()


@dataclass(frozen=True)
class _OpenShard:
    features: Any
    """Memory-mapped: what is sliced is read."""
    scale: Tensor
    is_image: Tensor
    starts: list[int]


class FeatureCache:
    """The features of `backbone` under `folder`; other weights or another processor have a folder of their own.

    Memory: the index (some 100 bytes a sample) and one shard while filling; features are memory-mapped. Raises ValueError for
    a backbone that is being trained: its features change.
    """

    def __init__(self, folder: str | Path, backbone: Backbone, *, shard_prompts: int = 256) -> None:
        if shard_prompts < 1:
            raise ValueError(f"shard_prompts {shard_prompts}: must be at least 1")
        self.backbone = backbone
        self.folder = Path(folder) / fingerprint(backbone)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shard_prompts = shard_prompts
        self._places: dict[str, tuple[str, int]] = {}
        self._digests: dict[str, str] = {}
        self._read_shards: set[str] = set()
        self._open: OrderedDict[str, _OpenShard] = OrderedDict()
        self.refresh()

    def __len__(self) -> int:
        """Samples with features."""
        return len(self._digests)

    def __contains__(self, sample_id: str) -> bool:
        """By id alone; `fill` also compares what the sample shows."""
        return sample_id in self._digests

    def __getstate__(self) -> dict[str, Any]:
        # a data worker opens the shards itself
        return {**self.__dict__, "_open": OrderedDict()}

    def fill(self, prompts: Iterable[Prompt], *, batch: int = 16, progress: Callable[[int], None] | None = None) -> int:
        """Computes what is missing, `batch` prompts at a time, and returns how many prompts went through the backbone;
        `progress` is called with the number of samples done.

        A sample that is known by its id but shows something else now is computed again. One process fills at a time, others
        wait for it.
        """
        computed = known = 0
        with FileLock(self.folder / ".lock"):
            for path in self.folder.glob(f"*{UNFINISHED}"):  # of a job that was killed
                path.unlink()
            self.refresh()
            for part in _chunks(prompts, self.shard_prompts):
                fresh: dict[str, Prompt] = {}
                entries = []
                for prompt in part:
                    digest = prompt.digest(self.backbone.reads_text)
                    if digest in self._places or digest in fresh:
                        known += 1
                    else:
                        fresh[digest] = prompt
                    if self._digests.get(prompt.id) != digest:
                        entries.append((prompt.id, digest))
                if entries:
                    self._write(fresh, entries, batch)
                computed += len(fresh)
                if progress is not None:
                    progress(computed + known)
        return computed

    def tokens(self, sample_ids: Sequence[str]) -> ContextTokens:
        """Features float32 [B, N, D] of B samples, right-padded with zeros to the longest, on the CPU.

        Raises ValueError for a sample that is not in the cache.
        """
        rows = [self._row(sample_id) for sample_id in sample_ids]
        if not rows:
            empty = torch.zeros(0, 0, dtype=torch.bool)
            return ContextTokens(torch.zeros(0, 0, self.backbone.dim), empty, empty)
        features, scale, is_image = (pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True))
        lengths = torch.tensor([len(values) for values, _, _ in rows])
        mask = torch.arange(features.shape[1]) < lengths[:, None]
        return ContextTokens(features.float() * scale.unsqueeze(-1), mask, is_image)

    def refresh(self) -> None:
        """Reads the index of shards that another process has written since."""
        paths = [path for path in self.folder.glob("*.safetensors") if path.name not in self._read_shards]
        for path in sorted(paths):
            with safe_open(path, framework="pt") as shard:
                self._index(path.name, shard.metadata())

    def _index(self, shard: str, metadata: dict[str, str]) -> None:
        for row, digest in enumerate(json.loads(metadata["contents"])):
            self._places[digest] = (shard, row)
        self._digests.update(json.loads(metadata["entries"]))
        self._read_shards.add(shard)

    def _row(self, sample_id: str) -> tuple[Tensor, Tensor, Tensor]:
        """Features, scale and is_image of a sample's tokens, as they are kept."""
        if sample_id not in self._digests:
            raise ValueError(f"sample '{sample_id}': not in the feature cache {self.folder}; fill it first")
        name, row = self._places[self._digests[sample_id]]
        shard = self._shard(name)
        place = slice(shard.starts[row], shard.starts[row + 1])
        return shard.features[place], shard.scale[place], shard.is_image[place]

    def _shard(self, name: str) -> _OpenShard:
        if name not in self._open:
            with safe_open(self.folder / name, framework="pt") as file:
                starts, scale, is_image = (file.get_tensor(key) for key in ("starts", "scale", "is_image"))
                self._open[name] = _OpenShard(file.get_slice("features"), scale, is_image.bool(), starts.tolist())
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]

    def _write(self, fresh: dict[str, Prompt], entries: list[tuple[str, str]], batch: int) -> None:
        """One shard; with nothing fresh it only names features that lie in others."""
        features, is_image, lengths = [], [], []
        fresh = dict(sorted(fresh.items(), key=lambda item: item[1].images.shape))  # images of a kind go together
        kinds = [list(same) for _, same in groupby(fresh.values(), key=lambda prompt: prompt.images.shape)]
        for part in (part for same in kinds for part in _chunks(same, batch)):
            found = self._compute(part)
            for values, mask, image_flags in zip(found.features, found.mask, found.is_image, strict=True):
                features.append(values[mask].float().cpu())
                is_image.append(image_flags[mask].cpu())
                lengths.append(len(features[-1]))
        flat = torch.cat(features) if features else torch.zeros(0, self.backbone.dim)
        if not bool(flat.isfinite().all()):
            raise ValueError("the backbone's features are not finite; load it in float32 or bfloat16")
        largest = torch.finfo(torch.float16).max
        scale = (flat.abs().amax(-1) / largest).clamp_min(1) if len(flat) else flat.new_zeros(0)
        tensors = {
            "features": (flat / scale.unsqueeze(-1)).half(),
            "scale": scale,
            "is_image": torch.cat(is_image).to(torch.uint8) if is_image else torch.zeros(0, dtype=torch.uint8),
            "starts": torch.tensor([0, *lengths]).cumsum(0),
        }
        metadata = {"contents": json.dumps(list(fresh)), "entries": json.dumps(entries)}
        # numbered, so that the entry that was written last wins when a cache is read
        number = 1 + max((int(Path(name).stem) for name in self._read_shards), default=-1)
        final = self.folder / f"{number:06d}.safetensors"
        with written_whole(final) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        self._index(final.name, metadata)

    def _compute(self, part: list[Prompt]) -> ContextTokens:
        device = next((p.device for p in self.backbone.parameters()), torch.device("cpu"))
        with evaluating(self.backbone), torch.no_grad():
            return self.backbone(
                torch.stack([prompt.images for prompt in part]).to(device),
                torch.stack([prompt.image_mask for prompt in part]).to(device),
                [prompt.instruction for prompt in part],
            )


def fingerprint(backbone: Backbone) -> str:
    """Digest of a backbone's class, settings (`describe()`) and weights.

    Raises ValueError where a weight takes gradients.
    """
    trained = sum(parameter.requires_grad for parameter in backbone.parameters())
    if trained:
        raise ValueError(
            f"{trained} of the backbone's tensors are being trained: only a frozen backbone's features can be kept; "
            "train without the cache, or freeze it"
        )
    summary = hashlib.blake2b(digest_size=16)
    summary.update(json.dumps([type(backbone).__qualname__, backbone.describe()], sort_keys=True, default=str).encode())
    for name, value in sorted(backbone.state_dict().items()):
        summary.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        # one tensor at a time, as bytes: numpy knows no bfloat16
        summary.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return summary.hexdigest()


def _chunks(items: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    part: list[Prompt] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
