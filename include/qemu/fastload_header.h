/*
 * fastload: the header of a RAM block in a mapped-ram file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Purpose: one judge of what a file says about where a block's bitmap and
 *   pages are, for QEMU's adapter and for the tools that read snapshots; each
 *   tells its user in its own words.
 * Threads: pure functions, any thread.
 * Trust: none; every number may be anything.
 *
 * The format is QEMU's, docs/devel/migration/mapped-ram.rst there.
 */
#ifndef QEMU_FASTLOAD_HEADER_H
#define QEMU_FASTLOAD_HEADER_H

#define FASTLOAD_HEADER_VERSION 1
/* In the file, big-endian: 4 bytes of version, then three times 8. */
#define FASTLOAD_HEADER_BYTES 28

typedef struct FastloadHeader {
    uint32_t version;
    uint64_t page_bytes; /* for each bit of the bitmap */
    uint64_t bitmap_off; /* in the file, as is pages_off */
    uint64_t pages_off;
} FastloadHeader;

/* What is wrong with it; the first of these that is. */
typedef enum FastloadHeaderDefect {
    FASTLOAD_HEADER_SOUND,
    FASTLOAD_HEADER_BAD_VERSION,
    FASTLOAD_HEADER_BAD_PAGE_BYTES,
    FASTLOAD_HEADER_BITMAP_TOO_EARLY, /* before what must come before it */
    FASTLOAD_HEADER_BITMAP_CUT,       /* the file ends before it does */
    FASTLOAD_HEADER_PAGES_TOO_EARLY,
    FASTLOAD_HEADER_PAGES_UNALIGNED,
    FASTLOAD_HEADER_PAGES_CUT,
} FastloadHeaderDefect;

void fastload_header_parse(const uint8_t bytes[FASTLOAD_HEADER_BYTES],
                           FastloadHeader *ret_header);

/* Of a block of @len_bytes: whole words of 64 bits. */
uint64_t fastload_header_bitmap_bytes(uint64_t len_bytes,
                                      uint64_t page_bytes);

/**
 * fastload_header_check: can it be followed without leaving the file?
 * @header: as parsed
 * @len_bytes: of the block, as the file says; any
 * @page_bytes: what this machine has; a power of two, 512 at least
 * @after_off: where bitmap and pages may begin at the earliest: behind the
 *   header, or the block before it.  In this order nothing overlaps
 * @file_bytes: the size of the file
 *
 * When it is sound, bitmap and pages lie in the file, in this order, and no
 * sum of an offset and a length overflows.
 */
FastloadHeaderDefect fastload_header_check(const FastloadHeader *header,
                                           uint64_t len_bytes,
                                           uint64_t page_bytes,
                                           uint64_t after_off,
                                           uint64_t file_bytes);

#endif /* QEMU_FASTLOAD_HEADER_H */
