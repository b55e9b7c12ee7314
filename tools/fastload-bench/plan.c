/*
 * fastload-bench: knobs, and lists of their values.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One table says which knobs there are, how a value is written and which values
 * are legal.  Each knob takes a list, and each value of a list is a comparison
 * of its own.  Runs nothing.  Fails with a usage error.
 */
#include "bench.h"
#include <limits.h>

typedef enum KnobKind {
    KNOB_KIND_BYTES,
    KNOB_KIND_NS,
    KNOB_KIND_COUNT,
    KNOB_KIND_SHARE,         /* in millionths */
    KNOB_KIND_WORD,
    KNOB_KIND_STORAGE,       /* see storage-class.c */
    KNOB_KIND_AHEAD,         /* bytes; 0: not changed */
} KnobKind;

typedef struct Knob {
    const char *name;
    KnobKind kind;
    const char *initial;
    uint64_t min, max;
    const char *words;       /* in the order of their enum */
    const char *help;
} Knob;

#define MILLION 1000000ull
#define SECOND_NS 1000000000ull

static const Knob knobs[KNOB_COUNT] = {
    [KNOB_SIZE] = { "size", KNOB_KIND_BYTES, "1G", 1 << 20, 1ull << 44, NULL,
        "RAM of the generated snapshot (1G)" },
    [KNOB_ZERO_SHARE] = { "zero-share", KNOB_KIND_SHARE, "25%", 0, MILLION,
        NULL, "share of its pages that are zero (25%)" },
    [KNOB_RUN_LENGTH] = { "run-length", KNOB_KIND_BYTES, "1M",
        BENCH_PAGE_BYTES, 1ull << 40, NULL,
        "mean length of its runs of data (1M)" },
    [KNOB_SEED] = { "seed", KNOB_KIND_COUNT, "1", 0, UINT64_MAX, NULL,
        "what all that is random comes from (1)" },
    [KNOB_STORAGE] = { "storage", KNOB_KIND_STORAGE, "file", 0, UINT64_MAX,
        NULL, "the file as it is, or simulated: file, nvme, ssd, network, "
        "object, rtt=1ms,rate=2G,jitter=0.2ms,fast=1%,first=1 (file)" },
    [KNOB_READAHEAD] = { "readahead", KNOB_KIND_AHEAD, "as-is", 0, 1 << 30,
        NULL, "how far the kernel reads ahead: as-is, or a size (as-is)" },
    [KNOB_CACHE] = { "cache", KNOB_KIND_WORD, "cold,warm", 0, 1, "cold warm",
        "page cache before each run: cold, warm (cold,warm)" },
    [KNOB_PATTERN] = { "pattern", KNOB_KIND_WORD, "zipf", 0, 2,
        "uniform zipf sequential trace",
        "what the guest touches: uniform, zipf, sequential (zipf)" },
    [KNOB_VCPUS] = { "vcpus", KNOB_KIND_COUNT, "1", 1, BENCH_VCPU_COUNT_MAX,
        NULL, "guest threads, that touch the same memory (1)" },
    [KNOB_CLONES] = { "clones", KNOB_KIND_COUNT, "1", 1,
        BENCH_CLONE_COUNT_MAX, NULL,
        "processes that restore the same file at once (1)" },
    [KNOB_THINK] = { "think", KNOB_KIND_NS, "20us", 0, SECOND_NS, "recorded",
        "how long the guest computes between two touches, or recorded: as "
        "--trace has it (20us)" },
    [KNOB_WRITE_SHARE] = { "write-share", KNOB_KIND_SHARE, "30%", 0, MILLION,
        NULL, "share of touches that write (30%)" },
    [KNOB_WORKING_SET] = { "working-set", KNOB_KIND_BYTES, "64M",
        BENCH_PAGE_BYTES, 1ull << 44, NULL,
        "what the guest touches again and again (64M)" },
    [KNOB_WINDOW] = { "window", KNOB_KIND_NS, "1s", SECOND_NS / 1000,
        600 * SECOND_NS, NULL, "guest progress counts for this long (1s)" },
    [KNOB_CPU_QUOTA] = { "cpu-quota", KNOB_KIND_SHARE, "none", MILLION / 100,
        BENCH_THREAD_COUNT_MAX * MILLION, "none",
        "CPU time of a run, of one CPU: 50%, 150%; 2 is two CPUs (none)" },
    [KNOB_MEMORY_MAX] = { "memory-max", KNOB_KIND_BYTES, "none", 1 << 20,
        1ull << 44, "none", "limit of a run's memory (none)" },
    [KNOB_MEMORY] = { "memory", KNOB_KIND_WORD, "touched", 0, 1,
        "touched fresh",
        "touched and freed before each run, or as it comes: touched, fresh "
        "(touched)" },
    [KNOB_THREADS] = { "threads", KNOB_KIND_COUNT, "2", 1,
        BENCH_THREAD_COUNT_MAX, NULL,
        "threads of fastload and others, channels of eager-multi (2)" },
    [KNOB_DIRECT] = { "direct", KNOB_KIND_WORD, "off,on", 0, 1, "off on",
        "O_DIRECT of fastload and eager-multi: off, on (off,on)" },
    [KNOB_IO] = { "io", KNOB_KIND_WORD, "auto", 0, 2, "auto io_uring preadv",
        "read backend of fastload: auto, io_uring, preadv (auto)" },
    [KNOB_REPLAY] = { "replay", KNOB_KIND_WORD, "off", 0, 1, "off on",
        "fastload records a working set first, and replays it: off, on "
        "(off)" },
};

