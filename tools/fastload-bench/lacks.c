/*
 * fastload-bench: what this machine or this file lacks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Checked once, before the first run.  Contenders that need it are left out,
 * and a note says why; a contender that the command line names is an error
 * instead.  Starts nothing and measures nothing.
 */
#include "bench.h"

/* A run needs the guest's memory, and so much for page tables and records. */
#define NEED_MORE_BYTES (64ull << 20)
#define NEED_BOOKS_SHARE 64

/* How much memory a run needs. */
static uint64_t lacks_need_bytes(uint64_t guest_bytes)
{
    return guest_bytes + guest_bytes / NEED_BOOKS_SHARE + NEED_MORE_BYTES;
}

static bool lacks_check_cgroup(const char *what, uint64_t guest_bytes,
                               uint32_t clone_count, GError **error)
{
    uint64_t need_bytes = lacks_need_bytes(guest_bytes * clone_count);
    uint64_t most_bytes = 0;
    CgroupMemory memory;

    cgroup_get_memory("", &memory);
    if (need_bytes <= memory.free_bytes) {
        return true;
    }
    if (memory.free_bytes > NEED_MORE_BYTES) {
        most_bytes = (memory.free_bytes - NEED_MORE_BYTES) /
                     (NEED_BOOKS_SHARE + 1) * NEED_BOOKS_SHARE / clone_count;
    }
    g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                "%s: %" PRIu64 " MiB are needed, and the memory limit of this "
                "cgroup, %" PRIu64 " MiB, leaves %" PRIu64 " MiB: choose %"
                PRIu64 " MiB at most, or raise the limit", what,
                need_bytes >> 20, memory.limit_bytes >> 20,
                memory.free_bytes >> 20, most_bytes >> 20);
    return false;
}

bool lacks_check_memory(const char *what, uint64_t guest_bytes,
                        uint32_t clone_count, GError **error)
{
    uint64_t memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) *
                            sysconf(_SC_PAGESIZE);
    g_autofree char *who = g_strdup_printf(
        "%s: %u guest%s of %" PRIu64 " MiB", what, clone_count,
        clone_count > 1 ? "s" : "", guest_bytes >> 20);

    /* A product might not fit into 64 bits. */
    if (guest_bytes > memory_bytes / 10 * 9 / clone_count) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "%s: that is more than nine tenths of the machine's %"
                    PRIu64 " MiB of memory; choose a smaller size%s", who,
                    memory_bytes >> 20,
                    clone_count > 1 ? " or fewer clones" : "");
        return false;
    }
    return lacks_check_cgroup(who, guest_bytes, clone_count, error);
}

bool lacks_find_trap(const Plan *plan, Lacks *ret_lacks, GError **error)
{
    g_autoptr(GError) cause = NULL;
    guint i;

    if (trap_check(&cause)) {
        return true;
    }
    for (i = 0; i < plan->loaders->len; i++) {
        const BenchLoader *loader = plan->loaders->pdata[i];

        if (loader->knobs & LOADER_NEEDS_TRAP &&
            (plan->is_contenders_named || loader == plan->baseline)) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "%s cannot take part: %s", loader->name,
                        cause->message);
            return false;
        }
    }
    ret_lacks->trap_text = g_strdup(cause->message);
    return true;
}

bool lacks_find_direct(const Plan *plan, const Snapshot *snapshot,
                       Lacks *ret_lacks, GError **error)
{
    guint i;

    ret_lacks->has_no_direct = !storage_has_direct(snapshot);
    for (i = 0; i < plan->loaders->len; i++) {
        const BenchLoader *loader = plan->loaders->pdata[i];

        if (ret_lacks->has_no_direct && plan->is_direct_named &&
            loader->knobs & LOADER_HAS_DIRECT) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "the file system of %s has no O_DIRECT, which "
                        "--direct asks for: keep the snapshot on another "
                        "one, or leave --direct out", snapshot->label);
            return false;
        }
    }
    return true;
}

bool lacks_leave_out(const Lacks *lacks, const BenchLoader *loader,
                     bool is_direct)
{
    return (lacks->trap_text && loader->knobs & LOADER_NEEDS_TRAP) ||
           (lacks->has_no_direct && is_direct &&
            loader->knobs & LOADER_HAS_DIRECT);
}

/* "a, b and c": the loaders of @plan that have @knob. */
static char *lacks_names(const Plan *plan, uint32_t knob)
{
    GString *text = g_string_new(NULL);
    const char *last = NULL;
    guint i;

    for (i = 0; i < plan->loaders->len; i++) {
        const BenchLoader *loader = plan->loaders->pdata[i];

        if (!(loader->knobs & knob)) {
            continue;
        }
        if (last) {
            g_string_append_printf(text, "%s%s", text->len ? ", " : "", last);
        }
        last = loader->name;
    }
    if (last) {
        g_string_append_printf(text, "%s%s", text->len ? " and " : "", last);
    }
    return g_string_free(text, FALSE);
}

void lacks_add_notes(const Lacks *lacks, const Plan *plan, GPtrArray *notes)
{
    g_autofree char *trapped = lacks_names(plan, LOADER_NEEDS_TRAP);
    g_autofree char *direct = lacks_names(plan, LOADER_HAS_DIRECT);
    const GArray *list = plan->values[KNOB_DIRECT];
    /* off, on, or both in either order */
    bool is_wanted = *direct && (g_array_index(list, uint64_t, 0) ||
                                 g_array_index(list, uint64_t,
                                               list->len - 1));

    if (lacks->trap_text && *trapped) {
        notes_add(notes, "LEFT OUT: %s: %s", trapped, lacks->trap_text);
    }
    if (lacks->has_no_direct && is_wanted) {
        notes_add(notes, "LEFT OUT: %s with O_DIRECT, which the snapshot's "
                  "file system does not have", direct);
    }
    if (lacks->has_no_direct) {
        notes_add(notes, "device: unknown, for the snapshot's file system has "
                  "no O_DIRECT");
    }
}
