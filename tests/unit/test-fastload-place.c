/*
 * A thread that waits for a page goes on, however the page came or went.
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
/* Random drops, where the environment does not say how long. */
#define DROP_COUNT 25
#define REGION_PAGES (4 * CHUNK_PAGES)

typedef struct PlaceTest {
    Fixture *f;
    Fastload *fl;
    FixtureEvents events;
    uint32_t told_count; /* atomic: of faults */
} PlaceTest;

static void place_fault_func(void *hva, uint32_t tid, void *opaque)
{
    PlaceTest *t = opaque;

    __atomic_add_fetch(&t->told_count, 1, __ATOMIC_RELAXED);
}

static uint32_t place_told_count(PlaceTest *t)
{
    return __atomic_load_n(&t->told_count, __ATOMIC_RELAXED);
}

/* Not started; NULL: no such memory here.  @ops NULL: preadv. */
static PlaceTest *place_new(const FastloadIoOps *ops, FixtureMemory memory,
                            uint64_t bytes_per_s)
{
    PlaceTest *t = g_new0(PlaceTest, 1);
    FastloadConfig config = {
        .worker_count = 2,
        .io_kind = ops ? FASTLOAD_IO_AUTO : FASTLOAD_IO_PREADV,
        .event_func = fixture_events_func,
        .event_opaque = &t->events,
        .fault_func = place_fault_func,
        .fault_opaque = t,
        .background_bytes_per_s = bytes_per_s,
    };
    FastloadRegion region;

    t->f = fixture_new(memory, REGION_PAGES, fixture_all_data);
    if (!t->f) {
        g_free(t);
        return NULL;
    }
    fixture_events_init(&t->events);
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
    /* A page given back waits until there is memory for its zeros. */
    FastloadFailure failure;
    FixtureToucher toucher;
    uint64_t begin_ns;
    PlaceTest *t;

    test_clock_stop();
    t = place_new_sim(FIXTURE_ANON, SIM_HOLD_BACKGROUND);
    place_and_discard(t, 100);
    gate_refuse(UFFDIO_ZEROPAGE, ENOMEM);
    begin_ns = fastload_stats_now_ns();
    fixture_toucher_start_page(&toucher, t->f, 100);
    fixture_wait_until(place_told_count(t) == 2);
    /* It is tried again and again, and known that somebody waits. */
    sim_run_until(gate_refused_count() >= 6);
    g_assert_cmpuint(fastload_stats_now_ns(), >, begin_ns);
    g_assert_cmpuint(place_stats(t).oldest_fault_ns, ==,
                     fastload_stats_now_ns() - begin_ns);
    g_assert_true(fastload_is_failing(t->fl, &failure));
    g_assert_cmpint(failure.kind, ==, FASTLOAD_FAILURE_PLACE);
    g_assert_cmpint(failure.error_number, ==, ENOMEM);
    sim_run_until(fixture_events_count(&t->events, FASTLOAD_EVENT_STALLED));
    g_assert_false(fixture_toucher_is_done(&toucher));

    gate_refuse(UFFDIO_ZEROPAGE, 0);
    sim_run_until(fixture_events_count(&t->events, FASTLOAD_EVENT_RESUMED));
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    g_assert_cmpuint(place_stats(t).oldest_fault_ns, ==, 0);
    g_assert_false(fastload_is_failing(t->fl, &failure));
    test_clock_go();
    place_finish(t);
    g_assert_cmpuint(fixture_page(t->f, 100)[0], ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    place_free(t);
}

static void test_two_threads_wait_for_memory(const void *opaque)
{
    /*
     * Zeros that cannot be placed fail for each thread that touches the page,
     * and the page waits once.  A vCPU that is interrupted touches it again.
     */
    FixtureToucher touchers[3];
    PlaceTest *t;
    uint32_t i;

    test_clock_stop();
    t = place_new_sim(FIXTURE_ANON, SIM_HOLD_BACKGROUND);
    place_and_discard(t, 100);
    gate_refuse(UFFDIO_ZEROPAGE, ENOMEM);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 100);
        sim_run_until(place_told_count(t) == 2 + i &&
                      gate_refused_count() >= 3 * (i + 1));
    }
    gate_refuse(UFFDIO_ZEROPAGE, 0);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        sim_run_until(fixture_toucher_is_done(&touchers[i]));
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 1);
    }
    g_assert_cmpuint(place_stats(t).oldest_fault_ns, ==, 0);
    test_clock_go();
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    place_free(t);
}