#define OPTION_UNSET INT_MIN

/* Options of the command line, as strings. */
static struct PlanOptions {
    char *lists[KNOB_COUNT];
    char *contenders;
    char *baseline;
    char *snapshot;
    char *folder;
    char *trace;
    char **also;             /* one scenario each; NULL: none */
    int repeat_count;
    int warmup_count;
    int timeout_s;
    int limit_s;
    gboolean is_quick;
} options = { .repeat_count = 5, .warmup_count = OPTION_UNSET,
              .timeout_s = 300, .limit_s = OPTION_UNSET };

/* The contenders of --quick, unless others are named. */
#define QUICK_CONTENDERS "eager,two-thread,mmap-ahead,fastload"
#define QUICK_LIMIT_S 50
static const char *const quick_initial[KNOB_COUNT] = {
    [KNOB_SIZE] = "256M",
    [KNOB_WINDOW] = "250ms",
    [KNOB_DIRECT] = "off",
};

/* The most common knobs, for --help; --help-knobs shows all. */
static const char *const plan_common[] = {
    "size", "cache", "storage", "readahead", "pattern", "working-set",
    "vcpus", "clones", "threads", "direct", "replay", NULL,
};

const char *plan_knob_name(KnobId knob)
{
    return knobs[knob].name;
}

bool plan_knob_has_list(const Plan *plan, KnobId knob)
{
    return plan->values[knob]->len > 1;
}

/* Parses "none", for sizes and shares that may be without limit. */
static bool plan_parse_none(const Knob *knob, const char *text,
                            uint64_t *ret_value)
{
    if (g_strcmp0(text, knob->words)) {
        return false;
    }
    *ret_value = KNOB_NONE;
    return true;
}

static bool plan_parse_value(const Knob *knob, const char *text,
                             uint64_t *ret_value)
{
    g_auto(GStrv) words = g_strsplit(knob->words ? knob->words : "", " ", -1);
    uint32_t i;

    switch (knob->kind) {
    case KNOB_KIND_BYTES:
        return plan_parse_none(knob, text, ret_value) ||
               text_parse_size(text, ret_value);
    case KNOB_KIND_NS:
        if (!g_strcmp0(text, knob->words)) {
            *ret_value = THINK_RECORDED;
            return true;
        }
        return text_parse_ns(text, ret_value);
    case KNOB_KIND_COUNT:
        return g_ascii_string_to_unsigned(text, 10, 0, UINT64_MAX, ret_value,
                                          NULL);
    case KNOB_KIND_SHARE:
        return plan_parse_none(knob, text, ret_value) ||
               text_parse_share(text, ret_value);
    case KNOB_KIND_WORD:
        for (i = 0; words[i] && i <= knob->max; i++) {
            if (!strcmp(words[i], text)) {
                *ret_value = i;
                return true;
            }
        }
        return false;
    case KNOB_KIND_STORAGE:
        return storage_class_parse(text, ret_value);
    case KNOB_KIND_AHEAD:
        if (!strcmp(text, "as-is")) {
            *ret_value = 0;
            return true;
        }
        /* The kernel counts in pages; no read-ahead at all is not offered. */
        return text_parse_size(text, ret_value) && *ret_value &&
               *ret_value % BENCH_PAGE_BYTES == 0;
    }
    return false;
}

