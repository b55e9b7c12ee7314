/*
 * Fuzzing the snapshot parser: any bytes, an error or a sound snapshot.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An input is a file as it is, or, when it begins with "HOLE", a recipe for a
 * sparse one: records of a length (2 bytes, big-endian), so many bytes, and
 * the length of the hole behind them (8 bytes, big-endian).  Real snapshots
 * have gaps of megabytes; a corpus should not.
 *
 * The program aborts when a check fails.
 */
#include "bench.h"
#include "fuzz.h"

#define HOLE_BYTES_MAX (1ull << 32)
#define RECORD_COUNT_MAX 64
/* Page by page is slow: only this much of each block, from both ends. */
#define EVERY_PAGE_COUNT 64

/* ---- what a snapshot promises ---- */

static void check_run(const Snapshot *snapshot, const SnapshotBlock *block,
                      uint64_t page, uint64_t count, bool has_data)
{
    uint64_t first = block->guest_off / BENCH_PAGE_BYTES;
    uint64_t end = first + block->len_bytes / BENCH_PAGE_BYTES;
    uint64_t i;

    CHECK(count > 0 && count <= end - page);
    for (i = 0; i < count; i++) {
        CHECK(snapshot_has_page(snapshot, page + i) == has_data);
        CHECK(snapshot_block_of(snapshot, page + i) == block);
        if (i == EVERY_PAGE_COUNT && count > 2 * EVERY_PAGE_COUNT) {
            i = count - EVERY_PAGE_COUNT;
        }
    }
    CHECK(page + count == end ||
          snapshot_has_page(snapshot, page + count) != has_data);
}

static void check_runs(const Snapshot *snapshot, const SnapshotBlock *block)
{
    uint64_t first = block->guest_off / BENCH_PAGE_BYTES;
    uint64_t end = first + block->len_bytes / BENCH_PAGE_BYTES;
    uint64_t data_page_count = 0;
    uint64_t page = first;

    while (page < end) {
        uint64_t count = 0;
        uint64_t file_off = 0;
        bool has_data = snapshot_run(snapshot, block, page, &count,
                                     &file_off);

        check_run(snapshot, block, page, count, has_data);
        CHECK(file_off == block->file_off +
                          (page - first) * BENCH_PAGE_BYTES);
        CHECK(!has_data ||
              file_off + count * BENCH_PAGE_BYTES <= snapshot->file_bytes);
        data_page_count += has_data ? count : 0;
        page += count;
    }
    CHECK(data_page_count == block->data_page_count);
}

/* Between @page and @end no block is and no bit is set. */
static void check_gap(const Snapshot *snapshot, uint64_t page, uint64_t end)
{
    CHECK(page <= end && end - page < BENCH_HUGE_BYTES / BENCH_PAGE_BYTES);
    if (page < end) {
        CHECK(!snapshot_block_of(snapshot, page));
        CHECK(!snapshot_block_of(snapshot, end - 1));
    }
    for (; page < end; page++) {
        CHECK(!snapshot_has_page(snapshot, page));
    }
}

static void check_block(const Snapshot *snapshot, const SnapshotBlock *block,
                        uint64_t *file_end, uint64_t *guest_end)
{
    uint64_t page_count = block->len_bytes / BENCH_PAGE_BYTES;
    uint64_t bitmap_end = block->bitmap_off + (page_count + 7) / 8;

    CHECK(memchr(block->name, '\0', sizeof(block->name)) && block->name[0]);
    CHECK(block->len_bytes && block->len_bytes % BENCH_PAGE_BYTES == 0);
    if (block->is_left_out) {
        CHECK(!block->bitmap_off && !block->file_off);
        CHECK(!block->data_page_count);
    } else {
        CHECK(block->bitmap_off > *file_end);
        CHECK(bitmap_end <= block->file_off && bitmap_end > block->bitmap_off);
        CHECK(block->file_off % BENCH_PAGE_BYTES == 0);
        CHECK(block->file_off <= snapshot->file_bytes);
        CHECK(block->len_bytes <= snapshot->file_bytes - block->file_off);
        *file_end = block->file_off + block->len_bytes;
    }
    CHECK(block->guest_off % BENCH_HUGE_BYTES == 0);
    check_gap(snapshot, *guest_end / BENCH_PAGE_BYTES,
              block->guest_off / BENCH_PAGE_BYTES);
    *guest_end = block->guest_off + block->len_bytes;
}

