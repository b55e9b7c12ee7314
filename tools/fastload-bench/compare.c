/*
 * fastload-bench: one result beside another.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sets contenders of two results side by side, measure by measure, and says
 * whether each change is larger than the differences between rounds.  Times are
 * compared as ratios to the baseline of their own result, which cancels much of
 * the noise of a machine.  Measures that the baseline does not have (faults,
 * the guest's waiting) and those that are a share already (progress) are
 * compared directly.  With a limit, larger changes for the worse are failures.
 * Refuses results of different machines unless forced.
 */
#include "bench.h"
#include <math.h>

#define WANTED_CHANGE 0.1    /* where there is no limit */
#define SHOWN_PERCENT_MAX 999

typedef enum CompareKind {
    COMPARE_NS, COMPARE_BYTES, COMPARE_SHARE, COMPARE_COUNT,
} CompareKind;

typedef struct CompareMeasure {
    const char *name;        /* member of "measures", or of "faults" */
    const char *title;
    CompareKind kind;
    bool is_of_faults;
    bool is_direct;          /* not compared as a ratio */
    bool is_more_better;
    bool is_judged;
} CompareMeasure;

static const CompareMeasure compare_measures[] = {
    { "run_ns", "runs", COMPARE_NS, false, false, false, true },
    { "work_ns", "worked", COMPARE_NS, false, false, false, true },
    { "load_ns", "loaded", COMPARE_NS, false, false, false, true },
    { "cpu_ns", "cpu", COMPARE_NS, false, false, false, true },
    { "progress", "progress", COMPARE_SHARE, false, true, true, true },
    { "waited_ns", "waited", COMPARE_NS, false, true, false, true },
    { "p50_ns", "fault p50", COMPARE_NS, true, true, false, false },
    { "p99_ns", "fault p99", COMPARE_NS, true, true, false, true },
    { "rss_peak_bytes", "peak", COMPARE_BYTES, false, false, false, false },
    { "speed", "speed", COMPARE_COUNT, false, false, true, false },
};

typedef struct CompareRow {
    JsonObject *contender;   /* of the first; borrowed */
    const CompareMeasure *measure;
    bool is_ratio;
    bool is_judged;
    bool is_failure;
    double first, second;    /* ratios, or medians */
    char *first_spread, *second_spread;
    uint32_t round_count;    /* of the result that has fewer */
    FiguresChange change;
} CompareRow;

typedef struct CompareScenario {
    JsonObject *work_a, *work_b, *a, *b;    /* borrowed */
    JsonObject *base_a, *base_b;            /* NULL: not in both */
    GPtrArray *rows;         /* of CompareRow, those of a contender together */
} CompareScenario;

struct Comparison {
    JsonObject *a, *b;       /* borrowed */
    char *difference;        /* of the environments, if it matters; or NULL */
    char *told;              /* of the environments, if it does not matter */
    double limit;            /* NAN: none */
    char **judged_names;     /* NULL: all */
    GPtrArray *scenarios;    /* of CompareScenario */
    uint32_t judged_count, few_count, unsure_count, failure_count;
    uint32_t needed_count;   /* the most rounds that one of those needs */
};

/* ---- what belongs together ---- */

static char *compare_key(JsonObject *object, const char *name)
{
    JsonObject *member = tree_object(object, name);
    JsonNode *node = member ? json_object_get_member(object, name) : NULL;

    return node ? json_to_string(node, FALSE) : g_strdup("");
}

/* Do both have the same contents?  Path and label do not matter. */
static bool compare_is_same_work(JsonObject *a, JsonObject *b)
{
    static const char *const sizes[] = { "len_bytes", "data_bytes",
                                         "block_count" };
    JsonObject *first = tree_object(a, "snapshot");
    JsonObject *second = tree_object(b, "snapshot");
    const char *name = *tree_text(first, "fingerprint") &&
                       *tree_text(second, "fingerprint") ? "fingerprint"
                                                         : "label";
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(sizes); i++) {
        if (tree_number(first, sizes[i]) != tree_number(second, sizes[i])) {
            return false;
        }
    }
    return !strcmp(tree_text(first, name), tree_text(second, name));
}

static bool compare_has_same_knobs(JsonObject *a, JsonObject *b)
{
    g_autofree char *first = compare_key(a, "knobs");
    g_autofree char *second = compare_key(b, "knobs");

    return !strcmp(first, second);
}

