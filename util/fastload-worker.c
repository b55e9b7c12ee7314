/*
 * fastload worker: take, read, place, repeat.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One thread with its own ring, counters and staging for urgent reads, all
 * allocated before the load starts.  Each turn of the loop looks for urgent
 * work first and places at most one piece of background data, so that an urgent
 * page waits for FASTLOAD_PIECE_BYTES of copying at the most, or for one huge
 * page of staging where chunks are moved; and while the guest faults, the
 * first of several workers begins none of that and leaves it to the others.
 * What of a working set is read in pieces smaller than a chunk is placed by the
 * worker that reads it, one read a turn: that takes as long as an urgent read,
 * and to hand it on would cost as much as to place it.
 * A read that fails is tried again here FASTLOAD_READ_TRIES_MAX times, not
 * counting one that io_uring had no memory for, which preadv does at once; then
 * its claim is given up and the scheduler brings it back later.  Before a read
 * is placed the file is looked at: what came from one that has changed counts
 * as failed.  A ring that stops working is left for preadv.
 */
#include "qemu/osdep.h"
#include <sys/eventfd.h>
#include <sys/resource.h>
#include "trace.h"
#include "qemu/fastload_int.h"

/* A guess that was wrong is made again after so many pages. */
#define WORKER_GUESS_SHARE 64
/* How often an ending worker looks whether its last reads are back. */
#define WORKER_DRAIN_POLL_NS (100 * 1000 * 1000ll)

static void worker_urgent_free(FastloadWorker *w, FastloadRead *read)
{
    read->next = w->free_urgent;
    w->free_urgent = read;
}

static void worker_hint_free(FastloadWorker *w, FastloadRead *read)
{
    read->next = w->free_hints;
    w->free_hints = read;
}

static void worker_req_free(FastloadWorker *w, FastloadIoReq *req)
{
    req->next = w->free_reqs;
    w->free_reqs = req;
}

static uint32_t worker_req_count(const Fastload *fl)
{
    return fl->urgent_read_count + FASTLOAD_AHEAD_COUNT_MAX;
}

static void worker_lay_out_reads(FastloadWorker *w)
{
    Fastload *fl = w->fl;
    uint32_t i;

    for (i = 0; i < fl->urgent_read_count; i++) {
        FastloadRead *read = &w->reads[i];

        read->class = FASTLOAD_CLASS_URGENT;
        read->extents = w->extents + i * FASTLOAD_EXTENT_COUNT_MAX;
        worker_urgent_free(w, read);
    }
    for (i = 0; i < fl->hint_read_count; i++) {
        FastloadRead *read = &w->reads[fl->urgent_read_count + i];

        read->class = FASTLOAD_CLASS_HINT;
        read->extents = w->extents + (fl->urgent_read_count + i) *
                                     FASTLOAD_EXTENT_COUNT_MAX;
        read->buf = w->staging + w->urgent_staging_bytes +
                    (size_t)i * FASTLOAD_HINT_BYTES_MAX;
        worker_hint_free(w, read);
    }
    for (i = 0; i < worker_req_count(fl); i++) {
        worker_req_free(w, &w->reqs[i]);
    }
}

bool fastload_worker_prepare(FastloadWorker *w, GError **error)
{
    Fastload *fl = w->fl;
    uint32_t read_count = fl->urgent_read_count + fl->hint_read_count;

    w->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->kick_fd < 0) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "cannot create an eventfd for a loader thread: %s",
                    g_strerror(errno));
        return false;
    }
    w->page_staging_bytes = (size_t)fl->urgent_read_count * fl->urgent_bytes;
    w->urgent_staging_bytes = w->page_staging_bytes +
        (size_t)fl->urgent_read_count * FASTLOAD_AROUND_BYTES_MAX;
    w->staging_bytes = w->urgent_staging_bytes +
        (size_t)fl->hint_read_count * FASTLOAD_HINT_BYTES_MAX;
    /* The spare costs no memory unless it is used. */
    w->staging = fastload_pool_map(2 * w->staging_bytes, error);
    if (!w->staging) {
        return false;
    }
    w->reads = g_new0(FastloadRead, read_count);
    w->extents = g_new0(FastloadSpan, read_count * FASTLOAD_EXTENT_COUNT_MAX);
    w->reqs = g_new0(FastloadIoReq, worker_req_count(fl));
    worker_lay_out_reads(w);
    return true;
}

void fastload_worker_release(FastloadWorker *w)
{
    if (w->staging) {
        fastload_pool_unmap(w->fl, w->staging, 2 * w->staging_bytes);
    }
    if (w->kick_fd >= 0) {
        close(w->kick_fd);
    }
    g_free(w->reads);
    g_free(w->extents);
    g_free(w->reqs);
}

static void worker_open_io(FastloadWorker *w, const FastloadIoOps *ops)
{
    Fastload *fl = w->fl;
    FastloadIoSetup setup = {
        .fd = fl->file.fd,
        .direct_fd = fl->file.direct_fd,
        .watch_fds = {
            [FASTLOAD_IO_WATCH_FAULTS] = fl->uffd,
            [FASTLOAD_IO_WATCH_KICKS] = w->kick_fd,
        },
        .is_ready = w->is_ready,
        .staging = w->staging,
        /*
         * Pinning the chunks too would cost more at start than it saves, and
         * what is pinned cannot be moved.
         */
        .fixed_bytes = w->page_staging_bytes,
        .req_count_max = worker_req_count(fl),
    };

    w->io = ops->open(&setup, &w->io_refusal);
    if (!w->io && fl->config.io_kind == FASTLOAD_IO_AUTO) {
        const char *ignored;

        ops = &fastload_io_sync_ops;
        w->io = ops->open(&setup, &ignored);
    }
    __atomic_store_n(&w->io_ops, ops, __ATOMIC_RELAXED);
    /* What another backend has seen is not told any more. */
    memset(w->is_ready, true, sizeof(w->is_ready));
}

