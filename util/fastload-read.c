/*
 * fastload read: the life of one read: urgent, a hint, or of a chunk.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Which bytes a read fetches, into which requests it is cut, which pages it
 * claims, how it failed, and its state.  Knows nothing of rings and threads:
 * the worker queues the requests and tells when they have returned.  Nothing
 * here fails or waits.
 *
 * A read:
 *
 *   FRESH --planned--> ISSUING --nothing left to issue--> IN_FLIGHT
 *    ^ ^                  |                                   |
 *    | |                  |no requests,             last one  |
 *    | |                  |or all back               is back  |
 *    | |                  v                                   |
 *    | |                READY <-------------------------------+
 *    | |                |   ^
 *    | |           taken|   |handed on
 *    | |                v   |
 *    | +--all placed,-- PLACING
 *    |    or failed        |
 *    |                     |the same, and staging was moved away
 *    |                     v
 *    +----renewed------- SPENT
 *
 * A worker that has taken a read out of its list is the only one to touch it,
 * so a move takes no lock; pool.lock passes the reads of chunks from one thread
 * to the next.  All moves are made on worker threads:
 *
 *   FRESH -> ISSUING      the worker that takes a fault, a hint or a chunk
 *   ISSUING -> IN_FLIGHT  the same one, with the last request; also after an
 *                         error, when nothing more of the read is issued
 *   ISSUING -> READY      the same one, if every page is placed or has no data;
 *                         or after an error, if no request is in flight; or if
 *                         it has read a chunk itself (util/fastload-whole.c)
 *   IN_FLIGHT -> READY    the same one, when it reaps the last request
 *   READY -> PLACING      urgent: the same one, at once; a hint: the same one,
 *                         one a turn; a chunk: any worker that may place
 *   PLACING -> READY      a chunk: that worker, when it may not place any more
 *   PLACING -> FRESH      that worker, after it has told the scheduler, unless
 *                         its chunk was not taken, since it is not cached
 *   PLACING -> SPENT      a chunk: the same, if part of it was moved
 *   SPENT -> FRESH        a chunk: any worker that renews staging, or reads a
 *                         chunk itself
 *
 *   FRESH      not in use: in w->free_urgent, in w->free_hints, or in the pool
 *   ISSUING    planned; some requests may be in flight; a hint or a chunk is
 *              w->issuing
 *   IN_FLIGHT  all requests are issued, and some are in flight
 *   READY      all read, or failed; a chunk is in the pool, and part of it may
 *              be placed; a hint is in w->ready_hints
 *   PLACING    a worker places the rest of it; a chunk that takes more than a
 *              turn is w->placing
 *   SPENT      as FRESH, but its staging has no huge page: in the pool
 *
 * When a load ends, reads may be in any state.
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

static const char *const read_state_names[FASTLOAD_READ_STATE_MAX] = {
    [FASTLOAD_READ_FRESH] = "fresh",
    [FASTLOAD_READ_ISSUING] = "issuing",
    [FASTLOAD_READ_IN_FLIGHT] = "in-flight",
    [FASTLOAD_READ_READY] = "ready",
    [FASTLOAD_READ_PLACING] = "placing",
    [FASTLOAD_READ_SPENT] = "spent",
};

#define TO(state) (1u << FASTLOAD_READ_##state)
static const uint32_t read_moves[FASTLOAD_READ_STATE_MAX] = {
    [FASTLOAD_READ_FRESH] = TO(ISSUING),
    [FASTLOAD_READ_ISSUING] = TO(IN_FLIGHT) | TO(READY),
    [FASTLOAD_READ_IN_FLIGHT] = TO(READY),
    [FASTLOAD_READ_READY] = TO(PLACING),
    [FASTLOAD_READ_PLACING] = TO(READY) | TO(FRESH) | TO(SPENT),
    [FASTLOAD_READ_SPENT] = TO(FRESH),
};

void fastload_read_check(const FastloadRead *read)
{
    const FastloadArea *area = read->area;
    FastloadSpan span = read->span;
    bool is_urgent = read->class == FASTLOAD_CLASS_URGENT;

    switch (read->state) {
    case FASTLOAD_READ_FRESH:
    case FASTLOAD_READ_SPENT:
        assert(read->state == FASTLOAD_READ_FRESH || read->is_pooled);
        /* Nothing of its last use is left. */
        assert(!read->inflight_count && !read->moved_bytes);
        assert(!read->around_claims && !read->fault.area);
        assert(!read->is_retried && !read->is_probe);
        break;
    case FASTLOAD_READ_ISSUING:
        assert(span.len_bytes && span.ram_off + span.len_bytes <=
                                 area->len_bytes);
        assert(read->fault.area == (is_urgent ? area : NULL));
        assert(!is_urgent || !read->is_pooled);
        assert(read->is_pooled ? span.len_bytes <= FASTLOAD_CHUNK_BYTES
               : is_urgent || (read->class == FASTLOAD_CLASS_HINT &&
                               span.len_bytes <= FASTLOAD_HINT_BYTES_MAX));
        assert(!read->error && !read->placed_bytes && !read->moved_bytes);
        assert(!read->inflight_count && !read->extent_idx);
        assert(read->extent_count <= (is_urgent ? 1
                                                : FASTLOAD_EXTENT_COUNT_MAX));
        break;
    case FASTLOAD_READ_IN_FLIGHT:
        assert(read->inflight_count && !fastload_read_has_rest(read));
        assert(!read->placed_bytes && !read->moved_bytes);
        break;
    case FASTLOAD_READ_READY:
    case FASTLOAD_READ_PLACING:
        assert(!read->inflight_count && !fastload_read_has_rest(read));
        assert(read->moved_bytes <= read->placed_bytes);
        assert(read->placed_bytes < span.len_bytes);
        assert(!is_urgent || !read->placed_bytes);
        assert(read->is_pooled || !read->wants_move);
        break;
    case FASTLOAD_READ_STATE_MAX:
        g_assert_not_reached();
    }
}

