/*
 * fastload worker: take, read, place, repeat.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One thread with its own ring, counters and staging for urgent reads, all
 * allocated before the load starts.  Each turn of the loop looks for urgent
 * work first and places at most one piece of background data.  So an urgent
 * page waits at most for FASTLOAD_PIECE_BYTES of copying, or for one huge page
 * of staging where chunks are moved.  While the guest faults, the first of
 * several workers begins neither of those and leaves them to the others.
 * Pages of a working set that are not read as a whole chunk are placed by the
 * worker that has read them, one read a turn: that takes as long as an urgent
 * read, and handing the read to another worker would cost as much.
 * Where processors are short, an urgent page may also wait for one chunk that
 * answers another fault whole (util/fastload-whole.c).
 * A request that fails is tried FASTLOAD_READ_TRIES_MAX times here; one that
 * io_uring had no memory for is first made with preadv() at once.  After that
 * the read gives up its claim, and the scheduler brings it back later.  Before
 * a read is placed, its worker checks the file: data of a file that was changed
 * counts as failed.  A worker whose ring stops working goes on with preadv().
 */
#include "qemu/osdep.h"
#include <sys/eventfd.h>
#include <sys/resource.h>
#include "trace.h"
#include "qemu/fastload_int.h"

/* After a wrong guess, so many pages are placed before the next one. */
#define WORKER_GUESS_SHARE 64
/* How often a worker that ends checks whether its last reads have returned. */
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
}

void fastload_worker_free_reads(FastloadWorker *w)
{
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
        /* Others only help with faults, so they must not wait for them. */
        .batch = w->idx == 0 ? &w->batch : NULL,
        .staging = w->staging,
        /*
         * Registering pins memory.  Pinning the staging of chunks would cost
         * more at start than it saves, and pinned pages cannot be moved.
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
    /* The new backend does not know what the old one has seen. */
    memset(w->is_ready, true, sizeof(w->is_ready));
}

/*
 * May the descriptor of @watch be readable?  Call this just before the read:
 * the backend reports anything that arrives later.
 */
static bool worker_take_ready(FastloadWorker *w, FastloadIoWatch watch)
{
    bool is_ready = w->is_ready[watch] || !w->io_ops->tells_ready;

    w->is_ready[watch] = false;
    return is_ready;
}

/* Fails @read if its file was changed or replaced, or may have been. */
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
    /* Also if the read has failed: the change is the usual reason. */
    read->error = 0;
    fastload_read_fail(read, FASTLOAD_FAILURE_CHANGED, -ESTALE, file_off);
}

/*
 * How many bytes of the window a request takes.  The many small requests of a
 * working set cost the storage by their number, not by their bytes: each counts
 * at least as much as the gap that would be read over to save a request.
 */
static uint32_t worker_ahead_bytes(const FastloadIoReq *req)
{
    return req->read->is_pooled ? req->len_bytes
                                : MAX(req->len_bytes, FASTLOAD_GAP_BYTES_MAX);
}

static void worker_queue_req(FastloadWorker *w, FastloadIoReq *req)
{
    req->may_block = __atomic_load_n(&w->fl->file.is_in_user_space,
                                     __ATOMIC_RELAXED);
    req->is_queued = true;
    w->io_ops->queue(w->io, req);
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
        w->hint_count += !read->is_pooled;
    }
    worker_queue_req(w, req);
}

/*
 * A thread that has just got its page may already have faulted on the next one.
 * The worker guesses so and reads the userfaultfd without waiting for the
 * backend to report it, which saves a system call.  After a wrong guess it
 * places WORKER_GUESS_SHARE pages before it guesses again.  A backend that
 * reads the messages itself saves that call always.
 */
static void worker_guess_fault(FastloadWorker *w)
{
    if (w->batch.is_used) {
        return;
    }
    if (w->unguessed_count) {
        w->unguessed_count--;
    } else if (!w->is_ready[FASTLOAD_IO_WATCH_FAULTS]) {
        w->is_ready[FASTLOAD_IO_WATCH_FAULTS] = w->is_guessing = true;
    }
}

