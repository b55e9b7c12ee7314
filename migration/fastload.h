/*
 * Fast load of a mapped-ram snapshot: the calls QEMU makes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Purpose: turns RAM blocks of an incoming mapped-ram file into regions of
 *   the engine (qemu/fastload.h), lets the guest run while they fill, and
 *   reports.  Does not know how pages are read or placed.
 * Threads: everything runs with the BQL held, on the thread that loads the
 *   stream, except migration_fastload_is_active(), _recover() and _query(),
 *   safe from any thread, as is the command x-query-fast-load.
 * Detached: with x-fast-load-detach the migration is completed as soon as the
 *   guest may run, and the load lives on by itself.
 * Off: with x-fast-load-threads=0 no call has an effect.
 * Order: prepare -> begin -> load_block* -> start -> loaded ->
 *   defer_completion; cleanup ends the load and is what a failure calls; but
 *   a load that is complete ends by itself.
 * Errors: Error ** is set on failure, nothing is logged except warnings.
 */
#ifndef QEMU_MIGRATION_FASTLOAD_H
#define QEMU_MIGRATION_FASTLOAD_H

#include "qapi/qapi-types-fastload.h"
#include "qapi/qapi-types-migration.h"
#include "qapi/qapi-types-run-state.h"
#include "qemu/notify.h"
#include "qemu/typedefs.h"

struct PostCopyFD;
struct vhost_dev;

/**
 * migration_fastload_prepare: may fast load be used with @addr, if it is on?
 *
 * Returns true when it is off, too.
 */
bool migration_fastload_prepare(const MigrationAddress *addr, Error **errp);

/* The file that was prepared for could not be opened: the migration failed. */
void migration_fastload_not_opened(Error *err);

/* The stream begins; what is prepared is loaded by fast load. */
void migration_fastload_begin(void);

/* Is the stream that is being read loaded by fast load? */
bool migration_fastload_is_armed(void);

/**
 * migration_fastload_load_block: hand a RAM block to the engine
 * @f: positioned behind the block's name and @length; left behind its pages
 * @length: bytes of RAM, as the file says
 *
 * Checks header and bitmap, empties the block.
 * Returns 0 or -errno; migration_fastload_loaded() tells the cause.
 */
int migration_fastload_load_block(QEMUFile *f, RAMBlock *block,
                                  uint64_t length);

/**
 * migration_fastload_unknown_block: the file has a RAM block @name, we have not
 *
 * Returns -EINVAL; migration_fastload_loaded() tells the cause.
 */
int migration_fastload_unknown_block(const char *name);

/**
 * migration_fastload_start: all blocks are known; trap them, start threads
 *
 * Returns 0 or -errno; migration_fastload_loaded() tells the cause.
 */
int migration_fastload_start(void);

/**
 * migration_fastload_loaded: the whole stream was read, with result @ret
 *
 * Returns @ret, or -errno when fast load failed underneath; @errp then says
 * the cause, in place of what it said.  On success the status becomes
 * postcopy-active, unless the load is detached.
 */
int migration_fastload_loaded(int ret, Error **errp);

/**
 * migration_fastload_defer_completion: the guest has its run state
 *
 * Returns false when fast load is off, or detached: the caller completes the
 * migration.  Otherwise the status becomes completed, and the incoming state is
 * destroyed, when all RAM is in place.
 */
bool migration_fastload_defer_completion(void);

/* May migration parameters be set to these? */
bool migration_fastload_check_parameters(const MigrationParameters *params,
                                         Error **errp);

/* May migration capabilities be changed? */
bool migration_fastload_check_capabilities(Error **errp);

/*
 * May an outgoing migration to @addr begin?  While pages are missing only of a
 * load that is detached: it reads each page, and so waits for those that are
 * missing.  Not to the file that is being loaded, and not in a way that needs
 * all memory at once or leaves some of it where it is.
 */
bool migration_fastload_check_outgoing(const MigrationAddress *addr,
                                       Error **errp);

/*
 * May the outgoing migration that has begun write to @fd?  Returns it, or
 * closes it and returns -1.  With -1 does nothing.
 */
int migration_fastload_check_outgoing_fd(int fd, Error **errp);

/* Is the status of the migration that of a load, and of nobody else? */
bool migration_fastload_owns_status(void);

/*
 * While pages are missing, a reason for managers, which look at these before
 * they stop the guest or open a file; QEMU itself does not go by it.
 */
