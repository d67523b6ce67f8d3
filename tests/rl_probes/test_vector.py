"""Features are computed once per step, outside the policy, terminal frames included; time-outs as asked."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ocl.representations import ObjectEncoder, RandomCNN
from ocl.shapes import Batch, Slots
from rl_probes import ppo
from rl_probes.agent import Agent
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.vector import FrozenFeatureVecEnv, RewardScaling, random_play_statistics
from rl_probes.envs.world import Outcome
from rl_probes.observation import Observer, Standardisation
from rl_probes.pooling import DeepSetPooling, FlattenPooling
from rl_probes.ppo import PPOConfig


class Chain:
    """Two states that alternate whatever the action; entering state 0 pays 1. Ends after `horizon` steps by time-out
    (or, `lethal`, by termination). Environment i starts in state i % 2 at every reset."""

    num_actions = 2
    image_size = (8, 8)
    fields = frozenset({"images", "objects"})

    def __init__(self, num_envs: int = 4, horizon: int = 3, lethal: bool = False) -> None:
        self.num_envs, self.horizon, self.lethal = num_envs, horizon, lethal
        self.position = np.zeros(num_envs, np.int64)
        self.time = np.zeros(num_envs, np.int64)
        self.resets = 0

    def reset(self, indices=None, seeds=None) -> None:
        indices = np.arange(self.num_envs) if indices is None else indices
        self.position[indices] = indices % 2
        self.time[indices] = 0
        self.resets += len(indices)

    def step(self, actions) -> Outcome:
        assert (self.time < self.horizon).all(), "stepped a finished environment"
        self.position = 1 - self.position
        self.time += 1
        over = self.time == self.horizon
        never = np.zeros(self.num_envs, bool)
        reward = (self.position == 0).astype(np.float32)
        info = {"success": self.position == 0}
        return Outcome(reward, over if self.lethal else never, never if self.lethal else over, info)

    def observe(self, fields, indices=None) -> Batch:
        indices = np.arange(self.num_envs) if indices is None else indices
        images = torch.zeros(len(indices), 3, *self.image_size, dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.from_numpy(self.position[indices] * 255).to(torch.uint8)
        images[:, 0, 0, 1] = torch.from_numpy(self.time[indices]).to(torch.uint8)
        return Batch(images, objects={"state": torch.from_numpy(self.position[indices, None])})

    def state(self) -> dict[str, Any]:
        return {"position": self.position.copy(), "time": self.time.copy()}

    def set_state(self, state) -> None:
        self.position, self.time = state["position"].copy(), state["time"].copy()

    def close(self) -> None: ...


class CountingEncoder(ObjectEncoder):
    """A small convolutional encoder with dropout and batch norm, which counts what it is asked."""

    num_slots, dim = 3, 5

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(512, 15),
        )
        self.calls = self.images = 0
        self.train()

    def encode(self, batch: Batch) -> Slots:
        self.calls += 1
        self.images += len(batch)
        assert not any(module.training for module in self.modules())
        return Slots.of(self.layers(batch.images.float() / 255).view(-1, 3, 5))

    def describe(self) -> str:
        return "CountingEncoder"


class StateEncoder(ObjectEncoder):
    """The chain's state as a one-hot vector."""

    requires = frozenset({"objects"})
    num_slots, dim = 1, 2

    def encode(self, batch: Batch) -> Slots:
        return Slots.of(nn.functional.one_hot(batch.objects["state"], 2).float())

    def describe(self) -> str:
        return "StateEncoder"


def observer(encoder: ObjectEncoder) -> Observer:
    return Observer(encoder, Standardisation.identity(encoder.dim))


@pytest.mark.parametrize("n_epochs", [1, 7])
def test_encoder_runs_once_per_step_and_stays_frozen(tmp_path, n_epochs):
    encoder = CountingEncoder()
    before = encoder.fingerprint
    world = Chain(num_envs=8, horizon=20)
    env = FrozenFeatureVecEnv(world, observer(encoder))
    config = PPOConfig(n_steps=40, batch_size=64, n_epochs=n_epochs)
    model = ppo.build(env, DeepSetPooling, config, seed=0)
    assert encoder.fingerprint == before  # orthogonal initialisation did not reach it
    _, callback = model._setup_learn(960)
    encoder.calls = encoder.images = 0
    for _ in range(3):
        model.collect_rollouts(env, callback, model.rollout_buffer, config.n_steps)
        model.train()
    assert encoder.calls == 120
    assert encoder.images == 120 * 8 + 6 * 8  # every frame once, and the 6 terminal frames of each environment
    assert encoder.images / 960 <= 1.1
    assert encoder.fingerprint == before
    assert not encoder.training

    ours = {id(tensor) for tensor in encoder.parameters()}
    assert ours.isdisjoint(id(tensor) for tensor in model.policy.parameters())
    assert ours.isdisjoint(id(tensor) for group in model.policy.optimizer.param_groups for tensor in group["params"])
    path = Agent(env.observer, model.policy).save(tmp_path / "agent.safetensors")
    policy_bytes = sum(4 * tensor.numel() for tensor in model.policy.parameters())
    assert policy_bytes < path.stat().st_size < policy_bytes + 8192  # nothing else of any size is in it


