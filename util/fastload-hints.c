/*
 * fastload hints: what of a recorded working set to read next.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Goes through the set in the order in which its pages were touched.  Pages of
 * the set that lie near the next one are read with it: reading over a hole
 * costs less than another request.  A chunk of which much is in the set, or
 * many scattered pages, is taken whole, and becomes a huge page.  Where storage
 * is short of requests and the background has no rate, so is a chunk with few,
 * but not by the first reads.  A page is taken once.  If that read fails, the
 * background or a fault brings the page.  Hints, like chunks, claim no pages: a
 * fault reads a page again on its own, and the second of the two reads skips
 * the page when it is placed.
 * Functions with _locked in their names are called with sched.lock.  Does no
 * I/O; nothing fails.
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

static FastloadArea *hints_find_area(const Fastload *fl,
                                     const FastloadWorksetBlock *block)
{
    guint a;

    for (a = 0; a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        if (area->len_bytes == block->len_bytes &&
            area->file_off - fl->config.stream_off == block->stream_off) {
            return area;
        }
    }
    return NULL;
}

bool fastload_hints_use(Fastload *fl, FastloadWorkset *set)
{
    g_autofree FastloadArea **areas = g_new(FastloadArea *, set->block_count);
    uint32_t i;

    for (i = 0; i < set->block_count; i++) {
        areas[i] = hints_find_area(fl, &set->blocks[i]);
        if (!areas[i]) {
            return false;
        }
    }
    fl->hints.areas = g_steal_pointer(&areas);
    /* pairs with the acquire in session_get_workset() */
    __atomic_store_n(&fl->hints.set, set, __ATOMIC_RELEASE);
    return true;
}

void fastload_hints_clear(FastloadHints *hints)
{
    fastload_workset_free(hints->set);
    g_free(hints->areas);
}

/* The pages of the area that a run covers, at least in part. */
static void hints_run_pages(const FastloadArea *area,
                            const FastloadWorksetRun *run,
                            uint64_t *ret_first, uint64_t *ret_last)
{
    uint32_t shift = area->page_shift -
                     __builtin_ctz(FASTLOAD_WORKSET_PAGE_BYTES);

    *ret_first = run->first_page >> shift;
    *ret_last = (run->first_page + run->page_count - 1) >> shift;
}

/* Called by start, no threads yet. */
static void hints_set_bits(uint64_t *bits, uint64_t first, uint64_t last)
{
    while (first <= last) {
        uint32_t shift = first % FASTLOAD_BITS;
        uint64_t count = MIN(FASTLOAD_BITS - shift, last - first + 1);

        bits[first / FASTLOAD_BITS] |=
            (count < FASTLOAD_BITS ? (1ull << count) - 1 : ~0ull) << shift;
        first += count;
    }
}

/* How many of these bits are set. */
static uint64_t hints_count_bits(const uint64_t *bits, uint64_t first,
                                 uint64_t count)
{
    uint64_t in_word, word, sum = 0;

    for (; count; first += in_word, count -= in_word) {
        in_word = MIN(FASTLOAD_BITS - first % FASTLOAD_BITS, count);
        word = bits[first / FASTLOAD_BITS] >> (first % FASTLOAD_BITS);
        word &= in_word < FASTLOAD_BITS ? (1ull << in_word) - 1 : ~0ull;
        sum += __builtin_popcountll(word);
    }
    return sum;
}

/*
 * What short reads of what is unread would cost, if each costs @req_bytes and
 * what it reads, holes included.  0 for @least_count pages or fewer.
 */
