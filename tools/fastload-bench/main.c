/*
 * fastload-bench: the command line.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Parses arguments, calls the functions that do the work, prints errors, one
 * sentence each.  Exit codes: 0; 1: something failed (a wrong page included);
 * 2: usage; 3: compare found something that is worse by more than its limit;
 * 130: interrupted.
 */
#include "bench.h"
#include "bench-version.h"
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>

#define EXIT_FAILED 1
#define EXIT_USAGE 2
#define EXIT_WORSE 3
#define EXIT_INTERRUPTED 130

static volatile int is_stopped;

static void main_on_signal(int number)
{
    is_stopped = 1;
}

static void main_catch_signals(void)
{
    /* The second one ends the program at once. */
    struct sigaction action = {
        .sa_handler = main_on_signal,
        .sa_flags = SA_RESTART | SA_RESETHAND,
    };

    /* If the parent has ignored SIGCHLD, waitpid() would not work. */
    signal(SIGCHLD, SIG_DFL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int main_fail(GError *error)
{
    int code = error->domain == BENCH_ERROR &&
               error->code == BENCH_ERROR_USAGE ? EXIT_USAGE : EXIT_FAILED;

    text_print_error(error->message);
    g_error_free(error);
    return is_stopped ? EXIT_INTERRUPTED : code;
}

static int main_usage(const char *text)
{
    g_autofree char *line = g_strdup_printf("%s; see fastload-bench --help",
                                            text);

    text_print_error(line);
    return EXIT_USAGE;
}

static void main_describe_contenders(GString *text, bool is_extra)
{
    uint32_t i;

    for (i = 0; bench_loaders[i]; i++) {
        if (bench_loaders[i]->is_extra == is_extra) {
            g_string_append_printf(text, "  %-14s %s\n",
                                   bench_loaders[i]->name,
                                   bench_loaders[i]->summary);
        }
    }
}

static char *main_describe(void)
{
    GString *text = g_string_new("Contenders:\n");

    main_describe_contenders(text, false);
    g_string_append(text, "\nExtra contenders, that run when --contenders "
                    "names them:\n");
    main_describe_contenders(text, true);
    g_string_append(text,
        "\nCommands:\n"
        "  fastload-bench [run] [OPTION...]        compare contenders\n"
        "  fastload-bench gen [OPTION...] FILE     write a snapshot\n"
        "  fastload-bench inspect FILE             what a snapshot holds\n"
        "  fastload-bench working-set [...] FILE   what a recorded set holds\n"
        "  fastload-bench trace [-f] LOG FILE|-    what a real guest touches\n"
        "  fastload-bench report [OPTION...] FILE  a saved result again\n"
        "  fastload-bench compare [OPTION...] A B  two saved results\n"
        "  fastload-bench doctor [OPTION...] [PATH] is this host ready?\n"
        "  fastload-bench --version                which one this is\n"
        "\nSizes are in bytes or with K, M, G, T; times with ns, us, ms, s; "
        "shares as 0.25 or 25%.\n");
    return g_string_free(text, FALSE);
}

static GOptionContext *main_context(const char *parameters,
                                    const char *summary,
                                    const GOptionEntry *entries)
{
    GOptionContext *context = g_option_context_new(parameters);

    g_option_context_set_summary(context, summary);
    if (entries) {
        g_option_context_add_main_entries(context, entries, NULL);
    }
    return context;
}

/* An OutputMake for results. */
static char *main_make(OutputKind kind, const void *opaque)
{
    JsonNode *result = (JsonNode *)opaque;
    Paper paper;

    switch (kind) {
    case OUTPUT_JSON:
        return result_text(result);
    case OUTPUT_HTML:
        return html_text(result);
    case OUTPUT_CSV:
        return csv_text(result);
    case OUTPUT_MARKDOWN:
    case OUTPUT_TABLE:
        paper_open(&paper, paper_columns_of(STDOUT_FILENO),
                   kind == OUTPUT_MARKDOWN);
        table_print(result, &paper);
        return paper_close(&paper);
    case OUTPUT_COUNT:
        break;
    }
    return NULL;
}

/* Prints below the table where else the result was written. */
static void main_tell_outputs(const Outputs *outputs)
{
    static const char *const names[OUTPUT_COUNT] = {
        [OUTPUT_JSON] = "result", [OUTPUT_HTML] = "page",
        [OUTPUT_CSV] = "CSV", [OUTPUT_MARKDOWN] = "Markdown",
    };
    OutputKind i;

    for (i = 0; i < OUTPUT_COUNT && !outputs_has_stdout(outputs); i++) {
        if (outputs->paths[i]) {
            printf("\n%s: %s\n", names[i], outputs->paths[i]);
        }
    }
}

/* Adds the output options of run, report and compare. */
static void main_add_outputs(GOptionContext *context, Outputs *outputs)
{
    const GOptionEntry entries[] = {
        { "csv", 0, 0, G_OPTION_ARG_FILENAME, &outputs->paths[OUTPUT_CSV],
          "write a line for each figure, - for standard output", "FILE" },
        { "markdown", 0, 0, G_OPTION_ARG_FILENAME,
          &outputs->paths[OUTPUT_MARKDOWN],
          "write the tables as Markdown, - for standard output", "FILE" },
        G_OPTION_ENTRY_NULL
    };

    g_option_context_add_main_entries(context, entries, NULL);
}

typedef struct MainRun {
    const Plan *plan;
    const char *command;
    const char *json_path;
    bool has_failed;         /* a failure to save was reported */
} MainRun;

/* Saves the results so far, in case the program does not end regularly. */
static void main_save_round(GPtrArray *works, void *opaque)
{
    MainRun *run = opaque;
    g_autoptr(JsonNode) result = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;

    if (!run->json_path || !output_is_replaced(run->json_path)) {
        return;
    }
    result = result_new(run->plan, works, run->command, true);
    text = result_text(result);
    if (!output_write_text(run->json_path, text, &error) &&
        !run->has_failed) {
        g_autofree char *line = g_strdup_printf(
            "cannot save the rounds so far, the runs go on: %s",
            error->message);

        run->has_failed = true;
        text_print_error(line);
    }
}

/* Runs the plan, and writes the results, also if it did not finish. */
static int main_run_plan(const Plan *plan, const Outputs *outputs,
                         const char *command)
{
    g_autoptr(GPtrArray) works =
        g_ptr_array_new_with_free_func(rounds_work_free);
    MainRun run = { plan, command, outputs->paths[OUTPUT_JSON], false };
    g_autoptr(JsonNode) result = NULL;
    GError *error = NULL, *run_error = NULL;

    main_catch_signals();
    if (!rounds_run(plan, &is_stopped, works, main_save_round, &run,
                    &run_error) && !works->len) {
        return main_fail(run_error);
    }
    if (is_stopped && !result_has_runs(works)) {
        g_clear_error(&run_error);
        text_print_error("interrupted before anything was measured");
        return EXIT_INTERRUPTED;
    }
    result = result_new(plan, works, command, is_stopped);
    if (!outputs_write(outputs, main_make, result, &error)) {
        g_clear_error(&run_error);
        return main_fail(error);
    }
    main_tell_outputs(outputs);
    if (run_error) {
        return main_fail(run_error);
    }
    return is_stopped ? EXIT_INTERRUPTED
                      : result_has_failed(works) ? EXIT_FAILED : 0;
}

static int main_run(int argc, char **argv)
{
    static Outputs outputs;
    static const GOptionEntry entries[] = {
        { "json", 'j', 0, G_OPTION_ARG_FILENAME, &outputs.paths[OUTPUT_JSON],
          "write the result there, - for standard output", "FILE" },
        { "html", 0, 0, G_OPTION_ARG_FILENAME, &outputs.paths[OUTPUT_HTML],
          "write a page with pictures", "FILE" },
        G_OPTION_ENTRY_NULL
    };
    g_autofree char *command = g_strjoinv(" ", argv);
    g_autofree char *description = main_describe();
    g_autoptr(GOptionContext) context = main_context(
        NULL, "Compares ways of restoring a virtual machine's memory from a "
        "snapshot,\non the same work, in one run.", entries);
    g_autoptr(Plan) plan = NULL;
    GError *error = NULL;

    main_add_outputs(context, &outputs);
    plan_add_options(context);
    g_option_context_set_description(context, description);
    plan = plan_parse(&argc, &argv, context, &error);
    if (!plan) {
        return main_fail(error);
    }
    if (argc > 1) {
        g_autofree char *text = g_strdup_printf(
            "there is no command '%s'", argv[1]);

        return main_usage(text);
    }
    if (!outputs_check(&outputs, (const char *[]) { plan->snapshot_path,
                                                    plan->trace_path },
                       2, &error)) {
        return main_fail(error);
    }
    return main_run_plan(plan, &outputs, command);
}

static bool main_parse_gen(const char *size, const char *zero,
                           const char *run, GenerateConfig *config,
                           GError **error)
{
    uint64_t millionths = 0;

    if (!text_parse_size(size, &config->len_bytes) ||
        config->len_bytes < BENCH_PAGE_BYTES ||
        config->len_bytes % BENCH_PAGE_BYTES) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--size: '%s' is not a size in whole pages of 4 KiB",
                    size);
    } else if (!text_parse_share(zero, &millionths) || millionths > 1000000) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--zero-share: '%s' is not from 0 to 1", zero);
    } else if (!text_parse_size(run, &config->run_bytes) ||
               config->run_bytes < BENCH_PAGE_BYTES) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--run-length: '%s' is not a size of 4 KiB or more", run);
    } else {
        config->zero_share = millionths / 1e6;
        return true;
    }
    return false;
}

