/*
 * Fast load of a mapped-ram snapshot: memory that another process maps.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The process behind a vhost-user device reads and writes guest memory by
 * itself, so its page faults do not come to QEMU's userfaultfd.  A backend with
 * the protocol feature PAGEFAULT makes a userfaultfd of its own and hands it to
 * QEMU, as in network postcopy; QEMU's own functions send the messages and know
 * which of its addresses is which page of which RAM block.  Here is what
 * remains: one thread that reads those descriptors, asks the engine for what
 * is missing, and wakes the backends once it is there.
 *
 *   backend touches a page -> its userfaultfd -> shared_main()
 *     -> QEMU's handler finds the RAM block -> ..._want_shared() notes the page
 *     -> shared_answer(): is it there?  yes: wake.  no: the engine reads it
 *        -> incoming_load_shared_placed() on an engine thread: wake
 *
 * Zeros that are not trapped have no page in shared memory until somebody
 * touches them: shared_answer() does so, through QEMU's own mapping.
 *
 * QEMU waits for a backend's answers without a bound.  While the thread lives,
 * it disconnects a backend that keeps QEMU waiting for too long, as the command
 * "yank" does: for QEMU the backend has ended then.
 *
 * Locks: within IncomingShared.lock, that of "yank" is taken and no other one.
 * Nothing that may wait for a page is done while it is held, as engine threads
 * take it to wake.
 */
#include "qemu/osdep.h"
#include <linux/userfaultfd.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include "chardev/char-fe.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-yank.h"
#include "qemu/error-report.h"
#include "qemu/event_notifier.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/userfaultfd.h"
#include "qemu/yank.h"
#include "hw/virtio/vhost.h"
#include "hw/virtio/vhost-user.h"
#include "fastload-internal.h"
#include "postcopy-ram.h"
#include "trace.h"

/* How many messages of a backend are read before it is the next one's turn. */
#define SHARED_BATCH 16

/* How often a backend is woken that waits at an unknown address. */
#define SHARED_STRAY_US (20 * 1000)
/* After so many faults there it is woken each SHARED_AGAIN_US only. */
#define SHARED_STRAYS_MAX 8
/*
 * How often the engine is asked again for pages that have not come.  It forgets
 * a request when another read was to bring the page, and fails.
 */
#define SHARED_AGAIN_US (1000 * 1000)
/*
 * How many of these periods a backend may keep QEMU waiting for an answer.
 * They are counted, so that no time passes while the host or QEMU sleeps.
 */
#define SHARED_SILENT_MAX 60

/* A backend that is told of pages. */
typedef struct SharedBackend {
    struct PostCopyFD pcfd;
    NotifierWithReturn *notifier; /* passes it messages; outlives this */
    bool is_end_told;   /* it was sent INBOUND_END, perhaps in vain */
    bool has_answered;  /* since END: so it is still connected */
    GHashTable *waiting; /* of SharedPage, by address: what it waits for */
    bool is_broken;     /* its userfaultfd gives no messages any more */
} SharedBackend;

/* An address, touched by a backend, that belongs to no known RAM block. */
typedef struct SharedStray {
    int fd;             /* the backend's userfaultfd */
    uint64_t address;   /* of the page, in the backend's address space */
} SharedStray;

/* A page that a backend wants. */
typedef struct SharedPage {
    int fd;             /* the backend's userfaultfd */
    uint64_t address;   /* of the page, in the backend's address space */
    uint8_t *hva;       /* the same page in QEMU */
    uint64_t page_bytes;
    int64_t begin_us;   /* when the backend has asked for it first */
} SharedPage;

/* QEMU writes to a backend or waits for its answer; on that thread's stack. */
typedef struct SharedTalk {
    const void *dev;    /* PostCopyFD.data of the backend */
    const char *chr_id;
    uint32_t silent_count; /* periods for which nothing has come */
} SharedTalk;

