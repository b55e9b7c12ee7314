/*
 * fastload sched: what to read next.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two queues for all workers: faults (high priority, a bounded ring) and
 * chunks (low priority, a cursor and a state per chunk), those of early regions
 * first, otherwise in file order.  Between the two comes the working set that
 * is replayed, if there is one (util/fastload-hints.c).  While a working set is
 * recorded, the chunks wait.
 * Failed pages and chunks come back through the same two queues when
 * fastload-retry.c says so; fastload-rate.c says how much may be read ahead.
 * sched.lock guards all three.  Does no I/O, and waits for nothing but
 * sched.lock, under which nothing waits.  When the queue has no room for a
 * fault, its thread is woken after sched.lock is released, and faults again.
 *
 * A chunk:
 *
 *   PENDING --take--> TAKEN --all pages placed--> DONE
 *                     |   ^
 *                 read|   |take, when the back-off is over
 *               failed v  |
 *                     FAILED
 *
 * UNTRAPPED chunks stay what they are.
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

void fastload_sched_prepare(Fastload *fl)
{
    uint64_t chunk_count = 0;
    guint a;

    for (a = 0; a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        area->idx = a;
        area->first_chunk_no = chunk_count;
        chunk_count += area->chunk_count;
    }
    fastload_retry_prepare(&fl->retry, chunk_count);
}

static void sched_push_locked(Fastload *fl, const FastloadFault *fault)
{
    uint32_t at = (fl->sched.fault_head + fl->sched.fault_count) %
                  FASTLOAD_FAULT_COUNT_MAX;

    assert(fl->sched.fault_count < FASTLOAD_FAULT_COUNT_MAX);
    fl->sched.faults[at] = *fault;
    fl->sched.fault_count++;
}

/* The entry of the same page in the queue, of which there is one at most. */
static FastloadFault *sched_find_locked(Fastload *fl,
                                        const FastloadFault *fault)
{
    uint32_t i;

    for (i = 0; i < fl->sched.fault_count; i++) {
        FastloadFault *queued = &fl->sched.faults[(fl->sched.fault_head + i) %
                                                  FASTLOAD_FAULT_COUNT_MAX];

        if (queued->area == fault->area &&
            queued->page_idx == fault->page_idx &&
            queued->is_discarded == fault->is_discarded) {
            return queued;
        }
    }
    return NULL;
}

bool fastload_sched_push_fault(Fastload *fl, const FastloadFault *fault)
{
    bool fits = true;

    g_mutex_lock(&fl->sched.lock);
    /*
     * A thread that was woken after its read failed faults again.  The page's
     * entry in the queue knows about the failure, so it stays as it is: a new
     * entry would be read at once, and would go on failing without back-off.
     */
    if (!sched_find_locked(fl, fault)) {
        fits = fl->sched.fault_count < FASTLOAD_FAULT_COUNT_MAX;
        if (fits) {
            sched_push_locked(fl, fault);
        }
    }
    g_mutex_unlock(&fl->sched.lock);
    return fits;
}

bool fastload_sched_pop_fault(Fastload *fl, uint64_t now_ns,
                              FastloadRead *read, FastloadFault *ret_fault)
{
    bool found = false;
    uint32_t i;

    g_mutex_lock(&fl->sched.lock);
    for (i = 0; i < fl->sched.fault_count && !found; i++) {
        FastloadFault fault = fl->sched.faults[fl->sched.fault_head];

        fl->sched.fault_head = (fl->sched.fault_head + 1) %
                               FASTLOAD_FAULT_COUNT_MAX;
        fl->sched.fault_count--;
        if (fault.not_before_ns > now_ns) {
            sched_push_locked(fl, &fault);
        } else {
            *ret_fault = read->fault = fault;
            found = true;
        }
    }
    g_mutex_unlock(&fl->sched.lock);
    return found;
}

static bool sched_is_waited_for_locked(const FastloadFault *fault)
{
    if (!fault->area || __atomic_load_n(&fault->area->is_dropped,
                                        __ATOMIC_ACQUIRE)) {
        return false;
    }
    /* If its chunk has brought the page, nobody waits for this fault. */
    return fault->is_discarded || !fastload_bit_test(fault->area->placed,
                                                     fault->page_idx);
}

