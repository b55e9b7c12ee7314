/*
 * Loads from storage that is late, out of order, or fails.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <linux/userfaultfd.h>
#include "fastload-fixture.h"
#include "fastload-gate.h"
#include "fastload-sim.h"

#define PAGE FIXTURE_PAGE_BYTES
#define CHUNK_PAGES FIXTURE_CHUNK_PAGE_COUNT
#define CHUNK_BYTES (CHUNK_PAGES * PAGE)
/* Random loads, where the environment does not say how long. */
#define SEED_COUNT 40
#define DISCARD_COUNT 100
#define RATE_BYTES_PER_S (100 * 1000 * 1000)

typedef struct FaultTest {
    Fixture *f;
    Fastload *fl;
    FixtureEvents events;
    FixturePlaced placed;
    uint32_t told_count; /* atomic: of faults */
} FaultTest;

static void fault_count_told(void *hva, uint32_t tid, void *opaque)
{
    FaultTest *t = opaque;

    __atomic_add_fetch(&t->told_count, 1, __ATOMIC_RELAXED);
}

static uint32_t fault_told(FaultTest *t)
{
    return __atomic_load_n(&t->told_count, __ATOMIC_RELAXED);
}

/* @ops NULL: whatever @config says, but for the callbacks, which are ours. */
static FaultTest *fault_new_config(const FastloadIoOps *ops,
                                   FastloadConfig config,
                                   FixtureMemory memory, uint64_t page_count,
                                   FixtureHasData *has_data)
{
    FaultTest *t = g_new0(FaultTest, 1);
    FastloadRegion region;
    GError *error = NULL;

    config.event_func = fixture_events_func;
    config.event_opaque = &t->events;
    config.placed_opaque = &t->placed;
    config.fault_func = fault_count_told;
    config.fault_opaque = t;
    fixture_events_init(&t->events);
    t->f = fixture_new(memory, page_count, has_data);
    fixture_placed_init(&t->placed, t->f);
    t->fl = fastload_new(t->f->fd, &config, &error);
    g_assert_no_error(error);
    if (ops) {
        fastload_set_io_ops(t->fl, ops);
    }
    fixture_region(t->f, &region);
    g_assert_true(fastload_add_region(t->fl, &region, &error));
    return t;
}

static FaultTest *fault_new(const FastloadIoOps *ops, FastloadIoKind io_kind,
                            FixtureMemory memory, uint64_t page_count,
                            uint32_t worker_count, FixtureHasData *has_data)
{
    FastloadConfig config = {
        .worker_count = worker_count,
        .io_kind = io_kind,
    };

    return fault_new_config(ops, config, memory, page_count, has_data);
}

/* As when the first read was back at once: nothing is known of the storage. */
static void fault_set_near(FaultTest *t)
{
    t->fl->window.first_ns = 1;
}

/* Four chunks on the simulator. */
static FaultTest *fault_new_sim(FixtureHasData *has_data)
{
    return fault_new(&sim_ops, FASTLOAD_IO_AUTO, FIXTURE_ANON,
                     4 * CHUNK_PAGES, 2, has_data);
}

static void fault_start(FaultTest *t)
{
    GError *error = NULL;

    fastload_start(t->fl, &error);
    g_assert_no_error(error);
}

static FastloadStats fault_stats(FaultTest *t)
{
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    return stats;
}

static uint64_t fault_remaining(FaultTest *t)
{
    return fault_stats(t).remaining_bytes;
}

static void fault_wait(FaultTest *t)
{
    GError *error = NULL;

    fastload_wait(t->fl, &error);
    g_assert_no_error(error);
}

/* Moves the stopped clock on until all is loaded. */
static void fault_run(FaultTest *t)
{
    sim_run_until(fault_remaining(t) == 0);
    fault_wait(t);
}

static void fault_run_until_event(FaultTest *t, FastloadEvent event,
                                  uint32_t count)
{
    sim_run_until(fixture_events_count(&t->events, event) >= count);
}

static void fault_wait_cancelled(FaultTest *t)
{
    GError *error = NULL;

    g_assert_false(fastload_wait(t->fl, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_CANCELLED);
    g_error_free(error);
}

static void fault_free(FaultTest *t)
{
    fastload_free(t->fl);
    fixture_free(t->f);
    fixture_events_clear(&t->events);
    fixture_placed_clear(&t->placed);
    g_free(t);
}

static void fault_check_placed(FaultTest *t)
{
    FastloadStats stats = fault_stats(t);

    fixture_placed_check(&t->placed, &stats);
}

static uint64_t fault_file_off(const FaultTest *t, uint64_t page_idx)
{
    return t->f->file_off + page_idx * PAGE;
}

/* Exactly these events, in this order; SETTLED has to follow COMPLETED. */
static void fault_assert_events(FaultTest *t, const FastloadEvent *want,
                                uint32_t count)
{
    bool is_settled = want[count - 1] == FASTLOAD_EVENT_COMPLETED;
    uint32_t i;

    if (is_settled) {
        fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    }
    g_mutex_lock(&t->events.lock);
    g_assert_cmpuint(t->events.count, ==, count + is_settled);
    for (i = 0; i < count; i++) {
        g_assert_cmpint(t->events.events[i], ==, want[i]);
    }
    g_mutex_unlock(&t->events.lock);
}

static const FastloadEvent fault_healed_events[] = {
    FASTLOAD_EVENT_STALLED, FASTLOAD_EVENT_RESUMED, FASTLOAD_EVENT_COMPLETED,
};

/* Waits for some more failures, so that the load could go wrong. */
static void fault_let_it_fail(void)
{
    uint64_t count = sim_failed_count();

    sim_run_until(sim_failed_count() >= count + 4);
}

/* ---- errors that pass ---- */

static void test_late_and_out_of_order(const void *opaque)
{
    /* Reads that come late, in pieces and in any order end up right. */
    SimConfig config = { .seed = 1, .delay_turns_max = 20 };
    FixtureToucher touchers[2];
    FaultTest *t;
    int i;

    sim_reset(&config);
    t = fault_new_sim(fixture_mixed);
    fault_start(t);
    for (i = 0; i < 2; i++) {
        fixture_toucher_start(&touchers[i], t->f, i, 300);
    }
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fault_wait(t);
    g_assert_cmpuint(fault_stats(t).io_error_count, ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_transient_errors_are_retried(const void *opaque)
{
    /* Reads that fail now and then are repeated without an event. */
    SimConfig config = {
        .seed = 2, .delay_turns_max = 3,
        .eio_permille = 100, .eagain_permille = 50,
    };
    FixtureToucher touchers[2];
    FastloadStats stats;
    FaultTest *t;
    int i;

    sim_reset(&config);
    t = fault_new_sim(fixture_mixed);
    fault_start(t);
    for (i = 0; i < 2; i++) {
        fixture_toucher_start(&touchers[i], t->f, i, 300);
    }
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fault_wait(t);
    stats = fault_stats(t);
    g_assert_cmpuint(stats.io_error_count, ==, sim_failed_count());
    g_assert_cmpuint(stats.io_error_count, >, 0);
    g_assert_cmpuint(stats.retry_count, >, 0);
    g_assert_cmpuint(stats.retry_count, <=, stats.io_error_count);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl); /* the event may come after wait returns */
    t->fl = NULL;
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_COMPLETED), ==, 1);
    fault_free(t);
}

static void test_one_bad_read_is_silent(const void *opaque)
{
    /* A read that fails once is not worth an event. */
    static const FastloadEvent want[] = { FASTLOAD_EVENT_COMPLETED };
    SimConfig config = { .seed = 3 };
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    sim_add_bad(fault_file_off(t, 700), PAGE, EIO, 1);
    fault_start(t);
    fault_wait(t);
    g_assert_cmpuint(fault_stats(t).io_error_count, ==, 1);
    g_assert_cmpuint(fault_stats(t).retry_count, ==, 1);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, want, 1);
    fault_free(t);
}

static void fault_check_ring_short(int error_number)
{
    /* io_uring has no memory for two chunks, from the middle of a page on. */
    static const FastloadEvent want[] = { FASTLOAD_EVENT_COMPLETED };
    SimConfig config = { .seed = 31, .delay_turns_max = 3 };
    FixtureToucher toucher;
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    sim_add_bad(fault_file_off(t, CHUNK_PAGES + 3) + 100, 2 * CHUNK_BYTES,
                error_number, 0);
    fault_start(t);
    fixture_toucher_start(&toucher, t->f, 1, 300);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fault_wait(t);
    g_assert_cmpuint(sim_failed_count(), >, FASTLOAD_READ_TRIES_MAX);
    g_assert_cmpuint(fault_stats(t).io_error_count, ==, 0);
    g_assert_cmpuint(fault_stats(t).retry_count, ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, want, 1);
    fault_free(t);
}

static void test_no_memory_is_no_failure(const void *opaque)
{
    /* Reads that io_uring has no memory for succeed with preadv(). */
    fault_check_ring_short(ENOMEM);
}

static void test_memory_not_pinned_is_no_failure(const void *opaque)
{
    /* Reads whose memory io_uring cannot pin succeed with preadv(). */
    fault_check_ring_short(EFAULT);
}

static void test_claim_is_given_up(const void *opaque)
{
    /* An urgent read that has used up its tries is repeated, urgently. */
    SimConfig config = { .seed = 4 };
    FixtureToucher touchers[3];
    FaultTest *t;
    int i;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_BACKGROUND); /* nobody else brings the page */
    sim_add_bad(fault_file_off(t, 100), PAGE, EIO,
                FASTLOAD_READ_TRIES_MAX + 1);
    fault_start(t);
    for (i = 0; i < 3; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 100);
    }
    for (i = 0; i < 3; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    g_assert_cmpuint(sim_failed_urgent_count(), ==,
                     FASTLOAD_READ_TRIES_MAX + 1);
    /* A page is counted after it is there. */
    fixture_wait_until(fault_remaining(t) == 4 * CHUNK_BYTES - PAGE);
    g_assert_cmpuint(fault_stats(t).loaded_bytes[FASTLOAD_CLASS_URGENT], ==,
                     PAGE);
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

/* ---- threads that wait ---- */

static uint64_t fault_oldest_ns(FaultTest *t)
{
    return fault_stats(t).oldest_fault_ns;
}

/*
 * While @ms go by, the oldest fault is the one of @begin_ns, whenever that is
 * asked: no other comes in its place, and it is never missing.
 */
static void fault_check_it_ages(FaultTest *t, uint64_t begin_ns, uint32_t ms)
{
    uint64_t end_ns = fastload_stats_now_ns() + ms * 1000000ull;

    while (fastload_stats_now_ns() < end_ns) {
        bool is_asleep = sim_is_asleep();

        g_assert_cmpuint(fault_oldest_ns(t), ==,
                         MAX(fastload_stats_now_ns() - begin_ns, 1));
        if (is_asleep && !sim_step()) {
            sim_skip(end_ns - fastload_stats_now_ns());
        }
    }
}

static void test_oldest_fault_of_a_read_that_hangs(const void *opaque)
{
    /* A thread that waits for a read which hangs is reported as waiting. */
    SimConfig config = { .seed = 30 };
    FixtureToucher toucher;
    uint64_t begin_ns;
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_ALL);
    g_assert_cmpuint(fault_oldest_ns(t), ==, 0);
    fault_start(t);
    g_assert_cmpuint(fault_oldest_ns(t), ==, 0);
    begin_ns = fastload_stats_now_ns();
    fixture_toucher_start_page(&toucher, t->f, 2000);
    fixture_wait_until(fault_oldest_ns(t));
    fault_check_it_ages(t, begin_ns, 1000);
    sim_hold(SIM_HOLD_BACKGROUND);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fixture_wait_until(!fault_oldest_ns(t));
    sim_hold(SIM_HOLD_NONE);
    fault_run(t);
    g_assert_cmpuint(fault_oldest_ns(t), ==, 0);
    fault_free(t);
}

static void test_oldest_fault_of_reads_that_fail(const void *opaque)
{
    /* Retries, in the queue or in flight, wait since the first fault. */
    SimConfig config = { .seed = 31 };
    FixtureToucher touchers[2];
    uint64_t bad_off, begin_ns;
    FaultTest *t;
    int i;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_BACKGROUND);
    bad_off = fault_file_off(t, 1000);
    sim_add_bad(bad_off, PAGE, EIO, 0);
    fault_start(t);
    begin_ns = fastload_stats_now_ns();
    fixture_toucher_start_page(&touchers[0], t->f, 1000);
    fixture_wait_until(sim_failed_urgent_count());
    fault_check_it_ages(t, begin_ns, 2000);
    g_assert_cmpuint(sim_failed_urgent_count(), >,
                     5 * FASTLOAD_READ_TRIES_MAX);
    /* A second fault on the same page does not make the first one younger. */
    fixture_toucher_start_page(&touchers[1], t->f, 1000);
    fixture_wait_until(fault_told(t) == 2);
    fault_check_it_ages(t, begin_ns, 2000);
    sim_hold(SIM_HOLD_ALL);
    sim_run_until(sim_pending_urgent_count());
    fault_check_it_ages(t, begin_ns, 2000);
    sim_heal(bad_off);
    sim_hold(SIM_HOLD_BACKGROUND);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fixture_wait_until(!fault_oldest_ns(t));
    sim_hold(SIM_HOLD_NONE);
    fault_run(t);
    fault_free(t);
}

static void test_oldest_fault_of_a_cancelled_load(const void *opaque)
{
    /* A thread that was released is not reported as waiting. */
    SimConfig config = { .seed = 32 };
    FixtureToucher toucher;
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    sim_add_bad(fault_file_off(t, 1000), PAGE, EIO, 0);
    fault_start(t);
    fixture_toucher_start_page(&toucher, t->f, 1000);
    fixture_wait_until(fault_oldest_ns(t));
    sim_run_until(sim_failed_urgent_count());
    g_assert_cmpuint(fault_oldest_ns(t), >, 0);
    fastload_cancel(t->fl);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1);
    fault_wait_cancelled(t);
    g_assert_cmpuint(fault_oldest_ns(t), ==, 0);
    fault_free(t);
}

/* ---- memory that goes ---- */

static void test_dropped_region_is_not_missing(const void *opaque)
{
    /* A dropped region's waiter is released; the rest loads. */
    SimConfig sim_config = { .seed = 33 };
    FixtureToucher toucher;
    FastloadRegion first, second;
    FastloadStats stats;
    uint8_t *hva;
    FaultTest *t;
    FastloadConfig config;

    sim_reset(&sim_config);
    t = fault_new_sim(fixture_all_data);
    /* The same memory as two regions. */
    config = t->fl->config;
    fastload_free(t->fl);
    t->fl = fastload_new(t->f->fd, &config, NULL);
    fastload_set_io_ops(t->fl, &sim_ops);
    fixture_region(t->f, &first);
    second = first;
    first.len_bytes = 2 * CHUNK_BYTES;
    hva = (uint8_t *)first.hva + first.len_bytes;
    second.hva = hva;
    second.file_off += first.len_bytes;
    second.len_bytes -= first.len_bytes;
    g_assert_true(fastload_add_region(t->fl, &first, NULL));
    g_assert_true(fastload_add_region(t->fl, &second, NULL));
    sim_hold(SIM_HOLD_ALL);
    fault_start(t);
    fixture_toucher_start_page(&toucher, t->f, 2 * CHUNK_PAGES);
    fixture_wait_until(fault_oldest_ns(t));
    fastload_drop_region(t->fl, hva);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    g_assert_cmpuint(fault_remaining(t), ==, first.len_bytes);
    /* Other memory there, which nobody may write to. */
    g_assert_true(mmap(hva, second.len_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == hva);
    memset(hva, 0x5a, PAGE);
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    stats = fault_stats(t);
    g_assert_cmpuint(stats.total_bytes, ==, first.len_bytes);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND] +
                     stats.loaded_bytes[FASTLOAD_CLASS_URGENT], ==,
                     first.len_bytes);
    g_assert_cmpuint(stats.io_error_count, ==, 0);
    g_assert_cmpuint(hva[0], ==, 0x5a);
    g_assert_cmpuint(hva[PAGE], ==, 0);
    g_assert_true(fixture_page_is_right(t->f, 0));
    g_assert_true(fixture_page_is_right(t->f, 2 * CHUNK_PAGES - 1));
    fault_free(t);
}