static uint64_t hints_cost_bytes(const FastloadArea *area, FastloadSpan span,
                                 uint64_t req_bytes, uint64_t least_count)
{
    uint64_t first = span.ram_off >> area->page_shift;
    uint64_t count = span.len_bytes >> area->page_shift;
    uint64_t gap_count = FASTLOAD_GAP_BYTES_MAX >> area->page_shift;
    uint64_t most_count = FASTLOAD_HINT_BYTES_MAX >> area->page_shift;
    uint64_t begin = 0, last = 0, data_count = 0, cost_bytes = 0, i;

    for (i = first; i < first + count; i++) {
        if (!fastload_bit_test(area->unread, i) ||
            !fastload_plan_page_has_data(area, i)) {
            continue;
        }
        if (data_count && i - last - 1 <= gap_count && i - begin < most_count) {
            cost_bytes += (i - last) << area->page_shift;
        } else {
            cost_bytes += area->page_bytes + req_bytes;
            begin = i;
        }
        last = i;
        data_count++;
    }
    return data_count > least_count ? cost_bytes : 0;
}

/* If a page of the chunk is read as a hint, is the chunk always read whole? */
static bool hints_is_whole(const FastloadArea *area, uint64_t chunk_idx)
{
    FastloadSpan span = fastload_plan_chunk_span(area, chunk_idx);
    uint64_t set_bytes = hints_count_bits(area->in_set,
                                          span.ram_off >> area->page_shift,
                                          span.len_bytes >> area->page_shift)
                         << area->page_shift;

    if (area->page_bytes > FASTLOAD_HINT_BYTES_MAX) {
        return set_bytes;
    }
    /* Not for a few pages, whatever requests cost. */
    if (set_bytes <= FASTLOAD_HINT_BYTES_MAX) {
        return false;
    }
    return hints_cost_bytes(area, span, FASTLOAD_GAP_BYTES_MAX,
                            FASTLOAD_HINT_BYTES_MAX >> area->page_shift) *
           FASTLOAD_HINT_WHOLE_SHARE > fastload_plan_data_bytes(area, span);
}

/*
 * Is it read whole now, because the storage is short of requests?  That brings
 * pages which are not in the set, so a rate of the background forbids it.
 */
static bool hints_is_dear_locked(const Fastload *fl, const FastloadArea *area,
                                 uint64_t chunk_idx)
{
    const FastloadHints *hints = &fl->hints;
    FastloadSpan span = fastload_plan_chunk_span(area, chunk_idx);
    uint64_t req_bytes = fastload_window_hint_cost(&fl->window);
    uint64_t cost_bytes;

    if (!req_bytes || hints->short_count < FASTLOAD_HINT_FIRST_COUNT ||
        !fastload_rate_is_none_locked(&fl->rate)) {
        return false;
    }
    cost_bytes = hints_cost_bytes(area, span, req_bytes, 0);
    return cost_bytes && (hints->dear_count < FASTLOAD_HINT_TRIAL_COUNT ||
                          cost_bytes * FASTLOAD_HINT_WHOLE_SHARE >
                          fastload_plan_data_bytes(area, span));
}

static void hints_prepare_area(FastloadArea *area)
{
    uint64_t word_count = FASTLOAD_BIT_WORDS(area->page_count);

    if (!area->in_set) {
        area->in_set = g_new0(uint64_t, word_count);
        area->unread = g_new0(uint64_t, word_count);
        area->whole = g_new0(uint64_t, FASTLOAD_BIT_WORDS(area->chunk_count));
    }
}

/* Is nothing unread of all pages that share a word with @page_idx? */
static bool hints_word_is_read(const FastloadArea *area, uint64_t page_idx)
{
    return !__atomic_load_n(&area->unread[page_idx / FASTLOAD_BITS],
                            __ATOMIC_RELAXED);
}

/* No hint is taken for these pages any more. */
static void hints_take(FastloadArea *area, uint64_t first, uint64_t count)
{
    uint64_t i;

    for (i = first; i < first + count; i++) {
        if (i % FASTLOAD_BITS == 0 && hints_word_is_read(area, i)) {
            i += FASTLOAD_BITS - 1;
        } else {
            fastload_bit_clear(area->unread, i);
        }
    }
}

/* Which chunks are read whole, and which are not read since they are zero. */
static void hints_choose_chunks(FastloadArea *area)
{
    uint64_t c;

    for (c = 0; c < area->chunk_count; c++) {
        if (area->chunk_states[c] == FASTLOAD_CHUNK_UNTRAPPED) {
            FastloadSpan span = fastload_plan_chunk_span(area, c);

            hints_take(area, span.ram_off >> area->page_shift,
                       span.len_bytes >> area->page_shift);
        } else if (hints_is_whole(area, c)) {
            fastload_bit_test_and_set(area->whole, c);
        }
    }
}

