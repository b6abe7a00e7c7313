"""`play`: seen in the terminal, recorded, without a screen; and the clip in the report."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reinforge
from reinforge.cli import main
from reinforge.cli.screen import Screen
from reinforge.environments import film
from reinforge.errors import DataError, EnvironmentFault
from reinforge.evaluation import clips
from reinforge.evaluation.half_blocks import blocks
from reinforge.workflow.run import Run
from reinforge.workflow.train import train

POLE: dict[str, Any] = {
    "name": "pole",
    "data": {"kind": "environment", "id": "CartPole-v1", "vectorization": "synchronous", "count": 1},
    "model": {"kind": "actor-critic", "sizes": [16]},
    "objective": "ppo",
    "source": {"kind": "rollout", "steps": 32},
    "learn": {"stop": {"updates": 4}},
    "evaluate": {"episodes": 4},
}
LAKE: dict[str, Any] = {
    **POLE, "name": "lake", "data": {"kind": "environment", "id": "FrozenLake-v1", "count": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def pole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(POLE, output=tmp_path_factory.mktemp("pole") / "run")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(LAKE, output=tmp_path_factory.mktemp("lake") / "run")


class Shown:
    def __init__(self) -> None:
        self.frames: list[tuple[Any, str, float]] = []

    def draw(self, picture: Any, status: str, rate: float) -> None:
        self.frames.append((picture, status, rate))


def test_every_step_is_shown_and_the_first_and_the_last_observation(pole: Run) -> None:
    shown = Shown()
    found = reinforge.play(pole, 2, screen=shown, speed=2.0)
    assert found["returns"] == found["lengths"]  # CartPole pays 1 a step
    assert len(shown.frames) == sum(found["lengths"]) + 2
    assert all(frame.shape == (400, 600, 3) for frame, _status, _rate in shown.frames)
    assert {rate for _frame, _status, rate in shown.frames} == {100.0}
    assert shown.frames[0][1].startswith("episode 1 of 2 · step 0")
    assert shown.frames[-1][1] == f"episode 2 of 2 · step {found['lengths'][1]} · return {found['returns'][1]:.4g}"
    assert found == reinforge.play(pole, 2)
    assert found["returns"] != reinforge.play(pole, 2, seed=3)["returns"]
    stochastic = reinforge.play(pole, 2, stochastic=True)
    assert stochastic == reinforge.play(pole, 2, stochastic=True)
    assert stochastic["actions"] == "stochastic"
    assert stochastic["lengths"] != found["lengths"]


def test_texts_are_shown_where_the_environment_offers_them(lake: Run) -> None:
    shown = Shown()
    reinforge.play(lake, screen=shown)
    assert "SFFF" in re.sub(r"\x1b\[[\d;]*m", "", shown.frames[0][0])


def test_a_recording_has_every_frame(pole: Run, tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    found = reinforge.play(pole, record=path)
    with Image.open(path) as clip:
        # Frames that look the same are one that stays longer.
        durations = []
        for index in range(clip.n_frames):  # type: ignore[attr-defined]
            clip.seek(index)
            durations.append(clip.info["duration"])
        assert sum(durations) == 20 * (found["lengths"][0] + 1)
        assert clip.size == (400, 267)
        assert clip.info["loop"] == 0


def test_what_can_not_be_recorded_says_what_to_do(pole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="Known suffixes"):
        reinforge.play(pole, record=tmp_path / "clip.avi")
    with pytest.raises(DataError, match="exclude each other"):
        reinforge.play(pole, record=tmp_path / "clip.gif", window=True)
    monkeypatch.setattr(clips, "_ffmpeg", lambda: None)
    with pytest.raises(DataError, match=r"pip install 'reinforge\[video\]', or install ffmpeg; a .gif needs neither"):
        reinforge.play(pole, record=tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="only a policy can play"):
        reinforge.play(train("diabetes", ["learn.stop.epochs=1"], output=tmp_path / "table"))


def test_without_a_screen_there_is_no_window(pole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(DataError, match="there is no screen to open a window on"):
        reinforge.play(pole, window=True)


def test_mujoco_without_opengl_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the process otherwise, at the second try at the latest."""
    pytest.importorskip("mujoco")
    monkeypatch.setattr(film, "_backend", lambda: None)
    monkeypatch.setenv("REINFORGE_LANG", "en")
    robot = {**POLE, "data": {"kind": "environment", "id": "InvertedPendulum-v5", "count": 1}, "evaluate": {"final": 1}}
    run = train(robot, output=tmp_path / "run")
    assert "no clip: MuJoCo finds no OpenGL to draw with" in run.status["notes"]
    with pytest.raises(EnvironmentFault, match="Install EGL or OSMesa"):
        reinforge.play(run, record=tmp_path / "clip.gif")
    assert reinforge.play(run)["lengths"][0] > 0


