/*
 * Fast load of a mapped-ram snapshot: the adapter between QEMU and the engine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The only file that knows both worlds.  RAM blocks and their bitmaps go in;
 * migration states, statistics and errors come out.  The life of a load:
 *
 *   prepare        migrate-incoming: can it be done at all?  opens the file
 *   load_block     each RAM block of the stream: check, empty, hand over
 *   start          all blocks known: trapped from here on, so that devices
 *                  that read guest RAM while they load find it
 *   loaded         stream at its end: postcopy-active, the guest may run
 *   finish         nothing is missing any more: completed
 *   settled        the engine is through: all resources returned
 *
 * A read error seen before "loaded" fails the migration; the guest has not
 * run, so the engine may let go of whoever waits.  After it the load goes to
 * postcopy-paused and back by itself when reads succeed; when the file has
 * changed, by migrate-recover.
 */
#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-fastload.h"
#include "qapi/qapi-visit-fastload.h"
#include "qemu/error-report.h"
#include "qemu/fastload.h"
#include "qemu/fastload_header.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "exec/target_page.h"
#include "hw/core/cpu.h"
#include "hw/mem/memory-device.h"
#include "hw/qdev-core.h"
#include "io/channel-file.h"
#include "migration/misc.h"
#include "monitor/monitor.h"
#include "net/net.h"
#include "qobject/qdict.h"
#include "qom/object.h"
#include "system/runstate.h"
#include "system/system.h"
#include "fastload.h"
#include "fastload-base.h"
#include "migration.h"
#include "options.h"
#include "postcopy-ram.h"
#include "qemu-file.h"
#include "ram.h"

/* How long quitting waits for vCPUs that wait for pages: failing, or not. */
#define FAST_LOAD_STOP_FAILING_US (1 * 1000 * 1000)
#define FAST_LOAD_STOP_US (10 * 1000 * 1000)
#define FAST_LOAD_STOP_POLL_US 2000
/*
 * And when it gives up: the main loop does not hear of it, or it does, and has
 * disks to drain and flush.
 */
#define FAST_LOAD_EXIT_US (10 * 1000 * 1000)
#define FAST_LOAD_CLEANUP_US (60 * 1000 * 1000)
#define FAST_LOAD_WATCH_MS 100

/* A block that is being loaded. */
typedef struct FastLoadTarget {
    RAMBlock *block;
    uint8_t *host;
    uint64_t length;
    /* what a copy of the file is known by */
    FastloadHeader header;
    uint64_t *bitmap;
    size_t bitmap_bytes;
} FastLoadTarget;

typedef struct FastLoad {
    /* BQL */
    bool is_reading;         /* the stream of RAM blocks and devices */
    uint64_t block_end;      /* where the last block of it ends */
    QIOChannelFile *ioc;     /* what the engine reads from */
    int64_t begin_ns;
    uint64_t run_us;
    bool is_listening;       /* fast_load_listener is registered */
    bool is_unlocked;        /* -mem-lock does not hold now */
    Error *block_error;      /* why load_block or start failed */
    GArray *targets;         /* of FastLoadTarget; constant after start */
    GThread *watcher;        /* so that QEMU can be ended */

    /* BQL and lock to write, either to read: commands out of band have one */
    char *filename;
    uint64_t file_off;       /* where the stream begins */
    uint64_t file_bytes;
    int open_flags;
    Fastload *engine;
    FastLoadStats *last;     /* of a load that is over */

    /* lock: what engine threads and the main loop share */
    QemuMutex lock;
    bool guest_may_run;
    bool is_failed;          /* cancelled because of failure below */
    FastloadFailure failure;
    bool is_ended;           /* nothing is missing any more */
    bool is_settled;         /* the engine is through */
    uint64_t complete_us;
    bool may_finish;         /* defer_completion was called */
    bool is_quitting;        /* migration_fastload_shutdown() was called */
    bool is_recovering;      /* somebody uses engine without the lock */
    QemuCond watch_cond;     /* engine is gone */

    /* atomic */
    bool is_active;          /* pages may be missing */
} FastLoad;

static FastLoad fast_load;

static void __attribute__((constructor)) fast_load_init(void)
{
    qemu_mutex_init(&fast_load.lock);
    qemu_cond_init(&fast_load.watch_cond);
}

static uint8_t fast_load_threads(void)
{
    return migrate_get_current()->parameters.x_fast_load_threads;
}

static int fast_load_find_vhost_user(Object *obj, void *opaque)
{
    return strstr(object_get_typename(obj), "vhost-user") != NULL;
}

/* virtio-gpu pins blobs by the memory's descriptor, past the page tables. */
static int fast_load_find_blob(Object *obj, void *opaque)
{
    return object_dynamic_cast(obj, TYPE_DEVICE) &&
           object_property_find(obj, "blob") &&
           object_property_get_bool(obj, "blob", NULL);
}

static void fast_load_find_vhost_user_nic(NICState *nic, void *opaque)
{
    NetClientState *peer = nic->ncs->peer;

    if (peer && peer->info->type == NET_CLIENT_DRIVER_VHOST_USER) {
        *(bool *)opaque = true;
    }
}

/* Does such a device reach all memory by itself, or pin it? */
static bool fast_load_needs_all(const char *driver, const NetClientState *peer)
{
    return (driver && (strstr(driver, "vhost-user") ||
                       strstr(driver, "vhost-vdpa") ||
                       g_str_has_prefix(driver, "vfio-"))) ||
           (peer && (peer->info->type == NET_CLIENT_DRIVER_VHOST_USER ||
                     peer->info->type == NET_CLIENT_DRIVER_VHOST_VDPA));
}

/* Whatever is not plainly "off", as JSON or as text. */
static bool fast_load_wants_blob(const QDict *opts)
{
    const char *text = qdict_get_try_str(opts, "blob");

    return text ? strcmp(text, "off") != 0
                : qdict_get_try_bool(opts, "blob", false);
}

