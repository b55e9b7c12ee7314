/*
 * fastload-bench: simulated storage, as a file that all contenders read.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A FUSE file system with one read-only file, its root, served by a process of
 * its own.  With a class of storage: from the snapshot's pages in memory, at
 * the time that the schedule of storage-class.c says.  Without one (to set a
 * readahead of its own): from the snapshot's file with O_DIRECT, at once.
 *
 * The mount is made with fsmount() and never attached to a folder: no other
 * process sees it, and it goes away with the last descriptor, also after
 * SIGKILL.  Without the permission to mount, the server enters a user namespace
 * and mounts there.
 *
 * What makes FUSE behave like a disk: FOPEN_KEEP_CACHE, or each open() would
 * empty the page cache; asynchronous and direct reads in parallel, each of
 * which needs a thread of the server while it waits; max_background and its
 * congestion threshold above the kernel's readahead, or the kernel would stop
 * reading ahead.  The kernel sends reads of 1 MiB at most.
 *
 * Fails with one sentence if the kernel or the machine refuses.  If the server
 * dies, reads of contenders fail with ENOTCONN.
 */
#include "bench.h"
#ifdef CONFIG_FUSE
#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <linux/futex.h>
#include <linux/mount.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#endif

struct StorageMount {
    Snapshot *snapshot;      /* read through the mount; owned */
    const StorageClass *class; /* NULL: none */
    uint64_t read_ahead_bytes;
    uint64_t seed;
    struct StorageControl *control;
    int file_fd;             /* the snapshot's own; borrowed */
    int mount_fd;
    int socket;              /* to the server */
    pid_t server;
};

/* Shared with the server; atomic. */
typedef struct StorageControl {
    uint32_t is_fast;        /* futex: setting it wakes threads that wait */
    uint64_t read_bytes;
} StorageControl;

const Snapshot *storage_mount_snapshot(const StorageMount *mount)
{
    return mount->snapshot;
}

const StorageClass *storage_mount_class(const StorageMount *mount)
{
    return mount->class;
}

int storage_mount_file(const StorageMount *mount)
{
    return mount->file_fd;
}

uint64_t storage_mount_read_bytes(const StorageMount *mount)
{
    return __atomic_load_n(&mount->control->read_bytes, __ATOMIC_RELAXED);
}

#ifdef CONFIG_FUSE

/* Reads that can wait at the same time, each in a thread. */
#define SERVER_THREAD_COUNT_MAX 256
#define SERVER_BACKGROUND_COUNT_MAX 1024
#define SERVER_READ_BYTES_MAX (1u << 20)
#define SERVER_ERROR_BYTES 512
#define DIRECT_ALIGN 4096u

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* State of the server; constant, except what the lock guards. */
typedef struct Server {
    StorageControl *control;
    const Snapshot *snapshot;
    bool has_class;
    uint64_t read_ahead_bytes;
    int direct_fd;           /* without a class; -1: O_DIRECT does not work */
    uint8_t *map;            /* of the whole snapshot file */
    int socket;
    int mount_fd;
    struct fuse_session *session;
    pthread_mutex_t lock;
    StorageSchedule schedule; /* lock */
} Server;

/* ---- answering reads ---- */

static bool server_is_fast(const Server *server)
{
    return __atomic_load_n(&server->control->is_fast, __ATOMIC_ACQUIRE);
}

static uint64_t server_due_ns(Server *server, uint64_t len_bytes)
{
    uint64_t now_ns = bench_now_ns(), due_ns = now_ns;

    pthread_mutex_lock(&server->lock);
    if (server_is_fast(server)) {
        server->schedule.end_ns = now_ns; /* no read is in flight now */
    } else {
        due_ns = storage_schedule_next(&server->schedule, now_ns, len_bytes);
    }
    pthread_mutex_unlock(&server->lock);
    return due_ns;
}

/* Sleeps until @due_ns, or until is_fast is set. */
static void server_wait(Server *server, uint64_t due_ns)
{
    struct timespec due = {
        .tv_sec = due_ns / 1000000000, .tv_nsec = due_ns % 1000000000,
    };

    while (!server_is_fast(server) && bench_now_ns() < due_ns) {
        syscall(SYS_futex, &server->control->is_fast, FUTEX_WAIT_BITSET, 0,
                &due, NULL, FUTEX_BITSET_MATCH_ANY);
    }
}

