"""Vision-language-action policies: what a robot's numbers are, the policies that learn them, and how they are served."""

from corpora.episodes.parts import ActionPart

__all__ = ["ActionPart"]
