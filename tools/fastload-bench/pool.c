/*
 * fastload-bench: a pool of threads that read ahead, and one for faults.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What copy-threads and continue have in common.  N threads take the next piece
 * of a run of data, claim each of its pages with a bit, and read and place the
 * pages that they could claim.  The fault thread claims one page, reads 4 KiB
 * and places it.  A fault on a page that is claimed already waits for the
 * piece.  A page without data is not claimed until there is a fault: then the
 * kernel places a page of zeros.  When all data is there, memory is
 * unregistered, and untouched pages are the kernel's zeros, which is right.
 *
 * Pages are placed in one of two ways: copied out of a thread's buffer; or,
 * with an alias, read into the second mapping of guest memory and then
 * continued.  After the first error it fails and loads nothing more.
 */
#include "bench.h"
#include <pthread.h>

/* A fault may have to wait for a piece of this length. */
#define POOL_PIECE_BYTES (256u << 10)

typedef struct Pool Pool;

typedef struct PoolThread {
    /* constant after start */
    Pool *pool;
    int fd;                  /* own open file, with its own kernel readahead */
    /* this thread */
    void *buf;               /* NULL with an alias */
    /* the thread that starts, waits and stops */
    GThread *thread;
} PoolThread;

struct Pool {
    /* constant after start */
    LoaderRun *run;
    Trap trap;
    uint8_t *alias;          /* guest memory's second mapping, or NULL */
    PoolThread *threads;
    uint32_t thread_count;
    PoolThread fault;
    /* atomic */
    int is_ending;           /* the threads that read ahead end */
    uint64_t *claims;        /* a bit for each page of the guest */
    /* lock: mutex */
    pthread_mutex_t mutex;
    uint32_t next_block;     /* where the next piece is */
    uint64_t next_page;      /* counted from the block's first */
    GError *failure;         /* the first */
};

/* Pages of one run of data. */
typedef struct PoolPiece {
    uint64_t page;
    uint64_t count;
    uint64_t file_off;
} PoolPiece;

static void pool_fail(Pool *p, const char *what, uint64_t at, int ret)
{
    pthread_mutex_lock(&p->mutex);
    if (!p->failure) {
        p->failure = loader_failure(p->run, what, at, ret);
    }
    pthread_mutex_unlock(&p->mutex);
    __atomic_store_n(&p->is_ending, 1, __ATOMIC_RELAXED);
}

/* Reads and places pages that the caller has claimed. */
static bool pool_load(PoolThread *t, const PoolPiece *piece,
                      ArrivalClass class)
{
    Pool *p = t->pool;
    uint64_t guest_off = piece->page << BENCH_PAGE_SHIFT;
    uint64_t len_bytes = piece->count << BENCH_PAGE_SHIFT;
    void *to = p->alias ? p->alias + guest_off : t->buf;
    int ret = loader_read(t->fd, to, len_bytes, piece->file_off);

    if (ret < 0) {
        pool_fail(p, "reading the pages at", piece->file_off, ret);
        return false;
    }
    ret = p->alias
        ? trap_continue(p->trap.uffd, p->run->hva + guest_off, len_bytes)
        : trap_copy(p->trap.uffd, p->run->hva + guest_off, to, len_bytes);
    if (ret < 0) {
        pool_fail(p, "placing the pages for", piece->file_off, ret);
        return false;
    }
    loader_note(p->run, guest_off, len_bytes, class, true);
    return true;
}

/* The next piece; false when all are taken. */
static bool pool_take(Pool *p, PoolPiece *ret_piece)
{
    const Snapshot *snapshot = p->run->snapshot;
    bool is_found = false;

    pthread_mutex_lock(&p->mutex);
    while (!is_found && p->next_block < snapshot->block_count) {
        const SnapshotBlock *block = &snapshot->blocks[p->next_block];
        uint64_t page = (block->guest_off >> BENCH_PAGE_SHIFT) + p->next_page;
        uint64_t count = 0, file_off;

        if (p->next_page == block->len_bytes >> BENCH_PAGE_SHIFT) {
            p->next_block++;
            p->next_page = 0;
            continue;
        }
        is_found = snapshot_run(snapshot, block, page, &count, &file_off);
        if (is_found) {
            count = MIN(count, POOL_PIECE_BYTES >> BENCH_PAGE_SHIFT);
            *ret_piece = (PoolPiece) { page, count, file_off };
        }
        p->next_page += count;
    }
    pthread_mutex_unlock(&p->mutex);
    return is_found;
}

/* Loads what the fault thread has not claimed, in as few reads as possible. */
static bool pool_load_unclaimed(PoolThread *t, const PoolPiece *piece)
{
    uint64_t i = 0;

    while (i < piece->count) {
        PoolPiece part = {
            .page = piece->page + i,
            .file_off = piece->file_off + (i << BENCH_PAGE_SHIFT),
        };

        while (i < piece->count &&
               loader_claim(t->pool->claims, piece->page + i)) {
            part.count++;
            i++;
        }
        if (part.count && !pool_load(t, &part, ARRIVAL_BACKGROUND)) {
            return false;
        }
        i++; /* loaded, or claimed by the fault thread */
    }
    return true;
}

static void *pool_ahead_main(void *opaque)
{
    PoolThread *t = opaque;
    PoolPiece piece;

    while (!__atomic_load_n(&t->pool->is_ending, __ATOMIC_RELAXED) &&
           pool_take(t->pool, &piece) && pool_load_unclaimed(t, &piece)) {
        continue;
    }
    return NULL;
}