typedef struct IncomingShared {
    /* lock */
    QemuMutex lock;
    GArray *backends;   /* of SharedBackend */
    GPtrArray *talks;   /* of SharedTalk */
    bool is_over;       /* no page is to come any more */
    GArray *strays;     /* of SharedStray */
    uint32_t stray_count; /* how many there were so far */
    int64_t stray_due_us; /* when they are woken next */

    /* shared_main() alone */
    GArray *wanted;     /* of SharedPage: the engine must be asked for them */

    QemuThread thread;
    EventNotifier kick; /* the list has changed, or the thread is to end */
    /* BQL */
    bool has_thread;
    bool is_probing;    /* fast load probes backends, not network postcopy */
    GPtrArray *probed;  /* of NotifierWithReturn: whom the probe has asked */
    NotifierWithReturn *advised; /* who is sent INBOUND_ADVISE now */
    /* atomic */
    bool is_ending;
    uint32_t waiting_count; /* pages that backends wait for */
    Fastload *engine;   /* once RAM is trapped; outlives the thread */
    uint64_t fault_count;
} IncomingShared;

static IncomingShared shared;

static void shared_clear_backend(void *opaque)
{
    SharedBackend *backend = opaque;

    g_hash_table_destroy(backend->waiting);
}

static void __attribute__((constructor)) shared_init(void)
{
    qemu_mutex_init(&shared.lock);
    shared.backends = g_array_new(false, true, sizeof(SharedBackend));
    g_array_set_clear_func(shared.backends, shared_clear_backend);
    shared.wanted = g_array_new(false, false, sizeof(SharedPage));
    shared.strays = g_array_new(false, false, sizeof(SharedStray));
    shared.talks = g_ptr_array_new();
    shared.probed = g_ptr_array_new();
}

/* ---- waking ---- */

/* The backend with this userfaultfd; NULL: it has gone. */
static SharedBackend *shared_find_locked(int fd)
{
    guint i;

    for (i = 0; i < shared.backends->len; i++) {
        SharedBackend *backend = &g_array_index(shared.backends,
                                                SharedBackend, i);

        if (backend->pcfd.fd == fd) {
            return backend;
        }
    }
    return NULL;
}

static void shared_count_locked(void)
{
    uint32_t count = 0;
    guint i;

    for (i = 0; i < shared.backends->len; i++) {
        count += g_hash_table_size(g_array_index(shared.backends,
                                                 SharedBackend, i).waiting);
    }
    /* pairs with the read in incoming_load_shared_placed() */
    qatomic_set(&shared.waiting_count, count);
}

static void shared_wait_for(const SharedPage *page)
{
    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        SharedBackend *backend = shared_find_locked(page->fd);
        gpointer address = (gpointer)(uintptr_t)page->address;

        if (backend) {
            const SharedPage *before = g_hash_table_lookup(backend->waiting,
                                                           address);
            SharedPage *noted = g_memdup2(page, sizeof(*page));

            if (before) {
                noted->begin_us = MIN(before->begin_us, noted->begin_us);
            }
            g_hash_table_replace(backend->waiting, address, noted);
            shared_count_locked();
        }
    }
    /* before the engine is asked; pairs with incoming_load_shared_placed() */
    smp_mb();
}

/*
 * Wakes the threads at the address where the backend has touched the page.  (It
 * may map the page elsewhere, too, but it may be changing its mappings.)
 */
static void shared_wake_locked(const SharedPage *page)
{
    uffd_wakeup(page->fd, (void *)(uintptr_t)page->address, page->page_bytes);
}

static bool shared_forget_page_locked(const SharedPage *page)
{
    SharedBackend *backend = shared_find_locked(page->fd);

    if (backend) {
        g_hash_table_remove(backend->waiting,
                            (gpointer)(uintptr_t)page->address);
        shared_count_locked();
    }
    return backend;
}

/* Wakes the threads of its backend that wait for @page: they touch it again. */
static void shared_wake(const SharedPage *page)
{
    QEMU_LOCK_GUARD(&shared.lock);
    if (shared_forget_page_locked(page)) {
        shared_wake_locked(page);
    }
}

typedef struct SharedRange {
    const uint8_t *begin, *end;
} SharedRange;

static gboolean shared_wake_if_in(gpointer address, gpointer value,
                                  gpointer opaque)
{
    const SharedRange *range = opaque;
    const SharedPage *page = value;

    if (page->hva < range->begin || page->hva >= range->end) {
        return false;
    }
    shared_wake_locked(page);
    return true;
}