/* Compares knobs: a label has only those that differ within its result. */
static bool compare_is_same_contender(JsonObject *a, JsonObject *b)
{
    return !strcmp(tree_text(a, "name"), tree_text(b, "name")) &&
           compare_has_same_knobs(a, b);
}

typedef bool CompareIsSame(JsonObject *a, JsonObject *b);

/* The element of @array that is the same as @like, or NULL. */
static JsonObject *compare_find(JsonArray *array, JsonObject *like,
                                CompareIsSame *is_same)
{
    guint i;

    for (i = 0; like && i < tree_length(array); i++) {
        JsonObject *element = tree_element(array, i);

        if (element && is_same(like, element)) {
            return element;
        }
    }
    return NULL;
}

static JsonObject *compare_find_baseline(JsonObject *scenario)
{
    JsonArray *contenders = tree_array(scenario, "contenders");
    guint i;

    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *c = tree_element(contenders, i);

        if (c && !strcmp(tree_text(c, "label"),
                         tree_text(scenario, "baseline"))) {
            return c;
        }
    }
    return NULL;
}

/* ---- figures ---- */

/* The values of @measure in each round, NAN: none; NULL: no round has one. */
static double *compare_rounds(JsonObject *contender,
                              const CompareMeasure *measure,
                              uint32_t *ret_count)
{
    JsonObject *object = measure->is_of_faults
        ? tree_object(contender, "faults")
        : tree_object(tree_object(contender, "measures"), measure->name);
    JsonArray *rounds = tree_array(object, "rounds");
    double *values = rounds ? g_new(double, tree_length(rounds) + 1) : NULL;
    guint i;

    for (i = 0; i < tree_length(rounds); i++) {
        JsonObject *round = tree_element(rounds, i);

        values[i] = !measure->is_of_faults ? tree_number_at(rounds, i)
            : tree_number(round, "count") > 0
            ? tree_number(round, measure->name) : NAN;
    }
    *ret_count = tree_length(rounds);
    return values;
}

/* The series of both, as long as the shorter one. */
static void compare_series(JsonObject *contender, JsonObject *base,
                           const CompareMeasure *measure,
                           FiguresSeries *ret_series)
{
    uint32_t base_count = UINT32_MAX;

    ret_series->values = compare_rounds(contender, measure,
                                        &ret_series->count);
    ret_series->bases = base ? compare_rounds(base, measure, &base_count)
                             : NULL;
    if (base && !ret_series->bases) {
        base_count = 0;
    }
    ret_series->count = MIN(ret_series->count, base_count);
}

static void compare_series_clear(FiguresSeries *series)
{
    g_free((double *)series->values);
    g_free((double *)series->bases);
}

static char *compare_spread(const FiguresSeries *series)
{
    double least, most, median = figures_median(series->values, series->count,
                                                &least, &most);

    return series->count > 1 ? text_spread(median, least, most)
                             : g_strdup("");
}

/* By how much it is worse; below 0: better. */
static double compare_worse(const CompareRow *row, double change)
{
    return row->measure->is_more_better ? -change : change;
}

/* Are there too few rounds to see a change over the limit? */
static bool compare_is_unsure(const CompareRow *row, double limit)
{
    const FiguresChange *c = &row->change;

    return c->verdict == FIGURES_FEW ||
           (c->verdict == FIGURES_NOISE &&
            MAX(compare_worse(row, c->low), compare_worse(row, c->high)) >
            limit);
}

/* How many rounds would be enough: more than there were. */
static uint32_t compare_needed(const FiguresChange *c)
{
    return MIN(MAX(MAX(c->needed_count, c->round_count + 1),
                   FIGURES_ROUNDS_MIN), FIGURES_NEEDED_MAX);
}

static void compare_judge(Comparison *comparison, CompareRow *row)
{
    const FiguresChange *c = &row->change;

    if (!row->is_judged) {
        return;
    }
    comparison->judged_count++;
    row->is_failure =
        (c->verdict == FIGURES_MORE || c->verdict == FIGURES_LESS) &&
        compare_worse(row, c->change) > comparison->limit;
    comparison->failure_count += row->is_failure;
    comparison->few_count += c->verdict == FIGURES_FEW;
    if (compare_is_unsure(row, comparison->limit)) {
        comparison->unsure_count++;
        comparison->needed_count = MAX(comparison->needed_count,
                                       compare_needed(c));
    }
}

