/*
 * From regions and bitmaps to chunks, extents, runs and spans.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"
#include "fastload-fixture.h"

#define PAGE FASTLOAD_PAGE_BYTES_MIN
#define CHUNK FASTLOAD_CHUNK_BYTES
#define CHUNK_PAGES FASTLOAD_CHUNK_PAGE_COUNT_MAX
#define GAP_PAGES (FASTLOAD_GAP_BYTES_MAX / PAGE)
/* Somewhere; nothing here touches it. */
#define BASE ((uint64_t)1 << 40)
#define ROUND_COUNT 300


static void plan_set(uint64_t *bits, uint64_t first, uint64_t count)
{
    uint64_t i;

    for (i = first; i < first + count; i++) {
        bits[i / 64] |= 1ull << (i % 64);
    }
}

static FastloadArea *plan_area(uint64_t skew_bytes, uint64_t len_bytes,
                               uint32_t page_bytes, const uint64_t *bits)
{
    FastloadRegion region = {
        .hva = (void *)(uintptr_t)(BASE + skew_bytes),
        .len_bytes = len_bytes,
        .file_off = 7 * PAGE,
        .page_bytes = page_bytes,
        .granule_bytes = PAGE,
        .data_bits = bits,
    };
    FastloadArea *area = fastload_plan_area_new(&region);

    area->placed = g_new0(uint64_t, FASTLOAD_BIT_WORDS(area->page_count));
    return area;
}

/* Areas of 4096-byte pages, added one by one. */
static GPtrArray *plan_areas(void)
{
    return g_ptr_array_new_with_free_func(
        (GDestroyNotify)fastload_plan_area_free);
}

static uint64_t *plan_bits(uint64_t page_count)
{
    return g_new0(uint64_t, FASTLOAD_BIT_WORDS(page_count) + 1);
}

static FastloadSpan plan_span_at(const FastloadArea *area, uint32_t idx)
{
    g_assert_cmpuint(idx, <, area->spans->len);
    return g_array_index(area->spans, FastloadSpan, idx);
}

static void plan_assert_span(FastloadSpan span, uint64_t ram_off,
                             uint64_t len_bytes)
{
    g_assert_cmpuint(span.ram_off, ==, ram_off);
    g_assert_cmpuint(span.len_bytes, ==, len_bytes);
}

/* ---- chunks ---- */

static void plan_check_grid(const FastloadArea *area)
{
    uint64_t at = 0;
    uint64_t c;

    for (c = 0; c < area->chunk_count; c++) {
        FastloadSpan span = fastload_plan_chunk_span(area, c);
        uint64_t hva = (uintptr_t)area->hva + span.ram_off;

        g_assert_cmpuint(span.ram_off, ==, at);
        g_assert_cmpuint(span.len_bytes, >, 0);
        g_assert_cmpuint(hva / CHUNK, ==, (hva + span.len_bytes - 1) / CHUNK);
        g_assert_cmpuint(fastload_plan_chunk_of(area, span.ram_off), ==, c);
        at += span.len_bytes;
        g_assert_cmpuint(fastload_plan_chunk_of(area, at - 1), ==, c);
        g_assert_true(at == area->len_bytes ||
                      ((uintptr_t)area->hva + at) % CHUNK == 0);
    }
    g_assert_cmpuint(at, ==, area->len_bytes);
}

static void test_chunks_follow_the_host_grid(void)
{
    /* Chunks tile the region and never cross a multiple of 2 MiB of hva. */
    static const uint64_t skews[] = { 0, 1, 255, 511 };
    static const uint64_t counts[] = {
        1, 2, 511, 512, 513, 1023, 1024, 1025, 3000,
    };
    uint32_t s, n;

    for (s = 0; s < G_N_ELEMENTS(skews); s++) {
        for (n = 0; n < G_N_ELEMENTS(counts); n++) {
            g_autofree uint64_t *bits = plan_bits(counts[n]);
            FastloadArea *area = plan_area(skews[s] * PAGE, counts[n] * PAGE,
                                           PAGE, bits);

            plan_check_grid(area);
            g_assert_cmpuint(area->chunk_count, ==,
                             (skews[s] + counts[n] + 511) / 512);
            fastload_plan_area_free(area);
        }
    }
}

