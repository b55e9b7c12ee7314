/*
 * The benchmark's figures: histograms, medians, numbers on the command line,
 * the file of touches, and what the machine says of itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <math.h>
#include <sys/sysmacros.h>
#include <glib/gstdio.h>
#include "bench.h"
#include "fastload-fixture.h"

#define SAMPLE_COUNT 5000u
#define PAGE BENCH_PAGE_BYTES

/* ---- histograms ---- */

static uint32_t figures_bucket(uint64_t ns)
{
    g_autofree Hist *hist = g_new0(Hist, 1);
    uint32_t i, found = HIST_COUNT;

    hist_add(hist, ns);
    for (i = 0; i < HIST_COUNT; i++) {
        if (hist->buckets[i]) {
            g_assert_cmpuint(found, ==, HIST_COUNT);
            g_assert_cmpuint(hist->buckets[i], ==, 1);
            found = i;
        }
    }
    g_assert_cmpuint(found, <, HIST_COUNT);
    return found;
}

/* Values that sit on, before and after every power of two, in order. */
static uint32_t figures_edges(uint64_t *ret_values)
{
    uint32_t count = 0;
    int shift;

    ret_values[count++] = 0;
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
    uint64_t values[3 * 64 + 2];
    uint32_t count = figures_edges(values);
    uint32_t i;

    for (i = 1; i < count; i++) {
        g_assert_cmpuint(figures_bucket(values[i]), >=,
                         figures_bucket(values[i - 1]));
    }
}

static void test_floor_is_the_inverse(void)
{
    /* A bucket's floor is its smallest time, and it is 6 % wide at most. */
    uint64_t values[3 * 64 + 2];
    uint32_t count = figures_edges(values);
    uint32_t i;

    for (i = 0; i < count; i++) {
        uint32_t bucket = figures_bucket(values[i]);
        uint64_t floor_ns = hist_bucket_floor_ns(bucket);

        g_assert_cmpuint(floor_ns, <=, values[i]);
        g_assert_cmpuint(figures_bucket(floor_ns), ==, bucket);
        if (floor_ns) {
            g_assert_cmpuint(figures_bucket(floor_ns - 1), ==, bucket - 1);
        }
        g_assert_cmpuint(values[i] - floor_ns, <=,
                         floor_ns >> HIST_SUB_BITS);
    }
}

static void test_short_times_are_exact(void)
{
    /* Below 16 ns every nanosecond has a bucket. */
    uint64_t ns;

    for (ns = 0; ns < 1 << HIST_SUB_BITS; ns++) {
        g_assert_cmpuint(figures_bucket(ns), ==, ns);
        g_assert_cmpuint(hist_bucket_floor_ns(ns), ==, ns);
    }
}

static void test_percentiles_are_close(void)
{
    /* Percentiles of random times are within 6 % of the exact ones. */
    static const uint32_t permilles[] = { 1, 100, 500, 900, 950, 990, 999 };
    g_autofree Hist *hist = g_new0(Hist, 1);
    g_autofree uint64_t *samples = g_new(uint64_t, SAMPLE_COUNT);
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    uint32_t i;

    fixture_note("seed %u", seed);
    for (i = 0; i < SAMPLE_COUNT; i++) {
        samples[i] = fixture_random_ns(rand);
        hist_add(hist, samples[i]);
    }
    fixture_sort_ns(samples, SAMPLE_COUNT);
    for (i = 0; i < G_N_ELEMENTS(permilles); i++) {
        uint64_t exact_ns = samples[SAMPLE_COUNT * permilles[i] / 1000];
        uint64_t ns = hist_percentile_ns(hist, permilles[i]);

        g_assert_cmpfloat(fabs((double)ns - exact_ns), <=, 0.06 * exact_ns);
    }
    fixture_note_clear();
}

static void test_percentiles_are_ordered(void)
{
    /* A higher percentile is never less, and none is more than the maximum. */
    g_autofree Hist *hist = g_new0(Hist, 1);
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    uint64_t last_ns = 0;
    uint32_t i;

    fixture_note("seed %u", seed);
    for (i = 0; i < 50; i++) {
        hist_add(hist, fixture_random_ns(rand));
    }
    for (i = 0; i <= 1000; i++) {
        uint64_t ns = hist_percentile_ns(hist, i);

        g_assert_cmpuint(ns, >=, last_ns);
        g_assert_cmpuint(ns, <=, hist->max_ns);
        last_ns = ns;
    }
    g_assert_cmpuint(last_ns, ==, hist->max_ns);
    fixture_note_clear();
}

static void test_percentiles_of_few(void)
{
    /* One time is all percentiles; a rare long one is only in the last. */
    g_autofree Hist *hist = g_new0(Hist, 1);
    uint32_t i;

    hist_add(hist, 7);
    for (i = 0; i <= 1000; i += 100) {
        g_assert_cmpuint(hist_percentile_ns(hist, i), ==, 7);
    }
    for (i = 1; i < 1000; i++) {
        hist_add(hist, 7);
    }
    hist_add(hist, 1000000);
    g_assert_cmpuint(hist_percentile_ns(hist, 500), ==, 7);
    g_assert_cmpuint(hist_percentile_ns(hist, 998), ==, 7);
    g_assert_cmpuint(hist_percentile_ns(hist, 1000), ==, 1000000);
}

static void test_nothing_is_zero(void)
{
    /* Without a time all percentiles are 0. */
    g_autofree Hist *hist = g_new0(Hist, 1);
    uint32_t i;

    for (i = 0; i <= 1000; i++) {
        g_assert_cmpuint(hist_percentile_ns(hist, i), ==, 0);
    }
}

