/*
 * Fast load of a mapped-ram snapshot: figures and sentences.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What query-migrate, x-query-fast-load and "info migrate" show, and the words
 * for a read that fails.  Decides nothing.
 */
#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-fastload.h"
#include "qapi/qapi-events-fastload.h"
#include "qapi/qapi-visit-fastload.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "monitor/monitor.h"
#include "fastload-internal.h"
#include "migration.h"
#include "trace.h"

const char *incoming_load_goes_on(const FastloadFailure *failure)
{
    return failure->kind == FASTLOAD_FAILURE_CHANGED
           ? "after migrate-recover with a copy of the snapshot as it was"
           : failure->kind == FASTLOAD_FAILURE_PLACE
           ? "when there is memory" : "when the file can be read again";
}

bool incoming_load_refuse(Error **errp, const char *what, const char *hint,
                          const char *format, ...)
{
    g_autofree char *text = NULL;
    Error *err = NULL;
    va_list args;

    trace_fastload_load_refused(what);
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    error_setg(&err, "%s", text);
    if (hint) {
        error_append_hint(&err, "%s\n", hint);
    }
    error_propagate(errp, err);
    return false;
}

Error *incoming_load_read_error_locked(const IncomingLoad *load,
                                       const FastloadFailure *failure)
{
    Error *err = NULL;

    error_setg(&err, "cannot %s '%s' at offset %" PRIu64 ": %s",
               failure->kind == FASTLOAD_FAILURE_PLACE ? "make memory for what "
               "was read from" : "read", load->filename,
               failure->file_off, fastload_failure_cause(failure));
    return err;
}

/*
 * Others may set the migration's error, too.  Its text shows whether it is
 * still the load's: no other error is removed.
 */
void incoming_load_tell_error_locked(IncomingLoad *load, const Error *err)
{
    g_free(load->told_desc);
    load->told_desc = g_strdup(error_get_pretty(err));
    migrate_set_error(migrate_get_current(), err);
}

void incoming_load_untell_error_locked(IncomingLoad *load)
{
    MigrationState *ms = migrate_get_current();

    WITH_QEMU_LOCK_GUARD(&ms->error_mutex) {
        if (ms->error && load->told_desc &&
            !strcmp(error_get_pretty(ms->error), load->told_desc)) {
            error_free(ms->error);
            ms->error = NULL;
        }
    }
    g_clear_pointer(&load->told_desc, g_free);
}

static MigrationFastLoadBackend load_backend(const FastloadStats *stats)
{
    return !strcmp(stats->io_name, "io_uring")
           ? MIGRATION_FAST_LOAD_BACKEND_IO_URING
           : !strcmp(stats->io_name, "preadv")
           ? MIGRATION_FAST_LOAD_BACKEND_PREADV
           : MIGRATION_FAST_LOAD_BACKEND_NONE;
}

static MigrationFastLoadState load_state(LoadPhase phase)
{
    static const MigrationFastLoadState states[LOAD_PHASE_MAX] = {
        [LOAD_IDLE] = MIGRATION_FAST_LOAD_STATE_NONE,
        [LOAD_PREPARED] = MIGRATION_FAST_LOAD_STATE_STARTING,
        [LOAD_READING] = MIGRATION_FAST_LOAD_STATE_STARTING,
        [LOAD_TRAPPED] = MIGRATION_FAST_LOAD_STATE_STARTING,
        [LOAD_FILLED] = MIGRATION_FAST_LOAD_STATE_STARTING,
        [LOAD_FAILED] = MIGRATION_FAST_LOAD_STATE_FAILED,
        [LOAD_LOADING] = MIGRATION_FAST_LOAD_STATE_LOADING,
        [LOAD_PAUSED] = MIGRATION_FAST_LOAD_STATE_PAUSED,
        [LOAD_COMPLETE] = MIGRATION_FAST_LOAD_STATE_COMPLETED,
        [LOAD_SETTLING] = MIGRATION_FAST_LOAD_STATE_COMPLETED,
    };

    return states[phase];
}

/*
 * COMPLETE is still told as "loading": "completed" means that all is allowed
 * again, which takes the main thread's notice that the load is complete.
 */
static MigrationFastLoadState load_told_state(LoadPhase phase)
{
    return load_state(phase == LOAD_COMPLETE ? LOAD_LOADING : phase);
}