@pytest.mark.skipif(clips._ffmpeg() is None, reason="there is no ffmpeg")
def test_an_mp4(pole: Run, tmp_path: Path) -> None:
    reinforge.play(pole, record=tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").read_bytes()[4:8] == b"ftyp"


def test_an_environment_that_draws_nothing_is_played_unseen(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Dark(gym.Env):\n"
        "    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)\n"
        "    action_space = gym.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed); self.t = 0\n"
        "        return np.zeros(2, np.float32), {}\n"
        "    def step(self, action):\n"
        "        self.t += 1\n"
        "        return np.zeros(2, np.float32), 1.0, self.t >= 5, False, {}\n"
        "if 'Dark-v0' not in gym.registry:\n"
        "    gym.register('Dark-v0', Dark)\n"
    )
    run = train({**POLE, "data": {"kind": "environment", "id": "Dark-v0"}}, use=[code], output=tmp_path / "run")
    assert not (run.folder / "clip.webp").exists()
    assert not run.status["notes"]
    shown = Shown()
    found = reinforge.play(run, screen=shown)
    assert (found["returns"], shown.frames) == ([5.0], [])
    assert "played unseen" in found["notes"][0]
    with pytest.raises(EnvironmentFault, match="doesn't draw itself as 'rgb_array'"):
        reinforge.play(run, record=tmp_path / "clip.gif")


def test_the_report_shows_the_policy_at_work(pole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(pole.folder / "clip.webp") as clip:
        assert clip.n_frames > 5  # type: ignore[attr-defined]
        assert clip.size == (300, 200)
    assert (pole.folder / "clip.webp").stat().st_size < 200_000
    monkeypatch.setenv("REINFORGE_LANG", "en")
    page = reinforge.report(pole).read_text()
    assert page.count("data:image/webp;base64,") == 1
    assert "The policy at work" in page
    assert "prefers-reduced-motion" in page
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    assert "策略实况" in reinforge.report(pole).read_text()


def test_a_clip_can_be_left_out_and_its_failure_stops_nothing(
    pole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(POLE, ["evaluate.clip=false"], output=tmp_path / "without")
    assert not (run.folder / "clip.webp").exists()
    assert run.metrics == pole.metrics
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv

    def broken(self: Any) -> Any:
        raise RuntimeError("there is no display")

    monkeypatch.setattr(CartPoleEnv, "render", broken)
    monkeypatch.setenv("REINFORGE_LANG", "en")
    run = train(POLE, output=tmp_path / "broken")
    assert run.finished
    assert run.status["notes"][0].startswith("no clip: it raised RuntimeError: there is no display")


def test_half_blocks_are_two_pixels_each() -> None:
    frame = np.zeros((4, 3, 3), np.uint8)
    frame[0, 0] = (255, 0, 0)
    frame[3, 2] = (0, 0, 255)
    lines = blocks(frame, 3, 2)
    assert len(lines) == 2
    assert lines[0].startswith("\x1b[38;2;255;0;0;48;2;0;0;0m▀\x1b[38;2;0;0;0;48;2;0;0;0m▀▀")
    assert "48;2;0;0;255m▀\x1b[0m" in lines[1]
    wide = blocks(np.zeros((400, 600, 3), np.uint8), 80, 22)
    assert len(wide) <= 22
    assert all(line.count("▀") <= 80 for line in wide)


def test_the_terminal_is_drawn_over_at_the_pace_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: (20, 10))
    file = io.StringIO()
    pauses: list[float] = []
    screen = Screen(file=file, sleep=pauses.append)
    screen.draw("one\ntwo\n", "status", 10.0)
    screen.draw(np.zeros((8, 8, 3), np.uint8), "a status that is too long for it", 10.0)
    screen.close()
    text = file.getvalue()
    assert text.startswith("\x1b[?25l\x1b[2J\x1b[Hone\x1b[K\ntwo\x1b[K\nstatus")
    assert text.endswith("\x1b[?25h")
    assert "a status that is to\x1b" in text
    assert 0 <= pauses[0] <= 0.1
    assert 0.05 < pauses[1] <= 0.1


def test_by_command(pole: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.gif"
    assert main(["play", str(pole.folder), "--episodes", "2", "--record", str(clip), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["record"] == str(clip)
    assert len(told["returns"]) == 2
    assert clip.stat().st_size > 1000
    assert main(["play", str(pole.folder)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["play", str(pole.folder), "--speed", "0"]) == 2
    assert main(["play", str(pole.folder), "--episodes", "0"]) == 2


def test_a_window_is_the_environments_own_at_the_pace_that_is_asked_for(
    lake: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    rates: list[Any] = []
    render: Any = FrozenLakeEnv._render_gui

    def seen(self: Any, mode: str) -> Any:
        rates.append((mode, self.metadata["render_fps"]))
        return render(self, mode)

    monkeypatch.setattr(FrozenLakeEnv, "_render_gui", seen)
    found = reinforge.play(lake, window=True, speed=50.0)
    assert set(rates) == {("human", 200.0)}
    assert len(rates) > found["lengths"][0]
