/*
 * Histograms and counters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <math.h>
#include "qemu/fastload_int.h"
#include "fastload-fixture.h"

#define SAMPLE_COUNT 5000u

/* Values that sit on, before and after every power of two, in order. */
static uint32_t stats_edges(uint64_t *ret_values)
{
    uint32_t count = 0;
    int shift;

    for (shift = 0; shift < 64; shift++) {
        uint64_t power = 1ull << shift;

        if (shift > 1) {
            ret_values[count++] = power - 1;
        }
        ret_values[count++] = power;
        if (shift > 2) {
            ret_values[count++] = power + 1;
        }
    }
    ret_values[count++] = UINT64_MAX;
    return count;
}

static void test_buckets_are_monotone(void)
{
    /* A longer time never lands in an earlier bucket. */
    uint64_t values[3 * 64 + 1];
    uint32_t count = stats_edges(values);
    uint32_t i;

    for (i = 0; i < count; i++) {
        uint32_t bucket = fastload_stats_bucket(values[i]);

        g_assert_cmpuint(bucket, <, FASTLOAD_HIST_COUNT);
        if (i) {
            g_assert_cmpuint(bucket, >=, fastload_stats_bucket(values[i - 1]));
        }
    }
}

static void test_floor_is_the_inverse(void)
{
    /* A bucket's floor is its smallest time. */
    uint64_t values[3 * 64 + 1];
    uint32_t count = stats_edges(values);
    uint32_t i;

    for (i = 0; i < count; i++) {
        uint32_t bucket = fastload_stats_bucket(values[i]);
        uint64_t floor_ns = fastload_stats_bucket_floor_ns(bucket);

        g_assert_cmpuint(floor_ns, <=, values[i]);
        g_assert_cmpuint(fastload_stats_bucket(floor_ns), ==, bucket);
        if (floor_ns) {
            g_assert_cmpuint(fastload_stats_bucket(floor_ns - 1), <, bucket);
        }
        /* A quarter of an octave. */
        g_assert_cmpuint(values[i] - floor_ns, <=, floor_ns / 4);
    }
}

static void test_percentiles_are_close(void)
{
    /* Percentiles of random times are within 13 % of the exact ones. */
    static const uint32_t permilles[] = { 1, 100, 500, 900, 950, 990, 999 };
    g_autofree FastloadCounters *c = g_new0(FastloadCounters, 1);
    g_autofree uint64_t *samples = g_new(uint64_t, SAMPLE_COUNT);
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    uint32_t i;

    fixture_note("seed %u", seed);
    for (i = 0; i < SAMPLE_COUNT; i++) {
        samples[i] = fixture_random_ns(rand);
        fastload_stats_fault_done(c, samples[i]);
    }
    fixture_sort_ns(samples, SAMPLE_COUNT);
    for (i = 0; i < G_N_ELEMENTS(permilles); i++) {
        uint32_t rank = (SAMPLE_COUNT * permilles[i] + 999) / 1000;
        uint64_t exact_ns = samples[rank - 1];
        uint64_t ns = fastload_stats_percentile_ns(c->hist, permilles[i],
                                                   c->fault_max_ns);

        g_assert_cmpfloat(fabs((double)ns - exact_ns), <=, 0.13 * exact_ns);
    }
    fixture_note_clear();
}

static void test_percentiles_are_ordered(void)
{
    /* A higher percentile is never less, and none is more than the maximum. */
    g_autofree FastloadCounters *c = g_new0(FastloadCounters, 1);
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    uint64_t last_ns = 0;
    uint32_t i;

    fixture_note("seed %u", seed);
    for (i = 0; i < 50; i++) {
        fastload_stats_fault_done(c, fixture_random_ns(rand));
    }
    for (i = 0; i <= 1000; i++) {
        uint64_t ns = fastload_stats_percentile_ns(c->hist, i,
                                                   c->fault_max_ns);

        g_assert_cmpuint(ns, >=, last_ns);
        g_assert_cmpuint(ns, <=, c->fault_max_ns);
        last_ns = ns;
    }
    g_assert_cmpuint(last_ns, ==, c->fault_max_ns);
    fixture_note_clear();
}