/* ---- errors that last ---- */

static void test_bad_range_stalls_and_heals(const void *opaque)
{
    /* A range that fails stalls the load; other pages come, and it heals. */
    SimConfig config = { .seed = 5 };
    uint64_t bad_off, i;
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    bad_off = fault_file_off(t, 700);
    sim_add_bad(bad_off, 3 * PAGE, EIO, 0);
    fault_start(t);
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
    g_assert_cmpint(t->events.failure.error_number, ==, EIO);
    g_assert_cmpuint(t->events.failure.file_off, ==, bad_off);

    /* The rest goes on: other chunks, and pages near by on demand. */
    sim_run_until(fault_remaining(t) == CHUNK_BYTES);
    for (i = 0; i < 4 * CHUNK_PAGES; i++) {
        if (i < 700 || i > 702) {
            g_assert_true(fixture_page_is_right(t->f, i));
        }
    }
    sim_run_until(fault_remaining(t) <= 3 * PAGE);
    fault_let_it_fail();
    g_assert_cmpuint(fault_remaining(t), ==, 3 * PAGE);
    fault_assert_events(t, fault_healed_events, 1);

    sim_heal(bad_off);
    fault_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, fault_healed_events, 3);
    fault_free(t);
}

static void test_hiccup_does_not_stall(const void *opaque)
{
    /* Nine rounds of failed reads are no event while no thread waits. */
    const uint32_t round_count = FASTLOAD_STALL_ROUND_COUNT + 4;
    SimConfig config = { .seed = 34 };
    uint64_t begin_ns;
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    begin_ns = fastload_stats_now_ns();
    t = fault_new_sim(fixture_all_data);
    sim_add_bad(fault_file_off(t, 700), PAGE, EIO,
                round_count * FASTLOAD_READ_TRIES_MAX);
    fault_start(t);
    fault_run(t);
    /* As long as somebody who waits would have it stall. */
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, >=,
                     FASTLOAD_STALL_WAIT_NS);
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, <,
                     FASTLOAD_STALL_FAIL_NS);
    g_assert_cmpuint(fixture_events_count(&t->events, FASTLOAD_EVENT_STALLED),
                     ==, 0);
    g_assert_cmpuint(fault_stats(t).io_error_count, ==,
                     round_count * FASTLOAD_READ_TRIES_MAX);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_blocked_toucher_goes_on_when_healed(const void *opaque)
{
    /* A thread that waits for a page which fails gets it in the end. */
    SimConfig config = { .seed = 6 };
    FixtureToucher touchers[2];
    uint64_t bad_off, begin_ns;
    FaultTest *t;
    int i;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    bad_off = fault_file_off(t, 1000);
    sim_add_bad(bad_off, PAGE, ENXIO, 0);
    fault_start(t);
    begin_ns = fastload_stats_now_ns();
    for (i = 0; i < 2; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 1000);
    }
    fixture_wait_until(fault_told(t) == 2);
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
    /* Sooner than when nobody waits, and not at once. */
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, >=,
                     FASTLOAD_STALL_WAIT_NS);
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, <,
                     FASTLOAD_STALL_FAIL_NS);
    g_assert_cmpint(t->events.failure.error_number, ==, ENXIO);
    g_assert_cmpuint(t->events.failure.file_off, ==, bad_off);
    g_assert_cmpuint(sim_failed_urgent_count(), >=,
                     2 * FASTLOAD_READ_TRIES_MAX);
    g_assert_false(fixture_toucher_is_done(&touchers[0]));
    g_assert_false(fixture_toucher_is_done(&touchers[1]));

    sim_heal(bad_off);
    fault_run(t);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, fault_healed_events, 3);
    fault_free(t);
}

static void test_retries_back_off(const void *opaque)
{
    /* The pauses between retries double, up to a second. */
    uint64_t pause_ns = FASTLOAD_BACKOFF_NS_MIN, begin_ns, now_ns, last_ns = 0;
    SimConfig config = { .seed = 22 };
    bool is_stalled;
    FaultTest *t;
    uint32_t i;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    sim_add_bad(fault_file_off(t, 700), PAGE, EIO, 0);
    fault_start(t);
    begin_ns = fastload_stats_now_ns();
    for (i = 0; i < 14; i++) {
        sim_run_until(sim_failed_count() > i * FASTLOAD_READ_TRIES_MAX);
        g_assert_cmpuint(sim_failed_count(), ==,
                         (i + 1) * FASTLOAD_READ_TRIES_MAX);
        now_ns = fastload_stats_now_ns();
        if (i) {
            g_assert_cmpuint(now_ns - last_ns, ==, pause_ns);
            pause_ns = MIN(2 * pause_ns, FASTLOAD_BACKOFF_NS_MAX);
        }
        last_ns = now_ns;
        /* Nobody waits for a page: it takes long to count as stalled. */
        is_stalled = now_ns - begin_ns >= FASTLOAD_STALL_FAIL_NS;
        g_assert_cmpuint(fixture_events_count(&t->events,
                                              FASTLOAD_EVENT_STALLED), ==,
                         is_stalled);
    }
    g_assert_cmpuint(pause_ns, ==, FASTLOAD_BACKOFF_NS_MAX);
    g_assert_true(is_stalled);
    sim_heal(fault_file_off(t, 700));
    fault_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_recovery_is_at_once(const void *opaque)
{
    /* fastload_recover() retries at once, and resets the back-off. */
    SimConfig config = { .seed = 24 };
    uint64_t bad_off, begin_ns, failed_count;
    FastloadFailure failure;
    FixtureToucher toucher;
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    bad_off = fault_file_off(t, 700);
    sim_add_bad(bad_off, PAGE, EIO, 0);
    fault_start(t);
    fixture_toucher_start_page(&toucher, t->f, 700);
    fixture_wait_until(fault_told(t));
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
    fault_let_it_fail();
    /* The pause is hundreds of milliseconds long now, and it is just over. */
    begin_ns = fastload_stats_now_ns();
    failed_count = sim_failed_count();
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_RESUMED), ==, 1);
    /* The page's read, and its chunk's; they are as bad as before. */
    sim_wait_asleep();
    g_assert_cmpuint(sim_failed_count(), ==,
                     failed_count + 2 * FASTLOAD_READ_TRIES_MAX);
    g_assert_true(fastload_is_failing(t->fl, &failure));
    sim_run_until(sim_failed_count() > failed_count +
                  2 * FASTLOAD_READ_TRIES_MAX);
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, ==,
                     FASTLOAD_BACKOFF_NS_MIN);
    /* So many rounds have failed before, but none of this outage. */
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_STALLED), ==, 1);
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 2);

    sim_heal(bad_off);
    begin_ns = fastload_stats_now_ns();
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fault_wait(t);
    g_assert_cmpuint(fastload_stats_now_ns(), ==, begin_ns);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_failed_faults_are_known(const void *opaque)
{
    /* fastload_has_failed_faults() is true until the page is there. */
    SimConfig config = { .seed = 25 };
    FixtureToucher touchers[2];
    uint64_t bad_off;
    FaultTest *t;

    sim_reset(&config);
    sim_hold(SIM_HOLD_ALL);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    bad_off = fault_file_off(t, 700);
    sim_add_bad(bad_off, PAGE, EIO, 0);
    sim_hold_range(fault_file_off(t, 1600), PAGE);
    fault_start(t);
    g_assert_false(fastload_has_failed_faults(t->fl));
    fixture_toucher_start_page(&touchers[0], t->f, 700);
    fixture_toucher_start_page(&touchers[1], t->f, 1600);
    fixture_wait_until(sim_pending_urgent_count() == 2);
    sim_wait_asleep();
    g_assert_false(fastload_has_failed_faults(t->fl)); /* they wait */
    sim_hold(SIM_HOLD_BACKGROUND);
    fixture_wait_until(sim_failed_urgent_count() >= FASTLOAD_READ_TRIES_MAX);
    sim_wait_asleep();
    g_assert_true(fastload_has_failed_faults(t->fl)); /* in the queue */
    sim_hold(SIM_HOLD_ALL);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    sim_wait_asleep();
    g_assert_cmpuint(sim_pending_urgent_count(), ==, 2);
    g_assert_true(fastload_has_failed_faults(t->fl)); /* in flight */
    sim_heal(bad_off);
    sim_hold(SIM_HOLD_BACKGROUND);
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    sim_wait_asleep();
    g_assert_false(fastload_has_failed_faults(t->fl)); /* one waits still */
    sim_hold_range(0, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    sim_hold(SIM_HOLD_NONE);
    fault_run(t);
    g_assert_false(fastload_has_failed_faults(t->fl));
    fault_free(t);
}

static void test_nothing_fails_when_complete(const void *opaque)
{
    /* Nothing counts as failing once a chunk has brought all its pages. */
    SimConfig config = { .seed = 23 };
    FixtureToucher touchers[16];
    FastloadFailure failure;
    uint64_t bad_off, failed_count;
    FaultTest *t;
    guint i;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    bad_off = fault_file_off(t, CHUNK_PAGES);
    sim_add_bad(bad_off, CHUNK_BYTES, EIO, 0);
    fault_start(t);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        fixture_toucher_start_page(&touchers[i], t->f, CHUNK_PAGES + i * 8);
    }
    fixture_wait_until(fault_told(t) == G_N_ELEMENTS(touchers));
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
    sim_run_until(fault_remaining(t) == CHUNK_BYTES);
    g_assert_true(fastload_is_failing(t->fl, &failure));
    /* The retries of the faults are on their way, that of the chunk is back. */
    sim_hold(SIM_HOLD_ALL);
    sim_heal(bad_off);
    sim_run_until(sim_pending_urgent_count() == G_N_ELEMENTS(touchers));
    sim_hold(SIM_HOLD_URGENT);
    sim_run_until(fault_remaining(t) == 0);
    g_assert_cmpuint(sim_pending_urgent_count(), ==, G_N_ELEMENTS(touchers));
    g_assert_false(fastload_is_failing(t->fl, &failure));
    failed_count = sim_failed_urgent_count();
    sim_add_bad(bad_off, CHUNK_BYTES, EIO, 0);
    sim_hold(SIM_HOLD_NONE);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fault_wait(t);
    g_assert_cmpuint(sim_failed_urgent_count() - failed_count, ==,
                     G_N_ELEMENTS(touchers));
    g_assert_false(fastload_is_failing(t->fl, &failure));
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, fault_healed_events, 3);
    fault_free(t);
}

static void test_resumed_while_another_fails(const void *opaque)
{
    /* One of two bad ranges heals: RESUMED, and STALLED for the other. */
    static const FastloadEvent want[] = {
        FASTLOAD_EVENT_STALLED, FASTLOAD_EVENT_RESUMED,
        FASTLOAD_EVENT_STALLED, FASTLOAD_EVENT_RESUMED,
        FASTLOAD_EVENT_COMPLETED,
    };
    SimConfig config = { .seed = 7 };
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    sim_add_bad(fault_file_off(t, 10), PAGE, EIO, 0);
    sim_add_bad(fault_file_off(t, 1600), PAGE, EIO, 0);
    fault_start(t);
    sim_run_until(fault_remaining(t) == 2 * CHUNK_BYTES);
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
    sim_heal(fault_file_off(t, 10));
    sim_run_until(fault_remaining(t) == CHUNK_BYTES);
    fault_assert_events(t, want, 2);
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 2);

    sim_heal(fault_file_off(t, 1600));
    fault_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, want, 5);
    fault_free(t);
}

static void test_stalls_again(const void *opaque)
{
    /* A load that stalls twice has two events of each. */
    static const FastloadEvent want[] = {
        FASTLOAD_EVENT_STALLED, FASTLOAD_EVENT_RESUMED,
        FASTLOAD_EVENT_STALLED, FASTLOAD_EVENT_RESUMED,
        FASTLOAD_EVENT_COMPLETED,
    };
    SimConfig config = { .seed = 8 };
    FaultTest *t;
    uint32_t i;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_BACKGROUND); /* faults alone are let through */
    fault_start(t);
    for (i = 0; i < 2; i++) {
        uint64_t page = 10 + 10 * i;
        FixtureToucher toucher;

        sim_add_bad(fault_file_off(t, page), PAGE, EIO, 0);
        fixture_toucher_start_page(&toucher, t->f, page);
        fixture_wait_until(fault_told(t) == i + 1);
        fault_run_until_event(t, FASTLOAD_EVENT_STALLED, i + 1);
        g_assert_cmpuint(t->events.failure.file_off, ==,
                         fault_file_off(t, page));
        sim_heal(fault_file_off(t, page));
        fault_run_until_event(t, FASTLOAD_EVENT_RESUMED, i + 1);
        g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    }
    sim_hold(SIM_HOLD_NONE);
    fault_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, want, G_N_ELEMENTS(want));
    fault_free(t);
}

typedef struct Backend {
    const char *name;
    const FastloadIoOps *ops;
    FastloadIoKind io_kind;
} Backend;

static const Backend fault_backends[] = {
    { "io_uring", NULL, FASTLOAD_IO_IO_URING },
    { "preadv", NULL, FASTLOAD_IO_PREADV },
    { "simulator", &sim_ops, FASTLOAD_IO_AUTO },
};

static void fault_check_truncated(const Backend *b, uint64_t odd_bytes)
{
    SimConfig config = { .seed = 9 };
    uint64_t cut_page = 2 * CHUNK_PAGES + 200;
    FixtureToucher inside, past;
    FastloadFailure failure;
    FaultTest *t;

    sim_reset(&config);
    t = fault_new(b->ops, b->io_kind, FIXTURE_ANON, 4 * CHUNK_PAGES, 2,
                  fixture_all_data);
    g_assert_cmpint(ftruncate(t->f->fd, fault_file_off(t, cut_page) +
                              odd_bytes), ==, 0);
    fastload_file_note(t->fl, &t->fl->config);
    /* it was so when it was handed over */
    fault_start(t);
    fixture_toucher_start_page(&inside, t->f, cut_page - 1);
    fixture_toucher_start_page(&past, t->f, cut_page);
    fixture_hurry_until(fixture_events_count(&t->events,
                                             FASTLOAD_EVENT_STALLED));
    g_mutex_lock(&t->events.lock);
    failure = t->events.failure;
    g_mutex_unlock(&t->events.lock);
    g_assert_cmpint(failure.error_number, ==, ENODATA);
    g_assert_cmpuint(failure.file_off, >=, fault_file_off(t, cut_page));
    g_assert_cmpuint(failure.file_off, <, fault_file_off(t, 4 * CHUNK_PAGES));

    /* Of a truncated file, what it still has is loaded, and no more. */
    g_assert_cmpuint(fixture_toucher_join(&inside), ==, 0);
    fixture_wait_until(fault_remaining(t) <= 2 * CHUNK_BYTES - PAGE);
    g_assert_false(fixture_toucher_is_done(&past));
    g_assert_false(fixture_page_is_resident(t->f, cut_page));
    g_assert_false(fixture_page_is_resident(t->f, 4 * CHUNK_PAGES - 1));
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_COMPLETED), ==, 0);

    fixture_write_file(t->f);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&past), ==, 0);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, fault_healed_events, 3);
    fault_free(t);
}

