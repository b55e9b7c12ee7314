# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run measures, and how the table and the result say it."""

import os
from pathlib import Path
import re

from bench.results import (
    all_counted, check_names, contenders, measured_as, on_disk, scenarios)
from bench.stage import (
    EXTRA_LABELS, EXTRAS, LABELS, LAZY, MADE, MIB, PAGE, TINY, Bench,
    load_result)
from tap import Failed, Skip, case, check


@case("every contender loads the right memory, cold, warm, direct and not")
def every_contender_loads(bench: Bench) -> None:
    result = bench.everything().result
    check_names(result, LABELS)
    found = [s["knobs"]["cache"] for s in scenarios(result)]
    check(found == ["cold", "warm"], f"scenarios are {found}")
    all_counted(result, 2)


@case("extra contenders run when they are named, cold, warm, direct and not")
def extra_contenders(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--vcpus", "2", "--threads", "3",
                            "--contenders", ",".join(EXTRAS))
    check_names(result, ("null", *EXTRA_LABELS))
    all_counted(result, 1)
    for c in contenders(result):
        lacks_end = c["name"] in ("null", "handler", "reap", "e2b")
        check((c["measures"]["load_ns"] is None) == lacks_end,
              f"{c['label']} has load_ns {c['measures']['load_ns']}")
    on_disk(bench, result)
    for c in contenders(result):
        if c["name"] == "handler" and c["measures"]["cached_bytes"]["max"] == 0:
            read = c["measures"]["read_bytes"]
            check(read["min"] > 0, f"nothing counts of the handler's {read}")


@case("cold runs begin with an empty page cache, warm ones with all data")
def cold_and_warm_begin_so(bench: Bench) -> None:
    result = bench.everything().result
    on_disk(bench, result)
    data = result["works"][0]["snapshot"]["data_bytes"]
    for s in scenarios(result):
        for c in s["contenders"]:
            cached = c["measures"]["cached_bytes"]
            if s["knobs"]["cache"] == "cold":
                check(cached["max"] == 0, f"{c['label']}: {cached}")
            else:
                check(cached["min"] >= data, f"{c['label']}: {cached}")


@case("cold and direct runs read all data from storage, warm ones none")
def data_comes_from_storage_or_not(bench: Bench) -> None:
    result = bench.everything().result
    on_disk(bench, result)
    data = result["works"][0]["snapshot"]["data_bytes"]
    for s in scenarios(result):
        is_cold = s["knobs"]["cache"] == "cold"
        for c in s["contenders"]:
            read = c["measures"]["read_bytes"]
            if c["name"] in ("null", "mmap"):
                continue
            if is_cold or c["knobs"].get("direct"):
                check(read["min"] >= data,
                      f"{c['label']} read {read} of {data} bytes")
            else:
                check(read["max"] < data // 10,
                      f"{c['label']} read {read}, warm")


@case("what one contender still reads when it ends is no gift to the next")
def reads_end_with_their_run(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--cache", "cold", "--direct",
                            "off", "--repeat", "3", "--contenders",
                            "two-thread,alternate")
    on_disk(bench, result)
    data = result["works"][0]["snapshot"]["data_bytes"]
    for c in contenders(result)[1:]:
        rounds = c["measures"]["read_bytes"]["rounds"]
        few = [int(read) for read in rounds if read < data]
        check(not few, f"{c['label']} read {few} of {data} bytes "
              f"in {len(few)} of {len(rounds)} rounds")


@case("lazy contenders count faults, also without a background")
def lazy_ones_count_faults(bench: Bench) -> None:
    for c in contenders(bench.everything().result):
        has_idle = c["faults_idle"]["count"] > 0
        check(has_idle == (c["name"] in LAZY),
              f"{c['label']}: idle faults {c['faults_idle']['count']}")
        # All may be loaded in the background before the guest touches it.
        counts = [one["count"] for one in c["faults"]["rounds"]]
        if c["name"] == "mmap":
            check(min(counts) > 0, f"mmap had {counts} faults")
        elif any(c["map"]["urgent"]):
            check(max(counts) > 0, f"{c['label']} had no faults, and brought "
                  f"{sum(c['map']['urgent']) / 255:.1f} cells on demand")