static void test_maximum_is_exact(void)
{
    /* The maximum is kept to the nanosecond, whatever comes after it. */
    g_autofree FastloadCounters *c = g_new0(FastloadCounters, 1);

    fastload_stats_fault_done(c, 17);
    fastload_stats_fault_done(c, 1234567891);
    fastload_stats_fault_done(c, 1234567890);
    g_assert_cmpuint(c->fault_max_ns, ==, 1234567891);
    g_assert_cmpuint(c->fault_count, ==, 3);
    g_assert_cmpuint(fastload_stats_percentile_ns(c->hist, 1000,
                                                  c->fault_max_ns),
                     ==, 1234567891);
}

static void test_nothing_is_zero(void)
{
    /* Without a sample every percentile is 0. */
    g_autofree FastloadCounters *c = g_new0(FastloadCounters, 1);

    g_assert_cmpuint(fastload_stats_percentile_ns(c->hist, 500, 0), ==, 0);
    g_assert_cmpuint(fastload_stats_percentile_ns(c->hist, 990, 0), ==, 0);
}

static void test_extremes_fit(void)
{
    /* No time at all and three hundred years are counted as any other. */
    g_autofree FastloadCounters *c = g_new0(FastloadCounters, 1);

    fastload_stats_fault_done(c, 0);
    fastload_stats_fault_done(c, INT64_MAX);
    g_assert_cmpuint(fastload_stats_percentile_ns(c->hist, 500, INT64_MAX),
                     <=, 1);
    g_assert_cmpuint(fastload_stats_percentile_ns(c->hist, 1000, INT64_MAX),
                     ==, INT64_MAX);
}

static void test_sum_adds_workers(void)
{
    /* Counters of several workers add up; of maxima the largest is taken. */
    g_autofree FastloadCounters *a = g_new0(FastloadCounters, 1);
    g_autofree FastloadCounters *b = g_new0(FastloadCounters, 1);
    g_autofree FastloadCounters *sum = g_new0(FastloadCounters, 1);
    uint32_t i;

    for (i = 0; i < FASTLOAD_CLASS_MAX; i++) {
        fastload_stats_add(&a->loaded_bytes[i], 10 + i);
        fastload_stats_add(&b->loaded_bytes[i], 100);
    }
    fastload_stats_add(&a->read_bytes, 1);
    fastload_stats_add(&b->read_bytes, 2);
    fastload_stats_add(&a->retry_count, 3);
    fastload_stats_add(&b->io_error_count, 4);
    fastload_stats_fault_done(a, 300);
    fastload_stats_fault_done(b, 5000);
    fastload_stats_fault_done(b, 7000);
    fastload_stats_sum(a, sum);
    fastload_stats_sum(b, sum);

    for (i = 0; i < FASTLOAD_CLASS_MAX; i++) {
        g_assert_cmpuint(sum->loaded_bytes[i], ==, 110 + i);
    }
    g_assert_cmpuint(sum->read_bytes, ==, 3);
    g_assert_cmpuint(sum->retry_count, ==, 3);
    g_assert_cmpuint(sum->io_error_count, ==, 4);
    g_assert_cmpuint(sum->fault_count, ==, 3);
    g_assert_cmpuint(sum->fault_max_ns, ==, 7000);
    g_assert_cmpuint(fastload_stats_percentile_ns(sum->hist, 1, 7000), <, 350);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    g_test_add_func("/fastload/stats/buckets-are-monotone",
                    test_buckets_are_monotone);
    g_test_add_func("/fastload/stats/floor-is-the-inverse",
                    test_floor_is_the_inverse);
    g_test_add_func("/fastload/stats/percentiles-are-close",
                    test_percentiles_are_close);
    g_test_add_func("/fastload/stats/percentiles-are-ordered",
                    test_percentiles_are_ordered);
    g_test_add_func("/fastload/stats/maximum-is-exact",
                    test_maximum_is_exact);
    g_test_add_func("/fastload/stats/nothing-is-zero", test_nothing_is_zero);
    g_test_add_func("/fastload/stats/extremes-fit", test_extremes_fit);
    g_test_add_func("/fastload/stats/sum-adds-workers",
                    test_sum_adds_workers);
    return g_test_run();
}
