/*
 * fastload place: make bytes appear in guest memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The kernel decides who places a page: a page that is there stays, and a
 * second placement gets EEXIST and skips it.  The bit in "placed" is set after
 * the page is there, never before, and the thread that sets it accounts for the
 * page.  Bytes come from a caller's buffer, or from a read that is PLACING.
 * Fails only when the kernel refuses for good, or for long; what was placed
 * until then stays and is accounted for.
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

/* Consecutive pages that one call of placed_func will report. */
typedef struct PlaceRun {
    uint64_t page_idx;
    uint64_t page_count;
} PlaceRun;

static void place_report(const Fastload *fl, const FastloadArea *area,
                         const PlaceRun *run, FastloadClass class,
                         bool has_data)
{
    if (run->page_count) {
        fl->config.placed_func(area->hva + (run->page_idx << area->page_shift),
                               run->page_count << area->page_shift, class,
                               has_data, fl->config.placed_opaque);
    }
}

/* Adds the pages whose bits are set in @won to @run; reports runs that end. */
static void place_report_word(const Fastload *fl, const FastloadArea *area,
                              uint64_t first_idx, uint64_t won, PlaceRun *run,
                              FastloadClass class, bool has_data)
{
    while (won) {
        uint32_t shift = __builtin_ctzll(won);
        uint64_t rest = ~(won >> shift);
        uint32_t count = rest ? __builtin_ctzll(rest) : FASTLOAD_BITS;

        if (run->page_idx + run->page_count != first_idx + shift) {
            place_report(fl, area, run, class, has_data);
            run->page_idx = first_idx + shift;
            run->page_count = 0;
        }
        run->page_count += count;
        won &= count < FASTLOAD_BITS ? ~(((1ull << count) - 1) << shift) : 0;
    }
}

/* Sets the placed bits of the range, and counts the pages not set before. */
static void place_account(FastloadWorker *w, FastloadArea *area,
                          uint64_t ram_off, uint64_t len_bytes,
                          FastloadClass class, bool is_data)
{
    Fastload *fl = w->fl;
    PlaceRun run = { 0 };
    uint64_t page = ram_off >> area->page_shift;
    uint64_t last = (ram_off + len_bytes) >> area->page_shift;
    uint64_t won_bytes, won_count = 0;

    if (fastload_record_is_on(fl)) {
        /*
         * Before the page counts as placed: who finds that nobody waits for it
         * any more has to find this time.
         */
        fastload_record_answered(fl, fastload_stats_now_ns());
    }
    while (page < last) {
        uint32_t shift = page % FASTLOAD_BITS;
        uint64_t in_word = MIN(FASTLOAD_BITS - shift, last - page);
        uint64_t mask = in_word < FASTLOAD_BITS
            ? ((1ull << in_word) - 1) << shift : ~0ull;
        uint64_t old = __atomic_fetch_or(&area->placed[page / FASTLOAD_BITS],
                                         mask, __ATOMIC_ACQ_REL);

        won_count += __builtin_popcountll(mask & ~old);
        if (fl->config.placed_func) {
            place_report_word(fl, area, page - shift, mask & ~old, &run,
                              class, is_data);
        }
        page += in_word;
    }
    won_bytes = won_count << area->page_shift;
    if (!won_bytes) {
        return;
    }
    if (is_data) {
        fastload_stats_add(&w->counters.loaded_bytes[class], won_bytes);
    }
    place_report(fl, area, &run, class, is_data);
    /* Pairs with the acquire in session_check_complete(): 0 shows all bits. */
    if (__atomic_sub_fetch(&fl->missing_bytes, won_bytes,
                           __ATOMIC_ACQ_REL) == 0) {
        w->outcomes |= FASTLOAD_OUTCOME_DRAINED;
    }
}

static int place_zero_run(Fastload *fl, FastloadArea *area, uint64_t ram_off,
                          uint64_t len_bytes, uint64_t *ret_done_bytes)
{
    if (area->has_zeropage) {
        return fastload_uffd_zero(fl->uffd, area->hva + ram_off, len_bytes,
                                  ret_done_bytes);
    }
    /* hugetlb lacks UFFDIO_ZEROPAGE; wants_populated needs its own pages. */
    return fastload_uffd_copy(fl->uffd, area->hva + ram_off, fl->zeros,
                              MIN(len_bytes, fl->zeros_bytes),
                              ret_done_bytes);
}

