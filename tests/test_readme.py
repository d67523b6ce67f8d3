"""What the README says is so: its commands run, its example runs, its tables are complete."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import ocl.cli
import rl_probes.cli
from ocl import checkpoints
from ocl.commands import parser_of
from ocl.files import read_json
from ocl.instantiate import instantiate
from rl_probes.agent import Agent

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = {"ocl": ocl.cli.main, "rl-probes": rl_probes.cli.main}
COMMANDS: dict[str, Any] = {"ocl": ocl.cli.COMMANDS, "rl-probes": rl_probes.cli.COMMANDS}

SHORT = {
    ("ocl", "fit"): "--trainer.max_steps=2 --trainer.limit_val_batches=2 --trainer.accelerator=cpu --data.batch_size=2 "
    "--data.num_workers=0 --trainer.enable_progress_bar=false --pictures=0",
    ("ocl", "extract"): "--dataset.init_args.size=48 --num_workers=0",
    ("ocl", "probe"): "--train.init_args.size=48 --test.init_args.size=48",
    ("rl-probes", "ppo"): "--world.init_args.num_envs=8 --ppo.n_steps=16 --ppo.batch_size=64 --total_steps=256",
    ("rl-probes", "evaluate"): "--episodes=4",
    ("rl-probes", "benchmark"): "--seeds=[0] --total_steps=256 --episodes=8 --ppo.n_steps=8 --ppo.batch_size=64",
}
"""Flags that make a command short enough for a test."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(first: str) -> list[str]:
    """The lines of the shell blocks that begin with a program, loops over words written out."""
    found = []
    for line in "".join(blocks("bash")).splitlines():
        loop = re.fullmatch(r"for (\w+) in (.*); do (.*); done", line)
        found += [loop[3].replace(f"${loop[1]}", word) for word in loop[2].split()] if loop else [line]
    return [line for line in found if line.split()[0] == first]


def test_every_shell_line_is_tested_here() -> None:
    known = [line for first in (*PROGRAMS, "make", "pip") for line in commands(first)]
    assert len(known) == sum(3 if line.startswith("for ") else 1 for line in "".join(blocks("bash")).splitlines())


def test_commands_run_in_the_order_in_which_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    lines = [line for first in PROGRAMS for line in commands(first) if "quickstart" not in line]
    assert len(lines) >= 5
    for line in lines:
        program, *words = shlex.split(line)
        PROGRAMS[program](words + shlex.split(SHORT[program, words[0]]))
    assert checkpoints.load_encoder("runs/slot_attention_tetrominoes/model").dim == 64
    assert read_json("runs/probes/tetrominoes_slots/report.json")["test_images"] == 48
    assert len(read_json("runs/object_comparison_oracle/evaluation.json")["success"]) == 4


def test_quickstart_is_what_make_runs_and_its_options_exist() -> None:
    """The run itself has a test of its own."""
    makefile = (ROOT / "Makefile").read_text()
    assert [line.split()[1] for line in commands("make")] == ["quickstart", "test"]
    assert all(f"\n{line.split()[1]}:" in makefile for line in commands("make"))
    made = re.search(r"^quickstart:.*\n\t\$\(BIN\)/(.*)$", makefile, re.MULTILINE)
    assert made is not None
    for line in [made[1], *(line for line in commands("rl-probes") if "quickstart" in line)]:
        program, command, *options = shlex.split(line)
        assert program == "rl-probes"
        parser = parser_of(rl_probes.cli.COMMANDS[command])
        assert Path(str(parser.parse_args(options).folder)).parts[0] == "runs"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With untrained weights of the model that it speaks of, and fewer steps."""
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load((ROOT / "configs" / "quickstart" / "slots.yaml").read_text())["model"]["model"]
    checkpoints.save(tree, instantiate(tree), "runs/quickstart/slots/model")
    (example,) = blocks("python")
    shortened = example.replace("total_steps=100_000", "total_steps=2048").replace("num_envs=32", "num_envs=8")
    assert shortened.count("2048") == shortened.count("num_envs=8") == 1
    names: dict[str, Any] = {}
    exec(compile(shortened, "README.md", "exec"), names)
    shapes = f"{tuple(names['slots'].vectors.shape)} and {tuple(names['slots'].masks.shape)}"
    assert f"# {shapes}\n" in example
    assert torch.isfinite(names["slots"].vectors).all()
    assert isinstance(names["agent"], Agent)
    assert Path("runs/my_agent/agent.safetensors").is_file()


def test_the_extras_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {extra for line in commands("pip") for group in re.findall(r"\[(.*)\]", line) for extra in group.split(",")}
    assert named <= extras
    table = README.split("| extra | adds |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([\w-]+)`", table)) >= extras
    assert all(shlex.split(line)[2:3] == ["-e"] for line in commands("pip"))


def test_every_command_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    table = README.split("| command | does |")[1].split("\n\n")[0]
    for program, main in PROGRAMS.items():
        with pytest.raises(SystemExit):
            main(["--help"])
        known = re.search(r"\{([\w,]+)\}", capsys.readouterr().out)
        assert known is not None
        for command in known[1].split(","):
            group = COMMANDS[program].get(command)
            for name in [f"{command} {one}" for one in group] if isinstance(group, dict) else [command]:
                assert f"`{program} {name}`" in table
    assert all(name in table for name in ocl.cli.LIGHTNING)


def test_links_and_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    paths = re.findall(r"`((?:configs|benchmarks|ocl|rl_probes|tests)/[\w./]*)`", README)
    assert links
    assert paths
    missing = [path for path in links + paths if not (ROOT / path).exists()]
    assert not missing


def test_nobody_is_sent_to_the_other_ocl() -> None:
    sentences = re.findall(r"[^\n]*pip install ocl\b[^-\n]*\n[^\n]*", README)
    assert len(sentences) == 1
    assert "somebody else's package" in sentences[0]