static char *plan_number_text(double number, const char *unit)
{
    char digits[G_ASCII_DTOSTR_BUF_SIZE];

    return g_strdup_printf("%s%s", g_ascii_formatd(digits, sizeof(digits),
                                                   "%.10g", number), unit);
}

/* Exact, unlike GLib's function: labels of two values must differ. */
static char *plan_scaled_text(double number, const char *const *units,
                              double step)
{
    while (number >= step && units[1]) {
        number /= step;
        units++;
    }
    return plan_number_text(number, *units);
}

char *plan_knob_text(KnobId id, uint64_t value)
{
    static const char *const sizes[] = { " B", " KiB", " MiB", " GiB",
                                         " TiB", NULL };
    static const char *const times[] = { " ns", " us", " ms", " s", NULL };
    const Knob *knob = &knobs[id];

    if (knob->words && knob->kind != KNOB_KIND_WORD && value == KNOB_NONE) {
        return g_strdup(knob->words);
    }
    switch (knob->kind) {
    case KNOB_KIND_STORAGE:
        return storage_class_text(value);
    case KNOB_KIND_AHEAD:
        if (!value) {
            return g_strdup("as is");
        }
        return plan_scaled_text(value, sizes, 1024);
    case KNOB_KIND_BYTES:
        return plan_scaled_text(value, sizes, 1024);
    case KNOB_KIND_NS:
        return knob->words && value == THINK_RECORDED
            ? g_strdup(knob->words) : plan_scaled_text(value, times, 1000);
    case KNOB_KIND_SHARE:
        return plan_number_text(value / 1e4, " %");
    case KNOB_KIND_WORD: {
        g_auto(GStrv) words = g_strsplit(knob->words, " ", -1);

        return g_strdup(words[value]);
    }
    case KNOB_KIND_COUNT:
        break;
    }
    return g_strdup_printf("%" PRIu64, value);
}

static const char *const plan_expected[] = {
    [KNOB_KIND_BYTES] = "a size, as in 64M",
    [KNOB_KIND_NS] = "a time with its unit, as in 20us",
    [KNOB_KIND_COUNT] = "a whole number",
    [KNOB_KIND_SHARE] = "a share, as in 0.25 or 25%",
    [KNOB_KIND_WORD] = "one of: ",
    [KNOB_KIND_STORAGE] = "file, nvme, ssd, network, object, or times and a "
                          "rate with units, as in "
                          "rtt=1ms,rate=2G,jitter=0.2ms, also with fast=1% "
                          "and first=1 (a share, and a count, of reads that "
                          "take 60 us)",
    [KNOB_KIND_AHEAD] = "as-is, or a size in whole pages, as in 128K",
};

static bool plan_list_has(const GArray *values, uint64_t value)
{
    guint i;

    for (i = 0; i < values->len; i++) {
        if (g_array_index(values, uint64_t, i) == value) {
            return true;
        }
    }
    return false;
}

/* Describes the values of @knob. */
static char *plan_expected_text(const Knob *knob)
{
    g_auto(GStrv) words = g_strsplit(knob->words ? knob->words : "", " ", -1);
    g_autofree char *list = NULL;

    if (knob->words && g_strv_length(words) > knob->max + 1) {
        /* The last word is for internal use. */
        g_clear_pointer(&words[knob->max + 1], g_free);
    }
    list = g_strjoinv(", ", words);
    return g_strconcat(plan_expected[knob->kind], knob->words &&
                       knob->kind != KNOB_KIND_WORD ? ", or " : "", list,
                       NULL);
}