void incoming_load_shared_placed(void *hva, uint64_t len_bytes)
{
    SharedRange range = { hva, (uint8_t *)hva + len_bytes };
    guint i;

    /*
     * The engine has marked the pages as placed before it calls.  Who waits is
     * in the table before it asks whether the page is placed: one of the two
     * sees what the other has written.
     */
    smp_mb();
    if (!qatomic_read(&shared.waiting_count)) {
        return;
    }
    QEMU_LOCK_GUARD(&shared.lock);
    for (i = 0; i < shared.backends->len; i++) {
        g_hash_table_foreach_remove(g_array_index(shared.backends,
                                                  SharedBackend, i).waiting,
                                    shared_wake_if_in, &range);
    }
    shared_count_locked();
}

/* Since when @backend waits for a page; INT64_MAX: it waits for none. */
static int64_t shared_oldest_us_locked(const SharedBackend *backend)
{
    int64_t begin_us = INT64_MAX;
    GHashTableIter iter;
    gpointer page;

    g_hash_table_iter_init(&iter, backend->waiting);
    while (g_hash_table_iter_next(&iter, NULL, &page)) {
        begin_us = MIN(begin_us, ((const SharedPage *)page)->begin_us);
    }
    return begin_us;
}

int64_t incoming_load_shared_oldest_us(void)
{
    int64_t begin_us = INT64_MAX;
    guint i;

    QEMU_LOCK_GUARD(&shared.lock);
    for (i = 0; i < shared.backends->len; i++) {
        begin_us = MIN(begin_us, shared_oldest_us_locked(
                           &g_array_index(shared.backends, SharedBackend, i)));
    }
    return begin_us;
}

/* ---- the thread ---- */

/* Notes an unknown address: its threads are woken now and then. */
static void shared_stray_locked(int fd, uint64_t address)
{
    SharedStray stray = {
        .fd = fd,
        .address = ROUND_DOWN(address, qemu_real_host_page_size()),
    };

    g_array_append_val(shared.strays, stray);
    shared.stray_count++;
}

void migration_fastload_report_stray(const char *format, ...)
{
    va_list args;

    /*
     * The thread of fast load holds a lock here, and prints a line of its own
     * without it.
     */
    if (shared.has_thread && qemu_thread_is_self(&shared.thread)) {
        return;
    }
    va_start(args, format);
    error_vreport(format, args);
    va_end(args);
}

bool migration_fastload_want_shared(const struct PostCopyFD *pcfd,
                                    RAMBlock *block, uint64_t address,
                                    uint64_t ram_off)
{
    SharedPage page = {
        .fd = pcfd->fd, .begin_us = g_get_monotonic_time(),
    };

    /* QEMU's handlers run on one thread: on ours, or on network postcopy's. */
    if (!shared.has_thread || !qemu_thread_is_self(&shared.thread)) {
        return false;
    }
    if (!block || ram_off >= qemu_ram_get_used_length(block)) {
        shared_stray_locked(pcfd->fd, address);
        return true;
    }
    page.page_bytes = qemu_ram_pagesize(block);
    page.address = ROUND_DOWN(address, page.page_bytes);
    page.hva = (uint8_t *)qemu_ram_get_host_addr(block) +
               ROUND_DOWN(ram_off, page.page_bytes);
    qatomic_set(&shared.fault_count, shared.fault_count + 1);
    trace_fastload_shared_wanted(pcfd->fd, page.hva);
    g_array_append_val(shared.wanted, page);
    return true;
}

/* Reads what @backend asks for; its handler notes the pages. */
static void shared_read_locked(SharedBackend *backend)
{
    const struct vhost_dev *dev = backend->pcfd.data;
    struct uffd_msg msgs[SHARED_BATCH];
    ssize_t got = read(backend->pcfd.fd, msgs, sizeof(msgs));
    ssize_t i;

    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return; /* the thread that had asked has been woken meanwhile */
    }
    if (got <= 0 || got % sizeof(msgs[0])) {
        backend->is_broken = true;
        return;
    }
    for (i = 0; i < got / (ssize_t)sizeof(msgs[0]); i++) {
        /*
         * A backend that comes during the load is advised before QEMU has told
         * it of memory; until then its handler must not be called.
         */
        if (msgs[i].event == UFFD_EVENT_PAGEFAULT &&
            (!dev->mem || backend->pcfd.handler(&backend->pcfd, &msgs[i]))) {
            shared_stray_locked(backend->pcfd.fd,
                                msgs[i].arg.pagefault.address);
        }
    }
}