/* What fast_load_check_devices() refuses, plugged while pages are missing. */
static bool fast_load_hide_device(DeviceListener *listener,
                                  const QDict *opts, bool from_json,
                                  Error **errp)
{
    const char *driver = qdict_get_try_str(opts, "driver");
    const char *netdev = qdict_get_try_str(opts, "netdev");
    NetClientState *peer = netdev ? qemu_find_netdev(netdev) : NULL;

    if (fast_load_wants_blob(opts) || fast_load_needs_all(driver, peer)) {
        error_setg(errp, "%s cannot be plugged while fast load is under way, "
                   "it needs all memory at once: wait until the migration is "
                   "completed", driver);
    } else if (object_child_foreach_recursive(object_get_root(),
                                              fast_load_find_vhost_user,
                                              NULL)) {
        /* A device may use it, whatever its own name is. */
        error_setg(errp, "%s cannot be plugged while fast load is under way "
                   "and there is a vhost-user object: remove that, or wait "
                   "until the migration is completed", driver);
    }
    return false;
}

static DeviceListener fast_load_listener = {
    .hide_device = fast_load_hide_device,
};

/* Memory that others reach without our page tables cannot be trapped here. */
static bool fast_load_check_devices(Error **errp)
{
    bool has_vhost_user =
        object_child_foreach_recursive(object_get_root(),
                                       fast_load_find_vhost_user, NULL);

    qemu_foreach_nic(fast_load_find_vhost_user_nic, &has_vhost_user);
    if (has_vhost_user) {
        error_setg(errp, "x-fast-load-threads cannot be used with vhost-user: "
                   "its process reads guest memory by itself; remove the "
                   "device or set x-fast-load-threads to 0");
        return false;
    }
    if (object_child_foreach_recursive(object_get_root(), fast_load_find_blob,
                                       NULL)) {
        error_setg(errp, "x-fast-load-threads cannot be used with blobs of "
                   "virtio-gpu, which pin guest memory: set blob=off on the "
                   "device or x-fast-load-threads to 0");
        return false;
    }
    if (ram_block_discard_is_disabled()) {
        error_setg(errp, "x-fast-load-threads cannot be used: a device has "
                   "pinned guest memory; remove it or set "
                   "x-fast-load-threads to 0");
        return false;
    }
    return true;
}

/* As the engine wants it: 0 for no limit, and never "off". */
static uint64_t fast_load_background_rate(void)
{
    return MIN(migrate_max_postcopy_bandwidth(), INT64_MAX);
}

static uint64_t fast_load_elapsed_us(const FastLoad *s)
{
    return (qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - s->begin_ns) / SCALE_US;
}

static int fast_load_open_flags(void)
{
#ifdef O_DIRECT
    if (migrate_get_current()->parameters.direct_io) {
        return O_RDONLY | O_DIRECT;
    }
#endif
    return O_RDONLY;
}

/* Opening a pipe would wait for somebody to write to it. */
static bool fast_load_check_kind(const struct stat *st, const char *filename,
                                 Error **errp)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)) {
        return true;
    }
    error_setg(errp, "'%s' is neither a file nor a block device: name a "
               "snapshot", filename);
    return false;
}

static bool fast_load_take_file(FastLoad *s, const FileMigrationArgs *file,
                                Error **errp)
{
    struct stat st;

    /* A name that only QEMU knows, such as /dev/fdset/1, passes. */
    if (stat(file->filename, &st) == 0 &&
        !fast_load_check_kind(&st, file->filename, errp)) {
        return false;
    }
    s->begin_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    /*
     * Now, as QEMU opens its own: later the name may mean something else, or
     * we may not open it any more (-daemonize, -run-with).  Where it cannot be
     * opened QEMU says so as well, or we do when we try again.
     */
    s->ioc = qio_channel_file_new_path(file->filename, fast_load_open_flags(),
                                       0, NULL);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->filename = g_strdup(file->filename);
        s->file_off = s->block_end = file->offset;
        s->open_flags = fast_load_open_flags();
    }
    return true;
}

bool migration_fastload_prepare(const MigrationAddress *addr, Error **errp)
{
    FastLoad *s = &fast_load;
    g_autoptr(GError) gerr = NULL;

    if (s->engine) {
        QEMU_LOCK_GUARD(&s->lock);
        error_setg(errp, "a fast load is under way: it goes on by itself "
                   "when '%s' can be read again", s->filename);
        return false;
    }
    migration_fastload_cleanup();
    if (!fast_load_threads()) {
        return true;
    }
    if (!migrate_mapped_ram()) {
        error_setg(errp, "x-fast-load-threads needs a file that was saved "
                   "with the capability 'mapped-ram', and the capability: "
                   "enable it, or set x-fast-load-threads to 0");
        return false;
    }
    /* What mapped-ram works with has been checked: files only. */
    assert(addr->transport == MIGRATION_ADDRESS_TYPE_FILE);
    if (migrate_colo()) {
        error_setg(errp, "x-fast-load-threads cannot be used with COLO: "
                   "switch one of them off");
        return false;
    }
    if (fastload_mode_keeps_memory()) {
        error_setg(errp, "x-fast-load-threads cannot be used with mode '%s': "
                   "set the migration parameter 'mode' to 'normal'",
                   MigMode_str(migrate_mode()));
        return false;
    }
    if (migrate_background_snapshot()) {
        error_setg(errp, "x-fast-load-threads cannot be used with the "
                   "capability 'background-snapshot': switch one of them off");
        return false;
    }
    if (migrate_tls()) {
        error_setg(errp, "x-fast-load-threads cannot be used with TLS, files "
                   "are not encrypted: switch mapped-ram off, set tls-creds to "
                   "the empty string, and switch mapped-ram on");
        return false;
    }
    if (!fast_load_check_devices(errp)) {
        return false;
    }
    if (!fastload_probe(&gerr)) {
        error_setg(errp, "x-fast-load-threads cannot be used: %s",
                   gerr->message);
        return false;
    }
    return fast_load_take_file(s, &addr->u.file, errp);
}

void migration_fastload_not_opened(Error *err)
{
    FastLoad *s = &fast_load;
    MigrationIncomingState *mis = migration_incoming_get_current();

    if (!s->filename) {
        return;
    }
    if (mis->state == MIGRATION_STATUS_SETUP) {
        migrate_set_error(migrate_get_current(), err);
        migrate_set_state(&mis->state, MIGRATION_STATUS_SETUP,
                          MIGRATION_STATUS_FAILED);
    }
    migration_fastload_cleanup();
}

