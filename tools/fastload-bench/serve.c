/*
 * fastload-bench: faults answered from a mapping of the file, and a record.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What reap and e2b have in common: a fault is answered with a copy of its page
 * (UFFDIO_COPY), out of a mapping of the snapshot or of a buffer that it is
 * read into, zero pages are copied like all others, and a rehearsal notes the
 * pages that were asked for.
 * What is loaded ahead, and by whom, is the loader's.
 *
 * The file of a set holds the contents of pages, if the loader wants them, then
 * the number of each page as 64 bits, then how many there are.  It is written
 * and read by this program only, on the same machine; its length is checked.
 *
 * Placing and answering return -errno; a page of the mapping that cannot be
 * read is -EFAULT.  The rest fails with a sentence.
 */
#include "bench.h"
#include <signal.h>
#include <sys/stat.h>

bool serve_open(Serve *s, LoaderRun *run, GError **error)
{
    void *map;

    *s = (Serve) {
        .run = run,
        .trap = { .uffd = -1, .quit_fd = -1 },
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .record = run->record_path
            ? g_array_new(FALSE, FALSE, sizeof(uint64_t)) : NULL,
    };
    s->fd = loader_open(run, error);
    if (s->fd < 0 ||
        !(s->zero_page = loader_buffer(run, BENCH_PAGE_BYTES, error))) {
        return false;
    }
    memset(s->zero_page, 0, BENCH_PAGE_BYTES);
    map = mmap(NULL, run->snapshot->file_bytes, PROT_READ, MAP_PRIVATE, s->fd,
               0);
    if (map == MAP_FAILED) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: cannot map %s: %s; raise the limit of memory "
                    "(ulimit -v)", run->variant->loader->name,
                    run->snapshot->label, g_strerror(errno));
        return false;
    }
    s->map = map;
    return trap_open(&s->trap, run, TRAP_MISSING, error);
}

void serve_close(Serve *s)
{
    trap_close(&s->trap);
    if (s->map) {
        munmap(s->map, s->run->snapshot->file_bytes);
    }
    if (s->fd >= 0) {
        close(s->fd);
    }
    if (s->record) {
        g_array_unref(s->record);
    }
    free(s->zero_page);
    pthread_mutex_destroy(&s->mutex);
}

const uint8_t *serve_page(const Serve *s, uint64_t page)
{
    const Snapshot *snapshot = s->run->snapshot;
    const SnapshotBlock *block = snapshot_block_of(snapshot, page);

    assert(block);
    /* A mapped-ram file may have old bytes in the place of a zero page. */
    return snapshot_has_page(snapshot, page)
        ? s->map + block->file_off + (page << BENCH_PAGE_SHIFT) -
          block->guest_off : s->zero_page;
}

int serve_place(Serve *s, uint64_t page, ArrivalClass class, void *buf)
{
    uint64_t guest_off = page << BENCH_PAGE_SHIFT;
    uint8_t *hva = s->run->hva + guest_off;
    const uint8_t *from = serve_page(s, page);
    int ret = 0;

    if (buf && from != s->zero_page) {
        ret = loader_read(s->fd, buf, BENCH_PAGE_BYTES, from - s->map);
        from = buf;
    }
    ret = ret < 0 ? ret : trap_copy(s->trap.uffd, hva, from,
                                    BENCH_PAGE_BYTES);
    if (ret == -EEXIST) {
        /* Somebody else was faster: who waits for it was woken, or is now. */
        return trap_wake(s->trap.uffd, hva, BENCH_PAGE_BYTES);
    }
    if (!ret) {
        loader_note(s->run, guest_off, BENCH_PAGE_BYTES, class,
                    snapshot_has_page(s->run->snapshot, page));
    }
    return ret;
}

int serve_fault(Serve *s, uint64_t page, void *buf)
{
    if (s->record) {
        pthread_mutex_lock(&s->mutex);
        g_array_append_val(s->record, page);
        pthread_mutex_unlock(&s->mutex);
    }
    return serve_place(s, page, ARRIVAL_URGENT, buf);
}

void serve_fail(void)
{
    kill(getpid(), SIGBUS);
    for (;;) {
        pause();
    }
}

static int serve_by_page(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* The pages of the record, each one once, in the order of their faults. */
static GArray *serve_pages(Serve *s)
{
    GArray *pages = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    guint i;

    pthread_mutex_lock(&s->mutex);
    for (i = 0; i < s->record->len; i++) {
        uint64_t page = g_array_index(s->record, uint64_t, i);

        /* Two vCPUs may have waited for one page. */
        if (g_hash_table_add(seen, GSIZE_TO_POINTER(page))) {
            g_array_append_val(pages, page);
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return pages;
}

bool serve_write_set(Serve *s, bool has_contents, GError **error)
{
    const char *path = s->run->record_path;
    g_autoptr(GArray) pages = serve_pages(s);
    uint64_t count = pages->len;
    FILE *file = fopen(path, "wxe");
    bool is_written = file;
    guint i;

    if (has_contents) {
        g_array_sort(pages, serve_by_page);
    }
    for (i = 0; has_contents && is_written && i < count; i++) {
        is_written = fwrite(serve_page(s, g_array_index(pages, uint64_t, i)),
                            BENCH_PAGE_BYTES, 1, file) == 1;
    }
    is_written = is_written &&
        fwrite(pages->data, sizeof(uint64_t), count, file) == count &&
        fwrite(&count, sizeof(count), 1, file) == 1 &&
        fflush(file) == 0 && fsync(fileno(file)) == 0;
    if ((file && fclose(file)) || !is_written) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: cannot write the working set to %s: %s; choose "
                    "another --dir", s->run->variant->loader->name, path,
                    g_strerror(errno));
        return false;
    }
    return true;
}

GArray *serve_read_pages(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t count = 0, len_bytes;
    GArray *pages = NULL;
    struct stat st;
    int ret = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

    if (!ret && st.st_size < (off_t)sizeof(count)) {
        ret = -ENODATA;
    }
    if (!ret) {
        ret = loader_read(fd, &count, sizeof(count),
                          st.st_size - sizeof(count));
    }
    if (!ret && count > (st.st_size - sizeof(count)) / sizeof(uint64_t)) {
        ret = -ENODATA;
    }
    if (!ret) {
        len_bytes = count * sizeof(uint64_t);
        pages = g_array_sized_new(FALSE, FALSE, sizeof(uint64_t), count);
        g_array_set_size(pages, count);
        ret = loader_read(fd, pages->data, len_bytes,
                          st.st_size - sizeof(count) - len_bytes);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (ret) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot read the recorded working set %s: %s", path,
                    ret == -ENODATA ? "it is too short" : g_strerror(-ret));
        g_clear_pointer(&pages, g_array_unref);
    }
    return pages;
}

Set *serve_read_set(const Snapshot *snapshot, const char *path,
                    GError **error)
{
    g_autoptr(GArray) pages = serve_read_pages(path, error);

    return pages ? set_of_pages(snapshot, pages) : NULL;
}
