/*
 * handler: a separate process gets the userfaultfd over a Unix socket, maps the
 * snapshot, and answers each fault with a copy of 4 KiB out of that mapping;
 * nothing is loaded ahead, and there is no end.
 * Source: Firecracker docs/snapshotting/handling-page-faults-on-snapshot-
 * resume.md and its example handlers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As in the source: the handler runs before the restore is requested (the clock
 * starts when it is ready), it gets descriptor and address in one message, one
 * thread reads one fault at a time, and it reads through the page cache.  Its
 * CPU time, bytes read and memory count for the run.
 *
 * Not as in the source: a page without data is copied from zeros, since a
 * mapped-ram file may have old bytes in its place.  A handler that fails, for
 * example because a page of the mapping cannot be read, ends the guest by
 * SIGBUS, as mmap does, whereas Firecracker's guest waits for ever.
 *
 * The handler ends with its parent (PR_SET_PDEATHSIG).  After fork() it calls
 * only async-signal-safe functions, since another thread may have held a lock
 * of malloc().
 */
#include "bench.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

typedef struct Handler {
    LoaderRun *run;
    Trap trap;
    int fd;
    int socket;              /* the parent's end */
    pid_t pid;               /* 0: none */
    uint8_t *zero_page;
} Handler;

/* The userfaultfd and what it is for, in one message. */
typedef struct HandlerMessage {
    uint64_t hva;
    struct iovec iov;
    struct msghdr header;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
} HandlerMessage;

static void handler_message_init(HandlerMessage *message)
{
    *message = (HandlerMessage) { .hva = 0 };
    message->iov.iov_base = &message->hva;
    message->iov.iov_len = sizeof(message->hva);
    message->header.msg_iov = &message->iov;
    message->header.msg_iovlen = 1;
    message->header.msg_control = message->control.bytes;
    message->header.msg_controllen = sizeof(message->control.bytes);
}

static bool handler_send(Handler *l, GError **error)
{
    HandlerMessage message;
    struct cmsghdr *control;

    handler_message_init(&message);
    message.hva = (uintptr_t)l->run->hva;
    control = CMSG_FIRSTHDR(&message.header);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(control), &l->trap.uffd, sizeof(int));
    if (sendmsg(l->socket, &message.header, MSG_NOSIGNAL) !=
        sizeof(message.hva)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "handler: cannot send it the userfaultfd: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

/* ---- the process ---- */

static bool handler_receive(int socket, Trap *trap, uint64_t *ret_hva)
{
    HandlerMessage message;
    struct cmsghdr *control;

    handler_message_init(&message);
    if (recvmsg(socket, &message.header, MSG_CMSG_CLOEXEC) !=
        sizeof(message.hva)) {
        return false;
    }
    control = CMSG_FIRSTHDR(&message.header);
    if (!control || control->cmsg_type != SCM_RIGHTS) {
        return false;
    }
    memcpy(&trap->uffd, CMSG_DATA(control), sizeof(int));
    *ret_hva = message.hva;
    return true;
}

/* Returns 0 or -errno. */
static int handler_serve(Handler *l, Trap *trap, const uint8_t *map,
                         uint64_t page)
{
    const Snapshot *snapshot = l->run->snapshot;
    const SnapshotBlock *block = snapshot_block_of(snapshot, page);
    uint64_t guest_off = page << BENCH_PAGE_SHIFT;
    uint8_t *hva = l->run->hva + guest_off;
    const uint8_t *from = l->zero_page;
    int ret;

    if (!block) {
        return -EFAULT;
    }
    if (snapshot_has_page(snapshot, page)) {
        from = map + block->file_off + guest_off - block->guest_off;
    }
    ret = trap_copy(trap->uffd, hva, from, BENCH_PAGE_BYTES);
    /* Two threads faulted on it: the first answer woke both, or this does. */
    return ret == -EEXIST ? trap_wake(trap->uffd, hva, BENCH_PAGE_BYTES)
                          : ret;
}

static int handler_main(Handler *l, int socket)
{
    uint64_t file_bytes = l->run->snapshot->file_bytes;
    const uint8_t *map = mmap(NULL, file_bytes, PROT_READ, MAP_PRIVATE, l->fd,
                              0);
    Trap trap = { .run = l->run, .uffd = -1, .quit_fd = socket };
    uint64_t page, hva;
    int event;

    if (map == MAP_FAILED || write(socket, "", 1) != 1) {
        return 1;
    }
    if (!handler_receive(socket, &trap, &hva) ||
        hva != (uintptr_t)l->run->hva) {
        return 1; /* the parent has ended or given up */
    }
    /* The socket, as quit_fd, is readable when its other end is closed. */
    while ((event = trap_wait(&trap, true, &page)) != TRAP_QUIT) {
        if (event < 0 ||
            (event == TRAP_FAULT && handler_serve(l, &trap, map, page) < 0)) {
            kill(getppid(), SIGBUS);
            return 1;
        }
    }
    return 0;
}

/* ---- its parent ---- */

/* Returns when the handler is ready. */
static bool handler_begin(Handler *l, GError **error)
{
    pid_t parent = getpid(), pid;
    int sockets[2];
    ssize_t got;
    char byte;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "handler: no socket: %s; raise the limit of open files "
                    "(ulimit -n)", g_strerror(errno));
        return false;
    }
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(sockets[0]);
        _exit(getppid() == parent ? handler_main(l, sockets[1]) : 1);
    }
    close(sockets[1]);
    l->socket = sockets[0];
    l->pid = MAX(pid, 0);
    do {
        got = pid > 0 ? read(l->socket, &byte, 1) : 0;
    } while (got < 0 && errno == EINTR);
    if (got != 1) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "handler: cannot start its process or map the snapshot "
                    "there; raise the limits of processes (ulimit -u) and "
                    "memory (ulimit -v)");
    }
    return got == 1;
}

