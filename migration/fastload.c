/*
 * Fast load of a mapped-ram snapshot: the life of a load.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The phases, who moves between them, and what the incoming migration calls
 * on its way.  migration/fastload-internal.h has the diagram and the map of
 * the adapter's other files.
 *
 * A read error that lasts, before the guest may run, fails the migration: the
 * guest has not run, so the engine may release threads that wait for a page.
 * Once the guest may run, such an error pauses the load (postcopy-paused).  It
 * goes on by itself when reads succeed, or by migrate-recover when the file has
 * changed.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-events-fastload.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "migration/misc.h"
#include "system/system.h"
#include "fastload-internal.h"
#include "migration.h"
#include "options.h"
#include "postcopy-ram.h"
#include "qemu-file.h"
#include "trace.h"

/*
 * How long the end of the stream may wait for early blocks: longer than the
 * engine takes to tell failures that last from those that do not.
 */
#define LOAD_FIT_US (5 * 1000 * 1000)
#define LOAD_FIT_POLL_US 200

IncomingLoad incoming_load;

static const char *const load_phase_names[LOAD_PHASE_MAX] = {
    [LOAD_IDLE] = "idle",
    [LOAD_PREPARED] = "prepared",
    [LOAD_READING] = "reading",
    [LOAD_TRAPPED] = "trapped",
    [LOAD_FILLED] = "filled",
    [LOAD_FAILED] = "failed",
    [LOAD_LOADING] = "loading",
    [LOAD_PAUSED] = "paused",
    [LOAD_COMPLETE] = "complete",
    [LOAD_SETTLING] = "settling",
};

static const uint32_t load_moves[LOAD_PHASE_MAX] = {
    [LOAD_IDLE] = LOAD_IN(PREPARED),
    [LOAD_PREPARED] = LOAD_IN(READING) | LOAD_IN(FAILED) | LOAD_IN(IDLE),
    [LOAD_READING] = LOAD_IN(TRAPPED) | LOAD_IN(FAILED) | LOAD_IN(IDLE),
    [LOAD_TRAPPED] = LOAD_IN(FILLED) | LOAD_IN(FAILED) | LOAD_IN(LOADING) |
                     LOAD_IN(IDLE),
    [LOAD_FILLED] = LOAD_IN(FAILED) | LOAD_IN(COMPLETE) | LOAD_IN(IDLE),
    [LOAD_FAILED] = LOAD_IN(IDLE),
    [LOAD_LOADING] = LOAD_IN(PAUSED) | LOAD_IN(COMPLETE),
    [LOAD_PAUSED] = LOAD_IN(LOADING),
    [LOAD_COMPLETE] = LOAD_IN(SETTLING),
    [LOAD_SETTLING] = LOAD_IN(IDLE),
};

static void __attribute__((constructor)) load_init(void)
{
    qemu_mutex_init(&incoming_load.lock);
    qemu_cond_init(&incoming_load.watch_cond);
    qemu_mutex_init(&incoming_load.waits_lock);
    incoming_load.waits = g_hash_table_new_full(NULL, NULL, NULL, g_free);
}

/* What holds in each phase, as the diagram promises it. */
static void load_check_locked(const IncomingLoad *load)
{
    switch (load->phase) {
    case LOAD_IDLE:
        assert(!load->filename && !load->engine && !load->ioc);
        assert(!load->is_recovering);
        break;
    case LOAD_PREPARED:
        assert(load->filename && !load->engine);
        break;
    case LOAD_READING:
    case LOAD_FAILED:
        /* The stream may have ended before it came to the RAM. */
        assert(load->filename);
        break;
    case LOAD_TRAPPED:
    case LOAD_LOADING:
    case LOAD_PAUSED:
        assert(load->engine && load->blocks && !load->complete_us);
        break;
    case LOAD_FILLED:
    case LOAD_COMPLETE:
    case LOAD_SETTLING:
        assert(load->engine && load->blocks && load->complete_us);
        break;
    case LOAD_PHASE_MAX:
        g_assert_not_reached();
    }
}

void incoming_load_move_locked(IncomingLoad *load, LoadPhase to)
{
    LoadPhase from = load->phase;

    assert(load_moves[from] & (1u << to));
    trace_fastload_load_moved(load_phase_names[from], load_phase_names[to]);
    /* pairs with the read in incoming_load_is_in() */
    qatomic_set(&load->phase, to);
    load_check_locked(load);
    incoming_load_announce_locked(load, from);
    qemu_cond_broadcast(&load->watch_cond);
}