static bool worker_take_faults(FastloadWorker *w)
{
    bool has_new = w->early_fault_count;

    if (worker_take_ready(w, FASTLOAD_IO_WATCH_FAULTS)) {
        has_new |= fastload_fault_drain(w);
    }
    w->early_fault_count = 0;

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
    /* After read_done(), which has queued a failed page: this wakes threads. */
    fastload_read_release_around(w->fl, read);
    if (read->error) {
        w->outcomes |= FASTLOAD_OUTCOME_DELAYED;
    }
    fastload_read_move(read, FASTLOAD_READ_FRESH);
    worker_urgent_free(w, read);
}

/*
 * What a worker may do in a turn.  It is decided once, and both what the worker
 * begins and how long it sleeps depend on it, so the two cannot disagree.
 */
typedef struct WorkerTurn {
    uint64_t now_ns;
    /*
     * When the guest stops counting as faulting, or nothing is held back any
     * more, and workers may do more; UINT64_MAX if the guest is quiet.
     */
    uint64_t quiet_ns;
    bool serves_faults; /* answers page faults */
    bool may_read;      /* reads ahead */
    bool may_hint;      /* reads pages of the working set; without may_read,
                           one read at a time */
    bool may_place;     /* places background reads, and renews staging */
    bool is_held;       /* until the guest is quiet: processors are short */
    uint32_t around_bytes; /* how long an urgent read may be; 0: one page */
    uint64_t window_bytes; /* this worker's share of the read-ahead window */
    uint32_t hint_count;   /* the same of short reads of the working set */
} WorkerTurn;

/* Until when the background is held back; 0: it is not. */
static uint64_t worker_held_ns(Fastload *fl, uint64_t now_ns)
{
    return fastload_file_reads_cost_cpu(fl)
        ? fastload_sched_held_ns(fl, now_ns) : 0;
}

/*
 * How several workers divide the work.  The first one serves faults and reads
 * ahead.  Reading keeps a device busy and takes hardly any processor time, so
 * the worker is free when a fault arrives or an urgent read returns.  The
 * others place what it has read, and renew staging.  Where reading itself takes
 * processor time (from the page cache, or by preadv), the others read as well,
 * and while the guest faults, the first one only serves faults.  While the
 * guest does not fault, all workers do everything.
 *
 * If several workers waited for faults, each fault would wake all of them, and
 * all but one for nothing: they would take a processor from the guest just when
 * it needs one.  And the worker that got the fault might be busy with something
 * long when the read returns.  So others help only while the first worker
 * blocks in its reads, or has no room for urgent reads.
 *
 * A guest whose working set is replayed hardly faults.  It counts as faulting
 * for FASTLOAD_HINT_CALM_NS nevertheless: otherwise the first worker, which has
 * no nice value, would compete with the guest for a processor just when the
 * guest has much to do.
 *
 * Placing takes processor time.  Workers beyond the number of processors would
 * only take it from the guest, so they do nothing but help with faults.
 *
 * Where processors are short because many guests are restored at once, nothing
 * is read ahead or placed for a guest that faults, for FASTLOAD_HOLD_NS at
 * most: what one guest does not need yet would make another one wait.  With a
 * working set nothing but the set is, for fastload_hints_hold_ns().  What
 * comes from the device by itself (O_DIRECT) is not held back, for it costs
 * hardly any processor time.
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
    uint64_t held_ns = worker_held_ns(fl, now_ns);
    bool is_held = held_ns;
    /* Chunks of the set that were read before a hold are placed in it. */
    bool awaits_set = !__atomic_load_n(&fl->hints.is_placed, __ATOMIC_RELAXED);
    /* What starts the guest needs the processor more than its pages do. */
    bool leaves_hints = fl->active_count > 1 &&
                        fastload_record_awaits_guest(fl);
    uint32_t reader_count = 1;

    if (reads_cost_cpu) {
        /* The first worker does not read while the guest faults. */
        reader_count = MAX(fl->active_count - !is_quiet, 1);
    }
    return (WorkerTurn) {
        .now_ns = now_ns,
        .quiet_ns = is_held ? held_ns : is_quiet ? UINT64_MAX : quiet_ns,
        .serves_faults = w->idx == 0 || is_first_blocking ||
                         __atomic_load_n(&fl->sched.are_faults_shared,
                                         __ATOMIC_RELAXED),
        .may_read = is_active && !is_held &&
                    (reads_cost_cpu ? is_free : w->idx == 0),
        .may_hint = is_active && (reads_cost_cpu ? is_free ||
                                  (!is_first_blocking && !leaves_hints)
                                                 : w->idx == 0),
        .may_place = is_active && is_free && (!is_held || awaits_set),
        .is_held = is_held,
        /* A page that came with another would not fault, so not be recorded. */
        .around_bytes = fastload_record_is_on(fl)
            ? 0 : fastload_window_around_bytes(&fl->window),
        .window_bytes = fastload_window_bytes(&fl->window, now_ns,
                            fastload_sched_queue_ns(fl, now_ns)) /
                        reader_count,
        .hint_count = MAX(fastload_window_hint_count(&fl->window) /
                          reader_count, 1),
    };
}

