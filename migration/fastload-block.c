/*
 * Fast load of a mapped-ram snapshot: RAM blocks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Checks what the file says of each RAM block, empties the block, and hands it
 * to the engine as a region.  Trusts no number in the file.  Errors name the
 * file and the block.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/rcu.h"
#include "qemu/rcu_queue.h"
#include "qemu/units.h"
#include "exec/target_page.h"
#include "qom/object.h"
#include "fastload-internal.h"
#include "migration.h"
#include "options.h"
#include "postcopy-ram.h"
#include "qemu-file.h"
#include "ram.h"
#include "trace.h"

/*
 * Blocks smaller than this are read before all others, and before the guest
 * runs: when the guest begins to run, the main thread reads all of its writable
 * flash, and must not wait until gigabytes of other memory are loaded.
 */
#define LOAD_EARLY_BYTES_MAX (16 * MiB)
/*
 * No ROM is longer than this, nor other memory whose length in the file may
 * differ from the machine's.  It bounds the memory for the block's bitmap: a
 * sparse file can hold a bitmap for which no machine has the memory.
 */
#define LOAD_DIFFERENT_BYTES_MAX (1 * GiB)

/* QEMU fills a buffer of this size when it reads the stream. */
#define LOAD_STREAM_BYTES (32 * KiB)
/* The most that the stream is read ahead behind the last block. */
#define LOAD_TAIL_BYTES_MAX (8 * MiB)

/*
 * The block that @hva lies in; NULL: it was dropped.  (QEMU's own list is under
 * RCU, which engine threads do not use.)
 */
static RAMBlock *load_block_at(const IncomingLoad *load, const uint8_t *hva)
{
    guint i;

    for (i = 0; i < load->blocks->len; i++) {
        LoadBlock *loaded = &g_array_index(load->blocks, LoadBlock, i);

        if (hva >= loaded->host && hva < loaded->host + loaded->length) {
            return loaded->block;
        }
    }
    g_assert_not_reached();
}

/*
 * postcopy-blocktime works as in network postcopy.  The fault and the page may
 * be told in any order; under this lock, the bitmap of received pages shows
 * whether the page has come already.
 */
void incoming_load_page_wanted(void *hva, uint32_t tid, void *opaque)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    RAMBlock *block;

    QEMU_LOCK_GUARD(&mis->page_request_mutex);
    block = load_block_at(opaque, hva);
    if (block && !ramblock_recv_bitmap_test(block, hva)) {
        mark_postcopy_blocktime_begin((uintptr_t)hva, tid, block);
    }
}

void incoming_load_pages_placed(void *hva, uint64_t len_bytes,
                                FastloadClass class, bool has_data,
                                void *opaque)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    RAMBlock *block;
    uint8_t *page = hva;

    QEMU_LOCK_GUARD(&mis->page_request_mutex);
    block = load_block_at(opaque, hva);
    if (!block) {
        return;
    }
    ramblock_recv_bitmap_set_range(block, hva,
                                   len_bytes / qemu_target_page_size());
    for (; page < (uint8_t *)hva + len_bytes; page += block->page_size) {
        mark_postcopy_blocktime_end((uintptr_t)page);
    }
}

static void load_add_range(GArray *ranges, uint64_t begin, uint64_t end)
{
    FastloadFileRange range = { .file_off = begin, .len_bytes = end - begin };

    g_array_append_val(ranges, range);
    trace_fastload_stream_expected(begin, end);
}

/*
 * QEMU reads the stream piece by piece and waits for each: each block's name
 * and bitmap, and what follows the last block.  From far storage each piece
 * takes a round trip, and later ones queue behind the engine's reads.  Where
 * they are follows from the blocks of this machine; if the file is another
 * machine's, the ranges are wrong, and QEMU waits for each piece.
 */
GArray *incoming_load_find_stream(const IncomingLoad *load)
{
    GArray *ranges = g_array_new(false, false, sizeof(FastloadFileRange));
    uint64_t page_bytes = qemu_target_page_size();
    uint64_t off = load->file_off, end = load->file_bytes;
    RAMBlock *block;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(block) {
        uint64_t len_bytes = block->used_length;

        load_add_range(ranges, off, off + LOAD_STREAM_BYTES +
                       fastload_header_bitmap_bytes(len_bytes, page_bytes));
        off = len_bytes +
              fastload_header_pages_off(off, strlen(block->idstr), len_bytes,
                                        page_bytes);
    }
    load_add_range(ranges, MAX(MIN(off, end), end - MIN(end,
                                                        LOAD_TAIL_BYTES_MAX)),
                   end);
    return ranges;
}

