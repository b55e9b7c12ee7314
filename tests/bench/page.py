# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of a result: what it shows, to whom, and what it must not do."""

import json
import math
import re
import shutil
import subprocess
from typing import Any

from bench.browser import Figures, Scripts, report_of
from bench.results import all_counted, contenders, measured_as, scenarios
from bench.stage import LOADERS, MADE, TINY, Bench, load_result
from host import TOP
from tap import Skip, case, check


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045
                        else math.pow((part + 0.055) / 1.055, 2.4)
                        for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@case("the page fetches nothing")
def page_fetches_nothing(bench: Bench) -> None:
    path = bench.everything().page
    found = [url for url in re.findall(r"https?://[^\s\"'`)<]*",
                                       path.read_text())
             if not url.startswith("http://www.w3.org/")]
    check(not found, f"it names {found}")
    check(not Scripts(path).loads, f"it loads {Scripts(path).loads}")
    check(not re.search(r"@import|url\((?!['\"]?(data:|#))",
                        path.read_text()), "its style sheet loads something")


@case("the page holds the same result as the JSON file")
def page_holds_result(bench: Bench) -> None:
    everything = bench.everything()
    check("@BENCH_JSON@" not in everything.page.read_text(),
          "it has no result")
    check(Scripts(everything.page).result() == everything.result,
          "it is another one")


@case("a snapshot's name cannot end the page's script")
def name_cannot_end_script(bench: Bench) -> None:
    folder = bench.path("x<")
    folder.mkdir()
    path = folder / "script><script>alert(1)<!--"
    bench.generated("--size", "4M").rename(path)
    page, saved = bench.path("page.html"), bench.path("page.json")
    bench.good(*TINY, "--snapshot", path, "--cache", "warm", "--contenders",
               "eager", "--html", page, "--json", saved)
    result = Scripts(page).result()
    check(result == load_result(saved), "it is another result")
    check(str(path) in result["works"][0]["snapshot"]["label"],
          "the name is not in it")
    usual = len(Scripts(bench.everything().page).scripts)
    check(len(Scripts(page).scripts) == usual, "it has more scripts")
    check("alert(1)<!--" not in page.read_text(), "'<' is not escaped")


@case("each colour of the page can be told from what is behind it")
def page_contrast(bench: Bench) -> None:
    page = bench.everything().page.read_text()
    style = page[page.index("<style>"):page.index("</style>")]
    schemes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
               for block in re.findall(r":root \{(.*?)\n *\}", style, re.S)]
    check(len(schemes) == 2 and set(schemes[0]) == set(schemes[1]),
          "the light and the dark scheme have other colours")
    check(len(re.findall("#[0-9a-f]{6}", style)) == sum(map(len, schemes)),
          "a colour is not among those of the schemes")
    surfaces = {"paper": ("ink", "soft"), "panel": ("ink", "soft"),
                "warn-paper": ("warn-ink",)}
    lines = {"edge", "grid"}    # no figures, so they may be pale
    for colours in schemes:
        for surface, inks in surfaces.items():
            for ink in inks:
                found = contrast(colours[ink], colours[surface])
                check(found >= 4.5, f"{ink} on {surface}: {found:.2f}")
        marks = set(colours) - set(surfaces) - lines
        check(len(marks) > 15, f"marks: {marks}")
        for mark in marks:
            found = contrast(colours[mark], colours["paper"])
            check(found >= 3, f"{mark} on paper: {found:.2f}")
    check("opacity" not in style and "opacity" not in page.split(
        "<script>")[1], "something is paler than its colour")


@case("each contender has a colour of its own on the page")
def page_colours(bench: Bench) -> None:
    page = bench.everything().page.read_text()
    sources = (TOP / "tools" / "fastload-bench").glob("loader-*.c")
    names = sorted(path.stem.removeprefix("loader-") for path in sources)
    check(set(LOADERS) <= set(names), f"contenders: {names}")
    for name in names:
        check(f".of-{name} {{ --c: var(--c-{name}); }}" in page,
              f"{name} has none")


@case("the page's tables have heads for each row and each column")
def page_table_heads(bench: Bench) -> None:
    figures = Figures(bench.everything().page)
    check(len(figures.tables) > 4, f"{len(figures.tables)} tables")
    for table in figures.tables:
        check(table["caption"], "a table has no caption")
        first, *rows = table["rows"]
        check(all(cell["head"] == "col" for cell in first),
              f"{table['caption']}: the columns' heads")
        for row in rows:
            check([cell["head"] for cell in row] ==
                  ["row"] + [None] * (len(first) - 1),
                  f"{table['caption']}: the heads of {row}")


