import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import made


@pytest.fixture(scope="session")
def _table(tmp_path_factory):
    return made.table_bundle(tmp_path_factory.mktemp("table") / "bundle").path


@pytest.fixture(scope="session")
def _policy(tmp_path_factory):
    return made.policy_bundle(tmp_path_factory.mktemp("policy") / "bundle").path


@pytest.fixture
def table_path(_table, tmp_path):
    """A copy of a table's bundle, to damage."""
    return Path(shutil.copytree(_table, tmp_path / "bundle"))


@pytest.fixture
def policy_path(_policy, tmp_path):
    """A copy of a policy's bundle, to damage."""
    return Path(shutil.copytree(_policy, tmp_path / "policy"))
