/*
 * What changes while a load is under way: its file, and what is permitted.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/stat.h>
#include <sys/syscall.h>
#include "qemu/fastload_int.h"
#include "fastload-fixture.h"

#define PAGE FIXTURE_PAGE_BYTES
#define CHUNK_PAGES FIXTURE_CHUNK_PAGE_COUNT
#define PAGE_COUNT (8 * CHUNK_PAGES)
/*
 * A time of modification may be a tick of the kernel's clock coarse.  After
 * twice what the engine allows for that, a write is one of its own.
 */
#define CLOCK_TICK_NS (2 * FASTLOAD_FILE_TICK_NS)
/* So much data that a load is not complete before the test acts. */
#define LARGE_PAGE_COUNT (32 * CHUNK_PAGES)
/* Where the snapshot begins in a file with a header before it. */
#define STREAM_OFF (2 * PAGE + 100)

typedef struct ChangeTest {
    Fixture *f;
    Fastload *fl;
    FixtureEvents events;
} ChangeTest;

static const FastloadIoKind change_kinds[] = {
    FASTLOAD_IO_IO_URING, FASTLOAD_IO_PREADV,
};

static uint64_t change_ns(const struct timespec *ts)
{
    return ts->tv_sec * 1000000000ull + ts->tv_nsec;
}

/* The clock from which times of modification are taken. */
static uint64_t change_file_now_ns(void)
{
    struct timespec now;

    g_assert_cmpint(clock_gettime(CLOCK_REALTIME_COARSE, &now), ==, 0);
    return change_ns(&now);
}

/* Waits until a write gets another time of modification. */
static void change_make_old(const ChangeTest *t)
{
    uint64_t ns = change_file_now_ns() - CLOCK_TICK_NS;
    struct timespec time = {
        .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000,
    };

    g_assert_cmpint(futimens(t->f->fd, (struct timespec[]) { time, time }),
                    ==, 0);
}

/* The same for a file whose time of modification must not change. */
static void change_wait_old(const ChangeTest *t)
{
    struct stat st;

    g_assert_cmpint(fstat(t->f->fd, &st), ==, 0);
    fixture_wait_until(change_file_now_ns() >=
                       change_ns(&st.st_mtim) + CLOCK_TICK_NS);
}

static ChangeTest *change_new_file(FixtureMemory memory, uint64_t page_count)
{
    ChangeTest *t = g_new0(ChangeTest, 1);

    fixture_events_init(&t->events);
    t->f = fixture_new(memory, page_count, fixture_all_data);
    change_make_old(t);
    return t;
}

static void change_open(ChangeTest *t, FastloadIoKind io_kind,
                        uint64_t stream_off, uint64_t bytes_per_s)
{
    FastloadConfig config = {
        .io_kind = io_kind, .event_func = fixture_events_func,
        .event_opaque = &t->events, .background_bytes_per_s = bytes_per_s,
        .stream_off = stream_off,
    };
    FastloadRegion region;
    GError *error = NULL;

    t->fl = fastload_new(t->f->fd, &config, &error);
    g_assert_no_error(error);
    fixture_region(t->f, &region);
    fastload_add_region(t->fl, &region, &error);
    g_assert_no_error(error);
}

static ChangeTest *change_new(FastloadIoKind io_kind, FixtureMemory memory,
                              uint64_t page_count, uint64_t bytes_per_s)
{
    ChangeTest *t = change_new_file(memory, page_count);

    change_open(t, io_kind, 0, bytes_per_s);
    return t;
}

static void change_start(ChangeTest *t)
{
    GError *error = NULL;

    fastload_start(t->fl, &error);
    g_assert_no_error(error);
}

static ChangeTest *change_new_started(FastloadIoKind io_kind)
{
    ChangeTest *t = change_new(io_kind, FIXTURE_ANON, PAGE_COUNT,
                               FASTLOAD_BACKGROUND_OFF);

    change_start(t);
    return t;
}

static void change_free(ChangeTest *t)
{
    fastload_free(t->fl);
    fixture_free(t->f);
    fixture_events_clear(&t->events);
    g_free(t);
}

