"""A training in a folder: its budget, Lightning's trainer, and what trains a policy."""
