/*
 * fastload huge: where chunks become huge pages, and their staging.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A dense chunk of private anonymous memory is read into a huge page of
 * staging and given away whole with UFFDIO_MOVE: no copy, and the guest keeps
 * its huge pages.  A chunk of which an urgent read has placed a page is copied,
 * and collapsed when the load is complete.  This file knows when that is
 * possible and worth it.  The kernel may refuse, and that is no failure: what
 * cannot be moved is copied, and what cannot be collapsed stays small pages.
 * UFFDIO_MOVE in ioctl_userfaultfd(2), MADV_COLLAPSE in madvise(2).
 */
#include "qemu/osdep.h"
#include <sys/syscall.h>
#include "trace.h"
#include "qemu/fastload_int.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#ifndef MPOL_F_ADDR
#define MPOL_F_ADDR 2
#endif

#define HUGE_SYS "/sys/kernel/mm/transparent_hugepage/"
/* NUMA nodes that a policy can name; the kernel's limit is not higher. */
#define HUGE_NODE_COUNT_MAX 1024

typedef struct HugePolicy {
    int mode;
    uint64_t nodes[FASTLOAD_BIT_WORDS(HUGE_NODE_COUNT_MAX)];
} HugePolicy;

/* Does the system give transparent huge pages of a chunk's size? */
static bool huge_is_allowed(void)
{
    g_autofree char *enabled = NULL;
    g_autofree char *bytes = NULL;

    return g_file_get_contents(HUGE_SYS "enabled", &enabled, NULL, NULL) &&
           !strstr(enabled, "[never]") &&
           g_file_get_contents(HUGE_SYS "hpage_pmd_size", &bytes, NULL,
                               NULL) &&
           g_ascii_strtoull(bytes, NULL, 10) == FASTLOAD_CHUNK_BYTES;
}

/* The NUMA policy of the memory at @hva, or of this thread if NULL. */
static HugePolicy huge_policy_of(void *hva)
{
    HugePolicy policy = { 0 };

    /* Fails on a kernel without NUMA, where policies do not matter. */
    syscall(SYS_get_mempolicy, &policy.mode, policy.nodes,
            (unsigned long)HUGE_NODE_COUNT_MAX, hva, hva ? MPOL_F_ADDR : 0);
    return policy;
}

static bool huge_area_has_move(const FastloadArea *area,
                               const HugePolicy *ours)
{
    HugePolicy policy;

    if (!area->wants_huge || !area->is_trapped ||
        area->page_bytes != FASTLOAD_PAGE_BYTES_MIN) {
        return false;
    }
    /* A moved page stays on the node where its staging was allocated. */
    policy = huge_policy_of(area->hva);
    return policy.mode == ours->mode &&
           memcmp(policy.nodes, ours->nodes, sizeof(policy.nodes)) == 0;
}

void fastload_huge_prepare(Fastload *fl)
{
    bool has_move = fl->has_move && !fl->config.is_move_disabled &&
                    huge_is_allowed();
    HugePolicy ours = huge_policy_of(NULL);
    guint a;

    fl->has_move = false;
    for (a = 0; has_move && a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        if (huge_area_has_move(area, &ours)) {
            area->has_move = true;
            area->moved = g_new0(uint64_t,
                                 FASTLOAD_BIT_WORDS(area->chunk_count));
            fl->has_move = true;
        }
    }
}

static bool huge_span_is_dense(const FastloadArea *area, FastloadSpan span)
{
    return span.len_bytes == FASTLOAD_CHUNK_BYTES &&
           fastload_plan_data_bytes(area, span) * FASTLOAD_DENSE_SHARE >=
           span.len_bytes;
}

bool fastload_huge_is_untouched(const FastloadArea *area, FastloadSpan span)
{
    uint64_t first = span.ram_off >> area->page_shift;
    uint64_t count = span.len_bytes >> area->page_shift;
    uint64_t i;

    if (!area->has_move) {
        return false;
    }
    for (i = 0; i < count; i++) {
        if (fastload_bit_test(area->placed, first + i)) {
            return false;
        }
    }
    return true;
}

bool fastload_huge_fits(const FastloadArea *area, FastloadSpan span)
{
    return huge_span_is_dense(area, span) &&
           fastload_huge_is_untouched(area, span);
}

void fastload_huge_staging_renew(uint8_t *buf)
{
    /* If this fails, the read itself populates the staging. */
    madvise(buf, FASTLOAD_CHUNK_BYTES, MADV_POPULATE_WRITE);
}

void fastload_huge_staging_drop(uint8_t *buf)
{
    /* Small pages that were not moved would prevent a new huge page. */
    madvise(buf, FASTLOAD_CHUNK_BYTES, MADV_DONTNEED);
}

