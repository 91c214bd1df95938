"""The builders of videos leave the machine to others."""

from __future__ import annotations

import os

import pytest

from tests.builders.odd.case import write
from tests.builders.videos import numbered_frame, write_video


class Watched(list):
    """Frames that look, each time one is taken, at how the threads of this process are scheduled."""

    def __iter__(self):
        for frame in super().__iter__():
            self.seen = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
            yield frame


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no such priorities here")
@pytest.mark.parametrize("make", [write, write_video])
def test_an_encoder_that_asks_for_real_time_does_not_get_it(tmp_path, make):
    """SVT-AV1 does, run as root, for all its threads and for its caller, for good."""
    frames = Watched(numbered_frame(number) for number in range(3))
    make(tmp_path / "v.mp4", frames, codec="libsvtav1")
    assert frames.seen == {os.SCHED_OTHER}
