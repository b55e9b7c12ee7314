/*
 * fastload workset: the file of a working set, as bytes; pure.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The file may hold any numbers: they are compared before they are added, so
 * that no sum overflows, and nothing is allocated for more items than the bytes
 * can hold.  Whatever breaks the format is reported as damage.  The layout is
 * in include/qemu/fastload_workset.h.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_workset.h"

#define WORKSET_MAGIC "FLWORKST"
#define WORKSET_FLAG_CUT 1u
#define WORKSET_BLOCK_BYTES 24u
#define WORKSET_RUN_BYTES 16u
/* So many runs in a row count as touched soon after each other, at first. */
#define WORKSET_BATCH_COUNT 256u
#define WORKSET_BATCH_GROWTH 16u

static uint16_t workset_get16(const uint8_t *at)
{
    uint16_t value;

    memcpy(&value, at, sizeof(value));
    return GUINT16_FROM_LE(value);
}

static uint32_t workset_get32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return GUINT32_FROM_LE(value);
}

static uint64_t workset_get64(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof(value));
    return GUINT64_FROM_LE(value);
}

static void workset_put16(uint8_t *at, uint16_t value)
{
    value = GUINT16_TO_LE(value);
    memcpy(at, &value, sizeof(value));
}

static void workset_put32(uint8_t *at, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    memcpy(at, &value, sizeof(value));
}

static void workset_put64(uint8_t *at, uint64_t value)
{
    value = GUINT64_TO_LE(value);
    memcpy(at, &value, sizeof(value));
}

/* @len_bytes is a multiple of 8. */
static uint64_t workset_checksum(const uint8_t *bytes, uint64_t len_bytes)
{
    uint64_t hash = FASTLOAD_WORKSET_HASH_BEGIN;
    uint64_t at;

    for (at = 0; at < len_bytes; at += 8) {
        hash = fastload_workset_hash(hash, at == 56 ? 0
                                           : workset_get64(bytes + at));
    }
    return hash;
}

static uint32_t workset_padded(uint32_t label_bytes)
{
    return (label_bytes + 7) / 8 * 8;
}

/* NULL, or why this is not a file of a working set, or not a whole one. */
static const char *workset_header_defect(const uint8_t *bytes,
                                         uint64_t len_bytes)
{
    if (len_bytes < 12 || memcmp(bytes, WORKSET_MAGIC, 8)) {
        return "it is not the file of a working set";
    }
    if (workset_get32(bytes + 8) != FASTLOAD_WORKSET_VERSION) {
        return "its format is of another version than this program reads";
    }
    if (len_bytes < FASTLOAD_WORKSET_HEADER_BYTES ||
        len_bytes > FASTLOAD_WORKSET_FILE_BYTES_MAX || len_bytes % 8 ||
        workset_get64(bytes + 48) != len_bytes) {
        return "it is damaged: its length is not the one in its header";
    }
    if (workset_get64(bytes + 56) != workset_checksum(bytes, len_bytes)) {
        return "it is damaged: its checksum is wrong";
    }
    if (workset_get32(bytes + 12) > FASTLOAD_WORKSET_BLOCK_COUNT_MAX ||
        workset_get32(bytes + 16) > FASTLOAD_WORKSET_RUN_COUNT_MAX) {
        return "it is damaged: it has more blocks or runs than a file may";
    }
    if (workset_get32(bytes + 20) & ~WORKSET_FLAG_CUT) {
        return "it is damaged: it has unknown flags";
    }
    return NULL;
}

/* Parses a block; returns its end, or NULL: it is wrong, or cut. */
static const uint8_t *workset_parse_block(const uint8_t *at,
                                          const uint8_t *end,
                                          FastloadWorksetBlock *ret_block)
{
    uint32_t label_bytes, i;

    if (end - at < WORKSET_BLOCK_BYTES) {
        return NULL;
    }
    ret_block->len_bytes = workset_get64(at);
    ret_block->stream_off = workset_get64(at + 8);
    label_bytes = workset_get32(at + 16);
    if (!ret_block->len_bytes || ret_block->len_bytes > INT64_MAX ||
        ret_block->len_bytes % FASTLOAD_WORKSET_PAGE_BYTES ||
        ret_block->stream_off > INT64_MAX || workset_get32(at + 20) ||
        label_bytes > FASTLOAD_WORKSET_LABEL_BYTES_MAX ||
        end - at - WORKSET_BLOCK_BYTES < workset_padded(label_bytes)) {
        return NULL;
    }
    at += WORKSET_BLOCK_BYTES;
    for (i = 0; i < workset_padded(label_bytes); i++) {
        if (i < label_bytes ? !g_ascii_isprint(at[i]) : at[i]) {
            return NULL;
        }
    }
    memcpy(ret_block->label, at, label_bytes);
    ret_block->label[label_bytes] = '\0';
    return at + workset_padded(label_bytes);
}

