"""Databases by URL, asked and never changed: SQLite, and PostgreSQL through ADBC."""

from __future__ import annotations

import importlib
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import polars as pl

from reinforge.data.reading.delimited import Columns
from reinforge.data.reading.how import How
from reinforge.data.reading.records import unique_names
from reinforge.data.reading.rows import column_of
from reinforge.data.values import Origin
from reinforge.errors import DataError, MissingExtra
from reinforge.messages import _

SCHEMES = ("sqlite", "postgresql", "postgres")
_NAME = re.compile(r"\w+(?:\.\w+)?")


def is_database(source: str) -> bool:
    """Whether this is the URL of a database that can be read."""
    return source.partition("://")[0].lower() in SCHEMES and "://" in source


def read_database(url: str, base: Path, how: How) -> tuple[Columns, Origin]:
    """The rows of a table or a query, from `how.query`, or the URL's own `table=` or `query=`.

    `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://user@host:port/database`. The database is opened
    for reading only. A URL with a password is refused, since recipes and bundles are copied: PostgreSQL takes it
    from PGPASSWORD or ~/.pgpass. Raises DataError with the database's own words.
    """
    parts = urlsplit(url)
    settings = parse_qsl(parts.query, keep_blank_values=True)
    asked = how.query or next((value for key, value in settings if key in ("query", "table")), None)
    rest = urlencode([(key, value) for key, value in settings if key not in ("query", "table")])
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if parts.password or any(key == "password" for key, _value in settings):
        raise DataError(
            _("a password in a URL would be copied into the run and the bundle"),
            where=shown,
            remedy=_("Leave it out; set PGPASSWORD, or write it into ~/.pgpass."),
        )
    if not asked:
        raise DataError(
            _("it isn't said what to read"),
            where=shown,
            remedy=_("Set `query` to a table's name or a SELECT, or end the URL with ?table=NAME."),
        )
    query = f"SELECT * FROM {_quoted(asked)}" if _NAME.fullmatch(asked) else asked
    if parts.scheme == "sqlite":
        return _sqlite(base / unquote(parts.path[1:]), shown, query), Origin(shown)
    plain = urlunsplit(("postgresql", parts.netloc, parts.path, rest, ""))
    return _postgres(plain, shown, query), Origin(shown)


def _quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.split("."))


def _sqlite(path: Path, shown: str, query: str) -> Columns:
    if not path.is_file():
        remedy = _("It was looked for at {path}.").format(path=path.absolute())
        raise DataError(_("there is no such file"), where=shown, remedy=remedy)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as connection:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description or ()]
            rows = cursor.fetchall()
    except sqlite3.Error as error:
        raise _refused(error, shown) from error
    if not names:
        raise DataError(_("the query gives no rows"), where=shown, remedy=_("It must be a SELECT."))
    names = unique_names(names, shown)
    columns = zip(*rows) if rows else ([] for _name in names)
    return {name: column_of(name, values, Origin(shown)) for name, values in zip(names, columns)}


def _postgres(url: str, shown: str, query: str) -> Columns:
    try:
        adbc: Any = importlib.import_module("adbc_driver_postgresql.dbapi")
    except ImportError:
        raise MissingExtra("adbc-driver-postgresql", "sql") from None
    try:
        with closing(adbc.connect(url)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            connection.commit()
            cursor.execute(query)
            frame = pl.DataFrame(cursor.fetch_polars())
    except adbc.Error as error:
        raise _refused(error, shown) from error
    return {name: frame[old] for name, old in zip(unique_names(frame.columns, shown), frame.columns)}


def _refused(error: Exception, shown: str) -> DataError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(_("the database refused: {reason}").format(reason=first), where=shown)
