"""Colours of levels stay apart for every kind of colour vision."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from workbench.palette import ARMS, LEVELS, MARKERS, arm_marker, arm_order, level_colour, level_label

# Machado, Oliveira and Fernandes (2009): full loss of one kind of cone, as matrices on linear RGB.
VISION = {
    "all cones": np.eye(3),
    "no long": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no medium": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no short": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65, in which a distance of 10 is a clear difference."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_any_two_levels_differ_clearly_and_neighbours_more(vision: str) -> None:
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in LEVELS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12
    assert min(np.linalg.norm(a - b) for a, b in pairwise(seen)) > 20


def test_levels_beyond_the_last_colour_still_have_one() -> None:
    assert level_colour(len(LEVELS) + 3) == LEVELS[-1]


def test_a_level_is_named_with_its_width() -> None:
    assert level_label(0, 32) == "L0 · raw tokens"
    assert level_label(2, 32) == "L2 · 1,024 tokens"


def test_arms_come_from_floor_to_ceiling_and_unknown_ones_after() -> None:
    assert arm_order(["zeta", "oracle", "none", "alpha", "lensnet"]) == [
        "none",
        "lensnet",
        "oracle",
        "alpha",
        "zeta",
    ]


def test_every_arm_has_its_own_colour_and_marker() -> None:
    assert len(set(ARMS.values())) == len(ARMS) == len(set(MARKERS))
    assert arm_marker("unheard of") in MARKERS
