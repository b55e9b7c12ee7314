/*
 * fastload-bench: one result beside another.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sets the ratios to the baseline of two results side by side, contender by
 * contender: ratios were taken in one run and survive a noisy machine, which
 * times do not.  Refuses results of different machines unless forced.
 */
#include "bench.h"
#include <math.h>

static char *compare_key(JsonObject *object, const char *name)
{
    JsonObject *member = tree_object(object, name);
    JsonNode *node = member ? json_object_get_member(object, name) : NULL;

    return node ? json_to_string(node, FALSE) : g_strdup("");
}

static double compare_ratio(JsonObject *contender, const char *measure)
{
    JsonObject *m = tree_object(tree_object(contender, "measures"),
                                   measure);

    return tree_number(m, "ratio");
}

/* The element of @array with the same @key as @like, or NULL. */
static JsonObject *compare_find(JsonArray *array, JsonObject *like,
                                const char *key)
{
    g_autofree char *wanted = compare_key(like, key);
    guint i;

    for (i = 0; i < tree_length(array); i++) {
        JsonObject *element = tree_element(array, i);
        g_autofree char *found = compare_key(element, key);

        if (element && !strcmp(found, wanted)) {
            return element;
        }
    }
    return NULL;
}

/*
 * The contender of the same name and knobs: a label has only those knobs that
 * differ within its own result.
 */
static JsonObject *compare_find_contender(JsonArray *contenders,
                                          JsonObject *like)
{
    g_autofree char *name = tree_safe_text(like, "name");
    g_autofree char *knobs = compare_key(like, "knobs");
    guint i;

    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *c = tree_element(contenders, i);
        g_autofree char *its_name = c ? tree_safe_text(c, "name") : NULL;
        g_autofree char *its_knobs = compare_key(c, "knobs");

        if (c && !strcmp(its_name, name) && !strcmp(its_knobs, knobs)) {
            return c;
        }
    }
    return NULL;
}

static void compare_contender(JsonObject *a, JsonObject *b, const Paper *paper)
{
    static const struct {
        const char *measure, *title;
    } kept[] = {
        { "run_ns", "guest runs" }, { "work_ns", "working set touched" },
        { "load_ns", "everything loaded" }, { "progress", "progress" },
        { "cpu_ns", "cpu" }, { "rss_peak_bytes", "peak memory" },
        { "speed", "speed after" },
    };
    g_autofree char *label = tree_safe_text(a, "label");
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(kept); i++) {
        double x = compare_ratio(a, kept[i].measure);
        double y = compare_ratio(b, kept[i].measure);

        if (x > 0 && isfinite(y / x)) {
            fprintf(paper->file, "  %-24s %-20s %9.3g %9.3g %+7.1f %%\n", label,
                    kept[i].title, x, y, (y / x - 1) * 100);
        }
    }
}

/* Ratios to different contenders say nothing about each other. */
static void compare_baselines(JsonObject *a, JsonObject *b,
                              const Paper *paper)
{
    g_autofree char *first = tree_safe_text(a, "baseline");
    g_autofree char *second = tree_safe_text(b, "baseline");

    if (strcmp(first, second)) {
        fprintf(paper->file, "  DIFFERENT BASELINES: %s and %s\n", first,
                second);
    }
}

/* Names what @contenders has and @others has not. */
static void compare_only(JsonArray *contenders, JsonArray *others,
                         const char *which, const Paper *paper)
{
    guint i;

    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *c = tree_element(contenders, i);

        if (c && !compare_find_contender(others, c)) {
            g_autofree char *label = tree_safe_text(c, "label");

            fprintf(paper->file, "  %-24s only in the %s\n", label, which);
        }
    }
}