static void load_clear_block(void *opaque)
{
    LoadBlock *loaded = opaque;

    g_free(loaded->bitmap);
}

void incoming_load_set_up_blocks(IncomingLoad *load)
{
    load->blocks = g_array_new(false, false, sizeof(LoadBlock));
    g_array_set_clear_func(load->blocks, load_clear_block);
}

void incoming_load_release_blocks(IncomingLoad *load)
{
    guint i;

    for (i = 0; load->blocks && i < load->blocks->len; i++) {
        LoadBlock *loaded = &g_array_index(load->blocks, LoadBlock, i);

        if (loaded->block) {
            memory_region_unref(loaded->block->mr);
        }
    }
    g_clear_pointer(&load->blocks, g_array_unref);
}

/* The block's waits end in postcopy-blocktime, and it is not found any more. */
static void load_forget_block(LoadBlock *loaded)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    uint64_t off;

    QEMU_LOCK_GUARD(&mis->page_request_mutex);
    if (incoming_load.has_blocktime) {
        for (off = 0; off < loaded->length; off += loaded->block->page_size) {
            mark_postcopy_blocktime_end((uintptr_t)loaded->host + off);
        }
    }
    loaded->block = NULL;
}

/*
 * The load's reference to the memory would keep the unplugged device alive, and
 * so its name and RAM blocks could not be used again.
 */
void incoming_load_drop_device(IncomingLoad *load, DeviceState *dev)
{
    guint i;

    for (i = 0; load->blocks && i < load->blocks->len; i++) {
        LoadBlock *loaded = &g_array_index(load->blocks, LoadBlock, i);

        if (loaded->block &&
            memory_region_owner(loaded->block->mr) == OBJECT(dev)) {
            MemoryRegion *mr = loaded->block->mr;

            trace_fastload_block_dropped(loaded->block->idstr);
            fastload_drop_region(load->engine, loaded->host);
            incoming_load_shared_placed(loaded->host, loaded->length);
            load_forget_block(loaded);
            memory_region_unref(mr);
        }
    }
}

bool incoming_load_has_early_blocks(const IncomingLoad *load)
{
    guint i;

    for (i = 0; i < load->blocks->len; i++) {
        LoadBlock *loaded = &g_array_index(load->blocks, LoadBlock, i);

        if (loaded->length < LOAD_EARLY_BYTES_MAX &&
            !fastload_is_loaded(load->engine, loaded->host, loaded->length)) {
            return false;
        }
    }
    return true;
}

/*
 * May the length in the file differ?  Of a ROM it may: QEMU's own loader takes
 * what fits.  The size of RAM must not change under the guest.
 */
static bool load_may_differ(const RAMBlock *block)
{
    return (block->flags & RAM_RESIZEABLE) || memory_region_is_rom(block->mr);
}

static void load_set_length_error(const IncomingLoad *load,
                                  const RAMBlock *block, uint64_t length,
                                  Error **errp)
{
    bool is_rom = g_str_has_suffix(block->idstr, ".rom");

    incoming_load_refuse(errp, "length of a RAM block", is_rom ? NULL :
        "Start QEMU with the machine and memory size that were saved.",
        "'%s' has %" PRIu64 " bytes for the RAM block '%s', this machine has "
        "%" PRIu64 "%s", load->filename, length, block->idstr,
        (uint64_t)block->used_length, is_rom ? ": romfile= of its device must "
        "name the ROM that was there when the snapshot was saved" : "");
}

