"""PPO on blended rewards: the gradients that move the weights, and that a run continues exactly."""

import json

import numpy as np
import pytest
import torch

from ocl.representations import OracleObjects
from rl_probes import snapshot
from rl_probes.closing_loop import AnyMovement, BlendedReward, BlendLearner, GivenReward, NoveltyBonus
from rl_probes.closing_loop.blend import returns_to_go, without_others
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectGoal
from rl_probes.envs.vector import FrozenFeatureVecEnv
from rl_probes.observation import Observer, Standardisation
from rl_probes.pooling import DeepSetPooling
from rl_probes.ppo import PPOConfig, build, train
from rl_probes.progress import read_progress

SMALL = PPOConfig(n_steps=16, batch_size=64, n_epochs=1)
AGENT = 12  # the column that says so


def encoder():
    return OracleObjects(5, {"position": 2, "scale": 1}, {"shape": 4, "color": 4, "is_agent": 2})


def movement(amount=0.01):
    return GivenReward(AnyMovement([0, 1], [AGENT], amount))


def run(folder, steps, reward):
    world = SpriteWorld(ObjectGoal(), 8, seed=0)
    options = {"config": SMALL, "snapshot_every": 1}
    return train(world, encoder(), DeepSetPooling, folder=folder, total_steps=steps, reward=reward, **options)


def test_returns_to_go_end_with_the_episode():
    rewards = torch.tensor([[1.0], [2.0], [4.0], [8.0]])[:, None]  # (T n B)
    ended = torch.tensor([[False], [True], [False], [False]])
    assert returns_to_go(rewards, ended, 0.5).flatten().tolist() == [2.0, 2.0, 8.0, 8.0]


def test_the_baseline_is_the_mean_of_the_other_environments():
    returns = torch.randn(3, 7, 5)
    found = without_others(returns)
    for b in range(5):
        others = [c for c in range(5) if c != b]
        torch.testing.assert_close(found[..., b], returns[..., b] - returns[..., others].mean(-1))
    assert torch.equal(without_others(returns[..., :1]), returns[..., :1])


def test_the_weights_move_along_what_the_rollouts_taught():
    """Against gradients taken by hand, environment by environment, from what the world itself reports."""
    reward = BlendedReward([movement(0.5)], [1.0, 2.0], rate=3.0)
    paid = reward.build(encoder(), 0.9)
    observer = Observer(encoder(), Standardisation.identity(encoder().dim))
    env = FrozenFeatureVecEnv(SpriteWorld(ObjectGoal(), 8, seed=0), observer, step_reward=paid)
    model = build(env, DeepSetPooling, PPOConfig(n_steps=32, batch_size=64, gamma=0.9), seed=0)
    learner = reward.learner(paid)
    _, callback = model._setup_learn(10**6)
    gradients, endings = [], 0
    for _ in range(3):
        model.collect_rollouts(env, callback, model.rollout_buffer, 32)
        kept = torch.stack(paid.predictor._steps)  # (T 2 B)
        buffer = model.rollout_buffer
        ended = np.concatenate([buffer.episode_starts[1:], model._last_episode_starts[None]]).astype(bool)
        endings += ended.sum()
        # PPO was paid the blend, and no values beside it: time runs out after 100 steps, later than this.
        blend = torch.einsum("tnb,n->tb", kept, paid.predictor.weights)
        np.testing.assert_allclose(buffer.rewards, blend.numpy(), atol=1e-6)
        sums = np.zeros((2, 32, 8))
        for component in range(2):
            for b in range(8):
                total = 0.0
                for t in reversed(range(32)):
                    total = float(kept[t, component, b]) + (0.0 if ended[t, b] else 0.9 * total)
                    sums[component, t, b] = total
        advantage = sums - (sums.sum(2, keepdims=True) - sums) / 7
        rows = []
        for component in range(2):
            flat = torch.as_tensor(buffer.observations).flatten(0, 1), torch.as_tensor(buffer.actions).flatten()
            log_probability = model.policy.evaluate_actions(*flat)[1]
            loss = (log_probability * torch.as_tensor(advantage[component]).flatten()).mean()
            parts = torch.autograd.grad(loss, list(model.policy.parameters()), materialize_grads=True)
            rows.append(torch.cat([part.flatten() for part in parts]))
        gradients.append(torch.stack(rows).float())
        before = paid.predictor.weights.clone()
        figures = learner.step(model)
        model.train()
    moved = paid.predictor.weights - before
    expected = 3.0 * (gradients[-2] @ gradients[-1][0])
    assert endings > 5
    assert expected.abs().min() > 1e-5
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=3e-7)
    assert list(figures.values()) == paid.predictor.weights.tolist()


def test_a_run_continues_exactly_and_logs_its_weights(tmp_path):
    def make():
        return BlendedReward([movement(), NoveltyBonus(0.5, 1.0, 16, 8)], [1.0, 0.5, 0.25], rate=0.1)

    run(tmp_path / "whole", 768, make())
    run(tmp_path / "parts", 384, make())
    torch.randn(5)
    run(tmp_path / "parts", 768, make())
    one, other = (snapshot.load(tmp_path / name / "snapshot.safetensors") for name in ("whole", "parts"))
    one.pop("seconds"), other.pop("seconds")
    assert json.dumps(one, default=lambda a: a.tolist()) == json.dumps(other, default=lambda a: a.tolist())
    rows = read_progress(tmp_path / "whole" / "progress.csv")
    assert [rows[0][f"blend_weight_{i}"] for i in range(3)] == [1.0, 0.5, 0.25]
    assert all(rows[-1][f"blend_weight_{i}"] != rows[0][f"blend_weight_{i}"] for i in range(3))
    with pytest.raises(ValueError, match="another reward"):
        run(tmp_path / "parts", 1024, BlendedReward([movement()], [1.0, 0.5], rate=0.1))


def test_a_rate_of_zero_leaves_the_weights_alone(tmp_path):
    run(tmp_path, 384, BlendedReward([movement()], [1.0, 0.5], rate=0.0))
    rows = read_progress(tmp_path / "progress.csv")
    assert {(row["blend_weight_0"], row["blend_weight_1"]) for row in rows} == {(1.0, 0.5)}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: BlendedReward([], [1.0], 0.1), "needs designed rewards"),
        (lambda: BlendedReward([movement()], [1.0], 0.1), "1 rewards and 1 weights"),
        (lambda: BlendedReward([movement()], [1.0, 1.0], -0.1), "finite and not negative"),
        (lambda: BlendLearner(movement().build(encoder(), 0.9), 0.1), "only an AlignedBlend"),
        (lambda: BlendedReward([movement()], [1.0, 1.0], 0.1).predictor(encoder(), 0.9).taken(), "kept no transition"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
