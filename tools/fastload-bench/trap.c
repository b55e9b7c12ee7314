/*
 * fastload-bench: userfaultfd for contenders that are not the engine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Thin calls that return -errno and never print: missing pages only, private
 * anonymous memory only.  The engine has its own, and shares nothing with
 * these.  A partly done ioctl goes on where it stopped; what stops without
 * any progress, again and again, is given up with -EAGAIN.
 */
#include "bench.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* The kernel answers EAGAIN while the mappings change, which is short. */
#define TRAP_STUCK_COUNT_MAX 100000
/* Signals are not expected here at all. */
#define TRAP_INTERRUPTED_COUNT_MAX 1000

/* A userfaultfd from wherever there is one, or -errno. */
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

int trap_open(GError **error)
{
    struct uffdio_api api = { .api = UFFD_API };
    int uffd = trap_create();

    if (uffd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot create a userfaultfd: %s; grant this user read "
                    "and write access to /dev/userfaultfd, or set the sysctl "
                    "vm.unprivileged_userfaultfd to 1, or run as root",
                    g_strerror(-uffd));
        return uffd;
    }
    if (ioctl(uffd, UFFDIO_API, &api) < 0) {
        int ret = -errno;

        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "this kernel's userfaultfd does not speak API %#llx: %s; "
                    "Linux 4.11 or later is needed", UFFD_API,
                    g_strerror(-ret));
        close(uffd);
        return ret;
    }
    return uffd;
}

int trap_register(int uffd, void *hva, uint64_t len_bytes)
{
    struct uffdio_register reg = {
        .range = { .start = (uintptr_t)hva, .len = len_bytes },
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    uint64_t need = 1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE;

    if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0) {
        return -errno;
    }
    return (reg.ioctls & need) == need ? 0 : -EOPNOTSUPP;
}

int trap_unregister(int uffd, void *hva, uint64_t len_bytes)
{
    struct uffdio_range range = {
        .start = (uintptr_t)hva,
        .len = len_bytes,
    };

    return ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int trap_next(int uffd, uint64_t *ret_hva)
{
    struct uffd_msg msg;
    uint32_t tries;

    for (tries = 0; tries < TRAP_INTERRUPTED_COUNT_MAX; tries++) {
        ssize_t got = read(uffd, &msg, sizeof(msg));

        if (got == sizeof(msg)) {
            /* No other event was asked for. */
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

/*
 * What a placing ioctl did: @done is its progress field, negative when there
 * was none.  Returns 1 to go on, 0 when all is placed, or -errno.
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

int trap_copy(int uffd, void *hva, const void *from, uint64_t len_bytes)
{
    uint64_t done_bytes = 0;
    uint32_t stuck_count = 0;
    int ret;

    do {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)hva + done_bytes,
            .src = (uintptr_t)from + done_bytes,
            .len = len_bytes - done_bytes,
        };
        int failed = ioctl(uffd, UFFDIO_COPY, &copy) < 0 ? errno : 0;

        ret = trap_advance(copy.copy, failed, len_bytes, &done_bytes,
                           &stuck_count);
    } while (ret > 0);
    return ret;
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

int trap_wake(int uffd, void *hva, uint64_t len_bytes)
{
    struct uffdio_range range = {
        .start = (uintptr_t)hva,
        .len = len_bytes,
    };

    return ioctl(uffd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}