/*
 * One call to the kernel.  A userfaultfd may also place pages in memory that
 * another userfaultfd has registered, so nothing is placed in a region that was
 * dropped: its addresses may belong to another load by now.
 * @buf NULL: zeros.  Returns 0, -errno, or -ECANCELED: the region was dropped.
 */
static int place_step(Fastload *fl, FastloadArea *area, uint64_t ram_off,
                      const uint8_t *buf, uint64_t len_bytes,
                      uint64_t *ret_done_bytes)
{
    int ret = -ECANCELED;

    *ret_done_bytes = 0;
    g_rw_lock_reader_lock(&area->place_lock);
    /* pairs with the release in fastload_drop_region() */
    if (!__atomic_load_n(&area->is_dropped, __ATOMIC_ACQUIRE)) {
        ret = buf ? fastload_uffd_copy(fl->uffd, area->hva + ram_off, buf,
                                       len_bytes, ret_done_bytes)
                  : place_zero_run(fl, area, ram_off, len_bytes,
                                   ret_done_bytes);
    }
    g_rw_lock_reader_unlock(&area->place_lock);
    return ret;
}

/* Is nothing mapped at the page's address any more? */
static bool place_is_unmapped(const FastloadArea *area, uint64_t ram_off)
{
    unsigned char resident[FASTLOAD_TRAP_PAGE_BYTES_MAX /
                           FASTLOAD_PAGE_BYTES_MIN];

    return mincore(area->hva + ram_off, area->page_bytes, resident) < 0 &&
           errno == ENOMEM;
}

/*
 * Does EEXIST mean that hugetlb has run out of pages?  The kernel also says so
 * where there is a page table and no free huge page (mm/hugetlb.c, at least up
 * to Linux 6.18).  So this asks whether the page is there.  Its placed bit
 * cannot tell, for the page may have been given back since.
 */
static bool place_has_no_page(const FastloadArea *area, uint64_t ram_off)
{
    unsigned char resident[FASTLOAD_TRAP_PAGE_BYTES_MAX /
                           FASTLOAD_PAGE_BYTES_MIN];

    return area->page_bytes > getpagesize() && /* hugetlb */
           mincore(area->hva + ram_off, area->page_bytes, resident) == 0 &&
           !(resident[0] & 1);
}

/*
 * How many bytes to try next after -ENOENT for @step_bytes; 0: give up.  The
 * kernel returns ENOENT for a range that crosses from one mapping into another,
 * and an madvise() or mprotect() of a part splits a mapping: so try half.
 */
static uint64_t place_step_after_enoent(const FastloadArea *area,
                                        uint64_t step_bytes)
{
    uint64_t page_count = step_bytes >> area->page_shift;

    return page_count / 2 << area->page_shift;
}

/* The pauses before the kernel is asked again after EAGAIN. */
typedef struct PlacePause {
    uint32_t next_us;
    uint32_t total_us;
} PlacePause;

/* False: the pauses have reached @us_max together, or the load is ending. */
static bool place_pause(Fastload *fl, PlacePause *pause, uint32_t us_max)
{
    if (pause->total_us >= us_max || fastload_session_is_ending(fl)) {
        return false;
    }
    pause->next_us = CLAMP(2 * pause->next_us, FASTLOAD_PLACE_PAUSE_US_MIN,
                           FASTLOAD_PLACE_PAUSE_US_MAX);
    g_usleep(pause->next_us);
    pause->total_us += pause->next_us;
    return true;
}

/* The progress of place_run(). */
typedef struct PlaceStep {
    uint64_t bytes_max;  /* how much to try next */
    uint64_t try_bytes;  /* what was tried */
    uint64_t done_bytes; /* how much of that is there now */
    PlacePause pause;
} PlaceStep;

/*
 * Is the first page of @step placed already?  Shortens the step to the pages
 * for which the answer is the same.
 */
