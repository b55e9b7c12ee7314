/*
 * fastload plan: regions and bitmaps to chunks, extents and spans.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure functions of an area: no I/O, no locks, no system calls; only allocation
 * can fail.  Decides what one read covers, what one placement covers, and what
 * is never registered with userfaultfd.  Knows nothing of priorities.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"

/* Start waits for this: counts a word at a time where that is possible. */
static uint64_t plan_zero_bytes(const FastloadArea *area)
{
    uint64_t granule_count = area->len_bytes >> area->granule_shift;
    uint64_t word_count = FASTLOAD_BIT_WORDS(granule_count);
    uint64_t i, data_count = 0;

    if (area->granule_shift == area->page_shift) {
        for (i = 0; i < word_count; i++) {
            data_count += __builtin_popcountll(area->data_bits[i]);
        }
    } else {
        for (i = 0; i < area->page_count; i++) {
            data_count += fastload_plan_page_has_data(area, i);
        }
    }
    return area->len_bytes - (data_count << area->page_shift);
}

FastloadArea *fastload_plan_area_new(const FastloadRegion *region)
{
    FastloadArea *area = g_new0(FastloadArea, 1);
    uint64_t granule_count, word_count;

    area->label = g_strdup(region->label ? region->label : "");
    area->hva = region->hva;
    area->len_bytes = region->len_bytes;
    area->file_off = region->file_off;
    area->is_eager = region->is_eager;
    area->is_empty = region->is_empty;
    area->is_early = region->is_early;
    area->is_off_grid = region->is_off_grid;
    area->wants_huge = region->wants_huge;
    area->wants_populated = region->wants_populated;
    area->page_bytes = region->page_bytes;
    area->page_shift = __builtin_ctz(region->page_bytes);
    area->granule_bytes = region->granule_bytes;
    area->granule_shift = __builtin_ctz(region->granule_bytes);
    area->page_count = area->len_bytes >> area->page_shift;
    area->head_bytes = (uintptr_t)area->hva % FASTLOAD_CHUNK_BYTES;
    area->chunk_count = (area->head_bytes + area->len_bytes +
                         FASTLOAD_CHUNK_BYTES - 1) / FASTLOAD_CHUNK_BYTES;
    area->spans = g_array_new(false, false, sizeof(FastloadSpan));
    g_rw_lock_init(&area->place_lock);

    granule_count = area->len_bytes >> area->granule_shift;
    word_count = FASTLOAD_BIT_WORDS(granule_count);
    area->data_bits = g_new(uint64_t, word_count);
    memcpy(area->data_bits, region->data_bits, word_count * sizeof(uint64_t));
    if (granule_count % FASTLOAD_BITS) {
        /* The caller's bits past the end may be set; here they are clear. */
        area->data_bits[word_count - 1] &=
            (1ull << (granule_count % FASTLOAD_BITS)) - 1;
    }

    area->zero_bytes = plan_zero_bytes(area);
    return area;
}

void fastload_plan_area_free(FastloadArea *area)
{
    if (!area) {
        return;
    }
    g_free(area->data_bits);
    g_array_free(area->spans, true);
    g_free(area->chunk_states);
    g_free(area->claimed);
    g_free(area->placed);
    g_free(area->moved);
    g_free(area->touched);
    g_free(area->in_set);
    g_free(area->unread);
    g_free(area->whole);
    g_free(area->label);
    g_rw_lock_clear(&area->place_lock);
    g_free(area);
}

static bool plan_granule_has_data(const FastloadArea *area, uint64_t idx)
{
    return area->data_bits[idx / FASTLOAD_BITS] >> (idx % FASTLOAD_BITS) & 1;
}

/* Any bit set in [first, last)? */
static bool plan_bits_any(const uint64_t *bits, uint64_t first, uint64_t last)
{
    while (first < last) {
        uint64_t in_word = MIN(FASTLOAD_BITS - first % FASTLOAD_BITS,
                               last - first);
        uint64_t word = bits[first / FASTLOAD_BITS] >> (first % FASTLOAD_BITS);

        if (in_word < FASTLOAD_BITS) {
            word &= (1ull << in_word) - 1;
        }
        if (word) {
            return true;
        }
        first += in_word;
    }
    return false;
}

