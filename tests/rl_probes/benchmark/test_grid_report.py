"""From the episodes of finished cells to figures worked out by hand, in every file of the report."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ocl.files import read_json, write_json
from ocl.report import Table
from rl_probes.benchmark import Representation, Task, benchmark
from rl_probes.benchmark.grid import Cell, Node
from rl_probes.benchmark.latex import latex
from rl_probes.benchmark.plan import cells
from rl_probes.ppo import PPOConfig

SHIFT = "yellow and red"
EPISODES = 20


def world(colors: list[str]) -> Node:
    task = {"class_path": "rl_probes.envs.tasks.ObjectComparison", "init_args": {"colors": colors}}
    arguments = {"num_envs": 4, "image_size": 16, "task": task}
    return Node({"class_path": "rl_probes.envs.sprite_world.SpriteWorld", "init_args": arguments})


def oracle(num_objects: int = 5) -> Node:
    arguments = {"num_objects": num_objects, "quantities": {"position": 2}, "categories": {"shape": 4, "color": 4}}
    return Node({"class_path": "ocl.representations.OracleObjects", "init_args": arguments})


def random_cnn(seed: int) -> Node:
    arguments = {"image_size": [16, 16], "dim": 4, "strides": [4, 2], "seed": seed}
    return Node({"class_path": "ocl.representations.RandomCNN", "init_args": arguments})


POOLING = Node({"class_path": "rl_probes.pooling.DeepSetPooling", "init_args": {"width": 8}})
TASK = Task("comparison", world(["blue", "green"]), {SHIFT: world(["yellow", "red"])})
ORACLE = Representation("oracle", [oracle()], POOLING)
RANDOM = Representation("random_cnn", [random_cnn(0), random_cnn(1), random_cnn(2)], POOLING)
SETTINGS: dict[str, Any] = {"total_steps": 300, "episodes": EPISODES, "first_seed": 1_000_000, "most_likely": False}
TRAINING = {
    "total_steps": 300,
    "ppo": vars(PPOConfig()),
    "snapshot_every": 10,
    "device": "cpu",
}
EVALUATION = {name: SETTINGS[name] for name in ("episodes", "first_seed", "most_likely")}


def planned(folder: Path, tasks: list[Task], representations: list[Representation], seeds: list[int]) -> list[Cell]:
    return cells(tasks, representations, seeds, folder, TRAINING, EVALUATION)


def finish(cell: Cell, wins: int, curve: tuple[float, float, float] = (0.0, 0.6, 0.9)) -> None:
    """As if the agent had won the first `wins` of its episodes, and one less after the shift."""
    cell.prepare()
    (cell.folder / "agent.safetensors").touch()
    rows = [f"{100 * (n + 1)},{10 * (n + 1)},{value},{value}" for n, value in enumerate(curve)]
    (cell.folder / "progress.csv").write_text("\n".join(["steps,seconds,return,success", *rows, ""]))
    splits = {}
    for name, count in (("held-out seeds", wins), (SHIFT, wins - 1)):
        success = [float(episode < count) for episode in range(EPISODES)]
        splits[name] = {"returns": success, "lengths": [9] * EPISODES, "success": success}
    facts = {} if cell.is_chance else {"steps": 300, "seconds": 30.0, "encoder": "c0ffee" * 8, "tokens": [5, 10]}
    write_json(cell.folder / "episodes.json", {"evaluation": cell.evaluation, **facts, "splits": splits})


def wins_of(cell: Cell) -> int:
    """Chance 4; the oracle 16, 18, 20 by agent; the random encoders 6, 8, 10 by encoder, one more with agent 2."""
    if cell.is_chance:
        return 4
    return (
        16 + 2 * cell.agent_seed
        if cell.representation == "oracle"
        else 6 + 2 * cell.encoder_seed + cell.agent_seed // 2
    )


def run(folder: Path, seeds: list[int], **options: Any) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return benchmark([TASK], [ORACLE, RANDOM], seeds, folder, ceiling="oracle", **SETTINGS | options)


@pytest.fixture
def done(tmp_path: Path) -> Path:
    for cell in planned(tmp_path, [TASK], [ORACLE, RANDOM], [0, 1, 2]):
        curve = (0.0, 0.4, 0.8) if cell.agent_seed == 0 else (0.5, 0.6, 0.7)
        finish(cell, wins_of(cell), curve if cell.representation == "oracle" else (0.1, 0.2, 0.3))
    return tmp_path


def test_figures_by_hand(done: Path) -> None:
    rows = {(row["split"], row["representation"]): row for row in run(done, [0, 1, 2])}
    assert len(rows) == 6
    chance, oracle, random = (rows["held-out seeds", name] for name in ("random policy", "oracle", "random_cnn"))
    assert (chance["iqm"], chance["low"], chance["steps"], chance["encoder_seeds"]) == (4 / 20, None, None, None)
    assert (oracle["iqm"], oracle["mean"], oracle["std"]) == pytest.approx((18 / 20, 18 / 20, 2 / 20))
    assert (oracle["low"], oracle["high"]) == pytest.approx((16 / 20, 20 / 20))  # one resample in 27 has only the worst
    # Nine runs 6 6 7 8 8 9 10 10 11, two dropped at each end.
    assert random["iqm"] == pytest.approx(np.mean([7, 8, 8, 9, 10]) / 20)
    assert (random["encoder_seeds"], random["agent_seeds"], oracle["encoder_seeds"]) == (3, 3, 1)
    assert (random["zero_is"], random["one_is"]) == pytest.approx((0.2, 0.9))
    assert random["normalised"] == pytest.approx((random["iqm"] - 0.2) / 0.7)
    assert (oracle["normalised"], chance["normalised"]) == pytest.approx((1.0, 0.0))
    assert (oracle["steps_to_50"], oracle["steps_to_80"]) == (100, np.inf)  # two of three start at 0.5, one ends at 0.8
    assert (oracle["steps_per_second"], oracle["hours"]) == pytest.approx((10.0, 90 / 3600))
    assert rows[SHIFT, "oracle"]["iqm"] == pytest.approx(17 / 20)
    assert rows[SHIFT, "oracle"]["build"] != oracle["build"]
    required = {"encoder", "tokens", "dim", "pooling", "steps", "episodes", "actions", "build"}
    assert all(row[name] not in (None, "") for row in (oracle, random) for name in required)


def test_pairs_by_hand(done: Path) -> None:
    run(done, [0, 1, 2])
    with (done / "comparisons.csv").open() as file:
        pairs = list(csv.DictReader(file))
    (held_out,) = (pair for pair in pairs if pair["split"] == "held-out seeds")
    assert (held_out["first"], held_out["second"]) == ("oracle", "random_cnn")
    expected = 18 / 20 - np.mean([6, 6, 7, 8, 8, 9, 10, 10, 11]) / 20
    assert float(held_out["difference"]) == pytest.approx(expected)
    assert float(held_out["difference_low"]) < expected < float(held_out["difference_high"])
    assert float(held_out["improvement"]) == 1.0


def test_every_file_of_the_report(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(done, [0, 1, 2])
    with (done / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["iqm"] for row in written] == [str(row["iqm"]) for row in rows]
    assert written[1]["steps_to_80"] == "never"
    page, tex, printed = (done / "report.html").read_text(), (done / "table.tex").read_text(), capsys.readouterr().out
    for text in (page, tex, printed):
        assert "0.900" in text
        assert "c0ffeec0" in text
        assert "(!)" not in text
    assert all(f"comparison: success on {split}" in page for split in ("held-out seeds", SHIFT))
    assert page.count("<svg") == 2  # learning curves and the performance profile
    assert page.count("fill-opacity") == 4  # the bands of both representations in both
    assert not [word for word in page.split() if word.startswith(("src=", "href=")) and "data:" not in word]
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 5
    assert tex.count("{") == tex.count("}")
    assert tex.isascii()
    assert (
        r"5~$\times$~10 & DeepSetPooling & 300 & 1~$\times$~3 & 0.900 (0.800..1.000) & 0.900 ($\pm$ 0.100) & 1.00"
        in tex
    )
    assert r"random\_cnn" in tex
    manifest = read_json(done / "manifest.json")
    assert len(manifest["cells"]) == 12
    assert manifest["errors"] == {}


def test_two_seeds_are_marked_and_warned_of(done: Path) -> None:
    with pytest.warns(UserWarning, match="fewer than 3 seeds"):
        rows = benchmark([TASK], [ORACLE, RANDOM], [0, 1], done, ceiling="oracle", **SETTINGS)
    assert {row["representation"] for row in rows if row["few_seeds"]} == {"oracle", "random_cnn"}
    assert all("(!)" in (done / name).read_text() for name in ("report.html", "table.tex"))
    assert "fill-opacity" not in (done / "report.html").read_text()


def test_a_cell_that_fails_takes_its_seed_with_it(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The snapshot of one agent is damaged: the third agents of the other encoders are not counted either."""
    folder = done / "cells" / "comparison" / "random_cnn" / "encoder-1-agent-2"
    (folder / "agent.safetensors").unlink()
    (folder / "episodes.json").unlink()
    (folder / "snapshot.safetensors").write_bytes(b"damaged")
    with (
        pytest.warns(UserWarning, match="fewer than 3"),
        pytest.raises(ValueError, match="1 of 13 cells ended with an error; run again"),
    ):
        benchmark([TASK], [ORACLE, RANDOM], [0, 1, 2], done, ceiling="oracle", **SETTINGS)
    with (done / "table.csv").open() as file:
        rows = {row["representation"]: row for row in csv.DictReader(file) if row["split"] == SHIFT}
    assert (rows["random_cnn"]["agent_seeds"], rows["random_cnn"]["missing_cells"]) == ("2", "3")
    assert (rows["oracle"]["agent_seeds"], rows["oracle"]["missing_cells"]) == ("3", "0")
    title = "random_cnn on comparison, encoder 1, agent 2"
    assert list(read_json(done / "manifest.json")["errors"]) == [title]
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{title} ended with an error; its output:" in printed
    assert "snapshot.safetensors" in printed[printed.index("its output:") :]


