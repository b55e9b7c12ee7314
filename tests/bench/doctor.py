# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a host is ready for a load, and what it is said to lack."""

import json
import os
from pathlib import Path
import re
import resource
from typing import Any, Callable, NamedTuple

from bench.limits import limited_cgroup, memory_cgroup
from bench.permission import without_userfaultfd
from bench.places import (
    WITHOUT, as_nobody, copy_for_nobody, is_root, ramfs, small_disk)
from bench.stage import MIB, PAGE, Bench, Done, load_result, one_sentence
from bench.terminal import check_width, on_terminal
from host import loop_device
from tap import Skip, case, check

VERDICTS = {"yes", "no", "missing", "unknown"}
# What a report has of any host, whatever is asked for.
ALWAYS = {
    "trap", "trap-call", "trap-device", "trap-sysctl", "trap-confined",
    "trap-shmem", "trap-hugetlb", "trap-move", "trap-wp-async", "uring",
    "uring-memory", "thp", "thp-collapse", "thp-shmem", "hugetlb",
    "map-count", "cgroup-memory", "cgroup-cpu", "cgroup-pids", "nofile",
    "kvm", "path"}
OF_A_SNAPSHOT = {"snapshot", "machine", "run-state", "memory", "memlock",
                 "holes", "filesystem", "disk", "direct", "cachestat",
                 "space"}
COLOUR = re.compile(r"\033\[[0-9;]*m")
WIDTHS = (20, 40, 60, 80, 200)
HOST_TRIES = 10      # to find a host that stays as it is for three reports


class Finding(NamedTuple):
    verdict: str
    text: str
    mend: str


Report = dict[str, Finding]


def findings(result: dict[str, Any]) -> Report:
    """The findings of a report by their id; checks the report's form."""
    check(result["format"] == "fastload-doctor", "it is another format")
    check(result["version"] == 1, f"it has version {result['version']}")
    report = {}
    for entry in result["checks"]:
        check(entry["verdict"] in VERDICTS, f"a verdict of {entry}")
        check(entry["text"] and entry["id"] not in report, f"it has {entry}")
        report[entry["id"]] = Finding(entry["verdict"], entry["text"],
                                      entry.get("mend", ""))
    check(ALWAYS <= set(report), f"it lacks {ALWAYS - set(report)}")
    is_missing = any(f.verdict == "missing" for f in report.values())
    check(result["ready"] is not is_missing, f"ready is {result['ready']}")
    return report


def report_of(done: Done) -> Report:
    """The findings of a run with --json -; checks its exit code, too."""
    check(done.err == "", f"stderr has {done.err!r}")
    result = json.loads(done.out)
    check(done.code == (0 if result["ready"] else 1),
          f"exit code {done.code}, ready {result['ready']}")
    return findings(result)


def examined(bench: Bench, *args: object, **options: Any) -> Report:
    return report_of(bench.raw("doctor", *args, "--json", "-", **options))


def check_is(report: Report, what: str, verdict: str, words: str = "",
             mend: str = "") -> None:
    found = report[what]
    check(found.verdict == verdict, f"{what}: {found}, not {verdict}")
    check(re.search(words, found.text), f"{what}: {found} without {words!r}")
    check(re.search(mend, found.mend), f"{what}: {found} without {mend!r}")


def needs_trap(bench: Bench) -> None:
    if examined(bench)["trap"].verdict != "yes":
        raise Skip("this user has no userfaultfd")


# ---- a host that is ready

@case("doctor: a snapshot is found to be one, and the host to be ready")
def ready_for_snapshot(bench: Bench) -> None:
    needs_trap(bench)
    path = bench.generated("--size", "8M")
    report = examined(bench, path)
    check(OF_A_SNAPSHOT <= set(report),
          f"it lacks {OF_A_SNAPSHOT - set(report)}")
    check_is(report, "snapshot", "yes", r"8\.0 MiB of RAM, 6\.\d MiB of them")
    check_is(report, "memory", "yes", r"6\.\d MiB of data")
    check_is(report, "machine", "yes", "pc-")
    check_is(report, "path", "yes")
    done = bench.good("doctor", path)
    check(re.search(r"^Ready: ", done.out, re.M), "it does not say Ready")
    check("  NO " not in done.out, "it says NO")


