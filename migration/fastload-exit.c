/*
 * Fast load of a mapped-ram snapshot: ending QEMU while pages are missing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * vCPUs that wait for a page do not stop, and the thread that ends QEMU may
 * wait for one as well.  Neither may keep the process for ever, and neither may
 * ever see a page of zeros: userfaultfd stays as it is until the process ends.
 * This file keeps which thread waits for which page: QEMU can end while vCPUs
 * wait, but not while any other thread does.  Devices cannot be removed while a
 * vCPU waits under KVM, nor while one runs: then the process ends before that.
 */
#include "qemu/osdep.h"
#include <poll.h>
#include "block/block-global-state.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "hw/core/cpu.h"
#include "system/kvm.h"
#include "system/runstate.h"
#include "fastload-internal.h"

/*
 * How long QEMU at its end waits for vCPUs to stop: for those that wait for a
 * page while reads fail, for those that wait for one otherwise, and for those
 * that wait for none.  libvirt kills a QEMU that has not ended ten seconds
 * after SIGTERM, and disks have to be flushed in that time, too.
 */
#define EXIT_STOP_FAILING_US (1 * 1000 * 1000)
#define EXIT_STOP_US (3 * 1000 * 1000)
#define EXIT_STOP_RUNNING_US (4 * 1000 * 1000)
#define EXIT_STOP_POLL_US 2000
/*
 * How long the watcher lets a thread wait for a page once QEMU was told to end:
 * until the main thread waits for no vCPU any more, anew when it begins to stop
 * them; and after that.  The last is longer, since QEMU then drains and flushes
 * disks.
 */
#define EXIT_UNHEARD_US (5 * 1000 * 1000)
#define EXIT_CLEANUP_US (60 * 1000 * 1000)
#define EXIT_WATCH_MS 100
/* With more entries than this, those of threads that do not wait are freed. */
#define EXIT_WAIT_COUNT_MAX 1024

/* The watcher must not give up while vCPUs may still be waited for. */
QEMU_BUILD_BUG_ON(EXIT_STOP_FAILING_US > EXIT_STOP_US ||
                  EXIT_STOP_US > EXIT_STOP_RUNNING_US ||
                  EXIT_STOP_RUNNING_US >= EXIT_UNHEARD_US);

/* The page that a thread waits for, or the last one that it waited for. */
typedef struct ExitWait {
    const void *hva;
    int64_t begin_us;
    bool is_left;       /* of a vCPU for which the end of QEMU does not wait */
} ExitWait;

static bool exit_is_over(const IncomingLoad *load, const ExitWait *wait)
{
    return fastload_is_loaded(load->engine, wait->hva, 1);
}

/*
 * Engine threads may note faults of a thread in another order than they came
 * in: then the one that is noted last has been answered, and the thread waits
 * for the page that was noted before.
 */
static bool exit_comes_late(const IncomingLoad *load, const ExitWait *wait,
                            const void *hva)
{
    /* NULL: it is about to be freed, which waits for this thread. */
    Fastload *engine = qatomic_read(&load->engine);

    return engine && fastload_is_loaded(engine, hva, 1) &&
           !fastload_is_loaded(engine, wait->hva, 1);
}

void incoming_load_note_wait(IncomingLoad *load, const void *hva, uint32_t tid)
{
    ExitWait *wait;

    QEMU_LOCK_GUARD(&load->waits_lock);
    wait = g_hash_table_lookup(load->waits, GUINT_TO_POINTER(tid));
    if (!wait) {
        wait = g_new0(ExitWait, 1);
        g_hash_table_insert(load->waits, GUINT_TO_POINTER(tid), wait);
    } else if (exit_comes_late(load, wait, hva)) {
        return;
    }
    /* A thread that faults on the same page again has waited since then. */
    if (wait->hva != hva) {
        wait->hva = hva;
        wait->begin_us = g_get_monotonic_time();
        wait->is_left = false;
    }
}

static gboolean exit_forget_if_over(gpointer tid, gpointer wait,
                                    gpointer load)
{
    return exit_is_over(load, wait);
}

/* Bounds the table: threads come and go. */
static void exit_forget_old_waits(IncomingLoad *load)
{
    QEMU_LOCK_GUARD(&load->waits_lock);
    if (g_hash_table_size(load->waits) > EXIT_WAIT_COUNT_MAX) {
        g_hash_table_foreach_remove(load->waits, exit_forget_if_over, load);
    }
}

/*
 * From now on the watcher ignores vCPUs that wait for the page that they wait
 * for now.  A signal may make such a vCPU fault on the same page again: it is
 * ignored then, too.
 */
