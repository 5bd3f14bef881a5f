"""The frame around the scripts in train/ and data/, like `cus.cli.command` for the commands."""

import os
import time
from collections.abc import Callable

from cus.cli.command import Telling, debug_asked, guarded
from cus.cli.console import LOADING, ConsoleProgress
from cus.cli.failures import STATUSES

_SETTINGS = """settings: [config.yaml] [name=value ...], or --config config.yaml --name value ...
--settings lists them all with their defaults, units and limits; docs/training.md and docs/data.md explain them"""
MEMORY_ADVICE = "take a smaller loop.batch=, crop= or frames="


def run_script(
    work: Callable[[list[str], "Counter"], object], path: str, words: str | None, arguments: list[str]
) -> int:
    """Call `work` with the arguments, `[config.yaml] [key=value ...]`; returns the exit status.

    Args:
        work: script, called with the arguments and a progress callback (done, total); slow imports are inside it.
        path: path of the script from the repository's root.
        words: text of --help.
        arguments: arguments of the process, which ends with the script.
    """
    started = time.perf_counter()
    given = [argument for argument in arguments if argument != "--debug"]

    def run() -> None:
        if "-h" in given or "--help" in given:
            print(f"{(words or path).strip()}\n\n{_SETTINGS}\n\n{STATUSES}", end="")
        else:
            # Of several processes, only one prints.
            quiet = os.environ.get("RANK", "0") != "0"
            with ConsoleProgress(quiet=quiet, started=started) as progress:
                work(given, Counter(progress))

    name = path.replace("/", "-").removesuffix(".py")
    return guarded(run, Telling(name, MEMORY_ADVICE, debug=debug_asked(arguments)), final=True)


class Counter:
    """Shows the number of steps or clips done; everything before the first call counts as loading."""

    def __init__(self, progress: ConsoleProgress) -> None:
        self.progress, self.label = progress, ""
        self.started = progress.started
        progress.start(LOADING, False)

    def __call__(self, done: int, total: int, words: str = "") -> None:  # noqa: D102
        if not self.label:
            self.progress.finish(LOADING, time.perf_counter() - self.started)
            self.label, self.started = "Work", time.perf_counter()
            self.report = self.progress.start(self.label, False)
        self.report(done, total, words or f"{done} of {total}")
        if done >= total:
            self.progress.finish(self.label, time.perf_counter() - self.started)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.progress.say(text)
