/*
 * fastload-bench: results with pictures.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Fills report.html, which is part of the program.  Everything that can be
 * shown without a script is in it (the outcome of each scenario, bars, sweeps,
 * tables, the machine), and also the result itself, from which the page's
 * script draws charts with too many points for that.  The page fetches nothing.
 * Names come from files that are not trusted: each is escaped where it is
 * written.
 */
#include "bench.h"
#include "bench-report.h"
#include <math.h>

#define PLACE_STATIC "@BENCH_STATIC@"
#define PLACE_JSON "@BENCH_JSON@"
#define NOTHING "\342\200\223"
#define TIMES "\303\227"
/* With more scenarios, print has a page for each, without all tables. */
#define PRINTED_TABLES_MAX 2
#define TIED_SHOWN_MAX 3

/* ---- text ---- */

static void html_element(GString *out, const char *tag, const char *class,
                         const char *text)
{
    g_string_append_printf(out, "<%s class=\"%s\">", tag, class);
    text_append_html(out, text);
    g_string_append_printf(out, "</%s>\n", tag);
}

/* The unit of a figure is the end of its name. */
static char *html_figure(const char *key, double value)
{
    static const char *const counts[] = { "", " k", " M", " G", NULL };
    guint i = 0;

    if (isnan(value)) {
        return g_strdup(NOTHING);
    }
    if (g_str_has_suffix(key, "_ns")) {
        return text_ns(value);
    }
    if (g_str_has_suffix(key, "_bytes")) {
        return text_bytes(value);
    }
    if (g_str_has_suffix(key, "_share") || g_str_has_prefix(key, "progress")) {
        return g_strdup_printf("%.0f %%", value * 100);
    }
    if (!strcmp(key, "count")) {
        return g_strdup_printf("%.0f", value);
    }
    while (value >= 999.5 && counts[i + 1]) {
        value /= 1000;
        i++;
    }
    return g_strdup_printf("%.3g%s", value, counts[i]);
}

/* The same, with a non-breaking space before the unit. */
static char *html_value(const char *key, double value)
{
    g_autofree char *text = html_figure(key, value);
    g_auto(GStrv) words = g_strsplit(text, " ", -1);

    return g_strjoinv("\302\240", words);
}

/* "read_ahead_bytes" to "read ahead" */
static char *html_key_title(const char *key)
{
    char *title = g_strdup(key);

    if (g_str_has_suffix(title, "_ns")) {
        title[strlen(title) - strlen("_ns")] = '\0';
    } else if (g_str_has_suffix(title, "_bytes")) {
        title[strlen(title) - strlen("_bytes")] = '\0';
    }
    return g_strdelimit(title, "_", ' ');
}

/* A member of any kind, for people; "" when there is nothing to show. */
static char *html_member_text(JsonObject *object, const char *key)
{
    JsonNode *node = json_object_get_member(object, key);
    double number = tree_number(object, key);

    if (!isnan(number)) {
        bool is_exact = number == floor(number) && fabs(number) < 1e15 &&
                        !g_str_has_suffix(key, "_bytes") &&
                        !g_str_has_suffix(key, "_ns");

        return is_exact ? g_strdup_printf("%.0f", number)
                        : html_value(key, number);
    }
    if (json_node_get_value_type(node) == G_TYPE_BOOLEAN) {
        return g_strdup(json_node_get_boolean(node) ? "yes" : "no");
    }
    return g_strdup(tree_text(object, key));
}

static void html_join(GString *text, const char *gap, const char *part)
{
    if (*part) {
        g_string_append_printf(text, "%s%s", text->len ? gap : "", part);
    }
}

/* "cold cache": a knob of a scenario. */
static char *html_knob_text(JsonObject *knobs, const char *key)
{
    static const struct {
        const char *key, *before, *after;
    } phrases[] = {
        { "cache", "", " cache" },
        { "pattern", "", " touches" },
        { "think", "", " of computing between touches" },
        { "write_share", "", " writes" },
        { "window", "progress over ", "" },
    };
    g_autofree char *title = html_key_title(key);
    g_autofree char *value = html_member_text(knobs, key);
    guint i;

    for (i = 0; i < G_N_ELEMENTS(phrases); i++) {
        if (!strcmp(phrases[i].key, key)) {
            return g_strconcat(phrases[i].before, value, phrases[i].after,
                               NULL);
        }
    }
    return *value ? g_strdup_printf("%s %s", title, value) : g_strdup("");
}

/* The knobs of a scenario that are in @only; NULL: all. */
static char *html_knobs(JsonObject *scenario, GHashTable *only)
{
    JsonObject *knobs = tree_object(scenario, "knobs");
    g_autoptr(GList) names = knobs ? json_object_get_members(knobs) : NULL;
    GString *text = g_string_new(NULL);
    GList *at;

    for (at = names; at; at = at->next) {
        g_autofree char *part = html_knob_text(knobs, at->data);

        if (!only || g_hash_table_contains(only, at->data)) {
            html_join(text, " \302\267 ", part);
        }
    }
    return g_string_free(text, FALSE);
}

/* Adds to @differing the knobs in which @scenario and @first differ. */
static void html_add_differing(GHashTable *differing, JsonObject *first,
                               JsonObject *scenario)
{
    JsonObject *knobs = tree_object(scenario, "knobs");
    JsonObject *others = tree_object(first, "knobs");
    g_autoptr(GList) names = knobs ? json_object_get_members(knobs) : NULL;
    GList *at;

    for (at = names; at; at = at->next) {
        g_autofree char *a = html_member_text(knobs, at->data);
        g_autofree char *b = others &&
                             json_object_has_member(others, at->data)
            ? html_member_text(others, at->data) : g_strdup("");

        if (strcmp(a, b)) {
            g_hash_table_add(differing, at->data);
        }
    }
}