/* Serves a fault; false when the load has failed. */
static bool pool_serve(PoolThread *t, uint64_t page)
{
    Pool *p = t->pool;
    const SnapshotBlock *block = snapshot_block_of(p->run->snapshot, page);
    uint64_t guest_off = page << BENCH_PAGE_SHIFT;
    PoolPiece piece = { .page = page, .count = 1 };
    int ret;

    assert(block);
    if (!loader_claim(p->claims, page)) {
        return true; /* the thread that claimed it places it and wakes */
    }
    piece.file_off = block->file_off + guest_off - block->guest_off;
    if (snapshot_has_page(p->run->snapshot, page)) {
        return pool_load(t, &piece, ARRIVAL_URGENT);
    }
    ret = trap_zero(p->trap.uffd, p->run->hva + guest_off, BENCH_PAGE_BYTES);
    if (ret < 0) {
        pool_fail(p, "placing zeros at", guest_off, ret);
        return false;
    }
    loader_note(p->run, guest_off, BENCH_PAGE_BYTES, ARRIVAL_URGENT, false);
    return true;
}

static void *pool_fault_main(void *opaque)
{
    PoolThread *t = opaque;
    uint64_t page;
    int event;

    while ((event = trap_wait(&t->pool->trap, true, &page)) != TRAP_QUIT) {
        if (event < 0) {
            pool_fail(t->pool, "reading a fault; message", 0, event);
            return NULL;
        }
        if (event == TRAP_FAULT && !pool_serve(t, page)) {
            return NULL;
        }
    }
    return NULL;
}

static bool pool_begin_thread(Pool *p, PoolThread *t, bool is_fault,
                              GError **error)
{
    t->pool = p;
    t->fd = loader_open(p->run, error);
    if (t->fd < 0) {
        return false;
    }
    if (!p->alias) {
        t->buf = loader_buffer(p->run, is_fault ? BENCH_PAGE_BYTES
                               : POOL_PIECE_BYTES, error);
        if (!t->buf) {
            return false;
        }
    }
    t->thread = loader_thread(p->run, is_fault ? "fault" : "ahead",
                              is_fault ? pool_fault_main : pool_ahead_main, t,
                              error);
    return t->thread;
}

static void pool_join(PoolThread *t)
{
    if (t->thread) {
        g_thread_join(t->thread);
        t->thread = NULL;
    }
}

/* Ends the fault thread after it has placed what it claimed. */
static void pool_end(Pool *p)
{
    uint32_t i;

    for (i = 0; i < p->thread_count; i++) {
        pool_join(&p->threads[i]);
    }
    if (p->fault.thread) {
        trap_quit(&p->trap);
        pool_join(&p->fault);
    }
}

static void pool_free_thread(PoolThread *t)
{
    if (t->fd >= 0) {
        close(t->fd);
    }
    free(t->buf);
}

void pool_stop(LoaderRun *run)
{
    Pool *p = run->state;
    uint32_t i;

    if (!p) {
        return;
    }
    __atomic_store_n(&p->is_ending, 1, __ATOMIC_RELAXED);
    pool_end(p);
    trap_close(&p->trap);
    for (i = 0; i < p->thread_count; i++) {
        pool_free_thread(&p->threads[i]);
    }
    pool_free_thread(&p->fault);
    if (p->alias) {
        munmap(p->alias, run->snapshot->guest_bytes);
    }
    pthread_mutex_destroy(&p->mutex);
    g_clear_error(&p->failure);
    g_free(p->threads);
    g_free(p->claims);
    g_free(p);
    run->state = NULL;
}

static bool pool_begin(Pool *p, GError **error)
{
    uint32_t i;

    if (!trap_open(&p->trap, p->run, p->alias ? TRAP_MINOR : TRAP_MISSING,
                   error) ||
        !pool_begin_thread(p, &p->fault, true, error)) {
        return false;
    }
    for (i = 0; !p->run->is_background_off && i < p->thread_count; i++) {
        if (!pool_begin_thread(p, &p->threads[i], false, error)) {
            return false;
        }
    }
    return true;
}

bool pool_start(LoaderRun *run, uint8_t *alias, GError **error)
{
    uint64_t page_count = run->snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    Pool *p = g_new0(Pool, 1);
    uint32_t i;

    run->state = p;
    p->run = run;
    p->alias = alias;
    p->trap.uffd = p->trap.quit_fd = p->fault.fd = -1;
    p->thread_count = CLAMP(run->variant->thread_count, 1,
                            BENCH_THREAD_COUNT_MAX);
    p->threads = g_new0(PoolThread, p->thread_count);
    for (i = 0; i < p->thread_count; i++) {
        p->threads[i].fd = -1;
    }
    p->claims = g_new0(uint64_t, (page_count + 63) / 64);
    pthread_mutex_init(&p->mutex, NULL);
    if (!pool_begin(p, error)) {
        pool_stop(run);
        return false;
    }
    return true;
}

bool pool_wait(LoaderRun *run, GError **error)
{
    Pool *p = run->state;

    pool_end(p);
    if (p->failure) {
        g_propagate_error(error, g_error_copy(p->failure));
        return false;
    }
    trap_unregister(&p->trap);
    return true;
}
