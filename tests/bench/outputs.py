# SPDX-License-Identifier: GPL-2.0-or-later
"""Where results go, and what happens when they cannot."""

import json
import os
from pathlib import Path
import re
from typing import Any

from bench.places import is_root, small_disk, with_small_files
from bench.results import all_counted
from bench.stage import (
    MADE, MIB, PAGE, TINY, Bench, all_ours, load_result, one_sentence)
from bench.terminal import has_times
from tap import Skip, case, check


@case("a run that was refused leaves no result, not even an empty one")
def refused_run_leaves_no_result(bench: Bench) -> None:
    saved, page = bench.path("saved.json"), bench.path("page.html")
    bench.refused(1, "/nonexistent/x", "--snapshot", "/nonexistent/x",
                  "--json", saved, "--html", page)
    check(not saved.exists() and not page.exists(), "there is one")


@case("an old result stays until there is a new one")
def old_result_stays(bench: Bench) -> None:
    saved = bench.path("saved.json")
    saved.write_text("old")
    bench.refused(1, "/nonexistent/x", "--snapshot", "/nonexistent/x",
                  "--json", saved)
    check(saved.read_text() == "old", "it is gone")


@case("writing to a device or through a link does not replace it")
def device_and_link_stay(bench: Bench) -> None:
    link, aim = bench.path("link"), bench.path("aim")
    link.symlink_to(aim)
    bench.good(*TINY, *MADE, "--cache", "warm", "--contenders", "eager",
               "--json", link)
    check(link.is_symlink(), "a file is where the link was")
    if not is_root():
        raise Skip("only root can make a device to write to")
    device = bench.path("null")
    os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
    for args in (("report", bench.everything().saved, "--html", device),
                 (*TINY, *MADE, "--cache", "warm", "--contenders", "eager",
                  "--json", device)):
        done = bench.raw(*args)
        check(device.is_char_device(), f"a file replaced it: {args}")
        all_ours(done)
    all_ours(bench.raw("gen", "--size", "4M", device))
    check(device.is_char_device(), "gen put a file in its place")


def no_room(bench: Bench, saved: Path, **kwargs: Any) -> None:
    """A run whose result cannot be saved as @saved: it is shown anyway."""
    done = bench.raw("--snapshot", bench.generated("--size", "4M"), *TINY,
                     "--contenders", "eager,mmap,fastload", "--repeat",
                     "2", "--json", saved, **kwargs)
    check(done.code == 1, f"exit code {done.code}, not 1")
    all_ours(done)
    lines = done.err.splitlines()
    why = f"{saved.name}.*(File too large|No space left)"
    check(len(lines) == 2 and re.search(f"the runs go on: .*{why}", lines[0])
          and re.search(why, lines[1]), f"it says {lines}")
    check(has_times(done.out, "eager"), "there is no table")
    check("result: " not in done.out, "it says that there is a result")
    check(not saved.exists() or not saved.stat().st_size, "half is there")


@case("a result for which there is no room is said so, and shown anyway")
def no_room_for_file(bench: Bench) -> None:
    no_room(bench, bench.path("large.json"), preexec_fn=with_small_files)


@case("a disk that is full loses the file of a result, and not its table")
def no_room_on_disk(bench: Bench) -> None:
    with small_disk(bench, 1) as folder:
        filler = folder / "filler"
        filler.write_bytes(bytes(MIB - 8 * PAGE))
        no_room(bench, folder / "large.json")
        check(os.listdir(folder) == ["filler"], f"left: {os.listdir(folder)}")


@case("what cannot be written to standard output is an error")
def full_stdout(bench: Bench) -> None:
    path, other = bench.everything().saved, bench.path("other.json")
    few = (*TINY, *MADE, "--cache", "warm", "--contenders", "eager")
    for args in ((*few, "--json", other), (*few, "--json", "-"),
                 ("report", path), ("compare", path, path), ("--help",),
                 ("--version",), ("inspect", bench.generated(*MADE))):
        with open("/dev/full", "w") as full:
            one_sentence(bench.raw(*args, stdout=full), 1,
                         "cannot write to standard output: No space left")
    all_counted(json.loads(other.read_text()), 1)


@case("what reads the table may go away: the result is saved before it")
def closed_stdout(bench: Bench) -> None:
    saved = bench.path("saved.json")
    reading, writing = os.pipe()
    os.close(reading)
    child = bench.start(*TINY, *MADE, "--cache", "warm", "--contenders",
                        "eager", "--json", saved, stdout=writing)
    os.close(writing)
    bench.finish(child)
    check(load_result(saved)["interrupted"] is False,
          "it is not the whole result")


@case("no room for the snapshot is said before anything is written")
def no_room_for_snapshot(bench: Bench) -> None:
    with small_disk(bench, 4) as folder:
        bench.refused(1, r"needs .* free: choose another folder", *TINY,
                      *MADE, "--dir", folder)
        bench.refused(1, r"needs .* free", "gen", *MADE, folder / "x")
        check(not os.listdir(folder), f"left: {os.listdir(folder)}")
