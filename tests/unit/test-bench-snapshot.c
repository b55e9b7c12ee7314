/*
 * The benchmark's snapshots: what is made can be read, what is damaged is
 * refused and said so.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <math.h>
#include "bench.h"

#define PAGE BENCH_PAGE_BYTES
#define HUGE_PAGES (BENCH_HUGE_BYTES / PAGE)
#define MIB (1ull << 20)

/* ---- files made by hand ---- */

/* Where things are in the last file made, to be damaged. */
typedef struct Places {
    uint64_t total_off;
    uint64_t name_off;       /* these: of the last block */
    uint64_t len_off;
    uint64_t header_off;
    uint64_t bitmap_off;
    uint64_t pages_off;
    uint64_t end_off;        /* the end mark behind the pages */
    uint64_t last_round_off;
} Places;

typedef struct Maker {
    GByteArray *bytes;
    Places at;
    uint64_t total_bytes;
} Maker;

static void put(Maker *m, const void *bytes, uint32_t byte_count)
{
    g_byte_array_append(m->bytes, bytes, byte_count);
}

static void put_be(Maker *m, uint32_t byte_count, uint64_t value)
{
    while (byte_count--) {
        uint8_t byte = value >> (8 * byte_count);

        put(m, &byte, 1);
    }
}

static void put_text(Maker *m, const char *text)
{
    put_be(m, 1, strlen(text));
    put(m, text, strlen(text));
}

static void poke(Maker *m, uint64_t off, uint32_t byte_count, uint64_t value)
{
    g_assert_cmpuint(off + byte_count, <=, m->bytes->len);
    while (byte_count--) {
        m->bytes->data[off++] = value >> (8 * byte_count);
    }
}

static void put_zeros_to(Maker *m, uint64_t off)
{
    uint32_t len = m->bytes->len;

    g_assert_cmpuint(off, >=, len);
    g_byte_array_set_size(m->bytes, off);
    memset(m->bytes->data + len, 0, off - len);
}

/* @capability NULL: no configuration; "": one without capabilities. */
static Maker maker_begin(const char *capability, const char *capability2)
{
    Maker m = { .bytes = g_byte_array_new() };

    put(&m, "QEVM\0\0\0\3", 8);
    if (capability) {
        put_be(&m, 1, 7);
        put_be(&m, 4, 2);
        put(&m, "pc", 2);
    }
    if (capability && capability[0]) {
        put_be(&m, 1, 5);
        put_text(&m, "configuration/capabilities");
        put_be(&m, 4, 1);
        put_be(&m, 4, capability2 ? 2 : 1);
        put_text(&m, capability);
        if (capability2) {
            put_text(&m, capability2);
        }
    }
    return m;
}

static void maker_ram(Maker *m)
{
    put_be(m, 1, 1);
    put_be(m, 4, 2);
    put_text(m, "ram");
    put_be(m, 4, 0);
    put_be(m, 4, 4);
    m->at.total_off = m->bytes->len;
    put_be(m, 8, 4);
}

static void maker_block_name(Maker *m, const char *name, uint64_t page_count)
{
    m->at.name_off = m->bytes->len;
    put_text(m, name);
    m->at.len_off = m->bytes->len;
    put_be(m, 8, page_count * PAGE);
    m->total_bytes += page_count * PAGE;
    poke(m, m->at.total_off, 8, m->total_bytes | 4);
}

/* Up to 64 pages, @bits of them with data. */
static void maker_block_rest(Maker *m, uint64_t page_count, uint64_t bits)
{
    uint64_t bits_le = GUINT64_TO_LE(bits);

    m->at.header_off = m->bytes->len;
    m->at.bitmap_off = m->at.header_off + 28;
    m->at.pages_off = (m->at.bitmap_off + 8 + PAGE - 1) / PAGE * PAGE;
    put_be(m, 4, 1);
    put_be(m, 8, PAGE);
    put_be(m, 8, m->at.bitmap_off);
    put_be(m, 8, m->at.pages_off);
    put(m, &bits_le, 8);
    put_zeros_to(m, m->at.pages_off + page_count * PAGE);
}

static void maker_block(Maker *m, const char *name, uint64_t page_count,
                        uint64_t bits)
{
    maker_block_name(m, name, page_count);
    maker_block_rest(m, page_count, bits);
}

static void maker_round_end(Maker *m)
{
    put_be(m, 8, 0x10);
    put_be(m, 1, 0x7e);
    put_be(m, 4, 2);
}

static void maker_end(Maker *m)
{
    m->at.end_off = m->bytes->len;
    maker_round_end(m);
    m->at.last_round_off = m->bytes->len;
    put_be(m, 1, 3);
    put_be(m, 4, 2);
    maker_round_end(m);
}

/* The usual file: two blocks of 3 and 10 pages. */
static Maker maker_usual(void)
{
    Maker m = maker_begin("mapped-ram", NULL);

    maker_ram(&m);
    maker_block(&m, "pc.ram", 3, 0x5);
    maker_block(&m, "vga", 10, 0x3f0);
    maker_end(&m);
    return m;
}