static void test_retry_meets_another_failure(const void *opaque)
{
    /* While zeros are tried again, they may fail for another thread as well. */
    PlaceTest *t = place_new(NULL, FIXTURE_ANON, FASTLOAD_BACKGROUND_OFF);
    FixtureToucher touchers[2];
    uint32_t failed_count;

    place_start(t); /* with preadv both workers mind faults */
    place_and_discard(t, 100);
    gate_refuse(UFFDIO_ZEROPAGE, ENOMEM);
    fixture_toucher_start_page(&touchers[0], t->f, 100);
    fixture_wait_until(gate_refused_count());
    gate_hold(UFFDIO_ZEROPAGE, GATE_BEFORE);
    gate_wait_held();
    failed_count = gate_refused_count();
    fixture_toucher_start_page(&touchers[1], t->f, 100);
    fixture_wait_until(gate_refused_count() > failed_count);
    gate_open();
    fixture_wait_until(gate_refused_count() > failed_count + 2);
    gate_refuse(UFFDIO_ZEROPAGE, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 1); /* zeros */
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 1);
    fixture_wait_until(!place_stats(t).oldest_fault_ns);
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    place_free(t);
}

static void test_data_waits_for_memory(const void *opaque)
{
    /* Without memory for its pages, data is read again until there is some. */
    static const FastloadEvent want[] = {
        FASTLOAD_EVENT_STALLED, FASTLOAD_EVENT_RESUMED,
        FASTLOAD_EVENT_COMPLETED,
    };
    FastloadFailure failure;
    FixtureToucher toucher;
    PlaceTest *t;
    guint i;

    test_clock_stop();
    gate_refuse(UFFDIO_COPY, ENOMEM);
    t = place_new_sim(FIXTURE_ANON, SIM_HOLD_NONE);
    fixture_toucher_start_page(&toucher, t->f, 100);
    fixture_wait_until(place_told_count(t) == 1);
    sim_run_until(fixture_events_count(&t->events, FASTLOAD_EVENT_STALLED));
    g_assert_true(fastload_is_failing(t->fl, &failure));
    g_assert_cmpint(failure.kind, ==, FASTLOAD_FAILURE_PLACE);
    g_assert_cmpint(failure.error_number, ==, ENOMEM);
    g_assert_cmpuint(place_stats(t).remaining_bytes, ==, t->f->len_bytes);
    g_assert_cmpuint(place_stats(t).io_error_count, ==, 0);
    g_assert_false(fixture_toucher_is_done(&toucher));

    gate_refuse(UFFDIO_COPY, 0);
    sim_run_until(!place_stats(t).remaining_bytes);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_settle(t->fl);
    for (i = 0; i < G_N_ELEMENTS(want); i++) {
        g_assert_cmpint(t->events.events[i], ==, want[i]);
    }
    place_free(t);
}

static void test_kernel_stops_half_way(const void *opaque)
{
    /* What the kernel has placed before it stops is not placed again. */
    PlaceTest *t;

    test_clock_stop();
    gate_shorten(UFFDIO_COPY, PAGE);
    gate_hold(UFFDIO_COPY, GATE_AFTER);
    t = place_new_sim(FIXTURE_ANON, SIM_HOLD_NONE);
    gate_wait_held();
    gate_refuse(UFFDIO_COPY, ENOMEM);
    gate_open();
    sim_run_until(gate_refused_count());
    sim_wait_asleep();
    /* One page of all. */
    g_assert_cmpuint(place_stats(t).remaining_bytes, ==,
                     t->f->len_bytes - PAGE);
    gate_refuse(UFFDIO_COPY, 0);
    sim_run_until(!place_stats(t).remaining_bytes);
    gate_shorten(UFFDIO_COPY, 0);
    place_finish(t);
    g_assert_cmpuint(place_stats(t).loaded_bytes[FASTLOAD_CLASS_BACKGROUND],
                     ==, t->f->len_bytes);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    place_free(t);
}

static void test_again_is_no_failure(const void *opaque)
{
    /* EAGAIN while the address space changes is tried again. */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_BACKGROUND);
    FastloadFailure failure;
    FixtureToucher toucher;

    gate_refuse(UFFDIO_COPY, EAGAIN);
    fixture_toucher_start_page(&toucher, t->f, 100);
    fixture_wait_until(gate_refused_count() >= 100);
    g_assert_false(fastload_is_failing(t->fl, &failure));
    gate_refuse(UFFDIO_COPY, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    place_finish(t);
    g_assert_cmpuint(place_stats(t).retry_count, ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    place_free(t);
}

static void test_again_has_a_bound(const void *opaque)
{
    /* EAGAIN without end is a failure, with few tries. */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_BACKGROUND);
    FastloadFailure failure;
    FixtureToucher toucher;

    gate_refuse(UFFDIO_COPY, EAGAIN);
    fixture_toucher_start_page(&toucher, t->f, 100);
    fixture_wait_until(fastload_is_failing(t->fl, &failure));
    g_assert_cmpint(failure.kind, ==, FASTLOAD_FAILURE_PLACE);
    g_assert_cmpint(failure.error_number, ==, EAGAIN);
    /* Once and again: the first failure, and what came of it by now. */
    g_assert_cmpuint(gate_refused_count(), <, 100 * 1000);
    gate_refuse(UFFDIO_COPY, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    place_free(t);
}

/* A page of hugetlb for nobody's use, or NULL: there is none. */
static void *place_take_huge_page(void)
{
    void *map = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
                     MAP_NORESERVE, -1, 0);

    g_assert_true(map != MAP_FAILED);
    if (madvise(map, CHUNK_BYTES, MADV_POPULATE_WRITE) < 0) {
        munmap(map, CHUNK_BYTES);
        return NULL;
    }
    return map;
}

