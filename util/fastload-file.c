/*
 * fastload file: which reads bypass the page cache, and was the file changed?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A caller that opened the file without O_DIRECT wants what the page cache has,
 * but does not want it filled.  What is not cached is read through a second
 * descriptor of the same file, with O_DIRECT: that is faster, takes less CPU
 * time and evicts nothing.  This file knows whether that works and which reads
 * should do so; in doubt it takes the caller's descriptor.  statx(2) tells what
 * O_DIRECT demands (Linux 6.1), a test read tells where a file system does not,
 * and cachestat(2) tells what is cached (6.5).
 *
 * It also knows whether the file was changed.  A write changes the time of
 * modification before it changes bytes, so a check after a read covers that
 * read.  (This does not hold for holes punched in tmpfs, and for memory mapped
 * from the file.)  The bytes before the stream, called the prefix, do not
 * belong to the snapshot, but a change of them moves the file's time as well.
 * To tell one from the other, this file reads the prefix again, and samples of
 * the snapshot with it.  docs/design/0004-around-the-page-cache.md.
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

#define FILE_AHEAD_BYTES (128u << 10)

/* What shows that a file was changed. */
typedef struct FileLook {
    bool is_regular;
    uint64_t len_bytes;
    uint64_t mtime_ns;
} FileLook;

typedef struct FileRange {
    uint64_t off;
    uint64_t len_bytes;
} FileRange;

/*
 * The bytes before the stream, as they were at one time of modification.  A
 * thread takes the struct to read the file into it with no lock held; otherwise
 * it belongs to the Fastload.
 */
struct FastloadPrefix {
    /* constant */
    uint32_t len_bytes;
    FileRange samples[2];    /* of the snapshot: its start and its end */
    uint8_t *sample_bytes;   /* their contents when the load began */
    /* the thread that has taken it */
    uint8_t *bytes;      /* the prefix as it was last */
    uint8_t *buf;        /* the prefix is read into this */
    uint8_t *sample_buf; /* the samples are read into this */
    uint64_t mtime_ns;   /* the last one that was seen */
    uint64_t seen_ns;    /* when it was first seen; CLOCK_MONOTONIC */
    uint64_t burst_ns;   /* the first mtime of a burst of writes, or 0 */
    bool is_explained;   /* the prefix has changed since mtime_ns moved */
    bool is_settled;     /* another write would move mtime_ns again */
    /* lock prefix_lock */
    bool is_taken;
};

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

/* A descriptor of the same file with O_DIRECT; -1: errno says why not. */
static int file_open_direct(int fd)
{
    /* The file may have no name any more, or its name be another file's. */
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);

    return open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
}

typedef enum FileDirect {
    FILE_DIRECT_NO,
    FILE_DIRECT_YES,
    FILE_DIRECT_UNTOLD, /* network file systems and FUSE do not say */
} FileDirect;

/* Does O_DIRECT accept reads aligned to FASTLOAD_PAGE_BYTES_MIN? */
static FileDirect file_tells_direct(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx found = { 0 };

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) < 0) {
        return FILE_DIRECT_NO;
    }
    if (found.stx_mask & STATX_DIOALIGN) {
        return found.stx_dio_offset_align && found.stx_dio_mem_align &&
               FASTLOAD_PAGE_BYTES_MIN % found.stx_dio_offset_align == 0 &&
               FASTLOAD_PAGE_BYTES_MIN % found.stx_dio_mem_align == 0
               ? FILE_DIRECT_YES : FILE_DIRECT_NO;
    }
    return FILE_DIRECT_UNTOLD;
#else
    return FILE_DIRECT_NO;
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
 * Some file systems in user space report the current time as the time of
 * modification, at each call or once a second.  If a file on such a file system
 * is young, a later time of modification that is young again says nothing.
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

/* ---- what lies before the stream ---- */

static void file_prefix_free(FastloadPrefix *prefix)
{
    if (prefix) {
        free(prefix->bytes);
        free(prefix->buf);
        free(prefix->sample_bytes);
        free(prefix->sample_buf);
        g_free(prefix);
    }
}

static size_t file_prefix_read_bytes(const FastloadPrefix *prefix)
{
    /* Rounded up for O_DIRECT: may include the first bytes of the stream. */
    return (prefix->len_bytes + FASTLOAD_PAGE_BYTES_MIN - 1) /
           FASTLOAD_PAGE_BYTES_MIN * FASTLOAD_PAGE_BYTES_MIN;
}

