/*
 * fastload-bench: a cgroup for the processes of a run.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Version 2: beside the cgroup of this process, since a cgroup with processes
 * may not have children with limits; at the top of the tree, below it.  Version
 * 1: always below it.  A keeper process waits until this one ends, in whatever
 * way, and removes the cgroups.  Fails with one sentence where it is not
 * permitted.
 */
#include "bench.h"
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PERIOD_US 100000
#define REMOVE_TRIES 2000
#define REMOVE_WAIT_US 5000

/* For one controller; with version 2 both are in the same folder. */
typedef struct BoxPart {
    const char *controller;
    char *home;              /* cgroup of this process; NULL: no such part */
    char *parent;
    char *folder;
    bool is_v2;
    bool was_enabled;        /* here, for the children of parent */
} BoxPart;

struct Box {
    BoxPart parts[2];        /* cpu, memory */
    int life_fd;             /* closed when this process ends; -1: no keeper */
    pid_t keeper;            /* process that removes the cgroups */
};

#define BOX_CPU 0
#define BOX_MEMORY 1

/* Writes @text in one call, as cgroup files demand.  Returns 0 or -errno. */
static int box_write(const char *folder, const char *file, const char *text)
{
    g_autofree char *path = g_build_filename(folder, file, NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int ret = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

    if (fd >= 0) {
        close(fd);
    }
    return ret;
}

static void box_set_refused(GError **error, const char *what,
                            const char *path, int ret)
{
    g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                "--cpu-quota and --memory-max need a cgroup of their own, and "
                "%s %s is refused: %s; run as root, or in a cgroup that is "
                "delegated to you (systemd-run --user --scope -p "
                "Delegate=yes)", what, path, g_strerror(-ret));
}

/* Version 2: enables the controller for children of the parent. */
static bool box_enable(BoxPart *part, GError **error)
{
    g_autofree char *path = g_build_filename(part->parent,
                                             "cgroup.subtree_control", NULL);
    g_autofree char *word = g_strconcat("+", part->controller, NULL);
    g_autofree char *text = NULL;
    g_auto(GStrv) words = NULL;
    int ret;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        box_set_refused(error, "reading", path, -ENOENT);
        return false;
    }
    words = g_strsplit(g_strchomp(text), " ", -1);
    if (g_strv_contains((const char *const *)words, part->controller)) {
        return true;
    }
    ret = box_write(part->parent, "cgroup.subtree_control", word);
    if (ret) {
        g_autofree char *what = g_strdup_printf("the controller %s in",
                                                part->controller);

        box_set_refused(error, what, path, ret);
        return false;
    }
    part->was_enabled = true;
    return true;
}

static bool box_make(BoxPart *part, const char *root, GError **error)
{
    g_autofree char *name = g_strdup_printf("fastload-bench-%d",
                                            (int)getpid());
    g_autofree char *top = NULL;

    part->home = cgroup_own_folder(root, part->controller, &top,
                                   &part->is_v2);
    if (!part->home) {
        box_set_refused(error, "the controller", part->controller, -ENOENT);
        return false;
    }
    part->parent = part->is_v2 && strcmp(part->home, top)
        ? g_path_get_dirname(part->home) : g_strdup(part->home);
    if (part->is_v2 && !box_enable(part, error)) {
        return false;
    }
    part->folder = g_build_filename(part->parent, name, NULL);
    if (mkdir(part->folder, 0755) < 0 && errno != EEXIST) {
        box_set_refused(error, "making", part->folder, -errno);
        return false;
    }
    return true;
}

/* False: there are still processes in it. */
static bool box_remove(Box *box)
{
    bool is_gone = true;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(box->parts); i++) {
        BoxPart *part = &box->parts[i];
        g_autofree char *word = g_strconcat("-", part->controller, NULL);

        if (part->folder && rmdir(part->folder) < 0 && errno != ENOENT) {
            is_gone = false;
        } else if (part->was_enabled) {
            box_write(part->parent, "cgroup.subtree_control", word);
            part->was_enabled = false;
        }
    }
    return is_gone;
}

static void box_keep(Box *box, int fd) G_GNUC_NORETURN;
static void box_keep(Box *box, int fd)
{
    uint32_t tries = 0;
    char byte;

    /* Signals for the tool must not end the keeper; it holds no pipe open. */
    setsid();
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    close(box->life_fd);
    dup2(fd, STDIN_FILENO);
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    syscall(SYS_close_range, STDERR_FILENO + 1, UINT32_MAX, 0);
    while (read(STDIN_FILENO, &byte, 1) < 0 && errno == EINTR) {
    }
    /* Processes of a run end soon after this one, but not at once. */
    while (!box_remove(box) && tries++ < REMOVE_TRIES) {
        g_usleep(REMOVE_WAIT_US);
    }
    _exit(0);
}