static void exit_leave_vcpus(IncomingLoad *load)
{
    CPUState *cpu;

    QEMU_LOCK_GUARD(&load->waits_lock);
    CPU_FOREACH(cpu) {
        ExitWait *wait = g_hash_table_lookup(load->waits,
                                             GUINT_TO_POINTER(cpu->thread_id));

        if (wait) {
            wait->is_left = true;
        }
    }
}

/*
 * Since when a thread or a vhost-user backend waits that keeps QEMU from
 * ending; INT64_MAX: none does.  While the engine does not read the faults, any
 * thread may wait: then it is since when the engine has not read them.
 */
static int64_t exit_oldest_wait_us(IncomingLoad *load, int64_t now_us)
{
    int64_t silent_us = fastload_silent_ns(load->engine) / SCALE_US;
    int64_t begin_us = MIN(silent_us ? now_us - silent_us : INT64_MAX,
                           incoming_load_shared_oldest_us());
    GHashTableIter iter;
    gpointer value;

    QEMU_LOCK_GUARD(&load->waits_lock);
    g_hash_table_iter_init(&iter, load->waits);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        ExitWait *wait = value;

        if (!wait->is_left && wait->begin_us < begin_us &&
            !exit_is_over(load, wait)) {
            begin_us = wait->begin_us;
        }
    }
    return begin_us;
}

/* Since when the oldest fault that the engine knows of waits; vCPUs count. */
static int64_t exit_oldest_fault_us(IncomingLoad *load, int64_t now_us)
{
    return now_us -
           (int64_t)(fastload_oldest_fault_ns(load->engine) / SCALE_US);
}

/*
 * Was QEMU told to end?  While the main thread waits for a page in a system
 * call, no signal handler runs: the signal is pending.
 */
static bool exit_is_due(const IncomingLoad *load)
{
    ShutdownCause cause = qemu_shutdown_requested_get();
    sigset_t pending;

    return load->end != LOAD_END_NONE || cause == SHUTDOWN_CAUSE_HOST_SIGNAL ||
           cause == SHUTDOWN_CAUSE_HOST_QMP_QUIT ||
           (sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) ||
                                          sigismember(&pending, SIGINT) ||
                                          sigismember(&pending, SIGHUP)));
}

/*
 * For how long QEMU has been told to end and somebody has waited for one page.
 * @told_us: since when QEMU has been told, or has stopped vCPUs; 0: it was not
 */
static int64_t exit_stuck_us(IncomingLoad *load, int64_t *told_us)
{
    int64_t now_us = g_get_monotonic_time(), begin_us;

    if (!exit_is_due(load)) {
        *told_us = 0;
        return 0;
    }
    *told_us = MAX(*told_us ?: now_us, load->end_us);
    begin_us = load->end == LOAD_END_CLEANUP
        ? exit_oldest_wait_us(load, now_us)
        : exit_oldest_fault_us(load, now_us);
    return now_us - MIN(now_us, MAX(*told_us, begin_us));
}

/* Says why only if that does not wait for somebody who reads it. */
static G_NORETURN void exit_at_once(void)
{
    struct pollfd pollfd = { .fd = STDERR_FILENO, .events = POLLOUT };

    if (poll(&pollfd, 1, 0) > 0) {
        error_report("fast load: QEMU waits for pages that cannot be read, and "
                     "ends without cleaning up");
    }
    _exit(EXIT_FAILURE);
}

/*
 * The main thread may wait for a page that does not come: when it touches the
 * page, in a system call, for the BQL of a thread that waits, or for a disk's
 * request whose buffer is that page.  No such wait ends by itself, so the
 * watcher ends the process.  While nobody but ignored vCPUs waits for a page,
 * QEMU may take as long as it needs.  This thread lives as long as the engine.
 */
static void *exit_watch(void *opaque)
{
    IncomingLoad *load = opaque;
    int64_t told_us = 0;
    bool is_stuck;

    qemu_mutex_lock(&load->lock);
    while (load->engine &&
           exit_stuck_us(load, &told_us) < (load->end == LOAD_END_CLEANUP
                                            ? EXIT_CLEANUP_US
                                            : EXIT_UNHEARD_US)) {
        exit_forget_old_waits(load);
        qemu_cond_timedwait(&load->watch_cond, &load->lock, EXIT_WATCH_MS);
    }
    is_stuck = load->engine;
    qemu_mutex_unlock(&load->lock);
    if (is_stuck) {
        exit_at_once();
    }
    return NULL;
}