static void test_maximum_is_exact(void)
{
    /* The maximum is kept to the nanosecond, whatever comes after it. */
    g_autofree Hist *hist = g_new0(Hist, 1);

    hist_add(hist, 17);
    hist_add(hist, 1234567891);
    hist_add(hist, 1234567890);
    g_assert_cmpuint(hist->count, ==, 3);
    g_assert_cmpuint(hist->max_ns, ==, 1234567891);
    g_assert_cmpuint(hist_percentile_ns(hist, 1000), ==, 1234567891);
}

static void test_extremes_fit(void)
{
    /* Zero and the longest times have a bucket, and harm no other. */
    g_autofree Hist *hist = g_new0(Hist, 1);
    uint32_t i;

    hist_add(hist, 0);
    hist_add(hist, 100);
    hist_add(hist, 100);
    hist_add(hist, UINT64_MAX);
    g_assert_cmpuint(hist->count, ==, 4);
    g_assert_cmpuint(hist_percentile_ns(hist, 0), ==, 0);
    g_assert_cmpuint(hist_percentile_ns(hist, 500), >=, 96);
    g_assert_cmpuint(hist_percentile_ns(hist, 500), <=, 104);
    for (i = 0; i <= 1000; i++) {
        g_assert_cmpuint(hist_percentile_ns(hist, i), <=, UINT64_MAX);
    }
}

static void test_merge_is_as_adding_all(void)
{
    /* A merged histogram equals one that got all the times. */
    g_autofree Hist *a = g_new0(Hist, 1);
    g_autofree Hist *b = g_new0(Hist, 1);
    g_autofree Hist *all = g_new0(Hist, 1);
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    uint32_t i;

    fixture_note("seed %u", seed);
    for (i = 0; i < SAMPLE_COUNT; i++) {
        uint64_t ns = fixture_random_ns(rand);

        hist_add(g_rand_boolean(rand) ? a : b, ns);
        hist_add(all, ns);
    }
    hist_merge(a, b);
    g_assert_cmpmem(a, sizeof(*a), all, sizeof(*all));
    fixture_note_clear();
}

static void test_merging_nothing_changes_nothing(void)
{
    /* An empty histogram adds nothing, and takes over all. */
    g_autofree Hist *a = g_new0(Hist, 1);
    g_autofree Hist *empty = g_new0(Hist, 1);
    g_autofree Hist *before = NULL;

    hist_add(a, 5);
    hist_add(a, 5000);
    before = g_memdup2(a, sizeof(*a));
    hist_merge(a, empty);
    g_assert_cmpmem(a, sizeof(*a), before, sizeof(*before));
    hist_merge(empty, a);
    g_assert_cmpmem(empty, sizeof(*empty), before, sizeof(*before));
}

/* ---- medians and ratios ---- */

/* No warnings about comparing: these are exact. */
static void figures_is(double value, double wanted)
{
    g_assert_true(isnan(wanted) ? isnan(value)
                                : fabs(value - wanted) < 1e-12);
}

static void figures_median_is(const double *values, uint32_t count,
                              double median, double least, double most)
{
    double min = 77, max = 77;

    figures_is(figures_median(values, count, &min, &max), median);
    figures_is(min, least);
    figures_is(max, most);
}

static void test_median_of_odd_and_even(void)
{
    /* The median is the value in the middle, or half-way between two. */
    static const double values[] = { 9, 1, 4, 2 };

    figures_median_is(values, 1, 9, 9, 9);
    figures_median_is(values, 2, 5, 1, 9);
    figures_median_is(values, 3, 4, 1, 9);
    figures_median_is(values, 4, 3, 1, 9);
}

static void test_median_ignores_the_unknown(void)
{
    /* A round without a value does not count, wherever it is. */
    static const double values[] = { NAN, 9, NAN, 1, 4, NAN };

    figures_median_is(values, 6, 4, 1, 9);
    figures_median_is(values, 4, 5, 1, 9);
    figures_median_is(values + 1, 2, 9, 9, 9);
}

static void test_median_of_nothing(void)
{
    /* Without any value median, least and most are unknown. */
    static const double values[] = { NAN, NAN };

    figures_median_is(values, 2, NAN, NAN, NAN);
    figures_median_is(values, 1, NAN, NAN, NAN);
    figures_median_is(values, 0, NAN, NAN, NAN);
}

static void test_outliers_of_few_rounds(void)
{
    /* Of few rounds, 1.5 times the median is an outlier. */
    static const double values[] = { 100, 120, 90, NAN, 160 };
    double low, high;

    figures_fences(values, G_N_ELEMENTS(values), &low, &high);
    figures_is(high, 110 * 1.5);
    figures_is(low, 110 / 1.5);
}

static void test_outliers_of_many_rounds(void)
{
    /*
     * Of many rounds, an outlier is 1.5 times the distance of the quartiles
     * beyond them.
     */
    static const double wide[] = { 100, 200, 300, 400, 500 };
    double low, high;

    figures_fences(wide, G_N_ELEMENTS(wide), &low, &high);
    figures_is(low, 200 - 300);
    figures_is(high, 400 + 300);
}

static void test_outliers_are_not_next_to_the_median(void)
{
    /* If all rounds are alike, nothing within 10 % is an outlier. */
    static const double alike[] = { 100, 100, 100, 100, 109, 300 };
    double low, high;

    figures_fences(alike, 5, &low, &high);
    g_assert_true(low <= 100 && high >= 109);
    figures_fences(alike, 6, &low, &high);
    g_assert_true(high < 300);
}