static void change_finish(ChangeTest *t)
{
    GError *error = NULL;

    fastload_set_background_rate(t->fl, 0);
    fastload_wait(t->fl, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    change_free(t);
}

/* Flips each bit of the page in the file; done twice, it is unchanged. */
static void change_flip_page(const ChangeTest *t, uint64_t page_idx)
{
    off_t off = t->f->file_off + page_idx * PAGE;
    uint8_t bytes[PAGE];
    size_t i;

    change_wait_old(t);
    g_assert_cmpint(pread(t->f->fd, bytes, PAGE, off), ==, PAGE);
    for (i = 0; i < PAGE; i++) {
        bytes[i] = ~bytes[i];
    }
    g_assert_cmpint(pwrite(t->f->fd, bytes, PAGE, off), ==, PAGE);
}

/* Lets the engine's clock run fast, and wakes workers that sleep by it. */
#define change_hurry_until(t, condition) \
    fixture_hurry_until((fastload_session_kick_all((t)->fl, NULL), \
                         (condition)))

static uint64_t change_error_count(ChangeTest *t)
{
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    return stats.io_error_count;
}

/* Waits until so many more reads have failed, urgent ones among them. */
static void change_let_it_fail(ChangeTest *t, uint32_t count)
{
    uint64_t error_count = change_error_count(t);

    change_hurry_until(t, change_error_count(t) >= error_count + count);
}

/* Waits until the load stalls with CHANGED; neither of the pages comes. */
static void change_check_stalled(ChangeTest *t, FixtureToucher *touchers)
{
    FastloadFailure failure;

    change_hurry_until(t, fixture_events_count(&t->events,
                                               FASTLOAD_EVENT_STALLED));
    /* Where that takes long it may have stalled of not knowing. */
    change_hurry_until(t, fastload_is_failing(t->fl, &failure) &&
                       failure.kind == FASTLOAD_FAILURE_CHANGED);
    g_assert_nonnull(strstr(fastload_failure_cause(&failure), "changed"));
    change_let_it_fail(t, 6);
    g_assert_false(fixture_toucher_is_done(&touchers[0]));
    g_assert_false(fixture_toucher_is_done(&touchers[1]));
}

static void test_changed_file(const void *opaque)
{
    /* Nothing is loaded from a file that was overwritten at the same length. */
    ChangeTest *t = change_new_started(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];

    g_assert_true(fixture_page_is_right(t->f, 3));
    change_flip_page(t, 700);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    fastload_set_background_rate(t->fl, 0);
    change_check_stalled(t, touchers);
    g_assert_false(fixture_page_is_resident(t->f, 700));

    /* It has the right bytes again, which only the caller can know. */
    change_flip_page(t, 700);
    change_check_stalled(t, touchers);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    change_finish(t);
}

static void test_longer_file(const void *opaque)
{
    /* A file that grows has changed, too, even with the same time. */
    ChangeTest *t = change_new_started(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];
    struct stat st;

    g_assert_cmpint(fstat(t->f->fd, &st), ==, 0);
    g_assert_cmpint(ftruncate(t->f->fd, st.st_size + 1), ==, 0);
    g_assert_cmpint(futimens(t->f->fd, (struct timespec[]) {
        st.st_atim, st.st_mtim }), ==, 0);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    fixture_toucher_start_page(&touchers[1], t->f, 5);
    change_check_stalled(t, touchers);
    g_assert_cmpint(ftruncate(t->f->fd, st.st_size), ==, 0);
    g_assert_cmpint(futimens(t->f->fd, (struct timespec[]) {
        st.st_atim, st.st_mtim }), ==, 0);
    /* A change stays noted though size and time are put back. */
    change_check_stalled(t, touchers);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    change_finish(t);
}

/* Of what was read with @file_generation. */
static void change_check_file(ChangeTest *t, uint32_t file_generation,
                              bool is_replaced)
{
    g_assert_cmpint(fastload_file_check(t->fl, file_generation), ==,
                    is_replaced ? FASTLOAD_FILE_REPLACED
                                : FASTLOAD_FILE_SAME);
}

static void test_reads_of_a_replaced_file(const void *opaque)
{
    /* A read that began before a recovery does not count for the new file. */
    ChangeTest *t = change_new_started(*(const FastloadIoKind *)opaque);
    uint32_t file_generation = t->fl->file.generation;
    int copy_fd;

    change_check_file(t, file_generation, false);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    change_check_file(t, file_generation, true);
    g_assert_cmpuint(t->fl->file.generation % 2, ==, 0);
    file_generation = t->fl->file.generation;
    change_check_file(t, file_generation, false);
    copy_fd = dup(t->f->fd);
    g_assert_true(fastload_recover(t->fl, copy_fd, NULL));
    change_check_file(t, file_generation, true);
    change_check_file(t, t->fl->file.generation, false);
    close(copy_fd);
    change_finish(t);
}

static void test_while_it_is_replaced(const void *opaque)
{
    /* While the file is being replaced nothing is placed. */
    ChangeTest *t = change_new_started(*(const FastloadIoKind *)opaque);
    FixtureToucher toucher;
    FastloadStats stats;

    __atomic_add_fetch(&t->fl->file.generation, 1, __ATOMIC_SEQ_CST);
    fixture_toucher_start_page(&toucher, t->f, 9);
    fastload_set_background_rate(t->fl, 0);
    /* Lets the reads of the page and of chunks return, again and again. */
    change_hurry_until(t, ({
        fastload_get_stats(t->fl, &stats);
        stats.retry_count >= 100 && stats.read_bytes >= 2 * t->f->len_bytes;
    }));
    g_assert_false(fixture_toucher_is_done(&toucher));
    g_assert_false(fixture_page_is_resident(t->f, 9));
    g_assert_false(fixture_page_is_resident(t->f, PAGE_COUNT - 1));
    __atomic_add_fetch(&t->fl->file.generation, 1, __ATOMIC_SEQ_CST);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    change_finish(t);
}

static void test_changed_file_is_left_alone(const void *opaque)
{
    /* While the file counts as changed, hardly any chunk is begun. */
    ChangeTest *t = change_new(*(const FastloadIoKind *)opaque, FIXTURE_ANON,
                               LARGE_PAGE_COUNT, FASTLOAD_BACKGROUND_OFF);
    FastloadStats stats;
    uint64_t chunk_idx;

    change_start(t);
    change_flip_page(t, 700);
    fastload_set_background_rate(t->fl, 0);
    change_hurry_until(t, fixture_events_count(&t->events,
                                               FASTLOAD_EVENT_STALLED));
    /* Each chunk could have been begun by then. */
    change_let_it_fail(t, LARGE_PAGE_COUNT / CHUNK_PAGES);
    fastload_get_stats(t->fl, &stats);
    g_assert_cmpuint(stats.remaining_bytes, ==, t->f->len_bytes);
    g_mutex_lock(&t->fl->sched.lock);
    chunk_idx = t->fl->sched.next_area ? UINT64_MAX : t->fl->sched.next_chunk;
    g_mutex_unlock(&t->fl->sched.lock);
    g_assert_cmpuint(chunk_idx, <, LARGE_PAGE_COUNT / CHUNK_PAGES / 2);
    change_flip_page(t, 700);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    change_finish(t);
}

/* Of memory that is loaded before the guest runs: a plain failure, or none. */
static void change_start_eager(ChangeTest *t, bool is_changed)
{
    GError *error = NULL;

    if (fastload_start(t->fl, &error)) {
        g_assert_false(is_changed);
        change_finish(t);
        return;
    }
    g_assert_true(is_changed);
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_READ);
    g_assert_nonnull(strstr(error->message, "changed"));
    g_error_free(error);
    change_free(t);
}