void incoming_load_announce_locked(const IncomingLoad *load, LoadPhase from)
{
    MigrationFastLoadState state = load_told_state(load->phase);
    g_autoptr(Error) err = NULL;

    /* A load that comes to IDLE has told its last state before. */
    if (state == load_told_state(from) || load->phase == LOAD_COMPLETE ||
        load->phase == LOAD_IDLE) {
        return;
    }
    if (load->phase == LOAD_PAUSED || load->has_failure) {
        err = incoming_load_read_error_locked(load, &load->failure);
    }
    qapi_event_send_x_fast_load(state, load->filename,
                                err ? error_get_pretty(err)
                                    : load->failed_desc);
}

void incoming_load_announce_nothing(IncomingLoad *load)
{
    QEMU_LOCK_GUARD(&load->lock);
    qapi_event_send_x_fast_load(MIGRATION_FAST_LOAD_STATE_COMPLETED,
                                load->filename, NULL);
}

static void load_copy_figures(const FastloadStats *stats,
                              MigrationFastLoad *info)
{
    info->threads = stats->worker_count;
    info->read_backend = load_backend(stats);
    info->total_bytes = stats->total_bytes;
    info->zero_bytes = stats->zero_bytes;
    info->urgent_bytes = stats->loaded_bytes[FASTLOAD_CLASS_URGENT];
    info->hint_bytes = stats->loaded_bytes[FASTLOAD_CLASS_HINT];
    info->background_bytes = stats->loaded_bytes[FASTLOAD_CLASS_BACKGROUND];
    info->remaining_bytes = stats->remaining_bytes;
    info->moved_bytes = stats->moved_bytes;
    info->collapsed_bytes = stats->collapsed_bytes;
    info->fault_count = stats->fault_count;
    info->shared_fault_count = incoming_load_shared_faults();
    info->fault_latency_p50_us = stats->fault_p50_ns / SCALE_US;
    info->fault_latency_p95_us = stats->fault_p95_ns / SCALE_US;
    info->fault_latency_p99_us = stats->fault_p99_ns / SCALE_US;
    info->fault_latency_max_us = stats->fault_max_ns / SCALE_US;
    info->oldest_fault_us = stats->oldest_fault_ns / SCALE_US;
    info->retry_count = stats->retry_count;
    info->error_count = stats->io_error_count;
}

static MigrationFastLoadWorkingSet *load_working_set_locked(
    const IncomingLoad *load, const FastloadWorksetStats *stats)
{
    static const MigrationFastLoadWorkingSetState states[] = {
        [FASTLOAD_WORKSET_NONE] = MIGRATION_FAST_LOAD_WORKING_SET_STATE_NONE,
        [FASTLOAD_WORKSET_RECORDING] =
            MIGRATION_FAST_LOAD_WORKING_SET_STATE_RECORDING,
        [FASTLOAD_WORKSET_WRITING] =
            MIGRATION_FAST_LOAD_WORKING_SET_STATE_WRITING,
        [FASTLOAD_WORKSET_WRITTEN] =
            MIGRATION_FAST_LOAD_WORKING_SET_STATE_WRITTEN,
        [FASTLOAD_WORKSET_FAILED] =
            MIGRATION_FAST_LOAD_WORKING_SET_STATE_FAILED,
        [FASTLOAD_WORKSET_REPLAYING] =
            MIGRATION_FAST_LOAD_WORKING_SET_STATE_REPLAYING,
        [FASTLOAD_WORKSET_REPLAYED] =
            MIGRATION_FAST_LOAD_WORKING_SET_STATE_REPLAYED,
    };
    MigrationFastLoadWorkingSet *info = g_new0(MigrationFastLoadWorkingSet, 1);

    QEMU_BUILD_BUG_ON(G_N_ELEMENTS(states) != FASTLOAD_WORKSET_STATE_MAX);
    info->state = states[stats->state];
    info->pages = stats->page_count;
    info->runs = stats->run_count;
    info->time_us = stats->took_ns / SCALE_US;
    info->late_pages = stats->late_count;
    info->error_desc = g_strdup(load->working_set_desc);
    return info;
}