/*
 * Is @watch worth a read?  Asked just before one: what comes after that is
 * told anew.
 */
static bool worker_take_ready(FastloadWorker *w, FastloadIoWatch watch)
{
    bool is_ready = w->is_ready[watch] || !w->io_ops->tells_ready;

    w->is_ready[watch] = false;
    return is_ready;
}

/* Was @read read from the file that was handed over, as it was then? */
static void worker_check_file(FastloadWorker *w, FastloadRead *read)
{
    FastloadFileState state = read->extent_count
        ? fastload_file_check(w->fl, read->file_generation)
        : FASTLOAD_FILE_SAME;
    uint64_t file_off = read->area->file_off + read->span.ram_off;

    if (state == FASTLOAD_FILE_SAME) {
        return;
    }
    read->is_replaced = state == FASTLOAD_FILE_REPLACED;
    fastload_stats_add(&w->counters.io_error_count,
                       !read->is_replaced && !read->error);
    if (state == FASTLOAD_FILE_UNKNOWN) {
        fastload_read_fail(read, FASTLOAD_FAILURE_READ, -EAGAIN, file_off);
        return;
    }
    /* Also where it failed: this is why, as a rule. */
    read->error = 0;
    fastload_read_fail(read, FASTLOAD_FAILURE_CHANGED, -ESTALE, file_off);
}

/*
 * What a request takes of the window.  Where many are small, as those of a
 * working set are, it is their number that the storage minds: each counts as
 * much as what is read over to save one.
 */
static uint32_t worker_ahead_bytes(const FastloadIoReq *req)
{
    return req->read->is_pooled ? req->len_bytes
                                : MAX(req->len_bytes, FASTLOAD_GAP_BYTES_MAX);
}

/* Queues the next request of @read, at most @bytes_max long. */
static void worker_issue_req(FastloadWorker *w, FastloadRead *read,
                             uint32_t bytes_max)
{
    FastloadIoReq *req = w->free_reqs;

    assert(req);
    w->free_reqs = req->next;
    fastload_read_cut(read, bytes_max, req);
    w->inflight_count++;
    if (!req->is_urgent) {
        fastload_window_begin(&w->fl->window, req, fastload_stats_now_ns());
        w->ahead_bytes += worker_ahead_bytes(req);
        w->ahead_count++;
    }
    req->is_queued = true;
    w->io_ops->queue(w->io, req);
}

/*
 * Who got a page may be at the next one already: where that was so the last
 * time, a look without being told saves the call that would tell.  Where not,
 * it is tried again after WORKER_GUESS_SHARE pages.
 */
static void worker_guess_fault(FastloadWorker *w)
{
    if (w->unguessed_count) {
        w->unguessed_count--;
    } else if (!w->is_ready[FASTLOAD_IO_WATCH_FAULTS]) {
        w->is_ready[FASTLOAD_IO_WATCH_FAULTS] = w->is_guessing = true;
    }
}

static bool worker_take_faults(FastloadWorker *w)
{
    bool has_new = worker_take_ready(w, FASTLOAD_IO_WATCH_FAULTS) &&
                   fastload_fault_drain(w);

    if (w->is_guessing && !has_new) {
        w->unguessed_count = WORKER_GUESS_SHARE;
    }
    w->is_guessing = false;
    return has_new;
}

static void worker_urgent_finish(FastloadWorker *w, FastloadRead *read)
{
    uint64_t now_ns;

    fastload_read_move(read, FASTLOAD_READ_PLACING);
    worker_check_file(w, read);
    if (!read->error) {
        fastload_place_page(w, read);
    }
    now_ns = fastload_stats_now_ns();
    if (!read->error) {
        fastload_stats_fault_done(&w->counters, now_ns - read->begin_ns);
        worker_guess_fault(w);
        fastload_place_around(w, read);
    }
    w->outcomes |= fastload_sched_read_done(w->fl, read, now_ns);
    /* It wakes; by then the queue knows again what has failed. */
    fastload_read_release_around(w->fl, read);
    if (read->error) {
        w->outcomes |= FASTLOAD_OUTCOME_DELAYED;
    }
    fastload_read_move(read, FASTLOAD_READ_FRESH);
    worker_urgent_free(w, read);
}

/*
 * What a worker may do in a turn, decided once: what it begins and how long it
 * sleeps both go by it, so they cannot disagree.
 */
typedef struct WorkerTurn {
    uint64_t now_ns;
    /*
     * From when on the guest no longer counts as faulting, and more may be
     * done; UINT64_MAX when that is so already.
     */
    uint64_t quiet_ns;
    bool serves_faults; /* answers faults */
    bool may_read;      /* reads ahead */
    bool may_hint;      /* reads pages of a working set, one at a time */
    bool may_place;     /* places in the background, and renews staging */
    uint32_t around_bytes; /* how long an urgent read may be */
    uint64_t window_bytes; /* of it in flight at most */
} WorkerTurn;

