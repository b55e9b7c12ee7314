/*
 * fastload-bench: results for people.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Prints a result: three tables for each scenario, with times, faults, and the
 * use of resources.  Measures nothing; a missing member becomes a dash.
 */
#include "bench.h"
#include <math.h>

typedef enum TableKind {
    TABLE_NS, TABLE_BYTES, TABLE_PERCENT, TABLE_RATIO, TABLE_COUNT,
    TABLE_SPREAD,            /* of the measure over rounds; without member */
} TableKind;

typedef struct TableColumn {
    const char *name;
    TableKind kind;
    const char *measure;     /* or "faults", "faults_idle", "clones",
                              * "clones.run_ns" */
    const char *member;      /* "median", "ratio", "p50_ns" ... */
} TableColumn;

static const TableColumn table_when[] = {
    { "runs", TABLE_NS, "run_ns", "median" },
    { "worked", TABLE_NS, "work_ns", "median" },
    { "spread", TABLE_SPREAD, "work_ns", NULL },
    { "loaded", TABLE_NS, "load_ns", "median" },
    { "spread", TABLE_SPREAD, "load_ns", NULL },
    { "ratio", TABLE_RATIO, "load_ns", "ratio" },
    { "device", TABLE_PERCENT, "device_share", "median" },
    { "progress", TABLE_PERCENT, "progress", "median" },
    { NULL, 0, NULL, NULL },
};

static const TableColumn table_faults[] = {
    { "count", TABLE_COUNT, "faults", "count" },
    { "waited", TABLE_NS, "waited_ns", "median" },
    { "p50", TABLE_NS, "faults", "p50_ns" },
    { "p90", TABLE_NS, "faults", "p90_ns" },
    { "p99", TABLE_NS, "faults", "p99_ns" },
    { "p99.9", TABLE_NS, "faults", "p999_ns" },
    { "max", TABLE_NS, "faults", "max_ns" },
    { "worst", TABLE_NS, "faults", "worst_ns" },
    { "idle p50", TABLE_NS, "faults_idle", "p50_ns" },
    { "idle p99", TABLE_NS, "faults_idle", "p99_ns" },
    { "idle max", TABLE_NS, "faults_idle", "max_ns" },
    { NULL, 0, NULL, NULL },
};

static const TableColumn table_clones[] = {
    { "runs p50", TABLE_NS, "clones.run_ns", "p50" },
    { "p95", TABLE_NS, "clones.run_ns", "p95" },
    { "worked p50", TABLE_NS, "clones.work_ns", "p50" },
    { "p95", TABLE_NS, "clones.work_ns", "p95" },
    { "loaded p50", TABLE_NS, "clones.load_ns", "p50" },
    { "p95", TABLE_NS, "clones.load_ns", "p95" },
    { "read", TABLE_BYTES, "clones", "read_bytes" },
    { "device", TABLE_BYTES, "clones", "device_read_bytes" },
    { "pss", TABLE_BYTES, "clones", "pss_bytes" },
    { NULL, 0, NULL, NULL },
};

static const TableColumn table_costs[] = {
    { "cpu", TABLE_NS, "cpu_ns", "median" },
    { "ratio", TABLE_RATIO, "cpu_ns", "ratio" },
    { "read", TABLE_BYTES, "read_bytes", "median" },
    { "peak", TABLE_BYTES, "rss_peak_bytes", "median" },
    { "end", TABLE_BYTES, "rss_end_bytes", "median" },
    { "pagecache", TABLE_BYTES, "page_cache_bytes", "median" },
    { "tables", TABLE_BYTES, "page_table_bytes", "median" },
    { "huge", TABLE_PERCENT, "huge_share", "median" },
    { "speed", TABLE_RATIO, "speed", "ratio" },
    { "cached", TABLE_BYTES, "cached_bytes", "max" },
    { NULL, 0, NULL, NULL },
};

/* A member of a contender's measure; NAN if there were no faults. */
static double table_member(JsonObject *contender, const char *measure,
                           const char *member)
{
    JsonObject *object = tree_object(contender, measure);

    if (g_str_has_prefix(measure, "clones")) {
        const char *dot = strchr(measure, '.');

        object = tree_object(contender, "clones");
        object = dot ? tree_object(object, dot + 1) : object;
    } else if (!strcmp(measure, "waited_ns") &&
               !(tree_number(tree_object(contender, "faults"), "count") >
                 0)) {
        /* No faults: nobody waited, some touches were only slow. */
        return NAN;
    } else if (!g_str_has_prefix(measure, "faults")) {
        object = tree_object(tree_object(contender, "measures"), measure);
    } else if (!(tree_number(object, "count") > 0)) {
        return NAN;
    }
    return tree_number(object, member);
}

