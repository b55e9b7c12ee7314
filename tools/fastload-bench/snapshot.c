/*
 * A mapped-ram file of QEMU's to blocks and bitmaps, all of it checked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The file is a migration stream with gaps.  As far as it is read here:
 *
 *   magic, version, a configuration section (may be missing), whatever a
 *   device wants to have before RAM, the section "ram" with
 *     the length of all blocks together
 *     each block: name, length, size of its host pages (optional), its guest
 *       address (optional), a header with the places of bitmap and pages; the
 *       bitmap; the pages; the stream goes on where the pages end
 *     an end mark
 *   more rounds of "ram", the last one with the bitmaps in place
 *
 * Whether the two optional fields are there depends on capabilities of the QEMU
 * that saved.  The file names one of the capabilities; for the other, the
 * parser takes the place at which a header makes sense: it cannot make sense at
 * two places that are 8 or 16 bytes apart.
 *
 * Each part must lie behind the one before it, as QEMU writes them.  So nothing
 * overlaps, and every page lies in the file, for the end mark is behind the
 * last one.  This also bounds the memory that the parser needs by the size of
 * the file.  A sparse file may still be large for little; but zeros in its
 * bitmaps take address space here, not memory.
 *
 * Page contents and device state are not read.  A bitmap that was written by a
 * big-endian host cannot be recognised and is read scrambled.  QEMU 11 leaves a
 * block that was ignored because it is shared (x-ignore-shared) out of the
 * file; with an older QEMU such a block looks as if it were all zero.  Either
 * counts as zero here.
 *
 * Fails with one sentence: what is wrong, at which offset, what to do.
 */
#include "bench.h"
#include "qemu/fastload_header.h"

#include <sys/stat.h>
#include <sys/vfs.h>

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546 /* statfs(2) */
#endif

/* Facts of the format. */
#define STREAM_MAGIC 0x5145564du         /* "QEVM" */
#define STREAM_VERSION 3
#define STREAM_SECTION_START 0x01
#define STREAM_SECTION_PART 0x02
#define STREAM_SECTION_END 0x03
#define STREAM_SECTION_FULL 0x04
#define STREAM_SUBSECTION 0x05
#define STREAM_CONFIGURATION 0x07
#define STREAM_COMMAND 0x08
#define STREAM_FOOTER 0x7e
#define RAM_FLAG_MEM_SIZE 0x004
#define RAM_FLAG_EOS 0x010
#define RAM_FLAG_MULTIFD_FLUSH 0x200
#define UUID_BYTES 16
#define RAM_HEAD_BYTES 25

/* Limits of this parser. */
#define MACHINE_BYTES_MAX 255
#define SUBSECTION_COUNT_MAX 16
#define CAPABILITY_COUNT_MAX 256
/* QEMU 10.2 writes a command there, or nothing. */
#define BEFORE_RAM_BYTES_MAX (1u << 20)
/* After so many rounds the save is taken to be complete. */
#define ROUND_COUNT_MAX (1u << 18)
#define EXTRA_BYTES_MAX 16
#define BITMAP_PIECE_BYTES (256u << 10)
/* The section "globalstate" is one of the first behind RAM. */
#define RUN_STATE_SEARCH_BYTES (4u << 20)
/* Offsets of the state and its end, from the length of the name on. */
#define RUN_STATE_OFF (1 + 11 + 4 + 4 + 4)
#define RUN_STATE_BYTES (RUN_STATE_OFF + 32)
#define YOUNG_NS (2000 * 1000 * 1000ll)

G_DEFINE_QUARK(bench-error-quark, bench_error)

typedef struct Parser {
    /* constant */
    const char *label;
    int fd;
    uint64_t file_bytes;
    /* where the stream is read next */
    uint64_t off;
    /* of the configuration */
    char machine[MACHINE_BYTES_MAX + 1];
    bool has_capabilities;
    bool is_ignore_shared;
    bool is_mapped_ram;
    /* of the list of blocks */
    uint32_t section_id;
    uint64_t total_bytes;
    uint64_t len_bytes;      /* of the blocks so far */
    GArray *blocks;          /* SnapshotBlock */
    GHashTable *names;       /* of the blocks so far; owned copies */
    /* the last bytes read from the file */
    uint64_t window_off;
    uint32_t window_bytes;
    uint8_t window[4096];
} Parser;

/* ---- errors ---- */

/* Why a file is refused; the message has the defect between the two. */
typedef struct Refusal {
    const char *verdict;
    const char *advice;
} Refusal;

static const Refusal damaged = { "is damaged", "; save it again" };
static const Refusal foreign = {
    "is not a mapped-ram snapshot",
    "; save it with the migration capability mapped-ram on"
};
static const Refusal unusable = { "cannot be used", "" };