/* Reads with O_DIRECT, which needs alignment; @buf has room for that. */
static int64_t server_read_file(const Server *server, uint8_t *buf,
                                uint64_t len_bytes, uint64_t file_off,
                                const uint8_t **ret_data)
{
    uint64_t before = file_off % DIRECT_ALIGN;
    uint64_t all_bytes = (before + len_bytes + DIRECT_ALIGN - 1) &
                         ~(uint64_t)(DIRECT_ALIGN - 1);
    ssize_t ret = pread(server->direct_fd, buf, all_bytes,
                        file_off - before);

    if (ret < 0) {
        return -errno;
    }
    *ret_data = buf + before;
    return MIN((uint64_t)ret - MIN((uint64_t)ret, before), len_bytes);
}

/* Was the file shortened after it was opened?  Its mapping is cut then. */
static bool server_is_cut(const Server *server, uint64_t end_off)
{
    struct stat st;

    return fstat(server->snapshot->fd, &st) == 0 &&
           S_ISREG(st.st_mode) && end_off > (uint64_t)st.st_size;
}

static void server_answer_read(fuse_req_t req, fuse_ino_t ino, size_t size,
                               off_t off, struct fuse_file_info *info)
{
    static __thread uint8_t *buf;
    Server *server = fuse_req_userdata(req);
    uint64_t file_bytes = server->snapshot->file_bytes;
    uint64_t at = MIN((uint64_t)off, file_bytes);
    int64_t len_bytes = MIN(MIN(size, SERVER_READ_BYTES_MAX),
                            file_bytes - at);
    const uint8_t *data = server->map + at;

    if (!server->has_class && server->direct_fd >= 0 && len_bytes) {
        if (!buf && posix_memalign((void **)&buf, DIRECT_ALIGN,
                                   SERVER_READ_BYTES_MAX +
                                   2 * DIRECT_ALIGN)) {
            fuse_reply_err(req, ENOMEM);
            return;
        }
        len_bytes = server_read_file(server, buf, len_bytes, at, &data);
    } else if (server->has_class && len_bytes) {
        server_wait(server, server_due_ns(server, len_bytes));
    }
    if (len_bytes >= 0 && server_is_cut(server, at + len_bytes)) {
        len_bytes = -EIO;
    }
    if (len_bytes < 0) {
        fuse_reply_err(req, -len_bytes);
        return;
    }
    __atomic_fetch_add(&server->control->read_bytes, len_bytes,
                       __ATOMIC_RELAXED);
    fuse_reply_buf(req, (const char *)data, len_bytes);
}

static void server_answer_getattr(fuse_req_t req, fuse_ino_t ino,
                                  struct fuse_file_info *info)
{
    Server *server = fuse_req_userdata(req);
    struct stat st;

    /* The times of the snapshot file, so that a change of it shows here. */
    if (fstat(server->snapshot->fd, &st) < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    st.st_ino = ino;
    st.st_mode = S_IFREG | 0400;
    st.st_nlink = 1;
    st.st_uid = getuid();
    st.st_gid = getgid();
    st.st_size = server->snapshot->file_bytes;
    fuse_reply_attr(req, &st, 0);
}

static void server_answer_open(fuse_req_t req, fuse_ino_t ino,
                               struct fuse_file_info *info)
{
    info->keep_cache = 1;
    fuse_reply_open(req, info);
}

/* The file has the same holes as the snapshot file. */
static void server_answer_lseek(fuse_req_t req, fuse_ino_t ino, off_t off,
                                int whence, struct fuse_file_info *info)
{
    Server *server = fuse_req_userdata(req);
    off_t at = lseek(server->snapshot->fd, off, whence);

    if (at < 0) {
        fuse_reply_err(req, errno);
    } else {
        fuse_reply_lseek(req, at);
    }
}

static void server_answer_init(void *opaque, struct fuse_conn_info *info)
{
    const Server *server = opaque;

    info->max_background = SERVER_BACKGROUND_COUNT_MAX;
    info->congestion_threshold = SERVER_BACKGROUND_COUNT_MAX;
    /* The kernel accepts less than its default; more is set in the bdi. */
    info->max_readahead = server->read_ahead_bytes
        ? MIN(server->read_ahead_bytes, UINT32_MAX) : UINT32_MAX;
    info->want |= info->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO);
    /* A new time of modification must not empty the page cache. */
    info->want &= ~FUSE_CAP_AUTO_INVAL_DATA;
}

