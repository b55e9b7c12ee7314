# SPDX-License-Identifier: GPL-2.0-or-later
"""What help names."""

from bench.stage import EXTRAS, LOADERS, Bench
from tap import case, check


@case("help names every contender, command and knob, and --version a commit")
def help_names_everything(bench: Bench) -> None:
    text = bench.good("--help").out
    for word in (*LOADERS, *EXTRAS, "gen", "inspect", "trace [", "report",
                 "compare", "doctor", "--contenders", "--repeat",
                 "--snapshot"):
        check(word in text, f"--help does not have {word}")
    for word in ("--size", "--cache", "--pattern", "--working-set", "--vcpus",
                 "--threads", "--direct", "--quick"):
        check(f"  {word}" in text, f"--help does not have {word}")
    check("--io" not in text, "--help has knobs that few need")
    knobs = bench.good("--help-knobs").out
    for word in ("--size", "--io", "--zero-share", "--memory"):
        check(f"  {word}=" in knobs, f"--help-knobs does not have {word}")
    check("--knobs-" not in bench.good("--help-all").out,
          "--help-all has another name for a knob")
    check(bench.good("--version").out.startswith("fastload-bench "),
          "--version is something else")