/* Collapsing would populate what a balloon has given back. */
static bool huge_is_present(const uint8_t *hva)
{
    unsigned char present[FASTLOAD_CHUNK_PAGE_COUNT_MAX];
    uint32_t i;

    if (mincore((void *)hva, FASTLOAD_CHUNK_BYTES, present) < 0) {
        return false;
    }
    for (i = 0; i < G_N_ELEMENTS(present); i++) {
        if (!(present[i] & 1)) {
            return false;
        }
    }
    return true;
}

static bool huge_wants_collapse(const FastloadArea *area, uint64_t chunk_idx)
{
    FastloadSpan span = fastload_plan_chunk_span(area, chunk_idx);

    return !fastload_bit_test(area->moved, chunk_idx) &&
           area->chunk_states[chunk_idx] != FASTLOAD_CHUNK_UNTRAPPED &&
           span.len_bytes == FASTLOAD_CHUNK_BYTES &&
           (area->wants_populated || huge_span_is_dense(area, span)) &&
           huge_is_present(area->hva + span.ram_off);
}

static uint64_t huge_thread_cpu_ns(void)
{
    struct timespec ts = { 0 };

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

uint64_t fastload_huge_pause_ns(FastloadCollapse *collapse, uint64_t wall_ns,
                                uint64_t cpu_ns)
{
    if (wall_ns <= 2 * cpu_ns ||
        collapse->paused_ns >= FASTLOAD_COLLAPSE_PAUSES_NS_MAX) {
        collapse->chunk_max = MIN(2 * collapse->chunk_max,
                                  FASTLOAD_COLLAPSE_BYTES_MAX /
                                  FASTLOAD_CHUNK_BYTES);
        return 0;
    }
    collapse->chunk_max = 1;
    collapse->paused_ns += FASTLOAD_COLLAPSE_PAUSE_NS;
    collapse->end_ns += FASTLOAD_COLLAPSE_PAUSE_NS;
    return FASTLOAD_COLLAPSE_PAUSE_NS;
}

/* False: the kernel has no huge pages, so going on makes no sense. */
static bool huge_collapse_run(FastloadWorker *w, FastloadArea *area,
                              uint64_t chunk_idx, uint64_t chunk_count,
                              FastloadCollapse *collapse)
{
    FastloadSpan span = fastload_plan_chunk_span(area, chunk_idx);
    uint64_t len_bytes = chunk_count * FASTLOAD_CHUNK_BYTES;
    uint64_t begin_ns = fastload_stats_now_ns();
    uint64_t begin_cpu_ns = huge_thread_cpu_ns();
    uint64_t pause_ns;
    int ret = madvise(area->hva + span.ram_off, len_bytes, MADV_COLLAPSE);
    int error_number = ret ? errno : 0;

    trace_fastload_chunk_collapsed(w->fl, area->hva + span.ram_off, len_bytes,
                                   error_number);
    if (ret == 0) {
        fastload_stats_add(&w->counters.collapsed_bytes, len_bytes);
    }
    pause_ns = fastload_huge_pause_ns(collapse,
                                      fastload_stats_now_ns() - begin_ns,
                                      huge_thread_cpu_ns() - begin_cpu_ns);
    if (pause_ns) {
        g_usleep(pause_ns / 1000);
    }
    /* ENOMEM means that no huge page is left; others concern these chunks. */
    return error_number != ENOMEM;
}

void fastload_huge_collapse(FastloadWorker *w)
{
    Fastload *fl = w->fl;
    uint64_t now_ns = fastload_stats_now_ns();
    FastloadCollapse collapse = {
        /* With fragmented memory the kernel takes long to make huge pages. */
        .end_ns = now_ns + MAX(now_ns - fl->start_ns,
                               FASTLOAD_COLLAPSE_NS_MIN),
        .chunk_max = 1,
    };
    uint64_t c, run;
    guint a;

    for (a = 0; a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        for (c = 0; area->has_move && c < area->chunk_count &&
                    !__atomic_load_n(&area->is_dropped, __ATOMIC_ACQUIRE);
             c += run) {
            run = 1;
            if (!huge_wants_collapse(area, c)) {
                continue;
            }
            while (run < collapse.chunk_max && c + run < area->chunk_count &&
                   huge_wants_collapse(area, c + run)) {
                run++;
            }
            if (__atomic_load_n(&fl->is_unwanted, __ATOMIC_RELAXED) ||
                fastload_stats_now_ns() >= collapse.end_ns ||
                !huge_collapse_run(w, area, c, run, &collapse)) {
                return;
            }
        }
    }
}
