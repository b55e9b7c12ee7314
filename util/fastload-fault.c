/*
 * fastload fault: userfaultfd messages to urgent reads.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Any worker may drain the messages.  The first one always does; the others
 * help while it is swamped or blocks in its reads.  Some faults are answered at
 * once: a page that is zero in the snapshot is placed, unless its whole chunk
 * is about to be, and the threads that wait for a page which is there already
 * are woken.  All others go to the
 * scheduler's fault queue; so do the pages that another process wants
 * (fastload_want()), whose faults do not come here.  Messages for which the
 * queue has no room stay in the kernel, and so do those beyond
 * FASTLOAD_FAULT_TURN_MAX until the worker's next turn.  Those that the backend
 * has read are answered in any case: without room, their threads fault again.
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

FastloadArea *fastload_fault_find_area(Fastload *fl, const void *hva)
{
    GPtrArray *areas = fl->areas_by_hva;
    const uint8_t *at = hva;
    guint low = 0, high = areas->len;

    while (low < high) {
        guint mid = low + (high - low) / 2;
        FastloadArea *area = g_ptr_array_index(areas, mid);

        if (at < area->hva) {
            high = mid;
        } else if ((uint64_t)(at - area->hva) >= area->len_bytes) {
            low = mid + 1;
        } else {
            return area;
        }
    }
    return NULL;
}

static void fault_answer(FastloadWorker *w, const FastloadUffdFault *msg,
                         uint64_t now_ns)
{
    Fastload *fl = w->fl;
    FastloadArea *area =
        fastload_fault_find_area(fl, (void *)(uintptr_t)msg->hva);
    FastloadFault fault = { .area = area, .begin_ns = now_ns };
    uint64_t ram_off;
    bool is_queued;
    int ret;

    /* The kernel reports faults in registered memory only. */
    assert(area);
    fault.page_idx = (msg->hva - (uintptr_t)area->hva) >> area->page_shift;
    fault.is_discarded = fastload_bit_test(area->placed, fault.page_idx);
    ram_off = fault.page_idx << area->page_shift;
    trace_fastload_fault_received(fl, w->idx, msg->hva, msg->tid,
                                  msg->is_write);
    if (fastload_record_is_on(fl)) {
        fastload_record_touch(fl, area, fault.page_idx, now_ns);
    } else if (fl->hints.set) {
        fastload_hints_touch(fl, area, fault.page_idx);
    }
    if (fl->config.fault_func) {
        fl->config.fault_func(area->hva + ram_off, msg->tid,
                              fl->config.fault_opaque);
    }

    if (fault.is_discarded ||
        (!fastload_plan_page_has_data(area, fault.page_idx) &&
         !fastload_whole_is_wanted(fl, &fault))) {
        /*
         * A placed page that is missing was given back since: it is zero now,
         * as on a machine that never migrated.  Usually the page is there, and
         * the thread, which faulted just before it came, is woken.
         */
        ret = fastload_place_zero(w, area, ram_off, area->page_bytes,
                                  FASTLOAD_CLASS_URGENT);
        if (ret) {
            w->outcomes |= FASTLOAD_OUTCOME_DELAYED |
                           fastload_sched_zero_failed(fl, &fault, -ret,
                                                      now_ns);
            return;
        }
        fastload_stats_fault_done(&w->counters,
                                  fastload_stats_now_ns() - now_ns);
        return;
    }
    is_queued = fastload_sched_push_fault(fl, &fault);
    if (!is_queued) {
        /* Other workers have filled the room: the thread faults again. */
        fastload_uffd_wake(fl->uffd, area->hva + ram_off, area->page_bytes);
    }
}

static void fault_answer_all(FastloadWorker *w, const FastloadUffdFault *msgs,
                             int count)
{
    uint64_t now_ns = fastload_stats_now_ns();
    int i;

    __atomic_store_n(&w->fl->sched.last_fault_ns, now_ns, __ATOMIC_RELAXED);
    for (i = 0; i < count; i++) {
        fault_answer(w, &msgs[i], now_ns);
    }
}

bool fastload_fault_drain(FastloadWorker *w)
{
    Fastload *fl = w->fl;
    uint32_t total_count = w->early_fault_count;
    bool has_any = false;
    FastloadUffdFault msgs[FASTLOAD_FAULT_BATCH_MAX];
    int count = FASTLOAD_FAULT_BATCH_MAX;

    while (count == FASTLOAD_FAULT_BATCH_MAX &&
           total_count < FASTLOAD_FAULT_TURN_MAX) {
        uint32_t count_max = MIN(FASTLOAD_FAULT_BATCH_MAX,
                                 FASTLOAD_FAULT_TURN_MAX - total_count);

        count_max = MIN(count_max, fastload_sched_fault_room(fl));
        if (!count_max) {
            break;
        }
        count = fastload_uffd_read(fl->uffd, msgs, count_max);
        if (count <= 0) {
            break;
        }
        has_any = true;
        total_count += count;
        fault_answer_all(w, msgs, count);
    }
    return has_any;
}

uint32_t fastload_fault_take_batch(FastloadWorker *w)
{
    FastloadUffdFault msgs[FASTLOAD_FAULT_BATCH_MAX];
    int count = fastload_uffd_take(&w->batch, msgs);

    /* Those for which the queue has no room fault again. */
    fault_answer_all(w, msgs, count);
    return count;
}

void fastload_fault_repeat_all(Fastload *fl)
{
    guint i;

    for (i = 0; i < fl->areas->len; i++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, i);

        /* Where nothing is trapped any more, this does nothing. */
        fastload_uffd_wake(fl->uffd, area->hva, area->len_bytes);
    }
}
