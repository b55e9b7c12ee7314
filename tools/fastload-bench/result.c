/*
 * fastload-bench: results to JSON and back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One tree holds everything about a comparison of contenders; tables, the HTML
 * page and the comparison of two results are made from it alone.
 * docs/benchmarks.md describes its members.
 */
#include "bench.h"
#include "bench-version.h"
#include <math.h>

#define TIMELINE_COUNT_MAX 200
#define DEPTH_MAX 32
#define RESULT_FORMAT "fastload-bench"

static const char *const measure_names[MEASURE_COUNT] = {
    [MEASURE_RUN] = "run_ns",
    [MEASURE_WORK] = "work_ns",
    [MEASURE_LOAD] = "load_ns",
    [MEASURE_PROGRESS] = "progress",
    [MEASURE_PROGRESS_RUNNING] = "progress_running",
    [MEASURE_WAITED] = "waited_ns",
    [MEASURE_CPU] = "cpu_ns",
    [MEASURE_READ] = "read_bytes",
    [MEASURE_RSS_PEAK] = "rss_peak_bytes",
    [MEASURE_RSS_END] = "rss_end_bytes",
    [MEASURE_PAGE_TABLE] = "page_table_bytes",
    [MEASURE_HUGE] = "huge_bytes",
    [MEASURE_HUGE_SHARE] = "huge_share",
    [MEASURE_SPEED] = "speed",
    [MEASURE_DEVICE_SHARE] = "device_share",
    [MEASURE_CACHED] = "cached_bytes",
    [MEASURE_PAGE_CACHE] = "page_cache_bytes",
};

static const char *const arrival_names[ARRIVAL_COUNT] = {
    [ARRIVAL_NONE] = "none",
    [ARRIVAL_BEFORE] = "before",
    [ARRIVAL_URGENT] = "urgent",
    [ARRIVAL_HINT] = "hint",
    [ARRIVAL_BACKGROUND] = "background",
};

static void result_add_number(JsonBuilder *b, const char *name, double value)
{
    json_builder_set_member_name(b, name);
    if (isnan(value) || isinf(value)) {
        json_builder_add_null_value(b);
    } else {
        json_builder_add_double_value(b, value);
    }
}

static void result_add_int(JsonBuilder *b, const char *name, uint64_t value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, value);
}

static void result_add_text(JsonBuilder *b, const char *name,
                            const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    json_builder_set_member_name(b, name);
    json_builder_add_string_value(b, valid);
}

