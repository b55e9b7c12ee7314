/*
 * Unit tests of fastload: what is different while processors are short.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Whether they are is set by the tests.  Reads are real; the clock is stopped
 * in most tests, so that a guest that has faulted is not quiet before they say
 * so.
 */
#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/userfaultfd.h>
#include "qemu/fastload_int.h"
#include "fastload-fixture.h"
#include "fastload-gate.h"

#define PAGE FIXTURE_PAGE_BYTES
#define CHUNK_PAGES FIXTURE_CHUNK_PAGE_COUNT
#define CHUNK_BYTES ((uint64_t)CHUNK_PAGES * PAGE)
#define CHUNK_COUNT 4
#define MS_NS (1000 * 1000ull)
/* UFFDIO_MOVE, which headers older than Linux 6.8 lack. */
#define MOVE_REQUEST _IOWR(UFFDIO, 0x05, uint64_t[5])

typedef struct CrowdTest {
    Fixture *f;
    Fastload *fl;
} CrowdTest;

static CrowdTest *crowd_new_in(FixtureMemory memory, FixtureHasData *has_data,
                               uint64_t chunk_count)
{
    FastloadConfig config = { .worker_count = 2 };
    CrowdTest *t = g_new0(CrowdTest, 1);
    FastloadRegion region;
    GError *error = NULL;

    t->f = fixture_new(memory, chunk_count * CHUNK_PAGES, has_data);
    t->fl = fastload_new(t->f->fd, &config, &error);
    g_assert_no_error(error);
    fixture_region(t->f, &region);
    g_assert_true(fastload_add_region(t->fl, &region, &error));
    /* As when the first read has found the file in the page cache. */
    t->fl->file.is_cached = 1;
    t->fl->crowd.is_short = 1;
    return t;
}

/* Of CHUNK_COUNT chunks that can be moved; the clock stands still. */
static CrowdTest *crowd_new(FixtureHasData *has_data)
{
    test_clock_stop();
    return crowd_new_in(FIXTURE_THP, has_data, CHUNK_COUNT);
}

static void crowd_start(CrowdTest *t)
{
    GError *error = NULL;

    fastload_start(t->fl, &error);
    g_assert_no_error(error);
}

/* Touches the page on another thread, and waits until it has it. */
static void crowd_touch(CrowdTest *t, uint64_t page_idx)
{
    FixtureToucher toucher;

    fixture_toucher_start_page(&toucher, t->f, page_idx);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
}

/* How many pages of the chunk are there. */
static uint64_t crowd_resident_count(CrowdTest *t, uint64_t chunk_idx)
{
    uint64_t i, count = 0;

    for (i = 0; i < CHUNK_PAGES; i++) {
        count += fixture_page_is_resident(t->f, chunk_idx * CHUNK_PAGES + i);
    }
    return count;
}

static uint64_t crowd_moved_bytes(CrowdTest *t)
{
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    return stats.moved_bytes;
}

static uint64_t crowd_fault_count(CrowdTest *t)
{
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    return stats.fault_count;
}

static uint64_t crowd_remaining_bytes(CrowdTest *t)
{
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    return stats.remaining_bytes;
}

static void crowd_free(CrowdTest *t)
{
    fastload_free(t->fl);
    fixture_free(t->f);
    g_free(t);
}

/* All comes, and is right, but for so many pages that were given back. */
static void crowd_end_but_for(CrowdTest *t, uint64_t wrong_count)
{
    GError *error = NULL;

    test_clock_go();
    fastload_wait(t->fl, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, wrong_count);
    crowd_free(t);
}

static void crowd_end(CrowdTest *t)
{
    crowd_end_but_for(t, 0);
}

/* Marks the file as another load of it would; -1: files have no marks here. */
static int crowd_mark(CrowdTest *t)
{
    struct flock lock = {
        .l_type = F_RDLCK,
        .l_whence = SEEK_SET,
        .l_start = FASTLOAD_MARK_OFF,
        .l_len = 1,
    };
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", t->f->fd);
    int fd = t->fl->file.is_marked ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
    }
    return fd;
}