void fastload_read_move(FastloadRead *read, FastloadReadState to)
{
    FastloadReadState from = read->state;

    assert(read_moves[from] & (1u << to));
    trace_fastload_read_moved(read, read->class, read_state_names[from],
                              read_state_names[to]);
    read->state = to;
    fastload_read_check(read);
}

void fastload_read_fail(FastloadRead *read, FastloadFailureKind kind,
                        int32_t error, uint64_t file_off)
{
    if (!read->error) {
        read->error = error;
        read->error_kind = kind;
        read->error_file_off = file_off;
    }
}

FastloadSpan fastload_read_page(const FastloadRead *read)
{
    const FastloadArea *area = read->area;

    return (FastloadSpan) {
        .ram_off = read->fault.page_idx << area->page_shift,
        .len_bytes = area->page_bytes,
    };
}

bool fastload_read_aim(FastloadRead *read, uint64_t around_bytes)
{
    FastloadArea *area = read->area = read->fault.area;
    /* A zero page is placed without a read: what it has is in no buffer. */
    bool has_around = around_bytes > area->page_bytes &&
                      !read->fault.not_before_ns && !read->fault.is_alone &&
                      fastload_plan_page_has_data(area, read->fault.page_idx);

    read->span = fastload_read_page(read);
    if (has_around) {
        read->span.ram_off = read->span.ram_off / around_bytes * around_bytes;
        read->span.len_bytes = MIN(around_bytes,
                                   area->len_bytes - read->span.ram_off);
    }
    return has_around;
}

void fastload_read_claim_around(Fastload *fl, FastloadRead *read)
{
    FastloadArea *area = read->area;
    uint64_t first = read->span.ram_off >> area->page_shift;
    uint64_t count = read->span.len_bytes >> area->page_shift;
    uint64_t i;

    read->around_claims = 0;
    read->merge_count = __atomic_load_n(&fl->sched.merge_count,
                                        __ATOMIC_ACQUIRE);
    for (i = 0; count > 1 && i < count; i++) {
        if (first + i != read->fault.page_idx &&
            fastload_plan_page_has_data(area, first + i) &&
            !fastload_bit_test(area->placed, first + i) &&
            !fastload_bit_test_and_set(area->claimed, first + i)) {
            read->around_claims |= 1ull << i;
        }
    }
}

