"""Representations x tasks x encoder seeds x agent seeds in one table: `rl-probes benchmark`."""

from rl_probes.benchmark.command import benchmark
from rl_probes.benchmark.grid import Representation, Task

__all__ = ["Representation", "Task", "benchmark"]