static void test_bits_past_the_end_are_ignored(void)
{
    /* Rubbish after the last bit of a bitmap changes nothing. */
    g_autofree uint64_t *bits = plan_bits(100);
    g_autofree uint64_t *clean = plan_bits(100);
    FastloadArea *area, *twin;

    memset(bits, 0xff, 2 * sizeof(bits[0]));
    plan_set(clean, 0, 70);
    area = plan_area(0, 70 * PAGE, PAGE, bits);
    twin = plan_area(0, 70 * PAGE, PAGE, clean);
    g_assert_cmpuint(area->zero_bytes, ==, 0);
    g_assert_cmpuint(area->data_bits[1], ==, twin->data_bits[1]);
    fastload_plan_area_free(area);
    fastload_plan_area_free(twin);

    /* A whole word has none to ignore. */
    area = plan_area(0, 64 * PAGE, PAGE, bits);
    g_assert_cmpuint(area->zero_bytes, ==, 0);
    fastload_plan_area_free(area);
}

static void test_zero_bytes_are_counted(void)
{
    /* Pages without a granule of data are zero. */
    g_autofree uint64_t *bits = plan_bits(1000);
    FastloadArea *area;

    plan_set(bits, 3, 1);
    plan_set(bits, 60, 10);
    plan_set(bits, 999, 1);
    area = plan_area(PAGE, 1000 * PAGE, PAGE, bits);
    g_assert_cmpuint(area->zero_bytes, ==, (1000 - 12) * PAGE);
    fastload_plan_area_free(area);

    area = plan_area(0, 992 * PAGE, 16 * PAGE, bits);
    g_assert_cmpuint(area->zero_bytes, ==, (992 - 3 * 16) * PAGE);
    fastload_plan_area_free(area);
}

/* ---- extents ---- */

/* With the holes that near storage is read over. */
static uint32_t plan_extents(const FastloadArea *area, FastloadSpan span,
                             FastloadSpan *ret_extents)
{
    return fastload_plan_extents(area, span, FASTLOAD_GAP_BYTES_MAX,
                                 ret_extents);
}

static void test_small_gaps_are_read_over(void)
{
    /* A hole up to the limit joins two extents, a page more parts them. */
    FastloadSpan extents[FASTLOAD_EXTENT_COUNT_MAX];
    FastloadSpan chunk = { 0, CHUNK };
    g_autofree uint64_t *bits = plan_bits(CHUNK_PAGES);
    FastloadArea *area;
    uint32_t count;

    plan_set(bits, 10, 2);
    plan_set(bits, 12 + GAP_PAGES, 3);
    plan_set(bits, 15 + 2 * GAP_PAGES + 1, 1);
    area = plan_area(0, CHUNK, PAGE, bits);
    count = plan_extents(area, chunk, extents);
    g_assert_cmpuint(count, ==, 2);
    plan_assert_span(extents[0], 10 * PAGE, (5 + GAP_PAGES) * PAGE);
    plan_assert_span(extents[1], (16 + 2 * GAP_PAGES) * PAGE, PAGE);
    /* Storage that needs long reads is read over longer ones. */
    count = fastload_plan_extents(area, chunk, (GAP_PAGES + 1) * PAGE,
                                  extents);
    g_assert_cmpuint(count, ==, 1);
    plan_assert_span(extents[0], 10 * PAGE, (7 + 2 * GAP_PAGES) * PAGE);
    fastload_plan_area_free(area);
}

static void test_extents_stay_in_their_span(void)
{
    /* Extents leave out the data next to their span. */
    FastloadSpan extents[FASTLOAD_EXTENT_COUNT_MAX];
    FastloadSpan span = { 20 * PAGE, 10 * PAGE };
    g_autofree uint64_t *bits = plan_bits(64);
    FastloadArea *area;

    plan_set(bits, 0, 64);
    area = plan_area(0, 64 * PAGE, PAGE, bits);
    g_assert_cmpuint(plan_extents(area, span, extents), ==, 1);
    plan_assert_span(extents[0], span.ram_off, span.len_bytes);
    fastload_plan_area_free(area);
}