/* Trusts no number of @header, nor @length. */
static bool load_check_header(IncomingLoad *load, const RAMBlock *block,
                              const FastloadHeader *header,
                              uint64_t length, Error **errp)
{
    uint64_t page_size = qemu_target_page_size();

    if (length != block->used_length &&
        (!load_may_differ(block) || !length || length % page_size ||
         length > LOAD_DIFFERENT_BYTES_MAX)) {
        load_set_length_error(load, block, length, errp);
        return false;
    }
    switch (fastload_header_check(header, length, page_size, load->block_end,
                                  load->file_bytes)) {
    case FASTLOAD_HEADER_SOUND:
        return true;
    case FASTLOAD_HEADER_BAD_VERSION:
        error_setg(errp, "'%s' has version %u of the mapped-ram header in the "
                   "RAM block '%s', this QEMU knows version %d", load->filename,
                   header->version, block->idstr, FASTLOAD_HEADER_VERSION);
        break;
    case FASTLOAD_HEADER_BAD_PAGE_BYTES:
        error_setg(errp, "'%s' has page size %" PRIu64 " in the RAM block "
                   "'%s', this machine has %" PRIu64, load->filename,
                   header->page_bytes, block->idstr, page_size);
        break;
    case FASTLOAD_HEADER_BITMAP_CUT:
        error_setg(errp, "'%s' is truncated or damaged: the bitmap of the RAM "
                   "block '%s' lies past its end", load->filename,
                   block->idstr);
        break;
    case FASTLOAD_HEADER_PAGES_CUT:
        error_setg(errp, "'%s' is truncated or damaged: the pages of the RAM "
                   "block '%s' begin at %" PRIu64 " and take %" PRIu64
                   " bytes, the file ends at %" PRIu64, load->filename,
                   block->idstr, header->pages_off, length, load->file_bytes);
        break;
    case FASTLOAD_HEADER_BITMAP_TOO_EARLY:
    case FASTLOAD_HEADER_PAGES_TOO_EARLY:
    case FASTLOAD_HEADER_PAGES_UNALIGNED:
        error_setg(errp, "'%s' is damaged: bitmap and pages of the RAM block "
                   "'%s' have no valid place in it (%" PRIu64 ", %" PRIu64
                   ")", load->filename, block->idstr, header->bitmap_off,
                   header->pages_off);
        break;
    }
    return false;
}

/*
 * Did QEMU make the file of this private mapping for itself?  Then it may be
 * emptied; a user's file, or one that others may map too, may not.
 */
static bool load_made_file(const RAMBlock *block)
{
    Object *owner = memory_region_owner(block->mr);
    g_autofree char *path = NULL;

    if (object_dynamic_cast(owner, "memory-backend-memfd")) {
        return true;
    }
    /* In a directory: a file without a name, as -mem-path makes them. */
    path = owner ? object_property_get_str(owner, "mem-path", NULL) : NULL;
    return path && g_file_test(path, G_FILE_TEST_IS_DIR);
}

/* Empties the first @len_bytes.  False: that is not possible or allowed. */
static bool load_empty_block(RAMBlock *block, uint64_t len_bytes)
{
    if (len_bytes % block->page_size) {
        return false;
    }
    if (block->fd < 0 || qemu_ram_is_shared(block)) {
        return ram_block_discard_range(block, 0, len_bytes) == 0;
    }
    /* The same, without QEMU's warning that others may use the file. */
    return load_made_file(block) &&
           fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     block->fd_offset, len_bytes) == 0 &&
           madvise(block->host, len_bytes, MADV_DONTNEED) == 0;
}

static int load_find_peer(Object *obj, void *owner)
{
    return object_dynamic_cast(obj, "ivshmem-common") &&
           (obj == owner ||
            (object_property_find(obj, "memdev") &&
             object_property_get_link(obj, "memdev", NULL) == owner));
}

/*
 * Is it ivshmem, which other guests touch while it loads?  If it were emptied,
 * the kernel would give them pages of zeros, which look like pages that were
 * placed.  So ivshmem is neither emptied nor trapped.
 */
static bool load_has_peers(const RAMBlock *block)
{
    return object_child_foreach_recursive(object_get_root(), load_find_peer,
                                          memory_region_owner(block->mr));
}

/* Does somebody need all of it before the guest runs? */
static bool load_is_eager(const IncomingLoad *load, RAMBlock *block)
{
    return load->eager == LOAD_EAGER_ALL ||
           (load->eager == LOAD_EAGER_SHARED && qemu_ram_is_shared(block));
}

/* As is_off_grid of FastloadRegion. */
static bool load_is_off_grid(RAMBlock *block)
{
    return (block->fd >= 0 || qemu_ram_is_shared(block)) &&
           ((uintptr_t)block->host - block->fd_offset) % (2 * MiB);
}

