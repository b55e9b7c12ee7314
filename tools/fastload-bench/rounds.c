/*
 * fastload-bench: rounds of runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All contenders of a scenario run in turns, A B C A B C, so that disturbances
 * of the machine affect all of them.  Ratios are ratios of medians, since in a
 * ratio of two runs a disturbed one spoils the other.  A run that fails is
 * recorded as a failure, and the rounds go on.  Fails without a snapshot.
 */
#include "bench.h"
#include <math.h>

#define ERROR_COUNT_MAX 5

typedef struct Rounds {
    const Plan *plan;
    const volatile int *is_stopped;
    Lacks lacks;
    Box *box;                /* NULL: no run has a limit */
    char *same_time;         /* when the snapshot was last seen unchanged */
    Progress *progress;
    uint64_t begin_ns;
    uint32_t turns_left;     /* contenders of this scenario and of all that
                              * follow */
    GPtrArray *works;        /* of WorkResult */
    RoundsDone *on_round;
    void *opaque;
} Rounds;

/* ---- who takes part ---- */

static bool rounds_knob_matters(const BenchLoader *loader, KnobId knob)
{
    return (knob == KNOB_THREADS && loader->knobs & LOADER_HAS_THREADS) ||
           (knob == KNOB_DIRECT && loader->knobs & LOADER_HAS_DIRECT) ||
           (knob == KNOB_IO && loader->knobs & LOADER_HAS_IO) ||
           (knob == KNOB_REPLAY && loader->knobs & LOADER_HAS_REPLAY);
}

static char *rounds_label(const Plan *plan, const BenchLoader *loader,
                          const KnobValues values)
{
    GString *label = g_string_new(loader->name);
    KnobId i;

    for (i = KNOB_VARIANT_FIRST; i < KNOB_COUNT; i++) {
        g_autofree char *text = plan_knob_text(i, values[i]);

        if (!rounds_knob_matters(loader, i)) {
            continue;
        }
        if (i == KNOB_DIRECT || i == KNOB_REPLAY) {
            g_string_append_printf(label, "%s%s", values[i] ? " " : "",
                                   values[i] ? plan_knob_name(i) : "");
        } else if (plan_knob_has_list(plan, i)) {
            g_string_append_printf(label, " %s=%s", plan_knob_name(i), text);
        }
    }
    return g_string_free(label, FALSE);
}

static void rounds_contender_free(void *opaque)
{
    Contender *c = opaque;
    uint32_t i;

    for (i = 0; i < MEASURE_COUNT; i++) {
        g_free(c->values[i]);
    }
    figures_faults_clear(&c->faults);
    figures_faults_clear(&c->faults_idle);
    for (i = 0; i < CLONE_FIGURE_COUNT; i++) {
        g_free(c->clone_figures[i]);
    }
    g_ptr_array_unref(c->errors);
    rehearsal_free(c->rehearsal);
    g_free(c->label);
    measure_result_free(c->typical);
    g_free(c);
}

static Contender *rounds_contender_new(const Plan *plan,
                                       const BenchLoader *loader,
                                       const KnobValues values)
{
    Contender *c = g_new0(Contender, 1);
    uint32_t i, round;

    c->variant.loader = loader;
    c->variant.thread_count = values[KNOB_THREADS];
    c->variant.is_direct = values[KNOB_DIRECT] &&
                           (loader->knobs & LOADER_HAS_DIRECT);
    c->variant.io = values[KNOB_IO];
    c->variant.is_replayed = values[KNOB_REPLAY] &&
                             (loader->knobs & LOADER_HAS_REPLAY);
    c->label = rounds_label(plan, loader, values);
    c->errors = g_ptr_array_new_with_free_func(g_free);
    figures_faults_init(&c->faults, plan->repeat_count);
    figures_faults_init(&c->faults_idle, plan->repeat_count);
    for (i = 0; i < MEASURE_COUNT; i++) {
        c->values[i] = g_new(double, plan->repeat_count);
        for (round = 0; round < plan->repeat_count; round++) {
            c->values[i][round] = NAN;
        }
    }
    for (i = 0; i < CLONE_FIGURE_COUNT; i++) {
        c->clone_figures[i] = g_new(double, plan->repeat_count);
        for (round = 0; round < plan->repeat_count; round++) {
            c->clone_figures[i][round] = NAN;
        }
    }
    return c;
}

