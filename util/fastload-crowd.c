/*
 * fastload crowd: are processors short?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Many guests that are restored at once share few processors.  Then the
 * processor time of a load counts for more than how long one page takes, and
 * the engine answers faults with whole chunks (util/fastload-whole.c), unless a
 * working set is replayed, and holds its background back
 * (fastload_sched_held_ns()).
 *
 * The kernel counts for each thread how long it has run, and how long it was
 * ready and had no processor (schedstat).  The first worker compares its own
 * two times every FASTLOAD_CROWD_LOOK_NS: it has no nice value, and sleeps
 * unless there is something to do, so it has to wait for as long as a vCPU.
 * Where the kernel does not count this, processors are never short.
 */
#include "qemu/osdep.h"
#include "trace.h"
#include "qemu/fastload_int.h"

/* "RAN WAITED SLICES", each at most 20 digits. */
#define CROWD_TEXT_BYTES 64

uint64_t fastload_crowd_first_look_ns;

void fastload_crowd_open(Fastload *fl)
{
    FastloadCrowd *crowd = &fl->crowd;

    crowd->look_ns = fastload_crowd_first_look_ns;
    if (crowd->look_ns != UINT64_MAX) {
        crowd->fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
        crowd->look_ns = crowd->fd < 0 ? UINT64_MAX : crowd->look_ns;
    }
}

void fastload_crowd_close(FastloadCrowd *crowd)
{
    if (crowd->fd >= 0) {
        close(crowd->fd);
        crowd->fd = -1;
    }
}

bool fastload_crowd_judge(bool was_short, uint64_t ran_ns, uint64_t waited_ns)
{
    return was_short ? waited_ns >= ran_ns
                     : waited_ns / FASTLOAD_CROWD_SHARE >= ran_ns;
}

bool fastload_crowd_look(Fastload *fl, uint64_t now_ns)
{
    FastloadCrowd *crowd = &fl->crowd;
    bool was_short = fastload_crowd_is_short(fl), is_short;
    unsigned long long ran_ns, waited_ns;
    char text[CROWD_TEXT_BYTES];
    ssize_t len;

    if (now_ns < crowd->look_ns) {
        return false;
    }
    crowd->look_ns = now_ns + FASTLOAD_CROWD_LOOK_NS;
    len = pread(crowd->fd, text, sizeof(text) - 1, 0);
    text[MAX(len, 0)] = '\0';
    if (sscanf(text, "%llu %llu", &ran_ns, &waited_ns) != 2) {
        return false;
    }
    if (ran_ns - crowd->ran_ns + waited_ns - crowd->waited_ns <
        FASTLOAD_CROWD_LEAST_NS) {
        return false; /* too little to tell; counts at the next look */
    }
    is_short = fastload_crowd_judge(was_short, ran_ns - crowd->ran_ns,
                                    waited_ns - crowd->waited_ns);
    crowd->ran_ns = ran_ns;
    crowd->waited_ns = waited_ns;
    if (is_short != was_short) {
        trace_fastload_crowd(fl, is_short);
        __atomic_store_n(&crowd->is_short, is_short, __ATOMIC_RELAXED);
    }
    return is_short != was_short;
}