/*
 * Wakes threads that wait at unknown addresses.  If such an address is guest
 * memory after all, its page is placed one day, and the thread goes on.
 */
static void shared_wake_strays(int64_t now_us)
{
    SharedStray stray;
    guint i;

    QEMU_LOCK_GUARD(&shared.lock);
    if (now_us < shared.stray_due_us) {
        return;
    }
    for (i = 0; i < shared.strays->len; i++) {
        stray = g_array_index(shared.strays, SharedStray, i);
        uffd_wakeup(stray.fd, (void *)(uintptr_t)stray.address,
                    qemu_real_host_page_size());
    }
    g_array_set_size(shared.strays, 0);
    shared.stray_due_us = now_us + (shared.stray_count < SHARED_STRAYS_MAX
                                    ? SHARED_STRAY_US : SHARED_AGAIN_US);
}

/* Fills in what to wait for: the kick, then the backends. */
static void shared_poll_set(GArray *pollfds)
{
    struct pollfd pollfd = {
        .fd = event_notifier_get_fd(&shared.kick),
        .events = POLLIN,
    };
    guint i;

    g_array_set_size(pollfds, 0);
    g_array_append_val(pollfds, pollfd);
    QEMU_LOCK_GUARD(&shared.lock);
    for (i = 0; i < shared.backends->len; i++) {
        SharedBackend *backend = &g_array_index(shared.backends,
                                                SharedBackend, i);

        if (!backend->is_broken) {
            pollfd.fd = backend->pcfd.fd;
            g_array_append_val(pollfds, pollfd);
        }
    }
}

/*
 * @pollfd was ready a moment ago: its backend may have gone since.  Warnings
 * are printed without the lock, which engine threads take: printing blocks if
 * nobody reads standard error.
 */
static void shared_look_at(const struct pollfd *pollfd)
{
    bool has_stray = false, is_broken = false;
    SharedBackend *backend;

    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        has_stray = shared.stray_count;
        backend = shared_find_locked(pollfd->fd);
        if (backend && (pollfd->revents & POLLIN)) {
            shared_read_locked(backend);
        } else if (backend && !(pollfd->revents & POLLNVAL)) {
            /* With POLLNVAL it was closed, and the number was used again. */
            backend->is_broken = true;
        }
        has_stray = !has_stray && shared.stray_count;
        is_broken = backend && backend->is_broken;
    }
    if (has_stray) {
        warn_report("fast load: a vhost-user backend has touched an address "
                    "that is no guest memory: it waits there");
    }
    if (is_broken) {
        warn_report("fast load: a vhost-user backend can no longer ask for "
                    "pages: its userfaultfd gives no messages");
    }
}

static void shared_look_at_all(GArray *pollfds)
{
    guint i;

    for (i = 1; i < pollfds->len; i++) {
        struct pollfd *pollfd = &g_array_index(pollfds, struct pollfd, i);

        if (pollfd->revents) {
            shared_look_at(pollfd);
        }
    }
}

/*
 * If the page is zero and not trapped, the kernel creates it now.  Where it
 * cannot, since a tmpfs is full for example, the backend that touches it gets
 * SIGBUS, but not QEMU.
 */
static void shared_touch(const SharedPage *page)
{
    if (madvise((void *)page->hva, page->page_bytes, MADV_POPULATE_READ) < 0 &&
        errno == EINVAL) {
        (void)*(volatile uint8_t *)page->hva; /* Linux before 5.14 */
    }
}

static void shared_answer(Fastload *engine, const SharedPage *page)
{
    FastloadWanted wanted;

    shared_wait_for(page);
    wanted = engine ? fastload_want(engine, page->hva)
                    : FASTLOAD_WANTED_THERE;
    /* Memory may have been unplugged: no callback tells of it any more. */
    if (wanted == FASTLOAD_WANTED_QUEUED &&
        !fastload_is_loaded(engine, page->hva, 1)) {
        return;
    }
    if (wanted == FASTLOAD_WANTED_THERE) {
        shared_touch(page);
    }
    if (wanted == FASTLOAD_WANTED_BUSY) {
        return; /* it is asked for again */
    }
    shared_wake(page);
}