static void test_outliers_of_nothing(void)
{
    /* Without a round there is no outlier. */
    double low, high;

    figures_fences(NULL, 0, &low, &high);
    g_assert_true(low == -INFINITY && high == INFINITY);
}

static void test_ratio_is_of_medians(void)
{
    /* One disturbed run on either side does not change the ratio. */
    static const double values[] = { 10, 40, 30 };
    static const double base[] = { 100, 20, 10 };

    figures_is(figures_ratio(values, base, 3), 1.5);
    figures_is(figures_ratio(values, base, 2), 25 / 60.0);
    figures_is(figures_ratio(base, base, 3), 1);
}

static void test_ratio_needs_both(void)
{
    /* A ratio leaves out unknown runs; a baseline of 0 gives no ratio. */
    static const double values[] = { NAN, 8, 6, 5, 0 };
    static const double base[] = { 2, NAN, 2, NAN, NAN };
    static const double none[] = { 0, NAN, -1, NAN, 0 };

    figures_is(figures_ratio(values, base, 4), 3);
    figures_is(figures_ratio(values, base, 1), NAN);
    figures_is(figures_ratio(values, none, 5), NAN);
    figures_is(figures_ratio(values, base, 0), NAN);
}

/* ---- changes ---- */

static FiguresChange figures_changed(const double *a, const double *bases_a,
                                     uint32_t count_a, const double *b,
                                     const double *bases_b, uint32_t count_b)
{
    FiguresSeries first = { a, bases_a, count_a };
    FiguresSeries second = { b, bases_b, count_b };
    FiguresChange change;

    figures_change(&first, &second, 0.1, &change);
    return change;
}

static const double figures_ones[] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };

static void test_change_without_spread(void)
{
    /* Rounds that agree leave no doubt about a change, up or down. */
    static const double twos[] = { 2, 2, 2, 2 };
    FiguresChange c = figures_changed(figures_ones, NULL, 4, twos, NULL, 4);

    figures_is(c.change, 1);
    figures_is(c.low, 1);
    figures_is(c.high, 1);
    g_assert_cmpint(c.verdict, ==, FIGURES_MORE);
    g_assert_cmpuint(c.needed_count, ==, 0);
    c = figures_changed(twos, NULL, 4, figures_ones, NULL, 4);
    figures_is(c.change, -0.5);
    g_assert_cmpint(c.verdict, ==, FIGURES_LESS);
    c = figures_changed(twos, NULL, 4, twos, NULL, 4);
    figures_is(c.change, 0);
    g_assert_cmpint(c.verdict, ==, FIGURES_NOISE);
}

static void test_interval_of_few_rounds(void)
{
    /*
     * The interval of 3 or 5 rounds is their whole range, that of 7 is not.  Of
     * 3 rounds drawn from 3, the median is the least with probability 7/27, of
     * 5 from 5 with 0.058: more than 2.5 %, so the interval goes from the least
     * to the most.  Of 7 from 7 it is the least with 0.010 and one of the two
     * least with 0.11: the interval begins at the second.
     */
    static const double values[] = { 4, 2, 6, 1, 5, 7, 3 };
    static const double three[] = { 3, 1, 2 };
    static const double five[] = { 3, 1, 2, 5, 4 };
    FiguresChange c;

    c = figures_changed(figures_ones, NULL, 3, three, NULL, 3);
    figures_is(c.change, 1);
    figures_is(c.low, 0);
    figures_is(c.high, 2);
    c = figures_changed(figures_ones, NULL, 5, five, NULL, 5);
    figures_is(c.change, 2);
    figures_is(c.low, 0);
    figures_is(c.high, 4);
    c = figures_changed(figures_ones, NULL, 7, values, NULL, 7);
    figures_is(c.change, 3);
    figures_is(c.low, 1);
    figures_is(c.high, 5);
    g_assert_cmpint(c.verdict, ==, FIGURES_NOISE);  /* 1 is in both */
}

static void test_interval_of_a_ratio(void)
{
    /* A disturbance of a round and of its base leaves no doubt in the ratio. */
    static const double bases[] = { 10, 30, 20, 50 };
    static const double values[] = { 20, 60, 40, 100 };
    static const double others[] = { 30, 90, 60, 150 };
    FiguresChange c = figures_changed(values, bases, 4, others, bases, 4);

    figures_is(c.change, 0.5);
    /* Medians of even draws may lie between two rounds, in both alike. */
    figures_is(c.low, 0.5);
    figures_is(c.high, 0.5);
}

static void test_change_of_one_round(void)
{
    /* One round or two cannot show a change. */
    static const double fives[] = { 5, 5, NAN };
    FiguresChange c = figures_changed(figures_ones, NULL, 1, fives, NULL, 1);

    figures_is(c.change, 4);
    figures_is(c.low, NAN);
    g_assert_cmpint(c.verdict, ==, FIGURES_FEW);
    g_assert_cmpuint(c.needed_count, ==, FIGURES_ROUNDS_MIN);
    c = figures_changed(figures_ones, NULL, 9, fives, NULL, 3);
    g_assert_cmpint(c.verdict, ==, FIGURES_FEW);
}

