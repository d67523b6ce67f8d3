"""Small experiments with known answers: what each kind of training buys, with gates, over three seeds.

    python benchmarks/reward_experiments.py [--seeds 0 1 2] [--epochs 12] [--slots mixed | sprites | folder]

A box is pushed among five other objects: 500 episodes of 60 steps, 70 % for training. Heads see them as

- mixed: shuffled slots whose features (place and kind) are rotated into 16 dimensions, with noise of 5 % of their
  deviation, and without any for the gate on the noise itself;
- the slots of a checkpoint, such as the packaged "sprites", on frames of 64 x 64 pixels with a sprite for each object.
  They are the same episodes. Sprites hide each other where they meet, and the packaged slots were trained on five
  objects that keep apart, so both are harder here than where they come from.

Prints one row per figure, then the gates, which were set for mixed slots.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d, mse_loss, one_hot

import ocl
from ocl.data.sprites import COLORS, SHAPES, SpriteRenderer
from ocl.matching import optimal_assignment
from ocl.shapes import Batch
from rl_probes.distances import pearson_distance
from rl_probes.evaluate_rewards import auroc, spearman_per_trajectory
from rl_probes.fit_rewards import fit_preferences, fit_progress, fit_stages, fit_steps, flattened
from rl_probes.fitting import fresh_head, optimise
from rl_probes.labels import ends_of_stages
from rl_probes.negatives import rewound, swapped_goals
from rl_probes.predictions import predict
from rl_probes.recording import Goals, Recording
from rl_probes.reward_metrics import backwards, per_trajectory, spearman
from rl_probes.reward_scores import controls, scores_of, scores_of_states
from rl_probes.rewards.goal_similarity import Columns, SlotGoalSimilarity
from rl_probes.rewards.hop_reward import HopReward
from rl_probes.rewards.transition import SlotTransition

EPISODES, STEPS, OBJECTS, DIM = 500, 60, 6, 16
AGENT, BOX, GOAL = 0, 1, 2  # the other three are distractors
REACH, CLOSE, REACHED = 0.1, 0.15, 0.9
MOVES = 0.05 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, 2 + OBJECTS)))[0].T
SPRITES = (("circle", "red"), ("square", "blue"), ("square", "green"), ("star_4", "yellow"), ("triangle", "green"),
           ("circle", "yellow"))  # fmt: skip
DRAWN = [GOAL, 3, 4, 5, BOX, AGENT]  # later ones over earlier ones: the goal is larger, and seen around the box
Array = NDArray[np.float64]


class Seen(NamedTuple):
    """Slots (n K D), and which object each of them is (n K), -1 for none."""

    slots: NDArray[np.float16]
    objects: NDArray[np.int64]


class View(ABC):
    """How places become slots."""

    name: str

    @abstractmethod
    def __call__(self, places: Array, rng: np.random.Generator) -> Seen:
        """places (n 6 2)"""


class Mixed(View):
    """One slot per object in random order; `noise` in units of the features' deviation."""

    def __init__(self, noise: float) -> None:
        self.noise, self.name = noise, f"mixed-{noise}"

    def __call__(self, places: Array, rng: np.random.Generator) -> Seen:
        order = rng.random(places.shape[:2]).argsort(1)
        kinds = np.broadcast_to(np.eye(OBJECTS), (*places.shape[:-1], OBJECTS))
        features = np.concatenate([places - 0.5, kinds], -1) @ ROTATION
        features += self.noise * features.std() * rng.normal(size=features.shape)
        return Seen(np.take_along_axis(features, order[..., None], 1).astype(np.float16), order)