static const struct fuse_lowlevel_ops server_ops = {
    .init = server_answer_init,
    .getattr = server_answer_getattr,
    .open = server_answer_open,
    .read = server_answer_read,
    .lseek = server_answer_lseek,
};

/* ---- the server's process ---- */

static bool server_write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool is_ok = fd >= 0 && write(fd, text, strlen(text)) == strlen(text);

    if (fd >= 0) {
        int error = errno;

        close(fd);
        errno = error;
    }
    return is_ok;
}

/* Enters a user namespace as the same user, with the right to mount. */
static bool server_enter_namespace(void)
{
    g_autofree char *uids = g_strdup_printf("%d %d 1\n", geteuid(),
                                            geteuid());
    g_autofree char *gids = g_strdup_printf("%d %d 1\n", getegid(),
                                            getegid());

    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
           server_write_file("/proc/self/setgroups", "deny") &&
           server_write_file("/proc/self/uid_map", uids) &&
           server_write_file("/proc/self/gid_map", gids);
}

static bool server_configure(int fs_fd, const char *key, const char *value)
{
    return syscall(SYS_fsconfig, fs_fd, FSCONFIG_SET_STRING, key, value,
                   0) == 0;
}

/* Mounts; both descriptors stay open.  False: errno is set. */
static bool server_mount_once(Server *server, int *ret_fuse_fd)
{
    int fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    g_autofree char *fd = g_strdup_printf("%d", fuse_fd);
    g_autofree char *mode = g_strdup_printf("%o", S_IFREG | 0400);
    g_autofree char *uid = g_strdup_printf("%d", getuid());
    g_autofree char *gid = g_strdup_printf("%d", getgid());
    int fs_fd = fuse_fd < 0 ? -1 : syscall(SYS_fsopen, "fuse",
                                           FSOPEN_CLOEXEC);

    if (fs_fd < 0) {
        if (fuse_fd >= 0) {
            close(fuse_fd);
        }
        return false;
    }
    server->mount_fd = -1;
    if (server_configure(fs_fd, "source", "fastload-bench") &&
        server_configure(fs_fd, "fd", fd) &&
        server_configure(fs_fd, "rootmode", mode) &&
        server_configure(fs_fd, "user_id", uid) &&
        server_configure(fs_fd, "group_id", gid) &&
        syscall(SYS_fsconfig, fs_fd, FSCONFIG_CMD_CREATE, NULL, NULL,
                0) == 0) {
        server->mount_fd = syscall(SYS_fsmount, fs_fd, FSMOUNT_CLOEXEC,
                                   MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
                                   MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    }
    close(fs_fd);
    *ret_fuse_fd = fuse_fd;
    return server->mount_fd >= 0;
}

static const char *server_mount_hint(int error)
{
    return error == ENOENT || error == ENXIO || error == ENODEV
        ? "load the kernel module fuse, or give the container /dev/fuse"
        : error == ENOSYS ? "Linux 5.2 or newer has it"
        : "run it as root, or allow user namespaces and access to /dev/fuse";
}

static bool server_mount(Server *server, int *ret_fuse_fd, char *ret_error)
{
    bool is_mounted = server_mount_once(server, ret_fuse_fd);

    if (!is_mounted && errno == EPERM && server_enter_namespace()) {
        is_mounted = server_mount_once(server, ret_fuse_fd);
    }
    if (!is_mounted) {
        int error = errno;

        snprintf(ret_error, SERVER_ERROR_BYTES,
                 "cannot simulate storage, for FUSE is refused: %s; %s",
                 g_strerror(error), server_mount_hint(error));
    }
    return is_mounted;
}

/* Before the file is opened: an open file keeps the old readahead. */
static bool server_set_read_ahead(const Server *server, char *ret_error)
{
    g_autofree char *path = NULL, *kib = NULL;
    struct stat st;

    if (!server->read_ahead_bytes) {
        return true;
    }
    if (fstat(server->mount_fd, &st) < 0) {
        snprintf(ret_error, SERVER_ERROR_BYTES,
                 "cannot look at the simulated storage: %s",
                 g_strerror(errno));
        return false;
    }
    path = g_strdup_printf("/sys/class/bdi/%u:%u/read_ahead_kb",
                           major(st.st_dev), minor(st.st_dev));
    kib = g_strdup_printf("%" PRIu64, server->read_ahead_bytes / 1024);
    if (!server_write_file(path, kib) &&
        server->read_ahead_bytes > STORAGE_READ_AHEAD_BYTES) {
        snprintf(ret_error, SERVER_ERROR_BYTES,
                 "--readahead: more than 128K needs root, for the kernel "
                 "refuses to write %s: %s", path, g_strerror(errno));
        return false;
    }
    return true;
}

/* Populates the mapping, so that only the schedule makes reads wait. */
static void server_populate(const Server *server)
{
    off_t begin = 0, end = 0;

    while ((begin = lseek(server->snapshot->fd, end, SEEK_DATA)) >= 0 &&
           (end = lseek(server->snapshot->fd, begin, SEEK_HOLE)) > begin) {
        off_t from = begin & ~(off_t)(BENCH_PAGE_BYTES - 1);

        (void)madvise(server->map + from, end - from, MADV_POPULATE_READ);
    }
}

static void *server_loop(void *opaque)
{
    Server *server = opaque;
    struct fuse_loop_config *config = fuse_loop_cfg_create();

    fuse_loop_cfg_set_max_threads(config, SERVER_THREAD_COUNT_MAX);
    fuse_session_loop_mt(server->session, config);
    _exit(0); /* the kernel has closed the connection */
}

static bool server_start(Server *server, char *ret_error)
{
    char *argv[] = { (char *)"fastload-bench", NULL };
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    const Snapshot *snapshot = server->snapshot;
    g_autofree char *fuse_path = NULL;
    pthread_t thread;
    int fuse_fd;

    server->map = mmap(NULL, snapshot->file_bytes, PROT_READ, MAP_SHARED,
                       snapshot->fd, 0);
    if (server->map == MAP_FAILED) {
        snprintf(ret_error, SERVER_ERROR_BYTES, "cannot map %s: %s",
                 snapshot->label, g_strerror(errno));
        return false;
    }
    if (!server->has_class) {
        server->direct_fd = open(snapshot->path,
                                 O_RDONLY | O_CLOEXEC | O_DIRECT);
    }
    if (!server_mount(server, &fuse_fd, ret_error)) {
        return false;
    }
    fuse_path = g_strdup_printf("/dev/fd/%d", fuse_fd);
    server->session = fuse_session_new(&args, &server_ops,
                                       sizeof(server_ops), server);
    if (!server->session ||
        fuse_session_mount(server->session, fuse_path) < 0 ||
        pthread_create(&thread, NULL, server_loop, server)) {
        snprintf(ret_error, SERVER_ERROR_BYTES,
                 "cannot simulate storage: libfuse does not start");
        return false;
    }
    return server_set_read_ahead(server, ret_error);
}

/* Sends the error (empty: none), and then the mount. */
static void server_send_mount(const Server *server, const char *text)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec iov = { (void *)text, SERVER_ERROR_BYTES };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (!*text) {
        struct cmsghdr *cmsg;

        msg.msg_control = control;
        msg.msg_controllen = sizeof(control);
        cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &server->mount_fd, sizeof(int));
    }
    if (sendmsg(server->socket, &msg, MSG_NOSIGNAL) < 0) {
        _exit(1);
    }
}

