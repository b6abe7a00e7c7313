import pytest

from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from tests.bundle import made


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return {
        "table": made.table_bundle(folder / "table"),
        "policy": made.policy_bundle(folder / "policy"),
        "text": made.text_bundle(folder / "text"),
    }


@pytest.fixture(scope="session")
def url(bundles):
    server = Server(bundles, listen("127.0.0.1", 0), limits=Limits(body=100_000, rows=500, seconds=0.5))
    with server.background() as url:
        yield url
