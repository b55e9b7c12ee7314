/*
 * fastload file: the page cache, and the way around it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A caller who did not ask for O_DIRECT wants what the page cache has, and
 * has no wish to see it filled: what is not there is read faster, with less
 * CPU, and without pushing out what others keep there, by a second descriptor
 * of the same file.  Knows whether that can be had and which reads should
 * take it; where in doubt, the caller's descriptor serves.  statx(2) for what
 * O_DIRECT demands (Linux 6.1), cachestat(2) for what is resident (6.5).
 * And knows whether it is still the file that it was: who writes to a file
 * changes its time of modification first, so a look after a read covers the
 * read.  (Not so holes punched in tmpfs, and memory that is mapped.)
 * docs/design/0004-around-the-page-cache.md.
 */
#include "qemu/osdep.h"
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include "trace.h"
#include "qemu/fastload_int.h"

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546 /* statfs(2) */
#endif
#ifndef SYS_cachestat
#define SYS_cachestat 451 /* the same on every architecture */
#endif

/* By which a change is noticed. */
typedef struct FileLook {
    bool is_regular;
    uint64_t len_bytes;
    uint64_t mtime_ns;
} FileLook;

typedef struct FileRange {
    uint64_t off;
    uint64_t len_bytes;
} FileRange;

/* Numbers of pages. */
typedef struct FileCached {
    uint64_t cache_count;
    uint64_t dirty_count;
    uint64_t writeback_count;
    uint64_t evicted_count;
    uint64_t recently_evicted_count;
} FileCached;

/* Bytes of the range that are in the page cache, or -errno. */
static int64_t file_cached_bytes(int fd, uint64_t file_off,
                                 uint64_t len_bytes)
{
    FileRange range = { .off = file_off, .len_bytes = len_bytes };
    FileCached cached = { 0 };

    if (syscall(SYS_cachestat, fd, &range, &cached, 0) < 0) {
        return -errno;
    }
    return MIN(cached.cache_count * getpagesize(), len_bytes);
}

/* Do reads on FASTLOAD_PAGE_BYTES_MIN suit O_DIRECT, and is it worth it? */
static bool file_has_direct(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx found = { 0 };

    return statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) == 0 &&
           (found.stx_mask & STATX_DIOALIGN) &&
           found.stx_dio_offset_align && found.stx_dio_mem_align &&
           FASTLOAD_PAGE_BYTES_MIN % found.stx_dio_offset_align == 0 &&
           FASTLOAD_PAGE_BYTES_MIN % found.stx_dio_mem_align == 0;
#else
    return false;
#endif
}

static bool file_look(int fd, int sync_flag, FileLook *ret_look)
{
    struct statx found = { 0 };

    if (statx(fd, "", AT_EMPTY_PATH | sync_flag,
              STATX_TYPE | STATX_SIZE | STATX_MTIME, &found) < 0) {
        return false;
    }
    ret_look->is_regular = S_ISREG(found.stx_mode);
    ret_look->len_bytes = found.stx_size;
    ret_look->mtime_ns = found.stx_mtime.tv_sec * 1000000000ull +
                         found.stx_mtime.tv_nsec;
    return true;
}

/*
 * Some file systems in user space answer "now" when they are asked for the time
 * of modification, at each look or once a second.  Of a file that seems to have
 * been modified just now on such a file system, a later time that is "now"
 * again says nothing.
 */
static bool file_is_young(const FileLook *look)
{
    uint64_t now_ns = g_get_real_time() * 1000ull;

    return look->mtime_ns + FASTLOAD_FILE_YOUNG_NS > now_ns &&
           look->mtime_ns < now_ns + FASTLOAD_FILE_YOUNG_NS;
}

static bool file_is_in_user_space(int fd)
{
    struct statfs found;

    return fstatfs(fd, &found) == 0 && found.f_type == FUSE_SUPER_MAGIC;
}

static void file_remember(Fastload *fl, const FileLook *look)
{
    bool may_move = look->is_regular && file_is_young(look) &&
                    file_is_in_user_space(fl->fd);

    __atomic_store_n(&fl->may_mtime_move, may_move, __ATOMIC_RELEASE);
    __atomic_store_n(&fl->is_file_watched, look->is_regular,
                     __ATOMIC_RELEASE);
    __atomic_store_n(&fl->file_bytes, look->len_bytes, __ATOMIC_RELEASE);
    __atomic_store_n(&fl->file_mtime_ns, look->mtime_ns, __ATOMIC_RELEASE);
}

