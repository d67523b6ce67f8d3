"""PPO paid by predictors: the slots it is paid on, what telescopes, what is logged, and that it continues exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from ocl.files import read_json
from ocl.representations import OracleObjects
from ocl.shapes import Slots
from rl_probes import snapshot
from rl_probes.closing_loop import (
    AnyMovement,
    Changes,
    GivenReward,
    HackingMonitor,
    HackingWarning,
    JudgedByProgress,
    NoveltyBonus,
    OncePerState,
    PredictedReward,
    ShapedReward,
    WithBonus,
)
from rl_probes.closing_loop.hacking import Change
from rl_probes.envs.maze import MazeWorld
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectGoal
from rl_probes.envs.vector import FrozenFeatureVecEnv
from rl_probes.observation import Observer, Standardisation
from rl_probes.pooling import DeepSetPooling
from rl_probes.ppo import PPOConfig, train
from rl_probes.progress import read_progress
from rl_probes.rewards.best_so_far import BestSoFar
from rl_probes.rewards.checkpoint import save_head
from rl_probes.rewards.contract import CHECKS
from rl_probes.rewards.goal_similarity import SlotGoalSimilarity
from rl_probes.rewards.memory import remember, remembered
from rl_probes.rewards.novelty import RandomDistillation, SetNetwork
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.set_progress import DeepSetProgress
from rl_probes.rewards.shaping import PotentialShaping
from rl_probes.rewards.transition import RewardOutput, SlotTransition

SMALL = PPOConfig(n_steps=32, batch_size=64, n_epochs=2)
TIMINGS = {"seconds", "steps_per_second"}


class Counted(OracleObjects):
    """The object list, counting how many frames were encoded."""

    def __init__(self, num_objects: int = 5) -> None:
        super().__init__(num_objects, {"position": 2, "scale": 1}, {"shape": 4, "color": 4, "is_agent": 2})
        self._frames = self._calls = 0

    def encode(self, batch):
        self._frames, self._calls = self._frames + len(batch), self._calls + 1
        return super().encode(batch)


class Nearness(RewardPredictor):
    """1 - the distance between agent (is_agent) and blue square, from the slots alone."""

    kind = "potential"
    state_dependence = "state"
    bounds = (0.0, 1.0)

    def predict(self, transition: SlotTransition) -> RewardOutput:
        slots = transition.slots
        agent = (slots[..., :2] * slots[..., 12:13]).sum(1)
        blue = (slots[..., :2] * (slots[..., 7:8] * slots[..., 3:4])).sum(1)
        return RewardOutput(reward=(1 - (agent - blue).norm(dim=1) / 2).clamp(0, 1))


def vector(reward, encoder=None, num_envs=4, task="object goal", **options):
    encoder = encoder or Counted()
    world = SpriteWorld(task, num_envs, seed=0)
    paid = None if reward is None else GivenReward(reward).build(encoder, 0.99)
    return FrozenFeatureVecEnv(
        world, Observer(encoder, Standardisation.identity(encoder.dim)), step_reward=paid, **options
    )


def play(env, steps, seed=0):
    """Rewards (T B), dones (T B) and infos of random play."""
    generator = np.random.default_rng(seed)
    env.reset()
    taken = []
    for _ in range(steps):
        env.step_async(generator.integers(4, size=env.num_envs))
        taken.append(env.step_wait()[1:])
    rewards, dones, infos = zip(*taken, strict=True)
    return np.stack(rewards), np.stack(dones), infos


def head(folder, encoder=None, seed=0):
    torch.manual_seed(seed)
    made = DeepSetProgress(13, 16)
    made.encoder_fingerprint = (encoder or Counted()).fingerprint
    save_head(made.eval(), folder)
    return folder


def test_nothing_is_encoded_twice_and_the_world_s_return_stays_beside_the_predicted():
    env, plain = vector(PotentialShaping(Nearness(), 0.99)), vector(None)
    rewards, dones, infos = play(env, 300)
    true, same, plain_infos = play(plain, 300)
    assert np.array_equal(dones, same)
    assert env.observer.encoder._frames == plain.observer.encoder._frames == 301 * 4 + dones.sum()
    assert env.observer.encoder._calls == 301
    sums = np.zeros(4)
    for step in range(300):
        sums += rewards[step]
        for index in np.flatnonzero(dones[step]):
            episode, other = infos[step][index]["episode"], plain_infos[step][index]["episode"]
            assert episode["predicted"] == pytest.approx(sums[index], abs=1e-5)
            assert (episode["r"], episode["l"]) == (other["r"], other["l"])
            assert "predicted" not in other
            sums[index] = 0
    assert dones.sum() > 10
    assert (rewards != true).any()


@pytest.mark.parametrize("bootstrap", [True, False])
def test_shaping_telescopes_to_the_first_potential_where_ppo_sees_an_end(bootstrap):
    """Without discount the shaped return is the true one - Phi(s_0), + Phi(s_T) where PPO goes on from s_T."""
    nearness = Nearness()
    env = vector(PotentialShaping(nearness, 1.0), bootstrap_timeouts=bootstrap)
    generator = np.random.default_rng(1)

    def phi(observation):
        return float(nearness(SlotTransition(torch.from_numpy(observation[None, :, :-1]))).reward)

    observations = env.reset()
    first = [phi(one) for one in observations]
    ends = set()
    for step in range(400):
        # Walks into a wall every other hundred steps, so that some episodes run out of time.
        env.step_async(generator.integers(4, size=4) if step % 200 < 100 else np.zeros(4, int))
        observations, _, dones, infos = env.step_wait()
        for index in np.flatnonzero(dones):
            episode = infos[index]["episode"]
            cut = infos[index]["TimeLimit.truncated"]
            last = phi(infos[index]["terminal_observation"]) if cut else 0.0
            assert episode["predicted"] == pytest.approx(episode["r"] - first[index] + last, abs=1e-4)
            first[index] = phi(observations[index])
            ends.add((episode["l"] == 100, cut))
    assert ends == {(False, False), (True, bootstrap)}


def test_an_episode_s_memory_ends_with_it():
    """Best so far sums to max Phi - Phi(s_0) within every episode, whatever was reached in the one before."""
    env, nearness = vector(BestSoFar(Nearness())), Nearness()
    generator = np.random.default_rng(2)

    def phi(observations):
        return nearness(SlotTransition(torch.from_numpy(observations[..., :-1]))).reward.numpy()

    start = best = phi(env.reset())
    count = 0
    for _ in range(250):
        env.step_async(generator.integers(4, size=4))
        observations, _, dones, infos = env.step_wait()
        reached = phi(observations)
        for index in np.flatnonzero(dones):
            reached[index] = phi(infos[index]["terminal_observation"][None])[0]
        best = np.maximum(best, reached)
        for index in np.flatnonzero(dones):
            assert infos[index]["episode"]["predicted"] == pytest.approx(best[index] - start[index], abs=1e-5)
            count += 1
        start = np.where(dones, phi(observations), start)
        best = np.where(dones, start, best)
    assert count > 8


def run(folder, steps, reward, world=None, **options):
    world = world or SpriteWorld(ObjectGoal(), 8, seed=0)
    encoder = Counted(9 if isinstance(world, MazeWorld) else 5)
    options = {"config": SMALL, "snapshot_every": 1} | options
    return train(world, encoder, DeepSetPooling, folder=folder, total_steps=steps, reward=reward, **options)


def rewards_of(tmp_path):
    return {
        "distilled": lambda: NoveltyBonus(0.5, 1.0, 16, 8),
        "shaped": lambda: ShapedReward(head(tmp_path / "head")),
        "predicted": lambda: PredictedReward(head(tmp_path / "head"), 0.5),
        "best so far": lambda: GivenReward(BestSoFar(Nearness())),
    }


@pytest.mark.parametrize("kind", ["distilled", "shaped", "predicted", "best so far"])
def test_a_run_continues_exactly_whatever_its_reward_remembers(tmp_path, kind):
    make = rewards_of(tmp_path)[kind]
    run(tmp_path / "whole", 1536, make(), monitor=HackingMonitor(20, stop=False))
    run(tmp_path / "parts", 768, make(), monitor=HackingMonitor(20, stop=False))
    torch.randn(5)
    run(tmp_path / "parts", 1536, make(), monitor=HackingMonitor(20, stop=False))
    one, other = (snapshot.load(tmp_path / name / "snapshot.safetensors") for name in ("whole", "parts"))
    one.pop("seconds"), other.pop("seconds")
    assert json.dumps(one, default=lambda a: a.tolist()) == json.dumps(other, default=lambda a: a.tolist())
    rows, others = (read_progress(tmp_path / name / "progress.csv") for name in ("whole", "parts"))
    for row, same in zip(rows, others, strict=True):
        np.testing.assert_equal({k: v for k, v in row.items() if k not in TIMINGS},
                                {k: v for k, v in same.items() if k not in TIMINGS})  # fmt: skip
    assert np.isfinite(rows[-1]["predicted_return"])
    assert rows[-1]["predicted_return"] != rows[-1]["return"]


def test_a_seed_decides_the_reward_s_networks_and_leaves_the_policy_s_alone(tmp_path):
    def bonus(seed, name):
        run(tmp_path / name, 256, NoveltyBonus(0.5, 1.0, 16, 8), seed=seed)
        return snapshot.load(tmp_path / name / "snapshot.safetensors")["environments"]["step_reward"]["tensors"]

    torch.manual_seed(123)
    one = bonus(0, "one")
    torch.manual_seed(321)
    again, other = bonus(0, "again"), bonus(1, "other")
    assert all(np.array_equal(value, again[name]) for name, value in one.items())
    assert any(not np.array_equal(value, other[name]) for name, value in one.items())


def test_runs_of_one_scheme_and_one_monitor_know_nothing_of_each_other(tmp_path):
    scheme = GivenReward(WithBonus(RandomDistillation(13, SetNetwork(13, 16, 8), SetNetwork(13, 16, 8)), 0.5))
    monitor = HackingMonitor(20)
    found = []
    for name in ("one", "other"):
        run(tmp_path / name, 512, scheme, monitor=monitor)
        found.append(snapshot.load(tmp_path / name / "snapshot.safetensors"))
        monitor.fired_at = 512
    one, other = ({name: tree[name] for name in ("policy", "environments", "monitor")} for tree in found)
    assert json.dumps(one, default=lambda a: a.tolist()) == json.dumps(other, default=lambda a: a.tolist())
    assert len(one["monitor"]["true"]) > 0


def test_a_given_reward_is_told_by_its_goal_and_goes_where_the_encoder_is():
    class Elsewhere(Counted):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("place", torch.zeros(1, device="meta"), persistent=True)

    def goal(value):
        return Slots.of(torch.full((1, 2, 13), value))

    similarity = SlotGoalSimilarity([nn.Linear(13, 4)])
    one, same, other = (GivenReward(similarity, goal(value)) for value in (0.5, 0.5, 0.6))
    assert one.describe() == same.describe() != other.describe()
    built = one.build(Elsewhere(), 0.99)
    assert {parameter.device.type for parameter in built.predictor.parameters()} == {"meta"}
    assert built.goal.vectors.device.type == built.goal.valid.device.type == "meta"


def test_another_reward_or_monitor_does_not_continue_a_run(tmp_path):
    run(tmp_path / "run", 256, NoveltyBonus(0.5, 1.0, 16, 8))
    with pytest.raises(ValueError, match="another reward"):
        run(tmp_path / "run", 512, NoveltyBonus(0.4, 1.0, 16, 8))
    with pytest.raises(ValueError, match="another reward"):
        run(tmp_path / "run", 512, None)
    with pytest.raises(ValueError, match="another monitor"):
        run(tmp_path / "run", 512, NoveltyBonus(0.5, 1.0, 16, 8), monitor=HackingMonitor(20))
    with pytest.raises(ValueError, match="give the run a predicted"):
        run(tmp_path / "new", 256, None, monitor=HackingMonitor(20))
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert manifest["config"]["reward"]["coefficient"] == 0.5
    one, other = ShapedReward(head(tmp_path / "a", seed=0)), ShapedReward(head(tmp_path / "b", seed=1))
    assert one.describe() != other.describe()
    assert one.describe() == ShapedReward(tmp_path / "a").describe()


def test_what_cannot_be_paid_is_refused(tmp_path):
    class Undefined(Nearness):
        def predict(self, transition):
            return RewardOutput(reward=super().predict(transition).reward * torch.nan)

    env = vector(Undefined())
    env.reset()
    env.step_async(np.zeros(4, int))
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        env.step_wait()
    other = OracleObjects(5, {"position": 2}, {"shape": 4})
    with pytest.raises(ValueError, match="fitted on slots of the encoder"):
        ShapedReward(head(tmp_path / "head")).build(other, 0.99)
    with pytest.raises(FileNotFoundError):
        PredictedReward(tmp_path / "nothing")


def test_what_is_remembered_fits_its_own_predictor_only():
    bonus = RandomDistillation(4, SetNetwork(4, 8, 4), SetNetwork(4, 8, 4))
    with pytest.raises(ValueError, match="another predictor"):
        remember(BestSoFar(Nearness()), remembered(bonus))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["judged", "bonus", "movement", "once"])
def test_contract(check, name):
    torch.manual_seed(0)
    made = {
        "judged": lambda: JudgedByProgress(DeepSetProgress(8, 16).eval(), 0.9),
        "bonus": lambda: WithBonus(RandomDistillation(8, SetNetwork(8, 8, 4), SetNetwork(8, 8, 4)), 0.5),
        "movement": lambda: AnyMovement([0, 1], [2]),
        "once": lambda: OncePerState(DeepSetProgress(8, 16).eval()),
    }
    check(made[name](), 8)


class Fixed(RewardPredictor):
    """The first feature of the first slot."""

    kind = "potential"
    state_dependence = "state"
    bounds = (0.0, 1.0)

    def predict(self, transition):
        return RewardOutput(reward=transition.slots[:, 0, 0])


def test_judged_by_progress_pays_success_once_and_shapes_the_rest():
    def states(*values):
        return torch.tensor(values)[:, None, None]

    transition = SlotTransition(
        slots=states(0.2, 0.2, 0.9, 0.5),
        next_slots=states(0.4, 0.97, 0.97, 0.9),
        terminated=torch.tensor([False, False, True, True]),
    )
    reward = JudgedByProgress(Fixed(), gamma=0.9, gold_at=0.95)(transition).reward
    expected = [0.9 * 0.4 - 0.2, 0.9 * 0.97 - 0.2, 1 - 0.9, -0.5]
    torch.testing.assert_close(reward, torch.tensor(expected))
    with pytest.raises(ValueError, match="must be a potential"):
        JudgedByProgress(AnyMovement([0], [0]), 0.9)
    with pytest.raises(ValueError, match="gamma and gold_at"):
        JudgedByProgress(Fixed(), 0.9, 1.5)


def test_a_state_is_computed_once():
    class Counting(Fixed):
        states = calls = 0

        def predict(self, transition):
            Counting.states, Counting.calls = Counting.states + len(transition), Counting.calls + 1
            return super().predict(transition)

    once, plain = PotentialShaping(OncePerState(Counting()), 0.9), PotentialShaping(Fixed(), 0.9)
    generator = torch.Generator().manual_seed(0)
    slots = torch.rand(16, 2, 1, generator=generator)
    for step in range(10):
        following = torch.rand(16, 2, 1, generator=generator)
        given = SlotTransition(slots, None, following, rewards=torch.ones(16), terminated=torch.arange(16) == step)
        torch.testing.assert_close(once(given).reward, plain(given).reward, rtol=0, atol=0)
        slots = torch.where((torch.arange(16) == step)[:, None, None], torch.rand(16, 2, 1), following)
    assert Counting.states == 16 + 10 * 16 + 9  # the first s, every s', and the first s of 9 new episodes
    assert Counting.calls == 10  # both states of a step in one batch
    with pytest.raises(ValueError, match="more than the slots of one state"):
        OncePerState(AnyMovement([0], [0]))


def test_a_bonus_is_added_to_what_the_world_pays():
    transition = SlotTransition(
        slots=torch.full((3, 1, 1), 0.1),
        next_slots=torch.tensor([[[0.5]], [[0.25]], [[1.0]]]),
        rewards=torch.tensor([0.0, 1.0, 2.0]),
    )
    assert WithBonus(Fixed(), 2.0)(transition).reward.tolist() == [1.0, 1.5, 4.0]  # read at s'
    assert WithBonus(Fixed(), 0.0)(transition).reward.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="coefficient"):
        WithBonus(Fixed(), -1.0)


def test_any_movement_of_the_chosen_pays_and_nothing_else_does():
    slots = torch.tensor([[[0.2, 0.3, 1.0], [0.5, 0.5, 0.0]]]).repeat(4, 1, 1)
    following = slots.clone()
    following[1, 0, 0] += 0.05  # towards
    following[2, 0, 0] -= 0.05  # or away
    following[3, 1, 1] += 0.05  # another object
    reward = AnyMovement([0, 1], [2])(SlotTransition(slots, next_slots=following.flip(1))).reward
    assert reward.tolist() == pytest.approx([0.0, 0.01, 0.01, 0.0])
    with pytest.raises(ValueError, match="needs columns"):
        AnyMovement([], [2])
    push = SpriteWorld("push", 64, seed=0)
    encoder, predictor = Counted(), AnyMovement([0, 1], [7, 3])
    before, blue = encoder(push.observe(encoder.requires)), push.position[np.arange(64), push.target].copy()
    for action in np.random.default_rng(0).integers(4, size=(40, 64)):
        push.step(action)
        after = encoder(push.observe(encoder.requires))
        paid = predictor(SlotTransition(before.vectors, next_slots=after.vectors)).reward.numpy() > 0
        now = push.position[np.arange(64), push.target].copy()
        assert np.array_equal(paid, np.abs(now - blue).max(1) > 1e-4)
        before, blue = after, now


def test_coverage_of_a_maze_is_logged(tmp_path):
    world = MazeWorld(8, seed=0)
    run(tmp_path / "run", 512, NoveltyBonus(0.1, 1.0, 16, 8), world)
    rows = read_progress(tmp_path / "run" / "progress.csv")
    assert rows[-1]["coverage"] == pytest.approx(world.coverage(), rel=1e-5)
    assert rows[0]["coverage"] < rows[-1]["coverage"] < 1
    assert world.visits.sum() == 8 + 8 + 512  # made, started, played; random play beforehand leaves nothing behind


class Suspicious(HackingMonitor):
    """Fires once 512 steps are done."""

    def check(self, steps):
        if steps < 512:
            return None
        self.fired_at = self.fired_at or steps
        return Changes(40, Change(1.0, 0.5, 1.5), Change(-1.0, -1.5, -0.5))


@pytest.mark.parametrize("stop", [True, False])
def test_the_verdict_is_noted_and_ends_the_run_where_it_should(tmp_path, stop):
    def go(steps):
        return run(tmp_path, steps, GivenReward(Nearness()), monitor=Suspicious(20, stop=stop))

    with pytest.warns(HackingWarning, match="training stops" if stop else "training goes on"):
        go(1024)
    rows = read_progress(tmp_path / "progress.csv")
    assert [row["hacking"] for row in rows] == [0.0, 1.0] + [1.0] * (0 if stop else 2)
    noted = read_json(tmp_path / "manifest.json")["hacking"]
    assert (noted["fired_at"], noted["episodes"], noted["true"]["high"]) == (512, 40, -0.5)
    assert (tmp_path / "agent.safetensors").is_file()
    go(2048)  # warns no second time
    assert snapshot.load(tmp_path / "snapshot.safetensors")["steps"] == (512 if stop else 2048)


@pytest.mark.slow
def test_a_reward_for_any_movement_is_found_out_and_stops_the_run(tmp_path):
    """The agent is paid for its own movement; touching an object ends the episode, so that it learns to touch none and
    loses what random play solves, a quarter."""

    with pytest.warns(HackingWarning, match="training stops"):
        run(
            tmp_path,
            80_000,
            GivenReward(AnyMovement([0, 1], [12])),
            SpriteWorld(ObjectGoal(), 32, seed=0),
            config=PPOConfig(batch_size=512),
            snapshot_every=100,
            monitor=HackingMonitor(400, 2),
        )
    rows = read_progress(tmp_path / "progress.csv")
    assert rows[-1]["hacking"] == 1
    assert rows[-1]["steps"] < 80_000
    assert all(row["hacking"] == 0 for row in rows[:-1])
    noted = read_json(tmp_path / "manifest.json")["hacking"]
    assert noted["fired_at"] == rows[-1]["steps"]
    assert noted["predicted"]["low"] > 0 > noted["true"]["high"]


@pytest.mark.slow
def test_a_sound_reward_is_left_alone(tmp_path):
    """Nearness in the place of the world's reward: the agent solves more and more, and the monitor keeps silent."""
    run(
        tmp_path,
        60_000,
        GivenReward(JudgedByProgress(Nearness(), 0.99, gold_at=0.9)),
        SpriteWorld(ObjectGoal(), 32, seed=0),
        config=PPOConfig(batch_size=512),
        snapshot_every=100,
        monitor=HackingMonitor(400, 2),
    )
    rows = read_progress(tmp_path / "progress.csv")
    assert all(row["hacking"] == 0 for row in rows)
    assert rows[-1]["steps"] >= 60_000
    assert rows[-1]["success"] > 0.6
    assert "hacking" not in read_json(tmp_path / "manifest.json")
