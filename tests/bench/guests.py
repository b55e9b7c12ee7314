# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest touches and when, and what its memory holds."""

import os
import re

from bench.results import all_counted, check_names, contenders, scenarios
from bench.stage import (
    EXTRA_LABELS, EXTRAS, LABELS, LOADERS, MADE, MIB, PAGE, TINY, Bench,
    one_sentence)
from snapshotfile import ram_block
from tap import case, check


@case("uniform, zipf and sequential guests on three vCPUs")
def every_pattern_on_three_vcpus(bench: Bench) -> None:
    result = bench.measured(
        *TINY, *MADE, "--cache", "warm", "--direct", "off", "--vcpus", "3",
        "--pattern", "uniform,zipf,sequential")
    all_counted(result, 1)
    found = [s["knobs"]["pattern"] for s in scenarios(result)]
    check(found == ["uniform", "zipf", "sequential"], f"patterns: {found}")


@case("the guest has a working set, and all of its vCPUs share it")
def vcpus_share_a_working_set(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--cache", "warm", "--direct",
                            "off", "--zero-share", "0", "--vcpus", "1,4",
                            "--contenders", "mmap")
    all_counted(result, 1)
    found = [(s["knobs"]["pattern"], s["knobs"]["vcpus"])
             for s in scenarios(result)]
    check(found == [("zipf", "1"), ("zipf", "4")], f"scenarios are {found}")
    for s in scenarios(result):
        for c in s["contenders"][1:]:
            pages = sum(c["map"]["urgent"]) / 255 * c["map"]["cell_pages"]
            check(0 < pages <= MIB // PAGE,
                  f"{pages} pages of {MIB // PAGE} were touched")


@case("guests that write always and guests that never do")
def always_and_never_writing(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--cache", "warm", "--direct",
                            "off", "--write-share", "0,100%", "--vcpus", "2")
    all_counted(result, 1)
    found = [s["knobs"]["write_share"] for s in scenarios(result)]
    check(found == ["0 %", "100 %"], f"shares: {found}")