/* Calls @func with every fault in the queue and of the urgent reads. */
static void sched_for_each_fault_locked(Fastload *fl,
                                        void (*func)(FastloadFault *fault,
                                                     void *opaque),
                                        void *opaque)
{
    uint32_t i, r;

    for (i = 0; i < fl->sched.fault_count; i++) {
        uint32_t at = (fl->sched.fault_head + i) % FASTLOAD_FAULT_COUNT_MAX;

        func(&fl->sched.faults[at], opaque);
    }
    for (i = 0; i < fl->config.worker_count; i++) {
        for (r = 0; r < fl->urgent_read_count; r++) {
            func(&fl->workers[i].reads[r].fault, opaque);
        }
    }
}

static void sched_find_oldest_locked(FastloadFault *fault, void *opaque)
{
    uint64_t *begin_ns = opaque;

    if (sched_is_waited_for_locked(fault)) {
        *begin_ns = MIN(*begin_ns, fault->begin_ns);
    }
}

/* When the oldest fault began; UINT64_MAX: nobody waits. */
static uint64_t sched_oldest_fault_locked(Fastload *fl)
{
    uint64_t begin_ns = UINT64_MAX;

    sched_for_each_fault_locked(fl, sched_find_oldest_locked, &begin_ns);
    return begin_ns;
}

uint64_t fastload_sched_oldest_fault_ns(Fastload *fl)
{
    uint64_t begin_ns;

    g_mutex_lock(&fl->sched.lock);
    begin_ns = sched_oldest_fault_locked(fl);
    g_mutex_unlock(&fl->sched.lock);
    return begin_ns == UINT64_MAX ? 0 : begin_ns;
}

static void sched_make_as_old_locked(FastloadFault *fault, void *opaque)
{
    const FastloadFault *settled = opaque;

    if (fault->area == settled->area &&
        fault->page_idx == settled->page_idx) {
        fault->begin_ns = MIN(fault->begin_ns, settled->begin_ns);
    }
}

uint32_t fastload_sched_fault_room(Fastload *fl)
{
    uint32_t room;

    g_mutex_lock(&fl->sched.lock);
    room = FASTLOAD_FAULT_COUNT_MAX - fl->sched.fault_count;
    g_mutex_unlock(&fl->sched.lock);
    return room;
}

bool fastload_sched_fault_is_due(Fastload *fl, uint64_t now_ns)
{
    bool is_due = false;
    uint32_t i;

    g_mutex_lock(&fl->sched.lock);
    for (i = 0; i < fl->sched.fault_count && !is_due; i++) {
        uint32_t at = (fl->sched.fault_head + i) % FASTLOAD_FAULT_COUNT_MAX;

        is_due = fl->sched.faults[at].not_before_ns <= now_ns;
    }
    g_mutex_unlock(&fl->sched.lock);
    return is_due;
}

uint64_t fastload_sched_quiet_ns(Fastload *fl)
{
    uint64_t last_ns = __atomic_load_n(&fl->sched.last_fault_ns,
                                       __ATOMIC_RELAXED);
    uint64_t quiet_ns = last_ns + FASTLOAD_FAULT_QUIET_NS;

    if (!fastload_crowd_is_short(fl)) {
        return quiet_ns;
    }
    /* A guest that has no processor does not fault, and is not quiet. */
    return MAX(quiet_ns, MIN(last_ns + FASTLOAD_CROWD_QUIET_NS,
                             fl->start_ns + FASTLOAD_HOLD_NS));
}

uint64_t fastload_sched_queue_ns(Fastload *fl, uint64_t now_ns)
{
    uint64_t last_ns = __atomic_load_n(&fl->sched.last_fault_ns,
                                       __ATOMIC_RELAXED);

    if (now_ns < last_ns + FASTLOAD_FAULT_QUIET_NS) {
        return 0;
    }
    return now_ns < last_ns + FASTLOAD_FAULT_CALM_NS ? FASTLOAD_QUIET_QUEUE_NS
                                                     : FASTLOAD_CALM_QUEUE_NS;
}

/* Moves the cursor to the next chunk that is PENDING; its area, or NULL. */
static FastloadArea *sched_find_pending_locked(Fastload *fl)
{
    for (; fl->sched.next_area < fl->areas->len; fl->sched.next_area++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, fl->sched.next_area);

        for (; area->is_trapped && fl->sched.next_chunk < area->chunk_count;
             fl->sched.next_chunk++) {
            if (area->chunk_states[fl->sched.next_chunk] ==
                FASTLOAD_CHUNK_PENDING) {
                return area;
            }
        }
        fl->sched.next_chunk = 0;
    }
    return NULL;
}