/* A buffer for O_DIRECT, all zero; NULL: no memory. */
static uint8_t *file_buf_new(size_t len_bytes)
{
    void *buf = NULL;

    if (posix_memalign(&buf, FASTLOAD_PAGE_BYTES_MIN, len_bytes)) {
        return NULL;
    }
    return memset(buf, 0, len_bytes);
}

/*
 * A new save of a guest differs at the start, where the first bitmap is, and
 * near the end, where the device state is.  (The description of the device
 * state comes last, and may be the same.)
 */
static void file_prefix_choose_samples(FastloadPrefix *prefix,
                                       uint64_t stream_off,
                                       uint64_t file_bytes)
{
    uint64_t page = FASTLOAD_PAGE_BYTES_MIN;
    uint64_t tail_off = file_bytes > FASTLOAD_SAMPLE_BYTES
        ? file_bytes - FASTLOAD_SAMPLE_BYTES : 0;

    /* Rounded up, so that no byte before the stream is in a sample. */
    prefix->samples[0].off = (stream_off + page - 1) / page * page;
    prefix->samples[1].off = MAX(tail_off / page * page,
                                 prefix->samples[0].off);
    prefix->samples[0].len_bytes = FASTLOAD_SAMPLE_BYTES;
    prefix->samples[1].len_bytes = FASTLOAD_SAMPLE_BYTES + page;
}

static size_t file_prefix_sample_bytes(const FastloadPrefix *prefix)
{
    return prefix->samples[0].len_bytes + prefix->samples[1].len_bytes;
}

/* NULL: the stream is at the start of the file, or there is no memory. */
static FastloadPrefix *file_prefix_new(const Fastload *fl, uint64_t file_bytes)
{
    FastloadPrefix *prefix;

    if (!fl->config.stream_off) {
        return NULL;
    }
    prefix = g_new0(FastloadPrefix, 1);
    prefix->len_bytes = MIN(fl->config.stream_off, FASTLOAD_PREFIX_BYTES_MAX);
    file_prefix_choose_samples(prefix, fl->config.stream_off, file_bytes);
    prefix->bytes = file_buf_new(file_prefix_read_bytes(prefix));
    prefix->buf = file_buf_new(file_prefix_read_bytes(prefix));
    prefix->sample_bytes = file_buf_new(file_prefix_sample_bytes(prefix));
    prefix->sample_buf = file_buf_new(file_prefix_sample_bytes(prefix));
    if (!prefix->bytes || !prefix->buf || !prefix->sample_bytes ||
        !prefix->sample_buf) {
        g_clear_pointer(&prefix, file_prefix_free);
    }
    return prefix;
}

/* Reads prefix and samples into the buffers of @prefix. */
static bool file_prefix_read(int fd, FastloadPrefix *prefix)
{
    uint8_t *sample_buf = prefix->sample_buf;
    int i;

    if (fastload_io_sync_read_to_end(fd, prefix->buf,
                                     file_prefix_read_bytes(prefix), 0) <
        prefix->len_bytes) {
        return false;
    }
    for (i = 0; i < G_N_ELEMENTS(prefix->samples); i++) {
        /* The snapshot may be shorter than a sample. */
        if (fastload_io_sync_read_to_end(fd, sample_buf,
                                         prefix->samples[i].len_bytes,
                                         prefix->samples[i].off) < 0) {
            return false;
        }
        sample_buf += prefix->samples[i].len_bytes;
    }
    return true;
}

/*
 * Reads prefix and samples at one time of modification, which is in @ret_look:
 * it was the same before and after.  If the time keeps moving, @ret_look is
 * from before the read, so that the next time that is seen does not pass for
 * explained by these bytes.
 */
static bool file_look_at_prefix(int fd, FastloadPrefix *prefix,
                                FileLook *ret_look)
{
    FileLook look, later;
    uint32_t tries = 0;

    if (!file_look(fd, AT_STATX_FORCE_SYNC, &later)) {
        return false;
    }
    do {
        look = later;
        if (!file_prefix_read(fd, prefix) ||
            !file_look(fd, AT_STATX_FORCE_SYNC, &later)) {
            return false;
        }
    } while (++tries < FASTLOAD_PREFIX_TRIES_MAX &&
             later.mtime_ns != look.mtime_ns);
    *ret_look = look;
    return true;
}