static void test_worst_bitmap_fits(void)
{
    /* The bitmap with the most extents has no more than there is room for. */
    FastloadSpan extents[FASTLOAD_EXTENT_COUNT_MAX];
    FastloadSpan chunk = { 0, CHUNK };
    g_autofree uint64_t *bits = plan_bits(CHUNK_PAGES);
    uint32_t step = GAP_PAGES + 2;
    uint32_t want = (CHUNK_PAGES + step - 1) / step;
    FastloadArea *area;
    uint32_t i;

    for (i = 0; i < CHUNK_PAGES; i += step) {
        plan_set(bits, i, 1);
    }
    area = plan_area(0, CHUNK, PAGE, bits);
    g_assert_cmpuint(want, <=, FASTLOAD_EXTENT_COUNT_MAX);
    g_assert_cmpuint(plan_extents(area, chunk, extents), ==, want);
    for (i = 0; i < want; i++) {
        plan_assert_span(extents[i], i * step * PAGE, PAGE);
    }
    fastload_plan_area_free(area);
}

static void test_placed_pages_are_left_out(void)
{
    /* Pages that are placed already are not read again. */
    FastloadSpan extents[FASTLOAD_EXTENT_COUNT_MAX];
    FastloadSpan chunk = { 0, CHUNK };
    g_autofree uint64_t *bits = plan_bits(CHUNK_PAGES);
    FastloadArea *area;
    uint32_t count;

    plan_set(bits, 0, CHUNK_PAGES);
    area = plan_area(0, CHUNK, PAGE, bits);
    plan_set(area->placed, 0, 5);
    plan_set(area->placed, 100, GAP_PAGES + 1);
    plan_set(area->placed, 200, 1); /* small: read over */
    plan_set(area->placed, 511, 1);
    count = plan_extents(area, chunk, extents);
    g_assert_cmpuint(count, ==, 2);
    plan_assert_span(extents[0], 5 * PAGE, 95 * PAGE);
    plan_assert_span(extents[1], (101 + GAP_PAGES) * PAGE,
                     (511 - 101 - GAP_PAGES) * PAGE);

    plan_set(area->placed, 0, CHUNK_PAGES);
    g_assert_cmpuint(plan_extents(area, chunk, extents), ==, 0);
    fastload_plan_area_free(area);
}

static void test_large_pages_keep_small_granules(void)
{
    /* A page of many granules is placed whole but read by granules. */
    FastloadSpan extents[FASTLOAD_EXTENT_COUNT_MAX];
    FastloadSpan chunk = { 0, CHUNK };
    g_autofree uint64_t *bits = plan_bits(CHUNK_PAGES);
    uint32_t page_bytes = 16 * PAGE;
    FastloadArea *area;
    uint64_t run_bytes;

    plan_set(bits, 16 + 3, 1);
    plan_set(bits, 16 + 15, 1);
    plan_set(bits, 3 * 16, 16);
    area = plan_area(0, CHUNK, page_bytes, bits);
    g_assert_false(fastload_plan_page_has_data(area, 0));
    g_assert_true(fastload_plan_page_has_data(area, 1));
    g_assert_false(fastload_plan_page_has_data(area, 2));
    g_assert_true(fastload_plan_page_has_data(area, 3));

    g_assert_cmpuint(plan_extents(area, chunk, extents), ==, 3);
    plan_assert_span(extents[0], 19 * PAGE, PAGE);
    plan_assert_span(extents[1], 31 * PAGE, PAGE);
    plan_assert_span(extents[2], 48 * PAGE, 16 * PAGE);

    plan_set(area->placed, 1, 1);
    g_assert_cmpuint(plan_extents(area, chunk, extents), ==, 1);
    plan_assert_span(extents[0], 48 * PAGE, 16 * PAGE);

    g_assert_cmpint(fastload_plan_run(area, 3 * page_bytes, CHUNK,
                                      &run_bytes), ==, FASTLOAD_RUN_DATA);
    g_assert_cmpuint(run_bytes, ==, page_bytes);
    fastload_plan_area_free(area);
}

/* ---- runs ---- */