static void G_GNUC_PRINTF(4, 5)
refuse(const Parser *p, GError **error, const Refusal *refusal,
       const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED, "%s %s: %s%s",
                p->label, refusal->verdict, what, refusal->advice);
}

static void refuse_truncated(const Parser *p, const char *what,
                             uint64_t off, GError **error)
{
    g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                "%s is truncated: its %" PRIu64 " bytes do not hold %s at "
                "offset %" PRIu64 "; copy or save it again", p->label,
                p->file_bytes, what, off);
}

/* ---- reading ---- */

static bool parser_is_inside(const Parser *p, uint64_t off,
                             uint64_t len_bytes)
{
    return off <= p->file_bytes && len_bytes <= p->file_bytes - off;
}

/* Reads all of it; the file was checked to be long enough. */
static bool parser_pread(Parser *p, void *buf, uint64_t len_bytes,
                         uint64_t off, GError **error)
{
    uint64_t done_bytes = 0;

    while (done_bytes < len_bytes) {
        ssize_t ret = pread(p->fd, (uint8_t *)buf + done_bytes,
                            len_bytes - done_bytes, off + done_bytes);

        if (ret < 0 && errno == EINTR) {
            continue;
        }
        if (ret <= 0) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "cannot read %s at offset %" PRIu64 ": %s", p->label,
                        off + done_bytes,
                        ret ? g_strerror(errno) : "it became shorter");
            return false;
        }
        done_bytes += ret;
    }
    return true;
}

/* Bytes at @off, or NULL; borrowed until the next call.  @what: for errors. */
static const uint8_t *parser_look(Parser *p, uint64_t off, uint32_t len_bytes,
                                  const char *what, GError **error)
{
    assert(len_bytes <= sizeof(p->window));
    if (!parser_is_inside(p, off, len_bytes)) {
        refuse_truncated(p, what, off, error);
        return NULL;
    }
    if (off < p->window_off ||
        off + len_bytes > p->window_off + p->window_bytes) {
        uint64_t window_bytes = MIN(sizeof(p->window), p->file_bytes - off);

        p->window_bytes = 0;
        if (!parser_pread(p, p->window, window_bytes, off, error)) {
            return NULL;
        }
        p->window_off = off;
        p->window_bytes = window_bytes;
    }
    return p->window + (off - p->window_off);
}

static uint64_t from_big_endian(const uint8_t *bytes, uint32_t byte_count)
{
    uint64_t value = 0;
    uint32_t i;

    for (i = 0; i < byte_count; i++) {
        value = value << 8 | bytes[i];
    }
    return value;
}

/* The next number of the stream, of 1, 2, 4 or 8 bytes. */
static bool parser_take(Parser *p, uint32_t byte_count, const char *what,
                        uint64_t *ret_value, GError **error)
{
    const uint8_t *bytes = parser_look(p, p->off, byte_count, what, error);

    if (!bytes) {
        return false;
    }
    *ret_value = from_big_endian(bytes, byte_count);
    p->off += byte_count;
    return true;
}

/* A byte with a length, and as many bytes; @ret_text gets a NUL at its end. */
static bool parser_take_text(Parser *p, const char *what, char ret_text[256],
                             uint64_t *ret_byte_count, GError **error)
{
    const uint8_t *bytes;

    if (!parser_take(p, 1, what, ret_byte_count, error)) {
        return false;
    }
    bytes = parser_look(p, p->off, *ret_byte_count, what, error);
    if (!bytes) {
        return false;
    }
    memcpy(ret_text, bytes, *ret_byte_count);
    ret_text[*ret_byte_count] = '\0';
    p->off += *ret_byte_count;
    return true;
}

/* ---- what comes before RAM ---- */

static bool parse_magic(Parser *p, GError **error)
{
    static const char libvirt_magic[] = "LibvirtQemud";
    const uint8_t *bytes;
    uint64_t magic, version;

    if (!p->file_bytes) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s is not a migration stream: it has 0 bytes; name a "
                    "snapshot", p->label);
        return false;
    }
    if (p->file_bytes < 2 * sizeof(uint32_t)) {
        refuse(p, error, &foreign, "it has only %" PRIu64 " bytes",
               p->file_bytes);
        return false;
    }
    bytes = parser_look(p, 0, MIN(p->file_bytes, sizeof(libvirt_magic)),
                        "the magic", error);
    if (!bytes) {
        return false;
    }
    if (p->file_bytes >= sizeof(libvirt_magic) &&
        !memcmp(bytes, libvirt_magic, strlen(libvirt_magic))) {
        refuse(p, error, &foreign, "it is a save image of libvirt, which "
               "has a header of its own before QEMU's data");
        return false;
    }
    if (!parser_take(p, 4, "the magic", &magic, error) ||
        !parser_take(p, 4, "the version", &version, error)) {
        return false;
    }
    if (magic != STREAM_MAGIC) {
        refuse(p, error, &foreign, "it does not begin with QEVM but with "
               "0x%08" PRIx64, magic);
        return false;
    }
    if (version != STREAM_VERSION) {
        refuse(p, error, &foreign, "its format at offset 4 has version %"
               PRIu64 " where %d is known", version,
               STREAM_VERSION);
        return false;
    }
    return true;
}

