/*
 * Fast load of a mapped-ram snapshot: what is refused, and until when.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Asks QEMU's registries, not names of drivers: whatever pins guest memory
 * disables its discarding, and whatever lets another process touch it is on
 * the list of postcopy notifiers.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "hw/core/cpu.h"
#include "hw/mem/memory-device.h"
#include "hw/qdev-core.h"
#include "qobject/qdict.h"
#include "qom/object.h"
#include "system/runstate.h"
#include "fastload-internal.h"
#include "migration.h"
#include "options.h"
#include "postcopy-ram.h"
#include "trace.h"

/* virtio-gpu pins blobs by the memory's descriptor, past the page tables. */
static int load_find_blob(Object *obj, void *opaque)
{
    return object_dynamic_cast(obj, TYPE_DEVICE) &&
           object_property_find(obj, "blob") &&
           object_property_get_bool(obj, "blob", NULL);
}

/* Whatever is not plainly "off", as JSON or as text. */
static bool load_wants_blob(const QDict *opts)
{
    const char *text = qdict_get_try_str(opts, "blob");

    return text ? strcmp(text, "off") != 0
                : qdict_get_try_bool(opts, "blob", false);
}

/* virtio-gpu pins blobs by the memory's descriptor: no registry has them. */
static bool load_hide_device(DeviceListener *listener, const QDict *opts,
                             bool from_json, Error **errp)
{
    if (load_wants_blob(opts)) {
        error_setg(errp, "%s cannot be plugged while fast load is under way, "
                   "it needs all memory at once: wait until the migration is "
                   "completed", qdict_get_try_str(opts, "driver"));
    }
    return false;
}

static void load_device_unrealized(DeviceListener *listener, DeviceState *dev)
{
    incoming_load_drop_device(&incoming_load, dev);
}

static DeviceListener load_listener = {
    .hide_device = load_hide_device,
    .unrealize = load_device_unrealized,
};

bool incoming_load_check_machine(Error **errp)
{
    if (postcopy_has_notifiers()) {
        trace_fastload_load_refused("vhost-user");
        error_setg(errp, "x-fast-load-threads cannot be used with vhost-user: "
                   "its process reads guest memory by itself; remove the "
                   "device or set x-fast-load-threads to 0");
        return false;
    }
    if (object_child_foreach_recursive(object_get_root(), load_find_blob,
                                       NULL)) {
        trace_fastload_load_refused("blob");
        error_setg(errp, "x-fast-load-threads cannot be used with blobs of "
                   "virtio-gpu, which pin guest memory: set blob=off on the "
                   "device or x-fast-load-threads to 0");
        return false;
    }
    return true;
}

/*
 * VFIO, iommufd, vDPA, NVMe, SEV, and whatever else pins guest memory, refuse
 * by themselves to start while somebody requires that memory can be discarded.
 */
bool incoming_load_guard(IncomingLoad *load, Error **errp)
{
    if (ram_block_discard_require(true) < 0) {
        trace_fastload_load_refused("pinned memory");
        error_setg(errp, "x-fast-load-threads cannot be used: a device has "
                   "pinned guest memory; remove it or set "
                   "x-fast-load-threads to 0");
        return false;
    }
    device_listener_register(&load_listener);
    load->is_guarded = true;
    return true;
}

void incoming_load_unguard(IncomingLoad *load)
{
    if (load->is_guarded) {
        device_listener_unregister(&load_listener);
        ram_block_discard_require(false);
        load->is_guarded = false;
    }
}

bool migration_fastload_check_vhost_user(Error **errp)
{
    if (incoming_load_is_in(&incoming_load, LOAD_UNDER_WAY)) {
        trace_fastload_load_refused("vhost-user");
        error_setg(errp, "vhost-user cannot be used while fast load is under "
                   "way: its process reads guest memory by itself; wait until "
                   "the migration is completed");
        return false;
    }
    return true;
}

/* False, with what to do about it, while it is under way. */
static bool load_is_over(const char *hint, Error **errp)
{
    IncomingLoad *load = &incoming_load;

    QEMU_LOCK_GUARD(&load->lock);
    if (incoming_load_is_in(load, LOAD_UNDER_WAY)) {
        trace_fastload_load_refused(hint);
        error_setg(errp, "'%s' is still being loaded: %s", load->filename,
                   hint);
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
    return (params->x_fast_load_threads == incoming_load_threads() &&
            params->multifd_channels == migrate_multifd_channels() &&
            !(params->tls_creds && *params->tls_creds)) ||
           load_is_over("x-fast-load-threads, multifd-channels and "
                             "tls-creds cannot be changed before it is "
                             "completed", errp);
}

bool migration_fastload_check_capabilities(Error **errp)
{
    /* What ends the load would look for what others make at its begin. */
    return load_is_over("capabilities cannot be changed before it is "
                             "completed", errp);
}

bool migration_fastload_check_outgoing(Error **errp)
{
    return load_is_over(FASTLOAD_HINT_OUTGOING, errp);
}

bool migration_fastload_check_loadvm(Error **errp)
{
    return load_is_over("wait until the migration is completed before "
                             "loading a snapshot; if the guest was stopped "
                             "for it, 'cont' lets it go on", errp);
}

bool migration_fastload_check_stop(Error **errp)
{
    IncomingLoad *load = &incoming_load;
    Error *err = NULL;

    if (!runstate_is_running()) {
        return true;
    }
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        if (!incoming_load_is_in(load, LOAD_IN(PAUSED))) {
            return true;
        }
        trace_fastload_load_refused("stop");
        error_setg(&err, "vCPUs that wait for pages of '%s' would not stop, "
                   "as they cannot be read: use migrate-recover first, or "
                   "wait until the load goes on", load->filename);
    }
    if (errp) {
        error_propagate(errp, err);
    } else {
        error_report_err(err); /* the human monitor's stop does not ask */
    }
    return false;
}

bool migration_fastload_holds_requests(void)
{
    return incoming_load_is_in(&incoming_load, LOAD_IN(PAUSED)) &&
           runstate_is_running() &&
           qemu_shutdown_requested_get() == SHUTDOWN_CAUSE_NONE;
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