/* A worker that blocks in its reads takes one fault; others take the rest. */
static bool worker_has_urgent_room(const FastloadWorker *w)
{
    return w->free_urgent && !(w->io_ops->is_blocking &&
                               w->inflight_count > w->ahead_count);
}

/*
 * Asks all workers to serve faults while more faults are due than this worker
 * has room for (@is_swamped).  They are kicked once, and again when new faults
 * have come in (@has_new), since they may have been swamped meanwhile.
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
 * Needs @fault no read of its own, because its page is placed or another read
 * has claimed it?  Otherwise the page is claimed now.
 */
static bool worker_fault_is_settled(const FastloadWorker *w,
                                    const FastloadFault *fault)
{
    FastloadArea *area = fault->area;
    bool is_claimed;

    if (fault->is_discarded) {
        return false; /* the bits are from before the page was given back */
    }
    is_claimed = fastload_bit_test_and_set(area->claimed, fault->page_idx);
    /*
     * After the claim, so that a thread that claims later finds the count
     * changed, and before the look at the page.  Pairs with
     * place_may_have_merged().
     */
    __atomic_fetch_add(&w->fl->sched.merge_count, 1, __ATOMIC_ACQ_REL);
    if (fastload_bit_test(area->placed, fault->page_idx)) {
        /* It may have been given back and touched before its bit was set. */
        fastload_uffd_wake(w->fl->uffd, area->hva +
                           (fault->page_idx << area->page_shift),
                           area->page_bytes);
        return true;
    }
    /* The read that has claimed it wakes the thread, or queues its fault. */
    return is_claimed;
}

static void worker_pass_on(FastloadWorker *w, FastloadRead *read);
static void worker_background_finish(FastloadWorker *w, FastloadRead *read);

/*
 * Moves a whole chunk, or copies one that is mostly zero.  If the kernel has
 * not moved all of it, the rest is copied later, as that of any other chunk.
 */
static void worker_place_whole(FastloadWorker *w, FastloadRead *read)
{
    bool is_copied = !read->wants_move;

    do {
        fastload_place_piece(w, read);
    } while (is_copied && !read->error &&
             read->placed_bytes < read->span.len_bytes);
}

/*
 * Answers a fault with its whole chunk, at once; false: it needs an urgent
 * read.
 */
static bool worker_answer_whole(FastloadWorker *w, const FastloadFault *fault)
{
    Fastload *fl = w->fl;
    FastloadArea *area = fault->area;
    FastloadRead *read = fastload_whole_read(w, fault);
    FastloadSpan span;

    if (!read || read->state == FASTLOAD_READ_FRESH) {
        if (read) {
            worker_pass_on(w, read);
        }
        return false;
    }
    span = read->span;
    worker_check_file(w, read);
    if (!read->error) {
        worker_place_whole(w, read);
    }
    if (read->error || read->placed_bytes == span.len_bytes) {
        worker_background_finish(w, read);
    } else {
        fastload_read_move(read, FASTLOAD_READ_READY);
        worker_pass_on(w, read);
    }
    if (!fastload_bit_test(area->placed, fault->page_idx)) {
        return false;
    }
    fastload_stats_fault_done(&w->counters,
                              fastload_stats_now_ns() - fault->begin_ns);
    /* Also threads whose faults were merged with this one meanwhile. */
    if (!__atomic_load_n(&area->is_dropped, __ATOMIC_ACQUIRE)) {
        fastload_uffd_wake(fl->uffd, area->hva + span.ram_off, span.len_bytes);
    }
    worker_guess_fault(w);
    return true;
}