void fastload_file_note(Fastload *fl)
{
    FileLook look = { 0 };

    /* Where this is not permitted, nothing is watched. */
    file_look(fl->fd, AT_STATX_FORCE_SYNC, &look);
    file_remember(fl, &look);
}

typedef enum FileChange {
    FILE_SAME,
    FILE_UNKNOWN, /* nobody can be asked; nothing is taken for right */
    FILE_CHANGED,
} FileChange;

static FileChange file_compare(Fastload *fl, int sync_flag)
{
    FileLook look;

    if (!file_look(fl->fd, sync_flag, &look)) {
        return FILE_UNKNOWN;
    }
    if (look.len_bytes != __atomic_load_n(&fl->file_bytes,
                                          __ATOMIC_ACQUIRE)) {
        return FILE_CHANGED;
    }
    if (look.mtime_ns == __atomic_load_n(&fl->file_mtime_ns,
                                         __ATOMIC_ACQUIRE)) {
        return FILE_SAME;
    }
    if (!__atomic_load_n(&fl->may_mtime_move, __ATOMIC_ACQUIRE) ||
        !file_is_young(&look)) {
        return FILE_CHANGED;
    }
    __atomic_store_n(&fl->has_mtime_moved, 1, __ATOMIC_RELAXED);
    return FILE_SAME;
}

/* What a network file system remembers of a file may be old: ask it. */
static FileChange file_find_change(Fastload *fl)
{
    return file_compare(fl, AT_STATX_DONT_SYNC) == FILE_SAME
           ? FILE_SAME : file_compare(fl, AT_STATX_FORCE_SYNC);
}

/*
 * Size and time may be put back, what was written is not known to be.  Never
 * goes back to an earlier file, which a reader may notice late.
 */
