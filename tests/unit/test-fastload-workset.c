/*
 * The file of a working set, as bytes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/fastload_workset.h"

#define MIB (1ull << 20)
/* Where a file has what: the header, then two blocks, then the runs. */
#define AT_VERSION 8
#define AT_BLOCK_COUNT 12
#define AT_RUN_COUNT 16
#define AT_FLAGS 20
#define AT_PAGE_COUNT 40
#define AT_LEN 48
#define AT_CHECKSUM 56
#define AT_BLOCK 64
#define AT_LABEL (AT_BLOCK + 24)
#define AT_RUNS (AT_BLOCK + 24 + 8 + 24 + 24)

/* As it would be recorded; the caller's runs follow. */
static FastloadWorkset *workset_new(uint32_t run_count)
{
    FastloadWorkset *set = g_new0(FastloadWorkset, 1);

    set->snapshot_digest = 0x1122334455667788;
    set->took_ns = 512 * 1000 * 1000;
    set->block_count = 2;
    set->blocks = g_new0(FastloadWorksetBlock, 2);
    strcpy(set->blocks[0].label, "pc.ram");
    set->blocks[0].len_bytes = 64 * MIB;
    set->blocks[0].stream_off = MIB;
    strcpy(set->blocks[1].label, "/rom@etc/acpi/tables");
    set->blocks[1].len_bytes = 128 << 10;
    set->blocks[1].stream_off = 70 * MIB;
    set->runs = g_new0(FastloadWorksetRun, run_count);
    return set;
}

static void workset_add(FastloadWorkset *set, uint16_t block_idx,
                        uint64_t first_page, uint32_t page_count)
{
    set->runs[set->run_count++] = (FastloadWorksetRun) {
        .block_idx = block_idx, .first_page = first_page,
        .page_count = page_count, .seen_count = 1,
    };
    set->page_count += page_count;
}

static FastloadWorkset *workset_small(void)
{
    FastloadWorkset *set = workset_new(3);

    workset_add(set, 0, 700, 2);
    workset_add(set, 1, 31, 1);
    workset_add(set, 0, 3, 5);
    set->runs[2].seen_count = 9;
    return set;
}

static void workset_put(uint8_t *at, uint64_t value, uint32_t byte_count)
{
    while (byte_count--) {
        *at++ = value;
        value >>= 8;
    }
}

/* What the file should have there. */
static void workset_mend(uint8_t *bytes, size_t len_bytes)
{
    uint64_t hash = FASTLOAD_WORKSET_HASH_BEGIN;
    size_t at;
    int i;

    workset_put(bytes + AT_CHECKSUM, 0, 8);
    for (at = 0; at < len_bytes; at += 8) {
        uint64_t value = 0;

        for (i = 7; i >= 0; i--) {
            value = value << 8 | bytes[at + i];
        }
        hash = fastload_workset_hash(hash, value);
    }
    workset_put(bytes + AT_CHECKSUM, hash, 8);
}

/* The runs are these, in this order: block, first page, pages; and no more. */
static void workset_check_runs(const FastloadWorkset *set,
                               const uint64_t (*want)[3], uint32_t count)
{
    uint32_t i;

    g_assert_cmpuint(set->run_count, ==, count);
    for (i = 0; i < count; i++) {
        g_assert_cmpuint(set->runs[i].block_idx, ==, want[i][0]);
        g_assert_cmpuint(set->runs[i].first_page, ==, want[i][1]);
        g_assert_cmpuint(set->runs[i].page_count, ==, want[i][2]);
    }
}

static void test_round_trip(void)
{
    /* A set that is written is read again as it was. */
    g_autoptr(FastloadWorkset) set = workset_small();
    g_autoptr(FastloadWorkset) again = NULL;
    g_autofree uint8_t *bytes = NULL;
    const char *refusal = NULL;
    size_t len_bytes;
    uint32_t i;

    set->is_cut = true;
    bytes = fastload_workset_format(set, &len_bytes);
    again = fastload_workset_parse(bytes, len_bytes, &refusal);
    g_assert_cmpstr(refusal, ==, NULL);
    g_assert_cmpuint(again->snapshot_digest, ==, set->snapshot_digest);
    g_assert_cmpuint(again->took_ns, ==, set->took_ns);
    g_assert_true(again->is_cut);
    g_assert_cmpuint(again->page_count, ==, 8);
    g_assert_cmpuint(again->block_count, ==, 2);
    for (i = 0; i < 2; i++) {
        g_assert_cmpstr(again->blocks[i].label, ==, set->blocks[i].label);
        g_assert_cmpuint(again->blocks[i].len_bytes, ==,
                         set->blocks[i].len_bytes);
        g_assert_cmpuint(again->blocks[i].stream_off, ==,
                         set->blocks[i].stream_off);
    }
    workset_check_runs(again, (const uint64_t[][3]) {
        { 0, 700, 2 }, { 1, 31, 1 }, { 0, 3, 5 } }, 3);
    g_assert_cmpuint(again->runs[0].seen_count, ==, 1);
    g_assert_cmpuint(again->runs[2].seen_count, ==, 9);
}