static void loader_handler_stop(LoaderRun *run)
{
    Handler *l = run->state;

    if (!l) {
        return;
    }
    __atomic_store_n(&run->helper_pid, 0, __ATOMIC_RELAXED);
    if (l->pid) {
        kill(l->pid, SIGKILL);
        while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR) {
            continue;
        }
    }
    trap_close(&l->trap);
    if (l->socket >= 0) {
        close(l->socket);
    }
    if (l->fd >= 0) {
        close(l->fd);
    }
    free(l->zero_page);
    g_free(l);
    run->state = NULL;
}

static bool loader_handler_start(LoaderRun *run, GError **error)
{
    Handler *l = g_new0(Handler, 1);
    bool is_ok;

    run->state = l;
    l->run = run;
    l->socket = l->trap.uffd = l->trap.quit_fd = -1;
    l->fd = loader_open(run, error);
    is_ok = l->fd >= 0 &&
            (l->zero_page = loader_buffer(run, BENCH_PAGE_BYTES, error));
    if (is_ok) {
        memset(l->zero_page, 0, BENCH_PAGE_BYTES);
        is_ok = handler_begin(l, error);
    }
    if (is_ok) {
        __atomic_store_n(&run->helper_pid, l->pid, __ATOMIC_RELAXED);
        __atomic_store_n(&run->begin_ns, bench_now_ns(), __ATOMIC_RELAXED);
        is_ok = trap_open(&l->trap, run, TRAP_MISSING, error) &&
                handler_send(l, error);
    }
    if (!is_ok) {
        loader_handler_stop(run);
    }
    return is_ok;
}

const BenchLoader loader_handler = {
    .name = "handler",
    .summary = "Firecracker's userfaultfd: a process of its own copies pages",
    .knobs = LOADER_NEEDS_TRAP,
    .is_lazy = true,
    .has_end = false,
    .is_extra = true,
    .start = loader_handler_start,
    .stop = loader_handler_stop,
};
