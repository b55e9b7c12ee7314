/*
 * fastload header: what a mapped-ram file says of a RAM block; pure.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The file may hold any numbers: they are compared before they are added, so
 * that no sum overflows.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_header.h"

/* Pages begin at multiples of this. */
#define HEADER_ALIGN_BYTES (1u << 20)

static uint64_t header_number(const uint8_t bytes[8])
{
    uint64_t value;

    memcpy(&value, bytes, sizeof(value));
    return GUINT64_FROM_BE(value);
}

void fastload_header_parse(const uint8_t bytes[FASTLOAD_HEADER_BYTES],
                           FastloadHeader *ret_header)
{
    *ret_header = (FastloadHeader) {
        .version = header_number(bytes) >> 32,
        .page_bytes = header_number(bytes + 4),
        .bitmap_off = header_number(bytes + 12),
        .pages_off = header_number(bytes + 20),
    };
}

uint64_t fastload_header_bitmap_bytes(uint64_t len_bytes, uint64_t page_bytes)
{
    uint64_t page_count = len_bytes / page_bytes;

    return (page_count / 64 + (page_count % 64 != 0)) * sizeof(uint64_t);
}

uint64_t fastload_header_pages_off(uint64_t name_off, uint32_t name_bytes,
                                   uint64_t len_bytes, uint64_t page_bytes)
{
    uint64_t end_off = name_off + 1 + name_bytes + sizeof(uint64_t) +
                       FASTLOAD_HEADER_BYTES +
                       fastload_header_bitmap_bytes(len_bytes, page_bytes);

    return (end_off + HEADER_ALIGN_BYTES - 1) / HEADER_ALIGN_BYTES *
           HEADER_ALIGN_BYTES;
}

static bool header_fits(uint64_t off, uint64_t len_bytes, uint64_t file_bytes)
{
    return off <= file_bytes && len_bytes <= file_bytes - off;
}

FastloadHeaderDefect fastload_header_check(const FastloadHeader *header,
                                           uint64_t len_bytes,
                                           uint64_t page_bytes,
                                           uint64_t after_off,
                                           uint64_t file_bytes)
{
    uint64_t bitmap_bytes = fastload_header_bitmap_bytes(len_bytes,
                                                         page_bytes);

    if (header->version != FASTLOAD_HEADER_VERSION) {
        return FASTLOAD_HEADER_BAD_VERSION;
    }
    if (header->page_bytes != page_bytes) {
        return FASTLOAD_HEADER_BAD_PAGE_BYTES;
    }
    if (header->bitmap_off < after_off) {
        return FASTLOAD_HEADER_BITMAP_TOO_EARLY;
    }
    if (!header_fits(header->bitmap_off, bitmap_bytes, file_bytes)) {
        return FASTLOAD_HEADER_BITMAP_CUT;
    }
    if (header->pages_off < header->bitmap_off + bitmap_bytes) {
        return FASTLOAD_HEADER_PAGES_TOO_EARLY;
    }
    if (header->pages_off % page_bytes) {
        return FASTLOAD_HEADER_PAGES_UNALIGNED;
    }
    if (!header_fits(header->pages_off, len_bytes, file_bytes)) {
        return FASTLOAD_HEADER_PAGES_CUT;
    }
    return FASTLOAD_HEADER_SOUND;
}
