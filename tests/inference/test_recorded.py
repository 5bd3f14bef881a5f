"""What a run records of a conditioning, and what a resumed run reads again."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from cus.conditioning import Conditioning, Layers
from cus.errors import InputError
from cus.inference.recorded import conditioning_from, state_of
from cus.inference.run_record import read_record, recorded_settings
from cus.inference.settings import InferSettings


def conditioning(layers: bool) -> Conditioning:
    drawn = torch.Generator().manual_seed(0)
    images, masks, depths = torch.rand(2, 3, 4, 6, generator=drawn), torch.ones(2, 4, 6) > 0, torch.ones(2, 4, 6)
    warps, gate = torch.rand(2, 2, 3, 4, 6, generator=drawn), torch.rand(2, 4, 6, generator=drawn)
    found = Layers(warps, torch.rand(2, 2, 4, 6, generator=drawn) > 0.5, gate) if layers else None
    resolved = torch.rand(2, 4, 6, generator=drawn) if layers else None
    return Conditioning(images, masks, depths, found, resolved)


def test_layers_are_recorded_to_the_nearest_of_256_values_and_again_without_change():
    made = conditioning(layers=True)
    once = conditioning_from(state_of(made))
    twice = conditioning_from(state_of(once))
    assert made.layers is not None and once.layers is not None and twice.layers is not None
    assert once.resolved is not None and torch.equal(once.resolved, made.resolved)
    assert torch.equal(once.images, made.images) and torch.equal(once.layers.masks, made.layers.masks)
    torch.testing.assert_close(once.layers.images, made.layers.images, rtol=0, atol=0.5 / 255 + 1e-6)
    assert torch.equal(once.layers.images, twice.layers.images) and torch.equal(once.layers.gate, twice.layers.gate)


def test_a_conditioning_without_layers_comes_back_without():
    again = conditioning_from(state_of(conditioning(layers=False)))
    assert again.layers is None and again.resolved is None


def write_record(folder: Path, **changes: Any) -> None:
    settings = json.loads(json.dumps(asdict(InferSettings((Path("a.jpg"), Path("b.jpg")), zoom=2.0)), default=str))
    content = {"status": "finished", "settings": settings, "notes": ["x"], "seconds": {"scene": 1}, "later": 3}
    (folder / "run.json").write_text(json.dumps(content | changes))


def test_a_record_comes_back_with_what_other_versions_wrote_and_did_not_write(tmp_path):
    write_record(tmp_path)
    record = read_record(tmp_path)
    assert record["later"] == 3 and record["notes"] == ["x"] and record["missing"] == [] and record["stages"] == {}
    settings = recorded_settings(record | {"settings": record["settings"] | {"memory": "middle", "old": 1}}, tmp_path)
    assert settings == InferSettings((Path("a.jpg"), Path("b.jpg")), out=tmp_path, zoom=2.0)


@pytest.mark.parametrize("key", ["settings", "notes", "seconds", "files", "stages", "missing", "loading_seconds"])
@pytest.mark.parametrize("value", [None, "x", math.nan, [[1]], 10**400, {"a": [1]}], ids=lambda value: str(value)[:9])
def test_a_record_with_a_field_of_another_type_is_refused_by_its_name(tmp_path, key, value):
    write_record(tmp_path, **{key: value})
    if key == "settings" and value == {"a": [1]}:
        with pytest.raises(InputError, match="does not say how the run was made"):
            recorded_settings(read_record(tmp_path), tmp_path)
        return
    with pytest.raises(InputError, match=rf"run.json is damaged \({key}.* must be .*--resume"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"fps": "x"}, {"zoom": [1]}, {"target": [0.5]}, {"cameras": 3}, {"views": [1]}, {"conditioning": "y"}]
)
def test_recorded_settings_of_another_type_are_refused_by_their_name(tmp_path, changes):
    write_record(tmp_path, settings={"views": ["a.jpg", "b.jpg"]} | changes)
    with pytest.raises(
        InputError, match=rf"run.json is damaged \(settings.{next(iter(changes))}.* (must be|is missing|is refused)"
    ):
        recorded_settings(read_record(tmp_path), tmp_path)


def test_a_recorded_number_beyond_its_range_is_refused(tmp_path):
    write_record(tmp_path, settings={"views": ["a.jpg", "b.jpg"], "fps": 10**400})
    with pytest.raises(InputError, match="--fps must be"):
        recorded_settings(read_record(tmp_path), tmp_path)
