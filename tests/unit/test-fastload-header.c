/*
 * Unit tests of the header check: whatever the numbers are, none is followed
 * out of the file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/fastload_header.h"
#include "fastload-fixture.h"

#define PAGE FIXTURE_PAGE_BYTES
#define FILE_BYTES (100ull << 20)
#define BLOCK_BYTES (64ull << 20)
#define BITMAP_BYTES (BLOCK_BYTES / PAGE / 8)
#define ROUND_COUNT 2000000

static const FastloadHeader header_sound = {
    .version = FASTLOAD_HEADER_VERSION,
    .page_bytes = PAGE,
    .bitmap_off = 1000,
    .pages_off = 1 << 20,
};

static FastloadHeaderDefect header_check(const FastloadHeader *header)
{
    return fastload_header_check(header, BLOCK_BYTES, PAGE, 1000, FILE_BYTES);
}

static void test_numbers_are_big_endian(void)
{
    /* The numbers of a header are big-endian. */
    static const uint8_t bytes[FASTLOAD_HEADER_BYTES] = {
        0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x10, 0,
        1, 2, 3, 4, 5, 6, 7, 8, 0x80, 0, 0, 0, 0, 0, 0, 0xff,
    };
    FastloadHeader header;

    fastload_header_parse(bytes, &header);
    g_assert_cmpuint(header.version, ==, 1);
    g_assert_cmpuint(header.page_bytes, ==, 4096);
    g_assert_cmpuint(header.bitmap_off, ==, 0x0102030405060708);
    g_assert_cmpuint(header.pages_off, ==, 0x80000000000000ff);
}

static void test_bitmaps_are_whole_words(void)
{
    /* A bitmap is made of whole 64-bit words. */
    g_assert_cmpuint(fastload_header_bitmap_bytes(0, PAGE), ==, 0);
    g_assert_cmpuint(fastload_header_bitmap_bytes(PAGE, PAGE), ==, 8);
    g_assert_cmpuint(fastload_header_bitmap_bytes(64 * PAGE, PAGE), ==, 8);
    g_assert_cmpuint(fastload_header_bitmap_bytes(65 * PAGE, PAGE), ==, 16);
    g_assert_cmpuint(fastload_header_bitmap_bytes(UINT64_MAX, PAGE), ==,
                     1ull << 49);
}

static void test_pages_are_where_qemu_puts_them(void)
{
    /* Pages begin at the first MiB behind name, length, header and bitmap. */
    const uint64_t mib = 1 << 20;
    const uint64_t head_bytes = 1 + 6 + 8 + FASTLOAD_HEADER_BYTES;

    g_assert_cmpuint(fastload_header_pages_off(80, 6, PAGE, PAGE), ==, mib);
    g_assert_cmpuint(fastload_header_pages_off(mib - head_bytes - 8, 6, PAGE,
                                               PAGE), ==, mib);
    g_assert_cmpuint(fastload_header_pages_off(mib - head_bytes - 7, 6, PAGE,
                                               PAGE), ==, 2 * mib);
    g_assert_cmpuint(fastload_header_pages_off(7 * mib, 6, 64ull << 30, PAGE),
                     ==, 10 * mib);
}