/* The knobs that differ between scenarios; if there is one, its cache. */
static GHashTable *html_differing(JsonArray *works)
{
    GHashTable *differing = g_hash_table_new(g_str_hash, g_str_equal);
    JsonObject *first = NULL;
    guint w, s;

    for (w = 0; w < tree_length(works); w++) {
        JsonArray *scenarios = tree_array(tree_element(works, w),
                                          "scenarios");

        for (s = 0; s < tree_length(scenarios); s++) {
            first = first ? first : tree_element(scenarios, s);
            html_add_differing(differing, first, tree_element(scenarios, s));
        }
    }
    if (!g_hash_table_size(differing)) {
        g_hash_table_add(differing, (void *)"cache");
    }
    return differing;
}

static char *html_scenario_title(JsonObject *scenario, GHashTable *differing)
{
    g_autofree char *title = html_knobs(scenario, differing);

    return *title ? g_steal_pointer(&title) : g_strdup("scenario");
}

static const char *html_work_title(JsonObject *work)
{
    const char *label = tree_text(tree_object(work, "snapshot"), "label");

    return *label ? label : "snapshot without a name";
}

/* ---- contenders ---- */

static GPtrArray *html_contenders(JsonObject *scenario)
{
    GPtrArray *contenders = g_ptr_array_new();
    JsonArray *array = tree_array(scenario, "contenders");
    guint i;

    for (i = 0; i < tree_length(array); i++) {
        if (tree_element(array, i)) {
            g_ptr_array_add(contenders, tree_element(array, i));
        }
    }
    return contenders;
}

static const char *html_label(JsonObject *contender)
{
    const char *label = tree_text(contender, "label");

    return *label ? label : "(no name)";
}

static double html_median(JsonObject *contender, const char *measure)
{
    Spread spread = tree_spread(contender, measure);

    tree_spread_clear(&spread);
    return spread.median;
}

static bool html_is_measured(const GPtrArray *contenders, const char *measure)
{
    guint i;

    for (i = 0; i < contenders->len; i++) {
        if (!isnan(html_median(contenders->pdata[i], measure))) {
            return true;
        }
    }
    return false;
}

static void html_failure(GString *out, JsonObject *contender)
{
    JsonArray *errors = tree_array(contender, "errors");
    g_autoptr(GString) text = g_string_new(html_label(contender));
    guint i;

    if (!(tree_number(contender, "failed_count") > 0)) {
        return;
    }
    g_string_append_printf(text, ": %.0f runs failed",
                           tree_number(contender, "failed_count"));
    for (i = 0; i < tree_length(errors); i++) {
        JsonNode *node = json_array_get_element(errors, i);

        if (json_node_get_value_type(node) == G_TYPE_STRING) {
            g_string_append_printf(text, "%s %s", i ? " /" : ":",
                                   json_node_get_string(node));
        }
    }
    html_element(out, "p", "notice", text->str);
}

/* ---- who is best ---- */

typedef struct Claim {
    const char *key;
    const char *title;
    bool is_more_better;
    bool is_lazy_only;       /* a loader without faults has no such figure */
} Claim;

static const Claim html_claims[] = {
    { "progress", "Guest progress", true, false },
    { "run_ns", "Guest may run", false, false },
    { "work_ns", "Working set touched", false, false },
    { "load_ns", "Everything loaded", false, false },
    { "waited_ns", "Guest waited, in all", false, true },
};

/* Can the contender be the best?  null loads nothing. */
static bool html_is_rival(JsonObject *contender, const Claim *claim)
{
    double value = html_median(contender, claim->key);

    return strcmp(tree_text(contender, "name"), "null") && !isnan(value) &&
           (!claim->is_lazy_only ||
            tree_number(tree_object(contender, "faults"), "count") > 0);
}

static JsonObject *html_best(const GPtrArray *contenders, const Claim *claim)
{
    JsonObject *best = NULL;
    double best_value = NAN;
    guint i;

    for (i = 0; i < contenders->len; i++) {
        JsonObject *one = contenders->pdata[i];
        double value = html_median(one, claim->key);

        if (html_is_rival(one, claim) &&
            (!best || (claim->is_more_better ? value > best_value
                       : value < best_value))) {
            best = one;
            best_value = value;
        }
    }
    return best;
}

static int html_by_median(const void *a, const void *b, void *claim)
{
    const char *key = ((const Claim *)claim)->key;
    double x = html_median(*(JsonObject *const *)a, key);
    double y = html_median(*(JsonObject *const *)b, key);
    int order = x < y ? -1 : x > y;

    return ((const Claim *)claim)->is_more_better ? -order : order;
}

/* All contenders whose range overlaps that of @best, which comes first. */
static GPtrArray *html_tied(const GPtrArray *contenders, JsonObject *best,
                            const Claim *claim)
{
    const char *key = claim->key;
    GPtrArray *tied = g_ptr_array_new();
    Spread of_best = tree_spread(best, key);
    guint i;

    g_ptr_array_add(tied, best);
    for (i = 0; i < contenders->len; i++) {
        JsonObject *one = contenders->pdata[i];
        Spread spread = tree_spread(one, key);

        if (one != best && html_is_rival(one, claim) &&
            MAX(spread.least, of_best.least) <=
            MIN(spread.most, of_best.most)) {
            g_ptr_array_add(tied, one);
        }
        tree_spread_clear(&spread);
    }
    tree_spread_clear(&of_best);
    g_ptr_array_sort_with_data(tied, html_by_median, (void *)claim);
    return tied;
}

static guint html_rival_count(const GPtrArray *contenders,
                              const Claim *claim)
{
    guint count = 0, i;

    for (i = 0; i < contenders->len; i++) {
        count += html_is_rival(contenders->pdata[i], claim);
    }
    return count;
}

/* "300 ms to 340 ms", or one figure if both are equal. */
static char *html_range(const char *key, const Spread *spread)
{
    g_autofree char *least = html_value(key, spread->least);
    g_autofree char *most = html_value(key, spread->most);

    return !strcmp(least, most) ? g_steal_pointer(&least)
        : g_strdup_printf("%s to %s", least, most);
}