void migration_fastload_begin(void)
{
    FastLoad *s = &fast_load;

    if (s->filename) {
        s->is_reading = true;
        device_listener_register(&fast_load_listener);
        s->is_listening = true;
    }
}

bool migration_fastload_is_armed(void)
{
    return fast_load.is_reading;
}

bool migration_fastload_is_active(void)
{
    return qatomic_read(&fast_load.is_active);
}

static bool fast_load_is_under_way(void)
{
    return fast_load.is_reading || migration_fastload_is_active();
}

/* Guest memory is what it was before: no page is missing, or nobody cares. */
static void fast_load_deactivate(FastLoad *s)
{
    if (s->is_unlocked && os_mlock(is_mlock_on_fault(mlock_state)) < 0) {
        warn_report("fast load: cannot lock guest memory again: %s",
                    strerror(errno));
    }
    s->is_unlocked = false;
    if (s->is_listening) {
        device_listener_unregister(&fast_load_listener);
        s->is_listening = false;
    }
    qatomic_set(&s->is_active, false);
}

static void fast_load_finish(FastLoad *s)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_PAUSED,
                      MIGRATION_STATUS_POSTCOPY_ACTIVE);
    fast_load_deactivate(s);
    migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_ACTIVE,
                      MIGRATION_STATUS_COMPLETED);
    migration_incoming_state_destroy();
}

/* All is there, the guest has its run state: what is due of the end. */
static void fast_load_end_bh(void *opaque)
{
    FastLoad *s = opaque;

    if (s->engine && migration_fastload_is_active()) {
        fast_load_finish(s);
    }
    /* Keeps the engine for as long as it has something to do. */
    migration_fastload_cleanup();
}

/* What a load that waits because of @failure waits for. */
static const char *fast_load_goes_on(const FastloadFailure *failure)
{
    return failure->kind == FASTLOAD_FAILURE_CHANGED
           ? "after migrate-recover with a copy of the snapshot as it was"
           : failure->kind == FASTLOAD_FAILURE_PLACE
           ? "when there is memory" : "when the file can be read again";
}

static Error *fast_load_read_error(const FastloadFailure *failure)
{
    Error *err = NULL;

    error_setg(&err, "cannot %s '%s' at offset %" PRIu64 ": %s",
               failure->kind == FASTLOAD_FAILURE_PLACE ? "make memory for what "
               "was read from" : "read", fast_load.filename,
               failure->file_off, fastload_failure_cause(failure));
    return err;
}

/*
 * Was QEMU told to end?  The main thread may be in the kernel, waiting for a
 * page: then a signal is pending for as long as that takes; no handler runs.
 */
static bool fast_load_must_end(const FastLoad *s)
{
    ShutdownCause cause = qemu_shutdown_requested_get();
    sigset_t pending;

    return s->is_quitting || cause == SHUTDOWN_CAUSE_HOST_SIGNAL ||
           cause == SHUTDOWN_CAUSE_HOST_QMP_QUIT ||
           (sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) ||
                                          sigismember(&pending, SIGINT) ||
                                          sigismember(&pending, SIGHUP)));
}

/*
 * While pages do not come, the thread that ends QEMU may wait for one: with the
 * BQL, in the kernel, or for a disk's request to be done.  When QEMU was told
 * to end, does not, and nothing is loaded meanwhile, this ends it: what waits
 * for such a page cannot be saved.  Lives as long as the load.
 */
static void *fast_load_watch(void *opaque)
{
    FastLoad *s = opaque;
    uint64_t remaining_bytes = 0;
    int64_t waited_us = 0;

    qemu_mutex_lock(&s->lock);
    while (s->engine && waited_us < (s->is_quitting ? FAST_LOAD_CLEANUP_US
                                                    : FAST_LOAD_EXIT_US)) {
        FastloadFailure failure;
        FastloadStats stats;
        bool is_stuck;

        qemu_cond_timedwait(&s->watch_cond, &s->lock, FAST_LOAD_WATCH_MS);
        if (!s->engine) {
            break;
        }
        fastload_get_stats(s->engine, &stats);
        is_stuck = stats.remaining_bytes &&
                   (fastload_is_failing(s->engine, &failure) ||
                    stats.remaining_bytes == remaining_bytes);
        remaining_bytes = stats.remaining_bytes;
        waited_us = is_stuck && fast_load_must_end(s)
            ? waited_us + FAST_LOAD_WATCH_MS * SCALE_MS / SCALE_US : 0;
    }
    if (s->engine) {
        error_report("fast load: QEMU cannot end in good order, it waits for "
                     "pages that cannot be read; ending at once");
        _exit(EXIT_FAILURE);
    }
    qemu_mutex_unlock(&s->lock);
    return NULL;
}

static void fast_load_stalled(FastLoad *s, const FastloadFailure *failure)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    g_autoptr(Error) err = fast_load_read_error(failure);

    if (!s->guest_may_run) {
        /* Not freed: whoever does that waits for this to return. */
        s->is_failed = true;
        s->failure = *failure;
        fastload_cancel(s->engine);
        return;
    }
    /* The monitor may not answer now: the main loop can wait for a page too */
    warn_report("fast load: %s; the guest waits, and goes on %s",
                error_get_pretty(err), fast_load_goes_on(failure));
    migrate_set_error(migrate_get_current(), err);
    migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_ACTIVE,
                      MIGRATION_STATUS_POSTCOPY_PAUSED);
}

static void fast_load_resumed(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    MigrationState *ms = migrate_get_current();

    migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_PAUSED,
                      MIGRATION_STATUS_POSTCOPY_ACTIVE);
    QEMU_LOCK_GUARD(&ms->error_mutex);
    error_free(ms->error);
    ms->error = NULL;
}