/*
 * Several workers share the work out.  The first one minds the faults and reads
 * ahead: that keeps a device busy and takes hardly any processor time, so the
 * worker is free when a fault or an urgent read comes.  The others place what
 * it reads and make new staging.  Where reading is itself work for a processor
 * (the page cache, preadv), they read as well, and while the guest faults the
 * first one only minds the faults.  While the guest does not fault all do
 * everything.
 *
 * If several waited for each fault, all but one would be woken for nothing and
 * take a processor from the guest just when it needs one; one of them might be
 * in the middle of something long when the read is back.  So others help only
 * when the first one is kept busy by reading, or has no room.
 *
 * A guest whose working set is replayed hardly faults.  It counts as faulting
 * for FASTLOAD_HINT_CALM_NS all the same, or the first worker, which is not
 * nice, would compete with it for a processor just when it has much to do.
 *
 * Placing is work for a processor: workers beyond the number of processors
 * would only take the guest's turn, so they do nothing but help with faults.
 */
static WorkerTurn worker_turn_of(const FastloadWorker *w, uint64_t now_ns)
{
    Fastload *fl = w->fl;
    bool is_first_blocking = fastload_worker_is_blocking(&fl->workers[0]);
    bool reads_cost_cpu = fastload_file_reads_cost_cpu(fl);
    bool is_alone = fl->config.worker_count == 1;
    bool is_active = w->idx < fl->active_count;
    uint64_t quiet_ns = MAX(fastload_sched_quiet_ns(fl), fl->hints.calm_ns);
    bool is_quiet = now_ns >= quiet_ns;
    bool is_free = is_alone || w->idx || is_quiet;
    uint32_t reader_count = 1;

    if (reads_cost_cpu) {
        /* Without the one that waits for faults. */
        reader_count = MAX(fl->active_count - !is_quiet, 1);
    }
    return (WorkerTurn) {
        .now_ns = now_ns,
        .quiet_ns = is_quiet ? UINT64_MAX : quiet_ns,
        .serves_faults = w->idx == 0 || is_first_blocking ||
                         __atomic_load_n(&fl->sched.are_faults_shared,
                                         __ATOMIC_RELAXED),
        .may_read = is_active && (reads_cost_cpu ? is_free : w->idx == 0),
        .may_hint = is_active && (reads_cost_cpu ? is_free ||
                                  !is_first_blocking : w->idx == 0),
        .may_place = is_active && is_free,
        /* Who came along would not fault, and not be recorded. */
        .around_bytes = fastload_record_is_on(fl)
            ? 0 : fastload_window_around_bytes(&fl->window),
        .window_bytes = fastload_window_bytes(&fl->window, now_ns,
                            fastload_sched_queue_ns(fl, now_ns)) /
                        reader_count,
    };
}

/* One that reads while it polls takes one at a time: leave others the rest. */
static bool worker_has_urgent_room(const FastloadWorker *w)
{
    return w->free_urgent && !(w->io_ops->is_blocking &&
                               w->inflight_count > w->ahead_count);
}

/*
 * A worker that minds faults has more of them than room, or not.  Others are
 * told once, and when there are new ones: they are swamped themselves, perhaps.
 */
static void worker_share_faults(FastloadWorker *w, bool is_swamped,
                                bool has_new)
{
    uint32_t *are_shared = &w->fl->sched.are_faults_shared;
    bool were_shared = w->idx == 0
        ? __atomic_exchange_n(are_shared, is_swamped, __ATOMIC_RELAXED)
        : __atomic_load_n(are_shared, __ATOMIC_RELAXED);

    if (is_swamped && (has_new || !were_shared)) {
        fastload_session_kick_all(w->fl, w);
    }
}

/*
 * Has somebody else placed the page of @fault, or is about to?  Then nobody is
 * left waiting for it.
 */
static bool worker_fault_is_settled(const FastloadWorker *w,
                                    const FastloadFault *fault)
{
    FastloadArea *area = fault->area;
    bool is_claimed;

    if (fault->is_discarded) {
        return false; /* both bits tell what was before */
    }
    is_claimed = fastload_bit_test_and_set(area->claimed, fault->page_idx);
    /*
     * After the claim, so that a thread that claims later finds the count
     * changed, and before the look at the page.  Pairs with
     * place_may_have_merged().
     */
    __atomic_fetch_add(&w->fl->sched.merge_count, 1, __ATOMIC_ACQ_REL);
    if (fastload_bit_test(area->placed, fault->page_idx)) {
        /* It may have been given back and touched before it counted. */
        fastload_uffd_wake(w->fl->uffd, area->hva +
                           (fault->page_idx << area->page_shift),
                           area->page_bytes);
        return true;
    }
    /* Whoever has claimed it wakes if it counts later, or queues its fault. */
    return is_claimed;
}

/* What an urgent read reads for its fault, and where it goes in staging. */
static void worker_aim_urgent(FastloadWorker *w, const WorkerTurn *turn,
                              FastloadRead *read)
{
    size_t idx = read - w->reads;
    size_t off = fastload_read_aim(read, turn->around_bytes)
        ? w->page_staging_bytes + idx * FASTLOAD_AROUND_BYTES_MAX
        : idx * w->fl->urgent_bytes;

    read->buf = w->staging + off + (read->is_spare ? w->staging_bytes : 0);
}

