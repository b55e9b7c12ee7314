/*
 * Fast load of a mapped-ram snapshot: what is refused, and until when.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Asks QEMU's registries, not names of drivers: whatever pins guest memory
 * disables its discarding, and whatever lets another process touch it is on
 * the list of postcopy notifiers.  What no registry knows is found by what it
 * does (a block driver that is handed guest memory), or at last by its type.
 */
#include "qemu/osdep.h"
#include "block/block_int.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "hw/core/cpu.h"
#include "hw/mem/memory-device.h"
#include "hw/qdev-core.h"
#include "qobject/qdict.h"
#include "qom/object.h"
#include "system/runstate.h"
#include "system/runstate-action.h"
#include "fastload-internal.h"
#include "migration.h"
#include "options.h"
#include "postcopy-ram.h"
#include "trace.h"

#define HINT_WAIT \
    "Wait until x-query-fast-load has the state 'completed'."
#define HINT_REMOVE "Remove it, or set x-fast-load-threads to 0."
/* How often held requests look whether pages can be read again. */
#define HOLD_POLL_MS 50
/* If somebody has waited so long, storage that hangs counts as failing. */
#define LOAD_HANGS_NS (500 * SCALE_MS)
/*
 * For so long after a pause old waits do not count as hanging.  The engine
 * needs a second at most until it has tried again all that failed.
 */
#define LOAD_RESUME_NS (1500 * SCALE_MS)

/* virtio-gpu pins blobs by the memory's descriptor, not by page tables. */
static int load_find_blob(Object *obj, void *opaque)
{
    return object_dynamic_cast(obj, TYPE_DEVICE) &&
           object_property_find(obj, "blob") &&
           object_property_get_bool(obj, "blob", NULL);
}

/* Does another process map guest memory without knowing about postcopy? */
static int load_find_remote(Object *obj, void *opaque)
{
    return object_dynamic_cast(obj, "x-remote-machine") ||
           object_dynamic_cast(obj, "x-pci-proxy-dev");
}

/*
 * Is there a block driver whose device or vhost-user process reads and writes
 * guest memory by itself?  Only such drivers have this callback.
 */
static bool load_has_mapping_node(void)
{
    BlockDriverState *bs = NULL;

    while ((bs = bdrv_next_all_states(bs))) {
        if (bs->drv && bs->drv->bdrv_register_buf) {
            return true;
        }
    }
    return false;
}

/* Does @opts have "blob", and not as off?  It may be JSON or text. */
static bool load_wants_blob(const QDict *opts)
{
    const char *text = qdict_get_try_str(opts, "blob");

    return text ? strcmp(text, "off") != 0
                : qdict_get_try_bool(opts, "blob", false);
}

/* Refuses devices that need all memory but are in no registry. */
static bool load_hide_device(DeviceListener *listener, const QDict *opts,
                             bool from_json, Error **errp)
{
    if (incoming_load.is_guarded &&
        (load_wants_blob(opts) ||
         (qdict_haskey(opts, "drive") && load_has_mapping_node()))) {
        incoming_load_refuse(errp, "device that needs all memory", HINT_WAIT,
            "%s cannot be plugged while fast load is under way, it needs all "
            "memory at once", qdict_get_try_str(opts, "driver"));
    }
    return false; /* nothing is hidden: @errp alone refuses */
}

static void load_device_unrealized(DeviceListener *listener, DeviceState *dev)
{
    incoming_load_drop_device(&incoming_load, dev);
}

static DeviceListener load_listener = {
    .hide_device = load_hide_device,
    .unrealize = load_device_unrealized,
};

/*
 * What must be loaded before the guest runs, because something accesses guest
 * memory without using QEMU's page tables; @why says what that is.
 */
static LoadEager load_find_eager(IncomingLoad *load, Error **why)
{
    load->is_pinned = ram_block_discard_is_disabled();
    if (load->is_pinned) {
        error_setg(why, "a device has pinned guest memory");
        return LOAD_EAGER_ALL;
    }
    if (load_has_mapping_node()) {
        error_setg(why, "the device of a block driver, such as "
                   "virtio-blk-vhost-user, reads guest memory by itself");
        return LOAD_EAGER_ALL;
    }
    if (object_child_foreach_recursive(object_get_root(), load_find_blob,
                                       NULL)) {
        error_setg(why, "blobs of virtio-gpu pin guest memory");
        return LOAD_EAGER_ALL;
    }
    if (!incoming_load_can_serve_shared(why)) {
        return LOAD_EAGER_SHARED;
    }
    return LOAD_EAGER_NONE;
}