static bool compare_judges(const Comparison *comparison,
                           const CompareScenario *s, JsonObject *contender)
{
    const char *name = tree_text(contender, "name");

    /* The others are compared with these two. */
    if (contender == s->base_a || !strcmp(name, loader_null.name)) {
        return false;
    }
    return !comparison->judged_names ||
           g_strv_contains((const char *const *)comparison->judged_names,
                           name);
}

static void compare_row_free(void *opaque)
{
    CompareRow *row = opaque;

    g_free(row->first_spread);
    g_free(row->second_spread);
    g_free(row);
}

static void compare_add_row(Comparison *comparison, CompareScenario *s,
                            JsonObject *a, JsonObject *b,
                            const CompareMeasure *measure)
{
    bool is_ratio = !measure->is_direct && s->base_b && a != s->base_a &&
                    strcmp(tree_text(a, "name"), loader_null.name);
    FiguresSeries first, second;
    CompareRow *row;

    compare_series(a, is_ratio ? s->base_a : NULL, measure, &first);
    compare_series(b, is_ratio ? s->base_b : NULL, measure, &second);
    row = g_new0(CompareRow, 1);
    row->contender = a;
    row->measure = measure;
    row->is_ratio = is_ratio;
    row->is_judged = measure->is_judged && !isnan(comparison->limit) &&
                     compare_judges(comparison, s, a);
    row->first = figures_ratio(first.values, first.bases, first.count);
    row->second = figures_ratio(second.values, second.bases, second.count);
    row->first_spread = compare_spread(&first);
    row->second_spread = compare_spread(&second);
    row->round_count = MIN(first.count, second.count);
    figures_change(&first, &second, isnan(comparison->limit)
                   ? WANTED_CHANGE : comparison->limit, &row->change);
    if (row->change.verdict == FIGURES_UNKNOWN &&
        !isfinite(row->change.change)) {
        compare_row_free(row);
    } else {
        compare_judge(comparison, row);
        g_ptr_array_add(s->rows, row);
    }
    compare_series_clear(&first);
    compare_series_clear(&second);
}

/* ---- all of it ---- */

static void compare_scenario_free(void *opaque)
{
    CompareScenario *s = opaque;

    g_ptr_array_unref(s->rows);
    g_free(s);
}

/* False when the two have no contender in common. */
static bool compare_add_scenario(Comparison *comparison, JsonObject *work_a,
                                 JsonObject *work_b, JsonObject *a,
                                 JsonObject *b)
{
    JsonArray *left = tree_array(a, "contenders");
    JsonArray *right = tree_array(b, "contenders");
    CompareScenario *s = g_new0(CompareScenario, 1);
    bool has_any = false;
    guint i;
    uint32_t m;

    s->work_a = work_a;
    s->work_b = work_b;
    s->a = a;
    s->b = b;
    s->base_a = compare_find_baseline(a);
    s->base_b = compare_find(right, s->base_a, compare_is_same_contender);
    s->rows = g_ptr_array_new_with_free_func(compare_row_free);
    for (i = 0; i < tree_length(left); i++) {
        JsonObject *one = tree_element(left, i);
        JsonObject *other = compare_find(right, one,
                                         compare_is_same_contender);

        for (m = 0; other && m < G_N_ELEMENTS(compare_measures); m++) {
            compare_add_row(comparison, s, one, other, &compare_measures[m]);
            has_any = true;
        }
    }
    g_ptr_array_add(comparison->scenarios, s);
    return has_any;
}

static bool compare_add_work(Comparison *comparison, JsonObject *a,
                             JsonObject *b)
{
    JsonArray *left = tree_array(a, "scenarios");
    JsonArray *right = tree_array(b, "scenarios");
    bool has_any = false;
    guint i;

    for (i = 0; i < tree_length(left); i++) {
        JsonObject *one = tree_element(left, i);
        JsonObject *other = compare_find(right, one,
                                         compare_has_same_knobs);

        if (other) {
            has_any |= compare_add_scenario(comparison, a, b, one, other);
        }
    }
    return has_any;
}

static bool compare_check_environments(Comparison *comparison,
                                       bool is_forced, GError **error)
{
    JsonObject *env_a = tree_object(comparison->a, "environment");
    JsonObject *env_b = tree_object(comparison->b, "environment");

    if (env_a && env_b) {
        comparison->difference = environment_difference(env_a, env_b, true);
        comparison->told = environment_difference(env_a, env_b, false);
    } else {
        comparison->difference = g_strdup(
            "one of them does not say where it was measured");
    }
    if (comparison->difference && !is_forced) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the results are of different environments: %s; "
                    "--force compares them all the same",
                    comparison->difference);
        return false;
    }
    return true;
}

