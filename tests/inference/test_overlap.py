"""A choice is spread as far as neighbours share something, and no farther."""

import cv2
import numpy as np
import pytest

from cus.inference.overlap import overlapping

# A long wall of spots, along which a camera looks at 240 pixels at a time.
WALL = cv2.GaussianBlur(np.random.default_rng(4).integers(0, 256, (180, 2640), np.uint8), (0, 0), 2)
WALL = cv2.normalize(WALL, WALL, 0, 255, cv2.NORM_MINMAX)


def looking_along(speed: float):
    """A choice of four views at places of a walk that is `speed` times 2400 pixels long, and what they show."""

    def choose(low: float, high: float) -> list[float]:
        return [low + (high - low) * (2 * i + 1) / 8 for i in range(4)]

    def grey(place: float) -> np.ndarray:
        left = round(2400 * speed * place)
        return WALL[:, left : left + 240]

    return choose, grey


@pytest.mark.parametrize(("speed", "part"), [(0.05, 1.0), (0.4, 0.5), (1.0, 0.25)])
def test_the_part_is_as_large_as_neighbours_allow(speed, part):
    """Neighbours a quarter of the part apart share at least a third of what they show, and not at twice that."""
    chosen, found = overlapping(*looking_along(speed))
    assert found == part and len(chosen) == 4


def test_pictures_of_nothing_are_chosen_all_the_same():
    choose, _ = looking_along(1.0)
    chosen, _ = overlapping(choose, lambda place: np.full((180, 240), 128, np.uint8))
    assert len(chosen) == 4
