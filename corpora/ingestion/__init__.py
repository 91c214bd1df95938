"""From sources to a corpus of clean clips."""
