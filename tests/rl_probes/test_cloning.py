"""Weighted by progress, cloning takes over what the good players did and not what the bad ones did."""

import numpy as np
import pytest
import torch

from ocl.representations import OracleObjects
from rl_probes.cloning import ActionHead, ClonedPlayer, clone, progress_gains
from rl_probes.collect import collect
from rl_probes.envs.scripted import expert_actions
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectGoal
from rl_probes.players import Scripted
from rl_probes.recording import Recording
from rl_probes.rewards.contract import CHECKS

STEPS = 7
ENCODER = OracleObjects(3, {"position": 2}, {"shape": 4, "color": 4, "is_agent": 2})


def demonstrations(count: int, seed: int) -> Recording:
    """Short episodes: a third of the players goes to the target, the others straight away from it."""
    rng = np.random.default_rng(seed)
    world = SpriteWorld(ObjectGoal(2), count, 8)
    world.reset(seeds=rng.integers(2**40, size=count))
    good = np.arange(count) % 3 == 0
    frames = []
    action = np.full(count, -1)
    for _ in range(STEPS):
        slots = ENCODER(world.observe(ENCODER.requires))
        frames.append((slots.vectors.numpy().copy(), world.progress().copy(), action.copy()))
        best = expert_actions(world)
        action = np.where(good, best, (best + 2) % 4)
        world.step(action)
    vectors, progress, actions = (np.stack(part, 1) for part in zip(*frames, strict=True))
    flat = count * STEPS
    nothing = np.zeros(flat, bool)
    return Recording(
        vectors=vectors.reshape(flat, 3, -1).astype(np.float16),
        valid=np.ones((flat, 3), bool),
        action=actions.ravel().astype(np.int32),
        reward=np.zeros(flat, np.float32),
        progress=progress.ravel().astype(np.float32),
        terminated=nothing,
        truncated=np.tile(np.arange(STEPS) == STEPS - 1, count),
        success=nothing,
        episode=np.repeat(np.arange(count), STEPS),
        step=np.tile(np.arange(STEPS, dtype=np.int32), count),
        fingerprint=ENCODER.fingerprint,
    )


def success(head: ActionHead) -> float:
    world = SpriteWorld(ObjectGoal(2), 64, 8)
    world.reset(seeds=np.arange(64))
    player, solved, over = ClonedPlayer(head, ENCODER), np.zeros(64, bool), np.zeros(64, bool)
    for _ in range(25):
        outcome = world.step(player(world))
        solved |= outcome.info["success"] & ~over
        over |= outcome.terminated
    return float(solved.mean())


def test_weights_by_progress_pick_the_good_players():
    recording = demonstrations(1200, 0)
    train, val, _ = recording.split((0.8, 0.1, 0.1))
    plain = success(clone(train, val, 4, epochs=8))
    weighted = success(clone(train, val, 4, lambda part: part.progress, horizon=2, epochs=8))
    assert plain < 0.3, "most players went away from the target"
    assert weighted > 0.6


def test_gains_stop_at_the_end_of_an_episode():
    recording = demonstrations(3, 0)
    gains = progress_gains(recording, recording.progress, horizon=5)
    first, _ = recording.pairs()
    for step, frame in enumerate(first):
        end = min(recording.step[frame] + 5, STEPS - 1) - recording.step[frame]
        assert gains[step] == pytest.approx(recording.progress[frame + end] - recording.progress[frame])
    with pytest.raises(ValueError, match="gains need progress"):
        progress_gains(recording, recording.progress[:-1], 5)


def test_bad_input_is_refused():
    recording = demonstrations(30, 0)
    train, val, _ = recording.split()
    with pytest.raises(ValueError, match=r"actions in 0\.\.2"):
        clone(train, val, 3)
    with pytest.raises(ValueError, match="nothing to clone"):
        clone(train, val, 4, lambda part: -part.step.astype(float))
    with pytest.raises(ValueError, match="finite gains"):
        clone(train, val, 4, lambda part: np.full(len(part), np.nan))
    with pytest.raises(ValueError, match="fit a head of its own"):
        ClonedPlayer(ActionHead(12, 4), ENCODER)


def test_a_cloned_player_collects_and_is_told_from_another(tmp_path):
    heads = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        heads.append(ActionHead(ENCODER.dim, 4))
        heads[-1].encoder_fingerprint = ENCODER.fingerprint
    one, again, other = (Scripted(ClonedPlayer(head, ENCODER)) for head in (heads[0], heads[0], heads[1]))
    assert one.describe() == again.describe() != other.describe()
    collect(SpriteWorld(ObjectGoal(2), 4, 8), tmp_path, "goal", 40, players=[one], epsilon=(0, 0), length=10)
    assert len(np.unique(Recording.load(tmp_path).action)) > 1
    with pytest.raises(ValueError, match="differs in players"):
        collect(SpriteWorld(ObjectGoal(2), 4, 8), tmp_path, "goal", 40, players=[other], epsilon=(0, 0), length=10)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(ActionHead(8, 4).eval(), dim=8)
