/*
 * fastload-bench: what several rounds say together.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Medians and ratios over rounds, and which rounds are unlike the others.  A
 * round that measured nothing is NAN and does not count.  Percentiles are each
 * round's own: in a histogram of all rounds one disturbed round would own the
 * rarest faults.  Nothing here can fail.
 */
#include "bench.h"
#include <math.h>

static int figures_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double figures_median(const double *values, uint32_t count, double *ret_min,
                     double *ret_max)
{
    g_autofree double *known = g_new(double, count + 1);
    uint32_t known_count = 0, i;

    for (i = 0; i < count; i++) {
        if (!isnan(values[i])) {
            known[known_count++] = values[i];
        }
    }
    if (!known_count) {
        *ret_min = *ret_max = NAN;
        return NAN;
    }
    qsort(known, known_count, sizeof(*known), figures_by_value);
    *ret_min = known[0];
    *ret_max = known[known_count - 1];
    return (known[known_count / 2] + known[(known_count - 1) / 2]) / 2;
}

double figures_ratio(const double *values, const double *base, uint32_t count)
{
    double least, most;
    double of = figures_median(values, count, &least, &most);
    double to = figures_median(base, count, &least, &most);

    return to > 0 ? of / to : NAN;
}

void figures_faults_init(FaultRounds *faults, uint32_t round_count)
{
    uint32_t i, round;

    for (i = 0; i < FAULT_FIGURES; i++) {
        faults->figures[i] = g_new(double, round_count);
        for (round = 0; round < round_count; round++) {
            faults->figures[i][round] = NAN;
        }
    }
}

void figures_faults_clear(FaultRounds *faults)
{
    uint32_t i;

    for (i = 0; i < FAULT_FIGURES; i++) {
        g_clear_pointer(&faults->figures[i], g_free);
    }
}

void figures_faults_add(FaultRounds *faults, uint32_t round, const Hist *hist)
{
    const double values[FAULT_FIGURES] = {
        [FAULT_FIGURE_COUNT] = hist->count,
        [FAULT_FIGURE_P50] = hist_percentile_ns(hist, 500),
        [FAULT_FIGURE_P90] = hist_percentile_ns(hist, 900),
        [FAULT_FIGURE_P99] = hist_percentile_ns(hist, 990),
        [FAULT_FIGURE_P999] = hist_percentile_ns(hist, 999),
        [FAULT_FIGURE_MAX] = hist->max_ns,
        [FAULT_FIGURE_SUM] = hist->sum_ns,
    };
    uint32_t i;

    for (i = 0; i < FAULT_FIGURES; i++) {
        bool needs_faults = i != FAULT_FIGURE_COUNT && i != FAULT_FIGURE_SUM;

        faults->figures[i][round] = needs_faults && !hist->count ? NAN
                                                                 : values[i];
    }
    hist_merge(&faults->all, hist);
}

/* The value below which @share of the @count sorted values lie. */
static double figures_quantile(const double *sorted, uint32_t count,
                               double share)
{
    double place = share * (count - 1);
    uint32_t below = place;
    uint32_t above = MIN(below + 1, count - 1);

    return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

void figures_fences(const double *values, uint32_t count, double *ret_low,
                    double *ret_high)
{
    g_autofree double *known = g_new(double, count + 1);
    uint32_t known_count = 0, i;
    double median, low, high;

    for (i = 0; i < count; i++) {
        if (!isnan(values[i])) {
            known[known_count++] = values[i];
        }
    }
    if (!known_count) {
        *ret_low = -INFINITY;
        *ret_high = INFINITY;
        return;
    }
    qsort(known, known_count, sizeof(*known), figures_by_value);
    median = figures_quantile(known, known_count, 0.5);
    if (known_count < FIGURES_QUARTILE_COUNT_MIN) {
        *ret_low = median / 1.5;
        *ret_high = median * 1.5;
        return;
    }
    low = figures_quantile(known, known_count, 0.25);
    high = figures_quantile(known, known_count, 0.75);
    *ret_low = MIN(low - 1.5 * (high - low), median * 0.9);
    *ret_high = MAX(high + 1.5 * (high - low), median * 1.1);
}