/* Writes to a temporary name and renames: never leaves half a snapshot. */
static bool main_gen_file(const char *path, const GenerateConfig *config,
                          bool is_forced, GError **error)
{
    g_autofree char *other = g_strconcat(path, ".XXXXXX", NULL);
    Progress *progress;
    struct stat st;
    bool is_made;
    int fd;

    if (lstat(path, &st) == 0 && !(is_forced && S_ISREG(st.st_mode))) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot create %s: %s", path, S_ISREG(st.st_mode)
                    ? "it exists; --force replaces it"
                    : "something is there that is no file");
        return false;
    }
    fd = g_mkstemp_full(other, O_RDWR | O_CLOEXEC, 0644);
    if (fd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot create %s: %s", path, g_strerror(errno));
        return false;
    }
    progress = progress_new(0, 0);
    is_made = generate_snapshot(fd, config, progress_generated, progress,
                                &is_stopped, error);
    progress_free(progress);
    close(fd);
    if (is_made && rename(other, path) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot create %s: %s", path, g_strerror(errno));
        is_made = false;
    }
    if (!is_made) {
        unlink(other);
    }
    return is_made;
}

static int main_gen(int argc, char **argv)
{
    static char *size, *zero, *run;
    static gboolean is_forced;
    GenerateConfig config = { .seed = 1 };
    int64_t seed = 1;
    const GOptionEntry entries[] = {
        { "size", 0, 0, G_OPTION_ARG_STRING, &size,
          "RAM of the snapshot (1G)", "SIZE" },
        { "zero-share", 0, 0, G_OPTION_ARG_STRING, &zero,
          "share of its pages that are zero (25%)", "SHARE" },
        { "run-length", 0, 0, G_OPTION_ARG_STRING, &run,
          "mean length of its runs of data (1M)", "SIZE" },
        { "seed", 0, 0, G_OPTION_ARG_INT64, &seed,
          "the same seed makes the same file (1)", "N" },
        { "force", 'f', 0, G_OPTION_ARG_NONE, &is_forced,
          "replace an existing file", NULL },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(GOptionContext) context = main_context(
        "FILE", "Writes a mapped-ram snapshot.", entries);
    GError *error = NULL;

    if (!plan_parse_options(context, &argc, &argv, &error)) {
        return main_fail(error);
    }
    if (argc != 2) {
        return main_usage("gen needs the name of one file to write");
    }
    if (!strcmp(argv[1], "-")) {
        return main_usage("gen writes to a file with a name, not to standard "
                          "output");
    }
    config.seed = seed;
    main_catch_signals();
    if (!main_parse_gen(size ? size : "1G", zero ? zero : "25%",
                        run ? run : "1M", &config, &error) ||
        !main_gen_file(argv[1], &config, is_forced, &error)) {
        return main_fail(error);
    }
    return 0;
}

static int main_inspect(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = main_context(
        "FILE", "Shows what a snapshot holds.", NULL);
    g_autoptr(Snapshot) snapshot = NULL;
    GError *error = NULL;

    if (!plan_parse_options(context, &argc, &argv, &error)) {
        return main_fail(error);
    }
    if (argc != 2) {
        return main_usage("inspect needs the name of one snapshot file");
    }
    snapshot = snapshot_open(argv[1], &error);
    if (!snapshot) {
        return main_fail(error);
    }
    inspect_print(snapshot, stdout);
    return 0;
}

typedef struct MainSet {
    const Set *set;
    const char *path;
} MainSet;

/* An OutputMake for working sets. */
static char *main_make_set(OutputKind kind, const void *opaque)
{
    const MainSet *s = opaque;
    Paper paper;

    if (kind == OUTPUT_HTML) {
        g_autoptr(JsonNode) node = set_node(s->set);

        return html_set_text(node, s->path);
    }
    paper_open(&paper, 0, false);
    set_print(s->set, s->path, paper.file);
    return paper_close(&paper);
}

static int main_working_set(int argc, char **argv)
{
    static Outputs outputs;
    static const GOptionEntry entries[] = {
        { "html", 0, 0, G_OPTION_ARG_FILENAME, &outputs.paths[OUTPUT_HTML],
          "write a page with a picture", "PAGE" },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(GOptionContext) context = main_context(
        "FILE", "Shows what is in the file of a recorded working set.",
        entries);
    g_autoptr(Set) set = NULL;
    GError *error = NULL;

    if (!plan_parse_options(context, &argc, &argv, &error)) {
        return main_fail(error);
    }
    if (argc != 2) {
        return main_usage("working-set needs the name of one file");
    }
    if (!outputs_check(&outputs, (const char *[]) { argv[1] }, 1, &error)) {
        return main_fail(error);
    }
    set = set_read(argv[1], &error);
    if (!set || !outputs_write(&outputs, main_make_set,
                               &(MainSet) { set, argv[1] }, &error)) {
        return main_fail(error);
    }
    return 0;
}

/* Makes a trace from a log or standard input; @path must not exist. */
static bool main_record(const char *log_path, const char *path,
                        bool is_forced, GError **error)
{
    bool is_stdin = !strcmp(log_path, "-");
    FILE *log = is_stdin ? stdin : fopen(log_path, "re");
    g_autofree char *text = NULL;

    if (!log) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot open the log %s: %s", log_path,
                    g_strerror(errno));
        return false;
    }
    text = record_trace(log, log_path, error);
    if (!is_stdin) {
        fclose(log);
    }
    if (text && strcmp(path, "-") && !is_forced &&
        g_file_test(path, G_FILE_TEST_EXISTS)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot create %s: it exists; --force replaces it", path);
        return false;
    }
    return text && output_write_text(path, text, error);
}

