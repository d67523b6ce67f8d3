"""All sixteen games for real: skipped only where EnvPool is not installed, never because it does not load."""

import ctypes.util
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("envpool", reason='needs the extra: pip install "ocl-research[procgen]"')

from rl_probes import snapshot
from rl_probes.envs import procgen_library
from rl_probes.envs.procgen import GAMES, LEVELS, ProcgenWorld
from rl_probes.envs.procgen_scores import EASY, RANDOM

IMAGES = frozenset({"images"})


def frames(world, indices=None):
    return world.observe(IMAGES, indices).images.numpy().copy()


def play(world, actions):
    """Step and restart; what was seen after each step."""
    seen = []
    for action in actions:
        outcome = world.step(action)
        last = frames(world)
        finished = np.flatnonzero(outcome.terminated | outcome.truncated)
        if len(finished):
            world.reset(finished)
        seen.append((last, frames(world), outcome.reward, outcome.terminated, outcome.info["level_seed"]))
    return seen


def raw_pool(game, level, **options):
    """EnvPool itself, playing one level."""
    name = f"{game.capitalize()}Easy-v0"
    return procgen_library.load().make_gymnasium(
        name, num_envs=1, seed=7, num_levels=1, start_level=level, num_threads=1, **options
    )


@pytest.mark.parametrize("game", GAMES)
def test_every_game_runs_and_continues_exactly_from_its_state(game, tmp_path):
    generator = np.random.default_rng(0)
    actions = generator.integers(15, size=(180, 6))
    split = {"num_levels": 20, "start_level": 100}
    world = ProcgenWorld(game, 6, seed=3, **split)
    first = play(world, actions[:100])
    assert all(np.isfinite(reward).all() for _, _, reward, _, _ in first)
    assert all(((level >= 100) & (level < 120)).all() for *_, level in first)
    assert len({level for *_, levels in first for level in levels}) > 2
    assert np.std([last for last, *_ in first]) > 5
    world.reset(np.array([2, 5]), np.array([4, 9]))
    play(world, actions[100:110])
    snapshot.save(tmp_path / "state.safetensors", world.state())
    before, expected = frames(world), play(world, actions[110:])

    other = ProcgenWorld(game, 6, seed=3, **split)
    other.set_state(snapshot.load(tmp_path / "state.safetensors"))
    assert np.array_equal(frames(other), before)
    for one, two in zip(expected, play(other, actions[110:]), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    world.close()
    other.close()


@pytest.mark.parametrize("game", ["coinrun", "leaper"])
def test_episodes_are_those_of_envpool_without_a_dummy_step(game):
    world = ProcgenWorld(game, 8, seed=1, num_levels=50)
    generator = np.random.default_rng(1)
    steps, episodes = 300, []
    running = [([], [], level) for level in world.state()["level"]]
    for _ in range(steps):
        action = generator.choice([7, 8, 5, 1], 8, p=[0.6, 0.2, 0.1, 0.1])  # mostly to the right, or upwards
        outcome = world.step(action)
        for index in range(8):
            running[index][0].append(action[index])
            running[index][1].append(outcome.reward[index])
        finished = np.flatnonzero(outcome.terminated | outcome.truncated)
        last = frames(world)
        world.reset(finished)
        for index in finished:
            episodes.append((*running[index], last[index], outcome.info["success"][index]))
            running[index] = ([], [], world.state()["level"][index])
    assert len(episodes) >= 8
    assert sum(len(actions) for actions, *_ in episodes) + sum(len(actions) for actions, *_ in running) == 8 * steps
    for actions, rewards, level, last, success in episodes:
        pool = raw_pool(game, int(level))
        pool.reset()
        results = [pool.step(np.array([action])) for action in actions]
        ended = [bool(terminated[0] | truncated[0]) for _, _, terminated, truncated, _ in results]
        assert ended == [False] * (len(actions) - 1) + [True]
        assert [reward[0] for _, reward, *_ in results] == rewards
        assert np.array_equal(results[-1][0][0], last)
        assert success == (sum(rewards) > 0)  # both games pay exactly for reaching the goal


def test_time_running_out_is_a_truncation():
    world = ProcgenWorld("maze", 2, num_levels=5)
    for step in range(500):
        outcome = world.step(np.full(2, 4))  # 4 does nothing
        assert outcome.truncated.all() == (step == 499)
        assert not outcome.terminated.any()
    assert not outcome.info["success"].any()


def test_a_finished_environment_stands_still_until_it_is_reset():
    world = ProcgenWorld("maze", 2, num_levels=5)
    for _ in range(500):
        world.step(np.full(2, 4))
    world.reset(np.array([1]))
    before = frames(world)
    outcome = world.step(np.array([7, 7]))
    assert outcome.truncated.tolist() == [True, False]
    assert outcome.reward[0] == 0
    assert np.array_equal(frames(world)[0], before[0])
    assert world.state()["length"].tolist() == [500, 1]


@pytest.mark.parametrize("game", GAMES)
def test_a_seed_is_a_level_of_the_split(game):
    world = ProcgenWorld(game, 3, seed=2, num_levels=10, start_level=40)
    drawn = {int(world.state()["level"][index]): frame for index, frame in enumerate(frames(world))}
    level, frame = next(iter(drawn.items()))
    world.reset(np.array([1]), np.array([level - 40 + 10 * 3]))
    assert world.state()["level"][1] == level
    assert np.array_equal(frames(world)[1], frame)
    pool = raw_pool(game, level)
    assert np.array_equal(pool.reset()[0][0], frame)
    for action in np.random.default_rng(0).integers(15, size=25):
        outcome = world.step(np.full(3, action))
        raw, reward, terminated, _, info = pool.step(np.array([action]))
        assert np.array_equal(frames(world)[1], raw[0])
        assert outcome.reward[1] == reward[0]
        assert outcome.info["level_seed"][1] == info["level_seed"][0] == level
        if terminated[0]:
            break
    unlimited = ProcgenWorld(game)
    unlimited.reset(seeds=np.array([LEVELS + 12]))
    assert unlimited.state()["level"].tolist() == [12]


def test_random_play_on_fruitbot_returns_what_was_published():
    world = ProcgenWorld("fruitbot", 64, seed=1)
    generator, returns, running = np.random.default_rng(0), [[] for _ in range(64)], np.zeros(64)
    while min(map(len, returns)) < 10:  # as many episodes of each: the first to finish are the short ones
        outcome = world.step(generator.integers(15, size=64))
        running += outcome.reward
        finished = np.flatnonzero(outcome.terminated | outcome.truncated)
        for index in finished:
            returns[index].append(running[index])
        running[finished] = 0
        world.reset(finished)
    assert np.mean([each[:10] for each in returns]) == pytest.approx(-2.1, abs=0.5)


def test_shifts_of_appearance_change_pixels_and_keep_levels():
    plain = ProcgenWorld("jumper", 16, num_levels=50)
    for option in ({"use_backgrounds": False}, {"restrict_themes": True}, {"use_monochrome_assets": True}):
        shifted = ProcgenWorld("jumper", 16, num_levels=50, **option)
        assert np.array_equal(shifted.state()["level"], plain.state()["level"])
        assert np.abs(frames(shifted).astype(int) - frames(plain)).mean() > 5
        assert shifted.provenance() == plain.provenance() | option


def test_build_is_named_and_another_one_is_warned_of():
    present = procgen_library.build()
    assert present["qt"] in ("5", "6")
    assert present.items() <= ProcgenWorld("fruitbot").provenance().items()
    procgen_library.check_build(present, "this checkpoint")  # an unexpected warning would be an error below
    with pytest.warns(UserWarning, match=r"this checkpoint was made with EnvPool 0\.0 with Qt 4"):
        procgen_library.check_build({"envpool": "0.0", "qt": "4"}, "this checkpoint")


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="game must be among"):
        ProcgenWorld("pong")
    with pytest.raises(ValueError, match="distribution_mode must be among"):
        ProcgenWorld("maze", distribution_mode="insane")
    with pytest.raises(ValueError, match="plunder has no distribution_mode"):
        ProcgenWorld("plunder", distribution_mode="memory")
    with pytest.raises(ValueError, match="num_levels"):
        ProcgenWorld("maze", num_levels=-1)
    world = ProcgenWorld("maze", 2)
    with pytest.raises(ValueError, match=r"actions in 0\.\.14"):
        world.step(np.array([0, 15]))
    with pytest.raises(ValueError, match="only images"):
        world.observe(frozenset({"segmentation"}))
    with pytest.raises(ValueError, match="one seed each"):
        world.reset(np.array([0, 1]), np.array([3]))
    with pytest.raises(TypeError, match="flatnonzero"):
        world.reset(np.array([True, False]))
    with pytest.raises(ValueError, match="num_levels = 5"):
        world.set_state(ProcgenWorld("maze", 2, num_levels=5).state())
    with pytest.raises(ValueError, match="this world has 2"):
        world.set_state(ProcgenWorld("maze", 3).state())
    wrong = world.state()
    wrong["level"] = wrong["level"] + 1
    with pytest.raises(ValueError, match="other levels"):
        world.set_state(wrong)


HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {name!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Hide())
from rl_probes.envs import procgen_library
try:
    procgen_library.load()
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["envpool", "PyQt5"])
def test_what_is_missing_is_said_in_one_sentence(missing):
    run = subprocess.run([sys.executable, "-c", HIDE.format(name=missing)], capture_output=True, text=True, check=True)
    said = run.stdout.strip()
    if missing == "envpool":
        assert said == 'Procgen needs EnvPool; install it with: pip install "ocl-research[procgen]".'
    elif ctypes.util.find_library("Qt5Gui") or procgen_library.build()["qt"] != "5":
        assert said == ""  # Qt is there without the package
    else:
        assert said.startswith("Procgen needs Qt 5 (libQt5")
        assert "libqt5gui5 and libqt5core5a" in said
        assert said.count("\n") == 0


def test_published_curves_normalise_to_their_published_mean():
    """Final returns of three runs of PPO on 200 easy levels, 25 million steps: 0.60 on them, 0.35 on all levels."""
    final = {
        "coinrun": (9.5, 8.7), "starpilot": (30.0, 23.8), "caveflyer": (7.2, 5.3), "dodgeball": (5.0, 1.9),
        "fruitbot": (29.7, 26.5), "chaser": (6.6, 5.9), "miner": (12.8, 9.4), "jumper": (8.6, 5.7),
        "leaper": (6.2, 5.8), "maze": (9.3, 5.5), "bigfish": (12.1, 4.8), "heist": (7.9, 2.8),
        "climber": (8.6, 5.9), "plunder": (5.3, 4.6), "ninja": (7.7, 5.8), "bossfight": (8.3, 7.6),
    }  # fmt: skip
    assert set(final) == set(EASY) == set(RANDOM) == set(GAMES)
    assert len(GAMES) == 16
    low, high = np.array([EASY[game] for game in GAMES]).T
    normalised = (np.array([final[game] for game in GAMES]) - low[:, None]) / (high - low)[:, None]
    assert normalised.mean(axis=0) == pytest.approx([0.60, 0.35], abs=0.01)  # all figures are rounded
    assert (RANDOM["coinrun"] - 5) / 5 == pytest.approx(-0.45, abs=0.005)


def test_a_world_knows_its_published_range():
    assert ProcgenWorld("fruitbot").score_range == (-1.5, 32.4)
    assert ProcgenWorld("fruitbot", distribution_mode="hard").score_range is None
