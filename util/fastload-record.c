/*
 * fastload record: what the guest touches first, and the file of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * While a recording is on, workers that read fault messages note each page
 * once, in an array that is allocated before: a fault makes no system call
 * more than without a recording.  The scheduler holds the background back
 * meanwhile, or first touches would not fault.  Afterwards a thread writes the
 * file.  This file also decides whether there is a working set to replay, and
 * whether it is of this snapshot; util/fastload-workset.c formats and parses
 * the bytes, and util/fastload-hints.c replays the set.  A failure concerns the
 * recording, never the load.
 *
 * State (record.lock; who moves it in parentheses):
 *
 *   NONE --start (owner)--> RECORDING --it is over (worker)--> WRITING
 *                             |                                  |     |
 *                     not worth|writing (worker);          written|     |not
 *                     no thread|(owner)                   (writer)v     |
 *                             v                            WRITTEN      |
 *                           FAILED <------------------------------------+
 *
 *   NONE       no thread; is_on is 0
 *   RECORDING  is_on is 1 until the thread that clears it makes the next move;
 *              the writer sleeps
 *   WRITING    is_on is 0; the writer reads touches and areas, which stay
 *   WRITTEN    the file is there; the writer ends
 *   FAILED     no file of this load is there; the writer ends, if there is one
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

/* A touch in 64 bits: a bit that it is valid, its area, its page. */
#define RECORD_TOUCH_VALID (1ull << 63)
#define RECORD_TOUCH_AREA_SHIFT 51
#define RECORD_TOUCH_PAGE_MASK ((1ull << RECORD_TOUCH_AREA_SHIFT) - 1)
QEMU_BUILD_BUG_ON(FASTLOAD_REGION_COUNT_MAX > 1u << 12);
/* record_make_set() numbers blocks from 1; 0: the area was not touched. */
QEMU_BUILD_BUG_ON(FASTLOAD_REGION_COUNT_MAX >
                  FASTLOAD_WORKSET_BLOCK_COUNT_MAX);
#define RECORD_NAME_TRIES_MAX 100

#define TO(state) (1u << FASTLOAD_WORKSET_##state)
static const uint32_t record_moves[FASTLOAD_WORKSET_STATE_MAX] = {
    [FASTLOAD_WORKSET_NONE] = TO(RECORDING),
    [FASTLOAD_WORKSET_RECORDING] = TO(WRITING) | TO(FAILED),
    [FASTLOAD_WORKSET_WRITING] = TO(WRITTEN) | TO(FAILED),
};

static void record_check_locked(const FastloadRecord *record)
{
    uint32_t is_on = __atomic_load_n(&record->is_on, __ATOMIC_RELAXED);

    switch (record->state) {
    case FASTLOAD_WORKSET_RECORDING:
        assert(record->path && record->touches && record->begin_ns);
        break;
    case FASTLOAD_WORKSET_WRITING:
        assert(!is_on && record->writer);
        break;
    case FASTLOAD_WORKSET_WRITTEN:
        assert(!is_on && record->page_count && record->run_count);
        break;
    case FASTLOAD_WORKSET_FAILED:
        assert(!is_on);
        break;
    case FASTLOAD_WORKSET_NONE:
    case FASTLOAD_WORKSET_REPLAYING:
    case FASTLOAD_WORKSET_REPLAYED:
    case FASTLOAD_WORKSET_STATE_MAX:
        g_assert_not_reached(); /* no move leads there */
    }
}

static void record_move_locked(FastloadRecord *record,
                               FastloadWorksetState to)
{
    assert(record_moves[record->state] & (1u << to));
    trace_fastload_record_moved(record, record->state, to);
    record->state = to;
    record_check_locked(record);
    g_cond_broadcast(&record->cond);
}

void fastload_record_init(FastloadRecord *record)
{
    g_mutex_init(&record->lock);
    g_cond_init(&record->cond);
}

void fastload_record_clear(FastloadRecord *record)
{
    assert(!record->writer);
    g_free(record->path);
    g_free(record->touches);
    g_cond_clear(&record->cond);
    g_mutex_clear(&record->lock);
}

/* ---- which snapshot it is ---- */

static int record_by_place(gconstpointer a, gconstpointer b)
{
    const FastloadArea *x = *(FastloadArea *const *)a;
    const FastloadArea *y = *(FastloadArea *const *)b;

    return x->file_off < y->file_off ? -1 : x->file_off > y->file_off;
}

