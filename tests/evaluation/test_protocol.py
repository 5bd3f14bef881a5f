"""Cases by stated rules: a wall seen from an arc of cameras, where every angle is known."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cus.cameras import load_transforms
from cus.errors import InputError
from cus.evaluation.geometry import angles_at, rough_geometry
from cus.evaluation.protocol import (
    CENTERS,
    Protocol,
    Rules,
    choose_cases,
    index_of,
    short_names,
    thinned,
    window_of,
)
from tests.evaluation.rooms import on_an_arc, posed_photos, standing_at, wall_geometry

ARC = [0.0, 11.0, 22.0, 33.0, 44.0]
ONE_CROP = Rules(zooms=(4.0,), centers=("centre",))


def arc_cases(rules: Rules = ONE_CROP, protocol: Protocol = "closeup"):
    cameras = on_an_arc(ARC)
    return choose_cases(posed_photos(cameras), rules, protocol, wall_geometry(cameras))


def triples(cases) -> set[tuple[str, ...]]:
    return {(*case.references, case.target, case.level) for case in cases}


def test_one_photograph_between_is_easy_and_wider_spacing_is_hard():
    """22 degrees between the references is easy, 33 and 44 are hard, 55 and more is neither."""
    expected = set()
    for a in range(5):
        for b in range(a + 2, 5):
            level = "easy" if b - a == 2 else "hard"
            expected |= {(f"{a:04d}.jpg", f"{b:04d}.jpg", f"{t:04d}.jpg", level) for t in range(a + 1, b)}
    assert triples(arc_cases()) == expected
    assert triples(arc_cases(replace(ONE_CROP, hard=(28.0, 40.0)))) == {
        e for e in expected if e[0] + e[1] != "0000.jpg0004.jpg"
    }


def test_the_fourth_neighbour_of_a_wider_arc_is_too_far():
    cameras = on_an_arc([0.0, 20.0, 40.0, 60.0])
    cases = choose_cases(posed_photos(cameras), ONE_CROP, "regular", wall_geometry(cameras))
    assert triples(cases) == {
        ("0000.jpg", "0002.jpg", "0001.jpg", "hard"),
        ("0001.jpg", "0003.jpg", "0002.jpg", "hard"),
    }


def test_names_are_unique_readable_and_always_the_same():
    rules = Rules()
    cases = arc_cases(rules)
    names = [case.name for case in cases]
    assert len(set(names)) == len(names) and "0000+0002-0001-x4-centre" in names
    assert cases == arc_cases(rules)
    per_triple = Counter(name.split("-x")[0] for name in names)
    assert max(per_triple.values()) == len(rules.zooms) * len(CENTERS)


def test_the_regular_protocol_asks_for_the_whole_photograph():
    for case in arc_cases(protocol="regular"):
        assert (case.zoom, case.center, case.motion, case.protocol) == (1.0, (0.5, 0.5), "zoom", "regular")


def test_a_crop_keeps_inside_the_photograph():
    for zoom in (1.0, 1.5, 4.0, 5.0):
        for center in (*CENTERS.values(), (0.0, 1.0)):
            left, top, right, bottom = window_of(center, zoom)
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
            assert right - left == pytest.approx(1 / zoom) and bottom - top == pytest.approx(1 / zoom)


def test_a_crop_that_a_reference_does_not_see_is_no_case():
    """A target whose left part lies outside the references' pictures keeps its right crops alone."""
    cameras = [standing_at(0.0, -6.0), standing_at(1.2, -6.0), standing_at(0.6, -14.0)]
    rules = Rules(zooms=(4.0,), between=(0.0, 1.0), aside=10.0, overlap=0.15)
    whole = choose_cases(posed_photos(cameras), rules, "closeup", wall_geometry(cameras))
    strict = replace(rules, overlap=0.99)
    assert {case.name.rsplit("-", 1)[-1] for case in whole} > {"centre"}
    with pytest.raises(InputError, match="no third photograph"):
        choose_cases(posed_photos(cameras), strict, "closeup", wall_geometry(cameras))


def of_the_pair(cases):
    return [case for case in cases if case.references == ("0000.jpg", "0001.jpg")]


def test_a_photograph_taken_nearer_makes_a_dolly_case():
    """From 10 to 4.5 is 55 % of the way to the wall; from 10 to 8 only 20 %."""
    cameras = [*on_an_arc([-8.0, 8.0, 0.0]), standing_at(0.0, -4.5), standing_at(0.0, -8.0)]
    posed, geometry = posed_photos(cameras), wall_geometry(cameras)

    def dollies(rules: Rules, protocol: Protocol = "closeup"):
        cases = of_the_pair(choose_cases(posed, rules, protocol, geometry))
        return [case for case in cases if case.motion == "dolly"]

    (case,) = dollies(Rules(aside=0.1))
    assert case.name == "0000+0001-0003-dolly" and case.zoom == 1.0 and case.level == "easy"
    assert not dollies(Rules(dolly=(0.6, 0.7))) and not dollies(Rules(), "regular")


