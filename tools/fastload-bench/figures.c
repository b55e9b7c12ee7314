/*
 * fastload-bench: medians, ratios and intervals over rounds.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Also finds outliers.  A round that measured nothing is NAN and does not
 * count.  Percentiles are computed for each round, since in a histogram of all
 * rounds a single disturbed round would decide the highest percentiles.
 * Nothing here can fail.
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
    double to = base ? figures_median(base, count, &least, &most) : 1;

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

/* ---- changes ---- */

/* A round that has both a value and, if there is one, a base. */
typedef struct Pairs {
    uint32_t count;
    double *values;
    double *bases;           /* NULL: there are none */
    uint32_t *value_order;   /* ascending */
    uint32_t *base_order;
} Pairs;

static int figures_by_order(const void *a, const void *b, void *opaque)
{
    const double *values = opaque;

    return figures_by_value(&values[*(const uint32_t *)a],
                            &values[*(const uint32_t *)b]);
}

static uint32_t *figures_order(double *values, uint32_t count)
{
    uint32_t *order = g_new(uint32_t, count + 1);
    uint32_t i;

    for (i = 0; i < count; i++) {
        order[i] = i;
    }
    g_qsort_with_data(order, count, sizeof(*order), figures_by_order, values);
    return order;
}

static void figures_pair(const FiguresSeries *series, Pairs *pairs)
{
    uint32_t i;

    *pairs = (Pairs) { .values = g_new(double, series->count + 1) };
    pairs->bases = series->bases ? g_new(double, series->count + 1) : NULL;
    for (i = 0; i < series->count; i++) {
        if (!isnan(series->values[i]) &&
            !(series->bases && isnan(series->bases[i]))) {
            if (series->bases) {
                pairs->bases[pairs->count] = series->bases[i];
            }
            pairs->values[pairs->count++] = series->values[i];
        }
    }
    pairs->value_order = figures_order(pairs->values, pairs->count);
    pairs->base_order = series->bases
        ? figures_order(pairs->bases, pairs->count) : NULL;
}

static void figures_unpair(Pairs *pairs)
{
    g_free(pairs->values);
    g_free(pairs->bases);
    g_free(pairs->value_order);
    g_free(pairs->base_order);
}

/* The median when the round i is there @draws[i] times, @count in all. */
static double figures_drawn_median(const double *values,
                                   const uint32_t *order,
                                   const uint32_t *draws, uint32_t count)
{
    uint32_t i, seen = 0;
    double lower = NAN;

    for (i = 0; i < count; i++) {
        seen += draws[order[i]];
        if (isnan(lower) && seen > (count - 1) / 2) {
            lower = values[order[i]];
        }
        if (seen > count / 2) {
            return (lower + values[order[i]]) / 2;
        }
    }
    return NAN;
}

/* The ratio of medians, or the median, of the rounds that were drawn. */
static double figures_drawn_level(const Pairs *pairs, const uint32_t *draws)
{
    double of = figures_drawn_median(pairs->values, pairs->value_order, draws,
                                     pairs->count);
    double to = !pairs->bases ? 1
        : figures_drawn_median(pairs->bases, pairs->base_order, draws,
                               pairs->count);

    return to > 0 ? of / to : NAN;
}

/* A generator with the same numbers on every machine, so is the verdict. */
static uint64_t figures_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* Draws whole rounds: a disturbance affects value and base of a round. */
static void figures_draw(uint32_t *draws, uint32_t count, uint64_t *state)
{
    uint32_t i;

    memset(draws, 0, count * sizeof(*draws));
    for (i = 0; i < count; i++) {
        draws[figures_random(state) % count]++;
    }
}

/* The relative change; infinite from 0 to anything. */
static double figures_change_of(double from, double to)
{
    return from == to ? 0 : to / from - 1;
}

/* Computes the interval; false if a base is 0. */
static bool figures_bootstrap(const Pairs *a, const Pairs *b, double *ret_low,
                              double *ret_high)
{
    g_autofree double *changes = g_new(double, FIGURES_DRAW_COUNT);
    g_autofree uint32_t *draws = g_new(uint32_t, MAX(a->count, b->count));
    uint32_t tail = FIGURES_DRAW_COUNT * (1 - FIGURES_CONFIDENCE) / 2;
    uint64_t state = FIGURES_SEED;
    uint32_t i;

    for (i = 0; i < FIGURES_DRAW_COUNT; i++) {
        double from, to;

        figures_draw(draws, a->count, &state);
        from = figures_drawn_level(a, draws);
        figures_draw(draws, b->count, &state);
        to = figures_drawn_level(b, draws);
        changes[i] = figures_change_of(from, to);
        if (isnan(changes[i])) {
            return false;
        }
    }
    qsort(changes, FIGURES_DRAW_COUNT, sizeof(*changes), figures_by_value);
    *ret_low = changes[tail];
    *ret_high = changes[FIGURES_DRAW_COUNT - 1 - tail];
    return true;
}

/* Do the ranges of both overlap, each relative to its median base? */
static bool figures_overlap(const Pairs *a, const Pairs *b)
{
    double least_a, most_a, least_b, most_b, least, most;
    double base_a = a->bases ? figures_median(a->bases, a->count, &least,
                                              &most) : 1;
    double base_b = b->bases ? figures_median(b->bases, b->count, &least,
                                              &most) : 1;

    figures_median(a->values, a->count, &least_a, &most_a);
    figures_median(b->values, b->count, &least_b, &most_b);
    return least_a / base_a <= most_b / base_b &&
           least_b / base_b <= most_a / base_a;
}

/* An interval shrinks with the square root of the number of rounds. */
static uint32_t figures_needed(uint32_t count, double low, double high,
                               double wanted)
{
    double half = (log1p(high) - log1p(low)) / 2;
    double needed = ceil(count * pow(half / log1p(wanted), 2));

    return needed < FIGURES_NEEDED_MAX ? needed : FIGURES_NEEDED_MAX;
}

void figures_change(const FiguresSeries *a, const FiguresSeries *b,
                    double wanted, FiguresChange *ret_change)
{
    FiguresChange change = { NAN, NAN, NAN, FIGURES_UNKNOWN, 0, 0 };
    Pairs first, second;
    uint32_t count;

    figures_pair(a, &first);
    figures_pair(b, &second);
    count = MIN(first.count, second.count);
    change.round_count = count;
    if (count) {
        double from = figures_ratio(first.values, first.bases, first.count);
        double to = figures_ratio(second.values, second.bases, second.count);

        change.change = from > 0 ? to / from - 1 : NAN;
    }
    if (!isnan(change.change) && count < FIGURES_ROUNDS_MIN) {
        change.verdict = FIGURES_FEW;
        change.needed_count = FIGURES_ROUNDS_MIN;
    } else if (!isnan(change.change) &&
               figures_bootstrap(&first, &second, &change.low,
                                 &change.high)) {
        change.verdict =
            (change.low <= 0 && change.high >= 0) ||
            (count < FIGURES_ROUNDS_MANY && figures_overlap(&first, &second))
            ? FIGURES_NOISE : change.low > 0 ? FIGURES_MORE : FIGURES_LESS;
        change.needed_count = figures_needed(count, change.low, change.high,
                                             wanted);
    }
    figures_unpair(&first);
    figures_unpair(&second);
    *ret_change = change;
}