static void test_change_of_nothing(void)
{
    /* Without values, or from 0, there is no change. */
    static const double none[] = { NAN, NAN, NAN, NAN };
    static const double zeros[] = { 0, 0, 0, 0 };
    FiguresChange c;

    c = figures_changed(none, NULL, 4, figures_ones, NULL, 4);
    figures_is(c.change, NAN);
    g_assert_cmpint(c.verdict, ==, FIGURES_UNKNOWN);
    c = figures_changed(figures_ones, zeros, 4, figures_ones, zeros, 4);
    g_assert_cmpint(c.verdict, ==, FIGURES_UNKNOWN);
    c = figures_changed(zeros, NULL, 4, figures_ones, NULL, 4);
    figures_is(c.change, NAN);
    c = figures_changed(figures_ones, none, 4, figures_ones, none, 4);
    g_assert_cmpint(c.verdict, ==, FIGURES_UNKNOWN);
    c = figures_changed(figures_ones, NULL, 0, figures_ones, NULL, 0);
    g_assert_cmpint(c.verdict, ==, FIGURES_UNKNOWN);
    /* What became nothing is not more than it was. */
    c = figures_changed(figures_ones, NULL, 4, zeros, NULL, 4);
    figures_is(c.change, -1);
    g_assert_cmpint(c.verdict, ==, FIGURES_LESS);
}

static void test_overlapping_rounds_are_noise(void)
{
    /* A change of few rounds whose ranges overlap is noise. */
    static const double a[] = { 1, 2, 3, 4, 5, 1, 2, 3, 4, 5 };
    static const double b[] = { 4.9, 6, 7, 8, 9, 6, 7, 8, 9, 9 };
    static const double apart[] = { 5.1, 6, 7, 8, 9 };
    FiguresChange c = figures_changed(a, NULL, 5, b, NULL, 5);

    g_assert_cmpfloat(c.low, >, 0);
    g_assert_cmpint(c.verdict, ==, FIGURES_NOISE);
    c = figures_changed(a, NULL, 5, apart, NULL, 5);
    g_assert_cmpint(c.verdict, ==, FIGURES_MORE);
    /* Of many rounds a single one does not hide what the others say. */
    c = figures_changed(a, NULL, 10, b, NULL, 10);
    g_assert_cmpint(c.verdict, ==, FIGURES_MORE);
}

static void test_rounds_that_are_needed(void)
{
    /*
     * How many rounds are needed follows from the width of the interval.  The
     * interval of 3 rounds is from 1/1.21 to 1.21: twice as wide, in
     * logarithms, as +-10 %.  Half the width takes four times the rounds.
     */
    static const double values[] = { 1 / 1.21, 1, 1.21 };
    FiguresChange c = figures_changed(figures_ones, NULL, 3, values, NULL, 3);

    figures_is(c.low, 1 / 1.21 - 1);
    figures_is(c.high, 0.21);
    g_assert_cmpuint(c.needed_count, >=, 12);
    g_assert_cmpuint(c.needed_count, <=, 13);   /* rounding of logarithms */
}

static void test_verdicts_repeat(void)
{
    /* The same rounds give the same interval, to the last bit. */
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    double a[40], b[40];
    FiguresChange once, again;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(a); i++) {
        a[i] = g_rand_double_range(rand, 1, 2);
        b[i] = g_rand_double_range(rand, 1, 2);
    }
    once = figures_changed(a, b, 40, b, a, 40);
    again = figures_changed(a, b, 40, b, a, 40);
    g_assert_true(once.low == again.low && once.high == again.high);
    g_assert_cmpfloat(once.low, <, once.change);
    g_assert_cmpfloat(once.high, >, once.change);
}

static void test_ratio_may_be_zero(void)
{
    /* The ratio of nothing to something is 0, not unknown. */
    static const double values[] = { 0, 0 };
    static const double base[] = { 2, 5 };

    figures_is(figures_ratio(values, base, 2), 0);
}

/* ---- numbers on the command line ---- */

static void test_sizes_are_understood(void)
{
    /* A size is in bytes, or has a unit of 1024, in either case. */
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {
        { "0", 0 }, { "4096", 4096 }, { "1k", 1024 }, { "1K", 1024 },
        { "1KiB", 1024 }, { "1.5K", 1536 }, { "0.5G", 512 << 20 },
        { "32M", 32 << 20 }, { "32MiB", 32 << 20 }, { "3g", 3ull << 30 },
        { "2T", 2ull << 40 }, { "2tib", 2ull << 40 },
        { "8388607T", 8388607ull << 40 },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint64_t bytes = 77;

        fixture_note("size '%s'", sizes[i].text);
        g_assert_true(text_parse_size(sizes[i].text, &bytes));
        g_assert_cmpuint(bytes, ==, sizes[i].bytes);
    }
    fixture_note_clear();
}

static void test_bad_sizes_are_refused(void)
{
    /* Sizes with signs, blanks, other units or too many digits are refused. */
    static const char *const texts[] = {
        "", " ", "K", "-1", "-0", "+1", " 1", "1 ", "1 K ", "1KK", "1Q",
        "1KB", "nan", "inf", "infinity", "1e999", "1..5", "1,5", "x8",
        "8388608T", "9223372036854775808", "1e30", "99999999999999999999T",
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(texts); i++) {
        uint64_t bytes;

        fixture_note("size '%s'", texts[i]);
        g_assert_false(text_parse_size(texts[i], &bytes));
    }
    fixture_note_clear();
}