/* Decides which pages an urgent read brings, and where in staging they go. */
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
    bool was_whole = false;

    /* One whole chunk a turn: reads that have returned come before a second. */
    while (!was_whole && worker_has_urgent_room(w) &&
           fastload_sched_pop_fault(fl, turn->now_ns, w->free_urgent,
                                    &fault)) {
        FastloadRead *read = w->free_urgent;

        if (worker_fault_is_settled(w, &fault) ||
            (was_whole = worker_answer_whole(w, &fault))) {
            w->outcomes |= fastload_sched_fault_settled(fl, read);
            continue;
        }
        w->free_urgent = read->next;
        worker_aim_urgent(w, turn, read);
        fastload_read_claim_around(fl, read);
        read->begin_ns = fault.begin_ns;
        read->is_retried = fault.not_before_ns != 0;
        fastload_read_plan(read, w->file_generation, FASTLOAD_GAP_BYTES_MAX);
        if (fastload_read_has_rest(read)) {
            fastload_stats_add(&w->counters.retry_count, read->is_retried);
            worker_issue_req(w, read, UINT32_MAX);
        }
        if (fastload_read_end_issuing(read)) {
            /* Zeros whose placement failed before, or placed meanwhile. */
            worker_urgent_finish(w, read);
        }
    }
    worker_share_faults(w, !worker_has_urgent_room(w) &&
                        fastload_sched_fault_is_due(fl, turn->now_ns), has_new);
}

/* Somebody may not be woken now, because the background is held back. */
static void worker_owe_kick(Fastload *fl, const WorkerTurn *turn)
{
    if (turn->is_held) {
        __atomic_store_n(&fl->crowd.is_kick_due, 1, __ATOMIC_RELEASE);
    }
}

/*
 * Puts @read into the pool, and wakes a worker that may use it; if nobody may
 * now because it is held back, worker_watch_crowd() wakes one later.
 */
static void worker_pass_on(FastloadWorker *w, FastloadRead *read)
{
    Fastload *fl = w->fl;
    bool is_fresh = read->state == FASTLOAD_READ_FRESH;
    uint64_t now_ns = fastload_stats_now_ns();
    uint32_t i;

    fastload_pool_put(fl, read);
    /* Workers that are not active neither read ahead nor place. */
    for (i = 0; i < fl->active_count; i++) {
        FastloadWorker *other = &fl->workers[i];
        WorkerTurn turn = worker_turn_of(other, now_ns);

        worker_owe_kick(fl, &turn);
        if (other != w &&
            (is_fresh ? turn.may_read : turn.may_place) &&
            __atomic_exchange_n(&other->may_sleep, 0, __ATOMIC_SEQ_CST)) {
            fastload_session_kick(other);
            return;
        }
    }
}

/*
 * Page cache or O_DIRECT?  Other workers may have to read from now on, and this
 * one no more (worker_turn_of()).  They are kicked even if they do not seem to
 * sleep: one that is about to has decided before what it may do.
 */
static void worker_choose_file(FastloadWorker *w, FastloadRead *read)
{
    Fastload *fl = w->fl;
    uint64_t now_ns;
    uint32_t i;

    if (!fastload_file_choose(fl, read)) {
        return;
    }
    now_ns = fastload_stats_now_ns();
    for (i = 0; i < fl->active_count; i++) {
        FastloadWorker *other = &fl->workers[i];
        WorkerTurn turn = worker_turn_of(other, now_ns);

        worker_owe_kick(fl, &turn);
        if (other != w && turn.may_read) {
            fastload_session_kick(other);
        }
    }
}

/* How many chunks may wait to be placed, beside those in flight. */
static uint32_t worker_extra_count(const FastloadWorker *w)
{
    return w->fl->active_count * FASTLOAD_POOL_EXTRA_EACH +
           FASTLOAD_POOL_EXTRA_COUNT;
}

/* How many chunks of staging there should be: more for a wider window. */
static uint32_t worker_staging_count(const FastloadWorker *w,
                                     const WorkerTurn *turn)
{
    return turn->window_bytes / FASTLOAD_CHUNK_BYTES + worker_extra_count(w);
}

/*
 * The worker that serves faults may read hints even while it may not read
 * ahead: one at a time, which takes no longer than the fault that it saves.
 */
