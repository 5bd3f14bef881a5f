"""Models of the Hugging Face Hub: which of their files are fetched, and what is said where that cannot be.

Everything goes through `huggingface_hub` and its cache. Its errors become one `InputError` that says what to do.
"""

import errno
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
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
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from cus.errors import InputError

OnFetched = Callable[[int, int], None]
INDEX = "model_index.json"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
# The library's HTTP client raises subclasses of what its own errors derive from, whichever client that is.
TRANSPORT: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError)


@dataclass(frozen=True)
class HubAccess:
    """How the Hub is asked. Nothing here matters for a folder.

    Attributes:
        revision: branch, tag or commit; None is the main branch.
        cache_dir: where files are kept; None takes the library's (`HF_HOME`, `HF_HUB_CACHE`).
        token: access token; None takes the one logged in with, False sends none.
        local_files_only: ask nothing, take what the cache holds.
        force_download: fetch again what the cache holds.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False

    @property
    def offline(self) -> bool:
        """Whether the user wants no request to be made."""
        return self.local_files_only or bool(constants.HF_HUB_OFFLINE)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Attributes:
        size: bytes.
        etag: what the cache calls its content.
    """

    size: int
    etag: str


@dataclass(frozen=True)
class HubModel:
    """One commit of a repository, and the folder of the cache that its files come to.

    Attributes:
        id: "org/name".
        access: how it is asked for.
        commit: hash.
        folder: holds what has been fetched so far.
        files: everything in the repository by path; None where the Hub is not to be asked or cannot be.
        unreachable: why it cannot be; empty otherwise.
    """

    id: str
    access: HubAccess
    commit: str
    folder: Path
    files: dict[str, HubFile] | None
    unreachable: str = ""

    def file(self, path: str) -> Path:
        """One file, fetched unless it is there. Raises InputError where it cannot be."""
        if self.files is None or path not in self.files:
            if not (self.folder / path).is_file():
                raise InputError(f"the model {self.id} is incomplete: {self.folder} lacks {path}; connect to the Hub")
            return self.folder / path
        with hub_errors(self.id, self.access):
            return Path(hf_hub_download(self.id, path, revision=self.commit, **_options(self.access)))

    def cached(self) -> set[str]:
        """Paths of what the cache holds of this commit."""
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}

    def tell_unreachable(self) -> None:
        """Note that the cache stands in for the Hub, where the user did not ask for that."""
        if self.unreachable:
            logging.getLogger(__name__).warning(
                f"the Hub gives no answer for {self.id} ({self.unreachable}): using the cached commit {self.commit[:7]}"
            )

    def fetch(self, paths: Sequence[str], on_progress: OnFetched | None = None) -> None:
        """Get these files. What is complete in the cache is not fetched again.

        Args:
            paths: in the repository.
            on_progress: called with (bytes here, bytes in all) about twice a second; None shows the library's bars.

        Raises:
            InputError: too little disk space (before anything is fetched), or they cannot be got.
        """
        wanted = [path for path in paths if self.access.force_download or not (self.folder / path).is_file()]
        if not wanted or self.files is None:
            return
        blobs = self.folder.parents[1] / "blobs"
        missing = {self.files[path].etag: self.files[path].size for path in wanted}
        need = sum(size for etag, size in missing.items() if not (blobs / etag).exists())
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise InputError(
                f"{self.id} needs {need / 1e9:.2f} GB more in the cache {self.folder.parents[2]}, where "
                f"{free / 1e9:.2f} GB are free; make room, or set HF_HOME to a larger disk"
            )
        with hub_errors(self.id, self.access), _reported(blobs, missing, on_progress):
            # Every path in `wanted` is a plain name, so that as a pattern it matches itself alone.
            snapshot_download(self.id, revision=self.commit, allow_patterns=wanted, **_options(self.access))