/* Variants that differ only in knobs that a loader ignores are one. */
static bool rounds_is_known(const GPtrArray *contenders, const char *label)
{
    guint i;

    for (i = 0; i < contenders->len; i++) {
        const Contender *c = contenders->pdata[i];

        if (!strcmp(c->label, label)) {
            return true;
        }
    }
    return false;
}

static void rounds_add_contenders(const Plan *plan, uint64_t loader_bits,
                                  const Lacks *lacks, ScenarioResult *s)
{
    guint i;

    for (i = 0; i < plan->loaders->len; i++) {
        const BenchLoader *loader = plan->loaders->pdata[i];
        KnobValues values = { 0 };

        if (!(loader_bits >> i & 1)) {
            continue;
        }
        plan_first(plan, KNOB_VARIANT_FIRST, KNOB_COUNT, values);
        do {
            g_autofree char *label = rounds_label(plan, loader, values);

            if (lacks_leave_out(lacks, loader, values[KNOB_DIRECT]) ||
                rounds_is_known(s->contenders, label)) {
                continue;
            }
            g_ptr_array_add(s->contenders,
                            rounds_contender_new(plan, loader, values));
            if (loader == plan->baseline && !s->baseline) {
                s->baseline = s->contenders->pdata[s->contenders->len - 1];
            }
        } while (plan_next(plan, KNOB_VARIANT_FIRST, KNOB_COUNT, values));
    }
}

static void rounds_scenario_free(void *opaque)
{
    ScenarioResult *s = opaque;

    g_ptr_array_unref(s->contenders);
    g_ptr_array_unref(s->notes);
    g_array_unref(s->sequential);
    g_free(s);
}

/* The scenario with index @idx, and what @values has of the work. */
static ScenarioResult *rounds_scenario_new(const Plan *plan, uint32_t idx,
                                           const Lacks *lacks,
                                           KnobValues values)
{
    const PlanScenario *scenario = plan->scenarios->pdata[idx];
    ScenarioResult *s = g_new0(ScenarioResult, 1);

    plan_set_scenario(plan, idx, values);
    memcpy(s->values, values, sizeof(s->values));
    s->contenders = g_ptr_array_new_with_free_func(rounds_contender_free);
    s->notes = g_ptr_array_new_with_free_func(g_free);
    s->sequential = g_array_new(FALSE, FALSE, sizeof(double));
    rounds_add_contenders(plan, scenario->loader_bits, lacks, s);
    return s;
}

void rounds_work_free(void *opaque)
{
    WorkResult *work = opaque;

    g_ptr_array_unref(work->scenarios);
    g_free(work->label);
    g_free(work->fingerprint);
    g_free(work);
}

/* ---- the result of a run ---- */

typedef struct Round {
    const Snapshot *snapshot;
    const PageSums *sums;
    Scenario scenario;
    ScenarioResult *result;
    int32_t idx;             /* below 0: warm-up */
    double sequential;       /* rate of the storage in this round; 0: unknown */
} Round;

static double rounds_or_nan(uint64_t value)
{
    return value ? (double)value : NAN;
}

/* The time by which runs are sorted: until loaded, or else until worked. */
static double rounds_key(const Contender *c, uint32_t round)
{
    double load = c->values[MEASURE_LOAD][round];

    return isnan(load) ? c->values[MEASURE_WORK][round] : load;
}

/* Keeps the run that is nearest to the median so far. */
static void rounds_keep_typical(Contender *c, uint32_t round,
                                RunResult **result)
{
    g_autofree double *keys = g_new(double, round + 1);
    double least, most, median, kept;
    RunResult *other = c->typical;
    uint32_t i;

    for (i = 0; i <= round; i++) {
        keys[i] = rounds_key(c, i);
    }
    median = figures_median(keys, round + 1, &least, &most);
    kept = !other ? NAN : other->load_ns ? other->load_ns : other->work_ns;
    if (!other || fabs(keys[round] - median) <= fabs(kept - median)) {
        c->typical = *result;
        *result = other ? other : measure_result_new();
    }
}

/*
 * Has the kernel counted no bytes although something was read?  It does not
 * count for some file systems (FUSE, tmpfs).
 */
static bool rounds_is_uncounted(const Round *round, const Contender *c,
                                const RunResult *r)
{
    return !r->read_bytes && round->snapshot->data_bytes &&
           c->variant.loader != &loader_null &&
           (round->scenario.cache == CACHE_COLD || c->variant.is_direct);
}

