/*
 * fastload-bench: results for other programs, as comma-separated values.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One line for each measure of each contender, so that a new measure is not a
 * new column.  Figures are in the units that their names say, with a decimal
 * point in every locale; unknown ones are empty.  RFC 4180, except that lines
 * end in a newline only.  Nothing here can fail.
 */
#include "bench.h"
#include <math.h>

static void csv_separate(GString *csv)
{
    if (csv->len && csv->str[csv->len - 1] != '\n') {
        g_string_append_c(csv, ',');
    }
}

void csv_add_text(GString *csv, const char *text)
{
    csv_separate(csv);
    /* Always quoted, since an empty line would have no field at all. */
    g_string_append_c(csv, '"');
    for (; *text; text++) {
        if (*text == '"') {
            g_string_append_c(csv, '"');
        }
        g_string_append_c(csv, *text);
    }
    g_string_append_c(csv, '"');
}

void csv_add_number(GString *csv, double number)
{
    char digits[G_ASCII_DTOSTR_BUF_SIZE];

    csv_separate(csv);
    if (isfinite(number)) {
        g_string_append(csv, g_ascii_formatd(digits, sizeof(digits), "%.10g",
                                             number));
    }
}

/* The names of the knobs, which are the same in all scenarios of a result. */
static GList *csv_knob_names(JsonObject *root)
{
    JsonArray *works = tree_array(root, "works");
    JsonObject *work = tree_length(works) ? tree_element(works, 0) : NULL;
    JsonArray *scenarios = tree_array(work, "scenarios");
    JsonObject *scenario = tree_length(scenarios) ? tree_element(scenarios, 0)
                                                  : NULL;
    JsonObject *knobs = tree_object(scenario, "knobs");

    return knobs ? json_object_get_members(knobs) : NULL;
}

GString *csv_begin(JsonObject *root, const char *const *columns)
{
    GString *csv = g_string_new(NULL);
    g_autoptr(GList) names = csv_knob_names(root);
    GList *at;

    csv_add_text(csv, "snapshot");
    for (at = names; at; at = at->next) {
        g_autofree char *name = g_strescape(at->data, NULL);

        csv_add_text(csv, name);
    }
    csv_add_text(csv, "contender");
    csv_add_text(csv, "measure");
    for (; *columns; columns++) {
        csv_add_text(csv, *columns);
    }
    csv_end_line(csv);
    return csv;
}

void csv_begin_line(GString *csv, JsonObject *root, JsonObject *work,
                    JsonObject *scenario, JsonObject *contender,
                    const char *measure)
{
    g_autofree char *snapshot = tree_safe_text(tree_object(work, "snapshot"),
                                               "label");
    g_autofree char *label = tree_safe_text(contender, "label");
    g_autofree char *name = g_strescape(measure, NULL);
    JsonObject *knobs = tree_object(scenario, "knobs");
    g_autoptr(GList) names = csv_knob_names(root);
    GList *at;

    csv_add_text(csv, snapshot);
    for (at = names; at; at = at->next) {
        g_autofree char *text = tree_safe_text(knobs, at->data);

        csv_add_text(csv, text);
    }
    csv_add_text(csv, label);
    csv_add_text(csv, name);
}

void csv_end_line(GString *csv)
{
    g_string_append_c(csv, '\n');
}

/* Which scenario and contender a line is about. */
typedef struct CsvPlace {
    JsonObject *root, *work, *scenario, *contender;
} CsvPlace;

static void csv_add_line(GString *csv, const CsvPlace *at,
                         const char *measure, const double figures[4])
{
    uint32_t i;

    csv_begin_line(csv, at->root, at->work, at->scenario, at->contender,
                   measure);
    for (i = 0; i < 4; i++) {
        csv_add_number(csv, figures[i]);
    }
    csv_add_number(csv, tree_number(at->contender, "run_count"));
    csv_end_line(csv);
}

static void csv_add_measures(GString *csv, const CsvPlace *place)
{
    JsonObject *measures = tree_object(place->contender, "measures");
    g_autoptr(GList) names = measures ? json_object_get_members(measures)
                                      : NULL;
    GList *at;

    for (at = names; at; at = at->next) {
        JsonObject *m = tree_object(measures, at->data);

        if (m) {
            csv_add_line(csv, place, at->data,
                         (double[]) { tree_number(m, "median"),
                                      tree_number(m, "min"),
                                      tree_number(m, "max"),
                                      tree_number(m, "ratio") });
        }
    }
}

static void csv_add_faults(GString *csv, const CsvPlace *place,
                           const char *kind)
{
    JsonObject *faults = tree_object(place->contender, kind);
    g_autoptr(GList) names = faults ? json_object_get_members(faults) : NULL;
    GList *at;

    for (at = names; at; at = at->next) {
        double value = tree_number(faults, at->data);
        g_autofree char *name = g_strdup_printf("%s_%s", kind,
                                                (char *)at->data);

        if (!isnan(value)) {
            csv_add_line(csv, place, name,
                         (double[]) { value, NAN, NAN, NAN });
        }
    }
}

char *csv_text(JsonNode *result)
{
    static const char *const columns[] = { "median", "min", "max", "ratio",
                                           "runs", NULL };
    CsvPlace at = { .root = json_node_get_object(result) };
    JsonArray *works = tree_array(at.root, "works");
    GString *csv = csv_begin(at.root, columns);
    guint w, s, c;

    for (w = 0; w < tree_length(works); w++) {
        JsonArray *scenarios;

        at.work = tree_element(works, w);
        scenarios = tree_array(at.work, "scenarios");
        for (s = 0; s < tree_length(scenarios); s++) {
            JsonArray *contenders;

            at.scenario = tree_element(scenarios, s);
            contenders = tree_array(at.scenario, "contenders");
            for (c = 0; c < tree_length(contenders); c++) {
                at.contender = tree_element(contenders, c);
                csv_add_measures(csv, &at);
                csv_add_faults(csv, &at, "faults");
                csv_add_faults(csv, &at, "faults_idle");
            }
        }
    }
    return g_string_free(csv, FALSE);
}
