/*
 * Fast load of a mapped-ram snapshot: the calls QEMU makes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Purpose: turns RAM blocks of an incoming mapped-ram file into regions of
 *   the engine (qemu/fastload.h), lets the guest run while they fill, and
 *   reports.  Does not know how pages are read or placed.
 * Threads: the caller holds the BQL; nearly all calls come from the main
 *   thread.  migration_fastload_is_active(), _is_armed(), _recover() and
 *   _query() need no BQL and are safe from any thread, as is the command
 *   x-query-fast-load.  _want_shared() and _report_stray() are called
 *   without the BQL, by the thread that reads the backends' userfaultfds.
 * Detached: with x-fast-load-detach the migration is completed as soon as the
 *   guest may run, and the load goes on without it.
 * Off: with x-fast-load-threads=0 no call has an effect.
 * Order: prepare -> begin -> load_block* -> start -> loaded ->
 *   defer_completion.  A load that is complete ends by itself; one that fails
 *   before the guest may run is ended by cleanup.
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
 * migration_fastload_prepare: check that @addr can be loaded, and open the file
 *
 * Also tells vhost-user backends that memory will be missing.  When fast load
 * is off, only checks that no other setting needs it.  Returns false, with
 * @errp set, if a setting, a device or the host does not allow the load.
 */
bool migration_fastload_prepare(const MigrationAddress *addr, Error **errp);

/* QEMU could not open the prepared file, for @err: the migration has failed. */
void migration_fastload_not_opened(Error *err);

/* QEMU is about to read the stream.  If a file was prepared, it is that one. */
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
 * migration_fastload_unknown_block: this machine lacks the RAM block @name
 *
 * Returns -EINVAL; migration_fastload_loaded() tells the cause.
 */
int migration_fastload_unknown_block(const char *name);

/**
 * migration_fastload_start: all blocks are known; trap them, start threads
 *
 * Blocks while it loads memory that cannot be trapped.
 * Returns 0 or -errno; migration_fastload_loaded() tells the cause.
 */
int migration_fastload_start(void);

/**
 * migration_fastload_loaded: the whole stream was read, with result @ret
 *
 * Waits, five seconds at most, for the blocks that devices may read whole.
 * Returns @ret, or -errno if a read or a check of fast load has failed; its
 * cause then replaces what @errp said.  On success the status becomes
 * postcopy-active, unless the load is detached.
 */
int migration_fastload_loaded(int ret, Error **errp);

/**
 * migration_fastload_defer_completion: the guest has its run state
 *
 * Returns false when fast load is off or detached: the caller completes the
 * migration now.  True: fast load will complete it, once all RAM is in place:
 * it sets the status to completed and destroys the incoming state.
 */
bool migration_fastload_defer_completion(void);

/* May migration parameters be set to these? */
bool migration_fastload_check_parameters(const MigrationParameters *params,
                                         Error **errp);

/* May migration capabilities be changed? */
bool migration_fastload_check_capabilities(Error **errp);

/*
 * May an outgoing migration to @addr begin?  While pages are missing, only if
 * the load is detached; the migration then waits for each missing page that it
 * reads.  Refused are the file that is being loaded, and ways of migrating that
 * do not read each page: they would not wait for it.
 */
bool migration_fastload_check_outgoing(const MigrationAddress *addr,
                                       Error **errp);

/*
 * May the outgoing migration that has begun write to @fd?  Returns @fd if so;
 * otherwise closes it and returns -1.  Returns -1 when @fd is -1.
 */
int migration_fastload_check_outgoing_fd(int fd, Error **errp);

/* Does the status of the migration describe a load that is not detached? */
bool migration_fastload_owns_status(void);

/*
 * Adds one reason while pages are missing.  It is for managers, which look at
 * the reasons before they stop the guest or open a file; QEMU itself refuses
 * nothing because of it.
 */
void migration_fastload_add_blocked_reason(strList **reasons);

/* May QEMU load another snapshot now?  Not while pages are missing. */
bool migration_fastload_check_loadvm(Error **errp);

/*
 * Must the main loop leave its requests (reset, suspend, wake, stop) for later?
 * True while pages cannot be read, because vCPUs that wait for one would not
 * stop.  If QEMU is to end then, stops the vCPUs and returns false.
 */
bool migration_fastload_holds_requests(void);

/*
 * May a guest that runs be stopped?  Not while its pages cannot be read.  With
 * @errp NULL the reason is printed.
 */
bool migration_fastload_check_stop(Error **errp);

/*
 * May vm_stop() stop the guest for @state?  Called for those that do not call
 * migration_fastload_check_stop() first, such as a debugger: the reason is
 * printed.  With RUN_STATE_RESTORE_VM: as migration_fastload_check_loadvm().
 */
bool migration_fastload_may_stop(RunState state);

/* May all of memory be saved or dumped?  Not while it cannot be read. */
bool migration_fastload_check_save(Error **errp);