static void test_shares_are_understood(void)
{
    /* A share is a number or in percent, to a millionth, of any size. */
    static const struct {
        const char *text;
        uint64_t millionths;
    } shares[] = {
        { "0", 0 }, { "1", 1000000 }, { "0.25", 250000 }, { "25%", 250000 },
        { "25 %", 250000 }, { "100%", 1000000 }, { "0.000001", 1 },
        { "33.3333%", 333333 }, { "0.3", 300000 }, { "1.5", 1500000 },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(shares); i++) {
        uint64_t millionths = 77;

        fixture_note("share '%s'", shares[i].text);
        g_assert_true(text_parse_share(shares[i].text, &millionths));
        g_assert_cmpuint(millionths, ==, shares[i].millionths);
    }
    fixture_note_clear();
}

static void test_bad_shares_are_refused(void)
{
    /* Shares with signs, other units or without a number are refused. */
    static const char *const texts[] = {
        "", "%", "-1", "-0.5", "+1", "25%%", "0.25 ", " 0.25", "half", "nan",
        "inf%", "1K", "1e999", "0,5",
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(texts); i++) {
        uint64_t millionths;

        fixture_note("share '%s'", texts[i]);
        g_assert_false(text_parse_share(texts[i], &millionths));
    }
    fixture_note_clear();
}

static void test_values_are_written_for_people(void)
{
    /* Values are printed with the unit that fits, or as words. */
    static const struct {
        KnobId knob;
        uint64_t value;
        const char *text;
    } values[] = {
        { KNOB_SIZE, 0, "0 B" }, { KNOB_SIZE, 1023, "1023 B" },
        { KNOB_SIZE, 1024, "1 KiB" }, { KNOB_SIZE, 1536, "1.5 KiB" },
        { KNOB_SIZE, 32ull << 30, "32 GiB" },
        { KNOB_SIZE, 16ull << 40, "16 TiB" },
        { KNOB_RUN_LENGTH, 1 << 20, "1 MiB" },
        { KNOB_WORKING_SET, 64 << 20, "64 MiB" },
        { KNOB_ZERO_SHARE, 250000, "25 %" }, { KNOB_ZERO_SHARE, 0, "0 %" },
        { KNOB_WRITE_SHARE, 1000000, "100 %" },
        { KNOB_WRITE_SHARE, 1, "0.0001 %" },
        { KNOB_SEED, UINT64_MAX, "18446744073709551615" },
        { KNOB_VCPUS, 4, "4" }, { KNOB_THREADS, 16, "16" },
        { KNOB_THINK, 0, "0 ns" }, { KNOB_THINK, 999, "999 ns" },
        { KNOB_THINK, 20000, "20 us" }, { KNOB_THINK, 1500, "1.5 us" },
        { KNOB_WINDOW, 1000000000, "1 s" },
        { KNOB_WINDOW, 600000000000, "600 s" },
        { KNOB_WINDOW, 30000000, "30 ms" },
        { KNOB_CACHE, CACHE_COLD, "cold" },
        { KNOB_CACHE, CACHE_WARM, "warm" },
        { KNOB_PATTERN, PATTERN_UNIFORM, "uniform" },
        { KNOB_PATTERN, PATTERN_ZIPF, "zipf" },
        { KNOB_PATTERN, PATTERN_SEQUENTIAL, "sequential" },
        { KNOB_PATTERN, PATTERN_TRACE, "trace" },
        { KNOB_DIRECT, false, "off" }, { KNOB_DIRECT, true, "on" },
        { KNOB_IO, BENCH_IO_AUTO, "auto" },
        { KNOB_IO, BENCH_IO_URING, "io_uring" },
        { KNOB_IO, BENCH_IO_PREADV, "preadv" },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(values); i++) {
        g_autofree char *text = plan_knob_text(values[i].knob,
                                               values[i].value);

        g_assert_cmpstr(text, ==, values[i].text);
    }
}

static void test_knobs_have_names(void)
{
    /* Each knob has a name of its own. */
    KnobId i, k;

    for (i = 0; i < KNOB_COUNT; i++) {
        g_assert_nonnull(plan_knob_name(i));
        for (k = 0; k < i; k++) {
            g_assert_cmpstr(plan_knob_name(i), !=, plan_knob_name(k));
        }
    }
}

/* ---- traces ---- */

/* Eight pages of RAM, and four of something else at 2 MiB. */
static SnapshotBlock trace_blocks[] = {
    { .name = "pc.ram", .len_bytes = 8 * PAGE, .guest_off = 0 },
    { .name = "0000:00:02.0/vga.vram", .len_bytes = 4 * PAGE,
      .guest_off = BENCH_HUGE_BYTES },
};
static const Snapshot trace_snapshot = {
    .guest_bytes = 2 * BENCH_HUGE_BYTES,
    .len_bytes = 12 * PAGE,
    .blocks = trace_blocks,
    .block_count = G_N_ELEMENTS(trace_blocks),
};
#define VGA_PAGE (BENCH_HUGE_BYTES / PAGE)
#define NO_TIME TOUCH_HAS_NO_TIME

/* What @text as a file says; *ret_path as it was named, to be freed. */
static GArray *figures_trace(const char *text, char **ret_path,
                             GError **error)
{
    g_autofree char *path = NULL;
    GArray *touches;
    int fd = g_file_open_tmp("bench-trace-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, text, strlen(text)), ==, strlen(text));
    close(fd);
    touches = trace_load(path, &trace_snapshot, error);
    unlink(path);
    if (ret_path) {
        *ret_path = g_steal_pointer(&path);
    }
    return touches;
}

static void figures_trace_is(const char *text, const Touch *wanted,
                             uint32_t count)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) touches = NULL;
    uint32_t i;

    fixture_note("trace '%s'", text);
    touches = figures_trace(text, NULL, &error);
    g_assert_no_error(error);
    g_assert_nonnull(touches);
    g_assert_cmpuint(touches->len, ==, count);
    for (i = 0; i < count; i++) {
        const Touch *touch = &g_array_index(touches, Touch, i);

        g_assert_cmpuint(touch->page, ==, wanted[i].page);
        g_assert_cmpint(touch->is_write, ==, wanted[i].is_write);
        g_assert_cmpuint(touch->at_ns, ==, wanted[i].at_ns);
    }
    fixture_note_clear();
}

