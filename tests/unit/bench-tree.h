/*
 * fastload-bench: a folder with what /proc and /sys would have, for unit tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BENCH_TREE_H
#define BENCH_TREE_H

#include <glib.h>
#include <glib/gstdio.h>

/* Writes @path, which begins with "/", below @root. */
static inline void tree_write(const char *root, const char *path,
                              const char *text)
{
    g_autofree char *full = g_strconcat(root, path, NULL);
    g_autofree char *folder = g_path_get_dirname(full);

    g_assert_cmpint(g_mkdir_with_parents(folder, 0700), ==, 0);
    g_assert_true(g_file_set_contents(full, text, -1, NULL));
}

/* Removes @folder and what is in it. */
static inline void tree_remove(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        tree_remove(path);
    }
    g_remove(folder);
}

#endif /* BENCH_TREE_H */