static bool compare_check_judged(const Comparison *comparison, GError **error)
{
    if (isnan(comparison->limit)) {
        return true;
    }
    if (!comparison->judged_count) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "there is nothing to judge: the results have no contender "
                    "in common, but for the baseline and null");
    } else if (comparison->few_count == comparison->judged_count) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "nothing can be judged: both results need %u rounds at "
                    "least; measure with --repeat 5 or more",
                    FIGURES_ROUNDS_MIN);
    } else if (comparison->unsure_count == comparison->judged_count) {
        bool is_most = comparison->needed_count >= FIGURES_NEEDED_MAX;

        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "nothing can be judged: all figures vary too much to see "
                    "a change of %.3g %%; measure on a quieter machine, or "
                    "with --repeat %u%s", comparison->limit * 100,
                    comparison->needed_count, is_most ? " or more" : "");
    } else {
        return true;
    }
    return false;
}

Comparison *compare_new(JsonNode *a, JsonNode *b,
                        const CompareOptions *options, GError **error)
{
    g_autoptr(Comparison) comparison = g_new0(Comparison, 1);
    JsonArray *works, *others;
    bool has_any = false;
    guint i;

    comparison->a = json_node_get_object(a);
    comparison->b = json_node_get_object(b);
    comparison->limit = options->limit;
    comparison->judged_names = options->contenders
        ? g_strsplit(options->contenders, ",", -1) : NULL;
    comparison->scenarios =
        g_ptr_array_new_with_free_func(compare_scenario_free);
    if (!compare_check_environments(comparison, options->is_forced, error)) {
        return NULL;
    }
    works = tree_array(comparison->a, "works");
    others = tree_array(comparison->b, "works");
    for (i = 0; i < tree_length(works); i++) {
        JsonObject *work = tree_element(works, i);
        JsonObject *other = compare_find(others, work, compare_is_same_work);

        if (other) {
            has_any |= compare_add_work(comparison, work, other);
        }
    }
    if (!has_any) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the results have nothing in common: compare those of "
                    "the same snapshot and the same knobs");
        return NULL;
    }
    return compare_check_judged(comparison, error)
        ? g_steal_pointer(&comparison) : NULL;
}

bool compare_has_failed(const Comparison *comparison)
{
    return comparison->failure_count;
}

void compare_free(Comparison *comparison)
{
    g_ptr_array_unref(comparison->scenarios);
    g_strfreev(comparison->judged_names);
    g_free(comparison->difference);
    g_free(comparison->told);
    g_free(comparison);
}

/* ---- for people ---- */

static char *compare_figure(const CompareRow *row, double value)
{
    if (row->is_ratio) {
        return text_ratio(value);
    }
    switch (row->measure->kind) {
    case COMPARE_NS:
        return text_ns(value);
    case COMPARE_BYTES:
        return text_bytes(value);
    case COMPARE_SHARE:
        return text_percent(value);
    case COMPARE_COUNT:
        break;
    }
    return isnan(value) ? g_strdup("-")
                        : g_strdup_printf("%.3g million", value / 1e6);
}

/* "-3 to +18 %" */
static char *compare_interval(double low, double high)
{
    double from = round(low * 100), to = round(high * 100);
    bool is_far = to > SHOWN_PERCENT_MAX;

    if (isnan(low)) {
        return g_strdup("-");
    }
    /* No sign before 0. */
    return g_strdup_printf("%+.0f to %s%+.0f %%", from == 0 ? 0 : from,
                           is_far ? ">" : "",
                           is_far ? SHOWN_PERCENT_MAX : to == 0 ? 0 : to);
}

static const char *compare_verdict(const CompareRow *row)
{
    switch (row->change.verdict) {
    case FIGURES_UNKNOWN:
        return "unknown";
    case FIGURES_FEW:
        return "too few rounds";
    case FIGURES_NOISE:
        return "within noise";
    case FIGURES_MORE:
    case FIGURES_LESS:
        break;
    }
    return row->is_failure ? "FAILS"
        : compare_worse(row, row->change.change) > 0 ? "worse" : "better";
}

