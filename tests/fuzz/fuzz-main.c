/*
 * A program of a fuzz target.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With -DFUZZ_LIBFUZZER it is one of libFuzzer.  Without, it takes the files of
 * a folder, so that the corpus is a test with any compiler: those whose names
 * begin with "bad-" must be refused, the others be taken.
 */
#include "fuzz.h"
#include <string.h>

#ifdef FUZZ_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t byte_count);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t byte_count)
{
    fuzz_one(data, byte_count);
    return 0;
}
#else
static gint fuzz_compare(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of the files in folder @path, sorted; none in what cannot be read. */
static GPtrArray *fuzz_names(const char *path)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_ptr_array_add(names, g_strdup(name));
    }
    g_clear_pointer(&dir, g_dir_close);
    g_ptr_array_sort(names, fuzz_compare);
    return names;
}

/* TAP: a line for each file of the folder. */
int main(int argc, char **argv)
{
    g_autoptr(GPtrArray) names = fuzz_names(argc == 2 ? argv[1] : "");
    guint i;

    if (!names->len) {
        fprintf(stderr, "usage: %s FOLDER, one that has files\n", argv[0]);
        return 1;
    }
    printf("1..%u\n", names->len);
    for (i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i);
        g_autofree char *path = g_build_filename(argv[1], name, NULL);
        g_autofree char *bytes = NULL;
        gsize byte_count = 0;
        GError *error = NULL;
        bool is_ok;

        if (!g_file_get_contents(path, &bytes, &byte_count, &error)) {
            fprintf(stderr, "%s\n", error->message);
            return 1;
        }
        is_ok = fuzz_one((const uint8_t *)bytes, byte_count);
        CHECK(is_ok == !g_str_has_prefix(name, "bad-"));
        printf("ok %u - %s\n", i + 1, name);
        fflush(stdout);
    }
    return 0;
}
#endif
