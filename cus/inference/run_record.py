"""Reads and checks `run.json`: it may be from another version, damaged, or edited by hand."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cus.conditioning.kinds import KINDS
from cus.errors import InputError, first_problem, shown
from cus.files import read_json
from cus.inference.settings import InferSettings
from cus.limits import check_options

NAME = "run.json"
_REMEDY = "run cus-infer once more with --resume"
_Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="allow")

    views: list[str] = []


class _Record(BaseModel):
    """The fields that are read back; others are kept unchanged."""

    model_config = ConfigDict(extra="allow")

    status: str = "finished"
    settings: _Settings = _Settings()
    stages: dict[str, str] = {}
    notes: list[str] = []
    missing: list[str] = []
    reused: list[str] = []
    files: list[str] = []
    seconds: dict[str, _Seconds] = {}
    loading_seconds: _Seconds = 0.0


def read_record(folder: Path) -> dict[str, Any]:
    """The `run.json` in a run's folder, with all fields that are read back checked.

    Raises:
        InputError: invalid JSON, or a field of a wrong type.
    """
    path = folder / NAME
    content = read_json(path, _REMEDY)
    try:
        return content | _Record.model_validate(content).model_dump()
    except ValidationError as error:
        raise InputError(f"{path} is damaged ({first_problem(error)}); {_REMEDY}") from error


def recorded_settings(record: dict[str, Any], folder: Path) -> InferSettings:
    """The settings of a run, with its folder at the current path; unknown settings of other versions are ignored.

    Raises:
        InputError: no photographs, or a setting of a wrong type.
    """
    if not record["settings"]["views"]:
        raise InputError(f"{folder / NAME} does not say how the run was made; {_REMEDY}")
    # The record contains the chosen memory plan, which is not a setting.
    given = {name: value for name, value in record["settings"].items() if name != "memory"} | {"out": str(folder)}
    try:
        settings = TypeAdapter(InferSettings).validate_python(given)
    except ValidationError as error:
        raise InputError(f"{folder / NAME} is damaged (settings.{first_problem(error)}); {_REMEDY}") from error
    if settings.conditioning not in ("auto", *KINDS):
        problem = f"must be one of auto, {', '.join(KINDS)}, got {shown(settings.conditioning)}"
        raise InputError(f"{folder / NAME} is damaged (settings.conditioning {problem}); {_REMEDY}")
    check_options(settings)
    return settings
