"""Settings: layers, types, and errors that name the nearest key."""

from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING

from cus.errors import InputError
from cus.output_folder import OutputFolder
from cus.training import config


@dataclass
class Inner:
    learning_rate: float = 0.1
    steps: int = 5


@dataclass
class Outer:
    out: str = MISSING
    crop: tuple[int, int] = (8, 8)
    loop: Inner = field(default_factory=Inner)
    extra: dict[str, int] = field(default_factory=dict)


def test_command_line_goes_over_yaml_goes_over_defaults(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("loop:\n  steps: 7\n  learning_rate: 0.5\nextra: {free: 1}\n")
    resolved = config.resolve(Outer, path, ["loop.steps=9", "out=here", "crop=[4,6]"])
    assert resolved.loop == Inner(0.5, 9)
    assert tuple(resolved.crop) == (4, 6)
    assert resolved.extra == {"free": 1}


def test_what_is_saved_resolves_to_the_same_settings(tmp_path) -> None:
    resolved = config.resolve(Outer, None, ["out=x", "loop.steps=3"])
    config.save(resolved, tmp_path / "saved.yaml")
    assert config.resolve(Outer, tmp_path / "saved.yaml", []) == resolved


@pytest.mark.parametrize("override", ["loop.learning_rat=1", "loop.lerning_rate=1"])
def test_unknown_keys_name_the_nearest_known_one(override: str) -> None:
    with pytest.raises(InputError, match="did you mean 'loop.learning_rate'"):
        config.resolve(Outer, None, ["out=x", override])


@pytest.mark.parametrize("override", ["loop.steps=many", "loop=3", "no-equals", "crop.0=3", "extra=[3]"])
def test_values_of_another_type_are_refused(override: str) -> None:
    with pytest.raises(InputError):
        config.resolve(Outer, None, ["out=x", override])


def test_settings_without_a_value_are_asked_for() -> None:
    with pytest.raises(InputError, match="out"):
        config.resolve(Outer, None, [])


def test_a_missing_file_is_an_input_error(tmp_path) -> None:
    with pytest.raises(InputError, match="no config file"):
        config.resolve(Outer, tmp_path / "none.yaml", [])


def test_brackets_within_a_list_are_told_how_they_are_written() -> None:
    with pytest.raises(
        InputError, match=r"cannot be read: .*; quote what has brackets of its own, as in a=\['b=\[1,2\]'\]"
    ):
        config.resolve(Outer, None, ["out=[loop=[1,2],crop=3]"])


def test_one_value_for_a_list_is_told_how_a_list_is_written() -> None:
    with pytest.raises(InputError, match=r"the value is a list, as in crop=\[a,b\]"):
        config.resolve(Outer, None, ["out=x", "crop=3"])


def test_other_settings_are_refused_only_once_something_was_made_with_the_first(tmp_path) -> None:
    def written(steps: int, made: str = "", elsewhere: bool = False) -> int:
        folder = OutputFolder(tmp_path / "run", "a test")
        folder.open(["settings.yaml", "result"])
        try:
            given = config.resolve(Outer, None, ["out=x", f"loop.steps={steps}"])
            config.write(given, folder, "settings.yaml", (), elsewhere=elsewhere)
            if made:
                folder.write(made, lambda part: part.write_text("made"))
        finally:
            folder.close()
        return config.resolve(Outer, tmp_path / "run" / "settings.yaml", []).loop.steps

    assert [written(1), written(2)] == [1, 2]
    with pytest.raises(InputError, match="loop.steps was 2, is 3"):
        written(3, elsewhere=True)
    assert [written(3, "result"), written(3)] == [3, 3]
    with pytest.raises(InputError, match="loop.steps was 3, is 4"):
        written(4)
