"""How tests talk to the Hub of `tests.hub.server`: this process, or commands with the environment that users set."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub.server import Hub


def connect(patch: pytest.MonkeyPatch, endpoint: str, home: Path, token: str | None = None) -> None:
    """Let `huggingface_hub` in this process use a Hub and a cache; what it reads once at import is set over."""
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    if token is None:
        patch.delenv("HF_TOKEN", raising=False)
    else:
        patch.setenv("HF_TOKEN", token)


def run(
    module: str, *arguments: str, hub: Hub | str, home: Path, token: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of the package as users do, with HF_ENDPOINT and HF_HOME set.

    The Hub of the tests has no Xet storage, and the client would otherwise upload to it alone.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"} | variables
    environment["HF_ENDPOINT"] = hub if isinstance(hub, str) else hub.endpoint
    if token is not None:
        environment["HF_TOKEN"] = token
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


def put_folder(hub: Hub, repository: str, folder: Path, branch: str = "main") -> str:
    """Commit every file of a folder to a repository, as another program would; the commit."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return hub.repositories[repository].put(files, branch)


def unused_endpoint() -> str:
    """Where no Hub answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
