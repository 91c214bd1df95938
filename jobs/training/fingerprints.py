"""What a policy is trained on, as fingerprints: a run is resumed with the data that it was begun with, or not at all."""

from __future__ import annotations

from pathlib import Path

from corpora.clips.corpus import Corpus
from corpora.clips.parts import read_footers
from corpora.episodes.contents import contents_fingerprint
from corpora.episodes.opening import dataset_fingerprint
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import ClipsAt, DatasetSpec, EpisodesAt
from corpora.store.files import digest_of


def data_fingerprints(mixture: MixtureSpec) -> dict[str, str]:
    """Name -> fingerprint of each dataset that is trained on, wherever it lies: the metadata of its episodes, or its corpus and
    what made its labels. Raises ValueError for one that cannot be read, naming it."""
    return {spec.name: _fingerprint(spec) for spec in mixture.datasets if spec.weight > 0 and not spec.planned}


def data_contents(mixture: MixtureSpec) -> dict[str, str]:
    """Name -> fingerprint of the rows and videos of each dataset of episodes that is trained on; a corpus' clips are named by
    what they show."""
    episodes = {spec.name: spec.data for spec in mixture.datasets if spec.weight > 0}
    return {name: contents_fingerprint(at.folder) for name, at in episodes.items() if isinstance(at, EpisodesAt)}


def _fingerprint(spec: DatasetSpec) -> str:
    try:
        match spec.data:
            case EpisodesAt(folder):
                return dataset_fingerprint(folder)
            case ClipsAt(folder):
                labels: Path | None = getattr(spec.label, "folder", None)
                parts = [] if labels is None else read_footers(labels)
                made = [(part.path.name, part.made, part.rows) for part in parts]
                return digest_of(Corpus(folder).identity, repr(made))[:16]
    except ValueError as error:
        raise ValueError(f"dataset '{spec.name}': {error}") from error
    raise AssertionError(f"{spec.name} has no data")
