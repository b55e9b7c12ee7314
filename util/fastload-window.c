/*
 * fastload window: the read-ahead window, in bytes in flight.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With too few bytes in flight the storage idles; with too many, the next page
 * that the guest waits for queues behind them.  The right number follows from
 * the storage's round-trip time and its rate, which are measured from the reads
 * themselves, much as the congestion control BBR does for a network (Cardwell
 * et al., ACM Queue 14(5), 2016):
 *
 *  - The rate is the highest of the last seconds.  A sample is what came in
 *    during a round.  A round lasts until a read that began in it returns, and
 *    longer than a worker is ever busy with something else.
 *  - The round-trip time is the lowest of the last seconds, but of medians of
 *    FASTLOAD_WINDOW_GROUP reads, not of single reads.  A single read may come
 *    from a cache of the host, the server or the disk, as one in a hundred
 *    often does, and says nothing about the others.
 *  - Now and then the window is halved for a few round trips, so that the
 *    reads do not measure a queue of their own making.
 *
 * The phases (moves are made by the thread that reports a completed read, under
 * the window's lock):
 *
 *           the rate grows no more,           the round trip was measured,
 *           or an epoch is over               or reads are too short for it
 *   START ----------------------------> DRAIN ----------------------------+
 *                                         ^                               |
 *                                         |       an epoch is over        v
 *                                         +---------------------------- CRUISE
 *
 * A worker that is busy placing, or gets no processor, sees completed reads
 * late.  That adds to the round-trip time.  It shows when the worker finds all
 * reads completed that it had begun: the storage has idled.
 *
 * Short reads of a working set cost storage by their number.  How many of them
 * are in flight follows from how long they take: more, while that is no longer
 * than what the storage needs without a queue.  (FastloadPace)  If the last
 * reads of the first burst take longer than the first, the storage serves few
 * at once: a request is dear there, and stays so until all that may be in
 * flight take no longer than one.
 *
 * Knows nothing of a session and does no I/O.  Holds its lock for arithmetic
 * only; the functions that read the window's figures take no lock.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"

/* The window in per cent of rate times round-trip time. */
static const uint32_t window_gains[FASTLOAD_WINDOW_PHASE_MAX] = {
    [FASTLOAD_WINDOW_START] = 300,
    [FASTLOAD_WINDOW_DRAIN] = 50,
    [FASTLOAD_WINDOW_CRUISE] = 150,
};

/* After so many rounds of DRAIN the reads that made the queue have returned. */
#define WINDOW_DRAIN_ROUND_COUNT 2
/* After so many more, reads are too short to measure the round-trip time. */
#define WINDOW_DRAIN_ROUND_MAX 2
/*
 * START ends after so many rounds in which the rate did not grow to this many
 * per cent.
 */
#define WINDOW_START_ROUND_COUNT 4
#define WINDOW_START_GROWTH 115
/* A minimum or maximum is of the current epoch and the one before. */
#define WINDOW_EPOCH_NS (2 * 1000 * 1000 * 1000ull)
#define WINDOW_EPOCH_ROUND_COUNT 16
/*
 * Until the first read returns nothing is known.  The longer it takes, the
 * farther away the storage is, and the wider the window grows: by one byte in
 * so many nanoseconds, which is slow for storage that is far away.
 */
#define WINDOW_BLIND_BYTES_MAX (4u << 20)
#define WINDOW_BLIND_NS_PER_BYTE 4
/*
 * A round lasts at least so long.  A worker that zeroes huge pages looks seldom
 * and then finds much at once, which a short round would take for a high rate.
 * In START that does no harm.
 */
#define WINDOW_ROUND_NS_MIN (8 * 1000 * 1000ull)
#define WINDOW_START_ROUND_NS_MIN (2 * 1000 * 1000ull)
/* Without a read in flight for so long, the background had nothing to read. */
#define WINDOW_IDLE_NS (2 * 1000 * 1000ull)
/*
 * When a worker finds the storage idle, late_ns grows by one part in
 * WINDOW_LATE_SHARE of the round-trip time, or by _MIN if that is more.  Each
 * time it finds it busy, late_ns shrinks by one part in WINDOW_LATE_FORGET.
 */
#define WINDOW_LATE_SHARE 4
#define WINDOW_LATE_NS_MIN (25 * 1000ull)
#define WINDOW_LATE_NS_MAX (20 * 1000 * 1000ull)
#define WINDOW_LATE_FORGET 64
/*
 * More short reads of the working set are begun until they take _QUEUED times
 * what they take at least, then fewer; more again when it is _FREE times.  If
 * the fewest take too long, what they take at least grows towards that, by one
 * part in _SHARE of the difference.
 */