bool incoming_load_check_machine(IncomingLoad *load, Error **errp)
{
    g_autoptr(Error) why = NULL;

    if (object_child_foreach_recursive(object_get_root(), load_find_remote,
                                       NULL)) {
        return incoming_load_refuse(errp, "remote", HINT_REMOVE,
            "x-fast-load-threads cannot be used with x-remote or "
            "x-pci-proxy-dev: another process reads guest memory by itself");
    }
    load->eager = load_find_eager(load, &why);
    if (load->eager != LOAD_EAGER_NONE) {
        warn_report("fast load: %s: %s is loaded before the guest runs",
                    error_get_pretty(why), load->eager == LOAD_EAGER_ALL
                    ? "all memory" : "shared memory");
    }
    return true;
}

/*
 * VFIO, iommufd, vDPA, NVMe, SEV, and whatever else pins guest memory, refuse
 * by themselves to start while somebody requires that memory can be discarded.
 */
void incoming_load_guard(IncomingLoad *load)
{
    int ret;

    if (load->is_pinned) {
        return; /* nothing is discarded, and nothing will be missing */
    }
    ret = ram_block_discard_require(true);
    assert(ret == 0); /* load_find_eager() has asked for what forbids it */
    load->is_guarded = true;
}

void incoming_load_unguard(IncomingLoad *load)
{
    if (load->is_guarded) {
        ram_block_discard_require(false);
        load->is_guarded = false;
    }
}

static void load_look_again(void *opaque)
{
    /* The main loop has woken up: that is all. */
}

static void load_run_state_changed(void *opaque, bool is_running,
                                   RunState state)
{
    IncomingLoad *load = opaque;

    if (is_running && load->engine) {
        fastload_guest_runs(load->engine);
    }
}

void incoming_load_listen(IncomingLoad *load)
{
    load->hold_timer = timer_new_ms(QEMU_CLOCK_REALTIME, load_look_again,
                                    NULL);
    load->run_entry =
        qemu_add_vm_change_state_handler(load_run_state_changed, load);
    device_listener_register(&load_listener);
}

void incoming_load_unlisten(IncomingLoad *load)
{
    if (load->hold_timer) {
        device_listener_unregister(&load_listener);
        qemu_del_vm_change_state_handler(load->run_entry);
        timer_free(load->hold_timer);
        load->hold_timer = NULL;
    }
}

bool migration_fastload_check_vhost_user(Error **errp)
{
    if (incoming_load_is_in(&incoming_load, LOAD_UNDER_WAY)) {
        return incoming_load_refuse(errp, "vhost-user", HINT_WAIT,
            "a network device cannot be given a vhost-user backend while fast "
            "load is under way");
    }
    return true;
}

/*
 * Is the incoming migration still going on?  It needs its settings until the
 * load is complete; if that is detached, until the guest has its run state.
 */
static bool load_has_migration_locked(const IncomingLoad *load)
{
    return incoming_load_is_in(load, LOAD_UNDER_WAY) &&
           !(load->is_detached && load->has_guest);
}

static bool load_refuse_locked(const IncomingLoad *load, const char *what,
                               const char *reason, const char *hint,
                               Error **errp)
{
    return incoming_load_refuse(errp, what, hint, "'%s' is still being loaded: "
                                "%s", load->filename, reason);
}

/* False, with @errp set to @reason, while the incoming migration goes on. */
static bool load_leaves_migration(const char *what, const char *reason,
                                  const char *hint, Error **errp)
{
    IncomingLoad *load = &incoming_load;

    QEMU_LOCK_GUARD(&load->lock);
    return !load_has_migration_locked(load) ||
           load_refuse_locked(load, what, reason, hint, errp);
}

bool migration_fastload_check_parameters(const MigrationParameters *params,
                                         Error **errp)
{
    const MigrationParameters *now = &migrate_get_current()->parameters;

    if (!params->has_x_fast_load_threads) {
        return true;
    }
    if (params->x_fast_load_threads > FASTLOAD_WORKER_COUNT_MAX) {
        return incoming_load_refuse(errp, "threads", NULL,
            "Parameter 'x-fast-load-threads' expects a value between 0 and %d",
            FASTLOAD_WORKER_COUNT_MAX);
    }
    /* With tls-creds and mapped-ram no parameter can be changed any more. */
    return (!strcmp(incoming_load_working_set(params),
                    incoming_load_working_set(now)) &&
            params->x_fast_load_threads == incoming_load_threads() &&
            params->x_fast_load_detach == now->x_fast_load_detach &&
            params->multifd_channels == migrate_multifd_channels() &&
            params->direct_io == now->direct_io &&
            params->mode == now->mode &&
            !(params->tls_creds && *params->tls_creds)) ||
           load_leaves_migration("parameters", "x-fast-load-threads, "
               "x-fast-load-detach, x-fast-load-working-set, multifd-channels, "
               "direct-io, mode and tls-creds cannot be changed before it is "
               "completed", HINT_WAIT, errp);
}

