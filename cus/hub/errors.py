"""Turns the Hub's errors into one `InputError` with a remedy."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cus.errors import InputError

INDEX = "model_index.json"
LORA = "pytorch_lora_weights.safetensors"
# The kind of repository that has such a file.
_KINDS = {INDEX: "model of this package", LORA: "LoRA"}
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
# The library's HTTP client raises subclasses of its own errors' base class, whichever client it uses.
TRANSPORT: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError)


@dataclass(frozen=True)
class HubAccess:
    """Options of Hub requests. Unused for local folders.

    Attributes:
        revision: branch, tag or commit; None: the main branch.
        cache_dir: folder of the cache; None takes the library's (`HF_HOME`, `HF_HUB_CACHE`).
        token: access token; None takes that of the current login, False sends none.
        local_files_only: send no requests, use only the cache.
        force_download: fetch files again even if cached.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False

    @property
    def offline(self) -> bool:
        """Whether the user forbids requests."""
        return self.local_files_only or is_offline()


def is_offline() -> bool:
    """Whether --offline or HF_HUB_OFFLINE forbids requests."""
    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def offline() -> Iterator[None]:
    """Forbid requests to the Hub inside, also in child processes: --offline."""
    before = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before[0]
        if before[1] is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before[1]


@contextmanager
def hub_errors(repository: str, access: HubAccess, index: str = INDEX) -> Iterator[None]:
    """Turn the library's errors into one InputError with a remedy.

    Args:
        repository: "org/name".
        access: options of the requests.
        index: file that a repository of the wanted kind has, `INDEX` or `LORA`.
    """
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"{repository!r} cannot be the name of a model: {first_line(error)}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        # When looking for a file, the library treats a refusal as no answer.
        if isinstance(error.__cause__, HfHubHTTPError):
            raise InputError(_refused(repository, error.__cause__)) from error.__cause__
        raise InputError(_unreachable(repository, access, error)) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repository} has no revision {access.revision!r}{_revisions(repository, access)}") from error
    except EntryNotFoundError as error:
        raise InputError(f"{repository} on the Hub is no {_KINDS[index]}: it has no {index}") from error
    except HfHubHTTPError as error:
        raise InputError(_refused(repository, error)) from error
    except OSError as error:
        if error.errno is None:
            raise InputError(_broken(repository, error)) from error
        where = access.cache_dir or constants.HF_HUB_CACHE
        remedy = "make room" if error.errno == errno.ENOSPC else "see that it can be written to"
        raise InputError(
            f"cannot keep {repository} in the cache {where} ({error.strerror}); {remedy}, or set "
            "HF_HOME to another disk"
        ) from error
    except TRANSPORT as error:
        raise InputError(_unreachable(repository, access, error)) from error
    except (RuntimeError, ValueError) as error:
        raise InputError(_broken(repository, error)) from error


@contextmanager
def weights_errors(weights: str, licence: str) -> Iterator[None]:
    """The same for an estimator's weights; a file missing from a repository stays an `EntryNotFoundError`.

    Args:
        weights: "org/name".
        licence: licence of the weights, for messages.
    """
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(
            f"the weights {weights} ({licence}) are not in the Hub's cache, and the Hub cannot be reached "
            "(or --offline forbids asking it); download them once with a network, name a local file or folder after a "
            "colon (as in vggt:FOLDER), or use the estimator 'stereo', which needs none"
        ) from error
    except GatedRepoError as error:
        raise InputError(
            f"the weights {weights} ({licence}) are given out after their licence is accepted: do so on "
            f"https://huggingface.co/{weights}, then log in with: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(f"the Hub knows no {weights} (or it is private: hf auth login)") from error
    except EntryNotFoundError:
        raise
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"the weights {weights} cannot be downloaded: {first_line(error)}; try again") from error


def first_line(error: BaseException) -> str:
    """An error's message in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _broken(repository: str, error: Exception) -> str:
    return f"cannot get {repository} from the Hub: {first_line(error)}; run the same command again to fetch the rest"


def _unreachable(repository: str, access: HubAccess, error: Exception) -> str:
    revision = "" if access.revision is None else f" at {access.revision!r}"
    missing = f"{repository}{revision} is neither a folder here nor complete in the cache"
    if is_offline():
        return f"{missing}, and --offline or HF_HUB_OFFLINE forbids asking the Hub; leave it out, or name a folder"
    if access.local_files_only:
        return f"{missing}, and local_files_only forbids asking the Hub; leave it out, or name a folder"
    reason = first_line(error.__cause__ or error.__context__ or error)
    return f"{missing}, and the Hub at {constants.ENDPOINT} cannot be reached ({reason}); connect, or name a folder"


def _refused(repository: str, error: HfHubHTTPError) -> str:
    page = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated: ask for access at {page}, and {LOG_IN}"
    status = error.response.status_code
    sent = "authorization" in error.response.request.headers
    if status == 401 and sent and not isinstance(error, RepositoryNotFoundError):
        return f"the Hub does not accept the access token (for {repository}); {LOG_IN}"
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return (
            f"{repository} is neither a folder here nor a model that you can see at {constants.ENDPOINT}; check the "
            f"spelling, and if it is private, {LOG_IN}"
        )
    if status == 403:
        return f"the access token may not do this with {repository}; use one with that right: {LOG_IN}"
    if status == 429:
        return f"the Hub has had too many requests ({first_line(error)}); wait, and run the command again"
    return f"the Hub failed on {repository} ({first_line(error)}); try again later"


def _revisions(repository: str, access: HubAccess) -> str:
    """The revisions that exist, for a message."""
    try:
        refs = HfApi(token=access.token).list_repo_refs(repository)
    except TRANSPORT:
        return f"; see {constants.ENDPOINT}/{repository}"
    names = [ref.name for ref in (*refs.branches, *refs.tags) if re.fullmatch(r"[\w./-]+", ref.name)]
    return f"; there are {', '.join(names)}" if names else ""
