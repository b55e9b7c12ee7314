# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused, in one sentence, before anything is measured."""

import os
from pathlib import Path
import re
import sys

from bench.stage import MADE, MIB, TINY, Bench
from tap import case


Refusal = tuple[str, str, tuple[str, ...]]  # name, message, command line

# With exit code 2: the command line itself is wrong.
USAGE: tuple[Refusal, ...] = (
    ("an unknown command", "fly", ("fly",)),
    ("an unknown option", "--wings", ("--wings",)),
    ("an option without its value", "--size", ("--size",)),
    ("an unknown contender", "wings", ("--contenders", "eager,wings")),
    ("an empty list of contenders", "contender", ("--contenders", "")),
    ("a contender twice", "eager.* twice", ("--contenders", "eager,eager")),
    ("a baseline that does not take part", "--baseline: 'mmap'",
     ("--contenders", "eager", "--baseline", "mmap")),
    ("an unknown class of storage", "--storage: 'disk' is not file, nvme",
     ("--storage", "nvme,disk")),
    ("storage without a unit", "--storage: 'rtt=1", ("--storage", "rtt=1")),
    ("storage with a time without a unit", "'rtt=1ms,jitter=9' is not file",
     ("--storage", "rtt=1ms,jitter=9")),
    ("storage with more luck than all", "fast=101%' is not .*with fast=1% and",
     ("--storage", "rtt=1ms,fast=101%")),
    ("storage of luck alone", "--storage: 'first=1'",
     ("--storage", "first=1")),
    ("storage twice", "twice", ("--storage", "rtt=1ms,rtt=1000us")),
    ("a readahead of half a page", "--readahead: '2K' is not as-is",
     ("--readahead", "2K")),
    ("a readahead of nothing", "--readahead: '0'", ("--readahead", "0")),
    ("a size larger than memory", "memory", ("--size", "15T")),
    ("a size larger than any", "--size: '100T'", ("--size", "100T")),
    ("a size of nothing", "--size: '0'", ("--size", "0")),
    ("a negative size", "--size: '-1M'", ("--size", "-1M")),
    ("a size that is rubbish", "--size: '8Q'", ("--size", "8Q")),
    ("a huge number", "--size: '1e999'", ("--size", "1e999")),
    ("a number of too many digits", "--threads: '9{40}'",
     ("--threads", "9" * 40)),
    ("an infinite size", "--size: 'inf'", ("--size", "inf")),
    ("a size that is no number", "--size: 'nan'", ("--size", "nan")),
    ("a share over 1", "--zero-share: '1.1'", ("--zero-share", "1.1")),
    ("a share over 100 %", "--write-share: '101%'",
     ("--write-share", "101%")),
    ("a negative share", "--write-share: '-1%'", ("--write-share", "-1%")),
    ("a time without a unit", "--think: '5'", ("--think", "5")),
    ("a negative time", "--think: '-5us'", ("--think", "-5us")),
    ("a window of nothing", "--window: '0'", ("--window", "0")),
    ("no threads", "--threads: '0'", ("--threads", "0")),
    ("too many threads", "--threads: '65'", ("--threads", "65")),
    ("a quota of nothing", "--cpu-quota: '0'", ("--cpu-quota", "0")),
    ("a limit that is rubbish", "--memory-max: 'x' is not a size.* or none",
     ("--memory-max", "x")),
    ("no clones", "--clones: '0'", ("--clones", "0")),
    ("no vCPUs", "--vcpus: '0'", ("--vcpus", "0")),
    ("a negative seed", "--seed: '-1'", ("--seed", "-1")),
    ("an unknown state of the cache", "--cache: 'hot'", ("--cache", "hot")),
    ("the pattern trace without one", "--pattern|--trace",
     ("--pattern", "trace")),
    ("an unknown read backend", "--io: 'aio'", ("--io", "aio")),
    ("an empty list", "--threads", ("--threads", "")),
    ("a list with nothing in between", "--threads: ''",
     ("--threads", "1,,2")),
    ("a value twice", "--threads: '1' is there twice", ("--threads", "1,2,1")),
    ("a value twice, written otherwise", "--size: '4096K' is there twice",
     ("--size", "4M,4096K")),
    ("no rounds", "--repeat: 0", ("--repeat", "0")),
    ("a negative number of rounds", "--repeat: -1", ("--repeat", "-1")),
    ("rounds that are rubbish", "--repeat", ("--repeat", "many")),
    ("too many rounds", "--repeat", ("--repeat", "1001")),
    ("no time for a run", "--timeout: 0", ("--timeout", "0")),
    ("a negative time limit", "--time-limit: -1", ("--time-limit", "-1")),
    ("a negative number of warm-ups", "--warmup: -1", ("--warmup", "-1")),
    ("--snapshot and --size", "--size.*--snapshot",
     ("--snapshot", "x", "--size", "8M")),
    ("--snapshot and --zero-share", "--zero-share.*--snapshot",
     ("--snapshot", "x", "--zero-share", "0")),
    ("a recorded pace without a trace", "--think: 'recorded'.*--trace",
     ("--think", "recorded")),
    ("another word for a time", "--think: 'paced' .*20us, or recorded",
     ("--think", "paced")),
    ("trace with one file", "trace needs", ("trace", "x")),
    ("--trace and --pattern", "--trace.*--pattern",
     ("--trace", "x", "--pattern", "zipf")),
    ("gen without a file", "gen needs", ("gen",)),
    ("gen with two files", "gen needs", ("gen", "a", "b")),
    ("gen with an unknown option", "--wings", ("gen", "--wings", "x")),
    ("gen with a size that is rubbish", "--size: 'x'",
     ("gen", "--size", "x", "/nonexistent/x")),
    ("gen with a part of a page", "--size: '4097'",
     ("gen", "--size", "4097", "/nonexistent/x")),
    ("gen with a share over 1", "--zero-share: '2'",
     ("gen", "--zero-share", "2", "/nonexistent/x")),
    ("gen with runs of nothing", "--run-length: '0'",
     ("gen", "--run-length", "0", "/nonexistent/x")),
    ("inspect without a file", "inspect needs", ("inspect",)),
    ("inspect with an option", "Unknown option.*--help",
     ("inspect", "--all", "x")),
    ("working-set without a file", "working-set needs", ("working-set",)),
    ("report without a file", "report needs", ("report",)),
    ("compare with one file", "compare needs", ("compare", "x")),
    ("doctor of two files", "doctor takes", ("doctor", "x", "y")),
    ("doctor with an unknown option", "--wings", ("doctor", "--wings")),
    ("doctor as a user who is not there", "--user: there is no user 'x y'",
     ("doctor", "--user", "x y")),
    ("doctor with one file twice", "is read and cannot be the output",
     ("doctor", sys.executable, "--json", sys.executable)),
    ("a page for standard output", "--html needs", ("--html", "-")),
    ("compare with a limit that is rubbish", "--fail-above: 'ten'",
     ("compare", "--fail-above", "ten", "x", "y")),
    ("compare with a limit of nothing", "--fail-above: '0'",
     ("compare", "--fail-above", "0", "x", "y")),
    ("two outputs for standard output", "--json and --csv need names",
     ("--json", "-", "--csv", "-")),
    ("report with a page for standard output", "--html needs",
     ("report", "x", "--html", "-")),
    ("a line break in a name", "wings", ("--contenders", "a\nwings")),
)

