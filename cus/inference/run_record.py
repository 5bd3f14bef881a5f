"""What `run.json` says of a run, checked when it is read: it may be of another version, damaged, or written by hand."""

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
    """The fields that are read back; others are kept as they are."""

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
    """The `run.json` of a run's folder, with every field that is read back.

    Raises:
        InputError: no JSON, or a field of another type.
    """
    path = folder / NAME
    content = read_json(path, _REMEDY)
    try:
        return content | _Record.model_validate(content).model_dump()
    except ValidationError as error:
        raise InputError(f"{path} is damaged ({first_problem(error)}); {_REMEDY}") from error


def recorded_settings(record: dict[str, Any], folder: Path) -> InferSettings:
    """The settings of a run, its folder where it is now; what other versions wrote beside them is left out.

    Raises:
        InputError: no photographs, or a setting of another type.
    """
    if not record["settings"]["views"]:
        raise InputError(f"{folder / NAME} does not say how the run was made; {_REMEDY}")
    # Of the memory the record names the plan that was chosen, which is no setting.
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
