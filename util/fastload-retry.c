/*
 * fastload retry: what failed, and when it is tried again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Counts pages and chunks that wait for another try, says when that is due
 * (the pause doubles from FASTLOAD_BACKOFF_NS_MIN to _MAX for as long as reads
 * fail), and when the load counts as stalled.  Chunks that failed wait in a
 * queue here; pages wait among the faults, in the scheduler.  Knows neither
 * areas nor a load.  The caller holds sched.lock.  Nothing fails.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"

void fastload_retry_prepare(FastloadRetry *retry, uint64_t chunk_count)
{
    assert(chunk_count <= UINT32_MAX);
    /* Takes memory only where chunks fail. */
    retry->next_chunk_nos = g_new(uint32_t, chunk_count);
}

void fastload_retry_clear(FastloadRetry *retry)
{
    g_clear_pointer(&retry->next_chunk_nos, g_free);
}

void fastload_retry_push_chunk_locked(FastloadRetry *retry, uint32_t chunk_no)
{
    if (retry->failed_chunk_count++) {
        retry->next_chunk_nos[retry->last_chunk_no] = chunk_no;
    } else {
        retry->first_chunk_no = chunk_no;
    }
    retry->last_chunk_no = chunk_no;
}

bool fastload_retry_pop_chunk_locked(FastloadRetry *retry,
                                     uint32_t *ret_chunk_no)
{
    if (!retry->failed_chunk_count) {
        return false;
    }
    *ret_chunk_no = retry->first_chunk_no;
    /* The last one in the queue has no link. */
    if (--retry->failed_chunk_count) {
        retry->first_chunk_no = retry->next_chunk_nos[*ret_chunk_no];
    }
    return true;
}

void fastload_retry_read_again_locked(FastloadRetry *retry)
{
    retry->is_file_changed = false;
    retry->is_failure_known = false;
    retry->wants_probe = false;
    retry->failed_round_count = 0;
    retry->backoff_ns = 0;
}

void fastload_retry_now_locked(FastloadRetry *retry)
{
    fastload_retry_read_again_locked(retry);
    retry->due_ns = 0;
    retry->wants_probe = true; /* nothing has been read again yet */
}

void fastload_retry_failed_locked(FastloadRetry *retry, uint64_t now_ns,
                                  const FastloadFailure *failure)
{
    /* A new round of failures doubles the back-off. */
    if (now_ns >= retry->due_ns) {
        if (!retry->failed_round_count++) {
            retry->failed_at_ns = now_ns;
        }
        retry->backoff_ns = CLAMP(retry->backoff_ns * 2,
                                  FASTLOAD_BACKOFF_NS_MIN,
                                  FASTLOAD_BACKOFF_NS_MAX);
        retry->due_ns = now_ns + retry->backoff_ns;
    }
    retry->failure = *failure;
    retry->is_failure_known = true;
    retry->wants_probe = true;
    retry->is_file_changed = failure->kind == FASTLOAD_FAILURE_CHANGED;
}

bool fastload_retry_ended_locked(FastloadRetry *retry, bool was_read)
{
    assert(retry->failing_count);
    retry->failing_count--;
    if (was_read || !retry->failing_count) {
        fastload_retry_read_again_locked(retry);
        return true;
    }
    return false;
}

bool fastload_retry_may_stall_locked(const FastloadRetry *retry)
{
    return retry->failed_round_count >= FASTLOAD_STALL_ROUND_COUNT;
}

bool fastload_retry_is_stalled_locked(const FastloadRetry *retry,
                                      uint64_t now_ns,
                                      uint64_t fault_begin_ns)
{
    if (!fastload_retry_may_stall_locked(retry)) {
        return false;
    }
    /* A file that has changed does not become right by itself. */
    return retry->is_file_changed ||
           now_ns >= retry->failed_at_ns + FASTLOAD_STALL_FAIL_NS ||
           (fault_begin_ns != UINT64_MAX &&
            now_ns >= fault_begin_ns + FASTLOAD_STALL_WAIT_NS);
}

/* One chunk at a time, and none once something has been read. */
uint64_t fastload_retry_probe_due_ns_locked(const FastloadRetry *retry)
{
    return retry->failed_chunk_count && retry->wants_probe &&
           !retry->is_probe_out ? retry->due_ns : UINT64_MAX;
}

uint64_t fastload_retry_pending_due_ns_locked(const FastloadRetry *retry)
{
    return retry->is_file_changed ? retry->due_ns : 0;
}
