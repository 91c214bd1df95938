"""Names of embodiments."""

from __future__ import annotations

LATENT = "latent"
"""Latent actions as an embodiment of their own: what giza extract writes is this robot's action."""
NEW_EMBODIMENT = "new_embodiment"
"""A robot that has no name."""
SLOTS = (
    LATENT,
    "gr1",
    "oxe_droid",
    "agibot_genie1",
    "unitree_g1",
    "digit",
    "aloha",
    "franka",
    "metaworld",
    NEW_EMBODIMENT,
)
"""Names that every policy knows; `Policy.add_embodiment` gives more."""
