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
/* A time of modification may be a tick of the kernel's clock coarse. */
#define CLOCK_TICK_US (20 * 1000)
/* So much that it is not all there when something else happens. */
#define LARGE_PAGE_COUNT (32 * CHUNK_PAGES)

typedef struct ChangeTest {
    Fixture *f;
    Fastload *fl;
    FixtureEvents events;
} ChangeTest;

static const FastloadIoKind change_kinds[] = {
    FASTLOAD_IO_IO_URING, FASTLOAD_IO_PREADV,
};

static ChangeTest *change_new(FastloadIoKind io_kind, FixtureMemory memory,
                              uint64_t page_count, uint64_t bytes_per_s)
{
    ChangeTest *t = g_new0(ChangeTest, 1);
    FastloadConfig config = {
        .io_kind = io_kind, .event_func = fixture_events_func,
        .event_opaque = &t->events, .background_bytes_per_s = bytes_per_s,
    };
    FastloadRegion region;
    GError *error = NULL;

    fixture_events_init(&t->events);
    t->f = fixture_new(memory, page_count, fixture_all_data);
    g_usleep(CLOCK_TICK_US);
    t->fl = fastload_new(t->f->fd, &config, &error);
    g_assert_no_error(error);
    fixture_region(t->f, &region);
    fastload_add_region(t->fl, &region, &error);
    g_assert_no_error(error);
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

static void change_finish(ChangeTest *t)
{
    GError *error = NULL;

    fastload_set_background_rate(t->fl, 0);
    fastload_wait(t->fl, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fastload_free(t->fl);
    fixture_free(t->f);
    fixture_events_clear(&t->events);
    g_free(t);
}

/* Flips each bit of the page in the file: done twice, it is as it was. */
static void change_flip_page(const ChangeTest *t, uint64_t page_idx)
{
    off_t off = t->f->file_off + page_idx * PAGE;
    uint8_t bytes[PAGE];
    size_t i;

    g_usleep(CLOCK_TICK_US);
    g_assert_cmpint(pread(t->f->fd, bytes, PAGE, off), ==, PAGE);
    for (i = 0; i < PAGE; i++) {
        bytes[i] = ~bytes[i];
    }
    g_assert_cmpint(pwrite(t->f->fd, bytes, PAGE, off), ==, PAGE);
}

/* Stalled, since the file is another: neither of the pages comes. */
static void change_check_stalled(ChangeTest *t, FixtureToucher *touchers)
{
    FastloadFailure failure;

    fixture_events_wait(&t->events, FASTLOAD_EVENT_STALLED);
    g_assert_true(fastload_is_failing(t->fl, &failure));
    g_assert_cmpint(failure.kind, ==, FASTLOAD_FAILURE_CHANGED);
    g_assert_nonnull(strstr(fastload_failure_cause(&failure), "changed"));
    g_usleep(CLOCK_TICK_US);
    g_assert_false(fixture_toucher_is_done(&touchers[0]));
    g_assert_false(fixture_toucher_is_done(&touchers[1]));
}

static void test_changed_file(const void *opaque)
{
    /* Overwritten at the same length: nothing of it is loaded any more. */
    ChangeTest *t = change_new_started(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];

    g_assert_true(fixture_page_is_right(t->f, 3));
    change_flip_page(t, 700);
    fixture_toucher_start_page(&touchers[0], t->f, 4);
    fixture_toucher_start_page(&touchers[1], t->f, 700);
    fastload_set_background_rate(t->fl, 0);
    change_check_stalled(t, touchers);
    g_assert_false(fixture_page_is_resident(t->f, 700));

    /* It has the right bytes again, which nobody but the caller can know. */
    change_flip_page(t, 700);
    change_check_stalled(t, touchers);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    change_finish(t);
}

static void test_longer_file(const void *opaque)
{
    /* One that grows is another file, too, whatever its time says. */
    ChangeTest *t = change_new_started(*(const FastloadIoKind *)opaque);
    FixtureToucher touchers[2];
    FastloadStats stats;
    uint64_t error_count;
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
    /* As it looked before; what was written in between nobody can see. */
    fastload_get_stats(t->fl, &stats);
    error_count = stats.io_error_count;
    fixture_wait_until(({
        fastload_get_stats(t->fl, &stats);
        stats.io_error_count >= error_count + 2 ||
        fixture_toucher_is_done(&touchers[0]);
    }));
    change_check_stalled(t, touchers);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    g_assert_cmpuint(fixture_toucher_join(&touchers[0]), ==, 0);
    g_assert_cmpuint(fixture_toucher_join(&touchers[1]), ==, 0);
    change_finish(t);
}

/* Of what was read with @file_count. */
static void change_check_file(ChangeTest *t, uint32_t file_count,
                              bool is_replaced)
{
    bool seen;

    g_assert_true(fastload_file_is_changed(t->fl, file_count, &seen) ==
                  is_replaced);
    g_assert_true(seen == is_replaced);
}

static void test_reads_of_a_replaced_file(const void *opaque)
{
    /* What was begun before a recovery is not taken for what came after. */
    ChangeTest *t = change_new_started(*(const FastloadIoKind *)opaque);
    uint32_t file_count = t->fl->file_count;
    int copy_fd;

    change_check_file(t, file_count, false);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    change_check_file(t, file_count, true);
    g_assert_cmpuint(t->fl->file_count % 2, ==, 0);
    file_count = t->fl->file_count;
    change_check_file(t, file_count, false);
    copy_fd = dup(t->f->fd);
    g_assert_true(fastload_recover(t->fl, copy_fd, NULL));
    change_check_file(t, file_count, true);
    change_check_file(t, t->fl->file_count, false);
    close(copy_fd);
    change_finish(t);
}

static void test_while_it_is_replaced(const void *opaque)
{
    /* Between two files nothing is placed: it may be of either. */
    ChangeTest *t = change_new_started(*(const FastloadIoKind *)opaque);
    FixtureToucher toucher;

    __atomic_add_fetch(&t->fl->file_count, 1, __ATOMIC_SEQ_CST);
    fixture_toucher_start_page(&toucher, t->f, 9);
    fastload_set_background_rate(t->fl, 0);
    g_usleep(5 * CLOCK_TICK_US);
    g_assert_false(fixture_toucher_is_done(&toucher));
    g_assert_false(fixture_page_is_resident(t->f, 9));
    g_assert_false(fixture_page_is_resident(t->f, PAGE_COUNT - 1));
    __atomic_add_fetch(&t->fl->file_count, 1, __ATOMIC_SEQ_CST);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    change_finish(t);
}

static void test_changed_file_is_left_alone(const void *opaque)
{
    /* What is of no use is not read to its end: chunks are not begun. */
    ChangeTest *t = change_new(*(const FastloadIoKind *)opaque, FIXTURE_ANON,
                               LARGE_PAGE_COUNT, FASTLOAD_BACKGROUND_OFF);
    FastloadStats stats;
    uint64_t chunk_idx;

    change_start(t);
    change_flip_page(t, 700);
    fastload_set_background_rate(t->fl, 0);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_STALLED);
    g_usleep(5 * CLOCK_TICK_US);
    fastload_get_stats(t->fl, &stats);
    g_assert_cmpuint(stats.remaining_bytes, ==, t->f->len_bytes);
    g_mutex_lock(&t->fl->sched_lock);
    chunk_idx = t->fl->next_area ? UINT64_MAX : t->fl->next_chunk;
    g_mutex_unlock(&t->fl->sched_lock);
    g_assert_cmpuint(chunk_idx, <, LARGE_PAGE_COUNT / CHUNK_PAGES / 2);
    change_flip_page(t, 700);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    change_finish(t);
}

static void test_file_changed_before_start(const void *opaque)
{
    /* Memory that is loaded before the guest runs: a plain failure. */
    ChangeTest *t = change_new(*(const FastloadIoKind *)opaque,
                               FIXTURE_PRIVATE_FILE, PAGE_COUNT, 0);
    GError *error = NULL;

    change_flip_page(t, 700);
    g_assert_false(fastload_start(t->fl, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_READ);
    g_assert_nonnull(strstr(error->message, "changed"));
    g_error_free(error);
    fastload_free(t->fl);
    fixture_free(t->f);
    fixture_events_clear(&t->events);
    g_free(t);
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
    /* A ring that may be opened and not used is none. */
    ChangeTest *t;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    fixture_refuse(SYS_io_uring_enter);
    t = change_new(FASTLOAD_IO_AUTO, FIXTURE_ANON, PAGE_COUNT, 0);
    change_start(t);
    g_assert_cmpstr(change_io_name(t), ==, "preadv");
    g_assert_nonnull(t->fl->io_fallback);
    g_assert_false(t->fl->is_staging_lost);
    change_finish(t);
}

static void test_uring_refused_later(const void *opaque)
{
    /* Every worker reads on with preadv, and what was on its way comes too. */
    FixtureToucher touchers[4];
    FastloadStats stats;
    ChangeTest *t;
    guint i;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    t = change_new(FASTLOAD_IO_IO_URING, *(const FixtureMemory *)opaque,
                   LARGE_PAGE_COUNT, 0);
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
    fixture_wait_until(strcmp(change_io_name(t), "preadv") == 0);
    change_finish(t);
}

static void add_test(const char *behaviour, uint32_t needs,
                     GTestDataFunc func, const void *data)
{
    g_autofree char *path = g_strdup_printf("/fastload/change/%s", behaviour);

    fixture_add_test(path, FIXTURE_NEEDS_UFFD | needs, func, data);
}

static void test_time_that_moves_by_itself(const void *opaque)
{
    /* Where a file's time is "now" whenever it is asked for, it says nothing */
    const FastloadIoKind *io_kind = opaque;
    ChangeTest *t = change_new(*io_kind, FIXTURE_ANON, PAGE_COUNT,
                               FASTLOAD_BACKGROUND_OFF);
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    g_assert_false(stats.has_mtime_moved);
    /* As of a file on such a file system. */
    t->fl->may_mtime_move = 1;
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
