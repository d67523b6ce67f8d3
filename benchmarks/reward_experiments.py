"""Small experiments with known answers: what each kind of training buys, with gates, over three seeds.

    python benchmarks/reward_experiments.py [--seeds 0 1 2] [--epochs 12]

A box is pushed among shuffled slots whose features (place and kind) are rotated into 16 dimensions, with noise of 5 %
of their deviation: 500 episodes of 60 steps, 70 % for training. Prints one row per figure with its gate.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import mse_loss

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

EPISODES, STEPS, SLOTS, DIM = 500, 60, 6, 16
AGENT, BOX, GOAL = 0, 1, 2  # the other three are distractors
REACH, CLOSE, REACHED = 0.1, 0.15, 0.9
MOVES = 0.05 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, 2 + SLOTS)))[0].T
Array = NDArray[np.float64]


class Toy(NamedTuple):
    """A recording with what it hides: places (n 6 2), and which object each slot is (n 6)."""

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


def encoded(places: Array, noise: float, rng: np.random.Generator) -> Array:
    """(... 6 2) -> (... 6 D)."""
    kinds = np.broadcast_to(np.eye(SLOTS), (*places.shape[:-1], SLOTS))
    features = np.concatenate([places - 0.5, kinds], -1) @ ROTATION
    return np.asarray(features + noise * features.std() * rng.normal(size=features.shape))


def record(seed: int, noise: float) -> Toy:
    """The agent acts at random, and with a probability of each episode's own so as to bring the box to the goal."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0.1, 0.9, (EPISODES, SLOTS, 2))
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
    every = np.stack(frames, 1).reshape(-1, SLOTS, 2)
    order = rng.random(every.shape[:2]).argsort(1)
    progress = worth(every, GOAL)
    step = np.tile(np.arange(STEPS + 1, dtype=np.int32), EPISODES)
    vectors = np.take_along_axis(encoded(every, noise, rng), order[..., None], 1)
    recording = Recording(
        vectors=vectors.astype(np.float16),
        valid=np.ones(order.shape, bool),
        action=np.zeros(len(every), np.int32),
        reward=np.zeros(len(every), np.float32),
        progress=progress.astype(np.float32),
        terminated=np.zeros(len(every), bool),
        truncated=step == STEPS,
        success=progress > 1 - CLOSE / 2**0.5,
        episode=np.repeat(np.arange(EPISODES), STEPS + 1),
        step=step,
        fingerprint=f"toy-{seed}-{noise}",
    )
    return Toy(recording, every, order)


def worth(places: Array, goal: int | NDArray[np.int64]) -> Array:
    """Progress (n) of the box towards an object, one for all or one for each."""
    wanted = places[np.arange(len(places)), goal]
    return np.asarray(1 - np.linalg.norm(places[:, BOX] - wanted, axis=-1) / 2**0.5)


def states(seed: int, epochs: int) -> dict[str, float]:
    """Progress from single states and pairs of states, from preferences, and from nothing."""
    toy = record(seed, 0.05)
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
    train, val, test = (part.recording for part in record(seed, 0.0).split(seed))
    truth = scores_of_states(test.progress, test, 1.0).step
    heads = {
        "potential, no noise": fit_progress(train, val, epochs=epochs, seed=seed),
        "pair head, no noise": fit_steps(train, val, epochs=epochs, seed=seed),
    }
    return {
        f"{name}: step distance": pearson_distance(scores_of(head, test, 1.0).step, truth)
        for name, head in heads.items()
    }


def similarity(seed: int) -> dict[str, float]:
    """Zero-shot: the goal is the episode's first scene with the box at its goal; the box alone counts, or all do."""
    _, _, toy = record(seed, 0.05).split(seed)
    wanted = toy.places[np.arange(len(toy.places)) - toy.recording.step]  # a copy
    wanted[:, BOX] = wanted[:, GOAL]
    vectors = encoded(wanted, 0.05, np.random.default_rng([seed, 3])).astype(np.float16)
    found = {}
    for name, chosen in (("box alone", [BOX]), ("all slots", list(range(SLOTS)))):
        weight = np.zeros(toy.objects.shape, np.float32)
        weight[:, chosen] = 1.0
        goals = Goals(vectors, np.ones(weight.shape, bool), weight)
        predictor = SlotGoalSimilarity([Columns(range(DIM))])
        state = scores_of(predictor, toy.recording, 0.99, goals).state
        found[f"goal similarity, {name}: EPIC"] = pearson_distance(state, toy.recording.progress)
    return found


def stages(seed: int, epochs: int) -> dict[str, float]:
    """Demonstrations of random speed: the box goes straight to the goal, three quarters of the way being the first
    stage; heads see stage marks and no progress. Backwards, a clock goes on counting."""
    rng = np.random.default_rng([seed, 4])
    toy = record(seed, 0.05)
    places = toy.places.reshape(EPISODES, STEPS + 1, SLOTS, 2).copy()
    way = np.cumsum(rng.exponential(size=(EPISODES, STEPS + 1)) ** rng.uniform(0.5, 3, (EPISODES, 1)), 1)
    way = (way - way[:, :1]) / (way[:, -1:] - way[:, :1])
    start, goal = places[:, :1, BOX], places[:, :1, GOAL]
    start = goal + 0.4 * (start - goal) / np.linalg.norm(start - goal, axis=-1, keepdims=True)
    places[:, :, BOX] = start + way[..., None] * (goal - start)
    flat = places.reshape(-1, SLOTS, 2)
    vectors = np.take_along_axis(encoded(flat, 0.05, rng), toy.objects[..., None], 1).astype(np.float16)
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


def swaps(seed: int, epochs: int) -> dict[str, float]:
    """A head that reads state and goal object, with and without goals swapped for other objects in training. False
    positive: a reached goal swapped for one that is not, and still worth REACHED or more."""
    train, val, test = record(seed, 0.05).split(seed)
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
        swap = torch.rand(len(rows), generator=generator) < share
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
    """Goals swapped for other objects, and the true progress towards those."""
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
    rules = {
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
    return {name: all(rule(found) for found in seeds) for name, rule in rules.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for seed in options.seeds:
        found = states(seed, options.epochs) | without_noise(seed, options.epochs) | similarity(seed)
        found |= stages(seed, options.epochs) | swaps(seed, options.epochs)
        results.append(found)
        print(f"seed {seed}", {name: round(value, 3) for name, value in found.items()}, flush=True)
    for name in results[0]:
        print(f"{name:55}", *(f"{found[name]:8.3f}" for found in results))
    for name, met in gates(results).items():
        print(f"{name:62}", "met" if met else "NOT met")


if __name__ == "__main__":
    main()