static void test_each_defect_is_found(void)
{
    /* Each wrong number of a header is found, by its name. */
    FastloadHeader header = header_sound;

    g_assert_cmpint(header_check(&header), ==, FASTLOAD_HEADER_SOUND);
    header.version = 2;
    g_assert_cmpint(header_check(&header), ==, FASTLOAD_HEADER_BAD_VERSION);
    header = header_sound;
    header.page_bytes = 0;
    g_assert_cmpint(header_check(&header), ==,
                    FASTLOAD_HEADER_BAD_PAGE_BYTES);
    header = header_sound;
    header.bitmap_off = 999;
    g_assert_cmpint(header_check(&header), ==,
                    FASTLOAD_HEADER_BITMAP_TOO_EARLY);
    header.bitmap_off = FILE_BYTES - BITMAP_BYTES + 1;
    g_assert_cmpint(header_check(&header), ==, FASTLOAD_HEADER_BITMAP_CUT);
    header.bitmap_off = UINT64_MAX;
    g_assert_cmpint(header_check(&header), ==, FASTLOAD_HEADER_BITMAP_CUT);
    header = header_sound;
    header.bitmap_off = header.pages_off - BITMAP_BYTES + 1;
    g_assert_cmpint(header_check(&header), ==,
                    FASTLOAD_HEADER_PAGES_TOO_EARLY);
    header = header_sound;
    header.pages_off += 1;
    g_assert_cmpint(header_check(&header), ==,
                    FASTLOAD_HEADER_PAGES_UNALIGNED);
    header.pages_off = FILE_BYTES - BLOCK_BYTES + PAGE;
    g_assert_cmpint(header_check(&header), ==, FASTLOAD_HEADER_PAGES_CUT);
    header.pages_off = UINT64_MAX - PAGE + 1;
    g_assert_cmpint(header_check(&header), ==, FASTLOAD_HEADER_PAGES_CUT);
    header.pages_off = FILE_BYTES - BLOCK_BYTES;
    g_assert_cmpint(header_check(&header), ==, FASTLOAD_HEADER_SOUND);
}

/* Often near 0, near the end, near what overflows. */
static uint64_t header_any_number(GRand *rand)
{
    uint64_t near = (uint64_t)g_rand_int_range(rand, -2 * PAGE, 2 * PAGE);

    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        return near;
    case 1:
        return FILE_BYTES + near;
    case 2:
        return g_rand_int_range(rand, 0, FILE_BYTES / PAGE) * (uint64_t)PAGE;
    default:
        return (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
    }
}

static void test_what_is_sound_stays_inside(void)
{
    /* Bitmap and pages of a sound header lie inside the file. */
    g_autoptr(GRand) rand = g_rand_new_with_seed(g_test_rand_int());
    uint32_t i, sound_count = 0;

    for (i = 0; i < ROUND_COUNT; i++) {
        FastloadHeader header = header_sound;
        uint64_t len_bytes = header_any_number(rand);
        uint64_t after_off = g_rand_int_range(rand, 0, 1 << 20);
        uint64_t bitmap_bytes = fastload_header_bitmap_bytes(len_bytes, PAGE);

        header.bitmap_off = header_any_number(rand);
        header.pages_off = header_any_number(rand);
        if (fastload_header_check(&header, len_bytes, PAGE, after_off,
                                  FILE_BYTES) != FASTLOAD_HEADER_SOUND) {
            continue;
        }
        sound_count++;
        g_assert_cmpuint(header.bitmap_off, >=, after_off);
        g_assert_cmpuint(bitmap_bytes, <=, FILE_BYTES);
        g_assert_cmpuint(header.bitmap_off, <=, FILE_BYTES - bitmap_bytes);
        g_assert_cmpuint(header.pages_off, >=,
                         header.bitmap_off + bitmap_bytes);
        g_assert_cmpuint(len_bytes, <=, FILE_BYTES);
        g_assert_cmpuint(header.pages_off, <=, FILE_BYTES - len_bytes);
    }
    g_assert_cmpuint(sound_count, >, ROUND_COUNT / 1000);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fastload/header/numbers-are-big-endian",
                    test_numbers_are_big_endian);
    g_test_add_func("/fastload/header/bitmaps-are-whole-words",
                    test_bitmaps_are_whole_words);
    g_test_add_func("/fastload/header/pages-are-where-qemu-puts-them",
                    test_pages_are_where_qemu_puts_them);
    g_test_add_func("/fastload/header/each-defect-is-found",
                    test_each_defect_is_found);
    g_test_add_func("/fastload/header/what-is-sound-stays-inside",
                    test_what_is_sound_stays_inside);
    return g_test_run();
}
