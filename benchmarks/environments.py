"""Frames per second of the sprite renderer, scenes and worlds, and of Procgen: python benchmarks/environments.py

One process; Procgen with one thread and with all cores. The supersampled canvas is what the stamps replace.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.sprites import COLORS, FINE, SHAPES, SpriteRenderer, polygon
from rl_probes.envs.procgen import GAMES, ProcgenWorld
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectComparison
from rl_probes.envs.world import World

IMAGES, STATE = frozenset({"images"}), frozenset({"objects"})


def rate(run: Callable[[], int], seconds: float) -> float:
    """Units per second of `run`, which returns how many it did; the first call is not counted."""
    run()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += run()
    return done / (time.perf_counter() - start)


def supersampled(position: np.ndarray, shape: np.ndarray, color: np.ndarray, scale: np.ndarray) -> None:
    canvas = Image.new("RGB", (64 * FINE, 64 * FINE))
    for m in range(len(shape)):
        corners = (polygon(shape[m]) * scale[m] + position[m]) * 64 * FINE
        ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners], fill=COLORS[color[m]])
    canvas.resize((64, 64), Image.Resampling.LANCZOS)


def stepping(world: World, fields: frozenset[str]) -> Callable[[], int]:
    generator = np.random.default_rng(0)

    def step() -> int:
        outcome = world.step(generator.integers(world.num_actions, size=world.num_envs))
        world.observe(fields)
        finished = np.flatnonzero(outcome.terminated | outcome.truncated)
        if len(finished):
            world.reset(finished)
        return world.num_envs

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per line")
    parser.add_argument("--games", nargs="*", default=["fruitbot", "coinrun", "starpilot", "bossfight"], choices=GAMES)
    arguments = parser.parse_args()

    def report(name: str, run: Callable[[], int]) -> None:
        print(f"{name:48s} {rate(run, arguments.seconds):10,.0f} /s", flush=True)

    generator = np.random.default_rng(0)
    position = generator.uniform(0.1, 0.9, (256, 5, 2))
    shape, color = generator.integers(len(SHAPES), size=(256, 5)), generator.integers(len(COLORS), size=(256, 5))
    scale, visible = generator.choice([0.15, 0.22], (256, 5)), np.ones((256, 5), dtype=bool)
    renderer = SpriteRenderer(64)
    report("render 5 sprites, 64 px: stamps", lambda: len(renderer.render(position, shape, color, scale, visible)[0]))
    report(
        "render 5 sprites, 64 px: supersampled canvas",
        lambda: supersampled(position[0], shape[0], color[0], scale[0]) or 1,
    )
    scenes, block = SpriteScenes(10**9), iter(range(10**9))
    report(
        "sprite scenes, 64 px, with labels",
        lambda: len(scenes.__getitems__(range(32 * (n := next(block)), 32 * n + 32))),
    )
    world = SpriteWorld(ObjectComparison(), 32)
    report("object comparison, 32 environments: reset", lambda: world.reset() or 32)
    report("object comparison, 32 environments: state", stepping(world, STATE))
    report("object comparison, 32 environments: pixels", stepping(world, IMAGES))
    for game in arguments.games:
        for threads in dict.fromkeys((1, os.cpu_count() or 1)):
            procgen = ProcgenWorld(game, 64, threads=threads)
            report(f"{game}, 64 environments, {threads} thread(s)", stepping(procgen, IMAGES))
            procgen.close()


if __name__ == "__main__":
    main()
