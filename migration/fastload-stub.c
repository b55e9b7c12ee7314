/*
 * Fast load of a mapped-ram snapshot, where liburing is not built in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "chardev/char-fe.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-fastload.h"
#include "qemu/error-report.h"
#include "fastload.h"
#include "migration.h"

bool migration_fastload_prepare(const MigrationAddress *addr, Error **errp)
{
    const MigrationParameters *params = &migrate_get_current()->parameters;
    const char *working_set = params->x_fast_load_working_set;

    if (params->x_fast_load_threads || params->x_fast_load_detach ||
        (working_set && *working_set)) {
        error_setg(errp, "x-fast-load-threads, x-fast-load-detach and "
                   "x-fast-load-working-set need a QEMU built with liburing; "
                   "set them to 0, off and the empty string");
        return false;
    }
    return true;
}

void migration_fastload_not_opened(Error *err)
{
}

void migration_fastload_begin(void)
{
}

bool migration_fastload_is_armed(void)
{
    return false;
}

int migration_fastload_load_block(QEMUFile *f, RAMBlock *block,
                                  uint64_t length)
{
    g_assert_not_reached();
}

int migration_fastload_unknown_block(const char *name)
{
    return -EINVAL;
}

int migration_fastload_start(void)
{
    return 0;
}

int migration_fastload_loaded(int ret, Error **errp)
{
    return ret;
}

bool migration_fastload_defer_completion(void)
{
    return false;
}

bool migration_fastload_is_active(void)
{
    return false;
}

void migration_fastload_cleanup(void)
{
}

void migration_fastload_recover(const char *uri, Error **errp)
{
    g_assert_not_reached();
}

void migration_fastload_shutdown(void)
{
}

MigrationFastLoad *migration_fastload_query(void)
{
    return NULL;
}

MigrationFastLoad *qmp_x_query_fast_load(Error **errp)
{
    return g_new0(MigrationFastLoad, 1); /* state "none" */
}

void migration_fastload_print(Monitor *mon, const MigrationFastLoad *stats)
{
}

void migration_fastload_apply_parameters(void)
{
}

bool migration_fastload_check_parameters(const MigrationParameters *params,
                                         Error **errp)
{
    return true;
}

bool migration_fastload_check_outgoing(const MigrationAddress *addr,
                                       Error **errp)
{
    return true;
}

int migration_fastload_check_outgoing_fd(int fd, Error **errp)
{
    return fd;
}

bool migration_fastload_owns_status(void)
{
    return false;
}

void migration_fastload_add_blocked_reason(strList **reasons)
{
}

bool migration_fastload_check_stop(Error **errp)
{
    return true;
}

bool migration_fastload_may_stop(RunState state)
{
    return true;
}

bool migration_fastload_check_save(Error **errp)
{
    return true;
}

bool migration_fastload_check_unplug(DeviceState *dev, Error **errp)
{
    return true;
}

bool migration_fastload_check_loadvm(Error **errp)
{
    return true;
}

bool migration_fastload_check_capabilities(Error **errp)
{
    return true;
}

bool migration_fastload_check_vhost_user(Error **errp)
{
    return true;
}

bool migration_fastload_holds_requests(void)
{
    return false;
}

bool migration_fastload_add_vhost_user(NotifierWithReturn *notifier,
                                       Error **errp)
{
    return true;
}

bool migration_fastload_add_shared(const struct PostCopyFD *pcfd)
{
    return false;
}

void migration_fastload_drop_shared(const struct PostCopyFD *pcfd)
{
}

bool migration_fastload_want_shared(const struct PostCopyFD *pcfd,
                                    RAMBlock *block, uint64_t address,
                                    uint64_t ram_off)
{
    return false;
}

void migration_fastload_report_stray(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    error_vreport(format, args);
    va_end(args);
}

bool migration_fastload_fits_vhost_user(const struct vhost_dev *dev,
                                        NotifierWithReturn *notifier,
                                        Error **errp)
{
    return true;
}

int migration_fastload_read_vhost_user(const struct vhost_dev *dev, void *chr,
                                       uint8_t *bytes, int len_bytes)
{
    return qemu_chr_fe_read_all(chr, bytes, len_bytes);
}

int migration_fastload_write_vhost_user(const struct vhost_dev *dev, void *chr,
                                        const void *bytes, int len_bytes)
{
    return qemu_chr_fe_write_all(chr, bytes, len_bytes);
}