#define WINDOW_PACE_FREE 1.5
#define WINDOW_PACE_QUEUED 1.75
#define WINDOW_PACE_SHARE 8
/*
 * A hole in a chunk is read over if that costs no more than one part in so many
 * of a request, where requests are dear.
 */
#define WINDOW_HOLE_SHARE 4
/* The first round-trip time is a median of fewer reads, to have one soon. */
#define WINDOW_GROUP_FIRST 4

void fastload_window_init(FastloadWindow *w)
{
    g_mutex_init(&w->lock);
    w->phase = FASTLOAD_WINDOW_START;
    w->pace.count = FASTLOAD_HINT_COUNT_BEGIN;
}

void fastload_window_expect(FastloadWindow *w, uint64_t took_ns,
                            uint64_t now_ns)
{
    if (took_ns >= FASTLOAD_AROUND_NS_MIN && took_ns < now_ns) {
        w->begin_ns = now_ns - took_ns;
        w->first_ns = now_ns;
    }
}

void fastload_window_clear(FastloadWindow *w)
{
    g_mutex_clear(&w->lock);
}

void fastload_window_begin(FastloadWindow *w, FastloadIoReq *req,
                           uint64_t now_ns)
{
    g_mutex_lock(&w->lock);
    if (!w->begin_ns) {
        __atomic_store_n(&w->begin_ns, now_ns, __ATOMIC_RELAXED);
    }
    if (!w->inflight_count++ && now_ns - w->end_ns >= WINDOW_IDLE_NS) {
        /* There was nothing to read for a while: a new round begins. */
        w->round_ns = now_ns;
        w->round_bytes = w->delivered_bytes;
    }
    req->begin_ns = now_ns;
    g_mutex_unlock(&w->lock);
}

#define TO(phase) (1u << FASTLOAD_WINDOW_##phase)
static const uint32_t window_moves[FASTLOAD_WINDOW_PHASE_MAX] = {
    [FASTLOAD_WINDOW_START] = TO(DRAIN),
    [FASTLOAD_WINDOW_DRAIN] = TO(CRUISE),
    [FASTLOAD_WINDOW_CRUISE] = TO(DRAIN),
};

static void window_move_locked(FastloadWindow *w, FastloadWindowPhase to)
{
    assert(window_moves[w->phase] & (1u << to));
    if (to == FASTLOAD_WINDOW_DRAIN) {
        w->drain_round = w->round_count + WINDOW_DRAIN_ROUND_COUNT;
    }
    __atomic_store_n(&w->phase, to, __ATOMIC_RELAXED);
}

static int window_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void window_round_trip_locked(FastloadWindow *w, uint64_t took_ns)
{
    uint32_t wanted = w->rtt_ns ? FASTLOAD_WINDOW_GROUP : WINDOW_GROUP_FIRST;
    uint64_t median_ns;

    w->group_ns[w->group_count++] = took_ns;
    if (w->group_count < wanted) {
        return;
    }
    qsort(w->group_ns, w->group_count, sizeof(w->group_ns[0]),
          window_compare);
    median_ns = w->group_ns[w->group_count / 2];
    w->group_count = 0;
    if (w->phase == FASTLOAD_WINDOW_DRAIN &&
        w->round_count >= w->drain_round) {
        window_move_locked(w, FASTLOAD_WINDOW_CRUISE);
    }
    if (!w->rtt_ns) {
        w->rtt_ns = median_ns; /* a first guess; the next median replaces it */
        return;
    }
    w->rtt_least_ns[0] = w->rtt_least_ns[0]
        ? MIN(w->rtt_least_ns[0], median_ns) : median_ns;
    w->rtt_ns = w->rtt_least_ns[1]
        ? MIN(w->rtt_least_ns[0], w->rtt_least_ns[1]) : w->rtt_least_ns[0];
}

