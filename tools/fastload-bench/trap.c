/*
 * fastload-bench: userfaultfd for contenders that are not the engine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Registers guest memory, waits for faults or for the end, places pages.
 * Handles missing pages of private anonymous memory, or missing and minor
 * faults of a memfd.  Shares no code with the engine, which has its own.
 * Prints nothing; functions that are not for setting up return -errno.  An
 * ioctl that was done in part goes on where it stopped; one that stops without
 * progress, again and again, fails with -EAGAIN.
 */
#include "bench.h"
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* The kernel returns EAGAIN for the short time while mappings change. */
#define TRAP_STUCK_COUNT_MAX 100000
/* Signals are not expected here at all. */
#define TRAP_INTERRUPTED_COUNT_MAX 1000

/* Opens a userfaultfd by system call or device; or -errno. */
static int trap_create(void)
{
    int uffd = -1;
#ifdef USERFAULTFD_IOC_NEW
    int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

    if (dev >= 0) {
        uffd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        close(dev);
    }
#endif
    if (uffd < 0) {
        uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    }
    return uffd < 0 ? -errno : uffd;
}

#ifdef UFFD_FEATURE_MINOR_SHMEM
#define TRAP_MINOR_FEATURES UFFD_FEATURE_MINOR_SHMEM
#define TRAP_MINOR_MODE UFFDIO_REGISTER_MODE_MINOR
#define TRAP_MINOR_IOCTLS (1ull << _UFFDIO_CONTINUE)
#else
/* No kernel has all features, so opening fails with the right message. */
#define TRAP_MINOR_FEATURES UINT64_MAX
#define TRAP_MINOR_MODE 0
#define TRAP_MINOR_IOCTLS 0
#endif

/* A userfaultfd after the handshake, or -1. */
static int trap_create_ready(const LoaderRun *run, TrapMode mode,
                             GError **error)
{
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = mode == TRAP_MINOR ? TRAP_MINOR_FEATURES : 0,
    };
    int uffd = trap_create();

    if (uffd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot create a userfaultfd: %s; grant this user read "
                    "and write access to /dev/userfaultfd, or set the sysctl "
                    "vm.unprivileged_userfaultfd to 1, or run as root",
                    g_strerror(-uffd));
        return -1;
    }
    if (!ioctl(uffd, UFFDIO_API, &api)) {
        return uffd;
    }
    if (mode == TRAP_MINOR) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: this kernel's userfaultfd has no minor faults of "
                    "shared memory (UFFD_FEATURE_MINOR_SHMEM); Linux 5.14 or "
                    "later is needed: leave this contender out",
                    run->variant->loader->name);
    } else {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "this kernel's userfaultfd does not speak API %#llx: %s; "
                    "Linux 4.11 or later is needed", UFFD_API,
                    g_strerror(errno));
    }
    close(uffd);
    return -1;
}

bool trap_check(GError **error)
{
    int uffd = trap_create_ready(NULL, TRAP_MISSING, error);

    if (uffd >= 0) {
        close(uffd);
    }
    return uffd >= 0;
}

static bool trap_register_block(Trap *trap, const SnapshotBlock *block,
                                TrapMode mode, GError **error)
{
    struct uffdio_register reg = {
        .range = {
            .start = (uintptr_t)trap->run->hva + block->guest_off,
            .len = block->len_bytes,
        },
        .mode = UFFDIO_REGISTER_MODE_MISSING |
                (mode == TRAP_MINOR ? TRAP_MINOR_MODE : 0),
    };
    uint64_t need = 1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE |
                    (mode == TRAP_MINOR ? TRAP_MINOR_IOCTLS : 0);
    int ret = ioctl(trap->uffd, UFFDIO_REGISTER, &reg) < 0 ? errno : 0;

    if (!ret && (reg.ioctls & need) != need) {
        ret = EOPNOTSUPP;
    }
    if (ret) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: cannot register block %s with userfaultfd: %s",
                    trap->run->variant->loader->name, block->name,
                    g_strerror(ret));
    }
    return !ret;
}

bool trap_open(Trap *trap, const LoaderRun *run, TrapMode mode,
               GError **error)
{
    trap->run = run;
    trap->uffd = trap_create_ready(run, mode, error);
    if (trap->uffd < 0) {
        return false;
    }
    trap->quit_fd = eventfd(0, EFD_CLOEXEC);
    if (trap->quit_fd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: no eventfd: %s; raise the limit of open files "
                    "(ulimit -n)", run->variant->loader->name,
                    g_strerror(errno));
        return false;
    }
    while (trap->registered_count < run->snapshot->block_count) {
        if (!trap_register_block(
                trap, &run->snapshot->blocks[trap->registered_count], mode,
                error)) {
            return false;
        }
        trap->registered_count++;
    }
    return true;
}

void trap_unregister(Trap *trap)
{
    while (trap->registered_count) {
        const SnapshotBlock *block =
            &trap->run->snapshot->blocks[--trap->registered_count];
        struct uffdio_range range = {
            .start = (uintptr_t)trap->run->hva + block->guest_off,
            .len = block->len_bytes,
        };

        (void)ioctl(trap->uffd, UFFDIO_UNREGISTER, &range);
        /*
         * The kernel wakes threads before it unregisters, and a fault that only
         * takes the lock of its mapping (Linux 6.7) may begin to wait between.
         */
        (void)ioctl(trap->uffd, UFFDIO_WAKE, &range);
    }
}