static bool parse_capabilities(Parser *p, GError **error)
{
    uint64_t off = p->off;
    uint64_t count, byte_count;
    char name[256];

    if (!parser_take(p, 4, "the capabilities", &count, error)) {
        return false;
    }
    if (count > CAPABILITY_COUNT_MAX) {
        refuse(p, error, &damaged, "the configuration at offset %" PRIu64
               " lists %" PRIu64 " capabilities", off, count);
        return false;
    }
    while (count--) {
        if (!parser_take_text(p, "the capabilities", name, &byte_count,
                              error)) {
            return false;
        }
        p->is_mapped_ram = p->is_mapped_ram || !strcmp(name, "mapped-ram");
        p->is_ignore_shared = p->is_ignore_shared ||
                              !strcmp(name, "x-ignore-shared");
    }
    if (!p->is_mapped_ram) {
        refuse(p, error, &foreign, "its capabilities at offset %" PRIu64
               " do not have mapped-ram", off);
        return false;
    }
    p->has_capabilities = true;
    return true;
}

/* *ret_is_known false: the end of the subsection is not known. */
static bool parse_subsection(Parser *p, bool *ret_is_known, GError **error)
{
    uint64_t byte_count, version;
    char name[256];

    p->off++; /* STREAM_SUBSECTION */
    if (!parser_take_text(p, "the configuration", name, &byte_count, error) ||
        !parser_take(p, 4, "the configuration", &version, error)) {
        return false;
    }
    *ret_is_known = version == 1;
    if (version == 1 && !strcmp(name, "configuration/capabilities")) {
        return parse_capabilities(p, error);
    }
    if (version == 1 && !strcmp(name, "configuration/target-page-bits")) {
        p->off += sizeof(uint32_t);
    } else if (version == 1 && !strcmp(name, "configuration/uuid")) {
        p->off += UUID_BYTES;
    } else {
        *ret_is_known = false;
    }
    return true;
}

static bool parse_configuration(Parser *p, GError **error)
{
    const uint8_t *type = parser_look(p, p->off, 1, "the header", error);
    uint64_t byte_count;
    bool is_known = true;
    uint32_t i;

    if (!type) {
        return false;
    }
    if (*type != STREAM_CONFIGURATION) {
        return true;
    }
    p->off++;
    if (!parser_take(p, 4, "the configuration", &byte_count, error)) {
        return false;
    }
    if (byte_count > MACHINE_BYTES_MAX) {
        refuse(p, error, &damaged, "the name of the machine at offset %"
               PRIu64 " has %" PRIu64 " bytes", p->off - 4,
               byte_count);
        return false;
    }
    if (parser_is_inside(p, p->off, byte_count)) {
        const uint8_t *name = parser_look(p, p->off, byte_count, "the header",
                                          error);

        if (!name) {
            return false;
        }
        memcpy(p->machine, name, byte_count);
    }
    p->off += byte_count;
    for (i = 0; i < SUBSECTION_COUNT_MAX && is_known; i++) {
        type = parser_look(p, p->off, 1, "the configuration", error);
        if (!type) {
            return false;
        }
        if (*type != STREAM_SUBSECTION) {
            break;
        }
        if (!parse_subsection(p, &is_known, error)) {
            return false;
        }
    }
    return true;
}

/* Parses type, id, name, instance, version, length of all blocks and flag. */
static bool parse_ram_head_at(Parser *p, const uint8_t *bytes)
{
    static const uint8_t name_to_version[] = {
        3, 'r', 'a', 'm', 0, 0, 0, 0, 0, 0, 0, 4,
    };
    uint64_t total;

    if (bytes[0] != STREAM_SECTION_START ||
        memcmp(bytes + 5, name_to_version, sizeof(name_to_version))) {
        return false;
    }
    total = from_big_endian(bytes + 5 + sizeof(name_to_version), 8);
    if (total % BENCH_PAGE_BYTES != RAM_FLAG_MEM_SIZE) {
        return false;
    }
    p->section_id = from_big_endian(bytes + 1, 4);
    p->total_bytes = total - RAM_FLAG_MEM_SIZE;
    return true;
}

/*
 * Commands and early device state may come before RAM, and only the devices
 * know how long that is: so this searches for the head of the section.
 */
