/*
 * fastload whole: faults that are answered with a whole chunk.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A chunk of which no page is placed can be moved into the guest as one huge
 * page, for a third of the processor time that copying its pages takes.  A page
 * that an urgent read has placed prevents that for good.  So while processors
 * are short (util/fastload-crowd.c), and the chunk is in the page cache, the
 * first fault in a chunk is answered with all of it.  The thread waits longer,
 * for a copy of 2 MiB, and its next touches of the chunk do not fault.  Of a
 * chunk that is mostly zero, or short, the pages are copied: they need no huge
 * page, but each of them that is touched would cost a fault.
 *
 * That pays where a guest touches most of its chunks soon, as small guests do.
 * In a large one each fault would be in another chunk, so this is tried
 * FASTLOAD_WHOLE_COUNT_MAX times at most.
 *
 * Reads here and now, with preadv2() and RWF_NOWAIT, which does not wait for
 * storage, but would begin to read what is missing: so cachestat() is asked
 * first.  Nothing is taken before the data is there, so that there is nothing
 * to undo if it is not.  Where the chunk is not in the page cache and other
 * loads read the same file, the kernel is asked to read it, so that they find
 * it there; this load reads the page alone.
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

/* Staging for a chunk, whether renewed or not; NULL: all is in use. */
static FastloadRead *whole_take_staging(Fastload *fl)
{
    FastloadRead *read = fastload_pool_take(fl, FASTLOAD_READ_FRESH);

    if (!read) {
        read = fastload_pool_take(fl, FASTLOAD_READ_SPENT);
        if (read) {
            /* This read populates it, or the next one that gets it. */
            fastload_read_move(read, FASTLOAD_READ_FRESH);
        }
    }
    return read;
}

static uint64_t whole_chunk_of(const FastloadFault *fault)
{
    return fastload_plan_chunk_of(fault->area, fault->page_idx <<
                                               fault->area->page_shift);
}

bool fastload_whole_is_wanted(Fastload *fl, const FastloadFault *fault)
{
    FastloadArea *area = fault->area;
    uint64_t chunk_idx = whole_chunk_of(fault);

    /*
     * A page that came with another would not fault, so not be recorded.  With
     * a set there are few faults, and chunks of 2 MiB would delay the set.
     */
    return fastload_crowd_is_short(fl) && !fastload_record_is_on(fl) &&
           !fl->hints.set &&
           !fl->file.is_direct &&
           !__atomic_load_n(&fl->file.is_in_user_space, __ATOMIC_RELAXED) &&
           !fault->is_discarded && !fault->not_before_ns && !fault->is_alone &&
           __atomic_load_n(&fl->crowd.whole_count, __ATOMIC_RELAXED) <
           FASTLOAD_WHOLE_COUNT_MAX &&
           fastload_huge_is_untouched(area,
                                      fastload_plan_chunk_span(area,
                                                               chunk_idx)) &&
           fastload_sched_may_take_whole(fl, area, chunk_idx);
}

/* Reads what the chunk has of data, from the page cache alone. */
static bool whole_fetch(FastloadWorker *w, FastloadRead *read)
{
    const Fastload *fl = w->fl;
    uint32_t i;

    if (!fastload_file_is_cached(fl, read)) {
        fastload_file_fetch(fl, read);
        return false;
    }
    for (i = 0; i < read->extent_count; i++) {
        FastloadSpan extent = read->extents[i];
        struct iovec iov = {
            .iov_base = read->buf + (extent.ram_off - read->span.ram_off),
            .iov_len = extent.len_bytes,
        };

        if (preadv2(fl->file.fd, &iov, 1, read->area->file_off +
                    extent.ram_off, RWF_NOWAIT) !=
            (ssize_t)extent.len_bytes) {
            return false;
        }
        fastload_stats_add(&w->counters.read_bytes, extent.len_bytes);
    }
    return true;
}

FastloadRead *fastload_whole_read(FastloadWorker *w,
                                  const FastloadFault *fault)
{
    Fastload *fl = w->fl;
    FastloadArea *area = fault->area;
    uint64_t chunk_idx = whole_chunk_of(fault);
    FastloadRead *read = fastload_whole_is_wanted(fl, fault)
        ? whole_take_staging(fl) : NULL;
    bool is_taken;

    if (!read) {
        return NULL;
    }
    read->area = area;
    read->span = fastload_plan_chunk_span(area, chunk_idx);
    read->class = FASTLOAD_CLASS_BACKGROUND;
    read->wants_move = fastload_huge_fits(area, read->span);
    read->is_direct = false;
    read->is_cached = true;
    fastload_read_plan(read, w->file_generation, FASTLOAD_GAP_BYTES_MAX);
    __atomic_fetch_add(&fl->crowd.whole_count, 1, __ATOMIC_RELAXED);
    is_taken = whole_fetch(w, read) &&
               fastload_sched_take_whole(fl, area, chunk_idx);
    trace_fastload_whole(fl, area->hva, chunk_idx, is_taken);
    read->extent_idx = read->extent_count; /* there are no requests */
    fastload_read_end_issuing(read);
    fastload_read_move(read, FASTLOAD_READ_PLACING);
    if (!is_taken) {
        fastload_read_move(read, FASTLOAD_READ_FRESH);
    }
    return read;
}