static void rounds_keep(const Round *round, Contender *c, RunResult **result)
{
    const Snapshot *snapshot = round->snapshot;
    const RunResult *r = *result;
    double values[MEASURE_COUNT] = {
        [MEASURE_RUN] = r->run_ns,
        [MEASURE_WORK] = rounds_or_nan(r->work_ns),
        [MEASURE_LOAD] = c->variant.loader == &loader_null
            ? NAN : rounds_or_nan(r->load_ns),
        [MEASURE_PROGRESS] = r->request_touch_count,
        [MEASURE_PROGRESS_RUNNING] = rounds_or_nan(r->window_touch_count),
        [MEASURE_WAITED] = r->waited_ns,
        [MEASURE_CPU] = r->cpu_ns,
        [MEASURE_RSS_PEAK] = r->rss_peak_bytes,
        [MEASURE_RSS_END] = r->rss_end_bytes,
        [MEASURE_PAGE_TABLE] = r->page_table_bytes,
        [MEASURE_HUGE] = r->huge_bytes,
        [MEASURE_HUGE_SHARE] = snapshot->data_bytes
            ? MIN((double)r->huge_bytes / snapshot->data_bytes, 1) : NAN,
        [MEASURE_SPEED] = r->speed > 0 ? r->speed : NAN,
        [MEASURE_READ] = rounds_is_uncounted(round, c, r)
            ? NAN : r->read_bytes,
        [MEASURE_CACHED] = r->cached_bytes == STORAGE_CACHED_UNKNOWN
            ? NAN : r->cached_bytes,
        [MEASURE_PAGE_CACHE] = c->variant.loader == &loader_null ||
                               r->page_cache_bytes == STORAGE_CACHED_UNKNOWN
            ? NAN : r->page_cache_bytes,
    };
    uint32_t i;

    values[MEASURE_DEVICE_SHARE] = round->sequential > 0
        ? snapshot->data_bytes * 1e9 / values[MEASURE_LOAD] /
          round->sequential : NAN;
    for (i = 0; i < MEASURE_COUNT; i++) {
        c->values[i][round->idx] = values[i];
    }
    for (i = 0; i < CLONE_FIGURE_COUNT && r->clone_count; i++) {
        /* Clones of null are loaded before the clock starts. */
        c->clone_figures[i][round->idx] =
            i == CLONE_DEVICE_READ && c->variant.loader == &loader_null
            ? NAN : r->clone_figures[i];
    }
    c->run_count++;
    figures_faults_add(&c->faults, round->idx, &r->faults);
    /* A loader without background is never disturbed by it. */
    figures_faults_add(&c->faults_idle, round->idx,
                       c->variant.loader->has_end ? &r->faults_idle
                                                  : &r->faults);
    g_strlcpy(c->io_name, r->io_name, sizeof(c->io_name));
    if (*r->io_fallback) {
        g_strlcpy(c->io_fallback, r->io_fallback, sizeof(c->io_fallback));
    }
    rounds_keep_typical(c, round->idx, result);
}

static void rounds_note_failure(const Rounds *rounds, Contender *c,
                                const char *text)
{
    g_autofree char *line = NULL;

    c->failed_count++;
    if (c->errors->len < ERROR_COUNT_MAX) {
        g_ptr_array_add(c->errors, g_strdup(text));
    }
    progress_clear(rounds->progress);
    line = g_strdup_printf("%s: %s", c->label, text);
    text_print_error(line);
}

/* ---- runs ---- */

/* Is the snapshot unchanged since it was opened? */
static bool rounds_check_same(Rounds *rounds, const Snapshot *snapshot,
                              GError **error)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();

    /* A generated file has no name by which it could be changed. */
    if (!rounds->plan->snapshot_path || snapshot_is_same(snapshot)) {
        g_free(rounds->same_time);
        rounds->same_time = g_date_time_format(now, "%H:%M:%S");
        return true;
    }
    g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                "%s changed while it was measured: nothing that was measured "
                "after %s counts; measure again while nobody writes to it",
                snapshot->label, rounds->same_time);
    return false;
}

