"""What a Meta-World scene looks like: the robot as it is, or a person's hand in another room.

The physics never changes: only colours, textures and what is drawn. The hand look stands in for the gap between
human video and a robot: the arm is not drawn, a hand, forearm and sleeve follow the end effector instead. People are
numbered: each has a skin, a sleeve, a side that the arm comes from, and a room with objects of their own colours.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from corpora.simulation.head_camera import CameraPose

Colour = tuple[float, float, float]
"""Red, green and blue from 0 to 1."""
Vector = NDArray[np.float64]
Surface = tuple[Colour, Colour, int]
"""Two colours and how often they alternate."""

_ROOM_MATERIALS = {"table_wood", "basic_floor", "wall_metal"}
_SHADED = 0.92
_BARE_FOREARM_M = 0.12
_SHOULDER_BELOW_CAMERA_M = 0.5


HAND = int(mujoco.mjtObj.mjOBJ_UNKNOWN)
"""Type of the hand's geoms, which belong to no object of the model."""


def robot_geoms(model: mujoco.MjModel) -> NDArray[np.bool_]:
    """bool [ngeom]: the robot's."""
    return geoms_of(model, {model.body("base").id})


def geoms_of(model: mujoco.MjModel, bodies: Container[int]) -> NDArray[np.bool_]:
    """bool [ngeom]: those of the bodies, and of all that hangs on them."""
    mine = np.zeros(model.nbody, bool)
    for body in range(1, model.nbody):  # parents come before their children
        mine[body] = body in bodies or mine[model.body_parentid[body]]
    return np.asarray(mine[model.geom_bodyid])


def hide_robot(model: mujoco.MjModel) -> None:
    """No geom of the robot is drawn; collisions stay (what is transparent still collides)."""
    for geom in np.flatnonzero(robot_geoms(model)):
        model.geom_matid[geom] = -1
        model.geom_rgba[geom, 3] = 0


@dataclass(frozen=True)
class Person:
    """One person at home."""

    skin: Colour
    skin_shade: Colour
    """Of every other finger, and the thumb."""
    sleeve: Colour
    shoulder_right_m: float
    """Of the camera; below 0 it is the left arm."""
    table: Surface
    checked: bool
    """A checked cloth; striped otherwise."""
    floor: Surface
    wall: Surface
    sky: Colour
    channels: tuple[int, int, int]
    """Which of an object's red, green and blue each becomes."""
    seed: int | None
    """Of a tint for each object; None: all move towards a mid grey."""


def person(number: int) -> Person:
    """Number 0 is always the same one; any other number always gives the same other one."""
    if number == 0:
        return Person(
            skin=(0.87, 0.64, 0.51),
            skin_shade=(0.80, 0.55, 0.43),
            sleeve=(0.16, 0.26, 0.48),
            shoulder_right_m=0.42,
            table=(_rgb(236, 232, 218), _rgb(92, 138, 122), 8),
            checked=True,
            floor=(_rgb(74, 60, 70), _rgb(112, 92, 96), 6),
            wall=(_rgb(210, 180, 120), _rgb(188, 150, 92), 12),
            sky=_rgb(196, 208, 222),
            channels=(2, 0, 1),
            seed=None,
        )
    rng = np.random.default_rng([20_260_000, number])

    def colour() -> Colour:
        red, green, blue = rng.uniform(0.1, 0.95, 3)
        return float(red), float(green), float(blue)

    def surface() -> Surface:
        first = np.array(colour())
        second = np.clip(first + rng.normal(0, 0.15, 3), 0, 1)
        return (first[0], first[1], first[2]), (second[0], second[1], second[2]), int(rng.integers(2, 17))

    pale, dark = np.array((0.95, 0.78, 0.68)), np.array((0.28, 0.17, 0.11))
    skin = pale + rng.uniform() * (dark - pale)
    red, green, blue = rng.permutation(3)
    return Person(
        skin=(skin[0], skin[1], skin[2]),
        skin_shade=(_SHADED * skin[0], _SHADED * skin[1], _SHADED * skin[2]),
        sleeve=colour(),
        # objects stand to the right of the hand: people see what they are about to touch, and this arm does not hide it
        shoulder_right_m=float(rng.uniform(-0.45, 0.0)),
        table=surface(),
        checked=bool(rng.integers(2)),
        floor=surface(),
        wall=surface(),
        sky=colour(),
        channels=(int(red), int(green), int(blue)),
        seed=number,
    )


def repaint_room(model: mujoco.MjModel, someone: Person, materials: NDArray[np.float32]) -> None:
    """Another table, floor, wall and sky, and objects in other colours than their own, `materials` [nmat, 4]. A renderer
    made before does not see the textures."""
    for texture in range(model.ntex):
        name = model.tex(texture).name
        height, width, channels = model.tex_height[texture], model.tex_width[texture], model.tex_nchannel[texture]
        start = model.tex_adr[texture]
        pixels = model.tex_data[start : start + height * width * channels].reshape(height, width, channels)
        sky = model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_SKYBOX
        pattern = _pattern(someone, name, height, width, sky=sky)
        if pattern is not None:
            pixels[:, :, :3] = pattern
    robots = {int(material) for material in model.geom_matid[robot_geoms(model)]}
    tints = None if someone.seed is None else np.random.default_rng([20_260_001, someone.seed]).uniform(0, 1, (64, 3))
    for material in range(model.nmat):
        if material in robots:
            continue
        if model.mat(material).name in _ROOM_MATERIALS:
            model.mat_specular[material] = 0.05
            continue
        # Another hue of the same lightness: the channels change places, and move towards a grey or a tint.
        moved = materials[material, list(someone.channels)]
        tinted = 0.8 * moved + 0.12 if tints is None else 0.5 * moved + 0.5 * tints[material % len(tints)]
        model.mat_rgba[material, :3] = tinted
    model.vis.headlight.ambient[:] = (0.5, 0.47, 0.43)