static void html_tile_tied(GString *out, const GPtrArray *tied,
                           const char *key)
{
    guint i;

    for (i = 0; i < MIN(tied->len, TIED_SHOWN_MAX); i++) {
        Spread spread = tree_spread(tied->pdata[i], key);
        g_autofree char *range = html_range(key, &spread);
        g_autofree char *text = g_strdup_printf(
            "%s: %s", html_label(tied->pdata[i]), range);

        html_element(out, "div", "", text);
        tree_spread_clear(&spread);
    }
    if (tied->len > TIED_SHOWN_MAX) {
        g_autofree char *more = g_strdup_printf(
            "and %u more", tied->len - TIED_SHOWN_MAX);

        html_element(out, "div", "", more);
    }
}

/* The tile that explains progress. */
static void html_tile_progress(GString *out, JsonObject *scenario)
{
    const char *window = tree_text(tree_object(scenario, "knobs"), "window");
    g_autofree char *text = g_strdup_printf(
        "touches in the first %s after the request to restore, of those of "
        "null", *window ? window : "moments");

    html_element(out, "div", "soft", text);
}

static void html_tile(GString *out, JsonObject *scenario,
                      const GPtrArray *contenders, const Claim *claim)
{
    const char *baseline = tree_text(scenario, "baseline");
    JsonObject *best = html_best(contenders, claim);
    g_autoptr(GPtrArray) tied = NULL;
    guint rival_count = html_rival_count(contenders, claim), i;

    if (!best) {
        return;
    }
    tied = html_tied(contenders, best, claim);
    g_string_append(out, "<div class=\"tile\">\n");
    html_element(out, "h4", "", claim->title);
    if (rival_count > 1 && tree_number(best, "run_count") < 2) {
        html_element(out, "div", "value tie", "no winner: one run each");
        html_tile_tied(out, tied, claim->key);
    } else if (tied->len > 1) {
        html_element(out, "div", "value tie", "no winner: ranges overlap");
        html_tile_tied(out, tied, claim->key);
    } else {
        g_autofree char *value = html_value(claim->key,
                                            html_median(best, claim->key));

        html_element(out, "div", "value", value);
        html_element(out, "div", "", html_label(best));
    }
    for (i = 0; i < contenders->len; i++) {
        JsonObject *base = contenders->pdata[i];
        double median = html_median(base, claim->key);

        if (!strcmp(html_label(base), baseline) && !isnan(median) &&
            (!claim->is_lazy_only || html_is_rival(base, claim)) &&
            !g_ptr_array_find(tied, base, NULL)) {
            g_autofree char *value = html_value(claim->key, median);
            g_autofree char *text = g_strdup_printf("%s: %s", baseline,
                                                    value);

            html_element(out, "div", "soft", text);
        }
    }
    if (!strcmp(claim->key, "progress")) {
        html_tile_progress(out, scenario);
    }
    g_string_append(out, "</div>\n");
}

static void html_tiles(GString *out, JsonObject *scenario,
                       const GPtrArray *contenders)
{
    guint i;

    g_string_append(out, "<div class=\"tiles\">\n");
    for (i = 0; i < G_N_ELEMENTS(html_claims); i++) {
        html_tile(out, scenario, contenders, &html_claims[i]);
    }
    g_string_append(out, "</div>\n");
}

/* ---- bars ---- */

typedef struct Bars {
    const char *title;
    const char *axis;
    ChartUnit unit;
    const char *keys[3];
    ChartSeries series[3];
} Bars;

static const Bars html_bars_shown[] = {
    { "How soon", "time from the request to restore", CHART_NS,
      { "run_ns", "work_ns", "load_ns" },
      { { "run", "guest may run" }, { "work", "working set touched" },
        { "load", "everything loaded" } } },
    { "How far the guest gets", "progress, of that of null", CHART_SHARE,
      { "progress" }, { { "progress", "guest progress" } } },
    { "How long it waited", "sum of all waits for pages", CHART_NS,
      { "waited_ns" }, { { "waited", "guest waited" } } },
};

static void html_legend(GString *out, const Bars *bars, guint count)
{
    guint i;

    g_string_append(out, "<div class=\"legend\">");
    for (i = 0; i < count; i++) {
        g_string_append_printf(out, "<span><i class=\"swatch %s\"></i>%s"
                               "</span>", bars->series[i].class,
                               bars->series[i].title);
    }
    g_string_append(out, "</div>\n");
}

static void html_bars(GString *out, JsonObject *scenario,
                      const GPtrArray *contenders, const Bars *bars)
{
    const char *baseline = tree_text(scenario, "baseline");
    g_autofree ChartRow *rows = g_new0(ChartRow, contenders->len);
    g_autofree Spread *spreads = NULL;
    ChartBars chart = {
        .axis = bars->axis, .unit = bars->unit, .series = bars->series,
        .rows = rows, .row_count = contenders->len,
    };
    guint i, s;

    while (chart.series_count < G_N_ELEMENTS(bars->keys) &&
           bars->keys[chart.series_count]) {
        chart.series_count++;
    }
    spreads = g_new0(Spread, contenders->len * chart.series_count);
    chart.spreads = spreads;
    for (i = 0; i < contenders->len; i++) {
        JsonObject *one = contenders->pdata[i];

        rows[i].name = html_label(one);
        rows[i].note = !(tree_number(one, "run_count") > 0)
            ? "all runs failed" : !strcmp(rows[i].name, baseline)
            ? "baseline" : "";
        for (s = 0; s < chart.series_count; s++) {
            spreads[i * chart.series_count + s] = tree_spread(one,
                                                              bars->keys[s]);
        }
    }
    g_string_append(out, "<figure class=\"bar-chart\">\n");
    html_element(out, "h4", "", bars->title);
    html_legend(out, bars, chart.series_count);
    chart_bars(&chart, out);
    g_string_append(out, "</figure>\n");
    for (i = 0; i < contenders->len * chart.series_count; i++) {
        tree_spread_clear(&spreads[i]);
    }
}