static uint32_t compare_scenario(JsonObject *a, JsonObject *b,
                                 const Paper *paper)
{
    JsonArray *left = tree_array(a, "contenders");
    JsonArray *right = tree_array(b, "contenders");
    uint32_t count = 0;
    guint i;

    table_knobs(a, paper);
    compare_baselines(a, b, paper);
    fprintf(paper->file, "  %-24s %-20s %9s %9s %9s\n", "ratio to the baseline",
            "", "first", "second", "change");
    for (i = 0; i < tree_length(left); i++) {
        JsonObject *one = tree_element(left, i);
        JsonObject *other = one ? compare_find_contender(right, one) : NULL;

        if (other) {
            compare_contender(one, other, paper);
            count++;
        }
    }
    compare_only(left, right, "first", paper);
    compare_only(right, left, "second", paper);
    return count;
}

/* Names the scenarios of @a that @b has not. */
static void compare_only_scenarios(JsonObject *a, JsonObject *b,
                                   const char *which, const Paper *paper)
{
    JsonArray *scenarios = tree_array(a, "scenarios");
    guint i;

    for (i = 0; i < tree_length(scenarios); i++) {
        JsonObject *s = tree_element(scenarios, i);

        if (s && !compare_find(tree_array(b, "scenarios"), s, "knobs")) {
            table_knobs(s, paper);
            fprintf(paper->file, "  only in the %s\n", which);
        }
    }
}

static uint32_t compare_scenarios(JsonObject *a, JsonObject *b,
                                  const Paper *paper)
{
    JsonArray *left = tree_array(a, "scenarios");
    uint32_t count = 0;
    guint i;

    for (i = 0; i < tree_length(left); i++) {
        JsonObject *x = tree_element(left, i);
        JsonObject *y = compare_find(tree_array(b, "scenarios"), x,
                                     "knobs");

        if (x && y) {
            count += compare_scenario(x, y, paper);
        }
    }
    compare_only_scenarios(a, b, "first", paper);
    compare_only_scenarios(b, a, "second", paper);
    return count;
}

/* Names the works of @a that @b has not. */
static void compare_only_works(JsonArray *a, JsonArray *b, const char *which,
                               const Paper *paper)
{
    guint i;

    for (i = 0; i < tree_length(a); i++) {
        JsonObject *work = tree_element(a, i);
        JsonObject *snapshot = work ? tree_object(work, "snapshot") : NULL;

        if (snapshot && !compare_find(b, work, "snapshot")) {
            g_autofree char *label = tree_safe_text(snapshot, "label");

            fprintf(paper->file, "\n%s: only in the %s\n", label, which);
        }
    }
}

static void compare_print_origin(const char *which, JsonObject *root,
                                 const Paper *paper)
{
    g_autofree char *date = tree_safe_text(root, "date");
    g_autofree char *command = tree_safe_text(root, "command");

    fprintf(paper->file, "%-7s %s  %s%s\n", which, date, command,
            tree_is_true(root, "interrupted") ? "  INTERRUPTED" : "");
}

bool compare_print(JsonNode *a, JsonNode *b, bool is_forced, const Paper *paper,
                   GError **error)
{
    JsonObject *left = json_node_get_object(a);
    JsonObject *right = json_node_get_object(b);
    JsonObject *env_a = tree_object(left, "environment");
    JsonObject *env_b = tree_object(right, "environment");
    g_autofree char *difference = env_a && env_b
        ? environment_difference(env_a, env_b)
        : g_strdup("one of them does not say where it was measured");
    JsonArray *works = tree_array(left, "works");
    JsonArray *others = tree_array(right, "works");
    uint32_t count = 0;
    guint i;

    if (difference && !is_forced) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the results are of different environments: %s; "
                    "--force compares them all the same", difference);
        return false;
    }
    if (difference) {
        fprintf(paper->file, "different environments: %s\n", difference);
    }
    compare_print_origin("first", left, paper);
    compare_print_origin("second", right, paper);
    for (i = 0; i < tree_length(works); i++) {
        JsonObject *work = tree_element(works, i);
        JsonObject *other = compare_find(others, work, "snapshot");

        if (work && other) {
            count += compare_scenarios(work, other, paper);
        }
    }
    if (count) {
        compare_only_works(works, others, "first", paper);
        compare_only_works(others, works, "second", paper);
    }
    if (!count) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the results have nothing in common: compare those of "
                    "the same snapshot and the same knobs");
        return false;
    }
    return true;
}
