/*
 * fastload-bench: results for people.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Prints what a result holds, three tables for each scenario: when things
 * were done, what faults cost, what it all cost.  Measures nothing; a member
 * that is missing becomes a dash.
 */
#include "bench.h"
#include <math.h>

#define LABEL_WIDTH_MIN 22
#define LABEL_WIDTH_MAX 48
#define NOT_COLD_SHARE 0.02

/* A member of a measure of a contender: "median", "ratio" ... */
static double table_measure(JsonObject *contender, const char *measure,
                            const char *member)
{
    return tree_number(tree_object(tree_object(contender, "measures"),
                                     measure), member);
}

static char *table_percent(double share)
{
    return isnan(share) ? g_strdup("-") : g_strdup_printf("%.0f %%",
                                                          share * 100);
}

static char *table_ratio(double ratio)
{
    return isnan(ratio) ? g_strdup("-")
        : g_strdup_printf(ratio < 0.0995 ? "%.3f" : "%.2f", ratio);
}

/* Half the distance between the extremes, of the median; one run has none. */
static char *table_spread(JsonObject *contender, const char *measure)
{
    double median = table_measure(contender, measure, "median");
    double width = table_measure(contender, measure, "max") -
                   table_measure(contender, measure, "min");

    return isnan(median) || median == 0 ||
           tree_number(contender, "run_count") < 2 ? g_strdup("")
        : g_strdup_printf("+-%.0f%%", width / 2 / median * 100);
}

static void table_cell(FILE *out, int width, char *text)
{
    fprintf(out, " %*s", width, text);
    g_free(text);
}

/* Labels come from files as well: nothing in them may steer a terminal. */
static void table_label(FILE *out, JsonObject *contender, int width)
{
    g_autofree char *text = tree_safe_text(contender, "label");

    fprintf(out, "  %-*.*s", width, width, text);
}

/* So that no two labels are cut to the same. */
static int table_label_width(JsonArray *contenders)
{
    size_t width = LABEL_WIDTH_MIN;
    guint i;

    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *c = tree_element(contenders, i);

        width = MAX(width, strlen(tree_text(c, "label")));
    }
    return MIN(width, LABEL_WIDTH_MAX);
}

/* How many rounds the medians are of. */
static double table_round_count(JsonArray *contenders)
{
    double most = 0;
    guint i;

    for (i = 0; i < tree_length(contenders); i++) {
        most = MAX(most, tree_number(tree_element(contenders, i),
                                      "run_count"));
    }
    return most;
}

static void table_times(FILE *out, JsonObject *c)
{
    table_cell(out, 10, text_ns(table_measure(c, "run_ns", "median")));
    table_cell(out, 10, text_ns(table_measure(c, "work_ns", "median")));
    table_cell(out, 7, table_spread(c, "work_ns"));
    table_cell(out, 10, text_ns(table_measure(c, "load_ns", "median")));
    table_cell(out, 7, table_spread(c, "load_ns"));
    table_cell(out, 7, table_ratio(table_measure(c, "load_ns", "ratio")));
    table_cell(out, 8, table_percent(table_measure(c, "device_share",
                                                   "median")));
    table_cell(out, 8, table_percent(table_measure(c, "progress",
                                                   "median")));
    fputc('\n', out);
}

static void table_faults(FILE *out, JsonObject *c)
{
    static const char *const busy[] = { "p50_ns", "p90_ns", "p99_ns",
                                        "p999_ns", "max_ns" };
    JsonObject *faults = tree_object(c, "faults");
    JsonObject *idle = tree_object(c, "faults_idle");
    bool has_faults = tree_number(faults, "count") > 0;
    bool has_idle = tree_number(idle, "count") > 0;
    guint i;

    table_cell(out, 8, has_faults
               ? g_strdup_printf("%.0f", tree_number(faults, "count"))
               : g_strdup("-"));
    for (i = 0; i < G_N_ELEMENTS(busy); i++) {
        table_cell(out, 8, text_ns(has_faults
                                    ? tree_number(faults, busy[i]) : NAN));
    }
    table_cell(out, 9, text_ns(has_idle ? tree_number(idle, "p50_ns")
                                         : NAN));
    table_cell(out, 8, text_ns(has_idle ? tree_number(idle, "p99_ns")
                                         : NAN));
    table_cell(out, 8, text_ns(has_idle ? tree_number(idle, "max_ns")
                                         : NAN));
    fputc('\n', out);
}