static void html_all_bars(GString *out, JsonObject *scenario,
                          const GPtrArray *contenders)
{
    guint i, k;

    g_string_append(
        out, "<p class=\"how\">A bar is the median, a dot each run, the line "
        "goes from the least to the most; \342\227\206 an outlier, or beyond "
        "the axis; " TIMES ": ratio to the baseline; -: there is no such "
        "figure.</p>\n<div class=\"bar-charts\">\n");
    for (i = 0; i < G_N_ELEMENTS(html_bars_shown); i++) {
        const Bars *bars = &html_bars_shown[i];
        bool has_any = false;

        for (k = 0; k < G_N_ELEMENTS(bars->keys) && bars->keys[k]; k++) {
            has_any = has_any || html_is_measured(contenders, bars->keys[k]);
        }
        if (has_any) {
            html_bars(out, scenario, contenders, bars);
        }
    }
    g_string_append(out, "</div>\n");
}

/* ---- outliers ---- */

static void html_outliers_of(GString *text, JsonObject *contender,
                             const Claim *claim)
{
    Spread spread = tree_spread(contender, claim->key);
    g_autofree char *title = g_ascii_strdown(claim->title, -1);
    g_autofree char *median = html_value(claim->key, spread.median);
    double low, high;
    guint i;

    figures_fences((double *)spread.rounds->data, spread.rounds->len, &low,
                   &high);
    for (i = 0; i < spread.rounds->len; i++) {
        double value = g_array_index(spread.rounds, double, i);
        g_autofree char *shown = html_value(claim->key, value);

        if (value < low || value > high) {
            g_string_append_printf(text, "%s%s %s in round %u (median %s)",
                                   text->len ? ", " : "", title, shown, i + 1,
                                   median);
        }
    }
    tree_spread_clear(&spread);
}

static void html_outliers(GString *out, const GPtrArray *contenders)
{
    bool has_any = false;
    guint i, k;

    g_string_append(out, "<p class=\"how outliers\"><strong>Outliers:"
                    "</strong> ");
    for (i = 0; i < contenders->len; i++) {
        g_autoptr(GString) text = g_string_new(NULL);

        for (k = 0; k < G_N_ELEMENTS(html_claims); k++) {
            html_outliers_of(text, contenders->pdata[i], &html_claims[k]);
        }
        if (text->len) {
            g_string_append(out, has_any ? "; <b>" : "<b>");
            text_append_html(out, html_label(contenders->pdata[i]));
            g_string_append_printf(out, "</b>: %s", text->str);
            has_any = true;
        }
    }
    g_string_append(out, has_any ? ".</p>\n" : "none.</p>\n");
}

/* ---- tables ---- */

typedef struct Column {
    const char *title;
    const char *from;        /* NULL: the measures; else which object */
    const char *key;         /* "p95/run_ns": member p95 of the object run_ns */
} Column;

typedef struct Table {
    const char *caption;
    bool is_who_told;        /* knobs and number of runs below the name */
    Column columns[12];
} Table;

static const Table html_tables[] = {
    { "What it comes to", true, {
        { "Progress", NULL, "progress" },
        { "Guest runs", NULL, "run_ns" },
        { "Worked", NULL, "work_ns" },
        { "Loaded", NULL, "load_ns" },
        { "Waited", NULL, "waited_ns" },
        { "Fault p50", "faults", "p50_ns" },
        { "Fault p99", "faults", "p99_ns" },
        { "CPU", NULL, "cpu_ns" },
        { "Memory, peak", NULL, "rss_peak_bytes" },
    } },
    { "Faults (idle: with the background off)", false, {
        { "Count", "faults", "count" },
        { "p50", "faults", "p50_ns" },
        { "p90", "faults", "p90_ns" },
        { "p99", "faults", "p99_ns" },
        { "p99.9", "faults", "p999_ns" },
        { "Max of a round", "faults", "max_ns" },
        { "Worst of all rounds", "faults", "worst_ns" },
        { "Idle p50", "faults_idle", "p50_ns" },
        { "Idle p99", "faults_idle", "p99_ns" },
        { "Idle max", "faults_idle", "max_ns" },
    } },
    { "Storage, and the guest later", false, {
        { "Read from storage", NULL, "read_bytes" },
        { "Of the raw sequential rate", NULL, "device_share" },
        { "In the page cache before", NULL, "cached_bytes" },
        { "Progress once it runs", NULL, "progress_running" },
        { "Touches per second after the load", NULL, "speed" },
    } },
    { "Memory", false, {
        { "Resident, end", NULL, "rss_end_bytes" },
        { "Page cache of the file, end", NULL, "page_cache_bytes" },
        { "Page tables", NULL, "page_table_bytes" },
        { "In huge pages", NULL, "huge_bytes" },
        { "Share in huge pages", NULL, "huge_share" },
    } },
    { "All clones together", false, {
        { "Clones", "clones", "count" },
        { "Runs, p50", "clones", "p50/run_ns" },
        { "p95", "clones", "p95/run_ns" },
        { "Worked, p50", "clones", "p50/work_ns" },
        { "p95", "clones", "p95/work_ns" },
        { "Loaded, p50", "clones", "p50/load_ns" },
        { "p95", "clones", "p95/load_ns" },
        { "Read", "clones", "read_bytes" },
        { "Read by the device", "clones", "device_read_bytes" },
        { "Memory (PSS)", "clones", "pss_bytes" },
    } },
};

static double html_member_figure(JsonObject *contender, const Column *column)
{
    JsonObject *object = tree_object(contender, column->from);
    g_auto(GStrv) words = NULL;

    if (!(tree_number(object, "count") > 0)) {
        return NAN;
    }
    words = g_strsplit(column->key, "/", 2);
    return words[1] ? tree_number(tree_object(object, words[1]), words[0])
                    : tree_number(object, words[0]);
}

static bool html_column_has(const GPtrArray *contenders, const Column *column)
{
    guint i;

    for (i = 0; i < contenders->len && column->from; i++) {
        if (!isnan(html_member_figure(contenders->pdata[i], column))) {
            return true;
        }
    }
    return !column->from && html_is_measured(contenders, column->key);
}