def test_terminal_observation_equals_a_direct_encode():
    encoder = CountingEncoder()
    world = Chain(num_envs=4, horizon=3)
    env = FrozenFeatureVecEnv(world, observer(encoder))
    env.reset()
    shadow = Chain(num_envs=4, horizon=3)
    shadow.reset()
    for step in range(1, 10):
        observations, _, dones, infos = env.step(np.zeros(4, np.int64))
        shadow.step(np.zeros(4, np.int64))
        assert observations.shape == (4, 3, 6)
        assert dones.all() == dones.any() == (step % 3 == 0)
        if step % 3 == 0:
            terminal = env.observer(shadow.observe(frozenset({"images"})))
            for index in range(4):
                assert infos[index]["terminal_observation"].shape == (3, 6)
                np.testing.assert_allclose(infos[index]["terminal_observation"], terminal[index], atol=1e-6)
            shadow.reset()
        np.testing.assert_allclose(observations, env.observer(shadow.observe(frozenset({"images"}))), atol=1e-6)


def test_episode_statistics_and_success():
    env = FrozenFeatureVecEnv(Chain(num_envs=2, horizon=3), observer(StateEncoder()))
    env.reset()
    for _ in range(2):
        _, _, _, infos = env.step(np.zeros(2, np.int64))
        assert infos == [{}, {}]
    _, _, _, infos = env.step(np.zeros(2, np.int64))
    # Environment 0 visits 1 0 1, environment 1 visits 0 1 0.
    assert [info["episode"] for info in infos] == [{"r": 1.0, "l": 3}, {"r": 2.0, "l": 3}]
    assert [info["is_success"] for info in infos] == [False, True]


@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.0, 0.7])
def test_targets_at_timeouts_equal_the_hand_computation(bootstrap, gae_lambda):
    gamma, horizon, steps = 0.9, 3, 6
    env = FrozenFeatureVecEnv(Chain(num_envs=2, horizon=horizon), observer(StateEncoder()), bootstrap)
    config = PPOConfig(n_steps=steps, batch_size=12, gamma=gamma, gae_lambda=gae_lambda)
    model = ppo.build(env, FlattenPooling, config, seed=3)
    _, callback = model._setup_learn(12)
    model.collect_rollouts(env, callback, model.rollout_buffer, steps)

    both = torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]]])
    with torch.no_grad():
        value = model.policy.predict_values(both).flatten().tolist()  # of state 0 and state 1
    assert abs(value[0] - value[1]) > 1e-2  # so that a wrong terminal observation would show
    for index in range(2):
        for start in (0, horizon):  # two episodes, each ended by a time-out; the second also ends the rollout
            states = [(index + t) % 2 for t in range(horizon + 1)]
            target = 0.0
            for t in reversed(range(horizon)):
                last = t == horizon - 1
                after = (value[states[t + 1]] if bootstrap else 0.0) if last else value[states[t + 1]]
                reward = float(states[t + 1] == 0)
                if last:
                    target = reward + gamma * after
                else:
                    target = reward + gamma * ((1 - gae_lambda) * after + gae_lambda * target)
                assert model.rollout_buffer.returns[start + t, index] == pytest.approx(target, abs=1e-5)