/* False when it was stopped.  A failure is the failure of the run. */
static bool rounds_measure(Rounds *rounds, Contender *c,
                           const MeasureConfig *config, RunResult *result)
{
    g_autoptr(GError) error = NULL;

    if (rehearsal_is_needed(&c->variant) && !c->rehearsal) {
        c->rehearsal = rehearsal_new(config, rounds->plan->folder,
                                     progress_tick, rounds->progress, result,
                                     &error);
        if (error) {
            result->is_ok = false;
            g_strlcpy(result->error, error->message, sizeof(result->error));
            return true;
        }
        if (!c->rehearsal) {
            return false;
        }
        c->variant.rehearsal = c->rehearsal;
    }
    return measure_run(config, progress_tick, rounds->progress, result);
}

/* False when it was stopped, or with an error when nothing counts any more. */
static bool rounds_one_run(Rounds *rounds, const Round *round, Contender *c,
                           RunResult **result, GError **error)
{
    MeasureConfig config = {
        .snapshot = round->snapshot,
        .sums = round->sums,
        .scenario = &round->scenario,
        .variant = &c->variant,
        .timeout_ns = rounds->plan->timeout_ns,
        .box = rounds->box,
        .is_watched = rounds->plan->snapshot_path,
        .is_stopped = rounds->is_stopped,
    };

    progress_begin_run(rounds->progress, c->label);
    if (!rounds_measure(rounds, c, &config, *result) ||
        !rounds_check_same(rounds, round->snapshot, error)) {
        return false;
    }
    if (!(*result)->is_ok) {
        rounds_note_failure(rounds, c, (*result)->error);
    } else if (round->idx >= 0) {
        rounds_keep(round, c, result);
        if (!*result) {
            /* Only if there is no memory for it. */
            return false;
        }
    }
    progress_end_run(rounds->progress);
    return true;
}

static void rounds_tell_round(const Rounds *rounds, const Round *round)
{
    const char *cache = round->scenario.cache == CACHE_COLD ? "cold" : "warm";
    g_autofree char *text = round->idx < 0
        ? g_strdup_printf("%s, warm-up", cache)
        : g_strdup_printf("%s, round %d of %u", cache, round->idx + 1,
                          rounds->plan->repeat_count);

    progress_begin_round(rounds->progress, text);
}

/* Measures the device; a failure does not matter for the runs. */
static void rounds_measure_storage(Round *round)
{
    ScenarioResult *s = round->result;
    g_autoptr(GError) error = NULL;
    StorageRates rates;

    if (!storage_measure(round->snapshot, round->idx,
                         MIN(round->scenario.window_ns, STORAGE_RAW_NS),
                         &rates, &error)) {
        notes_add(s->notes, "device: unknown, for %s", error->message);
        return;
    }
    round->sequential = rates.sequential_bytes_per_s;
    g_array_append_val(s->sequential, rates.sequential_bytes_per_s);
    hist_merge(&s->random_4k, &rates.random_4k);
}

static bool rounds_one_round(Rounds *rounds, Round *round,
                             RunResult **result, GError **error)
{
    ScenarioResult *s = round->result;
    GError *run_error = NULL;
    guint i;

    rounds_tell_round(rounds, round);
    round->sequential = 0;
    if (round->scenario.cache == CACHE_COLD && round->idx >= 0 &&
        !rounds->lacks.has_no_direct) {
        rounds_measure_storage(round);
    }
    for (i = 0; i < s->contenders->len; i++) {
        if (!rounds_one_run(rounds, round, s->contenders->pdata[i],
                            result, &run_error)) {
            break;
        }
    }
    if (run_error) {
        g_propagate_error(error, run_error);
        return false;
    }
    return true;
}

static uint64_t rounds_limit(uint64_t value)
{
    return value == KNOB_NONE ? 0 : value;
}

static void rounds_fill_scenario(const Plan *plan, const KnobValues values,
                                 Scenario *scenario)
{
    *scenario = (Scenario) {
        .cache = values[KNOB_CACHE],
        .pattern = values[KNOB_PATTERN],
        .vcpu_count = values[KNOB_VCPUS],
        .clone_count = values[KNOB_CLONES],
        .think_ns = values[KNOB_THINK],
        .write_share = values[KNOB_WRITE_SHARE] / 1e6,
        .working_set_bytes = values[KNOB_WORKING_SET],
        .window_ns = values[KNOB_WINDOW],
        .cpu_quota = rounds_limit(values[KNOB_CPU_QUOTA]),
        .memory_max_bytes = rounds_limit(values[KNOB_MEMORY_MAX]),
        .is_pretouched = values[KNOB_MEMORY] == 0,
        .seed = values[KNOB_SEED],
        .trace_path = plan->trace_path,
    };
}

