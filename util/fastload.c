/*
 * fastload: the session.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Checks the caller's arguments, traps memory, starts and ends the threads,
 * keeps the state of the load and tells the caller about it.  Reads and places
 * nothing itself.  A start that fails sets a GError and leaves nothing trapped.
 *
 * The map of the engine:
 *
 *   fastload.c           session: this file
 *   fastload-plan.c      regions and bitmaps to chunks, extents, spans; pure
 *   fastload-sched.c     what to read next: faults, then chunks; no I/O
 *   fastload-retry.c     what failed, and when it is tried again
 *   fastload-rate.c      how fast to read ahead
 *   fastload-record.c    what the guest touches first, and the file of it
 *   fastload-hints.c     the working set that is replayed: what to read next
 *   fastload-workset.c   the file of a working set, as bytes; pure
 *   fastload-worker.c    worker thread: take, read, place, repeat
 *   fastload-fault.c     userfaultfd messages to urgent reads
 *   fastload-crowd.c     are processors short?
 *   fastload-whole.c     faults answered with their whole chunk, if they are
 *   fastload-read.c      the life of a read: its plan, claims and state
 *   fastload-pool.c      staging of chunks, passed from worker to worker
 *   fastload-place.c     make bytes appear: copy, zero, move
 *   fastload-eager.c     memory that cannot be trapped, before the guest runs
 *   fastload-file.c      page cache or O_DIRECT; was the file changed?
 *   fastload-huge.c      where chunks become huge pages, and their staging
 *   fastload-io-uring.c  read backend: io_uring
 *   fastload-io-sync.c   read backend: preadv
 *   fastload-uffd.c      userfaultfd calls with errno and progress
 *   fastload-window.c    how much is read ahead at once
 *   fastload-stats.c     counters, log2 histograms, summing
 *   fastload-header.c    the header of a RAM block in a file; for callers
 *
 * Layers: a file calls functions of its own line and of the lines below.  What
 * the files above have to know comes back as return values and as
 * FastloadOutcome, on which the worker acts once a turn.
 *
 *   1. fastload.c fastload-worker.c fastload-eager.c
 *   2. fastload-fault.c
 *   3. fastload-place.c fastload-huge.c fastload-whole.c
 *   4. fastload-pool.c
 *   5. fastload-sched.c fastload-file.c fastload-read.c
 *   6. fastload-retry.c fastload-rate.c fastload-uffd.c
 *      fastload-record.c fastload-hints.c fastload-crowd.c
 *   7. fastload-plan.c fastload-window.c
 *   8. fastload-io-uring.c fastload-io-sync.c fastload-stats.c
 *      fastload-header.c fastload-workset.c
 *
 * State (state_lock; who moves it in parentheses):
 *
 *   NEW --start (owner)--> RUNNING <--reads fail/succeed (worker)--> STALLED
 *                             |                                        |
 *                             +------all placed (worker) or------------+
 *                             |      cancelled (anybody)
 *                             v
 *                          DRAINED --last worker--> CANCELLED or COMPLETED
 *                                                                |
 *                                      huge pages mended (last worker)
 *                                                                v
 *                                                             SETTLED
 *   NEW --free (owner), never started--> CANCELLED
 *
 *   NEW        no thread, nothing registered
 *   RUNNING    threads live, spans registered, pages missing
 *   STALLED    as RUNNING, but reads have failed FASTLOAD_STALL_ROUND_COUNT
 *              rounds in a row, and a thread has waited long for a page or that
 *              has lasted long
 *   DRAINED    threads leave; nothing is missing, or it was cancelled
 *   COMPLETED  one thread left, nothing registered, every page placed
 *   SETTLED    threads gone
 *   CANCELLED  threads gone, nothing registered, pages may be zero
 *
 * A worker that hangs in preadv() when the others have ended is left behind
 * FASTLOAD_DRAIN_NS_MAX after DRAINED, and counts as gone.  The thread that
 * leaves the last worker behind ends the load in its place.
 *
 * Lock order: event_lock, then state_lock or sched.lock, never both.  The
 * place_lock of an area, pool.lock, file.prefix_lock, record.lock, window.lock
 * and the lock of an eager load are taken while no other lock is held.
 * No lock is held during I/O.  Only place_lock is held during placement, only
 * event_lock during the event callback, and none during the other callbacks.
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

/* How often a thread that waits for workers looks whether to leave some. */
#define SESSION_LEAVE_POLL_US (100 * 1000)

G_DEFINE_QUARK(fastload-error-quark, fastload_error)

static const char *const session_state_names[FASTLOAD_STATE_MAX] = {
    [FASTLOAD_STATE_NEW] = "new",
    [FASTLOAD_STATE_RUNNING] = "running",
    [FASTLOAD_STATE_STALLED] = "stalled",
    [FASTLOAD_STATE_DRAINED] = "drained",
    [FASTLOAD_STATE_COMPLETED] = "completed",
    [FASTLOAD_STATE_SETTLED] = "settled",
    [FASTLOAD_STATE_CANCELLED] = "cancelled",
};

#define TO(state) (1u << FASTLOAD_STATE_##state)
static const uint32_t session_moves[FASTLOAD_STATE_MAX] = {
    [FASTLOAD_STATE_NEW] = TO(RUNNING) | TO(CANCELLED),
    [FASTLOAD_STATE_RUNNING] = TO(STALLED) | TO(DRAINED),
    [FASTLOAD_STATE_STALLED] = TO(RUNNING) | TO(DRAINED),
    [FASTLOAD_STATE_DRAINED] = TO(COMPLETED) | TO(CANCELLED),
    [FASTLOAD_STATE_COMPLETED] = TO(SETTLED),
};

/* No worker is left, nor anything that workers use; nobody waits for a page. */
static void session_check_ended_locked(const Fastload *fl)
{
    uint32_t i;

    assert(fl->uffd < 0);
    assert(!fl->live_count && !fl->pool.map);
    for (i = 0; i < fl->config.worker_count; i++) {
        const FastloadWorker *w = &fl->workers[i];

        /* One that was left in preadv() closes it one day. */
        assert(!w->io || w->has_abandoned_reads);
        /* A worker may have abandoned reads: see worker_drain(). */
        assert(!w->inflight_count || fastload_worker_is_blocking(w) ||
               __atomic_load_n(&fl->pool.is_lost, __ATOMIC_RELAXED));
    }
}

/*
 * What holds when a state is entered.  fastload_sched_check() asserts how the
 * counts of failures go together, which holds at any time.
 */