static uint64_t record_hash_area(uint64_t hash, const Fastload *fl,
                                 const FastloadArea *area)
{
    uint64_t word_count = FASTLOAD_BIT_WORDS(area->len_bytes >>
                                             area->granule_shift);
    const char *at = area->label;
    uint64_t i;

    do {
        hash = fastload_workset_hash(hash, (uint8_t)*at);
    } while (*at++);
    hash = fastload_workset_hash(hash, area->len_bytes);
    hash = fastload_workset_hash(hash, area->granule_bytes);
    hash = fastload_workset_hash(hash, area->file_off -
                                       fl->config.stream_off);
    for (i = 0; i < word_count; i++) {
        hash = fastload_workset_hash(hash, area->data_bits[i]);
    }
    return hash;
}

/* A digest of the snapshot that a copy of the file has as well. */
static uint64_t record_digest(const Fastload *fl)
{
    g_autofree FastloadArea **areas = g_new(FastloadArea *, fl->areas->len);
    uint64_t hash = FASTLOAD_WORKSET_HASH_BEGIN;
    struct stat st;
    guint i;

    /* A block device has no size in stat(), and is longer than its snapshot. */
    hash = fastload_workset_hash(hash, fstat(fl->file.fd, &st) == 0 &&
                                       S_ISREG(st.st_mode)
                                       ? st.st_size - fl->config.stream_off
                                       : 0);
    hash = fastload_workset_hash(hash, fl->areas->len);
    memcpy(areas, fl->areas->pdata, fl->areas->len * sizeof(areas[0]));
    qsort(areas, fl->areas->len, sizeof(areas[0]), record_by_place);
    for (i = 0; i < fl->areas->len; i++) {
        hash = record_hash_area(hash, fl, areas[i]);
    }
    return hash;
}

/* ---- the file: is there one to replay? ---- */

/* Reads all of @fd, if it can be a working set; its length, or -errno. */
static int64_t record_read_all(int fd, uint8_t **ret_bytes)
{
    g_autofree uint8_t *bytes = NULL;
    struct stat st;
    int64_t ret;

    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    if (!S_ISREG(st.st_mode)) {
        return -EINVAL;
    }
    if (st.st_size > FASTLOAD_WORKSET_FILE_BYTES_MAX) {
        return -EFBIG;
    }
    bytes = g_malloc(MAX(st.st_size, 1));
    ret = fastload_io_sync_read_to_end(fd, bytes, st.st_size, 0);
    if (ret >= 0 && ret < st.st_size) {
        return -ENODATA;
    }
    if (ret >= 0) {
        *ret_bytes = g_steal_pointer(&bytes);
    }
    return ret;
}

static const char *record_read_cause(int64_t error)
{
    switch (-error) {
    case EINVAL:
        return "it is not a regular file";
    case EFBIG:
        return "it is longer than the file of a working set can be";
    case ENODATA:
        return "it was shortened while it was read";
    }
    return g_strerror(-error);
}

/* Closes @fd.  False: @error says why nothing is replayed. */
static bool record_replay(Fastload *fl, const char *path, int fd,
                          GError **error)
{
    g_autoptr(FastloadWorkset) set = NULL;
    g_autofree uint8_t *bytes = NULL;
    int64_t len_bytes = record_read_all(fd, &bytes);
    const char *refusal = NULL;

    close(fd);
    if (len_bytes < 0) {
        refusal = record_read_cause(len_bytes);
    } else {
        set = fastload_workset_parse(bytes, len_bytes, &refusal);
    }
    if (set && set->snapshot_digest != record_digest(fl)) {
        refusal = "it was recorded of another snapshot";
    } else if (set && !fastload_hints_use(fl, set)) {
        refusal = "it is damaged: it has a block that the snapshot does not "
                  "have";
    }
    if (refusal) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_INVALID,
                    "the working set \"%s\" is not used: %s", path, refusal);
        return false;
    }
    set = NULL; /* it belongs to the load now */
    return true;
}

/* Can the file be created?  Checked early, before anything is recorded. */
static bool record_may_write(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);

    if (access(folder, W_OK | X_OK) < 0) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "no working set is recorded: the folder \"%s\" cannot be "
                    "written to: %s", folder, g_strerror(errno));
        return false;
    }
    return true;
}