/* Is the next chunk of an early area, which no rate or recording delays? */
static bool sched_is_early_next_locked(Fastload *fl)
{
    /* The cursor may be at the end of an area, with an early one behind it. */
    const FastloadArea *area = sched_find_pending_locked(fl);

    return area && area->is_early;
}

/*
 * Are all early areas placed?  They come first, and are small.  Start has
 * loaded those that are not trapped.
 */
static bool sched_early_is_done_locked(Fastload *fl)
{
    uint32_t c;
    guint a;

    for (a = 0; !fl->sched.is_early_done && a < fl->areas->len; a++) {
        const FastloadArea *area = g_ptr_array_index(fl->areas, a);

        if (!area->is_early) {
            break;
        }
        for (c = 0; area->is_trapped && c < area->chunk_count; c++) {
            if (area->chunk_states[c] == FASTLOAD_CHUNK_PENDING ||
                area->chunk_states[c] == FASTLOAD_CHUNK_TAKEN ||
                area->chunk_states[c] == FASTLOAD_CHUNK_FAILED) {
                return false;
            }
        }
    }
    fl->sched.is_early_done = true;
    return true;
}

/* Until when the background is held back while processors are short. */
static uint64_t sched_hold_end_ns(Fastload *fl)
{
    uint64_t quiet_ns = fastload_sched_quiet_ns(fl);
    uint64_t end_ns = MIN(quiet_ns, fl->start_ns + FASTLOAD_HOLD_NS);
    uint64_t set_ns = fl->start_ns + fastload_hints_hold_ns(&fl->hints);

    if (!__atomic_load_n(&fl->hints.is_over, __ATOMIC_RELAXED)) {
        return 0; /* the background reads the chunks of the set */
    }
    return MAX(end_ns, set_ns);
}

uint64_t fastload_sched_held_ns(Fastload *fl, uint64_t now_ns)
{
    uint64_t held_ns = fastload_crowd_is_short(fl) ? sched_hold_end_ns(fl) : 0;
    bool is_early_done;

    if (now_ns >= held_ns) {
        return 0;
    }
    /* The guest may wait for these before it runs. */
    g_mutex_lock(&fl->sched.lock);
    is_early_done = sched_early_is_done_locked(fl);
    g_mutex_unlock(&fl->sched.lock);
    return is_early_done ? held_ns : 0;
}

static uint64_t sched_record_due_locked(Fastload *fl)
{
    return fastload_record_is_on(fl)
        ? fastload_record_due_ns(&fl->record, sched_oldest_fault_locked(fl) !=
                                              UINT64_MAX) : 0;
}

uint64_t fastload_sched_record_due_ns(Fastload *fl)
{
    uint64_t due_ns;

    g_mutex_lock(&fl->sched.lock);
    due_ns = sched_record_due_locked(fl);
    g_mutex_unlock(&fl->sched.lock);
    return due_ns;
}

static uint64_t sched_rate_due_locked(Fastload *fl)
{
    uint64_t due_ns, record_due_ns;

    if (!fastload_rate_is_off_locked(&fl->rate) &&
        sched_is_early_next_locked(fl)) {
        return 0;
    }
    /* Asked once, since it goes through all faults; GLib's MAX() asks twice. */
    due_ns = fastload_rate_due_ns_locked(&fl->rate);
    record_due_ns = sched_record_due_locked(fl);
    return MAX(due_ns, record_due_ns);
}

uint64_t fastload_sched_rate_due_ns(Fastload *fl)
{
    uint64_t due_ns, probe_due_ns;

    g_mutex_lock(&fl->sched.lock);
    /* A probe must wait for a read that is half issued, so that goes on too. */
    due_ns = sched_rate_due_locked(fl);
    probe_due_ns = fastload_retry_probe_due_ns_locked(&fl->retry);
    due_ns = MIN(due_ns, probe_due_ns);
    g_mutex_unlock(&fl->sched.lock);
    return due_ns;
}

/* Is a failed chunk tried in advance of the rate now? */
static bool sched_is_probe_due_locked(Fastload *fl, uint64_t now_ns)
{
    return sched_rate_due_locked(fl) &&
           now_ns >= fastload_retry_probe_due_ns_locked(&fl->retry);
}