uint8_t incoming_load_threads(void)
{
    return migrate_get_current()->parameters.x_fast_load_threads;
}

const char *incoming_load_working_set(const MigrationParameters *params)
{
    return params->x_fast_load_working_set ?: "";
}

uint64_t incoming_load_background_rate(void)
{
    return MIN(migrate_max_postcopy_bandwidth(), INT64_MAX);
}

uint64_t incoming_load_elapsed_us(const IncomingLoad *load)
{
    return (qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - load->begin_ns) /
           SCALE_US;
}

bool migration_fastload_is_armed(void)
{
    return incoming_load_is_in(&incoming_load, LOAD_ARMED);
}

bool migration_fastload_is_active(void)
{
    return incoming_load_is_in(&incoming_load, LOAD_ACTIVE);
}

bool migration_fastload_owns_status(void)
{
    IncomingLoad *load = &incoming_load;

    QEMU_LOCK_GUARD(&load->lock);
    return incoming_load_is_in(load, LOAD_ACTIVE) && !load->is_detached;
}

/* ---- before the stream ---- */

static int load_open_flags(void)
{
#ifdef O_DIRECT
    if (migrate_get_current()->parameters.direct_io) {
        return O_RDONLY | O_DIRECT;
    }
#endif
    return O_RDONLY;
}

/* The file's name in messages from now on. */
static void load_name_file(IncomingLoad *load, const char *filename)
{
    char *name = incoming_load_real_name(load->ioc, filename);

    QEMU_LOCK_GUARD(&load->lock);
    g_free(load->filename);
    load->filename = name;
}

static bool load_take_file(IncomingLoad *load, const FileMigrationArgs *file,
                           Error **errp)
{
    struct stat st;

    /* A name that only QEMU knows, such as /dev/fdset/1, passes. */
    if (stat(file->filename, &st) == 0 &&
        !incoming_load_check_kind(&st, file->filename, errp)) {
        return false;
    }
    load->begin_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    /*
     * Opened now, as QEMU opens its own channel now: later the name may mean
     * another file, or this process may not open it any more (-daemonize,
     * -run-with).  A failure is told by QEMU, which opens the same name next,
     * or by incoming_load_open(), which tries again.
     */
    load->ioc = qio_channel_file_new_path(file->filename, load_open_flags(),
                                          0, NULL);
    load_name_file(load, file->filename);
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        load->is_detached =
            migrate_get_current()->parameters.x_fast_load_detach;
        load->file_off = load->block_end = file->offset;
        load->open_flags = load_open_flags();
        load->working_set = g_strdup(incoming_load_working_set(
            &migrate_get_current()->parameters));
        incoming_load_move_locked(load, LOAD_PREPARED);
    }
    return true;
}

/* Settings of the migration that fast load cannot be combined with. */
static bool load_check_settings(Error **errp)
{
    if (!migrate_mapped_ram()) {
        return incoming_load_refuse(errp, "no mapped-ram",
            "Enable it (-global migration.mapped-ram=on), or set "
            "x-fast-load-threads to 0.",
            "x-fast-load-threads needs the capability 'mapped-ram', here and "
            "when the file was saved");
    }
    if (migrate_colo()) {
        return incoming_load_refuse(errp, "COLO", "Switch one of them off.",
            "x-fast-load-threads cannot be used with COLO");
    }
    if (fastload_mode_keeps_memory()) {
        return incoming_load_refuse(errp, "mode",
            "Set the migration parameter 'mode' to 'normal'.",
            "x-fast-load-threads cannot be used with mode '%s'",
            MigMode_str(migrate_mode()));
    }
    if (migrate_background_snapshot()) {
        return incoming_load_refuse(errp, "background-snapshot",
            "Switch one of them off.", "x-fast-load-threads cannot be used "
            "with the capability 'background-snapshot'");
    }
    if (migrate_get_current()->parameters.x_fast_load_detach &&
        migrate_postcopy_blocktime()) {
        return incoming_load_refuse(errp, "detached blocktime",
            "Switch one of them off; x-query-fast-load has latencies as well.",
            "x-fast-load-detach cannot be used with the capability "
            "'postcopy-blocktime', whose figures are the migration's");
    }
    if (migrate_tls()) {
        return incoming_load_refuse(errp, "TLS",
            "Switch mapped-ram off, set tls-creds to the empty string, and "
            "switch mapped-ram on.", "x-fast-load-threads cannot be used with "
            "TLS, files are not encrypted");
    }
    return true;
}