static void session_check_locked(Fastload *fl, FastloadState from)
{
    uint64_t missing_bytes = __atomic_load_n(&fl->missing_bytes,
                                             __ATOMIC_ACQUIRE);

    /* Nothing was accounted for twice. */
    assert(missing_bytes <= INT64_MAX);
    switch (fl->state) {
    case FASTLOAD_STATE_NEW:
    case FASTLOAD_STATE_MAX:
        break; /* no move leads there */
    case FASTLOAD_STATE_RUNNING:
    case FASTLOAD_STATE_STALLED:
        assert(fl->uffd >= 0 && fl->live_count == fl->config.worker_count);
        assert(!fastload_session_is_ending(fl) && !fl->complete_ns);
        break;
    case FASTLOAD_STATE_DRAINED:
        assert(fl->uffd >= 0 && fl->live_count == fl->config.worker_count);
        assert(fl->is_cancelled != (fl->complete_ns != 0));
        assert(fl->is_cancelled || !missing_bytes);
        break;
    case FASTLOAD_STATE_COMPLETED:
    case FASTLOAD_STATE_SETTLED:
        assert(!fl->is_cancelled && fl->complete_ns && !missing_bytes);
        session_check_ended_locked(fl);
        break;
    case FASTLOAD_STATE_CANCELLED:
        assert(fl->uffd < 0 && fl->is_cancelled && !fl->complete_ns);
        if (from == FASTLOAD_STATE_DRAINED) {
            session_check_ended_locked(fl); /* else: it never started */
        }
        break;
    }
}

static void session_move_locked(Fastload *fl, FastloadState to)
{
    FastloadState from = fl->state;

    assert(session_moves[from] & (1u << to));
    trace_fastload_session_moved(fl, session_state_names[from],
                                 session_state_names[to]);
    fl->state = to;
    session_check_locked(fl, from);
    g_cond_broadcast(&fl->state_cond);
}

static bool session_is_live_locked(const Fastload *fl)
{
    return fl->state == FASTLOAD_STATE_RUNNING ||
           fl->state == FASTLOAD_STATE_STALLED;
}

/* What COMPLETED promises: counted page by page, not inferred. */
static void session_check_complete(Fastload *fl)
{
    guint a, s;

    assert(__atomic_load_n(&fl->missing_bytes, __ATOMIC_ACQUIRE) == 0);
    for (a = 0; a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        for (s = 0; area->is_trapped && s < area->spans->len; s++) {
            FastloadSpan span = g_array_index(area->spans, FastloadSpan, s);
            uint64_t page = span.ram_off >> area->page_shift;
            uint64_t last = (span.ram_off + span.len_bytes) >>
                            area->page_shift;

            while (page < last) {
                if (page % FASTLOAD_BITS == 0 &&
                    last - page >= FASTLOAD_BITS) {
                    assert(__atomic_load_n(&area->placed[page / FASTLOAD_BITS],
                                           __ATOMIC_RELAXED) == ~0ull);
                    page += FASTLOAD_BITS;
                } else {
                    assert(fastload_bit_test(area->placed, page));
                    page++;
                }
            }
        }
    }
}

static void session_unregister_area(const Fastload *fl,
                                    const FastloadArea *area)
{
    guint s;

    for (s = 0; s < area->spans->len; s++) {
        FastloadSpan span = g_array_index(area->spans, FastloadSpan, s);

        fastload_uffd_unregister(fl->uffd, area->hva + span.ram_off,
                                 span.len_bytes);
    }
}

static void session_unregister(const Fastload *fl)
{
    guint a;

    for (a = 0; a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        /* For an area that is being dropped, closing uffd suffices. */
        if (area->is_trapped && !__atomic_load_n(&area->is_dropped,
                                                 __ATOMIC_ACQUIRE)) {
            session_unregister_area(fl, area);
        }
    }
}

/* Once nothing is missing, or when what is missing does not matter. */
static void session_untrap(Fastload *fl)
{
    /* fastload_drop_region() unregisters a region only while uffd is open. */
    g_mutex_lock(&fl->state_lock);
    session_unregister(fl);
    if (fl->uffd >= 0) {
        /* Closing also releases threads that unregistering could not. */
        close(fl->uffd);
        fl->uffd = -1;
    }
    g_mutex_unlock(&fl->state_lock);
}

static void session_tell(Fastload *fl, FastloadEvent event,
                         const FastloadFailure *failure)
{
    if (fl->config.event_func) {
        fl->config.event_func(event, failure, fl->config.event_opaque);
    }
}

void fastload_session_kick(FastloadWorker *w)
{
    uint64_t one = 1;

    if (write(w->kick_fd, &one, sizeof(one)) < 0) {
        /* Only EAGAIN is possible: it has been kicked 2^64 - 2 times. */
        return;
    }
}

void fastload_session_kick_all(Fastload *fl, const FastloadWorker *except)
{
    uint32_t i;

    for (i = 0; i < fl->config.worker_count; i++) {
        if (&fl->workers[i] != except) {
            fastload_session_kick(&fl->workers[i]);
        }
    }
}

static void session_end_locked(Fastload *fl)
{
    session_move_locked(fl, FASTLOAD_STATE_DRAINED);
    fl->leave_us = g_get_monotonic_time() + FASTLOAD_DRAIN_NS_MAX / 1000;
    /* pairs with the acquire in fastload_session_is_ending() */
    __atomic_store_n(&fl->is_ending, 1, __ATOMIC_RELEASE);
    fastload_session_kick_all(fl, NULL);
}

void fastload_session_drained(Fastload *fl)
{
    bool is_resumed;

    g_mutex_lock(&fl->event_lock);
    g_mutex_lock(&fl->state_lock);
    /* The last page had failed before: the scheduler did not report RESUMED. */
    is_resumed = fl->state == FASTLOAD_STATE_STALLED;
    if (session_is_live_locked(fl)) {
        fl->complete_ns = fastload_stats_now_ns();
        session_end_locked(fl);
    }
    g_mutex_unlock(&fl->state_lock);
    if (is_resumed) {
        session_tell(fl, FASTLOAD_EVENT_RESUMED, NULL);
    }
    g_mutex_unlock(&fl->event_lock);
}

static void session_move_and_tell_locked(Fastload *fl, FastloadState from,
                                         FastloadState to,
                                         FastloadEvent event,
                                         const FastloadFailure *failure)
{
    bool is_moved;

    g_mutex_lock(&fl->state_lock);
    is_moved = fl->state == from;
    if (is_moved) {
        session_move_locked(fl, to);
    }
    g_mutex_unlock(&fl->state_lock);
    if (is_moved) {
        session_tell(fl, event, failure);
    }
}

void fastload_session_stalled(Fastload *fl)
{
    FastloadFailure failure;

    g_mutex_lock(&fl->event_lock);
    /* Another worker may have read something since the caller looked. */
    if (fastload_sched_is_stalled(fl, &failure)) {
        session_move_and_tell_locked(fl, FASTLOAD_STATE_RUNNING,
                                     FASTLOAD_STATE_STALLED,
                                     FASTLOAD_EVENT_STALLED, &failure);
    }
    g_mutex_unlock(&fl->event_lock);
}

static void session_move_and_tell(Fastload *fl, FastloadState from,
                                  FastloadState to, FastloadEvent event)
{
    g_mutex_lock(&fl->event_lock);
    session_move_and_tell_locked(fl, from, to, event, NULL);
    g_mutex_unlock(&fl->event_lock);
}

void fastload_session_resumed(Fastload *fl)
{
    session_move_and_tell(fl, FASTLOAD_STATE_STALLED, FASTLOAD_STATE_RUNNING,
                          FASTLOAD_EVENT_RESUMED);
}