static void test_discarded_huge_page_waits_for_one(const void *opaque)
{
    /* A page of hugetlb given back waits for a free one (EEXIST). */
    g_autoptr(GPtrArray) taken = g_ptr_array_new();
    FastloadFailure failure;
    FixtureToucher toucher;
    bool is_failing;
    PlaceTest *t;
    void *map;
    guint i;

    sim_reset(&(SimConfig) { .seed = 41 });
    sim_hold(SIM_HOLD_BACKGROUND);
    t = place_new(&sim_ops, FIXTURE_HUGETLB, 0);
    if (!t) {
        return;
    }
    place_start(t);
    g_assert_true(fixture_page_is_right(t->f, 1));
    fixture_wait_until(place_stats(t).remaining_bytes ==
                       t->f->len_bytes - CHUNK_BYTES);
    g_assert_cmpint(madvise(t->f->hva, CHUNK_BYTES, MADV_DONTNEED), ==, 0);
    while ((map = place_take_huge_page())) {
        g_ptr_array_add(taken, map);
    }
    fixture_toucher_start_page(&toucher, t->f, 1);
    fixture_wait_until((is_failing = fastload_is_failing(t->fl, &failure)) ||
                       fixture_toucher_is_done(&toucher));
    if (is_failing) {
        g_assert_cmpint(failure.kind, ==, FASTLOAD_FAILURE_PLACE);
        g_assert_cmpint(failure.error_number, ==, ENOMEM);
        g_assert_cmpuint(place_told_count(t), <=, 2);
    } else {
        g_test_skip("another process gave back a page of hugetlb");
    }
    for (i = 0; i < taken->len; i++) {
        munmap(g_ptr_array_index(taken, i), CHUNK_BYTES);
    }
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, CHUNK_PAGES);
    place_free(t);
}

/* ---- pages that come and go ---- */

static void test_claimed_page_given_back(const void *opaque)
{
    /*
     * A thread is not lost whose page is given back before it counts.  A page
     * is there and does not count yet; it is given back and touched.  The fault
     * is dropped, because a read of the page seems to be on its way.
     */
    PlaceTest *t = place_new(NULL, FIXTURE_ANON, FASTLOAD_BACKGROUND_OFF);
    FixtureToucher touchers[3];

    place_start(t); /* with preadv both workers mind faults */
    gate_hold(UFFDIO_COPY, GATE_AFTER);
    fixture_toucher_start_page(&touchers[0], t->f, 100);
    gate_wait_held();
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    place_discard(t, 100);
    fixture_toucher_start_page(&touchers[1], t->f, 100);
    fixture_wait_until(place_told_count(t) == 2);
    /* The other worker answers one fault after the other. */
    fixture_toucher_start_page(&touchers[2], t->f, 200);
    g_assert_cmpuint(fixture_toucher_join(&touchers[2]), ==, 0);
    gate_open();
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 1); /* zeros */
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    place_free(t);
}

static uint32_t place_queued_count(PlaceTest *t)
{
    return FASTLOAD_FAULT_COUNT_MAX - fastload_sched_fault_room(t->fl);
}

static void test_queued_page_given_back(const void *opaque)
{
    /* A thread is not lost whose page comes and goes while it is queued. */
    FixtureToucher touchers[FASTLOAD_URGENT_READ_COUNT_MAX + 2];
    uint32_t last = G_N_ELEMENTS(touchers) - 1, i;
    const FastloadArea *area;
    uint64_t bad_off, page = 0;
    PlaceTest *t;

    /* The first worker places nothing: there are faults all the time. */
    test_clock_stop();
    t = place_new_sim(FIXTURE_ANON, SIM_HOLD_ALL);
    area = g_ptr_array_index(t->fl->areas, 0);
    bad_off = t->f->file_off + t->f->len_bytes - PAGE;
    sim_add_bad(bad_off, PAGE, EIO, 0); /* the last chunk does not come */
    gate_hold(UFFDIO_COPY, GATE_AFTER);
    sim_hold(SIM_HOLD_URGENT);
    gate_wait_held();
    while (!fixture_page_is_resident(t->f, page)) {
        page += CHUNK_PAGES; /* reads come back out of order */
    }
    /* It is there.  One fault more than there is room for, then its own. */
    for (i = 0; i < last; i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 3 * CHUNK_PAGES + i);
    }
    fixture_wait_until(place_told_count(t) == last);
    place_discard(t, page);
    fixture_toucher_start_page(&touchers[last], t->f, page);
    fixture_wait_until(place_queued_count(t) == 2);
    gate_open();
    fixture_wait_until(fastload_bit_test(area->placed, page));
    sim_hold(SIM_HOLD_NONE);
    g_assert_cmpuint(fixture_toucher_join(&touchers[last]), ==, 1);
    for (i = 0; i < last; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    sim_heal(bad_off);
    test_clock_go();
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    place_free(t);
}