static void html_cell(GString *out, JsonObject *contender,
                      const Column *column)
{
    Spread spread = { .median = NAN };
    g_autofree char *value = NULL;

    if (column->from) {
        value = html_value(column->key,
                           html_member_figure(contender, column));
        g_string_append_printf(out, "<td>%s</td>", value);
        return;
    }
    spread = tree_spread(contender, column->key);
    value = html_value(column->key, spread.median);
    g_string_append_printf(out, "<td><b>%s</b>", value);
    if (isfinite(spread.ratio) && spread.ratio > 0 && spread.ratio != 1 &&
        !isnan(spread.median)) {
        g_autofree char *ratio = text_ratio(spread.ratio);

        g_string_append_printf(out, " <span class=\"ratio\">" TIMES
                               "%s</span>", ratio);
    }
    if (!isnan(spread.median)) {
        g_autofree char *range = html_range(column->key, &spread);

        if (strcmp(range, value)) {
            g_string_append_printf(out, "<div class=\"spread\">%s</div>",
                                   range);
        }
    }
    g_string_append(out, "</td>");
    tree_spread_clear(&spread);
}

/* "5 runs, threads 2, io_uring" */
static char *html_who(JsonObject *contender)
{
    JsonObject *knobs = tree_object(contender, "knobs");
    g_autoptr(GList) names = knobs ? json_object_get_members(knobs) : NULL;
    GString *text = g_string_new(NULL);
    GList *at;

    if (tree_number(contender, "run_count") > 0) {
        double count = tree_number(contender, "run_count");

        g_string_append_printf(text, "%.0f run%s", count,
                               count == 1 ? "" : "s");
    }
    if (tree_number(contender, "failed_count") > 0) {
        g_autofree char *failed = g_strdup_printf(
            "%.0f failed", tree_number(contender, "failed_count"));

        html_join(text, ", ", failed);
    }
    for (at = names; at; at = at->next) {
        g_autofree char *title = html_key_title(at->data);
        g_autofree char *value = html_member_text(knobs, at->data);
        g_autofree char *part = !strcmp(value, "yes")
            ? g_strdup(title) : g_strdup_printf("%s %s", title, value);

        if (*value && strcmp(value, "no")) {
            html_join(text, ", ", part);
        }
    }
    html_join(text, ", ", tree_text(contender, "io_name"));
    html_join(text, ", ", tree_text(contender, "io_fallback"));
    return g_string_free(text, FALSE);
}

static void html_row_head(GString *out, JsonObject *contender,
                          bool is_who_told)
{
    g_string_append(out, "<tr><th scope=\"row\">");
    text_append_html(out, html_label(contender));
    if (is_who_told) {
        g_autofree char *who = html_who(contender);

        g_string_append(out, "<div class=\"spread\">");
        text_append_html(out, who);
        g_string_append(out, "</div>");
    }
    g_string_append(out, "</th>");
}

/* The row of the device, above the contenders. */
static void html_device_row(GString *out, JsonObject *storage,
                            const GPtrArray *columns)
{
    JsonObject *hist = tree_object(storage, "random_4k");
    guint i;

    if (!(tree_number(hist, "count") > 0)) {
        return;
    }
    g_string_append(out, "<tr><th scope=\"row\">raw 4 KiB reads of the "
                    "device</th>");
    for (i = 0; i < columns->len; i++) {
        const Column *column = columns->pdata[i];
        g_autofree char *value = html_value(
            column->key, strcmp(column->from, "faults")
            ? NAN : tree_number(hist, column->key));

        g_string_append_printf(out, "<td>%s</td>", value);
    }
    g_string_append(out, "</tr>\n");
}

static void html_table(GString *out, const char *caption, bool is_who_told,
                       const GPtrArray *columns, JsonObject *storage,
                       const GPtrArray *contenders)
{
    guint i, k;

    g_string_append_printf(out, "<div class=\"table-frame%s\" tabindex=\"0\" "
                           "role=\"region\" aria-label=\"%s\"><table>"
                           "<caption>%s</caption>\n<thead><tr>"
                           "<th scope=\"col\">Contender</th>",
                           is_who_told ? " first" : "", caption, caption);
    for (k = 0; k < columns->len; k++) {
        g_string_append(out, "<th scope=\"col\">");
        text_append_html(out, ((const Column *)columns->pdata[k])->title);
        g_string_append(out, "</th>");
    }
    g_string_append(out, "</tr></thead>\n<tbody>\n");
    if (storage) {
        html_device_row(out, storage, columns);
    }
    for (i = 0; i < contenders->len; i++) {
        html_row_head(out, contenders->pdata[i], is_who_told);
        for (k = 0; k < columns->len; k++) {
            html_cell(out, contenders->pdata[i], columns->pdata[k]);
        }
        g_string_append(out, "</tr>\n");
    }
    g_string_append(out, "</tbody></table></div>\n");
}

static bool html_is_known(const char *key)
{
    guint t, k;

    for (t = 0; t < G_N_ELEMENTS(html_tables); t++) {
        for (k = 0; html_tables[t].columns[k].title; k++) {
            if (!html_tables[t].columns[k].from &&
                !strcmp(html_tables[t].columns[k].key, key)) {
                return true;
            }
        }
    }
    return false;
}

static void html_column_free(void *data)
{
    Column *column = data;

    g_free((char *)column->title);
    g_free((char *)column->key);
    g_free(column);
}

/* Measures that this program does not know, from a later version. */
static void html_other_table(GString *out, const GPtrArray *contenders)
{
    g_autoptr(GPtrArray) columns = g_ptr_array_new_with_free_func(
        html_column_free);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    guint i;

    for (i = 0; i < contenders->len; i++) {
        JsonObject *measures = tree_object(contenders->pdata[i], "measures");
        g_autoptr(GList) names = measures ? json_object_get_members(measures)
                                          : NULL;
        GList *at;

        for (at = names; at; at = at->next) {
            if (!html_is_known(at->data) && g_hash_table_add(seen, at->data) &&
                html_is_measured(contenders, at->data)) {
                Column *column = g_new0(Column, 1);

                column->title = html_key_title(at->data);
                column->key = g_strdup(at->data);
                g_ptr_array_add(columns, column);
            }
        }
    }
    if (columns->len) {
        html_table(out, "Other", false, columns, NULL, contenders);
    }
}