static bool parse_ram_head(Parser *p, GError **error)
{
    const char *what = "the head of the RAM section";
    uint64_t begin = p->off;
    uint32_t i;

    while (p->off - begin < BEFORE_RAM_BYTES_MAX &&
           parser_is_inside(p, p->off, RAM_HEAD_BYTES)) {
        uint32_t len_bytes = MIN(sizeof(p->window), p->file_bytes - p->off);
        const uint8_t *bytes = parser_look(p, p->off, len_bytes, what, error);

        if (!bytes) {
            return false;
        }
        for (i = 0; i + RAM_HEAD_BYTES <= len_bytes; i++) {
            if (parse_ram_head_at(p, bytes + i)) {
                p->off += i + RAM_HEAD_BYTES;
                return true;
            }
        }
        p->off += i;
    }
    if (p->has_capabilities && p->off - begin < BEFORE_RAM_BYTES_MAX) {
        refuse_truncated(p, what, begin, error);
    } else {
        refuse(p, error, &foreign, "no RAM section begins between offsets %"
               PRIu64 " and %" PRIu64, begin, p->off);
    }
    return false;
}

/* ---- blocks ---- */

static bool parse_name(Parser *p, SnapshotBlock *block, GError **error)
{
    uint64_t off = p->off;
    uint64_t byte_count;

    if (!parser_take_text(p, "the list of RAM blocks", block->name,
                          &byte_count, error)) {
        return false;
    }
    if (byte_count == 0 || strlen(block->name) != byte_count) {
        refuse(p, error, &damaged, "the name of a RAM block at offset %"
               PRIu64 " is %s", off,
               byte_count ? "cut by a zero byte" : "empty");
        return false;
    }
    if (!g_hash_table_add(p->names, g_strdup(block->name))) {
        g_autofree char *name = g_strescape(block->name, NULL);

        refuse(p, error, &damaged, "a second RAM block '%s' begins at "
               "offset %" PRIu64, name, off);
        return false;
    }
    return true;
}

static bool parse_length(Parser *p, SnapshotBlock *block, const char *name,
                         GError **error)
{
    uint64_t off = p->off;

    if (!parser_take(p, 8, "the list of RAM blocks", &block->len_bytes,
                     error)) {
        return false;
    }
    if (block->len_bytes == 0 || block->len_bytes % BENCH_PAGE_BYTES) {
        refuse(p, error, &damaged, "the RAM block '%s' has %" PRIu64
               " bytes at offset %" PRIu64 ", which are not "
               "whole pages", name, block->len_bytes, off);
        return false;
    }
    if (block->len_bytes > p->total_bytes - p->len_bytes) {
        refuse(p, error, &damaged, "the RAM block '%s' has %" PRIu64
               " bytes at offset %" PRIu64 " where all blocks "
               "have %" PRIu64, name, block->len_bytes, off,
               p->total_bytes);
        return false;
    }
    return true;
}

static bool is_like_header(const FastloadHeader *header)
{
    return header->version == FASTLOAD_HEADER_VERSION &&
           header->page_bytes >= 1024 &&
           header->page_bytes <= BENCH_HUGE_BYTES &&
           !(header->page_bytes & (header->page_bytes - 1));
}

/*
 * Skips the optional fields before a block's header.  If no header makes sense,
 * takes the place that the capabilities suggest.
 */
static bool parse_header_at(Parser *p, FastloadHeader *ret_header,
                            GError **error)
{
    const char *what = "the header of a RAM block";
    const uint8_t *bytes;
    uint32_t first_bytes = p->is_ignore_shared ? 8 : 0;
    uint32_t last_bytes = EXTRA_BYTES_MAX;
    uint32_t extra_bytes;

    if (p->has_capabilities && !p->is_ignore_shared) {
        last_bytes = 8; /* the size of host pages */
    }
    for (extra_bytes = first_bytes; extra_bytes <= last_bytes;
         extra_bytes += 8) {
        bytes = parser_look(p, p->off + extra_bytes, FASTLOAD_HEADER_BYTES,
                            what, error);
        if (!bytes) {
            return false;
        }
        fastload_header_parse(bytes, ret_header);
        if (is_like_header(ret_header)) {
            p->off += extra_bytes;
            return true;
        }
    }
    p->off += first_bytes;
    bytes = parser_look(p, p->off, FASTLOAD_HEADER_BYTES, what, error);
    if (bytes) {
        fastload_header_parse(bytes, ret_header);
    }
    return bytes != NULL;
}

