/*
 * fastload pool: the staging of chunks, shared by all workers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One worker may read a chunk and another one place it: the read and its
 * staging pass from worker to worker through three lists, one for each state in
 * which no worker holds a read (FRESH, READY and SPENT; util/fastload-read.c).
 * The staging of each chunk has a spare, for the case that a ring breaks in the
 * middle of a read (util/fastload-worker.c).  Holds pool.lock for one list
 * operation at a time; wakes nobody.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"

uint8_t *fastload_pool_map(size_t len_bytes, GError **error)
{
    void *map = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED) {
        g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                    "cannot map %zu bytes of staging memory: %s",
                    len_bytes, g_strerror(errno));
        return NULL;
    }
    return map;
}

void fastload_pool_unmap(Fastload *fl, uint8_t *map, size_t len_bytes)
{
    if (__atomic_load_n(&fl->pool.is_lost, __ATOMIC_RELAXED)) {
        mmap(map, len_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
             MAP_NORESERVE | MAP_FIXED, -1, 0);
    } else {
        munmap(map, len_bytes);
    }
}

bool fastload_pool_prepare(Fastload *fl, GError **error)
{
    uint32_t count = fl->pool.read_count;
    uint8_t *map, *buf;
    uint32_t i;

    /*
     * One chunk more, so that all can be aligned; and a spare for each, which
     * takes no memory unless it is used.
     */
    fl->pool.spare_bytes = count * (size_t)FASTLOAD_CHUNK_BYTES;
    fl->pool.map_bytes = 2 * fl->pool.spare_bytes + FASTLOAD_CHUNK_BYTES;
    map = fl->pool.map = fastload_pool_map(fl->pool.map_bytes, error);
    if (!map) {
        return false;
    }
    /* Even if nothing is moved: O_DIRECT into small pages is slow. */
    madvise(map, fl->pool.map_bytes, MADV_HUGEPAGE);
    /* A page shared with a child could not be moved. */
    madvise(map, fl->pool.map_bytes, MADV_DONTFORK);
    fl->pool.renewed_count = count;
    fl->pool.reads = g_new0(FastloadRead, count);
    fl->pool.extents = g_new0(FastloadSpan,
                               count * FASTLOAD_EXTENT_COUNT_MAX);
    buf = (uint8_t *)(((uintptr_t)map + FASTLOAD_CHUNK_BYTES - 1) /
                      FASTLOAD_CHUNK_BYTES * FASTLOAD_CHUNK_BYTES);
    for (i = 0; i < count; i++) {
        FastloadRead *read = &fl->pool.reads[i];

        read->state = fl->has_move ? FASTLOAD_READ_SPENT
                                   : FASTLOAD_READ_FRESH;
        read->class = FASTLOAD_CLASS_BACKGROUND;
        read->is_pooled = true;
        read->extents = fl->pool.extents + i * FASTLOAD_EXTENT_COUNT_MAX;
        read->buf = buf + (size_t)i * FASTLOAD_CHUNK_BYTES;
        fastload_pool_put(fl, read);
    }
    return true;
}

void fastload_pool_release(Fastload *fl)
{
    if (fl->pool.map) {
        fastload_pool_unmap(fl, fl->pool.map, fl->pool.map_bytes);
        fl->pool.map = NULL;
    }
    g_clear_pointer(&fl->pool.reads, g_free);
    g_clear_pointer(&fl->pool.extents, g_free);
}

void fastload_pool_put(Fastload *fl, FastloadRead *read)
{
    FastloadReadState to = read->state;
    FastloadRead **at = &fl->pool.lists[to];

    assert(to == FASTLOAD_READ_FRESH || to == FASTLOAD_READ_READY ||
           to == FASTLOAD_READ_SPENT);
    g_mutex_lock(&fl->pool.lock);
    /*
     * Chunks whose placement has begun come first.  Otherwise READY is first
     * in, first out, and staging that was used last is used next, since it is
     * warm in the caches.
     */
    while (to == FASTLOAD_READ_READY && *at &&
           (!read->placed_bytes || (*at)->placed_bytes)) {
        at = &(*at)->next;
    }
    read->next = *at;
    *at = read;
    fl->pool.renewed_count -= to == FASTLOAD_READ_SPENT;
    fl->pool.ready_count += to == FASTLOAD_READ_READY;
    g_mutex_unlock(&fl->pool.lock);
}

FastloadRead *fastload_pool_take(Fastload *fl, FastloadReadState from)
{
    FastloadRead *read;

    g_mutex_lock(&fl->pool.lock);
    read = fl->pool.lists[from];
    if (read) {
        assert(read->state == from);
        fl->pool.lists[from] = read->next;
        read->next = NULL;
        fl->pool.renewed_count += from == FASTLOAD_READ_SPENT;
        fl->pool.ready_count -= from == FASTLOAD_READ_READY;
    }
    g_mutex_unlock(&fl->pool.lock);
    return read;
}

bool fastload_pool_has(Fastload *fl, FastloadReadState state)
{
    bool has;

    g_mutex_lock(&fl->pool.lock);
    has = fl->pool.lists[state];
    g_mutex_unlock(&fl->pool.lock);
    return has;
}

bool fastload_pool_has_room(Fastload *fl, uint32_t count_max)
{
    bool has;

    g_mutex_lock(&fl->pool.lock);
    has = fl->pool.lists[FASTLOAD_READ_FRESH] &&
          fl->pool.ready_count < count_max;
    g_mutex_unlock(&fl->pool.lock);
    return has;
}

bool fastload_pool_wants_renewal(Fastload *fl, uint32_t wanted_count)
{
    bool wants;

    g_mutex_lock(&fl->pool.lock);
    wants = fl->pool.lists[FASTLOAD_READ_SPENT] &&
            fl->pool.renewed_count < wanted_count;
    g_mutex_unlock(&fl->pool.lock);
    return wants;
}