static bool plan_span_has_data(const FastloadArea *area, FastloadSpan span)
{
    return plan_bits_any(area->data_bits,
                         span.ram_off >> area->granule_shift,
                         (span.ram_off + span.len_bytes) >>
                         area->granule_shift);
}

/* Is there anything to place in @span? */
static bool plan_span_is_wanted(const FastloadArea *area, FastloadSpan span)
{
    return area->wants_populated || plan_span_has_data(area, span);
}

bool fastload_plan_page_has_data(const FastloadArea *area, uint64_t page_idx)
{
    FastloadSpan page = { page_idx << area->page_shift, area->page_bytes };

    return plan_span_has_data(area, page);
}

uint64_t fastload_plan_chunk_of(const FastloadArea *area, uint64_t ram_off)
{
    return (area->head_bytes + ram_off) / FASTLOAD_CHUNK_BYTES;
}

uint64_t fastload_plan_data_bytes(const FastloadArea *area, FastloadSpan span)
{
    uint64_t first = span.ram_off >> area->granule_shift;
    uint64_t count = span.len_bytes >> area->granule_shift;
    uint64_t i, data_count = 0;

    for (i = 0; i < count; i++) {
        data_count += fastload_bit_test(area->data_bits, first + i);
    }
    return data_count << area->granule_shift;
}

FastloadSpan fastload_plan_chunk_span(const FastloadArea *area,
                                      uint64_t chunk_idx)
{
    uint64_t begin = chunk_idx * FASTLOAD_CHUNK_BYTES;
    uint64_t end = begin + FASTLOAD_CHUNK_BYTES;
    FastloadSpan span;

    begin = MAX(begin, area->head_bytes) - area->head_bytes;
    end = MIN(end - area->head_bytes, area->len_bytes);
    span.ram_off = begin;
    span.len_bytes = end - begin;
    return span;
}

uint32_t fastload_plan_extents(const FastloadArea *area, FastloadSpan span,
                               uint64_t gap_bytes,
                               FastloadSpan *ret_extents)
{
    uint64_t first = span.ram_off >> area->granule_shift;
    uint64_t last = (span.ram_off + span.len_bytes) >> area->granule_shift;
    uint32_t to_page = area->page_shift - area->granule_shift;
    uint32_t count = 0;
    uint64_t i;

    assert(span.len_bytes <= FASTLOAD_CHUNK_BYTES);
    for (i = first; i < last; i++) {
        uint64_t ram_off = i << area->granule_shift;
        FastloadSpan *prev = count ? &ret_extents[count - 1] : NULL;

        if (!plan_granule_has_data(area, i) ||
            (area->placed && fastload_bit_test(area->placed, i >> to_page))) {
            continue;
        }
        if (prev && ram_off - (prev->ram_off + prev->len_bytes) <=
            gap_bytes) {
            prev->len_bytes = ram_off + area->granule_bytes - prev->ram_off;
        } else {
            assert(count < FASTLOAD_EXTENT_COUNT_MAX);
            ret_extents[count].ram_off = ram_off;
            ret_extents[count].len_bytes = area->granule_bytes;
            count++;
        }
    }
    return count;
}

static FastloadRunKind plan_page_kind(const FastloadArea *area,
                                      uint64_t page_idx)
{
    if (fastload_bit_test(area->placed, page_idx)) {
        return FASTLOAD_RUN_PLACED;
    }
    return fastload_plan_page_has_data(area, page_idx) ? FASTLOAD_RUN_DATA
                                                       : FASTLOAD_RUN_ZERO;
}

FastloadRunKind fastload_plan_run(const FastloadArea *area, uint64_t ram_off,
                                  uint64_t end_off, uint64_t *ret_len_bytes)
{
    uint64_t first = ram_off >> area->page_shift;
    uint64_t last = end_off >> area->page_shift;
    FastloadRunKind kind = plan_page_kind(area, first);
    uint64_t i = first + 1;

    while (i < last && plan_page_kind(area, i) == kind) {
        i++;
    }
    *ret_len_bytes = (i - first) << area->page_shift;
    return kind;
}