void fastload_hints_prepare(Fastload *fl)
{
    FastloadHints *hints = &fl->hints;
    uint64_t first, last;
    uint32_t i, a;

    __atomic_store_n(&hints->is_over, !hints->set, __ATOMIC_RELAXED);
    __atomic_store_n(&hints->is_placed, !hints->set, __ATOMIC_RELAXED);
    hints->calm_ns = hints->set ? fl->start_ns + FASTLOAD_HINT_CALM_NS : 0;
    for (i = 0; hints->set && i < hints->set->run_count; i++) {
        const FastloadWorksetRun *run = &hints->set->runs[i];
        FastloadArea *area = hints->areas[run->block_idx];

        if (area->is_trapped) {
            hints_prepare_area(area);
            hints_run_pages(area, run, &first, &last);
            hints_set_bits(area->in_set, first, last);
            hints_set_bits(area->unread, first, last);
        }
    }
    for (a = 0; hints->set && a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        if (area->in_set) {
            hints_choose_chunks(area);
        }
    }
}

void fastload_hints_touch(Fastload *fl, FastloadArea *area,
                          uint64_t page_idx)
{
    if (area->in_set && fastload_bit_test_and_clear(area->in_set, page_idx) &&
        !fastload_bit_test(area->placed, page_idx)) {
        __atomic_fetch_add(&fl->hints.late_count, area->page_bytes /
                           FASTLOAD_WORKSET_PAGE_BYTES, __ATOMIC_RELAXED);
        fastload_bit_clear(area->unread, page_idx); /* the fault reads it */
    }
}

void fastload_hints_take_chunk_locked(Fastload *fl, FastloadArea *area,
                                      uint64_t chunk_idx)
{
    FastloadSpan span = fastload_plan_chunk_span(area, chunk_idx);

    fl->hints.out_count++;
    fl->hints.dear_count += !fastload_bit_test(area->whole, chunk_idx);
    hints_take(area, span.ram_off >> area->page_shift,
               span.len_bytes >> area->page_shift);
}

/* Is this page wanted, and not read by anything else? */
static bool hints_is_wanted_locked(FastloadArea *area, uint64_t page_idx)
{
    uint64_t c = fastload_plan_chunk_of(area, page_idx << area->page_shift);

    if (!fastload_bit_test(area->unread, page_idx)) {
        return false;
    }
    /* Else its chunk was taken, or has failed. */
    if (area->chunk_states[c] == FASTLOAD_CHUNK_PENDING &&
        !fastload_bit_test(area->placed, page_idx)) {
        return true;
    }
    fastload_bit_clear(area->unread, page_idx);
    return false;
}

FastloadHintKind fastload_hints_find_locked(Fastload *fl,
                                            FastloadArea **ret_area,
                                            uint64_t *ret_page_idx)
{
    FastloadHints *hints = &fl->hints;

    for (; hints->set && hints->next_run < hints->set->run_count;
         hints->next_run++, hints->next_page = 0) {
        const FastloadWorksetRun *run = &hints->set->runs[hints->next_run];
        FastloadArea *area = hints->areas[run->block_idx];
        uint64_t first, last, page, chunk_idx;

        if (!area->unread) {
            continue;
        }
        hints_run_pages(area, run, &first, &last);
        for (; first + hints->next_page <= last; hints->next_page++) {
            page = first + hints->next_page;
            /* A run may be as long as memory: faults wait for this lock. */
            if (page % FASTLOAD_BITS == 0 && hints_word_is_read(area, page)) {
                hints->next_page += FASTLOAD_BITS - 1;
            } else if (hints_is_wanted_locked(area, page)) {
                *ret_area = area;
                *ret_page_idx = page;
                chunk_idx = fastload_plan_chunk_of(area,
                                                   page << area->page_shift);
                return fastload_bit_test(area->whole, chunk_idx) ||
                       hints_is_dear_locked(fl, area, chunk_idx)
                    ? FASTLOAD_HINT_CHUNK : FASTLOAD_HINT_PAGES;
            }
        }
    }
    __atomic_store_n(&hints->is_over, 1, __ATOMIC_RELAXED);
    if (!hints->out_count) {
        __atomic_store_n(&hints->is_placed, 1, __ATOMIC_RELAXED);
    }
    return FASTLOAD_HINT_NONE;
}