static void test_truncated_file_stalls(const void *opaque)
{
    /* What was cut off the file is never taken for zeros. */
    fault_check_truncated(opaque, 0);
}

static void test_file_truncated_in_a_page_stalls(const void *opaque)
{
    /* A page of which the file has only half is not loaded. */
    fault_check_truncated(opaque, 1234);
}

/* ---- faults ---- */

static bool fault_even_pages(uint64_t page_idx)
{
    return page_idx % 2 == 0;
}

static void test_faults_are_counted(const void *opaque)
{
    /* The first touch of each page is one fault. */
    SimConfig config = { .seed = 10 };
    FastloadStats stats;
    FaultTest *t;
    uint64_t i;

    sim_reset(&config);
    t = fault_new_sim(fault_even_pages);
    sim_hold(SIM_HOLD_BACKGROUND);
    fault_start(t);
    for (i = 0; i < 20; i++) {
        g_assert_true(fixture_page_is_right(t->f, i * 37));
        g_assert_true(fixture_page_is_right(t->f, i * 37));
    }
    /* The counter comes after the page: the last one may be on its way. */
    fixture_wait_until(fault_stats(t).fault_count >= 20);
    stats = fault_stats(t);
    g_assert_cmpuint(stats.fault_count, ==, 20);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_URGENT], ==,
                     10 * PAGE);
    g_assert_cmpuint(stats.read_bytes, ==, 10 * PAGE);
    g_assert_cmpuint(stats.fault_max_ns, >, 0);
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_adjacent_regions_are_told_apart(const void *opaque)
{
    /* The first and the last page of a region belong to it alone. */
    SimConfig config = { .seed = 20 };
    FaultTest *t;
    FastloadRegion whole;
    uint64_t i;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    fastload_free(t->fl);
    t->fl = fastload_new(t->f->fd, NULL, NULL);
    fastload_set_io_ops(t->fl, &sim_ops);
    fixture_region(t->f, &whole);
    for (i = 0; i < 8; i++) {
        FastloadRegion part = whole;

        part.hva = t->f->hva + i * 64 * PAGE;
        part.file_off += i * 64 * PAGE;
        part.len_bytes = 64 * PAGE;
        part.data_bits += i;
        g_assert_true(fastload_add_region(t->fl, &part, NULL));
    }
    sim_hold(SIM_HOLD_BACKGROUND);
    fault_start(t);
    for (i = 0; i < 8; i++) {
        g_assert_true(fixture_page_is_right(t->f, i * 64));
        g_assert_true(fixture_page_is_right(t->f, i * 64 + 63));
    }
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    fault_free(t);
}

static void test_is_loaded_by_the_byte(const void *opaque)
{
    /* Any byte of a page that is missing makes a stretch wait. */
    SimConfig config = { .seed = 26 };
    uint8_t *page;
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_BACKGROUND);
    fault_start(t);
    page = (uint8_t *)fixture_page(t->f, 5);
    g_assert_false(fastload_is_loaded(t->fl, page, 1));
    g_assert_true(fixture_page_is_right(t->f, 5));
    fixture_wait_until(fastload_is_loaded(t->fl, page, PAGE));
    g_assert_true(fastload_is_loaded(t->fl, page + PAGE - 1, 1));
    g_assert_false(fastload_is_loaded(t->fl, page + PAGE - 1, 2));
    g_assert_false(fastload_is_loaded(t->fl, page, PAGE + 1));
    g_assert_false(fastload_is_loaded(t->fl, page - 1, 2));
    g_assert_false(fastload_is_loaded(t->fl, page + PAGE, 1));
    g_assert_true(fastload_is_loaded(t->fl, t->f->hva - PAGE, PAGE));
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    g_assert_true(fastload_is_loaded(t->fl, t->f->hva, t->f->len_bytes));
    fault_free(t);
}

static void test_discarded_page_is_zero(const void *opaque)
{
    /* A page that the guest gave back after it was placed stays zero. */
    SimConfig config = { .seed = 11 };
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_BACKGROUND);
    fault_start(t);
    g_assert_true(fixture_page_is_right(t->f, 5));
    fixture_wait_until(fault_remaining(t) == 4 * CHUNK_BYTES - PAGE);
    g_assert_cmpint(madvise(fixture_page(t->f, 5), PAGE, MADV_DONTNEED),
                    ==, 0);
    g_assert_cmpuint(fixture_page(t->f, 5)[7], ==, 0);
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    g_assert_cmpuint(fixture_page(t->f, 5)[7], ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    fault_free(t);
}

static void test_more_faults_than_room(const void *opaque)
{
    /* More threads than the queue has room for get their pages in the end. */
    SimConfig config = { .seed = 12 };
    uint32_t count = FASTLOAD_FAULT_COUNT_MAX + 200, i;
    g_autofree FixtureToucher *touchers = g_new0(FixtureToucher, count);
    uint64_t file_off;
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    file_off = fault_file_off(t, 0);
    sim_hold(SIM_HOLD_ALL);
    fault_start(t);
    for (i = 0; i < count; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, i);
    }
    fixture_wait_until(fastload_sched_fault_room(t->fl) == 0);
    sim_add_bad(file_off, t->f->len_bytes, EIO, 0);
    sim_hold(SIM_HOLD_BACKGROUND); /* nobody else brings the pages */
    /* A thread that finds no room faults again at once: no worker sleeps. */
    fixture_hurry_until(fixture_events_count(&t->events,
                                             FASTLOAD_EVENT_STALLED));
    for (i = 0; i < count; i++) {
        g_assert_false(fixture_toucher_is_done(&touchers[i]));
    }
    sim_heal(file_off);
    for (i = 0; i < count; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static bool fault_every_second_page(uint64_t page_idx)
{
    return page_idx % 2;
}

/* Faults that the only worker was told of between two polls of its reads. */
typedef struct FaultTurn {
    uint64_t poll_count;
    uint32_t told_count;
    uint32_t told_count_max; /* valid once the load is over */
} FaultTurn;

static void fault_count_in_turn(void *hva, uint32_t tid, void *opaque)
{
    FaultTurn *turn = opaque;
    uint64_t poll_count = sim_poll_count();

    if (turn->poll_count != poll_count) {
        turn->poll_count = poll_count;
        turn->told_count = 0;
    }
    turn->told_count++;
    turn->told_count_max = MAX(turn->told_count_max, turn->told_count);
}

static void test_reads_have_their_turn(const void *opaque)
{
    /* A worker reaps its reads between faults, however many are ready. */
    SimConfig sim_config = { .seed = 50 };
    uint32_t count = 3 * FASTLOAD_FAULT_TURN_MAX, i;
    g_autofree FixtureToucher *touchers = g_new0(FixtureToucher, count);
    FaultTurn turn = { 0 };
    FaultTest *t;

    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_BACKGROUND);
    t = fault_new(&sim_ops, FASTLOAD_IO_AUTO, FIXTURE_ANON, 4 * CHUNK_PAGES,
                  1, fault_every_second_page);
    t->fl->config.fault_func = fault_count_in_turn;
    t->fl->config.fault_opaque = &turn;
    fault_start(t);
    /* The worker is about to answer the first one while all others come. */
    gate_hold(UFFDIO_ZEROPAGE, GATE_BEFORE);
    fixture_toucher_start_page(&touchers[0], t->f, 0);
    gate_wait_held();
    for (i = 1; i < count; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 2 * i);
    }
    fixture_wait_until(fixture_unread_fault_count(t->fl->uffd) == count - 1);
    gate_open();
    for (i = 0; i < count; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    g_assert_cmpuint(turn.told_count_max, <=, FASTLOAD_FAULT_TURN_MAX);
    fault_free(t);
}

static void test_a_thread_that_hangs_is_known(const void *opaque)
{
    /*
     * While the only worker hangs, a thread counts as waiting.  The worker is
     * kept in the kernel and reads no message: a thread may wait unknown.
     */
    SimConfig sim_config = { .seed = 52 };
    FixtureToucher toucher;
    FaultTest *t;

    test_clock_stop();
    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_BACKGROUND);
    t = fault_new(&sim_ops, FASTLOAD_IO_AUTO, FIXTURE_ANON, 4 * CHUNK_PAGES,
                  1, fault_every_second_page);
    g_assert_cmpuint(fastload_oldest_fault_ns(t->fl), ==, 0);
    fault_start(t);
    sim_wait_asleep();
    sim_skip(FASTLOAD_STALL_WAIT_NS);
    sim_wait_asleep();
    g_assert_cmpuint(fastload_oldest_fault_ns(t->fl), ==, 0);
    gate_hold(UFFDIO_ZEROPAGE, GATE_BEFORE);
    fixture_toucher_start_page(&toucher, t->f, 0);
    gate_wait_held();
    g_assert_cmpuint(fastload_oldest_fault_ns(t->fl), ==, 0);
    sim_skip(FASTLOAD_STALL_WAIT_NS);
    g_assert_cmpuint(fastload_oldest_fault_ns(t->fl), ==,
                     FASTLOAD_STALL_WAIT_NS);
    g_assert_cmpuint(fastload_silent_ns(t->fl), ==, FASTLOAD_STALL_WAIT_NS);
    gate_open();
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    sim_wait_asleep();
    g_assert_cmpuint(fastload_oldest_fault_ns(t->fl), ==, 0);
    g_assert_cmpuint(fastload_silent_ns(t->fl), ==, 0);
    sim_hold(SIM_HOLD_NONE);
    fault_run(t);
    g_assert_cmpuint(fastload_oldest_fault_ns(t->fl), ==, 0);
    fault_free(t);
}

static uint32_t fault_reap_gate; /* atomic: 1: closed; 2: a worker waits */

/* A worker that has found a completed read is kept there. */
static FastloadIoReq *fault_reap_held(FastloadIo *io)
{
    FastloadIoReq *req = sim_ops.reap(io);

    while (req && __atomic_load_n(&fault_reap_gate, __ATOMIC_ACQUIRE)) {
        __atomic_store_n(&fault_reap_gate, 2, __ATOMIC_RELEASE);
        g_usleep(100);
    }
    return req;
}

static void test_a_thread_that_hangs_after_sleeping_is_known(
    const void *opaque)
{
    /* So is one that slept until a read was back, and hangs in that turn. */
    SimConfig sim_config = { .seed = 53 };
    FastloadIoOps ops = sim_ops;
    FixtureToucher toucher;
    FaultTest *t;

    ops.reap = fault_reap_held;
    test_clock_stop();
    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_ALL);
    t = fault_new(&ops, FASTLOAD_IO_AUTO, FIXTURE_ANON, 4 * CHUNK_PAGES, 1,
                  fixture_all_data);
    fault_start(t);
    sim_wait_asleep();
    __atomic_store_n(&fault_reap_gate, 1, __ATOMIC_RELEASE);
    sim_hold(SIM_HOLD_NONE);
    fixture_wait_until(__atomic_load_n(&fault_reap_gate,
                                       __ATOMIC_ACQUIRE) == 2);
    fixture_toucher_start_page(&toucher, t->f, 2000);
    sim_skip(FASTLOAD_STALL_WAIT_NS);
    g_assert_cmpuint(fastload_oldest_fault_ns(t->fl), ==,
                     FASTLOAD_STALL_WAIT_NS);
    __atomic_store_n(&fault_reap_gate, 0, __ATOMIC_RELEASE);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fault_run(t);
    g_assert_cmpuint(fastload_oldest_fault_ns(t->fl), ==, 0);
    fault_free(t);
}

static void test_wake_without_the_lock(const void *opaque)
{
    /* A thread without room in the queue is woken with no lock held. */
    SimConfig config = { .seed = 51 };
    uint32_t count = FASTLOAD_FAULT_COUNT_MAX + 200, i;
    g_autofree FixtureToucher *touchers = g_new0(FixtureToucher, count);
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_ALL);
    fault_start(t);
    for (i = 0; i < count; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, i);
    }
    fixture_wait_until(fastload_sched_fault_room(t->fl) == 0 &&
                       sim_pending_urgent_count() ==
                       2 * FASTLOAD_URGENT_READ_COUNT_MAX);
    sim_add_bad(fault_file_off(t, 0), t->f->len_bytes, EIO, 0);
    /* The first read that fails finds the queue full. */
    gate_hold(UFFDIO_WAKE, GATE_BEFORE);
    sim_hold(SIM_HOLD_BACKGROUND);
    gate_wait_held();
    fixture_wait_until(g_mutex_trylock(&t->fl->sched.lock));
    g_mutex_unlock(&t->fl->sched.lock);
    gate_open();
    sim_heal(fault_file_off(t, 0));
    for (i = 0; i < count; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

/* ---- cancel ---- */

static bool fault_page_is_zero(const Fixture *f, uint64_t page_idx)
{
    const uint64_t *page = fixture_page(f, page_idx);
    uint32_t w;

    for (w = 0; w < PAGE / sizeof(*page); w++) {
        if (page[w]) {
            return false;
        }
    }
    return true;
}

static void test_cancel_releases_waiters(const void *opaque)
{
    /* A thread that waits for a page of a cancelled load finds zeros in it. */
    SimConfig config = { .seed = 13 };
    FixtureToucher touchers[2];
    FixtureUse before;
    FaultTest *t;
    int i;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    fixture_use_get(&before);
    sim_add_bad(fault_file_off(t, 5), 2 * PAGE, EIO, 0);
    fault_start(t);
    for (i = 0; i < 2; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 5 + i);
    }
    fixture_wait_until(sim_failed_urgent_count() >= 2);
    g_assert_false(fixture_toucher_is_done(&touchers[0]));
    fastload_cancel(t->fl);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 1);
        g_assert_true(fault_page_is_zero(t->f, 5 + i));
    }
    fault_wait_cancelled(t);
    g_assert_cmpuint(fault_stats(t).complete_ns, ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fixture_use_check(&before);
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_CANCELLED), ==, 1);
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_COMPLETED), ==, 0);
    fault_free(t);
}