uint32_t fastload_sched_rate_take(Fastload *fl, uint64_t now_ns,
                                  const FastloadRead *read,
                                  uint32_t want_bytes)
{
    uint32_t take_bytes = want_bytes;

    g_mutex_lock(&fl->sched.lock);
    fastload_rate_count_locked(&fl->rate, now_ns);
    if (read->class == FASTLOAD_CLASS_HINT ||
        (read->area->is_early && !fastload_rate_is_off_locked(&fl->rate))) {
        /* Not charged. */
    } else if (read->is_probe || sched_is_probe_due_locked(fl, now_ns)) {
        fastload_rate_charge_locked(&fl->rate, take_bytes);
    } else if (sched_rate_due_locked(fl)) {
        take_bytes = 0;
    } else {
        take_bytes = fastload_rate_take_locked(&fl->rate, want_bytes);
    }
    g_mutex_unlock(&fl->sched.lock);
    return take_bytes;
}

void fastload_sched_rate_charge(Fastload *fl, uint32_t read_bytes)
{
    g_mutex_lock(&fl->sched.lock);
    fastload_rate_charge_locked(&fl->rate, read_bytes);
    g_mutex_unlock(&fl->sched.lock);
}

void fastload_sched_rate_set(Fastload *fl, uint64_t now_ns,
                             uint64_t bytes_per_s)
{
    g_mutex_lock(&fl->sched.lock);
    fastload_rate_set_locked(&fl->rate, now_ns, bytes_per_s);
    g_mutex_unlock(&fl->sched.lock);
}

void fastload_sched_retry_now(Fastload *fl)
{
    uint32_t i;

    g_mutex_lock(&fl->sched.lock);
    fastload_retry_now_locked(&fl->retry);
    for (i = 0; i < fl->sched.fault_count; i++) {
        uint32_t at = (fl->sched.fault_head + i) % FASTLOAD_FAULT_COUNT_MAX;
        FastloadFault *fault = &fl->sched.faults[at];

        /* Not 0, which means a fault that has not failed. */
        fault->not_before_ns = MIN(fault->not_before_ns, 1);
    }
    g_mutex_unlock(&fl->sched.lock);
}

static FastloadArea *sched_area_of_chunk(const Fastload *fl, uint32_t chunk_no)
{
    guint low = 0, high = fl->areas->len;
    FastloadArea *area;

    /* The last one that begins at @chunk_no or before. */
    while (high - low > 1) {
        guint mid = low + (high - low) / 2;

        area = g_ptr_array_index(fl->areas, mid);
        if (area->first_chunk_no <= chunk_no) {
            low = mid;
        } else {
            high = mid;
        }
    }
    area = g_ptr_array_index(fl->areas, low);
    return area;
}

static bool sched_take_failed_locked(Fastload *fl, FastloadArea **ret_area,
                                     uint64_t *ret_chunk_idx)
{
    FastloadArea *area;
    uint32_t chunk_no;
    uint64_t c;

    if (!fastload_retry_pop_chunk_locked(&fl->retry, &chunk_no)) {
        return false;
    }
    area = sched_area_of_chunk(fl, chunk_no);
    c = chunk_no - area->first_chunk_no;
    assert(area->chunk_states[c] == FASTLOAD_CHUNK_FAILED);
    area->chunk_states[c] = FASTLOAD_CHUNK_TAKEN;
    *ret_area = area;
    *ret_chunk_idx = c;
    return true;
}

static bool sched_take_pending_locked(Fastload *fl, FastloadArea **ret_area,
                                      uint64_t *ret_chunk_idx)
{
    FastloadArea *area = sched_find_pending_locked(fl);

    if (!area) {
        return false;
    }
    *ret_area = area;
    *ret_chunk_idx = fl->sched.next_chunk++;
    area->chunk_states[*ret_chunk_idx] = FASTLOAD_CHUNK_TAKEN;
    return true;
}

/*
 * The next hint.  It waits until early areas are read, unless those are held
 * back themselves (FASTLOAD_BACKGROUND_OFF), and for the back-off while the
 * file counts as changed.
 */
