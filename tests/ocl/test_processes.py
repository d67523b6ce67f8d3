"""Jobs side by side, here or on a Ray cluster of two nodes: all are done, each failure says why, no process is left."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ocl.processes import OUTPUT, locally, over_ray

WORKER = """
import os, sys, time
from ocl.processes import serve

def run(folder):
    with (folder / "starts").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    (folder / "pid").write_text(str(os.getpid()))
    while (folder / "wait").exists():
        time.sleep(0.01)
    if (folder / "fail").exists():
        sys.exit("this went wrong")
    (folder / "done").touch()

if __name__ == "__main__":
    serve(run)
"""


@dataclass(frozen=True)
class Chore:
    folder: Path
    worker: ClassVar[str] = "chore"

    @property
    def starts(self) -> list[int]:
        path = self.folder / "starts"
        return list(map(int, path.read_text().split())) if path.exists() else []

    @property
    def is_done(self) -> bool:
        return (self.folder / "done").exists()


Pool = Callable[[Sequence[Chore]], Iterator[Any]]


def two_at_once(jobs: Sequence[Chore]) -> Iterator[Any]:
    return locally(jobs, 2)


@pytest.fixture(scope="module")
def nodes(two_ray_nodes: Any) -> Iterator[Any]:
    """This process is on the cluster."""
    ray = importlib.import_module("ray")
    ray.init(address=two_ray_nodes.address, log_to_driver=False)
    yield two_ray_nodes
    ray.shutdown()


@pytest.fixture(params=["here", pytest.param("ray", marks=pytest.mark.slow)])
def pool(request: pytest.FixtureRequest) -> Pool:
    if request.param == "here":
        return two_at_once
    request.getfixturevalue("nodes")
    return over_ray


@pytest.fixture
def chores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Chore]:
    """Five jobs; their worker is a module of the working folder."""
    (tmp_path / "chore.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    made = [Chore(tmp_path / str(number)) for number in range(5)]
    for chore in made:
        chore.folder.mkdir()
    return made


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for a minute in vain")


def drain(progress: Iterator[Any]) -> dict[Chore, str | None]:
    return {job: error for _, ended in progress for job, error in ended.items()}


def test_all_jobs_are_done_and_those_that_fail_say_why(pool: Pool, chores: list[Chore]) -> None:
    (chores[1].folder / "fail").touch()
    ended = drain(pool(chores))
    assert ended.keys() == set(chores)
    assert ended.pop(chores[1]) == "this went wrong\nexit status 1"
    assert set(ended.values()) == {None}
    assert [chore.is_done for chore in chores] == [True, False, True, True, True]
    assert {len(chore.starts) for chore in chores} == {1}
    assert (chores[1].folder / OUTPUT).read_text() == "this went wrong\n"


def test_a_worker_that_is_killed_is_reported_and_stops_no_other(pool: Pool, chores: list[Chore]) -> None:
    (chores[0].folder / "wait").touch()
    progress = pool(chores)
    ended = next(progress)[1]
    until(lambda: bool(chores[0].starts))
    os.kill(chores[0].starts[0], signal.SIGKILL)
    ended |= drain(progress)
    assert ended == {chore: "killed by signal 9" if chore is chores[0] else None for chore in chores}
    assert len(chores[0].starts) == 1


def test_running_jobs_are_named_and_end_when_the_caller_leaves(pool: Pool, chores: list[Chore]) -> None:
    for chore in chores:
        (chore.folder / "wait").touch()
        (chore.folder / OUTPUT).touch()  # of an earlier attempt
    progress = pool(chores)
    running: Sequence[Chore] = next(progress)[0]
    while Counter(bool(chore.starts) for chore in chores)[True] < 2:
        running = next(progress)[0]
    running = next(progress)[0]
    begun = [chore for chore in chores if chore.starts]
    assert set(running) == set(begun)
    assert len(begun) == 2
    progress.close()  # type: ignore[attr-defined]
    until(lambda: not any(alive(process) for chore in begun for process in chore.starts))
    assert not any(chore.is_done for chore in chores)


@pytest.mark.slow
def test_jobs_of_a_lost_node_start_again_and_no_others(nodes: Any, chores: list[Chore]) -> None:
    held = chores[1:3]
    for chore in held:
        (chore.folder / "wait").touch()
    progress, ended = over_ray(chores), dict[Chore, str | None]()
    while not all(chore.starts for chore in held):  # one on each node
        ended |= next(progress)[1]
    assert [nodes.second_works_in(chore.folder) for chore in held].count(True) == 1
    processes = [chore.starts[0] for chore in held]
    nodes.lose_second()
    until(lambda: sum(map(alive, processes)) == 1)
    for chore in held:
        (chore.folder / "wait").unlink()
    ended |= drain(progress)
    assert ended == dict.fromkeys(chores)
    assert all(chore.is_done for chore in chores)
    assert sorted(len(chore.starts) for chore in chores) == [1, 1, 1, 1, 2]
    assert sorted(len(chore.starts) for chore in held) == [1, 2]


def test_ray_is_asked_for_by_name(chores: list[Chore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'ocl-research\[cluster\]'"):
        next(over_ray(chores))


@pytest.mark.slow
def test_a_folder_that_a_node_does_not_have_is_named(nodes: Any, chores: list[Chore]) -> None:
    ended = drain(over_ray([Chore(chores[0].folder / "elsewhere")]))
    (sentence,) = ended.values()
    assert sentence is not None
    assert "elsewhere/output.txt does not exist on" in sentence
    assert sentence.endswith("all nodes must share the folders of the jobs.")