static int main_trace(int argc, char **argv)
{
    static gboolean is_forced;
    static const GOptionEntry entries[] = {
        { "force", 'f', 0, G_OPTION_ARG_NONE, &is_forced,
          "replace an existing file", NULL },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(GOptionContext) context = main_context(
        "LOG FILE|-", "Makes a file for --trace of what QEMU logged of a "
        "fast load with\n-trace 'fastload_fault_*' -msg timestamp=on -D LOG.",
        entries);
    GError *error = NULL;

    if (!plan_parse_options(context, &argc, &argv, &error)) {
        return main_fail(error);
    }
    if (argc != 3) {
        return main_usage("trace needs the names of a log and of the file to "
                          "write");
    }
    if (!main_record(argv[1], argv[2], is_forced, &error)) {
        return main_fail(error);
    }
    return 0;
}

static int main_report(int argc, char **argv)
{
    static Outputs outputs;
    static const GOptionEntry entries[] = {
        { "html", 0, 0, G_OPTION_ARG_FILENAME, &outputs.paths[OUTPUT_HTML],
          "write a page with pictures", "PAGE" },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(GOptionContext) context = main_context(
        "FILE", "Shows a result that --json saved.", entries);
    g_autoptr(JsonNode) result = NULL;
    GError *error = NULL;

    main_add_outputs(context, &outputs);
    if (!plan_parse_options(context, &argc, &argv, &error)) {
        return main_fail(error);
    }
    if (argc != 2) {
        return main_usage("report needs the name of one result");
    }
    if (!outputs_check(&outputs, (const char *[]) { argv[1] }, 1, &error)) {
        return main_fail(error);
    }
    result = result_read(argv[1], &error);
    if (!result || !outputs_write(&outputs, main_make, result, &error)) {
        return main_fail(error);
    }
    return 0;
}

/* An OutputMake for comparisons. */
static char *main_make_comparison(OutputKind kind, const void *opaque)
{
    const Comparison *comparison = opaque;
    Paper paper;

    if (kind == OUTPUT_CSV) {
        return compare_csv(comparison);
    }
    paper_open(&paper, paper_columns_of(STDOUT_FILENO),
               kind == OUTPUT_MARKDOWN);
    compare_print(comparison, &paper);
    return paper_close(&paper);
}

/* Without @text: NAN, so that nothing fails. */
static bool main_parse_limit(const char *text, double *ret_limit,
                             GError **error)
{
    uint64_t millionths = 0;

    *ret_limit = NAN;
    if (text && (!text_parse_share(text, &millionths) || !millionths)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--fail-above: '%s' is not a share above 0, as in 0.1 or "
                    "10%%", text);
        return false;
    }
    if (text) {
        *ret_limit = millionths / 1e6;
    }
    return true;
}

static int main_compare(int argc, char **argv)
{
    static Outputs outputs;
    static gboolean is_forced;
    static char *limit, *contenders;
    static const GOptionEntry entries[] = {
        { "force", 'f', 0, G_OPTION_ARG_NONE, &is_forced,
          "compare results of different environments, too", NULL },
        { "fail-above", 0, 0, G_OPTION_ARG_STRING, &limit,
          "exit with 3 when B is worse by more than that, as in 10%, and "
          "by more than noise", "SHARE" },
        { "contenders", 'c', 0, G_OPTION_ARG_STRING, &contenders,
          "whom --fail-above judges (all)", "LIST" },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(GOptionContext) context = main_context(
        "A B", "Shows what changed from one result to another.", entries);
    g_autoptr(Comparison) comparison = NULL;
    g_autoptr(JsonNode) a = NULL;
    g_autoptr(JsonNode) b = NULL;
    CompareOptions options = { 0 };
    GError *error = NULL;

    main_add_outputs(context, &outputs);
    if (!plan_parse_options(context, &argc, &argv, &error)) {
        return main_fail(error);
    }
    if (argc != 3) {
        return main_usage("compare needs the names of two results");
    }
    options.is_forced = is_forced;
    options.contenders = contenders;
    if (!main_parse_limit(limit, &options.limit, &error) ||
        !outputs_check(&outputs, (const char *[]) { argv[1], argv[2] }, 2,
                       &error)) {
        return main_fail(error);
    }
    a = result_read(argv[1], &error);
    b = a ? result_read(argv[2], &error) : NULL;
    comparison = b ? compare_new(a, b, &options, &error) : NULL;
    if (!comparison ||
        !outputs_write(&outputs, main_make_comparison, comparison, &error)) {
        return main_fail(error);
    }
    return compare_has_failed(comparison) ? EXIT_WORSE : 0;
}

/* An OutputMake for the doctor's reports. */
static char *main_make_report(OutputKind kind, const void *opaque)
{
    JsonNode *report = (JsonNode *)opaque;
    Paper paper;

    if (kind == OUTPUT_JSON) {
        return result_text(report);
    }
    paper_open(&paper, paper_columns_of(STDOUT_FILENO), false);
    doctor_print(report, &paper, doctor_has_colours(STDOUT_FILENO));
    return paper_close(&paper);
}

/* An absolute path for a doctor that runs as another user. */
static char *main_open_path(const char *path, const char *user)
{
    g_autofree char *folder = g_get_current_dir();

    return user && !g_path_is_absolute(path)
        ? g_build_filename(folder, path, NULL) : g_strdup(path);
}

static int main_doctor(int argc, char **argv)
{
    static Outputs outputs;
    static char *user, *qemu_path;
    static const GOptionEntry entries[] = {
        { "json", 'j', 0, G_OPTION_ARG_FILENAME, &outputs.paths[OUTPUT_JSON],
          "write the findings there, - for standard output", "FILE" },
        { "user", 'u', 0, G_OPTION_ARG_STRING, &user,
          "ask as that user, as in libvirt-qemu (needs root)", "NAME" },
        { "qemu", 'q', 0, G_OPTION_ARG_FILENAME, &qemu_path,
          "ask this QEMU as well", "PROGRAM" },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(GOptionContext) context = main_context(
        "[PATH]", "Says whether this host can fast-load a snapshot, what each "
        "thing means for\na load, and the command that mends it.  PATH is a "
        "snapshot, or a folder for\nsnapshots (the current one).", entries);
    g_autofree char *open_path = NULL;
    g_autoptr(JsonNode) report = NULL;
    Doctor doctor = { .root = "", .qemu_ms = DOCTOR_QEMU_MS };
    GError *error = NULL;

    if (!plan_parse_options(context, &argc, &argv, &error)) {
        return main_fail(error);
    }
    if (argc > 2) {
        return main_usage("doctor takes the name of one file or folder");
    }
    doctor.path = argc == 2 ? argv[1] : NULL;
    open_path = main_open_path(doctor.path ? doctor.path : ".", user);
    doctor.open_path = open_path;
    doctor.qemu_path = qemu_path;
    if (!outputs_check(&outputs, (const char *[]) { doctor.path }, 1,
                       &error)) {
        return main_fail(error);
    }
    report = doctor_examine(&doctor, user, NULL, DOCTOR_PATIENCE_MS, &error);
    if (!report || !outputs_write(&outputs, main_make_report, report,
                                  &error)) {
        return main_fail(error);
    }
    return doctor_is_ready(report) ? 0 : EXIT_FAILED;
}

/* An exit handler: also runs after GLib has printed the help. */
static void main_close_stdout(void)
{
    GError *error = NULL;

    if (!output_flush(&error)) {
        main_fail(error);
        _exit(EXIT_FAILED);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*func)(int argc, char **argv);
    } commands[] = {
        { "run", main_run }, { "gen", main_gen },
        { "inspect", main_inspect }, { "trace", main_trace },
        { "working-set", main_working_set },
        { "report", main_report },
        { "compare", main_compare }, { "doctor", main_doctor },
    };
    uint32_t i;

    setlocale(LC_CTYPE, "");
    atexit(main_close_stdout);
    g_set_prgname("fastload-bench");
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        printf("fastload-bench %s (%s)\n", BENCH_VERSION, BENCH_COMMIT);
        return 0;
    }
    for (i = 0; argc > 1 && i < G_N_ELEMENTS(commands); i++) {
        if (!strcmp(argv[1], commands[i].name)) {
            g_autofree char *name = g_strconcat("fastload-bench ", argv[1],
                                                NULL);

            g_set_prgname(name); /* for the usage line of --help */
            argv[1] = argv[0];
            return commands[i].func(argc - 1, argv + 1);
        }
    }
    return main_run(argc, argv);
}