static int memory_file(void)
{
    int fd = memfd_create("snapshot", MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

/* Ends @m. */
static Snapshot *maker_open(Maker *m, GError **error)
{
    int fd = memory_file();

    g_assert_cmpint(write(fd, m->bytes->data, m->bytes->len), ==,
                    m->bytes->len);
    g_byte_array_unref(m->bytes);
    m->bytes = NULL;
    return snapshot_open_fd(fd, "/nowhere", "FILE", error);
}

static Snapshot *maker_open_ok(Maker *m)
{
    GError *error = NULL;
    Snapshot *snapshot = maker_open(m, &error);

    g_assert_no_error(error);
    g_assert_nonnull(snapshot);
    return snapshot;
}

/* Ends @m: it is refused in words with @begin at the start and @word inside. */
static void maker_assert_refused(Maker *m, const char *begin,
                                 const char *word)
{
    g_autoptr(GError) error = NULL;
    Snapshot *snapshot = maker_open(m, &error);

    g_assert_null(snapshot);
    g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
    if (!g_str_has_prefix(error->message, begin) ||
        !strstr(error->message, word)) {
        g_test_message("'%s' should begin with '%s' and have '%s'",
                       error->message, begin, word);
        g_test_fail();
    }
}

#define DAMAGED "FILE is damaged: "
#define FOREIGN "FILE is not a mapped-ram snapshot: "
#define UNUSABLE "FILE cannot be used: "
#define TRUNCATED "FILE is truncated: "

/* The usual file with one number changed. */
static void assert_poked(uint64_t off, uint32_t byte_count, uint64_t value,
                         const char *begin, const char *word)
{
    Maker m = maker_usual();

    poke(&m, off, byte_count, value);
    maker_assert_refused(&m, begin, word);
}

static Places usual_places(void)
{
    Maker m = maker_usual();

    g_byte_array_unref(m.bytes);
    return m.at;
}

/* ---- reading ---- */

static void test_blocks_are_as_in_the_file(void)
{
    /* Names, lengths, places and bits are those of the file. */
    Maker m = maker_usual();
    Places at = m.at;
    g_autoptr(Snapshot) snapshot = maker_open_ok(&m);
    const SnapshotBlock *vga = &snapshot->blocks[1];

    g_assert_cmpuint(snapshot->block_count, ==, 2);
    g_assert_cmpstr(snapshot->blocks[0].name, ==, "pc.ram");
    g_assert_cmpuint(snapshot->blocks[0].len_bytes, ==, 3 * PAGE);
    g_assert_cmpuint(snapshot->blocks[0].guest_off, ==, 0);
    g_assert_cmpuint(snapshot->blocks[0].data_page_count, ==, 2);
    g_assert_cmpstr(vga->name, ==, "vga");
    g_assert_cmpuint(vga->len_bytes, ==, 10 * PAGE);
    g_assert_cmpuint(vga->guest_off, ==, 2 * MIB);
    g_assert_cmpuint(vga->bitmap_off, ==, at.bitmap_off);
    g_assert_cmpuint(vga->file_off, ==, at.pages_off);
    g_assert_cmpuint(vga->data_page_count, ==, 6);
    g_assert_cmpuint(snapshot->guest_bytes, ==, 4 * MIB);
    g_assert_cmpuint(snapshot->len_bytes, ==, 13 * PAGE);
    g_assert_cmpuint(snapshot->data_bytes, ==, 8 * PAGE);
    g_assert_cmphex(snapshot->data_bits[0], ==, 0x5);
    g_assert_cmphex(snapshot->data_bits[HUGE_PAGES / 64], ==, 0x3f0);
    g_assert_cmpstr(snapshot->path, ==, "/nowhere");
    g_assert_cmpstr(snapshot->label, ==, "FILE");
}

static void test_runs_alternate_and_end_with_their_block(void)
{
    /* Each page's run is what its bits say, up to the block's end. */
    Maker m = maker_usual();
    g_autoptr(Snapshot) snapshot = maker_open_ok(&m);
    const SnapshotBlock *vga = &snapshot->blocks[1];
    uint64_t count, file_off;

    g_assert_true(snapshot_run(snapshot, &snapshot->blocks[0], 2, &count,
                               &file_off));
    g_assert_cmpuint(count, ==, 1);
    g_assert_cmpuint(file_off, ==, snapshot->blocks[0].file_off + 2 * PAGE);
    g_assert_false(snapshot_run(snapshot, vga, HUGE_PAGES + 1, &count,
                                &file_off));
    g_assert_cmpuint(count, ==, 3);
    g_assert_cmpuint(file_off, ==, vga->file_off + PAGE);
    g_assert_true(snapshot_run(snapshot, vga, HUGE_PAGES + 4, &count,
                               &file_off));
    g_assert_cmpuint(count, ==, 6);
}

static void test_zero_runs_end_with_their_block(void)
{
    /* What lies between blocks has no data, and belongs to no run. */
    Maker m = maker_begin("mapped-ram", NULL);
    g_autoptr(Snapshot) snapshot = NULL;
    uint64_t count, file_off;

    maker_ram(&m);
    maker_block(&m, "pc.ram", 3, 0x1);
    maker_block(&m, "vga", 3, 0x0);
    maker_end(&m);
    snapshot = maker_open_ok(&m);
    g_assert_false(snapshot_run(snapshot, &snapshot->blocks[0], 1, &count,
                                &file_off));
    g_assert_cmpuint(count, ==, 2);
    g_assert_false(snapshot_run(snapshot, &snapshot->blocks[1], HUGE_PAGES,
                                &count, &file_off));
    g_assert_cmpuint(count, ==, 3);
}

static void test_pages_between_blocks_are_nobodys(void)
{
    /* A page has a block exactly if it lies in one. */
    Maker m = maker_usual();
    g_autoptr(Snapshot) snapshot = maker_open_ok(&m);
    uint64_t page;

    for (page = 0; page < 3 * HUGE_PAGES; page++) {
        const SnapshotBlock *block = snapshot_block_of(snapshot, page);

        if (page < 3) {
            g_assert_true(block == &snapshot->blocks[0]);
        } else if (page >= HUGE_PAGES && page < HUGE_PAGES + 10) {
            g_assert_true(block == &snapshot->blocks[1]);
        } else {
            g_assert_null(block);
        }
    }
    g_assert_null(snapshot_block_of(snapshot, UINT64_MAX));
    g_assert_null(snapshot_block_of(snapshot, UINT64_MAX / PAGE + 1));
}

static void test_bits_past_the_end_are_ignored(void)
{
    /* Rubbish after the last bit of a bitmap changes nothing, as in QEMU. */
    Maker m = maker_begin("mapped-ram", NULL);
    g_autoptr(Snapshot) snapshot = NULL;

    maker_ram(&m);
    maker_block(&m, "pc.ram", 5, 0xfffffffffffffff1);
    maker_end(&m);
    snapshot = maker_open_ok(&m);
    g_assert_cmphex(snapshot->data_bits[0], ==, 0x11);
    g_assert_cmpuint(snapshot->data_bytes, ==, 2 * PAGE);
}

typedef struct Extra {
    const char *capability;  /* as of maker_begin() */
    const char *capability2;
    uint32_t extra_count;    /* numbers between length and header */
    uint64_t extras[2];
} Extra;

static void test_optional_fields_are_found(void)
{
    /* Page size and address before a header are found, or found absent. */
    static const Extra extras[] = {
        { "mapped-ram", NULL, 0, { 0 } },
        { "mapped-ram", NULL, 1, { 2 * MIB } },
        { "x-ignore-shared", "mapped-ram", 1, { 0 } },
        { "x-ignore-shared", "mapped-ram", 1, { 1ull << 32 } },
        { "x-ignore-shared", "mapped-ram", 2, { 2 * MIB, 0x100001000 } },
        { "", NULL, 1, { 2 * MIB } },
        { NULL, NULL, 0, { 0 } },
        { NULL, NULL, 1, { 1ull << 32 } },
        { NULL, NULL, 2, { 1ull << 30, 1ull << 32 } },
    };
    uint32_t i, k;

    for (i = 0; i < G_N_ELEMENTS(extras); i++) {
        Maker m = maker_begin(extras[i].capability, extras[i].capability2);
        Snapshot *snapshot;

        maker_ram(&m);
        maker_block_name(&m, "pc.ram", 2);
        for (k = 0; k < extras[i].extra_count; k++) {
            put_be(&m, 8, extras[i].extras[k]);
        }
        maker_block_rest(&m, 2, 1);
        maker_end(&m);
        snapshot = maker_open_ok(&m);
        g_assert_cmpuint(snapshot->data_bytes, ==, PAGE);
        snapshot_free(snapshot);
    }
}

static void test_what_comes_before_ram_is_passed_over(void)
{
    /*
     * Subsections, commands and sections before RAM are skipped, known or not.
     */
    static const char before[] =
        "\5\22configuration/uuid\0\0\0\1" "\5\377" "23456789abcdef"
        "\5\35configuration/" "target-page-bit" "\0\0\0\1" "whatever"
        "\x08\0\3\0\0"
        "\4\0\0\0\1\5early\0\0\0\0\0\0\0\1\3ram\0\0\0\0\0\0\0\4\x7e\0\0\0\1";
    Maker m = maker_begin("mapped-ram", NULL);
    g_autoptr(Snapshot) snapshot = NULL;

    put(&m, before, sizeof(before) - 1);
    maker_ram(&m);
    maker_block(&m, "pc.ram", 2, 3);
    maker_end(&m);
    snapshot = maker_open_ok(&m);
    g_assert_cmpuint(snapshot->data_bytes, ==, 2 * PAGE);
}

static void test_ram_is_found_wherever_it_begins(void)
{
    /* RAM is found wherever it lies in the pieces that are read. */
    uint32_t before_bytes;

    for (before_bytes = 4000; before_bytes < 4150; before_bytes++) {
        Maker m = maker_begin("mapped-ram", NULL);

        put_zeros_to(&m, before_bytes);
        maker_ram(&m);
        maker_block(&m, "pc.ram", 1, 1);
        maker_end(&m);
        snapshot_free(maker_open_ok(&m));
    }
}

static void test_ram_is_not_searched_without_end(void)
{
    /* RAM is found 1/2 MiB behind the head, and not 2 MiB behind it. */
    Maker m = maker_begin("mapped-ram", NULL);
    g_autoptr(Snapshot) snapshot = NULL;

    put_zeros_to(&m, m.bytes->len + 2 * MIB);
    maker_ram(&m);
    maker_block(&m, "pc.ram", 2, 3);
    maker_end(&m);
    maker_assert_refused(&m, FOREIGN, "no RAM section");
    m = maker_begin("mapped-ram", NULL);
    put_zeros_to(&m, m.bytes->len + MIB / 2);
    maker_ram(&m);
    maker_block(&m, "pc.ram", 2, 3);
    maker_end(&m);
    snapshot = maker_open_ok(&m);
    g_assert_cmpuint(snapshot->data_bytes, ==, 2 * PAGE);
}

static void test_rounds_are_passed_over(void)
{
    /* The many rounds of a save are skipped, with commands and flushes. */
    Maker m = maker_begin("mapped-ram", NULL);
    g_autoptr(Snapshot) snapshot = NULL;
    uint32_t i;

    maker_ram(&m);
    maker_block(&m, "pc.ram", 2, 3);
    put_be(&m, 8, 0x200);
    maker_round_end(&m);
    for (i = 0; i < 1000; i++) {
        put_be(&m, 1, 2);
        put_be(&m, 4, 2);
        maker_round_end(&m);
        put(&m, "\x08\0\x0b\0\1x", 6);
        put_be(&m, 1, 2);
        put_be(&m, 4, 2);
        put_be(&m, 8, 0x10); /* without a footer */
    }
    put_be(&m, 1, 3);
    put_be(&m, 4, 2);
    put_be(&m, 8, 0x10);
    snapshot = maker_open_ok(&m);
    g_assert_cmpuint(snapshot->block_count, ==, 1);
}

static void test_unknown_sections_end_the_search(void)
{
    /* A device's section ends the check, because its length is unknown. */
    Maker m = maker_begin("mapped-ram", NULL);
    g_autoptr(Snapshot) snapshot = NULL;

    maker_ram(&m);
    maker_block(&m, "pc.ram", 2, 3);
    maker_round_end(&m);
    put_be(&m, 1, 1);
    put_be(&m, 4, 3);
    put_text(&m, "dirty-bitmap");
    snapshot = maker_open_ok(&m);
    g_assert_cmpuint(snapshot->block_count, ==, 1);
}

/* ---- damage ---- */

/* What a device's section is like, with the state in it. */
static void maker_state(Maker *m, const char *name, const char *state)
{
    char bytes[100] = "";

    strcpy(bytes, state);
    put_be(m, 1, 4);
    put_be(m, 4, 0);
    put_text(m, name);
    put_be(m, 4, 0);
    put_be(m, 4, 1);
    put_be(m, 4, strlen(state) + 1);
    put(m, bytes, sizeof(bytes));
}

static void test_machine_and_its_state_are_told(void)
{
    /* The machine's name and its state when saved are read. */
    static const char *const names[] = { "running", "paused", "postmigrate" };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(names); i++) {
        Maker m = maker_usual();
        g_autoptr(Snapshot) snapshot = NULL;
        g_autofree char *state = NULL;

        maker_state(&m, "timer", "running-not");
        maker_state(&m, "globalstate", names[i]);
        snapshot = maker_open_ok(&m);
        state = snapshot_run_state(snapshot);
        g_assert_cmpstr(snapshot->machine, ==, "pc");
        g_assert_cmpstr(state, ==, names[i]);
    }
}

static void test_machine_that_is_not_told_is_none(void)
{
    /* Without devices, with a cut footer or rubbish, there is no machine. */
    static const uint8_t rubbish[] = { 0xff, 0x1b, '[', '1', 'm' };
    uint32_t cut;

    for (cut = 0; cut < 7; cut++) {
        Maker m = maker_begin(NULL, NULL);
        g_autoptr(Snapshot) snapshot = NULL;
        g_autofree char *state = NULL;

        maker_ram(&m);
        maker_block(&m, "pc.ram", 3, 0x5);
        maker_end(&m);
        if (cut == 5) {
            maker_state(&m, "globalstate", "");
        } else if (cut == 6) {
            maker_state(&m, "globalstate", "run");
            memcpy(m.bytes->data + m.bytes->len - 100, rubbish,
                   sizeof(rubbish));
        } else {
            g_byte_array_set_size(m.bytes, m.bytes->len - cut);
        }
        snapshot = maker_open_ok(&m);
        state = snapshot_run_state(snapshot);
        g_assert_cmpstr(snapshot->machine, ==, "");
        g_assert_null(state);
    }
}

static void test_other_files_are_refused(void)
{
    /* A file that is no snapshot is told from a damaged one. */
    Maker m = { .bytes = g_byte_array_new() };

    maker_assert_refused(&m, "FILE is not a migration stream: ", "0 bytes");
    m.bytes = g_byte_array_new();
    put(&m, "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0", 16);
    maker_assert_refused(&m, FOREIGN, "0x7f454c46");
    m.bytes = g_byte_array_new();
    put(&m, "LibvirtQemudSave\2\0\0\0", 20);
    maker_assert_refused(&m, FOREIGN, "libvirt");
    m.bytes = g_byte_array_new();
    put(&m, "QEVM\0\0\0\2\0\0\0\0", 12);
    maker_assert_refused(&m, FOREIGN, "version 2 where 3 is known");
    m = maker_begin("x-ignore-shared", NULL);
    maker_ram(&m);
    maker_assert_refused(&m, FOREIGN, "capability mapped-ram on");
    m = maker_begin("", NULL);
    maker_ram(&m);
    maker_block_name(&m, "pc.ram", 2);
    maker_block_name(&m, "vga.vram", 1);
    put_zeros_to(&m, m.bytes->len + 100);
    maker_assert_refused(&m, FOREIGN, "no header");
}

static void test_pipes_and_folders_are_refused(void)
{
    /* Pipes and folders are refused, without a wait for the pipe's writer. */
    g_autofree char *folder = g_dir_make_tmp(NULL, NULL);
    g_autofree char *pipe_path = g_build_filename(folder, "pipe", NULL);
    g_autofree char *no_path = g_build_filename(folder, "missing", NULL);
    const char *const paths[] = { folder, pipe_path, "/dev/null" };
    GError *error = NULL;
    uint32_t i;

    g_assert_cmpint(mkfifo(pipe_path, 0600), ==, 0);
    for (i = 0; i < G_N_ELEMENTS(paths); i++) {
        g_assert_null(snapshot_open(paths[i], &error));
        g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
        g_assert_nonnull(strstr(error->message, "neither a file nor"));
        g_clear_error(&error);
    }
    g_assert_null(snapshot_open(no_path, &error));
    g_assert_nonnull(strstr(error->message, "cannot open"));
    g_clear_error(&error);
    g_assert_cmpint(unlink(pipe_path), ==, 0);
    g_assert_cmpint(rmdir(folder), ==, 0);
}

static void test_damaged_configuration_is_refused(void)
{
    /* Lengths and counts of the configuration are checked before use. */
    Maker m = maker_begin("mapped-ram", NULL);

    poke(&m, 9, 4, 256);
    maker_assert_refused(&m, DAMAGED, "machine at offset 9 has 256 bytes");
    m = maker_begin("mapped-ram", NULL);
    poke(&m, 47, 4, 257);
    maker_assert_refused(&m, DAMAGED, "lists 257 capabilities");
    m = maker_begin("mapped-ram", NULL);
    poke(&m, 47, 4, 2);
    maker_assert_refused(&m, TRUNCATED, "the capabilities");
}

static void test_damaged_lengths_are_refused(void)
{
    /* Lengths of blocks must fit each other, their sum and the limits. */
    Places at = usual_places();

    assert_poked(at.len_off, 8, 0, DAMAGED, "whole pages");
    assert_poked(at.len_off, 8, PAGE + 1, DAMAGED, "whole pages");
    assert_poked(at.len_off, 8, 11 * PAGE, DAMAGED, "all blocks have 53248");
    assert_poked(at.len_off, 8, -(uint64_t)PAGE, DAMAGED, "all blocks have");
    assert_poked(at.total_off, 8, 4, UNUSABLE, "no RAM");
    assert_poked(at.total_off, 8, (SNAPSHOT_LEN_BYTES_MAX + PAGE) | 4, DAMAGED,
                 "more than the 70368744177664");
    assert_poked(at.total_off, 8, 3 * PAGE | 4, DAMAGED, "end mark");
    assert_poked(at.total_off, 8, 14 * PAGE | 4, DAMAGED, "is empty");
    assert_poked(at.total_off, 8, 13 * PAGE | 8, TRUNCATED,
                 "the head of the RAM section");
}

static void test_damaged_names_are_refused(void)
{
    /* Names of blocks that are empty, cut or used before are refused. */
    Places at = usual_places();
    Maker m = maker_begin("mapped-ram", NULL);

    assert_poked(at.name_off, 1, 0, DAMAGED, "is empty");
    assert_poked(at.name_off + 2, 1, 0, DAMAGED, "zero byte");
    maker_ram(&m);
    maker_block(&m, "a\nb", 1, 0);
    maker_block(&m, "c", 1, 0);
    maker_block(&m, "a\nb", 1, 0);
    maker_end(&m);
    maker_assert_refused(&m, DAMAGED, "second RAM block 'a\\nb'");
    m = maker_begin("mapped-ram", NULL);
    maker_ram(&m);
    maker_block(&m, "a\nb", 1, 0);
    poke(&m, m.at.len_off, 8, 1);
    maker_assert_refused(&m, DAMAGED, "the RAM block 'a\\nb'");
}

static void test_damaged_headers_are_refused(void)
{
    /* Headers with a wrong version, page size or place are refused. */
    Places at = usual_places();
    uint64_t off = at.header_off;
    g_autofree char *named = g_strdup_printf(
        "the RAM block 'vga' at offset %" PRIu64 " has version 2", off);

    assert_poked(off, 4, 2, UNUSABLE, named);
    assert_poked(off + 4, 8, 65536, UNUSABLE, "pages of 65536 bytes");
    assert_poked(off + 4, 8, 0, UNUSABLE, "pages of 0 bytes");
    assert_poked(off + 12, 8, at.bitmap_off - 1, DAMAGED, "before the end");
    assert_poked(off + 12, 8, 0, DAMAGED, "before the end of its header");
    assert_poked(off + 12, 8, -8ull, TRUNCATED, "the bitmap");
    assert_poked(off + 20, 8, at.pages_off + 1, DAMAGED, "not a multiple");
    assert_poked(off + 20, 8, at.pages_off - PAGE, DAMAGED, "of its bitmap");
    assert_poked(off + 20, 8, at.pages_off + 10 * PAGE, TRUNCATED,
                 "the pages of the RAM block 'vga'");
    assert_poked(off + 20, 8, -(uint64_t)PAGE, TRUNCATED, "the pages");
}

static void test_blocks_that_are_left_out(void)
{
    /*
     * A block that QEMU 11 left out has no offsets, and the next one follows at
     * once.
     */
    Maker m = maker_begin("x-ignore-shared", "mapped-ram");
    g_autoptr(Snapshot) snapshot = NULL;

    maker_ram(&m);
    maker_block_name(&m, "pc.ram", 3);
    put_be(&m, 8, 0);
    put_be(&m, 4, 1);
    put_be(&m, 8, PAGE);
    put_be(&m, 8, 0);
    put_be(&m, 8, 0);
    maker_block_name(&m, "vga", 10);
    put_be(&m, 8, 0);
    maker_block_rest(&m, 10, 0x3ff);
    maker_end(&m);
    snapshot = maker_open_ok(&m);
    g_assert_cmpuint(snapshot->block_count, ==, 2);
    g_assert_true(snapshot->blocks[0].is_left_out);
    g_assert_cmpuint(snapshot->blocks[0].data_page_count, ==, 0);
    g_assert_false(snapshot->blocks[1].is_left_out);
    g_assert_cmpuint(snapshot->data_bytes, ==, 10 * PAGE);
}

static void test_damaged_headers_are_found_after_optional_fields(void)
{
    /* The error names the place where the header should have been. */
    Maker m = maker_begin("x-ignore-shared", "mapped-ram");
    g_autofree char *where = NULL;

    maker_ram(&m);
    maker_block_name(&m, "pc.ram", 1);
    put_be(&m, 8, 0);
    maker_block_rest(&m, 1, 1);
    maker_end(&m);
    poke(&m, m.at.header_off, 4, 9);
    where = g_strdup_printf("at offset %" PRIu64 " has version 9",
                            m.at.header_off);
    maker_assert_refused(&m, UNUSABLE, where);
}

static void test_damaged_ends_are_refused(void)
{
    /* A missing end mark, and blocks that are listed again, are refused. */
    Places at = usual_places();

    assert_poked(at.end_off, 8, 0, DAMAGED, "its end mark");
    assert_poked(at.end_off, 8, 13 * PAGE | 4, DAMAGED, "second list");
    assert_poked(at.last_round_off + 5, 8, 13 * PAGE | 4, DAMAGED,
                 "second list");
    assert_poked(at.last_round_off, 1, 0, "FILE was not saved to its end", "");
    assert_poked(at.last_round_off, 1, 9, "FILE was not saved to its end", "");
    assert_poked(at.last_round_off, 1, 2, "FILE was not saved to its end", "");
}

static void test_every_truncation_is_refused(void)
{
    /* A file cut anywhere before the last round is refused. */
    uint64_t end = usual_places().last_round_off + 13;
    static const uint8_t zeros[64];
    Maker whole = maker_usual();
    uint64_t len = 0;

    while (len < end) {
        Maker m = { .bytes = g_byte_array_new() };
        bool is_dull = len + 64 <= end &&
                       !memcmp(whole.bytes->data + len, zeros, 64);

        put(&m, whole.bytes->data, len);
        maker_assert_refused(&m, "FILE ", len < 8 ? "bytes" : " offset ");
        len += is_dull ? 61 : 1;
    }
    g_byte_array_unref(whole.bytes);
}

static void test_too_many_blocks_are_refused(void)
{
    /* As many blocks as the limit are accepted, one more is not. */
    uint32_t extra, i;

    for (extra = 0; extra < 2; extra++) {
        Maker m = maker_begin("mapped-ram", NULL);
        Snapshot *snapshot;

        maker_ram(&m);
        for (i = 0; i < SNAPSHOT_BLOCK_COUNT_MAX + extra; i++) {
            char name[16];

            g_snprintf(name, sizeof(name), "b%u", i);
            maker_block(&m, name, 1, i % 2);
        }
        maker_end(&m);
        if (extra) {
            maker_assert_refused(&m, DAMAGED, "4096 are allowed");
        } else {
            snapshot = maker_open_ok(&m);
            g_assert_cmpuint(snapshot->block_count, ==,
                             SNAPSHOT_BLOCK_COUNT_MAX);
            g_assert_cmpuint(snapshot->guest_bytes, ==, 8192 * MIB);
            snapshot_free(snapshot);
        }
    }
}

/* ---- generating ---- */

typedef struct Progress {
    uint64_t call_count;
    uint64_t done_bytes;
    uint64_t total_bytes;
    volatile int is_stopped;
    bool is_stopping;
} Progress;

static void note_progress(uint64_t done_bytes, uint64_t total_bytes,
                          void *opaque)
{
    Progress *progress = opaque;

    g_assert_cmpuint(done_bytes, >=, progress->done_bytes);
    g_assert_cmpuint(done_bytes, <=, total_bytes);
    progress->call_count++;
    progress->done_bytes = done_bytes;
    progress->total_bytes = total_bytes;
    progress->is_stopped = progress->is_stopping && done_bytes > 0;
}

static int generate(uint64_t page_count, double zero_share,
                    uint64_t run_page_count, uint64_t seed)
{
    GenerateConfig config = {
        .len_bytes = page_count * PAGE,
        .zero_share = zero_share,
        .run_bytes = run_page_count * PAGE,
        .seed = seed,
    };
    GError *error = NULL;
    int fd = memory_file();

    generate_snapshot(fd, &config, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    return fd;
}

static Snapshot *open_generated(int fd)
{
    GError *error = NULL;
    Snapshot *snapshot = snapshot_open_fd(fd, "/nowhere", "FILE", &error);

    g_assert_no_error(error);
    g_assert_nonnull(snapshot);
    return snapshot;
}

static uint8_t *map_file(int fd, uint64_t *ret_bytes)
{
    off_t end = lseek(fd, 0, SEEK_END);
    void *bytes = mmap(NULL, end, PROT_READ, MAP_SHARED, fd, 0);

    g_assert_true(bytes != MAP_FAILED);
    *ret_bytes = end;
    return bytes;
}

static void test_generated_files_can_be_read(void)
{
    /*
     * A generated file is one block of the length asked for, aligned as by
     * QEMU.
     */
    static const uint64_t page_counts[] = { 1, 2, 63, 64, 65, 512, 5000 };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(page_counts); i++) {
        g_autoptr(Snapshot) snapshot =
            open_generated(generate(page_counts[i], 0.4, 8, i));

        g_assert_cmpuint(snapshot->block_count, ==, 1);
        g_assert_cmpstr(snapshot->blocks[0].name, ==, "pc.ram");
        g_assert_cmpuint(snapshot->len_bytes, ==, page_counts[i] * PAGE);
        g_assert_cmpuint(snapshot->blocks[0].file_off % MIB, ==, 0);
    }
}

static void test_zero_share_is_met(void)
{
    /* The share of zero pages is met to the page, for any share and runs. */
    static const double shares[] = { 0, 0.01, 0.3, 0.5, 0.9, 0.999, 1 };
    static const uint64_t page_counts[] = { 1, 3, 100, 4096 };
    static const uint64_t runs[] = { 0, 1, 16, 100000 };
    uint32_t i, k, n;

    for (i = 0; i < G_N_ELEMENTS(shares); i++) {
        for (k = 0; k < G_N_ELEMENTS(page_counts); k++) {
            for (n = 0; n < G_N_ELEMENTS(runs); n++) {
                g_autoptr(Snapshot) snapshot = open_generated(
                    generate(page_counts[k], shares[i], runs[n], i));
                double want = page_counts[k] * (1 - shares[i]);
                double have = snapshot->data_bytes / PAGE;

                g_assert_cmpfloat(fabs(have - want), <=, 0.5001);
            }
        }
    }
}

static void test_runs_have_the_mean_asked_for(void)
{
    /*
     * The number of runs is right within 1 %; their lengths are distributed
     * exponentially.
     */
    g_autoptr(Snapshot) snapshot = open_generated(generate(40000, 0.5, 16, 3));
    uint64_t count, file_off;
    uint64_t run_count = 0;
    uint64_t short_count = 0;
    uint64_t long_count = 0;
    uint64_t page;

    for (page = 0; page < 40000; page += count) {
        if (snapshot_run(snapshot, snapshot->blocks, page, &count,
                         &file_off)) {
            run_count++;
            short_count += count <= 8;
            long_count += count > 32;
        }
    }
    g_assert_cmpfloat(fabs(run_count / 1250.0 - 1), <=, 0.01);
    /* 1 - exp(-1/2) and exp(-2) */
    g_assert_cmpfloat(fabs(short_count / 1250.0 - 0.40), <=, 0.05);
    g_assert_cmpfloat(fabs(long_count / 1250.0 - 0.13), <=, 0.04);
}

static void test_pages_have_data_where_bits_are_set(void)
{
    /* A page has data exactly if its bit is set; no two are the same. */
    g_autoptr(GHashTable) seen = g_hash_table_new(g_int64_hash, g_int64_equal);
    int fd = generate(2000, 0.5, 4, 9);
    uint64_t file_bytes;
    uint8_t *bytes = map_file(fd, &file_bytes);
    g_autoptr(Snapshot) snapshot = open_generated(fd);
    uint64_t page;

    for (page = 0; page < 2000; page++) {
        uint8_t *at = bytes + snapshot->blocks[0].file_off + page * PAGE;
        bool is_zero = at[0] == 0 && !memcmp(at, at + 1, PAGE - 1);

        g_assert_true(is_zero == !snapshot_has_page(snapshot, page));
        g_assert_true(is_zero || g_hash_table_add(seen, at));
    }
    munmap(bytes, file_bytes);
}

static void test_zero_pages_take_no_room(void)
{
    /* Zero pages are holes in the file. */
    g_autoptr(Snapshot) snapshot =
        open_generated(generate(256 * HUGE_PAGES, 1, 4, 9));
    struct stat st;

    g_assert_cmpint(fstat(snapshot->fd, &st), ==, 0);
    g_assert_cmpuint(st.st_size, >, 512 * MIB);
    g_assert_cmpuint(st.st_blocks * 512, <, MIB);
    g_assert_cmpuint(snapshot->data_bytes, ==, 0);
}

/* Whether the files have the same bytes; closes them. */
static bool is_same_file(int fd, int fd2)
{
    uint64_t byte_count, byte_count2;
    uint8_t *bytes = map_file(fd, &byte_count);
    uint8_t *bytes2 = map_file(fd2, &byte_count2);
    bool is_same = byte_count == byte_count2 &&
                   !memcmp(bytes, bytes2, byte_count);

    munmap(bytes, byte_count);
    munmap(bytes2, byte_count2);
    close(fd);
    close(fd2);
    return is_same;
}

static void test_same_config_makes_the_same_bytes(void)
{
    /* The same configuration makes the same bytes. */
    g_assert_true(is_same_file(generate(3000, 0.4, 8, 1),
                               generate(3000, 0.4, 8, 1)));
    g_assert_true(is_same_file(generate(100, 0, 8, 1),
                               generate(100, 0, 8, 1)));
    g_assert_true(is_same_file(generate(100, 1, 8, 1),
                               generate(100, 1, 8, 2)));
}

static void test_seeds_change_places_and_bytes(void)
{
    /* Another seed changes which pages have data, and their data. */
    g_autoptr(Snapshot) one = open_generated(generate(512, 0.4, 8, 1));
    g_autoptr(Snapshot) two = open_generated(generate(512, 0.4, 8, 2));

    g_assert_cmpint(memcmp(one->data_bits, two->data_bits, 64), !=, 0);
    g_assert_false(is_same_file(generate(1, 0, 8, 1), generate(1, 0, 8, 2)));
}

/* @word: in the error. */
static void assert_not_generated(GenerateConfig config, Progress *progress,
                                 int code, const char *word)
{
    g_autoptr(GError) error = NULL;
    int fd = memory_file();

    if (!strcmp(word, "not empty")) {
        g_assert_cmpint(write(fd, "x", 1), ==, 1);
    }
    g_assert_false(generate_snapshot(fd, &config,
                                     progress ? note_progress : NULL, progress,
                                     progress ? &progress->is_stopped : NULL,
                                     &error));
    g_assert_error(error, BENCH_ERROR, code);
    if (!strstr(error->message, word)) {
        g_test_message("'%s' should have '%s'", error->message, word);
        g_test_fail();
    }
    g_assert_null(snapshot_open_fd(fd, "/nowhere", "FILE", NULL));
}

static void test_impossible_configs_are_refused(void)
{
    /* An impossible configuration is refused by the name of its knob. */
    GenerateConfig config = { .len_bytes = MIB, .zero_share = 0.5 };

    assert_not_generated(config, NULL, BENCH_ERROR_FAILED, "not empty");
    config.zero_share = -0.1;
    assert_not_generated(config, NULL, BENCH_ERROR_USAGE, "zero pages");
    config.zero_share = NAN;
    assert_not_generated(config, NULL, BENCH_ERROR_USAGE, "zero pages");
    config.zero_share = 1;
    config.len_bytes = 0;
    assert_not_generated(config, NULL, BENCH_ERROR_USAGE, "bytes of RAM");
    config.len_bytes = PAGE + 1;
    assert_not_generated(config, NULL, BENCH_ERROR_USAGE, "bytes of RAM");
    config.len_bytes = SNAPSHOT_LEN_BYTES_MAX + PAGE;
    assert_not_generated(config, NULL, BENCH_ERROR_USAGE, "bytes of RAM");
}

static void test_no_room_is_said_before_writing(void)
{
    /* Too little room is an error that names folder, need and free space. */
    GenerateConfig config = { .len_bytes = SNAPSHOT_LEN_BYTES_MAX };
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    g_autofree char *words = NULL;
    struct stat st;
    int fd = g_file_open_tmp(NULL, &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(unlink(path), ==, 0);
    words = g_strdup_printf("needs 64.0 TiB in %s, ", g_get_tmp_dir());
    g_assert_false(generate_snapshot(fd, &config, NULL, NULL, NULL, &error));
    g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, words));
    g_assert_nonnull(strstr(error->message, "are free: choose another folder"));
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 0);
    close(fd);
}

