/*
 * fastload window: how many bytes of the background are in flight at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Too few, and the storage idles; too many, and the next page that the guest
 * waits for queues behind them.  What is right follows from two numbers that
 * nobody tells us: the storage's round trip and its rate.  Both are measured
 * from the reads themselves, much as the congestion control BBR does it for a
 * network (Cardwell et al., ACM Queue 14(5), 2016):
 *
 *  - The rate is the highest that was seen within the last seconds.  A sample
 *    is what came in during a round: until a read that began in it is back, and
 *    for longer than a worker is ever busy with something else.
 *  - The round trip is the lowest within the last seconds, but not of single
 *    reads: of medians of FASTLOAD_WINDOW_GROUP reads.  A read that was lucky
 *    (it came from a cache of the host, the server, the disk) is no lower bound
 *    of anything, and one in a hundred of them is common.
 *  - Once in a while the window is halved for a few round trips, so that the
 *    reads do not measure the queue that they make themselves.
 *
 * The phases; whoever hands over a read that is back performs the moves, under
 * the window's lock:
 *
 *           the rate grows no more,           the round trip was measured,
 *           or an epoch is over               or reads are too short for it
 *   START ----------------------------> DRAIN ----------------------------+
 *                                         ^                               |
 *                                         |       an epoch is over        v
 *                                         +---------------------------- CRUISE
 *
 * Reads that are back wait until a worker sees it: one that is busy placing, or
 * that gets no processor.  That adds to the round trip, and shows when the
 * worker finds everything back that it had begun: the storage has idled.
 *
 * Knows nothing of a session and does no I/O.  Takes its lock for arithmetic;
 * fastload_window_bytes() takes none.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"

/* In per cent of what is in flight while one read is on its way. */
static const uint32_t window_gains[FASTLOAD_WINDOW_PHASE_MAX] = {
    [FASTLOAD_WINDOW_START] = 300,
    [FASTLOAD_WINDOW_DRAIN] = 50,
    [FASTLOAD_WINDOW_CRUISE] = 150,
};

/* After so many rounds the reads that made the queue are back. */
#define WINDOW_DRAIN_ROUND_COUNT 2
/* And after so many more nothing is going to tell the round trip. */
#define WINDOW_DRAIN_ROUND_MAX 2
/* The start is over when so many rounds brought less than so much more. */
#define WINDOW_START_ROUND_COUNT 4
#define WINDOW_START_GROWTH 115
/* A minimum and a maximum are of the last one to two of these. */
#define WINDOW_EPOCH_NS (2 * 1000 * 1000 * 1000ull)
#define WINDOW_EPOCH_ROUND_COUNT 16
/*
 * Until the first read is back nothing is known: the longer that takes, the
 * farther away the storage is, and so many bytes a nanosecond are not much.
 */
#define WINDOW_BLIND_BYTES_MAX (4u << 20)
#define WINDOW_BLIND_NS_PER_BYTE 4
/*
 * A round is no shorter: a worker that zeroes a huge page looks seldom, and
 * then finds much.  At the start that does no harm.
 */
#define WINDOW_ROUND_NS_MIN (8 * 1000 * 1000ull)
#define WINDOW_START_ROUND_NS_MIN (2 * 1000 * 1000ull)
/* Without a read for so long, and not only between two of them. */
#define WINDOW_IDLE_NS (2 * 1000 * 1000ull)
/*
 * A reader that found the storage idle was so much later than was thought, of
 * the round trip or at least; each time it did not, it is forgotten in part.
 */
#define WINDOW_LATE_SHARE 4
#define WINDOW_LATE_NS_MIN (25 * 1000ull)
#define WINDOW_LATE_NS_MAX (20 * 1000 * 1000ull)
#define WINDOW_LATE_FORGET 64
/* The first round trip is known soon, from fewer reads. */
#define WINDOW_GROUP_FIRST 4

void fastload_window_init(FastloadWindow *w)
{
    g_mutex_init(&w->lock);
    w->phase = FASTLOAD_WINDOW_START;
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
        /* There was nothing to read: what comes is counted from here. */
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
        w->rtt_ns = median_ns; /* a first guess, which the next one replaces */
        return;
    }
    w->rtt_least_ns[0] = w->rtt_least_ns[0]
        ? MIN(w->rtt_least_ns[0], median_ns) : median_ns;
    w->rtt_ns = w->rtt_least_ns[1]
        ? MIN(w->rtt_least_ns[0], w->rtt_least_ns[1]) : w->rtt_least_ns[0];
}

/* Has a round ended, by a read that began in it?  Then it tells the rate. */
static bool window_round_ended_locked(FastloadWindow *w,
                                      const FastloadIoReq *req,
                                      uint64_t now_ns)
{
    uint64_t took_ns = now_ns - w->round_ns;
    uint64_t least_ns = w->phase == FASTLOAD_WINDOW_START
                        ? WINDOW_START_ROUND_NS_MIN : WINDOW_ROUND_NS_MIN;
    double rate;

    /* A read that came sooner than it can was lucky, and ends no round. */
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
        /* Short rounds may have told too much: it is seen anew. */
        w->rate_most[0] = 0;
        window_move_locked(w, FASTLOAD_WINDOW_DRAIN);
    }
}

static void window_drain_round_locked(FastloadWindow *w)
{
    if (w->round_count == w->drain_round) {
        w->group_count = 0; /* what was begun before has waited */
    } else if (w->round_count >= w->drain_round + WINDOW_DRAIN_ROUND_MAX) {
        /* Reads are too short to tell: the round trip stays as it was. */
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
    /* What a round begins comes in the next: two without growth, perhaps. */
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
    /* Of any kind: something is back, and the storage is not that far. */
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

void fastload_window_seen(FastloadWindow *w, bool is_dry)
{
    g_mutex_lock(&w->lock);
    if (w->phase == FASTLOAD_WINDOW_DRAIN || !w->rtt_ns) {
        /* It is to run dry, or nothing is known yet. */
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
 * Nothing is known of the rate: what would be in flight, were the storage so
 * far away as it took until the first read was back, or as it takes already.
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

/*
 * Near storage answers sooner than a worker that was late is on time: then the
 * guest's reads come first, and the storage may idle.
 */
static bool window_is_near(uint64_t rtt_ns)
{
    return rtt_ns < FASTLOAD_AROUND_NS_MIN;
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
        /* The first rates are of the time before so much was in flight. */
        bytes = MAX(bytes, window_blind_bytes(w, now_ns));
    } else if (phase == FASTLOAD_WINDOW_DRAIN) {
        least_bytes = FASTLOAD_REQ_BYTES_NEAR;
    } else if (queue_ns || !window_is_near(rtt_ns)) {
        bytes += __atomic_load_n(&w->late_bytes, __ATOMIC_RELAXED) +
                 (uint64_t)(rate / 1e9 * queue_ns);
    }
    if (rtt_ns && window_is_near(rtt_ns)) {
        /* What is on its way is no queue. */
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
