/*
 * Fuzzing the file of a working set: any bytes, a refusal or a sound set.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An input is tried as it is, and again with the length and the checksum that
 * it should have: no fuzzer finds these.  What goes wrong, aborts.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_workset.h"
#include "fuzz.h"

static void check_set(const FastloadWorkset *set)
{
    uint64_t page_count = 0;
    uint32_t i, c;

    for (i = 0; i < set->block_count; i++) {
        const FastloadWorksetBlock *block = &set->blocks[i];

        CHECK(block->len_bytes &&
              block->len_bytes % FASTLOAD_WORKSET_PAGE_BYTES == 0);
        CHECK(memchr(block->label, 0, sizeof(block->label)));
        for (c = 0; block->label[c]; c++) {
            CHECK(g_ascii_isprint(block->label[c]));
        }
    }
    for (i = 0; i < set->run_count; i++) {
        const FastloadWorksetRun *run = &set->runs[i];
        uint64_t block_pages;

        CHECK(run->block_idx < set->block_count);
        CHECK(run->page_count && run->seen_count);
        block_pages = set->blocks[run->block_idx].len_bytes /
                      FASTLOAD_WORKSET_PAGE_BYTES;
        CHECK(run->first_page < block_pages);
        CHECK(run->page_count <= block_pages - run->first_page);
        page_count += run->page_count;
    }
    CHECK(page_count == set->page_count);
}

/* Joined, it has the same pages, and is a set as before. */
static void check_joined(FastloadWorkset *set)
{
    uint64_t page_count = set->page_count;
    uint32_t run_count = set->run_count;

    fastload_workset_join(set);
    CHECK(set->run_count <= run_count && !set->run_count == !run_count);
    CHECK(set->page_count == page_count);
    check_set(set);
}

bool fuzz_one(const uint8_t *data, size_t byte_count)
{
    const char *refusal = NULL;
    FastloadWorkset *set = fastload_workset_parse(data, byte_count, &refusal);
    g_autofree uint8_t *bytes = g_malloc0(byte_count + 1);
    bool is_ok = set;
    uint64_t value, hash = FASTLOAD_WORKSET_HASH_BEGIN;
    size_t len_bytes, at;

    CHECK(is_ok == !refusal);
    memcpy(bytes, data, byte_count);
    if (!set && byte_count >= FASTLOAD_WORKSET_HEADER_BYTES &&
        byte_count % 8 == 0) {
        value = GUINT64_TO_LE(byte_count);
        memcpy(bytes + 48, &value, 8);
        memset(bytes + 56, 0, 8);
        for (at = 0; at < byte_count; at += 8) {
            memcpy(&value, bytes + at, 8);
            hash = fastload_workset_hash(hash, GUINT64_FROM_LE(value));
        }
        value = GUINT64_TO_LE(hash);
        memcpy(bytes + 56, &value, 8);
        set = fastload_workset_parse(bytes, byte_count, &refusal);
    }
    if (set) {
        g_autofree uint8_t *again = fastload_workset_format(set, &len_bytes);

        CHECK(len_bytes == byte_count && !memcmp(again, bytes, len_bytes));
        check_set(set);
        check_joined(set);
        fastload_workset_free(set);
    }
    return is_ok;
}
