"""The door of a package: its names, each imported when it is first used, so that the package itself costs nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def door(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of `package` (PEP 562). homes: module -> the names that lie in it, between
    spaces; `load=load_lam` is `load_lam` there; "" is a room, given as it is."""
    home: dict[str, tuple[str, str]] = {}
    for module, names in homes.items():
        for name, _, called in (word.partition("=") for word in names.split()):
            home[name] = module, called or name
        if not names:
            home[module.rpartition(".")[2]] = module, ""

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, called = home[name]
        found = importlib.import_module(module)
        return getattr(found, called) if called else found

    return get, lambda: sorted(home), sorted(home)