static bool place_is_placed(const FastloadArea *area, uint64_t ram_off,
                            PlaceStep *step)
{
    uint64_t first = ram_off >> area->page_shift;
    uint64_t last = (ram_off + step->try_bytes) >> area->page_shift;
    bool is_placed = fastload_bit_test(area->placed, first);
    uint64_t page = first + 1;

    while (page < last &&
           fastload_bit_test(area->placed, page) == is_placed) {
        page++;
    }
    step->try_bytes = (page - first) << area->page_shift;
    return is_placed;
}

/* What the run does after the error @ret of @step: 0: goes on; else -errno. */
static int place_judge(Fastload *fl, const FastloadArea *area,
                       uint64_t ram_off, int ret, PlaceStep *step)
{
    if (ret == -EEXIST && place_has_no_page(area, ram_off +
                                            step->done_bytes)) {
        return -ENOMEM;
    }
    switch (-ret) {
    case EEXIST:
        /* Another worker, or something outside of this load, has placed it. */
        step->done_bytes += area->page_bytes;
        return 0;
    case ESRCH:
        step->done_bytes = step->try_bytes; /* the process is exiting */
        return 0;
    case EAGAIN:
        if (step->done_bytes) {
            step->pause = (PlacePause) { 0 };
            return 0;
        }
        return place_pause(fl, &step->pause, FASTLOAD_PLACE_AGAIN_US_MAX)
               ? 0 : ret;
    case ENOENT:
        if (step->done_bytes) {
            return 0;
        }
        step->bytes_max = place_step_after_enoent(area, step->try_bytes);
        if (step->bytes_max) {
            return 0;
        }
        if (!place_is_unmapped(area, ram_off)) {
            return ret;
        }
        /* The memory is gone, so nothing of it is missing. */
        step->bytes_max = step->done_bytes = area->page_bytes;
        return 0;
    }
    return ret;
}

/*
 * May a fault have been merged with a read since sched.merge_count was
 * @merge_count?  Call this after the placed bits are set.  A worker that takes
 * a fault adds to the count and then looks at the page's bits
 * (worker_fault_is_settled()).  Both sides modify the same counter, so one of
 * them comes second and sees what the other one wrote: either this call sees
 * the count changed, or that worker sees the page placed and wakes the thread.
 */
static bool place_may_have_merged(Fastload *fl, uint32_t merge_count)
{
    return __atomic_fetch_add(&fl->sched.merge_count, 0, __ATOMIC_ACQ_REL) !=
           merge_count;
}

/*
 * Places one run of pages.  @buf NULL: zeros.
 *
 * When the kernel places a page, it wakes the threads that wait for it.  This
 * function wakes the others, after the placed bit is set:
 *  - threads that wait for a page which something else has placed, or whose
 *    memory is gone.  The kernel returns an error then.
 *  - threads that have touched the page once more: it was there, and was given
 *    back before its bit was set, so that their fault was merged with an urgent
 *    read of the page.  place_may_have_merged() tells.
 * Both are rare, so most reads cost no second system call.
 *
 * Data is placed only in pages whose placed bit is not set, which is checked
 * before each call to the kernel: the guest may have written to a page, or
 * given it back, after it was placed, and the data that was read is older than
 * that.
 */
