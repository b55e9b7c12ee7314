/*
 * fastload: the file of a working set.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Purpose: what is in the file that names the pages a restored guest touches
 *   first.  The engine writes and replays it (fastload_use_workset() in
 *   qemu/fastload.h); tools show what it holds.  Bytes in memory only: no I/O.
 * Ownership: what a function returns is the caller's.
 * Threads: pure functions, any thread.
 * Errors: a refusal is a sentence without capital and full stop, in static
 *   storage.
 * Trust: none; the bytes may be anything.
 * Units: a page is FASTLOAD_WORKSET_PAGE_BYTES here, whatever memory is made
 *   of, so that a set recorded on one kind of memory fits every other.
 *
 * The file, all numbers little endian, every part a multiple of 8 bytes:
 *
 *   offset  bytes
 *        0      8  "FLWORKST"
 *        8      4  version: FASTLOAD_WORKSET_VERSION
 *       12      4  number of blocks
 *       16      4  number of runs
 *       20      4  flags: 1: more was touched than is in the file
 *       24      8  digest of the snapshot: headers, bitmaps, size
 *       32      8  how long the recording took, in nanoseconds
 *       40      8  pages of all runs together
 *       48      8  bytes of the file
 *       56      8  checksum of the file, with zero in this place
 *       64         the blocks, then the runs
 *
 *   a block:    8  bytes of the RAM block
 *               8  offset of its pages, from where the snapshot begins
 *               4  bytes of its name
 *               4  zero
 *                  its name, in printable ASCII, filled up with zeros to a
 *                  multiple of 8 bytes
 *
 *   a run:      8  its first page in the block
 *               4  its number of pages
 *               2  its block
 *               2  how often it was seen, 1 at least
 *
 * Runs are in the order in which the guest touched their first page.
 */
#ifndef QEMU_FASTLOAD_WORKSET_H
#define QEMU_FASTLOAD_WORKSET_H

#define FASTLOAD_WORKSET_VERSION 1
#define FASTLOAD_WORKSET_PAGE_BYTES 4096u
#define FASTLOAD_WORKSET_BLOCK_COUNT_MAX 4096u
#define FASTLOAD_WORKSET_RUN_COUNT_MAX 65536u
#define FASTLOAD_WORKSET_LABEL_BYTES_MAX 255u
#define FASTLOAD_WORKSET_HEADER_BYTES 64u
/* No file is longer. */
#define FASTLOAD_WORKSET_FILE_BYTES_MAX \
    (FASTLOAD_WORKSET_HEADER_BYTES + \
     FASTLOAD_WORKSET_BLOCK_COUNT_MAX * \
     (24u + FASTLOAD_WORKSET_LABEL_BYTES_MAX + 1) + \
     FASTLOAD_WORKSET_RUN_COUNT_MAX * 16u)

/* A RAM block that has pages in the set. */
typedef struct FastloadWorksetBlock {
    char label[FASTLOAD_WORKSET_LABEL_BYTES_MAX + 1];
    uint64_t len_bytes;   /* a multiple of the page size, not 0 */
    uint64_t stream_off;  /* of its pages, from where the snapshot begins */
} FastloadWorksetBlock;

typedef struct FastloadWorksetRun {
    uint64_t first_page;  /* in the block */
    uint32_t page_count;  /* at least 1, inside the block */
    uint16_t block_idx;
    uint16_t seen_count;  /* at least 1 */
} FastloadWorksetRun;

typedef struct FastloadWorkset {
    uint64_t snapshot_digest;
    uint64_t took_ns;
    bool is_cut;          /* more was touched than is here */
    FastloadWorksetBlock *blocks;
    uint32_t block_count;
    FastloadWorksetRun *runs;
    uint32_t run_count;
    uint64_t page_count;  /* of all runs; of no block more than it has */
} FastloadWorkset;

/**
 * fastload_workset_parse: the set that a file holds
 * @bytes: the whole file
 * @len_bytes: of it; any
 * @ret_refusal: why there is none
 *
 * Returns: a set that keeps what the structs above promise, or NULL.
 */
FastloadWorkset *fastload_workset_parse(const uint8_t *bytes,
                                        uint64_t len_bytes,
                                        const char **ret_refusal);

/**
 * fastload_workset_format: the bytes of the file
 * @set: as fastload_workset_parse() promises it
 * @ret_len_bytes: how many bytes
 *
 * Returns: freed with g_free().
 */
uint8_t *fastload_workset_format(const FastloadWorkset *set,
                                 size_t *ret_len_bytes);

/**
 * fastload_workset_join: makes long runs of short ones
 * @set: its runs are changed, its page_count stays
 *
 * Runs that follow each other in memory and were touched soon after each other
 * become one, in the place of the one that was touched first.  How soon is
 * whatever it takes to have no more runs than a file may; where even that does
 * not suffice, the last ones are left out and the set is_cut.
 */
void fastload_workset_join(FastloadWorkset *set);

/* Takes NULL. */
void fastload_workset_free(FastloadWorkset *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FastloadWorkset, fastload_workset_free)

/*
 * For digests and checksums: another value, or another order of values, is
 * another hash, but for one in 2^64.  No defence against who means harm: a set
 * that fits by deceit is slow, and never wrong.
 */
#define FASTLOAD_WORKSET_HASH_BEGIN 0x8f3c1ad5726e94b1ull
static inline uint64_t fastload_workset_hash(uint64_t hash, uint64_t value)
{
    /* Each step can be undone: one value that differs always shows. */
    hash = (hash ^ value) * 0xd6e8feb86659fd93ull;
    return hash ^ hash >> 32;
}

#endif /* QEMU_FASTLOAD_WORKSET_H */