/* Called by each worker when its backend is open, or could not be opened. */
void fastload_session_worker_ready(FastloadWorker *w)
{
    Fastload *fl = w->fl;

    g_mutex_lock(&fl->state_lock);
    fl->ready_count++;
    if (!fl->io_fallback) {
        fl->io_fallback = w->io_refusal;
    }
    if (!w->io) {
        fl->has_open_failed = true;
    } else if (w->idx == 0) {
        fl->io_name = w->io_ops->name;
    }
    g_cond_broadcast(&fl->state_cond);
    while (fl->state == FASTLOAD_STATE_NEW) {
        g_cond_wait(&fl->state_cond, &fl->state_lock);
    }
    g_mutex_unlock(&fl->state_lock);
}

void fastload_session_io_changed(FastloadWorker *w)
{
    g_mutex_lock(&w->fl->state_lock);
    w->fl->io_name = w->io_ops->name;
    g_mutex_unlock(&w->fl->state_lock);
    /* A worker that blocks in its reads cannot serve all faults alone. */
    fastload_session_kick_all(w->fl, w);
}

/*
 * The end of a load that nobody works on any more, by one thread.  @w counts
 * what is done, and was the last to end or was left.
 */
static void session_finish(FastloadWorker *w)
{
    Fastload *fl = w->fl;
    bool is_cancelled;

    g_mutex_lock(&fl->state_lock);
    is_cancelled = fl->is_cancelled;
    g_mutex_unlock(&fl->state_lock);

    /* Nobody else uses the userfaultfd any more. */
    if (!is_cancelled) {
        session_check_complete(fl);
    }
    session_untrap(fl);
    fastload_pool_release(fl);
    if (is_cancelled) {
        fastload_record_finish(fl);
        session_move_and_tell(fl, FASTLOAD_STATE_DRAINED,
                              FASTLOAD_STATE_CANCELLED,
                              FASTLOAD_EVENT_CANCELLED);
        return;
    }
    session_move_and_tell(fl, FASTLOAD_STATE_DRAINED, FASTLOAD_STATE_COMPLETED,
                          FASTLOAD_EVENT_COMPLETED);
    fastload_record_end(fl, fastload_stats_now_ns());
    /* Before collapsing, which may take seconds: scripts wait for the file. */
    fastload_record_finish(fl);
    fastload_huge_collapse(w);
    session_move_and_tell(fl, FASTLOAD_STATE_COMPLETED, FASTLOAD_STATE_SETTLED,
                          FASTLOAD_EVENT_SETTLED);
}

/*
 * Workers that are in preadv() do not count any more: storage may never answer,
 * and nobody needs what they read.  They may still write to their staging,
 * which counts as lost.
 */
static void session_leave_readers_locked(Fastload *fl)
{
    uint32_t i;

    for (i = 0; i < fl->config.worker_count; i++) {
        FastloadWorker *w = &fl->workers[i];
        uint32_t blocked = FASTLOAD_BLOCKED_READ;

        /* Pairs with worker_poll_io(): one of both gets it. */
        if (__atomic_compare_exchange_n(&w->blocked, &blocked,
                                        FASTLOAD_BLOCKED_LEFT, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            w->has_abandoned_reads = true;
            __atomic_store_n(&fl->pool.is_lost, 1, __ATOMIC_RELAXED);
            __atomic_add_fetch(&fl->ref_count, 1, __ATOMIC_RELAXED);
            trace_fastload_reads_abandoned(fl, w->idx, w->inflight_count);
            fl->live_count--;
        }
    }
}

/*
 * Waits until a worker has ended or the state has changed.  True: this thread
 * has left the last workers behind, which do not come back from their reads,
 * and has to call session_finish().
 */
static bool session_wait_locked(Fastload *fl)
{
    if (fl->state != FASTLOAD_STATE_DRAINED || !fl->live_count) {
        g_cond_wait(&fl->state_cond, &fl->state_lock);
        return false;
    }
    g_cond_wait_until(&fl->state_cond, &fl->state_lock,
                      g_get_monotonic_time() + SESSION_LEAVE_POLL_US);
    if (g_get_monotonic_time() < fl->leave_us || !fl->live_count ||
        fl->state != FASTLOAD_STATE_DRAINED) {
        return false;
    }
    session_leave_readers_locked(fl);
    return !fl->live_count;
}

/* As session_wait_locked(), on a thread that is no worker; finishes as well. */
static void session_wait_or_finish_locked(Fastload *fl)
{
    if (session_wait_locked(fl)) {
        g_mutex_unlock(&fl->state_lock);
        session_finish(&fl->workers[0]);
        g_mutex_lock(&fl->state_lock);
    }
}

void fastload_session_worker_ended(FastloadWorker *w)
{
    Fastload *fl = w->fl;
    bool is_last;

    g_mutex_lock(&fl->state_lock);
    fl->live_count--;
    g_cond_broadcast(&fl->state_cond);
    is_last = !fl->live_count && fl->state == FASTLOAD_STATE_DRAINED;
    if (!is_last && !fl->has_awaiter) {
        fl->has_awaiter = true;
        while (fl->state == FASTLOAD_STATE_DRAINED && fl->live_count &&
               !is_last) {
            is_last = session_wait_locked(fl);
        }
        fl->has_awaiter = false;
        g_cond_broadcast(&fl->state_cond);
    }
    g_mutex_unlock(&fl->state_lock);
    if (is_last) {
        session_finish(w);
    }
}

/* What a thread that was left behind may still use. */
static void session_unref(Fastload *fl)
{
    uint32_t i;

    if (__atomic_sub_fetch(&fl->ref_count, 1, __ATOMIC_ACQ_REL)) {
        return;
    }
    for (i = 0; fl->workers && i < fl->config.worker_count; i++) {
        fastload_worker_free_reads(&fl->workers[i]);
    }
    g_free(fl->workers);
    g_free(fl);
}

void fastload_session_worker_left(FastloadWorker *w)
{
    session_unref(w->fl);
}

const char *fastload_failure_cause(const FastloadFailure *failure)
{
    switch (failure->kind) {
    case FASTLOAD_FAILURE_CHANGED:
        return "the file was changed after the load began";
    case FASTLOAD_FAILURE_READ:
        if (failure->error_number == ENODATA) {
            return "the file ends there";
        }
        break;
    case FASTLOAD_FAILURE_PLACE:
        break;
    }
    return g_strerror(failure->error_number);
}

static bool session_open_uffd(int *ret_uffd, bool *ret_has_move,
                              GError **error)
{
    FastloadUffdRefusal refusal;
    bool is_unknown;

    if (fastload_uffd_open(ret_uffd, ret_has_move, &refusal)) {
        return true;
    }
    /* A kernel without userfaultfd says this, but a seccomp filter may, too. */
    is_unknown = refusal.call_error_number == ENOSYS &&
                 refusal.device_error_number == ENOENT;
    g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_UNSUPPORTED,
                "userfaultfd cannot be opened, neither with userfaultfd(2) "
                "(%s) nor with " FASTLOAD_UFFD_DEVICE " (%s): give this user "
                "access to " FASTLOAD_UFFD_DEVICE ", or set the sysctl "
                "vm.unprivileged_userfaultfd to 1; if that is so already, a "
                "security module or a filter of system calls denies it and "
                "has to allow one of the two%s",
                g_strerror(refusal.call_error_number),
                g_strerror(refusal.device_error_number),
                is_unknown ? ", or the kernel lacks CONFIG_USERFAULTFD" : "");
    return false;
}