/*
 * Parses the runs.  Each must lie in its block, and all runs of a block
 * together must not have more pages than it has.  @left_counts: room for a
 * number for each block.
 */
static bool workset_parse_runs(const uint8_t *at, FastloadWorkset *set,
                               uint64_t *left_counts)
{
    uint32_t i;

    for (i = 0; i < set->block_count; i++) {
        left_counts[i] = set->blocks[i].len_bytes /
                         FASTLOAD_WORKSET_PAGE_BYTES;
    }
    for (i = 0; i < set->run_count; i++, at += WORKSET_RUN_BYTES) {
        FastloadWorksetRun *run = &set->runs[i];
        uint64_t block_pages;

        run->first_page = workset_get64(at);
        run->page_count = workset_get32(at + 8);
        run->block_idx = workset_get16(at + 12);
        run->seen_count = workset_get16(at + 14);
        if (run->block_idx >= set->block_count || !run->seen_count ||
            !run->page_count ||
            run->page_count > left_counts[run->block_idx]) {
            return false;
        }
        block_pages = set->blocks[run->block_idx].len_bytes /
                      FASTLOAD_WORKSET_PAGE_BYTES;
        if (run->first_page > block_pages - run->page_count) {
            return false;
        }
        left_counts[run->block_idx] -= run->page_count;
        set->page_count += run->page_count;
    }
    return true;
}

FastloadWorkset *fastload_workset_parse(const uint8_t *bytes,
                                        uint64_t len_bytes,
                                        const char **ret_refusal)
{
    const char *refusal = workset_header_defect(bytes, len_bytes);
    const uint8_t *at = bytes + FASTLOAD_WORKSET_HEADER_BYTES;
    const uint8_t *end = bytes + len_bytes;
    g_autoptr(FastloadWorkset) set = NULL;
    g_autofree uint64_t *left_counts = NULL;
    uint32_t i;

    if (refusal) {
        *ret_refusal = refusal;
        return NULL;
    }
    set = g_new0(FastloadWorkset, 1);
    set->block_count = workset_get32(bytes + 12);
    set->run_count = workset_get32(bytes + 16);
    set->is_cut = workset_get32(bytes + 20) & WORKSET_FLAG_CUT;
    set->snapshot_digest = workset_get64(bytes + 24);
    set->took_ns = workset_get64(bytes + 32);
    /* Checked before so many are allocated. */
    if (set->block_count > (end - at) / WORKSET_BLOCK_BYTES) {
        *ret_refusal = "it is damaged: its blocks are cut off";
        return NULL;
    }
    set->blocks = g_new0(FastloadWorksetBlock, set->block_count);
    for (i = 0; i < set->block_count && at; i++) {
        at = workset_parse_block(at, end, &set->blocks[i]);
    }
    if (!at) {
        *ret_refusal = "it is damaged: one of its blocks is wrong";
        return NULL;
    }
    if (end - at != (uint64_t)set->run_count * WORKSET_RUN_BYTES) {
        *ret_refusal = "it is damaged: its runs do not end where it ends";
        return NULL;
    }
    set->runs = g_new0(FastloadWorksetRun, set->run_count);
    left_counts = g_new(uint64_t, set->block_count);
    if (!workset_parse_runs(at, set, left_counts) ||
        set->page_count != workset_get64(bytes + 40)) {
        *ret_refusal = "it is damaged: one of its runs is wrong";
        return NULL;
    }
    return g_steal_pointer(&set);
}

uint8_t *fastload_workset_format(const FastloadWorkset *set,
                                 size_t *ret_len_bytes)
{
    size_t len_bytes = FASTLOAD_WORKSET_HEADER_BYTES +
                       (size_t)set->run_count * WORKSET_RUN_BYTES;
    uint8_t *bytes, *at;
    uint32_t i;

    assert(set->block_count <= FASTLOAD_WORKSET_BLOCK_COUNT_MAX &&
           set->run_count <= FASTLOAD_WORKSET_RUN_COUNT_MAX);
    for (i = 0; i < set->block_count; i++) {
        len_bytes += WORKSET_BLOCK_BYTES +
                     workset_padded(strlen(set->blocks[i].label));
    }
    bytes = g_malloc0(len_bytes);
    memcpy(bytes, WORKSET_MAGIC, 8);
    workset_put32(bytes + 8, FASTLOAD_WORKSET_VERSION);
    workset_put32(bytes + 12, set->block_count);
    workset_put32(bytes + 16, set->run_count);
    workset_put32(bytes + 20, set->is_cut ? WORKSET_FLAG_CUT : 0);
    workset_put64(bytes + 24, set->snapshot_digest);
    workset_put64(bytes + 32, set->took_ns);
    workset_put64(bytes + 40, set->page_count);
    workset_put64(bytes + 48, len_bytes);
    at = bytes + FASTLOAD_WORKSET_HEADER_BYTES;
    for (i = 0; i < set->block_count; i++) {
        const FastloadWorksetBlock *block = &set->blocks[i];
        uint32_t label_bytes = strlen(block->label);

        workset_put64(at, block->len_bytes);
        workset_put64(at + 8, block->stream_off);
        workset_put32(at + 16, label_bytes);
        memcpy(at + WORKSET_BLOCK_BYTES, block->label, label_bytes);
        at += WORKSET_BLOCK_BYTES + workset_padded(label_bytes);
    }
    for (i = 0; i < set->run_count; i++, at += WORKSET_RUN_BYTES) {
        workset_put64(at, set->runs[i].first_page);
        workset_put32(at + 8, set->runs[i].page_count);
        workset_put16(at + 12, set->runs[i].block_idx);
        workset_put16(at + 14, set->runs[i].seen_count);
    }
    assert(at == bytes + len_bytes);
    workset_put64(bytes + 56, workset_checksum(bytes, len_bytes));
    *ret_len_bytes = len_bytes;
    return bytes;
}