static void file_prefix_swap(FastloadPrefix *prefix)
{
    uint8_t *bytes = prefix->bytes;

    prefix->bytes = prefix->buf;
    prefix->buf = bytes;
}

/* When the prefix has to be read again, even if the time has not moved. */
static uint64_t file_prefix_due_ns(const Fastload *fl,
                                   const FastloadPrefix *prefix)
{
    return !prefix || prefix->is_settled ? UINT64_MAX
           : prefix->is_explained ? prefix->seen_ns + fl->file.prefix_settle_ns
           : 0;
}

static bool file_prefix_is_due(const Fastload *fl)
{
    uint64_t due_ns = __atomic_load_n(&fl->file.prefix_due_ns,
                                      __ATOMIC_ACQUIRE);

    return due_ns != UINT64_MAX && fastload_stats_now_ns() >= due_ns;
}

/* NULL: there is none, or (@ret_is_taken) another thread has it. */
static FastloadPrefix *file_prefix_take(Fastload *fl, bool *ret_is_taken)
{
    FastloadPrefix *prefix;

    g_mutex_lock(&fl->file.prefix_lock);
    prefix = fl->file.prefix;
    *ret_is_taken = prefix && prefix->is_taken;
    if (*ret_is_taken) {
        prefix = NULL;
    } else if (prefix) {
        prefix->is_taken = true;
    }
    g_mutex_unlock(&fl->file.prefix_lock);
    return prefix;
}

/* Applies what was found, unless @prefix is of a file replaced meanwhile. */
static void file_prefix_give_back(Fastload *fl, FastloadPrefix *prefix)
{
    bool is_current;

    g_mutex_lock(&fl->file.prefix_lock);
    prefix->is_taken = false;
    is_current = fl->file.prefix == prefix;
    if (is_current) {
        if (prefix->is_explained && prefix->is_settled) {
            __atomic_store_n(&fl->file.mtime_ns, prefix->mtime_ns,
                             __ATOMIC_RELEASE);
        }
        __atomic_store_n(&fl->file.prefix_due_ns,
                         file_prefix_due_ns(fl, prefix),
                         __ATOMIC_RELEASE);
    }
    g_mutex_unlock(&fl->file.prefix_lock);
    if (!is_current) {
        file_prefix_free(prefix);
    }
}

void fastload_file_forget(Fastload *fl)
{
    file_prefix_free(fl->file.prefix);
    fl->file.prefix = NULL;
}

/* ---- was the file changed? ---- */

/* Looks at the file of @fd, and reads its prefix. */
static bool file_look_at_all(const Fastload *fl, int fd, FileLook *ret_look,
                             FastloadPrefix **ret_prefix)
{
    FastloadPrefix *prefix;

    *ret_prefix = NULL;
    if (!file_look(fd, AT_STATX_FORCE_SYNC, ret_look)) {
        return false;
    }
    prefix = ret_look->is_regular
        ? file_prefix_new(fl, ret_look->len_bytes) : NULL;
    if (prefix && !file_look_at_prefix(fd, prefix, ret_look)) {
        /* Without a prefix, each move of the time counts as a change. */
        g_clear_pointer(&prefix, file_prefix_free);
    }
    if (prefix) {
        file_prefix_swap(prefix);
        memcpy(prefix->sample_bytes, prefix->sample_buf,
               file_prefix_sample_bytes(prefix));
        prefix->mtime_ns = ret_look->mtime_ns;
        prefix->seen_ns = fastload_stats_now_ns();
        prefix->is_explained = true;
    }
    *ret_prefix = prefix;
    return true;
}