bool migration_fastload_check_capabilities(Error **errp)
{
    /* The end of the load undoes what capabilities made the start set up. */
    return load_leaves_migration("capabilities", "capabilities cannot be "
                                 "changed before it is completed", HINT_WAIT,
                                 errp);
}

bool migration_fastload_check_loadvm(Error **errp)
{
    IncomingLoad *load = &incoming_load;

    QEMU_LOCK_GUARD(&load->lock);
    return !incoming_load_is_in(load, LOAD_UNDER_WAY) ||
           load_refuse_locked(load, "loadvm", "no other snapshot can be loaded "
                              "before it is completed", HINT_WAIT, errp);
}

/* Threads may still wait for pages that failed, but not for long. */
static bool load_has_just_resumed_locked(const IncomingLoad *load)
{
    return load->resumed_ns &&
           qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - load->resumed_ns <
           LOAD_RESUME_NS;
}

/*
 * Would a thread that touches a missing page wait, and nobody know for how
 * long?  So it is while reads fail, while storage hangs, and after recovery
 * until a page that was waited for has come from the copy.
 */
static bool load_is_unreadable_locked(IncomingLoad *load)
{
    FastloadFailure failure;

    if (!incoming_load_is_in(load, LOAD_IN(LOADING))) {
        return incoming_load_is_in(load, LOAD_IN(PAUSED));
    }
    load->is_copy_new = load->is_copy_new &&
                        fastload_has_failed_faults(load->engine);
    return load->is_copy_new || fastload_is_failing(load->engine, &failure) ||
           (!load_has_just_resumed_locked(load) &&
            fastload_oldest_fault_ns(load->engine) >= LOAD_HANGS_NS);
}

/* False while pages cannot be read; the error begins with @cause. */
static bool load_is_readable(const char *what, const char *cause, Error **errp)
{
    IncomingLoad *load = &incoming_load;

    QEMU_LOCK_GUARD(&load->lock);
    if (load_is_unreadable_locked(load)) {
        return incoming_load_refuse(errp, what,
            "Wait until the load goes on, or use migrate-recover when it is "
            "paused.", "%s, as pages of '%s' cannot be read or do not come",
            cause, load->filename);
    }
    return true;
}

bool migration_fastload_check_stop(Error **errp)
{
    Error *err = NULL;

    if (runstate_is_running() &&
        !load_is_readable("stop", "vCPUs would not stop", &err)) {
        if (errp) {
            error_propagate(errp, err);
        } else {
            error_report_err(err); /* the human monitor's stop does not ask */
        }
        return false;
    }
    return true;
}

bool migration_fastload_may_stop(RunState state)
{
    if (state == RUN_STATE_RESTORE_VM) {
        return migration_fastload_check_loadvm(NULL);
    }
    /*
     * For other states QEMU has asked before, or must stop the guest: it would
     * save a guest that runs, or lose a request of the main loop.
     */
    return state != RUN_STATE_PAUSED || migration_fastload_check_stop(NULL);
}

bool migration_fastload_check_save(Error **errp)
{
    return load_is_readable("save", "memory cannot be saved", errp);
}

static bool load_is_this_file(const struct stat *ours,
                              const struct stat *theirs)
{
    return S_ISBLK(ours->st_mode)
        ? S_ISBLK(theirs->st_mode) && ours->st_rdev == theirs->st_rdev
        : ours->st_dev == theirs->st_dev && ours->st_ino == theirs->st_ino;
}

/* False: the file that QEMU would write to is the one that is loaded. */
static bool load_may_overwrite(IncomingLoad *load, const struct stat *theirs,
                               Error **errp)
{
    /* Not fstat() of the file that is read: its storage may hang. */
    QEMU_LOCK_GUARD(&load->lock);
    if (!load_is_this_file(&load->file_stat, theirs) &&
        !load_is_this_file(&load->copy_stat, theirs)) {
        return true;
    }
    return load_refuse_locked(load, "migrate", "it cannot be written to",
                              "Save to another file. " HINT_WAIT, errp);
}

