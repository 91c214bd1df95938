"""What a Meta-World scene looks like: the robot as it is, or a person's hand in another room.

The physics never changes: only colours, textures and what is drawn. The hand look stands in for the gap between
human video and a robot: the arm is not drawn, a hand, forearm and sleeve follow the end effector instead.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from corpora.head_camera import CameraPose

_SKIN = (0.87, 0.64, 0.51, 1.0)
_SKIN_SHADE = (0.80, 0.55, 0.43, 1.0)
_SLEEVE = (0.16, 0.26, 0.48, 1.0)
_BARE_FOREARM_M = 0.12
_SHOULDER_BELOW_CAMERA_M = 0.5
_SHOULDER_RIGHT_M = 0.42


def hide_robot(model: mujoco.MjModel) -> None:
    """No geom of the robot is drawn; collisions stay (what is transparent still collides)."""
    base = model.body("base").id
    hidden = np.zeros(model.nbody, bool)
    for body in range(model.nbody):  # parents come before their children
        hidden[body] = body == base or hidden[model.body_parentid[body]]
    for geom in range(model.ngeom):
        if hidden[model.geom_bodyid[geom]]:
            model.geom_matid[geom] = -1
            model.geom_rgba[geom, 3] = 0


def repaint_room(model: mujoco.MjModel) -> None:
    """Another table, floor, wall and sky, and objects in other colours. Call it before a renderer exists."""
    for texture in range(model.ntex):
        name = model.tex(texture).name
        height, width, channels = model.tex_height[texture], model.tex_width[texture], model.tex_nchannel[texture]
        start = model.tex_adr[texture]
        pixels = model.tex_data[start : start + height * width * channels].reshape(height, width, channels)
        pattern = _pattern(name, height, width, sky=model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
        if pattern is not None:
            pixels[:, :, :3] = pattern
    for material in range(model.nmat):
        name = model.mat(material).name
        if name in {"table_wood", "basic_floor", "wall_metal"}:
            model.mat_specular[material] = 0.05
        else:
            # Another hue of the same lightness: the channels change places, and move towards a mid grey.
            red, green, blue = model.mat_rgba[material, :3]
            model.mat_rgba[material, :3] = 0.8 * np.array([blue, red, green]) + 0.12
    model.vis.headlight.ambient[:] = (0.5, 0.47, 0.43)


def _pattern(name: str, height: int, width: int, *, sky: bool) -> NDArray[np.uint8] | None:
    row, column = np.mgrid[:height, :width]
    if sky:
        return _mix(np.full((height, width), 0.5), (196, 208, 222), (196, 208, 222))
    if name == "T_table":  # a checked cloth
        cell = max(1, width // 8)
        check = ((row // cell) % 2 + (column // cell) % 2) / 2
        return _mix(check, (236, 232, 218), (92, 138, 122))
    if name == "T_floor":  # dark boards
        plank = (column // max(1, width // 6)) % 2 * 0.5 + 0.25 * (1 + np.sin(row / height * 6.28 * 9))
        return _mix(np.clip(plank, 0, 1), (74, 60, 70), (112, 92, 96))
    if name == "T_wallmetal":  # painted boards
        return _mix((column // max(1, width // 12)) % 2 * 1.0, (210, 180, 120), (188, 150, 92))
    return None


def _mix(share: NDArray[np.float64], low: tuple[int, int, int], high: tuple[int, int, int]) -> NDArray[np.uint8]:
    mixed = np.array(low) + share[:, :, None] * (np.array(high) - np.array(low))
    return np.rint(mixed).astype(np.uint8)


def draw_hand(scene: mujoco.MjvScene, data: mujoco.MjData, view: CameraPose) -> None:
    """Adds a hand (palm, four fingers, a thumb), a forearm and a sleeve where the end effector is.

    The fingers end on one tip of the gripper and the thumb on the other, so that the hand opens and closes with it;
    the forearm points to a shoulder below and to the right of where the head camera is when it stands still.
    """
    root = data.body("hand").xpos
    thumb_tip, finger_tip = data.site("rightEndEffector").xpos, data.site("leftEndEffector").xpos
    down = _unit((thumb_tip + finger_tip) / 2 - root)
    apart = finger_tip - thumb_tip
    across = _unit(apart - down * float(apart @ down))
    side = np.cross(down, across)
    camera = np.array(view.rotation)
    shoulder = np.array(view.position) + camera[:, 0] * _SHOULDER_RIGHT_M - np.array([0, 0, _SHOULDER_BELOW_CAMERA_M])

    palm = root - 0.035 * down
    _ellipsoid(scene, palm, np.stack([side, across, down], 1), (0.05, 0.032, 0.052), _SKIN)
    for number in range(4):
        spread = (number - 1.5) * 0.023
        length = (0.9, 1.1, 1.0, 0.75)[number]
        knuckle = palm + 0.014 * across + spread * side + 0.036 * down
        tip = finger_tip + spread * 0.8 * side + (0.022 * (length - 1)) * down
        joint = (knuckle + tip) / 2 + 0.016 * across
        shade = _SKIN if number % 2 else _SKIN_SHADE
        _capsule(scene, knuckle, joint, 0.0115, shade)
        _capsule(scene, joint, tip, 0.0105, shade)
    thumb_joint = palm - 0.04 * across + 0.03 * down
    _capsule(scene, palm - 0.02 * across, thumb_joint, 0.016, _SKIN_SHADE)
    _capsule(scene, thumb_joint, thumb_tip, 0.0125, _SKIN_SHADE)

    wrist = palm - 0.045 * down
    arm = _unit(shoulder - wrist)
    cuff = wrist + _BARE_FOREARM_M * arm
    _capsule(scene, palm - 0.01 * down, wrist, 0.03, _SKIN)
    _capsule(scene, wrist, cuff, 0.029, _SKIN)
    _capsule(scene, cuff, shoulder, 0.042, _SLEEVE)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def _next_geom(scene: mujoco.MjvScene) -> mujoco.MjvGeom:
    assert scene.ngeom < scene.maxgeom, "the renderer's scene has no room for the hand"
    scene.ngeom += 1
    return scene.geoms[scene.ngeom - 1]


def _ellipsoid(
    scene: mujoco.MjvScene,
    centre: NDArray[np.float64],
    axes: NDArray[np.float64],
    radii: tuple[float, float, float],
    rgba: tuple[float, float, float, float],
) -> None:
    mujoco.mjv_initGeom(
        _next_geom(scene),
        mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        np.array(radii),
        centre,
        axes.ravel(),
        np.array(rgba, np.float32),
    )


def _capsule(
    scene: mujoco.MjvScene,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    radius: float,
    rgba: tuple[float, float, float, float],
) -> None:
    geom = _next_geom(scene)
    mujoco.mjv_initGeom(
        geom, mujoco.mjtGeom.mjGEOM_CAPSULE, np.zeros(3), np.zeros(3), np.eye(3).ravel(), np.array(rgba, np.float32)
    )
    mujoco.mjv_connector(geom, mujoco.mjtGeom.mjGEOM_CAPSULE, radius, start, end)
