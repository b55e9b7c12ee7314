/*
 * fastload-bench doctor: runs the probes, and reports what they find.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Runs the probes in a process of its own, which may become another user and
 * may be killed if storage does not answer.  Collects their findings, a line of
 * JSON each, into a report, and prints reports for people.  The probes are in
 * doctor-*.c and change nothing on the host.  A probe that cannot tell reports
 * just that, and none fails; only becoming the other user can fail.
 */
#include "bench.h"
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define DOCTOR_VERSION 1
#define LINE_BYTES_MAX (64u << 10)
#define NAME_COLUMNS 19
#define VERDICT_COLUMNS 7    /* indent, "yes", gap */
/* With fewer columns the explanation stands below the name. */
#define BESIDE_COLUMNS_MIN 60
/* At least so many columns for text, on any terminal. */
#define ROOM_MIN 4
/* A killed process is gone by then, unless it is stuck in the kernel. */
#define END_TRIES 50
#define END_STEP_US 20000

typedef struct DoctorCheck {
    const char *id;          /* in JSON; never changes */
    const char *name;
    const char *group;       /* NULL: the group of the one before */
} DoctorCheck;

static const DoctorCheck checks[] = {
    { "trap", "userfaultfd", "Page faults (userfaultfd)" },
    { "trap-call", "system call", NULL },
    { "trap-device", "/dev/userfaultfd", NULL },
    { "trap-sysctl", "open to all users", NULL },
    { "trap-confined", "no confinement", NULL },
    { "trap-shmem", "shared memory", NULL },
    { "trap-hugetlb", "hugetlbfs", NULL },
    { "trap-move", "UFFDIO_MOVE", NULL },
    { "trap-wp-async", "WP_ASYNC", NULL },
    { "uring", "io_uring", "Reading" },
    { "uring-memory", "memory for rings", NULL },
    { "thp", "huge pages", "Memory" },
    { "thp-collapse", "MADV_COLLAPSE", NULL },
    { "thp-shmem", "shared huge pages", NULL },
    { "hugetlb", "hugetlb pages", NULL },
    { "map-count", "vm.max_map_count", NULL },
    { "cgroup-memory", "cgroup: memory", "Limits" },
    { "cgroup-cpu", "cgroup: CPU", NULL },
    { "cgroup-pids", "cgroup: threads", NULL },
    { "nofile", "ulimit -n", NULL },
    { "kvm", "/dev/kvm", "KVM" },
    { "kvm-hardware", "hardware", NULL },
    { "qemu", "QEMU starts", "QEMU" },
    { "qemu-mapped-ram", "mapped-ram", NULL },
    { "qemu-fast-load", "fast load", NULL },
    { "path", "readable", "Storage" },
    { "filesystem", "file system", NULL },
    { "disk", "disk", NULL },
    { "direct", "O_DIRECT", NULL },
    { "cachestat", "cachestat", NULL },
    { "space", "free space", NULL },
    { "snapshot", "mapped-ram", "Snapshot" },
    { "machine", "saved by", NULL },
    { "run-state", "saved running", NULL },
    { "memory", "enough memory", NULL },
    { "memlock", "mem-lock", NULL },
    { "holes", "zero runs", NULL },
    { "answer", "answers", "This program" },
};

static const char *const verdict_words[DOCTOR_VERDICT_COUNT] = {
    [DOCTOR_YES] = "yes", [DOCTOR_NO] = "no",
    [DOCTOR_MISSING] = "missing", [DOCTOR_UNKNOWN] = "unknown",
};

/* Printed words, which are clear without colours. */
static const char *const verdict_signs[DOCTOR_VERDICT_COUNT] = {
    [DOCTOR_YES] = "yes", [DOCTOR_NO] = "no", [DOCTOR_MISSING] = "NO",
    [DOCTOR_UNKNOWN] = "-",
};
static const char *const verdict_colours[DOCTOR_VERDICT_COUNT] = {
    [DOCTOR_YES] = "32", [DOCTOR_NO] = "33", [DOCTOR_MISSING] = "1;31",
    [DOCTOR_UNKNOWN] = "2",
};