static bool worker_has_hint_room(const FastloadWorker *w,
                                 const WorkerTurn *turn)
{
    return turn->may_hint && w->free_hints &&
           w->hint_count < turn->hint_count &&
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
    fastload_read_plan(read, w->file_generation,
                       fastload_window_gap_bytes(&fl->window, turn->now_ns));
    worker_choose_file(w, read);
    w->issuing = read;
    return true;
}

/* Takes the next chunk for issuing; false when there is none, or no room. */
static bool worker_take_chunk(FastloadWorker *w, const WorkerTurn *turn)
{
    Fastload *fl = w->fl;
    FastloadRead *read;
    uint64_t chunk_idx;

    /* Placement may be slow: what was read must not pile up meanwhile. */
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
        /* A ring of another worker is broken: this one is about to be left. */
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
    fastload_read_plan(read, w->file_generation,
                       fastload_window_hole_bytes(&fl->window, turn->now_ns));
    worker_choose_file(w, read);
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

/* A hint or a chunk is READY: all its requests have returned. */
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
    uint32_t req_bytes_max =
        fastload_window_req_bytes(&w->fl->window, turn->now_ns,
                                  turn->window_bytes);

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
    /* Counted before the set may count as replayed. */
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
 * Places the hint that returned first.  One that has failed is dropped: the
 * background reads its pages later.
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

/* Is there something that this worker may place, or must pass on? */
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
 * When the kernel has no memory for an asynchronous read, or cannot pin the
 * buffer, that says nothing about the storage.  preadv() needs neither: the
 * request is made again with it, and its result counts.  Returns whether that
 * was done.
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
    bool is_sample;

    fastload_stats_add(&w->counters.read_bytes, req->done_bytes);
    trace_fastload_request_ended(w->fl, w->idx, read->class, req->file_off,
                                 req->len_bytes, w->reaped_ns -
                                 (req->is_urgent ? read->begin_ns
                                                 : req->begin_ns),
                                 -req->error);
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
            worker_queue_req(w, req);
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
        w->hint_count -= !read->is_pooled;
        /*
         * Small requests show a lower rate than the storage has, and the window
         * would shrink with it.  So only those of chunks are samples.
         */
        is_sample = !req->error && !req->tries && !is_without_ring &&
                    !read->is_cached;
        fastload_window_end(&w->fl->window, req, w->reaped_ns,
                            is_sample && read->is_pooled);
        if (is_sample && !read->is_pooled) {
            fastload_window_hint_end(&w->fl->window,
                                     w->reaped_ns - req->begin_ns);
        }
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

/* How far the spare of @read's staging lies behind it. */
static size_t worker_spare_bytes(const FastloadWorker *w,
                                 const FastloadRead *read)
{
    return read->is_pooled ? w->fl->pool.spare_bytes : w->staging_bytes;
}

/* Goes on in the spare staging, with what @read has so far. */
static void worker_use_spare(const FastloadWorker *w, FastloadRead *read)
{
    uint8_t *spare = read->buf + worker_spare_bytes(w, read);

    memcpy(spare, read->buf, read->span.len_bytes);
    read->buf = spare;
    read->is_spare = true;
}

/*
 * The kernel takes no requests from this ring any more, but those that it has
 * may still write to their buffers at any time.  Their reads are made again
 * with preadv() into the spare staging, and nothing else ever uses the old
 * buffers.
 */
static void worker_leave_ring(FastloadWorker *w)
{
    uint32_t i, count = worker_req_count(w->fl);

    w->io_ops->close(w->io);
    worker_open_io(w, &fastload_io_sync_ops);
    assert(w->io); /* with so little memory, GLib also ends the program */
    if (w->idx == 0) {
        /* The ring may have taken messages that nobody will see. */
        fastload_fault_repeat_all(w->fl);
        w->repeat_ns = fastload_stats_now_ns() + FASTLOAD_RING_END_NS;
    }
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
 * Once one ring is broken, all workers leave theirs.  A read of a chunk may
 * have moved to its spare staging, and there is no second spare: no ring may
 * read into it, for that ring could break as well.
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
        /* A read that returns makes room, or the window grows with time. */
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
        /* A hint that returns makes room, and wakes this worker. */
        return worker_has_hint_room(w, turn) ? 0 : UINT64_MAX;
    }
    if (!is_hint && !fastload_pool_has_room(fl, worker_extra_count(w))) {
        return UINT64_MAX; /* the worker that places or renews some kicks us */
    }
    due_ns = is_hint ? 0 : fastload_sched_next_due_ns(fl, false, true);
    if (turn->may_read || due_ns == UINT64_MAX) {
        return due_ns;
    }
    /*
     * The first worker reads once the guest is quiet; others get a kick.  A
     * hold behind a set ends without one if no read was passed on in it.
     */
    return w->idx && !(turn->is_held && fl->hints.set)
        ? UINT64_MAX : MAX(due_ns, turn->quiet_ns);
}