/* ---- joining ---- */

typedef struct WorksetItem {
    FastloadWorksetRun run;
    uint32_t turn;        /* its place in the order of touches */
} WorksetItem;

static int workset_by_place(const void *a, const void *b)
{
    const WorksetItem *x = a, *y = b;

    if (x->run.block_idx != y->run.block_idx) {
        return x->run.block_idx < y->run.block_idx ? -1 : 1;
    }
    return x->run.first_page < y->run.first_page
        ? -1 : x->run.first_page > y->run.first_page;
}

static int workset_by_turn(const void *a, const void *b)
{
    const WorksetItem *x = a, *y = b;

    return x->turn < y->turn ? -1 : x->turn > y->turn;
}

/* If @next begins where @run ends, extends @run by it. */
static bool workset_join_next(FastloadWorksetRun *run,
                              const FastloadWorksetRun *next)
{
    if (next->block_idx != run->block_idx ||
        next->first_page != run->first_page + run->page_count ||
        next->page_count > UINT32_MAX - run->page_count) {
        return false;
    }
    run->page_count += next->page_count;
    run->seen_count = MIN(run->seen_count, next->seen_count);
    return true;
}

/* Joins what it can of @count runs; returns how many are left. */
static uint32_t workset_join_batch(FastloadWorksetRun *runs, uint32_t count,
                                   WorksetItem *items)
{
    uint32_t i, last = 0;

    for (i = 0; i < count; i++) {
        items[i] = (WorksetItem) { .run = runs[i], .turn = i };
    }
    qsort(items, count, sizeof(items[0]), workset_by_place);
    for (i = 1; i < count; i++) {
        if (workset_join_next(&items[last].run, &items[i].run)) {
            items[last].turn = MIN(items[last].turn, items[i].turn);
        } else {
            items[++last] = items[i];
        }
    }
    qsort(items, last + 1, sizeof(items[0]), workset_by_turn);
    for (i = 0; i <= last; i++) {
        runs[i] = items[i].run;
    }
    return last + 1;
}

static void workset_join_all(FastloadWorkset *set, uint32_t batch_count,
                             WorksetItem *items)
{
    FastloadWorksetRun *runs = set->runs;
    uint32_t at, i, count, left_count = 0;

    for (at = 0; at < set->run_count; at += batch_count) {
        count = workset_join_batch(runs + at,
                                   MIN(batch_count, set->run_count - at),
                                   items);
        for (i = at; i < at + count; i++) {
            if (!left_count ||
                !workset_join_next(&runs[left_count - 1], &runs[i])) {
                runs[left_count++] = runs[i];
            }
        }
    }
    set->run_count = left_count;
}

void fastload_workset_join(FastloadWorkset *set)
{
    g_autofree WorksetItem *items = g_new(WorksetItem, set->run_count);
    uint32_t batch_count = WORKSET_BATCH_COUNT;
    uint32_t i;

    workset_join_all(set, batch_count, items);
    while (set->run_count > FASTLOAD_WORKSET_RUN_COUNT_MAX &&
           batch_count < set->run_count) {
        batch_count = MIN(batch_count * WORKSET_BATCH_GROWTH, set->run_count);
        workset_join_all(set, batch_count, items);
    }
    if (set->run_count > FASTLOAD_WORKSET_RUN_COUNT_MAX) {
        set->is_cut = true;
        set->run_count = FASTLOAD_WORKSET_RUN_COUNT_MAX;
        set->page_count = 0;
        for (i = 0; i < set->run_count; i++) {
            set->page_count += set->runs[i].page_count;
        }
    }
}

void fastload_workset_free(FastloadWorkset *set)
{
    if (set) {
        g_free(set->blocks);
        g_free(set->runs);
        g_free(set);
    }
}
