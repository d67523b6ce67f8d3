"""A robot arm that pushes or carries a cube: the Fetch tasks of Plappert et al. 2018 (arXiv 1802.09464) as a world."""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from typing import Any, Literal, NamedTuple, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_probes.envs import mujoco_library
from rl_probes.envs.episode import Episode, Integers
from rl_probes.envs.gymnasium_world import GymnasiumWorld

Floats = NDArray[np.float64]

ROBOT, CUBE, TARGET = 0, 1, 2
"""The columns of the list of objects, and one less than their labels in a segmentation."""


class View(NamedTuple):
    """Where the camera stands: `distance` metres from `lookat`, degrees around it; the names are MuJoCo's."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float = 90.0
    elevation: float = -30.0


VIEWS = {
    "push": View((1.34, 0.75, 0.45), 0.85),
    "pick and place": View((1.34, 0.75, 0.56), 1.2),  # targets may hang in the air
}
IDS = {"push": "FetchPush-v4", "pick and place": "FetchPickAndPlace-v4"}


class FetchEpisode(Episode):
    """One robot with its cube. Draws with a camera of its own: gymnasium's recomputes the simulation's state, and what
    follows would depend on whether somebody looked."""

    fields = frozenset({"images", "segmentation", "objects"})

    @classmethod
    def environment(cls, id: str, arguments: dict[str, Any]) -> gym.Env[Any, Any]:
        mujoco_library.load()
        return gym.make(id, disable_env_checker=True, **arguments)

    def told(self, info: dict[str, Any]) -> dict[str, float]:
        return super().told(info) | {"progress": self.progress()}

    def progress(self) -> float:
        """1 - max(0, distance - threshold) / (longest - threshold), at least 0, where `longest` is as far as a cube
        can begin from its target: 1 exactly at success."""
        robot: Any = self.unwrapped
        reach = np.array([robot.obj_range + robot.target_range] * 2 + [0.45 * robot.target_in_the_air])
        left = np.linalg.norm(robot.data.site("object0").xpos - robot.goal) - robot.distance_threshold
        return float(np.clip(1 - left / (np.linalg.norm(reach) - robot.distance_threshold), 0, 1))

    def show(self, fields: frozenset[str], chosen: NDArray[np.bool_]) -> dict[str, NDArray[Any]] | None:
        if not chosen[self.index]:
            return None
        shown: dict[str, NDArray[Any]] = {"images": self.picture()} if "images" in fields else {}
        if "segmentation" in fields:
            shown["segmentation"] = self._camera.labels(self.unwrapped)
        return shown | self.objects() if "objects" in fields else shown

    def picture(self) -> NDArray[np.uint8]:
        if self._frame is None:
            self._frame = self._camera.image(self.unwrapped)
        return self._frame

    def objects(self) -> dict[str, NDArray[Any]]:
        """The exact state, a row for the gripper, the cube and the target each; see `FetchWorld`."""
        robot: Any = self.unwrapped
        place = np.stack([robot.data.site("robot0:grip").xpos, robot.data.site("object0").xpos, robot.goal])
        turn = np.stack(
            [robot.data.body("robot0:gripper_link").xmat, robot.data.body("object0").xmat, np.eye(3).ravel()]
        )
        velocity, spin = np.zeros((3, 3)), np.zeros((3, 3))
        for row, site in ((ROBOT, "robot0:grip"), (CUBE, "object0")):
            velocity[row] = robot._utils.get_site_xvelp(robot.model, robot.data, site)
            spin[row] = robot._utils.get_site_xvelr(robot.model, robot.data, site)
        opening = np.zeros((3, 1))
        for finger in ("robot0:l_gripper_finger_joint", "robot0:r_gripper_finger_joint"):
            opening[ROBOT] += robot.data.joint(finger).qpos
        floats = {
            "position": project(place, self.view, robot.model.vis.global_.fovy, self._pixels),
            "place": place,
            "velocity": velocity,
            "rotation": turn,
            "spin": spin,
            "opening": opening,
        }
        return {name: value.astype(np.float32) for name, value in floats.items()} | {
            "kind": np.arange(3),
            "visible": np.ones(3, dtype=bool),
        }

    @property
    def view(self) -> View:
        return VIEWS["pick and place" if cast(Any, self.unwrapped).target_in_the_air else "push"]

    @property
    def _camera(self) -> Camera:
        return camera(cast(Any, self.unwrapped).fullpath, self.view, self._pixels)

    @property
    def _pixels(self) -> tuple[int, int]:
        assert self.size is not None  # a FetchWorld has no other sizes
        return self.size


class Camera:
    """Draws any robot of one model file; one serves all episodes of a process."""

    def __init__(self, file: str, view: View, image_size: tuple[int, int]) -> None:
        self.mujoco = mujoco_library.load()
        model = self.mujoco.MjModel.from_xml_path(file)
        names = [model.body(body).name for body in model.geom_bodyid]
        model.geom_rgba[[name == "robot0:mocap" for name in names], 3] = 0  # handles, not things
        labels = [ROBOT + 1 if name.startswith("robot0:") else CUBE + 1 if name == "object0" else 0 for name in names]
        self._labels = np.array([*labels, 0], dtype=np.int64)  # the last: of sky, number -1
        self._target = model.site("target0").id
        self._camera = self.mujoco.MjvCamera()
        self._camera.type = self.mujoco.mjtCamera.mjCAMERA_FREE
        for name, value in view._asdict().items():
            setattr(self._camera, name, value)
        self._renderer = mujoco_library.Renderer(model, image_size)

    def image(self, robot: Any) -> NDArray[np.uint8]:
        """(3 H W)"""
        self._look_at(robot)
        return np.ascontiguousarray(self._renderer.image().transpose(2, 0, 1))

    def labels(self, robot: Any) -> NDArray[np.int64]:
        """(H W): 0 table and room, 1 robot, 2 cube, 3 target."""
        self._look_at(robot)
        kind, number = self._renderer.owners()
        found: NDArray[np.int64] = self._labels[np.where(kind == int(self.mujoco.mjtObj.mjOBJ_GEOM), number, -1)]
        found[(kind == int(self.mujoco.mjtObj.mjOBJ_SITE)) & (number == self._target)] = TARGET + 1
        return found

    def _look_at(self, robot: Any) -> None:
        robot.data.site_xpos[self._target] = robot.goal  # a result that nothing is computed from
        self._renderer.look(robot.data, self._camera)


@lru_cache(maxsize=8)
def camera(file: str, view: View, image_size: tuple[int, int]) -> Camera:
    return Camera(file, view, image_size)


def project(points: Floats, view: View, fovy: float, image_size: tuple[int, int]) -> Floats:
    """(n 3) places in metres -> (n 2) (x, y) in the picture, in [0, 1] where it shows them, y down."""
    azimuth, elevation = np.radians([view.azimuth, view.elevation])
    forward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    axes = np.stack([right, np.cross(forward, right), forward])  # right, down, forward
    across, down, depth = ((points - np.array(view.lookat)) @ axes.T + np.array([0, 0, view.distance])).T
    half = np.tan(np.radians(fovy) / 2)
    height, width = image_size
    return np.stack([0.5 + across / depth / (2 * half) * height / width, 0.5 + down / depth / (2 * half)], axis=1)


class FetchWorld(GymnasiumWorld):
    """B robots at a table, each with a cube and a target for it, a red ball.

    The gripper starts above the table. Episodes last 50 steps and are truncated then; nothing ends them earlier, so
    "success" (bool: the cube is within 5 cm of its target) counts where it holds in the last step. "progress" is
    float32 in [0, 1]. The target lies on the table; to "pick and place", it hangs in the air in half of the episodes.
    The camera looks from the robot's right side; at the start of "push" the arm hides 3 % of the cubes and 9 % of the
    targets entirely.

    The robot's actions are continuous: a shift of the gripper by up to 5 cm along each axis, of which it gets about two
    thirds done in a step, and, where fingers are
    not locked as for "push", their closing (-1) or opening (1). Agents choose among shifts along one axis, towards
    either side, and none: 7 actions to push; the same 7 while closing, then 7 while opening, to pick and place.
    `moves` of your own replace them.

    `observe` gives M = 3 objects, the robot (its gripper), the cube and the target: "position" (x, y) in the picture,
    "place" (3) in metres, "velocity" (3) in m/s, "rotation" (9) the matrix, row by row, "spin" (3) in rad/s, "opening"
    (1) of the gripper in metres, "kind" 0, 1, 2; all are called visible, even where one hides another. In the
    segmentation 1 is the whole arm, 2 the cube, 3 the target.

    Args:
        task: "push" or "pick and place".
        num_envs: B.
        image_size: (H, W) in pixels.
        seed: of the generator that new episodes take their seeds from.
        reward: "sparse", -1 for every step without success and 0 with it, or "dense", minus the distance in metres.
        moves: further shifts and fingers, each (4) in [-1, 1].
        processes: give every robot a process of its own.

    Raises:
        ImportError: MuJoCo, the robots or something to draw with is missing; the sentence says what to install.
        ValueError: an unknown task or reward, a move that the robot refuses, or a number below 1.
    """

    episode = FetchEpisode

    def __init__(
        self,
        task: Literal["push", "pick and place"] = "push",
        num_envs: int = 1,
        image_size: tuple[int, int] = (128, 128),
        *,
        seed: int = 0,
        reward: Literal["sparse", "dense"] = "sparse",
        moves: list[list[float]] | None = None,
        processes: bool = False,
    ) -> None:
        if task not in IDS or reward not in ("sparse", "dense"):
            raise ValueError(
                f"FetchWorld: task must be among {', '.join(IDS)} and reward sparse or dense, got {task!r} and "
                f"{reward!r}."
            )
        shifts = [[0.0, 0.0, 0.0], *np.concatenate([np.eye(3), -np.eye(3)]).tolist()]
        fingers = (0.0,) if task == "push" else (-1.0, 1.0)
        if moves is None:
            moves = [[*shift, finger] for finger in fingers for shift in shifts]
        super().__init__(
            IDS[task],
            num_envs,
            image_size,
            seed=seed,
            arguments={"reward_type": reward},
            moves=moves,
            processes=processes,
        )

    def progress(self) -> NDArray[np.float32]:
        """(B,) how near each cube is to its target, in [0, 1]."""
        return np.array(self._call("progress"), np.float32)

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {"mujoco": metadata.version("mujoco"), "drawn with": mujoco_library.drawing()}


def scripted_pushes(world: FetchWorld) -> Integers:
    """(B,) of the seven default moves of "push": behind the cube from above, then against it, one axis at a time."""
    gripper, cube, target = world.observe(frozenset({"objects"})).objects["place"].numpy().transpose(1, 0, 2)
    rows = np.arange(len(cube))
    left = (target - cube)[:, :2]
    axis = np.abs(left).argmax(axis=1)
    sign = np.sign(left[rows, axis])
    off = (gripper - cube)[:, :2]
    behind = np.abs(off[rows, 1 - axis]) < 0.02
    behind &= sign * off[rows, axis] < -0.02
    wanted = -off
    wanted[rows, axis] -= 0.085 * sign
    above = gripper[:, 2] - cube[:, 2]
    walk = np.abs(wanted).argmax(axis=1)
    there = np.abs(wanted).max(axis=1) < 0.025
    walking = 1 + walk + 3 * (wanted[rows, walk] < 0)
    pushing = 1 + axis + 3 * (sign < 0)
    moves = np.where(above < 0.06, 3, walking)  # up
    moves = np.where(there & (above > 0.02), 6, moves)  # down
    moves = np.where(behind & (above <= 0.02), pushing, moves)
    moves = np.where(there & (above <= 0.02), pushing, moves)
    return np.where(np.linalg.norm(left, axis=1) < 0.03, 0, moves)
