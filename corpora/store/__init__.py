"""What giza leaves on disk: whole files, runs, tables of decoded frames. Knows nothing of video."""
