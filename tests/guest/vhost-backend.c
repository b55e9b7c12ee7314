/*
 * A vhost-user disk that reads all of guest memory while the guest runs
 *
 * The disk is of zeros.  Beside it, some threads sweep over the pages that the
 * probe guest has filled, from the moment on that the guest's driver starts the
 * device, and check each of them as the guest does: a page that is missing, and
 * that nobody traps, is found to be zero.
 *
 * Lines on standard output:
 *   BACKEND ADVISED                  QEMU has its userfaultfd
 *   BACKEND ENDED                    QEMU has said that all memory is there
 *   BACKEND STARTED postcopy=0|1     the device starts; are pages trapped?
 *   BACKEND SWEEP pages=N wrong=N worst_us=N      a thread has checked all
 *   BACKEND WRONG page=N head=...
 *   BACKEND TOUCHED N                each of N threads has got its page
 *   BACKEND OUTSIDE                  a thread touches what is no guest memory
 *   BACKEND OUTSIDE times=N          it has done so N times
 *   BACKEND DONE requests=N          QEMU has gone
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>

#include "guest-core.h"
#include "libvhost-user.h"

enum {
    SECTORS = 2048,
    FDS_MAX = 64,
    SWEEPERS_MAX = 8,
    WRONG_PRINTED_MAX = 10,
    /* A page that the guest writes just now is sound at a later look. */
    LOOKS_MAX = 5000,
    LOOK_EVERY_US = 1000,
    EARLY_LOOKS = 1000,
    OUTSIDE_BYTES = 1 << 20,
    OUTSIDE_EVERY_US = 1000,
    QUEUES_MAX = 16,
    TOUCHERS_MAX = 4096,
    THREAD_STACK_BYTES = 64 << 10,
    STRIDE = 1000003,       /* a prime: each page has its turn */
};

typedef struct Watch {
    int condition;
    vu_watch_cb func;
    void *data;
} Watch;

typedef struct Sweeper {
    unsigned idx;
    pthread_t thread;
} Sweeper;

/* constant once the device has started */
static CoreOptions options;
static uint64_t first_address;
static unsigned sweeper_count = 2, toucher_count, queue_count = 1;
static unsigned outside_times;
static bool lacks_pagefault, has_slots, touches_outside;
static bool lacks_userfaultfd, fails_end, touches_early;

/* the main thread */
static VuDev device;
static Watch watches[FDS_MAX];
static Sweeper sweepers[SWEEPERS_MAX];
static bool has_started, is_gone;
static uint64_t request_count;

static _Atomic uint64_t wrong_count, touched_count;

/* ---- what guest-core.h wants of a platform */

uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

void say(const char *format, ...)
{
    char line[256];
    va_list list;

    va_start(list, format);
    vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    printf("BACKEND %s\n", line);
    fflush(stdout);
}

