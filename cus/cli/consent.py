"""Asks once whether to download the network that `--estimator auto` would prefer if its weights were here."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cus.errors import InputError
from cus.estimators.choice import choose, prepare
from cus.hub.errors import is_offline
from cus.remote import cache_folder

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress

NETWORK = "da3"
QUESTION = (
    "Depth Anything 3 (small: about 140 MB, Apache-2.0) finds depth where the embedded stereo cannot: walls without\n"
    "texture, hardly any parallax, a single photograph. Download it now from the Hugging Face Hub? You are asked only "
    "once. [y/N] "
)


def offer_network(estimator: str, progress: "ConsoleProgress") -> None:
    """Ask a person at a terminal whether to download what "auto" lacks; then download it, or remember the "no".

    Does nothing if another estimator was named, with --offline, or if "auto" has a network already. A download that
    fails becomes a note, and the run goes on without the network.
    """
    refusal = cache_folder() / f"no-{NETWORK}"
    if estimator != "auto" or is_offline() or not _at_terminal(progress) or refusal.exists():
        return
    if choose("auto", 2).name != "stereo":
        return
    with progress.paused():
        agreed = _ask()
    if not agreed:
        _remember(refusal)
        progress.say(f"Not downloaded, and you are not asked again; --estimator {NETWORK} downloads it.")
        return
    try:
        prepare(NETWORK)
    except InputError as error:
        progress.note(f"Depth Anything 3 was not downloaded: {error}")


def _at_terminal(progress: "ConsoleProgress") -> bool:
    asked = not (progress.as_json or progress.console.quiet) and progress.console.is_terminal
    return asked and sys.stdin is not None and sys.stdin.isatty()


def _ask() -> bool:
    try:
        return input(QUESTION).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _remember(refusal: Path) -> None:
    """Write the file; where that is impossible, the question comes again."""
    try:
        refusal.parent.mkdir(parents=True, exist_ok=True)
        refusal.write_text(f"{NETWORK} is not to be downloaded. Delete this file to be asked again.\n")
    except OSError:
        pass