def test_learned_value_is_that_of_the_endless_chain_only_with_bootstrapping():
    gamma = 0.8
    learned = {}
    for bootstrap in (True, False):
        env = FrozenFeatureVecEnv(Chain(num_envs=16, horizon=4), observer(StateEncoder()), bootstrap)
        config = PPOConfig(n_steps=16, batch_size=64, gamma=gamma, n_epochs=8, learning_rate=3e-3)
        model = ppo.build(env, FlattenPooling, config, seed=0)
        _, callback = model._setup_learn(16 * 16 * 60)
        for _ in range(60):
            model.collect_rollouts(env, callback, model.rollout_buffer, 16)
            model.train()
        with torch.no_grad():
            states = torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]]])
            learned[bootstrap] = model.policy.predict_values(states).flatten().numpy()
    # From state 1 the reward comes at once: V(1) = 1 / (1 - gamma^2), V(0) = gamma V(1).
    np.testing.assert_allclose(learned[True], [gamma / (1 - gamma**2), 1 / (1 - gamma**2)], rtol=0.05)
    # With the time-out as the end, the best case is the start of an episode: 1 + gamma^2.
    assert learned[False][1] < 1 + gamma**2


def test_termination_is_never_bootstrapped():
    env = FrozenFeatureVecEnv(Chain(num_envs=2, horizon=3, lethal=True), observer(StateEncoder()))
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.zeros(2, np.int64))
    assert dones.all()
    assert not any(info["TimeLimit.truncated"] for info in infos)


def test_no_dummy_transition():
    """Transitions seen by the learner equal the sum of episode lengths."""
    world = Chain(num_envs=4, horizon=5)
    env = FrozenFeatureVecEnv(world, observer(StateEncoder()))
    env.reset()
    finished = 0
    for _ in range(50):
        _, _, _, infos = env.step(np.zeros(4, np.int64))
        finished += sum(info["episode"]["l"] for info in infos if "episode" in info)
    assert finished == 200
    assert world.resets == 4 + 40


def test_first_minibatch_ratio_is_one_despite_dropout_in_the_encoder():
    encoder = CountingEncoder()
    env = FrozenFeatureVecEnv(Chain(num_envs=8, horizon=7), observer(encoder))
    model = ppo.build(env, partial(DeepSetPooling, width=64), PPOConfig(n_steps=64, batch_size=256), seed=0)
    _, callback = model._setup_learn(512)
    model.collect_rollouts(env, callback, model.rollout_buffer, 64)
    model.policy.set_training_mode(True)
    data = next(model.rollout_buffer.get(256))
    _, log_prob, _ = model.policy.evaluate_actions(data.observations, data.actions.long().flatten())
    assert (torch.exp(log_prob - data.old_log_prob) - 1).abs().max() < 1e-6


def test_state_round_trip_continues_exactly():
    def build() -> FrozenFeatureVecEnv:
        return FrozenFeatureVecEnv(
            Chain(num_envs=4, horizon=5), observer(StateEncoder()), reward_scaling=RewardScaling(0.9)
        )

    one, other = build(), build()
    one.reset()
    for _ in range(7):
        one.step(np.zeros(4, np.int64))
    other.reset()
    other.set_state(one.state())
    for _ in range(9):
        first, second = one.step(np.zeros(4, np.int64)), other.step(np.zeros(4, np.int64))
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
        assert [info.get("episode") for info in first[3]] == [info.get("episode") for info in second[3]]


def test_reward_scaling_equals_the_direct_computation():
    generator = np.random.default_rng(0)
    rewards = generator.normal(size=(50, 3)).astype(np.float32) * 20
    dones = generator.random((50, 3)) < 0.1
    scaling = RewardScaling(0.99)
    # The reference keeps every discounted return and computes the variance of all of them at once.
    returns, current = [], np.zeros(3)
    for reward, done in zip(rewards, dones, strict=True):
        current = current * 0.99 + reward
        returns.append(current.copy())
        current[done] = 0.0
        scaled = scaling(reward, done)
        variance = np.concatenate(returns).var()
        np.testing.assert_allclose(scaled, np.clip(reward / np.sqrt(variance), -10, 10), rtol=1e-3)


def test_bad_input_is_refused():
    class NeedsMasks(StateEncoder):
        requires = frozenset({"segmentation"})

    with pytest.raises(ValueError, match="segmentation"):
        FrozenFeatureVecEnv(Chain(), observer(NeedsMasks()))

    class Broken(StateEncoder):
        def encode(self, batch: Batch) -> Slots:
            return Slots.of(torch.full((len(batch), 1, 2), torch.nan))

    env = FrozenFeatureVecEnv(Chain(), observer(Broken()))
    with pytest.raises(ValueError, match="NaN"):
        env.reset()

    class Pays(Chain):
        def step(self, actions) -> Outcome:
            return super().step(actions)._replace(reward=np.array([0, np.nan, 0, 0], np.float32))

    paying = FrozenFeatureVecEnv(Pays(), observer(StateEncoder()))
    paying.reset()
    with pytest.raises(ValueError, match="Pays paid a reward that is NaN"):
        paying.step(np.zeros(4, np.int64))

    class WrongShape(StateEncoder):
        def encode(self, batch: Batch) -> Slots:
            return Slots.of(torch.zeros(len(batch), 2, 2))

    with pytest.raises(ValueError, match="expected"):
        FrozenFeatureVecEnv(Chain(), observer(WrongShape())).reset()
    with pytest.raises(ValueError, match="features"):
        Observer(StateEncoder(), Standardisation.identity(3))
    with pytest.raises(ValueError, match="divide"):
        ppo.build(FrozenFeatureVecEnv(Chain(), observer(StateEncoder())), FlattenPooling, PPOConfig(batch_size=300), 0)