# With exit code 1: what it names is not there, or another thing.
FAILURES: tuple[Refusal, ...] = (
    ("a snapshot that is missing", "No such file",
     ("--snapshot", "/nonexistent/x")),
    ("a snapshot that is a folder", "neither a file", ("--snapshot", "/")),
    ("a snapshot that is a program", "not a mapped-ram snapshot",
     ("--snapshot", sys.executable)),
    ("a folder that is missing", "/nonexistent.*--dir",
     ("--dir", "/nonexistent")),
    ("a JSON file in no folder", "/nonexistent/x",
     ("--json", "/nonexistent/x")),
    ("a page in no folder", "/nonexistent/x", ("--html", "/nonexistent/x")),
    ("doctor with a JSON file in no folder", "/nonexistent/x",
     ("doctor", "--json", "/nonexistent/x")),
    ("gen in no folder", "/nonexistent/x", ("gen", "/nonexistent/x")),
    ("inspect of a missing file", "No such file",
     ("inspect", "/nonexistent/x")),
    ("inspect of a program", "not a mapped-ram snapshot",
     ("inspect", sys.executable)),
    ("working-set of a missing file", "No such file",
     ("working-set", "/nonexistent/x")),
    ("working-set of a program", "it is not the file of a working set",
     ("working-set", sys.executable)),
    ("report of a missing file", "No such file",
     ("report", "/nonexistent/x")),
    ("compare of missing files", "No such file",
     ("compare", "/nonexistent/x", "/nonexistent/y")),
)


def add_refused_command(name: str, code: int, pattern: str,
                        args: tuple[str, ...]) -> None:
    """A case: the command ends with @code and a sentence like @pattern."""
    @case(f"refused: {name}")
    def command_is_refused(bench: Bench) -> None:
        words = args
        if args[0].startswith("-"):
            # If it is accepted, it has little to do; the last value counts.
            small = () if "--snapshot" in args else MADE
            words = (*small, *TINY, "--cache", "warm", *args)
        bench.refused(code, pattern, *words)


for entry in USAGE:
    add_refused_command(entry[0], 2, *entry[1:])
for entry in FAILURES:
    add_refused_command(entry[0], 1, *entry[1:])


@case("refused: a truncated snapshot")
def truncated_snapshot(bench: Bench) -> None:
    path = bench.generated("--size", "4M")
    for length in (0, 3, 100, 200, MIB, path.stat().st_size - 40):
        short = bench.path("short")
        with path.open("rb") as file:
            short.write_bytes(file.read(length))
        bench.refused(1, r"short is |short was ", "inspect", short)
        bench.refused(1, r"short is |short was ", *TINY, "--snapshot", short)


@case("refused: what is no snapshot, in the words of QEMU")
def no_snapshot(bench: Bench) -> None:
    pipe, empty = bench.path("pipe"), bench.path("empty")
    os.mkfifo(pipe)
    empty.touch()
    for path, words in ((pipe, "is neither a file nor a block device"),
                        (bench.folder, "is neither a file nor a block device"),
                        (Path("/dev/null"), "is neither a file nor a block"),
                        (empty, "is not a migration stream: it has 0 bytes")):
        for args in (("inspect", path), (*TINY, "--snapshot", path)):
            bench.refused(1, f": {re.escape(str(path))} {words}", *args)


@case("refused: a trace that is missing, without a table")
def missing_trace(bench: Bench) -> None:
    bench.refused(1, "/nonexistent/x", *TINY, *MADE, "--trace",
                  "/nonexistent/x")
