"""One predictor with one seed on the slots of one encoder and the episodes of one task: made, measured, kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ocl.files import read_json, write_json
from rl_probes.evaluate_rewards import evaluate_scores
from rl_probes.predictions import order_leak
from rl_probes.recording import Goals, Recording
from rl_probes.reward_benchmark.recipes import Episodes, Recipe
from rl_probes.reward_scores import controls, scores_of, scores_of_states
from rl_probes.rewards.checkpoint import save_head
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import SlotTransition

CELL, SCORES = "cell.json", "scores.json"
CONTROLS = "controls"
Row = dict[str, Any]


@dataclass(frozen=True)
class Slots:
    """A task as one encoder sees it: recording, goals and stage (n) of its splits."""

    task: str
    encoder: str
    train: Episodes
    val: Episodes
    test: Episodes
    goals: Goals
    """Of the frames of test."""


@dataclass(frozen=True)
class Cell:
    """folder: its own; identity: all that decides its figures, so that a finished cell is not made again."""

    task: str
    encoder: str
    predictor: str
    seed: int
    folder: Path
    identity: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.predictor} on {self.encoder} slots of {self.task}, seed {self.seed}"

    def result(self) -> list[Row] | None:
        """The rows of the finished cell, None where there is none.

        Raises:
            ValueError: the folder holds a cell of another identity.
        """
        path = self.folder / CELL
        if not path.is_file():
            return None
        found = read_json(path)
        different = sorted(
            name for name in self.identity.keys() | found["identity"].keys()
            if self.identity.get(name) != found["identity"].get(name)
        )  # fmt: skip
        if different:
            raise ValueError(
                f"{self.folder} holds a cell with another {', '.join(different)}; name another folder for this "
                "benchmark, or delete that cell."
            )
        rows: list[Row] = found["rows"]
        return rows

    def run(self, slots: Slots, recipe: Recipe | None, gamma: float, resamples: int) -> list[Row]:
        """Make the predictor, measure it on the test episodes and keep rows, scores and head; the controls where there
        is no recipe."""
        test = slots.test.recording
        if recipe is None:
            scores = {name: scores_of_states(one, test, gamma) for name, one in controls(test, self.seed).items()}
            extra: list[Row] = []
            attribution: list[list[float]] = []
        else:
            predictor = recipe.make(slots.train, slots.val, self.seed)
            scores = {self.predictor: scores_of(predictor, test, gamma, slots.goals)}
            extra = self._further(predictor, slots)
            attribution = attribution_of(predictor, slots).tolist()
            if isinstance(predictor, SlotHead):
                save_head(predictor, self.folder, **self.identity)
        found = evaluate_scores(scores, test, gamma=gamma, seed=self.seed, resamples=resamples)
        rows = [self._row(row) for row in found if row["name"].count("/") == 2]
        curves: dict[str, Any] = {name: np.round(one.state, 6).tolist() for name, one in scores.items()}
        write_json(self.folder / SCORES, {"states": curves, "attribution": attribution})
        write_json(self.folder / CELL, {"identity": self.identity, "rows": rows + extra})
        return rows + extra

    def _further(self, predictor: RewardPredictor, slots: Slots) -> list[Row]:
        if predictor.kind != "potential" or predictor.state_dependence != "state":
            return []
        leak = order_leak(predictor, slots.test.recording, slots.goals, self.seed)
        name = f"reward/{self.predictor}/order_leak"
        return [self._row({"name": name, "value": leak, "unit": "deviations", "seed": self.seed, "split": "test"})]

    def _row(self, row: Row) -> Row:
        _, predictor, measure = row["name"].split("/")
        about = {"task": self.task, "encoder": self.encoder, "predictor": predictor, "measure": measure}
        return about | {name: value for name, value in row.items() if name != "name"}


def example_frames(test: Recording, count: int = 6) -> NDArray[np.intp]:
    """Some frames of the longest success among the test episodes (the longest episode where there is none), evenly
    spaced from the first to the one before the last."""
    finals = test.finals()
    solved = finals[test.success[finals]]
    among = solved if len(solved) else finals
    last = among[test.step[among].argmax()]
    frames = np.arange(last - test.step[last], max(last, last - test.step[last] + 1))
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    return np.asarray(frames[chosen], np.intp)


@torch.no_grad()
def attribution_of(predictor: RewardPredictor, slots: Slots) -> NDArray[np.float32]:
    """What each slot contributes to the prediction at the example frames (F K)."""
    test = slots.test.recording
    frames = example_frames(test)
    after = frames + 1
    fields: dict[str, Any] = {name: torch.from_numpy(getattr(test, field)[index]) for name, field, index in (
        ("slots", "vectors", frames), ("valid", "valid", frames), ("next_slots", "vectors", after),
        ("next_valid", "valid", after), ("rewards", "reward", after), ("terminated", "terminated", after),
    )}  # fmt: skip
    fields["actions"] = torch.from_numpy(test.action[after]).long()
    output = predictor.eval()(SlotTransition(**fields, **slots.goals.fields(frames)), attribute=True)
    assert output.attribution is not None
    return np.asarray(output.attribution.numpy(), np.float32)
