/*
 * fastload-bench: the machine, as far as it influences a result.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads /proc and /sys.  What cannot be read, for example in a container, is
 * left out; nothing here fails.
 */
#include "bench.h"
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

static void environment_add_text(JsonObject *env, const char *key,
                                 const char *text)
{
    if (text && *text) {
        json_object_set_string_member(env, key, text);
    }
}

char *environment_line(const char *path)
{
    char *text = NULL;
    char *open, *end;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return NULL;
    }
    text[strcspn(text, "\n")] = '\0';
    open = strchr(text, '[');
    end = open ? strchr(open, ']') : NULL;
    if (end) {
        *end = '\0';
        memmove(text, open + 1, strlen(open + 1) + 1);
    }
    return text;
}

static void environment_add_line(JsonObject *env, const char *key,
                                 const char *path)
{
    g_autofree char *text = environment_line(path);

    environment_add_text(env, key, text);
}

static void environment_add_number(JsonObject *env, const char *key,
                                   const char *path, uint64_t unit)
{
    g_autofree char *text = environment_line(path);

    if (text) {
        json_object_set_int_member(env, key,
                                   g_ascii_strtoull(text, NULL, 10) * unit);
    }
}

static void environment_add_cpu(JsonObject *env)
{
    g_autofree char *text = NULL;
    char *at = NULL;

    if (g_file_get_contents("/proc/cpuinfo", &text, NULL, NULL)) {
        at = strstr(text, "model name");
        at = at ? strchr(at, ':') : NULL;
    }
    if (at) {
        at[strcspn(at, "\n")] = '\0';
        environment_add_text(env, "cpu", g_strstrip(at + 1));
    }
    json_object_set_int_member(env, "cpu_count", sysconf(_SC_NPROCESSORS_ONLN));
    json_object_set_int_member(env, "memory_bytes",
                               (int64_t)sysconf(_SC_PHYS_PAGES) *
                               sysconf(_SC_PAGESIZE));
}

/* The line of /proc/self/mountinfo for a device number. */
static void environment_add_mount(JsonObject *env, dev_t dev)
{
    g_autofree char *wanted = g_strdup_printf("%u:%u", major(dev),
                                              minor(dev));
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint32_t i;

    if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL)) {
        return;
    }
    lines = g_strsplit(text, "\n", -1);
    for (i = 0; lines[i]; i++) {
        char number[32], options[256], type[64];
        const char *rest = strstr(lines[i], " - ");

        if (rest && sscanf(lines[i], "%*s %*s %31s %*s %*s %255s", number,
                           options) == 2 &&
            sscanf(rest, " - %63s", type) == 1 && !strcmp(number, wanted)) {
            environment_add_text(env, "filesystem", type);
            environment_add_text(env, "mount_options", options);
            return;
        }
    }
}

static void environment_add_device(JsonObject *env, dev_t dev)
{
    g_autofree char *link = g_strdup_printf("/sys/dev/block/%u:%u",
                                            major(dev), minor(dev));
    g_autofree char *folder = realpath(link, NULL);
    g_autofree char *queue = NULL, *scheduler = NULL, *ahead = NULL;
    g_autofree char *name = NULL;

    if (!folder) {
        return;
    }
    queue = g_build_filename(folder, "queue", NULL);
    if (!g_file_test(queue, G_FILE_TEST_IS_DIR)) {
        /* A partition has the queue of its disk. */
        g_free(queue);
        queue = g_build_filename(folder, "..", "queue", NULL);
    }
    scheduler = g_build_filename(queue, "scheduler", NULL);
    ahead = g_build_filename(queue, "read_ahead_kb", NULL);
    name = g_path_get_basename(folder);
    environment_add_text(env, "device", name);
    environment_add_line(env, "scheduler", scheduler);
    environment_add_number(env, "read_ahead_bytes", ahead, 1024);
}

/* The name in @folder that begins with @prefix; NULL: none, or several. */
static char *environment_only_child(const char *folder, const char *prefix)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    g_autofree char *found = NULL;
    const char *name;
    uint32_t count = 0;

    while (dir && (name = g_dir_read_name(dir))) {
        if (g_str_has_prefix(name, prefix)) {
            g_free(found);
            found = g_strdup(name);
            count++;
        }
    }
    if (dir) {
        g_dir_close(dir);
    }
    return count == 1 ? g_steal_pointer(&found) : NULL;
}