static void test_file_changed_before_start(const void *opaque)
{
    /* Start fails if the file of memory that it loads has changed. */
    ChangeTest *t = change_new(*(const FastloadIoKind *)opaque,
                               FIXTURE_PRIVATE_FILE, PAGE_COUNT, 0);

    change_flip_page(t, 700);
    change_start_eager(t, true);
}

/* ---- what lies before the stream ---- */

static ChangeTest *change_new_settling(FastloadIoKind io_kind,
                                       uint64_t settle_ns)
{
    ChangeTest *t = change_new_file(FIXTURE_ANON, PAGE_COUNT);

    change_open(t, io_kind, STREAM_OFF, FASTLOAD_BACKGROUND_OFF);
    t->fl->file.prefix_settle_ns = settle_ns;
    change_start(t);
    return t;
}

/* The prefix settles soon, so that a load on a slow machine does not stall. */
static ChangeTest *change_new_behind(FastloadIoKind io_kind)
{
    return change_new_settling(io_kind, FASTLOAD_FILE_TICK_NS);
}

/* Writes the header, as the software that has saved the file does. */
static void change_write_before(const ChangeTest *t, off_t off, uint8_t byte)
{
    change_wait_old(t);
    g_assert_cmpint(off, <, STREAM_OFF);
    g_assert_cmpint(pwrite(t->f->fd, &byte, 1, off), ==, 1);
}

static void change_check_no_stall(ChangeTest *t)
{
    FastloadFailure failure;

    /* A page is there before its read counts as one that works. */
    fixture_wait_until(!fastload_is_failing(t->fl, &failure));
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_STALLED), ==, 0);
}