static void test_judge(const void *opaque)
{
    /* It takes twice the time to begin, and less than once to end. */
    g_assert_false(fastload_crowd_judge(false, 10 * MS_NS, 0));
    g_assert_false(fastload_crowd_judge(false, 10 * MS_NS, 19 * MS_NS));
    g_assert_true(fastload_crowd_judge(false, 10 * MS_NS, 20 * MS_NS));
    g_assert_true(fastload_crowd_judge(true, 10 * MS_NS, 10 * MS_NS));
    g_assert_false(fastload_crowd_judge(true, 10 * MS_NS, 9 * MS_NS));
    /* A thread that never gets a processor has run for no time at all. */
    g_assert_true(fastload_crowd_judge(false, 0, MS_NS));
}

static void test_look(const void *opaque)
{
    CrowdTest *t = crowd_new(fixture_all_data);
    FastloadCrowd *crowd;
    uint64_t now_ns = fastload_stats_now_ns();
    uint64_t ran_ns;

    crowd = &t->fl->crowd;
    crowd->is_short = 0;
    fastload_crowd_first_look_ns = 0;
    fastload_crowd_open(t->fl);
    fastload_crowd_first_look_ns = UINT64_MAX;
    g_assert_cmpint(crowd->fd, >=, 0);
    /* This thread has run for longer than the least time that counts. */
    while (clock() < CLOCKS_PER_SEC / 1000) {
    }
    fastload_crowd_look(t->fl, now_ns);
    g_assert_cmpuint(crowd->look_ns, ==, now_ns + FASTLOAD_CROWD_LOOK_NS);
    g_assert_cmpuint(crowd->ran_ns, >=, FASTLOAD_CROWD_LEAST_NS);
    ran_ns = crowd->ran_ns;
    /* Too early. */
    crowd->ran_ns = crowd->waited_ns = 0;
    g_assert_false(fastload_crowd_look(t->fl, now_ns + 1));
    g_assert_cmpuint(crowd->ran_ns, ==, 0);
    /* As if it had never had a processor: every other time is in the past. */
    crowd->ran_ns = UINT64_MAX / 2;
    crowd->waited_ns = 0;
    crowd->is_short = 1;
    g_assert_true(fastload_crowd_look(t->fl, now_ns + 5 * MS_NS));
    g_assert_false(fastload_crowd_is_short(t->fl));
    g_assert_cmpuint(crowd->ran_ns, >=, ran_ns);
    fastload_crowd_close(crowd);
    g_assert_cmpint(crowd->fd, ==, -1);
    fastload_crowd_open(t->fl);
    g_assert_cmpuint(crowd->look_ns, ==, UINT64_MAX);
    g_assert_false(fastload_crowd_look(t->fl, now_ns + 1000 * MS_NS));
    crowd_free(t);
}

static void test_whole_chunk(const void *opaque)
{
    CrowdTest *t = crowd_new(fixture_all_data);

    crowd_start(t);
    crowd_touch(t, CHUNK_PAGES + 300);
    g_assert_cmpuint(crowd_resident_count(t, 1), ==, CHUNK_PAGES);
    /* The kernel wakes the thread before the worker counts. */
    fixture_wait_until(crowd_fault_count(t) == 1);
    g_assert_cmpuint(crowd_moved_bytes(t), ==, CHUNK_BYTES);
    /* Nothing else has come: the background is held back. */
    g_assert_cmpuint(crowd_remaining_bytes(t), ==,
                     (CHUNK_COUNT - 1) * CHUNK_BYTES);
    crowd_end(t);
}

/* Every fourth page is zero; so is the first one of each chunk. */
static bool crowd_has_data(uint64_t page_idx)
{
    return page_idx % 4;
}