static void test_trace_is_read_in_order(void)
{
    /* Touches may have a block and a kind; offsets are decimal or 0x. */
    static const Touch wanted[] = {
        { 0, false, NO_TIME }, { 1, false, NO_TIME }, { 1, true, NO_TIME },
        { 2, false, NO_TIME }, { VGA_PAGE, true, NO_TIME },
        { VGA_PAGE + 3, false, NO_TIME }, { 7, true, NO_TIME },
        { 0, true, NO_TIME },
    };

    figures_trace_is("0\n4096 r\n0x1fff w\npc.ram 8192\n"
                     "0000:00:02.0/vga.vram 0 w\n"
                     "0000:00:02.0/vga.vram 0x3fff r\n"
                     "pc.ram 32767 w\n0 w\n", wanted, G_N_ELEMENTS(wanted));
}

static void test_trace_may_have_comments(void)
{
    /*
     * Blank lines, comments, blanks, CRLF and a missing last newline are
     * accepted.
     */
    static const Touch wanted[] = {
        { 1, true, NO_TIME }, { 2, false, NO_TIME }, { 3, false, NO_TIME },
    };

    figures_trace_is("# recorded\n\n  \t\n   # so it was\n\t4096\tw  \r\n"
                     "  pc.ram   8192 \n#0x0\n12288", wanted,
                     G_N_ELEMENTS(wanted));
}

static void test_trace_has_no_octal(void)
{
    /* Leading zeros of an offset mean nothing. */
    static const Touch wanted[] = { { 2, false, NO_TIME } };

    figures_trace_is("010000\n", wanted, G_N_ELEMENTS(wanted));
}

static void test_trace_may_have_times(void)
{
    /*
     * Any line may have a time in seconds, to the nanosecond; two may be equal.
     */
    static const Touch wanted[] = {
        { 0, false, 0 }, { 1, true, 1500 }, { 1, false, NO_TIME },
        { VGA_PAGE, true, 1500 }, { VGA_PAGE, false, 2000000001 },
        { 2, false, 1000000000000000 },
    };

    figures_trace_is("0 @0\n4096 w @0.0000015\n4096\n"
                     "0000:00:02.0/vga.vram 0 w @0.0000015\n"
                     "0000:00:02.0/vga.vram 0 @2.000000001\n"
                     "8192 r @1e6\n", wanted, G_N_ELEMENTS(wanted));
}

static void test_bad_traces_are_refused(void)
{
    /* A bad line is refused with its number, the file's name and the reason. */
    static const struct {
        const char *line, *why;
    } bads[] = {
        { "pc.rom 0", "names no block" },
        { "PC.RAM 0", "names no block" },
        { "0 x", "names no block" },
        { "r", "no offset" },
        { "pc.ram", "no offset" },
        { "pc.ram r", "no offset" },
        { "pc.ram w r", "no offset" },
        { "abc", "no offset" },
        { "-1", "no offset" },
        { "+1", "no offset" },
        { "0x", "no offset" },
        { "0xg", "no offset" },
        { "1.5", "no offset" },
        { "4096K", "no offset" },
        { "18446744073709551616", "no offset" },
        { "18446744073709551615", "past the end" },
        { "32768", "past the end" },
        { "pc.ram 0x8000 w", "past the end" },
        { "0000:00:02.0/vga.vram 16384", "past the end" },
        { "pc.ram 0 x", "is not" },
        { "pc.ram 0 rw", "is not" },
        { "pc.ram 0 r # no", "is not" },
        { "0 1 2 3", "is not" },
        { "0 r w", "names no block" },
        { "0 @", "no time in seconds" },
        { "0 @x", "no time in seconds" },
        { "0 r @-1", "no time in seconds" },
        { "0 r @1s", "no time in seconds" },
        { "0 r @inf", "no time in seconds" },
        { "0 r @0x1p-1k", "no time in seconds" },
        { "pc.ram 0 r @1e7", "no time in seconds" },
        { "0 @1 r", "is not|names no block" },
        { "@1", "no offset" },
        { "pc.ram 0 r @1 2", "is not" },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(bads); i++) {
        g_autofree char *text = g_strdup_printf("0\n#\n%s\n0\n",
                                                bads[i].line);
        g_autoptr(GError) error = NULL;
        g_autofree char *path = NULL;

        fixture_note("line '%s'", bads[i].line);
        g_assert_null(figures_trace(text, &path, &error));
        g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
        g_assert_nonnull(strstr(error->message, "line 3 "));
        g_assert_nonnull(strstr(error->message, path));
        g_assert_true(g_regex_match_simple(bads[i].why, error->message, 0,
                                           0));
    }
    fixture_note_clear();
}

static void test_times_do_not_go_back(void)
{
    /* Times must not go back, even past a line without a time. */
    g_autoptr(GError) error = NULL;

    g_assert_null(figures_trace("0 @2\n0\n0 @1.9\n", NULL, &error));
    g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "line 3 "));
    g_assert_nonnull(strstr(error->message, "before"));
}