/* Does one more round fit into the time left for this scenario? */
static bool rounds_have_time(const Rounds *rounds, uint64_t end_ns,
                             uint64_t last_round_ns)
{
    return !rounds->plan->limit_ns ||
           bench_now_ns() + last_round_ns <= end_ns;
}

/* Divides the time left among scenarios, by their number of contenders. */
static uint64_t rounds_end_ns(const Rounds *rounds, const ScenarioResult *s)
{
    uint64_t limit_ns = rounds->begin_ns + rounds->plan->limit_ns;
    uint64_t now_ns = bench_now_ns();

    return now_ns + (limit_ns - MIN(limit_ns, now_ns)) * s->contenders->len /
                    MAX(rounds->turns_left, 1);
}

static bool rounds_run_scenario(Rounds *rounds, const Snapshot *snapshot,
                                const PageSums *sums, ScenarioResult *s,
                                GError **error)
{
    const Plan *plan = rounds->plan;
    Round round = { .snapshot = snapshot, .sums = sums, .result = s };
    RunResult *result = measure_result_new();
    uint64_t end_ns = rounds_end_ns(rounds, s), last_round_ns = 0;
    bool is_right;
    guint i;

    rounds_fill_scenario(plan, s->values, &round.scenario);
    is_right = !rounds->box ||
               box_set(rounds->box, round.scenario.cpu_quota,
                       round.scenario.memory_max_bytes, error);
    for (round.idx = -(int32_t)plan->warmup_count;
         round.idx < (int32_t)plan->repeat_count && is_right &&
         result && !*rounds->is_stopped; round.idx++) {
        uint64_t round_ns = bench_now_ns();

        if (round.idx > 0 && !rounds_have_time(rounds, end_ns,
                                               last_round_ns)) {
            progress_skip(rounds->progress, s->contenders->len *
                          (plan->repeat_count - round.idx));
            break;
        }
        s->round_count += round.idx >= 0;
        is_right = rounds_one_round(rounds, &round, &result, error);
        if (round.idx >= 0 && is_right && result && !*rounds->is_stopped) {
            progress_clear(rounds->progress);
            rounds->on_round(rounds->works, rounds->opaque);
        }
        last_round_ns = bench_now_ns() - round_ns;
    }
    if (is_right && !result) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "no memory for the result of a run");
        is_right = false;
    }
    measure_result_free(result);
    for (i = 0; i < s->contenders->len; i++) {
        Contender *c = s->contenders->pdata[i];

        if (c->rehearsal) {
            rehearsal_close(c->rehearsal);
        }
    }
    return is_right;
}

static bool rounds_is_simulated(const KnobValues values)
{
    return values[KNOB_STORAGE] || values[KNOB_READAHEAD];
}

/* Checks before any run that simulated storage works on this machine. */
static bool rounds_check_storage(const Plan *plan, GError **error)
{
    KnobValues values = { 0 };
    guint i;

    for (i = 0; i < plan->scenarios->len; i++) {
        plan_set_scenario(plan, i, values);
        if (rounds_is_simulated(values) &&
            !storage_mount_check(storage_class_get(values[KNOB_STORAGE]),
                                 values[KNOB_READAHEAD], error)) {
            return false;
        }
    }
    return true;
}

/* Runs with the snapshot on the storage of the scenario. */
static bool rounds_run_stored(Rounds *rounds, const Snapshot *snapshot,
                              const PageSums *sums, ScenarioResult *s,
                              GError **error)
{
    StorageMount *mount = NULL;
    bool is_right;

    if (rounds_is_simulated(s->values)) {
        mount = storage_mount_new(snapshot,
                                  storage_class_get(s->values[KNOB_STORAGE]),
                                  s->values[KNOB_READAHEAD],
                                  s->values[KNOB_SEED], error);
        if (!mount) {
            return false;
        }
        snapshot = storage_mount_snapshot(mount);
    }
    is_right = rounds_run_scenario(rounds, snapshot, sums, s, error);
    storage_mount_free(mount);
    return is_right;
}

/* Checks before any run that the guest is possible. */
static bool rounds_check_guest(const Plan *plan, const Snapshot *snapshot,
                               const KnobValues values, GError **error)
{
    Scenario scenario;
    Guest *guest;

    if (!lacks_check_memory(snapshot->label, snapshot->guest_bytes,
                            values[KNOB_CLONES], error)) {
        return false;
    }
    rounds_fill_scenario(plan, values, &scenario);
    guest = guest_new(snapshot, &scenario, 1, error);
    guest_free(guest);
    return guest;
}

