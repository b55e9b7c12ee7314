# SPDX-License-Identifier: GPL-2.0-or-later
"""CSV and Markdown."""

import csv
import io
import re

from bench.compare import judged, steady, steady_result
from bench.results import contenders, scenarios
from bench.stage import MADE, TINY, Bench
from bench.terminal import table_of
from tap import case, check


def read_csv(text: str) -> list[dict[str, str]]:
    """Its lines as dictionaries; all have the fields of the first."""
    lines = list(csv.reader(io.StringIO(text)))
    check(all(len(line) == len(lines[0]) for line in lines),
          "lines differ in their number of fields")
    return [dict(zip(lines[0], line)) for line in lines[1:]]


@case("--csv has each measure of each contender, as the JSON has it")
def csv_is_the_result(bench: Bench) -> None:
    done, result, path, _ = bench.everything()
    rows = read_csv(bench.good("report", path, "--csv", "-").out)
    for s in scenarios(result):
        for c in s["contenders"]:
            for name, measure in c["measures"].items():
                found = [row for row in rows if row["measure"] == name and
                         row["contender"] == c["label"] and
                         row["cache"] == s["knobs"]["cache"]]
                check(len(found) == (measure is not None),
                      f"{c['label']} {name}: {len(found)} lines")
                for row in found:
                    check(abs(float(row["median"]) - measure["median"]) <=
                          1e-6 * abs(measure["median"]), f"{name}: {row}")
    check(any(row["measure"] == "faults_p99_ns" for row in rows), "no faults")
    saved = bench.path("saved.csv")
    again = bench.good("report", path, "--csv", saved)
    check(again.out == table_of(done), "there is no table beside the file")
    check(read_csv(saved.read_text()) == rows, "the file has something else")


@case("compare --csv has all figures of the comparison")
def csv_is_the_comparison(bench: Bench) -> None:
    first, second = steady(bench), steady(bench, {"load_ns": 1.3})
    out = judged(bench, 3, first, second, "--csv", "-")
    found = [row for row in read_csv(out) if row["verdict"] == "FAILS"]
    check(len(found) == 2, f"{len(found)} lines fail, not 2")
    for row in found:
        check(row["contender"] == "fastload" and
              row["measure"] == "load_ns" and row["kind"] == "ratio" and
              abs(float(row["change"]) - 0.3) < 1e-6, f"it says {row}")


def check_markdown(text: str) -> int:
    """How many tables there are, each with rows of the same length."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line))
                  for line in table.splitlines()}
        check(len(counts) == 1, f"rows differ in columns: {table!r}")
    return len(tables)


@case("--markdown has the tables of results and comparisons")
def markdown_has_tables(bench: Bench) -> None:
    result, saved = steady_result(bench), bench.path("saved.md")
    path = bench.made_up(result)
    bench.good("report", path, "--markdown", saved)
    check(check_markdown(saved.read_text()) == 6, "these are not 6 tables")
    out = bench.good("compare", path, path, "--markdown", "-").out
    check(check_markdown(out) == 2, "these are not 2 tables")
    for c in contenders(result):
        c["label"] = "a|b<script>*c*"
    out = bench.good("report", bench.made_up(result), "--markdown", "-").out
    check(check_markdown(out) == 6, "a label breaks the tables")
    check(not re.search(r"(?<!\\)[<*]", out), "a label is markup")


@case("a run writes CSV and Markdown as report does")
def run_writes_formats(bench: Bench) -> None:
    paths = {name: bench.path(name) for name in ("json", "csv", "markdown")}
    bench.good(*TINY, *MADE, "--cache", "warm", "--contenders", "eager",
               *(f"--{name}={path}" for name, path in paths.items()))
    for name in ("csv", "markdown"):
        check(bench.good("report", paths["json"], f"--{name}", "-").out ==
              paths[name].read_text(), f"the {name} differs")
