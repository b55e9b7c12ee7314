/*
 * fastload rate: how fast to read ahead.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A token bucket: tokens are bytes, come in at the background's rate and are
 * taken before a read is issued.  The bucket holds what comes in during
 * FASTLOAD_RATE_BURST_NS.  Knows nothing of reads or of a load.  The caller
 * holds sched.lock.  Nothing fails.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"

static bool rate_is_limited(const FastloadRate *rate)
{
    return rate->bytes_per_s && rate->bytes_per_s != FASTLOAD_BACKGROUND_OFF;
}

static double rate_burst_bytes(const FastloadRate *rate)
{
    return MAX(rate->bytes_per_s * (FASTLOAD_RATE_BURST_NS / 1e9),
               2.0 * FASTLOAD_REQ_BYTES_MIN);
}

bool fastload_rate_is_off_locked(const FastloadRate *rate)
{
    return rate->bytes_per_s == FASTLOAD_BACKGROUND_OFF;
}

bool fastload_rate_is_none_locked(const FastloadRate *rate)
{
    return !rate->bytes_per_s;
}

void fastload_rate_count_locked(FastloadRate *rate, uint64_t now_ns)
{
    if (now_ns <= rate->at_ns) {
        return; /* another worker read the clock later than the caller */
    }
    if (rate_is_limited(rate)) {
        double due_bytes = (now_ns - rate->at_ns) / 1e9 * rate->bytes_per_s;

        rate->tokens = MIN(rate->tokens + due_bytes, rate_burst_bytes(rate));
    }
    rate->at_ns = now_ns;
}

uint64_t fastload_rate_due_ns_locked(const FastloadRate *rate)
{
    if (fastload_rate_is_off_locked(rate)) {
        return UINT64_MAX;
    }
    if (!rate->bytes_per_s || rate->tokens > 0) {
        return 0;
    }
    return rate->at_ns + 1 +
           (uint64_t)((1 - rate->tokens) / rate->bytes_per_s * 1e9);
}

uint32_t fastload_rate_take_locked(FastloadRate *rate, uint32_t want_bytes)
{
    uint32_t take_bytes = want_bytes;
    double max_bytes;

    if (!rate_is_limited(rate)) {
        return take_bytes;
    }
    max_bytes = MIN(rate_burst_bytes(rate) / 2, want_bytes);
    /* Reads begin and end on the granule: O_DIRECT wants it. */
    if (max_bytes < want_bytes) {
        take_bytes = (uint32_t)max_bytes / FASTLOAD_PAGE_BYTES_MIN *
                     FASTLOAD_PAGE_BYTES_MIN;
    }
    rate->tokens -= take_bytes;
    return take_bytes;
}

void fastload_rate_charge_locked(FastloadRate *rate, uint32_t read_bytes)
{
    double debt_bytes = MAX(rate->bytes_per_s * (FASTLOAD_RATE_DEBT_NS / 1e9),
                            1.0 * FASTLOAD_CHUNK_BYTES);

    if (rate_is_limited(rate)) {
        rate->tokens = MAX(rate->tokens - read_bytes,
                           MIN(rate->tokens, -debt_bytes));
    }
}

void fastload_rate_set_locked(FastloadRate *rate, uint64_t now_ns,
                              uint64_t bytes_per_s)
{
    double burst_bytes;

    fastload_rate_count_locked(rate, now_ns);
    rate->bytes_per_s = bytes_per_s;
    if (rate_is_limited(rate)) {
        /* Debts from another rate count for one burst at most. */
        burst_bytes = rate_burst_bytes(rate);
        rate->tokens = CLAMP(rate->tokens, -burst_bytes, burst_bytes);
    }
}
