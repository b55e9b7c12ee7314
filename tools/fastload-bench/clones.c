/*
 * fastload-bench: processes that restore the same file at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Clones meet in shared memory: they begin together, and all of them still
 * exist when each measures what it shares with the others.  Afterwards their
 * results become one: that of the median clone, with percentiles over all.
 * Starts no process.  If one clone fails, the others wait for it for ever, and
 * the parent has to kill them.
 */
#include "bench.h"
#include <linux/futex.h>
#include <math.h>
#include <sys/syscall.h>

typedef struct ClonesMeeting {
    /* atomic */
    uint32_t arrived_count;
    uint32_t is_over;        /* a futex; set with release after time_ns */
    uint64_t time_ns;        /* when the last clone came */
} ClonesMeeting;

struct Clones {
    /* constant */
    uint32_t count;
    size_t len_bytes;
    ClonesMeeting meetings[CLONES_MEETING_COUNT];
    RunResult results[];
};

Clones *clones_new(uint32_t count)
{
    size_t len_bytes = sizeof(Clones) + count * sizeof(RunResult);
    Clones *clones = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (clones == MAP_FAILED) {
        return NULL;
    }
    clones->count = count;
    clones->len_bytes = len_bytes;
    return clones;
}

void clones_free(Clones *clones)
{
    if (clones) {
        munmap(clones, clones->len_bytes);
    }
}

RunResult *clones_result(Clones *clones, uint32_t idx)
{
    assert(idx < clones->count);
    return &clones->results[idx];
}

uint64_t clones_meet(Clones *clones, ClonesMeetingId id)
{
    ClonesMeeting *meeting = &clones->meetings[id];

    if (__atomic_add_fetch(&meeting->arrived_count, 1, __ATOMIC_ACQ_REL) ==
        clones->count) {
        meeting->time_ns = bench_now_ns();
        /* pairs with the acquire below */
        __atomic_store_n(&meeting->is_over, 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, &meeting->is_over, FUTEX_WAKE, INT32_MAX, NULL,
                NULL, 0);
    }
    while (!__atomic_load_n(&meeting->is_over, __ATOMIC_ACQUIRE)) {
        syscall(SYS_futex, &meeting->is_over, FUTEX_WAIT, 0, NULL, NULL, 0);
    }
    return meeting->time_ns;
}

static int clones_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* The value that @percent of all do not exceed; NAN when one has none. */
static double clones_percentile(double *values, uint32_t count,
                                uint32_t percent)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        if (isnan(values[i])) {
            return NAN;
        }
    }
    qsort(values, count, sizeof(*values), clones_by_value);
    return values[(percent * count + 99) / 100 - 1];
}

static void clones_set_times(const Clones *clones, RunResult *result)
{
    g_autofree double *values = g_new(double, clones->count);
    static const struct {
        size_t member_off;
        CloneFigure p50, p95;
    } times[] = {
        { offsetof(RunResult, run_ns), CLONE_RUN_P50, CLONE_RUN_P95 },
        { offsetof(RunResult, work_ns), CLONE_WORK_P50, CLONE_WORK_P95 },
        { offsetof(RunResult, load_ns), CLONE_LOAD_P50, CLONE_LOAD_P95 },
    };
    uint32_t t, i;

    for (t = 0; t < G_N_ELEMENTS(times); t++) {
        for (i = 0; i < clones->count; i++) {
            uint64_t ns = *(const uint64_t *)((const char *)
                &clones->results[i] + times[t].member_off);

            values[i] = ns ? (double)ns : NAN;
        }
        result->clone_figures[times[t].p50] =
            clones_percentile(values, clones->count, 50);
        result->clone_figures[times[t].p95] =
            clones_percentile(values, clones->count, 95);
    }
}

/* The time by which clones are sorted: until loaded, or else until worked. */
static uint64_t clones_key(const RunResult *r)
{
    return r->load_ns ? r->load_ns : r->work_ns;
}

/* The median clone by clones_key(). */
static const RunResult *clones_median(const Clones *clones)
{
    uint32_t i, k;

    for (i = 0; i < clones->count; i++) {
        uint64_t key = clones_key(&clones->results[i]);
        uint32_t before = 0;

        for (k = 0; k < clones->count; k++) {
            uint64_t other = clones_key(&clones->results[k]);

            before += other < key || (other == key && k < i);
        }
        if (before == (clones->count - 1) / 2) {
            return &clones->results[i];
        }
    }
    return NULL; /* there is always one */
}

void clones_sum_up(const Clones *clones, RunResult *ret_result)
{
    double read_bytes = 0, pss_bytes = 0;
    uint32_t i;

    *ret_result = *clones_median(clones);
    for (i = 0; i < clones->count; i++) {
        read_bytes += clones->results[i].read_bytes;
        pss_bytes += clones->results[i].pss_bytes;
    }
    ret_result->clone_count = clones->count;
    ret_result->clone_figures[CLONE_READ] = read_bytes;
    ret_result->clone_figures[CLONE_DEVICE_READ] = NAN;
    ret_result->clone_figures[CLONE_PSS] = pss_bytes;
    clones_set_times(clones, ret_result);
}
