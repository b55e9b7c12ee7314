/*
 * Whole loads, on every read backend and every kind of memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "qemu/fastload_int.h"
#include "fastload-fixture.h"
#include "fastload-gate.h"

#define CHUNK_PAGES FIXTURE_CHUNK_PAGE_COUNT
/* All patterns of fixture_mixed(), and an odd end. */
#define CHUNK_BYTES (CHUNK_PAGES * FIXTURE_PAGE_BYTES)
#define PAGE_COUNT (13 * CHUNK_PAGES + 39)
#define HUGE_PAGE_COUNT (13 * CHUNK_PAGES)
#define TOUCHER_COUNT 3
#define WRITER_COUNT 4
#define WRITTEN_WORD 11

typedef struct LoadCase {
    FastloadIoKind io_kind;
    FixtureMemory memory;
    uint32_t worker_count;
    FixtureHasData *has_data;
} LoadCase;

static const char *load_io_name(FastloadIoKind io_kind)
{
    return io_kind == FASTLOAD_IO_PREADV ? "preadv" : "io_uring";
}

static Fastload *load_new(int fd, FastloadIoKind io_kind,
                          uint32_t worker_count, FixtureEvents *events)
{
    FastloadConfig config = {
        .worker_count = worker_count,
        .io_kind = io_kind,
        .event_func = events ? fixture_events_func : NULL,
        .event_opaque = events,
    };
    GError *error = NULL;
    Fastload *fl = fastload_new(fd, &config, &error);

    g_assert_no_error(error);
    g_assert_nonnull(fl);
    return fl;
}

static void load_add(Fastload *fl, const FastloadRegion *region)
{
    GError *error = NULL;
    bool is_added = fastload_add_region(fl, region, &error);

    g_assert_no_error(error);
    g_assert_true(is_added);
}

static void load_go(Fastload *fl)
{
    GError *error = NULL;
    bool is_started = fastload_start(fl, &error);

    g_assert_no_error(error);
    g_assert_true(is_started);
}

static Fastload *load_start(const Fixture *f, FastloadIoKind io_kind,
                            uint32_t worker_count)
{
    Fastload *fl = load_new(f->fd, io_kind, worker_count, NULL);
    FastloadRegion region;

    fixture_region(f, &region);
    load_add(fl, &region);
    load_go(fl);
    return fl;
}

static Fastload *load_start_config(const Fixture *f,
                                   const FastloadConfig *config)
{
    Fastload *fl = fastload_new(f->fd, config, NULL);
    FastloadRegion region;

    fixture_region(f, &region);
    load_add(fl, &region);
    load_go(fl);
    return fl;
}

static Fastload *load_start_at_rate(const Fixture *f, const LoadCase *lc,
                                    uint64_t bytes_per_s)
{
    Fastload *fl = load_new(f->fd, lc->io_kind, lc->worker_count, NULL);
    FastloadRegion region;

    fixture_region(f, &region);
    load_add(fl, &region);
    fastload_set_background_rate(fl, bytes_per_s);
    load_go(fl);
    return fl;
}

static void load_wait(Fastload *fl)
{
    GError *error = NULL;
    bool is_completed = fastload_wait(fl, &error);

    g_assert_no_error(error);
    g_assert_true(is_completed);
}

static uint64_t load_data_bytes(const FastloadStats *stats)
{
    uint64_t bytes = 0;
    uint32_t i;

    for (i = 0; i < FASTLOAD_CLASS_MAX; i++) {
        bytes += stats->loaded_bytes[i];
    }
    return bytes;
}

static void load_assert_most(uint64_t part, uint64_t whole)
{
    /* The kernel may refuse a page now and then, or be short of huge ones. */
    g_assert_cmpuint(part, >=, whole / 10 * 9);
    g_assert_cmpuint(part, <=, whole);
}

/* What a guest writes; no page of a snapshot has it. */
static uint64_t writer_mark(uint64_t page_idx)
{
    return ~page_idx;
}

/* ---- the matrix: backend, memory, content, workers ---- */

static void test_load(const void *opaque)
{
    /* Every page is right, touched during the load or after it. */
    const LoadCase *lc = opaque;
    bool is_huge = lc->memory == FIXTURE_HUGETLB;
    Fixture *f = fixture_new(lc->memory,
                             is_huge ? HUGE_PAGE_COUNT : PAGE_COUNT,
                             lc->has_data);
    FixtureToucher touchers[TOUCHER_COUNT];
    FastloadStats stats;
    Fastload *fl;
    int i;

    if (!f) {
        return;
    }
    fl = load_start(f, lc->io_kind, lc->worker_count);
    for (i = 0; i < TOUCHER_COUNT; i++) {
        fixture_toucher_start(&touchers[i], f, i, 1000);
    }
    for (i = 0; i < TOUCHER_COUNT; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    load_wait(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);

    fastload_get_stats(fl, &stats);
    g_assert_cmpstr(stats.io_name, ==, load_io_name(lc->io_kind));
    g_assert_cmpuint(stats.worker_count, ==, lc->worker_count);
    g_assert_cmpuint(stats.remaining_bytes, ==, 0);
    g_assert_cmpuint(load_data_bytes(&stats), ==, f->data_bytes);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

/* ---- memory that is not trapped ---- */

static void load_check_eager(const LoadCase *lc, FixtureMemory memory,
                             bool is_eager)
{
    Fixture *f = fixture_new(memory, PAGE_COUNT, fixture_mixed);
    Fastload *fl = load_new(f->fd, lc->io_kind, 2, NULL);
    FastloadRegion region;
    FastloadStats stats;

    fixture_region(f, &region);
    region.is_eager = is_eager;
    load_add(fl, &region);
    load_go(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.remaining_bytes, ==, 0);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    load_wait(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.fault_count, ==, 0);
    g_assert_cmpuint(load_data_bytes(&stats), ==, f->data_bytes);
    fastload_free(fl);
    fixture_free(f);
}

static void test_private_file_is_loaded_by_start(const void *opaque)
{
    /* Memory that cannot be trapped is complete, zeros too, after start. */
    load_check_eager(opaque, FIXTURE_PRIVATE_FILE, false);
}

static void test_eager_region_is_loaded_by_start(const void *opaque)
{
    /* A region that asks for it is loaded by start though it could wait. */
    load_check_eager(opaque, FIXTURE_ANON, true);
}

static void test_empty_eager_memory_keeps_holes(const void *opaque)
{
    /* Eager shared memory keeps its holes, which even a read would fill. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_SHARED, PAGE_COUNT, fixture_mixed);
    Fastload *fl = load_new(f->fd, lc->io_kind, 2, NULL);
    FastloadRegion region;
    uint64_t i;

    fixture_region(f, &region);
    region.is_eager = region.is_empty = true;
    load_add(fl, &region);
    load_go(fl);
    for (i = 0; i < PAGE_COUNT; i++) {
        g_assert_cmpint(fixture_page_is_resident(f, i), ==,
                        fixture_page_has_data(f, i));
    }
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    load_wait(fl);
    fastload_free(fl);
    fixture_free(f);
}

static bool load_far_apart(uint64_t page_idx)
{
    return page_idx / CHUNK_PAGES % 4 == 1;
}

static void test_cold_eager_file_stays_cold(const void *opaque)
{
    /* Memory that is loaded by start is read around the page cache, too. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    Fastload *fl = load_new(f->fd, lc->io_kind, 8, NULL);
    FastloadRegion region;

    fixture_region(f, &region);
    region.is_eager = true;
    load_add(fl, &region);
    if (fixture_drop_cache(f)) {
        g_test_skip("the file system of TMPDIR keeps its files in memory");
    } else {
        load_go(fl);
        if (fl->file.direct_fd < 0) {
            g_test_skip("no O_DIRECT in TMPDIR, or no cachestat() here");
        } else {
            g_assert_cmpuint(fixture_cached_bytes(f), ==, 0);
        }
        g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    }
    fastload_free(fl);
    fixture_free(f);
}

static void test_ranges_are_read_ahead(void)
{
    /*
     * What the caller is about to read is cached without its doing.  Ranges may
     * be longer than the kernel reads at once, and end behind the file.
     */
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_all_data);
    const uint64_t file_bytes = f->file_off + f->len_bytes;
    const FastloadFileRange ranges[] = {
        { .file_off = 0, .len_bytes = 100 },
        { .file_off = 1 << 20, .len_bytes = 700 * 1024 },
        { .file_off = file_bytes - 8192, .len_bytes = 1 << 20 },
        { .file_off = 1ull << 40, .len_bytes = 4096 },
    };
    const uint64_t wanted_bytes = 4096 + 700 * 1024 + 8192;
    FastloadConfig config = {
        .ahead_ranges = ranges, .ahead_range_count = G_N_ELEMENTS(ranges),
    };
    Fastload *fl;

    if (fixture_drop_cache(f)) {
        g_test_skip("the file system of TMPDIR keeps its files in memory");
        fixture_free(f);
        return;
    }
    fl = fastload_new(f->fd, &config, NULL);
    g_assert_nonnull(fl);
    fixture_wait_until(fixture_cached_bytes(f) >= wanted_bytes);
    /* Not the rest: the kernel adds a readahead window at most. */
    g_assert_cmpuint(fixture_cached_bytes(f), <, file_bytes / 2);
    fastload_free(fl);
    fixture_free(f);
}

static void test_eager_end_of_file(const void *opaque)
{
    /* If several threads fail, the lowest file offset is reported. */
    const LoadCase *lc = opaque;
    const uint64_t cut_pages = 5 * CHUNK_PAGES + 100;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_all_data);
    uint64_t end_off = f->file_off + cut_pages * FIXTURE_PAGE_BYTES;
    g_autofree char *where = g_strdup_printf("offset %" PRIu64 ": the file "
                                             "ends there", end_off);
    Fastload *fl = load_new(f->fd, lc->io_kind, 8, NULL);
    GError *error = NULL;
    FastloadRegion region;

    g_assert_cmpint(ftruncate(f->fd, end_off), ==, 0);
    fixture_region(f, &region);
    region.is_eager = true;
    load_add(fl, &region);
    g_assert_false(fastload_start(fl, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_READ);
    g_assert_nonnull(strstr(error->message, where));
    g_error_free(error);
    fastload_free(fl);
    fixture_free(f);
}

static void load_count_placed(void *hva, uint64_t len_bytes,
                              FastloadClass class, bool has_data,
                              void *opaque)
{
    *(uint64_t *)opaque += len_bytes;
}

static void test_eager_cancelled(const void *opaque)
{
    /* A start that is cancelled reports no page as placed. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_all_data);
    uint64_t placed_bytes = 0;
    FastloadConfig config = {
        .io_kind = lc->io_kind,
        .placed_func = load_count_placed, .placed_opaque = &placed_bytes,
    };
    Fastload *fl = fastload_new(f->fd, &config, NULL);
    FastloadRegion region;

    fixture_region(f, &region);
    region.is_eager = true;
    load_add(fl, &region);
    fastload_cancel(fl);
    load_go(fl);
    g_assert_false(fastload_wait(fl, NULL));
    g_assert_cmpuint(placed_bytes, ==, 0);
    fastload_free(fl);
    fixture_free(f);
}

/* By trying; the memory is empty again then. */
static bool load_can_be_huge(const Fixture *f)
{
    bool is_huge;

    if (!f->wants_huge || !fixture_has_move()) {
        return false;
    }
    memset(f->hva, 1, f->len_bytes);
    is_huge = fixture_huge_bytes(f) == f->len_bytes;
    g_assert_cmpint(madvise(f->hva, f->len_bytes, MADV_DONTNEED), ==, 0);
    return is_huge;
}

static void test_zeros_are_populated(const void *opaque)
{
    /* Where it is asked for, zero pages get memory of their own. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, 12 * CHUNK_PAGES, load_far_apart);
    Fastload *fl = load_new(f->fd, lc->io_kind, 2, NULL);
    bool can_be_huge = load_can_be_huge(f);
    FastloadRegion region;
    FastloadStats stats;
    uint64_t i;

    fixture_region(f, &region);
    region.wants_populated = true;
    load_add(fl, &region);
    load_go(fl);
    load_wait(fl);
    fastload_settle(fl);
    for (i = 0; i < fixture_page_count(f); i++) {
        g_assert_true(fixture_page_is_resident(f, i));
    }
    /* A page that all zero pages shared would not count here. */
    g_assert_cmpuint(fixture_own_bytes(f), >=, f->len_bytes);
    if (can_be_huge) {
        load_assert_most(fixture_huge_bytes(f), f->len_bytes);
    }
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.read_bytes, ==, f->data_bytes);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_all_zero_registers_nothing(const void *opaque)
{
    /* A snapshot of zeros is complete at once, and no page is trapped. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_all_zero);
    Fastload *fl = load_start(f, lc->io_kind, 2);
    FastloadStats stats;

    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.remaining_bytes, ==, 0);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    load_wait(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.fault_count, ==, 0);
    g_assert_cmpuint(stats.read_bytes, ==, 0);
    g_assert_cmpuint(stats.zero_bytes, ==, stats.total_bytes);
    fastload_free(fl);
    fixture_free(f);
}

static void test_zero_runs_cost_nothing(const void *opaque)
{
    /* Zeros of 2 MiB and more are neither read nor populated. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 12 * CHUNK_PAGES, load_far_apart);
    Fastload *fl = load_start(f, lc->io_kind, 2);
    FastloadStats stats;
    uint64_t i;

    load_wait(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.read_bytes, ==, f->data_bytes);
    for (i = 0; i < fixture_page_count(f); i++) {
        g_assert_true(fixture_page_is_resident(f, i) ==
                      fixture_page_has_data(f, i));
    }
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_mapping_is_whole_again(const void *opaque)
{
    /* Private memory that was one mapping is one when the load is over. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_THP, 24 * CHUNK_PAGES, load_far_apart);
    uint32_t before = fixture_mapping_count(f);
    Fastload *fl = load_start(f, lc->io_kind, 2);

    load_wait(fl);
    fastload_settle(fl);
    g_assert_cmpuint(fixture_mapping_count(f), ==, before);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_populated_pages_are_kept(const void *opaque)
{
    /* A page that was populated before keeps its contents. */
    static const uint64_t pages[] = { 0, 7, 8, 511, 513, 514 };
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 2 * CHUNK_PAGES, fixture_mixed);
    Fastload *fl;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(pages); i++) {
        fixture_page(f, pages[i])[WRITTEN_WORD] = writer_mark(i);
    }
    fl = load_start(f, lc->io_kind, 2);
    load_wait(fl);
    for (i = 0; i < G_N_ELEMENTS(pages); i++) {
        g_assert_cmpuint(fixture_page(f, pages[i])[WRITTEN_WORD], ==,
                         writer_mark(i));
    }
    g_assert_cmpuint(fixture_wrong_count(f), ==, G_N_ELEMENTS(pages));
    fastload_free(fl);
    fixture_free(f);
}