static void test_whole_chunk_of_a_zero_page(const void *opaque)
{
    CrowdTest *t = crowd_new(crowd_has_data);

    crowd_start(t);
    crowd_touch(t, 2 * CHUNK_PAGES);
    g_assert_cmpuint(crowd_resident_count(t, 2), ==, CHUNK_PAGES);
    fixture_wait_until(crowd_fault_count(t) == 1);
    g_assert_cmpuint(crowd_moved_bytes(t), ==, CHUNK_BYTES);
    crowd_end(t);
}

static bool crowd_has_little_data(uint64_t page_idx)
{
    return page_idx % 16 == 3;
}

static void test_whole_chunk_that_is_mostly_zero(const void *opaque)
{
    /* Copied: it needs no huge page. */
    CrowdTest *t = crowd_new(crowd_has_little_data);

    crowd_start(t);
    crowd_touch(t, CHUNK_PAGES + 16 * 20 + 3);
    fixture_wait_until(crowd_fault_count(t) == 1);
    g_assert_cmpuint(crowd_resident_count(t, 1), ==, CHUNK_PAGES);
    g_assert_cmpuint(crowd_moved_bytes(t), ==, 0);
    crowd_touch(t, 2 * CHUNK_PAGES); /* a zero page */
    fixture_wait_until(crowd_fault_count(t) == 2);
    g_assert_cmpuint(crowd_resident_count(t, 2), ==, CHUNK_PAGES);
    crowd_end(t);
}

static void test_page_given_back_before_it_counts(const void *opaque)
{
    /* Moved, given back and touched again, all before its bit is set. */
    FixtureToucher first, again;
    uint32_t *merge_count, count;
    CrowdTest *t = crowd_new(fixture_all_data);

    crowd_start(t);
    gate_hold(MOVE_REQUEST, GATE_AFTER);
    fixture_toucher_start_page(&first, t->f, 0);
    gate_wait_held();
    g_assert_cmpint(madvise(fixture_page(t->f, 0), PAGE, MADV_DONTNEED), ==, 0);
    merge_count = &t->fl->sched.merge_count;
    count = __atomic_load_n(merge_count, __ATOMIC_ACQUIRE);
    fixture_toucher_start_page(&again, t->f, 0);
    /* The first worker is in the middle of its turn: the other one gets it. */
    __atomic_store_n(&t->fl->sched.are_faults_shared, 1, __ATOMIC_RELAXED);
    fastload_session_kick_all(t->fl, &t->fl->workers[0]);
    fixture_wait_until(__atomic_load_n(merge_count, __ATOMIC_ACQUIRE) !=
                       count);
    gate_open();
    /* It is woken, and finds zeros; the first one finds them if it is late. */
    g_assert_cmpuint(fixture_toucher_join(&again), ==, 1);
    fixture_toucher_join(&first);
    crowd_end_but_for(t, 1);
}

static void test_page_alone(const void *opaque)
{
    FastloadFault fault = { .page_idx = CHUNK_PAGES + 300 }, other;
    CrowdTest *t = crowd_new(fixture_all_data);
    Fastload *fl;

    /* As far as a load is begun before there are threads, which would race. */
    fl = t->fl;
    fastload_plan_spans(fl->areas, CHUNK_COUNT);
    fastload_sched_prepare(fl);
    fault.area = g_ptr_array_index(fl->areas, 0);
    fault.area->placed = g_new0(uint64_t, FASTLOAD_BIT_WORDS(
                                              fault.area->page_count));
    fault.area->has_move = true;
    g_assert_true(fastload_whole_is_wanted(fl, &fault));
    fastload_set_background_rate(fl, FASTLOAD_BACKGROUND_OFF);
    g_assert_false(fastload_whole_is_wanted(fl, &fault));
    fastload_set_background_rate(fl, 0);
    fl->crowd.is_short = 0;
    g_assert_false(fastload_whole_is_wanted(fl, &fault));
    fl->crowd.is_short = 1;
    fl->record.is_on = 1;
    g_assert_false(fastload_whole_is_wanted(fl, &fault));
    fl->record.is_on = 0;
    fl->file.is_direct = true;
    g_assert_false(fastload_whole_is_wanted(fl, &fault));
    fl->file.is_direct = false;
    fl->file.is_in_user_space = 1;
    g_assert_false(fastload_whole_is_wanted(fl, &fault));
    fl->file.is_in_user_space = 0;
    fl->retry.failed_round_count = 1;
    g_assert_false(fastload_whole_is_wanted(fl, &fault));
    fl->retry.failed_round_count = 0;
    other = fault;
    other.is_discarded = true;
    g_assert_false(fastload_whole_is_wanted(fl, &other));
    other = fault;
    other.not_before_ns = 1;
    g_assert_false(fastload_whole_is_wanted(fl, &other));
    other = fault;
    other.is_alone = true;
    g_assert_false(fastload_whole_is_wanted(fl, &other));
    g_assert_true(fastload_whole_is_wanted(fl, &fault));
    g_assert_true(fastload_sched_take_whole(fl, fault.area, 1));
    g_assert_false(fastload_whole_is_wanted(fl, &fault));
    crowd_free(t);
}

