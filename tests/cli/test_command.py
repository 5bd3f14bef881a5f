"""What every command does alike: statuses, last lines, output that nobody reads."""

import errno
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.console import ConsoleProgress, _so_far, describe_size, printable
from cus.cli.reading import Common
from cus.errors import InputError
from cus.limits import limited
from cus.options import option

COMMANDS = ("check_scene", "convert", "eval", "export", "fit", "infer", "push", "view")
# For each command, input that is missing.
MISSING = {
    "check_scene": ["none"],
    "convert": ["none.ckpt", "model"],
    "eval": ["--data", "none"],
    "export": ["none", "--format", "spz"],
    "fit": ["none"],
    "infer": ["--views", "none.jpg", "other.jpg"],
    "push": ["none", "org/name", "--dry-run"],
    "view": ["none", "--record", "walk.mp4"],
}


def main_of(command: str):
    return importlib.import_module(f"cus.cli.{command}").main


@dataclass(frozen=True)
class Lens:
    """How it looks.

    Attributes:
        zoom: magnification
        names: of what is looked at (default: all)
        cut: whether the margin goes (default: as the file says)
    """

    zoom: float = limited(2.5, above=0, high=64)
    names: Annotated[tuple[str, ...], option()] = ()
    cut: Annotated[bool | None, option()] = None


@dataclass(frozen=True)
class SomeOptions:
    """Only a test.

    Attributes:
        folder: where
        more: whatever else
        size: longest side, in pixels (default: the model's)
        kind: what to make
        lens: through which
        common: options of every command
    """

    folder: Annotated[Path, Positional, option("DIR")] = Path("out")
    more: Annotated[tuple[str, ...], Positional, option("[key=value ...]")] = ()
    size: Annotated[int | None, option("PIXELS")] = limited(None, low=64, high=4096)
    kind: Annotated[Literal["near", "far"], option()] = "near"
    lens: Lens = Lens()
    common: Common = Common()


def run(work, *arguments: str, **more: str) -> int:
    return run_command("cus-test", SomeOptions, work, arguments, epilog="examples:\n  cus-test\n", **more)


def ended(error: BaseException, *arguments: str) -> int:
    """The status of a command that ends in an error."""

    def work(*_) -> None:
        raise error

    return run(work, *arguments, memory_advice="take a smaller --size")


def read_by(*arguments: str) -> SomeOptions:
    found: list[SomeOptions] = []
    assert run(lambda options, _: found.append(options), *arguments) == 0
    return found[0]


