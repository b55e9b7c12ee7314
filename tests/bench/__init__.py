# SPDX-License-Identifier: GPL-2.0-or-later
"""The cases of tests/bench-smoke, by subject, and what they share.

What they share:

    stage         the program, its folder, and what it printed in a case
    results       reading a result
    gate          holding a program before each of its runs
    snapshot      what was generated, and changing the file of a snapshot
    terminal      what a terminal shows, and tables on it
    browser       what a browser shows of the page
    places        other users, file systems and privileges than the usual

The cases, in the order in which they run:

    figures       what a run measures
    progress      how far it is
    machine       what a machine does not have; cold and warm
    limits        cgroups
    clones        several processes that restore one file
    guests        what the guest touches, and what its memory holds
    storage       simulated storage
    knobs         lists of values, and what they make
    page          the page of a result
    verification  wrong memory, changed files, runs that fail
    generated     gen and inspect
    saved         a saved result shown again
    compare       one result beside another
    formats       CSV and Markdown
    strange       what is no result, or holds what it should not
    signals       what is left after a signal
    refusals      what is refused, in one sentence
    outputs       where results go, and when there is no room
    permission    what the kernel does not permit
    doctor        whether a host is ready for a load
    help          what help names
    ahead         the program tools/fastload-bench/reading-ahead
"""
