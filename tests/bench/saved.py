# SPDX-License-Identifier: GPL-2.0-or-later
"""A saved result is shown again."""

import os
import re

from bench.browser import Scripts
from bench.stage import LABELS, Bench
from bench.terminal import (
    WIDTHS, check_width, figures_of, on_terminal, table_of)
from tap import case, check


@case("a saved result shows the same table and page again")
def report_shows_it_again(bench: Bench) -> None:
    done, _, path, page = bench.everything()
    other = bench.path("again.html")
    again = bench.good("report", path, "--html", other)
    check(again.out == table_of(done), "the tables differ")
    check(Scripts(other).result() == Scripts(page).result(), "the pages differ")


@case("a table is never wider than the terminal, and no figure is left out")
def table_fits(bench: Bench) -> None:
    path = bench.everything().saved
    whole = bench.good("report", path).out
    for columns in WIDTHS:
        code, err, said = on_terminal(bench, "report", path, columns=columns,
                                      stream="stdout")
        check(code == 0 and not err, f"exit code {code}, stderr {err!r}")
        check_width(said, columns)
        joined = " ".join(said.split())
        missing = figures_of(whole) - figures_of(joined)
        check(not missing, f"{columns} columns: {sorted(missing)} are missing")
        for label in LABELS:
            found = [line for line in said.splitlines()
                     if line.strip().startswith(label)]
            check(len(found) >= 6, f"{columns} columns: {label} is missing")


@case("a table that nobody sees is as wide as it needs, or as COLUMNS says")
def table_is_wide(bench: Bench) -> None:
    path = bench.everything().saved
    env = {key: value for key, value in os.environ.items()
           if key != "COLUMNS"}
    done = bench.good("report", path, env=env)
    check(len(re.findall("^  WHEN", done.out, re.M)) == 2,
          "the table is in pieces")
    for columns in WIDTHS:
        check_width(bench.good("report", path,
                               env={**env, "COLUMNS": str(columns)}).out,
                    columns)
    for text in ("", "x", "-1", "0", "1e9"):
        check(bench.good("report", path, env={**env, "COLUMNS": text}).out ==
              done.out, f"COLUMNS={text!r} changes it")
