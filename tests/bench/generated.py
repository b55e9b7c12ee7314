# SPDX-License-Identifier: GPL-2.0-or-later
"""gen, inspect and working-set: what is on disk."""

import os
from pathlib import Path
import re
import signal

from bench.places import with_small_files
from bench.stage import MADE, TINY, Bench, one_sentence
from tap import case, check

TESTS = Path(__file__).resolve().parents[1]


@case("gen: the same seed makes the same bytes, another one others")
def gen_is_reproducible(bench: Bench) -> None:
    for share in ("0", "0.5"):
        a, b, c = (bench.generated("--size", "4M", "--zero-share", share,
                                   "--seed", seed).read_bytes()
                   for seed in ("5", "5", "6"))
        check(a == b, f"zero share {share}: they differ")
        check(a != c, f"zero share {share}: they do not differ")


@case("inspect prints blocks and the share of zero pages")
def inspect_prints_blocks(bench: Bench) -> None:
    path = bench.generated("--size", "8M", "--zero-share", "25%")
    done = bench.good("inspect", path)
    check(re.search(r"^pc\.ram +8\.0 MiB +6\.0 MiB +25\.0 %", done.out, re.M),
          "no line for pc.ram")
    check("with data" in done.out and "zero" in done.out, "no runs")


@case("working-set prints blocks, runs and where they are")
def working_set_prints_blocks(bench: Bench) -> None:
    done = bench.good("working-set", TESTS / "fuzz" / "corpus-workset" /
                      "two-blocks")
    check("8 pages in 3 runs, 32.0 KiB" in done.out, "no sum")
    check(re.search(r"^pc\.ram +64\.0 MiB +28\.0 KiB +0\.0 % +2$", done.out,
                    re.M), "no line for pc.ram")
    check(re.search(r"^ +16\.0 KiB +1 +20\.0 KiB$", done.out, re.M),
          "no line for the longest run")
    check("seen once: 2 runs; more often: 1" in done.out, "not how often")
    rows = re.findall(r"^\|(.{60})\|$", done.out, re.M)
    check(len(rows) == 10 and rows[9].startswith("."),
          "the last run is not at the begin of memory")


@case("gen replaces a file that is there when forced, and else does not")
def gen_replaces_by_force(bench: Bench) -> None:
    path = bench.path("old")
    path.write_text("old")
    bench.refused(1, "--force", "gen", "--size", "4M", path)
    check(path.read_text() == "old", "the file was changed")
    bench.good("gen", "--force", "--size", "4M", path)
    bench.good("inspect", path)


@case("what is read is never the output as well")
def input_is_no_output(bench: Bench) -> None:
    path = bench.path("snapshot")
    bench.good("gen", "--size", "4M", path)
    before = path.read_bytes()
    for option in ("--json", "--html"):
        bench.refused(2, "cannot be the output", *TINY, "--snapshot", path,
                      option, path)
    other = bench.path("x")
    link = bench.path("link")
    link.symlink_to(other)
    other.touch()
    for same in other, f"{other.parent}/./{other.name}", link:
        bench.refused(2, "names of their own", *TINY, *MADE, "--json", other,
                      "--html", same)
    check(path.read_bytes() == before, "the snapshot was changed")


@case("a gen that fails leaves nothing, and an old file as it was")
def gen_fails_cleanly(bench: Bench) -> None:
    folder = bench.path("folder")
    folder.mkdir()
    bench.refused(1, "File too large", "gen", "--size", "4M", folder / "new",
                  preexec_fn=with_small_files)
    check(not list(folder.iterdir()), f"left: {list(folder.iterdir())}")
    (folder / "old").write_text("old")
    bench.refused(1, "File too large", "gen", "--force", "--size", "4M",
                  folder / "old", preexec_fn=with_small_files)
    check(os.listdir(folder) == ["old"], f"left: {os.listdir(folder)}")
    check((folder / "old").read_text() == "old", "it is not as it was")


@case("a gen that is interrupted leaves nothing")
def gen_is_interrupted(bench: Bench) -> None:
    folder = bench.path("folder")
    folder.mkdir()
    # It is interrupted in its first second, so that little is written.
    child = bench.start("gen", "--size", "4G", "--zero-share", "0",
                        folder / "big")
    bench.wait_for("file", child, lambda: os.listdir(folder))
    child.send_signal(signal.SIGINT)
    done = bench.finish(child)
    one_sentence(done, 130, "stopped")
    check(not os.listdir(folder), f"left: {os.listdir(folder)}")


@case("a run that cannot generate leaves nothing")
def run_cannot_generate(bench: Bench) -> None:
    bench.refused(1, "File too large", *TINY, *MADE,
                  preexec_fn=with_small_files)