/* Waits until a check could not tell why the time has moved. */
static void change_wait_for_doubt(ChangeTest *t)
{
    FastloadFailure failure;

    fixture_wait_until(fastload_is_failing(t->fl, &failure));
    g_assert_cmpint(failure.error_number, ==, EAGAIN);
}

static void change_wait_settled(ChangeTest *t, uint64_t page_idx)
{
    fixture_wait_until(({
        g_assert_true(fixture_page_is_right(t->f, page_idx++));
        __atomic_load_n(&t->fl->file.prefix_due_ns, __ATOMIC_RELAXED) ==
            UINT64_MAX;
    }));
}

/* The load stays stalled until fastload_recover(). */
static void change_check_recovery(ChangeTest *t, FixtureToucher *touchers)
{
    change_check_stalled(t, touchers);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
}

static void test_before_the_stream(const void *opaque)
{
    /* Two writes before the stream do not disturb the load. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);

    g_assert_true(fixture_page_is_right(t->f, 3));
    change_write_before(t, 10, 1);
    g_assert_true(fixture_page_is_right(t->f, 4));
    change_write_before(t, STREAM_OFF - 1, 1);
    g_assert_true(fixture_page_is_right(t->f, 700));
    change_check_no_stall(t);
    change_finish(t);
}

static void test_saved_anew(const void *opaque)
{
    /* A new save with a new header, while no read is in flight, is noticed. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];

    g_assert_true(fixture_page_is_right(t->f, 3));
    change_flip_page(t, PAGE_COUNT - 1);
    change_write_before(t, 10, 1);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    change_check_stalled(t, touchers);
    change_flip_page(t, PAGE_COUNT - 1);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    change_finish(t);
}

static void test_being_saved_anew(const void *opaque)
{
    /* After a new header nothing is placed until the time has stood still. */
    ChangeTest *t = change_new_settling(*(const FastloadIoKind *)opaque,
                                        UINT64_MAX / 2);
    FixtureToucher touchers[2];

    g_assert_true(fixture_page_is_right(t->f, 3));
    change_flip_page(t, 512);
    change_write_before(t, 10, 1);
    fixture_toucher_start_page(&touchers[0], t->f, 512);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    change_wait_for_doubt(t);
    change_flip_page(t, 513);
    change_check_stalled(t, touchers);
    change_flip_page(t, 512);
    change_flip_page(t, 513);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    change_finish(t);
}

static void test_first_byte_of_the_stream(const void *opaque)
{
    /* The first byte of the stream is not part of the prefix. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];

    change_wait_old(t);
    g_assert_cmpint(pwrite(t->f->fd, "x", 1, STREAM_OFF), ==, 1);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    change_check_recovery(t, touchers);
    change_finish(t);
}

static void test_behind_the_begin(const void *opaque)
{
    /* Rewritten data is a change, though the prefix is written again, too. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];

    change_write_before(t, 10, 1);
    g_assert_true(fixture_page_is_right(t->f, 3));
    change_flip_page(t, 700);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    change_check_stalled(t, touchers);
    change_flip_page(t, 700);
    change_check_recovery(t, touchers);
    /* From here on it is as at the begin. */
    change_write_before(t, 10, 2);
    g_assert_true(fixture_page_is_right(t->f, 5));
    change_finish(t);
}

static void test_data_then_before(const void *opaque)
{
    /* A change of the snapshot is not explained by a later write before it. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];

    t->fl->file.prefix_wait_ns = UINT64_MAX / 2;
    change_flip_page(t, 700);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    change_wait_for_doubt(t);
    change_write_before(t, 10, 1);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    change_check_stalled(t, touchers);
    change_flip_page(t, 700);
    change_check_recovery(t, touchers);
    change_finish(t);
}

static void test_time_is_put_back(const void *opaque)
{
    /* Rewritten data is noticed, though the file's time is put back. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];
    struct stat st;

    t->fl->file.prefix_wait_ns = UINT64_MAX / 2;
    g_assert_cmpint(fstat(t->f->fd, &st), ==, 0);
    change_flip_page(t, 700);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    change_wait_for_doubt(t);
    g_assert_cmpint(futimens(t->f->fd, (struct timespec[]) {
        st.st_atim, st.st_mtim }), ==, 0);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    change_check_stalled(t, touchers);
    change_flip_page(t, 700);
    change_check_recovery(t, touchers);
    change_finish(t);
}

/* The file's first page; writing to it leaves the file's time as it is. */
static uint8_t *change_map_begin(const ChangeTest *t)
{
    uint8_t *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
                        t->f->fd, 0);

    g_assert_true(map != MAP_FAILED);
    /* Only the first write to a page that is clean changes the time. */
    map[0] = 1;
    change_make_old(t);
    return map;
}

