"""The browser page: viser's server with our scene and our panel. The only file that imports viser.

It restricts which pages may connect: any page in a browser can open a websocket here, but it states its origin.
"""

import contextlib
import http
import io
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any
from urllib.parse import urlsplit

from cus.errors import InputError
from cus.viewer.panel import Panel
from cus.viewer.scene import ViewScene
from cus.viewer.stage import Stage

_LOCAL = ("localhost", "127.0.0.1", "::1")


def _viser() -> ModuleType:
    """The optional package. Raises InputError with installation instructions if it is missing."""
    try:
        import viser
    except ImportError as error:
        raise InputError(
            "the viewer in the browser needs viser, which is not installed: pip install 'closeupshot[view]' "
            "(--record FILE works without it)"
        ) from error
    return viser


def free_port(host: str, port: int) -> int:
    """The port, or any free one for 0. Raises InputError if it is in use or the address is not local."""
    if not 0 <= port <= 65535:
        raise InputError(f"a port is a number from 0 to 65535, got {port}")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); choose another --port (0 takes any free one) "
            "or --host"
        ) from error


def check_server(host: str, port: int, max_gaussians: int | None, origins: Sequence[str] = ()) -> None:
    """Raise InputError if a viewer could not be started, before anything is loaded."""
    check_origins(origins)
    if not host.strip():
        raise InputError("--host is empty: give an address to listen on, 0.0.0.0 for all of this machine")
    free_port(host, port)
    if max_gaussians is not None and max_gaussians < 1:
        raise InputError(f"--max-gaussians must be at least 1, got {max_gaussians}")
    _viser()


class Viewer:
    """A page that shows a scene; ends with the `with` block or `close`.

    Args:
        scene: scene to show.
        host: address to listen on.
        port: port to listen on; 0 takes any free one.
        max_gaussians: show at most this many in the browser; recordings use all.
        origins: other sites whose pages may connect, such as "https://hub.example.org".

    Raises:
        InputError: viser is not installed, or the port is in use.
    """

    def __init__(
        self,
        scene: ViewScene,
        host: str = "127.0.0.1",
        port: int = 8080,
        max_gaussians: int | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        viser = _viser()
        # A browser that opens a connection in advance and drops it would be reported with a traceback.
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
        self.host, self.port = host, free_port(host, port)
        # viser always prints its address in a box; the command prints it in one line instead.
        with contextlib.redirect_stdout(io.StringIO()), foreign_pages_refused(host, origins):
            self.server = viser.ViserServer(host, self.port, label=f"CloseUpShot: {scene.name}", verbose=False)
        self.stage = Stage(self.server, scene, max_gaussians)
        self.stage.build()
        self.panel = Panel(self.server, self.stage)
        self.panel.build()

    @property
    def address(self) -> str:
        """The URL of the page."""
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}"

    def wait(self) -> None:
        """Wait until Ctrl-C."""
        threading.Event().wait()

    def close(self) -> None:
        """Close the page, and stop a running recording."""
        self.panel.stop()
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def may_connect(origin: str | None, host: str | None, listening: str, allowed: Sequence[str]) -> bool:
    """Whether a request comes from the viewer's own page, or from one that the user allows.

    Args:
        origin: Origin header of the request; None if it is not from a page.
        host: Host header, the address that the browser used.
        listening: address that the server listens on.
        allowed: origins that the user allows.
    """
    if origin is not None and origin.rstrip("/") in {each.rstrip("/") for each in allowed}:
        return True
    if _is_local(listening) and _name(f"//{host}") not in (*_LOCAL, listening):
        # Another site's domain name that its owner points at this machine (DNS rebinding).
        return False
    return origin is None or urlsplit(origin).netloc.lower() == (host or "").lower()


def _is_local(host: str) -> bool:
    return host in _LOCAL or host.startswith("127.")


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def check_origins(allowed: Sequence[str]) -> None:
    """Raise InputError for an invalid origin."""
    for origin in allowed:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise InputError(f"--allow-origin takes addresses like https://hub.example.org, got {origin!r}")


@contextmanager
def foreign_pages_refused(listening: str, allowed: Sequence[str]) -> Iterator[None]:
    """Make the websocket server started inside answer 403 to pages that may not connect.

    viser starts its server with `websockets.asyncio.server.serve` and passes no options through, so that function is
    replaced during the block.

    Raises:
        RuntimeError: no server was started that way, so nothing would be checked.
    """
    import websockets.asyncio.server as websockets

    serve, started = websockets.serve, []

    def checked_serve(*arguments: Any, process_request: Any = None, **options: Any) -> Any:
        def check(connection: Any, request: Any) -> Any:
            headers = request.headers
            if not may_connect(headers.get("Origin"), headers.get("Host"), listening, allowed):
                words = "This page may not connect; cus-view --allow-origin lets others in.\n"
                return connection.respond(http.HTTPStatus.FORBIDDEN, words)
            return None if process_request is None else process_request(connection, request)

        started.append(True)
        return serve(*arguments, process_request=check, **options)

    websockets.serve = checked_serve  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]
    try:
        yield
    finally:
        websockets.serve = serve  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]
    if not started:
        raise RuntimeError("viser started its server in a way that this version does not know")