static void test_late_read_of_a_page_given_back(const void *opaque)
{
    /* A late urgent read of a page given back places nothing. */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_ALL);
    FixtureToucher toucher;

    fixture_toucher_start_page(&toucher, t->f, 100);
    fixture_wait_until(place_stats(t).oldest_fault_ns);
    fixture_wait_until(sim_pending_count() >= 2);
    sim_hold(SIM_HOLD_URGENT);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fixture_wait_until(!place_stats(t).remaining_bytes);
    place_discard(t, 100);
    place_finish(t);
    g_assert_cmpuint(fixture_page(t->f, 100)[0], ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    place_free(t);
}

static void test_data_only_where_none_was(const void *opaque)
{
    /* Data is not placed again where a page was given back. */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_BACKGROUND);
    g_autofree uint64_t *buf = g_malloc(3 * PAGE);
    FastloadArea *area = g_ptr_array_index(t->fl->areas, 0);
    FixtureToucher toucher;
    uint64_t p, w;

    for (p = 0; p < 3; p++) {
        for (w = 0; w < PAGE / sizeof(*buf); w++) {
            buf[p * PAGE / sizeof(*buf) + w] = fixture_word(t->f, 100 + p, w);
        }
    }
    place_and_discard(t, 101);
    sim_wait_asleep(); /* none of them uses its counters just now */
    g_assert_cmpint(fastload_place_data(&t->fl->workers[0], area, 100 * PAGE,
                                        (uint8_t *)buf, 3 * PAGE,
                                        FASTLOAD_CLASS_URGENT), ==, 0);
    g_assert_true(fixture_page_is_resident(t->f, 100));
    g_assert_false(fixture_page_is_resident(t->f, 101));
    g_assert_true(fixture_page_is_resident(t->f, 102));
    fixture_toucher_start_page(&toucher, t->f, 101);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    place_finish(t);
    g_assert_cmpuint(fixture_page(t->f, 101)[0], ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    place_free(t);
}

static void test_page_from_elsewhere(const void *opaque)
{
    /* A page that another mapping fills during its read is no error. */
    PlaceTest *t = place_new_sim(FIXTURE_SHARED, SIM_HOLD_ALL);
    uint64_t map_off = t->f->hva + 100 * PAGE - t->f->map;
    FixtureToucher toucher;
    uint64_t *page, w;

    fixture_toucher_start_page(&toucher, t->f, 100);
    fixture_wait_until(place_stats(t).oldest_fault_ns);
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
                t->f->memory_fd, map_off);
    g_assert_true(page != MAP_FAILED);
    for (w = 0; w < PAGE / sizeof(*page); w++) {
        page[w] = fixture_word(t->f, 100, w);
    }
    sim_hold(SIM_HOLD_BACKGROUND);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    munmap(page, PAGE);
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    place_free(t);
}

/* A thread that touches a page in a system call, which says so if it goes. */
typedef struct PlaceCaller {
    const uint64_t *page;
    int pipe_fds[2];
    int error_number;
} PlaceCaller;

static void *place_caller_main(void *opaque)
{
    PlaceCaller *c = opaque;

    c->error_number = write(c->pipe_fds[1], c->page, 8) < 0 ? errno : 0;
    return NULL;
}

static void test_page_that_is_unmapped(const void *opaque)
{
    /* Memory that is unmapped while it is read wakes the threads that wait. */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_ALL);
    PlaceCaller caller = { .page = fixture_page(t->f, REGION_PAGES - 1) };
    GThread *thread;

    g_assert_cmpint(pipe(caller.pipe_fds), ==, 0);
    thread = g_thread_new("caller", place_caller_main, &caller);
    fixture_wait_until(place_stats(t).oldest_fault_ns);
    g_assert_cmpint(munmap(fixture_page(t->f, REGION_PAGES - 1), PAGE), ==,
                    0);
    sim_hold(SIM_HOLD_BACKGROUND);
    g_thread_join(thread);
    g_assert_cmpint(caller.error_number, ==, EFAULT);
    place_finish(t);
    close(caller.pipe_fds[0]);
    close(caller.pipe_fds[1]);
    place_free(t);
}

/* ---- memory that becomes another's ---- */

/*
 * New memory where the region was, trapped by somebody else: the kernel lets
 * every userfaultfd place pages there.  Returns the one that traps it.
 */