static void html_all_tables(GString *out, const GPtrArray *contenders,
                            JsonObject *storage)
{
    guint t, k;

    g_string_append(
        out, "<div class=\"tables-head\"><h4>All figures</h4>\n"
        "<p class=\"how\">In a cell: the median, its ratio to the baseline "
        "behind " TIMES ", and below the least and the most of all runs; "
        NOTHING ": not measured, or no such thing.</p></div>\n");
    for (t = 0; t < G_N_ELEMENTS(html_tables); t++) {
        const Table *table = &html_tables[t];
        g_autoptr(GPtrArray) columns = g_ptr_array_new();

        for (k = 0; table->columns[k].title; k++) {
            if (html_column_has(contenders, &table->columns[k])) {
                g_ptr_array_add(columns, (void *)&table->columns[k]);
            }
        }
        if (columns->len) {
            html_table(out, table->caption, table->is_who_told, columns,
                       !g_strcmp0(table->columns[0].from, "faults")
                       ? storage : NULL, contenders);
        }
    }
    html_other_table(out, contenders);
}

/* ---- sweeps ---- */

static const struct {
    const char *key;
    const char *title;
    ChartUnit unit;
} html_swept[] = {
    { "work_ns", "working set touched after", CHART_NS },
    { "load_ns", "everything loaded after", CHART_NS },
    { "progress", "guest progress, of that of null", CHART_SHARE },
    { "waited_ns", "the guest waited", CHART_NS },
};

/* The style class of a contender's colour: the plain letters of its name. */
static char *html_colour_class(const SweepLine *line, guint dash)
{
    GString *class = g_string_new("of-");
    const char *at;

    for (at = line->loader; *at; at++) {
        if (g_ascii_isalnum(*at) || *at == '-') {
            g_string_append_c(class, *at);
        }
    }
    g_string_append_printf(class, " dash-%u", dash % 6);
    return g_string_free(class, FALSE);
}

static guint html_dash(const Sweep *sweep, guint of)
{
    const SweepLine *line = sweep->lines->pdata[of];
    guint dash = 0, i;

    for (i = 0; i < of; i++) {
        const SweepLine *other = sweep->lines->pdata[i];

        dash += !strcmp(other->loader, line->loader);
    }
    return dash;
}

static void html_sweep_chart(GString *out, const Sweep *sweep, guint measure)
{
    g_autofree char *axis = html_key_title(sweep->knob);
    g_autofree ChartPlace *places = g_new0(ChartPlace, sweep->values->len);
    g_autofree ChartLine *lines = g_new0(ChartLine, sweep->lines->len);
    guint place_count = sweep->values->len;
    g_autofree Spread *spreads = g_new0(Spread,
                                        place_count * sweep->lines->len);
    ChartLines chart = {
        .axis_x = axis, .axis_y = html_swept[measure].title,
        .unit = html_swept[measure].unit, .places = places,
        .place_count = place_count, .lines = lines,
        .line_count = sweep->lines->len,
    };
    bool has_any = false;
    guint i, v;

    for (v = 0; v < place_count; v++) {
        const SweepValue *value = sweep->values->pdata[v];

        places[v] = (ChartPlace) { .x = value->number, .text = value->text };
    }
    for (i = 0; i < sweep->lines->len; i++) {
        const SweepLine *line = sweep->lines->pdata[i];

        lines[i] = (ChartLine) {
            .name = line->name, .is_level = line->is_level,
            .class = html_colour_class(line, html_dash(sweep, i)),
            .spreads = &spreads[i * place_count],
        };
        for (v = 0; v < place_count; v++) {
            Spread *spread = &spreads[i * place_count + v];

            *spread = tree_spread(line->contenders->pdata[v],
                                  html_swept[measure].key);
            spread->median = strcmp(line->loader, "null") ? spread->median
                                                          : NAN;
            has_any = has_any || spread->median > 0;
        }
    }
    if (has_any) {
        chart_lines(&chart, out);
    }
    for (i = 0; i < sweep->lines->len; i++) {
        g_free((char *)lines[i].class);
    }
    for (i = 0; i < sweep->lines->len * place_count; i++) {
        tree_spread_clear(&spreads[i]);
    }
}

static void html_sweeps(GString *out, JsonObject *root)
{
    g_autoptr(GPtrArray) sweeps = sweep_find(root);
    guint i, k;

    if (!sweeps->len) {
        return;
    }
    g_string_append(
        out, "<h2 id=\"sweeps\">Over each knob</h2>\n<p class=\"how\">What a "
        "knob does while all others stay as they are: a line goes through the "
        "medians, a small dot is each run; the baseline is a level line where "
        "it has no such knob.</p>\n");
    for (i = 0; i < sweeps->len; i++) {
        const Sweep *sweep = sweeps->pdata[i];
        g_autofree char *knob = html_key_title(sweep->knob);
        g_autofree char *title = g_strdup_printf(
            "Over %s%s%s", knob, *sweep->place ? ": " : "", sweep->place);

        g_string_append_printf(out, "<figure class=\"sweep\" id=\"sweep%u\">"
                               "\n", i);
        html_element(out, "h3", "", title);
        g_string_append(out, "<div class=\"sweep-charts\">\n");
        for (k = 0; k < G_N_ELEMENTS(html_swept); k++) {
            html_sweep_chart(out, sweep, k);
        }
        g_string_append(out, "</div></figure>\n");
    }
}

/* ---- the page ---- */

/* The rates of the device or of simulated storage; "": not measured. */
static char *html_storage_facts(JsonObject *storage)
{
    JsonObject *rate = tree_object(storage, "sequential_bytes_per_s");
    JsonObject *random_4k = tree_object(storage, "random_4k");
    GString *text = g_string_new(NULL);

    if (tree_number(rate, "median") > 0) {
        g_string_append_printf(
            text, "device: %.0f MB/s sequential (%.0f to %.0f)",
            tree_number(rate, "median") / 1e6, tree_number(rate, "min") / 1e6,
            tree_number(rate, "max") / 1e6);
    }
    if (tree_number(random_4k, "count") > 0) {
        g_autofree char *p50 = text_ns(tree_number(random_4k, "p50_ns"));
        g_autofree char *p99 = text_ns(tree_number(random_4k, "p99_ns"));
        g_autofree char *reads = g_strdup_printf("4 KiB reads: p50 %s, p99 %s",
                                                 p50, p99);

        html_join(text, " \302\267 ", reads);
    }
    return g_string_free(text, FALSE);
}