static FastloadHintKind sched_find_hint_locked(Fastload *fl, uint64_t now_ns,
                                               FastloadArea **ret_area,
                                               uint64_t *ret_page_idx)
{
    const FastloadArea *area = sched_find_pending_locked(fl);
    bool is_held = now_ns < fastload_retry_pending_due_ns_locked(&fl->retry) ||
                   (!fastload_rate_is_off_locked(&fl->rate) &&
                    area && area->is_early);

    return is_held ? FASTLOAD_HINT_NONE
                   : fastload_hints_find_locked(fl, ret_area, ret_page_idx);
}

FastloadHintKind fastload_sched_hint_kind(Fastload *fl, uint64_t now_ns)
{
    FastloadHintKind kind;
    FastloadArea *area;
    uint64_t page_idx;

    if (__atomic_load_n(&fl->hints.is_over, __ATOMIC_RELAXED)) {
        return FASTLOAD_HINT_NONE;
    }
    g_mutex_lock(&fl->sched.lock);
    kind = sched_find_hint_locked(fl, now_ns, &area, &page_idx);
    g_mutex_unlock(&fl->sched.lock);
    return kind;
}

bool fastload_sched_next_hint(Fastload *fl, uint64_t now_ns,
                              uint64_t gap_bytes, FastloadRead *read)
{
    FastloadHintKind kind;
    FastloadArea *area;
    uint64_t page_idx;

    g_mutex_lock(&fl->sched.lock);
    kind = sched_find_hint_locked(fl, now_ns, &area, &page_idx);
    if (kind == FASTLOAD_HINT_PAGES) {
        read->area = area;
        read->span = fastload_hints_take_pages_locked(fl, area, page_idx,
                                                      gap_bytes);
    }
    g_mutex_unlock(&fl->sched.lock);
    return kind == FASTLOAD_HINT_PAGES;
}

void fastload_sched_hint_done(Fastload *fl, const FastloadRead *read)
{
    trace_fastload_read_done(fl, read->area->hva, read->span.ram_off,
                             read->class, -read->error);
    g_mutex_lock(&fl->sched.lock);
    fastload_hints_done_locked(fl);
    g_mutex_unlock(&fl->sched.lock);
}

/* Takes the chunk of the next hint, if it is to be read whole. */
static bool sched_take_hint_locked(Fastload *fl, uint64_t now_ns,
                                   FastloadArea **ret_area,
                                   uint64_t *ret_chunk_idx)
{
    FastloadArea *area;
    uint64_t page_idx, c;

    if (sched_find_hint_locked(fl, now_ns, &area, &page_idx) !=
        FASTLOAD_HINT_CHUNK) {
        return false;
    }
    c = fastload_plan_chunk_of(area, page_idx << area->page_shift);
    area->chunk_states[c] = FASTLOAD_CHUNK_TAKEN;
    fastload_hints_take_chunk_locked(fl, area, c);
    *ret_area = area;
    *ret_chunk_idx = c;
    return true;
}

bool fastload_sched_next_chunk(Fastload *fl, uint64_t now_ns,
                               FastloadRead *read, uint64_t *ret_chunk_idx)
{
    bool is_held, found = false;

    g_mutex_lock(&fl->sched.lock);
    read->is_probe = read->is_retried = false;
    if (sched_take_hint_locked(fl, now_ns, &read->area, ret_chunk_idx)) {
        read->class = FASTLOAD_CLASS_HINT;
        g_mutex_unlock(&fl->sched.lock);
        return true;
    }
    read->class = FASTLOAD_CLASS_BACKGROUND;
    fastload_rate_count_locked(&fl->rate, now_ns);
    is_held = sched_rate_due_locked(fl) != 0;
    read->is_probe = sched_is_probe_due_locked(fl, now_ns);
    if (read->is_probe || (!is_held && fl->retry.failed_chunk_count &&
                           now_ns >= fl->retry.due_ns)) {
        found = sched_take_failed_locked(fl, &read->area, ret_chunk_idx);
        fl->retry.is_probe_out = fl->retry.is_probe_out || read->is_probe;
    }
    read->is_retried = found;
    if (!is_held && !found &&
        now_ns >= fastload_retry_pending_due_ns_locked(&fl->retry)) {
        found = sched_take_pending_locked(fl, &read->area, ret_chunk_idx);
    }
    g_mutex_unlock(&fl->sched.lock);
    return found;
}