/* @has_new: faults have come in this turn. */
static void worker_issue_urgent(FastloadWorker *w, const WorkerTurn *turn,
                                bool has_new)
{
    Fastload *fl = w->fl;
    FastloadFault fault;

    while (worker_has_urgent_room(w) &&
           fastload_sched_pop_fault(fl, turn->now_ns, w->free_urgent,
                                    &fault)) {
        FastloadRead *read = w->free_urgent;

        if (worker_fault_is_settled(w, &fault)) {
            w->outcomes |= fastload_sched_fault_settled(fl, read);
            continue;
        }
        w->free_urgent = read->next;
        worker_aim_urgent(w, turn, read);
        fastload_read_claim_around(fl, read);
        read->begin_ns = fault.begin_ns;
        read->is_retried = fault.not_before_ns != 0;
        fastload_read_plan(read, w->file_generation);
        if (fastload_read_has_rest(read)) {
            fastload_stats_add(&w->counters.retry_count, read->is_retried);
            worker_issue_req(w, read, UINT32_MAX);
        }
        if (fastload_read_end_issuing(read)) {
            /* Zeros that failed before, or placed since we looked. */
            worker_urgent_finish(w, read);
        }
    }
    worker_share_faults(w, !worker_has_urgent_room(w) &&
                        fastload_sched_fault_is_due(fl, turn->now_ns), has_new);
}

/* Puts @read where it belongs next; somebody may have been waiting for it. */
static void worker_pass_on(FastloadWorker *w, FastloadRead *read)
{
    Fastload *fl = w->fl;
    bool is_fresh = read->state == FASTLOAD_READ_FRESH;
    uint64_t now_ns = fastload_stats_now_ns();
    uint32_t i;

    fastload_pool_put(fl, read);
    /* All others neither read ahead nor place. */
    for (i = 0; i < fl->active_count; i++) {
        FastloadWorker *other = &fl->workers[i];
        WorkerTurn turn = worker_turn_of(other, now_ns);

        if (other != w &&
            (is_fresh ? turn.may_read : turn.may_place) &&
            __atomic_exchange_n(&other->may_sleep, 0, __ATOMIC_SEQ_CST)) {
            fastload_session_kick(other);
            return;
        }
    }
}

/* How much staging may wait to be placed, or to be read into. */
static uint32_t worker_extra_count(const FastloadWorker *w)
{
    return w->fl->active_count * FASTLOAD_POOL_EXTRA_EACH +
           FASTLOAD_POOL_EXTRA_COUNT;
}

/* How much staging there should be: more where more is in flight. */
static uint32_t worker_staging_count(const FastloadWorker *w,
                                     const WorkerTurn *turn)
{
    return turn->window_bytes / FASTLOAD_CHUNK_BYTES + worker_extra_count(w);
}

/*
 * The worker that minds the faults may read hints where it may not read ahead:
 * one at a time, which takes no longer than the fault that it saves.
 */
static bool worker_has_hint_room(const FastloadWorker *w,
                                 const WorkerTurn *turn)
{
    return turn->may_hint && w->free_hints &&
           (turn->may_read || (!w->ahead_count && !w->ready_hints));
}

/* Takes the next hint of pages; false when there is none, or no room. */
static bool worker_take_hint(FastloadWorker *w, const WorkerTurn *turn)
{
    Fastload *fl = w->fl;
    FastloadRead *read = w->free_hints;

    if (!worker_has_hint_room(w, turn) ||
        fastload_sched_hint_kind(fl, turn->now_ns) != FASTLOAD_HINT_PAGES ||
        !fastload_sched_next_hint(fl, turn->now_ns,
                                  fastload_window_gap_bytes(&fl->window,
                                                            turn->now_ns),
                                  read)) {
        return false;
    }
    w->free_hints = read->next;
    fastload_read_plan(read, w->file_generation);
    fastload_file_choose(fl, read);
    w->issuing = read;
    return true;
}

/* Takes the next chunk for issuing; false when there is none, or no room. */
static bool worker_take_chunk(FastloadWorker *w, const WorkerTurn *turn)
{
    Fastload *fl = w->fl;
    FastloadRead *read;
    uint64_t chunk_idx;

    /* Who places may be slow: what is read must not pile up meanwhile. */
    if (!turn->may_read ||
        fastload_sched_hint_kind(fl, turn->now_ns) == FASTLOAD_HINT_PAGES ||
        !fastload_pool_has_room(fl, worker_extra_count(w)) ||
        fastload_sched_next_due_ns(fl, false, true) > turn->now_ns) {
        return false;
    }
    read = fastload_pool_take(fl, FASTLOAD_READ_FRESH);
    if (!read) {
        return false;
    }
    if (read->is_spare && !w->io_ops->is_blocking) {
        /* Another ring is of no use any more: ours will be left, too. */
        fastload_pool_put(fl, read);
        return false;
    }
    if (!fastload_sched_next_chunk(fl, turn->now_ns, read, &chunk_idx)) {
        fastload_pool_put(fl, read);
        return false;
    }
    trace_fastload_chunk_taken(fl, read->area->hva, chunk_idx);
    read->span = fastload_plan_chunk_span(read->area, chunk_idx);
    read->wants_move = fastload_huge_fits(read->area, read->span);
    fastload_read_plan(read, w->file_generation);
    fastload_file_choose(fl, read);
    fastload_stats_add(&w->counters.retry_count,
                       read->is_retried && read->extent_count);
    w->issuing = read;
    return true;
}

static bool worker_has_window_room(const FastloadWorker *w,
                                   const WorkerTurn *turn)
{
    return w->ahead_bytes < MAX(turn->window_bytes,
                               FASTLOAD_REQ_BYTES_MIN) &&
           w->ahead_count < FASTLOAD_AHEAD_COUNT_MAX;
}

