"""Command lines: what is wrong is one sentence, and is said before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocl.commands import exit_with_sentence, run
from ocl.files import write_text


def test_a_device_that_is_not_there_is_named_before_the_command_runs(tmp_path: Path) -> None:
    def command(folder: Path, device: str = "cpu") -> str:
        """Do something."""
        return device

    def start(device: str) -> object:
        return run("ocl", None, {"do": command}, ["do", f"--folder={tmp_path / device}", f"--device={device}"])

    assert start("cpu") == "cpu"
    with pytest.raises(ValueError, match="device 'frog' is not to be had on this machine; try cpu"):
        start("frog")
    assert not (tmp_path / "frog").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for place, reason in (("file/below", "not a directory"), ("file", "file exists")):
        with pytest.raises(SystemExit) as ended:
            exit_with_sentence(lambda place=place: write_text(tmp_path / place / "a.txt", ""))
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"error: {tmp_path / place}: {reason}.\n"