static int place_trap_anew(PlaceTest *t)
{
    bool has_move, has_zeropage;
    FastloadUffdRefusal refusal;
    int uffd;

    g_assert_true(mmap(t->f->hva, t->f->len_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                  t->f->hva);
    g_assert_true(fastload_uffd_open(&uffd, &has_move, &refusal));
    g_assert_cmpint(fastload_uffd_register(uffd, t->f->hva, t->f->len_bytes,
                                           &has_zeropage), ==, 0);
    return uffd;
}

/* Nobody has placed anything there; it is given up. */
static void place_check_untouched(PlaceTest *t, int uffd)
{
    uint64_t i;

    for (i = 0; i < fixture_page_count(t->f); i++) {
        g_assert_false(fixture_page_is_resident(t->f, i));
    }
    close(uffd);
}

/* Reads the first page and writes to the second one. */
static void *place_read_and_write(void *opaque)
{
    volatile uint8_t *hva = opaque;

    (void)hva[0];
    hva[FASTLOAD_PAGE_BYTES_MIN] = 1;
    return GUINT_TO_POINTER((guint)gettid());
}

static void test_faults_tell_who_and_how(const void *opaque)
{
    /* A fault tells the thread, and whether it writes. */
    const uint64_t len_bytes = 2 * FASTLOAD_PAGE_BYTES_MIN;
    FastloadUffdFault faults[2];
    bool has_move, has_zeropage;
    FastloadUffdRefusal refusal;
    uint64_t done_bytes;
    GThread *thread;
    uint8_t *hva;
    guint tid;
    int uffd, i;

    hva = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(hva != MAP_FAILED);
    g_assert_true(fastload_uffd_open(&uffd, &has_move, &refusal));
    g_assert_cmpint(fastload_uffd_register(uffd, hva, len_bytes,
                                           &has_zeropage), ==, 0);
    thread = g_thread_new("toucher", place_read_and_write, hva);
    for (i = 0; i < 2; i++) {
        fixture_wait_until(fastload_uffd_read(uffd, &faults[i], 1) == 1);
        g_assert_cmpint(fastload_uffd_zero(
                            uffd, hva + i * FASTLOAD_PAGE_BYTES_MIN,
                            FASTLOAD_PAGE_BYTES_MIN, &done_bytes), ==, 0);
    }
    tid = GPOINTER_TO_UINT(g_thread_join(thread));
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(faults[i].hva, ==,
                         (uintptr_t)hva + i * FASTLOAD_PAGE_BYTES_MIN);
        g_assert_cmpuint(faults[i].tid, ==, tid);
        g_assert_cmpint(faults[i].is_write, ==, i == 1);
    }
    close(uffd);
    munmap(hva, len_bytes);
}

/* A region that stays, so that the load goes on when the other is dropped. */
static Fixture *place_add_stayer(PlaceTest *t)
{
    Fixture *stayer = fixture_new(FIXTURE_ANON, CHUNK_PAGES,
                                  fixture_all_data);
    FastloadRegion region;

    fixture_region(stayer, &region);
    region.file_off = t->f->file_off; /* has the same there */
    g_assert_true(fastload_add_region(t->fl, &region, NULL));
    return stayer;
}

static void test_dropped_memory_is_anothers(const void *opaque)
{
    /* Reads of a dropped region that return later neither place nor fail. */
    SimConfig config = { .seed = 42 };
    FixtureToucher toucher;
    FastloadStats stats;
    Fixture *stayer;
    PlaceTest *t;
    int uffd;

    sim_reset(&config);
    sim_hold(SIM_HOLD_ALL);
    t = place_new(&sim_ops, FIXTURE_ANON, 0);
    stayer = place_add_stayer(t);
    place_start(t);
    fixture_toucher_start_page(&toucher, t->f, REGION_PAGES - 1);
    fixture_wait_until(place_stats(t).oldest_fault_ns);
    fastload_drop_region(t->fl, t->f->hva);
    g_assert_cmpuint(place_stats(t).oldest_fault_ns, ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    uffd = place_trap_anew(t);
    place_finish(t);
    place_check_untouched(t, uffd);
    stats = place_stats(t);
    g_assert_cmpuint(stats.total_bytes, ==, stayer->len_bytes);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND], ==,
                     stayer->len_bytes);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_URGENT], ==, 0);
    g_assert_cmpuint(stats.retry_count, ==, 0);
    g_assert_cmpuint(fixture_wrong_count(stayer), ==, 0);
    place_free(t);
    fixture_free(stayer);
}

static void test_dropped_failure_is_no_recovery(const void *opaque)
{
    /* Dropping one of two pages that fail does not end the stall. */
    SimConfig config = { .seed = 44 };
    FixtureToucher touchers[2];
    FastloadFailure failure;
    uint64_t bad_offs[2];
    Fixture *stayer;
    PlaceTest *t;
    int i;

    sim_reset(&config);
    sim_hold(SIM_HOLD_BACKGROUND);
    test_clock_stop();
    t = place_new(&sim_ops, FIXTURE_ANON, 0);
    stayer = place_add_stayer(t);
    /* The stayer has what is at the begin of the other. */
    bad_offs[0] = t->f->file_off + (REGION_PAGES - 1) * PAGE;
    bad_offs[1] = t->f->file_off + 100 * PAGE;
    for (i = 0; i < 2; i++) {
        sim_add_bad(bad_offs[i], PAGE, EIO, 0);
    }
    place_start(t);
    fixture_toucher_start_page(&touchers[0], t->f, REGION_PAGES - 1);
    fixture_toucher_start_page(&touchers[1], stayer, 100);
    fixture_wait_until(place_told_count(t) == 2);
    sim_run_until(fixture_events_count(&t->events, FASTLOAD_EVENT_STALLED));
    sim_wait_asleep();
    fastload_drop_region(t->fl, t->f->hva);
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 1); /* zeros */
    for (i = 0; i < 5; i++) {
        sim_skip(FASTLOAD_BACKOFF_NS_MAX);
        sim_wait_asleep();
        g_assert_true(fastload_is_failing(t->fl, &failure));
    }
    g_assert_cmpuint(fixture_events_count(&t->events, FASTLOAD_EVENT_RESUMED),
                     ==, 0);
    for (i = 0; i < 2; i++) {
        sim_heal(bad_offs[i]);
    }
    test_clock_go();
    place_finish(t);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    g_assert_cmpuint(fixture_wrong_count(stayer), ==, 0);
    place_free(t);
    fixture_free(stayer);
}