static void test_bytes_are_fixed(void)
{
    /*
     * The bytes of a file are fixed: other hosts, and later versions, read it.
     */
    static const uint8_t want[] = {
        'F', 'L', 'W', 'O', 'R', 'K', 'S', 'T', 1, 0, 0, 0, 2, 0, 0, 0,
        3, 0, 0, 0, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22,
        0x11, 0x00, 0x80, 0x84, 0x1e, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0,
        0xc0, 0, 0, 0, 0, 0, 0, 0,
        0x86, 0xf4, 0xc5, 0xb1, 0xfa, 0x9f, 0xb2, 0x40,
    };
    g_autoptr(FastloadWorkset) set = workset_small();
    g_autofree uint8_t *bytes = NULL;
    size_t len_bytes;

    bytes = fastload_workset_format(set, &len_bytes);
    g_assert_cmpmem(bytes, sizeof(want), want, sizeof(want));
    g_assert_cmpmem(bytes + AT_LABEL, 8, "pc.ram\0", 8);
    g_assert_cmpuint(bytes[AT_RUNS], ==, 700 % 256);
    g_assert_cmpuint(bytes[AT_RUNS + 1], ==, 700 / 256);
    g_assert_cmpuint(len_bytes, ==, AT_RUNS + 3 * 16);
}

static void test_empty_set(void)
{
    /* An empty set can be written and read. */
    FastloadWorkset set = { .snapshot_digest = 1 };
    g_autoptr(FastloadWorkset) again = NULL;
    g_autofree uint8_t *bytes = NULL;
    const char *refusal = NULL;
    size_t len_bytes;

    bytes = fastload_workset_format(&set, &len_bytes);
    again = fastload_workset_parse(bytes, len_bytes, &refusal);
    g_assert_cmpuint(again->run_count, ==, 0);
    fastload_workset_join(again);
    g_assert_cmpuint(again->run_count, ==, 0);
}

static void test_cut_anywhere(void)
{
    /* A file that is cut anywhere is refused. */
    g_autoptr(FastloadWorkset) set = workset_small();
    g_autofree uint8_t *bytes = NULL;
    size_t len_bytes, at;

    bytes = fastload_workset_format(set, &len_bytes);
    for (at = 0; at < len_bytes; at++) {
        /* Of its own length, so that a sanitizer sees what is beyond. */
        g_autofree uint8_t *part = g_malloc(MAX(at, 1));
        const char *refusal = NULL;

        memcpy(part, bytes, at);
        g_assert_null(fastload_workset_parse(part, at, &refusal));
        g_assert_nonnull(refusal);
    }
}

static void test_any_bit_flipped(void)
{
    /* No bit of the file can change without being seen. */
    g_autoptr(FastloadWorkset) set = workset_small();
    g_autofree uint8_t *bytes = NULL;
    size_t len_bytes, bit;

    bytes = fastload_workset_format(set, &len_bytes);
    for (bit = 0; bit < len_bytes * 8; bit++) {
        const char *refusal = NULL;

        bytes[bit / 8] ^= 1 << bit % 8;
        g_assert_null(fastload_workset_parse(bytes, len_bytes, &refusal));
        g_assert_nonnull(refusal);
        bytes[bit / 8] ^= 1 << bit % 8;
    }
}

/* A file of workset_small() with another number in it, and sound besides. */
typedef struct WorksetLie {
    size_t at;
    uint32_t byte_count;
    uint64_t value;
    const char *refusal; /* its end */
} WorksetLie;

