"""Which tier of the pyramid buys what."""
