/*
 * Whole loads, on every read backend and every kind of memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "fastload-fixture.h"

#define PAGE_COUNT 12345u
#define HUGE_PAGE_COUNT (512u * 12)

typedef struct Toucher {
    const Fixture *f;
    uint32_t seed;
    uint32_t touch_count;
    uint32_t wrong_count;
} Toucher;

static void *toucher_main(void *opaque)
{
    Toucher *t = opaque;
    g_autoptr(GRand) rand = g_rand_new_with_seed(t->seed);
    uint32_t i;

    for (i = 0; i < t->touch_count; i++) {
        uint64_t page = g_rand_int_range(rand, 0, t->f->len_bytes / 4096);

        t->wrong_count += !fixture_page_is_right(t->f, page);
    }
    return NULL;
}

static Fastload *load_start(const Fixture *f, FastloadIoKind io_kind,
                            uint32_t worker_count)
{
    FastloadConfig config = {
        .worker_count = worker_count, .io_kind = io_kind,
    };
    FastloadRegion region;
    GError *error = NULL;
    Fastload *fl = fastload_new(f->fd, &config, &error);

    g_assert_no_error(error);
    fixture_region(f, &region);
    fastload_add_region(fl, &region, &error);
    g_assert_no_error(error);
    fastload_start(fl, &error);
    g_assert_no_error(error);
    return fl;
}

static void load_check(FixtureMemory memory, FastloadIoKind io_kind,
                       uint32_t worker_count, FixtureHasData *has_data)
{
    uint64_t pages = memory == FIXTURE_HUGETLB ? HUGE_PAGE_COUNT : PAGE_COUNT;
    Fixture *f = fixture_new(memory, pages, has_data);
    Toucher touchers[3];
    GThread *threads[3];
    GError *error = NULL;
    FastloadStats stats;
    Fastload *fl;
    int i;

    if (!f) {
        return;
    }
    fl = load_start(f, io_kind, worker_count);
    for (i = 0; i < 3; i++) {
        touchers[i] = (Toucher) { .f = f, .seed = i, .touch_count = 2000 };
        threads[i] = g_thread_new("toucher", toucher_main, &touchers[i]);
    }
    for (i = 0; i < 3; i++) {
        g_thread_join(threads[i]);
        g_assert_cmpuint(touchers[i].wrong_count, ==, 0);
    }
    g_assert_true(fastload_wait(fl, &error));
    g_assert_no_error(error);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.remaining_bytes, ==, 0);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_URGENT] +
                     stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND],
                     ==, f->data_bytes);
    g_assert_cmpstr(stats.io_name, ==,
                    io_kind == FASTLOAD_IO_PREADV ? "preadv" : "io_uring");
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_mixed(const void *io_kind)
{
    load_check(FIXTURE_ANON, GPOINTER_TO_INT(io_kind), 2, fixture_mixed);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/fastload/load/io_uring/mixed",
                         GINT_TO_POINTER(FASTLOAD_IO_IO_URING), test_mixed);
    g_test_add_data_func("/fastload/load/preadv/mixed",
                         GINT_TO_POINTER(FASTLOAD_IO_PREADV), test_mixed);
    return g_test_run();
}