static void test_page_of_a_chunk_begun(const void *opaque)
{
    CrowdTest *t;
    uint64_t remaining_bytes;

    t = crowd_new(fixture_all_data);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    crowd_start(t);
    remaining_bytes = crowd_remaining_bytes(t);
    crowd_touch(t, CHUNK_PAGES);
    /* It may be there before it is counted. */
    fixture_wait_until(crowd_remaining_bytes(t) == remaining_bytes - PAGE);
    fastload_set_background_rate(t->fl, 0);
    crowd_touch(t, CHUNK_PAGES + 300);
    g_assert_cmpuint(crowd_resident_count(t, 1), ==, 2);
    crowd_end(t);
}

static void test_page_if_the_rate_is_limited(const void *opaque)
{
    CrowdTest *t = crowd_new(fixture_all_data);

    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    crowd_start(t);
    crowd_touch(t, 7);
    g_assert_cmpuint(crowd_resident_count(t, 0), ==, 1);
    fastload_set_background_rate(t->fl, 0);
    crowd_end(t);
}

static void test_page_after_so_many(const void *opaque)
{
    CrowdTest *t = crowd_new(fixture_all_data);

    t->fl->crowd.whole_count = FASTLOAD_WHOLE_COUNT_MAX - 1;
    crowd_start(t);
    crowd_touch(t, CHUNK_PAGES + 1);
    crowd_touch(t, 2 * CHUNK_PAGES + 1);
    g_assert_cmpuint(crowd_resident_count(t, 1), ==, CHUNK_PAGES);
    g_assert_cmpuint(crowd_resident_count(t, 2), ==, 1);
    crowd_end(t);
}

/* @opaque: is the load alone with the file? */
static void test_page_of_a_cold_file(const void *opaque)
{
    int other_fd = -1;
    CrowdTest *t = crowd_new(fixture_all_data);

    if (fixture_drop_cache(t->f)) {
        g_test_skip("the file stays in the page cache here");
    } else {
        crowd_start(t);
        if (!opaque) {
            other_fd = crowd_mark(t);
        }
        crowd_touch(t, CHUNK_PAGES + 300);
        g_assert_cmpuint(crowd_resident_count(t, 1), ==, 1);
        if (other_fd < 0) {
            /* Nobody else would find it. */
            g_assert_cmpuint(fixture_cached_bytes(t->f), <, CHUNK_BYTES);
        } else {
            fixture_wait_until(fixture_cached_bytes(t->f) >= CHUNK_BYTES);
            close(other_fd);
        }
        test_clock_go();
    }
    if (t->fl->start_ns) {
        crowd_end(t);
    } else {
        crowd_free(t);
    }
}

