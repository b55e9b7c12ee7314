/*
 * fastload-bench: what is in a recorded working set.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * How much of which block a recorded guest touched, in how many runs of which
 * lengths, and in which order: a row for each tenth of the runs, with a picture
 * of memory.  As text, in lines of 79 columns at most, except for the file's
 * name; and as JSON, from which html-set.c draws.  A set is the file of a fast
 * load, which the engine's parser checks, or a list of pages.
 */
#include "bench.h"
#include "qemu/fastload_workset.h"

#define NAME_COLUMNS 30
#define MAP_COLUMNS 60
#define MAP_ROWS 10
/* So many blocks, those with most of the set, have cells in the JSON. */
#define CELL_BLOCKS_MAX 8
#define CELL_COLUMNS 96
#define CELL_ROWS 10

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

void set_print(const Set *set, const char *path, FILE *out)
{
    g_autofree char *name = g_strescape(path, NULL);
    g_autofree char *len = text_bytes(set->page_count * BENCH_PAGE_BYTES);
    g_autofree char *took = text_ns(set->took_ns);

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
}

Set *set_read(const char *path, GError **error)
{
    g_autofree char *bytes = NULL;
    const char *refusal = NULL;
    gsize len_bytes;
    GError *cause = NULL;
    Set *set;

    if (!g_file_get_contents(path, &bytes, &len_bytes, &cause)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot read the working set: %s", cause->message);
        g_error_free(cause);
        return NULL;
    }
    set = fastload_workset_parse((uint8_t *)bytes, len_bytes, &refusal);
    if (!set) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED, "%s: %s", path,
                    refusal);
    }
    return set;
}

void set_free(Set *set)
{
    fastload_workset_free(set);
}

/* ---- of a list of pages ---- */

/* The index in set->blocks of a block of the snapshot; it may be new. */
static uint32_t set_add_block(Set *set, const SnapshotBlock *block,
                              uint32_t *indices, uint32_t idx)
{
    FastloadWorksetBlock *added = &set->blocks[set->block_count];
    uint32_t i;

    if (indices[idx]) {
        return indices[idx] - 1;
    }
    g_strlcpy(added->label, block->name, sizeof(added->label));
    for (i = 0; added->label[i]; i++) {
        if (!g_ascii_isprint(added->label[i])) {
            added->label[i] = '?';
        }
    }
    added->len_bytes = block->len_bytes;
    added->stream_off = block->file_off;
    indices[idx] = ++set->block_count;
    return indices[idx] - 1;
}

Set *set_of_pages(const Snapshot *snapshot, const GArray *pages)
{
    g_autofree uint32_t *indices = g_new0(uint32_t, snapshot->block_count);
    Set *set = g_new0(Set, 1);
    guint i;

    set->blocks = g_new0(FastloadWorksetBlock, snapshot->block_count);
    set->runs = g_new0(FastloadWorksetRun, pages->len);
    for (i = 0; i < pages->len; i++) {
        uint64_t page = g_array_index(pages, uint64_t, i);
        const SnapshotBlock *block = snapshot_block_of(snapshot, page);

        if (!block) {
            continue; /* the list is of another snapshot */
        }
        set->runs[set->run_count++] = (FastloadWorksetRun) {
            .first_page = page - (block->guest_off >> BENCH_PAGE_SHIFT),
            .page_count = 1,
            .block_idx = set_add_block(set, block, indices,
                                       block - snapshot->blocks),
            .seen_count = 1,
        };
        set->page_count++;
    }
    fastload_workset_join(set);
    return set;
}

/* ---- as JSON ---- */

static void set_add_int(JsonBuilder *b, const char *name, uint64_t value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, value);
}

/* A block is cut into columns as even as whole pages allow. */
static uint64_t set_column_page(uint64_t page_count, uint32_t column_count,
                                uint32_t column)
{
    return page_count * column / column_count;
}

static void set_count_run(const FastloadWorksetRun *run, uint64_t page_count,
                          uint32_t column_count, uint64_t *cells)
{
    uint64_t page = run->first_page, end = page + run->page_count;
    uint32_t c = page * column_count / page_count;

    while (page < end) {
        uint64_t next = set_column_page(page_count, column_count, c + 1);

        if (page < next) {
            cells[c] += MIN(next, end) - page;
            page = MIN(next, end);
        }
        c++;
    }
}

/* How many pages of each column are in each tenth of the runs. */
static void set_add_cells(JsonBuilder *b, const Set *set, uint32_t block_idx)
{
    uint64_t page_count = set->blocks[block_idx].len_bytes / BENCH_PAGE_BYTES;
    uint32_t column_count = MIN(page_count, CELL_COLUMNS), row, c, i;

    set_add_int(b, "columns", column_count);
    json_builder_set_member_name(b, "tenths");
    json_builder_begin_array(b);
    for (row = 0; row < CELL_ROWS; row++) {
        uint64_t cells[CELL_COLUMNS] = { 0 };

        for (i = (uint64_t)row * set->run_count / CELL_ROWS;
             i < (uint64_t)(row + 1) * set->run_count / CELL_ROWS; i++) {
            if (set->runs[i].block_idx == block_idx) {
                set_count_run(&set->runs[i], page_count, column_count, cells);
            }
        }
        json_builder_begin_array(b);
        for (c = 0; c < column_count; c++) {
            json_builder_add_int_value(b, cells[c]);
        }
        json_builder_end_array(b);
    }
    json_builder_end_array(b);
}

typedef struct SetShare {
    uint32_t block_idx;
    uint64_t page_count, run_count;
} SetShare;

static int set_by_pages(const void *a, const void *b)
{
    const SetShare *x = a, *y = b;

    return x->page_count > y->page_count ? -1
         : x->page_count < y->page_count ? 1
         : x->block_idx < y->block_idx ? -1 : x->block_idx > y->block_idx;
}

JsonNode *set_node(const Set *set)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autofree SetShare *shares = g_new(SetShare, set->block_count);
    uint32_t i;

    for (i = 0; i < set->block_count; i++) {
        shares[i].block_idx = i;
        shares[i].page_count = set_pages_of(set, i, &shares[i].run_count);
    }
    qsort(shares, set->block_count, sizeof(*shares), set_by_pages);
    json_builder_begin_object(b);
    set_add_int(b, "page_count", set->page_count);
    set_add_int(b, "run_count", set->run_count);
    set_add_int(b, "took_ns", set->took_ns);
    json_builder_set_member_name(b, "cut");
    json_builder_add_boolean_value(b, set->is_cut);
    json_builder_set_member_name(b, "blocks");
    json_builder_begin_array(b);
    for (i = 0; i < set->block_count; i++) {
        const FastloadWorksetBlock *block = &set->blocks[shares[i].block_idx];

        json_builder_begin_object(b);
        json_builder_set_member_name(b, "label");
        json_builder_add_string_value(b, block->label);
        set_add_int(b, "len_bytes", block->len_bytes);
        set_add_int(b, "page_count", shares[i].page_count);
        set_add_int(b, "run_count", shares[i].run_count);
        if (i < CELL_BLOCKS_MAX && shares[i].page_count) {
            set_add_cells(b, set, shares[i].block_idx);
        }
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    return json_builder_get_root(b);
}