/* ---- shapes ---- */

static void test_unaligned_memory(const void *opaque)
{
    /* A region may begin and end anywhere in the grid of 2 MiB. */
    static const uint64_t skews[] = { 1, 123, 511 };
    const LoadCase *lc = opaque;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(skews); i++) {
        Fixture *f = fixture_new_skewed(lc->memory, 7 * CHUNK_PAGES + 300,
                                        skews[i], fixture_mixed);
        Fastload *fl = load_start(f, lc->io_kind, 2);
        FixtureToucher toucher;

        fixture_toucher_start(&toucher, f, i, 500);
        g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
        load_wait(fl);
        fastload_free(fl);
        g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
        fixture_free(f);
    }
}

static void test_split_mapping(const void *opaque)
{
    /* A region may be several mappings, split anywhere, zero runs too. */
    static const uint64_t splits[][2] = {
        { 289, 100 }, { 512 + 77, 1 }, { 4 * 512 + 31, 700 },
    };
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, 13 * CHUNK_PAGES, fixture_mixed);
    Fastload *fl;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(splits); i++) {
        g_assert_cmpint(madvise(f->hva + splits[i][0] * FIXTURE_PAGE_BYTES,
                                splits[i][1] * FIXTURE_PAGE_BYTES,
                                MADV_DONTDUMP), ==, 0);
    }
    fl = load_start(f, lc->io_kind, 2);
    load_wait(fl);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_unmapped_while_it_loads(const void *opaque)
{
    /* Memory that the caller unmaps is not missed: the load completes. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, 8 * CHUNK_PAGES, fixture_all_data);
    Fastload *fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);
    uint64_t half_bytes = f->len_bytes / 2;

    g_assert_cmpint(munmap(f->hva + half_bytes, half_bytes), ==, 0);
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    fastload_free(fl);
    f->len_bytes = half_bytes;
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_one_page(const void *opaque)
{
    /* A region of one page can be loaded. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new_skewed(FIXTURE_ANON, 1, 17, fixture_all_data);
    Fastload *fl = load_start(f, lc->io_kind, 8);

    load_wait(fl);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_many_regions(const void *opaque)
{
    /* A snapshot of many regions loads, in whatever order they are added. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new_skewed(FIXTURE_SHARED, 5 * CHUNK_PAGES, 64,
                                    fixture_mixed);
    Fastload *fl = load_new(f->fd, lc->io_kind, 2, NULL);
    FixtureToucher toucher;
    FastloadStats stats;
    FastloadRegion whole;
    int i;

    fixture_region(f, &whole);
    for (i = 39; i >= 0; i--) {
        FastloadRegion part = whole;

        /* Words of the bitmap: 64 pages each. */
        part.hva = f->hva + i * 64 * FIXTURE_PAGE_BYTES;
        part.file_off += i * 64 * FIXTURE_PAGE_BYTES;
        part.len_bytes = 64 * FIXTURE_PAGE_BYTES;
        part.data_bits += i;
        load_add(fl, &part);
    }
    load_go(fl);
    fixture_toucher_start(&toucher, f, 1, 1000);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    load_wait(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.total_bytes, ==, f->len_bytes);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_kinds_of_memory_together(const void *opaque)
{
    /* One load may have a trapped and an eager region of one file. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 3 * CHUNK_PAGES, fixture_mixed);
    Fixture *other = fixture_new(FIXTURE_PRIVATE_FILE, 3 * CHUNK_PAGES,
                                 fixture_mixed);
    Fastload *fl = load_new(f->fd, lc->io_kind, 2, NULL);
    FastloadRegion region;

    fixture_region(f, &region);
    load_add(fl, &region);
    region.hva = other->hva; /* of the first one's file: they are alike */
    load_add(fl, &region);
    load_go(fl);
    g_assert_cmpuint(fixture_wrong_count(other), ==, 0);
    load_wait(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_free(f);
    fixture_free(other);
}

static void test_two_at_once(const void *opaque)
{
    /* Two loads in one process do not influence each other. */
    const LoadCase *lc = opaque;
    Fixture *f[2];
    Fastload *fl[2];
    FixtureToucher touchers[2];
    int i;

    for (i = 0; i < 2; i++) {
        f[i] = fixture_new(i ? FIXTURE_SHARED : FIXTURE_ANON, PAGE_COUNT,
                           fixture_mixed);
    }
    for (i = 0; i < 2; i++) {
        fl[i] = load_start(f[i], lc->io_kind, 2);
        fixture_toucher_start(&touchers[i], f[i], i, 1000);
    }
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
        load_wait(fl[i]);
        g_assert_cmpuint(fixture_wrong_count(f[i]), ==, 0);
        fastload_free(fl[i]);
        fixture_free(f[i]);
    }
}