static void test_hold_ends_when_quiet(const void *opaque)
{
    CrowdTest *t;
    uint64_t left_bytes;

    t = crowd_new(fixture_all_data);
    crowd_start(t);
    crowd_touch(t, 1);
    fixture_wait_until(crowd_fault_count(t) == 1);
    left_bytes = crowd_remaining_bytes(t);
    g_assert_cmpuint(left_bytes, ==, (CHUNK_COUNT - 1) * CHUNK_BYTES);
    g_assert_cmpuint(fastload_sched_held_ns(t->fl, fastload_stats_now_ns()),
                     ==, t->fl->sched.last_fault_ns +
                         FASTLOAD_CROWD_QUIET_NS);
    test_clock_skip(FASTLOAD_CROWD_QUIET_NS);
    g_assert_cmpuint(fastload_sched_held_ns(t->fl, fastload_stats_now_ns()),
                     ==, 0);
    /* The workers sleep until then by themselves. */
    fixture_wait_until(crowd_remaining_bytes(t) == 0);
    crowd_end(t);
}

static void test_hold_ends_at_last(const void *opaque)
{
    CrowdTest *t;
    uint64_t start_ns;

    t = crowd_new(fixture_all_data);
    crowd_start(t);
    start_ns = t->fl->start_ns;
    /* A guest that never stops faulting. */
    __atomic_store_n(&t->fl->sched.last_fault_ns,
                     start_ns + 2 * FASTLOAD_HOLD_NS, __ATOMIC_RELAXED);
    g_assert_cmpuint(fastload_sched_held_ns(t->fl, start_ns), ==,
                     start_ns + FASTLOAD_HOLD_NS);
    g_assert_cmpuint(fastload_sched_held_ns(t->fl, start_ns +
                                            FASTLOAD_HOLD_NS), ==, 0);
    test_clock_skip(FASTLOAD_HOLD_NS);
    fixture_wait_until(crowd_remaining_bytes(t) == 0);
    crowd_end(t);
}

static void test_early_is_not_held(const void *opaque)
{
    FastloadConfig config = { .worker_count = 2 };
    FastloadRegion early, eager, late;
    CrowdTest *t = g_new0(CrowdTest, 1);
    GError *error = NULL;

    test_clock_stop();
    t->f = fixture_new(FIXTURE_ANON, CHUNK_COUNT * CHUNK_PAGES,
                       fixture_all_data);
    t->fl = fastload_new(t->f->fd, &config, &error);
    g_assert_no_error(error);
    /* The first two chunks are regions; start loads the second by itself. */
    fixture_region(t->f, &early);
    late = early;
    early.len_bytes = CHUNK_BYTES;
    early.is_early = true;
    eager = early;
    eager.hva = (uint8_t *)early.hva + CHUNK_BYTES;
    eager.file_off += CHUNK_BYTES;
    eager.is_eager = true;
    late.hva = (uint8_t *)late.hva + 2 * CHUNK_BYTES;
    late.len_bytes -= 2 * CHUNK_BYTES;
    late.file_off += 2 * CHUNK_BYTES;
    g_assert_true(fastload_add_region(t->fl, &late, &error));
    g_assert_true(fastload_add_region(t->fl, &eager, &error));
    g_assert_true(fastload_add_region(t->fl, &early, &error));
    t->fl->file.is_cached = 1;
    t->fl->crowd.is_short = 1;
    crowd_start(t);
    fixture_wait_until(crowd_resident_count(t, 0) == CHUNK_PAGES);
    /* When they are placed, the rest is held back. */
    fixture_wait_until(fastload_sched_held_ns(t->fl, fastload_stats_now_ns()));
    crowd_end(t);
}