@case("a trace with names of blocks, hexadecimal numbers and comments")
def trace_in_all_its_forms(bench: Bench) -> None:
    trace = bench.path("trace")
    pages = [0, 256, 512, 768, 1024, 1280, 2047]
    trace.write_text(
        "# what a guest did\n\n0 w\npc.ram 0x100000 w\n"
        "  pc.ram\t0x200fff   w  \n3145728 w\n# and so on\n"
        "pc.ram 4194304 w\n0x500000 w\npc.ram 0x7fffff w\n")
    result = bench.measured(*TINY, *MADE, "--cache", "warm", "--trace", trace,
                            "--direct", "off", "--zero-share", "0")
    all_counted(result, 1)
    check(scenarios(result)[0]["knobs"]["pattern"] == "trace", "no trace")
    for c in contenders(result):
        if c["name"] == "mmap":
            cell_pages = c["map"]["cell_pages"]
            found = [cell for cell, share in enumerate(c["map"]["urgent"])
                     if share]
            wanted = [page // cell_pages for page in pages]
            check(found == wanted, f"in {found} was touched, not in {wanted}")


@case("a small trace on more vCPUs than it has touches")
def trace_shorter_than_vcpus(bench: Bench) -> None:
    trace = bench.path("trace")
    trace.write_text("4096\n")
    all_counted(bench.measured(*TINY, *MADE, "--cache", "warm", "--trace",
                               trace, "--vcpus", "4", "--contenders",
                               "mmap,fastload"), 1)


@case("a trace with a bad line is refused, with the line's number")
def trace_with_bad_line(bench: Bench) -> None:
    for text, why in (("0\nabc\n", "no offset"), ("0\npc.rom 0\n", "block"),
                      ("#\n0x800000\n", "past the end"),
                      ("0 r\n0 x\n", "names no block|is not"),
                      ("0\n0 1 2 3\n", "is not"), ("0\n-1\n", "no offset")):
        trace = bench.path("trace")
        trace.write_text(text)
        done = bench.raw(*TINY, *MADE, "--trace", trace)
        one_sentence(done, 1, rf"line 2 of .*({why})")
    trace.write_text("# nothing\n")
    one_sentence(bench.raw(*TINY, *MADE, "--trace", trace), 1, "no touches")


# Some lines that QEMU 10.2 logged with -trace 'fastload_fault_*' -msg
# timestamp=on.  The length of pc.ram is changed to that of MADE.
LOG = """\
2026-11-29T14:30:58.986943Z fastload_fault_block hva=0x7f912be00000 \
len=8388608 pc.ram
2026-11-29T14:30:58.987419Z fastload_fault_block hva=0x7f9190800000 \
len=262144 pc.bios
2026-11-29T14:30:58.987500Z another line with fl=0x55bf19908530
2026-11-29T14:30:58.989657Z fastload_fault_received fl=0x55bf19908530 \
worker=0 hva=0x7f912bec0000 tid=24863 write=0
2026-11-29T14:30:58.990288Z fastload_fault_received fl=0x55bf19908530 \
worker=0 hva=0x7f912c3ff000 tid=24867 write=1
2026-11-29T14:30:58.990243Z fastload_fault_received fl=0x55bf19908530 \
worker=1 hva=0x7f912bec1000 tid=24863 write=0
2026-11-29T14:30:58.990300Z fastload_fault_received fl=0x55bf19908530 \
worker=0 hva=0x7f912bec1000 tid=24867 write=0
2026-11-29T14:30:59Z fastload_fault_received fl=0x55bf19908530 \
worker=0 hva=0x7f912bec1000 tid=24867 write=1
"""
TRACE = ("""\
pc.ram 0xc0000 r @0.000000
pc.ram 0xc1000 r @0.000586
pc.ram 0x5ff000 w @0.000631
pc.ram 0xc1000 w @0.010343
""")


def lines_of_trace(text: str) -> str:
    return re.sub(r"^#.*\n", "", text, flags=re.M)


@case("trace makes of QEMU's log what --trace replays at its pace")
def trace_of_a_log(bench: Bench) -> None:
    log, trace = bench.path("log"), bench.path("trace")
    log.write_text(LOG)
    bench.good("trace", log, trace)
    check(lines_of_trace(trace.read_text()) == TRACE, trace.read_text())
    # The guest computes by loops that were counted before, and a processor
    # may be faster since: half of the recorded time is asked for.
    slow = bench.path("trace")
    slow.write_text(TRACE.replace("@0.000631", "@0.080000").replace(
        "@0.010343", "@0.090000"))
    result = bench.measured(*TINY, *MADE, "--cache", "warm", "--direct",
                            "off", "--trace", slow, "--think", "recorded",
                            "--contenders", "eager,mmap,fastload")
    all_counted(result, 1)
    check(scenarios(result)[0]["knobs"]["think"] == "recorded", "no pace")
    for c in contenders(result):
        work = c["measures"]["work_ns"]
        check(work["min"] >= 40_000_000, f"{c['label']} worked in {work}")


@case("trace reads older logs, logs without times, and the last load of many")
def trace_of_other_logs(bench: Bench) -> None:
    log = bench.path("log")
    old = re.sub(r"^2026-11-29T14:30:5(\d)(\.\d+)?Z ",
                 lambda m: f"24863@176444525{m[1]}{m[2] or '.000000'}:",
                 LOG, flags=re.M)
    log.write_text(old)
    check(lines_of_trace(bench.good("trace", log, "-").out) == TRACE,
          "of QEMU 10.0 it makes something else")
    log.write_text(re.sub(r"^\S+Z ", "", LOG, flags=re.M))
    found = lines_of_trace(bench.good("trace", log, "-").out)
    check(found == "pc.ram 0xc0000 r\npc.ram 0x5ff000 w\n"
          "pc.ram 0xc1000 r\npc.ram 0xc1000 w\n", f"without times: {found}")
    log.write_text(LOG.replace("0x7f912b", "0x7f812b").replace(
        "0x7f912c", "0x7f812c") + LOG)
    check(lines_of_trace(bench.good("trace", log, "-").out) == TRACE,
          "of two loads it makes something else")


@case("a log that holds no load is refused, and a file that is there kept")
def trace_refuses(bench: Bench) -> None:
    log, trace = bench.path("log"), bench.path("trace")
    for text, why in (
            ("", "no fault of a fast load: run QEMU with"),
            ("hello\n", "no fault"),
            (LOG.replace("fault_block", "fault_blk"),
             "line 4 .*outside of the blocks"),
            (LOG.replace("pc.bios", "a name"), "line 2 .*names no block"),
            (LOG.replace("hva=0x7f912bec0000", "hva=?"),
             "line 4 .*no address")):
        log.write_text(text)
        bench.refused(1, why, "trace", log, trace)
        check(not trace.exists(), "there is a trace")
    bench.refused(1, "No such file", "trace", "/nonexistent/log", trace)
    log.write_text(LOG)
    trace.write_text("old")
    bench.refused(1, "exists; --force", "trace", log, trace)
    check(trace.read_text() == "old", "it was replaced")
    bench.good("trace", "--force", log, trace)
    check(lines_of_trace(trace.read_text()) == TRACE, trace.read_text())


@case("bytes where the bitmap has zero pages do not reach the guest")
def bytes_below_zero_pages(bench: Bench) -> None:
    path = bench.generated("--size", "8M", "--zero-share", "0.5",
                           "--run-length", "16K")
    block = ram_block(path)
    count = block.ram_bytes // PAGE
    with path.open("r+b") as file:
        file.seek(block.bitmap_off)
        bits = file.read(count // 8)
        for page in range(count):
            if not bits[page // 8] >> page % 8 & 1:
                file.seek(block.pages_off + page * PAGE)
                file.write(b"stale..." * (PAGE // 8))
        os.fsync(file.fileno())
    result = bench.measured(*TINY, "--snapshot", path, "--cache", "warm",
                            "--contenders", ",".join((*LOADERS, *EXTRAS)))
    check_names(result, (*LABELS, *EXTRA_LABELS))
    all_counted(result, 1)


@case("snapshots without zero pages, and with nothing else")
def no_zero_pages_and_only_those(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--zero-share", "0,1", "--direct",
                            "off", "--cache", "cold")
    check(len(result["works"]) == 2, f"{len(result['works'])} works")
    check_names(result, LOADERS)
    all_counted(result, 1)
    found = [work["snapshot"]["data_bytes"] for work in result["works"]]
    check(found == [8 * MIB, 0], f"data: {found}")
    all_counted(bench.measured(*TINY, *MADE, "--zero-share", "0,1",
                               "--cache", "warm", "--contenders",
                               ",".join(EXTRAS)), 1)


@case("memory may be touched before each run, or be left as it comes")
def memory_touched_and_fresh(bench: Bench) -> None:
    result = bench.measured(*TINY, *MADE, "--memory", "touched,fresh",
                            "--cache", "warm", "--contenders", "eager")
    found = [s["knobs"]["memory"] for s in scenarios(result)]
    check(found == ["touched", "fresh"], f"scenarios are {found}")
    all_counted(result, 1)