static GArray *plan_parse_list(KnobId id, const char *text, GError **error)
{
    const Knob *knob = &knobs[id];
    g_autoptr(GArray) values = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_auto(GStrv) items = knob->kind == KNOB_KIND_STORAGE
        ? storage_class_split(text) : g_strsplit(text, ",", -1);
    uint32_t i;

    for (i = 0; items[i]; i++) {
        uint64_t value;

        g_strstrip(items[i]);
        if (!plan_parse_value(knob, items[i], &value)) {
            g_autofree char *expected = plan_expected_text(knob);

            if (knob->kind == KNOB_KIND_STORAGE) {
                g_strdelimit(items[i], "+", ','); /* as it was written */
            }
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--%s: '%s' is not %s", knob->name, items[i],
                        expected);
            return NULL;
        }
        if ((value < knob->min || value > knob->max) &&
            !(knob->words && value == THINK_RECORDED)) {
            g_autofree char *least = plan_knob_text(id, knob->min);
            g_autofree char *most = plan_knob_text(id, knob->max);

            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--%s: '%s' is not from %s to %s", knob->name,
                        items[i], least, most);
            return NULL;
        }
        if (plan_list_has(values, value)) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--%s: '%s' is there twice", knob->name, items[i]);
            return NULL;
        }
        g_array_append_val(values, value);
    }
    if (!values->len) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--%s needs a value; see --help", knob->name);
        return NULL;
    }
    return g_steal_pointer(&values);
}

void plan_add_options(GOptionContext *context)
{
    static GOptionEntry others[] = {
        { "contenders", 'c', 0, G_OPTION_ARG_STRING, &options.contenders,
          "who takes part (all but the extra ones)", "LIST" },
        { "baseline", 'b', 0, G_OPTION_ARG_STRING, &options.baseline,
          "whom ratios refer to (eager, or the first)", "NAME" },
        { "repeat", 'n', 0, G_OPTION_ARG_INT, &options.repeat_count,
          "rounds that count (5)", "N" },
        { "warmup", 0, 0, G_OPTION_ARG_INT, &options.warmup_count,
          "rounds before them, that do not count (1)", "N" },
        { "timeout", 0, 0, G_OPTION_ARG_INT, &options.timeout_s,
          "kill a run after so many seconds (300)", "S" },
        { "time-limit", 0, 0, G_OPTION_ARG_INT, &options.limit_s,
          "start no round that would end after so many seconds (none)", "S" },
        { "snapshot", 's', 0, G_OPTION_ARG_FILENAME, &options.snapshot,
          "a mapped-ram file, instead of a generated one", "FILE" },
        { "dir", 0, 0, G_OPTION_ARG_FILENAME, &options.folder,
          "where to generate; nothing is left behind (/var/tmp)", "DIR" },
        { "also", 0, 0, G_OPTION_ARG_STRING_ARRAY, &options.also,
          "one more scenario, as in 'cache=cold vcpus=4'; may be repeated",
          "KNOBS" },
        { "trace", 0, 0, G_OPTION_ARG_FILENAME, &options.trace,
          "replay these touches: [BLOCK] OFFSET [r|w] [@SECONDS], one a line",
          "FILE" },
        { "quick", 0, 0, G_OPTION_ARG_NONE, &options.is_quick,
          "a look in less than a minute: little data, few contenders", NULL },
        G_OPTION_ENTRY_NULL
    };
    static GOptionEntry entries[KNOB_COUNT + 1], common[KNOB_COUNT + 1];
    GOptionGroup *group = g_option_group_new(
        "knobs", "Knobs, each of them takes a list, as in --threads 1,2,4:",
        "Show all knobs", NULL, NULL);
    uint32_t common_count = 0;
    KnobId i;

    for (i = 0; i < KNOB_COUNT; i++) {
        entries[i] = (GOptionEntry) {
            .long_name = knobs[i].name,
            .arg = G_OPTION_ARG_STRING,
            .arg_data = &options.lists[i],
            .description = knobs[i].help,
            .arg_description = "LIST",
        };
        if (g_strv_contains(plan_common, knobs[i].name)) {
            common[common_count++] = entries[i];
        }
        /* Keeps its name, although --help-all shows some options twice. */
        entries[i].flags = G_OPTION_FLAG_NOALIAS;
    }
    g_option_group_add_entries(group, entries);
    g_option_context_add_main_entries(context, common, NULL);
    g_option_context_add_main_entries(context, others, NULL);
    g_option_context_add_group(context, group);
}