@case("doctor: a folder, or the current one, is looked at as a place")
def folder_is_a_place(bench: Bench) -> None:
    before = set(bench.folder.iterdir())
    for report in (examined(bench, bench.folder),
                   examined(bench, cwd=bench.folder)):
        check_is(report, "path", "yes", "a folder")
        check(OF_A_SNAPSHOT & set(report) == {
            "filesystem", "disk", "direct", "cachestat", "space"},
            f"it has {set(report)}")
    left = set(bench.folder.iterdir()) - before
    check(not left, f"files are left: {left}")


@case("doctor: a block device is a snapshot as a file is")
def block_device(bench: Bench) -> None:
    if not is_root():
        raise Skip("only root can make a block device")
    path = bench.generated("--size", "4M")
    os.truncate(path, path.stat().st_size + PAGE)   # or its last sector is cut
    with loop_device(path) as device:
        report = examined(bench, device)
        check_is(report, "snapshot", "yes", r"^4\.0 MiB of RAM")
        check_is(report, "filesystem", "unknown", "a block device")
        check_is(report, "disk", "yes", "^loop")
        check("space" not in report, "it has room beside it")


# ---- what is no snapshot

def not_a_snapshot(bench: Bench, path: Path, what: str, words: str) -> None:
    report = examined(bench, path)
    check_is(report, what, "missing", words)
    done = bench.raw("doctor", path)
    check(done.code == 1, f"exit code {done.code}")
    check(re.search("^  NO  ", done.out, re.M) and
          re.search("^Not ready: ", done.out, re.M), "it does not say so")


@case("doctor: what is no snapshot is said to be none, and why")
def no_snapshot(bench: Bench) -> None:
    pipe, empty = bench.path("pipe"), bench.path("empty")
    os.mkfifo(pipe)
    empty.touch()
    not_a_snapshot(bench, pipe, "path", "neither a file nor a block device")
    not_a_snapshot(bench, Path("/dev/null"), "path", "neither a file")
    not_a_snapshot(bench, bench.path("x"), "path", "No such file")
    not_a_snapshot(bench, empty, "snapshot", "it has 0 bytes")
    not_a_snapshot(bench, bench.program, "snapshot",
                   "is not a mapped-ram snapshot")