def parse_id(name: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """("org/name", revision) of "org/name" or "org/name@revision"; None for what cannot be a Hub id.

    Raises:
        InputError: two revisions.
    """
    repository, at, spelled = name.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")) or repository.startswith((".", "~")):
        return None
    if at and not spelled:
        raise InputError(f"{name!r} names no revision after the @; write {repository}@main, or {repository}")
    if spelled and revision not in (None, spelled):
        raise InputError(f"{name} names the revision {spelled}, but {revision} is asked for as well; give one")
    return repository, spelled or revision


def open_hub(repository: str, access: HubAccess) -> HubModel:
    """The commit that a model stands at, with its index fetched and nothing else.

    Where the Hub cannot be reached or refuses, what the cache holds stands in.

    Raises:
        InputError: no such model, no access, no such revision, or nothing cached while the Hub cannot be reached.
    """
    files, refusal = None, None
    if not access.offline:
        try:
            with hub_errors(repository, access):
                files = _files(repository, access.revision, access)
        except InputError as error:
            refusal = error
    # Asked for a file, a Hub that cannot be reached would be tried for half a minute: the cache is asked alone then.
    asked = access if files is not None else replace(access, local_files_only=True)
    try:
        with hub_errors(repository, asked):
            index = Path(hf_hub_download(repository, INDEX, revision=access.revision, **_options(asked)))
    except InputError as error:
        raise refusal or error from error.__cause__
    if refusal is not None and isinstance(refusal.__cause__, RevisionNotFoundError):
        raise refusal
    reason = "" if refusal is None else first_line(refusal.__cause__ or refusal)
    return HubModel(repository, access, index.parent.name, index.parent, files, reason)


def _files(repository: str, revision: str | None, access: HubAccess) -> dict[str, HubFile]:
    """What a repository holds, in one request."""
    api = HfApi(token=access.token)
    info = api.model_info(
        repository, revision=revision, files_metadata=True, timeout=float(constants.HF_HUB_ETAG_TIMEOUT)
    )
    return {
        file.rfilename: HubFile(file.size or 0, (file.lfs.sha256 if file.lfs else file.blob_id) or "")
        for file in info.siblings or []
    }


@contextmanager
def hub_errors(repository: str, access: HubAccess) -> Iterator[None]:
    """Turn the library's errors into one InputError that says what to do."""
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"{repository!r} cannot be the name of a model: {first_line(error)}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        # The library takes an answer that refuses for none where it looks for a file.
        if isinstance(error.__cause__, HfHubHTTPError):
            raise InputError(_refused(repository, error.__cause__)) from error.__cause__
        raise InputError(_unreachable(repository, access, error)) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repository} has no revision {access.revision!r}{_revisions(repository, access)}") from error
    except EntryNotFoundError as error:
        raise InputError(f"{repository} on the Hub is no model of this package: it has no {INDEX}") from error
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


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _reported(blobs: Path, sizes: dict[str, int], on_progress: OnFetched | None) -> Iterator[None]:
    """Report how much of some contents is on the disk, instead of the library's bars, which break into others."""
    if on_progress is None:
        yield
        return
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.5):
            # While a file is on its way its name goes on after the digest.
            here = sum(min(size, _bytes_of(blobs, etag)) for etag, size in sizes.items())
            on_progress(here, sum(sizes.values()))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
        on_progress(sum(sizes.values()), sum(sizes.values()))
    finally:
        ended.set()
        watcher.join()
        if not quiet:
            enable_progress_bars()


def _bytes_of(blobs: Path, etag: str) -> int:
    sizes = []
    for path in blobs.glob(f"{etag}*"):
        # It may be moved into place at this moment.
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return max(sizes, default=0)


def _options(access: HubAccess) -> dict[str, Any]:
    return {
        "cache_dir": access.cache_dir,
        "token": access.token,
        "local_files_only": access.local_files_only,
        "force_download": access.force_download,
    }


def _broken(repository: str, error: Exception) -> str:
    return f"cannot get {repository} from the Hub: {first_line(error)}; the same command again fetches what is missing"


def _unreachable(repository: str, access: HubAccess, error: Exception) -> str:
    revision = "" if access.revision is None else f" at {access.revision!r}"
    missing = f"{repository}{revision} is neither a folder here nor complete in the cache"
    if constants.HF_HUB_OFFLINE:
        return f"{missing}, and HF_HUB_OFFLINE forbids asking the Hub; unset it, or name a folder"
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
    """What there is instead, for a message."""
    try:
        refs = HfApi(token=access.token).list_repo_refs(repository)
    except TRANSPORT:
        return f"; see {constants.ENDPOINT}/{repository}"
    names = [ref.name for ref in (*refs.branches, *refs.tags) if re.fullmatch(r"[\w./-]+", ref.name)]
    return f"; there are {', '.join(names)}" if names else ""