def _pattern(someone: Person, name: str, height: int, width: int, *, sky: bool) -> NDArray[np.uint8] | None:
    row, column = np.mgrid[:height, :width]
    if sky:
        return _mix(np.full((height, width), 0.5), someone.sky, someone.sky)
    if name == "T_table":
        low, high, count = someone.table
        cell = max(1, width // count)
        rows = (row // cell) % 2 if someone.checked else column // cell % 2
        return _mix((rows + (column // cell) % 2) / 2, low, high)
    if name == "T_floor":  # boards with a grain
        low, high, count = someone.floor
        plank = (column // max(1, width // count)) % 2 * 0.5 + 0.25 * (1 + np.sin(row / height * 6.28 * 9))
        return _mix(np.clip(plank, 0, 1), low, high)
    if name == "T_wallmetal":  # painted boards
        low, high, count = someone.wall
        return _mix((column // max(1, width // count)) % 2 * 1.0, low, high)
    return None


def _rgb(red: int, green: int, blue: int) -> Colour:
    return red / 255, green / 255, blue / 255


def _mix(share: NDArray[np.float64], low: Colour, high: Colour) -> NDArray[np.uint8]:
    first, second = 255 * np.array(low), 255 * np.array(high)
    mixed: NDArray[np.uint8] = np.rint(first + share[:, :, None] * (second - first)).astype(np.uint8)
    return mixed


def draw_hand(scene: mujoco.MjvScene, data: mujoco.MjData, view: CameraPose, someone: Person) -> None:
    """Adds a hand (palm, four fingers, a thumb), a forearm and a sleeve where the end effector is.

    The fingers end on one tip of the gripper and the thumb on the other, so that the hand opens and closes with it;
    the forearm points to a shoulder below and to the side of where the head camera is when it stands still.
    """
    root = data.body("hand").xpos
    thumb_tip, finger_tip = data.site("rightEndEffector").xpos, data.site("leftEndEffector").xpos
    down = _unit((thumb_tip + finger_tip) / 2 - root)
    apart = finger_tip - thumb_tip
    across = _unit(apart - down * float(apart @ down))
    side = np.cross(down, across)
    camera = np.array(view.rotation)
    shoulder = (
        np.array(view.position) + camera[:, 0] * someone.shoulder_right_m - np.array([0, 0, _SHOULDER_BELOW_CAMERA_M])
    )

    skin, skin_shade, sleeve = someone.skin, someone.skin_shade, someone.sleeve
    palm = root - 0.035 * down
    _ellipsoid(scene, palm, np.stack([side, across, down], 1), np.array((0.05, 0.032, 0.052)), skin)
    for number in range(4):
        spread = (number - 1.5) * 0.023
        length = (0.9, 1.1, 1.0, 0.75)[number]
        knuckle = palm + 0.014 * across + spread * side + 0.036 * down
        tip = finger_tip + spread * 0.8 * side + (0.022 * (length - 1)) * down
        joint = (knuckle + tip) / 2 + 0.016 * across
        shade = skin if number % 2 else skin_shade
        _capsule(scene, knuckle, joint, 0.0115, shade)
        _capsule(scene, joint, tip, 0.0105, shade)
    thumb_joint = palm - 0.04 * across + 0.03 * down
    _capsule(scene, palm - 0.02 * across, thumb_joint, 0.016, skin_shade)
    _capsule(scene, thumb_joint, thumb_tip, 0.0125, skin_shade)

    wrist = palm - 0.045 * down
    arm = _unit(shoulder - wrist)
    cuff = wrist + _BARE_FOREARM_M * arm
    _capsule(scene, palm - 0.01 * down, wrist, 0.03, skin)
    _capsule(scene, wrist, cuff, 0.029, skin)
    _capsule(scene, cuff, shoulder, 0.042, sleeve)


def _unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)


def mark_hand(scene: mujoco.MjvScene, first: int) -> None:
    """Makes the geoms from `first` on, which are the hand's, show as object 0 of type HAND where a scene is segmented."""
    for number in range(first, scene.ngeom):
        geom = scene.geoms[number]
        geom.segid, geom.objid, geom.objtype = number, 0, HAND


def _ellipsoid(scene: mujoco.MjvScene, centre: Vector, axes: Vector, radii: Vector, colour: Colour) -> None:
    mujoco.mjv_initGeom(
        _next_geom(scene), mujoco.mjtGeom.mjGEOM_ELLIPSOID, radii, centre, axes.ravel(), _opaque(colour)
    )


def _capsule(scene: mujoco.MjvScene, start: Vector, end: Vector, radius: float, colour: Colour) -> None:
    geom, kind, nowhere = _next_geom(scene), mujoco.mjtGeom.mjGEOM_CAPSULE, np.zeros(3)
    mujoco.mjv_initGeom(geom, kind, nowhere, nowhere, np.eye(3).ravel(), _opaque(colour))
    mujoco.mjv_connector(geom, kind, radius, start, end)


def _next_geom(scene: mujoco.MjvScene) -> mujoco.MjvGeom:
    assert scene.ngeom < scene.maxgeom, "the renderer's scene has no room for the hand"
    scene.ngeom += 1
    return scene.geoms[scene.ngeom - 1]


def _opaque(colour: Colour) -> NDArray[np.float32]:
    return np.array((*colour, 1.0), np.float32)
