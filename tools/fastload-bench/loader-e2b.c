/*
 * e2b: from a list of the pages that an earlier guest touched, N threads place
 * one page after the other in that order while the guest runs, a page an ioctl;
 * N more serve faults, a page each.  A page is one buffered read of the
 * snapshot and one ioctl.  Nothing else is loaded ahead, and there is no end.
 * Source: e2b's infrastructure, packages/orchestrator/pkg/sandbox/uffd:
 * prefetch/prefetcher.go, userfaultfd/prefault.go and userfaultfd.go; the list
 * is made by pkg/template/build/phases/optimize.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As in the source: a first guest runs with nothing loaded ahead, and its
 * faults make the list; the snapshot's own file is read, a page at a time
 * (joining neighbours is off there unless configured); the guest does not wait
 * for the list; faults do not wait for it either, and who is second to place a
 * page finds it there.
 *
 * Not as in the source: a thread fetches and places, whereas there 16 fetch
 * and 8 place, which comes to the same where each page is fetched once:
 * --threads 16 has as many fetches under way.  Faults have N threads and not
 * one each.  The list is of one guest, not of what two have in common.  The
 * threads are of the guest's process, which spares a switch of processes.  A
 * read is not tried again: a page that cannot be read ends the guest by SIGBUS.
 */
#include "bench.h"

typedef struct E2b {
    Serve serve;
    /* constant after start */
    GArray *pages;           /* of uint64_t: the list, or NULL */
    /* the thread that starts and stops */
    GThread *fetchers[BENCH_THREAD_COUNT_MAX];
    GThread *servers[BENCH_THREAD_COUNT_MAX];
    /* atomic */
    uint64_t next_idx;       /* of pages: what is to be fetched next */
    int is_quitting;         /* fetchers end */
    uint64_t *claims;        /* a bit for each page that somebody places */
} E2b;

static void *e2b_fetch_main(void *opaque)
{
    E2b *l = opaque;
    g_autofree void *buf = g_malloc(BENCH_PAGE_BYTES);
    uint64_t i;

    while (!__atomic_load_n(&l->is_quitting, __ATOMIC_RELAXED) &&
           (i = __atomic_fetch_add(&l->next_idx, 1, __ATOMIC_RELAXED)) <
           l->pages->len) {
        uint64_t page = g_array_index(l->pages, uint64_t, i);

        if (loader_claim(l->claims, page) &&
            serve_place(&l->serve, page, ARRIVAL_HINT, buf) < 0) {
            serve_fail();
        }
    }
    return NULL;
}

static void *e2b_serve_main(void *opaque)
{
    E2b *l = opaque;
    g_autofree void *buf = g_malloc(BENCH_PAGE_BYTES);
    uint64_t page;
    int event;

    while ((event = trap_wait(&l->serve.trap, true, &page)) != TRAP_QUIT) {
        if (event < 0) {
            serve_fail();
        }
        if (event == TRAP_FAULT) {
            /* A fetcher that is at this page already may be slower. */
            loader_claim(l->claims, page);
            if (serve_fault(&l->serve, page, buf) < 0) {
                serve_fail();
            }
        }
    }
    return NULL;
}

static void e2b_join(GThread **threads)
{
    guint i;

    for (i = 0; i < BENCH_THREAD_COUNT_MAX && threads[i]; i++) {
        g_thread_join(threads[i]);
        threads[i] = NULL;
    }
}

static void loader_e2b_stop(LoaderRun *run)
{
    E2b *l = run->state;

    if (!l) {
        return;
    }
    __atomic_store_n(&l->is_quitting, 1, __ATOMIC_RELAXED);
    e2b_join(l->fetchers);
    if (l->servers[0]) {
        trap_quit(&l->serve.trap);
    }
    e2b_join(l->servers);
    if (l->pages) {
        g_array_unref(l->pages);
    }
    g_free(l->claims);
    serve_close(&l->serve);
    g_free(l);
    run->state = NULL;
}

static bool e2b_begin(E2b *l, LoaderRun *run, GError **error)
{
    const Rehearsal *rehearsal = run->variant->rehearsal;
    uint32_t i;

    if (!serve_open(&l->serve, run, error)) {
        return false;
    }
    if (rehearsal && !run->is_background_off) {
        l->pages = serve_read_pages(rehearsal->path, error);
        if (!l->pages) {
            return false;
        }
    }
    for (i = 0; i < run->variant->thread_count; i++) {
        l->servers[i] = loader_thread(run, "e2b-fault", e2b_serve_main, l,
                                      error);
        if (!l->servers[i]) {
            return false;
        }
    }
    for (i = 0; l->pages && i < run->variant->thread_count; i++) {
        l->fetchers[i] = loader_thread(run, "e2b-fetch", e2b_fetch_main, l,
                                       error);
        if (!l->fetchers[i]) {
            return false;
        }
    }
    return true;
}

static bool loader_e2b_start(LoaderRun *run, GError **error)
{
    uint64_t page_count = run->snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    E2b *l = g_new0(E2b, 1);

    run->state = l;
    l->claims = g_new0(uint64_t, (page_count + 63) / 64);
    if (!e2b_begin(l, run, error)) {
        loader_e2b_stop(run);
        return false;
    }
    return true;
}

static bool loader_e2b_record(LoaderRun *run, GError **error)
{
    E2b *l = run->state;

    return serve_write_set(&l->serve, false, error);
}

const BenchLoader loader_e2b = {
    .name = "e2b",
    .summary = "e2b: recorded pages one by one while the guest runs",
    .knobs = LOADER_HAS_THREADS | LOADER_NEEDS_TRAP,
    .is_lazy = true,
    .has_end = false,
    .is_extra = true,
    .start = loader_e2b_start,
    .record = loader_e2b_record,
    .read_set = serve_read_set,
    .stop = loader_e2b_stop,
};
