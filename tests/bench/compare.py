# SPDX-License-Identifier: GPL-2.0-or-later
"""One result beside another: what is the same, and what is worse."""

from pathlib import Path
import re
from typing import Mapping, Sequence

from bench.results import contenders, scenarios
from bench.stage import TINY, Bench, Result, load_result
from bench.terminal import WIDTHS, check_width, figures_of, on_terminal
from snapshotfile import ram_block
from tap import case, check


@case("compared with itself, nothing of a result has changed")
def compare_with_itself(bench: Bench) -> None:
    path = bench.everything().saved
    done = bench.good("compare", path, path)
    changes = re.findall(r"([-+]\d+\.\d) %", done.out)
    check(len(changes) > 20, f"{len(changes)} lines with a change")
    check(set(changes) == {"+0.0"}, f"changes: {set(changes)}")


@case("compare says what only one of the results has")
def compare_tells_missing(bench: Bench) -> None:
    path = bench.everything().saved
    result = load_result(path)
    gone = scenarios(result)[0]["contenders"].pop()
    fewer = bench.made_up(result)
    for files, which in (((path, fewer), "first"), ((fewer, path), "second")):
        done = bench.good("compare", *files)
        found = re.findall(r"^  (.*?) +only in the (\w+)$", done.out, re.M)
        check(found == [(gone["label"], which)], f"it says {found}")


@case("compare knows contenders by their knobs, and labels are not cut")
def compare_goes_by_knobs(bench: Bench) -> None:
    path = bench.everything().saved
    result = load_result(path)
    for c in contenders(result):
        c["label"] += " with a long description"
    renamed = bench.made_up(result)
    done = bench.good("compare", path, renamed)
    check("only in" not in done.out, "it takes them for others")
    done = bench.good("report", renamed)
    for c in contenders(result):
        check(f"  {c['label']} " in done.out, f"{c['label']} is cut")


def changed(bench: Bench, **environment: object) -> Path:
    """A result of another environment."""
    result = load_result(bench.everything().saved)
    result["environment"].update(environment)
    return bench.made_up(result)


@case("results of different environments are compared only by force")
def compare_other_environment(bench: Bench) -> None:
    path, other = bench.everything().saved, changed(bench, kernel="2.4.0")
    bench.refused(1, r"kernel is .* and \"2\.4\.0\" .*--force", "compare",
                  path, other)
    done = bench.good("compare", "--force", path, other)
    check("+0.0 %" in done.out, "it compares nothing")
    check("2.4.0" in done.out.splitlines()[0], "it does not say so")


@case("a setting that only one of two machines has is a difference")
def setting_is_missing(bench: Bench) -> None:
    path = bench.everything().saved
    bench.refused(1, r"cpu_quota is .*unknown", "compare", path,
                  changed(bench, cpu_quota=0.5))
    bench.refused(1, r"scheduler is .*; thp is ", "compare", path,
                  changed(bench, scheduler="x", thp="x"))


@case("what has no influence on figures is told, and no reason to refuse")
def setting_without_influence(bench: Bench) -> None:
    done = bench.good("compare", bench.everything().saved,
                      changed(bench, open_files=17, is_root="x", colour=1))
    for word in ("open_files is", "is_root is", "colour is unknown"):
        check(word in done.out.splitlines()[0], f"nothing about {word}")


@case("a snapshot is the same by its bytes, whatever it is called")
def snapshot_is_the_same(bench: Bench) -> None:
    path = bench.generated("--size", "4M", "--zero-share", "0")
    saved: list[Path] = []
    other, changed_one = bench.path("other"), bench.path("changed")
    other.symlink_to(path)
    data = bytearray(path.read_bytes())
    data[ram_block(path).pages_off] ^= 1
    changed_one.write_bytes(data)
    for name in (path, other, changed_one):
        saved.append(bench.path("saved.json"))
        bench.good(*TINY, "--snapshot", name, "--cache", "warm",
                   "--contenders", "eager", "--json", saved[-1])
    done = bench.good("compare", saved[0], saved[1])
    check("only in" not in done.out, "it takes them for two")
    bench.refused(1, "nothing in common", "compare", saved[0], saved[2])


ROUNDS = (0.99, 1, 1.01, 1.002, 0.998)      # of a result that is steady


def steady_result(bench: Bench, factors: Mapping[str, float] = {},
                  label: str = "fastload",
                  rounds: Sequence[float] = ROUNDS) -> Result:
    """One whose rounds are alike, but for those measures of @label."""
    result = load_result(bench.everything().saved)
    for c in contenders(result):
        del c["timeline"], c["map"]     # long to read, and not compared
        mine = factors if c["label"] == label else {}
        c["run_count"] = len(rounds)
        for name, measure in c["measures"].items():
            if measure:
                base = (measure["median"] or 1) * mine.get(name, 1)
                measure["rounds"] = [base * f for f in rounds]
        c["faults"]["rounds"] = [
            {"count": 1000, "p50_ns": 1e4 * f,
             "p99_ns": 1e5 * f * mine.get("p99_ns", 1)} for f in rounds]
    return result


def steady(bench: Bench, factors: Mapping[str, float] = {},
           label: str = "fastload", rounds: Sequence[float] = ROUNDS) -> Path:
    """The file of a steady_result()."""
    return bench.made_up(steady_result(bench, factors, label, rounds))


def judged(bench: Bench, code: int, first: Path, second: Path,
           *args: object) -> str:
    """What compare says of the two with a limit of 10 %."""
    done = bench.raw("compare", "--fail-above", "10%", first, second, *args)
    check(done.code == code, f"exit code {done.code}, not {code}")
    check(done.err == "", f"stderr has {done.err!r}")
    return done.out