static void test_cancel_waits_for_reads(const void *opaque)
{
    /* A cancelled load waits for reads in flight, without spinning. */
    SimConfig config = { .seed = 14 };
    FixtureToucher toucher;
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop(); /* or they would be left behind after a while */
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_ALL);
    fault_start(t);
    fixture_toucher_start_page(&toucher, t->f, 2000);
    fixture_wait_until(sim_pending_count() >= 2 &&
                       sim_pending_urgent_count());
    fastload_cancel(t->fl);
    sim_wait_asleep();
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_CANCELLED), ==, 0);
    g_assert_false(fixture_toucher_is_done(&toucher));
    g_assert_cmpuint(sim_pending_count(), >=, 2);
    sim_hold(SIM_HOLD_NONE);
    fixture_toucher_join(&toucher);
    fault_wait_cancelled(t);
    g_assert_cmpuint(sim_pending_count(), ==, 0);
    g_assert_cmpuint(sim_broken_count(), ==, 0); /* none was left behind */
    fault_free(t);
}

static void test_cancel_leaves_reads_behind(const void *opaque)
{
    /* A cancelled load ends soon, though storage does not answer at all. */
    static const FastloadEvent want[] = { FASTLOAD_EVENT_CANCELLED };
    SimConfig config = { .seed = 53 };
    FixtureToucher toucher;
    uint64_t begin_ns;
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_ALL);
    fault_start(t);
    fixture_toucher_start_page(&toucher, t->f, 2000);
    fixture_wait_until(sim_pending_count() >= 2 &&
                       sim_pending_urgent_count());
    begin_ns = fastload_stats_now_ns();
    fastload_cancel(t->fl);
    fault_run_until_event(t, FASTLOAD_EVENT_CANCELLED, 1);
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, ==,
                     FASTLOAD_DRAIN_NS_MAX);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    fault_wait_cancelled(t);
    g_assert_cmpuint(sim_pending_count(), ==, 0);
    fault_assert_events(t, want, 1);
    fault_free(t);
    sim_wait_late(); /* nobody else has been given the staging's addresses */
}

static void test_completion_leaves_reads_behind(const void *opaque)
{
    /* A load completes without a read whose page a chunk has brought. */
    static const FastloadEvent want[] = { FASTLOAD_EVENT_COMPLETED };
    SimConfig config = { .seed = 54 };
    FixtureToucher toucher;
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    sim_hold(SIM_HOLD_ALL);
    fault_start(t);
    fixture_toucher_start_page(&toucher, t->f, 2000);
    fixture_wait_until(sim_pending_urgent_count());
    sim_hold(SIM_HOLD_URGENT);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    sim_run_until(!fault_remaining(t));
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_COMPLETED), ==, 0);
    sim_skip(FASTLOAD_DRAIN_NS_MAX);
    fault_wait(t);
    g_assert_cmpuint(sim_broken_count(), ==, 1);
    fault_assert_events(t, want, 1);
    sim_wait_late();
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

/*
 * A thread that the kernel does not let go, since its own threads read for it:
 * what a thread has of its own is destroyed when its function has returned.
 */
typedef struct FaultStuck {
    pthread_key_t key;
    uint32_t opened_count;
    uint32_t is_released; /* atomic, as is the next */
    uint32_t is_gone;
} FaultStuck;

static FaultStuck fault_stuck;

static void fault_stuck_destroy(void *opaque)
{
    fixture_wait_until(__atomic_load_n(&fault_stuck.is_released,
                                       __ATOMIC_ACQUIRE));
    __atomic_store_n(&fault_stuck.is_gone, 1, __ATOMIC_RELEASE);
}

/* The stuck thread is the first worker's, which has the urgent reads. */
static FastloadIo *fault_stuck_open(const FastloadIoSetup *setup,
                                    const char **ret_refusal)
{
    if (!__atomic_fetch_add(&fault_stuck.opened_count, 1, __ATOMIC_RELAXED)) {
        pthread_setspecific(fault_stuck.key, &fault_stuck);
    }
    return sim_ops.open(setup, ret_refusal);
}

static void test_settling_leaves_a_stuck_thread(const void *opaque)
{
    /* fastload_settle() does not wait for a thread whose reads were left. */
    SimConfig config = { .seed = 55 };
    FastloadIoOps ops = sim_ops;
    FixtureToucher toucher;
    FaultTest *t;

    memset(&fault_stuck, 0, sizeof(fault_stuck));
    g_assert_cmpint(pthread_key_create(&fault_stuck.key, fault_stuck_destroy),
                    ==, 0);
    ops.open = fault_stuck_open;
    sim_reset(&config);
    test_clock_stop();
    t = fault_new(&ops, FASTLOAD_IO_AUTO, FIXTURE_ANON, 4 * CHUNK_PAGES, 2,
                  fixture_all_data);
    sim_hold(SIM_HOLD_ALL);
    fault_start(t);
    fixture_toucher_start_page(&toucher, t->f, 2000);
    fixture_wait_until(sim_pending_urgent_count());
    sim_hold(SIM_HOLD_URGENT);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    sim_run_until(!fault_remaining(t));
    sim_skip(FASTLOAD_DRAIN_NS_MAX);
    fastload_settle(t->fl);
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_SETTLED), ==, 1);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
    g_assert_false(__atomic_load_n(&fault_stuck.is_gone, __ATOMIC_ACQUIRE));
    __atomic_store_n(&fault_stuck.is_released, 1, __ATOMIC_RELEASE);
    fixture_wait_until(__atomic_load_n(&fault_stuck.is_gone,
                                       __ATOMIC_ACQUIRE));
    sim_wait_late();
    pthread_key_delete(fault_stuck.key);
}

static uint64_t fault_failing_count(FaultTest *t)
{
    uint64_t count;

    g_mutex_lock(&t->fl->sched.lock);
    count = t->fl->retry.failing_count;
    g_mutex_unlock(&t->fl->sched.lock);
    return count;
}

static void test_recovery_meets_reads(const void *opaque)
{
    /* Reads in flight at a recovery are repeated: no failure, no loss. */
    SimConfig config = { .seed = 21 };
    FixtureToucher touchers[3];
    FastloadStats stats;
    FaultTest *t;
    guint i;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    sim_hold(SIM_HOLD_URGENT);
    fault_start(t);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 2000 - i);
    }
    fixture_wait_until(sim_pending_count() == G_N_ELEMENTS(touchers));
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    sim_hold(SIM_HOLD_BACKGROUND);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fixture_wait_until(fault_failing_count(t) == 0);
    g_assert_cmpuint(fault_stats(t).retry_count, ==, G_N_ELEMENTS(touchers));

    fastload_set_background_rate(t->fl, 0);
    fixture_wait_until(sim_pending_count() != 0);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    sim_hold(SIM_HOLD_NONE);
    fault_wait(t);
    stats = fault_stats(t);
    g_assert_cmpuint(stats.retry_count, >, G_N_ELEMENTS(touchers));
    g_assert_cmpuint(stats.io_error_count, ==, 0);
    g_assert_cmpuint(fixture_events_count(&t->events, FASTLOAD_EVENT_STALLED),
                     ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_cancel_anywhere(const void *opaque)
{
    /* Cancelled at any point, a load ends; pages are right or zero. */
    uint32_t seed = g_test_rand_int(), round;
    FixtureUse before;

    fixture_use_get(&before);
    for (round = 0; round < 40; round++) {
        SimConfig config = {
            .seed = seed + round, .delay_turns_max = round % 10,
            .eio_permille = round % 3 * 50,
        };
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed + round);
        uint64_t until_bytes = g_rand_int_range(rand, 0, 4 * CHUNK_BYTES);
        FixtureToucher touchers[2];
        bool is_completed;
        FaultTest *t;
        uint64_t i;

        fixture_note("seed %u", seed + round);
        sim_reset(&config);
        t = fault_new_sim(fixture_all_data);
        fault_start(t);
        for (i = 0; i < 2; i++) {
            fixture_toucher_start(&touchers[i], t->f, i, 100);
        }
        while (fault_remaining(t) > until_bytes) {
            g_thread_yield();
        }
        fastload_cancel(t->fl);
        fastload_cancel(t->fl);
        for (i = 0; i < 2; i++) {
            fixture_toucher_join(&touchers[i]);
        }
        is_completed = fastload_wait(t->fl, NULL);
        for (i = 0; i < fixture_page_count(t->f); i++) {
            g_assert_true(fixture_page_is_right(t->f, i) ||
                          (!is_completed && fault_page_is_zero(t->f, i)));
        }
        fastload_free(t->fl);
        t->fl = NULL;
        g_assert_cmpuint(fixture_events_count(&t->events,
                                              FASTLOAD_EVENT_COMPLETED),
                         ==, is_completed);
        g_assert_cmpuint(fixture_events_count(&t->events,
                                              FASTLOAD_EVENT_CANCELLED),
                         ==, !is_completed);
        fault_free(t);
    }
    fixture_use_check(&before);
}

static void test_cancel_after_completion(const void *opaque)
{
    /* To cancel a complete load changes nothing. */
    static const FastloadEvent want[] = { FASTLOAD_EVENT_COMPLETED };
    SimConfig config = { .seed = 15 };
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_mixed);
    fault_start(t);
    fault_wait(t);
    fastload_cancel(t->fl);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, want, 1);
    fault_free(t);
}

static void test_cancel_before_start(const void *opaque)
{
    /* A load that was cancelled before it began ends as it begins. */
    static const FastloadEvent want[] = { FASTLOAD_EVENT_CANCELLED };
    SimConfig config = { .seed = 16 };
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    fastload_cancel(t->fl);
    fault_start(t);
    fault_wait_cancelled(t);
    g_assert_true(fault_page_is_zero(t->f, 3));
    fastload_free(t->fl);
    t->fl = NULL;
    fault_assert_events(t, want, 1);
    fault_free(t);
}

static void cancelling_func(FastloadEvent event,
                            const FastloadFailure *failure, void *opaque)
{
    FaultTest *t = opaque;
    FastloadStats stats;

    fixture_events_func(event, failure, &t->events);
    fastload_get_stats(t->fl, &stats);
    if (event == FASTLOAD_EVENT_STALLED) {
        fastload_cancel(t->fl);
    }
}

static void test_cancel_from_the_callback(const void *opaque)
{
    /* The callback may look at the load, and end it. */
    static const FastloadEvent want[] = {
        FASTLOAD_EVENT_STALLED, FASTLOAD_EVENT_CANCELLED,
    };
    SimConfig config = { .seed = 17 };
    FaultTest *t;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    t->fl->config.event_func = cancelling_func;
    t->fl->config.event_opaque = t;
    sim_add_bad(fault_file_off(t, 1), PAGE, EIO, 0);
    fault_start(t);
    fault_run_until_event(t, FASTLOAD_EVENT_CANCELLED, 1);
    fault_wait_cancelled(t);
    fastload_free(t->fl); /* the event may come after wait returns */
    t->fl = NULL;
    fault_assert_events(t, want, 2);
    fault_free(t);
}

/* What fastload_is_settled() says when an event is told: that event's bit. */
typedef struct SettledSeen {
    Fastload *fl;
    uint32_t told;    /* atomic */
    uint32_t settled; /* atomic */
} SettledSeen;

static void settled_seen_func(FastloadEvent event,
                              const FastloadFailure *failure, void *opaque)
{
    SettledSeen *seen = opaque;

    if (fastload_is_settled(seen->fl)) {
        __atomic_or_fetch(&seen->settled, 1u << event, __ATOMIC_RELAXED);
    }
    __atomic_or_fetch(&seen->told, 1u << event, __ATOMIC_RELEASE);
}

static void fault_check_settled(bool is_cancelled)
{
    SimConfig config = { .seed = 33 };
    uint32_t want = 1u << (is_cancelled ? FASTLOAD_EVENT_CANCELLED
                                        : FASTLOAD_EVENT_SETTLED);
    SettledSeen seen = { 0 };
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_sim(fixture_all_data);
    seen.fl = t->fl;
    t->fl->config.event_func = settled_seen_func;
    t->fl->config.event_opaque = &seen;
    sim_hold(SIM_HOLD_ALL);
    g_assert_false(fastload_is_settled(t->fl));
    fault_start(t);
    fixture_wait_until(sim_pending_count());
    if (is_cancelled) {
        fastload_cancel(t->fl);
    }
    /* Reads are in flight. */
    g_assert_false(fastload_is_settled(t->fl));
    sim_hold(SIM_HOLD_NONE);
    fixture_wait_until(fastload_is_settled(t->fl));
    fastload_settle(t->fl);
    g_assert_true(fastload_is_settled(t->fl));
    g_assert_cmpuint(seen.told & want, ==, want);
    g_assert_cmpuint(seen.settled, ==, want);
    fault_free(t);
}

static void test_settled_is_known(const void *opaque)
{
    /* fastload_is_settled() is true from the event SETTLED on. */
    fault_check_settled(false);
    fault_check_settled(true);
}

static void test_free_at_any_time(const void *opaque)
{
    /* fastload_free() ends a load in every state, and releases everything. */
    SimConfig config = { .seed = 18 };
    FixtureUse before;
    FaultTest *t;
    int state;

    fastload_free(NULL);
    fixture_use_get(&before);
    for (state = 0; state < 5; state++) {
        fixture_note("state %d", state);
        sim_reset(&config);
        test_clock_stop();
        t = fault_new_sim(fixture_all_data);
        if (state == 2) {
            sim_add_bad(fault_file_off(t, 1), PAGE, EIO, 0);
        }
        if (state > 0) {
            fault_start(t);
        }
        if (state == 2) {
            fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
        } else if (state == 3) {
            fault_run_until_event(t, FASTLOAD_EVENT_COMPLETED, 1);
        } else if (state == 4) {
            fastload_cancel(t->fl);
        }
        fault_free(t);
    }
    fixture_use_check(&before);
}

/* ---- loads that do not begin ---- */

