"""What a benchmark runs: arms (a method on a scene set) times seeds, each a folder with a job.json."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ocl.files import read_json, write_json

JOB, EVALUATION, PICTURE = "job.json", "evaluation.json", "evaluation.png"
NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Arm:
    """One method on one scene set: a complete `ocl fit` configuration under the two names that the table shows.

    Args:
        name: of the method.
        set: of the scenes.
        config: a file for `ocl fit`, such as configs/discovery/slot_attention_tetrominoes.yaml.
        arguments: further arguments of `ocl fit`, each as on the command line ("--model.learning_rate 0.001"); they
            come after those of the benchmark and win.
    """

    name: str
    set: str
    config: Path
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One run: an arm with one seed, in its own folder."""

    name: str
    set: str
    seed: int
    folder: Path
    config: Path
    arguments: tuple[str, ...]
    worker: ClassVar[str] = "ocl.benchmark.worker"

    @property
    def title(self) -> str:
        return f"{self.name} on {self.set}, seed {self.seed}"

    @property
    def command(self) -> list[str]:
        """The arguments of `ocl fit`. The seed sets the first weights (seed_everything), the random draws of every step
        (model) and the order of the training set (data), so two arms with one seed read the same items in the same
        order, if their data sets and batch sizes agree. The scenes keep the seeds in the config: those of evaluation
        are the same in all runs and never among those of training."""
        seed = str(self.seed)
        seeds = ["--seed_everything", seed, "--model.seed", seed, "--data.seed", seed]
        place = ["--trainer.default_root_dir", str(self.folder), "--trainer.enable_progress_bar", "false"]
        return ["fit", "--config", str(self.config), *self.arguments, *place, *seeds]

    def training(self) -> dict[str, Any]:
        """Everything that decides what is trained, without places on this machine: the files' content, not names."""
        files = [Path(word.split("=")[-1]) for word in self.arguments if word.endswith((".yaml", ".yml"))]
        contents = [_yaml(path) for path in (self.config, *files)]
        content = {"configs": contents, "arguments": list(self.arguments), "seed": self.seed}
        return dict(json.loads(json.dumps(content, default=str)))

    def prepare(self, protocol: str, images: int) -> None:
        """Write job.json for the process that will run it.

        Raises:
            ValueError: the folder holds a run (weights or a checkpoint) of another configuration.
        """
        training, path = self.training(), self.folder / JOB
        begun = (self.folder / "model").exists() or (self.folder / "checkpoints").exists()
        if begun and (not path.is_file() or read_json(path).get("training") != training):
            raise ValueError(
                f"{self.folder} holds a run of {self.name} with another configuration (see its {JOB}); name another "
                "folder for this benchmark, or delete that run."
            )
        evaluation = {"protocol": protocol, "images": images}
        write_json(path, {"command": self.command, "training": training, "evaluation": evaluation})

    def result(self) -> dict[str, Any] | None:
        """The finished run's evaluation as the job asks for it, else None."""
        path = self.folder / EVALUATION
        if not (trained(self.folder) and path.is_file() and (self.folder / PICTURE).is_file()):
            return None
        result: dict[str, Any] = read_json(path)
        return result if result["evaluation"] == read_json(self.folder / JOB)["evaluation"] else None


def trained(folder: Path) -> bool:
    """Whether the run reached its last step: the export writes the step last of all."""
    manifest = folder / "model" / "manifest.json"
    return manifest.is_file() and "step" in read_json(manifest)


def jobs(arms: Sequence[Arm], seeds: Sequence[int], folder: Path, arguments: Sequence[str] = ()) -> list[Job]:
    """Every arm with every seed, seed by seed, so that an interrupted benchmark has compared all arms on some seeds.

    arguments: of `ocl fit`, for all arms.

    Raises:
        ValueError: no arm or seed, one given twice, a negative seed, or a name that cannot be a folder.
        FileNotFoundError: an arm's config does not exist.
    """
    if not arms or not seeds:
        raise ValueError("a benchmark needs at least one arm and one seed.")
    pairs = [(arm.name, arm.set) for arm in arms]
    twice = sorted({pair for pair in pairs if pairs.count(pair) > 1})
    if twice:
        raise ValueError(f"the arm {twice[0][0]} on {twice[0][1]} is given twice; name the two differently.")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must differ and be at least 0, got {list(seeds)}.")
    for arm in arms:
        for name in (arm.name, arm.set):
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} must be a folder's name too: letters, digits, '_', '-' and '.' only.")
        if not arm.config.is_file():
            raise FileNotFoundError(f"{arm.config}, the config of {arm.name} on {arm.set}, does not exist.")
    return [
        Job(
            arm.name,
            arm.set,
            seed,
            folder / "runs" / arm.name / arm.set / f"seed-{seed}",
            arm.config,
            tuple(word for text in (*arguments, *arm.arguments) for word in shlex.split(text)),
        )
        for seed in seeds
        for arm in arms
    ]


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML ({str(error).splitlines()[0]}).") from error


def last_step(job: Job) -> int:
    """The step in the last whole line of the run's newest CSV log; 0 before the first."""
    logs = sorted(job.folder.glob("logs/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return 0
    header, *lines = logs[-1].read_text(encoding="utf-8").splitlines() or [""]
    columns = header.split(",")
    cells = lines[-1].split(",") if lines else []
    step = cells[columns.index("step")] if "step" in columns and len(cells) == len(columns) else "0"
    return int(step) if step.isdigit() else 0
