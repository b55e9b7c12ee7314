/*
 * fastload-bench: the cgroup that this process lives in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads limits of memory, CPU and threads, from version 2 and version 1, also
 * in a container that sees only part of the tree.  Changes nothing.  A limit
 * that cannot be read counts as none; nothing here fails.
 */
#include "bench.h"

/* Version 1 writes "no limit" as a number of about 2^63. */
#define NO_LIMIT_BYTES_MIN (1ull << 62)

/* The folder of a controller, for this process. */
typedef struct Cgroup {
    char *folder;            /* NULL: there is none */
    char *top;               /* the topmost folder that is visible */
    bool is_v2;
} Cgroup;

static void cgroup_clear(Cgroup *cgroup)
{
    g_free(cgroup->folder);
    g_free(cgroup->top);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Cgroup, cgroup_clear)

static bool cgroup_list_has(const char *list, const char *word)
{
    g_auto(GStrv) words = g_strsplit(list, ",", -1);

    return g_strv_contains((const char *const *)words, word);
}

/* The path of @controller, or of version 2, in /proc/self/cgroup. */
static char *cgroup_path(const char *root, const char *controller,
                         bool *ret_is_v2)
{
    g_autofree char *name = g_strconcat(root, "/proc/self/cgroup", NULL);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    char *found = NULL;
    uint32_t i;

    if (!g_file_get_contents(name, &text, NULL, NULL)) {
        return NULL;
    }
    lines = g_strsplit(text, "\n", -1);
    for (i = 0; lines[i]; i++) {
        g_auto(GStrv) fields = g_strsplit(lines[i], ":", 3);
        bool is_v1 = g_strv_length(fields) == 3 &&
                     cgroup_list_has(fields[1], controller);

        /* A controller that version 1 has is not in version 2. */
        if (is_v1 || g_str_has_prefix(lines[i], "0::")) {
            if (is_v1 || !found) {
                g_free(found);
                found = g_strdup(fields[2]);
                *ret_is_v2 = !is_v1;
            }
        }
        if (is_v1) {
            break;
        }
    }
    return found;
}

/* The folder of @path below a mount whose root is @mount_root. */
static char *cgroup_below(const char *root, const char *mount_point,
                          const char *mount_root, const char *path)
{
    size_t root_len = strlen(mount_root);
    const char *rest = "";

    if (!strcmp(mount_root, "/")) {
        rest = path;
    } else if (!strncmp(path, mount_root, root_len) &&
               (path[root_len] == '/' || !path[root_len])) {
        rest = path + root_len;
    }
    /* A path outside of this cgroup namespace cannot be read. */
    if (strstr(rest, "/..") || !strcmp(rest, "/")) {
        rest = "";
    }
    return g_strconcat(root, mount_point, rest, NULL);
}