/* Takes over @prefix, and remembers the file as it looks in @look. */
static void file_remember(Fastload *fl, const FileLook *look,
                          FastloadPrefix *prefix, bool is_in_user_space)
{
    bool is_young = file_is_young(look);
    bool may_move = look->is_regular && is_young && is_in_user_space;
    FastloadPrefix *old;

    if (prefix) {
        /* If the time is old, any write from now on moves it. */
        prefix->is_settled = !is_young || may_move;
    }
    g_mutex_lock(&fl->file.prefix_lock);
    old = fl->file.prefix;
    fl->file.prefix = prefix;
    if (old && old->is_taken) {
        old = NULL; /* the thread that has taken it frees it */
    }
    __atomic_store_n(&fl->file.is_in_user_space, is_in_user_space,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&fl->file.may_mtime_move, may_move, __ATOMIC_RELEASE);
    __atomic_store_n(&fl->file.is_watched, look->is_regular,
                     __ATOMIC_RELEASE);
    __atomic_store_n(&fl->file.len_bytes, look->len_bytes, __ATOMIC_RELEASE);
    __atomic_store_n(&fl->file.mtime_ns, look->mtime_ns, __ATOMIC_RELEASE);
    __atomic_store_n(&fl->file.prefix_due_ns, file_prefix_due_ns(fl, prefix),
                     __ATOMIC_RELEASE);
    g_mutex_unlock(&fl->file.prefix_lock);
    file_prefix_free(old);
}

/* Sets is_direct.  Can reads choose between O_DIRECT and the page cache? */
static bool file_may_go_around(Fastload *fl)
{
    int flags = fcntl(fl->file.fd, F_GETFL);

    fl->file.is_direct = flags >= 0 && (flags & O_DIRECT);
    return flags >= 0 && !fl->file.is_direct &&
           file_cached_bytes(fl->file.fd, 0, 1) >= 0;
}

/* -1: O_DIRECT is not wanted, or fastload_file_prepare() decides about it. */
static int file_open_untold(Fastload *fl)
{
    return file_may_go_around(fl) &&
           file_tells_direct(fl->file.fd) == FILE_DIRECT_UNTOLD
           ? file_open_direct(fl->file.fd) : -1;
}

/* Where the file system does not tell, tries O_DIRECT on the first page. */
static void file_try_direct(Fastload *fl, int fd)
{
    uint8_t *buf = file_buf_new(FASTLOAD_PAGE_BYTES_MIN);
    uint64_t begin_ns = fastload_stats_now_ns();

    if (!buf ||
        fastload_io_sync_read_to_end(fd, buf, FASTLOAD_PAGE_BYTES_MIN, 0) !=
        FASTLOAD_PAGE_BYTES_MIN) {
        close(fd);
        fd = -1;
    }
    free(buf);
    fl->file.try_ns = fd >= 0 ? fastload_stats_now_ns() - begin_ns : 0;
    fl->file.direct_fd = fd;
    trace_fastload_direct_tried(fl, fd >= 0);
}

/* The kernel reads no more than this at a time, unless the disk takes more. */
static void file_read_ahead(int fd, const FastloadFileRange *range)
{
    uint64_t at;

    for (at = 0; at < range->len_bytes; at += FILE_AHEAD_BYTES) {
        posix_fadvise(fd, range->file_off + at,
                      MIN(range->len_bytes - at, FILE_AHEAD_BYTES),
                      POSIX_FADV_WILLNEED);
    }
}

void fastload_file_note(Fastload *fl, const FastloadConfig *config)
{
    FastloadPrefix *prefix;
    FileLook look = { 0 };
    int direct_fd = -1;
    uint32_t i;

    /* If statx() is not permitted, changes are not noticed. */
    file_look_at_all(fl, fl->file.fd, &look, &prefix);
    file_remember(fl, &look, prefix, file_is_in_user_space(fl->file.fd));
    if (look.is_regular) {
        direct_fd = file_open_untold(fl);
    }
    /* After the file is opened: FUSE then drops what it has cached of it. */
    for (i = 0; i < config->ahead_range_count; i++) {
        file_read_ahead(fl->file.fd, &config->ahead_ranges[i]);
    }
    if (direct_fd >= 0) {
        file_try_direct(fl, direct_fd);
    }
}

typedef enum FileChange {
    FILE_SAME,
    FILE_UNKNOWN, /* statx() failed, or it is too early to say */
    FILE_MOVED,   /* the time of modification has moved, not the size */
    FILE_CHANGED,
} FileChange;