bool fastload_probe(GError **error)
{
    bool has_move;
    int uffd;

    if (!session_open_uffd(&uffd, &has_move, error)) {
        return false;
    }
    close(uffd);
    return true;
}

Fastload *fastload_new(int fd, const FastloadConfig *config, GError **error)
{
    static const FastloadConfig defaults;
    Fastload *fl;

    if (!config) {
        config = &defaults;
    }
    if (fd < 0) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID,
                    "the snapshot's file descriptor is not open");
        return NULL;
    }
    if (config->worker_count > FASTLOAD_WORKER_COUNT_MAX) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID,
                    "%u loader threads are more than the limit of %d",
                    config->worker_count, FASTLOAD_WORKER_COUNT_MAX);
        return NULL;
    }
    fl = g_new0(Fastload, 1);
    fl->ref_count = 1;
    fl->file.fd = fd;
    fl->file.direct_fd = -1;
    fl->uffd = -1;
    fl->crowd.fd = -1;
    fastload_window_init(&fl->window);
    fastload_record_init(&fl->record);
    fl->config = *config;
    if (!fl->config.worker_count) {
        fl->config.worker_count = 2;
    }
    if (config->io_kind != FASTLOAD_IO_AUTO) {
        fl->io_ops = config->io_kind == FASTLOAD_IO_PREADV
            ? &fastload_io_sync_ops : &fastload_io_uring_ops;
    }
    fl->areas =
        g_ptr_array_new_with_free_func((GDestroyNotify)fastload_plan_area_free);
    fl->areas_by_hva = g_ptr_array_new();
    g_mutex_init(&fl->state_lock);
    g_mutex_init(&fl->event_lock);
    g_mutex_init(&fl->pool.lock);
    g_mutex_init(&fl->file.prefix_lock);
    g_mutex_init(&fl->sched.lock);
    g_cond_init(&fl->state_cond);
    fl->file.prefix_wait_ns = FASTLOAD_PREFIX_WAIT_NS;
    fl->file.prefix_settle_ns = FASTLOAD_PREFIX_SETTLE_NS;
    fastload_file_note(fl, config);
    fl->config.ahead_ranges = NULL; /* the caller may free them */
    fl->config.ahead_range_count = 0;
    fastload_sched_rate_set(fl, fastload_stats_now_ns(),
                            config->background_bytes_per_s);
    return fl;
}

void fastload_set_io_ops(Fastload *fl, const FastloadIoOps *ops)
{
    assert(fl->state == FASTLOAD_STATE_NEW && !fl->workers);
    fl->io_ops = ops;
}

/* NULL, or what is wrong with the region. */
static const char *session_region_defect(const FastloadRegion *region)
{
    uint64_t page = region->page_bytes;
    uint64_t granule = region->granule_bytes;

    if (page < FASTLOAD_PAGE_BYTES_MIN || (page & (page - 1))) {
        return "its page size is not a power of two of at least 4096";
    }
    if (granule < FASTLOAD_PAGE_BYTES_MIN || (granule & (granule - 1)) ||
        granule > MIN(page, FASTLOAD_CHUNK_BYTES)) {
        return "its granule is not a power of two from 4096 to its page size "
               "or 2 MiB";
    }
    if (!region->len_bytes || region->len_bytes % page ||
        (uintptr_t)region->hva % page) {
        return "it is empty or not made of whole pages";
    }
    if ((uintptr_t)region->hva + region->len_bytes < (uintptr_t)region->hva) {
        return "it reaches past the end of the address space";
    }
    if (region->file_off % FASTLOAD_PAGE_BYTES_MIN ||
        region->file_off > INT64_MAX ||
        region->len_bytes > INT64_MAX - region->file_off) {
        return "its place in the file is not a multiple of 4096, or too far";
    }
    if (!region->data_bits) {
        return "it has no bitmap";
    }
    return NULL;
}

bool fastload_add_region(Fastload *fl, const FastloadRegion *region,
                         GError **error)
{
    const char *defect = session_region_defect(region);
    FastloadArea *area;
    guint i;

    assert(fl->state == FASTLOAD_STATE_NEW);
    if (!defect && fl->areas->len == FASTLOAD_REGION_COUNT_MAX) {
        defect = "there are too many regions";
    }
    for (i = 0; !defect && i < fl->areas->len; i++) {
        area = g_ptr_array_index(fl->areas, i);
        if ((uint8_t *)region->hva < area->hva + area->len_bytes &&
            area->hva < (uint8_t *)region->hva + region->len_bytes) {
            defect = "it overlaps another region";
        }
    }
    if (!defect && region->file_off < fl->config.stream_off) {
        defect = "it begins before the stream does";
    }
    if (defect) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID,
                    "the region of %" PRIu64 " bytes at file offset %" PRIu64
                    " cannot be loaded: %s", region->len_bytes,
                    region->file_off, defect);
        return false;
    }
    area = fastload_plan_area_new(region);
    fastload_stats_add(&fl->total_bytes, area->len_bytes);
    fastload_stats_add(&fl->zero_bytes, area->zero_bytes);
    g_ptr_array_add(fl->areas, area);
    return true;
}

/* The order of the background: early areas first, each kind in file order. */
static int session_by_turn(gconstpointer a, gconstpointer b)
{
    const FastloadArea *x = *(FastloadArea *const *)a;
    const FastloadArea *y = *(FastloadArea *const *)b;

    if (x->is_early != y->is_early) {
        return x->is_early ? -1 : 1;
    }
    return x->file_off < y->file_off ? -1 : x->file_off > y->file_off;
}

static int session_by_hva(gconstpointer a, gconstpointer b)
{
    const FastloadArea *x = *(FastloadArea *const *)a;
    const FastloadArea *y = *(FastloadArea *const *)b;

    return x->hva < y->hva ? -1 : x->hva > y->hva;
}

static uint32_t session_span_count_max(void)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents("/proc/sys/vm/max_map_count", &text, NULL,
                             NULL)) {
        return FASTLOAD_SPAN_COUNT_DEFAULT;
    }
    return MIN(g_ascii_strtoull(text, NULL, 10) / FASTLOAD_SPAN_SHARE,
               UINT32_MAX);
}

/*
 * Trapping parts of a mapping splits it, and the kernel merges the parts again
 * only if they share an anon_vma (its record of anonymous memory).  So the
 * mapping gets one before it is split.  UFFDIO_COPY allocates it before it
 * reads its source, and a source that cannot be read (PROT_NONE) makes it fail
 * before it places anything.  It leaves a page table behind, which would
 * prevent UFFDIO_MOVE of a huge page there: hence in a chunk that will not be
 * trapped.
 */