static void result_add_spread(JsonBuilder *b, const char *name,
                              const double *values, uint32_t count,
                              double ratio)
{
    double least, most;
    double median = figures_median(values, count, &least, &most);
    uint32_t i;

    json_builder_set_member_name(b, name);
    if (isnan(median)) {
        json_builder_add_null_value(b);
        return;
    }
    json_builder_begin_object(b);
    result_add_number(b, "median", median);
    result_add_number(b, "min", least);
    result_add_number(b, "max", most);
    result_add_number(b, "ratio", ratio);
    json_builder_set_member_name(b, "rounds");
    json_builder_begin_array(b);
    for (i = 0; i < count; i++) {
        if (isnan(values[i])) {
            json_builder_add_null_value(b);
        } else {
            json_builder_add_double_value(b, values[i]);
        }
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
}

static void result_add_buckets(JsonBuilder *b, const Hist *hist)
{
    uint32_t i;

    json_builder_set_member_name(b, "buckets");
    json_builder_begin_array(b);
    for (i = 0; i < HIST_COUNT; i++) {
        if (hist->buckets[i]) {
            json_builder_begin_array(b);
            json_builder_add_int_value(b, hist_bucket_floor_ns(i));
            json_builder_add_int_value(b, hist->buckets[i]);
            json_builder_end_array(b);
        }
    }
    json_builder_end_array(b);
}

static void result_add_hist(JsonBuilder *b, const char *name,
                            const Hist *hist)
{
    json_builder_set_member_name(b, name);
    json_builder_begin_object(b);
    result_add_int(b, "count", hist->count);
    result_add_int(b, "p50_ns", hist_percentile_ns(hist, 500));
    result_add_int(b, "p90_ns", hist_percentile_ns(hist, 900));
    result_add_int(b, "p99_ns", hist_percentile_ns(hist, 990));
    result_add_int(b, "p999_ns", hist_percentile_ns(hist, 999));
    result_add_int(b, "max_ns", hist->max_ns);
    result_add_buckets(b, hist);
    json_builder_end_object(b);
}

static const char *const fault_names[FAULT_FIGURES] = {
    [FAULT_FIGURE_COUNT] = "count",
    [FAULT_FIGURE_P50] = "p50_ns",
    [FAULT_FIGURE_P90] = "p90_ns",
    [FAULT_FIGURE_P99] = "p99_ns",
    [FAULT_FIGURE_P999] = "p999_ns",
    [FAULT_FIGURE_MAX] = "max_ns",
    [FAULT_FIGURE_SUM] = "sum_ns",
};

/* Adds a rounded number; 0 for NAN. */
static void result_add_rounded(JsonBuilder *b, const char *name, double value)
{
    result_add_int(b, name, isnan(value) ? 0 : llround(value));
}

static void result_add_fault_rounds(JsonBuilder *b, const FaultRounds *faults,
                                    uint32_t count)
{
    static const FaultFigure shown[] = {
        FAULT_FIGURE_COUNT, FAULT_FIGURE_P50, FAULT_FIGURE_P99,
        FAULT_FIGURE_MAX, FAULT_FIGURE_SUM,
    };
    uint32_t round, i;

    json_builder_set_member_name(b, "rounds");
    json_builder_begin_array(b);
    for (round = 0; round < count; round++) {
        if (isnan(faults->figures[FAULT_FIGURE_COUNT][round])) {
            json_builder_add_null_value(b); /* a run that failed */
            continue;
        }
        json_builder_begin_object(b);
        for (i = 0; i < G_N_ELEMENTS(shown); i++) {
            result_add_rounded(b, fault_names[shown[i]],
                               faults->figures[shown[i]][round]);
        }
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

/* Adds medians over the rounds, and the maximum of all rounds. */
static void result_add_faults(JsonBuilder *b, const char *name,
                              const FaultRounds *faults, uint32_t count)
{
    double least, most;
    uint32_t i;

    json_builder_set_member_name(b, name);
    json_builder_begin_object(b);
    for (i = 0; i < FAULT_FIGURES; i++) {
        result_add_rounded(b, fault_names[i],
                           figures_median(faults->figures[i], count, &least,
                                          &most));
    }
    result_add_int(b, "worst_ns", faults->all.max_ns);
    result_add_fault_rounds(b, faults, count);
    result_add_buckets(b, &faults->all);
    json_builder_end_object(b);
}

/* Adds one member of all samples that are kept: a column of the timeline. */
static void result_add_column(JsonBuilder *b, const char *name,
                              const RunResult *r, size_t member_off)
{
    uint32_t step = r->sample_count / TIMELINE_COUNT_MAX + 1;
    uint32_t i;

    json_builder_set_member_name(b, name);
    json_builder_begin_array(b);
    for (i = 0; i < r->sample_count; i++) {
        if (i % step == 0 || i + 1 == r->sample_count) {
            const char *sample = (const char *)&r->samples[i];

            json_builder_add_int_value(
                b, *(const uint64_t *)(sample + member_off));
        }
    }
    json_builder_end_array(b);
}

static void result_add_timeline(JsonBuilder *b, const RunResult *r)
{
    ArrivalClass c;

    json_builder_set_member_name(b, "timeline");
    json_builder_begin_object(b);
    result_add_column(b, "t_ns", r, offsetof(Sample, t_ns));
    result_add_column(b, "touches", r, offsetof(Sample, touch_count));
    for (c = ARRIVAL_BEFORE; c < ARRIVAL_COUNT; c++) {
        g_autofree char *name = g_strdup_printf("%s_bytes", arrival_names[c]);

        result_add_column(b, name, r, offsetof(Sample, loaded_bytes) +
                          c * sizeof(uint64_t));
    }
    result_add_column(b, "resident_bytes", r,
                      offsetof(Sample, resident_bytes));
    json_builder_end_object(b);
}

static void result_add_map(JsonBuilder *b, const RunResult *r)
{
    ArrivalClass c;
    uint32_t i;

    json_builder_set_member_name(b, "map");
    json_builder_begin_object(b);
    result_add_int(b, "cell_pages", r->cell_page_count);
    json_builder_set_member_name(b, "t_us");
    json_builder_begin_array(b);
    for (i = 0; i < r->cell_count; i++) {
        json_builder_add_int_value(b, r->cells[i].t_us);
    }
    json_builder_end_array(b);
    for (c = 0; c < ARRIVAL_COUNT; c++) {
        json_builder_set_member_name(b, arrival_names[c]);
        json_builder_begin_array(b);
        for (i = 0; i < r->cell_count; i++) {
            json_builder_add_int_value(b, r->cells[i].shares[c]);
        }
        json_builder_end_array(b);
    }
    json_builder_end_object(b);
}

static void result_add_measures(JsonBuilder *b, const ScenarioResult *s,
                                const Contender *c)
{
    const Contender *null = s->contenders->pdata[0];
    const Contender *base = s->baseline;
    uint32_t count = s->round_count;
    g_autofree double *progress = g_new(double, count + 1);
    double least, most;
    /* For null, "runs" and the request are the same moment. */
    double full = figures_median(null->values[MEASURE_PROGRESS_RUNNING],
                                 count, &least, &most);
    uint32_t m, i;

    json_builder_set_member_name(b, "measures");
    json_builder_begin_object(b);
    for (m = 0; m < MEASURE_COUNT; m++) {
        bool is_progress = m == MEASURE_PROGRESS ||
                           m == MEASURE_PROGRESS_RUNNING;

        for (i = 0; is_progress && i < count; i++) {
            progress[i] = c->values[m][i] / full;
        }
        result_add_spread(b, measure_names[m],
                          is_progress ? progress : c->values[m], count,
                          figures_ratio(c->values[m], base->values[m], count));
    }
    json_builder_end_object(b);
}

/* The median over rounds of a figure over all clones. */
static double result_clone_figure(const ScenarioResult *s, const Contender *c,
                                  CloneFigure figure)
{
    double least, most;

    return figures_median(c->clone_figures[figure], s->round_count, &least,
                          &most);
}

static void result_add_clones(JsonBuilder *b, const ScenarioResult *s,
                              const Contender *c)
{
    static const struct {
        const char *name;
        CloneFigure p50, p95;
    } times[] = {
        { "run_ns", CLONE_RUN_P50, CLONE_RUN_P95 },
        { "work_ns", CLONE_WORK_P50, CLONE_WORK_P95 },
        { "load_ns", CLONE_LOAD_P50, CLONE_LOAD_P95 },
    };
    uint32_t i;

    json_builder_set_member_name(b, "clones");
    json_builder_begin_object(b);
    result_add_int(b, "count", s->values[KNOB_CLONES]);
    for (i = 0; i < G_N_ELEMENTS(times); i++) {
        json_builder_set_member_name(b, times[i].name);
        json_builder_begin_object(b);
        result_add_number(b, "p50", result_clone_figure(s, c, times[i].p50));
        result_add_number(b, "p95", result_clone_figure(s, c, times[i].p95));
        json_builder_end_object(b);
    }
    result_add_number(b, "read_bytes", result_clone_figure(s, c, CLONE_READ));
    result_add_number(b, "device_read_bytes",
                      result_clone_figure(s, c, CLONE_DEVICE_READ));
    result_add_number(b, "pss_bytes", result_clone_figure(s, c, CLONE_PSS));
    json_builder_end_object(b);
}

static void result_add_contender(JsonBuilder *b, const ScenarioResult *s,
                                 const Contender *c)
{
    static const char *const io_names[] = { "auto", "io_uring", "preadv" };
    uint32_t knobs = c->variant.loader->knobs;
    guint i;

    json_builder_begin_object(b);
    result_add_text(b, "label", c->label);
    result_add_text(b, "name", c->variant.loader->name);
    result_add_text(b, "summary", c->variant.loader->summary);
    json_builder_set_member_name(b, "knobs");
    json_builder_begin_object(b);
    if (knobs & LOADER_HAS_THREADS) {
        result_add_int(b, "threads", c->variant.thread_count);
    }
    if (knobs & LOADER_HAS_DIRECT) {
        json_builder_set_member_name(b, "direct");
        json_builder_add_boolean_value(b, c->variant.is_direct);
    }
    if (knobs & LOADER_HAS_IO) {
        result_add_text(b, "io", io_names[c->variant.io]);
    }
    if (c->variant.is_replayed) {
        /* Older results have no such member, and mean the same without it. */
        json_builder_set_member_name(b, "replay");
        json_builder_add_boolean_value(b, true);
    }
    json_builder_end_object(b);
    if (*c->io_name) {
        result_add_text(b, "io_name", c->io_name);
    }
    if (*c->io_fallback) {
        result_add_text(b, "io_fallback", c->io_fallback);
    }
    result_add_int(b, "run_count", c->run_count);
    result_add_int(b, "failed_count", c->failed_count);
    json_builder_set_member_name(b, "errors");
    json_builder_begin_array(b);
    for (i = 0; i < c->errors->len; i++) {
        g_autofree char *valid = g_utf8_make_valid(c->errors->pdata[i], -1);

        json_builder_add_string_value(b, valid);
    }
    json_builder_end_array(b);
    result_add_measures(b, s, c);
    result_add_faults(b, "faults", &c->faults, s->round_count);
    result_add_faults(b, "faults_idle", &c->faults_idle, s->round_count);
    if (s->values[KNOB_CLONES] > 1) {
        result_add_clones(b, s, c);
    }
    if (c->rehearsal) {
        json_builder_set_member_name(b, "working_set");
        json_builder_add_value(b, json_node_copy(c->rehearsal->set));
    }
    if (c->typical) {
        result_add_timeline(b, c->typical);
        result_add_map(b, c->typical);
    }
    json_builder_end_object(b);
}

static void result_add_notes(JsonBuilder *b, const ScenarioResult *s,
                             const WorkResult *work)
{
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    guint i;

    for (i = 0; i < s->notes->len; i++) {
        notes_add(notes, "%s", (const char *)s->notes->pdata[i]);
    }
    notes_add_cache(s, work->data_bytes, notes);
    json_builder_set_member_name(b, "notes");
    json_builder_begin_array(b);
    for (i = 0; i < notes->len; i++) {
        g_autofree char *valid = g_utf8_make_valid(notes->pdata[i], -1);

        json_builder_add_string_value(b, valid);
    }
    json_builder_end_array(b);
}

/* Was simulated storage used, and not the file itself? */
static bool result_has_own_storage(const ScenarioResult *s)
{
    return s->values[KNOB_STORAGE] || s->values[KNOB_READAHEAD];
}

/* Adds the device's rates in the cold rounds of @count scenarios. */
static void result_add_storage(JsonBuilder *b,
                               const ScenarioResult *const *scenarios,
                               uint32_t count)
{
    g_autoptr(GArray) rates = g_array_new(FALSE, FALSE, sizeof(double));
    Hist random_4k = { 0 };
    uint32_t i;

    for (i = 0; i < count; i++) {
        const ScenarioResult *s = scenarios[i];

        g_array_append_vals(rates, s->sequential->data, s->sequential->len);
        hist_merge(&random_4k, &s->random_4k);
    }
    json_builder_set_member_name(b, "storage");
    json_builder_begin_object(b);
    result_add_spread(b, "sequential_bytes_per_s", (double *)rates->data,
                      rates->len, NAN);
    result_add_hist(b, "random_4k", &random_4k);
    json_builder_end_object(b);
}

/* Adds the knobs [first, end), as texts. */
static void result_add_knobs(JsonBuilder *b, const KnobValues values,
                             KnobId first, KnobId end)
{
    KnobId i;

    json_builder_set_member_name(b, "knobs");
    json_builder_begin_object(b);
    for (i = first; i < end; i++) {
        g_autofree char *name = g_strdup(plan_knob_name(i));
        g_autofree char *text = plan_knob_text(i, values[i]);

        g_strdelimit(name, "-", '_');
        result_add_text(b, name, text);
    }
    json_builder_end_object(b);
}

static void result_add_scenario(JsonBuilder *b, const ScenarioResult *s,
                                const WorkResult *work)
{
    guint c;

    json_builder_begin_object(b);
    result_add_knobs(b, s->values, KNOB_SCENARIO_FIRST, KNOB_VARIANT_FIRST);
    result_add_text(b, "baseline", s->baseline->label);
    result_add_notes(b, s, work);
    if (result_has_own_storage(s)) {
        result_add_storage(b, &s, 1);
    }
    json_builder_set_member_name(b, "contenders");
    json_builder_begin_array(b);
    for (c = 0; c < s->contenders->len; c++) {
        result_add_contender(b, s, s->contenders->pdata[c]);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
}

/* Adds the rates of the device itself, not of simulated storage. */
static void result_add_device(JsonBuilder *b, const WorkResult *work)
{
    g_autofree const ScenarioResult **real =
        g_new(const ScenarioResult *, work->scenarios->len);
    uint32_t count = 0;
    guint i;

    for (i = 0; i < work->scenarios->len; i++) {
        const ScenarioResult *s = work->scenarios->pdata[i];

        if (!result_has_own_storage(s)) {
            real[count++] = s;
        }
    }
    result_add_storage(b, real, count);
}

static void result_add_work(JsonBuilder *b, const WorkResult *work)
{
    guint i;

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "snapshot");
    json_builder_begin_object(b);
    result_add_text(b, "label", work->label);
    result_add_int(b, "len_bytes", work->len_bytes);
    result_add_int(b, "data_bytes", work->data_bytes);
    result_add_int(b, "block_count", work->block_count);
    result_add_text(b, "fingerprint", work->fingerprint);
    if (work->is_generated) {
        result_add_knobs(b, work->values, KNOB_WORK_FIRST,
                         KNOB_SCENARIO_FIRST);
    }
    json_builder_end_object(b);
    result_add_device(b, work);
    json_builder_set_member_name(b, "scenarios");
    json_builder_begin_array(b);
    for (i = 0; i < work->scenarios->len; i++) {
        result_add_scenario(b, work->scenarios->pdata[i], work);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
}

JsonNode *result_new(const Plan *plan, GPtrArray *works, const char *command,
                     bool is_interrupted)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *date = g_date_time_format(now, "%Y-%m-%dT%H:%M:%SZ");
    guint i;

    json_builder_begin_object(b);
    result_add_text(b, "format", RESULT_FORMAT);
    result_add_int(b, "version", RESULT_VERSION);
    json_builder_set_member_name(b, "tool");
    json_builder_begin_object(b);
    result_add_text(b, "version", BENCH_VERSION);
    result_add_text(b, "commit", BENCH_COMMIT);
    json_builder_end_object(b);
    result_add_text(b, "date", date);
    result_add_text(b, "command", command);
    json_builder_set_member_name(b, "interrupted");
    json_builder_add_boolean_value(b, is_interrupted);
    json_builder_set_member_name(b, "quick");
    json_builder_add_boolean_value(b, plan->is_quick);
    result_add_int(b, "repeat", plan->repeat_count);
    result_add_int(b, "warmup", plan->warmup_count);
    json_builder_set_member_name(b, "environment");
    {
        JsonNode *node = json_node_alloc();

        json_node_init_object(node, NULL);
        json_node_take_object(node, environment_new(
            plan->snapshot_path ? plan->snapshot_path : plan->folder));
        json_builder_add_value(b, node);
    }
    json_builder_set_member_name(b, "works");
    json_builder_begin_array(b);
    for (i = 0; i < works->len; i++) {
        result_add_work(b, works->pdata[i]);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    return json_builder_get_root(b);
}

/* Does a contender of @works have a run that failed, or one that did not? */
static bool result_has(GPtrArray *works, bool is_failure)
{
    guint w, i, k;

    for (w = 0; w < works->len; w++) {
        const WorkResult *work = works->pdata[w];

        for (i = 0; i < work->scenarios->len; i++) {
            const ScenarioResult *s = work->scenarios->pdata[i];

            for (k = 0; k < s->contenders->len; k++) {
                const Contender *c = s->contenders->pdata[k];

                if (is_failure ? c->failed_count : c->run_count) {
                    return true;
                }
            }
        }
    }
    return false;
}

bool result_has_failed(GPtrArray *works)
{
    return result_has(works, true);
}

bool result_has_runs(GPtrArray *works)
{
    return result_has(works, false);
}

char *result_text(JsonNode *result)
{
    g_autofree char *text = json_to_string(result, FALSE);

    return g_strconcat(text, "\n", NULL);
}

/* The parser is recursive: a file that is not trusted may be nested deeply. */
static bool result_check_depth(const char *text, gsize text_bytes,
                               GError **error)
{
    bool is_string = false;
    int depth = 0;
    gsize i;

    for (i = 0; i < text_bytes; i++) {
        if (is_string && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            is_string = !is_string;
        } else if (!is_string && (text[i] == '[' || text[i] == '{')) {
            if (++depth > DEPTH_MAX) {
                g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                            "it nests more than %d levels deep", DEPTH_MAX);
                return false;
            }
        } else if (!is_string && (text[i] == ']' || text[i] == '}')) {
            depth--;
        }
    }
    return true;
}

JsonNode *result_read(const char *path, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) cause = NULL;
    JsonNode *root, *format, *version;
    g_autofree char *text = NULL;
    gsize text_bytes;
    JsonObject *object;

    if (!g_file_get_contents(path, &text, &text_bytes, &cause)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot read the result %s: %s", path, cause->message);
        return NULL;
    }
    if (!result_check_depth(text, text_bytes, &cause) ||
        !json_parser_load_from_data(parser, text, text_bytes, &cause)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s is not a result that this fastload-bench wrote with "
                    "--json: %s", path, cause->message);
        return NULL;
    }
    root = json_parser_get_root(parser);
    object = root && JSON_NODE_HOLDS_OBJECT(root) ? json_node_get_object(root)
                                                  : NULL;
    format = object ? json_object_get_member(object, "format") : NULL;
    version = object ? json_object_get_member(object, "version") : NULL;
    if (!format || json_node_get_value_type(format) != G_TYPE_STRING ||
        strcmp(json_node_get_string(format), RESULT_FORMAT) ||
        !version || json_node_get_value_type(version) != G_TYPE_INT64) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s is not a result that this fastload-bench wrote with "
                    "--json", path);
        return NULL;
    }
    if (json_node_get_int(version) != RESULT_VERSION) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s is a result of version %" PRId64 ", whose figures "
                    "mean something else than those of version %d that this "
                    "fastload-bench reads: measure again, or read it with "
                    "the fastload-bench that wrote it", path,
                    (int64_t)json_node_get_int(version), RESULT_VERSION);
        return NULL;
    }
    return json_node_copy(root);
}
