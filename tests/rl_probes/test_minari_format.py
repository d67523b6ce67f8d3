"""A recording survives the way through Minari's format, and Minari's own reader sees the same episodes."""

from dataclasses import fields, replace

import minari
import numpy as np
import pytest

from rl_probes.minari_format import read_minari, write_minari
from rl_probes.negatives import rewound
from rl_probes.recording import Recording

LENGTHS = (7, 1, 4, 12)
ID = "sprites/push-v0"


@pytest.fixture
def recording() -> Recording:
    rng = np.random.default_rng(0)
    count = sum(LENGTHS)
    step = np.concatenate([np.arange(length) for length in LENGTHS]).astype(np.int32)
    last = np.cumsum(LENGTHS) - 1
    ends = np.zeros(count, bool)
    ends[last[[0, 3]]] = True
    cut = np.zeros(count, bool)
    cut[last[2]] = True
    return Recording(
        vectors=rng.normal(size=(count, 5, 3)).astype(np.float16),
        valid=rng.random((count, 5)) < 0.8,
        action=np.where(step == 0, -1, rng.integers(4, size=count)).astype(np.int32),
        reward=np.where(step == 0, 0, rng.normal(size=count)).astype(np.float32),
        progress=np.where(rng.random(count) < 0.2, np.nan, rng.random(count)).astype(np.float32),
        terminated=ends,
        truncated=cut,
        success=ends & (np.arange(count) > 10),
        episode=np.repeat([30, 10, 20, 40], LENGTHS).astype(np.int64),
        step=step,
        fingerprint="encoder",
    )


def test_what_is_written_is_read_back(recording, tmp_path):
    write_minari(recording, tmp_path, ID, num_actions=4)
    found = read_minari(tmp_path, ID, expect_fingerprint="encoder")
    kept = recording.take(recording.episode != 10)  # of a single frame: no step, no episode
    assert found.fingerprint == "encoder"
    assert found.episode.tolist() == np.repeat([0, 1, 2], [7, 4, 12]).tolist()
    for field in fields(Recording):
        if field.name not in ("episode", "fingerprint"):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(kept, field.name))
            assert getattr(found, field.name).dtype == getattr(kept, field.name).dtype


def test_minari_reads_the_same_episodes(recording, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    images = np.random.default_rng(1).integers(256, size=(len(recording), 3, 40, 40), dtype=np.uint8)
    write_minari(recording, tmp_path, ID, num_actions=4, observations=images)
    data = minari.load_dataset(ID)
    assert (data.total_episodes, data.total_steps) == (3, 6 + 3 + 11)
    episode = data[2]
    frames = np.flatnonzero(recording.episode == 40)
    np.testing.assert_array_equal(episode.observations, images[frames].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(episode.actions, recording.action[frames[1:]])
    np.testing.assert_array_equal(episode.rewards, recording.reward[frames[1:]])
    assert episode.terminations.tolist() == [False] * 10 + [True]
    assert episode.infos["success"][-1]
    assert data.action_space.n == 4


def test_slots_that_do_not_belong_are_refused(recording, tmp_path):
    folder = write_minari(recording, tmp_path, ID, num_actions=4)
    with pytest.raises(ValueError, match="was written by the encoder encoder, expected another"):
        read_minari(tmp_path, ID, expect_fingerprint="another")
    other = write_minari(recording.take(recording.episode == 40), tmp_path, "sprites/other-v0", num_actions=4)
    (folder / "slots").rename(folder / "mine")
    (other / "slots").rename(folder / "slots")
    with pytest.raises(ValueError, match=r"slots beside .* are of other episodes"):
        read_minari(tmp_path, ID)
    with pytest.raises(FileNotFoundError, match=r"metadata\.json does not exist"):
        read_minari(tmp_path, "sprites/none-v0")


def test_bad_recordings_are_refused_before_anything_is_written(recording, tmp_path):
    headless = recording.take(recording.step > 0)
    with pytest.raises(ValueError, match="episode 30 is not whole"):
        write_minari(headless, tmp_path, ID, num_actions=4)
    with pytest.raises(ValueError, match=r"actions in 0\.\.1, got"):
        write_minari(recording, tmp_path, ID, num_actions=2)
    with pytest.raises(ValueError, match="got -1 to 3; leave out rewound episodes"):
        write_minari(rewound(recording, np.random.default_rng(0)), tmp_path, ID, num_actions=4)
    with pytest.raises(ValueError, match="no episode with a step"):
        write_minari(recording.take(recording.episode == 10), tmp_path, ID, num_actions=4)
    with pytest.raises(ValueError, match="every frame needs an observation"):
        write_minari(recording, tmp_path, ID, num_actions=4, observations=np.zeros((3, 2)))
    assert not list(tmp_path.iterdir())
    write_minari(replace(recording, fingerprint=None), tmp_path, ID, num_actions=4)
    with pytest.raises(ValueError, match="already holds a data set"):
        write_minari(recording, tmp_path, ID, num_actions=4)
