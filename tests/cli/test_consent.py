"""The question whether to download a network, and --offline."""

import io
from pathlib import Path

import pytest
from huggingface_hub import constants

from cus.cli import check_scene, consent
from cus.cli.console import ConsoleProgress
from cus.errors import InputError


class Terminal(io.StringIO):
    """Standard input of a person who types these lines."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ConsoleProgress:
    """A command at a terminal, on a machine without any weights."""
    monkeypatch.setenv("CLOSEUPSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("cus.estimators.vggt.VGGT.missing_package", lambda self: "VGGT is not installed")
    monkeypatch.setattr("sys.stdin", Terminal("no\n"))
    progress = ConsoleProgress()
    progress.console._force_terminal = True
    return progress


def downloads(monkeypatch: pytest.MonkeyPatch, error: InputError | None = None) -> list[str]:
    """Names of the estimators that get downloaded; with `error`, every download fails."""
    found: list[str] = []

    def fetch(name: str) -> None:
        found.append(name)
        if error is not None:
            raise error

    monkeypatch.setattr(consent, "prepare", fetch)
    return found


def test_a_no_is_remembered_and_nothing_is_downloaded(terminal: ConsoleProgress, monkeypatch, capsys) -> None:
    found = downloads(monkeypatch)
    consent.offer_network("auto", terminal)
    assert "Apache-2.0" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    consent.offer_network("auto", terminal)
    assert "Apache-2.0" not in capsys.readouterr().out and found == []


def test_a_yes_downloads_the_network(terminal: ConsoleProgress, monkeypatch) -> None:
    found = downloads(monkeypatch)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    consent.offer_network("auto", terminal)
    assert found == ["da3"] and terminal.notes == []


def test_a_failing_download_becomes_a_note(terminal: ConsoleProgress, monkeypatch) -> None:
    downloads(monkeypatch, InputError("the Hub cannot be reached"))
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    consent.offer_network("auto", terminal)
    assert terminal.notes == ["Depth Anything 3 was not downloaded: the Hub cannot be reached"]


@pytest.mark.parametrize("why", ["another estimator", "offline", "no terminal", "json"])
def test_nobody_is_asked_without_need(why: str, terminal: ConsoleProgress, monkeypatch, capsys) -> None:
    found = downloads(monkeypatch)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n") if why == "no terminal" else Terminal("y\n"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", why == "offline")
    terminal.as_json = why == "json"
    consent.offer_network("stereo" if why == "another estimator" else "auto", terminal)
    assert found == [] and "Apache-2.0" not in capsys.readouterr().out


def test_offline_forbids_requests_while_the_command_runs_and_no_longer(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    states = []
    monkeypatch.setattr(check_scene, "check", lambda *_: states.append(constants.HF_HUB_OFFLINE))
    for arguments in ([], ["--offline"]):
        check_scene.main([str(tmp_path), *arguments])
    assert states == [False, True] and not constants.HF_HUB_OFFLINE