static void test_direct_io(const void *opaque)
{
    /* A descriptor with O_DIRECT loads as any other. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    FixtureToucher toucher;
    Fastload *fl;

    if (fcntl(f->fd, F_SETFL, O_DIRECT) < 0) {
        g_test_skip("the file system of TMPDIR has no O_DIRECT");
        fixture_free(f);
        return;
    }
    fl = load_start(f, lc->io_kind, 2);
    fixture_toucher_start(&toucher, f, 1, 500);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    load_wait(fl);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

/* ---- the page cache ---- */

/* Loads @f, which nobody touches; returns whether there is a way around. */
static bool load_around_cache(const LoadCase *lc, Fixture *f)
{
    Fastload *fl = load_start(f, lc->io_kind, lc->worker_count);
    bool has_way = fl->file.direct_fd >= 0;

    load_wait(fl);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    return has_way;
}

static void test_cold_file_stays_cold(const void *opaque)
{
    /* A load does not fill the page cache. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);

    if (fixture_drop_cache(f)) {
        g_test_skip("the file system of TMPDIR keeps its files in memory");
    } else if (!load_around_cache(lc, f)) {
        g_test_skip("no O_DIRECT in TMPDIR, or no cachestat() here");
    } else {
        g_assert_cmpuint(fixture_cached_bytes(f), ==, 0);
    }
    fixture_free(f);
}

/* The engine's own descriptor for O_DIRECT of a new load, as a flag. */
static bool load_new_has_direct(int fd)
{
    g_autoptr(Fastload) fl = fastload_new(fd, NULL, NULL);

    g_assert_nonnull(fl);
    return fl->file.direct_fd >= 0 &&
           (fcntl(fl->file.direct_fd, F_GETFL) & O_DIRECT);
}

static void test_direct_is_tried_where_nobody_tells(const void *opaque)
{
    /* tmpfs does not tell whether it has O_DIRECT: a read of a page does. */
    int fd = memfd_create("snapshot", MFD_CLOEXEC);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    int direct_fd;

    g_assert_cmpint(fd, >=, 0);
    direct_fd = open(path, O_RDONLY | O_DIRECT);
    if (direct_fd < 0) {
        g_test_skip("this kernel's tmpfs has no O_DIRECT");
    } else {
        /* What cannot be read so is not read so. */
        g_assert_false(load_new_has_direct(fd));
        g_assert_cmpint(ftruncate(fd, 2 * FIXTURE_PAGE_BYTES), ==, 0);
        g_assert_true(load_new_has_direct(fd));
        /* Asked for by the caller, it needs no second descriptor. */
        g_assert_false(load_new_has_direct(direct_fd));
        close(direct_fd);
    }
    close(fd);
}

/* Is the first chunk to be read around the cache, with so much of it there? */
static bool load_is_around(Fastload *fl, const Fixture *f,
                           uint64_t cached_pages)
{
    g_autofree uint8_t *bytes = g_malloc(CHUNK_BYTES);
    FastloadArea *area = g_ptr_array_index(fl->areas, 0);
    FastloadRead read = {
        .area = area, .span = fastload_plan_chunk_span(area, 0),
        .extent_count = 1,
    };
    ssize_t len_bytes = cached_pages * FIXTURE_PAGE_BYTES;

    g_assert_cmpint(pread(f->fd, bytes, len_bytes, f->file_off), ==,
                    len_bytes);
    fastload_file_choose(fl, &read);
    g_assert_true(fl->file.is_cached == !read.is_direct);
    return read.is_direct;
}

static void test_shared_file_is_read_once(const void *opaque)
{
    /* While others load from the file, all read through the page cache. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, CHUNK_PAGES, fixture_all_data);
    Fastload *fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);

    if (!fl->file.is_marked) {
        g_test_skip("no O_DIRECT in TMPDIR, or no locks of open files");
    } else if (fixture_drop_cache(f)) {
        g_test_skip("the file system of TMPDIR keeps its files in memory");
    } else {
        /* Memory of its own, and the same file. */
        Fixture *other_f = fixture_new(FIXTURE_ANON, CHUNK_PAGES,
                                       fixture_all_data);
        Fastload *other;

        g_assert_cmpint(dup2(f->fd, other_f->fd), >=, 0);
        g_assert_true(load_is_around(fl, f, 0));
        other = load_start_at_rate(other_f, lc, FASTLOAD_BACKGROUND_OFF);
        g_assert_false(load_is_around(fl, f, 0));
        g_assert_false(load_is_around(other, f, 0));
        fastload_free(other);
        /* The kernel takes its time to let go a ring, and the file with it. */
        fixture_wait_until(load_is_around(fl, f, 0));
        fixture_free(other_f);
    }
    fastload_free(fl);
    fixture_free(f);
}

/* The nice value of the thread of that name, if there is one. */
static int load_nice_of(const char *name)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/task", 0, NULL);
    const char *tid;

    while ((tid = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("/proc/self/task/%s/comm",
                                                tid);
        g_autofree char *comm = NULL;

        if (g_file_get_contents(path, &comm, NULL, NULL) &&
            strcmp(g_strchomp(comm), name) == 0) {
            return getpriority(PRIO_PROCESS, atoi(tid));
        }
    }
    g_test_message("no thread is called %s", name);
    return INT_MAX;
}

static void test_guests_come_first(const void *opaque)
{
    /* Workers that only place get a higher nice value; the first does not. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, CHUNK_PAGES, fixture_all_data);
    LoadCase two = { .io_kind = lc->io_kind, .worker_count = 2 };
    Fastload *fl = load_start_at_rate(f, &two, FASTLOAD_BACKGROUND_OFF);
    int nice_value = getpriority(PRIO_PROCESS, 0);
    bool is_blocking = fastload_worker_is_blocking(&fl->workers[1]);

    g_assert_cmpint(load_nice_of("fastload-0"), ==, nice_value);
    g_assert_cmpint(load_nice_of("fastload-1"), ==,
                    MIN(nice_value + (is_blocking ? 0 : FASTLOAD_WORKER_NICE),
                        19));
    fastload_free(fl);
    fixture_free(f);
}

static void test_mostly_cached_chunks(const void *opaque)
{
    /* A chunk with three quarters of its data cached is read from the cache. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, CHUNK_PAGES, fixture_all_data);
    Fastload *fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);

    if (fl->file.direct_fd < 0) {
        g_test_skip("no O_DIRECT in TMPDIR, or no cachestat() here");
    } else if (fixture_drop_cache(f)) {
        g_test_skip("the file system of TMPDIR keeps its files in memory");
    } else {
        g_assert_true(load_is_around(fl, f, 0));
        g_assert_true(load_is_around(fl, f, CHUNK_PAGES / 2));
        g_assert_true(load_is_around(fl, f, CHUNK_PAGES * 3 / 4 - 1));
        g_assert_false(load_is_around(fl, f, CHUNK_PAGES * 3 / 4));
        g_assert_false(load_is_around(fl, f, CHUNK_PAGES));
    }
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    fastload_free(fl);
    fixture_free(f);
}

/* NULL: it is broken; or why there is none. */
static const char *load_break_way_around(Fastload *fl, const Fixture *f)
{
    int fd;

    if (fl->file.direct_fd < 0) {
        return "no O_DIRECT in TMPDIR, or no cachestat() here";
    }
    if (fixture_drop_cache(f)) {
        return "the file system of TMPDIR keeps its files in memory";
    }
    fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(dup3(fd, fl->file.direct_fd, O_CLOEXEC), ==,
                    fl->file.direct_fd);
    close(fd);
    return NULL;
}

static void test_way_around_that_fails(const void *opaque)
{
    /* What cannot be read around the page cache is read from it. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    Fastload *fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);
    const char *why = load_break_way_around(fl, f);
    FastloadFailure failure;
    FastloadStats stats;

    fastload_set_background_rate(fl, 0);
    if (why) {
        g_test_skip(why);
    } else {
        fixture_wait_until(({
            g_assert_false(fastload_is_failing(fl, &failure));
            fastload_get_stats(fl, &stats);
            !stats.remaining_bytes;
        }));
        /* Each of them the second time. */
        g_assert_cmpuint(stats.io_error_count, >, 0);
        g_assert_cmpuint(stats.retry_count, ==, stats.io_error_count);
    }
    load_wait(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_free(f);
}

static void test_cached_file_is_not_read(const void *opaque)
{
    /*
     * What is in the page cache is not read from storage again.  A few
     * pages may be: the program's own text, where it first runs.
     */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    uint64_t before;

    g_assert_cmpint(fsync(f->fd), ==, 0);
    if (fixture_cached_bytes(f) < f->data_bytes) {
        g_test_skip("the page cache does not keep what was written");
    } else {
        before = fixture_storage_bytes();
        load_around_cache(lc, f);
        g_assert_cmpuint(fixture_storage_bytes() - before, <,
                         f->data_bytes / 4);
    }
    fixture_free(f);
}

static void test_first_reads_others_place(const void *opaque)
{
    /*
     * While the guest faults, the first worker reads and others place; where
     * reads block, others read, too.
     */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_all_data);
    const FastloadCounters *first, *second;
    Fastload *fl;

    if (fcntl(f->fd, F_SETFL, O_DIRECT) < 0) {
        g_test_skip("the file system of TMPDIR has no O_DIRECT");
        fixture_free(f);
        return;
    }
    test_clock_stop(); /* it faults as it starts, and that is now */
    fl = load_start(f, lc->io_kind, 2);
    load_wait(fl);
    fastload_settle(fl);
    first = &fl->workers[0].counters;
    second = &fl->workers[1].counters;
    if (lc->io_kind == FASTLOAD_IO_PREADV) {
        g_assert_cmpuint(first->read_bytes, ==, 0);
        g_assert_cmpuint(second->read_bytes, ==, f->data_bytes);
    } else {
        g_assert_cmpuint(first->read_bytes, ==, f->data_bytes);
        g_assert_cmpuint(second->read_bytes, ==, 0);
    }
    g_assert_cmpuint(first->loaded_bytes[FASTLOAD_CLASS_BACKGROUND], ==, 0);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

/* ---- a guest that writes ---- */

typedef struct Writer {
    Fixture *f;
    uint32_t idx;
    uint32_t wrong_count;
    GThread *thread;
} Writer;

static void *writer_main(void *opaque)
{
    Writer *w = opaque;
    g_autoptr(GRand) rand = g_rand_new_with_seed(w->idx);
    uint32_t i;

    for (i = 0; i < 1500; i++) {
        uint64_t page = g_rand_int_range(rand, 0, fixture_page_count(w->f) /
                                         WRITER_COUNT) * WRITER_COUNT + w->idx;
        uint64_t *word = &fixture_page(w->f, page)[WRITTEN_WORD];

        /* Nobody else writes to the page: it has data or our mark. */
        if (*word != writer_mark(page)) {
            w->wrong_count += *word != fixture_word(w->f, page, WRITTEN_WORD);
            *word = writer_mark(page);
        }
    }
    return NULL;
}

static void test_writes_are_kept(const void *opaque)
{
    /* Writes of the guest during the load are kept. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, 8 * CHUNK_PAGES, lc->has_data);
    Writer writers[WRITER_COUNT];
    g_autofree bool *is_written = NULL;
    Fastload *fl;
    uint64_t i;
    uint32_t n;

    if (!f) {
        return;
    }
    fl = load_start(f, lc->io_kind, lc->worker_count);
    for (i = 0; i < WRITER_COUNT; i++) {
        writers[i] = (Writer) { .f = f, .idx = i };
        writers[i].thread = g_thread_new("writer", writer_main, &writers[i]);
    }
    for (i = 0; i < WRITER_COUNT; i++) {
        g_thread_join(writers[i].thread);
        g_assert_cmpuint(writers[i].wrong_count, ==, 0);
    }
    load_wait(fl);
    fastload_free(fl);

    is_written = g_new0(bool, fixture_page_count(f));
    for (n = 0; n < WRITER_COUNT; n++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(n);

        for (i = 0; i < 1500; i++) {
            is_written[g_rand_int_range(rand, 0, fixture_page_count(f) /
                                        WRITER_COUNT) * WRITER_COUNT + n] =
                true;
        }
    }
    for (i = 0; i < fixture_page_count(f); i++) {
        uint64_t *word = &fixture_page(f, i)[WRITTEN_WORD];

        if (is_written[i]) {
            g_assert_cmpuint(*word, ==, writer_mark(i));
            *word = fixture_word(f, i, WRITTEN_WORD);
        }
    }
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

/* ---- what is left, what is told ---- */

static void test_nothing_is_left(const void *opaque)
{
    /* After wait no userfaultfd is open, after free no thread is left. */
    const LoadCase *lc = opaque;
    FixtureUse before, after;
    Fixture *f;
    Fastload *fl;

    f = fixture_new(FIXTURE_ANON, 2 * CHUNK_PAGES, fixture_all_data);
    fixture_use_get(&before);
    fl = load_start(f, lc->io_kind, 8);
    load_wait(fl);
    fixture_use_get(&after);
    g_assert_cmpuint(after.uffd_count, ==, before.uffd_count);
    g_assert_cmpuint(after.uring_count, ==, before.uring_count);
    fastload_free(fl);
    fixture_use_check(&before);
    fixture_free(f);
}

static void test_many_in_a_row(const void *opaque)
{
    /* Fifty loads in a row leave nothing behind. */
    const LoadCase *lc = opaque;
    FixtureUse before;
    int i;

    fixture_use_get(&before);
    for (i = 0; i < 50; i++) {
        Fixture *f = fixture_new(FIXTURE_ANON, CHUNK_PAGES + 1,
                                 fixture_mixed);
        Fastload *fl = load_start(f, lc->io_kind, 1 + i % 4);

        fixture_note("load %d", i);
        if (i % 3) {
            load_wait(fl);
            g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
        }
        fastload_free(fl);
        fixture_free(f);
    }
    fixture_use_check(&before);
}

static void test_completion_is_told_once(const void *opaque)
{
    /* A load that goes well has the events COMPLETED and SETTLED, no others. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    FastloadRegion region;
    FixtureEvents events;
    Fastload *fl;

    fixture_events_init(&events);
    fl = load_new(f->fd, lc->io_kind, 2, &events);
    fixture_region(f, &region);
    load_add(fl, &region);
    load_go(fl);
    load_wait(fl);
    fastload_free(fl);
    g_assert_cmpuint(events.count, ==, 2);
    g_assert_cmpint(events.events[0], ==, FASTLOAD_EVENT_COMPLETED);
    g_assert_cmpint(events.events[1], ==, FASTLOAD_EVENT_SETTLED);
    fixture_events_clear(&events);
    fixture_free(f);
}

static void test_statistics_add_up(const void *opaque)
{
    /* Every byte is data or zero, and all data was read at least once. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    Fastload *fl = load_start(f, lc->io_kind, 2);
    FixtureToucher toucher;
    FastloadStats stats;

    fixture_toucher_start(&toucher, f, 1, 500);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    load_wait(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.total_bytes, ==, f->len_bytes);
    g_assert_cmpuint(stats.zero_bytes + load_data_bytes(&stats), ==,
                     f->len_bytes);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_HINT], ==, 0);
    g_assert_cmpuint(stats.remaining_bytes, ==, 0);
    g_assert_cmpuint(stats.read_bytes, >=, f->data_bytes);
    g_assert_cmpuint(stats.retry_count, ==, 0);
    g_assert_cmpuint(stats.io_error_count, ==, 0);
    g_assert_cmpuint(stats.fault_p50_ns, <=, stats.fault_p95_ns);
    g_assert_cmpuint(stats.fault_p95_ns, <=, stats.fault_p99_ns);
    g_assert_cmpuint(stats.fault_p99_ns, <=, stats.fault_max_ns);
    g_assert_cmpuint(stats.complete_ns, >, 0);
    /* Each fault is of one page, and the toucher had no more than that. */
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_URGENT], <=,
                     stats.fault_count * FIXTURE_PAGE_BYTES);
    g_assert_cmpuint(stats.fault_count, <=, 500);
    fastload_free(fl);
    fixture_free(f);
}

typedef struct Watcher {
    Fastload *fl;
    uint64_t data_bytes;
    uint32_t is_stopped; /* atomic */
} Watcher;

static void *watcher_main(void *opaque)
{
    Watcher *w = opaque;
    uint64_t loaded_bytes = 0, remaining_bytes = UINT64_MAX;

    while (!__atomic_load_n(&w->is_stopped, __ATOMIC_ACQUIRE)) {
        FastloadStats stats;

        fastload_get_stats(w->fl, &stats);
        g_assert_cmpuint(load_data_bytes(&stats), >=, loaded_bytes);
        g_assert_cmpuint(load_data_bytes(&stats), <=, w->data_bytes);
        g_assert_cmpuint(stats.remaining_bytes, <=, remaining_bytes);
        loaded_bytes = load_data_bytes(&stats);
        remaining_bytes = stats.remaining_bytes;
    }
    return NULL;
}

static void test_statistics_are_monotone(const void *opaque)
{
    /* Statistics that are read during a load never go back. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    Fastload *fl = load_start(f, lc->io_kind, 2);
    Watcher watcher = { .fl = fl, .data_bytes = f->data_bytes };
    GThread *thread = g_thread_new("watcher", watcher_main, &watcher);

    load_wait(fl);
    __atomic_store_n(&watcher.is_stopped, 1, __ATOMIC_RELEASE);
    g_thread_join(thread);
    fastload_free(fl);
    fixture_free(f);
}

static void *starter_watcher_main(void *opaque)
{
    Watcher *w = opaque;

    while (!__atomic_load_n(&w->is_stopped, __ATOMIC_ACQUIRE)) {
        FastloadStats stats;

        fastload_get_stats(w->fl, &stats);
        g_assert_cmpuint(load_data_bytes(&stats), <=, w->data_bytes);
    }
    return NULL;
}

static void test_statistics_during_start(const void *opaque)
{
    /* Statistics may be asked for before, during and after start. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    Fixture *other = fixture_new(FIXTURE_PRIVATE_FILE, PAGE_COUNT,
                                 fixture_mixed);
    Fastload *fl = load_new(f->fd, lc->io_kind, 2, NULL);
    Watcher watcher = { .fl = fl, .data_bytes = 2 * f->data_bytes };
    FastloadRegion region;
    GThread *thread;

    fixture_region(f, &region);
    load_add(fl, &region);
    region.hva = other->hva;
    load_add(fl, &region);
    thread = g_thread_new("watcher", starter_watcher_main, &watcher);
    load_go(fl);
    load_wait(fl);
    __atomic_store_n(&watcher.is_stopped, 1, __ATOMIC_RELEASE);
    g_thread_join(thread);
    fastload_free(fl);
    fixture_free(f);
    fixture_free(other);
}

/* ---- the background's rate ---- */

#define RATE_BYTES_PER_S 20000000ull
#define RATE_CHUNK_COUNT 2

static void test_rate_is_kept(const void *opaque)
{
    /*
     * A background rate is never exceeded by all workers together.  How close
     * they come to it the simulator shows, whose clock is ours.
     */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, RATE_CHUNK_COUNT * CHUNK_PAGES,
                             lc->has_data);
    uint64_t least_ns = f->data_bytes * 1000000000 / RATE_BYTES_PER_S -
                        FASTLOAD_RATE_BURST_NS;
    Fastload *fl = load_start_at_rate(f, lc, RATE_BYTES_PER_S);
    FastloadStats stats;

    load_wait(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.read_bytes, ==, f->data_bytes);
    g_assert_cmpuint(stats.complete_ns, >=, least_ns);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

/* Has the worker seen all kicks, and nothing to do since? */
static bool load_worker_is_idle(FastloadWorker *w)
{
    struct pollfd kick = { .fd = w->kick_fd, .events = POLLIN };

    /* In this order: it counts as busy before it takes the kick. */
    return poll(&kick, 1, 0) == 0 &&
           __atomic_load_n(&w->may_sleep, __ATOMIC_SEQ_CST);
}

static void load_wait_idle(Fastload *fl)
{
    uint32_t i;

    for (i = 0; i < fl->config.worker_count; i++) {
        fixture_wait_until(load_worker_is_idle(&fl->workers[i]));
    }
}

static void load_check_off(Fastload *fl, const Fixture *f,
                           uint64_t first_page)
{
    FixtureToucher toucher;
    FastloadStats stats;
    uint64_t i;

    for (i = first_page; i < first_page + 8; i++) {
        fixture_toucher_start_page(&toucher, f, i * 97);
        g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    }
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.read_bytes, ==, (first_page + 8) *
                     FIXTURE_PAGE_BYTES);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND], ==, 0);
}