static bool cgroup_find(const char *root, const char *controller,
                        Cgroup *ret_cgroup)
{
    g_autofree char *name = g_strconcat(root, "/proc/self/mountinfo", NULL);
    bool is_v2 = false;
    g_autofree char *path = cgroup_path(root, controller, &is_v2);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint32_t i;

    if (!path || !g_file_get_contents(name, &text, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    for (i = 0; lines[i]; i++) {
        char mount_root[1024], mount_point[1024], type[32], options[256];
        const char *rest = strstr(lines[i], " - ");

        if (!rest ||
            sscanf(lines[i], "%*s %*s %*s %1023s %1023s", mount_root,
                   mount_point) != 2 ||
            sscanf(rest, " - %31s %*s %255s", type, options) != 2 ||
            strcmp(type, is_v2 ? "cgroup2" : "cgroup") ||
            (!is_v2 && !cgroup_list_has(options, controller))) {
            continue;
        }
        ret_cgroup->folder = cgroup_below(root, mount_point, mount_root,
                                          path);
        ret_cgroup->top = g_strconcat(root, mount_point, NULL);
        ret_cgroup->is_v2 = is_v2;
        return true;
    }
    return false;
}

/* One level up; false at the top. */
static bool cgroup_rise(Cgroup *cgroup)
{
    char *slash = strrchr(cgroup->folder, '/');

    if (!slash || strlen(cgroup->folder) <= strlen(cgroup->top)) {
        return false;
    }
    *slash = '\0';
    return true;
}

static char *cgroup_read(const Cgroup *cgroup, const char *file)
{
    g_autofree char *path = g_build_filename(cgroup->folder, file, NULL);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? g_strchomp(text)
                                                        : NULL;
}

/* The number in a file, or after @key in it; false: there is none. */
static bool cgroup_number(const Cgroup *cgroup, const char *file,
                          const char *key, uint64_t *ret_number)
{
    g_autofree char *text = cgroup_read(cgroup, file);
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);
    uint32_t i;

    for (i = 0; lines[i]; i++) {
        const char *at = lines[i];

        if (key) {
            at = g_str_has_prefix(at, key) && at[strlen(key)] == ' '
                ? at + strlen(key) + 1 : "";
        }
        if (g_ascii_isdigit(*at)) {
            *ret_number = g_ascii_strtoull(at, NULL, 10);
            return true;
        }
    }
    return false;
}

/* Applies the limit of this level. */
static void cgroup_add_level(const Cgroup *cgroup, CgroupMemory *memory)
{
    bool is_v2 = cgroup->is_v2;
    uint64_t limit_bytes, used_bytes = 0, inactive_bytes = 0;
    uint64_t active_bytes = 0;

    if (!cgroup_number(cgroup, is_v2 ? "memory.max" : "memory.limit_in_bytes",
                       NULL, &limit_bytes) ||
        limit_bytes >= NO_LIMIT_BYTES_MIN) {
        return;
    }
    cgroup_number(cgroup, is_v2 ? "memory.current" : "memory.usage_in_bytes",
                  NULL, &used_bytes);
    cgroup_number(cgroup, "memory.stat", is_v2 ? "inactive_file"
                  : "total_inactive_file", &inactive_bytes);
    cgroup_number(cgroup, "memory.stat", is_v2 ? "active_file"
                  : "total_active_file", &active_bytes);
    used_bytes -= MIN(used_bytes, inactive_bytes + active_bytes);
    memory->limit_bytes = MIN(memory->limit_bytes, limit_bytes);
    memory->free_bytes = MIN(memory->free_bytes,
                             limit_bytes - MIN(limit_bytes, used_bytes));
}

void cgroup_get_memory(const char *root, CgroupMemory *ret_memory)
{
    g_auto(Cgroup) cgroup = { 0 };

    ret_memory->limit_bytes = CGROUP_UNLIMITED;
    ret_memory->free_bytes = CGROUP_UNLIMITED;
    if (!cgroup_find(root, "memory", &cgroup)) {
        return;
    }
    do {
        cgroup_add_level(&cgroup, ret_memory);
    } while (cgroup_rise(&cgroup));
}

/* The quota of this level in CPUs; 0: none. */
static double cgroup_level_quota(const Cgroup *cgroup)
{
    uint64_t quota_us, period_us;

    if (cgroup->is_v2) {
        g_autofree char *text = cgroup_read(cgroup, "cpu.max");

        return text && sscanf(text, "%" SCNu64 " %" SCNu64, &quota_us,
                              &period_us) == 2 && period_us
            ? (double)quota_us / period_us : 0;
    }
    return cgroup_number(cgroup, "cpu.cfs_quota_us", NULL, &quota_us) &&
           cgroup_number(cgroup, "cpu.cfs_period_us", NULL, &period_us) &&
           period_us ? (double)quota_us / period_us : 0;
}

double cgroup_get_cpu_quota(const char *root)
{
    g_auto(Cgroup) cgroup = { 0 };
    double least = 0;

    if (!cgroup_find(root, "cpu", &cgroup)) {
        return 0;
    }
    do {
        double quota = cgroup_level_quota(&cgroup);

        if (quota > 0 && (least == 0 || quota < least)) {
            least = quota;
        }
    } while (cgroup_rise(&cgroup));
    return least;
}

uint64_t cgroup_get_free_pids(const char *root)
{
    g_auto(Cgroup) cgroup = { 0 };
    uint64_t least = CGROUP_UNLIMITED;

    if (!cgroup_find(root, "pids", &cgroup)) {
        return least;
    }
    do {
        uint64_t max_count, used_count = 0;

        if (cgroup_number(&cgroup, "pids.max", NULL, &max_count)) {
            cgroup_number(&cgroup, "pids.current", NULL, &used_count);
            least = MIN(least, max_count - MIN(max_count, used_count));
        }
    } while (cgroup_rise(&cgroup));
    return least;
}

uint64_t cgroup_oom_kills_of(const char *folder, bool is_v2)
{
    Cgroup cgroup = { .folder = (char *)folder };
    uint64_t count = 0;

    cgroup_number(&cgroup, is_v2 ? "memory.events" : "memory.oom_control",
                  "oom_kill", &count);
    return count;
}

uint64_t cgroup_oom_kill_count(const char *root)
{
    g_auto(Cgroup) cgroup = { 0 };

    return cgroup_find(root, "memory", &cgroup)
        ? cgroup_oom_kills_of(cgroup.folder, cgroup.is_v2) : 0;
}

char *cgroup_own_folder(const char *root, const char *controller,
                        char **ret_top, bool *ret_is_v2)
{
    g_auto(Cgroup) cgroup = { 0 };

    if (!cgroup_find(root, controller, &cgroup)) {
        return NULL;
    }
    *ret_top = g_steal_pointer(&cgroup.top);
    *ret_is_v2 = cgroup.is_v2;
    return g_steal_pointer(&cgroup.folder);
}