DoctorProbe *const doctor_probes[] = {
    doctor_trap_probe, doctor_reading_probe, doctor_huge_probe,
    doctor_limits_probe, doctor_kvm_probe, doctor_qemu_probe,
    doctor_place_probe, NULL,
};

/* ---- what probes call ---- */

void doctor_say(const Doctor *doctor, const char *id, DoctorVerdict verdict,
                char *mend, const char *format, ...)
{
    g_autoptr(JsonObject) finding = json_object_new();
    g_autoptr(JsonNode) node = json_node_alloc();
    g_autofree char *text = NULL, *valid = NULL, *line = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    valid = g_utf8_make_valid(text, -1);
    json_object_set_string_member(finding, "id", id);
    json_object_set_string_member(finding, "verdict", verdict_words[verdict]);
    json_object_set_string_member(finding, "text", valid);
    if (mend) {
        g_autofree char *command = g_utf8_make_valid(mend, -1);

        json_object_set_string_member(finding, "mend", command);
        g_free(mend);
    }
    json_node_init_object(node, finding);
    line = json_to_string(node, FALSE);
    fprintf(doctor->out, "%s\n", line);
    fflush(doctor->out);
}

char *doctor_line(const Doctor *doctor, const char *path)
{
    g_autofree char *full = g_strconcat(doctor->root, path, NULL);

    return environment_line(full);
}

bool doctor_number(const Doctor *doctor, const char *path, uint64_t *ret)
{
    g_autofree char *text = doctor_line(doctor, path);

    if (!text || !*text) {
        return false;
    }
    *ret = g_ascii_strtoull(text, NULL, 10);
    return true;
}

/* ---- asking ---- */

/* Becomes @user, with the user's own groups; cannot be undone. */
static bool doctor_become(const char *user, GError **error)
{
    struct passwd *entry;

    errno = 0;
    entry = getpwnam(user);
    if (!entry) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--user: there is no user '%s'", user);
        return false;
    }
    if (geteuid() == entry->pw_uid) {
        return true;
    }
    if (initgroups(user, entry->pw_gid) < 0 || setgid(entry->pw_gid) < 0 ||
        setuid(entry->pw_uid) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot become the user '%s': %s; start it with sudo",
                    user, g_strerror(errno));
        return false;
    }
    /* After a change of user the kernel hides much of /proc/self otherwise. */
    prctl(PR_SET_DUMPABLE, 1);
    return true;
}

