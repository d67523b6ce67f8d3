import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from rl_probes.envs.sprite_env import TASKS, SpriteEnv
from rl_probes.envs.tasks import ObjectGoal

IDS = [f"ocl/{task.__name__}-v0" for task in TASKS]


@pytest.mark.parametrize("name", IDS)
def test_env_checkers_find_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name, render_mode="rgb_array").unwrapped)
        check_env_for_sb3(gymnasium.make(name).unwrapped)


@pytest.mark.parametrize("name", IDS)
def test_same_seed_gives_the_same_frames(name):
    def first_frames(seed):
        env = gymnasium.make(name)
        actions = np.random.default_rng(0).integers(4, size=20)
        frames = [env.reset(seed=seed)[0]]
        for action in actions:
            frame, _, terminated, truncated, _ = env.step(action)
            frames.append(env.reset()[0] if terminated or truncated else frame)
        return np.stack(frames)

    assert first_frames(3).tobytes() == first_frames(3).tobytes()
    assert first_frames(3).tobytes() != first_frames(4).tobytes()


def test_an_episode_reports_success_once_the_target_is_touched():
    env = SpriteEnv(ObjectGoal(), image_size=32, render_mode="rgb_array")
    frame, info = env.reset(seed=0)
    assert frame.shape == (32, 32, 3)
    assert 0 < info["progress"] < 1
    env.world.position[:] = 5.0
    env.world.position[0, env.world.target[0]] = [0.5, 0.66]
    frame, reward, terminated, truncated, info = env.step(np.int64(0))
    assert (reward, terminated, truncated, info["is_success"], info["progress"]) == (1.0, True, False, True, 1.0)
    assert np.array_equal(env.render(), frame)
    with pytest.raises(ValueError, match="render_mode"):
        SpriteEnv(ObjectGoal(), render_mode="human")