def test_a_field_is_an_option_also_within_a_group():
    assert read_by() == SomeOptions()
    asked = read_by("in", "--size", "96", "--kind=far", "--zoom", "3", "--names", "a", "b", "--no-cut", "--quiet")
    assert asked == SomeOptions(Path("in"), (), 96, "far", Lens(3.0, ("a", "b"), False), Common(quiet=True))
    assert read_by("--cut").lens.cut is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--size many", "argument --size: expected a whole number, got 'many'"),
        ("--size 1.5", "argument --size: expected a whole number, got '1.5'"),
        (f"--size {'9' * 5000}", "argument --size: expected a whole number, got '999"),
        (f"--size {'9' * 400}", "--size must be 64 to 4096, got 999"),
        ("--size -1", "--size must be 64 to 4096, got -1"),
        ("--size=", "argument --size: expected a whole number, got ''"),
        ("--size", "argument --size: expected a value"),
        ("--zoom nan", "--zoom must be above 0 and at most 64, got nan"),
        ("--kind middle", "--kind must be one of near, far, got 'middle'"),
        ("--names", "argument --names: expected at least one value"),
        ("--siez 7", "unknown option --siez (did you mean --size?)"),
        ("a --size 96 -x", "unknown arguments: -x"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_plain_line(arguments, message, capsys):
    assert run(lambda *_: None, *arguments.split()) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and len(said) < 160


def test_help_has_each_field_with_its_unit_its_default_and_its_docstring(capsys):
    assert run(lambda *_: None, "--help") == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--size PIXELS longest side, in pixels (default: the model's)" in told
    assert "--zoom X magnification (default: 2.5)" in told and "--cut, --no-cut whether the margin goes (def" in told
    assert "--kind {near,far} what to make (default: near)" in told and "Only a test." in told and "None" not in told


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_input_is_an_error_of_one_line_and_status_two(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main_of(command)(MISSING[command]) == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1 and "none" in message and "Traceback" not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_an_error_that_names_the_nearest(command, capsys):
    assert main_of(command)([*MISSING[command], "--debg"]) == 2
    message = capsys.readouterr().err
    assert (
        message.count("\n") == 1
        and "did you mean --debug?" in message
        and f"cus-{command.replace('_', '-')} --help" in message
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_states_what_the_statuses_mean(command, capsys):
    assert main_of(command)(["--help"]) == 0
    text = capsys.readouterr().out
    assert "exit status: 0 done" in text and "130" in text and "--quiet" in text and "--json" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shell_can_complete_every_option(command, capsys):
    pytest.importorskip("shtab")
    main = main_of(command)
    assert main(["--print-completion", "bash"]) == 0
    assert "--overwrite" in capsys.readouterr().out or command == "push"
    assert main(["--print-completion", "zsh"]) == 0
    assert f"#compdef cus-{command.replace('_', '-')}" in capsys.readouterr().out
    assert main(["--print-completion", "cmd"]) == 2
    assert "must be one of bash" in capsys.readouterr().err


def test_a_bug_of_ours_is_one_line_status_one_and_a_file_with_the_traceback(capsys):
    assert ended(ValueError("five is\nright out")) == 1
    message = capsys.readouterr().err
    assert message.startswith("internal error: ValueError: five is; the traceback is in ") and message.count("\n") == 1
    log = Path(message.split("the traceback is in ")[1].split(";")[0])
    text = log.read_text()
    log.unlink()
    assert "raise error" in text and "right out" in text and "python: 3." in text and "torch: " in text


def test_debugging_shows_the_traceback(capsys, monkeypatch):
    assert ended(InputError("no such photograph: a.jpg"), "--debug") == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("CUS_DEBUG", "1")
    assert ended(InputError("no such photograph: a.jpg")) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("no such photograph: [red]/[/].jpg"), "error: no such photograph: [red]/[/].jpg"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a.png"), "error: the disk is full: out/a.png"),
        (PermissionError(errno.EACCES, "Permission denied", "out/[b].png"), "error: Permission denied: out/[b].png"),
        (MemoryError(), "error: the memory does not suffice; take a smaller --size"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
            "take a smaller --size",
        ),
    ],
)
def test_what_the_user_can_mend_has_status_two(error, message, capsys):
    assert ended(error) == 2
    assert message in capsys.readouterr().err


def test_an_interrupt_says_what_the_command_had_to_say(capsys):
    error = KeyboardInterrupt()
    error.add_note("2 of 5 stages are finished")
    assert ended(error) == 130
    assert capsys.readouterr().err == "interrupted: 2 of 5 stages are finished\n"


def test_json_is_one_object_a_line_and_ends_with_the_status(capsys):
    def work(_, progress: ConsoleProgress) -> None:
        with progress:
            with progress.loading():
                pass
            progress.start("Cameras and depth", False)(1, 2, "[bold] words")
            progress.finish("Cameras and depth", 1.25)
            progress.note("the focal length is [guessed]")
            progress.done("out", out=Path("out"))

    assert run(work, "--json", "--quiet") == 0
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert output.err == ""
    assert [line.get("stage") for line in lines] == ["loading", "scene", None]
    assert lines[1]["seconds"] == 1.25 and lines[1]["label"] == "Cameras and depth"
    assert lines[2]["event"] == "end" and lines[2]["status"] == 0 and lines[2]["out"] == "out"
    assert lines[2]["notes"] == ["the focal length is [guessed]"]
    assert ended(InputError("no such photograph"), "--json") == 2
    assert json.loads(capsys.readouterr().out) == {"event": "end", "status": 2, "error": "no such photograph"}


def test_control_characters_and_markup_are_printed_as_they_are(capsys):
    with ConsoleProgress() as progress:
        progress.say("[red]a[/red] :smile: \x1b[31m.jpg \udcff", "Done", "green")
    assert capsys.readouterr().err == "Done[red]a[/red] :smile: \\x1b[31m.jpg \\udcff\n"
    assert printable("ä — 日本\n") == "ä — 日本\n" and printable("\u202egpj.exe") == "\\u202egpj.exe"


def test_sizes_are_in_units_that_people_read():
    assert [describe_size(size) for size in (12, 3_400, 31_457_280, 2_500_000_000)] == [
        "12 bytes",
        "3.4 kB",
        "31 MB",
        "2.5 GB",
    ]


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and /dev/full")
@pytest.mark.parametrize(
    ("shell", "status", "words"),
    [
        ("{command} --help | true", "141", ""),
        ("{command} --views a --frames many 2>&1 >/dev/null | true", "141", ""),
        ("{command} --help >/dev/full", "2", "the disk is full"),
        ("{command} --help >&-", "0", ""),
        ("{command} --views a --frames many 2>&-", "2", ""),
    ],
)
def test_output_that_nobody_reads_ends_a_command_quietly(shell, status, words, tmp_path):
    # The pipe's reader has gone before the command has started.
    command = f"sleep 0.1; {sys.executable} -m cus.cli.infer"
    shell = "({ " + shell.format(command=command).replace(" | true", "; echo $? >status; } | true)")
    if "; } |" not in shell:
        shell += "; echo $? >status; })"
    process = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (tmp_path / "status").read_text().strip() == status
    assert words in process.stderr and process.stderr.count("\n") == (words != "")


@pytest.mark.parametrize(
    ("seconds", "share", "resumed", "text"),
    [
        (63, 0.4, 0.0, "40 %, 1 min 3 s so far, about 1 min 34 s left"),
        (60, 0.6, 0.5, "60 %, 1 min 0 s so far, about 4 min 0 s left"),
        (60, 0.5, 0.5, "... 1 min 0 s so far"),
        (5, 0.001, 0.0, "... 5 s so far"),
    ],
)
def test_the_time_left_is_told_by_what_this_run_has_done(seconds, share, resumed, text):
    assert _so_far(seconds, share, resumed) == text
