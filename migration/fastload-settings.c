/*
 * Fast load of a mapped-ram snapshot: its migration parameters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU handles each parameter in five places.  In each of them it calls one
 * function of this file, which handles all parameters of fast load.  Built with
 * and without liburing: the parameters exist in any case.
 */
#include "qemu/osdep.h"
#include "monitor/monitor.h"
#include "fastload.h"

void migration_fastload_init_parameters(MigrationParameters *params)
{
    params->has_x_fast_load_threads = true;
    params->has_x_fast_load_detach = true;
}

void migration_fastload_show_parameters(MigrationParameters *ret_params,
                                        const MigrationParameters *now)
{
    migration_fastload_init_parameters(ret_params);
    ret_params->x_fast_load_threads = now->x_fast_load_threads;
    ret_params->x_fast_load_detach = now->x_fast_load_detach;
    ret_params->x_fast_load_working_set =
        g_strdup(now->x_fast_load_working_set ?: "");
}

void migration_fastload_try_parameters(MigrationParameters *ret_params,
                                       const MigrateSetParameters *wanted)
{
    if (wanted->has_x_fast_load_threads) {
        ret_params->x_fast_load_threads = wanted->x_fast_load_threads;
    }
    if (wanted->has_x_fast_load_detach) {
        ret_params->x_fast_load_detach = wanted->x_fast_load_detach;
    }
    if (wanted->x_fast_load_working_set) {
        ret_params->x_fast_load_working_set = wanted->x_fast_load_working_set;
    }
}

void migration_fastload_set_parameters(MigrationParameters *params,
                                       const MigrateSetParameters *wanted)
{
    char *old = params->x_fast_load_working_set;

    migration_fastload_try_parameters(params, wanted);
    if (params->x_fast_load_working_set != old) {
        params->x_fast_load_working_set =
            g_strdup(params->x_fast_load_working_set);
        g_free(old);
    }
    migration_fastload_apply_parameters();
}

void migration_fastload_print_parameters(Monitor *mon,
                                         const MigrationParameters *params)
{
    monitor_printf(mon, "x-fast-load-threads: %u\n",
                   params->x_fast_load_threads);
    monitor_printf(mon, "x-fast-load-detach: %s\n",
                   params->x_fast_load_detach ? "on" : "off");
    monitor_printf(mon, "x-fast-load-working-set: '%s'\n",
                   params->x_fast_load_working_set);
}