/* Has @req ended the round?  Then the round has told a rate. */
static bool window_round_ended_locked(FastloadWindow *w,
                                      const FastloadIoReq *req,
                                      uint64_t now_ns)
{
    uint64_t took_ns = now_ns - w->round_ns;
    uint64_t least_ns = w->phase == FASTLOAD_WINDOW_START
                        ? WINDOW_START_ROUND_NS_MIN : WINDOW_ROUND_NS_MIN;
    double rate;

    /* A read that was faster than a round trip came from a cache. */
    if (req->begin_ns < w->round_ns || took_ns < least_ns ||
        now_ns - req->begin_ns < w->rtt_ns - w->rtt_ns / 8) {
        return false;
    }
    rate = (w->delivered_bytes - w->round_bytes) * 1e9 / took_ns;
    w->rate_most[0] = MAX(w->rate_most[0], rate);
    w->rate = MAX(w->rate_most[0], w->rate_most[1]);
    w->round_ns = now_ns;
    w->round_bytes = w->delivered_bytes;
    w->round_count++;
    return true;
}

static void window_next_epoch_locked(FastloadWindow *w, uint64_t now_ns)
{
    w->epoch_ns = now_ns;
    w->epoch_round = w->round_count;
    w->rtt_least_ns[1] = w->rtt_least_ns[0];
    w->rtt_least_ns[0] = 0;
    w->rate_most[1] = w->rate_most[0];
    w->rate_most[0] = 0;
    window_move_locked(w, FASTLOAD_WINDOW_DRAIN);
}

static void window_start_round_locked(FastloadWindow *w)
{
    if (!w->rtt_ns) {
        return;
    }
    if (w->rate * 100 >= w->rate_before * WINDOW_START_GROWTH) {
        w->rate_before = w->rate;
        w->flat_round_count = 0;
    } else if (++w->flat_round_count == WINDOW_START_ROUND_COUNT) {
        /* Short rounds may have shown too high a rate: measure it again. */
        w->rate_most[0] = 0;
        window_move_locked(w, FASTLOAD_WINDOW_DRAIN);
    }
}

static void window_drain_round_locked(FastloadWindow *w)
{
    if (w->round_count == w->drain_round) {
        w->group_count = 0; /* earlier reads have waited in the queue */
    } else if (w->round_count >= w->drain_round + WINDOW_DRAIN_ROUND_MAX) {
        /* Reads are too short to measure it: the round-trip time stays. */
        window_move_locked(w, FASTLOAD_WINDOW_CRUISE);
    }
}

static void window_round_locked(FastloadWindow *w, uint64_t now_ns)
{
    switch (w->phase) {
    case FASTLOAD_WINDOW_START:
        window_start_round_locked(w);
        break;
    case FASTLOAD_WINDOW_DRAIN:
        window_drain_round_locked(w);
        break;
    case FASTLOAD_WINDOW_CRUISE:
        break;
    case FASTLOAD_WINDOW_PHASE_MAX:
        g_assert_not_reached();
    }
    if (!w->epoch_ns) {
        w->epoch_ns = now_ns;
    }
    if (now_ns - w->epoch_ns >= WINDOW_EPOCH_NS &&
        w->round_count - w->epoch_round >= WINDOW_EPOCH_ROUND_COUNT &&
        w->rtt_least_ns[0] && w->phase != FASTLOAD_WINDOW_DRAIN) {
        window_next_epoch_locked(w, now_ns);
    }
}

static void window_size_locked(FastloadWindow *w)
{
    /* A wider window shows a round later: growth may pause for two rounds. */
    FastloadWindowPhase phase = w->phase == FASTLOAD_WINDOW_START &&
                                w->flat_round_count > 1
                                ? FASTLOAD_WINDOW_CRUISE : w->phase;
    double per_ns = w->rate / 1e9 * window_gains[phase] / 100;

    __atomic_store_n(&w->bytes,
                     CLAMP(per_ns * w->rtt_ns, 0, FASTLOAD_WINDOW_BYTES_MAX),
                     __ATOMIC_RELAXED);
    __atomic_store_n(&w->late_bytes,
                     CLAMP(per_ns * w->late_ns, 0, FASTLOAD_WINDOW_BYTES_MAX),
                     __ATOMIC_RELAXED);
    __atomic_store_n(&w->rate_bytes_per_s, (uint64_t)w->rate,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&w->round_trip_ns, w->rtt_ns, __ATOMIC_RELAXED);
}