static void test_bytes_after_their_time(const void *opaque)
{
    /* A write changes the time first: the engine must wait for the bytes. */
    ChangeTest *t = change_new_file(FIXTURE_ANON, PAGE_COUNT);
    uint8_t *map = change_map_begin(t);
    FixtureToucher toucher;

    change_open(t, *(const FastloadIoKind *)opaque, STREAM_OFF,
                FASTLOAD_BACKGROUND_OFF);
    t->fl->file.prefix_wait_ns = UINT64_MAX / 2;
    change_start(t);
    g_assert_cmpint(futimens(t->f->fd, NULL), ==, 0);
    fixture_toucher_start_page(&toucher, t->f, 4);
    change_wait_for_doubt(t);
    g_assert_false(fixture_toucher_is_done(&toucher));
    map[0] = 2;
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    munmap(map, PAGE);
    change_finish(t);
}

/* Modified so long after @st, says the file. */
static void change_set_time(const ChangeTest *t, const struct stat *st,
                            uint64_t later_ns)
{
    uint64_t ns = st->st_mtim.tv_nsec + later_ns;
    struct timespec times[] = {
        st->st_atim,
        { .tv_sec = st->st_mtim.tv_sec + ns / 1000000000,
          .tv_nsec = ns % 1000000000 },
    };

    g_assert_cmpint(futimens(t->f->fd, times), ==, 0);
}

static void change_wait_for_more_doubt(ChangeTest *t)
{
    uint64_t error_count = change_error_count(t);

    fixture_wait_until(change_error_count(t) >= error_count + 2);
    change_wait_for_doubt(t);
}

static void test_writes_in_a_row(const void *opaque)
{
    /* In a burst of writes, one that changes the prefix explains all. */
    ChangeTest *t = change_new_file(FIXTURE_ANON, PAGE_COUNT);
    uint8_t *map = change_map_begin(t);
    FixtureToucher toucher;
    struct stat st;

    change_open(t, *(const FastloadIoKind *)opaque, STREAM_OFF,
                FASTLOAD_BACKGROUND_OFF);
    t->fl->file.prefix_wait_ns = UINT64_MAX / 2;
    change_start(t);
    g_assert_cmpint(futimens(t->f->fd, NULL), ==, 0);
    g_assert_cmpint(fstat(t->f->fd, &st), ==, 0);
    fixture_toucher_start_page(&toucher, t->f, 4);
    change_wait_for_doubt(t);
    change_set_time(t, &st, 1000);
    change_wait_for_more_doubt(t);
    map[0] = 2;
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    change_set_time(t, &st, 2000);
    g_assert_true(fixture_page_is_right(t->f, 5));
    change_set_time(t, &st, FASTLOAD_FILE_TICK_NS - 1);
    g_assert_true(fixture_page_is_right(t->f, 6));
    munmap(map, PAGE);
    change_finish(t);
}

static void test_writes_not_in_a_row(const void *opaque)
{
    /* Writes that go on for longer than a burst are not all explained. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];
    struct stat st;

    change_write_before(t, 10, 1);
    g_assert_cmpint(fstat(t->f->fd, &st), ==, 0);
    g_assert_true(fixture_page_is_right(t->f, 3));
    change_set_time(t, &st, FASTLOAD_FILE_TICK_NS / 2);
    g_assert_true(fixture_page_is_right(t->f, 4));
    change_set_time(t, &st, FASTLOAD_FILE_TICK_NS);
    fixture_toucher_start_page(&touchers[0], t->f, 5);
    fixture_toucher_start_page(&touchers[1], t->f, 6);
    change_check_recovery(t, touchers);
    change_finish(t);
}

static void test_soon_after_the_begin(const void *opaque)
{
    /* Bytes written before the load do not explain a later time. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];
    struct stat st;

    g_assert_cmpint(fstat(t->f->fd, &st), ==, 0);
    change_set_time(t, &st, 1000);
    fixture_toucher_start_page(&touchers[0], t->f, 5);
    fixture_toucher_start_page(&touchers[1], t->f, 6);
    change_check_recovery(t, touchers);
    change_finish(t);
}

typedef struct ChangeLateBytes {
    ChangeTest *t;
    uint8_t *map;
} ChangeLateBytes;

static void *change_late_bytes_main(void *opaque)
{
    ChangeLateBytes *late = opaque;

    fixture_wait_until(__atomic_load_n(&late->t->fl->file.prefix_due_ns,
                                       __ATOMIC_ACQUIRE) == 0);
    late->map[0] = 2;
    return NULL;
}

static void test_late_bytes_at_start(const void *opaque)
{
    /* Start, too, waits for bytes that come after the file's time. */
    ChangeTest *t = change_new_file(FIXTURE_PRIVATE_FILE, PAGE_COUNT);
    ChangeLateBytes late = { .t = t, .map = change_map_begin(t) };
    GThread *thread;

    change_open(t, *(const FastloadIoKind *)opaque, STREAM_OFF, 0);
    t->fl->file.prefix_wait_ns = UINT64_MAX / 2;
    g_assert_cmpint(futimens(t->f->fd, NULL), ==, 0);
    thread = g_thread_new("late", change_late_bytes_main, &late);
    change_start(t);
    g_thread_join(thread);
    munmap(late.map, PAGE);
    change_finish(t);
}