/* How long a background read may be. */
static uint32_t worker_req_bytes(const WorkerTurn *turn)
{
    uint64_t window_bytes = turn->window_bytes;

    /* Two at least, so that one is out while the other comes in. */
    if (window_bytes < 2 * FASTLOAD_REQ_BYTES_NEAR) {
        return MAX(window_bytes / 2 / FASTLOAD_REQ_BYTES_MIN, 1) *
               FASTLOAD_REQ_BYTES_MIN;
    }
    window_bytes = window_bytes / FASTLOAD_REQ_SHARE / FASTLOAD_REQ_BYTES_MIN *
                   FASTLOAD_REQ_BYTES_MIN;
    return CLAMP(window_bytes, FASTLOAD_REQ_BYTES_NEAR,
                 FASTLOAD_REQ_BYTES_MAX);
}

/* A read that is not urgent has come in, or has nothing to read. */
static void worker_read_ready(FastloadWorker *w, FastloadRead *read)
{
    if (read->is_pooled) {
        worker_pass_on(w, read);
        return;
    }
    read->next = NULL;
    if (w->ready_hints) {
        w->last_ready_hint->next = read;
    } else {
        w->ready_hints = read;
    }
    w->last_ready_hint = read;
}

/* Hints, and then the background. */
static void worker_issue_ahead(FastloadWorker *w, const WorkerTurn *turn)
{
    uint32_t req_bytes_max = worker_req_bytes(turn);

    w->is_window_full = false;
    while (worker_has_window_room(w, turn)) {
        FastloadRead *read = w->issuing;

        if (!read && !worker_take_hint(w, turn) &&
            !worker_take_chunk(w, turn)) {
            return;
        }
        read = w->issuing;
        if (fastload_read_has_rest(read)) {
            FastloadSpan *extent = &read->extents[read->extent_idx];
            uint32_t req_bytes =
                fastload_sched_rate_take(w->fl, turn->now_ns, read,
                                         MIN(extent->len_bytes,
                                             req_bytes_max));

            if (!req_bytes) {
                return;
            }
            worker_issue_req(w, read, req_bytes);
        }
        if (!fastload_read_has_rest(read)) {
            w->issuing = NULL;
            if (fastload_read_end_issuing(read)) {
                worker_read_ready(w, read);
            }
        }
    }
    w->is_window_full = w->ahead_count;
}

static void worker_background_finish(FastloadWorker *w, FastloadRead *read)
{
    /* Before the set may count as replayed. */
    fastload_stats_add(&w->counters.hint_count, !read->error &&
                       read->class == FASTLOAD_CLASS_HINT);
    w->outcomes |= fastload_sched_read_done(w->fl, read,
                                            fastload_stats_now_ns());
    if (read->moved_bytes) {
        fastload_huge_staging_drop(read->buf);
        read->moved_bytes = 0;
        fastload_read_move(read, FASTLOAD_READ_SPENT);
    } else {
        fastload_read_move(read, FASTLOAD_READ_FRESH);
    }
    worker_pass_on(w, read);
}

/*
 * Places the hint that came in first.  One that failed is given up: its pages
 * are still the background's to bring.
 */
static void worker_place_hint(FastloadWorker *w)
{
    FastloadRead *read = w->ready_hints;

    w->ready_hints = read->next;
    read->next = NULL;
    fastload_read_move(read, FASTLOAD_READ_PLACING);
    worker_check_file(w, read);
    while (!read->error && read->placed_bytes < read->span.len_bytes) {
        fastload_place_piece(w, read);
    }
    fastload_stats_add(&w->counters.hint_count, !read->error);
    fastload_sched_hint_done(w->fl, read);
    fastload_read_move(read, FASTLOAD_READ_FRESH);
    worker_hint_free(w, read);
}

/* Is there something that this worker may place, or has to pass on? */
static bool worker_can_place(const FastloadWorker *w, const WorkerTurn *turn)
{
    return w->placing || (turn->may_place &&
                          fastload_pool_has(w->fl, FASTLOAD_READ_READY));
}

/* Places a piece of a background read that is complete. */
static void worker_place_step(FastloadWorker *w, const WorkerTurn *turn)
{
    FastloadRead *read = w->placing;

    w->placing = NULL;
    if (read && !turn->may_place) {
        fastload_read_move(read, FASTLOAD_READ_READY);
        worker_pass_on(w, read);
        return;
    }
    if (!read) {
        read = turn->may_place
            ? fastload_pool_take(w->fl, FASTLOAD_READ_READY) : NULL;
        if (!read) {
            return;
        }
        fastload_read_move(read, FASTLOAD_READ_PLACING);
    }
    if (read->placed_bytes == 0) {
        worker_check_file(w, read);
    }
    if (!read->error) {
        fastload_place_piece(w, read);
    }
    if (read->error || read->placed_bytes == read->span.len_bytes) {
        worker_background_finish(w, read);
    } else {
        w->placing = read;
    }
}

/*
 * The kernel had no memory for an asynchronous read, or none that it could pin:
 * that says nothing of the storage.  preadv() needs neither; what it answers
 * is what counts.  Returns whether it was asked.
 */
static bool worker_read_without_ring(FastloadWorker *w, FastloadIoReq *req)
{
    int ring_error = req->error;

    if ((ring_error != -ENOMEM && ring_error != -EFAULT) ||
        w->io_ops->is_blocking || fastload_session_is_ending(w->fl)) {
        return false;
    }
    fastload_io_sync_read(req->is_direct ? w->fl->file.direct_fd
                                         : w->fl->file.fd, req);
    trace_fastload_read_without_ring(w->fl, w->idx, req->file_off,
                                     req->len_bytes, -ring_error, -req->error);
    return true;
}

