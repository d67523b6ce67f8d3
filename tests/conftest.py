"""One thread, one seed: tests run side by side on a small machine and must not depend on each other."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Under bfloat16 autocast torch 2.15 died once in an AMX matrix product (divide trap); AVX-512 products do not.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import torch

torch.set_num_threads(1)
# There is one server of forked processes, and who starts it first decides what it has loaded: seconds per process.
multiprocessing.get_context("forkserver").set_forkserver_preload(["rl_probes.cli", "torch._dynamo"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real images, where they are at hand: $OCL_TEST_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("OCL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: set OCL_TEST_DATA to a folder like {folder.name}/ with BSDS500/ and photos/")
    return folder


class TwoNodes:
    """A Ray cluster of two nodes with one CPU each, both on this machine."""

    def __init__(self, cluster: Any, second: Any) -> None:
        self.cluster, self.second = cluster, second
        self.address: str = cluster.address

    def second_works_in(self, folder: Path) -> bool:
        """Whether a process of the second node was started with `folder` as its last argument."""
        (raylet,) = self.second.all_processes["raylet"]
        return any(words[-2:-1] == [str(folder)] for words in map(_command, _descendants(raylet.process.pid)))

    def lose_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)


def _command(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:  # it has just ended
        return []


def _descendants(process: int) -> Iterator[int]:
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from _descendants(child)


@pytest.fixture(scope="module")
def two_ray_nodes() -> Iterator[TwoNodes]:
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    patient = {"memory_monitor_refresh_ms": 0}  # else Ray ends workers when anything fills the machine's memory
    cluster = Cluster(initialize_head=True, head_node_args=small | {"_system_config": patient})
    yield TwoNodes(cluster, cluster.add_node(**small))
    cluster.shutdown()