/* Says what is wrong, at which offset. */
static void set_header_error(Parser *p, FastloadHeaderDefect defect,
                             const FastloadHeader *header, uint64_t off,
                             const char *name, GError **error)
{
    g_autofree char *what = NULL;

    switch (defect) {
    case FASTLOAD_HEADER_SOUND:
        break;
    case FASTLOAD_HEADER_BAD_VERSION:
        refuse(p, error, &unusable, "the header of the RAM block '%s' at "
               "offset %" PRIu64 " has version %u, %d is known "
               "here; save with QEMU 10.2", name, off,
               header->version, FASTLOAD_HEADER_VERSION);
        break;
    case FASTLOAD_HEADER_BAD_PAGE_BYTES:
        refuse(p, error, &unusable, "the RAM block '%s' has pages of %"
               PRIu64 " bytes at offset %" PRIu64 ", pages of %u "
               "are known here; save a guest that has those",
               name, header->page_bytes, off + 4,
               BENCH_PAGE_BYTES);
        break;
    case FASTLOAD_HEADER_BITMAP_TOO_EARLY:
        refuse(p, error, &damaged, "the bitmap of the RAM block '%s' lies "
               "at offset %" PRIu64 ", before the end of its "
               "header at %" PRIu64, name, header->bitmap_off,
               off + FASTLOAD_HEADER_BYTES);
        break;
    case FASTLOAD_HEADER_BITMAP_CUT:
        what = g_strdup_printf("the bitmap of the RAM block '%s'", name);
        refuse_truncated(p, what, header->bitmap_off, error);
        break;
    case FASTLOAD_HEADER_PAGES_TOO_EARLY:
    case FASTLOAD_HEADER_PAGES_UNALIGNED:
        refuse(p, error, &damaged, "the pages of the RAM block '%s' lie at "
               "offset %" PRIu64 ", which is %s", name,
               header->pages_off,
               defect == FASTLOAD_HEADER_PAGES_UNALIGNED ?
               "not a multiple of 4096" :
               "before the end of its bitmap");
        break;
    case FASTLOAD_HEADER_PAGES_CUT:
        what = g_strdup_printf("the pages of the RAM block '%s'", name);
        refuse_truncated(p, what, header->pages_off, error);
        break;
    }
}

static bool parse_header(Parser *p, SnapshotBlock *block, const char *name,
                         GError **error)
{
    FastloadHeader header;
    FastloadHeaderDefect defect;
    uint64_t off;

    if (!parse_header_at(p, &header, error)) {
        return false;
    }
    off = p->off;
    if (!p->has_capabilities && !is_like_header(&header)) {
        refuse(p, error, &foreign, "no header for the RAM block '%s' is at "
               "offset %" PRIu64, name, off);
        return false;
    }
    p->off += FASTLOAD_HEADER_BYTES;
    block->is_left_out = p->is_ignore_shared && is_like_header(&header) &&
                         !header.bitmap_off && !header.pages_off;
    if (block->is_left_out) {
        return true;
    }
    block->bitmap_off = header.bitmap_off;
    block->file_off = header.pages_off;
    defect = fastload_header_check(&header, block->len_bytes, BENCH_PAGE_BYTES,
                                   p->off, p->file_bytes);
    set_header_error(p, defect, &header, off, name, error);
    return defect == FASTLOAD_HEADER_SOUND;
}

static bool parse_block(Parser *p, GError **error)
{
    g_autofree char *name = NULL;
    SnapshotBlock block = { 0 };

    if (!parse_name(p, &block, error)) {
        return false;
    }
    name = g_strescape(block.name, NULL);
    if (!parse_length(p, &block, name, error) ||
        !parse_header(p, &block, name, error)) {
        return false;
    }
    if (p->blocks->len) {
        const SnapshotBlock *last = &g_array_index(p->blocks, SnapshotBlock,
                                                   p->blocks->len - 1);
        uint64_t end = last->guest_off + last->len_bytes;

        block.guest_off = (end + BENCH_HUGE_BYTES - 1) / BENCH_HUGE_BYTES *
                          BENCH_HUGE_BYTES;
    }
    g_array_append_val(p->blocks, block);
    p->len_bytes += block.len_bytes;
    if (!block.is_left_out) {
        p->off = block.file_off + block.len_bytes;
    }
    return true;
}

static bool parse_blocks(Parser *p, GError **error)
{
    uint64_t off = p->off - sizeof(uint64_t);

    if (p->total_bytes == 0) {
        refuse(p, error, &unusable, "it has no RAM, says offset %" PRIu64
               "; save a machine that has", off);
        return false;
    }
    if (p->total_bytes > SNAPSHOT_LEN_BYTES_MAX) {
        refuse(p, error, &damaged, "its RAM has %" PRIu64 " bytes at offset "
               "%" PRIu64 ", more than the %llu that are allowed",
               p->total_bytes, off, SNAPSHOT_LEN_BYTES_MAX);
        return false;
    }
    while (p->len_bytes < p->total_bytes) {
        if (p->blocks->len == SNAPSHOT_BLOCK_COUNT_MAX) {
            refuse(p, error, &damaged, "a RAM block too many begins at "
                   "offset %" PRIu64 ", %d are allowed", p->off,
                   SNAPSHOT_BLOCK_COUNT_MAX);
            return false;
        }
        if (!parse_block(p, error)) {
            return false;
        }
    }
    return true;
}