bool fastload_use_workset(Fastload *fl, const FastloadWorksetConfig *config,
                          GError **error)
{
    FastloadRecord *record = &fl->record;
    int fd;

    assert(fl->state == FASTLOAD_STATE_NEW && !fl->workers);
    assert(!record->path && !fl->hints.set);
    fd = open(config->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    record->awaits_guest = config->awaits_guest;
    if (fd >= 0) {
        return record_replay(fl, config->path, fd, error);
    }
    if (errno != ENOENT) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "the working set \"%s\" is not used: it cannot be "
                    "opened: %s", config->path, g_strerror(errno));
        return false;
    }
    if (!record_may_write(config->path, error)) {
        return false;
    }
    record->path = g_strdup(config->path);
    record->quiet_ns = config->quiet_ns ? config->quiet_ns
                                        : FASTLOAD_RECORD_QUIET_NS;
    record->least_ns = config->least_ns ? config->least_ns
                                        : FASTLOAD_RECORD_LEAST_NS;
    record->most_ns = config->most_ns ? config->most_ns
                                      : FASTLOAD_RECORD_MOST_NS;
    record->func = config->func;
    record->opaque = config->opaque;
    record->snapshot_digest = record_digest(fl);
    return true;
}

/* ---- recording ---- */

/* Threads may come with their times in any order. */
static void record_is_not_quiet(FastloadRecord *record, uint64_t now_ns)
{
    uint64_t last_ns = __atomic_load_n(&record->last_ns, __ATOMIC_RELAXED);

    while (last_ns < now_ns &&
           !__atomic_compare_exchange_n(&record->last_ns, &last_ns, now_ns,
                                        true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
}

void fastload_record_touch(Fastload *fl, FastloadArea *area,
                           uint64_t page_idx, uint64_t now_ns)
{
    FastloadRecord *record = &fl->record;
    uint64_t at;

    if (fastload_bit_test_and_set(area->touched, page_idx)) {
        return;
    }
    at = __atomic_fetch_add(&record->touch_count, 1, __ATOMIC_RELAXED);
    if (at < FASTLOAD_TOUCH_COUNT_MAX) {
        __atomic_store_n(&record->touches[at], RECORD_TOUCH_VALID |
                         (uint64_t)area->idx << RECORD_TOUCH_AREA_SHIFT |
                         page_idx, __ATOMIC_RELAXED);
        __atomic_fetch_add(&record->touched_bytes, area->page_bytes,
                           __ATOMIC_RELAXED);
        record_is_not_quiet(record, now_ns);
    }
}

/* When the times of the recording began; 0: the guest does not run yet. */
static uint64_t record_base_ns(const FastloadRecord *record)
{
    return record->awaits_guest
        ? __atomic_load_n(&record->guest_ns, __ATOMIC_RELAXED)
        : record->begin_ns;
}

bool fastload_record_awaits_guest(const Fastload *fl)
{
    return fl->record.awaits_guest &&
           !__atomic_load_n(&fl->record.guest_ns, __ATOMIC_RELAXED);
}

void fastload_record_answered(Fastload *fl, uint64_t now_ns)
{
    record_is_not_quiet(&fl->record, now_ns);
}

uint64_t fastload_record_due_ns(const FastloadRecord *record,
                                bool is_waited_for)
{
    uint64_t base_ns, last_ns, due_ns;

    if (!__atomic_load_n(&record->is_on, __ATOMIC_ACQUIRE)) {
        return 0;
    }
    if (__atomic_load_n(&record->touch_count, __ATOMIC_RELAXED) >=
        FASTLOAD_TOUCH_COUNT_MAX) {
        return 1; /* touches is full: over at once */
    }
    base_ns = record_base_ns(record);
    if (!base_ns) {
        return record->begin_ns + MAX(record->most_ns,
                                      FASTLOAD_RECORD_AWAIT_NS);
    }
    last_ns = MAX(__atomic_load_n(&record->last_ns, __ATOMIC_RELAXED),
                  base_ns);
    /* A thread that waits for one page cannot touch another. */
    due_ns = is_waited_for ? UINT64_MAX
                           : MAX(base_ns + record->least_ns,
                                 last_ns + record->quiet_ns);
    return MIN(due_ns, base_ns + record->most_ns);
}

static bool record_is_worth_writing(const FastloadRecord *record)
{
    return record_base_ns(record) &&
           __atomic_load_n(&record->touch_count, __ATOMIC_RELAXED);
}

bool fastload_record_end(Fastload *fl, uint64_t now_ns)
{
    FastloadRecord *record = &fl->record;

    if (!__atomic_exchange_n(&record->is_on, 0, __ATOMIC_ACQ_REL)) {
        return false;
    }
    g_mutex_lock(&record->lock);
    record->took_ns = now_ns - record->begin_ns;
    record_move_locked(record, record_is_worth_writing(record)
                       ? FASTLOAD_WORKSET_WRITING : FASTLOAD_WORKSET_FAILED);
    g_mutex_unlock(&record->lock);
    return true;
}

/* ---- writing ---- */

/* A block of the file for each area that was touched. */
static void record_make_blocks(const Fastload *fl, FastloadWorkset *set,
                               const uint16_t *block_nos)
{
    guint a;

    set->blocks = g_new0(FastloadWorksetBlock, set->block_count);
    for (a = 0; a < fl->areas->len; a++) {
        const FastloadArea *area = g_ptr_array_index(fl->areas, a);
        FastloadWorksetBlock *block;
        uint32_t i;

        if (!block_nos[a]) {
            continue;
        }
        block = &set->blocks[block_nos[a] - 1];
        block->len_bytes = area->len_bytes;
        block->stream_off = area->file_off - fl->config.stream_off;
        g_strlcpy(block->label, area->label, sizeof(block->label));
        for (i = 0; block->label[i]; i++) {
            if (!g_ascii_isprint(block->label[i])) {
                block->label[i] = '?'; /* labels are only for people */
            }
        }
    }
}

static FastloadWorkset *record_make_set(const Fastload *fl)
{
    const FastloadRecord *record = &fl->record;
    FastloadWorkset *set = g_new0(FastloadWorkset, 1);
    uint64_t touch_count = __atomic_load_n(&record->touch_count,
                                           __ATOMIC_ACQUIRE);
    g_autofree uint16_t *block_nos = g_new0(uint16_t, fl->areas->len);
    uint64_t i;

    set->snapshot_digest = record->snapshot_digest;
    set->took_ns = record->took_ns;
    set->is_cut = touch_count >= FASTLOAD_TOUCH_COUNT_MAX;
    touch_count = MIN(touch_count, FASTLOAD_TOUCH_COUNT_MAX);
    set->runs = g_new(FastloadWorksetRun, touch_count);
    for (i = 0; i < touch_count; i++) {
        uint64_t touch = __atomic_load_n(&record->touches[i],
                                         __ATOMIC_RELAXED);
        uint32_t area_idx = (touch & ~RECORD_TOUCH_VALID) >>
                            RECORD_TOUCH_AREA_SHIFT;
        const FastloadArea *area = g_ptr_array_index(fl->areas, area_idx);
        uint32_t shift = area->page_shift -
                         __builtin_ctz(FASTLOAD_WORKSET_PAGE_BYTES);

        if (!(touch & RECORD_TOUCH_VALID)) {
            continue; /* counted, but not stored when the recording ended */
        }
        if (!block_nos[area_idx]) {
            block_nos[area_idx] = ++set->block_count;
        }
        set->runs[set->run_count++] = (FastloadWorksetRun) {
            .first_page = (touch & RECORD_TOUCH_PAGE_MASK) << shift,
            .page_count = 1u << shift,
            .block_idx = block_nos[area_idx] - 1,
            .seen_count = 1,
        };
        set->page_count += 1u << shift;
    }
    record_make_blocks(fl, set, block_nos);
    fastload_workset_join(set);
    return set;
}

/* Creates a temporary file in @path's folder; -1: errno says why not. */
static int record_create(const char *path, char **ret_temp_path)
{
    uint32_t i;
    int fd;

    for (i = 0; i < RECORD_NAME_TRIES_MAX; i++) {
        g_autofree char *temp_path = g_strdup_printf("%s.%08x.tmp", path,
                                                     g_random_int());

        fd = open(temp_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            *ret_temp_path = g_steal_pointer(&temp_path);
            return fd;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    return -1;
}

/* Returns 0 when the bytes are on the disk, or a positive errno. */
static int record_write_all(int fd, const uint8_t *bytes, size_t len_bytes)
{
    size_t at = 0;

    while (at < len_bytes) {
        ssize_t put = write(fd, bytes + at, len_bytes - at);

        if (put < 0 && errno != EINTR) {
            return errno;
        }
        at += MAX(put, 0);
    }
    return fsync(fd) < 0 ? errno : 0;
}

/* Puts the new name on the disk as well; if that fails, the file is whole. */
static void record_sync_folder(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

static bool record_write_file(const char *path, const uint8_t *bytes,
                              size_t len_bytes, GError **error)
{
    g_autofree char *temp_path = NULL;
    int fd = record_create(path, &temp_path);
    int error_number = fd < 0 ? errno : record_write_all(fd, bytes,
                                                         len_bytes);

    if (fd >= 0) {
        /* Some file systems report a full disk only in close(). */
        if (close(fd) < 0 && !error_number) {
            error_number = errno;
        }
        if (!error_number && rename(temp_path, path) < 0) {
            error_number = errno;
        }
        if (error_number) {
            unlink(temp_path);
        }
    }
    if (error_number) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "the working set \"%s\" cannot be written: %s", path,
                    g_strerror(error_number));
        return false;
    }
    record_sync_folder(path);
    return true;
}

static bool record_write(Fastload *fl, GError **error)
{
    FastloadRecord *record = &fl->record;
    g_autoptr(FastloadWorkset) set = record_make_set(fl);
    g_autofree uint8_t *bytes = NULL;
    size_t len_bytes;

    if (!set->run_count) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "the working set \"%s\" is not written: nothing was "
                    "touched", record->path);
        return false;
    }
    bytes = fastload_workset_format(set, &len_bytes);
    if (!record_write_file(record->path, bytes, len_bytes, error)) {
        return false;
    }
    g_mutex_lock(&record->lock);
    record->page_count = set->page_count;
    record->run_count = set->run_count;
    g_mutex_unlock(&record->lock);
    return true;
}

static void record_explain(const FastloadRecord *record, GError **error)
{
    bool has_base = record_base_ns(record);

    g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                "the working set \"%s\" is not written: %s", record->path,
                has_base ? "nothing was touched" : "the guest did not run");
}