/*
 * Is there spent staging, and a chunk left that needs it?  Hints that are left
 * may have one: nobody is woken when the next hint is a chunk.
 */
static bool worker_has_renewal(const FastloadWorker *w,
                               const WorkerTurn *turn)
{
    Fastload *fl = w->fl;

    return fastload_pool_wants_renewal(fl, worker_staging_count(w, turn)) &&
           (!__atomic_load_n(&fl->hints.is_over, __ATOMIC_RELAXED) ||
            fastload_sched_next_due_ns(fl, false, true) != UINT64_MAX);
}

/* When the worker, which may not place or renew now, may do so. */
static uint64_t worker_place_due_ns(const FastloadWorker *w,
                                    const WorkerTurn *turn)
{
    if (turn->may_place || w->idx >= w->fl->active_count) {
        return UINT64_MAX;
    }
    return fastload_pool_has(w->fl, FASTLOAD_READ_READY) ||
           worker_has_renewal(w, turn) ? turn->quiet_ns : UINT64_MAX;
}

/* Once the set is taken, by any worker, which wakes nobody for that. */
static bool worker_holds_soon(const Fastload *fl)
{
    return fastload_crowd_is_short(fl) &&
           !__atomic_load_n(&fl->hints.is_over, __ATOMIC_RELAXED);
}

/*
 * How long to sleep; -1: without a limit.  Everything that may be begun has
 * been begun.  A completed read, a fault or a kick ends the sleep.  The limit
 * is the next retry that falls due, the next read that the background's rate
 * allows, the end of a recording, or the moment at which the guest counts as
 * quiet or nothing is held back any more, if something waits for that.
 */
static int64_t worker_sleep_ns(const FastloadWorker *w,
                               const WorkerTurn *turn)
{
    uint64_t due_ns =
        fastload_sched_next_due_ns(w->fl, worker_times_faults(w, turn), false);
    uint64_t held_ns, record_due_ns;

    if (w->repeat_ns) {
        due_ns = MIN(due_ns, w->repeat_ns);
    }
    due_ns = MIN(due_ns, worker_read_due_ns(w, turn));
    due_ns = MIN(due_ns, worker_place_due_ns(w, turn));
    /* A fault of this turn may have begun a hold; the end wakes the others. */
    held_ns = w->idx == 0 ? worker_held_ns(w->fl, turn->now_ns) : 0;
    due_ns = held_ns ? MIN(due_ns, held_ns) : due_ns;
    if (w->idx == 0 && (held_ns || worker_holds_soon(w->fl))) {
        /* It ends as well when processors are not short any more. */
        due_ns = MIN(due_ns, turn->now_ns + FASTLOAD_CROWD_HELD_LOOK_NS);
    }
    if (fastload_record_is_on(w->fl)) {
        /*
         * It ends at that time, whether or not a read is due then.  Asked once,
         * for GLib's MIN() would ask twice, and get two answers.
         */
        record_due_ns = fastload_sched_record_due_ns(w->fl);
        due_ns = MIN(due_ns, record_due_ns);
    }
    if (due_ns == UINT64_MAX) {
        return -1;
    }
    return due_ns > turn->now_ns ? (int64_t)(due_ns - turn->now_ns) : 0;
}