/* On an engine thread, without the BQL. */
static void fast_load_event(FastloadEvent event,
                            const FastloadFailure *failure, void *opaque)
{
    FastLoad *s = opaque;

    QEMU_LOCK_GUARD(&s->lock);
    if (!s->engine) {
        return; /* being freed */
    }
    switch (event) {
    case FASTLOAD_EVENT_STALLED:
        fast_load_stalled(s, failure);
        break;
    case FASTLOAD_EVENT_RESUMED:
        fast_load_resumed();
        break;
    case FASTLOAD_EVENT_COMPLETED:
        s->is_ended = true;
        s->complete_us = fast_load_elapsed_us(s);
        if (s->may_finish) {
            migration_bh_schedule(fast_load_end_bh, s);
        }
        break;
    case FASTLOAD_EVENT_SETTLED:
        s->is_settled = true;
        if (s->may_finish) {
            migration_bh_schedule(fast_load_end_bh, s);
        }
        break;
    case FASTLOAD_EVENT_CANCELLED:
        break;
    }
}

/* Engine threads must not look through QEMU's list: it is under RCU. */
static RAMBlock *fast_load_block_at(const FastLoad *s, const uint8_t *hva)
{
    guint i;

    for (i = 0; i < s->targets->len; i++) {
        FastLoadTarget *t = &g_array_index(s->targets, FastLoadTarget, i);

        if (hva >= t->host && hva < t->host + t->length) {
            return t->block;
        }
    }
    g_assert_not_reached();
}

/*
 * postcopy-blocktime, kept as in network postcopy: whatever comes first of
 * fault and page, the bitmap of received pages tells, under this lock.
 */
static void fast_load_page_wanted(void *hva, uint32_t tid, void *opaque)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    RAMBlock *block = fast_load_block_at(opaque, hva);

    QEMU_LOCK_GUARD(&mis->page_request_mutex);
    if (!ramblock_recv_bitmap_test(block, hva)) {
        mark_postcopy_blocktime_begin((uintptr_t)hva, tid, block);
    }
}

static void fast_load_pages_placed(void *hva, uint64_t len_bytes,
                                   FastloadClass class, bool has_data,
                                   void *opaque)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    RAMBlock *block = fast_load_block_at(opaque, hva);
    uint8_t *page = hva;

    QEMU_LOCK_GUARD(&mis->page_request_mutex);
    ramblock_recv_bitmap_set_range(block, hva,
                                   len_bytes / qemu_target_page_size());
    for (; page < (uint8_t *)hva + len_bytes; page += block->page_size) {
        mark_postcopy_blocktime_end((uintptr_t)page);
    }
}

/* The device state is read through @f: it must be the same snapshot. */
static bool fast_load_is_same_file(FastLoad *s, QEMUFile *f)
{
    QIOChannel *ioc = qemu_file_get_ioc(f);
    struct stat ours, theirs;

    return fstat(s->ioc->fd, &ours) == 0 &&
           fstat(QIO_CHANNEL_FILE(ioc)->fd, &theirs) == 0 &&
           ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino &&
           ours.st_rdev == theirs.st_rdev;
}

static void fast_load_clear_target(void *opaque)
{
    FastLoadTarget *target = opaque;

    g_free(target->bitmap);
}

static bool fast_load_open(FastLoad *s, QEMUFile *f, Error **errp)
{
    FastloadConfig config = {
        .worker_count = fast_load_threads(),
        .background_bytes_per_s = fast_load_background_rate(),
        .event_func = fast_load_event,
        .event_opaque = s,
    };
    MigrationIncomingState *mis = migration_incoming_get_current();
    g_autoptr(GError) gerr = NULL;
    Fastload *engine;
    off_t end;

    /* Again: one may have been plugged before the listener was there. */
    if (!fast_load_check_devices(errp)) {
        return false;
    }
    if (migrate_postcopy_blocktime()) {
        config.fault_func = fast_load_page_wanted;
        config.placed_func = fast_load_pages_placed;
        config.fault_opaque = config.placed_opaque = s;
        mis->blocktime_ctx = mis->blocktime_ctx ?: blocktime_context_new();
    }

    if (!s->ioc) {
        s->ioc = qio_channel_file_new_path(s->filename, s->open_flags, 0,
                                           errp);
    }
    if (!s->ioc) {
        return false;
    }
    if (!fast_load_is_same_file(s, f)) {
        error_setg(errp, "'%s' was replaced while it was opened: try again",
                   s->filename);
        return false;
    }
    end = lseek(s->ioc->fd, 0, SEEK_END);
    if (end < 0) {
        error_setg_errno(errp, errno, "cannot find the size of '%s'",
                         s->filename);
        return false;
    }
    s->targets = g_array_new(false, false, sizeof(FastLoadTarget));
    g_array_set_clear_func(s->targets, fast_load_clear_target);
    engine = fastload_new(s->ioc->fd, &config, &gerr);
    if (!engine) {
        error_setg(errp, "cannot start fast load: %s", gerr->message);
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->file_bytes = end;
        s->engine = engine;
    }
    /* The engine's events may outlast migration_shutdown(). */
    object_ref(OBJECT(migrate_get_current()));
    if (should_mlock(mlock_state) && munlockall()) {
        /* Locked memory cannot be emptied; it is locked again at the end. */
        error_setg_errno(errp, errno, "cannot unlock guest memory");
        return false;
    }
    s->is_unlocked = should_mlock(mlock_state);
    return true;
}

