import shutil
from pathlib import Path

import pytest

from tests.bundle import made


@pytest.fixture(scope="session")
def standing_table(tmp_path_factory):
    return made.table_bundle(tmp_path_factory.mktemp("table") / "bundle").path


@pytest.fixture(scope="session")
def standing_policy(tmp_path_factory):
    return made.policy_bundle(tmp_path_factory.mktemp("policy") / "bundle").path


@pytest.fixture
def table_path(standing_table, tmp_path):
    """A copy of a table's bundle, to damage."""
    return Path(shutil.copytree(standing_table, tmp_path / "bundle"))


@pytest.fixture
def policy_path(standing_policy, tmp_path):
    """A copy of a policy's bundle, to damage."""
    return Path(shutil.copytree(standing_policy, tmp_path / "policy"))
