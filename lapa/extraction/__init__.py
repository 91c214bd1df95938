"""A model over a corpus: latents as Parquet."""
