/*
 * Fast load of a mapped-ram snapshot: another copy of the file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * migrate-recover, which may come out of band: without the BQL, for the main
 * loop may wait for a page that cannot be read.  A copy is known by its size,
 * headers and bitmaps; its pages are not compared.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "fastload-internal.h"
#include "migration.h"

/* Opening a pipe would wait for somebody to write to it. */
bool incoming_load_check_kind(const struct stat *st, const char *filename,
                                 Error **errp)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)) {
        return true;
    }
    error_setg(errp, "'%s' is neither a file nor a block device: name a "
               "snapshot", filename);
    return false;
}

/* Reads all of it, or says at which offset that failed. */
static bool recover_read_copy(int fd, const char *filename, void *buf,
                                size_t len_bytes, uint64_t file_off,
                                Error **errp)
{
    size_t done_bytes = 0;

    while (done_bytes < len_bytes) {
        ssize_t got = pread(fd, (uint8_t *)buf + done_bytes,
                            len_bytes - done_bytes, file_off + done_bytes);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            error_setg(errp, "cannot read '%s' at offset %" PRIu64 ": %s",
                       filename, file_off + done_bytes,
                       got ? strerror(errno) : "the file ends there");
            return false;
        }
        done_bytes += got;
    }
    return true;
}

/* The header is where QEMU writes it: right before its bitmap. */
static bool recover_check_copied_block(int fd, const char *filename,
                                         const LoadBlock *target,
                                         Error **errp)
{
    const FastloadHeader *header = &target->header;
    FastloadHeader copied;
    uint8_t bytes[FASTLOAD_HEADER_BYTES];
    g_autofree uint8_t *bitmap = g_malloc(target->bitmap_bytes);

    if (header->bitmap_off < sizeof(bytes)) {
        error_setg(errp, "the snapshot was not written by QEMU: copies of it "
                   "are not known");
        return false;
    }
    if (!recover_read_copy(fd, filename, bytes, sizeof(bytes),
                             header->bitmap_off - sizeof(bytes), errp) ||
        !recover_read_copy(fd, filename, bitmap, target->bitmap_bytes,
                             header->bitmap_off, errp)) {
        return false;
    }
    fastload_header_parse(bytes, &copied);
    if (copied.version != header->version ||
        copied.page_bytes != header->page_bytes ||
        copied.bitmap_off != header->bitmap_off ||
        copied.pages_off != header->pages_off ||
        memcmp(bitmap, target->bitmap, target->bitmap_bytes)) {
        error_setg(errp, "'%s' is not a copy of what is being loaded: header "
                   "or bitmap of a RAM block at offset %" PRIu64 " differ; "
                   "name a copy of the same snapshot", filename,
                   header->bitmap_off - (uint64_t)sizeof(bytes));
        return false;
    }
    return true;
}

/* As far as it can be told without reading all of it. */
static bool recover_check_copy(int fd, const char *filename,
                                 const GArray *targets, uint64_t file_bytes,
                                 Error **errp)
{
    off_t end = lseek(fd, 0, SEEK_END);
    guint i;

    if (end < 0 || end != file_bytes) {
        error_setg(errp, "'%s' is not a copy of what is being loaded: it has "
                   "%" PRId64 " bytes instead of %" PRIu64 "; name a complete "
                   "copy of the same snapshot", filename, (int64_t)end,
                   file_bytes);
        return false;
    }
    for (i = 0; i < targets->len; i++) {
        if (!recover_check_copied_block(fd, filename,
                                          &g_array_index(targets,
                                                         LoadBlock, i),
                                          errp)) {
            return false;
        }
    }
    return true;
}

static bool recover_is_possible_locked(const IncomingLoad *load, Error **errp)
{
    if (!incoming_load_is_in(load, LOAD_IN(PAUSED))) {
        error_setg(errp, "no fast load is paused: there is nothing to "
                   "recover");
        return false;
    }
    if (load->is_recovering) {
        error_setg(errp, "the load is being recovered by another command: "
                   "wait until that is answered");
        return false;
    }
    return true;
}

/* Opened as @flags say, and a file that can be waited for. */
static QIOChannelFile *recover_open_copy(const char *filename, int flags,
                                           struct stat *st, Error **errp)
{
    g_autoptr(QIOChannelFile) ioc =
        qio_channel_file_new_path(filename, flags, 0, errp);

    if (!ioc) {
        return NULL;
    }
    if (fstat(ioc->fd, st) < 0) {
        error_setg_errno(errp, errno, "cannot see what '%s' is", filename);
        return NULL;
    }
    return incoming_load_check_kind(st, filename, errp) ? g_steal_pointer(&ioc)
                                                    : NULL;
}

/* The engine stays while is_recovering; no lock is held over I/O. */
static void recover_from(IncomingLoad *load, const FileMigrationArgs *file,
                                   Error **errp)
{
    g_autoptr(QIOChannelFile) plain = NULL, ioc = NULL;
    g_autoptr(GError) gerr = NULL;
    struct stat ours, theirs;

    if (file->offset != load->file_off) {
        error_setg(errp, "the snapshot begins at offset %" PRIu64 ", a copy "
                   "has to as well: end the URI with ',offset=%" PRIu64 "'",
                   load->file_off, load->file_off);
        return;
    }
    /* Opening a pipe would wait for somebody to write to it. */
    plain = recover_open_copy(file->filename, O_RDONLY | O_NONBLOCK, &theirs,
                                errp);
    if (!plain || !recover_check_copy(plain->fd, file->filename, load->blocks,
                                        load->file_bytes, errp)) {
        return;
    }
    ioc = recover_open_copy(file->filename, load->open_flags, &ours, errp);
    if (!ioc) {
        return;
    }
    if (ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino ||
        ours.st_rdev != theirs.st_rdev) {
        error_setg(errp, "'%s' was replaced while it was opened: try again",
                   file->filename);
        return;
    }
    if (!fastload_recover(load->engine, ioc->fd, &gerr)) {
        error_setg(errp, "cannot read on from '%s': %s", file->filename,
                   gerr->message);
        return;
    }
    QEMU_LOCK_GUARD(&load->lock);
    g_free(load->filename);
    load->filename = g_strdup(file->filename);
}

/* Out of band, perhaps: without the BQL, the main loop may wait for a page. */
void migration_fastload_recover(const char *uri, Error **errp)
{
    IncomingLoad *load = &incoming_load;
    g_autoptr(MigrationChannel) channel = NULL;

    if (!migrate_uri_parse(uri, &channel, errp)) {
        return;
    }
    if (channel->addr->transport != MIGRATION_ADDRESS_TYPE_FILE) {
        error_setg(errp, "a fast load recovers from a file: give a URI that "
                   "begins with 'file:'");
        return;
    }
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        if (!recover_is_possible_locked(load, errp)) {
            return;
        }
        load->is_recovering = true;
    }
    recover_from(load, &channel->addr->u.file, errp);
    incoming_load_recovered(load);
}