@case("the page shows figures and bars without its script")
def page_without_script(bench: Bench) -> None:
    result = bench.everything().result
    figures = Figures(bench.everything().page)
    tables = figures.called("What it comes to")
    check(len(tables) == len(scenarios(result)), f"{len(tables)} tables")
    for table, s in zip(tables, scenarios(result)):
        columns = [cell["text"] for cell in table["rows"][0]]
        check({"Progress", "Guest runs", "Worked", "Loaded", "Waited",
               "Fault p50", "Fault p99", "CPU", "Memory, peak"} <=
              set(columns), f"columns: {columns}")
        for c, row in zip(s["contenders"], table["rows"][1:], strict=True):
            texts = dict(zip(columns, (cell["text"] for cell in row)))
            check(row[0]["text"].startswith(f"{c['label']}2 runs"),
                  f"{row[0]['text']} is not {c['label']}")
            check(re.match(r"[\d.]+ [mu]?s", texts["Worked"]),
                  f"{c['label']} worked: {texts['Worked']}")
            has_end = c["measures"]["load_ns"] is not None
            check(has_end == (texts["Loaded"] != "\u2013"),
                  f"{c['label']} loaded: {texts['Loaded']}")
    for kind, key in (("run", "run_ns"), ("work", "work_ns"),
                      ("load", "load_ns"), ("progress", "progress"),
                      ("waited", "waited_ns")):
        found = [c["measures"][key] for c in contenders(result)]
        check(figures.count("rect", f"fill {kind}") == len(found) -
              found.count(None), f"not a bar for each {key}")
    check("time from the request to restore, " in figures.text,
          "the axis has no title")