static G_GNUC_NORETURN void doctor_child(const Doctor *base, const char *user,
                                         DoctorProbe *const *probes, int fd)
{
    Doctor doctor = *base;
    GError *error = NULL;
    struct passwd *entry;
    uint32_t i;

    doctor.out = fdopen(fd, "w");
    assert(doctor.out); /* as g_malloc() */
    if (user && !doctor_become(user, &error)) {
        fprintf(doctor.out, "%c%s\n", error->code == BENCH_ERROR_USAGE ? '?'
                                                                       : '!',
                error->message);
        fflush(doctor.out);
        _exit(1);
    }
    /* After the change of user, which resets it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    entry = user ? NULL : getpwuid(geteuid());
    doctor.user = user ? user : entry ? entry->pw_name : "$USER";
    fprintf(doctor.out, "=%s\n", doctor.user);
    for (i = 0; probes[i]; i++) {
        probes[i](&doctor);
    }
    _exit(0);
}

/* Adds a line of the child to the report; false: the child cannot begin. */
static bool doctor_take(JsonObject *report, const char *line, GError **error)
{
    if (*line == '?' || *line == '!') {
        g_set_error_literal(error, BENCH_ERROR, *line == '?'
                            ? BENCH_ERROR_USAGE : BENCH_ERROR_FAILED,
                            line + 1);
        return false;
    }
    if (*line == '=') {
        json_object_set_string_member(report, "user", line + 1);
    } else {
        JsonNode *node = json_from_string(line, NULL);

        if (node && JSON_NODE_HOLDS_OBJECT(node)) {
            json_array_add_element(
                json_object_get_array_member(report, "checks"), node);
        }
    }
    return true;
}

/* Adds a finding for a probe that the child did not finish. */
static void doctor_add_answer(JsonObject *report, const char *text)
{
    JsonObject *finding = json_object_new();

    json_object_set_string_member(finding, "id", "answer");
    json_object_set_string_member(finding, "verdict",
                                  verdict_words[DOCTOR_MISSING]);
    json_object_set_string_member(finding, "text", text);
    json_array_add_object_element(
        json_object_get_array_member(report, "checks"), finding);
}

/* Kills the child if it runs; its wait status, or 0. */
static int doctor_end(pid_t pid)
{
    int status = 0;
    uint32_t i;

    for (i = 0; i < END_TRIES; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return status;
        }
        if (i == END_TRIES / 2) {
            kill(pid, SIGKILL);
        }
        g_usleep(END_STEP_US);
    }
    /* It is stuck in the kernel, in storage that hangs: do not wait for it. */
    return 0;
}

/* False: nothing came for @patience_ms.  @text: an incomplete line. */
static bool doctor_read(int fd, uint32_t patience_ms, GString *text,
                        bool *ret_is_over)
{
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    char buf[4096];
    ssize_t got;
    int ret;

    do {
        ret = poll(&ready, 1, patience_ms);
    } while (ret < 0 && errno == EINTR);
    if (ret == 0) {
        return false;
    }
    got = read(fd, buf, sizeof(buf));
    *ret_is_over = got <= 0 || text->len > LINE_BYTES_MAX;
    if (got > 0) {
        g_string_append_len(text, buf, got);
    }
    return true;
}

static bool doctor_collect(JsonObject *report, pid_t pid, int fd,
                           uint32_t patience_ms, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    bool is_over = false, is_late = false, is_begun = true;
    int status;

    while (!is_over && !is_late && is_begun) {
        char *end;

        is_late = !doctor_read(fd, patience_ms, text, &is_over);
        while (is_begun && (end = strchr(text->str, '\n'))) {
            *end = '\0';
            is_begun = doctor_take(report, text->str, error);
            g_string_erase(text, 0, end + 1 - text->str);
        }
    }
    if (is_late) {
        kill(pid, SIGKILL);
        doctor_add_answer(report, "what would have come next did not answer, "
                          "as storage does that hangs: a load would wait for "
                          "it as well");
    }
    status = doctor_end(pid);
    if (!is_late && is_begun && WIFSIGNALED(status)) {
        g_autofree char *line = g_strdup_printf(
            "it was ended by signal %d in the middle: the rest is unknown",
            WTERMSIG(status));

        doctor_add_answer(report, line);
    }
    return is_begun;
}

JsonNode *doctor_examine(const Doctor *doctor, const char *user,
                         DoctorProbe *const *probes, uint32_t patience_ms,
                         GError **error)
{
    g_autoptr(JsonObject) report = json_object_new();
    JsonNode *node;
    struct utsname names;
    int fds[2];
    pid_t pid;
    bool is_ok;

    json_object_set_string_member(report, "format", "fastload-doctor");
    json_object_set_int_member(report, "version", DOCTOR_VERSION);
    if (uname(&names) == 0) {
        json_object_set_string_member(report, "kernel", names.release);
    }
    if (doctor->path) {
        g_autofree char *path = g_utf8_make_valid(doctor->path, -1);

        json_object_set_string_member(report, "path", path);
    }
    json_object_set_array_member(report, "checks", json_array_new());
    fflush(stdout);
    if (pipe2(fds, O_CLOEXEC) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot make a pipe: %s", g_strerror(errno));
        return NULL;
    }
    pid = fork();
    if (pid == 0) {
        close(fds[0]);
        doctor_child(doctor, user, probes ? probes : doctor_probes, fds[1]);
    }
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot start a process: %s", g_strerror(errno));
        return NULL;
    }
    is_ok = doctor_collect(report, pid, fds[0], patience_ms, error);
    close(fds[0]);
    if (!is_ok) {
        return NULL;
    }
    node = json_node_alloc();
    json_node_init_object(node, report);
    json_object_set_boolean_member(report, "ready", doctor_is_ready(node));
    return node;
}