void fastload_read_release_around(Fastload *fl, FastloadRead *read)
{
    FastloadArea *area = read->area;
    uint64_t first = read->span.ram_off >> area->page_shift;
    bool is_left = false;

    if (!read->around_claims) {
        return;
    }
    while (read->around_claims) {
        uint32_t i = __builtin_ctzll(read->around_claims);

        read->around_claims &= read->around_claims - 1;
        if (!fastload_bit_test(area->placed, first + i)) {
            fastload_bit_clear(area->claimed, first + i);
            is_left = true;
        }
    }
    /* As in place_may_have_merged(), which says why this is enough. */
    if (__atomic_fetch_add(&fl->sched.merge_count, 0, __ATOMIC_ACQ_REL) !=
        read->merge_count) {
        is_left = true;
    }
    if (is_left && !__atomic_load_n(&area->is_dropped, __ATOMIC_ACQUIRE)) {
        fastload_uffd_wake(fl->uffd, area->hva + read->span.ram_off,
                           read->span.len_bytes);
    }
}

void fastload_read_plan(FastloadRead *read, uint32_t file_generation,
                        uint64_t gap_bytes)
{
    FastloadSpan *extents = read->extents;
    uint32_t count = fastload_plan_extents(read->area, read->span, gap_bytes,
                                           extents);

    read->placed_bytes = 0;
    read->error = 0;
    read->file_generation = file_generation;
    read->is_replaced = false;
    read->next = NULL;
    read->extent_idx = 0;
    if (read->class == FASTLOAD_CLASS_URGENT && count > 1) {
        /* An urgent read is one request: it reads over the holes. */
        extents[0].len_bytes = extents[count - 1].ram_off +
                               extents[count - 1].len_bytes -
                               extents[0].ram_off;
        count = 1;
    }
    read->extent_count = count;
    fastload_read_move(read, FASTLOAD_READ_ISSUING);
}

bool fastload_read_has_rest(const FastloadRead *read)
{
    return !read->error && read->extent_idx < read->extent_count;
}

void fastload_read_cut(FastloadRead *read, uint32_t bytes_max,
                       FastloadIoReq *ret_req)
{
    FastloadSpan *extent = &read->extents[read->extent_idx];

    assert(read->state == FASTLOAD_READ_ISSUING &&
           fastload_read_has_rest(read));
    ret_req->buf = read->buf + (extent->ram_off - read->span.ram_off);
    ret_req->file_off = read->area->file_off + extent->ram_off;
    ret_req->len_bytes = MIN(extent->len_bytes, bytes_max);
    ret_req->tries = 0;
    ret_req->is_urgent = read->class == FASTLOAD_CLASS_URGENT;
    ret_req->is_direct = read->is_direct;
    ret_req->read = read;

    extent->ram_off += ret_req->len_bytes;
    extent->len_bytes -= ret_req->len_bytes;
    read->extent_idx += extent->len_bytes ? 0 : 1;
    read->inflight_count++;
}

bool fastload_read_end_issuing(FastloadRead *read)
{
    fastload_read_move(read, read->inflight_count ? FASTLOAD_READ_IN_FLIGHT
                                                  : FASTLOAD_READ_READY);
    return read->state == FASTLOAD_READ_READY;
}

bool fastload_read_req_back(FastloadRead *read)
{
    assert(read->state == FASTLOAD_READ_ISSUING ||
           read->state == FASTLOAD_READ_IN_FLIGHT);
    assert(read->inflight_count);
    read->inflight_count--;
    if (read->inflight_count || fastload_read_has_rest(read)) {
        return false;
    }
    fastload_read_move(read, FASTLOAD_READ_READY);
    return true;
}