def test_standardisation_is_per_feature_over_valid_slots():
    generator = np.random.default_rng(0)
    vectors = generator.normal([1.0, -5.0, 3.0], [0.1, 20.0, 0.0], (500, 4, 3)).astype(np.float32)
    valid = np.ones((500, 4), bool)
    valid[:, 3] = False
    vectors[:, 3] = 1e6  # padding must not count
    standardisation = Standardisation.of(vectors, valid)
    scaled = (vectors[:, :3] - standardisation.mean) / standardisation.std
    np.testing.assert_allclose(scaled.mean(axis=(0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=(0, 1)), [1, 1, 0], atol=1e-4)  # the constant feature stays finite
    # A permutation of the slots changes nothing: the mean belongs to the feature, not to the place.
    again = Standardisation.of(vectors[:, [2, 0, 1, 3]], valid)
    np.testing.assert_allclose(again.mean, standardisation.mean, rtol=1e-6)
    with pytest.raises(ValueError, match="no valid slot"):
        Standardisation.of(vectors, np.zeros_like(valid))


def test_a_pooling_that_knows_places_has_the_mean_of_every_place():
    generator = np.random.default_rng(0)
    place = generator.normal(size=(3, 2)) * 20.0  # a position embedding, beside which images differ by little
    vectors = (place + generator.normal(0, [0.1, 0.3], (400, 3, 2))).astype(np.float32)
    valid = np.ones((400, 3), bool)
    valid[:100, 1] = valid[:, 2] = False
    vectors[~valid] = np.nan
    found = Standardisation.of(vectors, valid, by_place=True)
    np.testing.assert_allclose(found.mean[0], vectors[:, 0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.mean[1], vectors[100:, 1].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(found.mean[2], [0, 0])  # never there
    apart = np.concatenate([vectors[:, 0] - found.mean[0], vectors[100:, 1] - found.mean[1]])
    np.testing.assert_allclose(found.std, apart.std(0), rtol=1e-3)
    Observer(RandomCNN((16, 16), dim=4), Standardisation(np.ones((16, 4)), np.full(4, 2.0)))
    with pytest.raises(ValueError, match="16 slots of 4 features"):
        Observer(RandomCNN((16, 16), dim=4), Standardisation(np.ones((4, 4)), np.ones(4)))


def test_agents_on_flattened_cells_are_told_images_apart_and_others_places(tmp_path):
    """An untrained convolutional encoder adds its position embedding: by feature, hardly anything else is left."""
    world = SpriteWorld("object goal", num_envs=16, image_size=64)
    encoder = RandomCNN((64, 64), dim=8, strides=(2, 2, 2, 1))
    spread = {}
    for pooling in (FlattenPooling, DeepSetPooling):
        options = {"folder": tmp_path / pooling.__name__, "config": PPOConfig(n_steps=16, batch_size=64)}
        agent = ppo.train(world, encoder, pooling, total_steps=256, **options)
        seen = agent.observer.of_slots(agent.observer.slots(world.observe(encoder.requires)))[..., :-1]
        spread[pooling] = float(np.square(seen.std(axis=0)).mean())  # between images, at one place
    assert 0.5 < spread[FlattenPooling] < 2
    assert spread[DeepSetPooling] < 0.2


def test_random_play_leaves_the_world_untouched():
    world = Chain(num_envs=4, horizon=3)
    world.reset()
    world.step(np.zeros(4, np.int64))
    before = world.state()
    standardisation = random_play_statistics(world, StateEncoder(), frames=60)
    np.testing.assert_allclose(standardisation.mean, [0.5, 0.5])
    np.testing.assert_allclose(standardisation.std, [0.5, 0.5])
    for name, value in before.items():
        np.testing.assert_array_equal(world.state()[name], value)
