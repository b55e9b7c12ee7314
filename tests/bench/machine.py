# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that lack a feature, and files that do not get cold or warm."""

import json
import shutil
import subprocess

from bench.places import WITHOUT, as_nobody, is_root, ramfs
from bench.results import (
    all_counted, check_names, contenders, has_note, on_disk, scenarios)
from bench.stage import LOADERS, MADE, TINY, Bench, load_result, wait_until
from tap import Skip, case, check


@case("where io_uring is refused the device is measured all the same")
def device_without_io_uring(bench: Bench) -> None:
    result = bench.measured(
        *TINY, *MADE, "--cache", "cold", "--io", "preadv", "--direct", "off",
        "--contenders", "eager,fastload",
        before=(WITHOUT, "io_uring"))
    on_disk(bench, result)
    all_counted(result, 1)
    storage = result["works"][0]["storage"]
    check(storage["sequential_bytes_per_s"]["median"] > 0, f"it is {storage}")
    check(storage["random_4k"]["count"] > 0, f"it is {storage}")
    for c in contenders(result):
        check(c["name"] == "null" or c["measures"]["device_share"],
              f"{c['label']} has no share of the device")


@case("without O_DIRECT the direct ones are left out, and a note says so")
def without_direct(bench: Bench) -> None:
    with ramfs(bench) as folder:
        saved = bench.path("result.json")
        done = bench.good(*TINY, *MADE, "--dir", folder, "--json", saved)
        result = load_result(saved)
        check_names(result, LOADERS)
        all_counted(result, 1)
        check(not result["works"][0]["storage"]["sequential_bytes_per_s"],
              "the device was measured")
        for s in scenarios(result):
            check(has_note(s, "LEFT OUT: eager-multi and fastload with "
                           "O_DIRECT"), f"notes: {s['notes']}")
        check(done.out.count("LEFT OUT") == 1, "it is not said once")


@case("without O_DIRECT, --direct on is refused before any run")
def direct_named_without(bench: Bench) -> None:
    with ramfs(bench) as folder:
        for value in "on", "off,on", "on,off":
            bench.refused(1, "no O_DIRECT.*--direct", *TINY, *MADE, "--dir",
                          folder, "--direct", value)
        bench.measured(*TINY, *MADE, "--dir", folder, "--direct", "on",
                       "--contenders", "eager")


@case("what stays in the page cache is NOT COLD")
def not_cold(bench: Bench) -> None:
    with ramfs(bench) as folder:
        cold, warm = scenarios(bench.measured(
            *TINY, *MADE, "--dir", folder, "--contenders", "eager"))
    check(has_note(cold, "^NOT COLD"), f"cold has {cold['notes']}")
    check(not has_note(warm, "COLD|WARM"), f"warm has {warm['notes']}")


@case("a cold run whose reads nobody counts has no figure for them")
def uncounted_reads(bench: Bench) -> None:
    with ramfs(bench) as folder:
        cold = scenarios(bench.measured(
            *TINY, *MADE, "--dir", folder, "--contenders", "eager"))[0]
    for c in cold["contenders"]:
        read = c["measures"]["read_bytes"]
        check((read is None) == (c["name"] != "null"),
              f"{c['label']} read {read}")


@case("a cache that goes when the file is opened is NOT WARM")
def not_warm(bench: Bench) -> None:
    if not is_root() or not shutil.which("nbdfuse") or \
            not shutil.which("nbdkit"):
        raise Skip("needs root, nbdfuse and nbdkit")
    path = bench.generated(*MADE)
    folder = bench.path("fuse")
    folder.mkdir()
    mounted = folder / "snapshot"
    with subprocess.Popen(["nbdfuse", mounted, "--command", "nbdkit", "-s",
                           "file", path], stderr=subprocess.DEVNULL) as fuse:
        try:
            wait_until("mount", lambda: mounted.exists() or
                       fuse.poll() is not None)
            if fuse.poll() is not None:
                raise Skip("FUSE cannot be mounted here")
            done = bench.raw(*TINY, "--snapshot", mounted, "--contenders",
                             "eager,mmap", "--json", "-")
        finally:
            subprocess.run(["umount", "-l", folder], check=False,
                           stderr=subprocess.DEVNULL)
    cold, warm = scenarios(json.loads(done.out))
    check(has_note(warm, "^NOT WARM"), f"warm has {warm['notes']}")
    check(not has_note(cold, "COLD|WARM"), f"cold has {cold['notes']}")


@case("the cache of another user's file is unknown, not full")
def cache_of_another_user(bench: Bench) -> None:
    if not is_root():
        raise Skip("only root can have a file that is another user's")
    path = bench.generated(*MADE)
    path.chmod(0o644)
    done = as_nobody(bench, *TINY, "--snapshot", path, "--contenders",
                     "eager,mmap", "--json", "-")
    check(done.code == 0, f"exit code {done.code}")
    for s in scenarios(json.loads(done.out)):
        check(not has_note(s, "NOT COLD|NOT WARM"), f"notes: {s['notes']}")
        for c in s["contenders"]:
            cached = c["measures"]["cached_bytes"]
            check((cached is None) == has_note(s, "^UNKNOWN whether"),
                  f"{c['label']}: {cached}, and {s['notes']}")
            check(not cached or s["knobs"]["cache"] == "warm" or
                  not cached["max"], f"{c['label']}: {cached}")