static FileChange file_compare(Fastload *fl, int sync_flag)
{
    FileLook look;

    if (!file_look(fl->file.fd, sync_flag, &look)) {
        return FILE_UNKNOWN;
    }
    if (look.len_bytes != __atomic_load_n(&fl->file.len_bytes,
                                          __ATOMIC_ACQUIRE)) {
        return FILE_CHANGED;
    }
    if (look.mtime_ns == __atomic_load_n(&fl->file.mtime_ns,
                                         __ATOMIC_ACQUIRE)) {
        return FILE_SAME;
    }
    if (!__atomic_load_n(&fl->file.may_mtime_move, __ATOMIC_ACQUIRE) ||
        !file_is_young(&look)) {
        return FILE_MOVED;
    }
    __atomic_store_n(&fl->file.has_mtime_moved, 1, __ATOMIC_RELAXED);
    return FILE_SAME;
}

/*
 * Other software writes its header with several calls in a row, and some of
 * them may not change a byte.  Times as close as that belong to one change.
 */
static bool file_is_same_burst(const FastloadPrefix *prefix, uint64_t mtime_ns)
{
    return mtime_ns >= prefix->burst_ns &&
           mtime_ns - prefix->burst_ns < FASTLOAD_FILE_TICK_NS;
}

/*
 * Was a move of the time caused by a change of the prefix, or of the snapshot?
 * Each new time of modification must come with a changed prefix; if the prefix
 * stays the same, somebody wrote to the snapshot.  A write changes the time
 * first, so the new prefix may appear a little later (prefix_wait_ns).  If the
 * time moves again before the prefix has changed, and not in the same burst,
 * one of the two writes went to the snapshot.  A new save into the file either
 * goes on writing, which moves the time again, or has changed the samples: so
 * nothing counts as right until the time has stood still for a while
 * (prefix_settle_ns).
 */
static FileChange file_judge_prefix(Fastload *fl, FastloadPrefix *prefix)
{
    uint64_t now_ns = fastload_stats_now_ns();
    FileLook look;

    if (!file_look_at_prefix(fl->file.fd, prefix, &look)) {
        return FILE_UNKNOWN;
    }
    if (look.len_bytes != __atomic_load_n(&fl->file.len_bytes,
                                          __ATOMIC_ACQUIRE)) {
        return FILE_CHANGED;
    }
    if (look.mtime_ns != prefix->mtime_ns) {
        if (!file_is_same_burst(prefix, look.mtime_ns)) {
            if (!prefix->is_explained) {
                return FILE_CHANGED;
            }
            prefix->burst_ns = look.mtime_ns;
            prefix->is_explained = false;
        }
        prefix->mtime_ns = look.mtime_ns;
        prefix->seen_ns = now_ns;
    }
    if (memcmp(prefix->sample_buf, prefix->sample_bytes,
               file_prefix_sample_bytes(prefix))) {
        return FILE_CHANGED;
    }
    if (memcmp(prefix->buf, prefix->bytes, prefix->len_bytes)) {
        file_prefix_swap(prefix);
        prefix->is_explained = true;
    }
    trace_fastload_prefix_read(fl, look.mtime_ns, prefix->is_explained);
    prefix->is_settled = false;
    if (!prefix->is_explained) {
        return now_ns < prefix->seen_ns + fl->file.prefix_wait_ns
               ? FILE_UNKNOWN : FILE_CHANGED;
    }
    /* Before that, another write may leave the same time. */
    prefix->is_settled = now_ns >= prefix->seen_ns +
                                   fl->file.prefix_settle_ns;
    return prefix->is_settled ? FILE_SAME : FILE_UNKNOWN;
}

/* The time has moved, or the prefix is due to be read again. */
static FileChange file_ask_prefix(Fastload *fl, FileChange change)
{
    bool is_taken;
    FastloadPrefix *prefix = file_prefix_take(fl, &is_taken);

    if (prefix) {
        change = file_judge_prefix(fl, prefix);
        file_prefix_give_back(fl, prefix);
        return change;
    }
    if (!is_taken) {
        return change == FILE_MOVED ? FILE_CHANGED : change;
    }
    /* The thread that has it may hang in a read: nobody waits for it. */
    return change == FILE_MOVED ||
           !__atomic_load_n(&fl->file.prefix_due_ns, __ATOMIC_ACQUIRE)
           ? FILE_UNKNOWN : change;
}