static void worker_req_done(FastloadWorker *w, FastloadIoReq *req)
{
    FastloadRead *read = req->read;
    bool is_without_ring = worker_read_without_ring(w, req);

    fastload_stats_add(&w->counters.read_bytes, req->done_bytes);
    if (req->error) {
        fastload_stats_add(&w->counters.io_error_count, 1);
        trace_fastload_read_failed(w->fl, w->idx, req->file_off,
                                   req->len_bytes, -req->error);
        if (++req->tries < FASTLOAD_READ_TRIES_MAX &&
            !fastload_session_is_ending(w->fl)) {
            fastload_stats_add(&w->counters.retry_count, 1);
            req->is_direct = read->is_direct = false;
            if (read->class == FASTLOAD_CLASS_BACKGROUND &&
                !read->area->is_early) {
                fastload_sched_rate_charge(w->fl, req->len_bytes);
            }
            w->io_ops->queue(w->io, req);
            return;
        }
        fastload_read_fail(read, FASTLOAD_FAILURE_READ, req->error,
                           req->file_off + req->done_bytes);
    }
    req->is_queued = false;
    w->inflight_count--;
    if (!req->is_urgent) {
        w->ahead_bytes -= worker_ahead_bytes(req);
        w->ahead_count--;
        /*
         * Small reads tell of a lower rate than there is, and it would take
         * the window along: more in flight shows only where reads are long.
         */
        fastload_window_end(&w->fl->window, req, w->reaped_ns,
                            !req->error && !req->tries && !is_without_ring &&
                            !read->is_cached && read->is_pooled);
    }
    worker_req_free(w, req);
    if (!fastload_read_req_back(read)) {
        return;
    }
    if (read->class == FASTLOAD_CLASS_URGENT) {
        worker_urgent_finish(w, read);
    } else {
        w->issuing = w->issuing == read ? NULL : w->issuing;
        worker_read_ready(w, read);
    }
}

/* From staging to its spare. */
static size_t worker_spare_bytes(const FastloadWorker *w,
                                 const FastloadRead *read)
{
    return read->is_pooled ? w->fl->pool.spare_bytes : w->staging_bytes;
}

/* What has come in of @read so far goes with it. */
static void worker_use_spare(const FastloadWorker *w, FastloadRead *read)
{
    uint8_t *spare = read->buf + worker_spare_bytes(w, read);

    memcpy(spare, read->buf, read->span.len_bytes);
    read->buf = spare;
    read->is_spare = true;
}

/*
 * The kernel takes no requests any more.  Those that it has may still write to
 * where they were told to, whenever that is: their reads go on in the spare
 * staging, by preadv(), and the old one is nobody's.
 */
static void worker_leave_ring(FastloadWorker *w)
{
    uint32_t i, count = worker_req_count(w->fl);

    w->io_ops->close(w->io);
    worker_open_io(w, &fastload_io_sync_ops);
    assert(w->io); /* so little memory that GLib, too, ends a program for it */
    for (i = 0; i < count; i++) {
        FastloadIoReq *req = &w->reqs[i];
        FastloadRead *read = req->read;

        if (!req->is_queued) {
            continue;
        }
        __atomic_store_n(&w->fl->pool.is_lost, 1, __ATOMIC_RELAXED);
        if (!read->is_spare) {
            worker_use_spare(w, read);
        }
        req->buf += worker_spare_bytes(w, read);
        w->io_ops->queue(w->io, req);
    }
    w->is_io_broken = false;
    fastload_session_io_changed(w);
}

/*
 * Once one ring is of no use all are left: whoever reads into spare staging has
 * none for another time.
 */
static bool worker_must_leave_ring(const FastloadWorker *w)
{
    return w->is_io_broken ||
           (!w->io_ops->is_blocking &&
            __atomic_load_n(&w->fl->pool.is_lost, __ATOMIC_RELAXED));
}

static void worker_reap(FastloadWorker *w)
{
    FastloadIoReq *req = w->io_ops->reap(w->io);
    uint32_t ahead_count = w->ahead_count;

    w->reaped_ns = req ? fastload_stats_now_ns() : w->reaped_ns;
    for (; req; req = w->io_ops->reap(w->io)) {
        worker_req_done(w, req);
    }
    if (w->is_window_full && w->ahead_count < ahead_count) {
        fastload_window_seen(&w->fl->window, !w->ahead_count);
    }
}

/* Does this worker wake when a fault in the queue falls due? */
static bool worker_times_faults(const FastloadWorker *w,
                                const WorkerTurn *turn)
{
    /* The first of several also does, to tell the others it has no room. */
    return turn->serves_faults &&
           (worker_has_urgent_room(w) ||
            (w->idx == 0 && w->fl->config.worker_count > 1 &&
             !__atomic_load_n(&w->fl->sched.are_faults_shared,
                              __ATOMIC_RELAXED)));
}

/* When the worker can read ahead again, with what it knows now. */
static uint64_t worker_read_due_ns(const FastloadWorker *w,
                                   const WorkerTurn *turn)
{
    Fastload *fl = w->fl;
    uint64_t due_ns;
    bool is_hint;

    if (!worker_has_window_room(w, turn)) {
        /* A read that comes in makes room, or time does. */
        return turn->may_read
            ? MIN(turn->quiet_ns,
                  fastload_window_grows_ns(&fl->window, turn->now_ns))
            : UINT64_MAX;
    }
    if (w->issuing) {
        return fastload_sched_rate_due_ns(fl);
    }
    is_hint = fastload_sched_hint_kind(fl, turn->now_ns) ==
              FASTLOAD_HINT_PAGES;
    if (is_hint && turn->may_hint) {
        /* One that comes in makes room; who has one to place does not sleep. */
        return worker_has_hint_room(w, turn) ? 0 : UINT64_MAX;
    }
    if (!is_hint && !fastload_pool_has_room(fl, worker_extra_count(w))) {
        return UINT64_MAX; /* who has placed or renewed some kicks us */
    }
    due_ns = is_hint ? 0 : fastload_sched_next_due_ns(fl, false, true);
    if (turn->may_read || due_ns == UINT64_MAX) {
        return due_ns;
    }
    /* The first of several may later, the others are kicked. */
    return w->idx ? UINT64_MAX : MAX(due_ns, turn->quiet_ns);
}

