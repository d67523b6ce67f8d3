"""Methods x scene sets x seeds in one table: `ocl benchmark`."""

from ocl.benchmark.arms import Arm
from ocl.benchmark.suite import benchmark

__all__ = ["Arm", "benchmark"]