static __attribute__((noreturn, format(printf, 1, 2)))
void die(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    fputs("vhost-backend: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(1);
}

/* Where a page of the guest is mapped here. */
uint64_t *page_memory(uint64_t page)
{
    uint64_t address = first_address + page * PAGE_BYTES;

    for (unsigned i = 0; i < device.nregions; i++) {
        const VuDevRegion *region = &device.regions[i];

        if (address >= region->gpa && address - region->gpa < region->size) {
            return (uint64_t *)(uintptr_t)(region->mmap_addr +
                                           region->mmap_offset +
                                           (address - region->gpa));
        }
    }
    die("page %" PRIu64 " at %" PRIx64 " is in no region", page, address);
}

uint64_t io_answered(void)
{
    return request_count;
}

void between_visits(uint64_t now)
{
}

/* ---- the sweeps */

static void check_page(uint64_t page)
{
    const uint64_t *mem = page_memory(page);

    for (unsigned i = 0; !core_page_is_sound(mem, page); i++) {
        if (i == LOOKS_MAX) {
            if (atomic_fetch_add(&wrong_count, 1) < WRONG_PRINTED_MAX) {
                say("WRONG page=%" PRIu64 " head=%016" PRIx64, page, mem[0]);
            }
            return;
        }
        usleep(LOOK_EVERY_US);
    }
}

/*
 * Check all pages again and again, in a scattered order that begins elsewhere
 * for each thread.  The pauses between two passes become longer.
 */
static void *sweep(void *opaque)
{
    const Sweeper *sweeper = opaque;
    const uint64_t count = core_page_count();
    uint64_t at = count / SWEEPERS_MAX * sweeper->idx;

    for (unsigned pass = 0;; pass++) {
        uint64_t worst_ns = 0, seen = 0;

        for (uint64_t i = 0; i < count; i++) {
            uint64_t begin = now_ns(), took;

            at = (at + STRIDE) % count;
            check_page(at);
            seen++;
            took = now_ns() - begin;
            worst_ns = took > worst_ns ? took : worst_ns;
        }
        say("SWEEP pages=%" PRIu64 " wrong=%" PRIu64 " worst_us=%" PRIu64,
            seen, atomic_load(&wrong_count), worst_ns / 1000);
        usleep(100000 << (pass < 5 ? pass : 5));
    }
    return NULL;
}

/* Each thread touches one page, far from those of the others. */
static void *touch_one(void *opaque)
{
    uint64_t idx = (uintptr_t)opaque;

    check_page(idx * (core_page_count() / toucher_count));
    if (atomic_fetch_add(&touched_count, 1) + 1 == toucher_count) {
        say("TOUCHED %u", toucher_count);
    }
    return NULL;
}

/* A fault on this memory asks QEMU for a page that the guest does not have. */
static void *touch_outside(void *opaque)
{
    say("OUTSIDE");
    (void)*(volatile uint8_t *)opaque;
    return NULL;
}

/* It does not wait for QEMU: each time it is woken, it asks QEMU again. */
static void *wake_outside(void *opaque)
{
    struct uffdio_range range = {
        .start = (uintptr_t)opaque, .len = OUTSIDE_BYTES,
    };

    for (unsigned i = 0; i < outside_times; i++) {
        usleep(OUTSIDE_EVERY_US);
        ioctl(device.postcopy_ufd, UFFDIO_WAKE, &range);
    }
    say("OUTSIDE times=%u", outside_times);
    return NULL;
}

static void start_thread(pthread_t *thread, void *(*func)(void *), void *data)
{
    pthread_attr_t attr;
    int error_number;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
    error_number = pthread_create(thread, &attr, func, data);
    pthread_attr_destroy(&attr);
    if (error_number) {
        die("cannot create a thread: %s", strerror(error_number));
    }
}

static void start_outside(void)
{
    struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
    void *memory = mmap(NULL, OUTSIDE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;

    range.range.start = (uintptr_t)memory;
    range.range.len = OUTSIDE_BYTES;
    if (ioctl(device.postcopy_ufd, UFFDIO_REGISTER, &range) < 0) {
        die("cannot register own memory with userfaultfd: %s",
            strerror(errno));
    }
    start_thread(&thread, touch_outside, memory);
    if (outside_times) {
        start_thread(&thread, wake_outside, memory);
    }
}

/* Waits until QEMU has read a fault, or for a second. */
static void wait_until_read(void)
{
    struct pollfd pollfd = { .fd = device.postcopy_ufd, .events = POLLIN };
    bool was_there = false, is_there;

    for (unsigned i = 0; i < EARLY_LOOKS; i++) {
        is_there = poll(&pollfd, 1, 0) > 0;
        if (was_there && !is_there) {
            return;
        }
        was_there |= is_there;
        usleep(LOOK_EVERY_US);
    }
}

/* ---- the disk */

static size_t iov_bytes(const struct iovec *iov, unsigned count)
{
    size_t bytes = 0;

    for (unsigned i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

static void answer_requests(VuDev *dev, int idx)
{
    VuVirtq *queue = vu_get_queue(dev, idx);
    VuVirtqElement *element;

    while ((element = vu_queue_pop(dev, queue, sizeof(*element)))) {
        size_t in_bytes = iov_bytes(element->in_sg, element->in_num);
        const struct iovec *last;

        if (!element->in_num || !element->out_num) {
            die("a request without header or status");
        }
        last = &element->in_sg[element->in_num - 1];
        for (unsigned i = 0; i < element->in_num; i++) {
            memset(element->in_sg[i].iov_base, 0, element->in_sg[i].iov_len);
        }
        ((uint8_t *)last->iov_base)[last->iov_len - 1] = VIRTIO_BLK_S_OK;
        request_count++;
        vu_queue_push(dev, queue, element, in_bytes);
        vu_queue_notify(dev, queue);
        free(element);
    }
}

static uint64_t get_features(VuDev *dev)
{
    return 1ULL << VIRTIO_F_VERSION_1;
}

static uint64_t get_protocol_features(VuDev *dev)
{
    return 1ULL << VHOST_USER_PROTOCOL_F_CONFIG;
}

static int get_config(VuDev *dev, uint8_t *config, uint32_t len)
{
    struct virtio_blk_config disk = {
        .capacity = SECTORS, .num_queues = queue_count,
    };

    memset(config, 0, len);
    memcpy(config, &disk, len < sizeof(disk) ? len : sizeof(disk));
    return 0;
}

static int set_config(VuDev *dev, const uint8_t *data, uint32_t offset,
                      uint32_t size, uint32_t flags)
{
    return 0;
}

static void queue_set_started(VuDev *dev, int idx, bool is_started)
{
    pthread_t thread;

    vu_set_queue_handler(dev, vu_get_queue(dev, idx),
                         is_started ? answer_requests : NULL);
    if (!is_started || has_started) {
        return;
    }
    has_started = true;
    say("STARTED postcopy=%d", dev->postcopy_listening);
    for (unsigned i = 0; i < sweeper_count; i++) {
        sweepers[i].idx = i;
        start_thread(&sweepers[i].thread, sweep, &sweepers[i]);
    }
    if (touches_outside) {
        start_outside();
    }
    for (uintptr_t i = 0; i < toucher_count; i++) {
        start_thread(&thread, touch_one, (void *)i);
    }
}

static uint64_t protocol_features(void)
{
    return 1ULL << VHOST_USER_PROTOCOL_F_LOG_SHMFD |
           1ULL << VHOST_USER_PROTOCOL_F_REPLY_ACK |
           1ULL << VHOST_USER_PROTOCOL_F_CONFIG |
           (uint64_t)(queue_count > 1) << VHOST_USER_PROTOCOL_F_MQ |
           (uint64_t)!lacks_pagefault << VHOST_USER_PROTOCOL_F_PAGEFAULT;
}

/* Answer a message in the library's place. */
static int answer_number(VhostUserMsg *msg, uint64_t number, int *do_reply)
{
    msg->payload.u64 = number;
    msg->flags = 0;         /* the library sets those of an answer */
    msg->size = sizeof(msg->payload.u64);
    msg->fd_num = 0;
    *do_reply = 1;
    return 1;
}

/*
 * Change what the library does in two places.  It offers memory in slots, with
 * which its postcopy does not work: do not offer them.  It refuses the legacy
 * interface, which the guest uses: say that it is the new one, whose rings are
 * the same on x86.  And fail where a test wants that.
 */
static int process_message(VuDev *dev, VhostUserMsg *msg, int *do_reply)
{
    switch (msg->request) {
    case VHOST_USER_NONE:
        is_gone = true;     /* the library would end the process */
        return 1;
    case VHOST_USER_SET_FEATURES:
        msg->payload.u64 |= 1ULL << VIRTIO_F_VERSION_1;
        return 0;
    case VHOST_USER_GET_PROTOCOL_FEATURES:
        return has_slots ? 0 : answer_number(msg, protocol_features(),
                                             do_reply);
    case VHOST_USER_POSTCOPY_ADVISE:
        if (lacks_userfaultfd) {
            msg->size = 0;
            msg->fd_num = 0;
            *do_reply = 1;
            return 1;
        }
        say("ADVISED");
        return 0;
    case VHOST_USER_POSTCOPY_LISTEN:
        if (touches_early) {
            start_outside();
            wait_until_read();
        }
        return 0;
    case VHOST_USER_POSTCOPY_END:
        if (fails_end) {
            return answer_number(msg, 1, do_reply);
        }
        say("ENDED");
        return 0;
    default:
        return 0;
    }
}

static const VuDevIface disk = {
    .get_features = get_features,
    .get_protocol_features = get_protocol_features,
    .process_msg = process_message,
    .queue_set_started = queue_set_started,
    .get_config = get_config,
    .set_config = set_config,
};

/* ---- the main loop */

static void panicked(VuDev *dev, const char *text)
{
    die("%s", text);
}

static void set_watch(VuDev *dev, int fd, int condition, vu_watch_cb func,
                      void *data)
{
    if (fd >= FDS_MAX) {
        die("descriptor %d is too large", fd);
    }
    watches[fd] = (Watch) { condition, func, data };
}

static void remove_watch(VuDev *dev, int fd)
{
    if (fd >= 0 && fd < FDS_MAX) {
        watches[fd].func = NULL;
    }
}

static void serve(int sock)
{
    struct pollfd fds[FDS_MAX];

    is_gone = false;
    if (!vu_init(&device, queue_count, sock, panicked, NULL, set_watch,
                 remove_watch, &disk)) {
        die("libvhost-user does not start");
    }
    while (true) {
        nfds_t count = 1;

        fds[0] = (struct pollfd) { .fd = sock, .events = POLLIN };
        for (int fd = 0; fd < FDS_MAX; fd++) {
            if (watches[fd].func) {
                fds[count++] = (struct pollfd) {
                    .fd = fd, .events = watches[fd].condition,
                };
            }
        }
        if (poll(fds, count, -1) < 0 && errno != EINTR) {
            die("poll: %s", strerror(errno));
        }
        if (fds[0].revents && (!vu_dispatch(&device) || is_gone)) {
            break;
        }
        for (nfds_t i = 1; i < count; i++) {
            const Watch *watch = &watches[fds[i].fd];

            if (fds[i].revents && watch->func) {
                watch->func(&device, fds[i].revents, watch->data);
            }
        }
    }
    if (!has_started) {
        vu_deinit(&device);
    }
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(address.sun_path)) {
        die("'%s' is too long for the path of a socket", path);
    }
    strcpy(address.sun_path, path);
    unlink(path);
    if (sock < 0 || bind(sock, (struct sockaddr *)&address, sizeof(address)) ||
        listen(sock, 1)) {
        die("cannot listen at '%s': %s", path, strerror(errno));
    }
    return sock;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        { "first", required_argument, NULL, 'f' },
        { "sweepers", required_argument, NULL, 's' },
        { "touchers", required_argument, NULL, 't' },
        { "no-pagefault", no_argument, NULL, 'n' },
        { "slots", no_argument, NULL, 'l' },
        { "outside", optional_argument, NULL, 'o' },
        { "queues", required_argument, NULL, 'q' },
        { "no-userfaultfd", no_argument, NULL, 'u' },
        { "fail-end", no_argument, NULL, 'e' },
        { "early", no_argument, NULL, 'y' },
        { NULL },
    };
    int listener, sock, option;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'f':
            first_address = strtoull(optarg, NULL, 0);
            break;
        case 's':
            sweeper_count = strtoul(optarg, NULL, 0);
            break;
        case 't':
            toucher_count = strtoul(optarg, NULL, 0);
            break;
        case 'n':
            lacks_pagefault = true;
            break;
        case 'l':
            has_slots = true;
            break;
        case 'o':
            touches_outside = true;
            outside_times = optarg ? strtoul(optarg, NULL, 0) : 0;
            break;
        case 'q':
            queue_count = strtoul(optarg, NULL, 0);
            break;
        case 'u':
            lacks_userfaultfd = true;
            break;
        case 'e':
            fails_end = true;
            break;
        case 'y':
            touches_early = true;
            break;
        default:
            return 2;
        }
    }
    if (argc - optind != 2 || sweeper_count > SWEEPERS_MAX ||
        toucher_count > TOUCHERS_MAX || queue_count < 1 ||
        queue_count > QUEUES_MAX) {
        fputs("usage: vhost-backend [--first=ADDRESS] [--sweepers=0..8] "
              "[--touchers=0..4096] [--queues=1..16] [--no-pagefault] "
              "[--slots] [--outside[=TIMES]] [--no-userfaultfd] [--fail-end] "
              "[--early] SOCKET 'fl.fill_mib=N ...'\n", stderr);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    options = core_options(argv[optind + 1]);
    core_begin(&options, NULL, 1);
    listener = listen_at(argv[optind]);
    do {
        /* A QEMU that refuses the backend connects again, a few times. */
        sock = accept(listener, NULL, NULL);
        if (sock < 0) {
            die("accept: %s", strerror(errno));
        }
        serve(sock);
    } while (!has_started);
    say("DONE requests=%" PRIu64, request_count);
    fflush(stdout);
    _exit(0);       /* sweepers may wait for pages, which never come now */
}