static void session_keep_whole(const Fastload *fl, const FastloadArea *area)
{
    uint8_t *hva = NULL;
    uint64_t done_bytes, i;
    void *nothing;
    bool has;

    for (i = 0; i < area->chunk_count && !hva; i++) {
        if (area->chunk_states[i] == FASTLOAD_CHUNK_UNTRAPPED) {
            hva = area->hva + fastload_plan_chunk_span(area, i).ram_off;
        }
    }
    if (!hva) {
        return;
    }
    nothing = mmap(NULL, area->page_bytes, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (nothing == MAP_FAILED) {
        return;
    }
    if (fastload_uffd_register(fl->uffd, hva, area->page_bytes, &has) == 0) {
        fastload_uffd_copy(fl->uffd, hva, nothing, area->page_bytes,
                           &done_bytes);
        fastload_uffd_unregister(fl->uffd, hva, area->page_bytes);
    }
    munmap(nothing, area->page_bytes);
}

/*
 * Returns 0, -EINVAL: this memory cannot be trapped, or another -errno.
 * Registers and counts nothing else: all of it may have to be undone.
 */
static int session_register_area(const Fastload *fl, FastloadArea *area)
{
    bool has_zeropage = true;
    guint s;
    int ret = 0;

    area->is_trapped = false; /* or as it was in the pass before */
    if (area->is_eager || area->page_bytes > FASTLOAD_TRAP_PAGE_BYTES_MAX) {
        return -EINVAL;
    }
    if (!area->spans->len) {
        /* All zero, so no span; but start clears what cannot be trapped. */
        bool has;

        ret = fastload_uffd_register(fl->uffd, area->hva, area->len_bytes,
                                     &has);
        /* Registering may have failed half-way. */
        fastload_uffd_unregister(fl->uffd, area->hva, area->len_bytes);
    }
    if (area->wants_huge && area->spans->len) {
        session_keep_whole(fl, area);
    }
    for (s = 0; s < area->spans->len && ret == 0; s++) {
        FastloadSpan span = g_array_index(area->spans, FastloadSpan, s);
        bool has;

        ret = fastload_uffd_register(fl->uffd, area->hva + span.ram_off,
                                     span.len_bytes, &has);
        has_zeropage = has_zeropage && ret == 0 && has;
    }
    if (ret) {
        session_unregister_area(fl, area);
        return ret;
    }
    area->is_trapped = true;
    /* In private memory UFFDIO_ZEROPAGE maps the shared zero page. */
    area->has_zeropage = has_zeropage && !area->wants_populated;
    return 0;
}

/* All areas, as planned.  Returns 0, or -errno: nothing is registered then. */
static int session_register(const Fastload *fl)
{
    guint a;

    for (a = 0; a < fl->areas->len; a++) {
        int ret = session_register_area(fl, g_ptr_array_index(fl->areas, a));

        if (ret && ret != -EINVAL) {
            session_unregister(fl);
            return ret;
        }
    }
    return 0;
}

/* Are there mappings left for the threads, their stacks, staging and rings? */
static bool session_has_mapping_room(const Fastload *fl)
{
    uint32_t count = (fl->config.worker_count + 1) *
                     FASTLOAD_WORKER_MAPPING_COUNT;
    size_t page_bytes = sysconf(_SC_PAGESIZE);
    size_t map_bytes = (count + 1) * page_bytes;
    bool has_room = true;
    uint32_t i;
    /* MAP_SHARED: the kernel does not merge it with a neighbouring mapping. */
    uint8_t *map = mmap(NULL, map_bytes, PROT_NONE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED) {
        return false;
    }
    for (i = 1; i < count && has_room; i += 2) {
        /* One mapping becomes three. */
        has_room = mprotect(map + i * page_bytes, page_bytes, PROT_READ) == 0;
    }
    munmap(map, map_bytes);
    return has_room;
}

static uint32_t session_span_count(const Fastload *fl)
{
    uint32_t count = 0;
    guint a;

    for (a = 0; a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        count += area->spans->len;
    }
    return count;
}

/*
 * Each hole that is not registered costs two mappings.  When the process has
 * too few left, everything is planned and registered again with half as many
 * spans, down to one for each area; more zero pages are trapped then.  Returns
 * 0 or -errno.
 */
static int session_plan_and_register(Fastload *fl)
{
    uint32_t count_max = session_span_count_max();
    uint32_t pass = 0;

    for (;;) {
        int ret;

        fastload_plan_spans(fl->areas, count_max);
        ret = session_register(fl);
        /* If a pass was refused, one that fits must leave some for threads. */
        if (ret == 0 && pass && count_max && !session_has_mapping_room(fl)) {
            session_unregister(fl);
            ret = -ENOMEM;
        }
        if (ret != -ENOMEM || count_max == 0 ||
            ++pass == FASTLOAD_TRAP_PASS_COUNT_MAX) {
            return ret;
        }
        count_max = MIN(count_max, session_span_count(fl)) / 2;
        trace_fastload_spans_widened(fl, pass, session_span_count(fl),
                                     count_max);
    }
}

/* Prepares an area for loading, after the kernel has registered all areas. */
static void session_arm_area(Fastload *fl, FastloadArea *area)
{
    guint s;

    area->claimed = g_new0(uint64_t, FASTLOAD_BIT_WORDS(area->page_count));
    area->placed = g_new0(uint64_t, FASTLOAD_BIT_WORDS(area->page_count));
    for (s = 0; s < area->spans->len; s++) {
        fastload_stats_add(&fl->missing_bytes,
                           g_array_index(area->spans, FastloadSpan,
                                         s).len_bytes);
    }
    fl->urgent_bytes = MAX(fl->urgent_bytes, area->page_bytes);
    if (!area->has_zeropage) {
        fl->zeros_bytes = MAX(fl->zeros_bytes,
                              MAX(area->page_bytes, FASTLOAD_PIECE_BYTES));
    }
    g_ptr_array_add(fl->areas_by_hva, area);
}

static bool session_trap(Fastload *fl, GError **error)
{
    guint a;
    int ret;

    g_ptr_array_sort(fl->areas, session_by_turn);
    ret = session_plan_and_register(fl);
    if (ret) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "cannot register guest memory with userfaultfd: %s%s",
                    g_strerror(-ret), ret == -ENOMEM
                    ? ": raise the sysctl vm.max_map_count if no mapping is "
                      "left" : "");
        return false;
    }
    for (a = 0; a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);
        FastloadFailure failure;

        trace_fastload_plan_made(fl, area->hva, area->len_bytes,
                                 area->zero_bytes, area->spans->len,
                                 area->is_trapped);
        if (area->is_trapped) {
            session_arm_area(fl, area);
        } else if (!fastload_eager_load(fl, area, &failure)) {
            g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_READ,
                        "cannot read the snapshot at file offset %" PRIu64
                        ": %s", failure.file_off,
                        fastload_failure_cause(&failure));
            return false;
        }
    }
    g_ptr_array_sort(fl->areas_by_hva, session_by_hva);
    return true;
}

/* The backend that every worker tries; a worker may still fall back. */
static const FastloadIoOps *session_choose_io(Fastload *fl)
{
    FastloadIoSetup setup = {
        .fd = fl->file.fd,
        .direct_fd = -1,
        .watch_fds = { -1, -1 },
        .req_count_max = 1,
    };
    const char *refusal = NULL;
    FastloadIo *io = fastload_io_uring_ops.open(&setup, &refusal);

    if (io) {
        /* io_uring_setup() may be permitted and io_uring_enter() not. */
        if (!fastload_io_uring_ops.poll(io, 0, false)) {
            refusal = "io_uring can be set up here, but not used";
        }
        fastload_io_uring_ops.close(io);
    }
    g_mutex_lock(&fl->state_lock);
    fl->io_fallback = refusal;
    g_mutex_unlock(&fl->state_lock);
    return refusal ? &fastload_io_sync_ops : &fastload_io_uring_ops;
}