static void test_two_writes_of_one_time(const void *opaque)
{
    /* What is remembered of a young file is what it has with its time. */
    ChangeTest *t = change_new_file(FIXTURE_ANON, PAGE_COUNT);
    uint8_t *map = change_map_begin(t);
    FixtureToucher touchers[2];

    g_assert_cmpint(futimens(t->f->fd, NULL), ==, 0);
    change_open(t, *(const FastloadIoKind *)opaque, STREAM_OFF,
                FASTLOAD_BACKGROUND_OFF);
    map[0] = 2;
    change_start(t);
    change_wait_settled(t, 0);
    change_flip_page(t, PAGE_COUNT - 1);
    fixture_toucher_start_page(&touchers[0], t->f, PAGE_COUNT - 2);
    fixture_toucher_start_page(&touchers[1], t->f, PAGE_COUNT - 1);
    change_check_stalled(t, touchers);
    change_flip_page(t, PAGE_COUNT - 1);
    change_check_recovery(t, touchers);
    munmap(map, PAGE);
    change_finish(t);
}

static void test_before_an_old_stream(const void *opaque)
{
    /* The prefix of a file that is not young is read once. */
    ChangeTest *t = change_new_file(FIXTURE_ANON, PAGE_COUNT);

    g_assert_cmpint(futimens(t->f->fd, (struct timespec[]) {
        { .tv_sec = 1000 }, { .tv_sec = 1000 } }), ==, 0);
    change_open(t, *(const FastloadIoKind *)opaque, STREAM_OFF,
                FASTLOAD_BACKGROUND_OFF);
    g_assert_cmpuint(t->fl->file.prefix_due_ns, ==, UINT64_MAX);
    change_start(t);
    g_assert_true(fixture_page_is_right(t->f, 3));
    change_write_before(t, 10, 1);
    g_assert_true(fixture_page_is_right(t->f, 4));
    change_check_no_stall(t);
    change_finish(t);
}

static void test_before_a_copys_stream(const void *opaque)
{
    /* A copy has a prefix of its own, which may change as well. */
    ChangeTest *t = change_new_behind(*(const FastloadIoKind *)opaque);
    off_t len_bytes = lseek(t->f->fd, 0, SEEK_END);
    g_autofree uint8_t *bytes = g_malloc(len_bytes);
    FixtureToucher touchers[2];
    int copy_fd = fixture_temp_file();

    g_assert_cmpint(pread(t->f->fd, bytes, len_bytes, 0), ==, len_bytes);
    bytes[10] = 7;
    g_assert_cmpint(pwrite(copy_fd, bytes, len_bytes, 0), ==, len_bytes);
    change_flip_page(t, 700);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    change_check_stalled(t, touchers);
    g_assert_true(fastload_recover(t->fl, copy_fd, NULL));
    close(copy_fd);
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    change_write_before(t, 10, 8); /* the copy's: it has the number now */
    g_assert_true(fixture_page_is_right(t->f, 5));
    change_flip_page(t, 701);
    fixture_toucher_start_page(&touchers[0], t->f, 6);
    fixture_toucher_start_page(&touchers[1], t->f, 701);
    fixture_wait_until(fixture_events_count(&t->events,
                                            FASTLOAD_EVENT_STALLED) == 2);
    change_flip_page(t, 701);
    change_check_recovery(t, touchers);
    change_finish(t);
}