static void test_progress_is_told(void)
{
    /* Progress is told about every 64 MiB of data, and at the end. */
    GenerateConfig config = { .len_bytes = 160 * MIB, .zero_share = 0.1,
                              .run_bytes = MIB };
    GError *error = NULL;
    Progress progress = { 0 };
    int fd = memory_file();

    g_assert_true(generate_snapshot(fd, &config, note_progress, &progress,
                                    &progress.is_stopped, &error));
    g_assert_cmpuint(progress.call_count, >=, 3);
    g_assert_cmpuint(progress.call_count, <=, 5);
    g_assert_cmpuint(progress.total_bytes, ==, 144 * MIB);
    g_assert_cmpuint(progress.done_bytes, ==, 144 * MIB);
    close(fd);
}

static void test_stopping_leaves_no_snapshot(void)
{
    /* A stop is noticed in the middle, and no snapshot is left. */
    GenerateConfig config = { .len_bytes = 160 * MIB, .run_bytes = MIB };
    Progress progress = { .is_stopping = true };

    assert_not_generated(config, &progress, BENCH_ERROR_FAILED, "stopped");
    g_assert_cmpuint(progress.done_bytes, >, 0);
    g_assert_cmpuint(progress.done_bytes, <, progress.total_bytes);
}

/* ---- inspecting ---- */

