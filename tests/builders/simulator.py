"""Meta-World, imported once in the server that processes of tests are forked from. Nothing is drawn here: a GL context does not
survive a fork."""

import contextlib

from corpora.simulation.gl import require_offscreen_gl

with contextlib.suppress(ValueError):  # not installed: tests that want it are skipped
    require_offscreen_gl()
    import metaworld  # noqa: F401