static bool rounds_run_work(Rounds *rounds, const Snapshot *snapshot,
                            KnobValues values, GError **error)
{
    const Plan *plan = rounds->plan;
    WorkResult *work;
    PageSums *sums;
    bool is_right = true;
    guint i;

    if (!lacks_find_direct(plan, snapshot, &rounds->lacks, error)) {
        return false;
    }
    for (i = 0; i < plan->scenarios->len; i++) {
        plan_set_scenario(plan, i, values);
        if (!rounds_check_guest(plan, snapshot, values, error)) {
            return false;
        }
    }
    sums = rounds_check_same(rounds, snapshot, error)
        ? memory_sums_new(snapshot, error) : NULL;
    if (!sums) {
        return false;
    }
    work = g_new0(WorkResult, 1);
    work->label = g_strdup(snapshot->label);
    work->is_generated = !plan->snapshot_path;
    memcpy(work->values, values, sizeof(work->values));
    work->len_bytes = snapshot->len_bytes;
    work->data_bytes = snapshot->data_bytes;
    work->block_count = snapshot->block_count;
    work->fingerprint = memory_fingerprint(snapshot, sums);
    work->scenarios = g_ptr_array_new_with_free_func(rounds_scenario_free);
    g_ptr_array_add(rounds->works, work);

    for (i = 0; i < plan->scenarios->len && is_right &&
         !*rounds->is_stopped; i++) {
        ScenarioResult *s = rounds_scenario_new(plan, i, &rounds->lacks,
                                                values);

        lacks_add_notes(&rounds->lacks, plan, s->notes);
        g_ptr_array_add(work->scenarios, s);
        is_right = rounds_run_stored(rounds, snapshot, sums, s, error);
        rounds->turns_left -= MIN(rounds->turns_left, s->contenders->len);
    }
    memory_sums_free(sums);
    return is_right;
}

/* An unnamed file, which goes away with the process. */
static int rounds_temporary_file(const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, "fastload-bench-XXXXXX",
                                             NULL);
    int fd = mkostemp(path, O_CLOEXEC);

    if (fd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot create a file in %s: %s; choose another --dir",
                    folder, g_strerror(errno));
        return -1;
    }
    unlink(path);
    return fd;
}

static Snapshot *rounds_generate(Rounds *rounds, const KnobValues values,
                                 GError **error)
{
    const Plan *plan = rounds->plan;
    GenerateConfig config = {
        .len_bytes = values[KNOB_SIZE] & ~(uint64_t)(BENCH_PAGE_BYTES - 1),
        .zero_share = values[KNOB_ZERO_SHARE] / 1e6,
        .run_bytes = values[KNOB_RUN_LENGTH],
        .seed = values[KNOB_SEED],
    };
    g_autofree char *size = plan_knob_text(KNOB_SIZE, values[KNOB_SIZE]);
    g_autofree char *zero = plan_knob_text(KNOB_ZERO_SHARE,
                                           values[KNOB_ZERO_SHARE]);
    g_autofree char *run = plan_knob_text(KNOB_RUN_LENGTH,
                                          values[KNOB_RUN_LENGTH]);
    g_autofree char *label = g_strdup_printf(
        "a generated snapshot of %s, %s zero, runs of %s, seed %" PRIu64,
        size, zero, run, values[KNOB_SEED]);
    g_autofree char *path = NULL;
    bool is_made;
    int fd;

    fd = rounds_temporary_file(plan->folder, error);
    if (fd < 0) {
        return NULL;
    }
    is_made = generate_snapshot(fd, &config, progress_generated,
                                rounds->progress, rounds->is_stopped, error);
    progress_clear(rounds->progress);
    if (!is_made) {
        close(fd);
        return NULL;
    }
    path = g_strdup_printf("/proc/self/fd/%d", fd);
    return snapshot_open_fd(fd, path, label, error);
}

static uint32_t rounds_count(const Plan *plan, KnobId first, KnobId end)
{
    uint32_t count = 1;
    KnobId i;

    for (i = first; i < end; i++) {
        count *= plan->values[i]->len;
    }
    return count;
}

