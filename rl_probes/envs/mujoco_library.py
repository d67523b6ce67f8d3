"""MuJoCo drawing into memory, without a screen, or one sentence that says what to install."""

from __future__ import annotations

import atexit
import ctypes.util
import importlib
import importlib.util
import os
import sys
from functools import cache
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

INSTALL = "install the Debian packages libegl1 and libegl-mesa0 (or libosmesa6, and set MUJOCO_GL=osmesa)"


def load() -> Any:
    """The module `mujoco`, with gymnasium's robots registered.

    Raises:
        ImportError: a package is missing; the sentence says what to install.
    """
    try:
        importlib.import_module("gymnasium_robotics")
        return importlib.import_module("mujoco")
    except (ModuleNotFoundError, DependencyNotInstalled) as error:
        raise ImportError('robots need MuJoCo; install it with: pip install "ocl-research[robots]".') from error


@cache
def drawing() -> str:
    """What draws, a part of what decides the pixels: the environment variable MUJOCO_GL, or EGL or OSMesa, whichever
    is there."""
    there = {"egl": ctypes.util.find_library("EGL"), "osmesa": ctypes.util.find_library("OSMesa")}
    found = next((name for name, library in there.items() if library), "egl")
    return os.environ.get("MUJOCO_GL", found if sys.platform == "linux" else "glfw").lower()


class Renderer:
    """Draws (H, W) pixels of one model.

    MuJoCo's own fixes how to draw when MuJoCo is imported, by whomever, and ends the process where that fails twice.

    Raises:
        ImportError: there is nothing to draw with; the sentence says what to install.
        ValueError: more pixels than the model's offscreen buffer holds.
    """

    def __init__(self, model: Any, image_size: tuple[int, int]) -> None:
        self._mujoco, self._model = load(), model
        height, width = image_size
        limit = (int(model.vis.global_.offheight), int(model.vis.global_.offwidth))
        if height > limit[0] or width > limit[1]:
            raise ValueError(f"this model is drawn with at most {limit} pixels, not {tuple(image_size)}.")
        load_triton()
        try:
            self._context = importlib.import_module(f"mujoco.{drawing()}").GLContext(width, height)
        except Exception as error:  # every way of drawing has exceptions of its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ImportError(f"MuJoCo cannot draw without a screen ({drawing()}: {reason}); {INSTALL}.") from error
        atexit.register(self.close)  # before the modules that it needs for that are gone
        self._context.make_current()
        self._buffers = self._mujoco.MjrContext(model, self._mujoco.mjtFontScale.mjFONTSCALE_100.value)
        self._mujoco.mjr_setBuffer(self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._buffers)
        self._scene = self._mujoco.MjvScene(model, maxgeom=1000)
        self._options = self._mujoco.MjvOption()
        self._area = self._mujoco.MjrRect(0, 0, width, height)

    def look(self, data: Any, camera: Any) -> None:
        """Take in a state, of this model or of one that differs in nothing that is drawn."""
        everything = self._mujoco.mjtCatBit.mjCAT_ALL.value
        self._mujoco.mjv_updateScene(self._model, data, self._options, None, camera, everything, self._scene)

    def image(self) -> NDArray[np.uint8]:
        """(H W 3)"""
        self._context.make_current()
        pixels = np.empty((self._area.height, self._area.width, 3), np.uint8)
        self._mujoco.mjr_render(self._area, self._scene, self._buffers)
        self._mujoco.mjr_readPixels(pixels, None, self._area, self._buffers)
        return pixels[::-1]

    def owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(H W) kind, of `mujoco.mjtObj`, and number of what each pixel shows; -1 for nothing."""
        flags = (self._mujoco.mjtRndFlag.mjRND_SEGMENT, self._mujoco.mjtRndFlag.mjRND_IDCOLOR)
        for flag in flags:
            self._scene.flags[flag] = 1
        codes = self.image().astype(np.int64) @ [1, 2**8, 2**16]  # 0: nothing
        for flag in flags:
            self._scene.flags[flag] = 0
        known = np.full((2, self._scene.ngeom + 1), -1)
        for part in self._scene.geoms[: self._scene.ngeom]:
            if part.segid >= 0:
                known[:, part.segid + 1] = part.objtype, part.objid
        return known[0, codes], known[1, codes]

    def close(self) -> None:
        self._context.free()


def load_triton() -> None:
    """Mesa draws without a graphics card by means of LLVM, and lends its symbols to whatever is loaded later: triton,
    which holds another LLVM and which torch imports with the first optimiser, would crash."""
    if "torch" in sys.modules and importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")