/* Every number in the file is a stranger's. */
static bool fast_load_check_header(FastLoad *s, const RAMBlock *block,
                                   const FastloadHeader *header,
                                   uint64_t length, Error **errp)
{
    uint64_t page_size = qemu_target_page_size();

    if (length != block->used_length) {
        error_setg(errp, "'%s' has %" PRIu64 " bytes for the RAM block '%s', "
                   "this machine has %" PRIu64 ": start QEMU with the machine "
                   "and memory size that were saved", s->filename,
                   length, block->idstr, (uint64_t)block->used_length);
        return false;
    }
    switch (fastload_header_check(header, length, page_size, s->block_end,
                                  s->file_bytes)) {
    case FASTLOAD_HEADER_SOUND:
        return true;
    case FASTLOAD_HEADER_BAD_VERSION:
        error_setg(errp, "'%s' has version %u of the mapped-ram header in the "
                   "RAM block '%s', this QEMU knows version %d", s->filename,
                   header->version, block->idstr, FASTLOAD_HEADER_VERSION);
        break;
    case FASTLOAD_HEADER_BAD_PAGE_BYTES:
        error_setg(errp, "'%s' has page size %" PRIu64 " in the RAM block "
                   "'%s', this machine has %" PRIu64, s->filename,
                   header->page_bytes, block->idstr, page_size);
        break;
    case FASTLOAD_HEADER_BITMAP_CUT:
        error_setg(errp, "'%s' is truncated or damaged: the bitmap of the RAM "
                   "block '%s' lies past its end", s->filename, block->idstr);
        break;
    case FASTLOAD_HEADER_PAGES_CUT:
        error_setg(errp, "'%s' is truncated or damaged: the pages of the RAM "
                   "block '%s' begin at %" PRIu64 " and take %" PRIu64
                   " bytes, the file ends at %" PRIu64, s->filename,
                   block->idstr, header->pages_off, length, s->file_bytes);
        break;
    case FASTLOAD_HEADER_BITMAP_TOO_EARLY:
    case FASTLOAD_HEADER_PAGES_TOO_EARLY:
    case FASTLOAD_HEADER_PAGES_UNALIGNED:
        error_setg(errp, "'%s' is damaged: bitmap and pages of the RAM block "
                   "'%s' have no valid place in it (%" PRIu64 ", %" PRIu64
                   ")", s->filename, block->idstr, header->bitmap_off,
                   header->pages_off);
        break;
    }
    return false;
}

/*
 * Did QEMU make the file of this private mapping for itself?  Then it may be
 * emptied; a user's file, or one that others may map too, may not.
 */
static bool fast_load_made_file(const RAMBlock *block)
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

/* Returns whether the block is empty now, and so can be trapped. */
static bool fast_load_empty_block(RAMBlock *block)
{
    if (block->used_length % block->page_size) {
        return false;
    }
    if (block->fd < 0 || qemu_ram_is_shared(block)) {
        return ram_block_discard_range(block, 0, block->used_length) == 0;
    }
    /* The same, without QEMU's warning that others may use the file. */
    return fast_load_made_file(block) &&
           fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     block->fd_offset, block->used_length) == 0 &&
           madvise(block->host, block->used_length, MADV_DONTNEED) == 0;
}

static bool fast_load_is_preallocated(const RAMBlock *block)
{
    Object *owner = memory_region_owner(block->mr);

    return owner && object_property_get_bool(owner, "prealloc", NULL);
}

/* What nothing has to be put into may be read-only. */
static bool fast_load_check_writable(const RAMBlock *block,
                                     const uint64_t *bitmap,
                                     uint64_t page_count, Error **errp)
{
    if ((block->flags & (RAM_READONLY | RAM_READONLY_FD)) &&
        find_first_bit((const unsigned long *)bitmap, page_count) <
        page_count) {
        error_setg(errp, "the RAM block '%s' is read-only and cannot be "
                   "loaded: set x-fast-load-threads to 0, or make its "
                   "memory-backend-file writable", block->idstr);
        return false;
    }
    return true;
}

static bool fast_load_add_block(FastLoad *s, QEMUFile *f, RAMBlock *block,
                                const FastloadHeader *header, uint64_t length,
                                Error **errp)
{
    uint64_t target_page = qemu_target_page_size();
    size_t bitmap_bytes = fastload_header_bitmap_bytes(length, target_page);
    g_autofree uint64_t *bitmap = NULL;
    g_autoptr(GError) gerr = NULL;
    FastLoadTarget target = {
        .block = block,
        .host = block->host,
        .header = *header,
        .bitmap_bytes = bitmap_bytes,
    };
    FastloadRegion region;
    bool is_trappable;

    if (target_page < FASTLOAD_PAGE_BYTES_MIN) {
        error_setg(errp, "x-fast-load-threads needs guests with pages of %d "
                   "bytes at least: set it to 0", FASTLOAD_PAGE_BYTES_MIN);
        return false;
    }
    if (length != block->used_length && length <= block->max_length &&
        (block->flags & RAM_RESIZEABLE) &&
        qemu_ram_resize(block, length, errp) < 0) {
        return false;
    }
    if (!fast_load_check_header(s, block, header, length, errp)) {
        return false;
    }
    bitmap = g_malloc0(bitmap_bytes);
    if (qemu_get_buffer_at(f, (uint8_t *)bitmap, bitmap_bytes,
                           header->bitmap_off) != bitmap_bytes) {
        error_setg(errp, "cannot read the bitmap of the RAM block '%s' in "
                   "'%s'", block->idstr, s->filename);
        return false;
    }
    if (!fast_load_check_writable(block, bitmap, length / target_page, errp)) {
        return false;
    }
    is_trappable = fast_load_empty_block(block);
    target.length = block->used_length;
    region = (FastloadRegion) {
        .hva = block->host,
        .len_bytes = block->used_length,
        .file_off = header->pages_off,
        .page_bytes = is_trappable ? block->page_size : target_page,
        .is_eager = !is_trappable,
        .data_bits = bitmap,
        .granule_bytes = target_page,
        /* QEMU advises huge pages for all RAM; only this kind can move. */
        .wants_huge = is_trappable && block->fd < 0 &&
                      !qemu_ram_is_shared(block),
        .wants_populated = fast_load_is_preallocated(block),
    };
    /* Whoever unplugs it: block and mapping stay until the load is over. */
    memory_region_ref(block->mr);
    target.bitmap = g_steal_pointer(&bitmap);
    g_array_append_val(s->targets, target);
    if (!fastload_add_region(s->engine, &region, &gerr)) {
        error_setg(errp, "cannot load the RAM block '%s' from '%s': %s",
                   block->idstr, s->filename, gerr->message);
        return false;
    }
    return true;
}

static int fast_load_listed_twice(FastLoad *s)
{
    error_setg(&s->block_error, "'%s' is damaged: it lists the RAM blocks a "
               "second time", s->filename);
    return -EINVAL;
}