static void test_hold_begins_while_a_worker_sleeps(const void *opaque)
{
    /* That the file is cached comes out with the first chunk. */
    uint32_t i;

    for (i = 0; i < 2; i++) {
        CrowdTest *t;

        test_clock_stop();
        /* Without huge pages: nobody has to renew staging first. */
        t = crowd_new_in(FIXTURE_ANON, fixture_all_data, 16);
        t->fl->file.is_cached = 0;
        fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
        crowd_start(t);
        g_usleep(5000);
        /* The guest does not stop faulting, also when the hold has ended. */
        __atomic_store_n(&t->fl->sched.last_fault_ns,
                         t->fl->start_ns + 1000 * FASTLOAD_HOLD_NS,
                         __ATOMIC_RELAXED);
        /* As if only the first worker's sleep had ended. */
        g_mutex_lock(&t->fl->sched.lock);
        t->fl->rate.bytes_per_s = 0;
        g_mutex_unlock(&t->fl->sched.lock);
        fastload_session_kick(&t->fl->workers[0]);
        g_usleep(5000);
        test_clock_skip(FASTLOAD_HOLD_NS);
        fixture_wait_until(crowd_remaining_bytes(t) == 0);
        crowd_end(t);
    }
}

/* Many threads that touch a few chunks, while what is short changes. */
static uint64_t crowd_run_seed(uint32_t seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    CrowdTest *t = crowd_new_in(FIXTURE_THP, fixture_mixed, 1 + seed % 8);
    FixtureToucher touchers[4];
    uint64_t page_count = fixture_page_count(t->f);
    int other_fd = -1;
    uint32_t i;

    if (g_rand_boolean(rand)) {
        fixture_drop_cache(t->f);
    }
    crowd_start(t);
    if (g_rand_boolean(rand)) {
        other_fd = crowd_mark(t);
    }
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        fixture_toucher_start(&touchers[i], t->f, seed + i, 64);
    }
    for (i = 0; i < 8; i++) {
        g_usleep(g_rand_int_range(rand, 0, 500));
        __atomic_store_n(&t->fl->crowd.is_short, g_rand_boolean(rand),
                         __ATOMIC_RELAXED);
    }
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    if (other_fd >= 0) {
        close(other_fd);
    }
    crowd_end(t);
    return page_count;
}

static void test_many_seeds(const void *opaque)
{
    fixture_run_seeds(crowd_run_seed, 60);
}

static void add(const char *path, GTestDataFunc func, const void *data)
{
    fixture_add_test(path, FIXTURE_NEEDS_UFFD | FIXTURE_NEEDS_MOVE, func, data);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    g_test_add_data_func("/fastload/crowd/judge", NULL, test_judge);
    add("/fastload/crowd/look", test_look, NULL);
    add("/fastload/crowd/whole-chunk", test_whole_chunk, NULL);
    add("/fastload/crowd/whole-chunk-of-a-zero-page",
        test_whole_chunk_of_a_zero_page, NULL);
    add("/fastload/crowd/whole-chunk-that-is-mostly-zero",
        test_whole_chunk_that_is_mostly_zero, NULL);
    add("/fastload/crowd/page-given-back-before-it-counts",
        test_page_given_back_before_it_counts, NULL);
    add("/fastload/crowd/page-alone", test_page_alone, NULL);
    add("/fastload/crowd/page-of-a-chunk-begun", test_page_of_a_chunk_begun,
        NULL);
    add("/fastload/crowd/page-if-the-rate-is-limited",
        test_page_if_the_rate_is_limited, NULL);
    add("/fastload/crowd/page-after-so-many", test_page_after_so_many, NULL);
    add("/fastload/crowd/page-of-a-cold-file/around-the-page-cache",
        test_page_of_a_cold_file, "");
    add("/fastload/crowd/page-of-a-cold-file/shared",
        test_page_of_a_cold_file, NULL);
    add("/fastload/crowd/hold-ends-when-quiet", test_hold_ends_when_quiet,
        NULL);
    add("/fastload/crowd/hold-ends-at-last", test_hold_ends_at_last, NULL);
    fixture_add_test("/fastload/crowd/early-is-not-held", FIXTURE_NEEDS_UFFD,
                     test_early_is_not_held, NULL);
    fixture_add_test("/fastload/crowd/hold-begins-while-a-worker-sleeps",
                     FIXTURE_NEEDS_UFFD,
                     test_hold_begins_while_a_worker_sleeps, NULL);
    add("/fastload/crowd/many-seeds", test_many_seeds, NULL);
    return g_test_run();
}
