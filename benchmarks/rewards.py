"""What predicted rewards cost: their share of a step of PPO with 64 environments, and EPIC on 512 x 512 pairs.

python benchmarks/rewards.py [--rollouts 5] [--slots objects | sprites | folder]

Seconds of the processor, in one process and with one thread, so that other programs count little; medians over
rollouts, each collected and trained on. Push with the default settings of PPO, on the object list, beside which
nothing is cheap (there is no encoder to run), or on the slots of a checkpoint, such as the packaged "sprites".
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import ocl
from ocl.representations import ObjectEncoder, OracleObjects
from rl_probes.closing_loop import GivenReward, JudgedByProgress, NoveltyBonus, OncePerState, RewardScheme
from rl_probes.distances import epic_sampled
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.vector import FrozenFeatureVecEnv
from rl_probes.observation import Observer, Standardisation
from rl_probes.pooling import DeepSetPooling
from rl_probes.ppo import PPOConfig, build
from rl_probes.rewards.function import RewardFunction
from rl_probes.rewards.hop_reward import HopReward
from rl_probes.rewards.pairs_of_states import PairsOfStates
from rl_probes.rewards.set_progress import DeepSetProgress
from rl_probes.rewards.shaping import PotentialShaping
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import SlotTransition

Head = TypeVar("Head", bound=SlotHead)
ENVIRONMENTS = 64
GAMMA = PPOConfig().gamma


def objects() -> OracleObjects:
    return OracleObjects(5, {"position": 2, "scale": 1}, {"shape": 4, "color": 4, "is_agent": 2})


def of_encoder(head: Head, encoder: ObjectEncoder) -> Head:
    head.encoder_fingerprint = encoder.fingerprint
    return head.eval()


def progress(encoder: ObjectEncoder) -> OncePerState:
    return OncePerState(of_encoder(DeepSetProgress(encoder.dim), encoder))


def pair(encoder: ObjectEncoder) -> HopReward:
    return of_encoder(HopReward(encoder.dim), encoder)


class Timed(RewardFunction):
    """Counts the seconds that it takes."""

    seconds = 0.0

    def __call__(self, *given: Any, **fields: Any) -> NDArray[np.float32]:
        start = time.process_time()
        paid = super().__call__(*given, **fields)
        self.seconds += time.process_time() - start
        return paid


def rollout(reward: RewardScheme, encoder: ObjectEncoder) -> Callable[[], tuple[float, float]]:
    """A function that collects and trains one rollout and returns milliseconds per step of all environments: of the
    reward, and of everything else."""
    timed = Timed(reward.build(encoder, GAMMA).predictor, encoder, None, None)
    env = FrozenFeatureVecEnv(
        SpriteWorld("push", ENVIRONMENTS),
        Observer(encoder, Standardisation.identity(encoder.dim)),
        step_reward=timed,
    )
    config = PPOConfig()
    model = build(env, DeepSetPooling, config, seed=0)
    _, callback = model._setup_learn(10**9)

    def run() -> tuple[float, float]:
        start, before = time.process_time(), timed.seconds
        model.collect_rollouts(env, callback, model.rollout_buffer, config.n_steps)
        model.train()
        own = timed.seconds - before
        return 1000 * own / config.n_steps, 1000 * (time.process_time() - start - own) / config.n_steps

    return run


@torch.inference_mode()
def seconds_of_epic(kind: str, apart: int = 1, pairs: int = 512) -> float:
    """EPIC between a predicted and another reward on `pairs` transitions, every state with every pair of the pool.

    States are indices, so that a potential is computed once per state however many pairs it is in; a head that reads
    two states at once has to see every pair, but embeds every state once. Steps that follow each other (`apart` 1) have
    pairs + 1 states, steps drawn from anywhere (`apart` = pairs) twice as many.
    """
    generator = np.random.default_rng(0)
    slots = torch.from_numpy(generator.normal(size=(2 * pairs, 5, objects().dim)).astype(np.float32))
    place = slots[:, 0, :2].numpy()
    start = time.process_time()
    if kind == "potential":
        values = progress(objects())(SlotTransition(slots)).reward.numpy()
    else:
        between = PairsOfStates(pair(objects()), slots)

    def predicted(s: np.ndarray, a: np.ndarray, then: np.ndarray) -> np.ndarray:
        if kind == "potential":
            return GAMMA * values[then] - values[s] + (a == 0)
        return between(s, a, then)

    def movement(s: np.ndarray, a: np.ndarray, then: np.ndarray) -> np.ndarray:
        return np.abs(place[then] - place[s]).sum(1)

    states, following, actions = np.arange(pairs), apart + np.arange(pairs), generator.integers(4, size=pairs)
    epic_sampled(predicted, movement, states, actions, following, GAMMA, pairs=pairs)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=5, help="of each variant, after one that is not counted")
    parser.add_argument("--slots", default="objects", help='"objects", or a checkpoint: "sprites" (packaged), a folder')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder: ObjectEncoder = objects() if arguments.slots == "objects" else ocl.load(arguments.slots)
    variants = {
        "shaped by progress": GivenReward(PotentialShaping(progress(encoder), GAMMA)),
        "judged by progress": GivenReward(JudgedByProgress(progress(encoder), GAMMA)),
        "pair of states": GivenReward(pair(encoder)),
        "random distillation (learns)": NoveltyBonus(),
        "the same, width 64 instead of 128": NoveltyBonus(width=64),
    }
    table = Table(title=f"PPO on {arguments.slots}, {ENVIRONMENTS} environments: milliseconds per step")
    for column in ("reward", "its own", "all else", "added"):
        table.add_column(column, justify="left" if column == "reward" else "right")
    for name, reward in variants.items():
        run = rollout(reward, encoder)
        run()
        own, rest = np.median([run() for _ in range(arguments.rollouts)], axis=0)
        table.add_row(name, f"{own:.2f}", f"{rest:.1f}", f"{100 * own / rest:.1f} %")
    Console().print(table)
    if arguments.slots != "objects":
        return
    for kind in ("potential", "pair of states"):
        for apart, steps in ((1, "steps in a row"), (512, "steps from anywhere")):
            print(f"EPIC on 512 x 512 pairs, {kind}, {steps}: {seconds_of_epic(kind, apart):.2f} s")


if __name__ == "__main__":
    main()