/* ---- what comes after the blocks ---- */

/* The end of a round of the section: a mark and a footer (optional). */
static bool parse_round_end(Parser *p, GError **error)
{
    uint64_t flags;
    uint64_t off;

    do {
        off = p->off;
        if (!parser_take(p, 8, "the RAM section", &flags, error)) {
            return false;
        }
    } while (flags == RAM_FLAG_MULTIFD_FLUSH);
    if (flags % BENCH_PAGE_BYTES == RAM_FLAG_MEM_SIZE) {
        refuse(p, error, &damaged, "a second list of RAM blocks begins at "
               "offset %" PRIu64, off);
        return false;
    }
    if (flags != RAM_FLAG_EOS) {
        refuse(p, error, &damaged, "the RAM section has 0x%" PRIx64
               " at offset %" PRIu64 " where its end mark should "
               "be", flags, off);
        return false;
    }
    if (parser_is_inside(p, p->off, 1)) {
        const uint8_t *type = parser_look(p, p->off, 1, "a footer", error);

        if (!type) {
            return false;
        }
        if (*type == STREAM_FOOTER) {
            p->off += 5;
        }
    }
    return true;
}

/*
 * Skips a command or a round of "ram".  *ret_is_more false: no need to go on.
 * False without an error: the stream ends too early.
 */
static bool parse_round(Parser *p, bool *ret_is_more, GError **error)
{
    const uint8_t *bytes;
    uint32_t type;

    if (!parser_is_inside(p, p->off, 5)) {
        return false;
    }
    bytes = parser_look(p, p->off, 5, "the sections", error);
    if (!bytes) {
        return false;
    }
    type = bytes[0];
    if (type == STREAM_COMMAND) {
        p->off += 5 + from_big_endian(bytes + 3, 2);
        *ret_is_more = true;
        return true;
    }
    if (type < STREAM_SECTION_START || type > STREAM_SECTION_FULL) {
        return false;
    }
    if (from_big_endian(bytes + 1, 4) != p->section_id ||
        (type != STREAM_SECTION_PART && type != STREAM_SECTION_END)) {
        /* Only the device knows how long its state is. */
        *ret_is_more = false;
        return true;
    }
    p->off += 5;
    *ret_is_more = type == STREAM_SECTION_PART;
    return parse_round_end(p, error);
}

/*
 * The bitmaps are written in the last round of "ram".  A save that broke off
 * before has empty bitmaps, and would look like a guest with empty memory.
 */
static bool parse_rounds(Parser *p, GError **error)
{
    bool is_more = true;
    GError *local_error = NULL;
    uint32_t i;

    if (!parse_round_end(p, error)) {
        return false;
    }
    for (i = 0; i < ROUND_COUNT_MAX && is_more; i++) {
        if (parse_round(p, &is_more, &local_error)) {
            continue;
        }
        if (local_error) {
            g_propagate_error(error, local_error);
        } else {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "%s was not saved to its end: no section follows at "
                        "offset %" PRIu64 "; wait until the migration is "
                        "completed, or save it again", p->label, p->off);
        }
        return false;
    }
    return true;
}

/* ---- bitmaps ---- */

/* Does not write words that are zero, so they take no memory. */
static void merge_words(uint64_t *ret_words, const uint64_t *words,
                        uint64_t word_count, uint64_t last_mask,
                        uint64_t *count)
{
    uint64_t i;

    for (i = 0; i < word_count; i++) {
        uint64_t word = GUINT64_FROM_LE(words[i]);

        if (i == word_count - 1) {
            word &= last_mask;
        }
        if (word) {
            ret_words[i] = word;
            *count += __builtin_popcountll(word);
        }
    }
}

/* Ignores bits behind the block's end, as QEMU does when it loads. */
static bool read_bitmap(Parser *p, SnapshotBlock *block, uint64_t *data_bits,
                        void *piece, GError **error)
{
    uint64_t *words = data_bits + block->guest_off / BENCH_PAGE_BYTES / 64;
    uint64_t page_count = block->len_bytes / BENCH_PAGE_BYTES;
    uint64_t last_mask = UINT64_MAX >> (-page_count % 64);
    uint64_t len_bytes = fastload_header_bitmap_bytes(block->len_bytes,
                                                      BENCH_PAGE_BYTES);
    uint64_t done_bytes = 0;

    while (done_bytes < len_bytes) {
        uint64_t piece_bytes = MIN(BITMAP_PIECE_BYTES, len_bytes - done_bytes);
        bool is_last = done_bytes + piece_bytes == len_bytes;

        if (!parser_pread(p, piece, piece_bytes,
                          block->bitmap_off + done_bytes, error)) {
            return false;
        }
        merge_words(words + done_bytes / 8, piece, piece_bytes / 8,
                    is_last ? last_mask : UINT64_MAX,
                    &block->data_page_count);
        done_bytes += piece_bytes;
    }
    return true;
}

