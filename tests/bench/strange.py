# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are no result, have another version, or hold strange values."""

import json
from typing import Any

from bench.results import contenders
from bench.stage import TINY, Bench, all_ours, load_result, one_sentence
from tap import case, check

RESULT_VERSION = 2

# What JSON can hold where something else is expected.
OTHER_FORMATS: tuple[Any, ...] = (1, None, [], {}, True, "", [1])
KINDS: tuple[Any, ...] = (1, None, [], {}, True, "text", [None], [1], [[]],
                          [{}])


@case("results that have nothing in common are refused")
def nothing_in_common(bench: Bench) -> None:
    saved = bench.path("other.json")
    bench.good(*TINY, "--size", "4M", "--cache", "warm", "--contenders",
               "eager", "--json", saved)
    one_sentence(bench.raw("compare", "--force", bench.everything().saved,
                           saved), 1, "nothing in common")


@case("a file that is no result is refused")
def no_result(bench: Bench) -> None:
    for text in ("", "hello\n", "[]\n", "{}\n", "17", "null", '{"a":',
                 '{"format": "else", "version": 2}',
                 '{"format": "fastload-bench", "version": "2"}',
                 '{"format": "fastload-bench"}', "\udcff\udcfe\0"):
        path = bench.path("no-result")
        path.write_text(text, errors="surrogateescape")
        for args in (("report", path), ("compare", path, path)):
            bench.refused(1, r"no-result", *args)
    bench.refused(1, r"directory|result", "report", bench.folder)


@case("a result of another version is refused, and why is said")
def other_version_is_refused(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    check(result["version"] == RESULT_VERSION, f"it has {result['version']}")
    for version in (1, RESULT_VERSION + 1):
        result["version"] = version
        path = bench.made_up(result)
        for args in (("report", path),
                     ("compare", bench.everything().saved, path)):
            bench.refused(1, rf"version {version}, .*measure again", *args)


@case("members of the wrong kind in a result are no crash")
def members_of_wrong_kind(bench: Bench) -> None:
    for kind in OTHER_FORMATS:
        path = bench.made_up({"format": kind, "version": RESULT_VERSION})
        one_sentence(bench.raw("report", path), 1, "not a result")
    for kind in KINDS:
        for name in ("date", "tool", "environment", "works", "interrupted"):
            path = bench.made_up({"format": "fastload-bench",
                                  "version": RESULT_VERSION, name: kind})
            done = bench.raw("report", path)
            check(done.code in (0, 1), f"{name} = {kind}: {done.code}")
            all_ours(done)
    original = load_result(bench.everything().saved)
    for c in contenders(original):
        for name in ("timeline", "map", "faults_idle"):
            del c[name]         # what takes long to read
    for kind in (1, None, [], "text"):
        for place in ("label", "errors", "measures", "faults", "name"):
            result = json.loads(json.dumps(original))
            for c in contenders(result):
                c[place] = kind
                c["failed_count"] = 1
            path = bench.made_up(result)
            for args in (("report", path, "--html", bench.path("kinds")),
                         ("compare", path, path)):
                done = bench.raw(*args)
                check(done.code in (0, 1), f"{place} = {kind}: {done.code}")
                all_ours(done)


@case("a result that nests too deep is no crash")
def nesting_too_deep(bench: Bench) -> None:
    path = bench.path("deep.json")
    path.write_text("[" * 1000000)
    one_sentence(bench.raw("report", path), 1, "result")


@case("nothing in a saved result can steer the terminal")
def result_cannot_steer_terminal(bench: Bench) -> None:
    evil = "\033]0;title\a\033[31mred"

    def spoil(members: dict[str, Any]) -> dict[str, Any]:
        for key, value in members.items():
            if isinstance(value, str) and key != "format":
                members[key] = evil
        return members

    result = json.loads(bench.everything().saved.read_text(), object_hook=spoil)
    for c in contenders(result):
        c["errors"], c["failed_count"] = [evil], 1
    path = bench.made_up(result)
    for args in (("report", path), ("compare", "--force", path, path)):
        done = bench.good(*args)
        check("\033" not in done.out and "\a" not in done.out,
              f"{args[0]} prints control characters")
