"""Tests read English messages, whatever the locale; those of other languages say so themselves."""

import os

os.environ["REINFORGE_LANG"] = "en"