static void table_costs(FILE *out, JsonObject *c)
{
    table_cell(out, 8, text_ns(table_measure(c, "cpu_ns", "median")));
    table_cell(out, 7, table_ratio(table_measure(c, "cpu_ns", "ratio")));
    table_cell(out, 9, text_bytes(table_measure(c, "read_bytes",
                                                 "median")));
    table_cell(out, 9, text_bytes(table_measure(c, "rss_peak_bytes",
                                                 "median")));
    table_cell(out, 9, text_bytes(table_measure(c, "rss_end_bytes",
                                                 "median")));
    table_cell(out, 9, text_bytes(table_measure(c, "page_table_bytes",
                                                 "median")));
    table_cell(out, 6, table_percent(table_measure(c, "huge_share",
                                                   "median")));
    table_cell(out, 7, table_ratio(table_measure(c, "speed", "ratio")));
    table_cell(out, 9, text_bytes(table_measure(c, "cached_bytes",
                                                 "max")));
    fputc('\n', out);
}

typedef void TableRow(FILE *out, JsonObject *contender);

static void table_rows(FILE *out, JsonArray *contenders, const char *title,
                       const char *columns, TableRow *row)
{
    int width = table_label_width(contenders);
    guint i;

    fprintf(out, "\n  %-*s %s\n", width, title, columns);
    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *c = tree_element(contenders, i);

        if (c && tree_number(c, "run_count") > 0) {
            table_label(out, c, width);
            row(out, c);
        }
    }
}

void table_knobs(JsonObject *scenario, FILE *out)
{
    JsonObject *knobs = tree_object(scenario, "knobs");
    g_autoptr(GList) names = knobs ? json_object_get_members(knobs) : NULL;
    GList *at;

    fputc('\n', out);
    for (at = names; at; at = at->next) {
        g_autofree char *text = tree_safe_text(knobs, at->data);
        g_autofree char *name = g_strescape(at->data, NULL);

        fprintf(out, "%s%s %s", at == names ? "" : ", ",
                g_strdelimit(name, "_", ' '), text);
    }
    fputc('\n', out);
}

static void table_failures(FILE *out, JsonArray *contenders)
{
    guint i, e;

    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *c = tree_element(contenders, i);
        JsonArray *errors = tree_array(c, "errors");

        if (!(tree_number(c, "failed_count") > 0)) {
            continue;
        }
        fputc('\n', out);
        table_label(out, c, table_label_width(contenders));
        fprintf(out, " FAILED %.0f times\n", tree_number(c, "failed_count"));
        for (e = 0; e < tree_length(errors); e++) {
            JsonNode *node = json_array_get_element(errors, e);

            if (json_node_get_value_type(node) == G_TYPE_STRING) {
                g_autofree char *text = g_strescape(
                    json_node_get_string(node), "\"");

                fprintf(out, "    %s\n", text);
            }
        }
    }
}

/* Says so when cold was not cold: on a RAM disk, say. */
static void table_cold(FILE *out, JsonObject *scenario, JsonObject *snapshot)
{
    JsonArray *contenders = tree_array(scenario, "contenders");
    double most = 0;
    guint i;

    if (strcmp(tree_text(tree_object(scenario, "knobs"), "cache"),
               "cold")) {
        return;
    }
    for (i = 0; i < tree_length(contenders); i++) {
        double cached = table_measure(tree_element(contenders, i),
                                      "cached_bytes", "max");

        most = cached > most ? cached : most;
    }
    if (most > tree_number(snapshot, "data_bytes") * NOT_COLD_SHARE) {
        g_autofree char *text = text_bytes(most);

        fprintf(out, "\n  NOT COLD: up to %s of the file stayed in the page "
                "cache; use a file system on a disk\n", text);
    }
}