@case("progress counts from the request: none before the guest runs")
def progress_counts_from_request(bench: Bench) -> None:
    result = bench.measured(*TINY, "--size", "64M", "--window", "1ms",
                            "--cache", "warm", "--contenders", "eager")
    null, eager = contenders(result)
    for c in (null, eager):
        check(c["measures"]["progress_running"]["min"] > 0,
              f"{c['label']}: {c['measures']['progress_running']}")
    if eager["measures"]["run_ns"]["min"] < 1e6:
        raise Skip("eager reads 64 MiB in less than the shortest window")
    check(eager["measures"]["progress"]["max"] == 0,
          f"eager: {eager['measures']['progress']}")


@case("figures of faults are medians over rounds, each round beside them")
def faults_by_round(bench: Bench) -> None:
    found = 0
    for c in contenders(bench.everything().result):
        for faults in (c["faults"], c["faults_idle"]):
            rounds = faults["rounds"]
            check(len(rounds) == 2, f"{c['label']}: {rounds}")
            for name in ("count", "sum_ns"):
                median = sum(one[name] for one in rounds) / 2
                check(abs(faults[name] - median) <= 0.5,
                      f"{c['label']}: {name} is {faults[name]} of {rounds}")
            worst = max(one["max_ns"] for one in rounds)
            check(faults["worst_ns"] == worst >= faults["max_ns"],
                  f"{c['label']}: worst {faults['worst_ns']} of {rounds}")
            known = [one for one in rounds if one["count"]]
            check(sum(count for _, count in faults["buckets"]) ==
                  sum(one["count"] for one in rounds),
                  f"{c['label']}: the buckets are not those of all rounds")
            for name in ("p50_ns", "p99_ns", "max_ns"):
                median = sum(one[name] for one in known) / len(known) \
                    if known else 0
                check(abs(faults[name] - median) <= 0.5,
                      f"{c['label']}: {name} is {faults[name]} of {rounds}")
            found += len(known)
    check(found, "nobody had faults")


@case("what the guest waited is what its faults took")
def waited_is_sum(bench: Bench) -> None:
    for c in contenders(bench.everything().result):
        waited = c["measures"]["waited_ns"]["rounds"]
        sums = [one["sum_ns"] for one in c["faults"]["rounds"]]
        if c["name"] == "mmap":
            check(min(waited) > 0, f"mmap waited {waited}")
            check(all(w <= s for w, s in zip(waited, sums)),
                  f"mmap waited {waited} of {sums}")


@case("the page cache of a contender counts where it reads through it")
def page_cache_counts(bench: Bench) -> None:
    result = bench.everything().result
    on_disk(bench, result)
    data = result["works"][0]["snapshot"]["data_bytes"]
    for s in scenarios(result):
        for c in s["contenders"]:
            cache = c["measures"]["page_cache_bytes"]
            if c["name"] == "null":
                check(cache is None, f"null has {cache}")
            elif c["knobs"].get("direct"):
                check(cache["max"] == 0, f"{c['label']}: {cache}")
            elif c["name"] == "mmap":
                touched = sum(
                    share / 255 for share in c["map"]["urgent"]) * \
                    c["map"]["cell_pages"] * PAGE
                check(touched > 0, "mmap touched nothing")
                check(cache["min"] >= touched, f"mmap touched {touched}"
                      f" bytes of data and has {cache}")
            elif s["knobs"]["cache"] == "warm":
                # The kernel may take some of it back at any time.
                check(cache["min"] >= data * 0.9, f"{c['label']}: {cache}")