static void html_scenario(GString *out, JsonObject *work,
                          JsonObject *scenario, GHashTable *differing,
                          guint w, guint s)
{
    g_autoptr(GPtrArray) contenders = html_contenders(scenario);
    g_autofree char *title = html_scenario_title(scenario, differing);
    g_autofree char *knobs = html_knobs(scenario, NULL);
    /* A scenario with simulated storage has figures of its own. */
    JsonObject *storage = tree_object(scenario, "storage");
    JsonArray *notes = tree_array(scenario, "notes");
    guint i;

    g_string_append_printf(out, "<section class=\"scenario\" id=\"s%u-%u\">\n",
                           w, s);
    html_element(out, "h3", "", title);
    html_element(out, "p", "how", knobs);
    if (storage) {
        g_autofree char *facts = html_storage_facts(storage);

        html_element(out, "p", "how", facts);
    }
    for (i = 0; i < tree_length(notes); i++) {
        JsonNode *node = json_array_get_element(notes, i);

        if (json_node_get_value_type(node) == G_TYPE_STRING) {
            html_element(out, "p", "notice", json_node_get_string(node));
        }
    }
    for (i = 0; i < contenders->len; i++) {
        html_failure(out, contenders->pdata[i]);
    }
    if (contenders->len) {
        html_tiles(out, scenario, contenders);
        html_all_bars(out, scenario, contenders);
        html_outliers(out, contenders);
        html_replayed_sets(out, contenders);
        g_string_append_printf(out, "<div class=\"drawn\" data-work=\"%u\" "
                               "data-scenario=\"%u\"></div>\n", w, s);
        html_all_tables(out, contenders, storage ? storage
                        : tree_object(work, "storage"));
    } else {
        html_element(out, "p", "how", "No contender has run in this "
                     "scenario.");
    }
    g_string_append(out, "</section>\n");
}

static void html_work_facts(GString *out, JsonObject *work)
{
    JsonObject *snapshot = tree_object(work, "snapshot");
    g_autofree char *len = text_bytes(tree_number(snapshot, "len_bytes"));
    g_autofree char *data = text_bytes(tree_number(snapshot, "data_bytes"));
    g_autofree char *storage = html_storage_facts(tree_object(work,
                                                              "storage"));
    g_autoptr(GString) text = g_string_new(NULL);

    g_string_append_printf(text, "%s of memory, %s of it with data", len,
                           data);
    html_join(text, " \302\267 ", storage);
    html_element(out, "p", "soft", text->str);
}

static guint html_scenario_count(JsonArray *works)
{
    guint count = 0, w;

    for (w = 0; w < tree_length(works); w++) {
        count += tree_length(tree_array(tree_element(works, w),
                                        "scenarios"));
    }
    return count;
}

static void html_contents(GString *out, JsonArray *works,
                          GHashTable *differing)
{
    guint w, s;

    if (html_scenario_count(works) < 2) {
        return;
    }
    g_string_append(out, "<nav aria-label=\"Scenarios\"><ul>\n");
    for (w = 0; w < tree_length(works); w++) {
        JsonObject *work = tree_element(works, w);
        JsonArray *scenarios = tree_array(work, "scenarios");

        for (s = 0; s < tree_length(scenarios); s++) {
            g_autofree char *title = html_scenario_title(
                tree_element(scenarios, s), differing);

            g_string_append_printf(out, "<li><a href=\"#s%u-%u\">", w, s);
            if (tree_length(works) > 1) {
                text_append_html(out, html_work_title(work));
                g_string_append(out, ": ");
            }
            text_append_html(out, title);
            g_string_append(out, "</a></li>\n");
        }
    }
    g_string_append(out, "</ul></nav>\n");
}

/* The machine in two lines; what influences rankings comes first. */
static void html_machine(GString *out, JsonObject *env)
{
    static const struct {
        const char *key, *before, *after;
    } facts[] = {
        { "device", "device ", "" }, { "filesystem", "", "" },
        { "cpu", "", "" }, { "cpu_count", "", " CPUs" },
        { "memory_bytes", "", " of memory" },
        { "cgroup_memory_bytes", "limited to ", " of memory" },
        { "cpu_quota", "CPU quota ", "" }, { "kernel", "Linux ", "" },
    };
    g_autofree char *ahead = text_bytes(tree_number(env, "read_ahead_bytes"));
    g_autoptr(GString) text = g_string_new(NULL);
    guint i;

    for (i = 0; i < G_N_ELEMENTS(facts); i++) {
        if (env && json_object_has_member(env, facts[i].key)) {
            g_autofree char *value = html_member_text(env, facts[i].key);
            g_autofree char *part = g_strconcat(facts[i].before, value,
                                                facts[i].after, NULL);

            html_join(text, " \302\267 ", *value ? part : "");
        }
    }
    g_string_append_printf(out, "<p class=\"lead\"><strong>Readahead of the "
                           "kernel: %s.</strong> It decides how well loaders "
                           "do that read through the page cache.</p>\n",
                           strcmp(ahead, "-") ? ahead : "not known");
    html_element(out, "p", "soft", text->str);
}

static void html_head(GString *out, JsonObject *root, GHashTable *differing)
{
    JsonObject *tool = tree_object(root, "tool");
    g_autofree char *facts = g_strdup_printf(
        "%s \302\267 version %s \302\267 commit %s", tree_text(root, "date"),
        tree_text(tool, "version"), tree_text(tool, "commit"));

    g_string_append(out, "<h1>fastload-bench: ways of restoring a VM, "
                    "compared</h1>\n");
    html_element(out, "p", "soft", facts);
    html_machine(out, tree_object(root, "environment"));
    if (tree_is_true(root, "quick")) {
        html_element(out, "p", "notice", "Quick look: little data, few "
                     "contenders and few rounds. For a decision measure "
                     "without --quick.");
    }
    if (tree_is_true(root, "interrupted")) {
        html_element(out, "p", "notice", "This comparison was interrupted: "
                     "it has fewer runs than it was asked for, and what had "
                     "not begun is missing.");
    }
    if (html_scenario_count(tree_array(root, "works")) > 1) {
        html_element(out, "p", "how printed", "On a screen this page has "
                     "more: pictures of faults, loading, progress and memory "
                     "over time, and tables.");
    }
    html_contents(out, tree_array(root, "works"), differing);
}

