/*
 * Who waits for a page goes on, however the page came or went.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/userfaultfd.h>
#include "fastload-fixture.h"
#include "fastload-gate.h"
#include "fastload-sim.h"

#define PAGE FIXTURE_PAGE_BYTES
#define CHUNK_PAGES FIXTURE_CHUNK_PAGE_COUNT
#define CHUNK_BYTES (CHUNK_PAGES * PAGE)
#define REGION_PAGES (4 * CHUNK_PAGES)

typedef struct PlaceTest {
    Fixture *f;
    Fastload *fl;
    FixtureEvents events;
} PlaceTest;

/* Not started.  @ops NULL: preadv. */
static PlaceTest *place_new(const FastloadIoOps *ops, FixtureMemory memory,
                            uint64_t bytes_per_s)
{
    PlaceTest *t = g_new0(PlaceTest, 1);
    FastloadConfig config = {
        .worker_count = 2,
        .io_kind = ops ? FASTLOAD_IO_AUTO : FASTLOAD_IO_PREADV,
        .event_func = fixture_events_func,
        .event_opaque = &t->events,
        .background_bytes_per_s = bytes_per_s,
    };
    FastloadRegion region;

    fixture_events_init(&t->events);
    t->f = fixture_new(memory, REGION_PAGES, fixture_all_data);
    t->fl = fastload_new(t->f->fd, &config, NULL);
    if (ops) {
        fastload_set_io_ops(t->fl, ops);
    }
    fixture_region(t->f, &region);
    g_assert_true(fastload_add_region(t->fl, &region, NULL));
    return t;
}

static void place_start(PlaceTest *t)
{
    GError *error = NULL;

    fastload_start(t->fl, &error);
    g_assert_no_error(error);
}

/* A load on the simulator that runs, and whose reads are held. */
static PlaceTest *place_new_sim(FixtureMemory memory, SimHold hold)
{
    SimConfig config = { .seed = 40 };
    PlaceTest *t;

    sim_reset(&config);
    sim_hold(hold);
    t = place_new(&sim_ops, memory, 0);
    place_start(t);
    return t;
}

static void place_finish(PlaceTest *t)
{
    GError *error = NULL;

    fastload_set_background_rate(t->fl, 0);
    sim_hold(SIM_HOLD_NONE);
    fastload_wait(t->fl, &error);
    g_assert_no_error(error);
}

static void place_free(PlaceTest *t)
{
    fastload_free(t->fl);
    fixture_free(t->f);
    fixture_events_clear(&t->events);
    g_free(t);
}

static FastloadStats place_stats(PlaceTest *t)
{
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    return stats;
}

static void place_discard(const PlaceTest *t, uint64_t page_idx)
{
    g_assert_cmpint(madvise(fixture_page(t->f, page_idx), PAGE,
                            MADV_DONTNEED), ==, 0);
}

/* Touches the page, waits until it counts as placed, and gives it back. */
static void place_and_discard(PlaceTest *t, uint64_t page_idx)
{
    uint64_t missing_bytes = place_stats(t).remaining_bytes;

    g_assert_true(fixture_page_is_right(t->f, page_idx));
    fixture_wait_until(place_stats(t).remaining_bytes ==
                       missing_bytes - PAGE);
    place_discard(t, page_idx);
}

/* ---- zeros that fail ---- */

static void test_discarded_page_waits_for_memory(const void *opaque)
{
    /* A page that was given back needs a page for its zeros: there is none. */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_BACKGROUND);
    FastloadFailure failure;
    FixtureToucher toucher;
    uint64_t age_ns;

    place_and_discard(t, 100);
    gate_refuse(UFFDIO_ZEROPAGE, ENOMEM);
    fixture_toucher_start_page(&toucher, t->f, 100);
    /* It is tried again and again, and known that somebody waits. */
    fixture_wait_until(gate_refused_count() >= 3);
    age_ns = place_stats(t).oldest_fault_ns;
    g_assert_cmpuint(age_ns, >, 0);
    fixture_wait_until(gate_refused_count() >= 6);
    g_assert_cmpuint(place_stats(t).oldest_fault_ns, >, age_ns);
    g_assert_true(fastload_is_failing(t->fl, &failure));
    g_assert_cmpint(failure.kind, ==, FASTLOAD_FAILURE_PLACE);
    g_assert_cmpint(failure.error_number, ==, ENOMEM);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_STALLED);
    g_assert_false(fixture_toucher_is_done(&toucher));

    gate_refuse(UFFDIO_ZEROPAGE, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    fixture_events_wait(&t->events, FASTLOAD_EVENT_RESUMED);
    fixture_wait_until(!place_stats(t).oldest_fault_ns);
    g_assert_false(fastload_is_failing(t->fl, &failure));
    place_finish(t);
    g_assert_cmpuint(fixture_page(t->f, 100)[0], ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    place_free(t);
}

static void add_test(const char *behaviour, GTestDataFunc func)
{
    g_autofree char *path = g_strdup_printf("/fastload/place/%s", behaviour);

    fixture_add_test(path, FIXTURE_NEEDS_UFFD, func, NULL);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    add_test("discarded-page-waits-for-memory",
             test_discarded_page_waits_for_memory);
    return g_test_run();
}
