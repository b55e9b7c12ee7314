/*
 * fastload-bench: where results go.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Files and standard output.  Write errors of standard output are detected as
 * well: a full disk behind it is an error.  A regular file is replaced
 * atomically, when all of the new one is on the disk; other files (a device, a
 * link, a pipe) are written into.  Knows nothing of the contents.
 */
#include "bench.h"
#include <stdio_ext.h>
#include <sys/stat.h>

static const char *const output_options[OUTPUT_COUNT] = {
    [OUTPUT_JSON] = "--json",
    [OUTPUT_HTML] = "--html",
    [OUTPUT_CSV] = "--csv",
    [OUTPUT_MARKDOWN] = "--markdown",
};

static bool output_is_stdout(const char *path)
{
    return path && !strcmp(path, "-");
}

bool output_flush(GError **error)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return true;
    }
    g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                "cannot write to standard output: %s", g_strerror(errno));
    /* The error is reported once. */
    __fpurge(stdout);
    clearerr(stdout);
    return false;
}

static bool output_print(const char *text, GError **error)
{
    fputs(text, stdout);
    return output_flush(error);
}

bool output_is_replaced(const char *path)
{
    struct stat st;

    return !output_is_stdout(path) &&
           (lstat(path, &st) < 0 || S_ISREG(st.st_mode));
}

bool output_write_text(const char *path, const char *text, GError **error)
{
    bool is_written;
    FILE *file;

    if (output_is_stdout(path)) {
        return output_print(text, error);
    }
    if (output_is_replaced(path)) {
        return g_file_set_contents(path, text, -1, error);
    }
    file = fopen(path, "we");
    is_written = file && fputs(text, file) >= 0;
    if ((file && fclose(file)) || !is_written) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot write %s: %s", path, g_strerror(errno));
        return false;
    }
    return true;
}

/* Can @path be written?  Checked before the runs. */
static bool output_check_path(const char *path, GError **error)
{
    struct stat st;
    bool is_new = lstat(path, &st) < 0;
    FILE *file = fopen(path, "a");

    if (!file) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot write %s: %s", path, g_strerror(errno));
        return false;
    }
    fclose(file);
    if (is_new) {
        unlink(path);
    }
    return true;
}

/* An output must not overwrite an input. */
static bool output_check_input(const char *path, const char *input,
                               GError **error)
{
    struct stat out, in;

    if (stat(path, &out) == 0 && stat(input, &in) == 0 &&
        in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "%s is read and cannot be the output as well: choose "
                    "another name", path);
        return false;
    }
    return true;
}

/* The canonical name of a file that may not exist yet; or NULL. */
static char *output_real_path(const char *path)
{
    g_autofree char *folder = NULL, *name = NULL, *real_folder = NULL;
    char *real = realpath(path, NULL);

    if (!real) {
        folder = g_path_get_dirname(path);
        name = g_path_get_basename(path);
        real_folder = realpath(folder, NULL);
        real = real_folder ? g_build_filename(real_folder, name, NULL) : NULL;
    }
    return real;
}

/* Would two outputs overwrite each other? */
static bool output_is_same(const char *a, const char *b)
{
    g_autofree char *real_a = NULL, *real_b = NULL;

    if (!strcmp(a, b)) {
        return true;
    }
    if (output_is_stdout(a) || output_is_stdout(b)) {
        return false;
    }
    real_a = output_real_path(a);
    real_b = output_real_path(b);
    return real_a && real_b && !strcmp(real_a, real_b);
}

static bool output_check_names(const Outputs *outputs, GError **error)
{
    OutputKind i, j;

    if (output_is_stdout(outputs->paths[OUTPUT_HTML])) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "--html needs the name of a file; see fastload-bench "
                    "--help");
        return false;
    }
    for (i = 0; i < OUTPUT_COUNT; i++) {
        for (j = 0; j < i; j++) {
            if (outputs->paths[i] && outputs->paths[j] &&
                output_is_same(outputs->paths[i], outputs->paths[j])) {
                g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                            "%s and %s need names of their own; see "
                            "fastload-bench --help", output_options[j],
                            output_options[i]);
                return false;
            }
        }
    }
    return true;
}

bool outputs_check(const Outputs *outputs, const char *const *inputs,
                   uint32_t input_count, GError **error)
{
    OutputKind i;
    uint32_t k;

    if (!output_check_names(outputs, error)) {
        return false;
    }
    for (i = 0; i < OUTPUT_COUNT; i++) {
        const char *path = outputs->paths[i];

        if (!path || output_is_stdout(path)) {
            continue;
        }
        for (k = 0; k < input_count; k++) {
            if (inputs[k] && !output_check_input(path, inputs[k], error)) {
                return false;
            }
        }
        if (!output_check_path(path, error)) {
            return false;
        }
    }
    return true;
}

bool outputs_has_stdout(const Outputs *outputs)
{
    OutputKind i;

    for (i = 0; i < OUTPUT_COUNT; i++) {
        if (output_is_stdout(outputs->paths[i])) {
            return true;
        }
    }
    return false;
}

bool outputs_write(const Outputs *outputs, OutputMake *make,
                   const void *opaque, GError **error)
{
    g_autoptr(GString) failures = g_string_new(NULL);
    OutputKind i;

    for (i = 0; i < OUTPUT_COUNT; i++) {
        g_autofree char *text = outputs->paths[i] ? make(i, opaque) : NULL;
        g_autoptr(GError) cause = NULL;

        if (text && !output_write_text(outputs->paths[i], text, &cause)) {
            g_string_append_printf(failures, "%s%s",
                                   failures->len ? "; " : "", cause->message);
        }
    }
    if (!outputs_has_stdout(outputs)) {
        g_autofree char *text = make(OUTPUT_TABLE, opaque);
        g_autoptr(GError) cause = NULL;

        /* Last: if its reader goes away, SIGPIPE ends the program. */
        if (!output_print(text, &cause)) {
            g_string_append_printf(failures, "%s%s",
                                   failures->len ? "; " : "", cause->message);
        }
    }
    if (failures->len) {
        g_set_error_literal(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                            failures->str);
    }
    return !failures->len;
}
