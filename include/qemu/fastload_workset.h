/*
 * fastload: the file of a working set.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Purpose: the format of the file that names the pages a restored guest touches
 *   first.  The engine writes and replays it (fastload_use_workset() in
 *   qemu/fastload.h); tools show what it holds.  Bytes in memory only: no I/O.
 * Ownership: the caller owns what a function returns.
 * Threads: pure functions, any thread.
 * Errors: a refusal is a sentence without capital and full stop, in static
 *   storage.
 * Trust: none; the file may hold any bytes.
 * Units: a page is FASTLOAD_WORKSET_PAGE_BYTES here, on memory with any page
 *   size, so that a set recorded on one kind of memory fits every other.
 *
 * The file, all numbers little endian, every part a multiple of 8 bytes:
 *
 *   offset  bytes
 *        0      8  "FLWORKST"
 *        8      4  version: FASTLOAD_WORKSET_VERSION
 *       12      4  number of blocks
 *       16      4  number of runs
 *       20      4  flags; 1: the guest touched more than is in the file
 *       24      8  digest of the snapshot: headers, bitmaps, size
 *       32      8  how long the recording took, in nanoseconds
 *       40      8  pages of all runs together
 *       48      8  bytes of the file
 *       56      8  checksum of the file, computed with zero in this place
 *       64         the blocks, then the runs
 *
 *   a block:    8  bytes of the RAM block
 *               8  offset of its pages from the start of the snapshot
 *               4  bytes of its name
 *               4  zero
 *                  its name, in printable ASCII, filled up with zeros to a
 *                  multiple of 8 bytes
 *
 *   a run:      8  its first page in the block
 *               4  its number of pages
 *               2  its block
 *               2  how often it was touched, at least 1
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
/* A longer file is refused. */
#define FASTLOAD_WORKSET_FILE_BYTES_MAX \
    (FASTLOAD_WORKSET_HEADER_BYTES + \
     FASTLOAD_WORKSET_BLOCK_COUNT_MAX * \
     (24u + FASTLOAD_WORKSET_LABEL_BYTES_MAX + 1) + \
     FASTLOAD_WORKSET_RUN_COUNT_MAX * 16u)

/* A RAM block that has pages in the set. */
typedef struct FastloadWorksetBlock {
    char label[FASTLOAD_WORKSET_LABEL_BYTES_MAX + 1];
    uint64_t len_bytes;   /* a multiple of the page size, not 0 */
    uint64_t stream_off;  /* of its pages, from the start of the snapshot */
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
    bool is_cut;          /* the guest touched more than is here */
    FastloadWorksetBlock *blocks;
    uint32_t block_count;
    FastloadWorksetRun *runs;
    uint32_t run_count;
    uint64_t page_count;  /* of all runs; no block has fewer than its runs */
} FastloadWorkset;

/**
 * fastload_workset_parse: parse the file of a working set
 * @bytes: the whole file
 * @len_bytes: its length; any number
 * @ret_refusal: set when NULL is returned: what is wrong with the file
 *
 * Returns: a set that keeps what the structs above promise, freed with
 * fastload_workset_free(); or NULL.
 */
FastloadWorkset *fastload_workset_parse(const uint8_t *bytes,
                                        uint64_t len_bytes,
                                        const char **ret_refusal);

/**
 * fastload_workset_format: make the bytes of the file
 * @set: keeps what the structs above promise, and the limits above
 * @ret_len_bytes: length of the file
 *
 * Returns: the bytes, freed with g_free().
 */
uint8_t *fastload_workset_format(const FastloadWorkset *set,
                                 size_t *ret_len_bytes);

/**
 * fastload_workset_join: join short runs to long ones
 * @set: its runs are changed; its page_count stays, unless it is cut
 *
 * Runs that are adjacent in memory and were touched soon after each other
 * become one, in the place of the one that was touched first.  "Soon" is
 * stretched until the runs fit into a file; if they never do, the last ones are
 * dropped, and the set is_cut.
 */
void fastload_workset_join(FastloadWorkset *set);

/* Takes NULL. */
void fastload_workset_free(FastloadWorkset *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FastloadWorkset, fastload_workset_free)

/*
 * One step of a digest or checksum: other values, or values in another order,
 * give another hash, but for one case in 2^64.  It is no defence against a
 * forged file; a working set that only seems to fit makes a load slow, not
 * wrong.
 */
#define FASTLOAD_WORKSET_HASH_BEGIN 0x8f3c1ad5726e94b1ull
static inline uint64_t fastload_workset_hash(uint64_t hash, uint64_t value)
{
    /* Each step is reversible: a single value that differs always shows. */
    hash = (hash ^ value) * 0xd6e8feb86659fd93ull;
    return hash ^ hash >> 32;
}

#endif /* QEMU_FASTLOAD_WORKSET_H */