/* ---- telling ---- */

static DoctorVerdict doctor_verdict(JsonObject *finding)
{
    const char *word = tree_text(finding, "verdict");
    DoctorVerdict i;

    for (i = 0; i < DOCTOR_UNKNOWN && strcmp(word, verdict_words[i]); i++) {
    }
    return i;
}

static JsonArray *doctor_findings(JsonNode *report)
{
    return tree_array(json_node_get_object(report), "checks");
}

bool doctor_is_ready(JsonNode *report)
{
    JsonArray *findings = doctor_findings(report);
    guint i;

    for (i = 0; i < tree_length(findings); i++) {
        if (doctor_verdict(tree_element(findings, i)) == DOCTOR_MISSING) {
            return false;
        }
    }
    return true;
}

bool doctor_has_colours(int fd)
{
    const char *term = g_getenv("TERM");
    const char *none = g_getenv("NO_COLOR"); /* no-color.org */

    return isatty(fd) && term && *term && strcmp(term, "dumb") &&
           !(none && *none);
}

/* The index of a check, or the number of checks if there is no such id. */
static guint doctor_check_idx(const char *id)
{
    guint i;

    for (i = 0; i < G_N_ELEMENTS(checks) && strcmp(checks[i].id, id); i++) {
    }
    return i;
}

/* How much of a long word fits into a line; breaks at a slash, if any. */
static size_t doctor_split(const char *text, size_t room)
{
    size_t at = room;

    while (at && text[at - 1] != '/') {
        at--;
    }
    return at ? at : room;
}

static size_t doctor_room(const Paper *paper, uint32_t used)
{
    return MAX(paper->columns, used + ROOM_MIN) - used;
}

/*
 * Prints the rest of a line that has @used columns, and lines below it that
 * begin in column @indent.  @glue: printed at the end of a line that goes on.
 * If the break is not at a blank, the next line begins in column 0 then, so
 * that a shell joins the two.
 */
static void doctor_flow(const Paper *paper, uint32_t used, uint32_t indent,
                        const char *text, const char *glue)
{
    size_t room = doctor_room(paper, used);

    while (paper->columns && strlen(text) > room) {
        size_t at = room - strlen(glue);

        while (at && text[at] != ' ') {
            at--;
        }
        if (at) {
            fprintf(paper->file, "%.*s%s\n%*s", (int)at, text, glue, indent,
                    "");
            text += at + 1;
            used = indent;
        } else {
            at = doctor_split(text, room - (*glue != '\0'));
            fprintf(paper->file, "%.*s%s\n%*s", (int)at, text,
                    *glue ? "\\" : "", *glue ? 0 : indent, "");
            text += at;
            used = *glue ? 0 : indent;
        }
        room = doctor_room(paper, used);
    }
    fprintf(paper->file, "%s\n", text);
}