/* With 0 threads, refuses settings that need fast load. */
static bool load_check_off(Error **errp)
{
    const MigrationParameters *params = &migrate_get_current()->parameters;

    if (params->x_fast_load_detach) {
        return incoming_load_refuse(errp, "detached without threads",
            "Set x-fast-load-threads to 2, or x-fast-load-detach to off.",
            "x-fast-load-detach needs x-fast-load-threads: with 0 threads "
            "nothing is left to load once the guest can run");
    }
    if (*incoming_load_working_set(params)) {
        return incoming_load_refuse(errp, "working set without threads",
            "Set x-fast-load-threads to 2, or x-fast-load-working-set to the "
            "empty string.", "x-fast-load-working-set needs "
            "x-fast-load-threads: with 0 threads all is loaded before the "
            "guest can run");
    }
    return true;
}

bool migration_fastload_prepare(const MigrationAddress *addr, Error **errp)
{
    IncomingLoad *load = &incoming_load;
    g_autoptr(GError) gerr = NULL;

    if (load->engine) {
        QEMU_LOCK_GUARD(&load->lock);
        return incoming_load_refuse(errp, "migrate-incoming", NULL,
            "a fast load of '%s' is under way", load->filename);
    }
    migration_fastload_cleanup();
    if (!incoming_load_threads()) {
        return load_check_off(errp);
    }
    if (!load_check_settings(errp)) {
        return false;
    }
    /* What mapped-ram works with has been checked: files only. */
    assert(addr->transport == MIGRATION_ADDRESS_TYPE_FILE);
    if (!incoming_load_check_machine(load, errp)) {
        return false;
    }
    if (!fastload_probe(&gerr)) {
        return incoming_load_refuse(errp, "no userfaultfd", NULL,
            "x-fast-load-threads cannot be used: %s", gerr->message);
    }
    incoming_load_guard(load);
    if (load->eager == LOAD_EAGER_NONE && !incoming_load_begin_shared(errp)) {
        incoming_load_unguard(load);
        return false;
    }
    if (!load_take_file(load, &addr->u.file, errp)) {
        incoming_load_end_shared();
        incoming_load_unguard(load);
        return false;
    }
    incoming_load_listen(load);
    return true;
}

/* The load fails, but not by a read; @err says why, or is NULL. */
static void load_fail(IncomingLoad *load, const Error *err)
{
    QEMU_LOCK_GUARD(&load->lock);
    if (!incoming_load_is_in(load, LOAD_IN(FAILED))) {
        load->failed_desc = err ? g_strdup(error_get_pretty(err)) : NULL;
        incoming_load_move_locked(load, LOAD_FAILED);
    }
}

void migration_fastload_not_opened(Error *err)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    if (!incoming_load_is_in(&incoming_load, LOAD_IN(PREPARED))) {
        return;
    }
    if (mis->state == MIGRATION_STATUS_SETUP) {
        migrate_set_error(migrate_get_current(), err);
        migrate_set_state(&mis->state, MIGRATION_STATUS_SETUP,
                          MIGRATION_STATUS_FAILED);
    }
    load_fail(&incoming_load, err);
    migration_fastload_cleanup();
}

void migration_fastload_begin(void)
{
    IncomingLoad *load = &incoming_load;

    QEMU_LOCK_GUARD(&load->lock);
    if (incoming_load_is_in(load, LOAD_IN(PREPARED))) {
        incoming_load_move_locked(load, LOAD_READING);
    }
}

/* ---- the end ---- */

/* Nothing is trapped any more: undoes what was done to guest memory for it. */
static void load_give_back_memory(IncomingLoad *load)
{
    if (load->is_unlocked && os_mlock(is_mlock_on_fault(mlock_state)) < 0) {
        warn_report("fast load: cannot lock guest memory again: %s",
                    strerror(errno));
    }
    load->is_unlocked = false;
    incoming_load_unguard(load);
}

static void load_finish(IncomingLoad *load)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    incoming_load_end_shared();
    load_give_back_memory(load);
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        incoming_load_move_locked(load, LOAD_SETTLING);
    }
    if (load->is_detached) {
        return; /* the migration has ended long ago */
    }
    migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_ACTIVE,
                      MIGRATION_STATUS_COMPLETED);
    migration_incoming_state_destroy();
}