bool fastload_sched_may_take_whole(Fastload *fl, const FastloadArea *area,
                                   uint64_t chunk_idx)
{
    bool is_pending;

    g_mutex_lock(&fl->sched.lock);
    is_pending = area->chunk_states[chunk_idx] == FASTLOAD_CHUNK_PENDING &&
                 fastload_rate_is_none_locked(&fl->rate) &&
                 !fl->retry.failed_round_count;
    g_mutex_unlock(&fl->sched.lock);
    return is_pending;
}

bool fastload_sched_take_whole(Fastload *fl, FastloadArea *area,
                               uint64_t chunk_idx)
{
    bool is_pending;

    g_mutex_lock(&fl->sched.lock);
    is_pending = area->chunk_states[chunk_idx] == FASTLOAD_CHUNK_PENDING;
    if (is_pending) {
        area->chunk_states[chunk_idx] = FASTLOAD_CHUNK_TAKEN;
    }
    g_mutex_unlock(&fl->sched.lock);
    return is_pending;
}

/*
 * When a chunk of the working set is due, or when hints may be taken again
 * after the file has changed.  UINT64_MAX: neither.
 */
static uint64_t sched_hint_chunk_due_locked(Fastload *fl)
{
    uint64_t due_ns = fastload_retry_pending_due_ns_locked(&fl->retry);
    FastloadHintKind kind;
    FastloadArea *area;
    uint64_t page_idx;

    if (__atomic_load_n(&fl->hints.is_over, __ATOMIC_RELAXED)) {
        return UINT64_MAX;
    }
    kind = fastload_hints_find_locked(fl, &area, &page_idx);
    return kind == FASTLOAD_HINT_CHUNK ||
           (kind == FASTLOAD_HINT_PAGES && due_ns) ? due_ns : UINT64_MAX;
}

uint64_t fastload_sched_next_due_ns(Fastload *fl, bool takes_faults,
                                    bool takes_chunks)
{
    uint64_t due_ns = UINT64_MAX;
    uint32_t i;

    g_mutex_lock(&fl->sched.lock);
    if (takes_chunks && fl->retry.failed_chunk_count) {
        due_ns = fl->retry.due_ns;
    }
    if (takes_chunks && fl->sched.next_area < fl->areas->len) {
        due_ns = MIN(due_ns,
                     fastload_retry_pending_due_ns_locked(&fl->retry));
    }
    due_ns = MAX(due_ns, sched_rate_due_locked(fl));
    if (takes_chunks) {
        due_ns = MIN(due_ns,
                     fastload_retry_probe_due_ns_locked(&fl->retry));
        due_ns = MIN(due_ns, sched_hint_chunk_due_locked(fl));
    }
    for (i = 0; takes_faults && i < fl->sched.fault_count; i++) {
        uint32_t at = (fl->sched.fault_head + i) % FASTLOAD_FAULT_COUNT_MAX;

        due_ns = MIN(due_ns, fl->sched.faults[at].not_before_ns);
    }
    g_mutex_unlock(&fl->sched.lock);
    return due_ns;
}

static bool sched_is_stalled_locked(Fastload *fl)
{
    return fastload_retry_may_stall_locked(&fl->retry) &&
           fastload_retry_is_stalled_locked(&fl->retry,
                                            fastload_stats_now_ns(),
                                            sched_oldest_fault_locked(fl));
}

bool fastload_sched_is_stalled(Fastload *fl, FastloadFailure *ret_failure)
{
    bool is_stalled;

    g_mutex_lock(&fl->sched.lock);
    is_stalled = sched_is_stalled_locked(fl);
    if (is_stalled) {
        *ret_failure = fl->retry.failure;
    }
    g_mutex_unlock(&fl->sched.lock);
    return is_stalled;
}

bool fastload_is_failing(Fastload *fl, FastloadFailure *ret_failure)
{
    bool is_failing;

    g_mutex_lock(&fl->sched.lock);
    /* A page that failed may have come with its chunk: is any missing? */
    is_failing = fl->retry.failing_count && fl->retry.is_failure_known &&
                 __atomic_load_n(&fl->missing_bytes, __ATOMIC_RELAXED);
    if (is_failing) {
        *ret_failure = fl->retry.failure;
    }
    g_mutex_unlock(&fl->sched.lock);
    return is_failing;
}

static void sched_find_failed_locked(FastloadFault *fault, void *opaque)
{
    bool *has_failed = opaque;

    *has_failed = *has_failed || (sched_is_waited_for_locked(fault) &&
                                  fault->not_before_ns);
}