/* When it is due, asks again for all pages that backends wait for. */
static void shared_ask_again(int64_t now_us, int64_t *due_us)
{
    guint i;

    if (now_us < *due_us) {
        return;
    }
    *due_us = now_us + SHARED_AGAIN_US;
    QEMU_LOCK_GUARD(&shared.lock);
    for (i = 0; i < shared.backends->len; i++) {
        GHashTable *waiting = g_array_index(shared.backends, SharedBackend,
                                            i).waiting;
        GHashTableIter iter;
        gpointer page;

        g_hash_table_iter_init(&iter, waiting);
        while (g_hash_table_iter_next(&iter, NULL, &page)) {
            g_array_append_vals(shared.wanted, page, 1);
        }
    }
}

/* ---- who keeps QEMU waiting ---- */

static SharedBackend *shared_find_device_locked(const void *dev)
{
    guint i;

    for (i = 0; i < shared.backends->len; i++) {
        SharedBackend *backend = &g_array_index(shared.backends,
                                                SharedBackend, i);

        if (backend->pcfd.data == dev) {
            return backend;
        }
    }
    return NULL;
}

/*
 * The thread that is to answer may be one that waits for a page, and cannot
 * answer before the page is there.  If each page comes within a period, other
 * threads of the backend wait for them, one after another.
 */
static bool shared_may_be_silent_locked(const SharedTalk *talk, int64_t now_us)
{
    const SharedBackend *backend = shared_find_device_locked(talk->dev);

    return backend && !shared.is_over &&
           shared_oldest_us_locked(backend) < now_us - SHARED_AGAIN_US;
}

static void shared_disconnect(const char *chr_id, Error **errp)
{
    YankInstanceList only = {
        .value = CHARDEV_YANK_INSTANCE((char *)chr_id),
    };

    qmp_yank(&only, errp);
}

/* Who is silent for too long is disconnected: the thread that waits goes on. */
static void shared_look_at_talk(SharedTalk *talk, int64_t now_us)
{
    g_autofree char *chr_id = NULL;
    Error *err = NULL;

    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        if (!g_ptr_array_find(shared.talks, talk, NULL)) {
            return; /* it has ended */
        }
        talk->silent_count = shared_may_be_silent_locked(talk, now_us)
            ? 0 : talk->silent_count + 1;
        if (talk->silent_count != SHARED_SILENT_MAX) {
            return;
        }
        chr_id = g_strdup(talk->chr_id);
        shared_disconnect(chr_id, &err);
    }
    warn_report("fast load: the vhost-user backend of '%s' has not answered "
                "for a minute: it is disconnected", chr_id);
    if (err) {
        warn_reportf_err(err, "fast load: ");
    }
}

static void shared_look_at_talks(int64_t now_us, int64_t *due_us)
{
    g_autoptr(GPtrArray) talks = NULL;
    guint i;

    if (now_us < *due_us) {
        return;
    }
    *due_us = now_us + SHARED_AGAIN_US;
    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        talks = g_ptr_array_copy(shared.talks, NULL, NULL);
    }
    for (i = 0; i < talks->len; i++) {
        shared_look_at_talk(g_ptr_array_index(talks, i), now_us);
    }
}

/* False: nobody minds how long it takes. */
static bool shared_begin_talk(SharedTalk *talk, const struct vhost_dev *dev,
                              CharFrontend *chr)
{
    const Chardev *driver;

    if (!shared.has_thread) {
        return false;
    }
    driver = qemu_chr_fe_get_driver(chr);
    if (!driver || !driver->label) {
        return false;
    }
    *talk = (SharedTalk) { .dev = dev, .chr_id = driver->label };
    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        g_ptr_array_add(shared.talks, talk);
    }
    event_notifier_set(&shared.kick);
    return true;
}

static void shared_end_talk(SharedTalk *talk)
{
    int error_number = errno; /* the caller looks at it */

    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        g_ptr_array_remove(shared.talks, talk);
    }
    errno = error_number;
}