/* On the main thread: finishes a complete load, or frees a settled engine. */
static void load_end_bh(void *opaque)
{
    IncomingLoad *load = opaque;

    if (load->has_guest && incoming_load_is_in(load, LOAD_IN(COMPLETE))) {
        load_finish(load);
    }
    /* The migration does not call this for a load that is detached. */
    if (incoming_load_is_in(load, LOAD_IN(SETTLING))) {
        migration_fastload_cleanup();
    }
}

void incoming_load_recovered(IncomingLoad *load)
{
    QEMU_LOCK_GUARD(&load->lock);
    load->is_recovering = false;
    /* The end may have come meanwhile, and could not free the engine. */
    migration_bh_schedule(load_end_bh, load);
}

static void load_release(IncomingLoad *load)
{
    Fastload *engine = load->engine;

    WITH_QEMU_LOCK_GUARD(&load->lock) {
        if (engine) {
            qapi_free_MigrationFastLoad(load->last);
            /* A load that never began has no figures. */
            load->last = load->watcher ? incoming_load_figures_locked(load)
                                       : NULL;
            qatomic_set(&load->engine, NULL);
            qemu_cond_broadcast(&load->watch_cond);
        }
    }
    incoming_load_stop_watch(load);
    incoming_load_end_shared();
    if (engine) {
        fastload_free(engine);
        object_unref(OBJECT(migrate_get_current()));
    }
    incoming_load_unlisten(load);
    incoming_load_release_blocks(load);
    load_give_back_memory(load);
    object_unref(OBJECT(load->ioc));
    load->ioc = NULL;
    error_free(load->stream_error);
    load->stream_error = NULL;
    load->run_us = load->block_end = 0;
    load->has_guest = load->has_blocktime = false;
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        /* Threads that still look at a copy find that they came too late. */
        load->recover_number++;
        g_clear_pointer(&load->recover_desc, g_free);
        g_clear_pointer(&load->working_set, g_free);
        g_clear_pointer(&load->working_set_desc, g_free);
        g_clear_pointer(&load->failed_desc, g_free);
        g_free(load->filename);
        load->filename = NULL;
        load->is_detached = false;
        load->has_failure = load->is_time_told = load->is_copy_new = false;
        load->complete_us = 0;
        load->resumed_ns = 0;
        incoming_load_move_locked(load, LOAD_IDLE);
    }
    WITH_QEMU_LOCK_GUARD(&load->waits_lock) {
        g_hash_table_remove_all(load->waits);
    }
}

void migration_fastload_cleanup(void)
{
    IncomingLoad *load = &incoming_load;
    bool may_free;

    WITH_QEMU_LOCK_GUARD(&load->lock) {
        /* The memory of a guest that may run is kept. */
        may_free = !load->is_recovering &&
                   (incoming_load_is_in(load, LOAD_EXPENDABLE) ||
                    (incoming_load_is_in(load, LOAD_IN(SETTLING)) &&
                     fastload_is_settled(load->engine)));
    }
    if (may_free) {
        load_release(load);
    }
}

/* ---- what the engine tells, on a thread of its own ---- */

static void load_fail_locked(IncomingLoad *load,
                             const FastloadFailure *failure)
{
    load->failure = *failure;
    load->has_failure = true;
    incoming_load_move_locked(load, LOAD_FAILED);
    /* Not freed: that would wait for this callback to return. */
    fastload_cancel(load->engine);
}

/* Returns what to warn of. */
static char *load_pause_locked(IncomingLoad *load,
                               const FastloadFailure *failure)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    g_autoptr(Error) err = incoming_load_read_error_locked(load, failure);

    load->failure = *failure;
    incoming_load_move_locked(load, LOAD_PAUSED);
    if (!load->is_detached) {
        incoming_load_tell_error_locked(load, err);
        migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_ACTIVE,
                          MIGRATION_STATUS_POSTCOPY_PAUSED);
    }
    return g_strdup_printf("%s; the guest waits, and goes on %s",
                           error_get_pretty(err),
                           incoming_load_goes_on(failure));
}