typedef struct PlaceDropper {
    PlaceTest *t;
    uint32_t tid;     /* atomic */
    uint32_t is_done; /* atomic */
} PlaceDropper;

static void *place_dropper_main(void *opaque)
{
    PlaceDropper *d = opaque;

    __atomic_store_n(&d->tid, gettid(), __ATOMIC_RELEASE);
    fastload_drop_region(d->t->fl, d->t->f->hva);
    __atomic_store_n(&d->is_done, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* Drops the region while a call is held; returns when it is dropped. */
static void place_drop_at_the_gate(PlaceTest *t)
{
    PlaceDropper dropper = { .t = t };
    GThread *thread;
    pid_t tid;

    gate_wait_held();
    thread = g_thread_new("dropper", place_dropper_main, &dropper);
    fixture_wait_until((tid = __atomic_load_n(&dropper.tid,
                                              __ATOMIC_ACQUIRE)));
    fixture_wait_until(fixture_thread_waits(tid) ||
                       __atomic_load_n(&dropper.is_done, __ATOMIC_ACQUIRE));
    g_assert_false(__atomic_load_n(&dropper.is_done, __ATOMIC_ACQUIRE));
    gate_open();
    g_thread_join(thread);
}

static void test_drop_waits_for_placement(const void *opaque)
{
    /* A drop waits for a worker that is about to place a page. */
    PlaceTest *t = place_new(NULL, FIXTURE_ANON, FASTLOAD_BACKGROUND_OFF);
    FixtureToucher toucher;
    int uffd;

    sim_reset(&(SimConfig) { .seed = 43 });
    place_start(t);
    gate_hold(UFFDIO_COPY, GATE_BEFORE);
    fixture_toucher_start_page(&toucher, t->f, 100);
    place_drop_at_the_gate(t);
    fixture_toucher_join(&toucher); /* before it is dropped, or after */
    uffd = place_trap_anew(t);
    place_finish(t);
    place_check_untouched(t, uffd);
    place_free(t);
}

static void test_drop_waits_for_the_last_worker(const void *opaque)
{
    /* A drop waits for a worker that is about to unregister memory. */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_ALL);

    gate_hold(UFFDIO_UNREGISTER, GATE_BEFORE);
    sim_hold(SIM_HOLD_NONE);
    place_drop_at_the_gate(t);
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    place_free(t);
}

static void test_drop_after_cancel(const void *opaque)
{
    /* A cancelled load places nothing of what it still reads. */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_ALL);
    FixtureToucher toucher;
    int uffd;

    fixture_toucher_start_page(&toucher, t->f, REGION_PAGES - 1);
    fixture_wait_until(place_stats(t).oldest_fault_ns);
    fastload_cancel(t->fl);
    fastload_drop_region(t->fl, t->f->hva);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    uffd = place_trap_anew(t);
    sim_hold(SIM_HOLD_NONE);
    g_assert_false(fastload_wait(t->fl, NULL));
    place_check_untouched(t, uffd);
    place_free(t);
}

/* Asks for statistics until it is told to end, and checks each. */
typedef struct PlaceWatcher {
    PlaceTest *t;
    uint64_t total_bytes;
    uint32_t is_over; /* atomic */
    GThread *thread;
} PlaceWatcher;

static void *place_watcher_main(void *opaque)
{
    PlaceWatcher *watcher = opaque;
    PlaceTest *t = watcher->t;
    uint64_t missing_bytes = UINT64_MAX;

    while (!__atomic_load_n(&watcher->is_over, __ATOMIC_ACQUIRE)) {
        bool was_settled = fastload_is_settled(t->fl);
        FastloadStats stats = place_stats(t);

        g_assert_cmpuint(stats.remaining_bytes, <=, missing_bytes);
        missing_bytes = stats.remaining_bytes;
        g_assert_cmpuint(stats.total_bytes, <=, watcher->total_bytes);
        /* Nobody has waited for longer than the load has been there. */
        g_assert_cmpuint(stats.oldest_fault_ns, <=,
                         fastload_stats_now_ns() - t->fl->start_ns);
        g_assert_true(!was_settled || !stats.oldest_fault_ns);
        g_assert_true(!was_settled || fastload_is_settled(t->fl));
        g_usleep(50);
    }
    return NULL;
}

