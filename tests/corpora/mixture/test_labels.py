"""Labels as a control: each at a frame of another clip, with their distribution kept."""

from __future__ import annotations

import numpy as np
import pytest

from corpora.mixture.labels import EmbodimentFacts, Labels


def test_labels_shuffled_within_a_text_stay_in_it_and_leave_their_clip() -> None:
    runs = np.repeat([0, 1, 2, 3, 4], [4, 4, 5, 3, 6])
    values = (100 * runs + np.arange(len(runs)))[:, None, None].astype(np.float32)
    labels = Labels(np.arange(len(runs)), runs, values, EmbodimentFacts(("top",)))
    texts = ["open", "close", "open", "open", "close"]
    found = labels.shuffled_within(texts, 1)
    source = found.values[:, 0, 0].astype(int) // 100
    assert (source != runs).all()
    assert [texts[run] for run in source] == [texts[run] for run in runs]
    opens = np.isin(runs, [0, 2, 3])  # no clip holds more than half: each label is used once
    assert sorted(found.values[opens].ravel()) == sorted(values[opens].ravel())
    np.testing.assert_array_equal(found.values, labels.shuffled_within(texts, 1).values)
    assert (found.values != labels.shuffled_within(texts, 2).values).any()
    across = labels.shuffled(1).values[:, 0, 0].astype(int) // 100
    assert any(texts[a] != texts[b] for a, b in zip(across, runs, strict=True))  # the old control crosses tasks
    with pytest.raises(ValueError, match="the 4 labels of 'close' are of one clip.*over_clips"):
        labels.shuffled_within([*texts[:4], "open"], 1)
    with pytest.raises(ValueError, match="4 labels are of clips without a text.*over_clips"):
        labels.shuffled_within(["", *texts[1:]], 1)