static void load_resume_locked(IncomingLoad *load)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    load->resumed_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    incoming_load_move_locked(load, LOAD_LOADING);
    if (!load->is_detached) {
        migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_PAUSED,
                          MIGRATION_STATUS_POSTCOPY_ACTIVE);
        incoming_load_untell_error_locked(load);
    }
    g_clear_pointer(&load->recover_desc, g_free);
    /* What migration_fastload_holds_requests() has held is due now. */
    qemu_notify_event();
}

/* What to warn of, once for each load, when the file's time moves by itself. */
static char *load_time_warning_locked(IncomingLoad *load)
{
    FastloadStats stats;

    fastload_get_stats(load->engine, &stats);
    if (!stats.has_mtime_moved || load->is_time_told) {
        return NULL;
    }
    load->is_time_told = true;
    return g_strdup_printf("the time of modification of '%s' moves by itself: "
                           "only its size tells whether it is changed",
                           load->filename);
}

/*
 * Nobody may read what QEMU prints, and then this blocks: so the lock, which
 * commands out of band take, must not be held.
 */
static void load_warn(const char *warning)
{
    if (warning) {
        warn_report("fast load: %s", warning);
    }
}

static void load_warn_of_time(IncomingLoad *load)
{
    g_autofree char *warning = NULL;

    WITH_QEMU_LOCK_GUARD(&load->lock) {
        warning = load_time_warning_locked(load);
    }
    load_warn(warning);
}

static void load_complete_locked(IncomingLoad *load)
{
    load->complete_us = MAX(incoming_load_elapsed_us(load), 1);
    if (incoming_load_is_in(load, LOAD_IN(TRAPPED))) {
        incoming_load_move_locked(load, LOAD_FILLED);
    } else if (incoming_load_is_in(load, LOAD_IN(LOADING))) {
        incoming_load_move_locked(load, LOAD_COMPLETE);
        migration_bh_schedule(load_end_bh, load);
    }
}

static void load_page_wanted(void *hva, uint32_t tid, void *opaque)
{
    IncomingLoad *load = opaque;

    incoming_load_note_wait(load, hva, tid);
    if (load->has_blocktime) {
        incoming_load_page_wanted(hva, tid, opaque);
    }
}

static void load_pages_placed(void *hva, uint64_t len_bytes,
                              FastloadClass class, bool has_data,
                              void *opaque)
{
    const IncomingLoad *load = opaque;

    incoming_load_shared_placed(hva, len_bytes);
    if (load->has_blocktime) {
        incoming_load_pages_placed(hva, len_bytes, class, has_data, opaque);
    }
}

/* Returns what to warn of; NULL: nothing. */
static char *load_take_event_locked(IncomingLoad *load, FastloadEvent event,
                                    const FastloadFailure *failure)
{
    switch (event) {
    case FASTLOAD_EVENT_STALLED:
        if (incoming_load_is_in(load, LOAD_IN(TRAPPED))) {
            load_fail_locked(load, failure);
        } else if (incoming_load_is_in(load, LOAD_IN(LOADING))) {
            return load_pause_locked(load, failure);
        }
        break;
    case FASTLOAD_EVENT_RESUMED:
        if (incoming_load_is_in(load, LOAD_IN(PAUSED))) {
            load_resume_locked(load);
        }
        break;
    case FASTLOAD_EVENT_COMPLETED:
        load_complete_locked(load);
        return load_time_warning_locked(load);
    case FASTLOAD_EVENT_SETTLED:
        migration_bh_schedule(load_end_bh, load);
        break;
    case FASTLOAD_EVENT_CANCELLED:
        break;
    }
    return NULL;
}

static void load_event(FastloadEvent event, const FastloadFailure *failure,
                       void *opaque)
{
    IncomingLoad *load = opaque;
    g_autofree char *warning = NULL;

    WITH_QEMU_LOCK_GUARD(&load->lock) {
        if (load->engine) { /* else it is being freed */
            warning = load_take_event_locked(load, event, failure);
        }
    }
    /* Not by the monitor alone: it does not answer if the main loop waits. */
    load_warn(warning);
}

/* ---- the stream ---- */

/* The device state is read through @f: it must be the same snapshot. */
static bool load_is_same_file(IncomingLoad *load, QEMUFile *f,
                              struct stat *ret_ours)
{
    QIOChannel *ioc = qemu_file_get_ioc(f);
    struct stat theirs;