static void test_runs_end_where_the_kind_changes(void)
{
    /* A run is as long as its pages are of one kind, or to the end. */
    g_autofree uint64_t *bits = plan_bits(100);
    FastloadArea *area;
    uint64_t run_bytes;

    plan_set(bits, 10, 20);
    area = plan_area(0, 100 * PAGE, PAGE, bits);
    plan_set(area->placed, 25, 30);

    g_assert_cmpint(fastload_plan_run(area, 0, 100 * PAGE, &run_bytes),
                    ==, FASTLOAD_RUN_ZERO);
    g_assert_cmpuint(run_bytes, ==, 10 * PAGE);
    g_assert_cmpint(fastload_plan_run(area, 10 * PAGE, 100 * PAGE,
                                      &run_bytes), ==, FASTLOAD_RUN_DATA);
    g_assert_cmpuint(run_bytes, ==, 15 * PAGE);
    g_assert_cmpint(fastload_plan_run(area, 25 * PAGE, 100 * PAGE,
                                      &run_bytes), ==, FASTLOAD_RUN_PLACED);
    g_assert_cmpuint(run_bytes, ==, 30 * PAGE);
    g_assert_cmpint(fastload_plan_run(area, 55 * PAGE, 100 * PAGE,
                                      &run_bytes), ==, FASTLOAD_RUN_ZERO);
    g_assert_cmpuint(run_bytes, ==, 45 * PAGE);
    g_assert_cmpint(fastload_plan_run(area, 12 * PAGE, 14 * PAGE,
                                      &run_bytes), ==, FASTLOAD_RUN_DATA);
    g_assert_cmpuint(run_bytes, ==, 2 * PAGE);
    fastload_plan_area_free(area);
}

/* ---- spans ---- */

/* One area; @chunks: a letter each, 'd' has data, 'z' is zero. */
static GPtrArray *plan_of_letters(const char *chunks)
{
    uint64_t chunk_count = strlen(chunks);
    g_autofree uint64_t *bits = plan_bits(chunk_count * CHUNK_PAGES);
    GPtrArray *areas = plan_areas();
    uint64_t c;

    for (c = 0; c < chunk_count; c++) {
        if (chunks[c] == 'd') {
            /* Just one page, now at the front and now at the back. */
            plan_set(bits, c * CHUNK_PAGES + (c % 2 ? CHUNK_PAGES - 1 : 0), 1);
        }
    }
    g_ptr_array_add(areas, plan_area(0, chunk_count * CHUNK, PAGE, bits));
    return areas;
}

/* @want: '.' where a chunk is not registered. */
static void plan_assert_states(GPtrArray *areas, uint32_t area_idx,
                               const char *want)
{
    const FastloadArea *area = g_ptr_array_index(areas, area_idx);
    g_autofree char *got = g_strndup(want, area->chunk_count);
    uint64_t c;

    for (c = 0; c < area->chunk_count; c++) {
        g_assert_true(area->chunk_states[c] == FASTLOAD_CHUNK_PENDING ||
                      area->chunk_states[c] == FASTLOAD_CHUNK_UNTRAPPED);
        got[c] = area->chunk_states[c] == FASTLOAD_CHUNK_UNTRAPPED ? '.'
                                                                    : 'r';
    }
    g_assert_cmpstr(got, ==, want);
}

static void test_zero_chunks_stay_unregistered(void)
{
    /* Whole zero chunks are in no span; the others are, as few as can be. */
    GPtrArray *areas = plan_of_letters("zddzzdzd");
    const FastloadArea *area = g_ptr_array_index(areas, 0);

    fastload_plan_spans(areas, 100);
    plan_assert_states(areas, 0, ".rr..r.r");
    g_assert_cmpuint(area->spans->len, ==, 3);
    plan_assert_span(plan_span_at(area, 0), CHUNK, 2 * CHUNK);
    plan_assert_span(plan_span_at(area, 1), 5 * (uint64_t)CHUNK, CHUNK);
    plan_assert_span(plan_span_at(area, 2), 7 * (uint64_t)CHUNK, CHUNK);
    g_ptr_array_free(areas, true);
}

static void test_all_zero_has_no_span(void)
{
    /* An area of nothing but zeros is not registered at all. */
    GPtrArray *areas = plan_of_letters("zzz");
    const FastloadArea *area = g_ptr_array_index(areas, 0);

    fastload_plan_spans(areas, 0);
    plan_assert_states(areas, 0, "...");
    g_assert_cmpuint(area->spans->len, ==, 0);
    g_ptr_array_free(areas, true);
}

static void test_odd_ends_stay_registered(void)
{
    /* Zeros of less than 2 MiB at an end of a region are no hole. */
    uint64_t page_count = 100 + 2 * CHUNK_PAGES + 100;
    g_autofree uint64_t *bits = plan_bits(page_count);
    GPtrArray *areas = plan_areas();
    FastloadArea *area;

    plan_set(bits, 100, 2 * CHUNK_PAGES);
    area = plan_area((CHUNK_PAGES - 100) * PAGE, page_count * PAGE, PAGE,
                     bits);
    g_ptr_array_add(areas, area);
    fastload_plan_spans(areas, 100);
    plan_assert_states(areas, 0, "rrrr");
    g_assert_cmpuint(area->spans->len, ==, 1);
    plan_assert_span(plan_span_at(area, 0), 0, page_count * PAGE);
    g_ptr_array_free(areas, true);
}

