/*
 * fastload-bench: a run that records what the guest touches.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Before the first run of a contender that replays a working set, one more run
 * of it records the set.  The file has a name while it is written, and none
 * afterwards, so that it goes away with the last process that has it open,
 * however that ends.  Processes of later runs inherit the descriptor.
 *
 * A set that holds the contents of pages is read as the snapshot is, so with
 * simulated storage it gets a mount of its own.
 */
#include "bench.h"

bool rehearsal_is_needed(const Variant *variant)
{
    return variant->loader->read_set &&
           (variant->is_replayed ||
            !(variant->loader->knobs & LOADER_HAS_REPLAY));
}

/* The name of a file that does not exist yet. */
static char *rehearsal_name(const char *folder)
{
    static uint32_t count;

    return g_strdup_printf("%s/fastload-bench-%d-%u.set", folder,
                           (int)getpid(), count++);
}

static bool rehearsal_run(const MeasureConfig *config, const char *name,
                          MeasureTick *tick, void *opaque, RunResult *result,
                          GError **error)
{
    const Snapshot *snapshot = config->snapshot;
    Scenario scenario = *config->scenario;
    MeasureConfig rehearsed = *config;

    scenario.cache = CACHE_WARM;
    scenario.clone_count = 1;
    rehearsed.scenario = &scenario;
    rehearsed.snapshot = snapshot->origin ? snapshot->origin : snapshot;
    rehearsed.box = NULL;
    rehearsed.record_path = name;
    if (!measure_run(&rehearsed, tick, opaque, result)) {
        return false;
    }
    if (!result->is_ok) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "no working set was recorded: %s", result->error);
    }
    return result->is_ok;
}

static bool rehearsal_open(Rehearsal *r, const MeasureConfig *config,
                           const char *name, GError **error)
{
    const BenchLoader *loader = config->variant->loader;
    StorageMount *mount = config->snapshot->mount;
    g_autoptr(Set) set = NULL;

    r->fd = open(name, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "no working set was recorded: cannot open %s: %s", name,
                    g_strerror(errno));
        return false;
    }
    r->path = g_strdup_printf("/proc/self/fd/%d", r->fd);
    if (mount && loader->has_set_pages) {
        r->mount = storage_mount_beside(mount, r->fd, &r->contents_path,
                                        error);
        if (!r->mount) {
            return false;
        }
    } else {
        r->contents_path = g_strdup(r->path);
    }
    set = loader->read_set(config->snapshot, r->path, error);
    if (!set) {
        return false;
    }
    r->set = set_node(set);
    return true;
}

Rehearsal *rehearsal_new(const MeasureConfig *config, const char *folder,
                         MeasureTick *tick, void *opaque,
                         RunResult *result, GError **error)
{
    g_autoptr(Rehearsal) r = g_new0(Rehearsal, 1);
    g_autofree char *name = rehearsal_name(folder);
    bool is_open;

    r->fd = -1;
    is_open = rehearsal_run(config, name, tick, opaque, result, error) &&
              rehearsal_open(r, config, name, error);
    unlink(name);
    return is_open ? g_steal_pointer(&r) : NULL;
}

void rehearsal_close(Rehearsal *rehearsal)
{
    storage_mount_free(rehearsal->mount);
    rehearsal->mount = NULL;
    if (rehearsal->fd >= 0) {
        close(rehearsal->fd);
        rehearsal->fd = -1;
    }
}

void rehearsal_free(Rehearsal *rehearsal)
{
    if (!rehearsal) {
        return;
    }
    rehearsal_close(rehearsal);
    if (rehearsal->set) {
        json_node_unref(rehearsal->set);
    }
    g_free(rehearsal->contents_path);
    g_free(rehearsal->path);
    g_free(rehearsal);
}