/* The spread over rounds; a single run has none. */
static char *table_spread(JsonObject *contender, const char *measure)
{
    return tree_number(contender, "run_count") < 2 ? g_strdup("")
        : text_spread(table_member(contender, measure, "median"),
                      table_member(contender, measure, "min"),
                      table_member(contender, measure, "max"));
}

static char *table_text(JsonObject *contender, const TableColumn *column)
{
    double value = column->member ? table_member(contender, column->measure,
                                                 column->member) : NAN;

    switch (column->kind) {
    case TABLE_NS:
        return text_ns(value);
    case TABLE_BYTES:
        return text_bytes(value);
    case TABLE_PERCENT:
        return text_percent(value);
    case TABLE_RATIO:
        return text_ratio(value);
    case TABLE_COUNT:
        return isnan(value) ? g_strdup("-") : g_strdup_printf("%.0f", value);
    case TABLE_SPREAD:
        break;
    }
    return table_spread(contender, column->measure);
}

/* The number of rounds. */
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

static void table_sheet(const Paper *paper, JsonArray *contenders,
                        const char *title, const TableColumn *columns)
{
    g_autoptr(Sheet) sheet = sheet_new(title);
    const TableColumn *column;
    guint i;

    for (column = columns; column->name; column++) {
        sheet_add_column(sheet, column->name, column->kind == TABLE_SPREAD ||
                         !strcmp(column->name, "ratio"));
    }
    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *c = tree_element(contenders, i);
        g_autofree char *label = c ? tree_safe_text(c, "label") : NULL;

        if (!c || !(tree_number(c, "run_count") > 0)) {
            continue;
        }
        sheet_begin_row(sheet, label);
        for (column = columns; column->name; column++) {
            sheet_add_text(sheet, table_text(c, column));
        }
    }
    sheet_print(sheet, paper);
}

void table_knobs(JsonObject *scenario, const Paper *paper)
{
    JsonObject *knobs = tree_object(scenario, "knobs");
    g_autoptr(GList) names = knobs ? json_object_get_members(knobs) : NULL;
    g_autoptr(GString) line = g_string_new(NULL);
    GList *at;

    for (at = names; at; at = at->next) {
        g_autofree char *text = tree_safe_text(knobs, at->data);
        g_autofree char *name = g_strescape(at->data, NULL);

        g_string_append_printf(line, "%s%s %s", at == names ? "" : ", ",
                               g_strdelimit(name, "_", ' '), text);
    }
    paper_gap(paper);
    paper_say(paper, 0, "%s", line->str);
}

static void table_failures(const Paper *paper, JsonArray *contenders)
{
    guint i, e;

    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *c = tree_element(contenders, i);
        JsonArray *errors = tree_array(c, "errors");
        g_autofree char *label = tree_safe_text(c, "label");

        if (!(tree_number(c, "failed_count") > 0)) {
            continue;
        }
        paper_gap(paper);
        paper_say(paper, 2, "%s FAILED %.0f times", label,
                  tree_number(c, "failed_count"));
        for (e = 0; e < tree_length(errors); e++) {
            JsonNode *node = json_array_get_element(errors, e);

            if (json_node_get_value_type(node) == G_TYPE_STRING) {
                g_autofree char *text = g_strescape(
                    json_node_get_string(node), "\"");

                paper_say(paper, 4, "%s", text);
            }
        }
    }
}

/* Prints each note once; many are about the snapshot.  @said: of char *. */
static void table_notes(const Paper *paper, JsonObject *scenario,
                        GHashTable *said)
{
    JsonArray *notes = tree_array(scenario, "notes");
    guint i;

    for (i = 0; i < tree_length(notes); i++) {
        JsonNode *node = json_array_get_element(notes, i);

        if (json_node_get_value_type(node) == G_TYPE_STRING) {
            char *text = g_strescape(json_node_get_string(node), "\"");

            if (!g_hash_table_contains(said, text)) {
                paper_gap(paper);
                paper_say(paper, 2, "%s", text);
            }
            g_hash_table_add(said, text);
        }
    }
}