int migration_fastload_load_block(QEMUFile *f, RAMBlock *block,
                                  uint64_t length)
{
    FastLoad *s = &fast_load;
    uint8_t bytes[FASTLOAD_HEADER_BYTES] = { 0 };
    FastloadHeader header;
    int ret;

    if (migrate_ignore_shared()) {
        qemu_get_be64(f); /* where the block is in guest memory */
    }
    qemu_get_buffer(f, bytes, sizeof(bytes));
    fastload_header_parse(bytes, &header);
    ret = qemu_file_get_error(f);

    if (migration_fastload_is_active()) {
        return fast_load_listed_twice(s);
    }
    if (ret) {
        error_setg(&s->block_error, "'%s' ends in the header of the RAM block "
                   "'%s'", s->filename, block->idstr);
        return ret;
    }
    /* Ignored blocks (x-ignore-shared) keep what they have. */
    if (!migrate_ram_is_ignored(block) &&
        ((!s->engine && !fast_load_open(s, f, &s->block_error)) ||
         !fast_load_add_block(s, f, block, &header, length,
                              &s->block_error))) {
        return -EINVAL;
    }
    if (length > INT64_MAX || header.pages_off > INT64_MAX - length ||
        header.pages_off + length <= s->block_end) {
        error_setg(&s->block_error, "'%s' is damaged: the RAM block '%s' lies "
                   "before the one before it", s->filename, block->idstr);
        return -EINVAL;
    }
    s->block_end = header.pages_off + length;
    qemu_set_offset(f, s->block_end, SEEK_SET);
    return 0;
}

static bool fast_load_start_watch(FastLoad *s, GError **gerr)
{
    sigset_t all, old;

    /* It looks for signals that the main thread has not taken yet. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    s->watcher = g_thread_try_new("fastload-watch", fast_load_watch, s, gerr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    g_prefix_error(gerr, "cannot create a thread: ");
    return s->watcher;
}

int migration_fastload_start(void)
{
    FastLoad *s = &fast_load;
    g_autoptr(GError) gerr = NULL;
    FastloadStats stats;

    if (!s->engine || !s->is_reading) {
        return 0; /* another stream: an engine may be settling still */
    }
    if (migration_fastload_is_active()) {
        return fast_load_listed_twice(s);
    }
    qatomic_set(&s->is_active, true);
    if (!fastload_start(s->engine, &gerr) || !fast_load_start_watch(s, &gerr)) {
        error_setg(&s->block_error, "cannot start fast load of '%s': %s",
                   s->filename, gerr->message);
        return -EINVAL;
    }
    fastload_get_stats(s->engine, &stats);
    if (!strcmp(stats.io_name, "preadv")) {
        warn_report("fast load: io_uring is not permitted here, reading with "
                    "preadv");
    }
    return 0;
}

int migration_fastload_loaded(int ret, Error **errp)
{
    FastLoad *s = &fast_load;
    MigrationIncomingState *mis = migration_incoming_get_current();
    Error *err = NULL;

    s->is_reading = false;
    if (s->block_error) {
        err = g_steal_pointer(&s->block_error);
        ret = ret < 0 ? ret : -EINVAL;
    } else if (s->engine) {
        QEMU_LOCK_GUARD(&s->lock);
        s->is_failed = s->is_failed ||
                       fastload_is_failing(s->engine, &s->failure);
        if (s->is_failed) {
            fastload_cancel(s->engine);
            err = fast_load_read_error(&s->failure);
            ret = -s->failure.error_number;
        } else if (ret >= 0) {
            s->guest_may_run = true;
            s->run_us = fast_load_elapsed_us(s);
            migrate_set_state(&mis->state, MIGRATION_STATUS_ACTIVE,
                              MIGRATION_STATUS_POSTCOPY_ACTIVE);
        }
    }
    if (err) {
        if (errp) {
            error_free(*errp);
            *errp = NULL;
        }
        error_propagate(errp, err);
    }
    return ret;
}

bool migration_fastload_defer_completion(void)
{
    FastLoad *s = &fast_load;

    if (!s->engine) {
        return false;
    }
    QEMU_LOCK_GUARD(&s->lock);
    s->may_finish = true;
    if (s->is_ended) {
        migration_bh_schedule(fast_load_end_bh, s);
    }
    return true;
}

/* False, with what to do about it, while it is under way. */
static bool fast_load_is_over(const char *hint, Error **errp)
{
    if (fast_load_is_under_way()) {
        QEMU_LOCK_GUARD(&fast_load.lock);
        error_setg(errp, "'%s' is still being loaded: %s",
                   fast_load.filename, hint);
        return false;
    }
    return true;
}

bool migration_fastload_check_parameters(const MigrationParameters *params,
                                         Error **errp)
{
    if (!params->has_x_fast_load_threads) {
        return true;
    }
    if (params->x_fast_load_threads > FASTLOAD_WORKER_COUNT_MAX) {
        error_setg(errp, "Parameter 'x-fast-load-threads' expects a value "
                   "between 0 and %d", FASTLOAD_WORKER_COUNT_MAX);
        return false;
    }
    /* With tls-creds and mapped-ram no parameter can be changed any more. */
    return (params->x_fast_load_threads == fast_load_threads() &&
            params->multifd_channels == migrate_multifd_channels() &&
            !(params->tls_creds && *params->tls_creds)) ||
           fast_load_is_over("x-fast-load-threads, multifd-channels and "
                             "tls-creds cannot be changed before it is "
                             "completed", errp);
}

bool migration_fastload_check_capabilities(Error **errp)
{
    /* What ends the load would look for what others make at its begin. */
    return fast_load_is_over("capabilities cannot be changed before it is "
                             "completed", errp);
}

bool migration_fastload_check_outgoing(Error **errp)
{
    return fast_load_is_over(FASTLOAD_HINT_OUTGOING, errp);
}

bool migration_fastload_check_loadvm(Error **errp)
{
    return fast_load_is_over("wait until the migration is completed before "
                             "loading a snapshot; if the guest was stopped "
                             "for it, 'cont' lets it go on", errp);
}

bool migration_fastload_check_stop(Error **errp)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    Error *err = NULL;

    if (!migration_fastload_is_active() || !runstate_is_running() ||
        mis->state != MIGRATION_STATUS_POSTCOPY_PAUSED) {
        return true;
    }
    WITH_QEMU_LOCK_GUARD(&fast_load.lock) {
        error_setg(&err, "vCPUs that wait for pages of '%s' would not stop, "
                   "as they cannot be read: use migrate-recover first, or "
                   "wait until the load goes on", fast_load.filename);
    }
    if (errp) {
        error_propagate(errp, err);
    } else {
        error_report_err(err); /* the human monitor's stop does not ask */
    }
    return false;
}