static void test_before_the_stream_direct(const void *opaque)
{
    /* O_DIRECT reads no part of a page, and sees what others write. */
    ChangeTest *t = change_new_file(FIXTURE_ANON, PAGE_COUNT);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", t->f->fd);
    int direct_fd = open(path, O_RDONLY | O_DIRECT), fd = t->f->fd;

    if (direct_fd < 0) {
        g_test_skip("no O_DIRECT in TMPDIR");
        change_free(t);
        return;
    }
    t->f->fd = direct_fd;
    change_open(t, *(const FastloadIoKind *)opaque, STREAM_OFF,
                FASTLOAD_BACKGROUND_OFF);
    g_assert_nonnull(t->fl->file.prefix);
    t->f->fd = fd;
    change_start(t);
    change_write_before(t, STREAM_OFF - 1, 1);
    g_assert_true(fixture_page_is_right(t->f, 4));
    change_check_no_stall(t);
    change_finish(t);
    close(direct_fd);
}

static void test_before_the_stream_at_start(const void *opaque)
{
    /* What start loads is right, though the prefix is rewritten. */
    ChangeTest *t = change_new_file(FIXTURE_PRIVATE_FILE, PAGE_COUNT);

    change_open(t, *(const FastloadIoKind *)opaque, STREAM_OFF, 0);
    change_write_before(t, 10, 1);
    change_start_eager(t, false);
}

static void test_data_at_start(const void *opaque)
{
    /* Start fails if the snapshot itself was rewritten. */
    ChangeTest *t = change_new_file(FIXTURE_PRIVATE_FILE, PAGE_COUNT);

    change_open(t, *(const FastloadIoKind *)opaque, STREAM_OFF, 0);
    change_flip_page(t, 700);
    change_start_eager(t, true);
}

static void test_region_before_the_stream(const void *opaque)
{
    /* A region may not lie before stream_off, where others may write. */
    FastloadConfig config = { .io_kind = *(const FastloadIoKind *)opaque };
    ChangeTest *t = change_new_file(FIXTURE_ANON, PAGE_COUNT);
    FastloadRegion region;
    GError *error = NULL;

    config.stream_off = t->f->file_off + 1;
    t->fl = fastload_new(t->f->fd, &config, &error);
    g_assert_no_error(error);
    fixture_region(t->f, &region);
    g_assert_false(fastload_add_region(t->fl, &region, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, "before the stream"));
    g_error_free(error);
    change_free(t);
}

/* ---- io_uring, refused while it is in use ---- */

static const char *change_io_name(ChangeTest *t)
{
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    return stats.io_name;
}

static void test_uring_set_up_and_refused(const void *opaque)
{
    /* A ring that can be set up but not used counts as refused. */
    ChangeTest *t;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    fixture_refuse(SYS_io_uring_enter);
    t = change_new(FASTLOAD_IO_AUTO, FIXTURE_ANON, PAGE_COUNT, 0);
    change_start(t);
    g_assert_cmpstr(change_io_name(t), ==, "preadv");
    g_assert_nonnull(t->fl->io_fallback);
    g_assert_false(t->fl->pool.is_lost);
    change_finish(t);
}

/* A page that the file does not have: the load does not end before it goes. */
static uint8_t *change_add_missing(ChangeTest *t)
{
    const uint64_t data_bits = 1;
    uint8_t *hva = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FastloadRegion region;

    g_assert_true(hva != MAP_FAILED);
    fixture_region(t->f, &region);
    region.hva = hva;
    region.file_off += 2 * region.len_bytes;
    region.len_bytes = PAGE;
    region.data_bits = &data_bits;
    region.wants_huge = false;
    g_assert_true(fastload_add_region(t->fl, &region, NULL));
    return hva;
}

static void test_uring_refused_later(const void *opaque)
{
    /* When io_uring is refused in use, all workers go on with preadv. */
    FixtureToucher touchers[4];
    FastloadStats stats;
    uint8_t *missing;
    ChangeTest *t;
    guint i;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    t = change_new(FASTLOAD_IO_IO_URING, *(const FixtureMemory *)opaque,
                   LARGE_PAGE_COUNT, 0);
    missing = change_add_missing(t);
    fixture_drop_cache(t->f);
    change_start(t);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        fixture_toucher_start(&touchers[i], t->f, i, 2000);
    }
    fixture_wait_until(({
        fastload_get_stats(t->fl, &stats);
        stats.remaining_bytes < t->f->len_bytes * 7 / 8;
    }));
    g_assert_cmpstr(change_io_name(t), ==, "io_uring");
    fixture_refuse(SYS_io_uring_enter);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    change_hurry_until(t, strcmp(change_io_name(t), "preadv") == 0);
    fastload_get_stats(t->fl, &stats);
    g_assert_cmpuint(stats.preadv_count, >, 0);
    fastload_drop_region(t->fl, missing);
    change_finish(t);
    munmap(missing, PAGE);
}

