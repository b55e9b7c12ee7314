/*
 * Fast load of a mapped-ram snapshot: another copy of the file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * migrate-recover may come out of band, without the BQL, because the main loop
 * may wait for a page that cannot be read.  The command only parses: opening
 * and comparing the copy may hang with its storage, so a thread of its own
 * does that and tells the result by an event.  A later command takes
 * precedence: it does not wait for a copy that hangs.  A copy is recognised by
 * its size, headers and bitmaps; its pages are not compared.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-events-fastload.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "fastload-internal.h"
#include "migration.h"

/* Threads that check copies; more than one only while storage hangs. */
#define RECOVER_THREAD_COUNT_MAX 8
#define HINT_COPY "Name a complete copy of the same snapshot."

/* One command.  Owned by its thread. */
typedef struct Recovery {
    uint32_t number;
    char *filename;     /* as it was given */
    char *name;         /* its name in messages */
    int open_flags;
    uint64_t file_bytes;
    struct stat file_stat; /* of the copy, once it was found to be right */
    GArray *blocks;     /* a reference: the load may end before the thread */
} Recovery;

static void recover_free(Recovery *recovery)
{
    g_array_unref(recovery->blocks);
    g_free(recovery->filename);
    g_free(recovery->name);
    g_free(recovery);
}

bool incoming_load_check_kind(const struct stat *st, const char *filename,
                              Error **errp)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)) {
        return true;
    }
    return incoming_load_refuse(errp, "kind of file", "Name a snapshot.",
        "'%s' is neither a file nor a block device", filename);
}

char *incoming_load_real_name(QIOChannelFile *ioc, const char *filename)
{
    g_autofree char *link = NULL;
    char *name = NULL;

    if (ioc && g_str_has_prefix(filename, "/dev/fdset/")) {
        link = g_strdup_printf("/proc/self/fd/%d", ioc->fd);
        name = g_file_read_link(link, NULL);
    }
    return name ?: g_strdup(filename);
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
                                       const LoadBlock *loaded,
                                       Error **errp)
{
    const FastloadHeader *header = &loaded->header;
    FastloadHeader copied;
    uint8_t bytes[FASTLOAD_HEADER_BYTES];
    g_autofree uint8_t *bitmap = g_malloc(loaded->bitmap_bytes);

    if (header->bitmap_off < sizeof(bytes)) {
        return incoming_load_refuse(errp, "copy", NULL,
            "the snapshot was not written by QEMU: copies of it are not known");
    }
    if (!recover_read_copy(fd, filename, bytes, sizeof(bytes),
                           header->bitmap_off - sizeof(bytes), errp) ||
        !recover_read_copy(fd, filename, bitmap, loaded->bitmap_bytes,
                           header->bitmap_off, errp)) {
        return false;
    }
    fastload_header_parse(bytes, &copied);
    if (copied.version != header->version ||
        copied.page_bytes != header->page_bytes ||
        copied.bitmap_off != header->bitmap_off ||
        copied.pages_off != header->pages_off ||
        memcmp(bitmap, loaded->bitmap, loaded->bitmap_bytes)) {
        return incoming_load_refuse(errp, "copy", HINT_COPY,
            "'%s' is not a copy of what is being loaded: header or bitmap of a "
            "RAM block at offset %" PRIu64 " differ", filename,
            header->bitmap_off - (uint64_t)sizeof(bytes));
    }
    return true;
}

/* Compares size, headers and bitmaps. */
static bool recover_check_copy(int fd, const char *filename,
                               const GArray *blocks, uint64_t file_bytes,
                               Error **errp)
{
    off_t end = lseek(fd, 0, SEEK_END);
    guint i;

    if (end < 0 || end != file_bytes) {
        return incoming_load_refuse(errp, "copy", HINT_COPY,
            "'%s' is not a copy of what is being loaded: it has %" PRId64
            " bytes instead of %" PRIu64, filename, (int64_t)end, file_bytes);
    }
    for (i = 0; i < blocks->len; i++) {
        if (!recover_check_copied_block(fd, filename,
                                        &g_array_index(blocks, LoadBlock, i),
                                        errp)) {
            return false;
        }
    }
    return true;
}

static bool recover_is_possible_locked(const IncomingLoad *load,
                                       const FileMigrationArgs *file,
                                       Error **errp)
{
    if (!incoming_load_is_in(load, LOAD_IN(PAUSED))) {
        return incoming_load_refuse(errp, "migrate-recover", NULL,
            "no fast load is paused: there is nothing to recover");
    }
    if (file->offset != load->file_off) {
        return incoming_load_refuse(errp, "migrate-recover",
            "End the URI with ',offset=' and that offset.",
            "the snapshot begins at offset %" PRIu64 ", a copy has to as well",
            load->file_off);
    }
    if (load->recover_thread_count == RECOVER_THREAD_COUNT_MAX) {
        return incoming_load_refuse(errp, "migrate-recover",
            "Wait until the storage of one of them answers.",
            "%d copies are being looked at and do not answer",
            RECOVER_THREAD_COUNT_MAX);
    }
    return true;
}

/* Opens @filename if it is a file or block device; @st is filled in. */
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
    return incoming_load_check_kind(st, filename, errp)
           ? g_steal_pointer(&ioc) : NULL;
}

