"""A small experiment with known answers: pushing a box, seen as shuffled, linearly mixed, noisy oracle slots."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from rl_probes.distances import CHANCE, pearson_distance
from rl_probes.evaluate_rewards import auroc, evaluate_progress, spearman_per_trajectory, table
from rl_probes.fit_rewards import fit_progress
from rl_probes.predictions import predict_recording
from rl_probes.recording import Recording
from rl_probes.rewards.goal_similarity import SlotGoalSimilarity
from rl_probes.rewards.hop_reward import HopReward
from rl_probes.rewards.set_progress import DeepSetProgress, FlattenedProgress, PooledProgress
from rl_probes.rewards.transition import SlotTransition

EPISODES, STEPS, SLOTS, DIM = 500, 60, 6, 16
AGENT, BOX, GOAL = 0, 1, 2  # the other three are distractors
REACH, CLOSE = 0.1, 0.15
MOVES = 0.05 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])


def push_world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (E T+1 6 2) and progress (E T+1). An agent that steps at a box pushes it; it acts at random, and with a
    probability of each episode's own so as to bring the box to the goal. Progress is one minus their distance."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(0.1, 0.9, (EPISODES, SLOTS, 2))
    skill = rng.uniform(0, 0.5, EPISODES)
    frames = [position]
    for _ in range(STEPS):
        outcomes = np.stack([moved(position, move) for move in MOVES])  # (4 E 6 2)
        box_to_goal = outcomes[:, :, BOX] - outcomes[:, :, GOAL]
        behind = outcomes[:, :, BOX] + REACH * box_to_goal / np.linalg.norm(box_to_goal, axis=-1, keepdims=True)
        agent_away = np.linalg.norm(outcomes[:, :, AGENT] - behind, axis=-1)
        good = (np.linalg.norm(box_to_goal, axis=-1) + 0.1 * agent_away).argmin(0)
        action = np.where(rng.random(EPISODES) < skill, good, rng.integers(4, size=EPISODES))
        position = outcomes[action, np.arange(EPISODES)]
        frames.append(position)
    positions = np.stack(frames, 1)
    distance = np.linalg.norm(positions[:, :, BOX] - positions[:, :, GOAL], axis=-1)
    return positions, 1 - distance / 2**0.5


def moved(position: np.ndarray, move: np.ndarray) -> np.ndarray:
    """(E 6 2) after a move (2); the box goes along when the agent gets within reach and came towards it."""
    after = position.copy()
    after[:, AGENT] = np.clip(position[:, AGENT] + move, 0, 1)
    to_box = position[:, BOX] - after[:, AGENT]
    pushed = (np.linalg.norm(to_box, axis=1) < REACH) & (to_box @ move > 0)
    after[:, BOX] = np.clip(position[:, BOX] + pushed[:, None] * move, 0, 1)
    return after


def encoded(positions: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """(... 6 2) -> (... 6 D): position about the centre and one-hot kind, rotated into D dimensions, plus `noise` times
    the standard deviation of the features."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, 2 + SLOTS)))[0].T
    kinds = np.broadcast_to(np.eye(SLOTS), (*positions.shape[:-1], SLOTS))
    features = np.concatenate([positions - 0.5, kinds], -1) @ rotation
    return features + noise * features.std() * rng.normal(size=features.shape)


@cache
def record(seed: int, noise: float = 0.05) -> Recording:
    """500 episodes of 60 steps as shuffled slots."""
    rng = np.random.default_rng([seed, 1])
    positions, progress = push_world(seed)
    features = encoded(positions, noise, rng).reshape(-1, SLOTS, DIM)
    count = len(features)
    order = rng.random((count, SLOTS)).argsort(1)
    step = np.tile(np.arange(STEPS + 1, dtype=np.int32), EPISODES)
    return Recording(
        vectors=np.take_along_axis(features, order[..., None], 1).astype(np.float16),
        valid=np.ones((count, SLOTS), bool),
        action=np.zeros(count, np.int32),
        reward=np.zeros(count, np.float32),
        progress=progress.ravel().astype(np.float32),
        terminated=np.zeros(count, bool),
        truncated=step == STEPS,
        success=progress.ravel() > 1 - CLOSE / 2**0.5,
        episode=np.repeat(np.arange(EPISODES), STEPS + 1),
        step=step,
        fingerprint=f"toy-{seed}",
    )


