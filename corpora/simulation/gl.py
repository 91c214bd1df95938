"""Off-screen OpenGL for MuJoCo: chooses the software renderer, and says what to install where it is missing."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import sys

_LIBRARIES = {
    "osmesa": ("OSMesa", ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"), "apt-get install libosmesa6"),
    "egl": ("EGL", ("libEGL.so.1", "libEGL.so"), "apt-get install libegl1"),
}
"""MUJOCO_GL -> the library's short name, its usual file names, and the command that installs it."""


def require_offscreen_gl(packages: tuple[str, ...] = ("mujoco", "metaworld")) -> None:
    """Makes `import mujoco` render off screen. Call it before anything imports mujoco.

    Sets MUJOCO_GL=osmesa on Linux unless the user has chosen. Raises ValueError that names the missing GL library, or
    those of `packages` that are missing, and the command that installs them.
    """
    if sys.platform.startswith("linux"):
        choice = os.environ.setdefault("MUJOCO_GL", "osmesa").strip().lower()
        if choice in _LIBRARIES:
            # both bring an LLVM: with OSMesa's loaded first, torch's compiler dies on import (a segmentation fault)
            with contextlib.suppress(ImportError):
                importlib.import_module("triton._C.libtriton")
            name, files, command = _LIBRARIES[choice]
            if not _loads(name, files):
                raise ValueError(
                    f"MUJOCO_GL={choice}: the GL library lib{name} is not on this machine, and MuJoCo cannot draw "
                    f"without it. Install it with: {command}"
                )
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"the simulator ({', '.join(missing)}) is not installed. Install it with: pip install 'giza[sim]'"
        )


def _loads(name: str, files: tuple[str, ...]) -> bool:
    for candidate in filter(None, (ctypes.util.find_library(name), *files)):
        with contextlib.suppress(OSError):
            ctypes.CDLL(candidate)
            return True
    return False