    return fstat(load->ioc->fd, ret_ours) == 0 &&
           fstat(QIO_CHANNEL_FILE(ioc)->fd, &theirs) == 0 &&
           ret_ours->st_dev == theirs.st_dev &&
           ret_ours->st_ino == theirs.st_ino &&
           ret_ours->st_rdev == theirs.st_rdev;
}

static bool load_find_file(IncomingLoad *load, QEMUFile *f, off_t *ret_end,
                           Error **errp)
{
    struct stat ours;
    off_t end;

    if (!load->ioc) {
        load->ioc = qio_channel_file_new_path(load->filename,
                                              load->open_flags, 0, errp);
        load_name_file(load, load->filename);
    }
    if (!load->ioc) {
        return false;
    }
    if (!load_is_same_file(load, f, &ours)) {
        return incoming_load_refuse(errp, "replaced file", "Try again.",
            "'%s' was replaced while it was opened", load->filename);
    }
    end = lseek(load->ioc->fd, 0, SEEK_END);
    if (end < 0) {
        error_setg_errno(errp, errno, "cannot find the size of '%s'",
                         load->filename);
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        load->file_stat = load->copy_stat = ours;
    }
    *ret_end = end;
    return true;
}

bool incoming_load_open(IncomingLoad *load, QEMUFile *f, Error **errp)
{
    FastloadConfig config = {
        .worker_count = incoming_load_threads(),
        .background_bytes_per_s = incoming_load_background_rate(),
        .event_func = load_event,
        .event_opaque = load,
        .fault_func = load_page_wanted,
        .fault_opaque = load,
        .placed_func = load_pages_placed,
        .placed_opaque = load,
        .stream_off = load->file_off,
    };
    MigrationIncomingState *mis = migration_incoming_get_current();
    g_autoptr(GArray) ahead = NULL;
    g_autoptr(GError) gerr = NULL;
    Fastload *engine;
    off_t end;

    load->has_blocktime = migrate_postcopy_blocktime();
    if (load->has_blocktime) {
        mis->blocktime_ctx = mis->blocktime_ctx ?: blocktime_context_new();
    }
    if (!load_find_file(load, f, &end, errp)) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        load->file_bytes = end;
    }
    incoming_load_set_up_blocks(load);
    ahead = incoming_load_find_stream(load);
    config.ahead_ranges = (const FastloadFileRange *)ahead->data;
    config.ahead_range_count = ahead->len;
    engine = fastload_new(load->ioc->fd, &config, &gerr);
    if (!engine) {
        error_setg(errp, "cannot start fast load: %s", gerr->message);
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        load->engine = engine;
    }
    /* The engine's events may outlast migration_shutdown(). */
    object_ref(OBJECT(migrate_get_current()));
    if (should_mlock(mlock_state) && munlockall()) {
        /* Locked memory cannot be emptied; it is locked again at the end. */
        error_setg_errno(errp, errno, "cannot unlock guest memory");
        return false;
    }
    load->is_unlocked = should_mlock(mlock_state);
    return true;
}

static void load_warn_of_backend(const IncomingLoad *load)
{
    FastloadStats stats;

    fastload_get_stats(load->engine, &stats);
    if (!stats.io_fallback) {
        return;
    }
    if (stats.preadv_count < stats.worker_count) {
        warn_report("fast load: %s, %u of %u threads read with preadv",
                    stats.io_fallback, stats.preadv_count,
                    stats.worker_count);
    } else {
        warn_report("fast load: %s, reading with preadv", stats.io_fallback);
    }
}

/* Warns that the working set is not used or not recorded, because of @error. */
static void load_tell_working_set(IncomingLoad *load, const GError *error)
{
    warn_report("fast load: %s", error->message);
    QEMU_LOCK_GUARD(&load->lock);
    g_free(load->working_set_desc);
    load->working_set_desc = g_strdup(error->message);
}

/* On an engine thread: the working set was recorded, or could not be. */
static void load_recorded(const FastloadWorksetStats *stats,
                          const GError *error, void *opaque)
{
    IncomingLoad *load = opaque;

    if (error) {
        load_tell_working_set(load, error);
    }
    qapi_event_send_x_fast_load_recorded(load->working_set, stats->page_count,
                                         error ? error->message : NULL);
}

