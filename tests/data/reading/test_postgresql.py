"""PostgreSQL, asked by URL: against a server of this machine, where one is installed."""

import glob
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reinforge.data.readers import read
from reinforge.errors import DataError

BIN = next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BIN, reason="no PostgreSQL server is installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a server's socket; it listens on nothing else, and ends with the tests."""
    folder = tmp_path_factory.mktemp("pg")
    folder.chmod(0o777)
    for parent in folder.parents[:3]:
        parent.chmod(0o755)
    # A server refuses to run as root.
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def run(*command: str) -> None:
        subprocess.run([*become, *command], check=True, capture_output=True, timeout=60, cwd=folder)

    data = folder / "data"
    run(f"{BIN}/initdb", "-D", str(data), "-A", "trust", "-U", "postgres")
    run(
        f"{BIN}/pg_ctl",
        "-D",
        str(data),
        "-w",
        "-l",
        str(folder / "log"),
        "-o",
        f"-c listen_addresses= -k {folder}",
        "start",
    )
    try:
        script = (
            "CREATE TABLE people (n int, x float8, name text); INSERT INTO people VALUES (1, 0.5, 'a'), (2, NULL, '温')"
        )
        run(f"{BIN}/psql", "-h", str(folder), "-U", "postgres", "-c", script)
        yield folder
    finally:
        run(f"{BIN}/pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(data, ignore_errors=True)


def test_a_table_and_a_query(server: Path) -> None:
    url = f"postgresql://postgres@/postgres?host={server}"
    expected = {"n": [1, 2], "x": [0.5, None], "name": ["a", "温"]}
    for table in (read(url, query="people"), read(f"{url}&table=people"), read(url, query="public.people")):
        assert {name: series.to_list() for name, series in table.columns.items()} == expected
    chosen = read(url, query="SELECT name FROM people WHERE n = 2")
    assert chosen.columns["name"].to_list() == ["温"]
    assert str(server) not in chosen.origin.name


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("animals", "does not exist"),
        ("DELETE FROM people RETURNING n", "read-only"),
        ("DROP TABLE people", "read-only"),
    ],
)
def test_nothing_is_changed(server: Path, query: str, problem: str) -> None:
    url = f"postgresql://postgres@/postgres?host={server}"
    with pytest.raises(DataError, match=problem):
        read(url, query=query)
    assert len(read(url, query="people")) == 2