static void test_empty_traces_are_refused(void)
{
    /* A trace without a touch is refused. */
    static const char *const texts[] = { "", "\n\n", "# only this\n" };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(figures_trace(texts[i], NULL, &error));
        g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
        g_assert_nonnull(strstr(error->message, "no touches"));
    }
}

static void test_missing_traces_are_refused(void)
{
    /* A missing file is refused, and the error says so. */
    g_autoptr(GError) error = NULL;

    g_assert_null(trace_load("/nonexistent/trace", &trace_snapshot, &error));
    g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "/nonexistent/trace"));
}

/* ---- the kernel's readahead ---- */

static void figures_bdi(const char *folder, const char *name,
                        const char *kib)
{
    g_autofree char *bdi = g_build_filename(folder, name, NULL);
    g_autofree char *path = g_build_filename(bdi, "read_ahead_kb", NULL);

    g_assert_cmpint(g_mkdir(bdi, 0700), ==, 0);
    g_assert_true(g_file_set_contents(path, kib, -1, NULL));
}

static void figures_remove_bdi(const char *folder, const char *name)
{
    g_autofree char *bdi = g_build_filename(folder, name, NULL);
    g_autofree char *path = g_build_filename(bdi, "read_ahead_kb", NULL);

    g_assert_cmpint(g_remove(path), ==, 0);
    g_assert_cmpint(g_rmdir(bdi), ==, 0);
}

static void test_readahead_is_the_file_systems(void)
{
    /*
     * Readahead is found by device number, else by the type if it is the only
     * one.
     */
    g_autofree char *folder = g_dir_make_tmp("fastload-bdi-XXXXXX", NULL);
    uint64_t bytes = 7;

    figures_bdi(folder, "254:0", "8192\n");
    figures_bdi(folder, "0:57", "128\n");
    figures_bdi(folder, "btrfs-3", "4096\n");
    g_assert_true(environment_read_ahead(folder, makedev(254, 0), "ext4",
                                         &bytes));
    g_assert_cmpuint(bytes, ==, 8 << 20);
    g_assert_true(environment_read_ahead(folder, makedev(0, 57), "fuse",
                                         &bytes));
    g_assert_cmpuint(bytes, ==, 128 << 10);
    g_assert_true(environment_read_ahead(folder, makedev(0, 40), "btrfs",
                                         &bytes));
    g_assert_cmpuint(bytes, ==, 4 << 20);

    bytes = 7;
    figures_bdi(folder, "btrfs-4", "128\n");
    g_assert_false(environment_read_ahead(folder, makedev(0, 40), "btrfs",
                                          &bytes));
    g_assert_false(environment_read_ahead(folder, makedev(0, 22), "tmpfs",
                                          &bytes));
    g_assert_cmpuint(bytes, ==, 7);

    figures_remove_bdi(folder, "254:0");
    figures_remove_bdi(folder, "0:57");
    figures_remove_bdi(folder, "btrfs-3");
    figures_remove_bdi(folder, "btrfs-4");
    g_assert_cmpint(g_rmdir(folder), ==, 0);
}

/* ---- faults, round by round ---- */

#define ROUNDS 5

/* A round of a thousand faults that take @ns, and one of ten times that. */
static void figures_add_round(FaultRounds *faults, uint32_t round,
                              uint64_t ns)
{
    g_autofree Hist *hist = g_new0(Hist, 1);
    uint32_t i;

    for (i = 0; i < 1000; i++) {
        hist_add(hist, ns);
    }
    hist_add(hist, 10 * ns);
    figures_faults_add(faults, round, hist);
}

static double figures_of_faults(const FaultRounds *faults, FaultFigure which)
{
    double least, most;

    return figures_median(faults->figures[which], ROUNDS, &least, &most);
}

static void test_one_bad_round_does_not_own_the_maximum(void)
{
    /* One slow round of five does not decide the figures of faults. */
    g_autofree FaultRounds *faults = g_new0(FaultRounds, 1);
    uint32_t i;

    figures_faults_init(faults, ROUNDS);
    for (i = 0; i < ROUNDS; i++) {
        figures_add_round(faults, i, i == 2 ? 100000000 : 100000);
    }
    g_assert_cmpfloat(figures_of_faults(faults, FAULT_FIGURE_COUNT), ==,
                      1001);
    g_assert_cmpfloat(figures_of_faults(faults, FAULT_FIGURE_P50), <=,
                      106000);
    g_assert_cmpfloat(figures_of_faults(faults, FAULT_FIGURE_P999), <=,
                      1000000);
    g_assert_cmpfloat(figures_of_faults(faults, FAULT_FIGURE_MAX), ==,
                      1000000);
    g_assert_cmpfloat(figures_of_faults(faults, FAULT_FIGURE_SUM), ==,
                      101000000);
    /* All rounds together know the worst. */
    g_assert_cmpuint(faults->all.max_ns, ==, 1000000000);
    g_assert_cmpuint(faults->all.count, ==, ROUNDS * 1001);
    g_assert_cmpuint(hist_percentile_ns(&faults->all, 900), >, 90000000);
    figures_faults_clear(faults);
}