static void test_odd_ends_join_a_hole(void)
{
    /* An end that continues a zero chunk is part of the hole. */
    uint64_t page_count = 100 + 2 * CHUNK_PAGES;
    g_autofree uint64_t *bits = plan_bits(page_count);
    GPtrArray *areas = plan_areas();
    FastloadArea *area;

    plan_set(bits, page_count - 1, 1);
    area = plan_area((CHUNK_PAGES - 100) * PAGE, page_count * PAGE, PAGE,
                     bits);
    g_ptr_array_add(areas, area);
    fastload_plan_spans(areas, 100);
    plan_assert_states(areas, 0, "..r");
    plan_assert_span(plan_span_at(area, 0), (100 + CHUNK_PAGES) * PAGE,
                     CHUNK);
    g_ptr_array_free(areas, true);
}

static void test_budget_keeps_the_longest_holes(void)
{
    /* With too many holes the shortest are registered after all. */
    GPtrArray *areas = plan_of_letters("dzdzzzzdzdzd");

    fastload_plan_spans(areas, 2);
    plan_assert_states(areas, 0, "rrr....rrrrr");
    g_ptr_array_free(areas, true);
}

static void test_holes_off_the_grid_have_margins(void)
{
    /* A huge page across a hole's border stays within what is trapped. */
    GPtrArray *areas = plan_of_letters("dzzdzzzzdzzz");
    FastloadArea *area = g_ptr_array_index(areas, 0);

    area->is_off_grid = true;
    fastload_plan_spans(areas, 100);
    plan_assert_states(areas, 0, "rrrrr..rrr.r");
    g_ptr_array_free(areas, true);
}

static void test_planned_again_with_fewer(void)
{
    /* A second plan is as if there had been none before; nothing leaks. */
    GPtrArray *areas = plan_of_letters("dzdzzzzdzdzd");
    const FastloadArea *area = g_ptr_array_index(areas, 0);
    const uint8_t *states;

    fastload_plan_spans(areas, 100);
    plan_assert_states(areas, 0, "r.r....r.r.r");
    states = area->chunk_states;
    fastload_plan_spans(areas, 2);
    plan_assert_states(areas, 0, "rrr....rrrrr");
    g_assert_cmpuint(area->spans->len, ==, 2);
    g_assert_true(area->chunk_states == states);
    fastload_plan_spans(areas, 100);
    plan_assert_states(areas, 0, "r.r....r.r.r");
    g_ptr_array_free(areas, true);
}

static void test_budget_of_nothing_is_one_span(void)
{
    /* A budget of 0 leaves each area a single span, and its ends trimmed. */
    GPtrArray *areas = plan_of_letters("dzzzzzzzzzzd");

    fastload_plan_spans(areas, 0);
    plan_assert_states(areas, 0, "rrrrrrrrrrrr");
    g_ptr_array_free(areas, true);

    areas = plan_of_letters("zzzzdddd");
    fastload_plan_spans(areas, 0);
    plan_assert_states(areas, 0, "....rrrr");
    g_ptr_array_free(areas, true);
}

static void test_large_pages_span_the_same(void)
{
    /* One granule with data keeps its huge page registered. */
    g_autofree uint64_t *bits = plan_bits(4 * CHUNK_PAGES);
    GPtrArray *areas = plan_areas();
    FastloadArea *area;

    plan_set(bits, 2 * CHUNK_PAGES + 77, 1);
    area = plan_area(0, 4 * (uint64_t)CHUNK, CHUNK, bits);
    g_ptr_array_add(areas, area);
    fastload_plan_spans(areas, 100);
    plan_assert_states(areas, 0, "..r.");
    g_assert_cmpuint(area->page_count, ==, 4);
    g_ptr_array_free(areas, true);
}