def flattened(num_slots, dim):
    return FlattenedProgress(dim, num_slots)


@pytest.mark.parametrize("seed", range(3))
def test_a_deep_set_learns_the_progress_and_the_controls_do_not(seed):
    """The gates of a progress head on oracle slots, beside chance at 0.707."""
    train, val, test = record(seed).split(seed=seed)
    heads = {"deep_set": fit_progress(train, val, epochs=8, seed=seed)}
    heads["flattened_mlp"] = fit_progress(train, val, flattened, epochs=8, seed=seed)
    rows = evaluate_progress(heads, test, seed=seed, resamples=200)
    value = {row["name"].removeprefix("reward/"): row["value"] for row in rows}
    assert value["deep_set/epic"] <= 0.08
    assert value["deep_set/success_auroc"] >= 0.95
    assert value["deep_set/spearman"] >= 0.6
    # The noise of two frames exceeds what a step changes: far better than chance, far worse than the states themselves.
    assert 0.2 < value["deep_set/step_distance"] < 0.6
    assert value["flattened_mlp/epic"] > value["deep_set/epic"]
    for control in ("random", "clock", "constant"):
        assert 0.66 < value[f"{control}/epic"] < 0.75
    assert value["oracle/epic"] < 1e-6
    assert value["oracle/success_auroc"] == 1
    assert value["trajectories_without_change"] > 0
    for row in rows:
        assert {"name", "value", "unit", "seed", "split"} <= set(row)
        if "low" in row:
            assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
    assert table(rows).row_count == 6


def test_controls_are_fitted_on_the_training_episodes():
    """The mean of slots mixes up whose place is whose, so a head for sets beats it as it beats the flattened slots."""
    train, val, test = record(0).split(seed=0)
    head = fit_progress(train, val, epochs=4, seed=0)
    rows = evaluate_progress({"deep_set": head}, test, resamples=20, train=train, control_epochs=4)
    value = {row["name"].removeprefix("reward/"): row["value"] for row in rows}
    for control in ("flattened_mlp", "pooled_mlp"):
        assert value["deep_set/epic"] < value[f"{control}/epic"] < CHANCE + 0.02
    assert table(rows).row_count == 7
    without = {row["name"]: row["value"] for row in evaluate_progress({"deep_set": head}, test, resamples=20)}
    assert without["reward/deep_set/epic"] == value["deep_set/epic"]
    assert "reward/pooled_mlp/epic" not in without
    with pytest.raises(ValueError, match="share episodes"):
        evaluate_progress({}, test, train=test)
    with pytest.raises(ValueError, match="clock is the name of a control"):
        evaluate_progress({"clock": head}, test)


@pytest.mark.parametrize("count", [1, 4])
def test_the_pooled_control_reads_the_mean_of_valid_slots_alone(count):
    head = PooledProgress(DIM).eval()
    slots = torch.randn(3, 6, DIM)
    valid = torch.arange(6).expand(3, 6) < count
    mean = slots[:, :count].mean(1, keepdim=True)
    expected = head(SlotTransition(mean)).reward
    torch.testing.assert_close(head(SlotTransition(slots, valid)).reward, expected)


def test_without_noise_single_steps_are_right_too():
    train, val, test = record(0, noise=0.0).split(seed=0)
    head = fit_progress(train, val, epochs=12, seed=0)
    rows = evaluate_progress({"deep_set": head}, test, resamples=10)
    value = {row["name"]: row["value"] for row in rows}
    assert value["reward/deep_set/step_distance"] < 0.15


@pytest.mark.parametrize("seed", range(3))
def test_the_relevant_goal_slot_beats_the_whole_goal_scene(seed):
    """Zero-shot: a goal scene is the episode's last with the box at the goal; only the box's slot matters."""
    rng = np.random.default_rng(seed)
    positions, progress = push_world(seed)
    goal = positions[:, -1:].copy()
    goal[:, :, BOX] = goal[:, :, GOAL]
    goal = np.broadcast_to(encoded(goal, 0.05, rng), (EPISODES, STEPS + 1, SLOTS, DIM))
    vectors = torch.from_numpy(encoded(positions, 0.05, rng)).flatten(0, 1)
    goal_slots = torch.from_numpy(goal.copy()).flatten(0, 1)
    relevant = torch.zeros(len(vectors), SLOTS)
    relevant[:, BOX] = 1.0
    similarity = SlotGoalSimilarity([torch.nn.Identity()])

    def distance(weight):
        transition = SlotTransition(vectors, goal_slots=goal_slots, goal_weight=weight)
        return pearson_distance(similarity(transition).reward.numpy(), progress.ravel())

    assert distance(relevant) <= 0.30
    assert distance(relevant) < distance(None) - 0.05