def test_targets_beside_the_references_are_no_cases():
    cameras = [*on_an_arc([-8.0, 8.0]), standing_at(3.5, -9.0), standing_at(0.0, -9.5, 4.0), standing_at(0.2, -9.9)]
    cases = choose_cases(posed_photos(cameras), Rules(), "regular", wall_geometry(cameras))
    assert [case.target for case in of_the_pair(cases)] == ["0004.jpg"]


def test_thinning_spreads_evenly_and_keeps_the_ends():
    assert thinned(list(range(10)), 4) == [0, 3, 6, 9] and thinned([1, 2], 5) == [1, 2]
    assert thinned([1, 2, 3], None) == [1, 2, 3] and thinned([1, 2, 3], 1) == [2]
    counts = Counter(case.level for case in arc_cases(replace(ONE_CROP, triples=2)))
    assert counts == {"easy": 2, "hard": 2}


def test_what_gives_no_cases_says_why():
    cameras = on_an_arc(ARC)
    with pytest.raises(InputError, match="two references and a target make three"):
        choose_cases(posed_photos(cameras[:2]), Rules(), "closeup", wall_geometry(cameras[:2]))
    apart = on_an_arc([0.0, 70.0, 140.0])
    with pytest.raises(InputError, match="no two photographs make a pair"):
        choose_cases(posed_photos(apart), Rules(), "closeup", wall_geometry(apart))
    with pytest.raises(InputError, match="no protocol 'macro'"):
        arc_cases(protocol="macro")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="crop centres are"):
        Rules(centers=("middle",))
    with pytest.raises(InputError, match="at least 1"):
        Rules(zooms=(0.5,))
    with pytest.raises(InputError, match="'easy' runs"):
        Rules(easy=(30.0, 4.0))
    with pytest.raises(InputError, match="'triples' must be"):
        Rules(triples=0)


def test_a_photograph_without_depths_takes_no_part():
    cameras = on_an_arc(ARC)
    geometry = wall_geometry(cameras)
    depths = geometry.depths.clone()
    depths[2] = float("nan")
    cases = choose_cases(posed_photos(cameras), ONE_CROP, "closeup", replace(geometry, depths=depths))
    assert cases and not any("0002.jpg" in (*case.references, case.target) for case in cases)


def test_photographs_of_one_name_are_told_apart_by_their_folders():
    posed = posed_photos(on_an_arc(ARC[:3]), ["left/1.jpg", "right/1.jpg", "right/2.jpg"])
    assert posed.names == ["left/1.jpg", "right/1.jpg", "right/2.jpg"]
    assert index_of(posed, "right/1.jpg") == 1
    with pytest.raises(InputError, match="no photograph 1.jpg"):
        index_of(posed, "1.jpg")
    with pytest.raises(InputError, match="2 times"):
        _ = replace(posed, paths=(Path("a/1.jpg"), Path("a/1.jpg"), Path("a/2.jpg"))).names


def test_case_names_stay_unique_where_names_differ_by_their_ending_alone():
    assert short_names(["a.jpg", "b.jpg"]) == ["a", "b"] and short_names(["x/1.jpg", "y/1.jpg"]) == ["x_1", "y_1"]
    assert short_names(["a.jpg", "a.png"]) == ["a.jpg", "a.png"]
    assert short_names(["a/b.jpg", "a_b.jpg"]) == ["0000", "0001"]


def test_angles_are_exact_for_small_ones_too():
    point, here = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for degrees in (1e-6, 0.5, 90.0, 179.0):
        angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        there = 3 * torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)])
        assert float(angles_at(point, here, there)) == pytest.approx(degrees, rel=1e-6)


@pytest.fixture(scope="module")
def fountain(photos):
    posed = load_transforms(photos / "fountain_p11").select([4, 5, 6, 7, 8])
    return posed, rough_geometry(posed)


@pytest.mark.slow
def test_on_real_photographs_every_second_one_makes_an_easy_pair(fountain):
    posed, geometry = fountain
    cases = choose_cases(posed, ONE_CROP, "closeup", geometry)
    easy = [case.name for case in cases if case.level == "easy"]
    assert easy == [f"{i:04d}+{i + 2:04d}-{i + 1:04d}-x4-centre" for i in (4, 5, 6)]
    assert all(not case.name.startswith("0005+0007") or case.level == "easy" for case in cases)


def test_real_photographs_give_depths_that_agree_between_views(fountain):
    """Points of one photograph fall into its neighbours where those have about the same depth themselves."""
    _, geometry = fountain
    assert geometry.known.all()
    medians = geometry.depths.flatten(1).median(dim=1).values
    assert 5 < medians.min() and medians.max() < 10  # metres, by the data set's laser scan