void migration_fastload_add_blocked_reason(strList **reasons);

/* May a snapshot be loaded over it?  Not while pages are missing. */
bool migration_fastload_check_loadvm(Error **errp);

/*
 * Requests to the main loop, to reset, suspend, wake or stop the guest, wait:
 * its pages cannot be read, and vCPUs that wait for one would not stop.  False
 * when QEMU is to end.
 */
bool migration_fastload_holds_requests(void);

/*
 * May a guest that runs be stopped?  Not while its pages cannot be read.  With
 * @errp NULL the reason is printed.
 */
bool migration_fastload_check_stop(Error **errp);

/*
 * The same for a debugger, which does not ask before: the reason is printed.
 * For loading a snapshot the guest is not stopped, either, while that is
 * refused.
 */
bool migration_fastload_may_stop(RunState state);

/* May all of memory be saved or dumped?  Not while it cannot be read. */
bool migration_fastload_check_save(Error **errp);

/* May @dev be unplugged?  Not memory that is being loaded. */
bool migration_fastload_check_unplug(DeviceState *dev, Error **errp);

/*
 * May a network device be given a vhost-user backend?  Not while a load is
 * under way: QEMU would wait for ever for one that is refused.
 */
bool migration_fastload_check_vhost_user(Error **errp);

/*
 * A vhost-user backend is there, maybe again: @notifier tells it of postcopy.
 * While a load is under way it is refused if it cannot wait for pages.
 */
bool migration_fastload_add_vhost_user(NotifierWithReturn *notifier,
                                       Error **errp);

/*
 * Asked by a probe whether the backend of @dev can wait for pages: false if it
 * is fast load's probe, and it cannot.
 */
bool migration_fastload_fits_vhost_user(const struct vhost_dev *dev,
                                        Error **errp);

/*
 * A backend has handed over its userfaultfd.  True: fast load serves it, and
 * until it is dropped nobody else is to.
 */
bool migration_fastload_add_shared(const struct PostCopyFD *pcfd);

/* The backend of @pcfd is going, or has been told of the end. */
void migration_fastload_drop_shared(const struct PostCopyFD *pcfd);

/*
 * A backend waits for a page: at @address there, at @ram_off in @block here.
 * True: it will be woken; false: the fault was not read by fast load.
 */
bool migration_fastload_want_shared(const struct PostCopyFD *pcfd,
                                    RAMBlock *block, uint64_t address,
                                    uint64_t ram_off);

/* Ours among the parameters are checked whenever any is set. */
void migration_fastload_init_parameters(MigrationParameters *params);

/* Copies ours of @now to @ret_params, whose strings are the caller's. */
void migration_fastload_show_parameters(MigrationParameters *ret_params,
                                        const MigrationParameters *now);

/* As @wanted would have them, to be checked: strings stay those of @wanted. */
void migration_fastload_try_parameters(MigrationParameters *ret_params,
                                       const MigrateSetParameters *wanted);

/* As @wanted has them, from now on; a running load minds what it can. */
void migration_fastload_set_parameters(MigrationParameters *params,
                                       const MigrateSetParameters *wanted);

/* Ours in HMP's "info migrate_parameters". */
void migration_fastload_print_parameters(Monitor *mon,
                                         const MigrationParameters *params);

/* Migration parameters were set: those that a running load minds count now. */
void migration_fastload_apply_parameters(void);

/* Pages are missing, or may be: guest memory must not be discarded. */
bool migration_fastload_is_active(void);

/*
 * End the load.  Pages that are missing become zero: the guest never ran.  A
 * load that is complete is left to mend huge pages, and ends by itself.
 */
void migration_fastload_cleanup(void);

/*
 * migrate-recover while a fast load is active: read what failed from @uri, a
 * copy, or the same file.  Any thread.  Returns once @uri is parsed; the event
 * X_FAST_LOAD_RECOVERED tells whether the load goes on.
 */
void migration_fastload_recover(const char *uri, Error **errp);

/*
 * QEMU ends: stop the vCPUs.  Those that wait for pages which do not come
 * count as stopped; if all else waits for such pages, too, the process is
 * ended.
 */
void migration_fastload_shutdown(void);

/* NULL when there is nothing to tell; figures stay after completion. */
MigrationFastLoad *migration_fastload_query(void);

/* The "fast-load" part of HMP's "info migrate". */
void migration_fastload_print(Monitor *mon, const MigrationFastLoad *stats);

#endif