void fastload_window_end(FastloadWindow *w, const FastloadIoReq *req,
                         uint64_t now_ns, bool is_sample)
{
    uint64_t took_ns = now_ns - req->begin_ns;

    g_mutex_lock(&w->lock);
    assert(w->inflight_count);
    w->inflight_count--;
    w->end_ns = now_ns;
    /* A read of any kind shows how far away the storage is at most. */
    if (!w->first_ns) {
        __atomic_store_n(&w->first_ns, now_ns, __ATOMIC_RELAXED);
    }
    if (!is_sample) {
        g_mutex_unlock(&w->lock);
        return;
    }
    w->delivered_bytes += req->len_bytes;
    if (req->len_bytes >= FASTLOAD_REQ_BYTES_MIN) {
        window_round_trip_locked(w, took_ns);
    }
    if (window_round_ended_locked(w, req, now_ns)) {
        window_round_locked(w, now_ns);
    }
    window_size_locked(w);
    g_mutex_unlock(&w->lock);
}

/*
 * Near storage answers faster than workers can keep up with it.  There the
 * guest's reads come first, and the storage may idle.
 */
static bool window_is_near(uint64_t rtt_ns)
{
    return rtt_ns < FASTLOAD_AROUND_NS_MIN;
}

/* From now on so many are in flight: those that are now tell nothing. */
static void window_set_pace(FastloadPace *pace, uint32_t count)
{
    uint32_t before = pace->count;

    count = CLAMP(count, FASTLOAD_HINT_COUNT_MIN, FASTLOAD_HINT_COUNT_MAX);
    pace->skip_count = count == before ? 0 : before;
    __atomic_store_n(&pace->count, count, __ATOMIC_RELAXED);
}

static void window_set_dear(FastloadPace *pace, bool is_dear)
{
    __atomic_store_n(&pace->is_dear, is_dear, __ATOMIC_RELAXED);
}

/* What a read takes that waits for no other; @fast_ns is of the first group. */
static uint64_t window_pace_least_ns(const FastloadWindow *w, uint64_t fast_ns)
{
    /* The first read of all waited for no other, but may have been lucky. */
    uint64_t first_ns = w->first_ns - w->begin_ns;

    return window_is_near(first_ns) ? fast_ns : MIN(first_ns, fast_ns);
}

/* The last median is @times what it is without a queue, and that is much. */
static void window_pace_queued_locked(FastloadPace *pace, double times)
{
    __atomic_store_n(&pace->req_ns, pace->took_ns / pace->count,
                     __ATOMIC_RELAXED);
    window_set_pace(pace, pace->count / times * WINDOW_PACE_QUEUED);
    pace->is_queued = true;
    window_set_dear(pace, true);
}

static void window_pace_grow_locked(FastloadPace *pace)
{
    pace->is_queued = false;
    if (pace->seen_count < FASTLOAD_HINT_COUNT_BEGIN) {
        return; /* the rest of the first burst may take longer */
    }
    window_set_pace(pace, pace->count + pace->count / 2);
    if (pace->count == FASTLOAD_HINT_COUNT_MAX) {
        window_set_dear(pace, false);
    }
}

static void window_pace_locked(FastloadWindow *w)
{
    FastloadPace *pace = &w->pace;
    uint64_t median_ns = pace->group_ns[FASTLOAD_WINDOW_GROUP / 2];
    uint64_t fast_ns = pace->group_ns[1]; /* one alone may have been lucky */
    double times;

    if (!pace->least_ns) {
        pace->least_ns = window_pace_least_ns(w, fast_ns);
    }
    pace->least_ns = MIN(pace->least_ns, median_ns);
    pace->seen_count += FASTLOAD_WINDOW_GROUP;
    if (pace->count == FASTLOAD_HINT_COUNT_MIN &&
        median_ns > pace->least_ns * WINDOW_PACE_FREE) {
        /* Fewer would not help: it has become slower, or those were lucky. */
        pace->least_ns += (median_ns - pace->least_ns) / WINDOW_PACE_SHARE;
    }
    times = (double)median_ns / MAX(pace->least_ns, 1);
    pace->took_ns = median_ns;
    if (window_is_near(fast_ns)) {
        window_set_pace(pace, FASTLOAD_HINT_COUNT_MAX);
        pace->is_queued = false;
        window_set_dear(pace, false);
    } else if (times > WINDOW_PACE_QUEUED) {
        window_pace_queued_locked(pace, times);
    } else if (times <= WINDOW_PACE_FREE || !pace->is_queued) {
        window_pace_grow_locked(pace);
    }
}