static bool read_bitmaps(Parser *p, Snapshot *snapshot, GError **error)
{
    g_autofree void *piece = g_malloc(BITMAP_PIECE_BYTES);
    uint64_t word_count = snapshot->guest_bytes / BENCH_PAGE_BYTES / 64;
    uint32_t i;

    snapshot->data_bits = g_try_new0(uint64_t, word_count);
    if (!snapshot->data_bits) {
        refuse(p, error, &unusable, "its bitmaps need %" PRIu64 " bytes of "
               "memory, which are not there",
               word_count * sizeof(uint64_t));
        return false;
    }
    for (i = 0; i < snapshot->block_count; i++) {
        SnapshotBlock *block = &snapshot->blocks[i];

        if (!block->is_left_out &&
            !read_bitmap(p, block, snapshot->data_bits, piece, error)) {
            return false;
        }
        snapshot->data_bytes += block->data_page_count * BENCH_PAGE_BYTES;
    }
    return true;
}

/* ---- opening ---- */

static int64_t stat_ns(struct timespec ts)
{
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/*
 * Some file systems in user space report the current time as the time of
 * modification: then only size and inode are compared.
 */
static bool has_times(int fd, const struct stat *st)
{
    int64_t age_ns = g_get_real_time() * 1000 - stat_ns(st->st_mtim);
    struct statfs found;

    return fstatfs(fd, &found) < 0 || found.f_type != FUSE_SUPER_MAGIC ||
           age_ns > YOUNG_NS || age_ns < -YOUNG_NS;
}

static void identity_set(const struct stat *st, SnapshotIdentity *identity)
{
    *identity = (SnapshotIdentity) {
        .is_regular = S_ISREG(st->st_mode),
        .device = st->st_dev,
        .inode = st->st_ino,
        .len_bytes = st->st_size,
        .changed_ns = stat_ns(st->st_mtim),
        .touched_ns = stat_ns(st->st_ctim),
    };
}

bool snapshot_is_same(const Snapshot *snapshot)
{
    const SnapshotIdentity *a = &snapshot->identity;
    SnapshotIdentity b;
    struct stat st;

    if (snapshot->origin) {
        return snapshot_is_same(snapshot->origin);
    }
    if (!a->is_regular) {
        return true;
    }
    if (stat(snapshot->path, &st) < 0) {
        return false;
    }
    identity_set(&st, &b);
    return b.is_regular && a->device == b.device && a->inode == b.inode &&
           a->len_bytes == b.len_bytes &&
           (!a->has_times || (a->changed_ns == b.changed_ns &&
                              a->touched_ns == b.touched_ns));
}

/* Uses QEMU's words for what is not a snapshot. */
static bool find_size(Snapshot *snapshot, GError **error)
{
    struct stat st;
    off_t end;

    if (fstat(snapshot->fd, &st) == 0) {
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "%s is neither a file nor a block device; name a "
                        "snapshot", snapshot->label);
            return false;
        }
        identity_set(&st, &snapshot->identity);
        snapshot->identity.has_times = has_times(snapshot->fd, &st);
    }
    end = lseek(snapshot->fd, 0, SEEK_END);
    if (end < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot find the size of %s: %s", snapshot->label,
                    g_strerror(errno));
        return false;
    }
    snapshot->file_bytes = end;
    return true;
}

static bool parse_file(Parser *p, Snapshot *snapshot, GError **error)
{
    const SnapshotBlock *last;
    uint64_t end;

    if (!parse_magic(p, error) || !parse_configuration(p, error) ||
        !parse_ram_head(p, error) || !parse_blocks(p, error) ||
        !parse_rounds(p, error)) {
        return false;
    }
    last = &g_array_index(p->blocks, SnapshotBlock, p->blocks->len - 1);
    end = last->guest_off + last->len_bytes;
    snapshot->guest_bytes = (end + BENCH_HUGE_BYTES - 1) / BENCH_HUGE_BYTES *
                            BENCH_HUGE_BYTES;
    snapshot->machine = g_strdup(p->machine);
    snapshot->devices_off = p->off;
    snapshot->len_bytes = p->len_bytes;
    snapshot->block_count = p->blocks->len;
    snapshot->blocks = (SnapshotBlock *)(void *)
        g_array_free(g_steal_pointer(&p->blocks), FALSE);
    return read_bitmaps(p, snapshot, error);
}

