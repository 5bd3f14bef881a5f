"""Models on the Hugging Face Hub: which of their files to fetch, and errors if that fails.

Everything goes through `huggingface_hub` and its cache. Its errors become one `InputError` with a remedy.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from cus.errors import InputError
from cus.hub.errors import INDEX, HubAccess, first_line, hub_errors

OnFetched = Callable[[int, int], None]


@dataclass(frozen=True)
class HubFile:
    """A file in a repository.

    Attributes:
        size: size in bytes.
        etag: the cache's name for its content.
    """

    size: int
    etag: str


@dataclass(frozen=True)
class HubModel:
    """One commit of a repository, and its folder in the cache.

    Attributes:
        id: "org/name".
        access: options of the requests.
        commit: hash of the commit.
        folder: folder of the files fetched so far.
        files: all files in the repository by path; None if the Hub must not be asked or is unreachable.
        unreachable: reason why it is unreachable; empty otherwise.
    """

    id: str
    access: HubAccess
    commit: str
    folder: Path
    files: dict[str, HubFile] | None
    unreachable: str = ""

    def file(self, path: str) -> Path:
        """The local path of one file, which is fetched if necessary. Raises InputError if that fails."""
        if self.files is None or path not in self.files:
            if not (self.folder / path).is_file():
                raise InputError(f"the model {self.id} is incomplete: {self.folder} lacks {path}; connect to the Hub")
            return self.folder / path
        with hub_errors(self.id, self.access):
            return Path(hf_hub_download(self.id, path, revision=self.commit, **_options(self.access)))

    def cached(self) -> set[str]:
        """Paths of the commit's files in the cache."""
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}

    def tell_unreachable(self) -> None:
        """Note that the cache replaces the Hub, unless the user asked for that."""
        if self.unreachable:
            logging.getLogger(__name__).warning(
                f"the Hub gives no answer for {self.id} ({self.unreachable}): using the cached commit {self.commit[:7]}"
            )

    def fetch(self, paths: Sequence[str], on_progress: OnFetched | None = None) -> None:
        """Fetch these files unless they are complete in the cache.

        Args:
            paths: paths in the repository.
            on_progress: called with (bytes fetched, total bytes) about twice a second; None shows the library's bars.

        Raises:
            InputError: too little disk space (before anything is fetched), or a failed download.
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
            # Every path in `wanted` is a plain name, so as a pattern it matches only itself.
            snapshot_download(self.id, revision=self.commit, allow_patterns=wanted, **_options(self.access))


def parse_id(name: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """("org/name", revision) of "org/name" or "org/name@revision"; None if it cannot be a Hub id.

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


def open_hub(repository: str, access: HubAccess, index: str = INDEX) -> HubModel:
    """The commit of a model at a revision; fetches only its index.

    If the Hub is unreachable or refuses, the cache is used instead.

    Args:
        repository: "org/name".
        access: options of the requests.
        index: file to fetch; for a LoRA, its only file, the weights.

    Raises:
        InputError: no such model, no access, no such revision, or nothing cached while the Hub is unreachable.
    """
    files, refusal = None, None
    if not access.offline:
        try:
            with hub_errors(repository, access, index):
                files = _files(repository, access.revision, access)
        except InputError as error:
            refusal = error
    # Asking an unreachable Hub for a file would take half a minute of retries: only ask the cache then.
    asked = access if files is not None else replace(access, local_files_only=True)
    try:
        with hub_errors(repository, asked, index):
            found = Path(hf_hub_download(repository, index, revision=access.revision, **_options(asked)))
    except InputError as error:
        raise refusal or error from error.__cause__
    if refusal is not None and isinstance(refusal.__cause__, RevisionNotFoundError):
        raise refusal
    reason = "" if refusal is None else first_line(refusal.__cause__ or refusal)
    return HubModel(repository, access, found.parent.name, found.parent, files, reason)


def _files(repository: str, revision: str | None, access: HubAccess) -> dict[str, HubFile]:
    """The files in a repository, from one request."""
    api = HfApi(token=access.token)
    info = api.model_info(
        repository, revision=revision, files_metadata=True, timeout=float(constants.HF_HUB_ETAG_TIMEOUT)
    )
    return {
        file.rfilename: HubFile(file.size or 0, (file.lfs.sha256 if file.lfs else file.blob_id) or "")
        for file in info.siblings or []
    }


@contextmanager
def _reported(blobs: Path, sizes: dict[str, int], on_progress: OnFetched | None) -> Iterator[None]:
    """Report how much is already on disk, instead of the library's bars, which break into ours."""
    if on_progress is None:
        yield
        return
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.5):
            # The name of a partial download has a suffix after the digest.
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
        # The file may be moved into place at this moment.
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
