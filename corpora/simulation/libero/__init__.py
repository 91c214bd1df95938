"""LIBERO, in an environment of its own (`make libero`): `channel`, `world` and `script` run there, on NumPy and LIBERO alone."""