static bool plan_parse_loaders(Plan *plan, GError **error)
{
    const char *wanted = options.contenders ? options.contenders
                       : options.is_quick ? QUICK_CONTENDERS : NULL;
    g_auto(GStrv) names = g_strsplit(wanted ? wanted : "", ",", -1);
    uint32_t i;
    guint at;

    /* Progress is relative to null, so it always takes part. */
    g_ptr_array_add(plan->loaders, (void *)&loader_null);
    for (i = 0; !wanted && bench_loaders[i]; i++) {
        if (bench_loaders[i] != &loader_null && !bench_loaders[i]->is_extra) {
            g_ptr_array_add(plan->loaders, (void *)bench_loaders[i]);
        }
    }
    for (i = 0; names[i]; i++) {
        const BenchLoader *loader = bench_loader_by_name(g_strstrip(names[i]));

        if (!loader) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "there is no contender '%s'; --help names them",
                        names[i]);
            return false;
        }
        if (g_ptr_array_find(plan->loaders, loader, &at) && at) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--contenders: '%s' is there twice", names[i]);
            return false;
        }
        if (loader != &loader_null) {
            g_ptr_array_add(plan->loaders, (void *)loader);
        }
    }
    if (options.contenders && !names[0]) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--contenders needs a name; --help has them all");
        return false;
    }
    plan->baseline = plan->loaders->pdata[plan->loaders->len > 1];
    if (g_ptr_array_find(plan->loaders, &loader_eager, NULL)) {
        plan->baseline = &loader_eager;
    }
    if (options.baseline) {
        plan->baseline = bench_loader_by_name(options.baseline);
        if (!plan->baseline ||
            !g_ptr_array_find(plan->loaders, plan->baseline, NULL)) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--baseline: '%s' does not take part",
                        options.baseline);
            return false;
        }
    }
    return true;
}

static bool plan_check_options(GError **error)
{
    const struct {
        const char *name;
        int value, min, max;
    } limits[] = {
        { "repeat", options.repeat_count, 1, BENCH_REPEAT_COUNT_MAX },
        { "warmup", options.warmup_count, 0, BENCH_REPEAT_COUNT_MAX },
        { "timeout", options.timeout_s, 1, 86400 },
        { "time-limit", options.limit_s, 0, 86400 },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(limits); i++) {
        if (limits[i].value < limits[i].min ||
            limits[i].value > limits[i].max) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--%s: %d is not from %d to %d", limits[i].name,
                        limits[i].value, limits[i].min, limits[i].max);
            return false;
        }
    }
    for (i = KNOB_WORK_FIRST; i < KNOB_SCENARIO_FIRST; i++) {
        if (options.snapshot && options.lists[i] && i != KNOB_SEED) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--%s is for generated snapshots, and --snapshot "
                        "names one: leave one of them out", knobs[i].name);
            return false;
        }
    }
    if (options.snapshot && options.lists[KNOB_SEED] &&
        strchr(options.lists[KNOB_SEED], ',')) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--seed takes one value with --snapshot: a list is for "
                    "generated snapshots");
        return false;
    }
    if (options.trace && options.lists[KNOB_PATTERN]) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--trace and --pattern both say what the guest touches: "
                    "leave one of them out");
        return false;
    }
    return true;
}

bool plan_parse_options(GOptionContext *context, int *argc, char ***argv,
                        GError **error)
{
    if (g_option_context_parse(context, argc, argv, error)) {
        return true;
    }
    /* GLib's errors are all about usage, and do not mention --help. */
    if (error) {
        g_autofree char *text = (*error)->message;

        (*error)->message = g_strconcat(text, "; see --help", NULL);
        (*error)->domain = BENCH_ERROR;
        (*error)->code = BENCH_ERROR_USAGE;
    }
    return false;
}

