"""Restricts which pages may connect: any page in a browser can open a websocket here, but it states its origin."""

import http
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from cus.errors import InputError

_LOCAL = ("localhost", "127.0.0.1", "::1")


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