/* Traps chunks: adds them to the last span, or begins a new one. */
static void plan_trap(FastloadArea *area, uint64_t first_idx,
                      uint64_t chunk_count)
{
    FastloadSpan *prev = area->spans->len
        ? &g_array_index(area->spans, FastloadSpan, area->spans->len - 1)
        : NULL;
    uint64_t i;

    for (i = first_idx; i < first_idx + chunk_count; i++) {
        FastloadSpan span = fastload_plan_chunk_span(area, i);

        area->chunk_states[i] = FASTLOAD_CHUNK_PENDING;
        if (prev && prev->ram_off + prev->len_bytes == span.ram_off) {
            prev->len_bytes += span.len_bytes;
        } else {
            g_array_append_val(area->spans, span);
            prev = &g_array_index(area->spans, FastloadSpan,
                                  area->spans->len - 1);
        }
    }
}

/* How many chunks at @first_idx are all wanted, or all not. */
static uint64_t plan_run_of_chunks(const FastloadArea *area,
                                   uint64_t first_idx, bool *ret_is_wanted)
{
    uint64_t i = first_idx + 1;

    *ret_is_wanted = plan_span_is_wanted(
        area, fastload_plan_chunk_span(area, first_idx));
    while (i < area->chunk_count &&
           plan_span_is_wanted(area, fastload_plan_chunk_span(area, i)) ==
           *ret_is_wanted) {
        i++;
    }
    return i - first_idx;
}

/*
 * How many chunks at either end of a run of zero chunks are trapped although
 * they are zero.  A touch inside the run may allocate a huge page of shared
 * memory.  If that page reached across the border of the run, it would put
 * zeros into pages that are missing.  Linux 6.18 allocates no such page in a
 * mapping that it does not fit, but a kernel that goes by the file's offset
 * alone may.
 */
static uint64_t plan_margin(const FastloadArea *area)
{
    return area->is_off_grid ? 1 : 0;
}

/*
 * Leaves runs of at least @run_chunk_min zero chunks untrapped, and makes spans
 * of the rest.  Returns the number of spans.
 */
static uint64_t plan_area_spans(FastloadArea *area, uint64_t run_chunk_min)
{
    uint64_t margin = plan_margin(area);
    uint64_t i, run;

    g_array_set_size(area->spans, 0);
    for (i = 0; i < area->chunk_count; i += run) {
        bool is_wanted;
        uint64_t hole_count, hole_bytes;
        FastloadSpan first, last;

        run = plan_run_of_chunks(area, i, &is_wanted);
        hole_count = run > 2 * margin ? run - 2 * margin : 0;
        if (is_wanted || !hole_count || hole_count < run_chunk_min) {
            plan_trap(area, i, run);
            continue;
        }
        first = fastload_plan_chunk_span(area, i + margin);
        last = fastload_plan_chunk_span(area, i + margin + hole_count - 1);
        hole_bytes = last.ram_off + last.len_bytes - first.ram_off;
        if (hole_bytes < FASTLOAD_CHUNK_BYTES) {
            /* The ends of a region may be short: not worth two mappings. */
            plan_trap(area, i, run);
            continue;
        }
        plan_trap(area, i, margin);
        memset(area->chunk_states + i + margin, FASTLOAD_CHUNK_UNTRAPPED,
               hole_count);
        plan_trap(area, i + run - margin, margin);
    }
    return area->spans->len;
}

void fastload_plan_spans(GPtrArray *areas, uint32_t span_count_max)
{
    uint64_t run_chunk_min = 1;
    uint64_t span_count;
    guint i;

    for (i = 0; i < areas->len; i++) {
        FastloadArea *area = g_ptr_array_index(areas, i);

        if (!area->chunk_states) {
            area->chunk_states = g_new0(uint8_t, area->chunk_count);
        }
    }
    do {
        span_count = 0;
        for (i = 0; i < areas->len; i++) {
            span_count += plan_area_spans(g_ptr_array_index(areas, i),
                                          run_chunk_min);
        }
        run_chunk_min *= 2;
        /* Ends: with no holes left there is at most one span an area. */
    } while (span_count > (uint64_t)span_count_max + areas->len);
}