@case("compare --fail-above ends with 3 when something is worse")
def compare_fails(bench: Bench) -> None:
    first = steady(bench)
    out = judged(bench, 0, first, first)
    check("none of" in out and "FAIL" not in out, "it fails against itself")
    for name in ("load_ns", "work_ns", "cpu_ns", "run_ns", "waited_ns",
                 "p99_ns"):
        out = judged(bench, 3, first, steady(bench, {name: 1.3}))
        found = re.findall(r"\+30\.0 % .* FAILS", out)
        check(len(found) == 2, f"{name}: {len(found)} lines fail, not 2")
        check("2 of" in out, f"{name}: it does not say how many")
        judged(bench, 0, first, steady(bench, {name: 0.3}))
        judged(bench, 0, first, steady(bench, {name: 1.09}))


@case("less progress is worse, and less memory decides nothing")
def compare_knows_directions(bench: Bench) -> None:
    first = steady(bench)
    judged(bench, 3, first, steady(bench, {"progress": 0.5}))
    out = judged(bench, 0, first, steady(bench, {"progress": 2}))
    check(re.search(r"\+100\.0 % .* better", out), "more is not better")
    judged(bench, 0, first, steady(bench, {"rss_peak_bytes": 2, "speed": 0.5}))


@case("the baseline and null are shown, and judged are the others")
def compare_leaves_out(bench: Bench) -> None:
    first = steady(bench)
    judged(bench, 0, first, steady(bench, {"work_ns": 2}, "null"))
    worse = steady(bench, {"load_ns": 2})
    judged(bench, 3, first, worse)
    judged(bench, 3, first, worse, "--contenders", "mmap,fastload")
    judged(bench, 0, first, worse, "--contenders", "mmap")
    bench.refused(1, "nothing to judge", "compare", "--fail-above", "10%",
                  first, worse, "--contenders", "null,eager")


@case("a change that rounds show by themselves is noise, and never fails")
def compare_knows_noise(bench: Bench) -> None:
    wide = (0.5, 1, 1.5, 2, 2.5)
    paths = []
    for factor in 1, 1.5:
        result = steady_result(bench, {"load_ns": factor}, rounds=wide)
        for c in contenders(result):
            # The ratios to a baseline that varies alike would not vary.
            for measure in c["measures"].values():
                if c["label"] == "eager" and measure:
                    measure["rounds"] = [measure["median"] or 1] * len(wide)
        paths.append(bench.made_up(result))
    first, second = paths
    bench.refused(1, "all figures vary too much", "compare", "--fail-above",
                  "10%", first, second)
    done = bench.good("compare", first, second)
    check(re.search(r"loaded .* \+50\.0 % .* within noise +\d+", done.out),
          "it does not say so, or not how many rounds it would take")
    paths = []
    for factor in 1, 1.5:
        result = steady_result(bench)
        for c in contenders(result):
            if c["label"] == "fastload":
                load = c["measures"]["load_ns"]
                load["rounds"] = [load["median"] * factor * f for f in wide]
        paths.append(bench.made_up(result))
    out = judged(bench, 0, paths[0], paths[1])
    check(re.search(r"\d+ of \d+ figures vary too much to tell", out),
          "nothing is said at the end")


@case("results of too few rounds cannot be judged")
def compare_needs_rounds(bench: Bench) -> None:
    first = steady(bench, rounds=(1, 1.01))
    second = steady(bench, {"load_ns": 20}, rounds=(1, 1.01))
    bench.refused(1, "needs? .*3 rounds at least", "compare", "--fail-above",
                  "10%", first, second)
    check("too few rounds" in bench.good("compare", first, second).out,
          "without a limit it does not say so")


@case("compare asks for more rounds than those that did not tell")
def compare_asks_for_more(bench: Bench) -> None:
    first = steady(bench, rounds=(1, 8, 40))
    second = steady(bench, {"load_ns": 1.1}, rounds=(1, 8, 40))
    done = bench.good("compare", "--fail-above", "1000%", first, second)
    check("1000 %" in done.out, "the limit is not told as a number")
    found = re.search(r"vary too much.* (\d+)\s+rounds", done.out, re.S)
    check(found is not None and int(found[1]) > 3, "it asks for no more")


@case("results of two baselines are compared by the first one's")
def compare_other_baseline(bench: Bench) -> None:
    first, result = steady(bench), steady_result(bench)
    for s in scenarios(result):
        s["baseline"] = "mmap"
    out = judged(bench, 0, first, bench.made_up(result))
    check(out.count("DIFFERENT BASELINES: eager and mmap") == 2, "not said")
    for s in scenarios(result):
        s["contenders"] = [c for c in s["contenders"] if c["name"] != "eager"]
    out = judged(bench, 0, first, bench.made_up(result))
    check(out.count("NO COMMON BASELINE") == 2, "not said")


@case("a comparison is never wider than the terminal")
def comparison_fits(bench: Bench) -> None:
    path = steady(bench)
    whole = figures_of(bench.good("compare", path, path).out)
    for columns in WIDTHS:
        code, err, said = on_terminal(bench, "compare", path, path,
                                      columns=columns, stream="stdout")
        check(code == 0 and not err, f"exit code {code}, stderr {err!r}")
        check_width(said, columns)
        missing = whole - figures_of(" ".join(said.split()))
        check(not missing, f"{columns} columns: {sorted(missing)} are missing")