void trap_quit(Trap *trap)
{
    const uint64_t one = 1;
    ssize_t put = write(trap->quit_fd, &one, sizeof(one));

    assert(put == sizeof(one));
}

void trap_close(Trap *trap)
{
    trap_unregister(trap);
    if (trap->uffd >= 0) {
        close(trap->uffd);
    }
    if (trap->quit_fd >= 0) {
        close(trap->quit_fd);
    }
    trap->uffd = trap->quit_fd = -1;
}

/* The address of a fault; -EAGAIN: there is none. */
static int trap_next(int uffd, uint64_t *ret_hva)
{
    struct uffd_msg msg;
    uint32_t tries;

    for (tries = 0; tries < TRAP_INTERRUPTED_COUNT_MAX; tries++) {
        ssize_t got = read(uffd, &msg, sizeof(msg));

        if (got == sizeof(msg)) {
            /* No other events were requested. */
            if (msg.event != UFFD_EVENT_PAGEFAULT) {
                return -EPROTO;
            }
            *ret_hva = msg.arg.pagefault.address;
            return 0;
        }
        if (got >= 0) {
            return -EPROTO;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
    return -EINTR;
}

int trap_wait(Trap *trap, bool is_waiting, uint64_t *ret_page)
{
    struct pollfd fds[2] = {
        { .fd = trap->uffd, .events = POLLIN },
        { .fd = trap->quit_fd, .events = POLLIN },
    };
    uint64_t hva = 0;
    int ret;

    if (poll(fds, 2, is_waiting ? -1 : 0) < 0) {
        return errno == EINTR ? TRAP_NOTHING : -errno;
    }
    if (fds[1].revents) {
        return TRAP_QUIT;
    }
    if (!fds[0].revents) {
        return TRAP_NOTHING;
    }
    ret = trap_next(trap->uffd, &hva);
    if (ret < 0) {
        return ret == -EAGAIN ? TRAP_NOTHING : ret;
    }
    *ret_page = (hva - (uintptr_t)trap->run->hva) >> BENCH_PAGE_SHIFT;
    return TRAP_FAULT;
}

/*
 * Evaluates an ioctl that places pages: @done is its progress field, negative
 * for none.  Returns 1: go on; 0: all is placed; or -errno.
 */
static int trap_advance(int64_t done, int failed_errno, uint64_t len_bytes,
                        uint64_t *done_bytes, uint32_t *stuck_count)
{
    if (done > 0) {
        *done_bytes += done;
        *stuck_count = 0;
    } else {
        ++*stuck_count;
    }
    if (*done_bytes >= len_bytes) {
        return 0;
    }
    if (failed_errno && failed_errno != EAGAIN && failed_errno != EINTR) {
        return -failed_errno;
    }
    return *stuck_count < TRAP_STUCK_COUNT_MAX ? 1 : -EAGAIN;
}

static int trap_copy_with(int uffd, void *hva, const void *from,
                          uint64_t len_bytes, uint64_t mode)
{
    uint64_t done_bytes = 0;
    uint32_t stuck_count = 0;
    int ret;

    do {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)hva + done_bytes,
            .src = (uintptr_t)from + done_bytes,
            .len = len_bytes - done_bytes,
            .mode = mode,
        };
        int failed = ioctl(uffd, UFFDIO_COPY, &copy) < 0 ? errno : 0;

        ret = trap_advance(copy.copy, failed, len_bytes, &done_bytes,
                           &stuck_count);
    } while (ret > 0);
    return ret;
}

int trap_copy(int uffd, void *hva, const void *from, uint64_t len_bytes)
{
    return trap_copy_with(uffd, hva, from, len_bytes, 0);
}

int trap_copy_quietly(int uffd, void *hva, const void *from,
                      uint64_t len_bytes)
{
    return trap_copy_with(uffd, hva, from, len_bytes,
                          UFFDIO_COPY_MODE_DONTWAKE);
}

int trap_zero(int uffd, void *hva, uint64_t len_bytes)
{
    uint64_t done_bytes = 0;
    uint32_t stuck_count = 0;
    int ret;

    do {
        struct uffdio_zeropage zero = {
            .range = {
                .start = (uintptr_t)hva + done_bytes,
                .len = len_bytes - done_bytes,
            },
        };
        int failed = ioctl(uffd, UFFDIO_ZEROPAGE, &zero) < 0 ? errno : 0;

        ret = trap_advance(zero.zeropage, failed, len_bytes, &done_bytes,
                           &stuck_count);
    } while (ret > 0);
    return ret;
}

int trap_continue(int uffd, void *hva, uint64_t len_bytes)
{
#ifdef UFFD_FEATURE_MINOR_SHMEM
    uint64_t done_bytes = 0;
    uint32_t stuck_count = 0;
    int ret;

    do {
        struct uffdio_continue more = {
            .range = {
                .start = (uintptr_t)hva + done_bytes,
                .len = len_bytes - done_bytes,
            },
        };
        int failed = ioctl(uffd, UFFDIO_CONTINUE, &more) < 0 ? errno : 0;

        ret = trap_advance(more.mapped, failed, len_bytes, &done_bytes,
                           &stuck_count);
    } while (ret > 0);
    return ret;
#else
    return -EOPNOTSUPP;
#endif
}

int trap_wake(int uffd, void *hva, uint64_t len_bytes)
{
    struct uffdio_range range = {
        .start = (uintptr_t)hva,
        .len = len_bytes,
    };

    return ioctl(uffd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}