/*
 * A device does not wait for a processor: gets priority over the guest as far
 * as permitted, and timers without the default slack of 50 us.
 */
static void server_be_a_device(void)
{
    struct sched_param param = { .sched_priority = 1 };

    prctl(PR_SET_TIMERSLACK, 1);
    if (sched_setscheduler(0, SCHED_RR, &param) < 0) {
        setpriority(PRIO_PROCESS, 0, -20);
    }
}

static void server_main(Server *server, pid_t parent)
{
    char text[SERVER_ERROR_BYTES] = "", command;

    signal(SIGINT, SIG_IGN); /* the parent decides */
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    prctl(PR_SET_NAME, "fastload-store");
    server_be_a_device();
    server_start(server, text);
    /* After entering the namespace, which resets it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    server_send_mount(server, text);
    close(server->mount_fd);
    if (!*text && !freopen("/dev/null", "w", stderr)) {
        _exit(1); /* else libfuse may say there that the connection has ended */
    }
    while (!*text && read(server->socket, &command, 1) == 1) {
        server_populate(server);
        pthread_mutex_lock(&server->lock);
        storage_schedule_restart(&server->schedule);
        pthread_mutex_unlock(&server->lock);
        if (send(server->socket, &command, 1, MSG_NOSIGNAL) != 1) {
            break;
        }
    }
    _exit(0);
}