MigrationFastLoad *incoming_load_figures_locked(const IncomingLoad *load)
{
    MigrationFastLoad *info = g_new0(MigrationFastLoad, 1);
    FastloadFailure failure;
    FastloadStats stats;

    fastload_get_stats(load->engine, &stats);
    load_copy_figures(&stats, info);
    info->state = load_state(load->phase);
    if (*load->working_set) {
        info->working_set = load_working_set_locked(load, &stats.workset);
    }
    info->has_time_to_run_us = load->run_us != 0;
    info->time_to_run_us = load->run_us;
    info->has_time_to_complete_us = load->complete_us != 0;
    info->time_to_complete_us = load->complete_us;
    if (fastload_is_failing(load->engine, &failure)) {
        g_autoptr(Error) err = incoming_load_read_error_locked(load,
                                                               &failure);

        /* A load that fails before the guest runs does not go on. */
        info->error_desc = incoming_load_is_in(load, LOAD_GUEST_RUNS)
            ? g_strdup_printf("%s; goes on %s%s%s", error_get_pretty(err),
                              incoming_load_goes_on(&failure),
                              load->recover_desc ? "; migrate-recover: " : "",
                              load->recover_desc ?: "")
            : g_strdup(error_get_pretty(err));
    }
    return info;
}

MigrationFastLoad *migration_fastload_query(void)
{
    IncomingLoad *load = &incoming_load;

    QEMU_LOCK_GUARD(&load->lock);
    if (load->engine) {
        return incoming_load_figures_locked(load);
    }
    return load->last ? QAPI_CLONE(MigrationFastLoad, load->last) : NULL;
}

MigrationFastLoad *qmp_x_query_fast_load(Error **errp)
{
    MigrationFastLoad *info = migration_fastload_query();

    /* Without a load: state "none", and zero in every figure. */
    return info ?: g_new0(MigrationFastLoad, 1);
}

void migration_fastload_print(Monitor *mon, const MigrationFastLoad *stats)
{
    if (!stats) {
        return;
    }
    monitor_printf(mon, "Fast load:\n");
    monitor_printf(mon, "  State: \t\t%s\n",
                   MigrationFastLoadState_str(stats->state));
    monitor_printf(mon, "  Reader: \t\tthreads=%u, backend=%s\n",
                   stats->threads,
                   MigrationFastLoadBackend_str(stats->read_backend));
    monitor_printf(mon, "  Memory (MiB): \ttotal=%" PRIu64 ", zero=%" PRIu64
                   ", remaining=%" PRIu64 "\n", stats->total_bytes / MiB,
                   stats->zero_bytes / MiB, stats->remaining_bytes / MiB);
    monitor_printf(mon, "  Loaded (MiB): \turgent=%" PRIu64 ", hint=%" PRIu64
                   ", background=%" PRIu64 "\n", stats->urgent_bytes / MiB,
                   stats->hint_bytes / MiB, stats->background_bytes / MiB);
    monitor_printf(mon, "  Huge (MiB): \t\tmoved=%" PRIu64 ", collapsed=%"
                   PRIu64 "\n", stats->moved_bytes / MiB,
                   stats->collapsed_bytes / MiB);
    monitor_printf(mon, "  Faults (us): \t\tcount=%" PRIu64 ", p50=%" PRIu64
                   ", p95=%" PRIu64 ", p99=%" PRIu64 ", max=%" PRIu64 "\n",
                   stats->fault_count, stats->fault_latency_p50_us,
                   stats->fault_latency_p95_us, stats->fault_latency_p99_us,
                   stats->fault_latency_max_us);
    if (stats->shared_fault_count) {
        monitor_printf(mon, "  Of vhost-user: \tfaults=%" PRIu64 "\n",
                       stats->shared_fault_count);
    }
    monitor_printf(mon, "  Errors: \t\tretries=%" PRIu64 ", failed reads=%"
                   PRIu64 "\n", stats->retry_count, stats->error_count);
    if (stats->working_set) {
        monitor_printf(mon, "  Working set: \t\t%s, pages=%" PRIu64 ", runs=%u"
                       ", late=%" PRIu64 "%s%s\n",
                       MigrationFastLoadWorkingSetState_str(
                           stats->working_set->state),
                       stats->working_set->pages, stats->working_set->runs,
                       stats->working_set->late_pages,
                       stats->working_set->error_desc ? "; " : "",
                       stats->working_set->error_desc ?: "");
    }
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