class Drawn(View):
    """The slots of a trained encoder on frames. Each object is the slot that attends to it most, one to one."""

    def __init__(self, checkpoint: str) -> None:
        self.encoder = ocl.load(checkpoint)
        self.name = f"drawn-{self.encoder.fingerprint}"
        shapes, colors = zip(*(SPRITES[index] for index in DRAWN), strict=True)
        self.shapes, self.colors = (
            np.array([SHAPES.index(n) for n in shapes]),
            np.array([COLORS.index(n) for n in colors]),
        )
        self.scales = np.array([0.22 if index == GOAL else 0.15 for index in DRAWN])
        self.renderer = SpriteRenderer(64)

    def __call__(self, places: Array, rng: np.random.Generator) -> Seen:
        return Seen(
            *(
                np.concatenate(parts)
                for parts in zip(*map(self._seen, np.array_split(places, -(-len(places) // 256))), strict=True)
            )
        )

    @torch.inference_mode()
    def _seen(self, places: Array) -> Seen:
        many = places.shape[:2]
        everywhere = (np.broadcast_to(of_sprite, many) for of_sprite in (self.shapes, self.colors, self.scales))
        inside = 0.12 + 0.76 * places[:, DRAWN]  # no sprite sticks out of the frame
        images, segmentation = self.renderer.render(inside, *everywhere, np.ones(many, bool))
        found = self.encoder(Batch(torch.from_numpy(images)))
        assert found.masks is not None
        shares = one_hot(torch.from_numpy(segmentation).long(), 1 + OBJECTS)[..., 1:].permute(0, 3, 1, 2).float()
        shares = adaptive_avg_pool2d(shares, found.masks.shape[-2:])
        overlap = torch.einsum("nmhw,nkhw->nmk", shares, found.masks.float())
        columns = optimal_assignment(-overlap).columns.numpy()  # (n 6), in the order of drawing
        objects = np.full(found.vectors.shape[:2], -1)
        np.put_along_axis(objects, columns, np.broadcast_to(DRAWN, many), 1)
        return Seen(found.vectors.numpy().astype(np.float16), objects)


class Toy(NamedTuple):
    """A recording with what it hides: places (n 6 2), and which object each slot is (n K), -1 for none."""

    recording: Recording
    places: Array
    objects: NDArray[np.int64]

    def split(self, seed: int) -> list[Toy]:
        found = []
        for part in self.recording.split(seed=seed):
            kept = np.isin(self.recording.episode, part.episode)
            found.append(Toy(part, self.places[kept], self.objects[kept]))
        return found


def moved(places: Array, move: Array) -> Array:
    """(E 6 2) after a move (2) of the agent; the box goes along when the agent comes towards it within reach."""
    after = places.copy()
    after[:, AGENT] = np.clip(places[:, AGENT] + move, 0, 1)
    to_box = places[:, BOX] - after[:, AGENT]
    pushed = (np.linalg.norm(to_box, axis=1) < REACH) & (to_box @ move > 0)
    after[:, BOX] = np.clip(places[:, BOX] + pushed[:, None] * move, 0, 1)
    return after


def record(seed: int, view: View) -> Toy:
    """The agent acts at random, and with a probability of each episode's own so as to bring the box to the goal."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0.1, 0.9, (EPISODES, OBJECTS, 2))
    skill = rng.uniform(0, 0.5, EPISODES)
    frames = [places]
    for _ in range(STEPS):
        outcomes = np.stack([moved(places, move) for move in MOVES])  # (4 E 6 2)
        way = outcomes[:, :, BOX] - outcomes[:, :, GOAL]
        behind = outcomes[:, :, BOX] + REACH * way / np.linalg.norm(way, axis=-1, keepdims=True)
        away = np.linalg.norm(outcomes[:, :, AGENT] - behind, axis=-1)
        good = (np.linalg.norm(way, axis=-1) + 0.1 * away).argmin(0)
        action = np.where(rng.random(EPISODES) < skill, good, rng.integers(4, size=EPISODES))
        places = outcomes[action, np.arange(EPISODES)]
        frames.append(places)
    every = np.stack(frames, 1).reshape(-1, OBJECTS, 2)
    progress = worth(every, GOAL)
    step = np.tile(np.arange(STEPS + 1, dtype=np.int32), EPISODES)
    slots, objects = view(every, rng)
    recording = Recording(
        vectors=slots,
        valid=np.ones(objects.shape, bool),
        action=np.zeros(len(every), np.int32),
        reward=np.zeros(len(every), np.float32),
        progress=progress.astype(np.float32),
        terminated=np.zeros(len(every), bool),
        truncated=step == STEPS,
        success=progress > 1 - CLOSE / 2**0.5,
        episode=np.repeat(np.arange(EPISODES), STEPS + 1),
        step=step,
        fingerprint=f"toy-{seed}-{view.name}",
    )
    return Toy(recording, every, objects)


def worth(places: Array, goal: int | NDArray[np.int64]) -> Array:
    """Progress (n) of the box towards an object, one for all or one for each; NaN towards none (-1)."""
    wanted = places[np.arange(len(places)), goal]
    distance = np.linalg.norm(places[:, BOX] - wanted, axis=-1)
    return np.where(np.less(goal, 0), np.nan, 1 - distance / 2**0.5)


def states(toy: Toy, seed: int, epochs: int) -> dict[str, float]:
    """Progress from single states and pairs of states, from preferences, and from nothing."""
    train, val, test = (part.recording for part in toy.split(seed))
    finals, found = test.finals(), {}
    heads = {
        "deep set": fit_progress(train, val, epochs=epochs, seed=seed),
        "flattened MLP": fit_progress(train, val, flattened, epochs=epochs, seed=seed),
        "preferences": fit_preferences(train, val, epochs=epochs, seed=seed),
    }
    for name, head in heads.items():
        state = scores_of(head, test, 0.99).state
        found[f"{name}: EPIC"] = pearson_distance(state, test.progress)
        found[f"{name}: AUROC"] = auroc(state[finals], test.success[finals])
    found["successes among the test episodes"] = float(test.success[finals].sum())
    rho, dropped = spearman_per_trajectory(scores_of(heads["deep set"], test, 0.99).state, test.progress, test.episode)
    found |= {"deep set: Spearman": float(rho.mean()), "trajectories dropped (no change)": float(dropped)}
    for name in ("random", "clock"):
        found[f"{name}: EPIC"] = pearson_distance(controls(test, seed)[name], test.progress)
    truth = scores_of_states(test.progress, test, 1.0).step
    found["potential: step distance"] = pearson_distance(scores_of(heads["deep set"], test, 1.0).step, truth)
    pair = fit_steps(train, val, epochs=epochs, seed=seed)
    found["pair head: step distance"] = pearson_distance(scores_of(pair, test, 1.0).step, truth)
    return found


def without_noise(seed: int, epochs: int) -> dict[str, float]:
    train, val, test = (part.recording for part in record(seed, Mixed(0.0)).split(seed))
    truth = scores_of_states(test.progress, test, 1.0).step
    heads = {
        "potential, no noise": fit_progress(train, val, epochs=epochs, seed=seed),
        "pair head, no noise": fit_steps(train, val, epochs=epochs, seed=seed),
    }
    return {
        f"{name}: step distance": pearson_distance(scores_of(head, test, 1.0).step, truth)
        for name, head in heads.items()
    }


def similarity(toy: Toy, view: View, seed: int) -> dict[str, float]:
    """Zero-shot: the goal is the episode's first scene with the box at its goal; the box alone counts, or all do."""
    _, _, test = toy.split(seed)
    firsts = np.flatnonzero(test.recording.step == 0)
    wanted = test.places[firsts]  # a copy
    wanted[:, BOX] = wanted[:, GOAL]
    scenes = view(wanted, np.random.default_rng([seed, 3]))
    scene_of = np.cumsum(test.recording.step == 0) - 1  # of every frame
    found = {}
    for name, chosen in (("box alone", [BOX]), ("all slots", [-1, *range(OBJECTS)])):
        weight = np.isin(scenes.objects, chosen).astype(np.float32)[scene_of]
        goals = Goals(scenes.slots[scene_of], np.ones(weight.shape, bool), weight)
        predictor = SlotGoalSimilarity([Columns(range(scenes.slots.shape[2]))])
        state = scores_of(predictor, test.recording, 0.99, goals).state
        found[f"goal similarity, {name}: EPIC"] = pearson_distance(state, test.recording.progress)
    return found


def stages(toy: Toy, view: View, seed: int, epochs: int) -> dict[str, float]:
    """Demonstrations of random speed: the box goes straight to the goal, three quarters of the way being the first
    stage; heads see stage marks and no progress. Backwards, a clock goes on counting."""
    rng = np.random.default_rng([seed, 4])
    places = toy.places.reshape(EPISODES, STEPS + 1, OBJECTS, 2).copy()
    way = np.cumsum(rng.exponential(size=(EPISODES, STEPS + 1)) ** rng.uniform(0.5, 3, (EPISODES, 1)), 1)
    way = (way - way[:, :1]) / (way[:, -1:] - way[:, :1])
    start, goal = places[:, :1, BOX], places[:, :1, GOAL]
    start = goal + 0.4 * (start - goal) / np.linalg.norm(start - goal, axis=-1, keepdims=True)
    places[:, :, BOX] = start + way[..., None] * (goal - start)
    vectors = view(places.reshape(-1, OBJECTS, 2), rng).slots
    whole = toy.recording
    shown = replace(whole, vectors=vectors, progress=way.ravel().astype(np.float32), success=whole.step == STEPS)
    blind = replace(shown, progress=np.full_like(shown.progress, np.nan))
    train, val, _ = blind.split(seed=seed)
    test = shown.split(seed=seed)[2]
    head = fit_stages(train, val, ends_of_stages(shown, way.ravel() > 0.75), epochs=epochs, seed=seed)
    state = scores_of(head, test, 0.99).state
    voc, _ = per_trajectory(spearman, state[backwards(test.episode)], test.step, test.episode)
    return {
        "stages: EPIC": pearson_distance(state, test.progress),
        "clock on demonstrations: EPIC": pearson_distance(test.step, test.progress),
        "stages: VOC backwards": float(voc.mean()),
        "rewound frames per frame": len(rewound(test, rng)) / len(test),
    }


def swaps(toy: Toy, seed: int, epochs: int) -> dict[str, float]:
    """A head that reads state and goal object, with and without goals swapped for other objects in training. False
    positive: a reached goal swapped for one that is not, and still worth REACHED or more."""
    train, val, test = toy.split(seed)
    found = {}
    for name, share in (("without", 0.0), ("with", 0.5)):
        head = _goal_head(train, val, share, epochs, seed)
        transition, truth = _swapped(test, torch.Generator().manual_seed(seed))
        reached = (test.recording.progress >= REACHED) & (truth < REACHED - 0.1)
        score = 1 + _hops(head, transition)
        found[f"swapped goals, {name} negatives: false positives"] = float((score >= REACHED)[reached].mean())
        plain = 1 + _hops(head, _with_goal(test))
        found[f"swapped goals, {name} negatives: EPIC"] = pearson_distance(plain, test.recording.progress)
    return found


def _goal_head(train: Toy, val: Toy, share: float, epochs: int, seed: int) -> HopReward:
    """Regress the hop from the goal object's slot to the state, progress - 1."""
    generator = torch.Generator().manual_seed(seed)
    head = fresh_head(lambda num_slots, dim: HopReward(dim), train.recording, seed)
    plain, (swapped, other) = _with_goal(train), _swapped(train, generator)
    assert plain.goal_slots is not None
    assert swapped.goal_slots is not None
    own = torch.from_numpy(train.recording.progress)
    worth_of_other = torch.from_numpy(other).float()
    check = _with_goal(val)
    target = torch.from_numpy(val.recording.progress).numpy()

    def loss(rows: torch.Tensor) -> torch.Tensor:
        swap = (torch.rand(len(rows), generator=generator) < share) & ~worth_of_other[rows].isnan()
        goal = torch.where(swap[:, None, None], swapped.goal_slots[rows], plain.goal_slots[rows])
        wanted = torch.where(swap, worth_of_other[rows], own[rows]) - 1
        return mse_loss(head(SlotTransition(goal, None, plain.slots[rows])).reward, wanted)

    def validate() -> float:
        return float(np.mean((1 + _hops(head, check) - target) ** 2))

    return optimise(head, len(own), loss, validate, generator, what="a goal head", epochs=epochs)


def _with_goal(toy: Toy) -> SlotTransition:
    slots = torch.from_numpy(toy.recording.vectors)
    column = torch.from_numpy((toy.objects == GOAL).argmax(1))
    return SlotTransition(slots, goal_slots=slots[torch.arange(len(slots)), column][:, None])


def _swapped(toy: Toy, generator: torch.Generator) -> tuple[SlotTransition, Array]:
    """Goals swapped for other slots, and the true progress towards those, NaN for slots that are no object."""
    transition = swapped_goals(_with_goal(toy), generator)
    assert transition.goal_slots is not None
    column = (transition.slots == transition.goal_slots).all(2).int().argmax(1).numpy()
    return transition, worth(toy.places, toy.objects[np.arange(len(column)), column])


def _hops(head: HopReward, transition: SlotTransition) -> NDArray[np.float32]:
    assert transition.goal_slots is not None
    valid = torch.ones(transition.goal_slots.shape[:2], dtype=torch.bool)
    return predict(head, transition.goal_slots, valid, next_slots=transition.slots)


def gates(seeds: list[dict[str, float]]) -> dict[str, bool]:
    """Every gate must hold on every seed."""
    rules: dict[str, Callable[[dict[str, float]], bool]] = {
        "deep set: EPIC <= 0.08, AUROC >= 0.95": lambda f: f["deep set: EPIC"] <= 0.08 and f["deep set: AUROC"] >= 0.95,
        "deep set better than the flattened MLP": lambda f: f["deep set: EPIC"] < f["flattened MLP: EPIC"],
        "preferences: EPIC <= 0.15": lambda f: f["preferences: EPIC"] <= 0.15,
        "goal similarity of the box <= 0.30 and below all slots": lambda f: f["goal similarity, box alone: EPIC"]
        <= min(0.30, f["goal similarity, all slots: EPIC"]),
        "random and clock in 0.66..0.75": lambda f: all(0.66 <= f[f"{n}: EPIC"] <= 0.75 for n in ("random", "clock")),
        "pair head below the potential": lambda f: f["pair head: step distance"] < f["potential: step distance"],
        "no noise: both step distances < 0.10": lambda f: max(
            f["potential, no noise: step distance"], f["pair head, no noise: step distance"]
        )
        < 0.10,
        "deep set: Spearman >= 0.6": lambda f: f["deep set: Spearman"] >= 0.6,
        "stages below the clock, VOC backwards <= -0.5": lambda f: f["stages: EPIC"]
        < f["clock on demonstrations: EPIC"]
        and f["stages: VOC backwards"] <= -0.5,
        "swapped goals: false positives halved": lambda f: f["swapped goals, with negatives: false positives"]
        <= 0.5 * f["swapped goals, without negatives: false positives"],
    }  # fmt: skip
    if "potential, no noise: step distance" not in seeds[0]:
        del rules["no noise: both step distances < 0.10"]
    return {name: all(rule(found) for found in seeds) for name, rule in rules.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--slots", default="mixed", help='"mixed", or a checkpoint: "sprites" (packaged) or a folder')
    options = parser.parse_args()
    torch.set_num_threads(1)
    mixed = options.slots == "mixed"
    view: View = Mixed(0.05) if mixed else Drawn(options.slots)
    results = []
    for seed in options.seeds:
        toy = record(seed, view)
        found = states(toy, seed, options.epochs)
        if mixed:
            found |= without_noise(seed, options.epochs)
        found |= (
            similarity(toy, view, seed) | stages(toy, view, seed, options.epochs) | swaps(toy, seed, options.epochs)
        )
        results.append(found)
        print(f"seed {seed}", {name: round(value, 3) for name, value in found.items()}, flush=True)
    for name in results[0]:
        print(f"{name:55}", *(f"{found[name]:8.3f}" for found in results))
    for name, met in gates(results).items():
        print(f"{name:62}", "met" if met else "NOT met")


if __name__ == "__main__":
    main()
