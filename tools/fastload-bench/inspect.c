/*
 * What is in a snapshot, for people.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A line for each block, and the lengths of its runs of pages with and without
 * data: how much a loader can read at once, and how much it can leave out.
 * Reads bitmaps only, no pages.  Lines have 79 columns at most; names of blocks
 * are not trusted and printed escaped.  Cannot fail: write errors stay with
 * @out.
 */
#include "bench.h"

/* Runs of 2^n up to 2^(n+1) - 1 pages; 64 TiB are 2^34 pages. */
#define BUCKET_COUNT 35
#define NAME_COLUMNS 24
#define BAR_COLUMNS 40

typedef struct Runs {
    uint64_t counts[BUCKET_COUNT];
    uint64_t page_counts[BUCKET_COUNT];
    uint64_t count;
    uint64_t page_count;
} Runs;

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * part / whole : 0;
}

static void runs_add(Runs *runs, uint64_t page_count)
{
    uint32_t bucket = 63 - __builtin_clzll(page_count);

    assert(bucket < BUCKET_COUNT);
    runs->counts[bucket]++;
    runs->page_counts[bucket] += page_count;
    runs->count++;
    runs->page_count += page_count;
}

/* Counts runs; each ends where its block ends. */
static void runs_collect(const Snapshot *snapshot, Runs runs[2])
{
    uint32_t i;

    for (i = 0; i < snapshot->block_count; i++) {
        const SnapshotBlock *block = &snapshot->blocks[i];
        uint64_t page = block->guest_off / BENCH_PAGE_BYTES;
        uint64_t end = page + block->len_bytes / BENCH_PAGE_BYTES;

        while (page < end) {
            uint64_t count, file_off;
            bool has_data = snapshot_run(snapshot, block, page, &count,
                                         &file_off);

            runs_add(&runs[has_data], count);
            page += count;
        }
    }
}

static void print_line(FILE *out, const char *name, uint64_t len_bytes,
                       uint64_t data_bytes)
{
    g_autofree char *len = text_bytes(len_bytes);
    g_autofree char *data = text_bytes(data_bytes);

    fprintf(out, "%-*s %10s %10s %7.1f %%", NAME_COLUMNS, name, len, data,
            percent(len_bytes - data_bytes, len_bytes));
}

static void print_blocks(const Snapshot *snapshot, FILE *out)
{
    uint32_t i;

    fprintf(out, "%-*s %10s %10s %9s %20s\n", NAME_COLUMNS, "RAM block",
            "length", "data", "zero", "pages at offset");
    for (i = 0; i < snapshot->block_count; i++) {
        const SnapshotBlock *block = &snapshot->blocks[i];
        g_autofree char *name = g_strescape(block->name, NULL);

        if (strlen(name) > NAME_COLUMNS) {
            fprintf(out, "%s\n", name);
            name[0] = '\0';
        }
        print_line(out, name, block->len_bytes,
                   block->data_page_count * BENCH_PAGE_BYTES);
        if (block->is_left_out) {
            fprintf(out, " %20s\n", "left out");
        } else {
            fprintf(out, " %20" PRIu64 "\n", block->file_off);
        }
    }
    if (snapshot->block_count > 1) {
        print_line(out, "all", snapshot->len_bytes, snapshot->data_bytes);
        fprintf(out, "\n");
    }
}

static void print_bar(FILE *out, uint64_t part, uint64_t whole)
{
    uint32_t columns = percent(part, whole) * BAR_COLUMNS / 100 + 0.5;

    if (columns) {
        fputc(' ', out);
    }
    while (columns--) {
        fputc('#', out);
    }
}

static void print_runs(const Runs *runs, const char *what, FILE *out)
{
    uint32_t first = BUCKET_COUNT;
    g_autofree char *mean = NULL;
    uint32_t last = 0;
    uint32_t i;

    if (runs->count == 0) {
        fprintf(out, "\nno pages %s\n", what);
        return;
    }
    mean = text_bytes(runs->page_count / runs->count * BENCH_PAGE_BYTES);
    fprintf(out, "\n%" PRIu64 " run%s of pages %s, mean %s\n", runs->count,
            runs->count == 1 ? "" : "s", what, mean);
    for (i = 0; i < BUCKET_COUNT; i++) {
        if (runs->counts[i]) {
            first = MIN(first, i);
            last = i;
        }
    }
    fprintf(out, "%12s %12s %11s\n", "length from", "runs", "bytes");
    for (i = first; i <= last; i++) {
        g_autofree char *from = text_bytes((uint64_t)BENCH_PAGE_BYTES << i);
        g_autofree char *bytes = text_bytes(runs->page_counts[i] *
                                            BENCH_PAGE_BYTES);

        fprintf(out, "%12s %12" PRIu64 " %11s", from, runs->counts[i],
                bytes);
        print_bar(out, runs->page_counts[i], runs->page_count);
        fputc('\n', out);
    }
}

void inspect_print(const Snapshot *snapshot, FILE *out)
{
    g_autofree char *label = g_strescape(snapshot->label, NULL);
    g_autofree char *len = text_bytes(snapshot->len_bytes);
    g_autofree char *data = text_bytes(snapshot->data_bytes);
    Runs runs[2] = { 0 };

    runs_collect(snapshot, runs);
    fprintf(out, "%s: ", label);
    fprintf(out, "%s of RAM, %s of them data; the file has %" PRIu64
            " bytes\n\n", len, data, snapshot->file_bytes);
    print_blocks(snapshot, out);
    print_runs(&runs[true], "with data", out);
    print_runs(&runs[false], "without data (zero)", out);
}