static void session_size_staging(Fastload *fl)
{
    fl->active_count = MIN(fl->config.worker_count,
                         MAX(g_get_num_processors(), 2));
    fl->urgent_bytes = MAX(fl->urgent_bytes, FASTLOAD_PAGE_BYTES_MIN);
    fl->urgent_read_count = CLAMP(FASTLOAD_URGENT_STAGING_BYTES_MAX /
                                  fl->urgent_bytes, 1,
                                  FASTLOAD_URGENT_READ_COUNT_MAX);
    if (fl->io_ops->is_blocking) {
        /* One read at a time anyway: leave the rest to other workers. */
        fl->urgent_read_count = 1;
        fl->active_count = fl->config.worker_count;
    }
    if (fl->hints.set) {
        fl->hint_read_count = fl->io_ops->is_blocking
            ? 1 : FASTLOAD_HINT_READ_COUNT_MAX;
    }
    fl->pool.read_count = fl->io_ops->is_blocking
        ? MIN(fl->config.worker_count, FASTLOAD_POOL_READ_COUNT)
        : FASTLOAD_POOL_READ_COUNT;
    if (fl->zeros_bytes) {
        fl->zeros = g_malloc0(fl->zeros_bytes);
    }
}

GThread *fastload_session_thread(const char *name, GThreadFunc main_func,
                                 void *opaque, GError **error)
{
    sigset_t all, old;
    GThread *thread;

    /* Signals are the business of the program, not of its loader. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    thread = g_thread_try_new(name, main_func, opaque, error);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return thread;
}

/* Waits until each thread has opened its backend, or failed to. */
static void session_await_workers(Fastload *fl)
{
    g_mutex_lock(&fl->state_lock);
    while (fl->ready_count < fl->live_count) {
        g_cond_wait(&fl->state_cond, &fl->state_lock);
    }
    g_mutex_unlock(&fl->state_lock);
}

/*
 * The first worker serves faults and reads ahead, so it opens its ring before
 * the others do.  If it could not, rings of others would be of no use: all
 * workers read with preadv().  No other thread has begun yet.
 */
static void session_follow_first(Fastload *fl)
{
    if (!fl->io_ops->is_blocking &&
        fastload_worker_is_blocking(&fl->workers[0])) {
        fl->io_ops = &fastload_io_sync_ops;
        fl->active_count = fl->config.worker_count;
    }
}

static bool session_create_threads(Fastload *fl, GError **error)
{
    GError *cause = NULL;
    uint32_t i;

    for (i = 0; i < fl->config.worker_count && !cause; i++) {
        g_autofree char *name = g_strdup_printf("fastload-%u", i);
        FastloadWorker *w = &fl->workers[i];

        w->thread = fastload_session_thread(name, fastload_worker_main, w,
                                            &cause);
        g_mutex_lock(&fl->state_lock);
        fl->live_count += w->thread ? 1 : 0;
        g_mutex_unlock(&fl->state_lock);
        if (i == 0 && w->thread) {
            session_await_workers(fl);
            session_follow_first(fl);
        }
    }
    session_await_workers(fl);
    if (cause) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "cannot create a loader thread: %s", cause->message);
        g_error_free(cause);
        return false;
    }
    return true;
}

static bool session_spawn(Fastload *fl, GError **error)
{
    uint32_t i;

    if (!fastload_pool_prepare(fl, error)) {
        return false;
    }
    fl->workers = g_new0(FastloadWorker, fl->config.worker_count);
    for (i = 0; i < fl->config.worker_count; i++) {
        fl->workers[i].fl = fl;
        fl->workers[i].idx = i;
        fl->workers[i].kick_fd = -1;
    }
    for (i = 0; i < fl->config.worker_count; i++) {
        if (!fastload_worker_prepare(&fl->workers[i], error)) {
            return false;
        }
    }
    if (!session_create_threads(fl, error)) {
        return false;
    }
    if (fl->has_open_failed && fl->config.io_kind == FASTLOAD_IO_AUTO) {
        /* preadv needs nothing else. */
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "a loader thread cannot allocate memory: raise the limit "
                    "that it has met, for example the sysctl "
                    "vm.max_map_count");
        return false;
    }
    if (fl->has_open_failed) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "the read backend \"%s\" cannot be used: %s",
                    fl->io_ops->name, fl->io_fallback);
        return false;
    }
    return true;
}

bool fastload_start(Fastload *fl, GError **error)
{
    assert(fl->state == FASTLOAD_STATE_NEW && !fl->workers);
    fl->start_ns = fastload_stats_now_ns();
    fastload_window_expect(&fl->window, fl->file.try_ns, fl->start_ns);
    /* Devices are about to load and to touch memory: expect faults. */
    fl->sched.last_fault_ns = fl->start_ns;
    if (!fl->areas->len) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID,
                    "there is no memory to load");
        return false;
    }
    if (!session_open_uffd(&fl->uffd, &fl->has_move, error)) {
        return false;
    }
    /*
     * The kernel's readahead (8 MiB is not unusual) would put megabytes in
     * front of every urgent read.  The engine decides what to read ahead.
     */
    posix_fadvise(fl->file.fd, 0, 0, POSIX_FADV_RANDOM);
    fastload_file_prepare(fl);
    if (!session_trap(fl, error)) {
        session_untrap(fl);
        return false;
    }
    fastload_huge_prepare(fl);
    fastload_sched_prepare(fl);
    fastload_hints_prepare(fl);
    if (!fl->io_ops) {
        fl->io_ops = session_choose_io(fl);
    }
    session_size_staging(fl);
    if (!session_spawn(fl, error)) {
        session_untrap(fl);
        return false;
    }
    fastload_record_start(fl, fastload_session_thread);
    g_mutex_lock(&fl->state_lock);
    if (fl->state == FASTLOAD_STATE_NEW) {
        session_move_locked(fl, FASTLOAD_STATE_RUNNING);
        if (fl->is_cancelled || !fl->missing_bytes) {
            fl->complete_ns = fl->is_cancelled ? 0 : fastload_stats_now_ns();
            session_end_locked(fl);
        }
    }
    g_mutex_unlock(&fl->state_lock);
    return true;
}

bool fastload_wait(Fastload *fl, GError **error)
{
    bool is_completed;

    g_mutex_lock(&fl->state_lock);
    while (fl->state < FASTLOAD_STATE_COMPLETED) {
        session_wait_or_finish_locked(fl);
    }
    is_completed = fl->state != FASTLOAD_STATE_CANCELLED;
    g_mutex_unlock(&fl->state_lock);
    if (!is_completed) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_CANCELLED,
                    "the load was cancelled");
    }
    return is_completed;
}

/* Waits for the last event, and for all threads but those that are stuck. */
static void session_await_end(Fastload *fl)
{
    g_mutex_lock(&fl->state_lock);
    /* Nobody joins a thread that has abandoned reads: so not before it left. */
    while (fl->live_count || fl->has_awaiter ||
           (fl->state != FASTLOAD_STATE_SETTLED &&
            fl->state != FASTLOAD_STATE_CANCELLED)) {
        session_wait_or_finish_locked(fl);
    }
    g_mutex_unlock(&fl->state_lock);
    /* The thread that tells the last event holds it meanwhile. */
    g_mutex_lock(&fl->event_lock);
    g_mutex_unlock(&fl->event_lock);
}

