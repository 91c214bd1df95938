"""One thread per test process (on a busy two-core machine, OpenMP threads that wait for each other cost ten times more), and
the tiny things that many tests read: a corpus, a latent action model trained on it, its latents. Nobody writes into them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lapa.reporting.card import Card

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is told when it happens: a run that is cut off says nothing at its end."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.nodeid}, {report.when}:\n{report.longreprtext[-2000:]}", file=sys.__stderr__, flush=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `gl` is skipped on a machine without a software GL library."""
    marked = [item for item in items if item.get_closest_marker("gl")]
    if marked:
        from tests.builders.cameras import offscreen_gl_available

        if not offscreen_gl_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no software GL library (libosmesa6)"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Extraction gives PyTorch threads, which then would wait for each other in all tests that come after it."""
    yield
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What a killed process wrote is there without it; only a machine that crashes would tell the difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_signs_of_life() -> Iterator[None]:
    """What commands print does not depend on how busy the machine is (but see tests/jobs/test_progress.py)."""
    from jobs import progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "FIRST_S", float("inf"))
        patch.setattr(progress, "SILENT_S", float("inf"))
        yield


@pytest.fixture(scope="session", autouse=True)
def warm_workers() -> Iterator[None]:
    """Ingests share their worker processes (tests/builders/warm_worker.py)."""
    from corpora.ingestion import pool
    from tests.builders.warm_worker import WarmWorker, end_idle_workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "IsolatedWorker", WarmWorker)
        yield
    end_idle_workers()


@pytest.fixture(scope="session", autouse=True)
def warm_rollouts() -> Iterator[None]:
    """The simulator's processes are forked from one that has imported it (tests/builders/processes.py)."""
    from tests.builders.processes import fork_rollouts

    with pytest.MonkeyPatch.context() as patch:
        fork_rollouts(patch)
        yield


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of a second or two, one for each source video, whose block's place is known (tests/builders/corpora.py)."""
    from tests.builders.corpora import write_corpus

    return write_corpus(tmp_path_factory.mktemp("tiny") / "corpus", range(12), truth=True)


@pytest.fixture(scope="session")
def tiny_lam(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `giza train-lam` on it, of five steps (tests/builders/lam.py)."""
    from jobs.commands import train_lam
    from tests.builders.lam import lam_settings

    out = tmp_path_factory.mktemp("tiny") / "lam"
    train_lam.run(lam_settings(tiny_corpus, out), quiet=True)
    return out


@pytest.fixture(scope="session")
def tiny_latents(tiny_corpus: Path, tiny_lam: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `giza extract` of both, at 0.5 s."""
    from jobs.commands import extract

    out = tmp_path_factory.mktemp("tiny") / "latents"
    extract.run(
        extract.ExtractConfig(lam=tiny_lam, corpus=tiny_corpus, out=out, gap_s=0.5, measure_s=0.0, device="cpu")
    )
    return out


@pytest.fixture(scope="session")
def report_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of robot episodes, whose truth is known, and of hand videos (tests/builders/reports.py)."""
    from tests.builders.reports import make_corpus

    return make_corpus(tmp_path_factory.mktemp("report") / "corpus", truth=True)


@pytest.fixture(scope="session")
def report_lam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, as if trained on it but for three of its episodes."""
    from tests.builders.reports import make_run

    return make_run(tmp_path_factory.mktemp("report") / "lam")


@pytest.fixture(scope="session")
def motion_latents(report_corpus: Path, report_lam: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of it that hold the motion, with little noise."""
    from tests.builders.reports import make_latents

    return make_latents(tmp_path_factory.mktemp("report") / "latents", report_corpus, report_lam, "motion")


@pytest.fixture(scope="session")
def motion_card(report_corpus: Path, report_lam: Path, motion_latents: Path) -> Card:
    """Their report."""
    from lapa.reporting.measure import report
    from tests.builders.reports import QUICK

    return report(report_lam, report_corpus, motion_latents, QUICK)