static void fault_assert_region_refused(FaultTest *t,
                                        const FastloadRegion *region,
                                        const char *what)
{
    GError *error = NULL;

    fixture_note("%s", what);
    g_assert_false(fastload_add_region(t->fl, region, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID);
    g_error_free(error);
}

static void test_bad_regions_are_refused(const void *opaque)
{
    /* Each rule about regions is checked, and a refused one is not added. */
    FaultTest *t = fault_new(NULL, FASTLOAD_IO_PREADV, FIXTURE_ANON,
                             2 * CHUNK_PAGES, 2, fixture_all_data);
    g_autofree uint64_t *bits = g_new0(uint64_t, CHUNK_PAGES);
    FastloadRegion good = {
        .hva = t->f->hva + 64 * CHUNK_BYTES,
        .len_bytes = 16 * PAGE,
        .file_off = 5 * PAGE,
        .page_bytes = PAGE,
        .granule_bytes = PAGE,
        .data_bits = bits,
    };
    FastloadRegion bad;

#define REFUSED(change) \
    do { \
        bad = good; \
        bad.change; \
        fault_assert_region_refused(t, &bad, #change); \
    } while (0)

    REFUSED(hva = (uint8_t *)good.hva + 512);
    REFUSED(len_bytes = 0);
    REFUSED(len_bytes = 16 * PAGE + 512);
    REFUSED(len_bytes = 0 - (uint64_t)PAGE);
    REFUSED(hva = (void *)(0 - (uintptr_t)8 * PAGE));
    REFUSED(file_off = 512);
    REFUSED(file_off = 0 - (uint64_t)PAGE);
    REFUSED(file_off = INT64_MAX / PAGE * PAGE);
    REFUSED(page_bytes = 0);
    REFUSED(page_bytes = 2048);
    REFUSED(page_bytes = 3 * PAGE);
    REFUSED(page_bytes = 32 * PAGE);
    REFUSED(granule_bytes = 0);
    REFUSED(granule_bytes = 512);
    REFUSED(granule_bytes = 2 * PAGE);
    REFUSED(data_bits = NULL);
    REFUSED(hva = t->f->hva);
    REFUSED(hva = t->f->hva + 2 * CHUNK_BYTES - PAGE);
    REFUSED(hva = t->f->hva - 15 * PAGE);
#undef REFUSED

    g_assert_cmpuint(fault_stats(t).total_bytes, ==, t->f->len_bytes);
    fault_start(t);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_touching_regions_do_not_overlap(const void *opaque)
{
    /* Regions may follow each other without a gap. */
    FaultTest *t = fault_new(NULL, FASTLOAD_IO_PREADV, FIXTURE_ANON, 64, 1,
                             fixture_all_data);
    uint64_t bits = 0;
    FastloadRegion next = {
        .hva = t->f->hva + 64 * PAGE,
        .len_bytes = PAGE,
        .page_bytes = PAGE,
        .granule_bytes = PAGE,
        .data_bits = &bits,
    };
    GError *error = NULL;

    g_assert_true(fastload_add_region(t->fl, &next, &error));
    next.hva = t->f->hva - PAGE;
    g_assert_true(fastload_add_region(t->fl, &next, &error));
    g_assert_no_error(error);
    fault_free(t);
}

static void test_bad_configurations_are_refused(const void *opaque)
{
    /* No descriptor, too many workers, no memory: each is said at once. */
    FastloadConfig config = { .worker_count = FASTLOAD_WORKER_COUNT_MAX + 1 };
    GError *error = NULL;
    Fastload *fl;

    g_assert_null(fastload_new(-1, NULL, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID);
    g_clear_error(&error);
    g_assert_null(fastload_new(0, &config, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID);
    g_clear_error(&error);

    fl = fastload_new(0, NULL, &error);
    g_assert_no_error(error);
    g_assert_false(fastload_start(fl, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID);
    g_clear_error(&error);
    fastload_free(fl);
}

/* Starts in vain and checks that the memory is plain and nothing is left. */
static char *fault_start_in_vain(FaultTest *t, const FixtureUse *before,
                                 FastloadError code)
{
    GError *error = NULL;
    FixtureUse after;
    char *text;

    g_assert_false(fastload_start(t->fl, &error));
    g_assert_error(error, FASTLOAD_ERROR, code);
    text = g_strdup(error->message);
    g_error_free(error);
    fixture_use_get(&after);
    g_assert_cmpuint(after.uffd_count, ==, before->uffd_count);
    g_assert_true(fault_page_is_zero(t->f, 0)); /* touching it does not block */
    fastload_free(t->fl);
    t->fl = NULL;
    fixture_use_check(before);
    g_assert_cmpuint(t->events.count, ==, 0);
    return text;
}

static void test_backend_that_does_not_open(const void *opaque)
{
    /* When no worker can read, start says which backend it was. */
    SimConfig config = { .seed = 19 };
    g_autofree char *text = NULL;
    FixtureUse before;
    FaultTest *t;

    sim_reset(&config);
    fixture_use_get(&before);
    before.fd_count++; /* the snapshot */
    t = fault_new(&sim_ops, FASTLOAD_IO_PREADV, FIXTURE_ANON, CHUNK_PAGES, 8,
                  fixture_all_data);
    sim_refuse(true);
    text = fault_start_in_vain(t, &before, FASTLOAD_ERROR_SYSTEM);
    g_assert_nonnull(strstr(text, "simulator"));
    g_assert_nonnull(strstr(text, "told to refuse"));
    fault_free(t);
}

/* What first_open() refuses: the first call, or all others. */
static struct {
    Fastload *fl;
    pid_t starter; /* the thread that starts the load */
    uint32_t open_count;
    bool is_refused;
} first_call;

static uint32_t first_thread_count(void)
{
    uint32_t count;

    g_mutex_lock(&first_call.fl->state_lock);
    count = first_call.fl->live_count;
    g_mutex_unlock(&first_call.fl->state_lock);
    return count;
}

static FastloadIo *first_open(const FastloadIoSetup *setup,
                              const char **ret_refusal)
{
    char name[16];
    bool is_first;

    if (prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "fastload-0")) {
        /* There is no other that could overtake it, nor will there be. */
        fixture_wait_until(fixture_thread_waits(first_call.starter));
        g_assert_cmpuint(first_thread_count(), ==, 1);
    }
    is_first = __atomic_fetch_add(&first_call.open_count, 1,
                                  __ATOMIC_RELAXED) == 0;
    if (is_first == first_call.is_refused) {
        *ret_refusal = "told to refuse one";
        return NULL;
    }
    return sim_ops.open(setup, ret_refusal);
}

/* @is_first_refused: the first to open its backend, or all but the first. */
static FastloadStats fault_load_of_some(bool is_first_refused)
{
    SimConfig config = { .seed = 20 };
    FastloadIoOps ops = sim_ops;
    FixtureToucher toucher;
    FastloadStats stats;
    FaultTest *t;

    ops.open = first_open;
    sim_reset(&config);
    t = fault_new(&ops, FASTLOAD_IO_AUTO, FIXTURE_ANON, 4 * CHUNK_PAGES, 4,
                  fixture_all_data);
    first_call.fl = t->fl;
    first_call.starter = gettid();
    first_call.open_count = 0;
    first_call.is_refused = is_first_refused;
    fault_start(t);
    stats = fault_stats(t);
    fixture_toucher_start(&toucher, t->f, 20, 200);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
    return stats;
}

static void test_first_has_the_only_ring(const void *opaque)
{
    /* If only one worker can have a ring, the first one has it. */
    FastloadStats stats = fault_load_of_some(false);

    g_assert_cmpstr(stats.io_name, ==, sim_ops.name);
    g_assert_cmpuint(stats.preadv_count, ==, 3);
    g_assert_cmpstr(stats.io_fallback, ==, "told to refuse one");
}

static void test_first_has_no_ring(const void *opaque)
{
    /* When the first worker reads with preadv, all do. */
    FastloadStats stats = fault_load_of_some(true);

    g_assert_cmpstr(stats.io_name, ==, "preadv");
    g_assert_cmpuint(stats.preadv_count, ==, 4);
    g_assert_cmpstr(stats.io_fallback, ==, "told to refuse one");
}

static void test_unreadable_eager_region(const void *opaque)
{
    /* Start fails when it cannot read what it has to, and says where. */
    g_autofree char *text = NULL;
    g_autofree char *where = NULL;
    FixtureUse before;
    FastloadRegion eager;
    Fixture *f;
    FaultTest *t;

    f = fixture_new(FIXTURE_PRIVATE_FILE, CHUNK_PAGES, fixture_all_data);
    fixture_use_get(&before);
    before.fd_count++;
    t = fault_new(NULL, FASTLOAD_IO_PREADV, FIXTURE_ANON, CHUNK_PAGES, 2,
                  fixture_all_data);
    fixture_region(f, &eager);
    eager.file_off = fault_file_off(t, CHUNK_PAGES - 1);
    g_assert_true(fastload_add_region(t->fl, &eager, NULL));
    text = fault_start_in_vain(t, &before, FASTLOAD_ERROR_READ);
    /* The fixture's file ends a page after its region. */
    where = g_strdup_printf("%" PRIu64, fault_file_off(t, CHUNK_PAGES + 1));
    g_assert_nonnull(strstr(text, where));
    fault_free(t);
    fixture_free(f);
}

static void test_memory_that_is_not_there(const void *opaque)
{
    /* A region that is not mapped makes start fail, the others are let go. */
    void *low = (void *)0x10000000; /* where no mapping comes by itself */
    g_autofree char *text = NULL;
    FixtureUse before;
    FastloadRegion gone;
    FaultTest *t;

    fixture_use_get(&before);
    before.fd_count++;
    t = fault_new(NULL, FASTLOAD_IO_PREADV, FIXTURE_ANON, CHUNK_PAGES, 2,
                  fixture_all_data);
    fixture_region(t->f, &gone);
    gone.hva = mmap(low, gone.len_bytes, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    g_assert_true(gone.hva == low);
    g_assert_cmpint(munmap(gone.hva, gone.len_bytes), ==, 0);
    gone.file_off += PAGE; /* comes second */
    gone.len_bytes -= PAGE;
    g_assert_true(fastload_add_region(t->fl, &gone, NULL));
    text = fault_start_in_vain(t, &before, FASTLOAD_ERROR_READ);
    fault_free(t);
}

/* ---- huge pages ---- */

/* Eight chunks of data in memory with huge pages, one worker, held reads. */
static FaultTest *fault_new_huge(SimHold hold)
{
    SimConfig sim_config = { .seed = 1 };
    FastloadConfig config = {
        .worker_count = 1, .placed_func = fixture_placed_func,
    };

    sim_reset(&sim_config);
    sim_hold(hold);
    return fault_new_config(&sim_ops, config, FIXTURE_THP, 8 * CHUNK_PAGES,
                            fixture_all_data);
}

static void fault_wait_huge(FaultTest *t)
{
    FastloadStats stats;

    fault_wait(t);
    fault_check_placed(t);
    stats = fault_stats(t);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_URGENT] +
                     stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND], ==,
                     t->f->data_bytes);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
}

/* ---- pages around a fault, where storage is far away ---- */

#define AROUND_PAGES (FASTLOAD_AROUND_BYTES_MAX / PAGE)

/* Storage 10 ms away that gives 1 GB/s; nothing is read ahead. */
static FaultTest *fault_new_far(FixtureHasData *has_data, SimHold hold)
{
    SimConfig sim_config = { .seed = 1 };
    FastloadConfig config = {
        .worker_count = 2,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    };
    FaultTest *t;

    sim_reset(&sim_config);
    sim_hold(hold);
    t = fault_new_config(&sim_ops, config, FIXTURE_ANON, 4 * CHUNK_PAGES,
                         has_data);
    t->fl->window.round_trip_ns = 10 * 1000 * 1000;
    t->fl->window.rate_bytes_per_s = 1000 * 1000 * 1000;
    fault_start(t);
    return t;
}

static void fault_finish_far(FaultTest *t)
{
    fastload_set_background_rate(t->fl, 0);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_far_fault_brings_neighbours(const void *opaque)
{
    /* From far storage a fault reads the whole block around its page. */
    FaultTest *t = fault_new_far(fixture_all_data, SIM_HOLD_NONE);
    uint64_t page, first = CHUNK_PAGES + AROUND_PAGES;

    g_assert_true(fixture_page_is_right(t->f, first + 5));
    fixture_wait_until(fault_remaining(t) == t->f->len_bytes -
                       FASTLOAD_AROUND_BYTES_MAX);
    for (page = first; page < first + AROUND_PAGES; page++) {
        g_assert_true(fixture_page_is_resident(t->f, page));
        g_assert_true(fixture_page_is_right(t->f, page));
    }
    g_assert_false(fixture_page_is_resident(t->f, first - 1));
    g_assert_false(fixture_page_is_resident(t->f, first + AROUND_PAGES));
    g_assert_cmpuint(fault_stats(t).read_bytes, ==,
                     FASTLOAD_AROUND_BYTES_MAX);
    g_assert_cmpuint(fault_stats(t).fault_count, ==, 1);
    fault_finish_far(t);
}

static void test_near_fault_brings_its_page(const void *opaque)
{
    /* From near storage a fault reads its page alone. */
    FaultTest *t = fault_new_far(fixture_all_data, SIM_HOLD_NONE);

    __atomic_store_n(&t->fl->window.round_trip_ns, FASTLOAD_AROUND_NS_MIN - 1,
                     __ATOMIC_RELAXED);
    g_assert_true(fixture_page_is_right(t->f, 100));
    g_assert_cmpuint(fault_stats(t).read_bytes, ==, PAGE);
    fault_finish_far(t);
}

static void test_far_faults_beside_zeros(const void *opaque)
{
    /* Blocks with zero pages, beside chunks not trapped, are right. */
    FaultTest *t = fault_new_far(fixture_mixed, SIM_HOLD_NONE);
    uint64_t page;

    for (page = 0; page < fixture_page_count(t->f); page += 7) {
        g_assert_true(fixture_page_is_right(t->f, page));
    }
    fault_finish_far(t);
}

/* ---- pages that another process wants ---- */

static bool want_is_there(FaultTest *t, uint64_t page)
{
    return fastload_is_loaded(t->fl, fixture_page(t->f, page), 1);
}

static void test_wanted_pages_come(const void *opaque)
{
    /* Pages that fastload_want() names come, though nobody touches them. */
    FaultTest *t = fault_new_far(fixture_mixed, SIM_HOLD_NONE);
    uint64_t count = 0, page;

    for (page = 0; page < fixture_page_count(t->f); page += 7) {
        FastloadWanted wanted = fastload_want(t->fl, fixture_page(t->f, page));

        g_assert_cmpint(wanted, !=, FASTLOAD_WANTED_BUSY);
        count += wanted == FASTLOAD_WANTED_QUEUED;
        fixture_wait_until(want_is_there(t, page));
        g_assert_true(fixture_page_is_right(t->f, page));
        g_assert_cmpint(fastload_want(t->fl, fixture_page(t->f, page)), ==,
                        FASTLOAD_WANTED_THERE);
    }
    g_assert_cmpuint(count, >, 0);
    /* A page that comes along with another one in time is no fault. */
    g_assert_cmpuint(fault_stats(t).fault_count, >, 0);
    g_assert_cmpuint(fault_stats(t).fault_count, <=, count);
    g_assert_cmpuint(fault_told(t), ==, 0);
    fault_finish_far(t);
}

static void test_wanted_is_told_when_placed(const void *opaque)
{
    /* A wanted page is reported as URGENT once it is placed. */
    FaultTest *t = fault_new_config(NULL, (FastloadConfig) {
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
        .placed_func = fixture_placed_func,
    }, FIXTURE_SHARED, 2 * CHUNK_PAGES, fixture_all_data);

    fault_start(t);
    g_assert_cmpint(fastload_want(t->fl, fixture_page(t->f, 9)), ==,
                    FASTLOAD_WANTED_QUEUED);
    fixture_wait_until(fixture_placed_class(&t->placed, 9) ==
                       FASTLOAD_CLASS_URGENT);
    g_assert_cmpint(fixture_placed_class(&t->placed, CHUNK_PAGES), ==,
                    FASTLOAD_CLASS_MAX);
    g_assert_true(fixture_page_is_resident(t->f, 9));
    fastload_set_background_rate(t->fl, 0);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_check_placed(t);
    fault_free(t);
}

static void test_wanted_outside_is_there(const void *opaque)
{
    /* An address outside of all regions counts as there. */
    FaultTest *t = fault_new_far(fixture_all_data, SIM_HOLD_NONE);

    g_assert_cmpint(fastload_want(t->fl, t), ==, FASTLOAD_WANTED_THERE);
    g_assert_cmpuint(fault_stats(t).fault_count, ==, 0);
    fault_finish_far(t);
}

static void test_wanted_beyond_room_is_busy(const void *opaque)
{
    /* fastload_want() says when the queue is full; a repeat takes no room. */
    FaultTest *t = fault_new_far(fixture_all_data, SIM_HOLD_ALL);
    uint64_t page = 0;
    uint32_t again;

    /* Some are taken out of the queue, to be read. */
    while (fastload_want(t->fl, fixture_page(t->f, page)) ==
           FASTLOAD_WANTED_QUEUED) {
        page++;
        g_assert_cmpuint(page, <, fixture_page_count(t->f));
    }
    g_assert_cmpuint(page, >=, FASTLOAD_FAULT_COUNT_MAX);
    /* The same page does not take room twice. */
    for (again = 0; again < 3; again++) {
        g_assert_cmpint(fastload_want(t->fl, fixture_page(t->f, page - 1)), ==,
                        FASTLOAD_WANTED_QUEUED);
    }
    sim_hold(SIM_HOLD_NONE);
    fixture_wait_until(want_is_there(t, page - 1));
    fault_finish_far(t);
}

static void test_faults_around_share_a_read(const void *opaque)
{
    /* Two faults in one block share one read. */
    FaultTest *t = fault_new_far(fixture_all_data, SIM_HOLD_URGENT);
    FixtureToucher touchers[2];
    uint64_t i;

    for (i = 0; i < 2; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 70 + i);
        /* The second adds no read: it is taken from the kernel all the same. */
        fixture_wait_until(sim_pending_urgent_count() == 1);
        sim_wait_asleep();
    }
    g_assert_cmpuint(sim_pending_urgent_count(), ==, 1);
    sim_hold(SIM_HOLD_NONE);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    g_assert_cmpuint(fault_stats(t).read_bytes, ==,
                     FASTLOAD_AROUND_BYTES_MAX);
    fault_finish_far(t);
}

static void test_far_fault_beside_a_bad_page(const void *opaque)
{
    /* A page whose neighbour cannot be read is read alone. */
    FaultTest *t = fault_new_far(fixture_all_data, SIM_HOLD_URGENT);
    FixtureToucher touchers[2];
    uint64_t i;

    sim_add_bad(fault_file_off(t, 75), PAGE, EIO, 0);
    for (i = 0; i < 2; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 70 + i);
        fixture_wait_until(sim_pending_urgent_count() == 1);
        sim_wait_asleep();
    }
    sim_hold(SIM_HOLD_NONE);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    g_assert_false(fixture_page_is_resident(t->f, 75));
    sim_heal(fault_file_off(t, 75));
    fault_finish_far(t);
}

static void test_good_page_beside_a_bad_one_is_at_once(const void *opaque)
{
    /*
     * A page is read at once, whatever the back-off of a bad neighbour, which
     * is long after many failures.
     */
    FixtureToucher touchers[2];
    uint64_t begin_ns;
    uint32_t told;
    FaultTest *t;

    test_clock_stop();
    t = fault_new_far(fixture_all_data, SIM_HOLD_NONE);
    sim_add_bad(fault_file_off(t, 75), PAGE, EIO, 0);
    fixture_toucher_start_page(&touchers[0], t->f, 75);
    sim_run_until(t->fl->retry.backoff_ns == FASTLOAD_BACKOFF_NS_MAX);
    begin_ns = fastload_stats_now_ns();
    told = fault_told(t);
    fixture_toucher_start_page(&touchers[1], t->f, 70);
    fixture_wait_until(fault_told(t) > told);
    /* The page, not its toucher: a busy host may run that one much later. */
    sim_run_until(fixture_page_is_resident(t->f, 70));
    fixture_note("it took %" PRIu64 " us",
                 (fastload_stats_now_ns() - begin_ns) / 1000);
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, <,
                     FASTLOAD_BACKOFF_NS_MIN);
    fixture_note_clear();
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    sim_heal(fault_file_off(t, 75));
    fastload_set_background_rate(t->fl, 0);
    fault_run(t);
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_bad_pages_are_left_to_the_back_off(const void *opaque)
{
    /*
     * Two bad neighbours are read as seldom as the back-off says.  Their first
     * reads fail and wake both, and each faults again; from then on only the
     * back-off says when they are read.
     */
    FixtureToucher touchers[2];
    FaultTest *t;
    uint64_t i;

    test_clock_stop();
    t = fault_new_far(fixture_all_data, SIM_HOLD_NONE);
    for (i = 0; i < 2; i++) {
        sim_add_bad(fault_file_off(t, 75 + i), PAGE, EIO, 0);
        fixture_toucher_start_page(&touchers[i], t->f, 75 + i);
    }
    sim_run_until(t->fl->retry.backoff_ns == FASTLOAD_BACKOFF_NS_MAX);
    for (i = 0; i < 20; i++) {
        sim_step();
        g_usleep(1000); /* whoever is woken faults again meanwhile */
        sim_wait_asleep();
    }
    /* The first fault of each, and one for each read that woke it. */
    g_assert_cmpuint(fault_told(t), <=, 6);
    for (i = 0; i < 2; i++) {
        sim_heal(fault_file_off(t, 75 + i));
    }
    fastload_set_background_rate(t->fl, 0);
    fault_run(t);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_good_page_beside_a_bad_one_heals_nothing(const void *opaque)
{
    /* A good page beside a bad one does not end the stall. */
    FixtureToucher touchers[2];
    FaultTest *t;

    test_clock_stop();
    t = fault_new_far(fixture_all_data, SIM_HOLD_NONE);
    sim_add_bad(fault_file_off(t, 75), PAGE, EIO, 0);
    fixture_toucher_start_page(&touchers[0], t->f, 75);
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
    fixture_toucher_start_page(&touchers[1], t->f, 70);
    sim_run_until(fixture_toucher_is_done(&touchers[1]));
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    sim_wait_asleep();
    g_assert_cmpuint(fixture_events_count(&t->events, FASTLOAD_EVENT_RESUMED),
                     ==, 0);
    sim_heal(fault_file_off(t, 75));
    fastload_set_background_rate(t->fl, 0);
    fault_run(t);
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    fault_free(t);
}

static void test_fault_in_a_chunk_in_flight(const void *opaque)
{
    /* A chunk is copied, not moved, if a page of it came meanwhile. */
    FaultTest *t = fault_new_huge(SIM_HOLD_BACKGROUND);
    FixtureToucher toucher;

    fault_start(t);
    fixture_wait_until(sim_pending_count());
    /* In the middle of the first chunk, which is the one in flight. */
    fixture_toucher_start_page(&toucher, t->f, 300);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    sim_hold(SIM_HOLD_NONE);
    fault_wait_huge(t);
    if (fixture_has_move()) {
        g_assert_cmpuint(fault_stats(t).moved_bytes, ==, 7 * CHUNK_BYTES);
    }
    fault_free(t);
}

/* How many background reads each of two workers has in flight. */
static void fault_check_readers(FaultTest *t, uint32_t first, uint32_t second)
{
    sim_wait_asleep();
    g_assert_cmpuint(t->fl->workers[0].ahead_count, ==, first);
    g_assert_cmpuint(t->fl->workers[1].ahead_count, ==, second);
}

static void test_one_worker_stays_free(const void *opaque)
{
    /* The first worker reads nothing of a cached file while faults come. */
    SimConfig sim_config = { .seed = 1 };
    FaultTest *t;

    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_BACKGROUND);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    t->fl->file.is_cached = 1;
    fault_set_near(t);
    fault_start(t);
    /* Three reads, each of a third of what may be in flight. */
    fault_check_readers(t, 0, 3);
    sim_skip(FASTLOAD_FAULT_QUIET_NS - 1);
    fault_check_readers(t, 0, 3);
    sim_skip(1);
    fault_check_readers(t, 3, 3);
    /* A fault, and the chunk that it has begun is its last. */
    g_assert_true(fixture_page_is_right(t->f, 3 * CHUNK_PAGES));
    sim_hold(SIM_HOLD_NONE);
    sim_wait_asleep();
    g_assert_cmpuint(t->fl->workers[0].counters.read_bytes, ==,
                     PAGE + CHUNK_BYTES);
    fault_run(t);
    fault_free(t);
}

static bool fault_every_tenth(uint64_t page_idx)
{
    return page_idx % 10 == 0; /* too far apart for one read */
}

static void test_small_reads_are_limited(const void *opaque)
{
    /* Small reads ahead are limited in number, not only in bytes. */
    SimConfig sim_config = { .seed = 1 };
    FaultTest *t;

    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_BACKGROUND);
    test_clock_stop();
    t = fault_new_sim(fault_every_tenth);
    g_assert_cmpuint(FASTLOAD_WINDOW_BYTES_MIN / PAGE, >,
                     FASTLOAD_AHEAD_COUNT_MAX);
    fault_start(t);
    sim_skip(FASTLOAD_FAULT_QUIET_NS);
    sim_wait_asleep();
    g_assert_cmpuint(t->fl->workers[0].ahead_count, ==,
                     FASTLOAD_AHEAD_COUNT_MAX);
    sim_hold(SIM_HOLD_NONE);
    fault_run(t);
    g_assert_cmpuint(fault_stats(t).read_bytes, ==, t->f->data_bytes);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_move_wakes_who_waits(const void *opaque)
{
    /* A thread that waits for a page in a chunk that is moved goes on. */
    FaultTest *t = fault_new_huge(SIM_HOLD_ALL);
    FixtureToucher touchers[2];
    int i;

    fault_start(t);
    fixture_wait_until(sim_pending_count());
    for (i = 0; i < 2; i++) {
        uint64_t count = sim_pending_count();

        fixture_toucher_start_page(&touchers[i], t->f, 300 + i);
        fixture_wait_until(sim_pending_count() > count);
    }
    sim_hold(SIM_HOLD_URGENT);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    sim_hold(SIM_HOLD_NONE);
    fault_wait_huge(t);
    if (fixture_has_move()) {
        g_assert_cmpuint(fault_stats(t).moved_bytes, ==, t->f->len_bytes);
    }
    fault_free(t);
}

static void test_unknown_page_in_a_chunk(const void *opaque)
{
    /*
     * A page that the kernel has and we do not know of stops a move half
     * way; what was moved is placed, the page is kept, the rest is copied.
     */
    FaultTest *t = fault_new_huge(SIM_HOLD_NONE);
    uint64_t first = 3 * CHUNK_PAGES;
    uint64_t there = first + 200;
    uint64_t i;

    fixture_page(t->f, first)[0] = 1; /* all of the chunk, if it is huge */
    fixture_page(t->f, there)[0] = 1;
    g_assert_cmpint(madvise(fixture_page(t->f, first), 200 * PAGE,
                            MADV_DONTNEED), ==, 0);
    g_assert_cmpint(madvise(fixture_page(t->f, there + 1), 311 * PAGE,
                            MADV_DONTNEED), ==, 0);
    for (i = 0; i < PAGE / sizeof(uint64_t); i++) {
        fixture_page(t->f, there)[i] = fixture_word(t->f, there, i);
    }
    fault_start(t);
    fault_wait_huge(t);
    if (fixture_has_move()) {
        g_assert_cmpuint(fault_stats(t).moved_bytes, ==,
                         7 * CHUNK_BYTES + 200 * PAGE);
    }
    fault_free(t);
}

static void test_one_worker_is_woken(const void *opaque)
{
    /* A fault wakes the first worker only. */
    SimConfig sim_config = { .seed = 1 };
    FastloadConfig config = {
        .worker_count = 4,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    };
    uint64_t poll_counts[4], page, i;
    FaultTest *t;

    sim_reset(&sim_config);
    test_clock_stop();
    t = fault_new_config(&sim_ops, config, FIXTURE_ANON, 4 * CHUNK_PAGES,
                         fixture_all_data);
    fault_start(t);
    sim_wait_asleep();
    for (i = 0; i < 4; i++) {
        poll_counts[i] = sim_poll_count_of(t->fl->workers[i].io);
    }
    for (page = 0; page < 50; page++) {
        g_assert_true(fixture_page_is_right(t->f, page * 7));
        sim_wait_asleep();
    }
    g_assert_cmpuint(sim_poll_count_of(t->fl->workers[0].io), >=,
                     poll_counts[0] + 50);
    for (i = 1; i < 4; i++) {
        g_assert_cmpuint(sim_poll_count_of(t->fl->workers[i].io), ==,
                         poll_counts[i]);
    }
    fastload_set_background_rate(t->fl, 0);
    fault_run(t);
    fault_free(t);
}

static void test_who_may_not_read_sleeps(const void *opaque)
{
    /* With a cold file and a quiet guest, the second worker sleeps. */
    SimConfig sim_config = { .seed = 1 };
    FaultTest *t;

    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_BACKGROUND);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    if (fcntl(t->f->fd, F_SETFL, O_DIRECT) < 0) {
        g_test_skip("the file system of TMPDIR has no O_DIRECT");
        sim_hold(SIM_HOLD_NONE);
        fault_free(t);
        return;
    }
    fault_set_near(t);
    fault_start(t);
    sim_wait_asleep();
    sim_skip(FASTLOAD_FAULT_QUIET_NS);
    sim_wait_asleep();
    g_assert_cmpuint(sim_pending_count(), ==, 6);
    /* Neither of them wakes before a read is back. */
    g_assert_false(sim_step());
    sim_hold(SIM_HOLD_NONE);
    fault_run(t);
    g_assert_cmpuint(t->fl->workers[1].counters.read_bytes, ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_surplus_workers_wait(const void *opaque)
{
    /* Workers beyond the number of processors neither read, place nor spin. */
    SimConfig sim_config = { .seed = 1 };
    FastloadConfig config = {
        .worker_count = MIN(MAX(g_get_num_processors(), 2) + 2,
                            FASTLOAD_WORKER_COUNT_MAX),
    };
    FaultTest *t;
    uint32_t i;

    if (config.worker_count <= g_get_num_processors()) {
        g_test_skip("there are as many processors as workers can be");
        return;
    }
    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_BACKGROUND);
    test_clock_stop();
    t = fault_new_config(&sim_ops, config, FIXTURE_ANON, 32 * CHUNK_PAGES,
                         fixture_all_data);
    fault_start(t);
    sim_wait_asleep();
    g_assert_cmpuint(sim_pending_count(), >, 0);
    sim_hold(SIM_HOLD_NONE);
    fault_run(t);
    for (i = t->fl->active_count; i < config.worker_count; i++) {
        FastloadCounters *counters = &t->fl->workers[i].counters;

        g_assert_cmpuint(counters->read_bytes, ==, 0);
        g_assert_cmpuint(counters->loaded_bytes[FASTLOAD_CLASS_BACKGROUND],
                         ==, 0);
    }
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_swamped_worker_is_helped(const void *opaque)
{
    /* When the first worker has no room for faults, the second takes them. */
    enum { TOUCHER_COUNT = FASTLOAD_URGENT_READ_COUNT_MAX + 4 };
    SimConfig sim_config = { .seed = 1 };
    FastloadConfig config = {
        .worker_count = 2,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    };
    FixtureToucher touchers[TOUCHER_COUNT];
    FaultTest *t;
    int i;

    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_URGENT);
    t = fault_new_config(&sim_ops, config, FIXTURE_ANON, 4 * CHUNK_PAGES,
                         fixture_all_data);
    fault_start(t);
    for (i = 0; i < TOUCHER_COUNT; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, i * 7);
    }
    fixture_wait_until(sim_pending_count() == TOUCHER_COUNT);
    sim_hold(SIM_HOLD_NONE);
    for (i = 0; i < TOUCHER_COUNT; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fastload_set_background_rate(t->fl, 0);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

/* A page that a worker is reading for somebody who waits. */
static uint64_t fault_page_of(FaultTest *t, uint32_t worker_idx)
{
    uint64_t page_idx = UINT64_MAX;
    uint32_t i;

    g_mutex_lock(&t->fl->sched.lock);
    for (i = 0; i < t->fl->urgent_read_count; i++) {
        const FastloadFault *fault =
            &t->fl->workers[worker_idx].reads[i].fault;

        page_idx = fault->area ? fault->page_idx : page_idx;
    }
    g_mutex_unlock(&t->fl->sched.lock);
    g_assert_cmpuint(page_idx, !=, UINT64_MAX);
    return page_idx;
}

static void test_helpers_failure_is_the_firsts(const void *opaque)
{
    /* A read of the second worker fails last; the first one repeats it. */
    enum { TOUCHER_COUNT = FASTLOAD_URGENT_READ_COUNT_MAX + 4 };
    SimConfig sim_config = { .seed = 1 };
    FastloadConfig config = {
        .worker_count = 2,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    };
    FixtureToucher touchers[TOUCHER_COUNT];
    uint64_t bad_off;
    FaultTest *t;
    int i;

    sim_reset(&sim_config);
    sim_hold(SIM_HOLD_URGENT);
    test_clock_stop();
    t = fault_new_config(&sim_ops, config, FIXTURE_ANON, 4 * CHUNK_PAGES,
                         fixture_all_data);
    fault_start(t);
    for (i = 0; i < TOUCHER_COUNT; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, i * 7);
    }
    fixture_wait_until(sim_pending_count() == TOUCHER_COUNT);
    sim_wait_asleep();
    bad_off = fault_file_off(t, fault_page_of(t, 1));
    sim_add_bad(bad_off, PAGE, EIO, FASTLOAD_READ_TRIES_MAX);
    sim_hold_range(bad_off, PAGE);
    sim_hold(SIM_HOLD_NONE);
    fixture_wait_until(sim_pending_count() == 1);
    sim_wait_asleep();
    g_assert_false(sim_step());
    sim_hold_range(0, 0);
    sim_wait_asleep();
    g_assert_cmpuint(sim_failed_count(), ==, FASTLOAD_READ_TRIES_MAX);
    g_assert_true(sim_step()); /* somebody knows when it is due */
    for (i = 0; i < TOUCHER_COUNT; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fastload_set_background_rate(t->fl, 0);
    fault_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

/* ---- the background's rate ---- */

/* Loads it; how long that takes, to the nanosecond. */
static uint64_t fault_run_ns(FaultTest *t)
{
    uint64_t begin_ns = fastload_stats_now_ns();

    fault_start(t);
    fault_run(t);
    g_assert_cmpuint(fault_stats(t).complete_ns, ==,
                     fastload_stats_now_ns() - begin_ns);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    return fastload_stats_now_ns() - begin_ns;
}

/* It took as long as @least_bytes or more, @most_bytes or less, take. */
static void fault_check_rated(uint64_t took_ns, uint64_t least_bytes,
                              uint64_t most_bytes)
{
    const double ns_per_byte = 1e9 / RATE_BYTES_PER_S;

    /* The last read is begun, and comes, before it is paid for. */
    g_assert_cmpfloat(took_ns, >=, (least_bytes - FASTLOAD_REQ_BYTES_MAX) *
                      ns_per_byte);
    g_assert_cmpfloat(took_ns, <=, most_bytes * ns_per_byte);
}

static FaultTest *fault_new_rated(uint32_t worker_count,
                                  FixtureHasData *has_data)
{
    SimConfig sim_config = { .seed = 1 };
    FastloadConfig config = {
        .worker_count = worker_count,
        .background_bytes_per_s = RATE_BYTES_PER_S,
    };

    sim_reset(&sim_config);
    test_clock_stop();
    return fault_new_config(&sim_ops, config, FIXTURE_ANON, 6 * CHUNK_PAGES,
                            has_data);
}

static void test_rate_is_kept(const void *opaque)
{
    /* All workers together read exactly at the rate. */
    static const uint32_t worker_counts[] = { 1, 2, 8 };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(worker_counts); i++) {
        FaultTest *t = fault_new_rated(worker_counts[i], fixture_all_data);

        fault_check_rated(fault_run_ns(t), t->f->len_bytes, t->f->len_bytes);
        g_assert_cmpuint(fault_stats(t).read_bytes, ==, t->f->len_bytes);
        fault_free(t);
    }
}

static void test_zeros_are_not_rated(const void *opaque)
{
    /* A rate is of bytes read: zero pages, trapped ones too, cost nothing. */
    FaultTest *t = fault_new_rated(2, fixture_mixed);
    uint64_t took_ns = fault_run_ns(t);
    uint64_t read_bytes = fault_stats(t).read_bytes;

    g_assert_cmpuint(read_bytes, <, t->f->len_bytes * 3 / 4);
    fault_check_rated(took_ns, read_bytes, read_bytes);
    fault_free(t);
}

static void test_nothing_is_read_ahead(const void *opaque)
{
    /* With FASTLOAD_BACKGROUND_OFF only touched pages are read. */
    FaultTest *t = fault_new_rated(2, fixture_all_data);
    FastloadStats stats;

    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    fault_start(t);
    g_assert_true(fixture_page_is_right(t->f, 700));
    sim_wait_asleep();
    g_assert_false(sim_step()); /* no worker has a limit to its sleep */
    sim_skip(3600 * 1000000000ull);
    sim_wait_asleep();
    stats = fault_stats(t);
    g_assert_cmpuint(stats.read_bytes, ==, PAGE);
    g_assert_cmpuint(stats.remaining_bytes, ==, t->f->len_bytes - PAGE);
    /* And switched on again, everything. */
    fastload_set_background_rate(t->fl, RATE_BYTES_PER_S);
    fault_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_repeated_reads_are_rated(const void *opaque)
{
    /* Storage that fails is not read faster than the rate says. */
    FaultTest *t = fault_new_rated(2, fixture_all_data);
    const uint64_t repeated_count = SIM_BAD_COUNT_MAX *
                                    (FASTLOAD_READ_TRIES_MAX - 1);
    uint64_t i;

    for (i = 0; i < SIM_BAD_COUNT_MAX; i++) {
        /* The first and the second read of these fail, at their end. */
        sim_add_bad(fault_file_off(t, i * CHUNK_PAGES / 2 + 15), PAGE, EIO,
                    FASTLOAD_READ_TRIES_MAX - 1);
    }
    fault_check_rated(fault_run_ns(t), t->f->len_bytes +
                      repeated_count * FASTLOAD_REQ_BYTES_MIN,
                      t->f->len_bytes +
                      repeated_count * FASTLOAD_REQ_BYTES_MAX);
    g_assert_cmpuint(fault_stats(t).retry_count, ==, repeated_count);
    fault_free(t);
}

static void test_slower_rate_forgives(const void *opaque)
{
    /* A slow rate does not pay for what a fast one let through before. */
    g_autoptr(Fastload) fl = fastload_new(0, NULL, NULL);
    const uint64_t slow_bytes_per_s = 1000 * 1000;
    uint64_t now_ns;

    test_clock_stop();
    now_ns = fastload_stats_now_ns();
    fastload_sched_rate_set(fl, now_ns, 1000 * slow_bytes_per_s);
    fastload_sched_rate_charge(fl, 100 * slow_bytes_per_s);
    /* A tenth of a second, at that rate; 100 s at the other one. */
    g_assert_cmpuint(fastload_sched_rate_due_ns(fl) - now_ns, >=,
                     100 * 1000 * 1000);
    fastload_sched_rate_set(fl, now_ns, slow_bytes_per_s);
    /* A burst is two of the smallest reads, no less. */
    g_assert_cmpuint(fastload_sched_rate_due_ns(fl) - now_ns, >,
                     2 * FASTLOAD_REQ_BYTES_MIN * 1000ull);
    g_assert_cmpuint(fastload_sched_rate_due_ns(fl) - now_ns, <,
                     2 * FASTLOAD_REQ_BYTES_MIN * 1000ull + 10 * 1000);
}

/* How many chunks workers have. */
static uint64_t fault_taken_count(FaultTest *t)
{
    const FastloadArea *area = g_ptr_array_index(t->fl->areas, 0);
    uint64_t i, count = 0;

    g_mutex_lock(&t->fl->sched.lock);
    for (i = 0; i < area->chunk_count; i++) {
        count += area->chunk_states[i] == FASTLOAD_CHUNK_TAKEN;
    }
    g_mutex_unlock(&t->fl->sched.lock);
    return count;
}

/* Reads fail, at a rate that allows none for minutes, and heal. */
static void fault_check_healed(uint64_t bytes_per_s, uint32_t worker_count)
{
    SimConfig sim_config = { .seed = 34 };
    FastloadConfig config = { .worker_count = worker_count };
    FastloadFailure failure;
    uint64_t bad_off, count, begin_ns, missing_bytes;
    FaultTest *t;
    int i;

    sim_reset(&sim_config);
    test_clock_stop();
    t = fault_new_config(&sim_ops, config, FIXTURE_ANON, 32 * CHUNK_PAGES,
                         fixture_all_data);
    bad_off = fault_file_off(t, 0);
    sim_add_bad(bad_off, 32 * CHUNK_BYTES, EIO, 0);
    fault_start(t);
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
    fastload_set_background_rate(t->fl, bytes_per_s);
    g_assert_true(fastload_is_failing(t->fl, &failure));

    /* It is tried once a second, and counted. */
    for (i = 0; i < 5; i++) {
        count = fault_stats(t).retry_count;
        begin_ns = fastload_stats_now_ns();
        sim_run_until(fault_stats(t).retry_count > count);
        g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, <=,
                         FASTLOAD_BACKOFF_NS_MAX);
        g_assert_true(fastload_is_failing(t->fl, &failure));
    }
    /* One stretch at a time. */
    sim_hold(SIM_HOLD_BACKGROUND);
    sim_run_until(sim_pending_count());
    sim_skip(FASTLOAD_BACKOFF_NS_MAX);
    sim_wait_asleep();
    g_assert_cmpuint(fault_taken_count(t), ==, 1);
    sim_hold(SIM_HOLD_NONE);
    sim_wait_asleep();

    sim_heal(bad_off);
    begin_ns = fastload_stats_now_ns();
    sim_run_until(!fastload_is_failing(t->fl, &failure));
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, <=,
                     FASTLOAD_BACKOFF_NS_MAX);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_RESUMED);
    /* The rest is left to the rate. */
    sim_wait_asleep();
    missing_bytes = fault_remaining(t);
    g_assert_cmpuint(missing_bytes, >=, 20 * CHUNK_BYTES);
    g_assert_cmpuint(missing_bytes, <, 32 * CHUNK_BYTES);
    sim_skip(FASTLOAD_BACKOFF_NS_MAX);
    sim_wait_asleep();
    g_assert_cmpuint(fault_remaining(t), ==, missing_bytes);
    g_assert_false(fastload_is_failing(t->fl, &failure));
    fastload_set_background_rate(t->fl, 0);
    fault_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_healed_at_a_low_rate(const void *opaque)
{
    /* What failed is tried again, and read, in advance of the rate. */
    fault_check_healed(10 * 1000, 2);
    fault_check_healed(10 * 1000, 1);
}

static void test_healed_without_background(const void *opaque)
{
    /* With FASTLOAD_BACKGROUND_OFF failed chunks are tried again as well. */
    fault_check_healed(FASTLOAD_BACKGROUND_OFF, 2);
}

static void test_failed_chunks_take_turns(const void *opaque)
{
    /* A chunk that stays bad does not keep others from being tried. */
    SimConfig config = { .seed = 52 };
    FastloadFailure failure;
    FaultTest *t;
    int i;

    sim_reset(&config);
    test_clock_stop();
    t = fault_new_sim(fixture_all_data);
    for (i = 0; i < 4; i++) {
        sim_add_bad(fault_file_off(t, i * CHUNK_PAGES), PAGE, EIO, 0);
    }
    fault_start(t);
    fault_run_until_event(t, FASTLOAD_EVENT_STALLED, 1);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    sim_wait_asleep();
    g_assert_cmpuint(fault_remaining(t), ==, 4 * CHUNK_BYTES);
    /* One is tried at a time now, whichever it is: any but the first. */
    for (i = 1; i < 4; i++) {
        sim_heal(fault_file_off(t, i * CHUNK_PAGES));
    }
    for (i = 0; i < 4 && fastload_is_failing(t->fl, &failure); i++) {
        sim_skip(FASTLOAD_BACKOFF_NS_MAX);
        sim_wait_asleep();
    }
    g_assert_false(fastload_is_failing(t->fl, &failure));
    sim_heal(fault_file_off(t, 0));
    fastload_set_background_rate(t->fl, 0);
    fault_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

/* ---- many seeds ---- */

static bool fault_sparse(uint64_t page_idx)
{
    return page_idx * 2654435761u % 7 < 2;
}

/* Gives pages back at random, as a balloon does. */
typedef struct Discarder {
    FaultTest *t;
    uint32_t seed;
    uint64_t *discarded; /* the page was there */
    uint64_t *is_zero;   /* nobody was about to place it once more, either */
    GThread *thread;
} Discarder;

/* No worker has its chunk, or will: all pages of it are there. */
static bool fault_chunk_is_done(FaultTest *t, uint64_t page_idx)
{
    const FastloadArea *area = g_ptr_array_index(t->fl->areas, 0);
    bool is_done;

    g_mutex_lock(&t->fl->sched.lock);
    is_done = area->chunk_states[page_idx / CHUNK_PAGES] ==
              FASTLOAD_CHUNK_DONE ||
              area->chunk_states[page_idx / CHUNK_PAGES] ==
              FASTLOAD_CHUNK_UNTRAPPED;
    g_mutex_unlock(&t->fl->sched.lock);
    return is_done || fastload_is_settled(t->fl);
}

static void *discarder_main(void *opaque)
{
    Discarder *d = opaque;
    const Fixture *f = d->t->f;
    Fastload *fl = d->t->fl;
    g_autoptr(GRand) rand = g_rand_new_with_seed(d->seed);
    uint32_t i;

    for (i = 0; i < DISCARD_COUNT; i++) {
        uint64_t page_idx = g_rand_int_range(rand, 0, fixture_page_count(f));
        uint64_t *page = fixture_page(f, page_idx);

        /* Not before it is there: it would come later, and rightly so. */
        (void)*(volatile uint64_t *)page;
        fixture_wait_until(fastload_is_loaded(fl, page, PAGE) ||
                           fastload_is_settled(fl));
        if (i > DISCARD_COUNT / 2) {
            fixture_wait_until(fault_chunk_is_done(d->t, page_idx));
            fastload_bit_test_and_set(d->is_zero, page_idx);
        }
        fastload_bit_test_and_set(d->discarded, page_idx);
        g_assert_cmpint(madvise(page, PAGE, MADV_DONTNEED), ==, 0);
    }
    return NULL;
}

/*
 * Touchers, workers, a balloon, somebody who recovers and somebody who cancels
 * meet, on a backend that may break.  What was given back is zero, but while
 * its chunk was being placed; the rest is right, or zero after a cancel.
 * Returns how many pages were loaded.
 */
static uint64_t fault_random_meeting(uint32_t seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    SimConfig config = {
        .seed = seed,
        .eio_permille = g_rand_int_range(rand, 0, 4) * 50,
        .delay_turns_max = g_rand_int_range(rand, 0, 10),
        .break_permille = g_rand_boolean(rand) ? 20 : 0,
    };
    FastloadConfig load_config = {
        .worker_count = g_rand_int_range(rand, 1, 9),
    };
    uint64_t page_count = g_rand_int_range(rand, 1, 4 * CHUNK_PAGES);
    g_autofree uint64_t *discarded = g_new0(uint64_t,
                                            FASTLOAD_BIT_WORDS(page_count));
    g_autofree uint64_t *is_zero = g_new0(uint64_t,
                                          FASTLOAD_BIT_WORDS(page_count));
    bool is_cancelled = g_rand_int_range(rand, 0, 3) == 0;
    Discarder discarder = {
        .seed = seed, .discarded = discarded, .is_zero = is_zero,
    };
    FixtureToucher touchers[3];
    uint64_t loaded_count, i;
    FaultTest *t;

    sim_reset(&config);
    t = fault_new_config(&sim_ops, load_config,
                         g_rand_boolean(rand) ? FIXTURE_ANON : FIXTURE_THP,
                         page_count, fixture_mixed);
    fault_start(t);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        fixture_toucher_start(&touchers[i], t->f, seed + i, 200);
    }
    discarder.t = t;
    discarder.thread = g_thread_new("discarder", discarder_main, &discarder);
    for (i = g_rand_int_range(rand, 0, 20); i; i--) {
        g_assert_true(fastload_recover(t->fl, -1, NULL));
        g_usleep(g_rand_int_range(rand, 0, 300));
    }
    if (is_cancelled) {
        fastload_cancel(t->fl);
    }
    g_thread_join(discarder.thread);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        fixture_toucher_join(&touchers[i]);
    }
    is_cancelled = !fastload_wait(t->fl, NULL);
    for (i = 0; i < page_count; i++) {
        bool may_be_zero = is_cancelled || fastload_bit_test(discarded, i);

        g_assert_true((may_be_zero && fault_page_is_zero(t->f, i)) ||
                      (!fastload_bit_test(is_zero, i) &&
                       fixture_page_is_right(t->f, i)));
    }
    loaded_count = t->f->data_bytes / PAGE;
    fault_free(t);
    return loaded_count;
}

/* Returns how many pages were loaded. */
static uint64_t fault_random_load(uint32_t seed)
{
    static FixtureHasData *const contents[] = {
        fixture_mixed, fixture_all_data, fault_sparse, fault_even_pages,
    };
    static const FixtureMemory memories[] = {
        FIXTURE_ANON, FIXTURE_SHARED, FIXTURE_THP, FIXTURE_THP,
    };
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    SimConfig config = {
        .seed = seed,
        .eio_permille = g_rand_int_range(rand, 0, 4) * 25,
        .eagain_permille = g_rand_int_range(rand, 0, 3) * 25,
        .delay_turns_max = g_rand_int_range(rand, 0, 30),
    };
    uint32_t toucher_count = g_rand_int_range(rand, 0, 4);
    uint64_t page_count = g_rand_int_range(rand, 1, 4 * CHUNK_PAGES);
    FastloadConfig load_config = {
        .worker_count = g_rand_int_range(rand, 1, 9),
        .placed_func = fixture_placed_func,
        .background_bytes_per_s = g_rand_int_range(rand, 0, 3) == 0
            ? g_rand_int_range(rand, 50 * 1000 * 1000, 1000 * 1000 * 1000)
            : 0,
    };
    FixtureToucher touchers[3];
    uint64_t loaded_count;
    FaultTest *t;
    uint32_t i;

    sim_reset(&config);
    t = fault_new_config(&sim_ops, load_config,
                         memories[g_rand_int_range(rand, 0, 4)],
                         page_count, contents[g_rand_int_range(rand, 0, 4)]);
    if (g_rand_int_range(rand, 0, 3) == 0) {
        sim_add_bad(fault_file_off(t, g_rand_int_range(rand, 0, page_count)),
                    PAGE, EIO, g_rand_int_range(rand, 1, 12));
    }
    fault_start(t);
    for (i = 0; i < toucher_count; i++) {
        fixture_toucher_start(&touchers[i], t->f, seed + i, 50);
    }
    for (i = 0; i < toucher_count; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fault_wait(t);
    fault_check_placed(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    t->fl = NULL;
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_STALLED), ==,
                     fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_RESUMED));
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_COMPLETED), ==, 1);
    loaded_count = t->f->data_bytes / PAGE;
    fault_free(t);
    return loaded_count;
}