/*
 * A region is dropped at any time, also when the load is cancelled or about
 * to be complete; its memory is another's at once.
 */
static uint64_t place_drop_anytime(uint32_t seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    SimConfig config = {
        .seed = seed,
        .eio_permille = g_rand_int_range(rand, 0, 4) * 50,
        .delay_turns_max = g_rand_int_range(rand, 0, 10),
        .break_permille = g_rand_boolean(rand) ? 20 : 0,
    };
    PlaceWatcher watcher = { 0 };
    FixtureToucher touchers[4];
    bool is_cancelled = g_rand_int_range(rand, 0, 3) == 0;
    uint64_t page_count;
    Fixture *stayer;
    PlaceTest *t;
    int uffd, i;

    sim_reset(&config);
    t = place_new(&sim_ops, g_rand_boolean(rand) ? FIXTURE_THP
                                                 : FIXTURE_SHARED, 0);
    t->fl->config.worker_count = g_rand_int_range(rand, 1, 5);
    stayer = place_add_stayer(t);
    place_start(t);
    watcher.t = t;
    watcher.total_bytes = t->f->len_bytes + stayer->len_bytes;
    watcher.thread = g_thread_new("watcher", place_watcher_main, &watcher);
    for (i = 0; i < 4; i++) {
        fixture_toucher_start(&touchers[i], i % 2 ? stayer : t->f, seed + i,
                              50);
    }
    g_usleep(g_rand_int_range(rand, 0, 8000));
    if (is_cancelled) {
        fastload_cancel(t->fl);
    }
    fastload_drop_region(t->fl, t->f->hva);
    for (i = 0; i < 4; i += 2) {
        fixture_toucher_join(&touchers[i]); /* zeros or data */
    }
    uffd = place_trap_anew(t);
    for (i = 1; i < 4; i += 2) {
        uint32_t wrong_count = fixture_toucher_join(&touchers[i]);

        g_assert_true(is_cancelled || !wrong_count);
    }
    if (fastload_wait(t->fl, NULL)) {
        g_assert_cmpuint(fixture_wrong_count(stayer), ==, 0);
        g_assert_cmpuint(place_stats(t).remaining_bytes, ==, 0);
    } else {
        g_assert_true(is_cancelled);
    }
    fastload_settle(t->fl);
    __atomic_store_n(&watcher.is_over, 1, __ATOMIC_RELEASE);
    g_thread_join(watcher.thread);
    place_check_untouched(t, uffd);
    page_count = stayer->data_bytes / PAGE;
    place_free(t);
    fixture_free(stayer);
    return page_count;
}

static void test_many_drops(const void *opaque)
{
    /* A region may be dropped at any time, also beside a cancel. */
    fixture_run_seeds(place_drop_anytime, DROP_COUNT);
}

static void add_test(const char *behaviour, GTestDataFunc func)
{
    g_autofree char *path = g_strdup_printf("/fastload/place/%s", behaviour);

    fixture_add_test(path, FIXTURE_NEEDS_UFFD, func, NULL);
}

/* ---- a queue of faults that is full ---- */

static void test_fault_beyond_room(const void *opaque)
{
    /*
     * A fault that the backend has read, and for which the queue has no room,
     * is repeated until there is some.
     */
    PlaceTest *t = place_new_sim(FIXTURE_ANON, SIM_HOLD_ALL);
    FixtureToucher toucher;
    uint64_t page = 0;
    int i;

    for (i = 0; i < 2; i++) {
        while (fastload_want(t->fl, fixture_page(t->f, page)) ==
               FASTLOAD_WANTED_QUEUED) {
            page++;
            g_assert_cmpuint(page, <, REGION_PAGES - 1);
        }
        /* What they have room for is not in the queue any more. */
        sim_wait_asleep();
    }
    fixture_toucher_start_page(&toucher, t->f, REGION_PAGES - 1);
    fixture_wait_until(place_told_count(t) > 2);
    g_assert_false(fixture_toucher_is_done(&toucher));
    sim_hold(SIM_HOLD_BACKGROUND);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    place_finish(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    place_free(t);
}

/* ---- reads that hang ---- */

static uint32_t place_thread_count(void)
{
    FixtureUse use;

    fixture_use_get(&use);
    return use.thread_count;
}

static void test_hung_read_of_a_placed_page(const void *opaque)
{
    /*
     * With preadv, a read that hangs and whose page another read has brought
     * does not keep the load from its end.  Its thread ends when it returns.
     */
    uint32_t thread_count = place_thread_count();
    PlaceTest *t = place_new(NULL, FIXTURE_ANON, FASTLOAD_BACKGROUND_OFF);
    FixtureToucher toucher;

    gate_hold_reads(1);
    place_start(t);
    fixture_toucher_start_page(&toucher, t->f, 100);
    fixture_wait_until(gate_held_read_count() == 1);
    fastload_set_background_rate(t->fl, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fixture_hurry_until(fixture_events_count(&t->events,
                                             FASTLOAD_EVENT_COMPLETED));
    g_assert_true(fastload_wait(t->fl, NULL));
    fastload_settle(t->fl);
    g_assert_cmpuint(fixture_events_count(&t->events, FASTLOAD_EVENT_SETTLED),
                     ==, 1);
    g_assert_cmpuint(gate_held_read_count(), ==, 1);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    place_free(t);
    gate_open_reads();
    fixture_wait_until(place_thread_count() <= thread_count);
}

static void place_check_hung(uint32_t held_count)
{
    uint32_t thread_count = place_thread_count();
    PlaceTest *t = place_new(NULL, FIXTURE_ANON, 0);

    gate_hold_reads(held_count);
    place_start(t);
    fixture_wait_until(gate_held_read_count() == held_count);
    fastload_cancel(t->fl);
    test_clock_skip(FASTLOAD_DRAIN_NS_MAX);
    fastload_settle(t->fl);
    g_assert_true(fastload_is_settled(t->fl));
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_CANCELLED), ==, 1);
    /* A thread that touches the page now does not wait. */
    (void)fixture_page_is_right(t->f, 5);
    place_free(t);
    g_assert_cmpuint(gate_held_read_count(), ==, held_count);
    gate_open_reads();
    fixture_wait_until(place_thread_count() <= thread_count);
}