/* The backend has answered: it has not gone. */
static void shared_note_answer(const SharedTalk *talk)
{
    SharedBackend *backend;

    QEMU_LOCK_GUARD(&shared.lock);
    backend = shared_find_device_locked(talk->dev);
    if (backend) {
        backend->has_answered = true;
    }
}

int migration_fastload_read_vhost_user(const struct vhost_dev *dev, void *chr,
                                       uint8_t *bytes, int len_bytes)
{
    SharedTalk talk;
    bool is_bounded = shared_begin_talk(&talk, dev, chr);
    int ret = qemu_chr_fe_read_all(chr, bytes, len_bytes);

    if (is_bounded) {
        shared_end_talk(&talk);
        if (ret == len_bytes) {
            shared_note_answer(&talk);
        }
    }
    return ret;
}

int migration_fastload_write_vhost_user(const struct vhost_dev *dev, void *chr,
                                        const void *bytes, int len_bytes)
{
    SharedTalk talk;
    bool is_bounded = shared_begin_talk(&talk, dev, chr);
    int ret = qemu_chr_fe_write_all(chr, bytes, len_bytes);

    if (is_bounded) {
        shared_end_talk(&talk);
    }
    return ret;
}

/* ---- the thread's loop ---- */

/* Milliseconds for poll(); -1: nothing is due. */
static int shared_poll_ms(void)
{
    QEMU_LOCK_GUARD(&shared.lock);
    return shared.strays->len ? SHARED_STRAY_US / 1000 :
           shared.waiting_count || shared.talks->len ? SHARED_AGAIN_US / 1000 :
           -1;
}

static void *shared_main(void *opaque)
{
    g_autoptr(GArray) pollfds = g_array_new(false, true,
                                            sizeof(struct pollfd));
    int64_t again_us = 0, talks_us = 0, now_us;
    guint i;

    /* QEMU does so only with -name debug-threads=on. */
    prctl(PR_SET_NAME, "fastload-shared");
    rcu_register_thread();
    while (!qatomic_read(&shared.is_ending)) {
        shared_poll_set(pollfds);
        if (poll((struct pollfd *)pollfds->data, pollfds->len,
                 shared_poll_ms()) < 0) {
            continue; /* EINTR */
        }
        now_us = g_get_monotonic_time();
        shared_wake_strays(now_us);
        shared_ask_again(now_us, &again_us);
        if (g_array_index(pollfds, struct pollfd, 0).revents) {
            event_notifier_test_and_clear(&shared.kick);
        }
        /* RCU: a RAM block that is found stays until its page is touched. */
        WITH_RCU_READ_LOCK_GUARD() {
            shared_look_at_all(pollfds);
            for (i = 0; i < shared.wanted->len; i++) {
                shared_answer(qatomic_read(&shared.engine),
                              &g_array_index(shared.wanted, SharedPage, i));
            }
        }
        g_array_set_size(shared.wanted, 0);
        shared_look_at_talks(now_us, &talks_us);
    }
    rcu_unregister_thread();
    return NULL;
}

static bool shared_start_thread(Error **errp)
{
    int ret;

    if (shared.has_thread) {
        return true;
    }
    ret = event_notifier_init(&shared.kick, false);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot serve vhost-user backends");
        return false;
    }
    shared.stray_count = 0;
    qatomic_set(&shared.is_ending, false);
    shared.has_thread = true;
    qemu_thread_create(&shared.thread, "fastload-shared", shared_main, NULL,
                       QEMU_THREAD_JOINABLE);
    return true;
}

static void shared_stop_thread(void)
{
    if (shared.has_thread) {
        qatomic_set(&shared.is_ending, true);
        event_notifier_set(&shared.kick);
        qemu_thread_join(&shared.thread);
        event_notifier_cleanup(&shared.kick);
        shared.has_thread = false;
    }
}

/* ---- what backends there are ---- */

bool migration_fastload_add_shared(const struct PostCopyFD *pcfd)
{
    SharedBackend backend = { .pcfd = *pcfd, .notifier = shared.advised };

    if (!shared.has_thread) {
        return false; /* network postcopy */
    }
    backend.waiting = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        g_array_append_val(shared.backends, backend);
    }
    event_notifier_set(&shared.kick);
    return true;
}