static void test_broken_backend_is_left(const void *opaque)
{
    /* Late writes of a broken backend never reach memory that is in use. */
    static const FixtureMemory memories[] = {
        FIXTURE_ANON, FIXTURE_SHARED, FIXTURE_THP,
    };
    SimConfig config = { .delay_turns_max = 5 };
    FixtureToucher touchers[3];
    unsigned char present;
    FastloadStats stats;
    uint8_t *staging;
    FaultTest *t;
    guint i;

    for (config.seed = 0; config.seed < 16; config.seed++) {
        config.break_turn = 1 + config.seed * 3;
        sim_reset(&config);
        t = fault_new(&sim_ops, FASTLOAD_IO_AUTO, memories[config.seed % 3],
                      16 * CHUNK_PAGES, 1 + config.seed % 4,
                      fixture_all_data);
        fault_start(t);
        for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
            fixture_toucher_start(&touchers[i], t->f, config.seed + i, 100);
        }
        for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
            g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
        }
        fault_wait(t);
        stats = fault_stats(t);
        g_assert_cmpuint(sim_broken_count(), >, 0);
        g_assert_cmpstr(stats.io_name, ==, "preadv");
        staging = t->fl->workers[0].staging;
        fastload_free(t->fl);
        t->fl = NULL;
        /* Nobody else may get these addresses. */
        g_assert_cmpint(mincore(staging, PAGE, &present), ==, 0);
        sim_wait_late();
        g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
        fault_free(t);
    }
}