static bool box_start_keeper(Box *box, GError **error)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot make a pipe: %s", g_strerror(errno));
        return false;
    }
    box->life_fd = fds[1];
    fflush(NULL);
    box->keeper = fork();
    if (box->keeper == 0) {
        box_keep(box, fds[0]);
    }
    close(fds[0]);
    if (box->keeper < 0) {
        box->keeper = 0;
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot start a process: %s", g_strerror(errno));
        return false;
    }
    return true;
}

/* Tries a process that enters it, to report a failure before any run. */
static bool box_try(const Box *box, GError **error)
{
    pid_t child;
    int status = 0;

    fflush(NULL);
    child = fork();
    if (child == 0) {
        _exit(box_enter(box, NULL) ? 0 : 1);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0 || status) {
        box_set_refused(error, "going into", box->parts[BOX_CPU].folder
                        ? box->parts[BOX_CPU].folder
                        : box->parts[BOX_MEMORY].folder, -EPERM);
        return false;
    }
    return true;
}

Box *box_new(const char *root, bool has_cpu, bool has_memory, GError **error)
{
    g_autoptr(Box) box = g_new0(Box, 1);

    box->life_fd = -1;
    box->parts[BOX_CPU].controller = "cpu";
    box->parts[BOX_MEMORY].controller = "memory";
    if ((has_cpu && !box_make(&box->parts[BOX_CPU], root, error)) ||
        (has_memory && !box_make(&box->parts[BOX_MEMORY], root, error)) ||
        !box_start_keeper(box, error) || !box_try(box, error)) {
        return NULL;
    }
    return g_steal_pointer(&box);
}

void box_free(Box *box)
{
    uint32_t i;

    if (!box) {
        return;
    }
    if (box->keeper) {
        close(box->life_fd);
        waitpid(box->keeper, NULL, 0);
    } else {
        box_remove(box);
    }
    for (i = 0; i < G_N_ELEMENTS(box->parts); i++) {
        g_free(box->parts[i].home);
        g_free(box->parts[i].parent);
        g_free(box->parts[i].folder);
    }
    g_free(box);
}

static bool box_set_one(const BoxPart *part, const char *file,
                        const char *text, GError **error)
{
    int ret = box_write(part->folder, file, text);

    if (ret) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot write %s into %s of the cgroup %s: %s", text,
                    file, part->folder, g_strerror(-ret));
    }
    return !ret;
}

bool box_set(const Box *box, uint64_t cpu_millionths, uint64_t memory_bytes,
             GError **error)
{
    const BoxPart *cpu = &box->parts[BOX_CPU];
    const BoxPart *memory = &box->parts[BOX_MEMORY];
    uint64_t quota_us = cpu_millionths * PERIOD_US / 1000000;
    g_autofree char *quota = cpu_millionths
        ? g_strdup_printf("%" PRIu64, quota_us)
        : g_strdup(cpu->is_v2 ? "max" : "-1");
    g_autofree char *line = g_strdup_printf("%s %d", quota, PERIOD_US);
    g_autofree char *period = g_strdup_printf("%d", PERIOD_US);
    g_autofree char *most = memory_bytes
        ? g_strdup_printf("%" PRIu64, memory_bytes)
        : g_strdup(memory->is_v2 ? "max" : "-1");

    if (cpu->folder && cpu->is_v2 &&
        !box_set_one(cpu, "cpu.max", line, error)) {
        return false;
    }
    if (cpu->folder && !cpu->is_v2 &&
        (!box_set_one(cpu, "cpu.cfs_period_us", period, error) ||
         !box_set_one(cpu, "cpu.cfs_quota_us", quota, error))) {
        return false;
    }
    return !memory->folder ||
           box_set_one(memory, memory->is_v2 ? "memory.max"
                       : "memory.limit_in_bytes", most, error);
}

bool box_enter(const Box *box, GError **error)
{
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(box->parts); i++) {
        const char *folder = box->parts[i].folder;
        int ret = folder ? box_write(folder, "cgroup.procs", "0") : 0;

        if (ret) {
            box_set_refused(error, "going into", folder, ret);
            return false;
        }
    }
    return true;
}

void box_leave(const Box *box)
{
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(box->parts); i++) {
        if (box->parts[i].folder) {
            box_write(box->parts[i].home, "cgroup.procs", "0");
        }
    }
}

uint64_t box_oom_kill_count(const Box *box)
{
    const BoxPart *part = &box->parts[BOX_MEMORY];

    return part->folder ? cgroup_oom_kills_of(part->folder, part->is_v2) : 0;
}
