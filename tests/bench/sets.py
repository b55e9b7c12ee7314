# SPDX-License-Identifier: GPL-2.0-or-later
"""Working sets: recorded in a rehearsal, replayed by contenders, and shown."""

import os
from pathlib import Path
import re
from typing import Any

from bench.browser import Figures, Scripts, report_of
from bench.gate import Gate
from bench.places import needs_simulation
from bench.results import all_counted, check_names, contenders, scenarios
from bench.stage import (
    MADE, MIB, PAGE, TINY, Bench, Child, load_result, one_sentence)
from tap import Failed, case, check

TESTS = Path(__file__).resolve().parents[1]
TWO_BLOCKS = TESTS / "fuzz" / "corpus-workset" / "two-blocks"
REPLAYING = ("fastload replay", "reap", "e2b")
# Each page of the guest's working set is touched once.
REPLAY = ("--direct", "off", "--pattern", "uniform", "--replay", "on",
          "--contenders", "fastload,reap,e2b")
PICTURE = "The working sets that were replayed"


def pages_of(contender: dict[str, Any], arrival: str) -> int:
    """How many pages with data came so."""
    cell_pages = contender["map"]["cell_pages"]
    return sum(round(share * cell_pages / 255)
               for share in contender["map"][arrival])


def drawn(block: dict[str, Any]) -> int:
    return sum(sum(row) for row in block["tenths"])


@case("--replay, reap and e2b bring first what a rehearsal has recorded")
def sets_are_replayed(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--zero-share", "0", "--vcpus", "2",
                            *REPLAY, "--replay", "off,on")
    check_names(result, ("null", "fastload", *REPLAYING))
    all_counted(result, 1)
    for c in contenders(result):
        found = c.get("working_set")
        check((found is not None) == (c["label"] in REPLAYING),
              f"{c['label']} has {found}")
        check(c["knobs"].get("replay", False) ==
              (c["label"] == "fastload replay"),
              f"{c['label']} has {c['knobs']}")
        if not found:
            continue
        check(found["page_count"] == sum(map(drawn, found["blocks"])),
              f"{c['label']}: {found}")
        check(pages_of(c, "hint") > 0, f"{c['label']} replayed nothing")
        if c["name"] != "fastload":         # whose recording ends by a clock
            check(found["page_count"] == MIB // PAGE,
                  f"{c['label']}: {found['page_count']} pages")
            brought = pages_of(c, "hint") + pages_of(c, "urgent")
            check(brought == MIB // PAGE, f"{c['label']} brought {brought}")
        if c["name"] == "reap":
            check(pages_of(c, "urgent") == 0, "reap's guest waited for more")


@case("clones replay one recorded set")
def clones_replay(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--clones", "3", "--cache", "warm",
                            *REPLAY)
    check_names(result, ("null", *REPLAYING))
    all_counted(result, 1)


@case("the contents of a set come from simulated storage, too")
def set_on_simulated_storage(bench: Bench) -> None:
    needs_simulation(bench)
    result = bench.measured(*TINY, *MADE, "--storage", "rtt=5ms,rate=20M",
                            "--cache", "warm", *REPLAY)
    all_counted(result, 1)
    for c in contenders(result):
        if c["name"] == "reap":
            read, run = (c["measures"][name]["min"]
                         for name in ("read_bytes", "run_ns"))
            check(read >= MIB, f"reap read {read} bytes")
            check(run >= 50e6, f"reap's guest ran after {run} ns")


def change_set(bench: Bench, child: Child, at: int) -> None:
    """Changes a byte of the set that @child has open."""
    for link in Path(f"/proc/{child.pid}/fd").iterdir():
        if re.search(r"\.set( \(deleted\))?$", os.readlink(link)):
            with link.open("r+b") as file:
                file.seek(at)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes((byte[0] ^ 1,)))
                os.fsync(file.fileno())
            return
    raise Failed("it has no set open")


@case("a wrong page in a set is found to be WRONG")
def wrong_page_in_set(bench: Bench) -> None:
    saved, gate = bench.path("wrong.json"), Gate(bench)
    child = bench.start(*TINY, *MADE, "--zero-share", "0", "--contenders",
                        "reap", "--cache", "warm", *gate.options, "--json",
                        saved)
    gate.wait_for_run(child)
    for _ in ("null", "the rehearsal"):
        gate.let_pass()
        gate.wait(child)
    change_set(bench, child, 5 * PAGE + 7)
    gate.open()
    done = bench.finish(child)
    check(done.code == 1 and "WRONG" in done.err, f"{done.err!r}")
    null, reap = contenders(load_result(saved))
    check(null["run_count"] == 1 and reap["failed_count"] == 1,
          f"null {null['run_count']}, reap failed {reap['failed_count']}")
    bench.nothing_left()