static void file_note_change(Fastload *fl, uint32_t file_count)
{
    uint32_t known = __atomic_load_n(&fl->changed_file_count,
                                     __ATOMIC_RELAXED);

    while (known <= file_count &&
           !__atomic_compare_exchange_n(&fl->changed_file_count, &known,
                                        file_count + 1, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static bool file_was_changed(Fastload *fl, uint32_t file_count)
{
    return __atomic_load_n(&fl->changed_file_count, __ATOMIC_RELAXED) ==
           file_count + 1;
}

bool fastload_file_is_changed(Fastload *fl, uint32_t file_count,
                              bool *ret_is_replaced)
{
    FileChange change = FILE_SAME;

    if (__atomic_load_n(&fl->is_file_watched, __ATOMIC_ACQUIRE)) {
        change = file_find_change(fl);
    }
    /* After the look: others may have seen it before it was put back. */
    if (file_was_changed(fl, file_count)) {
        change = FILE_CHANGED;
    }
    /* Last: whoever saw anything of another file above sees it here, too. */
    *ret_is_replaced = file_count != __atomic_load_n(&fl->file_count,
                                                     __ATOMIC_ACQUIRE);
    if (change == FILE_CHANGED && !*ret_is_replaced) {
        file_note_change(fl, file_count);
    }
    return change != FILE_SAME || *ret_is_replaced;
}

/* While the number is odd, no read is begun that could be taken for right. */
static void file_turn(Fastload *fl)
{
    __atomic_add_fetch(&fl->file_count, 1, __ATOMIC_SEQ_CST);
}

void fastload_file_accept(Fastload *fl)
{
    FileLook look = { 0 };

    file_look(fl->fd, AT_STATX_FORCE_SYNC, &look);
    file_turn(fl);
    file_remember(fl, &look);
    file_turn(fl);
}

/* A descriptor of the same file with O_DIRECT; -1: errno says why not. */
static int file_open_direct(int fd)
{
    /* The name may be gone, or another file's by now. */
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);

    return open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
}

void fastload_file_prepare(Fastload *fl)
{
    int flags = fcntl(fl->fd, F_GETFL);

    fl->is_direct = flags >= 0 && (flags & O_DIRECT);
    if (flags < 0 || fl->is_direct || !file_has_direct(fl->fd) ||
        file_cached_bytes(fl->fd, 0, 1) < 0) {
        return;
    }
    fl->direct_fd = file_open_direct(fl->fd);
    trace_fastload_direct_opened(fl, fl->direct_fd >= 0 ? 0 : errno);
}

/* Can what the load needs of @fd be read, as it was opened? */
static bool file_is_readable(Fastload *fl, int fd)
{
    FastloadArea *area = g_ptr_array_index(fl->areas, 0);
    void *buf = NULL;
    bool is_readable;

    if (posix_memalign(&buf, FASTLOAD_PAGE_BYTES_MIN,
                       FASTLOAD_PAGE_BYTES_MIN)) {
        return false;
    }
    is_readable = pread(fd, buf, FASTLOAD_PAGE_BYTES_MIN, area->file_off) ==
                  FASTLOAD_PAGE_BYTES_MIN;
    free(buf);
    return is_readable;
}

/* Without one of its own, what goes around the page cache goes through it. */
static void file_replace_direct(Fastload *fl, int fd, int direct_fd)
{
    if (fl->direct_fd >= 0 &&
        dup3(direct_fd >= 0 ? direct_fd : fd, fl->direct_fd, O_CLOEXEC) < 0) {
        /* It is the old file's still. */
        trace_fastload_direct_opened(fl, errno);
        __atomic_store_n(&fl->is_direct_lost, 1, __ATOMIC_RELAXED);
    }
}

bool fastload_file_replace(Fastload *fl, int fd, GError **error)
{
    int flags = fcntl(fd, F_GETFL);
    int direct_fd = -1, dup_errno = 0;
    uint32_t file_count;
    FileLook look;

    if (flags < 0 || !!(flags & O_DIRECT) != fl->is_direct) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID,
                    "the copy of the snapshot is not opened as the first one "
                    "was, %s O_DIRECT", fl->is_direct ? "with" : "without");
        return false;
    }
    if (!file_is_readable(fl, fd)) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_READ,
                    "the copy of the snapshot cannot be read at file offset %"
                    PRIu64,
                    ((FastloadArea *)g_ptr_array_index(fl->areas,
                                                       0))->file_off);
        return false;
    }
    /* All that may take its time comes first, and a look that is too early. */
    if (!file_look(fd, AT_STATX_FORCE_SYNC, &look)) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "cannot see what the copy looks like: %s",
                    g_strerror(errno));
        return false;
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    if (fl->direct_fd >= 0) {
        direct_fd = file_open_direct(fd);
    }
    file_count = __atomic_load_n(&fl->file_count, __ATOMIC_ACQUIRE);
    file_turn(fl);
    if (dup3(fd, fl->fd, O_CLOEXEC) < 0) {
        dup_errno = errno;
        if (file_was_changed(fl, file_count)) {
            file_note_change(fl, file_count + 2); /* the same one, still */
        }
    } else {
        file_replace_direct(fl, fd, direct_fd);
        file_remember(fl, &look);
    }
    file_turn(fl);
    if (direct_fd >= 0) {
        close(direct_fd);
    }
    if (dup_errno) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "cannot take over the copy's descriptor: %s",
                    g_strerror(dup_errno));
    }
    return !dup_errno;
}

void fastload_file_choose(Fastload *fl, FastloadRead *read)
{
    int64_t cached_bytes, data_bytes;
    bool is_cached;

    read->is_direct = false;
    if (fl->direct_fd < 0 || !read->extent_count ||
        __atomic_load_n(&fl->is_direct_lost, __ATOMIC_RELAXED)) {
        return;
    }
    /* Holes are hardly ever in the cache: what is there is what we want. */
    data_bytes = fastload_plan_data_bytes(read->area, read->span);
    cached_bytes = file_cached_bytes(fl->fd, read->area->file_off +
                                     read->span.ram_off,
                                     read->span.len_bytes);
    is_cached = cached_bytes < 0 ||
                cached_bytes >= data_bytes - data_bytes /
                                FASTLOAD_UNCACHED_SHARE;
    __atomic_store_n(&fl->is_cached, is_cached, __ATOMIC_RELAXED);
    read->is_direct = !is_cached;
}

bool fastload_file_is_busy(const Fastload *fl)
{
    /* From the page cache a read is a copy, whoever asks for it. */
    return fastload_worker_is_blocking(&fl->workers[0]) ||
           (!fl->is_direct &&
            (fl->direct_fd < 0 ||
             __atomic_load_n(&fl->is_cached, __ATOMIC_RELAXED)));
}