static void shared_drop_locked(const struct PostCopyFD *pcfd)
{
    guint i;

    for (i = 0; i < shared.backends->len; i++) {
        if (g_array_index(shared.backends, SharedBackend, i).pcfd.fd ==
            pcfd->fd) {
            g_array_remove_index_fast(shared.backends, i);
            shared_count_locked();
            break;
        }
    }
    for (i = shared.strays->len; i-- > 0; ) {
        if (g_array_index(shared.strays, SharedStray, i).fd == pcfd->fd) {
            g_array_remove_index_fast(shared.strays, i);
        }
    }
}

void migration_fastload_drop_shared(const struct PostCopyFD *pcfd)
{
    bool is_needed;

    if (!shared.has_thread) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        shared_drop_locked(pcfd);
        is_needed = shared.backends->len || !shared.is_over;
    }
    if (is_needed) {
        event_notifier_set(&shared.kick);
    } else {
        shared_stop_thread(); /* it was the last one, after the load's end */
    }
}

/* Sends a message to one backend. */
static bool shared_tell_one(NotifierWithReturn *notifier,
                            enum PostcopyNotifyReason reason, Error **errp)
{
    struct PostcopyNotifyData data = { .reason = reason };

    return notifier->notify(notifier, &data, errp) == 0;
}

/* Asks the backend for its userfaultfd: migration_fastload_add_shared(). */
static bool shared_advise_one(NotifierWithReturn *notifier, Error **errp)
{
    bool ret;

    shared.advised = notifier;
    ret = shared_tell_one(notifier, POSTCOPY_NOTIFY_INBOUND_ADVISE, errp);
    shared.advised = NULL;
    return ret;
}

bool migration_fastload_fits_vhost_user(const struct vhost_dev *dev,
                                        NotifierWithReturn *notifier,
                                        Error **errp)
{
    if (!shared.is_probing) {
        return true;
    }
    g_ptr_array_add(shared.probed, notifier);
    if (!virtio_has_feature(dev->protocol_features,
                            VHOST_USER_PROTOCOL_F_PAGEFAULT)) {
        error_setg(errp, "a vhost-user backend lacks the protocol feature "
                   "PAGEFAULT");
        return false;
    }
    /* QEMU tells of memory on behalf of the first pair alone, and waits. */
    if (dev->vq_index) {
        error_setg(errp, "a vhost-user backend has several pairs of queues, "
                   "with which QEMU's postcopy does not work");
        return false;
    }
    /*
     * Most backends with this feature use libvhost-user, whose postcopy is
     * broken (QEMU 10.0 to 10.2): told of regions one by one, it exits; told of
     * all at once, it answers with QEMU's addresses instead of its own.  Others
     * with this feature cannot be told from them.
     */
    if (virtio_has_feature(dev->protocol_features,
                           VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)) {
        error_setg(errp, "a vhost-user backend has the protocol feature "
                   "CONFIGURE_MEM_SLOTS, with which libvhost-user cannot wait "
                   "for pages");
        return false;
    }
    return true;
}

/* userfaultfd cannot trap memory in a file on a disk, in any process. */
static int shared_find_disk_file(RAMBlock *block, void *opaque)
{
    struct statfs found;

    return qemu_ram_is_shared(block) && qemu_ram_get_fd(block) >= 0 &&
           fstatfs(qemu_ram_get_fd(block), &found) == 0 &&
           found.f_type != TMPFS_MAGIC && found.f_type != HUGETLBFS_MAGIC;
}

static bool shared_can_be_trapped(Error **errp)
{
    if (qemu_ram_foreach_block(shared_find_disk_file, NULL)) {
        error_setg(errp, "vhost-user backends cannot wait for pages of memory "
                   "in a file on a disk");
        return false;
    }
    return true;
}

bool incoming_load_can_serve_shared(Error **errp)
{
    int ret;

    shared.is_probing = true;
    g_ptr_array_set_size(shared.probed, 0);
    ret = postcopy_notify(POSTCOPY_NOTIFY_PROBE, errp);
    shared.is_probing = false;
    return ret == 0 && (!shared.probed->len || shared_can_be_trapped(errp));
}