void fastload_window_hint_end(FastloadWindow *w, uint64_t took_ns)
{
    FastloadPace *pace = &w->pace;

    g_mutex_lock(&w->lock);
    if (pace->skip_count) {
        pace->skip_count--;
    } else {
        pace->group_ns[pace->group_count++] = took_ns;
    }
    if (pace->group_count == FASTLOAD_WINDOW_GROUP) {
        qsort(pace->group_ns, pace->group_count, sizeof(pace->group_ns[0]),
              window_compare);
        pace->group_count = 0;
        window_pace_locked(w);
    }
    g_mutex_unlock(&w->lock);
}

uint32_t fastload_window_hint_count(const FastloadWindow *w)
{
    return __atomic_load_n(&w->pace.count, __ATOMIC_RELAXED);
}

uint64_t fastload_window_hint_cost(const FastloadWindow *w)
{
    uint64_t req_ns = __atomic_load_n(&w->pace.req_ns, __ATOMIC_RELAXED);

    if (!__atomic_load_n(&w->pace.is_dear, __ATOMIC_RELAXED)) {
        return 0;
    }
    return MAX(fastload_window_rate(w) / 1e9 * req_ns, 1);
}

void fastload_window_seen(FastloadWindow *w, bool is_dry)
{
    g_mutex_lock(&w->lock);
    if (w->phase == FASTLOAD_WINDOW_DRAIN || !w->rtt_ns) {
        /* DRAIN lets the storage idle on purpose; or nothing is known yet. */
    } else if (is_dry) {
        w->late_ns = MIN(w->late_ns + MAX(w->rtt_ns / WINDOW_LATE_SHARE,
                                          WINDOW_LATE_NS_MIN),
                         WINDOW_LATE_NS_MAX);
    } else {
        w->late_ns -= w->late_ns / WINDOW_LATE_FORGET;
    }
    window_size_locked(w);
    g_mutex_unlock(&w->lock);
}

/*
 * The window while the rate is not known: it follows from how long the first
 * read took, or has taken until now.
 */
static uint64_t window_blind_bytes(const FastloadWindow *w, uint64_t now_ns)
{
    uint64_t begin_ns = __atomic_load_n(&w->begin_ns, __ATOMIC_RELAXED);
    uint64_t first_ns = __atomic_load_n(&w->first_ns, __ATOMIC_RELAXED);

    now_ns = first_ns ? first_ns : now_ns;
    if (!begin_ns || now_ns < begin_ns) {
        return 0;
    }
    return MIN((now_ns - begin_ns) / WINDOW_BLIND_NS_PER_BYTE,
               WINDOW_BLIND_BYTES_MAX);
}

uint64_t fastload_window_bytes(const FastloadWindow *w, uint64_t now_ns,
                               uint64_t queue_ns)
{
    uint64_t rtt_ns = __atomic_load_n(&w->round_trip_ns, __ATOMIC_RELAXED);
    uint64_t rate = __atomic_load_n(&w->rate_bytes_per_s, __ATOMIC_RELAXED);
    uint64_t bytes = __atomic_load_n(&w->bytes, __ATOMIC_RELAXED);
    FastloadWindowPhase phase = __atomic_load_n(&w->phase, __ATOMIC_RELAXED);
    uint64_t least_bytes = FASTLOAD_WINDOW_BYTES_MIN * (queue_ns ? 2 : 1);
    uint64_t most_bytes = FASTLOAD_WINDOW_BYTES_MAX;

    if (!rtt_ns || !rate || phase == FASTLOAD_WINDOW_START) {
        /* The first rates were measured with a smaller window. */
        bytes = MAX(bytes, window_blind_bytes(w, now_ns));
    } else if (phase == FASTLOAD_WINDOW_DRAIN) {
        least_bytes = FASTLOAD_REQ_BYTES_NEAR;
    } else if (queue_ns || !window_is_near(rtt_ns)) {
        bytes += __atomic_load_n(&w->late_bytes, __ATOMIC_RELAXED) +
                 (uint64_t)(rate / 1e9 * queue_ns);
    }
    if (rtt_ns && window_is_near(rtt_ns)) {
        /* Rate times round-trip time is in flight without any queue. */
        most_bytes = MAX(FASTLOAD_WINDOW_BYTES_NEAR,
                         (uint64_t)(rate / 1e9 * rtt_ns)) +
                     (uint64_t)(rate / 1e9 * queue_ns);
    }
    return CLAMP(bytes, least_bytes, MIN(most_bytes,
                                         FASTLOAD_WINDOW_BYTES_MAX));
}