static int place_run(FastloadWorker *w, FastloadArea *area, uint64_t ram_off,
                     const uint8_t *buf, uint64_t len_bytes,
                     FastloadClass class)
{
    Fastload *fl = w->fl;
    PlaceStep step = { .bytes_max = len_bytes };
    uint64_t at = 0;

    while (at < len_bytes) {
        uint8_t *hva = area->hva + ram_off + at;
        uint32_t merge_count;
        int ret, error = 0;

        step.try_bytes = MIN(step.bytes_max, len_bytes - at);
        if (buf && place_is_placed(area, ram_off + at, &step)) {
            if (class == FASTLOAD_CLASS_URGENT) {
                fastload_uffd_wake(fl->uffd, hva, step.try_bytes);
            }
            at += step.try_bytes;
            continue;
        }
        /* Faults merged before this are woken by the kernel when it places. */
        merge_count = __atomic_load_n(&fl->sched.merge_count, __ATOMIC_ACQUIRE);
        ret = place_step(fl, area, ram_off + at, buf ? buf + at : NULL,
                         step.try_bytes, &step.done_bytes);
        if (ret == -ECANCELED) {
            return 0; /* fastload_drop_region() accounts for it and wakes */
        }
        if (ret) {
            error = place_judge(fl, area, ram_off + at, ret, &step);
        }
        if (step.done_bytes) {
            place_account(w, area, ram_off + at, step.done_bytes, class, buf);
            if (ret || (class == FASTLOAD_CLASS_URGENT &&
                        place_may_have_merged(fl, merge_count))) {
                fastload_uffd_wake(fl->uffd, hva, step.done_bytes);
            }
            at += step.done_bytes;
            step.bytes_max = MAX(step.bytes_max, area->page_bytes);
        }
        if (error) {
            trace_fastload_place_failed(fl, area->hva + ram_off + at, -error);
            return error;
        }
    }
    return 0;
}

int fastload_place_data(FastloadWorker *w, FastloadArea *area,
                        uint64_t ram_off, const uint8_t *buf,
                        uint64_t len_bytes, FastloadClass class)
{
    return place_run(w, area, ram_off, buf, len_bytes, class);
}

int fastload_place_zero(FastloadWorker *w, FastloadArea *area,
                        uint64_t ram_off, uint64_t len_bytes,
                        FastloadClass class)
{
    return place_run(w, area, ram_off, NULL, len_bytes, class);
}

/*
 * Places what @buf holds with UFFDIO_MOVE, which takes the pages out of @buf.
 * Returns how many bytes it has placed, from the start; the caller copies the
 * rest.
 */
static uint64_t place_move(FastloadWorker *w, FastloadArea *area,
                           uint64_t ram_off, uint8_t *buf, uint64_t len_bytes,
                           FastloadClass class)
{
    uint64_t at, run_bytes, step_bytes, done_bytes = 0;
    PlacePause pause = { 0 };
    int ret;

    /* Needs no place_lock: UFFDIO_MOVE places only in memory of this uffd. */
    do {
        ret = fastload_uffd_move(w->fl->uffd, area->hva + ram_off + done_bytes,
                                 buf + done_bytes, len_bytes - done_bytes,
                                 &step_bytes);
        done_bytes += step_bytes;
    } while (ret == -EAGAIN &&
             place_pause(w->fl, &pause, FASTLOAD_MOVE_AGAIN_US_MAX));
    trace_fastload_chunk_moved(w->fl, area->hva + ram_off, done_bytes, -ret);
    for (at = 0; at < done_bytes; at += run_bytes) {
        FastloadRunKind kind = fastload_plan_run(area, ram_off + at,
                                                 ram_off + done_bytes,
                                                 &run_bytes);

        place_account(w, area, ram_off + at, run_bytes, class,
                      kind == FASTLOAD_RUN_DATA);
    }
    fastload_stats_add(&w->counters.moved_bytes, done_bytes);
    return done_bytes;
}

/*
 * Zeroes the granules of @span that have no data, in @buf, its bytes as they
 * were read.
 */
static void place_fill_holes(const FastloadArea *area, FastloadSpan span,
                             uint8_t *buf)
{
    uint64_t first = span.ram_off >> area->granule_shift;
    uint64_t count = span.len_bytes >> area->granule_shift;
    uint64_t i;

    for (i = 0; i < count; i++) {
        if (!fastload_bit_test(area->data_bits, first + i)) {
            memset(buf + (i << area->granule_shift), 0, area->granule_bytes);
        }
    }
}

/* The same for pages with data, which will be copied. */
static void place_fill_pages(const FastloadArea *area, FastloadSpan span,
                             uint8_t *buf)
{
    /* A page of one granule has no hole: without data it is not copied. */
    if (area->granule_shift != area->page_shift) {
        place_fill_holes(area, span, buf);
    }
}

/* ---- what a read holds ---- */

