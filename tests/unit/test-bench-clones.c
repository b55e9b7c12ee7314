/*
 * Clones of a contender: how they meet, and how their results become one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <math.h>
#include "bench.h"
#include "fastload-fixture.h"

#define COUNT 20u

static Clones *clones_with(uint32_t count, bool has_load)
{
    Clones *clones = clones_new(count);
    uint32_t i;

    g_assert_nonnull(clones);
    for (i = 0; i < count; i++) {
        RunResult *r = clones_result(clones, i);

        /* 7 and 20 have no divisor in common: each value once, in disorder. */
        r->run_ns = 100 + i * 7 % COUNT;
        r->work_ns = 1000 + i * 7 % COUNT;
        r->load_ns = has_load ? 5000 + i * 7 % COUNT : 0;
        r->read_bytes = i;
        r->pss_bytes = 2 * i;
        r->is_ok = true;
    }
    return clones;
}

static void test_percentiles(void)
{
    /* p50 and p95 are values of clones: the 10th and the 19th of 20. */
    Clones *clones = clones_with(COUNT, true);
    g_autofree RunResult *sum = g_new0(RunResult, 1);

    clones_sum_up(clones, sum);
    g_assert_cmpuint(sum->clone_count, ==, COUNT);
    g_assert_cmpfloat(sum->clone_figures[CLONE_RUN_P50], ==, 109);
    g_assert_cmpfloat(sum->clone_figures[CLONE_RUN_P95], ==, 118);
    g_assert_cmpfloat(sum->clone_figures[CLONE_WORK_P50], ==, 1009);
    g_assert_cmpfloat(sum->clone_figures[CLONE_LOAD_P95], ==, 5018);
    clones_free(clones);
}

static void test_sums(void)
{
    /* Bytes read and memory are the sums over all clones. */
    Clones *clones = clones_with(COUNT, true);
    g_autofree RunResult *sum = g_new0(RunResult, 1);

    clones_sum_up(clones, sum);
    g_assert_cmpfloat(sum->clone_figures[CLONE_READ], ==, 190);
    g_assert_cmpfloat(sum->clone_figures[CLONE_PSS], ==, 380);
    g_assert_true(isnan(sum->clone_figures[CLONE_DEVICE_READ]));
    clones_free(clones);
}

static void test_median_clone(void)
{
    /* All other figures are the median clone's, by load or else work time. */
    bool has_load;

    for (has_load = false;; has_load = true) {
        Clones *clones = clones_with(3, has_load);
        g_autofree RunResult *sum = g_new0(RunResult, 1);

        clones_sum_up(clones, sum);
        g_assert_cmpuint(sum->work_ns, ==, 1007);
        g_assert_cmpuint(sum->load_ns, ==, has_load ? 5007 : 0);
        g_assert_cmpuint(isnan(sum->clone_figures[CLONE_LOAD_P50]), ==,
                         !has_load);
        g_assert_true(sum->is_ok);
        clones_free(clones);
        if (has_load) {
            break;
        }
    }
}

static void test_equal_clones(void)
{
    /* Clones with equal times have a median as well. */
    Clones *clones = clones_new(4);
    g_autofree RunResult *sum = g_new0(RunResult, 1);
    uint32_t i;

    for (i = 0; i < 4; i++) {
        clones_result(clones, i)->work_ns = 5;
    }
    clones_sum_up(clones, sum);
    g_assert_cmpuint(sum->work_ns, ==, 5);
    clones_free(clones);
}

typedef struct MeetingClone {
    Clones *clones;
    uint32_t tid; /* atomic */
    uint64_t time_ns;
    GThread *thread;
} MeetingClone;

static void *clones_one(void *opaque)
{
    MeetingClone *clone = opaque;

    __atomic_store_n(&clone->tid, gettid(), __ATOMIC_RELEASE);
    clone->time_ns = clones_meet(clone->clones, CLONES_BEGIN);
    return NULL;
}

static void test_meeting(void)
{
    /* All clones get the time at which the last one came to the meeting. */
    MeetingClone others[2] = { { 0 } };
    Clones *clones = clones_new(3);
    uint64_t before_ns, time_ns;
    uint32_t tid;
    int i;

    for (i = 0; i < 2; i++) {
        others[i].clones = clones;
        others[i].thread = g_thread_new("clone", clones_one, &others[i]);
        fixture_wait_until((tid = __atomic_load_n(&others[i].tid,
                                                  __ATOMIC_ACQUIRE)));
        fixture_wait_until(fixture_thread_waits(tid));
    }
    before_ns = bench_now_ns();
    time_ns = clones_meet(clones, CLONES_BEGIN);
    g_assert_cmpuint(time_ns, >=, before_ns);
    g_assert_cmpuint(time_ns, <=, bench_now_ns());
    for (i = 0; i < 2; i++) {
        g_thread_join(others[i].thread);
        g_assert_cmpuint(others[i].time_ns, ==, time_ns);
    }
    clones_free(clones);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    g_test_add_func("/bench/clones/percentiles", test_percentiles);
    g_test_add_func("/bench/clones/sums", test_sums);
    g_test_add_func("/bench/clones/median-clone", test_median_clone);
    g_test_add_func("/bench/clones/equal-clones", test_equal_clones);
    g_test_add_func("/bench/clones/meeting", test_meeting);
    return g_test_run();
}