static char *inspect(Snapshot *snapshot)
{
    char *text = NULL;
    size_t byte_count = 0;
    FILE *out = open_memstream(&text, &byte_count);

    inspect_print(snapshot, out);
    g_assert_cmpint(fclose(out), ==, 0);
    return text;
}

static void test_inspect_counts_runs(void)
{
    /* inspect prints runs by their length, blocks and sums in a table. */
    Maker m = maker_usual();
    g_autoptr(Snapshot) snapshot = maker_open_ok(&m);
    g_autofree char *text = inspect(snapshot);

    g_assert_nonnull(strstr(text, "FILE: 52.0 KiB of RAM, 32.0 KiB of them "
                            "data"));
    g_assert_nonnull(strstr(text, "40.0 KiB   24.0 KiB    40.0 %"));
    g_assert_nonnull(strstr(text, "3 runs of pages with data, mean 8.0 KiB\n"));
    g_assert_nonnull(strstr(text, "     4.0 KiB            2     8.0 KiB ##"));
    g_assert_nonnull(strstr(text, "    16.0 KiB            1    24.0 KiB ##"));
    g_assert_nonnull(strstr(text, "2 runs of pages without data (zero)"));
}

static void test_inspect_escapes_names(void)
{
    /* inspect prints control characters of names as text. */
    Maker m = maker_begin("mapped-ram", NULL);
    g_autoptr(Snapshot) snapshot = NULL;
    g_autofree char *text = NULL;

    maker_ram(&m);
    maker_block(&m, "\033[2J\n%n\377", 1, 0);
    maker_end(&m);
    snapshot = maker_open_ok(&m);
    text = inspect(snapshot);
    g_assert_null(strchr(text, '\033'));
    g_assert_nonnull(strstr(text, "\\033[2J\\n%n\\377"));
    g_assert_nonnull(strstr(text, "no pages with data"));
}