bool fastload_has_failed_faults(Fastload *fl)
{
    bool has_failed = false;

    g_mutex_lock(&fl->sched.lock);
    sched_for_each_fault_locked(fl, sched_find_failed_locked, &has_failed);
    g_mutex_unlock(&fl->sched.lock);
    return has_failed;
}

FastloadOutcome fastload_sched_fault_settled(Fastload *fl,
                                             FastloadRead *read)
{
    bool is_recovered = false;
    FastloadFault fault;

    g_mutex_lock(&fl->sched.lock);
    fault = read->fault;
    read->fault.area = NULL;
    if (fault.not_before_ns) {
        /* A later fault of the page counts as waiting since this one began. */
        sched_for_each_fault_locked(fl, sched_make_as_old_locked, &fault);
        if (fastload_bit_test(fault.area->placed, fault.page_idx)) {
            is_recovered = fastload_retry_ended_locked(&fl->retry,
                !__atomic_load_n(&fault.area->is_dropped, __ATOMIC_ACQUIRE));
        } else {
            fl->retry.failing_count--; /* the read that claimed it counts */
        }
    }
    g_mutex_unlock(&fl->sched.lock);
    return is_recovered ? FASTLOAD_OUTCOME_RESUMED : FASTLOAD_OUTCOME_NONE;
}

/*
 * Puts the fault back into the queue, in place of an entry that came while it
 * was read; otherwise nobody would read the page.  An entry that has failed
 * stays: zeros fail for each thread that touches their page, and the page waits
 * once.  False: the queue is full.  The caller then releases the lock and calls
 * sched_send_back(), a system call.
 */
static bool sched_put_back_locked(Fastload *fl, const FastloadFault *fault)
{
    FastloadFault *queued = sched_find_locked(fl, fault);

    if (queued && queued->not_before_ns) {
        assert(fault->not_before_ns); /* reads that fail have claimed it */
        queued->begin_ns = MIN(queued->begin_ns, fault->begin_ns);
        fl->retry.failing_count--; /* both were counted */
    } else if (queued) {
        *queued = *fault;
    } else if (fl->sched.fault_count == FASTLOAD_FAULT_COUNT_MAX) {
        return false;
    } else {
        sched_push_locked(fl, fault);
    }
    return true;
}

/* The same, to be read when the back-off is over. */
static bool sched_requeue_locked(Fastload *fl, const FastloadFault *fault)
{
    FastloadFault later = *fault;

    later.not_before_ns = MAX(fl->retry.due_ns, 1); /* 0: it never failed */
    return sched_put_back_locked(fl, &later);
}

/* Without room here, the thread faults again, and the kernel queues that. */
static void sched_send_back(const Fastload *fl, const FastloadFault *fault)
{
    fastload_uffd_wake(fl->uffd, fault->area->hva +
                       (fault->page_idx << fault->area->page_shift),
                       fault->area->page_bytes);
}

FastloadOutcome fastload_sched_zero_failed(Fastload *fl,
                                           const FastloadFault *fault,
                                           int error_number,
                                           uint64_t now_ns)
{
    FastloadFailure failure = {
        .kind = FASTLOAD_FAILURE_PLACE,
        .error_number = error_number,
        .file_off = fault->area->file_off +
                    (fault->page_idx << fault->area->page_shift),
    };
    bool is_queued, is_stalled;

    g_mutex_lock(&fl->sched.lock);
    fastload_retry_failed_locked(&fl->retry, now_ns, &failure);
    fl->retry.failing_count++;
    is_queued = sched_requeue_locked(fl, fault);
    fl->retry.failing_count -= !is_queued;
    is_stalled = sched_is_stalled_locked(fl);
    g_mutex_unlock(&fl->sched.lock);
    if (!is_queued) {
        sched_send_back(fl, fault);
    }
    return is_stalled ? FASTLOAD_OUTCOME_STALLED : FASTLOAD_OUTCOME_NONE;
}

/*
 * A read of several pages may have failed because of one that nobody waits for.
 * So the page that somebody waits for is read alone, at once, and only if that
 * fails has the page failed.  Returns as sched_put_back_locked().
 */