/* Attributes that a network file system caches may be old: then asks it. */
static FileChange file_find_change(Fastload *fl)
{
    FileChange change = file_compare(fl, AT_STATX_DONT_SYNC);

    if (change != FILE_SAME) {
        change = file_compare(fl, AT_STATX_FORCE_SYNC);
    }
    if (change == FILE_MOVED ||
        (change == FILE_SAME && file_prefix_is_due(fl))) {
        change = file_ask_prefix(fl, change);
    }
    return change;
}

/*
 * Remembers a change, for size and time may be put back while the contents stay
 * changed.  A reader that notices late that an earlier file was changed does
 * not overwrite the newer note.
 */
static void file_note_change(Fastload *fl, uint32_t generation)
{
    uint32_t known = __atomic_load_n(&fl->file.changed_generation,
                                     __ATOMIC_RELAXED);

    while (known <= generation &&
           !__atomic_compare_exchange_n(&fl->file.changed_generation, &known,
                                        generation + 1, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static bool file_was_changed(Fastload *fl, uint32_t generation)
{
    return __atomic_load_n(&fl->file.changed_generation, __ATOMIC_RELAXED) ==
           generation + 1;
}

FastloadFileState fastload_file_check(Fastload *fl, uint32_t generation)
{
    FileChange change = FILE_SAME;

    if (__atomic_load_n(&fl->file.is_watched, __ATOMIC_ACQUIRE)) {
        change = file_find_change(fl);
    }
    /* After the look: another thread may have seen what was put back since. */
    if (file_was_changed(fl, generation)) {
        change = FILE_CHANGED;
    }
    /* Last: if anything above was of another file, this shows it. */
    if (generation != __atomic_load_n(&fl->file.generation,
                                      __ATOMIC_ACQUIRE)) {
        return FASTLOAD_FILE_REPLACED;
    }
    if (change == FILE_CHANGED) {
        file_note_change(fl, generation);
        return FASTLOAD_FILE_CHANGED;
    }
    return change == FILE_SAME ? FASTLOAD_FILE_SAME : FASTLOAD_FILE_UNKNOWN;
}

/*
 * Odd while the file is being replaced: workers note no generation then, so no
 * read of that moment can pass for one of either file.
 */
static void file_bump_generation(Fastload *fl)
{
    __atomic_add_fetch(&fl->file.generation, 1, __ATOMIC_SEQ_CST);
}

void fastload_file_accept(Fastload *fl)
{
    bool is_in_user_space = file_is_in_user_space(fl->file.fd);
    FastloadPrefix *prefix;
    FileLook look = { 0 };

    file_look_at_all(fl, fl->file.fd, &look, &prefix);
    file_bump_generation(fl);
    file_remember(fl, &look, prefix, is_in_user_space);
    file_bump_generation(fl);
}

/*
 * Loads that read the same file at the same time should read it from the
 * storage only once: all of them go through the page cache.  They know of each
 * other by a lock that belongs to the open file (Linux 3.15) and goes away with
 * its last descriptor, however the process ends.  It is a read lock, so several
 * loads can have it, and it does not conflict with locks of other software.
 * docs/design/0007-clones-share-a-cold-file.md.
 */
static bool file_mark(int fd)
{
    struct flock lock = {
        .l_type = F_RDLCK,
        .l_whence = SEEK_SET,
        .l_start = FASTLOAD_MARK_OFF,
        .l_len = 1,
    };

    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/* Does another load read this file around the page cache? */
static bool file_is_shared(int fd)
{
    struct flock lock = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = FASTLOAD_MARK_OFF,
        .l_len = 1,
    };

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void fastload_file_prepare(Fastload *fl)
{
    if (!file_may_go_around(fl) || fl->file.direct_fd >= 0 ||
        file_tells_direct(fl->file.fd) != FILE_DIRECT_YES) {
        return;
    }
    fl->file.direct_fd = file_open_direct(fl->file.fd);
    trace_fastload_direct_opened(fl, fl->file.direct_fd >= 0 ? 0 : errno);
    fl->file.is_marked = fl->file.direct_fd >= 0 &&
                         file_mark(fl->file.direct_fd);
}

/* Can the first page of the first area be read from @fd? */
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

/*
 * dup()s over direct_fd.  Without a descriptor with O_DIRECT, those reads go
 * through the page cache.
 */
static void file_replace_direct(Fastload *fl, int fd, int direct_fd)
{
    if (fl->file.direct_fd >= 0 &&
        dup3(direct_fd >= 0 ? direct_fd : fd, fl->file.direct_fd,
             O_CLOEXEC) < 0) {
        /* direct_fd still refers to the old file. */
        trace_fastload_direct_opened(fl, errno);
        __atomic_store_n(&fl->file.is_direct_lost, 1, __ATOMIC_RELAXED);
    } else if (fl->file.is_marked) {
        file_mark(fl->file.direct_fd); /* for others that load this copy */
    }
}

bool fastload_file_replace(Fastload *fl, int fd, GError **error)
{
    int flags = fcntl(fd, F_GETFL);
    int direct_fd = -1, dup_errno = 0;
    bool is_in_user_space;
    uint32_t generation;
    FastloadPrefix *prefix;
    FileLook look;

    if (flags < 0 || !!(flags & O_DIRECT) != fl->file.is_direct) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID,
                    "the copy of the snapshot is not opened as the first one "
                    "was, %s O_DIRECT",
                    fl->file.is_direct ? "with" : "without");
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
    /* All slow calls come first; an early look at the copy is safe. */
    if (!file_look_at_all(fl, fd, &look, &prefix)) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "cannot see what the copy looks like: %s",
                    g_strerror(errno));
        return false;
    }
    is_in_user_space = file_is_in_user_space(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    if (fl->file.direct_fd >= 0) {
        direct_fd = file_open_direct(fd);
    }
    generation = __atomic_load_n(&fl->file.generation, __ATOMIC_ACQUIRE);
    file_bump_generation(fl);
    if (dup3(fd, fl->file.fd, O_CLOEXEC) < 0) {
        dup_errno = errno;
        if (file_was_changed(fl, generation)) {
            file_note_change(fl, generation + 2); /* it is still that file */
        }
        file_prefix_free(prefix);
    } else {
        file_replace_direct(fl, fd, direct_fd);
        file_remember(fl, &look, prefix, is_in_user_space);
    }
    file_bump_generation(fl);
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

bool fastload_file_choose(Fastload *fl, FastloadRead *read)
{
    int64_t cached_bytes, data_bytes;
    uint32_t is_cached;

    read->is_direct = read->is_cached = false;
    if (fl->file.direct_fd < 0 || !read->extent_count ||
        __atomic_load_n(&fl->file.is_direct_lost, __ATOMIC_RELAXED)) {
        return false;
    }
    /* Holes are hardly ever cached: cached bytes are assumed to be data. */
    data_bytes = fastload_plan_data_bytes(read->area, read->span);
    cached_bytes = file_cached_bytes(fl->file.fd, read->area->file_off +
                                     read->span.ram_off,
                                     read->span.len_bytes);
    read->is_cached = cached_bytes < 0 ||
                      cached_bytes >= data_bytes - data_bytes /
                                      FASTLOAD_UNCACHED_SHARE;
    read->is_direct = !read->is_cached &&
                      !(fl->file.is_marked &&
                        file_is_shared(fl->file.direct_fd));
    is_cached = !read->is_direct;
    return __atomic_exchange_n(&fl->file.is_cached, is_cached,
                               __ATOMIC_RELAXED) != is_cached;
}

bool fastload_file_is_cached(const Fastload *fl, const FastloadRead *read)
{
    /* Holes are hardly ever cached: cached bytes are assumed to be data. */
    return file_cached_bytes(fl->file.fd, read->area->file_off +
                             read->span.ram_off, read->span.len_bytes) >=
           (int64_t)fastload_plan_data_bytes(read->area, read->span);
}

void fastload_file_fetch(const Fastload *fl, const FastloadRead *read)
{
    FastloadFileRange range = {
        .file_off = read->area->file_off + read->span.ram_off,
        .len_bytes = read->span.len_bytes,
    };

    if (fl->file.is_marked && file_is_shared(fl->file.direct_fd)) {
        file_read_ahead(fl->file.fd, &range);
    }
}

bool fastload_file_reads_cost_cpu(const Fastload *fl)
{
    /* A read from the page cache is a copy, by io_uring as well. */
    return fastload_worker_is_blocking(&fl->workers[0]) ||
           (!fl->file.is_direct &&
            (fl->file.direct_fd < 0 ||
             __atomic_load_n(&fl->file.is_cached, __ATOMIC_RELAXED)));
}
