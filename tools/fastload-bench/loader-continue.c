/*
 * continue: guest memory is a memfd; N threads read pieces of 256 KiB with
 * preadv into a second mapping of it, and let the guest see them
 * (UFFDIO_CONTINUE); one more thread serves faults, 4 KiB a read.
 * Source: Cloud Hypervisor's handling of shared memory (memory_restore_mode
 * =ondemand, pull request 7800); Linux Documentation/admin-guide/mm/
 * userfaultfd.rst, minor faults.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The work is in pool.c.  Only the read copies data, and O_DIRECT reads into
 * guest memory directly.  Zero pages cost nothing ahead; on a fault the kernel
 * places one (UFFDIO_ZEROPAGE, which takes a page of shared memory).
 * The price of this design: guest memory must be shared; huge pages depend on
 * /sys/kernel/mm/transparent_hugepage/shmem_enabled and are not used here; and
 * while it loads, the second mapping has page tables, and each of its pages
 * counts as resident once more.
 *
 * Needs UFFD_FEATURE_MINOR_SHMEM, Linux 5.14; fails with a sentence otherwise.
 */
#include "bench.h"

/* Replaces guest memory; returns its second mapping, or NULL. */
static uint8_t *continue_map(LoaderRun *run, GError **error)
{
    uint64_t len_bytes = run->snapshot->guest_bytes;
    int fd = memfd_create("guest", MFD_CLOEXEC);
    void *alias = MAP_FAILED, *hva = MAP_FAILED;

    if (fd >= 0 && !ftruncate(fd, len_bytes)) {
        alias = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                     0);
    }
    if (alias != MAP_FAILED) {
        hva = mmap(run->hva, len_bytes, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_FIXED, fd, 0);
    }
    if (hva == MAP_FAILED) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "continue: cannot map %" PRIu64 " MiB of shared memory: "
                    "%s; choose a smaller snapshot", len_bytes >> 20,
                    g_strerror(errno));
        if (alias != MAP_FAILED) {
            munmap(alias, len_bytes);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return hva == MAP_FAILED ? NULL : alias;
}

static bool loader_continue_start(LoaderRun *run, GError **error)
{
    uint8_t *alias = continue_map(run, error);

    return alias && pool_start(run, alias, error);
}

const BenchLoader loader_continue = {
    .name = "continue",
    .summary = "shared guest memory: preadv into it, then UFFDIO_CONTINUE",
    .knobs = LOADER_HAS_THREADS | LOADER_HAS_DIRECT | LOADER_NEEDS_TRAP,
    .is_lazy = true,
    .has_end = true,
    .is_extra = true,
    .start = loader_continue_start,
    .wait = pool_wait,
    .stop = pool_stop,
};
