"""What a recipe says about reading, in one piece for every form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reinforge.data.reading.decimals import Decimal
from reinforge.data.reading.encodings import AUTO

Absent = Literal["error", "null"]


@dataclass(frozen=True)
class How:
    """How a table is read. `delimiter`: None to tell it; `sheet`: of a spreadsheet, by default the first; `query`:
    of a database, a table's name or a SELECT; `absent`: what a key that a JSON row lacks means; `decimal`: what stands
    before decimals, None to tell it."""

    delimiter: str | None = None
    encoding: str = AUTO
    absent: Absent = "error"
    sheet: str | None = None
    query: str | None = None
    decimal: Decimal | None = None