bool incoming_load_start_watch(IncomingLoad *load, Error **errp)
{
    g_autoptr(GError) gerr = NULL;
    sigset_t all, old;

    /* It looks for signals that the main thread has not taken yet. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    load->watcher = g_thread_try_new("fastload-watch", exit_watch, load, &gerr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!load->watcher) {
        error_setg(errp, "cannot start fast load of '%s': cannot create a "
                   "thread: %s", load->filename, gerr->message);
    }
    return load->watcher;
}

void incoming_load_stop_watch(IncomingLoad *load)
{
    if (load->watcher) {
        g_thread_join(load->watcher);
        load->watcher = NULL;
    }
}

/* How many vCPUs have not stopped. */
typedef struct ExitUnstopped {
    int waiting; /* for a page that has not come */
    int running; /* they wait for no page, as far as is known */
} ExitUnstopped;

static bool exit_vcpu_waits(IncomingLoad *load, const CPUState *cpu)
{
    const ExitWait *wait;

    QEMU_LOCK_GUARD(&load->waits_lock);
    wait = g_hash_table_lookup(load->waits, GUINT_TO_POINTER(cpu->thread_id));
    return wait && !exit_is_over(load, wait);
}

static ExitUnstopped exit_unstopped_vcpus(IncomingLoad *load)
{
    /* Faults are not read: each vCPU may wait. */
    bool is_silent = fastload_silent_ns(load->engine);
    ExitUnstopped count = { 0 };
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (cpu->stopped) {
            continue;
        }
        if (is_silent || exit_vcpu_waits(load, cpu)) {
            count.waiting++;
        } else {
            count.running++;
        }
    }
    return count;
}

/* How long to wait for vCPUs of which @count have not stopped. */
static int64_t exit_stop_us(IncomingLoad *load, ExitUnstopped count)
{
    FastloadFailure failure;

    if (count.running) {
        return EXIT_STOP_RUNNING_US;
    }
    if (!count.waiting) {
        return 0;
    }
    return fastload_is_failing(load->engine, &failure) ? EXIT_STOP_FAILING_US
                                                       : EXIT_STOP_US;
}

/* Called again and again: a migration that fails lets the vCPUs run again. */
static void exit_pause_vcpus(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (!cpu->stop && !cpu->stopped) {
            cpu_pause(cpu);
        }
    }
}

/*
 * A vCPU that waits for a page inside KVM_RUN holds a read lock (kvm->srcu) on
 * KVM's lists of memory and event descriptors.  A device that removes one of
 * these would wait for that vCPU, in the kernel and for ever.  And a vCPU that
 * runs may use the device.  So the guest's disks are drained and flushed, and
 * the process ends here; the monitor has sent SHUTDOWN by now.
 */
static G_NORETURN void exit_before_devices(void)
{
    int ret;

    bdrv_drain_all();
    ret = bdrv_flush_all();
    if (ret < 0) {
        error_report("fast load: cannot flush the guest's disks: %s",
                     strerror(-ret));
    }
    exit(ret < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* Returns the vCPUs that have not stopped when the time is up. */
static ExitUnstopped exit_stop_vcpus(IncomingLoad *load, int64_t begin_us)
{
    ExitUnstopped count;

    exit_pause_vcpus();
    while (count = exit_unstopped_vcpus(load),
           g_get_monotonic_time() - begin_us < exit_stop_us(load, count)) {
        bql_unlock();
        g_usleep(EXIT_STOP_POLL_US);
        bql_lock();
        exit_pause_vcpus();
    }
    return count;
}

void incoming_load_stop_vcpus(IncomingLoad *load)
{
    int64_t begin_us = g_get_monotonic_time();
    ExitUnstopped count;
    CPUState *cpu;

    if (!incoming_load_is_in(load, LOAD_GUEST_RUNS)) {
        return;
    }
    /* Before the BQL is given up: a vCPU may take it and wait for a page. */
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        load->end = LOAD_END_STOPPING;
        load->end_us = begin_us;
    }
    count = exit_stop_vcpus(load, begin_us);
    if (count.waiting) {
        warn_report("fast load: QEMU ends while %d vCPUs wait for pages that "
                    "do not come", count.waiting);
        load->has_left_vcpus = true;
    }
    if (count.running) {
        warn_report("fast load: QEMU ends while %d vCPUs run that did not stop "
                    "in time", count.running);
        load->has_running_vcpus = true;
    }
    /*
     * This is safe: a vCPU that waits never sees zeros, since userfaultfd stays
     * open until all threads of the process have ended.
     */
    CPU_FOREACH(cpu) {
        cpu->stopped = true;
    }
    exit_leave_vcpus(load);
    WITH_QEMU_LOCK_GUARD(&load->lock) {
        load->end = LOAD_END_CLEANUP;
    }
}

void migration_fastload_shutdown(void)
{
    IncomingLoad *load = &incoming_load;

    incoming_load_stop_vcpus(load);
    if (load->has_running_vcpus ||
        (kvm_enabled() && load->has_left_vcpus &&
         incoming_load_is_in(load, LOAD_GUEST_RUNS))) {
        exit_before_devices();
    }
}
