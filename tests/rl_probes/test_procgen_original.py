"""EnvPool's Procgen against frames and rewards of the original package, written in an environment of its own."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

pytest.importorskip("envpool", reason='needs the extra: pip install "ocl-research[procgen]"')

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "procgen_frames.py"
FRAMES = os.environ.get("OCL_PROCGEN_FRAMES")


@pytest.mark.skipif(
    FRAMES is None, reason=f"set OCL_PROCGEN_FRAMES to what {SCRIPT.name} wrote; its first lines say how"
)
def test_envpool_plays_the_original_games() -> None:
    specification = importlib.util.spec_from_file_location("procgen_frames", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    rows = list(script.compare(Path(str(FRAMES))))
    assert [row.game for row in rows] == script.GAMES
    for row in rows:
        assert row.rewards, row
        assert row.lengths, row
        assert row.first_frames, row
        assert row.frames > 100
        assert row.difference < 0.01, row  # grey levels: about one pixel of a frame
    assert sum(row.equal == row.frames for row in rows) >= 10
