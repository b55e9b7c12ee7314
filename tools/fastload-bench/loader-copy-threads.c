/*
 * copy-threads: N threads read pieces of 256 KiB with preadv into a buffer
 * and copy them into guest memory (UFFDIO_COPY); one more thread serves
 * faults, 4 KiB a read.
 * Source: no product; it is two-thread with larger reads, more threads and
 * O_DIRECT, and without anything else that this project's engine does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The work is in pool.c.  Zero pages cost nothing ahead; on a fault the kernel
 * places one (UFFDIO_ZEROPAGE: the shared page of zeros, copied at the first
 * write).  The price of this design: no huge pages; each byte is copied once
 * more; and a fault on a page that is being read ahead waits for its piece.
 */
#include "bench.h"

static bool loader_copy_threads_start(LoaderRun *run, GError **error)
{
    return pool_start(run, NULL, error);
}

const BenchLoader loader_copy_threads = {
    .name = "copy-threads",
    .summary = "preadv and UFFDIO_COPY on N threads, one more for faults",
    .knobs = LOADER_HAS_THREADS | LOADER_HAS_DIRECT | LOADER_NEEDS_TRAP,
    .is_lazy = true,
    .has_end = true,
    .is_extra = true,
    .start = loader_copy_threads_start,
    .wait = pool_wait,
    .stop = pool_stop,
};
