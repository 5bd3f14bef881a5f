import pytest

from cus.viewer.server import may_connect

pytest.importorskip("viser", reason="the viewer in the browser needs viser")
from cus.viewer import load_scene  # noqa: E402
from cus.viewer.server import (
    Viewer,  # noqa: E402
    foreign_pages_refused,  # noqa: E402
)
from tests.viewer.scenes import write_folder  # noqa: E402


@pytest.mark.parametrize(
    ("origin", "host", "listening", "allowed", "right"),
    [
        ("http://localhost:8080", "localhost:8080", "127.0.0.1", [], True),
        ("http://[::1]:8080", "[::1]:8080", "127.0.0.1", [], True),
        (None, "127.0.0.1:8080", "127.0.0.1", [], True),
        # Through a tunnel to another port.
        ("http://localhost:9000", "localhost:9000", "127.0.0.1", [], True),
        ("https://evil.example", "localhost:8080", "127.0.0.1", [], False),
        ("http://localhost:3000", "localhost:8080", "127.0.0.1", [], False),
        ("null", "localhost:8080", "127.0.0.1", [], False),
        # A name of another site that is made to point at this machine.
        ("http://evil.example:8080", "evil.example:8080", "127.0.0.1", [], False),
        (None, "evil.example:8080", "127.0.0.1", [], False),
        (None, None, "127.0.0.1", [], False),
        ("http://workstation:8080", "workstation:8080", "0.0.0.0", [], True),
        ("https://evil.example", "workstation:8080", "0.0.0.0", [], False),
        ("https://hub.example.org", "localhost:8080", "127.0.0.1", ["https://hub.example.org/"], True),
    ],
)
def test_only_the_viewers_own_page_and_those_let_in_may_connect(origin, host, listening, allowed, right):
    assert may_connect(origin, host, listening, allowed) is right


def test_a_server_refuses_foreign_pages_and_serves_its_own(tmp_path):
    import viser
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with Viewer(load_scene(write_folder(tmp_path)), port=0) as viewer:
        address = f"ws://localhost:{viewer.port}"
        protocols = [f"viser-v{viser.__version__}"]
        with pytest.raises(InvalidStatus) as refused:
            connect(address, origin="https://evil.example", subprotocols=protocols)
        assert refused.value.response.status_code == 403 and not viewer.server.get_clients()
        with connect(address, origin=viewer.address.replace("127.0.0.1", "localhost"), subprotocols=protocols) as own:
            assert own.recv(timeout=20)


def test_a_server_that_is_started_in_another_way_is_not_taken_for_checked():
    with pytest.raises(RuntimeError, match="does not know"), foreign_pages_refused("127.0.0.1", []):
        pass
