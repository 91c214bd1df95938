"""What giza report said of the latents that a policy is to be trained on: told, and heeded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corpora.mixture.mixture import MixtureSpec

log = logging.getLogger(__name__)


def heed_verdicts(mixture: MixtureSpec, *, anyway: bool) -> None:
    """Logs the verdicts. Raises ValueError for latents that are not to be trusted, but `anyway`."""
    for spec in mixture.datasets:
        if spec.label.untrusted and not anyway:
            raise ValueError(
                f"dataset '{spec.name}': giza report said of its latents {spec.label.verdict}; its page says why and what to do; "
                "train on them --anyway, or leave them out"
            )
        if spec.label.verdict:
            log.info("dataset '%s': latents, %s", spec.name, spec.label.verdict)
