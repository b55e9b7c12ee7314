/*
 * The limits of a cgroup, read from trees of files that look like /proc and
 * /sys of machines of each kind.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "bench.h"
#include "bench-tree.h"

#define MIB (1ull << 20)

#define V2_MOUNT "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 " \
                 "cgroup2 rw,nsdelegate\n"
#define V1_MOUNTS "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n" \
                  "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup none " \
                  "rw,memory\n" \
                  "32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup none " \
                  "rw,cpu,cpuacct\n"

typedef struct Tree {
    char *root;
} Tree;

static void tree_set_up(Tree *tree, gconstpointer opaque)
{
    tree->root = g_dir_make_tmp("test-bench-cgroup-XXXXXX", NULL);
    g_assert_nonnull(tree->root);
}

static void tree_tear_down(Tree *tree, gconstpointer opaque)
{
    tree_remove(tree->root);
    g_free(tree->root);
}

static void test_nothing_there(Tree *tree, gconstpointer opaque)
{
    /* Without /proc, or without cgroups, there is no limit. */
    CgroupMemory memory;

    cgroup_get_memory(tree->root, &memory);
    g_assert_cmpuint(memory.limit_bytes, ==, CGROUP_UNLIMITED);
    g_assert_cmpuint(memory.free_bytes, ==, CGROUP_UNLIMITED);
    g_assert_cmpfloat(cgroup_get_cpu_quota(tree->root), ==, 0);
    g_assert_cmpuint(cgroup_oom_kill_count(tree->root), ==, 0);
}

static void test_v2_levels(Tree *tree, gconstpointer opaque)
{
    /* The smallest limit of all levels counts; page cache counts as free. */
    CgroupMemory memory;

    tree_write(tree->root, "/proc/self/cgroup", "0::/outer/inner\n");
    tree_write(tree->root, "/proc/self/mountinfo", V2_MOUNT);
    tree_write(tree->root, "/sys/fs/cgroup/outer/memory.max", "629145600\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/memory.current",
               "524288000\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/memory.stat",
               "anon 1\nfile 9\nactive_file 104857600\n"
               "inactive_file 209715200\ninactive_file_x 1\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/cpu.max", "150000 100000\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/inner/memory.max", "max\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/inner/memory.current", "1\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/inner/memory.events",
               "low 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/inner/cpu.max",
               "max 100000\n");
    cgroup_get_memory(tree->root, &memory);
    g_assert_cmpuint(memory.limit_bytes, ==, 600 * MIB);
    g_assert_cmpuint(memory.free_bytes, ==, 400 * MIB);
    g_assert_cmpfloat(cgroup_get_cpu_quota(tree->root), ==, 1.5);
    g_assert_cmpuint(cgroup_oom_kill_count(tree->root), ==, 2);
}

static void test_v1_hybrid(Tree *tree, gconstpointer opaque)
{
    /* Limits of version 1 are found beside an empty tree of version 2. */
    CgroupMemory memory;

    tree_write(tree->root, "/proc/self/cgroup",
               "5:memory:/box\n4:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n");
    tree_write(tree->root, "/proc/self/mountinfo", V1_MOUNTS);
    tree_write(tree->root, "/sys/fs/cgroup/memory/memory.limit_in_bytes",
               "9223372036854771712\n");
    tree_write(tree->root, "/sys/fs/cgroup/memory/box/memory.limit_in_bytes",
               "104857600\n");
    tree_write(tree->root, "/sys/fs/cgroup/memory/box/memory.usage_in_bytes",
               "52428800\n");
    tree_write(tree->root, "/sys/fs/cgroup/memory/box/memory.stat",
               "inactive_file 7\ntotal_inactive_file 10485760\n");
    tree_write(tree->root, "/sys/fs/cgroup/memory/box/memory.oom_control",
               "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n");
    tree_write(tree->root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us",
               "-1\n");
    tree_write(tree->root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us",
               "100000\n");
    cgroup_get_memory(tree->root, &memory);
    g_assert_cmpuint(memory.limit_bytes, ==, 100 * MIB);
    g_assert_cmpuint(memory.free_bytes, ==, 60 * MIB);
    g_assert_cmpfloat(cgroup_get_cpu_quota(tree->root), ==, 0);
    g_assert_cmpuint(cgroup_oom_kill_count(tree->root), ==, 4);
    tree_write(tree->root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us",
               "50000\n");
    g_assert_cmpfloat(cgroup_get_cpu_quota(tree->root), ==, 0.5);
}

static void test_container(Tree *tree, gconstpointer opaque)
{
    /* A limit is found though the mount shows only the container's part. */
    CgroupMemory memory;

    tree_write(tree->root, "/proc/self/cgroup", "5:memory:/docker/abc\n");
    tree_write(tree->root, "/proc/self/mountinfo",
               "31 24 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup "
               "none rw,memory\n");
    tree_write(tree->root, "/sys/fs/cgroup/memory/memory.limit_in_bytes",
               "104857600\n");
    cgroup_get_memory(tree->root, &memory);
    g_assert_cmpuint(memory.limit_bytes, ==, 100 * MIB);
    /* A namespace that we are outside of. */
    tree_write(tree->root, "/proc/self/cgroup", "5:memory:/../other\n");
    cgroup_get_memory(tree->root, &memory);
    g_assert_cmpuint(memory.limit_bytes, ==, 100 * MIB);
}

static void test_threads(Tree *tree, gconstpointer opaque)
{
    /* The level with the fewest free threads counts, in both versions. */
    g_assert_cmpuint(cgroup_get_free_pids(tree->root), ==, CGROUP_UNLIMITED);
    tree_write(tree->root, "/proc/self/cgroup", "0::/outer/inner\n");
    tree_write(tree->root, "/proc/self/mountinfo", V2_MOUNT);
    tree_write(tree->root, "/sys/fs/cgroup/outer/inner/pids.max", "max\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/inner/pids.current", "7\n");
    g_assert_cmpuint(cgroup_get_free_pids(tree->root), ==, CGROUP_UNLIMITED);
    tree_write(tree->root, "/sys/fs/cgroup/outer/pids.max", "100\n");
    tree_write(tree->root, "/sys/fs/cgroup/outer/pids.current", "30\n");
    g_assert_cmpuint(cgroup_get_free_pids(tree->root), ==, 70);
    tree_write(tree->root, "/sys/fs/cgroup/outer/inner/pids.max", "5\n");
    g_assert_cmpuint(cgroup_get_free_pids(tree->root), ==, 0);
    tree_write(tree->root, "/proc/self/cgroup", "5:pids:/box\n0::/\n");
    tree_write(tree->root, "/proc/self/mountinfo",
               "31 24 0:27 / /sys/fs/cgroup/pids rw - cgroup none rw,pids\n");
    tree_write(tree->root, "/sys/fs/cgroup/pids/box/pids.max", "12\n");
    tree_write(tree->root, "/sys/fs/cgroup/pids/box/pids.current", "2\n");
    g_assert_cmpuint(cgroup_get_free_pids(tree->root), ==, 10);
}

static void add(const char *path, void (*func)(Tree *, gconstpointer))
{
    g_test_add(path, Tree, NULL, tree_set_up, func, tree_tear_down);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("/bench/cgroup/nothing-there", test_nothing_there);
    add("/bench/cgroup/v2-levels", test_v2_levels);
    add("/bench/cgroup/v1-hybrid", test_v1_hybrid);
    add("/bench/cgroup/container", test_container);
    add("/bench/cgroup/threads", test_threads);
    return g_test_run();
}