static void doctor_print_finding(JsonObject *finding, const Paper *paper,
                                 bool has_colours)
{
    guint idx = doctor_check_idx(tree_text(finding, "id"));
    const char *name = idx < G_N_ELEMENTS(checks) ? checks[idx].name : "?";
    DoctorVerdict verdict = doctor_verdict(finding);
    g_autofree char *text = tree_safe_text(finding, "text");
    g_autofree char *mend = tree_safe_text(finding, "mend");
    bool is_beside = !paper->columns || paper->columns >= BESIDE_COLUMNS_MIN;
    uint32_t indent = VERDICT_COLUMNS + (is_beside ? NAME_COLUMNS : 0);

    fprintf(paper->file, "  %s%s%s%-3s%s  ", has_colours ? "\033[" : "",
            has_colours ? verdict_colours[verdict] : "",
            has_colours ? "m" : "", verdict_signs[verdict],
            has_colours ? "\033[0m" : "");
    if (is_beside) {
        fprintf(paper->file, "%-*s", NAME_COLUMNS, name);
    } else {
        doctor_flow(paper, indent, indent, name, "");
        fprintf(paper->file, "%*s", indent, "");
    }
    doctor_flow(paper, indent, indent, text, "");
    if (*mend) {
        static const char word[] = "mend: ";

        indent = VERDICT_COLUMNS + strlen(word);
        fprintf(paper->file, "%*s%s", VERDICT_COLUMNS, "", word);
        doctor_flow(paper, indent, indent, mend, " \\");
    }
}

/* "a, b and c": names of all checks with this verdict; owned by the caller. */
static char *doctor_names(JsonNode *report, DoctorVerdict verdict)
{
    JsonArray *findings = doctor_findings(report);
    GString *names = g_string_new(NULL);
    guint i;

    for (i = 0; i < tree_length(findings); i++) {
        JsonObject *finding = tree_element(findings, i);
        guint idx = doctor_check_idx(tree_text(finding, "id"));

        if (doctor_verdict(finding) == verdict &&
            idx < G_N_ELEMENTS(checks)) {
            g_string_append_printf(names, "%s%s", names->len ? ", " : "",
                                   checks[idx].name);
        }
    }
    return g_string_free(names, FALSE);
}

static void doctor_print_end(JsonNode *report, const Paper *paper,
                             bool has_colours)
{
    g_autofree char *missing = doctor_names(report, DOCTOR_MISSING);
    g_autofree char *without = doctor_names(report, DOCTOR_NO);
    g_autofree char *text = *missing
        ? g_strdup_printf("Not ready: a load fails without what has NO before "
                          "it: %s.", missing)
        : g_strdup_printf("Ready: a load has all that it needs%s.", *without
                          ? ", and goes on without what has \"no\" before it"
                          : "");

    fprintf(paper->file, "\n%s", has_colours ? *missing ? "\033[1;31m"
                                                        : "\033[1;32m" : "");
    doctor_flow(paper, 0, 0, text, "");
    if (has_colours) {
        fputs("\033[0m", paper->file);
    }
}

void doctor_print(JsonNode *report, const Paper *paper, bool has_colours)
{
    JsonObject *root = json_node_get_object(report);
    JsonArray *findings = doctor_findings(report);
    g_autofree char *kernel = tree_safe_text(root, "kernel");
    g_autofree char *user = tree_safe_text(root, "user");
    g_autofree char *path = tree_safe_text(root, "path");
    g_autofree char *head = g_strdup_printf(
        "Can the user %s fast-load %s here? (Linux %s)", user,
        *path ? path : "a snapshot", kernel);
    const char *group = "";
    guint i, idx, first;

    doctor_flow(paper, 0, 0, head, "");
    for (i = 0; i < tree_length(findings); i++) {
        JsonObject *finding = tree_element(findings, i);

        idx = doctor_check_idx(tree_text(finding, "id"));
        first = MIN(idx, G_N_ELEMENTS(checks) - 1);
        while (!checks[first].group) {
            first--;
        }
        if (strcmp(checks[first].group, group)) {
            group = checks[first].group;
            fputc('\n', paper->file);
            doctor_flow(paper, 0, 0, group, "");
        }
        doctor_print_finding(finding, paper, has_colours);
    }
    doctor_print_end(report, paper, has_colours);
}