/* Is there spent staging that will be read into? */
static bool worker_has_renewal(const FastloadWorker *w,
                               const WorkerTurn *turn)
{
    return fastload_pool_wants_renewal(w->fl, worker_staging_count(w, turn)) &&
           fastload_sched_next_due_ns(w->fl, false, true) != UINT64_MAX;
}

/* When the worker may place or renew, which it may not now. */
static uint64_t worker_place_due_ns(const FastloadWorker *w,
                                    const WorkerTurn *turn)
{
    if (turn->may_place || w->idx >= w->fl->active_count) {
        return UINT64_MAX;
    }
    return fastload_pool_has(w->fl, FASTLOAD_READ_READY) ||
           worker_has_renewal(w, turn) ? turn->quiet_ns : UINT64_MAX;
}

/*
 * How long to sleep, -1: until something comes.  All that can be begun has been
 * begun: a read that completes, a fault or a kick wakes the worker, or a retry
 * that falls due, or the next read that the background's rate allows; or the
 * guest becoming quiet, if there is something that must not be done before.
 */
static int64_t worker_sleep_ns(const FastloadWorker *w,
                               const WorkerTurn *turn)
{
    uint64_t due_ns =
        fastload_sched_next_due_ns(w->fl, worker_times_faults(w, turn), false);

    due_ns = MIN(due_ns, worker_read_due_ns(w, turn));
    due_ns = MIN(due_ns, worker_place_due_ns(w, turn));
    if (due_ns == UINT64_MAX) {
        return -1;
    }
    return due_ns > turn->now_ns ? (int64_t)(due_ns - turn->now_ns) : 0;
}

/*
 * A new huge page for staging costs as long as copying a chunk, and nobody
 * is served meanwhile: only with nothing to place, no urgent read to come
 * back, and a chunk to come.
 */
static bool worker_wants_renewal(const FastloadWorker *w,
                                 const WorkerTurn *turn)
{
    return !w->placing && !w->ready_hints && turn->may_place &&
           w->inflight_count == w->ahead_count &&
           !fastload_pool_has(w->fl, FASTLOAD_READ_READY) &&
           worker_has_renewal(w, turn);
}

static void worker_renew_staging(FastloadWorker *w)
{
    FastloadRead *read = fastload_pool_take(w->fl, FASTLOAD_READ_SPENT);

    if (read) {
        fastload_huge_staging_renew(read->buf);
        fastload_read_move(read, FASTLOAD_READ_FRESH);
        worker_pass_on(w, read);
    }
}

/*
 * Starts what was queued; sleeps when there is nothing else to do.  Returns
 * whether staging should be renewed; it has not slept then, nor when there is
 * something to place.
 */
static bool worker_poll(FastloadWorker *w, const WorkerTurn *turn,
                        bool *ret_can_place)
{
    bool wants_renewal;
    int64_t sleep_ns;

    /* First the flag, then a look: who passes something on later sees it. */
    __atomic_store_n(&w->may_sleep, 1, __ATOMIC_SEQ_CST);
    *ret_can_place = worker_can_place(w, turn);
    wants_renewal = worker_wants_renewal(w, turn);
    sleep_ns = *ret_can_place || wants_renewal || w->ready_hints
        ? 0 : worker_sleep_ns(w, turn);
    if (sleep_ns == 0) {
        __atomic_store_n(&w->may_sleep, 0, __ATOMIC_RELAXED);
    }
    /* preadv reads in there, and may not come back. */
    if (sleep_ns && !(w->io_ops->is_blocking && w->inflight_count)) {
        __atomic_store_n(&w->awake_ns, 0, __ATOMIC_RELAXED);
    }
    w->is_io_broken = !w->io_ops->poll(w->io, sleep_ns, turn->serves_faults);
    __atomic_store_n(&w->may_sleep, 0, __ATOMIC_RELAXED);
    return wants_renewal;
}

/* Before anything else is queued: it is to come from there. */
static void worker_note_file(FastloadWorker *w)
{
    uint32_t file_generation = __atomic_load_n(&w->fl->file.generation,
                                          __ATOMIC_ACQUIRE);

    if (w->file_generation == file_generation || file_generation % 2) {
        return; /* or it is being replaced just now */
    }
    w->file_generation = file_generation;
    if (w->io_ops->reopen) {
        w->io_ops->reopen(w->io);
    }
    if (w->issuing) {
        /* The rest of it is of no use. */
        fastload_read_fail(w->issuing, FASTLOAD_FAILURE_CHANGED, -ESTALE,
                           w->issuing->area->file_off +
                           w->issuing->span.ram_off);
    }
}

/*
 * Acts on what came of this turn and of the end of the last one, before the
 * worker may sleep.  By now it may be otherwise: the session looks again
 * whether reads still fail before it calls the load stalled.
 */