static const WorksetLie workset_lies[] = {
    { AT_VERSION, 4, 2, "another version than this program reads" },
    { AT_VERSION, 4, 0, "another version than this program reads" },
    { AT_LEN, 8, AT_RUNS + 4 * 16, "is not the one in its header" },
    { AT_BLOCK_COUNT, 4, FASTLOAD_WORKSET_BLOCK_COUNT_MAX + 1, "file may" },
    { AT_BLOCK_COUNT, 4, FASTLOAD_WORKSET_BLOCK_COUNT_MAX, "are cut off" },
    { AT_BLOCK_COUNT, 4, 3, "blocks is wrong" },
    { AT_BLOCK_COUNT, 4, 1, "where it ends" },
    { AT_RUN_COUNT, 4, FASTLOAD_WORKSET_RUN_COUNT_MAX + 1, "file may" },
    { AT_RUN_COUNT, 4, 4, "where it ends" },
    { AT_RUN_COUNT, 4, 2, "where it ends" },
    { AT_FLAGS, 4, 2, "unknown flags" },
    { AT_PAGE_COUNT, 8, 7, "runs is wrong" },
    { AT_BLOCK, 8, 0, "blocks is wrong" },
    { AT_BLOCK, 8, 64 * MIB + 1, "blocks is wrong" },
    { AT_BLOCK, 8, 1ull << 63, "blocks is wrong" },
    { AT_BLOCK + 8, 8, 1ull << 63, "blocks is wrong" },
    { AT_BLOCK + 16, 4, 256, "blocks is wrong" },
    { AT_BLOCK + 16, 4, UINT32_MAX, "blocks is wrong" },
    { AT_BLOCK + 20, 4, 1, "blocks is wrong" },
    { AT_LABEL, 1, '\n', "blocks is wrong" },
    { AT_LABEL, 1, 0, "blocks is wrong" },
    { AT_LABEL, 1, 0xc3, "blocks is wrong" },
    { AT_LABEL + 7, 1, 1, "blocks is wrong" },
    { AT_RUNS, 8, 64 * MIB / 4096 - 1, "runs is wrong" }, /* of two pages */
    { AT_RUNS, 8, UINT64_MAX, "runs is wrong" },
    { AT_RUNS + 8, 4, 0, "runs is wrong" },
    { AT_RUNS + 8, 4, UINT32_MAX, "runs is wrong" },
    { AT_RUNS + 12, 2, 2, "runs is wrong" },
    { AT_RUNS + 14, 2, 0, "runs is wrong" },
};

static void test_lies_are_refused(void)
{
    /* A sound file with a number that cannot be is refused. */
    g_autoptr(FastloadWorkset) set = workset_small();
    size_t len_bytes;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(workset_lies); i++) {
        const WorksetLie *lie = &workset_lies[i];
        g_autofree uint8_t *bytes = fastload_workset_format(set, &len_bytes);
        const char *refusal = NULL;

        workset_put(bytes + lie->at, lie->value, lie->byte_count);
        workset_mend(bytes, len_bytes);
        g_assert_null(fastload_workset_parse(bytes, len_bytes, &refusal));
        g_assert_nonnull(refusal);
        if (!g_str_has_suffix(refusal, lie->refusal)) {
            g_error("lie %u: %s", i, refusal);
        }
    }
}

static void test_more_pages_than_there_are(void)
{
    /* Runs that cover each other again and again take no time. */
    g_autoptr(FastloadWorkset) set = workset_new(2);
    g_autofree uint8_t *bytes = NULL;
    const char *refusal = NULL;
    size_t len_bytes;

    workset_add(set, 1, 0, 32);
    workset_add(set, 1, 31, 1);
    bytes = fastload_workset_format(set, &len_bytes);
    g_assert_null(fastload_workset_parse(bytes, len_bytes, &refusal));
    g_assert_cmpstr(refusal, ==, "it is damaged: one of its runs is wrong");
}

static void test_last_page_is_in(void)
{
    /* A run may be a whole block, or its last page. */
    g_autoptr(FastloadWorkset) set = workset_new(2);
    g_autoptr(FastloadWorkset) again = NULL;
    g_autofree uint8_t *bytes = NULL;
    const char *refusal = NULL;
    size_t len_bytes;

    workset_add(set, 1, 0, 32);
    workset_add(set, 0, 64 * MIB / 4096 - 1, 1);
    bytes = fastload_workset_format(set, &len_bytes);
    again = fastload_workset_parse(bytes, len_bytes, &refusal);
    g_assert_nonnull(again);
}

static void test_another_file(void)
{
    /* A file that is no working set is told from a damaged one. */
    static const char text[] = "#!/bin/sh\necho this is not what you think\n";
    const char *refusal = NULL;

    g_assert_null(fastload_workset_parse((const uint8_t *)text, sizeof(text),
                                         &refusal));
    g_assert_cmpstr(refusal, ==, "it is not the file of a working set");
}

/* ---- joining ---- */

static void test_join_keeps_the_order(void)
{
    /* Neighbours are joined to one run, at the place of the first. */
    g_autoptr(FastloadWorkset) set = workset_new(8);

    workset_add(set, 0, 700, 1);
    workset_add(set, 0, 3, 1);
    workset_add(set, 1, 4, 1); /* of another block */
    workset_add(set, 0, 701, 1);
    workset_add(set, 0, 2, 1);
    workset_add(set, 0, 699, 1);
    workset_add(set, 0, 5, 1); /* 4 is missing */
    workset_add(set, 0, 703, 4);
    fastload_workset_join(set);
    workset_check_runs(set, (const uint64_t[][3]) {
        { 0, 699, 3 }, { 0, 2, 2 }, { 1, 4, 1 }, { 0, 5, 1 }, { 0, 703, 4 },
    }, 5);
    g_assert_cmpuint(set->page_count, ==, 11);
}

