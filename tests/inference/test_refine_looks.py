"""What a verdict on a refinement says."""

from dataclasses import replace

import numpy as np
import pytest

from cus.inference.refinement.looks import Look, judge_refinement
from cus.viewer.steadiness import FrameMeasures, Steadiness


def seen(
    kept: float = 0.8, close_ups: float = 22.0, far: float = 30.0, needles: float = 0.01, uncovered: float = 0.0
) -> Look:
    frames = (FrameMeasures(0.0, needles / 2), FrameMeasures(uncovered, needles))
    return Look(np.zeros((2, 4, 4, 3), np.uint8), Steadiness(frames), close_ups, kept, far)


GOOD = seen(close_ups=26.0, needles=0.001)


def test_a_refinement_that_gains_and_loses_nothing_is_good():
    verdict = judge_refinement(seen(), GOOD, held_out=False)
    assert verdict.grade == "good" and verdict.trusted and not verdict.advice
    assert [finding.name for finding in verdict.findings] == [
        "support",
        "close-ups",
        "far views",
        "needles",
        "coverage",
    ]


@pytest.mark.parametrize(
    ("change", "grades"),
    [
        ({"kept": 0.3}, ["fair", "good", "good", "good"]),
        ({"kept": 0.1}, ["poor", "good", "good", "good"]),
        ({"close_ups": 21.0}, ["good", "poor", "good", "good"]),
        ({"far": 29.5}, ["good", "good", "fair", "good"]),
        ({"far": 28.0}, ["good", "good", "poor", "good"]),
        ({"far": 31.0}, ["good", "good", "good", "good"]),
    ],
)
def test_each_finding_has_its_own_limits(change: dict, grades: list[str]):
    verdict = judge_refinement(seen(), replace(GOOD, **change), held_out=False)
    assert [finding.grade for finding in verdict.findings] == [*grades, "good"]
    worst = max(grades, key=["good", "fair", "poor"].index)
    assert verdict.grade == worst and verdict.trusted == (grades[0] != "poor")
    assert bool(verdict.advice) == (worst != "good")


@pytest.mark.parametrize(("needles", "grade"), [(0.002, "good"), (0.008, "fair"), (0.012, "poor")])
def test_needles_have_to_become_fewer(needles: float, grade: str):
    assert judge_refinement(seen(), seen(needles=needles), held_out=True).findings[3].grade == grade


@pytest.mark.parametrize(("uncovered", "grade"), [(0.02, "good"), (0.1, "fair"), (0.3, "poor")])
def test_a_walk_into_nothing_is_not_called_good(uncovered: float, grade: str):
    verdict = judge_refinement(seen(), seen(close_ups=26.0, needles=0.001, uncovered=uncovered), held_out=False)
    assert verdict.grade == verdict.findings[4].grade == grade
    assert any("--target" in advice for advice in verdict.advice) == (grade != "good")


def test_photographs_that_were_held_out_are_called_so():
    (name,) = [f.name for f in judge_refinement(seen(), GOOD, held_out=True).findings if "views" in f.name]
    assert name == "views held out"