static void test_faults_of_a_broken_ring(const void *opaque)
{
    /* A fault whose message a ring has read when it breaks is not lost. */
    SimConfig sim_config = { .break_turn = 1, .breaks_with_fault = true };
    FastloadConfig config = {
        .worker_count = 1,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    };
    FixtureToucher touchers[2];
    FaultTest *t;
    int i;

    sim_reset(&sim_config);
    t = fault_new_config(&sim_ops, config, FIXTURE_ANON, CHUNK_PAGES,
                         fixture_all_data);
    fault_start(t);
    fixture_toucher_start_page(&touchers[0], t->f, 0);
    fixture_wait_until(sim_pending_urgent_count());
    fixture_toucher_start_page(&touchers[1], t->f, 1);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    g_assert_cmpuint(sim_broken_count(), ==, 1);
    fastload_set_background_rate(t->fl, 0);
    fault_wait(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fault_free(t);
}

static void test_many_seeds(const void *opaque)
{
    /* Random loads from random storage end with the right memory. */
    fixture_run_seeds(fault_random_load, SEED_COUNT);
}

static void test_many_meetings(const void *opaque)
{
    /* Touchers, workers, a balloon, recover and cancel may meet at any time. */
    fixture_run_seeds(fault_random_meeting, SEED_COUNT);
}

static void add_test(const char *behaviour, GTestDataFunc func)
{
    g_autofree char *path = g_strdup_printf("/fastload/fault/%s", behaviour);

    fixture_add_test(path, FIXTURE_NEEDS_UFFD, func, NULL);
}

static void add_backend_test(const Backend *b, const char *behaviour,
                             GTestDataFunc func)
{
    g_autofree char *path = g_strdup_printf("/fastload/fault/%s/%s", b->name,
                                            behaviour);
    uint32_t needs = FIXTURE_NEEDS_UFFD;

    if (b->io_kind == FASTLOAD_IO_IO_URING) {
        needs |= FIXTURE_NEEDS_URING;
    }
    fixture_add_test(path, needs, func, b);
}

int main(int argc, char **argv)
{
    uint32_t i;

    fixture_init(&argc, &argv);
    add_test("late-and-out-of-order", test_late_and_out_of_order);
    add_test("transient-errors-are-retried",
             test_transient_errors_are_retried);
    add_test("one-bad-read-is-silent", test_one_bad_read_is_silent);
    add_test("no-memory-is-no-failure", test_no_memory_is_no_failure);
    add_test("memory-not-pinned-is-no-failure",
             test_memory_not_pinned_is_no_failure);
    add_test("claim-is-given-up", test_claim_is_given_up);
    add_test("oldest-fault-of-a-read-that-hangs",
             test_oldest_fault_of_a_read_that_hangs);
    add_test("oldest-fault-of-reads-that-fail",
             test_oldest_fault_of_reads_that_fail);
    add_test("oldest-fault-of-a-cancelled-load",
             test_oldest_fault_of_a_cancelled_load);
    add_test("bad-range-stalls-and-heals", test_bad_range_stalls_and_heals);
    add_test("hiccup-does-not-stall", test_hiccup_does_not_stall);
    add_test("blocked-toucher-goes-on-when-healed",
             test_blocked_toucher_goes_on_when_healed);
    add_test("retries-back-off", test_retries_back_off);
    add_test("recovery-is-at-once", test_recovery_is_at_once);
    add_test("failed-faults-are-known", test_failed_faults_are_known);
    add_test("nothing-fails-when-complete", test_nothing_fails_when_complete);
    add_test("resumed-while-another-fails", test_resumed_while_another_fails);
    add_test("stalls-again", test_stalls_again);
    for (i = 0; i < G_N_ELEMENTS(fault_backends); i++) {
        add_backend_test(&fault_backends[i], "truncated-file-stalls",
                         test_truncated_file_stalls);
        add_backend_test(&fault_backends[i],
                         "file-truncated-in-a-page-stalls",
                         test_file_truncated_in_a_page_stalls);
    }
    add_test("faults-are-counted", test_faults_are_counted);
    add_test("adjacent-regions-are-told-apart",
             test_adjacent_regions_are_told_apart);
    add_test("is-loaded-by-the-byte", test_is_loaded_by_the_byte);
    add_test("discarded-page-is-zero", test_discarded_page_is_zero);
    add_test("reads-have-their-turn", test_reads_have_their_turn);
    add_test("faults-of-a-broken-ring", test_faults_of_a_broken_ring);
    add_test("a-thread-that-hangs-is-known",
             test_a_thread_that_hangs_is_known);
    add_test("a-thread-that-hangs-after-sleeping-is-known",
             test_a_thread_that_hangs_after_sleeping_is_known);
    add_test("wake-without-the-lock", test_wake_without_the_lock);
    add_test("more-faults-than-room", test_more_faults_than_room);
    add_test("cancel-releases-waiters", test_cancel_releases_waiters);
    add_test("cancel-waits-for-reads", test_cancel_waits_for_reads);
    add_test("cancel-leaves-reads-behind", test_cancel_leaves_reads_behind);
    add_test("completion-leaves-reads-behind",
             test_completion_leaves_reads_behind);
    add_test("settling-leaves-a-stuck-thread",
             test_settling_leaves_a_stuck_thread);
    add_test("recovery-meets-reads", test_recovery_meets_reads);
    add_test("cancel-anywhere", test_cancel_anywhere);
    add_test("cancel-after-completion", test_cancel_after_completion);
    add_test("cancel-before-start", test_cancel_before_start);
    add_test("cancel-from-the-callback", test_cancel_from_the_callback);
    add_test("dropped-region-is-not-missing",
             test_dropped_region_is_not_missing);
    add_test("settled-is-known", test_settled_is_known);
    add_test("free-at-any-time", test_free_at_any_time);
    add_test("bad-regions-are-refused", test_bad_regions_are_refused);
    add_test("touching-regions-do-not-overlap",
             test_touching_regions_do_not_overlap);
    add_test("bad-configurations-are-refused",
             test_bad_configurations_are_refused);
    add_test("backend-that-does-not-open", test_backend_that_does_not_open);
    add_test("first-has-the-only-ring", test_first_has_the_only_ring);
    add_test("first-has-no-ring", test_first_has_no_ring);
    add_test("unreadable-eager-region", test_unreadable_eager_region);
    add_test("memory-that-is-not-there", test_memory_that_is_not_there);
    add_test("far-fault-brings-neighbours", test_far_fault_brings_neighbours);
    add_test("near-fault-brings-its-page", test_near_fault_brings_its_page);
    add_test("far-faults-beside-zeros", test_far_faults_beside_zeros);
    add_test("wanted-pages-come", test_wanted_pages_come);
    add_test("wanted-is-told-when-placed", test_wanted_is_told_when_placed);
    add_test("wanted-outside-is-there", test_wanted_outside_is_there);
    add_test("wanted-beyond-room-is-busy", test_wanted_beyond_room_is_busy);
    add_test("faults-around-share-a-read", test_faults_around_share_a_read);
    add_test("far-fault-beside-a-bad-page", test_far_fault_beside_a_bad_page);
    add_test("bad-pages-are-left-to-the-back-off",
             test_bad_pages_are_left_to_the_back_off);
    add_test("good-page-beside-a-bad-one-is-at-once",
             test_good_page_beside_a_bad_one_is_at_once);
    add_test("good-page-beside-a-bad-one-heals-nothing",
             test_good_page_beside_a_bad_one_heals_nothing);
    add_test("fault-in-a-chunk-in-flight", test_fault_in_a_chunk_in_flight);
    add_test("one-worker-stays-free", test_one_worker_stays_free);
    add_test("one-worker-is-woken", test_one_worker_is_woken);
    add_test("who-may-not-read-sleeps", test_who_may_not_read_sleeps);
    add_test("surplus-workers-wait", test_surplus_workers_wait);
    add_test("swamped-worker-is-helped", test_swamped_worker_is_helped);
    add_test("helpers-failure-is-the-firsts",
             test_helpers_failure_is_the_firsts);
    add_test("small-reads-are-limited", test_small_reads_are_limited);
    add_test("move-wakes-who-waits", test_move_wakes_who_waits);
    add_test("unknown-page-in-a-chunk", test_unknown_page_in_a_chunk);
    add_test("rate-is-kept", test_rate_is_kept);
    add_test("zeros-are-not-rated", test_zeros_are_not_rated);
    add_test("nothing-is-read-ahead", test_nothing_is_read_ahead);
    add_test("slower-rate-forgives", test_slower_rate_forgives);
    add_test("repeated-reads-are-rated", test_repeated_reads_are_rated);
    add_test("healed-at-a-low-rate", test_healed_at_a_low_rate);
    add_test("failed-chunks-take-turns", test_failed_chunks_take_turns);
    add_test("healed-without-background", test_healed_without_background);
    add_test("broken-backend-is-left", test_broken_backend_is_left);
    add_test("many-seeds", test_many_seeds);
    add_test("many-meetings", test_many_meetings);
    return g_test_run();
}
