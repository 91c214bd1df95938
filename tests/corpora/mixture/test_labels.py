"""Labels as a control: each at a frame of another clip, with their distribution kept."""

from __future__ import annotations

import numpy as np
import pytest

from corpora.mixture.labels import exchanged


def test_labels_shuffled_within_a_text_stay_in_it_and_leave_their_clip() -> None:
    runs = np.repeat([0, 1, 2, 3, 4], [4, 4, 5, 3, 6])
    texts = ["open", "close", "open", "open", "close"]
    found = exchanged(runs, 1, texts)
    source = runs[found]
    assert (source != runs).all()
    assert [texts[run] for run in source] == [texts[run] for run in runs]
    opens = np.isin(runs, [0, 2, 3])  # no clip holds more than half: each label is used once
    assert sorted(found[opens]) == np.flatnonzero(opens).tolist()
    np.testing.assert_array_equal(found, exchanged(runs, 1, texts))
    assert (found != exchanged(runs, 2, texts)).any()
    across = runs[exchanged(runs, 1)]
    assert any(texts[a] != texts[b] for a, b in zip(across, runs, strict=True))  # the old control crosses tasks
    with pytest.raises(ValueError, match="the 4 labels of 'close' are of one clip.*over_clips"):
        exchanged(runs, 1, [*texts[:4], "open"])
    with pytest.raises(ValueError, match="4 labels are of clips without a text.*over_clips"):
        exchanged(runs, 1, ["", *texts[1:]])