void fastload_settle(Fastload *fl)
{
    uint32_t i;

    if (!fl->workers) {
        return;
    }
    session_await_end(fl);
    for (i = 0; i < fl->config.worker_count; i++) {
        FastloadWorker *w = &fl->workers[i];

        if (w->thread && w->has_abandoned_reads) {
            /*
             * The kernel ends this thread when its reads have returned, or it
             * ends itself then (FASTLOAD_BLOCKED_LEFT).  That may be never.  It
             * touches nothing of the load any more.
             */
            g_thread_unref(w->thread);
        } else if (w->thread) {
            g_thread_join(w->thread);
        }
        w->thread = NULL;
    }
}

bool fastload_is_settled(Fastload *fl)
{
    bool is_settled;

    g_mutex_lock(&fl->state_lock);
    is_settled = fl->state == FASTLOAD_STATE_SETTLED ||
                 fl->state == FASTLOAD_STATE_CANCELLED;
    g_mutex_unlock(&fl->state_lock);
    return is_settled;
}

void fastload_cancel(Fastload *fl)
{
    __atomic_store_n(&fl->is_unwanted, 1, __ATOMIC_RELAXED);
    g_mutex_lock(&fl->state_lock);
    if (session_is_live_locked(fl)) {
        fl->is_cancelled = true;
        session_end_locked(fl);
    } else if (fl->state == FASTLOAD_STATE_NEW) {
        fl->is_cancelled = true;
    }
    g_mutex_unlock(&fl->state_lock);
}

/* Workers that sleep until something is due must check again: it may be now. */
static void session_look_again(Fastload *fl)
{
    g_mutex_lock(&fl->state_lock);
    if (session_is_live_locked(fl)) {
        fastload_session_kick_all(fl, NULL);
    }
    g_mutex_unlock(&fl->state_lock);
}

/* Sets the placed bits that are not set, and adds up what they stand for. */
static void session_give_up_pages(FastloadArea *area, FastloadSpan span,
                                  uint64_t *data_bytes, uint64_t *all_bytes)
{
    uint64_t page = span.ram_off >> area->page_shift;
    uint64_t last = (span.ram_off + span.len_bytes) >> area->page_shift;

    for (; page < last; page++) {
        if (!fastload_bit_test_and_set(area->placed, page)) {
            *all_bytes += area->page_bytes;
            *data_bytes += fastload_plan_page_has_data(area, page)
                           ? area->page_bytes : 0;
        }
    }
}

static void session_drop_area_locked(Fastload *fl, FastloadArea *area,
                                     uint64_t *all_bytes)
{
    uint64_t data_bytes = 0;
    guint s;

    /*
     * The kernel wakes waiting threads and then unregisters.  A fault that only
     * takes the lock of its mapping (Linux 6.7) may begin to wait in between,
     * so they are woken once more, while uffd is still open.
     */
    session_unregister_area(fl, area);
    fastload_uffd_wake(fl->uffd, area->hva, area->len_bytes);
    for (s = 0; s < area->spans->len; s++) {
        session_give_up_pages(area,
                              g_array_index(area->spans, FastloadSpan, s),
                              &data_bytes, all_bytes);
    }
    __atomic_sub_fetch(&fl->total_bytes, data_bytes, __ATOMIC_RELAXED);
}

void fastload_drop_region(Fastload *fl, void *hva)
{
    FastloadArea *area = fastload_fault_find_area(fl, hva);
    uint64_t all_bytes = 0;

    if (!area || area->hva != hva ||
        __atomic_load_n(&area->is_dropped, __ATOMIC_RELAXED)) {
        return;
    }
    /*
     * Waits for workers that are placing here now; those that come later see
     * the flag.  A placement may wait for memory, so this holds no other lock.
     */
    __atomic_store_n(&area->is_dropped, 1, __ATOMIC_RELEASE);
    g_rw_lock_writer_lock(&area->place_lock);
    g_rw_lock_writer_unlock(&area->place_lock);
    g_mutex_lock(&fl->state_lock);
    /* Else the load has ended, and nothing is trapped any more. */
    if (fl->uffd >= 0) {
        session_drop_area_locked(fl, area, &all_bytes);
    }
    g_mutex_unlock(&fl->state_lock);
    trace_fastload_region_dropped(fl, hva, all_bytes);
    if (all_bytes && __atomic_sub_fetch(&fl->missing_bytes, all_bytes,
                                        __ATOMIC_ACQ_REL) == 0) {
        fastload_session_drained(fl);
    } else if (fastload_record_is_on(fl)) {
        session_look_again(fl); /* nobody may be waited for any more */
    }
}

bool fastload_is_loaded(Fastload *fl, const void *hva, uint64_t len_bytes)
{
    FastloadArea *area = fastload_fault_find_area(fl, hva);
    uint64_t begin, end;
    guint s;

    /* Areas that start has loaded are not found: they are all there. */
    if (!area || __atomic_load_n(&area->is_dropped, __ATOMIC_ACQUIRE)) {
        return true;
    }
    begin = (const uint8_t *)hva - area->hva;
    end = begin + len_bytes;
    for (s = 0; s < area->spans->len; s++) {
        FastloadSpan *span = &g_array_index(area->spans, FastloadSpan, s);
        uint64_t off = MAX(begin / area->page_bytes * area->page_bytes,
                           span->ram_off);
        uint64_t off_end = MIN(end, span->ram_off + span->len_bytes);

        for (; off < off_end; off += area->page_bytes) {
            if (!fastload_bit_test(area->placed, off >> area->page_shift)) {
                return false;
            }
        }
    }
    return true;
}

FastloadWanted fastload_want(Fastload *fl, const void *hva)
{
    FastloadArea *area = fastload_fault_find_area(fl, hva);
    FastloadFault fault = { .area = area, .begin_ns = fastload_stats_now_ns() };

    if (!area || fastload_is_loaded(fl, hva, 1)) {
        return FASTLOAD_WANTED_THERE;
    }
    fault.page_idx = ((const uint8_t *)hva - area->hva) >> area->page_shift;
    trace_fastload_page_wanted(fl, (uintptr_t)hva);
    __atomic_store_n(&fl->sched.last_fault_ns, fault.begin_ns,
                     __ATOMIC_RELAXED);
    if (fastload_record_is_on(fl)) {
        fastload_record_touch(fl, area, fault.page_idx, fault.begin_ns);
    }
    if (!fastload_sched_push_fault(fl, &fault)) {
        return FASTLOAD_WANTED_BUSY;
    }
    if (fl->hints.set) {
        fastload_hints_touch(fl, area, fault.page_idx);
    }
    /* All: the one that minds the faults may be kept by storage that hangs. */
    fastload_session_kick_all(fl, NULL);
    return FASTLOAD_WANTED_QUEUED;
}

void fastload_set_background_rate(Fastload *fl, uint64_t bytes_per_s)
{
    fastload_sched_rate_set(fl, fastload_stats_now_ns(), bytes_per_s);
    session_look_again(fl);
}

