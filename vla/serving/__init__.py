"""A policy behind a server that speaks as Isaac-GR00T's does, and at two rates.

vla.serving.serve(policy, "franka", port=5555)      # until Ctrl+C
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla.serving.groot import serve

__all__ = ["serve"]


def __getattr__(name: str) -> Any:
    if name != "serve":
        raise AttributeError(f"module 'vla.serving' has no attribute '{name}'")
    from vla.serving.groot import serve

    return serve