static void test_half_a_chunk_may_be_moved(void)
{
    /* A chunk may be a huge page if half of it is data and none is placed. */
    g_autofree uint64_t *bits = plan_bits(3 * CHUNK_PAGES);
    FastloadSpan first, second, third;
    FastloadArea *area;

    plan_set(bits, 0, CHUNK_PAGES);
    plan_set(bits, CHUNK_PAGES + 10, CHUNK_PAGES / 2);
    plan_set(bits, 2 * CHUNK_PAGES + 10, CHUNK_PAGES / 2 - 1);
    area = plan_area(0, 3 * (uint64_t)CHUNK, PAGE, bits);
    first = fastload_plan_chunk_span(area, 0);
    second = fastload_plan_chunk_span(area, 1);
    third = fastload_plan_chunk_span(area, 2);
    g_assert_false(fastload_huge_fits(area, first));
    area->has_move = true;
    g_assert_true(fastload_huge_fits(area, first));
    g_assert_true(fastload_huge_fits(area, second));
    g_assert_false(fastload_huge_fits(area, third));
    first.len_bytes -= PAGE;
    g_assert_false(fastload_huge_fits(area, first));
    first.len_bytes += PAGE;
    plan_set(area->placed, CHUNK_PAGES - 1, 1);
    g_assert_false(fastload_huge_fits(area, first));
    g_assert_true(fastload_huge_fits(area, second));
    plan_set(area->placed, CHUNK_PAGES, 1);
    g_assert_false(fastload_huge_fits(area, second));
    fastload_plan_area_free(area);
}

/* ---- against a naive reference ---- */

typedef struct Naive {
    uint64_t page_count;
    bool *has_data; /* by granule */
    bool *placed;   /* by granule, whole pages alike */
} Naive;

/* Runs of random length, so that every case of the planner comes up. */
static void naive_fill(GRand *rand, bool *flags, uint64_t count,
                       uint32_t align)
{
    uint64_t i = 0;

    while (i < count) {
        uint32_t shift = g_rand_int_range(rand, 0, 12);
        uint64_t run = g_rand_int_range(rand, 1, (1 << shift) + 1);
        bool flag = g_rand_boolean(rand);

        run = (run + align - 1) / align * align;
        for (; run && i < count; run--) {
            flags[i++] = flag;
        }
    }
}

static void naive_check_extents(const FastloadArea *area, const Naive *naive)
{
    uint64_t c, i;

    for (c = 0; c < area->chunk_count; c++) {
        FastloadSpan chunk = fastload_plan_chunk_span(area, c);
        FastloadSpan extents[FASTLOAD_EXTENT_COUNT_MAX];
        uint32_t count = plan_extents(area, chunk, extents);
        uint64_t end = chunk.ram_off + chunk.len_bytes;
        uint64_t last = UINT64_MAX; /* wanted granule before this one */
        uint32_t at = 0;

        for (i = chunk.ram_off / PAGE; i < end / PAGE; i++) {
            if (!naive->has_data[i] || naive->placed[i]) {
                continue;
            }
            if (last == UINT64_MAX || i - last - 1 > GAP_PAGES) {
                if (last != UINT64_MAX) {
                    g_assert_cmpuint(extents[at].ram_off +
                                     extents[at].len_bytes,
                                     ==, (last + 1) * PAGE);
                    at++;
                }
                g_assert_cmpuint(at, <, count);
                g_assert_cmpuint(extents[at].ram_off, ==, i * PAGE);
            }
            last = i;
        }
        if (last != UINT64_MAX) {
            g_assert_cmpuint(extents[at].ram_off + extents[at].len_bytes,
                             ==, (last + 1) * PAGE);
            at++;
        }
        g_assert_cmpuint(at, ==, count);
    }
}

static FastloadRunKind naive_kind(const Naive *naive, uint64_t page_idx,
                                  uint32_t granules)
{
    uint64_t i;

    if (naive->placed[page_idx * granules]) {
        return FASTLOAD_RUN_PLACED;
    }
    for (i = page_idx * granules; i < (page_idx + 1) * granules; i++) {
        if (naive->has_data[i]) {
            return FASTLOAD_RUN_DATA;
        }
    }
    return FASTLOAD_RUN_ZERO;
}

static void naive_check_runs(const FastloadArea *area, const Naive *naive)
{
    uint32_t granules = area->page_bytes / PAGE;
    uint64_t page = 0, i;

    while (page < area->page_count) {
        uint64_t run_bytes;
        FastloadRunKind kind = fastload_plan_run(area,
                                                 page << area->page_shift,
                                                 area->len_bytes, &run_bytes);
        uint64_t count = run_bytes >> area->page_shift;

        g_assert_cmpuint(count, >, 0);
        g_assert_cmpuint(count, <=, area->page_count - page);
        for (i = 0; i < count; i++) {
            g_assert_cmpint(naive_kind(naive, page + i, granules), ==, kind);
        }
        page += count;
        if (page < area->page_count) {
            g_assert_cmpint(naive_kind(naive, page, granules), !=, kind);
        }
    }
}