static void worker_act(FastloadWorker *w)
{
    uint32_t outcomes = w->outcomes;

    if (!outcomes) {
        return;
    }
    w->outcomes = FASTLOAD_OUTCOME_NONE;
    fastload_sched_check(w->fl);
    if ((outcomes & FASTLOAD_OUTCOME_DELAYED) && w->idx) {
        /* The first worker knows when what is in the queue is due. */
        fastload_session_kick(&w->fl->workers[0]);
    }
    if (outcomes & FASTLOAD_OUTCOME_RESUMED) {
        fastload_session_resumed(w->fl);
    }
    if (outcomes & FASTLOAD_OUTCOME_STALLED) {
        fastload_session_stalled(w->fl);
    }
    if (outcomes & FASTLOAD_OUTCOME_DRAINED) {
        fastload_session_drained(w->fl);
    }
}

/* Is a recording over?  Then all that it held back is due. */
static void worker_end_recording(FastloadWorker *w, const WorkerTurn *turn)
{
    Fastload *fl = w->fl;

    if (fastload_record_is_on(fl) &&
        turn->now_ns >= fastload_record_due_ns(&fl->record) &&
        fastload_record_end(fl, turn->now_ns)) {
        fastload_session_kick_all(fl, w);
    }
}

static void worker_turn(FastloadWorker *w)
{
    WorkerTurn turn = worker_turn_of(w, fastload_stats_now_ns());
    bool wants_renewal = false, can_place = false, has_hint;

    __atomic_store_n(&w->awake_ns, turn.now_ns, __ATOMIC_RELAXED);
    if (worker_must_leave_ring(w)) {
        worker_leave_ring(w);
    }
    worker_note_file(w);
    worker_end_recording(w, &turn);
    if (turn.serves_faults) {
        bool has_new = worker_take_faults(w);

        worker_issue_urgent(w, &turn, has_new);
    }
    worker_issue_ahead(w, &turn);
    worker_act(w);
    if (!fastload_session_is_ending(w->fl)) {
        /* Reads go out before the worker is busy. */
        wants_renewal = worker_poll(w, &turn, &can_place);
    }
    worker_reap(w);
    has_hint = w->ready_hints;
    if (has_hint) {
        worker_place_hint(w);
    } else if (can_place) {
        worker_place_step(w, &turn);
    }
    if (wants_renewal) {
        worker_renew_staging(w);
    }
    if (has_hint || can_place || wants_renewal) {
        /* That took its time: look for faults before the next of it. */
        w->is_ready[FASTLOAD_IO_WATCH_FAULTS] = true;
    }
}

/* Level-triggered: a kick that is not read wakes again and again. */
static void worker_take_kick(FastloadWorker *w)
{
    uint64_t kicks;

    if (worker_take_ready(w, FASTLOAD_IO_WATCH_KICKS) &&
        read(w->kick_fd, &kicks, sizeof(kicks)) > 0) {
        trace_fastload_worker_kicked(w->fl, w->idx);
    }
}

/*
 * The kernel may still write to staging: what is in flight is waited for, but
 * not for long.  Nobody needs it: all is placed, or the load was cancelled.
 * The last worker tells that the load is over and lets those go who wait for a
 * page of a cancelled one, and storage that does not answer, or a ring that
 * does not work, must not keep it from that.  So after FASTLOAD_DRAIN_NS_MAX
 * the reads are left behind: their staging counts as lost, and its addresses
 * stay nobody's for as long as the process lives (fastload_pool_unmap()).
 *
 * preadv() is different: nothing is in flight but what this thread is waiting
 * for in the kernel, which nothing can shorten; what is queued is not begun.
 */
static void worker_drain(FastloadWorker *w)
{
    uint64_t end_ns = fastload_stats_now_ns() + FASTLOAD_DRAIN_NS_MAX;
    bool works = !w->io_ops->is_blocking && !w->is_io_broken;

    while (works && w->inflight_count && fastload_stats_now_ns() < end_ns) {
        worker_take_kick(w);
        works = w->io_ops->poll(w->io, WORKER_DRAIN_POLL_NS, false);
        worker_reap(w);
    }
    if (w->inflight_count && !w->io_ops->is_blocking) {
        w->has_abandoned_reads = true;
        __atomic_store_n(&w->fl->pool.is_lost, 1, __ATOMIC_RELAXED);
        trace_fastload_reads_abandoned(w->fl, w->idx, w->inflight_count);
    }
}

/*
 * Where processors are short, guests come before what is loaded for them: who
 * only reads ahead and places steps back.  That needs no privilege, and cannot
 * be taken back without one.  Where it is refused, by a filter of system calls
 * perhaps, nothing is lost.
 */
static void worker_be_nice(const FastloadWorker *w)
{
    int nice_value;

    if (w->idx == 0 || !w->io || w->io_ops->is_blocking) {
        return; /* it answers faults */
    }
    errno = 0;
    nice_value = getpriority(PRIO_PROCESS, 0); /* 0: of this thread */
    if (errno == 0) {
        setpriority(PRIO_PROCESS, 0, nice_value + FASTLOAD_WORKER_NICE);
    }
}

void *fastload_worker_main(void *opaque)
{
    FastloadWorker *w = opaque;

    worker_open_io(w, w->fl->io_ops);
    worker_be_nice(w);
    fastload_session_worker_ready(w);
    while (w->io && !fastload_session_is_ending(w->fl)) {
        worker_take_kick(w);
        worker_turn(w);
    }
    if (w->io) {
        worker_drain(w);
        w->io_ops->close(w->io);
        w->io = NULL;
    }
    fastload_session_worker_ended(w);
    return NULL;
}