static void *record_writer_main(void *opaque)
{
    Fastload *fl = opaque;
    FastloadRecord *record = &fl->record;
    FastloadWorksetStats stats;
    GError *error = NULL;
    bool is_written;

    g_mutex_lock(&record->lock);
    while (record->state == FASTLOAD_WORKSET_RECORDING) {
        g_cond_wait(&record->cond, &record->lock);
    }
    if (record->state == FASTLOAD_WORKSET_FAILED) {
        record_explain(record, &error);
    } else {
        g_mutex_unlock(&record->lock);
        is_written = record_write(fl, &error);
        g_mutex_lock(&record->lock);
        record_move_locked(record, is_written ? FASTLOAD_WORKSET_WRITTEN
                                              : FASTLOAD_WORKSET_FAILED);
    }
    g_mutex_unlock(&record->lock);
    fastload_record_stats(fl, &stats);
    if (record->func) {
        record->func(&stats, error, record->opaque);
    }
    g_clear_error(&error);
    return NULL;
}

void fastload_record_start(Fastload *fl, FastloadThreadFunc *thread_of)
{
    FastloadRecord *record = &fl->record;
    g_autoptr(GError) cause = NULL;
    guint a;

    if (!record->path) {
        return;
    }
    for (a = 0; a < fl->areas->len; a++) {
        FastloadArea *area = g_ptr_array_index(fl->areas, a);

        if (area->is_trapped) {
            area->touched = g_new0(uint64_t,
                                   FASTLOAD_BIT_WORDS(area->page_count));
        }
    }
    /* Takes memory as far as it is used. */
    record->touches = g_new0(uint64_t, FASTLOAD_TOUCH_COUNT_MAX);
    record->begin_ns = fl->start_ns;
    g_mutex_lock(&record->lock);
    record_move_locked(record, FASTLOAD_WORKSET_RECORDING);
    g_mutex_unlock(&record->lock);
    record->writer = thread_of("fastload-record", record_writer_main, fl,
                               &cause);
    if (record->writer) {
        __atomic_store_n(&record->is_on, 1, __ATOMIC_RELEASE);
        return;
    }
    g_mutex_lock(&record->lock);
    record_move_locked(record, FASTLOAD_WORKSET_FAILED);
    g_mutex_unlock(&record->lock);
    if (record->func) {
        FastloadWorksetStats stats;
        GError *error = NULL;

        fastload_record_stats(fl, &stats);
        g_set_error(&error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "no working set is recorded: cannot create a thread: %s",
                    cause->message);
        record->func(&stats, error, record->opaque);
        g_error_free(error);
    }
}

void fastload_record_finish(Fastload *fl)
{
    if (fl->record.writer) {
        fastload_record_end(fl, fastload_stats_now_ns());
        g_thread_join(fl->record.writer);
        fl->record.writer = NULL;
    }
}

void fastload_record_stats(Fastload *fl, FastloadWorksetStats *ret_stats)
{
    FastloadRecord *record = &fl->record;
    uint64_t touched_bytes = __atomic_load_n(&record->touched_bytes,
                                             __ATOMIC_RELAXED);

    g_mutex_lock(&record->lock);
    *ret_stats = (FastloadWorksetStats) {
        .state = record->state,
        .page_count = record->run_count
            ? record->page_count
            : touched_bytes / FASTLOAD_WORKSET_PAGE_BYTES,
        .run_count = record->run_count,
        .took_ns = record->took_ns,
    };
    g_mutex_unlock(&record->lock);
}