@case("each run is a dot on the page, an outlier is marked and named")
def page_outliers(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    del scenarios(result)[0]["contenders"][3:], result["works"][0][
        "scenarios"][1:]
    for c in contenders(result):
        c["measures"] = {"work_ns": measured_as([1e8] * 6)}
    figures = report_of(bench, result)
    check((figures.count("circle", "dot"), figures.count("path", "far")) ==
          (18, 0), "not a dot for each run")
    check("Outliers: none." in figures.text, "there is an outlier")
    c["measures"]["work_ns"] = measured_as([1e8, 1e8, 1e8, 1e8, 1e8, 2e8])
    figures = report_of(bench, result)
    check((figures.count("circle", "dot"), figures.count("path", "far")) ==
          (17, 1), "the outlier is not marked")
    check(f"{c['label']}: working set touched 200 ms in round 6 (median 100 "
          "ms)" in figures.text, "the outlier is not named")


@case("the page names no winner where ranges overlap")
def page_winner(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    del scenarios(result)[0]["contenders"][3:], result["works"][0][
        "scenarios"][1:]
    null, first, second = contenders(result)
    check(null["name"] == "null", "null is not the first")
    null["measures"]["load_ns"] = measured_as([1e6, 1e6, 1e6])
    first["measures"] = {"load_ns": measured_as([3.0e8, 3.1e8, 3.5e8])}
    for rounds, is_told in (([3.4e8, 4e8, 5e8], False),
                            ([3.6e8, 4e8, 5e8], True)):
        second["measures"] = {"load_ns": measured_as(rounds)}
        tiles = report_of(bench, result).texts["tile"]
        tile, = [tile for tile in tiles if "Everything loaded" in tile]
        check(("no winner: ranges overlap" in tile) != is_told, tile)
        check((f"310 ms\n{first['label']}\n" in tile) == is_told, tile)
        check(is_told or f"{second['label']}: 340 ms to 500 ms" in tile, tile)
    first["run_count"] = second["run_count"] = 1
    tiles = report_of(bench, result).texts["tile"]
    check(any("no winner: one run each" in tile for tile in tiles),
          "one run has a winner")


@case("the timeline of null begins when its memory is there")
def timeline_of_null(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    for c in contenders(result):
        times = c["timeline"]["t_ns"]
        check(times == sorted(times), f"{c['label']} goes back: {times}")
        if c["name"] == "null":
            loaded = c["timeline"]["before_bytes"]
            check(loaded[0] == loaded[-1] > 0, f"null loads: {loaded}")


@case("who had no fault is not the one that waited least")
def page_waited_least(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    del scenarios(result)[0]["contenders"][3:], result["works"][0][
        "scenarios"][1:]
    _, base, lazy = contenders(result)
    scenarios(result)[0]["baseline"] = base["label"]
    base["measures"] = {"waited_ns": measured_as([700, 700, 700])}
    lazy["measures"] = {"waited_ns": measured_as([3e8, 3e8, 3e8])}
    for count, is_told in ((0, False), (5, True)):
        base["faults"] = {"count": count}
        lazy["faults"] = {"count": 9}
        tiles = report_of(bench, result).texts["tile"]
        tile, = [tile for tile in tiles if "Guest waited" in tile]
        check((f"{base['label']}\n" in tile) == is_told, tile)
        check(("300 ms" in tile) != is_told, tile)


@case("the page's first tile is the progress from the request on")
def page_first_tile(bench: Bench) -> None:
    tile = Figures(bench.everything().page).texts["tile"][0]
    check(tile.strip().startswith("Guest progress"), tile)
    check("touches in the first 5 ms after the request to restore, of those "
          "of null" in tile, tile)


@case("the page shows knobs, notes, and the kernel's readahead")
def page_notes(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    s = scenarios(result)[0]
    s["notes"] = ["NOT COLD: 12 MiB stayed.", 5, None]
    s["knobs"]["storage"] = "rtt=1ms,rate=2G"
    result["environment"]["read_ahead_bytes"] = 128 << 10
    figures = report_of(bench, result)
    check("NOT COLD: 12 MiB stayed." in figures.texts["notice"][0],
          "the note is missing")
    check("storage rtt=1ms,rate=2G" in figures.text, "a knob is missing")
    check("Readahead of the kernel: 128.0 KiB." in figures.text,
          "the readahead is missing")


@case("the page has a table of what clones cost together")
def page_clones(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    check(not Figures(bench.everything().page).called("All clones"),
          "without clones")
    contenders(result)[1]["clones"] = {
        "count": 8, "run_ns": {"p50": 1e6, "p95": 3e6}, "pss_bytes": 5 << 20}
    table, = report_of(bench, result).called("All clones together")
    rows = [[cell["text"] for cell in row] for row in table["rows"]]
    check(rows[0] == ["Contender", "Clones", "Runs, p50", "p95",
                      "Memory (PSS)"], f"its head is {rows[0]}")
    check(rows[2][1:] == ["8", "1.00 ms", "3.00 ms", "5.0 MiB"],
          f"the clones have {rows[2]}")


@case("the page shows what a scenario's own storage did")
def page_storage(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    s = scenarios(result)[0]
    s["storage"] = {"sequential_bytes_per_s": measured_as([2e8, 2e8]),
                    "random_4k": {"count": 5, "p50_ns": 1234567,
                                  "p99_ns": 7654e9}}
    figures = report_of(bench, result)
    check("device: 200 MB/s sequential (200 to 200) \u00b7 4 KiB reads: p50 "
          "1.23 ms, p99 7654 s" in figures.text, "its figures are missing")
    first, *others = figures.called("Faults")
    texts = [cell["text"] for cell in first["rows"][1]]
    check(texts[0].startswith("raw 4 KiB") and "7654 s" in texts,
          f"the first row is {texts}")
    check(not any("7654 s" in str(table) for table in others),
          "the other scenario has it")


@case("a sweep is drawn over its knob")
def page_sweep(bench: Bench) -> None:
    page = bench.path("sweep.html")
    bench.good(*TINY, "--size", "4M,8M", "--threads", "1,2,4", "--direct",
               "off", "--cache", "warm", "--contenders", "eager,eager-multi",
               "--html", page)
    figures = Figures(page)
    heads = re.findall(r"Over (.*)", figures.text)
    check(heads == ["each knob", "size", "threads: size 4 MiB",
                    "threads: size 8 MiB"], f"sweeps: {heads}")
    check({"4 MiB", "8 MiB", "1", "2", "4"} <= set(figures.texts["tick"]),
          f"ticks: {set(figures.texts['tick'])}")
    titles = set(figures.texts["axis-title"])
    check({"size", "threads"} <= titles and any(
        title.startswith("everything loaded after, ") for title in titles),
          f"titles of axes: {titles}")
    check(figures.count("line", "line of-eager-multi dash-0") >= 10,
          "the medians are not joined")


@case("a sweep needs all other knobs to be the same")
def page_sweep_alone(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    cold, warm = scenarios(result)
    for c in contenders(result):
        c["knobs"] = {}
    cold["knobs"]["vcpus"], warm["knobs"]["vcpus"] = "1", "2"
    check("Over each knob" not in report_of(bench, result).text,
          "two knobs at once are a sweep")
    warm["knobs"]["cache"] = "cold"
    check("Over vcpus" in report_of(bench, result).text, "one knob is none")
    cold["knobs"]["vcpus"] = warm["knobs"]["vcpus"]
    cold["knobs"]["readahead"], warm["knobs"]["readahead"] = "as is", "128 KiB"
    result["environment"]["read_ahead_bytes"] = 8 << 20
    text = report_of(bench, result).text
    check("Over readahead" in text and "as is: 8.0 MiB" in text,
          "the readahead as it is has no place")
    del result["environment"]["read_ahead_bytes"]
    check("Over readahead" not in report_of(bench, result).text,
          "two words are a sweep")


@case("nothing in a saved result becomes markup of its page")
def page_markup(bench: Bench) -> None:
    evil = "x\"'><img src=x onerror=alert(1)></script><script>alert(1)"

    def spoil(value: dict[str, Any]) -> dict[str, Any]:
        kept = ("format", "works", "snapshot", "scenarios", "contenders",
                "measures", "knobs", "environment", "rounds", "median",
                "version", "timeline", "map", "faults")
        return {key if key in kept else key + evil:
                evil if isinstance(member, str) and key != "format"
                else member for key, member in value.items()} | value

    original = bench.everything().saved.read_text()
    result = json.loads(original, object_hook=spoil)
    for key in ("label", "name", "summary", "io_name"):
        for c in contenders(result):
            c[key] = evil
    for s in scenarios(result):
        s["notes"], s["baseline"] = [evil], evil
        s["knobs"]["cache"] = evil
    for c in contenders(result):
        c["errors"], c["failed_count"] = [evil], 1
        c["knobs"]["io"] = evil
    result["works"][0]["snapshot"]["label"] = evil
    result["date"] = result["command"] = result["tool"]["version"] = evil
    figures = report_of(bench, result)
    usual = Figures(bench.everything().page)
    check(evil in figures.text, "what was put in is not shown")
    check(figures.tags <= usual.tags | {"p"}, f"{figures.tags - usual.tags}")
    check(figures.attributes <= usual.attributes,
          f"{figures.attributes - usual.attributes}")


@case("the page fits into 390 pixels, and on six sheets of paper")
def page_fits(bench: Bench) -> None:
    if not shutil.which("chromium"):
        raise Skip("there is no Chromium; apt-get install chromium")
    pictures = TOP / "tools" / "fastload-bench" / "pictures"
    sheets = bench.path("page.pdf")
    done = subprocess.run(
        [pictures, bench.everything().page, "--width", "390", "--width",
         "1280", "--overflow", "--print", sheets], check=False,
        capture_output=True, text=True)
    check(done.stdout.split() == ["0", "0"], f"too wide: {done}")
    count = len(re.findall(rb"/Type\s*/Page\b", sheets.read_bytes()))
    check(1 <= count <= 6, f"{count} sheets")


@case("a snapshot's name cannot steer the terminal")
def name_cannot_steer_terminal(bench: Bench) -> None:
    path = bench.path("\033]0;title\a\033[31mred")
    bench.generated("--size", "4M").rename(path)
    done = bench.good(*TINY, "--snapshot", path, "--cache", "warm",
                      "--contenders", "eager")
    check("\033" not in done.out, "the table has an escape sequence")
    check("\033" not in bench.good("inspect", path).out, "inspect prints one")
    path.write_text("no snapshot")
    for args in (("inspect", path), ("--snapshot", path)):
        done = bench.refused(1, "is not a mapped-ram|is truncated", *args)
        check("\033" not in done.err, "an error has an escape sequence")


@case("--json - writes the result alone to standard output")
def json_on_stdout(bench: Bench) -> None:
    done = bench.good(*TINY, *MADE, "--cache", "warm", "--contenders",
                      "eager", "--json", "-")
    all_counted(json.loads(done.out), 1)