static bool sched_around_failed_locked(Fastload *fl, FastloadRead *read)
{
    FastloadFault alone = read->fault;

    fastload_bit_clear(read->area->claimed, alone.page_idx);
    alone.is_alone = true;
    return sched_put_back_locked(fl, &alone);
}

/* Returns whether it is queued for a retry; as sched_put_back_locked(). */
static bool sched_read_failed_locked(Fastload *fl, FastloadRead *read,
                                     uint64_t now_ns)
{
    FastloadFailure failure = {
        .kind = read->error_kind,
        .error_number = -read->error,
        .file_off = read->error_file_off,
    };

    if (read->class == FASTLOAD_CLASS_URGENT &&
        read->span.len_bytes > read->area->page_bytes) {
        return sched_around_failed_locked(fl, read);
    }
    if (!read->is_replaced) {
        fastload_retry_failed_locked(&fl->retry, now_ns, &failure);
    }
    fl->retry.failing_count += read->is_retried ? 0 : 1;
    if (read->class != FASTLOAD_CLASS_URGENT) {
        fastload_retry_push_chunk_locked(
            &fl->retry, read->area->first_chunk_no +
            fastload_plan_chunk_of(read->area, read->span.ram_off));
        return true;
    }
    /* The claim goes first: a page in the queue must be claimable. */
    fastload_bit_clear(read->area->claimed, read->fault.page_idx);
    if (!sched_requeue_locked(fl, &read->fault)) {
        fl->retry.failing_count--;
        return false;
    }
    return true;
}

FastloadOutcome fastload_sched_read_done(Fastload *fl, FastloadRead *read,
                                         uint64_t now_ns)
{
    FastloadArea *area = read->area;
    uint64_t chunk_idx = fastload_plan_chunk_of(area, read->span.ram_off);
    bool is_queued = true, is_stalled, is_recovered = false;
    FastloadFault fault;

    trace_fastload_read_done(fl, area->hva, read->span.ram_off, read->class,
                             -read->error);
    g_mutex_lock(&fl->sched.lock);
    if (read->class == FASTLOAD_CLASS_HINT) {
        fastload_hints_done_locked(fl);
    }
    if (read->class != FASTLOAD_CLASS_URGENT) {
        assert(area->chunk_states[chunk_idx] == FASTLOAD_CHUNK_TAKEN);
        area->chunk_states[chunk_idx] = read->error ? FASTLOAD_CHUNK_FAILED
                                                    : FASTLOAD_CHUNK_DONE;
        fl->retry.is_probe_out = fl->retry.is_probe_out && !read->is_probe;
        read->is_probe = false;
    }
    fault = read->fault;
    if (read->error) {
        is_queued = sched_read_failed_locked(fl, read, now_ns);
    } else if (read->is_retried) {
        /* Without extents nothing was read: others had placed its pages. */
        is_recovered = fastload_retry_ended_locked(&fl->retry,
                                                   read->extent_count);
    } else if (fl->retry.failed_round_count && !fl->retry.failing_count) {
        /* A failed page that found no room in the queue may be this one. */
        fastload_retry_read_again_locked(&fl->retry);
        is_recovered = true;
    }
    read->fault.area = NULL; /* answered, or in the queue again */
    read->is_retried = false;
    is_stalled = sched_is_stalled_locked(fl);
    g_mutex_unlock(&fl->sched.lock);

    if (!is_queued) {
        sched_send_back(fl, &fault);
    }
    if (read->error && is_stalled) {
        return FASTLOAD_OUTCOME_STALLED;
    }
    return is_recovered ? FASTLOAD_OUTCOME_RESUMED : FASTLOAD_OUTCOME_NONE;
}

static void sched_count_failed_locked(FastloadFault *fault, void *opaque)
{
    uint64_t *count = opaque;

    *count += fault->area && fault->not_before_ns;
}

void fastload_sched_check(Fastload *fl)
{
    uint64_t count = 0;
    uint32_t i;

    g_mutex_lock(&fl->sched.lock);
    assert(fl->sched.fault_count <= FASTLOAD_FAULT_COUNT_MAX);
    sched_for_each_fault_locked(fl, sched_count_failed_locked, &count);
    for (i = 0; i < fl->pool.read_count; i++) {
        count += fl->pool.reads[i].is_retried;
    }
    assert(count + fl->retry.failed_chunk_count == fl->retry.failing_count);
    g_mutex_unlock(&fl->sched.lock);
}
