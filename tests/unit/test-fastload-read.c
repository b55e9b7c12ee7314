/*
 * The life of a read: its states, the requests that it is cut into.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/resource.h>
#include <sys/wait.h>
#include "qemu/fastload_int.h"
#include "fastload-fixture.h"

#define PAGE FASTLOAD_PAGE_BYTES_MIN
#define PAGE_COUNT 64
/* Far enough apart not to be read over. */
#define FAR_PAGES (FASTLOAD_GAP_BYTES_MAX / PAGE + 2)
#define FILE_OFF (7 * PAGE)

typedef struct ReadTest {
    FastloadArea *area;
    uint64_t bits[FASTLOAD_BIT_WORDS(PAGE_COUNT) + 1];
    uint8_t *buf;
    FastloadSpan extents[FASTLOAD_EXTENT_COUNT_MAX];
    FastloadRead read;
} ReadTest;

/* Two pages have data, so far apart that a chunk has two stretches. */
static ReadTest *read_test_new(FastloadClass class)
{
    ReadTest *t = g_new0(ReadTest, 1);
    FastloadRegion region = {
        .hva = (void *)(uintptr_t)(1ull << 40), /* nothing here touches it */
        .len_bytes = PAGE_COUNT * PAGE,
        .file_off = FILE_OFF,
        .page_bytes = PAGE,
        .granule_bytes = PAGE,
        .data_bits = t->bits,
    };

    t->bits[0] = 1ull | 1ull << FAR_PAGES;
    t->area = fastload_plan_area_new(&region);
    t->area->placed = g_new0(uint64_t, FASTLOAD_BIT_WORDS(PAGE_COUNT));
    t->buf = g_malloc(PAGE_COUNT * PAGE);
    t->read.class = class;
    t->read.is_pooled = class != FASTLOAD_CLASS_URGENT;
    t->read.buf = t->buf;
    t->read.extents = t->extents;
    return t;
}

static void read_test_free(ReadTest *t)
{
    fastload_plan_area_free(t->area);
    g_free(t->buf);
    g_free(t);
}

static void read_plan_chunk(ReadTest *t)
{
    t->read.area = t->area;
    t->read.span = fastload_plan_chunk_span(t->area, 0);
    fastload_read_plan(&t->read, 0, FASTLOAD_GAP_BYTES_MAX);
}