void fastload_guest_runs(Fastload *fl)
{
    uint64_t never_ns = 0;

    if (__atomic_compare_exchange_n(&fl->record.guest_ns, &never_ns,
                                    fastload_stats_now_ns(), false,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        session_look_again(fl);
    }
}

bool fastload_recover(Fastload *fl, int fd, GError **error)
{
    if (fd < 0) {
        fastload_file_accept(fl);
    } else if (!fastload_file_replace(fl, fd, error)) {
        return false;
    }
    fastload_sched_retry_now(fl);
    fastload_session_resumed(fl);
    session_look_again(fl);
    return true;
}

/* Are the workers there, and is memory trapped? */
static bool session_is_trapped(Fastload *fl)
{
    bool is_trapped;

    g_mutex_lock(&fl->state_lock);
    is_trapped = fl->state != FASTLOAD_STATE_NEW && fl->workers &&
                 fl->state < FASTLOAD_STATE_COMPLETED;
    g_mutex_unlock(&fl->state_lock);
    return is_trapped;
}

/* For how long the first worker has not looked for faults; 0: not for long. */
static uint64_t session_silent_ns(const Fastload *fl, uint64_t now_ns)
{
    uint64_t awake_ns = __atomic_load_n(&fl->workers[0].awake_ns,
                                        __ATOMIC_RELAXED);
    uint64_t silent_ns = awake_ns && now_ns > awake_ns ? now_ns - awake_ns : 0;

    return silent_ns >= FASTLOAD_SILENT_NS_MIN ? silent_ns : 0;
}

uint64_t fastload_silent_ns(Fastload *fl)
{
    return session_is_trapped(fl)
        ? session_silent_ns(fl, fastload_stats_now_ns()) : 0;
}

uint64_t fastload_oldest_fault_ns(Fastload *fl)
{
    uint64_t begin_ns, now_ns, age_ns = 0;

    if (!session_is_trapped(fl)) {
        return 0;
    }
    begin_ns = fastload_sched_oldest_fault_ns(fl);
    now_ns = fastload_stats_now_ns();
    if (begin_ns) {
        /* At least 1, for 0 means that nobody waits. */
        age_ns = now_ns > begin_ns ? now_ns - begin_ns : 1;
    }
    return MAX(age_ns, session_silent_ns(fl, now_ns));
}

static void session_get_workset(Fastload *fl, bool is_complete,
                                FastloadWorksetStats *ret_stats)
{
    /* pairs with the release in fastload_hints_use() */
    if (!__atomic_load_n(&fl->hints.set, __ATOMIC_ACQUIRE)) {
        fastload_record_stats(fl, ret_stats);
        return;
    }
    fastload_hints_stats(fl, ret_stats);
    if (is_complete) {
        /* All pages are there, whichever read brought them. */
        ret_stats->state = FASTLOAD_WORKSET_REPLAYED;
    }
}

void fastload_get_stats(Fastload *fl, FastloadStats *ret_stats)
{
    g_autofree FastloadCounters *sum = g_new0(FastloadCounters, 1);
    FastloadStats stats = {
        .worker_count = fl->config.worker_count,
        .total_bytes = __atomic_load_n(&fl->total_bytes, __ATOMIC_RELAXED),
        .zero_bytes = __atomic_load_n(&fl->zero_bytes, __ATOMIC_RELAXED),
        .remaining_bytes = __atomic_load_n(&fl->missing_bytes,
                                           __ATOMIC_ACQUIRE),
        .has_mtime_moved = __atomic_load_n(&fl->file.has_mtime_moved,
                                           __ATOMIC_RELAXED),
    };
    uint64_t eager_bytes = __atomic_load_n(&fl->eager_bytes,
                                           __ATOMIC_RELAXED);
    bool has_workers, is_complete;
    uint32_t i;

    g_mutex_lock(&fl->state_lock);
    /* In state NEW, start may be about to create them. */
    has_workers = fl->state != FASTLOAD_STATE_NEW && fl->workers;
    stats.io_name = fl->io_name ? fl->io_name : "none";
    stats.io_fallback = fl->io_fallback;
    is_complete = fl->complete_ns;
    stats.complete_ns = is_complete ? fl->complete_ns - fl->start_ns : 0;
    g_mutex_unlock(&fl->state_lock);
    for (i = 0; has_workers && i < fl->config.worker_count; i++) {
        fastload_stats_sum(&fl->workers[i].counters, sum);
        stats.preadv_count += fastload_worker_is_blocking(&fl->workers[i]);
    }
    stats.oldest_fault_ns = fastload_oldest_fault_ns(fl);
    memcpy(stats.loaded_bytes, sum->loaded_bytes, sizeof(sum->loaded_bytes));
    stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND] += eager_bytes;
    stats.read_bytes = sum->read_bytes +
                       __atomic_load_n(&fl->eager_read_bytes,
                                       __ATOMIC_RELAXED);
    stats.moved_bytes = sum->moved_bytes;
    stats.collapsed_bytes = sum->collapsed_bytes;
    session_get_workset(fl, is_complete, &stats.workset);
    stats.hint_count = sum->hint_count;
    stats.fault_count = sum->fault_count;
    stats.retry_count = sum->retry_count;
    stats.io_error_count = sum->io_error_count;
    stats.fault_max_ns = sum->fault_max_ns;
    stats.fault_p50_ns = fastload_stats_percentile_ns(sum->hist, 500,
                                                      sum->fault_max_ns);
    stats.fault_p95_ns = fastload_stats_percentile_ns(sum->hist, 950,
                                                      sum->fault_max_ns);
    stats.fault_p99_ns = fastload_stats_percentile_ns(sum->hist, 990,
                                                      sum->fault_max_ns);
    *ret_stats = stats;
}

void fastload_free(Fastload *fl)
{
    uint32_t i;

    if (!fl) {
        return;
    }
    fastload_cancel(fl);
    g_mutex_lock(&fl->state_lock);
    if (fl->state == FASTLOAD_STATE_NEW) {
        /* Threads of a failed start wait for the state to change. */
        __atomic_store_n(&fl->is_ending, 1, __ATOMIC_RELEASE);
        session_move_locked(fl, FASTLOAD_STATE_CANCELLED);
    }
    g_mutex_unlock(&fl->state_lock);
    fastload_settle(fl);
    for (i = 0; fl->workers && i < fl->config.worker_count; i++) {
        fastload_worker_release(&fl->workers[i]);
    }
    fastload_pool_release(fl);
    fastload_file_forget(fl);
    fastload_retry_clear(&fl->retry);
    fastload_record_clear(&fl->record);
    fastload_hints_clear(&fl->hints);
    g_free(fl->zeros);
    g_ptr_array_free(fl->areas_by_hva, true);
    g_ptr_array_free(fl->areas, true);
    if (fl->uffd >= 0) {
        close(fl->uffd);
    }
    if (fl->file.direct_fd >= 0) {
        close(fl->file.direct_fd);
    }
    g_cond_clear(&fl->state_cond);
    g_mutex_clear(&fl->state_lock);
    g_mutex_clear(&fl->event_lock);
    fastload_crowd_close(&fl->crowd);
    fastload_window_clear(&fl->window);
    g_mutex_clear(&fl->pool.lock);
    g_mutex_clear(&fl->file.prefix_lock);
    g_mutex_clear(&fl->sched.lock);
    session_unref(fl);
}