# Fitting


def test_fitting_is_a_function_of_its_seed():
    train, val, test = record(0).split((0.06, 0.02, 0.92), seed=0)
    first, again, other = (predict_recording(fit_progress(train, val, epochs=2, seed=s), test) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_head_refuses_another_encoders_slots():
    train, val, _ = record(0).split((0.06, 0.02, 0.92), seed=0)
    head = fit_progress(train, val, epochs=1)
    assert head.encoder_fingerprint == "toy-0"
    with pytest.raises(ValueError, match="fitted on slots of the encoder toy-0, these come from toy-1"):
        predict_recording(head, record(1))
    with pytest.raises(ValueError, match="train comes from the encoder toy-0, val from toy-1"):
        fit_progress(train, record(1))
    with pytest.raises(ValueError, match="share episodes"):
        fit_progress(train, train)


def test_unknown_progress_is_refused_or_left_out():
    whole = record(0)
    unknown = replace(whole, progress=np.full(len(whole), np.nan, np.float32))
    train, val, test = unknown.split(seed=0)
    with pytest.raises(ValueError, match="known progress"):
        fit_progress(train, val)
    with pytest.raises(ValueError, match="known progress"):
        evaluate_progress({}, test)
    first_frames = replace(whole, progress=np.where(whole.step == 0, np.nan, whole.progress))
    rows = {row["name"]: row["value"] for row in evaluate_progress({}, first_frames, resamples=10)}
    later = whole.take(whole.step > 0)
    expected = {row["name"]: row["value"] for row in evaluate_progress({}, later, resamples=10)}
    for name in ("reward/clock/epic", "reward/clock/step_distance", "reward/clock/spearman"):
        assert rows[name] == pytest.approx(expected[name], abs=1e-12)


def test_episodes_of_one_frame_have_values_but_no_steps():
    whole = record(0)
    first = whole.take(whole.step == 0)
    heads = {"state": DeepSetProgress(first.vectors.shape[2]), "step": HopReward(first.vectors.shape[2])}
    for head in heads.values():
        head.encoder_fingerprint = first.fingerprint
    rows = {row["name"]: row["value"] for row in evaluate_progress(heads, first, resamples=10)}
    assert 0 <= rows["reward/state/epic"] <= 1
    assert rows["reward/step/epic"] == pytest.approx(CHANCE)  # the sum of no steps is a constant
    assert np.isnan([rows[f"reward/{name}/step_distance"] for name in (*heads, "clock")]).all()
    with pytest.raises(ValueError, match="gamma must be in"):
        evaluate_progress({}, whole, gamma=7.0)


def test_a_recording_is_split_by_episode():
    parts = record(0).split((0.7, 0.15, 0.15), seed=5)
    names = [set(part.episode) for part in parts]
    assert [len(name) for name in names] == [350, 75, 75]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    first, second = parts[1].pairs()
    assert len(first) == 75 * STEPS
    assert (parts[1].episode[first] == parts[1].episode[second]).all()
    assert (parts[1].step[second] == parts[1].step[first] + 1).all()
    with pytest.raises(ValueError, match="cannot be split"):
        record(0).take(record(0).episode < 2).split()


# Metrics against other implementations


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_equals_scikit_learn(ties):
    rng = np.random.default_rng(0)
    for count in (10, 100, 2000):
        score = rng.normal(size=count)
        score = score.round() if ties else score
        positive = rng.random(count) < 0.3
        positive[:2] = True, False
        assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    assert np.isnan(auroc([0.1, 0.2], [True, True]))


def test_spearman_equals_scipy_and_counts_what_it_drops():
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(20), 30)
    truth = rng.integers(0, 5, 600).astype(float)  # ties
    score = truth + rng.normal(size=600)
    truth[episodes == 3] = 0.5
    score[episodes == 4] = 0.5
    found, dropped = spearman_per_trajectory(score, truth, episodes)
    assert dropped == 1
    expected = [
        spearmanr(score[episodes == e], truth[episodes == e])[0] if e != 4 else 0.0 for e in range(20) if e != 3
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