def test_other_encoders_slots_worlds_and_fewer_steps_are_refused(done: Path) -> None:
    def refused(message: str, task: Task = TASK, *, encoder: Node | None = None, **options: Any) -> None:
        one = Representation("oracle", [encoder or oracle()], POOLING)
        before = (done / "cells" / "comparison" / "oracle" / "encoder-0-agent-0" / "cell.json").read_bytes()
        with pytest.raises(ValueError, match=message) as caught:
            benchmark([task], [one], [0], done, **SETTINGS | options)
        assert str(caught.value).count(". ") == 0, "one sentence"
        assert (done / "cells" / "comparison" / "oracle" / "encoder-0-agent-0" / "cell.json").read_bytes() == before

    refused(
        r"another encoder \(\w{12}… there, \w{12}… here\), number of slots \(5 there, 6 here\)",
        encoder=oracle(6),
    )
    refused(r"with another encoder \(.*width \(10 there, 4 here\)", encoder=random_cnn(0))
    refused(r"oracle with another world", Task("comparison", world(["blue", "red"])))
    refused(
        r"with another bootstrap_timeouts \(True there, False here\)",
        Task("comparison", TASK.world, bootstrap_timeouts=False),
    )
    refused(r"with another ppo ", ppo=PPOConfig(gamma=0.9))
    refused(r"with another number of steps \(more there\)", total_steps=200)


