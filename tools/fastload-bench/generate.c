/*
 * A mapped-ram file from a seed: RAM as QEMU writes it, no devices.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The same layout as QEMU's: header, configuration, section "ram" with one
 * block "pc.ram", its bitmap, its pages from a multiple of 1 MiB on, holes in
 * the file where pages are zero, end marks.  QEMU loads it as far as RAM goes.
 *
 * Runs of pages with and without data alternate.  The numbers of pages of
 * either kind are fixed first, and then all ways to cut them into runs are
 * equally likely: so the lengths are about geometrically distributed, and their
 * sums are exact.  A page's bytes depend on the seed and its number only.
 *
 * The header is written last, so that an unfinished file is not a snapshot.
 * Fails when there is no room, when writing fails and when it is told to stop;
 * then the caller removes the file.
 */
#include "bench.h"

#include <math.h>
#include <sys/statvfs.h>
#include <sys/stat.h>

#define BUFFER_BYTES (4u << 20)
#define PROGRESS_BYTES (64u << 20)
#define PAGES_ALIGN_BYTES (1u << 20)
#define HEAD_BYTES_MAX 512
/* For the head, the tail and metadata of the file system. */
#define SPARE_BYTES (4u << 20)

#define MACHINE "pc-i440fx-10.2"
#define BLOCK "pc.ram"
#define RAM_SECTION_ID 1
#define RAM_VERSION 4
#define RAM_FLAG_MEM_SIZE 0x004
#define RAM_FLAG_EOS 0x010

typedef struct Generator {
    /* constant */
    int fd;
    const GenerateConfig *config;
    GenerateProgress *progress;
    void *opaque;
    const volatile int *is_stopped;
    uint64_t page_count;
    uint64_t data_page_count;
    uint64_t bitmap_off;
    uint64_t bitmap_bytes;
    uint64_t pages_off;
    /* what has been written */
    uint64_t *bits;          /* as in the file: little-endian */
    uint8_t *buffer;
    uint64_t done_bytes;     /* of pages with data */
    uint64_t told_bytes;     /* done_bytes when progress was called last */
} Generator;

/* ---- random numbers ---- */

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* True with the probability @part / @whole. */
static bool draw(uint64_t *state, uint64_t part, uint64_t whole)
{
    *state += 0x9e3779b97f4a7c15ull;
    return ((unsigned __int128)mix(*state) * whole) >> 64 < part;
}

/* Words are independent of each other, so the processor computes several. */
static void fill_page(uint64_t *words, uint64_t seed, uint64_t page)
{
    uint64_t begin = mix(seed ^ mix(page + 0x5851f42d4c957f2dull));
    uint32_t i;

    for (i = 0; i < BENCH_PAGE_BYTES / sizeof(uint64_t); i++) {
        uint64_t x = begin + i * 0x9e3779b97f4a7c15ull;

        x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
        words[i] = GUINT64_TO_LE(x ^ x >> 29);
    }
    /* The page must not be all zero. */
    words[0] |= GUINT64_TO_LE(1);
}

/* ---- which pages have data ---- */

/* Sets @count bits from @first on. */
static void set_bits(uint64_t *bits, uint64_t first, uint64_t count)
{
    while (count) {
        uint32_t shift = first % 64;
        uint64_t now = MIN(count, 64 - shift);
        uint64_t ones = UINT64_MAX >> (64 - now) << shift;

        bits[first / 64] |= GUINT64_TO_LE(ones);
        first += now;
        count -= now;
    }
}

/*
 * The length of the next part when @page_left pages are to be cut into
 * @part_left parts that are not empty.  All ways to cut are equally likely.
 */
static uint64_t next_part(uint64_t *state, uint64_t page_left,
                          uint64_t part_left)
{
    uint64_t count = 1;

    if (part_left == 1) {
        return page_left;
    }
    while (!draw(state, part_left - 1, page_left - count)) {
        count++;
    }
    return count;
}

static uint64_t run_count(const Generator *g)
{
    uint64_t zero_page_count = g->page_count - g->data_page_count;
    double run_page_count = MAX(g->config->run_bytes / BENCH_PAGE_BYTES, 1);
    uint64_t count = llround(g->data_page_count / run_page_count);

    /* There is at least one zero page between two runs with data. */
    return CLAMP(count, 1, zero_page_count + 1);
}

static void plan_pages(Generator *g)
{
    uint64_t state = mix(g->config->seed ^ 0xd1342543de82ef95ull);
    uint64_t data_left = g->data_page_count;
    /* The first and the last run may be empty: count one page more for each. */
    uint64_t zero_left = g->page_count - data_left + 2;
    uint64_t run_left;
    uint64_t page = 0;

    if (data_left == 0) {
        return;
    }
    for (run_left = run_count(g); run_left; run_left--) {
        uint64_t zero_count = next_part(&state, zero_left, run_left + 1);
        uint64_t data_count = next_part(&state, data_left, run_left);

        page += page == 0 ? zero_count - 1 : zero_count;
        zero_left -= zero_count;
        set_bits(g->bits, page, data_count);
        page += data_count;
        data_left -= data_count;
    }
}

