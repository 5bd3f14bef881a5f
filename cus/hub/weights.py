"""Weights of other projects' networks: a file, a folder, or a repository on the Hub."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from cus.errors import InputError
from cus.hub.errors import weights_errors

CONFIG = "config.json"


def find_weights(weights: str, names: Sequence[str]) -> Path | None:
    """Find a file of weights locally: the file itself, or the first of `names` in a folder or in the Hub's cache.

    Args:
        weights: path of a file or folder, or a Hub id such as "org/name".
        names: file names in order of preference.

    Returns:
        The file; None for a Hub id that is not in the cache.

    Raises:
        InputError: a folder without any such file, or neither a path nor a Hub id.
    """
    path = Path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return path / name
        raise InputError(f"the folder {path} has no weights; expected one of {', '.join(names)} in it")
    _check_id(weights)
    for name in names:
        cached = try_to_load_from_cache(weights, name)
        if isinstance(cached, str):
            return Path(cached)
    return None


def fetch_weights(weights: str, names: Sequence[str], licence: str) -> Path:
    """Like `find_weights`, but downloads weights that are missing locally; the Hub's own bar shows the progress.

    A repository's `config.json`, if any, is fetched into the same folder.

    Args:
        weights: path of a file or folder, or a Hub id.
        names: file names in order of preference.
        licence: licence of the weights, for messages.

    Raises:
        InputError: as `find_weights`; or the Hub is unreachable, does not know the id, or requires accepting a licence
            first.
    """
    found = find_weights(weights, names)
    if found is None:
        found = _download(weights, names, licence)
    if not Path(weights).exists() and try_to_load_from_cache(weights, CONFIG) is None:
        # Optional: not every repository has one, and cached weights must work without a network.
        with suppress(EntryNotFoundError, HfHubHTTPError, OSError):
            hf_hub_download(weights, CONFIG)
    return found


def _download(weights: str, names: Sequence[str], licence: str) -> Path:
    for name in names:
        with suppress(EntryNotFoundError), weights_errors(weights, licence):
            return Path(hf_hub_download(weights, name))
    raise InputError(f"the Hub's {weights} holds none of {', '.join(names)}; name a repository with such weights")


def _check_id(weights: str) -> None:
    reason = ""
    if weights.count("/") != 1 or weights.startswith((".", "/", "~")):
        reason = "expected a file, a folder, or a Hub id like facebook/VGGT-1B"
    else:
        try:
            try_to_load_from_cache(weights, CONFIG)
        except HFValidationError as error:
            reason = str(error).splitlines()[0]
    if reason:
        raise InputError(f"there are no weights at {weights!r}: {reason}")