static bool load_is_preallocated(const RAMBlock *block)
{
    Object *owner = memory_region_owner(block->mr);

    return owner && object_property_get_bool(owner, "prealloc", NULL);
}

/* A read-only block is fine if the file has no data for it. */
static bool load_check_writable(const RAMBlock *block,
                                const uint64_t *bitmap,
                                uint64_t page_count, Error **errp)
{
    if ((block->flags & (RAM_READONLY | RAM_READONLY_FD)) &&
        find_first_bit((const unsigned long *)bitmap, page_count) <
        page_count) {
        return incoming_load_refuse(errp, "read-only RAM block",
            "Make its memory-backend-file writable, or set "
            "x-fast-load-threads to 0.", "the RAM block '%s' is read-only and "
            "cannot be loaded", block->idstr);
    }
    return true;
}

/* The file must have no data behind the end of the (shorter) block. */
static bool load_check_end(const IncomingLoad *load, const RAMBlock *block,
                           const uint64_t *bitmap, uint64_t length,
                           Error **errp)
{
    uint64_t target_page = qemu_target_page_size();
    uint64_t page_count = length / target_page;

    if (length > block->used_length &&
        find_next_bit((const unsigned long *)bitmap, page_count,
                      block->used_length / target_page) < page_count) {
        load_set_length_error(load, block, length, errp);
        return false;
    }
    return true;
}

static bool load_add_block(IncomingLoad *load, QEMUFile *f, RAMBlock *block,
                           const FastloadHeader *header, uint64_t length,
                           Error **errp)
{
    uint64_t target_page = qemu_target_page_size();
    size_t bitmap_bytes = fastload_header_bitmap_bytes(length, target_page);
    g_autofree uint64_t *bitmap = NULL;
    g_autoptr(GError) gerr = NULL;
    LoadBlock loaded = {
        .block = block,
        .host = block->host,
        .header = *header,
        .bitmap_bytes = bitmap_bytes,
    };
    FastloadRegion region;
    bool is_empty, is_trappable;

    if (target_page < FASTLOAD_PAGE_BYTES_MIN) {
        return incoming_load_refuse(errp, "page size", "Set it to 0.",
            "x-fast-load-threads needs guests with pages of %d bytes at least",
            FASTLOAD_PAGE_BYTES_MIN);
    }
    if (length != block->used_length && length <= block->max_length &&
        (block->flags & RAM_RESIZEABLE) &&
        qemu_ram_resize(block, length, errp) < 0) {
        return false;
    }
    if (!load_check_header(load, block, header, length, errp)) {
        return false;
    }
    bitmap = g_malloc0(bitmap_bytes);
    if (qemu_get_buffer_at(f, (uint8_t *)bitmap, bitmap_bytes,
                           header->bitmap_off) != bitmap_bytes) {
        error_setg(errp, "cannot read the bitmap of the RAM block '%s' in "
                   "'%s'", block->idstr, load->filename);
        return false;
    }
    if (!load_check_writable(block, bitmap, length / target_page, errp) ||
        !load_check_end(load, block, bitmap, length, errp)) {
        return false;
    }
    /* If the block is longer here, the rest of it keeps its content. */
    loaded.length = MIN(length, block->used_length);
    is_empty = !load->is_pinned && !load_has_peers(block) &&
               load_empty_block(block, loaded.length);
    is_trappable = is_empty && !load_is_eager(load, block);
    region = (FastloadRegion) {
        .hva = block->host,
        .len_bytes = loaded.length,
        .file_off = header->pages_off,
        .page_bytes = is_trappable ? block->page_size : target_page,
        .is_eager = !is_trappable,
        /* Zero pages of memory that is preallocated get memory again. */
        .is_empty = is_empty && !load_is_preallocated(block),
        .is_early = loaded.length < LOAD_EARLY_BYTES_MAX,
        .is_off_grid = load_is_off_grid(block),
        .data_bits = bitmap,
        .granule_bytes = target_page,
        /* QEMU advises huge pages for all RAM; only this kind can move. */
        .wants_huge = is_trappable && block->fd < 0 &&
                      !qemu_ram_is_shared(block),
        .wants_populated = load_is_preallocated(block),
        .label = block->idstr,
    };
    /* Block and mapping stay until the load is over or its device unplugged. */
    memory_region_ref(block->mr);
    loaded.bitmap = g_steal_pointer(&bitmap);
    g_array_append_val(load->blocks, loaded);
    if (!fastload_add_region(load->engine, &region, &gerr)) {
        error_setg(errp, "cannot load the RAM block '%s' from '%s': %s",
                   block->idstr, load->filename, gerr->message);
        return false;
    }
    /* With fastload_fault_received: which page of which block was touched. */
    trace_fastload_fault_block(block->host, loaded.length, block->idstr);
    return true;
}

