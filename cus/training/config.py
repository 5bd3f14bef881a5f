"""Settings of a run: dataclass defaults, then a YAML file, then `key=value` from the command line."""

import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cus.errors import InputError
from cus.limits import check_limits
from cus.output_folder import OutputFolder

T = TypeVar("T")


def resolve(kind: type[T], path: Path | str | None, overrides: list[str]) -> T:
    """An instance of the dataclass `kind`: its defaults, then the YAML file, then `a.b=value` overrides.

    Raises:
        InputError: missing or malformed file, unknown key (the nearest known one is named), a value of a wrong type or
            out of its limits.
    """
    layers = [] if path is None else [(str(path), _read(Path(path)))]
    layers += [("the command line", _parse(override)) for override in overrides]
    return _merged(kind, layers)


def of_values(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    """An instance of the dataclass `kind` with some values replaced; errors name the source.

    Raises:
        InputError: an unknown key, a value of a wrong type or out of its limits.
    """
    return _merged(kind, [(source, OmegaConf.create(dict(values)))])


def _merged(kind: type[T], layers: Iterable[tuple[str, DictConfig]]) -> T:
    layers = list(layers)
    for source, layer in layers:
        _check_keys(layer, kind, source)
    config = OmegaConf.structured(kind)
    try:
        # All at once, because each merge copies the whole config.
        config = OmegaConf.merge(config, *(layer for _, layer in layers))
    except (OmegaConfBaseException, TypeError):
        config = _merged_one_by_one(config, layers)
    try:
        missing = OmegaConf.missing_keys(config)
        if missing:
            raise InputError(f"settings without a value: {', '.join(sorted(missing))}; give them as key=value")
        resolved = OmegaConf.to_object(config)
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(f"settings that cannot be: {str(error).splitlines()[0]}") from error
    assert isinstance(resolved, kind)
    check_limits(resolved)
    return resolved


def _merged_one_by_one(config: Any, layers: Iterable[tuple[str, DictConfig]]) -> Any:
    """Merge layers into a config. Raises InputError that names the one that does not fit."""
    for source, layer in layers:
        try:
            config = OmegaConf.merge(config, layer)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            if re.search(r"is not a .*ListConfig", reason):
                reason = f"the value is a list, as in {error.full_key}=[a,b]"
            raise InputError(f"{source}: {reason} (at {error.full_key})") from error
        except TypeError as error:
            names = ", ".join(map(str, layer))
            raise InputError(f"{source}: a list takes a list, and a mapping a mapping; see {names}") from error
    return config


def construct(kind: type[T], arguments: dict[str, Any], setting: str) -> T:
    """Call `kind(**arguments)` for free-form settings. Raises InputError with the nearest name for an unknown one."""
    known = inspect.signature(kind.__init__).parameters
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, [key for key in known if key != "self"], n=1, cutoff=0)
            raise InputError(f"unknown setting {setting}.{name}; did you mean {setting}.{near[0]}?")
    try:
        return kind(**arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"settings {setting} that cannot be: {str(error).splitlines()[0]}") from error


def write(config: Any, folder: OutputFolder, name: str, free: Collection[str], *, elsewhere: bool = False) -> None:
    """Write a resolved config as YAML to a folder; `resolve` reads it back.

    Args:
        config: dataclass of settings.
        folder: locked folder; if it has a config with that name, it is resumed.
        name: name of the file.
        free: dotted names of settings that may differ from the earlier config.
        elsewhere: whether results may be where this folder does not show them.

    Raises:
        InputError: another setting differs, so that results in the folder would be mixed. An attempt that ended before
            anything was made, at a mistyped input for instance, does not count.
    """
    path = folder.path / name
    if folder.is_ours(name) and (elsewhere or not folder.holds_only(name)) and _unchanged(config, path, free):
        return
    folder.write(name, lambda part: save(config, part))


def check_unchanged(config: Any, path: Path, free: Collection[str]) -> None:
    """Refuse a config that differs from the one in a file written by `write`; a missing file is accepted.

    Args:
        config: dataclass of settings.
        path: path of the file.
        free: dotted names of settings that may differ.

    Raises:
        InputError: another setting differs.
    """
    if path.is_file():
        _unchanged(config, path, free)


def _unchanged(config: Any, path: Path, free: Collection[str]) -> bool:
    """Whether a file already holds a config. Raises InputError if a setting differs that is not in `free`."""
    try:
        then = _flat(OmegaConf.to_container(_read(path)))
    except InputError:  # damaged: rewrite it
        then = {}
    # Normalise to the file's types: tuples become lists.
    values = _flat(OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))))
    changed = [key for key in values if key in then and then[key] != values[key] and key not in free]
    if changed:
        changes = "; ".join(f"{key} was {then[key]!r}, is {values[key]!r}" for key in changed)
        raise InputError(
            f"{path.parent} was made with other settings ({changes}); give the same ones or another out= (a path "
            f"that has only moved can be put right in {path})"
        )
    return values == then


def save(config: Any, path: Path) -> None:
    """Write a resolved config as YAML; `resolve` reads it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), path)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted names."""
    if not isinstance(content, dict):
        return {prefix[:-1]: content}
    return {name: value for key, inner in content.items() for name, value in _flat(inner, f"{prefix}{key}.").items()}


def _read(path: Path) -> DictConfig:
    if not path.is_file():
        raise InputError(f"no config file at {path}; the repository's are under configs/")
    try:
        config = OmegaConf.load(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, OmegaConfBaseException) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, DictConfig):
        raise InputError(f"{path} must hold a mapping of settings, got {type(config).__name__}")
    return config


def _parse(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise InputError(f"expected key=value, got {override!r}")
    try:
        return OmegaConf.from_dotlist([override])
    except (yaml.YAMLError, RecursionError, OmegaConfBaseException, ValueError) as error:
        remedy = "; quote what has brackets of its own, as in a=['b=[1,2]']" if override.count("[") > 1 else ""
        raise InputError(f"{override!r:.80} cannot be read: {str(error).splitlines()[0]}{remedy}") from error


def _check_keys(layer: DictConfig, kind: type, source: str, prefix: str = "") -> None:
    """Check for unknown keys and name the nearest known one; free-form mappings (`dict` fields) accept any."""
    hints = typing.get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    for key in layer:
        name = str(key)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise InputError(f"{source}: unknown setting {prefix + name!r}; did you mean {prefix + near[0]!r}?")
        value = layer._get_node(key)
        if dataclasses.is_dataclass(known[name]) and isinstance(value, DictConfig):
            _check_keys(value, typing.cast(type, known[name]), source, f"{prefix}{name}.")