/* Explains each contender's name once, for all its variants. */
static void html_contender_list(GString *out, JsonArray *works)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    guint w, s, i;

    g_string_append(out, "<h2>The contenders</h2>\n<ul class=\"who\">\n");
    for (w = 0; w < tree_length(works); w++) {
        JsonArray *scenarios = tree_array(tree_element(works, w),
                                          "scenarios");

        for (s = 0; s < tree_length(scenarios); s++) {
            g_autoptr(GPtrArray) contenders = html_contenders(
                tree_element(scenarios, s));

            for (i = 0; i < contenders->len; i++) {
                const char *name = tree_text(contenders->pdata[i], "name");

                if (g_hash_table_add(seen, (void *)name)) {
                    g_string_append(out, "<li><strong>");
                    text_append_html(out, name);
                    g_string_append(out, "</strong>: ");
                    text_append_html(out, tree_text(contenders->pdata[i],
                                                    "summary"));
                    g_string_append(out, "</li>\n");
                }
            }
        }
    }
    g_string_append(out, "</ul>\n");
}

static void html_environment(GString *out, JsonObject *root)
{
    JsonObject *env = tree_object(root, "environment");
    g_autoptr(GList) names = env ? json_object_get_members(env) : NULL;
    GList *at;

    g_string_append(out, "<h2>The machine and the command</h2>\n"
                    "<dl class=\"facts\">\n");
    for (at = names; at; at = at->next) {
        g_autofree char *title = html_key_title(at->data);
        g_autofree char *value = html_member_text(env, at->data);

        g_string_append(out, "<div>");
        html_element(out, "dt", "", title);
        html_element(out, "dd", "", *value ? value : NOTHING);
        g_string_append(out, "</div>\n");
    }
    g_string_append(out, "</dl>\n");
    html_element(out, "pre", "", tree_text(root, "command"));
}

static void html_report(GString *out, JsonObject *root)
{
    JsonArray *works = tree_array(root, "works");
    g_autoptr(GHashTable) differing = html_differing(works);
    guint count = html_scenario_count(works), w, s;

    g_string_append_printf(out, "<div class=\"%s\">\n", count < 2 ? "one"
                           : count <= PRINTED_TABLES_MAX ? "few" : "many");
    html_head(out, root, differing);
    for (w = 0; w < tree_length(works); w++) {
        JsonObject *work = tree_element(works, w);
        JsonArray *scenarios = tree_array(work, "scenarios");

        html_element(out, "h2", "", html_work_title(work));
        html_work_facts(out, work);
        for (s = 0; s < tree_length(scenarios); s++) {
            html_scenario(out, work, tree_element(scenarios, s), differing, w,
                          s);
        }
    }
    if (!tree_length(works)) {
        html_element(out, "p", "notice", "There are no results: nothing has "
                     "been measured.");
    }
    html_sweeps(out, root);
    html_contender_list(out, works);
    html_environment(out, root);
    g_string_append(out, "</div>\n<noscript><p class=\"how\">A script draws "
                    "faults, loading and progress over time, and the map of "
                    "memory; it is switched off here. All figures are in the "
                    "tables.</p></noscript>\n");
}

static void html_set_page(GString *out, JsonObject *set, const char *path)
{
    g_autofree char *name = g_filename_display_basename(path);

    g_string_append(out, "<div class=\"one\">\n<h1>fastload-bench: what a "
                    "guest touches first</h1>\n");
    html_element(out, "h3", "", name);
    html_set_facts(out, set);
    if (tree_number(set, "page_count") > 0) {
        g_string_append(out, "<p class=\"how\">Each block of guest memory "
                        "from its begin on the left to its end: the whole set "
                        "above, and below it a row for each tenth of its "
                        "runs, in the order in which they were touched.</p>"
                        "\n");
        html_set_legend(out);
        g_string_append(out, "<figure class=\"set\">\n");
        html_set_picture(out, set);
        g_string_append(out, "</figure>\n");
        html_set_table(out, set);
    }
    g_string_append(out, "</div>\n");
}

/* Escaped, so that no text in a result can end the script element. */
static void html_append_json(GString *out, const char *json)
{
    for (; *json; json++) {
        if (*json == '<') {
            g_string_append(out, "\\u003c");
        } else {
            g_string_append_c(out, *json);
        }
    }
}

/* The page with @body, and @node for its script. */
static char *html_fill(const GString *body, JsonNode *node)
{
    GResource *resource = bench_report_get_resource();
    g_autoptr(GBytes) page = g_resource_lookup_data(
        resource, "/fastload/report.html", 0, NULL);
    g_autofree char *json = json_to_string(node, FALSE);
    const char *all = page ? g_bytes_get_data(page, NULL) : NULL;
    const char *report = all ? strstr(all, PLACE_STATIC) : NULL;
    const char *data = report ? strstr(report, PLACE_JSON) : NULL;
    GString *text = g_string_new(NULL);

    assert(data); /* report.html has both places, in this order */
    g_string_append_len(text, all, report - all);
    g_string_append_len(text, body->str, body->len);
    report += strlen(PLACE_STATIC);
    g_string_append_len(text, report, data - report);
    html_append_json(text, json);
    g_string_append(text, data + strlen(PLACE_JSON));
    return g_string_free(text, FALSE);
}

char *html_text(JsonNode *result)
{
    g_autoptr(GString) body = g_string_new(NULL);

    html_report(body, json_node_get_object(result));
    return html_fill(body, result);
}

char *html_set_text(JsonNode *set, const char *path)
{
    g_autoptr(GString) body = g_string_new(NULL);

    /* The script draws results, and this is none. */
    html_set_page(body, json_node_get_object(set), path);
    return html_fill(body, set);
}
