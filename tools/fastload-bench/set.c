/*
 * fastload-bench: prints the file of a working set.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * How much of which block a recorded guest touched, in how many runs of which
 * lengths, and in which order: a row for each tenth of the runs, with a picture
 * of memory.  Lines have 79 columns at most, except for the file's name.  The
 * engine's parser checks the file.
 */
#include "bench.h"
#include "qemu/fastload_workset.h"

#define NAME_COLUMNS 30
#define MAP_COLUMNS 60
#define MAP_ROWS 10

static const char map_marks[] = " .:+#";

static uint64_t set_pages_of(const FastloadWorkset *set, uint32_t block_idx,
                             uint64_t *ret_run_count)
{
    uint64_t page_count = 0;
    uint32_t i;

    *ret_run_count = 0;
    for (i = 0; i < set->run_count; i++) {
        if (set->runs[i].block_idx == block_idx) {
            page_count += set->runs[i].page_count;
            ++*ret_run_count;
        }
    }
    return page_count;
}

static void set_print_blocks(const FastloadWorkset *set, FILE *out)
{
    uint64_t run_count, page_count;
    uint32_t i;

    fprintf(out, "%-*s %10s %10s %8s %9s\n", NAME_COLUMNS, "RAM block",
            "length", "in the set", "share", "runs");
    for (i = 0; i < set->block_count; i++) {
        const FastloadWorksetBlock *block = &set->blocks[i];
        g_autofree char *len = text_bytes(block->len_bytes);
        g_autofree char *bytes = NULL;

        page_count = set_pages_of(set, i, &run_count);
        bytes = text_bytes(page_count * BENCH_PAGE_BYTES);
        if (strlen(block->label) > NAME_COLUMNS) {
            fprintf(out, "%s\n", block->label);
        }
        fprintf(out, "%-*s %10s %10s %6.1f %% %9" PRIu64 "\n", NAME_COLUMNS,
                strlen(block->label) > NAME_COLUMNS ? "" : block->label,
                len, bytes, 100.0 * page_count * BENCH_PAGE_BYTES /
                block->len_bytes, run_count);
    }
}

static void set_print_lengths(const FastloadWorkset *set, FILE *out)
{
    uint64_t run_counts[32] = { 0 }, page_counts[32] = { 0 };
    uint32_t seen_counts[2] = { 0 };
    uint32_t i;

    for (i = 0; i < set->run_count; i++) {
        uint32_t bucket = 31 - __builtin_clz(set->runs[i].page_count);

        run_counts[bucket]++;
        page_counts[bucket] += set->runs[i].page_count;
        seen_counts[set->runs[i].seen_count > 1]++;
    }
    fprintf(out, "\n%12s %12s %11s\n", "length from", "runs", "bytes");
    for (i = 0; i < G_N_ELEMENTS(run_counts); i++) {
        g_autofree char *from = text_bytes((uint64_t)BENCH_PAGE_BYTES << i);
        g_autofree char *bytes = text_bytes(page_counts[i] *
                                            BENCH_PAGE_BYTES);

        if (run_counts[i]) {
            fprintf(out, "%12s %12" PRIu64 " %11s\n", from, run_counts[i],
                    bytes);
        }
    }
    fprintf(out, "\nseen once: %u runs; more often: %u\n", seen_counts[0],
            seen_counts[1]);
}

/* Adds the pages of a run to the columns of the picture. */
static void set_map_run(const FastloadWorkset *set,
                        const FastloadWorksetRun *run, double *columns)
{
    double page_count = set->blocks[run->block_idx].len_bytes /
                        BENCH_PAGE_BYTES;
    double first = run->first_page * MAP_COLUMNS / page_count;
    double end = (run->first_page + run->page_count) * MAP_COLUMNS /
                 page_count;
    uint32_t c;

    for (c = first; c < end && c < MAP_COLUMNS; c++) {
        columns[c] += MIN(end, c + 1) - MAX(first, c);
    }
}

/* Prints the picture of the largest block. */
static void set_print_map(const FastloadWorkset *set, FILE *out)
{
    uint32_t i, row, largest = 0;

    for (i = 1; i < set->block_count; i++) {
        largest = set->blocks[i].len_bytes > set->blocks[largest].len_bytes
                  ? i : largest;
    }
    fprintf(out, "\n%s, from its begin to its end; a row for each %u %% of "
            "the runs,\nthe first ones first\n", set->blocks[largest].label,
            100 / MAP_ROWS);
    for (row = 0; row < MAP_ROWS; row++) {
        double columns[MAP_COLUMNS] = { 0 };
        uint32_t c;

        for (i = (uint64_t)row * set->run_count / MAP_ROWS;
             i < (uint64_t)(row + 1) * set->run_count / MAP_ROWS; i++) {
            if (set->runs[i].block_idx == largest) {
                set_map_run(set, &set->runs[i], columns);
            }
        }
        fprintf(out, "|");
        for (c = 0; c < MAP_COLUMNS; c++) {
            double share = MIN(columns[c], 1);

            fputc(map_marks[share > 0 ? 1 + (int)(share * 3.99) : 0], out);
        }
        fprintf(out, "|\n");
    }
}

bool set_print(const char *path, FILE *out, GError **error)
{
    g_autoptr(FastloadWorkset) set = NULL;
    g_autofree char *bytes = NULL, *len = NULL, *took = NULL, *name = NULL;
    const char *refusal = NULL;
    gsize len_bytes;
    GError *cause = NULL;

    if (!g_file_get_contents(path, &bytes, &len_bytes, &cause)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot read the working set: %s", cause->message);
        g_error_free(cause);
        return false;
    }
    set = fastload_workset_parse((uint8_t *)bytes, len_bytes, &refusal);
    if (!set) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED, "%s: %s", path,
                    refusal);
        return false;
    }
    name = g_strescape(path, NULL);
    len = text_bytes(set->page_count * BENCH_PAGE_BYTES);
    took = text_ns(set->took_ns);
    fprintf(out, "%s: %" PRIu64 " pages in %u runs, %s, recorded in %s%s\n"
            "of the snapshot %016" PRIx64 "\n\n", name, set->page_count,
            set->run_count, len, took,
            set->is_cut ? "; more was touched than it has room for" : "",
            set->snapshot_digest);
    set_print_blocks(set, out);
    if (set->run_count) {
        set_print_lengths(set, out);
        set_print_map(set, out);
    }
    return true;
}