static void test_a_round_without_faults_has_no_percentiles(void)
{
    /* A round without faults counts as 0 faults, a failed one not at all. */
    g_autofree FaultRounds *faults = g_new0(FaultRounds, 1);
    g_autofree Hist *none = g_new0(Hist, 1);

    figures_faults_init(faults, ROUNDS);
    figures_add_round(faults, 0, 100);
    figures_faults_add(faults, 1, none);
    figures_faults_add(faults, 2, none);
    g_assert_cmpfloat(figures_of_faults(faults, FAULT_FIGURE_COUNT), ==, 0);
    g_assert_cmpfloat(figures_of_faults(faults, FAULT_FIGURE_SUM), ==, 0);
    g_assert_cmpfloat(figures_of_faults(faults, FAULT_FIGURE_MAX), ==, 1000);
    g_assert_true(isnan(faults->figures[FAULT_FIGURE_COUNT][3]));
    figures_faults_clear(faults);
}

static void test_times_are_written_for_people(void)
{
    /* A time has three digits and the unit that fits; "-" is unknown. */
    static const struct {
        double ns;
        const char *text;
    } times[] = {
        { 0, "0 ns" }, { 7, "7.00 ns" }, { 999.4, "999 ns" },
        { 999.6, "1.00 us" }, { 12345, "12.3 us" }, { 1e9, "1.00 s" },
        { 12345e9, "12345 s" }, { NAN, "-" },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(times); i++) {
        g_autofree char *text = text_ns(times[i].ns);

        g_assert_cmpstr(text, ==, times[i].text);
    }
}

static void test_histograms_keep_sums(void)
{
    /* The sum of times is exact, also after merging. */
    g_autofree Hist *a = g_new0(Hist, 1);
    g_autofree Hist *b = g_new0(Hist, 1);

    hist_add(a, 17);
    hist_add(a, 1234567);
    hist_add(b, 1);
    hist_merge(a, b);
    g_assert_cmpuint(a->sum_ns, ==, 1234585);
}

static void figures_add(const char *name, GTestFunc func)
{
    g_autofree char *path = g_strconcat("/bench/figures/", name, NULL);

    g_test_add_func(path, func);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    figures_add("buckets-are-monotone", test_buckets_are_monotone);
    figures_add("floor-is-the-inverse", test_floor_is_the_inverse);
    figures_add("short-times-are-exact", test_short_times_are_exact);
    figures_add("percentiles-are-close", test_percentiles_are_close);
    figures_add("percentiles-are-ordered", test_percentiles_are_ordered);
    figures_add("percentiles-of-few", test_percentiles_of_few);
    figures_add("nothing-is-zero", test_nothing_is_zero);
    figures_add("maximum-is-exact", test_maximum_is_exact);
    figures_add("extremes-fit", test_extremes_fit);
    figures_add("merge-is-as-adding-all", test_merge_is_as_adding_all);
    figures_add("merging-nothing-changes-nothing",
                test_merging_nothing_changes_nothing);
    figures_add("median-of-odd-and-even", test_median_of_odd_and_even);
    figures_add("median-ignores-the-unknown",
                test_median_ignores_the_unknown);
    figures_add("median-of-nothing", test_median_of_nothing);
    figures_add("outliers-of-few-rounds", test_outliers_of_few_rounds);
    figures_add("outliers-of-many-rounds", test_outliers_of_many_rounds);
    figures_add("outliers-are-not-next-to-the-median",
                test_outliers_are_not_next_to_the_median);
    figures_add("outliers-of-nothing", test_outliers_of_nothing);
    figures_add("ratio-is-of-medians",
                test_ratio_is_of_medians);
    figures_add("ratio-needs-both", test_ratio_needs_both);
    figures_add("change-without-spread", test_change_without_spread);
    figures_add("interval-of-few-rounds", test_interval_of_few_rounds);
    figures_add("interval-of-a-ratio", test_interval_of_a_ratio);
    figures_add("change-of-one-round", test_change_of_one_round);
    figures_add("change-of-nothing", test_change_of_nothing);
    figures_add("overlapping-rounds", test_overlapping_rounds_are_noise);
    figures_add("rounds-that-are-needed", test_rounds_that_are_needed);
    figures_add("verdicts-repeat", test_verdicts_repeat);
    figures_add("ratio-may-be-zero", test_ratio_may_be_zero);
    figures_add("one-bad-round-does-not-own-the-maximum",
                test_one_bad_round_does_not_own_the_maximum);
    figures_add("a-round-without-faults-has-no-percentiles",
                test_a_round_without_faults_has_no_percentiles);
    figures_add("histograms-keep-sums", test_histograms_keep_sums);
    figures_add("times-are-written-for-people",
                test_times_are_written_for_people);
    figures_add("sizes-are-understood", test_sizes_are_understood);
    figures_add("bad-sizes-are-refused", test_bad_sizes_are_refused);
    figures_add("shares-are-understood", test_shares_are_understood);
    figures_add("bad-shares-are-refused", test_bad_shares_are_refused);
    figures_add("values-are-written-for-people",
                test_values_are_written_for_people);
    figures_add("knobs-have-names", test_knobs_have_names);
    figures_add("trace-is-read-in-order", test_trace_is_read_in_order);
    figures_add("trace-may-have-comments", test_trace_may_have_comments);
    figures_add("trace-may-have-times", test_trace_may_have_times);
    figures_add("times-do-not-go-back", test_times_do_not_go_back);
    figures_add("trace-has-no-octal", test_trace_has_no_octal);
    figures_add("bad-traces-are-refused", test_bad_traces_are_refused);
    figures_add("empty-traces-are-refused", test_empty_traces_are_refused);
    figures_add("missing-traces-are-refused",
                test_missing_traces_are_refused);
    figures_add("readahead-is-the-file-systems",
                test_readahead_is_the_file_systems);
    return g_test_run();
}