@case("a contender that cannot record a set fails, and the others go on")
def set_cannot_be_recorded(bench: Bench) -> None:
    path, saved = bench.generated("--size", "4M"), bench.path("failed.json")
    done = bench.raw(*TINY, "--snapshot", path, "--cache", "warm", "--direct",
                     "off", "--replay", "on", "--contenders",
                     "eager,fastload,reap,e2b", "--dir", "/nonexistent",
                     "--json", saved)
    check(done.code == 1, f"exit code {done.code}")
    for c in contenders(load_result(saved)):
        is_failed = c["label"] in REPLAYING
        check((c["run_count"], c["failed_count"]) ==
              ((0, 1) if is_failed else (1, 0)), f"{c['label']}: {c}")
        check(not is_failed or "no working set was recorded" in
              c["errors"][0], f"{c['label']}: {c['errors']}")


@case("the page of a run shows where the replayed sets lie")
def page_shows_sets(bench: Bench) -> None:
    page = bench.path("sets.html")
    bench.good(*TINY, *MADE, "--cache", "warm", *REPLAY, "--html", page)
    figures = Figures(page)
    check(PICTURE in figures.text, "there is no picture")
    for name in REPLAYING:
        check(name in figures.texts["name"], f"none of {name}")
    strips = [kind for tag, kind in figures.shapes if kind == "plot strips"]
    check(len(strips) == len(REPLAYING), f"{len(strips)} pictures")
    check(any(tag == "rect" and kind.startswith("fill hint bin-")
              for tag, kind in figures.shapes), "nothing is in them")
    check("1.0 MiB in 256 pages" in figures.text, "the figures are missing")
    check(PICTURE not in Figures(bench.everything().page).text,
          "a run without sets has the picture")


@case("a made-up set in a result is drawn as far as it makes sense")
def made_up_sets(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    evil = "<b onclick=x>'\""
    block = {"label": evil, "len_bytes": 8 * PAGE, "page_count": 4,
             "run_count": 1, "columns": 8,
             "tenths": [[1, 0, -5, 7, None, "x", [], {}, 1, 1], 5, "x", None]}
    odd: list[Any] = [
        {"blocks": [block]}, {}, {"blocks": 5}, {"blocks": [5, None, {}]},
        {"blocks": [{**block, "columns": 1e9}]},
        {"blocks": [{**block, "columns": -1}]},
        {"blocks": [{**block, "len_bytes": 0}]},
        {"blocks": [{**block, "tenths": [[]] * 1000}] * 1000},
        5, "x", []]
    for found in odd:
        contenders(result)[1]["working_set"] = found
        figures = report_of(bench, result)
        check(not any("onclick" in name for name in figures.attributes),
              "a label is markup")
        strips = figures.count("svg", "plot strips")
        check(strips <= 8, f"{strips} pictures of {found!r:.200}")
        if found == odd[0]:
            check(strips == 1 and evil in figures.text, "it is not drawn")
            # One page of one, and seven of one, in the whole and in its row.
            check(figures.count("rect", "fill hint bin-0") == 4,
                  "not what it has")


@case("working-set --html writes a page with the picture of a set")
def set_has_a_page(bench: Bench) -> None:
    page = bench.path("set.html")
    done = bench.good("working-set", TWO_BLOCKS, "--html", page)
    check("8 pages in 3 runs" in done.out, "the text is missing")
    figures = Figures(page)
    check("two-blocks" in figures.text and "32.0 KiB in 8 pages and 3 runs" in
          figures.text, "the figures are missing")
    check(figures.count("svg", "plot strips") == 2, "not both blocks")
    table, = figures.called("Blocks of memory in the set")
    rows = [[cell["text"] for cell in row] for row in table["rows"]]
    check(["pc.ram", "64.0 MiB", "28.0 KiB", "0.0 %", "2"] in rows,
          f"the table is {rows}")
    picture = page.read_text().split('"Where the working set lies in pc.ram"')
    found = re.findall(r'"fill hint bin-\d" x="([\d.]+)%" y="(\d+)"',
                       picture[1].split("</svg>")[0])
    at_begin = [int(y) for x, y in found if x == "0.000"]
    check(len(at_begin) == 2 and max(at_begin) == max(int(y) for _, y in found),
          f"the last run is not at the begin of memory: {found}")
    check(not Scripts(page).loads, f"it loads {Scripts(page).loads}")
    check("@BENCH_" not in page.read_text(), "a place is not filled")
    one_sentence(bench.raw("working-set", TWO_BLOCKS, "--html", "-"), 2,
                 "--html needs the name of a file")
    copy = bench.path("copy.set")
    copy.write_bytes(TWO_BLOCKS.read_bytes())
    one_sentence(bench.raw("working-set", copy, "--html", copy), 2,
                 "cannot be the output")
    check(copy.read_bytes() == TWO_BLOCKS.read_bytes(), "it was changed")


@case("scenarios record sets of their own")
def scenarios_have_own_sets(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--zero-share", "0", "--cache",
                            "warm", "--pattern", "uniform",
                            "--working-set", "512K,1M", "--contenders", "e2b")
    all_counted(result, 1)
    found = [s["contenders"][1]["working_set"]["page_count"]
             for s in scenarios(result)]
    check(found == [MIB // 2 // PAGE, MIB // PAGE], f"sets of {found} pages")
