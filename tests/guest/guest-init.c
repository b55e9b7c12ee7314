/*
 * The guest's /init: guest-core.h on Linux
 *
 * Prepares what the core needs of a kernel: memory, time, a thread on each
 * processor, the serial port, and requests to virtio devices all the time.
 *
 * The test program reads its lines and writes bytes at the serial port, see
 * guest-core.h.  It obeys three bytes more:
 *   'r'  reboot
 *   'm'  mount the folder that virtiofsd serves with the tag "fastload", as
 *        soon as it is there, and use it
 *   'n'  do not use it any more, and unmount it
 * Using it is to read the file "words" in it again and again, and to write to
 * the file "reads" how often it has read.  Both are opened only once.  Word n
 * of "words" is (n + 1) * SHARE_FACTOR.  Lines, the second one at each end of
 * "words":
 *   FASTLOAD FOLDER mounted
 *   FASTLOAD FILE reads=N
 *   FASTLOAD FOLDER unmounted
 *
 * When something fails it says "FASTLOAD FAIL reason" and stays, since PID 1
 * must not exit.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "guest-core.h"

#define SHARE_FACTOR 0x9e3779b97f4a7c15ULL

enum {
    IO_EVERY_MS = 50,
    SHARE_READ_BYTES = 64 << 10,
    SHARE_READ_WORDS = SHARE_READ_BYTES / sizeof(uint64_t),
    SHARE_GUARD_WORDS = PAGE_WORDS / 8,
    SHARE_BUFFER_WORDS = SHARE_READ_WORDS + PAGE_WORDS,
    SHARE_BUFFERS = 64,
};

/* constant once the workers run */
static uint8_t *area;
static unsigned worker_count = 1;
static int tty = -1;

/* atomic */
static _Atomic uint64_t io_count;
static _Atomic bool is_share_used;

uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* One line, one write(): lines of two threads do not mix. */
void say(const char *format, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    char line[256];
    va_list ap;
    size_t used;
    int n;

    n = snprintf(line, sizeof(line), "FASTLOAD ");
    va_start(ap, format);
    n += vsnprintf(line + n, sizeof(line) - n - 1, format, ap);
    va_end(ap);
    used = (size_t)n > sizeof(line) - 2 ? sizeof(line) - 2 : (size_t)n;
    line[used++] = '\n';

    pthread_mutex_lock(&lock);
    for (size_t done = 0; done < used; ) {
        ssize_t w = write(tty, line + done, used - done);

        if (w > 0) {
            done += w;
        } else if (errno != EINTR && errno != EAGAIN) {
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

__attribute__((format(printf, 1, 2), noreturn))
static void fail(const char *format, ...)
{
    char text[200];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    say("FAIL %s", text);
    for (;;) {
        pause();
    }
}

uint64_t *page_memory(uint64_t page)
{
    return (uint64_t *)(area + page * PAGE_BYTES);
}

uint64_t io_answered(void)
{
    return atomic_load(&io_count);
}

/* The main thread serves the serial port. */
void between_visits(uint64_t now)
{
    (void)now;
}

static void *worker_main(void *opaque)
{
    unsigned idx = (uintptr_t)opaque;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(idx, &set);
    sched_setaffinity(0, sizeof(set), &set);
    core_work(idx);
}

/* Keeps virtqueues in use: a device that lost its state stops counting. */
static void *io_main(void *opaque)
{
    int rng = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);
    int disk = open("/dev/vda", O_RDONLY | O_DIRECT | O_CLOEXEC);
    void *buf = NULL;

    if (posix_memalign(&buf, PAGE_BYTES, PAGE_BYTES) != 0) {
        return NULL;
    }
    for (;;) {
        struct timespec pause_time = { .tv_nsec = IO_EVERY_MS * 1000 * 1000 };

        if (rng >= 0 && read(rng, buf, 64) > 0) {
            atomic_fetch_add(&io_count, 1);
        }
        if (disk >= 0 && pread(disk, buf, PAGE_BYTES, 0) == PAGE_BYTES) {
            atomic_fetch_add(&io_count, 1);
        }
        nanosleep(&pause_time, NULL);
    }
    return opaque;
}

static void mount_share(void)
{
    mkdir("/share", 0755);
    while (mount("fastload", "/share", "virtiofs", 0, NULL) < 0) {
        if (errno != EINVAL) {
            fail("mounting the folder: %s", strerror(errno));
        }
        usleep(10 * 1000); /* there is no such tag yet */
    }
    say("FOLDER mounted");
}

/*
 * What is read goes to the middle of a buffer: the first and the last page of
 * it hold other words, too, which must not change.  If virtiofsd writes to such
 * a page before it is loaded, these words are zeros.  There are many buffers,
 * so that the restored guest has touched none of them when virtiofsd does.
 */
static uint64_t *make_buffers(void)
{
    const size_t words = (size_t)SHARE_BUFFERS * SHARE_BUFFER_WORDS;
    void *mem = NULL;

    if (posix_memalign(&mem, PAGE_BYTES, words * sizeof(uint64_t)) != 0) {
        fail("no memory to read the file");
    }
    for (size_t i = 0; i < words; i++) {
        ((uint64_t *)mem)[i] = ~(i * SHARE_FACTOR);
    }
    return mem;
}

/* @words: those of a buffer around what is read; the first is word @first */
static void check_guard(const uint64_t *words, size_t count, size_t first)
{
    for (size_t i = 0; i < count; i++) {
        if (words[i] != ~((first + i) * SHARE_FACTOR)) {
            fail("word %zu around the file's is %llx", first + i,
                 (unsigned long long)words[i]);
        }
    }
}

/* @words: what was read; the first is word @first of the file */
static void check_share(const uint64_t *words, size_t count, uint64_t first)
{
    for (size_t i = 0; i < count; i++) {
        if (words[i] != (first + i + 1) * SHARE_FACTOR) {
            fail("word %llu of the file is %llx",
                 (unsigned long long)(first + i),
                 (unsigned long long)words[i]);
        }
    }
}

/* Reads from word @first of the file on; returns the count, 0 at its end. */
static size_t read_share(int fd, uint64_t *buffers, unsigned idx,
                         uint64_t first)
{
    const size_t begin = (size_t)idx * SHARE_BUFFER_WORDS;
    const size_t data = begin + SHARE_GUARD_WORDS;
    const size_t end = data + SHARE_READ_WORDS;
    ssize_t n = read(fd, buffers + data, SHARE_READ_BYTES);

    if (n < 0 || n % sizeof(*buffers)) {
        fail("reading the file: %s", n < 0 ? strerror(errno) : "cut");
    }
    check_guard(buffers + begin, SHARE_GUARD_WORDS, begin);
    check_guard(buffers + end, begin + SHARE_BUFFER_WORDS - end, end);
    check_share(buffers + data, n / sizeof(*buffers), first);
    return n / sizeof(*buffers);
}

static void use_share(uint64_t *buffers)
{
    /* O_DIRECT: virtiofsd is asked each time, and writes to our memory. */
    int in = open("/share/words", O_RDONLY | O_DIRECT | O_CLOEXEC);
    int out = open("/share/reads", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    uint64_t reads = 0, next = 0;

    if (in < 0 || out < 0) {
        fail("opening the folder's files: %s", strerror(errno));
    }
    while (atomic_load(&is_share_used)) {
        size_t count = read_share(in, buffers, reads % SHARE_BUFFERS, next);

        next += count;
        reads++;
        if (pwrite(out, &reads, sizeof(reads), 0) != sizeof(reads)) {
            fail("writing to the folder: %s", strerror(errno));
        }
        if (count == 0) {
            say("FILE reads=%llu", (unsigned long long)reads);
            lseek(in, 0, SEEK_SET);
            next = 0;
        }
    }
    close(in);
    close(out);
}

/*
 * A restored guest that made one request at a time once stood still, for a
 * reason that is not known: docs/design/0012-vhost-user.md.
 */
static void *other_requests_main(void *opaque)
{
    struct statfs found;

    while (atomic_load(&is_share_used)) {
        if (statfs("/share", &found) < 0) {
            fail("statfs: %s", strerror(errno));
        }
        usleep(IO_EVERY_MS * 1000);
    }
    return opaque;
}

static void *share_main(void *opaque)
{
    uint64_t *buffers = make_buffers();
    pthread_t thread;

    mount_share();
    if (pthread_create(&thread, NULL, other_requests_main, NULL) != 0) {
        fail("pthread_create: %s", strerror(errno));
    }
    use_share(buffers);
    pthread_join(thread, NULL);
    if (umount("/share") < 0) {
        fail("unmounting the folder: %s", strerror(errno));
    }
    say("FOLDER unmounted");
    free(buffers);
    return opaque;
}

static void begin_share(void)
{
    pthread_t thread;

    atomic_store(&is_share_used, true);
    if (pthread_create(&thread, NULL, share_main, NULL) != 0) {
        fail("pthread_create: %s", strerror(errno));
    }
    pthread_detach(thread);
}

/*
 * The other CPUs may come to wait for pages: the serial port's interrupts go to
 * the last one, which keeps to its page.
 */
static void keep(void)
{
    int fd = open("/proc/irq/4/smp_affinity_list", O_WRONLY | O_CLOEXEC);

    if (fd < 0 || dprintf(fd, "%u\n", worker_count - 1) < 0) {
        fail("the serial port's interrupt: %s", strerror(errno));
    }
    close(fd);
    core_keep();
}

static void serve_serial(void)
{
    for (;;) {
        struct pollfd pfd = { .fd = tty, .events = POLLIN };
        char bytes[16];
        ssize_t n = 0;

        if (poll(&pfd, 1, 5) > 0) {
            n = read(tty, bytes, sizeof(bytes));
        }
        for (ssize_t i = 0; i < n; i++) {
            if (bytes[i] == 'k') {
                keep();
            } else if (bytes[i] == 'r') {
                reboot(RB_AUTOBOOT);
            } else if (bytes[i] == 'm') {
                begin_share();
            } else if (bytes[i] == 'n') {
                atomic_store(&is_share_used, false);
            } else {
                core_command(bytes[i]);
            }
        }
        core_poll();
    }
}

static void mount_all(void)
{
    static const char *const all[][3] = {
        { "devtmpfs", "/dev", "devtmpfs" },
        { "proc", "/proc", "proc" },
        { "sysfs", "/sys", "sysfs" },
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        mkdir(all[i][1], 0755);
        mount(all[i][0], all[i][1], all[i][2], 0, NULL);
    }
}

static void open_serial(void)
{
    struct termios tio;

    tty = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (tty < 0) {
        tty = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
    if (tcgetattr(tty, &tio) == 0) {
        cfmakeraw(&tio);
        tio.c_cflag |= CLOCAL | CREAD;
        cfsetspeed(&tio, B115200);
        tcsetattr(tty, TCSANOW, &tio);
    }
    /* A reset may have cut a line: READY must not become its end. */
    if (write(tty, "\n", 1) < 0) {
        fail("the serial port: %s", strerror(errno));
    }
}

static CoreOptions read_options(void)
{
    char cmdline[4096];
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, cmdline, sizeof(cmdline) - 1);

    if (n < 0) {
        fail("/proc/cmdline: %s", strerror(errno));
    }
    cmdline[n] = 0;
    close(fd);
    return core_options(cmdline);
}

static void load_modules(void)
{
    FILE *order = fopen("/modules/order", "re");
    char name[128];

    if (!order) {
        return;
    }
    while (fscanf(order, "%127s", name) == 1) {
        char path[160];
        int fd;

        snprintf(path, sizeof(path), "/modules/%s", name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 &&
                       errno != EEXIST)) {
            fail("module %s: %s", name, strerror(errno));
        }
        close(fd);
    }
    fclose(order);
}

/* The disk appears a moment after its module; not being there is no error. */
static void wait_for_disk(void)
{
    for (int i = 0; i < 100 && access("/dev/vda", F_OK) != 0; i++) {
        usleep(10 * 1000);
    }
}

/* Memory devices are plugged, or plug their memory, while we start. */
static bool wait_for_memory(uint64_t bytes, struct sysinfo *ret_info)
{
    for (int i = 0; i < 1000; i++) {
        sysinfo(ret_info);
        if (ret_info->freeram >= bytes) {
            return true;
        }
        usleep(10 * 1000);
    }
    return false;
}

static void *map_memory(uint64_t bytes)
{
    const uint64_t huge = CHUNK_PAGES * PAGE_BYTES;
    uint8_t *mem = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (mem == MAP_FAILED) {
        fail("mmap of %llu MiB: %s", (unsigned long long)(bytes >> 20),
             strerror(errno));
    }
    mem = (uint8_t *)(((uintptr_t)mem + huge - 1) & ~(huge - 1));
    madvise(mem, bytes, MADV_HUGEPAGE);
    return mem;
}

int main(void)
{
    CoreOptions options;
    uint64_t begin;
    uint32_t *versions;
    pthread_t thread;
    struct sysinfo info;

    mount_all();
    open_serial();
    options = read_options();
    load_modules();
    wait_for_disk();

    if (!wait_for_memory((options.fill_mib << 20) + (24 << 20), &info)) {
        fail("fl.fill_mib=%llu does not fit: %llu MiB are free",
             (unsigned long long)options.fill_mib,
             (unsigned long long)(info.freeram >> 20));
    }
    worker_count = get_nprocs() > CPUS_MAX ? CPUS_MAX : get_nprocs();
    area = map_memory(options.fill_mib << 20);
    versions = map_memory((options.fill_mib << 20) / PAGE_BYTES *
                          sizeof(*versions));
    core_begin(&options, versions, worker_count);

    begin = now_ns();
    for (unsigned i = 0; i < worker_count; i++) {
        core_fill(i);
    }
    core_ready(begin);

    for (unsigned i = 0; i < worker_count; i++) {
        if (pthread_create(&thread, NULL, worker_main,
                           (void *)(uintptr_t)i) != 0) {
            fail("pthread_create: %s", strerror(errno));
        }
    }
    if (pthread_create(&thread, NULL, io_main, NULL) != 0) {
        fail("pthread_create: %s", strerror(errno));
    }
    serve_serial();
    return 0;
}