/* The main loop has not run since the probe: nobody has come or gone. */
static bool shared_begin_all(Error **errp)
{
    guint i;

    for (i = 0; i < shared.probed->len; i++) {
        if (!shared_advise_one(g_ptr_array_index(shared.probed, i), errp)) {
            return false;
        }
    }
    for (i = 0; i < shared.probed->len; i++) {
        if (!shared_tell_one(g_ptr_array_index(shared.probed, i),
                             POSTCOPY_NOTIFY_INBOUND_LISTEN, errp)) {
            return false;
        }
    }
    return true;
}

bool incoming_load_begin_shared(Error **errp)
{
    qatomic_set(&shared.fault_count, 0);
    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        shared.is_over = false;
    }
    if (!shared.probed->len) {
        return true; /* there is no backend */
    }
    if (!shared_start_thread(errp)) {
        return false;
    }
    if (!shared_begin_all(errp)) {
        incoming_load_end_shared();
        return false;
    }
    return true;
}

void incoming_load_start_shared(Fastload *engine)
{
    qatomic_set(&shared.engine, engine);
}

/*
 * Takes one that must still be told the end; NULL: all were told.  A backend
 * that was not advised is not told: it would close a descriptor that it never
 * opened.
 */
static NotifierWithReturn *shared_take_to_end(void)
{
    guint i;

    QEMU_LOCK_GUARD(&shared.lock);
    shared.is_over = true;
    for (i = 0; i < shared.backends->len; i++) {
        SharedBackend *backend = &g_array_index(shared.backends,
                                                SharedBackend, i);

        if (!backend->is_end_told) {
            backend->is_end_told = true;
            backend->has_answered = false;
            return backend->notifier;
        }
    }
    return NULL;
}

/* False: nobody is left who may touch memory that he traps. */
static bool shared_forget_locked(void)
{
    guint i;

    for (i = shared.backends->len; i-- > 0; ) {
        SharedBackend *backend = &g_array_index(shared.backends,
                                                SharedBackend, i);

        /* If the load has failed, pages that it wanted never came. */
        g_hash_table_remove_all(backend->waiting);
        if (!backend->has_answered) {
            g_array_remove_index_fast(shared.backends, i);
        }
    }
    shared_count_locked();
    return shared.backends->len;
}

void incoming_load_end_shared(void)
{
    NotifierWithReturn *notifier;
    Error *err = NULL;
    bool is_needed;

    /* The thread still serves: a backend may need a page to answer. */
    while ((notifier = shared_take_to_end())) {
        if (!shared_tell_one(notifier, POSTCOPY_NOTIFY_INBOUND_END, &err)) {
            warn_reportf_err(err, "fast load: a vhost-user backend was not "
                             "told that all memory is there: ");
            err = NULL;
        }
    }
    shared_stop_thread();
    qatomic_set(&shared.engine, NULL);
    WITH_QEMU_LOCK_GUARD(&shared.lock) {
        is_needed = shared_forget_locked();
    }
    if (is_needed && !shared_start_thread(&err)) {
        warn_reportf_err(err, "fast load: ");
    }
}

uint64_t incoming_load_shared_faults(void)
{
    return qatomic_read(&shared.fault_count);
}

bool migration_fastload_add_vhost_user(NotifierWithReturn *notifier,
                                       Error **errp)
{
    IncomingLoad *load = &incoming_load;
    bool fits;

    if (!incoming_load_is_in(load, LOAD_UNDER_WAY) ||
        load->eager != LOAD_EAGER_NONE) {
        return true;
    }
    shared.is_probing = true;
    fits = shared_tell_one(notifier, POSTCOPY_NOTIFY_PROBE, errp);
    shared.is_probing = false;
    if (!fits || !shared_can_be_trapped(errp)) {
        error_prepend(errp, "not while fast load is under way: ");
        trace_fastload_load_refused("vhost-user");
        return false;
    }
    return shared_start_thread(errp) && shared_advise_one(notifier, errp) &&
           shared_tell_one(notifier, POSTCOPY_NOTIFY_INBOUND_LISTEN, errp);
}
