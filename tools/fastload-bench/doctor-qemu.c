/*
 * fastload-bench doctor: a QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Starts it without a machine, sends four commands to its monitor (QMP) and
 * reads the answers until it ends.  A program that does not end is killed.
 */
#include "bench.h"
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#define ANSWER_BYTES_MAX (1u << 20)

static const char qemu_words[] =
    "{\"execute\": \"qmp_capabilities\"}\n"
    "{\"execute\": \"query-migrate-capabilities\", \"id\": \"caps\"}\n"
    "{\"execute\": \"migrate-set-parameters\", \"id\": \"set\", "
    "\"arguments\": {\"x-fast-load-threads\": 1}}\n"
    "{\"execute\": \"quit\"}\n";

/* For g_spawn: restores the default action of SIGPIPE. */
static void qemu_set_up(gpointer opaque)
{
    signal(SIGPIPE, SIG_DFL);
}

/* Its output until it ends, writes too much, or takes too long. */
static char *qemu_listen(int fd, uint32_t most_ms)
{
    GString *text = g_string_new(NULL);
    uint64_t until_ns = bench_now_ns() + most_ms * 1000000ull;

    while (text->len < ANSWER_BYTES_MAX) {
        struct pollfd ready = { .fd = fd, .events = POLLIN };
        int64_t rest_ms = ((int64_t)until_ns - (int64_t)bench_now_ns()) /
                          1000000;
        char buf[4096];
        ssize_t got;

        if (rest_ms <= 0 || poll(&ready, 1, rest_ms) == 0) {
            break;
        }
        got = read(fd, buf, sizeof(buf));
        if (got == 0 || (got < 0 && errno != EINTR)) {
            break;
        }
        g_string_append_len(text, buf, MAX(got, 0));
    }
    return g_string_free(text, FALSE);
}

/* Its answers; or NULL and why it cannot be started. */
static char *qemu_ask(const char *path, uint32_t most_ms, GError **error)
{
    const char *argv[] = {
        path, "-machine", "none", "-nodefaults", "-display", "none", "-qmp",
        "stdio", NULL,
    };
    struct sigaction ignored = { .sa_handler = SIG_IGN }, before;
    int in_fd, out_fd;
    char *answer;
    ssize_t put;
    GPid pid;

    if (!g_spawn_async_with_pipes(
            NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD |
            G_SPAWN_STDERR_TO_DEV_NULL, qemu_set_up, NULL, &pid, &in_fd,
            &out_fd, NULL, error)) {
        return NULL;
    }
    /* A program that closes its input must not end this one by SIGPIPE. */
    sigaction(SIGPIPE, &ignored, &before);
    put = write(in_fd, qemu_words, sizeof(qemu_words) - 1);
    sigaction(SIGPIPE, &before, NULL);
    answer = qemu_listen(out_fd, most_ms);
    if (put < 0) {
        *answer = '\0';
    }
    close(in_fd);
    close(out_fd);
    kill(pid, SIGKILL); /* it has ended by itself, or never would */
    waitpid(pid, NULL, 0);
    g_spawn_close_pid(pid);
    return answer;
}

/* "10.2.2" of the greeting, or NULL: it is no QEMU. */
static char *qemu_version(JsonObject *line)
{
    JsonObject *version = tree_object(
        tree_object(tree_object(line, "QMP"), "version"), "qemu");

    return version ? g_strdup_printf("%.0f.%.0f.%.0f",
                                     tree_number(version, "major"),
                                     tree_number(version, "minor"),
                                     tree_number(version, "micro")) : NULL;
}

static bool qemu_lists(JsonObject *line, const char *capability)
{
    JsonArray *list = tree_array(line, "return");
    guint i;

    for (i = 0; i < tree_length(list); i++) {
        if (!strcmp(tree_text(tree_element(list, i), "capability"),
                    capability)) {
            return true;
        }
    }
    return false;
}

static void qemu_judge(const Doctor *doctor, char **lines)
{
    bool has_mapped_ram = false, has_fast_load = false;
    g_autofree char *version = NULL;
    uint32_t i;

    for (i = 0; lines[i]; i++) {
        g_autoptr(JsonNode) node = json_from_string(lines[i], NULL);
        JsonObject *line = node && JSON_NODE_HOLDS_OBJECT(node)
            ? json_node_get_object(node) : NULL;

        version = version ? version : qemu_version(line);
        if (!strcmp(tree_text(line, "id"), "caps")) {
            has_mapped_ram = qemu_lists(line, "mapped-ram");
        }
        if (!strcmp(tree_text(line, "id"), "set")) {
            has_fast_load = tree_object(line, "return");
        }
    }
    if (!version) {
        doctor_say(doctor, "qemu", DOCTOR_MISSING, NULL, "%s starts and is no "
                   "QEMU: it does not greet as one (QMP)", doctor->qemu_path);
        return;
    }
    doctor_say(doctor, "qemu", DOCTOR_YES, NULL, "version %s", version);
    doctor_say(doctor, "qemu-mapped-ram", has_mapped_ram ? DOCTOR_YES
               : DOCTOR_MISSING, NULL, has_mapped_ram
               ? "it loads snapshots of this kind" : "this QEMU is older than "
               "9.0 and knows no such snapshots");
    doctor_say(doctor, "qemu-fast-load", has_fast_load ? DOCTOR_YES
               : DOCTOR_MISSING, NULL, has_fast_load
               ? "it has the migration parameter x-fast-load-threads"
               : "it has no migration parameter x-fast-load-threads: it loads "
               "all before the guest runs");
}

void doctor_qemu_probe(const Doctor *doctor)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *answer = NULL;
    g_auto(GStrv) lines = NULL;

    if (!doctor->qemu_path) {
        return;
    }
    answer = qemu_ask(doctor->qemu_path, doctor->qemu_ms, &error);
    if (!answer) {
        doctor_say(doctor, "qemu", DOCTOR_MISSING, NULL, "%s",
                   error->message);
        return;
    }
    lines = g_strsplit(answer, "\n", -1);
    qemu_judge(doctor, lines);
}
