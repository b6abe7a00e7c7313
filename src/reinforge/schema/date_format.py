"""Formats of dates other than ISO 8601, in the codes of `strptime` that mean the same on every machine.

Names of months and AM or PM are English, whatever the locale. Two digits of a year are 1969 to 2068, as POSIX has it.
"""

from __future__ import annotations

import re
from functools import cache

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMES = "january|february|march|april|may|june|july|august|september|october|november|december"
# Each code's name and pattern. Numbers of one or two digits take two where digits follow or stand before them.
_CODES = {
    "Y": ("year", r"\d{4}"), "y": ("short", r"\d\d"), "m": ("month", r"\d{1,2}"), "d": ("day", r"\d{1,2}"),
    "H": ("hour", r"\d{1,2}"), "I": ("twelve", r"\d{1,2}"), "M": ("minute", r"\d{1,2}"), "S": ("second", r"\d{1,2}"),
    "f": ("fraction", r"\d{1,9}"), "p": ("half", r"am|pm"), "z": ("zone", r"z|[+-]\d\d:?\d\d"),
    "b": ("name", rf"{_NAMES}|sept|{'|'.join(MONTHS)}"), "B": ("name", rf"{_NAMES}|sept|{'|'.join(MONTHS)}"),
}  # fmt: skip
_DIGITS = "YymdHIMSf"
_PART = re.compile(r"%(.?)|\s+|[^%\s]+", re.DOTALL)


@cache
def pattern(form: str) -> re.Pattern[str]:
    """What texts of this format match, with groups by what they hold. Raises ValueError for one that is no format of
    dates."""
    parts = list(_PART.finditer(form))
    codes = [part[1] for part in parts]
    found: list[str] = []
    seen: set[str] = set()
    for place, part in enumerate(parts):
        code = part[1]
        if code is None:
            found.append(r"\s+" if part[0].isspace() else re.escape(part[0]))
        elif code == "%":
            found.append("%")
        elif code not in _CODES:
            raise ValueError(f"format {form!r}: %{code} is none of {', '.join(f'%{known}' for known in _CODES)}")
        else:
            name, digits = _CODES[code]
            if name in seen:
                raise ValueError(f"format {form!r}: %{code} says again what is said already")
            seen.add(name)
            beside = {*codes[max(0, place - 1) : place], *codes[place + 1 : place + 2]} - {None}
            close = code in "mdHIMS" and any(other in _DIGITS for other in beside)
            found.append(f"(?P<{name}>{digits.replace('{1,2}', '{2}') if close else digits})")
    for needed in ({"year", "short"}, {"month", "name"}, {"day"}):
        if len(seen & needed) != 1:
            raise ValueError(f"format {form!r} needs a year (%Y or %y), a month (%m or %b) and a day (%d), each once")
    if ("twelve" in seen) != ("half" in seen) or {"hour", "twelve"} <= seen:
        raise ValueError(f"format {form!r}: hours are %H, or %I with %p")
    return re.compile("".join(found), re.ASCII | re.IGNORECASE)


def checked(form: str | None) -> str | None:
    """The format, which raises ValueError where it is none."""
    if form is not None:
        pattern(form)
    return form


def fields_of(found: re.Match[str]) -> tuple[int, int, int, int, int, int, int, int]:
    """Year, month, day, hour, minute, second, microseconds, and the zone's minutes, of a text that matched. Raises
    ValueError for hours beyond 12 before AM or PM, and zones that there are none of."""
    parts = found.groupdict()
    year = int(parts["year"]) if parts.get("year") else int(parts["short"])
    if not parts.get("year"):
        year += 1900 if year >= 69 else 2000
    month = int(parts["month"]) if parts.get("month") else MONTHS.index(parts["name"][:3].lower()) + 1
    hour = int(parts.get("hour") or 0)
    if parts.get("twelve"):
        hour = int(parts["twelve"])
        if not 1 <= hour <= 12:
            raise ValueError("hour must be in 1..12")
        hour = hour % 12 + (12 if parts["half"].lower() == "pm" else 0)
    zone, minutes = parts.get("zone"), 0
    if zone and zone.lower() != "z":
        hours, rest = int(zone[1:3]), int(zone[-2:])
        if hours > 23 or rest > 59:
            raise ValueError("there is no such time zone")
        minutes = (-1 if zone[0] == "-" else 1) * (60 * hours + rest)
    fraction = int((parts.get("fraction") or "0")[:6].ljust(6, "0"))
    minute, second = int(parts.get("minute") or 0), int(parts.get("second") or 0)
    return year, month, int(parts["day"]), hour, minute, second, fraction, minutes
