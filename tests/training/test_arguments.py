"""Settings on a script's command line, in all their spellings, and the list of what there is."""

from dataclasses import dataclass, field

import pytest

from cus.errors import InputError
from cus.limits import limited
from cus.training.caches import Caches
from cus.training.decoder import DecoderConfig
from cus.training.recipe_jobs import Recipe
from cus.training.scene_clips import SceneClips
from cus.training.scripts import Given, listed, spelled_out
from cus.training.shards import Shards
from cus.training.single_view import SingleViewConfig
from cus.training.unet import UNetConfig
from cus.training.vae import VaeConfig


@dataclass
class Group:
    """A group.

    Attributes:
        steps: optimizer steps in all.
    """

    steps: int = limited(5, low=1, high=9)


@dataclass
class Settings:
    """Settings.

    Attributes:
        out: folder, of a name
            that goes on in the next line.
        scenes: folders.
        dry_run: only say what would be done.
        share: of something.
        loop: see `Group`.
    """

    out: str = "???"
    scenes: list[str] = field(default_factory=list)
    dry_run: bool = False
    share: float = limited(0.5, above=0)
    loop: Group = field(default_factory=Group)


@pytest.mark.parametrize(
    ("line", "file", "overrides"),
    [
        ("a.yaml out=x loop.steps=3", "a.yaml", ["out=x", "loop.steps=3"]),
        ("--config a.yaml --out x --loop.steps 3", "a.yaml", ["out=x", "loop.steps=3"]),
        ("--config=a.yaml --loop.steps=3 out=x", "a.yaml", ["loop.steps=3", "out=x"]),
        ("--scenes one --dry-run", None, ["scenes=[one]", "dry_run=true"]),
        ("--scenes one two out=x", None, ["scenes=[one,two]", "out=x"]),
        ("--scenes [one,two]", None, ["scenes=[one,two]"]),
        ("--dry-run false --share -0.5", None, ["dry_run=false", "share=-0.5"]),
        ("--lop.steps 3", None, ["lop.steps=3"]),  # `resolve` refuses it, with the nearest name
    ],
)
def test_names_and_values_may_be_given_as_options(line: str, file: str | None, overrides: list[str]) -> None:
    assert spelled_out(Settings, line.split()) == Given(file, overrides)


def test_values_with_marks_of_yaml_stay_words() -> None:
    assert spelled_out(Settings, ["--scenes", "a, b", "c: d"]).overrides == ['scenes=["a, b","c: d"]']


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.yaml b.yaml", "at most one config file, got a.yaml b.yaml"),
        ("--config", "--config takes one file"),
        ("-x", "unknown option '-x'"),
        ("--=3", "unknown option '--=3'"),
    ],
)
def test_what_is_no_setting_is_refused(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spelled_out(Settings, line.split())


def test_all_settings_are_listed_with_defaults_words_and_limits() -> None:
    assert listed(Settings).splitlines() == [
        "  out=...  (required)",
        "      folder, of a name that goes on in the next line.",
        "  scenes=[]",
        "      folders.",
        "  dry_run=false",
        "      only say what would be done.",
        "  share=0.5",
        "      of something. [above 0]",
        "  loop.steps=5",
        "      optimizer steps in all. [1 to 9]",
    ]


@pytest.mark.parametrize(
    "kind", [UNetConfig, DecoderConfig, VaeConfig, SingleViewConfig, Recipe, SceneClips, Shards, Caches]
)
def test_every_setting_of_a_script_has_words(kind: type) -> None:
    lines = listed(kind).splitlines()
    names = [place for place, line in enumerate(lines) if not line.startswith(" " * 6)]
    assert names and all(lines[place + 1].startswith(" " * 6) for place in names)
