"""Between a robot's numbers and the policy's: parts, normalisation, rotations, chunks."""
