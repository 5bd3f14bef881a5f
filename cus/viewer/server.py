"""The browser page: viser's server with our scene and our panel. The only file that imports viser."""

import contextlib
import io
import logging
import socket
import threading
from collections.abc import Sequence
from types import ModuleType, TracebackType

from cus.errors import InputError
from cus.viewer.origins import check_origins, foreign_pages_refused
from cus.viewer.panel import Panel
from cus.viewer.scene import ViewScene
from cus.viewer.stage import Stage


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
