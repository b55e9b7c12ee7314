/*
 * reap: the pages that an earlier guest touched lie one after the other in a
 * file of their own; one O_DIRECT read fetches all of them before the guest
 * runs; at the guest's first fault one thread places them, a run of pages an
 * ioctl, and wakes the guest after the last one.  It then serves the other
 * faults, a page each, out of a mapping of the snapshot.  Nothing else is
 * loaded ahead, and there is no end.
 * Source: REAP of Ustiugov et al., "Benchmarking, Analysis, and Optimization
 * of Serverless Function Snapshots", ASPLOS 2021; vHive, memory/manager/
 * snapshot_state.go and trace.go.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As in the source: a first guest runs with nothing loaded ahead, and the page
 * of each of its faults is recorded, zero pages included; the file has them in
 * ascending order; the guest waits for the whole file, however few of its pages
 * it needs.
 *
 * Not as in the source: the thread is one of the guest's process and not of a
 * memory manager that gets the userfaultfd over a socket, which spares a switch
 * of processes.  Several vCPUs may fault at once; the source has one.  Where
 * the file of the set is in a file system without O_DIRECT, it is read through
 * the page cache.  A page of the mapping that cannot be read ends the guest by
 * SIGBUS.
 */
#include "bench.h"

typedef struct Reap {
    Serve serve;
    GThread *thread;
    /* constant after start, then the thread's */
    GArray *pages;           /* of uint64_t, ascending: the set, or NULL */
    uint8_t *contents;       /* of these pages */
} Reap;

/* How many of the pages at index @i lie beside each other in one block. */
static guint reap_run_length(const Reap *l, guint i)
{
    uint64_t page = g_array_index(l->pages, uint64_t, i);
    const SnapshotBlock *block = snapshot_block_of(l->serve.run->snapshot,
                                                   page);
    uint64_t end = (block->guest_off + block->len_bytes) >> BENCH_PAGE_SHIFT;
    guint count = 1;

    while (i + count < l->pages->len && page + count < end &&
           g_array_index(l->pages, uint64_t, i + count) == page + count) {
        count++;
    }
    return count;
}

static void reap_note(const Reap *l, uint64_t page, uint64_t count)
{
    LoaderRun *run = l->serve.run;
    const SnapshotBlock *block = snapshot_block_of(run->snapshot, page);
    uint64_t n, file_off;

    for (; count; page += n, count -= n) {
        bool has_data = snapshot_run(run->snapshot, block, page, &n,
                                     &file_off);

        n = MIN(n, count);
        loader_note(run, page << BENCH_PAGE_SHIFT, n << BENCH_PAGE_SHIFT,
                    ARRIVAL_HINT, has_data);
    }
}

/* Places the set.  Nobody is woken: all who wait have sent a message. */
static int reap_install(Reap *l)
{
    uint8_t *hva = l->serve.run->hva;
    guint i, count;

    for (i = 0; i < l->pages->len; i += count) {
        uint64_t page = g_array_index(l->pages, uint64_t, i);
        int ret;

        count = reap_run_length(l, i);
        /* First: a vCPU that finds a page there notes it as well. */
        reap_note(l, page, count);
        ret = trap_copy_quietly(l->serve.trap.uffd,
                                hva + (page << BENCH_PAGE_SHIFT),
                                l->contents +
                                ((uint64_t)i << BENCH_PAGE_SHIFT),
                                (uint64_t)count << BENCH_PAGE_SHIFT);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static void *reap_main(void *opaque)
{
    Reap *l = opaque;
    bool is_first = true;
    uint64_t page;
    int event, ret = 0;

    while (ret >= 0 &&
           (event = trap_wait(&l->serve.trap, true, &page)) != TRAP_QUIT) {
        ret = MIN(event, 0);
        if (event != TRAP_FAULT) {
            continue;
        }
        if (is_first && l->pages) {
            ret = reap_install(l);
        }
        is_first = false;
        /* If it is there now, this wakes who waits for it. */
        ret = ret < 0 ? ret : serve_fault(&l->serve, page,
                                              NULL);
    }
    if (ret < 0) {
        serve_fail();
    }
    return NULL;
}

static void loader_reap_stop(LoaderRun *run)
{
    Reap *l = run->state;

    if (!l) {
        return;
    }
    if (l->thread) {
        trap_quit(&l->serve.trap);
        g_thread_join(l->thread);
    }
    if (l->pages) {
        g_array_unref(l->pages);
    }
    free(l->contents);
    serve_close(&l->serve);
    g_free(l);
    run->state = NULL;
}

/* Fetches the set with one read. */
static bool reap_fetch(Reap *l, GError **error)
{
    LoaderRun *run = l->serve.run;
    const Rehearsal *rehearsal = run->variant->rehearsal;
    uint64_t len_bytes;
    int fd, ret;

    l->pages = serve_read_pages(rehearsal->path, error);
    if (!l->pages) {
        return false;
    }
    len_bytes = (uint64_t)l->pages->len << BENCH_PAGE_SHIFT;
    l->contents = loader_buffer(run, MAX(len_bytes, BENCH_PAGE_BYTES), error);
    if (!l->contents) {
        return false;
    }
    fd = open(rehearsal->contents_path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd < 0 && errno == EINVAL) {
        fd = open(rehearsal->contents_path, O_RDONLY | O_CLOEXEC);
    }
    ret = fd < 0 ? -errno : loader_read(fd, l->contents, len_bytes, 0);
    if (fd >= 0) {
        close(fd);
    }
    if (ret < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "reap: reading the contents of the recorded working set "
                    "failed: %s", ret == -ENODATA ? "the file ends too early"
                    : g_strerror(-ret));
    }
    return ret >= 0;
}

static bool reap_begin(Reap *l, LoaderRun *run, GError **error)
{
    if (!serve_open(&l->serve, run, error) ||
        (run->variant->rehearsal && !run->is_background_off &&
         !reap_fetch(l, error))) {
        return false;
    }
    l->thread = loader_thread(run, "reap", reap_main, l, error);
    return l->thread;
}

static bool loader_reap_start(LoaderRun *run, GError **error)
{
    Reap *l = g_new0(Reap, 1);

    run->state = l;
    if (!reap_begin(l, run, error)) {
        loader_reap_stop(run);
        return false;
    }
    return true;
}

static bool loader_reap_record(LoaderRun *run, GError **error)
{
    Reap *l = run->state;

    return serve_write_set(&l->serve, true, error);
}

const BenchLoader loader_reap = {
    .name = "reap",
    .summary = "REAP: a recorded working set in one read, before all else",
    .knobs = LOADER_NEEDS_TRAP,
    .is_lazy = true,
    .has_end = false,
    .is_extra = true,
    .has_set_pages = true,
    .start = loader_reap_start,
    .record = loader_reap_record,
    .read_set = serve_read_set,
    .stop = loader_reap_stop,
};