/* @loader_bits 0: all loaders. */
static void plan_add_scenario(Plan *plan, const KnobValues values,
                              uint64_t loader_bits)
{
    PlanScenario *scenario = g_new(PlanScenario, 1);

    memcpy(scenario->values, values, sizeof(scenario->values));
    scenario->loader_bits = loader_bits ? loader_bits : UINT64_MAX;
    g_ptr_array_add(plan->scenarios, scenario);
}

static void plan_add_product(Plan *plan)
{
    KnobValues values = { 0 };

    plan_first(plan, KNOB_SCENARIO_FIRST, KNOB_VARIANT_FIRST, values);
    do {
        plan_add_scenario(plan, values, 0);
    } while (plan_next(plan, KNOB_SCENARIO_FIRST, KNOB_VARIANT_FIRST,
                       values));
}

/* The loaders of the plan that @list names, and always null and baseline. */
static bool plan_parse_also_contenders(const Plan *plan, const char *list,
                                       uint64_t *ret_bits, GError **error)
{
    g_auto(GStrv) names = g_strsplit(list, ",", -1);
    uint64_t bits = 1;
    uint32_t i;
    guint at;

    for (i = 0; names[i]; i++) {
        const BenchLoader *loader = bench_loader_by_name(names[i]);

        if (!loader || !g_ptr_array_find(plan->loaders, loader, &at)) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--also: '%s' is none of the contenders: name it in "
                        "--contenders as well", names[i]);
            return false;
        }
        bits |= 1ull << at;
    }
    if (!g_ptr_array_find(plan->loaders, plan->baseline, &at) ||
        !(bits >> at & 1)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--also: ratios are to %s, which has to be one of its "
                    "contenders", plan->baseline->name);
        return false;
    }
    *ret_bits = bits;
    return true;
}

/* Parses one "KNOB=VALUE" into @values. */
static bool plan_parse_also_knob(const char *text, KnobValues values,
                                 GError **error)
{
    const char *value = strchr(text, '=');
    g_autofree char *name = value ? g_strndup(text, value - text) : NULL;
    g_autoptr(GArray) list = NULL;
    KnobId i;

    for (i = KNOB_SCENARIO_FIRST; name && i < KNOB_VARIANT_FIRST; i++) {
        if (strcmp(knobs[i].name, name)) {
            continue;
        }
        list = plan_parse_list(i, value + 1, error);
        if (!list) {
            g_prefix_error(error, "--also: ");
            return false;
        }
        if (list->len > 1) {
            break;
        }
        values[i] = g_array_index(list, uint64_t, 0);
        return true;
    }
    g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                "--also: '%s' is not KNOB=VALUE with a knob that all "
                "contenders share, as in cache=cold", text);
    return false;
}

static bool plan_has_scenario(const Plan *plan, const KnobValues values)
{
    guint i;

    for (i = 0; i < plan->scenarios->len; i++) {
        const PlanScenario *other = plan->scenarios->pdata[i];

        if (!memcmp(other->values, values, sizeof(other->values))) {
            return true;
        }
    }
    return false;
}

/* Adds a scenario: the first value of each knob that @text does not set. */
static bool plan_add_also(Plan *plan, const char *text, GError **error)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    const char *const contenders = "contenders=";
    KnobValues values = { 0 };
    uint64_t loader_bits = 0;
    uint32_t i;

    plan_first(plan, KNOB_SCENARIO_FIRST, KNOB_VARIANT_FIRST, values);
    for (i = 0; words[i]; i++) {
        if (*words[i] &&
            !(g_str_has_prefix(words[i], contenders)
              ? plan_parse_also_contenders(plan, words[i] +
                                           strlen(contenders), &loader_bits,
                                           error)
              : plan_parse_also_knob(words[i], values, error))) {
            return false;
        }
    }
    if (plan_has_scenario(plan, values)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--also: '%s' is measured already: leave it out", text);
        return false;
    }
    plan_add_scenario(plan, values, loader_bits);
    return true;
}

/* --think recorded needs a trace, which has the times. */
static bool plan_check_think(const Plan *plan, GError **error)
{
    guint i;

    for (i = 0; i < plan->scenarios->len && !options.trace; i++) {
        const PlanScenario *scenario = plan->scenarios->pdata[i];

        if (scenario->values[KNOB_THINK] == THINK_RECORDED) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--think: 'recorded' takes the times of a trace: "
                        "name one with --trace, or choose a time");
            return false;
        }
    }
    return true;
}