/* The same of @filename, which QEMU would empty. */
static bool load_may_empty(IncomingLoad *load, const char *filename,
                           Error **errp)
{
    g_autoptr(QIOChannelFile) ioc = NULL;
    struct stat theirs;
    bool is_known = stat(filename, &theirs) == 0;

    if (!is_known && g_str_has_prefix(filename, "/dev/fdset/")) {
        /* The descriptor that QEMU would choose to write to. */
        ioc = qio_channel_file_new_path(filename, O_WRONLY, 0, NULL);
        is_known = ioc && fstat(ioc->fd, &theirs) == 0;
    }
    return !is_known || load_may_overwrite(load, &theirs, errp);
}

/*
 * What about @addr or the settings makes a migration that does not wait for
 * each missing page; NULL: nothing.
 */
static const char *load_unfit_outgoing(const MigrationAddress *addr)
{
    /* background-snapshot: QEMU itself finds that memory is trapped already. */
    return migrate_ignore_shared() ? "x-ignore-shared" :
           migrate_mode() != MIG_MODE_NORMAL ? MigMode_str(migrate_mode()) :
           addr->transport == MIGRATION_ADDRESS_TYPE_RDMA ? "RDMA" : NULL;
}

bool migration_fastload_check_outgoing(const MigrationAddress *addr,
                                       Error **errp)
{
    IncomingLoad *load = &incoming_load;
    const char *unfit = load_unfit_outgoing(addr);

    if (!load_leaves_migration("migrate", "the guest cannot be migrated before "
                               "it is completed", FASTLOAD_HINT_OUTGOING,
                               errp) ||
        !load_is_readable("migrate", "memory cannot be saved", errp)) {
        return false;
    }
    if (!incoming_load_is_in(load, LOAD_MISSING)) {
        return true;
    }
    if (unfit) {
        QEMU_LOCK_GUARD(&load->lock);
        return incoming_load_refuse(errp, "migrate", HINT_WAIT,
            "'%s' is still being loaded: the guest cannot be migrated with %s, "
            "which does not wait for missing pages", load->filename, unfit);
    }
    return addr->transport != MIGRATION_ADDRESS_TYPE_FILE ||
           load_may_empty(load, addr->u.file.filename, errp);
}

int migration_fastload_check_outgoing_fd(int fd, Error **errp)
{
    struct stat theirs;

    if (fd >= 0 && incoming_load_is_in(&incoming_load, LOAD_MISSING) &&
        fstat(fd, &theirs) == 0 &&
        !load_may_overwrite(&incoming_load, &theirs, errp)) {
        close(fd);
        return -1;
    }
    return fd;
}

void migration_fastload_add_blocked_reason(strList **reasons)
{
    IncomingLoad *load = &incoming_load;

    QEMU_LOCK_GUARD(&load->lock);
    if (incoming_load_is_in(load, LOAD_UNDER_WAY) &&
        !incoming_load_is_in(load, LOAD_IN(COMPLETE))) {
        QAPI_LIST_PREPEND(*reasons, g_strdup_printf("'%s' is still being "
                          "loaded: the guest can be saved or migrated once all "
                          "of its memory is in place", load->filename));
    }
}

bool migration_fastload_holds_requests(void)
{
    IncomingLoad *load = &incoming_load;
    bool ends = qemu_shutdown_requested_get() != SHUTDOWN_CAUSE_NONE &&
                shutdown_action != SHUTDOWN_ACTION_PAUSE;

    if (!incoming_load_is_in(load, LOAD_MISSING)) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        if (!load_is_unreadable_locked(load)) {
            return false;
        }
    }
    if (ends) {
        /* Requests that were held come first; they would wait for vCPUs. */
        incoming_load_stop_vcpus(load);
        return false;
    }
    /* Look again: nobody tells the main loop when a short failure is over. */
    timer_mod(load->hold_timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + HOLD_POLL_MS);
    return true;
}

bool migration_fastload_check_unplug(DeviceState *dev, Error **errp)
{
    if (migration_fastload_is_active() &&
        object_dynamic_cast(OBJECT(dev), TYPE_MEMORY_DEVICE)) {
        return incoming_load_refuse(errp, "unplugging memory", HINT_WAIT,
            "memory cannot be unplugged while it is being loaded");
    }
    return true;
}