static void add(const char *path, void (*test)(void))
{
    g_autofree char *full = g_strdup_printf("/bench/%s", path);

    g_test_add_func(full, test);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("snapshot/blocks-are-as-in-the-file", test_blocks_are_as_in_the_file);
    add("snapshot/blocks-that-are-left-out", test_blocks_that_are_left_out);
    add("snapshot/runs-alternate-and-end-with-their-block",
        test_runs_alternate_and_end_with_their_block);
    add("snapshot/zero-runs-end-with-their-block",
        test_zero_runs_end_with_their_block);
    add("snapshot/pages-between-blocks-are-nobodys",
        test_pages_between_blocks_are_nobodys);
    add("snapshot/bits-past-the-end-are-ignored",
        test_bits_past_the_end_are_ignored);
    add("snapshot/optional-fields-are-found", test_optional_fields_are_found);
    add("snapshot/what-comes-before-ram-is-passed-over",
        test_what_comes_before_ram_is_passed_over);
    add("snapshot/ram-is-found-wherever-it-begins",
        test_ram_is_found_wherever_it_begins);
    add("snapshot/ram-is-not-searched-without-end",
        test_ram_is_not_searched_without_end);
    add("snapshot/rounds-are-passed-over", test_rounds_are_passed_over);
    add("snapshot/unknown-sections-end-the-search",
        test_unknown_sections_end_the_search);
    add("snapshot/machine-and-its-state-are-told",
        test_machine_and_its_state_are_told);
    add("snapshot/machine-that-is-not-told-is-none",
        test_machine_that_is_not_told_is_none);
    add("snapshot/other-files-are-refused", test_other_files_are_refused);
    add("snapshot/pipes-and-folders-are-refused",
        test_pipes_and_folders_are_refused);
    add("snapshot/damaged-configuration-is-refused",
        test_damaged_configuration_is_refused);
    add("snapshot/damaged-lengths-are-refused",
        test_damaged_lengths_are_refused);
    add("snapshot/damaged-names-are-refused", test_damaged_names_are_refused);
    add("snapshot/damaged-headers-are-refused",
        test_damaged_headers_are_refused);
    add("snapshot/damaged-headers-are-found-after-optional-fields",
        test_damaged_headers_are_found_after_optional_fields);
    add("snapshot/damaged-ends-are-refused", test_damaged_ends_are_refused);
    add("snapshot/every-truncation-is-refused",
        test_every_truncation_is_refused);
    add("snapshot/too-many-blocks-are-refused",
        test_too_many_blocks_are_refused);
    add("generate/files-can-be-read", test_generated_files_can_be_read);
    add("generate/zero-share-is-met", test_zero_share_is_met);
    add("generate/runs-have-the-mean-asked-for",
        test_runs_have_the_mean_asked_for);
    add("generate/pages-have-data-where-bits-are-set",
        test_pages_have_data_where_bits_are_set);
    add("generate/zero-pages-take-no-room", test_zero_pages_take_no_room);
    add("generate/same-config-makes-the-same-bytes",
        test_same_config_makes_the_same_bytes);
    add("generate/seeds-change-places-and-bytes",
        test_seeds_change_places_and_bytes);
    add("generate/impossible-configs-are-refused",
        test_impossible_configs_are_refused);
    add("generate/no-room-is-said-before-writing",
        test_no_room_is_said_before_writing);
    add("generate/progress-is-told", test_progress_is_told);
    add("generate/stopping-leaves-no-snapshot",
        test_stopping_leaves_no_snapshot);
    add("inspect/counts-runs", test_inspect_counts_runs);
    add("inspect/escapes-names", test_inspect_escapes_names);
    return g_test_run();
}