static int place_page(FastloadWorker *w, FastloadRead *read)
{
    FastloadArea *area = read->area;
    FastloadSpan page = fastload_read_page(read);
    uint8_t *buf = read->buf + (page.ram_off - read->span.ram_off);

    /* Nothing was read: the page is zero, or was placed before the read. */
    if (!read->extent_count ||
        fastload_bit_test(area->placed, read->fault.page_idx)) {
        return fastload_place_zero(w, area, page.ram_off, page.len_bytes,
                                   FASTLOAD_CLASS_URGENT);
    }
    place_fill_pages(area, page, buf);
    return fastload_place_data(w, area, page.ram_off, buf, page.len_bytes,
                               FASTLOAD_CLASS_URGENT);
}

void fastload_place_page(FastloadWorker *w, FastloadRead *read)
{
    assert(read->state == FASTLOAD_READ_PLACING && !read->error);
    fastload_read_fail(read, FASTLOAD_FAILURE_PLACE, place_page(w, read),
                       read->area->file_off +
                       fastload_read_page(read).ram_off);
}

void fastload_place_around(FastloadWorker *w, FastloadRead *read)
{
    FastloadArea *area = read->area;
    uint64_t at = read->span.ram_off;
    uint64_t end = at + read->span.len_bytes;
    uint64_t run_bytes;
    int ret = 0;

    for (; at < end && ret == 0; at += run_bytes) {
        if (fastload_plan_run(area, at, end, &run_bytes) ==
            FASTLOAD_RUN_DATA) {
            uint8_t *buf = read->buf + (at - read->span.ram_off);

            place_fill_pages(area, (FastloadSpan) { at, run_bytes }, buf);
            ret = fastload_place_data(w, area, at, buf, run_bytes,
                                      FASTLOAD_CLASS_URGENT);
        }
    }
}

/*
 * Moves the whole chunk at once, if it can.  The kernel moves pages from the
 * start on and says how many.  If something stops it, for example a page that
 * an urgent read has placed meanwhile, the rest of the chunk is copied.
 */
static void place_chunk(FastloadWorker *w, FastloadRead *read)
{
    FastloadArea *area = read->area;
    FastloadSpan span = read->span;

    read->wants_move = false;
    /*
     * The read left out pages that were placed when it was planned, so moving
     * the chunk might place garbage there.  A placed bit is never cleared: if
     * none is set now, none was set then.
     */
    if (!fastload_huge_fits(area, span)) {
        return;
    }
    place_fill_holes(area, span, read->buf);
    read->placed_bytes = place_move(w, area, span.ram_off, read->buf,
                                    span.len_bytes, read->class);
    read->moved_bytes = read->placed_bytes;
    if (read->placed_bytes == span.len_bytes) {
        fastload_bit_test_and_set(area->moved,
                                  fastload_plan_chunk_of(area, span.ram_off));
    }
}

void fastload_place_piece(FastloadWorker *w, FastloadRead *read)
{
    FastloadArea *area = read->area;
    uint64_t at = read->span.ram_off + read->placed_bytes;
    uint64_t end = read->span.ram_off + read->span.len_bytes;
    uint64_t piece_end = MIN(end, at + MAX(FASTLOAD_PIECE_BYTES,
                                           area->page_bytes));
    uint64_t run_bytes;
    FastloadRunKind kind;
    int ret = 0;

    assert(read->state == FASTLOAD_READ_PLACING && !read->error);
    if (read->wants_move) {
        place_chunk(w, read);
        return;
    }
    if (read->placed_bytes == 0) {
        place_fill_pages(area, read->span, read->buf);
    }
    kind = fastload_plan_run(area, at, piece_end, &run_bytes);
    if (kind == FASTLOAD_RUN_DATA) {
        ret = fastload_place_data(w, area, at, read->buf + read->placed_bytes,
                                  run_bytes, read->class);
    } else if (kind == FASTLOAD_RUN_ZERO) {
        ret = fastload_place_zero(w, area, at, run_bytes, read->class);
    }
    read->placed_bytes += run_bytes;
    fastload_read_fail(read, FASTLOAD_FAILURE_PLACE, ret, area->file_off + at);
}