Snapshot *snapshot_open_fd(int fd, const char *path, const char *label,
                           GError **error)
{
    g_autoptr(Snapshot) snapshot = g_new0(Snapshot, 1);
    g_autofree Parser *p = g_new0(Parser, 1);
    bool is_ok;

    snapshot->fd = fd;
    snapshot->path = g_strdup(path);
    snapshot->label = g_strdup(label);
    if (!find_size(snapshot, error)) {
        return NULL;
    }
    p->label = snapshot->label;
    p->fd = fd;
    p->file_bytes = snapshot->file_bytes;
    p->blocks = g_array_new(FALSE, FALSE, sizeof(SnapshotBlock));
    p->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    is_ok = parse_file(p, snapshot, error);
    g_hash_table_destroy(p->names);
    if (p->blocks) {
        g_array_free(p->blocks, TRUE);
    }
    return is_ok ? g_steal_pointer(&snapshot) : NULL;
}

Snapshot *snapshot_open(const char *path, GError **error)
{
    /* Without O_NONBLOCK, open() of a named pipe would block. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot open %s: %s", path, g_strerror(errno));
        return NULL;
    }
    /* With O_NONBLOCK, io_uring would not wait for the disk. */
    if (fcntl(fd, F_SETFL, 0) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot set up %s for reading: %s", path,
                    g_strerror(errno));
        close(fd);
        return NULL;
    }
    return snapshot_open_fd(fd, path, path, error);
}

void snapshot_free(Snapshot *snapshot)
{
    if (!snapshot) {
        return;
    }
    if (snapshot->fd >= 0) {
        close(snapshot->fd);
    }
    g_free(snapshot->path);
    g_free(snapshot->label);
    g_free(snapshot->machine);
    g_free(snapshot->blocks);
    g_free(snapshot->data_bits);
    g_free(snapshot);
}

/* ---- looking into it ---- */

char *snapshot_run_state(const Snapshot *snapshot)
{
    /* A byte with the length, the name, instance 0, version 1. */
    static const char head[] = "\013globalstate\0\0\0\0\0\0\0\001";
    uint64_t end = MIN(snapshot->file_bytes,
                       snapshot->devices_off + RUN_STATE_SEARCH_BYTES);
    g_autofree char *bytes = g_malloc(RUN_STATE_SEARCH_BYTES);
    /* If the last footer is cut off, the devices begin behind the end. */
    ssize_t got = end < snapshot->devices_off ? 0
        : pread(snapshot->fd, bytes, end - snapshot->devices_off,
                snapshot->devices_off);
    const char *at = got > 0 ? memmem(bytes, got, head, sizeof(head) - 1)
                             : NULL;
    g_autofree char *state = NULL;

    if (!at || got - (at - bytes) < RUN_STATE_BYTES) {
        return NULL;
    }
    state = g_strndup(at + RUN_STATE_OFF, RUN_STATE_BYTES - RUN_STATE_OFF);
    return *state && strspn(state, "abcdefghijklmnopqrstuvwxyz-") ==
                     strlen(state) ? g_steal_pointer(&state) : NULL;
}

const SnapshotBlock *snapshot_block_of(const Snapshot *snapshot,
                                       uint64_t page)
{
    uint32_t low = 0;
    uint32_t high = snapshot->block_count;
    uint64_t guest_off = page * BENCH_PAGE_BYTES;

    if (page >= snapshot->guest_bytes / BENCH_PAGE_BYTES) {
        return NULL;
    }
    /* blocks[low] begins at or before the page, blocks[high] after it */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (snapshot->blocks[middle].guest_off <= guest_off) {
            low = middle;
        } else {
            high = middle;
        }
    }
    if (guest_off - snapshot->blocks[low].guest_off >=
        snapshot->blocks[low].len_bytes) {
        return NULL; /* between two blocks, or behind the last */
    }
    return &snapshot->blocks[low];
}

bool snapshot_run(const Snapshot *snapshot, const SnapshotBlock *block,
                  uint64_t page, uint64_t *ret_count, uint64_t *ret_file_off)
{
    uint64_t first = block->guest_off / BENCH_PAGE_BYTES;
    uint64_t end = first + block->len_bytes / BENCH_PAGE_BYTES;
    bool has_data;
    uint64_t flip;
    uint64_t at = page;

    assert(page >= first && page < end);
    has_data = snapshot_has_page(snapshot, page);
    flip = has_data ? UINT64_MAX : 0;
    while (at < end) {
        uint64_t word = (snapshot->data_bits[at / 64] ^ flip) >> (at % 64);

        if (word) {
            at += __builtin_ctzll(word);
            break;
        }
        at += 64 - at % 64;
    }
    *ret_count = MIN(at, end) - page;
    *ret_file_off = block->file_off + (page - first) * BENCH_PAGE_BYTES;
    return has_data;
}
