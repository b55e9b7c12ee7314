/*
 * fastload-bench: notes for the readers of figures.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sentences that stand beside the figures of a scenario, for example that a
 * cold cache was not cold, or why a contender was left out.  Nothing here
 * fails.
 */
#include "bench.h"
#include <math.h>

#define CACHE_SHARE 0.02     /* of the data may be cached wrongly */

void notes_add(GPtrArray *notes, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    if (!g_ptr_array_find_with_equal_func(notes, text, g_str_equal, NULL)) {
        g_ptr_array_add(notes, g_steal_pointer(&text));
    }
}

/* The least and the most that was cached before a run; NAN: unknown. */
static void notes_find_cached(const ScenarioResult *s, double *ret_least,
                              double *ret_most)
{
    double least = INFINITY, most = 0;
    uint32_t i, round;

    for (i = 0; i < s->contenders->len; i++) {
        const Contender *c = s->contenders->pdata[i];

        for (round = 0; round < s->round_count; round++) {
            double cached = c->values[MEASURE_CACHED][round];

            if (isnan(c->values[MEASURE_RUN][round])) {
                continue; /* no such run */
            }
            if (isnan(cached)) {
                *ret_least = *ret_most = NAN;
                return;
            }
            least = fmin(least, cached);
            most = fmax(most, cached);
        }
    }
    *ret_least = least;
    *ret_most = most;
}

void notes_add_cache(const ScenarioResult *s, uint64_t data_bytes,
                     GPtrArray *notes)
{
    bool is_cold = s->values[KNOB_CACHE] == CACHE_COLD;
    double least, most;

    notes_find_cached(s, &least, &most);
    if (isnan(most)) {
        notes_add(notes, "UNKNOWN whether %s was %s: the kernel tells only "
                  "the file's owner what the page cache has of it; run as "
                  "that user, or as root", is_cold ? "cold" : "warm",
                  is_cold ? "cold" : "warm");
    } else if (is_cold && most > data_bytes * CACHE_SHARE) {
        g_autofree char *text = text_bytes(most);

        notes_add(notes, "NOT COLD: up to %s of the file stayed in the page "
                  "cache; use a file system on a disk", text);
    } else if (!is_cold && least < data_bytes * (1 - CACHE_SHARE)) {
        g_autofree char *text = text_bytes(least);
        g_autofree char *all = text_bytes(data_bytes);

        notes_add(notes, "NOT WARM: no more than %s of %s were in the page "
                  "cache when a contender had opened the file; use a file "
                  "system that keeps it, or more memory", text, all);
    }
}