@case("doctor: a damaged snapshot is not ready")
def damaged_snapshot(bench: Bench) -> None:
    path = bench.generated("--size", "8M")
    content = path.read_bytes()
    name = b"\6pc.ram"
    for what, wrong in (("short", content[:len(content) // 2]),
                        ("renamed", content.replace(name, b"\6pc\0ram"))):
        check(wrong != content, "it is as it was")
        damaged = bench.path(what)
        damaged.write_bytes(wrong)
        not_a_snapshot(bench, damaged, "snapshot", "save it again")


# ---- what is lacked

@case("doctor: io_uring that a filter refuses is no, and loads go on")
def without_io_uring(bench: Bench) -> None:
    report = examined(bench, before=(WITHOUT, "io_uring"))
    check_is(report, "uring", "no", "seccomp filter.*preadv")
    check_is(report, "trap-confined", "no", "a seccomp filter")


@case("doctor: userfaultfd that a filter refuses comes by the device")
def without_call(bench: Bench) -> None:
    if not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        raise Skip("this user may not open /dev/userfaultfd")
    report = examined(bench, before=(WITHOUT, "userfaultfd"))
    check_is(report, "trap-call", "no", "a seccomp filter refuses it")
    check_is(report, "trap-device", "yes")
    check_is(report, "trap", "yes", "by the device")


@case("doctor: UFFDIO_MOVE is tried, not only asked for")
def without_move(bench: Bench) -> None:
    needs_trap(bench)
    if examined(bench)["trap-move"].verdict != "yes":
        raise Skip("this kernel has no UFFDIO_MOVE")
    report = examined(bench, before=(WITHOUT, "move"))
    check_is(report, "trap-move", "no", "fails when tried.*not permitted")
    check_is(report, "trap", "yes")


@case("doctor: huge pages that are denied are no")
def without_huge(bench: Bench) -> None:
    report = examined(bench, before=(WITHOUT, "huge"))
    check_is(report, "thp", "no", "PR_SET_THP_DISABLE")


@case("doctor: no KVM is no, and says what is left")
def without_kvm(bench: Bench) -> None:
    if not is_root():
        raise Skip("only root can hide /dev/kvm")
    report = examined(bench, before=(WITHOUT, "kvm"))
    check_is(report, "kvm", "no", "No such file.*TCG")


@case("doctor: a file system without O_DIRECT is no")
def without_direct(bench: Bench) -> None:
    path = bench.generated("--size", "4M")
    with ramfs(bench) as folder:
        copy = folder / "snapshot"
        copy.write_bytes(path.read_bytes())
        for place in (folder, copy):
            report = examined(bench, place)
            check_is(report, "direct", "no", "direct-io is refused")
            check_is(report, "filesystem", "yes", "^ramfs: .*memory")


@case("doctor: limits of the process are seen")
def limits_of_process(bench: Bench) -> None:
    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    report = examined(bench, preexec_fn=few_descriptors)
    check_is(report, "nofile", "no", "^64 ", "ulimit -n")
    check_is(examined(bench), "nofile", "yes" if resource.getrlimit(
        resource.RLIMIT_NOFILE)[0] >= 1024 else "no")


@case("doctor: little locked memory is few rings, and no mem-lock")
def little_locked_memory(bench: Bench) -> None:
    folder, program = copy_for_nobody(bench)
    path = folder / "snapshot"
    bench.good("gen", "--size", "8M", path)
    path.chmod(0o644)
    little = 24 << 10

    def lock_little() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (little, little))

    if is_root():       # as another user, for whom the limit counts
        report = examined(bench, path, "--user", "nobody",
                          preexec_fn=lock_little)
    else:
        report = examined(bench, path, preexec_fn=lock_little)
    check_is(report, "uring-memory", "no", "24 KiB: rings for 3 threads")
    check_is(report, "memlock", "no", "ulimit -l is 24")


@case("doctor: a cgroup too small for the snapshot is missing memory")
def small_cgroup(bench: Bench) -> None:
    path = bench.generated("--size", "96M", "--zero-share", "0")
    with memory_cgroup(64 * MIB) as before:
        report = examined(bench, path, before=before)
        check_is(report, "cgroup-memory", "no", r"^64\.0 MiB at most")
        check_is(report, "memory", "missing", "in this cgroup")
        small = bench.generated("--size", "8M")
        report = examined(bench, small, before=before)
        check_is(report, "memory", "yes", "in this cgroup")
    zeros = bench.generated("--size", "96M", "--zero-share", "90%")
    with memory_cgroup(64 * MIB) as before:
        report = examined(bench, zeros, before=before)
        check_is(report, "memory", "no", "may write")


@case("doctor: limits of threads and of CPU time of a cgroup are seen")
def cgroup_of_threads(bench: Bench) -> None:
    with limited_cgroup("pids", "pids.max", "pids.max", "20") as before:
        report = examined(bench, before=before)
        check_is(report, "cgroup-pids", "no", r"^1\d more: .*refused")
    with limited_cgroup("cpu", "cpu.max", "cpu.cfs_quota_us",
                        "50000") as before:
        report = examined(bench, before=before)
        check_is(report, "cgroup-cpu", "no", r"^0\.50 CPUs")


# ---- who is asked

@case("doctor: to another user userfaultfd is missing, with what mends it")
def closed_to_nobody(bench: Bench) -> None:
    without_userfaultfd()
    report = report_of(as_nobody(bench, "doctor", "--json", "-"))
    check_is(report, "trap", "missing", "both ways",
             "/dev/userfaultfd|unprivileged_userfaultfd=1")
    check_is(report, "trap-call", "no", "user mode alone.*KVM")
    if Path("/dev/userfaultfd").exists():
        check_is(report, "trap-device", "no", "mode [0-7]+, owner root")
    check_is(report, "trap-sysctl", "no", "is 0")


@case("doctor: --user finds what that user's own doctor finds")
def user_is_asked(bench: Bench) -> None:
    if not is_root():
        raise Skip("only root can become another user")
    himself = report_of(as_nobody(bench, "doctor", "/", "--json", "-"))
    asked = examined(bench, "/", "--user", "nobody")
    for what in ALWAYS:
        check(himself[what].verdict == asked[what].verdict,
              f"{what}: {himself[what]} and {asked[what]}")
    result = json.loads(bench.raw("doctor", "--user", "nobody", "--json",
                                  "-").out)
    check(result["user"] == "nobody", f"it was asked as {result['user']}")
    done = as_nobody(bench, "doctor", "--user", "root")
    one_sentence(done, 1, "cannot become the user 'root': .*sudo")


@case("doctor: --user names the folder that is closed to that user")
def user_has_no_way(bench: Bench) -> None:
    if not is_root():
        raise Skip("only root can become another user")
    folder, program = copy_for_nobody(bench)
    closed, saved = folder / "closed", bench.path("report.json")
    closed.mkdir(mode=0o700)
    path = closed / "snapshot"
    bench.good("gen", "--size", "4M", path)
    path.chmod(0o644)
    for name, cwd in ((path, "/"), ("snapshot", closed)):
        done = bench.raw("doctor", name, "--user", "nobody", "--json", saved,
                         cwd=cwd)
        check(done.code == 1, f"exit code {done.code}")
        report = findings(load_result(saved))
        check_is(report, "path", "missing", f"by the folder {closed}$",
                 f"setfacl -m u:nobody:x '{closed}'")
        check("snapshot" not in report, "it was read")
    closed.chmod(0o711)
    path.chmod(0o600)
    check_is(examined(bench, path, "--user", "nobody"), "path", "missing",
             "Permission denied$", f"u:nobody:r '{path}'")
    path.chmod(0o644)
    report = examined(bench, path, "--user", "nobody")
    check_is(report, "snapshot", "yes")
    # The kernel tells others nothing about the page cache, or all.
    check("chown nobody" in report["cachestat"].mend or
          report["cachestat"].verdict == "yes", f"{report['cachestat']}")
    check_is(examined(bench, path), "cachestat",
             report["cachestat"].verdict if "Linux 6.5" in
             report["cachestat"].text else "yes")


# ---- its output

def shown(bench: Bench, columns: int, *args: object) -> str:
    """What a terminal with this many columns shows."""
    code, rest, text = on_terminal(bench, "doctor", *args, columns=columns,
                                   stream="stdout")
    check(code in (0, 1) and rest == "", f"exit code {code}: {rest!r}")
    return text.replace("\r\n", "\n")


def verdicts(text: str) -> list[str]:
    return re.findall(r"^  (yes|no|NO|-) ", text, re.M)


@case("doctor: lines fit into terminals, and are whole without one")
def lines_fit(bench: Bench) -> None:
    path = bench.generated("--size", "4M")
    unlimited = {name: value for name, value in os.environ.items()
                 if name != "COLUMNS"}

    def whole() -> list[str]:
        return verdicts(bench.raw("doctor", path, env=unlimited).out)

    for columns in WIDTHS:
        # Other programs may change the host between two reports.
        for _ in range(HOST_TRIES):
            before = whole()
            text = COLOUR.sub("", shown(bench, columns, path))
            if whole() == before:
                break
        check(len(before) > len(ALWAYS), f"only {len(before)} lines")
        check_width(text, columns)
        check(verdicts(text) == before,
              f"{columns} columns have other verdicts")
        narrow = bench.raw("doctor", path, env={**os.environ,
                                                "COLUMNS": str(columns)}).out
        check_width(narrow, columns)


@case("doctor: colours are for terminals, and not for all of them")
def colours_on_terminals(bench: Bench) -> None:
    check("\033" not in bench.raw("doctor").out, "a pipe gets colours")
    check(COLOUR.search(shown(bench, 80)), "a terminal gets none")
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        before = os.environ.get(name)
        os.environ[name] = value
        try:
            text = on_terminal(bench, "doctor", stream="stdout",
                               term=os.environ["TERM"] if name == "TERM"
                               else "xterm")[2]
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
        check("\033" not in text, f"colours in spite of {name}={value}")


@case("doctor: a file gets the same report, and the terminal the lines")
def report_in_file(bench: Bench) -> None:
    saved = bench.path("report.json")
    done = bench.raw("doctor", "--json", saved)
    report = findings(load_result(saved))
    check(set(report) == set(examined(bench)), "it is another report")
    check("userfaultfd" in done.out, "nothing is printed")


@case("doctor: a report for which there is no room is an error, and shown")
def no_room_for_report(bench: Bench) -> None:
    with small_disk(bench, 1) as folder:
        (folder / "filler").write_bytes(bytes(MIB))
        saved = folder / "report.json"
        done = bench.raw("doctor", "--json", saved)
        one_sentence(done, 1, "report.json.*No space left")
        check("userfaultfd" in done.out, "the lines are lost")
        check(not saved.exists() or not saved.stat().st_size, "half is there")
    for args in ((), ("--json", "-")):
        with open("/dev/full", "w") as full:
            one_sentence(bench.raw("doctor", *args, stdout=full), 1,
                         "cannot write to standard output: No space left")


# ---- a QEMU

def qemu_that(bench: Bench, *answers: object) -> Path:
    """A program that prints these answers, as QEMU's monitor would."""
    lines = [json.dumps(answer) for answer in answers]
    path = bench.path("qemu")
    path.write_text("#!/bin/sh\nhead -n 4 >/dev/null\ncat <<'END'\n" +
                    "\n".join(lines) + "\nEND\n")
    path.chmod(0o755)
    return path


GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 2, "micro": 2},
                                "package": ""}, "capabilities": ["oob"]}}
LIST = {"id": "caps", "return": [{"capability": "mapped-ram",
                                  "state": False}]}


@case("doctor: --qemu tells a QEMU with fast load from others")
def qemu_is_asked(bench: Bench) -> None:
    needs_trap(bench)
    taken: dict[str, Any] = {"id": "set", "return": {}}
    refused = {"id": "set", "error": {"class": "GenericError", "desc": ""}}
    expected: tuple[tuple[Path, Callable[[Report], None]], ...] = (
        (qemu_that(bench, GREETING, LIST, taken),
         lambda r: check_is(r, "qemu-fast-load", "yes")),
        (qemu_that(bench, GREETING, LIST, refused),
         lambda r: check_is(r, "qemu-fast-load", "missing", "has no")),
        (qemu_that(bench, GREETING, refused),
         lambda r: check_is(r, "qemu-mapped-ram", "missing", "older than")),
        (Path("/bin/true"),
         lambda r: check_is(r, "qemu", "missing", "is no QEMU")),
        (Path("/nonexistent/qemu"),
         lambda r: check_is(r, "qemu", "missing", "No such file")),
    )
    for path, judge in expected:
        judge(examined(bench, "--qemu", path))
    check("qemu" not in examined(bench), "one is asked without --qemu")