static void test_free_with_hung_reads(const void *opaque)
{
    /* A load is freed although one of its threads hangs, or all of them. */
    place_check_hung(1);
    place_check_hung(2);
}

/* The first worker, to which alone a batch is offered, has the only ring. */
static FastloadIo *place_open_first(const FastloadIoSetup *setup,
                                    const char **ret_refusal)
{
    if (!setup->batch) {
        *ret_refusal = "told to refuse";
        return NULL;
    }
    return sim_ops.open(setup, ret_refusal);
}

static void test_hung_reads_of_a_ring_and_preadv(const void *opaque)
{
    /*
     * A load ends by itself although one worker has abandoned the reads of its
     * ring and the other one hangs in preadv().
     */
    uint32_t thread_count = place_thread_count();
    SimConfig config = { .seed = 41 };
    FastloadIoOps ops = sim_ops;
    FixtureToucher toucher;
    PlaceTest *t;

    ops.open = place_open_first;
    sim_reset(&config);
    sim_hold(SIM_HOLD_ALL);
    t = place_new(&ops, FIXTURE_ANON, 0);
    gate_hold_reads(1);
    place_start(t);
    fixture_wait_until(gate_held_read_count() == 1);
    fixture_toucher_start_page(&toucher, t->f, 100);
    fixture_wait_until(sim_pending_urgent_count());
    fastload_cancel(t->fl);
    fixture_hurry_until(fixture_events_count(&t->events,
                                             FASTLOAD_EVENT_CANCELLED));
    g_assert_cmpuint(gate_held_read_count(), ==, 1);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 1); /* zeros */
    place_free(t);
    gate_open_reads();
    fixture_wait_until(place_thread_count() <= thread_count);
    sim_wait_late();
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    add_test("discarded-page-waits-for-memory",
             test_discarded_page_waits_for_memory);
    add_test("two-threads-wait-for-memory",
             test_two_threads_wait_for_memory);
    add_test("retry-meets-another-failure",
             test_retry_meets_another_failure);
    add_test("data-waits-for-memory", test_data_waits_for_memory);
    add_test("kernel-stops-half-way", test_kernel_stops_half_way);
    add_test("again-is-no-failure", test_again_is_no_failure);
    add_test("again-has-a-bound", test_again_has_a_bound);
    add_test("discarded-huge-page-waits-for-one",
             test_discarded_huge_page_waits_for_one);
    add_test("claimed-page-given-back", test_claimed_page_given_back);
    add_test("queued-page-given-back", test_queued_page_given_back);
    add_test("late-read-of-a-page-given-back",
             test_late_read_of_a_page_given_back);
    add_test("data-only-where-none-was", test_data_only_where_none_was);
    add_test("page-from-elsewhere", test_page_from_elsewhere);
    add_test("page-that-is-unmapped", test_page_that_is_unmapped);
    add_test("faults-tell-who-and-how", test_faults_tell_who_and_how);
    add_test("dropped-memory-is-anothers", test_dropped_memory_is_anothers);
    add_test("dropped-failure-is-no-recovery",
             test_dropped_failure_is_no_recovery);
    add_test("drop-waits-for-placement", test_drop_waits_for_placement);
    add_test("drop-waits-for-the-last-worker",
             test_drop_waits_for_the_last_worker);
    add_test("drop-after-cancel", test_drop_after_cancel);
    add_test("many-drops", test_many_drops);
    add_test("fault-beyond-room", test_fault_beyond_room);
    add_test("hung-read-of-a-placed-page", test_hung_read_of_a_placed_page);
    add_test("free-with-hung-reads", test_free_with_hung_reads);
    add_test("hung-reads-of-a-ring-and-preadv",
             test_hung_reads_of_a_ring_and_preadv);
    return g_test_run();
}