static void add_test(const char *behaviour, uint32_t needs,
                     GTestDataFunc func, const void *data)
{
    g_autofree char *path = g_strdup_printf("/fastload/change/%s", behaviour);

    fixture_add_test(path, FIXTURE_NEEDS_UFFD | needs, func, data);
}

static void test_time_that_moves_by_itself(const void *opaque)
{
    /* A file system whose times are always "now" does not stall a load. */
    const FastloadIoKind *io_kind = opaque;
    ChangeTest *t = change_new(*io_kind, FIXTURE_ANON, PAGE_COUNT,
                               FASTLOAD_BACKGROUND_OFF);
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    g_assert_false(stats.has_mtime_moved);
    /* As of a file on such a file system. */
    t->fl->file.may_mtime_move = 1;
    change_start(t);
    g_assert_cmpint(futimens(t->f->fd, NULL), ==, 0);
    g_assert_true(fixture_page_is_right(t->f, 4));
    fastload_get_stats(t->fl, &stats);
    g_assert_true(stats.has_mtime_moved);
    g_assert_cmpuint(fixture_events_count(&t->events,
                                          FASTLOAD_EVENT_STALLED), ==, 0);
    change_finish(t);
}

static void add_backend_tests(const FastloadIoKind *io_kind)
{
    bool is_uring = *io_kind == FASTLOAD_IO_IO_URING;
    uint32_t needs = is_uring ? FIXTURE_NEEDS_URING : 0;
    const char *name = is_uring ? "io_uring" : "preadv";
    struct {
        const char *behaviour;
        GTestDataFunc func;
    } tests[] = {
        { "file-is-overwritten", test_changed_file },
        { "file-grows", test_longer_file },
        { "reads-of-a-replaced-file", test_reads_of_a_replaced_file },
        { "while-it-is-replaced", test_while_it_is_replaced },
        { "changed-file-is-left-alone", test_changed_file_is_left_alone },
        { "time-that-moves-by-itself", test_time_that_moves_by_itself },
        { "file-changed-before-start", test_file_changed_before_start },
        { "before-the-stream", test_before_the_stream },
        { "before-the-stream-direct", test_before_the_stream_direct },
        { "before-the-stream-at-start", test_before_the_stream_at_start },
        { "before-an-old-stream", test_before_an_old_stream },
        { "before-a-copys-stream", test_before_a_copys_stream },
        { "saved-anew", test_saved_anew },
        { "being-saved-anew", test_being_saved_anew },
        { "first-byte-of-the-stream", test_first_byte_of_the_stream },
        { "behind-the-begin", test_behind_the_begin },
        { "data-at-start", test_data_at_start },
        { "data-then-before", test_data_then_before },
        { "time-is-put-back", test_time_is_put_back },
        { "bytes-after-their-time", test_bytes_after_their_time },
        { "writes-in-a-row", test_writes_in_a_row },
        { "writes-not-in-a-row", test_writes_not_in_a_row },
        { "soon-after-the-begin", test_soon_after_the_begin },
        { "late-bytes-at-start", test_late_bytes_at_start },
        { "two-writes-of-one-time", test_two_writes_of_one_time },
        { "region-before-the-stream", test_region_before_the_stream },
    };
    guint i;

    for (i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *behaviour = g_strdup_printf("%s/%s", name,
                                                     tests[i].behaviour);

        add_test(behaviour, needs, tests[i].func, io_kind);
    }
}

int main(int argc, char **argv)
{
    static const FixtureMemory anon = FIXTURE_ANON, thp = FIXTURE_THP;
    guint i;

    fixture_init(&argc, &argv);
    for (i = 0; i < G_N_ELEMENTS(change_kinds); i++) {
        add_backend_tests(&change_kinds[i]);
    }
    add_test("ring-is-set-up-and-refused", FIXTURE_NEEDS_URING,
             test_uring_set_up_and_refused, NULL);
    add_test("ring-is-refused-later", FIXTURE_NEEDS_URING,
             test_uring_refused_later, &anon);
    add_test("ring-is-refused-later-huge", FIXTURE_NEEDS_URING,
             test_uring_refused_later, &thp);
    return g_test_run();
}