static void table_scenario(FILE *out, JsonObject *scenario,
                           JsonObject *snapshot)
{
    JsonArray *contenders = tree_array(scenario, "contenders");
    g_autofree char *baseline = tree_safe_text(scenario, "baseline");
    char columns[100];

    table_knobs(scenario, out);
    g_snprintf(columns, sizeof(columns), "%10s %10s %7s %10s %7s %7s %8s %8s",
               "runs", "worked", "", "loaded", "", "ratio", "device",
               "progress");
    table_rows(out, contenders, "WHEN", columns, table_times);
    g_snprintf(columns, sizeof(columns),
               "%8s %8s %8s %8s %8s %8s %9s %8s %8s", "count", "p50", "p90",
               "p99", "p99.9", "max", "idle p50", "p99", "max");
    table_rows(out, contenders, "FAULTS", columns, table_faults);
    g_snprintf(columns, sizeof(columns),
               "%8s %7s %9s %9s %9s %9s %6s %7s %9s", "cpu", "ratio", "read",
               "peak", "end", "tables", "huge", "speed", "cached");
    table_rows(out, contenders, "COSTS", columns, table_costs);
    table_failures(out, contenders);
    table_cold(out, scenario, snapshot);
    fprintf(out, "\n  ratio (less is better) and speed (more is better): "
            "to %s; rounds: %.0f\n", baseline,
            table_round_count(contenders));
}

static void table_storage(FILE *out, JsonObject *storage)
{
    JsonObject *rate = tree_object(storage, "sequential_bytes_per_s");
    JsonObject *random_4k = tree_object(storage, "random_4k");

    if (tree_number(rate, "median") > 0) {
        g_autofree char *p50 = text_ns(tree_number(random_4k, "p50_ns"));
        g_autofree char *p99 = text_ns(tree_number(random_4k, "p99_ns"));

        fprintf(out, "storage, O_DIRECT: %.0f MB/s sequential (%.0f to %.0f)"
                ", 4 KiB random p50 %s p99 %s\n",
                tree_number(rate, "median") / 1e6,
                tree_number(rate, "min") / 1e6,
                tree_number(rate, "max") / 1e6, p50, p99);
    }
}

static void table_environment(FILE *out, JsonObject *root)
{
    JsonObject *env = tree_object(root, "environment");
    g_autofree char *memory = text_bytes(tree_number(env, "memory_bytes"));
    g_autofree char *date = tree_safe_text(root, "date");
    g_autofree char *commit = tree_safe_text(tree_object(root, "tool"),
                                              "commit");
    g_autofree char *cpu = tree_safe_text(env, "cpu");
    g_autofree char *kernel = tree_safe_text(env, "kernel");
    g_autofree char *filesystem = tree_safe_text(env, "filesystem");
    g_autofree char *device = tree_safe_text(env, "device");
    g_autofree char *scheduler = tree_safe_text(env, "scheduler");
    g_autofree char *ahead = text_bytes(tree_number(env, "read_ahead_bytes"));
    g_autofree char *thp = tree_safe_text(env, "thp");

    fprintf(out, "%s, commit %s\n", date, commit);
    fprintf(out, "%s, %.0f CPUs, %s, Linux %s\n", cpu,
            tree_number(env, "cpu_count"), memory, kernel);
    fprintf(out, "%s on %s, scheduler %s, readahead %s, huge pages: %s\n",
            filesystem, device, scheduler, ahead, thp);
}

void table_print(JsonNode *result, FILE *out)
{
    JsonObject *root = json_node_get_object(result);
    JsonArray *works = tree_array(root, "works");
    guint w, s;

    table_environment(out, root);
    if (tree_is_true(root, "interrupted")) {
        fprintf(out, "INTERRUPTED: this is what was done until then\n");
    }
    for (w = 0; w < tree_length(works); w++) {
        JsonObject *work = tree_element(works, w);
        JsonObject *snapshot = tree_object(work, "snapshot");
        JsonArray *scenarios = tree_array(work, "scenarios");
        g_autofree char *label = tree_safe_text(snapshot, "label");
        g_autofree char *len = text_bytes(tree_number(snapshot,
                                                        "len_bytes"));
        g_autofree char *data = text_bytes(tree_number(snapshot,
                                                         "data_bytes"));

        fprintf(out, "\n%s: %s, %s of it data\n", label, len, data);
        table_storage(out, tree_object(work, "storage"));
        for (s = 0; s < tree_length(scenarios); s++) {
            table_scenario(out, tree_element(scenarios, s), snapshot);
        }
    }
}