/* Shortest hole and longest run of zero chunks that is no hole. */
typedef struct NaiveHoles {
    uint64_t hole_min;
    uint64_t kept_max;
} NaiveHoles;

static void naive_check_spans(const FastloadArea *area, const Naive *naive,
                              NaiveHoles *holes)
{
    g_autofree bool *is_in = g_new0(bool, naive->page_count);
    uint64_t c, i, end = 0, run = 0, run_bytes = 0;
    guint s;

    for (s = 0; s < area->spans->len; s++) {
        FastloadSpan span = plan_span_at(area, s);

        g_assert_cmpuint(span.len_bytes, >, 0);
        g_assert_true(s == 0 || span.ram_off > end);
        end = span.ram_off + span.len_bytes;
        g_assert_cmpuint(end, <=, area->len_bytes);
        for (i = span.ram_off / PAGE; i < end / PAGE; i++) {
            is_in[i] = true;
        }
    }
    for (c = 0; c <= area->chunk_count; c++) {
        bool is_last = c == area->chunk_count, is_zero = !is_last;
        FastloadSpan chunk = { 0 };
        bool is_hole = false;

        if (!is_last) {
            chunk = fastload_plan_chunk_span(area, c);
            is_hole = area->chunk_states[c] == FASTLOAD_CHUNK_UNTRAPPED;
        }
        for (i = 0; i < chunk.len_bytes / PAGE; i++) {
            is_zero = is_zero && !naive->has_data[chunk.ram_off / PAGE + i];
            g_assert_true(is_in[chunk.ram_off / PAGE + i] == !is_hole);
        }
        g_assert_true(is_zero || !is_hole);
        if (is_zero) {
            run++;
            run_bytes += chunk.len_bytes;
            continue;
        }
        if (run && area->chunk_states[c - 1] == FASTLOAD_CHUNK_UNTRAPPED) {
            g_assert_cmpuint(run_bytes, >=, CHUNK);
            holes->hole_min = MIN(holes->hole_min, run);
        } else if (run_bytes >= CHUNK) {
            holes->kept_max = MAX(holes->kept_max, run);
        }
        run = 0;
        run_bytes = 0;
    }
}

static void naive_free(void *opaque)
{
    Naive *naive = opaque;

    g_free(naive->has_data);
    g_free(naive->placed);
    g_free(naive);
}

static void naive_add_area(GRand *rand, GPtrArray *areas, GPtrArray *naives)
{
    uint32_t granules = 1 << (g_rand_boolean(rand)
                              ? 0 : g_rand_int_range(rand, 0, 10));
    uint64_t page_count = (uint64_t)g_rand_int_range(rand, 1, 5000 / granules +
                                                     2);
    uint64_t skew_pages = g_rand_int_range(rand, 0, 512 / granules);
    Naive *naive = g_new0(Naive, 1);
    g_autofree uint64_t *bits = NULL;
    uint64_t i, k, zero_count = 0;
    FastloadArea *area;

    naive->page_count = page_count * granules;
    naive->has_data = g_new0(bool, naive->page_count);
    naive->placed = g_new0(bool, naive->page_count);
    naive_fill(rand, naive->has_data, naive->page_count, 1);
    naive_fill(rand, naive->placed, naive->page_count, granules);
    bits = plan_bits(naive->page_count);
    memset(bits, g_rand_boolean(rand) ? 0xff : 0,
           (FASTLOAD_BIT_WORDS(naive->page_count) + 1) * sizeof(bits[0]));
    for (i = 0; i < naive->page_count; i++) {
        bits[i / 64] &= ~(1ull << (i % 64));
        bits[i / 64] |= (uint64_t)naive->has_data[i] << (i % 64);
    }
    for (i = 0; i < page_count; i++) {
        for (k = 0; k < granules && !naive->has_data[i * granules + k]; k++) {
            continue;
        }
        zero_count += k == granules;
    }
    area = plan_area(skew_pages * granules * PAGE, naive->page_count * PAGE,
                     granules * PAGE, bits);
    g_assert_cmpuint(area->zero_bytes, ==, zero_count * granules * PAGE);
    for (i = 0; i < page_count; i++) {
        if (naive->placed[i * granules]) {
            plan_set(area->placed, i, 1);
        }
    }
    g_ptr_array_add(areas, area);
    g_ptr_array_add(naives, naive);
}