/* ---- the tool's side ---- */

static int storage_mount_receive(StorageMount *mount, GError **error)
{
    char control[CMSG_SPACE(sizeof(int))], text[SERVER_ERROR_BYTES];
    struct iovec iov = { text, sizeof(text) };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1,
        .msg_control = control, .msg_controllen = sizeof(control),
    };
    ssize_t ret;
    int fd;

    do {
        ret = recvmsg(mount->socket, &msg, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    } while (ret < 0 && errno == EINTR);
    if (ret != sizeof(text) || (!*text && !CMSG_FIRSTHDR(&msg))) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the process that simulates storage ended at once");
        return -1;
    }
    if (*text) {
        text[sizeof(text) - 1] = '\0';
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED, "%s", text);
        return -1;
    }
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
    return fd;
}

static bool storage_mount_fork(StorageMount *mount, Server *server,
                               GError **error)
{
    pid_t parent = getpid();
    int sockets[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot make a socket: %s", g_strerror(errno));
        return false;
    }
    mount->socket = sockets[0];
    fflush(NULL);
    mount->server = fork();
    if (mount->server == 0) {
        close(sockets[0]);
        server->socket = sockets[1];
        server_main(server, parent);
    }
    close(sockets[1]);
    if (mount->server < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot start a process: %s", g_strerror(errno));
        return false;
    }
    mount->mount_fd = storage_mount_receive(mount, error);
    return mount->mount_fd >= 0;
}

static StorageMount *storage_mount_bare(const Snapshot *snapshot,
                                        const StorageClass *class,
                                        uint64_t read_ahead_bytes,
                                        uint64_t seed, GError **error)
{
    StorageMount *mount = g_new0(StorageMount, 1);
    Server server = {
        .snapshot = snapshot,
        .has_class = class,
        .read_ahead_bytes = read_ahead_bytes,
        .direct_fd = -1,
        .mount_fd = -1,
        .lock = PTHREAD_MUTEX_INITIALIZER,
    };

    mount->class = class;
    mount->read_ahead_bytes = read_ahead_bytes;
    mount->seed = seed;
    mount->file_fd = snapshot->fd;
    mount->mount_fd = mount->socket = mount->server = -1;
    mount->control = mmap(NULL, sizeof(*mount->control),
                          PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_assert(mount->control != MAP_FAILED);
    mount->control->is_fast = 1;
    server.control = mount->control;
    if (class) {
        storage_schedule_init(&server.schedule, class, seed);
    }
    if (!storage_mount_fork(mount, &server, error)) {
        storage_mount_free(mount);
        return NULL;
    }
    return mount;
}

StorageMount *storage_mount_new(const Snapshot *snapshot,
                                const StorageClass *class,
                                uint64_t read_ahead_bytes, uint64_t seed,
                                GError **error)
{
    StorageMount *mount = storage_mount_bare(snapshot, class,
                                             read_ahead_bytes, seed, error);
    g_autofree char *path = NULL;
    int fd;

    if (!mount) {
        return NULL;
    }
    path = g_strdup_printf("/proc/self/fd/%d", mount->mount_fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot open the simulated storage: %s",
                    g_strerror(errno));
        storage_mount_free(mount);
        return NULL;
    }
    mount->snapshot = snapshot_open_fd(fd, path, snapshot->label, error);
    /* Loads all data into memory before the first slow read. */
    if (!mount->snapshot || !storage_mount_set_fast(mount, true, error) ||
        !storage_mount_set_fast(mount, false, error)) {
        storage_mount_free(mount);
        return NULL;
    }
    mount->snapshot->mount = mount;
    mount->snapshot->origin = snapshot;
    return mount;
}