static void check_snapshot(const Snapshot *snapshot)
{
    uint64_t file_end = 0;
    uint64_t guest_end = 0;
    uint64_t len_bytes = 0;
    uint64_t data_page_count = 0;
    uint32_t i, k;

    CHECK(snapshot->block_count > 0);
    CHECK(snapshot->block_count <= SNAPSHOT_BLOCK_COUNT_MAX);
    CHECK(snapshot->guest_bytes % BENCH_HUGE_BYTES == 0);
    for (i = 0; i < snapshot->block_count; i++) {
        const SnapshotBlock *block = &snapshot->blocks[i];

        check_block(snapshot, block, &file_end, &guest_end);
        check_runs(snapshot, block);
        len_bytes += block->len_bytes;
        data_page_count += block->data_page_count;
        for (k = 0; k < MIN(i, 16); k++) {
            CHECK(strcmp(block->name, snapshot->blocks[k].name));
        }
    }
    CHECK(guest_end <= snapshot->guest_bytes);
    check_gap(snapshot, guest_end / BENCH_PAGE_BYTES,
              snapshot->guest_bytes / BENCH_PAGE_BYTES);
    CHECK(!snapshot_block_of(snapshot,
                             snapshot->guest_bytes / BENCH_PAGE_BYTES));
    CHECK(!snapshot_block_of(snapshot, UINT64_MAX));
    CHECK(len_bytes == snapshot->len_bytes);
    CHECK(len_bytes <= SNAPSHOT_LEN_BYTES_MAX);
    CHECK(data_page_count * BENCH_PAGE_BYTES == snapshot->data_bytes);
}

/* Fit for a terminal: a stranger's bytes are escaped. */
static void check_printable(const char *text, uint64_t byte_count,
                            bool has_lines)
{
    uint64_t i;

    CHECK(byte_count > 0);
    for (i = 0; i < byte_count; i++) {
        CHECK((text[i] >= ' ' && text[i] <= '~') ||
              (has_lines && text[i] == '\n'));
    }
}

static void check_inspect(const Snapshot *snapshot)
{
    char *text = NULL;
    size_t byte_count = 0;
    FILE *out = open_memstream(&text, &byte_count);

    CHECK(out);
    inspect_print(snapshot, out);
    CHECK(fclose(out) == 0);
    check_printable(text, byte_count, true);
    free(text);
    text = snapshot_run_state(snapshot);
    if (text) {
        check_printable(text, strlen(text), false);
        CHECK(strlen(text) <= 32);
    }
    g_free(text);
}

/* ---- the file ---- */

static void fuzz_write(int fd, const uint8_t *data, uint64_t byte_count,
                       uint64_t off)
{
    CHECK(pwrite(fd, data, byte_count, off) == (ssize_t)byte_count);
}

static uint64_t fuzz_number(const uint8_t **data, size_t *byte_count,
                            uint32_t want)
{
    uint64_t value = 0;

    while (want-- && *byte_count) {
        value = value << 8 | *(*data)++;
        --*byte_count;
    }
    return value;
}

static void fuzz_write_records(int fd, const uint8_t *data, size_t byte_count)
{
    uint64_t off = 0;
    uint32_t i;

    for (i = 0; i < RECORD_COUNT_MAX && byte_count; i++) {
        uint64_t now = fuzz_number(&data, &byte_count, 2);

        now = MIN(now, byte_count);
        fuzz_write(fd, data, now, off);
        off += now;
        data += now;
        byte_count -= now;
        off += fuzz_number(&data, &byte_count, 8) % HOLE_BYTES_MAX;
    }
    CHECK(ftruncate(fd, off) == 0);
}

static int fuzz_file(const uint8_t *data, size_t byte_count)
{
    /* Kept: to make one takes longer than to parse it. */
    static int file = -1;
    int fd;

    if (file < 0) {
        file = memfd_create("fuzz-snapshot", MFD_CLOEXEC);
        CHECK(file >= 0);
    }
    CHECK(ftruncate(file, 0) == 0);
    if (byte_count >= 4 && !memcmp(data, "HOLE", 4)) {
        fuzz_write_records(file, data + 4, byte_count - 4);
    } else {
        fuzz_write(file, data, byte_count, 0);
    }
    fd = fcntl(file, F_DUPFD_CLOEXEC, 0);
    CHECK(fd >= 0);
    return fd;
}

/* Whether it is a snapshot. */
bool fuzz_one(const uint8_t *data, size_t byte_count)
{
    int fd = fuzz_file(data, byte_count);
    GError *error = NULL;
    Snapshot *snapshot = snapshot_open_fd(fd, "/nowhere", "input", &error);
    bool is_ok = snapshot;

    if (snapshot) {
        CHECK(!error);
        CHECK(snapshot->fd == fd);
        CHECK(!strcmp(snapshot->path, "/nowhere"));
        check_snapshot(snapshot);
        check_inspect(snapshot);
        snapshot_free(snapshot);
    } else {
        CHECK(error && error->domain == BENCH_ERROR);
        CHECK(error->code == BENCH_ERROR_FAILED);
        check_printable(error->message, strlen(error->message), false);
        g_error_free(error);
    }
    /* It was taken over, either way. */
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
    return is_ok;
}