static void compare_add_texts(const Comparison *comparison, Sheet *sheet,
                              const CompareRow *row)
{
    const FiguresChange *c = &row->change;
    bool is_unsure = compare_is_unsure(row, isnan(comparison->limit)
                                       ? WANTED_CHANGE : comparison->limit);
    g_autofree char *label = g_strdup_printf("  %s", row->measure->title);

    sheet_begin_row(sheet, label);
    sheet_add_text(sheet, compare_figure(row, row->first));
    sheet_add_text(sheet, compare_figure(row, row->second));
    sheet_add_text(sheet, g_strdup_printf("%+.1f %%", c->change * 100));
    sheet_add_text(sheet, compare_interval(c->low, c->high));
    sheet_add_text(sheet, g_strdup(compare_verdict(row)));
    sheet_add_text(sheet, !is_unsure ? g_strdup("")
                   : compare_needed(c) >= FIGURES_NEEDED_MAX
                   ? g_strdup_printf("over %u", FIGURES_NEEDED_MAX)
                   : g_strdup_printf("%u", compare_needed(c)));
    sheet_add_text(sheet, g_strdup(row->first_spread));
    sheet_add_text(sheet, g_strdup(row->second_spread));
}

/* Names the elements of @array that @others does not have. */
static void compare_only(const Paper *paper, JsonArray *array,
                         JsonArray *others, const char *which)
{
    guint i;

    for (i = 0; i < tree_length(array); i++) {
        JsonObject *c = tree_element(array, i);
        g_autofree char *label = tree_safe_text(c, "label");

        if (c && !compare_find(others, c, compare_is_same_contender)) {
            paper_say(paper, 2, "%s only in the %s", label, which);
        }
    }
}

static void compare_print_scenario(const Comparison *comparison,
                                   const CompareScenario *s,
                                   const Paper *paper)
{
    static const char *const columns[] = { "first", "second", "change",
        "95 % of it", "verdict", "needed", "spread", "spread" };
    g_autofree char *baseline = tree_safe_text(s->a, "baseline");
    g_autofree char *other = tree_safe_text(s->b, "baseline");
    g_autoptr(Sheet) sheet = sheet_new("");
    JsonObject *contender = NULL;
    uint32_t i;

    table_knobs(s->a, paper);
    if (!s->base_b) {
        paper_say(paper, 2, "NO COMMON BASELINE: times are compared as they "
                  "are, not as ratios");
    } else if (strcmp(baseline, other)) {
        paper_say(paper, 2, "DIFFERENT BASELINES: %s and %s; ratios are to %s "
                  "in both", baseline, other, baseline);
    }
    for (i = 0; i < G_N_ELEMENTS(columns); i++) {
        sheet_add_column(sheet, columns[i],
                         i + 1 == G_N_ELEMENTS(columns));
    }
    for (i = 0; i < s->rows->len; i++) {
        const CompareRow *row = s->rows->pdata[i];

        if (row->contender != contender) {
            g_autofree char *label = tree_safe_text(row->contender, "label");

            sheet_begin_row(sheet, label);
            contender = row->contender;
        }
        compare_add_texts(comparison, sheet, row);
    }
    sheet_print(sheet, paper);
    compare_only(paper, tree_array(s->a, "contenders"),
                 tree_array(s->b, "contenders"), "first");
    compare_only(paper, tree_array(s->b, "contenders"),
                 tree_array(s->a, "contenders"), "second");
}

/* Names the scenarios of @a that @b does not have. */
static void compare_only_scenarios(const Paper *paper, JsonObject *a,
                                   JsonObject *b, const char *which)
{
    JsonArray *scenarios = tree_array(a, "scenarios");
    guint i;

    for (i = 0; i < tree_length(scenarios); i++) {
        JsonObject *s = tree_element(scenarios, i);

        if (s && !compare_find(tree_array(b, "scenarios"), s,
                               compare_has_same_knobs)) {
            table_knobs(s, paper);
            paper_say(paper, 2, "only in the %s", which);
        }
    }
}

/* Names the works of @a that @b does not have. */
static void compare_only_works(const Paper *paper, JsonObject *a,
                               JsonObject *b, const char *which)
{
    JsonArray *works = tree_array(a, "works");
    guint i;

    for (i = 0; i < tree_length(works); i++) {
        JsonObject *work = tree_element(works, i);
        g_autofree char *label = tree_safe_text(tree_object(work, "snapshot"),
                                                "label");

        if (work && !compare_find(tree_array(b, "works"), work,
                                  compare_is_same_work)) {
            paper_gap(paper);
            paper_say(paper, 0, "%s: only in the %s", label, which);
        }
    }
}

