"""What a training's datasets are, for the policy's checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

from corpora.clips.corpus import Corpus
from corpora.episodes.opening import dataset_fingerprint
from corpora.mixture.datasets import EpisodeSamples
from corpora.mixture.spec import ClipsAt, EpisodesAt
from vla.data.loader import TrainingDataset
from vla.trained_on import TrainedOn, spans


def record_of(dataset: TrainingDataset) -> TrainedOn:
    """Which of its episodes or videos are trained on, and which are held out."""
    data, spec = dataset.data, dataset.data.spec
    trained, held_out = ({data.groups[k] for k in rows.tolist()} for rows in (dataset.train, dataset.held_out))
    match spec.data:
        case EpisodesAt(folder, selection):
            inner = getattr(data, "data", data)  # a dataset may be within what puts it in its slot's order
            assert isinstance(inner, EpisodeSamples)
            number = {episode.group: episode.index for episode in inner.episodes.episodes}

            def numbers(groups: Iterable[str]) -> tuple[str, ...]:
                return spans(number[group] for group in groups)

            return TrainedOn(
                spec.name,
                folder.expanduser().resolve().name,
                dataset_fingerprint(folder),
                spec.embodiment,
                "episodes",
                numbers(trained),
                numbers(held_out),
                selection.cameras,
                selection.state,
                selection.action,
            )
        case ClipsAt(corpus):
            groups = tuple(sorted(trained)), tuple(sorted(held_out))
            here = corpus.expanduser().resolve().name
            return TrainedOn(spec.name, here, Corpus(corpus).identity, spec.embodiment, "clips", *groups)
    raise AssertionError(f"dataset '{spec.name}' has no data")
