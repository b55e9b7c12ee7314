# SPDX-License-Identifier: GPL-2.0-or-later
"""Knobs, lists of their values, and the contenders and scenarios of them."""

import json
import re
import time

from bench.browser import report_of
from bench.gate import Gate
from bench.results import all_counted, check_names, contenders, scenarios
from bench.stage import MADE, TINY, Bench, load_result, one_sentence
from bench.terminal import held_until, on_terminal
from tap import Skip, case, check


@case("lists make a cross product of contenders and scenarios")
def lists_make_product(bench: Bench) -> None:
    result = bench.measured(
        *TINY, *MADE, "--threads", "1,2", "--cache", "cold,warm", "--think",
        "0,20us", "--direct", "off", "--contenders",
        "eager,eager-multi,fastload")
    check_names(result, ("null", "eager", "eager-multi threads=1",
                         "eager-multi threads=2", "fastload threads=1",
                         "fastload threads=2"))
    found = [(s["knobs"]["cache"], s["knobs"]["think"])
             for s in scenarios(result)]
    check(found == [("cold", "0 ns"), ("cold", "20 us"), ("warm", "0 ns"),
                    ("warm", "20 us")], f"scenarios are {found}")
    all_counted(result, 1)
    for c in contenders(result):
        if "threads=" in c["label"]:
            check(c["label"].endswith(f"threads={c['knobs']['threads']}"),
                  f"{c['label']} has {c['knobs']}")


@case("a time limit leaves out rounds, but one in each scenario")
def time_is_limited(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--repeat", "1000", "--time-limit",
                            "1", "--contenders", "eager")
    check(not result["interrupted"] and not result["quick"], "it says else")
    found = [s["contenders"][0]["run_count"] for s in scenarios(result)]
    check(len(found) == 2 and all(0 < n < 1000 for n in found),
          f"there were {found} rounds")
    for c in contenders(result):
        check(len(c["measures"]["work_ns"]["rounds"]) == c["run_count"],
              f"{c['label']} has other rounds: {c['measures']['work_ns']}")


@case("what is left is never more than the time limit")
def left_minds_the_limit(bench: Bench) -> None:
    gate = Gate(bench)
    code, _, err = on_terminal(
        bench, *TINY, *MADE, "--repeat", "1000", "--time-limit", "1",
        "--cache", "warm", "--contenders", "eager", *gate.options,
        on_turn=held_until(gate, "", "", r", \d+:\d\d left"))
    left = [int(m) * 60 + int(s)
            for m, s in re.findall(r", (\d+):(\d\d) left", err)]
    check(code == 0 and left, f"exit code {code}, left {left}")
    check(max(left) <= 1, f"up to {max(left)} s were left of 1")


@case("with a time limit far away, what is left is what runs took")
def left_of_a_far_limit(bench: Bench) -> None:
    gate = Gate(bench)
    came: list[float] = []

    def on_turn(said: str, terminal: int) -> None:
        """Hold each run for 1.5 s, so that seconds are left for the others."""
        if gate.is_open or not gate.has_somebody():
            return
        if re.search(r", \d+:\d*[1-9]\d* left", said):
            gate.open()
        elif not came:
            came.append(time.monotonic())
        elif time.monotonic() - came[0] > 1.5:
            came.clear()
            gate.let_pass()

    code, _, err = on_terminal(
        bench, *TINY, *MADE, "--repeat", "3", "--time-limit", "3600",
        "--cache", "warm", "--contenders", "eager", *gate.options,
        on_turn=on_turn)
    check(code == 0 and re.search(r", \d+:\d*[1-9]\d* left", err),
          f"exit code {code}, it said {err[-300:]!r}")


@case("--quick chooses what is not asked for; table and page say so")
def quick_look(bench: Bench) -> None:
    saved, plain = bench.path("quick.json"), bench.path("plain.json")
    # Its own limit of time would leave out rounds on a slow machine.
    small = (*TINY[:-4], *MADE, "--repeat", "2", "--time-limit", "3600",
             "--json")
    done = bench.good("--quick", *small, saved)
    result = load_result(saved)
    check(result["quick"] is True and result["warmup"] == 0, "it is not")
    check_names(result, ("null", "eager", "two-thread", "mmap-ahead",
                         "fastload"))
    all_counted(result, 2)
    check("QUICK LOOK" in done.out, "the table does not say so")
    check("Quick look" in report_of(bench, result).text,
          "the page does not say so")
    done = bench.good("--quick", *small, plain, "--contenders", "eager",
                      "--cache", "warm", "--warmup", "1")
    check_names(load_result(plain), ("null", "eager"))
    check(load_result(plain)["warmup"] == 1, "no warm-up")