static const char *plan_initial(KnobId knob)
{
    return options.is_quick && quick_initial[knob] ? quick_initial[knob]
                                                   : knobs[knob].initial;
}

Plan *plan_parse(int *argc, char ***argv, GOptionContext *context,
                 GError **error)
{
    g_autoptr(Plan) plan = g_new0(Plan, 1);
    uint64_t trace = PATTERN_TRACE;
    KnobId i;

    plan->loaders = g_ptr_array_new();
    plan->scenarios = g_ptr_array_new_with_free_func(g_free);
    if (!plan_parse_options(context, argc, argv, error)) {
        return NULL;
    }
    if (options.warmup_count == OPTION_UNSET) {
        options.warmup_count = options.is_quick ? 0 : 1;
    }
    if (options.limit_s == OPTION_UNSET) {
        options.limit_s = options.is_quick ? QUICK_LIMIT_S : 0;
    }
    for (i = 0; i < KNOB_COUNT; i++) {
        plan->values[i] = plan_parse_list(i, options.lists[i]
                                          ? options.lists[i]
                                          : plan_initial(i), error);
        if (!plan->values[i]) {
            return NULL;
        }
    }
    if (!plan_parse_loaders(plan, error) || !plan_check_options(error)) {
        return NULL;
    }
    if (options.trace) {
        g_array_set_size(plan->values[KNOB_PATTERN], 0);
        g_array_append_val(plan->values[KNOB_PATTERN], trace);
    }
    plan_add_product(plan);
    for (i = 0; options.also && options.also[i]; i++) {
        if (!plan_add_also(plan, options.also[i], error)) {
            return NULL;
        }
    }
    if (!plan_check_think(plan, error)) {
        return NULL;
    }
    plan->is_contenders_named = options.contenders;
    plan->is_direct_named = options.lists[KNOB_DIRECT] &&
                            plan_list_has(plan->values[KNOB_DIRECT], 1);
    plan->repeat_count = options.repeat_count;
    plan->warmup_count = options.warmup_count;
    plan->timeout_ns = options.timeout_s * SECOND_NS;
    plan->limit_ns = options.limit_s * SECOND_NS;
    plan->is_quick = options.is_quick;
    plan->snapshot_path = g_strdup(options.snapshot);
    plan->folder = g_strdup(options.folder ? options.folder : "/var/tmp");
    plan->trace_path = g_strdup(options.trace);
    return g_steal_pointer(&plan);
}

void plan_set_scenario(const Plan *plan, uint32_t idx, KnobValues values)
{
    const PlanScenario *scenario = plan->scenarios->pdata[idx];
    KnobId i;

    for (i = KNOB_SCENARIO_FIRST; i < KNOB_VARIANT_FIRST; i++) {
        values[i] = scenario->values[i];
    }
}

void plan_free(Plan *plan)
{
    KnobId i;

    if (!plan) {
        return;
    }
    for (i = 0; i < KNOB_COUNT; i++) {
        if (plan->values[i]) {
            g_array_unref(plan->values[i]);
        }
    }
    g_ptr_array_unref(plan->loaders);
    g_ptr_array_unref(plan->scenarios);
    g_free(plan->snapshot_path);
    g_free(plan->folder);
    g_free(plan->trace_path);
    g_free(plan);
}

void plan_first(const Plan *plan, KnobId first, KnobId end, KnobValues values)
{
    KnobId i;

    for (i = first; i < end; i++) {
        values[i] = g_array_index(plan->values[i], uint64_t, 0);
    }
}

bool plan_next(const Plan *plan, KnobId first, KnobId end, KnobValues values)
{
    KnobId i;

    /* Like an odometer: the last knob turns first. */
    for (i = end; i-- > first;) {
        const GArray *list = plan->values[i];
        guint at = 0;

        while (g_array_index(list, uint64_t, at) != values[i]) {
            at++;
        }
        if (at + 1 < list->len) {
            values[i] = g_array_index(list, uint64_t, at + 1);
            return true;
        }
        values[i] = g_array_index(list, uint64_t, 0);
    }
    return false;
}