/* ---- writing ---- */

static bool write_all(Generator *g, const void *buf, uint64_t len_bytes,
                      uint64_t off, GError **error)
{
    uint64_t done_bytes = 0;

    while (done_bytes < len_bytes) {
        ssize_t ret = pwrite(g->fd, (const uint8_t *)buf + done_bytes,
                             len_bytes - done_bytes, off + done_bytes);

        if (ret < 0 && errno == EINTR) {
            continue;
        }
        if (ret <= 0) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "cannot write the snapshot at offset %" PRIu64 ": %s",
                        off + done_bytes,
                        ret ? g_strerror(errno) : "nothing was written");
            return false;
        }
        done_bytes += ret;
    }
    return true;
}

/* Called before each write; reports and checks every PROGRESS_BYTES. */
static bool may_go_on(Generator *g, bool is_end, GError **error)
{
    uint64_t total_bytes = g->data_page_count * BENCH_PAGE_BYTES;

    if (g->done_bytes - g->told_bytes < PROGRESS_BYTES && !is_end &&
        g->done_bytes) {
        return true;
    }
    g->told_bytes = g->done_bytes;
    if (g->is_stopped && *g->is_stopped) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "stopped before the snapshot was complete");
        return false;
    }
    if (g->progress) {
        g->progress(g->done_bytes, total_bytes, g->opaque);
    }
    return true;
}

static bool write_run(Generator *g, uint64_t first, uint64_t count,
                      GError **error)
{
    while (count) {
        uint64_t now = MIN(count, BUFFER_BYTES / BENCH_PAGE_BYTES);
        uint64_t i;

        if (!may_go_on(g, false, error)) {
            return false;
        }
        for (i = 0; i < now; i++) {
            fill_page((uint64_t *)(void *)(g->buffer + i * BENCH_PAGE_BYTES),
                      g->config->seed, first + i);
        }
        if (!write_all(g, g->buffer, now * BENCH_PAGE_BYTES,
                       g->pages_off + first * BENCH_PAGE_BYTES, error)) {
            return false;
        }
        g->done_bytes += now * BENCH_PAGE_BYTES;
        first += now;
        count -= now;
    }
    return true;
}

/* The first page from @page on that has data or, @flip all ones, has none. */
static uint64_t find_page(const Generator *g, uint64_t page, uint64_t flip)
{
    while (page < g->page_count) {
        uint64_t word = GUINT64_FROM_LE(g->bits[page / 64]) ^ flip;

        word >>= page % 64;
        if (word) {
            return MIN(page + __builtin_ctzll(word), g->page_count);
        }
        page += 64 - page % 64;
    }
    return g->page_count;
}

static bool write_pages(Generator *g, GError **error)
{
    uint64_t begin = find_page(g, 0, 0);

    while (begin < g->page_count) {
        uint64_t end = find_page(g, begin, UINT64_MAX);

        if (!write_run(g, begin, end - begin, error)) {
            return false;
        }
        begin = find_page(g, end, 0);
    }
    return may_go_on(g, true, error);
}

/* ---- the migration stream around the pages ---- */

static void put_number(GByteArray *out, uint32_t byte_count, uint64_t value)
{
    while (byte_count--) {
        uint8_t byte = value >> (8 * byte_count);

        g_byte_array_append(out, &byte, 1);
    }
}

static void put_bytes(GByteArray *out, const char *text)
{
    g_byte_array_append(out, (const uint8_t *)text, strlen(text));
}

static void put_text(GByteArray *out, const char *text)
{
    put_number(out, 1, strlen(text));
    put_bytes(out, text);
}

/* The stream up to the header of the block. */
static GByteArray *stream_begin(const Generator *g)
{
    GByteArray *out = g_byte_array_sized_new(HEAD_BYTES_MAX);

    put_bytes(out, "QEVM");
    put_number(out, 4, 3);
    put_number(out, 1, 0x07);                /* configuration */
    put_number(out, 4, strlen(MACHINE));
    put_bytes(out, MACHINE);
    put_number(out, 1, 0x05);                /* subsection */
    put_text(out, "configuration/capabilities");
    put_number(out, 4, 1);                   /* version */
    put_number(out, 4, 1);                   /* one of them */
    put_text(out, "mapped-ram");
    put_number(out, 1, 0x01);                /* section begins */
    put_number(out, 4, RAM_SECTION_ID);
    put_text(out, "ram");
    put_number(out, 4, 0);                   /* instance */
    put_number(out, 4, RAM_VERSION);
    put_number(out, 8, g->config->len_bytes | RAM_FLAG_MEM_SIZE);
    put_text(out, BLOCK);
    put_number(out, 8, g->config->len_bytes);
    return out;
}

static void put_round_end(GByteArray *out)
{
    put_number(out, 8, RAM_FLAG_EOS);
    put_number(out, 1, 0x7e);                /* footer */
    put_number(out, 4, RAM_SECTION_ID);
}

