"""The agent in the image: where a hand or a robot is, and another in its place."""