bool migration_fastload_check_unplug(DeviceState *dev, Error **errp)
{
    if (migration_fastload_is_active() &&
        object_dynamic_cast(OBJECT(dev), TYPE_MEMORY_DEVICE)) {
        error_setg(errp, "memory cannot be unplugged while it is being "
                   "loaded: wait until the migration is completed");
        return false;
    }
    return true;
}

void migration_fastload_apply_parameters(void)
{
    FastLoad *s = &fast_load;

    if (s->engine) {
        fastload_set_background_rate(s->engine, fast_load_background_rate());
    }
}

static FastLoadStats *fast_load_stats_locked(FastLoad *s)
{
    FastLoadStats *info = g_new0(FastLoadStats, 1);
    FastloadFailure failure;
    FastloadStats stats;

    fastload_get_stats(s->engine, &stats);
    info->threads = stats.worker_count;
    info->read_backend = g_strdup(stats.io_name);
    info->total_bytes = stats.total_bytes;
    info->zero_bytes = stats.zero_bytes;
    info->urgent_bytes = stats.loaded_bytes[FASTLOAD_CLASS_URGENT];
    info->hint_bytes = stats.loaded_bytes[FASTLOAD_CLASS_HINT];
    info->background_bytes = stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND];
    info->remaining_bytes = stats.remaining_bytes;
    info->fault_count = stats.fault_count;
    info->fault_latency_p50_us = stats.fault_p50_ns / SCALE_US;
    info->fault_latency_p95_us = stats.fault_p95_ns / SCALE_US;
    info->fault_latency_p99_us = stats.fault_p99_ns / SCALE_US;
    info->fault_latency_max_us = stats.fault_max_ns / SCALE_US;
    info->retry_count = stats.retry_count;
    info->error_count = stats.io_error_count;
    info->has_time_to_run_us = s->run_us != 0;
    info->time_to_run_us = s->run_us;
    info->has_time_to_complete_us = s->is_ended;
    info->time_to_complete_us = s->complete_us;
    if (fastload_is_failing(s->engine, &failure)) {
        g_autoptr(Error) err = fast_load_read_error(&failure);

        /* One that fails before the guest runs does not go on. */
        info->error_desc = s->guest_may_run
            ? g_strdup_printf("%s; goes on %s", error_get_pretty(err),
                              fast_load_goes_on(&failure))
            : g_strdup(error_get_pretty(err));
    }
    return info;
}

FastLoadStats *migration_fastload_query(void)
{
    FastLoad *s = &fast_load;

    QEMU_LOCK_GUARD(&s->lock);
    if (s->engine) {
        return fast_load_stats_locked(s);
    }
    return s->last ? QAPI_CLONE(FastLoadStats, s->last) : NULL;
}

FastLoadStats *qmp_x_query_fast_load(Error **errp)
{
    FastLoadStats *stats = migration_fastload_query();

    if (!stats) {
        error_setg(errp, "nothing was loaded by fast load: set "
                   "x-fast-load-threads before migrate-incoming");
    }
    return stats;
}