def test_a_representation_may_have_settings_of_its_own(tmp_path: Path) -> None:
    own = Representation("own", [oracle()], POOLING, standardise=False, ppo=PPOConfig(learning_rate=3e-4))
    _, shared, special = planned(tmp_path, [TASK], [ORACLE, own], [7])
    assert (shared.run["standardise"], shared.run["ppo"]["learning_rate"]) == (True, 1e-3)
    assert (special.run["standardise"], special.run["ppo"]["learning_rate"]) == (False, 3e-4)
    assert (special.run["seed"], special.run["world"]["init_args"]["seed"]) == (7, 7)
    assert shared.identity["encoder"] == special.identity["encoder"]


def test_a_moved_or_longer_benchmark_is_not_refused(done: Path, tmp_path: Path) -> None:
    elsewhere = done.rename(tmp_path.with_name("moved"))
    assert run(elsewhere, [0, 1, 2])
    for cell in cells(
        [TASK], [ORACLE], [0], elsewhere, TRAINING | {"total_steps": 400, "snapshot_every": 1}, EVALUATION
    ):
        cell.check()
        assert (cell.result() is None) == (not cell.is_chance)


def test_what_would_count_twice_or_divide_by_nothing_is_refused(tmp_path: Path) -> None:
    twice = Representation("twice", [oracle(), oracle()], POOLING)
    with pytest.raises(ValueError, match="twice names an encoder twice"):
        planned(tmp_path, [TASK], [twice], [0])
    for bounds in ((1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="comparison: score_range must rise"):
            Task("comparison", TASK.world, score_range=bounds)
    with pytest.raises(ValueError, match="name held_out otherwise"):
        Task("comparison", TASK.world, {"held-out seeds": TASK.world})


def test_bad_input_is_named(tmp_path: Path) -> None:
    def refused(message: str, *, tasks: list[Task] = [TASK], seeds: list[int] = [0], **options: Any) -> None:  # noqa: B006
        chosen = options.pop("representations", [ORACLE])
        with pytest.raises((ValueError, ImportError), match=message):
            benchmark(tasks, chosen, seeds, tmp_path, **SETTINGS | options)
        assert not list(tmp_path.iterdir())

    refused("at least one task", tasks=[])
    refused("the task comparison is given twice", tasks=[TASK, TASK])
    refused("name '../x' must be a folder's", representations=[Representation("../x", [oracle()], POOLING)])
    refused("oracle needs at least one encoder", representations=[Representation("oracle", [], POOLING)])
    refused("seeds must differ", seeds=[1, 1])
    refused("the ceiling 'gt' is none of the representations", ceiling="gt")
    refused("must all be at least 1", episodes=0)
    unknown = Representation("oracle", [Node({"class_path": "ocl.representations.NoSuch"})], POOLING)
    refused("oracle: encoder cannot be built: .*NoSuch", representations=[unknown])
    larger = Node(random_cnn(0).with_arguments(image_size=[64, 64]))
    refused(
        "large reads frames of 64 x 64 and comparison draws 16 x 16; change the world's image_size, or give large "
        "resize: true.$",
        representations=[ORACLE, Representation("large", [larger], POOLING)],
    )
    assert planned(tmp_path, [TASK], [Representation("large", [larger], POOLING, resize=True)], [0])
    with pytest.raises(ValueError, match="needs a class_path"):
        Node({"init_args": {}})


def test_latex_escapes_what_it_must() -> None:
    text = latex(Table("a_b & c", ["x", "50 %"], [["1 × 2", ("0.5 ± 0.1", "0.4..0.6 #")]], "{~}"))
    assert r"\caption{a\_b \& c. \{\textasciitilde{}\}}" in text
    assert r"1 $\times$ 2 & 0.5 $\pm$ 0.1 (0.4..0.6 \#) \\" in text