/* May @dev be unplugged?  Not memory that is being loaded. */
bool migration_fastload_check_unplug(DeviceState *dev, Error **errp);

/*
 * May a network device be given a vhost-user backend?  Not while a load is
 * under way: if fast load refused the backend later, QEMU would go on waiting
 * for it for ever.
 */
bool migration_fastload_check_vhost_user(Error **errp);

/*
 * A vhost-user backend has connected, perhaps not for the first time; @notifier
 * passes it messages about postcopy.  Returns false, with @errp set, if a load
 * is under way and the backend cannot wait for pages.
 */
bool migration_fastload_add_vhost_user(NotifierWithReturn *notifier,
                                       Error **errp);

/*
 * Called when postcopy probes the backend of @dev, by way of @notifier.  False,
 * with @errp set, if the probe is fast load's own and the backend cannot wait
 * for pages.
 */
bool migration_fastload_fits_vhost_user(const struct vhost_dev *dev,
                                        NotifierWithReturn *notifier,
                                        Error **errp);

/*
 * qemu_chr_fe_read_all() and qemu_chr_fe_write_all(), on the socket of the
 * backend of @dev.  @chr is QEMU's frontend of a character device, whose type
 * has another name in each version.  While fast load serves backends, one that
 * keeps QEMU waiting for a minute is disconnected, unless it waits for a page
 * itself; the call then returns as when the backend has ended.
 */
int migration_fastload_read_vhost_user(const struct vhost_dev *dev, void *chr,
                                       uint8_t *bytes, int len_bytes);
int migration_fastload_write_vhost_user(const struct vhost_dev *dev, void *chr,
                                        const void *bytes, int len_bytes);

/*
 * A backend has handed over its userfaultfd.  True: fast load serves it until
 * it is dropped; network postcopy must not read it.
 */
bool migration_fastload_add_shared(const struct PostCopyFD *pcfd);

/* @pcfd is no longer served: its backend has gone, or its load has ended. */
void migration_fastload_drop_shared(const struct PostCopyFD *pcfd);

/*
 * A backend waits for a page: at @address in its own address space, which is
 * @ram_off in @block.  True: fast load will wake it.  False: fast load did not
 * read this fault; network postcopy has to serve it.
 */
bool migration_fastload_want_shared(const struct PostCopyFD *pcfd,
                                    RAMBlock *block, uint64_t address,
                                    uint64_t ram_off);

/*
 * A backend has touched what is no guest memory.  Prints the line as
 * error_report() does, unless fast load serves that backend: it prints one of
 * its own, and only one.
 */
void migration_fastload_report_stray(const char *format, ...)
    G_GNUC_PRINTF(1, 2);

/* Marks the parameters of fast load as present, so that they are checked. */
void migration_fastload_init_parameters(MigrationParameters *params);

/* Copies fast load's parameters, strings included. */
void migration_fastload_show_parameters(MigrationParameters *ret_params,
                                        const MigrationParameters *now);

/*
 * Sets those of fast load's parameters that @wanted has, for a check.  Strings
 * are borrowed from @wanted.
 */
void migration_fastload_try_parameters(MigrationParameters *ret_params,
                                       const MigrateSetParameters *wanted);

/* The same for good: strings are copied, and a running load is told. */
void migration_fastload_set_parameters(MigrationParameters *params,
                                       const MigrateSetParameters *wanted);

/* Fast load's part of HMP's "info migrate_parameters". */
void migration_fastload_print_parameters(Monitor *mon,
                                         const MigrationParameters *params);

/* Migration parameters were set: a running load takes over its new rate. */
void migration_fastload_apply_parameters(void);

/* Pages are missing, or may be: guest memory must not be discarded. */
bool migration_fastload_is_active(void);

/*
 * Ends a load whose guest has not run; threads that wait for a page are
 * released and find zeros.  Frees the engine of a load that is complete and no
 * longer makes huge pages.  Does nothing otherwise: a guest that may run keeps
 * its memory.
 */
void migration_fastload_cleanup(void);

/*
 * migrate-recover while a fast load is active: goes on with the file that @uri
 * names, a copy or the same file.  Any thread.  Returns once @uri is parsed;
 * the event X_FAST_LOAD_RECOVERED tells whether the load reads that file.
 */
void migration_fastload_recover(const char *uri, Error **errp);

/*
 * QEMU ends: if the guest may run, stops the vCPUs.  After three seconds at
 * most, vCPUs that wait for a page count as stopped.  Under KVM, if there are
 * such vCPUs, or if others do not stop within four seconds, drains and flushes
 * the disks and ends the process.
 */
void migration_fastload_shutdown(void);

/* NULL: nothing was loaded yet.  The figures stay when a load has ended. */
MigrationFastLoad *migration_fastload_query(void);

/* The "fast-load" part of HMP's "info migrate". */
void migration_fastload_print(Monitor *mon, const MigrationFastLoad *stats);

#endif