static void naive_round(uint32_t seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    GPtrArray *areas = plan_areas();
    GPtrArray *naives = g_ptr_array_new_with_free_func(naive_free);
    uint32_t area_count = g_rand_int_range(rand, 1, 4);
    uint32_t budget = g_rand_int_range(rand, 0, 6);
    NaiveHoles holes = { .hole_min = UINT64_MAX };
    uint64_t span_count = 0;
    uint32_t i;

    if (g_rand_boolean(rand)) {
        budget = UINT32_MAX;
    }
    for (i = 0; i < area_count; i++) {
        naive_add_area(rand, areas, naives);
    }
    fastload_plan_spans(areas, budget);
    for (i = 0; i < area_count; i++) {
        FastloadArea *area = g_ptr_array_index(areas, i);
        Naive *naive = g_ptr_array_index(naives, i);

        plan_check_grid(area);
        naive_check_extents(area, naive);
        naive_check_runs(area, naive);
        naive_check_spans(area, naive, &holes);
        span_count += area->spans->len;
    }
    g_assert_cmpuint(span_count, <=, (uint64_t)budget + area_count);
    g_assert_cmpuint(holes.kept_max, <, holes.hole_min);
    if (budget == UINT32_MAX) {
        g_assert_cmpuint(holes.kept_max, ==, 0);
    }
    g_ptr_array_free(areas, true);
    g_ptr_array_free(naives, true);
}

static void test_random_plans_match_a_naive_one(void)
{
    /* Random regions are planned as the plainest code would do it. */
    uint32_t seed = g_test_rand_int();
    uint32_t i;

    for (i = 0; i < ROUND_COUNT; i++) {
        fixture_note("seed %u", seed + i);
        naive_round(seed + i);
    }
    fixture_note_clear();
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    g_test_add_func("/fastload/plan/chunks-follow-the-host-grid",
                    test_chunks_follow_the_host_grid);
    g_test_add_func("/fastload/plan/bits-past-the-end-are-ignored",
                    test_bits_past_the_end_are_ignored);
    g_test_add_func("/fastload/plan/zero-bytes-are-counted",
                    test_zero_bytes_are_counted);
    g_test_add_func("/fastload/plan/small-gaps-are-read-over",
                    test_small_gaps_are_read_over);
    g_test_add_func("/fastload/plan/extents-stay-in-their-span",
                    test_extents_stay_in_their_span);
    g_test_add_func("/fastload/plan/worst-bitmap-fits",
                    test_worst_bitmap_fits);
    g_test_add_func("/fastload/plan/placed-pages-are-left-out",
                    test_placed_pages_are_left_out);
    g_test_add_func("/fastload/plan/large-pages-keep-small-granules",
                    test_large_pages_keep_small_granules);
    g_test_add_func("/fastload/plan/runs-end-where-the-kind-changes",
                    test_runs_end_where_the_kind_changes);
    g_test_add_func("/fastload/plan/zero-chunks-stay-unregistered",
                    test_zero_chunks_stay_unregistered);
    g_test_add_func("/fastload/plan/all-zero-has-no-span",
                    test_all_zero_has_no_span);
    g_test_add_func("/fastload/plan/odd-ends-stay-registered",
                    test_odd_ends_stay_registered);
    g_test_add_func("/fastload/plan/odd-ends-join-a-hole",
                    test_odd_ends_join_a_hole);
    g_test_add_func("/fastload/plan/budget-keeps-the-longest-holes",
                    test_budget_keeps_the_longest_holes);
    g_test_add_func("/fastload/plan/holes-off-the-grid-have-margins",
                    test_holes_off_the_grid_have_margins);
    g_test_add_func("/fastload/plan/planned-again-with-fewer",
                    test_planned_again_with_fewer);
    g_test_add_func("/fastload/plan/budget-of-nothing-is-one-span",
                    test_budget_of_nothing_is_one_span);
    g_test_add_func("/fastload/plan/large-pages-span-the-same",
                    test_large_pages_span_the_same);
    g_test_add_func("/fastload/plan/half-a-chunk-may-be-moved",
                    test_half_a_chunk_may_be_moved);
    g_test_add_func("/fastload/plan/random-plans-match-a-naive-one",
                    test_random_plans_match_a_naive_one);
    return g_test_run();
}
