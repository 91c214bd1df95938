"""One thread per test process: on a busy two-core machine, OpenMP threads that wait for each other cost ten times more."""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
