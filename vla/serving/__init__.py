"""A policy behind a server, and at two rates."""