uint64_t fastload_window_grows_ns(const FastloadWindow *w, uint64_t now_ns)
{
    uint64_t begin_ns = __atomic_load_n(&w->begin_ns, __ATOMIC_RELAXED);
    bool is_blind = begin_ns &&
                    !__atomic_load_n(&w->first_ns, __ATOMIC_RELAXED);

    return is_blind && window_blind_bytes(w, now_ns) < WINDOW_BLIND_BYTES_MAX
        ? now_ns + FASTLOAD_REQ_BYTES_NEAR * WINDOW_BLIND_NS_PER_BYTE
        : UINT64_MAX;
}

uint64_t fastload_window_gap_bytes(const FastloadWindow *w, uint64_t now_ns)
{
    uint64_t rtt_ns = fastload_window_round_trip_ns(w);
    uint64_t rate = fastload_window_rate(w);
    uint64_t bytes = rtt_ns && rate ? (uint64_t)(rate / 1e9 * rtt_ns)
                                    : window_blind_bytes(w, now_ns);

    return CLAMP(bytes / FASTLOAD_HINT_GAP_SHARE, FASTLOAD_GAP_BYTES_MAX,
                 FASTLOAD_HINT_GAP_BYTES_MAX);
}

/* How far away the storage is, as far as it is known by now. */
static uint64_t window_distance_ns(const FastloadWindow *w, uint64_t now_ns)
{
    uint64_t rtt_ns = fastload_window_round_trip_ns(w);
    uint64_t begin_ns = __atomic_load_n(&w->begin_ns, __ATOMIC_RELAXED);
    uint64_t first_ns = __atomic_load_n(&w->first_ns, __ATOMIC_RELAXED);

    now_ns = first_ns ? first_ns : now_ns;
    return rtt_ns ? rtt_ns
           : begin_ns && begin_ns < now_ns ? now_ns - begin_ns : 0;
}

uint32_t fastload_window_req_bytes(const FastloadWindow *w, uint64_t now_ns,
                                   uint64_t window_bytes)
{
    uint64_t far_bytes = window_distance_ns(w, now_ns) /
                         FASTLOAD_REQ_NS_PER_BYTE;
    uint64_t req_bytes = MAX(window_bytes / FASTLOAD_REQ_SHARE,
                             MIN(window_bytes / FASTLOAD_REQ_SHARE_FAR,
                                 far_bytes));

    /* At least two, so that one is in flight when the other returns. */
    if (window_bytes < 2 * FASTLOAD_REQ_BYTES_NEAR) {
        return MAX(window_bytes / 2 / FASTLOAD_REQ_BYTES_MIN, 1) *
               FASTLOAD_REQ_BYTES_MIN;
    }
    return CLAMP(req_bytes / FASTLOAD_REQ_BYTES_MIN * FASTLOAD_REQ_BYTES_MIN,
                 FASTLOAD_REQ_BYTES_NEAR, FASTLOAD_REQ_BYTES_MAX);
}

uint64_t fastload_window_hole_bytes(const FastloadWindow *w, uint64_t now_ns)
{
    uint64_t bytes = fastload_window_rate(w) / 1e9 *
                     window_distance_ns(w, now_ns) / FASTLOAD_HINT_GAP_SHARE;

    bytes = MAX(bytes, fastload_window_hint_cost(w) / WINDOW_HOLE_SHARE);
    return CLAMP(bytes, FASTLOAD_GAP_BYTES_MAX, FASTLOAD_HOLE_BYTES_MAX);
}

uint32_t fastload_window_around_bytes(const FastloadWindow *w)
{
    uint64_t rtt_ns = fastload_window_round_trip_ns(w);
    double bytes = rtt_ns / 1e9 * fastload_window_rate(w) /
                   FASTLOAD_AROUND_SHARE;
    uint32_t around_bytes = FASTLOAD_PAGE_BYTES_MIN;

    if (rtt_ns < FASTLOAD_AROUND_NS_MIN) {
        return 0;
    }
    while (around_bytes < FASTLOAD_AROUND_BYTES_MAX &&
           around_bytes * 2 <= bytes) {
        around_bytes *= 2;
    }
    return around_bytes;
}

uint64_t fastload_window_round_trip_ns(const FastloadWindow *w)
{
    return __atomic_load_n(&w->round_trip_ns, __ATOMIC_RELAXED);
}

uint64_t fastload_window_rate(const FastloadWindow *w)
{
    return __atomic_load_n(&w->rate_bytes_per_s, __ATOMIC_RELAXED);
}