/* The copy, opened as the engine wants it; NULL: @errp says why not. */
static QIOChannelFile *recover_find_copy(Recovery *recovery, Error **errp)
{
    g_autoptr(QIOChannelFile) plain = NULL, ioc = NULL;
    struct stat *ours = &recovery->file_stat, theirs;

    /* Opening a pipe would wait for somebody to write to it. */
    plain = recover_open_copy(recovery->filename, O_RDONLY | O_NONBLOCK,
                              &theirs, errp);
    recovery->name = incoming_load_real_name(plain, recovery->filename);
    if (!plain || !recover_check_copy(plain->fd, recovery->name,
                                      recovery->blocks, recovery->file_bytes,
                                      errp)) {
        return NULL;
    }
    ioc = recover_open_copy(recovery->filename, recovery->open_flags, ours,
                            errp);
    if (!ioc) {
        return NULL;
    }
    if (ours->st_dev != theirs.st_dev || ours->st_ino != theirs.st_ino ||
        ours->st_rdev != theirs.st_rdev) {
        incoming_load_refuse(errp, "copy", "Try again.",
            "'%s' was replaced while it was opened", recovery->name);
        return NULL;
    }
    return g_steal_pointer(&ioc);
}

/* True: the engine stays until incoming_load_recovered(), without the lock. */
static bool recover_begin(IncomingLoad *load, const Recovery *recovery,
                          Error **errp)
{
    QEMU_LOCK_GUARD(&load->lock);
    if (recovery->number != load->recover_number) {
        return incoming_load_refuse(errp, "copy", NULL,
            "another migrate-recover came after it");
    }
    if (!incoming_load_is_in(load, LOAD_IN(PAUSED))) {
        return incoming_load_refuse(errp, "copy", NULL,
            "the load went on by itself meanwhile");
    }
    if (load->is_recovering) {
        return incoming_load_refuse(errp, "copy", "Try again later.",
            "a copy that was found to be right before this one does not answer "
            "any more");
    }
    load->is_recovering = true;
    return true;
}

static void recover_read_on(IncomingLoad *load, const Recovery *recovery,
                            QIOChannelFile *ioc, Error **errp)
{
    g_autoptr(GError) gerr = NULL;
    g_autofree char *old_name = NULL;
    bool is_taken;

    WITH_QEMU_LOCK_GUARD(&load->lock) {
        load->is_copy_new = true;
        load->copy_stat = recovery->file_stat;
        /* Before the engine resumes: that event names the file. */
        old_name = load->filename;
        load->filename = g_strdup(recovery->name);
    }
    is_taken = fastload_recover(load->engine, ioc->fd, &gerr);
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        if (is_taken) {
            load->file_stat = recovery->file_stat;
        } else {
            g_free(load->filename);
            load->filename = g_steal_pointer(&old_name);
            error_setg(errp, "cannot read on from '%s': %s",
                       recovery->name, gerr->message);
        }
        load->copy_stat = load->file_stat;
    }
    incoming_load_recovered(load);
}

static void *recover_main(void *opaque)
{
    IncomingLoad *load = &incoming_load;
    Recovery *recovery = opaque;
    g_autoptr(QIOChannelFile) ioc = NULL;
    g_autoptr(Error) err = NULL;

    ioc = recover_find_copy(recovery, &err);
    if (ioc && recover_begin(load, recovery, &err)) {
        recover_read_on(load, recovery, ioc, &err);
    }
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        load->recover_thread_count--;
        if (err && recovery->number == load->recover_number) {
            load->recover_desc = g_strdup(error_get_pretty(err));
        }
    }
    qapi_event_send_x_fast_load_recovered(recovery->filename, err
                                          ? error_get_pretty(err) : NULL);
    recover_free(recovery);
    return NULL;
}

static bool recover_spawn_locked(IncomingLoad *load,
                                 const FileMigrationArgs *file, Error **errp)
{
    Recovery *recovery = g_new0(Recovery, 1);
    g_autoptr(GError) gerr = NULL;
    sigset_t all, old;
    GThread *thread;

    recovery->number = ++load->recover_number;
    recovery->filename = g_strdup(file->filename);
    recovery->open_flags = load->open_flags;
    recovery->file_bytes = load->file_bytes;
    recovery->blocks = g_array_ref(load->blocks);
    g_clear_pointer(&load->recover_desc, g_free);
    /* Signals are the main thread's business. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    thread = g_thread_try_new("fastload-copy", recover_main, recovery, &gerr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!thread) {
        error_setg(errp, "cannot look at '%s': cannot create a thread: %s",
                   file->filename, gerr->message);
        recover_free(recovery);
        return false;
    }
    g_thread_unref(thread);
    load->recover_thread_count++;
    return true;
}

void migration_fastload_recover(const char *uri, Error **errp)
{
    IncomingLoad *load = &incoming_load;
    g_autoptr(MigrationChannel) channel = NULL;

    if (!migrate_uri_parse(uri, &channel, errp)) {
        return;
    }
    if (channel->addr->transport != MIGRATION_ADDRESS_TYPE_FILE) {
        incoming_load_refuse(errp, "migrate-recover",
            "Give a URI that begins with 'file:'.",
            "a fast load recovers from a file");
        return;
    }
    QEMU_LOCK_GUARD(&load->lock);
    if (recover_is_possible_locked(load, &channel->addr->u.file, errp)) {
        recover_spawn_locked(load, &channel->addr->u.file, errp);
    }
}