/* The number of contenders of all scenarios of all works together. */
static uint32_t rounds_foresee_turns(const Rounds *rounds)
{
    const Plan *plan = rounds->plan;
    uint32_t count = 0;
    guint i;

    for (i = 0; i < plan->scenarios->len; i++) {
        KnobValues values = { 0 };
        ScenarioResult *s = rounds_scenario_new(plan, i, &rounds->lacks,
                                                values);

        count += s->contenders->len;
        rounds_scenario_free(s);
    }
    return plan->snapshot_path
        ? count : count * rounds_count(plan, KNOB_WORK_FIRST,
                                       KNOB_SCENARIO_FIRST);
}

/* The largest number of clones of any scenario. */
static uint32_t rounds_most_clones(const Plan *plan)
{
    uint32_t most = 1;
    guint i;

    for (i = 0; i < plan->scenarios->len; i++) {
        const PlanScenario *scenario = plan->scenarios->pdata[i];

        most = MAX(most, scenario->values[KNOB_CLONES]);
    }
    return most;
}

/* Makes a cgroup for the runs, if a scenario has limits. */
static bool rounds_make_box(Rounds *rounds, GError **error)
{
    const Plan *plan = rounds->plan;
    uint64_t cpu_count = sysconf(_SC_NPROCESSORS_ONLN);
    bool has_cpu = false, has_memory = false;
    guint i;

    for (i = 0; i < plan->scenarios->len; i++) {
        const PlanScenario *scenario = plan->scenarios->pdata[i];
        uint64_t quota = scenario->values[KNOB_CPU_QUOTA];

        if (quota != KNOB_NONE && quota > cpu_count * 1000000) {
            g_autofree char *text = plan_knob_text(KNOB_CPU_QUOTA, quota);

            g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                        "--cpu-quota: %s limits nothing where there are %"
                        PRIu64 " CPUs; 50%% or 0.5 is half of one", text,
                        cpu_count);
            return false;
        }
        has_cpu = has_cpu || quota != KNOB_NONE;
        has_memory = has_memory ||
                     scenario->values[KNOB_MEMORY_MAX] != KNOB_NONE;
    }
    if (has_cpu || has_memory) {
        rounds->box = box_new("", has_cpu, has_memory, error);
    }
    return rounds->box || !(has_cpu || has_memory);
}

/* Checks what can be checked before there is a snapshot. */
static bool rounds_check(Rounds *rounds, GError **error)
{
    const Plan *plan = rounds->plan;
    const GArray *sizes = plan->values[KNOB_SIZE];
    guint i;

    for (i = 0; !plan->snapshot_path && i < sizes->len; i++) {
        if (!lacks_check_memory("--size", g_array_index(sizes, uint64_t, i),
                                rounds_most_clones(plan), error)) {
            return false;
        }
    }
    return lacks_find_trap(plan, &rounds->lacks, error) &&
           rounds_make_box(rounds, error);
}

bool rounds_run(const Plan *plan, const volatile int *is_stopped,
                GPtrArray *works, RoundsDone *on_round, void *opaque,
                GError **error)
{
    Rounds rounds = {
        .plan = plan,
        .is_stopped = is_stopped,
        .works = works,
        .on_round = on_round,
        .opaque = opaque,
    };
    KnobValues values = { 0 };
    bool is_right = true, has_more;

    if (!rounds_check_storage(plan, error) || !rounds_check(&rounds, error)) {
        box_free(rounds.box);
        g_free(rounds.lacks.trap_text);
        return false;
    }
    rounds.begin_ns = bench_now_ns();
    rounds.turns_left = rounds_foresee_turns(&rounds);
    rounds.progress = progress_new(rounds.turns_left * (plan->repeat_count +
                                                        plan->warmup_count),
                                   plan->limit_ns);
    guest_calibrate();
    plan_first(plan, 0, KNOB_COUNT, values);
    do {
        g_autoptr(Snapshot) snapshot = plan->snapshot_path
            ? snapshot_open(plan->snapshot_path, error)
            : rounds_generate(&rounds, values, error);

        is_right = snapshot &&
            rounds_run_work(&rounds, snapshot, values, error);
        has_more = !plan->snapshot_path &&
            plan_next(plan, KNOB_WORK_FIRST, KNOB_SCENARIO_FIRST, values);
    } while (is_right && has_more && !*is_stopped);
    progress_free(rounds.progress);
    box_free(rounds.box);
    g_free(rounds.lacks.trap_text);
    g_free(rounds.same_time);
    return is_right;
}