/* If the file of the working set cannot be used, the load goes on without. */
static void load_use_working_set(IncomingLoad *load)
{
    FastloadWorksetConfig config = {
        .path = load->working_set,
        .awaits_guest = true,
        .func = load_recorded,
        .opaque = load,
    };
    g_autoptr(GError) gerr = NULL;

    if (*config.path && !fastload_use_workset(load->engine, &config, &gerr)) {
        load_tell_working_set(load, gerr);
    }
}

static bool load_start(IncomingLoad *load, Error **errp)
{
    g_autoptr(GError) gerr = NULL;

    /* Before the start: the engine may tell at once that all is placed. */
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        incoming_load_move_locked(load, LOAD_TRAPPED);
    }
    load_use_working_set(load);
    if (!fastload_start(load->engine, &gerr)) {
        error_setg(errp, "cannot start fast load of '%s': %s",
                   load->filename, gerr->message);
        return false;
    }
    incoming_load_start_shared(load->engine);
    if (!incoming_load_start_watch(load, errp)) {
        return false;
    }
    load_warn_of_backend(load);
    return true;
}

int migration_fastload_start(void)
{
    IncomingLoad *load = &incoming_load;

    if (!load->engine || !migration_fastload_is_armed()) {
        return 0; /* another stream: an engine may be settling still */
    }
    if (migration_fastload_is_active()) {
        error_setg(&load->stream_error, "'%s' is damaged: it lists the RAM "
                   "blocks a second time", load->filename);
        return -EINVAL;
    }
    return load_start(load, &load->stream_error) ? 0 : -EINVAL;
}

/*
 * Waits for the blocks that a device may read as a whole when the guest begins
 * to run (writable flash, which the main thread reads): a read that fails for
 * good here still fails the migration.  Also waits while reads fail, which may
 * be for a moment only.  Gives up after LOAD_FIT_US.
 */
static void load_wait_until_fit(IncomingLoad *load)
{
    int64_t begin_us = g_get_monotonic_time();
    FastloadFailure failure;

    while (incoming_load_is_in(load, LOAD_IN(TRAPPED)) &&
           (fastload_is_failing(load->engine, &failure) ||
            !incoming_load_has_early_blocks(load)) &&
           g_get_monotonic_time() - begin_us < LOAD_FIT_US) {
        g_usleep(LOAD_FIT_POLL_US);
    }
}

/* The stream ended well: may the guest run?  False: @errp says why not. */
static bool load_let_run(IncomingLoad *load, int *ret_result, Error **errp)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    load_wait_until_fit(load);
    load_warn_of_time(load);
    QEMU_LOCK_GUARD(&load->lock);
    if (load->has_failure) {
        error_propagate(errp, incoming_load_read_error_locked(load,
                                                              &load->failure));
        *ret_result = -load->failure.error_number;
        return false;
    }
    load->run_us = incoming_load_elapsed_us(load);
    if (incoming_load_is_in(load, LOAD_IN(FILLED))) {
        incoming_load_move_locked(load, LOAD_COMPLETE);
    } else {
        incoming_load_move_locked(load, LOAD_LOADING);
    }
    if (!load->is_detached) {
        migrate_set_state(&mis->state, MIGRATION_STATUS_ACTIVE,
                          MIGRATION_STATUS_POSTCOPY_ACTIVE);
    }
    return true;
}

int migration_fastload_loaded(int ret, Error **errp)
{
    IncomingLoad *load = &incoming_load;
    Error *err = g_steal_pointer(&load->stream_error);

    if (!migration_fastload_is_armed()) {
        return ret; /* not our stream */
    }
    if (err) {
        ret = ret < 0 ? ret : -EINVAL;
    } else if (load->has_failure || (load->engine && ret >= 0)) {
        load_let_run(load, &ret, &err);
    } else if (ret >= 0) {
        incoming_load_announce_nothing(load);
    }
    if (ret < 0) {
        load_fail(load, err ?: errp ? *errp : NULL);
    }
    if (err) {
        /* Replaces QEMU's own error, which does not tell the cause. */
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
    IncomingLoad *load = &incoming_load;

    if (!incoming_load_is_in(load, LOAD_GUEST_RUNS)) {
        return false;
    }
    load->has_guest = true;
    /* Does nothing while pages are missing. */
    migration_bh_schedule(load_end_bh, load);
    return !load->is_detached;
}

void migration_fastload_apply_parameters(void)
{
    IncomingLoad *load = &incoming_load;

    if (load->engine) {
        fastload_set_background_rate(load->engine,
                                     incoming_load_background_rate());
    }
}
