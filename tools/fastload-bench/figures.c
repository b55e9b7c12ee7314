/*
 * fastload-bench: what several rounds say together.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Medians and ratios over rounds.  A round that measured nothing is NAN and
 * does not count.  Nothing here can fail.
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