/*
 * Renewing staging (a new huge page) takes as long as copying a chunk, and this
 * worker does nothing else meanwhile.  So only while there is nothing to place
 * and no urgent read in flight, and if a chunk is left that needs the staging.
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

/* False: the load has ended without this worker, which was in preadv(). */
static bool worker_poll_io(FastloadWorker *w, int64_t sleep_ns,
                           bool serves_faults)
{
    bool may_block = w->io_ops->is_blocking && w->inflight_count;
    uint32_t blocked = FASTLOAD_BLOCKED_READ;

    /* Both pair with the exchange in session_leave_readers_locked(). */
    if (may_block) {
        __atomic_store_n(&w->blocked, blocked, __ATOMIC_RELEASE);
    }
    w->is_io_broken = !w->io_ops->poll(w->io, sleep_ns, serves_faults);
    return !may_block ||
           __atomic_compare_exchange_n(&w->blocked, &blocked,
                                       FASTLOAD_BLOCKED_NOT, false,
                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static bool worker_was_left(const FastloadWorker *w)
{
    return __atomic_load_n(&w->blocked, __ATOMIC_RELAXED) ==
           FASTLOAD_BLOCKED_LEFT;
}

/*
 * Submits what was queued, and sleeps when there is nothing else to do.
 * Returns whether staging should be renewed.  In that case, and when there is
 * something to place, it has not slept.
 */
static bool worker_poll(FastloadWorker *w, const WorkerTurn *turn,
                        bool *ret_can_place)
{
    bool wants_renewal;
    int64_t sleep_ns;

    /*
     * Sets the flag before it looks for work: a worker that puts a read into
     * the pool after the look sees the flag, and kicks.  Pairs with the
     * exchange in worker_pass_on().
     */
    __atomic_store_n(&w->may_sleep, 1, __ATOMIC_SEQ_CST);
    *ret_can_place = worker_can_place(w, turn);
    wants_renewal = worker_wants_renewal(w, turn);
    sleep_ns = *ret_can_place || wants_renewal || w->ready_hints
        ? 0 : worker_sleep_ns(w, turn);
    if (sleep_ns == 0) {
        __atomic_store_n(&w->may_sleep, 0, __ATOMIC_RELAXED);
    }
    /* A preadv() in poll() may hang: that is not sleeping. */
    if (sleep_ns && !(w->io_ops->is_blocking && w->inflight_count)) {
        __atomic_store_n(&w->awake_ns, 0, __ATOMIC_RELAXED);
    }
    if (!worker_poll_io(w, sleep_ns, turn->serves_faults)) {
        return false;
    }
    __atomic_store_n(&w->may_sleep, 0, __ATOMIC_RELAXED);
    if (sleep_ns) {
        /* The rest of this turn may hang, too: in statx(), or in preadv(). */
        __atomic_store_n(&w->awake_ns, fastload_stats_now_ns(),
                         __ATOMIC_RELAXED);
    }
    return wants_renewal;
}

/* Notices that the file was replaced, before it queues any more requests. */
static void worker_note_file(FastloadWorker *w)
{
    uint32_t file_generation = __atomic_load_n(&w->fl->file.generation,
                                          __ATOMIC_ACQUIRE);

    if (w->file_generation == file_generation || file_generation % 2) {
        return; /* not replaced, or the replacement is not complete */
    }
    w->file_generation = file_generation;
    if (w->io_ops->reopen) {
        w->io_ops->reopen(w->io);
    }
    if (w->issuing) {
        /* Part of it was read from the old file: read it all again. */
        fastload_read_fail(w->issuing, FASTLOAD_FAILURE_CHANGED, -ESTALE,
                           w->issuing->area->file_off +
                           w->issuing->span.ram_off);
    }
}

/*
 * Acts on the outcomes of this turn and of the end of the last one, before the
 * worker may sleep.  They may be out of date: before the session calls the load
 * stalled, it checks again whether reads still fail.
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
        /* The first worker must sleep no longer than until this is due. */
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

/* Ends a recording whose time is over, and wakes the workers it held back. */
static void worker_end_recording(FastloadWorker *w, const WorkerTurn *turn)
{
    Fastload *fl = w->fl;

    if (fastload_record_is_on(fl) &&
        turn->now_ns >= fastload_sched_record_due_ns(fl) &&
        fastload_record_end(fl, turn->now_ns)) {
        fastload_session_kick_all(fl, w);
    }
}

/*
 * The kernel ends a ring some time after close().  It may take one more message
 * meanwhile, if a thread faulted just before and the kernel lacks the change
 * "io_uring: include dying ring in task_work 'should cancel' state" of 2025.
 * So all threads that wait are woken once more.
 */
static void worker_repeat_faults(FastloadWorker *w, uint64_t now_ns)
{
    if (w->repeat_ns && now_ns >= w->repeat_ns) {
        w->repeat_ns = 0;
        fastload_fault_repeat_all(w->fl);
    }
}

/*
 * Looks whether processors are short, and wakes the workers that were not woken
 * while the background was held back.  Returns whether that has changed.
 */
static bool worker_watch_crowd(FastloadWorker *w, const WorkerTurn *turn)
{
    Fastload *fl = w->fl;
    bool has_changed = fastload_crowd_look(fl, turn->now_ns);

    if (has_changed ||
        (!turn->is_held &&
         __atomic_exchange_n(&fl->crowd.is_kick_due, 0, __ATOMIC_ACQ_REL))) {
        fastload_session_kick_all(fl, w);
    }
    return has_changed;
}

static void worker_turn(FastloadWorker *w)
{
    WorkerTurn turn = worker_turn_of(w, fastload_stats_now_ns());
    bool wants_renewal = false, can_place = false, has_hint;

    __atomic_store_n(&w->awake_ns, turn.now_ns, __ATOMIC_RELAXED);
    if (worker_must_leave_ring(w)) {
        worker_leave_ring(w);
    }
    worker_repeat_faults(w, turn.now_ns);
    if (w->idx == 0 && worker_watch_crowd(w, &turn)) {
        turn = worker_turn_of(w, turn.now_ns); /* it kicks the others alone */
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
        /* Submits reads before the worker is busy with placing. */
        wants_renewal = worker_poll(w, &turn, &can_place);
    }
    if (worker_was_left(w)) {
        return;
    }
    if (w->batch.len_bytes) {
        /* Nobody else sees these, so they are queued before anything hangs. */
        w->early_fault_count = fastload_fault_take_batch(w);
        /* If the batch was not full, the ring has taken all there were. */
        w->is_ready[FASTLOAD_IO_WATCH_FAULTS] =
            w->early_fault_count == FASTLOAD_FAULT_BATCH_MAX;
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
        /* That took a while: look for faults before the next turn's work. */
        w->is_ready[FASTLOAD_IO_WATCH_FAULTS] = true;
    }
}

/* Reads the eventfd, which stays readable, and wakes poll(), until then. */
static void worker_take_kick(FastloadWorker *w)
{
    uint64_t kicks;

    if (worker_take_ready(w, FASTLOAD_IO_WATCH_KICKS) &&
        read(w->kick_fd, &kicks, sizeof(kicks)) > 0) {
        trace_fastload_worker_kicked(w->fl, w->idx);
    }
}

/*
 * Waits for the reads in flight, for the kernel may still write to their
 * staging, but not for long: nobody needs their data, since all is placed or
 * the load was cancelled.  The last worker has to report the end of the load
 * and to release threads that wait for a page of a cancelled load, and storage
 * that does not answer, or a broken ring, must not prevent that.  So after
 * FASTLOAD_DRAIN_NS_MAX the reads are abandoned: their staging counts as lost,
 * and its addresses stay reserved until the process ends
 * (fastload_pool_unmap()).
 *
 * With preadv() nothing is in flight here: a read blocks its thread in the
 * kernel until storage answers, and requests that are only queued never begin.
 * A worker that does not come back from a read is left by the others
 * (session_leave_readers_locked()).
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
 * Where processors are short, guests come before what is loaded for them: a
 * worker that only reads ahead and places gets a higher nice value.  That needs
 * no privilege, but cannot be undone without one.  If it is refused, by a
 * seccomp filter for example, the load works all the same.
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
    if (w->idx == 0) {
        fastload_crowd_open(w->fl);
    }
    fastload_session_worker_ready(w);
    while (w->io && !worker_was_left(w) && !fastload_session_is_ending(w->fl)) {
        worker_take_kick(w);
        worker_turn(w);
    }
    if (worker_was_left(w)) {
        w->io_ops->close(w->io);
        fastload_session_worker_left(w);
        return NULL;
    }
    if (w->io) {
        worker_drain(w);
        w->io_ops->close(w->io);
        w->io = NULL;
    }
    fastload_session_worker_ended(w);
    return NULL;
}
