"""Two frames a gap apart: from a clip to what a model is fed. Knows no model."""
