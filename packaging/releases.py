# SPDX-License-Identifier: GPL-2.0-or-later
"""The releases of Debian that packages are built for: the rows of `suites`."""

from pathlib import Path

import layout
from layout import Fail

HERE = Path(__file__).resolve().parent


class Release:
    """One row of `suites`."""

    def __init__(self, suite: str, base: str, tag: str,
                 *backports: str) -> None:
        self.suite = suite
        self.base = base
        self.tag = tag
        self.backports = backports


def releases() -> dict[str, Release]:
    rows = layout.table(HERE / "suites")
    if not rows or any(len(row) < 3 for row in rows):
        raise Fail("packaging/suites needs rows of three words or more: "
                   "suite, base, tag, packages from backports.")
    return {row[0]: Release(*row) for row in rows}


def chosen_release(suite: str | None) -> Release:
    known = releases()
    name = suite or next(iter(known))
    if name not in known:
        raise Fail(f"There is no suite '{name}' in packaging/suites; choose "
                   f"one of: {', '.join(known)}.")
    return known[name]
