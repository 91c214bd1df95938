"""One file a job of the `giza` command: a frozen config, `run(config)` and `main(argv)`."""