typedef struct LoadFaults {
    GMutex lock;
    void *hva;  /* the page that is waited for */
    GHashTable *tids;
    uint64_t count;
} LoadFaults;

static void load_fault_func(void *hva, uint32_t tid, void *opaque)
{
    LoadFaults *faults = opaque;

    g_mutex_lock(&faults->lock);
    faults->hva = hva;
    faults->count++;
    g_hash_table_add(faults->tids, GUINT_TO_POINTER(tid));
    g_mutex_unlock(&faults->lock);
}

static void test_faults_are_told(const void *opaque)
{
    /* Each fault is told, with its page and the thread that waits. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, 8 * CHUNK_PAGES, fixture_mixed);
    LoadFaults faults = { .tids = g_hash_table_new(NULL, NULL) };
    FastloadConfig config = {
        .io_kind = lc->io_kind,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
        .fault_func = load_fault_func,
        .fault_opaque = &faults,
    };
    uint64_t page_bytes, i, touch_count = 0;
    Fastload *fl;

    if (!f) {
        g_hash_table_destroy(faults.tids);
        return;
    }
    page_bytes = f->page_bytes;
    g_mutex_init(&faults.lock);
    fl = load_start_config(f, &config);
    for (i = 0; i < f->len_bytes / page_bytes;
         i += page_bytes > FIXTURE_PAGE_BYTES ? 1 : 1 + i % 7) {
        uint8_t *page = f->hva + i * page_bytes;

        if (!fixture_page_has_data(f, i * page_bytes / FIXTURE_PAGE_BYTES)) {
            continue;
        }
        (void)*(volatile uint8_t *)page;
        touch_count++;
        g_mutex_lock(&faults.lock);
        g_assert_true(faults.hva == page);
        g_mutex_unlock(&faults.lock);
    }
    g_mutex_lock(&faults.lock);
    g_assert_cmpuint(touch_count, >, 1);
    g_assert_cmpuint(faults.count, >=, touch_count);
    g_assert_cmpuint(g_hash_table_size(faults.tids), ==, 1);
    g_assert_true(g_hash_table_contains(faults.tids,
                                        GUINT_TO_POINTER(gettid())));
    g_mutex_unlock(&faults.lock);
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    g_hash_table_destroy(faults.tids);
    g_mutex_clear(&faults.lock);
    fixture_free(f);
}

static bool load_is_mapped(const void *hva)
{
    unsigned char present;

    return mincore((void *)hva, FIXTURE_PAGE_BYTES, &present) == 0;
}

static void test_staging_is_given_back(const void *opaque)
{
    /* A load that is over has left no memory mapped, whatever it needed. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, 2 * CHUNK_PAGES, lc->has_data);
    Fastload *fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);
    const uint8_t *maps[3] = { fl->pool.map };
    size_t map_bytes = fl->pool.map_bytes;
    uint32_t i;

    g_assert_cmpuint(lc->worker_count, ==, 2);
    for (i = 0; i < 2; i++) {
        maps[1 + i] = fl->workers[i].staging;
    }
    for (i = 0; i < G_N_ELEMENTS(maps); i++) {
        g_assert_true(load_is_mapped(maps[i]));
    }
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    /* Chunks' at once, before somebody may want to use the memory. */
    g_assert_false(load_is_mapped(maps[0]));
    g_assert_false(load_is_mapped(maps[0] + map_bytes - FIXTURE_PAGE_BYTES));
    fastload_free(fl);
    for (i = 0; i < G_N_ELEMENTS(maps); i++) {
        g_assert_false(load_is_mapped(maps[i]));
    }
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_first_serves_faults(const void *opaque)
{
    /* Faults that come one by one are all answered by the first worker. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 8 * CHUNK_PAGES, fixture_all_data);
    Fastload *fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);
    uint64_t i, page_count = fixture_page_count(f);

    for (i = 0; i < page_count; i++) {
        g_assert_true(fixture_page_is_right(f, i));
    }
    load_wait(fl);
    fastload_settle(fl);
    g_assert_cmpuint(fl->workers[0].counters.fault_count, ==, page_count);
    for (i = 1; i < fl->config.worker_count; i++) {
        g_assert_cmpuint(fl->workers[i].counters.fault_count, ==, 0);
    }
    fastload_free(fl);
    fixture_free(f);
}

static void test_background_off(const void *opaque)
{
    /* FASTLOAD_BACKGROUND_OFF reads touched pages only, until it is changed. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 8 * CHUNK_PAGES, lc->has_data);
    Fastload *fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);

    load_check_off(fl, f, 0);
    fastload_set_background_rate(fl, FASTLOAD_BACKGROUND_OFF);
    load_wait_idle(fl);
    load_check_off(fl, f, 8);
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_rate_is_raised(const void *opaque)
{
    /* Workers that sleep until a slow rate lets them read are woken. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 16 * CHUNK_PAGES, lc->has_data);
    Fastload *fl = load_start_at_rate(f, lc, 1); /* byte a second */
    FastloadStats stats;

    /* After some seconds one reads in advance, and then none for hours. */
    test_clock_skip(4 * 1000000000ull);
    fastload_set_background_rate(fl, 1);
    fixture_wait_until(({
        fastload_get_stats(fl, &stats);
        stats.read_bytes;
    }));
    load_wait_idle(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.read_bytes, <, f->data_bytes / 4);
    fastload_set_background_rate(fl, 1ull << 40);
    load_wait(fl);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_rate_at_any_time(const void *opaque)
{
    /* The rate may change before start, after completion, and in between. */
    static const uint64_t rates[] = {
        0, FASTLOAD_BACKGROUND_OFF, 1, 50000000, 1ull << 62, 3000000000ull,
    };
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, PAGE_COUNT, fixture_mixed);
    Fastload *fl = load_start_at_rate(f, lc, 1);
    FastloadStats stats;
    uint32_t i = 0;

    do {
        fastload_set_background_rate(fl, rates[i++ % G_N_ELEMENTS(rates)]);
        g_usleep(100);
        fastload_get_stats(fl, &stats);
    } while (stats.remaining_bytes);
    load_wait(fl);
    fastload_set_background_rate(fl, 1);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

/* ---- huge pages ---- */

#define HUGE_CHUNK_COUNT 16

/* NULL: huge pages cannot be had or moved here; the test was skipped. */
static Fixture *load_new_huge(FixtureHasData *has_data)
{
    Fixture *f;

    if (!fixture_has_move()) {
        g_test_skip("no transparent huge pages, or no UFFDIO_MOVE");
        return NULL;
    }
    f = fixture_new(FIXTURE_THP, HUGE_CHUNK_COUNT * CHUNK_PAGES, has_data);
    if (!load_can_be_huge(f)) {
        g_test_skip("the machine has no free memory of 2 MiB");
        fixture_free(f);
        return NULL;
    }
    return f;
}

static void test_dense_chunks_are_moved(const void *opaque)
{
    /* Chunks full of data that are not touched become huge pages. */
    const LoadCase *lc = opaque;
    Fixture *f = load_new_huge(fixture_all_data);
    FastloadStats stats;
    Fastload *fl;

    if (!f) {
        return;
    }
    fl = load_start(f, lc->io_kind, lc->worker_count);
    load_wait(fl);
    fastload_settle(fl);
    fastload_get_stats(fl, &stats);
    load_assert_most(stats.moved_bytes, f->len_bytes);
    g_assert_cmpuint(stats.collapsed_bytes, <=,
                     f->len_bytes - stats.moved_bytes);
    load_assert_most(fixture_huge_bytes(f), f->len_bytes);
    g_assert_cmpuint(load_data_bytes(&stats), ==, f->data_bytes);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_move_disabled(const void *opaque)
{
    /* Without UFFDIO_MOVE the same memory is right, and of small pages. */
    const LoadCase *lc = opaque;
    Fixture *f = load_new_huge(fixture_all_data);
    FastloadConfig config = {
        .io_kind = lc->io_kind, .is_move_disabled = true,
    };
    FastloadStats stats;
    Fastload *fl;

    if (!f) {
        return;
    }
    fl = load_start_config(f, &config);
    load_wait(fl);
    fastload_settle(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.moved_bytes, ==, 0);
    g_assert_cmpuint(stats.collapsed_bytes, ==, 0);
    g_assert_cmpuint(fixture_huge_bytes(f), ==, 0);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_collapsing_yields(void)
{
    /* It pauses while processors are short, but not for ever. */
    FastloadCollapse collapse = { .end_ns = 100, .chunk_max = 1 };
    uint64_t most = FASTLOAD_COLLAPSE_BYTES_MAX / FASTLOAD_CHUNK_BYTES;
    uint64_t pause_ns, paused_ns = 0;
    int i;

    for (i = 0; i < 10; i++) {
        g_assert_cmpuint(fastload_huge_pause_ns(&collapse, 200, 100), ==, 0);
    }
    g_assert_cmpuint(collapse.chunk_max, ==, most);
    g_assert_cmpuint(collapse.end_ns, ==, 100);
    do {
        pause_ns = fastload_huge_pause_ns(&collapse, 201, 100);
        paused_ns += pause_ns;
        g_assert_cmpuint(collapse.chunk_max, ==, pause_ns ? 1 : 2);
    } while (pause_ns);
    g_assert_cmpuint(paused_ns, ==, FASTLOAD_COLLAPSE_PAUSES_NS_MAX);
    /* The time that is left for collapsing is as long as before. */
    g_assert_cmpuint(collapse.end_ns, ==, 100 + paused_ns);
}

/* Not the clock of the tests, which stops. */
static int64_t load_real_us(void)
{
    struct timespec ts;

    g_assert_cmpint(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts), ==, 0);
    return ts.tv_sec * G_USEC_PER_SEC + ts.tv_nsec / 1000;
}

static void test_collapsing_pauses(const void *opaque)
{
    /* While calls wait, each collapses one chunk, and a pause follows it. */
    const LoadCase *lc = opaque;
    Fixture *f = load_new_huge(fixture_all_data);
    FixtureToucher toucher;
    int64_t begin_us;
    Fastload *fl;
    uint64_t i;

    if (!f) {
        return;
    }
    test_clock_stop();
    fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);
    for (i = 0; i < HUGE_CHUNK_COUNT; i++) {
        fixture_toucher_start_page(&toucher, f, i * CHUNK_PAGES);
        g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    }
    gate_slow_collapse(FASTLOAD_COLLAPSE_NS_MIN / HUGE_CHUNK_COUNT / 2);
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    begin_us = load_real_us();
    fastload_settle(fl);
    g_assert_cmpuint(gate_collapse_count(), ==, HUGE_CHUNK_COUNT);
    /* The first pauses may be over when load_wait() returns: so half of all. */
    g_assert_cmpint(load_real_us() - begin_us, >=,
                    HUGE_CHUNK_COUNT / 2 *
                    (int64_t)(FASTLOAD_COLLAPSE_PAUSE_NS / 1000));
    gate_slow_collapse(0);
    fastload_free(fl);
    fixture_free(f);
}

static void test_touched_chunks_are_collapsed(const void *opaque)
{
    /* A chunk with an urgent page is not moved, but collapsed later. */
    const LoadCase *lc = opaque;
    Fixture *f = load_new_huge(fixture_all_data);
    FixtureToucher toucher;
    FastloadStats stats;
    Fastload *fl;
    uint64_t i;

    if (!f) {
        return;
    }
    test_clock_stop(); /* there is time for all that is to be collapsed */
    fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);
    for (i = 0; i < HUGE_CHUNK_COUNT / 2; i++) {
        fixture_toucher_start_page(&toucher, f, 2 * i * CHUNK_PAGES + 37 * i);
        g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    }
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    fastload_settle(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.moved_bytes, <=, f->len_bytes / 2);
    load_assert_most(stats.moved_bytes + stats.collapsed_bytes, f->len_bytes);
    load_assert_most(fixture_huge_bytes(f), f->len_bytes);
    g_assert_cmpuint(load_data_bytes(&stats), ==, f->data_bytes);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

/* In chunks that take turns: a quarter of the pages, and three. */
static bool load_quarters(uint64_t page_idx)
{
    return (page_idx / 2 % 4 == 0) ^ (page_idx / CHUNK_PAGES % 2);
}

/* A second file with the same bytes, before the first is cut to nothing. */
static int load_copy_and_cut(const Fixture *f)
{
    g_autofree uint8_t *bytes = g_malloc(CHUNK_BYTES);
    int fd = fixture_temp_file();
    off_t off = 0;
    ssize_t got;

    while ((got = pread(f->fd, bytes, CHUNK_BYTES, off)) > 0) {
        g_assert_cmpint(pwrite(fd, bytes, got, off), ==, got);
        off += got;
    }
    g_assert_cmpint(ftruncate(f->fd, 0), ==, 0);
    return fd;
}

static void test_recover_from_a_copy(const void *opaque)
{
    /* If the file is gone for good, the load goes on from a copy at once. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, PAGE_COUNT, lc->has_data);
    int copy_fd = load_copy_and_cut(f);
    int fd = dup(f->fd);
    FixtureToucher toucher;
    FixtureEvents events;
    FastloadFailure failure;
    FastloadRegion region;
    GError *error = NULL;
    Fastload *fl;

    fixture_events_init(&events);
    fl = load_new(fd, lc->io_kind, lc->worker_count, &events);
    fixture_region(f, &region);
    load_add(fl, &region);
    load_go(fl);
    fixture_toucher_start_page(&toucher, f, 77);
    fixture_hurry_until(fixture_events_count(&events,
                                             FASTLOAD_EVENT_STALLED));
    g_assert_true(fastload_is_failing(fl, &failure));
    g_assert_cmpint(failure.error_number, ==, ENODATA);

    g_assert_true(fastload_recover(fl, -1, &error)); /* as bad as before */
    g_assert_no_error(error);
    g_assert_cmpuint(fixture_events_count(&events, FASTLOAD_EVENT_RESUMED),
                     ==, 1);
    fixture_wait_until(fastload_is_failing(fl, &failure));
    g_assert_false(fixture_toucher_is_done(&toucher));

    g_assert_true(fastload_recover(fl, copy_fd, &error));
    g_assert_no_error(error);
    g_assert_false(fastload_is_failing(fl, &failure)); /* not the copy */
    close(copy_fd); /* the load has its own */
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    load_wait(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_events_clear(&events);
    close(fd);
    fixture_free(f);
}

static void test_recover_refuses(const void *opaque)
{
    /* A bad copy is refused with a reason; the load goes on as it was. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, PAGE_COUNT, lc->has_data);
    Fastload *fl = load_start_at_rate(f, lc, FASTLOAD_BACKGROUND_OFF);
    int fd = dup(f->fd);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", f->fd);
    int direct_fd = open(path, O_RDONLY | O_DIRECT);
    GError *error = NULL;

    close(fd);
    g_assert_false(fastload_recover(fl, fd, &error)); /* not open */
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID);
    g_clear_error(&error);
    fd = fixture_temp_file();
    g_assert_false(fastload_recover(fl, fd, &error)); /* empty */
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_READ);
    g_clear_error(&error);
    close(fd);
    if (direct_fd >= 0) {
        g_assert_false(fastload_recover(fl, direct_fd, &error));
        g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID);
        g_clear_error(&error);
        close(direct_fd);
    }
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_free(f);
}