/* Behind the block's name and length: its header, then its bitmap and pages. */
static bool load_read_header(IncomingLoad *load, QEMUFile *f,
                             const RAMBlock *block,
                             FastloadHeader *ret_header, Error **errp)
{
    uint8_t bytes[FASTLOAD_HEADER_BYTES] = { 0 };
    int ret;

    if (migrate_ignore_shared()) {
        qemu_get_be64(f); /* the block's address in guest memory */
    }
    qemu_get_buffer(f, bytes, sizeof(bytes));
    ret = qemu_file_get_error(f);
    if (ret) {
        error_setg_errno(errp, -ret, "'%s' ends in the header of the RAM "
                         "block '%s'", load->filename, block->idstr);
        return false;
    }
    fastload_header_parse(bytes, ret_header);
    return true;
}

/*
 * QEMU 11 writes a header without offsets for a block that x-ignore-shared
 * leaves out, and goes on with the next block right behind it.
 */
static bool load_is_left_out(const FastloadHeader *header)
{
    return migrate_ignore_shared() &&
           header->version == FASTLOAD_HEADER_VERSION &&
           !header->bitmap_off && !header->pages_off;
}

/*
 * May the file leave out this block?  Only if this QEMU ignores it as well, or
 * maps it from a file of the user.
 */
static bool load_check_left_out(const IncomingLoad *load,
                                RAMBlock *block, Error **errp)
{
    if (migrate_ram_is_ignored(block) ||
        (block->fd >= 0 && !load_made_file(block))) {
        return true;
    }
    return incoming_load_refuse(errp, "left-out RAM block",
        "Give it the memory-backend-file that holds what it had.",
        "'%s' was saved with x-ignore-shared and leaves out the RAM block "
        "'%s', which has no file here", load->filename, block->idstr);
}

static bool load_block(IncomingLoad *load, QEMUFile *f, RAMBlock *block,
                       uint64_t length, Error **errp)
{
    FastloadHeader header;

    if (migration_fastload_is_active()) {
        error_setg(errp, "'%s' is damaged: it lists the RAM blocks a second "
                   "time", load->filename);
        return false;
    }
    if (!load_read_header(load, f, block, &header, errp)) {
        return false;
    }
    if (load_is_left_out(&header)) {
        return load_check_left_out(load, block, errp);
    }
    /* Ignored blocks (x-ignore-shared) keep what they have. */
    if (!migrate_ram_is_ignored(block) &&
        ((!load->engine && !incoming_load_open(load, f, errp)) ||
         !load_add_block(load, f, block, &header, length, errp))) {
        return false;
    }
    if (length > INT64_MAX || header.pages_off > INT64_MAX - length ||
        header.pages_off + length <= load->block_end) {
        error_setg(errp, "'%s' is damaged: the RAM block '%s' lies before "
                   "the one before it", load->filename, block->idstr);
        return false;
    }
    load->block_end = header.pages_off + length;
    qemu_set_offset(f, load->block_end, SEEK_SET);
    return true;
}

int migration_fastload_load_block(QEMUFile *f, RAMBlock *block,
                                  uint64_t length)
{
    IncomingLoad *load = &incoming_load;

    return load_block(load, f, block, length, &load->stream_error) ? 0
                                                                   : -EINVAL;
}

int migration_fastload_unknown_block(const char *name)
{
    IncomingLoad *load = &incoming_load;
    g_autofree char *shown = g_strescape(name, NULL);

    if (migration_fastload_is_armed()) {
        incoming_load_refuse(&load->stream_error, "unknown RAM block",
            "Start QEMU with the machine and devices that were saved.",
            "'%s' has the RAM block '%s', which this machine lacks",
            load->filename, shown);
    }
    return -EINVAL;
}