StorageMount *storage_mount_beside(const StorageMount *like, int fd,
                                   char **ret_path, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    /* The server looks at no more of a snapshot. */
    Snapshot file = { .path = path, .label = path, .fd = fd };
    StorageMount *mount;
    struct stat st;

    if (fstat(fd, &st) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot look at the file of a working set: %s",
                    g_strerror(errno));
        return NULL;
    }
    file.file_bytes = st.st_size;
    mount = storage_mount_bare(&file, like->class, like->read_ahead_bytes,
                               like->seed, error);
    if (mount && (!storage_mount_set_fast(mount, true, error) ||
                  !storage_mount_set_fast(mount, false, error))) {
        g_clear_pointer(&mount, storage_mount_free);
    }
    if (mount) {
        *ret_path = g_strdup_printf("/proc/self/fd/%d", mount->mount_fd);
    }
    return mount;
}

void storage_mount_free(StorageMount *mount)
{
    if (!mount) {
        return;
    }
    snapshot_free(mount->snapshot);
    if (mount->mount_fd >= 0) {
        close(mount->mount_fd);
    }
    if (mount->socket >= 0) {
        close(mount->socket);
    }
    if (mount->server > 0) {
        kill(mount->server, SIGKILL);
        while (waitpid(mount->server, NULL, 0) < 0 && errno == EINTR) {
            continue;
        }
    }
    munmap(mount->control, sizeof(*mount->control));
    g_free(mount);
}

bool storage_mount_set_fast(StorageMount *mount, bool is_fast,
                            GError **error)
{
    char command = 0;

    __atomic_store_n(&mount->control->is_fast, is_fast, __ATOMIC_RELEASE);
    if (!is_fast || !mount->class) {
        return true;
    }
    syscall(SYS_futex, &mount->control->is_fast, FUTEX_WAKE, INT32_MAX, NULL,
            NULL, 0);
    if (send(mount->socket, &command, 1, MSG_NOSIGNAL) != 1 ||
        recv(mount->socket, &command, 1, MSG_WAITALL) != 1) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the process that simulates storage is gone");
        return false;
    }
    return true;
}

bool storage_mount_check(const StorageClass *class,
                         uint64_t read_ahead_bytes, GError **error)
{
    Snapshot snapshot = { .label = (char *)"a file in memory" };
    StorageMount *mount = NULL;

    snapshot.fd = memfd_create("fastload-bench", MFD_CLOEXEC);
    snapshot.path = g_strdup_printf("/proc/self/fd/%d", snapshot.fd);
    snapshot.file_bytes = BENCH_PAGE_BYTES;
    if (snapshot.fd < 0 ||
        ftruncate(snapshot.fd, snapshot.file_bytes) < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot make a file in memory: %s", g_strerror(errno));
    } else {
        mount = storage_mount_bare(&snapshot, class, read_ahead_bytes, 0,
                                   error);
    }
    if (snapshot.fd >= 0) {
        close(snapshot.fd);
    }
    g_free(snapshot.path);
    storage_mount_free(mount);
    return mount;
}

#else /* !CONFIG_FUSE */

bool storage_mount_check(const StorageClass *class,
                         uint64_t read_ahead_bytes, GError **error)
{
    g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                "--%s: this build has no simulated storage: build it where "
                "libfuse3 3.12 or newer is installed, with its headers",
                class ? "storage" : "readahead");
    return false;
}

StorageMount *storage_mount_new(const Snapshot *snapshot,
                                const StorageClass *class,
                                uint64_t read_ahead_bytes, uint64_t seed,
                                GError **error)
{
    storage_mount_check(class, read_ahead_bytes, error);
    return NULL;
}

StorageMount *storage_mount_beside(const StorageMount *like, int fd,
                                   char **ret_path, GError **error)
{
    return NULL; /* there is no mount like it */
}

void storage_mount_free(StorageMount *mount)
{
}

bool storage_mount_set_fast(StorageMount *mount, bool is_fast,
                            GError **error)
{
    return true;
}

#endif