/* Is @move of @t fatal?  Asked in a child; what it says there is not shown. */
static bool read_dies(void (*move)(ReadTest *t), ReadTest *t)
{
    pid_t child = fork();
    int status;

    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
        struct rlimit no_core = { 0 };
        int null_fd = open("/dev/null", O_WRONLY);

        setrlimit(RLIMIT_CORE, &no_core);
        dup2(null_fd, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        move(t);
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_true((WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
                  (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT));
    return WIFSIGNALED(status);
}

/* ---- requests ---- */

static void test_a_chunk_is_cut_to_its_end(void)
{
    /* A chunk is cut until nothing is left, and is ready with the last one. */
    ReadTest *t = read_test_new(FASTLOAD_CLASS_BACKGROUND);
    FastloadIoReq reqs[2];

    read_plan_chunk(t);
    g_assert_cmpint(t->read.state, ==, FASTLOAD_READ_ISSUING);
    fastload_read_cut(&t->read, UINT32_MAX, &reqs[0]);
    g_assert_cmpuint(reqs[0].file_off, ==, FILE_OFF);
    g_assert_cmpuint(reqs[0].len_bytes, ==, PAGE);
    g_assert_false(fastload_read_req_back(&t->read));
    g_assert_cmpint(t->read.state, ==, FASTLOAD_READ_ISSUING);
    fastload_read_cut(&t->read, UINT32_MAX, &reqs[1]);
    g_assert_cmpuint(reqs[1].file_off, ==, FILE_OFF + FAR_PAGES * PAGE);
    g_assert_true(reqs[1].buf == t->buf + FAR_PAGES * PAGE);
    g_assert_false(fastload_read_has_rest(&t->read));
    g_assert_false(fastload_read_end_issuing(&t->read));
    g_assert_cmpint(t->read.state, ==, FASTLOAD_READ_IN_FLIGHT);
    g_assert_true(fastload_read_req_back(&t->read));
    g_assert_cmpint(t->read.state, ==, FASTLOAD_READ_READY);
    read_test_free(t);
}

static void test_an_urgent_read_is_one_request(void)
{
    /* An urgent read is one request, gaps between its stretches included. */
    ReadTest *t = read_test_new(FASTLOAD_CLASS_URGENT);
    FastloadIoReq req;

    t->read.fault = (FastloadFault) { .area = t->area };
    g_assert_true(fastload_read_aim(&t->read, PAGE_COUNT * PAGE));
    fastload_read_plan(&t->read, 0, FASTLOAD_GAP_BYTES_MAX);
    fastload_read_cut(&t->read, UINT32_MAX, &req);
    g_assert_cmpuint(req.len_bytes, ==, (FAR_PAGES + 1) * PAGE);
    g_assert_false(fastload_read_end_issuing(&t->read));
    read_test_free(t);
}

static void test_what_failed_has_no_rest(void)
{
    /* After an error nothing more is issued; the first error is kept. */
    ReadTest *t = read_test_new(FASTLOAD_CLASS_BACKGROUND);
    FastloadIoReq req;

    read_plan_chunk(t);
    fastload_read_cut(&t->read, UINT32_MAX, &req);
    g_assert_true(fastload_read_has_rest(&t->read));
    fastload_read_fail(&t->read, FASTLOAD_FAILURE_READ, -EIO, 1);
    fastload_read_fail(&t->read, FASTLOAD_FAILURE_PLACE, -ENOMEM, 2);
    g_assert_false(fastload_read_has_rest(&t->read));
    g_assert_true(fastload_read_req_back(&t->read));
    g_assert_cmpint(t->read.error, ==, -EIO);
    g_assert_cmpuint(t->read.error_file_off, ==, 1);
    read_test_free(t);
}

/* ---- states ---- */

static FastloadReadState read_test_to;

static void read_move(ReadTest *t)
{
    fastload_read_move(&t->read, read_test_to);
}

static void test_a_wrong_move_is_fatal(void)
{
    /* Only the moves of the diagram may be made; others are fatal. */
    static const struct { FastloadReadState from, to; } edges[] = {
        { FASTLOAD_READ_FRESH, FASTLOAD_READ_ISSUING },
        { FASTLOAD_READ_ISSUING, FASTLOAD_READ_IN_FLIGHT },
        { FASTLOAD_READ_ISSUING, FASTLOAD_READ_READY },
        { FASTLOAD_READ_IN_FLIGHT, FASTLOAD_READ_READY },
        { FASTLOAD_READ_READY, FASTLOAD_READ_PLACING },
        { FASTLOAD_READ_PLACING, FASTLOAD_READ_READY },
        { FASTLOAD_READ_PLACING, FASTLOAD_READ_FRESH },
        { FASTLOAD_READ_PLACING, FASTLOAD_READ_SPENT },
        { FASTLOAD_READ_SPENT, FASTLOAD_READ_FRESH },
    };
    ReadTest *t = read_test_new(FASTLOAD_CLASS_BACKGROUND);
    uint32_t from, to, e;

    read_plan_chunk(t);
    for (from = 0; from < FASTLOAD_READ_STATE_MAX; from++) {
        for (to = 0; to < FASTLOAD_READ_STATE_MAX; to++) {
            bool is_edge = false;

            for (e = 0; e < G_N_ELEMENTS(edges); e++) {
                is_edge = is_edge || (edges[e].from == from &&
                                      edges[e].to == to);
            }
            /* All else is as the state that is entered wants it. */
            t->read.state = from;
            t->read.inflight_count = to == FASTLOAD_READ_IN_FLIGHT;
            t->read.extent_idx = to == FASTLOAD_READ_ISSUING
                ? 0 : t->read.extent_count;
            read_test_to = to;
            g_assert_cmpint(read_dies(read_move, t), ==, !is_edge);
        }
    }
    read_test_free(t);
}

static void read_end(ReadTest *t)
{
    fastload_read_end_issuing(&t->read);
}

static void test_what_is_left_undone_is_fatal(void)
{
    /* A read cannot be handed on while something of it is unfinished. */
    ReadTest *t = read_test_new(FASTLOAD_CLASS_BACKGROUND);

    /* It has a rest. */
    read_plan_chunk(t);
    g_assert_true(read_dies(read_end, t));

    /* One of its requests is out. */
    t->read.extent_idx = t->read.extent_count;
    t->read.inflight_count = 1;
    read_test_to = FASTLOAD_READ_READY;
    g_assert_true(read_dies(read_move, t));

    /* Some of its staging was moved away. */
    t->read.inflight_count = 0;
    fastload_read_move(&t->read, FASTLOAD_READ_READY);
    fastload_read_move(&t->read, FASTLOAD_READ_PLACING);
    t->read.placed_bytes = t->read.moved_bytes = PAGE;
    read_test_to = FASTLOAD_READ_FRESH;
    g_assert_true(read_dies(read_move, t));

    /* A fault counts on it, or the scheduler. */
    t->read.moved_bytes = 0;
    g_assert_false(read_dies(read_move, t));
    t->read.around_claims = 1;
    g_assert_true(read_dies(read_move, t));
    t->read.around_claims = 0;
    t->read.fault.area = t->area;
    g_assert_true(read_dies(read_move, t));
    t->read.fault.area = NULL;
    t->read.is_retried = true;
    g_assert_true(read_dies(read_move, t));
    read_test_free(t);
}

static void test_what_piles_up_is_bounded(void)
{
    /* The pool limits reads that wait to be placed, not those in flight. */
    g_autofree Fastload *fl = g_new0(Fastload, 1);
    FastloadRead *read;
    uint32_t i;

    g_mutex_init(&fl->pool.lock);
    fl->pool.read_count = 8;
    g_assert_true(fastload_pool_prepare(fl, NULL));
    for (i = 0; i < 3; i++) {
        read = fastload_pool_take(fl, FASTLOAD_READ_FRESH);
        read->state = FASTLOAD_READ_READY;
        fastload_pool_put(fl, read);
    }
    for (i = 0; i < 4; i++) {
        g_assert_nonnull(fastload_pool_take(fl, FASTLOAD_READ_FRESH));
    }
    g_assert_true(fastload_pool_has_room(fl, 4));
    g_assert_false(fastload_pool_has_room(fl, 3));
    /* One of those is placed by somebody: it has been taken. */
    g_assert_nonnull(fastload_pool_take(fl, FASTLOAD_READ_READY));
    g_assert_true(fastload_pool_has_room(fl, 3));
    /* None is fresh. */
    g_assert_nonnull(fastload_pool_take(fl, FASTLOAD_READ_FRESH));
    g_assert_false(fastload_pool_has_room(fl, 8));
    fastload_pool_release(fl);
    g_mutex_clear(&fl->pool.lock);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    g_test_add_func("/fastload/read/a-chunk-is-cut-to-its-end",
                    test_a_chunk_is_cut_to_its_end);
    g_test_add_func("/fastload/read/an-urgent-read-is-one-request",
                    test_an_urgent_read_is_one_request);
    g_test_add_func("/fastload/read/what-failed-has-no-rest",
                    test_what_failed_has_no_rest);
    g_test_add_func("/fastload/read/a-wrong-move-is-fatal",
                    test_a_wrong_move_is_fatal);
    g_test_add_func("/fastload/read/what-is-left-undone-is-fatal",
                    test_what_is_left_undone_is_fatal);
    g_test_add_func("/fastload/read/what-piles-up-is-bounded",
                    test_what_piles_up_is_bounded);

    return g_test_run();
}