static void test_join_of_a_scan(void)
{
    /* A guest that touches memory in order leaves one run, however long. */
    g_autoptr(FastloadWorkset) set = workset_new(10000);
    uint32_t i;

    for (i = 0; i < 10000; i++) {
        workset_add(set, 0, i, 1);
    }
    fastload_workset_join(set);
    workset_check_runs(set, (const uint64_t[][3]) { { 0, 0, 10000 } }, 1);
}

static void test_join_is_of_one_time(void)
{
    /* Neighbours that were touched much later stay where they are. */
    g_autoptr(FastloadWorkset) set = workset_new(1001);
    uint32_t i;

    workset_add(set, 0, 5001, 1);
    for (i = 0; i < 999; i++) {
        workset_add(set, 0, 2 * i, 1);
    }
    workset_add(set, 0, 5000, 1);
    fastload_workset_join(set);
    g_assert_cmpuint(set->run_count, ==, 1001);
    g_assert_cmpuint(set->runs[0].first_page, ==, 5001);
    g_assert_cmpuint(set->runs[1000].first_page, ==, 5000);
}

static void test_join_of_all_memory(void)
{
    /* All pages, touched in any order, are joined to few runs. */
    const uint32_t page_count = 500000;
    g_autoptr(FastloadWorkset) set = workset_new(page_count);
    uint64_t at = 1;
    uint32_t i;

    set->blocks[0].len_bytes = page_count * 4096ull;
    for (i = 0; i < page_count; i++) {
        at = (at + 149993) % page_count; /* a prime: each page once */
        workset_add(set, 0, at, 1);
    }
    fastload_workset_join(set);
    g_assert_cmpuint(set->run_count, <=, FASTLOAD_WORKSET_RUN_COUNT_MAX);
    g_assert_cmpuint(set->page_count, ==, page_count);
    g_assert_false(set->is_cut);
}

static void test_join_has_a_bound(void)
{
    /* Too many runs without neighbours are cut, and the set says so. */
    const uint32_t page_count = FASTLOAD_WORKSET_RUN_COUNT_MAX + 1000;
    g_autoptr(FastloadWorkset) set = workset_new(page_count);
    g_autoptr(FastloadWorkset) again = NULL;
    g_autofree uint8_t *bytes = NULL;
    const char *refusal = NULL;
    size_t len_bytes;
    uint32_t i;

    set->blocks[0].len_bytes = 2 * page_count * 4096ull;
    for (i = 0; i < page_count; i++) {
        workset_add(set, 0, 2 * i, 1);
    }
    fastload_workset_join(set);
    g_assert_true(set->is_cut);
    g_assert_cmpuint(set->run_count, ==, FASTLOAD_WORKSET_RUN_COUNT_MAX);
    g_assert_cmpuint(set->page_count, ==, FASTLOAD_WORKSET_RUN_COUNT_MAX);
    bytes = fastload_workset_format(set, &len_bytes);
    g_assert_cmpuint(len_bytes, <=, FASTLOAD_WORKSET_FILE_BYTES_MAX);
    again = fastload_workset_parse(bytes, len_bytes, &refusal);
    g_assert_nonnull(again);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fastload/workset/round-trip", test_round_trip);
    g_test_add_func("/fastload/workset/bytes-are-fixed", test_bytes_are_fixed);
    g_test_add_func("/fastload/workset/empty-set", test_empty_set);
    g_test_add_func("/fastload/workset/cut-anywhere", test_cut_anywhere);
    g_test_add_func("/fastload/workset/any-bit-flipped", test_any_bit_flipped);
    g_test_add_func("/fastload/workset/lies-are-refused",
                    test_lies_are_refused);
    g_test_add_func("/fastload/workset/more-pages-than-there-are",
                    test_more_pages_than_there_are);
    g_test_add_func("/fastload/workset/last-page-is-in", test_last_page_is_in);
    g_test_add_func("/fastload/workset/another-file", test_another_file);
    g_test_add_func("/fastload/workset/join-keeps-the-order",
                    test_join_keeps_the_order);
    g_test_add_func("/fastload/workset/join-of-a-scan", test_join_of_a_scan);
    g_test_add_func("/fastload/workset/join-is-of-one-time",
                    test_join_is_of_one_time);
    g_test_add_func("/fastload/workset/join-of-all-memory",
                    test_join_of_all_memory);
    g_test_add_func("/fastload/workset/join-has-a-bound",
                    test_join_has_a_bound);
    return g_test_run();
}