/* Reads all of it, or says at which offset that failed. */
static bool fast_load_read_copy(int fd, const char *filename, void *buf,
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
static bool fast_load_check_copied_block(int fd, const char *filename,
                                         const FastLoadTarget *target,
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
    if (!fast_load_read_copy(fd, filename, bytes, sizeof(bytes),
                             header->bitmap_off - sizeof(bytes), errp) ||
        !fast_load_read_copy(fd, filename, bitmap, target->bitmap_bytes,
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
static bool fast_load_check_copy(int fd, const char *filename,
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
        if (!fast_load_check_copied_block(fd, filename,
                                          &g_array_index(targets,
                                                         FastLoadTarget, i),
                                          errp)) {
            return false;
        }
    }
    return true;
}

static bool fast_load_is_paused(const FastLoad *s, Error **errp)
{
    if (!s->engine || migration_incoming_get_current()->state !=
                      MIGRATION_STATUS_POSTCOPY_PAUSED) {
        error_setg(errp, "no fast load is paused: there is nothing to "
                   "recover");
        return false;
    }
    return true;
}

/* Opened as @flags say, and a file that can be waited for. */
static QIOChannelFile *fast_load_open_copy(const char *filename, int flags,
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
    return fast_load_check_kind(st, filename, errp) ? g_steal_pointer(&ioc)
                                                    : NULL;
}

/* The engine stays while is_recovering; no lock is held over I/O. */
static void fast_load_recover_from(FastLoad *s, const FileMigrationArgs *file,
                                   Error **errp)
{
    g_autoptr(QIOChannelFile) plain = NULL, ioc = NULL;
    g_autoptr(GError) gerr = NULL;
    struct stat ours, theirs;

    if (file->offset != s->file_off) {
        error_setg(errp, "the snapshot begins at offset %" PRIu64 ", a copy "
                   "has to as well: end the URI with ',offset=%" PRIu64 "'",
                   s->file_off, s->file_off);
        return;
    }
    /* Opening a pipe would wait for somebody to write to it. */
    plain = fast_load_open_copy(file->filename, O_RDONLY | O_NONBLOCK, &theirs,
                                errp);
    if (!plain || !fast_load_check_copy(plain->fd, file->filename, s->targets,
                                        s->file_bytes, errp)) {
        return;
    }
    ioc = fast_load_open_copy(file->filename, s->open_flags, &ours, errp);
    if (!ioc) {
        return;
    }
    if (ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino ||
        ours.st_rdev != theirs.st_rdev) {
        error_setg(errp, "'%s' was replaced while it was opened: try again",
                   file->filename);
        return;
    }
    if (!fastload_recover(s->engine, ioc->fd, &gerr)) {
        error_setg(errp, "cannot read on from '%s': %s", file->filename,
                   gerr->message);
        return;
    }
    QEMU_LOCK_GUARD(&s->lock);
    g_free(s->filename);
    s->filename = g_strdup(file->filename);
}

/* Out of band, perhaps: without the BQL, the main loop may wait for a page. */
void migration_fastload_recover(const char *uri, Error **errp)
{
    FastLoad *s = &fast_load;
    g_autoptr(MigrationChannel) channel = NULL;

    if (!migrate_uri_parse(uri, &channel, errp)) {
        return;
    }
    if (channel->addr->transport != MIGRATION_ADDRESS_TYPE_FILE) {
        error_setg(errp, "a fast load recovers from a file: give a URI that "
                   "begins with 'file:'");
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (!fast_load_is_paused(s, errp)) {
            return;
        }
        if (s->is_recovering) {
            error_setg(errp, "the load is being recovered by another command: "
                       "wait until that is answered");
            return;
        }
        s->is_recovering = true;
    }
    fast_load_recover_from(s, &channel->addr->u.file, errp);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->is_recovering = false;
        if (s->is_ended) {
            /* What was due of the end, and had to wait for us. */
            migration_bh_schedule(fast_load_end_bh, s);
        }
    }
}

/* vCPUs that do not stop: they wait for a page, in the kernel. */
static int fast_load_waiting_vcpus(void)
{
    CPUState *cpu;
    int count = 0;

    CPU_FOREACH(cpu) {
        count += !cpu->stopped;
    }
    return count;
}

void migration_fastload_shutdown(void)
{
    FastLoad *s = &fast_load;
    int64_t begin_us = g_get_monotonic_time();
    FastloadFailure failure;
    CPUState *cpu;
    int64_t us;
    int count;

    if (!migration_fastload_is_active() || !s->guest_may_run) {
        return;
    }
    /* From here on the watcher counts: a vCPU may come to wait with the BQL. */
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->is_quitting = true;
    }
    CPU_FOREACH(cpu) {
        cpu_pause(cpu);
    }
    for (us = 0; (count = fast_load_waiting_vcpus()) &&
                 us < (fastload_is_failing(s->engine, &failure)
                       ? FAST_LOAD_STOP_FAILING_US : FAST_LOAD_STOP_US);
         us = g_get_monotonic_time() - begin_us) {
        bql_unlock();
        g_usleep(FAST_LOAD_STOP_POLL_US);
        bql_lock();
    }
    if (count) {
        warn_report("fast load: %d vCPUs wait for pages that do not come; they "
                    "are left where they are", count);
    }
    /*
     * Their pages come right or not at all: userfaultfd stays as it is until
     * the process is gone, and its threads before it.
     */
    CPU_FOREACH(cpu) {
        cpu->stopped = true;
    }
}

static void fast_load_release_targets(FastLoad *s)
{
    guint i;

    for (i = 0; s->targets && i < s->targets->len; i++) {
        memory_region_unref(
            g_array_index(s->targets, FastLoadTarget, i).block->mr);
    }
    g_clear_pointer(&s->targets, g_array_unref);
}

static void fast_load_release(FastLoad *s)
{
    Fastload *engine = NULL;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (s->engine) {
            qapi_free_FastLoadStats(s->last);
            /* Of what never began there are no figures. */
            s->last = s->watcher ? fast_load_stats_locked(s) : NULL;
            engine = s->engine;
            s->engine = NULL;
            qemu_cond_broadcast(&s->watch_cond);
        }
    }
    if (s->watcher) {
        g_thread_join(s->watcher);
        s->watcher = NULL;
    }
    if (engine) {
        fastload_free(engine);
        object_unref(OBJECT(migrate_get_current()));
    }
    fast_load_release_targets(s);
    fast_load_deactivate(s);
    object_unref(OBJECT(s->ioc));
    s->ioc = NULL;
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        g_free(s->filename);
        s->filename = NULL;
    }
    error_free(s->block_error);
    s->block_error = NULL;
    s->run_us = s->block_end = 0;
    s->is_reading = false;
    s->guest_may_run = s->is_failed = s->may_finish = false;
    s->is_ended = s->is_settled = false;
}

void migration_fastload_cleanup(void)
{
    FastLoad *s = &fast_load;
    bool is_busy;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        /* Whoever asks: the memory of a guest that may run is not given up. */
        is_busy = s->is_recovering || (s->guest_may_run && !s->is_ended) ||
                  (s->may_finish && s->is_ended && !s->is_settled);
    }
    if (!is_busy) {
        fast_load_release(s);
    }
}

void migration_fastload_print(Monitor *mon, const FastLoadStats *stats)
{
    if (!stats) {
        return;
    }
    monitor_printf(mon, "Fast load:\n");
    monitor_printf(mon, "  Reader: \t\tthreads=%u, backend=%s\n",
                   stats->threads, stats->read_backend);
    monitor_printf(mon, "  Memory (MiB): \ttotal=%" PRIu64 ", zero=%" PRIu64
                   ", remaining=%" PRIu64 "\n", stats->total_bytes / MiB,
                   stats->zero_bytes / MiB, stats->remaining_bytes / MiB);
    monitor_printf(mon, "  Loaded (MiB): \turgent=%" PRIu64 ", hint=%" PRIu64
                   ", background=%" PRIu64 "\n", stats->urgent_bytes / MiB,
                   stats->hint_bytes / MiB, stats->background_bytes / MiB);
    monitor_printf(mon, "  Faults (us): \t\tcount=%" PRIu64 ", p50=%" PRIu64
                   ", p95=%" PRIu64 ", p99=%" PRIu64 ", max=%" PRIu64 "\n",
                   stats->fault_count, stats->fault_latency_p50_us,
                   stats->fault_latency_p95_us, stats->fault_latency_p99_us,
                   stats->fault_latency_max_us);
    monitor_printf(mon, "  Errors: \t\tretries=%" PRIu64 ", failed reads=%"
                   PRIu64 "\n", stats->retry_count, stats->error_count);
    if (stats->error_desc) {
        monitor_printf(mon, "  Waiting: \t\t%s\n", stats->error_desc);
    }
    if (stats->has_time_to_run_us) {
        monitor_printf(mon, "  Time (ms): \t\trun=%" PRIu64,
                       stats->time_to_run_us / 1000);
        if (stats->has_time_to_complete_us) {
            monitor_printf(mon, ", complete=%" PRIu64,
                           stats->time_to_complete_us / 1000);
        }
        monitor_printf(mon, "\n");
    }
}
