"""Predictors learn what their labels say: of steps, demonstrations, preferences; negatives do what they are for."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch

from rl_probes.distances import pearson_distance
from rl_probes.fit_rewards import (
    deep_set,
    fit_preferences,
    fit_progress,
    fit_stages,
    fit_steps,
    flattened,
    gain_of_progress,
    hop_of_progress,
    reward_of_step,
)
from rl_probes.labels import (
    ends_of_stages,
    ends_without_marks,
    fragments,
    stage_labels_of,
    with_discounted_success,
    with_return_progress,
)
from rl_probes.negatives import clipped, minimally_edited, rewound, swapped_goals
from rl_probes.predictions import order_leak, predict_recording, predict_steps
from rl_probes.recording import Goals, Recording
from rl_probes.rewards.transition import SlotTransition

EPISODES, SLOTS = 200, 3


@cache
def walks(seed: int = 0, shuffle: bool = True) -> Recording:
    """A walker (kind 1) goes from a distance of one to a mark (kind 0) beside a bystander (kind -1), each slot a place
    and a kind, in steps of random size, some of them back; progress is one minus the distance."""
    rng = np.random.default_rng(seed)
    parts = []
    for episode in range(EPISODES):
        done = rng.random() < 0.7
        way = np.cumsum(rng.choice([-0.1, 0.0, 0.1, 0.2], 100))
        way = np.concatenate([[0.0], np.clip(way, 0, 1)])
        length = int(np.argmax(way >= (1.0 if done else rng.uniform(0.2, 0.8)))) + 1
        way = way[:length, None]
        mark, other = np.zeros(2), rng.uniform(-1, 1, 2)
        angle = rng.uniform(0, 2 * np.pi)
        start = mark + [np.cos(angle), np.sin(angle)]
        place = np.stack([start + way * (mark - start), np.tile(mark, (length, 1)), np.tile(other, (length, 1))], 1)
        slots = np.concatenate([place, np.tile([[1.0], [0.0], [-1.0]], (length, 1, 1))], 2)
        order = rng.random((length, SLOTS)).argsort(1) if shuffle else np.tile(np.arange(SLOTS), (length, 1))
        distance = np.linalg.norm(place[:, 0] - place[:, 1], axis=1)
        last = np.arange(length) == length - 1
        progress = 1 - distance
        parts.append(
            {
                "vectors": np.take_along_axis(slots, order[..., None], 1).astype(np.float16),
                "valid": np.ones((length, SLOTS), bool),
                "action": np.where(np.arange(length) == 0, -1, 0).astype(np.int32),
                "reward": np.diff(progress, prepend=progress[0]).astype(np.float32),
                "progress": progress.astype(np.float32),
                "terminated": last & done,
                "truncated": last & (not done),
                "success": last & done,
                "episode": np.full(length, episode),
                "step": np.arange(length, dtype=np.int32),
            }
        )
    return Recording(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, fingerprint="toy")


@pytest.mark.parametrize("target", [hop_of_progress, reward_of_step])
def test_a_pair_head_learns_what_steps_are_worth(target):
    train, val, test = walks().split()
    head = fit_steps(train, val, target, epochs=25)
    found, first, second = predict_steps(head, test)
    assert pearson_distance(found, target(test, first, second)) < 0.2  # chance 0.707
    assert head.encoder_fingerprint == "toy"


def test_wider_gaps_and_balance_are_fits_of_the_same_thing():
    train, val, test = walks().split()
    head = fit_steps(train, val, gain_of_progress, gaps=(1, 4, 8), balance=True, epochs=10)
    found, first, second = predict_steps(head, test)
    assert pearson_distance(found, gain_of_progress(test, first, second)) < 0.3
    still = replace(train, progress=np.full_like(train.progress, 0.5))
    with pytest.raises(ValueError, match="there is nothing to learn"):
        fit_steps(still, val)
    with pytest.raises(ValueError, match="must lie in"):
        fit_steps(replace(train, reward=5 * np.ones_like(train.reward)), val, reward_of_step)


def test_stages_are_learned_from_demonstrations_alone():
    """The first stage is half of the way, whatever time it took: the labels of demonstrations, no progress."""
    recording = walks()
    ends = ends_of_stages(recording, recording.progress > 0.5)
    assert set(ends) == set(recording.episode[recording.success].tolist())
    train, val, test = replace(recording, progress=np.full_like(recording.progress, np.nan)).split()
    head = fit_stages(train, val, ends, epochs=25)
    assert head.shares.sum().item() == pytest.approx(1)
    truth = recording.progress[np.isin(recording.episode, test.episode)]
    assert pearson_distance(predict_recording(head, test), truth) < 0.25
    with pytest.raises(ValueError, match="at least one demonstration"):
        fit_stages(train, val, {})


def test_one_stage_is_the_share_of_the_time():
    recording = walks()
    labels = stage_labels_of(recording, ends_without_marks(recording))
    for name in np.unique(recording.episode):
        frames = recording.episode == name
        if recording.success[frames].any():
            assert labels[frames] == pytest.approx(np.linspace(0, 1, frames.sum()))
        else:
            assert np.isnan(labels[frames]).all()


def test_falling_back_undoes_no_stage_and_a_skipped_one_is_none():
    recording = walks().take(np.arange(0))  # of the right types
    lengths = {1: [0, 0, 1, 0, 1, 2], 2: [0, 0, 2, 2], 3: [0, 1, 1]}
    step = np.concatenate([np.arange(len(one)) for one in lengths.values()])
    last = np.isin(np.arange(len(step)), np.cumsum([len(one) for one in lengths.values()]) - 1)
    count = len(step)
    values = {
        field.name: np.zeros((count, *getattr(recording, field.name).shape[1:])) for field in fields(recording)[:-1]
    }
    values |= {"step": step, "episode": np.repeat([1, 2, 3], [6, 4, 3]), "terminated": last, "success": last}
    values["valid"] = np.ones((count, SLOTS), bool)
    values["truncated"] = np.zeros(count, bool)
    ends = ends_of_stages(Recording(**values), np.concatenate(list(lengths.values())))
    assert ends == {1: [2, 5, 5]} or ends == {}  # stage 2 begins with the last frame: it has no share
    assert 2 not in ends


def test_preferences_order_states():
    train, val, test = walks().split()
    head = fit_preferences(train, val, pairs=400, length=6, epochs=6)
    assert pearson_distance(predict_recording(head, test), test.progress) < 0.35
    with pytest.raises(ValueError, match="no episode of the recording has 500 frames"):
        fit_preferences(train, val, length=500)


def test_fragments_stay_in_their_episodes():
    recording = walks()
    chosen = fragments(recording, 200, 12, np.random.default_rng(0))
    assert chosen.shape == (200, 12)
    assert (recording.episode[chosen] == recording.episode[chosen[:, :1]]).all()
    assert (np.diff(recording.step[chosen], axis=1) == 1).all()


def test_progress_of_returns():
    recording = walks()
    found = with_return_progress(recording, 0.0, 0.5).progress
    for name in np.unique(recording.episode)[:10]:
        frames = recording.episode == name
        expected = np.clip(np.cumsum(recording.reward[frames]) / 0.5, 0, 1)
        assert found[frames] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="begins after its first frame"):
        with_return_progress(recording.take(recording.step > 0), 0, 1)
    with pytest.raises(ValueError, match="a step has no reward"):
        with_return_progress(rewound(recording, np.random.default_rng(0)), 0, 1)


def test_discounted_success_is_the_discounted_return_of_a_task_that_pays_one_for_success():
    recording = walks()
    cut = recording.take(recording.step < 5)  # most episodes lose their ends
    for part in (recording, cut):
        found = with_discounted_success(part, 0.9).progress
        for name in np.unique(part.episode):
            frames = np.flatnonzero(part.episode == name)
            ended = bool(part.terminated[frames[-1]] | part.truncated[frames[-1]])
            value, expected = float(part.success[frames[-1]]), []
            for _ in frames:  # backwards, v(s_t) = 0.9 v(s_t+1)
                expected.append(value if ended else np.nan)
                value *= 0.9
            assert found[frames] == pytest.approx(expected[::-1], abs=1e-6, nan_ok=True)
    assert np.isnan(with_discounted_success(cut, 0.9).progress).any()
    ones = with_discounted_success(recording, 1.0).progress  # without a discount: whether it ends well
    assert set(ones[~np.isnan(ones)].tolist()) == {0.0, 1.0}
    for discount in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"discount must be in \(0, 1\]"):
            with_discounted_success(recording, discount)


def test_clips_end_before_the_end_and_keep_their_labels():
    recording = walks()
    found = clipped(recording, np.random.default_rng(0))
    assert not found.success.any()
    assert not found.terminated.any()
    assert len(found.finals()) == EPISODES
    for name in np.unique(recording.episode):
        whole, part = recording.episode == name, found.episode == name
        assert 1 <= part.sum() < whole.sum()
        np.testing.assert_array_equal(found.progress[part], recording.progress[whole][: part.sum()])
    joined = recording.joined(found, found)
    assert len(np.unique(joined.episode)) == 3 * EPISODES
    assert len(joined) == len(recording) + 2 * len(found)


def test_rewinding_goes_back_over_the_same_frames():
    recording = walks(shuffle=False)
    found = rewound(recording, np.random.default_rng(0))
    first, _ = found.pairs()
    assert len(first) == len(found) - len(np.unique(found.episode)), "steps count on"
    for name in np.unique(found.episode):
        frames = np.flatnonzero(found.episode == name)
        turn = int(np.argmax(np.isnan(found.reward[frames]))) - 1
        back = found.vectors[frames[turn:]]
        ahead = found.vectors[frames[: turn + 1]]
        np.testing.assert_array_equal(back, ahead[::-1][: len(back)])
        np.testing.assert_array_equal(
            found.progress[frames[turn:]], found.progress[frames[: turn + 1]][::-1][: len(back)]
        )


def test_a_minimal_edit_puts_the_walker_back_and_nothing_else():
    recording = walks()
    found = minimally_edited(recording)
    successes = np.flatnonzero(recording.success)
    assert len(found) == len(successes)
    for row, final in enumerate(successes):
        first = final - recording.step[final]
        now, before = recording.vectors[final], recording.vectors[first]
        edited = found.vectors[row]
        changed = ~(edited == now).all(1)
        assert changed.sum() == 1
        assert now[changed][0, 2] == 1, "the walker"
        np.testing.assert_array_equal(edited[changed][0], before[before[:, 2] == 1][0])
        assert found.progress[row] == recording.progress[first]


def test_a_swapped_goal_is_another_object_of_the_state():
    slots = torch.tensor([[[0.0, 0], [1, 0], [2, 0], [9, 9]]]).repeat(200, 1, 1)
    valid = torch.tensor([[True, True, True, False]]).repeat(200, 1)
    goal = torch.tensor([[[1.1, 0], [5, 5]]]).repeat(200, 1, 1)
    weight = torch.tensor([[1.0, 0.0]]).repeat(200, 1)
    transition = SlotTransition(slots, valid, goal_slots=goal, goal_weight=weight)
    found = swapped_goals(transition, torch.Generator().manual_seed(0)).goal_slots
    assert torch.equal(found[:, 1], goal[:, 1]), "of no weight"
    assert set(found[:, 0, 0].tolist()) == {0.0, 2.0}, "neither the goal's own object nor padding"
    alone = SlotTransition(slots[:, :1], goal_slots=goal, goal_weight=weight)
    assert torch.equal(swapped_goals(alone, torch.Generator().manual_seed(0)).goal_slots, goal)
    with pytest.raises(ValueError, match="lacks"):
        swapped_goals(SlotTransition(slots), torch.Generator())


def test_order_leaks_into_a_flattened_head_and_not_into_a_set():
    train, val, test = walks(shuffle=False).split()
    heads = {build: fit_progress(train, val, build, epochs=2) for build in (deep_set, flattened)}
    assert order_leak(heads[deep_set], test) < 1e-5
    assert order_leak(heads[flattened], test) > 0.1


def test_goals_of_frames():
    goals = Goals(np.zeros((5, 2, 3), np.float16), np.ones((5, 2), bool), np.ones((5, 2), np.float32))
    assert len(goals.take(np.arange(3))) == 3
    assert set(goals.fields(np.arange(2))) == {"goal_slots", "goal_valid", "goal_weight"}
    with pytest.raises(ValueError, match="goals need vectors"):
        Goals(np.zeros((5, 2, 3), np.float16), np.ones((4, 2), bool), np.ones((5, 2), np.float32))