static void table_storage(const Paper *paper, JsonObject *storage)
{
    JsonObject *rate = tree_object(storage, "sequential_bytes_per_s");
    JsonObject *random_4k = tree_object(storage, "random_4k");

    if (tree_number(rate, "median") > 0) {
        g_autofree char *p50 = text_ns(tree_number(random_4k, "p50_ns"));
        g_autofree char *p99 = text_ns(tree_number(random_4k, "p99_ns"));

        paper_say(paper, 0, "storage, O_DIRECT: %.0f MB/s sequential (%.0f "
                  "to %.0f), 4 KiB random p50 %s p99 %s",
                  tree_number(rate, "median") / 1e6,
                  tree_number(rate, "min") / 1e6,
                  tree_number(rate, "max") / 1e6, p50, p99);
    }
}

static void table_scenario(const Paper *paper, JsonObject *scenario,
                           GHashTable *said)
{
    JsonArray *contenders = tree_array(scenario, "contenders");
    g_autofree char *baseline = tree_safe_text(scenario, "baseline");

    table_knobs(scenario, paper);
    table_storage(paper, tree_object(scenario, "storage"));
    table_sheet(paper, contenders, "WHEN", table_when);
    if (strcmp(tree_text(tree_object(scenario, "knobs"), "clones"), "1") &&
        *tree_text(tree_object(scenario, "knobs"), "clones")) {
        table_sheet(paper, contenders, "CLONES", table_clones);
    }
    table_sheet(paper, contenders, "FAULTS", table_faults);
    table_sheet(paper, contenders, "COSTS", table_costs);
    table_failures(paper, contenders);
    table_notes(paper, scenario, said);
    paper_gap(paper);
    paper_say(paper, 2, "ratio (less is better) and speed (more is better): "
              "to %s; rounds: %.0f", baseline,
              table_round_count(contenders));
}

/* A member as text, or a dash if it is unknown. */
static char *table_known_text(JsonObject *env, const char *name)
{
    g_autofree char *text = tree_safe_text(env, name);

    return g_strdup(*text ? text : "-");
}

static void table_environment(const Paper *paper, JsonObject *root)
{
    JsonObject *env = tree_object(root, "environment");
    g_autofree char *memory = text_bytes(tree_number(env, "memory_bytes"));
    g_autofree char *date = tree_safe_text(root, "date");
    g_autofree char *commit = tree_safe_text(tree_object(root, "tool"),
                                              "commit");
    g_autofree char *cpu = table_known_text(env, "cpu");
    g_autofree char *kernel = table_known_text(env, "kernel");
    g_autofree char *filesystem = table_known_text(env, "filesystem");
    g_autofree char *device = table_known_text(env, "device");
    g_autofree char *scheduler = table_known_text(env, "scheduler");
    g_autofree char *ahead = text_bytes(tree_number(env, "read_ahead_bytes"));
    g_autofree char *thp = table_known_text(env, "thp");

    paper_say(paper, 0, "%s, commit %s", date, commit);
    paper_say(paper, 0, "%s, %.0f CPUs, %s, Linux %s", cpu,
              tree_number(env, "cpu_count"), memory, kernel);
    paper_say(paper, 0, "%s on %s, scheduler %s, readahead %s, huge pages: "
              "%s", filesystem, device, scheduler, ahead, thp);
}

void table_print(JsonNode *result, const Paper *paper)
{
    JsonObject *root = json_node_get_object(result);
    JsonArray *works = tree_array(root, "works");
    guint w, s;

    table_environment(paper, root);
    if (tree_is_true(root, "quick")) {
        paper_say(paper, 0, "QUICK LOOK: little data, few contenders, and as "
                  "many rounds as less than a minute has: spreads are wider "
                  "than without --quick");
    }
    if (tree_is_true(root, "interrupted")) {
        paper_say(paper, 0, "INTERRUPTED: this is what was done until then");
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
        g_autofree char *head = g_strdup_printf("%s: %s, %s of it data",
                                                label, len, data);
        g_autoptr(GHashTable) said = g_hash_table_new_full(
            g_str_hash, g_str_equal, g_free, NULL);

        paper_head(paper, head);
        table_storage(paper, tree_object(work, "storage"));
        for (s = 0; s < tree_length(scenarios); s++) {
            table_scenario(paper, tree_element(scenarios, s), said);
        }
    }
}
