"""What one runs: each module is one job of the `giza` command, a frozen config and a `run(config) -> summary`."""