static void load_discard_first(FastloadEvent event,
                               const FastloadFailure *failure, void *opaque)
{
    Fixture *f = opaque;

    if (event == FASTLOAD_EVENT_COMPLETED) {
        g_assert_cmpint(madvise(fixture_page(f, 1), 4096, MADV_DONTNEED), ==,
                        0);
    }
}

static void test_discarded_chunks_stay_small(const void *opaque)
{
    /* Collapsing does not populate what a balloon took after completion. */
    const LoadCase *lc = opaque;
    Fixture *f = load_new_huge(fixture_all_data);
    FastloadConfig config = {
        .io_kind = lc->io_kind, .worker_count = lc->worker_count,
        .event_func = load_discard_first, .event_opaque = f,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    };
    FixtureToucher toucher;
    Fastload *fl;

    if (!f) {
        return;
    }
    fl = load_start_config(f, &config);
    /* Its chunk is copied, and a candidate for collapsing. */
    fixture_toucher_start_page(&toucher, f, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    fastload_settle(fl);
    g_assert_true(fixture_page_is_resident(f, 0));
    g_assert_false(fixture_page_is_resident(f, 1));
    fastload_free(fl);
    fixture_free(f);
}

/* What happens at completion, before huge pages are mended. */
typedef struct LoadEnding {
    Fastload *fl;
    bool is_dropped; /* else: it is cancelled */
} LoadEnding;

static void load_end_settling(FastloadEvent event,
                              const FastloadFailure *failure, void *opaque)
{
    LoadEnding *ending = opaque;
    FastloadArea *area = g_ptr_array_index(ending->fl->areas, 0);

    if (event == FASTLOAD_EVENT_COMPLETED && ending->is_dropped) {
        /* As fastload_drop_region() on the owner's thread. */
        __atomic_store_n(&area->is_dropped, 1, __ATOMIC_RELEASE);
    } else if (event == FASTLOAD_EVENT_COMPLETED) {
        fastload_cancel(ending->fl);
    }
}

static void load_check_settling_ends(const LoadCase *lc, bool is_dropped)
{
    Fixture *f = load_new_huge(fixture_all_data);
    LoadEnding ending = { .is_dropped = is_dropped };
    FastloadConfig config = {
        .io_kind = lc->io_kind, .worker_count = lc->worker_count,
        .event_func = load_end_settling, .event_opaque = &ending,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    };
    FixtureToucher toucher;
    FastloadStats stats;

    if (!f) {
        return;
    }
    ending.fl = load_start_config(f, &config);
    /* Its chunk is copied, and a candidate for collapsing. */
    fixture_toucher_start_page(&toucher, f, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fastload_set_background_rate(ending.fl, 0);
    load_wait(ending.fl);
    fastload_settle(ending.fl);
    fastload_get_stats(ending.fl, &stats);
    g_assert_cmpuint(stats.collapsed_bytes, ==, 0);
    g_assert_true(fastload_is_settled(ending.fl));
    fastload_free(ending.fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_cancel_ends_settling(const void *opaque)
{
    /* A load that is cancelled after completion leaves its pages small. */
    load_check_settling_ends(opaque, false);
}

static void test_dropped_chunks_stay_small(const void *opaque)
{
    /* A region that is dropped after completion keeps its small pages. */
    load_check_settling_ends(opaque, true);
}

static void test_sparse_chunks_stay_sparse(const void *opaque)
{
    /* Chunks with little data are not filled up; dense ones are, by zeros. */
    const LoadCase *lc = opaque;
    Fixture *f = load_new_huge(load_quarters);
    uint64_t khugepaged_count = fixture_khugepaged_count();
    FastloadStats stats;
    Fastload *fl;

    if (!f) {
        return;
    }
    fl = load_start(f, lc->io_kind, lc->worker_count);
    load_wait(fl);
    fastload_get_stats(fl, &stats);
    load_assert_most(stats.moved_bytes, f->len_bytes / 2);
    if (fixture_khugepaged_count() == khugepaged_count) {
        load_assert_most(fixture_huge_bytes(f), f->len_bytes / 2);
    }
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_locked_memory_is_copied(const void *opaque)
{
    /* If the kernel refuses UFFDIO_MOVE, all is copied. */
    const LoadCase *lc = opaque;
    Fixture *f = load_new_huge(fixture_mixed);
    FastloadStats stats;
    Fastload *fl;

    if (!f) {
        return;
    }
    if (mlock2(f->hva, f->len_bytes, MLOCK_ONFAULT)) {
        g_test_skip("not enough memory may be locked here");
        fixture_free(f);
        return;
    }
    fl = load_start(f, lc->io_kind, lc->worker_count);
    load_wait(fl);
    fastload_settle(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.moved_bytes, ==, 0);
    g_assert_cmpuint(load_data_bytes(&stats), ==, f->data_bytes);
    fastload_free(fl);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

/* ---- what was placed is told ---- */

static void test_placed_pages_are_told(const void *opaque)
{
    /* The placed callback reports each page once, with its class. */
    const LoadCase *lc = opaque;
    bool is_huge = lc->memory == FIXTURE_HUGETLB;
    Fixture *f = fixture_new(lc->memory,
                             is_huge ? HUGE_PAGE_COUNT : PAGE_COUNT,
                             lc->has_data);
    FixtureToucher touchers[TOUCHER_COUNT];
    FastloadStats stats;
    FixturePlaced placed;
    FastloadConfig config = {
        .worker_count = lc->worker_count,
        .io_kind = lc->io_kind,
        .placed_func = fixture_placed_func,
        .placed_opaque = &placed,
    };
    Fastload *fl;
    /* A chunk that is touched is not moved. */
    int toucher_count = lc->memory == FIXTURE_THP ? 0 : TOUCHER_COUNT;
    int i;

    if (!f) {
        return;
    }
    fixture_placed_init(&placed, f);
    fl = load_start_config(f, &config);
    for (i = 0; i < toucher_count; i++) {
        fixture_toucher_start(&touchers[i], f, i, 1000);
    }
    for (i = 0; i < toucher_count; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    load_wait(fl);
    fastload_get_stats(fl, &stats);
    fixture_placed_check(&placed, &stats);
    fastload_free(fl);
    fixture_placed_clear(&placed);
    fixture_free(f);
}

static void test_faulted_pages_are_told_urgent(const void *opaque)
{
    /* Pages that a thread waited for are reported as URGENT. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 6 * CHUNK_PAGES, fixture_mixed);
    FixturePlaced placed;
    FastloadConfig config = {
        .io_kind = lc->io_kind,
        .placed_func = fixture_placed_func,
        .placed_opaque = &placed,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    };
    FixtureToucher toucher;
    Fastload *fl;
    uint64_t i;

    fixture_placed_init(&placed, f);
    fl = load_start_config(f, &config);
    for (i = CHUNK_PAGES; i < CHUNK_PAGES + 10; i++) {
        fixture_toucher_start_page(&toucher, f, i);
        g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
        /* The toucher was woken first. */
        fixture_wait_until(fixture_placed_class(&placed, i) ==
                           FASTLOAD_CLASS_URGENT);
    }
    fastload_free(fl);
    fixture_placed_clear(&placed);
    fixture_free(f);
}

/* Remembers the first page that was read ahead; one worker only. */
static void load_note_first(void *hva, uint64_t len_bytes,
                            FastloadClass class, bool has_data, void *opaque)
{
    void **first_hva = opaque;

    if (class == FASTLOAD_CLASS_BACKGROUND && !*first_hva) {
        *first_hva = hva;
    }
}

/* The last two chunks of @f are an early region, the rest another one. */
static Fastload *load_new_early(Fixture *f, const FastloadConfig *config,
                                FastloadRegion *ret_late,
                                FastloadRegion *ret_early)
{
    Fastload *fl = fastload_new(f->fd, config, NULL);

    fixture_region(f, ret_late);
    *ret_early = *ret_late;
    ret_late->len_bytes -= 2 * FASTLOAD_CHUNK_BYTES;
    ret_early->hva = (uint8_t *)ret_late->hva + ret_late->len_bytes;
    ret_early->file_off += ret_late->len_bytes;
    ret_early->len_bytes = 2 * FASTLOAD_CHUNK_BYTES;
    ret_early->is_early = true;
    g_assert_true(fastload_add_region(fl, ret_late, NULL));
    g_assert_true(fastload_add_region(fl, ret_early, NULL));
    g_assert_true(fastload_start(fl, NULL));
    return fl;
}

/* A fault that is told, and whoever is told of it. */
typedef struct LateFault {
    FixturePlaced placed;
    uint32_t told_count; /* atomic */
} LateFault;

/* Returns after the page that is waited for has been placed, and told. */
static void load_fault_comes_late(void *hva, uint32_t tid, void *opaque)
{
    LateFault *late = opaque;
    uint64_t page_idx = ((uint8_t *)hva - late->placed.f->hva) /
                        FIXTURE_PAGE_BYTES;

    __atomic_add_fetch(&late->told_count, 1, __ATOMIC_RELAXED);
    fixture_wait_until(fixture_placed_class(&late->placed, page_idx) !=
                       FASTLOAD_CLASS_MAX);
}

static void test_fault_told_after_its_page(const void *opaque)
{
    /* A page may be placed between its fault's message and the answer. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(lc->memory, 16 * CHUNK_PAGES, fixture_all_data);
    LateFault told = { 0 };
    /* The worker that waits keeps what it reads: others need some, too. */
    FastloadConfig config = {
        .io_kind = lc->io_kind, .worker_count = 4,
        .background_bytes_per_s = 1,
        .fault_func = load_fault_comes_late, .fault_opaque = &told,
        .placed_func = fixture_placed_func, .placed_opaque = &told.placed,
    };
    FastloadRegion late, early;
    FixtureToucher toucher;
    FastloadStats stats;
    Fastload *fl;

    fixture_placed_init(&told.placed, f);
    fl = load_new_early(f, &config, &late, &early);
    /* Once a chunk was found in the page cache, the others read as well. */
    fixture_wait_until(fastload_is_loaded(fl, early.hva, early.len_bytes));
    fastload_set_background_rate(fl, FASTLOAD_BACKGROUND_OFF);
    load_wait_idle(fl);
    fixture_toucher_start_page(&toucher, f, 9 * CHUNK_PAGES + 7);
    fixture_wait_until(__atomic_load_n(&told.told_count, __ATOMIC_RELAXED));
    g_assert_false(fixture_toucher_is_done(&toucher));
    fastload_set_background_rate(fl, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    load_wait(fl);
    fastload_get_stats(fl, &stats);
    fastload_free(fl);
    fixture_placed_check(&told.placed, &stats);
    g_assert_cmpuint(fixture_placed_class(&told.placed, 9 * CHUNK_PAGES + 7),
                     ==, FASTLOAD_CLASS_BACKGROUND);
    fixture_placed_clear(&told.placed);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fixture_free(f);
}

static void test_early_regions_come_first(const void *opaque)
{
    /* Early regions are read first, though they are last in the file. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 4 * CHUNK_PAGES, fixture_all_data);
    void *first_hva = NULL;
    FastloadConfig config = {
        .worker_count = 1, .io_kind = lc->io_kind,
        .placed_func = load_note_first, .placed_opaque = &first_hva,
    };
    FastloadRegion late, early;
    Fastload *fl = load_new_early(f, &config, &late, &early);

    load_wait(fl);
    g_assert_true(first_hva == early.hva);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_free(f);
}

static void test_early_regions_while_recording(const void *opaque)
{
    /* Early regions come while a set is recorded and the rest waits. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 4 * CHUNK_PAGES, fixture_all_data);
    g_autofree char *path = g_strdup_printf("%s/fastload-early-%d",
                                            g_get_tmp_dir(), getpid());
    FastloadConfig config = { .worker_count = 1, .io_kind = lc->io_kind };
    FastloadWorksetConfig workset = { .path = path, .awaits_guest = true };
    Fastload *fl = fastload_new(f->fd, &config, NULL);
    FastloadRegion all, region;
    FastloadStats stats;
    uint32_t i;

    fixture_region(f, &all);
    for (i = 0; i < 3; i++) {
        region = all;
        region.hva = (uint8_t *)all.hva + i * FASTLOAD_CHUNK_BYTES;
        region.file_off += i * FASTLOAD_CHUNK_BYTES;
        region.len_bytes = i < 2 ? FASTLOAD_CHUNK_BYTES
                                 : 2 * FASTLOAD_CHUNK_BYTES;
        region.is_early = i < 2;
        g_assert_true(fastload_add_region(fl, &region, NULL));
    }
    g_assert_true(fastload_use_workset(fl, &workset, NULL));
    g_assert_true(fastload_start(fl, NULL));
    for (i = 0; i < 2; i++) {
        uint8_t *hva = (uint8_t *)all.hva + i * FASTLOAD_CHUNK_BYTES;

        fixture_wait_until(fastload_is_loaded(fl, hva, FASTLOAD_CHUNK_BYTES));
    }
    fastload_get_stats(fl, &stats);
    g_assert_cmpint(stats.workset.state, ==, FASTLOAD_WORKSET_RECORDING);
    fastload_free(fl);
    unlink(path);
    fixture_free(f);
}

static void test_early_regions_are_due_at_once(const void *opaque)
{
    /* A chunk of an early region is due at once, whatever the rate. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 2 * CHUNK_PAGES, fixture_all_data);
    FastloadConfig config = {
        .io_kind = lc->io_kind, .background_bytes_per_s = 1,
    };
    Fastload *fl = fastload_new(f->fd, &config, NULL);
    FastloadRegion region;
    FastloadArea *area;

    fixture_region(f, &region);
    region.is_early = true;
    g_assert_true(fastload_add_region(fl, &region, NULL));
    area = g_ptr_array_index(fl->areas, 0);
    /* As it is once the load has started. */
    area->is_trapped = true;
    area->chunk_states = g_malloc(area->chunk_count);
    memset(area->chunk_states, FASTLOAD_CHUNK_PENDING, area->chunk_count);
    g_assert_cmpuint(fastload_sched_rate_due_ns(fl), ==, 0);
    /* As when all of its chunks are taken. */
    fl->sched.next_chunk = 2;
    g_assert_cmpuint(fastload_sched_rate_due_ns(fl), >, 0);
    fl->sched.next_area = fl->sched.next_chunk = 0;
    fastload_set_background_rate(fl, FASTLOAD_BACKGROUND_OFF);
    g_assert_cmpuint(fastload_sched_rate_due_ns(fl), ==, UINT64_MAX);
    area->is_trapped = false;
    fastload_free(fl);
    fixture_free(f);
}

static void test_early_regions_are_not_rated(const void *opaque)
{
    /* At a byte a second an early region comes at once, and it alone. */
    const LoadCase *lc = opaque;
    Fixture *f = fixture_new(FIXTURE_ANON, 4 * CHUNK_PAGES, fixture_all_data);
    FastloadConfig config = {
        .worker_count = 4, .io_kind = lc->io_kind,
        .background_bytes_per_s = 1,
    };
    FastloadRegion late, early;
    Fastload *fl = load_new_early(f, &config, &late, &early);
    FastloadStats stats;

    fixture_wait_until(fastload_is_loaded(fl, early.hva, early.len_bytes));
    g_assert_false(fastload_is_loaded(fl, late.hva, late.len_bytes));
    /* Both, and their last page on its own. */
    g_assert_false(fastload_is_loaded(fl, late.hva, f->len_bytes));
    g_assert_false(fastload_is_loaded(fl, (uint8_t *)early.hva -
                                      FIXTURE_PAGE_BYTES, 1));
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.remaining_bytes, >,
                     late.len_bytes - FASTLOAD_CHUNK_BYTES);
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    g_assert_true(fastload_is_loaded(fl, late.hva, f->len_bytes));
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_free(f);
}

/* ---- the list ---- */

static void add_case(const char *behaviour, GTestDataFunc func, LoadCase lc)
{
    g_autofree char *path = g_strdup_printf("/fastload/load/%s/%s",
                                            load_io_name(lc.io_kind),
                                            behaviour);
    static LoadCase cases[256];
    static uint32_t count;
    uint32_t needs = FIXTURE_NEEDS_UFFD;

    if (lc.io_kind == FASTLOAD_IO_IO_URING) {
        needs |= FIXTURE_NEEDS_URING;
    }
    g_assert_cmpuint(count, <, G_N_ELEMENTS(cases));
    cases[count] = lc;
    fixture_add_test(path, needs, func, &cases[count++]);
}

static void add_matrix(FastloadIoKind io_kind)
{
    static const char *const memories[] = {
        [FIXTURE_ANON] = "anonymous",
        [FIXTURE_THP] = "huge-anonymous",
        [FIXTURE_SHARED] = "shared",
        [FIXTURE_HUGETLB] = "hugetlb",
        [FIXTURE_PRIVATE_FILE] = "private-file",
    };
    static const struct {
        const char *name;
        FixtureHasData *has_data;
    } contents[] = {
        { "all-data", fixture_all_data },
        { "all-zero", fixture_all_zero },
        { "mixed", fixture_mixed },
    };
    static const uint32_t worker_counts[] = { 1, 2, 8 };
    uint32_t m, c, w;

    for (m = 0; m < G_N_ELEMENTS(memories); m++) {
        for (c = 0; c < G_N_ELEMENTS(contents); c++) {
            for (w = 0; w < G_N_ELEMENTS(worker_counts); w++) {
                g_autofree char *behaviour =
                    g_strdup_printf("%s-%s-with-%u", memories[m],
                                    contents[c].name, worker_counts[w]);
                LoadCase lc = {
                    .io_kind = io_kind,
                    .memory = m,
                    .worker_count = worker_counts[w],
                    .has_data = contents[c].has_data,
                };

                add_case(behaviour, test_load, lc);
            }
        }
    }
}

/* Holes of one chunk and of three, in turns. */
#define SPARSE_PERIOD_CHUNKS 6
#define SPARSE_PERIOD_COUNT 32
#define SPARSE_PAGE_COUNT \
    ((uint64_t)SPARSE_PERIOD_COUNT * SPARSE_PERIOD_CHUNKS * CHUNK_PAGES)

static bool load_sparse(uint64_t page_idx)
{
    uint64_t chunk_idx = page_idx / CHUNK_PAGES % SPARSE_PERIOD_CHUNKS;

    return (chunk_idx == 0 || chunk_idx == 2) && page_idx % 16 == 0;
}

static void load_few_mappings(const LoadCase *lc, uint32_t room_count,
                              bool is_widened)
{
    /* The first period is loaded by start itself, before all the others. */
    const uint64_t head_bytes = SPARSE_PERIOD_CHUNKS * (uint64_t)CHUNK_BYTES;
    Fixture *f = fixture_new(lc->memory, SPARSE_PAGE_COUNT, load_sparse);
    FastloadRegion head, tail;
    FixtureToucher toucher;
    FixturePlaced placed;
    FastloadStats stats;
    Fastload *fl;

    fixture_placed_init(&placed, f);
    fl = fastload_new(f->fd, &(FastloadConfig) {
        .worker_count = 1,
        .io_kind = lc->io_kind,
        .placed_func = fixture_placed_func,
        .placed_opaque = &placed,
        .background_bytes_per_s = FASTLOAD_BACKGROUND_OFF,
    }, NULL);
    fixture_region(f, &head);
    tail = head;
    head.len_bytes = head_bytes;
    head.is_eager = true;
    tail.hva = f->hva + head_bytes;
    tail.len_bytes -= head_bytes;
    tail.file_off += head_bytes;
    tail.data_bits += head_bytes / FIXTURE_PAGE_BYTES / 64;
    load_add(fl, &tail);
    load_add(fl, &head);
    fixture_fill_mappings(room_count);
    load_go(fl);
    fastload_get_stats(fl, &stats);
    /* All but the holes of three chunks, or of none; the head is there. */
    g_assert_cmpuint(stats.remaining_bytes, ==,
                     (SPARSE_PERIOD_COUNT - 1) * (uint64_t)CHUNK_BYTES *
                     (is_widened ? 3 : 2));
    g_assert_cmpuint(load_data_bytes(&stats), ==,
                     f->data_bytes / SPARSE_PERIOD_COUNT);
    fixture_toucher_start(&toucher, f, 1, 200);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fastload_set_background_rate(fl, 0);
    load_wait(fl);
    fastload_get_stats(fl, &stats);
    g_assert_cmpuint(stats.remaining_bytes, ==, 0);
    g_assert_cmpuint(load_data_bytes(&stats), ==, f->data_bytes);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_placed_clear(&placed);
    fixture_free(f);
}

static void test_few_mappings_trap_more(const void *opaque)
{
    /* With too few mappings for all holes, short ones are trapped, too. */
    if (fixture_may_fill_mappings() && !fixture_run_child()) {
        load_few_mappings(opaque, 110, true);
    }
}

static void test_many_mappings_trap_less(const void *opaque)
{
    /* With enough mappings no chunk without data is trapped. */
    if (fixture_may_fill_mappings() && !fixture_run_child()) {
        load_few_mappings(opaque, 1000, false);
    }
}

static void add_all(FastloadIoKind io_kind)
{
    LoadCase lc = {
        .io_kind = io_kind,
        .memory = FIXTURE_ANON,
        .worker_count = 2,
        .has_data = fixture_all_data,
    };

    add_matrix(io_kind);
    add_case("private-file-is-loaded-by-start",
             test_private_file_is_loaded_by_start, lc);
    add_case("eager-region-is-loaded-by-start",
             test_eager_region_is_loaded_by_start, lc);
    add_case("empty-eager-memory-keeps-holes",
             test_empty_eager_memory_keeps_holes, lc);
    add_case("cold-eager-file-stays-cold", test_cold_eager_file_stays_cold,
             lc);
    add_case("eager-end-of-file", test_eager_end_of_file, lc);
    add_case("eager-cancelled", test_eager_cancelled, lc);
    add_case("zeros-are-populated", test_zeros_are_populated, lc);
    add_case("all-zero-registers-nothing", test_all_zero_registers_nothing,
             lc);
    add_case("zero-runs-cost-nothing", test_zero_runs_cost_nothing, lc);
    add_case("mapping-is-whole-again", test_mapping_is_whole_again, lc);
    add_case("populated-pages-are-kept", test_populated_pages_are_kept, lc);
    add_case("unaligned-memory", test_unaligned_memory, lc);
    add_case("split-mapping", test_split_mapping, lc);
    add_case("unmapped-while-it-loads", test_unmapped_while_it_loads, lc);
    add_case("one-page", test_one_page, lc);
    add_case("many-regions", test_many_regions, lc);
    add_case("kinds-of-memory-together", test_kinds_of_memory_together, lc);
    add_case("two-at-once", test_two_at_once, lc);
    add_case("direct-io", test_direct_io, lc);
    add_case("cold-file-stays-cold", test_cold_file_stays_cold, lc);
    add_case("shared-file-is-read-once", test_shared_file_is_read_once, lc);
    add_case("guests-come-first", test_guests_come_first, lc);
    add_case("cached-file-is-not-read", test_cached_file_is_not_read, lc);
    add_case("direct-is-tried-where-nobody-tells",
             test_direct_is_tried_where_nobody_tells, lc);
    add_case("first-reads-others-place", test_first_reads_others_place, lc);
    add_case("nothing-is-left", test_nothing_is_left, lc);
    add_case("many-in-a-row", test_many_in_a_row, lc);
    add_case("completion-is-told-once", test_completion_is_told_once, lc);
    add_case("statistics-add-up", test_statistics_add_up, lc);
    add_case("statistics-are-monotone", test_statistics_are_monotone, lc);
    add_case("statistics-during-start", test_statistics_during_start, lc);
    add_case("writes-to-data-are-kept", test_writes_are_kept, lc);
    add_case("recover-from-a-copy", test_recover_from_a_copy, lc);
    add_case("recover-refuses", test_recover_refuses, lc);
    add_case("rate-is-kept", test_rate_is_kept, lc);
    add_case("background-off", test_background_off, lc);
    add_case("rate-is-raised", test_rate_is_raised, lc);
    add_case("rate-at-any-time", test_rate_at_any_time, lc);
    add_case("faulted-pages-are-told-urgent",
             test_faulted_pages_are_told_urgent, lc);
    add_case("faults-are-told", test_faults_are_told, lc);
    add_case("fault-told-after-its-page", test_fault_told_after_its_page, lc);
    add_case("staging-is-given-back", test_staging_is_given_back, lc);
    if (io_kind == FASTLOAD_IO_IO_URING) {
        /* With preadv all do: see place/claimed-page-given-back. */
        add_case("first-serves-faults", test_first_serves_faults, lc);
    } else {
        /* A ring may have the file itself, whatever its number is for now. */
        add_case("way-around-that-fails", test_way_around_that_fails, lc);
        add_case("mostly-cached-chunks", test_mostly_cached_chunks, lc);
    }
    add_case("dense-chunks-are-moved", test_dense_chunks_are_moved, lc);
    add_case("move-disabled", test_move_disabled, lc);
    add_case("collapsing-pauses", test_collapsing_pauses, lc);
    add_case("touched-chunks-are-collapsed",
             test_touched_chunks_are_collapsed, lc);
    add_case("discarded-chunks-stay-small",
             test_discarded_chunks_stay_small, lc);
    add_case("cancel-ends-settling", test_cancel_ends_settling, lc);
    add_case("dropped-chunks-stay-small", test_dropped_chunks_stay_small, lc);
    add_case("sparse-chunks-stay-sparse", test_sparse_chunks_stay_sparse, lc);
    add_case("locked-memory-is-copied", test_locked_memory_is_copied, lc);
    lc.memory = FIXTURE_THP;
    add_case("huge-zeros-are-populated", test_zeros_are_populated, lc);
    add_case("unaligned-huge-memory", test_unaligned_memory, lc);
    add_case("split-huge-mapping", test_split_mapping, lc);
    add_case("huge-unmapped-while-it-loads", test_unmapped_while_it_loads,
             lc);
    add_case("writes-to-moved-pages-are-kept", test_writes_are_kept, lc);
    lc.has_data = fixture_mixed;
    add_case("placed-moved-pages-are-told", test_placed_pages_are_told, lc);
    lc.memory = FIXTURE_ANON;
    add_case("placed-pages-are-told", test_placed_pages_are_told, lc);
    add_case("early-regions-come-first", test_early_regions_come_first, lc);
    add_case("early-regions-while-recording",
             test_early_regions_while_recording, lc);
    add_case("early-regions-are-due-at-once",
             test_early_regions_are_due_at_once, lc);
    add_case("early-regions-are-not-rated", test_early_regions_are_not_rated,
             lc);
    lc.memory = FIXTURE_HUGETLB;
    add_case("faults-of-huge-pages-are-told", test_faults_are_told, lc);
    add_case("placed-huge-pages-are-told", test_placed_pages_are_told, lc);
    lc.memory = FIXTURE_PRIVATE_FILE;
    add_case("eager-pages-are-told", test_placed_pages_are_told, lc);
    lc.memory = FIXTURE_ANON;
    lc.worker_count = 1;
    add_case("few-mappings-trap-more", test_few_mappings_trap_more, lc);
    add_case("many-mappings-trap-less", test_many_mappings_trap_less, lc);
    lc.memory = FIXTURE_THP;
    add_case("few-mappings-trap-more-huge", test_few_mappings_trap_more, lc);
    lc.worker_count = 2;
    lc.memory = FIXTURE_SHARED;
    add_case("shared-zeros-are-populated", test_zeros_are_populated, lc);
    add_case("writes-to-shared-memory-are-kept", test_writes_are_kept, lc);
    lc.memory = FIXTURE_HUGETLB;
    add_case("writes-to-huge-pages-are-kept", test_writes_are_kept, lc);
    lc.memory = FIXTURE_ANON;
    lc.worker_count = 8;
    lc.has_data = fixture_all_data;
    add_case("rate-is-kept-by-many-workers", test_rate_is_kept, lc);
    lc.has_data = fixture_mixed;
    add_case("writes-with-many-workers-are-kept", test_writes_are_kept, lc);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    g_test_add_func("/fastload/load/collapsing-yields", test_collapsing_yields);
    g_test_add_func("/fastload/load/ranges-are-read-ahead",
                    test_ranges_are_read_ahead);
    add_all(FASTLOAD_IO_IO_URING);
    add_all(FASTLOAD_IO_PREADV);
    return g_test_run();
}