@case("--also adds a scenario of its own to those of the lists")
def also_adds_a_scenario(bench: Bench) -> None:
    result = bench.measured(
        *TINY, *MADE, "--cache", "cold,warm", "--contenders", "null",
        "--also", "vcpus=2 pattern=sequential", "--also", "cache=warm vcpus=3")
    found = [tuple(s["knobs"][k] for k in ("cache", "vcpus", "pattern"))
             for s in scenarios(result)]
    check(found == [("cold", "1", "zipf"), ("warm", "1", "zipf"),
                    ("cold", "2", "sequential"), ("warm", "3", "zipf")],
          f"scenarios are {found}")
    all_counted(result, 1)


@case("--also may have fewer contenders")
def also_with_fewer_contenders(bench: Bench) -> None:
    result = bench.measured(
        *TINY, *MADE, "--cache", "warm", "--contenders",
        "eager,mmap,mmap-ahead",
        "--also", "vcpus=2 contenders=eager,mmap-ahead")
    found = [[c["label"] for c in s["contenders"]] for s in scenarios(result)]
    check(found == [["null", "eager", "mmap", "mmap-ahead"],
                    ["null", "eager", "mmap-ahead"]], f"they are {found}")
    all_counted(result, 1)
    for names, pattern in (("mmap-ahead", "eager"), ("eager,alternate",
                                                     "'alternate' is none")):
        done = bench.raw(*TINY, *MADE, "--contenders", "eager,mmap-ahead",
                         "--also", f"vcpus=2 contenders={names}")
        one_sentence(done, 2, f"--also: .*{pattern}")


@case("--also refuses what is no knob, no value, or measured already")
def also_refuses(bench: Bench) -> None:
    for knobs, pattern in (("cache", "cache"), ("threads=2", "threads=2"),
                           ("vcpus=1,2", "vcpus=1,2"), ("vcpus=x", "'x'"),
                           ("cache=cold", "already")):
        done = bench.raw(*TINY, *MADE, "--cache", "cold", "--contenders",
                         "null", "--also", knobs)
        one_sentence(done, 2, f"--also: .*{pattern}")


@case("lists of sizes, shares, run lengths and seeds make a work for each")
def lists_make_works(bench: Bench) -> None:
    result = bench.measured(
        *TINY, "--size", "1M,2M", "--zero-share", "25%,0.5", "--run-length",
        "64K,1M", "--seed", "1,2", "--cache", "warm", "--contenders", "null")
    found = [work["snapshot"]["label"] for work in result["works"]]
    check(len(set(found)) == len(found) == 16, f"works are {found}")
    all_counted(result, 1)


@case("a list that --snapshot cannot honour is refused")
def list_beside_snapshot(bench: Bench) -> None:
    path = bench.generated("--size", "4M")
    bench.refused(2, "--seed takes one value with --snapshot", *TINY,
                  "--snapshot", path, "--seed", "1,2", "--cache", "warm",
                  "--contenders", "eager", "--json", "-")


@case("the same seed generates the same snapshot for gen and for a run")
def same_seed_same_snapshot(bench: Bench) -> None:
    path = bench.generated("--size", "4M", "--seed", "7")
    whole = bench.measured(*TINY, "--size", "4M", "--seed", "7", "--cache",
                           "warm", "--contenders", "eager")
    read = bench.measured(*TINY, "--snapshot", path, "--cache", "warm",
                          "--contenders", "eager")
    a, b = (r["works"][0]["snapshot"]["data_bytes"] for r in (whole, read))
    check(a == b, f"{a} and {b} bytes of data")


@case("--io chooses how fastload reads")
def io_is_chosen(bench: Bench) -> None:
    io = bench.measured(*TINY, *MADE, "--io", "preadv", "--contenders",
                        "fastload", "--direct", "off")
    found = {c["io_name"] for c in contenders(io) if c["name"] == "fastload"}
    check(found == {"preadv"}, f"preadv became {found}")
    done = bench.raw(*TINY, *MADE, "--io", "io_uring", "--contenders",
                     "fastload", "--direct", "off", "--json", "-")
    if done.code == 1 and re.search("io_uring", done.err):
        raise Skip("io_uring is not permitted here")
    check(done.code == 0, f"exit code {done.code}")
    found = {c["io_name"] for c in contenders(json.loads(done.out))
             if c["name"] == "fastload"}
    check(found == {"io_uring"}, f"io_uring became {found}")


@case("two values of --io are two contenders")
def two_io_are_two_contenders(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--io", "auto,preadv", "--cache",
                            "warm", "--contenders", "fastload")
    check_names(result, ("null", "fastload io=auto", "fastload io=preadv",
                         "fastload direct io=auto",
                         "fastload direct io=preadv"))
    all_counted(result, 1)


@case("warm-up rounds do not count")
def warmup_does_not_count(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--warmup", "2", "--repeat", "3",
                            "--cache", "warm", "--contenders", "eager")
    all_counted(result, 3)
    for c in contenders(result):
        check(len(c["measures"]["work_ns"]["rounds"]) == 3,
              f"{c['label']}: {c['measures']['work_ns']}")
