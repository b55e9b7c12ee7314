/*
 * fastload: the header of a RAM block in a mapped-ram file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Purpose: QEMU's adapter and the tools that read snapshots check in one place
 *   where a file says that a block's bitmap and pages are.  Each of them has
 *   messages of its own.
 * Threads: pure functions, any thread.
 * Trust: none; every number may have any value.
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

/* What is wrong with a header: the first of these that applies. */
typedef enum FastloadHeaderDefect {
    FASTLOAD_HEADER_SOUND,
    FASTLOAD_HEADER_BAD_VERSION,
    FASTLOAD_HEADER_BAD_PAGE_BYTES,
    FASTLOAD_HEADER_BITMAP_TOO_EARLY, /* before @after_off */
    FASTLOAD_HEADER_BITMAP_CUT,       /* the file ends before the bitmap does */
    FASTLOAD_HEADER_PAGES_TOO_EARLY,  /* before the end of the bitmap */
    FASTLOAD_HEADER_PAGES_UNALIGNED,
    FASTLOAD_HEADER_PAGES_CUT,
} FastloadHeaderDefect;

/* Reads the numbers; any bytes will do. */
void fastload_header_parse(const uint8_t bytes[FASTLOAD_HEADER_BYTES],
                           FastloadHeader *ret_header);

/*
 * Bytes of the bitmap of a block of @len_bytes with pages of @page_bytes, which
 * is not 0: whole words of 64 bits.
 */
uint64_t fastload_header_bitmap_bytes(uint64_t len_bytes,
                                      uint64_t page_bytes);

/**
 * fastload_header_pages_off: where QEMU puts the pages of a block it saves
 * @name_off: where the stream names the block: one byte of length, the name,
 *   the block's length in 8 bytes, then the header
 * @name_bytes: length of the name
 * @len_bytes: length of the block
 * @page_bytes: as of fastload_header_bitmap_bytes()
 *
 * The next block is named right behind the pages.  Only a guess: the header
 * tells, and a stream that was saved with other capabilities names more.
 */
uint64_t fastload_header_pages_off(uint64_t name_off, uint32_t name_bytes,
                                   uint64_t len_bytes, uint64_t page_bytes);

/**
 * fastload_header_check: do bitmap and pages lie in the file?
 * @header: as parsed
 * @len_bytes: length of the block, as the file says; any number
 * @page_bytes: page size of this machine; a power of two, 512 at least
 * @after_off: the lowest offset that bitmap and pages may have: the end of the
 *   header, or of the block before.  Blocks checked in this order do not
 *   overlap
 * @file_bytes: size of the file
 *
 * Returns: FASTLOAD_HEADER_SOUND when bitmap and pages lie in the file, in this
 * order, and no sum of an offset and a length overflows; else the first defect.
 */
FastloadHeaderDefect fastload_header_check(const FastloadHeader *header,
                                           uint64_t len_bytes,
                                           uint64_t page_bytes,
                                           uint64_t after_off,
                                           uint64_t file_bytes);

#endif /* QEMU_FASTLOAD_HEADER_H */