static void compare_print_origin(const Paper *paper, const char *which,
                                 JsonObject *root)
{
    g_autofree char *date = tree_safe_text(root, "date");
    g_autofree char *command = tree_safe_text(root, "command");

    paper_say(paper, 0, "%-7s %s  %s%s", which, date, command,
              tree_is_true(root, "interrupted") ? "  INTERRUPTED" : "");
}

static void compare_print_end(const Comparison *c, const Paper *paper)
{
    double percent = c->limit * 100;

    paper_gap(paper);
    paper_say(paper, 2, "first and second: ratios to the baseline, which is "
              "itself shown with its times; waited, faults and progress as "
              "they are; change: from first to second, 95 %% of it by a "
              "bootstrap over the rounds; spread: of the rounds of first and "
              "of second; needed: rounds to see a change of %.6g %%",
              isnan(c->limit) ? WANTED_CHANGE * 100 : percent);
    if (isnan(c->limit)) {
        return;
    }
    paper_gap(paper);
    if (c->failure_count) {
        paper_say(paper, 2, "FAILED: %u of %u figures are worse by more than "
                  "%.6g %%, and by more than noise", c->failure_count,
                  c->judged_count, percent);
    } else {
        paper_say(paper, 2, "none of %u figures is worse by more than %.6g %% "
                  "and more than noise", c->judged_count, percent);
    }
    if (c->unsure_count) {
        bool is_most = c->needed_count >= FIGURES_NEEDED_MAX;

        paper_say(paper, 2, "%u of %u figures vary too much to tell whether "
                  "they are; it would take %s %u rounds in each result",
                  c->unsure_count, c->judged_count,
                  is_most ? "more than" : "up to", c->needed_count);
    }
}

void compare_print(const Comparison *comparison, const Paper *paper)
{
    JsonObject *work = NULL;
    uint32_t i;

    if (comparison->difference) {
        paper_say(paper, 0, "different environments: %s",
                  comparison->difference);
    }
    if (comparison->told) {
        paper_say(paper, 0, "without influence: %s", comparison->told);
    }
    compare_print_origin(paper, "first", comparison->a);
    compare_print_origin(paper, "second", comparison->b);
    for (i = 0; i < comparison->scenarios->len; i++) {
        const CompareScenario *s = comparison->scenarios->pdata[i];
        g_autofree char *label = tree_safe_text(
            tree_object(s->work_a, "snapshot"), "label");
        bool is_last = i + 1 == comparison->scenarios->len ||
            ((CompareScenario *)comparison->scenarios->pdata[i + 1])->work_a
            != s->work_a;

        if (s->work_a != work) {
            work = s->work_a;
            paper_head(paper, label);
        }
        compare_print_scenario(comparison, s, paper);
        if (is_last) {
            compare_only_scenarios(paper, s->work_a, s->work_b, "first");
            compare_only_scenarios(paper, s->work_b, s->work_a, "second");
        }
    }
    compare_only_works(paper, comparison->a, comparison->b, "first");
    compare_only_works(paper, comparison->b, comparison->a, "second");
    compare_print_end(comparison, paper);
}

/* ---- for other programs ---- */

char *compare_csv(const Comparison *comparison)
{
    static const char *const columns[] = {
        "kind", "first", "second", "change", "low", "high", "verdict",
        "rounds", "rounds_needed", NULL };
    GString *csv = csv_begin(comparison->a, columns);
    uint32_t i, k;

    for (i = 0; i < comparison->scenarios->len; i++) {
        const CompareScenario *s = comparison->scenarios->pdata[i];

        for (k = 0; k < s->rows->len; k++) {
            const CompareRow *row = s->rows->pdata[k];
            const FiguresChange *c = &row->change;
            g_autofree char *measure = g_strdup_printf(
                "%s%s", row->measure->is_of_faults ? "faults_" : "",
                row->measure->name);

            csv_begin_line(csv, comparison->a, s->work_a, s->a,
                           row->contender, measure);
            csv_add_text(csv, row->is_ratio ? "ratio" : "value");
            csv_add_number(csv, row->first);
            csv_add_number(csv, row->second);
            csv_add_number(csv, c->change);
            csv_add_number(csv, c->low);
            csv_add_number(csv, c->high);
            csv_add_text(csv, compare_verdict(row));
            csv_add_number(csv, row->round_count);
            csv_add_number(csv, c->needed_count);
            csv_end_line(csv);
        }
    }
    return g_string_free(csv, FALSE);
}