bool environment_read_ahead(const char *folder, dev_t dev, const char *type,
                            uint64_t *ret_bytes)
{
    g_autofree char *name = g_strdup_printf("%u:%u", major(dev), minor(dev));
    g_autofree char *path = g_build_filename(folder, name, "read_ahead_kb",
                                             NULL);
    g_autofree char *text = environment_line(path);

    if (!text && type && *type) {
        /* btrfs numbers them: "btrfs-1". */
        g_autofree char *prefix = g_strconcat(type, "-", NULL);
        g_autofree char *only = environment_only_child(folder, prefix);

        g_free(path);
        path = g_build_filename(folder, only ? only : "", "read_ahead_kb",
                                NULL);
        text = environment_line(path);
    }
    if (text) {
        *ret_bytes = g_ascii_strtoull(text, NULL, 10) * 1024;
    }
    return text;
}

static void environment_add_limit(JsonObject *env, const char *key,
                                  int resource)
{
    struct rlimit limit;

    if (getrlimit(resource, &limit) == 0) {
        json_object_set_int_member(env, key, limit.rlim_cur == RLIM_INFINITY
                                   ? -1 : (int64_t)limit.rlim_cur);
    }
}

/* Adds the limits that exist. */
static void environment_add_cgroup(JsonObject *env)
{
    double quota = cgroup_get_cpu_quota("");
    CgroupMemory memory;

    cgroup_get_memory("", &memory);
    if (memory.limit_bytes != CGROUP_UNLIMITED) {
        json_object_set_int_member(env, "cgroup_memory_bytes",
                                   memory.limit_bytes);
    }
    if (quota > 0) {
        json_object_set_double_member(env, "cpu_quota", quota);
    }
}

JsonObject *environment_new(const char *path)
{
    JsonObject *env = json_object_new();
    uint64_t read_ahead_bytes;
    struct utsname names;
    const char *type;
    struct stat st;

    if (uname(&names) == 0) {
        environment_add_text(env, "kernel", names.release);
        environment_add_text(env, "architecture", names.machine);
    }
    environment_add_cpu(env);
    environment_add_cgroup(env);
    if (stat(path, &st) == 0) {
        dev_t dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;

        environment_add_mount(env, st.st_dev);
        environment_add_device(env, dev);
        type = json_object_get_string_member_with_default(env, "filesystem",
                                                          "");
        if (environment_read_ahead("/sys/class/bdi", dev, type,
                                   &read_ahead_bytes)) {
            json_object_set_int_member(env, "read_ahead_bytes",
                                       read_ahead_bytes);
        }
    }
    environment_add_line(env, "thp",
                         "/sys/kernel/mm/transparent_hugepage/enabled");
    environment_add_line(env, "thp_defrag",
                         "/sys/kernel/mm/transparent_hugepage/defrag");
    environment_add_number(env, "max_map_count",
                           "/proc/sys/vm/max_map_count", 1);
    json_object_set_boolean_member(
        env, "has_page_reporting",
        g_file_test("/sys/module/page_reporting", G_FILE_TEST_IS_DIR));
    environment_add_number(env, "unprivileged_userfaultfd",
                           "/proc/sys/vm/unprivileged_userfaultfd", 1);
    environment_add_number(env, "io_uring_disabled",
                           "/proc/sys/kernel/io_uring_disabled", 1);
    environment_add_limit(env, "memlock_bytes", RLIMIT_MEMLOCK);
    environment_add_limit(env, "open_files", RLIMIT_NOFILE);
    json_object_set_boolean_member(env, "is_root", geteuid() == 0);
    return env;
}

static char *environment_text(JsonObject *env, const char *key)
{
    JsonNode *node = json_object_get_member(env, key);

    return node ? json_to_string(node, FALSE) : g_strdup("unknown");
}

/* Other members (limits, the user) decide whether it runs, not how fast. */
static const char *const environment_that_matters[] = {
    "architecture", "cgroup_memory_bytes", "cpu", "cpu_count", "cpu_quota",
    "device", "filesystem", "has_page_reporting", "io_uring_disabled",
    "kernel", "memory_bytes", "mount_options", "read_ahead_bytes",
    "scheduler", "thp", "thp_defrag", NULL,
};

char *environment_difference(JsonObject *a, JsonObject *b, bool that_matters)
{
    g_autoptr(GList) keys = json_object_get_members(a);
    g_autoptr(GList) others = json_object_get_members(b);
    g_autoptr(GString) text = g_string_new(NULL);
    GList *at;

    for (at = others; at; at = at->next) {
        if (!json_object_has_member(a, at->data)) {
            keys = g_list_append(keys, at->data);
        }
    }
    for (at = keys; at; at = at->next) {
        g_autofree char *key = g_strescape(at->data, NULL);
        g_autofree char *left = environment_text(a, at->data);
        g_autofree char *right = environment_text(b, at->data);

        if (strcmp(left, right) &&
            g_strv_contains(environment_that_matters, at->data) ==
            that_matters) {
            g_string_append_printf(text, "%s%s is %s in one and %s in the "
                                   "other", text->len ? "; " : "", key, left,
                                   right);
        }
    }
    return text->len ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}