static GByteArray *stream_end(void)
{
    GByteArray *out = g_byte_array_new();

    put_round_end(out);
    put_number(out, 1, 0x03);                /* section ends */
    put_number(out, 4, RAM_SECTION_ID);
    put_round_end(out);
    put_number(out, 1, 0x00);                /* end of the stream */
    put_number(out, 1, 0x06);                /* its description, as JSON */
    put_number(out, 4, strlen("{}"));
    put_bytes(out, "{}");
    return out;
}

static bool write_stream(Generator *g, GError **error)
{
    g_autoptr(GByteArray) begin = stream_begin(g);
    g_autoptr(GByteArray) end = stream_end();

    put_number(begin, 4, 1);                 /* version of the header */
    put_number(begin, 8, BENCH_PAGE_BYTES);
    put_number(begin, 8, g->bitmap_off);
    put_number(begin, 8, g->pages_off);
    assert(begin->len == g->bitmap_off);
    return write_all(g, end->data, end->len,
                     g->pages_off + g->config->len_bytes, error) &&
           write_all(g, begin->data, begin->len, 0, error);
}

/* ---- before and after ---- */

/* The folder of @fd's file, for messages. */
static char *folder_of(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *path = g_file_read_link(link, NULL);

    return path ? g_path_get_dirname(path) : g_strdup("its folder");
}

static bool check_room(const Generator *g, GError **error)
{
    g_autofree char *folder = folder_of(g->fd);
    uint64_t need_bytes = g->data_page_count * BENCH_PAGE_BYTES +
                          g->bitmap_bytes + SPARE_BYTES;
    uint64_t free_bytes;
    struct statvfs fs;

    if (fstatvfs(g->fd, &fs)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot find out how much room is in %s: %s", folder,
                    g_strerror(errno));
        return false;
    }
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    /* f_blocks is 0 on a tmpfs without a size limit. */
    if (fs.f_blocks && need_bytes > free_bytes) {
        g_autofree char *need = text_bytes(need_bytes);
        g_autofree char *have = text_bytes(free_bytes);

        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the snapshot needs %s in %s, %s are free: choose another "
                    "folder or a smaller --size", need, folder, have);
        return false;
    }
    return true;
}

static bool check_config(int fd, const GenerateConfig *config, GError **error)
{
    struct stat st;

    if (config->len_bytes == 0 || config->len_bytes % BENCH_PAGE_BYTES ||
        config->len_bytes > SNAPSHOT_LEN_BYTES_MAX) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "a snapshot cannot have %" PRIu64 " bytes of RAM: choose "
                    "a multiple of 4096 up to 64 TiB", config->len_bytes);
        return false;
    }
    if (!(config->zero_share >= 0 && config->zero_share <= 1)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_USAGE,
                    "the share of zero pages cannot be %g: choose it between "
                    "0 and 1", config->zero_share);
        return false;
    }
    if (fstat(fd, &st) || st.st_size) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the file for the snapshot is not empty: remove it");
        return false;
    }
    return true;
}

static void settle(Generator *g)
{
    g_autoptr(GByteArray) begin = stream_begin(g);
    uint64_t bitmap_end;

    g->page_count = g->config->len_bytes / BENCH_PAGE_BYTES;
    g->data_page_count = llround(g->page_count *
                                 (1 - g->config->zero_share));
    g->bitmap_off = begin->len + 4 + 3 * 8;
    g->bitmap_bytes = (g->page_count + 63) / 64 * sizeof(uint64_t);
    bitmap_end = g->bitmap_off + g->bitmap_bytes;
    g->pages_off = (bitmap_end + PAGES_ALIGN_BYTES - 1) / PAGES_ALIGN_BYTES *
                   PAGES_ALIGN_BYTES;
}

static bool generate(Generator *g, GError **error)
{
    if (ftruncate(g->fd, g->pages_off + g->config->len_bytes)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot make the snapshot as long as it has to be: %s",
                    g_strerror(errno));
        return false;
    }
    plan_pages(g);
    if (!write_pages(g, error) ||
        !write_all(g, g->bits, g->bitmap_bytes, g->bitmap_off, error) ||
        !write_stream(g, error)) {
        return false;
    }
    /* Only what is on the disk can be dropped from the page cache later. */
    if (fdatasync(g->fd)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot write the snapshot to the disk: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

bool generate_snapshot(int fd, const GenerateConfig *config,
                       GenerateProgress *progress, void *opaque,
                       const volatile int *is_stopped, GError **error)
{
    Generator g = {
        .fd = fd,
        .config = config,
        .progress = progress,
        .opaque = opaque,
        .is_stopped = is_stopped,
    };
    bool is_ok;

    if (!check_config(fd, config, error)) {
        return false;
    }
    settle(&g);
    if (!check_room(&g, error)) {
        return false;
    }
    g.bits = g_try_malloc0(g.bitmap_bytes);
    if (!g.bits) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "not enough memory for a bitmap of %" PRIu64 " bytes: "
                    "choose a smaller --size", g.bitmap_bytes);
        return false;
    }
    g.buffer = g_malloc(BUFFER_BYTES);
    is_ok = generate(&g, error);
    g_free(g.buffer);
    g_free(g.bits);
    return is_ok;
}