/*
 * How far a read may be extended from @page_idx in the direction of @step (1 or
 * -1): in pages, up to the last one that is wanted, without holes longer than
 * @gap_count; @count_max at most.
 */
static uint64_t hints_reach_locked(FastloadArea *area, uint64_t page_idx,
                                   int step, uint64_t gap_count,
                                   uint64_t count_max)
{
    uint64_t i, reach_count = 0;

    for (i = 1; i <= count_max && i - reach_count <= gap_count + 1; i++) {
        if (hints_is_wanted_locked(area, page_idx + step * i)) {
            reach_count = i;
        }
    }
    return reach_count;
}

FastloadSpan fastload_hints_take_pages_locked(Fastload *fl,
                                              FastloadArea *area,
                                              uint64_t page_idx,
                                              uint64_t gap_bytes)
{
    uint64_t ram_off = page_idx << area->page_shift;
    FastloadSpan chunk = fastload_plan_chunk_span(
        area, fastload_plan_chunk_of(area, ram_off));
    uint64_t first = chunk.ram_off >> area->page_shift;
    uint64_t end = first + (chunk.len_bytes >> area->page_shift);
    uint64_t gap_count = gap_bytes >> area->page_shift;
    uint64_t count_max = FASTLOAD_HINT_BYTES_MAX >> area->page_shift;
    uint64_t behind, before;

    behind = hints_reach_locked(area, page_idx, 1, gap_count,
                                MIN(end - page_idx, count_max) - 1);
    before = hints_reach_locked(area, page_idx, -1, gap_count,
                                MIN(page_idx - first,
                                    count_max - behind - 1));
    first = page_idx - before;
    fl->hints.out_count++;
    fl->hints.short_count += fastload_plan_page_has_data(area, page_idx);
    hints_take(area, first, before + 1 + behind);
    trace_fastload_hint_taken(fl, area->hva, first << area->page_shift,
                              (before + 1 + behind) << area->page_shift);
    return (FastloadSpan) {
        .ram_off = first << area->page_shift,
        .len_bytes = (before + 1 + behind) << area->page_shift,
    };
}

void fastload_hints_done_locked(Fastload *fl)
{
    FastloadHints *hints = &fl->hints;

    assert(hints->out_count);
    if (--hints->out_count == 0 &&
        __atomic_load_n(&hints->is_over, __ATOMIC_RELAXED)) {
        __atomic_store_n(&hints->is_placed, 1, __ATOMIC_RELAXED);
    }
}

uint64_t fastload_hints_hold_ns(const FastloadHints *hints)
{
    const uint64_t most_ns = FASTLOAD_HOLD_SET_NS / FASTLOAD_HOLD_SET_FACTOR;

    /* Bounded first: the file may say anything. */
    return hints->set ? MIN(hints->set->took_ns, most_ns) *
                        FASTLOAD_HOLD_SET_FACTOR : 0;
}

void fastload_hints_stats(const Fastload *fl, FastloadWorksetStats *ret_stats)
{
    const FastloadHints *hints = &fl->hints;

    *ret_stats = (FastloadWorksetStats) {
        .state = __atomic_load_n(&hints->is_placed, __ATOMIC_RELAXED)
            ? FASTLOAD_WORKSET_REPLAYED : FASTLOAD_WORKSET_REPLAYING,
        .page_count = hints->set->page_count,
        .run_count = hints->set->run_count,
        .took_ns = hints->set->took_ns,
        .late_count = __atomic_load_n(&hints->late_count, __ATOMIC_RELAXED),
    };
}
