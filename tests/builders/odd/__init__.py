"""Odd and broken videos of every kind, each with what a player shows of it: `KINDS`, by name."""

from tests.builders.odd import clocks, damage, formats, pictures, places
from tests.builders.odd.case import KINDS, Case, Unwritable

__all__ = ["KINDS", "Case", "Unwritable", "clocks", "damage", "formats", "pictures", "places"]