@case("those that load all say when, the others do not")
def load_is_timed(bench: Bench) -> None:
    for c in contenders(bench.everything().result):
        load = c["measures"]["load_ns"]
        if c["name"] in ("null", "mmap"):
            check(load is None, f"{c['label']} has load_ns {load}")
        else:
            check(load and 0 < load["min"] <= load["median"] <= load["max"],
                  f"{c['label']} has load_ns {load}")
            check(len(load["rounds"]) == 2, f"{c['label']}: {load}")


@case("what is loaded before the guest runs is loaded when the guest may run")
def loaded_at_run(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--vcpus", "2", "--cache", "warm",
                            "--direct", "off", "--contenders",
                            "eager,eager-multi")
    for c in contenders(result)[1:]:
        run, load = (c["measures"][name]["rounds"]
                     for name in ("run_ns", "load_ns"))
        check(run == load, f"{c['label']}: runs {run}, loaded {load}")


@case("the CPU time of a loader without an end is that until worked")
def cpu_until_worked(bench: Bench) -> None:
    # A guest that does not think uses a processor for the whole window, or a
    # share of one beside others; it has worked after a millisecond or two.
    window_ns = 600 * 1000 * 1000
    result = bench.measured(*TINY, *MADE, "--window", "600ms", "--cache",
                            "warm", "--contenders", "mmap")
    cpu = contenders(result)[1]["measures"]["cpu_ns"]
    check(cpu["max"] < window_ns / 10,
          f"mmap used {cpu} ns in a window of {window_ns} ns")


@case("the baseline's ratios are 1")
def baseline_has_ratio_one(bench: Bench) -> None:
    for s in scenarios(bench.everything().result):
        check(s["baseline"] == "eager", f"the baseline is {s['baseline']}")
        for c in s["contenders"]:
            if c["label"] == "eager":
                for name in ("load_ns", "work_ns", "cpu_ns"):
                    check(c["measures"][name]["ratio"] == 1,
                          f"{name}: {c['measures'][name]}")


@case("what is not known of the machine is a dash")
def unknown_is_a_dash(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    for name in "device", "scheduler":
        result["environment"].pop(name, None)
    done = bench.good("report", bench.made_up(result))
    check("on -, scheduler -," in done.out, "something is missing")


@case("whoever has no fault has not waited")
def nobody_waits_without_faults(bench: Bench) -> None:
    result = load_result(bench.everything().saved)
    for count, is_told in ((5, True), (0, False)):
        for c in contenders(result):
            c["faults"]["count"] = count
            c["measures"]["waited_ns"] = measured_as([12345e9])
        done = bench.good("report", bench.made_up(result))
        check(("12345 s" in done.out) == is_told,
              f"{count} faults: {'nothing' if is_told else 'it'} is said")


@case("the table names every contender in each of its parts")
def table_names_contenders(bench: Bench) -> None:
    done = bench.everything().done
    for label in LABELS:
        rows = re.findall(rf"^  {re.escape(label)} {{2,}}", done.out, re.M)
        check(len(rows) == 6, f"{label} has {len(rows)} rows, not 6")


@case("the table's head says how far the kernel reads ahead")
def head_tells_readahead(bench: Bench) -> None:
    done, result = bench.everything()[:2]
    device = os.stat(bench.temporary).st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}"
                "/read_ahead_kb")
    if not path.exists():
        raise Skip(f"there is no {path}")
    kib = int(path.read_text())
    check(result["environment"]["read_ahead_bytes"] == kib * 1024,
          f"{result['environment']}, not {kib} KiB")
    found = re.search(r", readahead ([0-9.]+) (KiB|MiB|GiB|B),", done.out)
    if not found:
        raise Failed("the head says nothing of it")
    unit = {"B": 1, "KiB": 1024, "MiB": MIB, "GiB": 1 << 30}[found[2]]
    check(abs(float(found[1]) * unit / 1024 - kib) <= kib / 100,
          f"the head has {found[0]!r}, not {kib} KiB")
